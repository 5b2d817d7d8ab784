package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/printable"
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
	if _, ok := errors.AsType[usageError](err); ok { // nobody has asked for one yet
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

// unproven is what brings a key to an escrow's current shelf that law 4 keeps from there
// since no row speaks for it.
func unproven(e decide.RowsEvidence, bar decide.Bar) string {
	switch e.State {
	case decide.RowsUnknown:
		return remedyOf(e.Err)
	case decide.RowsAnswer, decide.RowsNotAsked:
		return seeKeys
	}
	if !bar.Waits.IsZero() {
		return "wait until " + when(bar.Waits) + ", by when that save has ended, then: keyguard backup"
	}
	prove := "store a secret, which proves the key (containarium secrets set), then: keyguard backup"
	if e.Never {
		prove = "name the database in the configuration, where database.url = \"none\" says that no row can prove the key, then: keyguard backup"
	}
	if bar.RivalIn == "" {
		return prove
	}
	return fmt.Sprintf("where another host keeps its copies there, name a place of its own for this one in escrow %q of the configuration, then: keyguard init; else %s", bar.RivalIn, prove)
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
	if what := cmp.Or(s.Blocked, s.Here); what != nil && !strings.Contains(above, what.Text) {
		lines = append(lines, what.Text)
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
