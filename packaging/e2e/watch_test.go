//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/packaging/testing/guest"
)

const (
	watcher = "containarium-keyguard"
	// aside is another program of the daemon's that loads the key, or mints one without a
	// word, and then fails on the old rows.
	aside = "STANDIN_INCUS=none CONTAINARIUM_POSTGRES_URL='" + guest.Postgres + "' CONTAINARIUM_KMS_BACKEND=inproc containarium secrets migrate-to-envelope || true; "
	// minted is that program on a host whose key is gone.
	minted = "rm " + keyfile + "; " + aside + "sha256sum <" + keyfile
	incus  = "--run 'systemctl start postgresql; until pg_isready -q -h 127.0.0.1; do sleep 0.1; done'"
)

// shelf is the SHA-256 of each version of the current or the quarantine secret, newest
// last, as sha256sum prints it.
func (m machine) shelf(suffix string) []string {
	m.Helper()
	out := m.run(fmt.Sprintf(`curl -sf '%s/version?secret=projects/stories/secrets/%s' | tr -d '[]"' | tr , '\n' | while read -r v || [ "$v" ]; do
		[ "$v" = null ] || echo "$v" | base64 -d | sha256sum; done`, control, secret+suffix))
	if out == "" {
		return nil
	}
	return strings.Split(out, "\n")
}

// onlyCurrent is law 4: nothing but this key ever got to the current shelf.
func (m machine) onlyCurrent(key string) {
	m.Helper()
	for _, sum := range m.shelf("") {
		if sum != key {
			m.Errorf("the current shelf holds %s, and the key is %s", sum, key)
		}
	}
}

// waitQuarantined waits until the escrow's quarantine holds that key.
func (m machine) waitQuarantined(sum string) {
	m.Helper()
	for began := time.Now(); ; {
		for _, s := range m.shelf("-quarantine") {
			if s == sum {
				return
			}
		}
		if time.Since(began) > step {
			m.Fatalf("the quarantine never holds %s", sum)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (m machine) waitKey(key string) {
	m.Helper()
	m.wait("[ \"$(sha256sum <" + keyfile + ")\" = '" + key + "' ]")
}

// drop writes a drop-in for a unit.
func (m machine) drop(unit, name, content string) {
	m.Helper()
	m.check(m.g.Write(m.ctx, "/etc/systemd/system/"+unit+".service.d/"+name+".conf", content, 0o644))
	m.run("systemctl daemon-reload")
}

// fault makes the Secret Manager misbehave, as escrowtest/secretmanager.Fault says.
func (m machine) fault(json string) {
	m.Helper()
	m.run("curl -sf -d '" + json + "' " + control + "/faults; curl -sf -X DELETE " + control + "/calls")
}

// starts counts the starts of the daemon in this boot.
func (m machine) starts() int {
	m.Helper()
	n, err := strconv.Atoi(m.run("journalctl --sync; journalctl -b -q -o cat -u containarium | grep -c '^Started ' || true"))
	m.check(err)
	return n
}

// Under a running daemon the key file is deleted, damaged, made readable: it is back
// at the event, for no look comes by itself, and the daemon does not notice.
func TestWatcher(t *testing.T) {
	onGuardedHosts(t, func(m machine) {
		key := m.key()
		m.run("sed -i '1i [watch]\\nrescan = \"1h\"' " + configFile)
		m.reload()
		for name, damage := range map[string]string{
			"deleted":        "rm " + keyfile,
			"with its place": "mv /etc/containarium /etc/elsewhere; rm /etc/elsewhere/secrets.key",
			"truncated":      "head -c 31 " + keyfile + " >/root/short; install -m 0400 /root/short " + keyfile,
			"world-readable": "chmod 0644 " + keyfile,
			"a directory":    "rm " + keyfile + "; mkdir " + keyfile,
			"another's own":  "chown daemon " + keyfile, // root without a capability may not even read it
			"another's":      "install -o daemon -m 0444 " + keyfile + " /etc/containarium/other; mv /etc/containarium/other " + keyfile,
		} {
			m.untouched(name, func() {
				m.run(damage)
				m.wait("[ \"$(stat -c '%F %U %a %s' " + keyfile + ")\" = 'regular file root 400 32' ]")
				m.waitKey(key)
			})
		}
		m.want("containarium secrets get alice TOKEN", "tea")
		m.want("grep -c '\"exposed\"' /var/lib/containarium-keyguard/ledger.jsonl", "3")
		m.want("journalctl --sync; journalctl -q -o cat -t keyguard | grep -c 'or a user whom this sandbox does not show (PrivateUsers=)) and is 0400 again'", "2")

		// The state directory is taken away under the watcher, whose sandbox would show it the
		// new one read-only for ever.
		m.run("sed -i 's/^rescan = .*/rescan = \"1s\"/' " + configFile)
		m.reload()
		m.untouched("without its state", func() {
			m.run("rm -r /var/lib/containarium-keyguard")
			m.wait("[ -e /var/lib/containarium-keyguard/watch ] && grep -q '\"proven\"' /var/lib/containarium-keyguard/ledger.jsonl")
		})

		// The daemon is uninstalled: nothing is put into a directory that is gone. It is
		// installed again, and its start finds the key.
		m.run("systemctl disable --now containarium; rm -rf /etc/containarium /etc/systemd/system/containarium.service /etc/systemd/system/containarium.service.d; systemctl daemon-reload")
		m.wait("journalctl --sync; journalctl -q -o cat -u " + watcher + " | grep 'the daemon is not there to need a key'")
		m.want("ls -d /etc/containarium 2>/dev/null || true", "")
		m.addDaemon(unit)
		m.run("systemctl start containarium")
		m.serves(key)
		m.onlyCurrent(key)

		// What the daemon prints of a tenant's name goes to the journal as two lines, and the
		// second has the daemon's own process, time stamp and words (law 10).
		m.run("sed -i 's/^\\[watch\\]$/&\\nheal = true/' " + configFile)
		m.reload()
		m.untouched("a tenant's words", func() {
			for _, words := range []string{
				"Warning: Failed to load secrets master key: secrets: master key must be exactly 32 bytes (file " + keyfile + " has 0 bytes). Secrets disabled.",
				"[secrets] NEW MASTER KEY generated at " + keyfile + " — back this up off-host, losing it means every stored secret is unrecoverable ciphertext",
				"Warning: Failed to connect to Postgres for secrets store: no",
			} {
				m.run("containarium secrets set \"$(printf 'mallory\\n%s %s' \"$(date '+%Y/%m/%d %H:%M:%S')\" '" + words + "')\" TOKEN tea")
				m.wait("journalctl --sync; journalctl -q -o cat _PID=$(systemctl show -p MainPID --value containarium) | grep -xE '[0-9/]+ [0-9:]+ " + regexp.QuoteMeta(words) + "'")
			}
			m.run("rm " + keyfile) // a round, behind these lines
			m.waitKey(key)
		})
		m.want("grep -c '\"minted\"' /var/lib/containarium-keyguard/ledger.jsonl || true", "0")
	})
}

// Another program mints a key in the moment that none is there. That key is kept, here
// and off the host, never as the one that a restore would take; the rows decide.
func TestForeignMint(t *testing.T) {
	onGuardedHosts(t, func(m machine) {
		key := m.key()
		var foreign string
		m.untouched("a foreign key", func() {
			foreign = m.run(minted)
			m.waitQuarantined(foreign)
		})
		m.onlyCurrent(key)
		m.keeps(foreign)
		m.restart(key)
		m.keeps(foreign)
		m.onlyCurrent(key)

		// The watcher is killed in the middle of a save, and again before it is done.
		m.drop(watcher, "soon", "[Service]\nRestartSec=100ms\n")
		m.fault(`{"Kind":"slow","Method":"AddSecretVersion","Delay":3000000000,"Times":2}`)
		second := m.run(minted)
		for range 2 {
			m.wait("curl -sf " + control + "/calls | grep AddSecretVersion")
			m.run("curl -sf -X DELETE " + control + "/calls; systemctl kill --signal=KILL " + watcher)
			m.wait("systemctl is-active " + watcher)
		}
		m.waitQuarantined(second)
		m.keeps(second)
		m.restart(key)
		m.onlyCurrent(key)

		// A reboot with a save pending.
		m.fault(`{"Kind":"fail","Code":14}`)
		third := m.run(minted)
		m.wait("curl -sf " + control + "/calls | grep -v '^{}'")
		m.check(m.g.Reboot(m.ctx))
		m.serves(key)
		m.waitQuarantined(third)
		m.keeps(third)
		m.onlyCurrent(key)

		// With heal it does not wait for a restart: it makes one.
		m.run("sed -i '1i [watch]\\nheal = true' /etc/containarium-keyguard/keyguard.toml")
		m.reload()
		before := m.starts()
		fourth := m.run(minted)
		m.waitKey(key)
		m.keeps(fourth)
		m.wait("[ $(journalctl -b -q -o cat -u containarium | grep -c '^Started ') -gt " + strconv.Itoa(before) + " ]")
		m.serves(key)
		m.onlyCurrent(key)
	})
}

// The common topology: only the daemon starts Postgres, so at its start nobody can ask
// the rows. The boot disk is new, the key is gone, ledger and quarantine too, and the
// escrow lives. The start is parked, the daemon brings Postgres up, the watcher proves
// and installs. Nobody is called for help.
func TestOnlyTheDaemonStartsPostgres(t *testing.T) {
	inGuests(t, func(m machine) {
		m.run("systemctl disable --now postgresql")
		m.addFake("fake-incus", incus)
		m.addEscrow()
		m.check(m.g.AddDaemon(m.ctx, daemon, unit))
		m.startDaemon()
		m.run("containarium secrets set alice TOKEN tea")
		m.addKeyguard(escrowConfig)
		m.run("keyguard init --yes")
		key := m.key()

		// Slow core containers leave the watcher the time that it has on real hosts; with
		// quick ones the daemon reads the empty file and is restarted, once.
		for _, c := range []struct {
			cores  string
			starts int
		}{{"/run/cores", 1}, {"", 2}} {
			m.run(`systemctl stop containarium postgresql 'postgresql@*'; sed -i s/Running/Stopped/ /var/lib/incus/fake.json
				apt-get purge -y containarium-keyguard
				rm -rf /etc/containarium /var/lib/containarium-keyguard; mkdir -m 0700 /etc/containarium`)
			m.addKeyguard(strings.ReplaceAll(escrowConfig, "{hostname}", "keyguard-guest"))
			m.drop("containarium", "slow", "[Service]\nEnvironment=STANDIN_READ_AFTER="+c.cores+"\n")
			before := m.starts()
			m.run("systemctl start containarium")
			m.wait("journalctl --sync; journalctl -q -o cat -u containarium | tail -n 40 | grep 'parked: the daemon starts with secrets disabled'")
			m.waitKey(key)
			m.run("touch /run/cores")
			m.wait("containarium secrets get alice TOKEN")
			m.serves(key)
			if n := m.starts() - before; n > c.starts {
				m.Errorf("with the core containers up after %q the daemon was started %d times", c.cores, n)
			}
			m.want("systemctl show -p NRestarts --value containarium", "0")
			m.onlyCurrent(key)
		}
	})
}

// With a watcher the start is not refused where it cannot tell: it is parked, the daemon
// runs, and when an escrow answers again the key is put in.
func TestParked(t *testing.T) {
	onGuardedHosts(t, func(m machine) {
		key := m.key()
		m.run("systemctl stop containarium")
		m.noWatcher()
		m.run("rm -f " + keyfile + " " + quarantine + "/*")
		m.fault(`{"Kind":"fail","Code":14}`)
		m.run("systemctl start " + watcher + " containarium")
		m.says("parked: the daemon starts with secrets disabled")
		m.says("has 0 bytes")
		m.want("stat -c '%a %s' "+keyfile, "400 0")
		m.want("systemctl is-active containarium", "active")
		m.untouched("parked", func() { m.run("keyguard status || true") })
		m.neverMinted()
		m.run("curl -sf -X DELETE " + control + "/faults")
		m.waitKey(key)
		m.wait("containarium secrets get alice TOKEN")
		m.serves(key)
		m.want("systemctl show -p NRestarts --value containarium", "0")
	})
}

// A watcher that never gets ready, and does not stop either, holds up the boot of the
// daemon for the 5 s of its unit, and no more: it is killed then, and not asked to stop.
func TestHangingWatcher(t *testing.T) {
	onGuardedHosts(t, func(m machine) {
		key := m.key()
		m.noWatcher()
		m.drop(watcher, "hang", "[Service]\nExecStart=\nExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 1; done'\n")
		m.check(m.g.Reboot(m.ctx))
		m.serves(key)
		m.want("systemctl show -p TimeoutStartUSec -p TimeoutStartFailureMode "+watcher, "TimeoutStartUSec=5s\nTimeoutStartFailureMode=kill")
		m.want(`journalctl --sync; journalctl -b -q -o cat | grep -o -e '^Starting containarium\.service' -e '^Starting containarium-keyguard\.service' -e 'start operation timed out. [A-Za-z]*' -e "'stop-sig.*' timed out" | head -n 3`,
			"Starting containarium-keyguard.service\nstart operation timed out. Killing\nStarting containarium.service")
	})
}

// doctorChecks are what the doctor says of one thing, "sandbox" for what the watcher may reach.
func (m machine) doctorChecks(name string) (list []doctorCheck) {
	m.Helper()
	var doc struct{ Checks []doctorCheck }
	m.check(json.Unmarshal([]byte(m.run("keyguard doctor --json 2>/dev/null || true")), &doc))
	return slices.DeleteFunc(doc.Checks, func(c doctorCheck) bool { return c.Check != name })
}

type doctorCheck struct{ Check, State, Text, Improve string }

// reaches: `init`, without a sandbox, reaches a directory and a file that the service does
// not. The doctor names both, and what it says to type, typed as it stands, opens them.
func (m machine) reaches(key string) {
	m.Helper()
	const config = configFile
	m.run(`mkdir /backup; mount -t tmpfs backup /backup; systemctl restart ` + watcher + `
		curl -sf -X POST '` + control + `/grant?identity=host@stories&role=admin'
		umask 077; curl -sf '` + control + `/credentials?identity=host@stories&type=service_account' >/root/gcp.json
		sed -i '/^secret = /a credentials_file = "/root/gcp.json"' ` + config + `
		printf '[[escrow]]\nname = "backup"\nkind = "directory"\npath = "/backup/keys"\nrequired = false\nallow_same_disk = true\n' >>` + config + `
		keyguard init --yes`)
	m.reload()
	foreign := m.run(minted)
	m.waitJournal(watcher, "cannot save to /backup/keys/quarantine: read-only")

	list := m.doctorChecks("sandbox")
	if len(list) != 2 || list[0].Text != `the watcher sees /backup/keys, escrow "backup", read-only` ||
		list[1].Text != `the watcher does not see /root/gcp.json, credentials_file of "gcp": ProtectHome= of its unit hides it` {
		m.Fatalf("the doctor says %+v", list)
	}
	edit := regexp.MustCompile(`^(systemctl edit \S+), there two lines, (\S+) and (\S+), then: (.*)$`).FindStringSubmatch(list[0].Improve)
	if edit == nil {
		m.Fatalf("what is to be typed? %q", list[0].Improve)
	}
	m.check(m.g.Write(m.ctx, "/root/editor", "#!/bin/sh\nfor file; do :; done\nprintf '"+edit[2]+"\\n"+edit[3]+"\\n' >\"$file\"\n", 0o755))
	m.run("script -qec 'SYSTEMD_EDITOR=/root/editor " + edit[1] + "' /dev/null; " + edit[4])
	m.wait("sha256sum /backup/keys/quarantine/*.key | grep '^" + strings.Fields(foreign)[0] + "'")

	typed := regexp.MustCompile(`^(install -m 0600 \S+ (\S+)), name that as (\S+), then: (.*)$`).FindStringSubmatch(list[1].Improve)
	if typed == nil {
		m.Fatalf("what is to be typed? %q", list[1].Improve)
	}
	m.run(typed[1] + "; sed -i 's|^" + typed[3] + " = .*|" + typed[3] + ` = "` + typed[2] + `"|' ` + config + "; " + typed[4])
	m.waitQuarantined(foreign)
	well := []doctorCheck{{"sandbox", "ok", "the watcher can use every path of the configuration", ""}}
	if list := m.doctorChecks("sandbox"); !slices.Equal(list, well) {
		m.Errorf("the doctor says %+v", list)
	}

	// As another program leaves it that renews it.
	m.run("chown daemon " + typed[2])
	list = m.doctorChecks("sandbox")
	if len(list) != 1 || !strings.Contains(list[0].Text, "which belongs to uid 1") {
		m.Fatalf("the doctor says %+v", list)
	}
	own, _, _ := strings.Cut(list[0].Improve, ", ")
	m.run(own)
	if list := m.doctorChecks("sandbox"); !slices.Equal(list, well) {
		m.Errorf("the doctor says %+v", list)
	}
	m.run("cp -p " + config + " /root/better.toml")
	m.restart(key)
}

// The service itself: its sandbox, a configuration that is read again, its end, and what
// becomes of it when it hangs.
func TestWatcherService(t *testing.T) {
	onGuardedHosts(t, func(m machine) {
		key := m.key()
		m.want("systemd-analyze verify /usr/lib/systemd/system/containarium-keyguard.service 2>&1 | grep -i keyguard || true", "")
		exposure, err := strconv.ParseFloat(m.run("systemd-analyze security --offline=true --no-pager /usr/lib/systemd/system/containarium-keyguard.service | sed -n 's/.*Overall exposure level for [^:]*: \\([0-9.]*\\).*/\\1/p'"), 64)
		m.check(err)
		if exposure > 1.4 {
			m.Errorf("the exposure is %v", exposure)
		}
		m.want("systemctl show -p NRestarts --value "+watcher, "0")
		m.want("cat /proc/$(systemctl show -p MainPID --value "+watcher+")/status | sed -n 's/^Cap\\(Eff\\|Bnd\\):\\t//p'", "0000000000000000\n0000000000000000")

		// A stick is plugged in after it started; a directory escrow on it gets what is due.
		m.run("mkdir -p /mnt/keys; mount -t tmpfs stick /mnt/keys")
		m.run(`cp -p /etc/containarium-keyguard/keyguard.toml /root/good.toml; cat >>/etc/containarium-keyguard/keyguard.toml <<'END'
[[escrow]]
name = "stick"
kind = "directory"
path = "/mnt/keys"
required = false
allow_same_disk = true
END`)
		m.run("keyguard init --yes; cp -p /etc/containarium-keyguard/keyguard.toml /root/better.toml")
		m.reload()
		foreign := m.run(minted)
		m.wait("[ \"$(cat /mnt/keys/quarantine/*.key | sha256sum)\" = '" + foreign + "' ]")
		m.want("cat /mnt/keys/current/*.key | sha256sum", key)
		m.waitQuarantined(foreign)
		m.restart(key)

		m.reaches(key)

		// A configuration that is wrong changes nothing.
		m.untouched("reload", func() {
			m.reloadInVain("echo nonsense >>/etc/containarium-keyguard/keyguard.toml")
			m.want("journalctl -q -o cat -u "+watcher+" | grep -c 'the configuration is not reloaded'", "1")
			m.want("systemctl is-active "+watcher+"; systemctl show -p NRestarts --value "+watcher, "active\n0")
			m.run("rm " + keyfile)
			m.waitKey(key)
			m.run("cp -p /root/better.toml /etc/containarium-keyguard/keyguard.toml")
			m.reload()
			m.run("rm " + keyfile)
			m.waitKey(key)
		})

		// It stops within a second, in the middle of a save that hangs too. Who waits for that
		// does so every time; a busy machine is late at times.
		m.fault(`{"Kind":"hang","Method":"AddSecretVersion"}`)
		third := m.run(minted)
		for try := 1; ; try++ {
			m.wait("curl -sf " + control + "/calls | grep AddSecretVersion")
			took, err := strconv.Atoi(m.run("a=$(date +%s%3N); systemctl stop " + watcher + "; echo $(($(date +%s%3N) - a))"))
			m.check(err)
			m.Logf("it takes %d ms to stop", took)
			m.want("systemctl show -p Result --value "+watcher, "success")
			if took <= 1000 {
				break
			}
			if try == 5 {
				m.Fatalf("it takes %d ms to stop, and no less before", took)
			}
			m.run("curl -sf -X DELETE " + control + "/calls; systemctl start " + watcher)
		}
		m.keeps(third)
		m.run("curl -sf -X DELETE " + control + "/faults; systemctl start " + watcher)
		m.waitQuarantined(third)
		m.restart(key)

		// One that stands still is started anew.
		m.drop(watcher, "watchdog", "[Service]\nWatchdogSec=6s\nRestartSec=100ms\n")
		m.run("systemctl restart " + watcher)
		m.untouched("watchdog", func() {
			m.run("sleep 8; systemctl is-active " + watcher + "; [ $(systemctl show -p NRestarts --value " + watcher + ") = 0 ]")
			m.run("kill -STOP $(systemctl show -p MainPID --value " + watcher + ")")
			m.wait("[ $(systemctl show -p NRestarts --value " + watcher + ") -ge 1 ] && systemctl is-active " + watcher)
			m.run("rm " + keyfile)
			m.waitKey(key)
		})
		m.onlyCurrent(key)
	})
}
