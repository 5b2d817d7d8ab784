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
	DryRun bool // everything up to the commit, and nothing that lasts
	// LeaveUnopenable leaves rows that no key opens as they are, and names them. Otherwise
	// they stop the repair.
	LeaveUnopenable bool
	Person          string // who asked, for the ledger
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
//	4  all rows in one transaction, as a rotation does it
//	5  ledger "repaired"; the lock is released
//	6  the daemon is started
//	7  the target is on the current shelves, and proven
//
// It may be interrupted anywhere: from step 3 on the keyfile's key is the one that a start
// would choose, before the commit and after it. ctx ends it up to step 2.
//
// ErrBusy: another one is at work. ErrNotRepaired: nothing is changed, or no row is, and
// the error says why. ErrUnsure: it stopped in its commit; the rows are as they were or
// repaired, and to repair again finds out. ErrNotStarted: repaired, but the daemon is down.
func Repair(ctx context.Context, h *Host, opts RepairOptions) (RepairResult, error) {
	return repair(ctx, h, opts, (*mend).run)
}

// CheckRepair makes the tally, and says what Repair would do.
func CheckRepair(ctx context.Context, h *Host, opts RepairOptions) (RepairResult, error) {
	return repair(ctx, h, opts, func(*mend, context.Context) error { return nil })
}

func repair(ctx context.Context, h *Host, opts RepairOptions, then func(*mend, context.Context) error) (RepairResult, error) {
	m := &mend{opts: opts}
	m.job = job{h: h, progress: opts.Progress, work: &m.r.Work}
	err := m.locked(ctx, m.tally, func(ctx context.Context) error {
		if !m.r.HasWork {
			return nil
		}
		return then(m, ctx)
	})
	return m.r, err
}

// mend is one run of Repair.
type mend struct {
	job
	opts RepairOptions
	r    RepairResult
}

// notRepaired says why nothing was changed.
func notRepaired(why error) error { return fmt.Errorf("%w: %w", ErrNotRepaired, why) }

// tally is step 0. What a rotation left open is not for this: two keys are one start away
// from being one.
func (m *mend) tally(ctx context.Context) (err error) {
	m.at("trying every key on every row")
	if m.o, err = m.h.observe(); err != nil {
		return err
	}
	o := m.o
	if open := o.halfway(); open != nil {
		return notRepaired(open)
	}
	o.askLocal()
	o.awaitAllEscrows(ctx)
	m.r.Escrows = o.evidence.Escrows
	table, err := m.h.OpenRows(ctx, rows.Options{Full: true})
	if err != nil {
		return notRepaired(fmt.Errorf("the rows cannot be asked: %w", err))
	}
	o.table = table
	o.askRows(ctx)
	m.r.Rows = o.evidence.Rows
	switch o.evidence.Rows.State {
	case decide.RowsUnknown:
		return notRepaired(fmt.Errorf("the rows cannot be asked: %w", o.evidence.Rows.Err))
	case decide.RowsSilent:
		return nil
	}
	m.share(o.decide(ctx))
	if m.r.Unopened > 0 && (m.r.Target == "" || m.r.Target != o.evidence.Ledger.Known) {
		for _, s := range m.r.Escrows {
			if s.State != decide.EscrowAnswered { // law 6
				return notRepaired(fmt.Errorf("the key that opens the most rows may be in escrow %q: %w", s.Name, s.Err))
			}
		}
	}
	switch {
	case len(m.r.Tally) == 0:
		return fmt.Errorf("%w: %w (%d tried)", ErrNotRepaired, ErrNoUsableCopy, len(o.keys))
	case o.answer.Counts.Unknown > 0, m.r.Unopened > 0 && !(m.opts.LeaveUnopenable && m.r.HasWork):
		// Which rows are they? And that before the daemon is stopped.
		result, err := m.tryRewrite(ctx, m.rewriteAll())
		m.r.Rewrite = result
		if err != nil {
			return notRepaired(err)
		}
	}
	return nil
}

// share sorts the keys by what they open. The target is the one that the daemon would
// start with; where that cannot be told, the one that opens the most rows.
func (m *mend) share(d decide.Decision) {
	o := m.o
	found := map[key.Fingerprint]*Share{}
	see := func(f key.Fingerprint, from string) {
		p := o.evidence.Rows.Proofs[f]
		if f == "" || p.Opened == 0 {
			return
		}
		if found[f] == nil {
			found[f] = &Share{Key: f, Rows: p.Opened, From: from, Escrowed: m.escrowed(f)}
		}
	}
	live := o.evidence.Keyfile
	if live.Good {
		see(live.Key, FromKeyfile)
	}
	for _, c := range o.candidates() {
		see(c.Key, c.Source)
	}
	m.r.Unopened = o.evidence.Rows.Dependent
	for _, s := range found {
		m.r.Tally = append(m.r.Tally, *s)
		m.r.Unopened -= s.Rows
	}
	slices.SortFunc(m.r.Tally, func(a, b Share) int {
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
		m.r.Target = d.Key
	case len(m.r.Tally) > 0:
		m.r.Target = m.r.Tally[0].Key
	}
	for _, s := range m.r.Tally {
		m.r.HasWork = m.r.HasWork || s.Key != m.r.Target
	}
	if !live.Good || live.Key != m.r.Target {
		m.r.HasWork, m.r.Replaced = true, live.Key
	}
}

// run is all that follows step 0.
func (m *mend) run(ctx context.Context) error {
	if err := m.may(ctx); err != nil {
		return notRepaired(err)
	}
	if err := m.rehearse(); err != nil {
		return notRepaired(err)
	}
	if m.opts.DryRun {
		result, err := m.tryRewrite(ctx, m.rewriteAll())
		m.r.Rewrite = result
		if err != nil {
			return notRepaired(err)
		}
		return nil
	}
	if err := m.escrow(ctx); err != nil {
		return notRepaired(err)
	}
	// The daemon that minted it, or whoever put it there, may not have synced it (law 5).
	if live := m.o.evidence.Keyfile; live.Good && live.Key == m.r.Target {
		if err := m.h.Keyfile.Keep(m.o.keys[live.Key], m.h.Now()); err != nil {
			return notRepaired(fmt.Errorf("%w: %w", ErrCannotEnd, err))
		}
	}
	if err := ctx.Err(); err != nil {
		return notRepaired(err)
	}
	return m.whileDown(ctx, func(ctx context.Context, err error) error {
		if err != nil {
			return notRepaired(err)
		}
		return m.commit(ctx)
	})
}

// escrow is step 1: no key that opens a row is on this host alone, as old dumps will need
// it when no row does any more. It goes to quarantine, from where the target rises when it
// opens all rows.
func (m *mend) escrow(ctx context.Context) error {
	m.at("saving the keys")
	ctx, cancel := context.WithTimeout(ctx, rotateSave)
	defer cancel()
	for _, s := range append(slices.Clone(m.r.Tally), Share{Key: m.r.Target, Escrowed: m.escrowed(m.r.Target)}) {
		if s.Escrowed || slices.ContainsFunc(m.r.Staged, func(r SaveResult) bool { return r.Key == s.Key }) {
			continue
		}
		safe, why := false, error(ErrNoEscrow)
		for _, r := range m.o.keepApart(ctx, s.Key, "it does not open all rows", func(int) error { return nil }) {
			m.r.Staged = append(m.r.Staged, r)
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
func (m *mend) escrowed(f key.Fingerprint) bool {
	for _, e := range m.o.evidence.Escrows {
		for _, c := range e.Copies {
			if c.Key == f && c.Have {
				return true
			}
		}
	}
	return false
}

// commit is steps 2 to 5: the daemon is at rest.
func (m *mend) commit(ctx context.Context) error {
	err := m.alone(ctx)
	if err != nil {
		return notRepaired(err)
	}
	if live := m.o.evidence.Keyfile; !live.Good || live.Key != m.r.Target {
		m.at("putting the key in place")
		if err := m.o.install(m.r.Target, m.opts.Person+" asked for a repair, and it opens the most rows"); err != nil {
			return notRepaired(fmt.Errorf("cannot install key %s: %w", m.r.Target, err))
		}
		m.r.Installed = true
	}
	// A crash here: the keyfile's key opens the most rows, or is known.
	m.r.Rewrite, err = m.rewrite(ctx, m.rewriteAll())
	if errors.Is(err, rows.ErrUnanswered) {
		err = m.rewriteAgain(ctx, err)
	}
	if err != nil {
		if errors.Is(err, rows.ErrUnanswered) {
			return fmt.Errorf("%w: the repair stopped in its commit: %w", ErrUnsure, err)
		}
		return notRepaired(err)
	}
	// And here: it opens them all.
	m.r.Repaired = true
	if err := m.h.Ledger.Append(m.repaired()...); err != nil {
		m.complain("cannot write that the rows are repaired", err)
	}
	return nil
}

// rewriteAgain repeats a rewrite whose commit was not answered, until one is: what the first has
// committed the next finds under the target.
func (m *mend) rewriteAgain(ctx context.Context, unanswered error) error {
	m.at("asking the rows whether it is done")
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	for {
		_, err := m.rewrite(ctx, m.rewriteAll())
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
func (m *mend) repaired() []ledger.Entry {
	w := m.r.Rewrite
	dependent := w.Counts.Dependent()
	p := rows.Proof{Fingerprint: m.r.Target, Verdict: rows.Opens, Checked: dependent, Opened: dependent - w.Unopenable}
	var was []string
	for _, s := range m.r.Tally {
		was = append(was, fmt.Sprintf("%s under key %s", printable.Count(s.Rows, "row"), s.Key))
	}
	reason := "before: " + strings.Join(was, ", ")
	if w.Unopenable > 0 {
		p.Verdict = rows.Partial
		reason += fmt.Sprintf("; %s that no key opens, left untouched: %s", printable.Count(w.Unopenable, "row"), rowNames(w.Left))
	}
	return []ledger.Entry{{Event: ledger.Repaired, Fingerprint: m.r.Target, Old: m.r.Replaced, Person: m.opts.Person,
		Checked: p.Checked, Opened: p.Opened, Total: w.Counts.Total(), Took: w.Elapsed, Reason: reason}, provenEntry(p)}
}

// rewriteAll is what step 4 does.
func (m *mend) rewriteAll() rows.RewriteOptions {
	var keys []key.Key
	for _, s := range m.r.Tally {
		keys = append(keys, m.o.keys[s.Key])
	}
	return rows.RewriteOptions{Target: m.o.keys[m.r.Target], Keys: keys, LeaveUnopenable: m.opts.LeaveUnopenable}
}
