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
// is nil in the program; tests have changes fail by it.
var Disk func(Change) error

// ask returns the disk's error, and whether a simulated disk has made the change.
func ask(c Change) (made bool, err error) {
	if Disk != nil {
		if err := Disk(c); err != nil {
			return false, err
		}
	}
	if Simulated != nil {
		return Simulated.Make(c)
	}
	return false, nil
}

// onPath is an error of a call by its path, nil for none.
func onPath(op, path string, err error) error {
	if err != nil {
		return &fs.PathError{Op: op, Path: path, Err: err}
	}
	return nil
}

// onPaths is onPath of a call with two.
func onPaths(op, old, name string, err error) error {
	if err != nil {
		return &os.LinkError{Op: op, Old: old, New: name, Err: err}
	}
	return nil
}

// Link gives a file a second name, link(2). It never replaces, and syncs nothing.
func Link(old, name string) error {
	if made, err := ask(Change{Do: HardLink, Path: old, To: name}); made || err != nil {
		return onPaths("link", old, name, err)
	}
	return os.Link(old, name) // linkat(2) without AT_SYMLINK_FOLLOW
}

// Rename is rename(2), which replaces. It syncs nothing.
func Rename(old, name string) error {
	if made, err := ask(Change{Do: RenameFile, Path: old, To: name}); made || err != nil {
		return onPaths("rename", old, name, err)
	}
	return os.Rename(old, name)
}

// Remove is unlink(2). It syncs nothing.
func Remove(path string) error {
	if made, err := ask(Change{Do: RemoveFile, Path: path}); made || err != nil {
		return onPath("remove", path, err)
	}
	return os.Remove(path)
}

// OpenNew opens a new file for writing and reading, with O_CREAT and O_EXCL: the error is
// fs.ErrExist where the name is taken, and fs.ErrPermission in a directory to which names
// can only be added. It syncs nothing.
func OpenNew(path string) (*File, error) {
	if appendOnly(filepath.Dir(path)) {
		return nil, onPath("open", path, ErrAppendOnly)
	}
	return create(path, unix.O_RDWR|unix.O_EXCL)
}

// OpenOrNew opens a file with the flags given and O_CREAT, mode 0600. It syncs nothing.
func OpenOrNew(path string, flags int) (*File, error) {
	if Disk == nil && Simulated == nil {
		return kernelCreate(path, flags)
	}
	switch f, err := Open(path, flags); err { // only what is new is a change
	case nil:
		return f, nil
	case unix.ENOENT:
		return create(path, flags)
	default:
		return nil, onPath("open", path, err)
	}
}

func create(path string, flags int) (*File, error) {
	made, err := ask(Change{Do: CreateFile, Path: path, Mode: 0o600})
	switch {
	case err != nil:
		return nil, onPath("open", path, err)
	case made:
		return &File{path: path, fd: -1}, nil
	}
	return kernelCreate(path, flags)
}

func kernelCreate(path string, flags int) (*File, error) {
	f, err := kernelOpen(path, flags|unix.O_CREAT)
	return f, onPath("open", path, err)
}

// Truncate sets a file's size in bytes, ftruncate(2). It syncs nothing.
func Truncate(f *File, size int64) error {
	made, err := ask(Change{Do: Resize, Path: f.path, Size: size})
	if !made && err == nil {
		err = retry(func() error { return unix.Ftruncate(f.fd, size) })
	}
	return onPath("truncate", f.path, err)
}

// Chmod sets a file's mode, fchmod(2). It syncs nothing.
func Chmod(f *File, mode fs.FileMode) error {
	made, err := ask(Change{Do: SetMode, Path: f.path, Mode: mode})
	if !made && err == nil {
		err = retry(func() error { return unix.Fchmod(f.fd, uint32(mode.Perm())) })
	}
	return onPath("chmod", f.path, err)
}

// Chown sets a file's owner, fchown(2). It syncs nothing. On simulated disks all is one owner's.
func Chown(f *File, uid, gid int) error {
	if f.fd < 0 {
		return nil
	}
	return onPath("chown", f.path, retry(func() error { return unix.Fchown(f.fd, uid, gid) }))
}

// Sync is fsync(2) of a file.
func Sync(f *File) error {
	made, err := ask(Change{Do: SyncFile, Path: f.path})
	if !made && err == nil {
		err = f.sync()
	}
	return onPath("sync", f.path, err)
}

func (f *File) sync() error { return retry(func() error { return unix.Fsync(f.fd) }) }

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

// Full tells whether a directory's file system has no block, or no inode, for one file more,
// root's reserve included: statfs(2). Where it does not say, it is not.
func Full(dir string) bool {
	var st unix.Statfs_t
	if Simulated != nil || unix.Statfs(dir, &st) != nil {
		return false // as above
	}
	return st.Blocks > 0 && st.Bfree == 0 || st.Files > 0 && st.Ffree == 0
}

func attributes(path string) uint64 {
	var st unix.Statx_t
	if Simulated != nil {
		return 0 // it says so itself when it is to change
	}
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
		return 0
	}
	return st.Attributes
}
