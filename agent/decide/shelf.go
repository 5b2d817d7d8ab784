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

// Shelf says on which shelf of an escrow a key may be saved, and why not on the current
// one (law 4). It wants the history, and the newest current copy of that escrow; where
// the rows prove too little, of all of them. Whether another host writes there Alarm says
// (alarm.go).
func Shelf(e Evidence, i int, f key.Fingerprint) (escrow.Shelf, string) {
	s, why := deserves(e, i, f)
	if unseen := e.unseen(i); s == escrow.Current && unseen != "" {
		return NotYet, "what stands on the current shelf there cannot be told: " + unseen
	}
	return s, why
}

// DueShelf is Shelf for a key that is due. One that is not the keyfile's has left its place,
// or was never there: only rows that it opens to the last, now or by the proof that made it
// the known key, bring it to the current shelf.
func DueShelf(e Evidence, i int, f key.Fingerprint) (escrow.Shelf, string) {
	live := e.Keyfile.Good && e.Keyfile.Key == f
	known := e.Ledger.Known == f && !e.Ledger.Accepted
	if !live && !known && e.Rows.VerdictOf(f) != rows.Opens {
		return escrow.Quarantine, "it is not the keyfile's key"
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

// deserves is Shelf where everybody answers.
func deserves(e Evidence, i int, f key.Fingerprint) (escrow.Shelf, string) {
	if e.OpenRotation() != nil {
		return escrow.Quarantine, "a rotation is open, and which of its keys holds is not settled"
	}
	if err := Alarm(e, i); err != nil {
		return escrow.Quarantine, err.Error()
	}
	if s := e.History.Saved[e.Escrows[i].Name]; s.Untold != "" {
		return escrow.Quarantine, "the ledger cannot be told of it, and would have it for another host's later: " + s.Untold
	}
	if e.Rows.VerdictOf(f) == rows.Refuted { // though it may stand there already: a part of it that lacks is not to be made anew
		return escrow.Quarantine, "it opens no row"
	}
	if newest, there := e.Escrows[i].NewestCurrent(); there && e.Holds(i, newest, f) && (!newest.Lacks || newest.Encoding != "" && e.mayRestorePart(f)) {
		return escrow.Current, ""
	}
	if why := e.History.Unreadable; why != "" {
		// It may name other keys that were proven here, and what was saved (law 6).
		if other, there := e.Escrows[i].NewestKey(); there && other.Key != f {
			return escrow.Quarantine, fmt.Sprintf("whether copy %s there is from this host the ledger cannot tell: %s", other.ID, why)
		}
		if v := e.Rows.VerdictOf(f); v == rows.Silent || v == rows.Unknown {
			return escrow.Quarantine, "the rows do not prove it, and which keys were proven here the ledger cannot tell: " + why
		}
	}
	l := e.Ledger // and the proof holds until the rows speak against it: Silent does not
	provenHere := f == l.Known && !l.Accepted && (l.Verdict == rows.Opens || l.Majority)
	switch p, v := e.Rows.Proofs[f], e.Rows.VerdictOf(f); {
	case (v == rows.Silent || v == rows.Unknown) && strange(e, f).why != "":
		// Without a saved copy in the ledger there is no alarm, and the rows do not say who is right.
		return escrow.Quarantine, strange(e, f).why
	case v == rows.Opens, v == rows.Partial && Majority(p), v == rows.Silent && provenHere, v == rows.Unknown && provenHere:
		return escrow.Current, ""
	case v == rows.Partial:
		return escrow.Quarantine, fmt.Sprintf("it opens only %v", p)
	case v == rows.Unknown:
		return escrow.Quarantine, "it could not be tried on the rows: " + e.Rows.Why
	case e.Keyfile.Good && e.Keyfile.Key != f:
		return escrow.Quarantine, "it is not the keyfile's key"
	}
	if other := rival(e, f); other.why != "" { // Silent proves too little to stand above it
		return escrow.Quarantine, "the rows do not prove it, and " + other.why
	}
	return escrow.Current, ""
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

// saveEnds is longer than any save takes: by then the process that began it is dead, or its copy is
// listed.
const saveEnds = 10 * time.Minute

func underway(now, began time.Time) bool { return now.Sub(began).Abs() < saveEnds }

// Waits is when a key that goes to the quarantine of an escrow may go to its current shelf, all else
// being as it is: when no save of another key is under way any more. It is zero where something else
// keeps it from there.
func Waits(e Evidence, i int, f key.Fingerprint) time.Time {
	if s, _ := Shelf(e, i, f); s != escrow.Quarantine {
		return time.Time{}
	}
	now := e.Now
	for _, s := range e.Escrows {
		for other, began := range e.History.Saved[s.Name].Underway {
			if end := began.Add(saveEnds); other != f && underway(now, began) && end.After(e.Now) {
				e.Now = end
			}
		}
	}
	if s, _ := Shelf(e, i, f); s != escrow.Current {
		return time.Time{}
	}
	return e.Now
}

// RivalIn is the escrow with the copy of another key that keeps f from the current shelf of escrow i
// as long as no row speaks for f; "" where it is no copy that does.
func RivalIn(e Evidence, i int, f key.Fingerprint) string {
	if other, there := e.Escrows[i].NewestKey(); e.History.Unreadable != "" && there && other.Key != f {
		return e.Escrows[i].Name
	}
	return cmp.Or(strange(e, f), rival(e, f)).in
}

// otherKey is another key, or what may be one, that keeps a key from current shelves where the rows
// do not prove that.
type otherKey struct {
	why string // "" for none
	in  string // the escrow where its copy stands; "" where that is not known, or it has none
}

// rival says where another key than f was proven, or stands on a current shelf, or may.
func rival(e Evidence, f key.Fingerprint) otherKey {
	for _, other := range e.History.Proven {
		if other != f {
			return otherKey{why: fmt.Sprintf("key %s was proven here before", other)}
		}
	}
	for _, other := range e.History.Since {
		if other != f {
			return otherKey{why: fmt.Sprintf("key %s was saved meanwhile", other)}
		}
	}
	for _, s := range e.Escrows {
		begun := e.History.Saved[s.Name].Underway
		for _, other := range slices.Sorted(maps.Keys(begun)) {
			if other != f && underway(e.Now, begun[other]) {
				return otherKey{why: fmt.Sprintf("a save of key %s in escrow %q was begun, and nobody has told how it ended", other, s.Name)}
			}
		}
		if s.State != EscrowAnswered {
			// Law 6: what cannot be heard of may be there.
			return otherKey{why: fmt.Sprintf("escrow %q cannot say whether it holds another key: %s", s.Name, s.Why)}
		}
		if s.Unheard != "" {
			return otherKey{why: fmt.Sprintf("a store of escrow %q cannot say whether it holds another key: %s", s.Name, s.Unheard)}
		}
		for _, c := range s.Copies {
			if c.Shelf == escrow.Current && !c.Worthless && c.Key != f {
				return otherKey{fmt.Sprintf("copy %s in escrow %q is of another key", c.ID, s.Name), s.Name}
			}
		}
	}
	return otherKey{}
}

// strange says where the newest current copy is of another key than f, and of one that was
// never proven here.
func strange(e Evidence, f key.Fingerprint) otherKey {
	for _, s := range e.Escrows {
		if newest, there := s.NewestKey(); there && newest.Key != "" && newest.Key != f && !slices.Contains(e.History.Proven, newest.Key) {
			return otherKey{fmt.Sprintf("the rows do not prove it, and copy %s in escrow %q is of key %s, which was never proven here", newest.ID, s.Name, newest.Key), s.Name}
		}
	}
	return otherKey{}
}
