package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// TestCopiesFold: only copies whose bytes say whose they are stand together. One that
// cannot be read only claims a key: it hides none, is not hidden, and is not counted.
func TestCopiesFold(t *testing.T) {
	const f = key.Fingerprint("0123456789abcdef")
	list := []copyDoc{{ID: "claims-first", Fingerprint: f, Error: "disabled"}}
	for n := range foldAfter {
		if n == 4 {
			list = append(list, copyDoc{ID: "claims-between", Fingerprint: f, Error: "disabled"})
		}
		list = append(list, copyDoc{ID: fmt.Sprintf("copy-%d", n), Fingerprint: f, Encoding: key.Raw, Readable: true})
	}
	list = append(list, copyDoc{ID: "nameless-1", Error: "sealed"}, copyDoc{ID: "nameless-2", Error: "sealed"})
	for i := range list {
		list[i].Escrow, list[i].Shelf = "usb", escrow.Current
	}
	var out bytes.Buffer
	(&app{out: &out}).printCopyTable(list)
	var shown []string
	for line := range strings.Lines(out.String()) {
		for _, c := range list {
			if strings.Contains(line, c.ID) {
				shown = append(shown, c.ID)
				if older := strings.Contains(line, "9 older of this key"); older != (c.ID == "copy-0") {
					t.Errorf("%s", line)
				}
			}
		}
	}
	if got := strings.Join(shown, " "); got != "claims-first copy-0 claims-between nameless-1 nameless-2" || !strings.Contains(out.String(), "(14 copies in all: --all)") {
		t.Errorf("%s\n%s", got, &out)
	}
}
