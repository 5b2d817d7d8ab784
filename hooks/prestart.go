// Package hooks holds the moments at which systemd calls keyguard: when, and within
// what budget. What is right is decided in agent. What to type next is worded in cmd for what
// a command ends with, and here, in the event's own text, for what is told (Event).
//
// Prestart is the moment before the daemon starts (ExecStartPre). The script
// `prestart` beside this file is what systemd really runs: it calls `keyguard prestart`, and where
// that is missing, killed or crashed it passes a keyfile that stands there (law 9). Where none does, or
// one that cannot be trusted, it parks by itself, and refuses (11) where it cannot (law 2). This
// process may be held by a file system that hangs, whatever its budget. That a start ends in time
// all the same is kept by the process that systemd waits for, from outside: cmd/keyguard/outside.
package hooks

import (
	"context"
	"fmt"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
)

// The budget of a start, prestart.budget or config.DefaultBudget, is for all of it, from when its process
// began; systemd allows TimeoutStartSec=, 90 s. Whose it is:
//
//	the whole          the process outside (cmd/keyguard/outside) waits for the worker, and then leaves
//	OfWorker of that   the worker works (cmd/keyguard/prestart.go)
//	what is left when  Prestart; in it each call of an escrow has a deadline of its own (escrow/kinds),
//	it has read its    and so have Postgres' connections and statements (rows)
//	configuration
//	what is left then  people are told: PrestartTelling at most, and then LastWords to end it
//
// Where a file system that hangs has held the configuration longer than the budget, what follows gets two
// seconds all the same (afterReading in cmd/keyguard/prestart.go).

// OfWorker is how much of a start's budget is its worker's. In the tenth that is left it says how it ended, and
// ends: where the process outside leaves first it answers what was last reported, and can only guess why.
func OfWorker(budget time.Duration) time.Duration { return budget * 9 / 10 }

// PrestartTelling bounds how long a start waits for people to be told.
const PrestartTelling = 5 * time.Second

// PrestartOptions are what the moment allows.
type PrestartOptions struct {
	// Budget is what is left for Prestart of the start's, as far as calls end with their context.
	Budget time.Duration
	RunDir string // for the back-off across starts
	// Configuration changes whenever the configuration does: a change clears the back-off.
	Configuration string
	Clock         Clock // nil is BootClock
	// Report is handed on to agent.Guard (GuardOptions.Report): it is called, whenever that
	// changes, with what would come of a start on the keyfile as it stands.
	Report func(agent.Start)
}

// Prestart makes sure of the keyfile before the daemon starts, as agent.Guard does,
// within the budget, and without asking an escrow too often when it is repeated.
// The healthy path does not even read what earlier starts left.
func Prestart(ctx context.Context, h *agent.Host, opts PrestartOptions) (agent.GuardResult, error) {
	ctx, cancel := context.WithTimeout(ctx, opts.Budget)
	defer cancel()
	clock := opts.Clock
	if clock == nil {
		clock = BootClock
	}
	gated, recallOnce := gateEscrows(h, func() *memory {
		return recall(opts.RunDir, opts.Configuration+" "+markOf(h), clock)
	})
	result, err := agent.Guard(ctx, gated, agent.GuardOptions{Report: opts.Report})
	if result.Evidence.Rows.State == decide.RowsNotAsked {
		return result, err // healthy: no escrow was asked either
	}
	remember(recallOnce(), &result, err)
	return result, err
}

// markOf describes the keyfile well enough to notice that somebody changed it.
func markOf(h *agent.Host) string {
	seen, err := h.Keyfile.Look()
	if err != nil {
		return err.Error()
	}
	defer seen.Key.Wipe()
	defer seen.Next.Wipe()
	return fmt.Sprint(seen.Kind, seen.Size, seen.Dev, seen.Ino, seen.ModTime.UnixNano(), seen.Loose, seen.NextThere, seen.Key.Fingerprint())
}
