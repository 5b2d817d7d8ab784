package hooks_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// host is a sandbox for the hook: a copy of it that calls a program of ours and
// guards a key file of ours. The hook itself takes no such override, as whoever
// could set one could start the daemon without keyguard.
type host struct {
	dir, keyfile, keyguard string
}

func newHost(t *testing.T) host {
	t.Helper()
	dir := t.TempDir()
	h := host{dir: filepath.Join(dir, "etc"), keyguard: filepath.Join(dir, "keyguard")}
	h.keyfile = filepath.Join(h.dir, "secrets.key")
	text, err := os.ReadFile("prestart")
	if err != nil {
		t.Fatal(err)
	}
	for old, new := range map[string]string{
		"keyfile=/etc/containarium/secrets.key\n": "keyfile='" + h.keyfile + "'\n",
		"\n/usr/bin/keyguard prestart\n":          "\n'" + h.keyguard + "' prestart\n",
	} {
		if strings.Count(string(text), old) != 1 {
			t.Fatalf("the hook does not have the line %q exactly once", old)
		}
		text = []byte(strings.Replace(string(text), old, new, 1))
	}
	if err := os.WriteFile(filepath.Join(dir, "prestart"), text, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(h.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return h
}

// run calls the hook with a keyguard that is this shell script, or missing if "".
func (h host) run(t *testing.T, script string) (status int, stderr string) {
	t.Helper()
	if script != "" {
		if err := os.WriteFile(h.keyguard, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(filepath.Join(filepath.Dir(h.keyguard), "prestart"))
	var out bytes.Buffer
	cmd.Stderr = &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// files lists what lies beside the key file, and it.
func (h host) files(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".keyguard-") {
			name = ".keyguard-"
		}
		if e.Type() == fs.ModeSymlink {
			target, err := os.Readlink(filepath.Join(h.dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			found[name] = "-> " + target
			continue
		}
		b, err := os.ReadFile(filepath.Join(h.dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		found[name] = string(b)
	}
	return found
}

func equal(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

const oldKey, newKey = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"

// Every status on which keyguard decided something goes through, and nothing is touched.
func TestPrestartPassesItsWord(t *testing.T) {
	for _, want := range []string{"0", "10", "11", "15"} {
		t.Run(want, func(t *testing.T) {
			h := newHost(t)
			status, stderr := h.run(t, `[ "$1" = prestart ] && exit `+want)
			if strconv.Itoa(status) != want {
				t.Errorf("exit status %d, want %s", status, want)
			}
			if stderr != "" {
				t.Errorf("says %q, want nothing", stderr)
			}
			if f := h.files(t); len(f) != 0 {
				t.Errorf("made %v", f)
			}
		})
	}
}

// Every other end of keyguard passes too, but not without a key file, and not in the
// middle of a rotation.
func TestPrestartOwnTrouble(t *testing.T) {
	ends := map[string]string{
		"gone":           "",
		"internal error": "exit 1",
		"usage":          "exit 2",
		"no copy":        "exit 13",
		"killed":         "kill -KILL $$",
		"terminated":     "kill -TERM $$",
	}
	states := []struct {
		name         string
		before, want map[string]string
		says         string
	}{
		{"missing", nil, map[string]string{"secrets.key": ""}, "keeps the daemon from making a new key"},
		{"present", map[string]string{"secrets.key": oldKey}, map[string]string{"secrets.key": oldKey}, "left as it is"},
		{"parked", map[string]string{"secrets.key": ""}, map[string]string{"secrets.key": ""}, "left as it is"},
		{"short", map[string]string{"secrets.key": "x"}, map[string]string{"secrets.key": "x"}, "left as it is"},
		{
			"dangling symlink", map[string]string{"secrets.key": "-> away"},
			map[string]string{"secrets.key": "", ".keyguard-": "-> away"}, "is kept as",
		},
		{
			"symlink", map[string]string{"secrets.key": "-> other", "other": oldKey},
			map[string]string{"secrets.key": "-> other", "other": oldKey}, "left as it is",
		},
		{
			"rotation", map[string]string{"secrets.key": oldKey, "secrets.key.next": newKey},
			map[string]string{"secrets.key": "", "secrets.key.next": newKey, ".keyguard-": oldKey}, "is kept as",
		},
		{
			"rotation, its new key on a file system that is away", map[string]string{"secrets.key": oldKey, "secrets.key.next": "-> away"},
			map[string]string{"secrets.key": "", "secrets.key.next": "-> away", ".keyguard-": oldKey}, "is kept as",
		},
		{
			"rotation, parked", map[string]string{"secrets.key": "", "secrets.key.next": newKey},
			map[string]string{"secrets.key": "", "secrets.key.next": newKey}, "left as it is",
		},
		{
			"rotation, missing", map[string]string{"secrets.key.next": newKey},
			map[string]string{"secrets.key": "", "secrets.key.next": newKey}, "keeps the daemon from making a new key",
		},
	}
	for end, script := range ends {
		for _, s := range states {
			t.Run(end+"/"+s.name, func(t *testing.T) {
				h := newHost(t)
				h.furnish(t, s.before)
				status, stderr := h.run(t, script)
				if status != 0 {
					t.Errorf("exit status %d, want 0: the daemon must start", status)
				}
				if got := h.files(t); !equal(got, s.want) {
					t.Errorf("leaves %q, want %q", got, s.want)
				}
				fi, err := os.Stat(h.keyfile)
				if err != nil {
					t.Fatal(err)
				}
				if fi.Mode().Perm() != 0o400 {
					t.Errorf("key file has mode %o, want 0400", fi.Mode().Perm())
				}
				if !strings.Contains(stderr, s.says) {
					t.Errorf("says %q, want %q in it", stderr, s.says)
				}
				for line := range strings.Lines(stderr) {
					if strings.HasPrefix(line, "<3>keyguard: ") || end == "gone" && strings.Contains(line, "not found") || strings.Contains(line, "Killed") || strings.Contains(line, "Terminated") {
						continue
					}
					t.Errorf("line without priority: %q", line)
				}
			})
		}
	}
}

// The directory is made, closed to others, where the uninstaller took it away.
func TestPrestartMakesTheDirectory(t *testing.T) {
	h := newHost(t)
	if err := os.Remove(h.dir); err != nil {
		t.Fatal(err)
	}
	if status, stderr := h.run(t, ""); status != 0 {
		t.Fatalf("exit status %d: %s", status, stderr)
	}
	if got, want := h.files(t), map[string]string{"secrets.key": ""}; !equal(got, want) {
		t.Errorf("leaves %q, want %q", got, want)
	}
	fi, err := os.Stat(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode().Perm() != 0o700 {
		t.Errorf("directory has mode %o, want 0700", fi.Mode().Perm())
	}
}

// Where not even an empty file can be made the daemon does not start, since it could make
// a key; nothing is moved before the empty file stands.
func TestPrestartCannotPark(t *testing.T) {
	// One inode is taken by the mount itself, and one by each file of the case.
	for _, c := range []struct {
		name   string
		inodes int
		before map[string]string
	}{
		{"no keyfile", 1, nil},
		{"rotation", 3, map[string]string{"secrets.key": oldKey, "secrets.key.next": newKey}},
		{"dangling symlink", 2, map[string]string{"secrets.key": "-> away"}},
	} {
		t.Run("no inode left/"+c.name, func(t *testing.T) {
			h := newHost(t)
			if err := unix.Mount("keyguard-test", h.dir, "tmpfs", 0, "nr_inodes="+strconv.Itoa(c.inodes)); err != nil {
				t.Fatalf("this test mounts a tmpfs, as root: %v", err)
			}
			t.Cleanup(func() { unix.Unmount(h.dir, unix.MNT_DETACH) })
			h.furnish(t, c.before)
			h.refuses(t, c.before)
		})
	}
	for _, before := range []map[string]string{
		nil,
		{"secrets.key": oldKey, "secrets.key.next": newKey},
	} {
		t.Run(fmt.Sprintf("read-only/%d files", len(before)), func(t *testing.T) {
			h := newHost(t)
			if err := unix.Mount("keyguard-test", h.dir, "tmpfs", 0, ""); err != nil {
				t.Fatalf("this test mounts a tmpfs, as root: %v", err)
			}
			t.Cleanup(func() { unix.Unmount(h.dir, unix.MNT_DETACH) })
			h.furnish(t, before)
			if err := unix.Mount("", h.dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
				t.Fatal(err)
			}
			h.refuses(t, before)
		})
	}
	t.Run("bind mount", func(t *testing.T) {
		h := newHost(t)
		before := map[string]string{"secrets.key": oldKey, "secrets.key.next": newKey}
		h.furnish(t, before)
		if err := unix.Mount(h.keyfile, h.keyfile, "", unix.MS_BIND, ""); err != nil {
			t.Fatalf("this test mounts a file, as root: %v", err)
		}
		t.Cleanup(func() { unix.Unmount(h.keyfile, unix.MNT_DETACH) })
		h.refuses(t, before)
	})
	t.Run("a file in the directory's place", func(t *testing.T) {
		h := newHost(t)
		if err := errors.Join(os.Remove(h.dir), os.WriteFile(h.dir, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		if status, stderr := h.run(t, "exit 1"); status != 11 || !strings.Contains(stderr, "the daemon is not started") {
			t.Errorf("exit status %d, says %q", status, stderr)
		}
	})
}

// refuses runs the hook beside a keyguard that crashes, and wants 11 and nothing changed.
func (h host) refuses(t *testing.T, before map[string]string) {
	t.Helper()
	status, stderr := h.run(t, "exit 1")
	if status != 11 || !strings.Contains(stderr, "<3>keyguard: ") || !strings.Contains(stderr, "the daemon is not started") {
		t.Errorf("exit status %d, want 11; says %q", status, stderr)
	}
	if got := h.files(t); !equal(got, before) {
		t.Errorf("leaves %q, want %q", got, before)
	}
}

// furnish makes the files, and symlinks of "-> target".
func (h host) furnish(t *testing.T, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(h.dir, name)
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o400)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestPrestartTuning: how the daemon's runtime is tuned is not how keyguard's is. All else
// that the daemon is given keyguard is given.
func TestPrestartTuning(t *testing.T) {
	h := newHost(t)
	for _, name := range []string{"GOMAXPROCS", "GOGC", "GOMEMLIMIT", "GODEBUG", "GOTRACEBACK"} {
		t.Setenv(name, "100000")
	}
	t.Setenv("PGPASSFILE", "/x")
	if status, said := h.run(t, `[ -z "${GOMAXPROCS+x}${GOGC+x}${GOMEMLIMIT+x}${GODEBUG+x}${GOTRACEBACK+x}" ] && [ "$PGPASSFILE" = /x ] || exit 10`); status != 0 {
		t.Errorf("%d: %s", status, said)
	}
}
