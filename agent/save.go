package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// Due lists the keys on this host that one escrow does not hold, by the ledger: the
// keyfile's key first, unless it is the last that was saved as current there, then
// what lies in the local quarantine. It asks nobody, so that what is due survives
// every restart.
func Due(h *Host, escrow string) ([]key.Fingerprint, error) {
	o, err := h.observe()
	if err != nil {
		return nil, err
	}
	defer o.close()
	return o.due(escrow), nil
}

func (o *observation) due(name string) []key.Fingerprint {
	o.askLocal()
	record := o.history()
	var list []key.Fingerprint
	live := o.evidence.Keyfile.Key
	if o.evidence.Keyfile.Good {
		last, ok := record.LastSaved(name)
		current := ok && last.Fingerprint == live && last.Reason == ""
		// A key in quarantine stays there until the rows prove it.
		proven := o.evidence.Ledger.Known == live && !o.evidence.Ledger.Accepted
		if !current && (proven || !record.HoldsKey(name, live)) {
			list = append(list, live)
		}
	}
	for _, f := range o.evidence.Local.Keys {
		if f != live && !record.HoldsKey(name, f) {
			list = append(list, f)
		}
	}
	return list
}

// SaveDue brings to one escrow what is due there (Due), each key to the shelf that law
// 4 allows, and reads it back. Other escrows are asked only where the rows prove
// nothing, since then their current shelves have a say; none of them can delay a key
// that is proven. The results are of what was saved; the error, of the first that was
// not.
func SaveDue(ctx context.Context, h *Host, name string) ([]SaveResult, error) {
	i, err := h.escrow(name)
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
	o.fetchNewest(ctx, i)
	if s := o.evidence.Escrows[i]; s.State == EscrowFailed && !errors.Is(s.Err, escrow.ErrDenied) {
		return nil, s.Err
	}
	var saved []SaveResult
	for _, f := range due {
		v := verdictOf(o.evidence.Rows, f)
		if v != rows.Opens {
			for j := range h.Escrows {
				if j != i {
					o.fetchNewest(ctx, j)
				}
			}
		}
		r := SaveResult{Escrow: name, Required: h.Escrows[i].Required, Key: f}
		r.Shelf, r.Why = o.shelf(i, f, v)
		if f != o.evidence.Keyfile.Key && v != rows.Opens {
			r.Shelf, r.Why = escrow.Quarantine, "it is not the keyfile's key"
		}
		if last, ok := o.record.LastSaved(name); ok && last.Fingerprint == f && last.Reason != "" {
			// It is there, unverified: another Save could not compare, and would add it again.
			o.verify(ctx, i, last, &r)
		} else {
			o.put(ctx, i, &r)
		}
		if r.Err != nil {
			return saved, fmt.Errorf("key %s: %w", f, r.Err)
		}
		o.writeSaved(r)
		saved = append(saved, r)
	}
	return saved, nil
}

// verify reads back a copy that could not be read when it was saved.
func (o *observation) verify(ctx context.Context, i int, last ledger.Entry, r *SaveResult) {
	r.Shelf, r.Copy = escrow.Current, escrow.Copy{Escrow: last.Escrow, ID: last.Copy, Shelf: escrow.Current, Fingerprint: last.Fingerprint}
	k, _, err := o.host.Escrows[i].Fetch(ctx, r.Copy)
	defer k.Wipe()
	switch {
	case errors.Is(err, escrow.ErrDenied):
		r.Unverified = true
	case err != nil:
		r.Err = err
	case !k.Equal(o.keys[r.Key]):
		r.Err = fmt.Errorf("copy %s: %w: it is key %s", last.Copy, escrow.ErrCorrupt, k.Fingerprint())
	default:
		last.Reason, last.Time, last.Event = "", time.Time{}, ledger.Saved
		o.write(last)
	}
}

// escrow finds an escrow by its name.
func (h *Host) escrow(name string) (int, error) {
	for i, s := range h.Escrows {
		if s.Name() == name {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%w: %q", ErrNoEscrowNamed, name)
}

// fetchNewest lists an escrow, once, and makes sure of the fingerprint of its newest
// current copy, which is all that law 4 has to know.
func (o *observation) fetchNewest(ctx context.Context, i int) {
	e := &o.evidence.Escrows[i]
	if e.State != EscrowPending {
		return
	}
	s := o.host.Escrows[i]
	copies, err := s.List(ctx)
	if err != nil {
		e.State, e.Why, e.Err = EscrowFailed, err.Error(), err
		return
	}
	e.State = EscrowAnswered
	for _, c := range copies {
		found := CopyEvidence{ID: c.ID, Shelf: c.Shelf, Key: c.Fingerprint, Unreadable: c.Unreadable}
		_, there := e.newestCurrent()
		if c.Shelf == escrow.Current && !there && c.Unreadable == "" {
			k, _, err := s.Fetch(ctx, c)
			switch {
			case err == nil:
				found.Key = k.Fingerprint()
				k.Wipe()
			case errors.Is(err, escrow.ErrNotKey):
				found.Worthless, found.Unreadable = true, err.Error()
			default:
				found.Unreadable = err.Error()
			}
		}
		e.Copies = append(e.Copies, found)
	}
}
