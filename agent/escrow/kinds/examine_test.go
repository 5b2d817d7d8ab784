package kinds_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	sm "github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/secretmanager"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
)

// TestGCPExamine: what an identity may do is said of the one that asks.
func TestGCPExamine(t *testing.T) {
	for name, c := range map[string]struct {
		roles    []sm.Role
		lacks    int // over both secrets
		destroys []string
	}{
		"what keyguard needs": {[]sm.Role{sm.Accessor, sm.Adder, sm.Viewer}, 0, nil},
		"reads only":          {[]sm.Role{sm.Accessor}, 6, nil},
		"nothing":             {nil, 8, nil},
		"everything": {[]sm.Role{sm.Admin}, 0, []string{"secretmanager.secrets.delete", "secretmanager.secrets.setIamPolicy",
			"secretmanager.secrets.update", "secretmanager.versions.destroy"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := startStore(t, sm.Options{}, sm.Admin)
			s.ready(t)
			s.Grant("host", c.roles...)
			e, err := s.open(t).Examine(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !e.Asked || len(e.Lacks) != c.lacks || !slices.Equal(e.Destroys, c.destroys) {
				t.Errorf("lacks %q, destroys %q", e.Lacks, e.Destroys)
			}
			if e.Project != "my-project" || !e.Local || e.Clock == nil || e.Clock.Abs() > time.Minute {
				t.Errorf("%+v", e)
			}
		})
	}
	t.Run("another identity", func(t *testing.T) {
		s := startStore(t, sm.Options{}, sm.Admin)
		s.ready(t)
		s.Grant("reader", sm.Accessor)
		s.o.CredentialsFile = credentials(t, s.Server, "reader", "service_account")
		e, err := s.open(t).Examine(t.Context())
		if err != nil || len(e.Destroys) != 0 || len(e.Lacks) != 6 {
			t.Errorf("%+v, %v", e, err)
		}
	})
	t.Run("no such secret", func(t *testing.T) {
		e, err := startStore(t, sm.Options{}, sm.Admin).open(t).Examine(t.Context())
		if err != nil || len(e.Lacks) != 8 {
			t.Errorf("%+v, %v", e, err)
		}
	})
	t.Run("down", func(t *testing.T) {
		s := startStore(t, sm.Options{}, sm.Admin)
		s.Break(sm.Fault{Kind: sm.CutBefore})
		if e, err := s.open(t).Examine(t.Context()); !errors.Is(err, escrow.ErrUnreachable) || e.Asked {
			t.Errorf("%+v, %v", e, err)
		}
	})
}

// TestDirectoryExamine: on the keyfile's disk, and in memory. Through a child it is the same.
func TestDirectoryExamine(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := kinds.DirectoryOptions{Name: "usb", Path: dir, Keyfile: dir + "/none/secrets.key", AllowSameDisk: true}
	e, err := kinds.NewIsolated(self, []string{"serve-directory"}, o, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Examine(t.Context()); !errors.Is(err, escrow.ErrNoPlace) {
		t.Errorf("before it is made: %v", err)
	}
	if err := e.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := e.Examine(t.Context())
	if err != nil || !got.SameDisk || len(got.Disks) == 0 || got.Remote || got.Asked {
		t.Errorf("%+v, %v", got, err)
	}

	shm, err := os.MkdirTemp("/dev/shm", "keyguard-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(shm) })
	o.Path = shm
	other, err := kinds.NewDirectory(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	memory, err := other.Examine(t.Context())
	if err != nil || memory.SameDisk || !memory.Memory || !strings.HasPrefix(memory.Disks[0], "device ") {
		t.Errorf("%+v, %v", memory, err)
	}
	if memory.Trouble != nil {
		t.Errorf("where that is allowed: %v", memory.Trouble)
	}
	o.AllowSameDisk = false
	strict, err := kinds.NewDirectory(o)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := strict.Examine(t.Context()); err != nil || !tells(e, true, escrow.TroubleMemory, "gone at the next boot", shm) {
		t.Errorf("%+v, %v", e, err)
	}
	o.AllowSameDisk = true
	o.Path = t.TempDir() // another place on the first one's disk
	near, err := kinds.NewDirectory(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := near.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	beside, err := near.Examine(t.Context())
	if a, b, c := got.Domains(e.Place()), beside.Domains(near.Place()), memory.Domains(other.Place()); err != nil || !slices.Equal(a, b) || slices.Equal(a, c) {
		t.Errorf("they are lost with %q, %q, and in memory with %q; %v", a, b, c, err)
	}
}

// tells is whether an examination tells of this trouble, there and in such words, or else of none.
func tells(e escrow.Examination, wrong bool, what escrow.Trouble, text, at string) bool {
	if !wrong {
		return e.Trouble == nil
	}
	return e.Trouble != nil && e.Trouble.Trouble == what && strings.Contains(e.Trouble.Text, text) && e.Trouble.At == at
}

// TestDirectoryExamineHeld: a place that takes no further copy is told of before one is due.
func TestDirectoryExamineHeld(t *testing.T) {
	dir := t.TempDir()
	d, err := kinds.NewDirectory(kinds.DirectoryOptions{Name: "usb", Path: dir, Keyfile: dir + "/none/secrets.key", AllowSameDisk: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	for _, readOnly := range []bool{false, true} {
		if readOnly {
			if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := d.Examine(t.Context()); err != nil || !tells(got, readOnly, escrow.TroubleReadOnly, "read-only", filepath.Join(dir, "quarantine")) {
			t.Errorf("read-only %v: %+v, %v", readOnly, got, err)
		}
	}
}

// TestDirectoryExamineEndOfTime: so is a current shelf on top of which nothing can be put.
func TestDirectoryExamineEndOfTime(t *testing.T) {
	dir := t.TempDir()
	d, err := kinds.NewDirectory(kinds.DirectoryOptions{Name: "usb", Path: dir, Keyfile: dir + "/none/secrets.key", AllowSameDisk: true})
	try(t, err)
	try(t, d.Init(t.Context()))
	for _, shelf := range []string{"quarantine", "current"} {
		last := filepath.Join(dir, shelf, "99991231T235959.999Z-0123456789abcdef.key")
		try(t, os.WriteFile(last, make([]byte, 32), 0o400))
		got, err := d.Examine(t.Context())
		if ends := shelf == "current"; err != nil || !tells(got, ends, escrow.TroubleEndOfTime, "end of time: current/"+filepath.Base(last), filepath.Join(dir, shelf)) {
			t.Errorf("on %s: %+v, %v", shelf, got, err)
		}
	}
}

// TestCommandExamine: only of an account with a service is it known that it is elsewhere.
func TestCommandExamine(t *testing.T) {
	for preset, unplaced := range map[string]bool{"1password": false, "bitwarden": false, "pass": true, "": true} {
		o := kinds.CommandOptions{Name: "c", Preset: preset, Path: "hosts/web1", Keyfile: filepath.Join(t.TempDir(), "key")}
		if preset == "" {
			o = kinds.CommandOptions{Name: "c", Save: []string{"s"}, List: []string{"l"}, Fetch: []string{"f"}}
		}
		c, err := kinds.NewCommand(o)
		if err != nil {
			t.Fatal(preset, err)
		}
		if e, err := c.Examine(t.Context()); err != nil || e.Unplaced != unplaced {
			t.Errorf("%q: %+v, %v", preset, e, err)
		}
	}
}

// TestPassOnTheKeyfilesDisk: a password store is as much of a backup as a directory is.
func TestPassOnTheKeyfilesDisk(t *testing.T) {
	keyfile := filepath.Join(t.TempDir(), "key")
	elsewhere := t.TempDir()
	if err := unix.Mount("tmpfs", elsewhere, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(elsewhere, unix.MNT_DETACH) })
	git := t.TempDir()
	if err := os.Mkdir(filepath.Join(git, ".git"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		store       string
		allow       bool
		same, wrong bool
	}{
		"on its disk":             {store: t.TempDir(), same: true, wrong: true},
		"not made yet":            {store: filepath.Join(t.TempDir(), "a", "b"), same: true, wrong: true},
		"on its disk, for a test": {store: t.TempDir(), allow: true, same: true},
		"on another":              {store: elsewhere},
		"kept by git":             {store: git},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PASSWORD_STORE_DIR", tt.store)
			c, err := kinds.NewCommand(kinds.CommandOptions{Name: "c", Preset: "pass", Path: "hosts/web1", Keyfile: keyfile, AllowSameDisk: tt.allow})
			if err != nil {
				t.Fatal(err)
			}
			e, err := c.Examine(t.Context())
			if err != nil || e.SameDisk != tt.same || !tells(e, tt.wrong, escrow.TroubleSameDisk, "the keyfile's own disk", tt.store) {
				t.Errorf("%+v, %v", e, err)
			}
		})
	}
}
