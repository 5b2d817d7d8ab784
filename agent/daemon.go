package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// Daemon is how the guarded daemon is stopped and started. The zero value is a daemon
// that has no unit: there is nothing to stop or to start.
type Daemon struct {
	// State asks how it runs and what it has told of its key.
	State func(context.Context) (unit.DaemonState, error)
	// Running lists its units that are not at rest.
	Running func(context.Context) ([]string, error)
	// Stop stops it under every name it may have, and returns when it is at rest.
	Stop func(context.Context) error
	// Start starts these units, and returns when they are up.
	Start func(ctx context.Context, units []string) error
}

// daemonPatience bounds a stop or a start of the daemon: systemd kills one that does not
// stop within 90 s, and gives a start as long (TimeoutStopSec=, TimeoutStartSec=).
const daemonPatience = 2 * time.Minute

// stopDaemon stops the daemon and returns the units that are to be started again. The
// ledger names them before they are stopped (law 5): from there on a start waits for the
// rotate lock, and whoever finds the lock free starts them (Resume). It returns them with
// an error too.
func (h *Host) stopDaemon(ctx context.Context) ([]string, error) {
	if h.Daemon.Stop == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, daemonPatience)
	defer cancel()
	units, err := h.Daemon.Running(ctx)
	if err != nil {
		return nil, err
	}
	if len(units) == 0 { // unless one that died before left it stopped
		standing, err := h.Ledger.Standing()
		if err != nil {
			return nil, err
		}
		units = standing.Stopped
	}
	if len(units) > 0 {
		if err := h.Append(ledger.Entry{Event: ledger.Stopped, Stopped: units}); err != nil {
			return nil, err
		}
	}
	return units, h.Daemon.Stop(ctx)
}

// startDaemon starts what stopDaemon stopped. The rotate lock must be free by then: the
// daemon's own start would wait for it.
func (h *Host) startDaemon(ctx context.Context, units []string) error {
	if h.Daemon.Start == nil || len(units) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, daemonPatience)
	defer cancel()
	return h.Daemon.Start(ctx, units)
}

// noteStarted writes down that what was stopped runs again.
func (h *Host) noteStarted() error {
	return h.Append(ledger.Entry{Event: ledger.Started})
}

// running tells whether all of these units run. One that cannot be asked about does not.
func (h *Host) running(ctx context.Context, units []string) bool {
	if h.Daemon.Running == nil {
		return false
	}
	run, err := h.Daemon.Running(ctx)
	return err == nil && !slices.ContainsFunc(units, func(u string) bool { return !slices.Contains(run, u) })
}

// Resume starts the daemon where a rotation or a repair stopped it and did not live to
// start it again, and returns its units. While one is at work it does nothing; nor does
// it where the daemon runs and nobody could write that down.
func Resume(ctx context.Context, h *Host) ([]string, error) {
	l, err := lock.Try(h.StateDir, lock.Start)
	if _, held := errors.AsType[lock.ErrBusy](err); held {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer l.Release()
	if busy, err := lock.Held(h.StateDir, lock.Rotate); err != nil || busy {
		return nil, err
	}
	standing, err := h.Ledger.Standing()
	if err != nil || len(standing.Stopped) == 0 {
		return nil, err
	}
	if h.running(ctx, standing.Stopped) {
		return nil, h.noteStarted()
	}
	if err := h.startDaemon(ctx, standing.Stopped); err != nil {
		return nil, fmt.Errorf("cannot start the daemon again: %w", err)
	}
	return standing.Stopped, h.noteStarted()
}
