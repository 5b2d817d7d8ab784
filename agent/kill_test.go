package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable/durabletest"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

// What makes of this program an operation that is killed: which it is, and where its host
// and its rows are.
const (
	envOperation = "KEYGUARD_TEST_OPERATION"
	envDir       = "KEYGUARD_TEST_DIR"
	envURL       = "KEYGUARD_TEST_URL"
)

// server is for every test that does not stop it.
var server rowstest.Shared

func TestMain(m *testing.M) {
	name := os.Getenv(envOperation)
	if name == "" {
		code := m.Run()
		if err := server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	}
	if err := perform(name, os.Getenv(envDir), os.Getenv(envURL)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func perform(name, dir, url string) error {
	i := slices.IndexFunc(operations, func(o namedOperation) bool { return o.name == name })
	h := hostIn(dir, time.Now)
	h.OpenRows = func(_ context.Context, o rows.Options) (agent.Rows, error) { return patient(url, o) }
	usb, err := usbIn(dir, "usb0")
	if err != nil {
		return err
	}
	h.Escrows = []agent.Escrow{usb}
	durabletest.Begin()
	defer durabletest.End()
	done, err := operations[i].run(context.Background(), &h)
	if err == nil && !done {
		err = errors.New("it ended well, and did not do it")
	}
	return err
}

// TestKilled kills a process that rotates or repairs on entry to calls which change files
// or write to a socket: within what the clock of TestCrashes takes for one step.
func TestKilled(t *testing.T) {
	kills := 2
	if os.Getenv("KEYGUARD_CRASHES") != "" {
		kills = 60 // and as many in cmd/keyguard
	}
	cluster := server.Cluster(t)
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) { killAll(t, cluster.Database(t), op, max(2, kills/op.share)) })
	}
}

func killAll(t *testing.T, db *rowstest.Database, op namedOperation, kills int) {
	_, err := db.Exec("create table seed (like secrets)")
	if err == nil {
		err = op.rows(db)
	}
	if err == nil {
		_, err = db.Exec("insert into seed select * from secrets")
	}
	if err != nil {
		t.Fatal(err)
	}
	// One after the other: who traces waits for every child.
	play := func(n int) (calls []string, ended bool) {
		h := newHost(t, db, 1)
		h.OpenRows = func(_ context.Context, o rows.Options) (agent.Rows, error) { return patient(db.URL(), o) }
		_, err := db.Exec("do $$ begin truncate secrets; insert into secrets select * from seed; end $$")
		h.must(errors.Join(err, op.furnish(&h.Host, false)))
		calls, ended = durabletest.Run(t, n, envOperation+"="+op.name, envDir+"="+h.dir, envURL+"="+db.URL())
		if err := h.recovers(op); err != nil {
			t.Fatalf("killed at call %d: %v", n, err)
		}
		return calls, ended
	}
	calls, ended := play(0)
	if !ended || len(calls) < 40 {
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

// recovers starts after a kill, and does it once more.
func (h *host) recovers(op operation) error {
	for deadline := time.Now().Add(2 * time.Minute); ; {
		there, err := h.db.Activity()
		if err != nil {
			return err
		}
		if len(there) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("sessions do not end: %v", there)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if r, err := h.guard(); err != nil || r.Decision.Action != decide.Pass && r.Decision.Action != decide.Install {
		return fmt.Errorf("%+v, %v", r.Decision, err)
	}
	if err := op.check(&h.Host, h.db); err != nil {
		return err
	}
	return op.again(&h.Host, h.db)
}
