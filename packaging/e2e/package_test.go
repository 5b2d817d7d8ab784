//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/packaging/testing/guest"
)

const hook = "systemctl show -p ExecStartPre containarium | grep -c /usr/lib/containarium-keyguard/prestart || true"

// A package's life beside a running daemon: it never stops, starts or restarts it, and
// no key is touched.
func TestPackageLife(t *testing.T) {
	inGuests(t, func(m machine) {
		m.addDaemon(unit)
		m.startDaemon()
		key := m.run("sha256sum /etc/containarium/secrets.key")

		m.untouched("install", func() {
			if out := m.install(deb); !strings.Contains(out, "keyguard init") {
				m.Errorf("an install does not say what comes next:\n%s", out)
			}
		})
		m.want(hook, "1")
		m.want("stat -c '%a %U %n' /var/lib/containarium-keyguard /run/containarium-keyguard /etc/containarium-keyguard/keyguard.toml /etc/containarium-keyguard/hooks.d",
			"700 root /var/lib/containarium-keyguard\n700 root /run/containarium-keyguard\n600 root /etc/containarium-keyguard/keyguard.toml\n755 root /etc/containarium-keyguard/hooks.d")
		m.want("keyguard --version | grep -c 1.0.0", "1")

		m.run("echo '# ours' >>/etc/containarium-keyguard/keyguard.toml")
		m.untouched("upgrade", func() {
			if out := m.install(newer); strings.Contains(out, "keyguard init") {
				m.Errorf("an upgrade repeats the welcome of an install:\n%s", out)
			}
		})
		m.want("keyguard --version | grep -c 1.0.1", "1")
		m.want("tail -n 1 /etc/containarium-keyguard/keyguard.toml", "# ours")
		m.want("stat -c %a /etc/containarium-keyguard/keyguard.toml", "600")
		m.want(hook, "1")

		m.untouched("remove", func() { m.run("apt-get remove -y containarium-keyguard") })
		m.want(hook, "0")
		m.want("ls /run/systemd/system /usr/lib/systemd/system | grep -c '^containarium' || true", "0")
		m.want("tail -n 1 /etc/containarium-keyguard/keyguard.toml", "# ours")

		m.run("mkdir -p /var/lib/containarium-keyguard/quarantine; echo x >/var/lib/containarium-keyguard/ledger.jsonl")
		m.untouched("purge", func() { m.run("apt-get purge -y containarium-keyguard") })
		m.want("ls -d /var/lib/containarium-keyguard /run/containarium-keyguard /etc/containarium-keyguard 2>/dev/null || true", "")

		m.want("sha256sum /etc/containarium/secrets.key", key)
		m.run("systemctl restart containarium")
		m.waitJournal("containarium", "Secrets store ready")
		m.want("sha256sum /etc/containarium/secrets.key", key)
	})
}

// A removal that the daemon's own restarts fall into leaves it able to start at any moment.
func TestRemoveWhileTheDaemonStarts(t *testing.T) {
	inGuests(t, func(m machine) {
		m.addDaemon(unit)
		m.startDaemon()
		m.install(deb)
		// Every start that is asked for succeeds, while the package goes.
		m.run(`apt-get remove -y containarium-keyguard & apt=$!
			n=0
			while kill -0 $apt 2>/dev/null; do systemctl restart containarium; n=$((n + 1)); done
			wait $apt
			[ $n -ge 2 ]`)
		m.want("systemctl is-active containarium", "active")
		m.want(hook, "0")
	})
}

// Purge keeps every key, and says where; what a person put into our configuration
// directory stays too.
func TestPurgeKeepsKeys(t *testing.T) {
	inGuests(t, func(m machine) {
		m.install(deb)
		m.run(`cd /var/lib/containarium-keyguard
			mkdir -m 0700 quarantine
			head -c 32 /dev/urandom >quarantine/20260101T000000Z-0123456789abcdef.key
			echo x >ledger.jsonl; touch watch rotate
			echo '#!/bin/sh' >/etc/containarium-keyguard/hooks.d/mail`)
		out := m.run("apt-get purge -y containarium-keyguard 2>&1")
		if !strings.Contains(out, "kept: 1 in /var/lib/containarium-keyguard/quarantine") {
			m.Errorf("purge does not say that it keeps a key:\n%s", out)
		}
		m.want("find /var/lib/containarium-keyguard /etc/containarium-keyguard -type f | sort",
			"/etc/containarium-keyguard/hooks.d/mail\n/var/lib/containarium-keyguard/quarantine/20260101T000000Z-0123456789abcdef.key")
		m.install(newer)
		m.want("find /var/lib/containarium-keyguard -type f -size 32c | wc -l", "1")
	})
}

// An image is built in a chroot, where systemd does not run; what was installed there
// is in force at the image's first boot.
func TestPackageInChroot(t *testing.T) {
	t.Parallel()
	for _, suite := range guest.Suites {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			m := newGuest(t, suite)
			m.check(m.g.CopyOff(deb, "/root/package.deb"))
			off := func(script string) string {
				t.Helper()
				out, err := m.g.Off(m.ctx, script)
				m.check(err)
				return strings.TrimSpace(out)
			}
			off("dpkg -i /root/package.deb")
			if got, want := off("stat -c '%a %U' /var/lib/containarium-keyguard; ls /run/containarium-keyguard 2>&1 || true"),
				"700 root\nls: cannot access '/run/containarium-keyguard': No such file or directory"; got != want {
				t.Errorf("after dpkg -i in a chroot:\n%s\nwant\n%s", got, want)
			}
			off("dpkg -r containarium-keyguard; dpkg -i /root/package.deb; dpkg -P containarium-keyguard; dpkg -i /root/package.deb")
			m.check(m.g.Boot(m.ctx))
			m.addDaemon(unit)
			m.want(hook, "1")
			m.want("stat -c '%a %U' /run/containarium-keyguard", "700 root")
		})
	}
}
