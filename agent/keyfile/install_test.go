package keyfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable/durabletest"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// inPlace checks that k stands at the keyfile's place as it should.
func inPlace(t testing.TB, f File, k key.Key) {
	t.Helper()
	s := look(t, f)
	if s.Kind != Good || !s.Key.Equal(k) || s.Target != "" || s.Mode != mode || s.UID != f.Owner || s.GID != f.Group || s.Loose != "" {
		t.Errorf("in place is %+v", s)
	}
}

func TestInstallMissing(t *testing.T) {
	f := newFile(t)
	f.Owner, f.Group = 77, 78
	must(t, os.RemoveAll(f.dir()))
	f.Path = filepath.Join(f.dir(), "deep", "secrets.key")
	k := key.Generate()
	must(t, f.Install(look(t, f), k, now))
	inPlace(t, f, k)
	only(t, f.dir(), "secrets.key")
	for _, dir := range []string{f.dir(), filepath.Dir(f.dir())} {
		info, err := os.Stat(dir)
		must(t, err)
		if info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v", dir, info.Mode())
		}
	}
	if kept := keptOf(t, f); len(kept) != 0 {
		t.Errorf("kept %v", kept)
	}
}

// after checks what must hold after the state s was replaced, and what Sweep does.
func after(t *testing.T, s state, f File) {
	t.Helper()
	if s.keep != nil {
		suffix := "-malformed.bin"
		if len(s.keep) == key.Size {
			suffix = "-" + string(oldKey(t).Fingerprint()) + ".key"
		}
		only(t, f.Quarantine, "20260301T120000.000000Z"+suffix)
		if !holds(t, f.Quarantine, s.keep) {
			t.Error("it is not in the quarantine as it was found")
		}
		info, err := os.Stat(filepath.Join(f.Quarantine, namesIn(t, f.Quarantine)[0]))
		must(t, err)
		if info.Mode() != mode {
			t.Errorf("kept with mode %v", info.Mode())
		}
		info, err = os.Stat(f.Quarantine)
		must(t, err)
		if info.Mode().Perm() != 0o700 {
			t.Errorf("quarantine: mode %v", info.Mode())
		}
	} else if names := namesIn(t, f.Quarantine); len(names) != 0 {
		t.Errorf("kept %v", names)
	}
	if s.key {
		kept := keptOf(t, f)
		if len(kept) != 1 || !kept[0].Key.Equal(oldKey(t)) || !kept[0].Time.Equal(now) || (kept[0].Why == "") != (s.want.Kind == Good) {
			t.Errorf("kept %v", kept)
		}
	}
	aside := asides(t, f)
	if len(aside) != 1 {
		t.Fatalf("asides %q", aside)
	}
	must(t, f.Sweep(now.Add(sweepAge)))
	if got := asides(t, f); !slices.Equal(got, aside) {
		t.Errorf("after a minute: asides %q", got)
	}
	must(t, f.Sweep(now.Add(sweepAge+time.Millisecond)))
	if got := asides(t, f); s.stay && !slices.Equal(got, aside) || !s.stay && got != nil {
		t.Errorf("after more than a minute: asides %q, stay %v", got, s.stay)
	}
	if names := namesIn(t, f.Quarantine); (s.keep != nil) != (len(names) == 1) {
		t.Errorf("after sweeping: %q in the quarantine", names)
	}
}

func TestInstallOver(t *testing.T) {
	each(t, func(t *testing.T, s state, f File) {
		seen := look(t, f)
		var target string
		var had []byte
		if seen.Target != "" && seen.sum != nil {
			target = seen.file
			var err error
			had, err = os.ReadFile(target)
			must(t, err)
		}
		k := key.Generate()
		must(t, f.Install(seen, k, now))
		inPlace(t, f, k)
		if had != nil {
			if got, err := os.ReadFile(target); err != nil || !bytes.Equal(got, had) {
				t.Errorf("the symlink's target was touched: %q, %v", got, err)
			}
		}
		after(t, s, f)
		if s.name == "directory" && !holds(t, asides(t, f)[0], old) {
			t.Error("the directory's content is gone")
		}
		inPlace(t, f, k)
	})
}

func TestParkOver(t *testing.T) {
	each(t, func(t *testing.T, s state, f File) {
		must(t, f.Park(look(t, f), now))
		parked := look(t, f)
		if !parked.Empty || parked.Mode != mode || parked.Size != 0 {
			t.Errorf("parked: %+v", parked)
		}
		if s.want.Empty {
			if got := asides(t, f); got != nil {
				t.Errorf("an empty file was replaced: %q", got)
			}
			return
		}
		after(t, s, f)
		// The key comes back, and nothing piles up.
		k := oldKey(t)
		must(t, f.Install(look(t, f), k, now.Add(time.Hour)))
		inPlace(t, f, k)
	})
}

func TestParkMissing(t *testing.T) {
	f := newFile(t)
	must(t, f.Park(look(t, f), now))
	if s := look(t, f); !s.Empty || s.Mode != mode {
		t.Errorf("parked: %+v", s)
	}
	only(t, f.dir(), "secrets.key")
	before := snapshot(t, f.dir())
	must(t, f.Park(look(t, f), now))
	if snapshot(t, f.dir()) != before {
		t.Error("parking again changed something")
	}
}

// TestInstallRaces: somebody else is faster than the one who looked.
func TestInstallRaces(t *testing.T) {
	theirs := key.Generate()
	place := func(t *testing.T, f File, b []byte) {
		t.Helper()
		put(t, f.Path+".theirs", b)
		must(t, os.Rename(f.Path+".theirs", f.Path))
	}
	for _, tt := range []struct {
		name    string
		before  func(*testing.T, File)
		between func(*testing.T, File)
		lost    []byte // what must be in place or in the quarantine
	}{
		{"appeared", func(*testing.T, File) {}, func(t *testing.T, f File) { place(t, f, theirs.UnsafeBytes()) }, theirs.UnsafeBytes()},
		{"replaced", func(t *testing.T, f File) { place(t, f, old[:31]) }, func(t *testing.T, f File) { place(t, f, theirs.UnsafeBytes()) }, theirs.UnsafeBytes()},
		{"replaced by a directory", func(t *testing.T, f File) { place(t, f, old) }, func(t *testing.T, f File) {
			must(t, os.Remove(f.Path))
			must(t, os.Mkdir(f.Path, 0o700))
		}, nil},
		{"a directory replaced", func(t *testing.T, f File) { must(t, os.Mkdir(f.Path, 0o700)) }, func(t *testing.T, f File) {
			must(t, os.Remove(f.Path))
			place(t, f, theirs.UnsafeBytes())
		}, theirs.UnsafeBytes()},
		{"written in place", func(t *testing.T, f File) { place(t, f, old) }, func(t *testing.T, f File) {
			must(t, os.WriteFile(f.Path, theirs.UnsafeBytes(), 0))
		}, theirs.UnsafeBytes()},
		{"written in place, times put back", func(t *testing.T, f File) { place(t, f, old) }, func(t *testing.T, f File) {
			info, err := os.Stat(f.Path)
			must(t, err)
			must(t, os.WriteFile(f.Path, theirs.UnsafeBytes(), 0))
			must(t, os.Chtimes(f.Path, info.ModTime(), info.ModTime()))
		}, theirs.UnsafeBytes()},
		{"emptied", func(t *testing.T, f File) { place(t, f, old) }, func(t *testing.T, f File) { must(t, os.Truncate(f.Path, 0)) }, nil},
		{"filled", func(t *testing.T, f File) { place(t, f, nil) }, func(t *testing.T, f File) {
			must(t, os.WriteFile(f.Path, theirs.UnsafeBytes(), 0))
		}, theirs.UnsafeBytes()},
		{"a symlink's target written", func(t *testing.T, f File) {
			put(t, f.Path+".real", old)
			must(t, os.Symlink("secrets.key.real", f.Path))
		}, func(t *testing.T, f File) {
			must(t, os.WriteFile(f.Path, theirs.UnsafeBytes(), 0))
		}, theirs.UnsafeBytes()},
		{"gone", func(t *testing.T, f File) { place(t, f, old[:31]) }, func(t *testing.T, f File) { must(t, os.Remove(f.Path)) }, nil},
		{"gone with the directory", func(t *testing.T, f File) { place(t, f, old[:31]) }, func(t *testing.T, f File) {
			must(t, os.RemoveAll(f.dir()))
		}, nil},
	} {
		for what, act := range map[string]func(File, Seen, key.Key) error{
			"Install": func(f File, s Seen, k key.Key) error { return f.Install(s, k, now) },
			"Park":    func(f File, s Seen, k key.Key) error { return f.Park(s, now) },
		} {
			if what == "Park" && tt.name == "filled" {
				continue // an empty file is parked already; there is nothing to race for
			}
			t.Run(what+" "+tt.name, func(t *testing.T) {
				f := newFile(t)
				tt.before(t, f)
				seen := look(t, f)
				tt.between(t, f)
				k := key.Generate()
				if err := act(f, seen, k); !errors.Is(err, ErrChanged) {
					t.Fatalf("%v, want ErrChanged", err)
				}
				found := func() bool {
					return tt.lost == nil || holds(t, f.dir(), tt.lost) || holds(t, f.Quarantine, tt.lost)
				}
				if !found() {
					t.Error("their key is lost")
				}
				if seen.Kind == Missing && (!look(t, f).Key.Equal(theirs) || len(asides(t, f)) != 0) {
					t.Error("what had appeared was touched")
				}
				// The caller looks again.
				must(t, f.Install(look(t, f), k, now))
				inPlace(t, f, k)
				must(t, f.Sweep(now.Add(time.Hour)))
				if tt.lost != nil && !holds(t, f.Quarantine, tt.lost) {
					t.Error("their key did not get into the quarantine")
				}
			})
		}
	}
}

// TestInstallLateWriter: tee(1) opened the file, then it was exchanged, then tee writes.
func TestInstallLateWriter(t *testing.T) {
	for _, late := range [][]byte{mangled(), bytes.Repeat([]byte("k"), key.Size), []byte("x")} {
		f := newFile(t)
		put(t, f.Path, old)
		tee, err := os.OpenFile(f.Path, os.O_WRONLY, 0)
		must(t, err)
		defer tee.Close()
		k := key.Generate()
		must(t, f.Install(look(t, f), k, now))
		must(t, f.Sweep(now.Add(time.Second)))
		must(t, tee.Truncate(0))
		_, err = tee.Write(late)
		must(t, err)

		must(t, f.Sweep(now.Add(2*sweepAge)))
		for _, b := range [][]byte{old, late} {
			if !holds(t, f.Quarantine, b) {
				t.Errorf("%q is lost", b)
			}
		}
		// It may write again: what it has open stays.
		if len(asides(t, f)) != 1 {
			t.Error("a file that somebody has open for writing was removed")
		}
		must(t, tee.Truncate(0))
		_, err = tee.WriteAt([]byte("last words"), 0)
		must(t, err)
		must(t, tee.Close())
		must(t, f.Sweep(now.Add(2*sweepAge)))
		if !holds(t, f.Quarantine, []byte("last words")) {
			t.Error("what was written last is lost")
		}
		if got := asides(t, f); got != nil {
			t.Errorf("asides %q", got)
		}
		inPlace(t, f, k)
	}
}

func TestInstallRefuses(t *testing.T) {
	f := newFile(t)
	put(t, f.Path, old)
	before := snapshot(t, filepath.Dir(f.dir()))
	if err := f.Install(look(t, f), key.Key{}, now); !errors.Is(err, key.ErrSize) {
		t.Errorf("no key: %v", err)
	}
	if err := f.StageNext(key.Key{}); !errors.Is(err, key.ErrSize) {
		t.Errorf("no key: %v", err)
	}
	if err := f.Keep(key.Key{}, now); !errors.Is(err, ErrNotKept) {
		t.Errorf("no key: %v", err)
	}
	if snapshot(t, filepath.Dir(f.dir())) != before {
		t.Error("something changed")
	}
}

// TestInstallBusy: an install waits for another one, for a time.
func TestInstallBusy(t *testing.T) {
	f := newFile(t)
	put(t, f.Path, old)
	l, err := lock.Try(f.Locks, lock.Keyfile)
	must(t, err)
	done := make(chan error)
	k := key.Generate()
	seen := look(t, f)
	go func() { done <- f.Install(seen, k, now) }()
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(30 * time.Millisecond):
	}
	if !look(t, f).Key.Equal(oldKey(t)) {
		t.Error("installed under another's lock")
	}
	l.Release()
	must(t, <-done)
	inPlace(t, f, k)
}

// TestFull: after a failure on a full disk nothing has changed and nothing is left.
func TestFull(t *testing.T) {
	f := newFile(t)
	dir := durabletest.TmpFS(t, 64<<10)
	f.Path = filepath.Join(dir, "secrets.key")
	put(t, f.Path, old)
	put(t, f.Path+".next", old[:31])
	filler := durabletest.Fill(t, dir)
	before := snapshot(t, dir)
	k := key.Generate()
	if err := f.Install(look(t, f), k, now); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Install: %v, want ENOSPC", err)
	}
	if snapshot(t, dir) != before {
		t.Error("Install changed something")
	}
	if err := f.StageNext(k); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("StageNext: %v, want ENOSPC", err)
	}
	if snapshot(t, dir) != before {
		t.Error("StageNext changed something")
	}
	// An empty file takes no room: parking works, and so does its quarantine, on
	// another disk.
	must(t, f.Park(look(t, f), now))
	if !holds(t, f.Quarantine, old) {
		t.Error("the key is lost")
	}
	must(t, os.Remove(filler))
	must(t, f.Install(look(t, f), k, now))
	inPlace(t, f, k)
}

// TestModeless: on a file system that gives all files a mode of its own no key is written
// where others could read it, and one that stands there is told; where only the owner can, all
// is well, though the mode is another and chmod(2) is refused.
func TestModeless(t *testing.T) {
	mount := func(t *testing.T, dir, how string) {
		out, err := exec.Command("bindfs", "-o", how, dir, dir).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	}
	k := key.Generate()
	for _, how := range []string{"perms=a+rwX", "perms=a+rwX,chmod-deny", "perms=a+rX,chmod-ignore"} {
		t.Run(how, func(t *testing.T) {
			f := newFile(t)
			mount(t, f.dir(), how)
			for what, err := range map[string]error{"Install": f.Install(Seen{}, k, now), "StageNext": f.StageNext(k)} {
				if !errors.Is(err, ErrExposed) {
					t.Errorf("%s: %v, want ErrExposed", what, err)
				}
			}
			only(t, f.dir())
			put(t, f.Path, old)
			seen := look(t, f)
			before := snapshot(t, f.dir())
			for what, err := range map[string]error{
				"Install": f.Install(seen, k, now), "Rehearse": f.Rehearse(seen, now), "Tighten": f.Tighten(seen),
			} {
				if !errors.Is(err, ErrExposed) {
					t.Errorf("%s: %v, want ErrExposed", what, err)
				}
			}
			if seen.Loose == "" || snapshot(t, f.dir()) != before {
				t.Errorf("%+v, or something changed", seen)
			}
			must(t, f.Park(seen, now)) // nothing is in it to be read
			if !look(t, f).Empty || !holds(t, f.Quarantine, old) {
				t.Error("not parked")
			}
		})
	}
	for _, how := range []string{"perms=u+rwX:go-rwx", "perms=u+rwX:go-rwx,chmod-deny"} {
		t.Run(how, func(t *testing.T) {
			f := newFile(t)
			mount(t, f.dir(), how)
			put(t, f.Path, old)
			must(t, f.Rehearse(look(t, f), now))
			must(t, f.Install(look(t, f), k, now))
			if s := look(t, f); s.Loose != "" || !s.Key.Equal(k) || !holds(t, f.Quarantine, old) {
				t.Errorf("%+v", s)
			}
		})
	}
	t.Run("the quarantine", func(t *testing.T) {
		f := newFile(t)
		must(t, os.MkdirAll(f.Locks, 0o700))
		mount(t, f.Locks, "perms=a+rwX")
		put(t, f.Path, old)
		err := f.Install(look(t, f), k, now)
		if !errors.Is(err, ErrNotKept) || !errors.Is(err, ErrExposed) || !look(t, f).Key.Equal(k) || !holds(t, f.dir(), old) {
			t.Errorf("%v, and the key is in place: %v", err, look(t, f).Key.Equal(k))
		}
	})
}

// TestFullIsSeen: that there is no room for a key is told before one is put there.
func TestFullIsSeen(t *testing.T) {
	f := File{Path: filepath.Join(durabletest.TmpFS(t, 1<<20), "key")}
	if full := f.Full(); full != "" {
		t.Errorf("%s is full", full)
	}
	if err := os.WriteFile(f.Path, make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if f.Full() != f.dir() {
		t.Error("it is not full")
	}
}

// TestImmutable: what refuses is named.
func TestImmutable(t *testing.T) {
	for _, dir := range []bool{false, true} {
		f := newFile(t)
		put(t, f.Path, old)
		must(t, os.Chmod(f.Path, 0o644))
		path := f.Path
		if dir {
			path = f.dir()
		}
		durabletest.Flag(t, path, unix.STATX_ATTR_IMMUTABLE)
		seen := look(t, f)
		all := map[string]error{"Install": f.Install(seen, key.Generate(), now), "Park": f.Park(seen, now), "Rehearse": f.Rehearse(seen, now)}
		if !dir {
			all["Tighten"] = f.Tighten(seen)
		}
		for what, err := range all {
			if !errors.Is(err, ErrImmutable) || !strings.Contains(fmt.Sprint(err), path+" is immutable") {
				t.Errorf("%s: %v, want ErrImmutable and %s", what, err, path)
			}
		}
		if f.Immutable() != path || !look(t, f).Key.Equal(oldKey(t)) {
			t.Errorf("%q is immutable, want %q", f.Immutable(), path)
		}
	}
}

// TestQuarantineFails: the copy cannot be made; the install is done and nothing lost.
func TestQuarantineFails(t *testing.T) {
	full := func(t *testing.T, f *File) (repair func()) {
		dir := durabletest.TmpFS(t, 64<<10)
		f.Quarantine = filepath.Join(dir, "quarantine")
		must(t, os.Mkdir(f.Quarantine, 0o700))
		filler := durabletest.Fill(t, dir)
		return func() { must(t, os.Remove(filler)) }
	}
	file := func(t *testing.T, f *File) (repair func()) {
		must(t, os.MkdirAll(filepath.Dir(f.Quarantine), 0o700))
		put(t, f.Quarantine, []byte("in the way"))
		return func() { must(t, os.Remove(f.Quarantine)) }
	}
	for name, spoil := range map[string]func(*testing.T, *File) func(){"full disk": full, "a file in the way": file} {
		t.Run(name, func(t *testing.T) {
			f := newFile(t)
			repair := spoil(t, &f)
			put(t, f.Path, old)
			k := key.Generate()
			if err := f.Install(look(t, f), k, now); !errors.Is(err, ErrNotKept) || errors.Is(err, ErrChanged) {
				t.Fatalf("Install: %v, want ErrNotKept", err)
			}
			inPlace(t, f, k)
			check := func(what string) {
				t.Helper()
				kept, err := f.Kept()
				if info, serr := os.Stat(f.Quarantine); (err != nil) != (serr == nil && !info.IsDir()) {
					t.Fatalf("after %s: %v (law 6: what stands in the quarantine's place may hold keys)", what, err)
				}
				if len(kept) != 1 || !kept[0].Key.Equal(oldKey(t)) || kept[0].Path != asides(t, f)[0] || kept[0].Time.Sub(now) > time.Millisecond {
					t.Fatalf("after %s: kept %v, asides %q", what, kept, asides(t, f))
				}
			}
			check("Install")
			if err := f.Keep(oldKey(t), now); !errors.Is(err, ErrNotKept) {
				t.Errorf("Keep: %v, want ErrNotKept", err)
			}
			if err := f.Sweep(now.Add(time.Hour)); !errors.Is(err, ErrNotKept) {
				t.Errorf("Sweep: %v, want ErrNotKept", err)
			}
			check("Sweep")
			must(t, f.StageNext(k))
			if err := f.KeepNext(now); !errors.Is(err, ErrNotKept) {
				t.Errorf("KeepNext: %v, want ErrNotKept", err)
			}
			if s := look(t, f); !s.Next.Equal(k) {
				t.Error("KeepNext without a copy took .next away")
			}
			// Rotation's exchange is done all the same.
			third := key.Generate()
			must(t, os.Remove(f.next()))
			must(t, f.StageNext(third))
			seen := look(t, f)
			if err := f.UseNext(seen, now); !errors.Is(err, ErrNotKept) {
				t.Errorf("UseNext: %v, want ErrNotKept", err)
			}
			inPlace(t, f, third)
			repair()
			must(t, f.Sweep(now.Add(time.Hour)))
			for _, b := range [][]byte{old, k.UnsafeBytes()} {
				if !holds(t, f.Quarantine, b) {
					t.Error("a key was not copied when there was room again")
				}
			}
			if got := asides(t, f); got != nil || look(t, f).NextThere {
				t.Errorf("asides %q", got)
			}
		})
	}
}

func TestMounts(t *testing.T) {
	t.Run("read-only", func(t *testing.T) {
		f := newFile(t)
		put(t, f.Path, old)
		must(t, os.Chmod(f.Path, 0o644))
		put(t, f.Path+".next", old)
		put(t, filepath.Join(f.dir(), asidePrefix+stamp(now)), []byte("aside"))
		durabletest.ReadOnly(t, f.dir())
		before := snapshot(t, f.dir())
		seen := look(t, f)
		for what, err := range map[string]error{
			"Install":   f.Install(seen, key.Generate(), now),
			"Missing":   f.Install(Seen{}, key.Generate(), now),
			"Park":      f.Park(seen, now),
			"Tighten":   f.Tighten(seen),
			"StageNext": f.StageNext(key.Generate()),
			"UseNext":   f.UseNext(seen, now),
			"KeepNext":  f.KeepNext(now),
			"Sweep":     f.Sweep(now.Add(time.Hour)),
		} {
			if !errors.Is(err, unix.EROFS) && !(what == "StageNext" && errors.Is(err, fs.ErrExist)) {
				t.Errorf("%s: %v, want EROFS", what, err)
			}
			if errors.Is(err, ErrChanged) || errors.Is(err, ErrNotKept) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if snapshot(t, f.dir()) != before {
			t.Error("something changed")
		}
		if !holds(t, f.Quarantine, []byte("aside")) {
			t.Error("the aside was not copied")
		}
	})
	t.Run("the file is a mount point", func(t *testing.T) {
		f := newFile(t)
		put(t, f.Path, old[:31])
		put(t, f.Path+".mounted", old)
		durabletest.Bind(t, f.Path+".mounted", f.Path)
		if err := f.Install(look(t, f), key.Generate(), now); !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EXDEV) {
			t.Errorf("%v, want EBUSY", err)
		}
		if !look(t, f).Key.Equal(oldKey(t)) || len(asides(t, f)) != 0 {
			t.Error("something changed")
		}
	})
}

func TestUseNext(t *testing.T) {
	each(t, func(t *testing.T, s state, f File) {
		k := key.Generate()
		must(t, f.StageNext(k))
		must(t, f.UseNext(look(t, f), now))
		inPlace(t, f, k)
		if look(t, f).NextThere {
			t.Error(".next is still there")
		}
		after(t, s, f)
		inPlace(t, f, k)
	})
	t.Run("missing", func(t *testing.T) {
		f := newFile(t)
		k := key.Generate()
		must(t, f.StageNext(k))
		must(t, f.UseNext(look(t, f), now))
		inPlace(t, f, k)
		only(t, f.dir(), "secrets.key")
	})
}

func TestUseNextRefuses(t *testing.T) {
	k, theirs := key.Generate(), key.Generate()
	replace := func(t *testing.T, path string, b []byte) {
		put(t, path+".theirs", b)
		must(t, os.Rename(path+".theirs", path))
	}
	for _, tt := range []struct {
		name    string
		next    func(*testing.T, File)
		between func(*testing.T, File)
		want    error
	}{
		{"no .next", func(*testing.T, File) {}, nil, ErrNoNext},
		{"31 bytes", func(t *testing.T, f File) { put(t, f.next(), old[:31]) }, nil, ErrNoNext},
		{"a symlink", func(t *testing.T, f File) {
			put(t, f.Path+".real", old)
			must(t, os.Symlink("secrets.key.real", f.next()))
		}, nil, ErrNoNext},
		{"another .next", func(t *testing.T, f File) { must(t, f.StageNext(k)) },
			func(t *testing.T, f File) { replace(t, f.next(), theirs.UnsafeBytes()) }, ErrChanged},
		{".next is gone", func(t *testing.T, f File) { must(t, f.StageNext(k)) },
			func(t *testing.T, f File) { must(t, os.Remove(f.next())) }, ErrChanged},
		{"the keyfile is gone", func(t *testing.T, f File) { must(t, f.StageNext(k)) },
			func(t *testing.T, f File) { must(t, os.Remove(f.Path)) }, ErrChanged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFile(t)
			put(t, f.Path, old)
			tt.next(t, f)
			seen := look(t, f)
			if tt.between != nil {
				tt.between(t, f)
			}
			before := snapshot(t, f.dir())
			if err := f.UseNext(seen, now); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if snapshot(t, f.dir()) != before {
				t.Error("something changed")
			}
		})
	}
	t.Run("the keyfile has appeared", func(t *testing.T) {
		f := newFile(t)
		must(t, f.StageNext(k))
		seen := look(t, f)
		put(t, f.Path, old)
		before := snapshot(t, f.dir())
		if err := f.UseNext(seen, now); !errors.Is(err, ErrChanged) {
			t.Errorf("%v, want ErrChanged", err)
		}
		if snapshot(t, f.dir()) != before {
			t.Error("something changed")
		}
	})
	t.Run("the keyfile was replaced", func(t *testing.T) {
		f := newFile(t)
		put(t, f.Path, old)
		must(t, f.StageNext(k))
		seen := look(t, f)
		replace(t, f.Path, theirs.UnsafeBytes())
		if err := f.UseNext(seen, now); !errors.Is(err, ErrChanged) {
			t.Errorf("%v, want ErrChanged", err)
		}
		for _, b := range [][]byte{k.UnsafeBytes(), theirs.UnsafeBytes()} {
			if !holds(t, f.dir(), b) {
				t.Error("a key is lost")
			}
		}
	})
}

func TestStageNext(t *testing.T) {
	f := newFile(t)
	f.Owner, f.Group = 77, 78
	k := key.Generate()
	must(t, f.StageNext(k))
	s := look(t, f)
	if s.Kind != Missing || !s.Next.Equal(k) || s.NextSeen.Mode != mode || s.NextSeen.UID != 77 || s.NextSeen.GID != 78 {
		t.Errorf("%+v %+v", s, s.NextSeen)
	}
	before := snapshot(t, f.dir())
	if err := f.StageNext(key.Generate()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v, want fs.ErrExist", err)
	}
	if snapshot(t, f.dir()) != before {
		t.Error("something changed")
	}
}

func TestKeepNext(t *testing.T) {
	each(t, func(t *testing.T, s state, f File) {
		put(t, f.Path+".live", bytes.Repeat([]byte("l"), key.Size))
		must(t, os.Rename(f.Path, f.next()))
		must(t, os.Rename(f.Path+".live", f.Path))
		if strings.Contains(s.name, "loop") || strings.Contains(s.name, "itself") {
			return // it led to its own name
		}
		must(t, f.KeepNext(now))
		if look(t, f).NextThere {
			t.Error(".next is still there")
		}
		after(t, s, f)
		if got, err := os.ReadFile(f.Path); err != nil || !bytes.Equal(got, bytes.Repeat([]byte("l"), key.Size)) {
			t.Errorf("the keyfile was touched: %q, %v", got, err)
		}
		before := snapshot(t, filepath.Dir(f.dir()))
		must(t, f.KeepNext(now))
		if snapshot(t, filepath.Dir(f.dir())) != before {
			t.Error("without .next KeepNext changed something")
		}
	})
}

// TestConcurrent has many install at once, each its own keys, and others look.
func TestConcurrent(t *testing.T) {
	f := newFile(t)
	put(t, f.Path, old)
	const installers, each = 4, 10
	keys := make([][each]key.Key, installers)
	stop := make(chan struct{})
	var lookers, wg sync.WaitGroup
	for range 2 {
		lookers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if s, err := f.Look(); err != nil || s.Kind != Good {
					t.Errorf("looked: %+v, %v", s, err)
					return
				}
			}
		})
	}
	for i := range installers {
		wg.Go(func() {
			for n := range each {
				k := key.Generate()
				keys[i][n] = k
				for {
					s, err := f.Look()
					if err == nil {
						err = f.Install(s, k, time.Now())
					}
					if err == nil {
						break
					}
					if !errors.Is(err, ErrChanged) {
						t.Errorf("installer %d: %v", i, err)
						return
					}
				}
				if err := f.Sweep(time.Now().Add(time.Hour)); err != nil {
					t.Errorf("installer %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	lookers.Wait()
	have := map[key.Fingerprint]bool{look(t, f).Key.Fingerprint(): true}
	for _, k := range keptOf(t, f) {
		have[k.Key.Fingerprint()] = true
	}
	for _, of := range keys {
		for _, k := range of {
			if !have[k.Fingerprint()] {
				t.Errorf("%v is lost", k)
			}
		}
	}
	if !have[oldKey(t).Fingerprint()] {
		t.Error("the first key is lost")
	}
	must(t, f.Sweep(time.Now().Add(time.Hour)))
	only(t, f.dir(), "secrets.key")
	for _, n := range namesIn(t, f.Quarantine) {
		if strings.HasPrefix(n, durable.TempPrefix) {
			t.Errorf("%s is left", n)
		}
	}
}

func TestTighten(t *testing.T) {
	for _, tt := range []struct {
		mode     uint32
		uid, gid int
	}{{0o644, 0, 0}, {0o400, 1000, 0}, {0o4777, 1000, 1000}, {0o440, 0, 5}, {0o000, 0, 0}, {0o600, 0, 0}, {0o400, 0, 0}} {
		t.Run(fmt.Sprintf("%04o %d:%d", tt.mode, tt.uid, tt.gid), func(t *testing.T) {
			for _, link := range []bool{false, true} {
				f := newFile(t)
				path := f.Path
				if link {
					if tt.uid != 0 || tt.mode&0o022 != 0 {
						continue // not trusted, so not followed
					}
					path += ".real"
					must(t, os.Symlink("secrets.key.real", f.Path))
				}
				put(t, path, old)
				must(t, os.Chown(path, tt.uid, tt.gid))
				must(t, unix.Chmod(path, tt.mode))
				seen := look(t, f)
				must(t, f.Tighten(seen))
				s := look(t, f)
				if s.Loose != "" || s.Mode != mode || s.UID != 0 || s.Ino != seen.Ino || !s.Key.Equal(oldKey(t)) || s.Target != seen.Target {
					t.Errorf("%+v", s)
				}
			}
		})
	}
	t.Run("another owner is wanted", func(t *testing.T) {
		f := newFile(t)
		f.Owner, f.Group = 77, 78
		put(t, f.Path, old)
		must(t, f.Tighten(look(t, f)))
		if s := look(t, f); s.UID != 77 || s.GID != 78 || s.Mode != mode {
			t.Errorf("%+v", s)
		}
	})
	for name, change := range map[string]func(t *testing.T, f File){
		"replaced": func(t *testing.T, f File) {
			put(t, f.Path+".theirs", old)
			must(t, os.Chmod(f.Path+".theirs", 0o644))
			must(t, os.Rename(f.Path+".theirs", f.Path))
		},
		"gone": func(t *testing.T, f File) { must(t, os.Remove(f.Path)) },
		"replaced by a symlink": func(t *testing.T, f File) {
			must(t, os.Rename(f.Path, f.Path+".moved"))
			must(t, os.Symlink("secrets.key.moved", f.Path))
		},
		"replaced by a FIFO": func(t *testing.T, f File) {
			must(t, os.Remove(f.Path))
			must(t, unix.Mkfifo(f.Path, 0o644))
		},
		"replaced by a socket": func(t *testing.T, f File) {
			must(t, os.Remove(f.Path))
			must(t, unix.Mknod(f.Path, unix.S_IFSOCK|0o644, 0))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFile(t)
			put(t, f.Path, old)
			must(t, os.Chmod(f.Path, 0o644))
			seen := look(t, f)
			change(t, f)
			before := snapshot(t, f.dir())
			if err := f.Tighten(seen); !errors.Is(err, ErrChanged) {
				t.Errorf("%v, want ErrChanged", err)
			}
			if snapshot(t, f.dir()) != before {
				t.Error("something changed")
			}
		})
	}
	t.Run("no regular file", func(t *testing.T) {
		f := newFile(t)
		if err := f.Tighten(look(t, f)); err == nil {
			t.Error("missing: no error")
		}
		must(t, os.Mkdir(f.Path, 0o755))
		before := snapshot(t, f.dir())
		if err := f.Tighten(look(t, f)); err == nil {
			t.Error("directory: no error")
		}
		if snapshot(t, f.dir()) != before {
			t.Error("something changed")
		}
	})
}
