package unit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// What the watcher may lack to hear of changes at once. Containers' use counts against
// root's own, inotify(7).
var (
	// ErrInotifyInstances says that fs.inotify.max_user_instances are in use.
	ErrInotifyInstances = errors.New("all of fs.inotify.max_user_instances are in use")
	// ErrInotifyWatches says that fs.inotify.max_user_watches are in use.
	ErrInotifyWatches = errors.New("all of fs.inotify.max_user_watches are in use")
)

// InotifyError names the limit that kept a watch from being set, where it was one. The
// kernel's own words for it are those for a full disk and too many open files.
func InotifyError(err error) error {
	switch {
	case errors.Is(err, unix.EMFILE):
		return ErrInotifyInstances
	case errors.Is(err, unix.ENOSPC):
		return ErrInotifyWatches
	}
	return err
}

// Watches tells whether a process has watches on directories: nil, or which limit it must
// have met. It looks at what the process has open, proc_pid_fdinfo(5).
func Watches(pid int) error {
	dir := fmt.Sprintf("/proc/%d", pid)
	entries, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return fmt.Errorf("cannot look at what the watcher has open: %w", err)
	}
	lacks := ErrInotifyInstances
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, "fd", e.Name()))
		if err != nil || to != "anon_inode:inotify" {
			continue
		}
		lacks = ErrInotifyWatches
		info, err := os.ReadFile(filepath.Join(dir, "fdinfo", e.Name()))
		if err == nil && strings.Contains(string(info), "inotify wd:") {
			return nil
		}
	}
	return lacks
}
