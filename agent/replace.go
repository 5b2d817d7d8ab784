package agent

import (
	"context"
	"fmt"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// replacement is what a person wants in the keyfile's place.
type replacement struct {
	offered []Candidate
	// named: the person named an escrow or brought a key, and a keyfile that no row speaks
	// for gives way.
	named bool
	// best: the best that is offered is taken, and not what a start of the daemon would take.
	best   bool
	dryRun bool
	// vouch says what makes the key known, or why it may not be installed.
	vouch func(Candidate) (ledger.Entry, error)
	entry ledger.Entry // of the ledger, but for which key it is
}

// replace installs a key that is offered, unless it is the keyfile's own.
func (o *observation) replace(ctx context.Context, w replacement) (RestoreResult, error) {
	r := RestoreResult{Rows: o.evidence.Rows, Tried: w.offered, Escrows: o.evidence.Escrows, Replaced: o.evidence.Keyfile.Key}
	defer func() { r.Trouble = o.trouble }()
	choose := o.chooseDecided
	if w.best {
		choose = o.chooseBest
	}
	best, err := choose(ctx, &r, w)
	if err != nil {
		return r, err
	}
	r.Key, r.Source = best.Key, best.Source
	if o.evidence.Keyfile.Good && o.evidence.Keyfile.Key == best.Key {
		r.Source = FromKeyfile
		return r, nil
	}
	if err := o.unsettled(best); err != nil {
		return r, err
	}
	word, err := w.vouch(best)
	if err != nil {
		return r, err
	}
	if w.dryRun {
		if path := o.host.Keyfile.Immutable(); path != "" {
			return r, fmt.Errorf("cannot install key %s: %s is %w", best.Key, path, keyfile.ErrImmutable)
		}
		return r, nil
	}
	l, err := lock.Try(o.host.StateDir, lock.Rotate)
	if err != nil {
		return r, busy(err)
	}
	defer l.Release()
	if o.evidence.Rows.State == decide.RowsSilent {
		if err := o.stillSilent(ctx); err != nil {
			return r, err
		}
	}
	if word.Event != "" {
		if err := o.writeWord(word); err != nil {
			return r, err
		}
	}
	if err := o.install(best.Key, w.entry.Person+" asked for it, from "+best.Source); err != nil {
		return r, fmt.Errorf("cannot install key %s: %w", best.Key, err)
	}
	r.Installed = true
	r.Daemon = o.askedDaemon(ctx)
	w.entry.Fingerprint, w.entry.Escrow, w.entry.Copy, w.entry.Shelf = best.Key, best.Escrow, best.Copy, string(best.Shelf)
	o.write(w.entry)
	return r, nil
}

// chooseDecided takes what a start of the daemon would take.
func (o *observation) chooseDecided(ctx context.Context, r *RestoreResult, w replacement) (Candidate, error) {
	d := o.decide(ctx)
	r.Warning = d.Warning
	own := o.live()
	switch d.Action {
	case decide.Pass:
		return own, nil
	case decide.Install:
		for _, c := range w.offered {
			if c.Key == d.Key && c.Unreadable == "" {
				return c, nil
			}
		}
		return Candidate{Source: "the staged key of a rotation", Key: d.Key, Proof: o.evidence.Rows.Proofs[d.Key]}, nil
	case decide.Doubt:
		// Is there anything to be unsure of?
		for _, c := range append(w.offered, own) {
			if _, have := o.keys[c.Key]; have && (o.evidence.Rows.State != decide.RowsAnswer || c.Proof.Opened > 0) {
				return own, fmt.Errorf("%w: %s", ErrUnsure, d.Reason)
			}
		}
	}
	return own, o.unusable("(%d tried): %s", len(w.offered), d.Reason)
}

// live is the keyfile's own key as a candidate.
func (o *observation) live() Candidate {
	f := o.evidence.Keyfile.Key
	return Candidate{Source: FromKeyfile, Key: f, Proof: o.evidence.Rows.Proofs[f]}
}

// chooseBest takes the best of what a person named, or of what another database needs, unless
// the keyfile's own key is as good.
func (o *observation) chooseBest(_ context.Context, r *RestoreResult, w replacement) (Candidate, error) {
	own := o.live()
	good := o.evidence.Keyfile.Good
	var readable []Candidate
	for _, c := range w.offered {
		if _, ok := o.keys[c.Key]; ok && c.Unreadable == "" {
			readable = append(readable, c)
		}
	}
	if w.named && len(readable) == 0 {
		return own, o.unusable("among the %d that were named", len(w.offered))
	}
	switch o.evidence.Rows.State {
	case decide.RowsAnswer:
		return o.opensMost(r, w, readable)
	case decide.RowsSilent:
		if good && !w.named {
			return own, nil
		}
	default:
		known := o.evidence.Ledger.Known
		if good && !w.named {
			if own.Key == known {
				return own, nil
			}
			return own, fmt.Errorf("%w: the rows cannot be asked: %s", ErrUnsure, o.evidence.Rows.Why)
		}
		if known != "" {
			for _, c := range readable {
				if c.Key == known {
					return c, nil
				}
			}
		}
		if len(readable) > 0 && (good || known != "" || !w.named) {
			return own, fmt.Errorf("%w: the rows cannot be asked: %s", ErrUnsure, o.evidence.Rows.Why)
		}
		r.Warning = "the key could not be tried on the rows: " + o.evidence.Rows.Why
	}
	if len(readable) == 0 {
		return own, o.unusable("(%d tried)", len(w.offered))
	}
	if known := o.evidence.Ledger.Known; known != "" && !w.named {
		for _, c := range readable {
			if c.Key == known {
				return c, nil
			}
		}
	}
	return readable[0], nil
}

// opensMost is chooseBest where the rows answer.
func (o *observation) opensMost(r *RestoreResult, w replacement, readable []Candidate) (Candidate, error) {
	own, good := o.live(), o.evidence.Keyfile.Good
	var best Candidate
	for _, c := range readable {
		if c.Proof.Opened > best.Proof.Opened {
			best = c
		}
	}
	switch {
	case good && own.Proof.Opened > 0 && own.Proof.Opened >= best.Proof.Opened && !w.named:
		return own, nil
	case good && own.Proof.Opened > best.Proof.Opened:
		return own, fmt.Errorf("%w: key %s in the keyfile opens %v, the best of the others %d",
			ErrRefused, own.Key, own.Proof, best.Proof.Opened)
	case best.Proof.Opened == 0:
		return own, o.unusable("(%d tried): none opens a row", len(w.offered))
	case best.Proof.Verdict == rows.Partial:
		r.Warning = fmt.Sprintf("key %s opens only %v", best.Key, best.Proof)
	}
	return best, nil
}

// unsettled says why a key may not go in while a rotation stands open, which stopped
// halfway: a start would not take it. nil where none is, or the rows speak for it.
func (o *observation) unsettled(c Candidate) error {
	open := o.halfway()
	if open == nil || decide.Majority(c.Proof) {
		return nil
	}
	switch d := decide.Keyfile(o.evidence); {
	case d.Key == c.Key:
		return nil
	case d.Key != "":
		return fmt.Errorf("%w: %w: key %s belongs there, since %s", ErrRefused, open, d.Key, d.Reason)
	}
	return fmt.Errorf("%w: %w, and the rows do not say which of its keys holds: %s", ErrUnsure, open, o.evidence.Rows.Why)
}

// unusable is the error of no copy to install. Where somebody does not answer there may be
// one (law 6).
func (o *observation) unusable(format string, args ...any) error {
	if why := o.evidence.Local.Unreadable; why != "" {
		return fmt.Errorf("%w: the local quarantine cannot be read: %s", ErrUnheard, why)
	}
	for _, s := range o.evidence.Escrows {
		if s.State == decide.EscrowFailed {
			return fmt.Errorf("%w: escrow %q cannot answer: %w", ErrUnheard, s.Name, s.Err)
		}
	}
	return fmt.Errorf("%w %s", ErrNoUsableCopy, fmt.Sprintf(format, args...))
}
