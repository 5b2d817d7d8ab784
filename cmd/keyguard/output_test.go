package main

import (
	"io"
	"slices"
	"strings"
	"testing"
)

// TestTableOnATerminal: where a table is wider than the terminal, one long text goes below its
// row and takes no column from the others; a column that is long in most rows goes as a whole.
func TestTableOnATerminal(t *testing.T) {
	control, tty := newTerminal(t, width)
	path := "the local quarantine, /var/lib/containarium-keyguard/quarantine/20261128T021103.200574Z.key"
	(&app{out: tty}).table("SOURCE\tKEY\tROWS", func(row func(...string)) {
		row(path, "0123456789abcdef", "opens all 10 rows")
		row(path, "none", "cannot be read: "+strings.Repeat("it is damaged ", 4)+"and old")
		row(path, "fedcba9876543210", "opens 0 of 10 rows")
	})
	want := `KEY               ROWS
0123456789abcdef  opens all 10 rows
    the local quarantine,
    /var/lib/containarium-keyguard/quarantine/20261128T021103.200574Z.key
none
    the local quarantine,
    /var/lib/containarium-keyguard/quarantine/20261128T021103.200574Z.key
    cannot be read: it is damaged it is damaged it is damaged it is damaged and
    old
fedcba9876543210  opens 0 of 10 rows
    the local quarantine,
    /var/lib/containarium-keyguard/quarantine/20261128T021103.200574Z.key
`
	tty.Close()
	got, _ := io.ReadAll(control) // EIO: nobody has the terminal any more
	if string(got) != want {
		t.Errorf("%s", got)
	}
}

// TestWrapJoins: what is read as one, or typed, is broken over no two lines.
func TestWrapJoins(t *testing.T) {
	for text, want := range map[string][]string{
		"last proven 2026-11-28 09:45:44 UTC":   {"last proven", "2026-11-28 09:45:44 UTC"},
		"of 2026-11-28 it is said":              {"of 2026-11-28 it is said"},
		"do that here, then: keyguard init":     {"do that here, then:", "keyguard init"},
		"this is the sound answer of keyguard":  {"this is the sound answer of", "keyguard"},
		"2026-11-28 09:45:44":                   {"2026-11-28 09:45:44"},
		"at the end of it all there 2026-11-28": {"at the end of it all there", "2026-11-28"},
	} {
		if got := wrap(text, 27); !slices.Equal(got, want) {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// TestScrolledOff: where the answer is longer than the terminal, its first line is said again.
func TestScrolledOff(t *testing.T) {
	_, tty := newTerminal(t, width)
	o := &stdout{File: tty}
	a := &app{out: o}
	for n := range 24 {
		if off := a.scrolledOff(); off != (n > 24-5) {
			t.Errorf("%d lines: %v", n, off)
		}
		a.line("a line")
	}
}
