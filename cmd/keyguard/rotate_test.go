package main

import (
	"bytes"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// TestRewriteInWords: one row is one, and what there is none of is not told.
func TestRewriteInWords(t *testing.T) {
	for want, r := range map[string]rows.RewriteResult{
		"2 rows in all: 2 were re-encrypted\n":                                                 {Counts: rows.Counts{Legacy: 2}, Rewritten: 2},
		"1 row in all: 1 was re-encrypted\n":                                                   {Counts: rows.Counts{Legacy: 1}, Rewritten: 1},
		"3 rows in all: 1 was re-encrypted, 1 re-wrapped, 1 under an external KMS untouched\n": {Counts: rows.Counts{Legacy: 1, InProc: 1, External: 1}, Rewritten: 1, Rewrapped: 1},
		"1 row in all: 0 were re-encrypted\n1 row that no key opens, left untouched:\n  \"t\" NAME\n": {Counts: rows.Counts{Legacy: 1},
			Unopenable: 1, Left: []rows.RowName{{Username: "t", Name: "NAME"}}},
	} {
		var out bytes.Buffer
		(&app{out: &out}).printRewrite(r, "were")
		if got := out.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
