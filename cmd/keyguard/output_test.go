package main

import (
	"io"
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
