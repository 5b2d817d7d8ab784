package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
)

// page is a manual page in the macros of man(7).
type page struct{ bytes.Buffer }

// newPage begins a page: its name in lower case, section, and what NAME says.
func newPage(name string, section int, summary, version, date string) *page {
	p := &page{}
	p.macro("TH", strings.ToUpper(name), fmt.Sprint(section), date, "keyguard "+version, "System Administration")
	p.section("NAME")
	p.text(name + ` \- ` + escape(summary))
	return p
}

// escape makes text of anything: what begins a macro or an escape does not, and a hyphen
// that may be typed stays one, which groff would set as U+2010.
func escape(s string) string {
	s = strings.ReplaceAll(s, `\`, `\e`)
	s = strings.ReplaceAll(s, "-", `\-`)
	s = strings.ReplaceAll(s, "~", `\(ti`)
	s = strings.ReplaceAll(s, "^", `\(ha`)
	return strings.ReplaceAll(s, "'", `\(aq`)
}

func bold(s string) string   { return `\fB` + escape(s) + `\fR` }
func italic(s string) string { return `\fI` + escape(s) + `\fR` }

// macro writes a request with its arguments, which are quoted.
func (p *page) macro(name string, args ...string) {
	p.WriteString("." + name)
	for _, a := range args {
		fmt.Fprintf(p, ` "%s"`, strings.ReplaceAll(a, `"`, `\(dq`))
	}
	p.WriteString("\n")
}

func (p *page) section(title string) { p.macro("SH", title) }

// text writes lines that are escaped already.
func (p *page) text(s string) {
	for line := range strings.Lines(s) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, ".") {
			line = `\&` + line
		}
		p.WriteString(line + "\n")
	}
}

// item writes a term and what it means, both escaped.
func (p *page) item(term, text string) {
	p.macro("TP")
	p.text(term)
	p.text(text)
}

// verbatim writes lines as they are, without the indentation they share.
func (p *page) verbatim(s string) {
	p.macro("PP")
	p.macro("nf")
	p.macro("RS", "4")
	for line := range strings.Lines(strings.Trim(s, "\n")) {
		p.text(escape(strings.TrimPrefix(line, "  ")))
	}
	p.macro("RE")
	p.macro("fi")
}

// paragraphs writes prose, in which lines that are indented stand as they are.
func (p *page) paragraphs(s string) {
	for i, para := range strings.Split(strings.TrimSpace(s), "\n\n") {
		if strings.HasPrefix(para, " ") || strings.HasPrefix(para, "\t") {
			p.verbatim(strings.ReplaceAll(para, "\t", "  "))
			continue
		}
		if i > 0 {
			p.macro("PP")
		}
		p.text(references(escape(para)))
	}
}

var reference = regexp.MustCompile(`\b([a-z][a-z0-9_.]*(?:\\-[a-z0-9]+)*)\(([1-8])\)`)

// references sets the names of other pages in bold: systemd.unit(5).
func references(s string) string { return reference.ReplaceAllString(s, `\fB$1\fR($2)`) }

// seeAlso lists other pages.
func (p *page) seeAlso(pages ...string) {
	p.section("SEE ALSO")
	for i, name := range pages {
		if i < len(pages)-1 {
			name += ","
		}
		p.text(references(escape(name)))
	}
}
