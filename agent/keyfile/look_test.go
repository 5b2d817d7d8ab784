package keyfile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/internal/durable/durabletest"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

func TestLook(t *testing.T) {
	each(t, func(t *testing.T, s state, f File) {
		root := filepath.Dir(f.dir())
		before := snapshot(t, root)
		got := look(t, f)
		if got.Kind != s.want.Kind || got.Encoding != s.want.Encoding || got.Mangled != s.want.Mangled ||
			got.Empty != s.want.Empty || got.Why != s.want.Why || got.Loose != s.want.Loose {
			t.Errorf("got %+v\nwant %+v", got, s.want)
		}
		if s.key != got.Key.Equal(oldKey(t)) || s.key == got.Key.IsZero() {
			t.Errorf("key %v", got.Key)
		}
		if link, _ := os.Readlink(f.Path); got.Target != link {
			t.Errorf("target %q, want %q", got.Target, link)
		}
		info, err := os.Lstat(f.Path)
		must(t, err)
		if got.Target != "" && got.Mode.IsRegular() {
			info, err = os.Stat(f.Path)
			must(t, err)
		}
		if got.Size != info.Size() || got.Mode != info.Mode() || !got.ModTime.Equal(info.ModTime()) {
			t.Errorf("%d bytes, %v, %v; want %d, %v, %v", got.Size, got.Mode, got.ModTime, info.Size(), info.Mode(), info.ModTime())
		}
		if !got.same(look(t, f)) {
			t.Error("looked at twice it is not the same")
		}
		if snapshot(t, root) != before {
			t.Error("Look changed something")
		}
		// The same beside the keyfile.
		must(t, os.Rename(f.Path, f.Path+".next"))
		if strings.Contains(s.name, "loop") || strings.Contains(s.name, "itself") {
			return // it led to its own name
		}
		next := look(t, f)
		if next.Kind != Missing || !next.NextThere || !got.same(*next.NextSeen) || next.NextSeen.Kind != got.Kind {
			t.Errorf("as .next: %+v, %+v", next, next.NextSeen)
		}
		if next.Next.Equal(got.Key) != s.key {
			t.Errorf("as .next: key %v", next.Next)
		}
	})
}

func TestLookMissing(t *testing.T) {
	f := newFile(t)
	check := func(what, why string) {
		t.Helper()
		if s := look(t, f); s.Kind != Missing || s.NextThere || s.Why != why || !s.Key.IsZero() {
			t.Errorf("%s: %+v", what, s)
		}
	}
	check("file", "")
	put(t, filepath.Join(f.dir(), ".containarium-doctor-1"), old)
	check("file, with a file of the daemon's", "")
	must(t, os.RemoveAll(f.dir()))
	check("directory", "missing, with its directory")
	must(t, os.Symlink("nowhere", f.dir()))
	check("directory, behind a dangling symlink", "")
	must(t, os.Remove(f.dir()))
	put(t, f.dir(), old)
	if s := look(t, f); s.Kind != Malformed || s.Why != "below something that is no directory" {
		t.Errorf("%+v", s)
	}
	only(t, filepath.Dir(f.dir()), "etc")
}

// TestLookCannotSay: an error is not "missing" (law 6).
func TestLookCannotSay(t *testing.T) {
	f := newFile(t)
	put(t, f.Path, old)
	f.Path = filepath.Join(f.dir(), strings.Repeat("x", 300))
	if s, err := f.Look(); !errors.Is(err, unix.ENAMETOOLONG) || !strings.Contains(err.Error(), "cannot look at") {
		t.Errorf("%+v, %v", s, err)
	}
}

// as runs what with the rights on files of user nobody, in a thread that ends after.
func as(t *testing.T, what func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread dies with the goroutine
		err := unix.Setfsuid(65534)
		if err == nil {
			what()
		}
		done <- err
	}()
	must(t, <-done)
}

func TestLookUnreadable(t *testing.T) {
	f := newFile(t)
	put(t, f.Path, old)
	must(t, os.Chmod(f.dir(), 0o755))
	root := filepath.Dir(f.dir())
	for _, dir := range []string{root, filepath.Dir(root)} {
		must(t, os.Chmod(dir, 0o755))
	}
	as(t, func() { // the rights of one thread: not by Look, which leaves it
		s, err := f.look()
		if err != nil || s.Kind != Malformed || s.Why != "unreadable: permission denied" || !s.Key.IsZero() || s.Size != 32 {
			t.Errorf("file: %+v, %v", s, err)
		}
	})
	must(t, os.Chmod(f.dir(), 0o700))
	as(t, func() {
		if s, err := f.look(); !errors.Is(err, unix.EACCES) {
			t.Errorf("directory: %+v, %v; want EACCES, not that it is missing", s, err)
		}
	})
	// A regular file whose read(2) fails: address 0 of our own memory.
	f.Path = "/proc/self/mem"
	if s := look(t, f); s.Kind != Malformed || s.Why != "unreadable: input/output error" {
		t.Errorf("%+v", s)
	}
	// A file of no size that has content.
	f.Path = "/proc/self/comm"
	if s := look(t, f); s.Kind != Malformed || s.Empty || !strings.HasSuffix(s.Why, "bytes instead of 32") {
		t.Errorf("%+v", s)
	}
}

// TestLookAtMounts: another file system in between changes nothing.
func TestLookAtMounts(t *testing.T) {
	f := newFile(t)
	dir := durabletest.TmpFS(t, 64<<10)
	put(t, filepath.Join(dir, "k"), old)
	put(t, f.Path, old[:31])
	durabletest.Bind(t, filepath.Join(dir, "k"), f.Path)
	if s := look(t, f); s.Kind != Good || !s.Key.Equal(oldKey(t)) {
		t.Errorf("%+v", s)
	}
}

// TestLookWhileItChanges looks while somebody else exchanges the file for other
// things: what is seen is one of them, whole.
func TestLookWhileItChanges(t *testing.T) {
	f := newFile(t)
	store := filepath.Join(filepath.Dir(f.dir()), "store")
	must(t, os.Mkdir(store, 0o700))
	put(t, filepath.Join(store, "k"), old)
	other := key.Generate()
	forms := []func(path string) error{
		func(path string) error { return os.WriteFile(path, old, 0o400) },
		func(path string) error { return os.WriteFile(path, other.UnsafeBytes(), 0o400) },
		func(path string) error { return os.Symlink(filepath.Join(store, "k"), path) },
		func(path string) error { return unix.Mkfifo(path, 0o600) },
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			temp := filepath.Join(store, "temp")
			if err := forms[i%len(forms)](temp); err != nil {
				t.Error(err)
				return
			}
			if err := os.Rename(temp, f.Path); err != nil {
				t.Error(err)
				return
			}
			if i%5 == 0 {
				if err := os.Remove(f.Path); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	saw := map[Kind]int{}
	for n := 0; n < 1000 || saw[Good] == 0; n++ {
		s, err := f.Look()
		if err != nil {
			t.Fatal(err)
		}
		saw[s.Kind]++
		switch {
		case s.Kind == Missing:
		case s.Kind == Good && (s.Key.Equal(oldKey(t)) || s.Key.Equal(other)):
		case s.Kind == Malformed && s.Why == "a FIFO":
		default:
			t.Fatalf("%+v", s)
		}
	}
	close(stop)
	<-stopped
}

func FuzzLook(f *testing.F) {
	seeds := 0
	for _, b := range [][]byte{nil, old, old[:31], append(bytes.Clone(old), '\n'), mangled(), bytes.Repeat([]byte("x"), 4096)} {
		f.Add(b, uint16(0o400), false)
		f.Add(b, uint16(0o644), true)
		seeds += 2
	}
	if seeds == 0 {
		f.Fatal("no seeds")
	}
	f.Fuzz(func(t *testing.T, b []byte, mode uint16, link bool) {
		file := newFile(t)
		path := file.Path
		if link {
			path += ".real"
			must(t, os.Symlink("secrets.key.real", file.Path))
		}
		put(t, path, b)
		must(t, unix.Chmod(path, uint32(mode&0o7777)))
		s := look(t, file)
		if link && mode&0o022 != 0 {
			if s.Kind != Malformed || !s.Key.IsZero() {
				t.Fatalf("trusted: %+v", s)
			}
			return
		}
		if (s.Kind == Good) != (len(b) == key.Size) || s.Empty != (len(b) == 0) || (s.Why == "") != (s.Kind == Good) {
			t.Fatalf("%d bytes: %+v", len(b), s)
		}
		if (s.Loose == "") != (mode&0o7077 == 0) {
			t.Fatalf("mode %04o: %+v", mode, s)
		}
		k := key.Generate()
		must(t, file.Install(s, k, now))
		if s := look(t, file); s.Kind != Good || !s.Key.Equal(k) || s.Loose != "" {
			t.Fatalf("installed: %+v", s)
		}
		must(t, file.Sweep(now.Add(time.Hour)))
		if len(b) > 0 && len(b) <= maxRead && !holds(t, file.Quarantine, b) {
			t.Fatalf("%q is lost", b)
		}
	})
}

func BenchmarkLook(b *testing.B) {
	f := newFile(b)
	put(b, f.Path, old)
	b.ReportAllocs()
	for b.Loop() {
		if s, err := f.Look(); err != nil || s.Kind != Good {
			b.Fatal(s, err)
		}
	}
}

// What a conversion to UTF-8 left is a key where the daemon takes it for one: it may have
// written rows under it, and only the rows tell.
func TestMangledTo32Bytes(t *testing.T) {
	b := []byte(strings.ToValidUTF8("\xfe\x80\x81"+strings.Repeat("k", 29), "\uFFFD"))
	if _, _, err := key.Decode(b); len(b) != key.Size || !errors.Is(err, key.ErrMangled) {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	f := newFile(t)
	put(t, f.Path, b)
	seen := look(t, f)
	if seen.Kind != Good || seen.Encoding != key.Raw || seen.Why != "" || !bytes.Equal(seen.Key.UnsafeBytes(), b) {
		t.Errorf("%+v", seen)
	}
	must(t, f.Install(seen, oldKey(t), now))
	if kept := keptOf(t, f); len(kept) == 0 || !kept[0].Key.Equal(seen.Key) {
		t.Errorf("kept are %v", kept)
	}
}

// TestOwnerThatIsNotShown: in a namespace that lacks a user, the kernel answers for him with nobody's
// number, and who reads of that number alone looks for the wrong user.
func TestOwnerThatIsNotShown(t *testing.T) {
	defer func(as func() bool) { hides = as }(hides)
	for _, tt := range []struct {
		uid   uint32
		hides bool
		want  string
	}{
		{1000, true, "uid 1000"},
		{nobody, false, "uid 65534"},
		{nobody, true, "uid 65534, or a user whom this sandbox does not show (PrivateUsers=)"},
	} {
		hides = func() bool { return tt.hides }
		if got := user(tt.uid); got != tt.want {
			t.Errorf("%d: %s", tt.uid, got)
		}
	}
}
