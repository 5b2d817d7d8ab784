package agent

import (
	"cmp"
	"context"
	"errors"
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
)

// ErrNotRepaired says that every row is under the key it was under. The error beside it
// says why.
var ErrNotRepaired = errors.New("not repaired, and every row is as it was")

// RepairOptions are a person's wishes.
type RepairOptions struct {
	DryRun bool // the check and the re-encryption up to its commit: nothing is saved, staged or stopped
	// LeaveUnopenable leaves rows that no key opens as they are, and names them. Otherwise
	// they stop the repair.
	LeaveUnopenable bool
	Person          string // who asked, for the ledger
	// Agreed is the target that a person agreed to after CheckRepair, "" for whichever it is.
	Agreed key.Fingerprint
	// Progress is told what the repair is at, by one goroutine at a time.
	Progress func(RotateProgress)
}

// RepairResult is what was found and done.
type RepairResult struct {
	Target    key.Fingerprint     // the key that all rows are to be under, or are
	Tally     []Share             // of the keys that open a row, the largest first
	Unopened  int64               // dependent rows that none of them opens
	Rows      decide.RowsEvidence // before
	Escrows   []decide.EscrowEvidence
	HasWork   bool            // a row is under another key, or the keyfile holds another
	Staged    []SaveResult    // keys that no escrow had
	Replaced  key.Fingerprint // what the keyfile held, where it did not hold Target
	Installed bool
	Repaired  bool // every dependent row, but those that were left, is under Target
	Work
}

// Share is the part of the dependent rows that is under one key.
type Share struct {
	Key  key.Fingerprint
	Rows int64
	// From is where the key was found: the keyfile, a path in the local quarantine, an escrow.
	From string
	// Escrowed tells whether an escrow gave the key: what it opens can be read without this host.
	Escrowed bool
}

// Repair brings a table that is split between keys under one of them: the one that a start
// of the daemon would choose, and where it could not, the one that opens the most rows. It tries the keyfile, the
// local quarantine and every copy on either shelf of every escrow.
//
//	0  a tally: which key opens how many rows
//	1  each of these keys is in an escrow, read back, and the target is on this disk
//	2  the daemon is stopped, nobody else writes
//	3  the target is the keyfile's key
//	4  all rows in one transaction, as a rotation does it (rows/rewrite.go)
//	5  ledger "repaired"; the lock is released
//	6  the daemon is started
//	7  the target is on the current shelves, and proven
//
// It may be interrupted anywhere: from step 3 on the keyfile's key is the one that a start
// would choose, before the commit and after it. ctx ends it up to step 2.
//
// ErrBusy: another one is at work. ErrNotRepaired: nothing is changed, or no row is, and
// the error says why; ErrChanged, too: a person agreed to another target. ErrUnsure: it
// stopped in its commit; the rows are as they were or repaired, and to repair again finds
// out. ErrNotStarted: repaired, but the daemon is down.
func Repair(ctx context.Context, h *Host, opts RepairOptions) (RepairResult, error) {
	return runRepair(ctx, h, opts, (*repair).run)
}

// CheckRepair makes the tally, and says what Repair would do.
func CheckRepair(ctx context.Context, h *Host, opts RepairOptions) (RepairResult, error) {
	return runRepair(ctx, h, opts, func(*repair, context.Context) error { return nil })
}

func runRepair(ctx context.Context, h *Host, opts RepairOptions, then func(*repair, context.Context) error) (RepairResult, error) {
	t := &repair{opts: opts}
	t.job = job{h: h, progress: opts.Progress, work: &t.r.Work}
	err := t.locked(ctx, t.tally, func(ctx context.Context) error {
		switch agreed := t.opts.Agreed; {
		case agreed != "" && t.r.Target != agreed:
			return notRepaired(fmt.Errorf("%w: the rows would come under key %s now, and not under key %s", ErrChanged, orUnknown(t.r.Target), agreed))
		case !t.r.HasWork:
			return nil
		}
		return then(t, ctx)
	})
	return t.r, err
}

// repair is one run of Repair.
type repair struct {
	job
	opts RepairOptions
	r    RepairResult
}

// notRepaired says why nothing was changed.
func notRepaired(why error) error { return fmt.Errorf("%w: %w", ErrNotRepaired, why) }

// tally is step 0. What a rotation left open is not for this: two keys are one start away
// from being one.
func (t *repair) tally(ctx context.Context) (err error) {
	t.at("trying every key on every row")
	if t.o, err = t.h.observe(); err != nil {
		return err
	}
	o := t.o
	if open := o.halfway(); open != nil {
		return notRepaired(open)
	}
	o.askLocal()
	o.awaitAllEscrows(ctx)
	t.r.Escrows = o.evidence.Escrows
	table, err := t.h.OpenRows(ctx, rows.Options{Full: true})
	if err != nil {
		return notRepaired(fmt.Errorf("the rows cannot be asked: %w", err))
	}
	o.table = table
	o.askRows(ctx)
	t.r.Rows = o.evidence.Rows
	switch o.evidence.Rows.State {
	case decide.RowsUnknown:
		return notRepaired(fmt.Errorf("the rows cannot be asked: %w", o.evidence.Rows.Err))
	case decide.RowsSilent:
		return nil
	}
	t.share(o.decide(ctx))
	if t.r.Unopened > 0 && (t.r.Target == "" || t.r.Target != o.evidence.Ledger.Known) {
		for _, s := range t.r.Escrows {
			if s.State != decide.EscrowAnswered { // law 6
				return notRepaired(fmt.Errorf("the key that opens the most rows may be in escrow %q: %w", s.Name, s.Err))
			}
		}
	}
	switch {
	case len(t.r.Tally) == 0:
		return fmt.Errorf("%w: %w (%d tried)", ErrNotRepaired, ErrNoUsableCopy, len(o.keys))
	case o.answer.Counts.Unknown > 0, t.r.Unopened > 0 && !(t.opts.LeaveUnopenable && t.r.HasWork):
		// Which rows are they? And that before the daemon is stopped.
		result, err := t.tryRewrite(ctx, t.rewriteAll())
		t.r.Rewrite = result
		if err != nil {
			return notRepaired(err)
		}
	}
	return nil
}

// share sorts the keys by what they open. The target is the one that the daemon would
// start with; where that cannot be told, the one that opens the most rows.
func (t *repair) share(d decide.Decision) {
	o := t.o
	found := map[key.Fingerprint]*Share{}
	see := func(f key.Fingerprint, from string) {
		p := o.evidence.Rows.Proofs[f]
		if f == "" || p.Opened == 0 {
			return
		}
		if found[f] == nil {
			found[f] = &Share{Key: f, Rows: p.Opened, From: from, Escrowed: t.escrowed(f)}
		}
	}
	live := o.evidence.Keyfile
	if live.Good {
		see(live.Key, FromKeyfile)
	}
	for _, c := range o.candidates() {
		see(c.Key, c.Source)
	}
	t.r.Unopened = o.evidence.Rows.Dependent
	for _, s := range found {
		t.r.Tally = append(t.r.Tally, *s)
		t.r.Unopened -= s.Rows
	}
	slices.SortFunc(t.r.Tally, func(a, b Share) int {
		own := func(s Share) int { // among equals the keyfile's own is first
			if live.Good && s.Key == live.Key {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.Rows, a.Rows), cmp.Compare(own(a), own(b)), cmp.Compare(a.Key, b.Key))
	})
	switch {
	case d.Action == decide.Pass || d.Action == decide.Install:
		t.r.Target = d.Key
	case len(t.r.Tally) > 0:
		t.r.Target = t.r.Tally[0].Key
	}
	for _, s := range t.r.Tally {
		t.r.HasWork = t.r.HasWork || s.Key != t.r.Target
	}
	if !live.Good || live.Key != t.r.Target {
		t.r.HasWork, t.r.Replaced = true, live.Key
	}
}

// run is all that follows step 0.
func (t *repair) run(ctx context.Context) error {
	if err := t.may(ctx); err != nil {
		return notRepaired(err)
	}
	if err := t.rehearse(); err != nil {
		return notRepaired(err)
	}
	if t.opts.DryRun {
		result, err := t.tryRewrite(ctx, t.rewriteAll())
		t.r.Rewrite = result
		if err != nil {
			return notRepaired(err)
		}
		return nil
	}
	if err := t.escrow(ctx); err != nil {
		return notRepaired(err)
	}
	// The daemon that minted it, or whoever put it there, may not have synced it (law 5).
	if live := t.o.evidence.Keyfile; live.Good && live.Key == t.r.Target {
		if err := t.h.Keyfile.Keep(t.o.keys[live.Key], t.h.Now()); err != nil {
			return notRepaired(cannotEnd(err))
		}
	}
	if err := ctx.Err(); err != nil {
		return notRepaired(err)
	}
	return t.finish(ctx, func(ctx context.Context, err error) error {
		if err != nil {
			return notRepaired(err)
		}
		return t.switchKeys(ctx)
	})
}

// escrow is step 1: no key that opens a row is on this host alone, as old dumps will need
// it when no row does any more. It goes to quarantine, from where the target rises when it
// opens all rows.
func (t *repair) escrow(ctx context.Context) error {
	t.at("saving the keys")
	ctx, cancel := context.WithTimeout(ctx, rotateSave)
	defer cancel()
	for _, s := range append(slices.Clone(t.r.Tally), Share{Key: t.r.Target, Escrowed: t.escrowed(t.r.Target)}) {
		if s.Escrowed || slices.ContainsFunc(t.r.Staged, func(r SaveResult) bool { return r.Key == s.Key }) {
			continue
		}
		safe, why := false, error(ErrNoEscrow)
		for _, r := range t.o.keepApart(ctx, s.Key, "it does not open all rows", nil) {
			t.r.Staged = append(t.r.Staged, r)
			switch {
			case r.Err == nil && !r.Unverified:
				safe = true
			case r.Err != nil:
				why = fmt.Errorf("escrow %q: %w", r.Escrow, r.Err)
			default:
				why = fmt.Errorf("escrow %q: %w", r.Escrow, escrow.ErrUnverified)
			}
		}
		if !safe {
			return fmt.Errorf("no escrow holds key %s so that it can be read back: %w", s.Key, why)
		}
	}
	return nil
}

// escrowed tells whether an escrow gave a key.
func (t *repair) escrowed(f key.Fingerprint) bool {
	for _, e := range t.o.evidence.Escrows {
		for _, c := range e.Copies {
			if c.Key == f && c.Have {
				return true
			}
		}
	}
	return false
}

// switchKeys is steps 2 to 5: the daemon is at rest.
func (t *repair) switchKeys(ctx context.Context) error {
	err := t.alone(ctx)
	if err != nil {
		return notRepaired(err)
	}
	if live := t.o.evidence.Keyfile; !live.Good || live.Key != t.r.Target {
		t.at("putting the key in place")
		if err := t.o.install(t.r.Target, t.opts.Person+" asked for a repair, and it opens the most rows"); err != nil {
			return notRepaired(fmt.Errorf("cannot install key %s: %w", t.r.Target, err))
		}
		t.r.Installed = true
	}
	// A crash here: the keyfile's key opens the most rows, or is known.
	t.r.Rewrite, err = t.rewrite(ctx, t.rewriteAll())
	if errors.Is(err, rows.ErrUnanswered) {
		err = t.rewriteAgain(ctx, err)
	}
	if err != nil {
		if errors.Is(err, rows.ErrUnanswered) {
			return fmt.Errorf("%w: the repair stopped in its commit: %w", ErrUnsure, err)
		}
		return notRepaired(err)
	}
	// And here: it opens them all.
	t.r.Repaired = true
	if err := t.h.Append(t.repaired()...); err != nil {
		t.complain("cannot write that the rows are repaired", err)
	}
	return nil
}

// rewriteAgain repeats a rewrite whose commit was not answered, until one is: what the first has
// committed the next finds under the target.
func (t *repair) rewriteAgain(ctx context.Context, unanswered error) error {
	t.at("asking the rows whether it is done")
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	for {
		_, err := t.rewrite(ctx, t.rewriteAll())
		if err == nil {
			return nil
		}
		select {
		case <-time.After(settleAgain):
		case <-ctx.Done():
			return fmt.Errorf("%w; and then: %w", unanswered, err)
		}
	}
}

// repaired is step 5.
func (t *repair) repaired() []ledger.Entry {
	w := t.r.Rewrite
	dependent := w.Counts.Dependent()
	p := rows.Proof{Fingerprint: t.r.Target, Verdict: rows.Opens, Checked: dependent, Opened: dependent - w.Unopenable}
	var was []string
	for _, s := range t.r.Tally {
		was = append(was, fmt.Sprintf("%s under key %s", printable.Count(s.Rows, "row"), s.Key))
	}
	reason := "before: " + strings.Join(was, ", ")
	if w.Unopenable > 0 {
		p.Verdict = rows.Partial
		reason += fmt.Sprintf("; %s that no key opens, left untouched: %s", printable.Count(w.Unopenable, "row"), rowNames(w.Left))
	}
	return []ledger.Entry{{Event: ledger.Repaired, Fingerprint: t.r.Target, Old: t.r.Replaced, Person: t.opts.Person,
		Checked: p.Checked, Opened: p.Opened, Total: w.Counts.Total(), Took: w.Elapsed, Reason: reason}, provenEntry(p)}
}

// rewriteAll is what step 4 does.
func (t *repair) rewriteAll() rows.RewriteOptions {
	var keys []key.Key
	for _, s := range t.r.Tally {
		keys = append(keys, t.o.keys[s.Key])
	}
	return rows.RewriteOptions{Target: t.o.keys[t.r.Target], Keys: keys, LeaveUnopenable: t.opts.LeaveUnopenable}
}
