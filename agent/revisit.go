package agent

import (
	"context"
	"errors"
	"slices"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// Revisit lists an escrow where nothing is due, which the watcher does every hour, so that a store
// that is gone, or credentials that are no longer taken, show before the weekly drill. It also renews what
// the store lets it renew (escrow.Renewer), and saves the keyfile's key again, by law 4, where
// the store will delete that copy soon or has it no longer. The results are of those saves, and
// an error of theirs is a *SaveAgainError.
func Revisit(ctx context.Context, h *Host, name string) ([]SaveResult, error) {
	return savingAll(func() ([]SaveResult, error) { return revisit(ctx, h, name) })
}

func revisit(ctx context.Context, h *Host, name string) ([]SaveResult, error) {
	i, err := h.escrowNamed(name)
	if err != nil {
		return nil, err
	}
	s := h.Escrows[i]
	if s.AddOnly || h.standsThere(ctx, s) {
		return nil, nil
	}
	o, err := h.observe()
	if err != nil {
		return nil, err
	}
	defer o.close()
	before := o.due(name) // reads the history: what is saved after the listing counts
	copies, err := s.List(ctx)
	if errors.Is(err, escrow.ErrNoPlace) && !s.Required {
		return nil, nil // a stick in a safe
	}
	listed := err
	if err != nil && !errors.Is(err, escrow.ErrPerhaps) {
		return nil, err
	}
	if r, ok := s.Writer.(escrow.Renewer); ok {
		err = r.Renew(ctx)
	}
	o.newestOf(ctx, i, copies, listed)
	due := slices.DeleteFunc(decide.Due(o.evidence, name), func(f key.Fingerprint) bool {
		return slices.Contains(before, f) // SaveDue's
	})
	live := o.evidence.Keyfile.Key
	if !slices.Contains(due, live) && o.wantsAgain(i, copies) {
		due = append(due, live)
	}
	if len(due) == 0 {
		return nil, err
	}
	o.askRows(ctx)
	saved, serr := o.bringAll(ctx, i, due)
	if serr != nil {
		serr = &SaveAgainError{serr}
	}
	return saved, errors.Join(err, serr)
}

// SaveAgainError is that a look has found what is to be saved there again, and could not save it.
type SaveAgainError struct{ Err error }

func (e *SaveAgainError) Error() string { return e.Err.Error() }
func (e *SaveAgainError) Unwrap() error { return e.Err }

// wantsAgain tells whether the keyfile's key, which was saved in an escrow as the last one, is
// to be saved there again. It is where these copies, which stand there now, show that it is no
// longer the newest current one, or is there as somebody else's; that it lacks a part; or that
// the store will delete it soon.
func (o *observation) wantsAgain(i int, copies []escrow.Copy) bool {
	live, s := o.evidence.Keyfile, o.evidence.Escrows[i]
	saved := o.evidence.History.Saved[s.Name]
	newest := decide.CopyEvidence{}
	if s.State == decide.EscrowAnswered {
		newest, _ = s.NewestCurrent()
	}
	holds := o.evidence.Holds(i, newest, live.Key) || newest.Sealed && live.Good && saved.Copies[newest.ID] == live.Key && saved.Is(newest)
	switch {
	case !live.Good, saved.Last.Key != live.Key: // what was never saved there is SaveDue's
		return false
	case holds && decide.Alarm(o.evidence, i) == nil:
		ends := len(copies) > 0 && copies[0].Shelf == escrow.Current && copies[0].Ending(o.host.Now())
		return ends || partLost(o.host.Escrows[i], copies) || !o.namesTops(s.Name, newest.Key, newest.Tops) // a save finds it there, and the ledger is told
	}
	return holds || saved.Last.Verified // else it may not be read
}

// partLost tells whether the newest of these copies lacks a part that a save may bring. A
// stick in a safe, which is no longer waited for, is none.
func partLost(s Escrow, copies []escrow.Copy) bool {
	shared, ok := s.Writer.(escrow.Shared)
	if !ok || len(copies) == 0 {
		return false
	}
	lacks := shared.Lacks(copies[0])
	return lacks != nil && !(lacks.Safe && !slices.ContainsFunc(lacks.Errors, func(err error) bool { return !errors.Is(err, escrow.ErrNoPlace) }))
}

// standsThere tells whether the newest current copy of a store that gives it without a
// listing is the one that this host saved there last, and holds the keyfile's key: then
// there is nothing to see in a listing, for which ten thousand hosts of one project have a
// quota that is a hundred times smaller.
func (h *Host) standsThere(ctx context.Context, s Escrow) bool {
	l, ok := s.Reader.(escrow.Latest)
	_, parts := s.Writer.(escrow.Shared) // as many parts as are needed tell nothing of the others
	_, ends := s.Writer.(escrow.Renewer) // only a listing tells which of its copies end
	if !ok || parts || ends {
		return false
	}
	o, err := h.observe()
	if err != nil {
		return false
	}
	defer o.close()
	o.history()
	last := o.evidence.History.Saved[s.Name()].Last
	if !o.evidence.Keyfile.Good || last.ID == "" || last.Key != o.evidence.Keyfile.Key {
		return false
	}
	c, k, encoding, err := l.FetchLatest(ctx)
	defer k.Wipe()
	return err == nil && c.ID == last.ID && encoding == key.Raw && k.Fingerprint() == last.Key
}
