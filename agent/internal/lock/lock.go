// Package lock holds flock(2) locks on files in the state directory. The files are
// never unlinked, so a lock is one inode for ever; the kernel drops a lock when its
// holder dies, and close-on-exec keeps it from that holder's children.
package lock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
)

// The locks, each a file of this name in the state directory.
const (
	Watch   = "watch"   // the watcher, for its life
	Rotate  = "rotate"  // rotation, repair, a first start, accept, and every install but a start's: of restore, import and the watcher
	Keyfile = "keyfile" // an install: milliseconds, never during a network call
	Ledger  = "ledger"  // an append: milliseconds, never during a network call
	Drill   = "drill"   // a drill, for its length
	Start   = "start"   // whoever starts again a daemon that a rotation or a repair has stopped; these hold it from then until they end
)

// poll is how often a lock that somebody holds is tried again.
const poll = 10 * time.Millisecond

// ErrBusy says that somebody else holds the lock. Find it with errors.As.
type ErrBusy struct{ Name string }

func (e ErrBusy) Error() string { return fmt.Sprintf("the lock %q is held by another process", e.Name) }

// Lock is a lock that is held.
type Lock struct{ f *file }

// file is the file of a lock, opened.
type file struct {
	*os.File            // nil: simulated
	on       *Simulated // where it is simulated
	how      int        // of flock(2): what it has of that
}

// Close gives back what it has.
func (f *file) Close() error {
	if f == nil {
		return nil
	}
	if f.on == nil {
		return f.File.Close()
	}
	f.on.giveBack(f.how)
	f.how = 0
	return nil
}

// lookers is how long Try waits for those who only look whether the lock is held (Held). They
// borrow it for microseconds, unless the machine is too busy to let them go on.
const lookers = 5 * time.Second

// Try takes the lock, or returns ErrBusy where somebody holds it. The state directory (0700)
// and the file are made if they are missing.
func Try(dir, name string) (*Lock, error) {
	for began := time.Now(); ; {
		ctx, cancel := context.WithTimeout(context.Background(), 2*poll)
		l, err := Wait(ctx, dir, name)
		cancel()
		busy, held := errors.AsType[ErrBusy](err)
		if !held {
			return l, err
		}
		if held, err := Held(dir, name); held || err != nil || time.Since(began) > lookers {
			return nil, busy
		}
	}
}

// Wait takes the lock, waiting for it until ctx ends; then the error wraps ErrBusy
// and what ctx says. A free lock is taken even where ctx has ended, and where nothing can be
// written: where its file was never made, nobody holds it (law 9). Any other error says
// nothing of who holds it.
func Wait(ctx context.Context, dir, name string) (*Lock, error) {
	f, err := crew.Within(dir, func() (*file, error) { return open(dir, name) }, closeLate)
	if err != nil {
		return nil, fmt.Errorf("cannot take the lock %q: %w", name, err)
	}
	if f == nil {
		return new(Lock), nil
	}
	var tick *time.Ticker
	for {
		free, err := flock(f, unix.LOCK_EX)
		switch {
		case err != nil:
			f.Close() //nolint:errcheck // nothing was written
			return nil, fmt.Errorf("cannot take the lock %q: %w", name, err)
		case free:
			return &Lock{f}, nil
		}
		if tick == nil {
			tick = time.NewTicker(poll)
			defer tick.Stop()
		}
		select {
		case <-ctx.Done():
			f.Close() //nolint:errcheck // nothing was written
			return nil, fmt.Errorf("%w: %w", ErrBusy{name}, ctx.Err())
		case <-tick.C:
		}
	}
}

// open opens the file of a lock, and makes what is missing. It is nil where it is missing and
// cannot be made: by anybody on a read-only file system, and just now in a directory that is
// full or immutable. There two may get the lock at once, if somebody makes room in the same
// millisecond: an install takes that, being one rename, and so does a second watcher. A
// rotation does not, nor the ledger, which may have room where no file can be added.
func open(dir, name string) (*file, error) {
	path := filepath.Join(dir, name)
	if Find != nil {
		return &file{on: Find(path)}, nil
	}
	var st unix.Stat_t
	if err := durable.Lstat(dir, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err == nil || !slices.ContainsFunc(unwritable, func(e error) bool { return errors.Is(err, e) }) {
		return opened(f, err)
	}
	f, readErr := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0) // flock(2) takes that, too
	switch {
	case !errors.Is(readErr, fs.ErrNotExist):
		return opened(f, readErr)
	case errors.Is(err, unix.EROFS), name == Keyfile, name == Watch:
		return nil, nil
	}
	return nil, err
}

// unwritable are the errors of open(2) where nothing can be made or written.
var unwritable = []error{unix.EROFS, unix.ENOSPC, unix.EDQUOT, unix.EPERM}

func opened(f *os.File, err error) (*file, error) {
	if err != nil {
		return nil, err
	}
	return &file{File: f}, nil
}

func closeLate(f *file) { f.Close() } //nolint:errcheck // nothing was written

// Stands tells whether the file that is locked still has the name. Where nobody can tell, it
// does.
func (l *Lock) Stands(dir, name string) bool {
	if l.f == nil || l.f.File == nil {
		return true // no file could be made, or it is simulated
	}
	held, err := l.f.Stat()
	if err != nil {
		return true
	}
	there, err := crew.Lstat(filepath.Join(dir, name))
	return err == nil && os.SameFile(held, there) || err != nil && !errors.Is(err, fs.ErrNotExist)
}

// Release gives the lock back. It may be called again, and on nil.
func (l *Lock) Release() {
	if l == nil || l.f == nil {
		return
	}
	giveBack(l.f)
	l.f = nil
}

// Held tells whether somebody, this process included, holds the lock. It creates
// nothing: where the file is missing, nobody does.
func Held(dir, name string) (bool, error) {
	f, err := crew.Within(dir, func() (*file, error) {
		path := filepath.Join(dir, name)
		if Find != nil {
			return &file{on: Find(path)}, nil
		}
		return opened(os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0))
	}, closeLate)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot look at the lock %q: %w", name, err)
	}
	defer giveBack(f)
	// Shared, so that two who look at once do not see each other.
	free, err := flock(f, unix.LOCK_SH)
	if err != nil {
		return false, fmt.Errorf("cannot look at the lock %q: %w", name, err)
	}
	return !free, nil
}

// giveBack unlocks and closes. Closing alone would not unlock while another goroutine
// starts a program: from fork(2) to execve(2) the child shares every open file.
func giveBack(f *file) {
	if f.on != nil {
		f.Close() //nolint:errcheck // it is simulated
		return
	}
	_ = unix.Flock(int(f.Fd()), unix.LOCK_UN) // fails where nothing is locked, or never
	f.Close()                                 //nolint:errcheck // nothing was written
}

// flock takes the lock if it is free, without waiting.
func flock(f *file, how int) (free bool, err error) {
	if f.on != nil {
		if free = f.on.take(how); free {
			f.how = how
		}
		return free, nil
	}
	for {
		switch err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err {
		case nil:
			return true, nil
		case unix.EWOULDBLOCK:
			return false, nil
		case unix.EINTR:
		default:
			return false, fmt.Errorf("flock %s: %w", f.Name(), err)
		}
	}
}
