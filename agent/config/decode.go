package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"
)

// decoder puts the tree into the structs of this package, which say by their tags
// what keys there are.
type decoder struct {
	*reader
	where map[any]int // pointer to a field → where its key stands in the file
	forms map[reflect.Type]form
}

// form is what a struct of this package says of its table, read from the tags once.
type form struct {
	index map[string]int // key → number of the field
	kinds []string       // of each field: the kinds of escrow that have it; "" is all
}

func (d decoder) form(t reflect.Type) form {
	f, ok := d.forms[t]
	if !ok {
		f = form{map[string]int{}, make([]string, t.NumField())}
		for i := range t.NumField() {
			tag := t.Field(i).Tag
			if name := tag.Get("toml"); name != "" {
				f.index[name], f.kinds[i] = i, tag.Get("kind")
			}
		}
		d.forms[t] = f
	}
	return f
}

// at is where the key of a field stands; of a field that the file leaves out, where
// its table begins, or -1.
func (d decoder) at(table, field any) int {
	if at, ok := d.where[field]; ok {
		return at
	}
	if at, ok := d.where[table]; ok {
		return at
	}
	return -1
}

// set tells whether the file has the key of a field.
func (d decoder) set(field any) bool { _, ok := d.where[field]; return ok }

func (d decoder) decode(root *node, c *Config) { d.table(root, "", reflect.ValueOf(c).Elem()) }

// table fills the struct v from a table. path is its name with a dot behind, for people.
func (d decoder) table(n *node, path string, v reflect.Value) {
	form := d.form(v.Type())
	for _, e := range n.keys {
		i, known := form.index[e.name]
		if !known {
			hint := nearest(e.name, keysOf(v.Type()))
			if hint == "" {
				hint = elsewhere(e.name, path)
			}
			d.report(e.at, path+e.name, "unknown key%s", hint)
			continue
		}
		f := v.Field(i)
		d.where[f.Addr().Interface()] = e.at
		if want := d.value(e, path, f); want != "" {
			d.report(e.at, path+e.name, "must be %s, not %s", want, kindName(e.node))
		}
	}
}

// value fills one field. It returns "" or what the file should have had.
func (d decoder) value(e entry, path string, f reflect.Value) (want string) {
	switch p := f.Addr().Interface().(type) {
	case *string:
		if e.kind != unstable.String {
			return "text in double quotes"
		}
		*p = e.text
	case *bool:
		if e.kind != unstable.Bool {
			return "true or false"
		}
		*p = e.yes
	case *int:
		if e.kind != unstable.Integer {
			return "a number"
		}
		*p = int(e.number)
	case *time.Duration:
		if e.kind != unstable.String {
			return fmt.Sprintf("a duration in double quotes, such as %q", duration(*p))
		}
		t, err := time.ParseDuration(e.text)
		if err != nil {
			d.report(e.at, path+e.name, "%q is no duration; write it like %q", e.text, duration(*p))
			return ""
		}
		*p = t
	case *[]string:
		if e.kind != unstable.Array || slices.ContainsFunc(e.list, func(n *node) bool { return n.kind != unstable.String }) {
			return `a list of texts, such as ["a", "b"]`
		}
		*p = []string{}
		for _, n := range e.list {
			*p = append(*p, n.text)
		}
	case *[]Escrow:
		if e.kind != unstable.Array || slices.ContainsFunc(e.list, func(n *node) bool { return n.kind != unstable.InlineTable }) {
			return "tables, each headed [[escrow]]"
		}
		*p = slices.Grow(*p, len(e.list)) // no growing below: pointers to fields are kept
		for _, n := range e.list {
			*p = append(*p, defaultEscrow())
			s := &(*p)[len(*p)-1]
			d.table(n, path+e.name+".", reflect.ValueOf(s).Elem())
			if d.where[s] = n.at; n.at < 0 {
				d.where[s] = e.at
			}
		}
	default: // a table
		if e.kind != unstable.InlineTable {
			return "a table, headed [" + path + e.name + "]"
		}
		d.table(e.node, path+e.name+".", f)
	}
	return ""
}

// kindName is what a value of the file is, for people.
func kindName(n *node) string {
	switch n.kind {
	case unstable.String:
		return "text"
	case unstable.Bool:
		return strconv.FormatBool(n.yes)
	case unstable.Integer:
		return "a number"
	case unstable.Float:
		return "a number with a fraction"
	case unstable.Array:
		return "a list"
	case unstable.InlineTable:
		return "a table"
	}
	return "a date"
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("toml"); name != "" {
			keys = append(keys, name)
		}
	}
	return keys
}

// nearest is the end of a message about an unknown word: what was probably meant.
func nearest(word string, known []string) string {
	best, distance := "", max(2, len(word)/3)+1
	for _, k := range known {
		if n := editDistance(strings.ToLower(word), k); n < distance {
			best, distance = k, n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// elsewhere is the end of a message about a key that another table has.
func elsewhere(word, path string) string {
	root := reflect.TypeFor[Config]()
	for i := range root.NumField() {
		f := root.Field(i)
		table, t := f.Tag.Get("toml"), f.Type
		header := "[" + table + "]"
		if t.Kind() == reflect.Slice {
			t, header = t.Elem(), "[["+table+"]]"
		}
		if table == word {
			return "; it belongs before the first table"
		}
		if t.Kind() == reflect.Struct && table+"." != path && slices.Contains(keysOf(t), word) {
			return "; it belongs under " + header
		}
	}
	return ""
}

// editDistance is how many letters must be put in, taken out, replaced or swapped
// with the next to make b of a (optimal string alignment).
func editDistance(a, b string) int {
	const long = 64 // no key is
	if len(a) > long || len(b) > long {
		return long
	}
	var rows [3][long + 1]int
	before, last, row := &rows[0], &rows[1], &rows[2]
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(row[j]+1, last[j+1]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// duration writes a duration as people do: "1m", not "1m0s".
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// InForce is the configuration as a file that Parse reads back as the same: every
// key that has a value, the defaults included.
func (c *Config) InForce() []byte {
	var b strings.Builder
	writeTable(&b, reflect.ValueOf(c).Elem())
	return []byte(b.String())
}

func writeTable(b *strings.Builder, v reflect.Value) {
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("toml")
		if name == "" {
			continue
		}
		switch f := v.Field(i).Interface().(type) {
		case string:
			if f != "" || name == "unit" || name == "hooks_dir" || name == "metrics_file" { // "" is no default there
				fmt.Fprintf(b, "%s = %s\n", name, quote(f))
			}
		case bool:
			if f || name == "required" || name == "heal" {
				fmt.Fprintf(b, "%s = %t\n", name, f)
			}
		case int:
			fmt.Fprintf(b, "%s = %d\n", name, f)
		case time.Duration:
			fmt.Fprintf(b, "%s = %q\n", name, duration(f))
		case []string:
			if len(f) == 0 {
				continue
			}
			list := make([]string, len(f))
			for i, s := range f {
				list[i] = quote(s)
			}
			fmt.Fprintf(b, "%s = [%s]\n", name, strings.Join(list, ", "))
		case []Escrow:
			for i := range f {
				fmt.Fprintf(b, "\n[[%s]]\n", name)
				writeTable(b, reflect.ValueOf(&f[i]).Elem())
			}
		default:
			fmt.Fprintf(b, "\n[%s]\n", name)
			writeTable(b, v.Field(i))
		}
	}
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteRune('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
