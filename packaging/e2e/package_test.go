//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// timer is the same of the drills.
const timer = "systemctl is-enabled containarium-keyguard-drill.timer || true; systemctl is-active containarium-keyguard-drill.timer || true"

// state is whether the watcher is enabled, and whether it runs.
const state = "systemctl is-enabled containarium-keyguard || true; systemctl is-active containarium-keyguard || true"

const hook = "systemctl show -p ExecStartPre containarium | grep -c /usr/lib/containarium-keyguard/prestart || true"

// The package on a host, before and after the daemon came there, one part after the other
// in one boot. Each begins where the package is not there.
func TestPackage(t *testing.T) {
	inGuests(t, func(m machine) {
		part := func(name string, do func(machine)) {
			m.part(name, do)
			m.run("dpkg --purge containarium-keyguard; rm -rf /var/lib/containarium-keyguard /etc/containarium-keyguard")
		}
		part("sandbox", sandbox)
		part("purge", purgeKeepsKeys)
		m.run("rm -f " + keyfile) // the watcher parks where it cannot tell, and no daemon is there to tell it
		m.addDaemon(unit)
		m.startDaemon()
		part("life", packageLife)
		part("administrator", administratorsWill)
		part("remove while the daemon starts", removeWhileTheDaemonStarts)
	})
}

// A package's life beside a running daemon: it never stops, starts or restarts it, and
// no key is touched.
func packageLife(m machine) {
	key := m.run("sha256sum /etc/containarium/secrets.key")

	m.untouched("install", func() {
		if out := m.install(deb); !strings.Contains(out, "keyguard init") {
			m.Errorf("an install does not say what comes next:\n%s", out)
		}
	})
	m.want(hook, "1")
	m.want(state, "enabled\nactive")
	m.want(timer, "enabled\nactive")
	m.want("stat -c '%a %U %n' /var/lib/containarium-keyguard /run/containarium-keyguard /etc/containarium-keyguard/keyguard.toml /etc/containarium-keyguard/hooks.d",
		"700 root /var/lib/containarium-keyguard\n700 root /run/containarium-keyguard\n600 root /etc/containarium-keyguard/keyguard.toml\n755 root /etc/containarium-keyguard/hooks.d")
	m.want("keyguard --version | grep -c 1.0.0", "1")
	m.want("dpkg-query -W -f '${Conffiles}' containarium-keyguard | grep -c keyguard.toml || true", "0")

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
	m.want(state, "enabled\nactive")
	m.want(timer, "enabled\nactive")
	m.want("systemctl show -p ExecMainStartTimestamp --value containarium-keyguard-drill.service", "") // no drill yet
	m.want(`readlink /proc/$(systemctl show -p MainPID --value containarium-keyguard)/exe`, "/usr/bin/keyguard")
	m.want(`perl -e 'do "/etc/needrestart/conf.d/containarium-keyguard.conf"; print grep { "containarium-keyguard.service" =~ $_ } keys %{$nrconf{override_rc}}'`,
		"(?^:^containarium-keyguard)")

	m.untouched("remove", func() { m.run("apt-get remove -y containarium-keyguard") })
	m.want(hook, "0")
	m.want("ls /run/systemd/system /usr/lib/systemd/system /etc/systemd/system/*.wants | grep -v '^containarium.service' | grep -c '^containarium' || true", "0")
	m.want("systemctl is-active containarium-keyguard containarium-keyguard-drill.timer || true", "inactive\ninactive")
	m.want("tail -n 1 /etc/containarium-keyguard/keyguard.toml", "# ours")

	m.run("rm -r /var/lib/containarium-keyguard/quarantine/*") // the watcher kept what the daemon minted
	m.untouched("purge", func() { m.run("apt-get purge -y containarium-keyguard") })
	m.want("ls -d /var/lib/containarium-keyguard /run/containarium-keyguard /etc/containarium-keyguard /etc/needrestart 2>/dev/null || true", "")
	m.want("find /etc/systemd /var/lib/systemd | grep -c containarium-keyguard || true", "0")

	m.want("sha256sum /etc/containarium/secrets.key", key)
	m.run("systemctl restart containarium")
	m.waitJournal("containarium", "Secrets store ready")
	m.want("sha256sum /etc/containarium/secrets.key", key)
}

// What an administrator made of the watcher survives upgrades, and removal too, but not
// a purge.
func administratorsWill(m machine) {
	m.install(deb)
	m.want(state, "enabled\nactive")

	step := func(will, want string) {
		m.Helper()
		m.run("systemctl " + will + " containarium-keyguard")
		for _, what := range []struct {
			name string
			do   func()
		}{
			{"upgrade", func() { m.install(newer) }},
			{"downgrade", func() { m.install(deb) }},
			{"reinstall", func() {
				m.run("apt-get remove -y containarium-keyguard")
				m.install(newer)
			}},
		} {
			m.untouched(what.name+" after "+will, what.do)
			if got := m.run(state); got != want {
				m.Errorf("%s after %s: the watcher is %q, want %q", what.name, will, got, want)
			}
		}
	}
	step("disable --now", "disabled\ninactive")
	m.run("systemctl start containarium-keyguard; systemctl stop containarium-keyguard")
	step("mask", "masked\ninactive")
	m.run("systemctl unmask containarium-keyguard")
	m.run("systemctl enable --now containarium-keyguard")
	// Enabled and merely stopped: an upgrade does not start it. Of the drills he has
	// another will.
	m.run("systemctl stop containarium-keyguard; systemctl disable --now containarium-keyguard-drill.timer")
	m.install(deb)
	m.want(state, "enabled\ninactive")
	m.want(timer, "disabled\ninactive")

	m.run("systemctl disable containarium-keyguard; apt-get purge -y containarium-keyguard")
	m.install(deb)
	m.want(state, "enabled\nactive")
	m.want(timer, "enabled\nactive")
}

// A removal that the daemon's own restarts fall into leaves it able to start at any moment.
func removeWhileTheDaemonStarts(m machine) {
	m.install(deb)
	// Every start that is asked for succeeds, while the package goes.
	m.run(`apt-get remove -y containarium-keyguard & apt=$!
			n=0
			while kill -0 $apt 2>/dev/null; do systemctl restart containarium; n=$((n + 1)); done
			wait $apt
			[ $n -ge 2 ]`)
	m.want("systemctl is-active containarium", "active")
	m.want(hook, "0")
}

// Purge keeps every key, and says where; what a person put into our configuration
// directory stays too.
func purgeKeepsKeys(m machine) {
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
}

// An image is built in a chroot, where systemd does not run; what was installed there
// is in force at the image's first boot.
func TestPackageInChroot(t *testing.T) {
	inNewGuests(t, func(m machine) {
		m.check(m.g.CopyOff(deb, "/root/package.deb"))
		off := func(script string) string {
			m.Helper()
			out, err := m.g.Off(m.ctx, script)
			m.check(err)
			return strings.TrimSpace(out)
		}
		off("dpkg -i /root/package.deb")
		if got, want := off("stat -c '%a %U' /var/lib/containarium-keyguard; ls /run/containarium-keyguard 2>&1 || true"),
			"700 root\nls: cannot access '/run/containarium-keyguard': No such file or directory"; got != want {
			m.Errorf("after dpkg -i in a chroot:\n%s\nwant\n%s", got, want)
		}
		off("dpkg -r containarium-keyguard; dpkg -i /root/package.deb; dpkg -P containarium-keyguard; dpkg -i /root/package.deb")
		m.check(m.g.Boot(m.ctx))
		m.addDaemon(unit)
		m.want(hook, "1")
		m.want(state, "enabled\nactive")
		m.want(timer, "enabled\nactive")
		m.want("stat -c '%a %U' /run/containarium-keyguard", "700 root")
	})
}

// The RPM in a tree without systemd, with the real rpm, its scriptlets and the real
// systemctl working offline; then the tree boots. What dnf does around rpm is not shown.
func TestRPMInChroot(t *testing.T) {
	t.Parallel()
	m := newGuest(t, "trixie")
	rpm := func(arguments string, packages ...string) string {
		m.Helper()
		out, err := m.g.Outside(m.ctx, `rpm --root "$root" --nodeps `+arguments+` 2>&1`, packages...)
		m.check(err)
		return out
	}
	off := func(script, want string) {
		m.Helper()
		out, err := m.g.Off(m.ctx, script)
		m.check(err)
		if got := strings.TrimSpace(out); got != want {
			m.Errorf("%s\nprints %q\nwant   %q", script, got, want)
		}
	}
	// Before 0.1.0 the configuration was a file of the package.
	const config = configFile
	_, oldRPM := oldPackages(t)
	for edit, kept := range map[string]string{
		"true":                      "/root/kept",
		"echo '# ours' >>" + config: "/root/kept",
		"rm " + config:              "/usr/share/containarium-keyguard/keyguard.toml",
	} {
		rpm(`-i "$1"`, oldRPM)
		off(edit+"; cp -p "+config+" /root/kept 2>/dev/null || true", "")
		if out := rpm(`-U "$1"`, rpms[0]); strings.Contains(out, "scriptlet failed") {
			m.Errorf("rpm -U says\n%s", out)
		}
		off("cmp "+config+" "+kept+"; stat -c %a "+config+"; ls "+config+"*", "600\n"+config)
		rpm("-e containarium-keyguard")
		off("rm "+config, "")
	}

	const enabled = "systemctl is-enabled containarium-keyguard containarium-keyguard-drill.timer || true"
	if out := rpm(`-i "$1"`, rpms[0]); !strings.Contains(out, "keyguard init") || strings.Contains(out, "scriptlet failed") {
		m.Errorf("rpm -i says\n%s", out)
	}
	off(enabled, "enabled\nenabled")
	off("stat -c %a /var/lib/containarium-keyguard", "700")
	off("systemctl disable containarium-keyguard containarium-keyguard-drill.timer 2>/dev/null; echo '# ours' >>/etc/containarium-keyguard/keyguard.toml", "")
	if out := rpm(`-U "$1"`, rpms[1]); strings.Contains(out, "keyguard init") || strings.Contains(out, "scriptlet failed") {
		m.Errorf("rpm -U says\n%s", out)
	}
	off(enabled, "disabled\ndisabled")
	off("tail -n 1 /etc/containarium-keyguard/keyguard.toml; keyguard --version | grep -c 1.0.1", "# ours\n1")
	off("install -d -m 0700 /var/lib/containarium-keyguard/quarantine; echo x >/var/lib/containarium-keyguard/quarantine/a", "")
	if out := rpm("-e containarium-keyguard"); !strings.Contains(out, "stay in /var/lib/containarium-keyguard") || strings.Contains(out, "scriptlet failed") {
		m.Errorf("rpm -e says\n%s", out)
	}
	off("find /etc/systemd /usr/lib/systemd | grep -c containarium-keyguard || true", "0")
	off("cat /var/lib/containarium-keyguard/quarantine/a", "x")
	rpm(`-i "$1"`, rpms[0])
	m.check(m.g.Boot(m.ctx))
	m.want(state, "enabled\nactive")
	m.want(timer, "enabled\nactive")
	m.addDaemon(unit)
	m.want(hook, "1")
}

// The RPM where systemd runs, as far as its scriptlets can tell: a systemctl that writes
// down what it is asked. The daemon is never among it.
func TestRPMScriptlets(t *testing.T) {
	t.Parallel()
	m := newGuest(t, "trixie")
	out, err := m.g.Outside(m.ctx, `mkdir -p "$root/run/systemd/system"
		stub='#!/bin/sh\necho "${0##*/} $*" >>/calls\n'
		for program in systemctl systemd-tmpfiles; do rm "$root/usr/bin/$program"; printf "$stub" >"$root/usr/bin/$program"; chmod 0755 "$root/usr/bin/$program"; done
		for step in '-i '"$1" '-U '"$2" '-e containarium-keyguard'; do
			echo "${step%% *}" >>"$root/calls"
			rpm --root "$root" --nodeps $step >>"$root/said" 2>&1
			ls -l "$root"/run/systemd/system | grep -c containarium >>"$root/calls" || true
		done
		! grep 'scriptlet failed' "$root/said"
		cat "$root/calls"`, rpms...)
	m.check(err)
	const reload, watcher, drills = "systemctl daemon-reload\n", "containarium-keyguard.service", "containarium-keyguard-drill.timer"
	each := func(verbs ...string) (calls string) {
		for _, unit := range []string{watcher, drills} {
			for _, v := range verbs {
				calls += "systemctl " + v + " " + unit + "\n"
			}
		}
		return calls
	}
	want := "-i\n" + each("--no-reload preset") + "systemd-tmpfiles --create containarium-keyguard.conf\n" + reload +
		each("--quiet is-enabled", "start") + "0\n" +
		"-U\nsystemd-tmpfiles --create containarium-keyguard.conf\n" + reload + each("try-restart") + "0\n" +
		"-e\n" + reload + "systemctl stop " + watcher + " " + drills + " containarium-keyguard-drill.service\n" +
		"systemctl --no-reload disable " + watcher + " " + drills + "\n" + reload + "0\n"
	if out != want {
		m.Errorf("systemctl is called\n%s\nwant\n%s", out, want)
	}
}
