package notify

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/internal/run"
)

// Runnable counts the programs in dir that Programs would run, and says why it would not run
// others: crew.ErrHangs where the directory does. It runs none.
func Runnable(dir string) (n int, errs []error) {
	all := runnableIn(dir)
	return len(all.programs), all.errs
}

// runnable are the programs in a directory, and what is wrong with others there.
type runnable struct {
	programs []named
	errs     []error
}

// named is a program by its name among the hooks, and where it really stands.
type named struct{ name, path string }

func runnableIn(dir string) runnable {
	all, err := crew.Within(dir, func() (runnable, error) { return look(dir), nil }, nil)
	if err != nil {
		return noneRuns(err)
	}
	return all
}

func noneRuns(why error) runnable {
	return runnable{errs: []error{fmt.Errorf("no hook is run: %w", why)}}
}

func look(dir string) (all runnable) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return all
	}
	if err == nil {
		err = run.Safe(dir)
	}
	if err != nil {
		return noneRuns(err)
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
