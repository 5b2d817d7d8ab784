package brief_test

import (
	"flag"
	"testing"

	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

// skipping notes whether it was told to skip: one that does would be an error in make test.
type skipping struct {
	testing.TB
	skipped bool
}

func (s *skipping) Skip(...any) { s.skipped = true }

// TestBrief: only go test -short is brief, and nothing is where all must run.
func TestBrief(t *testing.T) {
	short := flag.Lookup("test.short").Value
	was := short.String()
	t.Cleanup(func() { short.Set(was) }) //nolint:errcheck // it was taken before
	for _, c := range []struct {
		short, mustRun string
		brief          bool
	}{
		{"false", "", false},
		{"true", "", true},
		{"false", "1", false},
		{"true", "1", false},
	} {
		if err := short.Set(c.short); err != nil {
			t.Fatal(err)
		}
		t.Setenv("KEYGUARD_MUST_RUN", c.mustRun)
		s := &skipping{TB: t}
		if brief.Skip(s); brief.Run() != c.brief || s.skipped != c.brief {
			t.Errorf("-short=%s, KEYGUARD_MUST_RUN=%q: brief: %v, skipped: %v", c.short, c.mustRun, brief.Run(), s.skipped)
		}
	}
}
