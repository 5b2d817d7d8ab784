package main

import (
	"strings"
	"testing"
)

// TestTable: what go test prints becomes the table's rows and the plot's bars, and what it
// does not print is no figure.
func TestTable(t *testing.T) {
	r := results{}
	for _, x := range []string{"1.1", "1.3", "1.2"} {
		r.add([]byte("goos: linux\nBenchmarkPrestart-2  \t 25\t 0 ns/op\t 9.5 ms\t " + x + " x-linked\nPASS\n"))
	}
	r.add([]byte("BenchmarkRotate/rows=3000/size=256-2 1 8.5 by-hand-ratio 2.0 ratio\nBenchmarkRead-2 3 450000000 ns/op\n" +
		"BenchmarkScale/rows=100-2 1 1.0 ms\nBenchmarkScale/rows=1000-2 1 100.0 ms\n"))
	for _, want := range []string{
		"| healthy prestart | 1.20 × (1.10–1.30) |", "| rotation, 3 000 rows of 256 B | 2.00 × |", "by hand | 8.50 × |",
		"five years of ledger, read | 450 ms |", "| full proof of 1 M rows | not measured |",
	} {
		if text := r.table(); !strings.Contains(text, want) {
			t.Errorf("%s\nlacks %q", text, want)
		}
	}
	if svg := r.plot(); !strings.Contains(svg, "width='1' height='12'") || !strings.Contains(svg, "width='241' height='12'") {
		t.Errorf("two decades are not twice as long as one: %s", svg)
	}
}
