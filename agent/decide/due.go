package decide

import "github.com/footprintai/containarium-keyguard/agent/key"

// Due lists the keys on this host that are to be brought to one escrow: the keyfile's key first,
// then those of the local quarantine. A key is due there
//
//   - that it does not hold, by the ledger, and where that escrow has been listed, by what is
//     there: a place that was made anew under the same name has lost what was saved there;
//   - that was the last to be saved as current there, and was not read back or lacks a part;
//   - that a proof has made the known key, and that was not the last to be saved as current there: a copy
//     that the escrow holds may be one in quarantine.
//
// Any other key that stands in quarantine stays there until the rows prove it. While a rotation is open
// only a key is due that the escrow does not hold. It wants the history and the local quarantine. On
// which shelf each goes DueShelf says (shelf.go).
func Due(e Evidence, name string) []key.Fingerprint {
	proven := e.Ledger.Known
	if e.Ledger.Accepted {
		proven = ""
	}
	saved := e.History.Saved[name]
	has := saved.key
	for _, s := range e.Escrows {
		if s.Name == name && s.State == EscrowAnswered && s.mute() == "" {
			has = func(f key.Fingerprint) bool { return saved.key(f) && s.lists(saved, f) }
		}
	}
	due := func(f key.Fingerprint) bool {
		switch {
		case e.OpenRotation() != nil: // only quarantine is written
			return !has(f)
		case saved.Last.ID != "" && saved.Last.Key == f:
			return !saved.Last.Verified || !has(f)
		case f == proven:
			return true
		}
		return !has(f) // in quarantine it stays until the rows prove it
	}
	var list []key.Fingerprint
	live := e.Keyfile.Key
	if e.Keyfile.Good && due(live) {
		list = append(list, live)
	}
	for _, f := range e.Local.Keys {
		if f != live && due(f) {
			list = append(list, f)
		}
	}
	return list
}

// lists tells whether a copy of a key stands there that was saved: one that says so, or one
// that says nothing, under the same id. One that was destroyed or disabled since counts, too: a person
// has done that, and it is not due again for it.
func (s EscrowEvidence) lists(saved SavedEvidence, f key.Fingerprint) bool {
	for _, c := range s.Copies {
		if c.Claims(f) || saved.Copies[c.ID] == f && saved.Is(c) {
			return true
		}
	}
	return false
}
