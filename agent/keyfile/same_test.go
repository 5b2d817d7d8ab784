package keyfile

import (
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
)

// TestSame: whatever it is that somebody changed, it is not what was seen any more (law 3).
func TestSame(t *testing.T) {
	sum, other := sha256.Sum256([]byte("a")), sha256.Sum256([]byte("b"))
	seen := Seen{Kind: Good, Dev: 1, Ino: 2, Size: 32, ModTime: time.Unix(3, 0), sum: &sum}
	again := sum
	if same := seen; !seen.same(same) {
		t.Error("it is not itself")
	} else if same.sum = &again; !seen.same(same) {
		t.Error("read again, it is another")
	}
	for what, change := range map[string]func(*Seen){
		"kind":            func(s *Seen) { s.Kind = Malformed },
		"device":          func(s *Seen) { s.Dev++ },
		"inode":           func(s *Seen) { s.Ino++ },
		"size":            func(s *Seen) { s.Size++ },
		"time":            func(s *Seen) { s.ModTime = s.ModTime.Add(1) },
		"content":         func(s *Seen) { s.sum = &other },
		"content, unread": func(s *Seen) { s.sum = nil },
		"target":          func(s *Seen) { s.Target = "/elsewhere" },
		"link":            func(s *Seen) { s.link.ino++ },
	} {
		now := seen
		change(&now)
		if seen.same(now) || now.same(seen) {
			t.Errorf("another %s is the same", what)
		}
	}
}

// TestRehearse: what is rehearsed leaves nothing behind, and nothing is where somebody has
// changed the keyfile since it was seen.
func TestRehearse(t *testing.T) {
	f := newFile(t)
	put(t, f.Path, old)
	seen := look(t, f)
	before := snapshot(t, f.dir())
	must(t, f.Rehearse(seen, now))
	if after := snapshot(t, f.dir()); after != before {
		t.Errorf("%s\ninstead of\n%s", after, before)
	}
	must(t, os.Remove(f.Path))
	put(t, f.Path, old[:31])
	before = snapshot(t, f.dir())
	if err := f.Rehearse(seen, now); !errors.Is(err, ErrChanged) {
		t.Errorf("another keyfile: %v", err)
	}
	if after := snapshot(t, f.dir()); after != before {
		t.Errorf("another keyfile: %s\ninstead of\n%s", after, before)
	}
}

// TestRehearseTellsTheSame: where no place has room, it is the quarantine that is told of, each
// time.
func TestRehearseTellsTheSame(t *testing.T) {
	f := newFile(t)
	put(t, f.Path, old)
	seen := look(t, f)
	durable.Disk = func(c durable.Change) error {
		if c.Do == durable.Write {
			return unix.ENOSPC
		}
		return nil
	}
	t.Cleanup(func() { durable.Disk = nil })
	for range 20 {
		if err := f.Rehearse(seen, now); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), f.Quarantine) {
			t.Fatalf("a full disk: %v", err)
		}
	}
}

// TestSwept: a start is the quick one only where nothing is to be swept.
func TestSwept(t *testing.T) {
	for what, left := range map[string]func(File) string{
		"an aside":                      func(f File) string { return filepath.Join(f.dir(), asidePrefix+stamp(now)) },
		"half a file in the quarantine": func(f File) string { return filepath.Join(f.Quarantine, durable.TempPrefix+"1") },
	} {
		f := newFile(t)
		put(t, f.Path, old)
		must(t, os.MkdirAll(f.Quarantine, 0o700))
		if !f.Swept() {
			t.Errorf("without %s something is to be swept", what)
		}
		put(t, left(f), old)
		if f.Swept() {
			t.Errorf("with %s nothing is to be swept", what)
		}
	}
}
