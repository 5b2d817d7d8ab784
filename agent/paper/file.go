package paper

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
)

// Saved says where a page lies.
type Saved struct {
	// InMemory: on a tmpfs. Everywhere else the key stays on the disk for as long as its
	// blocks are not overwritten, the file removed or not (law 8). That it is written
	// there is a person's deliberate act.
	InMemory bool
}

// Save writes a page to a new file, which only its owner can read where the file
// system knows owners. The error is fs.ErrExist if something is there, crew.ErrHangs where the place hangs; on error
// nothing is left behind, but for what a power cut keeps of it.
func Save(path string, page []byte) (Saved, error) {
	page = bytes.Clone(page) // whoever has it may wipe it meanwhile
	var saved Saved
	err := crew.Try(filepath.Dir(path), func() (err error) {
		defer clear(page)
		saved, err = save(path, page)
		return err
	})
	if err != nil {
		return Saved{}, err
	}
	return saved, nil
}

func save(path string, page []byte) (Saved, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return Saved{}, err
	}
	defer dir.Close() //nolint:errcheck // nothing was written to it
	// Public: where the file system knows no owners a person has chosen that, too.
	if err := durable.CreateNew(path, page, durable.Attr{Mode: 0o400, UID: -1, GID: -1, Modeless: true, Public: true}); err != nil {
		if errors.Is(err, durable.ErrNotSynced) { // nobody knows of this page
			err = errors.Join(durable.NotDone(err), durable.Remove(path))
		}
		return Saved{}, err
	}
	var st unix.Statfs_t
	err = unix.Fstatfs(int(dir.Fd()), &st)
	return Saved{InMemory: err == nil && (st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC)}, nil
}
