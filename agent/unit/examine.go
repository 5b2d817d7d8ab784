package unit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
)

// The units of our own.
const (
	Watcher    = "containarium-keyguard.service"
	Drill      = "containarium-keyguard-drill.service"
	DrillTimer = "containarium-keyguard-drill.timer"
)

// State is how systemd has one unit.
type State struct {
	Loaded  bool
	Enabled string // UnitFileState: "enabled", "disabled", "masked", "static"
	Active  string // ActiveState: "active", "inactive", "failed"
}

// Up tells whether it runs.
func (s State) Up() bool { return s.Active == "active" || s.Active == "reloading" }

// Hook is one command of ExecStartPre=.
type Hook struct {
	Argv []string
	// Privileged is the '+' in front: without the unit's sandbox.
	Privileged bool
	// IgnoreFailure is the '-' in front: a refusal would not keep the unit from starting.
	IgnoreFailure bool
}

// Before is what systemd does before it starts the daemon.
type Before struct {
	Hooks         []Hook // in force, after every drop-in
	SuccessStatus []int  // what SuccessExitStatus= adds to 0
	// Over are the files that are read in the place of our drop-in, or after it, and so may
	// take our hook out.
	Over []string
	// Broken is why our hook cannot be run, so that the daemon never starts; "" where it can.
	Broken string
}

// Unasked says why the daemon's start does not ask keyguard, "" where it does.
func (b Before) Unasked() string {
	for _, h := range b.Hooks {
		switch {
		case !isPrestart(h.Argv):
			continue
		case h.IgnoreFailure:
			return "its unit ignores a refusal (ExecStartPre=-)"
		case !h.Privileged:
			return "its unit runs prestart inside the daemon's sandbox (ExecStartPre= without +)"
		}
		for _, status := range b.SuccessStatus {
			if status >= 10 && status <= 15 {
				return fmt.Sprintf("SuccessExitStatus=%d turns a refusal into a start", status)
			}
		}
		return b.Broken
	}
	return "prestart is not in its ExecStartPre="
}

// lookAtHook finds out whether our hook can be run.
func (b *Before) lookAtHook() {
	for _, h := range b.Hooks {
		if !isPrestart(h.Argv) {
			continue
		}
		info, err := crew.Stat(h.Argv[0])
		switch {
		case errors.Is(err, fs.ErrNotExist):
			b.Broken = h.Argv[0] + " is not there, so that systemd cannot start it"
		case err == nil && info.Mode()&0o111 == 0:
			b.Broken = h.Argv[0] + " is not executable, so that systemd cannot start it"
		}
	}
}

// isPrestart recognises our hook, or the program called directly.
func isPrestart(argv []string) bool {
	return len(argv) > 0 && (strings.HasSuffix(argv[0], "/containarium-keyguard/prestart") ||
		strings.HasSuffix(argv[0], "/keyguard") && slices.Contains(argv, "prestart"))
}

// DropIn is the file with our hook, in a directory named after the unit.
const DropIn = "zz-keyguard.conf"

// before picks from the properties of org.freedesktop.systemd1.Unit and .Service.
func before(name string, unit, service map[string]any) (b Before) {
	// ExecStartPreEx is a(sasasttttuii): path, arguments, flags, and when it ran last. Before
	// systemd 244 there is only ExecStartPre, with a truth in the place of the flags: whether a
	// failure is ignored.
	property, old := "ExecStartPreEx", false
	if _, there := service[property]; !there {
		property, old = "ExecStartPre", true
	}
	commands, _ := service[property].([][]any)
	for _, c := range commands {
		if len(c) < 3 {
			continue
		}
		argv, _ := c[1].([]string)
		flags, _ := c[2].([]string)
		h := Hook{Argv: argv, Privileged: old || slices.Contains(flags, "privileged"), IgnoreFailure: slices.Contains(flags, "ignore-failure")}
		if ignored, _ := c[2].(bool); ignored {
			h.IgnoreFailure = true
		}
		b.Hooks = append(b.Hooks, h)
	}
	b.SuccessStatus = successStatus(service)
	paths, _ := unit["DropInPaths"].([]string)
	for _, dir := range []string{"/etc/systemd/system", "/run/systemd/system"} {
		path := filepath.Join(dir, name+".d", DropIn)
		if target, err := crew.Within(dir, func() (string, error) { return os.Readlink(path) }, nil); err == nil && target == os.DevNull { // masked, and not listed
			paths = append(paths, path)
		}
	}
	for _, path := range paths {
		base := filepath.Base(path)
		if base > DropIn || base == DropIn && !strings.Contains(path, "/lib/systemd/") {
			b.Over = append(b.Over, path)
		}
	}
	return b
}

// Examination is what systemd says of the daemon and of us.
type Examination struct {
	Daemon string // its unit; "" where none is loaded
	Before        // it starts
	// Passwords names the variables in the unit's own Environment= that hold a database
	// password. Every local user can read them over D-Bus.
	Passwords []string
	After     []string // the units that the daemon is started after
	Watcher   WatcherState
	Timer     DrillState
}

// WatcherState is the watcher as systemd has it.
type WatcherState struct {
	State
	MainPID int // once it is ready, and 0 before
	// Deaf is why it hears of changes only when it looks, once a rescan: ErrInotifyInstances
	// or ErrInotifyWatches.
	Deaf error
}

// DrillState is the weekly drill as systemd has it.
type DrillState struct {
	State
	Next, Last time.Time // zero for none
	Result     string    // of the last run: "success", "exit-code"; "" before the first
}

// Examine asks systemd about the daemon, under the first of the names that is loaded,
// and about our units. A unit that is not loaded is no error.
func Examine(ctx context.Context, names ...string) (Examination, error) {
	var e Examination
	conn, err := dial(ctx)
	if err != nil {
		return e, fmt.Errorf("cannot ask systemd: %w", err)
	}
	defer conn.Close()
	for _, name := range names {
		unit, err := conn.properties(ctx, name)
		if err != nil {
			return e, fmt.Errorf("cannot ask systemd about %s: %w", name, err)
		}
		if unit["LoadState"] != "loaded" {
			continue
		}
		service, err := conn.typeProperties(ctx, name, "Service")
		if err != nil {
			return e, fmt.Errorf("cannot ask systemd about %s: %w", name, err)
		}
		e.examine(name, unit, service)
		e.lookAtHook()
		break
	}
	if e.Watcher, err = watcherState(ctx, conn); err != nil {
		return e, err
	}
	e.Timer, err = drillState(ctx, conn)
	return e, err
}

// NextDrill asks systemd about the weekly drill.
func NextDrill(ctx context.Context) (DrillState, error) {
	conn, err := dial(ctx)
	if err != nil {
		return DrillState{}, fmt.Errorf("cannot ask systemd: %w", err)
	}
	defer conn.Close()
	return drillState(ctx, conn)
}

// ReadWatcher asks systemd about the watcher.
func ReadWatcher(ctx context.Context) (WatcherState, error) {
	conn, err := dial(ctx)
	if err != nil {
		return WatcherState{}, fmt.Errorf("cannot ask systemd: %w", err)
	}
	defer conn.Close()
	return watcherState(ctx, conn)
}

func state(ctx context.Context, conn *bus, name string) (State, error) {
	p, err := conn.properties(ctx, name)
	if err != nil {
		return State{}, fmt.Errorf("cannot ask systemd about %s: %w", name, err)
	}
	return stateOf(p), nil
}

// stateOf picks from the properties of org.freedesktop.systemd1.Unit.
func stateOf(p map[string]any) State {
	s := State{Loaded: p["LoadState"] == "loaded"}
	s.Enabled, _ = p["UnitFileState"].(string)
	s.Active, _ = p["ActiveState"].(string)
	return s
}

// watcherState has no process while the unit starts: its sandbox may not stand yet.
func watcherState(ctx context.Context, conn *bus) (w WatcherState, err error) {
	if w.State, err = state(ctx, conn, Watcher); err != nil || !w.Up() {
		return w, err
	}
	p, err := conn.serviceProperty(ctx, Watcher, "MainPID")
	if err != nil {
		return w, fmt.Errorf("cannot ask systemd about %s: %w", Watcher, err)
	}
	pid, _ := p.Value.Value().(uint32)
	w.MainPID = int(pid)
	if err := Watches(w.MainPID); errors.Is(err, ErrInotifyInstances) || errors.Is(err, ErrInotifyWatches) {
		w.Deaf = err
	}
	return w, nil
}

func drillState(ctx context.Context, conn *bus) (d DrillState, err error) {
	if d.State, err = state(ctx, conn, DrillTimer); err != nil || !d.Loaded {
		return d, err
	}
	timer, err := conn.typeProperties(ctx, DrillTimer, "Timer")
	if err != nil {
		return d, fmt.Errorf("cannot ask systemd about %s: %w", DrillTimer, err)
	}
	d.Next, d.Last = realtime(timer["NextElapseUSecRealtime"]), realtime(timer["LastTriggerUSec"])
	service, err := conn.typeProperties(ctx, Drill, "Service")
	if err != nil {
		return d, fmt.Errorf("cannot ask systemd about %s: %w", Drill, err)
	}
	if began, ok := service["ExecMainStartTimestamp"].(uint64); ok && began != 0 {
		d.Result, _ = service["Result"].(string)
	}
	return d, nil
}

// realtime is a time of systemd's: microseconds since 1970, 0 or the largest number for
// none.
func realtime(v any) time.Time {
	us, ok := v.(uint64)
	if !ok || us == 0 || us > 1<<62 {
		return time.Time{}
	}
	return time.UnixMicro(int64(us))
}

// examine picks from the properties of org.freedesktop.systemd1.Unit and .Service.
func (e *Examination) examine(name string, unit, service map[string]any) {
	e.Daemon = name
	e.After, _ = unit["After"].([]string)
	e.Before = before(name, unit, service)
	environ, _ := service["Environment"].([]string)
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if (name == "CONTAINARIUM_POSTGRES_PASSWORD" || name == "PGPASSWORD") && value != "" || name == "CONTAINARIUM_POSTGRES_URL" && hasPassword(value) {
			e.Passwords = append(e.Passwords, name)
		}
	}
}

// hasPassword tells whether a database URL carries one; what does not parse may.
func hasPassword(text string) bool {
	u, err := url.Parse(text)
	if err != nil {
		return true
	}
	_, has := u.User.Password()
	return has || u.Query().Has("password") || strings.Contains(text, "password=")
}
