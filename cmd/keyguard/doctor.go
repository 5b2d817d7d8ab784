package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/unit"
	"github.com/footprintai/containarium-keyguard/cmd/keyguard/start"
)

func (a *app) doctorCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "doctor",
		Short: "what this host survives, and what would make it better",
		Long: `doctor fills in the runbook's threat table for this host: what happens if the
keyfile is deleted, the disk, the machine or the cloud project is gone, whoever
runs this host turns against it, Postgres is lost, a row is tampered with. Each
verdict comes with its evidence and with the command that would improve it. It
also checks permissions, clock, units, hooks, what the watcher's sandbox lets it
reach and what this host may do in each store. It changes nothing.

Exit status: 0 nothing to do; 12 a threat is not survived, a check found a
problem or an escrow lags; 10 lost; 11 doubt.`,
		Example: `  keyguard doctor --json | jq -r '.threats[].improve // empty'`,
		RunE: a.operate(func(ctx context.Context, h *agent.Host, cfg *config.Config) error {
			a.sayWaiting("asking the rows%s and systemd …", andEscrows(", ", h))
			r, err := agent.Doctor(ctx, h, a.doctorOptions(cfg))
			if err != nil {
				return err
			}
			return a.printDoctor(r)
		}),
	}
	a.jsonFlag(c)
	return c
}

// doctorOptions names what the doctor looks at besides what every operation works on.
func (a *app) doctorOptions(cfg *config.Config) agent.DoctorOptions {
	o := agent.DoctorOptions{
		RunDir: cfg.RunDir, HooksDir: cfg.Notify.HooksDir, HooksEnded: filepath.Join(cfg.RunDir, hooksEnded), Project: a.project, OnGoogle: kinds.OnGoogle,
		Files: []agent.ModeWanted{
			{Path: filepath.Dir(a.configPath()), Mode: 0o755}, {Path: a.configPath(), Mode: 0o644}, // no secret stands in it
			{Path: cfg.StateDir, Mode: 0o700}, {Path: cfg.RunDir, Mode: 0o700},
			{Path: filepath.Join(cfg.StateDir, ledger.Name), Mode: 0o600},
			{Path: start.QuarantineDir(cfg), Mode: 0o700},
			{Path: filepath.Dir(cfg.Keyfile), Mode: 0o755},
			{Path: cfg.Database.URLFile, Mode: 0o600, Table: "database", Key: "url_file"},
		},
		Writes: []string{cfg.StateDir, cfg.RunDir, filepath.Dir(cfg.Keyfile)},
	}
	if cfg.Notify.MetricsFile != "" {
		o.Writes = append(o.Writes, filepath.Dir(cfg.Notify.MetricsFile))
	}
	for _, e := range cfg.Escrows {
		o.Files = append(o.Files,
			agent.ModeWanted{Path: e.IdentityFile, Mode: 0o600, Table: e.Name, Key: "identity_file"},
			agent.ModeWanted{Path: e.CredentialsFile, Mode: 0o600, Table: e.Name, Key: "credentials_file"},
			agent.ModeWanted{Path: e.TokenFile, Mode: 0o600, Table: e.Name, Key: "token_file"},
			agent.ModeWanted{Path: e.RoleIDFile, Mode: 0o600, Table: e.Name, Key: "role_id_file"},
			agent.ModeWanted{Path: e.SecretIDFile, Mode: 0o600, Table: e.Name, Key: "secret_id_file"},
			agent.ModeWanted{Path: e.EnvironmentFile, Mode: 0o600, Table: e.Name, Key: "environment_file"},
			agent.ModeWanted{Path: e.CAFile, Mode: 0o644, Table: e.Name, Key: "ca_file"}) // no secret stands in it
	}
	o.ClearText = func(ctx context.Context) string {
		place, err := rows.Locate(ctx, locateOptions(ctx, cfg, wiring{}))
		if err != nil {
			return "" // the check of Postgres says so
		}
		return place.ClearText()
	}
	if cfg.Daemon.Unit != "" {
		o.Systemd = func(ctx context.Context) (unit.Examination, error) {
			return unit.Examine(ctx, daemonUnits(cfg)...)
		}
	}
	return o
}

// project asks for the Google Cloud project of this host, once: where nobody answers,
// that takes a second.
func (a *app) project(ctx context.Context) (string, error) {
	if a.metadata == nil {
		id, err := kinds.MetadataProject(ctx)
		a.metadata = &metadata{id, err}
	}
	return a.metadata.project, a.metadata.err
}

type doctorDoc struct {
	Version  int          `json:"version"`
	Host     string       `json:"host"`
	Keyguard string       `json:"keyguard"`
	Sound    bool         `json:"sound"`
	Health   agent.Health `json:"health"` // as status has it
	Verdict  string       `json:"verdict"`
	Threats  []threatDoc  `json:"threats"`
	Checks   []checkDoc   `json:"checks"`
}

type threatDoc struct {
	Threat   agent.Threat   `json:"threat"`
	Verdict  agent.Survival `json:"verdict"`
	Evidence []string       `json:"evidence"`
	Improve  string         `json:"improve,omitempty"`
}

type checkDoc struct {
	Check   string           `json:"check"`
	State   agent.CheckState `json:"state"`
	Text    string           `json:"text"`
	Improve string           `json:"improve,omitempty"`
}

func doctorDocOf(r agent.DoctorResult) doctorDoc {
	d := doctorDoc{Version: jsonVersion, Host: start.Hostname(), Keyguard: version, Sound: r.Sound(), Health: r.Status.Health, Verdict: r.Status.Line}
	for _, t := range r.Threats {
		d.Threats = append(d.Threats, threatDoc{t.Threat, t.Verdict, append([]string{}, t.Evidence...), improvements[t.Lacks]})
	}
	for _, c := range r.Checks {
		d.Checks = append(d.Checks, checkDoc{c.Name, c.State, c.Text, checkRemedy(r, c)})
	}
	return d
}

func (a *app) printDoctor(r agent.DoctorResult) error {
	a.explainTrouble(r.Status.Trouble)
	end := doctorOutcome(r)
	if a.json {
		if err := a.printJSON(doctorDocOf(r)); err != nil {
			return err
		}
		return end
	}
	say := func() { a.answer(doctorAnswer(r)) }
	say()
	fmt.Fprintln(a.out)
	a.printThreats(r.Threats)
	fmt.Fprintln(a.out)
	a.printChecks(r, r.Checks)
	if end == nil && a.scrolledOff() {
		say()
	}
	return end
}

// doctorAnswer is what the doctor comes to, and in which colour.
func doctorAnswer(r agent.DoctorResult) (colour, string) {
	not, unsure, problems := 0, 0, 0
	for _, t := range r.Threats {
		switch t.Verdict {
		case agent.SurvivesNot:
			not++
		case agent.SurvivalUnsure:
			unsure++
		}
	}
	for _, c := range r.Checks {
		if c.State == agent.CheckProblem {
			problems++
		}
	}
	all := printable.Count(int64(len(r.Threats)), "threat")
	switch h := r.Status.Health; {
	case h == agent.Unsure, h == agent.Gone, r.Sound() && h != agent.Green:
		return healthColour[h], r.Status.Line
	case !r.Sound():
		return yellow, fmt.Sprintf("%d of %s are not survived, %s found a problem", not, all, printable.Count(int64(problems), "check"))
	case unsure > 0:
		return green, fmt.Sprintf("sound: nothing is to be done; of %d of %s nobody can tell whether they are survived", unsure, all)
	}
	return green, "sound: nothing is to be done; all " + all + " are survived"
}

func doctorOutcome(r agent.DoctorResult) error {
	_, text := doctorAnswer(r)
	code, hints := exitEscrow, statusHints(r.Status)
	switch h := r.Status.Health; {
	case h == agent.Unsure, h == agent.Gone:
		code = healthCode[h]
	case !r.Sound():
		hints = worst(r)
	case h == agent.Green:
		return nil
	}
	return outcome{code, "doctor: " + text, hints}
}

// worst is what to type for the first thing that is wrong now, and for the first threat that
// is not survived: the rest stands in the table.
func worst(r agent.DoctorResult) (hints []string) {
	if i := slices.IndexFunc(r.Checks, func(c agent.Check) bool { return c.State == agent.CheckProblem }); i >= 0 {
		hints = append(hints, checkRemedy(r, r.Checks[i]))
	}
	if i := slices.IndexFunc(r.Threats, func(t agent.ThreatVerdict) bool { return t.Verdict == agent.SurvivesNot }); i >= 0 {
		hints = append(hints, improvements[r.Threats[i].Lacks])
	}
	return hints
}

var (
	survivalColour = map[agent.Survival]colour{agent.Survives: green, agent.SurvivesNot: red, agent.SurvivalUnsure: yellow}
	checkColour    = map[agent.CheckState]colour{agent.CheckOK: green, agent.CheckProblem: red, agent.CheckUnknown: yellow}
)

// printThreats prints the table: the verdict, what it is about, and below that the
// evidence and what to type.
func (a *app) printThreats(threats []agent.ThreatVerdict) {
	for _, t := range threats {
		a.finding(survivalColour[t.Verdict], string(t.Verdict), string(t.Threat), t.Evidence, improvements[t.Lacks])
	}
}

func (a *app) printChecks(r agent.DoctorResult, checks []agent.Check) {
	for _, c := range checks {
		a.finding(checkColour[c.State], string(c.State), c.Name+": "+c.Text, nil, checkRemedy(r, c))
	}
}

func (a *app) finding(c colour, word, about string, evidence []string, improve string) {
	a.painted(c, len(word), hang(a.out, fmt.Sprintf("%-10s", word), 10, about))
	for _, e := range evidence {
		a.item("", e)
	}
	if improve = notAgain(improve, a.running); improve != "" {
		fmt.Fprint(a.out, hang(a.out, fmt.Sprintf("%10s→ ", ""), 12, improve))
	}
}
