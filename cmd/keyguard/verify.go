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
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

func (a *app) verifyCommand() *cobra.Command {
	var database string
	c := &cobra.Command{
		Use:   "verify",
		Short: "try the keyfile and every copy on the rows, and change nothing",
		Long: `verify tries the keyfile's key, the local quarantine and every copy on the rows
and shows what each opens. It changes nothing.

--database asks another database than the daemon's, such as an old dump that was
loaded elsewhere, which key it needs: named by a postgres:// URL without a
password, or by a file, 0600, that holds the URL. Then 0 says that some key
opens every row.

Exit status: 0 the keyfile opens every row; 10 no key that can be had opens a
row; 11 nothing is proven: the rows are silent or cannot be asked, or the
keyfile does not open all of them.`,
		Example: `  keyguard verify
  keyguard verify --database postgres://postgres@localhost/dump`,
		RunE: a.operate(func(ctx context.Context, h *agent.Host, cfg *config.Config) error {
			judge := judgeVerify
			if database != "" {
				open, err := otherDatabase(database, cfg)
				if err != nil {
					return err
				}
				h.OpenRows = open
				judge = func(r agent.VerifyResult) (string, error) { return judgeDatabase(r, database) }
			}
			a.sayWaiting("asking the rows%s …", andEscrows(" and ", h))
			r, err := agent.Verify(ctx, h)
			if err != nil {
				return err
			}
			if database == "" {
				return a.printVerify(r, judge)
			}
			r.Daemon = agent.DaemonStanding{} // these are not its rows
			if err := a.printVerify(r, judge); err != nil {
				return err
			}
			if own := proofOf(r.Rows, r.Keyfile.Key); !r.Keyfile.Good || own == nil || own.Verdict != rows.Opens {
				a.hint("put it into place: keyguard restore --for-database " + database)
			}
			return nil
		}),
	}
	c.Flags().StringVar(&database, "database", "", "ask this database: a URL without a password, or a file that holds one")
	a.identityFlag(c)
	a.allFlag(c)
	a.jsonFlag(c)
	return c
}

type verifyDoc struct {
	Version int             `json:"version"`
	Keyfile keyfileDoc      `json:"keyfile"`
	Known   key.Fingerprint `json:"known,omitempty"`
	Rows    rowsDoc         `json:"rows"`
	Tried   []triedDoc      `json:"tried"`
}

type keyfileDoc struct {
	Good        bool            `json:"good"`
	Fingerprint key.Fingerprint `json:"fingerprint,omitempty"`
	Why         string          `json:"why,omitempty"`
	Loose       string          `json:"loose,omitempty"`
	Proof       *proofDoc       `json:"proof,omitempty"`
}

// printVerify shows what each key opens, below what that comes to.
func (a *app) printVerify(r agent.VerifyResult, judge func(agent.VerifyResult) (string, error)) error {
	a.explainTrouble(r.Trouble)
	if b := r.Broken; b != nil {
		a.urgent("the ledger's chain is broken at line %d: %s", b.Line, b.Why)
		a.hint(seenToLedger)
	}
	k := r.Keyfile
	answer, err := judge(r)
	if a.json {
		a.unheard("", r.Escrows)
		doc := verifyDoc{jsonVersion, keyfileDoc{Good: k.Good, Fingerprint: k.Key, Why: k.Why, Proof: proofOf(r.Rows, k.Key)},
			r.Known, rowsDocOf(r.Rows), triedDocs(r.Rows, r.Candidates)}
		if err := a.printJSON(doc); err != nil {
			return err
		}
	} else {
		own := agent.Candidate{Source: agent.FromKeyfile, Key: k.Key}
		if !k.Good {
			own.Unreadable = k.Why
		}
		colour := green
		if answer == "" { // and at the end once more
			answer, colour = err.Error(), red
		}
		a.answer(colour, answer)
		a.unheard(answer, r.Escrows)
		if r.Daemon.Is != agent.DaemonNotAsked && !a.brief {
			a.line("the daemon: %s", daemonLine(r.Daemon, r.Decision))
		}
		if n := a.printTried(r.Rows, append([]agent.Candidate{own}, r.Candidates...)); n > foldAfter && err == nil {
			a.answer(colour, answer)
		}
	}
	return err
}

// unheard names the escrows that cannot answer, and says why where that does not stand above.
func (a *app) unheard(above string, escrows []decide.EscrowEvidence) {
	for _, s := range escrows {
		if s.State == decide.EscrowFailed {
			a.urgent("%s", unlessTold(above, fmt.Sprintf("escrow %q cannot answer", s.Name), s.Why))
			a.remedy(s.Err)
		}
	}
}

// judgeDatabase says which key another database needs.
func judgeDatabase(r agent.VerifyResult, database string) (string, error) {
	if r.Rows.State != decide.RowsAnswer {
		hint := "is it the right one, does it answer, and may the role of --database read table secrets?"
		if errors.Is(r.Rows.Err, rows.ErrLoose) {
			hint = remedyOf(rows.ErrLoose)
		}
		return "", outcome{exitDoubt, "nothing is proven: " + r.Rows.Why, []string{hint}}
	}
	best := agent.Candidate{Source: agent.FromKeyfile, Key: r.Keyfile.Key, Proof: r.Rows.Proofs[r.Keyfile.Key]}
	for _, c := range r.Candidates {
		if c.Proof.Opened > best.Proof.Opened {
			best = c
		}
	}
	install := "put it into place: keyguard restore --for-database " + database
	switch p := best.Proof; {
	case p.Verdict == rows.Opens:
		return fmt.Sprintf("that database needs key %s, from %s", best.Key, best.Source), nil
	case p.Opened > 0:
		return "", outcome{exitDoubt, fmt.Sprintf("no key opens all rows of that database; key %s, from %s, opens %d of %d", best.Key, best.Source, p.Opened, p.Checked),
			[]string{install, "when the daemon uses it: keyguard repair"}}
	}
	return "", judgeNone(r)
}

// judgeNone is for rows that no key opens.
func judgeNone(r agent.VerifyResult) error {
	for _, s := range r.Escrows {
		if s.State == decide.EscrowFailed {
			return outcome{exitDoubt, fmt.Sprintf("no key at hand opens a row, and escrow %q cannot answer", s.Name), []string{remedyOf(s.Err)}}
		}
	}
	return outcome{exitLost, "no key that can be had opens a row", nil}
}

// judgeVerify says in a line that the keyfile is right, or in an error why not.
func judgeVerify(r agent.VerifyResult) (string, error) {
	switch r.Rows.State {
	case decide.RowsSilent:
		return "", outcome{exitDoubt, "nothing is proven: " + r.Rows.Why, []string{"how the key stands all the same: keyguard status"}}
	case decide.RowsUnknown:
		return "", outcome{exitDoubt, "nothing is proven: " + r.Rows.Why, []string{remedyOf(r.Rows.Err)}}
	}
	own := proofOf(r.Rows, r.Keyfile.Key)
	if r.Keyfile.Good && own != nil && own.Verdict == rows.Opens {
		return fmt.Sprintf("the keyfile's key %s %s", r.Keyfile.Key, opened(r.Rows, r.Keyfile.Key)), nil
	}
	if r.Decision.Action == decide.Doubt {
		return "", outcome{exitDoubt, r.Decision.Reason, []string{"when the escrow answers again: keyguard restore; to choose yourself: keyguard restore --from NAME"}}
	}
	best := mostOpened(r.Candidates)
	split := slices.ContainsFunc(r.Candidates, func(c agent.Candidate) bool { return c.Key != r.Keyfile.Key && c.Proof.Opened > 0 })
	switch {
	case r.Keyfile.Good && own != nil && own.Opened > 0 && split && own.Opened >= best.Proof.Opened:
		return "", outcome{exitDoubt, fmt.Sprintf("the table is split between keys: the keyfile's key %s %s", r.Keyfile.Key, opened(r.Rows, r.Keyfile.Key)),
			[]string{oneKey}}
	case r.Keyfile.Good && own != nil && own.Opened > 0 && own.Opened >= best.Proof.Opened:
		return "", outcome{exitDoubt, fmt.Sprintf("the keyfile's key %s %s, and no other key opens more", r.Keyfile.Key, opened(r.Rows, r.Keyfile.Key)),
			[]string{"if you have the key of the others: keyguard import --escrow-only"}}
	case best.Key != "" && r.Decision.Action == decide.Pass:
		return "", passedOver(r.Keyfile.Key, r.Rows, best)
	case best.Key != "":
		return "", outcome{exitDoubt, fmt.Sprintf("the keyfile is not right, %s; key %s %s", r.Keyfile.State(), best.Key, opened(r.Rows, best.Key)),
			[]string{"put it into place: keyguard restore"}}
	}
	return "", judgeNone(r)
}
