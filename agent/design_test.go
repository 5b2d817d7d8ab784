package agent_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	heading  = regexp.MustCompile(`(?m)^##+ (§[0-9]+|Law [0-9]+|R[0-9]+)\b`)
	sections = regexp.MustCompile(`§ ?([0-9]+)`)
	lawNames = regexp.MustCompile(`\b[lL]aws? ([0-9]+)(?:(?:,| and| or| to) ([0-9]+))*`)
	rules    = regexp.MustCompile(`(?:^|[\s("'])(R[0-9]{1,2})\b`)
	number   = regexp.MustCompile(`[0-9]+`)
	// What stands nowhere in the repository.
	outside = regexp.MustCompile(`\b(daemon|systemd|pitfalls|style)\.md\b`)
)

// cited lists the headings of docs/design.md that a line cites, as they begin. Most lines
// have none of a citation's letters: to search all of them costs seconds under the race detector.
func cited(line string) (list []string) {
	if strings.Contains(line, "§") {
		for _, m := range sections.FindAllStringSubmatch(line, -1) {
			list = append(list, "§"+m[1])
		}
	}
	if strings.Contains(line, "aw") {
		for _, m := range lawNames.FindAllString(line, -1) {
			for _, n := range number.FindAllString(m, -1) {
				list = append(list, "Law "+n)
			}
		}
	}
	if strings.Contains(line, "R") {
		for _, m := range rules.FindAllStringSubmatch(line, -1) {
			list = append(list, m[1])
		}
	}
	return list
}

// TestCitations: what code, tests, scripts and units cite stands in docs/design.md, and
// nothing cites what is not in the repository.
func TestCitations(t *testing.T) {
	design, err := os.ReadFile("../docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	var headings []string
	for _, m := range heading.FindAllSubmatch(design, -1) {
		headings = append(headings, string(m[1]))
	}
	for _, want := range []string{"§1", "Law 10", "R5"} {
		if !slices.Contains(headings, want) {
			t.Fatalf("docs/design.md has no heading %s, of %q", want, headings)
		}
	}
	found := map[string]bool{}
	for _, root := range []string{"../agent", "../cmd", "../hooks", "../packaging", "../units", "../etc", "../docs", "../HACKING.md", "../README.md", "../SECURITY.md", "../Makefile"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || filepath.Base(path) == "design_test.go" {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil || bytes.IndexByte(data, 0) >= 0 || len(data) > 1<<20 {
				return err
			}
			for line := range strings.Lines(string(data)) {
				for _, c := range cited(line) {
					found[c] = true
					if !slices.Contains(headings, c) {
						t.Errorf("%s cites %s, which is no heading of docs/design.md", path, c)
					}
				}
				if !strings.Contains(line, ".md") {
					continue
				}
				if m := outside.FindString(line); m != "" {
					t.Errorf("%s cites %s, which is not in the repository", path, m)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range headings {
		if !found[h] && !strings.HasPrefix(h, "§") {
			t.Errorf("nothing cites %s: this looks in the wrong places", h)
		}
	}
}

// TestLaws: the short laws of the package comment are the laws of docs/design.md.
func TestLaws(t *testing.T) {
	design, err := os.ReadFile("../docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	short := strings.Join(strings.Fields(strings.ReplaceAll(string(doc), "//", " ")), " ")
	laws := regexp.MustCompile(`(?m)^### Law ([0-9]+)\. (.*)[.]$`).FindAllStringSubmatch(string(design), -1)
	if len(laws) != 10 {
		t.Fatalf("docs/design.md has %d laws, want 10", len(laws))
	}
	for _, l := range laws {
		if !strings.Contains(short, " "+l[1]+". "+l[2]) {
			t.Errorf("doc.go does not begin law %s with %q", l[1], l[2])
		}
	}
}

// TestNamed: whoever came today finds every operation and every package of agent in its
// package comment, and every file that HACKING.md and docs/design.md name.
func TestNamed(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	words := regexp.MustCompile(`[a-z]+`).FindAllString(string(doc), -1)
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name, _ := strings.CutSuffix(e.Name(), ".go")
		if !strings.HasSuffix(name, "_test") && name != "doc" && !slices.Contains(words, name) {
			t.Errorf("doc.go does not name %s", e.Name())
		}
	}
	path := regexp.MustCompile("`([a-z]+(?:/[A-Za-z0-9_.@-]+)+)`")
	for _, page := range []string{"../HACKING.md", "../docs/design.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, m := range path.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat("../" + m[1]); err == nil {
				found++
			} else if _, err := os.Stat("../agent/" + m[1]); err == nil {
				found++
			} else {
				t.Errorf("%s names %s, which is not there", page, m[1])
			}
		}
		if found == 0 {
			t.Errorf("%s names no file: this looks for the wrong thing", page)
		}
	}
}
