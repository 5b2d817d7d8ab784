package durable

import (
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Image is what a simulated disk has. It answers at once what the kernel would, or says by
// known that the kernel is to be asked.
type Image interface {
	// Stat is lstat(2), and fstat(2) of what was opened as path.
	Stat(path string, st *unix.Stat_t) (known bool, err error)
	// Content is what a regular file holds; it is not to be changed.
	Content(path string) (data []byte, known bool)
	// Names are those in a directory, sorted.
	Names(dir string) (names []string, known bool)
}

// Simulated is asked before the kernel by whoever reads. It is nil in the program; package
// worlds plays thousands of histories, which mostly read what has not changed.
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

// Fstat is fstat(2) of a file that was opened as path.
func Fstat(fd int, path string, st *unix.Stat_t) error {
	if Simulated != nil {
		if known, err := Simulated.Stat(path, st); known {
			return err
		}
	}
	return retry(func() error { return unix.Fstat(fd, st) })
}

// Names lists the names in a directory, sorted.
func Names(dir string) ([]string, error) {
	if Simulated != nil {
		if names, known := Simulated.Names(dir); known {
			return names, nil
		}
		if known, err := Simulated.Stat(dir, new(unix.Stat_t)); known && err != nil {
			return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // nothing was written
	names, err := d.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// Reader is a file that is open for reading. Its errors are bare numbers of errno(3), or
// io.EOF.
type Reader struct {
	path string
	fd   int // -1: simulated
	data []byte
	off  int
}

// OpenRead opens a file with O_CLOEXEC and the flags given.
func OpenRead(path string, flags int) (*Reader, error) {
	if Simulated != nil {
		if data, known := Simulated.Content(path); known {
			return &Reader{path: path, fd: -1, data: data}, nil
		}
		if known, err := Simulated.Stat(path, new(unix.Stat_t)); known && err != nil {
			return nil, err
		}
	}
	r := &Reader{path: path}
	return r, retry(func() (err error) {
		r.fd, err = unix.Open(path, flags|unix.O_CLOEXEC, 0)
		return err
	})
}

// Stat is fstat(2).
func (r *Reader) Stat(st *unix.Stat_t) error { return Fstat(r.fd, r.path, st) }

// Close gives the file back.
func (r *Reader) Close() error {
	if r.fd < 0 {
		return nil
	}
	return unix.Close(r.fd)
}

// Read is read(2), as an io.Reader.
func (r *Reader) Read(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	if r.fd < 0 {
		n = copy(b, r.data[r.off:])
		r.off += n
	} else {
		err = retry(func() (err error) { n, err = unix.Read(r.fd, b); return err })
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
func (r *Reader) ReadAt(b []byte, off int64) (n int, err error) {
	for n < len(b) {
		var m int
		if r.fd < 0 {
			m = copy(b[n:], r.data[min(off, int64(len(r.data))):])
		} else {
			err = retry(func() (err error) { m, err = unix.Pread(r.fd, b[n:], off); return err })
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
