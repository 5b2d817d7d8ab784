package keyfile

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

// maxRead bounds, in bytes, what is read of any file. A key has 32; its longest
// writing, words, a few hundred.
const maxRead = 64 << 10

// Look tells what stands at the keyfile's place, and beside it as .next. It changes
// nothing and cannot hang on a FIFO, a device or an endless file. A missing
// directory is a missing keyfile. An error means that it cannot be said what is
// there, or whether anything is (law 6): crew.ErrHangs where the file system hangs.
func (f File) Look() (Seen, error) {
	return crew.Within(f.dir(), f.look, func(s Seen) { s.Key.Wipe(); s.Next.Wipe() })
}

func (f File) look() (Seen, error) {
	s, content, err := f.observe(f.Path)
	clear(content)
	if err != nil {
		return Seen{}, err
	}
	if s.Kind == Missing {
		if _, err := inodeAt(f.dir()); err == unix.ENOENT {
			s.Why = "missing, with its directory"
		}
	}
	next, content, err := f.observe(f.next())
	clear(content)
	if err != nil {
		return Seen{}, err
	}
	if next.Kind != Missing {
		s.NextThere, s.Next, s.NextSeen = true, next.Key, &next
	}
	return s, nil
}

// observe looks at one path. It also returns the content where that was read to the
// end; the caller answers for it as for a key.
func (f File) observe(path string) (Seen, []byte, error) {
	// What is found by name may be replaced before it is opened; then look again. It
	// would take somebody who does nothing else to make this fail.
	for range 100 {
		s, content, err := f.observeOnce(path)
		if err != errMoved {
			return s, content, err
		}
	}
	return Seen{}, nil, fmt.Errorf("cannot look at %s: it keeps changing", path)
}

// errMoved says that a file was replaced while it was looked at.
var errMoved = errors.New("moved")

func (f File) observeOnce(path string) (Seen, []byte, error) {
	var st unix.Stat_t
	switch err := lstat(path, &st); {
	case err == unix.ENOENT:
		return Seen{}, nil, nil
	case err == unix.ENOTDIR:
		return Seen{Kind: Malformed, Why: "below something that is no directory"}, nil, nil
	case err != nil:
		return Seen{}, nil, fmt.Errorf("cannot look at %s: %w", path, err)
	}
	s := Seen{Kind: Malformed, file: path, link: inodeOf(&st)}
	s.describe(&st)

	through := ""
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		target, file, why, err := f.follow(path)
		if err != nil {
			return Seen{}, nil, err
		}
		s.Target = target
		if why != "" {
			s.Why = why
			return s, nil, nil
		}
		s.file, through = file, "a symlink to "
		if err := lstat(file, &st); err != nil {
			return Seen{}, nil, errMoved
		}
		if !f.trusts(&st) {
			s.Why = fmt.Sprintf("a symlink to %s, which others can change (%s)", file, ownership(&st))
			return s, nil, nil
		}
	}
	// Only what is a regular file by name is opened at all: opening a device can have
	// effects.
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		s.Why = through + typeOf(&st)
		return s, nil, nil
	}
	content, whole, err := s.read(&st)
	if err == errMoved {
		return Seen{}, nil, err
	}
	s.Loose = f.loose(&st)
	if err != nil {
		s.Why = fmt.Sprintf("unreadable: %v", err)
		return s, nil, nil
	}
	sum := sha256.Sum256(content)
	s.sum = &sum
	if !whole {
		s.Why = fmt.Sprintf("more than %d bytes instead of %d", maxRead, key.Size)
		return s, nil, nil
	}
	s.judge(content)
	return s, content, nil
}

// read opens what was found by name and reads it, no more than maxRead bytes. st
// becomes that of the opened file.
func (s *Seen) read(st *unix.Stat_t) (content []byte, whole bool, err error) {
	// O_NONBLOCK: what was a regular file a moment ago may be a FIFO now.
	r, err := durable.Open(s.file, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY)
	switch err {
	case nil:
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.ENXIO:
		return nil, false, errMoved
	default:
		return nil, false, err
	}
	defer r.Close() //nolint:errcheck // nothing was written
	found := inodeOf(st)
	if err := r.Stat(st); err != nil {
		return nil, false, err
	}
	if inodeOf(st) != found {
		return nil, false, errMoved
	}
	s.describe(st)
	return readAll(r)
}

// readAll reads to the end of the file or to maxRead bytes, whatever fstat said: files
// grow, and those of /proc have no size.
func readAll(r io.Reader) (content []byte, whole bool, err error) {
	buf := make([]byte, 2*key.Size)
	n := 0
	for {
		if n == len(buf) {
			if n > maxRead {
				return buf[:maxRead], false, nil
			}
			more := make([]byte, min(2*n, maxRead+1))
			copy(more, buf)
			clear(buf)
			buf = more
		}
		m, err := r.Read(buf[n:])
		switch n += m; {
		case err == io.EOF:
			return buf[:n], true, nil
		case err != nil:
			clear(buf)
			return nil, false, err
		}
	}
}

// judge says what the content is. 32 bytes are a key whatever they look like: the daemon takes
// them, and may have written rows under them (law 1).
func (s *Seen) judge(content []byte) {
	k, enc, err := key.Decode(content)
	if len(content) == key.Size {
		k, err = key.New(content)
		enc = key.Raw
	}
	s.Key, s.Encoding = k, enc
	switch {
	case enc == key.Raw:
		s.Kind = Good
	case enc == key.Newline:
		s.Why = fmt.Sprintf("%d bytes instead of %d: a newline too many", len(content), key.Size)
	case enc != "":
		s.Why = fmt.Sprintf("%s text of a key", enc)
	case len(content) == 0:
		s.Empty = true
		s.Why = "empty"
	case errors.Is(err, key.ErrMangled):
		s.Mangled = true
		s.Why = fmt.Sprintf("%d bytes instead of %d, destroyed by a conversion to UTF-8", len(content), key.Size)
	default:
		s.Why = fmt.Sprintf("%s instead of %d", printable.Count(int64(len(content)), "byte"), key.Size)
	}
}

func (s *Seen) describe(st *unix.Stat_t) {
	s.Size, s.Mode, s.ModTime = st.Size, fileMode(st), time.Unix(st.Mtim.Unix())
	s.Changed = time.Unix(st.Ctim.Unix())
	s.Dev, s.Ino = st.Dev, st.Ino
	s.UID, s.GID = int(st.Uid), int(st.Gid)
}

// loose says what of a regular file is wider than it should be: another owner, or
// any right of group or others, which the daemon refuses. The group itself does not
// matter where it has no rights; nor does a right of the owner.
func (f File) loose(st *unix.Stat_t) string {
	wide, foreign := st.Mode&0o7077 != 0, int(st.Uid) != f.Owner
	switch {
	case wide && foreign:
		return ownership(st)
	case wide:
		return fmt.Sprintf("mode %04o", st.Mode&0o7777)
	case foreign:
		return "owned by " + user(st.Uid)
	}
	return ""
}

func ownership(st *unix.Stat_t) string {
	return fmt.Sprintf("mode %04o, owned by %s", st.Mode&0o7777, user(st.Uid))
}

// nobody is the uid of all whom a user namespace does not show, user_namespaces(7).
const nobody = 65534

// user names the owner of a file, as far as that can be seen from here.
func user(uid uint32) string {
	name := fmt.Sprintf("uid %d", uid)
	if uid == nobody && hides() {
		name += ", or a user whom this sandbox does not show (PrivateUsers=)"
	}
	return name
}

// hides tells whether this process sees users in a namespace that lacks some.
var hides = sync.OnceValue(func() bool {
	shown, err := os.ReadFile("/proc/self/uid_map")
	f := strings.Fields(string(shown))
	return err == nil && !(len(f) == 3 && f[0] == "0" && f[2] == "4294967295")
})

func typeOf(st *unix.Stat_t) string {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "a device"
	}
	return "no regular file"
}

// fileMode translates inode(7) to Go.
func fileMode(st *unix.Stat_t) fs.FileMode {
	m := fs.FileMode(st.Mode & 0o777)
	for _, b := range []struct {
		bit uint32
		go_ fs.FileMode
	}{{unix.S_ISUID, fs.ModeSetuid}, {unix.S_ISGID, fs.ModeSetgid}, {unix.S_ISVTX, fs.ModeSticky}} {
		if st.Mode&b.bit != 0 {
			m |= b.go_
		}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		m |= fs.ModeDir
	case unix.S_IFLNK:
		m |= fs.ModeSymlink
	case unix.S_IFIFO:
		m |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= fs.ModeSocket
	case unix.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		m |= fs.ModeDevice
	default:
		m |= fs.ModeIrregular
	}
	return m
}

// inode says which file something is, as long as that exists: file systems give the
// number to the next file when one is gone.
type inode struct {
	dev, ino uint64
	kind     uint32 // S_IFMT of inode(7)
}

func inodeOf(st *unix.Stat_t) inode { return inode{st.Dev, st.Ino, st.Mode & unix.S_IFMT} }

// inodeAt tells what has a name, symlinks not followed.
func inodeAt(path string) (inode, error) {
	var st unix.Stat_t
	err := lstat(path, &st)
	return inodeOf(&st), err
}

func lstat(path string, st *unix.Stat_t) error { return durable.Lstat(path, st) }

func open(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
