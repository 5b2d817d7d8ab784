package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestPlant: the faults of the list can still be planted in the code as it is, each by itself
// and all in one program. Whoever changes the code that one quotes changes the list, too.
func TestPlant(t *testing.T) {
	t.Chdir("../..")
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	mutants, err := parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	planted := map[string]bool{}
	for _, m := range mutants {
		if _, err := m.plant(); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		planted[m.name] = true
	}
	if len(planted) < 40 {
		t.Errorf("%d of %d mutants have a name of their own", len(planted), len(mutants))
	}
	woven, err := weave(mutants)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for file, text := range woven {
		if _, _, err := functions(text); err != nil {
			t.Errorf("%s with all faults: %v", file, err)
		}
		all.Write(text)
	}
	for n, m := range mutants {
		if !strings.Contains(all.String(), fmt.Sprintf("if mutantInForce == %d {", n+1)) {
			t.Errorf("%s is never in force", m.name)
		}
	}
}

// TestCalled: a function hands on to itself, with a fault, whatever it was called with.
func TestCalled(t *testing.T) {
	all, rest, err := functions([]byte("package p\n\nfunc (t *T) f(a, b int, c ...string) error { return nil }\n\nvar x int\n\nfunc g() {}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for head, want := range map[string]string{
		"func (t *T) f(a, b int, c ...string) error {": "return t.%s(a, b, c...)",
		"func g() {": "%s(); return",
	} {
		if got := all[head].call; got != want {
			t.Errorf("%s: %q, want %q", head, got, want)
		}
	}
	if !strings.Contains(rest, "var x int") || strings.Contains(rest, "return nil") {
		t.Errorf("outside of functions: %q", rest)
	}
}
