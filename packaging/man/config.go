package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/config"
)

// comments are those of the configuration: by type, and by type and field "Escrow.Path".
type comments map[string]string

func commentsOf(source []byte) (comments, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	c := comments{"package": file.Doc.Text()}
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.TYPE {
			continue
		}
		for _, spec := range g.Specs {
			t := spec.(*ast.TypeSpec)
			c[t.Name.Name] = g.Doc.Text()
			if s, ok := t.Type.(*ast.StructType); ok {
				for _, f := range s.Fields.List {
					for _, name := range f.Names {
						c[t.Name.Name+"."+name.Name] = f.Doc.Text()
					}
				}
			}
		}
	}
	return c, nil
}

// configPage makes keyguard.toml(5) of the fields of config.Config, their comments and
// their defaults.
func configPage(source []byte, version, date string) ([]byte, error) {
	c, err := commentsOf(source)
	if err != nil {
		return nil, err
	}
	m := newPage("keyguard.toml", 5, "configuration of keyguard", version, date)
	m.section("SYNOPSIS")
	m.text(italic(config.DefaultPath))
	m.section("DESCRIPTION")
	m.text(references(escape("The configuration of keyguard(8), in TOML. An empty file is valid: it guards the default keyfile with no escrow, which is no backup. " +
		"An unknown key is an error that names its line and the nearest known word, and all problems are reported at once; keyguard-config(8) " +
		"checks the file and prints what is in force. An escrow that is not right is not used, and the keyfile and the other escrows are " +
		"looked after all the same. The file belongs to root, and nobody else may write to it. After a change:")))
	m.verbatim("systemctl reload containarium-keyguard")
	m.macro("PP")
	m.text(escape("No secret stands in the file, only the names of files that hold one, which must have mode 0600 or tighter. Durations are texts: \"250ms\", \"20s\", \"1m\"."))
	top := reflect.ValueOf(*config.Default())
	m.section("TOP LEVEL")
	if err := m.fields(c, top, func(f reflect.StructField) bool { return !table(f) }); err != nil {
		return nil, err
	}
	for i := range top.NumField() {
		f := top.Type().Field(i)
		switch {
		case !table(f):
		case f.Type.Kind() == reflect.Struct:
			m.section("[" + f.Tag.Get("toml") + "]")
			m.paragraphs(c[f.Type.Name()])
			if err := m.fields(c, top.Field(i), everyField); err != nil {
				return nil, err
			}
		default:
			if err := m.escrows(c, f); err != nil {
				return nil, err
			}
		}
	}
	m.section("PROGRAMS OF YOUR OWN")
	m.text(escape("What save, list and fetch of kind \"command\" name ends with one of these, after sysexits.h(3head):"))
	for _, e := range programStatuses {
		m.item(bold(e[0]), escape(e[1]))
	}
	m.section("EXAMPLE")
	m.verbatim(example)
	m.section("FILES")
	m.item(italic(config.DefaultPath), "Mode 0600.")
	m.seeAlso("keyguard(8)", "keyguard-init(8)", "keyguard-config(8)")
	return m.Bytes(), nil
}

// programStatuses are the contract of escrow.Command.
var programStatuses = [][2]string{
	{"0", "Done."},
	{"66", "There is no such entry."},
	{"75", "The store cannot be reached; try again later."},
	{"77", "Denied, or not logged in."},
	{"78", "The place is not there: nobody has made it yet, or it is not mounted."},
	{"other", "The store failed. Standard error says how, in at most a few lines."},
}

// example is a whole configuration.
const example = `[[escrow]]
name    = "gcp"
kind    = "gcp-secret-manager"
project = "my-project"
secret  = "containarium-{hostname}-secrets-master"

[[escrow]]
name       = "usb"
kind       = "directory"
path       = "/mnt/keys"
recipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]
required   = false
`

func everyField(reflect.StructField) bool { return true }

// table tells whether a field is a table of its own.
func table(f reflect.StructField) bool {
	return f.Type.Kind() == reflect.Struct || f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct
}

// escrows writes the fields of [[escrow]], first those of every kind.
func (m *page) escrows(c comments, field reflect.StructField) error {
	t := field.Type.Elem()
	m.section("[[" + field.Tag.Get("toml") + "]]")
	m.paragraphs(c["Config."+field.Name] + "\n" + c[t.Name()])
	one := reflect.New(t).Elem()
	one.FieldByName("Required").SetBool(true) // the default, as its comment says
	var kinds []string
	for i := range t.NumField() {
		for k := range strings.FieldsSeq(t.Field(i).Tag.Get("kind")) {
			if !slices.Contains(kinds, k) {
				kinds = append(kinds, k)
			}
		}
	}
	for _, kind := range append([]string{""}, kinds...) {
		title := "Every kind"
		if kind != "" {
			title = `kind = "` + kind + `"`
		}
		m.macro("SS", title)
		err := m.fields(c, one, func(f reflect.StructField) bool {
			of := strings.Fields(f.Tag.Get("kind"))
			return kind == "" && len(of) == 0 || slices.Contains(of, kind)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// fields writes the fields of a struct that are wanted. One without a comment stands
// under that of the field before it.
func (m *page) fields(c comments, v reflect.Value, want func(reflect.StructField) bool) error {
	t := v.Type()
	term, text, typ := "", "", ""
	flush := func() {
		if term != "" {
			m.item(term+" ("+typ+")", text)
		}
	}
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("toml")
		if key == "-" || !want(f) { // not in the file
			continue
		}
		comment := c[t.Name()+"."+f.Name]
		if comment == "" {
			if term == "" {
				return fmt.Errorf("%s.%s has no comment", t.Name(), f.Name)
			}
			term += ", " + bold(key)
			continue
		}
		flush()
		term, typ = bold(key), typeName(f.Type)
		text = keys(t, escape(strings.TrimSpace(comment)))
		if def := defaultOf(v.Field(i)); def != "" {
			text += "\nDefault: " + bold(def) + "."
		}
	}
	flush()
	return nil
}

// keys puts the keys of the file in the place of the fields' names.
func keys(t reflect.Type, text string) string {
	for i := range t.NumField() {
		f := t.Field(i)
		if key := f.Tag.Get("toml"); key != "-" {
			text = regexp.MustCompile(`\b`+f.Name+`\b`).ReplaceAllLiteralString(text, bold(key))
		}
	}
	return references(text)
}

func typeName(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "duration"
	case t.Kind() == reflect.String:
		return "text"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Slice:
		return "list of texts"
	}
	return "number"
}

// wholeMinutes are those that a time.Duration prints as "1m0s".
var wholeMinutes = regexp.MustCompile(`^(\d+m)0s$`)

// defaultOf is a default as it would stand in the file, "" where there is none to tell.
func defaultOf(v reflect.Value) string {
	switch d := v.Interface().(type) {
	case time.Duration:
		return `"` + wholeMinutes.ReplaceAllString(d.String(), "$1") + `"`
	case string:
		if d != "" {
			return `"` + d + `"`
		}
	case bool, int:
		return fmt.Sprint(d)
	}
	return ""
}
