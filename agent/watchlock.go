package agent

import (
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
)

// WatchHold is the lock by which a start knows that a watcher lives.
type WatchHold struct {
	*lock.Lock
	stateDir string
}

// HoldWatch takes the lock of a watcher. It returns ErrBusy where another one lives.
func HoldWatch(h *Host) (WatchHold, error) {
	l, err := lock.Try(h.StateDir, lock.Watch)
	return WatchHold{l, h.StateDir}, busy(err)
}

// Stands tells that the state directory is still the one in which the lock was taken: another
// watcher may live in one that was made since.
func (h WatchHold) Stands() bool { return h.Lock.Stands(h.stateDir, lock.Watch) }
