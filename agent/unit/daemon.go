package unit

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/internal/run"
)

// DaemonState is the daemon as systemd has it, and what its present start has told of its
// key.
type DaemonState struct {
	Name string // its unit; "" where none is loaded
	State
	Failing    bool      // it ended, or never came up, and systemd is about to start it again
	Since      time.Time // when the unit became active; zero while it is not
	Invocation string    // of that start, $INVOCATION_ID of systemd.exec(5)
	// Unasked is why its next start does not ask keyguard, "" where it does, and Over are the
	// files that may be the reason (Before).
	Unasked string
	Over    []string
	// Told is what became of the key: "" where the daemon has not come to it, or does not
	// keep secrets. It reads its key once.
	Told   Said
	ToldAt time.Time // by this host's clock
	Minted bool      // it found no key, and made one
	Unread error     // why its journal cannot tell; nil where nothing is to be read
}

// ReadDaemon asks systemd about the daemon: under the first of the names that is up, else
// the first that is loaded. Where it is up, it reads what that process has told.
func ReadDaemon(ctx context.Context, names ...string) (DaemonState, error) {
	conn, err := dial(ctx)
	if err != nil {
		return DaemonState{}, fmt.Errorf("cannot ask systemd: %w", err)
	}
	defer conn.Close()
	var d DaemonState
	for _, name := range names {
		p, err := conn.properties(ctx, name)
		if err != nil {
			return DaemonState{}, fmt.Errorf("cannot ask systemd about %s: %w", name, err)
		}
		this := DaemonState{Name: name, State: stateOf(p), Failing: p["SubState"] == "auto-restart"}
		if !this.Loaded || d.Name != "" && !this.Up() {
			if d.Enabled == "" {
				d.Enabled = this.Enabled // "masked", which is not loaded, and there
			}
			continue
		}
		service, err := conn.typeProperties(ctx, name, "Service")
		if err != nil {
			return DaemonState{}, fmt.Errorf("cannot ask systemd about %s: %w", name, err)
		}
		next := before(name, p, service)
		next.lookAtHook()
		if this.Unasked = next.Unasked(); this.Unasked != "" {
			this.Over = next.Over
		}
		if d = this; !d.Up() {
			continue
		}
		d.Since = realtime(p["ActiveEnterTimestamp"])
		main, _ := service["MainPID"].(uint32)
		invocation, _ := p["InvocationID"].([]byte)
		d.Invocation = hex.EncodeToString(invocation)
		d.Unread = d.read(ctx, d.Invocation, int(main))
		break
	}
	return d, nil
}

// read reads what a process has told of its key, and no further than it takes.
func (d *DaemonState) read(ctx context.Context, invocation string, pid int) error {
	if pid == 0 || invocation == "" {
		return errors.New("systemd does not say which process is the daemon")
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// Only what the main process said counts (law 10), and journald wrote down who it was.
	args := []string{"--lines=all", "--output=json", "--quiet", "--output-fields=MESSAGE,_SYSTEMD_INVOCATION_ID,_PID",
		"_SYSTEMD_INVOCATION_ID=" + invocation, "_PID=" + strconv.Itoa(pid)}
	err := run.Follow(ctx, run.Spec{Path: "journalctl", Args: args}, func(text []byte) {
		l, _, ok := parseLine(text)
		switch {
		case !ok || l.Invocation != invocation || l.PID != pid || d.Told != "":
		case l.Said == Minted:
			d.Minted, d.ToldAt = true, l.Time
		default:
			d.Told, d.ToldAt = l.Said, l.Time
			stop()
		}
	})
	if d.Told == "" && d.Minted {
		d.Told = Minted
	}
	if d.Told != "" || errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("cannot read the journal of the daemon: %w", err)
}
