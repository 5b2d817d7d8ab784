package decide

import (
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// saved is a history in which this host saved a copy in escrow "gcp".
func saved(id string, f key.Fingerprint, proven ...key.Fingerprint) HistoryEvidence {
	h := history()
	h.Proven = proven
	h.Saved = map[string]SavedEvidence{"gcp": {
		Last:   SavedCopy{ID: id, Key: f, Verified: true},
		Copies: map[string]key.Fingerprint{id: f},
	}}
	return h
}

// begun is a history after which a save was begun in escrow "gcp".
func begun(h HistoryEvidence, f key.Fingerprint) HistoryEvidence {
	s := h.Saved["gcp"]
	s.Begun = f
	h.Saved["gcp"] = s
	return h
}

// copyOf is a current copy with an id of its own.
func copyOf(id string, f key.Fingerprint) CopyEvidence {
	return CopyEvidence{ID: id, Shelf: escrow.Current, Key: f}
}

// proven is a ledger whose last word is that a key opened every row.
func proven(f key.Fingerprint) LedgerEvidence {
	l := known(f, time.Hour)
	l.Verdict = "opens"
	return l
}

// TestShelf has a row for every branch of law 4. The key is always a, in escrow "gcp".
func TestShelf(t *testing.T) {
	for _, test := range []struct {
		name  string
		e     Evidence
		want  escrow.Shelf
		alarm bool
	}{
		{name: "it opens all rows", e: Evidence{Keyfile: good(a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Current},
		{name: "it is the newest there already", e: Evidence{Keyfile: good(a), Rows: unknown, Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", a))}},
			want: escrow.Current},
		{name: "it was proven here, and the rows are down", e: Evidence{Keyfile: good(a), Ledger: proven(a), Rows: unknown, Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Current},
		{name: "it was proven here on a part of the rows, and they are down", e: Evidence{Keyfile: good(a), Ledger: known(a, time.Hour), Rows: unknown, Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Quarantine},
		{name: "it opens most rows", e: Evidence{Keyfile: good(a), Rows: answers(a, 6), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", b))}},
			want: escrow.Current},
		{name: "it opens half of the rows, and was proven here", e: Evidence{Keyfile: good(a), Ledger: proven(a), Rows: answers(a, 5), Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Quarantine},
		{name: "a person's word on a part of the rows", e: Evidence{Keyfile: good(a), Ledger: accepted(a, "partial", time.Hour), Rows: answers(a, 1), Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Quarantine},
		{name: "a rotation is open", e: Evidence{Keyfile: good(a), Ledger: rotation(a, b, true), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Quarantine},
		{name: "a staged key stands there that the ledger does not name", e: Evidence{Keyfile: good(a), Next: NextEvidence{There: true, Key: b}, Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Quarantine},
		{name: "silent, and another stands in the keyfile's place", e: Evidence{Keyfile: good(b), Rows: silent, Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Quarantine},
		{name: "it was accepted here, and the rows are down", e: Evidence{Keyfile: good(a), Ledger: accepted(a, "opens", time.Hour), Rows: unknown, Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Quarantine},
		{name: "it was proven here, and is refuted", e: Evidence{Keyfile: good(a), Ledger: known(a, time.Hour), Rows: answers(a, 0), Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Quarantine},
		{name: "refuted, on an empty shelf", e: Evidence{Keyfile: good(a), Rows: answers(a, 0), Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Quarantine},
		{name: "never tried", e: Evidence{Keyfile: good(a), Rows: unknown, Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Quarantine},
		{name: "silent, and nothing is anywhere", e: Evidence{Keyfile: good(a), Rows: silent, Escrows: []EscrowEvidence{holds("gcp"), holds("usb")}},
			want: escrow.Current},
		{name: "silent, and another was proven here", e: Evidence{Keyfile: good(a), History: HistoryEvidence{Asked: true, Proven: []key.Fingerprint{b}}, Rows: silent, Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Quarantine},
		{name: "silent, proven here, and a stranger's copy stands on top while the ledger has saved nothing there", e: Evidence{Keyfile: good(a), Ledger: proven(a), Rows: silent, Escrows: []EscrowEvidence{holds("gcp", copyOf("current/2", b), copyOf("current/1", a))}},
			want: escrow.Quarantine},
		{name: "silent, proven here, and a stranger's copy stands on top of another escrow", e: Evidence{Keyfile: good(a), Ledger: proven(a), Rows: silent, Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", a)), holds("usb", copyOf("current/2", b))}},
			want: escrow.Current},
		{name: "silent, proven here, new in this escrow, and a stranger's copy stands on top of another", e: Evidence{Keyfile: good(a), Ledger: proven(a), Rows: silent, Escrows: []EscrowEvidence{holds("gcp"), holds("usb", copyOf("current/2", b))}},
			want: escrow.Quarantine},
		{name: "silent, proven here, and an older key of this host stands there", e: Evidence{Keyfile: good(a), Ledger: proven(a), History: HistoryEvidence{Asked: true, Proven: []key.Fingerprint{b, a}}, Rows: silent, Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", b))}},
			want: escrow.Current},
		{name: "silent, its own newest copy was destroyed, and a stranger's stands on top of another escrow", e: Evidence{Keyfile: good(a), Rows: silent, Escrows: []EscrowEvidence{holds("gcp", CopyEvidence{ID: "current/1", Shelf: escrow.Current, Key: a, Unreadable: "destroyed", Worthless: true}), holds("usb", copyOf("current/2", b))}},
			want: escrow.Quarantine},
		{name: "the ledger cannot be read, and another copy stands there (law 6)", e: Evidence{Keyfile: good(a), History: HistoryEvidence{Asked: true, Unreadable: "is a directory"}, Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", b))}},
			want: escrow.Quarantine},
		{name: "the ledger cannot be read, and the rows are silent (law 6)", e: Evidence{Keyfile: good(a), History: HistoryEvidence{Asked: true, Unreadable: "is a directory"}, Rows: silent, Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Quarantine},
		{name: "the ledger cannot be read, and it opens all rows", e: Evidence{Keyfile: good(a), History: HistoryEvidence{Asked: true, Unreadable: "is a directory"}, Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Current},
		{name: "this machine is a copy of another", e: Evidence{Keyfile: good(a), History: HistoryEvidence{Asked: true, Elsewhere: "one"}, Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Quarantine, alarm: true},
		{name: "silent, and another escrow cannot answer (law 6)", e: Evidence{Keyfile: good(a), Rows: silent, Escrows: []EscrowEvidence{holds("gcp"), down("usb", false)}},
			want: escrow.Quarantine},
		{name: "silent, and another key stands on another current shelf", e: Evidence{Keyfile: good(a), Rows: silent, Escrows: []EscrowEvidence{holds("gcp"), holds("usb", current(b))}},
			want: escrow.Quarantine},
		{name: "silent, and another key stands in a quarantine", e: Evidence{Keyfile: good(a), Rows: silent, Escrows: []EscrowEvidence{holds("gcp"), holds("usb", quarantined(b))}},
			want: escrow.Current},
		{name: "silent, and bytes that are no key stand there", e: Evidence{Keyfile: good(a), Rows: silent, Escrows: []EscrowEvidence{holds("gcp", worthless)}},
			want: escrow.Current},
		{name: "another host writes there", e: Evidence{Keyfile: good(a), History: saved("current/1", a, a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/2", c), copyOf("current/1", a))}},
			want: escrow.Quarantine, alarm: true},
		{name: "another host writes a key there that was proven here", e: Evidence{Keyfile: good(a), Local: local(c), History: saved("current/1", a, c, a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/2", c), copyOf("current/1", a))}},
			want: escrow.Quarantine, alarm: true},
		{name: "another host writes below bytes that are no key", e: Evidence{Keyfile: good(a), History: saved("current/1", a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", worthless, copyOf("current/2", c))}},
			want: escrow.Quarantine, alarm: true},
		{name: "another host writes the very key there", e: Evidence{Keyfile: good(a), History: saved("current/1", a, a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/2", a), copyOf("current/1", a))}},
			want: escrow.Quarantine, alarm: true},
		{name: "a save was begun, and killed before the ledger named the copy", e: Evidence{Keyfile: good(a), History: begun(saved("current/1", b, a), a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/2", a), copyOf("current/1", b))}},
			want: escrow.Current},
		{name: "a save was begun, and another key stands there", e: Evidence{Keyfile: good(a), History: begun(saved("current/1", b, a), a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/2", c), copyOf("current/1", b))}},
			want: escrow.Quarantine, alarm: true},
		{name: "the newest says that it is the key, is sealed, and the rows are down", e: Evidence{Keyfile: good(a), Rows: unknown, Escrows: []EscrowEvidence{holds("gcp", CopyEvidence{ID: "current/1", Shelf: escrow.Current, Key: a, Sealed: true, Unreadable: "sealed"})}},
			want: escrow.Quarantine},
		{name: "an empty ledger raises no alarm", e: Evidence{Keyfile: good(a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/2", c))}},
			want: escrow.Current},
		{name: "bytes that are no key are no other host's", e: Evidence{Keyfile: good(a), History: saved("current/1", a, a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", worthless, copyOf("current/1", a))}},
			want: escrow.Current},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, why := Shelf(test.e, 0, a)
			if got != test.want || (why == "") != (got == escrow.Current) {
				t.Errorf("%s instead of %s: %q", got, test.want, why)
			}
			if alarm := Alarm(test.e, 0); (alarm != "") != test.alarm {
				t.Errorf("alarm: %q", alarm)
			}
		})
	}
}
