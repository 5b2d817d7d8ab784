// Command flips looks for decisions that no test looks at. It turns each comparison, each
// bound, each "and" and "or" and each sum of a package into another one, one at a time, has
// the package's own tests look for it, and lists those that nobody missed:
//
//	go run ./packaging/flips [-files REGEXP] [-only N,…] [-run REGEXP] ./agent/decide
//
// All of them are compiled into one test binary, and the environment says which is in
// force: a flip costs what the tests cost until the first that fails.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// chosen, in the environment of the tests, is the number of the flip that is in force.
const chosen = "KEYGUARD_FLIP"

var (
	files = flag.String("files", "", "a regular expression: only the files whose names it fits")
	tests = flag.String("run", "", "a regular expression: only the tests that it fits")
	only  = flag.String("only", "", "the numbers of the flips, with commas between them; none is all")
)

func main() {
	flag.Parse()
	if err := run(flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "flips:", err)
		os.Exit(1)
	}
}

// flipped is one flip.
type flipped struct {
	at   token.Position
	what string // "< to <="
}

func run(dir string) error {
	p, err := load(dir)
	if err != nil {
		return err
	}
	temp, err := os.MkdirTemp("", "keyguard-flips-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp) //nolint:errcheck // it is temporary
	program, err := p.build(temp)
	if err != nil {
		return err
	}
	began := time.Now()
	if found, out := try(program, dir, 0, time.Hour); found {
		return fmt.Errorf("the tests fail without a flip:\n%s", out)
	}
	patience := 10*time.Second + 10*time.Since(began)
	tried, survived := 0, 0
	for n := 1; n <= len(p.flips); n++ {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), fmt.Sprint(n)) {
			continue
		}
		tried++
		if found, _ := try(program, dir, n, patience); !found {
			survived++
			f := p.flips[n-1]
			fmt.Printf("%d\t%s:%d:%d\t%s\n", n, filepath.Base(f.at.Filename), f.at.Line, f.at.Column, f.what)
		}
	}
	fmt.Printf("%s: %d flips, %d not found, %s\n", dir, tried, survived, time.Since(began).Round(time.Second))
	return nil
}

// try runs the tests with one flip in force, and tells whether they found it. A test that
// does not end has.
func try(program, dir string, n int, patience time.Duration) (found bool, out []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, program, "-test.failfast", "-test.short", "-test.run", *tests)
	c.Dir, c.WaitDelay = dir, time.Second
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%d", chosen, n))
	out, err := c.CombinedOutput()
	return err != nil, out
}

// pack is a package whose flips are being made.
type pack struct {
	dir, name string
	fset      *token.FileSet
	info      *types.Info
	sources   map[string][]byte // by path, as they are
	syntax    map[string]*ast.File
	flips     []flipped
}

// load reads a package and works out its types, by what the compiler exports of others.
func load(dir string) (*pack, error) {
	var list struct{ Dir, Name, ImportPath string }
	var names struct{ GoFiles []string }
	out, err := exec.Command("go", "list", "-json=Dir,Name,ImportPath,GoFiles", dir).Output()
	if err == nil {
		err = json.Unmarshal(out, &list)
	}
	if err == nil {
		err = json.Unmarshal(out, &names)
	}
	if err != nil {
		return nil, fmt.Errorf("go list %s: %w", dir, err)
	}
	p := &pack{dir: list.Dir, name: list.Name, fset: token.NewFileSet(), sources: map[string][]byte{}, syntax: map[string]*ast.File{},
		info: &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}}
	var all []*ast.File
	for _, name := range names.GoFiles {
		path := filepath.Join(p.dir, name)
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		f, err := parser.ParseFile(p.fset, path, text, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		p.sources[path], p.syntax[path] = text, f
		all = append(all, f)
	}
	exports, err := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}", dir).Output()
	if err != nil {
		return nil, fmt.Errorf("go list -export %s: %w", dir, err)
	}
	at := map[string]string{}
	for line := range strings.Lines(string(exports)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		at[path] = file
	}
	open := func(path string) (io.ReadCloser, error) { return os.Open(at[path]) }
	conf := types.Config{Importer: importer.ForCompiler(p.fset, "gc", open)}
	_, err = conf.Check(list.ImportPath, p.fset, all, p.info)
	return p, err
}

// build makes the test binary with all flips in it.
func (p *pack) build(temp string) (program string, err error) {
	pattern, err := regexp.Compile(*files)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	add := func(path string, text []byte) error {
		replace[path] = filepath.Join(temp, filepath.Base(path))
		return os.WriteFile(replace[path], text, 0o600)
	}
	var paths []string
	for path := range p.syntax {
		if pattern.MatchString(filepath.Base(path)) {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	for _, path := range paths {
		f := p.syntax[path]
		text := []byte(p.text(f, f.FileStart, f.FileEnd))
		if err := add(path, text); err != nil {
			return "", err
		}
	}
	if err := add(filepath.Join(p.dir, "flips_in_force.go"), fmt.Appendf(nil, inForce, p.name, chosen)); err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	where := filepath.Join(temp, "overlay.json")
	if err := os.WriteFile(where, overlay, 0o600); err != nil {
		return "", err
	}
	program = filepath.Join(temp, "flips.test")
	c := exec.Command("go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", where, "-o", program, p.dir)
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return program, nil
}

// inForce is what the flips call.
const inForce = `package %s

import (
	"os"
	"strconv"
)

var flipInForce, _ = strconv.Atoi(os.Getenv(%q))

func flipIs(n int) bool { return n == flipInForce }

func flipAnd(n int, x bool, y func() bool) bool {
	if flipIs(n) {
		return x || y()
	}
	return x && y()
}

func flipOr(n int, x bool, y func() bool) bool {
	if flipIs(n) {
		return x && y()
	}
	return x || y()
}

type flipInteger interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr
}

type flipNumber interface {
	flipInteger | ~float32 | ~float64
}

func flipADD[T flipNumber](n int, x, y T) T {
	if flipIs(n) {
		return x - y
	}
	return x + y
}

func flipSUB[T flipNumber](n int, x, y T) T {
	if flipIs(n) {
		return x + y
	}
	return x - y
}

func flipMUL[T flipNumber](n int, x, y T) T {
	if flipIs(n) {
		return x + y
	}
	return x * y
}

func flipQUO[T flipNumber](n int, x, y T) T {
	if flipIs(n) {
		return x * y
	}
	return x / y
}

func flipREM[T flipInteger](n int, x, y T) T {
	if flipIs(n) {
		return x * y
	}
	return x - x/y*y // the remainder: what follows a percent sign is filled in here
}
`

// text is the source of a node, or of a part of it, with the flips of all that is within.
func (p *pack) text(n ast.Node, from, to token.Pos) string {
	source := p.sources[p.fset.Position(n.Pos()).Filename]
	offset := func(at token.Pos) int { return p.fset.Position(at).Offset }
	var b bytes.Buffer
	at := from
	ast.Inspect(n, func(inner ast.Node) bool {
		if d, is := inner.(*ast.GenDecl); is && d.Tok == token.CONST {
			return false
		}
		x, is := inner.(*ast.BinaryExpr)
		if !is || x.Pos() < from || x.End() > to {
			return true
		}
		turned := p.flip(x)
		if turned == "" {
			return true
		}
		b.Write(source[offset(at):offset(x.Pos())])
		b.WriteString(turned)
		at = x.End()
		return false
	})
	b.Write(source[offset(at):offset(to)])
	return b.String()
}

// sums are what becomes of a number's operators, and by which function of inForce: the operands
// may be calls, and are made once.
var sums = map[token.Token]struct {
	by string
	to token.Token
}{
	token.ADD: {"ADD", token.SUB}, token.SUB: {"SUB", token.ADD}, token.MUL: {"MUL", token.ADD},
	token.QUO: {"QUO", token.MUL}, token.REM: {"REM", token.MUL},
}

// flip is an expression with its flips, "" where it has none.
func (p *pack) flip(e *ast.BinaryExpr) string {
	is := p.info.Types[e]
	if is.Value != nil { // a constant
		return ""
	}
	add := func(to string) int {
		p.flips = append(p.flips, flipped{p.fset.Position(e.OpPos), e.Op.String() + " to " + to})
		return len(p.flips)
	}
	operand := func(x ast.Expr) string { return "(" + p.text(x, x.Pos(), x.End()) + ")" }
	switch op := e.Op; op {
	case token.LAND:
		return fmt.Sprintf("flipAnd(%d, %s, func() bool { return %s })", add("||"), operand(e.X), operand(e.Y))
	case token.LOR:
		return fmt.Sprintf("flipOr(%d, %s, func() bool { return %s })", add("&&"), operand(e.X), operand(e.Y))
	case token.EQL, token.NEQ:
		return fmt.Sprintf("((%s %s %s) != flipIs(%d))", operand(e.X), op, operand(e.Y), add("its opposite"))
	case token.LSS, token.GTR:
		x, y := operand(e.X), operand(e.Y)
		return fmt.Sprintf("((%s %s %s || flipIs(%d) && %s == %s) != flipIs(%d))", x, op, y, add(op.String()+"="), x, y, add("its opposite"))
	case token.LEQ, token.GEQ:
		x, y := operand(e.X), operand(e.Y)
		return fmt.Sprintf("((%s %s %s && !(flipIs(%d) && %s == %s)) != flipIs(%d))", x, op, y, add(op.String()[:1]), x, y, add("its opposite"))
	}
	other, sum := sums[e.Op]
	if b, basic := is.Type.Underlying().(*types.Basic); !sum || !basic || b.Info()&types.IsNumeric == 0 {
		return ""
	}
	return fmt.Sprintf("flip%s(%d, %s, %s)", other.by, add(other.to.String()), operand(e.X), operand(e.Y))
}
