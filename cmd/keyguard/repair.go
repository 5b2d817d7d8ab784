package main

import (
	"context"
	"fmt"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/unit"
	"github.com/footprintai/containarium-keyguard/hooks"
)

// repairUnit is the unit in which a repair runs.
const repairUnit = "containarium-keyguard-repair.service"

func (a *app) repairCommand() *cobra.Command {
	opts := agent.RepairOptions{}
	c := &cobra.Command{
		Use:   "repair",
		Short: "bring rows that are under several keys under one",
		Long: `repair puts a table together again that is split between keys. It tries the
keyfile, the local quarantine and every copy in every escrow on every row, shows
what each opens, makes sure that each such key is in an escrow, stops the
daemon, re-encrypts in one transaction what is not under the target, reads all
of it back, starts the daemon again, and drills the newest copies. A key that no
escrow has: keyguard import --escrow-only.

The target is the keyfile's key, if it is the known one, else the key that opens
the most rows; that is then put into the keyfile's place. It runs in a unit of
its own,
` + repairUnit + `, and goes on when the terminal is gone.

--dry-run looks at the keys and tries the re-encryption, all but its commit,
beside the running daemon, whose writes wait for the moment that takes. It saves
no key and stops nothing.

Exit status: 0 every row is under one key; 11 it stopped in its commit, or not
repaired: they would come under another key than you were asked about;
12 repaired, but an escrow lags; 13 no key opens a row; 14 not repaired, every
row is as it was; 15 another one is at work.`,
		Example: `  keyguard repair --dry-run
  keyguard repair --leave-unopenable`,
		RunE: func(c *cobra.Command, _ []string) error {
			opts.Person = person()
			return a.repair(c.Context(), opts)
		},
	}
	a.rewriteFlags(c, &opts.DryRun, &opts.LeaveUnopenable, &opts.Agreed)
	return c
}

func (a *app) repair(ctx context.Context, opts agent.RepairOptions) error {
	h, cfg, err := a.open()
	if err != nil {
		return err
	}
	signal.Ignore(syscall.SIGHUP) // a lost terminal is no reason to stop halfway
	if !opts.DryRun && !a.yes {
		a.sayWaiting("asking the rows%s …", andEscrows(" and ", h))
		r, err := agent.CheckRepair(ctx, h, opts)
		if err != nil || !r.HasWork {
			return a.printRepair(r, opts, err)
		}
		a.printTally(a.say, r)
		if err := a.agree(ctx, fmt.Sprintf("Stop the daemon and bring these rows under key %s?", r.Target)); err != nil {
			return err
		}
		opts.Agreed = r.Target
	}
	if !opts.DryRun && a.needsUnit(cfg) {
		t := unit.Transient{Name: repairUnit, Description: "Repair of rows under several containarium master keys"}
		return a.inUnit(ctx, t, "repair", opts.Person, map[string]bool{"--leave-unopenable": opts.LeaveUnopenable, agreedTo(opts.Agreed): opts.Agreed != ""})
	}
	show := &progress{app: a, name: "repair", of: "rows", record: a.here && cfg.Daemon.Unit != ""}
	opts.Progress = show.rotation
	r, err := agent.Repair(ctx, h, opts)
	show.end()
	if r.Installed || r.Repaired {
		a.forgetBackoff(cfg)
	}
	if !r.Repaired {
		return a.printRepair(r, opts, err)
	}
	// Hooks and journal are told, where the terminal may be gone.
	t := a.teller(h, cfg, wiring{}, nil)
	t.Tell(repairEvent(r, err))
	// A drill that failed while the rows were split is not the last word on the copies.
	err = a.drillAfter(ctx, h, cfg, t, a.printRepair(r, opts, err))
	deliver, cancel := context.WithTimeout(context.WithoutCancel(ctx), rotateDeliver)
	defer cancel()
	t.Deliver(deliver)
	return err
}

func repairEvent(r agent.RepairResult, err error) hooks.Event {
	dependent := r.Rewrite.Counts.Dependent()
	return hooks.Event{Name: hooks.Repaired, Fingerprint: r.Target, Took: r.Took, Err: err, Total: r.Rewrite.Counts.Total(),
		Checked: dependent, Opened: dependent - r.Rewrite.Unopenable,
		Text: fmt.Sprintf("rows that were under %s are under key %s; the daemon was down for %s", printable.Count(int64(len(r.Tally)), "key"), r.Target, short(r.Downtime))}
}

// printTally says what every key opens, and what is to become of it.
func (a *app) printTally(say func(string, ...any), r agent.RepairResult) {
	for _, s := range r.Tally {
		target := ""
		if s.Key == r.Target && r.HasWork {
			target = ": all others come under it"
		}
		say("key %s (%s) opens %d of %s%s", s.Key, s.From, s.Rows, printable.Count(r.Rows.Dependent, "row"), target)
	}
	if r.Unopened > 0 {
		say("no key that can be had opens %s", printable.Count(r.Unopened, "row"))
	}
}

type repairDoc struct {
	Version    int             `json:"version"`
	Repaired   bool            `json:"repaired"`
	Needed     bool            `json:"needed"`
	DryRun     bool            `json:"dry_run"`
	Target     key.Fingerprint `json:"target,omitempty"`
	Replaced   key.Fingerprint `json:"replaced,omitempty"` // in the keyfile
	Installed  bool            `json:"installed"`
	Tally      []shareDoc      `json:"tally"`
	Unopened   int64           `json:"unopened"`
	Rows       rewriteDoc      `json:"rows"`
	Staged     []stagedDoc     `json:"staged,omitempty"` // keys that no escrow had
	Escrows    []saveDoc       `json:"escrows"`          // of the target, in the end
	Stopped    []string        `json:"stopped,omitempty"`
	DowntimeMS int64           `json:"downtime_ms"`
	TookMS     int64           `json:"took_ms"`
	Error      string          `json:"error,omitempty"`
}

type stagedDoc struct {
	Fingerprint key.Fingerprint `json:"fingerprint"`
	saveDoc
}

type shareDoc struct {
	Fingerprint key.Fingerprint `json:"fingerprint"`
	Rows        int64           `json:"rows"`
	From        string          `json:"from"`
	Escrowed    bool            `json:"escrowed"`
}

// printRepair shows what was found and done, the end of a failed one included.
func (a *app) printRepair(r agent.RepairResult, opts agent.RepairOptions, err error) error {
	a.explainTrouble(r.Trouble)
	for _, s := range r.Escrows {
		if s.State == decide.EscrowFailed {
			a.urgent("escrow %q cannot answer, and may hold another key: %s", s.Name, s.Why)
			a.remedy(s.Err)
		}
	}
	if a.json {
		d := repairDoc{jsonVersion, r.Repaired, r.HasWork, opts.DryRun, r.Target, r.Replaced, r.Installed, []shareDoc{}, r.Unopened,
			rewriteDocOf(r.Rewrite), nil, saveDocs(r.Saved.Escrows), r.Stopped, r.Downtime.Milliseconds(), r.Took.Milliseconds(), errorText(err)}
		for i, s := range saveDocs(r.Staged) {
			d.Staged = append(d.Staged, stagedDoc{r.Staged[i].Key, s})
		}
		for _, s := range r.Tally {
			d.Tally = append(d.Tally, shareDoc{s.Key, s.Rows, s.From, s.Escrowed})
		}
		if jerr := a.printJSON(d); jerr != nil {
			return jerr
		}
	} else {
		a.printTally(a.line, r)
		a.printRepaired(r, opts, err)
	}
	a.explainTrouble(r.Saved.Trouble)
	switch {
	case err != nil || !r.Repaired:
		return err
	case r.SavedErr != nil:
		return outcome{exitEscrow, fmt.Sprintf("key %s is not the current copy everywhere yet: %v", r.Target, r.SavedErr), []string{"keyguard backup"}}
	}
	return lagging(a.judgeSaves(r.Target, r.Saved.Rows, r.Saved.Escrows))
}

func (a *app) printRepaired(r agent.RepairResult, opts agent.RepairOptions, err error) {
	if r.Installed {
		a.line("key %s is in place, where key %s was, which is kept", r.Target, orNone(r.Replaced))
	}
	switch {
	case r.Repaired:
		a.line("repaired: these rows are under key %s", r.Target)
		a.printRewrite(r.Rewrite, "were")
		a.saveLines(append(r.Staged, r.Saved.Escrows...))
		a.line("downtime %s, in all %s", short(r.Downtime), short(r.Took))
	case err != nil:
	case !r.HasWork && r.Rows.State == decide.RowsSilent:
		a.line("nothing to repair: %s", r.Rows.Why)
	case !r.HasWork:
		a.line("nothing to repair: every row that a key opens is under key %s, and this is in place", r.Target)
		a.printLeft(r.Rewrite)
	case opts.DryRun:
		a.printRewrite(r.Rewrite, "would be")
		a.line("dry run: nothing was changed; took %s", short(r.Took))
	}
}
