package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"github.com/footprintai/containarium-keyguard/agent/printable"
)

// htmlPage is a page that stands alone and may fetch nothing; scripts is what its policy says of
// scripts, "" for none. Whatever a node is given as text, or as an attribute's value, is escaped.
func htmlPage(title, scripts, css string, body ...g.Node) ([]byte, error) {
	var b bytes.Buffer
	err := h.Doctype(h.HTML(h.Lang("en"),
		h.Head(
			h.Meta(h.Charset("utf-8")),
			h.Meta(h.Name("viewport"), h.Content("width=device-width, initial-scale=1")),
			h.Meta(h.Name("color-scheme"), h.Content("light dark")),
			h.Meta(g.Attr("http-equiv", "Content-Security-Policy"), h.Content("default-src 'none'; style-src 'unsafe-inline'"+scripts)),
			h.TitleEl(g.Text(printable.Line("keyguard: "+title))),
			h.StyleEl(g.Raw(css)),
		),
		h.Body(body...),
	)).Render(&b)
	if err != nil {
		return nil, fmt.Errorf("cannot make the page: %w", err)
	}
	return []byte(printable.Page(b.String())), nil
}

// each is a node for each of a list, on a line of its own. None is made before its turn: a
// fleet has a hundred thousand rows.
func each[T any](list []T, node func(T) g.Node) g.Node {
	return g.NodeFunc(func(w io.Writer) error {
		for _, one := range list {
			if err := (g.Group{node(one), g.Text("\n")}).Render(w); err != nil {
				return err
			}
		}
		return nil
	})
}

// heads name the columns of a table.
func heads(names ...string) g.Node {
	return g.Map(names, func(name string) g.Node { return h.Th(g.Text(name)) })
}

// breaks lets a long name break behind a stroke, and nowhere within a word.
func breaks(name string) g.Node {
	var parts g.Group
	for {
		i := strings.IndexAny(name, "/-") + 1
		if i == 0 {
			return append(parts, g.Text(name))
		}
		parts = append(parts, g.Text(name[:i]), h.Wbr())
		name = name[i:]
	}
}
