package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

func (a *app) initCommand() *cobra.Command {
	var added []string
	c := &cobra.Command{
		Use:   "init",
		Short: "make what every escrow needs, and save the key there",
		Long: `init is the first thing to run, and may be run again at any time. It asks where
copies of the key shall be kept, as often as you like, and tries each place
before it writes it into the configuration, which it makes if there is none. It
writes this host's name where {hostname} stands, makes the place that every
escrow needs, saves the present key there, reads it back, drills, and prints the
table of keyguard doctor: what this host survives by now, and what would make it
better. Where copies stand that this host did not save, it says so and asks.

What this host has is offered: the project from Google's metadata server;
VAULT_ADDR, VAULT_NAMESPACE, VAULT_CACERT, and the token in VAULT_TOKEN or
~/.vault-token, all of which sudo -E keeps; what is mounted below /mnt, /media
and /run/media.

--escrow adds an escrow without asking: its settings, name=value, with commas
between them; in a list, spaces. keyguard.toml(5) has them all. It may be given
several times; an escrow that cannot be used is not written.

Exit status: 0 done; 2 not confirmed; 12 an escrow or the drill failed; 14 the
key is kept in quarantine, to protect the last good copy.`,
		Example: `  keyguard init
  keyguard init --yes
  keyguard init --yes --escrow name=usb,kind=directory,path=/mnt/keys`,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), patience)
			defer cancel()
			return a.init(ctx, added)
		},
	}
	c.Flags().StringArrayVar(&added, "escrow", nil, "add an escrow of these `settings` to the configuration: name=usb,kind=directory,path=/mnt/keys")
	c.Flags().BoolVar(&a.yes, "yes", false, "take every default")
	a.jsonFlag(c)
	return c
}

func (a *app) init(ctx context.Context, added []string) error {
	cfg, err := a.draft()
	if err != nil {
		return err
	}
	c := choices{tokens: map[string]string{}}
	flagged, err := a.escrowFlags(added)
	if err != nil {
		return err
	}
	if err := a.checkHostname(append(cfg.Escrows, flagged...)); err != nil {
		return err
	}
	unusable, err := a.addFlagged(ctx, &c, flagged, added)
	if err != nil {
		return err
	}
	c.untold = len(c.escrows)
	if len(added) == 0 && !a.yes && a.onTerminal() {
		if err := a.askEscrows(ctx, cfg, &c); err != nil {
			return err
		}
	}
	unknown, err := a.summary(ctx, cfg, c)
	if err != nil {
		return err
	}
	question := "Make what they need, and save the key there?"
	switch {
	case len(cfg.Escrows)+len(c.escrows) == 0:
		question = "Go on without a backup?"
	case unknown:
		question = "Are the copies that this host does not know its own, or shall it keep the key beside them?"
	}
	ok, err := a.confirm(ctx, question)
	if err != nil {
		return err
	}
	if !ok {
		return notConfirmed
	}
	if err := a.write(c); err != nil {
		return err
	}
	if err := a.expandHostname(); err != nil {
		return err
	}
	h, cfg, err := a.open()
	if err != nil {
		return err
	}
	a.findDatabase(ctx, cfg)
	a.forgetBackoff(cfg)
	a.sayWaiting("making escrows …")
	r, err := agent.Init(ctx, h)
	if err != nil {
		return err
	}
	if cfg.Daemon.Unit != "" {
		if err := unit.Reload(ctx, watchUnit); err != nil {
			a.urgent("the watcher does not know the configuration yet: %v", err)
			a.hint("systemctl reload " + watchUnit)
		}
	}
	err = a.printInit(ctx, r, h, cfg)
	if err == nil && unusable > 0 {
		return outcome{exitEscrow, fmt.Sprintf("%d of %s cannot be used, and were not written", unusable, printable.Count(int64(len(flagged)), "escrow")), nil}
	}
	return err
}

// addFlagged chooses the escrows of --escrow that can be used, and counts the others.
func (a *app) addFlagged(ctx context.Context, c *choices, flagged []config.Escrow, added []string) (unusable int, err error) {
	for i, e := range flagged {
		seen, err := a.try(ctx, flagged, e.Name, "")
		if err != nil {
			unusable++
			a.urgent("--escrow %s: cannot be used, and is not written: %v", added[i], err)
			a.remedy(err)
			continue
		}
		c.add(e, seen)
	}
	if unusable == 0 {
		return 0, nil
	}
	lone, err := a.wrongAdded(c.escrows) // a part whose split is away is nothing
	if err != nil {
		return unusable, err
	}
	for i, l := range slices.Backward(lone) {
		if l != nil {
			unusable++
			a.urgent("escrow %q is not written either: %s", c.escrows[i].Name, l.Settings())
			c.escrows, c.found = slices.Delete(c.escrows, i, i+1), slices.Delete(c.found, i, i+1)
		}
	}
	return unusable, nil
}

// try makes the place of an escrow that the configuration does not name yet, one of all that
// are added, and says what stands there. token is one that its file does not hold yet.
func (a *app) try(ctx context.Context, all []config.Escrow, name, token string) (found, error) {
	host, err := os.Hostname()
	if err != nil {
		return found{}, fmt.Errorf("cannot find this host's name: %w", err)
	}
	data, err := a.withEscrows(all)
	if err != nil {
		return found{}, err
	}
	cfg, err := config.ParseHere(config.ExpandHostname(data, host), a.configPath(), nil)
	if err != nil {
		return found{}, configError{err}
	}
	e := &cfg.Escrows[slices.IndexFunc(cfg.Escrows, func(e config.Escrow) bool { return e.Name == name })]
	if e.Wrong != nil {
		return found{}, errors.New(e.Wrong.Settings())
	}
	if of := cfg.SplitOf(name); of != "" {
		return found{where: "as a part of " + of}, nil // it is tried with the others
	}
	if token != "" {
		// run_dir is in memory: a token that nobody has agreed to keep is on no disk.
		if err := os.MkdirAll(cfg.RunDir, 0o700); err != nil {
			return found{}, err
		}
		e.TokenFile = filepath.Join(cfg.RunDir, "token.try")
		if err := errors.Join(os.RemoveAll(e.TokenFile), config.WriteSecret(e.TokenFile, []byte(token+"\n"))); err != nil {
			return found{}, err
		}
		defer os.Remove(e.TokenFile) //nolint:errcheck // the next try removes it first
	}
	a.sayWaiting("trying escrow %q …", name)
	h, err := a.host(cfg, wiring{})
	if err != nil {
		return found{}, err
	}
	place := h.Escrows[slices.IndexFunc(h.Escrows, func(e agent.Escrow) bool { return e.Name() == name })]
	r, err := agent.TryPlace(ctx, h, place)
	return found{place.Place().Where, r}, err
}

// summary shows what there will be, before anything is written, and tells whether copies
// stand there already that this host did not save, of which nobody has been asked yet:
// another host may keep its own there.
func (a *app) summary(ctx context.Context, cfg *config.Config, c choices) (unknown bool, err error) {
	if len(cfg.Escrows) > 0 {
		a.sayWaiting("looking at what the escrows hold …")
	}
	h, err := a.host(cfg, wiring{})
	if err != nil {
		return false, err
	}
	stands := make([]found, len(h.Escrows))
	crew.Each(len(h.Escrows), func(i int) {
		// What cannot be listed is not there yet, or is told when it is to be made.
		stands[i].TryPlaceResult, _ = agent.LookAtPlace(ctx, h, h.Escrows[i])
	})
	for _, e := range cfg.Escrows {
		holds := ""
		if i := slices.IndexFunc(h.Escrows, func(o agent.Escrow) bool { return o.Name() == e.Name }); i >= 0 && len(stands[i].Copies) > 0 {
			holds = ": " + stands[i].copies()
		}
		a.say("escrow %q: %s, as %s has it%s", e.Name, e.Kind, a.configPath(), holds)
	}
	for i, e := range c.escrows {
		a.say("escrow %q: %s at %s, new: %s", e.Name, e.Kind, c.found[i].where, c.found[i].copies())
	}
	return slices.ContainsFunc(append(stands, c.found[:c.untold]...), func(f found) bool { return f.Unknown > 0 }), nil
}

// watchUnit is our own service.
const watchUnit = "containarium-keyguard.service"

// checkHostname refuses a name that says nothing of this host where places are called
// after it: two hosts of one name would take each other's keys for their own.
func (a *app) checkHostname(escrows []config.Escrow) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("cannot find this host's name: %w", err)
	}
	after := slices.ContainsFunc(escrows, func(e config.Escrow) bool {
		text := config.Append(nil, "", e)
		return e.Preset != "" && e.Path == "" || !bytes.Equal(config.ExpandHostname(text, host), text)
	})
	if !after || !config.NamesNobody(host) {
		return nil
	}
	return outcome{exitUsage, fmt.Sprintf("this host is called %q, as many are, and a place for its copies would be called after it: nothing was written", host),
		[]string{"give it a name of its own (hostnamectl set-hostname NAME), or write one in the place of {hostname} into " + a.configPath() + "; then: keyguard init"}}
}

// findDatabase records where a running daemon has its database.
func (a *app) findDatabase(ctx context.Context, cfg *config.Config) {
	if cfg.Daemon.Unit == "" || cfg.Database.URL != "" || cfg.Database.URLFile != "" {
		return
	}
	o := daemonSettings(ctx, cfg)
	if err := errors.Join(recordDatabase(cfg, o), o.Unread); err != nil {
		a.urgent("where the daemon has its database is recorded at its next start: %v", err)
	}
}

type placeDoc struct {
	escrowDoc
	Made bool `json:"made"`
}

type initDoc struct {
	Version int        `json:"version"`
	Places  []placeDoc `json:"escrows"`
	Backup  *backupDoc `json:"backup,omitempty"`
	Drill   *drillDoc  `json:"drill,omitempty"`
	Doctor  *doctorDoc `json:"doctor,omitempty"`
}

// initDrill restores what was just saved. That nothing could be proven is no fault of a
// host without rows.
func (a *app) initDrill(ctx context.Context, h *agent.Host, cfg *config.Config, d *initDoc) (judged, err error) {
	r, deliver, err := a.runDrill(ctx, h, cfg, agent.DrillOptions{})
	if errors.Is(err, agent.ErrBusy) || errors.Is(err, agent.ErrNotDrilled) {
		a.urgent("no drill now: %v", err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer deliver()
	a.explainTrouble(r.Trouble)
	doc := drillDocOf(r)
	d.Drill = &doc
	if !a.json {
		fmt.Fprintln(a.out)
		a.printDrillText(r)
	}
	if r.Verdict == agent.DrillFailed {
		judged = outcome{exitEscrow, "drill failed: " + r.Reason, drillHints(r)}
	}
	return judged, nil
}

// initDoctor shows what this host survives by now, and which checks ask for something.
// Both are advice: init has done what it was told to.
func (a *app) initDoctor(ctx context.Context, h *agent.Host, cfg *config.Config, d *initDoc) agent.StatusResult {
	a.sayWaiting("looking at what this host survives …")
	r, err := agent.Doctor(ctx, h, a.doctorOptions(cfg))
	if err != nil {
		a.urgent("cannot tell what this host survives: %v", err)
		a.remedy(err)
		return r.Status
	}
	doc := doctorDocOf(r)
	d.Doctor = &doc
	if a.json {
		return r.Status
	}
	fmt.Fprintln(a.out, "\nwhat this host survives:")
	a.printThreats(r.Threats)
	asking := slices.DeleteFunc(r.Checks, func(c agent.Check) bool { return c.State == agent.CheckOK })
	if len(asking) > 0 {
		fmt.Fprintln(a.out)
		a.printChecks(r, asking)
	}
	return r.Status
}

// sayKeyless says what becomes of a host without a key.
func (a *app) sayKeyless(keyfile string, found agent.StatusResult) {
	switch found.Decision.Action {
	case decide.Lost, decide.Doubt:
		a.urgent("there is no key in %s, and the daemon's next start finds none: %s", keyfile, found.Line)
		a.hint("keyguard status")
	default:
		if !a.json {
			a.line("there is no key in %s: the daemon's next start puts back the one that its rows are under, and makes one where there is none", keyfile)
		}
	}
}

func (a *app) printInit(ctx context.Context, r agent.InitResult, h *agent.Host, cfg *config.Config) error {
	failed := 0
	d := initDoc{Version: jsonVersion, Places: []placeDoc{}}
	for _, p := range r.Places {
		d.Places = append(d.Places, placeDoc{escrowDoc{p.Escrow, p.Place.Kind, p.Place.Where, p.Required, errorText(p.Err)}, p.Err == nil})
		if p.Err != nil {
			failed++
			a.urgent("escrow %q: %v", p.Escrow, p.Err)
			a.remedy(p.Err)
		} else if !a.json {
			a.line("%s: %s is there", p.Escrow, p.Place.Where)
		}
	}
	var judged error
	if r.Backup != nil {
		b := backupDocOf(*r.Backup)
		d.Backup = &b
		if !a.json {
			a.printBackupText(*r.Backup)
		}
		a.explainTrouble(r.Backup.Trouble)
		judged = a.judgeSaves(r.Backup.Key, r.Backup.Rows, r.Backup.Escrows)
		drilled, err := a.initDrill(ctx, h, cfg, &d)
		if err != nil {
			return err
		}
		if judged == nil {
			judged = drilled
		}
	}
	if len(cfg.Escrows) == 0 {
		a.urgent("no escrow is configured: there is no copy off this host, and that is no backup")
		a.hint("keyguard init --escrow name=usb,kind=directory,path=/mnt/keys, or add an [[escrow]] to " + a.configPath())
	}
	found := a.initDoctor(ctx, h, cfg, &d)
	if r.Backup == nil && len(cfg.Escrows) > 0 {
		a.sayKeyless(cfg.Keyfile, found)
	}
	if a.json {
		if err := a.printJSON(d); err != nil {
			return err
		}
	}
	if judged == nil && failed > 0 {
		return outcome{exitEscrow, fmt.Sprintf("%d of %s could not be made", failed, printable.Count(int64(len(r.Places)), "escrow")), nil}
	}
	return judged
}
