package durable

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"
)

// image is one file in one directory.
type image struct {
	dir, name string
	data      []byte
}

func (i image) Stat(path string, st *unix.Stat_t) (bool, error) {
	switch {
	case filepath.Dir(path) != i.dir:
		return false, nil
	case filepath.Base(path) != i.name:
		return true, unix.ENOENT
	}
	if st != nil {
		st.Size = int64(len(i.data))
	}
	return true, nil
}

func (i image) Content(path string) ([]byte, bool) {
	return i.data, path == filepath.Join(i.dir, i.name)
}

func (i image) Names(dir string) ([]string, bool) { return []string{i.name}, dir == i.dir }

func (i image) Make(c Change) (bool, error) {
	if filepath.Dir(c.Path) != i.dir {
		return false, nil
	}
	return true, unix.EROFS
}

// TestReader: a simulated disk reads as the kernel's does.
func TestReader(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	put(t, path, after)
	for name, simulated := range map[string]Image{
		"the kernel": nil, "simulated": image{dir, "file", after}, "another directory is simulated": image{"/elsewhere", "file", nil},
	} {
		t.Run(name, func(t *testing.T) {
			Simulated = simulated
			defer func() { Simulated = nil }()
			r, err := Open(path, os.O_RDONLY)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if err := iotest.TestReader(struct{ *File }{r}, after); err != nil {
				t.Error(err)
			}
			var opened, named unix.Stat_t
			if err := r.Stat(&opened); err != nil || opened.Size != int64(len(after)) {
				t.Errorf("%d bytes, %v", opened.Size, err)
			}
			if err := Lstat(path, &named); err != nil || named != opened {
				t.Errorf("%+v and %+v, %v", named, opened, err)
			}
			if names, err := Names(dir); err != nil || !slices.Equal(names, []string{"file"}) {
				t.Errorf("names %q, %v", names, err)
			}
			if _, err := Open(path+"x", os.O_RDONLY); err != unix.ENOENT {
				t.Errorf("what is missing: %v", err)
			}
			if err := Lstat(path+"x", &named); err != unix.ENOENT {
				t.Errorf("what is missing: %v", err)
			}
		})
	}
}

// TestNamesOfNoDirectory: what stands in a directory's place is not waited for.
func TestNamesOfNoDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "it")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if names, err := Names(path); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("%q, %v", names, err)
	}
}
