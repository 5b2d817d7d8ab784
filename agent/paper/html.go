package paper

import (
	"bytes"
	_ "embed"
	"fmt"
	"strings"

	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"
)

// sheetCSS is black on white, without anything that a browser would fetch, and with
// margins that leave the sheet one page of A4 as of Letter.
//
//go:embed sheet.css
var sheetCSS string

// UnsafeHTML returns the page as HTML that stands alone.
func (s Sheet) UnsafeHTML() ([]byte, error) {
	m, err := s.matrix()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = h.Doctype(h.HTML(h.Lang("en"),
		h.Head(
			h.Meta(h.Charset("utf-8")),
			h.TitleEl(g.Text(s.title())),
			h.StyleEl(g.Raw(sheetCSS)),
		),
		h.Body(
			h.H1(g.Text(s.title())),
			h.Table(g.Map(s.facts(), func(f fact) g.Node { return h.Tr(h.Th(g.Text(f.Name)), h.Td(g.Text(f.Value))) })),
			h.Div(h.Class("key"),
				drawHTML(m),
				h.Div(
					h.Table(h.Class("words"), s.wordsHTML()),
					h.P(h.Class("note"), g.Text(s.wordsNote())),
					h.P(h.Class("note"), g.Text(s.codeNote()),
						g.Map(s.printed(), func(line string) g.Node { return g.Group{h.Br(), h.Code(g.Text(line))} })),
				),
			),
			g.Map(s.sections(), sectionHTML),
		),
	)).Render(&b)
	return b.Bytes(), err
}

// drawHTML draws the code as one path, a stroke for each run of black in a row.
func drawHTML(m [][]bool) g.Node {
	var path strings.Builder
	for y, row := range m {
		for x := 0; x < len(row); x++ {
			run := x
			for run < len(row) && row[run] {
				run++
			}
			if run > x {
				fmt.Fprintf(&path, "M%d %dh%dv1h-%dz", x, y, run-x, run-x)
				x = run
			}
		}
	}
	return h.SVG(g.Attr("viewBox", fmt.Sprintf("0 0 %d %d", len(m), len(m))), g.Attr("shape-rendering", "crispEdges"),
		h.Role("img"), h.Aria("label", "QR code"), g.El("path", g.Attr("d", path.String())))
}

// wordsHTML are the rows of words, each with its number.
func (s Sheet) wordsHTML() g.Node {
	var rows g.Group
	for i, words := range s.words() {
		rows = append(rows, h.Tr(h.Td(g.Text(fmt.Sprint(i+1))), g.Map(words, func(w string) g.Node { return h.Td(g.Text(w)) })))
	}
	return rows
}

func sectionHTML(s section) g.Node {
	return g.Group{
		h.H2(g.Text(s.Title)),
		h.P(g.Text(s.Text)),
		g.If(len(s.Code) > 0, h.Pre(g.Text(strings.Join(s.Code, "\n")+"\n"))),
	}
}
