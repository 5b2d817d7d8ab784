package durable

import (
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Change is one change of a file or a name, as it is about to be made.
type Change struct {
	Do   Do
	Path string      // absolute, of what is changed; of a sync what is synced
	To   string      // Rename, NoReplaceRename, ExchangeNames, HardLink: the other name
	Data []byte      // Write
	Size int64       // Resize
	Mode fs.FileMode // CreateFile, SetMode, MakeDir
}

// Do names a change.
type Do string

// All changes that keyguard makes to files that it relies on.
const (
	CreateFile      Do = "create"
	Write           Do = "write"
	Resize          Do = "truncate"
	SetMode         Do = "chmod"
	SyncFile        Do = "fsync"
	MakeDir         Do = "mkdir"
	SyncNames       Do = "fsync of the directory"
	RenameFile      Do = "rename"
	NoReplaceRename Do = "rename without replacing"
	ExchangeNames   Do = "exchange"
	HardLink        Do = "link"
	RemoveFile      Do = "remove"
)

// ShortWrite is the Disk's answer to a Write of which a part is made before it fails.
type ShortWrite struct {
	Written int
	Err     error
}

func (e *ShortWrite) Error() string { return e.Err.Error() }
func (e *ShortWrite) Unwrap() error { return e.Err }

// Disk is asked before each change: an error is the change's, which then is not made. It
// is nil in the program; the worlds of package worlds have disks that lose what was not
// synced, and that are full, read-only and immutable.
var Disk func(Change) error

// ask returns the disk's error.
func ask(c Change) error {
	if Disk == nil {
		return nil
	}
	return Disk(c)
}

// Link gives a file a second name, link(2). It never replaces, and syncs nothing.
func Link(old, name string) error {
	if err := ask(Change{Do: HardLink, Path: old, To: name}); err != nil {
		return &os.LinkError{Op: "link", Old: old, New: name, Err: err}
	}
	return os.Link(old, name) // linkat(2) without AT_SYMLINK_FOLLOW
}

// Rename is rename(2), which replaces. It syncs nothing.
func Rename(old, name string) error {
	if err := ask(Change{Do: RenameFile, Path: old, To: name}); err != nil {
		return &os.LinkError{Op: "rename", Old: old, New: name, Err: err}
	}
	return os.Rename(old, name)
}

// Remove is unlink(2). It syncs nothing.
func Remove(path string) error {
	if err := ask(Change{Do: RemoveFile, Path: path}); err != nil {
		return &fs.PathError{Op: "remove", Path: path, Err: err}
	}
	return os.Remove(path)
}

// OpenNew opens a new file for writing and reading, with O_CREAT and O_EXCL: the error is
// fs.ErrExist where the name is taken, and fs.ErrPermission in a directory to which names
// can only be added. It syncs nothing.
func OpenNew(path string) (*os.File, error) {
	if appendOnly(filepath.Dir(path)) {
		return nil, &fs.PathError{Op: "open", Path: path, Err: ErrAppendOnly}
	}
	if err := ask(Change{Do: CreateFile, Path: path, Mode: 0o600}); err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// OpenOrNew opens a file with the flags given and O_CREAT, mode 0600. It syncs nothing.
func OpenOrNew(path string, flags int) (*os.File, error) {
	if Disk != nil {
		if err := Lstat(path, new(unix.Stat_t)); err != nil {
			if err := ask(Change{Do: CreateFile, Path: path, Mode: 0o600}); err != nil {
				return nil, &fs.PathError{Op: "open", Path: path, Err: err}
			}
		}
	}
	return os.OpenFile(path, flags|os.O_CREATE, 0o600)
}

// Truncate sets a file's size in bytes, ftruncate(2). It syncs nothing.
func Truncate(f *os.File, size int64) error {
	if err := ask(Change{Do: Resize, Path: f.Name(), Size: size}); err != nil {
		return &fs.PathError{Op: "truncate", Path: f.Name(), Err: err}
	}
	return f.Truncate(size)
}

// Chmod sets a file's mode, fchmod(2). It syncs nothing.
func Chmod(f *os.File, mode fs.FileMode) error {
	if err := ask(Change{Do: SetMode, Path: f.Name(), Mode: mode}); err != nil {
		return &fs.PathError{Op: "chmod", Path: f.Name(), Err: err}
	}
	return f.Chmod(mode)
}

// Sync is fsync(2) of a file.
func Sync(f *os.File) error {
	if err := ask(Change{Do: SyncFile, Path: f.Name()}); err != nil {
		return &fs.PathError{Op: "sync", Path: f.Name(), Err: err}
	}
	return f.Sync()
}

// ErrAppendOnly says that names can be added to a directory and not be taken away. It is an
// fs.ErrPermission too.
var ErrAppendOnly error = appendOnlyError{}

type appendOnlyError struct{}

func (appendOnlyError) Error() string        { return "the directory is append-only" }
func (appendOnlyError) Is(target error) bool { return target == fs.ErrPermission }

// appendOnly tells whether names can be added to a directory and not be taken away,
// ioctl_iflags(2): what is made there under another name would stay there, with the bytes
// of a key in it. Where the file system does not say, they can.
func appendOnly(dir string) bool { return attributes(dir)&unix.STATX_ATTR_APPEND != 0 }

// Immutable tells whether a file or directory is one that nobody can change, root neither:
// ioctl_iflags(2), chattr +i. Where the file system does not say, it is not.
func Immutable(path string) bool { return attributes(path)&unix.STATX_ATTR_IMMUTABLE != 0 }

func attributes(path string) uint64 {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
		return 0
	}
	return st.Attributes
}
