package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestShow: what passes is not shown, what fails or does not end is, and all are counted.
func TestShow(t *testing.T) {
	const events = `something else
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA/sub","Output":"hidden\n"}
{"Action":"pass","Package":"p","Test":"TestA/sub","Elapsed":1}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":1.5}
{"Action":"output","Package":"p","Test":"TestB","Output":"why it fails\n"}
{"Action":"fail","Package":"p","Test":"TestB","Elapsed":0.5}
{"Action":"output","Package":"p","Test":"TestC","Output":"panic: its last words\n"}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t2s\n"}
{"Action":"fail","Package":"p","Elapsed":2}
{"Action":"output","Package":"q","Test":"TestD","Output":"cut short\n"}
`
	var shown bytes.Buffer
	tests, err := show(strings.NewReader(events), &shown)
	const want = "something else\nwhy it fails\nFAIL\tp\t2s\npanic: its last words\nq TestD did not end:\ncut short\n"
	if err != nil || shown.String() != want || len(tests) != 2 || tests[0].Name != "p TestA" || tests[0].Took.Seconds() != 1.5 {
		t.Errorf("%q, %v, %v", &shown, tests, err)
	}
}

// TestPhases: what was run is in the table; what failed is an error.
func TestPhases(t *testing.T) {
	file := filepath.Join(t.TempDir(), "phases")
	if err := run(file, "one", exec.Command("true")); err != nil {
		t.Error(err)
	}
	if err := run(file, "two", exec.Command("false")); err == nil || !strings.Contains(err.Error(), "two") {
		t.Errorf("one that fails: %v", err)
	}
	event := `{"Action":"pass","Package":"p","Test":"TestA","Elapsed":1.5}`
	if err := run(file, "three", exec.Command("echo", event)); err != nil {
		t.Error(err)
	}
	var out bytes.Buffer
	if err := table(file, &out); err != nil {
		t.Error(err)
	}
	for _, line := range []string{"phase  wall  CPU", "one    0s   0s", "all    0s   0s", "1.5s  three: p TestA"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no %q in\n%s", line, &out)
		}
	}
}
