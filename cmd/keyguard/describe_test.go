package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestEveryCommandIsExplained: each command that people see has what its help and its
// manual page are made of.
func TestEveryCommandIsExplained(t *testing.T) {
	root := (&app{}).commands()
	list := published(root)
	if len(list) < 10 {
		t.Fatalf("only %d commands", len(list))
	}
	status := regexp.MustCompile(`^Exit status: \d+ [^;.]+(; \d+ [^;.]+)*\.$`)
	for _, c := range root.Commands() {
		if hidden := c.Hidden || c.Name() == "help" || c.Name() == "completion"; hidden == slices.Contains(list, c) {
			t.Errorf("%s is in no group", c.Name())
		}
	}
	for _, c := range list {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || c.Short[:1] != strings.ToLower(c.Short[:1]) || strings.Contains(c.Short, "\n") {
			t.Errorf("%s: %q", c.Name(), c.Short)
		}
		paragraphs := strings.Split(c.Long, "\n\n")
		if !strings.HasPrefix(c.Long, c.Name()+" ") {
			t.Errorf("%s: its description does not begin with its name", c.Name())
		}
		if last := strings.ReplaceAll(paragraphs[len(paragraphs)-1], "\n", " "); !status.MatchString(last) {
			t.Errorf("%s: its description ends with %q", c.Name(), last)
		}
		if c.Example == "" {
			t.Errorf("%s has no example", c.Name())
		}
		for line := range strings.Lines(c.Example) {
			if !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: %q is not indented", c.Name(), line)
			}
			demandTyped(t, root, line)
		}
		if lines := strings.Split(c.Long+"\n"+c.Example, "\n"); len(lines) > 40 {
			t.Errorf("%s: its help is long: %d lines", c.Name(), len(lines))
		}
	}
	for line := range strings.Lines(root.Example) {
		demandTyped(t, root, line)
	}
}

// invocation is keyguard in a line that a person types, up to what ends a command in sh.
var invocation = regexp.MustCompile(`(?:^|[\s;|&(])keyguard((?:\s+[^\s|;&<>#)]+)*)`)

// demandTyped demands that each command and each flag in a line to type exists, and
// says how many commands there are.
func demandTyped(t *testing.T, root *cobra.Command, line string) int {
	t.Helper()
	all := invocation.FindAllStringSubmatch(line, -1)
	for _, m := range all {
		c := root
		for i, word := range strings.Fields(m[1]) {
			word = strings.TrimRight(word, ",.:`'\"")
			flag, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
			switch {
			case strings.HasPrefix(word, "--"):
				if c.Flag(flag) == nil && c.InheritedFlags().Lookup(flag) == nil && flag != "help" && flag != "version" {
					t.Errorf("%q: %s has no --%s", strings.TrimSpace(line), c.Name(), flag)
				}
			case i == 0:
				i := slices.IndexFunc(published(root), func(c *cobra.Command) bool { return c.Name() == word })
				if i < 0 {
					t.Errorf("%q: there is no command %s", strings.TrimSpace(line), word)
					continue
				}
				c = published(root)[i]
			}
		}
	}
	return len(all)
}

// TestDescribe: what the manual pages are made of is there.
func TestDescribe(t *testing.T) {
	root := (&app{}).commands()
	d := describe(root)
	if len(d.Commands) != len(published(root)) || len(d.Groups) < 2 || len(d.Exits) != 9 || d.Program.Example == "" {
		t.Errorf("%d commands, %d groups, %d exit codes", len(d.Commands), len(d.Groups), len(d.Exits))
	}
	for _, c := range d.Commands {
		names := map[string]flagDoc{}
		for _, f := range c.Flags {
			names[f.Name] = f
		}
		if names["help"].Shorthand != "h" || names["config"].Value != "file" {
			t.Errorf("%s: flags %v", c.Name, c.Flags)
		}
	}
	for _, e := range d.Exits {
		if (e.Code != exitDone) != (lastWord[e.Code] != "") {
			t.Errorf("exit code %d is not one that commands end with", e.Code)
		}
	}
}

// TestDocumentsCanBeTyped: what README and manual tell to type exists.
func TestDocumentsCanBeTyped(t *testing.T) {
	code := regexp.MustCompile("(?s)```sh[ a-z]*\n.*?```|`[^`\n]+`")
	root := (&app{}).commands()
	for _, name := range []string{"README.md", "docs/manual.md"} {
		text, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		typed := 0
		for _, block := range code.FindAllString(string(text), -1) {
			for line := range strings.Lines(strings.ReplaceAll(strings.Trim(block, "`"), "keyguard COMMAND", "keyguard")) {
				typed += demandTyped(t, root, strings.TrimSpace(line))
			}
		}
		if typed < 20 {
			t.Errorf("%s: only %d commands were found", name, typed)
		}
	}
}
