package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestShow: what passes is not shown, what fails or does not end is, and all are counted.
// A test that failed by its parts is not said again, a package that failed without a test is.
func TestShow(t *testing.T) {
	const events = `something else
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA/sub","Output":"hidden\n"}
{"Action":"pass","Package":"p","Test":"TestA/sub","Elapsed":1}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":1.5}
{"Action":"output","Package":"p","Test":"TestB/sub","Output":"why it fails\n"}
{"Action":"output","Package":"p","Test":"TestB/sub","Output":"    --- FAIL: TestB/sub (0.5s)\n"}
{"Action":"fail","Package":"p","Test":"TestB/sub","Elapsed":0.5}
{"Action":"output","Package":"p","Test":"TestB","Output":"--- FAIL: TestB (0.5s)\n"}
{"Action":"fail","Package":"p","Test":"TestB","Elapsed":0.5}
{"Action":"output","Package":"p","Test":"TestC","Output":"panic: its last words\n"}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t2s\n"}
{"Action":"fail","Package":"p","Elapsed":2}
{"Action":"build-output","ImportPath":"r [r.test]","Output":"r.go:1: no such thing\n"}
{"Action":"build-fail","ImportPath":"r [r.test]"}
{"Action":"output","Package":"r","Output":"FAIL\tr [build failed]\n"}
{"Action":"fail","Package":"r","FailedBuild":"r [r.test]"}
{"Action":"output","Package":"s","Output":"ok  \ts\t1s\n"}
{"Action":"pass","Package":"s","Elapsed":1}
{"Action":"output","Package":"q","Test":"TestD","Output":"cut short\n"}
`
	var shown bytes.Buffer
	tests, failures, err := show(strings.NewReader(events), &shown)
	const want = "something else\nwhy it fails\n    --- FAIL: TestB/sub (0.5s)\n--- FAIL: TestB (0.5s)\nFAIL\tp\t2s\npanic: its last words\n" +
		"r.go:1: no such thing\nFAIL\tr [build failed]\nok  \ts\t1s\nq TestD did not end:\ncut short\n"
	if err != nil || shown.String() != want || len(tests) != 2 || tests[0].Name != "p TestA" || tests[0].Took.Seconds() != 1.5 {
		t.Errorf("%q, %v, %v", &shown, tests, err)
	}
	if again := []failure{
		{"p TestB/sub", []string{"why it fails", "    --- FAIL: TestB/sub (0.5s)"}},
		{"p TestC", []string{"panic: its last words"}},
		{"r", []string{"r.go:1: no such thing", "FAIL\tr [build failed]"}},
		{"q TestD", []string{"cut short"}},
	}; !reflect.DeepEqual(failures, again) {
		t.Errorf("to be said again: %q\nwant %q", failures, again)
	}
}

// TestSkipped: what was skipped has failed where it must run, and only there.
func TestSkipped(t *testing.T) {
	const events = `{"Action":"output","Package":"p","Test":"TestA/sub","Output":"why it does not run\n"}
{"Action":"output","Package":"p","Test":"TestA/sub","Output":"    --- SKIP: TestA/sub (0.5s)\n"}
{"Action":"skip","Package":"p","Test":"TestA/sub","Elapsed":0.5}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":1}
{"Action":"pass","Package":"p","Elapsed":1}
{"Action":"skip","Package":"without tests","Elapsed":0}
`
	for mustRun, want := range map[string]bool{"": false, "1": true} {
		t.Setenv("KEYGUARD_MUST_RUN", mustRun)
		file := filepath.Join(t.TempDir(), "phases")
		err := run(file, "one", exec.Command("printf", "%s", events))
		var out bytes.Buffer
		if err := table(file, &out); err != nil {
			t.Fatal(err)
		}
		said := strings.Contains(out.String(), "\nFAILED one: p TestA/sub\nwhy it does not run\n")
		if failed := err != nil; failed != want || said != want || strings.Contains(out.String(), "without tests") {
			t.Errorf("KEYGUARD_MUST_RUN=%q: %v, %s", mustRun, err, &out)
		}
	}
}

// TestPhases: what was run is in the table; what failed is an error, and said below it, but
// not at any length.
func TestPhases(t *testing.T) {
	file := filepath.Join(t.TempDir(), "phases")
	if err := run(file, "one", exec.Command("true")); err != nil {
		t.Error(err)
	}
	if err := run(file, "two", exec.Command("sh", "-c", "echo to one >&2; echo to other; exit 3")); err == nil || !strings.Contains(err.Error(), "two") {
		t.Errorf("one that fails: %v", err)
	}
	long := `for i in $(seq 200); do printf '%s\n' '{"Action":"output","Package":"p","Test":"TestB","Output":"line '$i'\n"}'; done
		echo '{"Action":"fail","Package":"p","Test":"TestB","Elapsed":1}'; exit 1`
	if err := run(file, "four", exec.Command("sh", "-c", long)); err == nil {
		t.Error("a test that fails is none")
	}
	event := `{"Action":"pass","Package":"p","Test":"TestA","Elapsed":1.5}`
	if err := run(file, "three", exec.Command("echo", event)); err != nil {
		t.Error(err)
	}
	var out bytes.Buffer
	if err := table(file, &out); err != nil {
		t.Error(err)
	}
	for _, line := range []string{"phase  wall  CPU", "one    0s   0s", "all    0s   0s", "1.5s  three: p TestA",
		"\nFAILED two: exit status 3\n", "to one\n", "to other\n",
		"\nFAILED four: p TestB\nline 1\n", "\nline 30\n... 140 lines ...\nline 171\n", "\nline 200\n"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no %q in\n%s", line, &out)
		}
	}
}
