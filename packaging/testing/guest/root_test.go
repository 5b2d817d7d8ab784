package guest

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A checkout whose guests want another root does not take the one away that the guests
// of another checkout run on.
func TestRootsInUseStay(t *testing.T) {
	cache := t.TempDir()
	for _, name := range []string{"trixie-used", "trixie-left", "bookworm-left"} {
		if err := os.MkdirAll(filepath.Join(cache, name, "etc"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	there := func(names ...string) {
		t.Helper()
		if got, err := filepath.Glob(cache + "/*"); err != nil || len(got) != len(names) {
			t.Fatalf("there are %q, %v", got, err)
		}
		for _, name := range names {
			if !exists(filepath.Join(cache, name, "etc")) {
				t.Errorf("%s is gone", name)
			}
		}
	}
	used, err := holdRoot(filepath.Join(cache, "trixie-used"), unix.LOCK_SH)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := sweep(cache+"/trixie-*", holdRoot); err != nil {
			t.Fatal(err)
		}
		there("trixie-used", "bookworm-left")
	}
	if err := used.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sweep(cache+"/trixie-*", holdRoot); err != nil {
		t.Fatal(err)
	}
	there("bookworm-left")
}
