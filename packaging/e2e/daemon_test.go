//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// What keyguard is there against: left alone, the daemon starts on a host without a
// key file, makes a key over the ciphertext of another, and nobody can read anything.
func TestDaemonAlone(t *testing.T) {
	inGuests(t, func(m machine) {
		m.addDaemon(unit)
		m.startDaemon()
		m.waitJournal("containarium", "[secrets] NEW MASTER KEY generated at /etc/containarium/secrets.key — back this up off-host")
		m.want("stat -c '%a %U %s' /etc/containarium/secrets.key", "400 root 32")
		m.run("containarium secrets set alice TOKEN tea")
		m.want("containarium secrets get alice TOKEN", "tea")
		m.want("journalctl -q -o verbose -u containarium | grep -c SYSLOG_IDENTIFIER=containarium$ | sed 's/[1-9].*/some/'", "some")

		m.run("rm /etc/containarium/secrets.key; systemctl restart containarium")
		m.waitJournal("containarium", "NEW MASTER KEY generated")
		m.wait("containarium secrets list")
		if out := m.run("containarium secrets get alice 2>&1 || true"); !strings.Contains(out, "tampered or wrong key") {
			m.Errorf("under a new key the old row reads %q", out)
		}

		m.run("systemctl stop containarium; chmod 0644 /etc/containarium/secrets.key; systemctl start containarium")
		m.waitJournal("containarium", "Warning: Failed to load secrets master key: master key /etc/containarium/secrets.key has insecure permissions 0644")

		m.check(m.g.Reboot(m.ctx))
		m.waitJournal("containarium", "Secrets disabled.")
		m.want("systemctl is-active containarium", "active")
	})
}
