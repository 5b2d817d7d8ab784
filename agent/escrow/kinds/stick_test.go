package kinds_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable/durabletest"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	try(t, os.MkdirAll(filepath.Dir(path), 0o700))
	try(t, os.WriteFile(path, []byte(text), 0o600))
}

// udevEntry is what udev keeps of a device with a file system.
func udevEntry(label, uuid string) string {
	return "S:disk/by-label/x\nI:1000\nE:ID_FS_TYPE=ext4\nE:ID_FS_LABEL=" + strings.ReplaceAll(label, `\x20`, "_") +
		"\nE:ID_FS_LABEL_ENC=" + label + "\nE:ID_FS_UUID=" + uuid + "\nE:ID_FS_UUID_ENC=" + uuid + "\nE:ID_FS_USAGE=filesystem\nG:systemd\n"
}

// TestStickNames looks for names in what udev and the kernel might say. Devices with
// the major numbers 240 and 241 are on no host.
func TestStickNames(t *testing.T) {
	plain := map[string]string{"b240:1": udevEntry("KEYS", "12AB-34CD")}
	elsewhere := "30 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
	for _, tt := range []struct {
		name, path string
		udev       map[string]string // nil: there is no udev
		mountinfo  string
		want       error
		says       string
	}{
		{"no udev", "LABEL=KEYS", nil, elsewhere, escrow.ErrNoPlace, "no udev runs here to find LABEL=KEYS"},
		{"not plugged in", "LABEL=KEYS", map[string]string{}, elsewhere, escrow.ErrNoPlace, "no device with LABEL=KEYS is plugged in; plug it in, then: mount 'LABEL=KEYS' /mnt/…"},
		{"another name", "LABEL=KEY/a", plain, elsewhere, escrow.ErrNoPlace, "no device with LABEL=KEY is plugged in"},
		{"a label is no UUID", "UUID=KEYS", plain, elsewhere, escrow.ErrNoPlace, "no device with UUID=KEYS is plugged in"},
		{"not mounted", "LABEL=KEYS/a", plain, elsewhere, escrow.ErrNoPlace, "LABEL=KEYS is plugged in (device 240:1) and not mounted: mount 'LABEL=KEYS' /mnt/…"},
		{"not mounted, by UUID", "UUID=12AB-34CD", plain, elsewhere, escrow.ErrNoPlace, "UUID=12AB-34CD is plugged in (device 240:1) and not mounted"},
		{"with a space", "LABEL=MY KEYS/a", map[string]string{"b240:1": udevEntry(`MY\x20KEYS`, "1")}, elsewhere, escrow.ErrNoPlace,
			"LABEL=MY KEYS is plugged in (device 240:1) and not mounted: mount 'LABEL=MY KEYS' /mnt/…"},
		{"an escape that is none", `LABEL=A\xZZ\x4`, map[string]string{"b240:1": udevEntry(`A\xZZ\x4`, "1")}, elsewhere, escrow.ErrNoPlace, "is plugged in"},
		{"another mounted over it", "LABEL=KEYS", plain, "31 1 240:1 / /tmp rw - ext4 /dev/sdx1 rw\n", escrow.ErrNoPlace, "not mounted"},
		{"twice", "LABEL=KEYS", map[string]string{"b240:1": udevEntry("KEYS", "1"), "b241:7": udevEntry("KEYS", "2")}, elsewhere,
			escrow.ErrAmbiguous, "LABEL=KEYS is on device 240:1 and on device 241:7"},
		{"no file system", "LABEL=KEYS", map[string]string{
			"b240:1": strings.Replace(udevEntry("KEYS", "1"), "USAGE=filesystem", "USAGE=crypto", 1), "b241:7": udevEntry("KEYS", "2"),
		}, elsewhere, escrow.ErrNoPlace, "is plugged in (device 241:7)"},
		{"no block device", "LABEL=KEYS", map[string]string{"c240:1": udevEntry("KEYS", "1"), "bnonsense": udevEntry("KEYS", "1"), "b240:": udevEntry("KEYS", "1"),
			"n3": "", "+pci:1": ""}, elsewhere, escrow.ErrNoPlace, "no device with LABEL=KEYS"},
		{"mountinfo of another form", "LABEL=KEYS", plain, "31 1\n\n31 1 x / /tmp rw\n", escrow.ErrNoPlace, "not mounted"},
		{"a line without an end", "LABEL=KEYS", plain, strings.Repeat("x", 1<<17), escrow.ErrUnreachable, "too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			udev, mountinfo := filepath.Join(dir, "udev"), filepath.Join(dir, "mountinfo")
			writeFile(t, mountinfo, tt.mountinfo)
			if tt.udev != nil {
				try(t, os.Mkdir(udev, 0o700))
			}
			for name, text := range tt.udev {
				writeFile(t, filepath.Join(udev, name), text)
			}
			d := openDirectory(t, kinds.DirectoryOptions{Path: tt.path, Udev: udev, Mountinfo: mountinfo})
			_, listed := d.List(t.Context())
			_, saved := d.Save(t.Context(), escrow.Current, key.Generate())
			for _, err := range []error{listed, saved, d.Init(t.Context())} {
				if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("%v; want %v that says %q", err, tt.want, tt.says)
				}
			}
		})
	}
}

func TestStickOfNoName(t *testing.T) {
	for _, path := range []string{"LABEL=", "LABEL", "UUID=/a", "LABEL=KEYS/", "LABEL=KEYS/../a", "LABEL=KEYS//a", "KEYS", "label=KEYS"} {
		if _, err := kinds.NewDirectory(kinds.DirectoryOptions{Name: "usb", Path: path}); err == nil {
			t.Errorf("%q is taken", path)
		}
	}
}

// loopStick is a file system on a loop device for a stick, with the label KEYS and the
// UUID 12ab-34cd in a udev database of its own, and a mount point with a space in it.
type loopStick struct{ loop, number, point, udev string }

func newStick(t *testing.T) loopStick {
	t.Helper()
	needRoot(t)
	command := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	s := loopStick{point: filepath.Join(dir, "a stick"), udev: filepath.Join(dir, "udev")}
	writeFile(t, image, "")
	try(t, os.Truncate(image, 8<<20))
	try(t, os.Mkdir(s.point, 0o700))
	command("mkfs.ext4", "-q", image)
	s.loop = command("losetup", "--find", "--show", image)
	t.Cleanup(func() {
		for unix.Unmount(s.point, unix.MNT_DETACH) == nil { // where the test ended early
		}
		command("losetup", "--detach", s.loop)
	})
	var st unix.Stat_t
	try(t, unix.Stat(s.loop, &st))
	s.number = fmt.Sprintf("%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
	writeFile(t, filepath.Join(s.udev, "b"+s.number), udevEntry("KEYS", "12ab-34cd"))
	writeFile(t, filepath.Join(s.udev, "b240:1"), udevEntry("OTHER", "12ab-34ce"))
	s.mount(t, s.point)
	return s
}

func (s loopStick) mount(t *testing.T, at string) {
	t.Helper()
	try(t, unix.Mount(s.loop, at, "ext4", 0, ""))
}

// yank does what pulling it out does: nothing reaches the disk any more, what was only
// in memory is lost, and every call fails (EXT4_IOC_SHUTDOWN, GOING_FLAGS_NOLOGFLUSH).
func (s loopStick) yank() error {
	const shutdown, noLogFlush = 0x8004587d, 2
	f, err := os.Open(s.point)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush)
}

// plugInAgain mounts what was yanked anew.
func (s loopStick) plugInAgain(t *testing.T) {
	t.Helper()
	try(t, unix.Unmount(s.point, 0))
	s.mount(t, s.point)
}

// envOwnMounts says that nobody else has the mounts of this process.
const envOwnMounts = "ESCROW_TEST_OWN_MOUNTS"

// inOwnMounts runs a test in a process with mounts of its own, and tells whether this is that
// process. A container that starts copies the mounts of this machine, and for as long as it has
// them a mount of the same device is of the file system that was shut down.
func inOwnMounts(t *testing.T) bool {
	t.Helper()
	if os.Getenv(envOwnMounts) != "" {
		return true
	}
	needRoot(t)
	program, err := os.Executable()
	try(t, err)
	c := exec.Command("unshare", "--mount", "--propagation=private", program, "-test.v", "-test.run=^"+t.Name()+"$")
	c.Env = append(os.Environ(), envOwnMounts+"=1")
	out, err := c.CombinedOutput()
	if t.Logf("%s", out); err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("with mounts of its own: %v", err)
	}
	return false
}

// envYanked names a file with a key, which a child is to save on the stick. It leaves what
// came of it beside it.
const envYanked, envYankedUdev = "ESCROW_TEST_YANKED", "ESCROW_TEST_YANKED_UDEV"

func saveYanked() {
	file := os.Getenv(envYanked)
	raw, err := os.ReadFile(file)
	must(err)
	k, err := key.New(raw)
	must(err)
	d, err := kinds.NewDirectory(kinds.DirectoryOptions{Name: "usb", Path: "LABEL=KEYS/host1", Udev: os.Getenv(envYankedUdev)})
	must(err)
	durabletest.Begin()
	c, err := d.Save(context.Background(), escrow.Current, k)
	durabletest.End()
	says := ""
	if err != nil {
		says = fmt.Sprint(errors.Is(err, escrow.ErrUnreachable), " ", err)
	}
	must(os.WriteFile(file+".id", []byte(c.ID), 0o600))
	must(os.WriteFile(file+".error", []byte(says), 0o600))
}

// TestStickYanked pulls the stick out before each of the calls by which a copy is written,
// and after the last one. What was said to be saved is there when it is plugged in again;
// everything on it is whole or named, what was there before is untouched, and the next
// save goes through.
func TestStickYanked(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	s := newStick(t)
	d := openDirectory(t, kinds.DirectoryOptions{Path: "LABEL=KEYS/host1", Udev: s.udev})
	try(t, d.Init(t.Context()))
	saved := map[string]key.Key{}
	first := key.Generate()
	saved[mustSave(t, d, escrow.Current, first).ID] = first
	failed := 0
	for n, last := 1, false; !last; n++ {
		k := key.Generate()
		file := filepath.Join(t.TempDir(), "key")
		try(t, os.WriteFile(file, k.UnsafeBytes(), 0o600))
		calls := durabletest.Interrupt(t, n, s.yank, envYanked+"="+file, envYankedUdev+"="+s.udev)
		step := "nothing more"
		if last = n > len(calls); last {
			try(t, s.yank())
		} else {
			step = calls[n-1]
		}
		id, err := os.ReadFile(file + ".id")
		try(t, err)
		says, err := os.ReadFile(file + ".error")
		try(t, err)
		t.Logf("yanked before call %d, %s: %q %s", n, step, id, says)
		if len(says) > 0 {
			failed++
			if text := string(says); !strings.HasPrefix(text, "true ") || !strings.Contains(text, "LABEL=KEYS/host1/current") {
				t.Errorf("before %s: %s; want that the stick is unreachable", step, says)
			}
		} else {
			saved[string(id)] = k
		}
		if _, err := d.Save(t.Context(), escrow.Current, k); err == nil {
			t.Errorf("before %s: saved on a stick that is gone", step)
		}

		s.plugInAgain(t)
		copies, err := d.List(t.Context())
		try(t, err)
		there := map[string]bool{}
		for _, c := range copies {
			there[c.ID] = true
			got, _, err := d.Fetch(t.Context(), c)
			switch want, ok := saved[c.ID]; {
			case ok && (err != nil || !got.Equal(want)):
				t.Errorf("before %s: %s was saved, and is %v, %v", step, c.ID, got, err)
			case !ok && err == nil && !got.Equal(k):
				t.Errorf("before %s: %s is key %v, which nobody saved", step, c.ID, got)
			case err != nil && !errors.Is(err, escrow.ErrNotKey) && !errors.Is(err, escrow.ErrCorrupt):
				t.Errorf("before %s: %s: %v", step, c.ID, err)
			}
			got.Wipe()
		}
		for id := range saved {
			if !there[id] {
				t.Errorf("before %s: %s was saved, and is gone", step, id)
			}
		}
		c := mustSave(t, d, escrow.Current, k)
		saved[c.ID] = k
		if got, _, err := d.Fetch(t.Context(), c); err != nil || !got.Equal(k) {
			t.Errorf("before %s: the next save: %v", step, err)
		}
	}
	if failed < 5 {
		t.Errorf("only %d of the saves failed", failed)
	}
	for _, k := range saved {
		k.Wipe()
	}
}

// TestStickOfThisHost looks for a stick wherever it is mounted.
func TestStickOfThisHost(t *testing.T) {
	stick := newStick(t)
	point, udev, loop := stick.point, stick.udev, stick.loop
	dir := t.TempDir()
	part, other := filepath.Join(dir, "part"), filepath.Join(dir, "other")
	defer func() { // where the test ended early
		for _, at := range []string{part, other} {
			_ = unix.Unmount(at, unix.MNT_DETACH)
		}
	}()

	o := kinds.DirectoryOptions{Path: "LABEL=KEYS/host1", Udev: udev}
	d := openDirectory(t, o)
	if p := d.Place(); p.Where != "LABEL=KEYS/host1" || p.Domain != "the file system LABEL=KEYS" {
		t.Errorf("it is %+v", p)
	}
	if err := lists(t, d); !errors.Is(err, escrow.ErrNoPlace) || !strings.Contains(err.Error(), "not initialised") {
		t.Errorf("List before Init: %v", err)
	}
	try(t, d.Init(t.Context()))
	k := key.Generate()
	c := mustSave(t, d, escrow.Current, k)
	if _, err := os.Stat(filepath.Join(point, "host1", c.ID)); err != nil {
		t.Error(err)
	}
	// By UUID it is the same place.
	byUUID := openDirectory(t, kinds.DirectoryOptions{Path: "UUID=12ab-34cd/host1", Udev: udev})
	copies, err := byUUID.List(t.Context())
	if err != nil || len(copies) != 1 || copies[0].ID != c.ID {
		t.Errorf("List by UUID: %v, %v", copies, err)
	}
	// btrfs has other numbers, in mountinfo and for its files: what was mounted counts.
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	try(t, err)
	as := func(from, to string) kinds.DirectoryOptions {
		file := filepath.Join(t.TempDir(), "mountinfo")
		text := strings.ReplaceAll(string(mounts), " "+stick.number+" ", " 0:4711 ")
		try(t, os.WriteFile(file, []byte(strings.ReplaceAll(text, " - ext4 "+from+" ", " - btrfs "+to+" ")), 0o600))
		return kinds.DirectoryOptions{Path: "LABEL=KEYS/host1", Udev: udev, Mountinfo: file}
	}
	copies, err = openDirectory(t, as(loop, loop)).List(t.Context())
	if err != nil || len(copies) != 1 || copies[0].ID != c.ID {
		t.Errorf("List as btrfs: %v, %v", copies, err)
	}
	if err := lists(t, openDirectory(t, as(loop, "/dev/mapper/none"))); !errors.Is(err, escrow.ErrNoPlace) {
		t.Errorf("List as btrfs on another device: %v", err)
	}

	// What is mounted over it hides it, and one directory of it is not all of it; mounted
	// elsewhere it is found there.
	try(t, os.Mkdir(part, 0o700))
	try(t, unix.Mount(filepath.Join(point, "host1"), part, "", unix.MS_BIND, ""))
	try(t, unix.Mount("keyguard-test", point, "tmpfs", 0, ""))
	if err := lists(t, d); !errors.Is(err, escrow.ErrNoPlace) || !strings.Contains(err.Error(), "not mounted") {
		t.Errorf("List of what is hidden: %v", err)
	}
	try(t, unix.Unmount(part, 0))
	try(t, os.Mkdir(other, 0o700))
	stick.mount(t, other)
	got, _, err := d.Fetch(t.Context(), c)
	if err != nil || !got.Equal(k) {
		t.Errorf("Fetch from elsewhere: %v", err)
	}
	got.Wipe()
	try(t, unix.Unmount(other, 0))
	try(t, unix.Unmount(point, 0))

	// A symlink on the stick may not lead off it.
	away := filepath.Join(dir, "away")
	try(t, os.Mkdir(away, 0o700))
	try(t, openDirectory(t, kinds.DirectoryOptions{Path: away}).Init(t.Context()))
	astray := openDirectory(t, kinds.DirectoryOptions{Path: "LABEL=KEYS/link", Udev: udev})
	try(t, os.Symlink(away, filepath.Join(point, "link")))
	for _, err := range []error{lists(t, astray), astray.Init(t.Context())} {
		if !errors.Is(err, escrow.ErrNoPlace) || !strings.Contains(err.Error(), "does not lie on that device") {
			t.Errorf("through a symlink off the stick: %v", err)
		}
	}
	// Its file lies on this disk, beside the keyfile.
	o.Keyfile = filepath.Join(dir, "secrets.key")
	beside := openDirectory(t, o)
	_, saved := beside.Save(t.Context(), escrow.Current, key.Generate())
	for _, err := range []error{saved, beside.Init(t.Context())} {
		if !errors.Is(err, escrow.ErrSameDisk) {
			t.Errorf("on the keyfile's disk: %v", err)
		}
	}
	// Unmounted, an empty mount point is left: no copies is not what that means (law 6),
	// and nothing is made there.
	try(t, unix.Unmount(point, 0))
	for _, err := range []error{lists(t, d), d.Init(t.Context())} {
		if !errors.Is(err, escrow.ErrNoPlace) || !strings.Contains(err.Error(), "is plugged in ("+loop+") and not mounted") {
			t.Errorf("unmounted: %v", err)
		}
	}
	if _, err := os.Lstat(filepath.Join(point, "host1")); err == nil {
		t.Error("Init made the directory below the mount point")
	}
}

func lists(t *testing.T, d *kinds.Directory) error {
	t.Helper()
	_, err := d.List(t.Context())
	return err
}
