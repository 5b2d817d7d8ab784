// Package htmltest looks at pages as a browser does.
package htmltest

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// Hostile is what a name may be: where it is not escaped it ends what it stands in, text or
// attribute, and begins what nobody wanted.
const Hostile = `&amp;"'></title></style></svg><script>alert(1)</script><b id="`

// Escapes demands of a page that is made of texts that each of them stays one text, and is told
// as it is. Page takes what each place is to say from text.
func Escapes(t *testing.T, page func(text func(place string) string) []byte) {
	t.Helper()
	plain, _ := read(t, page(func(place string) string { return place }))
	var all []string
	hostile, said := read(t, page(func(place string) string {
		all = append(all, "("+place+")"+Hostile)
		return all[len(all)-1]
	}))
	if hostile != plain {
		t.Errorf("a text became something else:\n%s", difference(plain, hostile))
	}
	for _, text := range all {
		if !strings.Contains(said, text) {
			t.Errorf("the page does not say %s", text)
		}
	}
	if len(all) == 0 {
		t.Error("the page is made of nothing")
	}
}

// read returns the elements of a page with the names of their attributes, a line each, and
// its texts and attributes' values. A word that may break is one word.
func read(t *testing.T, page []byte) (elements, said string) {
	t.Helper()
	root, err := html.Parse(bytes.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	var shape, texts, values strings.Builder
	for n := range root.Descendants() {
		switch n.Type {
		case html.TextNode:
			texts.WriteString(n.Data)
		case html.ElementNode:
			if n.Data == "wbr" { // there are as many as a text has strokes
				continue
			}
			depth := 0
			for range n.Ancestors() {
				depth++
			}
			fmt.Fprintf(&shape, "%*s%s", depth, "", n.Data)
			for _, a := range n.Attr {
				fmt.Fprintf(&shape, " %s", a.Key)
				fmt.Fprintf(&values, "%s\n", a.Val)
			}
			shape.WriteByte('\n')
		default: // a comment is nothing that our pages have
			fmt.Fprintf(&shape, "%v\n", n.Type)
		}
	}
	return shape.String(), texts.String() + "\n" + values.String()
}

// difference is where two texts begin to differ.
func difference(was, is string) string {
	a, b := strings.Split(was, "\n"), strings.Split(is, "\n")
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	return fmt.Sprintf("line %d was %q and is %q", i+1, a[min(i, len(a)-1)], b[min(i, len(b)-1)])
}
