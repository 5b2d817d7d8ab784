//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/footprintai/containarium-keyguard/packaging/testing/guest"
)

// host is a guarded host of a suite: made by the first test that wants one, and off.
// What tests get are clones of it.
type host struct {
	making sync.Once
	made   *guest.Guest // nil where that failed
}

const configFile = "/etc/containarium-keyguard/keyguard.toml"

var hosts = map[string]*host{} // by suite

func closeHosts() {
	for _, h := range hosts {
		if h.made != nil {
			if err := h.made.Close(); err != nil {
				fmt.Fprintln(os.Stderr, "e2e:", err)
			}
		}
	}
}

// onGuardedHosts runs a test on a guarded host of every suite, in a boot of its own.
func onGuardedHosts(t *testing.T, test func(machine)) { onEach(t, guardedHost, test) }

// guardedHost is a guarded host of that suite, booted and green.
func guardedHost(t *testing.T, suite string) machine {
	t.Helper()
	h := hosts[suite]
	h.making.Do(func() { h.make(t, suite) })
	if h.made == nil {
		t.Fatal("there is no guarded host")
	}
	g, err := h.made.Clone()
	if err != nil {
		t.Fatal(err)
	}
	m := closed(t, g)
	m.check(m.g.Boot(m.ctx))
	m.waitJournal("containarium", "Secrets store ready")
	m.wait("curl -sf -X DELETE " + control + "/calls")
	m.wait("keyguard status")
	return m
}

func (h *host) make(t *testing.T, suite string) {
	g, err := guest.New(t.Context(), suite, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if h.made == nil {
			g.Close() //nolint:errcheck // the test has failed
		}
	}()
	m := watched(t, g)
	m.check(g.Boot(m.ctx))
	m.guarded(unit)
	m.check(g.PowerOff(m.ctx))
	h.made = g
}

// guarded makes a host on which the daemon ran before keyguard came, with a secret in the
// database, the key in the escrow, and everything green.
func (m machine) guarded(unit string) {
	m.Helper()
	m.addDaemon(unit)
	name := strings.TrimSuffix(unit[strings.LastIndex(unit, "/")+1:], ".service")
	m.run("systemctl start " + name)
	m.waitJournal(name, "Secrets store ready")
	m.run("containarium secrets set alice TOKEN tea")
	m.addEscrow()
	m.addKeyguard(escrowConfig)
	m.run("keyguard init --yes")
	m.reload()
	m.run("keyguard status")
}
