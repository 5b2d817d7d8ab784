package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

func (a *app) restoreCommand() *cobra.Command {
	var opts agent.RestoreOptions
	var database string
	c := &cobra.Command{
		Use:   "restore",
		Short: "put the copy that opens the rows into the keyfile's place",
		Long: `restore tries every copy on the rows and installs the one that opens them. A
keyfile that opens as many rows stays. What was in its place is kept.

--for-database installs the key for a database that the daemon does not use yet,
such as an old dump that was loaded elsewhere: named by a postgres:// URL
without a password, or by a file, 0600, that holds the URL. It is refused while
the present key opens more rows of the daemon's own database.

Exit status: 0 the keyfile is right; 11 nothing can tell, or a key that opens
fewer rows stays on a person's word; 13 no usable copy; 14 refused, the present
key opens more.`,
		Example: `  keyguard restore --dry-run
  keyguard restore --from gcp --copy current/3
  keyguard restore --for-database postgres://postgres@localhost/dump`,
		RunE: a.operate(func(ctx context.Context, h *agent.Host, cfg *config.Config) error {
			if opts.Copy != "" && opts.From == "" {
				return usageError{errors.New("--copy needs --from")}
			}
			if database != "" {
				var err error
				if opts.Database, err = otherDatabase(database, cfg); err != nil {
					return err
				}
			}
			opts.Person = person()
			a.sayWaiting("asking the rows%s …", andEscrows(" and ", h))
			r, err := agent.Restore(ctx, h, opts)
			if best := mostOpened(r.Tried); err == nil && r.Source == agent.FromKeyfile && best.Proof.Opened > r.Rows.Proofs[r.Key].Opened {
				err = passedOver(r.Key, r.Rows, best)
			}
			a.printRestore(opts, r, nil, err)
			if !opts.DryRun {
				a.forgetBackoff(cfg)
			}
			return err
		}),
	}
	c.Flags().StringVar(&opts.From, "from", "", "take copies from this escrow only")
	c.Flags().StringVar(&opts.Copy, "copy", "", "take this copy only, an id listed by keyguard copies")
	c.Flags().StringVar(&database, "for-database", "", "install the key for the rows of this database: a URL without a password, or a file that holds one")
	if err := a.completeRestore(c); err != nil {
		panic(err) // a flag that is not there
	}
	c.Flags().BoolVar(&opts.DryRun, "dry-run", false, "say what would be done, and do nothing")
	a.identityFlag(c)
	a.allFlag(c)
	a.jsonFlag(c)
	return c
}

type triedDoc struct {
	Source      string          `json:"source"`
	Escrow      string          `json:"escrow,omitempty"`
	Copy        string          `json:"copy,omitempty"`
	Shelf       escrow.Shelf    `json:"shelf,omitempty"`
	Fingerprint key.Fingerprint `json:"fingerprint,omitempty"`
	Proof       *proofDoc       `json:"proof,omitempty"`
	Error       string          `json:"error,omitempty"`
}

func triedDocs(e decide.RowsEvidence, tried []agent.Candidate) []triedDoc {
	docs := []triedDoc{}
	for _, c := range tried {
		docs = append(docs, triedDoc{c.Source, c.Escrow, c.Copy, c.Shelf, c.Key, proofOf(e, c.Key), c.Unreadable})
	}
	return docs
}

type restoreDoc struct {
	Version     int             `json:"version"`
	Fingerprint key.Fingerprint `json:"fingerprint,omitempty"`
	Source      string          `json:"source,omitempty"`
	Installed   bool            `json:"installed"`
	DryRun      bool            `json:"dry_run"`
	Replaced    key.Fingerprint `json:"replaced,omitempty"`
	Rows        rowsDoc         `json:"rows"`
	Tried       []triedDoc      `json:"tried"`
	Warning     string          `json:"warning,omitempty"`
	Escrows     []saveDoc       `json:"escrows,omitempty"` // of import: where it was saved besides
}

// printRestore shows what was tried and done, the end of a failed one included, and where the
// key was saved besides.
func (a *app) printRestore(opts agent.RestoreOptions, r agent.RestoreResult, saves []agent.SaveResult, err error) {
	a.explainTrouble(r.Trouble)
	remarks := func(answer string) {
		a.unheard(answer, r.Escrows)
		if r.Warning != "" {
			a.urgent("%s", r.Warning)
		}
	}
	if a.json {
		remarks("")
		a.printJSON(restoreDoc{jsonVersion, r.Key, r.Source, r.Installed, opts.DryRun, r.Replaced, rowsDocOf(r.Rows), triedDocs(r.Rows, r.Tried), r.Warning, saveDocs(saves)})
		return
	}
	answer, colour := "", green
	switch {
	case err != nil && len(r.Tried) == 0: // stderr says it
	case err != nil: // what ends the command says it again below what was tried
		answer, colour = err.Error(), red
	case r.Installed:
		answer = fmt.Sprintf("key %s is in place, from %s", r.Key, r.Source)
	case r.Source == agent.FromKeyfile:
		answer = fmt.Sprintf("key %s stays: %s", r.Key, opened(r.Rows, r.Key))
	case opts.DryRun:
		answer, colour = fmt.Sprintf("key %s would be installed, from %s", r.Key, r.Source), yellow
	}
	a.answer(colour, answer)
	remarks(answer)
	if n := a.printTried(r.Rows, r.Tried); n > foldAfter && err == nil {
		a.answer(colour, answer)
	}
	a.saveLines(saves)
	if r.Installed && !a.brief {
		a.line("%s", afterInstall(r))
	}
}

// mostOpened is the first of the keys that open the most rows.
func mostOpened(tried []agent.Candidate) (best agent.Candidate) {
	for _, c := range tried {
		if c.Proof.Opened > best.Proof.Opened {
			best = c
		}
	}
	return best
}

// passedOver is of a keyfile whose key stays though another one opens more rows: a start passes
// it, on a person's word.
func passedOver(own key.Fingerprint, e decide.RowsEvidence, best agent.Candidate) error {
	hint := "feed the file that is named to: keyguard import"
	switch {
	case e.Split():
		hint = oneKey
	case best.Escrow != "":
		hint = "to put that one into place all the same: keyguard restore --from " + best.Escrow
	}
	return outcome{exitDoubt, fmt.Sprintf("key %s stays on a person's word, and %s; key %s, from %s, %s", own, opened(e, own), best.Key, best.Source, opened(e, best.Key)), []string{hint}}
}

// afterInstall says what is left to do for a daemon that runs.
func afterInstall(r agent.RestoreResult) string {
	switch d := r.Daemon; {
	case d.Is == agent.DaemonDown:
		return "next: systemctl start " + d.Name
	case d.Is == agent.DaemonUp || d.Is == agent.DaemonOtherKey:
		if d.Key == r.Key {
			return "the daemon runs on it already"
		}
		if d.Told == "" {
			return "the daemon has not read its key yet"
		}
	}
	return "next: systemctl restart containarium"
}

// printTried lists what was tried, and returns how many lines that took. Of a long list
// those of one key stand together.
func (a *app) printTried(e decide.RowsEvidence, tried []agent.Candidate) (lines int) {
	if len(tried) == 0 || a.brief {
		return 0
	}
	more := map[key.Fingerprint]int{}
	fold := len(tried) > foldAfter && !a.all
	a.table("SOURCE\tKEY\tROWS", func(row func(...string)) {
		for i, c := range tried {
			said := c.Unreadable
			if said == "" {
				said = opened(e, c.Key)
			}
			if fold && c.Key != "" {
				if more[c.Key]++; more[c.Key] > 1 {
					continue
				}
				for _, other := range tried[i+1:] {
					if other.Key == c.Key {
						more[c.Key]++
					}
				}
				if n := more[c.Key] - 1; n > 0 {
					said += fmt.Sprintf("; also in %s", printable.Count(int64(n), "other place"))
				}
			}
			row(c.Source, orNone(c.Key), said)
			lines++
		}
	})
	if lines < len(tried) {
		a.line("(each of %d: --all)", len(tried))
	}
	if slices.ContainsFunc(tried, func(c agent.Candidate) bool { return c.Sealed }) {
		a.remedy(escrow.ErrSealed)
	}
	return lines
}
