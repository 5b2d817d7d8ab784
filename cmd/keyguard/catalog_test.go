package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestCatalog tries what the catalog of the journal tells people to type: every command
// exists, and every unit is the daemon's or ours.
func TestCatalog(t *testing.T) {
	const catalog = "../../units/catalog/keyguard.catalog"
	text, err := os.ReadFile(catalog)
	if err != nil {
		t.Fatal(err)
	}
	root := (&app{}).commands()
	typed := regexp.MustCompile(`(?m)^ +([a-z].*)$`).FindAllStringSubmatch(string(text), -1)
	if len(typed) < 30 {
		t.Fatalf("only %d lines to type were found", len(typed))
	}
	for _, line := range typed {
		words := strings.Fields(line[1])
		switch words[0] {
		case "keyguard":
			if c, rest, err := root.Find(words[1:]); err != nil || c == root || len(rest) > 0 {
				t.Errorf("%q cannot be typed: %v", line[1], err)
			}
		case "systemctl", "journalctl":
			for _, word := range words[1:] {
				if !strings.HasSuffix(word, ".service") || strings.HasPrefix(word, "containarium.") {
					continue
				}
				if _, err := os.Stat(filepath.Join("../../units", word)); err != nil {
					t.Errorf("%q: there is no such unit: %v", line[1], err)
				}
			}
		default:
			t.Errorf("%q is nothing to type", line[1])
		}
	}
}
