package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// Health is the verdict of Status in one word.
type Health string

// From best to worst, and Busy.
const (
	Green   Health = "green"   // the key is right, and every escrow that must hold it does
	Lagging Health = "lagging" // an escrow does not hold the key
	Amiss   Health = "amiss"   // something on this host is not as it should be: daemon, watcher, timer, ledger, a mode
	Unsure  Health = "doubt"   // the key is not in place, opens only a part, or cannot be judged
	Gone    Health = "lost"    // no key that can be had opens a row
	Busy    Health = "busy"    // a rotation or a repair is under way, and nothing is to be judged
)

// StatusResult is the state of the key on this host.
type StatusResult struct {
	// Ailments are all that is not as it should be. Health and Line are the first one's,
	// where there is one: the verdict.
	Ailments []Ailment
	Health   Health
	Line     string
	Working  *Working
	Daemon   DaemonStanding
	// LeftDown: a rotation or a repair stopped the daemon, is not at work any more, and nobody
	// has started the daemon since.
	LeftDown bool
	// Units: systemd has units of ours, and Watcher and Drill.Next say how they are.
	Units      bool
	Watcher    unit.WatcherState
	WatcherErr error // why systemd cannot be asked about it
	Decision   decide.Decision
	Path       string // of the keyfile
	StateDir   string
	Keyfile    decide.KeyfileEvidence
	Loose      string
	Immutable  string // the keyfile, or its directory, where it is to be changed and nobody can; "" for not
	Full       string // its directory, where it is to be changed and there is no room; "" for not
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
	Unkept     error      // why nothing can be kept in the local quarantine (keyfile.ErrNotKept)
	Hanging    []error    // directories of ours that do not answer (crew.ErrHangs)
	// Unrecorded is when the local quarantine kept a key that is older than the ledger, whose
	// beginning is gone then, until somebody has accepted a key since; zero for never.
	Unrecorded time.Time
	// Forgets: what is mounted on the state directory is gone with the next boot.
	Forgets bool
	// Broken is where the ledger's chain is broken, if nobody has accepted a key since.
	Broken  *ledger.Break
	Escrows []EscrowStatus
	Drill   DrillStanding
	Trouble []Trouble
	// Other is the last entry of the machine that this one is a clone of, until somebody
	// accepts a key here; its Event is empty where this one is none.
	Other    ledger.Entry
	Nameless bool // this machine has no id to tell it from others
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
	Seals      bool   // what is saved there is encrypted to somebody
	Current    int    // copies on the current shelf
	Quarantine int
	Newest     decide.CopyEvidence  // newest current copy; zero when there is none
	Holds      bool                 // the newest current copy is the key of the keyfile
	Alarm      string               // law 4: another host writes there
	Barred     decide.Bar           // law 4: why a save of the keyfile's key would go to quarantine
	Ending     string               // this host's credentials there end soon, and who sees to it; "" for not
	Lacks      *escrow.PartsError   // of a key in parts: which stores cannot give theirs; nil for none
	Refuses    error                // of a key in parts: why it is not saved there as the configuration stands
	Blocked    *escrow.TroubleError // of a directory: why it takes no further copy; nil for it does
	Here       *escrow.TroubleError // why it is no place off this host; nil for it is one
	Readable   string               // which copies, not sealed, others on this host can read; "" for none
	Beside     string               // a copy of the keyfile's key that stands there whole, beside the parts; "" for none
	SavedAt    time.Time            // when this host last saved there; zero for never
	SavedAnew  bool                 // it has saved there since the last drill
	// Drilled is what the last drill said of the newest current copy, Proven the last time
	// that one opened the rows. Their Event is empty for never.
	Drilled, Proven ledger.Entry
	Untried         []UntriedPart // of a key in parts, by that drill
}

// UntriedPart is a part of a key that a drill could not try: its store did not answer, or had
// none, and the others were enough.
type UntriedPart struct {
	Member string
	Number int
	Since  time.Time // the first of the drills in a row that could not
}

func (p UntriedPart) String() string {
	return fmt.Sprintf("no drill has tried part %d, in %s, since %s", p.Number, p.Member, printable.Time(p.Since))
}

// untried are the parts that the last drill could not try, of an escrow that keeps keys in parts.
func untried(record *ledger.Record, s escrow.Reader) (list []UntriedPart) {
	shared, ok := s.(escrow.Shared)
	if !ok {
		return nil
	}
	for _, m := range shared.Members() {
		if since := record.UntriedSince(s.Name(), m.Number); !since.IsZero() {
			list = append(list, UntriedPart{m.Name(), m.Number, since})
		}
	}
	return list
}

// unopened tells whether the newest copy is the key by its own word alone. Where nothing is sealed
// nobody need have an identity that opens it: a save puts the key on top.
func (s EscrowStatus) unopened(f key.Fingerprint) bool {
	return s.State == decide.EscrowAnswered && !s.Holds && s.Newest.Sealed && s.Newest.Claims(f) && (s.Seals || s.Newest.Locked)
}

// failedDrill tells whether what a drill found wrong still stands there.
func (s EscrowStatus) failedDrill() bool {
	return s.Drilled.Verdict == string(DrillFailed) && !s.SavedAnew
}

// Status says how the key and its copies stand, by the same rules as a start of the
// daemon, and changes nothing.
func Status(ctx context.Context, h *Host) (StatusResult, error) {
	const attempts = 3 // whoever changes it more often than that is at work all the time
	for attempt := 1; ; attempt++ {
		r, again, err := statusOnce(ctx, h)
		if err != nil || !again || attempt == attempts {
			return r, err
		}
	}
}

// statusOnce tells, too, whether all is to be asked again.
func statusOnce(ctx context.Context, h *Host) (r StatusResult, again bool, err error) {
	o, err := h.observe()
	if err != nil {
		return r, false, err
	}
	defer o.close()
	r = o.status(ctx)
	return r, r.Working == nil && o.overtaken(), nil
}

// status asks all that can be asked.
func (o *observation) status(ctx context.Context) StatusResult {
	h := o.host
	o.askRows(ctx)
	o.askLocal()
	o.awaitAllEscrows(ctx)
	d := o.decide(ctx)
	own := o.evidence.Keyfile.Key
	if o.evidence.Rows.Proofs[own].Verdict == rows.Partial {
		o.askRows(ctx) // which of the keys at hand opens the others
	}
	r := StatusResult{
		Decision: d, Path: h.Keyfile.Path, StateDir: h.StateDir, Keyfile: o.evidence.Keyfile, Loose: o.seen.Loose, Halfway: o.halfway(),
		Look: o.evidence.Ledger.Verdict, Known: o.evidence.Ledger.Known, Accepted: o.evidence.Ledger.Accepted, LastLook: o.evidence.Ledger.LastLook,
		Rows: o.evidence.Rows, Proof: o.evidence.Rows.Proofs[own], Kept: len(o.kept),
	}
	if r.Loose != "" || d.Action != decide.Pass {
		r.Immutable, r.Full = h.Keyfile.Immutable(), h.Keyfile.Full()
	}
	for i, s := range h.Escrows {
		e := o.escrowStatus(i, s)
		if c, ok := s.Reader.(escrow.Credentialed); ok {
			e.Ending = c.Credential(ctx).Ends(h.Now())
		}
		if x, ok := s.Reader.(escrow.Examiner); ok && local(s.Place()) && e.State == decide.EscrowAnswered {
			exam, _ := x.Examine(ctx) // it has just answered, and doctor says what is wrong with it
			e.Readable = strings.Join(exam.Readable, "; ")
			switch {
			case exam.Trouble == nil:
			case s.Place().Kind == "directory" && exam.Trouble.Trouble != escrow.TroubleMemory:
				e.Blocked = exam.Trouble
			default:
				e.Here = exam.Trouble
			}
			e.Place.Domain = strings.Join(exam.Domains(e.Place), ", ")
		}
		if s, ok := s.Reader.(escrow.Shared); ok && e.Newest.ID != "" {
			newest := escrow.Copy{ID: e.Newest.ID}
			s.Reread(ctx, newest, local) // a start reads as many as it needs, and a listing none
			e.Lacks = s.Lacks(newest)
		}
		if s, ok := s.Reader.(escrow.Shared); ok && e.State == decide.EscrowAnswered {
			e.Refuses = s.Refuses(own)
			e.Place.Domain = examineMembers(ctx, s, e.Newest.ID, h.Now(), local).domain()
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
	r.Nameless = h.Machine == ""
	r.Broken = o.broken()
	if r.Broken == nil || len(o.record.Entries) == 0 {
		r.Damaged = o.evidence.History.Unreadable
	}
	r.Unwritable, r.Unkept = h.Ledger.Writable(), h.Keyfile.Keeping()
	r.Unrecorded = unrecorded(*o.history(), o.kept, h.Now())
	r.Forgets = forgets(h.StateDir)
	r.Hanging = h.hanging()
	r.judge(h.Now())
	r.Trouble = o.trouble
	return r
}

// unrecorded finds the time of StatusResult.Unrecorded. Where the local quarantine went with the
// ledger, nothing here tells a host that has lost both from one that was built anew.
func unrecorded(record ledger.Record, kept []keyfile.Kept, now time.Time) (oldest time.Time) {
	const together = time.Hour // a first start does both
	begins := now
	for i, e := range record.Entries {
		if i == 0 || e.Time.Before(begins) { // the clock may have been behind for a while since it began
			begins = e.Time
		}
	}
	for _, k := range kept {
		if k.Time.Add(together).Before(begins) && (oldest.IsZero() || k.Time.Before(oldest)) {
			oldest = k.Time
		}
	}
	if slices.ContainsFunc(record.Entries, func(e ledger.Entry) bool { return e.Event == ledger.Accepted }) {
		return time.Time{}
	}
	return oldest
}

// forgets tells whether a file system in memory is mounted on a directory, on another one.
func forgets(dir string) bool {
	here, err := crew.Stat(dir)
	above, aerr := crew.Stat(filepath.Dir(dir))
	if err != nil || aerr != nil || here.Sys().(*syscall.Stat_t).Dev == above.Sys().(*syscall.Stat_t).Dev {
		return false
	}
	st, err := crew.Within(dir, func() (st unix.Statfs_t, err error) { err = unix.Statfs(dir, &st); return st, err }, nil)
	return err == nil && (st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC)
}

// local tells of an escrow that its examination asks nobody over a network.
func local(p escrow.Place) bool { return p.Kind == "directory" || p.Kind == "command" }

func (o *observation) escrowStatus(i int, s Escrow) EscrowStatus {
	e := o.evidence.Escrows[i]
	r := EscrowStatus{Name: e.Name, Place: s.Place(), Required: e.Required, Seals: s.Sealed, State: e.State, Why: e.Why, Err: e.Err}
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
	r.SavedAnew = record.SavedAfter(e.Name, r.Drilled.Line)
	r.Proven, _ = record.LastProven(e.Name)
	r.Untried = untried(record, s.Reader)
	_, r.Barred = decide.Shelf(o.evidence, i, o.evidence.Keyfile.Key)
	newest, there := e.NewestCurrent()
	if !there {
		return r
	}
	r.Newest = newest
	r.Holds = o.evidence.Holds(i, newest, o.evidence.Keyfile.Key)
	if err := decide.Alarm(o.evidence, i); errors.Is(err, decide.ErrForeignCopy) {
		r.Alarm = err.Error()
	}
	return r
}
