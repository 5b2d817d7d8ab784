package main

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestNamedFiles gives whatever names a file what is none: every command says so at once,
// in two lines, and that it was called wrongly.
func TestNamedFiles(t *testing.T) {
	h := newHostile(t, "directory")
	h.file("")
	for _, fifo := range []string{"fifo", "fed"} {
		h.must(syscall.Mkfifo(h.path(fifo), 0o600))
	}
	// It may be fed at any time. A pipe that is read once is waited for, and ended here.
	held, err := os.OpenFile(h.path("fed"), os.O_RDWR, 0)
	h.must(err)
	defer held.Close()
	l, err := net.Listen("unix", h.path("socket"))
	h.must(err)
	defer l.Close()
	h.must(os.Mkdir(h.path("dir"), 0o700))
	h.must(os.WriteFile(h.path("hosts"), []byte("a\nb\n"), 0o600))
	endless := func() { // fills it, and goes on as long as somebody reads
		for {
			if _, err := held.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}
	go endless() // ends with the file
	for _, c := range []struct {
		line string
		but  string // kinds that are something else there
	}{
		{line: "restore --dry-run --identity FILE"},
		{line: "copies --identity FILE"},
		{line: "verify --identity FILE"},
		{line: "drill --identity FILE"},
		{line: "drill --part FILE"},
		{line: "fleet --inventory FILE", but: "fed"}, // takes 512 MiB, which some hosts' variables are
		{line: "fleet --inventory INVENTORY --retired FILE", but: "fed"},
		{line: "verify --database FILE"},
		{line: "restore --dry-run --for-database FILE"},
		{line: "report --merge FILE", but: "dir"},
		{line: "fleet --inventory INVENTORY --status FILE", but: "dir"},
		{line: "--config FILE config"},
		{line: "--config FILE init --yes", but: "nothing"},
	} {
		for _, kind := range []string{"fifo", "fed", "socket", "dir", "nothing", "/dev/zero", "/dev/full"} {
			if kind == c.but {
				continue
			}
			file := kind
			if !strings.HasPrefix(kind, "/") {
				file = h.path(kind)
			}
			line := strings.NewReplacer("FILE", file, "INVENTORY", h.path("hosts")).Replace(c.line)
			code, out, said := h.keyguard(strings.Fields(line)...)
			if code != exitUsage {
				t.Errorf("keyguard %s: exit code %d\n%s%s", line, code, out, said)
			}
			if !strings.Contains(said, file) {
				t.Errorf("keyguard %s: it does not name the file\n%s", line, said)
			}
			if n := strings.Count(said, "keyguard: "); n != 1 || len(said) > 1<<10 || unprintable.MatchString(said) {
				t.Errorf("keyguard %s: it says\n%s", line, said)
			}
		}
	}
	if _, err := os.Stat(h.path("etc/secrets.key")); err == nil {
		t.Error("it makes a key")
	}
}
