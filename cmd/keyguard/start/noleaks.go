package start

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// loud are variables on which libraries print what they send and receive, keys included,
// to stderr, which is the journal (law 8).
var loud = []string{"GRPC_GO_LOG_SEVERITY_LEVEL", "GRPC_GO_LOG_VERBOSITY_LEVEL", "GRPC_BINARY_LOG_FILTER"}

// forbidLeaks keeps keys out of core dumps (PR_SET_DUMPABLE, prctl(2)), and starts the program
// anew without the variables of loud and without http2debug in GODEBUG: the libraries
// have read them before main begins. Where none is set nothing is started.
func forbidLeaks() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot forbid core dumps: %w", err)
	}
	given := os.Environ()
	env := withoutLoud(given)
	if slices.Equal(env, given) {
		return nil
	}
	if err := unix.Exec("/proc/self/exe", os.Args, env); err != nil {
		return fmt.Errorf("cannot start without GODEBUG=http2debug and GRPC_GO_LOG_…, which may print keys; unset them: %w", err)
	}
	return nil
}

func withoutLoud(env []string) []string {
	var kept []string
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if slices.Contains(loud, name) {
			continue
		}
		if name == "GODEBUG" {
			settings := slices.DeleteFunc(strings.Split(value, ","), func(s string) bool { return strings.Contains(s, "http2debug") })
			e = name + "=" + strings.Join(settings, ",")
		}
		kept = append(kept, e)
	}
	return kept
}
