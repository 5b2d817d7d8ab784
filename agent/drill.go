package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// ErrNotDrilled says that no copy is tried: the newest may be of another key than the rows.
var ErrNotDrilled = errors.New("no copy is tried, since the newest may be of another key than the rows")

// DrillVerdict is what a drill says of a copy, and as a whole.
type DrillVerdict string

const (
	DrillPassed       DrillVerdict = "passed"       // restored, it opens the rows
	DrillFailed       DrillVerdict = "failed"       // it does not, or cannot be restored any more
	DrillInconclusive DrillVerdict = "inconclusive" // could not look (law 6)
)

// DrillOptions say what to try and where.
type DrillOptions struct {
	Copies int // the newest of each escrow and shelf; 0 is all
	// Full tries every row, however many there are, and names those that no key opens.
	Full bool
	// Scratch is the directory, on a tmpfs, where the copies are restored. It is made.
	Scratch string
	Person  string // who asked, for the ledger
	// Progress is called now and then, never by two goroutines at once. nil: nobody waits.
	Progress func(DrillProgress)
}

// DrillProgress is how far a drill is.
type DrillProgress struct {
	Done, Found int  // copies restored, or given up, of those found so far
	Proving     bool // the rows are being asked
}

// DrillResult is what a drill came to.
type DrillResult struct {
	ID      string // the same in all its entries of the ledger
	Verdict DrillVerdict
	Reason  string // a sentence
	Err     error  // why it could not look, where that has one reason
	Took    time.Duration
	Full    bool
	Rows    decide.RowsEvidence
	// Unopened are the rows that no key at hand opens: of the copies, the keyfile or the
	// local quarantine. Only a full drill knows.
	Unopened rows.Unopened
	Copies   []DrilledCopy // by escrow in the order of the configuration, current first, newest first
	Trouble  []Trouble
}

// DrilledCopy is one copy that was tried; or, where Copy.ID is "", an escrow that could
// not say which copies it holds, or holds no current one.
type DrilledCopy struct {
	escrow.Copy
	Required bool
	// Judged: it is its escrow's newest current copy, which the drill's verdict depends on.
	// The others are only reported: one that opens no row of today may open an old dump.
	Judged   bool
	Verdict  DrillVerdict
	Reason   string
	Err      error           // why it could not be restored or tried
	Key      key.Fingerprint // of its bytes, or what the store says where they cannot be read
	Encoding key.Encoding    // how the bytes are written, "" where they could not be read
	Proof    rows.Proof
	Parts    []escrow.PartOutcome // of a key in parts, what became of each
	Took     time.Duration        // until it was read back

	key key.Key // as the daemon would read it
}

// Proven tells whether the newest current copy of at least one escrow opened the rows.
func (r DrillResult) Proven() bool {
	for _, c := range r.Copies {
		if c.Judged && c.Verdict == DrillPassed {
			return true
		}
	}
	return false
}

// drillStatement bounds one statement of a drill: nobody waits for it as for a start.
const drillStatement = 10 * time.Second

// longestGap is how long there may be no drill before that is told of: the timer's week, and a
// day for its random delay and a host that was off.
const longestGap = 8 * 24 * time.Hour

// Drill restores the copies of every escrow into scratch, reads each the way the daemon
// reads its key, and tries them on the rows; the ledger is told what came out. Copies
// that fail are in the result, not in the error. It returns ErrNoEscrow; ErrBusy
// where another drill, a rotation or a repair is under way, or began meanwhile; and ErrNotDrilled
// where a rotation stopped halfway. Where one began and ended meanwhile it drills again. It does
// not know when a drill is due: the timer does. Report tells of a host where none came for
// longestGap, and Status of a part of a key that none has tried for as long.
func Drill(ctx context.Context, h *Host, opts DrillOptions) (DrillResult, error) {
	return whileChanging(func() (DrillResult, error) { return drillAll(ctx, h, opts) })
}

func drillAll(ctx context.Context, h *Host, opts DrillOptions) (DrillResult, error) {
	if len(h.Escrows) == 0 {
		return DrillResult{}, ErrNoEscrow
	}
	held, err := lock.Try(h.StateDir, lock.Drill)
	if err != nil {
		return DrillResult{}, busy(err)
	}
	defer held.Release()
	if err := h.noneRewriting(); err != nil {
		return DrillResult{}, err
	}
	o, err := h.observe()
	if err != nil {
		return DrillResult{}, err
	}
	defer o.close()
	o.askLocal()
	o.history()

	began := h.Now()
	r := DrillResult{ID: began.UTC().Format("20060102T150405.000Z"), Full: opts.Full}
	start := time.Now()
	if err := scratchReady(opts.Scratch); err != nil {
		r.Verdict, r.Reason, r.Err = DrillInconclusive, "no copy can be restored: "+err.Error(), err
	} else {
		d := &drill{o: o, opts: opts}
		defer d.wipe()
		r.Copies = d.restoreAll(ctx)
		d.askRows(ctx, &r)
		d.judgeAll(&r)
		if errors.Is(ctx.Err(), context.Canceled) {
			r.Verdict, r.Reason, r.Err = DrillInconclusive, "the drill was called off", ctx.Err()
		} else {
			r.sumUp()
		}
	}
	r.Took = time.Since(start)
	// The rows may have been under one key and the newest copies of another.
	if err := h.noneRewriting(); err != nil {
		return DrillResult{}, err
	}
	if err := o.writeWord(r.entries(opts.Person)...); err != nil {
		return DrillResult{}, err
	}
	r.Trouble = o.trouble
	return r, nil
}

// noneRewriting returns ErrBusy while a rotation or a repair is under way, and ErrNotDrilled
// where one stopped halfway: no other process is there to wait for.
func (h *Host) noneRewriting() error {
	held, err := lock.Held(h.StateDir, lock.Rotate)
	switch {
	case err != nil:
		return err
	case held:
		return fmt.Errorf("%w: a rotation or a repair is under way, and the newest copies may be of another key than the rows", ErrBusy)
	}
	if standing, err := h.Ledger.Standing(); err != nil || standing.Rotation == nil {
		return nil // a ledger that cannot be read keeps nobody from trying copies
	}
	o, err := h.observe()
	if err != nil {
		return err
	}
	defer o.close()
	if halfway := o.halfway(); halfway != nil {
		return fmt.Errorf("%w: %w", ErrNotDrilled, halfway)
	}
	return nil
}

// scratchReady makes the directory and tries it, with what is no key.
func scratchReady(dir string) error {
	err := crew.Try(filepath.Dir(dir), func() error { return os.MkdirAll(dir, 0o700) })
	if err != nil {
		return fmt.Errorf("cannot make the scratch directory: %w", err)
	}
	nothing := key.Generate()
	defer nothing.Wipe()
	read, err := keyfile.RestoreInto(dir, nothing)
	read.Wipe()
	return err
}

// drill is one drill under way.
type drill struct {
	o      *observation
	opts   DrillOptions
	copies [][]DrilledCopy // by escrow

	lock     sync.Mutex // guards what follows
	progress DrillProgress
}

func (d *drill) wipe() {
	for _, list := range d.copies {
		for _, c := range list {
			c.key.Wipe()
		}
	}
}

func (d *drill) tell(change func(*DrillProgress)) {
	d.lock.Lock()
	defer d.lock.Unlock()
	change(&d.progress)
	if d.opts.Progress != nil {
		d.opts.Progress(d.progress)
	}
}

// restoreAll restores the copies of all escrows at once. It is given Readers and so
// cannot write.
func (d *drill) restoreAll(ctx context.Context) []DrilledCopy {
	h := d.o.host
	d.copies = make([][]DrilledCopy, len(h.Escrows))
	eachEscrow(h, func(i int, s Escrow) { d.copies[i] = d.restoreEscrow(ctx, s.Reader) })
	var all []DrilledCopy
	for i, s := range h.Escrows {
		e := &d.o.evidence.Escrows[i]
		e.Displaced = displaced(s)
		for n := range d.copies[i] {
			c := &d.copies[i][n]
			c.Escrow, c.Required = s.Name(), s.Required
			if c.ID != "" {
				seen := listedEvidence(s.Reader, []escrow.Copy{c.Copy})[0]
				if !c.key.IsZero() || c.Err != nil {
					_ = noteFetched(&seen, fetched{key: c.key, encoding: c.Encoding, err: c.Err}) // the store's own trouble is in the copy
				}
				e.Copies = append(e.Copies, seen)
			}
		}
		all = append(all, d.copies[i]...)
	}
	return all
}

// restoreEscrow lists one escrow and restores its copies. Where the store itself fails, the
// copies that are left are not asked for (law 9).
func (d *drill) restoreEscrow(ctx context.Context, s escrow.Reader) []DrilledCopy {
	start := time.Now()
	list, err := s.List(ctx)
	if err != nil {
		return []DrilledCopy{{Judged: true, Verdict: DrillInconclusive, Reason: err.Error(), Err: err, Took: time.Since(start)}}
	}
	var copies []DrilledCopy
	seen := map[escrow.Shelf]int{}
	judged := false
	for _, c := range list {
		n := seen[c.Shelf]
		if seen[c.Shelf]++; d.opts.Copies > 0 && n >= d.opts.Copies {
			continue
		}
		newest := c.Shelf == escrow.Current && !c.Beside && !judged
		judged = judged || newest
		copies = append(copies, DrilledCopy{Copy: c, Key: c.Fingerprint, Judged: newest})
	}
	d.tell(func(p *DrillProgress) { p.Found += len(copies) })
	if !judged {
		copies = append([]DrilledCopy{{Copy: escrow.Copy{Shelf: escrow.Current}, Judged: true}}, copies...)
	}
	var asked []*DrilledCopy
	var ask []escrow.Copy
	for n := range copies {
		c := &copies[n]
		switch {
		case c.ID == "":
			continue
		case c.Sealed:
			c.inconclusive(&escrow.SealedError{Fingerprint: c.Fingerprint})
		case c.Unreadable != "":
			c.fail(c.Unreadable, escrow.ErrUnreadable)
		default:
			asked, ask = append(asked, c), append(ask, c.Copy)
			continue
		}
		d.tell(func(p *DrillProgress) { p.Done++ })
	}
	down := fetchEach(ctx, s, ask, fetchOptions{fetch: func(ctx context.Context, n int) (key.Key, key.Encoding, error) { return asked[n].fetch(ctx, s) }}, func(f fetched) error {
		defer d.tell(func(p *DrillProgress) { p.Done++ })
		return asked[f.n].intoScratch(f, d.opts.Scratch)
	})
	for n := range copies {
		if c := &copies[n]; down != nil && c.ID != "" && (c.Verdict == "" && c.key.IsZero() || errors.Is(c.Err, context.Canceled)) {
			c.inconclusive(fmt.Errorf("not asked for, since the escrow fails: %w", down))
		}
	}
	return copies
}

// intoScratch writes a copy that was fetched to scratch and reads it back. It returns an error
// where there is no sense in asking the store for others.
func (c *DrilledCopy) intoScratch(f fetched, scratch string) error {
	start := time.Now()
	defer func() { c.Took = f.took + time.Since(start) }()
	defer f.key.Wipe()
	err := f.err
	var sealed *escrow.SealedError
	switch {
	case err == nil:
	case errors.As(err, &sealed):
		if sealed.Fingerprint != "" {
			c.Key = sealed.Fingerprint
		}
		c.inconclusive(err)
		return nil
	case errors.Is(err, escrow.ErrGone), errors.Is(err, escrow.ErrSealed):
		c.inconclusive(err)
		return nil
	case errors.Is(err, escrow.ErrNotKey), errors.Is(err, escrow.ErrCorrupt), errors.Is(err, escrow.ErrUnreadable):
		c.fail(err.Error(), err)
		return nil
	default:
		c.inconclusive(err)
		return err
	}
	c.Key, c.Encoding = f.key.Fingerprint(), f.encoding
	if c.key, err = keyfile.RestoreInto(scratch, f.key); err != nil {
		c.inconclusive(err)
	}
	return nil
}

// fetch reads the copy. Of the newest in parts it reads them all: each takes part.
func (c *DrilledCopy) fetch(ctx context.Context, s escrow.Reader) (key.Key, key.Encoding, error) {
	shared, ok := s.(escrow.Shared)
	if !ok || !c.Judged {
		return s.Fetch(ctx, c.Copy)
	}
	k, parts, err := shared.Rebuild(ctx, c.Copy)
	if err == nil && parts == nil {
		k.Wipe()
		return s.Fetch(ctx, c.Copy)
	}
	c.Parts = parts
	return k, key.Raw, err
}

// judgeParts makes a copy fail of which a part is wrong, whatever the others open. One store
// that does not answer, or has lost its part, fails nothing as long as they open the rows: the
// part is told of as untried.
func (c *DrilledCopy) judgeParts() {
	if c.Verdict == DrillFailed {
		return
	}
	for _, p := range c.Parts {
		if p.Wrong() {
			c.fail(fmt.Sprintf("%s; but part %d, in %s, is of no use: %v", c.Reason, p.Number, p.Member, p.Err), p.Err)
			return
		}
	}
	if c.Verdict != DrillPassed { // it says what the stores said
		return
	}
	for _, p := range c.Untried() {
		c.Reason += "; " + untriedText(p)
	}
}

// Untried are the parts of which nobody can say whether they are right.
func (c DrilledCopy) Untried() (list []escrow.PartOutcome) {
	for _, p := range c.Parts {
		if p.Err != nil && !p.Wrong() {
			list = append(list, p)
		}
	}
	return list
}

func untriedText(p escrow.PartOutcome) string {
	return fmt.Sprintf("part %d, in %s, was not tried", p.Number, p.Member)
}

func (c *DrilledCopy) fail(reason string, err error) {
	c.Verdict, c.Reason, c.Err = DrillFailed, reason, err
}

func (c *DrilledCopy) inconclusive(err error) {
	c.Verdict, c.Reason, c.Err = DrillInconclusive, err.Error(), err
}

// askRows tries all keys on one sample, or on every row. The keyfile's is among them,
// and in a full drill those of the local quarantine: what any of them opens was not
// tampered with.
func (d *drill) askRows(ctx context.Context, r *DrillResult) {
	d.tell(func(p *DrillProgress) { p.Proving = true })
	own := d.o.evidence.Keyfile.Key
	var keys []key.Key
	tried := map[key.Fingerprint]bool{}
	add := func(k key.Key) {
		if f := k.Fingerprint(); f != "" && !tried[f] {
			tried[f] = true
			keys = append(keys, k)
		}
	}
	for _, list := range d.copies {
		for _, c := range list {
			add(c.key)
		}
	}
	for f, k := range d.o.keys {
		if f == own || d.opts.Full {
			add(k)
		}
	}
	o := rows.Options{Full: d.opts.Full, StatementTimeout: drillStatement, HoldRotationLock: d.o.rotating()}
	table, err := d.o.host.OpenRows(ctx, o)
	if err != nil {
		r.Rows = decide.RowsEvidence{State: decide.RowsUnknown, Why: err.Error(), Err: err}
		return
	}
	defer table.Close()
	a := table.Prove(ctx, keys...)
	r.Rows = rowsEvidence(a)
	r.Unopened = a.Unopened
}

// judgeAll gives every copy that was restored its verdict.
func (d *drill) judgeAll(r *DrillResult) {
	next := 0
	for i := range d.o.host.Escrows {
		for range d.copies[i] {
			c := &r.Copies[next]
			next++
			if !c.key.IsZero() {
				c.Proof = r.Rows.Proofs[c.Key]
			}
			r.judge(c, r.Rows.Proofs[d.o.evidence.Keyfile.Key])
			c.judgeParts()
			// What is wrong with it is not this host's to mend where it is another one's.
			own := d.o.evidence.Keyfile // without one that comes first, and nobody can vouch for it
			if newest, there := d.o.evidence.Escrows[i].NewestCurrent(); own.Good && there && c.Judged && c.ID == newest.ID && newest.Key != own.Key && c.Verdict != DrillPassed {
				if err := decide.Alarm(d.o.evidence, i); err != nil {
					c.fail(err.Error(), err)
				}
			}
		}
	}
}

// judge gives a copy its verdict by what it opened, unless it has one; own is what the
// keyfile's key opened.
func (r *DrillResult) judge(c *DrilledCopy, own rows.Proof) {
	p := c.Proof
	better := ""
	if own.Opened > p.Opened {
		better = fmt.Sprintf(", key %s in the keyfile %d", own.Fingerprint, own.Opened)
	}
	switch {
	case c.Verdict != "": // it could not be restored
	case r.Rows.State == decide.RowsUnknown:
		c.Verdict, c.Reason, c.Err = DrillInconclusive, "the rows cannot be asked: "+r.Rows.Why, r.Rows.Err
	case r.Rows.State == decide.RowsSilent:
		c.Verdict, c.Reason = DrillInconclusive, "no row can prove it: "+r.Rows.Why
	case c.ID == "":
		c.Verdict, c.Reason = DrillFailed, "the escrow holds no current copy"
	case p.Verdict != rows.Opens && !c.Judged:
		c.Verdict, c.Reason = DrillInconclusive, fmt.Sprintf("key %s opens %d of %s; it may open an older dump", c.Key, p.Opened, printable.Count(p.Checked, "row"))
	case p.Opened == 0:
		c.Verdict, c.Reason = DrillFailed, fmt.Sprintf("key %s opens none of %s%s", c.Key, printable.Count(p.Checked, "row"), better)
	case c.Encoding != key.Raw:
		c.Verdict, c.Reason = DrillFailed, fmt.Sprintf("it holds a key as %s, not as its 32 bytes: keyguard restores it, the runbook's commands would not", c.Encoding)
	case p.Verdict == rows.Opens && p.Checked < r.Rows.Dependent:
		c.Verdict, c.Reason = DrillPassed, fmt.Sprintf("it opens all of the %s that were tried, of %d", printable.Count(p.Checked, "row"), r.Rows.Dependent)
	case p.Verdict == rows.Opens:
		c.Verdict, c.Reason = DrillPassed, "it opens "+printable.All(p.Checked, "row")
	case r.Full && p.Opened+r.Unopened.Count == p.Checked:
		c.Verdict, c.Reason = DrillPassed, fmt.Sprintf("it opens %d of %s, and no key at hand opens the others", p.Opened, printable.Count(p.Checked, "row"))
	default:
		c.Verdict, c.Reason = DrillFailed, fmt.Sprintf("key %s opens only %d of %s%s", c.Key, p.Opened, printable.Count(p.Checked, "row"), better)
	}
}

// Tampered tells of rows that no key opens while others do: "" for none. Where no row
// opens at all it is the keys that are wrong.
func (r DrillResult) Tampered() string {
	n := r.Unopened.Count
	switch {
	case n == 0 || n == r.Rows.Checked():
		return ""
	case r.Unopened.Stretch:
		return fmt.Sprintf("no key at hand opens %s, written in one stretch: under a key that no escrow holds, rather than tampered with", printable.Count(n, "row"))
	}
	return fmt.Sprintf("no key at hand opens %s among others that open: tampered with, or damaged", printable.Count(n, "row"))
}

// sumUp makes the verdict of those of the judged copies. An escrow that is not required
// may be away, as long as another one was proven.
func (r *DrillResult) sumUp() {
	var failed, unsure, away []string
	for _, c := range r.Copies {
		if !c.Judged {
			continue
		}
		text := fmt.Sprintf("escrow %q: %s", c.Escrow, c.Reason)
		switch {
		case c.Verdict == DrillFailed:
			failed = append(failed, text)
		case c.Verdict == DrillInconclusive && c.Required:
			unsure = append(unsure, text)
		case c.Verdict == DrillInconclusive:
			away = append(away, text)
		}
	}
	if t := r.Tampered(); t != "" {
		failed = append(failed, t)
	}
	if !r.Proven() {
		unsure = append(unsure, away...)
	}
	switch {
	case len(failed) > 0:
		r.Verdict, r.Reason = DrillFailed, strings.Join(failed, "; ")
	case r.Rows.State == decide.RowsUnknown:
		r.Verdict, r.Reason, r.Err = DrillInconclusive, "the rows cannot be asked: "+r.Rows.Why, r.Rows.Err
	case r.Rows.State == decide.RowsSilent:
		r.Verdict, r.Reason = DrillInconclusive, "no row can prove a key: "+r.Rows.Why
	case len(unsure) > 0:
		r.Verdict, r.Reason = DrillInconclusive, strings.Join(unsure, "; ")
	default:
		r.Verdict, r.Reason = DrillPassed, "the newest current copy of every escrow that answers opens the rows"
		for _, p := range r.Untried() {
			r.Reason += fmt.Sprintf("; %s: %v", untriedText(p), p.Err)
		}
	}
}

// Untried are, of keys in parts, those that the drill could not try: their stores did not
// answer, or have none, and the others were enough.
func (r DrillResult) Untried() (list []escrow.PartOutcome) {
	for _, c := range r.Copies {
		list = append(list, c.Untried()...)
	}
	return list
}

// entries are the drill's in the ledger: its evidence.
func (r DrillResult) entries(person string) []ledger.Entry {
	var list []ledger.Entry
	for _, c := range r.Copies {
		e := ledger.Entry{Event: ledger.Drilled, Drill: r.ID, Escrow: c.Escrow, Copy: c.ID, Shelf: string(c.Shelf),
			Verdict: string(c.Verdict), Reason: c.Reason, Checked: c.Proof.Checked, Opened: c.Proof.Opened,
			Total: r.Rows.Dependent, Took: c.Took, Judged: c.Judged, Full: r.Full}
		for _, p := range c.Untried() {
			e.Untried = append(e.Untried, p.Number)
		}
		if f, err := key.ParseFingerprint(string(c.Key)); err == nil { // a store may claim anything
			e.Fingerprint = f
		}
		list = append(list, e)
	}
	return append(list, ledger.Entry{Event: ledger.DrillEnded, Drill: r.ID, Verdict: string(r.Verdict), Reason: r.Reason,
		Checked: r.Rows.Checked(), Total: r.Rows.Dependent, Took: r.Took, Full: r.Full, Person: person})
}
