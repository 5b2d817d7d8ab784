package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/unit"
	"github.com/footprintai/containarium-keyguard/cmd/keyguard/outside"
	"github.com/footprintai/containarium-keyguard/cmd/keyguard/start"
	"github.com/footprintai/containarium-keyguard/hooks"
)

// afterReading is what is left to a start where a file system that hangs has taken its time: to look at
// the keyfile and the ledger, which stand elsewhere, takes milliseconds.
const afterReading = 2 * time.Second

func (a *app) prestartCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "prestart",
		Short: "put the key right before the daemon starts (ExecStartPre)",
		Long: `prestart validates the keyfile, or puts the right key in its place, before the
daemon starts. A key that is known and was proven or accepted in the last 25
hours passes without a network. Nothing is minted while rows or copies of
another key exist, or may exist.

Exit status: 0 the daemon may start; 10 it must not, the key is lost; 11 it must
not, nothing can tell which key is right; 15 it must not, a rotation is at work.`,
		Example: `  keyguard prestart     # what would happen now, by hand
  journalctl -u containarium     # what the last starts said`,
		RunE: func(c *cobra.Command, _ []string) error { return a.prestart(c.Context()) },
	}
}

// startWorker does the work of a start, and reports to the process outside how things stand.
func (a *app) startWorker(ctx context.Context) int {
	a.outside = outside.Worker()
	debug.SetGCPercent(400) // it lives for a moment, and has no garbage to look for before 16 MB
	code := exitDone
	if err := a.prestart(ctx); err != nil {
		code = a.explain(err)
	}
	a.outside.Done(code)
	return code
}

// errRefuted says that keyguard's own trouble kept it from doing more than to ask the rows.
var errRefuted = errors.New("the rows have just refuted the key that the daemon would read, so it is not started")

// startRun is what a start knows when it ends, in whichever way.
type startRun struct {
	keyfile string // its path, "" where the configuration was not read
	result  agent.GuardResult
	refuted bool // the rows have just refuted the key that the daemon would read
}

// prestart never stops a daemon over keyguard's own trouble, if the keyfile has 32
// bytes and no rotation's staged key stands beside it (law 9), and the rows have not just
// refuted it (law 1).
func (a *app) prestart(ctx context.Context) error {
	if _, ok := os.LookupEnv("JOURNAL_STREAM"); ok {
		a.level = "<6>" // informational; sd-daemon(3)
	}
	var s startRun
	err := located(crew.Do(func() error { return a.putRight(ctx, &s) }))
	if s.keyfile == "" {
		s.keyfile = a.namedKeyfile()
	}
	switch code := exitCode(err); {
	case err == nil || code != exitInternal && code != exitUsage:
		return err
	case s.refuted:
		return fmt.Errorf("%w: %w", errRefuted, err)
	}
	return a.passDespite(s.keyfile, s.result.Evidence.Rows, err)
}

// putRight is prestart where nothing goes wrong with keyguard itself.
func (a *app) putRight(ctx context.Context, s *startRun) error {
	began := a.outside.Began()
	cfg, err := a.load()
	if err != nil {
		return err
	}
	s.keyfile = cfg.Keyfile
	h, err := a.host(cfg, wiring{prestart: true})
	a.tellWrong()
	if err != nil {
		return err
	}
	whole := cfg.Prestart.Budget
	if read := time.Since(began); read >= crew.Patience { // a file that the configuration names hangs, and a short budget is over
		whole = max(whole, read+afterReading)
	}
	a.outside.Budget(whole)
	budget := hooks.OfWorker(whole)
	// A file system that hangs holds only this.
	recorded := crew.Go(func() error { return recordDatabase(cfg, start.Inherited()) })
	s.result, err = hooks.Prestart(ctx, h, hooks.PrestartOptions{
		Budget:        budget - time.Since(began),
		RunDir:        cfg.RunDir,
		Configuration: cfg.Digest,
		Report: func(on agent.Start) {
			s.refuted = on == agent.StartRefuted
			switch on {
			case agent.StartRight:
				a.outside.Status(exitDone)
			case agent.StartUnsure:
				a.outside.Status(exitDoubt)
			case agent.StartRefuted:
				a.outside.Refuse(exitDoubt)
			}
		},
	})
	left, cancel := context.WithTimeout(ctx, min(hooks.PrestartTelling, budget-hooks.LastWords-time.Since(began)))
	defer cancel()
	switch rerr, ended := ending(left, recorded); {
	case !ended:
		a.urgent("watcher and drills may not find the database: %s hangs", cfg.RunDir)
	case rerr != nil:
		s.result.Trouble = slices.Insert(s.result.Trouble, 0, agent.Trouble{What: "watcher and drills may not find the database", Err: rerr})
	}
	a.explainTrouble(s.result.Trouble)
	if err != nil {
		return err
	}
	t := a.teller(h, cfg, wiring{prestart: true}, a.printEvent)
	err = a.explainGuard(ctx, cfg, s.result, t)
	a.outside.Status(exitCode(err))
	if f := s.result.Decision.Key; err == nil && f != "" && !s.result.Parked {
		ending(left, crew.Go(func() error { return start.NoteLeft(h, f) })) // as where it is healthy
	}
	a.deliver(left, t)
	return err
}

// namedKeyfile is the keyfile of a configuration of which something may be wrong.
func (a *app) namedKeyfile() string {
	if data, err := config.Read(a.configPath()); err == nil && config.Trust(a.configPath()) == nil {
		return config.KeyfileOf(data)
	}
	return config.Default().Keyfile
}

// deliver tells people until ctx ends, and a little longer: what hangs on the way to them must
// not hold the daemon's start for long (law 9).
func (a *app) deliver(ctx context.Context, t *hooks.Teller) {
	told := crew.Go(func() error { t.Deliver(ctx); return nil })
	var unheard error
	select {
	case unheard = <-told:
	case <-ctx.Done():
		select {
		case unheard = <-told:
		case <-time.After(hooks.LastWords):
			a.urgent("people are not told: hooks_dir, or the directory of metrics_file, hangs")
		}
	}
	if unheard != nil {
		a.urgent("people are not told: %v", unheard)
	}
}

// ending waits until ctx ends for what is to end, and tells whether it has: also where ctx had
// ended before, as after a budget that was waited away for somebody else.
func ending(ctx context.Context, ended <-chan error) (err error, is bool) {
	select {
	case err = <-ended:
		return err, true
	case <-ctx.Done():
	}
	select {
	case err = <-ended:
		return err, true
	default:
		return nil, false
	}
}

// recordDatabase leaves for watcher and drills, which run without the daemon's environment,
// where it has its database.
func recordDatabase(cfg *config.Config, o rows.LocateOptions) error {
	if err := os.MkdirAll(cfg.RunDir, 0o700); err != nil {
		return fmt.Errorf("cannot make the runtime directory: %w", err)
	}
	return rows.SaveRecord(start.DatabaseRecord(cfg), o)
}

// passDespite is law 9: own trouble is reported, and passes where the daemon would
// read a key and would not make one.
func (a *app) passDespite(path string, said decide.RowsEvidence, trouble error) error {
	seen, err := keyfile.File{Path: path, Owner: os.Getuid(), Group: os.Getgid()}.Look()
	if err != nil || seen.Kind != keyfile.Good || seen.NextThere {
		return trouble
	}
	a.explain(trouble)
	defer seen.Key.Wipe()
	worth := "unchecked"
	if f := seen.Key.Fingerprint(); proofOf(said, f) != nil {
		worth = "which " + opened(said, f)
	}
	a.urgent("passed all the same: %s holds 32 bytes, key %s, %s", path, seen.Key.Fingerprint(), worth)
	return nil
}

// explainGuard says what was decided and done, and turns it into the exit code.
func (a *app) explainGuard(ctx context.Context, cfg *config.Config, r agent.GuardResult, t *hooks.Teller) error {
	d := r.Decision
	if len(cfg.Escrows) == 0 {
		if d.Key == "" {
			a.urgent("no escrow is configured: no key has a copy off this host")
		} else {
			a.urgent("no escrow is configured: key %s has no copy off this host, and that is no backup", d.Key)
		}
	}
	for _, e := range hooks.Events(r) {
		t.Tell(e)
	}
	if d.Warning != "" {
		a.urgent("%s", d.Warning)
	}
	switch d.Action {
	case decide.Pass:
		if r.Evidence.Rows.State != decide.RowsNotAsked {
			a.say("key %s passes: %s", d.Key, d.Reason)
		}
		return nil
	case decide.Install, decide.Make:
		return nil
	}
	needed := ""
	if f := d.Needed; f != "" && !strings.Contains(d.Reason, string(f)) {
		needed = fmt.Sprintf("; needed is key %s", f)
	}
	e := hooks.Event{Name: hooks.Parked, Fingerprint: d.Needed, Verdict: string(d.Action),
		Text: "parked: the daemon starts with secrets disabled and makes no key; " + d.Reason + needed}
	if !r.Parked {
		refused := a.refuse(ctx, cfg, r)
		e.Name, e.Text = hooks.Refused, "the daemon is not started: "+refused.Error()+needed
		t.Tell(e)
		return refused
	}
	t.Tell(e)
	a.explainSearch(r)
	a.say("the watcher puts the key in as soon as it can tell which one; to help it:")
	a.hintAtKey(r)
	return nil
}

// refuse is Doubt or Lost where no watcher lives that could put the key in later.
func (a *app) refuse(ctx context.Context, cfg *config.Config, r agent.GuardResult) error {
	code, verdict := exitDoubt, "cannot tell which key is right"
	if r.Decision.Action == decide.Lost {
		code, verdict = exitLost, "the key is lost"
	}
	if cfg.Daemon.Unit != "" {
		code = a.effective(ctx, cfg, code)
	}
	return refusal{code: code, verdict: verdict, result: r, keyfile: cfg.Keyfile}
}

// effective avoids an exit status that the daemon's unit takes for success:
// SuccessExitStatus= turns a refusal into a start (design §10).
func (a *app) effective(ctx context.Context, cfg *config.Config, code int) int {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	facts, err := unit.Read(ctx, daemonUnits(cfg)...)
	if err != nil || !slices.Contains(facts.SuccessStatus, code) {
		return code
	}
	a.urgent("SuccessExitStatus=%d in %s would turn this refusal into a start; remove it", code, facts.Name)
	for _, other := range []int{exitDoubt, exitLost, exitBusy} {
		if !slices.Contains(facts.SuccessStatus, other) {
			return other
		}
	}
	return code // nothing refuses there
}
