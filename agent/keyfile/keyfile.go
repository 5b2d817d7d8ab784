// Package keyfile looks after the live key on this host and after the local
// quarantine, where every key that left the keyfile's place is kept.
//
// Look reads defensively and changes nothing. Everything that changes the keyfile
// (Install, Park, UseNext) is given what Look saw, and goes by law 3: the new file is
// whole and synced before it takes the name; it takes the name by renameat2(2), so
// that what was there comes out in the same instant and stays beside it as
// `.keyguard-<time>`; that is copied to the quarantine, and Sweep removes it only
// when it was read again a minute later. So at every moment, a crash included, each
// key that ever stood here is in at least one file.
//
// Beside the keyfile may stand, during a rotation, `<keyfile>.next`. Names that are
// neither are other people's and are not touched.
package keyfile

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// ErrChanged says that the keyfile, or its .next, was not what had been seen. Nothing
// is lost: what was found instead is where it was, or aside and in the quarantine.
// The key that was to go in may or may not be in place. The caller looks again.
var ErrChanged = errors.New("the keyfile is not what was seen")

// ErrNotKept says that the copy to the local quarantine failed. Where a keyfile was
// to be replaced that is done, and what came out of its place stays aside there,
// from where Sweep copies it later.
var ErrNotKept = errors.New("cannot keep a copy in the local quarantine")

// ErrNotSynced says that the keyfile was changed as asked, and that a power cut may undo it.
// Both files are whole then, under their old names or their new ones.
var ErrNotSynced = durable.ErrNotSynced

// ErrExposed says that the file system takes no modes (FAT), and that others can read the
// keyfile there, or could: then nothing was written. The daemon refuses such a keyfile.
var ErrExposed = durable.ErrExposed

// ErrImmutable says that what has to be changed is a file, or a directory, that nobody can
// change, root neither (chattr +i).
var ErrImmutable = errors.New("immutable")

// ErrNotOwner says that the keyfile is somebody else's, and that whoever asks may not change
// owners. Another file may be put in its place all the same.
var ErrNotOwner = errors.New("its owner cannot be changed from here")

// ErrNoNext says that UseNext found no key in <keyfile>.next.
var ErrNoNext = errors.New("no key stands beside the keyfile")

// mode is what a keyfile has: the owner reads, nobody writes.
const mode fs.FileMode = 0o400

// lockWait bounds how long a change waits for another one, which takes milliseconds
// unless a file system hangs.
const lockWait = 5 * time.Second

// File says where things are and who is to own them. It holds no state.
type File struct {
	Path       string // the keyfile, absolute
	Owner      int    // uid of the keyfile
	Group      int    // gid of the keyfile
	Quarantine string // the local quarantine, made 0700 when first needed
	Locks      string // the state directory, for the lock "keyfile"
}

// Kind says whether a key can be read by the daemon.
type Kind int

const (
	Missing   Kind = iota // nothing has the name
	Good                  // a regular file, or a trusted symlink to one, of exactly 32 bytes
	Malformed             // all else that exists, unreadable included; Seen.Why says what
)

func (k Kind) String() string {
	switch k {
	case Missing:
		return "missing"
	case Good:
		return "good"
	case Malformed:
		return "malformed"
	}
	return fmt.Sprintf("kind %d", int(k))
}

// Seen is what Look found. Install and the others compare it with what they find.
type Seen struct {
	Kind     Kind
	Key      key.Key      // zero unless Good, or Malformed that decodes to a key
	Encoding key.Encoding // of Key
	Mangled  bool         // destroyed by a conversion to UTF-8 (key.ErrMangled)
	Empty    bool         // a regular file of 0 bytes: parked, or a mint that crashed
	Why      string       // of Malformed, and of Missing with its directory, for people, one clause: "31 bytes instead of 32"
	Loose    string       // "", or what Tighten can put right: "mode 0644", "owned by uid 1000"

	// What was observed. Of a trusted symlink to a regular file they describe that
	// file, of any other the symlink itself.
	Size     int64 // bytes
	Mode     fs.FileMode
	ModTime  time.Time
	Changed  time.Time // when content, mode, owner or name changed last (st_ctim), which nobody can set
	Dev, Ino uint64
	UID, GID int
	Target   string // what the symlink says, "" if there is none

	NextThere bool    // <keyfile>.next exists (rotation)
	Next      key.Key // its key, zero if it holds none
	NextSeen  *Seen   // all about it, nil if it does not exist

	file string             // what was read: the keyfile, or what the symlink leads to
	link inode              // what has the name itself
	sum  *[sha256.Size]byte // of the content, nil where it was not read
}

// Unread tells that a regular file is there whose content could not be read.
func (s Seen) Unread() bool { return s.Mode.IsRegular() && s.sum == nil }

// same tells whether o is the thing that s was. The time of the last change of the
// inode (ctime) is left out: a rename sets it. A symlink through which nothing was
// read is only itself: where it leads may change with its own name.
func (s Seen) same(o Seen) bool {
	if s.link != o.link || s.Target != o.Target {
		return false
	}
	if s.Target != "" && s.sum == nil {
		return true
	}
	return s.Kind == o.Kind && s.Dev == o.Dev && s.Ino == o.Ino && s.Size == o.Size && s.ModTime.Equal(o.ModTime) &&
		(s.sum == nil) == (o.sum == nil) && (s.sum == nil || *s.sum == *o.sum)
}

func (f File) dir() string  { return filepath.Dir(f.Path) }
func (f File) next() string { return f.Path + ".next" }

func (f File) attr() durable.Attr {
	return durable.Attr{Mode: mode, UID: f.Owner, GID: f.Group, Modeless: true}
}

// Immutable returns the path of the keyfile or of its directory where that is immutable, ""
// otherwise.
func (f File) Immutable() string {
	for _, path := range []string{f.Path, f.dir()} {
		if durable.Immutable(path) {
			return path
		}
	}
	return ""
}

// Full returns the keyfile's directory where its file system has no room for another file, ""
// otherwise.
func (f File) Full() string {
	if durable.Full(f.dir()) {
		return f.dir()
	}
	return ""
}

// named adds to the kernel's refusal of a change what it is that refuses.
func (f File) named(err error) error {
	if errors.Is(err, unix.EPERM) && !errors.Is(err, ErrImmutable) {
		if path := f.Immutable(); path != "" {
			return fmt.Errorf("%s is %w: %w", path, ErrImmutable, err)
		}
	}
	return err
}

// lock takes the lock "keyfile", under which every change is made.
func (f File) lock() (*lock.Lock, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lockWait)
	defer cancel()
	return lock.Wait(ctx, f.Locks, lock.Keyfile)
}

const asidePrefix = ".keyguard-"

// stampForm is a UTC time to the microsecond, as names carry it. It sorts.
const stampForm = "20060102T150405.000000Z"

func stamp(t time.Time) string { return t.UTC().Format(stampForm) }

// stamped returns the time that a name begins with.
func stamped(name string) (time.Time, bool) {
	if len(name) < len(stampForm) {
		return time.Time{}, false
	}
	t, err := time.Parse(stampForm, name[:len(stampForm)])
	return t, err == nil
}

// firstFree calls use with the name that t gives, and with the ones of the following
// microseconds as long as the name is taken.
func firstFree(t time.Time, use func(stamp string) error) error {
	for {
		if err := use(stamp(t)); !errors.Is(err, fs.ErrExist) {
			return err
		}
		t = t.Add(time.Microsecond)
	}
}
