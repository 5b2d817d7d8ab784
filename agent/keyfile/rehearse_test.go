package keyfile_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
)

// tmpfs mounts one of its own.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("mounting needs root: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestRehearse(t *testing.T) {
	k := key.Generate()
	dir := tmpfs(t, "size=64k")
	open := openFiles(t)
	got, err := keyfile.Rehearse(dir, k)
	if err != nil || !got.Equal(k) {
		t.Errorf("%v, %v", got, err)
	}
	got.Wipe()
	if k.Equal(got) {
		t.Error("what was read shares the bytes")
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("left in scratch: %v, %v", names, err)
	}
	if now := openFiles(t); now != open {
		t.Errorf("%d files are open, %d before", now, open)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestRehearseRefuses(t *testing.T) {
	full := tmpfs(t, "size=4k")
	if err := os.WriteFile(filepath.Join(full, "full"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	inodes := tmpfs(t, "size=64k,nr_inodes=1")
	disk, err := os.MkdirTemp("/var/tmp", "rehearse")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(disk)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(disk, link); err != nil {
		t.Fatal(err)
	}
	var readonly = tmpfs(t, "size=64k,ro")
	for dir, want := range map[string]error{
		disk: keyfile.ErrNotMemory, link: keyfile.ErrNotMemory, full: syscall.ENOSPC, inodes: syscall.ENOSPC,
		readonly: syscall.EROFS, filepath.Join(disk, "missing"): os.ErrNotExist, "/dev/null": syscall.ENOTDIR,
	} {
		t.Run(fmt.Sprint(want), func(t *testing.T) {
			if k, err := keyfile.Rehearse(dir, key.Generate()); !errors.Is(err, want) || !k.IsZero() {
				t.Errorf("%v, %v", k, err)
			}
		})
	}
}
