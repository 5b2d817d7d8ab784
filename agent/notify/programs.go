package notify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/internal/run"
)

const (
	// programTimeout bounds each program. All run at once, so it bounds all of them.
	programTimeout = 10 * time.Second
	// programOutput is how much in bytes one may print before it is killed.
	programOutput = 64 << 10
	// maxPrograms is far beyond what anybody needs.
	maxPrograms = 32
)

// ErrNotRun says that a file among the programs is not run, by its name or its mode.
var ErrNotRun = errors.New("not run")

// environment is what a program gets of ours besides PATH: what mail and web clients
// need to find their configuration and their way out.
var environment = []string{"HOME", "LANG", "TZ", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}

// Programs runs every program in dir with these variables, NAME=value, and of our own
// environment only what it may see. Their names are as run-parts(8) has them: letters,
// digits, _ and -. They run at once, each for ten seconds at most, so that one that
// hangs keeps none of the others; what one leaves running in its process group is killed.
// A directory that is not there has no programs, and nobody waits for one that hangs. The errors are one for each that was
// not run or did not end well, sorted.
func Programs(ctx context.Context, dir string, variables []string) []error {
	all := runnableIn(dir)
	var (
		running crew.Group
		lock    sync.Mutex
		errs    = all.errs
	)
	variables = append(slices.Clip(variables), environment...)
	for _, p := range all.programs {
		running.Go(func() error {
			_, err := run.Command(ctx, run.Spec{Path: p.path, Env: variables,
				Timeout: programTimeout, MaxOutput: programOutput, Abandon: true})
			if err != nil {
				lock.Lock()
				defer lock.Unlock()
				errs = append(errs, notRun(p.name, err))
			}
			return nil
		})
	}
	if err := running.Wait(); err != nil {
		errs = append(errs, err)
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errs
}

// program tells what to run for a name in the directory; "" is nothing, and no error:
// a backup of an editor, a README, a directory.
func program(path string) (string, error) {
	named := !strings.ContainsFunc(filepath.Base(path), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	})
	info, err := os.Stat(path) // follows a link, as exec does
	switch {
	case err != nil && named:
		return "", err
	case err != nil, !info.Mode().IsRegular():
		return "", nil
	}
	executable := info.Mode()&0o111 != 0
	switch {
	case !named && executable:
		return "", fmt.Errorf("%w: its name may have only letters, digits, _ and -", ErrNotRun)
	case !named:
		return "", nil
	case !executable:
		return "", fmt.Errorf("%w: it is not executable", ErrNotRun)
	}
	return run.SafeProgram(path)
}
