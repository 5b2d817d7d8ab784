//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/packaging/testing/guest"
)

// partsConfig keeps a key in three parts, of which two rebuild it: in a Secret Manager and
// on two sticks.
const partsConfig = `
[[escrow]]
name = "gcp"
kind = "gcp-secret-manager"
project = "stories"
secret = "parts"
endpoint = "127.0.0.1:8085"
plaintext = true
part = 1
[[escrow]]
name = "one"
kind = "directory"
path = "/mnt/one"
part = 2
allow_same_disk = true
[[escrow]]
name = "two"
kind = "directory"
path = "/mnt/two"
part = 3
allow_same_disk = true
[[escrow]]
name = "split"
kind = "split"
need = 2
members = ["gcp", "one", "two"]
`

// forged prints a part's line that is no part of the key, with a sum that fits: what a store
// makes of it that lies.
const forged = `forged() { # KEY NUMBER
	line="keyguard-part v1 key=$1 need=2 part=$2 value=$({ head -c 32 /dev/urandom; printf "\\00$2"; } | base64 -w0)"
	printf '%s sum=%s\n' "$line" "$(printf %s "$line" | sha256sum | cut -c 1-16)"
}
fingerprint=$(ls /root/one/current /root/two/current | sed -n 's/.*-\([0-9a-f]\{16\}\)\.need2.*/\1/p' | head -n 1)
`

// A key in three parts, and whatever becomes of any one store: the host restores by the
// daemon's start alone, the daemon never sees a wrong key, and whoever saves, drills or
// rotates hears which store it is. Nothing of it is systemd's, so one suite does.
func TestParts(t *testing.T) {
	t.Parallel()
	m := guardedHost(t, guest.Suites[1])
	m.run(`for s in one two; do
			mkdir -p /mnt/$s /root/$s; mount -t tmpfs -o size=4m,mode=0700 $s /root/$s; mount --bind /root/$s /mnt/$s
		done`)
	m.run("cp " + configFile + " /root/before.toml; cat >" + configFile + " <<'END'\n" + partsConfig + "END\nkeyguard config")
	m.run("keyguard init --yes")
	m.reload()
	m.wait("keyguard status")
	m.noWatcher() // what it cannot tell, a start refuses then: it is prestart alone that restores
	key := m.key()

	const state = "/var/lib/fake-secret-manager"
	// A quick machine starts it more often than systemd lets it be started.
	start := "systemctl reset-failed fake-secret-manager; systemctl start fake-secret-manager; until curl -sf " + control + "/calls; do sleep 0.1; done"
	fakeAway := "systemctl stop fake-secret-manager; mv " + state + " /root/fake; mkdir -p " + state + "; " + start
	fakeBack := "systemctl stop fake-secret-manager; rm -rf " + state + "; mv /root/fake " + state + "; " + start
	type damage struct {
		store, what, do, undo string
		save, drill, rotate   int // exit codes; -1 where it is not tried
	}
	damages := []damage{
		{"gcp", "lost", fakeAway, fakeBack, 12, 12, 14},
		{"gcp", "read-only", `curl -sf -d '{"Kind":"fail","Method":"AddSecretVersion","Code":7}' ` + control + "/faults", "curl -sf -X DELETE " + control + "/faults", 12, 0, 14},
		{"gcp", "lying", strings.Replace(fakeAway, "mkdir -p "+state, "cp -a /root/fake "+state, 1) + "; forged $fingerprint 1 | curl -sf --data-binary @- '" + control + "/version?secret=projects/stories/secrets/parts'", fakeBack, 0, 12, -1},
		{"gcp", "down", "systemctl stop fake-secret-manager", start, 12, 12, 14},
		{"gcp", "hanging", "systemctl kill -s STOP fake-secret-manager", "systemctl kill -s CONT fake-secret-manager", -1, -1, -1}, // each call waits for its deadline, as one that is down does not
	}
	for number, s := range map[int]string{2: "one", 3: "two"} {
		damages = append(damages,
			damage{s, "lost", "mkdir /root/kept; mv /root/" + s + "/* /root/kept", "mv /root/kept/* /root/" + s + "; rmdir /root/kept", 12, 12, 14},
			damage{s, "read-only", "mount -o remount,ro,bind /mnt/" + s, "mount -o remount,rw,bind /mnt/" + s, 12, 0, 14},
			damage{s, "lying", fmt.Sprintf("for f in /root/%s/current/*; do cp -p $f /root/kept; forged $fingerprint %d >$f; break; done", s, number),
				"for f in /root/" + s + "/current/*; do cp -p /root/kept $f; break; done; rm /root/kept", 0, 12, -1},
			damage{s, "down", "umount /mnt/" + s, "mount --bind /root/" + s + " /mnt/" + s, 12, 12, 14},
		)
	}
	for _, d := range damages {
		m.part(d.store+" "+d.what, func(m machine) {
			m.run(forged + d.do)
			defer func() { m.run(d.undo) }() // the next part's, too
			exits := func(code int, command string) {
				m.Helper()
				if code < 0 {
					return
				}
				// The store is named wherever there is something to do about it.
				named := "true"
				if code != 0 {
					named = "grep -q -w '" + d.store + "' /root/said"
				}
				m.want("code=0; { "+command+"; } >/root/said 2>&1 || code=$?; echo $code; "+named+" || cat /root/said", fmt.Sprint(code))
			}
			m.run("systemctl stop containarium; rm " + keyfile)
			m.restart(key)
			m.says("is in place now")
			exits(d.drill, "keyguard drill")
			if d.what == "down" {
				m.run("systemctl start containarium-keyguard-drill") // it passes, and wakes nobody
			}
			exits(d.save, "head -c 32 /dev/urandom | keyguard import --escrow-only")
			exits(d.rotate, "keyguard rotate --yes")
			m.serves(key)
			m.run("rm " + keyfile)
			exits(0, "keyguard restore")
			m.want("sha256sum <"+keyfile, key)
		})
	}
	// All is well again, with nothing typed but a backup of what came meanwhile.
	m.run("keyguard backup")
	m.run("keyguard drill")
	m.run("keyguard rotate --yes")
	if next := m.key(); next == key {
		m.Error("the key was not rotated")
	} else {
		key = next
	}
	m.run("systemctl stop containarium; rm " + keyfile + "; umount /mnt/one")
	m.restart(key)

	// Nothing but two of the three stores is left.
	m.run("systemctl stop containarium; rm -rf /etc/containarium/* /var/lib/containarium-keyguard/* /run/containarium-keyguard/*")
	m.restart(key)
	m.run("systemctl start containarium-keyguard; mount --bind /root/one /mnt/one")
	m.run("keyguard backup")
	m.wait("keyguard status")
}
