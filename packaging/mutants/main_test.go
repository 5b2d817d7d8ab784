package main

import (
	"os"
	"testing"
)

// TestPlant: the faults of the list can still be planted in the code as it is. Whoever changes
// the code that one quotes changes the list, too.
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
}
