package decide

import (
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// saved is a history in which this host saved a copy in escrow "gcp".
func saved(id string, f key.Fingerprint, proven ...key.Fingerprint) LedgerWhole {
	h := history()
	h.Proven = proven
	h.Saved = map[string]SavedEvidence{"gcp": {
		Last:   SavedCopy{ID: id, Key: f, Verified: true},
		Copies: map[string]key.Fingerprint{id: f},
	}}
	return h
}

// begun is a history after which a save was begun in escrow "gcp".
func begun(h LedgerWhole, f key.Fingerprint) LedgerWhole {
	s := h.Saved["gcp"]
	s.Begun = map[key.Fingerprint]bool{f: true}
	h.Saved["gcp"] = s
	return h
}

// untold is a history that could not be told of a save in escrow "gcp".
func untold(h LedgerWhole) LedgerWhole {
	s := h.Saved["gcp"]
	s.Untold = "read-only file system"
	h.Saved = map[string]SavedEvidence{"gcp": s}
	return h
}

// copyOf is a current copy with an id of its own.
func copyOf(id string, f key.Fingerprint) CopyEvidence {
	return CopyEvidence{ID: id, Shelf: escrow.Current, Key: f}
}

// badlyKept is a current copy that is called key f, and is not that.
func badlyKept(id string, f key.Fingerprint) CopyEvidence {
	return CopyEvidence{ID: id, Shelf: escrow.Current, Called: f, Unreadable: "damaged"}
}

// parts is a history in which this host stored a key as parts in members one and two.
func parts(f key.Fingerprint) LedgerWhole {
	h := saved("current/"+string(f), f, f)
	s := h.Saved["gcp"]
	s.Tops = map[string]key.Fingerprint{"1 current/1": f, "2 current/1": f}
	s.LastTops = map[int]string{1: "1 current/1", 2: "2 current/1"}
	h.Saved["gcp"] = s
	return h
}

// stores is a history that tells of these stores' copies, and no others.
func stores(h LedgerWhole, tops ...string) LedgerWhole {
	s := h.Saved["gcp"]
	s.Tops, s.LastTops = map[string]key.Fingerprint{}, map[int]string{}
	for _, top := range tops {
		s.Tops[top], s.LastTops[escrow.NumberOf(top)] = s.Last.Key, top
	}
	h.Saved["gcp"] = s
	return h
}

// inParts is a current copy that members have on top, each under an id.
func inParts(f key.Fingerprint, one, two string) CopyEvidence {
	c := copyOf("current/"+string(f), f)
	for i, id := range []string{one, two} {
		if id != "" {
			c.Tops = append(c.Tops, escrow.Top{Member: []string{"one", "two"}[i], Number: i + 1, ID: id})
		}
		c.Lacks = c.Lacks || id == ""
	}
	return c
}

// had is a copy that was read just now.
func had(c CopyEvidence) CopyEvidence {
	c.Encoding = key.Raw
	return c
}

// asBase64 is a copy that was read just now, and is written as a person's is.
func asBase64(c CopyEvidence) CopyEvidence {
	c.Encoding = key.Base64
	return c
}

// former adds a part that this host stored in member one before the last.
func former(h LedgerWhole, id string, f key.Fingerprint) LedgerWhole {
	h.Saved["gcp"].Tops["1 "+id] = f
	return h
}

// under adds that a copy in parts stands in member one below another.
func under(c CopyEvidence, id string) CopyEvidence {
	c.Under = []escrow.Top{{Member: "one", Number: 1, ID: id}}
	return c
}

// unanswered is a history in which a member did not say whether it has its part.
func unanswered(h LedgerWhole) LedgerWhole {
	s := h.Saved["gcp"]
	s.Last.Verified = false
	h.Saved["gcp"] = s
	return h
}

// knownIn adds a copy that was saved in another escrow.
func knownIn(h LedgerWhole, name, id string) LedgerWhole {
	h.Saved[name] = SavedEvidence{Copies: map[string]key.Fingerprint{id: c}}
	return h
}

// refuses is escrow "gcp" that cannot be listed.
func refuses(err error) EscrowEvidence {
	return EscrowEvidence{Name: "gcp", State: EscrowFailed, Why: err.Error(), Err: err}
}

// seen adds what the store gives for its latest.
func seen(s EscrowEvidence, c CopyEvidence) EscrowEvidence {
	s.Seen, s.Copies = true, []CopyEvidence{c}
	return s
}

// before adds a copy that was saved earlier.
func before(h LedgerWhole, id string, f key.Fingerprint) LedgerWhole {
	h.Saved["gcp"].Copies[id] = f
	return h
}

// onItsWay is a history in which a save of a key was begun in an escrow, and not ended.
func onItsWay(name string, f key.Fingerprint, ago time.Duration) LedgerWhole {
	return LedgerWhole{Asked: true, Saved: map[string]SavedEvidence{name: {Begun: map[key.Fingerprint]bool{f: true}, Underway: map[key.Fingerprint]time.Time{f: now.Add(-ago)}}}}
}

// beside is a copy that stands beside the keys in parts.
func beside(c CopyEvidence) CopyEvidence {
	c.Beside = true
	return c
}

// proven is a ledger whose last word is that a key opened every row.
func proven(f key.Fingerprint) LedgerEnd {
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
		{name: "it opens half of the rows, and is the newest there already", e: Evidence{Keyfile: good(a), Rows: answers(a, 5), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", a))}},
			want: escrow.Current},
		{name: "it opens half of the rows, is the newest in parts, and a save would bring one that lacks", e: Evidence{Keyfile: good(a), Rows: answers(a, 5), Escrows: []EscrowEvidence{holds("gcp", under(inParts(a, "", "current/1"), "current/1"))}},
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
		{name: "silent, and another was proven here", e: Evidence{Keyfile: good(a), History: LedgerWhole{Asked: true, Proven: []key.Fingerprint{b}}, Rows: silent, Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Quarantine},
		{name: "silent, proven here, and a stranger's copy stands on top while the ledger has saved nothing there", e: Evidence{Keyfile: good(a), Ledger: proven(a), Rows: silent, Escrows: []EscrowEvidence{holds("gcp", copyOf("current/2", b), copyOf("current/1", a))}},
			want: escrow.Quarantine},
		{name: "silent, proven here, and a stranger's copy stands on top of another escrow", e: Evidence{Keyfile: good(a), Ledger: proven(a), Rows: silent, Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", a)), holds("usb", copyOf("current/2", b))}},
			want: escrow.Current},
		{name: "silent, proven here, new in this escrow, and a stranger's copy stands on top of another", e: Evidence{Keyfile: good(a), Ledger: proven(a), Rows: silent, Escrows: []EscrowEvidence{holds("gcp"), holds("usb", copyOf("current/2", b))}},
			want: escrow.Quarantine},
		{name: "silent, proven here, and an older key of this host stands there", e: Evidence{Keyfile: good(a), Ledger: proven(a), History: LedgerWhole{Asked: true, Proven: []key.Fingerprint{b, a}}, Rows: silent, Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", b))}},
			want: escrow.Current},
		{name: "silent, proven here, and another escrow cannot answer", e: Evidence{Keyfile: good(a), Ledger: proven(a), History: LedgerWhole{Asked: true, Proven: []key.Fingerprint{a}}, Rows: silent, Escrows: []EscrowEvidence{holds("gcp"), down("usb", false)}},
			want: escrow.Current},
		{name: "silent, proven here once, another since, and another escrow cannot answer (law 6)", e: Evidence{Keyfile: good(a), Ledger: proven(b), History: LedgerWhole{Asked: true, Proven: []key.Fingerprint{a, b}}, Rows: silent, Escrows: []EscrowEvidence{holds("gcp"), down("usb", false)}},
			want: escrow.Quarantine},
		{name: "silent, accepted here, and another escrow cannot answer (law 6)", e: Evidence{Keyfile: good(a), Ledger: accepted(a, "opens", time.Hour), History: LedgerWhole{Asked: true}, Rows: silent, Escrows: []EscrowEvidence{holds("gcp"), down("usb", false)}},
			want: escrow.Quarantine},
		{name: "silent, proven here, another escrow cannot answer, and the ledger is broken (law 6)", e: Evidence{Keyfile: good(a), Ledger: proven(a), History: LedgerWhole{Asked: true, Proven: []key.Fingerprint{a}, Unreadable: "line 3"}, Rows: silent, Escrows: []EscrowEvidence{holds("gcp"), down("usb", false)}},
			want: escrow.Quarantine},
		{name: "it was proven here, the rows are down, and the ledger is broken (law 6)", e: Evidence{Keyfile: good(a), Ledger: proven(a), History: LedgerWhole{Asked: true, Proven: []key.Fingerprint{a}, Unreadable: "line 3"}, Rows: unknown, Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Quarantine},
		{name: "silent, its own newest copy was destroyed, and a stranger's stands on top of another escrow", e: Evidence{Keyfile: good(a), Rows: silent, Escrows: []EscrowEvidence{holds("gcp", CopyEvidence{ID: "current/1", Shelf: escrow.Current, Key: a, Unreadable: "destroyed", Worthless: true}), holds("usb", copyOf("current/2", b))}},
			want: escrow.Quarantine},
		{name: "the ledger cannot be read, and another copy stands there (law 6)", e: Evidence{Keyfile: good(a), History: LedgerWhole{Asked: true, Unreadable: "is a directory"}, Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", b))}},
			want: escrow.Quarantine},
		{name: "the ledger cannot be read, and the rows are silent (law 6)", e: Evidence{Keyfile: good(a), History: LedgerWhole{Asked: true, Unreadable: "is a directory"}, Rows: silent, Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Quarantine},
		{name: "the ledger cannot be read, and it opens all rows", e: Evidence{Keyfile: good(a), History: LedgerWhole{Asked: true, Unreadable: "is a directory"}, Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Current},
		{name: "this machine is a clone of another", e: Evidence{Keyfile: good(a), History: LedgerWhole{Asked: true, Elsewhere: "one"}, Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Quarantine, alarm: true},
		{name: "silent, and another escrow cannot answer (law 6)", e: Evidence{Keyfile: good(a), Rows: silent, Escrows: []EscrowEvidence{holds("gcp"), down("usb", false)}},
			want: escrow.Quarantine},
		{name: "silent, and a store of several cannot answer (law 6)", e: Evidence{Keyfile: good(a), Rows: silent, Escrows: []EscrowEvidence{holds("gcp"), {Name: "split", State: EscrowAnswered, Unheard: "c: no answer"}}},
			want: escrow.Quarantine},
		{name: "silent, and another key stands on another current shelf", e: Evidence{Keyfile: good(a), Rows: silent, Escrows: []EscrowEvidence{holds("gcp"), holds("usb", current(b))}},
			want: escrow.Quarantine},
		{name: "silent, and a save of another key was begun elsewhere", e: Evidence{Keyfile: good(a), Rows: silent, History: onItsWay("usb", b, time.Minute), Escrows: []EscrowEvidence{holds("gcp"), holds("usb")}},
			want: escrow.Quarantine},
		{name: "silent, and a save of another key was begun elsewhere and came to its end long ago", e: Evidence{Keyfile: good(a), Rows: silent, History: onItsWay("usb", b, saveEnds), Escrows: []EscrowEvidence{holds("gcp"), holds("usb")}},
			want: escrow.Current},
		{name: "silent, and a save of another key was begun elsewhere by a clock that is ahead", e: Evidence{Keyfile: good(a), Rows: silent, History: onItsWay("usb", b, -time.Minute), Escrows: []EscrowEvidence{holds("gcp"), holds("usb")}},
			want: escrow.Quarantine},
		{name: "silent, and a save of it was begun elsewhere", e: Evidence{Keyfile: good(a), Rows: silent, History: onItsWay("usb", a, time.Minute), Escrows: []EscrowEvidence{holds("gcp"), holds("usb")}},
			want: escrow.Current},
		{name: "silent, and a save of another key was begun where no escrow is any more", e: Evidence{Keyfile: good(a), Rows: silent, History: onItsWay("tape", b, time.Minute), Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Current},
		{name: "silent, and another key was saved meanwhile", e: Evidence{Keyfile: good(a), Rows: silent, History: LedgerWhole{Asked: true, Since: []key.Fingerprint{b}}, Escrows: []EscrowEvidence{holds("gcp"), holds("usb")}},
			want: escrow.Quarantine},
		{name: "silent, and it was saved meanwhile", e: Evidence{Keyfile: good(a), Rows: silent, History: LedgerWhole{Asked: true, Since: []key.Fingerprint{a}}, Escrows: []EscrowEvidence{holds("gcp"), holds("usb")}},
			want: escrow.Current},
		{name: "it opens all rows, and a save of another key was begun elsewhere", e: Evidence{Keyfile: good(a), Rows: answers(a, 10), History: onItsWay("usb", b, time.Minute), Escrows: []EscrowEvidence{holds("gcp"), holds("usb")}},
			want: escrow.Current},
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
		{name: "a save was begun, and its store keeps another key under that name", e: Evidence{Keyfile: good(a), History: begun(saved("current/1", b, a), a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", badlyKept("current/2", a), copyOf("current/1", b))}},
			want: escrow.Current},
		{name: "a save was begun, and another key's copy was kept badly", e: Evidence{Keyfile: good(a), History: begun(saved("current/1", b, a), a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", badlyKept("current/2", c), copyOf("current/1", b))}},
			want: escrow.Quarantine, alarm: true},
		{name: "no save was begun, and another key stands under the key's name", e: Evidence{Keyfile: good(a), History: saved("current/1", b, a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", badlyKept("current/2", a), copyOf("current/1", b))}},
			want: escrow.Quarantine, alarm: true},
		{name: "the newest says that it is the key, is sealed, and the rows are down", e: Evidence{Keyfile: good(a), Rows: unknown, Escrows: []EscrowEvidence{holds("gcp", CopyEvidence{ID: "current/1", Shelf: escrow.Current, Key: a, Sealed: true, Unreadable: "sealed"})}},
			want: escrow.Quarantine},
		{name: "another key stands there as no save writes it", e: Evidence{Keyfile: good(a), Rows: answers(a, 10), History: saved("current/1", a), Escrows: []EscrowEvidence{holds("gcp", asBase64(copyOf("current/2", c)), copyOf("current/1", a))}},
			want: escrow.Quarantine, alarm: true},
		{name: "the keyfile's key stands there as no save writes it", e: Evidence{Keyfile: good(a), Rows: answers(a, 10), History: saved("current/1", a), Escrows: []EscrowEvidence{holds("gcp", asBase64(copyOf("current/2", a)), copyOf("current/1", a))}},
			want: escrow.Current},
		{name: "an empty ledger raises no alarm", e: Evidence{Keyfile: good(a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/2", c))}},
			want: escrow.Current},
		{name: "in parts, as this host stored them", e: Evidence{Keyfile: good(a), History: parts(a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", inParts(a, "current/1", "current/1"))}},
			want: escrow.Current},
		{name: "in parts, and one does not answer", e: Evidence{Keyfile: good(a), History: parts(a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", inParts(a, "", "current/1"))}},
			want: escrow.Current},
		{name: "in parts, and another host wrote a former key of this one over them", e: Evidence{Keyfile: good(b), Ledger: proven(b), History: parts(a), Rows: answers(b, 10), Escrows: []EscrowEvidence{holds("gcp", inParts(a, "current/3", "current/3"), inParts(b, "", ""))}},
			want: escrow.Quarantine, alarm: true},
		{name: "in parts, and another host wrote over one of them", e: Evidence{Keyfile: good(a), History: parts(a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", inParts(a, "", "current/1"), inParts(c, "current/2", ""))}},
			want: escrow.Quarantine, alarm: true},
		{name: "in parts, and another host wrote the very key into one of them", e: Evidence{Keyfile: good(a), History: parts(a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", inParts(a, "current/2", "current/1"))}},
			want: escrow.Quarantine, alarm: true},
		{name: "in parts, and one has a former part of this host on top again", e: Evidence{Keyfile: good(a), History: former(parts(a), "current/0", b), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", under(inParts(a, "", "current/1"), "current/1"), inParts(b, "current/0", ""))}},
			want: escrow.Quarantine, alarm: true},
		{name: "in parts, and one has a former part of the keyfile's key on top again", e: Evidence{Keyfile: good(a), History: former(parts(b), "current/0", a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", under(inParts(b, "", "current/1"), "current/1"), inParts(a, "current/0", ""))}},
			want: escrow.Current},
		{name: "in parts, and one has lost its newest part, so that a former one shows", e: Evidence{Keyfile: good(a), History: former(parts(a), "current/0", b), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", inParts(a, "", "current/1"), inParts(b, "current/0", ""))}},
			want: escrow.Current},
		{name: "in parts, and a save of a former key was begun again", e: Evidence{Keyfile: good(a), History: begun(former(parts(a), "current/0", b), b), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", under(inParts(a, "", "current/1"), "current/1"), inParts(b, "current/0", ""))}},
			want: escrow.Current},
		{name: "in parts, made anew, and below what is on top another host's has the id of this one's", e: Evidence{Keyfile: good(a), History: former(parts(a), "current/0", b), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", inParts(a, "", "current/1"), under(inParts(c, "", ""), "current/1"), inParts(b, "current/0", ""))}},
			want: escrow.Current},
		{name: "in parts, and one had not answered to its save", e: Evidence{Keyfile: good(a), History: unanswered(parts(a)), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", inParts(a, "current/2", "current/1"))}},
			want: escrow.Current},
		{name: "in parts, and a save was killed", e: Evidence{Keyfile: good(b), Ledger: proven(b), History: begun(parts(a), b), Rows: answers(b, 10), Escrows: []EscrowEvidence{holds("gcp", inParts(a, "", "current/1"), inParts(b, "current/2", ""))}},
			want: escrow.Quarantine}, // it was not tried, and a part of it lacks; but there is no alarm
		{name: "in parts, whole, and the rows cannot be asked", e: Evidence{Keyfile: good(a), Rows: unknown, Escrows: []EscrowEvidence{holds("gcp", inParts(a, "current/2", "current/1"))}},
			want: escrow.Current},
		{name: "in parts, whole, accepted, another proven before, and the rows are silent", e: Evidence{Keyfile: good(a), Ledger: accepted(a, "silent", time.Hour), History: LedgerWhole{Asked: true, Proven: []key.Fingerprint{b}}, Rows: silent, Escrows: []EscrowEvidence{holds("gcp", inParts(a, "current/2", "current/1"))}},
			want: escrow.Current},
		{name: "in parts, of which one lacks, had just now, and the rows cannot be asked", e: Evidence{Keyfile: good(a), Ledger: accepted(a, "unknown", time.Hour), Rows: unknown, Escrows: []EscrowEvidence{holds("gcp", had(inParts(a, "", "current/1")))}},
			want: escrow.Current},
		{name: "in parts, of which one lacks, had just now, another is known, and the rows cannot be asked", e: Evidence{Keyfile: good(a), Ledger: accepted(b, "unknown", time.Hour), Rows: unknown, Escrows: []EscrowEvidence{holds("gcp", had(inParts(a, "", "current/1")))}},
			want: escrow.Quarantine},
		{name: "in parts, of which one lacks, had just now, another is known, and the rows are silent", e: Evidence{Keyfile: good(a), Ledger: accepted(b, "silent", time.Hour), History: LedgerWhole{Asked: true, Proven: []key.Fingerprint{b}}, Rows: silent, Escrows: []EscrowEvidence{holds("gcp", had(inParts(a, "", "current/1")))}},
			want: escrow.Quarantine},
		{name: "in parts, of which one lacks, had just now, and it opens the lesser part", e: Evidence{Keyfile: good(a), Rows: answers(a, 1, b, 9), Escrows: []EscrowEvidence{holds("gcp", had(inParts(a, "", "current/1")))}},
			want: escrow.Quarantine},
		{name: "in parts, of which one lacks, and the rows cannot be asked", e: Evidence{Keyfile: good(a), Rows: unknown, Escrows: []EscrowEvidence{holds("gcp", inParts(a, "", "current/1"))}},
			want: escrow.Quarantine},
		{name: "in parts, of which one lacks, proven here, and the rows cannot be asked", e: Evidence{Keyfile: good(a), Ledger: proven(a), Rows: unknown, Escrows: []EscrowEvidence{holds("gcp", inParts(a, "", "current/1"))}},
			want: escrow.Current},
		{name: "in parts, and one is back with what it had not answered to before the last save", e: Evidence{Keyfile: good(a), History: begun(parts(a), b), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", inParts(a, "", "current/1"), inParts(b, "current/2", ""))}},
			want: escrow.Current},
		{name: "the ledger cannot be told", e: Evidence{Keyfile: good(a), History: untold(saved("current/1", b)), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", b))}},
			want: escrow.Quarantine},
		{name: "the ledger cannot be told, and a part of it is stored anew", e: Evidence{Keyfile: good(a), History: untold(parts(a)), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", inParts(a, "", "current/1"))}},
			want: escrow.Quarantine},
		{name: "the ledger cannot be told, and nothing was ever saved there", e: Evidence{Keyfile: good(a), History: untold(history()), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp")}},
			want: escrow.Quarantine}, // one that tells of other copies may come back: with its disk, or by a power cut
		{name: "in parts, and somebody put a whole key on one member", e: Evidence{Keyfile: good(a), History: parts(a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", inParts(a, "", "current/1"), beside(inParts(a, "current/2", "")))}},
			want: escrow.Quarantine, alarm: true},
		{name: "in parts, and a member has what it kept as an escrow of its own", e: Evidence{Keyfile: good(a), History: knownIn(parts(a), "one", "current/2"), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", inParts(a, "", "current/1"), beside(inParts(c, "current/2", "")))}},
			want: escrow.Current},
		{name: "in parts, by a ledger that does not tell of stores", e: Evidence{Keyfile: good(a), History: saved("current/"+string(a), a, a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", inParts(a, "current/1", "current/1"))}},
			want: escrow.Current},
		{name: "in parts, by a ledger that tells of one store", e: Evidence{Keyfile: good(a), History: stores(parts(a), "1 current/1"), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", inParts(a, "current/1", "current/1"))}},
			want: escrow.Current},
		{name: "in parts of another key, by a ledger that does not tell of stores", e: Evidence{Keyfile: good(a), History: saved("current/"+string(a), a, a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", inParts(c, "current/2", ""), inParts(a, "", "current/1"))}},
			want: escrow.Quarantine, alarm: true},
		{name: "in parts, and the ledger has saved nothing there", e: Evidence{Keyfile: good(a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", inParts(c, "current/2", "current/2"))}},
			want: escrow.Current},
		{name: "silent, and a whole key of another stands beside the parts", e: Evidence{Keyfile: good(a), Rows: silent, Escrows: []EscrowEvidence{holds("gcp", beside(copyOf("current/one/1", b)))}},
			want: escrow.Quarantine},
		{name: "what this host saved there was destroyed, and what it saved before its ledger was lost shows", e: Evidence{Keyfile: good(a), History: saved("current/2", a, a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", CopyEvidence{ID: "current/2", Shelf: escrow.Current, Worthless: true}, copyOf("current/1", b))}},
			want: escrow.Current},
		{name: "another host writes above what this host saved there and was destroyed", e: Evidence{Keyfile: good(a), History: saved("current/2", a, a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/3", c), CopyEvidence{ID: "current/2", Shelf: escrow.Current, Worthless: true}, copyOf("current/1", b))}},
			want: escrow.Quarantine, alarm: true},
		{name: "a place made anew, and another host's copy has the id of this one's", e: Evidence{Keyfile: good(a), History: saved("current/1", a, a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", c))}},
			want: escrow.Quarantine, alarm: true},
		{name: "a copy that does not tell its key, under the id of this host's", e: Evidence{Keyfile: good(a), History: saved("current/1", a, a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", ""))}},
			want: escrow.Current},
		{name: "in parts, made anew, and another host's part has the id of this one's", e: Evidence{Keyfile: good(a), History: parts(a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", inParts(a, "", "current/1"), inParts(c, "current/1", ""))}},
			want: escrow.Quarantine, alarm: true},
		{name: "a former key of this host was put above the last", e: Evidence{Keyfile: good(a), History: before(saved("current/2", a, a), "current/1", b), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", b), copyOf("current/2", a))}},
			want: escrow.Quarantine, alarm: true},
		{name: "the last was destroyed, and a former key of this host shows", e: Evidence{Keyfile: good(a), History: before(saved("current/2", a, a), "current/1", b), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", b), CopyEvidence{ID: "current/2", Shelf: escrow.Current, Worthless: true})}},
			want: escrow.Current},
		{name: "the last is not listed yet", e: Evidence{Keyfile: good(a), History: before(saved("current/2", a, a), "current/1", b), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", b))}},
			want: escrow.Current},
		{name: "a former copy of the keyfile's key was put above the last", e: Evidence{Keyfile: good(a), History: before(saved("current/2", b, a), "current/1", a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", a), copyOf("current/2", b))}},
			want: escrow.Current},
		{name: "it is the newest there already, and is refuted", e: Evidence{Keyfile: good(a), Ledger: proven(a), History: saved("current/1", a, a), Rows: answers(a, 0), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", a))}},
			want: escrow.Quarantine},
		{name: "it opens all rows, and what stands there cannot be told (law 6)", e: Evidence{Keyfile: good(a), Rows: answers(a, 10), Escrows: []EscrowEvidence{down("gcp", true)}},
			want: NotYet},
		{name: "it opens all rows, and nobody has asked", e: Evidence{Keyfile: good(a), Rows: answers(a, 10), Escrows: []EscrowEvidence{{Name: "gcp"}}},
			want: NotYet},
		{name: "it opens no row, and what stands there cannot be told", e: Evidence{Keyfile: good(a), Rows: answers(a, 0), Escrows: []EscrowEvidence{down("gcp", true)}},
			want: escrow.Quarantine},
		{name: "this host only adds there", e: Evidence{Keyfile: good(a), History: saved("current/1", a, a), Rows: answers(a, 10), Escrows: []EscrowEvidence{refuses(escrow.ErrAddOnly)}},
			want: escrow.Current},
		{name: "enough of several stores have nothing", e: Evidence{Keyfile: good(a), Rows: answers(a, 10), Escrows: []EscrowEvidence{refuses(escrow.ErrPerhaps)}},
			want: escrow.Current},
		{name: "the store lets nobody look", e: Evidence{Keyfile: good(a), Rows: answers(a, 10), Escrows: []EscrowEvidence{refuses(escrow.ErrDenied)}},
			want: escrow.Current},
		{name: "the store lets nobody look, as when it was saved there last", e: Evidence{Keyfile: good(a), History: unanswered(saved("current/1", b, a)), Rows: answers(a, 10), Escrows: []EscrowEvidence{refuses(escrow.ErrDenied)}},
			want: escrow.Current},
		{name: "the store lets nobody look any more", e: Evidence{Keyfile: good(a), History: saved("current/1", a, a), Rows: answers(a, 10), Escrows: []EscrowEvidence{refuses(escrow.ErrDenied)}},
			want: NotYet},
		{name: "the store lists no more, and its latest is this host's", e: Evidence{Keyfile: good(a), History: saved("current/1", a, a), Rows: answers(a, 10), Escrows: []EscrowEvidence{seen(refuses(escrow.ErrDenied), copyOf("current/1", a))}},
			want: escrow.Current},
		{name: "the store lists no more, and its latest is another host's", e: Evidence{Keyfile: good(a), History: saved("current/1", a, a), Rows: answers(a, 10), Escrows: []EscrowEvidence{seen(refuses(escrow.ErrDenied), copyOf("current/2", c))}},
			want: escrow.Quarantine, alarm: true},
		{name: "bytes that are no key are no other host's", e: Evidence{Keyfile: good(a), History: saved("current/1", a, a), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp", worthless, copyOf("current/1", a))}},
			want: escrow.Current},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.e.Now = now
			got, why := Shelf(test.e, 0, a)
			if got != test.want || (why == Bar{}) != (got == escrow.Current) {
				t.Errorf("%s instead of %s: %q", got, test.want, why)
			}
			if alarm := Alarm(test.e, 0); (alarm != nil) != test.alarm {
				t.Errorf("alarm: %v", alarm)
			}
		})
	}
}

// TestToldUnderway: while the ledger is said to tell of a save, one that begins now bars other keys for
// as long as it takes; and a line that was just written is one that tells.
func TestToldUnderway(t *testing.T) {
	if (SavedEvidence{}).ToldUnderway(b, now) || !onItsWay("usb", b, 0).Saved["usb"].ToldUnderway(b, now) {
		t.Error("told of none, or not of one that begins")
	}
	for ago := -2 * saveEnds; ago <= 2*saveEnds; ago += time.Minute {
		told := onItsWay("usb", b, ago)
		e := Evidence{Now: now.Add(saveEnds/2 - time.Second), Keyfile: good(a), Rows: silent, History: told, Escrows: []EscrowEvidence{holds("usb")}}
		if _, bar := Shelf(e, 0, a); told.Saved["usb"].ToldUnderway(b, now) && bar.Why == "" {
			t.Errorf("of one that was begun %s ago it is told no more before it ends", ago)
		}
	}
}

// TestBarWaits: only a save of another key that is under way is over by itself, and that only where
// nothing else bars the key.
func TestBarWaits(t *testing.T) {
	two := onItsWay("usb", b, time.Minute)
	two.Saved["usb"].Underway[c] = now.Add(-3 * time.Minute)
	two.Saved["usb"].Underway["dddddddddddddddd"] = now.Add(time.Hour) // by a clock that was ahead
	also := onItsWay("usb", b, time.Minute)
	also.Proven = []key.Fingerprint{b}
	for _, test := range []struct {
		name string
		e    Evidence
		want time.Duration // from now; 0 for never
	}{
		{"a save of another key is under way", Evidence{Keyfile: good(a), Rows: silent, History: onItsWay("usb", b, time.Minute), Escrows: []EscrowEvidence{holds("gcp"), holds("usb")}}, saveEnds - time.Minute},
		{"two are", Evidence{Keyfile: good(a), Rows: silent, History: two, Escrows: []EscrowEvidence{holds("gcp"), holds("usb")}}, saveEnds - time.Minute},
		{"and an escrow does not answer", Evidence{Keyfile: good(a), Rows: silent, History: onItsWay("usb", b, time.Minute), Escrows: []EscrowEvidence{holds("usb"), down("gcp", true)}}, 0},
		{"it has ended", Evidence{Keyfile: good(a), Rows: silent, History: onItsWay("usb", b, saveEnds), Escrows: []EscrowEvidence{holds("gcp"), holds("usb")}}, 0},
		{"the rows prove it", Evidence{Keyfile: good(a), Rows: answers(a, 10), History: onItsWay("usb", b, time.Minute), Escrows: []EscrowEvidence{holds("gcp"), holds("usb")}}, 0},
		{"the other was proven here, too", Evidence{Keyfile: good(a), Rows: silent, History: also, Escrows: []EscrowEvidence{holds("gcp"), holds("usb")}}, 0},
		{"another stands there, too", Evidence{Keyfile: good(a), Rows: silent, History: onItsWay("usb", b, time.Minute), Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", c)), holds("usb")}}, 0},
	} {
		test.e.Now = now
		want := time.Time{}
		if test.want != 0 {
			want = now.Add(test.want)
		}
		if _, bar := Shelf(test.e, 0, a); !bar.Waits.Equal(want) {
			t.Errorf("%s: %s instead of %s: %s", test.name, bar.Waits, want, bar.Why)
		}
	}
}

// TestTop: the newest current copy is what the runbook's latest returns, whatever else is there,
// and a key in it is well written as its 32 bytes alone.
func TestTop(t *testing.T) {
	kept, beside := copyOf("quarantine/9", b), copyOf("current/8", b)
	kept.Shelf, beside.Beside = escrow.Quarantine, true
	if c, there := holds("gcp", kept, beside, copyOf("current/2", a), copyOf("current/1", c)).NewestCurrent(); !there || c.ID != "current/2" {
		t.Errorf("%t, %+v", there, c)
	}
	if c, there := holds("gcp", kept, beside).NewestCurrent(); there {
		t.Errorf("there is none, and it is %+v", c)
	}
	for encoding, want := range map[key.Encoding]bool{"": false, key.Raw: false, key.Base64: true} {
		if got := (CopyEvidence{Encoding: encoding}).Miswritten(); got != want {
			t.Errorf("%q: %t", encoding, got)
		}
	}
}

// TestDueShelf: a key that is due, and is not the keyfile's, stands below what Shelf would
// allow it. The key is always a, in escrow "gcp".
func TestDueShelf(t *testing.T) {
	for _, test := range []struct {
		name string
		e    Evidence
		want escrow.Shelf
	}{
		{"it is the keyfile's, and opens most rows", Evidence{Keyfile: good(a), Rows: answers(a, 6), Escrows: []EscrowEvidence{holds("gcp")}}, escrow.Current},
		{"it is the keyfile's, and opens the lesser part", Evidence{Keyfile: good(a), Rows: answers(a, 4), Escrows: []EscrowEvidence{holds("gcp")}}, escrow.Quarantine},
		{"it opens all rows", Evidence{Keyfile: good(b), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp")}}, escrow.Current},
		{"it opens most rows", Evidence{Keyfile: good(b), Rows: answers(a, 6), Escrows: []EscrowEvidence{holds("gcp")}}, escrow.Quarantine},
		{"it opens most rows, and is known by a proof", Evidence{Keyfile: good(b), Ledger: known(a, time.Hour), Rows: answers(a, 6), Escrows: []EscrowEvidence{holds("gcp")}}, escrow.Current},
		{"it opens most rows, and is known by a person's word", Evidence{Keyfile: good(b), Ledger: accepted(a, "partial", time.Hour), Rows: answers(a, 6), Escrows: []EscrowEvidence{holds("gcp")}}, escrow.Quarantine},
		{"silent, and no keyfile", Evidence{Keyfile: missing, Rows: silent, Escrows: []EscrowEvidence{holds("gcp")}}, escrow.Quarantine},
		{"silent, no keyfile, and it was proven here", Evidence{Keyfile: missing, Ledger: proven(a), Rows: silent, Escrows: []EscrowEvidence{holds("gcp")}}, escrow.Current},
		{"silent, and the keyfile is malformed and decodes to it", Evidence{Keyfile: KeyfileEvidence{Key: a, Why: "33 bytes instead of 32"}, Rows: silent, Escrows: []EscrowEvidence{holds("gcp")}}, escrow.Quarantine},
		{"it is the newest there already", Evidence{Keyfile: good(b), Rows: unknown, Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", a))}}, escrow.Quarantine},
		{"it opens all rows, and a rotation is open", Evidence{Keyfile: good(b), Ledger: rotation(a, b, true), Rows: answers(a, 10), Escrows: []EscrowEvidence{holds("gcp")}}, escrow.Quarantine},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, why := DueShelf(test.e, 0, a); got != test.want || (why == Bar{}) != (got == escrow.Current) {
				t.Errorf("%s instead of %s: %q", got, test.want, why)
			}
		})
	}
}

// TestBarRivalIn: what keeps a key from a current shelf while no row speaks is looked for where its copy
// stands, and that is not always the escrow that the key is to be saved in.
func TestBarRivalIn(t *testing.T) {
	for _, test := range []struct {
		name string
		e    Evidence
		want string
	}{
		{"nothing does", Evidence{Escrows: []EscrowEvidence{holds("gcp"), holds("usb", copyOf("current/1", a))}}, ""},
		{"a copy there", Evidence{Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", b)), holds("usb")}}, "gcp"},
		{"a copy elsewhere", Evidence{Escrows: []EscrowEvidence{holds("gcp"), holds("usb", copyOf("current/1", b))}}, "usb"},
		{"an older copy elsewhere, of a key that was proven", Evidence{History: LedgerWhole{Asked: true, Proven: []key.Fingerprint{a}},
			Escrows: []EscrowEvidence{holds("gcp"), holds("usb", copyOf("current/2", a), copyOf("current/1", b))}}, "usb"},
		{"a key that was proven, and has no copy", Evidence{History: LedgerWhole{Asked: true, Proven: []key.Fingerprint{b}}, Escrows: []EscrowEvidence{holds("gcp")}}, ""},
		{"what an escrow that does not answer may have", Evidence{Escrows: []EscrowEvidence{holds("gcp"), down("usb", true)}}, ""},
		{"a copy that the ledger cannot tell from this host's own", Evidence{History: LedgerWhole{Asked: true, Unreadable: "damaged"},
			Escrows: []EscrowEvidence{holds("gcp", copyOf("current/1", b)), holds("usb", copyOf("current/1", c))}}, "gcp"},
	} {
		test.e.Now, test.e.Keyfile, test.e.Rows = now, good(a), silent
		if _, bar := Shelf(test.e, 0, a); bar.RivalIn != test.want {
			t.Errorf("%s: %q, not %q: %s", test.name, bar.RivalIn, test.want, bar.Why)
		}
	}
}
