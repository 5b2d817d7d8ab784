package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// Errors of Accept and AcceptNew.
var (
	// ErrNothingToAccept says that there is no key of 32 bytes in the keyfile's place.
	ErrNothingToAccept = errors.New("there is no key to accept")
	// ErrKeyThere says that a new key is asked for where one stands.
	ErrKeyThere = errors.New("there is a key already")
	// ErrNotAccepted says that a rotation stands open, and that the rows settle it whatever a
	// person says (R1).
	ErrNotAccepted = errors.New("no key is accepted")
	// ErrRowsInTheWay says that rows depend on a key which a new one would not open.
	ErrRowsInTheWay = errors.New("rows depend on another key")
	// ErrChanged says that it is not so any more what a person was asked about: nothing was locked
	// while the question stood. Rotate and Repair return it, too.
	ErrChanged = errors.New("what was asked about has changed meanwhile")
)

// AcceptOptions carry a person's word.
type AcceptOptions struct {
	Person string
	// Confirm is shown what the person is about to vouch for, and says whether to go on.
	Confirm func(AcceptResult) (bool, error)
	// ConfirmRows is asked for the number of dependent rows that a new key will not
	// open (AcceptNew). Only that very number goes on.
	ConfirmRows func(dependent int64) (bool, error)
}

// AcceptResult is what was vouched for.
type AcceptResult struct {
	Key     key.Fingerprint
	Verdict rows.Verdict // what the rows say of it now; only a worse one contradicts it
	Proof   rows.Proof
	Rows    decide.RowsEvidence
	Known   key.Fingerprint // what was known before
	Broken  *ledger.Break   // where the ledger's chain is broken, of which nobody was told yet; nil for nowhere
	Adopted []escrow.Copy   // newest current copies that are taken as this host's own from now on
	Above   []escrow.Copy   // newest current copies that are of another key, or of none that can be told: a word alone puts nothing above them (law 4)
	Done    bool            // false: the person said no
	Escrows []SaveResult    // AcceptNew: where the new key was saved
	Trouble []Trouble
}

// Accept takes a person's word for the keyfile's key: it becomes the known key, so
// that R2 passes it, whatever the rows say of it now. It is never made a current
// copy by that (law 4). What stands newest on the current shelves is taken as this
// host's own, which ends the alarm over another host's writes; and the word takes the place
// of what stands in the ledger before its chain is broken. It returns ErrNothingToAccept, and
// ErrNotAccepted while a rotation is open: the rows say which of its keys holds (R1), and
// would overturn the word; and ErrChanged where another key came into the keyfile's place, or
// became the known one, while the question stood, or the rows give another verdict on it than they
// did, or it leaves more of them unopened.
func Accept(ctx context.Context, h *Host, opts AcceptOptions) (AcceptResult, error) {
	o, err := h.observe()
	if err != nil {
		return AcceptResult{}, err
	}
	defer o.close()
	if w := o.working(); w != nil {
		return AcceptResult{}, fmt.Errorf("%w: %s", ErrBusy, w)
	}
	if err := o.acceptable(); err != nil {
		return AcceptResult{}, err
	}
	if !o.evidence.Keyfile.Good {
		return AcceptResult{}, fmt.Errorf("%w: the keyfile is %s", ErrNothingToAccept, o.evidence.Keyfile.Why)
	}
	f := o.evidence.Keyfile.Key
	o.askRows(ctx)
	o.awaitAllEscrows(ctx)
	r := AcceptResult{Key: f, Verdict: o.evidence.Rows.VerdictOf(f), Proof: o.evidence.Rows.Proofs[f],
		Rows: o.evidence.Rows, Known: o.evidence.Ledger.Known}
	entries := []ledger.Entry{{Event: ledger.Accepted, Fingerprint: f, Old: r.Known, Person: opts.Person}}
	if r.Broken = o.broken(); r.Broken != nil {
		entries[0].Broken, entries[0].Reason = r.Broken.Line, fmt.Sprintf("the ledger's chain is broken at line %d", r.Broken.Line)
	}
	for i, e := range o.evidence.Escrows {
		copies, adopted := o.adoptable(i, opts.Person)
		r.Adopted, entries = append(r.Adopted, copies...), append(entries, adopted...)
		if c, there := e.NewestCurrent(); there && c.Key != f {
			r.Above = append(r.Above, escrow.Copy{Escrow: e.Name, ID: c.ID, Fingerprint: c.Key, Unreadable: c.Unreadable})
		}
	}
	r.Trouble = o.trouble
	if ok, err := opts.Confirm(r); err != nil || !ok {
		return r, err
	}
	l, err := lock.Try(h.StateDir, lock.Rotate)
	if err != nil {
		return r, busy(err)
	}
	defer l.Release()
	now, err := h.observe() // nothing was locked while the question stood
	if err != nil {
		return r, err
	}
	defer now.close()
	if err := now.acceptable(); err != nil {
		return r, err
	}
	if !now.evidence.Keyfile.Good || now.evidence.Keyfile.Key != f || now.evidence.Ledger.Known != r.Known {
		return r, fmt.Errorf("%w: the keyfile is %s now, and known is %s", ErrChanged, now.evidence.Keyfile.State(), cmp.Or(now.evidence.Ledger.Known, "none"))
	}
	now.askRows(ctx)
	p, verdict := now.evidence.Rows.Proofs[f], now.evidence.Rows.VerdictOf(f)
	if verdict != r.Verdict || p.Checked-p.Opened > r.Proof.Checked-r.Proof.Opened {
		return r, fmt.Errorf("%w: what the rows say of key %s, which opens %v now", ErrChanged, f, p)
	}
	r.Rows, r.Proof = now.evidence.Rows, p
	entries[0].Verdict, entries[0].Checked, entries[0].Opened = string(verdict), p.Checked, p.Opened
	if err := now.giveWord(f, entries...); err != nil {
		return r, err
	}
	r.Done = true
	return r, nil
}

// giveWord writes that a key is accepted, with what is adopted by the same word. It returns ErrChanged
// where writeWord would return ErrOvertaken: a person is asked again, and not for him.
func (o *observation) giveWord(f key.Fingerprint, entries ...ledger.Entry) error {
	standing, err := o.host.Ledger.AppendIf(o.standing, entries...)
	if errors.Is(err, ledger.ErrMovedOn) {
		return fmt.Errorf("%w: %w", ErrChanged, err)
	}
	if err != nil {
		return fmt.Errorf("cannot write that key %s is accepted: %w", f, busy(err))
	}
	o.standing = standing
	return nil
}

// adoptable is what stands newest on the current shelf of an escrow, on each of its stores, and is
// not known for this host's own, with the entries that make it so. A part that stands on another
// store than the configuration says is: to adopt it would keep it there.
func (o *observation) adoptable(i int, person string) (copies []escrow.Copy, entries []ledger.Entry) {
	s := o.evidence.Escrows[i]
	if s.Displaced != nil {
		return nil, nil
	}
	newest, there := s.NewestKey()
	for _, c := range s.Copies {
		own := there && c.ID == newest.ID
		saved := o.evidence.History.Saved[s.Name]
		tops := topNames(slices.DeleteFunc(slices.Clone(c.Tops), func(top escrow.Top) bool {
			return saved.IsTop(top, c.Key) && !o.evidence.MovedOn(i, c, top)
		}))
		if len(tops) == 0 && !(own && (!saved.Is(c) || o.evidence.Moved(i))) {
			continue
		}
		shelf, reason := string(c.Shelf), ""
		if shared, ok := o.host.Escrows[i].Reader.(escrow.Shared); !own { // of one of several stores: it is not the newest of the escrow
			shelf = ""
		} else if ok && len(c.Tops) < len(shared.Members()) { // the others' parts of this key are adopted, too
			reason = escrow.ErrPartly.Error()
		}
		copies = append(copies, escrow.Copy{Escrow: s.Name, ID: c.ID, Shelf: c.Shelf, Fingerprint: c.Key, Unreadable: c.Unreadable})
		entries = append(entries, ledger.Entry{Event: ledger.Adopted, Fingerprint: c.Key, Person: person,
			Escrow: s.Name, Copy: c.ID, Shelf: shelf, Tops: tops, Reason: reason})
	}
	return copies, entries
}

// acceptable says why a person's word would not count, nil where it does.
func (o *observation) acceptable() error {
	if open := o.halfway(); open != nil {
		return fmt.Errorf("%w: %w", ErrNotAccepted, open)
	}
	return nil
}

// AcceptNew makes a key where none is, on a person's word: the rows are Silent, or the
// database answers and has no table secrets, or the person names how many of them the new
// key will not open. The missing table needs that word, since a dump may be about to be
// loaded. The key is accepted, escrowed as law 4 allows, and installed. Nothing is locked
// while the question stands: afterwards all is observed again. It returns ErrKeyThere,
// ErrRowsInTheWay when the person does not confirm, ErrUnsure when the rows cannot be asked,
// ErrChanged when they say something else than when the person was, and ErrBusy.
func AcceptNew(ctx context.Context, h *Host, opts AcceptOptions) (AcceptResult, error) {
	asked, err := h.askForNew(ctx, opts)
	if err != nil || !asked.Done {
		return asked, err
	}
	l, err := lock.Try(h.StateDir, lock.Rotate)
	if err != nil {
		return AcceptResult{}, busy(err)
	}
	defer l.Release()
	o, r, err := h.lookForNew(ctx)
	if err != nil {
		return r, err
	}
	defer o.close()
	if was, is := asked.Rows, r.Rows; was.State != is.State || was.Dependent != is.Dependent || asked.Known != r.Known {
		return r, fmt.Errorf("%w: what the rows say, or which key is known", ErrChanged)
	}
	k := key.Generate()
	r.Key = o.hold(k)
	if r.Rows.State == decide.RowsAnswer {
		// It is new: no row can open under it.
		r.Rows.Proofs[r.Key] = rows.Proof{Fingerprint: r.Key, Verdict: rows.Refuted, Checked: r.Rows.Dependent}
	}
	r.Verdict = r.Rows.VerdictOf(r.Key)
	// Law 5: the key that the word is of is not to be lost with this process, and the word is on
	// disk before the key is anywhere else.
	if err := busy(h.Keyfile.Keep(k, o.evidence.Now)); err != nil {
		return r, fmt.Errorf("cannot keep key %s before it is accepted: %w", r.Key, err)
	}
	if err := o.giveWord(r.Key, ledger.Entry{Event: ledger.Accepted, Fingerprint: r.Key, Old: r.Known,
		Person: opts.Person, Verdict: string(r.Verdict), Reason: "a new key"}); err != nil {
		return r, err
	}
	for i := range h.Escrows {
		r.Escrows = append(r.Escrows, o.save(ctx, i, r.Key, decide.Shelf))
	}
	// Escrows take their time, and a daemon that starts on this key passes without a question (R2).
	o.takeIn(o.rowsNow(ctx, r.Key))
	if is := o.evidence.Rows; is.State != r.Rows.State || is.Dependent != r.Rows.Dependent {
		if is.VerdictOf(r.Key) == rows.Refuted { // else a start that cannot ask them puts it there, as the known one (R5)
			if err := o.writeContradiction(decide.Decision{Contradicted: r.Key}); err != nil {
				return r, fmt.Errorf("%w: %w", ErrChanged, err)
			}
		}
		return r, fmt.Errorf("%w: what the rows say; key %s is kept, and not in place", ErrChanged, r.Key)
	}
	if err := o.install(r.Key, opts.Person+" asked for a new key"); err != nil {
		return r, fmt.Errorf("cannot install key %s: %w", r.Key, err)
	}
	r.Trouble, r.Done = o.trouble, true
	return r, nil
}

// askForNew puts the question. Done says that the person agreed to what the result shows.
func (h *Host) askForNew(ctx context.Context, opts AcceptOptions) (AcceptResult, error) {
	if busy, err := lock.Held(h.StateDir, lock.Rotate); err != nil || busy {
		return AcceptResult{}, cmp.Or(err, error(ErrBusy))
	}
	o, r, err := h.lookForNew(ctx)
	if err != nil {
		return r, err
	}
	o.close()
	if r.Rows.State == decide.RowsAnswer {
		ok, err := opts.ConfirmRows(r.Rows.Dependent)
		if err == nil && !ok {
			err = fmt.Errorf("%w: %d of them", ErrRowsInTheWay, r.Rows.Dependent)
		}
		r.Done = err == nil
		return r, err
	}
	r.Done, err = opts.Confirm(r)
	return r, err
}

// lookForNew looks whether a new key may be made, if a person wants it.
func (h *Host) lookForNew(ctx context.Context) (*observation, AcceptResult, error) {
	o, err := h.observe()
	if err != nil {
		return nil, AcceptResult{}, err
	}
	r := AcceptResult{Known: o.evidence.Ledger.Known}
	if err := o.acceptable(); err != nil {
		o.close()
		return nil, r, err
	}
	if o.evidence.Keyfile.Good {
		o.close()
		return nil, r, fmt.Errorf("%w: the keyfile holds key %s", ErrKeyThere, o.evidence.Keyfile.Key)
	}
	o.askRows(ctx)
	o.awaitAllEscrows(ctx)
	r.Rows = o.evidence.Rows
	for _, e := range o.evidence.Escrows {
		if c, there := e.NewestCurrent(); there {
			r.Above = append(r.Above, escrow.Copy{Escrow: e.Name, ID: c.ID, Fingerprint: c.Key, Unreadable: c.Unreadable})
		} else if e.State != decide.EscrowAnswered {
			r.Trouble = append(r.Trouble, Trouble{What: fmt.Sprintf("escrow %q cannot say which key it holds", e.Name), Err: e.Err})
		}
	}
	if r.Rows.State == decide.RowsUnknown && !errors.Is(r.Rows.Err, rows.ErrNoTable) {
		o.close()
		return nil, r, fmt.Errorf("%w: a new one would split the rows, and they cannot be asked: %s", ErrUnsure, r.Rows.Why)
	}
	return o, r, nil
}
