package decide

import (
	"fmt"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// EscrowEvidence is what one escrow answered.
type EscrowEvidence struct {
	Name     string
	Required bool
	State    EscrowState
	Why      string // why it cannot answer
	Err      error  // the same, for errors.Is
	Copies   []CopyEvidence
	// Seen: the newest current copy was told, though not all that was asked was answered.
	Seen bool
	// Remembered: this is what it answered an earlier start, and may have changed.
	Remembered bool
	// Unheard is why some of its stores did not answer, of an escrow of several. The others are
	// enough to tell of every key in parts, not of a whole one that stands on a store alone.
	Unheard string
	// Displaced is escrow.ErrPartMoved where one of its stores has another part than the
	// configuration says.
	Displaced error
}

// EscrowState tells a pending answer from one that will not come (law 6).
type EscrowState int

// The zero value is "no answer yet".
const (
	EscrowPending EscrowState = iota
	EscrowAnswered
	EscrowFailed
)

// CopyEvidence is one copy, newest first within its shelf.
type CopyEvidence struct {
	ID         string
	Shelf      escrow.Shelf
	Key        key.Fingerprint // "" when nobody can tell
	Called     key.Fingerprint // what its store calls it, whatever it is; "" where it does not
	Have       bool            // its bytes are at hand
	Misnamed   key.Fingerprint // the key at hand of one that is called another: a candidate that the rows judge (R3), and no copy of either key
	Unreadable string          // why its bytes cannot be had: sealed, disabled
	Worthless  bool            // positively no key: destroyed, or bytes that are none
	Withheld   bool            // nobody is given its bytes: disabled, deleted, parts of it missing
	Sealed     bool            // its bytes are for others to open; Key is what it says of itself
	Locked     bool            // and an identity that this host is given to open it with cannot be used
	Ends       bool            // the store deletes it by itself one day
	Beside     bool            // it stands beside the keys in parts, and is never the newest current copy
	Tops       []escrow.Top    // of the escrow's members, where it is on top
	Under      []escrow.Top    // and where it stands below another one
	Lacks      bool            // one of its members has no part of it on top that can be had: a save puts one there
	// Encoding is how the bytes are written, "" where they were not read.
	Encoding key.Encoding
}

// Holds tells whether a copy in escrow i is what a save of a key leaves, and can be had. A
// key that is written otherwise, with a newline too many or as text, is at hand here, and the
// runbook's `latest` would put it in place as it is written. Of a copy that is sealed to
// others nobody here can tell, unless a drill opened it once; that it did is no word on what this
// host, which is to open it, can do now. It wants the history.
func (e Evidence) Holds(i int, c CopyEvidence, f key.Fingerprint) bool {
	return c.Claims(f) && !c.Worthless && !c.Withheld && !c.Miswritten() &&
		(!c.Sealed || !c.Locked && e.History.Saved[e.Escrows[i].Name].Opened[c.ID])
}

// Claims tells whether a copy is of a key, by what was read of it or by its own word.
func (c CopyEvidence) Claims(f key.Fingerprint) bool { return f != "" && c.Key == f }

// InParts tells whether several stores have it together.
func (c CopyEvidence) InParts() bool { return len(c.Tops)+len(c.Under) > 0 }

// Miswritten tells whether the bytes are a key, and not as its 32 bytes.
func (c CopyEvidence) Miswritten() bool { return c.Encoding != "" && c.Encoding != key.Raw }

// Why something is not known of the copies, each "" where it is (law 6):
//
//	mute        one escrow: it failed, or answered from memory
//	unheard     of an escrow of several stores: some did not answer, though enough did
//	unanswered  all of them, for a start: one is mute, a copy that cannot be read, or a local
//	            quarantine that cannot
//	unseen      one escrow, for a save (shelf.go): what stands on top there

// mute says why an escrow is not heard now. What it answered before is hearsay (law 6):
// copies that it named then exist, perhaps with others.
func (s EscrowEvidence) mute() string {
	switch {
	case s.State == EscrowFailed:
		return fmt.Sprintf("escrow %q cannot answer: %s", s.Name, s.Why)
	case s.Remembered:
		return fmt.Sprintf("escrow %q was asked a while ago and is not asked again yet", s.Name)
	}
	return ""
}

// NewestCurrent is the newest entry of the current shelf, whatever it is: what the
// runbook's `latest` would return, or fail on. What stands beside keys in parts is none.
func (s EscrowEvidence) NewestCurrent() (CopyEvidence, bool) {
	for _, c := range s.Copies {
		if c.Shelf == escrow.Current && !c.Beside {
			return c, true
		}
	}
	return CopyEvidence{}, false
}

// NewestKey is the newest entry of the current shelf that is, or may be, a key: the one by
// which a foreign writer is told, and which a person may adopt.
func (s EscrowEvidence) NewestKey() (CopyEvidence, bool) {
	for _, c := range s.Copies {
		if c.Shelf == escrow.Current && !c.Worthless && !c.Beside {
			return c, true
		}
	}
	return CopyEvidence{}, false
}

// Pending tells whether an escrow has not answered yet.
func (e Evidence) Pending() bool {
	for _, s := range e.Escrows {
		if s.State == EscrowPending {
			return true
		}
	}
	return false
}
