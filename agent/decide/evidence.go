// Package decide holds the judgements of the design: which key the daemon may start with
// (keyfile.go, rules R1 to R5), which nothing else says; and of an escrow, by law 4, on which
// shelf a key may be saved (shelf.go), whether another host writes there (alarm.go), and what is
// due there (due.go). It is pure: evidence in, an answer with its reason out; evidence.go has what
// goes in, and says which copy of an escrow is the newest current one. Whoever gathers the
// evidence, for whatever command, gets the same answer from the same evidence, in whatever order
// it came.
package decide

import (
	"fmt"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// Evidence is what is known of the host when it is decided. Keys appear by
// fingerprint only; whoever gathers the evidence holds the bytes.
type Evidence struct {
	Now     time.Time
	Keyfile KeyfileEvidence
	Next    NextEvidence
	Ledger  LedgerEnd
	History LedgerWhole
	Local   LocalEvidence
	Rows    RowsEvidence
	Escrows []EscrowEvidence // in the order of the configuration
}

// KeyfileEvidence is what stands in the keyfile's place.
type KeyfileEvidence struct {
	Good bool            // a regular file of 32 bytes
	Key  key.Fingerprint // of its 32 bytes, or of what a malformed file decodes to; "" for none
	Why  string          // what is wrong, when it is not Good: "missing", "31 bytes instead of 32"
}

// State describes the keyfile for people.
func (k KeyfileEvidence) State() string {
	switch {
	case k.Good:
		return "holding key " + string(k.Key)
	case k.Key != "":
		return fmt.Sprintf("%s, holding key %s", k.Why, k.Key)
	}
	return k.Why
}

// NextEvidence is the `.next` beside the keyfile, which a rotation writes.
type NextEvidence struct {
	There bool
	Key   key.Fingerprint // "" when it holds no key
}

// Rotation is the one that the ledger has open.
type Rotation struct {
	Old, New    key.Fingerprint
	CommitBegun bool // the ledger says "commit begun"
}

// LedgerEnd is how things stand by the end of the ledger, which every start reads.
type LedgerEnd struct {
	Known    key.Fingerprint // the known key (design §1), "" for none
	Accepted bool            // it is known by a person's word, not by a proof
	Verdict  rows.Verdict    // the verdict of that entry: what it was accepted with
	Majority bool            // by that entry it opened more than half of the rows
	LastLook time.Time       // when the known key was last proven or accepted
	Rotation *Rotation
	Stopped  bool // keyguard stopped the daemon and did not start it again
}

// LedgerWhole is what the whole ledger tells, beyond LedgerEnd: it is read where a rule asks.
type LedgerWhole struct {
	Asked        bool
	Unreadable   string                   // why it cannot be read, or not whole; then it may have told more
	Elsewhere    string                   // the host that wrote it, where that is another machine and no person has accepted it here
	Contradicted map[key.Fingerprint]bool // the last word on a key, of a proof or of a drill, is that it opened no row
	Proven       []key.Fingerprint        // the keys that ever opened rows here, the last first
	Named        []key.Fingerprint        // the keys that were ever proven, accepted or saved here, the last first
	Unused       map[key.Fingerprint]bool // those that were made here for a first start and never came to the keyfile's place
	Saved        map[string]SavedEvidence // by the escrow's name; none where nothing was saved
	// Since are the keys of which a copy was saved on a current shelf, here or by another process,
	// since this was read first: a listing may be older.
	Since []key.Fingerprint
}

// SavedEvidence is what this host saved in one escrow, or a person adopted there.
type SavedEvidence struct {
	Last   SavedCopy                  // on the current shelf; its ID is "" for none
	Copies map[string]key.Fingerprint // by id, on either shelf
	// Opened are those, by id, that a drill has read and that opened the rows: of a sealed
	// one, with an identity that a person brought.
	Opened map[string]bool
	// Begun are the keys whose save to the current shelf began, or ended without an answer from
	// every member, after the last save that completed. Copies of them may appear there.
	Begun map[key.Fingerprint]bool
	// Underway are those of them that were not saved on the current shelf since, and when their
	// save began: another process may be about to put them there. A save to quarantine since
	// then does not count, as a third process may have made it.
	Underway map[key.Fingerprint]time.Time
	// Untold is why the line "saving" could not be written to the ledger, "" where it was.
	Untold string
	// Tops are what this host stored on the members of an escrow of several stores, or a
	// person adopted there, by escrow.Top's name: the key that each is of.
	Tops map[string]key.Fingerprint
	// LastTops are the last of them on each member, by the number of its parts.
	LastTops map[int]string
}

// Is tells whether a copy is what was saved or adopted under its id. A store that was made
// anew gives the same ids to others; of a copy that does not tell its key the id has to do.
func (s SavedEvidence) Is(c CopyEvidence) bool {
	of, there := s.Copies[c.ID]
	return there && (of == c.Key || of == "" || c.Key == "")
}

// IsTop is Is for what a member of an escrow of several stores has on top, of key f.
func (s SavedEvidence) IsTop(top escrow.Top, f key.Fingerprint) bool {
	of, there := s.Tops[top.String()]
	return there && (of == f || of == "" || f == "")
}

// key tells whether a copy of a key was saved there, on either shelf.
func (s SavedEvidence) key(f key.Fingerprint) bool {
	for _, saved := range s.Copies {
		if saved == f {
			return true
		}
	}
	return false
}

// SavedCopy is one such copy.
type SavedCopy struct {
	ID       string
	Key      key.Fingerprint
	Verified bool // it was read back, and lacks no part
}

// LocalEvidence is the local quarantine, newest first.
type LocalEvidence struct {
	Asked bool
	Keys  []key.Fingerprint
	// Unreadable is why it cannot be read whole; then it may hold any key (law 6).
	Unreadable string
	Err        error // the same, for errors.Is
}

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

// RowsEvidence is what the rows said.
type RowsEvidence struct {
	State RowsState
	Why   string // for Silent and Unknown: on what ground
	Err   error  // for Unknown: what Why says, for errors.Is
	Never bool   // for Silent: the configuration says that there is no database, so that no row will ever speak
	// Dependent counts the rows that only the keyfile's key can open, in RowsAnswer.
	Dependent int64
	Proofs    map[key.Fingerprint]rows.Proof
}

// RowsState tells the four states of the rows apart (law 6).
type RowsState int

// The zero value is "not asked yet".
const (
	RowsNotAsked RowsState = iota
	RowsUnknown
	RowsSilent
	RowsAnswer
)

// OpenRotation is the ledger's, or the one that a `.next` alone gives away: its
// commit may have begun, and the old key is then the keyfile's.
func (e Evidence) OpenRotation() *Rotation {
	if e.Ledger.Rotation != nil {
		return e.Ledger.Rotation
	}
	if e.Next.There {
		return &Rotation{Old: e.Keyfile.Key, New: e.Next.Key, CommitBegun: true}
	}
	return nil
}

// VerdictOf is what the rows say of one key.
func (e RowsEvidence) VerdictOf(f key.Fingerprint) rows.Verdict {
	switch e.State {
	case RowsAnswer:
		if p, tried := e.Proofs[f]; tried {
			return p.Verdict
		}
	case RowsSilent:
		return rows.Silent
	}
	return rows.Unknown
}

// Majority tells whether a key opens more than half of the rows that were checked: no
// other key can open more.
func Majority(p rows.Proof) bool { return p.Opened > p.Checked-p.Opened }

// Split tells whether two keys that were tried open rows, and none opens all of them.
func (e RowsEvidence) Split() bool {
	open := 0
	for _, p := range e.Proofs {
		switch {
		case p.Opened == p.Checked:
			return false
		case p.Opened > 0:
			open++
		}
	}
	return open > 1
}

// Checked is how many rows every key was tried on.
func (e RowsEvidence) Checked() int64 {
	for _, p := range e.Proofs {
		return p.Checked
	}
	return 0
}
