package config

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/pelletier/go-toml/v2/unstable"
)

// node is one value of the file.
type node struct {
	kind   unstable.Kind // String, Bool, Integer, Array, InlineTable (any table), or another that no setting has
	at     int           // byte offset in the file, for the line number
	end    int           // byte offset after a string
	text   string
	number int64
	yes    bool
	list   []*node // of an Array
	keys   []entry // of a table, in the order of the file

	tables   bool // an Array made by [[name]]: it may grow
	implicit bool // a table that only the name of another made: it may be defined later
	closed   bool // an inline table: nothing can be added
}

type entry struct {
	name string
	at   int
	*node
}

func (n *node) get(name string) *node {
	for _, e := range n.keys {
		if e.name == name {
			return e.node
		}
	}
	return nil
}

// reader turns the text into a tree, going on after each error so that all are
// reported at once. go-toml's parser does the syntax (TOML 1.0, https://toml.io/en/v1.0.0)
// and knows where each thing stands, which its decoder does not tell.
type reader struct {
	data     []byte
	base     int // offset in data of what the parser was given
	problems []problem
	broken   map[string]bool // keys of lines that cannot be read
	ranges   [][2]int        // where the strings stand that are values
}

// problem is a Problem that does not know its line yet.
type problem struct {
	at        int // byte offset; -1 is the file as a whole
	key, what string
}

func (r *reader) report(at int, key, format string, a ...any) {
	r.problems = append(r.problems, problem{at, key, fmt.Sprintf(format, a...)})
}

// read returns the tree of data. It is never nil.
func (r *reader) read() *node {
	root := &node{kind: unstable.InlineTable}
	var p unstable.Parser
	table := root // nil after a header that could not be read: its keys belong nowhere
	prefix := ""  // "table."
	for r.base <= len(r.data) {
		part := r.data[r.base:]
		p.Reset(part)
		for p.NextExpression() {
			e := p.Expression()
			switch e.Kind {
			case unstable.Table, unstable.ArrayTable:
				table, prefix = r.header(root, e)
			case unstable.KeyValue:
				if table != nil {
					r.keyValue(table, prefix, e)
				}
			}
		}
		if p.Error() == nil {
			return root
		}
		at, what := r.base, p.Error().Error()
		var perr *unstable.ParserError
		if errors.As(p.Error(), &perr) {
			// A slice of part shares its end: that is how far in it begins.
			at += max(0, min(len(part), cap(part)-cap(perr.Highlight)))
		}
		start := bytes.LastIndexByte(r.data[:at], '\n') + 1
		line, _, more := bytes.Cut(r.data[start:], []byte("\n"))
		if text := bytes.TrimSpace(line); len(text) > 0 && text[0] == '[' {
			table = nil
		} else if name, _, ok := bytes.Cut(text, []byte("=")); ok {
			if r.broken == nil {
				r.broken = map[string]bool{}
			}
			r.broken[string(bytes.TrimSpace(name))] = true
		}
		r.report(at, "", "%s%s", what, quoteHint(line))
		if !more {
			return root
		}
		r.base = start + len(line) + 1
		// The rest of a list or a text of several lines is no error of its own.
		for r.base < len(r.data) && !beginsSomething(r.data[r.base:]) {
			i := bytes.IndexByte(r.data[r.base:], '\n')
			if i < 0 {
				return root
			}
			r.base += i + 1
		}
	}
	return root
}

// beginsSomething tells whether a line looks like `key =`, `[table]`, a comment or nothing.
func beginsSomething(rest []byte) bool {
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] == '#' {
		return true
	}
	if line[0] == '[' {
		name := bytes.TrimLeft(line, "[")
		return len(name) > 0 && (isKeyLetter(name[0]) || name[0] == ' ')
	}
	name, _, ok := bytes.Cut(line, []byte("="))
	name = bytes.TrimSpace(name)
	for _, c := range name {
		ok = ok && (isKeyLetter(c) || c == '.')
	}
	return ok && len(name) > 0
}

func isKeyLetter(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

// quoteHint explains the commonest mistake: text that stands without quotes.
func quoteHint(line []byte) string {
	_, value, ok := bytes.Cut(line, []byte("="))
	value = bytes.TrimSpace(value)
	if ok && len(value) > 0 && !bytes.ContainsAny(value[:1], "\"'[{+-0123456789#") {
		return " (text stands in double quotes)"
	}
	return ""
}

type part struct {
	name string
	at   int
}

func (r *reader) path(it unstable.Iterator) ([]part, string) {
	var parts []part
	name := ""
	for it.Next() {
		n := it.Node()
		parts = append(parts, part{string(n.Data), r.base + int(n.Raw.Offset)})
		if name != "" {
			name += "."
		}
		name += parts[len(parts)-1].name
	}
	return parts, name
}

// header finds or makes the table that a [name] or [[name]] opens. It returns nil
// where there cannot be one.
func (r *reader) header(root *node, e *unstable.Node) (*node, string) {
	parts, name := r.path(e.Key())
	t := root
	for _, p := range parts[:len(parts)-1] {
		if t = r.descend(t, p, name); t == nil {
			return nil, ""
		}
	}
	last := parts[len(parts)-1]
	old := t.get(last.name)
	fresh := &node{kind: unstable.InlineTable, at: last.at}
	if e.Kind == unstable.ArrayTable {
		if old == nil {
			old = &node{kind: unstable.Array, at: last.at, tables: true}
			t.keys = append(t.keys, entry{last.name, last.at, old})
		} else if !old.tables {
			r.report(last.at, name, "defined twice, and not as [[%s]] before", name)
			return nil, ""
		}
		old.list = append(old.list, fresh)
		return fresh, name + "."
	}
	switch {
	case old == nil:
		t.keys = append(t.keys, entry{last.name, last.at, fresh})
		return fresh, name + "."
	case old.implicit:
		old.implicit, old.at = false, last.at
		return old, name + "."
	case old.tables:
		r.report(last.at, name, "there may be several of these: write [[%s]]", name)
	default:
		r.report(last.at, name, "defined twice")
	}
	return nil, ""
}

// descend goes into the table of one part of a name, making it if it is missing.
func (r *reader) descend(t *node, p part, name string) *node {
	next := t.get(p.name)
	switch {
	case next == nil:
		next = &node{kind: unstable.InlineTable, at: p.at, implicit: true}
		t.keys = append(t.keys, entry{p.name, p.at, next})
	case next.tables:
		next = next.list[len(next.list)-1]
	case next.kind != unstable.InlineTable:
		r.report(p.at, name, "%q is a value, not a table", p.name)
		return nil
	}
	if next.closed {
		r.report(p.at, name, "nothing can be added to %q, which stands in braces", p.name)
		return nil
	}
	return next
}

func (r *reader) keyValue(t *node, prefix string, e *unstable.Node) {
	parts, name := r.path(e.Key())
	for _, p := range parts[:len(parts)-1] {
		if t = r.descend(t, p, prefix+name); t == nil {
			return
		}
		t.implicit = false // a dotted key defines the table
	}
	last := parts[len(parts)-1]
	v := r.value(e.Value(), prefix+name)
	if t.get(last.name) != nil {
		r.report(last.at, prefix+name, "defined twice")
		return
	}
	if v.at < 0 {
		v.at = last.at
	}
	t.keys = append(t.keys, entry{last.name, last.at, v})
}

// value reads the value of the key name.
func (r *reader) value(n *unstable.Node, name string) *node {
	v := &node{kind: n.Kind, at: -1}
	if n.Raw.Length > 0 {
		v.at = r.base + int(n.Raw.Offset)
		v.end = v.at + int(n.Raw.Length)
	}
	switch n.Kind {
	case unstable.String:
		v.text = string(n.Data)
		r.ranges = append(r.ranges, [2]int{v.at, v.end})
	case unstable.Bool:
		v.yes = string(n.Data) == "true"
	case unstable.Integer:
		i, err := strconv.ParseInt(string(n.Data), 0, 64) // 0: with the underscores and prefixes of TOML
		if err != nil {
			r.report(v.at, name, "a number that is too large")
		}
		v.number = i
	case unstable.Array:
		for it := n.Children(); it.Next(); {
			v.list = append(v.list, r.value(it.Node(), name))
		}
	case unstable.InlineTable:
		for it := n.Children(); it.Next(); {
			r.keyValue(v, name+".", it.Node())
		}
		v.closed = true
	}
	return v
}
