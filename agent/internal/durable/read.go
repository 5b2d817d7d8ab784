package durable

import (
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Image is a simulated disk. It answers at once what the kernel would, or says by known that
// the kernel is to be asked.
type Image interface {
	// Stat is lstat(2), and fstat(2) of what was opened as path; st may be nil.
	Stat(path string, st *unix.Stat_t) (known bool, err error)
	// Content is what a regular file holds; it is not to be changed.
	Content(path string) (data []byte, known bool)
	// Names are those in a directory, sorted.
	Names(dir string) (names []string, known bool)
	// Make makes a change, with the kernel's error where it would refuse it.
	Make(Change) (known bool, err error)
}

// Simulated is asked before the kernel. It is nil in the program; package worlds plays
// thousands of histories on disks in memory.
var Simulated Image

// AtOnce tells that no file hangs whoever touches it: they are simulated.
func AtOnce() bool { return Simulated != nil }

// Lstat is lstat(2).
func Lstat(path string, st *unix.Stat_t) error {
	if Simulated != nil {
		if known, err := Simulated.Stat(path, st); known {
			return err
		}
	}
	return retry(func() error { return unix.Lstat(path, st) })
}

// Access is access(2).
func Access(path string, mode uint32) error {
	if Simulated != nil {
		if known, err := Simulated.Stat(path, nil); known {
			return err
		}
	}
	return unix.Access(path, mode)
}

// Names lists the names in a directory, sorted.
func Names(dir string) ([]string, error) {
	if Simulated != nil {
		if names, known := Simulated.Names(dir); known {
			return names, nil
		}
		if known, err := Simulated.Stat(dir, nil); known && err != nil {
			return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
		}
	}
	// A FIFO in its place would be waited for.
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // nothing was written
	names, err := d.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// File is a file or a directory that is open. The errors of its methods are bare numbers of
// errno(3), or io.EOF.
type File struct {
	path string
	fd   int    // -1: simulated
	data []byte // where it is: what stood there when it was opened
	off  int    // of the next Read
}

// Open opens a file that is there with O_CLOEXEC and the flags given. Its errors are bare
// numbers, too.
func Open(path string, flags int) (*File, error) {
	if Simulated != nil {
		if known, err := Simulated.Stat(path, nil); known {
			if err != nil {
				return nil, err
			}
			data, _ := Simulated.Content(path)
			return &File{path: path, fd: -1, data: data}, nil
		}
	}
	return kernelOpen(path, flags)
}

func kernelOpen(path string, flags int) (*File, error) {
	f := &File{path: path}
	return f, retry(func() (err error) {
		f.fd, err = unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
		return err
	})
}

// Name is the path by which it was opened.
func (f *File) Name() string { return f.path }

// Stat is fstat(2).
func (f *File) Stat(st *unix.Stat_t) error {
	if f.fd < 0 {
		_, err := Simulated.Stat(f.path, st)
		return err
	}
	return retry(func() error { return unix.Fstat(f.fd, st) })
}

// Close gives the file back. What was written is synced by then, or nobody relies on it.
func (f *File) Close() error {
	if f.fd < 0 {
		return nil
	}
	return unix.Close(f.fd)
}

// Read is read(2), as an io.Reader.
func (f *File) Read(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	if f.fd < 0 {
		n = copy(b, f.data[f.off:])
		f.off += n
	} else {
		err = retry(func() (err error) { n, err = unix.Read(f.fd, b); return err })
	}
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// ReadAt is pread(2), as an io.ReaderAt.
func (f *File) ReadAt(b []byte, off int64) (n int, err error) {
	for n < len(b) {
		var m int
		if f.fd < 0 {
			m = copy(b[n:], f.data[min(off, int64(len(f.data))):])
		} else {
			err = retry(func() (err error) { m, err = unix.Pread(f.fd, b[n:], off); return err })
		}
		if err != nil {
			return n, err
		}
		if m == 0 {
			return n, io.EOF
		}
		n, off = n+m, off+int64(m)
	}
	return n, nil
}

// write is write(2), of all of it.
func (f *File) write(data []byte) error {
	for len(data) > 0 {
		var n int
		if err := retry(func() (err error) { n, err = unix.Write(f.fd, data); return err }); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}
