package kinds_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew/crewtest"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable/durabletest"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

// needRoot is for tests that mount something.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
}

func tmpfs(t testing.TB, options string) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("keyguard-test", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func openDirectory(t testing.TB, o kinds.DirectoryOptions) *kinds.Directory {
	t.Helper()
	if o.Name == "" {
		o.Name = "usb"
	}
	d, err := kinds.NewDirectory(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// readyDirectory makes a place in a temporary directory.
func readyDirectory(t testing.TB) (*kinds.Directory, string) {
	t.Helper()
	path := t.TempDir()
	d := openDirectory(t, kinds.DirectoryOptions{Path: path})
	if err := d.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d, path
}

func mustSave(t testing.TB, e escrow.Writer, s escrow.Shelf, k key.Key) escrow.Copy {
	t.Helper()
	c, err := e.Save(t.Context(), s, k)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRehearse: what would keep a copy out shows without a key, on either shelf and in the
// child, too; and nothing is left there.
func TestRehearse(t *testing.T) {
	for name, open := range map[string]func(kinds.DirectoryOptions) escrow.Escrow{
		"here": func(o kinds.DirectoryOptions) escrow.Escrow { return openDirectory(t, o) },
		"in a child": func(o kinds.DirectoryOptions) escrow.Escrow {
			i, err := kinds.NewIsolated("/usr/bin/env", []string{"GORACE=atexit_sleep_ms=0", os.Args[0], "serve-directory"}, o, 0)
			try(t, err)
			return i
		},
		"of a split": func(o kinds.DirectoryOptions) escrow.Escrow {
			s := kinds.SplitOptions{Name: "split", Need: 2}
			for i := range 3 {
				part := o
				part.Name, part.Path, part.Part = fmt.Sprint("part", i), filepath.Join(o.Path, fmt.Sprint("part", i)), escrow.PartOf{Need: 2, Number: i + 1}
				if i == 0 { // that one must have its part
					part.Path = o.Path
				}
				s.Members = append(s.Members, escrow.Member{Escrow: openDirectory(t, part), Number: i + 1, Required: i == 0})
			}
			split, err := kinds.NewSplit(s)
			try(t, err)
			return split
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			e := open(kinds.DirectoryOptions{Name: "usb", Path: path})
			try(t, e.Init(t.Context()))
			rehearse := e.(escrow.Rehearser).Rehearse
			try(t, rehearse(t.Context()))
			for _, shelf := range escrow.Shelves {
				shelf := filepath.Join(path, string(shelf))
				for what, flag := range map[string]int{"immutable": unix.STATX_ATTR_IMMUTABLE, "append-only": unix.STATX_ATTR_APPEND} {
					needRoot(t)
					off := durabletest.Flag(t, shelf, flag)
					err := rehearse(t.Context())
					off()
					if !errors.Is(err, escrow.ErrHeld) {
						t.Errorf("%s is %s: %v", shelf, what, err)
					}
				}
				last := filepath.Join(shelf, "99991231T235959.999Z-0123456789abcdef.key")
				try(t, os.WriteFile(last, make([]byte, 32), 0o400))
				err := rehearse(t.Context())
				if filepath.Base(shelf) == string(escrow.Quarantine) {
					try(t, err) // nothing has to be the newest there
				} else if !errors.Is(err, escrow.ErrEndOfTime) || !strings.Contains(err.Error(), filepath.Base(last)) {
					t.Errorf("a copy on %s is from the end of time: %v", shelf, err)
				}
				try(t, os.Remove(last))
				left, err := os.ReadDir(shelf)
				if try(t, err); len(left) > 0 {
					t.Errorf("left in %s: %v", shelf, left)
				}
			}
		})
	}
}

func TestDirectoryConforms(t *testing.T) {
	t.Parallel()
	to, identity := identityFile(t)
	// inChild opens the directory through a child that is started with the argument.
	inChild := func(argument string) func(t *testing.T, o kinds.DirectoryOptions) escrow.Escrow {
		return func(t *testing.T, o kinds.DirectoryOptions) escrow.Escrow {
			// A program with the race detector in it waits a second when it ends.
			i, err := kinds.NewIsolated("/usr/bin/env", []string{"GORACE=atexit_sleep_ms=0", os.Args[0], argument}, o, 0)
			if err != nil {
				t.Fatal(err)
			}
			return i
		}
	}
	here := func(t *testing.T, o kinds.DirectoryOptions) escrow.Escrow { return openDirectory(t, o) }
	inProcess := func(t *testing.T, o kinds.DirectoryOptions) escrow.Escrow {
		i, err := kinds.NewInProcess(o, 0)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	type opener = func(*testing.T, kinds.DirectoryOptions) escrow.Escrow
	onDisk := func(path string, _ *opener) []escrowtest.Fault { return directoryFaults(path) }
	inTheChild := func(path string, open *opener) []escrowtest.Fault {
		return []escrowtest.Fault{
			childFault("mute child", inChild("serve-mute"), open, true),
			childFault("dead child", inChild("serve-nothing"), open, false),
		}
	}
	for _, tt := range []struct {
		name     string
		to       []string
		identity string
		open     opener
		faults   func(path string, open *opener) []escrowtest.Fault
	}{
		{"plain", nil, "", here, onDisk},
		{"sealed and opened", []string{to}, identity, here, onDisk},
		{"sealed", []string{to}, "", here, onDisk},
		{"isolated", nil, "", inChild("serve-directory"), inTheChild},
		{"in process", nil, "", inProcess, onDisk},
		{"like FAT", nil, "", inChild("serve-poor"), inTheChild},
	} {
		if brief.Run() && tt.name != "plain" {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			escrowtest.Run(t, escrowtest.Harness{
				Seals: tt.to != nil, Sealed: tt.to != nil && tt.identity == "",
				New: func(t *testing.T) escrowtest.Place {
					o := kinds.DirectoryOptions{
						Name: "usb", Path: filepath.Join(tmpfs(t, "size=1m"), "keys"), Recipients: tt.to, IdentityFiles: files(tt.identity),
					}
					open := tt.open // what a fault may replace
					return escrowtest.Place{
						Open: func(t *testing.T) escrow.Escrow {
							return &switched{func() escrow.Escrow { return open(t, o) }}
						},
						Put: func(t *testing.T, s escrow.Shelf, data []byte) string {
							file := filepath.Join(o.Path, string(s), "by-hand")
							// The kernel's file times lag a few milliseconds behind its clock.
							for start := time.Now(); ; {
								try(t, os.WriteFile(file, data, 0o600))
								st, err := os.Stat(file)
								try(t, err)
								if st.ModTime().After(start) {
									return string(s) + "/by-hand"
								}
							}
						},
						Misname: func(t *testing.T, id string, data []byte) string {
							try(t, os.WriteFile(filepath.Join(o.Path, id), data, 0o600))
							return id
						},
						Faults: tt.faults(o.Path, &open),
					}
				},
			})
		})
	}
}

// childFault: a child that stores and does not get to say so, or does nothing at all.
func childFault(name string, broken func(*testing.T, kinds.DirectoryOptions) escrow.Escrow,
	open *func(*testing.T, kinds.DirectoryOptions) escrow.Escrow, stored bool) escrowtest.Fault {
	return escrowtest.Fault{Name: "save " + name, Op: "save", Want: escrow.ErrUnreachable, Stored: stored,
		Break: func(*testing.T) func() {
			good := *open
			*open = broken
			return func() { *open = good }
		}}
}

// directoryFaults: what happens to a file system, and what people do in one.
func directoryFaults(path string) []escrowtest.Fault {
	mount := filepath.Dir(path)
	ready := func(do, undo func() error) func(t *testing.T) func() {
		return func(t *testing.T) func() {
			if err := do(); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := undo(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	aside := func(name string) func(t *testing.T) func() {
		file := filepath.Join(path, name)
		return ready(func() error { return os.Rename(file, file+".aside") }, func() error { return os.Rename(file+".aside", file) })
	}
	// instead puts something else in the place of the one current copy, its name kept.
	instead := func(put func(file string) error) func(t *testing.T) func() {
		var file string
		return ready(func() error {
			all, err := filepath.Glob(filepath.Join(path, "current/*"))
			if err != nil || len(all) != 1 {
				return fmt.Errorf("%q, %v", all, err)
			}
			file = all[0]
			if err := os.Rename(file, filepath.Join(path, "saved")); err != nil {
				return err
			}
			return put(file)
		}, func() error {
			return errors.Join(os.RemoveAll(file), os.Rename(filepath.Join(path, "saved"), file))
		})
	}
	remount := func(flags uintptr) func() error {
		return func() error { return unix.Mount("keyguard-test", mount, "tmpfs", unix.MS_REMOUNT|flags, "size=1m") }
	}
	filler := filepath.Join(mount, "filler")
	full := ready(func() error {
		err := os.WriteFile(filler, make([]byte, 2<<20), 0o600)
		if !errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("not full: %w", err)
		}
		return nil
	}, func() error { return os.Remove(filler) })
	return []escrowtest.Fault{
		{Name: "save read-only", Op: "save", Want: escrow.ErrReadOnly, Break: ready(remount(unix.MS_RDONLY), remount(0))},
		{Name: "save full", Op: "save", Want: escrow.ErrFull, Break: full},
		{Name: "save not mounted", Op: "save", Want: escrow.ErrNoPlace, Break: aside("")},
		{Name: "save without README", Op: "save", Want: escrow.ErrNoPlace, Break: aside("README.txt")},
		{Name: "save without the shelf", Op: "save", Want: escrow.ErrNoPlace, Break: aside("current")},
		{Name: "list not mounted", Op: "list", Want: escrow.ErrNoPlace, Break: aside("")},
		{Name: "list without README", Op: "list", Want: escrow.ErrNoPlace, Break: aside("README.txt")},
		{Name: "list without quarantine", Op: "list", Want: escrow.ErrNoPlace, Break: aside("quarantine")},
		{Name: "list read-only", Op: "list", Break: ready(remount(unix.MS_RDONLY), remount(0))},
		{Name: "fetch not mounted", Op: "fetch", Want: escrow.ErrNoPlace, Break: aside("")},
		{Name: "fetch deleted", Op: "fetch", Want: escrow.ErrGone, Break: instead(func(string) error { return nil })},
		{Name: "fetch empty", Op: "fetch", Want: escrow.ErrNotKey, Break: instead(func(f string) error { return os.WriteFile(f, nil, 0o600) })},
		{Name: "fetch short", Op: "fetch", Want: escrow.ErrNotKey, Break: instead(func(f string) error { return os.WriteFile(f, make([]byte, 31), 0o600) })},
		{Name: "fetch other bytes", Op: "fetch", Want: escrow.ErrCorrupt, Break: instead(func(f string) error { return os.WriteFile(f, make([]byte, 32), 0o600) })},
		{Name: "fetch huge", Op: "fetch", Want: escrow.ErrNotKey, Break: instead(func(f string) error { return os.WriteFile(f, make([]byte, 100<<10), 0o600) })},
		{Name: "fetch FIFO", Op: "fetch", Want: escrow.ErrUnreadable, Break: instead(func(f string) error { return unix.Mkfifo(f, 0o600) })},
		{Name: "fetch directory", Op: "fetch", Want: escrow.ErrUnreadable, Break: instead(func(f string) error { return os.Mkdir(f, 0o700) })},
		{Name: "fetch symlink", Op: "fetch", Want: escrow.ErrUnreadable, Break: instead(func(f string) error { return os.Symlink(filepath.Join(path, "saved"), f) })},
	}
}

// switched is an escrow that is looked up anew for each call, so that a fault can put
// another in its place.
type switched struct{ now func() escrow.Escrow }

func (s *switched) Name() string        { return s.now().Name() }
func (s *switched) Place() escrow.Place { return s.now().Place() }
func (s *switched) Close() error        { return s.now().Close() }

func (s *switched) Init(ctx context.Context) error                  { return s.now().Init(ctx) }
func (s *switched) List(ctx context.Context) ([]escrow.Copy, error) { return s.now().List(ctx) }
func (s *switched) Fetch(ctx context.Context, c escrow.Copy) (key.Key, key.Encoding, error) {
	return s.now().Fetch(ctx, c)
}

func (s *switched) Save(ctx context.Context, shelf escrow.Shelf, k key.Key) (escrow.Copy, error) {
	return s.now().Save(ctx, shelf, k)
}

// TestDirectoryPlanted: what else lies on a shelf is listed as what cannot be read, and
// holds nobody up.
func TestDirectoryPlanted(t *testing.T) {
	needRoot(t)
	d, path := readyDirectory(t)
	k := key.Generate()
	saved := mustSave(t, d, escrow.Current, k)
	shelf := filepath.Join(path, "current")
	socket, err := net.Listen("unix", filepath.Join(shelf, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	outside := filepath.Join(t.TempDir(), "outside")
	name := strings.TrimPrefix(saved.ID, "current/")
	for _, err := range []error{
		os.WriteFile(outside, key.Generate().UnsafeBytes(), 0o600),
		os.Symlink(outside, filepath.Join(shelf, "link")),
		os.Symlink("/nonexistent", filepath.Join(shelf, "dangling")),
		os.Symlink("loop", filepath.Join(shelf, "loop")),
		os.Symlink(name, filepath.Join(shelf, "20990101T000000.000Z-0123456789abcdef.key")), // wears a name of ours
		os.Symlink(name, filepath.Join(shelf, "20990101T000000.000Z-0123456789abcdef.need2.part1")),
		os.Symlink(name, filepath.Join(shelf, "20990101T000000.000Z-0123456789abcdef.key.age")),
		unix.Mkfifo(filepath.Join(shelf, "fifo"), 0o600),
		os.Mkdir(filepath.Join(shelf, "directory"), 0o700),
		unix.Mknod(filepath.Join(shelf, "device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))), // /dev/zero never ends
		os.WriteFile(filepath.Join(shelf, ".keyguard-tmp-1"), make([]byte, 32), 0o600),
		os.WriteFile(filepath.Join(shelf, ".DS_Store"), []byte("x"), 0o600),
		os.WriteFile(filepath.Join(shelf, "Thumbs.db"), []byte("x"), 0o600),
		os.WriteFile(filepath.Join(shelf, "desktop.ini"), []byte("x"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	copies, err := d.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	planted := map[string]string{
		"link": "a symbolic link", "dangling": "a symbolic link", "loop": "a symbolic link", "fifo": "a pipe", "directory": "a directory",
		"device": "a device", "socket": "a socket", "20990101T000000.000Z-0123456789abcdef.key": "a symbolic link",
		"20990101T000000.000Z-0123456789abcdef.need2.part1": "a symbolic link", "20990101T000000.000Z-0123456789abcdef.key.age": "a symbolic link",
	}
	if len(copies) != len(planted)+1 {
		t.Errorf("%d copies, want %d: %+v", len(copies), len(planted)+1, copies)
	}
	for _, c := range copies {
		name := strings.TrimPrefix(c.ID, "current/")
		if what := planted[name]; c.Unreadable != what || c.Worthless() != (what != "") || (c.Fingerprint == "") != (what != "") || c.Part != (escrow.PartOf{}) || c.Sealed {
			t.Errorf("%s is listed as unreadable %q, worthless %v, key %q, part %+v, sealed %v; want %q", c.ID, c.Unreadable, c.Worthless(), c.Fingerprint, c.Part, c.Sealed, what)
		}
		_, _, err := d.Fetch(t.Context(), c)
		if want := planted[name] != ""; want != errors.Is(err, escrow.ErrUnreadable) {
			t.Errorf("Fetch of %s: %v", c.ID, err)
		}
	}
	// A save goes on top of all that, and writes through nothing.
	other := key.Generate()
	mustSave(t, d, escrow.Current, other)
	copies, err = d.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := d.Fetch(t.Context(), copies[0]); err != nil || !got.Equal(other) {
		t.Errorf("the newest is %+v: %v, %v", copies[0], got, err)
	}
}

// TestDirectoryAnyName: a copy whose name nobody can print, or that is no UTF-8, is a copy,
// also through a child, and what is told of it is one printable line (law 10).
func TestDirectoryAnyName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	isolated, err := kinds.NewIsolated("/usr/bin/env", []string{"GORACE=atexit_sleep_ms=0", os.Args[0], "serve-directory"}, kinds.DirectoryOptions{Path: path}, 0)
	try(t, err)
	try(t, isolated.Init(t.Context()))
	keys := map[string]key.Key{}
	for _, name := range []string{"schl\xfcssel.key", "schl\xfdssel.key", "schlüssel.key", "20991127T1\n<0>forged\x1b]0;x\a\u009b\u202e.key", "100%25.key", "100%.key"} {
		keys[name] = key.Generate()
		try(t, os.WriteFile(filepath.Join(path, "current", name), keys[name].UnsafeBytes(), 0o400))
	}
	for _, e := range []escrow.Reader{isolated, openDirectory(t, kinds.DirectoryOptions{Path: path})} {
		copies, err := e.List(t.Context())
		if err != nil || len(copies) != len(keys) {
			t.Fatalf("%d copies, %v", len(copies), err)
		}
		found := map[key.Fingerprint]bool{}
		for _, c := range copies {
			if strings.ContainsFunc(c.ID, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
				t.Errorf("listed as %q", c.ID)
			}
			k, _, err := e.Fetch(t.Context(), c)
			if err != nil {
				t.Errorf("%s: %v", c.ID, err)
			}
			found[k.Fingerprint()] = true
		}
		for name, k := range keys {
			if !found[k.Fingerprint()] {
				t.Errorf("%q is not fetched", name)
			}
		}
	}
}

// TestDirectoryForeign: a neighbour who fills the shelf hides no copy of ours, and takes
// nobody's time.
func TestDirectoryForeign(t *testing.T) {
	path := tmpfs(t, "size=64m")
	d := openDirectory(t, kinds.DirectoryOptions{Name: "usb", Path: path})
	try(t, d.Init(t.Context()))
	k := key.Generate()
	saved := mustSave(t, d, escrow.Current, k)
	const n = 5000
	for i := range n {
		try(t, os.WriteFile(filepath.Join(path, "current", fmt.Sprint("foreign-", i)), nil, 0o400))
	}
	copies, err := d.List(t.Context())
	if err != nil || len(copies) != 102 {
		t.Fatalf("%d copies, %v", len(copies), err)
	}
	last := copies[len(copies)-1]
	if last.Unreadable != "4900 more, which are not listed" || last.Shelf != escrow.Current || last.Escrow != "usb" {
		t.Errorf("the rest is %+v", last)
	}
	if _, _, err := d.Fetch(t.Context(), last); !errors.Is(err, escrow.ErrUnreadable) {
		t.Errorf("Fetch of the rest: %v, want ErrUnreadable", err)
	}
	if !slices.ContainsFunc(copies, func(c escrow.Copy) bool { return c.ID == saved.ID }) {
		t.Error("our copy is not listed")
	}
}

// TestDirectoryShelfIsALink: a shelf that leads elsewhere is no shelf.
func TestDirectoryShelfIsALink(t *testing.T) {
	d, path := readyDirectory(t)
	elsewhere := t.TempDir()
	if err := os.Remove(filepath.Join(path, "current")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(path, "current")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.List(t.Context()); !errors.Is(err, escrow.ErrNoPlace) {
		t.Errorf("List: %v", err)
	}
	if _, err := d.Save(t.Context(), escrow.Current, key.Generate()); !errors.Is(err, escrow.ErrNoPlace) {
		t.Errorf("Save: %v", err)
	}
	if err := d.Init(t.Context()); err == nil {
		t.Error("Init accepts it")
	}
	if entries, err := os.ReadDir(elsewhere); err != nil || len(entries) != 0 {
		t.Errorf("written outside: %v, %v", entries, err)
	}
}

func TestDirectoryInit(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(t *testing.T, path string) // path does not exist before
		want    error                           // nil = accepted
	}{
		{"nothing there", func(*testing.T, string) {}, nil},
		{"an empty directory", func(t *testing.T, p string) { try(t, os.Mkdir(p, 0o755)) }, nil},
		{"a symlink to one", func(t *testing.T, p string) { try(t, os.Symlink(t.TempDir(), p)) }, nil},
		{"a stick with other files", func(t *testing.T, p string) {
			try(t, os.Mkdir(p, 0o755))
			try(t, os.WriteFile(filepath.Join(p, "holiday.jpg"), nil, 0o644))
		}, nil},
		{"interrupted before the README", func(t *testing.T, p string) { try(t, os.MkdirAll(filepath.Join(p, "current"), 0o700)) }, nil},
		{"nothing above it", func(t *testing.T, p string) { try(t, os.Remove(filepath.Dir(p))) }, escrow.ErrNoPlace},
		{"a file", func(t *testing.T, p string) { try(t, os.WriteFile(p, nil, 0o600)) }, escrow.ErrInTheWay},
		{"a dangling symlink", func(t *testing.T, p string) { try(t, os.Symlink("/nonexistent", p)) }, escrow.ErrNoPlace},
		{"somebody else's README", func(t *testing.T, p string) {
			try(t, os.Mkdir(p, 0o755))
			try(t, os.WriteFile(filepath.Join(p, "README.txt"), []byte("Welcome to your new stick!"), 0o644))
		}, escrow.ErrInTheWay},
		{"a long README", func(t *testing.T, p string) {
			try(t, os.Mkdir(p, 0o755))
			try(t, os.WriteFile(filepath.Join(p, "README.txt"), make([]byte, 100<<10), 0o644))
		}, escrow.ErrInTheWay},
		{"a README that is a FIFO", func(t *testing.T, p string) {
			try(t, os.Mkdir(p, 0o755))
			try(t, unix.Mkfifo(filepath.Join(p, "README.txt"), 0o644))
		}, escrow.ErrInTheWay},
		{"a shelf that is a file", func(t *testing.T, p string) {
			try(t, os.Mkdir(p, 0o755))
			try(t, os.WriteFile(filepath.Join(p, "quarantine"), nil, 0o644))
		}, escrow.ErrInTheWay},
		{"a shelf that is a link", func(t *testing.T, p string) {
			try(t, os.Mkdir(p, 0o755))
			try(t, os.Symlink(t.TempDir(), filepath.Join(p, "current")))
		}, escrow.ErrInTheWay},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parent, err := os.MkdirTemp(t.TempDir(), "")
			try(t, err)
			path := filepath.Join(parent, "keys")
			tt.prepare(t, path)
			d := openDirectory(t, kinds.DirectoryOptions{Path: path})
			if err := d.Init(t.Context()); !errors.Is(err, tt.want) {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			_, err = d.List(t.Context())
			if (err == nil) != (tt.want == nil) {
				t.Errorf("List afterwards: %v", err)
			}
		})
	}
}

func try(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDirectoryModes(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	d, path := readyDirectory(t)
	c := mustSave(t, d, escrow.Current, key.Generate())
	for name, want := range map[string]os.FileMode{
		"README.txt": 0o444, "current": 0o700 | os.ModeDir, "quarantine": 0o700 | os.ModeDir, c.ID: 0o400,
	} {
		st, err := os.Lstat(filepath.Join(path, name))
		if err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", name, st.Mode(), err, want)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(path, "*/.*")); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
	if data, err := os.ReadFile(filepath.Join(path, c.ID)); err != nil || len(data) != key.Size {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

// TestDirectoryModeless: on a file system that gives each file the mount's mode, a raw key
// is not written where that lets others read it; a sealed one is.
func TestDirectoryModeless(t *testing.T) {
	needRoot(t)
	t.Parallel()
	below, path := t.TempDir(), t.TempDir()
	for mode, want := range map[string]error{"a+rX": escrow.ErrExposed, "a-rwx:u+rwX": nil} {
		if out, err := exec.Command("bindfs", "-o", "perms="+mode, below, path).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		d := openDirectory(t, kinds.DirectoryOptions{Path: path})
		try(t, d.Init(t.Context()))
		_, err := d.Save(t.Context(), escrow.Current, key.Generate())
		left, _ := filepath.Glob(filepath.Join(below, "*/*"))
		hidden, _ := filepath.Glob(filepath.Join(below, "*/.*"))
		if !errors.Is(err, want) || (want == nil) != (len(left) == 1) || hidden != nil {
			t.Errorf("%s: %v, and there are %q %q", mode, err, left, hidden)
		}
		if want != nil {
			to, _ := identityFile(t)
			mustSave(t, openDirectory(t, kinds.DirectoryOptions{Path: path, Recipients: []string{to}}), escrow.Quarantine, key.Generate())
			for _, file := range []string{"current/by-hand", "current/by-hand-too"} {
				try(t, os.WriteFile(filepath.Join(below, file), make([]byte, 32), 0o400))
			}
			try(t, os.WriteFile(filepath.Join(below, "current/of-no-key"), []byte("see the safe"), 0o400))
			got, err := d.Examine(t.Context())
			if want := []string{"others can read current/by-hand-too (mode 0444) and 1 more"}; err != nil || !slices.Equal(got.Readable, want) {
				t.Errorf("%s: %q, %v; want %q", mode, got.Readable, err, want)
			}
		}
		try(t, unix.Unmount(path, unix.MNT_DETACH))
		for _, shelf := range escrow.Shelves {
			try(t, os.RemoveAll(filepath.Join(below, string(shelf))))
		}
	}
}

// TestDirectoryOthers: whose the directory is, and who may write to it.
func TestDirectoryOthers(t *testing.T) {
	needRoot(t)
	d, path := readyDirectory(t)
	mustSave(t, d, escrow.Current, key.Generate())
	if got, err := d.Examine(t.Context()); err != nil || got.Exposed != nil {
		t.Errorf("ours alone: %q, %v", got.Exposed, err)
	}
	try(t, os.Chown(path, 1234, 0))
	try(t, os.Chmod(filepath.Join(path, "current"), 0o770))
	want := []string{path + " belongs to uid 1234", filepath.Join(path, "current") + " is writable by others (mode 0770)"}
	if got, err := d.Examine(t.Context()); err != nil || !slices.Equal(got.Exposed, want) {
		t.Errorf("%q, %v; want %q", got.Exposed, err, want)
	}
}

// TestDirectoryClockAhead: the copy that was saved last is the newest, whatever clocks
// have done.
func TestDirectoryClockAhead(t *testing.T) {
	for name, future := range map[string]func(shelf string) error{
		"a copy of ours": func(shelf string) error {
			return os.WriteFile(filepath.Join(shelf, "21000101T000000.000Z-0123456789abcdef.key"), make([]byte, 32), 0o400)
		},
		"a file by hand": func(shelf string) error {
			file := filepath.Join(shelf, "by-hand")
			err := os.WriteFile(file, make([]byte, 32), 0o400)
			at := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
			return errors.Join(err, os.Chtimes(file, at, at))
		},
	} {
		d, path := readyDirectory(t)
		try(t, future(filepath.Join(path, "current")))
		for range 3 {
			k := key.Generate()
			c := mustSave(t, d, escrow.Current, k)
			copies, err := d.List(t.Context())
			for _, c := range copies {
				if strings.HasSuffix(c.ID, "/by-hand") && time.Until(c.Created) > time.Minute {
					t.Errorf("%s claims to be from %v", c.ID, c.Created)
				}
			}
			if err != nil || copies[0].ID != c.ID {
				t.Errorf("%s: saved %s, the newest of %+v is another (%v)", name, c.ID, copies, err)
			}
		}
	}
}

// TestDirectoryEndOfTime: nothing can be saved on top of a copy from the end of time; a key in
// quarantine need not be on top, and is kept (law 3).
func TestDirectoryEndOfTime(t *testing.T) {
	d, path := readyDirectory(t)
	for _, s := range escrow.Shelves {
		try(t, os.WriteFile(filepath.Join(path, string(s), "99991231T235959.999Z-0123456789abcdef.key"), make([]byte, 32), 0o400))
	}
	if _, err := d.Save(t.Context(), escrow.Current, key.Generate()); !errors.Is(err, escrow.ErrEndOfTime) {
		t.Errorf("after the end of time: %v", err)
	}
	for range 2 {
		k := key.Generate()
		saved := mustSave(t, d, escrow.Quarantine, k)
		if again := mustSave(t, d, escrow.Quarantine, k); again.ID != saved.ID {
			t.Errorf("saved as %s, and again as %s", saved.ID, again.ID)
		}
		if got, _, err := d.Fetch(t.Context(), saved); err != nil || !got.Equal(k) {
			t.Errorf("%s: %v", saved.ID, err)
		}
	}
}

// spent is the processor time that this process has used, which a busy machine stretches
// least.
func spent(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	try(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestDirectoryThousands: a shelf of years stays quick.
func TestDirectoryThousands(t *testing.T) {
	path := tmpfs(t, "size=64m") // a disk would take its time to sync them
	d := openDirectory(t, kinds.DirectoryOptions{Path: path})
	try(t, d.Init(t.Context()))
	const n = 5000
	at := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range n {
		name := fmt.Sprintf("%s-%016x.key", at.Add(time.Duration(i)*time.Hour).Format("20060102T150405.000Z"), i)
		try(t, os.WriteFile(filepath.Join(path, "quarantine", name), make([]byte, 32), 0o400))
	}
	before := spent(t)
	copies, err := d.List(t.Context())
	if err != nil || len(copies) != n || copies[0].Fingerprint != key.Fingerprint(fmt.Sprintf("%016x", n-1)) {
		t.Fatalf("%d copies, %v", len(copies), err)
	}
	if took := spent(t) - before; took > time.Second {
		t.Errorf("listing %d copies took %v of the processor", n, took)
	}
	k := key.Generate()
	c := mustSave(t, d, escrow.Quarantine, k)
	if again := mustSave(t, d, escrow.Quarantine, k); again.ID != c.ID {
		t.Errorf("stored twice, as %s and %s", c.ID, again.ID)
	}
}

// TestDirectorySameDisk: a copy beside the keyfile is no backup, and is not begun.
func TestDirectorySameDisk(t *testing.T) {
	host := t.TempDir()
	linked := filepath.Join(t.TempDir(), "link")
	try(t, os.Symlink(t.TempDir(), linked))
	elsewhere := tmpfs(t, "size=1m")
	bound := t.TempDir()
	try(t, unix.Mount(t.TempDir(), bound, "", unix.MS_BIND, ""))
	defer unix.Unmount(bound, unix.MNT_DETACH)
	for _, tt := range []struct {
		name, path, keyfile string
		want                error
	}{
		{"beside it", filepath.Join(host, "keys"), filepath.Join(host, "secrets.key"), escrow.ErrSameDisk},
		{"the keyfile's directory is missing", filepath.Join(host, "keys"), filepath.Join(host, "a/b/secrets.key"), escrow.ErrSameDisk},
		{"through a symlink", linked, filepath.Join(host, "secrets.key"), escrow.ErrSameDisk},
		{"through a bind mount", bound, filepath.Join(host, "secrets.key"), escrow.ErrSameDisk},
		{"another file system", elsewhere, filepath.Join(host, "secrets.key"), nil},
		{"no keyfile to compare with", filepath.Join(host, "keys"), "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := openDirectory(t, kinds.DirectoryOptions{Path: tt.path, Keyfile: tt.keyfile})
			if err := d.Init(t.Context()); !errors.Is(err, tt.want) {
				t.Errorf("Init: %v, want %v", err, tt.want)
			}
			if tt.want == nil {
				mustSave(t, d, escrow.Current, key.Generate())
				return
			}
			if entries, err := os.ReadDir(tt.path); len(entries) != 0 {
				t.Errorf("Init has written %v (%v)", entries, err)
			}
			// Initialised with the flag, used without it.
			allowed := openDirectory(t, kinds.DirectoryOptions{Path: tt.path, Keyfile: tt.keyfile, AllowSameDisk: true})
			try(t, allowed.Init(t.Context()))
			if _, err := d.Save(t.Context(), escrow.Current, key.Generate()); !errors.Is(err, tt.want) {
				t.Errorf("Save: %v, want %v", err, tt.want)
			}
			if copies, err := d.List(t.Context()); err != nil || len(copies) != 0 {
				t.Errorf("List: %v, %v; reading is no backup and is allowed", copies, err)
			}
			entries, err := os.ReadDir(tt.path)
			try(t, err)
			for _, e := range entries {
				try(t, os.RemoveAll(filepath.Join(tt.path, e.Name())))
			}
		})
	}
}

// TestDirectoryHung: a file system that does not answer holds a child, which cannot even
// be killed, or a thread of this process, and not the caller.
func TestDirectoryHung(t *testing.T) {
	t.Parallel()
	o := kinds.DirectoryOptions{Name: "nfs", Path: hungMount(t)}
	child, err := kinds.NewIsolated(os.Args[0], []string{"serve-directory"}, o, callTimeout)
	try(t, err)
	here, err := kinds.NewInProcess(o, callTimeout)
	try(t, err)
	t.Run("a child", func(t *testing.T) {
		t.Parallel()
		hung(t, child, map[string]func() error{"Init": func() error { return child.Init(t.Context()) }})
	})
	// A start makes no place: what is left behind here would make it below the mount, later.
	t.Run("in process", func(t *testing.T) {
		t.Parallel()
		hung(t, here, nil)
	})
}

func hung(t *testing.T, i *kinds.Bounded, more map[string]func() error) {
	calls := map[string]func() error{
		"List":  func() error { _, err := i.List(t.Context()); return err },
		"Fetch": func() error { _, _, err := i.Fetch(t.Context(), escrow.Copy{ID: "current/x"}); return err },
		"Save":  func() error { _, err := i.Save(t.Context(), escrow.Current, key.Generate()); return err },
	}
	maps.Copy(calls, more)
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait together
			start := time.Now()
			err := call()
			if took := time.Since(start); !errors.Is(err, escrow.ErrTimeout) || took > 10*callTimeout {
				t.Errorf("%v after %v, want ErrTimeout after %v", err, took, callTimeout)
			}
		})
	}
}

// hungMount is a directory on a file system that hangs.
func hungMount(t *testing.T) string {
	t.Helper()
	needRoot(t)
	path := t.TempDir()
	served, err := crewtest.Hang(path)
	try(t, err)
	t.Cleanup(func() {
		// Forced: every request in flight fails, and the children die.
		if err := unix.Unmount(path, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		<-served
	})
	return path
}

// TestIsolatedErrors: what an error is survives the way from the child.
func TestIsolatedErrors(t *testing.T) {
	to, _ := identityFile(t)
	o := kinds.DirectoryOptions{Name: "usb", Path: t.TempDir(), Recipients: []string{to}}
	here := openDirectory(t, o)
	try(t, here.Init(t.Context()))
	k := key.Generate()
	c := mustSave(t, here, escrow.Current, k)
	mangled := bytes.Repeat([]byte("\uFFFD"), 32)
	try(t, os.WriteFile(filepath.Join(o.Path, "current/mangled"), mangled, 0o600))
	there, err := kinds.NewIsolated(os.Args[0], []string{"serve-directory"}, o, 0)
	try(t, err)
	for _, id := range []string{c.ID, "current/mangled", "current/nothing", "nowhere"} {
		_, _, want := here.Fetch(t.Context(), escrow.Copy{ID: id})
		_, _, got := there.Fetch(t.Context(), escrow.Copy{ID: id})
		if got == nil || got.Error() != want.Error() {
			t.Errorf("%s: %q, want %q", id, got, want)
		}
		for _, s := range []error{escrow.ErrSealed, escrow.ErrNotKey, key.ErrMangled, escrow.ErrGone, escrow.ErrNoPlace, escrow.ErrCorrupt} {
			if errors.Is(got, s) != errors.Is(want, s) {
				t.Errorf("%s: errors.Is(%v, %v) is %v, want %v", id, got, s, errors.Is(got, s), errors.Is(want, s))
			}
		}
	}
	var shut *escrow.SealedError
	if _, _, err := there.Fetch(t.Context(), c); !errors.As(err, &shut) || shut.Fingerprint != k.Fingerprint() || len(shut.To) != 1 {
		t.Errorf("the sealed copy does not say what it is: %v", err)
	}
	missing, err := kinds.NewIsolated("/nonexistent/keyguard", nil, o, 0)
	try(t, err)
	if _, err := missing.List(t.Context()); !errors.Is(err, escrow.ErrUnreachable) {
		t.Errorf("without its program: %v", err)
	}
}

func TestServeDirectoryRefuses(t *testing.T) {
	for _, in := range []string{"", "hello", "[]\n", strings.Repeat("x", 1<<17)} {
		var out bytes.Buffer
		if err := kinds.ServeDirectory(t.Context(), strings.NewReader(in), &out); err == nil || out.Len() != 0 {
			t.Errorf("%.20q: %v, answered %q", in, err, &out)
		}
	}
	var out bytes.Buffer
	if err := kinds.ServeDirectory(t.Context(), strings.NewReader(`{"Op":"delete","Options":{"Path":"/tmp"}}`+"\n"), &out); err != nil || !strings.Contains(out.String(), "no request") {
		t.Errorf("an unknown operation: %v, %s", err, &out)
	}
}

// FuzzDirectoryCopy puts a file of any name and content on a shelf: whatever it is, it is
// listed or it is hidden, it is fetched as what it decodes to or as one of the contract's
// errors, and it does not keep a save from being the newest.
func FuzzDirectoryCopy(f *testing.F) {
	k := key.Generate()
	name := "20260102T030405.678Z-" + string(k.Fingerprint()) + ".key"
	seeds := []struct {
		name string
		data []byte
	}{
		{name, k.UnsafeBytes()}, {name, make([]byte, 32)}, {name, nil}, {name + ".age", k.UnsafeBytes()},
		{name + ".age", []byte("age-encryption.org/v1\n-> X25519 x\n\n--- \n")}, {name + ".age", []byte("-----BEGIN AGE ENCRYPTED FILE-----\n")},
		{name, []byte("age-encryption.org/v1\n-> keyguard " + string(k.Fingerprint()) + " 0\n\n---")},
		{"secrets.key", append(bytes.Clone(k.UnsafeBytes()), '\n')}, {"x", []byte("\uFFFD")}, {"-", nil}, {".key", nil}, {" ", []byte("a")},
		{"20260102T030405.678Z-.key", nil}, {"20261399T000000.000Z-0123456789abcdef.key", nil}, {"99991231T235959.998Z-0123456789abcdef.key", nil},
		{"0", []byte("age-encryption.org/v1\n0000000000")}, // 32 bytes, and so a key
		{"\xff\xfe", []byte{0}}, {"a\nb", []byte("c")}, {strings.Repeat("n", 255), make([]byte, 65<<10)},
		{"%", k.UnsafeBytes()}, {"%25", k.UnsafeBytes()}, // an id's own escapes
	}
	for _, s := range seeds {
		f.Add(s.name, s.data)
	}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	path := f.TempDir()
	d := openDirectory(f, kinds.DirectoryOptions{Path: path})
	try(f, d.Init(f.Context()))
	shelf := filepath.Join(path, "current")
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		file := filepath.Join(shelf, name)
		if strings.Contains(name, "/") || os.WriteFile(file, data, 0o600) != nil {
			return // no name for a file
		}
		defer func() {
			all, err := os.ReadDir(shelf)
			try(t, err)
			for _, e := range all {
				try(t, os.Remove(filepath.Join(shelf, e.Name())))
			}
		}()
		copies, err := d.List(t.Context())
		try(t, err)
		if hidden := name[0] == '.'; hidden != (len(copies) == 0) {
			t.Fatalf("%q is listed as %+v", name, copies)
		}
		c := escrow.Copy{ID: "current/" + name}
		if len(copies) > 0 {
			c = copies[0]
		}
		got, enc, err := d.Fetch(t.Context(), c)
		want, wantEnc, decode := key.Decode(data)
		switch {
		case err == nil && (decode != nil || !got.Equal(want) || enc != wantEnc):
			t.Fatalf("fetched %v as %q; the bytes are %v, %q, %v", got, enc, want, wantEnc, decode)
		case err != nil && !errors.Is(err, escrow.ErrGone) && !errors.Is(err, escrow.ErrNotKey) && !errors.Is(err, escrow.ErrSealed) && !errors.Is(err, escrow.ErrCorrupt):
			t.Fatalf("an error that is not the contract's: %v", err)
		case err != nil && len(copies) == 1 && copies[0].Fingerprint == "" && decode == nil:
			t.Fatalf("a key was not read: %v", err)
		}
		saved, err := d.Save(t.Context(), escrow.Current, key.Generate())
		if errors.Is(err, escrow.ErrRefused) && strings.HasPrefix(name, "99991231T") {
			return
		}
		try(t, err)
		if copies, err = d.List(t.Context()); err != nil || copies[0].ID != saved.ID {
			t.Fatalf("saved %s, the newest of %+v is another (%v)", saved.ID, copies, err)
		}
	})
}

func BenchmarkDirectoryFetch(b *testing.B) {
	d, _ := readyDirectory(b)
	c := mustSave(b, d, escrow.Current, key.Generate())
	b.Run("here", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := d.Fetch(b.Context(), c); err != nil {
				b.Fatal(err)
			}
		}
	})
	i, err := kinds.NewIsolated(os.Args[0], []string{"serve-directory"}, kinds.DirectoryOptions{Name: "usb", Path: d.Place().Where}, 0)
	try(b, err)
	b.Run("in a child", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := i.Fetch(b.Context(), c); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDirectorySave(b *testing.B) {
	d, _ := readyDirectory(b)
	for b.Loop() {
		mustSave(b, d, escrow.Current, key.Generate())
	}
}

// BenchmarkNewDirectory is on the healthy path (law 7).
func BenchmarkNewDirectory(b *testing.B) {
	for b.Loop() {
		if _, err := kinds.NewIsolated("/usr/bin/keyguard", nil, kinds.DirectoryOptions{Name: "usb", Path: "/mnt/keys"}, 0); err != nil {
			b.Fatal(err)
		}
	}
}
