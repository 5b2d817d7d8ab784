package rowstest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// room is the directory of one cluster that nobody named. It is locked while its process
// lives, whichever way that ends, and swept away by the next that makes one.
type room struct {
	dir  string
	lock *os.File
}

// leastMemory is what must be free in memory for a cluster to be put there. One that is
// new takes 40 MB, each database 8, and those of a whole run of all tests a gigabyte.
const leastMemory = 3 << 30

// newRoom makes one in memory where there is space: a database is three hundred files,
// and a disk that forgets and makes as many again and again takes five times as long.
func newRoom() (*room, error) {
	parent := filepath.Join(os.TempDir(), fmt.Sprintf("keyguard-rowstest-%d", os.Geteuid()))
	const memory = "/dev/shm"
	var fs unix.Statfs_t
	if unix.Statfs(memory, &fs) == nil && fs.Type == unix.TMPFS_MAGIC && fs.Bavail*uint64(fs.Bsize) >= leastMemory {
		parent = filepath.Join(memory, filepath.Base(parent))
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, err
	}
	all, err := lockDir(parent, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	sweep(parent)
	dir, err := os.MkdirTemp(parent, "")
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(dir, unix.LOCK_EX)
	return &room{dir, lock}, err
}

// sweep takes away what dead processes left. That may fail: it is only in the way.
func sweep(parent string) {
	left, _ := filepath.Glob(filepath.Join(parent, "*"))
	for _, dir := range left {
		if lock, err := lockDir(dir, unix.LOCK_EX|unix.LOCK_NB); err == nil {
			os.RemoveAll(dir)
			lock.Close()
		}
	}
}

func lockDir(dir string, how int) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot lock %s: %w", dir, err)
	}
	return f, nil
}

func (r *room) close() error {
	return errors.Join(os.RemoveAll(r.dir), r.lock.Close())
}
