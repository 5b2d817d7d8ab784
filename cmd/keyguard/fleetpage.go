package main

import (
	_ "embed"
	"strings"

	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"github.com/footprintai/containarium-keyguard/agent/fleet"
)

var (
	//go:embed fleet.css
	fleetCSS string
	//go:embed fleet.js
	fleetJS string
)

// fleetPage is one page to filter and to print, the worst host first.
func fleetPage(r fleet.Report, e fleet.Evidence, q fleet.Questions) ([]byte, error) {
	verdict := fleetLine(r)
	return htmlPage(verdict, "; script-src 'unsafe-inline'", fleetCSS,
		h.H1(g.Text(verdict)),
		h.P(h.Class("soft"), g.Textf("Found out %s by keyguard %s. What nobody told is unknown, never good.",
			q.Now.UTC().Format("2006-01-02 15:04 UTC"), version)),
		h.Div(h.Class("counts"), g.Map([]fleet.Is{fleet.Bad, fleet.Unknown, fleet.Good}, func(is fleet.Is) g.Node {
			return h.Label(h.Class(string(is)), h.Input(h.Type("checkbox"), h.Value(string(is)), h.Checked()),
				g.Text(count(int64(r.Counts[is]))+" "+string(is)))
		})),
		h.P(
			h.Input(h.Type("search"), h.ID("find"), h.Placeholder("a host, or words of an answer"), h.Aria("label", "filter the hosts")),
			g.Text(" "),
			h.Span(h.Class("soft"), h.ID("shown")),
		),
		h.Table(h.ID("hosts"),
			h.THead(h.Tr(heads("host"), heads(r.Columns...))),
			h.TBody(each(r.Rows, func(row fleet.Row) g.Node {
				return h.Tr(h.Data("is", string(row.Is)), h.Th(h.Class(string(row.Is)), g.Text(row.Host)), g.Map(row.Cells, answerHTML))
			})),
		),
		g.If(len(r.Strangers) > 0, strangersHTML(r.Strangers)),
		g.If(len(r.Stores) > 0, storesHTML(r.Stores, e.Stores)),
		h.Footer(g.Text("Stores were asked for metadata alone: no key was read, and what they say is not proven. Only a drill on the host proves a copy.")),
		h.Script(g.Raw(fleetJS)),
	)
}

func answerHTML(c fleet.Cell) g.Node {
	return h.Td(h.Class(string(c.Is)), h.B(g.Text(string(c.Is))), h.Span(g.Text(c.Why)))
}

func strangersHTML(strangers []fleet.Stranger) g.Node {
	return g.Group{
		h.H2(g.Text("In no inventory")),
		h.Table(
			h.THead(h.Tr(heads("host", "seen in"))),
			h.TBody(each(strangers, func(s fleet.Stranger) g.Node {
				return h.Tr(h.Th(g.Text(s.Host)), h.Td(g.Text(strings.Join(s.Where, ", "))))
			})),
		),
	}
}

// storesHTML are the answers that concern a store as a whole, one for each view.
func storesHTML(answers []fleet.Cell, views []fleet.View) g.Node {
	var rows g.Group
	for i, c := range answers {
		v := views[i]
		rows = append(rows, h.Tr(h.Th(g.Text(v.Name)), h.Td(g.Text(v.Place.Where)), h.Td(g.Text(v.Place.Domain)), answerHTML(c)))
	}
	return g.Group{h.H2(g.Text("Stores")), h.Table(h.THead(h.Tr(heads("store", "where", "lost with", "answer"))), h.TBody(rows))}
}
