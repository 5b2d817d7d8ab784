package decide

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// NotYet is in the place of a shelf where the key belongs on the current one and nobody can tell
// what stands there: it is due until that can be told.
const NotYet escrow.Shelf = ""

// Bar is what keeps a key from the current shelf of an escrow. The zero Bar is nothing.
type Bar struct {
	Why string
	// RivalIn is the escrow with the copy of another key by which it is barred, as long as no row
	// speaks for it; "" where it is no copy that bars it.
	RivalIn string
	// Waits is until when, where nothing but saves of other keys bars it, which are under way; zero
	// for not by itself.
	Waits time.Time
}

// Shelf says on which shelf of an escrow a key may be saved, and what bars it from the current
// one (law 4). It wants the history, and the newest current copy of that escrow; where
// the rows prove too little, of all of them: where every row speaks for the key it looks at no other
// escrow, which may be being asked just now. Whether another host writes there Alarm says
// (alarm.go).
func Shelf(e Evidence, i int, f key.Fingerprint) (escrow.Shelf, Bar) {
	if bar := bars(e, i, f); bar.Why != "" {
		return escrow.Quarantine, bar
	}
	if unseen := e.unseen(i); unseen != "" {
		return NotYet, Bar{Why: "what stands on the current shelf there cannot be told: " + unseen}
	}
	return escrow.Current, Bar{}
}

// DueShelf is Shelf for a key that is due. One that is not the keyfile's has left its place,
// or was never there: only rows bring it to the current shelf. It opens all of them now, or by a proof
// it is the known key, which may open most of them.
func DueShelf(e Evidence, i int, f key.Fingerprint) (escrow.Shelf, Bar) {
	live := e.Keyfile.Good && e.Keyfile.Key == f
	known := e.Ledger.Known == f && !e.Ledger.Accepted
	if !live && !known && e.Rows.VerdictOf(f) != rows.Opens {
		return escrow.Quarantine, Bar{Why: "it is not the keyfile's key"}
	}
	return Shelf(e, i, f)
}

// unseen says why nobody can tell what stands on top of an escrow, "" where that is known, or
// not to be known: it is never read from here, by the configuration or by what the store
// grants, so that what was saved there last could not be read back either; or it is one of
// several stores of which enough say that they have nothing.
func (e Evidence) unseen(i int) string {
	s := e.Escrows[i]
	last := e.History.Saved[s.Name].Last
	switch {
	case s.State == EscrowAnswered, s.Seen:
		return ""
	case errors.Is(s.Err, escrow.ErrAddOnly), errors.Is(s.Err, escrow.ErrPerhaps):
		return ""
	case errors.Is(s.Err, escrow.ErrDenied) && !(last.ID != "" && last.Verified):
		return ""
	}
	return cmp.Or(s.Why, "no answer yet")
}

// bars is what bars a key, where everybody answers.
func bars(e Evidence, i int, f key.Fingerprint) Bar {
	if e.OpenRotation() != nil {
		return Bar{Why: "a rotation is open, and which of its keys holds is not settled"}
	}
	if err := Alarm(e, i); err != nil {
		return Bar{Why: err.Error()}
	}
	if s := e.History.Saved[e.Escrows[i].Name]; s.Untold != "" {
		return Bar{Why: "the ledger cannot be told of it, and would have it for another host's later: " + s.Untold}
	}
	if e.Rows.VerdictOf(f) == rows.Refuted { // though it may stand there already: a part of it that lacks is not to be made anew
		return Bar{Why: "it opens no row"}
	}
	if newest, there := e.Escrows[i].NewestCurrent(); there && e.Holds(i, newest, f) && (!newest.Lacks || newest.Encoding != "" && e.mayRestorePart(f)) {
		return Bar{}
	}
	if why := e.History.Unreadable; why != "" {
		// It may name other keys that were proven here, and what was saved (law 6).
		if other, there := e.Escrows[i].NewestKey(); there && other.Key != f {
			return Bar{Why: fmt.Sprintf("whether copy %s there is from this host the ledger cannot tell: %s", other.ID, why), RivalIn: e.Escrows[i].Name}
		}
		if v := e.Rows.VerdictOf(f); v == rows.Silent || v == rows.Unknown {
			return Bar{Why: "the rows do not prove it, and which keys were proven here the ledger cannot tell: " + why}
		}
	}
	l := e.Ledger // and the proof holds until the rows speak against it: Silent does not
	provenHere := f == l.Known && !l.Accepted && (l.Verdict == rows.Opens || l.Majority)
	switch p, v := e.Rows.Proofs[f], e.Rows.VerdictOf(f); {
	case (v == rows.Silent || v == rows.Unknown) && strange(e, f).Why != "":
		// Without a saved copy in the ledger there is no alarm, and the rows do not say who is right.
		return strange(e, f)
	case v == rows.Opens, v == rows.Partial && Majority(p), v == rows.Silent && provenHere, v == rows.Unknown && provenHere:
		return Bar{}
	case v == rows.Partial:
		return Bar{Why: fmt.Sprintf("it opens only %v", p)}
	case v == rows.Unknown:
		return Bar{Why: "it could not be tried on the rows: " + e.Rows.Why}
	case e.Keyfile.Good && e.Keyfile.Key != f:
		return Bar{Why: "it is not the keyfile's key"}
	}
	return rival(e, f) // Silent proves too little to stand above it
}

// mayRestorePart tells whether a save may restore a missing part of the newest current copy, judging
// by its key, which the other parts have just rebuilt. Such a save may put on top what no store had
// there, or complete what was no copy before. So the key must have the majority of the rows, or,
// where they do not speak, be the known one.
func (e Evidence) mayRestorePart(f key.Fingerprint) bool {
	switch e.Rows.VerdictOf(f) {
	case rows.Opens:
		return true
	case rows.Partial:
		return Majority(e.Rows.Proofs[f])
	}
	return f == e.Ledger.Known
}

// saveEnds is more than twice as long as any save takes: by then the process that began it is dead,
// or its copy is listed.
const saveEnds = 10 * time.Minute

// ToldUnderway tells whether the ledger says that a save of a key is under way, and will for as long
// as a save takes that begins now.
func (s SavedEvidence) ToldUnderway(f key.Fingerprint, now time.Time) bool {
	began, there := s.Underway[f]
	return there && now.Sub(began).Abs() < saveEnds/2
}

// rival is the bar of a key that the rows do not prove where another one was proven, or stands on a
// current shelf, or may. What is over by itself comes last.
func rival(e Evidence, f key.Fingerprint) Bar {
	const unproven = "the rows do not prove it, and "
	for _, other := range e.History.Proven {
		if other != f {
			return Bar{Why: fmt.Sprintf(unproven+"key %s was proven here before", other)}
		}
	}
	for _, other := range e.History.Since {
		if other != f {
			return Bar{Why: fmt.Sprintf(unproven+"key %s was saved meanwhile", other)}
		}
	}
	for _, s := range e.Escrows {
		if s.State != EscrowAnswered {
			// Law 6: what cannot be heard of may be there.
			return Bar{Why: fmt.Sprintf(unproven+"escrow %q cannot say whether it holds another key: %s", s.Name, s.Why)}
		}
		if s.Unheard != "" {
			return Bar{Why: fmt.Sprintf(unproven+"a store of escrow %q cannot say whether it holds another key: %s", s.Name, s.Unheard)}
		}
		for _, c := range s.Copies {
			if c.Shelf == escrow.Current && !c.Worthless && c.Key != f {
				return Bar{Why: fmt.Sprintf(unproven+"copy %s in escrow %q is of another key", c.ID, s.Name), RivalIn: s.Name}
			}
		}
	}
	last := Bar{}
	for _, s := range e.Escrows {
		underway := e.History.Saved[s.Name].Underway
		for _, other := range slices.Sorted(maps.Keys(underway)) {
			began, end := underway[other], underway[other].Add(saveEnds)
			if other != f && e.Now.Sub(began).Abs() < saveEnds && end.After(last.Waits) {
				last = Bar{Why: fmt.Sprintf(unproven+"a save of key %s in escrow %q was begun, and nobody has told how it ended", other, s.Name), Waits: end}
			}
		}
	}
	return last
}

// strange is the bar of a key that the rows do not prove where the newest current copy is of another
// one that was never proven here.
func strange(e Evidence, f key.Fingerprint) Bar {
	for _, s := range e.Escrows {
		if newest, there := s.NewestKey(); there && newest.Key != "" && newest.Key != f && !slices.Contains(e.History.Proven, newest.Key) {
			return Bar{Why: fmt.Sprintf("the rows do not prove it, and copy %s in escrow %q is of key %s, which was never proven here", newest.ID, s.Name, newest.Key), RivalIn: s.Name}
		}
	}
	return Bar{}
}
