package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/fleet"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/textfile"
)

const (
	// gcpPerMinute leaves two thirds of a project's 600 reads a minute to its hosts
	// (https://cloud.google.com/secret-manager/quotas).
	gcpPerMinute = 200
	// assetsPerMinute keeps below Cloud Asset Inventory's 100 a minute
	// (https://cloud.google.com/asset-inventory/docs/quota).
	assetsPerMinute = 60
	// awsPerMinute is a fifth of what Secrets Manager allows of describing and listing
	// (https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html).
	awsPerMinute = 600
	// manyHosts is from where on the Asset Inventory is worth its role.
	manyHosts = 2000
	// shownHosts is how many hosts are printed for people; the page and the JSON have all.
	shownHosts = 100
	// statusSize bounds a status file, in bytes.
	statusSize = 4 << 20
	// inventorySize bounds an inventory, in bytes: Ansible's has every variable.
	inventorySize = 512 << 20
)

// fleetFlags are what the command line says.
type fleetFlags struct {
	inventory, retired, status []string
	since, minimum             string
	fresh, period, again       time.Duration
	iam, assets                bool
	state, metrics, output     string
}

func (a *app) fleetCommand() *cobra.Command {
	var f fleetFlags
	c := &cobra.Command{
		Use:   "fleet",
		Short: "which of many hosts could not come back today",
		Long: `fleet joins an inventory of hosts with what the stores show of their copies and
with what the hosts said by "keyguard status --json". It runs on an
administrator's machine: it needs no key, no root and no host, reads metadata
alone, changes nothing, and listens on nothing.

The stores are the [[escrow]] tables of the configuration, whose names hold
{hostname}. Every answer is good, bad or unknown; what nobody told is unknown.
What looks wrong in a store that may be behind is looked at twice.

Exit status: 0 every host is good; 10 a host has lost its key; 12 a host is
bad; 11 none is, but of some nobody knows.`,
		Example: `  ansible-inventory --list | keyguard fleet --inventory - --status status/
  keyguard fleet --config fleet.toml --inventory hosts --output fleet.html`,
		RunE: func(c *cobra.Command, _ []string) error { return a.fleet(c.Context(), f) },
	}
	flags := c.Flags()
	flags.StringArrayVar(&f.inventory, "inventory", nil, "the hosts: a `file` of names, or of what ansible-inventory --list prints; - is standard input. Several add up")
	flags.StringArrayVar(&f.retired, "retired", nil, "a `file` of hosts that are gone, and whose copies are kept. Several add up")
	flags.StringArrayVar(&f.status, "status", nil, "the `directory` of status files, HOST.json. Several add up, and of two files for a host the later one counts")
	flags.DurationVar(&f.fresh, "fresh", 48*time.Hour, "how old a status may be, a `duration` (48h where nobody says)")
	flags.DurationVar(&f.period, "period", 8*24*time.Hour, "how old the last drill may be, a `duration` (192h, eight days)")
	flags.StringVar(&f.since, "since", "", "a copy must have been saved since this `day`, 2026-01-31 or RFC 3339")
	flags.StringVar(&f.minimum, "minimum", "", "hosts must have this `version` of keyguard, or a later one")
	flags.BoolVar(&f.iam, "iam", false, "ask who may destroy copies, where the store tells (not directories and programs)")
	flags.BoolVar(&f.assets, "asset-inventory", false, "ask Google's Cloud Asset Inventory for all secrets at once")
	flags.DurationVar(&f.again, "again", 5*time.Minute, "look again after this `duration` (5m) at what looks wrong in a store that may be behind; 0 leaves it unknown")
	flags.StringVar(&f.state, "state", "", "keep what was seen in this `file`, to go on after an interruption")
	flags.StringVar(&f.metrics, "metrics", "", "write metrics for Prometheus to this `file`")
	flags.StringVar(&f.output, "output", "", "write an HTML page to this `file`, ending in .html")
	a.jsonFlag(c)
	for _, name := range []string{"fresh", "period", "again"} {
		flags.Lookup(name).DefValue = "0s" // said above, in fewer letters
	}
	return c
}

func (a *app) fleet(ctx context.Context, f fleetFlags) error {
	q := fleet.Questions{Now: time.Now(), Fresh: f.fresh, Period: f.period, Minimum: f.minimum, Policies: f.iam}
	switch {
	case len(f.inventory) == 0:
		return usageError{errors.New("--inventory is needed: which hosts there are, nobody else can tell")}
	case f.minimum != "" && !fleet.IsVersion(f.minimum):
		return usageError{fmt.Errorf("--minimum: %q is no version, as 0.1.0 is", f.minimum)}
	case f.fresh <= 0 || f.period <= 0 || f.again < 0:
		return usageError{errors.New("--fresh and --period are more than 0, and --again is not less")}
	}
	// Looking may take an hour, and all of it would be for nothing.
	if err := cmp.Or(checkPage(f.output), checkPath("--metrics", f.metrics), checkPath("--state", f.state)); err != nil {
		return err
	}
	if f.since != "" {
		var err error
		if q.Since, _, err = parseDay(f.since); err != nil {
			return usageError{fmt.Errorf("--since: %w", err)}
		}
	}
	e := fleet.Evidence{}
	var err error
	if e.Inventory, err = a.readInventories(f.inventory); err != nil {
		return usageError{fmt.Errorf("--inventory: %w", err)}
	}
	if e.Retired, err = a.readInventories(f.retired); err != nil {
		return usageError{fmt.Errorf("--retired: %w", err)}
	}
	if e.Said, err = a.readSaid(f.status); err != nil {
		return usageError{fmt.Errorf("--status: %w", err)}
	}
	cfg, err := a.fleetConfig()
	if err != nil {
		return err
	}
	l := fleet.Looker{Inventory: e.Inventory, Said: e.Said, Policies: f.iam, Clock: fleet.WallClock{}, Again: f.again, State: f.state, Questions: q}
	for _, one := range cfg.Escrows {
		if one.Kind == config.Split {
			continue // its members are looked at, each for itself
		}
		s := a.fleetStore(cfg, one, f, len(e.Inventory))
		if s.Fleet != nil {
			defer s.Close() //nolint:errcheck // nothing was written
		}
		l.Stores = append(l.Stores, s)
	}
	l.Progress = func(store string, done, all int) {
		if done%100 == 0 || done == all {
			a.sayWaiting("%s: looked at %d of %d hosts", store, done, all)
		}
	}
	if e.Stores, err = l.Look(ctx); err != nil {
		if ctx.Err() != nil && f.state != "" {
			return outcome{exitInternal, "interrupted: " + ctx.Err().Error(), []string{"to go on, the same again with --state " + f.state}}
		}
		return err
	}
	q.Now = time.Now() // looking may have taken an hour
	return a.printFleet(fleet.Judge(e, q), e, q, f)
}

// fleetStore opens an escrow to be looked at for so many hosts.
func (a *app) fleetStore(cfg *config.Config, one config.Escrow, f fleetFlags, hosts int) fleet.Store {
	s := fleet.Store{Named: one.Name, Required: one.Required}
	if s.Fleet, s.Wrong = f.openStore(cfg, one); s.Wrong != nil {
		s.Fleet = nil
		a.urgent("escrow %q cannot be looked at: %v", one.Name, s.Wrong)
		a.hint("correct it in " + a.configPath() + ", and check that: keyguard config --config " + a.configPath())
	}
	if one.Kind == config.GCPSecretManager && !f.assets && hosts > manyHosts {
		a.say("%s: %d hosts take about %s at %d calls a minute; --asset-inventory takes a few", one.Name,
			hosts, time.Duration(2*hosts/gcpPerMinute)*time.Minute, gcpPerMinute)
	}
	return s
}

// readSaid reads what hosts said, from several directories.
func (a *app) readSaid(dirs []string) (all []fleet.Said, err error) {
	for _, dir := range dirs {
		said, err := readStatuses(dir)
		if err != nil {
			return nil, err
		}
		if len(said) == 0 {
			a.urgent("%s has no file HOST.json: nothing that hosts said is there", dir)
		}
		all = append(all, said...)
	}
	return all, nil
}

// readInventories reads the names of hosts from several files, each once.
func (a *app) readInventories(paths []string) (names []string, err error) {
	for _, path := range paths {
		more, err := a.readInventory(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		names = append(names, more...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// readInventory reads the names of hosts.
func (a *app) readInventory(path string) ([]string, error) {
	var data []byte
	var err error
	if path == "-" {
		data, err = io.ReadAll(io.LimitReader(a.in, inventorySize+1))
	} else {
		data, err = crew.ReadOnce(path, inventorySize)
	}
	switch {
	case errors.Is(err, crew.ErrLarge), len(data) > inventorySize: // half of the hosts are not all of them
		return nil, fmt.Errorf("%w: it has more than %d bytes", fleet.ErrInventory, inventorySize)
	case err != nil:
		return nil, err
	}
	return fleet.ParseInventory(data)
}

// readStatuses reads every .json in a directory. One that is no status is one that tells nothing.
func readStatuses(dir string) ([]fleet.Said, error) {
	entries, err := crew.Within(dir, func() ([]fs.DirEntry, error) { return os.ReadDir(dir) }, nil)
	if err != nil {
		return nil, err
	}
	var all []fleet.Said
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) != ".json" {
			continue
		}
		s, err := readStatus(filepath.Join(dir, entry.Name()))
		s.File, s.Err = entry.Name(), err
		all = append(all, s)
	}
	return all, nil
}

func readStatus(path string) (fleet.Said, error) {
	data, err := crew.Read(path, statusSize)
	if err != nil {
		return fleet.Said{}, err
	}
	return fleet.ParseStatus(data)
}

// fleetConfig reads the stores. Where nobody names a file and none stands in its place,
// there are none.
func (a *app) fleetConfig() (*config.Config, error) {
	cfg, err := a.load()
	if errors.Is(err, fs.ErrNotExist) && a.configFile == "" && os.Getenv("KEYGUARD_CONFIG") == "" {
		a.say("no configuration names stores (--config FILE): only what the hosts say counts")
		return config.Default(), nil
	}
	return cfg, err
}

// openStore makes the view of many hosts of one [[escrow]].
func (f *fleetFlags) openStore(cfg *config.Config, e config.Escrow) (escrow.Fleet, error) {
	if e.Wrong != nil {
		return nil, errors.New(e.Wrong.Brief())
	}
	pace := func(perMinute int) kinds.FleetOptions {
		return kinds.FleetOptions{Wait: fleet.NewPace(fleet.WallClock{}, perMinute).Wait}
	}
	switch e.Kind {
	case config.GCPSecretManager:
		o := pace(gcpPerMinute)
		if f.assets {
			o = pace(assetsPerMinute)
		}
		o.Assets = f.assets
		return kinds.NewGCPFleet(gcpOptions(e, nil), o)
	case config.VaultKV:
		return kinds.NewVaultFleet(vaultOptions(e, nil), kinds.FleetOptions{})
	case config.AWS:
		return kinds.NewAWSFleet(awsOptions(e, nil), pace(awsPerMinute))
	case config.Directory:
		return kinds.NewDirectoryFleet(directoryOptions(cfg, e, nil), kinds.FleetOptions{})
	}
	return kinds.NewCommandFleet(commandOptions(cfg, e, nil), kinds.FleetOptions{})
}

// fleetCode is what the exit code says of a fleet.
func fleetCode(r fleet.Report) int {
	code := exitDone
	for _, c := range r.Stores {
		switch {
		case c.Is == fleet.Bad:
			code = exitEscrow
		case c.Is == fleet.Unknown && code == exitDone:
			code = exitDoubt
		}
	}
	switch {
	case r.Lost > 0:
		return exitLost
	case r.Counts[fleet.Bad] > 0 || code == exitEscrow:
		return exitEscrow
	case r.Counts[fleet.Unknown] > 0 || len(r.Strangers) > 0:
		return exitDoubt
	}
	return code
}

// fleetLine is the verdict for people.
func fleetLine(r fleet.Report) string {
	line := fmt.Sprintf("%d bad, %d unknown, %d good of %s", r.Counts[fleet.Bad], r.Counts[fleet.Unknown], r.Counts[fleet.Good], printable.Count(int64(len(r.Rows)), "host"))
	if r.Lost > 0 {
		line = fmt.Sprintf("%d lost; ", r.Lost) + line
	}
	if n := len(r.Strangers); n > 0 {
		line += fmt.Sprintf("; %d in no inventory", n)
	}
	return line
}

func (a *app) printFleet(r fleet.Report, e fleet.Evidence, q fleet.Questions, f fleetFlags) error {
	if f.metrics != "" {
		if err := textfile.Write(f.metrics, fleetMetrics(r, e, q)); err != nil {
			return err
		}
	}
	if f.output != "" {
		page, err := fleetPage(r, e, q)
		if err != nil {
			return err
		}
		if err := agent.SaveReport(f.output, page); err != nil {
			return err
		}
		a.say("wrote %s", f.output)
	}
	if a.json {
		if err := a.printJSON(fleetDocOf(r, e, q)); err != nil {
			return err
		}
	} else {
		a.printFleetText(r, e)
	}
	code := fleetCode(r)
	if code == exitDone {
		return nil
	}
	hints := []string{"all of it, the worst first: the same again with --output fleet.html"}
	if f.output != "" {
		hints = nil
	}
	if r.Lost+r.Counts[fleet.Bad] > 0 {
		hints = append(hints, "on the host: keyguard status, and what it says")
	}
	if len(f.status) == 0 {
		hints = append(hints, "what hosts say was not asked: --status DIR, a file HOST.json of keyguard status --json for each")
	}
	return outcome{code, "fleet: " + fleetLine(r), hints}
}

func (a *app) printFleetText(r fleet.Report, e fleet.Evidence) {
	a.answer(map[int]colour{exitDone: green, exitDoubt: yellow, exitEscrow: red, exitLost: red}[fleetCode(r)], fleetLine(r))
	for i, c := range r.Stores {
		a.line("store %s: %s", e.Stores[i].Name, c.Why)
	}
	shown := 0
	for _, row := range r.Rows {
		if row.Is != fleet.Good {
			shown++
		}
	}
	left := max(0, shown-shownHosts)
	if shown -= left; shown > 0 {
		a.line("")
		a.table("HOST\tIS\tWHY", func(row func(columns ...string)) {
			for _, one := range r.Rows[:shown] {
				row(one.Host, string(one.Is), whyOf(r.Columns, one))
			}
		})
	}
	if left > 0 {
		a.line("… and %d more: --json, or --output fleet.html, has all", left)
	}
	if len(r.Strangers) > 0 {
		a.line("")
		a.table("IN NO INVENTORY\tSEEN IN", func(row func(columns ...string)) {
			for i, s := range r.Strangers {
				if i == shownHosts {
					row(fmt.Sprintf("… and %d more", len(r.Strangers)-i), "")
					break
				}
				row(s.Host, strings.Join(s.Where, ", "))
			}
		})
	}
}

// whyOf is what is not good of a host: what is bad, else what is unknown.
func whyOf(columns []string, row fleet.Row) string {
	var whys []string
	where := map[string][]string{} // by the reason, which several answers may have
	for i, c := range row.Cells {
		if c.Is != row.Is {
			continue
		}
		if where[c.Why] == nil {
			whys = append(whys, c.Why)
		}
		where[c.Why] = append(where[c.Why], columns[i])
	}
	for i, why := range whys {
		whys[i] = strings.Join(where[why], ", ") + ": " + why
	}
	return strings.Join(whys, "; ")
}

// The JSON of a fleet.
type (
	fleetDoc struct {
		Version   int           `json:"version"`
		Made      *time.Time    `json:"made_at"`
		Verdict   string        `json:"verdict"`
		Bad       int           `json:"bad"`
		Unknown   int           `json:"unknown"`
		Good      int           `json:"good"`
		Lost      int           `json:"lost"`
		Stores    []storeDoc    `json:"stores"`
		Hosts     []hostDoc     `json:"hosts"` // the worst first
		Strangers []strangerDoc `json:"in_no_inventory"`
	}
	storeDoc struct {
		Escrow string   `json:"escrow"`
		Kind   string   `json:"kind"`
		Where  string   `json:"where"`
		Domain string   `json:"failure_domain"`
		Is     fleet.Is `json:"is"`
		Why    string   `json:"why"`
	}
	hostDoc struct {
		Host  string    `json:"host"`
		Is    fleet.Is  `json:"is"`
		Cells []cellDoc `json:"cells"`
	}
	cellDoc struct {
		Column string   `json:"column"`
		Is     fleet.Is `json:"is"`
		Why    string   `json:"why"`
	}
	strangerDoc struct {
		Host  string   `json:"host"`
		Where []string `json:"seen_in"`
	}
)

func fleetDocOf(r fleet.Report, e fleet.Evidence, q fleet.Questions) fleetDoc {
	d := fleetDoc{Version: jsonVersion, Made: timeDoc(q.Now), Verdict: fleetLine(r), Bad: r.Counts[fleet.Bad], Unknown: r.Counts[fleet.Unknown],
		Good: r.Counts[fleet.Good], Lost: r.Lost, Stores: []storeDoc{}, Hosts: []hostDoc{}, Strangers: []strangerDoc{}}
	for i, c := range r.Stores {
		v := e.Stores[i]
		d.Stores = append(d.Stores, storeDoc{v.Name, v.Place.Kind, v.Place.Where, v.Place.Domain, c.Is, c.Why})
	}
	for _, row := range r.Rows {
		h := hostDoc{row.Host, row.Is, nil}
		for i, c := range row.Cells {
			h.Cells = append(h.Cells, cellDoc{r.Columns[i], c.Is, c.Why})
		}
		d.Hosts = append(d.Hosts, h)
	}
	for _, s := range r.Strangers {
		d.Strangers = append(d.Strangers, strangerDoc{s.Host, s.Where})
	}
	return d
}

// fleetMetrics are for the textfile collector where fleet runs from a timer.
func fleetMetrics(r fleet.Report, e fleet.Evidence, q fleet.Questions) []textfile.Metric {
	grade := map[fleet.Is]float64{fleet.Good: 0, fleet.Unknown: 1, fleet.Bad: 2}
	all := []fleet.Is{fleet.Good, fleet.Unknown, fleet.Bad}
	gauge := func(name, help string) textfile.Metric {
		return textfile.Metric{Name: "keyguard_fleet_" + name, Help: help}
	}
	hosts := gauge("hosts", "Hosts of the inventory, by what they come to.")
	columns := gauge("answers", "Hosts by the answer to each question.")
	host := gauge("host", "What each host comes to: 0 good, 1 unknown, 2 bad.")
	stores := gauge("store", "What concerns a store as a whole: 0 good, 1 unknown, 2 bad.")
	lost := gauge("lost", "Hosts that said that no known key opens their rows.")
	strangers := gauge("in_no_inventory", "Hosts in no inventory that a store or a status tells of.")
	written := gauge("written_timestamp_seconds", "When this was found out.")
	for _, is := range all {
		hosts.Samples = append(hosts.Samples, textfile.Sample{Labels: []string{"is", string(is)}, Value: float64(r.Counts[is])})
	}
	for i, c := range r.Columns {
		n := map[fleet.Is]float64{}
		for _, row := range r.Rows {
			n[row.Cells[i].Is]++
		}
		for _, is := range all {
			columns.Samples = append(columns.Samples, textfile.Sample{Labels: []string{"question", c, "is", string(is)}, Value: n[is]})
		}
	}
	for _, row := range r.Rows {
		host.Samples = append(host.Samples, textfile.Sample{Labels: []string{"host", row.Host}, Value: grade[row.Is]})
	}
	for i, c := range r.Stores {
		stores.Samples = append(stores.Samples, textfile.Sample{Labels: []string{"escrow", e.Stores[i].Name}, Value: grade[c.Is]})
	}
	lost.Samples = []textfile.Sample{{Value: float64(r.Lost)}}
	strangers.Samples = []textfile.Sample{{Value: float64(len(r.Strangers))}}
	written.Samples = []textfile.Sample{{Value: float64(q.Now.UnixMilli()) / 1000}}
	return []textfile.Metric{hosts, lost, columns, host, stores, strangers, written}
}
