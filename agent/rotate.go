package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// Errors of Rotate.
var (
	// ErrNotRotated says that the rotation has brought no row under its new key, nor that into the
	// keyfile's place; the error beside it says why. An earlier one that stood open may have been settled
	// before, which puts the key in place that the rows have chosen.
	ErrNotRotated = errors.New("not rotated, and the rows stay under the key that they are under")
	// ErrKeyNotRight says that the keyfile's key is not the one that opens every row.
	ErrKeyNotRight = errors.New("the keyfile does not hold the key that opens every row")
	// ErrSplitRows says that the rows are under several keys that are at hand: a further one
	// would not mend that.
	ErrSplitRows = errors.New("the rows are split between keys of this host")
	// ErrNoRows says that no row depends on the key.
	ErrNoRows = errors.New("no row depends on the key, so there is nothing to re-encrypt")
	// ErrNotSafe says that the present key is not the newest current copy where it must be.
	ErrNotSafe = errors.New("the present key is not safe off this host")
	// ErrOldCut says that too few stores have a part of the present key to lose one, and that as
	// configured, for another need, no further one gets any.
	ErrOldCut = errors.New("the present key, cut for another need than is configured, may lose no part")
	// ErrNoHome says that no escrow holds the new key so that it can be had again.
	ErrNoHome = errors.New("the new key would not be safe off this host")
	// ErrNeedAll says that a new key could be rebuilt from all of its parts alone, and nobody has
	// said that it may be so.
	ErrNeedAll = errors.New("none of the parts of a key may be lost there")
	// ErrOtherClients says that somebody who may write the rows is connected.
	ErrOtherClients = errors.New("another program is connected to the database as the daemon")
	// ErrCannotEnd says that what a rotation does last, when the rows are under the new key,
	// would fail: the keyfile cannot be exchanged, or there is no room to write it down.
	ErrCannotEnd = errors.New("what a rotation does last cannot be done here")
	// ErrRotationOpen says that an earlier rotation stopped halfway and is not settled.
	ErrRotationOpen = errors.New("a rotation stopped halfway and is not settled yet")
	// ErrEnded says that whoever runs the rotation wants its end, as a host does that goes
	// down, while which key holds is not known yet.
	ErrEnded = errors.New("told to end in the commit, as by a reboot")
	// ErrNotStarted says that the daemon, which a rotation or a repair had stopped, did not
	// start again.
	ErrNotStarted = errors.New("the daemon was stopped and does not start again")
)

const (
	// rotateSave bounds what is asked of the escrows at once.
	rotateSave = time.Minute
	// rotateBackup bounds step 8; what is not done by then the watcher does.
	rotateBackup = 2 * time.Minute
)

// RotateOptions are a person's wishes.
type RotateOptions struct {
	DryRun bool // the check and the re-encryption up to its commit: nothing is saved, staged or stopped
	// LeaveUnopenable leaves rows that the present key does not open as they are, and names
	// them. Otherwise they stop the rotation.
	LeaveUnopenable bool
	// NeedAll takes an escrow for safe that rebuilds a key from all of its parts alone.
	NeedAll bool
	Person  string // who asked, for the ledger
	// Agreed is the present key that a person was asked about, "" for whichever it is.
	Agreed key.Fingerprint
	// Progress is told what the rotation is at, by one goroutine at a time.
	Progress func(RotateProgress)
	// Staged is called when the new key is staged (step 2), before the daemon is stopped.
	Staged func(old, fresh key.Fingerprint)
}

// RotateProgress is what a rotation is at.
type RotateProgress struct {
	Step        string // "saving the new key"
	Done, Total int64  // rows, where the step has any
}

// RotateResult is what was found and done.
type RotateResult struct {
	Old, New key.Fingerprint
	Rows     decide.RowsEvidence // before
	Staged   []SaveResult        // the new key on the quarantine shelves, before any row was under it
	Rotated  bool                // every dependent row, but those that were left, is under New
	Work
}

// Rotate makes a new key and brings every dependent row under it (design §6). Each step
// is durable before the next, so that it may be interrupted anywhere: the next start, or
// the watcher, finds out from the rows which of the two keys holds (R1).
//
//	0  the present key is right, and safe off this host                      check
//	1  the new key is on the quarantine shelf of every escrow that answers    escrow
//	2  ledger "rotation open", the new key as <keyfile>.next                  stage
//	3  the daemon is stopped, nobody else writes; ledger "commit begun"       finish; beginCommit
//	4  all rows in one transaction                                            switchKeys, rewrite
//	5  <keyfile>.next and the keyfile are exchanged                           switchKeys, exchange
//	6  ledger "rotated"; the lock is released                                 switchKeys; finish
//	7  the daemon is started                                                  startAgain
//	8  the new key is on the current shelves; the watcher asks the rows
//	   again after five minutes (secondLook in hooks/watchround.go)           finish
//
// finish, rewrite and startAgain are what a repair does, too (downtime.go).
//
// ctx ends it up to step 3. From there on the daemon is down, and to go on is the
// quickest way to have it up again.
//
// ErrBusy: another one is at work. ErrNotRotated: the rows stay under the key that they are under, and
// the error says why; with ErrChanged a person was asked about another key than the present one. ErrUnsure:
// it stopped in its commit and the rows do not say which key holds; start and watcher ask
// on. ErrNotStarted: rotated, but the daemon is down.
func Rotate(ctx context.Context, h *Host, opts RotateOptions) (RotateResult, error) {
	if opts.Staged == nil {
		opts.Staged = func(key.Fingerprint, key.Fingerprint) {}
	}
	t := &rotation{opts: opts, ended: ctx.Done()}
	t.job = job{h: h, progress: opts.Progress, work: &t.r.Work}
	err := t.locked(ctx, t.check, t.run)
	return t.r, err
}

// rotation is one run of Rotate.
type rotation struct {
	job
	opts  RotateOptions
	ended <-chan struct{} // closed when whoever runs it wants its end
	r     RotateResult
}

// notRotated says why nothing was changed.
func notRotated(kind error, format string, args ...any) error {
	return fmt.Errorf("%w: %w: %w", ErrNotRotated, kind, fmt.Errorf(format, args...))
}

// check is step 0. What an earlier rotation left is settled first.
func (t *rotation) check(ctx context.Context) (err error) {
	t.at("checking the present key and its copies")
	if t.o, err = t.h.observe(); err != nil {
		return err
	}
	if open := t.o.halfway(); open != nil {
		if t.opts.DryRun {
			return fmt.Errorf("%w: %w", ErrNotRotated, open)
		}
		_, unsettled := t.settleOpen(ctx)
		t.o.close()
		if t.o, err = t.h.observe(); err != nil {
			return err
		}
		if unsettled != nil && t.o.halfway() != nil {
			return notRotated(open, "%w", unsettled)
		}
	}
	live := t.o.evidence.Keyfile
	t.r.Old = live.Key
	if !live.Good {
		return notRotated(ErrKeyNotRight, "it is %s", live.State())
	}
	if agreed := t.opts.Agreed; agreed != "" && agreed != live.Key {
		return notRotated(ErrChanged, "the keyfile holds key %s now, and not key %s", live.Key, agreed)
	}
	if err := t.checkRows(ctx); err != nil {
		return err
	}
	if err := t.checkEnd(ctx); err != nil {
		return err
	}
	return t.checkEscrows(ctx)
}

// checkEnd rehearses what comes when it is too late to refuse: the rewriting, with the
// daemon down, and the exchange, with the rows under the new key.
func (t *rotation) checkEnd(ctx context.Context) error {
	if err := t.may(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrNotRotated, err)
	}
	if err := t.rehearse(); err != nil {
		return fmt.Errorf("%w: %w", ErrNotRotated, err)
	}
	return nil
}

func (t *rotation) checkRows(ctx context.Context) error {
	o, live := t.o, t.r.Old
	o.askRows(ctx)
	t.r.Rows = o.evidence.Rows
	p := o.evidence.Rows.Proofs[live]
	strange := o.answer.Counts.Unknown > 0 // rows of an unknown class
	if p.Verdict == rows.Partial {
		others, err := t.opensOthers(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("%w: key %s opens %d of %d, and nobody can tell whether another key of this host opens the others: %w", ErrNotRotated, live, p.Opened, p.Checked, err)
		case others:
			return notRotated(ErrSplitRows, "key %s opens %d of %d", live, p.Opened, p.Checked)
		}
	}
	switch known := o.evidence.Ledger.Known == live; {
	case o.evidence.Rows.State == decide.RowsUnknown:
		return fmt.Errorf("%w: the rows cannot be asked: %w", ErrNotRotated, o.evidence.Rows.Err)
	case o.evidence.Rows.State == decide.RowsSilent:
		return notRotated(ErrNoRows, "%s", o.evidence.Rows.Why)
	case p.Verdict == rows.Opens && !strange:
		if !t.opts.DryRun {
			if err := o.writeProof(decide.Decision{Action: decide.Pass, Key: live}); err != nil { // it is known by that
				return fmt.Errorf("%w: %w", ErrNotRotated, err)
			}
		}
		return nil
	case p.Verdict == rows.Refuted:
		return notRotated(ErrKeyNotRight, "key %s opens none of %d", live, p.Checked)
	case t.opts.LeaveUnopenable && !known:
		return notRotated(ErrKeyNotRight, "key %s opens %d of %d, and was never proven or accepted here", live, p.Opened, p.Checked)
	case t.opts.LeaveUnopenable && !strange:
		if d := o.decide(ctx); d.Action != decide.Pass {
			return notRotated(ErrKeyNotRight, "%s", d.Reason)
		}
		return nil
	}
	// Before the daemon is stopped for it: which rows stand in the way?
	if _, err := t.tryRewrite(ctx, t.rewriteTo(key.Generate())); err != nil {
		return fmt.Errorf("%w: %w", ErrNotRotated, err)
	}
	return notRotated(ErrKeyNotRight, "key %s opened %d of %d a moment ago, and the rows have changed since", live, p.Opened, p.Checked)
}

// opensOthers tells whether a key of the local quarantine, or a copy, opens rows that are not under
// the present one: no row opens under two keys. What cannot be read or asked here may (law 6).
func (t *rotation) opensOthers(ctx context.Context) (bool, error) {
	t.o.askLocal()
	t.o.awaitAllEscrows(ctx)
	t.o.askRows(ctx)
	if e := t.o.evidence.Rows; e.State == decide.RowsUnknown {
		return false, fmt.Errorf("the rows cannot be asked: %w", e.Err)
	}
	for f, p := range t.o.evidence.Rows.Proofs {
		if f != t.r.Old && p.Opened > 0 {
			return true, nil
		}
	}
	return false, t.o.evidence.Local.Err
}

// checkEscrows makes sure that nothing that happens to this host from now on takes the
// present key away, which all rows are under until the commit.
func (t *rotation) checkEscrows(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, rotateSave)
	defer cancel()
	o := t.o
	o.history()
	untaken := make([]error, len(t.h.Escrows)) // why an escrow that answers takes no further key, which step 8 would find out
	eachEscrow(t.h, func(i int, s Escrow) {
		o.askNewest(ctx, i)
		if r, ok := s.Writer.(escrow.Rehearser); ok && o.evidence.Escrows[i].State == decide.EscrowAnswered {
			untaken[i] = r.Rehearse(ctx)
		}
		if untaken[i] == nil {
			untaken[i] = t.unspared(s)
		}
	})
	o.askHistory() // another process may have saved what was listed
	takes, why := 0, errors.New("no escrow answers")
	if len(t.h.Escrows) == 0 {
		why = ErrNoEscrow
	}
	for i, s := range o.evidence.Escrows {
		newest, there := s.NewestCurrent()
		switch {
		case s.State != decide.EscrowAnswered:
		case untaken[i] == nil && there && newest.Sealed: // as the new one would be
			why = fmt.Errorf("what escrow %q keeps is sealed, and cannot be opened here: %s", s.Name, newest.Unreadable)
		case untaken[i] == nil:
			takes++
		case s.Required:
			return notRotated(ErrNoHome, "the required escrow %q takes no further key: %w", s.Name, untaken[i])
		default:
			why = fmt.Errorf("escrow %q takes no further key: %w", s.Name, untaken[i])
			t.complain(fmt.Sprintf("escrow %q takes no further key", s.Name), untaken[i])
		}
		switch {
		case !s.Required:
		case s.State != decide.EscrowAnswered:
			return notRotated(ErrNotSafe, "the required escrow %q cannot answer: %w", s.Name, s.Err)
		case !there:
			return notRotated(ErrNotSafe, "the required escrow %q holds no current copy", s.Name)
		case decide.Alarm(o.evidence, i) != nil:
			return notRotated(ErrNotSafe, "the required escrow %q: %w", s.Name, decide.Alarm(o.evidence, i))
		case newest.Unreadable != "" && !o.evidence.Holds(i, newest, t.r.Old):
			return notRotated(ErrNotSafe, "copy %s, the newest in the required escrow %q, cannot be read: %s", newest.ID, s.Name, newest.Unreadable)
		case newest.Key != t.r.Old:
			return notRotated(ErrNotSafe, "copy %s, the newest in the required escrow %q, is of key %s", newest.ID, s.Name, orUnknown(newest.Key))
		case newest.Miswritten():
			return notRotated(ErrNotSafe, "copy %s, the newest in the required escrow %q, is the key as %s, not as its 32 bytes", newest.ID, s.Name, newest.Encoding)
		}
		if shared, ok := t.h.Escrows[i].Reader.(escrow.Shared); ok && s.Required && there {
			e := shared.Lacks(escrow.Copy{ID: newest.ID})
			switch {
			case e == nil || e.Safe:
			case shared.Unheard() == nil && errors.Is(shared.Refuses(t.r.Old), escrow.ErrRecut): // no backup makes it safer
				return notRotated(ErrOldCut, "in escrow %q it is %w", s.Name, e)
			default:
				return notRotated(ErrNotSafe, "in escrow %q it is %w", s.Name, e)
			}
		}
	}
	if takes == 0 {
		return notRotated(ErrNoHome, "%w", why)
	}
	return nil
}

// unspared says that an escrow is not safe enough for a new key: one of its stores is lost,
// and the key is. nil where it is, or a person has said that it may be so.
func (t *rotation) unspared(s Escrow) error {
	if p, ok := s.Reader.(escrow.Shared); ok && len(p.Members()) == p.Need() && !t.opts.NeedAll {
		return fmt.Errorf("%w: it needs all %d", ErrNeedAll, p.Need())
	}
	return nil
}

func orUnknown(f key.Fingerprint) string {
	if f == "" {
		return "unknown name"
	}
	return string(f)
}

// run is all that follows step 0.
func (t *rotation) run(ctx context.Context) error {
	k := key.Generate()
	t.r.New = t.o.hold(k)
	if t.opts.DryRun {
		result, err := t.tryRewrite(ctx, t.rewriteTo(k))
		t.r.Rewrite = result
		if err == nil {
			err = unlessAny(result)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotRotated, err)
		}
		return nil
	}
	if err := t.escrow(ctx); err != nil {
		return err
	}
	if err := t.stage(ctx); err != nil {
		return err
	}
	t.opts.Staged(t.r.Old, t.r.New)
	return t.finish(ctx, func(ctx context.Context, err error) error {
		if err == nil {
			err = t.beginCommit(ctx)
		}
		if err != nil {
			return t.callOff(err)
		}
		return t.switchKeys(ctx)
	})
}

// escrow is step 1. A crash after it leaves an unused copy in quarantine.
func (t *rotation) escrow(ctx context.Context) error {
	t.at("saving the new key")
	ctx, cancel := context.WithTimeout(ctx, rotateSave)
	defer cancel()
	unheard := map[int]error{}
	for i, e := range t.o.evidence.Escrows {
		if e.State != decide.EscrowAnswered {
			unheard[i] = e.Err
		}
	}
	t.r.Staged = t.o.keepApart(ctx, t.r.New, "it is new, and no row is under it yet", unheard)
	safe := 0
	for i, s := range t.r.Staged {
		if s.Unverified {
			s.Err = escrow.ErrUnverified
		}
		if s.Err == nil {
			s.Err = t.unspared(t.h.Escrows[i])
		}
		var parts *escrow.PartsError
		switch {
		case s.Err == nil && s.Sealed: // nobody here can tell what is stored there, and another one is to be safe
		case s.Err == nil:
			safe++
		case errors.As(s.Err, &parts) && parts.Safe: // one more store may be lost
			safe++
			t.complain(fmt.Sprintf("escrow %q has not all parts of the new key yet", s.Escrow), s.Err)
		case s.Required:
			return notRotated(ErrNoHome, "the required escrow %q does not hold it: %w", s.Escrow, s.Err)
		case errors.Is(s.Err, ErrNeedAll): // it was told before, and another one is to be safe
		case errors.Is(s.Err, escrow.ErrAddOnly): // it gets the key when that is current
		default:
			t.complain(fmt.Sprintf("escrow %q does not hold the new key yet", s.Escrow), s.Err)
		}
	}
	if safe == 0 {
		return notRotated(ErrNoHome, "no escrow holds it so that it can be read back")
	}
	return nil
}

// stage is step 2. From the first entry on, prestart and watcher know that there are two
// keys, and wait for the lock.
func (t *rotation) stage(ctx context.Context) error {
	t.at("staging it beside the keyfile")
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrNotRotated, err)
	}
	opened := ledger.Entry{Event: ledger.RotationOpen, Old: t.r.Old, Fingerprint: t.r.New, Person: t.opts.Person}
	if err := t.h.Append(opened); err != nil {
		return fmt.Errorf("%w: %w", ErrNotRotated, err)
	}
	if err := busy(t.h.Keyfile.StageNext(t.o.keys[t.r.New])); err != nil {
		return t.callOff(err)
	}
	return nil
}

// beginCommit is the rest of step 3: the daemon is at rest.
func (t *rotation) beginCommit(ctx context.Context) error {
	if err := t.alone(ctx); err != nil {
		return err
	}
	return t.h.Append(ledger.Entry{Event: ledger.CommitBegun, Old: t.r.Old, Fingerprint: t.r.New})
}

// callOff ends a rotation that was not committed: no row is under the new key. What
// of it fails is made good by the next start (R1).
func (t *rotation) callOff(why error) error {
	if err := t.h.Keyfile.KeepNext(t.h.Now()); err != nil {
		t.complain("cannot put the staged key away", err)
	}
	closed := ledger.Entry{Event: ledger.RotationClosed, Old: t.r.Old, Fingerprint: t.r.Old, Reason: "called off before the commit: " + why.Error()}
	if err := t.h.Append(closed); err != nil {
		t.complain("cannot write that the rotation is called off", err)
	}
	return fmt.Errorf("%w: %w", ErrNotRotated, why)
}

// switchKeys is steps 4 to 6, but for the lock. A crash in the middle of it leaves the rows all old or all new,
// and both keys at hand.
func (t *rotation) switchKeys(ctx context.Context) error {
	result, err := t.rewrite(ctx, t.rewriteTo(t.o.keys[t.r.New]))
	t.r.Rewrite = result
	if err == nil {
		// A crash here: R1 tries both keys on the rows.
		if err = t.exchange(); err == nil {
			// And here: the keyfile opens the rows.
			t.r.Rotated = true
			if err := t.h.Append(t.rotated()...); err != nil {
				t.complain("cannot write that the rotation is done; the next start finds out", err)
			}
			return nil
		}
		t.complain("cannot exchange the keys, and the rows are under the new one", err)
	}
	if errors.Is(err, ErrNoRows) {
		return t.callOff(err)
	}
	switch settled, serr := t.settleWhich(ctx); {
	case serr != nil:
		return fmt.Errorf("%w: the rotation stopped in its commit: %w; and then: %w", ErrUnsure, err, serr)
	case settled == decide.SettleNew:
		t.r.Rotated = true
		return nil
	case settled == decide.SettleOld:
		return fmt.Errorf("%w: %w", ErrNotRotated, err)
	}
	return fmt.Errorf("%w: the rotation stopped in its commit, and no row is under either of its keys: %w", ErrUnsure, err)
}

// rotated is what step 6 writes.
func (t *rotation) rotated() []ledger.Entry {
	w := t.r.Rewrite
	dependent := w.Counts.Dependent()
	p := rows.Proof{Fingerprint: t.r.New, Verdict: rows.Opens, Checked: dependent, Opened: dependent - w.Unopenable}
	e := ledger.Entry{Event: ledger.Rotated, Fingerprint: t.r.New, Old: t.r.Old, Person: t.opts.Person,
		Checked: p.Checked, Opened: p.Opened, Total: w.Counts.Total(), Took: w.Elapsed}
	if w.Unopenable > 0 {
		p.Verdict = rows.Partial
		e.Reason = fmt.Sprintf("%s that the old key did not open, left untouched: %s", printable.Count(w.Unopenable, "row"), rowNames(w.Left))
	}
	return []ledger.Entry{e, provenEntry(p)}
}

func rowNames(list []rows.RowName) string {
	var text []string
	for _, n := range list {
		text = append(text, n.String())
	}
	return strings.Join(text, ", ")
}

// rewriteTo is what step 4 does.
func (t *rotation) rewriteTo(target key.Key) rows.RewriteOptions {
	return rows.RewriteOptions{
		Target: target, Keys: []key.Key{t.o.keys[t.r.Old]}, LeaveUnopenable: t.opts.LeaveUnopenable,
		BeforeCommit: func(_ context.Context, w rows.RewriteResult) error {
			if err := unlessAny(w); err != nil {
				return err
			}
			return t.still()
		},
	}
}

// unlessAny is ErrNoRows of a rewrite that brought no row under the new key: nothing would ever have
// opened under it. Whoever loads a dump has emptied the table first.
func unlessAny(w rows.RewriteResult) error {
	if w.Rewritten+w.Rewrapped == 0 {
		return fmt.Errorf("%w: the rows have changed since they were asked", ErrNoRows)
	}
	return nil
}

// still makes sure that what R1 would need is on disk, as the last thing before the
// commit: the entry, and both keys where they belong.
func (t *rotation) still() error {
	standing, err := t.h.Ledger.Standing()
	if err != nil {
		return err
	}
	if r := standing.Rotation; r == nil || r.Old != t.r.Old || r.New != t.r.New || !r.CommitBegun {
		return errors.New("the ledger does not say any more that this rotation is under way")
	}
	seen, err := t.look()
	seen.Key.Wipe()
	seen.Next.Wipe()
	return err
}

// look finds the old key in the keyfile and the new one beside it, or keyfile.ErrChanged.
func (t *rotation) look() (keyfile.Seen, error) {
	seen, err := t.h.Keyfile.Look()
	if err != nil {
		return seen, err
	}
	if seen.Kind != keyfile.Good || seen.Key.Fingerprint() != t.r.Old || seen.Next.Fingerprint() != t.r.New {
		err = fmt.Errorf("%w when the rotation began", keyfile.ErrChanged)
	}
	return seen, err
}

// exchange is step 5.
func (t *rotation) exchange() error {
	t.at("putting the new key in place")
	seen, err := t.look()
	defer seen.Key.Wipe()
	defer seen.Next.Wipe()
	if err != nil {
		return err
	}
	err = busy(t.h.Keyfile.UseNext(seen, t.h.Now()))
	return t.o.unlessMade(err, "the new key is in place")
}
