package unit

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWatches tells from outside whether a process hears of changes, and what it lacks.
func TestWatches(t *testing.T) {
	self := os.Getpid()
	if err := Watches(self); !errors.Is(err, ErrInotifyInstances) {
		t.Errorf("without an instance: %v", err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := Watches(self); !errors.Is(err, ErrInotifyWatches) {
		t.Errorf("without a watch: %v", err)
	}
	if _, err := unix.InotifyAddWatch(fd, t.TempDir(), unix.IN_CREATE); err != nil {
		t.Fatal(err)
	}
	if err := Watches(self); err != nil {
		t.Errorf("with one: %v", err)
	}
	if err := Watches(1 << 30); err == nil || errors.Is(err, ErrInotifyInstances) {
		t.Errorf("of no process: %v", err)
	}
}

// TestInotifyError: what the kernel says of its limits is what it says of disks and files.
func TestInotifyError(t *testing.T) {
	for err, want := range map[error]error{unix.EMFILE: ErrInotifyInstances, unix.ENOSPC: ErrInotifyWatches, unix.EACCES: unix.EACCES, nil: nil} {
		if got := InotifyError(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
