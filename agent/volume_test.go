package agent_test

import (
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestVolume: make test runs every test under the race detector, briefly, but those that
// start programs, and without it only these and what is played in volume. Each test that
// does less there, since it asks testing.Short or the environment, is among those.
func TestVolume(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile(`(?m)^PROGRAMS := (.+)\nVOLUME := (.+)\|\$\(PROGRAMS\)\nVOLUME_IN := (.+)$`).FindSubmatch(makefile)
	if list == nil {
		t.Fatal("the Makefile has no VOLUME")
	}
	programs, volume, packages := strings.Split(string(list[1]), "|"), strings.Split(string(list[2]), "|"), strings.Fields(string(list[3]))
	for runs, otherwise := range map[string]string{
		`^test: export KEYGUARD_MUST_RUN := 1$`:                                        "its run would be as brief as make check's",
		`^\tCGO_ENABLED=1 KEYGUARD_MUST_RUN=1 .* -race -short .*-skip '\$\(WITHOUT\)'`: "its run would be as brief as make check's, or play everything twice",
		`^\tgo test .*-run '\$\(VOLUME\)' \$\(VOLUME_IN\)$`:                            "what is in VOLUME would not be played",
		`^calculated:\n` +
			`\t@\$\(PHASE\) race \$\(MAKE\) .*race JSON=-json WITHOUT='\^\(\$\(PROGRAMS\)\)\$\$'\n` +
			`\t@\$\(PHASE\) volume \$\(MAKE\) .*volume JSON=-json$`: "more than PROGRAMS would be left out of race, or all of volume",
		`^\t@.*\$\(MAKE\) .*-j2 booted calculated;`: "make test would not calculate",
	} {
		if !regexp.MustCompile(`(?m)` + runs).Match(makefile) {
			t.Errorf("the Makefile has no %s: %s", runs, otherwise)
		}
	}
	brief := regexp.MustCompile(`^"KEYGUARD_(HISTORIES|MODEL_OPS|EVERY_MANAGER|WORLDS)"$`)
	calls := map[string]map[string][]string{} // of each package's functions, what it calls in it
	asks := map[string]map[string]bool{}
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (d.Name() == ".git" || d.Name() == "e2e") {
			return cmp.Or(err, filepath.SkipDir)
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		in := filepath.Dir(path)
		if calls[in] == nil {
			calls[in], asks[in] = map[string][]string{}, map[string]bool{}
		}
		for _, f := range file.Decls {
			f, ok := f.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.Ident:
					calls[in][f.Name.Name] = append(calls[in][f.Name.Name], n.Name)
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && x.Name == "testing" && n.Sel.Name == "Short" {
						asks[in][f.Name.Name] = true
					}
				case *ast.BasicLit:
					if brief.MatchString(n.Value) {
						asks[in][f.Name.Name] = true
					}
				}
				return true
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for in, functions := range calls {
		for grown := true; grown; {
			grown = false
			for name, called := range functions {
				if !asks[in][name] && slices.ContainsFunc(called, func(c string) bool { return asks[in][c] }) {
					asks[in][name], grown = true, true
				}
			}
		}
		for _, name := range slices.Sorted(maps.Keys(asks[in])) {
			if !strings.HasPrefix(name, "Test") {
				continue
			}
			found = append(found, name)
			if !slices.Contains(append(volume, programs...), name) || !slices.Contains(packages, strings.TrimPrefix(in, ".")) {
				t.Errorf("%s in %s does less under the race detector, and is not in the Makefile's VOLUME", name, in)
			}
		}
	}
	for _, name := range volume {
		if !slices.Contains(found, name) {
			t.Errorf("%s is in the Makefile's VOLUME, and plays everything under the race detector", name)
		}
	}
}
