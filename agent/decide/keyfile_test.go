package decide

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// Keys of the tables, by fingerprint; the rules never see more of them.
const (
	a = key.Fingerprint("aaaaaaaaaaaaaaaa")
	b = key.Fingerprint("bbbbbbbbbbbbbbbb")
	c = key.Fingerprint("cccccccccccccccc")
)

func good(f key.Fingerprint) KeyfileEvidence { return KeyfileEvidence{Good: true, Key: f} }

var missing = KeyfileEvidence{Why: "missing"}

// opens is an answer of the rows: key, opened, key, opened … of 10.
func answers(pairs ...any) RowsEvidence {
	e := RowsEvidence{State: RowsAnswer, Proofs: map[key.Fingerprint]rows.Proof{}}
	for i := 0; i < len(pairs); i += 2 {
		f, n := pairs[i].(key.Fingerprint), int64(pairs[i+1].(int))
		v := rows.Partial
		switch n {
		case 0:
			v = rows.Refuted
		case 10:
			v = rows.Opens
		}
		e.Proofs[f] = rows.Proof{Fingerprint: f, Verdict: v, Checked: 10, Opened: n}
	}
	return e
}

var (
	silent  = RowsEvidence{State: RowsSilent, Why: "empty"}
	unknown = RowsEvidence{State: RowsUnknown, Why: "down"}
)

func known(f key.Fingerprint, age time.Duration) LedgerEnd {
	return LedgerEnd{Known: f, LastLook: now.Add(-age)}
}

func history(contradicted ...key.Fingerprint) LedgerWhole {
	h := LedgerWhole{Asked: true, Contradicted: map[key.Fingerprint]bool{}}
	for _, f := range contradicted {
		h.Contradicted[f] = true
	}
	return h
}

// unused is a ledger that tells of first keys which nobody has used yet.
func unused(keys ...key.Fingerprint) LedgerWhole {
	h := history()
	h.Unused = map[key.Fingerprint]bool{}
	for _, f := range keys {
		h.Unused[f] = true
	}
	return h
}

// named is a ledger that tells that these keys were saved, the last first, too.
func named(h LedgerWhole, keys ...key.Fingerprint) LedgerWhole {
	h.Named = keys
	return h
}

// broken is a ledger that may have told of any key.
func broken(h LedgerWhole) LedgerWhole {
	h.Unreadable = "its chain is broken"
	return h
}

func accepted(f key.Fingerprint, v rows.Verdict, age time.Duration) LedgerEnd {
	return LedgerEnd{Known: f, Accepted: true, Verdict: v, LastLook: now.Add(-age)}
}

func rotation(old, fresh key.Fingerprint, begun bool) LedgerEnd {
	return LedgerEnd{Known: old, LastLook: now.Add(-time.Hour), Rotation: &Rotation{old, fresh, begun}}
}

// rotationOnAWord is the rotation of a key that was accepted when it opened a part of the rows.
func rotationOnAWord(old, fresh key.Fingerprint) LedgerEnd {
	l := accepted(old, rows.Partial, time.Hour)
	l.Rotation = &Rotation{old, fresh, true}
	return l
}

func local(keys ...key.Fingerprint) LocalEvidence { return LocalEvidence{Asked: true, Keys: keys} }

// butOne is what an escrow of several answers of which one does not.
func butOne(s EscrowEvidence) EscrowEvidence {
	s.Unheard = "one: permission denied"
	return s
}

func holds(name string, copies ...CopyEvidence) EscrowEvidence {
	return EscrowEvidence{Name: name, Required: true, State: EscrowAnswered, Copies: copies}
}

func down(name string, required bool) EscrowEvidence {
	return EscrowEvidence{Name: name, Required: required, State: EscrowFailed, Why: "unreachable"}
}

func current(f key.Fingerprint) CopyEvidence {
	return CopyEvidence{ID: "current/1", Shelf: escrow.Current, Key: f, Have: true}
}

// misnamed is a copy that is called another key.
func misnamed(f key.Fingerprint) CopyEvidence {
	return CopyEvidence{ID: "current/1", Shelf: escrow.Current, Unreadable: "damaged", Misnamed: f}
}

func quarantined(f key.Fingerprint) CopyEvidence {
	return CopyEvidence{ID: "quarantine/1", Shelf: escrow.Quarantine, Key: f, Have: true}
}

func sealed(f key.Fingerprint) CopyEvidence {
	return CopyEvidence{ID: "current/9", Shelf: escrow.Current, Key: f, Unreadable: "sealed"}
}

var (
	pending   = EscrowEvidence{Name: "gcp", Required: true}
	worthless = CopyEvidence{ID: "current/7", Shelf: escrow.Current, Unreadable: "not a key", Worthless: true}
)

// TestDecide has a row for every branch of design §3.
func TestKeyfile(t *testing.T) {
	const day = 24 * time.Hour
	next := func(f key.Fingerprint) NextEvidence { return NextEvidence{There: true, Key: f} }
	for _, test := range []struct {
		name string
		e    Evidence
		want Decision // Reason and Warning are compared only for being there
		warn bool
	}{
		// R1
		{name: "rotation open: the rows are asked", e: Evidence{Keyfile: good(a), Ledger: rotation(a, b, false)},
			want: Decision{Rule: "R1", Action: Ask, Question: AskRows}},
		{name: "rotation open, rows under old", e: Evidence{Keyfile: good(a), Next: next(b), Ledger: rotation(a, b, true), Rows: answers(a, 10, b, 0)},
			want: Decision{Rule: "R1", Action: Pass, Key: a, Settle: SettleOld}},
		{name: "rotation open, rows under new, still staged", e: Evidence{Keyfile: good(a), Next: next(b), Ledger: rotation(a, b, true), Rows: answers(a, 0, b, 10)},
			want: Decision{Rule: "R1", Action: Install, Key: b, Settle: SettleNew}},
		{name: "rotation open, rows under new, exchanged", e: Evidence{Keyfile: good(b), Next: next(a), Ledger: rotation(a, b, true), Rows: answers(a, 0, b, 10)},
			want: Decision{Rule: "R1", Action: Pass, Key: b, Settle: SettleNew}},
		{name: "rotation open, split: the one that opens more", e: Evidence{Keyfile: good(a), Next: next(b), Ledger: rotation(a, b, true), Rows: answers(a, 4, b, 6)},
			want: Decision{Rule: "R1", Action: Install, Key: b, Settle: SettleNew}},
		{name: "rotation open, a tie: the keyfile's own", e: Evidence{Keyfile: good(b), Next: next(a), Ledger: rotation(a, b, true), Rows: answers(a, 5, b, 5), Local: local()},
			want: Decision{Rule: "R1", Action: Pass, Key: b, Settle: SettleNew}, warn: true},
		{name: "rotation open, a tie: the keyfile's own, the old one", e: Evidence{Keyfile: good(a), Next: next(b), Ledger: rotation(a, b, true), Rows: answers(a, 5, b, 5), Local: local()},
			want: Decision{Rule: "R1", Action: Pass, Key: a, Settle: SettleOld}, warn: true},
		{name: "rotation open, exchanged, split: the old one that opens more", e: Evidence{Keyfile: good(b), Next: next(a), Ledger: rotation(a, b, true), Rows: answers(a, 6, b, 4)},
			want: Decision{Rule: "R1", Action: Install, Key: a, Settle: SettleOld}},
		{name: "rotation open, neither has most rows: look further", e: Evidence{Keyfile: good(a), Next: next(b), Ledger: rotation(a, b, true), Rows: answers(a, 1, b, 0), Local: local(), Escrows: []EscrowEvidence{pending}},
			want: Decision{Rule: "R1", Action: Ask, Question: AskEscrows}},
		{name: "rotation open, another key has most rows", e: Evidence{Keyfile: good(a), Next: next(b), Ledger: rotation(a, b, true), Rows: answers(a, 1, b, 0, c, 9), Local: local(c)},
			want: Decision{Rule: "R1", Action: Install, Key: c, Settle: SettleNeither}, warn: true},
		{name: "rotation open, neither has most rows, and who may have another does not answer", e: Evidence{Keyfile: good(a), Next: next(b), Ledger: rotation(a, b, true), Rows: answers(a, 1, b, 0), Local: local(), Escrows: []EscrowEvidence{down("gcp", true)}},
			want: Decision{Rule: "R1", Action: Pass, Key: a, Settle: SettleOld}, warn: true},
		{name: "rotation open, another key opens more, and who may have the right one does not answer", e: Evidence{Keyfile: good(a), Next: next(b), Ledger: rotation(a, b, true), Rows: answers(a, 1, b, 0, c, 3), Local: local(c), Escrows: []EscrowEvidence{down("gcp", true)}},
			want: Decision{Rule: "R1", Action: Doubt, Needed: a, Settle: SettleOld}},
		{name: "rotation open of an accepted key, the new one opens more, and who may have the right one does not answer: the word was not for it", e: Evidence{Keyfile: good(a), Next: next(b), Ledger: rotationOnAWord(a, b), Rows: answers(a, 1, b, 3), Local: local(), Escrows: []EscrowEvidence{down("gcp", true)}},
			want: Decision{Rule: "R1", Action: Install, Key: b, Settle: SettleNew}, warn: true},
		{name: "rotation open of an accepted key, the new one in place opens more, a third the most: the word was not for it", e: Evidence{Keyfile: good(b), Next: next(a), Ledger: rotationOnAWord(a, b), Rows: answers(a, 1, b, 3, c, 4), Local: local(c)},
			want: Decision{Rule: "R1", Action: Install, Key: c, Settle: SettleNeither}, warn: true},
		{name: "rotation open of an accepted key, which opens more than the new one: a person's word stands", e: Evidence{Keyfile: good(a), Next: next(b), Ledger: rotationOnAWord(a, b), Rows: answers(a, 3, b, 1), Local: local(), Escrows: []EscrowEvidence{down("gcp", true)}},
			want: Decision{Rule: "R1", Action: Pass, Key: a, Settle: SettleOld}, warn: true},
		{name: "rotation open, silent: closed, and R4 goes on", e: Evidence{Keyfile: good(a), Next: next(b), Ledger: rotation(a, b, true), Rows: silent},
			want: Decision{Rule: "R4", Action: Pass, Key: a, Settle: SettleNeither}},
		{name: "rotation open, neither opens a row: closed, and R3 goes on", e: Evidence{Keyfile: good(a), Next: next(b), Ledger: rotation(a, b, true), Rows: answers(a, 0, b, 0), Local: local(c)},
			want: Decision{Rule: "R3", Action: Ask, Question: AskRows}},
		{name: "rotation open, neither opens a row, another does", e: Evidence{Keyfile: good(a), Next: next(b), Ledger: rotation(a, b, true), Rows: answers(a, 0, b, 0, c, 10), Local: local(c)},
			want: Decision{Rule: "R3", Action: Install, Key: c, Settle: SettleNeither}},
		{name: "rotation open, unknown, the new one in place", e: Evidence{Keyfile: good(b), Ledger: rotation(a, b, true), Rows: unknown},
			want: Decision{Rule: "R1", Action: Pass, Key: b}},
		{name: "rotation open, unknown, commit not begun", e: Evidence{Keyfile: good(a), Next: next(b), Ledger: rotation(a, b, false), Rows: unknown},
			want: Decision{Rule: "R1", Action: Pass, Key: a}},
		{name: "rotation open, unknown, commit not begun, the old one in quarantine", e: Evidence{Keyfile: missing, Next: next(b), Ledger: rotation(a, b, false), Rows: unknown, Local: local(a)},
			want: Decision{Rule: "R1", Action: Install, Key: a}},
		{name: "rotation open, unknown, commit not begun, the old one nowhere", e: Evidence{Keyfile: missing, Next: next(b), Ledger: rotation(a, b, false), Rows: unknown, Local: local()},
			want: Decision{Rule: "R1", Action: Doubt, Needed: a}},
		{name: "rotation open, unknown, commit begun", e: Evidence{Keyfile: good(a), Next: next(b), Ledger: rotation(a, b, true), Rows: unknown},
			want: Decision{Rule: "R1", Action: Doubt, Needed: a}},
		{name: "a .next that the ledger does not name counts as begun", e: Evidence{Keyfile: good(a), Next: next(b), Ledger: known(a, time.Hour), Rows: unknown},
			want: Decision{Rule: "R1", Action: Doubt, Needed: a}},
		{name: "a .next that the ledger does not name, rows under it", e: Evidence{Keyfile: good(a), Next: next(b), Rows: answers(a, 0, b, 10)},
			want: Decision{Rule: "R1", Action: Install, Key: b, Settle: SettleNew}},
		{name: "a half-written .next: the keyfile's key holds", e: Evidence{Keyfile: good(a), Next: next(""), Rows: answers(a, 10)},
			want: Decision{Rule: "R1", Action: Pass, Key: a, Settle: SettleOld}},
		{name: "a half-written .next and a partial keyfile: look further", e: Evidence{Keyfile: good(a), Next: next(""), Rows: answers(a, 6), Local: local()},
			want: Decision{Rule: "R1", Action: Pass, Key: a, Settle: SettleOld}},
		{name: "the old key cannot be tried: look in the quarantine", e: Evidence{Keyfile: good(b), Ledger: rotation(a, b, true), Rows: answers(b, 5)},
			want: Decision{Rule: "R1", Action: Ask, Question: AskLocal}},
		{name: "the old key cannot be tried: look in the escrows", e: Evidence{Keyfile: good(b), Ledger: rotation(a, b, true), Rows: answers(b, 5), Local: local(), Escrows: []EscrowEvidence{pending}},
			want: Decision{Rule: "R1", Action: Ask, Question: AskEscrows}},
		{name: "the old key cannot be tried: doubt", e: Evidence{Keyfile: good(b), Ledger: rotation(a, b, true), Rows: answers(b, 5), Local: local(), Escrows: []EscrowEvidence{down("gcp", true)}},
			want: Decision{Rule: "R1", Action: Doubt, Needed: a}},
		{name: "neither key can be tried, and a third opens all", e: Evidence{Keyfile: good(c), Ledger: rotation(a, b, true), Rows: answers(c, 10), Local: local(), Escrows: []EscrowEvidence{down("gcp", true)}},
			want: Decision{Rule: "R3", Action: Pass, Key: c, Settle: SettleNeither}},
		{name: "neither key can be tried, and a third opens most: doubt", e: Evidence{Keyfile: good(c), Ledger: rotation(a, b, true), Rows: answers(c, 9), Local: local(), Escrows: []EscrowEvidence{down("gcp", true)}},
			want: Decision{Rule: "R1", Action: Doubt, Needed: a}},
		{name: "the old key cannot be tried, the new one opens all", e: Evidence{Keyfile: good(b), Ledger: rotation(a, b, true), Rows: answers(b, 10)},
			want: Decision{Rule: "R1", Action: Pass, Key: b, Settle: SettleNew}},

		// R2
		{name: "healthy: nobody is asked", e: Evidence{Keyfile: good(a), Ledger: known(a, 25*time.Hour)},
			want: Decision{Rule: "R2", Action: Pass, Key: a}},
		{name: "proof too old: the rows are asked", e: Evidence{Keyfile: good(a), Ledger: known(a, 25*time.Hour+time.Second)},
			want: Decision{Rule: "R2", Action: Ask, Question: AskRows}},
		{name: "a proof on a part of the rows that is no majority leaves the question open", e: Evidence{Keyfile: good(a), Ledger: LedgerEnd{Known: a, Verdict: rows.Partial, LastLook: now}},
			want: Decision{Rule: "R2", Action: Ask, Question: AskRows}},
		{name: "a proof from the future is none", e: Evidence{Keyfile: good(a), Ledger: known(a, -time.Second)},
			want: Decision{Rule: "R2", Action: Ask, Question: AskRows}},
		{name: "proof too old, rows down", e: Evidence{Keyfile: good(a), Ledger: known(a, 2*day), Rows: unknown},
			want: Decision{Rule: "R2", Action: Pass, Key: a}, warn: true},
		{name: "proof too old, rows silent", e: Evidence{Keyfile: good(a), Ledger: known(a, 2*day), Rows: silent},
			want: Decision{Rule: "R2", Action: Pass, Key: a}},
		{name: "proof too old, proven again", e: Evidence{Keyfile: good(a), Ledger: known(a, 2*day), Rows: answers(a, 10)},
			want: Decision{Rule: "R2", Action: Pass, Key: a}},
		{name: "proof too old, now most rows", e: Evidence{Keyfile: good(a), Ledger: known(a, 2*day), Rows: answers(a, 6)},
			want: Decision{Rule: "R2", Action: Pass, Key: a}, warn: true},
		{name: "proof too old, now without the majority: R3", e: Evidence{Keyfile: good(a), Ledger: known(a, 2*day), Rows: answers(a, 5)},
			want: Decision{Rule: "R3", Action: Ask, Question: AskLocal}},
		{name: "proof too old, another has the majority: only refuted contradicts", e: Evidence{Keyfile: good(a), Ledger: known(a, 2*day), Rows: answers(a, 1, b, 9), Local: local(b)},
			want: Decision{Rule: "R3", Action: Install, Key: b}, warn: true},
		{name: "accepted while partial, and partial still: a person's word stands", e: Evidence{Keyfile: good(a), Ledger: accepted(a, rows.Partial, 2*day), Rows: answers(a, 1)},
			want: Decision{Rule: "R2", Action: Pass, Key: a}, warn: true},
		{name: "accepted while it opened all, partial now: worse", e: Evidence{Keyfile: good(a), Ledger: accepted(a, rows.Opens, 2*day), Rows: answers(a, 1, b, 9), Local: local(b)},
			want: Decision{Rule: "R3", Action: Install, Key: b}, warn: true},
		{name: "proof too old, refuted: R3", e: Evidence{Keyfile: good(a), Ledger: known(a, 2*day), Rows: answers(a, 0, b, 10), Local: local(b)},
			want: Decision{Rule: "R3", Action: Install, Key: b, Contradicted: a}},
		{name: "accepted while refuted: a person's word stands", e: Evidence{Keyfile: good(a), Ledger: accepted(a, rows.Refuted, 2*day), Rows: answers(a, 0)},
			want: Decision{Rule: "R2", Action: Pass, Key: a}, warn: true},
		{name: "accepted a while ago while refuted: it is said at each start", e: Evidence{Keyfile: good(a), Ledger: accepted(a, rows.Refuted, time.Hour)},
			want: Decision{Rule: "R2", Action: Pass, Key: a}, warn: true},
		{name: "accepted a while ago while partial: it is said at each start", e: Evidence{Keyfile: good(a), Ledger: accepted(a, rows.Partial, time.Hour)},
			want: Decision{Rule: "R2", Action: Pass, Key: a}, warn: true},
		{name: "accepted a while ago while it opened all", e: Evidence{Keyfile: good(a), Ledger: accepted(a, rows.Opens, time.Hour)},
			want: Decision{Rule: "R2", Action: Pass, Key: a}},
		{name: "accepted a while ago, and never tried: no proof at all", e: Evidence{Keyfile: good(a), Ledger: accepted(a, rows.Unknown, time.Minute)},
			want: Decision{Rule: "R2", Action: Ask, Question: AskRows}},
		{name: "accepted, never tried, and the rows are down still", e: Evidence{Keyfile: good(a), Ledger: accepted(a, rows.Unknown, time.Minute), Rows: unknown},
			want: Decision{Rule: "R2", Action: Pass, Key: a}, warn: true},
		{name: "accepted, never tried, and refuted now", e: Evidence{Keyfile: good(a), Ledger: accepted(a, rows.Unknown, time.Minute), Rows: answers(a, 0, b, 10), Local: local(b)},
			want: Decision{Rule: "R3", Action: Install, Key: b, Contradicted: a}},
		{name: "accepted while silent, refuted now: worse", e: Evidence{Keyfile: good(a), Ledger: accepted(a, rows.Silent, 2*day), Rows: answers(a, 0, b, 10), Local: local(b)},
			want: Decision{Rule: "R3", Action: Install, Key: b, Contradicted: a}},

		// R3
		{name: "not known: the rows are asked", e: Evidence{Keyfile: good(a)},
			want: Decision{Rule: "R3", Action: Ask, Question: AskRows}},
		{name: "the keyfile's own opens all", e: Evidence{Keyfile: good(a), Rows: answers(a, 10)},
			want: Decision{Rule: "R3", Action: Pass, Key: a}},
		{name: "missing: the quarantine is looked into", e: Evidence{Keyfile: missing, Rows: answers()},
			want: Decision{Rule: "R3", Action: Ask, Question: AskLocal}},
		{name: "missing: the quarantine's keys are tried", e: Evidence{Keyfile: missing, Rows: answers(), Local: local(b)},
			want: Decision{Rule: "R3", Action: Ask, Question: AskRows}},
		{name: "missing: the quarantine has it", e: Evidence{Keyfile: missing, Rows: answers(b, 10), Local: local(b)},
			want: Decision{Rule: "R3", Action: Install, Key: b}},
		{name: "missing: the escrows are asked", e: Evidence{Keyfile: missing, Rows: answers(), Local: local(), Escrows: []EscrowEvidence{pending}},
			want: Decision{Rule: "R3", Action: Ask, Question: AskEscrows}},
		{name: "missing: one escrow has it, another has not answered", e: Evidence{Keyfile: missing, Rows: answers(b, 10), Local: local(), Escrows: []EscrowEvidence{pending, holds("usb", current(b))}},
			want: Decision{Rule: "R3", Action: Install, Key: b}},
		{name: "missing: a quarantined copy opens all", e: Evidence{Keyfile: missing, Rows: answers(b, 0, c, 10), Local: local(), Escrows: []EscrowEvidence{holds("gcp", current(b), quarantined(c))}},
			want: Decision{Rule: "R3", Action: Install, Key: c}},
		{name: "malformed, but decodes to the right key", e: Evidence{Keyfile: KeyfileEvidence{Key: a, Why: "base64"}, Rows: answers(a, 10)},
			want: Decision{Rule: "R3", Action: Install, Key: a}},
		{name: "split: the one that has the majority wins without the escrows", e: Evidence{Keyfile: good(b), Ledger: known(a, time.Hour), Rows: answers(a, 7, b, 3), Local: local(a), Escrows: []EscrowEvidence{pending}},
			want: Decision{Rule: "R3", Action: Install, Key: a}, warn: true},
		{name: "split: the known key is not at hand, so the escrows are asked", e: Evidence{Keyfile: good(b), Ledger: known(a, time.Hour), Rows: answers(b, 3), Local: local(), Escrows: []EscrowEvidence{pending}},
			want: Decision{Rule: "R3", Action: Ask, Question: AskEscrows}},
		{name: "split, none known: an escrow may hold a key that opens more", e: Evidence{Keyfile: good(b), Rows: answers(b, 3), Local: local(), Escrows: []EscrowEvidence{pending}},
			want: Decision{Rule: "R3", Action: Ask, Question: AskEscrows}},
		{name: "split: an escrow that answers has the key of most rows", e: Evidence{Keyfile: good(b), Ledger: known(b, time.Hour), Rows: answers(b, 1, a, 9), Local: local(), Escrows: []EscrowEvidence{pending, holds("usb", current(a))}},
			want: Decision{Rule: "R3", Action: Install, Key: a}, warn: true},
		{name: "split: an escrow is away, and the known key is what the daemon ran on", e: Evidence{Keyfile: good(b), Ledger: known(b, time.Hour), Rows: answers(b, 4, a, 4), Local: local(a), Escrows: []EscrowEvidence{down("gcp", true)}},
			want: Decision{Rule: "R3", Action: Pass, Key: b}, warn: true},
		{name: "split: an escrow is away, and a key at hand opens more than the known one", e: Evidence{Keyfile: good(b), Ledger: known(b, time.Hour), Rows: answers(b, 3, a, 4), Local: local(a), Escrows: []EscrowEvidence{down("gcp", true)}},
			want: Decision{Rule: "R3", Action: Doubt, Needed: b}},
		{name: "split: an escrow is away, and a person's word is no proof", e: Evidence{Keyfile: good(b), Ledger: accepted(b, rows.Opens, time.Hour), Rows: answers(b, 4), Local: local(), Escrows: []EscrowEvidence{down("gcp", true)}},
			want: Decision{Rule: "R3", Action: Doubt, Needed: b}},
		{name: "split: an escrow is away, and the known key opens nothing", e: Evidence{Keyfile: good(b), Ledger: known(b, time.Hour), Rows: answers(b, 0), Local: local(), Escrows: []EscrowEvidence{down("gcp", true)}},
			want: Decision{Rule: "R3", Action: Doubt, Contradicted: b}},
		{name: "split: what an escrow answered before is no answer", e: Evidence{Keyfile: good(b), Rows: answers(b, 4), Local: local(), Escrows: []EscrowEvidence{{Name: "gcp", State: EscrowAnswered, Remembered: true}}},
			want: Decision{Rule: "R3", Action: Doubt}},
		{name: "split: the known key wins ties", e: Evidence{Keyfile: good(b), Ledger: known(a, time.Hour), Rows: answers(b, 5, a, 5), Local: local(a)},
			want: Decision{Rule: "R3", Action: Install, Key: a}, warn: true},
		{name: "split, none known: the keyfile's own wins ties", e: Evidence{Keyfile: good(b), Rows: answers(b, 5, a, 5), Local: local(a)},
			want: Decision{Rule: "R3", Action: Pass, Key: b}, warn: true},
		{name: "split, none known: one at hand opens more, so the escrows are asked", e: Evidence{Keyfile: good(b), Rows: answers(b, 3, a, 4), Local: local(a), Escrows: []EscrowEvidence{pending}},
			want: Decision{Rule: "R3", Action: Ask, Question: AskEscrows}},
		{name: "split: the best, every escrow having answered", e: Evidence{Keyfile: good(b), Rows: answers(b, 3, a, 4), Local: local(a), Escrows: []EscrowEvidence{holds("gcp")}},
			want: Decision{Rule: "R3", Action: Install, Key: a}, warn: true},
		{name: "split: an escrow has not answered", e: Evidence{Keyfile: good(b), Rows: answers(b, 3, a, 4), Local: local(a), Escrows: []EscrowEvidence{down("gcp", false)}},
			want: Decision{Rule: "R3", Action: Doubt}},
		{name: "split: a sealed copy is unopened", e: Evidence{Keyfile: good(b), Rows: answers(b, 3, a, 4), Local: local(a), Escrows: []EscrowEvidence{holds("usb", sealed(a))}},
			want: Decision{Rule: "R3", Action: Doubt}},
		{name: "lost", e: Evidence{Keyfile: good(b), Ledger: known(a, time.Hour), Rows: answers(b, 0), Local: local(), Escrows: []EscrowEvidence{holds("gcp", worthless)}},
			want: Decision{Rule: "R3", Action: Lost, Needed: a}},
		{name: "lost, with copies that were tried", e: Evidence{Keyfile: missing, Rows: answers(b, 0), Local: local(), Escrows: []EscrowEvidence{holds("gcp", current(b))}},
			want: Decision{Rule: "R3", Action: Lost}},
		{name: "no key opens a row, and a store of a split did not answer (law 6)", e: Evidence{Keyfile: missing, Rows: answers(b, 0), Local: local(), Escrows: []EscrowEvidence{butOne(holds("split", current(b)))}},
			want: Decision{Rule: "R3", Action: Doubt}},
		{name: "the key that opens the rows is called another one (law 1)", e: Evidence{Keyfile: missing, Rows: answers(b, 10), Local: local(), Escrows: []EscrowEvidence{holds("gcp", misnamed(b))}},
			want: Decision{Rule: "R3", Action: Install, Key: b}},
		{name: "what is called another key opens nothing", e: Evidence{Keyfile: missing, Rows: answers(b, 0), Local: local(), Escrows: []EscrowEvidence{holds("gcp", misnamed(b))}},
			want: Decision{Rule: "R3", Action: Lost}},
		{name: "no row can tell which name is right", e: Evidence{Keyfile: missing, Rows: silent, Local: local(), Escrows: []EscrowEvidence{holds("gcp", misnamed(b))}, History: LedgerWhole{Asked: true}},
			want: Decision{Rule: "R4", Action: Doubt}},
		{name: "not lost: what is said to be a key that opened nothing is not at hand", e: Evidence{Keyfile: missing, Rows: answers(b, 0), Local: local(),
			Escrows: []EscrowEvidence{holds("gcp", CopyEvidence{ID: "current/1", Shelf: escrow.Current, Key: b})}},
			want: Decision{Rule: "R3", Action: Doubt}},
		{name: "not lost: what is said to be a key that opens rows is not at hand", e: Evidence{Keyfile: missing, Rows: answers(b, 10), Local: local(),
			Escrows: []EscrowEvidence{holds("gcp", CopyEvidence{ID: "current/1", Shelf: escrow.Current, Key: b})}},
			want: Decision{Rule: "R3", Action: Doubt}},
		{name: "not lost: a copy was not fetched again yet", e: Evidence{Keyfile: missing, Rows: answers(), Local: local(),
			Escrows: []EscrowEvidence{holds("gcp", CopyEvidence{ID: "current/1", Shelf: escrow.Current, Key: b})}},
			want: Decision{Rule: "R3", Action: Doubt}},
		{name: "not lost: what it held was heard before", e: Evidence{Keyfile: missing, Rows: answers(), Local: local(), Escrows: []EscrowEvidence{{Name: "gcp", State: EscrowAnswered, Remembered: true}}},
			want: Decision{Rule: "R3", Action: Doubt}},
		{name: "not lost: sealed", e: Evidence{Keyfile: missing, Rows: answers(), Local: local(), Escrows: []EscrowEvidence{holds("usb", sealed(""))}},
			want: Decision{Rule: "R3", Action: Doubt}},
		{name: "not lost: an escrow is down", e: Evidence{Keyfile: missing, Rows: answers(), Local: local(), Escrows: []EscrowEvidence{down("gcp", false)}},
			want: Decision{Rule: "R3", Action: Doubt}},
		{name: "the known key is refuted while another stands in its place", e: Evidence{Keyfile: good(b), Ledger: known(a, time.Hour), Rows: answers(a, 0, b, 4), Local: local(a)},
			want: Decision{Rule: "R3", Action: Pass, Key: b, Contradicted: a}, warn: true},

		// R4
		{name: "silent, 32 bytes", e: Evidence{Keyfile: good(b), Ledger: known(a, time.Hour), Rows: silent},
			want: Decision{Rule: "R4", Action: Pass, Key: b}},
		{name: "silent, missing: the known key is looked for here", e: Evidence{Keyfile: missing, Ledger: known(a, time.Hour), Rows: silent},
			want: Decision{Rule: "R4", Action: Ask, Question: AskLocal}},
		{name: "silent, missing: the known key from the quarantine", e: Evidence{Keyfile: missing, Ledger: known(a, time.Hour), Rows: silent, Local: local(b, a)},
			want: Decision{Rule: "R4", Action: Install, Key: a}},
		{name: "silent, missing: the known key from an escrow, others pending", e: Evidence{Keyfile: missing, Ledger: known(a, time.Hour), Rows: silent, Local: local(), Escrows: []EscrowEvidence{pending, holds("usb", current(b), quarantined(a))}},
			want: Decision{Rule: "R4", Action: Install, Key: a}},
		{name: "silent, missing: the escrows are asked", e: Evidence{Keyfile: missing, Rows: silent, Local: local(b), Escrows: []EscrowEvidence{pending}},
			want: Decision{Rule: "R4", Action: Ask, Question: AskEscrows}},
		{name: "silent, missing: the first escrow's newest", e: Evidence{Keyfile: missing, Rows: silent, Local: local(c), History: history(), Escrows: []EscrowEvidence{holds("gcp", quarantined(c)), holds("vault", current(b)), holds("usb", current(a))}},
			want: Decision{Rule: "R4", Action: Install, Key: b}},
		{name: "silent, decodes: behind the newest current copies", e: Evidence{Keyfile: KeyfileEvidence{Key: c, Why: "hex"}, Rows: silent, Local: local(), History: history(), Escrows: []EscrowEvidence{holds("gcp", current(b))}},
			want: Decision{Rule: "R4", Action: Install, Key: b}},
		{name: "silent, decodes: no copies", e: Evidence{Keyfile: KeyfileEvidence{Key: c, Why: "hex"}, Rows: silent, Local: local(), History: history(), Escrows: []EscrowEvidence{holds("gcp")}},
			want: Decision{Rule: "R4", Action: Install, Key: c}},
		{name: "silent, missing: local quarantine before the quarantine shelf", e: Evidence{Keyfile: missing, Rows: silent, Local: local(b), History: history(), Escrows: []EscrowEvidence{holds("gcp", quarantined(c))}},
			want: Decision{Rule: "R4", Action: Install, Key: b}},
		{name: "silent, missing: the quarantine shelf", e: Evidence{Keyfile: missing, Rows: silent, Local: local(), History: history(), Escrows: []EscrowEvidence{holds("gcp", quarantined(c))}},
			want: Decision{Rule: "R4", Action: Install, Key: c}},
		{name: "silent, missing: a required escrow is down", e: Evidence{Keyfile: missing, Rows: silent, Local: local(b), Escrows: []EscrowEvidence{down("gcp", true), holds("usb", current(a))}},
			want: Decision{Rule: "R4", Action: Doubt}},
		{name: "silent, missing: an optional escrow is down, another has a copy", e: Evidence{Keyfile: missing, Rows: silent, Local: local(), History: history(), Escrows: []EscrowEvidence{down("gcp", false), holds("usb", current(a))}},
			want: Decision{Rule: "R4", Action: Install, Key: a}, warn: true},
		{name: "silent, missing: a copy would do, and the ledger may speak against it", e: Evidence{Keyfile: missing, Rows: silent, Local: local(b)},
			want: Decision{Rule: "R4", Action: Ask, Question: AskHistory}},
		{name: "silent, missing: the known key is nowhere, another one is", e: Evidence{Keyfile: missing, Ledger: known(a, time.Hour), Rows: silent, Local: local(b), History: history(), Escrows: []EscrowEvidence{holds("gcp", current(c))}},
			want: Decision{Rule: "R4", Action: Install, Key: c}, warn: true},
		{name: "silent, missing: the known key is not found, and an optional escrow is down", e: Evidence{Keyfile: missing, Ledger: known(a, time.Hour), Rows: silent, Local: local(b), History: history(), Escrows: []EscrowEvidence{down("gcp", false), holds("usb", current(c))}},
			want: Decision{Rule: "R4", Action: Install, Key: c}, warn: true},
		{name: "silent, missing: the known key is not found, and the required escrow is down", e: Evidence{Keyfile: missing, Ledger: known(a, time.Hour), Rows: silent, Local: local(b), History: history(), Escrows: []EscrowEvidence{down("gcp", true), holds("usb", current(c))}},
			want: Decision{Rule: "R4", Action: Doubt, Needed: a}},
		{name: "silent, missing: the known key is not found, and the required escrow was heard before", e: Evidence{Keyfile: missing, Ledger: known(a, time.Hour), Rows: silent, Local: local(b), History: history(),
			Escrows: []EscrowEvidence{{Name: "gcp", Required: true, State: EscrowAnswered, Remembered: true}}},
			want: Decision{Rule: "R4", Action: Doubt, Needed: a}},
		{name: "silent, missing: an optional escrow was heard before", e: Evidence{Keyfile: missing, Rows: silent, Local: local(b), History: history(), Escrows: []EscrowEvidence{{Name: "gcp", State: EscrowAnswered, Remembered: true}}},
			want: Decision{Rule: "R4", Action: Install, Key: b}, warn: true},
		{name: "silent, missing: a sealed copy is unopened", e: Evidence{Keyfile: missing, Rows: silent, Local: local(b), History: history(), Escrows: []EscrowEvidence{holds("usb", sealed(a))}},
			want: Decision{Rule: "R4", Action: Install, Key: b}, warn: true},
		{name: "silent, missing: the local quarantine cannot be read", e: Evidence{Keyfile: missing, Rows: silent, Local: LocalEvidence{Asked: true, Unreadable: "permission denied"}, History: history(), Escrows: []EscrowEvidence{holds("gcp", current(b))}},
			want: Decision{Rule: "R4", Action: Install, Key: b}, warn: true},
		{name: "silent, missing: a store of a split did not answer", e: Evidence{Keyfile: missing, Rows: silent, Local: local(), History: history(), Escrows: []EscrowEvidence{butOne(holds("split", current(b)))}},
			want: Decision{Rule: "R4", Action: Install, Key: b}, warn: true},
		{name: "silent, missing: the newest copy once opened none of the rows", e: Evidence{Keyfile: missing, Rows: silent, Local: local(a), History: history(b), Escrows: []EscrowEvidence{holds("gcp", current(b))}},
			want: Decision{Rule: "R4", Action: Install, Key: b}, warn: true},
		{name: "silent, missing: an older copy once opened none of the rows", e: Evidence{Keyfile: missing, Rows: silent, Local: local(a), History: history(a), Escrows: []EscrowEvidence{holds("gcp", current(b))}},
			want: Decision{Rule: "R4", Action: Install, Key: b}},
		{name: "no first start: a store of a split did not answer (law 2)", e: Evidence{Keyfile: missing, Rows: silent, Local: local(), History: history(), Escrows: []EscrowEvidence{butOne(holds("split"))}},
			want: Decision{Rule: "R4", Action: Doubt}},
		{name: "silent, missing: an optional escrow is down, copies may exist (law 2)", e: Evidence{Keyfile: missing, Rows: silent, Local: local(), Escrows: []EscrowEvidence{down("gcp", false), holds("usb")}},
			want: Decision{Rule: "R4", Action: Doubt}},
		{name: "silent, missing: a copy that cannot be read is a copy", e: Evidence{Keyfile: missing, Rows: silent, Local: local(), Escrows: []EscrowEvidence{holds("usb", sealed(a))}},
			want: Decision{Rule: "R4", Action: Doubt}},
		{name: "silent, missing: what was a copy is a trace", e: Evidence{Keyfile: missing, Rows: silent, Local: local(), Escrows: []EscrowEvidence{holds("usb", worthless)}},
			want: Decision{Rule: "R4", Action: Doubt}},
		{name: "no first start on what an escrow said earlier (law 2)", e: Evidence{Keyfile: missing, Rows: silent, Local: local(), Escrows: []EscrowEvidence{{Name: "gcp", State: EscrowAnswered, Remembered: true}}},
			want: Decision{Rule: "R4", Action: Doubt}},
		{name: "first start: the ledger is asked", e: Evidence{Keyfile: missing, Rows: silent, Local: local(), Escrows: []EscrowEvidence{holds("gcp"), holds("usb")}},
			want: Decision{Rule: "R4", Action: Ask, Question: AskHistory}},
		{name: "no first start: the ledger names a key", e: Evidence{Keyfile: missing, Rows: silent, Local: local(), History: LedgerWhole{Asked: true, Named: []key.Fingerprint{b}}, Escrows: []EscrowEvidence{holds("gcp")}},
			want: Decision{Rule: "R4", Action: Doubt, Needed: b}},
		{name: "no first start: a key is known", e: Evidence{Keyfile: missing, Ledger: known(a, time.Hour), Rows: silent, Local: local(), History: history(), Escrows: []EscrowEvidence{holds("gcp")}},
			want: Decision{Rule: "R4", Action: Doubt, Needed: a}},
		{name: "no first start: the ledger cannot be read", e: Evidence{Keyfile: missing, Rows: silent, Local: local(), History: LedgerWhole{Asked: true, Unreadable: "input/output error"}, Escrows: []EscrowEvidence{holds("gcp")}},
			want: Decision{Rule: "R4", Action: Doubt}},
		{name: "first start", e: Evidence{Keyfile: missing, Rows: silent, Local: local(), History: history(), Escrows: []EscrowEvidence{holds("gcp"), holds("usb")}},
			want: Decision{Rule: "R4", Action: Make}},
		{name: "no first start while the local quarantine cannot be read", e: Evidence{Keyfile: missing, Rows: silent, Local: LocalEvidence{Asked: true, Unreadable: "permission denied"}, History: history(), Escrows: []EscrowEvidence{holds("gcp")}},
			want: Decision{Rule: "R4", Action: Doubt}},
		{name: "nor is a key lost that may lie there", e: Evidence{Keyfile: good(b), Rows: answers(b, 0), Local: LocalEvidence{Asked: true, Unreadable: "permission denied"}, History: history(), Escrows: []EscrowEvidence{holds("gcp")}},
			want: Decision{Rule: "R3", Action: Doubt}},
		{name: "first start without an escrow", e: Evidence{Keyfile: missing, Rows: silent, Local: local(), History: history()},
			want: Decision{Rule: "R4", Action: Make}},
		{name: "first start: one that stopped is gone on with", e: Evidence{Keyfile: missing, Rows: silent, Local: local(a), History: unused(a), Escrows: []EscrowEvidence{holds("gcp")}},
			want: Decision{Rule: "R4", Action: Make, Key: a}},
		{name: "first start: a required escrow has its key", e: Evidence{Keyfile: missing, Rows: silent, Local: local(), History: unused(a), Escrows: []EscrowEvidence{holds("gcp", current(a)), holds("usb")}},
			want: Decision{Rule: "R4", Action: Make, Key: a}},
		{name: "first start: a part is all that its save has left", e: Evidence{Keyfile: missing, Rows: silent, Local: local(a), History: unused(a), Escrows: []EscrowEvidence{holds("split", sealed(a))}},
			want: Decision{Rule: "R4", Action: Make, Key: a}},
		{name: "first start: the ledger names its key", e: Evidence{Keyfile: missing, Rows: silent, Local: local(a), History: named(unused(a), a), Escrows: []EscrowEvidence{holds("gcp", quarantined(a))}},
			want: Decision{Rule: "R4", Action: Make, Key: a}},
		{name: "first start: of two that stopped, the key that comes first", e: Evidence{Keyfile: missing, Rows: silent, Local: local(a, b), History: unused(a, b), Escrows: []EscrowEvidence{holds("gcp")}},
			want: Decision{Rule: "R4", Action: Make, Key: a}},
		{name: "no first start: another key goes before the first one", e: Evidence{Keyfile: missing, Rows: silent, Local: local(a), History: unused(a), Escrows: []EscrowEvidence{holds("gcp", current(a), quarantined(b))}},
			want: Decision{Rule: "R4", Action: Install, Key: b}},
		{name: "no first start: the ledger names another key than the first one", e: Evidence{Keyfile: missing, Rows: silent, Local: local(a), History: named(unused(a), a, b), Escrows: []EscrowEvidence{holds("gcp")}},
			want: Decision{Rule: "R4", Action: Doubt, Needed: b}},
		{name: "no first start on its key: an optional escrow is down", e: Evidence{Keyfile: missing, Rows: silent, Local: local(a), History: unused(a), Escrows: []EscrowEvidence{holds("gcp", current(a)), down("usb", false)}},
			want: Decision{Rule: "R4", Action: Doubt}},
		{name: "no first start on its key: a store of a split did not answer", e: Evidence{Keyfile: missing, Rows: silent, Local: local(a), History: unused(a), Escrows: []EscrowEvidence{butOne(holds("split"))}},
			want: Decision{Rule: "R4", Action: Doubt}},
		{name: "no first start on its key: a copy of another cannot be read", e: Evidence{Keyfile: missing, Rows: silent, Local: local(a), History: unused(a), Escrows: []EscrowEvidence{holds("gcp", current(a), sealed(b))}},
			want: Decision{Rule: "R4", Action: Doubt}},
		{name: "no first start on its key: what was a copy is a trace", e: Evidence{Keyfile: missing, Rows: silent, Local: local(a), History: unused(a), Escrows: []EscrowEvidence{holds("gcp", worthless)}},
			want: Decision{Rule: "R4", Action: Doubt}},
		{name: "no first start on its key: the ledger cannot be read", e: Evidence{Keyfile: missing, Rows: silent, Local: local(a), History: broken(unused(a)), Escrows: []EscrowEvidence{holds("gcp")}},
			want: Decision{Rule: "R4", Action: Doubt}},
		{name: "first start over a crashed mint", e: Evidence{Keyfile: KeyfileEvidence{Why: "17 bytes instead of 32"}, Rows: silent, Local: local(), History: history(), Escrows: []EscrowEvidence{holds("gcp")}},
			want: Decision{Rule: "R4", Action: Make}},

		// R5
		{name: "unknown, missing: the known key from the quarantine", e: Evidence{Keyfile: missing, Ledger: known(a, time.Hour), Rows: unknown, Local: local(a)},
			want: Decision{Rule: "R5", Action: Install, Key: a}},
		{name: "unknown, missing: the known key from an escrow, another down", e: Evidence{Keyfile: missing, Ledger: known(a, time.Hour), Rows: unknown, Local: local(), Escrows: []EscrowEvidence{down("gcp", true), holds("usb", current(a))}},
			want: Decision{Rule: "R5", Action: Install, Key: a}},
		{name: "unknown, missing: the known key is nowhere", e: Evidence{Keyfile: missing, Ledger: known(a, time.Hour), Rows: unknown, Local: local(b), Escrows: []EscrowEvidence{holds("gcp", current(b))}},
			want: Decision{Rule: "R5", Action: Doubt, Needed: a}},
		{name: "unknown, missing, none known", e: Evidence{Keyfile: missing, Rows: unknown},
			want: Decision{Rule: "R5", Action: Doubt}},
		{name: "unknown, decodes to the known key", e: Evidence{Keyfile: KeyfileEvidence{Key: a, Why: "base64"}, Ledger: known(a, time.Hour), Rows: unknown},
			want: Decision{Rule: "R5", Action: Install, Key: a}},
		{name: "unknown, decodes to a key that is not known: counts as missing", e: Evidence{Keyfile: KeyfileEvidence{Key: b, Why: "base64"}, Rows: unknown},
			want: Decision{Rule: "R5", Action: Doubt}},
		{name: "unknown, foreign", e: Evidence{Keyfile: good(b), Ledger: known(a, time.Hour), Rows: unknown},
			want: Decision{Rule: "R5", Action: Doubt, Needed: a}},
		{name: "unknown, none known: the ledger is asked", e: Evidence{Keyfile: good(b), Rows: unknown},
			want: Decision{Rule: "R5", Action: Ask, Question: AskHistory}},
		{name: "unknown, contradicted before", e: Evidence{Keyfile: good(b), History: history(b), Rows: unknown},
			want: Decision{Rule: "R5", Action: Doubt}},
		{name: "unknown, none known: the escrows are asked", e: Evidence{Keyfile: good(b), History: history(), Rows: unknown, Escrows: []EscrowEvidence{pending}},
			want: Decision{Rule: "R5", Action: Ask, Question: AskEscrows}},
		{name: "unknown, none known, the escrow's newest is another", e: Evidence{Keyfile: good(b), History: history(), Rows: unknown, Escrows: []EscrowEvidence{holds("gcp", current(a))}},
			want: Decision{Rule: "R5", Action: Doubt}},
		{name: "unknown, none known, the escrow's newest cannot be read", e: Evidence{Keyfile: good(b), History: history(), Rows: unknown, Escrows: []EscrowEvidence{holds("gcp", sealed(""))}},
			want: Decision{Rule: "R5", Action: Doubt}},
		{name: "unknown, none known, the escrow's newest is the same", e: Evidence{Keyfile: good(b), History: history(), Rows: unknown, Escrows: []EscrowEvidence{holds("gcp", worthless, current(b))}},
			want: Decision{Rule: "R5", Action: Pass, Key: b}, warn: true},
		{name: "unknown, none known, the escrows are down", e: Evidence{Keyfile: good(b), History: history(), Rows: unknown, Escrows: []EscrowEvidence{down("gcp", true)}},
			want: Decision{Rule: "R5", Action: Pass, Key: b}, warn: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.e.Now = now
			got := Keyfile(test.e)
			if got.Action != Ask && got.Reason == "" {
				t.Error("no reason is given")
			}
			if (got.Warning != "") != test.warn {
				t.Errorf("warning: %q", got.Warning)
			}
			reason := got.Reason
			got.Reason, got.Warning = "", ""
			if got != test.want {
				t.Errorf("got  %+v (%s)\nwant %+v", got, reason, test.want)
			}
		})
	}
}

// drawnHost is a host as it really is; answer gives the rules what they ask for.
type drawnHost struct {
	evidence Evidence // without what must be asked for
	rows     RowsEvidence
	opens    map[key.Fingerprint]int64 // of rows.Proofs, for every key that exists
	total    int64
	local    []key.Fingerprint
	escrows  []EscrowEvidence // answered or failed
	history  LedgerWhole
	asked    []Question
	order    []int // in which the escrows answer
}

// drawHost draws one so that every rule applies often.
func drawHost(r *rand.Rand) *drawnHost {
	pick := func() key.Fingerprint { return []key.Fingerprint{a, b, c}[r.IntN(3)] }
	h := &drawnHost{opens: map[key.Fingerprint]int64{}, total: 10, history: history()}
	left := h.total
	for _, f := range []key.Fingerprint{a, b, c} {
		switch r.IntN(4) {
		case 0:
			h.opens[f] = left
		case 1:
			h.opens[f] = r.Int64N(left + 1)
		}
		left -= h.opens[f]
		h.history.Contradicted[f] = r.IntN(4) == 0
	}
	h.rows.State = RowsState(1 + r.IntN(3))
	h.rows.Why = "because"
	e := &h.evidence
	e.Now = now
	switch r.IntN(4) {
	case 0:
		e.Keyfile = missing
	case 1:
		e.Keyfile = KeyfileEvidence{Why: "31 bytes instead of 32"}
		if r.IntN(2) == 0 {
			e.Keyfile.Key = pick()
		}
	default:
		e.Keyfile = good(pick())
	}
	if r.IntN(5) == 0 {
		e.Next = NextEvidence{There: true}
		if r.IntN(4) > 0 {
			e.Next.Key = pick()
		}
	}
	if r.IntN(2) == 0 {
		e.Ledger = known(pick(), time.Duration(r.IntN(60)-5)*time.Hour)
		if r.IntN(3) == 0 {
			e.Ledger.Accepted = true
			e.Ledger.Verdict = []rows.Verdict{rows.Opens, rows.Partial, rows.Refuted, rows.Silent, rows.Unknown}[r.IntN(5)]
		}
	}
	if r.IntN(5) == 0 {
		e.Ledger.Rotation = &Rotation{Old: pick(), New: pick(), CommitBegun: r.IntN(2) == 0}
	}
	if r.IntN(8) == 0 {
		h.history.Named = []key.Fingerprint{pick()}
	}
	for range r.IntN(3) {
		if f := pick(); !slices.Contains(h.local, f) {
			h.local = append(h.local, f)
		}
	}
	for i := range r.IntN(3) {
		s := EscrowEvidence{Name: fmt.Sprint("escrow", i), Required: r.IntN(2) == 0, State: EscrowAnswered}
		if r.IntN(4) == 0 {
			s.State, s.Why = EscrowFailed, "unreachable"
		} else {
			s.Remembered = r.IntN(8) == 0
			for _, shelf := range escrow.Shelves {
				for n := range r.IntN(3) {
					c := CopyEvidence{ID: fmt.Sprint(shelf, "/", n), Shelf: shelf, Key: pick(), Have: true}
					switch r.IntN(8) {
					case 0:
						c.Have, c.Unreadable = false, "sealed"
					case 1:
						c.Have, c.Unreadable, c.Worthless, c.Key = false, "not a key", true, ""
					}
					s.Copies = append(s.Copies, c)
				}
			}
		}
		h.escrows = append(h.escrows, s)
		e.Escrows = append(e.Escrows, EscrowEvidence{Name: s.Name, Required: s.Required})
	}
	return h
}

func (h *drawnHost) proof(f key.Fingerprint) rows.Proof {
	p := rows.Proof{Fingerprint: f, Checked: h.total, Opened: h.opens[f], Verdict: rows.Partial}
	switch p.Opened {
	case 0:
		p.Verdict = rows.Refuted
	case h.total:
		p.Verdict = rows.Opens
	}
	return p
}

func (h *drawnHost) answer(e *Evidence, q Question) {
	h.asked = append(h.asked, q)
	switch q {
	case AskHistory:
		e.History = h.history
	case AskLocal:
		e.Local = LocalEvidence{Asked: true, Keys: h.local}
	case AskRows:
		e.Rows.State, e.Rows.Why = h.rows.State, h.rows.Why
		if h.rows.State == RowsAnswer {
			if e.Rows.Proofs == nil {
				e.Rows.Proofs = map[key.Fingerprint]rows.Proof{}
			}
			for _, f := range (&reasoning{Evidence: *e}).atHand() {
				e.Rows.Proofs[f] = h.proof(f)
			}
		}
	case AskEscrows:
		for _, i := range h.order {
			if e.Escrows[i].State == EscrowPending { // one at a time, as they come
				e.Escrows[i] = h.escrows[i]
				return
			}
		}
	}
}

// run asks Keyfile to the end, and answers what it asks for, the escrows in the order in
// which they come.
func (h *drawnHost) run(t *testing.T, order ...int) (Decision, Evidence) {
	e := h.evidence
	e.Escrows = slices.Clone(e.Escrows)
	h.order, h.asked = order, nil
	for range 20 {
		d := Keyfile(e)
		if d.Action != Ask {
			return d, e
		}
		h.answer(&e, d.Question)
	}
	t.Fatalf("no end: %+v\nasked %v", e, h.asked)
	return Decision{}, e
}

// whole is all that can be asked for, as those gather it who look at everything.
func (h *drawnHost) whole() Evidence {
	e := h.evidence
	e.Escrows = h.escrows
	for _, q := range []Question{AskHistory, AskLocal, AskRows} {
		h.answer(&e, q)
	}
	return e
}

// closed is the host of which e is known when a decision has closed the open rotation, and nothing else of it
// was done: the staged key is in the local quarantine, and the ledger says which key holds.
func (h drawnHost) closed(e Evidence, d Decision) *drawnHost {
	if f := e.Next.Key; f != "" && !slices.Contains(e.Local.Keys, f) {
		h.local = append([]key.Fingerprint{f}, h.local...)
		if e.Local.Asked {
			e.Local.Keys = h.local
		}
	}
	e.Next, e.Ledger.Rotation = NextEvidence{}, nil
	if f := e.Ledger.Known; f != "" {
		h.history.Named = append([]key.Fingerprint{f}, h.history.Named...)
		e.History.Named = h.history.Named
	}
	f := cmp.Or(d.Key, d.Needed)
	switch p := h.proof(f); {
	case d.Settle == SettleNeither:
		e.Ledger = LedgerEnd{}
	case !e.Ledger.Accepted || e.Ledger.Known != f || p.Verdict == rows.Opens:
		e.Ledger = LedgerEnd{Known: f, Verdict: p.Verdict, Majority: Majority(p), LastLook: e.Now}
	}
	h.evidence = e
	return &h
}

// TestKeyfileProperties draws hosts and checks what must hold in all of them.
func TestKeyfileProperties(t *testing.T) {
	const hosts = 120_000
	r := rand.New(rand.NewPCG(1, 2))
	rules, actions := map[string]int{}, map[Action]int{}
	for n := range hosts {
		h := drawHost(r)
		d, e := h.run(t, r.Perm(len(h.escrows))...)
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("host %d: %s\ndecision %+v\nevidence %+v\nasked %v", n, fmt.Sprintf(format, args...), d, e, h.asked)
		}
		// Two commands never disagree: one that stops asking when it knows enough, and one
		// that looks at everything, unless the healthy path asked nothing at all (law 7).
		if e.Rows.State != RowsNotAsked {
			if all := Keyfile(h.whole()); all.Action != d.Action || all.Key != d.Key || all.Settle != d.Settle {
				fail("who looks at everything decides %+v", all)
			}
		}
		// Nor does one who comes when the rotation is closed, and the rest was left undone.
		if d.Settle != SettleNothing && e.Rows.State == RowsAnswer {
			if next, _ := h.closed(e, d).run(t, r.Perm(len(h.escrows))...); next.Action != d.Action || next.Key != d.Key || next.Needed != d.Needed {
				fail("when that is closed it decides %+v", next)
			}
		}
		rules[d.Rule]++
		actions[d.Action]++
		own, asked := e.Keyfile.Key, e.Rows.State
		calm := e.OpenRotation() == nil
		switch d.Action {
		case Pass:
			if !e.Keyfile.Good || d.Key != own {
				fail("passes what is not in the keyfile")
			}
			vouched := e.Ledger.Accepted && e.Ledger.Verdict == rows.Refuted && e.Ledger.Known == own
			if asked == RowsAnswer && h.opens[own] == 0 && !vouched {
				fail("passes a key that the rows refute (law 1)")
			}
		case Install:
			if !slices.Contains((&reasoning{Evidence: e}).atHand(), d.Key) {
				fail("installs a key that is not at hand")
			}
			if e.Keyfile.Good && asked == RowsAnswer && h.opens[own] == h.total {
				fail("replaces a key that the rows prove (law 1)")
			}
			if e.Keyfile.Good && asked != RowsAnswer && calm {
				fail("replaces 32 bytes without the rows' word")
			}
			if asked == RowsAnswer && h.opens[d.Key] == 0 {
				fail("installs a key that opens no row (law 1)")
			}
		case Make:
			if asked != RowsSilent {
				fail("makes a key while rows may depend on another (law 2)")
			}
			if len(h.history.Named) > 0 || e.Ledger.Known != "" {
				fail("makes a key although the ledger names one")
			}
			if own != "" || e.Next.Key != "" || len(h.local) > 0 {
				fail("makes a key while one is on this host (law 2)")
			}
			for _, s := range h.escrows {
				if s.State != EscrowAnswered || s.Remembered || len(s.Copies) > 0 {
					fail("makes a key while copies may exist (law 2)")
				}
			}
		case Lost:
			if asked != RowsAnswer {
				fail("lost without the rows' word (law 6)")
			}
			for _, s := range h.escrows {
				if s.State != EscrowAnswered || s.Remembered {
					fail("lost although an escrow did not answer (law 6)")
				}
				for _, c := range s.Copies {
					if c.Have && h.opens[c.Key] > 0 {
						fail("lost although a copy opens rows")
					}
				}
			}
		}
		// Nothing that the rows know to be wrong stays where a better key is at hand.
		vouched := e.Ledger.Accepted && e.Ledger.Known == own && worth(h.proof(own).Verdict) >= worth(e.Ledger.Verdict)
		if asked == RowsAnswer && calm && !vouched && d.Action == Pass {
			for _, f := range (&reasoning{Evidence: e}).atHand() {
				if h.opens[f] > h.opens[own] {
					fail("passes although key %s at hand opens more", f)
				}
			}
		}
		// Whatever opens all rows and is at hand or comes from an answering escrow is found.
		if asked == RowsAnswer && d.Rule == "R3" && (d.Action == Doubt || d.Action == Lost) {
			for _, f := range (&reasoning{Evidence: e}).atHand() {
				if Majority(h.proof(f)) {
					fail("key %s opens most rows and is not taken", f)
				}
			}
		}
		// Law 7: a person's word that no row was asked about is no proof.
		untried := e.Ledger.Accepted && e.Ledger.Verdict == rows.Unknown
		age := now.Sub(e.Ledger.LastLook)
		if calm && !untried && e.Keyfile.Good && own == e.Ledger.Known && age >= 0 && age <= ProofLife && (len(h.asked) > 0 || d.Action != Pass) {
			fail("the healthy path asks")
		}
	}
	for _, rule := range []string{"R1", "R2", "R3", "R4", "R5"} {
		if rules[rule] < hosts/100 {
			t.Errorf("%s decided only %d of %d hosts: the hosts are not random enough", rule, rules[rule], hosts)
		}
	}
	for _, action := range []Action{Pass, Install, Make, Doubt, Lost} {
		if actions[action] < hosts/1000 {
			t.Errorf("%s came out of only %d of %d hosts", action, actions[action], hosts)
		}
	}
	t.Logf("%d hosts, by rule %v, by action %v", hosts, rules, actions)
}
