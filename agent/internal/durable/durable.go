// Package durable writes files so that a power cut leaves either what was there
// before or what was asked for, whole, and never anything between (law 5).
//
// When a function here returns nil, the file's bytes and its name are on disk. The
// calls it makes, which strace(1) can check:
//
//	lstat(path)           of WriteFile: only a regular file is replaced
//	openat(directory)     first: whoever cannot sync it finds out while nothing is changed
//	statx(directory)      nothing is made where it could not be taken away again
//	openat(temporary, O_RDWR|O_CREAT|O_EXCL|O_CLOEXEC, 0600)  O_EXCL follows no symlink, open(2)
//	fchown(fd)            only if the owner is to be another
//	fchmod(fd)            after fchown, which may clear bits
//	fstat(fd)             a file system without modes takes the call and changes nothing
//	write(fd)
//	fsync(fd)
//	renameat(temporary, path)  or renameat2(temporary, path, RENAME_NOREPLACE)
//	fsync(directory)
//
// A crash before the rename leaves the old file and a temporary one, named
// TempPrefix and something; a crash after it leaves the new file.
//
// The last call can fail when the rename is made. That is ErrNotSynced, the one error after
// which path is not what it was: it has the new text for everybody who reads it now, and
// after a power cut one of the two texts. The caller's duty is to take the step for not done
// (law 5) and yet to reckon with the new text: who tries again finds it, and may not take
// it for somebody else's; who gives up says so, or takes it away. To sync once more proves
// nothing, since an error of fsync(2) is told once.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// TempPrefix begins the name of every temporary file made here. One that is left
// after a crash was never relied on by anybody.
const TempPrefix = ".keyguard-tmp-"

// ErrNoRename2 says that the file system does not know the flags of renameat2(2):
// NFS, and FUSE servers that never heard of them.
var ErrNoRename2 = errors.New("the file system cannot exchange or refuse to replace names")

// ErrNotSynced says that a change of names was made and is seen by everybody, but a power
// cut may undo it: the directory could not be synced.
var ErrNotSynced = errors.New("the change is made, but a power cut may undo it")

// ErrExposed says that others could read a file and were not to: its file system gave it
// another mode than it was asked for. Nothing was written to it.
var ErrExposed = errors.New("the file system takes no modes, and others can read what stands there")

// ErrNotReplaced says that something else than a regular file has the name: a device, a directory,
// a FIFO, a socket, a symlink. To replace it would take it from everybody who uses it.
var ErrNotReplaced = errors.New("it is there and no regular file")

// Attr is what a file is to have besides its bytes. Mode 0 stands for 0600. UID and
// GID of -1 leave the owner as the file system chooses, as in chown(2); the zero
// value is root.
type Attr struct {
	Mode     fs.FileMode
	UID, GID int
	// Modeless allows for a file system without modes, FAT, whose files all have the
	// mount's: where chmod(2) is refused or not known, that will do, unless it is ErrExposed.
	Modeless bool
	// Public: whoever reads it reads no secret, whatever Mode says.
	Public bool
}

// WriteFile puts data at path, replacing a regular file that is there: anything else is
// ErrNotReplaced. On any error but ErrNotSynced path is untouched and nothing is left behind.
func WriteFile(path string, data []byte, a Attr) error {
	if err := replaceable(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return viaTemp(path, data, a, Rename)
}

// Replaceable says why WriteFile would refuse to put a file at path, as far as that shows
// before: ErrNotReplaced, or that its directory is not there. A name that somebody takes after
// this look is replaced, as rename(2) does: it is to keep from mistakes, and whoever can
// change the directory needs none of ours.
func Replaceable(path string) error {
	err := replaceable(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = os.Stat(filepath.Dir(path))
	}
	return err
}

// replaceable is fs.ErrNotExist where there is nothing to replace.
func replaceable(path string) error {
	info, err := os.Lstat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "replace", Path: path, Err: ErrNotReplaced}
	}
	return err
}

// CreateNew puts data at path unless something is there: then the error is
// fs.ErrExist. On any error but ErrNotSynced path is untouched and nothing is left
// behind. It works on file systems without renameat2 flags, and without links, too.
func CreateNew(path string, data []byte, a Attr) error {
	return viaTemp(path, data, a, func(temp, path string) error {
		err := NoReplace(temp, path)
		if !errors.Is(err, ErrNoRename2) {
			return err
		}
		// link(2) refuses to replace as well. A crash here leaves two names of one
		// file, and the temporary one is anybody's to remove.
		err = Link(temp, path)
		if err == nil {
			return Remove(temp)
		}
		if !cannot(err) {
			return err
		}
		// No links either: FAT, behind FUSE. The name is taken first and replaced then. A
		// crash here leaves an empty file, never a torn one.
		f, err := OpenNew(path)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Close(), Rename(temp, path)); err != nil {
			return errors.Join(err, Remove(path))
		}
		return nil
	})
}

// cannot tells that a file system does not have what was asked of it: link(2), chmod(2).
func cannot(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP)
}

func viaTemp(path string, data []byte, a Attr, rename func(temp, path string) error) error {
	dir, err := openDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // nothing is written through it
	f, err := openTemp(dir.Name())
	if err != nil {
		return err
	}
	if err := fill(f, data, a); err != nil {
		return err
	}
	if err := rename(f.Name(), path); err != nil {
		return errors.Join(err, Remove(f.Name()))
	}
	return syncNames(dir)
}

// openTemp opens a new temporary file in dir.
func openTemp(dir string) (*File, error) {
	for {
		f, err := OpenNew(filepath.Join(dir, TempPrefix+strconv.FormatUint(rand.Uint64(), 36)))
		if !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
}

// Create makes a synced file at path directly: for a name of the caller's own that
// nobody reads before it is renamed. It does not sync the directory. The error is
// fs.ErrExist if path is there; on error nothing is left behind.
func Create(path string, data []byte, a Attr) error {
	f, err := OpenNew(path)
	if err != nil {
		return err
	}
	return fill(f, data, a)
}

// fill writes, syncs and closes f, or removes it.
func fill(f *File, data []byte, a Attr) (err error) {
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			err = errors.Join(err, Remove(f.Name()))
		}
	}()
	if a.Mode == 0 {
		a.Mode = 0o600
	}
	var st unix.Stat_t
	if err := f.Stat(&st); err != nil {
		return fmt.Errorf("cannot stat %s: %w", f.Name(), err)
	}
	if (a.UID >= 0 && a.UID != int(st.Uid)) || (a.GID >= 0 && a.GID != int(st.Gid)) {
		if err := Chown(f, a.UID, a.GID); err != nil {
			return err
		}
	}
	if err := Chmod(f, a.Mode); err != nil && !(a.Modeless && cannot(err)) {
		return err
	}
	// A mode that is taken and changes nothing shows only now, and here it costs nothing yet.
	if err := f.Stat(&st); err != nil {
		return fmt.Errorf("cannot stat %s: %w", f.Name(), err)
	}
	if got := fs.FileMode(st.Mode & 0o777); got&^a.Mode&0o044 != 0 && !a.Public && len(data) > 0 {
		return fmt.Errorf("%w (mode %04o)", ErrExposed, got)
	}
	return Append(f, data)
}

// Append writes data to f and syncs it. A torn write is possible only by a crash or
// a full disk; then the error says so and the caller knows what part is there.
func Append(f *File, data []byte) error {
	if len(data) > 0 {
		if err := write(f, data); err != nil {
			return err
		}
	}
	return Sync(f)
}

func write(f *File, data []byte) error {
	made, err := ask(Change{Do: Write, Path: f.Name(), Data: data})
	if short, ok := errors.AsType[*ShortWrite](err); ok {
		return errors.Join(onPath("write", f.Name(), short.Err), onPath("write", f.Name(), f.write(data[:short.Written])))
	}
	if !made && err == nil {
		err = f.write(data)
	}
	return onPath("write", f.Name(), err)
}

// Exchange swaps two names that must both exist, whatever they name. It syncs
// nothing: SyncDir is the caller's.
func Exchange(a, b string) error { return rename2(a, b, unix.RENAME_EXCHANGE) }

// NoReplace renames from to to unless something is there: then the error is
// fs.ErrExist. It syncs nothing.
func NoReplace(from, to string) error { return rename2(from, to, unix.RENAME_NOREPLACE) }

func rename2(from, to string, flags uint) error {
	do := NoReplaceRename
	if flags == unix.RENAME_EXCHANGE {
		do = ExchangeNames
	}
	if made, err := ask(Change{Do: do, Path: from, To: to}); made || err != nil {
		return onPaths("renameat2", from, to, err)
	}
	err := retry(func() error { return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags) })
	if err == nil {
		return nil
	}
	err = &os.LinkError{Op: "renameat2", Old: from, New: to, Err: err}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w: %w", ErrNoRename2, err)
	}
	return err
}

// MkdirAll makes dir, and what is missing above it, with mode 0700 and the owner of a
// (its Mode is not used), and syncs each directory that got a new name. What is there
// already stays as it is. A directory whose name cannot be synced is taken away again:
// whoever comes next would find it and rely on it.
func MkdirAll(dir string, a Attr) error {
	err := mkdir(dir)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		if err := MkdirAll(filepath.Dir(dir), a); err != nil {
			return err
		}
		err = mkdir(dir)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if (a.UID >= 0 && a.UID != os.Geteuid()) || (a.GID >= 0 && a.GID != os.Getegid()) {
		if err := os.Chown(dir, a.UID, a.GID); err != nil {
			return err
		}
	}
	if err := SyncFound(filepath.Dir(dir)); err != nil {
		return fmt.Errorf("cannot make the directory %s: %w", dir, errors.Join(err, Remove(dir)))
	}
	return nil
}

func mkdir(dir string) error {
	if made, err := ask(Change{Do: MakeDir, Path: dir, Mode: 0o700}); made || err != nil {
		return onPath("mkdir", dir, err)
	}
	return os.Mkdir(dir, 0o700)
}

// SyncDir makes the names in dir durable, after the caller has changed one: any error is
// ErrNotSynced of that change.
func SyncDir(dir string) error { return notSynced(SyncFound(dir)) }

// SyncFound is SyncDir for who has changed nothing that lasts, and relies on what was found.
func SyncFound(dir string) error {
	d, err := openDir(dir)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // nothing was written through it
	return syncFound(d)
}

func openDir(dir string) (*File, error) {
	d, err := Open(dir, unix.O_RDONLY)
	return d, onPath("open", dir, err)
}

func syncFound(dir *File) error {
	made, err := ask(Change{Do: SyncNames, Path: dir.Name()})
	if !made && err == nil {
		err = onPath("sync", dir.Name(), dir.sync())
	}
	if err != nil {
		return fmt.Errorf("cannot sync the directory %s: %w", dir.Name(), err)
	}
	return nil
}

func syncNames(dir *File) error { return notSynced(syncFound(dir)) }

func notSynced(err error) error {
	if err != nil {
		return &unsynced{err}
	}
	return nil
}

// unsynced is the ErrNotSynced that says why.
type unsynced struct{ why error }

func (e *unsynced) Error() string        { return ErrNotSynced.Error() + ": " + e.why.Error() }
func (e *unsynced) Unwrap() error        { return e.why }
func (e *unsynced) Is(target error) bool { return target == ErrNotSynced }

// NotDone is an error for who takes the change back: without the word of ErrNotSynced that it
// is made.
func NotDone(err error) error {
	if e, ok := errors.AsType[*unsynced](err); ok {
		return e.why
	}
	return err
}

// retry repeats a call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// Room makes sure that so many files of so many bytes each can be made in dir now, as a says,
// by making them, and takes them away again.
func Room(dir string, files, size int, a Attr) (err error) {
	for range files {
		f, oerr := openTemp(dir)
		if oerr != nil {
			return oerr
		}
		if err := fill(f, make([]byte, size), a); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, Remove(f.Name())) }()
	}
	return nil
}
