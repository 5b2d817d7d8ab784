package agent_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// shared is what leaves and agent/internal may know.
func shared(own string) bool {
	return own == "agent/key" || own == "agent/printable" || own == "agent/crew" || strings.HasPrefix(own, "agent/internal/")
}

const module = "github.com/footprintai/containarium-keyguard/"

// leaves own one outside thing each. They share the words of agent/key, what is shown of
// others (agent/printable), who runs goroutines (agent/crew) and what is in agent/internal, and do not know each other.
var leaves = []string{"agent/config", "agent/escrow", "agent/escrow/kinds", "agent/keyfile", "agent/ledger", "agent/notify", "agent/paper", "agent/rows", "agent/textfile", "agent/unit"}

// source is one file of the program itself: no tests, no test programs.
type source struct {
	path, dir string
	file      *ast.File
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	set := token.NewFileSet()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path = filepath.ToSlash(strings.TrimPrefix(path, "../"))
		if d.IsDir() {
			switch {
			case strings.HasPrefix(d.Name(), ".") && path != "..",
				path == "packaging", path == "agent/worlds", d.Name() == "testdata", strings.HasSuffix(d.Name(), "test"):
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(set, filepath.Join("..", path), nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		all = append(all, source{path, filepath.Dir(path), file})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 30 {
		t.Fatalf("only %d files were found: this looks in the wrong place", len(all))
	}
	return all
}

func (s source) imports() []string {
	var list []string
	for _, i := range s.file.Imports {
		path, _ := strconv.Unquote(i.Path.Value)
		list = append(list, path)
	}
	return list
}

// calls lists what is called as package.Name in the file.
func (s source) calls() []string {
	var list []string
	ast.Inspect(s.file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok {
				list = append(list, x.Name+"."+sel.Sel.Name)
			}
		}
		return true
	})
	return list
}

// TestRings holds the packages to their places: three rings, leaves that do not know
// each other, and one owner for each outside thing.
func TestRings(t *testing.T) {
	// Who may import what begins with the key; everybody else may not.
	owners := map[string][]string{
		"github.com/jackc/pgx":          {"agent/rows"},
		"cloud.google.com/":             {"agent/escrow/kinds"},
		"google.golang.org/":            {"agent/escrow/kinds"},
		"github.com/hashicorp/":         {"agent/escrow/kinds"},
		"github.com/aws/":               {"agent/escrow/kinds"},
		"golang.org/x/oauth2":           {"agent/escrow/kinds"},
		"filippo.io/age":                {"agent/escrow/kinds", "agent/internal/recipient"},
		"github.com/coreos/go-systemd/": {"agent/unit"},
		"github.com/prometheus/":        {"agent/textfile"},
		"github.com/boombuler/":         {"agent/paper"},
		"golang.org/x/image":            {"agent/paper"},
		"github.com/spf13/":             {"cmd/keyguard"},
		"maragu.dev/":                   {"agent/paper", "cmd/keyguard"},
		"os/exec":                       {"agent/internal/run"},
		module + "agent/escrow/kinds":   {"cmd/keyguard"}, // all else knows the contract, and links no store's client
	}
	for _, s := range sources(t) {
		for _, path := range s.imports() {
			for prefix, allowed := range owners {
				if strings.HasPrefix(path, prefix) && !slices.Contains(allowed, s.dir) {
					t.Errorf("%s imports %s, which is for %v", s.path, path, allowed)
				}
			}
			if path == "text/template" || path == "html/template" {
				t.Errorf("%s imports %s: where anything may be called by a name that is made up at run time, the linker keeps every exported method of every type", s.path, path)
			}
			own, ok := strings.CutPrefix(path, module)
			if !ok {
				if s.dir == "agent/decide" && !slices.Contains([]string{"cmp", "errors", "fmt", "maps", "slices", "time"}, path) {
					t.Errorf("%s imports %s: who judges looks at nothing", s.path, path)
				}
				continue
			}
			switch {
			case slices.Contains(leaves, s.dir):
				if !shared(own) && own != filepath.Dir(s.dir) { // the contract of its kinds
					t.Errorf("%s: a leaf imports %s", s.path, own)
				}
			case s.dir == "agent/decide":
				if !slices.Contains([]string{"agent/key", "agent/rows", "agent/escrow"}, own) {
					t.Errorf("%s imports %s: it needs words of the evidence alone", s.path, own)
				}
			case s.dir == "agent/key", s.dir == "agent/printable", s.dir == "agent/crew", strings.HasPrefix(s.dir, "agent/internal/"):
				if strings.HasPrefix(own, "agent/") && !shared(own) {
					t.Errorf("%s imports %s, which stands above it", s.path, own)
				}
			}
			if strings.HasPrefix(own, "cmd/") && !strings.HasPrefix(s.dir, "cmd/") || (strings.HasPrefix(own, "hooks") && s.dir != "cmd/keyguard") {
				t.Errorf("%s imports %s, which is a ring further out", s.path, own)
			}
		}
		for _, call := range s.calls() {
			switch call {
			case "net.Listen", "net.ListenTCP", "net.ListenUnix", "net.ListenPacket", "http.ListenAndServe":
				t.Errorf("%s uses %s: nothing listens (law 8)", s.path, call)
			case "time.DateTime":
				t.Errorf("%s uses %s, which has no zone: printable.Time", s.path, call)
			case "durable.Disk", "durable.Simulated", "lock.Find":
				t.Errorf("%s uses %s: the program's disk is the real one", s.path, call)
			case "os.Exit", "fmt.Print", "fmt.Printf", "fmt.Println", "log.Print", "log.Printf", "log.Fatal", "os.Stdout", "os.Stderr":
				if s.dir != "cmd/keyguard" {
					t.Errorf("%s uses %s: only cmd talks to people", s.path, call)
				}
			}
		}
	}
}

// TestGoroutines: every goroutine of the program is one of agent/crew, which turns a panic
// into an error of whoever waits. A recover anywhere else would not reach it.
func TestGoroutines(t *testing.T) {
	for _, s := range sources(t) {
		if s.dir == "agent/crew" {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if _, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s has a go statement: use agent/crew", s.path)
			}
			return true
		})
		if slices.Contains(s.imports(), "golang.org/x/sync/errgroup") {
			t.Errorf("%s imports errgroup: use agent/crew", s.path)
		}
		for _, call := range s.calls() {
			if slices.Contains([]string{"sync.WaitGroup", "time.AfterFunc"}, call) {
				t.Errorf("%s uses %s: use agent/crew", s.path, call)
			}
		}
	}
}

// TestLocksEndWithPanics: whoever holds a lock while it calls something gives it back by a
// deferred call. Otherwise a panic there, which package crew makes an error of, would have all
// others wait for ever.
func TestLocksEndWithPanics(t *testing.T) {
	builtin := []string{"append", "cap", "clear", "close", "delete", "len", "make", "max", "min", "new"}
	// of is what a call of a method is made of, "" for any other call.
	of := func(n ast.Node, method string) string {
		if e, ok := n.(*ast.ExprStmt); ok {
			n = e.X
		}
		if c, ok := n.(*ast.CallExpr); ok {
			if f, ok := c.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == method {
				return types.ExprString(f.X)
			}
		}
		return ""
	}
	gives := func(held *ast.DeferStmt, unlock, lock string) (is bool) {
		ast.Inspect(held, func(n ast.Node) bool {
			is = is || n != nil && of(n, unlock) == lock
			return !is
		})
		return is
	}
	called := func(held ast.Stmt) (is bool) {
		ast.Inspect(held, func(n ast.Node) bool {
			if c, ok := n.(*ast.CallExpr); ok {
				f, ok := c.Fun.(*ast.Ident)
				is = is || !ok || !slices.Contains(builtin, f.Name)
			}
			return !is
		})
		return is
	}
	taken := 0
	for _, s := range sources(t) {
		function := ""
		ast.Inspect(s.file, func(n ast.Node) bool {
			var list []ast.Stmt
			switch n := n.(type) {
			case *ast.FuncDecl:
				function = n.Name.Name
			case *ast.BlockStmt:
				list = n.List
			case *ast.CaseClause:
				list = n.Body
			case *ast.CommClause:
				list = n.Body
			}
			for i, stmt := range list {
				for take, unlock := range map[string]string{"Lock": "Unlock", "RLock": "RUnlock"} {
					lock := of(stmt, take)
					if lock == "" {
						continue
					}
					for _, held := range list[i+1:] {
						if d, deferred := held.(*ast.DeferStmt); deferred && gives(d, unlock, lock) || of(held, unlock) == lock {
							break
						}
						if called(held) {
							t.Errorf("%s: in %s something is called under %s that no deferred call gives back", s.path, function, lock)
						}
					}
					taken++
				}
			}
			return true
		})
	}
	if taken < 40 {
		t.Errorf("only %d locks are taken: this looks in the wrong place", taken)
	}
}

// TestWhatToTypeIsWordedInCmd: agent and hooks say what is so, and name no command of keyguard's.
// An event is one sentence, which ends in what to type; a sheet in a safe and a file on a stick
// have to tell whoever holds them. TestHints of cmd tries what events and sheets name.
func TestWhatToTypeIsWordedInCmd(t *testing.T) {
	advice := map[string]int{"hooks/events.go": 0, "hooks/watchtell.go": 0, "hooks/watchdaemon.go": 0, "hooks/drill.go": 0,
		"agent/paper/paper.go": 0, "agent/escrow/kinds/directory.go": 0}
	var commands []string
	all := sources(t)
	for _, s := range all {
		ast.Inspect(s.file, func(n ast.Node) bool {
			if f, ok := n.(*ast.KeyValueExpr); ok && s.dir == "cmd/keyguard" {
				if k, ok := f.Key.(*ast.Ident); ok && k.Name == "Use" {
					if use, ok := f.Value.(*ast.BasicLit); ok {
						text, _ := strconv.Unquote(use.Value)
						if name, _, _ := strings.Cut(text, " "); name != "version" { // a word of other things, too
							commands = append(commands, name)
						}
					}
				}
			}
			return true
		})
	}
	if len(commands) < 15 {
		t.Fatalf("only %q are commands: this looks in the wrong place", commands)
	}
	named := regexp.MustCompile(`\bkeyguard (` + strings.Join(commands, "|") + `)\b`)
	for _, s := range all {
		if strings.HasPrefix(s.path, "cmd/") {
			continue
		}
		_, may := advice[s.path]
		ast.Inspect(s.file, func(n ast.Node) bool {
			text, ok := n.(*ast.BasicLit)
			switch {
			case !ok || text.Kind != token.STRING || !named.MatchString(text.Value):
			case may:
				advice[s.path]++
			default:
				t.Errorf("%s says %s: what to type is worded in cmd", s.path, text.Value)
			}
			return true
		})
	}
	for path, n := range advice {
		if n == 0 {
			t.Errorf("%s may name commands, and names none", path)
		}
	}
}
