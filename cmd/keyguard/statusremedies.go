package main

import (
	"cmp"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// ailRemedies is what to type for what status says ails (agent/statusverdict.go), in words for
// whoever is woken; the first is the command that puts it right, or says why a person must
// decide. What a person decides elsewhere, or what goes by itself, has none.
var ailRemedies = map[agent.Ails]func(agent.StatusResult, agent.Ailment) []string{
	agent.AilsWorking: func(r agent.StatusResult, _ agent.Ailment) []string {
		return []string{"follow it: journalctl -fu " + map[string]string{"rotation": rotateUnit, "repair": repairUnit}[r.Working.What] + "; when it is done: keyguard status"}
	},
	agent.AilsLost: func(r agent.StatusResult, _ agent.Ailment) []string {
		return []string{keyElsewhere}
	},
	agent.AilsDoubt:   doubtRemedies,
	agent.AilsKeyfile: keyfileRemedies,
	agent.AilsFirst: func(r agent.StatusResult, _ agent.Ailment) []string {
		return []string{"see what keeps the escrow from taking it (keyguard doctor), then: systemctl restart " + cmp.Or(r.Daemon.Name, unit.Names[0])}
	},
	agent.AilsRows: func(r agent.StatusResult, _ agent.Ailment) []string {
		switch {
		case r.Rows.Split():
			return onceSettled(r, "keyguard repair")
		case r.Proof.Verdict == rows.Partial:
			return onceSettled(r, "name these rows: keyguard drill --full")
		}
		return []string{"if you have the key that opens them (a printed sheet, another store): keyguard import"}
	},
	agent.AilsCloned: func(r agent.StatusResult, _ agent.Ailment) []string {
		if r.Nameless {
			return []string{"give it one: systemd-machine-id-setup; then: keyguard status"}
		}
		return []string{"if both machines live on, name another place in each escrow of this one (" + config.DefaultPath + ") and run keyguard init; then, here: keyguard accept"}
	},
	agent.AilsHalfway: func(r agent.StatusResult, _ agent.Ailment) []string { return []string{remedyOf(r.Halfway)} },
	agent.AilsDaemon:  daemonRemedies,
	agent.AilsLeftDown: func(r agent.StatusResult, _ agent.Ailment) []string {
		return []string{"systemctl start " + cmp.Or(r.Daemon.Name, unit.Names[0])}
	},
	agent.AilsUnasked: func(r agent.StatusResult, _ agent.Ailment) []string {
		return []string{askAgain(r.Daemon.Name, r.Daemon.Over)}
	},
	agent.AilsWatcher: func(r agent.StatusResult, _ agent.Ailment) []string {
		return []string{enable(unit.Watcher, r.Watcher.State)}
	},
	agent.AilsTimer: func(r agent.StatusResult, _ agent.Ailment) []string {
		return []string{enable(unit.DrillTimer, r.Drill.Next.State)}
	},
	agent.AilsUnproven: func(r agent.StatusResult, _ agent.Ailment) []string {
		if r.Accepted && r.Known == r.Keyfile.Key && errors.Is(r.Rows.Err, rows.ErrNoTable) { // accepted for the daemon that is to make it
			return []string{"wait until the daemon has made its table, which it does when it starts, then: keyguard status; if it never does: is this the daemon's database ([database])?"}
		}
		return []string{remedyOf(r.Rows.Err)}
	},
	agent.AilsDatabase: func(r agent.StatusResult, _ agent.Ailment) []string { return []string{remedyOf(r.Rows.Err)} },
	agent.AilsUnread: func(r agent.StatusResult, _ agent.Ailment) []string {
		if r.Broken != nil {
			return []string{seenToLedger}
		}
		return []string{"look at the ledger (keyguard report --verify), keep what is left of it elsewhere, then: keyguard backup"}
	},
	agent.AilsBroken: func(agent.StatusResult, agent.Ailment) []string { return []string{seenToLedger} },
	agent.AilsUnrecorded: func(agent.StatusResult, agent.Ailment) []string {
		return []string{whoTookIt}
	},
	agent.AilsForgets: func(r agent.StatusResult, _ agent.Ailment) []string {
		return []string{"systemctl stop " + unit.Watcher + "; umount " + r.StateDir + "; systemctl start " + unit.Watcher}
	},
	agent.AilsUnwritable: func(r agent.StatusResult, _ agent.Ailment) []string { return []string{remedyOf(r.Unwritable)} },
	agent.AilsUnkept:     func(r agent.StatusResult, _ agent.Ailment) []string { return []string{remedyOf(keyfile.ErrNotKept)} },
	agent.AilsHanging:    func(r agent.StatusResult, _ agent.Ailment) []string { return []string{remedyOf(r.Hanging[0])} },
	agent.AilsLoose: func(r agent.StatusResult, _ agent.Ailment) []string {
		return []string{"chown root " + r.Path + "; chmod 0400 " + r.Path,
			"if that changes nothing, its file system takes no modes (findmnt --target " + r.Path + ", FAT or one of FUSE): mount it with umask=077",
			"whoever could read it may have the key; to have another one: keyguard rotate"}
	},
	agent.AilsNoEscrow: func(agent.StatusResult, agent.Ailment) []string { return []string{"keyguard init"} },
	agent.AilsNowhere:  func(r agent.StatusResult, _ agent.Ailment) []string { return escrowRemedies(r) },
	agent.AilsUngiven:  func(agent.StatusResult, agent.Ailment) []string { return []string{"keyguard backup"} },
	agent.AilsForeign:  func(agent.StatusResult, agent.Ailment) []string { return []string{remedyOf(decide.ErrForeignCopy)} },
	agent.AilsAway:     func(_ agent.StatusResult, a agent.Ailment) []string { return []string{remedyOf(a.Escrow.Err)} },
	agent.AilsUnopened: func(agent.StatusResult, agent.Ailment) []string {
		return []string{"where its identity is, prove it: keyguard drill --identity FILE"}
	},
	agent.AilsLocked: func(agent.StatusResult, agent.Ailment) []string {
		return []string{"put the identity file that is named back where it was, 0600, or name another in identity_file, then: keyguard drill"}
	},
	agent.AilsRefuses:    func(_ agent.StatusResult, a agent.Ailment) []string { return []string{remedyOf(a.Escrow.Refuses)} },
	agent.AilsHere:       func(_ agent.StatusResult, a agent.Ailment) []string { return []string{remedyOf(a.Escrow.Here)} },
	agent.AilsBlocked:    func(_ agent.StatusResult, a agent.Ailment) []string { return []string{remedyOf(a.Escrow.Blocked)} },
	agent.AilsMiswritten: topRemedies,
	agent.AilsBarred:     topRemedies,
	agent.AilsUnheld:     topRemedies,
	agent.AilsLacks:      func(_ agent.StatusResult, a agent.Ailment) []string { return []string{remedyOf(a.Escrow.Lacks)} },
	agent.AilsReadable: func(_ agent.StatusResult, a agent.Ailment) []string {
		hints := []string{remedyOf(escrow.ErrExposed)}
		if where := a.Escrow.Place.Where; filepath.IsAbs(where) && !strings.ContainsFunc(where, unquoted) {
			hints = []string{"chown -R root " + where + "; chmod -R go-rwx " + where,
				"if that changes nothing, its file system takes no modes (FAT): mount it with umask=077, or seal its copies (recipients)"}
		}
		return append(hints, "whoever could read them may have the key; to have another one: keyguard rotate")
	},
	agent.AilsUntried: func(agent.StatusResult, agent.Ailment) []string {
		return []string{"while the store that is named answers: keyguard drill"}
	},
	agent.AilsFailed: func(_ agent.StatusResult, a agent.Ailment) []string {
		if a.Escrow.Err == nil { // it answers: its line says what the drill found there
			return []string{saveAndTry}
		}
		return []string{remedyOf(a.Escrow.Err), "when it is put right: keyguard drill"}
	},
}

// onceSettled is what to type for the rows: no repair and no drill goes before a rotation that
// stopped halfway is settled.
func onceSettled(r agent.StatusResult, hint string) []string {
	return []string{remedyOf(r.Halfway), hint}
}

// seenToLedger is for a ledger that was edited or damaged: a person looks why, and vouches.
const seenToLedger = "see where (keyguard report --verify) and find out why; then, to vouch for the key that is there: keyguard accept"

// whoTookIt is for a ledger that was emptied or taken away.
const whoTookIt = "find out who took it away (what it held: journalctl -t keyguard); then, to vouch for the key that is there: keyguard accept"

// askAgain is what has the start of the daemon ask keyguard again, where these files are read
// in the place of its hook or after it.
func askAgain(daemon string, over []string) string {
	for _, path := range over {
		if filepath.Base(path) == unit.DropIn { // a mask, or an empty one
			return "rm " + path + "; systemctl daemon-reload"
		}
	}
	what := "take out what overrides " + unit.DropIn
	if len(over) > 0 {
		what += " in " + strings.Join(over, ", ")
	}
	return what + " (systemctl cat " + daemon + "), or install the package again where that file or prestart is missing; then: systemctl daemon-reload"
}

// statusHints says what to type, the most urgent first.
func statusHints(r agent.StatusResult) (hints []string) {
	if r.Immutable != "" {
		hints = append(hints, "chattr -i "+r.Immutable+", first: nobody can change it as it is, root neither")
	}
	if r.Full != "" {
		hints = append(hints, "make room in "+r.Full+" (df, df -i), first: it is full, and no key can be put there")
	}
	for _, ailment := range r.Ailments {
		for _, hint := range ailRemedies[ailment.Ails](r, ailment) {
			if hint != "" && !slices.Contains(hints, hint) {
				hints = append(hints, hint)
			}
		}
	}
	return hints
}

// escrowRemedies is what brings each escrow back that cannot answer.
func escrowRemedies(r agent.StatusResult) (hints []string) {
	for _, s := range r.Escrows {
		if s.State == decide.EscrowFailed {
			hints = append(hints, remedyOf(s.Err))
		}
	}
	return hints
}

func doubtRemedies(r agent.StatusResult, _ agent.Ailment) []string {
	if r.Rows.State == decide.RowsUnknown {
		return append([]string{remedyOf(r.Rows.Err)}, escrowRemedies(r)...)
	}
	hints := escrowRemedies(r)
	switch {
	case r.Rows.Split():
		hints = append(hints, onceSettled(r, "keyguard repair")...) // of the keys that are at hand one may have most rows by then
	case len(hints) == 0 && r.Rows.State == decide.RowsSilent:
		hints = []string{noCopy}
	}
	return hints
}

// noCopy is for a key that was in use and of which no copy is found, where no row depends on it.
const noCopy = "if you have the key elsewhere: keyguard import; where there is to be a new one all the same: keyguard accept --new"

// keyfileRemedies puts the key in place that belongs there. The watcher does it where it is
// started and nothing, or no key, stands there; and a start of the daemon, which has read
// another one.
func keyfileRemedies(r agent.StatusResult, _ agent.Ailment) []string {
	switch {
	case r.Rows.Split():
		return onceSettled(r, "keyguard repair") // which puts the key in place, too
	case onAnother(r) && r.Keyfile.Good && (r.Known == r.Keyfile.Key || r.Daemon.Unasked != ""):
		// A start passes a key that was proven a short while ago, and asks no row (law 7); or it
		// does not even ask keyguard.
		return []string{"keyguard restore; then: systemctl restart " + r.Daemon.Name}
	case onAnother(r):
		return []string{"systemctl restart " + r.Daemon.Name} // and it reads that
	case !r.Keyfile.Good && r.Units && r.Watcher.Active == "inactive" && (r.Watcher.Loaded || r.Watcher.Enabled == "masked"):
		return []string{enable(unit.Watcher, r.Watcher.State)}
	}
	return []string{"keyguard restore"}
}

// topRemedies brings the key to the top of an escrow's current shelf.
func topRemedies(r agent.StatusResult, ailment agent.Ailment) []string {
	if bar := ailment.Escrow.Barred; bar.Why != "" {
		return []string{unproven(r.Rows, bar)}
	}
	return []string{"keyguard backup"}
}

// unquoted tells what a shell may read otherwise than it stands there.
func unquoted(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("/._-", r)
}

// onAnother tells whether the daemon has read something else than the key that belongs in
// the keyfile's place.
func onAnother(r agent.StatusResult) bool {
	switch d := r.Daemon; d.Is {
	case agent.DaemonNoSecrets:
		return true
	case agent.DaemonUp, agent.DaemonOtherKey:
		return d.Told != "" && d.Key != r.Decision.Key
	}
	return r.Daemon.RestartNeeded()
}

// daemonRemedies says what brings the daemon to the key that is in place.
func daemonRemedies(r agent.StatusResult, _ agent.Ailment) []string {
	d := r.Daemon
	switch {
	case d.Is == agent.DaemonUnknown:
		return []string{"systemctl status " + unit.Names[0]}
	case d.Is == agent.DaemonDown:
		return []string{"see why: journalctl -u " + d.Name + " -e; when it is put right: systemctl restart " + d.Name}
	case d.Told == unit.Untouched && d.Is == agent.DaemonNoSecrets && r.Rows.State == decide.RowsUnknown:
		return []string{remedyOf(r.Rows.Err), "then: systemctl restart " + d.Name}
	case d.Is == agent.DaemonNoSecrets && !mended(r):
		return []string{"see why: journalctl -u " + d.Name + "; when it is put right: systemctl restart " + d.Name}
	case d.Is == agent.DaemonOtherKey && r.Untried(): // which may be the wrong one
		return []string{remedyOf(r.Rows.Err), "a start asks the rows, then: systemctl restart " + d.Name}
	case d.RestartNeeded() && r.Decision.Action == decide.Pass:
		return []string{"systemctl restart " + d.Name}
	}
	return nil
}

// mended tells whether nothing is left of what kept a daemon from its secrets.
func mended(r agent.StatusResult) bool {
	switch r.Daemon.Told {
	case unit.Empty:
		return true
	case unit.Failed:
		return r.Keyfile.Good && r.Loose == ""
	case unit.Untouched:
		return r.Rows.State != decide.RowsUnknown
	}
	return false
}

// enable is what has systemd start one of our units, now and at every boot.
func enable(name string, s unit.State) string {
	if s.Enabled == "masked" {
		return "systemctl unmask " + name + "; systemctl enable --now " + name
	}
	return "systemctl enable --now " + name
}
