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
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

func (a *app) backupCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "backup",
		Short: "save the present key in every escrow, and read it back",
		Long: `backup proves the keyfile's key on the rows and saves it in every escrow: as the
newest current copy if it opens them, in quarantine if it does not or nobody can
tell. A key that is there already is not saved again.

Exit status: 0 saved as current everywhere; 12 an escrow failed; 14 kept in
quarantine, to protect the last good copy.`,
		Example: `  keyguard backup
  keyguard backup --json | jq '.escrows[] | select(.saved | not)'`,
		RunE: a.operate(func(ctx context.Context, h *agent.Host, cfg *config.Config) error {
			a.sayWaiting("asking the rows%s …", andEscrows(" and ", h))
			r, err := agent.Backup(ctx, h)
			if err != nil {
				return err
			}
			a.forgetBackoff(cfg)
			return a.printBackup(r)
		}),
	}
	a.jsonFlag(c)
	return c
}

type saveDoc struct {
	Escrow     string       `json:"escrow"`
	Required   bool         `json:"required"`
	Saved      bool         `json:"saved"`
	Shelf      escrow.Shelf `json:"shelf,omitempty"`
	Copy       string       `json:"copy,omitempty"`
	Why        string       `json:"why,omitempty"`
	Unverified bool         `json:"unverified,omitempty"`
	Sealed     bool         `json:"sealed,omitempty"` // to others: nobody here can tell what it is
	Error      string       `json:"error,omitempty"`
}

type backupDoc struct {
	Version     int             `json:"version"`
	Fingerprint key.Fingerprint `json:"fingerprint"`
	Rows        rowsDoc         `json:"rows"`
	Proof       *proofDoc       `json:"proof,omitempty"`
	Escrows     []saveDoc       `json:"escrows"`
}

func backupDocOf(r agent.BackupResult) backupDoc {
	return backupDoc{Version: jsonVersion, Fingerprint: r.Key, Rows: rowsDocOf(r.Rows), Proof: proofOf(r.Rows, r.Key), Escrows: saveDocs(r.Escrows)}
}

func saveDocs(saves []agent.SaveResult) []saveDoc {
	docs := []saveDoc{}
	for _, s := range saves {
		docs = append(docs, saveDoc{Escrow: s.Escrow, Required: s.Required, Saved: s.Err == nil && !s.Unverified,
			Shelf: s.Shelf, Copy: s.Copy.ID, Why: s.Why, Unverified: s.Unverified, Sealed: s.Sealed, Error: errorText(s.Err)})
	}
	return docs
}

func (a *app) printBackupText(r agent.BackupResult) {
	a.line("key %s, %s", r.Key, opened(r.Rows, r.Key))
	a.saveLines(r.Escrows)
}

// printBackup prints what became of the key, and sums it up in the exit code.
func (a *app) printBackup(r agent.BackupResult) error {
	a.explainTrouble(r.Trouble)
	if !a.json {
		a.printBackupText(r)
	} else if err := a.printJSON(backupDocOf(r)); err != nil {
		return err
	}
	return a.judgeSaves(r.Key, r.Rows, r.Escrows)
}

func (a *app) saveLines(saves []agent.SaveResult) {
	for _, s := range saves {
		a.line("  %s", saveLine(s))
	}
}

func saveLine(s agent.SaveResult) string {
	var parts *escrow.PartsError
	switch {
	case errors.As(s.Err, &parts) && errors.Is(s.Err, escrow.ErrPartly):
		return fmt.Sprintf("%s: saved as %s on %d of %d members", s.Escrow, s.Copy.ID, parts.Saved, parts.Of)
	case s.Err != nil:
		return fmt.Sprintf("%s: failed", s.Escrow)
	case s.AddOnly:
		return fmt.Sprintf("%s: stored as %s, unverified: this host only adds there", s.Escrow, s.Copy.ID)
	case s.Unverified:
		return fmt.Sprintf("%s: stored as %s, unverified: reading it back is denied", s.Escrow, s.Copy.ID)
	case s.Sealed && s.Shelf == escrow.Current:
		return fmt.Sprintf("%s: stored as %s, sealed: no identity of this host opens it, so that nobody here can tell whether it is the key", s.Escrow, s.Copy.ID)
	case s.Shelf == escrow.Quarantine:
		return fmt.Sprintf("%s: kept in quarantine as %s: %s", s.Escrow, s.Copy.ID, s.Why)
	}
	return fmt.Sprintf("%s: saved as %s and read back", s.Escrow, s.Copy.ID)
}

// lagging is what judgeSaves says where something else was done first: that stands, whatever
// became of the copies, and exit code 14 would say that it does not.
func lagging(err error) error {
	if o, ok := errors.AsType[outcome](err); ok {
		o.code = exitEscrow
		return o
	}
	return err
}

// judgeSaves is nil when the key is the newest current copy everywhere; said is what the rows
// said of it.
func (a *app) judgeSaves(f key.Fingerprint, said decide.RowsEvidence, saves []agent.SaveResult) error {
	failed, quarantined := 0, 0
	var hints []string
	for _, s := range saves {
		switch {
		case s.Err != nil:
			failed++
			a.urgent("escrow %q: %v", s.Escrow, s.Err)
			a.remedy(s.Err)
		case s.AddOnly: // it was stored, and that is all that is wanted
		case s.Unverified: // nobody knows whether it can be restored
			failed++
			a.urgent("escrow %q: copy %s: %v", s.Escrow, s.Copy.ID, escrow.ErrUnverified)
			a.remedy(escrow.ErrUnverified)
		case s.Shelf == escrow.Quarantine:
			quarantined++
			hint := unproven(said, s.Bar)
			switch {
			case s.Halfway:
				hint = remedyOf(agent.ErrRotationOpen)
			case s.Alarm && said.VerdictOf(f) == rows.Refuted: // nobody is to vouch for that
				hint = remedyOf(agent.ErrKeyNotRight)
			case s.Alarm:
				hint = remedyOf(decide.ErrForeignCopy)
			}
			if !slices.Contains(hints, hint) {
				hints = append(hints, hint)
			}
		}
	}
	switch {
	case quarantined > 0:
		return outcome{exitRefused, fmt.Sprintf("key %s went to quarantine in %d of %s, to protect the last good copy", f, quarantined, printable.Count(int64(len(saves)), "escrow")), hints}
	case failed > 0:
		return outcome{exitEscrow, fmt.Sprintf("key %s is not safe in %d of %s", f, failed, printable.Count(int64(len(saves)), "escrow")), nil}
	}
	return nil
}
