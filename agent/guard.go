package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

var (
	// ErrBusy says that another keyguard holds the lock that is needed.
	ErrBusy = errors.New("another keyguard is at work")
	// ErrNotPlaced says that a key belongs in the keyfile's place and cannot be put there.
	// What stands there is not to be read: the rows have just refuted it, or it is no key.
	// That is no trouble of keyguard's own, which law 9 would let pass.
	ErrNotPlaced = errors.New("the key that belongs in the keyfile's place cannot be put there")
)

// GuardOptions are what the moment of the call knows.
type GuardOptions struct {
	// Report is called, whenever that has changed, with what would come of a start on the keyfile as
	// it stands: for whoever must leave before Guard has ended, or sees it end by no will of its own.
	// nil is nobody.
	Report func(Start)
}

// Start says what would come of it if the daemon were started now, on the keyfile as it stands.
type Start string

const (
	StartRight   Start = "right"   // nothing speaks against it
	StartUnsure  Start = "unsure"  // the daemon could make a key, or read one of an open rotation
	StartRefuted Start = "refuted" // the daemon would read a key that the rows have just refuted
)

// GuardResult is what was found, decided and done.
type GuardResult struct {
	Decision  decide.Decision
	Evidence  decide.Evidence
	Done      bool   // what was decided was done; for Doubt and Lost see Parked
	Parked    bool   // Doubt, Lost: the daemon starts without a key and cannot mint one
	Tightened string // what was loose about the keyfile and was put right, or gave way to the key: "mode 0644"
	// Untouched is when the file had last been changed before it was, where it was Tightened or
	// another key was put in its place.
	Untouched time.Time
	Trouble   []Trouble
}

// Guard makes sure of the keyfile before the daemon reads it: it observes, decides
// (decide.Keyfile) and does what was decided. Doubt and Lost are results, not errors; they
// park where a watcher lives that can put the key in later, and leave everything as
// it is where none does. ErrBusy: a rotation is under way and did not end within ctx.
// ErrNotPlaced: the daemon must not read what stands there. Any other error: what was
// decided could not be done, and the result says what it was.
func Guard(ctx context.Context, h *Host, opts GuardOptions) (GuardResult, error) {
	looked, refuted := false, key.Fingerprint("")
	return whileChanging(func() (GuardResult, error) {
		if looked {
			for _, s := range h.Escrows {
				if m, ok := s.Reader.(Rememberer); ok {
					m.Again()
				}
			}
		}
		r, err := guard(ctx, h, opts, refuted)
		looked = true
		if s := r.Evidence.Rows.State; s == decide.RowsAnswer || s == decide.RowsSilent {
			refuted = refutedKey(r.Evidence)
		}
		return r, err
	})
}

// Healthy is the key that Guard would find known, by a proof or a word of lately, with nothing to do
// or to say, else "". It looks at the keyfile and the state directory, and writes nothing.
func Healthy(h *Host) key.Fingerprint {
	o, err := h.observe()
	if err != nil {
		return ""
	}
	defer o.close()
	l := o.evidence.Ledger
	if l.Rotation != nil || l.Stopped || o.seen.Loose != "" || len(o.trouble) > 0 || !h.Keyfile.Swept() {
		return ""
	}
	d := decide.Keyfile(o.evidence)
	if d.Action != decide.Pass || d.Warning != "" {
		return ""
	}
	return d.Key
}

// guard is one look of Guard's, and does what was decided by that. refuted is the keyfile's key that the
// rows have refuted in the look before, "" for none.
func guard(ctx context.Context, h *Host, opts GuardOptions, refuted key.Fingerprint) (GuardResult, error) {
	observe := func() (*observation, error) { return h.observeFor(opts.Report, refuted) }
	o, err := observe()
	if err != nil {
		return GuardResult{}, err
	}
	defer func() { o.close() }()
	// Where keyguard stopped the daemon it may be at work on the rows still.
	if l := o.evidence.Ledger; l.Rotation != nil || l.Stopped {
		l, unlocked := lock.Wait(ctx, h.StateDir, lock.Rotate)
		if _, held := errors.AsType[lock.ErrBusy](unlocked); held {
			return GuardResult{Evidence: o.evidence}, fmt.Errorf("%w: a rotation or a repair is under way", ErrBusy)
		}
		defer l.Release()
		o.close()
		if o, err = observe(); err != nil { // what the rotation left
			return GuardResult{}, err
		}
		if o.locked = unlocked == nil; !o.locked {
			o.complain("cannot tell whether a rotation or a repair is under way", unlocked)
		}
	}
	o.sweep()
	r := GuardResult{Decision: o.decide(ctx)}
	if r.Decision.Action == decide.Pass {
		o.reportStart(StartRight)
	} else {
		o.reportStart(o.wrongStart())
	}
	err = o.act(ctx, &r)
	if errors.Is(err, ErrNotPlaced) && r.Decision.Action == decide.Install {
		o.keepKey(r.Decision.Key) // the next start need not ask an escrow for it again (law 9)
	}
	if errors.Is(err, ErrNotPlaced) && !o.evidence.Keyfile.Good {
		err = o.parkInstead(&r, err)
	}
	r.Done = err == nil
	if r.Done && (r.Decision.Action != decide.Doubt && r.Decision.Action != decide.Lost || r.Parked) {
		o.reportStart(StartRight)
	} else {
		o.reportStart(o.wrongStart())
	}
	if err != nil && !errors.Is(err, ErrNotPlaced) {
		err = fmt.Errorf("cannot %s: %w", r.Decision.Action, err)
	}
	r.Evidence, r.Trouble = o.evidence, o.trouble
	return r, err
}

// sweep takes away what earlier installs left beside the keyfile, once it is safely
// in the local quarantine (law 3).
func (o *observation) sweep() {
	if err := o.host.Keyfile.Sweep(o.evidence.Now); err != nil {
		o.complain("cannot clear away an earlier keyfile", err)
	}
}

// act does what was decided. The order is law 5's: what the rows said is on disk
// first, then the keyfile is right, and only then a rotation is closed.
func (o *observation) act(ctx context.Context, r *GuardResult) error {
	d := r.Decision
	if err := o.writeContradiction(d); err != nil {
		return err
	}
	if d.Settle == decide.SettleNothing {
		if err := o.writeProof(d); err != nil {
			return err
		}
	}
	switch d.Action {
	case decide.Pass:
		if o.seen.Loose != "" {
			o.tighten(r)
		}
	case decide.Install:
		if d.Rule == "R4" {
			if err := o.stillSilent(ctx); err != nil {
				return err
			}
		}
		if err := o.install(d.Key, d.Rule+": "+d.Reason); err != nil {
			return notPlaced(d.Key, err)
		}
		if o.seen.Loose != "" && !o.evidence.Keyfile.Good && (o.evidence.Keyfile.Key != "" || o.seen.Unread()) {
			o.exposed(r) // what stood there was or may have been a key, and others could read it
		}
	case decide.Make:
		if err := o.makeFirst(ctx, r); err != nil {
			return err
		}
	case decide.Doubt, decide.Lost:
		if err := o.park(r); err != nil {
			return err
		}
	}
	if r.Decision.Settle != decide.SettleNothing {
		return o.closeRotation(r.Decision)
	}
	return nil
}

// write appends to the ledger. That it cannot is trouble, and no reason to keep the
// daemon from its key (law 9).
func (o *observation) write(entries ...ledger.Entry) {
	if err := o.host.Append(entries...); err != nil {
		o.complain("cannot write the ledger", err)
	}
}

// writeWord is write of what the rows were seen to say, or a person said of what was seen. It is
// nobody's word any more, and ErrOvertaken, where the ledger tells otherwise by now which key is
// known or which rotation is open: a look may take longer than a whole rotation, and the last word
// counts.
func (o *observation) writeWord(entries ...ledger.Entry) error {
	standing, err := o.host.Ledger.AppendIf(o.standing, entries...)
	switch {
	case errors.Is(err, ledger.ErrMovedOn):
		return fmt.Errorf("%w: %w", ErrOvertaken, err)
	case err != nil:
		o.complain("cannot write the ledger", busy(err))
		return nil
	}
	o.standing = standing
	return nil
}

// stillStands is ErrOvertaken where writeWord would be. It writes nothing.
func (o *observation) stillStands() error {
	if now, err := o.host.Ledger.Standing(); err == nil && !now.Same(o.standing) {
		return fmt.Errorf("%w: %w", ErrOvertaken, ledger.ErrMovedOn)
	}
	return nil // one that cannot be read keeps nobody from his key (law 9)
}

// proofRecord is how long a proof on record is good enough not to write the next one
// down: the rows are asked every hour, and the ledger is kept for years.
const proofRecord = decide.ProofLife / 2

// writeProof records what the rows just said of the key that the daemon will read. A key
// that opens all or most of them becomes the known key by it; one that opens a part stays
// what it was, above all a key that is known by a person's word alone.
func (o *observation) writeProof(d decide.Decision) error {
	p, tried := o.evidence.Rows.Proofs[d.Key]
	if o.evidence.Rows.State != decide.RowsAnswer || !tried || (d.Action != decide.Pass && d.Action != decide.Install) {
		return nil
	}
	l := o.evidence.Ledger
	known := d.Key == l.Known && d.Contradicted == ""
	if age := o.evidence.Now.Sub(l.LastLook); known && !l.Accepted && l.Verdict == p.Verdict && age >= 0 && age < proofRecord {
		return nil
	}
	if byProof := known && !l.Accepted; p.Verdict == rows.Opens || !known && decide.Majority(p) || byProof && p.Verdict == rows.Partial {
		e := provenEntry(p)
		e.Total = o.evidence.Rows.Dependent
		return o.writeWord(e)
	}
	return nil
}

func provenEntry(p rows.Proof) ledger.Entry {
	return ledger.Entry{Event: ledger.Proven, Fingerprint: p.Fingerprint,
		Verdict: string(p.Verdict), Checked: p.Checked, Opened: p.Opened}
}

func (o *observation) tighten(r *GuardResult) {
	err := o.host.Keyfile.Tighten(o.seen)
	if errors.Is(err, keyfile.ErrNotOwner) {
		// That takes a right that the watcher does not have. To put the same key there in a file
		// of its own takes none.
		err = busy(o.host.Keyfile.Install(o.seen, o.keys[o.evidence.Keyfile.Key], o.evidence.Now))
		err = o.unlessMade(err, "the keyfile is tightened")
	}
	if err != nil {
		o.complain("cannot tighten the keyfile, "+o.seen.Loose, err)
		return
	}
	o.exposed(r)
}

// exposed records in the ledger that others could read what stood in the keyfile's place.
func (o *observation) exposed(r *GuardResult) {
	r.Tightened, r.Untouched = o.seen.Loose, o.seen.Changed
	o.write(ledger.Entry{Event: ledger.Exposed, Fingerprint: o.evidence.Keyfile.Key, Untouched: o.seen.Changed, Reason: o.seen.Loose})
}

// busy makes ErrBusy of a lock that somebody else holds.
func busy(err error) error {
	if _, held := errors.AsType[lock.ErrBusy](err); held {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return err
}

// install puts a key at hand in the keyfile's place, unless the keyfile is not what was seen
// (keyfile.ErrChanged), or the word on which key is known (ErrOvertaken).
func (o *observation) install(f key.Fingerprint, reason string) error {
	if err := o.stillStands(); err != nil {
		return err
	}
	err := busy(o.host.Keyfile.Install(o.seen, o.keys[f], o.evidence.Now))
	if err = o.unlessMade(err, "the key is in place"); err != nil {
		return err
	}
	o.write(ledger.Entry{Event: ledger.Installed, Fingerprint: f, Old: o.evidence.Keyfile.Key, Untouched: o.seen.Changed, Reason: reason})
	return nil
}

// unlessMade takes out of the error of a change to the keyfile what leaves it made: its copy in
// the local quarantine is missing, and the aside stays until Sweep; or its directory was not
// synced, and what a power cut undoes the next start does again.
func (o *observation) unlessMade(err error, done string) error {
	switch {
	case errors.Is(err, keyfile.ErrNotKept):
		o.complain(done+", but what was there is kept only beside it", err)
	case errors.Is(err, keyfile.ErrNotSynced):
		o.complain(done, err)
	default:
		return err
	}
	if errors.Is(err, keyfile.ErrChanged) {
		return keyfile.ErrChanged
	}
	return nil
}

// makeFirst is the first start on a new host (R4): no row and no copy exists, but of a key that was
// made for it before. The key is in the ledger, in the local quarantine and in every required escrow
// before the daemon can use it (law 5); of another one that does not take it people are told. Where it
// does not come that far the next start goes on with it.
// Who calls it off waits for the end of it: of a save that breaks off nobody knows whether its store
// took the key.
func (o *observation) makeFirst(ctx context.Context, r *GuardResult) error {
	unsure := func(format string, a ...any) error {
		r.Decision = decide.InDoubt(format, a...)
		r.Decision.Rule, r.Decision.Needed = "R4", o.evidence.Ledger.Known
		return o.park(r)
	}
	if !o.locked {
		l, err := lock.Try(o.host.StateDir, lock.Rotate)
		if err != nil {
			return unsure("a first key is to be made, and %v", err)
		}
		defer l.Release()
	}
	ctx, cancel := uncalled(ctx)
	defer cancel()
	f := r.Decision.Key
	if f == "" {
		f = o.hold(key.Generate())
		if err := o.host.Append(ledger.Entry{Event: ledger.Made, Fingerprint: f, Reason: o.evidence.Rows.Why}); err != nil {
			return unsure("a first key cannot be made before the ledger names it: %v", err)
		}
		if err := o.host.Keyfile.Keep(o.keys[f], o.evidence.Now); err != nil {
			return unsure("a first key cannot be brought to an escrow before it is kept here: %v", err)
		}
	}
	saves := make([]SaveResult, len(o.host.Escrows))
	for i, s := range o.host.Escrows {
		saves[i] = o.save(ctx, i, f, decide.Shelf)
		switch {
		case saves[i].Err == nil:
			continue
		case lookAgain(saves[i].Err):
			return saves[i].Err
		}
		o.complain(fmt.Sprintf("escrow %q did not take the first key", s.Name()), saves[i].Err)
		if s.Required {
			return unsure("a first key was made and not installed, since the required escrow %q does not hold it", s.Name())
		}
	}
	switch silent, err := o.stillFirst(ctx, saves); {
	case err != nil:
		return err
	case silent != "":
		return unsure("a first key was made and not installed, since %s", silent)
	}
	r.Decision.Key = f
	return notPlaced(f, o.install(f, r.Decision.Rule+": "+r.Decision.Reason))
}

// stillSilent asks the rows once more where they had no word in which key is put in place, and returns
// ErrOvertaken where they are not silent any more: escrows may have taken long, and somebody may have
// loaded a dump meanwhile.
func (o *observation) stillSilent(ctx context.Context) error {
	switch is := o.rowsNow(ctx, ""); is.State {
	case decide.RowsSilent:
		return nil
	case decide.RowsAnswer:
		return fmt.Errorf("%w: there are rows by now that depend on a key", ErrOvertaken)
	default:
		return fmt.Errorf("%w: the rows cannot be asked any more: %s", ErrOvertaken, is.Why)
	}
}

// stillFirst is stillSilent for a first key that was saved. It returns ErrOvertaken, too, where a
// store lists a copy that it did not list before, and that is not what was saved: somebody has
// brought another key meanwhile (law 2). It says who cannot tell that any more (law 6).
func (o *observation) stillFirst(ctx context.Context, saves []SaveResult) (silent string, err error) {
	for i, s := range o.host.Escrows {
		before := o.evidence.Escrows[i].Copies
		copies, err := s.List(ctx)
		if err != nil {
			return fmt.Sprintf("escrow %q cannot say any more whether it holds another key: %v", s.Name(), err), nil
		}
		if n := slices.IndexFunc(copies, func(c escrow.Copy) bool {
			return c.ID != saves[i].Copy.ID && !slices.ContainsFunc(before, func(b decide.CopyEvidence) bool { return b.ID == c.ID })
		}); n >= 0 {
			return "", fmt.Errorf("%w: escrow %q lists copy %s by now, which it did not before", ErrOvertaken, s.Name(), copies[n].ID)
		}
		if why := unheard(s); why != "" {
			return fmt.Sprintf("a store of escrow %q cannot say any more whether it holds another key: %s", s.Name(), why), nil
		}
	}
	return "", o.stillSilent(ctx)
}

// uncalled is a context that ends when ctx is to, but not when that is called off.
func uncalled(ctx context.Context) (context.Context, context.CancelFunc) {
	end, bounded := ctx.Deadline()
	ctx = context.WithoutCancel(ctx)
	if !bounded {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, end)
}

// notPlaced makes ErrNotPlaced of what keeps a key out of the keyfile's place, unless that
// is somebody who is at work there.
func notPlaced(f key.Fingerprint, err error) error {
	if err == nil || errors.Is(err, ErrBusy) || lookAgain(err) {
		return err
	}
	return fmt.Errorf("%w: key %s: %w", ErrNotPlaced, f, err)
}
