package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable/durabletest"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

// What makes of this program a rotation that is killed: where its host and its rows are.
const (
	envRotateDir = "KEYGUARD_TEST_ROTATE_DIR"
	envRotateURL = "KEYGUARD_TEST_ROTATE_URL"
)

func TestMain(m *testing.M) {
	dir := os.Getenv(envRotateDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	h := hostIn(dir, time.Now)
	h.OpenRows = func(_ context.Context, o rows.Options) (*rows.Table, error) {
		return patient(os.Getenv(envRotateURL), o)
	}
	usb, err := usbIn(dir, "usb0")
	if err == nil {
		h.Escrows = []agent.Escrow{usb}
		durabletest.Begin()
		_, err = agent.Rotate(context.Background(), &h, agent.RotateOptions{})
		durabletest.End()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestRotateKilled kills a process that rotates on entry to calls which change files or
// write to a socket: within what the clock of TestRotateCrashes takes for one step.
func TestRotateKilled(t *testing.T) {
	kills := 2
	if os.Getenv("KEYGUARD_CRASHES") != "" {
		kills = 60 // and as many in cmd/keyguard
	}
	db := rowstest.New(t).Database(t)
	old := testKey("old")
	// One after the other: who traces waits for every child.
	play := func(n int) (calls []string, ended bool) {
		h := newHost(t, db, 1)
		h.OpenRows = func(_ context.Context, o rows.Options) (*rows.Table, error) { return patient(db.URL(), o) }
		h.write(old.UnsafeBytes())
		_, err := db.Exec("truncate secrets")
		h.must(err)
		for i := range 3 {
			h.must(db.Upsert(old, "tenant", fmt.Sprint("SECRET_", i), []byte("v")))
		}
		_, err = agent.Backup(context.Background(), &h.Host)
		h.must(err)
		calls, ended = durabletest.Run(t, n, envRotateDir+"="+h.dir, envRotateURL+"="+db.URL())
		h.recovers(n)
		return calls, ended
	}
	calls, ended := play(0)
	if !ended || len(calls) < 60 {
		t.Fatalf("%d calls, ended: %v", len(calls), ended)
	}
	killed := 0
	for i := range kills {
		if _, ended := play(1 + i*len(calls)/kills); !ended {
			killed++
		}
	}
	t.Logf("killed at %d of %d calls", killed, len(calls))
	if killed < kills-1-kills/10 {
		t.Errorf("only %d times killed", killed)
	}
}

// recovers starts after a kill, and rotates once more. The invariant is checked by an
// opener of its own.
func (h *host) recovers(n int) {
	h.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		there, err := h.db.Activity()
		h.must(err)
		if len(there) == 0 {
			break
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("killed at call %d: sessions do not end: %v", n, there)
		}
		time.Sleep(5 * time.Millisecond)
	}
	check := func() []byte {
		h.t.Helper()
		in := h.content()
		seen, err := h.Keyfile.Look()
		h.must(err)
		secrets, err := h.db.Secrets(seen.Key)
		h.must(err)
		for name, s := range secrets {
			if s.Value != "v" {
				h.t.Fatalf("killed at call %d: key %s, which is in place, does not open %q", n, seen.Key.Fingerprint(), name)
			}
		}
		copies, err := h.Escrows[0].List(context.Background())
		h.must(err)
		for _, c := range copies {
			if c.Fingerprint == seen.Key.Fingerprint() {
				return in
			}
		}
		h.t.Fatalf("killed at call %d: key %s, which is in place, is on no escrow", n, seen.Key.Fingerprint())
		return nil
	}
	if r, err := h.guard(); err != nil || r.Decision.Action != agent.Pass && r.Decision.Action != agent.Install {
		h.t.Fatalf("killed at call %d: %+v, %v", n, r.Decision, err)
	}
	before := check()
	_, err := agent.SaveDue(context.Background(), &h.Host, "usb0")
	h.must(err)
	if r, err := agent.Rotate(context.Background(), &h.Host, agent.RotateOptions{}); err != nil || !r.Rotated {
		h.t.Fatalf("killed at call %d: a second rotation: %v", n, err)
	}
	if bytes.Equal(before, check()) {
		h.t.Fatalf("killed at call %d: the second rotation changed nothing", n)
	}
}
