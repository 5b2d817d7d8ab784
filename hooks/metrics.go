package hooks

import (
	"maps"
	"slices"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/notify"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// verdicts are those that a proof on record, and a drill, can have.
var (
	proofVerdicts = []string{string(rows.Opens), string(rows.Partial)}
	drillVerdicts = []string{string(agent.DrillPassed), string(agent.DrillFailed), string(agent.DrillInconclusive)}
)

// metrics are what Prometheus gets to know. Escrows and the daemon's states are the only
// names in labels, and of keys the one that is in place: with it two hosts with one key show,
// and there is one at a time.
func metrics(s agent.SurveyResult, version string, now time.Time) []notify.Metric {
	var list []notify.Metric
	add := func(name, help string, samples ...notify.Sample) {
		list = append(list, notify.Metric{Name: "keyguard_" + name, Help: help, Samples: samples})
	}
	one := func(v float64, labels ...string) notify.Sample { return notify.Sample{Labels: labels, Value: v} }
	is := func(yes bool) float64 {
		if yes {
			return 1
		}
		return 0
	}
	at := func(t time.Time) float64 { // 0 is never
		if t.IsZero() {
			return 0
		}
		return float64(t.UnixMilli()) / 1000
	}
	which := func(verdict string, all []string, labels ...string) (samples []notify.Sample) {
		for _, v := range all {
			samples = append(samples, one(is(v == verdict), append(labels[:len(labels):len(labels)], "verdict", v)...))
		}
		return samples
	}

	add("build_info", "The version of keyguard that wrote these metrics.", one(1, "version", version))
	add("written_timestamp_seconds", "When these metrics were written.", one(at(now)))
	add("keyfile_good", "Whether the keyfile is a regular file of 32 bytes.", one(is(s.Keyfile.Good)))
	add("parked", "Whether the keyfile is an empty one, on which the daemon runs without secrets.", one(is(s.Empty)))
	add("daemon_without_secrets", "Whether the daemon runs and is known to keep no secrets.",
		one(is(s.Daemon.Is == agent.DaemonParked || s.Daemon.Is == agent.DaemonNoSecrets)))
	add("daemon_restart_needed", "Whether only a restart brings the daemon to the key that is in place.", one(is(s.Daemon.RestartNeeded())))
	add("daemon_minted", "Whether the daemon made a key of its own when it started last.", one(is(s.Daemon.Minted)))
	if s.Daemon.Is != agent.DaemonNotAsked {
		var states []notify.Sample
		for _, state := range agent.DaemonStates {
			states = append(states, one(is(s.Daemon.Is == state), "state", string(state)))
		}
		add("daemon_state", "How the daemon stands to the key.", states...)
	}
	if s.Keyfile.Good {
		add("key_info", "The fingerprint of the keyfile's key.", one(1, "fingerprint", string(s.Keyfile.Key)))
	}
	add("key_installed_timestamp_seconds", "When the keyfile's key was put in place, or first seen there; 0 is not known.", one(at(s.Installed)))
	add("key_known", "Whether the keyfile's key is the known one: the last that opened the rows or was accepted.",
		one(is(s.Known != "" && s.Known == s.Keyfile.Key)))
	add("key_accepted", "Whether the known key is known by a person's word and not by a proof.", one(is(s.Accepted)))
	add("key_contradicted", "Whether the keyfile's key opened none of the rows when it was last tried.", one(is(s.Contradicted)))
	add("key_verdict", "What the last proof on record of the known key said.", which(s.Proof.Verdict, proofVerdicts)...)
	add("last_proof_timestamp_seconds", "When the last proof of the known key was written down, twice a day at least; 0 is never.", one(at(s.Proof.Time)))
	add("rows_checked", "Rows that the last proof on record tried.", one(float64(s.Proof.Checked)))
	add("rows_opened", "Rows that it opened.", one(float64(s.Proof.Opened)))
	add("rows_dependent", "Rows that only the keyfile's key can open, at that time.", one(float64(max(s.Proof.Total, s.Proof.Checked))))
	add("quarantine_files", "Keys kept in the local quarantine.", one(float64(s.Kept)))
	add("ledger_begun_timestamp_seconds", "When the ledger's first entry was written; 0 is never.", one(at(s.Begun)))
	add("ledger_breaks", "Places where the ledger's chain is broken.", one(float64(s.Breaks)))
	add("rotation_open", "Whether a rotation is open: begun, and not known to have ended.", one(is(s.Rotation)))

	var required, saved, due, unverified, drilled, proven, untried, judged []notify.Sample
	for _, e := range s.Escrows {
		required = append(required, one(is(e.Required), "escrow", e.Name))
		saved = append(saved, one(at(e.Saved), "escrow", e.Name))
		due = append(due, one(float64(e.Due), "escrow", e.Name))
		unverified = append(unverified, one(is(e.Unverified), "escrow", e.Name))
		drilled = append(drilled, one(at(e.Drilled.Time), "escrow", e.Name))
		proven = append(proven, one(at(e.Proven), "escrow", e.Name))
		untried = append(untried, one(at(e.Untried), "escrow", e.Name))
		judged = append(judged, which(e.Drilled.Verdict, drillVerdicts, "escrow", e.Name)...)
	}
	add("escrow_required", "Whether the escrow must hold the key.", required...)
	add("escrow_saved_timestamp_seconds", "When a current copy was last saved there; 0 is never.", saved...)
	add("escrow_due_keys", "Keys on this host that are still to be saved there.", due...)
	add("escrow_unverified", "Whether the last copy there may not be read back from here.", unverified...)
	add("escrow_drilled_timestamp_seconds", "When a drill last judged it; 0 is never.", drilled...)
	add("escrow_proven_timestamp_seconds", "When a drill last opened the rows with its newest copy; 0 is never.", proven...)
	add("escrow_untried_timestamp_seconds", "Since when drills have not tried a part of the key there; 0 is not so.", untried...)
	add("escrow_verdict", "What that drill said of it.", judged...)

	add("drill_timestamp_seconds", "When the last drill ended; 0 is never.", one(at(s.Drill.Time)))
	add("drill_passed_timestamp_seconds", "When the last drill ended that passed; 0 is never.", one(at(s.Passed)))
	add("drill_seconds", "How long the last drill took.", one(s.Drill.Took.Seconds()))
	add("drill_verdict", "What it came to.", which(s.Drill.Verdict, drillVerdicts)...)

	var failed []notify.Sample
	for _, unit := range slices.Sorted(maps.Keys(s.Failed)) {
		failed = append(failed, one(at(s.Failed[unit]), "unit", unit))
	}
	add("unit_failed_timestamp_seconds", "When the unit failed last.", failed...)
	return list
}
