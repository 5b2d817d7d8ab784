// Command mutants plants the faults of agent/worlds/mutants.txt one by one, has the worlds
// look for each, and prints a table of what found it. `make mutants` runs it from the
// project's root.
//
// All of them are compiled into one program, and the environment says which is in force: a
// fault costs what the worlds cost until the first that breaks.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// chosen, in the environment of the worlds, is the number of the fault that is in force.
const chosen = "KEYGUARD_MUTANT"

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
	program, err := build(dir, mutants)
	if err != nil {
		return err
	}
	switch world, law, err := hunt(program, 0); {
	case err != nil:
		return err
	case world != "":
		return fmt.Errorf("world %s breaks %s without a fault", world, law)
	}
	fmt.Println("| planted fault | found in world | what it breaks |")
	fmt.Println("|---|---|---|")
	survived := 0
	for n, m := range mutants {
		if !pattern.MatchString(m.name) {
			continue
		}
		world, law, err := hunt(program, n+1)
		switch {
		case err != nil:
			survived++
			fmt.Fprintf(os.Stderr, "mutants: %s: %v\n", m.name, err)
			world = "not played"
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

// function is one of a file.
type function struct {
	name      string
	signature string // up to the brace, but for the name, for which a %s stands
	body      string // what stands in its braces
	call      string // by itself with what it was called with, and again a %s for the name
}

// functions are those of a file by their signatures, and what stands outside of them.
func functions(text []byte) (all map[string]function, rest string, err error) {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, "", text, 0)
	if err != nil {
		return nil, "", err
	}
	offset := func(at token.Pos) int { return set.Position(at).Offset }
	all = map[string]function{}
	at := 0
	for _, d := range f.Decls {
		d, is := d.(*ast.FuncDecl)
		if !is || d.Body == nil {
			continue
		}
		begins, ends := offset(d.Body.Lbrace)+1, offset(d.Body.Rbrace)
		one := function{name: d.Name.Name, body: string(text[begins:ends])}
		one.signature = string(text[offset(d.Pos()):offset(d.Name.Pos())]) + "%s" + string(text[offset(d.Name.End()):begins])
		one.call = called(d)
		all[fmt.Sprintf(one.signature, one.name)] = one
		rest, at = rest+string(text[at:begins]), ends
	}
	return all, rest + string(text[at:]), nil
}

// called is how a function calls another one that has its parameters.
func called(d *ast.FuncDecl) string {
	var with []string
	for _, p := range d.Type.Params.List {
		for _, name := range p.Names {
			with = append(with, name.Name)
		}
		if _, variadic := p.Type.(*ast.Ellipsis); variadic {
			with[len(with)-1] += "..."
		}
	}
	call := "%s(" + strings.Join(with, ", ") + ")"
	if d.Recv != nil && len(d.Recv.List[0].Names) > 0 {
		call = d.Recv.List[0].Names[0].Name + "." + call
	}
	if d.Type.Results != nil {
		return "return " + call
	}
	return call + "; return"
}

// weave returns the files as they are with all the faults in them, of which that is in force
// whose number mutantInForce is: a function that one changes calls itself as it is with that.
func weave(mutants []*mutant) (map[string][]byte, error) {
	woven := map[string][]byte{}
	for n, m := range mutants {
		planted, err := m.plant()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		for file, text := range planted {
			original, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			if woven[file] == nil {
				woven[file] = original
			}
			was, outside, err := functions(original)
			if err != nil {
				return nil, err
			}
			is, outsideNow, err := functions(text)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", m.name, err)
			}
			if outsideNow != outside {
				return nil, fmt.Errorf("%s: it changes more of %s than what functions do", m.name, file)
			}
			for head, f := range is {
				if f.body == was[head].body {
					continue
				}
				name := fmt.Sprintf("%sMutant%d", f.name, n+1)
				asks := fmt.Sprintf("%s if mutantInForce == %d { %s }\n", head, n+1, fmt.Sprintf(f.call, name))
				woven[file] = bytes.Replace(woven[file], []byte(head), []byte(asks), 1)
				woven[file] = fmt.Appendf(woven[file], "\n"+f.signature+"%s}\n", name, f.body)
			}
		}
	}
	return woven, nil
}

// inForce is what the faults ask, in each package that has any.
const inForce = `package %s

import (
	"os"
	"strconv"
)

var mutantInForce, _ = strconv.Atoi(os.Getenv(%q))
`

// overlay writes the files with all the faults in them below dir, and of what each stands in
// the place, for Go.
func overlay(dir string, mutants []*mutant) (where string, err error) {
	woven, err := weave(mutants)
	if err != nil {
		return "", err
	}
	for file, text := range maps.Clone(woven) {
		f, err := parser.ParseFile(token.NewFileSet(), "", text, parser.PackageClauseOnly)
		if err != nil {
			return "", fmt.Errorf("%s: %w", file, err)
		}
		woven[filepath.Join(filepath.Dir(file), "mutant_in_force.go")] = fmt.Appendf(nil, inForce, f.Name, chosen)
	}
	list := struct{ Replace map[string]string }{map[string]string{}}
	for file, text := range woven {
		path, err := filepath.Abs(file)
		if err != nil {
			return "", err
		}
		list.Replace[path] = filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(list.Replace[path], text, 0o600); err != nil {
			return "", err
		}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return "", err
	}
	where = filepath.Join(dir, "overlay.json")
	return where, os.WriteFile(where, text, 0o600)
}

// build makes the worlds with all the faults in them, below dir.
func build(dir string, mutants []*mutant) (program string, err error) {
	where, err := overlay(dir, mutants)
	if err != nil {
		return "", err
	}
	program = filepath.Join(dir, "worlds.test")
	return program, compile("test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", where, "-o", program, "./agent/worlds")
}

func compile(with ...string) error {
	c := exec.Command("go", with...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0") // as most is compiled already
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// hunt plays the worlds with the fault of a number, 0 for none: in which of them something
// broke, and what; "" for in none.
func hunt(program string, n int) (world, broke string, err error) {
	play := exec.Command(program, "-test.run", "^TestWorlds$", "-test.timeout", "1h", "-found", "-worlds", fmt.Sprint(*worlds), "-seed", fmt.Sprint(*seed))
	play.Dir, play.Env = "agent/worlds", append(os.Environ(), fmt.Sprintf("%s=%d", chosen, n))
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
