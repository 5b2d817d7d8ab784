package main

import (
	"fmt"
	"regexp"
	"strings"
)

// program is what `keyguard describe` prints.
type program struct {
	Version  string
	Groups   []struct{ ID, Title string }
	Program  command
	Commands []command
	Exits    []struct {
		Code    int
		Meaning string
	}
}

type command struct {
	Name, Usage, Group, Short, Long, Example string
	Flags                                    []struct{ Name, Shorthand, Value, Usage string }
}

// status is one exit code of a command, and what it means there.
type status struct{ code, meaning string }

var (
	exitStatus = regexp.MustCompile(`(?s)\n\nExit status: (.*)\.$`)
	oneStatus  = regexp.MustCompile(`^(\d+) (.+)$`)
)

// exits takes the exit codes out of a description: its last paragraph is
// "Exit status: 0 done; 2 that is no key.".
func (c command) exits() (long string, list []status, err error) {
	m := exitStatus.FindStringSubmatchIndex(c.Long)
	if m == nil {
		return "", nil, fmt.Errorf("keyguard %s: the last paragraph of its description does not tell the exit status", c.Name)
	}
	for one := range strings.SplitSeq(strings.Join(strings.Fields(c.Long[m[2]:m[3]]), " "), "; ") {
		s := oneStatus.FindStringSubmatch(one)
		if s == nil {
			return "", nil, fmt.Errorf("keyguard %s: exit status %q has no number", c.Name, one)
		}
		list = append(list, status{s[1], s[2]})
	}
	return c.Long[:m[0]], list, nil
}

// commandPages makes keyguard(8), and a page for each command.
func commandPages(p program, date string) (map[string][]byte, error) {
	pages := map[string][]byte{"keyguard.8": mainPage(p, date)}
	for _, c := range p.Commands {
		long, exits, err := c.exits()
		if err != nil {
			return nil, err
		}
		m := newPage("keyguard-"+c.Name, 8, c.Short, p.Version, date)
		m.section("SYNOPSIS")
		m.text(bold("keyguard "+c.Name) + " " + operands(c))
		m.section("DESCRIPTION")
		m.paragraphs(long)
		m.options(c)
		m.section("EXIT STATUS")
		for _, e := range exits {
			m.item(bold(e.code), escape(e.meaning)+".")
		}
		m.macro("PP")
		m.text(references(escape("What no other number says is 1, an error of keyguard's own, or 2, a wrong command line or configuration; all of them are in keyguard(8).")))
		m.section("EXAMPLES")
		m.verbatim(c.Example)
		m.seeAlso("keyguard(8)", "keyguard.toml(5)")
		pages["keyguard-"+c.Name+".8"] = m.Bytes()
	}
	return pages, nil
}

// operands are what follows the name of a command.
func operands(c command) string {
	_, rest, _ := strings.Cut(c.Usage, c.Name)
	rest = strings.TrimSpace(strings.Replace(rest, "[flags]", "", 1))
	return strings.TrimSpace("[" + italic("options") + "] " + escape(rest))
}

func (m *page) options(c command) {
	m.section("OPTIONS")
	for _, f := range c.Flags {
		term := bold("--" + f.Name)
		if f.Shorthand != "" {
			term = bold("-"+f.Shorthand) + ", " + term
		}
		if f.Value != "" {
			term += " " + italic(f.Value)
		}
		m.item(term, escape(f.Usage)+".")
	}
}

func mainPage(p program, date string) []byte {
	m := newPage("keyguard", 8, p.Program.Short, p.Version, date)
	m.section("SYNOPSIS")
	m.text(bold("keyguard") + " " + italic("command") + " [" + italic("options") + "]")
	m.section("DESCRIPTION")
	m.paragraphs(p.Program.Long)
	m.macro("PP")
	m.text(references(escape("A drop-in of containarium.service runs keyguard-prestart(8) before each start of the daemon; containarium-keyguard.service " +
		"runs keyguard-watch(8) all the time. The rest is for people. Results go to standard output, messages to standard error.")))
	m.section("COMMANDS")
	for _, g := range p.Groups {
		m.macro("SS", g.Title)
		for _, c := range p.Commands {
			if c.Group == g.ID {
				m.item(`\fBkeyguard\-`+escape(c.Name)+`\fR(8)`, escape(c.Short)+".")
			}
		}
	}
	m.options(p.Program)
	m.section("EXIT STATUS")
	for _, e := range p.Exits {
		m.item(bold(fmt.Sprint(e.Code)), escape(e.Meaning)+".")
	}
	m.section("EXAMPLES")
	m.verbatim(p.Program.Example)
	m.section("ENVIRONMENT")
	m.item(bold("KEYGUARD_CONFIG"), "names the configuration where "+bold("--config")+" does not.")
	m.section("FILES")
	for _, f := range [][2]string{
		{"/etc/containarium/secrets.key", "The key that is guarded: 32 bytes, mode 0400."},
		{"/etc/containarium-keyguard/keyguard.toml", "The configuration, see keyguard.toml(5)."},
		{"/etc/containarium-keyguard/hooks.d", "Executables that are called for each event, see keyguard-events(7)."},
		{"/var/lib/containarium-keyguard/ledger.jsonl", "What was done and proven on this host. It holds fingerprints, never a key."},
		{"/var/lib/containarium-keyguard/quarantine", "Every key that ever left the place of the key that is guarded."},
		{"/run/containarium-keyguard", "Scratch, back-off, and where the database is."},
	} {
		m.item(italic(f[0]), references(escape(f[1])))
	}
	var also []string
	for _, c := range p.Commands {
		also = append(also, "keyguard-"+c.Name+"(8)")
	}
	m.seeAlso(append(also, "keyguard.toml(5)", "keyguard-events(7)", "journalctl(1)", "age(1)")...)
	return m.Bytes()
}
