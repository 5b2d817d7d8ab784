package agent

import (
	"context"
	"slices"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
)

// SurveyResult is how the key, its copies and the daemon stand by what is on this host.
type SurveyResult struct {
	Keyfile      decide.KeyfileEvidence
	Empty        bool // the keyfile is an empty one, on which a daemon is parked
	Known        key.Fingerprint
	Accepted     bool
	Contradicted bool // the last word on the keyfile's key is that it opened no row
	// Proof is the last entry of the ledger that proves the known key; zero for none.
	Proof  ledger.Entry
	Daemon DaemonStanding
	// Installed is when the keyfile's key was put in place, or first heard of; zero for never.
	Installed time.Time
	Begun     time.Time // when the ledger's first entry was written; zero for never
	Rotation  bool      // one is open
	Kept      int       // files in the local quarantine
	Breaks    int       // in the ledger's chain
	Escrows   []EscrowSurvey
	Drill     ledger.Entry // what the last drill came to; zero for none
	Passed    time.Time    // when the last one passed; zero for never
	// Failed is when each unit of ours failed last.
	Failed  map[string]time.Time
	Trouble []Trouble
}

// EscrowSurvey is what the ledger says of one escrow.
type EscrowSurvey struct {
	Name     string
	Required bool
	Saved    time.Time // when a current copy was last saved there; zero for never
	Due      int       // keys that are still to be saved there
	// Unverified: the last copy was stored, and may not be read back from here.
	Unverified bool
	Drilled    ledger.Entry // the last that a drill judged it by; zero for none
	Proven     time.Time    // when a drill last opened the rows with its newest current copy; zero for never
	Untried    time.Time    // since when drills have not tried a part of it; zero where the last one did
}

// Survey says how the key and its copies stand by the keyfile, the ledger and the local
// quarantine, and how the daemon stands to it by systemd. It asks nobody else, so that
// whoever tells of an event can tell it with numbers, and two that do so at once tell the same.
func Survey(h *Host) (SurveyResult, error) {
	o, err := h.observe()
	if err != nil {
		return SurveyResult{}, err
	}
	defer o.close()
	o.askLocal()
	o.askHistory()
	record, l := o.history(), o.evidence.Ledger
	r := SurveyResult{
		Keyfile: o.evidence.Keyfile, Empty: o.seen.Empty, Known: l.Known, Accepted: l.Accepted,
		Contradicted: o.evidence.History.Contradicted[o.evidence.Keyfile.Key], Rotation: l.Rotation != nil,
		Kept: len(o.kept), Breaks: len(record.Breaks),
	}
	if l.Known != "" {
		r.Proof = lastEntry(record, func(e ledger.Entry) bool { return e.Event == ledger.Proven && e.Fingerprint == l.Known })
	}
	if own := o.evidence.Keyfile.Key; own != "" {
		r.Installed = lastEntry(record, func(e ledger.Entry) bool {
			return e.Fingerprint == own && (e.Event == ledger.Installed || e.Event == ledger.Rotated || e.Event == ledger.Made)
		}).Time
		if r.Installed.IsZero() { // it stood there before keyguard did
			if i := slices.IndexFunc(record.Entries, func(e ledger.Entry) bool { return e.Fingerprint == own }); i >= 0 {
				r.Installed = record.Entries[i].Time
			}
		}
	}
	if len(record.Entries) > 0 {
		r.Begun = record.Entries[0].Time
	}
	r.Drill = lastEntry(record, func(e ledger.Entry) bool { return e.Event == ledger.DrillEnded })
	r.Passed = lastEntry(record, func(e ledger.Entry) bool { return e.Event == ledger.DrillEnded && e.Verdict == string(DrillPassed) }).Time
	for _, s := range h.Escrows {
		r.Escrows = append(r.Escrows, o.surveyEscrow(s))
	}
	r.Failed = map[string]time.Time{}
	for _, e := range record.Entries {
		if e.Event == ledger.UnitFailed {
			r.Failed[e.Unit] = e.Time
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), aliveTimeout)
	defer cancel()
	r.Daemon = o.askDaemon(ctx)
	r.Trouble = o.trouble
	return r, nil
}

func lastEntry(record *ledger.Record, is func(ledger.Entry) bool) ledger.Entry {
	for _, e := range slices.Backward(record.Entries) {
		if is(e) {
			return e
		}
	}
	return ledger.Entry{}
}

func (o *observation) surveyEscrow(s Escrow) EscrowSurvey {
	record := o.history()
	e := EscrowSurvey{Name: s.Name(), Required: s.Required}
	due := o.due(e.Name)
	if saved, ok := record.LastSaved(e.Name); ok {
		e.Saved, e.Unverified = saved.Time, saved.Reason != "" && !lacksParts(saved)
		if i := slices.Index(due, saved.Fingerprint); e.Unverified && i >= 0 {
			due = slices.Delete(due, i, i+1) // the copy is there; only reading it back is due, which may never be granted
		}
		e.Unverified = e.Unverified && !s.AddOnly // that is as it should be there
	}
	e.Due = len(due)
	e.Drilled = lastEntry(record, func(d ledger.Entry) bool { return d.Event == ledger.Drilled && d.Escrow == e.Name && d.Judged })
	if proven, ok := record.LastProven(e.Name); ok {
		e.Proven = proven.Time
	}
	for _, p := range untried(record, s.Reader) {
		if e.Untried.IsZero() || p.Since.Before(e.Untried) {
			e.Untried = p.Since
		}
	}
	return e
}
