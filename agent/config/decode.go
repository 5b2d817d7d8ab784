package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// file is a configuration as it was read: what it says, and what is wrong with that.
type file struct {
	text     string
	keys     []toml.Key     // of all that it says, in its order
	said     map[string]any // what it says, before that means anything
	at       []int          // lines of keys, once they were searched for
	problems []problem
}

// problem is a Problem of one escrow, from 0, or of what has no such number.
type problem struct {
	Problem
	escrow int
}

const (
	noEscrow = -1 // the configuration as a whole
	urlFile  = -2 // the file that database.url_file names
)

func (f *file) report(escrow int, key, format string, a ...any) {
	f.problems = append(f.problems, problem{Problem{Key: key, What: fmt.Sprintf(format, a...)}, escrow})
}

// decode puts what the file says into c. All that has a wrong type or an unknown name is
// reported, and c keeps its defaults there; a syntax error ends the reading.
func (f *file) decode(c *Config) {
	if line := tooDeep(f.text); line > 0 {
		f.problems = append(f.problems, problem{Problem{Line: line, What: fmt.Sprintf("more than %d brackets or names in each other", deepest)}, noEscrow})
		return
	}
	md, err := toml.Decode(f.text, &f.said)
	if err != nil {
		f.syntax(err)
		return
	}
	f.keys = md.Keys()
	text := f.text
	if f.types(f.said, reflect.ValueOf(c).Elem(), "", noEscrow); len(f.problems) > 0 {
		sound, err := toml.Marshal(f.said)
		if err != nil {
			return // what there is to read cannot be told from what there is not
		}
		text = string(sound)
	}
	md, err = toml.Decode(text, c)
	if err != nil { // a value that types takes for a sound one
		f.report(noEscrow, "", "%s", strings.TrimPrefix(err.Error(), "toml: "))
		return
	}
	f.unknown(md.Undecoded())
	tables, _ := tablesOf(f.said["escrow"])
	for i, t := range tables {
		if _, said := t["required"]; !said {
			c.Escrows[i].Required = true
		}
		if _, said := t["readable"]; !said {
			c.Escrows[i].Readable = true
		}
		if !c.Escrows[i].Readable && t["required"] != true {
			c.Escrows[i].Required = false
		}
	}
}

// deepest is how many brackets may stand open, and dots in one line: the format needs three.
// What the library takes to read them grows with their square, to minutes and gigabytes.
const deepest = 64

// tooDeep is the line, from 1, in which more of them are; 0 for none.
func tooDeep(text string) int {
	code, _ := scan(text)
	line, open, dots := 1, 0, 0
	for _, c := range []byte(code) {
		switch c {
		case '[', '{':
			open++
		case ']', '}':
			open--
		case '.':
			dots++
		case '\n':
			line, dots = line+1, 0
		}
		if open > deepest || dots > deepest {
			return line
		}
	}
	return 0
}

// syntax reports why the file is no TOML, with the hint that fits the commonest mistake:
// text that stands without quotes.
func (f *file) syntax(err error) {
	p := problem{Problem{What: err.Error()}, noEscrow}
	if wrong, ok := errors.AsType[toml.ParseError](err); ok {
		lines := strings.Split(f.text, "\n")
		p.Line = 1 + strings.Count(f.text[:max(0, min(wrong.Position.Start, len(f.text)))], "\n")
		p.What = wrong.Message
		for _, found := range []string{" but found ", ", but got ", " but got "} {
			p.What, _, _ = strings.Cut(p.What, found) // it may have been meant for a secret (law 8)
		}
		if _, value, ok := strings.Cut(lines[p.Line-1], "="); ok {
			value = strings.TrimSpace(value)
			if value != "" && !strings.ContainsAny(value[:1], "\"'[{+-0123456789#") {
				p.What += " (text stands in double quotes)"
			}
		}
	}
	f.problems = append(f.problems, p)
}

// types reports the values of a table that no field of v can hold, and takes them out of
// it: the library would stop at the first. path is the table's name with a dot behind.
func (f *file) types(table map[string]any, v reflect.Value, path string, escrow int) {
	for name := range table {
		// TOML tells capitals from small letters, and the library does not.
		if lower := strings.ToLower(name); lower != name && slices.Contains(keysOf(v.Type()), lower) {
			f.report(escrow, path+name, "unknown key; did you mean %q?", lower)
			delete(table, name)
		}
	}
	for i := range v.NumField() {
		name := keyOf(v.Type().Field(i))
		said, ok := table[name]
		if !ok || name == "" {
			continue
		}
		if wrong := f.wrong(said, v.Field(i), path+name, escrow); wrong != "" {
			f.report(escrow, path+name, "%s", wrong)
			delete(table, name)
		}
	}
}

// wrong says why a field cannot hold what is said of it, "" where it can. It quotes none
// of it that could be a secret (law 8).
func (f *file) wrong(said any, field reflect.Value, key string, escrow int) string {
	fits := false
	want := ""
	switch was := field.Interface().(type) {
	case string:
		_, fits = said.(string)
		want = "text in double quotes"
	case bool:
		_, fits = said.(bool)
		want = "true or false"
	case int:
		_, fits = said.(int64)
		want = "a number"
	case time.Duration:
		text, isText := said.(string)
		if _, err := time.ParseDuration(text); isText && err != nil {
			return fmt.Sprintf("%q is no duration; write it like %q", text, duration(was))
		}
		fits = isText
		want = fmt.Sprintf("a duration in double quotes, such as %q", duration(was))
	case []string:
		list, isList := said.([]any)
		fits = isList && !slices.ContainsFunc(list, func(one any) bool { _, isText := one.(string); return !isText })
		want = `a list of texts, such as ["a", "b"]`
	case []Escrow:
		tables, areTables := tablesOf(said)
		fits = areTables
		want = "tables, each headed [[escrow]]"
		for i, t := range tables {
			f.types(t, reflect.ValueOf(&Escrow{}).Elem(), key+".", i)
		}
	default: // a table
		table, isTable := said.(map[string]any)
		fits = isTable
		want = "a table, headed [" + key + "]"
		if isTable {
			f.types(table, field, key+".", escrow)
		}
	}
	if fits {
		return ""
	}
	return "must be " + want + ", not " + typeName(said)
}

// tablesOf are the tables of an array, written as [[name]] or in brackets.
func tablesOf(said any) ([]map[string]any, bool) {
	switch list := said.(type) {
	case []map[string]any:
		return list, true
	case []any:
		var tables []map[string]any
		for _, one := range list {
			table, ok := one.(map[string]any)
			if !ok {
				return nil, false
			}
			tables = append(tables, table)
		}
		return tables, true
	}
	return nil, false
}

// typeName is what a value of the file is, for people.
func typeName(said any) string {
	switch v := said.(type) {
	case string:
		return "text"
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return "a number"
	case float64:
		return "a number with a fraction"
	case []any, []map[string]any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date"
}

// unknown reports the keys that no field has, and not again what stands below one.
func (f *file) unknown(undecoded []toml.Key) {
	known := map[string]bool{}
	for _, key := range undecoded {
		known[key.String()] = false
	}
	for i, key := range f.keys {
		if is, told := known[key.String()]; is || !told {
			continue
		}
		path, t := "", reflect.TypeFor[Config]()
		for _, part := range key[:len(key)-1] {
			path, t = path+part+".", tableOf(t, part)
		}
		if t == nil { // below another that is unknown, or of a wrong type
			continue
		}
		name := key[len(key)-1]
		hint := nearest(name, keysOf(t))
		if hint == "" {
			hint = elsewhere(name, path)
		}
		f.report(f.escrowOf(i), path+name, "unknown key%s", hint)
		f.problems[len(f.problems)-1].Line = f.lines()[i]
	}
}

// tableOf is the table of t that has this key, nil where there is none.
func tableOf(t reflect.Type, key string) reflect.Type {
	if t == nil {
		return nil
	}
	for f := range t.Fields() {
		if keyOf(f) != key {
			continue
		}
		if t = f.Type; t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		if t.Kind() == reflect.Struct {
			return t
		}
	}
	return nil
}

// keyOf is the key of a field in the file, "" for one that is not in it.
func keyOf(f reflect.StructField) string {
	if key := f.Tag.Get("toml"); key != "-" {
		return key
	}
	return ""
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for f := range t.Fields() {
		if key := keyOf(f); key != "" {
			keys = append(keys, key)
		}
	}
	return keys
}

// nearest is the end of a message about an unknown word: what was probably meant.
func nearest(word string, known []string) string {
	if best := Nearest(word, known); best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return ""
}

// Nearest is the known word that was probably meant, "" for none.
func Nearest(word string, known []string) string {
	best, distance := "", max(2, len(word)/3)+1
	for _, k := range known {
		if n := editDistance(strings.ToLower(word), k); n < distance {
			best, distance = k, n
		}
	}
	return best
}

// elsewhere is the end of a message about a key that another table has.
func elsewhere(word, path string) string {
	root := reflect.TypeFor[Config]()
	for f := range root.Fields() {
		table, t := keyOf(f), f.Type
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
