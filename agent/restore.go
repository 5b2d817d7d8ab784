package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
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

// unsettled says why a key may not go in while a rotation stands open, which stopped
// halfway: a start would not take it. nil where none is, or the rows speak for it.
func (o *observation) unsettled(c Candidate) error {
	open := o.halfway()
	if open == nil || decide.Majority(c.Proof) {
		return nil
	}
	switch d := decide.Keyfile(o.evidence); {
	case d.Key == c.Key:
		return nil
	case d.Key != "":
		return fmt.Errorf("%w: %w: key %s belongs there, since %s", ErrRefused, open, d.Key, d.Reason)
	}
	return fmt.Errorf("%w: %w, and the rows do not say which of its keys holds: %s", ErrUnsure, open, o.evidence.Rows.Why)
}

// unusable is the error of no copy to install. Where somebody does not answer there may be
// one (law 6).
func (o *observation) unusable(format string, args ...any) error {
	if why := o.evidence.Local.Unreadable; why != "" {
		return fmt.Errorf("%w: the local quarantine cannot be read: %s", ErrUnheard, why)
	}
	for _, s := range o.evidence.Escrows {
		if s.State == decide.EscrowFailed {
			return fmt.Errorf("%w: escrow %q cannot answer: %w", ErrUnheard, s.Name, s.Err)
		}
	}
	return fmt.Errorf("%w %s", ErrNoUsableCopy, fmt.Sprintf(format, args...))
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

// ImportOptions are a person's wishes.
type ImportOptions struct {
	Person string
}

// Import installs a key that a person brought, as Restore would install a copy.
func Import(ctx context.Context, h *Host, k key.Key, opts ImportOptions) (RestoreResult, error) {
	return whileChanging(func() (RestoreResult, error) { return importKey(ctx, h, k, opts) })
}

func importKey(ctx context.Context, h *Host, k key.Key, opts ImportOptions) (RestoreResult, error) {
	o, err := h.observe()
	if err != nil {
		return RestoreResult{}, err
	}
	defer o.close()
	f := o.hold(k.Clone()) // k is the caller's, and may be wanted once more
	o.askRows(ctx)
	offered := []Candidate{{Source: "the key that was brought", Key: f, Proof: o.evidence.Rows.Proofs[f]}}
	return o.replace(ctx, replacement{offered: offered, named: true, best: true, vouch: o.proven,
		entry: ledger.Entry{Event: ledger.Imported, Person: opts.Person}})
}

// Keep saves a key that a person brought in every escrow, by law 4, and leaves the
// keyfile alone. It returns ErrNoEscrow.
func Keep(ctx context.Context, h *Host, k key.Key, opts ImportOptions) (BackupResult, error) {
	o, err := h.observeToSave()
	if err != nil {
		return BackupResult{}, err
	}
	defer o.close()
	f := o.hold(k)
	o.write(ledger.Entry{Event: ledger.Imported, Fingerprint: f, Person: opts.Person, Reason: "for the escrows only"})
	return o.escrowKey(ctx, f), nil
}

// replacement is what a person wants in the keyfile's place.
type replacement struct {
	offered []Candidate
	// named: the person named an escrow or brought a key, and a keyfile that no row speaks
	// for gives way.
	named bool
	// best: the best that is offered is taken, and not what a start of the daemon would take.
	best   bool
	dryRun bool
	// vouch says what makes the key known, or why it may not be installed.
	vouch func(Candidate) (ledger.Entry, error)
	entry ledger.Entry // of the ledger, but for which key it is
}

// replace installs a key that is offered, unless it is the keyfile's own.
func (o *observation) replace(ctx context.Context, w replacement) (RestoreResult, error) {
	r := RestoreResult{Rows: o.evidence.Rows, Tried: w.offered, Escrows: o.evidence.Escrows, Replaced: o.evidence.Keyfile.Key}
	defer func() { r.Trouble = o.trouble }()
	choose := o.chooseDecided
	if w.best {
		choose = o.chooseBest
	}
	best, err := choose(ctx, &r, w)
	if err != nil {
		return r, err
	}
	r.Key, r.Source = best.Key, best.Source
	if o.evidence.Keyfile.Good && o.evidence.Keyfile.Key == best.Key {
		r.Source = FromKeyfile
		return r, nil
	}
	if err := o.unsettled(best); err != nil {
		return r, err
	}
	word, err := w.vouch(best)
	if err != nil {
		return r, err
	}
	if w.dryRun {
		if path := o.host.Keyfile.Immutable(); path != "" {
			return r, fmt.Errorf("cannot install key %s: %s is %w", best.Key, path, keyfile.ErrImmutable)
		}
		return r, nil
	}
	l, err := lock.Try(o.host.StateDir, lock.Rotate)
	if err != nil {
		return r, busy(err)
	}
	defer l.Release()
	if word.Event != "" {
		o.write(word)
	}
	if err := o.install(best.Key, w.entry.Person+" asked for it, from "+best.Source); err != nil {
		return r, fmt.Errorf("cannot install key %s: %w", best.Key, err)
	}
	r.Installed = true
	r.Daemon = o.askedDaemon(ctx)
	w.entry.Fingerprint, w.entry.Escrow, w.entry.Copy, w.entry.Shelf = best.Key, best.Escrow, best.Copy, string(best.Shelf)
	o.write(w.entry)
	return r, nil
}

// chooseDecided takes what a start of the daemon would take.
func (o *observation) chooseDecided(ctx context.Context, r *RestoreResult, w replacement) (Candidate, error) {
	d := o.decide(ctx)
	r.Warning = d.Warning
	own := o.live()
	switch d.Action {
	case decide.Pass:
		return own, nil
	case decide.Install:
		for _, c := range w.offered {
			if c.Key == d.Key && c.Unreadable == "" {
				return c, nil
			}
		}
		return Candidate{Source: "the staged key of a rotation", Key: d.Key, Proof: o.evidence.Rows.Proofs[d.Key]}, nil
	case decide.Doubt:
		// Is there anything to be unsure of?
		for _, c := range append(w.offered, own) {
			if _, have := o.keys[c.Key]; have && (o.evidence.Rows.State != decide.RowsAnswer || c.Proof.Opened > 0) {
				return own, fmt.Errorf("%w: %s", ErrUnsure, d.Reason)
			}
		}
	}
	return own, o.unusable("(%d tried): %s", len(w.offered), d.Reason)
}

// live is the keyfile's own key as a candidate.
func (o *observation) live() Candidate {
	f := o.evidence.Keyfile.Key
	return Candidate{Source: FromKeyfile, Key: f, Proof: o.evidence.Rows.Proofs[f]}
}

// chooseBest takes the best of what a person named, or of what another database needs, unless
// the keyfile's own key is as good.
func (o *observation) chooseBest(_ context.Context, r *RestoreResult, w replacement) (Candidate, error) {
	own := o.live()
	good := o.evidence.Keyfile.Good
	var readable []Candidate
	for _, c := range w.offered {
		if _, ok := o.keys[c.Key]; ok && c.Unreadable == "" {
			readable = append(readable, c)
		}
	}
	if w.named && len(readable) == 0 {
		return own, o.unusable("among the %d that were named", len(w.offered))
	}
	switch o.evidence.Rows.State {
	case decide.RowsAnswer:
		return o.opensMost(r, w, readable)
	case decide.RowsSilent:
		if good && !w.named {
			return own, nil
		}
	default:
		known := o.evidence.Ledger.Known
		if good && !w.named {
			if own.Key == known {
				return own, nil
			}
			return own, fmt.Errorf("%w: the rows cannot be asked: %s", ErrUnsure, o.evidence.Rows.Why)
		}
		if known != "" {
			for _, c := range readable {
				if c.Key == known {
					return c, nil
				}
			}
		}
		if len(readable) > 0 && (good || known != "" || !w.named) {
			return own, fmt.Errorf("%w: the rows cannot be asked: %s", ErrUnsure, o.evidence.Rows.Why)
		}
		r.Warning = "the key could not be tried on the rows: " + o.evidence.Rows.Why
	}
	if len(readable) == 0 {
		return own, o.unusable("(%d tried)", len(w.offered))
	}
	if known := o.evidence.Ledger.Known; known != "" && !w.named {
		for _, c := range readable {
			if c.Key == known {
				return c, nil
			}
		}
	}
	return readable[0], nil
}

// opensMost is chooseBest where the rows answer.
func (o *observation) opensMost(r *RestoreResult, w replacement, readable []Candidate) (Candidate, error) {
	own, good := o.live(), o.evidence.Keyfile.Good
	var best Candidate
	for _, c := range readable {
		if c.Proof.Opened > best.Proof.Opened {
			best = c
		}
	}
	switch {
	case good && own.Proof.Opened > 0 && own.Proof.Opened >= best.Proof.Opened && !w.named:
		return own, nil
	case good && own.Proof.Opened > best.Proof.Opened:
		return own, fmt.Errorf("%w: key %s in the keyfile opens %v, the best of the others %d",
			ErrRefused, own.Key, own.Proof, best.Proof.Opened)
	case best.Proof.Opened == 0:
		return own, o.unusable("(%d tried): none opens a row", len(w.offered))
	case best.Proof.Verdict == rows.Partial:
		r.Warning = fmt.Sprintf("key %s opens only %v", best.Key, best.Proof)
	}
	return best, nil
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
