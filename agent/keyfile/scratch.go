package keyfile

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// ErrNotMemory says that a directory does not lie in memory, so that no key may be
// written there (law 8).
var ErrNotMemory = errors.New("not on a tmpfs")

// RestoreInto does with k what a restore and the daemon's start after it do: it writes the
// bytes to a file, 0400, and reads that the way the daemon reads its key. It returns the
// key that was read, which the caller wipes.
//
// dir must be on a tmpfs: the error is ErrNotMemory, and nothing was written; where it
// hangs it is crew.ErrHangs. The file
// has no name (O_TMPFILE, open(2)), so that it is gone when this process is, whatever
// ends it; it is overwritten besides.
func RestoreInto(dir string, k key.Key) (key.Key, error) {
	read, err := crew.Within(dir, func() (key.Key, error) { return restoreInto(dir, k) }, key.Key.Wipe)
	if err != nil {
		return key.Key{}, fmt.Errorf("cannot restore into %s: %w", dir, err)
	}
	return read, nil
}

func restoreInto(dir string, k key.Key) (read key.Key, err error) {
	at, err := open(dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return read, err
	}
	defer unix.Close(at) //nolint:errcheck // nothing was written
	var st unix.Statfs_t
	if err := unix.Fstatfs(at, &st); err != nil {
		return read, err
	}
	if st.Type != unix.TMPFS_MAGIC {
		return read, ErrNotMemory
	}
	fd, err := unix.Openat(at, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, uint32(mode))
	if err != nil {
		return read, err
	}
	f := os.NewFile(uintptr(fd), "scratch")
	defer func() {
		if _, werr := f.WriteAt(make([]byte, key.Size), 0); err == nil {
			err = werr
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			read.Wipe()
			read = key.Key{}
		}
	}()
	if _, err := f.WriteAt(k.UnsafeBytes(), 0); err != nil {
		return read, errors.Unwrap(err) // the path stands in the caller's message
	}
	return readAsDaemon(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// readAsDaemon loads a key as the daemon does at its start: symlinks are followed, no
// right of group or others is allowed, and there must be exactly 32 bytes.
func readAsDaemon(path string) (key.Key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return key.Key{}, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return key.Key{}, fmt.Errorf("the daemon would refuse mode %04o", info.Mode().Perm())
	}
	f, err := os.Open(path)
	if err != nil {
		return key.Key{}, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	content := make([]byte, key.Size+1)
	defer clear(content)
	n, err := io.ReadFull(f, content)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		return key.Key{}, fmt.Errorf("the daemon would read %d bytes or more: %w", n, err)
	}
	return key.New(content[:n])
}
