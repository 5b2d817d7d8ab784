package keyfile

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

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
		suffix = keySuffix(k.Fingerprint())
		k.Wipe()
	}
	if err := durable.MkdirAll(f.Quarantine, f.attr()); err != nil {
		return err
	}
	names, err := durable.Names(f.Quarantine)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasSuffix(name, suffix) {
			continue
		}
		_, there, err := f.observe(filepath.Join(f.Quarantine, name))
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

// Keeps tells whether a file in the local quarantine is named as one of this key is. It reads none:
// somebody may have taken it away since it was kept.
func (f File) Keeps(k key.Fingerprint) bool {
	names, err := crew.Within(f.Locks, func() ([]string, error) { return durable.Names(f.Quarantine) }, nil)
	suffix := keySuffix(k)
	return err == nil && slices.ContainsFunc(names, func(name string) bool { return strings.HasSuffix(name, suffix) })
}

// Keeping says why nothing could be kept in the local quarantine just now: ErrNotKept. It changes
// nothing. One that is not there is made when it is first needed.
func (f File) Keeping() error {
	_, err := crew.Within(f.Locks, func() (struct{}, error) {
		var st unix.Stat_t
		if errors.Is(lstat(f.Quarantine, &st), unix.ENOENT) {
			return struct{}{}, nil
		}
		_, err := durable.Names(f.Quarantine)
		if err == nil {
			err = durable.Access(f.Quarantine, unix.W_OK)
		}
		return struct{}{}, err
	}, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotKept, err)
	}
	return nil
}

// keySuffix is what the name of a key in the local quarantine ends with.
func keySuffix(k key.Fingerprint) string { return fmt.Sprintf("-%s.key", k) }

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
		names, err := durable.Names(place.dir)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			var st unix.Stat_t
			if lstat(place.dir, &st) != nil {
				err = nil // it is not there; a file or a dangling symlink of that name would be
			}
		}
		if err != nil {
			wrong = both(wrong, fmt.Errorf("cannot list kept keys: %w", err))
			continue
		}
		for _, name := range names {
			// In the quarantine one of ours that is not whole yet has such a name; Sweep sees to it.
			if place.aside && !isAside(name) || !place.aside && strings.HasPrefix(name, durable.TempPrefix) {
				continue
			}
			s, content, err := f.observe(filepath.Join(place.dir, name))
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
			at, ok := stamped(strings.TrimPrefix(name, asidePrefix))
			if !ok {
				at = s.ModTime
			}
			kept = append(kept, Kept{filepath.Join(place.dir, name), at, s.Key, s.Encoding, s.Why})
		}
	}
	slices.SortStableFunc(kept, func(a, b Kept) int {
		return cmp.Or(b.Time.Compare(a.Time), strings.Compare(a.Path, b.Path))
	})
	return kept, wrong
}

// list returns the paths in dir whose names begin with prefix. A missing dir has none.
func list(dir, prefix string) ([]string, error) {
	names, err := durable.Names(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return nil, err
	}
	var paths []string
	for _, name := range names {
		if strings.HasPrefix(name, prefix) {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	return paths, nil
}
