package keyfile

import (
	"fmt"
	"path/filepath"
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
		// It is a part of a copy whose original never went (law 5); a whole key may be anybody's (law 3).
		var st unix.Stat_t
		if lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && now.Sub(time.Unix(st.Mtim.Unix())) > sweepAge {
			if serr := f.sweepTemp(path, now); serr != nil {
				err = both(err, fmt.Errorf("cannot sweep %s: %w", path, serr))
			}
		}
	}
	return err
}

func (f File) sweepTemp(path string, now time.Time) error {
	s, content, err := f.observe(path)
	defer clear(content)
	defer s.Key.Wipe()
	if err == nil && s.Encoding == key.Raw {
		err = f.keep(content, now)
	}
	if err != nil {
		return err
	}
	return remove(path)
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

// moveAside gives what has the name path a name among the asides. An exchange does not need it:
// there the new file is made under the aside's name to begin with (File.replace).
func (f File) moveAside(path string, now time.Time) (aside string, err error) {
	err = firstFree(now, func(stamp string) error {
		aside = filepath.Join(f.dir(), asidePrefix+stamp)
		return rename(path, aside)
	})
	return aside, err
}

// isAside tells whether a name in the keyfile's directory is ours to sweep: what came
// out of the keyfile's place, or a file that a crash left half-written.
func isAside(name string) bool { return strings.HasPrefix(name, asidePrefix) }
