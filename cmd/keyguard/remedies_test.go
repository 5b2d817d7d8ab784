package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/textfile"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// noRemedy are the exported errors that never reach a person as they are.
var noRemedy = map[string]string{
	"config.ErrNotLookedAt": "a start that has nothing to do meets it, and leaves the work to its worker",
	"key.ErrMarshal":        "a fault of ours: whoever marshals a key finds out in a test",
	"ledger.ErrEntry":       "a fault of ours: an entry that operations never make",
	"keyfile.ErrNoNext":     "a fault of ours: only a rotation that staged a key uses it",
	"keyfile.ErrNotOwner":   "agent puts the key in a file of its own then",
	"lock.ErrBusy":          "agent makes its own ErrBusy of it",
	"durable.ErrAppendOnly": "it is fs.ErrPermission, and escrow makes ErrHeld of it",
	"durable.ErrNoRename2":  "keyfile takes law 3's other way then",
	"run.ErrExit":           "escrow makes ErrUnreachable of it",
	"run.ErrOutput":         "escrow makes ErrUnreachable of it",
	"run.ErrAbandoned":      "escrow makes ErrTimeout of it",
	"fleet.ErrInventory":    "what the command line names is wrong: the help of fleet says how it is",
	"fleet.ErrStatus":       "a host's row of fleet says it",
	"escrow.ErrNotListed":   "fleet looks at each host that it is told of then",
	"escrow.ErrLeftOpen":    "fleet shows what it is, in the cell of the host",
}

// parsed is every Go file below a directory that is part of the program.
func parsed(t *testing.T, root string) map[string]*ast.File {
	t.Helper()
	files := map[string]*ast.File{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && strings.HasSuffix(d.Name(), "test"), d.Name() == "testdata":
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go"), strings.HasSuffix(path, "_test.go"):
			return nil
		}
		files[path], err = parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestEveryErrorHasARemedy walks the exported errors of agent and of everything below it.
func TestEveryErrorHasARemedy(t *testing.T) {
	covered := map[string]bool{}
	ast.Inspect(parsed(t, ".")["remedies.go"], func(n ast.Node) bool {
		if list, ok := n.(*ast.CompositeLit); ok && len(list.Elts) == 3 {
			covered[name(list.Elts[0], "")] = true
		}
		return true
	})
	if len(covered) < len(remedies) {
		t.Fatalf("only %d of %d remedies were found in remedies.go", len(covered), len(remedies))
	}
	exported, same := map[string]bool{}, map[string]string{}
	for _, f := range parsed(t, "../../agent") {
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range g.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					if regexp.MustCompile("^Err[A-Z]").MatchString(s.Name.Name) {
						exported[f.Name.Name+"."+s.Name.Name] = true
					}
				case *ast.ValueSpec:
					for i, id := range s.Names {
						if !strings.HasPrefix(id.Name, "Err") {
							continue
						}
						full := f.Name.Name + "." + id.Name
						exported[full] = true
						if _, call := s.Values[i].(*ast.CallExpr); !call { // another name for one
							same[name(s.Values[i], f.Name.Name)] = full
						}
					}
				}
			}
		}
	}
	if len(exported) < 60 {
		t.Fatalf("only %d errors were found: this looks in the wrong place", len(exported))
	}
	for full := range exported {
		_, excepted := noRemedy[full]
		switch has := covered[full] || covered[same[full]]; {
		case has && excepted:
			t.Errorf("%s is excepted and has a remedy", full)
		case !has && !excepted:
			t.Errorf("%s has no remedy", full)
		}
	}
	for full := range noRemedy {
		if !exported[full] {
			t.Errorf("%s is excepted and does not exist", full)
		}
	}
}

// name is how an expression is written: "rows.ErrTimeout".
func name(e ast.Expr, pkg string) string {
	switch e := e.(type) {
	case *ast.SelectorExpr:
		return name(e.X, "") + "." + e.Sel.Name
	case *ast.Ident:
		if pkg != "" {
			return pkg + "." + e.Name
		}
		return e.Name
	}
	return ""
}

// TestRemediesOrder: the first remedy that fits is taken, so a more general one before it
// would hide the special one.
func TestRemediesOrder(t *testing.T) {
	for j, special := range remedies {
		for _, general := range remedies[:j] {
			if errors.Is(special.err, general.err) {
				t.Errorf("%q is never reached: %q stands before it", special.hint, general.hint)
			}
		}
	}
}

// hints are the texts that tell people what to type.
func hints(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, r := range remedies {
		all = append(all, r.hint)
	}
	for _, h := range lastWord {
		all = append(all, h)
	}
	texts := func(in ast.Node, atLeast int) {
		before := len(all)
		ast.Inspect(in, func(n ast.Node) bool {
			if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING {
				s, err := strconv.Unquote(text.Value)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, s)
			}
			return true
		})
		if len(all) < before+atLeast {
			t.Fatalf("only %d texts were found where there are %d", len(all)-before, atLeast)
		}
	}
	files, called := parsed(t, "."), &ast.BlockStmt{}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && name(call.Fun, "") == "a.hint" {
				called.List = append(called.List, &ast.ExprStmt{X: call})
			}
			return true
		})
	}
	texts(called, 5)
	texts(files["statusremedies.go"], 30) // which say nothing else
	texts(files["doctorremedies.go"], 20)
	for dir, names := range map[string][]string{ // which may name commands too (agent/rings_test.go)
		"../../hooks":       {"events.go", "watchtell.go", "watchdaemon.go", "drill.go"},
		"../../agent/paper": {"paper.go"},
	} {
		for _, name := range names {
			texts(parsed(t, dir)[filepath.Join(dir, name)], 5)
		}
	}
	return all
}

// TestMends: whatever can ail, be lacking, be found by the doctor or go wrong with an escrow has
// words for what to type.
func TestMends(t *testing.T) {
	said := map[string]func(string) string{
		"Ails":    func(word string) string { return map[bool]string{false: word}[ailRemedies[agent.Ails(word)] == nil] },
		"Fix":     func(word string) string { return fixRemedy(agent.DoctorResult{}, agent.Check{Fix: agent.Fix(word)}) },
		"Lack":    func(word string) string { return improvements[agent.Lack(word)] },
		"Trouble": func(word string) string { return troubleRemedy(&escrow.TroubleError{Trouble: escrow.Trouble(word)}) },
	}
	found := map[string]int{}
	for _, f := range parsed(t, "../../agent") {
		ast.Inspect(f, func(node ast.Node) bool {
			spec, ok := node.(*ast.ValueSpec)
			if !ok || said[name(spec.Type, "")] == nil {
				return true
			}
			word, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			switch {
			case err != nil:
				t.Error(err)
			case word == "": // LacksNothing
			case said[name(spec.Type, "")](word) == "":
				t.Errorf("nothing is said of %s", spec.Names[0])
			default:
				found[name(spec.Type, "")]++
			}
			return true
		})
	}
	if found["Ails"] < 15 || found["Ails"] != len(ailRemedies) || found["Fix"] < 30 || found["Lack"] != len(improvements) || found["Trouble"] < 7 {
		t.Errorf("%v were found", found)
	}
}

// TestHints: what a hint says to type can be typed.
func TestHints(t *testing.T) {
	root := (&app{}).commands()
	found := 0
	for _, h := range hints(t) {
		found += demandTyped(t, root, h)
	}
	if found < 200 {
		t.Fatalf("only %d commands were found in hints", found)
	}
}

// TestRemediesSayWhatToDo: every remedy names something to type, or to look at and then type.
func TestRemediesSayWhatToDo(t *testing.T) {
	typed := regexp.MustCompile(`keyguard [a-z]+|systemctl|incus |chmod |timedatectl|\bdf\b|dmesg|mount|sudo|--out-file`)
	for _, r := range remedies {
		if beside := []error{agent.ErrNotRotated, agent.ErrNotRepaired, agent.ErrNotAccepted, agent.ErrNotDrilled}; r.hint == "" && slices.Contains(beside, r.err) {
			continue // the error beside it has one
		}
		if !typed.MatchString(r.hint) {
			t.Errorf("%v: %q names nothing to type", r.err, r.hint)
		}
		if strings.Contains(r.hint, "%") || strings.HasSuffix(r.hint, ".") || strings.HasSuffix(r.hint, " ") {
			t.Errorf("%q ends oddly", r.hint)
		}
	}
	for code := range exitBusy + 1 {
		_, has := lastWord[code]
		if used := code == exitInternal || code == exitUsage || code >= exitLost; used != has {
			t.Errorf("exit code %d: has a last word: %v", code, has)
		}
	}
}

// TestHintsOfTheirOwn: what is refused for one reason is not remedied as what is refused for
// another one with the same errno or the same place.
func TestHintsOfTheirOwn(t *testing.T) {
	for _, tt := range []struct {
		err       error
		want, not string
	}{
		{rows.ErrMayNot, "GRANT TEMPORARY", "needs SELECT"},
		{rows.ErrMayNot, "RESET default_transaction_read_only", "needs SELECT"},
		{escrow.ErrGnuPG, "gpg --edit-key", "firewall"},
		{fmt.Errorf("%w: %w", agent.ErrNotRotated, agent.ErrChanged), "do the same again", "accept"},
		{agent.ErrOvertaken, "another brings a key", "writes the keyfile"},
		{fmt.Errorf("%w: %w", agent.ErrOvertaken, ledger.ErrMovedOn), "another process has written it", "the database"},
		{fmt.Errorf("%w: %w", agent.ErrNoHome, escrow.ErrEndOfTime), "move the copy that is named away", "keyguard config"},
		{&fs.PathError{Op: "rename", Path: "/x", Err: syscall.EBUSY}, "findmnt", "should not happen"},
		{fmt.Errorf("%w: %w", unit.ErrInotifyWatches, syscall.ENOSPC), "max_user_watches", "df"},
		{fmt.Errorf("%w: %w", unit.ErrInotifyInstances, syscall.EMFILE), "max_user_instances", "df"},
		{fmt.Errorf("%w: %w", textfile.ErrNotWritten, syscall.EROFS), "metrics_file", "dmesg"},
		{escrow.ErrUnreadable, "keyguard backup", ""},
		{escrow.ErrNotServing, "keyguard status", "firewall"},
		{fmt.Errorf("%w: %w", rows.ErrRecord, rows.ErrLoose), "chmod 0600", "move it away"},
		{escrow.ErrNoEngine, "vault secrets enable", "stick"},
		{agent.ErrNoCopyNamed, "keyguard copies", ""},
		{escrow.ErrPartly, "keyguard backup", ""},
		{fmt.Errorf("%w: %w", key.ErrPartDamaged, key.ErrNotKey), "take that part again", "32 raw bytes"},
	} {
		if hint := remedyOf(tt.err); !strings.Contains(hint, tt.want) || tt.not != "" && strings.Contains(hint, tt.not) {
			t.Errorf("%v: %q, want %q and not %q", tt.err, hint, tt.want, tt.not)
		}
	}
}

// TestRefusedToRoot: nobody who is root already is told to become it.
func TestRefusedToRoot(t *testing.T) {
	for _, err := range []error{syscall.EPERM, syscall.EACCES, &fs.PathError{Op: "open", Path: "/x", Err: syscall.EPERM}} {
		hint := remedyOf(err)
		if root := os.Geteuid() == 0; strings.Contains(hint, "sudo") == root || root && !strings.Contains(hint, "lsattr") {
			t.Errorf("%v as uid %d: %q", err, os.Geteuid(), hint)
		}
	}
}

// TestRemedyOfTooFewFiles: where a process may open too few files everything looks like
// something else: an unreachable store, a configuration that cannot be read.
func TestRemedyOfTooFewFiles(t *testing.T) {
	few := &fs.PathError{Op: "open", Path: "/x", Err: syscall.EMFILE}
	for name, err := range map[string]error{
		"a store":           fmt.Errorf("cannot list /mnt: %w: cannot start: %w", escrow.ErrUnreachable, few),
		"the configuration": configError{fmt.Errorf("cannot read the configuration: %w", few)},
		"rows":              fmt.Errorf("%w: %w", rows.ErrConnection, few),
	} {
		var out bytes.Buffer
		a := &app{err: &out}
		a.explain(err)
		if !strings.Contains(out.String(), "hint: this process may open too few files") || strings.Count(out.String(), "hint: ") != 1 {
			t.Errorf("%s: %s", name, &out)
		}
	}
}

// TestRemedyNamesWhereTheURLCameFrom: not where it might have come from.
func TestRemedyNamesWhereTheURLCameFrom(t *testing.T) {
	for _, tt := range []struct {
		from string
		err  error
		want []string
	}{
		{"url_file /etc/keyguard/url", rows.ErrPassword, []string{"the password is from url_file /etc/keyguard/url;", "ALTER ROLE"}},
		{"CONTAINARIUM_POSTGRES_URL_FILE, /etc/pg.url", rows.ErrPassword, []string{"/etc/pg.url, which stands in the daemon's unit", "systemctl cat containarium.service"}},
		{"the daemon's flag --postgres", rows.ErrNoDatabase, []string{"name is from the daemon's flag --postgres, which stands"}},
		{"incus, container x", rows.ErrPassword, []string{"CONTAINARIUM_POSTGRES_PASSWORD_FILE"}},
		{"a\nb", rows.ErrNoDatabase, []string{`a\nb`}},
	} {
		got := remedyOf(fmt.Errorf("cannot ask: %w", &rows.PlaceError{From: tt.from, Err: tt.err}))
		for _, want := range tt.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %s", tt.from, got)
			}
		}
	}
}
