//go:build e2e

// Package e2e tells the stories of the README in Debian guests with a real systemd and
// a real Postgres: our own .deb, the stand-in daemon as containarium.service, and what
// happens to keys. `make e2e` runs it, as root.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/packaging/testing/guest"
)

// What the guests get, built once, and looked at by the linters once. The newer package
// differs by nothing but its version.
var (
	built         string // directory
	deb, newer    string
	rpms          []string // older first
	daemon        string
	fakes         = map[string]string{}
	unit, oldUnit = "../testing/standin/containarium.service", "../testing/standin/containarium-daemon.service"
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		var err error
		if built, err = os.MkdirTemp("", "keyguard-e2e-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(built) //nolint:errcheck // a leftover in the temporary directory
		if err := build(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			return 1
		}
		defer closeHosts()
		return m.Run()
	}())
}

func build() (err error) {
	if deb, err = buildPackage("package", "1.0.0"); err != nil {
		return err
	}
	if newer, err = buildPackage("build-package", "1.0.1"); err != nil {
		return err
	}
	for _, suite := range guest.Suites {
		hosts[suite] = &host{}
	}
	for _, name := range []string{"fake-secret-manager", "fake-incus", "webserver"} {
		fakes[name] = filepath.Join(built, name)
		if err := command("go", "build", "-o", fakes[name], "../testing/"+name); err != nil {
			return err
		}
	}
	daemon = filepath.Join(built, "containarium")
	return command("go", "build", "-o", daemon, "../testing/standin")
}

func buildPackage(target, version string) (string, error) {
	dist := filepath.Join(built, version)
	if err := makePackages(target, version, dist); err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(dist, "*.[dr][ep][bm]"))
	if err != nil || len(found) != 2 {
		return "", fmt.Errorf("make package made %q, %v", found, err)
	}
	slices.Sort(found)
	rpms = append(rpms, found[0]) // containarium-keyguard-1.0.0-1.x86_64.rpm sorts before containarium-keyguard_…
	return found[1], nil
}

func makePackages(target, version, dist string) error {
	return command("make", "-C", "../..", target, "VERSION="+version, "DIST="+dist, "ARCHS="+runtime.GOARCH)
}

func command(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// machine is a guest for one test, which fails where the guest does.
type machine struct {
	*testing.T
	g     *guest.Guest
	ctx   context.Context
	hangs *time.Timer // ends ctx
}

// inGuests runs a test in a booted guest of every suite.
func inGuests(t *testing.T, test func(machine)) {
	inNewGuests(t, func(m machine) {
		m.check(m.g.Boot(m.ctx))
		test(m)
	})
}

// inNewGuests runs a test in a guest of every suite that is not booted.
func inNewGuests(t *testing.T, test func(machine)) { onEach(t, newGuest, test) }

// onEach runs a test on a machine of every suite.
func onEach(t *testing.T, of func(t *testing.T, suite string) machine, test func(machine)) {
	t.Parallel()
	for _, suite := range guest.Suites {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			test(of(t, suite))
		})
	}
}

// newGuest is a guest that is not booted.
func newGuest(t *testing.T, suite string) machine {
	t.Helper()
	g, err := guest.New(t.Context(), suite, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	return closed(t, g)
}

// closed is that guest's machine in a test, at whose end it is thrown away.
func closed(t *testing.T, g *guest.Guest) machine {
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return watched(t, g)
}

// step is when a step of a test is held to hang. It takes seconds where there is nothing else
// to do; how long a whole test takes depends on what else the machine does.
const step = 6 * time.Minute

// watched is that guest's machine in a test, which fails where one of its steps hangs, and where
// the guest has told a key.
func watched(t *testing.T, g *guest.Guest) machine {
	ctx, cancel := context.WithCancel(t.Context())
	hangs := time.AfterFunc(step, cancel)
	t.Cleanup(func() {
		hangs.Stop()
		if t.Failed() {
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			journal, err := g.Run(last, "journalctl -q --no-pager -n 60")
			cancel()
			t.Logf("the end of the guest's journal (%v):\n%s", err, journal)
		} else {
			leaked(t, g)
		}
		cancel()
	})
	return machine{t, g, ctx, hangs}
}

// part is a part of a test, on the same machine.
func (m machine) part(name string, do func(machine)) {
	m.T.Run(name, func(t *testing.T) {
		n := m
		n.T = t
		do(n)
	})
}

func (m machine) check(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

// run returns what a script printed, without the last newline.
func (m machine) run(script string) string {
	m.Helper()
	m.hangs.Reset(step)
	out, err := m.g.Run(m.ctx, script)
	m.check(err)
	return strings.TrimSuffix(out, "\n")
}

// want fails the test unless the script prints that.
func (m machine) want(script, want string) {
	m.Helper()
	if got := m.run(script); got != want {
		m.Errorf("%s\nprints %q\nwant   %q", script, got, want)
	}
}

func (m machine) wait(script string) {
	m.Helper()
	m.hangs.Reset(step)
	m.check(m.g.Wait(m.ctx, script))
}

// addDaemon installs the stand-in under one of its names; more are variables.
func (m machine) addDaemon(unit string, more ...string) {
	m.Helper()
	m.check(m.g.AddDaemon(m.ctx, daemon, unit, append([]string{"STANDIN_INCUS=none", "CONTAINARIUM_POSTGRES_URL=" + guest.Postgres}, more...)...))
}

// startDaemon starts it, and returns when it holds a key.
func (m machine) startDaemon() {
	m.Helper()
	m.run("systemctl start containarium")
	m.waitJournal("containarium", "Secrets store ready")
}

// waitJournal waits for a line of the unit's present invocation, or for one that came after
// systemd began it: a process that is gone before journald looks at it has no unit.
func (m machine) waitJournal(unit, line string) {
	m.Helper()
	m.wait(fmt.Sprintf(`journalctl --sync
{ journalctl -q -o cat _SYSTEMD_INVOCATION_ID=$(systemctl show -p InvocationID --value %[1]s)
journalctl -q -o cat | awk '/^(Starting|Stopped) %[1]s.service/ { on = 1; n = 0 } on { said[n++] = $0 } END { for (i = 0; i < n; i++) print said[i] }'
} | grep -F '%[2]s'`, unit, line))
}

func (m machine) install(deb string) string {
	m.Helper()
	out, err := m.g.Install(m.ctx, deb)
	m.check(err)
	return out
}

// untouched runs something and fails the test if the daemon was restarted, stopped or
// started by it.
func (m machine) untouched(what string, f func()) {
	m.Helper()
	show := func() map[string]string {
		p, err := m.g.Show(m.ctx, "containarium", "NRestarts", "ActiveEnterTimestampMonotonic", "MainPID", "InvocationID")
		m.check(err)
		return p
	}
	before := show()
	f()
	for k, v := range show() {
		if v != before[k] {
			m.Errorf("%s: %s of the daemon was %s and is %s", what, k, before[k], v)
		}
	}
}
