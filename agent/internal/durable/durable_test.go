package durable

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/internal/durable/durabletest"
)

// The tests start their own program again: to be traced, or without renameat2.
const (
	envTraced = "DURABLE_TEST_TRACED"
	envPoor   = "DURABLE_TEST_POOR"
)

func TestMain(m *testing.M) {
	poor := map[string]func() error{"no renameat2": durabletest.WithoutRename2, "FAT": durabletest.LikeFAT}
	if f := poor[os.Getenv(envPoor)]; f != nil {
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if op := os.Getenv(envTraced); op != "" {
		if err := traced(op, os.Getenv("DURABLE_TEST_PATH")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var (
	before = []byte("what was there before")
	after  = bytes.Repeat([]byte("what was asked for\n"), 100)
)

func traced(op, path string) error {
	durabletest.Begin()
	defer durabletest.End()
	switch op {
	case "WriteFile":
		return WriteFile(path, after, Attr{Mode: 0o640})
	case "WriteFile for another owner":
		return WriteFile(path, after, Attr{UID: 1, GID: 1})
	case "CreateNew":
		return CreateNew(path, after, Attr{Mode: 0o400, Modeless: true})
	case "MkdirAll":
		return MkdirAll(path, Attr{})
	case "wake-up":
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			return err
		}
		_, err = unix.Write(fd, binary.NativeEndian.AppendUint64(nil, 1))
		return errors.Join(err, MkdirAll(path, Attr{}))
	}
	return errors.New("no such operation")
}

func TestCallsAndCrashes(t *testing.T) {
	tests := []struct {
		op     string
		poor   string // what the file system lacks
		exists bool
		want   []string
	}{
		{"WriteFile", "", true, []string{"openat", "fchmod", "write", "fsync", "renameat", "fsync"}},
		{"WriteFile for another owner", "", true, []string{"openat", "fchown", "fchmod", "write", "fsync", "renameat", "fsync"}},
		{"CreateNew", "", false, []string{"openat", "fchmod", "write", "fsync", "renameat2", "fsync"}},
		{"CreateNew", "no renameat2", false, []string{"openat", "fchmod", "write", "fsync", "renameat2", "linkat", "unlinkat", "fsync"}},
		{"CreateNew", "FAT", false, []string{"openat", "fchmod", "write", "fsync", "renameat2", "linkat", "openat", "renameat", "fsync"}},
	}
	for _, tt := range tests {
		t.Run(tt.op+", "+tt.poor, func(t *testing.T) {
			run := func(n int) (string, []string, bool) {
				path := filepath.Join(t.TempDir(), "file")
				if tt.exists {
					put(t, path, before)
				}
				calls, ended := durabletest.Run(t, n, envTraced+"="+tt.op, "DURABLE_TEST_PATH="+path, envPoor+"="+tt.poor)
				return path, calls, ended
			}
			_, calls, ended := run(0)
			if !ended || !slices.Equal(calls, tt.want) {
				t.Fatalf("calls %q, want %q", calls, tt.want)
			}
			for n := 1; n <= len(tt.want); n++ {
				path, _, ended := run(n)
				if ended {
					t.Fatalf("not killed at call %d", n)
				}
				got, err := os.ReadFile(path)
				switch {
				case tt.exists && err == nil && bytes.Equal(got, before):
				case !tt.exists && errors.Is(err, fs.ErrNotExist):
				case err == nil && bytes.Equal(got, after) && n > slices.Index(tt.want, "fsync"):
				case tt.poor == "FAT" && err == nil && len(got) == 0 && tt.want[n-1] == "renameat": // the name is taken
				default:
					t.Errorf("killed before call %d (%s): %q, %v", n, tt.want[n-1], got, err)
				}
				for _, name := range names(t, filepath.Dir(path)) {
					if name != "file" && !strings.HasPrefix(name, TempPrefix) {
						t.Errorf("killed before call %d: %s is left", n, name)
					}
				}
			}
		})
	}
}

// TestWakeUp: what Go's runtime writes to wake its own threads is no step that a crash can
// come before, or the steps would be others in each run.
func TestWakeUp(t *testing.T) {
	calls, _ := durabletest.Run(t, 0, envTraced+"=wake-up", "DURABLE_TEST_PATH="+filepath.Join(t.TempDir(), "a"))
	if want := []string{"mkdirat", "fsync"}; !slices.Equal(calls, want) {
		t.Errorf("calls %q, want %q", calls, want)
	}
}

func TestMkdirAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	calls, _ := durabletest.Run(t, 0, envTraced+"=MkdirAll", "DURABLE_TEST_PATH="+path)
	want := []string{"mkdirat", "mkdirat", "fsync", "mkdirat", "fsync"}
	if !slices.Equal(calls, want) {
		t.Errorf("calls %q, want %q", calls, want)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := MkdirAll(path, Attr{UID: 1}); err != nil {
		t.Errorf("again: %v", err)
	}
	for dir, want := range map[string]fs.FileMode{path: 0o755, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %v", dir, info.Mode(), err, want)
		}
	}
	other := filepath.Join(path, "c")
	if err := MkdirAll(other, Attr{UID: 7, GID: 8}); err != nil {
		t.Fatal(err)
	}
	if uid, gid := owner(t, other); uid != 7 || gid != 8 {
		t.Errorf("owner %d:%d, want 7:8", uid, gid)
	}
	put(t, filepath.Join(path, "file"), before)
	if err := MkdirAll(filepath.Join(path, "file", "d"), Attr{}); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("below a file: %v, want ENOTDIR", err)
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, a := range []struct {
		attr     Attr
		mode     fs.FileMode
		uid, gid int
	}{
		{Attr{}, 0o600, 0, 0},
		{Attr{Mode: 0o400, UID: 3, GID: 4}, 0o400, 3, 4},
		{Attr{Mode: 0o644, UID: -1, GID: -1}, 0o644, 0, 0},
	} {
		if err := WriteFile(path, after, a.attr); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if uid, gid := owner(t, path); info.Mode() != a.mode || uid != a.uid || gid != a.gid {
			t.Errorf("%+v: mode %v, owner %d:%d", a.attr, info.Mode(), uid, gid)
		}
		want(t, path, after)
	}
	only(t, dir, "file")

	for what, make := range map[string]func(string) error{
		"a device":         func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) },
		"a FIFO":           func(p string) error { return unix.Mkfifo(p, 0o600) },
		"a socket":         func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o600, 0) },
		"a directory":      func(p string) error { return os.Mkdir(p, 0o700) },
		"a symlink":        func(p string) error { return os.Symlink(path, p) },
		"a dangling link":  func(p string) error { return os.Symlink("nowhere", p) },
		"a link to itself": func(p string) error { return os.Symlink("file", p) },
	} {
		t.Run(what+" is not replaced", func(t *testing.T) {
			dir := t.TempDir()
			there := filepath.Join(dir, "file")
			if err := make(there); err != nil {
				t.Fatal(err)
			}
			was, err := os.Lstat(there)
			if err != nil {
				t.Fatal(err)
			}
			if err := WriteFile(there, before, Attr{}); !errors.Is(err, ErrNotReplaced) {
				t.Errorf("%v, want ErrNotReplaced", err)
			}
			if is, err := os.Lstat(there); err != nil || !os.SameFile(was, is) || is.Mode() != was.Mode() {
				t.Errorf("%v, %v", is, err)
			}
			want(t, path, after)
			only(t, dir, "file")
		})
	}
}

// TestErrors checks that after a failure nothing has changed and nothing is left.
func TestErrors(t *testing.T) {
	for name, write := range map[string]func(path string, data []byte, a Attr) error{"WriteFile": WriteFile, "CreateNew": CreateNew, "Create": Create} {
		t.Run(name, func(t *testing.T) {
			t.Run("missing directory", func(t *testing.T) {
				if err := write(filepath.Join(t.TempDir(), "none", "file"), after, Attr{}); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%v, want fs.ErrNotExist", err)
				}
			})
			t.Run("full disk", func(t *testing.T) {
				dir := durabletest.TmpFS(t, 64<<10)
				durabletest.Fill(t, dir)
				had := names(t, dir)
				if err := write(filepath.Join(dir, "file"), after, Attr{}); !errors.Is(err, unix.ENOSPC) {
					t.Errorf("%v, want ENOSPC", err)
				}
				only(t, dir, had...)
			})
			t.Run("read-only mount", func(t *testing.T) {
				dir := t.TempDir()
				durabletest.ReadOnly(t, dir)
				if err := write(filepath.Join(dir, "file"), after, Attr{}); !errors.Is(err, unix.EROFS) {
					t.Errorf("%v, want EROFS", err)
				}
				only(t, dir)
			})
			t.Run("a directory has the name", func(t *testing.T) {
				dir := t.TempDir()
				if err := os.Mkdir(filepath.Join(dir, "file"), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := write(filepath.Join(dir, "file"), after, Attr{}); err == nil {
					t.Error("no error")
				}
				only(t, dir, "file")
			})
		})
	}
}

// TestNotSynced: where the directory cannot be synced behind the change, the error says
// that it is made and may not last. The directory is open by then: whoever cannot even
// open it changes nothing.
func TestNotSynced(t *testing.T) {
	t.Cleanup(func() { Disk = nil })
	broken := errors.New("input/output error")
	for name, write := range map[string]func(path string) error{
		"WriteFile": func(path string) error { return WriteFile(path, after, Attr{}) },
		"CreateNew": func(path string) error { return CreateNew(path, after, Attr{}) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "file")
			opened := false
			Disk = func(c Change) error {
				switch c.Do {
				case CreateFile:
					opened = isOpen(t, dir)
				case SyncNames:
					return broken
				}
				return nil
			}
			if err := write(path); !errors.Is(err, ErrNotSynced) || !errors.Is(err, broken) {
				t.Errorf("%v, want ErrNotSynced and its reason", err)
			}
			if !opened {
				t.Error("the directory is not open before anything is made in it")
			}
			want(t, path, after)
			only(t, dir, "file")
			Disk = nil
			if err := WriteFile(path, before, Attr{}); err != nil {
				t.Errorf("again: %v", err)
			}
			want(t, path, before)
		})
	}
	t.Run("MkdirAll", func(t *testing.T) {
		dir := t.TempDir()
		Disk = func(c Change) error {
			if c.Do == SyncNames {
				return broken
			}
			return nil
		}
		// Nobody finds it and relies on it.
		if err := MkdirAll(filepath.Join(dir, "a"), Attr{}); err == nil || errors.Is(err, ErrNotSynced) || strings.Contains(err.Error(), ErrNotSynced.Error()) {
			t.Errorf("%v, want an error that says that nothing is made", err)
		}
		only(t, dir)
		if err := SyncDir(dir); !errors.Is(err, ErrNotSynced) {
			t.Errorf("SyncDir: %v, want ErrNotSynced", err)
		}
		// Who found what is there has changed nothing, and who takes a change back has not either.
		for name, err := range map[string]error{"SyncFound": SyncFound(dir), "NotDone": NotDone(SyncDir(dir))} {
			if !errors.Is(err, broken) || errors.Is(err, ErrNotSynced) || strings.Contains(err.Error(), ErrNotSynced.Error()) {
				t.Errorf("%s: %v, want the reason alone", name, err)
			}
		}
	})
	Disk = nil
	if err := SyncDir(filepath.Join(t.TempDir(), "none")); !errors.Is(err, ErrNotSynced) {
		t.Errorf("SyncDir of nothing: %v, want ErrNotSynced", err)
	}
}

// isOpen tells whether this process has dir open.
func isOpen(t *testing.T, dir string) bool {
	t.Helper()
	for _, fd := range names(t, "/proc/self/fd") {
		if to, err := os.Readlink("/proc/self/fd/" + fd); err == nil && to == dir {
			return true
		}
	}
	return false
}

func TestCreateNewRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	put(t, path, before)
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "link"} {
		for what, err := range map[string]error{
			"CreateNew": CreateNew(filepath.Join(dir, name), after, Attr{}),
			"Create":    Create(filepath.Join(dir, name), after, Attr{}),
		} {
			if !errors.Is(err, fs.ErrExist) {
				t.Errorf("%s of %s: %v, want fs.ErrExist", what, name, err)
			}
		}
	}
	want(t, path, before)
	only(t, dir, "file", "link")
}

func TestNames(t *testing.T) {
	dir := t.TempDir()
	a, b, none := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "none")
	put(t, a, before)
	put(t, b, after)
	if os.Getenv(envPoor) != "" {
		for _, err := range []error{Exchange(a, b), NoReplace(a, none)} {
			if !errors.Is(err, ErrNoRename2) {
				t.Errorf("%v, want ErrNoRename2", err)
			}
		}
		want(t, a, before)
		want(t, b, after)
		only(t, dir, "a", "b")
		return
	}
	if err := Exchange(a, b); err != nil {
		t.Error(err)
	}
	want(t, a, after)
	want(t, b, before)
	if err := NoReplace(a, b); !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v, want fs.ErrExist", err)
	}
	if err := Exchange(a, none); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, want fs.ErrNotExist", err)
	}
	only(t, dir, "a", "b")
	if err := NoReplace(a, none); err != nil {
		t.Error(err)
	}
	only(t, dir, "b", "none")
}

// TestPoorFileSystems runs the others where renameat2's flags are not known, and where
// there are neither links nor modes.
func TestPoorFileSystems(t *testing.T) {
	if os.Getenv(envPoor) != "" {
		return
	}
	for poor, tests := range map[string]string{
		"no renameat2": "TestNames|TestCreateNewRefuses|TestErrors|TestWriteFile", "FAT": "TestModeless",
	} {
		cmd := exec.Command("/proc/self/exe", "-test.run=^("+tests+")$", "-test.v")
		cmd.Env = append(os.Environ(), envPoor+"="+poor)
		out, err := cmd.CombinedOutput()
		if err != nil || bytes.Count(out, []byte("\n--- PASS: ")) != strings.Count(tests, "|")+1 {
			t.Errorf("%s: %v\n%s", poor, err, out)
		}
	}
}

// TestModeless: where a mode cannot be had, only those that allow for it do without.
func TestModeless(t *testing.T) {
	dir := t.TempDir()
	path, attr := filepath.Join(dir, "modeless"), Attr{Mode: 0o400, UID: -1, GID: -1, Modeless: true}
	if err := CreateNew(path, after, attr); err != nil {
		t.Error(err)
	}
	if err := CreateNew(path, before, attr); !errors.Is(err, fs.ErrExist) {
		t.Errorf("again: %v, want fs.ErrExist", err)
	}
	want(t, path, after)
	only(t, dir, "modeless")
	err := WriteFile(filepath.Join(dir, "strict"), after, Attr{Mode: 0o400, UID: -1, GID: -1})
	if fat := os.Getenv(envPoor) == "FAT"; fat != errors.Is(err, unix.ENOSYS) {
		t.Errorf("a mode is asked for: %v", err)
	}
}

func TestAppend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	f, err := OpenOrNew(path, os.O_WRONLY|os.O_APPEND)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, part := range []string{"one ", "", "two"} {
		if err := Append(f, []byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	want(t, path, []byte("one two"))

	full, err := Open("/dev/full", os.O_WRONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if err := Append(full, after); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v, want ENOSPC", err)
	}
	if err := SyncDir(filepath.Join(path, "none")); err == nil {
		t.Error("SyncDir of what is no directory: no error")
	}
}

func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, path string, data []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%s holds %q, %v; want %q", path, got, err, data)
	}
}

func only(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func owner(t *testing.T, path string) (uid, gid int) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return int(st.Uid), int(st.Gid)
}

// TestAppendOnly: where a name cannot be taken away again, no file is made that would keep
// the bytes of a key under another name, try after try.
func TestAppendOnly(t *testing.T) {
	dir := t.TempDir()
	durabletest.Flag(t, dir, unix.STATX_ATTR_APPEND)
	for name, write := range map[string]func(path string) error{
		"WriteFile": func(path string) error { return WriteFile(path, []byte("key"), Attr{UID: -1, GID: -1}) },
		"CreateNew": func(path string) error { return CreateNew(path, []byte("key"), Attr{UID: -1, GID: -1}) },
		"Create":    func(path string) error { return Create(path, []byte("key"), Attr{UID: -1, GID: -1}) },
	} {
		err := write(filepath.Join(dir, "file"))
		if left, rerr := os.ReadDir(dir); !errors.Is(err, fs.ErrPermission) || rerr != nil || len(left) > 0 {
			t.Errorf("%s: %v, and leaves %v", name, err, left)
		}
	}
}
