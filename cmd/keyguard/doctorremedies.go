package main

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// improvements is what to type for what is lacking.
var improvements = map[agent.Lack]string{
	agent.LacksHook:       "see what took prestart away: systemctl cat containarium.service; put it back, then: systemctl daemon-reload",
	agent.LacksKey:        seeKeys,
	agent.LacksWord:       "if you are sure of the key that is there: keyguard accept",
	agent.LacksCopy:       "name a place for copies in the configuration ([[escrow]]), then: keyguard init; or save the key where it lacks: keyguard backup",
	agent.LacksAnswer:     "see why: keyguard copies",
	agent.LacksOtherDisk:  "add an [[escrow]] that is not on the keyfile's disk, then: keyguard init; or print the key: keyguard paper",
	agent.LacksOffHost:    "add an [[escrow]] off this machine (gcp-secret-manager, vault-kv), then: keyguard init; or print the key: keyguard paper",
	agent.LacksProject:    "add an [[escrow]] in another project or outside Google's cloud, then: keyguard init; or print the key: keyguard paper",
	agent.LacksProtection: "take from this host the rights to destroy, or add an [[escrow]] where it has none, then: keyguard init; or print the key: keyguard paper",
	agent.LacksParts:      "keep the key in parts: an [[escrow]] of kind split over stores that no one person administers (manual), then: keyguard init",
	agent.LacksDump:       "dump the database regularly (pg_dump), off this host; the keys for the dumps are kept: keyguard copies",
	agent.LacksOldKeys:    "save the keys of the local quarantine: keyguard backup; from elsewhere: keyguard import --escrow-only",
	agent.LacksRows:       "bring Postgres up, then: keyguard doctor",
	agent.LacksFull:       "try every row: keyguard drill --full",
	agent.LacksRepair:     "see which rows no key opens: keyguard drill --full",
}

// checkRemedy is what to type for a check that is not well.
func checkRemedy(r agent.DoctorResult, c agent.Check) string {
	switch {
	case c.State == agent.CheckOK:
		return ""
	case c.Ailment != nil:
		if hints := ailRemedies[c.Ailment.Ails](r.Status, *c.Ailment); len(hints) > 0 {
			return hints[0]
		}
	}
	return cmp.Or(remedyOf(c.Err), fixRemedy(r, c))
}

// fixRemedy is what to type where the check alone says what is wrong.
func fixRemedy(r agent.DoctorResult, c agent.Check) string {
	switch c.Fix {
	case agent.FixMode:
		return "the next start tightens it; now: chmod 0400 " + r.Status.Path + "; if that changes nothing, its file system takes no modes (FAT): mount it with umask=077"
	case agent.FixVerify:
		return "keyguard verify"
	case agent.FixKeyfile:
		if r.Status.Rows.Split() {
			return "keyguard repair"
		}
		return "keyguard restore"
	case agent.FixLogged:
		return "as the table's owner: ALTER TABLE secrets SET LOGGED; then: keyguard doctor"
	case agent.FixTLS:
		return "add sslmode=verify-full, or require, to the database URL of the daemon; for a network that is your own, sslmode=disable says so"
	case agent.FixClock:
		return "timedatectl set-ntp true"
	case agent.FixModes:
		return "chmod go-rwx and chown root them, then: keyguard doctor"
	case agent.FixScratch:
		return "name a tmpfs as run_dir in the configuration, then: keyguard doctor"
	case agent.FixAlert:
		return "put it right, then try it: keyguard alert test"

	// The ledger.
	case agent.FixVouch:
		return whoTookIt
	case agent.FixID:
		return "systemd-machine-id-setup"
	case agent.FixAccept:
		return "keyguard accept"
	case agent.FixChain:
		return "keyguard report --verify"

	// Escrows.
	case agent.FixBackup:
		return "keyguard backup"
	case agent.FixIdentity:
		return "keyguard drill --identity FILE"
	case agent.FixToken:
		return "put a new token into that file, which is read again by itself; then: keyguard doctor"
	case agent.FixExpiry:
		return "have that taken off (Vault: delete_version_after of the engine and of the entries), then: keyguard backup"
	case agent.FixRoles:
		return "take these rights from this host's service account; the roles secretAccessor, secretVersionAdder and viewer are enough; then: keyguard doctor"
	case agent.FixPolicy:
		return "give this host's token the policy of the README, and no other; then: keyguard doctor"
	case agent.FixOwners:
		return "give each member an administrator of its own, or raise need by a rotation: keyguard rotate"
	case agent.FixPlaces:
		return "give each member a place of its own, then: keyguard init"
	case agent.FixWhole:
		return "take that copy away there by hand, once no dump needs it: keyguard copies"
	case agent.FixMember:
		return "add a member with a part of its own to the configuration, then: keyguard init"

	// Units.
	case agent.FixSystemd:
		return "systemctl status"
	case agent.FixHook:
		return askAgain(cmp.Or(r.Units.Daemon, unit.Names[0]), r.Units.Over)
	case agent.FixOrder:
		return "reinstall the package, then: systemctl daemon-reload"
	case agent.FixPassword:
		return "move it to a file of mode 0600 and name that: CONTAINARIUM_POSTGRES_PASSWORD_FILE or CONTAINARIUM_POSTGRES_URL_FILE; then: systemctl daemon-reload"
	case agent.FixDaemon:
		return "systemctl status " + unit.Names[0]
	case agent.FixRestart:
		return "systemctl restart " + r.Status.Daemon.Name
	case agent.FixSecrets:
		return "keyguard status"
	case agent.FixTimer:
		return "systemctl enable --now " + unit.DrillTimer
	case agent.FixDrill:
		return "journalctl -u " + unit.Drill
	case agent.FixWatcher:
		return "systemctl enable --now " + unit.Watcher
	case agent.FixInotify:
		limit := "fs.inotify.max_user_instances=1024"
		if errors.Is(r.Units.Watcher.Deaf, unit.ErrInotifyWatches) {
			limit = "fs.inotify.max_user_watches=524288"
		}
		return "sysctl -w " + limit + ", and the same in a file of /etc/sysctl.d"

	// What the watcher's sandbox lets it reach.
	case agent.FixUnit:
		return "systemctl status " + unit.Watcher
	case agent.FixMove:
		if c.File.Key == "" {
			return "move it, or mount it, below /mnt, /media or /srv, name that in the configuration, then: systemctl restart " + unit.Watcher
		}
		to := "/etc/containarium-keyguard/" + c.File.Table + "." + strings.TrimSuffix(c.File.Key, "_file")
		return fmt.Sprintf("install -m 0600 %s %s, name that as %s, then: systemctl reload %s", quoted(c.File.Path), to, c.File.Key, unit.Watcher)
	case agent.FixOwner:
		if c.File.Key == "" {
			return "chown -R root:root " + quoted(c.File.Path) + " (FAT, which knows no owners, is mounted with uid=0), then: keyguard doctor"
		}
		return "chown root:root " + quoted(c.File.Path) + ", and have what renews it, if anything does, run as root, then: keyguard doctor"
	case agent.FixWriting: // with a '-', because a unit does not start where one of its paths is missing
		return fmt.Sprintf("systemctl edit %[1]s, there two lines, [Service] and ReadWritePaths=%[2]s, then: systemctl restart %[1]s",
			unit.Watcher, strings.ReplaceAll(quoted("-"+c.File.Path), "%", "%%"))
	}
	return ""
}

// quoted is a path as a shell and systemd.syntax(7) take it.
func quoted(path string) string {
	if strings.ContainsAny(path, " '\"\\") {
		return strconv.Quote(path)
	}
	return path
}

// troubleRemedy is what to type for what an escrow is about to go wrong with.
func troubleRemedy(e *escrow.TroubleError) string {
	switch e.Trouble {
	case escrow.TroubleDeleted:
		return "aws secretsmanager restore-secret --secret-id " + e.At
	case escrow.TroubleReplica:
		return "name a secret of this region's own, or the primary's region, in the configuration, then: keyguard init"
	case escrow.TroubleLabels:
		return "take the label off keys that no dump needs any more: aws secretsmanager update-secret-version-stage"
	case escrow.TroubleSameDisk:
		return "move it to another disk (PASSWORD_STORE_DIR in environment_file), have git(1) push it elsewhere (pass git init), or configure another escrow beside it: keyguard init"
	case escrow.TroubleMemory:
		return "mount there what is meant to be there (findmnt --target " + e.At + " shows what is), or name a path on a disk in the configuration, then: keyguard init"
	case escrow.TroubleReadOnly:
		return "mount -o remount,rw $(findmnt -no TARGET --target " + e.At + "), and see why it was not (dmesg)"
	case escrow.TroubleImmutable:
		return "chattr -i " + e.At
	case escrow.TroubleEndOfTime:
		return remedyOf(escrow.ErrEndOfTime)
	}
	return ""
}
