package main

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// TestStatusScreen: the verdict is the first line, the daemon and the watcher stand below
// it, and the exit code and what to type fit.
func TestStatusScreen(t *testing.T) {
	active := unit.State{Loaded: true, Active: "active"}
	daemon := func(is agent.DaemonIs, told unit.Said) agent.DaemonStanding {
		return agent.DaemonStanding{Is: is, DaemonState: unit.DaemonState{Name: "containarium.service", State: active, Told: told}}
	}
	for name, tt := range map[string]struct {
		change func(*agent.StatusResult)
		code   int
		shows  string // besides the verdict
		hint   string // the first
		ails   agent.Ails
	}{
		"green":        {func(r *agent.StatusResult) { r.Health = agent.Green; r.Daemon.Key = "0123456789abcdef" }, exitDone, "on key 0123456789abcdef\nwatcher   active\n", "", ""},
		"not read yet": {func(r *agent.StatusResult) { r.Health, r.Daemon = agent.Green, daemon(agent.DaemonUp, "") }, exitDone, "it has not read its key", "", ""},
		"masked": {func(r *agent.StatusResult) {
			r.Health, r.Daemon = agent.Green, agent.DaemonStanding{Is: agent.DaemonAbsent}
			r.Daemon.Enabled = "masked"
		}, exitDone, "masked: systemd starts it for nobody", "", ""},
		"stopped": {func(r *agent.StatusResult) {
			r.Health, r.Daemon.Is, r.Daemon.Active = agent.Green, agent.DaemonDown, "inactive"
		}, exitDone, "not running (inactive)", "", ""},
		"never up": {func(r *agent.StatusResult) {
			r.Daemon.Is, r.Daemon.Active, r.Daemon.Failing = agent.DaemonDown, "activating", true
		}, exitEscrow, "not running (activating)", "see why: journalctl -u containarium.service -e; when it is put right: systemctl restart containarium.service", agent.AilsDaemon},
		"left stopped": {func(r *agent.StatusResult) {
			r.LeftDown, r.Daemon.Is, r.Daemon.Active = true, agent.DaemonDown, "inactive"
		}, exitEscrow, "not running (inactive)", "systemctl start containarium.service", agent.AilsLeftDown},
		"parked":        {func(r *agent.StatusResult) { r.Daemon = daemon(agent.DaemonParked, unit.Empty) }, exitEscrow, "parked: on an empty keyfile", "", agent.AilsDaemon},
		"Postgres late": {func(r *agent.StatusResult) { r.Daemon = daemon(agent.DaemonNoSecrets, unit.Untouched) }, exitEscrow, "without secrets; restart needed", "systemctl restart containarium.service", agent.AilsDaemon},
		"another key":   {func(r *agent.StatusResult) { r.Daemon = daemon(agent.DaemonOtherKey, unit.Ready) }, exitEscrow, "restart needed", "systemctl restart containarium.service", agent.AilsDaemon},
		"another key, and what is there was never tried": {func(r *agent.StatusResult) {
			r.Daemon = daemon(agent.DaemonOtherKey, unit.Ready)
			r.Rows = decide.RowsEvidence{State: decide.RowsUnknown, Err: rows.ErrNotListening}
			r.Known, r.Accepted, r.Look = r.Keyfile.Key, true, rows.Unknown
		}, exitEscrow, "", "start Postgres, then: keyguard status", agent.AilsDaemon},
		"Postgres refuses still": {func(r *agent.StatusResult) {
			r.Daemon = daemon(agent.DaemonNoSecrets, unit.Untouched)
			r.Rows = decide.RowsEvidence{State: decide.RowsUnknown, Err: rows.ErrPassword}
		}, exitEscrow, "", "check the password where the daemon's database URL stands ([database] url_file), then: keyguard verify", agent.AilsDaemon},
		"accepted, and the daemon has not made its table": {func(r *agent.StatusResult) {
			r.Rows = decide.RowsEvidence{State: decide.RowsUnknown, Err: rows.ErrNoTable}
			r.Known, r.Accepted = r.Keyfile.Key, true
		}, exitEscrow, "", "wait until the daemon has made its table, which it does when it starts, then: keyguard status; if it never does: is this the daemon's database ([database])?", agent.AilsUnproven},
		"a minted key is there, and a start does not ask": {func(r *agent.StatusResult) {
			r.Health, r.Decision = agent.Unsure, decide.Decision{Action: decide.Install, Key: "bbbbbbbbbbbbbbbb"}
			r.Daemon, r.Known, r.Keyfile = daemon(agent.DaemonUp, unit.Ready), "bbbbbbbbbbbbbbbb", decide.KeyfileEvidence{Good: true, Key: "aaaaaaaaaaaaaaaa"}
			r.Daemon.Unasked = "overridden"
		}, exitDoubt, "", "keyguard restore; then: systemctl restart containarium.service", agent.AilsKeyfile},
		"no answer": {func(r *agent.StatusResult) {
			r.Daemon = agent.DaemonStanding{Is: agent.DaemonUnknown, Err: errors.New("no bus")}
		}, exitEscrow, "unknown: no bus", "systemctl status containarium.service", agent.AilsDaemon},
		"on which key nobody knows": {func(r *agent.StatusResult) {
			r.Daemon = daemon(agent.DaemonUntold, unit.Ready)
			r.Daemon.Err = agent.ErrUntold
		}, exitEscrow, "on which key nobody can tell: the keyfile was", "systemctl restart containarium.service", agent.AilsDaemon},
		"watcher stopped": {func(r *agent.StatusResult) { r.Watcher.Active = "inactive" }, exitEscrow, "watcher   inactive", "systemctl enable --now containarium-keyguard.service", agent.AilsWatcher},
		"timer stopped":   {func(r *agent.StatusResult) { r.Drill.Next.Active = "inactive" }, exitEscrow, "its timer is inactive", "systemctl enable --now containarium-keyguard-drill.timer", agent.AilsTimer},
		"loose":           {func(r *agent.StatusResult) { r.Health, r.Loose, r.Path = agent.Amiss, "mode 0644", "/k" }, exitEscrow, "(mode 0644)", "chown root /k; chmod 0400 /k", agent.AilsLoose},
		"immutable": {func(r *agent.StatusResult) {
			r.Health, r.Decision, r.Immutable = agent.Unsure, decide.Decision{Action: decide.Install, Key: "bbbbbbbbbbbbbbbb"}, "/k"
		}, exitDoubt, "", "chattr -i /k, first: nobody can change it as it is, root neither", agent.AilsKeyfile},
		"full": {func(r *agent.StatusResult) {
			r.Health, r.Decision, r.Full = agent.Unsure, decide.Decision{Action: decide.Install, Key: "bbbbbbbbbbbbbbbb"}, "/etc/c"
		}, exitDoubt, "", "make room in /etc/c (df, df -i), first: it is full, and no key can be put there", agent.AilsKeyfile},
		"a broken ledger": {func(r *agent.StatusResult) { r.Health, r.Damaged = agent.Amiss, "rubbish" }, exitEscrow, "", "look at the ledger (keyguard report --verify), keep what is left of it elsewhere, then: keyguard backup", agent.AilsUnread},
		"read-only state": {func(r *agent.StatusResult) { r.Health, r.Unwritable = agent.Amiss, syscall.EROFS }, exitEscrow, "", "the file system is read-only; see dmesg, remount it writable (mount -o remount,rw), then see: keyguard status", agent.AilsUnwritable},
		"a dump of before, not looked at": {func(r *agent.StatusResult) {
			r.Health, r.Decision = agent.Unsure, decide.Decision{Action: decide.Install, Key: "bbbbbbbbbbbbbbbb"}
			r.Daemon, r.Known, r.Keyfile = daemon(agent.DaemonUp, unit.Ready), "aaaaaaaaaaaaaaaa", decide.KeyfileEvidence{Good: true, Key: "aaaaaaaaaaaaaaaa"}
		}, exitDoubt, "", "keyguard restore; then: systemctl restart containarium.service", agent.AilsKeyfile},
		"a dump of before, looked at": {func(r *agent.StatusResult) {
			r.Health, r.Decision = agent.Unsure, decide.Decision{Action: decide.Install, Key: "bbbbbbbbbbbbbbbb"}
			r.Daemon, r.Known, r.Keyfile = daemon(agent.DaemonUp, unit.Ready), "bbbbbbbbbbbbbbbb", decide.KeyfileEvidence{Good: true, Key: "aaaaaaaaaaaaaaaa"}
		}, exitDoubt, "", "systemctl restart containarium.service", agent.AilsKeyfile},
		"no copy of a key that was in use": {func(r *agent.StatusResult) {
			r.Health, r.Decision, r.Rows.State = agent.Unsure, decide.Decision{Rule: "R4", Action: decide.Doubt}, decide.RowsSilent
		}, exitDoubt, "", noCopy, agent.AilsDoubt},
		"a split table, and a copy that nobody can read": {func(r *agent.StatusResult) {
			r.Health, r.Decision = agent.Unsure, decide.Decision{Rule: "R3", Action: decide.Doubt}
			r.Rows = decide.RowsEvidence{State: decide.RowsAnswer, Proofs: map[key.Fingerprint]rows.Proof{"aaaaaaaaaaaaaaaa": {Checked: 14, Opened: 4}, "bbbbbbbbbbbbbbbb": {Checked: 14, Opened: 7}}}
		}, exitDoubt, "", "keyguard repair", agent.AilsDoubt},
		"an edited ledger": {func(r *agent.StatusResult) { r.Health, r.Broken = agent.Amiss, &ledger.Break{Line: 3} }, exitEscrow, "", seenToLedger, agent.AilsBroken},
		"rubbish for a ledger": {func(r *agent.StatusResult) {
			r.Health, r.Damaged, r.Broken = agent.Amiss, "rubbish", &ledger.Break{Line: 1}
		}, exitEscrow, "", seenToLedger, agent.AilsUnread},
		"nothing in its place, and no watcher": {func(r *agent.StatusResult) {
			r.Health, r.Decision, r.Watcher.Active = agent.Unsure, decide.Decision{Action: decide.Install, Key: "aaaaaaaaaaaaaaaa"}, "inactive"
			r.Daemon.Key = r.Decision.Key
		}, exitDoubt, "", "systemctl enable --now containarium-keyguard.service", agent.AilsKeyfile},
		"nothing in its place, and a watcher that failed": {func(r *agent.StatusResult) {
			r.Health, r.Decision, r.Watcher.Active = agent.Unsure, decide.Decision{Action: decide.Install, Key: "aaaaaaaaaaaaaaaa"}, "failed"
			r.Daemon.Key = r.Decision.Key
		}, exitDoubt, "", "keyguard restore", agent.AilsKeyfile},
		"rotation": {func(r *agent.StatusResult) { r.Health, r.Working = agent.Busy, &agent.Working{What: "rotation"} }, exitBusy, "", "follow it: journalctl -fu containarium-keyguard-rotate.service; when it is done: keyguard status", agent.AilsWorking},
	} {
		t.Run(name, func(t *testing.T) {
			r := agent.StatusResult{Health: agent.Amiss, Line: "the verdict", Units: true, Daemon: daemon(agent.DaemonUp, unit.Ready),
				Decision: decide.Decision{Action: decide.Pass}, Watcher: unit.WatcherState{State: active}}
			r.Drill.Next.State = active
			tt.change(&r)
			if tt.ails != "" {
				r.Ailments = []agent.Ailment{{Ails: tt.ails, Health: r.Health, Line: r.Line}}
			}
			var out, said bytes.Buffer
			a := &app{out: &out, err: &said}
			var end outcome
			errors.As(a.printStatus(r), &end)
			if first, _, _ := strings.Cut(out.String(), "\n"); end.code != tt.code || first != string(r.Health)+": the verdict" {
				t.Errorf("ends with %d, and the first line is %q", end.code, first)
			}
			if !strings.Contains(out.String(), tt.shows) {
				t.Errorf("%q is not shown:\n%s", tt.shows, &out)
			}
			if tt.hint != "" && (len(end.hints) == 0 || end.hints[0] != tt.hint) {
				t.Errorf("hints: %q", end.hints)
			}
		})
	}
}

// TestWaitForASave: where only a save of another key that is under way bars the key, time mends it,
// and nobody is sent to store a secret.
func TestWaitForASave(t *testing.T) {
	until := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	silent := decide.RowsEvidence{State: decide.RowsSilent}
	want := []string{"wait until " + when(until) + ", by when that save has ended, then: keyguard backup"}
	said := ailRemedies[agent.AilsBarred](agent.StatusResult{Rows: silent},
		agent.Ailment{Ails: agent.AilsBarred, Escrow: &agent.EscrowStatus{Name: "usb", Barred: decide.Bar{Why: "b", Waits: until}}})
	if !slices.Equal(said, want) {
		t.Errorf("status says %q", said)
	}
	a := &app{out: io.Discard, err: io.Discard}
	var end outcome
	errors.As(a.judgeSaves("0123456789abcdef", silent, []agent.SaveResult{{Escrow: "usb", Shelf: escrow.Quarantine, Bar: decide.Bar{Why: "b", Waits: until}}}), &end)
	if end.code != exitRefused || !slices.Equal(end.hints, want) {
		t.Errorf("backup exits %d and says %q", end.code, end.hints)
	}
}
