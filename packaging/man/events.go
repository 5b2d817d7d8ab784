package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
)

// event is one of those that hooks tell: its name, what it is, and the MESSAGE_ID under
// which the catalog explains it.
type event struct{ ident, name, comment, id string }

// eventsOf reads the constants of type EventName, with the comments behind them, and the
// ids of the map `kinds`.
func eventsOf(source []byte) ([]event, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "events.go", source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var list []event
	ids := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ValueSpec:
			if t, ok := n.Type.(*ast.Ident); ok && t.Name == "EventName" && len(n.Values) == 1 {
				list = append(list, event{ident: n.Names[0].Name, name: textOf(n.Values[0]), comment: strings.TrimSpace(n.Comment.Text())})
			}
		case *ast.KeyValueExpr:
			of, isIdent := n.Key.(*ast.Ident)
			fields, isLit := n.Value.(*ast.CompositeLit)
			if !isIdent || !isLit {
				return true
			}
			for _, f := range fields.Elts {
				if kv, ok := f.(*ast.KeyValueExpr); ok {
					if name, ok := kv.Key.(*ast.Ident); ok && name.Name == "id" {
						ids[of.Name] = textOf(kv.Value)
					}
				}
			}
		}
		return true
	})
	if len(list) == 0 {
		return nil, fmt.Errorf("no constant of type EventName")
	}
	for i := range list {
		e := &list[i]
		if e.id = ids[e.ident]; e.id == "" || e.name == "" || e.comment == "" {
			return nil, fmt.Errorf("event %s has no name, no comment or no id", e.ident)
		}
	}
	return list, nil
}

// textOf is a literal's text, "" of what is none.
func textOf(e ast.Expr) string {
	l, ok := e.(*ast.BasicLit)
	if !ok {
		return ""
	}
	s, err := strconv.Unquote(l.Value)
	if err != nil {
		return ""
	}
	return s
}

// field is a variable in the journal's catalog, journald.catalog(7).
var field = regexp.MustCompile(`@KEYGUARD_([A-Z]+)@`)

// explanations are what the catalog says, by id.
func explanations(catalog []byte) map[string]string {
	said := map[string]string{}
	for _, entry := range strings.Split("\n"+string(catalog), "\n-- ")[1:] {
		id, rest, _ := strings.Cut(entry, "\n")
		_, text, _ := strings.Cut(rest, "\n\n")
		said[id] = field.ReplaceAllString(strings.TrimSpace(text), "$1")
	}
	return said
}

// variables are what a hook gets in its environment, and the journal as fields.
var variables = [][2]string{
	{"EVENT", "The event's name, one of those below. Always there."},
	{"TEXT", "One sentence: what happened, to which key. Always there; hooks only."},
	{"HOST", "This host's name. Always there; hooks only."},
	{"TIME", "When, RFC 3339 in UTC. Always there; hooks only."},
	{"URGENT", "\"true\" where a person should see it soon, else \"false\". Always there; hooks only."},
	{"FINGERPRINT", "The public name of the key that it is about, 16 hex digits."},
	{"ESCROW", "The name of the escrow in the configuration."},
	{"COPY", "The id of the copy there."},
	{"VERDICT", "What the rows said (opens, partial, refuted, silent, unknown), or how a drill ended (passed, failed, inconclusive)."},
	{"CHECKED", "How many rows the key was tried on."},
	{"OPENED", "How many of them it opened."},
	{"TOTAL", "How many there are."},
	{"SECONDS", "How long it took."},
	{"UNIT", "The unit that failed."},
	{"ERROR", "What went wrong."},
	{"REMEDY", "What to type next."},
}

// eventsPage makes keyguard-events(7) of the events and the journal's catalog.
func eventsPage(source, catalog []byte, version, date string) ([]byte, error) {
	list, err := eventsOf(source)
	if err != nil {
		return nil, err
	}
	said := explanations(catalog)
	m := newPage("keyguard-events", 7, "what keyguard tells of, and to whom", version, date)
	m.section("SYNOPSIS")
	m.text(italic("/etc/containarium-keyguard/hooks.d/*"))
	m.section("DESCRIPTION")
	m.paragraphs(`What happens to the key has a name, and is told at once to the journal, to every program in hooks.d, to the dead-man's switch and to Prometheus, as [notify] of keyguard.toml(5) says. None of them can hold up or fail what it tells of.

In the journal an event has the fields below, a MESSAGE_ID, and an explanation:

  journalctl -x -t keyguard
  journalctl KEYGUARD_EVENT=drill-failed

A hook is an executable whose name has letters, digits, _ and - only, owned by root and writable by nobody else. It runs with the variables below and PATH, HOME, LANG, TZ and the proxies of keyguard's own environment; its standard input is empty. All hooks run at once; after ten seconds one is killed. A status other than 0 goes to the journal, with what was printed to standard error, and changes nothing else. The watcher's hooks run in its sandbox: what needs more is started by systemd-run(1), as the sample "mail" does.`)
	m.section("ENVIRONMENT")
	for _, v := range variables {
		m.item(bold("KEYGUARD_"+v[0]), escape(v[1]))
	}
	m.macro("PP")
	m.text(escape("What an event does not have is not set. Names and messages of others are bounded and printable, and are still words of others: quote them."))
	m.section("EVENTS")
	for _, e := range list {
		text := said[e.id]
		if text == "" {
			return nil, fmt.Errorf("the catalog does not explain %s, MESSAGE_ID %s", e.name, e.id)
		}
		m.macro("SS", e.name)
		m.text(escape(sentence(e.comment)) + " MESSAGE_ID " + italic(e.id) + ".")
		m.macro("PP")
		for part := range strings.SplitSeq(text, "\n\n") {
			m.explain(part)
		}
	}
	m.section("EXAMPLE")
	m.verbatim("#!/bin/sh\n# /etc/containarium-keyguard/hooks.d/log, 0755\n[ \"$KEYGUARD_URGENT\" = true ] || exit 0\nlogger -p auth.alert -- \"$KEYGUARD_HOST: $KEYGUARD_EVENT: $KEYGUARD_TEXT\"\n")
	m.seeAlso("keyguard(8)", "keyguard-alert(8)", "keyguard.toml(5)", "journalctl(1)", "systemd.journal-fields(7)")
	return m.Bytes(), nil
}

// explain writes a paragraph of the catalog, in which indented lines are to be typed.
func (m *page) explain(text string) {
	prose, typed := "", ""
	flush := func() {
		if prose != "" {
			m.macro("PP")
			m.text(references(escape(prose)))
		}
		if typed != "" {
			m.verbatim(typed)
		}
		prose, typed = "", ""
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, " ") {
			typed += strings.TrimLeft(line, " ")
			continue
		}
		if typed != "" {
			flush()
		}
		prose += line
	}
	flush()
}

// sentence begins with a capital letter and ends with a point.
func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] + "." }
