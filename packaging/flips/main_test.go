package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"slices"
	"strings"
	"testing"
)

// TestText: what is written for a file is one that compiles, with every flip in it once.
func TestText(t *testing.T) {
	const source = `package p

const limit = 3 + 4

func f(a, b int, s string) (string, bool) {
	return s + "x", a < b && a+b != limit || !(a >= 2*b)
}

func next() int { return next()%7 - 1 }
`
	check := func(fset *token.FileSet, texts ...string) (files []*ast.File, info *types.Info) {
		t.Helper()
		for _, text := range texts {
			f, err := parser.ParseFile(fset, "p.go", text, 0)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			files = append(files, f)
		}
		info = &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
		if _, err := new(types.Config).Check("p", fset, files, info); err != nil {
			t.Fatalf("%v\n%s", err, texts[0])
		}
		return files, info
	}
	p := &pack{fset: token.NewFileSet(), sources: map[string][]byte{"p.go": []byte(source)}}
	files, info := check(p.fset, source)
	p.info = info
	text := p.text(files[0], files[0].FileStart, files[0].FileEnd)
	check(token.NewFileSet(), text, "package p\n\n"+inForce[strings.Index(inForce, "func flipIs"):]+"\nvar flipInForce int\n")
	var what []string
	for _, f := range p.flips {
		what = append(what, f.what)
	}
	slices.Sort(what)
	if got := strings.Join(what, ", "); got != "!= to its opposite, % to *, && to ||, * to +, + to -, - to +, < to <=, < to its opposite, >= to >, >= to its opposite, || to &&" {
		t.Errorf("%s\n%s", got, text)
	}
	if n := strings.Count(text, "next()"); n != 2 {
		t.Errorf("what is called once is called %d times:\n%s", n-1, text)
	}
}
