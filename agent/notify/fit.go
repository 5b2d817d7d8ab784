package notify

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/footprintai/containarium-keyguard/agent/crew"
)

// Fit counts the programs in dir that Programs would run, and says why it would not run
// others: crew.ErrHangs where the directory does. It runs none.
func Fit(dir string) (n int, errs []error) {
	all := fitIn(dir)
	return len(all.programs), all.errs
}

// fit are the programs in a directory, and what is wrong with others there.
type fit struct {
	programs []named
	errs     []error
}

// named is a program by its name among the hooks, and where it really stands.
type named struct{ name, path string }

func fitIn(dir string) fit {
	all, err := crew.Within(dir, func() (fit, error) { return look(dir), nil }, nil)
	if err != nil {
		return noneFit(err)
	}
	return all
}

func noneFit(why error) fit { return fit{errs: []error{fmt.Errorf("no hook is run: %w", why)}} }

func look(dir string) (all fit) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return all
	}
	if err == nil {
		err = safe(dir)
	}
	if err != nil {
		return noneFit(err)
	}
	for _, e := range entries {
		path, err := program(filepath.Join(dir, e.Name()))
		if err == nil && path != "" && len(all.programs) == maxPrograms {
			err = fmt.Errorf("%w: there are more than %d", ErrNotRun, maxPrograms)
		}
		switch {
		case err != nil:
			all.errs = append(all.errs, notRun(e.Name(), err))
		case path != "":
			all.programs = append(all.programs, named{e.Name(), path})
		}
	}
	return all
}

// notRun is a hook that was not run, or did not end well.
func notRun(name string, err error) error { return fmt.Errorf("hook %q: %w", name, err) }
