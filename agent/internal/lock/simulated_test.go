package lock

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSimulated: a simulated lock is as the kernel's, also where its file loses its name.
func TestSimulated(t *testing.T) {
	for _, name := range []string{"the kernel's", "simulated"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			var locks sync.Map
			if name == "simulated" {
				Find = func(path string) *Simulated {
					l, _ := locks.LoadOrStore(path, new(Simulated))
					return l.(*Simulated)
				}
				defer func() { Find = nil }()
			}
			held := func(want bool) {
				t.Helper()
				if got, err := Held(dir, Rotate); got != want || err != nil {
					t.Errorf("held %v, %v; want %v", got, err, want)
				}
			}
			held(false)
			l, err := Try(dir, Rotate)
			if err != nil {
				t.Fatal(err)
			}
			held(true)
			if _, err := Try(dir, Rotate); !errors.As(err, new(ErrBusy)) {
				t.Errorf("a second: %v", err)
			}
			if other, err := Try(dir, Ledger); err != nil {
				t.Error(err)
			} else {
				other.Release()
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			locks.Clear()
			held(false)
			again, err := Try(dir, Rotate)
			if err != nil {
				t.Fatalf("of another file: %v", err)
			}
			l.Release()
			held(true)
			again.Release()
			held(false)
			a, err := open(dir, Rotate)
			if err != nil {
				t.Fatal(err)
			}
			b, err := open(dir, Rotate)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range []*file{a, b} {
				if free, err := flock(f, unix.LOCK_SH); !free || err != nil {
					t.Errorf("shared: %v, %v", free, err)
				}
			}
			giveBack(a)
			c, err := open(dir, Rotate)
			if err != nil {
				t.Fatal(err)
			}
			if free, err := flock(c, unix.LOCK_EX); free || err != nil {
				t.Errorf("while one holds it shared: %v, %v", free, err)
			}
			giveBack(c)
			giveBack(b)
			held(false)
		})
	}
}
