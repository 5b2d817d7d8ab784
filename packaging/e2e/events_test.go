//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

const (
	hooksDir = "/etc/containarium-keyguard/hooks.d"
	told     = "/run/containarium-keyguard/told"
	metrics  = "/var/lib/prometheus/node-exporter/keyguard.prom"
	// MESSAGE_IDs, by which people select entries and the catalog explains them.
	installedID  = "9f97b628ec5d4c688bebffa3b94560ac"
	unitFailedID = "1a2791da1c9d4a779a4606245e553de2"
)

// A key is lost and put back, and then a unit of ours fails. Of both there is a call of a
// hook, a mail, a metric, and an entry in the journal that journalctl -x explains.
func TestTold(t *testing.T) {
	onGuardedHosts(t, func(m machine) {
		m.run("mkdir -p /var/lib/prometheus/node-exporter; install -m 0755 /usr/share/doc/containarium-keyguard/examples/hooks.d/mail " + hooksDir)
		m.check(m.g.Write(m.ctx, hooksDir+"/record", "#!/bin/sh\necho \"$KEYGUARD_EVENT $KEYGUARD_FINGERPRINT$KEYGUARD_UNIT\" >>"+told+"\n", 0o755))
		// Like most, it delivers by a privilege that the watcher's sandbox does not give.
		m.check(m.g.Write(m.ctx, "/usr/sbin/sendmail", "#!/bin/sh\ngrep -q '^NoNewPrivs:.*0' /proc/self/status && cat >>/root/mail\n", 0o755))
		m.run("install -m 0755 /usr/share/doc/containarium-keyguard/examples/hooks.d/push-status " + hooksDir)
		m.check(m.g.Write(m.ctx, "/etc/containarium-keyguard/push-status.curl", "url = \"file:///run/containarium-keyguard/\"\n", 0o600))
		m.run("systemctl restart " + watcher) // its sandbox has the directory of the metrics now

		m.untouched("told", func() {
			m.run("rm " + keyfile)
			m.wait("grep '^installed [0-9a-f]' " + told)
			m.wait("grep 'Subject: \\[keyguard\\] installed' /root/mail")
			// As seen outside of the sandbox: the daemon and the watcher run.
			m.wait("keyguard status >/dev/null && KEYGUARD_HOST=by-hand " + hooksDir + "/push-status && cd /run/containarium-keyguard && grep '\"health\": \"green\"' by-hand.json && grep '\"host\": \"keyguard-guest\"' keyguard-guest.json")
		})
		m.wait("grep -x 'keyguard_keyfile_good 1' " + metrics + " && grep -x 'keyguard_key_known 1' " + metrics + " && grep 'keyguard_escrow_due_keys{escrow=\"gcp\"} 0' " + metrics)
		m.explained(installedID, "KEYGUARD_EVENT=installed", "What was in its")

		m.run("systemctl kill --signal=KILL " + watcher)
		m.wait("grep -x 'unit-failed containarium-keyguard.service' " + told)
		m.wait("grep 'Subject: \\[keyguard\\] unit-failed' /root/mail")
		m.wait("grep 'keyguard_unit_failed_timestamp_seconds{unit=\"containarium-keyguard.service\"} [1-9]' " + metrics)
		m.explained(unitFailedID, "KEYGUARD_UNIT=containarium-keyguard.service", "A unit of keyguard's own has failed")
		m.wait("systemctl is-active " + watcher)

		// A hook that hangs holds up nothing.
		m.check(m.g.Write(m.ctx, hooksDir+"/hangs", "#!/bin/sh\nsleep 1000\n", 0o755))
		m.run("rm " + keyfile)
		m.wait("[ $(stat -c %s " + keyfile + ") = 32 ]")
		m.wait("[ $(grep -c '^installed' " + told + ") = 2 ]")

		m.run("apt-get purge -y containarium-keyguard")
		m.want("journalctl --list-catalog "+installedID+" 2>&1 | grep -c keyfile || true", "0")
	})
}

// explained wants an entry with these fields, and what journalctl -x says of it.
func (m machine) explained(id, field, text string) {
	m.Helper()
	m.wait("journalctl --sync; journalctl -q -x -o verbose MESSAGE_ID=" + id + " | grep -F '" + field + "'")
	if got := m.run("journalctl -q -x MESSAGE_ID=" + id); !strings.Contains(got, text) || !strings.Contains(got, "Defined-By: keyguard") {
		m.Errorf("journalctl -x does not explain it:\n%s", got)
	}
}
