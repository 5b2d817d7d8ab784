package main

import (
	_ "embed"
	"fmt"

	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"
)

//go:embed report.css
var reportCSS string

// marksSVG are the shapes that the timeline uses: passed, failed, inconclusive, and a gap.
const marksSVG = `<svg width="0" height="0" style="position:absolute;width:0;height:0" aria-hidden="true"><defs>
<circle id="p" r="4" class="g"/><path id="f" class="b" d="M-5-3-3-5 0-2 3-5 5-3 2 0 5 3 3 5 0 2-3 5-5 3-2 0Z"/><circle id="i" r="3.6" class="d"/>
<pattern id="gap" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="2" height="6" class="b" opacity=".55"/></pattern>
</defs></svg>
`

// html is the page of one host.
func (p page) html() ([]byte, error) {
	return htmlPage(p.Host+", "+p.Since+" to "+p.Until, "", reportCSS,
		g.Raw(marksSVG),
		h.Header(
			h.H1(g.Text("The master key of "+p.Host)),
			h.P(h.Class("soft"), g.Textf("%s to %s. %s Made %s by keyguard %s from this host's ledger. All times are %s.",
				p.Since, p.Until, p.Asked, p.Now, p.Keyguard, p.Zone)),
		),
		h.Div(h.Class("verdict "+p.Class), g.Text(p.Verdict), g.Map(p.Why, func(why string) g.Node { return h.P(g.Text(why)) })),
		h.Div(h.Class("two"),
			h.Section(h.H2(g.Text("What was proven")), pointsOr(p.Proven,
				h.P(h.Class("bad"), g.Text("Nothing: no newest copy of any escrow opened a row in this time.")))),
			h.Section(h.H2(g.Text("What was not proven")), points("", p.Unproven)),
		),
		h.Section(h.H2(g.Text("Timeline")), p.timelineHTML(), legendHTML()),
		h.Section(h.H2(g.Text("Gaps")), pointsOr(p.Gaps, h.P(g.Text("None of more than eight days, since the ledger began.")))),
		h.Section(h.Class("rest"), h.H2(g.Text("Drills")), p.drillsHTML()),
		h.Section(h.H2(g.Text("Keys")), p.keysHTML()),
		h.Section(h.H2(g.Text("The record")), p.recordHTML()),
		h.Footer(g.Text("The ledger never holds a key. A fingerprint names one and reveals nothing of it.")),
	)
}

// points are lines as a list.
func points(class string, lines []string) g.Node {
	return h.Ul(each(lines, func(line string) g.Node { return h.Li(g.If(class != "", h.Class(class)), g.Text(line)) }))
}

// pointsOr are lines as a list, or what is said where there is none.
func pointsOr(lines []string, none g.Node) g.Node {
	if len(lines) == 0 {
		return none
	}
	return points("", lines)
}

// percent is a length in a timeline.
func percent(x float64) string { return fmt.Sprint(x) + "%" }

func (p page) timelineHTML() g.Node {
	return h.Div(h.Class("time"),
		each(p.Rows, func(row timeline) g.Node {
			return g.Group{h.B(h.Title(row.Name), g.Text(row.Name)), row.html()}
		}),
		h.B(g.Text("known key")),
		h.SVG(h.Role("img"), h.Aria("label", "which key was known"), g.Map(p.Keys, keyBar.html)),
		h.B(),
		h.SVG(h.Class("ticks"), h.Aria("hidden", "true"), g.Map(p.Ticks, func(t tick) g.Node {
			return g.El("text", g.Attr("x", percent(t.X)), g.Attr("y", "12"), g.Text(t.Name))
		})),
	)
}

// html are the drills of one escrow.
func (row timeline) html() g.Node {
	return h.SVG(h.Role("img"), h.Aria("label", row.Label),
		g.El("line", h.Class("rule"), g.Attr("x2", "100%"), g.Attr("y1", "11"), g.Attr("y2", "11")),
		g.Map(row.Gaps, func(gap bar) g.Node {
			return g.El("rect", g.Attr("x", percent(gap.X)), h.Width(percent(gap.W)), g.Attr("y", "5"), h.Height("12"),
				g.Attr("fill", "url(#gap)"), h.TitleEl(g.Text(gap.Title)))
		}),
		g.Map(row.Marks, func(m mark) g.Node {
			return g.El("use", h.Href("#"+m.Shape), g.Attr("x", percent(m.X)), g.Attr("y", "11"), g.If(m.Hearsay, h.Class("h")),
				h.TitleEl(g.Text(m.Title)))
		}),
	)
}

// html is the time of one key, or of none.
func (b keyBar) html() g.Node {
	class := "key"
	if b.Name == "" {
		class = "nokey"
	}
	x, width := g.Attr("x", percent(b.X)), h.Width(percent(b.W))
	return g.Group{
		g.El("rect", h.Class(class), x, width, g.Attr("y", "4"), h.Height("14"), g.Attr("rx", "2"), h.TitleEl(g.Text(b.Title))),
		g.If(b.Name != "", h.SVG(x, width, h.Style("overflow:hidden"), g.El("text", g.Attr("x", "4"), g.Attr("y", "15"), g.Text(b.Name)))),
	}
}

func legendHTML() g.Node {
	sign := func(shape, meaning string) g.Node {
		return h.Span(h.SVG(g.El("use", h.Href("#"+shape), g.Attr("x", "7"), g.Attr("y", "7"))), g.Text(" "+meaning))
	}
	gap := g.El("rect", g.Attr("y", "2"), h.Width("14"), h.Height("10"), g.Attr("fill", "url(#gap)"))
	return h.P(h.Class("legend"),
		sign("p", "newest copy restored, it opened the rows"),
		sign("f", "failed"),
		sign("i", "inconclusive"),
		h.Span(h.SVG(gap), g.Text(" more than eight days without proof")),
	)
}

func (p page) drillsHTML() g.Node {
	if len(p.Drills) == 0 {
		return h.P(h.Class("bad"), g.Text("There was no drill in this time. Hold one now: "), h.Code(g.Text("keyguard drill")))
	}
	return g.Group{
		h.P(h.Class("soft screen"), g.Text("Open one to see every copy; what is open is printed open.")),
		each(p.Drills, drillRun.html),
	}
}

func (r drillRun) html() g.Node {
	newest := r.Drills[0]
	if len(r.Drills) == 1 {
		return newest.html()
	}
	return h.Details(h.Class("run"),
		drillSummary(r.days(), newest.Class, fmt.Sprintf("%d %s", len(r.Drills), newest.Verdict), newest.Line),
		each(r.Drills, drillView.html))
}

func (v drillView) html() g.Node {
	right := h.Class("r")
	return h.Details(
		drillSummary(v.When, v.Class, v.Verdict, v.Line),
		h.P(h.Class("soft"), g.Text(v.Note)),
		h.Table(h.Class("stack"),
			h.THead(h.Tr(heads("escrow", "copy", "key", "verdict"), h.Th(right, g.Text("rows opened")), h.Th(right, g.Text("took")))),
			each(v.Copies, func(c copyView) g.Node {
				return h.Tr(h.Td(breaks(c.Escrow)), h.Td(breaks(c.Copy)), h.Td(h.Class("n"), g.Text(c.Key)), h.Td(g.Text(c.Verdict)),
					h.Td(right, g.Text(c.Rows)), h.Td(right, g.Text(c.Took)))
			}),
		),
	)
}

// drillSummary is what is seen of drills that are not open.
func drillSummary(when, class, verdict, line string) g.Node {
	return h.Summary(h.Span(h.Class("n"), g.Text(when)), h.Span(h.Class(class), g.Text(verdict)), h.Span(g.Text(line)))
}

func (p page) keysHTML() g.Node {
	known := h.P(g.Text("No key was known in this time."))
	if len(p.Spans) > 0 {
		known = h.Table(h.Class("stack"),
			h.THead(h.Tr(heads("known key", "from", "to", "by"))),
			each(p.Spans, func(s spanView) g.Node {
				return h.Tr(h.Td(h.Class("n"), g.Text(s.Key)), h.Td(h.Class("t"), h.Data("th", "from"), g.Text(s.From)),
					h.Td(h.Class("t"), h.Data("th", "to"), g.Text(s.To)), h.Td(g.Text(s.By)))
			}),
		)
	}
	if len(p.History) == 0 {
		return known
	}
	return g.Group{known,
		h.H2(g.Text("What happened to keys")),
		h.Table(h.Class("stack"),
			h.THead(h.Tr(heads("when", "what", "key", "where", "who, why"))),
			each(p.History, func(e historyView) g.Node {
				return h.Tr(h.Td(h.Class("t"), g.Text(e.When)), h.Td(g.Text(e.What)), h.Td(h.Span(h.Class("n"), g.Text(e.Key))),
					h.Td(breaks(e.Where)), h.Td(g.Text(e.Why)))
			}),
		),
	}
}

func (p page) recordHTML() g.Node {
	return g.Group{
		h.P(g.Text(p.Chain)),
		g.If(len(p.Breaks) > 0, points("bad", p.Breaks)),
		g.If(len(p.Odd) > 0, points("dim", p.Odd)),
		g.If(p.Sum != "", h.P(g.Text("The last line's SHA-256 is "), h.Code(g.Text(p.Sum)), g.Text(". Keep it: if that line is still found "+
			"with the same sum in a later report, nothing before it was changed or taken out."))),
		h.P(h.Class("soft"), g.Text("Each line of the ledger carries the SHA-256 of the line before. What this cannot show is that the last line "+
			"was changed, that lines are missing at the end, or that somebody with root on this host wrote all of it anew: compare with the journal ("),
			h.Code(g.Text("journalctl -u containarium-keyguard-drill")), g.Text(") and with sums noted earlier. The check again: "),
			h.Code(g.Text("keyguard report --verify"))),
	}
}

// html is the page of many hosts.
func (p hostsPage) html() ([]byte, error) {
	return htmlPage(fmt.Sprintf("%d hosts", len(p.Hosts)), "", reportCSS,
		h.Header(
			h.H1(g.Textf("The master keys of %d hosts", len(p.Hosts))),
			h.P(h.Class("soft"), g.Textf("Made %s by keyguard %s from the reports of these hosts. All times are %s.", p.Now, p.Keyguard, p.Zone)),
		),
		h.Div(h.Class("verdict "+p.Class), g.Text(p.Verdict)),
		h.Table(h.Class("stack"),
			h.THead(h.Tr(heads("host", "verdict", "time covered", "last proven", "known key", "report"))),
			each(p.Hosts, func(v hostView) g.Node {
				return h.Tr(
					h.Td(breaks(v.Host)),
					h.Td(h.Span(h.Class(v.Class), g.Text(v.Verdict)), g.Map(v.Why, func(why string) g.Node { return g.Group{h.Br(), g.Text(why)} })),
					h.Td(g.Text(v.Since+" to "+v.Until)),
					h.Td(h.Class("t"), g.Text(v.Proven)),
					h.Td(h.Class("n"), g.Text(v.Key)),
					h.Td(breaks(v.File)),
				)
			}),
		),
		h.Footer(g.Text("A ledger never holds a key. A fingerprint names one and reveals nothing of it. "+
			"What a host says of itself is in its own report, with the sum of its ledger.")),
	)
}
