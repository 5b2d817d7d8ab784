package decide

// This file notices that another host, or a person, writes to an escrow of this host's (law 4).
// Who asks: agent/save.go at every save, agent/revisit.go every hour, status, drill and rotate. By it
// shelf.go here sends a key to quarantine, agent/statusverdict.go is not green, and hooks/watchtell.go
// tells people.

import (
	"errors"
	"fmt"
	"slices"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

// ErrForeignCopy says that the newest current copy of an escrow is not from this host:
// another one writes to the same place (law 4).
var ErrForeignCopy = errors.New("another host writes to the same place")

// Alarm says why only the quarantine of an escrow may be written: its newest current
// copy is not one that this host saved there or a person adopted, whichever key it holds
// (law 4); or it is one of before, of another key than the keyfile's, that was put above the
// last one; or this machine is a clone of another one, and both would write there. A copy of a
// key that was about to be saved there is no alarm: the save may have been killed before the
// ledger named it, or its store has kept other bytes under that name: whoever has another key gives
// his copies the name of that. Nor is the keyfile's key where it is written as no save writes it: a
// mangled copy is a person's mistake, and the next save puts a good one on top.
//
// Of a key in parts the id is the key's name, whoever wrote it, and each store has a newest
// copy of its own: every one of them must be this host's. The ledger names those by their store's
// number. Where a store has the part of another number it cannot tell whose that is, and the
// configuration is to be put right first (escrow.ErrPartMoved).
func Alarm(e Evidence, i int) error {
	s := e.Escrows[i]
	if s.Displaced != nil {
		return s.Displaced
	}
	if e.History.Elsewhere != "" {
		return fmt.Errorf("this host is a clone of %s, whose copies stand there too: %w", e.History.Elsewhere, ErrForeignCopy)
	}
	saved := e.History.Saved[s.Name]
	parts := false
	for _, c := range s.Copies {
		for _, top := range c.Tops {
			parts = true
			switch {
			case saved.Last.ID == "":
			case !e.storedOn(saved, c, top):
				return fmt.Errorf("copy %s in its member %q is not from this host: %w", top.ID, top.Member, ErrForeignCopy)
			case e.MovedOn(i, c, top):
				return fmt.Errorf("copy %s in its member %q is not the one that this host saved last there, which stands below it: %w", top.ID, top.Member, ErrForeignCopy)
			}
		}
	}
	if parts {
		return nil
	}
	newest, there := s.NewestKey()
	switch {
	case !there, saved.Last.ID == "", saved.Begun[newest.Key], newest.Key == "" && saved.Begun[newest.Called]:
		return nil
	case e.Moved(i):
		return fmt.Errorf("copy %s there is not the one that this host saved last, which stands below it, copy %s: %w", newest.ID, saved.Last.ID, ErrForeignCopy)
	case s.topIs(saved):
		return nil
	}
	if e.Keyfile.Good && newest.Claims(e.Keyfile.Key) && newest.Miswritten() {
		return nil
	}
	if e.Keyfile.Good && newest.Claims(e.Keyfile.Key) && newest.Encoding != "" { // it was read
		return fmt.Errorf("copy %s there is not from this host, and holds its key: somebody has put a duplicate there, or %w", newest.ID, ErrForeignCopy)
	}
	return fmt.Errorf("copy %s there is not from this host: %w", newest.ID, ErrForeignCopy)
}

// topIs tells whether a copy that was saved stands on the current shelf, and no other key above
// it: nobody has written a key there since, though it was destroyed meanwhile.
func (s EscrowEvidence) topIs(saved SavedEvidence) bool {
	for _, c := range s.Copies {
		if c.Shelf != escrow.Current || c.Beside {
			continue
		}
		if ours := saved.Is(c); ours || !c.Worthless {
			return ours
		}
	}
	return false
}

// Moved tells whether the newest key there is one that this host saved, and has been put above
// the one that it saved last: by a person, for a save would have been the last. Where that one
// was destroyed the older one shows, and where it is not listed yet nobody knows. An older copy
// of the keyfile's key is no harm.
func (e Evidence) Moved(i int) bool {
	s := e.Escrows[i]
	saved := e.History.Saved[s.Name]
	newest, there := s.NewestKey()
	if !there || !saved.Is(newest) || newest.ID == saved.Last.ID || newest.Key == "" || newest.Key == e.Keyfile.Key {
		return false
	}
	return slices.ContainsFunc(s.Copies, func(c CopyEvidence) bool {
		return c.ID == saved.Last.ID && c.Shelf == escrow.Current && !c.Worthless && saved.Is(c)
	})
}

// storedOn tells whether what a member has on top of a copy is what this host stored there, or
// may have: a save that has not come to every member may have come to this one without its
// answer. A whole key may be from when the member was an escrow of its own. Of a member of
// which the ledger tells nothing, as an earlier version wrote it, the copy of the whole counts.
func (e Evidence) storedOn(saved SavedEvidence, c CopyEvidence, top escrow.Top) bool {
	if saved.IsTop(top, c.Key) || saved.Begun[c.Key] || c.Claims(saved.Last.Key) && !saved.Last.Verified {
		return true
	}
	own := c // as it stands on the member
	own.ID = top.ID
	return e.History.Saved[top.Member].Is(own) || saved.Is(c) && saved.LastTops[top.Number] == ""
}

// MovedOn is Moved for what a member of an escrow of several stores has on top of a copy.
func (e Evidence) MovedOn(i int, c CopyEvidence, top escrow.Top) bool {
	s := e.Escrows[i]
	saved := e.History.Saved[s.Name]
	last := saved.LastTops[top.Number]
	if last == "" || last == top.String() || saved.Begun[c.Key] || c.Key == "" || c.Key == e.Keyfile.Key {
		return false
	}
	return slices.ContainsFunc(s.Copies, func(c CopyEvidence) bool {
		return slices.ContainsFunc(c.Under, func(u escrow.Top) bool { return u.String() == last && saved.IsTop(u, c.Key) })
	})
}
