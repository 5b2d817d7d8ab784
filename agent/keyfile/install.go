package keyfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// Install puts k at the keyfile's place, by law 3. seen is what Look found there. A symlink
// there is replaced, and its target left alone: the link itself becomes the aside (aside.go).
// The directory is made, 0700, if it is missing.
//
// ErrChanged: look again. ErrNotKept: k is in place. ErrNotSynced: k is in place,
// and after a power cut what was there may be back. After any other error the keyfile is
// as it was.
func (f File) Install(seen Seen, k key.Key, now time.Time) error {
	if k.IsZero() {
		return fmt.Errorf("cannot install %s: %w", f.Path, key.ErrSize)
	}
	if err := f.replace(seen, k.UnsafeBytes(), now); err != nil {
		return fmt.Errorf("cannot install %s cleanly: %w", f.Path, f.named(err))
	}
	return nil
}

// Park puts an empty file at the keyfile's place: on it the daemon runs with secrets
// disabled, and mints nothing. What stood there is kept as Install keeps it. Where an
// empty file stands already, nothing is done. Where none stands, it takes nobody's place, and
// needs no lock: what keeps that from being taken must not let the daemon make a key (law 2).
func (f File) Park(seen Seen, now time.Time) error {
	if seen.Empty {
		return nil
	}
	if err := f.replace(seen, nil, now); err != nil {
		return fmt.Errorf("cannot park %s cleanly: %w", f.Path, f.named(err))
	}
	return nil
}

func (f File) replace(seen Seen, data []byte, now time.Time) error {
	l, err := f.lock()
	if held := (lock.ErrBusy{}); err != nil && (len(data) > 0 || seen.Kind != Missing || errors.As(err, &held)) {
		return err
	}
	defer l.Release()
	if err := durable.MkdirAll(f.dir(), f.attr()); err != nil {
		return err
	}
	// The file is made under the name that what comes out will have. A crash before
	// the exchange leaves it for Sweep, which keeps it as it keeps everything.
	var temp string
	err = firstFree(now, func(stamp string) error {
		temp = filepath.Join(f.dir(), asidePrefix+stamp)
		return durable.Create(temp, data, f.attr())
	})
	if err != nil {
		return err
	}
	if seen.Kind == Missing {
		return f.takeName(temp)
	}
	aside, err := f.exchange(seen, temp, now)
	if err != nil {
		return err
	}
	return f.keepAside(seen, aside, now)
}

// takeName gives temp the keyfile's name, which nothing may have.
func (f File) takeName(temp string) error {
	err := rename(temp, f.Path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return both(fmt.Errorf("%w: it was missing, and has appeared", ErrChanged), remove(temp))
	case err != nil:
		return both(err, remove(temp))
	}
	// A crash before this may undo the rename: the keyfile is missing again.
	return durable.SyncDir(f.dir())
}

// exchange gives temp the keyfile's name and returns where that which had it is now.
// On error the keyfile is untouched and temp is gone.
func (f File) exchange(seen Seen, temp string, now time.Time) (aside string, err error) {
	err = durable.Exchange(temp, f.Path)
	aside = temp
	if errors.Is(err, durable.ErrNoRename2) {
		aside, err = f.exchangeByLink(seen, temp, now)
	}
	switch {
	case err == nil:
		return aside, nil
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%w: it has gone", ErrChanged)
	}
	return "", both(err, remove(temp))
}

// exchangeByLink is exchange where the file system has no RENAME_EXCHANGE: a second
// name for what is there, then a rename over the first. What somebody put there
// between the two calls the rename would destroy; so whether the name is still that
// of what was linked is the last thing looked at before.
func (f File) exchangeByLink(seen Seen, temp string, now time.Time) (aside string, err error) {
	if seen.Mode.IsDir() {
		return f.exchangeDir(seen, temp, now)
	}
	if there, err := inodeAt(f.Path); err != nil {
		return "", err
	} else if there != seen.link {
		return "", ErrChanged
	}
	err = firstFree(now, func(stamp string) error {
		aside = filepath.Join(f.dir(), asidePrefix+stamp)
		return durable.Link(f.Path, aside)
	})
	if err != nil {
		return "", err
	}
	// The second name stays, whatever happens: Sweep sees to it. To remove it here
	// could remove the last name of a key.
	linked, err := inodeAt(aside)
	if err != nil {
		return "", err
	}
	if there, err := inodeAt(f.Path); err != nil {
		return "", err
	} else if there != linked {
		return "", ErrChanged
	}
	return aside, durable.Rename(temp, f.Path)
}

// exchangeDir is exchangeByLink for a directory, which cannot have two names: it is
// moved, and for a moment there is no keyfile.
func (f File) exchangeDir(seen Seen, temp string, now time.Time) (aside string, err error) {
	if aside, err = f.moveAside(f.Path, now); err != nil {
		return "", err
	}
	if err := rename(temp, f.Path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("%w: it has been replaced", ErrChanged)
		}
		return "", both(err, rename(aside, f.Path))
	}
	return aside, nil
}

// keepAside makes an exchange durable and copies what came out to the quarantine.
func (f File) keepAside(seen Seen, aside string, now time.Time) error {
	// A crash before this may undo the exchange: the old file has its name back, and
	// the new one is aside.
	err := durable.SyncDir(f.dir())
	came, content, lerr := f.observeAside(aside)
	defer clear(content)
	err = both(err, lerr)
	if lerr == nil && !seen.same(came) {
		err = both(err, fmt.Errorf("%w: something else came out of its place, and is kept", ErrChanged))
	}
	return both(err, f.keep(content, now))
}

// Tighten gives the very file that was seen mode 0400 and the right owner. ErrChanged
// if another one is there; ErrNotOwner where only who may change owners can close it.
func (f File) Tighten(seen Seen) error {
	if err := f.tighten(seen); err != nil {
		return fmt.Errorf("cannot tighten %s: %w", f.Path, f.named(err))
	}
	return nil
}

func (f File) tighten(seen Seen) error {
	if seen.Kind == Missing || !seen.Mode.IsRegular() {
		return errors.New("it is no regular file")
	}
	file, err := durable.Open(seen.file, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err == unix.ENOENT || err == unix.ELOOP || err == unix.ENXIO {
		return ErrChanged
	}
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // nothing was written
	var st unix.Stat_t
	if err := file.Stat(&st); err != nil {
		return err
	}
	now := Seen{}
	now.describe(&st)
	if !now.Mode.IsRegular() || now.Dev != seen.Dev || now.Ino != seen.Ino || now.Size != seen.Size || !now.ModTime.Equal(seen.ModTime) {
		return ErrChanged
	}
	// The mode first: it shuts others out even where the owner cannot be changed,
	// which takes a right that the units do not have.
	err = durable.Chmod(file, mode)
	if int(st.Uid) != f.Owner {
		err = both(err, both(durable.Chown(file, f.Owner, f.Group), durable.Chmod(file, mode)))
	}
	if errors.Is(err, unix.EPERM) && int(st.Uid) != f.Owner {
		return fmt.Errorf("%w: %w", ErrNotOwner, err) // a right that is not had, and not the file system
	}
	// A file system without modes refuses the call, or takes it and changes nothing.
	if err == nil || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		serr := file.Stat(&st)
		switch {
		case serr != nil:
			err = both(err, serr)
		case err != nil && durable.Immutable(seen.file):
		case st.Mode&0o077 != 0 || err == nil && f.loose(&st) != "":
			err = fmt.Errorf("%w: it stays at %s", ErrExposed, f.loose(&st))
		}
	}
	return both(err, durable.Sync(file))
}

// rename moves from to to, which nothing may have: fs.ErrExist otherwise.
func rename(from, to string) error {
	err := durable.NoReplace(from, to)
	if !errors.Is(err, durable.ErrNoRename2) {
		return err
	}
	if info, lerr := os.Lstat(from); lerr == nil && info.IsDir() {
		// A directory cannot have two names; rename(2) replaces at most an empty one.
		if _, err := os.Lstat(to); err == nil {
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: fs.ErrExist}
		}
		return durable.Rename(from, to)
	}
	// link(2) never replaces. A crash between the two leaves two names of one file.
	if err := durable.Link(from, to); err != nil {
		return err
	}
	return durable.Remove(from)
}

// remove takes away a file of ours that nobody relied on.
func remove(path string) error {
	if err := durable.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// both makes one line of two errors, either of which may be nil.
func both(a, b error) error {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return fmt.Errorf("%w; %w", a, b)
}
