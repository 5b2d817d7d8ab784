//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/packaging/testing/guest"
)

const (
	keyfile    = "/etc/containarium/secrets.key"
	quarantine = "/var/lib/containarium-keyguard/quarantine"
	control    = "http://127.0.0.1:8087"

	escrowConfig = `
[[escrow]]
name = "gcp"
kind = "gcp-secret-manager"
project = "stories"
secret = "containarium-{hostname}-secrets-master"
endpoint = "127.0.0.1:8085"
plaintext = true
`
	// secret is what the host's name makes of it.
	secret = "containarium-keyguard-guest-secrets-master"

	// reloads counts the answers of the watcher to a reload.
	reloads = "journalctl --sync; journalctl -q -o cat -u containarium-keyguard | grep -c 'is reloaded\\|is not reloaded' || true"

	fakeUnit = `[Unit]
Description=fake %[1]s
[Service]
StateDirectory=%[1]s
ExecStart=/usr/local/bin/%[1]s %[2]s
[Install]
WantedBy=multi-user.target
`
)

// addFake installs one of our fakes as a service and starts it.
func (m machine) addFake(name, arguments string) {
	m.Helper()
	m.check(m.g.Copy(m.ctx, fakes[name], "/usr/local/bin/"+name, 0o755))
	m.check(m.g.Write(m.ctx, "/etc/systemd/system/"+name+".service", fmt.Sprintf(fakeUnit, name, arguments), 0o644))
	m.run("systemctl daemon-reload; systemctl enable --now " + name)
}

// addEscrow starts a Secret Manager on the guest's loopback, with its disk elsewhere.
func (m machine) addEscrow() {
	m.Helper()
	m.addFake("fake-secret-manager", "--anonymous --unlimited --dir /var/lib/fake-secret-manager")
	m.wait("curl -sf " + control + "/calls")
}

// addKeyguard installs the package with that configuration.
func (m machine) addKeyguard(config string) {
	m.Helper()
	m.install(deb)
	m.check(m.g.Write(m.ctx, "/etc/containarium-keyguard/keyguard.toml", config, 0o600))
	m.run("keyguard config")
	m.reload()
}

// reload makes the watcher read its configuration anew.
func (m machine) reload() {
	m.Helper()
	before := m.run(reloads)
	m.run("systemctl reload containarium-keyguard")
	m.wait("[ $(" + reloads + ") -gt " + before + " ]")
}

// reloadInVain changes the configuration to one that cannot be used: the reload says so.
func (m machine) reloadInVain(change string) {
	m.Helper()
	before := m.run(reloads)
	m.run(change + "; ! systemctl reload containarium-keyguard 2>/dev/null")
	m.wait("[ $(" + reloads + ") -gt " + before + " ]")
}

// noWatcher ends the watcher: a start that cannot tell which key is right is refused
// then, and not parked.
func (m machine) noWatcher() {
	m.Helper()
	m.run("systemctl stop containarium-keyguard")
}

func (m machine) key() string {
	m.Helper()
	return m.run("sha256sum <" + keyfile)
}

// restart starts the daemon anew and sees that it reads the old secret under the key.
func (m machine) restart(key string) {
	m.Helper()
	m.run("systemctl restart containarium")
	m.serves(key)
}

func (m machine) serves(key string) {
	m.Helper()
	m.waitJournal("containarium", "Secrets store ready")
	m.want("sha256sum <"+keyfile, key)
	m.want("stat -c '%F %a %U:%G' "+keyfile, "regular file 400 root:root")
	m.want("containarium secrets get alice TOKEN", "tea")
	m.want("ls "+keyfile+".next 2>/dev/null || true", "")
	m.neverMinted()
}

// neverMinted is law 2, over the whole life of the guest since keyguard came.
func (m machine) neverMinted() {
	m.Helper()
	m.daemonMade(1) // before keyguard
}

// daemonMade counts the keys that the daemon has made, by the journal of this machine.
func (m machine) daemonMade(keys int) {
	m.Helper()
	m.want("journalctl --sync; journalctl -q -o cat | grep 'NEW MASTER KEY' | wc -l", strconv.Itoa(keys))
}

// says looks for a line of the hook in this invocation of the daemon.
func (m machine) says(line string) {
	m.Helper()
	m.waitJournal("containarium", line)
}

// keeps looks for bytes in the local quarantine, by their SHA-256.
func (m machine) keeps(sum string) {
	m.Helper()
	m.wait("[ $(sha256sum " + quarantine + "/* | grep -c '^" + strings.Fields(sum)[0] + "') = 1 ]")
}

// What happens to a key file, one after the other on one host, and is put right by the
// daemon's start alone.
func TestKeyfile(t *testing.T) {
	onGuardedHosts(t, func(m machine) {
		m.noWatcher()
		key := m.key()
		m.restart(key)

		step := func(name, damage string, then func(machine)) {
			m.part(name, func(m machine) {
				m.run("systemctl stop containarium; " + damage)
				m.restart(key)
				if then != nil {
					then(m)
				}
			})
		}
		step("restart", "true", nil)
		step("deleted", "rm "+keyfile, func(m machine) { m.says("is in place now") })
		step("directory deleted", "rm -r /etc/containarium", nil)
		step("foreign", "head -c 32 /dev/urandom >/root/foreign; install -m 0400 /root/foreign "+keyfile, func(m machine) {
			m.keeps(m.run("sha256sum /root/foreign"))
		})
		step("truncated", "head -c 31 "+keyfile+" >/root/short; install -m 0400 /root/short "+keyfile, func(m machine) {
			m.keeps(m.run("sha256sum /root/short"))
		})
		step("empty", "install -m 0400 /dev/null "+keyfile, nil)
		step("base64", "base64 "+keyfile+" >/root/b64; install -m 0400 /root/b64 "+keyfile, nil)
		step("world-readable", "chmod 0644 "+keyfile, func(m machine) { m.says("was loose") })
		step("another owner", "chown 1000 "+keyfile, nil)
		step("symlink to where anybody writes", "mv "+keyfile+" /tmp/elsewhere; ln -s /tmp/elsewhere "+keyfile, func(m machine) {
			m.run("rm /tmp/elsewhere") // the key that this test left there itself
		})
		step("dangling symlink", "rm "+keyfile+"; ln -s /nowhere/key "+keyfile, nil)
		step("directory", "rm "+keyfile+"; mkdir "+keyfile, nil)
		step("fifo", "rm "+keyfile+"; mkfifo "+keyfile, nil)
		// All is well but for the watcher, which this story does without.
		m.run("keyguard status >/root/status || [ $? = 12 ]; head -n 1 /root/status | grep -q 'the watcher does not run'")
	})
}

// A cold boot is a start without a network and, for a while, without Postgres.
func TestColdBoot(t *testing.T) {
	onGuardedHosts(t, func(m machine) {
		key := m.key()
		m.check(m.g.Reboot(m.ctx))
		m.serves(key)

		// Postgres stays down, and the key is gone: the fingerprint says which is right.
		m.noWatcher()
		m.run("systemctl disable postgresql; rm " + keyfile)
		m.check(m.g.Reboot(m.ctx))
		m.want("systemctl is-active containarium postgresql || true", "active\ninactive")
		m.want("sha256sum <"+keyfile, key)
		m.waitJournal("containarium", "Warning: Failed to connect to Postgres for secrets store")
		m.run("systemctl start postgresql")
		m.restart(key)
	})
}

// keyguard's own end never stops the daemon, and never lets it make a key.
func TestKeyguardGone(t *testing.T) {
	onGuardedHosts(t, func(m machine) {
		m.noWatcher()
		key := m.key()
		for what, broken := range map[string]string{
			"removed": "true",
			"killed":  `printf '#!/bin/sh\nkill -KILL $$\n' >/usr/bin/keyguard; chmod 0755 /usr/bin/keyguard`,
		} {
			m.run("mv /usr/bin/keyguard /root/keyguard; " + broken)
			m.restart(key)
			m.says("which decides nothing")

			m.run("systemctl stop containarium; mv " + keyfile + " /root/key; systemctl start containarium")
			m.says("Warning: Failed to load secrets master key: secrets: master key must be exactly 32 bytes")
			m.says("keeps the daemon from making a new key")
			m.want("stat -c '%a %s' "+keyfile, "400 0")
			m.neverMinted()

			m.run("mv /root/keyguard /usr/bin/keyguard")
			m.restart(key)
			m.Log("with keyguard", what, "the daemon ran, and minted nothing")
		}
	})
}

// With the key gone, no copy to be had and the watcher dead the daemon is refused, again
// and again, and the store is not hammered; when it answers, the next attempt succeeds by
// itself. Meanwhile the package is upgraded, which changes nothing.
func TestRestartLoop(t *testing.T) {
	onGuardedHosts(t, func(m machine) {
		key := m.key()
		m.check(m.g.Write(m.ctx, "/etc/systemd/system/containarium.service.d/secrets.conf", "[Service]\nRestartSec=200ms\nRestartSteps=0\n", 0o644))
		m.noWatcher()
		m.run("systemctl daemon-reload; systemctl stop containarium; rm -f " + keyfile + " " + quarantine + "/*")
		m.run("curl -sf -d '{\"Kind\":\"fail\",\"Code\":14}' " + control + "/faults; curl -sf -X DELETE " + control + "/calls")
		m.run("! systemctl start containarium")
		m.wait("[ $(systemctl show -p NRestarts --value containarium) -ge 15 ]")
		m.want("systemctl show -p ExecMainStartTimestamp --value containarium; ls "+keyfile+" 2>/dev/null || true", "")
		// In these few seconds the back-off, 5 s doubling, lets through one round or two
		// of listing two shelves.
		var calls map[string]int
		m.check(json.Unmarshal([]byte(m.run("curl -sf "+control+"/calls")), &calls))
		sum := 0
		for _, n := range calls {
			sum += n
		}
		if sum == 0 || sum > 6 {
			m.Errorf("15 refusals made %d calls: %v", sum, calls)
		}
		m.install(newer)
		m.want("systemctl is-active containarium-keyguard || true", "inactive")
		m.wait("[ $(systemctl show -p NRestarts --value containarium) -ge $((" + m.run("systemctl show -p NRestarts --value containarium") + " + 3)) ]")
		m.want("systemctl show -p ExecMainStartTimestamp --value containarium; ls "+keyfile+" 2>/dev/null || true", "")
		m.run("curl -sf -X DELETE " + control + "/faults")
		m.serves(key)
	})
}

// A host's first start: nothing is anywhere, the daemon itself makes the database, and
// the key is in the escrow before the daemon reads it. Then the boot disk is lost.
func TestFirstStartAndFreshDisk(t *testing.T) {
	inGuests(t, func(m machine) {
		m.run("systemctl disable --now postgresql")
		m.addFake("fake-incus", "--run 'systemctl start postgresql; until pg_isready -q -h 127.0.0.1; do sleep 0.1; done'")
		m.addEscrow()
		m.addKeyguard(escrowConfig)
		m.run("keyguard init --yes || true")
		m.check(m.g.AddDaemon(m.ctx, daemon, unit))
		m.startDaemon()
		// The watcher may have come before the daemon's start: it decides by the same rules.
		m.wait("journalctl --sync; journalctl -q -o cat -u containarium -u " + watcher + " | grep 'first start: key'")
		key := m.key()
		// In the daemon's own words: the key that it read is the only version there.
		m.want(fmt.Sprintf(`curl -sf '%s/version?secret=projects/stories/secrets/%s'`, control, secret),
			`["`+m.run("base64 "+keyfile)+`"]`)
		m.run("containarium secrets set alice TOKEN tea")
		m.restart2(key)

		// The boot disk is rebuilt, the data disk with Postgres is kept.
		m.run(`systemctl stop containarium
			apt-get purge -y containarium-keyguard
			rm -rf /etc/containarium /var/lib/containarium /var/lib/containarium-keyguard; mkdir -m 0700 /etc/containarium`)
		m.addKeyguard(escrowConfig)
		m.run("keyguard init --yes || true")
		m.restart2(key)
	})
}

// restart2 is restart on a host where the daemon never minted, not even before keyguard.
func (m machine) restart2(key string) {
	m.Helper()
	m.run("systemctl restart containarium")
	m.waitJournal("containarium", "Secrets store ready")
	m.want("sha256sum <"+keyfile, key)
	m.want("containarium secrets get alice TOKEN", "tea")
	m.daemonMade(0)
}

// Once every row is under an outside KMS the key file opens nothing. It is kept all the
// same: the daemon would mint a decoy.
func TestRetiredKeyfile(t *testing.T) {
	onGuardedHosts(t, func(m machine) {
		key := m.key()
		kms := "CONTAINARIUM_KMS_BACKEND=vault CONTAINARIUM_REQUIRE_ENVELOPE=1"
		m.run("CONTAINARIUM_POSTGRES_URL='" + guest.Postgres + "' STANDIN_INCUS=none " + kms + " containarium secrets migrate-to-envelope")
		m.check(m.g.Write(m.ctx, "/etc/systemd/system/containarium.service.d/secrets.conf", "[Service]\nEnvironment="+kms+"\n", 0o644))
		m.run("systemctl daemon-reload")
		m.restart(key)
		m.noWatcher()
		m.run("systemctl stop containarium; rm " + keyfile)
		m.restart(key)
	})
}

// Older hosts call the unit containarium-daemon.service.
func TestOldUnitName(t *testing.T) {
	inGuests(t, func(m machine) {
		m.guarded(oldUnit)
		m.noWatcher()
		key := m.key()
		m.run("systemctl stop containarium-daemon; rm " + keyfile + "; systemctl start containarium-daemon")
		m.waitJournal("containarium-daemon", "Secrets store ready")
		m.want("sha256sum <"+keyfile, key)
		m.want("containarium secrets get alice TOKEN", "tea")
		m.neverMinted()
	})
}

// Upgrade and removal on a host that is guarded: the daemon does not notice, and after
// a purge the keys are where they were.
func TestPackageOnGuardedHost(t *testing.T) {
	onGuardedHosts(t, func(m machine) {
		key := m.key()
		m.run("systemctl stop containarium; head -c 32 /dev/urandom >/root/foreign; install -m 0400 /root/foreign " + keyfile)
		m.restart(key)
		m.keeps(m.run("sha256sum /root/foreign"))
		m.untouched("upgrade", func() { m.install(newer) })
		m.want("grep -c '"+secret+"' /etc/containarium-keyguard/keyguard.toml", "1")
		m.restart(key)
		m.untouched("remove", func() { m.run("apt-get remove -y containarium-keyguard") })
		m.restart(key)
		m.untouched("reinstall", func() { m.install(newer) })
		m.run("keyguard status")
		m.untouched("purge", func() { m.run("apt-get purge -y containarium-keyguard") })
		m.keeps(m.run("sha256sum /root/foreign"))
		m.restart(key)
	})
}
