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
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"
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
	// is one, else the unit's Environment= and what its EnvironmentFile= name.
	Environ map[string]string
	// PostgresFlag is the value of --postgres in ExecStart=, "" without one.
	PostgresFlag string
	// SuccessStatus lists the exit statuses that SuccessExitStatus= adds to 0.
	SuccessStatus []int
}

// Read asks about the first of the names that is loaded. It returns ErrNoUnit when
// none is, and other errors when systemd cannot be asked.
func Read(ctx context.Context, names ...string) (Facts, error) {
	conn, err := dbus.NewWithContext(ctx)
	if err != nil {
		return Facts{}, fmt.Errorf("cannot ask systemd: %w", err)
	}
	defer conn.Close()
	for _, name := range names {
		load, err := conn.GetUnitPropertyContext(ctx, name, "LoadState")
		if err != nil {
			return Facts{}, fmt.Errorf("cannot ask systemd about %s: %w", name, err)
		}
		if load.Value.Value() != "loaded" {
			continue
		}
		properties, err := conn.GetUnitTypePropertiesContext(ctx, name, "Service")
		if err != nil {
			return Facts{}, fmt.Errorf("cannot ask systemd about %s: %w", name, err)
		}
		return facts(name, properties), nil
	}
	return Facts{}, fmt.Errorf("%w: %s", ErrNoUnit, strings.Join(names, ", "))
}

// facts picks from the properties of org.freedesktop.systemd1.Service.
func facts(name string, p map[string]any) Facts {
	f := Facts{Name: name, Environ: map[string]string{}}
	if list, ok := p["Environment"].([]string); ok {
		f.addEnviron(list)
	}
	// EnvironmentFiles is a(sb): the path, and whether it may be missing.
	if files, ok := p["EnvironmentFiles"].([][]any); ok {
		for _, file := range files {
			if path, ok := file[0].(string); ok {
				f.addFile(path)
			}
		}
	}
	if pid, ok := p["MainPID"].(uint32); ok && pid != 0 {
		if environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err == nil {
			f.Environ = map[string]string{}
			f.addEnviron(strings.Split(string(environ), "\x00"))
		}
	}
	// ExecStart is a(sasbttttuii): the second member is the argument vector.
	if commands, ok := p["ExecStart"].([][]any); ok && len(commands) > 0 && len(commands[0]) > 1 {
		if argv, ok := commands[0][1].([]string); ok {
			f.PostgresFlag = flag(argv, "--postgres")
		}
	}
	// SuccessExitStatus is (aiai): statuses and signals.
	if success, ok := p["SuccessExitStatus"].([]any); ok && len(success) > 0 {
		if statuses, ok := success[0].([]int32); ok {
			for _, s := range statuses {
				f.SuccessStatus = append(f.SuccessStatus, int(s))
			}
		}
	}
	return f
}

func (f *Facts) addEnviron(list []string) {
	for _, entry := range list {
		if name, value, ok := strings.Cut(entry, "="); ok {
			f.Environ[name] = value
		}
	}
}

// addFile reads an EnvironmentFile= (systemd.exec(5)): NAME=value lines, comments
// with # or ;, values perhaps in quotes. One that cannot be read adds nothing, as for
// a unit that may do without it.
func (f *Facts) addFile(path string) {
	data, err := os.ReadFile(path)
	if err != nil {
		return
	}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		if name, value, ok := strings.Cut(line, "="); ok {
			value = strings.TrimSpace(value)
			if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
				value = value[1 : n-1]
			}
			f.Environ[strings.TrimSpace(name)] = value
		}
	}
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
	conn, err := dbus.NewWithContext(ctx)
	if err != nil {
		return fmt.Errorf("cannot ask systemd: %w", err)
	}
	defer conn.Close()
	for _, name := range names {
		state, err := conn.GetUnitPropertyContext(ctx, name, "ActiveState")
		if err != nil {
			return fmt.Errorf("cannot ask systemd about %s: %w", name, err)
		}
		if state.Value.Value() != "active" {
			continue
		}
		id, err := conn.GetUnitPropertyContext(ctx, name, "InvocationID")
		if err != nil {
			return fmt.Errorf("cannot ask systemd about %s: %w", name, err)
		}
		if b, ok := id.Value.Value().([]byte); ok && hex.EncodeToString(b) != invocation {
			return nil
		}
		return job(ctx, name, "restart", conn.RestartUnitContext)
	}
	return nil
}

// Running lists those of the names that are not at rest: up, on their way up or down,
// or between two tries of a restart.
func Running(ctx context.Context, names ...string) ([]string, error) {
	conn, err := dbus.NewWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot ask systemd: %w", err)
	}
	defer conn.Close()
	return running(ctx, conn, names)
}

func running(ctx context.Context, conn *dbus.Conn, names []string) (list []string, err error) {
	for _, name := range names {
		state, err := conn.GetUnitPropertyContext(ctx, name, "ActiveState")
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
	conn, err := dbus.NewWithContext(ctx)
	if err != nil {
		return fmt.Errorf("cannot ask systemd: %w", err)
	}
	defer conn.Close()
	for {
		for _, name := range names {
			load, err := conn.GetUnitPropertyContext(ctx, name, "LoadState")
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
			if err := job(ctx, name, "stop", conn.StopUnitContext); err != nil {
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
	conn, err := dbus.NewWithContext(ctx)
	if err != nil {
		return fmt.Errorf("cannot ask systemd: %w", err)
	}
	defer conn.Close()
	for _, name := range names {
		if err := job(ctx, name, "start", conn.StartUnitContext); err != nil {
			return err
		}
	}
	return nil
}

// job has systemd do something to a unit, and waits until it is done.
func job(ctx context.Context, name, what string, order func(context.Context, string, string, chan<- string) (int, error)) error {
	done := make(chan string, 1)
	if _, err := order(ctx, name, "replace", done); err != nil {
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
	conn, err := dbus.NewWithContext(ctx)
	if err != nil {
		return fmt.Errorf("cannot ask systemd: %w", err)
	}
	defer conn.Close()
	state, err := conn.GetUnitPropertyContext(ctx, name, "ActiveState")
	if err != nil {
		return fmt.Errorf("cannot ask systemd about %s: %w", name, err)
	}
	if state.Value.Value() != "active" {
		return nil
	}
	if _, err := conn.ReloadUnitContext(ctx, name, "replace", nil); err != nil {
		return fmt.Errorf("cannot reload %s: %w", name, err)
	}
	return nil
}
