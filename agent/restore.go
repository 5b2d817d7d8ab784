package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// Errors of Restore and Import. The result that comes with them names what was tried.
var (
	// ErrNoUsableCopy says that no copy that could be read may be installed.
	ErrNoUsableCopy = errors.New("no usable copy")
	// ErrRefused says that the keyfile's own key opens more than the other would.
	ErrRefused = errors.New("refused, to protect the last good key")
	// ErrUnheard says that there may be a usable copy where nobody answers (law 6).
	ErrUnheard = errors.New("nobody knows which copies there are")
	// ErrUnsure says that nothing can tell now whether the key is right (law 6).
	ErrUnsure = errors.New("cannot tell whether this key is right")
	// ErrNoCopyNamed says that the escrow, which has answered, has no copy of that id.
	ErrNoCopyNamed = errors.New("no copy has this id")
	// ErrNoEscrowNamed says that the configuration has no escrow of that name.
	ErrNoEscrowNamed = errors.New("no escrow has this name")
)

// RestoreOptions narrow down what may be restored. The zero value takes the best of
// all copies.
type RestoreOptions struct {
	From   string // the name of one escrow
	Copy   string // the id of one copy in it
	DryRun bool   // say what would be done, and do nothing
	Person string // who asked, for the ledger
	// Database opens another database than the daemon's, such as a dump that was loaded
	// somewhere else: the key that its rows need is wanted. nil is the daemon's.
	Database func(context.Context, rows.Options) (Rows, error)
}

// RestoreResult is what was tried and done.
type RestoreResult struct {
	Key       key.Fingerprint // what the keyfile holds now, or would
	Source    string          // "escrow \"gcp\", copy current/3", "the keyfile itself"
	Installed bool            // false: it was there already, or DryRun, or an error
	Replaced  key.Fingerprint // what the keyfile held before
	Rows      decide.RowsEvidence
	Tried     []Candidate
	Escrows   []decide.EscrowEvidence
	Warning   string
	Daemon    DaemonStanding // after an install
	Trouble   []Trouble
}

// FromKeyfile is the source of a key that stays where it is.
const FromKeyfile = "the keyfile itself"

// Candidate is a key that was looked at, and where it was found.
type Candidate struct {
	Source     string
	Escrow     string // "" for what lies on this host
	Copy       string
	Shelf      escrow.Shelf
	Key        key.Fingerprint // "" when it could not be read
	Unreadable string
	Sealed     bool // its bytes are for others to open
	Proof      rows.Proof
}

// Restore puts the best copy into the keyfile's place: the one that opens the rows.
// A keyfile whose key opens every row, or as many as the best copy, stays. It
// returns ErrNoEscrowNamed, ErrNoCopyNamed, ErrNoUsableCopy, ErrUnheard, ErrRefused, ErrUnsure, and
// ErrBusy during a rotation; one that stopped halfway is the rows' to settle (R1), and
// whatever a person names goes in only where a start would take it, too.
func Restore(ctx context.Context, h *Host, opts RestoreOptions) (RestoreResult, error) {
	return whileChanging(func() (RestoreResult, error) { return restore(ctx, h, opts) })
}

func restore(ctx context.Context, h *Host, opts RestoreOptions) (RestoreResult, error) {
	scope := *h
	if opts.Database != nil {
		scope.OpenRows = opts.Database
	}
	if opts.From != "" {
		scope.Escrows = nil
		for _, s := range h.Escrows {
			if s.Name() == opts.From {
				scope.Escrows = []Escrow{s}
			}
		}
		if len(scope.Escrows) == 0 {
			return RestoreResult{}, fmt.Errorf("%w: %q", ErrNoEscrowNamed, opts.From)
		}
	}
	o, err := scope.observe()
	if err != nil {
		return RestoreResult{}, err
	}
	defer o.close()
	if w := o.working(); w != nil {
		return RestoreResult{}, fmt.Errorf("%w: %s", ErrBusy, w)
	}
	o.askRows(ctx)
	if opts.From == "" {
		o.askLocal()
	}
	o.awaitAllEscrows(ctx)
	if o.evidence.Rows.State == decide.RowsAnswer {
		o.askRows(ctx) // the keys that were fetched
	}
	var offered []Candidate
	for _, c := range o.candidates() {
		if opts.From != "" && c.Escrow == "" || opts.Copy != "" && c.Copy != opts.Copy && printable.Line(c.Copy) != opts.Copy {
			continue
		}
		offered = append(offered, c)
	}
	if opts.Copy != "" && len(offered) == 0 && !slices.ContainsFunc(o.evidence.Escrows, func(e decide.EscrowEvidence) bool { return e.State != decide.EscrowAnswered }) {
		return RestoreResult{Rows: o.evidence.Rows, Escrows: o.evidence.Escrows}, fmt.Errorf("escrow %q: %w: %q", opts.From, ErrNoCopyNamed, opts.Copy)
	}
	vouch := o.proven
	if opts.Database != nil {
		if e := o.evidence.Rows; e.State != decide.RowsAnswer {
			return RestoreResult{Rows: e, Escrows: o.evidence.Escrows}, fmt.Errorf("%w: the rows of that database cannot tell: %s", ErrUnsure, e.Why)
		}
		vouch = func(c Candidate) (ledger.Entry, error) { return o.acceptFor(ctx, h, c, opts.Person) }
	}
	return o.replace(ctx, replacement{offered: offered, named: opts.From != "", best: opts.From != "" || opts.Copy != "" || opts.Database != nil,
		dryRun: opts.DryRun, vouch: vouch, entry: ledger.Entry{Event: ledger.Restored, Person: opts.Person}})
}

// proven makes a key known that opens every row. The zero Entry makes nothing known.
func (o *observation) proven(c Candidate) (ledger.Entry, error) {
	if c.Proof.Verdict != rows.Opens {
		return ledger.Entry{}, nil
	}
	return provenEntry(c.Proof), nil
}

// acceptFor makes a key known for the rows of another database, unless the daemon's own
// speak against it.
func (o *observation) acceptFor(ctx context.Context, h *Host, c Candidate, person string) (ledger.Entry, error) {
	live, known := o.evidence.Keyfile, o.evidence.Ledger.Known
	e := ledger.Entry{Event: ledger.Accepted, Fingerprint: c.Key, Old: known, Person: person, Verdict: string(rows.Unknown),
		Reason: fmt.Sprintf("it opens %v of another database, for which it was asked", c.Proof)}
	var answer rows.Answer
	if table, err := h.OpenRows(ctx, rows.Options{}); err != nil {
		answer = rows.NoAnswer(err)
	} else {
		answer = table.Prove(ctx, o.keys[c.Key], o.keys[live.Key])
		table.Close()
		e.Verdict, e.Checked, e.Opened = string(answer.Proofs[0].Verdict), answer.Proofs[0].Checked, answer.Proofs[0].Opened
	}
	switch {
	case answer.State == rows.Unknown && live.Good && live.Key == known:
		return e, fmt.Errorf("%w for the daemon's own rows, which the present key %s may open: they cannot be asked: %w", ErrUnsure, live.Key, answer.Err)
	case answer.State == rows.Answered && answer.Proofs[1].Opened > answer.Proofs[0].Opened:
		return e, fmt.Errorf("%w: key %s in the keyfile opens %v in the daemon's own database, key %s %d: bring the other database there first",
			ErrRefused, live.Key, answer.Proofs[1], c.Key, answer.Proofs[0].Opened)
	}
	return e, nil
}

// candidates lists what was found, in the order of R4: the newest current copies,
// the local quarantine, then everything else.
func (o *observation) candidates() []Candidate {
	var newest, local, rest []Candidate
	if e := o.evidence.Keyfile; !e.Good && e.Key != "" {
		local = append(local, Candidate{Source: "the malformed keyfile, " + e.Why, Key: e.Key, Proof: o.evidence.Rows.Proofs[e.Key]})
	}
	for _, k := range o.kept {
		c := Candidate{Source: "the local quarantine, " + k.Path, Key: k.Key.Fingerprint(), Unreadable: k.Why}
		if c.Key != "" {
			c.Unreadable, c.Proof = "", o.evidence.Rows.Proofs[c.Key]
		}
		local = append(local, c)
	}
	for _, shelf := range escrow.Shelves {
		for _, s := range o.evidence.Escrows {
			first, there := s.NewestCurrent()
			for _, c := range s.Copies {
				if c.Shelf != shelf {
					continue
				}
				found := Candidate{
					Source: fmt.Sprintf("escrow %q, copy %s", s.Name, c.ID),
					Escrow: s.Name, Copy: c.ID, Shelf: c.Shelf, Key: c.Key,
					Unreadable: c.Unreadable, Sealed: c.Sealed, Proof: o.evidence.Rows.Proofs[c.Key],
				}
				if c.Misnamed != "" {
					found.Source += ", which is called another key"
					found.Key, found.Unreadable, found.Proof = c.Misnamed, "", o.evidence.Rows.Proofs[c.Misnamed]
				}
				if there && c.ID == first.ID {
					newest = append(newest, found)
				} else {
					rest = append(rest, found)
				}
			}
		}
	}
	return append(append(newest, local...), rest...)
}
