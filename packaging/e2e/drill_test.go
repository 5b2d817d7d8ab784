//go:build e2e

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

const record = "/var/lib/containarium-keyguard/ledger.jsonl"

// slot wants the timer to have the six hours of the week that the host's id gives it.
func (m machine) slot() {
	m.Helper()
	id, err := strconv.ParseUint(m.run("head -c 6 /etc/machine-id"), 16, 32)
	m.check(err)
	slot := int(id % 28)
	day, hour := []string{"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"}[slot/4], slot%4*6
	const show = "systemctl show --value containarium-keyguard-drill.timer -p "
	if calendar, want := m.run(show+"TimersCalendar"), fmt.Sprintf("{ OnCalendar=%s *-*-* %02d:00:00 ;", day, hour); !strings.HasPrefix(calendar, want) || strings.Count(calendar, "OnCalendar") != 1 {
		m.Errorf("the timer has %q, want %q alone", calendar, want)
	}
	next, err := time.Parse("Mon 2006-01-02 15:04:05 MST", m.run(show+"NextElapseUSecRealtime"))
	m.check(err)
	if got := next.Format("Mon"); got != day || next.Hour() < hour || next.Hour() >= hour+6 {
		m.Errorf("the next drill is %s, want it on %s from %d o'clock to %d", next, day, hour, hour+6)
	}
	m.Logf("%s", m.run("systemctl list-timers --no-pager containarium-keyguard-drill.timer"))
}

// A week without a drill is made up for as soon as the timer runs, which moves its stamp;
// and a drill that does not pass leaves a red unit, a hook's call, a metric and an entry in
// the journal, and status says so.
func TestDrill(t *testing.T) {
	onGuardedHosts(t, func(m machine) {
		m.run("mkdir -p /var/lib/prometheus/node-exporter")
		m.check(m.g.Write(m.ctx, "/etc/containarium-keyguard/hooks.d/tell", "#!/bin/sh\necho \"$KEYGUARD_EVENT $KEYGUARD_VERDICT $KEYGUARD_OPENED of $KEYGUARD_TOTAL\" >>/run/containarium-keyguard/told\n", 0o755))
		m.want("grep -c '\"person\":\"systemd\"' "+record+" || true", "0") // the install's start of the timer was none

		m.slot()

		m.check(m.g.Write(m.ctx, "/etc/systemd/system/containarium-keyguard-drill.timer.d/test.conf",
			"[Timer]\nOnCalendar=\nOnCalendar=weekly\nRandomizedDelaySec=0\nAccuracySec=1us\n", 0o644))
		// GnuPG, behind pass, locks files where README has a host keep them.
		m.check(m.g.Write(m.ctx, "/etc/systemd/system/containarium-keyguard-drill.service.d/test.conf",
			"[Service]\nExecStartPre=/bin/sh -c '>/etc/containarium-keyguard/gnupg.lock'\n", 0o644))
		m.run(`systemctl daemon-reload; systemctl stop containarium-keyguard-drill.timer
			touch -d '8 days ago' /var/lib/systemd/timers/stamp-containarium-keyguard-drill.timer
			systemctl start containarium-keyguard-drill.timer`)
		m.wait(`grep '"event":"drill-ended","verdict":"passed".*"person":"systemd"' ` + record)
		m.wait("systemctl show -p Result --value containarium-keyguard-drill | grep success && [ \"$(systemctl is-active containarium-keyguard-drill)\" = inactive ]")
		m.want("find /var/lib/systemd/timers/stamp-containarium-keyguard-drill.timer -mmin -5 | wc -l", "1")
		m.want("cat /run/containarium-keyguard/told", "drill-passed passed 1 of 1")
		m.want("ls -A /run/containarium-keyguard/scratch", "") // its scratch was its own, and is gone

		// By hand, and another host has written to the same place.
		m.run("systemctl start containarium-keyguard-drill")
		m.run("head -c 32 /dev/urandom >/root/foreign; curl -sf --data-binary @/root/foreign '" + control + "/version?secret=projects/stories/secrets/" + secret + "'")
		m.run("! systemctl start containarium-keyguard-drill")
		m.want("systemctl is-failed containarium-keyguard-drill; systemctl show -p ExecMainStatus --value containarium-keyguard-drill", "failed\n12")
		m.want("grep drill-failed /run/containarium-keyguard/told", "drill-failed failed 0 of 1") // and unit-failed beside it, sooner or later
		m.wait("journalctl --sync; journalctl -q -o cat KEYGUARD_EVENT=drill-failed | grep 'another host writes to the same place'")
		m.want("journalctl -q -u containarium-keyguard-drill -o cat -p 3 | grep -c '^drill failed: '", "1")         // once
		m.want("journalctl -q -x KEYGUARD_EVENT=drill-failed | grep -c 'Save the key that is in place again'", "1") // the catalog's remedy
		m.want("grep '^keyguard_drill_verdict.*failed' /var/lib/prometheus/node-exporter/keyguard.prom", `keyguard_drill_verdict{verdict="failed"} 1`)
		m.run("keyguard status | grep '^drill *failed'")
		m.want("keyguard drill >/dev/null 2>&1 || echo $?", "12")
	})
}
