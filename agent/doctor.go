package agent

import (
	"context"
	"slices"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// DoctorOptions are the things of this host that the doctor looks at besides the Host.
type DoctorOptions struct {
	// Files must belong to root or us, and be writable by nobody else; those whose mode
	// is 0700 or 0600 must also be closed to others.
	Files    []ModeWanted
	Writes   []string // directories that the watcher writes to, besides those of escrows
	RunDir   string   // must be a tmpfs
	HooksDir string   // "" is none
	// HooksEnded is the file that says how the hooks ended last (notify.Left).
	HooksEnded string
	// ClearText names the host to which the database's password may go readable by all, ""
	// for none; nil: not asked.
	ClearText func(context.Context) string
	// Systemd examines the units; nil where there is none.
	Systemd func(context.Context) (unit.Examination, error)
	// Project asks for the Google Cloud project of this host; OnGoogle tells, without
	// asking anybody, whether this host is a machine of Google's.
	Project  func(context.Context) (string, error)
	OnGoogle func() bool
	// ClockSynced asks whether anybody keeps the clock right; nil is ClockSynced.
	ClockSynced func() (bool, error)
}

// DoctorResult is what the doctor found.
type DoctorResult struct {
	Status  StatusResult
	Threats []ThreatVerdict
	Checks  []Check
	Units   unit.Examination // that the checks are by
}

// Sound tells whether there is nothing that a person must do.
func (r DoctorResult) Sound() bool {
	return !slices.ContainsFunc(r.Threats, func(t ThreatVerdict) bool { return t.Verdict == SurvivesNot }) &&
		!slices.ContainsFunc(r.Checks, func(c Check) bool { return c.State == CheckProblem })
}

// examineTimeout bounds what one escrow, or the metadata server, is asked besides its copies.
const examineTimeout = 10 * time.Second

// Doctor tells what this host survives, and what is wrong with it. It changes nothing.
func Doctor(ctx context.Context, h *Host, o DoctorOptions) (DoctorResult, error) {
	seen, err := h.observe()
	if err != nil {
		return DoctorResult{}, err
	}
	defer seen.close()
	s := seen.status(ctx)
	f := facts{status: s, now: h.Now(), record: *seen.history(), local: seen.evidence.Local.Keys, unlogged: seen.answer.Unlogged, escrows: make([]escrowFacts, len(h.Escrows))}
	eachEscrow(h, func(i int, e Escrow) {
		f.escrows[i] = escrowFacts{EscrowStatus: s.Escrows[i], evidence: seen.evidence.Escrows[i]}
		f.escrows[i].examine(ctx, e.Reader)
		if s, ok := e.Reader.(escrow.Shared); ok {
			f.escrows[i].parts = examineMembers(ctx, s, f.escrows[i].Newest.ID, h.Now(), func(escrow.Place) bool { return true })
			f.escrows[i].Place.Domain = f.escrows[i].parts.domain()
		}
	})
	seen.evidence.Keyfile = decide.KeyfileEvidence{Why: "missing"}
	f.missing = seen.decide(ctx)
	if o.Project != nil {
		f.project, f.projectErr = o.Project(ctx)
		f.google = f.projectErr == nil || o.OnGoogle != nil && o.OnGoogle()
	}
	if o.ClearText != nil {
		f.clearText = o.ClearText(ctx)
	}
	if o.Systemd != nil {
		f.systemd = true
		f.units, f.unitsErr = o.Systemd(ctx)
	}
	return DoctorResult{Status: s, Threats: f.threats(), Checks: f.checks(o), Units: f.units}, nil
}

// facts are what the doctor judges by.
type facts struct {
	clearText  string // the host of DoctorOptions.ClearText
	status     StatusResult
	now        time.Time
	record     ledger.Record
	local      []key.Fingerprint // in the local quarantine
	unlogged   bool              // the table of the rows
	missing    decide.Decision   // what a start would do without the keyfile
	escrows    []escrowFacts
	google     bool   // this host is a machine of Google's
	project    string // its project
	projectErr error
	systemd    bool
	units      unit.Examination
	unitsErr   error
}

// escrowFacts are what the doctor knows of one escrow.
type escrowFacts struct {
	EscrowStatus
	evidence decide.EscrowEvidence
	examined bool
	exam     escrow.Examination
	examErr  error
	parts    *partsFacts // of an escrow that keeps keys in parts
	bare     bool        // of a store of one: it has no part that can be read
}

// examine asks a store what it is lost together with, if it can tell.
func (s *escrowFacts) examine(ctx context.Context, e escrow.Reader) {
	x, ok := e.(escrow.Examiner)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	s.exam, s.examErr = x.Examine(ctx)
	s.examined = s.examErr == nil
}

// right is the key that belongs in the keyfile's place, "" where nobody knows.
func (f facts) right() key.Fingerprint {
	if a := f.status.Decision.Action; a == decide.Pass || a == decide.Install {
		return f.status.Decision.Key
	}
	return ""
}

// holds finds a copy of the key that this host can read, and one that it cannot.
func (s escrowFacts) holds(k key.Fingerprint) (readable, sealed string) {
	for _, c := range s.evidence.Copies {
		switch {
		case c.Key != k || k == "" || c.Worthless:
		case c.Have && readable == "":
			readable = c.ID
		case !c.Have && sealed == "":
			sealed = c.ID
		}
	}
	return readable, sealed
}
