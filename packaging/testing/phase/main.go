// Command phase runs one phase of make test and notes what it cost; and prints the notes.
//
//	phase FILE NAME COMMAND [ARGUMENT...]
//	phase FILE
//
// Of a command that prints what go test -json does it shows what go test would, and notes
// how long each test took. A phase's processor time is that of the command and of all that
// it waited for: other programs on the machine change it little.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
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
	Name  string
	Wall  time.Duration
	CPU   time.Duration
	Tests []test `json:",omitempty"`
}

type test struct {
	Name string // with its package
	Took time.Duration
}

func run(file, name string, c *exec.Cmd) error {
	c.Stdin, c.Stderr = os.Stdin, os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := c.Start(); err != nil {
		return err
	}
	tests, err := show(out, os.Stdout)
	failed := c.Wait()
	if failed != nil {
		return fmt.Errorf("%s: %w", name, failed)
	}
	if err != nil {
		return err
	}
	line, err := json.Marshal(phase{name, time.Since(start), c.ProcessState.UserTime() + c.ProcessState.SystemTime(), tests})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(append(line, '\n'))
	return err
}

// show copies what a command prints, and tells the tests of go test -json: of those that
// pass nothing is shown, as go test does.
func show(from io.Reader, to io.Writer) (tests []test, err error) {
	said := map[string]*strings.Builder{} // by tests that run
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			for name, text := range said { // whose package ended without a word
				fmt.Fprintf(to, "%s did not end:\n%s", name, text)
			}
			if err == io.EOF {
				err = nil
			}
			io.WriteString(to, line) //nolint:errcheck // to a terminal or a log
			return tests, err
		}
		var e struct {
			Action, Package, Test, Output string
			Elapsed                       float64
		}
		if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
			io.WriteString(to, line) //nolint:errcheck // as above
			continue
		}
		name := e.Package + " " + e.Test
		switch {
		case e.Test == "" && e.Action == "fail": // what a panic or a timeout cut short
			for name, text := range said {
				if strings.HasPrefix(name, e.Package+" ") {
					io.WriteString(to, text.String()) //nolint:errcheck // as above
					delete(said, name)
				}
			}
		case e.Test == "" && e.Output != "PASS\n":
			io.WriteString(to, e.Output) //nolint:errcheck // as above
		case e.Test == "":
		case e.Action == "output" && !strings.HasPrefix(e.Output, "=== "):
			if said[name] == nil {
				said[name] = &strings.Builder{}
			}
			said[name].WriteString(e.Output)
		case e.Action == "pass" || e.Action == "skip" || e.Action == "fail":
			if e.Action == "fail" && said[name] != nil {
				io.WriteString(to, said[name].String()) //nolint:errcheck // as above
			}
			delete(said, name)
			if !strings.Contains(e.Test, "/") {
				tests = append(tests, test{name, time.Duration(e.Elapsed * float64(time.Second))})
			}
		}
	}
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
	return nil
}
