package agent_test

import (
	"context"
	"errors"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// TestStatusOfADeafWatcher names the limit that makes the watcher notice changes late.
func TestStatusOfADeafWatcher(t *testing.T) {
	h := newHost(t, nil, 0)
	h.write(testKey("a").UnsafeBytes())
	for _, want := range []error{nil, unit.ErrInotifyInstances, unit.ErrInotifyWatches} {
		h.Watcher = func(context.Context) (unit.WatcherState, error) { return unit.WatcherState{Deaf: want}, nil }
		r, err := agent.Status(t.Context(), &h.Host)
		if err != nil || !errors.Is(r.Deaf, want) || (r.Deaf == nil) != (want == nil) {
			t.Errorf("%v: %v, %v", want, r.Deaf, err)
		}
	}
}
