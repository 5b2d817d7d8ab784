package main

import (
	"os"
	"testing"
)

// TestPlant: the faults of the list can still be planted in the code as it is. A change of the code may
// take the place of one or two away, and who makes it mends the list.
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
			t.Logf("%s: %v", m.name, err)
			continue
		}
		planted[m.name] = true
	}
	if len(planted) < 40 {
		t.Errorf("%d of %d mutants can be planted, each under its name", len(planted), len(mutants))
	}
}
