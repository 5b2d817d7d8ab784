//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// oldest is the commit of the first package that hosts ran, 0.1.0-dev.250.
const oldest = "94cffeea3c97e277e6584c8911af383ce4f2f31a"

var makeOldPackages = sync.OnceValues(func() ([]string, error) {
	checkout := filepath.Join(built, "oldest")
	if err := command("sh", "-ec", `mkdir -p "$1/unlinted"
		git -C ../.. -c safe.directory='*' archive `+oldest+` | tar -x -C "$1"
		ln -s /bin/true "$1/unlinted/lintian"; ln -s /bin/true "$1/unlinted/rpmlint"
		PATH="$1/unlinted:$PATH" make -C "$1" package VERSION=0.1.0-dev.250 SOURCE_DATE_EPOCH=1 ARCHS=`+runtime.GOARCH, "sh", checkout); err != nil {
		return nil, err
	}
	found, err := filepath.Glob(filepath.Join(checkout, "dist", "*.[dr][ep][bm]"))
	if err != nil || len(found) != 2 {
		return nil, fmt.Errorf("make package made %q, %v", found, err)
	}
	return found, nil
})

// oldPackages are the first ones that hosts ran, made of the repository's history.
func oldPackages(t *testing.T) (deb, rpm string) {
	t.Helper()
	needsHistory(t)
	found, err := makeOldPackages()
	if err != nil {
		t.Fatal(err)
	}
	return found[1], found[0]
}

// A host that runs the first package there was goes on without a hand: nobody is asked,
// the daemon does not notice, and configuration, ledger, local quarantine, back-off, and
// what the administrator made of the units, are as they were.
func TestUpgradeFromTheFirstPackage(t *testing.T) {
	old, _ := oldPackages(t)
	inGuests(t, func(m machine) {
		m.addDaemon(unit)
		m.startDaemon()
		m.run("containarium secrets set alice TOKEN tea")
		m.addEscrow()
		m.install(old)
		m.check(m.g.Write(m.ctx, configFile, escrowConfig, 0o600))
		m.run("keyguard init --yes; systemctl reload-or-restart containarium-keyguard; systemctl disable --now containarium-keyguard-drill.timer")
		key := m.key()
		m.run("systemctl stop containarium; head -c 32 /dev/urandom >/root/foreign; install -m 0400 /root/foreign " + keyfile)
		m.restart(key)
		foreign := m.run("sha256sum </root/foreign")
		m.keeps(foreign)
		m.waitQuarantined(foreign)
		// A start in vain leaves a back-off, which the next boot would have forgotten. The watcher
		// may have put the key back as well, and been stopped before it had cleared away what was
		// one too many: beside the keyfile that is a source, too.
		m.run(`systemctl stop containarium containarium-keyguard
			cp -p ` + keyfile + ` /root/key; mkdir /root/quarantine; rm ` + keyfile + `; mv ` + quarantine + `/* /root/quarantine
			mkdir /root/beside; find /etc/containarium -maxdepth 1 -type f -name '.*' -exec mv -t /root/beside {} +
			curl -sf -d '{"Kind":"fail","Code":14}' ` + control + `/faults
			! keyguard prestart 2>/root/vain || { cat /root/vain; ls -lA /etc/containarium ` + quarantine + `; exit 1; }
			cp -p /run/containarium-keyguard/backoff.json /root/backoff.json
			curl -sf -X DELETE ` + control + `/faults
			mv /root/quarantine/* ` + quarantine + `; cp -p /root/key ` + keyfile + `
			systemctl start containarium-keyguard containarium`)
		m.serves(key)
		const kept = "cat " + configFile + "; stat -c '%a %U' " + configFile + "; sha256sum " + quarantine + "/*"
		before := m.run(kept)
		lines := m.run("cat " + record)
		// The watcher forgets it where it has saved something meanwhile.
		m.run("test -s /root/backoff.json; cp -p /root/backoff.json /run/containarium-keyguard/backoff.json")
		m.check(m.g.Copy(m.ctx, deb, "/root/newer.deb", 0o644))
		m.untouched("upgrade", func() {
			out := m.run("dpkg -i /root/newer.deb </dev/null 2>&1")
			if strings.Contains(out, "conf") {
				m.Errorf("the upgrade says\n%s", out)
			}
		})
		m.want(kept, before)
		m.want("ls "+configFile+"*", configFile)
		if now := m.run("cat " + record); !strings.HasPrefix(now, lines) {
			m.Errorf("the ledger was\n%s\nand is\n%s", lines, now)
		}
		m.want(state, "enabled\nactive")
		m.want(timer, "disabled\ninactive")
		m.want("keyguard --version | grep -c 1.0.0", "1")
		m.run("keyguard report --verify; keyguard drill; keyguard backup")
		// All is well but for the timer, which the administrator switched off.
		m.run("keyguard status >/root/status || [ $? = 12 ]; head -n 1 /root/status | grep -q 'the weekly drill is not to come'")
		m.run("systemctl stop containarium; rm " + keyfile)
		m.restart(key)
		m.onlyCurrent(key)

		// dpkg still knows it as a conffile, and takes it with the rest.
		m.run("apt-get remove -y containarium-keyguard")
		m.want("grep -c '^\\[\\[escrow' "+configFile, "1")
		m.run("apt-get purge -y containarium-keyguard; ! ls " + configFile)
	})
}
