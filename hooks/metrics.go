package hooks

import (
	"maps"
	"slices"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/textfile"
)

// verdicts are those that a proof on record, and a drill, can have.
var (
	proofVerdicts = []string{string(rows.Opens), string(rows.Partial)}
	drillVerdicts = []string{string(agent.DrillPassed), string(agent.DrillFailed), string(agent.DrillInconclusive)}
)

// metrics are what Prometheus gets to know. Escrows and the daemon's states are the only
// names in labels, and of keys the one that is in place: with it two hosts with one key show,
// and there is one at a time.
func metrics(s agent.SurveyResult, version string, now time.Time) []textfile.Metric {
	var l metricList
	l.add("build_info", "The version of keyguard that wrote these metrics.", sample(1, "version", version))
	l.add("written_timestamp_seconds", "When these metrics were written.", timestamp(now))
	l.addDaemon(s)
	l.addKey(s)
	l.addEscrows(s.Escrows)
	l.addDrill(s)
	var failed []textfile.Sample
	for _, unit := range slices.Sorted(maps.Keys(s.Failed)) {
		failed = append(failed, timestamp(s.Failed[unit], "unit", unit))
	}
	l.add("unit_failed_timestamp_seconds", "When the unit failed last.", failed...)
	return l
}

type metricList []textfile.Metric

func (l *metricList) add(name, help string, samples ...textfile.Sample) {
	*l = append(*l, textfile.Metric{Name: "keyguard_" + name, Help: help, Samples: samples})
}

func sample(v float64, labels ...string) textfile.Sample {
	return textfile.Sample{Labels: labels, Value: v}
}

func whether(yes bool, labels ...string) textfile.Sample {
	if yes {
		return sample(1, labels...)
	}
	return sample(0, labels...)
}

func timestamp(t time.Time, labels ...string) textfile.Sample { // 0 is never
	if t.IsZero() {
		return sample(0, labels...)
	}
	return sample(float64(t.UnixMilli())/1000, labels...)
}

// eachVerdict is a sample for each that there could be.
func eachVerdict(verdict string, all []string, labels ...string) (samples []textfile.Sample) {
	for _, v := range all {
		samples = append(samples, whether(v == verdict, append(labels[:len(labels):len(labels)], "verdict", v)...))
	}
	return samples
}

func (l *metricList) addDaemon(s agent.SurveyResult) {
	l.add("keyfile_good", "Whether the keyfile is a regular file of 32 bytes.", whether(s.Keyfile.Good))
	l.add("parked", "Whether the keyfile is an empty one, on which the daemon runs without secrets.", whether(s.Empty))
	l.add("daemon_without_secrets", "Whether the daemon runs and is known to keep no secrets.",
		whether(s.Daemon.Is == agent.DaemonParked || s.Daemon.Is == agent.DaemonNoSecrets))
	l.add("daemon_restart_needed", "Whether only a restart brings the daemon to the key that is in place.", whether(s.Daemon.RestartNeeded()))
	l.add("daemon_minted", "Whether the daemon made a key of its own when it started last.", whether(s.Daemon.Minted))
	if s.Daemon.Is != agent.DaemonNotAsked {
		var states []textfile.Sample
		for _, state := range agent.DaemonStates {
			states = append(states, whether(s.Daemon.Is == state, "state", string(state)))
		}
		l.add("daemon_state", "How the daemon stands to the key.", states...)
	}
}

func (l *metricList) addKey(s agent.SurveyResult) {
	if s.Keyfile.Good {
		l.add("key_info", "The fingerprint of the keyfile's key.", sample(1, "fingerprint", string(s.Keyfile.Key)))
	}
	l.add("key_installed_timestamp_seconds", "When the keyfile's key was put in place, or first seen there; 0 is not known.", timestamp(s.Installed))
	l.add("key_known", "Whether the keyfile's key is the known one: the last that opened the rows or was accepted.",
		whether(s.Known != "" && s.Known == s.Keyfile.Key))
	l.add("key_accepted", "Whether the known key is known by a person's word and not by a proof.", whether(s.Accepted))
	l.add("key_contradicted", "Whether the keyfile's key opened none of the rows when it was last tried.", whether(s.Contradicted))
	l.add("key_verdict", "What the last proof on record of the known key said.", eachVerdict(s.Proof.Verdict, proofVerdicts)...)
	l.add("last_proof_timestamp_seconds", "When the last proof of the known key was written down, twice a day at least; 0 is never.", timestamp(s.Proof.Time))
	l.add("rows_checked", "Rows that the last proof on record tried.", sample(float64(s.Proof.Checked)))
	l.add("rows_opened", "Rows that it opened.", sample(float64(s.Proof.Opened)))
	l.add("rows_dependent", "Rows that only the keyfile's key can open, at that time.", sample(float64(max(s.Proof.Total, s.Proof.Checked))))
	l.add("quarantine_files", "Keys kept in the local quarantine.", sample(float64(s.Kept)))
	l.add("ledger_begun_timestamp_seconds", "When the ledger's first entry was written; 0 is never.", timestamp(s.Begun))
	l.add("ledger_breaks", "Places where the ledger's chain is broken.", sample(float64(s.Breaks)))
	l.add("rotation_open", "Whether a rotation is open: begun, and not known to have ended.", whether(s.Rotation))
}

func (l *metricList) addEscrows(escrows []agent.EscrowSurvey) {
	var required, saved, due, unverified, drilled, proven, untried, judged []textfile.Sample
	for _, e := range escrows {
		required = append(required, whether(e.Required, "escrow", e.Name))
		saved = append(saved, timestamp(e.Saved, "escrow", e.Name))
		due = append(due, sample(float64(e.Due), "escrow", e.Name))
		unverified = append(unverified, whether(e.Unverified, "escrow", e.Name))
		drilled = append(drilled, timestamp(e.Drilled.Time, "escrow", e.Name))
		proven = append(proven, timestamp(e.Proven, "escrow", e.Name))
		untried = append(untried, timestamp(e.Untried, "escrow", e.Name))
		judged = append(judged, eachVerdict(e.Drilled.Verdict, drillVerdicts, "escrow", e.Name)...)
	}
	l.add("escrow_required", "Whether the escrow must hold the key.", required...)
	l.add("escrow_saved_timestamp_seconds", "When a current copy was last saved there; 0 is never.", saved...)
	l.add("escrow_due_keys", "Keys on this host that are still to be saved there.", due...)
	l.add("escrow_unverified", "Whether the last copy there may not be read back from here.", unverified...)
	l.add("escrow_drilled_timestamp_seconds", "When a drill last judged it; 0 is never.", drilled...)
	l.add("escrow_proven_timestamp_seconds", "When a drill last opened the rows with its newest copy; 0 is never.", proven...)
	l.add("escrow_untried_timestamp_seconds", "Since when drills have not tried a part of the key there; 0 is not so.", untried...)
	l.add("escrow_verdict", "What that drill said of it.", judged...)
}

func (l *metricList) addDrill(s agent.SurveyResult) {
	l.add("drill_timestamp_seconds", "When the last drill ended; 0 is never.", timestamp(s.Drill.Time))
	l.add("drill_passed_timestamp_seconds", "When the last drill ended that passed; 0 is never.", timestamp(s.Passed))
	l.add("drill_seconds", "How long the last drill took.", sample(s.Drill.Took.Seconds()))
	l.add("drill_verdict", "What it came to.", eachVerdict(s.Drill.Verdict, drillVerdicts)...)
}
