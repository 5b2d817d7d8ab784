package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/unit"
	"github.com/footprintai/containarium-keyguard/cmd/keyguard/outside"
	"github.com/footprintai/containarium-keyguard/cmd/keyguard/start"
	"github.com/footprintai/containarium-keyguard/hooks"
)

// hooksEnded, in the runtime directory, says how the hooks ended that were called last.
const hooksEnded = "hooks.json"

func (a *app) configPath() string { return start.ConfigPath(a.configFile) }

// load reads the configuration.
func (a *app) load() (*config.Config, error) { return a.configuration(config.Load) }

// configuration reads it in one way or another. Where it does not lie on a disk of this machine
// it may hang whoever reads it, and this process is to end all the same; a start's worker is
// left behind as it is.
func (a *app) configuration(read func(string) (*config.Config, error)) (*config.Config, error) {
	path := a.configPath()
	if a.outside == nil && !onDisk(path) {
		if err := config.Reach(context.Background(), path); err != nil {
			return nil, configError{err}
		}
	}
	cfg, err := read(path)
	if err != nil {
		return nil, configError{err}
	}
	return cfg, nil
}

// onDisk tells whether a file lies on a disk of this machine, which does not hang. It reads
// nothing where one may.
func onDisk(path string) bool {
	path, err := filepath.Abs(path)
	if err != nil {
		return false
	}
	mounts, err := outside.ReadMounts()
	return err == nil && mounts.Local(path)
}

// wiring says who asks: prestart has the daemon's environment, a person has not.
type wiring struct {
	prestart bool
}

// open reads the configuration and wires the host for a person's command.
func (a *app) open() (*agent.Host, *config.Config, error) {
	cfg, err := a.load()
	if err != nil {
		return nil, nil, err
	}
	for i, file := range a.identities {
		// A directory escrow is read by a child, whose working directory is another.
		if a.identities[i], err = filepath.Abs(file); err == nil {
			err = kinds.CheckIdentities(file)
		}
		if err != nil {
			return nil, nil, usageError{err}
		}
	}
	h, err := a.host(cfg, wiring{})
	if !slices.Contains(tellEscrows, a.running) {
		a.tellWrong()
	}
	return h, cfg, err
}

// identityFlag gives a command its --identity.
func (a *app) identityFlag(c *cobra.Command) {
	c.Flags().StringArrayVar(&a.identities, "identity", nil, "open sealed copies with the age identities, or the SSH key, in this `file`")
}

// host is the only place that turns configuration into concrete things. It touches
// nothing outside the process. An escrow whose configuration is wrong cannot answer, and
// a.wrong says why.
func (a *app) host(cfg *config.Config, w wiring) (*agent.Host, error) {
	h := start.Host(cfg, version)
	h.OpenRows = func(ctx context.Context, o rows.Options) (agent.Rows, error) {
		where := locateOptions(ctx, cfg, w)
		if w.prestart {
			// It has recorded what it was given, and told where it could not; now there is
			// systemd's word besides.
			_ = rows.SaveRecord(where.Record, where)
		}
		return openRows(ctx, cfg, where, o)
	}
	if cfg.Daemon.Unit != "" {
		names := daemonUnits(cfg)
		if !w.prestart { // the daemon that is about to start has told nothing yet
			h.Daemon.State = func(ctx context.Context) (unit.DaemonState, error) { return unit.ReadDaemon(ctx, names...) }
		}
		h.NextDrill, h.Watcher = unit.NextDrill, unit.ReadWatcher
		h.Daemon.Running = func(ctx context.Context) ([]string, error) { return unit.Running(ctx, names...) }
		h.Daemon.Stop = func(ctx context.Context) error { return unit.Stop(ctx, names...) }
		h.Daemon.Start = func(ctx context.Context, units []string) error { return unit.Start(ctx, units...) }
	}
	a.wrong = nil
	for _, e := range cfg.Escrows {
		if cfg.SplitOf(e.Name) != "" {
			continue // a part is nothing by itself
		}
		place := a.place(cfg, e)
		one := agent.Escrow{Reader: place, Writer: place, Required: e.Required, Sealed: sealed(cfg, e)}
		if !e.Readable && e.Wrong == nil {
			one.Reader, one.AddOnly = escrow.NewUnread(place), true
		}
		h.Escrows = append(h.Escrows, one)
	}
	return h, nil
}

// sealed tells whether what is saved in an escrow, or in a part of it, is encrypted.
func sealed(cfg *config.Config, e config.Escrow) bool {
	return len(e.Sealed()) > 0 || slices.ContainsFunc(cfg.Escrows, func(m config.Escrow) bool {
		return slices.Contains(e.Members, m.Name) && len(m.Sealed()) > 0
	})
}

// place makes one escrow, or one that cannot answer of a configuration that is wrong.
func (a *app) place(cfg *config.Config, e config.Escrow) escrow.Escrow {
	open := func() (escrow.Escrow, error) { return a.openEscrow(cfg, e) }
	if e.Kind == config.Split && e.Wrong == nil {
		open = func() (escrow.Escrow, error) { return a.openSplit(cfg, e) }
	}
	place, err := open()
	if err != nil {
		a.wrong = append(a.wrong, fmt.Errorf("escrow %q cannot be used: %w", e.Name, err))
		return escrow.NewMisconfigured(e.Name, e.Kind, err)
	}
	return place
}

// openSplit makes a split of its members.
func (a *app) openSplit(cfg *config.Config, e config.Escrow) (escrow.Escrow, error) {
	o := kinds.SplitOptions{Name: e.Name, Need: e.Need}
	for _, m := range cfg.Escrows {
		if slices.Contains(e.Members, m.Name) {
			m.Need = e.Need
			o.Members = append(o.Members, escrow.Member{Escrow: a.place(cfg, m), Number: m.Part, Required: m.Required})
		}
	}
	s, err := kinds.NewSplit(o)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// tellEscrows are the commands that say of each escrow why it cannot answer.
var tellEscrows = []string{"keyguard status", "keyguard verify", "keyguard copies", "keyguard doctor", "keyguard backup"}

// tellWrong says which escrows cannot be used. All else goes on without them.
func (a *app) tellWrong() {
	for _, err := range a.wrong {
		a.urgent("%v", err)
	}
	if len(a.wrong) > 0 {
		a.hint("correct " + a.configPath() + " and check it: keyguard config")
	}
}

// otherDatabase opens a database that a person named: by a URL, or by a file that holds
// one.
func otherDatabase(name string, cfg *config.Config) (func(context.Context, rows.Options) (agent.Rows, error), error) {
	where := rows.LocateOptions{URLFile: name}
	if strings.ContainsAny(name, ":=") {
		if config.BadDatabaseURL(name) != "" {
			return nil, outcome{exitUsage, "this is no postgres:// URL without a password; one that was typed stands in the list of processes and in the shell's history now", []string{
				"put the URL into a file, chmod 0600, and give its name; or the password alone into the file that PGPASSFILE names"}}
		}
		where = rows.LocateOptions{URL: name}
	} else if _, err := rows.Locate(context.Background(), where); err != nil { // asks nobody
		return nil, outcome{exitUsage, err.Error(), []string{"name a file that holds a postgres:// URL and is closed to others: chown root, chmod 0600"}}
	}
	return func(ctx context.Context, o rows.Options) (agent.Rows, error) { return openRows(ctx, cfg, where, o) }, nil
}

func openRows(ctx context.Context, cfg *config.Config, where rows.LocateOptions, o rows.Options) (agent.Rows, error) {
	o.ConnectTimeout = cfg.Database.ConnectTimeout
	place, err := rows.Locate(ctx, where)
	if err != nil {
		return nil, err
	}
	return rows.Open(place, o)
}

// openEscrow makes one escrow of its configuration. What is sealed there opens with its
// own identity and with those that a person brought.
func (a *app) openEscrow(cfg *config.Config, e config.Escrow) (escrow.Escrow, error) {
	if e.Wrong != nil {
		return nil, errors.New(e.Wrong.Brief())
	}
	identities := a.identities
	if e.IdentityFile != "" {
		identities = append([]string{e.IdentityFile}, identities...)
	}
	switch e.Kind {
	case config.GCPSecretManager:
		return kinds.NewGCP(gcpOptions(e, identities))
	case config.VaultKV:
		return kinds.NewVault(vaultOptions(e, identities))
	case config.AWS:
		return kinds.NewAWS(awsOptions(e, identities))
	case config.Directory:
		if a.outside != nil { // where a directory hangs, whoever waits outside leaves this process
			return kinds.NewInProcess(directoryOptions(cfg, e, identities), 0)
		}
		self, err := os.Executable()
		if err != nil {
			self = "/proc/self/exe" // /proc could not be read when this process began, and may be by the time of a call
		}
		return kinds.NewIsolated(self, []string{serveDirectory}, directoryOptions(cfg, e, identities), 0)
	}
	return kinds.NewCommand(commandOptions(cfg, e, identities))
}

func partOf(e config.Escrow) escrow.PartOf {
	if e.Part == 0 {
		return escrow.PartOf{}
	}
	return escrow.PartOf{Need: e.Need, Number: e.Part}
}

func gcpOptions(e config.Escrow, identities []string) kinds.GCPOptions {
	return kinds.GCPOptions{
		Name: e.Name, Project: e.Project, Secret: e.Secret, Location: e.Location, Replicas: e.Replicas,
		CredentialsFile: e.CredentialsFile, Endpoint: e.Endpoint, Plaintext: e.Plaintext,
		SealTo: e.Sealed(), IdentityFiles: identities, Part: partOf(e),
	}
}

func vaultOptions(e config.Escrow, identities []string) kinds.VaultOptions {
	return kinds.VaultOptions{
		Name: e.Name, Address: e.Address, Mount: e.Mount, Path: e.Path, Namespace: e.Namespace, CAFile: e.CAFile,
		TokenFile: e.TokenFile, RoleIDFile: e.RoleIDFile, SecretIDFile: e.SecretIDFile,
		SealTo: e.Sealed(), IdentityFiles: identities, Part: partOf(e),
	}
}

func awsOptions(e config.Escrow, identities []string) kinds.AWSOptions {
	return kinds.AWSOptions{
		Name: e.Name, Region: e.Region, Secret: e.Secret, Endpoint: e.Endpoint, Plaintext: e.Plaintext,
		Credentials: kinds.AWSCredentials{Kind: e.Credentials, File: e.CredentialsFile, Profile: e.Profile,
			Role: e.Role, TokenFile: e.TokenFile, Process: e.Process},
		SealTo: e.Sealed(), IdentityFiles: identities, Part: partOf(e),
	}
}

func directoryOptions(cfg *config.Config, e config.Escrow, identities []string) kinds.DirectoryOptions {
	return kinds.DirectoryOptions{
		Name: e.Name, Path: e.Path, Recipients: e.Sealed(), IdentityFiles: identities,
		Keyfile: cfg.Keyfile, AllowSameDisk: e.AllowSameDisk, Part: partOf(e),
	}
}

func commandOptions(cfg *config.Config, e config.Escrow, identities []string) kinds.CommandOptions {
	return kinds.CommandOptions{
		Name: e.Name, Preset: e.Preset, Path: commandPath(e), Save: e.Save, List: e.List, Fetch: e.Fetch,
		EnvironmentFile: e.EnvironmentFile, Keyfile: cfg.Keyfile, AllowSameDisk: e.AllowSameDisk, SealTo: e.Sealed(), IdentityFiles: identities, Part: partOf(e),
	}
}

// commandPath is what the entries of a password manager are called where the
// configuration does not say: a host that is renamed finds no place there (law 6).
func commandPath(e config.Escrow) string {
	if e.Path == "" && e.Preset != "" {
		return "containarium-" + start.Hostname()
	}
	return e.Path
}

// locateOptions gathers what says where the database is: keyguard's own setting, else
// what the daemon has. Only where that may matter is systemd asked.
func locateOptions(ctx context.Context, cfg *config.Config, w wiring) rows.LocateOptions {
	o := rows.LocateOptions{URL: cfg.Database.URL, URLFile: cfg.Database.URLFile,
		Record: start.DatabaseRecord(cfg)}
	if o.URL != "" || o.URLFile != "" {
		return o
	}
	known := daemonSettings(ctx, cfg)
	o.PostgresFlag, o.Unread = known.PostgresFlag, known.Unread
	if o.Environ, o.Inherited = known.Environ, known.Inherited; w.prestart {
		o.Environ, o.Inherited = os.Environ(), true
	}
	return o
}

// errNoUnit says that the configuration names no unit of the daemon.
var errNoUnit = errors.New("no unit of the daemon is configured")

// daemonSettings is what systemd knows of the daemon. Where that is not all, it says why:
// a unit that was not read is none that names no database.
func daemonSettings(ctx context.Context, cfg *config.Config) rows.LocateOptions {
	if cfg.Daemon.Unit == "" {
		return rows.LocateOptions{Unread: errNoUnit}
	}
	// systemd answers in milliseconds or, in a container without it, not at all.
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	facts, err := unit.Read(ctx, daemonUnits(cfg)...)
	if err != nil {
		return rows.LocateOptions{Unread: err}
	}
	o := rows.LocateOptions{PostgresFlag: facts.PostgresFlag, Inherited: facts.Inherited, Unread: facts.Unread,
		Environ: make([]string, 0, len(facts.Environ))}
	for name, value := range facts.Environ {
		o.Environ = append(o.Environ, name+"="+value)
	}
	return o
}

// teller is how people hear of events. print shows them to whoever reads what this
// program prints; nil leaves that to the caller. What prestart prints belongs to the
// daemon's unit, and so it prints what it records.
func (a *app) teller(h *agent.Host, cfg *config.Config, w wiring, print func(hooks.Event)) *hooks.Teller {
	o := hooks.TellerOptions{
		Print: print, RecordOnly: !w.prestart && unit.StderrIsJournal(),
		HooksDir: cfg.Notify.HooksDir, HooksEnded: filepath.Join(cfg.RunDir, hooksEnded), MetricsFile: cfg.Notify.MetricsFile, PingURL: cfg.Notify.PingURL,
		MetricsIfThere: cfg.Notify.MetricsFile == config.Default().Notify.MetricsFile,
		Survey:         func() (agent.SurveyResult, error) { return agent.Survey(h) },
		Remedy:         remedyOf,
		Trouble:        func(t agent.Trouble) { a.explainTrouble([]agent.Trouble{t}) },
		Host:           start.Hostname(), Version: version,
	}
	if cfg.Daemon.Unit != "" { // else there is no systemd, and no journal
		o.Record = unit.Record
	}
	return hooks.NewTeller(o)
}

// daemonUnits are the names under which the daemon may run: the configured one first.
func daemonUnits(cfg *config.Config) []string {
	names := []string{cfg.Daemon.Unit}
	for _, n := range unit.Names {
		if n != cfg.Daemon.Unit {
			names = append(names, n)
		}
	}
	return names
}
