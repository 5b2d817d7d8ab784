//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// /etc is read-only while the daemon starts, and no keyfile stands: no successor can be put
// in place and the start cannot be parked, so it is refused until it can.
func TestReadOnlyEtc(t *testing.T) {
	onGuardedHosts(t, func(m machine) {
		key := m.key()
		const closed = "mount --bind /etc /etc; mount -o remount,ro,bind /etc"
		for what, damage := range map[string]string{
			"gone":    "rm " + keyfile,
			"foreign": "head -c 32 /dev/urandom >/root/foreign; install -m 0400 /root/foreign " + keyfile,
		} {
			m.part(what, func(m machine) {
				// The watcher must not put it right before /etc is closed.
				m.run("systemctl stop containarium containarium-keyguard; " + damage + "; " + closed + "; systemctl start containarium-keyguard; systemctl start --no-block containarium")
				m.wait("[ $(systemctl show -p NRestarts --value containarium) -ge 2 ]")
				m.want("systemctl show -p ExecMainStartTimestamp --value containarium", "")
				m.neverMinted()
				m.run("umount --lazy /etc") // programs hold files there
				m.wait("systemctl is-active containarium")
				m.serves(key)
				m.run("systemctl reset-failed")
				m.wait("keyguard status")
			})
		}
	})
}

// A reload, another, and another, in less time than a beat of the watchdog, and one with a
// configuration that is wrong: the watcher lives, and looks after the key.
func TestReloads(t *testing.T) {
	onGuardedHosts(t, func(m machine) {
		key := m.key()
		m.drop(watcher, "watchdog", "[Service]\nWatchdogSec=4s\n")
		m.run("systemctl restart " + watcher)
		pid := m.run("systemctl show -p MainPID --value " + watcher)
		m.untouched("reloads", func() {
			for range 4 {
				m.reload()
				m.run("sleep 1.5") // what passes is the watchdog's own time
			}
			m.reloadInVain("cp -p " + configFile + " /root/good.toml; echo nonsense >>" + configFile)
			m.run("cp -p /root/good.toml " + configFile)
			m.reload()
			m.want("systemctl show -p MainPID --value "+watcher+"; systemctl show -p NRestarts --value "+watcher, pid+"\n0")
			m.run("rm " + keyfile)
			m.waitKey(key)
		})
		m.serves(key)
	})
}

// The disk of the host is put back to before a rotation, and the database is not: the key
// that it knows opens nothing any more. It is found before the daemon reads it.
func TestRolledBackPastARotation(t *testing.T) {
	onGuardedHosts(t, func(m machine) {
		old := m.key()
		m.run("cp -a /etc/containarium /root/etc; cp -a /var/lib/containarium-keyguard /root/state")
		m.run("keyguard rotate --yes")
		key := m.key()
		m.serves(key)
		m.drop("containarium", "slow", "[Service]\nEnvironment=STANDIN_READ_AFTER=/run/cores\n")
		m.run(`systemctl stop containarium containarium-keyguard
			rm -rf /etc/containarium /var/lib/containarium-keyguard
			mv /root/etc /etc/containarium; mv /root/state /var/lib/containarium-keyguard`)
		m.want("sha256sum <"+keyfile, old)
		m.check(m.g.Reboot(m.ctx))
		m.waitKey(key)
		m.run("touch /run/cores")
		m.serves(key)
		m.want("systemctl show -p NRestarts --value containarium; journalctl -b -q -o cat -u containarium | grep -c '^Started '", "0\n1")
		// The ledger of before does not know the copy on top: whose it is a person says (law 4).
		m.wait("keyguard status 2>&1 | grep -q 'keyguard accept'")
		m.run("keyguard accept --yes")
		m.wait("keyguard status")
		if current := m.shelf(""); len(current) == 0 || strings.Fields(current[len(current)-1])[0] != strings.Fields(key)[0] {
			m.Errorf("the newest current copy is of another key: %q", current)
		}
	})
}
