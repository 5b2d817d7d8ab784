package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// Health is the verdict of Status in one word.
type Health string

// From best to worst.
const (
	Green   Health = "green"   // the key is right, and every escrow that must hold it does
	Lagging Health = "lagging" // an escrow does not hold the key
	Amiss   Health = "amiss"   // the daemon, the watcher or the drill's timer is not as it should be
	Unsure  Health = "doubt"   // the key is not in place, opens only a part, or cannot be judged
	Gone    Health = "lost"    // no key that can be had opens a row
	Busy    Health = "busy"    // a rotation or a repair is under way, and nothing is to be judged
)

// StatusResult is the state of the key on this host.
type StatusResult struct {
	Health  Health
	Line    string // the verdict, for people
	Working *Working
	Daemon  DaemonStanding
	// LeftDown: a rotation or a repair stopped the daemon, is not at work any more, and nobody
	// has started the daemon since.
	LeftDown bool
	// Units: systemd has units of ours, and Watcher and Drill.Next say how they are.
	Units      bool
	Watcher    unit.WatcherState
	WatcherErr error // why systemd cannot be asked about it
	Decision   decide.Decision
	Path       string // of the keyfile
	Keyfile    decide.KeyfileEvidence
	Loose      string
	Immutable  string // the keyfile, or its directory, where it is to be changed and nobody can; "" for not
	Halfway    error  // ErrRotationOpen, and which one; nil for none
	Known      key.Fingerprint
	Accepted   bool
	LastLook   time.Time    // when the known key was last proven or accepted; zero for never
	Look       rows.Verdict // what it opened then
	Rows       decide.RowsEvidence
	Proof      rows.Proof // of the keyfile's key
	Kept       int        // files in the local quarantine
	Damaged    string     // why the ledger cannot be read, "" where it can
	Unwritable error      // why it cannot be written
	Escrows    []EscrowStatus
	Drill      DrillStanding
	Trouble    []Trouble
	// Other is the last entry of the machine that this one is a copy of, until somebody
	// accepts a key here; its Event is empty where this one is none.
	Other ledger.Entry
}

// DrillStanding is how the weekly drill stands.
type DrillStanding struct {
	Last ledger.Entry    // the last one that ended; its Event is empty where none did
	Next unit.DrillState // zero where there is no systemd, or it cannot be asked
	Err  error           // why systemd cannot be asked
}

// EscrowStatus is one escrow as seen from this host.
type EscrowStatus struct {
	Name       string
	Place      escrow.Place
	Required   bool
	AddOnly    bool            // this host reads nothing there; the next is what the ledger says
	Added      key.Fingerprint // the key that it last stored there as current
	State      decide.EscrowState
	Why        string // why it cannot answer
	Err        error  // the same, for errors.Is
	Current    int    // copies on the current shelf
	Quarantine int
	Newest     decide.CopyEvidence // newest current copy; zero when there is none
	Holds      bool                // the newest current copy is the key of the keyfile
	Alarm      string              // law 4: another host writes there
	Ending     string              // this host's credentials there end soon, and who sees to it; "" for not
	Lacks      *escrow.PartsError  // of a key in parts: which stores cannot give theirs; nil for none
	Refuses    error               // of a key in parts: why it is not saved there as the configuration stands
	Readable   string              // which copies, not sealed, others on this host can read; "" for none
	Beside     string              // a copy of the keyfile's key that stands there whole, beside the parts; "" for none
	SavedAt    time.Time           // when this host last saved there; zero for never
	// Drilled is what the last drill said of the newest current copy, Proven the last time
	// that one opened the rows. Their Event is empty for never.
	Drilled, Proven ledger.Entry
}

// unopened tells whether the newest copy is the key by its own word alone.
func (s EscrowStatus) unopened(f key.Fingerprint) bool {
	return s.State == decide.EscrowAnswered && !s.Holds && s.Newest.Sealed && s.Newest.Claims(f)
}

// failedDrill tells whether what a drill found wrong still stands there.
func (s EscrowStatus) failedDrill() bool {
	return s.Drilled.Verdict == string(DrillFailed) && !s.SavedAt.After(s.Drilled.Time)
}

// Status says how the key and its copies stand, by the same rules as a start of the
// daemon, and changes nothing.
func Status(ctx context.Context, h *Host) (StatusResult, error) {
	r, _, err := status(ctx, h)
	return r, err
}

// looked is what a status was made of, for the doctor.
type looked struct {
	record  ledger.Record
	local   []key.Fingerprint
	escrows []decide.EscrowEvidence
}

func status(ctx context.Context, h *Host) (StatusResult, looked, error) {
	o, err := h.observe()
	if err != nil {
		return StatusResult{}, looked{}, err
	}
	defer o.close()
	o.askRows(ctx)
	o.askLocal()
	o.awaitAllEscrows(ctx)
	d := o.decide(ctx)
	own := o.evidence.Keyfile.Key
	if o.evidence.Rows.Proofs[own].Verdict == rows.Partial {
		o.askRows(ctx) // which of the keys at hand opens the others
	}
	r := StatusResult{
		Decision: d, Path: h.Keyfile.Path, Keyfile: o.evidence.Keyfile, Loose: o.seen.Loose, Halfway: o.halfway(),
		Look: o.evidence.Ledger.Verdict, Known: o.evidence.Ledger.Known, Accepted: o.evidence.Ledger.Accepted, LastLook: o.evidence.Ledger.LastLook,
		Rows: o.evidence.Rows, Proof: o.evidence.Rows.Proofs[own], Kept: len(o.kept),
	}
	if r.Loose != "" || d.Action != decide.Pass {
		r.Immutable = h.Keyfile.Immutable()
	}
	for i, s := range h.Escrows {
		e := o.escrowStatus(i, s)
		if c, ok := s.Reader.(escrow.Credentialed); ok {
			e.Ending = c.Credential(ctx).Ends(h.Now())
		}
		if x, ok := s.Reader.(escrow.Examiner); ok && s.Place().Kind == "directory" && e.State == decide.EscrowAnswered {
			exam, _ := x.Examine(ctx) // it has just answered, and doctor says what is wrong with it
			e.Readable = strings.Join(exam.Readable, "; ")
		}
		if s, ok := s.Reader.(escrow.Shared); ok && e.Newest.ID != "" {
			e.Lacks = s.Lacks(escrow.Copy{ID: e.Newest.ID})
		}
		if s, ok := s.Reader.(escrow.Shared); ok && e.State == decide.EscrowAnswered {
			e.Refuses = s.Refuses(own)
		}
		r.Escrows = append(r.Escrows, e)
	}
	for _, e := range slices.Backward(o.history().Entries) {
		if e.Event == ledger.DrillEnded {
			r.Drill.Last = e
			break
		}
	}
	r.Working = o.working()
	r.askAlive(ctx, o)
	r.LeftDown = o.evidence.Ledger.Stopped && r.Working == nil && !r.Daemon.Up()
	r.Other, _ = o.history().OtherMachine(h.Machine)
	r.Damaged, r.Unwritable = o.evidence.History.Unreadable, h.Ledger.Writable()
	r.judge(h.Now())
	r.Trouble = o.trouble
	return r, looked{*o.history(), o.evidence.Local.Keys, o.evidence.Escrows}, nil
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
		if c.Beside && c.Claims(o.evidence.Keyfile.Key) && r.Beside == "" {
			r.Beside = c.ID
		}
	}
	record := o.history()
	r.AddOnly = s.AddOnly
	if saved, ok := record.LastSaved(e.Name); ok {
		r.SavedAt, r.Added = saved.Time, saved.Fingerprint
	}
	r.Drilled, _ = record.LastDrilled(e.Name)
	r.Proven, _ = record.LastProven(e.Name)
	newest, there := e.NewestCurrent()
	if !there {
		return r
	}
	r.Newest = newest
	r.Holds = o.evidence.Holds(i, newest, o.evidence.Keyfile.Key)
	if err := decide.Alarm(o.evidence, i); err != nil {
		r.Alarm = err.Error()
	}
	return r
}

// judge sums up. What is decided of the keyfile comes before how the daemon and our units
// run, and that before what the escrows hold.
func (r *StatusResult) judge(now time.Time) {
	say := func(h Health, format string, a ...any) { r.Health, r.Line = h, fmt.Sprintf(format, a...) }
	if r.Working != nil {
		say(Busy, "%s", r.Working)
		return
	}
	switch r.Decision.Action {
	case decide.Lost:
		say(Gone, "%s", r.Decision.Reason)
		return
	case decide.Doubt:
		say(Unsure, "%s", r.Decision.Reason)
		return
	case decide.Install:
		say(Unsure, "the keyfile is not right: key %s belongs there (%s)", r.Decision.Key, r.Decision.Reason)
		return
	case decide.Make:
		if r.cloned() || r.judgeAlive() {
			return
		}
		say(Green, "no key yet: the daemon's first start makes one (%s)", r.Decision.Reason)
		return
	}
	switch r.Proof.Verdict {
	case rows.Partial:
		what := "the table is split"
		if !r.Split() {
			what += ", or rows were tampered with"
		}
		say(Unsure, "%s: key %s opens %d of %s%s", what, r.Keyfile.Key, r.Proof.Opened, printable.Count(r.Proof.Checked, "row"), r.word())
		return
	case rows.Refuted:
		say(Unsure, "key %s opens none of %s%s", r.Keyfile.Key, printable.Count(r.Proof.Checked, "row"), r.word())
		return
	}
	if r.cloned() || r.judgeHalfway() || r.judgeAlive() {
		return
	}
	if why := r.unproven(now); r.Rows.State == decide.RowsUnknown && why != "" {
		say(Lagging, "key %s is in place, and nobody knows whether it opens the rows: they cannot be asked, and %s", r.Keyfile.Key, why)
		return
	}
	if r.Damaged != "" {
		say(Lagging, "key %s is in place, and the ledger cannot tell what was proven and saved here: %s", r.Keyfile.Key, r.Damaged)
		return
	}
	if r.Unwritable != nil {
		say(Lagging, "key %s is in place, and nothing that becomes of it can be recorded: %v", r.Keyfile.Key, r.Unwritable)
		return
	}
	if r.Loose != "" {
		say(Lagging, "the daemon refuses a keyfile that is loose (%s)", r.Loose)
		return
	}
	if len(r.Escrows) == 0 {
		say(Lagging, "key %s is in place, and no escrow is configured: it has no copy off this host", r.Keyfile.Key)
		return
	}
	held := false
	for _, s := range r.Escrows {
		held = held || s.Holds
		switch {
		case s.AddOnly && s.Added != r.Keyfile.Key:
			say(Lagging, "escrow %q was not given key %s yet", s.Name, r.Keyfile.Key)
			return
		case s.Alarm != "":
			say(Lagging, "escrow %q: %s", s.Name, s.Alarm)
			return
		case s.State == decide.EscrowFailed && s.Required:
			say(Lagging, "escrow %q cannot answer: %s", s.Name, s.Why)
			return
		case s.State == decide.EscrowAnswered && s.Newest.Miswritten() && s.Newest.Key == r.Keyfile.Key:
			say(Lagging, "escrow %q has copy %s on top, which is key %s as %s, not as its 32 bytes: keyguard restores it, the runbook's commands would not",
				s.Name, s.Newest.ID, r.Keyfile.Key, s.Newest.Encoding)
			return
		case s.unopened(r.Keyfile.Key):
			say(Lagging, "escrow %q has copy %s on top, which says that it is key %s and is sealed: no identity has opened it here", s.Name, s.Newest.ID, r.Keyfile.Key)
			return
		case s.State == decide.EscrowAnswered && !s.Holds:
			say(Lagging, "escrow %q does not hold key %s as its newest current copy", s.Name, r.Keyfile.Key)
			return
		case s.Lacks != nil:
			say(Lagging, "escrow %q: key %s is %v", s.Name, r.Keyfile.Key, s.Lacks)
			return
		case s.Readable != "":
			say(Lagging, "escrow %q: %s", s.Name, s.Readable)
			return
		case s.Refuses != nil:
			say(Lagging, "escrow %q takes no part of key %s as it is configured: %v", s.Name, r.Keyfile.Key, s.Refuses)
			return
		case s.failedDrill():
			say(Lagging, "escrow %q failed its last drill: %s", s.Name, s.Drilled.Reason)
			return
		}
	}
	if !held {
		say(Lagging, "key %s is in place, and no escrow that answers holds it", r.Keyfile.Key)
		return
	}
	asked := ""
	if r.Rows.State == decide.RowsUnknown {
		asked = "; the rows cannot be asked just now"
	}
	say(Green, "key %s is in place and in every escrow that answers%s", r.Keyfile.Key, asked)
}

// judgeHalfway judges what a rotation left that stopped halfway.
func (r *StatusResult) judgeHalfway() bool {
	if r.Halfway == nil {
		return false
	}
	r.Health, r.Line = Amiss, r.Halfway.Error()
	return true
}

// unproven says why what is on record does not vouch for the keyfile's key as it would at a
// start (R2), "" where it does.
func (r *StatusResult) unproven(now time.Time) string {
	age := now.Sub(r.LastLook)
	switch {
	case r.Known != r.Keyfile.Key:
		return "no look at them is on record"
	case r.LastLook.IsZero(), age < 0, age > decide.ProofLife:
		return "the last look at them is too old"
	case r.Look == rows.Partial:
		return "it opened only a part of them at the last look"
	case r.Look == rows.Refuted:
		return "it opened none of them when a person accepted it"
	}
	return ""
}

// Split tells whether two keys that can be had open rows, and none opens all of them.
func (r *StatusResult) Split() bool {
	open := 0
	for _, p := range r.Rows.Proofs {
		switch {
		case p.Opened == p.Checked:
			return false
		case p.Opened > 0:
			open++
		}
	}
	return open > 1
}

// word says that the keyfile's key stands there because a person accepted it.
func (r *StatusResult) word() string {
	if !r.Accepted || r.Known != r.Keyfile.Key {
		return ""
	}
	return ", and is in place on a person's word"
}

// cloned judges a machine that is a copy of another: what is known here was learned there.
func (r *StatusResult) cloned() bool {
	if r.Other.Event == "" {
		return false
	}
	r.Health = Lagging
	r.Line = fmt.Sprintf("the ledger is another machine's, called %s, which wrote to it last at %s: this one is a copy of it, and nobody has accepted its key here",
		r.Other.Host, printable.Time(r.Other.Time))
	return true
}
