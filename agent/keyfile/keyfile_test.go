package keyfile

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/internal/durable/durabletest"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// The tests start their own program again: without renameat2's flags, or to be killed.
const (
	envNoRename2 = "KEYFILE_TEST_NO_RENAME2"
	envCrash     = "KEYFILE_TEST_CRASH"
)

func TestMain(m *testing.M) {
	unix.Umask(0o022) // what a symlink may be trusted through depends on modes
	// Thousands of syncs to a disk would take most of the time.
	if _, err := os.Stat("/dev/shm"); err == nil {
		os.Setenv("TMPDIR", "/dev/shm") //nolint:errcheck // then it is the disk
	}
	if noRename2() {
		if err := durabletest.WithoutRename2(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if name := os.Getenv(envCrash); name != "" {
		if err := crashing(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func noRename2() bool { return os.Getenv(envNoRename2) != "" }

// TestWithoutRename2 runs all tests but the crashes on a kernel without the flags of
// renameat2(2).
func TestWithoutRename2(t *testing.T) {
	if noRename2() {
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run=^(TestInstall|TestPark|TestUseNext|TestKeepNext|TestStageNext|TestSweep|TestFull|TestMounts|TestQuarantine|TestConcurrent)")
	cmd.Env = append(os.Environ(), envNoRename2+"=1")
	out, err := cmd.CombinedOutput()
	if passed := bytes.Count(out, []byte("\n--- PASS: ")); err != nil || passed < 10 {
		t.Errorf("%v, %d passed\n%s", err, passed, out)
	}
}

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// newFile returns a File whose directories lie in a place of its own. The keyfile's
// exists, 0700, the others do not.
func newFile(t testing.TB) File {
	t.Helper()
	root := t.TempDir()
	f := File{
		Path:       filepath.Join(root, "etc", "secrets.key"),
		Owner:      os.Getuid(),
		Group:      os.Getgid(),
		Quarantine: filepath.Join(root, "state", "quarantine"),
		Locks:      filepath.Join(root, "state"),
	}
	if err := os.Mkdir(f.dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	return f
}

// put makes a file. No program starts meanwhile: it would have the file open for writing until
// its exec(2), and a file that somebody may still write to is not swept.
func put(t testing.TB, path string, content []byte) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, content, 0o400); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func look(t testing.TB, f File) Seen {
	t.Helper()
	s, err := f.Look()
	must(t, err)
	return s
}

func keptOf(t testing.TB, f File) []Kept {
	t.Helper()
	kept, err := f.Kept()
	must(t, err)
	return kept
}

func namesIn(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil
	}
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func asides(t testing.TB, f File) (paths []string) {
	t.Helper()
	for _, n := range namesIn(t, f.dir()) {
		if isAside(n) {
			paths = append(paths, filepath.Join(f.dir(), n))
		}
	}
	return paths
}

// holds tells whether a regular file in dir has this content.
func holds(t testing.TB, dir string, content []byte) bool {
	t.Helper()
	for _, n := range namesIn(t, dir) {
		path := filepath.Join(dir, n)
		if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || info.Size() != int64(len(content)) {
			continue
		}
		if got, err := os.ReadFile(path); err == nil && bytes.Equal(got, content) {
			return true
		}
	}
	return false
}

// snapshot describes all below root, so that a test can say that nothing changed.
func snapshot(t testing.TB, root string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %o %d:%d %d", path, st.Mode, st.Uid, st.Gid, st.Ino)
		if d.Type().IsRegular() && st.Size > 1<<20 {
			fmt.Fprintf(&b, " %d bytes", st.Size)
		} else if d.Type().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", content)
		}
		b.WriteString("\n")
		return nil
	}))
	return b.String()
}

// old is a key whose bytes are no UTF-8, in every way in which tools leave it.
var old = []byte("\xfb\xff\xfe\x00\x01 \n\r\t=+/-_\x80\x81\xef\xbf\xbe~}{|azAZ09\xff\xfe\xfd")

func oldKey(t testing.TB) key.Key {
	t.Helper()
	k, err := key.New(old)
	must(t, err)
	return k
}

// mangled is what `gcloud secrets versions access latest | tee` makes of old.
func mangled() []byte {
	var b []byte
	for _, r := range string(old) {
		b = append(b, string(r)...)
	}
	return b
}

// A state is something that can stand at the keyfile's place.
type state struct {
	name string
	make func(t testing.TB, f File)
	want Seen   // Kind, Encoding, Mangled, Empty, Why, Loose
	key  bool   // it decodes to old
	keep []byte // what must be in the quarantine after it has left
	stay bool   // what came out stays aside for ever
}

func content(b []byte) func(testing.TB, File) {
	return func(t testing.TB, f File) { put(t, f.Path, b) }
}

func node(mode uint32, dev int) func(testing.TB, File) {
	return func(t testing.TB, f File) { must(t, unix.Mknod(f.Path, mode|0o600, dev)) }
}

// states is everything but a missing file. R stands for the root of the File in Why.
func states() []state {
	large := bytes.Repeat([]byte("large"), maxRead)
	atLimit := bytes.Repeat([]byte{0xfe}, maxRead)
	list := []state{
		{name: "good", make: content(old), want: Seen{Kind: Good, Encoding: key.Raw}, key: true, keep: old},
		{name: "0 bytes", make: content(nil), want: Seen{Empty: true, Why: "empty"}},
		{name: "1 byte", make: content(old[:1]), want: Seen{Why: "1 byte instead of 32"}, keep: old[:1]},
		{name: "31 bytes", make: content(old[:31]), want: Seen{Why: "31 bytes instead of 32"}, keep: old[:31]},
		{name: "33 bytes", make: content(append(bytes.Clone(old), 'x')), want: Seen{Why: "33 bytes instead of 32"}, keep: append(bytes.Clone(old), 'x')},
		{name: "66 bytes", make: content(bytes.Repeat(old[:11], 6)), want: Seen{Why: "66 bytes instead of 32"}, keep: bytes.Repeat(old[:11], 6)},
		{name: "a newline", make: content(append(bytes.Clone(old), '\n')), want: Seen{Encoding: key.Newline, Why: "33 bytes instead of 32: a newline too many"}, key: true, keep: append(bytes.Clone(old), '\n')},
		{name: "base64", make: content([]byte(base64.StdEncoding.EncodeToString(old) + "\n")), want: Seen{Encoding: key.Base64, Why: "base64 text of a key"}, key: true, keep: []byte(base64.StdEncoding.EncodeToString(old) + "\n")},
		{name: "hex", make: content([]byte(hex.EncodeToString(old))), want: Seen{Encoding: key.Hex, Why: "hex text of a key"}, key: true, keep: []byte(hex.EncodeToString(old))},
		{name: "mangled", make: content(mangled()), want: Seen{Mangled: true, Why: fmt.Sprintf("%d bytes instead of 32, destroyed by a conversion to UTF-8", len(mangled()))}, keep: mangled()},
		{name: "all that is read", make: content(atLimit), want: Seen{Why: "65536 bytes instead of 32"}, keep: atLimit},
		{name: "a byte more", make: content(append(bytes.Clone(atLimit), 0)), want: Seen{Why: "more than 65536 bytes instead of 32"}, stay: true},
		{name: "large", make: content(large), want: Seen{Why: "more than 65536 bytes instead of 32"}, stay: true},
		{name: "endless", make: func(t testing.TB, f File) {
			put(t, f.Path, nil)
			must(t, os.Truncate(f.Path, 1<<40))
		}, want: Seen{Why: "more than 65536 bytes instead of 32"}, stay: true},
		{name: "directory", make: func(t testing.TB, f File) {
			must(t, os.Mkdir(f.Path, 0o700))
			put(t, filepath.Join(f.Path, "inside"), old)
		}, want: Seen{Why: "a directory"}, stay: true},
		{name: "FIFO", make: node(unix.S_IFIFO, 0), want: Seen{Why: "a FIFO"}, stay: true},
		{name: "socket", make: node(unix.S_IFSOCK, 0), want: Seen{Why: "a socket"}, stay: true},
		{name: "device", make: node(unix.S_IFCHR, int(unix.Mkdev(1, 5))), want: Seen{Why: "a device"}, stay: true},
		{name: "mode 0644", make: func(t testing.TB, f File) {
			put(t, f.Path, old)
			must(t, os.Chmod(f.Path, 0o644))
		}, want: Seen{Kind: Good, Encoding: key.Raw, Loose: "mode 0644"}, key: true, keep: old},
		{name: "mode 0600", make: func(t testing.TB, f File) {
			put(t, f.Path, old)
			must(t, os.Chmod(f.Path, 0o600))
		}, want: Seen{Kind: Good, Encoding: key.Raw}, key: true, keep: old},
		{name: "mode 4400", make: func(t testing.TB, f File) {
			put(t, f.Path, old)
			must(t, os.Chmod(f.Path, 0o400|fs.ModeSetuid))
		}, want: Seen{Kind: Good, Encoding: key.Raw, Loose: "mode 4400"}, key: true, keep: old},
		{name: "another owner", make: func(t testing.TB, f File) {
			put(t, f.Path, old)
			must(t, os.Chown(f.Path, 1000, 1000))
		}, want: Seen{Kind: Good, Encoding: key.Raw, Loose: "owned by uid 1000"}, key: true, keep: old},
		{name: "another owner and mode", make: func(t testing.TB, f File) {
			put(t, f.Path, old[:31])
			must(t, os.Chown(f.Path, 1000, 0))
			must(t, os.Chmod(f.Path, 0o4640|fs.ModeSetuid))
		}, want: Seen{Why: "31 bytes instead of 32", Loose: "mode 4640, owned by uid 1000"}, keep: old[:31]},
	}
	return append(list, symlinks()...)
}

// symlinks is every kind of symlink.
func symlinks() []state {
	// store makes a directory beside the keyfile's with the key in it.
	store := func(t testing.TB, f File) string {
		dir := filepath.Join(filepath.Dir(f.dir()), "store")
		must(t, os.Mkdir(dir, 0o700))
		put(t, filepath.Join(dir, "k"), old)
		return dir
	}
	link := func(t testing.TB, to, at string) { must(t, os.Symlink(to, at)) }
	good := Seen{Kind: Good, Encoding: key.Raw}
	return []state{
		{name: "symlink", make: func(t testing.TB, f File) {
			link(t, filepath.Join(store(t, f), "k"), f.Path)
		}, want: good, key: true, keep: old, stay: true},
		{name: "relative symlink", make: func(t testing.TB, f File) {
			store(t, f)
			link(t, "../store/./k", f.Path)
		}, want: good, key: true, keep: old, stay: true},
		{name: "symlink in its own directory", make: func(t testing.TB, f File) {
			put(t, f.Path+".real", old)
			link(t, "secrets.key.real", f.Path)
		}, want: good, key: true, keep: old, stay: true},
		{name: "symlink over symlinks", make: func(t testing.TB, f File) {
			dir := store(t, f)
			link(t, "store", filepath.Join(filepath.Dir(dir), "also"))
			link(t, "k", filepath.Join(dir, "l"))
			link(t, "../also/../also/l", f.Path)
		}, want: good, key: true, keep: old, stay: true},
		{name: "symlink to a loose file", make: func(t testing.TB, f File) {
			dir := store(t, f)
			must(t, os.Chmod(filepath.Join(dir, "k"), 0o444))
			link(t, filepath.Join(dir, "k"), f.Path)
		}, want: Seen{Kind: Good, Encoding: key.Raw, Loose: "mode 0444"}, key: true, keep: old, stay: true},
		{name: "symlink to 31 bytes", make: func(t testing.TB, f File) {
			dir := store(t, f)
			put(t, filepath.Join(dir, "short"), old[:31])
			link(t, filepath.Join(dir, "short"), f.Path)
		}, want: Seen{Why: "31 bytes instead of 32"}, keep: old[:31], stay: true},
		{name: "symlink to a directory", make: func(t testing.TB, f File) {
			link(t, store(t, f), f.Path)
		}, want: Seen{Why: "a symlink to a directory"}, stay: true},
		{name: "symlink to a FIFO", make: func(t testing.TB, f File) {
			dir := store(t, f)
			must(t, unix.Mkfifo(filepath.Join(dir, "f"), 0o600))
			link(t, filepath.Join(dir, "f"), f.Path)
		}, want: Seen{Why: "a symlink to a FIFO"}, stay: true},
		{name: "dangling symlink", make: func(t testing.TB, f File) {
			link(t, "nowhere", f.Path)
		}, want: Seen{Why: "a dangling symlink to nowhere"}, stay: true},
		{name: "symlink below a file", make: func(t testing.TB, f File) {
			link(t, filepath.Join(store(t, f), "k", "x"), f.Path)
		}, want: Seen{Why: "a dangling symlink to R/store/k/x"}, stay: true},
		{name: "symlink loop", make: func(t testing.TB, f File) {
			link(t, "other", f.Path)
			link(t, "secrets.key", filepath.Join(f.dir(), "other"))
		}, want: Seen{Why: "a symlink loop"}, stay: true},
		{name: "symlink to itself", make: func(t testing.TB, f File) {
			link(t, "secrets.key", f.Path)
		}, want: Seen{Why: "a symlink loop"}, stay: true},
		{name: "another's symlink", make: func(t testing.TB, f File) {
			link(t, filepath.Join(store(t, f), "k"), f.Path)
			must(t, os.Lchown(f.Path, 1000, 1000))
		}, want: Seen{Why: "a symlink to R/store/k that others can change (R/etc/secrets.key is owned by uid 1000)"}, stay: true},
		{name: "symlink over another's symlink", make: func(t testing.TB, f File) {
			dir := store(t, f)
			link(t, "k", filepath.Join(dir, "l"))
			must(t, os.Lchown(filepath.Join(dir, "l"), 1000, 1000))
			link(t, "../store/l", f.Path)
		}, want: Seen{Why: "a symlink to ../store/l that others can change (R/store/l is owned by uid 1000)"}, stay: true},
		{name: "symlink to another's file", make: func(t testing.TB, f File) {
			dir := store(t, f)
			must(t, os.Chown(filepath.Join(dir, "k"), 1000, 1000))
			link(t, "../store/k", f.Path)
		}, want: Seen{Why: "a symlink to R/store/k, which others can change (mode 0400, owned by uid 1000)"}, stay: true},
		{name: "symlink to a file that others write", make: func(t testing.TB, f File) {
			dir := store(t, f)
			must(t, os.Chmod(filepath.Join(dir, "k"), 0o620))
			link(t, "../store/k", f.Path)
		}, want: Seen{Why: "a symlink to R/store/k, which others can change (mode 0620, owned by uid 0)"}, stay: true},
		{name: "symlink through a directory that others write", make: func(t testing.TB, f File) {
			dir := store(t, f)
			must(t, os.Chmod(dir, 0o1777|fs.ModeSticky))
			link(t, "../store/k", f.Path)
		}, want: Seen{Why: "a symlink to ../store/k that others can change (R/store is mode 1777, owned by uid 0)"}, stay: true},
		{name: "symlink through another's directory", make: func(t testing.TB, f File) {
			dir := store(t, f)
			must(t, os.Chown(dir, 1000, 1000))
			link(t, "../store/k", f.Path)
		}, want: Seen{Why: "a symlink to ../store/k that others can change (R/store is mode 0700, owned by uid 1000)"}, stay: true},
		{name: "symlink from a directory that others write", make: func(t testing.TB, f File) {
			link(t, filepath.Join(store(t, f), "k"), f.Path)
			must(t, os.Chmod(f.dir(), 0o777))
		}, want: Seen{Why: "a symlink to R/store/k that others can change (R/etc is mode 0777, owned by uid 0)"}, stay: true},
		{name: "symlink under a directory that others write", make: func(t testing.TB, f File) {
			link(t, filepath.Join(store(t, f), "k"), f.Path)
			must(t, os.Chmod(filepath.Dir(f.dir()), 0o777))
		}, want: Seen{Why: "a symlink to R/store/k that others can change (R is mode 0777, owned by uid 0)"}, stay: true},
		{name: "relative symlink under a directory that others write", make: func(t testing.TB, f File) {
			store(t, f)
			link(t, "../store/k", f.Path)
			must(t, os.Chmod(filepath.Dir(f.dir()), 0o777))
		}, want: Seen{Why: "a symlink to ../store/k that others can change (R is mode 0777, owned by uid 0)"}, stay: true},
		{name: "symlink out of a directory that others write", make: func(t testing.TB, f File) {
			elsewhere := t.TempDir()
			put(t, filepath.Join(elsewhere, "k"), old)
			link(t, filepath.Join(elsewhere, "k"), f.Path)
			must(t, os.Chmod(filepath.Dir(f.dir()), 0o777))
		}, want: Seen{Why: "a symlink to R/../002/k that others can change (R is mode 0777, owned by uid 0)"}, stay: true},
		{name: "symlink into a directory where others have been", make: func(t testing.TB, f File) {
			// There and back: the way leads through a directory that others write.
			root := filepath.Dir(f.dir())
			store(t, f)
			must(t, os.Mkdir(filepath.Join(root, "open"), 0o700))
			link(t, "../store", filepath.Join(root, "open", "way"))
			must(t, os.Chmod(filepath.Join(root, "open"), 0o777))
			link(t, "../open/way/k", f.Path)
		}, want: Seen{Why: "a symlink to ../open/way/k that others can change (R/open is mode 0777, owned by uid 0)"}, stay: true},
	}
}

// each runs a test for every state.
func each(t *testing.T, test func(t *testing.T, s state, f File)) {
	list := states()
	if len(list) < 40 {
		t.Fatalf("only %d states", len(list))
	}
	for _, s := range list {
		t.Run(s.name, func(t *testing.T) {
			f := newFile(t)
			s.make(t, f)
			if s.want.Kind == Missing {
				s.want.Kind = Malformed
			}
			s.want.Why = strings.ReplaceAll(s.want.Why, "R/..", filepath.Dir(filepath.Dir(f.dir())))
			s.want.Why = strings.ReplaceAll(s.want.Why, "R/", filepath.Dir(f.dir())+"/")
			s.want.Why = strings.ReplaceAll(s.want.Why, "(R ", "("+filepath.Dir(f.dir())+" ")
			test(t, s, f)
		})
	}
}

func only(t testing.TB, dir string, want ...string) {
	t.Helper()
	if got := namesIn(t, dir); !slices.Equal(got, want) {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}
