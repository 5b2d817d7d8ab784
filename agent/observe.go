package agent

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// observation gathers the evidence that package decide asks for, and holds the bytes of the
// keys that the evidence names. It is used by one goroutine, and must be closed. Where that one has
// several escrows asked or saved to at once (eachEscrow), each writes what is known of its own
// escrow alone, and of all only in turn (inTurn). Those that a decision waits for (awaitEscrows)
// write nothing here: they put it into the inbox.
type observation struct {
	host     *Host
	evidence decide.Evidence
	seen     keyfile.Seen
	keys     map[key.Fingerprint]key.Key
	doubles  []key.Key // other copies of what is in keys, to be wiped with it
	kept     []keyfile.Kept
	standing ledger.Standing // how the ledger stood when this looked, and stands by what this wrote
	record   *ledger.Record  // nil until the history was asked for
	entries  int             // how many the record had when it was read first
	trouble  []Trouble
	locked   bool // the rotate lock is held for as long as this is used

	saving sync.Mutex // of inTurn: guards, while several escrows are saved to, what is known of all, and the ledger

	report func(Start) // of GuardOptions, or nil
	late   func()      // called where the rows or the escrows take longer than lateAfter, once; or nil
	table  Rows
	answer rows.Answer

	fetching crew.Group
	stop     context.CancelFunc
	inbox    *inbox
	lateAt   *time.Timer
}

// lateAfter is how long rows and escrows may take to answer while the daemon could make a key.
const lateAfter = time.Second

// ErrOvertaken says that what was seen, and decided by, is not so any more: which key is known, that
// the rows are silent, or what an escrow lists. It says which; of the keyfile that is
// keyfile.ErrChanged.
var ErrOvertaken = errors.New("what was seen has been overtaken")

// whileChanging does again, and so observes all again, what found that the keyfile is not what
// it had seen (law 3), or that it was overtaken: daemon, watcher and people change things, too.
// Whoever does more often than this is fighting, and a person must look.
func whileChanging[R any](do func() (R, error)) (r R, err error) {
	const attempts = 5
	for range attempts {
		if r, err = do(); !lookAgain(err) {
			break
		}
	}
	return r, err
}

// lookAgain tells whether an error is no more than that what was seen is not so any more.
func lookAgain(err error) bool {
	return errors.Is(err, keyfile.ErrChanged) || errors.Is(err, ErrOvertaken)
}

// observe looks at what is here without opening a socket: the keyfile and the end of
// the ledger. An error means that nobody can say what stands in the keyfile's place.
func (h *Host) observe() (*observation, error) { return h.observeFor(nil, "") }

// observeFor reports, besides, what would come of a start on the keyfile that was seen, where the rows
// have just refuted this key.
func (h *Host) observeFor(report func(Start), refuted key.Fingerprint) (*observation, error) {
	seen, err := h.Keyfile.Look()
	if err != nil {
		return nil, err
	}
	o := &observation{host: h, seen: seen, keys: map[key.Fingerprint]key.Key{}, report: report}
	switch {
	case seen.Kind == keyfile.Good && refuted != "" && seen.Key.Fingerprint() == refuted:
		o.reportStart(StartRefuted) // law 1 stands above law 9
	case seen.Kind == keyfile.Good && !seen.NextThere:
		o.reportStart(StartRight) // nothing speaks against it yet, and what hangs from here on is our own trouble (law 9)
	default:
		o.reportStart(StartUnsure)
	}
	o.evidence.Now = h.Now()
	for _, s := range h.Escrows {
		o.evidence.Escrows = append(o.evidence.Escrows, decide.EscrowEvidence{Name: s.Name(), Required: s.Required})
	}

	o.evidence.Keyfile = decide.KeyfileEvidence{
		Good: seen.Kind == keyfile.Good,
		Key:  o.hold(seen.Key),
		Why:  seen.Why,
	}
	if seen.Kind == keyfile.Missing {
		o.evidence.Keyfile.Why = cmp.Or(seen.Why, "missing")
	}
	o.evidence.Next = decide.NextEvidence{There: seen.NextThere, Key: o.hold(seen.Next)}

	standing, err := h.Ledger.Standing()
	if err != nil {
		// Law 9, law 6: a ledger that cannot be read is trouble, and then no key is known.
		o.complain("no key is known", err)
	}
	o.standing = standing
	l := &o.evidence.Ledger
	l.Known = standing.Known
	l.Accepted = standing.By == ledger.Accepted
	l.Verdict = rows.Verdict(standing.Verdict)
	l.Majority = decide.Majority(rows.Proof{Checked: standing.Checked, Opened: standing.Opened})
	l.LastLook = standing.LastLook
	l.Stopped = len(standing.Stopped) > 0
	if r := standing.Rotation; r != nil {
		l.Rotation = &decide.Rotation{Old: r.Old, New: r.New, CommitBegun: r.CommitBegun}
	}
	return o, nil
}

// close ends what is under way and wipes every key.
func (o *observation) close() {
	if o == nil {
		return
	}
	if o.stop != nil {
		o.lateAt.Stop()
		o.stop()
		_ = o.fetching.Wait() // what went wrong was told
		_, keys := o.inbox.take()
		for _, k := range keys {
			k.Wipe()
		}
	}
	if o.table != nil {
		o.table.Close()
	}
	for _, k := range o.keys {
		k.Wipe()
	}
	for _, k := range o.doubles {
		k.Wipe()
	}
}

func (o *observation) complain(what string, err error) {
	if slices.ContainsFunc(o.trouble, func(t Trouble) bool { return t.Err.Error() == err.Error() }) {
		return // one cause of several troubles
	}
	o.trouble = append(o.trouble, Trouble{What: what, Err: err})
}

// hold keeps a key for as long as the observation lives and names it.
func (o *observation) hold(k key.Key) key.Fingerprint {
	f := k.Fingerprint()
	if _, ok := o.keys[f]; ok {
		o.doubles = append(o.doubles, k)
	} else if f != "" {
		o.keys[f] = k
	}
	return f
}

// decide asks decide.Keyfile, and gathers what it wants to know, until it answers.
func (o *observation) decide(ctx context.Context) decide.Decision {
	for {
		d := decide.Keyfile(o.evidence)
		if d.Action != decide.Ask {
			return d
		}
		switch d.Question {
		case decide.AskHistory:
			o.askHistory()
		case decide.AskLocal:
			o.askLocal()
		case decide.AskRows:
			o.askRows(ctx)
		case decide.AskEscrows:
			o.awaitEscrows(ctx)
		}
	}
}

func (o *observation) askHistory() {
	r, err := o.host.Ledger.Read()
	if err != nil {
		o.complain("what was proven and saved is not known", err)
	}
	if o.record == nil {
		o.entries = len(r.Entries)
	}
	o.record = &r
	h := decide.LedgerWhole{Asked: true, Contradicted: r.Contradicted(), Proven: r.EverProven(), Named: r.Named(), Unused: r.Unused(),
		Saved: map[string]decide.SavedEvidence{}}
	if err != nil {
		h.Unreadable = err.Error()
	} else if b, broken := r.Broken(); broken { // what stood there may have named any key, whatever was written behind it
		h.Unreadable = b.Why
	}
	if other, elsewhere := r.OtherMachine(o.host.Machine); elsewhere {
		h.Elsewhere = cmp.Or(other.Host, "another host")
	}
	for _, e := range r.Entries {
		if e.Escrow != "" {
			h.Saved[e.Escrow] = savedSince(h.Saved[e.Escrow], e)
		}
	}
	for _, e := range r.Entries[min(o.entries, len(r.Entries)):] {
		switch _, underway := h.Saved[e.Escrow].Underway[e.Fingerprint]; {
		case e.Event == ledger.Saved && e.Shelf == string(escrow.Current):
			h.Since = append(h.Since, e.Fingerprint)
		case e.Event == ledger.Saving && underway:
			h.Saved[e.Escrow].Underway[e.Fingerprint] = o.evidence.Now // it was begun after that, whatever a clock that was set says
		}
	}
	o.evidence.History = h
}

// savedSince is what an entry adds to what was saved in its escrow before.
func savedSince(s decide.SavedEvidence, e ledger.Entry) decide.SavedEvidence {
	if s.Copies == nil {
		s.Copies, s.Opened = map[string]key.Fingerprint{}, map[string]bool{}
		s.Begun, s.Underway = map[key.Fingerprint]bool{}, map[key.Fingerprint]time.Time{}
	}
	current := escrow.Shelf(e.Shelf) == escrow.Current
	for _, top := range e.Tops {
		if s.Tops == nil {
			s.Tops, s.LastTops = map[string]key.Fingerprint{}, map[int]string{}
		}
		s.Tops[top] = e.Fingerprint
		s.LastTops[escrow.NumberOf(top)] = top
	}
	switch e.Event {
	case ledger.Saving:
		s.Begun[e.Fingerprint], s.Underway[e.Fingerprint] = true, e.Time
	case ledger.Saved, ledger.Adopted:
		s.Copies[e.Copy] = e.Fingerprint
		if current {
			delete(s.Underway, e.Fingerprint)
			read := s.Last.ID == e.Copy && e.Tops == nil // again, and nothing was saved
			s.Last = decide.SavedCopy{ID: e.Copy, Key: e.Fingerprint, Verified: e.Reason == ""}
			switch {
			case lacksParts(e):
				s.Begun[e.Fingerprint] = true
			case !read:
				clear(s.Begun)
			}
		}
	case ledger.Drilled:
		// A drill that could not look takes nothing back.
		if v := DrillVerdict(e.Verdict); v != DrillInconclusive {
			s.Opened[e.Copy] = v == DrillPassed
		}
	}
	return s
}

// history reads the whole ledger, once.
func (o *observation) history() *ledger.Record {
	if o.record == nil {
		o.askHistory()
	}
	return o.record
}

// broken is where the ledger's chain is broken, nil where it is whole or a person has
// accepted that.
func (o *observation) broken() *ledger.Break {
	if last, broken := o.history().Broken(); broken {
		return &last
	}
	return nil
}

func (o *observation) askLocal() {
	o.evidence.Local.Asked = true
	kept, err := o.host.Keyfile.Kept()
	if err != nil {
		o.complain("cannot read the local quarantine", err)
		o.evidence.Local.Unreadable, o.evidence.Local.Err = err.Error(), err
	}
	o.kept = kept
	for _, k := range kept {
		if f := o.hold(k.Key); f != "" {
			o.evidence.Local.Keys = append(o.evidence.Local.Keys, f)
		}
	}
}

// askRows tries every key at hand that was not tried yet. Where the daemon could make a key, and
// they take longer than lateAfter, it asks once more: whoever is late is told of first.
func (o *observation) askRows(ctx context.Context) {
	if o.late == nil {
		o.tryRows(ctx)
		return
	}
	limited, cancel := context.WithTimeout(ctx, lateAfter)
	defer cancel()
	o.tryRows(limited)
	if limited.Err() == nil || ctx.Err() != nil || o.evidence.Rows.State != decide.RowsUnknown {
		return
	}
	o.isLate()
	if o.table != nil { // a question that was called off has ended its session
		o.table.Close()
		o.table = nil
	}
	o.tryRows(ctx)
}

// isLate tells, once, that somebody takes longer than lateAfter.
func (o *observation) isLate() {
	if o.late != nil {
		o.late()
		o.late = nil
	}
}

func (o *observation) tryRows(ctx context.Context) {
	e := &o.evidence.Rows
	if o.table == nil {
		t, err := o.host.OpenRows(ctx, rows.Options{HoldRotationLock: o.rotating()})
		if err != nil {
			*e = decide.RowsEvidence{State: decide.RowsUnknown, Why: err.Error(), Err: err}
			return
		}
		o.table = t
	}
	var untried []key.Key
	for f, k := range o.keys {
		if _, ok := e.Proofs[f]; !ok {
			untried = append(untried, k)
		}
	}
	o.answer = o.table.Prove(ctx, untried...)
	if o.takeIn(rowsEvidence(o.answer)); e.State == decide.RowsAnswer && o.refuted() {
		o.reportStart(StartRefuted) // law 1 stands above law 9, and what is asked next may hang
	}
}

// takeIn adds what the rows said to what they said before, which only holds where both were answers.
func (o *observation) takeIn(said decide.RowsEvidence) {
	e := &o.evidence.Rows
	if said.State != decide.RowsAnswer {
		*e = said
		return
	}
	e.State, e.Why, e.Dependent = said.State, said.Why, said.Dependent
	if e.Proofs == nil {
		e.Proofs = map[key.Fingerprint]rows.Proof{}
	}
	maps.Copy(e.Proofs, said.Proofs)
}

// rowsNow is what the rows say of a key in a session of its own, and where they are now: there may be a
// database where none was. It may be called while others do, and not in turn.
func (o *observation) rowsNow(ctx context.Context, f key.Fingerprint) decide.RowsEvidence {
	var rotating bool
	o.inTurn(func() { rotating = o.rotating() }) // the save to another escrow may take in what the rows said
	t, err := o.host.OpenRows(ctx, rows.Options{HoldRotationLock: rotating})
	if err != nil {
		return decide.RowsEvidence{State: decide.RowsUnknown, Why: err.Error(), Err: err}
	}
	defer t.Close()
	return rowsEvidence(t.Prove(ctx, o.keys[f]))
}

// reportStart reports what would come of a start on the keyfile as it stands now.
func (o *observation) reportStart(s Start) {
	if o.report != nil {
		o.report(s)
	}
}

// wrongStart is what would come of a start that is not right.
func (o *observation) wrongStart() Start {
	if o.refuted() {
		return StartRefuted
	}
	return StartUnsure
}

// refuted tells whether the rows have just refuted the key that the daemon would read.
func (o *observation) refuted() bool { return refutedKey(o.evidence) != "" }

// refutedKey is the key that the daemon would read, where the rows have just refuted it, else "".
func refutedKey(e decide.Evidence) key.Fingerprint {
	if e.Keyfile.Good && e.Rows.State == decide.RowsAnswer && e.Rows.VerdictOf(e.Keyfile.Key) == rows.Refuted {
		return e.Keyfile.Key
	}
	return ""
}

// rowsEvidence is an answer of the rows as evidence.
func rowsEvidence(a rows.Answer) decide.RowsEvidence {
	switch a.State {
	case rows.Unknown:
		return decide.RowsEvidence{State: decide.RowsUnknown, Why: a.Why, Err: a.Err}
	case rows.Silent:
		return decide.RowsEvidence{State: decide.RowsSilent, Why: a.Why, Never: a.Never}
	}
	e := decide.RowsEvidence{State: decide.RowsAnswer, Why: a.Why, Dependent: a.Counts.Dependent(), Proofs: map[key.Fingerprint]rows.Proof{}}
	for _, p := range a.Proofs {
		e.Proofs[p.Fingerprint] = p
	}
	return e
}

// rotating tells whether the rows may be in the middle of a rotation's transaction,
// whose advisory lock then must be free.
func (o *observation) rotating() bool { return o.evidence.OpenRotation() != nil }

// awaitEscrows starts all escrows, the first time, and returns with the next news
// from any of them. When ctx ends, those that have not answered will not.
func (o *observation) awaitEscrows(ctx context.Context) {
	if o.stop == nil {
		fetch, stop := context.WithCancel(ctx)
		o.stop, o.inbox, o.lateAt = stop, newInbox(len(o.host.Escrows)), time.NewTimer(lateAfter)
		for i := range o.host.Escrows {
			o.fetching.Go(func() error {
				err := crew.Do(func() error { o.askEscrow(fetch, i); return nil })
				if err != nil {
					s := o.host.Escrows[i]
					failed := decide.EscrowEvidence{Name: s.Name(), Required: s.Required, State: decide.EscrowFailed, Why: err.Error(), Err: err}
					o.inbox.put(i, failed, key.Key{})
				}
				return nil
			})
		}
	}
	o.inbox.showInterest()
	select {
	case <-o.lateAt.C:
		o.isLate()
	case <-o.inbox.arrived:
		told, keys := o.inbox.take()
		for i, e := range told {
			o.evidence.Escrows[i] = e
		}
		for _, k := range keys {
			o.hold(k)
		}
	case <-ctx.Done():
		for i := range o.evidence.Escrows {
			if s := &o.evidence.Escrows[i]; s.State == decide.EscrowPending {
				s.State, s.Why, s.Err = decide.EscrowFailed, "no answer within the time that was left", escrow.ErrTimeout
			}
		}
	}
}

// awaitAllEscrows returns when every escrow has answered, or cannot.
func (o *observation) awaitAllEscrows(ctx context.Context) {
	for o.evidence.Pending() {
		o.awaitEscrows(ctx)
	}
}
