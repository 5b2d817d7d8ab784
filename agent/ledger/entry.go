package ledger

import (
	"errors"
	"fmt"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// Event is what an entry tells of.
type Event string

// The events. A newer keyguard may write others: they are kept and count as history.
const (
	// Accepted, Proven and Contradicted say which key is known. An Accepted or Proven
	// key is known until another one is, or until it is Contradicted.
	Accepted     Event = "accepted"     // a person's word, with the verdict at that time
	Proven       Event = "proven"       // it opened rows
	Contradicted Event = "contradicted" // it opened none any more

	// A rotation is open from RotationOpen until Rotated or RotationClosed.
	RotationOpen   Event = "rotation-open"   // Old, and Fingerprint is the new key
	CommitBegun    Event = "commit-begun"    // from here on the rows may be under either key
	Rotated        Event = "rotated"         // all is under the new key
	RotationClosed Event = "rotation-closed" // settled by the rows: Fingerprint is the key that holds; "" is neither, and then no key is known

	// Between Stopped and Started it is keyguard that keeps the daemon down.
	Stopped Event = "stopped" // Entry.Stopped names the units
	Started Event = "started"

	// The rest makes no key known or unknown, and is history for people. Some of it is evidence,
	// too: what was saved where and what a drill found there (savedSince in agent/observe.go), and
	// which key the daemon has read (agent/keyread.go).
	Made       Event = "made"        // the host's first key
	Saving     Event = "saving"      // about to be stored in Escrow, on the current shelf
	Saved      Event = "saved"       // stored in Escrow as Copy, on Shelf
	Adopted    Event = "adopted"     // a person took over a Copy in Escrow that another host wrote
	Installed  Event = "installed"   // put into the keyfile's place, where Old was
	Parked     Event = "parked"      // the daemon started without a key
	Minted     Event = "minted"      // the daemon made a key of its own
	StartedOn  Event = "started-on"  // the key that the daemon has read at this start
	Exposed    Event = "exposed"     // the keyfile's mode or owner was loose
	Restored   Event = "restored"    // a person put a key back from a copy
	Imported   Event = "imported"    // a person brought a key
	Printed    Event = "printed"     // a person took a key out, on paper
	Drilled    Event = "drilled"     // a copy was restored into scratch and tried; without a Copy, the escrow or its shelf could not answer
	DrillEnded Event = "drill-ended" // what a drill came to; its Drilled entries stand before it
	Repaired   Event = "repaired"    // rows under several keys were brought under one
	UnitFailed Event = "unit-failed" // systemd says that Unit, one of ours, failed
)

// Entry is one line. Event is all that every entry must have; Append fills in Seq,
// Rotation, Stopped and Prev, and Time, Host, Machine, Version and Config where they are zero.
type Entry struct {
	Seq         uint64          `json:"seq"` // counts from 1
	Time        time.Time       `json:"time"`
	Event       Event           `json:"event"`
	Fingerprint key.Fingerprint `json:"fingerprint,omitempty"`
	Old         key.Fingerprint `json:"old,omitempty"` // the key that stood there before
	Escrow      string          `json:"escrow,omitempty"`
	Copy        string          `json:"copy,omitempty"`    // its id in Escrow
	Shelf       string          `json:"shelf,omitempty"`   // current or quarantine
	Tops        []string        `json:"tops,omitempty"`    // of a key in parts: what each store has of it, by its number there
	Verdict     string          `json:"verdict,omitempty"` // of a proof (rows.Verdict), or of a drill (agent.DrillVerdict): the event says which
	Checked     int64           `json:"checked,omitempty"` // rows tried
	Opened      int64           `json:"opened,omitempty"`  // rows opened, of those
	Total       int64           `json:"total,omitempty"`   // rows there are
	Took        time.Duration   `json:"took_ns,omitempty"`
	Drill       string          `json:"drill,omitempty"`   // names one drill, and is the same in all its entries
	Judged      bool            `json:"judged,omitempty"`  // the drill's verdict depends on this copy; the others are only reported
	Full        bool            `json:"full,omitempty"`    // every row was to be tried, no sample
	Untried     []int           `json:"untried,omitempty"` // of a key in parts: the numbers of those that the drill could not try
	Unit        string          `json:"unit,omitempty"`
	Invocation  string          `json:"invocation,omitempty"` // of the daemon's start that StartedOn and Minted tell of, $INVOCATION_ID of systemd.exec(5)
	Untouched   time.Time       `json:"untouched,omitzero"`   // Installed, Parked, Exposed: since when nobody had touched the keyfile until then (st_ctim)
	Person      string          `json:"person,omitempty"`
	Reason      string          `json:"reason,omitempty"` // longer than 2 KiB, it is cut
	Host        string          `json:"host,omitempty"`
	Machine     string          `json:"machine,omitempty"` // Options.Machine
	Version     string          `json:"version,omitempty"` // of keyguard
	Config      string          `json:"config,omitempty"`  // SHA-256, hex, of the configuration in force
	Rotation    *Rotation       `json:"rotation,omitempty"`
	Broken      int             `json:"broken,omitempty"`         // Accepted: the chain's last break that the person was told of, by its line
	Stopped     []string        `json:"daemon_stopped,omitempty"` // the daemon's units that are to be started again; every entry until Started carries them
	Prev        string          `json:"prev,omitempty"`           // SHA-256, hex, of the line before without its newline; "" begins a chain
	Line        int             `json:"-"`                        // where it stands in the file, from 1; only Read knows
}

// Rotation is a rotation that is under way. Every entry carries the one that is open
// when it is written, so that the last one tells.
type Rotation struct {
	Old         key.Fingerprint `json:"old"`
	New         key.Fingerprint `json:"new"`
	CommitBegun bool            `json:"commit_begun,omitempty"`
}

// ErrEntry says that an entry cannot be written as it is.
var ErrEntry = errors.New("not a ledger entry")

// rotation is the one that is open after e, where before was before it.
func (e Entry) rotation(before *Rotation) *Rotation {
	switch e.Event {
	case RotationOpen:
		return &Rotation{Old: e.Old, New: e.Fingerprint}
	case CommitBegun:
		if before == nil {
			return nil
		}
		begun := *before
		begun.CommitBegun = true
		return &begun
	case Rotated, RotationClosed:
		return nil
	}
	return before
}

// stopped are the units that are down after e, where before were before it.
func (e Entry) stopped(before []string) []string {
	switch e.Event {
	case Stopped:
		return e.Stopped
	case Started:
		return nil
	}
	return before
}

// check refuses what a reader would not take for an entry, or would misread.
func (e *Entry) check() error {
	if e.Event == "" {
		return fmt.Errorf("%w: it has no event", ErrEntry)
	}
	for _, f := range []key.Fingerprint{e.Fingerprint, e.Old} {
		if f == "" {
			continue
		}
		if _, err := key.ParseFingerprint(string(f)); err != nil {
			return fmt.Errorf("%w: %w", ErrEntry, err)
		}
	}
	needs := e.Fingerprint == ""
	switch e.Event {
	case RotationOpen:
		needs = needs || e.Old == ""
	case Accepted, Proven, Contradicted:
	default:
		return nil
	}
	if needs {
		return fmt.Errorf("%w: %q without a fingerprint", ErrEntry, e.Event)
	}
	return nil
}

// known tells whether the entry makes its key the known one.
func (e Entry) known() bool { return e.Event == Accepted || e.Event == Proven }
