//go:build e2e

package e2e

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/packaging/testing/guest"
)

// night is a state of the host in which somebody is woken.
type night struct {
	name   string
	broken string // the script that breaks it
	// threats are lines of SECURITY.md's table, by what is tried there, that come to this.
	threats []string
	// check is the doctor's check that tells of it, where keyguard status is green: line is for its
	// text, and what it says to do names what is typed.
	check string
	line  string // a regular expression for the first line of keyguard status
	code  int    // its exit status
	typed []typed
	mints int    // keys that the daemon makes in it, where prestart has passed and no watcher lives
	after string // what else holds then; and what only this night had goes again
}

// typed is a command that the screen names, and nothing else is typed.
type typed struct {
	named string
	how   string // the same with the answers that it asks for; "" where it asks for none
}

// answers has a person at a terminal type that and answer it.
func answers(command, lines string) typed {
	return typed{command, `printf '` + lines + `' | script -qec '` + command + `' /dev/null`}
}

// nightWords are what the scripts below are made of.
const nightWords = `
K=` + keyfile + ` W=` + watcher + ` C=` + configFile + `
foreign() { head -c 32 /dev/urandom >/root/foreign; install -m 0400 /root/foreign $K; }
# on_top puts standard input on top of the escrow's current shelf, as by hand.
on_top() { curl -sf --data-binary @- '` + control + `/version?secret=projects/stories/secrets/` + secret + `'; }
newest() { curl -sf '` + control + `/version?secret=projects/stories/secrets/` + secret + `' | tr , '\n' | wc -l; }
sql() { printf '%s\n' "$1" | su postgres -c 'psql -qAt -v ON_ERROR_STOP=1 containarium'; }
# started waits until the present start of the daemon, or of another unit, has said that.
started() { until journalctl --sync; journalctl -q -o cat _SYSTEMD_INVOCATION_ID=$(systemctl show -p InvocationID --value ${2:-containarium}) | grep -qF "$1"; do sleep 0.1; done; }
# noted waits until the watcher has written down on which key the daemon runs: it leaves the keyfile alone from then on.
noted() { until grep -F "$(systemctl show -p InvocationID --value containarium)" ` + ledgerFile + ` | grep -q '"started-on"'; do sleep 0.1; done; }
# between does something after prestart has passed the key and before the daemon reads it,
# where no watcher sees it.
between() {
	systemctl stop $W
	systemctl set-environment STANDIN_READ_AFTER=/run/cores
	systemctl restart containarium
	eval "$1"
	touch /run/cores
	started "$2"
	rm /run/cores
	systemctl unset-environment STANDIN_READ_AFTER
	systemctl start $W
}
`

// nights come one after the other on one host, and each begins on the green that the one
// before has ended in.
var nights = []night{
	{name: "the watcher is stopped", broken: "systemctl stop $W",
		line: `^amiss: the watcher does not run \(inactive\)`, code: 12,
		typed: []typed{{named: "systemctl enable --now containarium-keyguard.service"}}},
	{name: "the watcher is masked", broken: "systemctl mask --now $W",
		line: `^amiss: the watcher does not run \(masked\)`, code: 12,
		typed: []typed{{named: "systemctl unmask containarium-keyguard.service; systemctl enable --now containarium-keyguard.service"}}},
	{name: "the drill's timer is off", broken: "systemctl disable --now $W-drill.timer",
		line: `^amiss: the weekly drill is not to come`, code: 12,
		typed: []typed{{named: "systemctl enable --now containarium-keyguard-drill.timer"}}},
	{name: "the hook is masked", broken: `
mkdir -p /etc/systemd/system/containarium.service.d
ln -s /dev/null /etc/systemd/system/containarium.service.d/zz-keyguard.conf
systemctl daemon-reload`,
		line: `^amiss: nothing looks at the key before the daemon starts: prestart is not in its ExecStartPre=`, code: 12,
		typed: []typed{{named: "rm /etc/systemd/system/containarium.service.d/zz-keyguard.conf; systemctl daemon-reload"}}},
	{name: "prestart is gone", broken: `mv /usr/lib/containarium-keyguard/prestart /root/prestart`,
		line: `^amiss: nothing looks at the key before the daemon starts: /usr/lib/containarium-keyguard/prestart is not there`, code: 12,
		typed: []typed{{"or install the package again where that file or prestart is missing", "mv /root/prestart /usr/lib/containarium-keyguard/prestart"}}},
	{name: "the daemon's program is gone", broken: `
mkdir -p /etc/systemd/system/containarium.service.d
printf '[Service]\nRestart=always\nRestartSec=1h\n' >/etc/systemd/system/containarium.service.d/again.conf
systemctl daemon-reload
mv /usr/local/bin/containarium /root/containarium
systemctl restart containarium || true
until [ "$(systemctl show -p SubState --value containarium)" = auto-restart ]; do sleep 0.1; done`,
		line: `^amiss: the daemon does not stay up: systemd starts it again and again`, code: 12,
		typed: []typed{{"systemctl restart containarium.service", "mv /root/containarium /usr/local/bin/containarium; systemctl restart containarium.service"}},
		after: "rm /etc/systemd/system/containarium.service.d/again.conf; systemctl daemon-reload"},
	{name: "a drop-in resets the hook", broken: `
printf '[Service]\nExecStartPre=\n' >/etc/systemd/system/containarium.service.d/zzz.conf
systemctl daemon-reload`,
		line: `^amiss: nothing looks at the key before the daemon starts`, code: 12,
		typed: []typed{{named: "take out what overrides zz-keyguard.conf in /etc/systemd/system/containarium.service.d/zzz.conf", how: "rm /etc/systemd/system/containarium.service.d/zzz.conf; systemctl daemon-reload"}}},
	{name: "a foreign key under the running daemon", broken: "foreign",
		line: `^doubt: the keyfile is not right: key [0-9a-f]{16} belongs there`, code: 11,
		typed: []typed{{named: "keyguard restore"}}},
	{name: "the key is deleted, and no watcher looks", broken: "systemctl stop $W; rm $K",
		line: `^doubt: the keyfile is not right: key [0-9a-f]{16} belongs there`, code: 11,
		typed: []typed{{named: "systemctl enable --now containarium-keyguard.service"}}},
	{name: "the key is mangled by a tool, and no watcher looks", broken: "systemctl stop $W; base64 $K >/root/mangled; install -m 0400 /root/mangled $K",
		line: `^doubt: the keyfile is not right: key [0-9a-f]{16} belongs there`, code: 11,
		typed: []typed{{named: "systemctl enable --now containarium-keyguard.service"}}},
	{name: "the key of before a rotation, put back by hand", broken: "cp $K /root/before; keyguard rotate --yes; noted; install -m 0400 /root/before $K",
		line: `^doubt: the keyfile is not right`, code: 11,
		typed: []typed{{named: "keyguard restore"}}},
	{name: "a dump of before a rotation is loaded", broken: `
sql 'create table dump as select * from secrets'
keyguard rotate --yes
noted
sql 'delete from secrets; insert into secrets select * from dump; drop table dump'
systemctl restart $W # which looks at the rows: a start does not pass the key for its proof any more
until keyguard status 2>&1 | grep -q '^hint: systemctl restart'; do sleep 0.1; done`,
		line: `^doubt: the keyfile is not right`, code: 11,
		typed: []typed{{named: "systemctl restart containarium.service"}}},
	{name: "the daemon has made a key of its own", broken: `between 'rm $K' 'NEW MASTER KEY'`, mints: 1,
		line: `^doubt: the keyfile is not right`, code: 11,
		typed: []typed{{named: "systemctl restart containarium.service"}}},
	{name: "the keyfile was loose when the daemon read it", threats: []string{"reads a key file that is loose"},
		broken: `between 'chmod 0644 $K' 'insecure permissions'`,
		line:   `^amiss: restart needed: the daemon runs without secrets, since it could not load the keyfile`, code: 12,
		typed: []typed{{named: "systemctl restart containarium.service"}}},
	{name: "Postgres came late", broken: `
systemctl stop postgresql 'postgresql@*' # the first alone stops the cluster a second later
systemctl restart containarium
started 'Failed to connect to Postgres'
systemctl start postgresql`,
		line: `^amiss: restart needed: the daemon runs without secrets, since it could not connect to Postgres`, code: 12,
		typed: []typed{{named: "systemctl restart containarium.service"}}},
	{name: "Postgres is down, and the key is gone", broken: `
systemctl stop $W # which sees nothing of this start
systemctl restart containarium
started 'Secrets store ready'
systemctl stop postgresql 'postgresql@*'
rm $K`,
		line: `^doubt: the keyfile is not right: key [0-9a-f]{16} belongs there \(it is the known key\)`, code: 11,
		typed: []typed{{named: "systemctl enable --now containarium-keyguard.service"}, {"start Postgres", "systemctl start postgresql"}}},
	{name: "the daemon has read its key and keeps no secrets", broken: `
systemctl set-environment STANDIN_NO_CIPHER=1
systemctl restart containarium
started 'Failed to construct secrets cipher'
systemctl unset-environment STANDIN_NO_CIPHER`,
		line: `^amiss: the daemon has read its key and runs without secrets all the same`, code: 12,
		typed: []typed{{named: "systemctl restart containarium.service"}}},
	{name: "another host writes to the same place", threats: []string{"puts another key on top"},
		broken: "head -c 32 /dev/urandom | on_top",
		line:   `^lagging: escrow "gcp": copy current/[0-9]+ there is not from this host`, code: 12,
		typed: []typed{answers("keyguard accept", `y\n`)}},
	{name: "rubbish on top of the shelf", threats: []string{"answers with wrong bytes"},
		broken: "head -c 31 /dev/urandom | on_top",
		line:   `^lagging: escrow "gcp" does not hold key`, code: 12,
		typed: []typed{{named: "keyguard backup"}}},
	{name: "the key on top as the runbook would not restore it", broken: "base64 $K | on_top",
		line: `^lagging: escrow "gcp" has copy current/[0-9]+ on top, which is key [0-9a-f]{16} as base64`, code: 12,
		typed: []typed{{named: "keyguard backup"}}},
	{name: "the newest copy is destroyed", threats: []string{"evicts the copies"},
		broken: `curl -sf -X POST "` + control + `/state?secret=projects/stories/secrets/` + secret + `&version=$(newest)&state=DESTROYED"`,
		line:   `^lagging: escrow "gcp" does not hold key`, code: 12,
		typed: []typed{{named: "keyguard backup"}}},
	{name: "the place is gone", broken: "curl -sf -X DELETE '" + control + "/secret?secret=projects/stories/secrets/" + secret + "'",
		line: `^lagging: escrow "gcp" cannot answer: .* no such place`, code: 12,
		typed: []typed{answers("keyguard init", `\ny\n`)}},
	{name: "a store is read", threats: []string{"reads the copies"},
		broken: `
cp -p $C /root/good.toml
mkdir -p /mnt/read; mount -t tmpfs -o mode=0700 read /mnt/read
printf '[[escrow]]\nname = "usb"\nkind = "directory"\npath = "/mnt/read"\nallow_same_disk = true\n' >>$C
keyguard init --yes
systemctl reload $W
chmod 0755 /mnt/read /mnt/read/current; chmod 0644 /mnt/read/current/*
runuser -u nobody -- sh -c 'cat /mnt/read/current/*.key' >/root/stolen
cmp /root/stolen $K`,
		line: `^amiss: escrow "usb": others can read current/\S+ \(mode 0644\)`, code: 12,
		// Whoever has the key has an old one then.
		typed: []typed{{"chown -R root /mnt/read; chmod -R go-rwx /mnt/read", `
chown -R root /mnt/read; chmod -R go-rwx /mnt/read
grep -q 'to have another one: keyguard rotate' /root/said && printf 'y\n' | script -qec 'keyguard rotate' /dev/null`}},
		after: `
if cmp /root/stolen $K || runuser -u nobody -- ls /mnt/read/current; then exit 1; fi
cp -p /root/good.toml $C; umount --lazy /mnt/read; systemctl reload $W`},
	{name: "a link in the key's way, and no watcher looks", threats: []string{"puts a link or a file in the key's way"},
		broken: `
systemctl stop $W
install -d -m 1777 /var/tmp/others; install -o daemon -m 0400 $K /var/tmp/others/key
rm $K; ln -s /var/tmp/others/key $K`,
		line: `^doubt: the keyfile is not right: key [0-9a-f]{16} belongs there`, code: 11,
		typed: []typed{{named: "systemctl enable --now containarium-keyguard.service"}},
		after: `[ ! -L $K ]; rm -r /var/tmp/others`},
	{name: "the power went in a rotation, and no watcher looks", threats: []string{"goes at any moment"},
		broken: `systemctl stop $W; head -c 32 /dev/urandom >/root/next; install -m 0400 /root/next $K.next`,
		line:   `^amiss: a rotation stopped halfway`, code: 12,
		typed: []typed{{"systemctl restart containarium", "systemctl restart containarium"}, {named: "systemctl enable --now containarium-keyguard.service"}},
		after: `[ ! -e $K.next ]`},
	{name: "a hook that others may change", threats: []string{"has a hook run that he may change"},
		broken: `install -m 0777 /bin/true /etc/containarium-keyguard/hooks.d/loose`,
		check:  "hooks", line: `loose: others may write to it`,
		// Something may have happened meanwhile that the hook was not told of: then the doctor
		// has the other command named, too.
		typed: []typed{{"chown root and chmod go-w what is named", "chmod go-w /etc/containarium-keyguard/hooks.d/loose; keyguard alert test"}},
		after: "rm /etc/containarium-keyguard/hooks.d/loose"},
	{name: "an escrow's directory is another's", threats: []string{"owns an escrow's directory, or may write to it"},
		broken: `
cp -p $C /root/good.toml
mkdir -p /mnt/theirs; mount -t tmpfs -o mode=0700 theirs /mnt/theirs
printf '[[escrow]]\nname = "theirs"\nkind = "directory"\npath = "/mnt/theirs"\nallow_same_disk = true\n' >>$C
keyguard init --yes
systemctl reload $W
chown -R daemon /mnt/theirs`,
		check: `escrow "theirs"`, line: `/mnt/theirs`,
		typed: []typed{{"chown root and chmod go-rwx what is named", "chown -R root /mnt/theirs"}},
		after: "cp -p /root/good.toml $C; umount --lazy /mnt/theirs; systemctl reload $W"},
	{name: "a pipe is planted on top of the shelf", threats: []string{"plants files, links, names"},
		broken: `
cp -p $C /root/good.toml
mkdir -p /mnt/planted; mount -t tmpfs -o mode=0700 planted /mnt/planted
printf '[[escrow]]\nname = "planted"\nkind = "directory"\npath = "/mnt/planted"\nallow_same_disk = true\n' >>$C
keyguard init --yes
systemctl reload $W
ln -s /etc/shadow /mnt/planted/current/link; mkfifo /mnt/planted/current/pipe`,
		line: `^lagging: escrow "planted" does not hold key [0-9a-f]{16} as its newest current copy`, code: 12,
		typed: []typed{{named: "keyguard backup"}},
		after: "cp -p /root/good.toml $C; umount --lazy /mnt/planted; systemctl reload $W"},
	{name: "no escrow is configured", broken: `
cp -p $C /root/good.toml; sed -i '/^\[\[escrow/,$d' $C
` + stick("/mnt/keys") + `
systemctl reload $W`,
		line: `^lagging: key [0-9a-f]{16} is in place, and no escrow is configured`, code: 12,
		typed: []typed{answers("keyguard init", `\n\n\n\n\ny\n`)},
		after: "cp -p /root/good.toml $C; umount --lazy /mnt/keys; systemctl reload $W"},
	{name: "a row was tampered with", threats: []string{"tampers with rows"},
		broken: `
containarium secrets set bob OTHER milk
sql "update secrets set ciphertext = set_byte(ciphertext, 0, get_byte(ciphertext, 0) # 1) where username = 'bob'"`,
		line: `^doubt: the table is split, or rows were tampered with: key [0-9a-f]{16} opens 1 of 2 rows`, code: 11,
		typed: []typed{{named: "keyguard drill --full"}, {named: "containarium secrets set", how: "containarium secrets set bob OTHER milk"}}},
	{name: "the table is split", threats: []string{"empties or splits the table"},
		broken: `between 'rm $K' 'NEW MASTER KEY'
containarium secrets set carol THIRD wine`, mints: 1,
		line: `^doubt: the keyfile is not right: .* opens 2 of 3 rows`, code: 11,
		typed: []typed{answers("keyguard repair", `y\n`)}},
	{name: "a rotation is under way", broken: `
systemd-run --quiet --collect --unit=holder --uid=postgres psql -q containarium -c 'begin' -c 'lock table secrets in share mode' -c '\! sleep 600'
until sql "select 1 from pg_locks where mode = 'ShareLock' and granted and relation = 'secrets'::regclass" | grep -q 1; do sleep 0.05; done
begun=$(grep -c '"commit-begun"' ` + ledgerFile + `)
systemd-run --quiet --collect --unit=operator script -qefc 'keyguard rotate --yes; while [ ! -e /run/enough ]; do sleep 0.1; done' /root/typescript
until [ "$(grep -c '"commit-begun"' ` + ledgerFile + `)" -gt "$begun" ]; do sleep 0.05; done
pkill -INT -f '^keyguard rotate --yes$'`,
		line: `^busy: a rotation is under way since `, code: 15,
		// It ends when whoever holds the table lets go of it. The person at the terminal has
		// typed Ctrl-C: from then on the rotation speaks to who follows it, and not there.
		typed: []typed{{"journalctl -fu containarium-keyguard-rotate.service", `
journalctl -fu containarium-keyguard-rotate.service >/root/followed & follower=$!
systemctl stop holder
until grep -q 'rotate: committing' /root/followed && grep -q 'rotate: starting the daemon' /root/followed; do sleep 0.1; done
kill $follower
while systemctl is-active -q containarium-keyguard-rotate; do sleep 0.1; done
touch /run/enough
while systemctl is-active -q operator; do sleep 0.1; done`}},
		after: `grep -q 'rotate goes on without this terminal' /root/typescript
if grep 'committing' /root/typescript || systemctl is-failed -q containarium-keyguard-rotate; then exit 1; fi`},
	{name: "no copy can be reached, and the daemon is parked", threats: []string{"breaks, delays or turns bits, at any byte"},
		broken: `
systemctl stop containarium fake-secret-manager
rm -f ` + quarantine + `/* $K
systemctl start containarium`,
		line: `^doubt: no key at hand opens most rows, and escrow "gcp" cannot answer`, code: 11,
		typed: []typed{{"check network and firewall", "systemctl start fake-secret-manager"}}},
	{name: "every copy is lost, and a sheet is in the safe", broken: `
cp $K /root/safe
systemctl stop $W containarium
rm -f $K ` + quarantine + `/*
curl -sf -X DELETE '` + control + `/secret?secret=projects/stories/secrets/` + secret + `'
curl -sf -X DELETE '` + control + `/secret?secret=projects/stories/secrets/` + secret + `-quarantine'
keyguard init --yes || true
rm -f ` + quarantine + `/*
systemctl start $W
systemctl start containarium`,
		line: `^lost: no key that can be had opens a row`, code: 10,
		typed: []typed{{"keyguard import", "keyguard import </root/safe"}}},
	{name: "the ledger was edited", broken: `sed -i '2s/"time":"2/"time":"1/' ` + ledgerFile,
		line: `^amiss: key [0-9a-f]{16} is in place, and the ledger's chain is broken at line 3`, code: 12,
		typed: []typed{answers("keyguard accept", `y\n`)}},
	{name: "the key changes, and no watcher looks", broken: `
systemctl stop $W containarium
sql 'delete from secrets'
foreign
systemctl start containarium
started 'Secrets store ready'
containarium secrets set bob OTHER milk`,
		line: `^amiss: the watcher does not run \(inactive\)`, code: 12,
		typed: []typed{{named: "systemctl enable --now containarium-keyguard.service"}}},
	{name: "a new host, and its escrow was never made", broken: `
systemctl stop $W containarium
sql 'delete from secrets'
rm -f $K ${K%/*}/.keyguard-* ` + ledgerFile + ` ` + quarantine + `/*
curl -sf -X DELETE '` + control + `/secret?secret=projects/stories/secrets/` + secret + `'
curl -sf -X DELETE '` + control + `/secret?secret=projects/stories/secrets/` + secret + `-quarantine'
systemctl start $W`,
		line: `^doubt: the keyfile is missing and the required escrow "gcp" cannot answer`, code: 11,
		typed: []typed{answers("keyguard init", `\ny\n`)},
		after: `systemctl start containarium; started 'Secrets store ready'; keyguard status`},
}

// Whoever is woken reads one line and types the command that stands below it. Of the broken
// states above and one more each is told by the first line and the exit status of keyguard
// status, and what it names, typed as it is named, ends in green.
func TestNights(t *testing.T) {
	t.Parallel()
	m := guardedHost(t, guest.Suites[len(guest.Suites)-1])
	m.run("sed -i '1i [watch]\\nrescan = \"1s\"' " + configFile)
	m.reload()
	made := 1 // before keyguard
	var had []key.Key
	for _, n := range nights {
		made += n.mints
		m.part(n.name, func(m machine) {
			m.night(n)
			m.daemonMade(made)
		})
		had = append(had, keys(m.ctx, m.g)...)
	}
	leaked(t, m.g, had...)
	// A machine that was made by copying this one: it is another at its next boot.
	m.run("head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n' >/etc/machine-id; echo >>/etc/machine-id")
	m.check(m.g.Reboot(m.ctx))
	m.part("this machine is a clone of another", func(m machine) {
		m.want("code=0; keyguard doctor >/root/doctor 2>&1 || code=$?; echo $code; grep -c 'ledger: it is another machine' /root/doctor", "12\n1")
		m.night(night{line: `^amiss: the ledger is another machine's`, code: 12, typed: []typed{answers("keyguard accept", `y\n`)}})
		m.daemonMade(0) // a journal of its own
	})
}

func (m machine) night(n night) {
	m.Helper()
	m.run(nightWords + n.broken)
	if n.check != "" {
		m.doctored(n)
		return
	}
	said := m.status(n)
	for i, c := range n.typed {
		for began := time.Now(); i > 0 && !strings.Contains(said, c.named) && time.Since(began) < step; {
			said = m.run("keyguard status 2>&1 >/dev/null || true") // what it comes to, where the watcher is at work
		}
		if !strings.Contains(said, c.named) {
			m.Fatalf("nothing names %q:\n%s", c.named, said)
		}
		if c.how == "" {
			c.how = c.named
		}
		said = m.types(c.how)
	}
	if n.after != "" {
		defer m.run(nightWords + n.after)
	}
	// The watcher saves what is due, and restarts a daemon that was parked.
	m.green(said)
}

// types types what was named, and returns what that says. Where it could not be told (11) or
// somebody was at work (15), as on a machine that is busy, it is typed again, as a person would.
func (m machine) types(how string) string {
	m.Helper()
	for began := time.Now(); ; {
		out := m.run("code=0; { " + how + "\n} >/root/typed 2>&1 || code=$?; cat /root/typed; printf '\\nexit status %s' $code")
		said, code, _ := strings.Cut(out, "\nexit status ")
		if code != "11" && code != "15" || time.Since(began) > step {
			return said
		}
	}
}

// doctored is a night of which the doctor tells.
func (m machine) doctored(n night) {
	m.Helper()
	if n.after != "" {
		defer m.run(nightWords + n.after)
	}
	check := func() doctorCheck {
		list := m.doctorChecks(n.check)
		if len(list) != 1 {
			m.Fatalf("the doctor says of %s: %+v", n.check, list)
		}
		return list[0]
	}
	m.green("")
	if c := check(); c.State != "problem" || !regexp.MustCompile(n.line).MatchString(c.Text) || !strings.Contains(c.Improve, n.typed[0].named) {
		m.Fatalf("the doctor says %+v", c)
	}
	m.run(n.typed[0].how)
	if c := check(); c.State == "problem" {
		m.Fatalf("after what was typed the doctor says %+v", c)
	}
}

// green waits until keyguard status is.
func (m machine) green(said string) {
	m.Helper()
	if err := m.g.Wait(m.ctx, "keyguard status"); err != nil {
		m.Fatalf("%v\nafter what was typed, which said:\n%s", err, said)
	}
}

// status waits until the first line of keyguard status says how the night is, and returns
// the first hint below it.
func (m machine) status(n night) string {
	m.Helper()
	line := regexp.MustCompile(n.line)
	for began := time.Now(); ; {
		out := strings.Split(m.run(`code=0; keyguard status >/root/shown 2>/root/said || code=$?
head -n 1 /root/shown; echo $code; grep -m 1 '^hint: ' /root/said || true`), "\n")
		if len(out) == 3 && line.MatchString(out[0]) && out[1] == strconv.Itoa(n.code) {
			return out[2]
		}
		if time.Since(began) > step {
			m.Fatalf("status says %q, want %s and %d", out, n.line, n.code)
		}
		time.Sleep(200 * time.Millisecond)
	}
}
