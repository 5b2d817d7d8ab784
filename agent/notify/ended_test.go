package notify

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// TestEnded: how the programs ended is known to who comes later, until they end well.
func TestEnded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hooks")
	look := func(what string, want ...string) {
		t.Helper()
		if e, err := Left(path); err != nil || !slices.Equal(e.Failed, want) || (len(want) > 0) == e.At.IsZero() {
			t.Errorf("%s: %+v, %v", what, e, err)
		}
	}
	look("before the first")
	for _, errs := range [][]error{nil, {errors.New("one"), errors.New("two")}, nil, nil} {
		if err := Leave(path, time.Now(), errs); err != nil {
			t.Error(err)
		}
		if errs == nil {
			look("well")
		} else {
			look("not well", "one", "two")
		}
	}
	if err := Leave(filepath.Join(path, "none", "hooks"), time.Now(), []error{errors.New("one")}); err != nil {
		t.Errorf("where there is no runtime directory: %v", err)
	}
	// What somebody else puts there holds nobody up.
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Left(path); err == nil {
		t.Error("a FIFO was read")
	}
	os.Remove(path)
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Left(path); err == nil {
		t.Error("rubbish was read")
	}
}
