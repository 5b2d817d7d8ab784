package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
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
	if brief.Run() || t.Failed() {
		return
	}
	where, err := overlay(t.TempDir(), mutants)
	if err == nil {
		err = compile("build", "-overlay", where, "./agent/worlds")
	}
	if err != nil {
		t.Errorf("all faults in one program: %v", err)
	}
}

// TestHunt: a fault does what the list says while it is in force, and only then; and what
// breaks is found.
func TestHunt(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{
		"go.mod": "module sample\n\ngo 1.26\n",
		"agent/sum.go": `package agent

import "fmt"

type T struct{ all []int }

func (t *T) Add(some ...int) int {
	t.all = append(t.all, some...)
	return len(t.all)
}

func (t *T) Sum() (sum int) {
	for _, n := range t.all {
		sum += n
	}
	return sum
}

func (t *T) Clear() { t.all = nil }

func Say(t *T) string { return fmt.Sprint(t.all, t.Sum()) }
`,
		"agent/worlds/worlds_test.go": `package worlds

import (
	"flag"
	"testing"

	"sample/agent"
)

var (
	_ = flag.Bool("found", false, "")
	_ = flag.Int("worlds", 0, "")
	_ = flag.Uint64("seed", 0, "")
)

func TestWorlds(t *testing.T) {
	var x agent.T
	if n := x.Add(1, 2); n != 2 {
		t.Fatalf("world 1: adds %d", n)
	}
	if said := agent.Say(&x); said != "[1 2] 3" {
		t.Fatalf("world 2: says %s", said)
	}
	if x.Clear(); x.Sum() != 0 {
		t.Fatalf("world 3: is not clear")
	}
}
`,
	} {
		err := os.MkdirAll(filepath.Dir(name), 0o700)
		if err == nil {
			err = os.WriteFile(name, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	mutants, err := parse(`
== one is lost
file agent/sum.go
-	t.all = append(t.all, some...)
+	t.all = append(t.all, some[1:]...)

== it multiplies, and keeps
file agent/sum.go
-func (t *T) Sum() (sum int) {
-	for
+func (t *T) Sum() (sum int) {
+	sum = 1
+	for
-		sum += n
+		sum *= n
-func (t *T) Clear() { t.all = nil }
+func (t *T) Clear() {}

== it keeps
file agent/sum.go
-Clear() { t.all = nil }
+Clear() {}

== it says nothing else
file agent/sum.go
-fmt.Sprint(t.all, t.Sum())
+fmt.Sprint(t.all, 1+2)

== it ends
file agent/sum.go
-fmt.Sprint(t.all, t.Sum())
+fmt.Sprint(t.all[7])
`)
	if err != nil {
		t.Fatal(err)
	}
	program, err := build(t.TempDir(), mutants)
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range []string{": ", "1: adds 1", "2: says [1 2] 2", "3: is not clear", ": ", "?: it does not end well"} {
		if world, broke, err := hunt(program, n); err != nil || world+": "+broke != want {
			t.Errorf("with fault %d: world %s: %s, %v, want %s", n, world, broke, err, want)
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
