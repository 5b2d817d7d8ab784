package agent

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
)

// This file puts an empty keyfile in place, on which the daemon runs with secrets disabled and
// makes no key (law 2): where nobody can decide which key is right, and while somebody finds out.

// mintable tells whether the daemon would make a key: at the keyfile's place, or where a
// symlink there leads.
func (o *observation) mintable() bool {
	return o.seen.Kind == keyfile.Missing || o.seen.Kind != keyfile.Good && o.seen.Target != ""
}

// park makes the keyfile an empty one, on which the daemon runs without secrets and
// cannot mint, if a watcher lives that will put the key in. It proves that by the
// lock that the watcher holds for life. Where it cannot, the result is not Parked.
func (o *observation) park(r *GuardResult) error {
	alive, err := lock.Held(o.host.StateDir, lock.Watch)
	if err != nil {
		o.complain("cannot tell whether the watcher lives", err)
		return nil
	}
	if !alive {
		return nil
	}
	return o.putEmpty(r)
}

// putEmpty is park where the watcher is known to live.
func (o *observation) putEmpty(r *GuardResult) error {
	if !o.seen.Empty {
		err := busy(o.host.Keyfile.Park(o.seen, o.evidence.Now))
		err = o.unlessMade(err, "the keyfile is parked")
		switch {
		case err == nil:
		case errors.Is(err, ErrBusy), errors.Is(err, keyfile.ErrChanged):
			return err
		default:
			o.complain("the keyfile cannot be parked", err)
			return nil
		}
		o.write(ledger.Entry{Event: ledger.Parked, Old: o.evidence.Keyfile.Key, Untouched: o.seen.Changed, Reason: r.Decision.Reason})
	}
	r.Parked = true
	return nil
}

// parkInstead parks where a key cannot be put in place and none stands there: an empty
// file may need less. why is returned where that cannot be done either.
func (o *observation) parkInstead(r *GuardResult, why error) error {
	if err := o.park(r); err != nil || !r.Parked {
		return cmp.Or(err, why)
	}
	o.complain(fmt.Sprintf("key %s belongs in the keyfile's place", r.Decision.Key), why)
	d := decide.InDoubt("key %s belongs in the keyfile's place and cannot be put there yet", r.Decision.Key)
	d.Rule, d.Needed = r.Decision.Rule, r.Decision.Key
	r.Decision = d
	return nil
}

// parkMeanwhile parks while nobody has decided yet: Postgres or a store may hang for as long as the daemon
// takes to read what is there, and to make a key where nothing is (law 2).
func (o *observation) parkMeanwhile(r *GuardResult) {
	r.Decision = decide.InDoubt("no key is in place, and the rows or the escrows have not answered yet")
	if err := o.putEmpty(r); err != nil || !r.Parked {
		return // who changes it, or keeps it from being changed, is found out by what was decided
	}
	seen, err := o.host.Keyfile.Look()
	if err != nil || !seen.Empty {
		seen.Key.Wipe()
		seen.Next.Wipe()
		return
	}
	seen.Next.Wipe()
	o.seen, o.evidence.Keyfile.Why = seen, seen.Why
}

// parkBlind is Tend where nobody can tell whether a rotation is under way: what was decided is
// not done. An empty file where none stands undoes nobody's work, and without one the daemon
// would make a key (law 2).
func (o *observation) parkBlind(r *TendResult, opts TendOptions, why error) error {
	if opts.Park && o.seen.Kind == keyfile.Missing {
		if err := o.putEmpty(&r.GuardResult); err != nil {
			return err
		}
		r.Waiting = r.Parked
	}
	return fmt.Errorf("cannot tell whether a rotation is under way: %w", why)
}
