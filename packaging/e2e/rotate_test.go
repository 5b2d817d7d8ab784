//go:build e2e

package e2e

import (
	"path"
	"slices"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/packaging/testing/guest"
)

const (
	ledgerFile = "/var/lib/containarium-keyguard/ledger.jsonl"
	rotator    = "containarium-keyguard-rotate"
)

// rotating begins a rotation and stops its process in the middle: the daemon is down,
// "commit begun" is written, and nothing is committed. Somebody else's lock on the table
// holds it up for so long.
func (m machine) rotating() {
	m.Helper()
	m.run(`begun=$(grep -c '"commit-begun"' ` + ledgerFile + ` || true)
systemd-run --quiet --collect --unit=holder --uid=postgres psql -q containarium -c 'begin' -c 'lock table secrets in share mode' -c '\! sleep 600'
until su postgres -c "psql -qAt containarium -c \"select 1 from pg_locks where mode = 'ShareLock' and granted and relation = 'secrets'::regclass\"" | grep -q 1; do sleep 0.05; done
systemd-run --quiet --collect --unit=operator keyguard rotate --yes
until [ "$(grep -c '"commit-begun"' ` + ledgerFile + `)" -gt "$begun" ]; do sleep 0.02; done
systemctl kill -s STOP ` + rotator + `; systemctl stop holder`)
	m.want("systemctl is-active containarium "+rotator+" || true", "inactive\nactive")
	m.want("stat -c '%a %s' "+keyfile+".next", "400 32")
}

// A tenant's secrets are the same before and after a rotation, and whatever happens in
// the middle of one.
func TestRotation(t *testing.T) {
	onGuardedHosts(t, func(m machine) {
		old := m.key()
		m.run("keyguard rotate --dry-run")
		m.untouched("a rotation that is refused", func() {
			m.run("! keyguard rotate </dev/null; systemctl stop fake-secret-manager")
			m.want("code=0; keyguard rotate --yes 2>/dev/null || code=$?; echo $code", "14")
			m.run("systemctl start fake-secret-manager")
			m.wait("curl -sf " + control + "/calls")
		})
		m.want("keyguard rotate --yes --json | grep -c '\"containarium.service\"'", "1")
		key := m.key()
		if key == old {
			m.Fatal("the key is the old one")
		}
		m.serves(key)
		m.keeps(old)
		m.run("keyguard status")
		m.run("journalctl --sync; ! journalctl -q -u containarium-keyguard | grep 'broken off'")
		m.want("systemctl is-active "+rotator+" || true", "inactive")

		// Who asked for it is gone, and somebody starts the daemon: the start waits.
		m.rotating()
		m.run("systemctl kill -s KILL operator; systemctl start --no-block containarium")
		m.wait("[ $(systemctl show -p SubState --value containarium) = start-pre ]")
		m.run("systemctl kill -s CONT " + rotator)
		m.wait("systemctl is-active containarium")
		if m.key() == key {
			m.Fatal("the key is the old one")
		}
		m.serves(m.key())
		m.run("keyguard status")
	})
}

// A rotation that dies leaves a host whose secrets can be read.
func TestRotationBroken(t *testing.T) {
	onGuardedHosts(t, func(m machine) {
		key := m.key()

		// It is killed: the watcher puts things right and starts the daemon.
		m.rotating()
		m.run("systemctl kill -s KILL " + rotator)
		m.wait("systemctl is-active containarium")
		m.serves(key)
		m.wait("keyguard status")

		// The power goes in the middle of a step: of each of them in one of the suites. The
		// daemon gives up on a Postgres that needs more than 12 s to recover, and stays without
		// secrets: not what this is about.
		m.drop("containarium", "recovery", "[Service]\nEnvironment=STANDIN_READ_AFTER=/run/recovered\n")
		m.run("touch /run/recovered")
		for i := slices.Index(guest.Suites, path.Base(m.Name())); i < len(rotateSteps); i += len(guest.Suites) {
			step := rotateSteps[i]
			m.run(`mkfifo /run/steps
cat >/run/rotate <<'END'
exec 2>/run/steps
echo $$ >&2
exec keyguard rotate --here --yes
END
systemd-run --quiet --collect --unit=stepper sh /run/rotate
{ read -r pid; while read -r line; do case $line in *"` + step + `"*) kill -STOP $pid; break;; esac; done; } </run/steps
until grep -q '^State:.T' /proc/$pid/status; do :; done`)
			m.g.Kill()
			m.check(m.g.Boot(m.ctx))
			m.wait("pg_isready -q -h 127.0.0.1")
			m.run("touch /run/recovered")
			m.wait("containarium secrets get alice TOKEN")
			chosen, served := m.key(), time.Now()
			// Where Postgres came up after the start was decided, the watcher settles it at its
			// next look, a minute later at most, and that on the same key. The look after that
			// would come another minute later.
			m.wait("! [ -e " + keyfile + ".next ]")
			if took := time.Since(served); took > 2*time.Minute {
				m.Errorf("%s: settled only after %s", step, took)
			}
			m.serves(chosen)
			m.wait("keyguard status") // until what is due is saved
		}
		key = m.key()
		m.run("keyguard rotate --yes")
		if m.key() == key {
			m.Fatal("the key is the old one")
		}
		m.serves(m.key())
		m.run("keyguard status")
	})
}

// rotateSteps is what a rotation says of itself, and every step of it says something.
var rotateSteps = []string{
	"checking the present key and its copies",
	"saving the new key",
	"staging it beside the keyfile",
	"stopping the daemon",
	"re-encrypting",
	"reading back",
	"committing",
	"putting the new key in place",
	"starting the daemon",
	"saving the key as the current one",
}
