package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// Health is the verdict of Status in one word.
type Health string

// From best to worst.
const (
	Green   Health = "green"   // the key is right, and every escrow that must hold it does
	Lagging Health = "lagging" // an escrow does not hold the key
	Unsure  Health = "doubt"   // the key is not in place, opens only a part, or cannot be judged
	Gone    Health = "lost"    // no key that can be had opens a row
)

// StatusResult is the state of the key on this host.
type StatusResult struct {
	Health   Health
	Line     string // the verdict, for people
	Decision Decision
	Keyfile  KeyfileEvidence
	Loose    string
	Known    key.Fingerprint
	Accepted bool
	LastLook time.Time // when the known key was last proven or accepted; zero for never
	Rows     RowsEvidence
	Proof    rows.Proof // of the keyfile's key
	Kept     int        // files in the local quarantine
	Escrows  []EscrowStatus
	Trouble  []Trouble
}

// EscrowStatus is one escrow as seen from this host.
type EscrowStatus struct {
	Name       string
	Place      escrow.Place
	Required   bool
	State      EscrowState
	Why        string // why it cannot answer
	Err        error  // the same, for errors.Is
	Current    int    // copies on the current shelf
	Quarantine int
	Newest     CopyEvidence // newest current copy; zero when there is none
	Holds      bool         // the newest current copy is the key of the keyfile
	Alarm      string       // law 4: another host writes there
	SavedAt    time.Time    // when this host last saved there; zero for never
}

// Status says how the key and its copies stand, by the same rules as a start of the
// daemon, and changes nothing.
func Status(ctx context.Context, h *Host) (StatusResult, error) {
	o, err := h.observe()
	if err != nil {
		return StatusResult{}, err
	}
	defer o.close()
	o.askRows(ctx)
	o.askLocal()
	o.awaitAllEscrows(ctx)
	d := o.decide(ctx)
	own := o.evidence.Keyfile.Key
	r := StatusResult{
		Decision: d, Keyfile: o.evidence.Keyfile, Loose: o.seen.Loose,
		Known: o.evidence.Ledger.Known, Accepted: o.evidence.Ledger.Accepted, LastLook: o.evidence.Ledger.LastLook,
		Rows: o.evidence.Rows, Proof: o.evidence.Rows.Proofs[own], Kept: len(o.kept),
	}
	for i, s := range h.Escrows {
		r.Escrows = append(r.Escrows, o.escrowStatus(i, s))
	}
	r.judge()
	r.Trouble = o.trouble
	return r, nil
}

func (o *observation) escrowStatus(i int, s Escrow) EscrowStatus {
	e := o.evidence.Escrows[i]
	r := EscrowStatus{Name: e.Name, Place: s.Place(), Required: e.Required, State: e.State, Why: e.Why, Err: e.Err}
	for _, c := range e.Copies {
		if c.Shelf == escrow.Current {
			r.Current++
		} else {
			r.Quarantine++
		}
	}
	record := o.history()
	if saved, ok := record.LastSaved(e.Name); ok {
		r.SavedAt = saved.Time
	}
	newest, there := e.newestCurrent()
	if !there {
		return r
	}
	r.Newest = newest
	r.Holds = newest.Key != "" && newest.Key == o.evidence.Keyfile.Key
	if !r.Holds {
		r.Alarm = o.alarm(i)
	}
	return r
}

// judge sums up. What Decide says comes before what the escrows hold.
func (r *StatusResult) judge() {
	say := func(h Health, format string, a ...any) { r.Health, r.Line = h, fmt.Sprintf(format, a...) }
	switch r.Decision.Action {
	case Lost:
		say(Gone, "%s", r.Decision.Reason)
		return
	case Doubt:
		say(Unsure, "%s", r.Decision.Reason)
		return
	case Install:
		say(Unsure, "the keyfile is not right: key %s belongs there (%s)", r.Decision.Key, r.Decision.Reason)
		return
	case Make:
		say(Green, "no key yet: the daemon's first start makes one (%s)", r.Decision.Reason)
		return
	}
	if r.Proof.Verdict == rows.Partial {
		say(Unsure, "the table is split: key %s opens %d of %d rows", r.Keyfile.Key, r.Proof.Opened, r.Proof.Checked)
		return
	}
	if len(r.Escrows) == 0 {
		say(Green, "key %s is in place; no escrow is configured: this is no backup", r.Keyfile.Key)
		return
	}
	for _, s := range r.Escrows {
		switch {
		case s.Alarm != "":
			say(Lagging, "escrow %q: %s", s.Name, s.Alarm)
			return
		case s.State == EscrowFailed && s.Required:
			say(Lagging, "escrow %q cannot answer: %s", s.Name, s.Why)
			return
		case s.State == EscrowAnswered && !s.Holds:
			say(Lagging, "escrow %q does not hold key %s as its newest current copy", s.Name, r.Keyfile.Key)
			return
		}
	}
	say(Green, "key %s is in place and in every escrow that answers", r.Keyfile.Key)
}
