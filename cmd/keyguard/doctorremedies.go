package main

import (
	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
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
	case escrow.TroubleReadOnly:
		return "mount -o remount,rw $(findmnt -no TARGET --target " + e.At + "), and see why it was not (dmesg)"
	case escrow.TroubleImmutable:
		return "chattr -i " + e.At
	case escrow.TroubleEndOfTime:
		return remedyOf(escrow.ErrEndOfTime)
	}
	return ""
}
