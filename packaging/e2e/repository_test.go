//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// The package from an apt repository, by its name: installed, upgraded, downgraded,
// removed, purged and installed again.
func TestAptRepository(t *testing.T) {
	t.Parallel()
	m := newGuest(t, "trixie")
	repository := t.TempDir()
	for _, file := range []string{deb, newer} {
		m.check(command("cp", file, repository))
	}
	m.check(command("sh", "-ec", `cd "$1"; apt-ftparchive packages . >Packages; apt-ftparchive release . >Release`, "sh", repository))
	for _, name := range []string{filepath.Base(deb), filepath.Base(newer), "Packages", "Release"} {
		m.check(m.g.CopyOff(filepath.Join(repository, name), "/srv/"+name))
	}
	m.check(m.g.Boot(m.ctx))
	m.run("echo 'deb [trusted=yes] file:/srv ./' >/etc/apt/sources.list; rm -rf /etc/apt/sources.list.d/*; apt-get update")
	m.addDaemon(unit)
	m.startDaemon()
	const version = `dpkg-query -W -f '${Version} ${db:Status-Status}' containarium-keyguard 2>/dev/null || true`
	for _, step := range []struct{ apt, version, state string }{
		{"install -y containarium-keyguard=1.0.0", "1.0.0 installed", "enabled\nactive"},
		{"upgrade -y", "1.0.1 installed", "enabled\nactive"},
		{"install -y --allow-downgrades containarium-keyguard=1.0.0", "1.0.0 installed", "enabled\nactive"},
		{"remove -y containarium-keyguard", "1.0.0 config-files", ""},
		{"install -y containarium-keyguard", "1.0.1 installed", "enabled\nactive"},
		{"install -y --reinstall containarium-keyguard", "1.0.1 installed", "enabled\nactive"},
		{"purge -y containarium-keyguard", "", ""},
		{"install -y containarium-keyguard", "1.0.1 installed", "enabled\nactive"},
	} {
		m.untouched(step.apt, func() { m.run("apt-get " + step.apt + " </dev/null") })
		m.want(version, step.version)
		if step.state != "" {
			m.want(state, step.state)
			m.want(hook, "1")
		} else {
			m.want(hook, "0")
		}
	}
}

// The package from a dnf repository, by its name, into an install root with the real
// scriptlets. The distribution is a package that provides what ours asks of it.
func TestDnfRepository(t *testing.T) {
	t.Parallel()
	m := newGuest(t, "trixie")
	repository := t.TempDir()
	for _, file := range rpms {
		m.check(command("cp", file, repository))
	}
	m.check(command("sh", "-ec", `cd "$1"
		cat >base.spec <<-END
			Name: base-system
			Version: 1
			Release: 1
			Summary: what a distribution provides
			License: none
			BuildArch: noarch
			Provides: /bin/sh coreutils
			%description
			%files
		END
		rpmbuild -bb --quiet --define "_rpmdir $1" --define "_topdir $1/build" base.spec
		createrepo_c --quiet .`, "sh", repository))
	dnf := func(arguments string) string {
		t.Helper()
		out, err := m.g.Outside(m.ctx, `dnf -y --noplugins --nogpgcheck --releasever=1 --installroot="$root" \
			--setopt=reposdir=/dev/null --setopt=cachedir=/var/cache/dnf-keyguard --setopt=keepcache=0 --repofrompath=keyguard,"$1" --repo=keyguard `+arguments+` 2>&1`, repository)
		m.check(err)
		// A failed scriptlet still ends in "Complete!".
		if lower := strings.ToLower(out); strings.Contains(lower, "scriptlet failed") || strings.Contains(lower, "error in") {
			t.Errorf("dnf %s says\n%s", arguments, out)
		}
		return out
	}
	off := func(script, want string) {
		t.Helper()
		out, err := m.g.Off(m.ctx, script)
		m.check(err)
		if got := strings.TrimSpace(out); got != want {
			t.Errorf("%s\nprints %q\nwant   %q", script, got, want)
		}
	}
	const version, enabled = "keyguard --version | grep -o '1\\.0\\.[01]' || true", "systemctl is-enabled containarium-keyguard 2>/dev/null || true"
	if out := dnf("install containarium-keyguard-1.0.0"); !strings.Contains(out, "keyguard init") {
		t.Errorf("dnf install does not say what comes next:\n%s", out)
	}
	off(version, "1.0.0")
	off(enabled, "enabled")
	off("systemctl disable containarium-keyguard 2>/dev/null; echo '# ours' >>/etc/containarium-keyguard/keyguard.toml", "")
	dnf("upgrade")
	off(version, "1.0.1")
	off(enabled, "disabled")
	off("tail -n 1 /etc/containarium-keyguard/keyguard.toml", "# ours")
	dnf("downgrade containarium-keyguard-1.0.0")
	off(version, "1.0.0")
	off(enabled, "disabled")
	dnf("reinstall containarium-keyguard-1.0.0")
	off(version, "1.0.0")
	dnf("remove containarium-keyguard")
	off(version, "")
	off("tail -n 1 /etc/containarium-keyguard/keyguard.toml; find /etc/systemd /usr/lib/systemd | grep -c containarium-keyguard || true", "# ours\n0")
	dnf("install containarium-keyguard")
	off(version, "1.0.1")
	off(enabled, "enabled")
	m.check(m.g.Boot(m.ctx))
	m.want(state, "enabled\nactive")
}
