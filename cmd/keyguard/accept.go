package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

func (a *app) acceptCommand() *cobra.Command {
	var fresh bool
	c := &cobra.Command{
		Use:   "accept",
		Short: "vouch for the present key, or make a new one where none is",
		Long: `accept records that a person vouches for the keyfile's key: from then on the
daemon may start with it whatever the rows say now. It does not become a current
copy by that. It also takes what stands newest in the escrows as this host's
own; where that is another key, and this one opens every row, this one is saved
over it. Where the ledger was edited or damaged, the word takes the place of
what stood there before.

accept --new makes a key where none is. On a new host whose database is not the
daemon's own container there is no table yet, and nobody but you can tell that
no dump is about to be loaded: say so by it. If rows depend on another key, the
number of them must be typed: a new key opens none of them.

Exit status: 0 done; 2 not confirmed; 11 the rows cannot be asked (--new), or it
is not as it was when you were asked; 12 an escrow failed; 14 refused; 15 a
rotation is open: the rows settle which of its keys holds.`,
		Example: `  keyguard accept           # vouch for the key that is there
  keyguard accept --new     # make one on a host that never had one`,
		RunE: a.operate(func(ctx context.Context, h *agent.Host, cfg *config.Config) error {
			opts := agent.AcceptOptions{Person: person(),
				Confirm:     func(r agent.AcceptResult) (bool, error) { return a.confirmAccept(ctx, r) },
				ConfirmRows: func(dependent int64) (bool, error) { return a.confirmRows(ctx, dependent) }}
			a.sayWaiting("asking the rows%s …", andEscrows(" and ", h))
			accept := agent.Accept
			if fresh {
				accept = agent.AcceptNew
				opts.Confirm = func(r agent.AcceptResult) (bool, error) {
					a.sayInstead(r)
					if r.Rows.State == decide.RowsUnknown {
						a.say("%s", r.Rows.Why)
						return a.confirm(ctx, "Is this a new host, with no dump to be loaded there? Make a new key?")
					}
					return a.confirm(ctx, "No row depends on a key. Make a new one?")
				}
			}
			r, err := accept(ctx, h, opts)
			if err != nil {
				return err
			}
			if !r.Done {
				return notConfirmed
			}
			a.forgetBackoff(cfg)
			others := slices.ContainsFunc(r.Adopted, func(c escrow.Copy) bool { return c.Fingerprint != r.Key })
			if !others || r.Verdict != rows.Opens || failed(r.Escrows) {
				return a.printAccept(accepted{AcceptResult: r, fresh: fresh})
			}
			// The present key, which opens every row, goes on top of what was adopted: a person's
			// word for another host's copy must not leave that as the newest.
			over, err := agent.Backup(ctx, h)
			return a.printAccept(accepted{r, fresh, over, err})
		}),
	}
	c.Flags().BoolVar(&fresh, "new", false, "make a key where none is")
	c.Flags().BoolVar(&a.yes, "yes", false, "answer the confirmation with yes")
	a.jsonFlag(c)
	return c
}

// sayInstead says what a new key would stand instead of.
func (a *app) sayInstead(r agent.AcceptResult) {
	if r.Known != "" {
		a.say("known until now is key %s; to have that one back: keyguard restore, or keyguard import", r.Known)
	}
	for _, c := range r.Above {
		a.say("copy %s in escrow %q (%s) is the newest there", c.ID, c.Escrow, holding(c))
	}
	a.explainTrouble(r.Trouble)
}

func (a *app) confirmAccept(ctx context.Context, r agent.AcceptResult) (bool, error) {
	a.say("key %s: %s", r.Key, opened(r.Rows, r.Key))
	if r.Rows.State == decide.RowsUnknown {
		a.say("the rows cannot be asked: %s", r.Rows.Why)
	}
	if r.Known != "" && r.Known != r.Key {
		a.say("known until now is key %s", r.Known)
	}
	if b := r.Broken; b != nil {
		a.say("the ledger's chain is broken at line %d: %s; what stands before proves nothing, and your word takes its place", b.Line, b.Why)
	}
	for _, c := range r.Adopted {
		a.say("copy %s in escrow %q (%s) is to count as this host's own", c.ID, c.Escrow, holding(c))
	}
	return a.confirm(ctx, fmt.Sprintf("Vouch for key %s?", r.Key))
}

// holding names a copy's key, or the one that it calls itself where nobody here could read it, or
// says why none can be named.
func holding(c escrow.Copy) string {
	switch {
	case c.Fingerprint == "":
		return cmp.Or(c.Unreadable, "it holds no key that can be read")
	case c.Unreadable != "":
		return "it calls itself key " + string(c.Fingerprint)
	}
	return "key " + string(c.Fingerprint)
}

// confirmRows takes nothing but the number itself, so --yes does not answer it.
func (a *app) confirmRows(ctx context.Context, dependent int64) (bool, error) {
	depend := "rows depend"
	if dependent == 1 {
		depend = "row depends"
	}
	a.say("%d %s on another key, and a new one opens none of them", dependent, depend)
	answer, err := a.ask(ctx, "Type that number to make a new key all the same: ")
	if _, ok := errors.AsType[usageError](err); ok {
		return false, nil // no terminal: not confirmed
	}
	return answer == strconv.FormatInt(dependent, 10), err
}

// failed tells whether one of these has.
func failed(saves []agent.SaveResult) bool {
	return slices.ContainsFunc(saves, func(s agent.SaveResult) bool { return s.Err != nil })
}

type acceptDoc struct {
	Version     int             `json:"version"`
	Fingerprint key.Fingerprint `json:"fingerprint"`
	New         bool            `json:"new"`
	Verdict     rows.Verdict    `json:"verdict"`
	Known       key.Fingerprint `json:"known_before,omitempty"`
	Saves       []saveDoc       `json:"saves"`
}

// accepted is what was accepted and saved.
type accepted struct {
	agent.AcceptResult
	fresh   bool               // the key was made
	over    agent.BackupResult // what went on top of what was adopted, if that was tried
	overErr error
}

// printAccept prints it.
func (a *app) printAccept(r accepted) error {
	a.explainTrouble(r.Trouble)
	a.explainTrouble(r.over.Trouble)
	saves := slices.Concat(r.Escrows, r.over.Escrows)
	if a.json {
		if err := a.printJSON(acceptDoc{jsonVersion, r.Key, r.fresh, r.Verdict, r.Known, saveDocs(saves)}); err != nil {
			return err
		}
	} else {
		a.line("key %s is accepted: %s", r.Key, opened(r.Rows, r.Key))
		a.saveLines(saves)
		if len(saves) == 0 && r.Verdict != rows.Opens && !decide.Majority(r.Proof) {
			for _, c := range r.Above {
				a.line("  %s: copy %s (%s) stays the newest there until the rows prove key %s", c.Escrow, c.ID, holding(c), r.Key)
			}
		}
	}
	switch {
	case r.overErr != nil:
		return r.overErr
	case failed(r.Escrows), len(r.over.Escrows) > 0:
		return lagging(a.judgeSaves(r.Key, r.Rows, saves))
	}
	return nil
}
