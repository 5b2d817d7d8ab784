// Package unit reads what systemd knows of the daemon's unit, over D-Bus: the
// environment in which the daemon finds its database, its --postgres flag, and the
// exit statuses that its unit takes for success. It stops and starts the daemon, and
// gives a command of ours a unit of its own (Transient).
//
// It talks to org.freedesktop.systemd1(5). Every call opens a connection of its own
// and closes it; nothing stays open.
package unit

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	godbus "github.com/godbus/dbus/v5"

	"github.com/footprintai/containarium-keyguard/agent/crew"
)

// Names are those that the daemon's unit has: the present one, and the one on older
// hosts.
var Names = []string{"containarium.service", "containarium-daemon.service"}

// ErrNoUnit says that systemd has loaded no unit of the daemon's.
var ErrNoUnit = errors.New("systemd knows no unit of the daemon")

// Facts are what systemd says of the daemon.
type Facts struct {
	Name string
	// Environ holds the daemon's variables: those of the running process where there
	// is one, else what systemd would give to one that it starts now.
	Environ map[string]string
	// Inherited says that Environ is what the running process was given, and no reading of
	// the unit.
	Inherited bool
	// PostgresFlag is the value of --postgres in the daemon's command line, "" without one.
	PostgresFlag string
	// SuccessStatus lists the exit statuses that SuccessExitStatus= adds to 0.
	SuccessStatus []int
	// Unread is why Environ or PostgresFlag may lack something; nil: they are whole.
	Unread error
}

// Read asks about the first of the names that is loaded. It returns ErrNoUnit when
// none is, and other errors when systemd cannot be asked.
func Read(ctx context.Context, names ...string) (Facts, error) {
	conn, err := dial(ctx)
	if err != nil {
		return Facts{}, fmt.Errorf("cannot ask systemd: %w", err)
	}
	defer conn.Close()
	for _, name := range names {
		load, err := conn.property(ctx, name, "LoadState")
		if err != nil {
			return Facts{}, fmt.Errorf("cannot ask systemd about %s: %w", name, err)
		}
		if load.Value.Value() != "loaded" {
			continue
		}
		properties, err := conn.typeProperties(ctx, name, "Service")
		if err != nil {
			return Facts{}, fmt.Errorf("cannot ask systemd about %s: %w", name, err)
		}
		return facts(name, managerOf(conn), properties), nil
	}
	return Facts{}, fmt.Errorf("%w: %s", ErrNoUnit, strings.Join(names, ", "))
}

// manager is what systemd says of itself.
type manager struct {
	version     int      // 0 where it does not say
	environment []string // what systemctl set-environment and its own start gave it
	err         error
}

func managerOf(conn *bus) (m manager) {
	// The library hands these out in D-Bus' own text form.
	get := func(name string) any {
		text, err := asked(conn, func() (string, error) { return conn.conn.GetManagerProperty(name) })
		if err != nil {
			m.err = fmt.Errorf("cannot ask systemd for its %s: %w", name, err)
			return nil
		}
		v, err := godbus.ParseVariant(text, godbus.Signature{})
		if err != nil {
			m.err = fmt.Errorf("cannot read systemd's %s: %w", name, err)
		}
		return v.Value()
	}
	if text, ok := get("Version").(string); ok {
		digits := strings.TrimLeft(text, "v")
		if i := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
			digits = digits[:i]
		}
		m.version, _ = strconv.Atoi(digits) // 0 is an old one
	}
	m.environment, _ = get("Environment").([]string)
	return m
}

// facts picks from the properties of org.freedesktop.systemd1.Service. What is missing
// among them, or has another form, makes the unit one that was not read whole.
func facts(name string, m manager, p map[string]any) Facts {
	f := Facts{Name: name, Unread: m.err}
	unread := func(err error) { f.Unread = errors.Join(f.Unread, err) }
	strange := func(property string) { unread(fmt.Errorf("cannot read %s of %s: not of its form", property, name)) }
	list := func(property string) []string {
		l, ok := p[property].([]string)
		if !ok {
			strange(property)
		}
		return l
	}
	listIfThere := func(property string) []string { // the oldest systemd has not all of them
		if _, there := p[property]; !there {
			return nil
		}
		return list(property)
	}
	env := environment{variables: map[string]string{}, version: m.version}
	env.set(m.environment)
	// What PassEnvironment= takes from systemd's own process stands nowhere.
	for _, variable := range listIfThere("PassEnvironment") {
		if strings.HasPrefix(variable, "PG") || strings.HasPrefix(variable, "CONTAINARIUM_") {
			unread(fmt.Errorf("cannot tell what PassEnvironment=%s of %s passes on", variable, name))
		}
	}
	env.set(list("Environment"))
	// EnvironmentFiles is a(sb): the path, and whether it may be missing.
	files, ok := p["EnvironmentFiles"].([][]any)
	if !ok {
		strange("EnvironmentFiles")
	}
	for _, file := range files {
		named, ok := environmentFileOf(file)
		if !ok {
			strange("EnvironmentFiles")
			continue
		}
		if err := env.addFiles(named); err != nil {
			unread(err)
		}
	}
	env.unset(listIfThere("UnsetEnvironment"))
	// ExecStart is a(sasbttttuii): the second member is the argument vector.
	if commands, ok := p["ExecStart"].([][]any); ok && len(commands) > 0 && len(commands[0]) > 1 {
		if argv, ok := commands[0][1].([]string); ok {
			f.PostgresFlag = env.expand(flag(argv, "--postgres"))
		} else {
			strange("ExecStart")
		}
	} else {
		strange("ExecStart")
	}
	f.Environ = env.variables
	if pid, ok := p["MainPID"].(uint32); ok && pid != 0 {
		f.running(fmt.Sprintf("/proc/%d", pid))
	}
	f.SuccessStatus = successStatus(p)
	return f
}

// successStatus lists what SuccessExitStatus=, (aiai) of statuses and signals, adds to 0.
func successStatus(p map[string]any) (list []int) {
	if success, ok := p["SuccessExitStatus"].([]any); ok && len(success) > 0 {
		if statuses, ok := success[0].([]int32); ok {
			for _, s := range statuses {
				list = append(list, int(s))
			}
		}
	}
	return list
}

func environmentFileOf(member []any) (e environmentFile, ok bool) {
	if len(member) != 2 {
		return e, false
	}
	pattern, isPath := member[0].(string)
	optional, isBool := member[1].(bool)
	return environmentFile{pattern, optional}, isPath && isBool
}

// mostGiven is what a process can be given at all, in bytes: execve(2), "Limits on size".
const mostGiven = 6 << 20

// running takes what the daemon's process was given, where it may be looked at: that is
// the truth, whatever the unit has become since. For a moment a unit of Type=simple counts
// as started, and its main process is still systemd's own, with systemd's environment: what
// a service was given names its invocation, systemd.exec(5) $INVOCATION_ID.
func (f *Facts) running(proc string) {
	environ, err := crew.Read(filepath.Join(proc, "environ"), mostGiven)
	if err != nil || !strings.Contains("\x00"+string(environ), "\x00INVOCATION_ID=") { // a process that is ending has none at all
		return
	}
	cmdline, err := crew.Read(filepath.Join(proc, "cmdline"), mostGiven)
	if err != nil || len(cmdline) == 0 {
		return
	}
	f.Environ, f.Inherited, f.Unread = map[string]string{}, true, nil
	for entry := range strings.SplitSeq(string(environ), "\x00") {
		if name, value, ok := strings.Cut(entry, "="); ok {
			f.Environ[name] = value
		}
	}
	f.PostgresFlag = flag(strings.Split(string(cmdline), "\x00"), "--postgres")
}

// flag finds a long flag in either of its spellings.
func flag(argv []string, name string) string {
	for i, a := range argv {
		if a == name && i+1 < len(argv) {
			return argv[i+1]
		}
		if value, ok := strings.CutPrefix(a, name+"="); ok {
			return value
		}
	}
	return ""
}

// Restart restarts the first of the names that is active, if that is still the
// invocation that is meant, and returns when systemd has done so. Where none is active,
// or it was started again since, nothing is restarted, and that is no error.
func Restart(ctx context.Context, invocation string, names ...string) error {
	conn, err := dial(ctx)
	if err != nil {
		return fmt.Errorf("cannot ask systemd: %w", err)
	}
	defer conn.Close()
	for _, name := range names {
		state, err := conn.property(ctx, name, "ActiveState")
		if err != nil {
			return fmt.Errorf("cannot ask systemd about %s: %w", name, err)
		}
		if state.Value.Value() != "active" {
			continue
		}
		id, err := conn.property(ctx, name, "InvocationID")
		if err != nil {
			return fmt.Errorf("cannot ask systemd about %s: %w", name, err)
		}
		if b, ok := id.Value.Value().([]byte); ok && hex.EncodeToString(b) != invocation {
			return nil
		}
		return conn.job(ctx, name, "restart", conn.conn.RestartUnitContext)
	}
	return nil
}

// Running lists those of the names that are not at rest: up, on their way up or down,
// or between two tries of a restart.
func Running(ctx context.Context, names ...string) ([]string, error) {
	conn, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot ask systemd: %w", err)
	}
	defer conn.Close()
	return running(ctx, conn, names)
}

func running(ctx context.Context, conn *bus, names []string) (list []string, err error) {
	for _, name := range names {
		state, err := conn.property(ctx, name, "ActiveState")
		if err != nil {
			return nil, fmt.Errorf("cannot ask systemd about %s: %w", name, err)
		}
		if s := state.Value.Value(); s != "inactive" && s != "failed" {
			list = append(list, name)
		}
	}
	return list, nil
}

// Stop stops all of the names, whatever they are about to do, and returns when they
// are at rest.
func Stop(ctx context.Context, names ...string) error {
	conn, err := dial(ctx)
	if err != nil {
		return fmt.Errorf("cannot ask systemd: %w", err)
	}
	defer conn.Close()
	for {
		for _, name := range names {
			load, err := conn.property(ctx, name, "LoadState")
			if err != nil {
				return fmt.Errorf("cannot ask systemd about %s: %w", name, err)
			}
			up, err := running(ctx, conn, []string{name})
			if err != nil {
				return err
			}
			// A unit that is down may still be about to start: to stop it takes that back.
			if load.Value.Value() != "loaded" && len(up) == 0 {
				continue
			}
			if err := conn.job(ctx, name, "stop", conn.conn.StopUnitContext); err != nil {
				return err
			}
		}
		if up, err := running(ctx, conn, names); err != nil || len(up) == 0 {
			return err
		}
	}
}

// Start starts all of the names, and returns when they are up.
func Start(ctx context.Context, names ...string) error {
	conn, err := dial(ctx)
	if err != nil {
		return fmt.Errorf("cannot ask systemd: %w", err)
	}
	defer conn.Close()
	for _, name := range names {
		if err := conn.job(ctx, name, "start", conn.conn.StartUnitContext); err != nil {
			return err
		}
	}
	return nil
}

// job has systemd do something to a unit, and waits until it is done.
func (b *bus) job(ctx context.Context, name, what string, order func(context.Context, string, string, chan<- string) (int, error)) error {
	done := make(chan string, 1)
	if err := b.ask(func() error { _, err := order(ctx, name, "replace", done); return err }); err != nil {
		return fmt.Errorf("cannot %s %s: %w", what, name, err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("cannot %s %s: systemd says %q", what, name, result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot %s %s: %w", what, name, ctx.Err())
	}
}

// Reload makes a unit read its configuration again, if it is active.
func Reload(ctx context.Context, name string) error {
	conn, err := dial(ctx)
	if err != nil {
		return fmt.Errorf("cannot ask systemd: %w", err)
	}
	defer conn.Close()
	state, err := conn.property(ctx, name, "ActiveState")
	if err != nil {
		return fmt.Errorf("cannot ask systemd about %s: %w", name, err)
	}
	if state.Value.Value() != "active" {
		return nil
	}
	if err := conn.ask(func() error { _, err := conn.conn.ReloadUnitContext(ctx, name, "replace", nil); return err }); err != nil {
		return fmt.Errorf("cannot reload %s: %w", name, err)
	}
	return nil
}
