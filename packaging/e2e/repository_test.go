//go:build e2e

package e2e

import (
	"bytes"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// webURL is where a guest's web server shows /srv/www.
const webURL = "http://127.0.0.1:8088"

// signer is a GnuPG directory with one key, which signs repositories.
var signer = sync.OnceValues(func() (dir string, err error) {
	dir = filepath.Join(built, "gnupg")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	return dir, command("gpg", "--homedir", dir, "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", "keyguard test <test@example.com>", "rsa3072", "sign", "never")
})

// publish puts packages into the repositories below dir, as `make repository` does.
func publish(t *testing.T, dir, url string, packages ...string) {
	t.Helper()
	home, err := signer()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("../repository", append([]string{dir, "test@example.com", url}, packages...)...)
	c.Env = append(os.Environ(), "GNUPGHOME="+home)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("repository: %v\n%s", err, out)
	}
}

// addRepository puts a repository with these packages onto a web server in the guest, which
// is not booted, and startRepository starts that.
func (m machine) addRepository(packages ...string) {
	m.Helper()
	dir := m.TempDir()
	publish(m.T, dir, webURL, packages...)
	m.check(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return m.g.CopyOff(path, "/srv/www"+strings.TrimPrefix(path, dir))
	}))
}

func (m machine) startRepository() {
	m.Helper()
	m.check(m.g.Copy(m.ctx, fakes["webserver"], "/usr/local/bin/webserver", 0o755))
	// The distribution's own archive is out of reach.
	m.run(`rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*
		systemd-run --quiet --unit=webserver /usr/local/bin/webserver ` + strings.TrimPrefix(webURL, "http://") + ` /srv/www`)
	m.wait("curl -sf " + webURL + "/containarium-keyguard.asc")
}

// flip changes a byte in the middle of a file.
const flip = `flip() { at=$(($(stat -c %s "$1") / 2)); byte=$(dd if="$1" bs=1 skip=$at count=1 2>/dev/null | od -An -tu1)
	printf "\\$(printf %o $((255 - byte)))" | dd of="$1" bs=1 seek=$at conv=notrunc 2>/dev/null; }
`

// The package from a signed apt repository, by its name: what was tampered with is refused;
// installed from the first version there was, with a configuration that was changed, and
// upgraded without a question; downgraded, removed, purged and installed again.
func TestAptRepository(t *testing.T) {
	t.Parallel()
	old, _ := oldPackages(t)
	m := newGuest(t, "trixie")
	m.addRepository(old, deb, newer)
	m.check(m.g.Boot(m.ctx))
	m.startRepository()
	m.run(`curl -sfo /etc/apt/keyrings/containarium-keyguard.asc ` + webURL + `/containarium-keyguard.asc
		curl -sfo /etc/apt/sources.list.d/containarium-keyguard.sources ` + webURL + `/apt/containarium-keyguard.sources`)

	// A list that the signature does not cover, a signature of somebody else, a package that
	// is not the one that was signed.
	const dist = "/srv/www/apt/dists/stable/"
	refused := func(what, damage, command, says string) {
		m.Helper()
		m.run("cp -a /srv/www /srv/good; " + flip + damage)
		out := m.run("code=0; " + command + " 2>&1 || code=$?; echo exit $code")
		if strings.HasSuffix(out, "exit 0") || !strings.Contains(out, says) {
			m.Errorf("%s: apt says\n%s", what, out)
		}
		m.run("rm -rf /srv/www; mv /srv/good /srv/www; ! command -v keyguard")
	}
	const update = "rm -rf /var/lib/apt/lists/*; apt-get -o APT::Update::Error-Mode=any update"
	refused("a list", "for f in "+dist+"main/binary-*/Packages* "+dist+"main/binary-*/by-hash/SHA256/*; do flip $f; done", update, "")
	refused("a signed list", "sed -i 's/^Suite: stable/Suite: stab1e/' "+dist+"InRelease "+dist+"Release", update, "")
	m.run("apt-get update")
	refused("a package", "for f in /srv/www/apt/pool/*; do flip $f; done", "apt-get install -y containarium-keyguard", "Hash Sum mismatch")

	m.addDaemon(unit)
	m.startDaemon()
	const version = `dpkg-query -W -f '${Version} ${db:Status-Status}' containarium-keyguard 2>/dev/null || true`
	first := m.run("apt-cache madison containarium-keyguard | awk '{ print $3 }' | tail -n 1")
	for _, step := range []struct{ apt, version, state string }{
		{"install -y containarium-keyguard=" + first, first + " installed", "enabled\nactive"},
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
		switch step.version {
		case first + " installed":
			m.run("echo '# ours' >>" + configFile)
		case "":
			m.run("! ls " + configFile)
		case "1.0.0 installed", "1.0.0 config-files":
			m.want("tail -n 1 "+configFile+"; ls "+configFile+"*", "# ours\n"+configFile)
		}
	}
}

// The package from a signed dnf repository, by its name, into an install root with the real
// scriptlets; what was tampered with is refused. The distribution is a package that provides
// what ours asks of it.
func TestDnfRepository(t *testing.T) {
	t.Parallel()
	_, old := oldPackages(t)
	m := newGuest(t, "trixie")
	repository, base := t.TempDir(), t.TempDir()
	server := httptest.NewServer(http.FileServer(http.Dir(repository)))
	t.Cleanup(server.Close)
	publish(t, repository, server.URL, append([]string{old}, rpms...)...)
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
		createrepo_c --quiet .
		mkdir repos
		printf '[base]\nname=base\nbaseurl=file://%s\ngpgcheck=0\n' "$1" >repos/base.repo
		cp "$2/rpm/containarium-keyguard.repo" repos`, "sh", base, repository))
	try := func(arguments string) (string, error) {
		return m.g.Outside(m.ctx, `dnf -y --noplugins --releasever=1 --installroot="$root" --setopt=reposdir="$1" \
			--setopt=cachedir=/var/cache/dnf-keyguard --setopt=keepcache=0 `+arguments+` 2>&1`, filepath.Join(base, "repos"))
	}
	dnf := func(arguments string) string {
		t.Helper()
		out, err := try(arguments)
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

	for what, file := range map[string]string{"a package": "rpm/packages/" + filepath.Base(rpms[1]), "what is signed": "rpm/repodata/repomd.xml"} {
		path := filepath.Join(repository, file)
		good, err := os.ReadFile(path)
		m.check(err)
		bad := bytes.Clone(good)
		bad[len(bad)/2] ^= 0xff
		if what != "a package" {
			bad = bytes.Replace(good, []byte("<revision>"), []byte("<revision>1"), 1)
		}
		m.check(os.WriteFile(path, bad, 0o644))
		if out, err := try("install containarium-keyguard"); err == nil {
			t.Errorf("%s was tampered with, and dnf says\n%s", what, out)
		}
		off("command -v keyguard || true", "")
		m.check(os.WriteFile(path, good, 0o644))
	}

	if out := dnf("install 'containarium-keyguard-0.1.0*'"); !strings.Contains(out, "keyguard init") {
		t.Errorf("dnf install does not say what comes next:\n%s", out)
	}
	off(enabled, "enabled")
	off("systemctl disable containarium-keyguard 2>/dev/null; echo '# ours' >>"+configFile, "")
	const kept = "tail -n 1 " + configFile + "; ls " + configFile + "*"
	dnf("upgrade")
	off(version, "1.0.1")
	off(enabled, "disabled")
	off(kept, "# ours\n"+configFile)
	dnf("downgrade containarium-keyguard-1.0.0")
	off(version, "1.0.0")
	off(enabled, "disabled")
	dnf("reinstall containarium-keyguard-1.0.0")
	off(version, "1.0.0")
	dnf("remove containarium-keyguard")
	off(version, "")
	off(kept+"; find /etc/systemd /usr/lib/systemd | grep -c containarium-keyguard || true", "# ours\n"+configFile+"\n0")
	dnf("install containarium-keyguard")
	off(version, "1.0.1")
	off(enabled, "enabled")
	m.check(m.g.Boot(m.ctx))
	m.want(state, "enabled\nactive")
}

// needsHistory skips a test in an unpacked archive, which has neither tags nor commits; where
// every test must run, that is an error.
func needsHistory(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("../../.git"); err == nil {
		return
	}
	if os.Getenv("KEYGUARD_MUST_RUN") != "" {
		t.Fatal("this needs the repository's history, and every test must run")
	}
	t.Skip("an unpacked archive has no history")
}

// A release that is made twice from one tag, in two clones in different places, is the same
// byte by byte, packages and all, and its sums are right.
func TestRelease(t *testing.T) {
	t.Parallel()
	needsHistory(t)
	version := released(t)
	var sums [2][]byte
	for i, name := range []string{"here", "a longer/way off"} {
		checkout := filepath.Join(t.TempDir(), name)
		if err := command("sh", "-ec", `git -c safe.directory='*' clone --quiet --no-local ../.. "$1"; cd "$1"
			git tag --force "v$2" >/dev/null
			env -u KEYGUARD_MUST_RUN make release ARCHS="$3"
			cd dist; sha256sum --quiet --check SHA256SUMS
			[ "$(ls | grep -c .)" = "$(($(wc -l <SHA256SUMS) + 1))" ]
			tar -tzf containarium-keyguard-$2.tar.gz >files; grep -q "^containarium-keyguard-$2/go.mod" files; rm files`,
			"sh", checkout, version, runtime.GOARCH); err != nil {
			t.Fatal(err)
		}
		var err error
		if sums[i], err = os.ReadFile(filepath.Join(checkout, "dist", "SHA256SUMS")); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(sums[0], sums[1]) || bytes.Count(sums[0], []byte("\n")) != 5 {
		t.Errorf("one release is\n%s\nand the other\n%s", sums[0], sums[1])
	}
}

// released is the newest version of CHANGELOG.md.
func released(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("../../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "\n## ")
	version, _, _ := strings.Cut(rest, "\n")
	return strings.Fields(version)[0]
}
