// Command phase runs one phase of make test and notes what it cost; and prints the notes.
//
//	phase FILE NAME COMMAND [ARGUMENT...]
//	phase FILE
//
// Of a command that prints what go test -json does it shows what go test would, and notes
// how long each test took. Where KEYGUARD_MUST_RUN is set, one that was skipped has failed. A phase's processor time is that of the command and of all that
// it waited for: other programs on the machine change it little.
//
// Phases go side by side, and what fails in one scrolls away under the other: so the notes
// have what failed, and what it said, and end with it.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 2:
		err = table(os.Args[1], os.Stdout)
	case len(os.Args) > 3:
		err = run(os.Args[1], os.Args[2], exec.Command(os.Args[3], os.Args[4:]...))
	default:
		err = fmt.Errorf("usage: phase FILE [NAME COMMAND [ARGUMENT...]]")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "phase:", err)
		os.Exit(1)
	}
}

// module is what all packages have in common.
const module = "github.com/footprintai/containarium-keyguard/"

// phase is one line of the file.
type phase struct {
	Name   string
	Wall   time.Duration
	CPU    time.Duration
	Tests  []test    `json:",omitempty"`
	Failed []failure `json:",omitempty"`
}

type test struct {
	Name string // with its package
	Took time.Duration
}

// failure is a test that failed, or a command that did without one.
type failure struct {
	Name string // with its package
	Said []string
}

func run(file, name string, c *exec.Cmd) error {
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	var last tail
	c.Stdin, c.Stderr = os.Stdin, io.MultiWriter(os.Stderr, &last)
	start := time.Now()
	if err := c.Start(); err != nil {
		return err
	}
	tests, failures, err := show(out, io.MultiWriter(os.Stdout, &last))
	failed := cmp.Or(c.Wait(), err)
	switch {
	case failed == nil && len(failures) > 0:
		failed = errSkipped
	case failed != nil && len(failures) == 0:
		failures = []failure{{failed.Error(), last.lines()}}
	}
	line, err := json.Marshal(phase{name, time.Since(start), c.ProcessState.UserTime() + c.ProcessState.SystemTime(), tests, failures})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = f.Write(append(line, '\n')); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("%s: %w", name, failed)
	}
	return nil
}

// errSkipped says that a command passed, and not all of its tests.
var errSkipped = errors.New("tests that must run were skipped")

// show copies what a command prints, and tells the tests of go test -json: of those that
// pass nothing is shown, as go test does.
func show(from io.Reader, to io.Writer) (tests []test, failures []failure, err error) {
	said := map[string]*strings.Builder{} // by package and test, of what did not end yet
	add := func(name, text string) {
		if said[name] == nil {
			said[name] = &strings.Builder{}
		}
		said[name].WriteString(text)
	}
	end := func(name string) (text string) {
		if said[name] != nil {
			text = said[name].String()
		}
		delete(said, name)
		return text
	}
	fail := func(name, text string) {
		lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		if len(lines) > 1 || !strings.HasPrefix(strings.TrimSpace(lines[0]), "--- FAIL") { // which failed by its parts
			failures = append(failures, failure{strings.TrimSpace(name), bound(lines)})
		}
	}
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			for _, name := range slices.Sorted(maps.Keys(said)) { // whose package ended without a word
				if !strings.HasSuffix(name, " ") {
					text := end(name)
					fmt.Fprintf(to, "%s did not end:\n%s", name, text)
					fail(name, text)
				}
			}
			if err == io.EOF {
				err = nil
			}
			io.WriteString(to, line) //nolint:errcheck // to a terminal or a log
			return tests, failures, err
		}
		var e struct {
			Action, Package, Test, Output string
			ImportPath, FailedBuild       string
			Elapsed                       float64
		}
		if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
			io.WriteString(to, line) //nolint:errcheck // as above
			continue
		}
		name := e.Package + e.ImportPath + " " + e.Test
		switch {
		case e.Test == "" && e.Action == "fail":
			text := end(e.FailedBuild+" ") + end(name)
			for _, test := range slices.Sorted(maps.Keys(said)) { // what a panic or a timeout cut short
				if strings.HasPrefix(test, name) {
					text := end(test)
					io.WriteString(to, text) //nolint:errcheck // as above
					fail(test, text)
				}
			}
			if !slices.ContainsFunc(failures, func(f failure) bool { return strings.HasPrefix(f.Name, name) }) {
				fail(name, text)
			}
		case e.Test == "" && e.Action == "pass":
			end(name)
		case e.Test == "" && e.Output != "PASS\n":
			io.WriteString(to, e.Output) //nolint:errcheck // as above
			add(name, e.Output)
		case e.Test == "":
		case e.Action == "output" && !strings.HasPrefix(e.Output, "=== "):
			add(name, e.Output)
		case e.Action == "pass" || e.Action == "skip" || e.Action == "fail":
			text := end(name)
			if e.Action == "fail" || e.Action == "skip" && os.Getenv("KEYGUARD_MUST_RUN") != "" {
				io.WriteString(to, text) //nolint:errcheck // as above
				fail(name, text)
			}
			if !strings.Contains(e.Test, "/") {
				tests = append(tests, test{name, time.Duration(e.Elapsed * float64(time.Second))})
			}
		}
	}
}

// most is how many lines of what failed are said again.
const most = 60

// bound keeps a beginning, where most tests say why, and an end, where a panic does.
func bound(lines []string) []string {
	if left := len(lines) - most; left > 0 {
		lines = slices.Concat(lines[:most/2], []string{fmt.Sprintf("... %d lines ...", left)}, lines[len(lines)-most/2:])
	}
	return lines
}

// tail keeps the last lines of what two streams of a command printed.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if over := len(t.text) - 1<<16; over > 0 {
		t.text = t.text[over:]
	}
	return len(b), nil
}

func (t *tail) lines() []string {
	lines := strings.Split(strings.TrimSuffix(string(t.text), "\n"), "\n")
	return lines[max(0, len(lines)-most):]
}

func table(file string, to io.Writer) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name string, wall, cpu time.Duration) {
		fmt.Fprintf(w, "%s\t%s\t%s\t\n", name, wall.Round(time.Second), cpu.Round(time.Second))
	}
	fmt.Fprintln(w, "phase\twall\tCPU\t")
	var sum phase
	var tests []test
	var failures []failure
	for line := range strings.Lines(string(content)) {
		var p phase
		if err := json.Unmarshal([]byte(line), &p); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		row(p.Name, p.Wall, p.CPU)
		sum.Wall, sum.CPU = sum.Wall+p.Wall, sum.CPU+p.CPU
		for _, t := range p.Tests {
			tests = append(tests, test{p.Name + ": " + t.Name, t.Took})
		}
		for _, f := range p.Failed {
			failures = append(failures, failure{p.Name + ": " + f.Name, f.Said})
		}
	}
	row("all", sum.Wall, sum.CPU)
	if err := w.Flush(); err != nil {
		return err
	}
	slices.SortFunc(tests, func(a, b test) int { return cmp.Compare(b.Took, a.Took) })
	fmt.Fprintln(to, "the slowest tests:")
	for _, t := range tests[:min(10, len(tests))] {
		fmt.Fprintf(to, "%8s  %s\n", t.Took.Round(100*time.Millisecond), strings.ReplaceAll(t.Name, module, ""))
	}
	for _, f := range failures {
		fmt.Fprintf(to, "\nFAILED %s\n%s\n", strings.ReplaceAll(f.Name, module, ""), strings.Join(f.Said, "\n"))
	}
	return nil
}
