package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

func (a *app) statusCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "how the key and its copies stand",
		Long: `status says by the same rules as a start of the daemon whether the key is right,
and what every escrow holds. It changes nothing.

Exit status: 0 green; 10 lost; 11 doubt; 12 an escrow lags.`,
		RunE: a.operate(func(ctx context.Context, h *agent.Host, cfg *config.Config) error {
			a.working("asking the rows and %d escrows …", len(h.Escrows))
			r, err := agent.Status(ctx, h)
			if err != nil {
				return err
			}
			return a.printStatus(r, cfg.Keyfile)
		}),
	}
	a.jsonFlag(c)
	return c
}

type statusDoc struct {
	Version  int               `json:"version"`
	Host     string            `json:"host"`
	Keyguard string            `json:"keyguard"`
	Health   agent.Health      `json:"health"`
	Verdict  string            `json:"verdict"`
	Decision decisionDoc       `json:"decision"`
	Keyfile  keyfileDoc        `json:"keyfile"`
	Known    *knownDoc         `json:"known,omitempty"`
	Rows     rowsDoc           `json:"rows"`
	Kept     int               `json:"local_quarantine"`
	Escrows  []escrowStatusDoc `json:"escrows"`
}

type decisionDoc struct {
	Rule        string          `json:"rule"`
	Action      agent.Action    `json:"action"`
	Fingerprint key.Fingerprint `json:"fingerprint,omitempty"`
	Reason      string          `json:"reason"`
}

type knownDoc struct {
	Fingerprint key.Fingerprint `json:"fingerprint"`
	By          string          `json:"by"` // "proof", "person"
	At          *time.Time      `json:"at"`
}

type escrowStatusDoc struct {
	escrowDoc
	Domain     string          `json:"failure_domain"`
	Current    int             `json:"current"`
	Quarantine int             `json:"quarantine"`
	Newest     key.Fingerprint `json:"newest,omitempty"`
	NewestID   string          `json:"newest_copy,omitempty"`
	Holds      bool            `json:"holds_the_key"`
	Alarm      string          `json:"alarm,omitempty"`
	SavedAt    *time.Time      `json:"saved_at,omitempty"`
}

// healthCode is what the exit code says of a health.
var healthCode = map[agent.Health]int{
	agent.Green: exitDone, agent.Lagging: exitEscrow, agent.Unsure: exitDoubt, agent.Gone: exitLost,
}

func (a *app) printStatus(r agent.StatusResult, path string) error {
	a.explainTrouble(r.Trouble)
	if a.json {
		if err := a.printJSON(statusDocOf(r)); err != nil {
			return err
		}
	} else {
		a.printStatusText(r, path)
	}
	if r.Health == agent.Green {
		return nil
	}
	return outcome{healthCode[r.Health], fmt.Sprintf("status: %s", r.Health), statusHints(r)}
}

// statusHints says what to type, the most urgent first.
func statusHints(r agent.StatusResult) []string {
	var hints []string
	switch {
	case r.Decision.Action == agent.Install:
		hints = append(hints, "keyguard restore")
	case r.Decision.Action == agent.Lost:
		hints = append(hints, "if you have the key elsewhere (a printed sheet, another store): keyguard import")
	case r.Rows.State == agent.RowsUnknown:
		hints = append(hints, remedyOf(r.Rows.Err))
	}
	for _, s := range r.Escrows {
		switch {
		case s.Alarm != "":
			hints = append(hints, "if that copy is this host's own after all: keyguard accept")
		case s.State == agent.EscrowFailed:
			hints = append(hints, remedyOf(s.Err))
		case !s.Holds && r.Health == agent.Lagging:
			hints = append(hints, "keyguard backup")
		}
	}
	return hints
}

func statusDocOf(r agent.StatusResult) statusDoc {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	d := statusDoc{
		Version: jsonVersion, Host: host, Keyguard: version, Health: r.Health, Verdict: r.Line,
		Decision: decisionDoc{r.Decision.Rule, r.Decision.Action, r.Decision.Key, r.Decision.Reason},
		Keyfile: keyfileDoc{Good: r.Keyfile.Good, Fingerprint: r.Keyfile.Key, Why: r.Keyfile.Why, Loose: r.Loose,
			Proof: proofOf(r.Rows, r.Keyfile.Key)},
		Rows: rowsDocOf(r.Rows), Kept: r.Kept, Escrows: []escrowStatusDoc{},
	}
	if r.Known != "" {
		d.Known = &knownDoc{r.Known, knownBy(r), timeDoc(r.LastLook)}
	}
	for _, s := range r.Escrows {
		d.Escrows = append(d.Escrows, escrowStatusDoc{
			escrowDoc: escrowDoc{s.Name, s.Place.Kind, s.Place.Where, s.Required, s.Why}, Domain: s.Place.Domain,
			Current: s.Current, Quarantine: s.Quarantine, Newest: s.Newest.Key, NewestID: s.Newest.ID,
			Holds: s.Holds, Alarm: s.Alarm, SavedAt: timeDoc(s.SavedAt),
		})
	}
	return d
}

func knownBy(r agent.StatusResult) string {
	if r.Accepted {
		return "person"
	}
	return "proof"
}

func (a *app) printStatusText(r agent.StatusResult, path string) {
	fmt.Fprintf(a.out, "keyfile   %s: %s", path, r.Keyfile.State())
	if r.Loose != "" {
		fmt.Fprintf(a.out, " (%s)", r.Loose)
	}
	fmt.Fprintln(a.out)
	switch {
	case r.Rows.State == agent.RowsAnswer && r.Keyfile.Key == "":
		fmt.Fprintf(a.out, "rows      %d depend on a key\n", r.Rows.Dependent)
	case r.Rows.State == agent.RowsAnswer:
		fmt.Fprintf(a.out, "rows      %s\n", opened(r.Rows, r.Keyfile.Key))
	default:
		fmt.Fprintf(a.out, "rows      %s: %s\n", stateOf(r.Rows), r.Rows.Why)
	}
	if r.Known == "" {
		fmt.Fprintln(a.out, "known     no key was proven or accepted here yet")
	} else {
		fmt.Fprintf(a.out, "known     key %s, by %s, last at %s\n", r.Known, map[bool]string{true: "a person's word", false: "proof"}[r.Accepted], when(r.LastLook))
	}
	if r.Kept > 0 {
		fmt.Fprintf(a.out, "kept      %d files in the local quarantine\n", r.Kept)
	}
	if len(r.Escrows) > 0 {
		fmt.Fprintln(a.out)
		a.table("ESCROW\tWHERE\tCURRENT\tQUARANTINE\tNEWEST KEY\tLAST SAVED\tSTATE", func(row func(...string)) {
			for _, s := range r.Escrows {
				if s.State == agent.EscrowFailed {
					row(s.Name, s.Place.Where, "?", "?", "?", when(s.SavedAt), "cannot answer: "+s.Why)
					continue
				}
				row(s.Name, s.Place.Where, fmt.Sprint(s.Current), fmt.Sprint(s.Quarantine), orNone(s.Newest.Key), when(s.SavedAt), escrowState(s))
			}
		})
	}
	fmt.Fprintf(a.out, "\n%s: %s\n", r.Health, r.Line)
}

func escrowState(s agent.EscrowStatus) string {
	switch {
	case s.Alarm != "":
		return s.Alarm
	case s.Holds:
		return "holds the key"
	case s.Newest.ID == "":
		return "holds no current copy"
	}
	return "holds another key"
}
