package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/unit"
	"github.com/footprintai/containarium-keyguard/hooks"
)

// rotateUnit is the unit in which a rotation runs.
const rotateUnit = "containarium-keyguard-rotate.service"

func (a *app) rotateCommand() *cobra.Command {
	opts := agent.RotateOptions{}
	c := &cobra.Command{
		Use:   "rotate",
		Short: "make a new key and re-encrypt every row under it",
		Long: `rotate makes a new key, saves it in the escrows, stops the daemon, re-encrypts
every row that depends on the key in one transaction, reads all of it back, puts
the new key in place and starts the daemon again. The old key stays in the
escrows: old database dumps need it.

It may be interrupted anywhere: the daemon's next start, or the watcher, finds
out from the rows which of the two keys holds. It runs in a unit of its own,
` + rotateUnit + `, and goes on when the terminal is gone,
or after Ctrl-C; the journal has its steps.

Of a key in parts one store more must be there than need says, so that one may
be lost. Where need is all of them, only --need-all goes on.

--dry-run checks the key and its copies and tries the re-encryption, all but its
commit, beside the running daemon, whose writes wait for the moment that takes,
and says how long the daemon would be down. It saves no key and stops nothing.
Where somebody is asked, that comes before the question.

Exit status: 0 rotated; 11 it stopped in its commit, and the rows do not say yet
which key holds, or not rotated: the key is not the one that you were asked
about; 12 rotated, but an escrow lags; 14 not rotated, and the present key
stays; 15 another one is at work.`,
		Example: `  keyguard rotate --dry-run
  keyguard rotate --yes`,
		RunE: func(c *cobra.Command, _ []string) error {
			opts.Person = person()
			return a.rotate(c.Context(), opts)
		},
	}
	a.rewriteFlags(c, &opts.DryRun, &opts.LeaveUnopenable, &opts.Agreed)
	c.Flags().BoolVar(&opts.NeedAll, "need-all", false, "go on where a key in parts needs all of them, and none may be lost")
	return c
}

// agreed is a flag for the unit: a person outside of it was asked about that key, and nothing is
// to be done about another one.
const agreed = "agreed"

// agreedTo is the flag with a key.
func agreedTo(f key.Fingerprint) string { return "--" + agreed + "=" + string(f) }

// rewriteFlags are those of rotate and repair.
func (a *app) rewriteFlags(c *cobra.Command, dryRun, leaveUnopenable *bool, about *key.Fingerprint) {
	c.Flags().StringVar((*string)(about), agreed, "", "the key that a person was asked about; of another one nothing is done")
	c.Flags().Lookup(agreed).Hidden = true
	c.Flags().BoolVar(dryRun, "dry-run", false, "check, and try the re-encryption but for its commit; leave all as it is")
	c.Flags().BoolVar(leaveUnopenable, "leave-unopenable", false, "leave rows that no key opens as they are, and name them")
	c.Flags().BoolVar(&a.yes, "yes", false, "answer the confirmation with yes")
	c.Flags().BoolVar(&a.here, "here", false, "run in this process and in no unit of its own")
	c.Flags().Lookup("here").Hidden = true
	a.jsonFlag(c)
}

// trial is a dry run, which says how long the daemon will be down.
func (a *app) trial(ctx context.Context, h *agent.Host, opts agent.RotateOptions) (agent.RotateResult, error) {
	opts.DryRun = true
	show := &progress{app: a, name: "rotate, a trial", of: "rows"}
	if terminal(a.err) {
		opts.Progress = show.rotation
	}
	r, err := agent.Rotate(ctx, h, opts)
	show.end()
	return r, err
}

// notConfirmed ends what a person was asked about and did not want.
var notConfirmed = outcome{exitUsage, "not confirmed, and nothing was done", []string{"see how the key stands: keyguard status"}}

// agree ends what nobody confirms.
func (a *app) agree(ctx context.Context, question string) error {
	ok, err := a.confirm(ctx, question)
	if err == nil && !ok {
		err = notConfirmed
	}
	return err
}

// sayUnspared names the escrows that rebuild a key from all of its parts alone.
func (a *app) sayUnspared(h *agent.Host) {
	for _, s := range h.Escrows {
		if p, ok := s.Reader.(escrow.Shared); ok && len(p.Members()) == p.Need() {
			a.say("escrow %q needs all of its %d parts (need = %d): with any one of its stores the new key is lost there", s.Name(), p.Need(), p.Need())
		}
	}
}

func (a *app) rotate(ctx context.Context, opts agent.RotateOptions) error {
	h, cfg, err := a.open()
	if err != nil {
		return err
	}
	signal.Ignore(syscall.SIGHUP) // a lost terminal is no reason to stop halfway
	if opts.NeedAll && !a.here {
		a.sayUnspared(h)
	}
	if !opts.DryRun && !a.yes {
		r, err := a.trial(ctx, h, opts)
		question := fmt.Sprintf("%s of key %s would come under a new one. Expected downtime: %s, as a trial took just now, and the daemon's own stop and start. Go on?",
			printable.Count(r.Rows.Dependent, "row"), r.Old, short(r.Rewrite.Elapsed))
		opts.Agreed = r.Old
		if errors.Is(err, agent.ErrRotationOpen) { // to settle it changes something, which no trial does
			open := strings.TrimPrefix(err.Error(), agent.ErrNotRotated.Error()+": ")
			opts.Agreed = ""
			question, err = "First, "+open+". Settle it, and then bring every row under a new key?", nil
		}
		if err != nil {
			return err
		}
		if err := a.agree(ctx, question); err != nil {
			return err
		}
	}
	if !opts.DryRun && a.needsUnit(cfg) {
		return a.inUnit(ctx, unit.Transient{Name: rotateUnit, Description: "Rotation of the containarium master key"}, "rotate", opts.Person, map[string]bool{"--leave-unopenable": opts.LeaveUnopenable, "--need-all": opts.NeedAll, agreedTo(opts.Agreed): opts.Agreed != ""})
	}
	show := &progress{app: a, name: "rotate", of: "rows", record: a.here && cfg.Daemon.Unit != ""}
	opts.Progress = show.rotation
	// What happens is told to hooks and journal, where the terminal may be gone.
	t := a.teller(h, cfg, wiring{}, nil)
	delivering, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var begun <-chan error // hands on that it has begun: what kills it later tells nobody
	opts.Staged = func(old, fresh key.Fingerprint) {
		t.Tell(hooks.Event{Name: hooks.RotationBegun, Fingerprint: fresh, Text: fmt.Sprintf("a rotation from key %s to key %s has begun: the daemon is stopped for it", old, fresh)})
		begun = crew.Go(func() error { t.Deliver(delivering); return nil })
	}
	r, err := agent.Rotate(ctx, h, opts)
	show.end()
	if begun != nil {
		t.Tell(rotationEvent(r, err))
	}
	a.forgetBackoff(cfg)
	err = a.printRotate(r, opts, err)
	if r.Rotated {
		err = a.drillAfter(ctx, h, cfg, t, err)
	}
	deliver, cancel := context.WithTimeout(context.WithoutCancel(ctx), rotateDeliver)
	defer cancel()
	if begun != nil {
		select {
		case <-begun:
		case <-deliver.Done():
			stop()
			<-begun
		}
	}
	t.Deliver(deliver)
	return err
}

// drillAfter restores the newest copies when a rotation or a repair is done. Where that
// shows that one is none, it has not ended well.
func (a *app) drillAfter(ctx context.Context, h *agent.Host, cfg *config.Config, t *hooks.Teller, end error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	r, err := hooks.Drill(ctx, h, hooks.DrillOptions{Tell: t.Tell,
		DrillOptions: agent.DrillOptions{Copies: 1, Scratch: filepath.Join(cfg.RunDir, scratchDir), Person: drillPerson()}})
	switch {
	case err != nil:
		a.urgent("the newest copies are not drilled: %v", err)
		a.hint("keyguard drill")
	case r.Verdict == agent.DrillFailed && end == nil:
		return outcome{exitEscrow, "drill failed: " + r.Reason, []string{"keyguard drill"}}
	default:
		a.say("drill %s: %s", r.Verdict, r.Reason)
	}
	return end
}

// rotateDeliver bounds what hooks may make the end of a rotation wait.
const rotateDeliver = 10 * time.Second

func rotationEvent(r agent.RotateResult, err error) hooks.Event {
	if !r.Rotated {
		return hooks.Event{Name: hooks.RotationFailed, Fingerprint: r.Old, Took: r.Took, Err: err, Text: "the rotation has failed; see keyguard status"}
	}
	return hooks.Event{Name: hooks.RotationDone, Fingerprint: r.New, Took: r.Took, Err: err, Total: r.Rewrite.Counts.Total(),
		Checked: r.Rewrite.Counts.Dependent(), Opened: r.Rewrite.Counts.Dependent() - r.Rewrite.Unopenable,
		Text: fmt.Sprintf("every row that was under key %s is under key %s; the daemon was down for %s", r.Old, r.New, short(r.Downtime))}
}

type rotateDoc struct {
	Version    int             `json:"version"`
	Rotated    bool            `json:"rotated"`
	DryRun     bool            `json:"dry_run"`
	Old        key.Fingerprint `json:"old,omitempty"`
	New        key.Fingerprint `json:"new,omitempty"`
	Rows       rewriteDoc      `json:"rows"`
	Escrows    []saveDoc       `json:"escrows"`
	Stopped    []string        `json:"stopped,omitempty"`
	DowntimeMS int64           `json:"downtime_ms"`
	TookMS     int64           `json:"took_ms"`
	Error      string          `json:"error,omitempty"`
}

// rewriteDoc is what became of the rows, in JSON.
type rewriteDoc struct {
	Total      int64    `json:"total"`
	Rewritten  int64    `json:"reencrypted"`
	Rewrapped  int64    `json:"rewrapped"`
	External   int64    `json:"external"` // under a KMS, and not ours to touch
	Unopenable int64    `json:"unopenable"`
	Left       []rowDoc `json:"left,omitempty"` // of these the first thousand
}

type rowDoc struct {
	Username string `json:"username"`
	Name     string `json:"name"`
}

func rewriteDocOf(r rows.RewriteResult) rewriteDoc {
	d := rewriteDoc{Total: r.Counts.Total(), Rewritten: r.Rewritten, Rewrapped: r.Rewrapped, External: r.Counts.External, Unopenable: r.Unopenable}
	for _, n := range r.Left {
		d.Left = append(d.Left, rowDoc(n))
	}
	return d
}

// printRotate shows what was done, the end of a failed one included.
func (a *app) printRotate(r agent.RotateResult, opts agent.RotateOptions, err error) error {
	a.explainTrouble(r.Trouble)
	saves := r.Saved.Escrows
	if !r.Rotated {
		saves = r.Staged
	}
	if a.json {
		d := rotateDoc{jsonVersion, r.Rotated, opts.DryRun, r.Old, r.New, rewriteDocOf(r.Rewrite), saveDocs(saves), r.Stopped,
			r.Downtime.Milliseconds(), r.Took.Milliseconds(), errorText(err)}
		if opts.DryRun {
			d.New = "" // it was made for the occasion
		}
		if jerr := a.printJSON(d); jerr != nil {
			return jerr
		}
	}
	if (err != nil && !r.Rotated) || opts.DryRun {
		if err == nil && !a.json {
			a.line("key %s opens every row that depends on it; nothing stands in the way of a rotation", r.Old)
			a.printRewrite(r.Rewrite, "would be")
			a.line("expected downtime: %s, and what the daemon takes to stop and to start", short(r.Rewrite.Elapsed))
			a.line("dry run: nothing was changed; took %s", short(r.Took))
		}
		return err
	}
	if !a.json {
		a.line("rotated: every row that was under key %s is under key %s", r.Old, r.New)
		a.printRewrite(r.Rewrite, "were")
		a.saveLines(saves)
		a.line("downtime %s, in all %s", short(r.Downtime), short(r.Took))
		a.line("key %s stays in the escrows: dumps of the database from before need it", r.Old)
	}
	a.explainTrouble(r.Saved.Trouble)
	if err != nil {
		return err
	}
	if r.SavedErr != nil {
		return outcome{exitEscrow, fmt.Sprintf("the new key is not the current copy yet: %v", r.SavedErr), []string{"keyguard backup"}}
	}
	return lagging(a.judgeSaves(r.New, r.Saved.Rows, saves))
}

func (a *app) printRewrite(r rows.RewriteResult, verb string) {
	if verb == "were" && r.Rewritten == 1 {
		verb = "was"
	}
	line := fmt.Sprintf("%s in all: %d %s re-encrypted", printable.Count(r.Counts.Total(), "row"), r.Rewritten, verb)
	if r.Rewrapped > 0 {
		line += fmt.Sprintf(", %d re-wrapped", r.Rewrapped)
	}
	if r.Counts.External > 0 {
		line += fmt.Sprintf(", %d under an external KMS untouched", r.Counts.External)
	}
	a.line("%s", line)
	a.printLeft(r)
}

// printLeft names the rows that no key opens.
func (a *app) printLeft(r rows.RewriteResult) {
	if r.Unopenable == 0 {
		return
	}
	a.line("%s that no key opens, left untouched:", printable.Count(r.Unopenable, "row"))
	for _, n := range r.Left {
		a.line("  %s", n)
	}
}

// short is a duration as people want to read it.
func short(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }
