package hooks

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"testing"
)

// TestVocabulary holds every event name to one entry of vocabulary with an id of its own.
func TestVocabulary(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "events.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := map[EventName]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			if of, ok := spec.Type.(*ast.Ident); ok && of.Name == "EventName" {
				name, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				names[EventName(name)] = true
			}
		}
		return true
	})
	if len(names) < 20 {
		t.Fatalf("only %d names were found", len(names))
	}
	ids := map[string]EventName{}
	for name := range names {
		k, there := vocabulary[name]
		if !there {
			t.Errorf("%s is not in the vocabulary", name)
			continue
		}
		if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(k.id) || ids[k.id] != "" {
			t.Errorf("%s has the id %q, and %q has it too", name, k.id, ids[k.id])
		}
		ids[k.id] = name
	}
	if len(vocabulary) != len(names) {
		t.Errorf("%d meanings for %d names", len(vocabulary), len(names))
	}

	// journalctl -x explains each of them, and nothing else.
	catalog, err := os.ReadFile("../units/catalog/keyguard.catalog")
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range regexp.MustCompile(`(?m)^-- (.*)$`).FindAllStringSubmatch(string(catalog), -1) {
		if ids[found[1]] == "" {
			t.Errorf("the catalog explains %q, which is no event's or explained twice", found[1])
		}
		delete(ids, found[1])
	}
	for _, name := range ids {
		t.Errorf("the catalog does not explain %s", name)
	}
}
