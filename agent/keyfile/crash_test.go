package keyfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/internal/durable/durabletest"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

// fresh is the key that goes in, in the crash tests.
var fresh = bytes.Repeat([]byte{0xf5}, key.Size)

func freshKey() key.Key {
	k, err := key.New(fresh)
	if err != nil {
		panic(err)
	}
	return k
}

// A scenario is an operation that is killed at each of its steps.
type scenario struct {
	name   string
	before func(t testing.TB, f File)
	run    func(f File, seen Seen) error
	// never lists what must be in some file at every moment.
	never [][]byte
	// place lists what may be at the keyfile's place at any moment; nil stands for
	// nothing.
	place [][]byte
	end   []byte // what is there in the end
	calls []string
}

func scenarios() []scenario {
	install := func(f File, seen Seen) error { return f.Install(seen, freshKey(), now) }
	nothing := func(testing.TB, File) {}
	good := func(t testing.TB, f File) { put(t, f.Path, old) }
	short := old[:31]
	// What an install calls: lock; directory (there); the new file; the exchange; the
	// state directory and the quarantine; the copy.
	file := []string{"openat", "fchmod", "write", "fsync"}
	lock := []string{"openat"}
	keep := slices.Concat([]string{"mkdirat", "fsync"}, file, []string{"renameat2", "fsync"})
	swap := slices.Concat(lock, []string{"mkdirat"}, file, []string{"renameat2", "fsync"}, keep)
	return []scenario{
		{"install, missing", nothing, install, nil, [][]byte{nil, fresh}, fresh,
			slices.Concat(lock, []string{"mkdirat"}, file, []string{"renameat2", "fsync"})},
		{"install over a key", good, install, [][]byte{old}, [][]byte{old, fresh}, fresh, swap},
		{"install over 31 bytes", func(t testing.TB, f File) { put(t, f.Path, short) }, install,
			[][]byte{short}, [][]byte{short, fresh}, fresh, swap},
		{"install over a symlink", func(t testing.TB, f File) {
			put(t, f.Path+".real", old)
			if err := os.Symlink("secrets.key.real", f.Path); err != nil {
				t.Fatal(err)
			}
		}, install, [][]byte{old}, [][]byte{old, fresh}, fresh, swap},
		{"park", good, func(f File, seen Seen) error { return f.Park(seen, now) },
			[][]byte{old}, [][]byte{old, {}}, []byte{}, slices.DeleteFunc(slices.Clone(swap), func() func(string) bool {
				first := true // nothing is written to the empty file
				return func(call string) bool {
					drop := first && call == "write"
					first = first && !drop
					return drop
				}
			}())},
		{"use .next", func(t testing.TB, f File) {
			put(t, f.Path, old)
			put(t, f.next(), fresh)
		}, func(f File, seen Seen) error { return f.UseNext(seen, now) },
			[][]byte{old, fresh}, [][]byte{old, fresh}, fresh,
			slices.Concat(lock, []string{"renameat2", "fsync"}, keep, []string{"renameat2", "fsync"})},
		{"use .next, missing", func(t testing.TB, f File) { put(t, f.next(), fresh) },
			func(f File, seen Seen) error { return f.UseNext(seen, now) },
			[][]byte{fresh}, [][]byte{nil, fresh}, fresh, slices.Concat(lock, []string{"renameat2", "fsync"})},
		{"keep .next", func(t testing.TB, f File) {
			put(t, f.Path, old)
			put(t, f.next(), fresh)
		}, func(f File, _ Seen) error { return f.KeepNext(now) },
			[][]byte{old, fresh}, [][]byte{old}, old, slices.Concat(lock, keep, []string{"renameat2", "fsync"})},
		{"keep", good, func(f File, _ Seen) error { return f.Keep(freshKey(), now) },
			[][]byte{old}, [][]byte{old}, old, slices.Concat(lock, keep)},
		// Whoever put it there may have crashed before its name was on disk.
		{"keep what is there", func(t testing.TB, f File) {
			put(t, f.Path, old)
			if err := os.Mkdir(f.Quarantine, 0o700); err != nil {
				t.Fatal(err)
			}
			put(t, filepath.Join(f.Quarantine, stamp(now)+"-"+string(freshKey().Fingerprint())+".key"), fresh)
		}, func(f File, _ Seen) error { return f.Keep(freshKey(), now) },
			[][]byte{old}, [][]byte{old}, old, slices.Concat(lock, []string{"mkdirat", "fsync"})},
		{"stage .next", good, func(f File, _ Seen) error { return f.StageNext(freshKey()) },
			[][]byte{old}, [][]byte{old}, old, slices.Concat(lock, file, []string{"renameat2", "fsync"})},
		{"sweep", func(t testing.TB, f File) {
			put(t, f.Path, old)
			put(t, filepath.Join(f.dir(), asidePrefix+stamp(now)), fresh)
			put(t, filepath.Join(f.dir(), asidePrefix+stamp(now.Add(time.Microsecond))), short)
		}, func(f File, _ Seen) error { return f.Sweep(now.Add(time.Hour)) },
			[][]byte{old, fresh, short}, [][]byte{old}, old,
			slices.Concat(lock, keep, []string{"unlinkat", "mkdirat"}, keep[2:], []string{"unlinkat"})},
	}
}

const (
	envRoot = "KEYFILE_TEST_ROOT"
	// intoScratch is what is killed in scratch and has no keyfile.
	intoScratch = "into scratch"
)

func fileAt(root string) File {
	return File{
		Path:       filepath.Join(root, "etc", "secrets.key"),
		Quarantine: filepath.Join(root, "state", "quarantine"),
		Locks:      filepath.Join(root, "state"),
	}
}

// crashing is what the traced program does.
func crashing(name string) error {
	if name == intoScratch {
		return restoring()
	}
	f := fileAt(os.Getenv(envRoot))
	for _, s := range scenarios() {
		if s.name == name {
			seen, err := f.Look()
			if err != nil {
				return err
			}
			durabletest.Begin()
			defer durabletest.End()
			return s.run(f, seen)
		}
	}
	return errors.New("no such scenario")
}

func TestCrash(t *testing.T) { crash(t, scenarios()) }

// TestCrashWithoutRename2 does the same on a kernel without renameat2's flags.
func TestCrashWithoutRename2(t *testing.T) {
	brief.Skip(t)
	t.Setenv(envNoRename2, "1")
	list := slices.DeleteFunc(scenarios(), func(s scenario) bool {
		return s.name != "install over a key" && s.name != "use .next" && s.name != "install, missing"
	})
	for i := range list {
		list[i].calls = nil // the ways round it are counted, not laid down
	}
	crash(t, list)
}

// crash kills a scenario before each of its file-changing calls, and checks that no
// key is lost, that what is in the keyfile's place is whole, and that the same code
// then goes on from what it finds (laws 3 and 5).
func crash(t *testing.T, list []scenario) {
	for _, s := range list {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for n, steps := 0, 1; n <= steps; n++ {
				f := fileAt(t.TempDir())
				if err := os.Mkdir(f.dir(), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.Mkdir(f.Locks, 0o700); err != nil {
					t.Fatal(err)
				}
				s.before(t, f)
				calls, ended := durabletest.Run(t, n, envCrash+"="+s.name, envRoot+"="+filepath.Dir(f.Locks))
				if ended != (n == 0) {
					t.Fatalf("killed at %d of %d, ended %v", n, steps, ended)
				}
				if n == 0 {
					steps = len(calls)
					if s.calls != nil && !slices.Equal(calls, s.calls) {
						t.Errorf("calls %q\nwant %q", calls, s.calls)
					}
					if s.calls == nil && !slices.Contains(calls, "linkat") {
						t.Errorf("calls %q, but no linkat", calls)
					}
				}
				where := fmt.Sprintf("killed before step %d of %d (%s)", n, steps, calls[len(calls)-1])
				s.check(t, f, where)
				s.recover(t, f, where)
			}
		})
	}
}

// check looks at what a crash left.
func (s scenario) check(t *testing.T, f File, where string) {
	t.Helper()
	for _, b := range s.never {
		if !holds(t, f.dir(), b) && !holds(t, f.Quarantine, b) {
			t.Errorf("%s: %q is lost", where, b)
		}
	}
	got, err := os.ReadFile(f.Path)
	ok := slices.ContainsFunc(s.place, func(b []byte) bool {
		if b == nil {
			return errors.Is(err, fs.ErrNotExist)
		}
		return err == nil && bytes.Equal(got, b)
	})
	if !ok {
		t.Errorf("%s: in place is %q, %v", where, got, err)
	}
	// What is listed as kept holds every key that is neither in place nor .next.
	seen, kept := look(t, f), keptOf(t, f)
	for _, b := range s.never {
		k, _, err := key.Decode(b)
		if err != nil || seen.Key.Equal(k) || seen.Next.Equal(k) {
			continue
		}
		if !slices.ContainsFunc(kept, func(have Kept) bool { return have.Key.Equal(k) }) {
			t.Errorf("%s: %v is in no place where one would look: %v", where, k, kept)
		}
	}
}

// recover does what the next run of keyguard does, and checks where it gets.
func (s scenario) recover(t *testing.T, f File, where string) {
	t.Helper()
	seen := look(t, f)
	if !bytes.Equal(seen.Key.UnsafeBytes(), s.end) || seen.Kind == Missing {
		if err := s.run(f, seen); err != nil {
			t.Errorf("%s: once more: %v", where, err)
		}
	}
	if err := f.KeepNext(now); err != nil {
		t.Errorf("%s: %v", where, err)
	}
	if err := f.Sweep(time.Now().Add(time.Hour)); err != nil {
		t.Errorf("%s: %v", where, err)
	}
	if got, err := os.ReadFile(f.Path); err != nil || !bytes.Equal(got, s.end) {
		t.Errorf("%s: in the end %q, %v is in place, want %q", where, got, err, s.end)
	}
	for _, b := range s.never {
		if !bytes.Equal(b, s.end) && !holds(t, f.Quarantine, b) {
			t.Errorf("%s: in the end %q is not in the quarantine", where, b)
		}
	}
	for _, n := range slices.Concat(namesIn(t, f.dir()), namesIn(t, f.Quarantine)) {
		info, err := os.Lstat(filepath.Join(f.dir(), n))
		if isAside(n) && (err != nil || info.Mode().IsRegular()) {
			t.Errorf("%s: in the end %s is left", where, n)
		}
	}
}
