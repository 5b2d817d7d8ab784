package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// statusAgain is how long --watch waits before it asks again: no store minds that.
const statusAgain = 5 * time.Second

func (a *app) statusCommand() *cobra.Command {
	watch := false
	c := &cobra.Command{
		Use:   "status",
		Short: "how the key and its copies stand",
		Long: `status says by the same rules as a start of the daemon whether the key is right,
whether the daemon runs on it, and what every escrow holds: the verdict first.
It changes nothing. --watch asks again every few seconds, until Ctrl-C.

Exit status: 0 green; 10 lost; 11 doubt; 12 an escrow lags, or the daemon, the
watcher or the drill's timer is not as it should be; 15 a rotation or a repair
is under way.`,
		Example: `  keyguard status
  keyguard status --json | jq -r .verdict`,
		RunE: func(c *cobra.Command, args []string) error {
			show := func(ctx context.Context, h *agent.Host, cfg *config.Config) error {
				a.sayWaiting("asking the rows%s …", andEscrows(" and ", h))
				r, err := agent.Status(ctx, h)
				if err != nil {
					return a.unjudged(err)
				}
				if o, ok := a.out.(*stdout); ok && watch && !plain(o) {
					fmt.Fprint(o, "\x1b[H\x1b[2J") // the cursor home, the screen empty (ECMA-48)
					o.lines = 0
				}
				return a.printStatus(r)
			}
			h, cfg, err := a.open()
			switch {
			case err != nil:
				return a.unjudged(err)
			case watch:
				return a.again(c.Context(), h, cfg, show)
			}
			ctx, cancel := context.WithTimeout(c.Context(), patience)
			defer cancel()
			return show(ctx, h, cfg)
		},
	}
	c.Flags().BoolVar(&watch, "watch", false, "ask again every few seconds, until Ctrl-C")
	a.jsonFlag(c)
	return c
}

// again shows something until a person has seen enough, and ends as it was at last.
func (a *app) again(ctx context.Context, h *agent.Host, cfg *config.Config, show func(context.Context, *agent.Host, *config.Config) error) error {
	for code := exitStatus(exitDone); ; {
		look, cancel := context.WithTimeout(ctx, patience)
		err := show(look, h, cfg)
		cancel()
		if ctx.Err() == nil {
			code = exitDone
			if err != nil {
				code = exitStatus(a.explain(err))
			}
			a.sayWaiting("so it was at %s; Ctrl-C ends this", when(time.Now()))
		}
		select {
		case <-ctx.Done():
			return code
		case <-time.After(statusAgain):
		}
	}
}

// unjudged prints the verdict where nothing could be looked at, and returns why.
func (a *app) unjudged(err error) error {
	if usage := (usageError{}); errors.As(err, &usage) { // nobody has asked for one yet
		return err
	}
	r := agent.StatusResult{Health: agent.Amiss}
	if exitCode(err) == exitDoubt {
		r.Health = agent.Unsure
	}
	r.Line = "nothing can be judged: " + strings.Join(strings.Fields(err.Error()), " ")
	if a.json {
		if unprinted := a.printJSON(statusDocOf(r)); unprinted != nil {
			return unprinted
		}
		return err
	}
	a.verdict(r)
	return err
}

type statusDoc struct {
	Version  int               `json:"version"`
	At       *time.Time        `json:"at"` // when this was so
	Host     string            `json:"host"`
	Keyguard string            `json:"keyguard"`
	Health   agent.Health      `json:"health"`
	Verdict  string            `json:"verdict"`
	Working  *workingDoc       `json:"under_way,omitempty"` // a rotation or a repair
	Daemon   *daemonDoc        `json:"daemon,omitempty"`    // missing where no unit is configured
	Watcher  string            `json:"watcher,omitempty"`   // "active", "inactive", "unknown"; "" where there is none to ask
	Decision decisionDoc       `json:"decision"`
	Keyfile  keyfileDoc        `json:"keyfile"`
	Known    *knownDoc         `json:"known,omitempty"`
	Rows     rowsDoc           `json:"rows"`
	Kept     int               `json:"local_quarantine"`
	Drill    drillStandingDoc  `json:"drill"`
	Deaf     string            `json:"watcher_deaf,omitempty"` // why it hears of changes only once a rescan
	Escrows  []escrowStatusDoc `json:"escrows"`
}

type workingDoc struct {
	What   string     `json:"what"` // "rotation", "repair"
	Since  *time.Time `json:"since,omitempty"`
	Person string     `json:"person,omitempty"`
}

type daemonDoc struct {
	Unit        string          `json:"unit,omitempty"`
	State       agent.DaemonIs  `json:"state"`
	Since       *time.Time      `json:"since,omitempty"`
	Fingerprint key.Fingerprint `json:"fingerprint,omitempty"` // of the key that it runs on, as far as is known
	Restart     bool            `json:"restart_needed"`
	Minted      bool            `json:"minted"`            // it made a key at this start
	Unasked     string          `json:"unasked,omitempty"` // why its start does not ask keyguard
	Why         string          `json:"why,omitempty"`
}

type drillStandingDoc struct {
	Last    *time.Time `json:"last,omitempty"`
	Verdict string     `json:"verdict,omitempty"`
	Reason  string     `json:"reason,omitempty"`
	Next    *time.Time `json:"next,omitempty"`
	Timer   string     `json:"timer,omitempty"` // "active", "inactive"; "" where there is none
}

type decisionDoc struct {
	Rule        string          `json:"rule"`
	Action      decide.Action   `json:"action"`
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
	AddOnly    bool            `json:"add_only,omitempty"` // not read from here
	Added      key.Fingerprint `json:"added,omitempty"`    // the key last stored there, unverified
	Current    int             `json:"current"`
	Quarantine int             `json:"quarantine"`
	Newest     key.Fingerprint `json:"newest,omitempty"`
	NewestID   string          `json:"newest_copy,omitempty"`
	Holds      bool            `json:"holds_the_key"`
	Alarm      string          `json:"alarm,omitempty"`
	Readable   string          `json:"readable_by_others,omitempty"`
	Ending     string          `json:"credential_ends,omitempty"` // in the last third of its life, and not renewed by itself
	SavedAt    *time.Time      `json:"saved_at,omitempty"`
	ProvenAt   *time.Time      `json:"proven_at,omitempty"`  // by a drill
	Drilled    string          `json:"last_drill,omitempty"` // what it said: passed, failed, inconclusive
}

// healthCode is what the exit code says of a health.
var healthCode = map[agent.Health]int{
	agent.Green: exitDone, agent.Lagging: exitEscrow, agent.Amiss: exitEscrow, agent.Unsure: exitDoubt, agent.Gone: exitLost, agent.Busy: exitBusy,
}

func (a *app) printStatus(r agent.StatusResult) error {
	a.explainTrouble(r.Trouble)
	if a.json {
		if err := a.printJSON(statusDocOf(r)); err != nil {
			return err
		}
	} else {
		a.printStatusText(r)
	}
	said := string(r.Health)
	if a.scrolledOff() {
		said += ": " + r.Line
	}
	if r.Health == agent.Green {
		if a.scrolledOff() {
			fmt.Fprintln(a.out)
			a.verdict(r)
		}
		if r.Rows.State == decide.RowsUnknown { // which the key that was proven may outlive for a day
			a.remedy(r.Rows.Err)
		}
		return nil
	}
	return outcome{healthCode[r.Health], "status: " + said, statusHints(r)}
}

// mends is what to type for what ails, in words for whoever is woken; the first is the
// command that mends it, or says why a person must decide. What a person decides elsewhere, or
// what goes by itself, has none.
var mends = map[agent.Ails]func(agent.StatusResult, agent.Ailment) []string{
	agent.AilsWorking: func(r agent.StatusResult, _ agent.Ailment) []string {
		return []string{"follow it: journalctl -fu " + map[string]string{"rotation": rotateUnit, "repair": repairUnit}[r.Working.What] + "; when it is done: keyguard status"}
	},
	agent.AilsLost: func(r agent.StatusResult, _ agent.Ailment) []string {
		return []string{"if you have the key elsewhere (a printed sheet, another store): keyguard import"}
	},
	agent.AilsDoubt:   mendDoubt,
	agent.AilsKeyfile: mendKeyfile,
	agent.AilsRows: func(r agent.StatusResult, _ agent.Ailment) []string {
		switch {
		case r.Split():
			return []string{"keyguard repair"}
		case r.Proof.Verdict == rows.Partial:
			return []string{"name these rows: keyguard drill --full"}
		}
		return []string{"if you have the key that opens them (a printed sheet, another store): keyguard import"}
	},
	agent.AilsCopied: func(r agent.StatusResult, _ agent.Ailment) []string {
		if r.Nameless {
			return []string{"give it one: systemd-machine-id-setup; then: keyguard status"}
		}
		return []string{"if both machines live on, name another place in each escrow of this one (" + config.DefaultPath + ") and run keyguard init; then, here: keyguard accept"}
	},
	agent.AilsHalfway: func(r agent.StatusResult, _ agent.Ailment) []string { return []string{remedyOf(r.Halfway)} },
	agent.AilsDaemon:  mendDaemon,
	agent.AilsLeftDown: func(r agent.StatusResult, _ agent.Ailment) []string {
		return []string{"systemctl start " + cmp.Or(r.Daemon.Name, unit.Names[0])}
	},
	agent.AilsUnasked: func(r agent.StatusResult, _ agent.Ailment) []string {
		return []string{agent.AskAgain(r.Daemon.Name, r.Daemon.Over)}
	},
	agent.AilsWatcher: func(r agent.StatusResult, _ agent.Ailment) []string {
		return []string{enable(unit.Watcher, r.Watcher.State)}
	},
	agent.AilsTimer: func(r agent.StatusResult, _ agent.Ailment) []string {
		return []string{enable(unit.DrillTimer, r.Drill.Next.State)}
	},
	agent.AilsUnproven: func(r agent.StatusResult, _ agent.Ailment) []string {
		if r.Accepted && r.Known == r.Keyfile.Key && errors.Is(r.Rows.Err, rows.ErrNoTable) { // accepted for the daemon that is to make it
			return []string{"wait until the daemon has made its table, which it does when it starts, then: keyguard status; if it never does: is this the daemon's database ([database])?"}
		}
		return []string{remedyOf(r.Rows.Err)}
	},
	agent.AilsUnread: func(r agent.StatusResult, _ agent.Ailment) []string {
		if r.Broken != nil {
			return []string{seenToLedger}
		}
		return []string{"look at the ledger (keyguard report --verify), keep what is left of it elsewhere, then: keyguard backup"}
	},
	agent.AilsBroken: func(agent.StatusResult, agent.Ailment) []string { return []string{seenToLedger} },
	agent.AilsUnrecorded: func(agent.StatusResult, agent.Ailment) []string {
		return []string{"find out who took it away (what it held: journalctl -t keyguard); then, to vouch for the key that is there: keyguard accept"}
	},
	agent.AilsForgets: func(r agent.StatusResult, _ agent.Ailment) []string {
		return []string{"systemctl stop " + unit.Watcher + "; umount " + r.StateDir + "; systemctl start " + unit.Watcher}
	},
	agent.AilsUnwritable: func(r agent.StatusResult, _ agent.Ailment) []string { return []string{remedyOf(r.Unwritable)} },
	agent.AilsHanging:    func(r agent.StatusResult, _ agent.Ailment) []string { return []string{remedyOf(r.Hanging[0])} },
	agent.AilsLoose: func(r agent.StatusResult, _ agent.Ailment) []string {
		return []string{"chown root " + r.Path + "; chmod 0400 " + r.Path,
			"if that changes nothing, its file system takes no modes (findmnt --target " + r.Path + ", FAT or one of FUSE): mount it with umask=077",
			"whoever could read it may have the key; to have another one: keyguard rotate"}
	},
	agent.AilsNoEscrow: func(agent.StatusResult, agent.Ailment) []string { return []string{"keyguard init"} },
	agent.AilsNowhere:  func(r agent.StatusResult, _ agent.Ailment) []string { return mendEscrows(r) },
	agent.AilsUngiven:  func(agent.StatusResult, agent.Ailment) []string { return []string{"keyguard backup"} },
	agent.AilsForeign:  func(agent.StatusResult, agent.Ailment) []string { return []string{remedyOf(decide.ErrForeignCopy)} },
	agent.AilsAway:     func(_ agent.StatusResult, a agent.Ailment) []string { return []string{remedyOf(a.Escrow.Err)} },
	agent.AilsUnopened: func(agent.StatusResult, agent.Ailment) []string {
		return []string{"where its identity is, prove it: keyguard drill --identity FILE"}
	},
	agent.AilsLocked: func(agent.StatusResult, agent.Ailment) []string {
		return []string{"put the identity file that is named back where it was, 0600, or name another in identity_file, then: keyguard drill"}
	},
	agent.AilsRefuses:    func(_ agent.StatusResult, a agent.Ailment) []string { return []string{remedyOf(a.Escrow.Refuses)} },
	agent.AilsHere:       func(_ agent.StatusResult, a agent.Ailment) []string { return []string{a.Escrow.Move} },
	agent.AilsHeld:       func(_ agent.StatusResult, a agent.Ailment) []string { return []string{a.Escrow.Free} },
	agent.AilsMiswritten: mendTop,
	agent.AilsBarred:     mendTop,
	agent.AilsUnheld:     mendTop,
	agent.AilsLacks:      func(_ agent.StatusResult, a agent.Ailment) []string { return []string{remedyOf(a.Escrow.Lacks)} },
	agent.AilsReadable: func(_ agent.StatusResult, a agent.Ailment) []string {
		hints := []string{remedyOf(escrow.ErrExposed)}
		if where := a.Escrow.Place.Where; filepath.IsAbs(where) && !strings.ContainsFunc(where, unquoted) {
			hints = []string{"chown -R root " + where + "; chmod -R go-rwx " + where,
				"if that changes nothing, its file system takes no modes (FAT): mount it with umask=077, or seal its copies (recipients)"}
		}
		return append(hints, "whoever could read them may have the key; to have another one: keyguard rotate")
	},
	agent.AilsUntried: func(agent.StatusResult, agent.Ailment) []string {
		return []string{"while the store that is named answers: keyguard drill"}
	},
	agent.AilsFailed: func(_ agent.StatusResult, a agent.Ailment) []string {
		return []string{remedyOf(a.Escrow.Err), "when it is put right: keyguard drill"} // an escrow that answers now has no error: its line says what the drill found
	},
}

// seenToLedger is for a ledger that was edited or damaged: a person looks why, and vouches.
const seenToLedger = "see where (keyguard report --verify) and find out why; then, to vouch for the key that is there: keyguard accept"

// statusHints says what to type, the most urgent first.
func statusHints(r agent.StatusResult) (hints []string) {
	if r.Immutable != "" {
		hints = append(hints, "chattr -i "+r.Immutable+", first: nobody can change it as it is, root neither")
	}
	if r.Full != "" {
		hints = append(hints, "make room in "+r.Full+" (df, df -i), first: it is full, and no key can be put there")
	}
	for _, ailment := range r.Ailments {
		for _, hint := range mends[ailment.Ails](r, ailment) {
			if hint != "" && !slices.Contains(hints, hint) {
				hints = append(hints, hint)
			}
		}
	}
	return hints
}

// mendEscrows is what brings each escrow back that cannot answer.
func mendEscrows(r agent.StatusResult) (hints []string) {
	for _, s := range r.Escrows {
		if s.State == decide.EscrowFailed {
			hints = append(hints, remedyOf(s.Err))
		}
	}
	return hints
}

func mendDoubt(r agent.StatusResult, _ agent.Ailment) []string {
	if r.Rows.State == decide.RowsUnknown {
		return append([]string{remedyOf(r.Rows.Err)}, mendEscrows(r)...)
	}
	hints := mendEscrows(r)
	if len(hints) == 0 && r.Rows.State == decide.RowsSilent {
		hints = []string{noCopy}
	}
	return hints
}

// noCopy is for a key that was in use and of which no copy is found, where no row depends on it.
const noCopy = "if you have the key elsewhere: keyguard import; where there is to be a new one all the same: keyguard accept --new"

// mendKeyfile puts the key in place that belongs there. The watcher does it where it is
// started and nothing, or no key, stands there; and a start of the daemon, which has read
// another one.
func mendKeyfile(r agent.StatusResult, _ agent.Ailment) []string {
	switch {
	case r.Split():
		return []string{"keyguard repair"} // which puts the key in place, too
	case onAnother(r) && r.Keyfile.Good && (r.Known == r.Keyfile.Key || r.Daemon.Unasked != ""):
		// A start passes a key that was proven a short while ago, and asks no row (law 7); or it
		// does not even ask keyguard.
		return []string{"keyguard restore; then: systemctl restart " + r.Daemon.Name}
	case onAnother(r):
		return []string{"systemctl restart " + r.Daemon.Name} // and it reads that
	case !r.Keyfile.Good && r.Units && r.Watcher.Active == "inactive" && (r.Watcher.Loaded || r.Watcher.Enabled == "masked"):
		return []string{enable(unit.Watcher, r.Watcher.State)}
	}
	return []string{"keyguard restore"}
}

// mendTop brings the key to the top of an escrow's current shelf.
func mendTop(r agent.StatusResult, ailment agent.Ailment) []string {
	if s := ailment.Escrow; s.Barred != "" {
		return []string{unproven(r.Rows, s.Name)}
	}
	return []string{"keyguard backup"}
}

// unquoted tells what a shell may read otherwise than it stands there.
func unquoted(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("/._-", r)
}

// unproven is what brings a key to an escrow's current shelf that law 4 keeps from there
// since no row speaks for it.
func unproven(e decide.RowsEvidence, name string) string {
	switch e.State {
	case decide.RowsUnknown:
		return remedyOf(e.Err)
	case decide.RowsSilent:
		return fmt.Sprintf("where another host keeps its copies there, name a place of its own for this one in escrow %q of the configuration, then: keyguard init; else store a secret, which proves the key (containarium secrets set), then: keyguard backup", name)
	}
	return "see what every key opens: keyguard verify"
}

// onAnother tells whether the daemon has read something else than the key that belongs in
// the keyfile's place.
func onAnother(r agent.StatusResult) bool {
	switch d := r.Daemon; d.Is {
	case agent.DaemonNoSecrets:
		return true
	case agent.DaemonUp, agent.DaemonOtherKey:
		return d.Told != "" && d.Key != r.Decision.Key
	}
	return r.Daemon.RestartNeeded()
}

// mendDaemon says what brings the daemon to the key that is in place.
func mendDaemon(r agent.StatusResult, _ agent.Ailment) []string {
	d := r.Daemon
	switch {
	case d.Is == agent.DaemonUnknown:
		return []string{"systemctl status " + unit.Names[0]}
	case d.Is == agent.DaemonDown:
		return []string{"see why: journalctl -u " + d.Name + " -e; when it is put right: systemctl restart " + d.Name}
	case d.Told == unit.Untouched && d.Is == agent.DaemonNoSecrets && r.Rows.State == decide.RowsUnknown:
		return []string{remedyOf(r.Rows.Err), "then: systemctl restart " + d.Name}
	case d.Is == agent.DaemonNoSecrets && !mended(r):
		return []string{"see why: journalctl -u " + d.Name + "; when it is put right: systemctl restart " + d.Name}
	case d.Is == agent.DaemonOtherKey && r.Untried(): // which may be the wrong one
		return []string{remedyOf(r.Rows.Err), "a start asks the rows, then: systemctl restart " + d.Name}
	case d.RestartNeeded() && r.Decision.Action == decide.Pass:
		return []string{"systemctl restart " + d.Name}
	}
	return nil
}

// mended tells whether nothing is left of what kept a daemon from its secrets.
func mended(r agent.StatusResult) bool {
	switch r.Daemon.Told {
	case unit.Empty:
		return true
	case unit.Failed:
		return r.Keyfile.Good && r.Loose == ""
	case unit.Untouched:
		return r.Rows.State != decide.RowsUnknown
	}
	return false
}

// enable is what has systemd start one of our units, now and at every boot.
func enable(name string, s unit.State) string {
	if s.Enabled == "masked" {
		return "systemctl unmask " + name + "; systemctl enable --now " + name
	}
	return "systemctl enable --now " + name
}

func statusDocOf(r agent.StatusResult) statusDoc {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	d := statusDoc{
		Version: jsonVersion, At: timeDoc(time.Now()), Host: host, Keyguard: version, Health: r.Health, Verdict: r.Line,
		Decision: decisionDoc{r.Decision.Rule, r.Decision.Action, r.Decision.Key, r.Decision.Reason},
		Keyfile: keyfileDoc{Good: r.Keyfile.Good, Fingerprint: r.Keyfile.Key, Why: r.Keyfile.Why, Loose: r.Loose,
			Proof: proofOf(r.Rows, r.Keyfile.Key)},
		Rows: rowsDocOf(r.Rows), Kept: r.Kept, Escrows: []escrowStatusDoc{},
		Drill: drillStandingDoc{timeDoc(r.Drill.Last.Time), r.Drill.Last.Verdict, r.Drill.Last.Reason, timeDoc(r.Drill.Next.Next), r.Drill.Next.Active},
	}
	if w := r.Working; w != nil {
		d.Working = &workingDoc{w.What, timeDoc(w.Since), w.Person}
	}
	if s := r.Daemon; s.Is != agent.DaemonNotAsked {
		d.Daemon = &daemonDoc{s.Name, s.Is, timeDoc(s.Since), s.Key, s.RestartNeeded(), s.Minted, s.Unasked, errorText(s.Err)}
	}
	if r.Units {
		d.Watcher = cmp.Or(r.Watcher.Active, "unknown")
	}
	if deaf := r.Watcher.Deaf; deaf != nil {
		d.Deaf = deaf.Error()
	}
	if r.Known != "" {
		d.Known = &knownDoc{r.Known, knownBy(r), timeDoc(r.LastLook)}
	}
	for _, s := range r.Escrows {
		d.Escrows = append(d.Escrows, escrowStatusDoc{
			escrowDoc: escrowDoc{s.Name, s.Place.Kind, s.Place.Where, s.Required, s.Why}, Domain: s.Place.Domain,
			Current: s.Current, Quarantine: s.Quarantine, Newest: s.Newest.Key, NewestID: s.Newest.ID,
			Holds: s.Holds, Alarm: s.Alarm, Readable: s.Readable, Ending: s.Ending, AddOnly: s.AddOnly, Added: addedOf(s), SavedAt: timeDoc(s.SavedAt), ProvenAt: timeDoc(s.Proven.Time), Drilled: s.Drilled.Verdict,
		})
	}
	return d
}

func addedOf(s agent.EscrowStatus) key.Fingerprint {
	if s.AddOnly {
		return s.Added
	}
	return ""
}

func knownBy(r agent.StatusResult) string {
	if r.Accepted {
		return "person"
	}
	return "proof"
}

// verdict prints the answer of status.
func (a *app) verdict(r agent.StatusResult) {
	health := string(r.Health)
	a.painted(healthColour[r.Health], len(health), fold(a.out, health+": "+r.Line))
}

func (a *app) printStatusText(r agent.StatusResult) {
	a.verdict(r)
	if a.brief {
		return
	}
	if a.wordy {
		a.item("decided", fmt.Sprintf("%s by rule %s: %s", r.Decision.Action, r.Decision.Rule, r.Decision.Reason))
	}
	fmt.Fprintln(a.out)
	if r.Daemon.Is != agent.DaemonNotAsked {
		a.item("daemon", daemonLine(r.Daemon, r.Decision))
	}
	if r.Units {
		a.item("watcher", watcherLine(r))
	}
	a.item("keyfile", r.Path+":")
	keyfile := r.Keyfile.State()
	if r.Loose != "" {
		keyfile += " (" + r.Loose + ")"
	}
	a.item("", keyfile)
	switch {
	case r.Rows.State == decide.RowsAnswer && r.Keyfile.Key == "":
		a.item("rows", printable.Count(r.Rows.Dependent, "row")+" under a key that is not in place")
	case r.Rows.State == decide.RowsAnswer:
		a.item("rows", opened(r.Rows, r.Keyfile.Key))
	default:
		a.item("rows", unlessTold(r.Line, stateOf(r.Rows), r.Rows.Why))
	}
	if r.Known == "" {
		a.item("known", "no key was proven or accepted here yet")
	} else {
		a.item("known", fmt.Sprintf("key %s, by %s, last at %s", r.Known, map[bool]string{true: "a person's word", false: "proof"}[r.Accepted], when(r.LastLook)))
	}
	if r.Kept > 0 {
		a.item("kept", printable.Count(int64(r.Kept), "file")+" in the local quarantine")
	}
	drill := drillLine(r.Line, r.Drill)
	a.item("drill", drill)
	for _, s := range r.Escrows {
		fmt.Fprintln(a.out)
		state := escrowState(s, r.Keyfile.Key)
		if s.State == decide.EscrowFailed && !s.AddOnly {
			state = unlessTold(r.Line, "cannot answer", s.Why)
		}
		a.item(s.Name, state)
		for _, line := range escrowLines(s, r.Line+drill+state) {
			a.item("", line)
		}
	}
}

// unlessTold says a thing with its reason, where that does not stand in the text above it.
func unlessTold(above, what, why string) string {
	if why == "" || strings.Contains(above, why) {
		return what
	}
	return what + ": " + why
}

// healthColour is what a terminal paints a health in.
var healthColour = map[agent.Health]colour{agent.Green: green, agent.Lagging: yellow, agent.Amiss: yellow, agent.Busy: yellow, agent.Unsure: red, agent.Gone: red}

// daemonLine says how the daemon runs, and on which key as far as is known.
func daemonLine(d agent.DaemonStanding, decided decide.Decision) string {
	line := string(d.Is)
	switch d.Is {
	case agent.DaemonUnknown:
		return line + ": " + d.Err.Error()
	case agent.DaemonAbsent:
		if d.Enabled == "masked" {
			return "masked: systemd starts it for nobody (systemctl unmask " + unit.Names[0] + ")"
		}
	case agent.DaemonDown:
		return line + " (" + d.Active + ")"
	case agent.DaemonUp, agent.DaemonParked, agent.DaemonNoSecrets, agent.DaemonOtherKey, agent.DaemonUntold:
		line = "running since " + when(d.Since)
	}
	switch {
	case d.Is == agent.DaemonParked:
		line += ", parked: on an empty keyfile, without secrets"
	case d.Is == agent.DaemonNoSecrets:
		line += ", without secrets"
	case d.Key != "":
		line += ", on key " + string(d.Key)
	case d.Is == agent.DaemonUp && d.Told == "":
		line += "; it has not read its key"
	case d.Is == agent.DaemonUp:
		line += ", on which key nobody can tell"
	case d.Is == agent.DaemonUntold:
		line += ", on which key nobody can tell: " + d.Err.Error()
	}
	if d.Minted {
		line += "; it made a key of its own when it started"
	}
	switch {
	case d.RestartNeeded() && decided.Action == decide.Install && d.Key == decided.Key:
		line += ", as it should; only the keyfile differs"
	case d.RestartNeeded():
		line += "; restart needed"
	}
	return line
}

func watcherLine(r agent.StatusResult) string {
	switch w := r.Watcher; {
	case r.WatcherErr != nil:
		return "unknown: " + r.WatcherErr.Error()
	case w.Enabled == "masked":
		return "masked"
	case !w.Loaded:
		return "not installed"
	case w.Deaf != nil:
		return fmt.Sprintf("%s; notices changes only once a rescan: %v; see keyguard doctor", w.Active, w.Deaf)
	default:
		return w.Active
	}
}

// drillLine says when the last drill was and when the next one is.
func drillLine(above string, d agent.DrillStanding) string {
	line := "none was held here yet"
	if d.Last.Event != "" {
		line = fmt.Sprintf("%s at %s", d.Last.Verdict, when(d.Last.Time))
		if d.Last.Verdict != string(agent.DrillPassed) {
			line = unlessTold(above, line, d.Last.Reason)
		}
	}
	switch {
	case !d.Next.Next.IsZero():
		return line + "; next at " + when(d.Next.Next)
	case d.Err != nil:
		return line + "; the next: " + d.Err.Error()
	case d.Next.Loaded:
		return line + "; its timer is " + d.Next.Active
	}
	return line + "; no timer holds the next"
}

// escrowState is how one escrow stands to the keyfile's key, if it has one, in a few words.
func escrowState(s agent.EscrowStatus, live key.Fingerprint) string {
	switch {
	case s.AddOnly && s.Added == "":
		return "was given no key yet; this host only adds there"
	case s.AddOnly:
		return "was given key " + string(s.Added) + ": stored, unverified; this host only adds there"
	case s.State == decide.EscrowFailed:
		return "cannot answer: " + s.Why
	case s.Alarm != "":
		return s.Alarm
	case s.Newest.Locked && s.Newest.Claims(live) && !s.Holds:
		return "has a sealed copy on top, " + s.Newest.ID + ", which says that it is the key and cannot be opened here: " + s.Newest.Unreadable
	case s.Newest.Sealed && s.Newest.Claims(live) && !s.Holds:
		return "has a sealed copy on top, " + s.Newest.ID + ", which says that it is the key; no identity has opened it here"
	case s.Holds:
		return "holds the key, as " + s.Newest.ID
	case s.Newest.ID == "":
		return "holds no current copy"
	case s.Newest.Worthless, s.Newest.Withheld, s.Newest.Key == "" && s.Newest.Unreadable != "":
		return "has nothing that can be had on top, as " + s.Newest.ID + ": " + s.Newest.Unreadable
	case s.Newest.Miswritten() && s.Newest.Key == live:
		return fmt.Sprintf("has the key on top as %s, as %s", s.Newest.Encoding, s.Newest.ID)
	case live == "" && s.Newest.Key != "":
		return fmt.Sprintf("holds key %s, as %s", s.Newest.Key, s.Newest.ID)
	}
	return "holds another key, " + orNone(s.Newest.Key) + ", as " + s.Newest.ID
}

// escrowLines are what else is to be said of an escrow; above is what stands above them.
func escrowLines(s agent.EscrowStatus, above string) []string {
	lines := []string{s.Place.Where}
	if s.Place.Domain != "" {
		lines = append(lines, "lost with "+s.Place.Domain)
	}
	if s.State == decide.EscrowAnswered {
		lines = append(lines, fmt.Sprintf("%d on the current shelf, %d in quarantine", s.Current, s.Quarantine))
	}
	line := fmt.Sprintf("last saved %s, last proven by a drill %s", when(s.SavedAt), when(s.Proven.Time))
	if d := s.Drilled; d.Event != "" && d.Verdict != string(agent.DrillPassed) {
		line += "; the last drill " + unlessTold(above, map[bool]string{true: "failed", false: "could not tell"}[d.Verdict == string(agent.DrillFailed)], d.Reason)
	}
	if s.Ending != "" {
		lines = append(lines, s.Ending)
	}
	if s.Readable != "" && !strings.Contains(above, s.Readable) {
		lines = append(lines, s.Readable)
	}
	if what := cmp.Or(s.Held, s.Here); what != "" && !strings.Contains(above, what) {
		lines = append(lines, what)
	}
	if s.Beside != "" {
		lines = append(lines, "the key stands there whole, too, as "+s.Beside+": whoever reads that has it; keyguard doctor")
	}
	for _, p := range s.Untried {
		if line := p.String(); !strings.Contains(above, line) {
			lines = append(lines, line)
		}
	}
	if !s.Required {
		lines = append(lines, "not required")
	}
	return append(lines, line)
}
