package crew_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/crew"
)

// TestRead names what no file is: the answer comes at once, and says what it is.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(in("file"), []byte("12345"), 0o600))
	must(os.WriteFile(in("large"), []byte("123456"), 0o600))
	must(os.WriteFile(in("endless"), nil, 0o600))
	must(os.Truncate(in("endless"), 1<<40))
	must(os.Symlink("file", in("link")))
	must(os.Symlink("loop", in("loop")))
	must(syscall.Mkfifo(in("fifo"), 0o600))
	l, err := net.Listen("unix", in("socket"))
	must(err)
	defer l.Close()
	fed, err := os.OpenFile(in("fifo"), os.O_RDWR, 0) // somebody who may feed it, and does not
	must(err)
	defer fed.Close()
	// Nobody waits to find out, and nothing is taken of it.
	if _, err := crew.Read(in("endless"), 1<<39); !errors.Is(err, crew.ErrLarge) {
		t.Errorf("an endless file: %v", err)
	}
	for _, c := range []struct {
		path string
		err  error
		says string
	}{
		{path: in("file")},
		{path: in("link")},
		{path: in("large"), err: crew.ErrLarge, says: "more than 5 bytes"},
		{path: in("nothing"), err: fs.ErrNotExist},
		{path: in("loop"), err: syscall.ELOOP},
		{path: dir, err: crew.ErrNotFile, says: "a directory"},
		{path: in("fifo"), err: crew.ErrNotFile, says: "a pipe"},
		{path: in("socket"), err: syscall.ENXIO},
		{path: "/dev/zero", err: crew.ErrNotFile, says: "a device"},
		{path: "/dev/null", err: crew.ErrNotFile, says: "a device"},
		{path: "/proc/self/environ/x", err: syscall.ENOTDIR},
		{path: "", err: fs.ErrNotExist},
	} {
		data, err := crew.Read(c.path, 5)
		if c.err == nil && (err != nil || string(data) != "12345") || !errors.Is(err, c.err) {
			t.Errorf("%s: %q, %v, not %v", c.path, data, err, c.err)
		}
		if err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), dir)) {
			t.Errorf("%s: %v, without %q", c.path, err, c.says)
		}
	}
}

// TestReadOnce takes from a pipe what is fed to it, to its end, and of one that has none no
// more than was allowed.
func TestReadOnce(t *testing.T) {
	// As a shell's <(command) is.
	pipe := func(feed func(*os.File)) string {
		t.Helper()
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		t.Cleanup(func() {
			r.Close()
			w.Close()
			<-done
		})
		go func() {
			defer close(done)
			feed(w)
			w.Close()
		}()
		return fmt.Sprintf("/proc/self/fd/%d", r.Fd())
	}
	if data, err := crew.ReadOnce(pipe(func(f *os.File) { f.WriteString("part") }), 5); err != nil || string(data) != "part" {
		t.Errorf("%q, %v", data, err)
	}
	endless := pipe(func(f *os.File) {
		for {
			if _, err := f.WriteString("x"); err != nil {
				return
			}
		}
	})
	if data, err := crew.ReadOnce(endless, 5); !errors.Is(err, crew.ErrLarge) {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := crew.ReadOnce("/dev/zero", 5); !errors.Is(err, crew.ErrNotFile) {
		t.Error(err)
	}
}
