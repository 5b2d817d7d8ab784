package unit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/coreos/go-systemd/v22/util"
	godbus "github.com/godbus/dbus/v5"
)

// ErrExists says that the unit that was to be made is there and runs.
var ErrExists = errors.New("a unit of this name runs already")

// ErrKilled says that the command in a unit of its own did not come to its end.
var ErrKilled = errors.New("killed in the middle")

// Booted tells whether systemd runs this host, as sd_booted(3) does.
func Booted() bool { return util.IsRunningSystemd() }

// Transient is a service that systemd makes for one run of a command, so that it goes on
// when the terminal, the session or the command that asked for it is gone.
type Transient struct {
	Name        string
	Description string
	Command     []string // the program, an absolute path, and its arguments
	Environ     []string // "NAME=value"; every local user can read it
	Stdout      *os.File // what the command prints to
	Stderr      *os.File
	StopTimeout time.Duration // between SIGTERM and SIGKILL
}

// transientAgain is how often systemd is asked whether the unit has ended. Signals of
// D-Bus would tell sooner, and not at all when they are lost.
const transientAgain = 100 * time.Millisecond

// Run starts the service and returns the exit status of its command when it has ended.
// When ctx ends the service goes on. It returns ErrExists and ErrKilled.
func (t Transient) Run(ctx context.Context) (status int, err error) {
	conn, err := dial(ctx)
	if err != nil {
		return 0, fmt.Errorf("cannot ask systemd: %w", err)
	}
	defer conn.Close()
	// One that failed stays, for people, until it is wanted again.
	_ = conn.ask(func() error { return conn.conn.ResetFailedUnitContext(ctx, t.Name) }) // there is none, as a rule
	done := make(chan string, 1)
	err = conn.ask(func() error {
		_, err := conn.conn.StartTransientUnitContext(ctx, t.Name, "fail", t.properties(), done)
		return err
	})
	if refused, ok := errors.AsType[godbus.Error](err); ok && refused.Name == "org.freedesktop.systemd1.UnitExists" {
		return 0, fmt.Errorf("%w: %s", ErrExists, t.Name)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot start %s: %w", t.Name, err)
	}
	select {
	case result := <-done:
		if result != "done" && result != "failed" { // it may have ended already
			return 0, fmt.Errorf("cannot start %s: systemd says %q", t.Name, result)
		}
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for {
		up, err := running(ctx, conn, []string{t.Name})
		if err != nil {
			return 0, err
		}
		if len(up) == 0 {
			return ended(ctx, conn, t.Name)
		}
		select {
		case <-time.After(transientAgain):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// ended is the exit status of a unit that is at rest. One that succeeded is gone by then.
func ended(ctx context.Context, conn *bus, name string) (int, error) {
	load, err := conn.property(ctx, name, "LoadState")
	if err != nil {
		return 0, fmt.Errorf("cannot ask systemd about %s: %w", name, err)
	}
	if load.Value.Value() != "loaded" {
		return 0, nil
	}
	p, err := conn.typeProperties(ctx, name, "Service")
	if err != nil {
		return 0, fmt.Errorf("cannot ask systemd about %s: %w", name, err)
	}
	code, _ := p["ExecMainCode"].(int32)
	status, _ := p["ExecMainStatus"].(int32)
	const exited = 1 // CLD_EXITED of sigaction(2)
	if code != exited && (code != 0 || p["Result"] != "success") {
		return 0, fmt.Errorf("%s: %w (%v, signal %d)", name, ErrKilled, p["Result"], status)
	}
	_ = conn.ask(func() error { return conn.conn.ResetFailedUnitContext(ctx, name) }) // what it had to say was said
	return int(status), nil
}

func (t Transient) properties() []dbus.Property {
	// The parameter is called uncleanIsFailure, and true has systemd ignore a failure.
	const countFailures = false
	property := func(name string, value any) dbus.Property {
		return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
	}
	list := []dbus.Property{
		dbus.PropDescription(t.Description),
		dbus.PropType("exec"),
		dbus.PropExecStart(t.Command, countFailures),
		property("Environment", t.Environ),
		property("TimeoutStopUSec", uint64(t.StopTimeout.Microseconds())),
		property("MemorySwapMax", uint64(0)), // a key in memory stays in memory
		property("LimitCORE", uint64(0)),
		property("UMask", uint32(0o077)),
	}
	for name, f := range map[string]*os.File{"Output": t.Stdout, "Error": t.Stderr} {
		list = append(list, property("Standard"+name+"FileDescriptor", godbus.UnixFD(f.Fd())))
	}
	return list
}
