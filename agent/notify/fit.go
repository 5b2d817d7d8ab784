package notify

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Fit counts the programs in dir that Programs would run, and says why it would not run
// others. It runs none.
func Fit(dir string) (n int, errs []error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return 0, nil
	}
	if err == nil {
		err = safe(dir)
	}
	if err != nil {
		return 0, []error{fmt.Errorf("no hook is run: %w", err)}
	}
	for _, e := range entries {
		path, err := program(filepath.Join(dir, e.Name()))
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("hook %q: %w", e.Name(), err))
		case path != "":
			n++
		}
	}
	return n, errs
}
