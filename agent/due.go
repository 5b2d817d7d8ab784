package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// Due lists the keys on this host that one escrow does not hold (decide.Due). It asks
// nobody, so that what is due survives every restart.
func Due(h *Host, escrow string) ([]key.Fingerprint, error) {
	o, err := h.observe()
	if err != nil {
		return nil, err
	}
	defer o.close()
	return o.due(escrow), nil
}

func (o *observation) due(name string) []key.Fingerprint {
	if !o.evidence.Local.Asked {
		o.askLocal()
	}
	o.history()
	due := decide.Due(o.evidence, name)
	if i, err := o.host.escrowNamed(name); err == nil && o.host.Escrows[i].AddOnly {
		// It is due to be read back, which nobody here ever does.
		last := o.evidence.History.Saved[name].Last
		due = slices.DeleteFunc(due, func(f key.Fingerprint) bool { return last.ID != "" && last.Key == f })
	}
	return due
}

// SaveDue brings to one escrow what is due there (Due), each key to the shelf that law
// 4 allows, and reads it back. Other escrows are asked only where the rows prove
// nothing, since then their current shelves have a say, and not for long: no escrow
// waits for another. The results are of what was saved; the error, of the first that
// was not. One key that fails does not keep the others from being saved.
func SaveDue(ctx context.Context, h *Host, name string) ([]SaveResult, error) {
	return savingAll(func() ([]SaveResult, error) { return saveDue(ctx, h, name) })
}

// savingAll is whileChanging for saves, of which all are told of: what was saved before things had
// changed stands there.
func savingAll(save func() ([]SaveResult, error)) (all []SaveResult, err error) {
	return whileChanging(func() ([]SaveResult, error) {
		saved, err := save()
		all = append(all, saved...)
		return all, err
	})
}

func saveDue(ctx context.Context, h *Host, name string) ([]SaveResult, error) {
	i, err := h.escrowNamed(name)
	if err != nil {
		return nil, err
	}
	o, err := h.observe()
	if err != nil {
		return nil, err
	}
	defer o.close()
	due := o.due(name)
	if len(due) == 0 {
		return nil, nil
	}
	o.askRows(ctx)
	o.askNewest(ctx, i)
	if s := o.evidence.Escrows[i]; s.State == decide.EscrowFailed && !errors.Is(s.Err, escrow.ErrDenied) && !errors.Is(s.Err, escrow.ErrPerhaps) {
		return nil, s.Err
	}
	o.askHistory()                         // another process, a rotation's, has told the ledger of its save before it saved
	return o.bringAll(ctx, i, o.due(name)) // what is not there any more is due, too
}

// bringAll is SaveDue of keys that are due.
func (o *observation) bringAll(ctx context.Context, i int, due []key.Fingerprint) (saved []SaveResult, err error) {
	for n, f := range due {
		if n > 0 { // what the save before has changed there counts (law 4)
			o.askNewestAgain(ctx, i)
			o.askHistory()
		}
		r := o.bring(ctx, i, f)
		if r.Err != nil {
			if err == nil {
				err = fmt.Errorf("key %s: %w", f, r.Err)
			}
			if lookAgain(r.Err) || errors.Is(r.Err, escrow.ErrUnreachable) || errors.Is(r.Err, escrow.ErrTimeout) || errors.Is(r.Err, escrow.ErrRateLimited) || ctx.Err() != nil {
				break // the others would fail as well
			}
			continue
		}
		saved = append(saved, r)
	}
	if err == nil {
		err = o.stillStands()
	}
	return saved, err
}

// bring saves one key in one escrow by what law 4 says of a key that is due, and records it.
func (o *observation) bring(ctx context.Context, i int, f key.Fingerprint) SaveResult {
	switch o.evidence.Rows.VerdictOf(f) {
	case rows.Silent:
		o.askOthers(ctx, i, o.askShelf)
		o.askShelf(ctx, i)
	case rows.Unknown:
		o.askOthers(ctx, i, o.askNewest)
	}
	// A copy that is there, unverified, is only read again: a Save could not compare, and
	// would add another.
	if c, ok := o.unread(o.host.Escrows[i].Name(), f); ok {
		if r := o.toSave(i, f, decide.DueShelf); o.readBack(ctx, i, c, &r) {
			return r
		}
	}
	return o.save(ctx, i, f, decide.DueShelf)
}

// readBack reads a copy that could not be read when it was saved (unread). It tells whether
// the copy is there, as far as anybody can say.
func (o *observation) readBack(ctx context.Context, i int, c escrow.Copy, r *SaveResult) bool {
	k, _, err := o.host.Escrows[i].Fetch(ctx, c)
	defer k.Wipe()
	switch {
	case errors.Is(err, escrow.ErrDenied):
		r.Unverified = true
	case errors.Is(err, escrow.ErrGone), errors.Is(err, escrow.ErrUnreadable), errors.Is(err, escrow.ErrCorrupt), errors.Is(err, escrow.ErrNotKey):
		return false // it is no copy of the key, and now that it can be read a Save compares
	case err != nil:
		r.Err = err
	case !k.Equal(o.keys[r.Key]):
		return false
	default:
		o.write(ledger.Entry{Event: ledger.Saved, Fingerprint: r.Key, Escrow: c.Escrow, Copy: c.ID, Shelf: string(c.Shelf)})
	}
	// Where the copy is not there, law 4 says where the next one goes.
	r.Shelf, r.Bar, r.Copy = escrow.Current, decide.Bar{}, c
	return true
}

// othersPatience bounds how long a save waits to hear what stands in other escrows.
const othersPatience = 5 * time.Second

// askOthers asks all escrows but one at once. Who does not answer in time may hold
// anything (law 6).
func (o *observation) askOthers(ctx context.Context, but int, ask func(context.Context, int)) {
	ctx, cancel := context.WithTimeout(ctx, othersPatience)
	defer cancel()
	eachEscrow(o.host, func(i int, _ Escrow) {
		if i != but {
			ask(ctx, i)
		}
	})
}

// escrowNamed finds an escrow by its name.
func (h *Host) escrowNamed(name string) (int, error) {
	for i, s := range h.Escrows {
		if s.Name() == name {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%w: %q", ErrNoEscrowNamed, name)
}
