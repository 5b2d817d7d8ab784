package crew

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
)

// What looks at a file of others does so through these: os.Stat and the like, where a file
// system that hangs, or a FIFO, is ErrHangs.

// Stat is os.Stat. It may be this path alone that hangs: where a file system is mounted.
func Stat(path string) (fs.FileInfo, error) {
	return Within(path, func() (fs.FileInfo, error) { return os.Stat(path) }, nil)
}

// There is nil where a path leads to something.
func There(path string) error {
	_, err := Within(path, func() (struct{}, error) { return struct{}{}, durable.Access(path, unix.F_OK) }, nil)
	return err
}

// Lstat is os.Lstat.
func Lstat(path string) (fs.FileInfo, error) {
	return Within(filepath.Dir(path), func() (fs.FileInfo, error) { return os.Lstat(path) }, nil)
}

// ReadDir is os.ReadDir.
func ReadDir(dir string) ([]fs.DirEntry, error) {
	return Within(dir, func() ([]fs.DirEntry, error) { return os.ReadDir(dir) }, nil)
}

// What a person or a setting names may be anything: a FIFO that nobody feeds or one fed
// without end, a device, a directory. Read and ReadOnce say so, and take neither more time
// nor more memory than a file does.
var (
	ErrNotFile = errors.New("not a regular file")
	ErrLarge   = errors.New("too large")
)

// pipePatience is how long a pipe is waited for: whoever feeds it may ask a person first.
const pipePatience = time.Minute

// Read reads a regular file of at most so many bytes. Its errors do not name the path.
func Read(path string, most int64) ([]byte, error) { return read(path, most, 0) }

// ReadOnce is Read for what is read no second time, and so may be a pipe.
func ReadOnce(path string, most int64) ([]byte, error) { return read(path, most, fs.ModeNamedPipe) }

func read(path string, most int64, also fs.FileMode) ([]byte, error) {
	pipe := false
	f, err := Within(filepath.Dir(path), func() (*os.File, error) {
		// The open of a FIFO, or of some devices, would wait.
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err != nil {
			return nil, bare(err)
		}
		info, err := f.Stat()
		if err == nil && !info.Mode().IsRegular() && info.Mode().Type() != also {
			err = fmt.Errorf("%w, but %s", ErrNotFile, KindOf(info.Mode()))
		}
		if err == nil && info.Mode().IsRegular() && info.Size() > most { // and nobody waits for that
			err = tooLarge(most)
		}
		if err != nil {
			f.Close()
			return nil, bare(err)
		}
		pipe = !info.Mode().IsRegular()
		return f, nil
	}, func(f *os.File) {
		if f != nil {
			f.Close()
		}
	})
	if err != nil {
		return nil, err
	}
	all := func() ([]byte, error) {
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, most+1))
		if err == nil && int64(len(data)) > most {
			clear(data)
			return nil, tooLarge(most)
		}
		return data, bare(err)
	}
	if pipe {
		if err := f.SetReadDeadline(time.Now().Add(pipePatience)); err == nil {
			return all()
		}
	}
	return Within(filepath.Dir(path), all, func(b []byte) { clear(b) })
}

func tooLarge(most int64) error { return fmt.Errorf("%w: more than %d bytes", ErrLarge, most) }

// bare is an error without the path, which stands in the caller's message.
func bare(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// KindOf says what something is that is no regular file.
func KindOf(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	case m.IsDir():
		return "a directory"
	case m&fs.ModeNamedPipe != 0:
		return "a pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeDevice != 0:
		return "a device"
	}
	return "not a regular file"
}
