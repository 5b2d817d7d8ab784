package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// TestList: the list of this very test's program names what it is made of, and two of one
// program are equal.
func TestList(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	for _, w := range []*bytes.Buffer{&first, &second} {
		if err := write(w, program, "1.2.3"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two lists of one program differ")
	}
	var list struct {
		BOMFormat  string
		Metadata   struct{ Component struct{ PURL string } }
		Components []struct {
			Name, Version, PURL string
			Hashes              []struct{ Content string }
		}
	}
	if err := json.Unmarshal(first.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	if list.BOMFormat != "CycloneDX" || list.Metadata.Component.PURL != "pkg:golang/github.com/footprintai/containarium-keyguard@v1.2.3" {
		t.Errorf("%+v", list.Metadata)
	}
	found := map[string]bool{}
	for _, c := range list.Components {
		found[c.Name] = true
		if c.PURL != "pkg:golang/"+c.Name+"@"+c.Version || c.Name != "std" && (len(c.Hashes) != 1 || len(c.Hashes[0].Content) != 64) {
			t.Errorf("%+v", c)
		}
	}
	if !found["std"] || !found["github.com/CycloneDX/cyclonedx-go"] {
		t.Errorf("the list has only %v", found)
	}
	none := filepath.Join(t.TempDir(), "none")
	if err := os.WriteFile(none, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := write(&first, none, "1"); err == nil {
		t.Error("a program that Go did not build has a list")
	}
}
