// Package brief says whether tests are to be brief: under go test -short, as make check has
// it before every commit. What is a variant of what plays, or starts programs by the hundred,
// is then left to make test, which sets KEYGUARD_MUST_RUN: there nothing is brief, under the
// race detector neither.
package brief

import (
	"os"
	"testing"
)

// Run tells whether this run is brief.
func Run() bool { return testing.Short() && os.Getenv("KEYGUARD_MUST_RUN") == "" }

// Skip leaves a test to make test.
func Skip(t testing.TB) {
	t.Helper()
	if Run() {
		t.Skip("it is not brief: make test plays it")
	}
}
