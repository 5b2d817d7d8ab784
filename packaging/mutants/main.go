// Command mutants plants the faults of agent/worlds/mutants.txt one by one, has the worlds
// look for each, and prints a table of what found it. `make mutants` runs it from the
// project's root.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

const list = "agent/worlds/mutants.txt"

var (
	worlds = flag.Int("worlds", 5000, "how many worlds a mutant may survive")
	seed   = flag.Uint64("seed", 1, "the first one's seed")
	only   = flag.String("run", "", "a regular expression: only the mutants that it fits")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run() error {
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	mutants, err := parse(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", list, err)
	}
	dir, err := os.MkdirTemp("", "keyguard-mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is temporary
	fmt.Println("| planted fault | found in world | what it breaks |")
	fmt.Println("|---|---|---|")
	survived := 0
	for _, m := range mutants {
		if !pattern.MatchString(m.name) {
			continue
		}
		world, law, err := m.hunt(dir)
		switch {
		case err != nil:
			survived++
			fmt.Fprintf(os.Stderr, "mutants: %s: %v\n", m.name, err)
			world = "not planted"
		case world == "":
			survived++
			world = fmt.Sprintf("not in %d", *worlds)
		}
		fmt.Printf("| %s | %s | %s |\n", m.name, world, law)
	}
	if survived > 0 {
		return fmt.Errorf("%d were not found", survived)
	}
	return nil
}

// mutant is a fault: what stands in some files instead of what.
type mutant struct {
	name  string
	hunks []hunk
}

type hunk struct {
	file     string
	old, new []string // lines; the first and the last may be parts of lines
}

// parse reads the list, whose format its head tells.
func parse(text string) (list []*mutant, err error) {
	for n, line := range strings.Split(text, "\n") {
		switch {
		case line == "" || line[0] == '#':
			continue
		case strings.HasPrefix(line, "== "):
			list = append(list, &mutant{name: line[3:]})
			continue
		case len(list) == 0:
			return nil, fmt.Errorf("line %d stands before the first mutant", n+1)
		}
		m := list[len(list)-1]
		last := len(m.hunks) - 1
		switch file, isFile := strings.CutPrefix(line, "file "); {
		case isFile:
			m.hunks = append(m.hunks, hunk{file: file})
		case last < 0:
			return nil, fmt.Errorf("line %d comes before the file", n+1)
		case line[0] == '-':
			if len(m.hunks[last].new) > 0 { // the next place in the same file
				m.hunks = append(m.hunks, hunk{file: m.hunks[last].file})
				last++
			}
			m.hunks[last].old = append(m.hunks[last].old, line[1:])
		case line[0] == '+':
			m.hunks[last].new = append(m.hunks[last].new, line[1:])
		default:
			return nil, fmt.Errorf("line %d is none of the kinds", n+1)
		}
	}
	return list, nil
}

// plant returns the files as they are with the fault.
func (m *mutant) plant() (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, h := range m.hunks {
		if files[h.file] == nil {
			text, err := os.ReadFile(h.file)
			if err != nil {
				return nil, err
			}
			files[h.file] = text
		}
		old := []byte(strings.Join(h.old, "\n"))
		if n := bytes.Count(files[h.file], old); n != 1 || len(old) == 0 {
			return nil, fmt.Errorf("%s has it %d times: %s", h.file, n, old)
		}
		files[h.file] = bytes.Replace(files[h.file], old, []byte(strings.Join(h.new, "\n")), 1)
	}
	return files, nil
}

// hunt builds the worlds with the fault below dir and plays them: in which world something
// broke, and what; "" for in none.
func (m *mutant) hunt(dir string) (world, broke string, err error) {
	files, err := m.plant()
	if err != nil {
		return "", "", err
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for name, text := range files {
		path, err := filepath.Abs(name)
		if err != nil {
			return "", "", err
		}
		mutated := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(mutated, text, 0o600); err != nil {
			return "", "", err
		}
		overlay.Replace[path] = mutated
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		return "", "", err
	}
	where, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "worlds.test")
	if err := os.WriteFile(where, text, 0o600); err != nil {
		return "", "", err
	}
	build := exec.Command("go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", where, "-o", program, "./agent/worlds")
	if out, err := build.CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("%w\n%s", err, out)
	}
	play := exec.Command(program, "-test.run", "^TestWorlds$", "-test.timeout", "1h", "-found", "-worlds", fmt.Sprint(*worlds), "-seed", fmt.Sprint(*seed))
	play.Dir = "agent/worlds"
	out, err := play.CombinedOutput()
	if found := broken.FindSubmatch(out); found != nil {
		return string(found[1]), string(found[2]), nil
	}
	if _, ok := errors.AsType[*exec.ExitError](err); ok { // it panicked, or did not end: that is found, too
		return "?", "it does not end well", nil
	}
	return "", "", err
}

// broken is what TestWorlds says of the first world in which a law breaks.
var broken = regexp.MustCompile(`world (\d+): ([^\n:]+)`)
