package keyfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/internal/durable/durabletest"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

func TestRestoreInto(t *testing.T) {
	k := key.Generate()
	dir := durabletest.TmpFS(t, 64<<10)
	open := len(namesIn(t, "/proc/self/fd"))
	got, err := RestoreInto(dir, k)
	if err != nil || !got.Equal(k) {
		t.Errorf("%v, %v", got, err)
	}
	got.Wipe()
	if k.Equal(got) {
		t.Error("what was read shares the bytes")
	}
	if names := namesIn(t, dir); len(names) > 0 {
		t.Errorf("left in scratch: %v", names)
	}
	if now := len(namesIn(t, "/proc/self/fd")); now != open {
		t.Errorf("%d files are open, %d before", now, open)
	}
}

func TestRestoreIntoRefuses(t *testing.T) {
	full := durabletest.TmpFS(t, 64<<10)
	durabletest.Fill(t, full)
	readonly := durabletest.TmpFS(t, 64<<10)
	durabletest.ReadOnly(t, readonly)
	disk, err := os.MkdirTemp("/var/tmp", "scratch")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(disk)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(disk, link); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]error{
		disk: ErrNotMemory, link: ErrNotMemory, full: syscall.ENOSPC, readonly: syscall.EROFS,
		filepath.Join(disk, "missing"): os.ErrNotExist, "/dev/null": syscall.ENOTDIR,
	} {
		t.Run(fmt.Sprint(want), func(t *testing.T) {
			if k, err := RestoreInto(dir, key.Generate()); !errors.Is(err, want) || !k.IsZero() {
				t.Errorf("%v, %v", k, err)
			}
		})
	}
}

// envScratch is the directory in which the traced program restores into.
const envScratch = "KEYFILE_TEST_SCRATCH"

func restoring() error {
	k := freshKey()
	durabletest.Begin()
	defer durabletest.End()
	read, err := RestoreInto(os.Getenv(envScratch), k)
	if err == nil && !read.Equal(k) {
		err = errors.New("another key was read")
	}
	return err
}

// TestRestoreIntoKilled: whatever it was doing, one that is killed leaves nothing, and the
// memory is free again.
func TestRestoreIntoKilled(t *testing.T) {
	dir := durabletest.TmpFS(t, 64<<10)
	for n, steps := 0, 1; n <= steps; n++ {
		calls, ended := durabletest.Run(t, n, envCrash+"="+intoScratch, envScratch+"="+dir)
		if ended != (n == 0) {
			t.Fatalf("killed at %d of %d, ended %v", n, steps, ended)
		}
		if n == 0 {
			steps = len(calls)
			if steps < 2 { // written, and overwritten
				t.Errorf("calls %q", calls)
			}
		}
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		if names := namesIn(t, dir); len(names) > 0 || st.Bfree != st.Blocks {
			t.Errorf("killed before step %d (%s): %v, %d of %d blocks are free", n, calls[len(calls)-1], names, st.Bfree, st.Blocks)
		}
	}
}
