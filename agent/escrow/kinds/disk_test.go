package kinds

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

// TestDisks builds the part of sysfs(5) that matters, and asks for disks by device number.
func TestDisks(t *testing.T) {
	sys := t.TempDir()
	add := func(number, dir string, files ...string) {
		t.Helper()
		full := filepath.Join(sys, "devices", dir)
		err := os.MkdirAll(full, 0o755)
		for _, f := range files {
			at, to, link := strings.Cut(f, "->")
			at = filepath.Join(full, at)
			err = errors.Join(err, os.MkdirAll(filepath.Dir(at), 0o755))
			if link {
				err = errors.Join(err, os.Symlink(filepath.Join(sys, "devices", to), at))
			} else {
				err = errors.Join(err, os.WriteFile(at, []byte("1\n"), 0o644))
			}
		}
		block := filepath.Join(sys, "dev/block")
		err = errors.Join(err, os.MkdirAll(block, 0o755), os.Symlink(full, filepath.Join(block, number)))
		if err != nil {
			t.Fatal(err)
		}
	}
	add("8:0", "pci/sda")
	add("8:1", "pci/sda/sda1", "partition")
	add("8:2", "pci/sda/sda2", "partition")
	add("8:16", "usb/sdb")
	add("8:17", "usb/sdb/sdb1", "partition")
	add("259:0", "pci/nvme0n1")
	add("259:3", "pci/nvme0n1/nvme0n1p3", "partition")
	add("254:0", "virtual/dm-0", "slaves/sda2->pci/sda/sda2")                                         // LUKS on a partition
	add("254:1", "virtual/dm-1", "slaves/dm-0->virtual/dm-0")                                         // LVM on LUKS
	add("254:2", "virtual/dm-2", "slaves/sdb1->usb/sdb/sdb1")                                         // LUKS on the stick
	add("9:0", "virtual/md0", "slaves/sda1->pci/sda/sda1", "slaves/nvme0n1p3->pci/nvme0n1/nvme0n1p3") // a mirror
	add("9:1", "virtual/md0/md0p1", "partition")                                                      // partitions on it
	add("254:9", "virtual/dm-9", "slaves/dm-9->virtual/dm-9")                                         // in circles
	m := disks{sys: sys, proc: "/proc"}
	for _, tt := range []struct {
		major, minor uint32
		want         string
	}{
		{8, 0, "sda"}, {8, 1, "sda"}, {8, 2, "sda"}, {8, 17, "sdb"}, {259, 3, "nvme0n1"},
		{254, 0, "sda"}, {254, 1, "sda"}, {254, 2, "sdb"}, {9, 0, "nvme0n1 sda"}, {9, 1, "nvme0n1 sda"},
		{0, 45, "device 0:45"}, {254, 9, ""},
	} {
		found := map[string]bool{}
		m.device(unix.Mkdev(tt.major, tt.minor), nil, found, 0)
		if got := strings.Join(slices.Sorted(maps.Keys(found)), " "); got != tt.want {
			t.Errorf("%d:%d lies on %q, want %q", tt.major, tt.minor, got, tt.want)
		}
	}
}

// TestDisksOfThisHost mounts a file system from a loop device, whose file lies on this
// disk: another device number, and not another disk.
func TestDisksOfThisHost(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 8<<20); err != nil {
		t.Fatal(err)
	}
	command := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	command("mkfs.ext4", "-q", image)
	loop := command("losetup", "--find", "--show", image)
	defer command("losetup", "--detach", loop)
	mount := filepath.Join(dir, "mount")
	overlay := filepath.Join(dir, "overlay")
	for _, d := range []string{mount, overlay, filepath.Join(dir, "lower"), filepath.Join(dir, "upper"), filepath.Join(dir, "work")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(loop, mount, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(mount, unix.MNT_DETACH)
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", filepath.Join(dir, "lower"), filepath.Join(dir, "upper"), filepath.Join(dir, "work"))
	if err := unix.Mount("overlay", overlay, "overlay", 0, layers); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(overlay, unix.MNT_DETACH)
	for _, at := range []string{mount, overlay} {
		var a, b unix.Stat_t
		if err := errors.Join(unix.Stat(dir, &a), unix.Stat(at, &b)); err != nil || a.Dev == b.Dev {
			t.Fatalf("nothing is mounted on %s: %v", at, err)
		}
		d, err := NewDirectory(DirectoryOptions{Name: "loop", Path: filepath.Join(at, "keys"), Keyfile: filepath.Join(dir, "secrets.key")})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Init(t.Context()); !errors.Is(err, escrow.ErrSameDisk) {
			t.Errorf("%s: %v, want ErrSameDisk", at, err)
		}
	}
}

func TestServerOf(t *testing.T) {
	for source, want := range map[string]string{
		"nas:/export/keys": "nas", "10.0.0.7:/": "10.0.0.7", "[fe80::1]:/x": "[fe80::1]", "//nas/share": "nas", "//nas/share/deep": "nas",
		"who@nas:/home/who": "nas", "who@nas:": "nas", "nas:": "nas",
	} {
		if got := serverOf(source); got != want {
			t.Errorf("%s is on %q, want %q", source, got, want)
		}
	}
}

func TestMounts(t *testing.T) {
	proc := t.TempDir()
	if err := os.Mkdir(filepath.Join(proc, "self"), 0o755); err != nil {
		t.Fatal(err)
	}
	lines := `22 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 22 253:16 / /mnt/incus-data rw,relatime - ext4 /dev/vdb rw
41 40 0:50 / /mnt/incus-data/pool rw - zfs pool rw
42 22 8:1 / /mnt/keys rw,nosuid - vfat /dev/sda1 rw
43 22 8:1 / /mnt/keys rw,nosuid - vfat /dev/sda1 rw
44 22 8:17 / /media/olga/MY\040STICK rw - exfat /dev/sdb1 rw
45 22 8:33 / /run/media/olga/read ro,nosuid - vfat /dev/sdc1 rw
46 22 8:49 / /mnt rw - ext4 /dev/sdd1 rw
broken
`
	if err := os.WriteFile(filepath.Join(proc, "self/mountinfo"), []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []string{"/mnt/keys", "/media/olga/MY STICK"}
	if got := (disks{proc: proc}).mounts(); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := (disks{proc: filepath.Join(proc, "none")}).mounts(); got != nil {
		t.Errorf("without /proc: %q", got)
	}
}
