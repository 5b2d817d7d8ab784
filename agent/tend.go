package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
)

// TendOptions are what the watcher knows of the moment.
type TendOptions struct {
	// Prove asks the rows even where a fresh proof is on record.
	Prove bool
	// DaemonRead says that the daemon has read its key since it was started: from then on
	// a keyfile of 32 bytes is corrected only with Heal, or to the key that R1 has chosen.
	DaemonRead bool
	Heal       bool
	// Park says that nothing tells that the daemon has read its key yet: a keyfile that is
	// missing, and no key can be put there, becomes an empty one, so that it makes none.
	Park bool
	// Starting says that the daemon was started and may read its key at any moment. Then it
	// is there to need one, also where the keyfile's directory has gone; and one that the rows
	// refute is not left there for it, though nobody can tell which is right.
	Starting bool
}

// TendResult is what was found, decided and done.
type TendResult struct {
	GuardResult
	// Withheld says why what was decided was not done, "" if it was.
	Withheld string
	// Installed is the key that was put into the keyfile's place just now, "" for none.
	Installed key.Fingerprint
	// Waiting: an empty file stands there, on which the daemon cannot mint, and no key yet;
	// or somebody is at work who may leave things half done.
	Waiting bool
}

// Tend looks after the keyfile while the daemon runs. It decides as a start would, puts no key in
// place but the one that was decided, and mostly does less than was:
//
//   - nothing while somebody holds the lock of rotations;
//   - nothing where the keyfile's directory is gone, as when the daemon was uninstalled, unless it
//     runs or was just started;
//   - it makes a first key only where an empty keyfile stands, which keeps the daemon from making one;
//   - with DaemonRead it replaces 32 bytes by another key only if it may heal, or R1 has chosen that key.
//
// It parks with Park where the daemon would make a key, also while rows and escrows have not
// answered, and where nobody can tell whether a rotation is under way; and with Starting where the rows
// refute the key that stands there. When it is called off it does nothing more, and returns
// context.Canceled; a first key that it is saving then it brings to its end.
func Tend(ctx context.Context, h *Host, opts TendOptions) (TendResult, error) {
	return whileChanging(func() (TendResult, error) { return tend(ctx, h, opts) })
}

// underWay is what holds the watcher off while somebody has the rotate lock.
const underWay = "a rotation, a repair or a first start is under way"

func tend(ctx context.Context, h *Host, opts TendOptions) (r TendResult, err error) {
	held, unlocked := lock.Held(h.StateDir, lock.Rotate)
	if held {
		r.Withheld, r.Waiting = underWay, true
		return r, nil
	}
	o, err := h.observe()
	if err != nil {
		return r, err
	}
	defer func() { o.close() }()
	if o.evidence.OpenRotation() != nil && unlocked == nil {
		var l *lock.Lock
		if l, unlocked = lock.Try(h.StateDir, lock.Rotate); errors.Is(busy(unlocked), ErrBusy) {
			r.Withheld, r.Waiting = underWay, true
			return r, nil
		}
		defer l.Release()
		o.close()
		if o, err = h.observe(); err != nil { // what whoever had it left
			return r, err
		}
		o.locked = unlocked == nil
	}
	defer func() { r.Evidence, r.Trouble = o.evidence, o.trouble }()
	if r.Withheld = o.unneeded(ctx, opts); r.Withheld != "" {
		return r, nil
	}
	if unlocked != nil {
		err = o.parkBlind(&r, opts, unlocked)
		return r, err
	}
	o.sweep()
	if opts.Park && o.mintable() {
		o.late = func() { o.parkMeanwhile(&r.GuardResult) }
	}
	if opts.Prove {
		o.askRows(ctx)
	}
	r.Decision = o.decide(ctx)
	if err := ctx.Err(); errors.Is(err, context.Canceled) {
		return r, err // what was not asked any more is no ground to act on
	}
	r.Waiting = o.seen.Empty
	r.Withheld = o.withheld(r.Decision, opts)
	if r.Withheld != "" || r.Decision.Action == decide.Doubt || r.Decision.Action == decide.Lost {
		err = o.leave(&r, opts)
		return r, err
	}
	if r.Decision.Action == decide.Install && !o.locked {
		// A rotation that began since would be undone by a key that was right before it.
		l, err := lock.Try(h.StateDir, lock.Rotate)
		switch {
		case errors.Is(busy(err), ErrBusy):
			r.Withheld = underWay
			return r, nil
		case err != nil:
			err = o.parkBlind(&r, opts, err)
			return r, err
		}
		defer l.Release()
	}
	err = o.carryOut(ctx, &r, opts)
	return r, err
}

// leave does what is to be done where the key that belongs there, if anybody can tell, is not put
// in the keyfile's place.
func (o *observation) leave(r *TendResult, opts TendOptions) (err error) {
	if err = o.writeContradiction(r.Decision); err != nil {
		return err
	}
	if r.Decision.Action == decide.Install {
		if err = o.keepForLater(r.Decision); err != nil {
			return err
		}
	}
	// Before a daemon that was started a first key, too, which the next round makes in its place: the
	// daemon would make one that no escrow has, and rows may come before it does.
	first := r.Decision.Action == decide.Make && opts.Starting
	if opts.Park && (r.Withheld == "" || first) && o.mintable() || opts.Starting && r.Withheld == "" && o.refuted() {
		err = o.putEmpty(&r.GuardResult)
		if r.Waiting = r.Parked; r.Parked && first {
			r.Withheld = "an empty keyfile is in place, and the next look makes the first key"
		}
	}
	if err == nil && r.Decision.Settle != decide.SettleNothing {
		err = o.closeRotation(r.Decision) // who would mend what is left here is refused while it is open
	}
	return err
}

// carryOut does what was decided.
func (o *observation) carryOut(ctx context.Context, r *TendResult, opts TendOptions) error {
	if err := o.act(ctx, &r.GuardResult); err != nil {
		if opts.Park && o.mintable() && errors.Is(err, ErrNotPlaced) {
			perr := o.putEmpty(&r.GuardResult)
			r.Waiting = r.Parked
			err = cmp.Or(perr, err)
		}
		return fmt.Errorf("cannot %s: %w", r.Decision.Action, err)
	}
	r.Done, r.Parked = true, false
	if a := r.Decision.Action; a == decide.Install || a == decide.Make {
		r.Installed, r.Untouched, r.Waiting = r.Decision.Key, o.seen.Changed, false
	}
	return nil
}

// unneeded says why nobody needs a key here, "" where somebody does, or may.
func (o *observation) unneeded(ctx context.Context, opts TendOptions) string {
	if o.seen.Kind != keyfile.Missing || opts.Starting {
		return ""
	}
	dir := filepath.Dir(o.host.Keyfile.Path)
	if err := crew.There(dir); err != nil && !(errors.Is(err, fs.ErrNotExist) && o.takenAway(ctx)) {
		return dir + " is gone, so the daemon is not there to need a key"
	}
	return ""
}

// takenAway tells whether the keyfile's directory, which is gone, was taken away under a daemon
// that runs: its uninstaller stops it first. Where the directory above is gone, too, or empty as
// one is on which nothing is mounted, a key would come to lie on another disk.
func (o *observation) takenAway(ctx context.Context) bool {
	if above, err := crew.ReadDir(filepath.Dir(filepath.Dir(o.host.Keyfile.Path))); err != nil || len(above) == 0 || o.host.Daemon.Running == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, aliveTimeout)
	defer cancel()
	run, err := o.host.Daemon.Running(ctx)
	return err == nil && len(run) > 0
}

// withheld says why a decision is not for the watcher to carry out.
func (o *observation) withheld(d decide.Decision, opts TendOptions) string {
	switch {
	case d.Action == decide.Make && !o.seen.Empty:
		return "the first key is made at the daemon's next start"
	case d.Action == decide.Install && o.evidence.Keyfile.Good && opts.DaemonRead && !opts.Heal && d.Rule != "R1":
		// After a rotation the daemon does not run on the key that it read before.
		return fmt.Sprintf("the keyfile holds key %s, and key %s belongs there: %s; it is left alone, since the daemon has read its key and heal is off",
			o.evidence.Keyfile.Key, d.Key, d.Reason)
	}
	return ""
}

// keepForLater makes sure of the key that belongs in the keyfile's place and is not put
// there now: it is kept here, where the savers find it, and the ledger has its proof. Where a
// rotation is to be closed that makes none known, and the proof is the next look's.
func (o *observation) keepForLater(d decide.Decision) error {
	o.keepKey(d.Key)
	if d.Settle == decide.SettleNothing {
		return o.writeProof(d)
	}
	return nil
}

func (o *observation) keepKey(f key.Fingerprint) {
	if err := o.host.Keyfile.Keep(o.keys[f], o.evidence.Now); err != nil {
		o.complain(fmt.Sprintf("key %s belongs in the keyfile's place and could not be kept", f), err)
	}
}

// writeContradiction records that the rows refuted the known key.
func (o *observation) writeContradiction(d decide.Decision) error {
	if d.Contradicted == "" {
		return nil
	}
	p := o.evidence.Rows.Proofs[d.Contradicted]
	return o.writeWord(ledger.Entry{Event: ledger.Contradicted, Fingerprint: d.Contradicted,
		Verdict: string(p.Verdict), Checked: p.Checked, Opened: p.Opened})
}

// KeepKeyfile copies the key that stands in the keyfile's place into the local
// quarantine, unless it is the one that is named and stands there still, and tells which it is,
// "" for none: somebody has just put it there, and may take it away again before an escrow has it
// (law 3).
func KeepKeyfile(h *Host, already key.Fingerprint) (key.Fingerprint, error) {
	seen, err := h.Keyfile.Look()
	if err != nil {
		return "", err
	}
	defer seen.Key.Wipe()
	defer seen.Next.Wipe()
	f := seen.Key.Fingerprint()
	if f == "" || f == already && h.Keyfile.Keeps(f) {
		return f, nil
	}
	return f, h.Keyfile.Keep(seen.Key, h.Now())
}
