package keyfile

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// sweepAge is how long an aside stays, so that somebody who had the file open when
// it lost its name has written what they were about to write.
const sweepAge = time.Minute

// Kept is one file that may hold a key which left the keyfile's place.
type Kept struct {
	Path     string
	Time     time.Time    // when it left
	Key      key.Key      // zero if it does not decode to one
	Encoding key.Encoding // of Key
	Why      string       // what is wrong with it, as in Seen, "" if nothing is
}

// Keep puts k into the local quarantine, durably, unless it is there. ErrNotKept if
// that fails.
func (f File) Keep(k key.Key, now time.Time) error {
	if k.IsZero() {
		return fmt.Errorf("%w: %w", ErrNotKept, key.ErrSize)
	}
	l, err := f.lock()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotKept, err)
	}
	defer l.Release()
	return f.keep(k.UnsafeBytes(), now)
}

// keep copies content to the quarantine: 32 bytes as <time>-<fingerprint>.key, all
// else, as found, as <time>-malformed.bin. What is there already is not added again.
// Of no bytes there is nothing to keep.
func (f File) keep(content []byte, now time.Time) error {
	if len(content) == 0 {
		return nil
	}
	content = bytes.Clone(content) // the caller clears its own, and may have gone by then
	err := crew.Try(f.Locks, func() error {
		defer clear(content)
		return f.addToQuarantine(content, now)
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotKept, err)
	}
	return nil
}

func (f File) addToQuarantine(content []byte, now time.Time) error {
	suffix := "-malformed.bin"
	if k, err := key.New(content); err == nil {
		suffix = fmt.Sprintf("-%s.key", k.Fingerprint())
		k.Wipe()
	}
	if err := durable.MkdirAll(f.Quarantine, f.attr()); err != nil {
		return err
	}
	entries, err := os.ReadDir(f.Quarantine)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		_, there, err := f.observe(filepath.Join(f.Quarantine, e.Name()))
		equal := err == nil && bytes.Equal(there, content)
		clear(there)
		if equal {
			// Whoever wrote it may have crashed before the name was on disk.
			return durable.SyncFound(f.Quarantine)
		}
	}
	return firstFree(now, func(stamp string) error {
		return durable.CreateNew(filepath.Join(f.Quarantine, stamp+suffix), content, f.attr())
	})
}

// Kept lists what may hold a key which left the keyfile's place, newest first: the
// local quarantine, and such asides beside the keyfile as could not be copied to it
// yet (a crash, a full disk). It changes nothing. With an error it lists what can be read:
// there may be more. Where the file system hangs that is crew.ErrHangs, and nothing.
func (f File) Kept() ([]Kept, error) {
	type found struct {
		kept  []Kept
		wrong error
	}
	all, err := crew.Within(f.Locks, func() (found, error) {
		kept, wrong := f.allKept()
		return found{kept, wrong}, nil
	}, func(late found) {
		for _, k := range late.kept {
			k.Key.Wipe()
		}
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list kept keys: %w", err)
	}
	return all.kept, all.wrong
}

func (f File) allKept() ([]Kept, error) {
	var kept []Kept
	var wrong error
	have := make(map[[sha256.Size]byte]bool)
	for _, place := range []struct {
		dir   string
		aside bool
	}{{f.Quarantine, false}, {f.dir(), true}} {
		entries, err := os.ReadDir(place.dir)
		if _, lerr := os.Lstat(place.dir); err != nil && lerr != nil && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)) {
			err = nil // it is not there; a file or a dangling symlink of that name would be
		}
		if err != nil {
			wrong = both(wrong, fmt.Errorf("cannot list kept keys: %w", err))
			continue
		}
		for _, e := range entries {
			// In the quarantine a leading dot marks a file that is not whole yet.
			if isAside(e.Name()) != place.aside || (!place.aside && strings.HasPrefix(e.Name(), ".")) {
				continue
			}
			s, content, err := f.observe(filepath.Join(place.dir, e.Name()))
			clear(content)
			if err != nil {
				wrong = both(wrong, fmt.Errorf("cannot list kept keys: %w", err))
				continue
			}
			if s.Kind == Missing || s.Empty || (place.aside && s.sum != nil && have[*s.sum]) {
				continue
			}
			if s.sum != nil {
				have[*s.sum] = true
			}
			at, ok := stamped(strings.TrimPrefix(e.Name(), asidePrefix))
			if !ok {
				at = s.ModTime
			}
			kept = append(kept, Kept{filepath.Join(place.dir, e.Name()), at, s.Key, s.Encoding, s.Why})
		}
	}
	slices.SortStableFunc(kept, func(a, b Kept) int {
		return cmp.Or(b.Time.Compare(a.Time), strings.Compare(a.Path, b.Path))
	})
	return kept, wrong
}

// Sweep sees to the asides beside the keyfile: each is read again and copied to the
// quarantine if it, as it is now, is not there; and if it is older than a minute and
// nobody has it open for writing, it is removed. What cannot be copied so (a
// directory, a FIFO, a symlink, an unreadable or large file) stays. Half-written files of our own that are older than a minute go
// as well.
func (f File) Sweep(now time.Time) error {
	return crew.Try(f.Locks, func() error { return f.sweepAll(now) })
}

func (f File) sweepAll(now time.Time) error {
	asides, err := list(f.dir(), asidePrefix)
	if err != nil {
		return fmt.Errorf("cannot sweep: %w", err)
	}
	temps, err := list(f.Quarantine, durable.TempPrefix)
	if err != nil {
		return fmt.Errorf("cannot sweep: %w", err)
	}
	if len(asides)+len(temps) == 0 {
		return nil
	}
	l, err := f.lock()
	if err != nil {
		return fmt.Errorf("cannot sweep: %w", err)
	}
	defer l.Release()
	for _, path := range asides {
		if serr := f.sweep(path, now); serr != nil {
			err = both(err, fmt.Errorf("cannot sweep %s: %w", path, serr))
		}
	}
	for _, path := range temps {
		// It is a part of a copy whose original never went (law 5).
		if info, lerr := os.Lstat(path); lerr == nil && info.Mode().IsRegular() && now.Sub(info.ModTime()) > sweepAge {
			err = both(err, remove(path))
		}
	}
	return err
}

// Swept tells whether Sweep finds nothing to see to.
func (f File) Swept() bool {
	asides, err := list(f.dir(), asidePrefix)
	temps, terr := list(f.Quarantine, durable.TempPrefix)
	return err == nil && terr == nil && len(asides)+len(temps) == 0
}

func (f File) sweep(path string, now time.Time) error {
	quiet, unlease := lease(path)
	defer unlease()
	s, content, err := f.observeAside(path)
	defer clear(content)
	if err != nil {
		return err
	}
	if err := f.keep(content, now); err != nil {
		return err
	}
	at, ok := stamped(strings.TrimPrefix(filepath.Base(path), asidePrefix))
	if !ok {
		at = s.ModTime
	}
	// content is nil where it could not be read whole. A symlink has not been copied,
	// only what it leads to. An aside of the future stays until the clock has reached
	// it.
	if content == nil || s.Target != "" || !quiet || now.Sub(at) <= sweepAge {
		return nil
	}
	return remove(path)
}

// observeAside is observe for what came out of the keyfile's place. Of a symlink that
// now leads back to it, such as half of a loop, it returns no content.
func (f File) observeAside(path string) (Seen, []byte, error) {
	s, content, err := f.observe(path)
	if live, lerr := inodeAt(f.Path); s.Target != "" && lerr == nil && live.dev == s.Dev && live.ino == s.Ino {
		clear(content)
		content = nil
	}
	return s, content, err
}

// lease tells whether nobody has the file at path open for writing, and keeps it so
// until it is called off: the kernel gives a read lease only then, and holds up who
// opens the file for writing meanwhile (F_SETLEASE in fcntl(2)). Where there are no
// leases, as on NFS, the minute has to do.
func lease(path string) (quiet bool, unlease func()) {
	none := func() {}
	var st unix.Stat_t
	if err := lstat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return true, none
	}
	fd, err := open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return true, none
	}
	unlease = func() { unix.Close(fd) } //nolint:errcheck // nothing was written; it ends the lease
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
	return err != unix.EAGAIN, unlease
}

// list returns the paths in dir whose names begin with prefix. A missing dir has none.
func list(dir, prefix string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, nil
}
