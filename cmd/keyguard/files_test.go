package main

import (
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// namedLines are commands that are told of a file by its name, and which kinds of odd file
// are as they are meant there.
var namedLines = []struct{ line, but string }{
	{"config --config FILE", ""}, {"status --config FILE", ""}, {"init --yes --config FILE", "nothing"},
	{"verify --database FILE", ""}, {"restore --dry-run --for-database FILE", ""},
	{"restore --dry-run --identity FILE", ""}, {"copies --identity FILE", ""}, {"verify --identity FILE", ""},
	{"drill --identity FILE", ""}, {"explain 0123456789abcdef --identity FILE", ""},
	{"drill --part FILE", ""},
	{"paper --output FILE.txt", "nothing"}, {"paper --output FILE.html", "nothing"}, {"paper --output FILE.png", "nothing"},
	{"report --output FILE.html", "nothing, huge"},
	{"report --merge FILE", "directory"}, {"report --merge REPORTS --output FILE.html", "nothing, huge"},
	{"fleet --config NONE --inventory FILE", "fed"}, {"fleet --config NONE --inventory HOSTS --retired FILE", "fed"}, // 512 MiB are taken, which some hosts' variables are
	{"fleet --config NONE --inventory HOSTS --status FILE", "directory"},
	{"fleet --config NONE --inventory HOSTS --state FILE", "nothing"},
	{"fleet --config NONE --inventory HOSTS --metrics FILE", "nothing, huge"}, {"fleet --config NONE --inventory HOSTS --output FILE.html", "nothing, huge"},
}

// oddFiles are what may stand where a file is named.
var oddFiles = map[string]func(path string) error{
	"nothing":   func(string) error { return nil },
	"fifo":      func(p string) error { return unix.Mkfifo(p, 0o600) },
	"fed":       func(p string) error { return unix.Mkfifo(p, 0o600) }, // without end
	"device":    func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) },
	"zeros":     func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) },
	"socket":    func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o600, 0) },
	"directory": func(p string) error { return os.Mkdir(p, 0o700) },
	"loop":      func(p string) error { return os.Symlink(p, p) },
	"huge": func(p string) error {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			return err
		}
		return os.Truncate(p, 1<<40)
	},
}

// TestNamedFiles: whatever stands where a person names a file, the command ends with 2, says
// of that file on one line what is wrong with it, and leaves all as it is. It neither waits
// nor fills the memory: that the test ends shows it.
func TestNamedFiles(t *testing.T) {
	h := newHostile(t, "directory")
	h.file("")
	h.must(os.Mkdir(h.path("reports"), 0o700))
	h.must(os.WriteFile(h.path("hosts"), []byte("web1\n"), 0o600))
	h.must(os.WriteFile(h.path("none.toml"), nil, 0o600))
	h.must(os.WriteFile(h.path("etc/secrets.key"), testKey("a").UnsafeBytes(), 0o400))
	if code, _, said := h.keyguard("report", "--output", h.path("reports/r.html")); code != exitDone {
		t.Fatalf("%d: %s", code, said)
	}
	before := h.untouchable()
	defer func() {
		if after := h.untouchable(); !maps.Equal(before, after) {
			t.Errorf("of %d files that keyguard guards and keeps there are %d, or others", len(before), len(after))
		}
	}()
	for kind, odd := range oddFiles {
		for _, c := range namedLines {
			if strings.Contains(c.but, kind) {
				continue
			}
			h.must(os.RemoveAll(h.path("named")))
			h.must(os.Mkdir(h.path("named"), 0o700))
			args, path := h.naming(c.line, h.path("named/it"))
			h.must(odd(path))
			if kind == "fed" {
				held, err := os.OpenFile(path, os.O_RDWR, 0)
				h.must(err)
				go func() { // ends with the file
					for _, err = io.WriteString(held, "x"); err == nil; {
						_, err = held.Write(make([]byte, 1<<20))
					}
				}()
				h.named(kind, args, path)
				held.Close()
				continue
			}
			was, _ := os.Lstat(path)
			h.named(kind, args, path)
			if is, err := os.Lstat(path); kind != "nothing" && (err != nil || !os.SameFile(was, is) || is.Size() != was.Size() || is.Mode() != was.Mode()) {
				t.Errorf("%s: keyguard %s: now it is %v, %v", kind, args, is, err)
			}
			if beside, _ := os.ReadDir(h.path("named")); len(beside) > 1 {
				t.Errorf("%s: keyguard %s leaves %v", kind, args, beside)
			}
		}
	}
	for _, c := range namedLines {
		args, path := h.naming(c.line, h.path("hosts/it"))
		h.named("below a file", args, path)
	}
}

// naming is a line with a file's name in it, and that name.
func (h *hostile) naming(line, name string) (args []string, path string) {
	args = strings.Fields(strings.NewReplacer("FILE", name, "HOSTS", h.path("hosts"), "REPORTS", h.path("reports"), "NONE", h.path("none.toml")).Replace(line))
	return args, args[slices.IndexFunc(args, func(s string) bool { return strings.HasPrefix(s, name) })]
}

func (h *hostile) named(kind string, args []string, path string) {
	h.Helper()
	code, out, said := h.keyguard(args...)
	if args[0] == "status" { // whose first line says so, too
		out = strings.TrimPrefix(out, "amiss: nothing can be judged: ")
		if said := strings.TrimPrefix(said, "keyguard: "); out != "" && strings.HasPrefix(said, out) {
			out = ""
		}
	}
	if code != exitUsage || out != "" {
		h.Errorf("%s: keyguard %s: exit code %d\n%s%s", kind, args, code, out, said)
	}
	if !strings.Contains(said, path) || !strings.Contains(said, "hint: ") {
		h.Errorf("%s: keyguard %s: it does not name the file, or nothing to type\n%s", kind, args, said)
	}
	if n := strings.Count(said, "keyguard: "); n != 1 || len(said) > 1<<10 || unprintable.MatchString(said) {
		h.Errorf("%s: keyguard %s: it says\n%s", kind, args, said)
	}
}

// TestNamedFilesAreAll: every flag that names a file or a directory stands in the table.
func TestNamedFilesAreAll(t *testing.T) {
	named := 0
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if kind, _ := pflag.UnquoteUsage(f); kind != "directory" && kind != "file" && !strings.Contains(f.Usage, "a file") {
				return
			}
			named++
			for _, l := range namedLines {
				if strings.HasPrefix(l.line, c.Name()+" ") && strings.Contains(l.line, "--"+f.Name+" ") {
					return
				}
			}
			t.Errorf("keyguard %s --%s is in no line of namedLines", c.Name(), f.Name)
		})
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&app{}).commands())
	if named < 15 {
		t.Errorf("only %d flags name a file: this looks in the wrong place", named)
	}
}
