package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

const (
	// clientPatience is how long sessions of the daemon may outlive it.
	clientPatience = 5 * time.Second
	clientAgain    = 50 * time.Millisecond
)

// Work is what a rotation and a repair have in common: they bring all rows under one key,
// while the daemon is down.
type Work struct {
	Rewrite  rows.RewriteResult // what became of the rows
	Stopped  []string           // the daemon's units that were stopped
	Downtime time.Duration      // from before the daemon was stopped until it was up again
	Took     time.Duration
	Saved    BackupResult // the key of all rows on the current shelves
	SavedErr error        // why it could not even be tried to save it there; the watcher does
	Trouble  []Trouble
}

// job is one run of it, under the rotate lock.
type job struct {
	h        *Host
	lock     *lock.Lock
	progress func(RotateProgress)
	o        *observation // as things were before; it holds all keys
	work     *Work
}

// locked takes the lock, and does one step after the other until one fails.
func (j *job) locked(ctx context.Context, steps ...func(context.Context) error) (err error) {
	if j.progress == nil {
		j.progress = func(RotateProgress) {}
	}
	if j.lock, err = lock.Try(j.h.StateDir, lock.Rotate); err != nil {
		if err = cannotEnd(err); errors.Is(err, ErrCannotEnd) { // where no lock can be taken nothing can be written down
			return err
		}
		if o, unseen := j.h.observe(); unseen == nil {
			defer o.close()
			if w := o.working(); w != nil {
				err = fmt.Errorf("%w: %s", ErrBusy, w)
			}
		}
		return err
	}
	defer j.lock.Release()
	defer func() { j.o.close() }()
	began := time.Now()
	for _, step := range steps {
		if err = step(ctx); err != nil {
			break
		}
	}
	if j.o != nil {
		j.work.Trouble = append(j.o.trouble, j.work.Trouble...)
	}
	j.work.Took = time.Since(began)
	return err
}

func (j *job) at(step string) { j.progress(RotateProgress{Step: step}) }

func (j *job) complain(what string, err error) {
	j.work.Trouble = append(j.work.Trouble, Trouble{What: what, Err: err})
}

// table is the one that the keys were tried on, with the session that it keeps, until the
// rows have been rewritten.
func (j *job) table(ctx context.Context) (Rows, error) {
	if j.o.table == nil {
		t, err := j.h.OpenRows(ctx, rows.Options{})
		if err != nil {
			return nil, err
		}
		j.o.table = t
	}
	return j.o.table, nil
}

// may makes sure, while the daemon still runs, that the rows can be rewritten: the role has
// the rights for it. It returns rows.ErrMayNot, rows.ErrPooled and rows.ErrNoStandby.
func (j *job) may(ctx context.Context) error {
	table, err := j.table(ctx)
	if err != nil {
		return err
	}
	return table.MayRewrite(ctx)
}

// rehearse does what comes with the rows under another key, as far as that can be taken
// back: the exchange of a keyfile that is there, and an entry of the ledger. It returns
// ErrCannotEnd and ErrBusy.
func (j *job) rehearse() error {
	if j.o.evidence.Keyfile.Good {
		if err := j.h.Keyfile.Rehearse(j.o.seen, j.h.Now()); err != nil {
			return cannotEnd(err)
		}
	}
	if err := j.h.Ledger.Try(); err != nil {
		return cannotEnd(err)
	}
	return nil
}

// cannotEnd is ErrCannotEnd, and ErrBusy where nothing but another process is in the way.
func cannotEnd(err error) error {
	if err = busy(err); errors.Is(err, ErrBusy) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrCannotEnd, err)
}

// alone makes sure that nobody goes on writing under another key: no other client of the
// daemon's role is connected. It returns ErrOtherClients.
func (j *job) alone(ctx context.Context) error {
	table, err := j.table(ctx)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(clientPatience); ; {
		others, err := table.OtherClients(ctx)
		if err != nil || len(others) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			var who []string
			for _, c := range others {
				who = append(who, c.String())
			}
			return fmt.Errorf("%w: %s", ErrOtherClients, strings.Join(who, "; "))
		}
		select {
		case <-time.After(clientAgain):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tryRewrite is rewrite up to its commit.
func (j *job) tryRewrite(ctx context.Context, o rows.RewriteOptions) (rows.RewriteResult, error) {
	o.DryRun = true
	return j.rewrite(ctx, o)
}

// rewrite brings the rows under one key.
func (j *job) rewrite(ctx context.Context, o rows.RewriteOptions) (rows.RewriteResult, error) {
	table, err := j.table(ctx)
	if err != nil {
		return rows.RewriteResult{}, err
	}
	defer func() { j.o.table = nil }() // who tries again looks where the database is by then
	defer table.Close()
	o.Progress = func(p rows.RewriteProgress) {
		j.progress(RotateProgress{string(p.Step), p.Done, p.Total})
	}
	return table.Rewrite(ctx, o)
}

// finish stops the daemon, calls whileDown, and starts the daemon again, also where that
// failed. Where the daemon could not be stopped it is called all the same, with the reason: it
// may have to close what the ledger says is open. If all went well, the keyfile's key is then saved
// on the current shelves. The end of ctx is not heeded: with the daemon down, going on is the
// quickest way to have it up again.
func (j *job) finish(ctx context.Context, whileDown func(ctx context.Context, stopped error) error) error {
	ctx = context.WithoutCancel(ctx)
	down := time.Now()
	j.at("stopping the daemon")
	units, err := j.h.stopDaemon(ctx)
	j.work.Stopped = units
	err = whileDown(ctx, err)
	// The watcher starts a daemon that a rotation has stopped, unless somebody holds this lock. Held
	// until the end, it also tells others that this process is still at work.
	starting, busy := lock.Try(j.h.StateDir, lock.Start)
	if busy != nil {
		j.complain("the watcher may start the daemon, too", busy)
	}
	defer starting.Release()
	j.lock.Release() // the daemon's prestart waits while a rotation holds it
	started := j.startAgain(ctx, units)
	if started != nil {
		starting.Release() // so that the watcher may start the daemon
	}
	j.work.Downtime = time.Since(down)
	if err != nil {
		if started != nil {
			j.complain("beside that", started)
		}
		return err
	}
	j.at("saving the key as the current one")
	ctx, cancel := context.WithTimeout(ctx, rotateBackup)
	defer cancel()
	// What fails is due until the watcher has done it.
	j.work.Saved, j.work.SavedErr = backup(ctx, j.h, (*observation).escrowRead)
	return started
}

// startAgain starts the daemon's units. It returns ErrNotStarted.
func (j *job) startAgain(ctx context.Context, units []string) error {
	if len(units) > 0 {
		j.at("starting the daemon")
	}
	if err := j.h.startDaemon(ctx, units); err != nil {
		return fmt.Errorf("%w: %w", ErrNotStarted, err)
	}
	if len(units) > 0 {
		if err := j.h.noteStarted(); err != nil {
			j.complain("cannot write that the daemon is started again; the watcher does", err)
		}
	}
	return nil
}
