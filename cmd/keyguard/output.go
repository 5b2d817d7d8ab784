package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// jsonVersion is that of every document that --json prints. It grows when a field
// changes its meaning or goes away, not when one is added.
const jsonVersion = 1

// jsonFlag gives a command its --json.
func (a *app) jsonFlag(c *cobra.Command) {
	c.Flags().BoolVar(&a.json, "json", false, "print JSON, version "+fmt.Sprint(jsonVersion))
}

// What is printed for people goes through fold, hang, wrap, beside or table, and --json through
// printJSON: there it becomes printable, whoever wrote it (law 10).

func (a *app) printJSON(v any) error {
	document, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = a.out.Write(append(printable.JSON(document), '\n'))
	return err
}

// table prints aligned columns. On a terminal that is too narrow for them, of the widest
// ones stands below each row what is long, or all where most is.
func (a *app) table(header string, fill func(row func(columns ...string))) {
	rows := [][]string{strings.Split(header, "\t")}
	fill(func(columns ...string) {
		for i, c := range columns {
			columns[i] = printable.Line(c)
		}
		rows = append(rows, columns)
	})
	widths := make([]int, len(rows[0]))
	for _, r := range rows {
		for i, c := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	const gap = 2
	total := gap * (len(widths) - 1)
	for _, w := range widths {
		total += w
	}
	for left := len(widths); terminal(a.out) && total > columns(a.out) && left > 1; left-- {
		widest := 0
		for i, w := range widths {
			if w > widths[widest] {
				widest = i
			}
		}
		width := shortest(rows, widest)
		if width == widths[widest] {
			width = 0
		}
		if total += width - widths[widest]; width == 0 {
			total -= gap
		}
		widths[widest] = width
	}
	for n, r := range rows {
		line := ""
		var below []string
		for i, c := range r {
			if utf8.RuneCountInString(c) > widths[i] {
				below, c = append(below, c), ""
			}
			if widths[i] > 0 {
				line += fmt.Sprintf("%-*s", widths[i]+gap, c)
			}
		}
		fmt.Fprintln(a.out, strings.TrimRight(line, " "))
		for _, c := range below {
			if n > 0 {
				a.beside("", 4, c)
			}
		}
	}
}

// shortest is how wide a column of a table is without what is long in it, 0 where that is
// most of it.
func shortest(rows [][]string, column int) (width int) {
	const long = 48
	short := 0
	for _, r := range rows[1:] {
		if n := utf8.RuneCountInString(r[column]); n <= long {
			short++
			width = max(width, n)
		}
	}
	if header := utf8.RuneCountInString(rows[0][column]); 2*short > len(rows)-1 {
		return max(width, header)
	}
	return 0
}

// beside prints a name and, that far from the left, a text.
func (a *app) beside(name string, by int, text string) {
	if name = printable.Line(name); utf8.RuneCountInString(name) >= by {
		fmt.Fprintln(a.out, name)
		name = ""
	}
	fmt.Fprint(a.out, hang(a.out, fmt.Sprintf("%-*s", by, name), by, text))
}

// item is one of a list, such as status prints.
func (a *app) item(name, text string) { a.beside(name, 10, text) }

// line prints one line of an answer, which a terminal shows without breaking words.
func (a *app) line(format string, args ...any) {
	fmt.Fprint(a.out, fold(a.out, fmt.Sprintf(format, args...)))
}

// answer prints what a command comes to: the first line of what it prints.
func (a *app) answer(c colour, text string) {
	if text == "" {
		return
	}
	lines := fold(a.out, text)
	a.painted(c, strings.IndexByte(lines, '\n'), lines)
}

// painted prints lines of which the first bytes are in colour.
func (a *app) painted(c colour, first int, lines string) {
	fmt.Fprint(a.out, a.paint(c, lines[:first])+lines[first:])
}

// fold makes lines of a text for a terminal, the further ones two columns further in, and
// one line for everybody else: others search for it.
func fold(w io.Writer, text string) string {
	words := strings.TrimLeft(text, " ")
	indent := len(text) - len(words)
	if !terminal(w) {
		return text[:indent] + printable.Line(words) + "\n"
	}
	return hang(w, text[:indent], indent+2, words)
}

// hang makes lines of a text that are as wide as what they are printed on: head stands before
// the first, and by spaces before the others. A word that is longer than a line, a path,
// stays whole: people copy it.
func hang(w io.Writer, head string, by int, text string) string {
	if text = printable.Line(text); utf8.RuneCountInString(head+text) <= columns(w) {
		return head + text + "\n"
	}
	return head + strings.Join(wrap(text, columns(w)-by), "\n"+strings.Repeat(" ", by)) + "\n"
}

// width is that of the narrowest terminal which everything is to fit.
const width = 80

// descriptor is an open file, of whatever type.
type descriptor interface{ Fd() uintptr }

// columns is how wide a terminal is, and width for what is none.
func columns(w io.Writer) int {
	if f, ok := w.(descriptor); ok {
		if n, _, err := term.GetSize(int(f.Fd())); err == nil && n > width/2 {
			return n
		}
	}
	return width
}

// scrolledOff tells whether what was printed first is out of sight on a terminal, when hints
// and a prompt have followed.
func (a *app) scrolledOff() bool {
	o, ok := a.out.(*stdout)
	if !ok || !terminal(o) {
		return false
	}
	const follow = 5
	_, height, err := term.GetSize(int(o.Fd()))
	return err == nil && o.lines+follow > height
}

func terminal(w io.Writer) bool {
	f, ok := w.(descriptor)
	return ok && term.IsTerminal(int(f.Fd()))
}

// plain tells whether a terminal can only be written on, from left to right: terminfo(5)
// calls it dumb, and where TERM is not set nobody knows better.
func plain(w io.Writer) bool {
	kind := os.Getenv("TERM")
	return !terminal(w) || kind == "" || kind == "dumb"
}

// wrap breaks a text between words, and at no place that the text itself chose.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range joined(strings.Fields(printable.Line(text))) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// dated is a date and a time of day.
var dated = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$`) })

// joined puts words together that are read as one: a time with its zone, as printable.Time
// writes it, and what to type of this program.
func joined(words []string) []string {
	var list []string
	for i := 0; i < len(words); i++ {
		word, more := words[i], 0
		switch {
		case word == "keyguard" && i+1 < len(words):
			more = 1
		case i+2 < len(words) && dated().MatchString(word+" "+words[i+1]):
			more = 2
		}
		list = append(list, strings.Join(words[i:i+1+more], " "))
		i += more
	}
	return list
}

// foldAfter is how many rows of a list are shown before those of one key are put together.
const foldAfter = 10

// allFlag gives a command that lists its --all.
func (a *app) allFlag(c *cobra.Command) {
	c.Flags().BoolVar(&a.all, "all", false, "list each copy, however many are of one key")
}

// colourWhen is the value of --color; "" is auto.
type colourWhen string

func (w *colourWhen) String() string { return string(*w) }
func (*colourWhen) Type() string     { return "when" }

func (w *colourWhen) Set(text string) error {
	if text != "auto" && text != "always" && text != "never" {
		return errors.New("none of auto, always and never")
	}
	*w = colourWhen(text)
	return nil
}

// colour is one of a terminal's (ECMA-48, select graphic rendition).
type colour string

const (
	green  colour = "\x1b[32m"
	yellow colour = "\x1b[33m"
	red    colour = "\x1b[31m"
)

// paint colours a text where that was asked for, or where a person looks at a terminal and
// did not ask for none (https://no-color.org).
func (a *app) paint(c colour, text string) string {
	if a.when == "never" || a.when != "always" && (plain(a.out) || os.Getenv("NO_COLOR") != "") {
		return text
	}
	return string(c) + text + "\x1b[0m"
}

// proofDoc is a proof in JSON.
type proofDoc struct {
	Verdict rows.Verdict `json:"verdict"`
	Checked int64        `json:"checked"`
	Opened  int64        `json:"opened"`
}

// rowsDoc is what the rows said, in JSON.
type rowsDoc struct {
	State     string `json:"state"` // "answered", "silent", "unknown"
	Why       string `json:"why,omitempty"`
	Dependent int64  `json:"dependent,omitempty"` // rows that only the keyfile's key can open
}

func rowsDocOf(e decide.RowsEvidence) rowsDoc {
	return rowsDoc{State: stateOf(e), Why: e.Why, Dependent: e.Dependent}
}

func stateOf(e decide.RowsEvidence) string {
	switch e.State {
	case decide.RowsAnswer:
		return "answered"
	case decide.RowsSilent:
		return "silent"
	}
	return "unknown"
}

// proofOf is what the rows said of one key: nil where they said nothing.
func proofOf(e decide.RowsEvidence, f key.Fingerprint) *proofDoc {
	p, ok := e.Proofs[f]
	if !ok || f == "" {
		return nil
	}
	return &proofDoc{Verdict: p.Verdict, Checked: p.Checked, Opened: p.Opened}
}

// opened puts a proof in words.
func opened(e decide.RowsEvidence, f key.Fingerprint) string {
	switch p := proofOf(e, f); {
	case e.State == decide.RowsSilent:
		return "rows silent"
	case p == nil:
		return "not tried"
	case p.Verdict == rows.Opens:
		return "opens " + printable.All(p.Checked, "row")
	default:
		return "opens " + e.Proofs[f].String()
	}
}

// when prints a time for people, "never" for none.
func when(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return printable.Time(t)
}

// timeDoc prints a time for machines, RFC 3339; nil for none.
func timeDoc(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
