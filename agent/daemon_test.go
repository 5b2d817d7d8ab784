package agent_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
)

// While somebody who stopped the daemon is at work, nobody starts it: Resume does
// nothing, and a start waits. When he is dead, Resume starts it, once.
func TestResume(t *testing.T) {
	h := newHost(t, nil, 0)
	h.write(testKey("a").UnsafeBytes())
	var started [][]string
	var fails error
	h.Daemon.Start = func(_ context.Context, units []string) error {
		started = append(started, units)
		return fails
	}
	units := []string{"containarium.service"}
	resume := func() []string {
		t.Helper()
		got, err := agent.Resume(context.Background(), &h.Host)
		if !errors.Is(err, fails) {
			t.Fatal(err)
		}
		return got
	}
	if got := resume(); got != nil || started != nil {
		t.Errorf("nothing was stopped, and it started %v", started)
	}
	h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Stopped, Stopped: units}))
	l, err := lock.Try(h.StateDir, lock.Rotate)
	h.must(err)
	if got := resume(); got != nil || started != nil {
		t.Errorf("somebody is at work, and it started %v", started)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := agent.Guard(ctx, &h.Host, agent.GuardOptions{}); !errors.Is(err, agent.ErrBusy) {
		t.Errorf("a start in the middle: %v", err)
	}
	l.Release()
	if _, err := h.guard(); err != nil {
		t.Errorf("a start after it: %v", err)
	}
	if l, err = lock.Try(h.StateDir, lock.Start); err != nil {
		t.Fatal(err)
	}
	if got := resume(); got != nil || started != nil {
		t.Errorf("who stopped it starts it, and it started %v", started)
	}
	l.Release()
	fails = errors.New("no")
	resume()
	fails = nil
	if got := resume(); !slices.Equal(got, units) || len(started) != 2 {
		t.Errorf("resumed %v, started %v", got, started)
	}
	if got := resume(); got != nil || len(started) != 2 {
		t.Errorf("it was started already, and it started %v", started)
	}
}
