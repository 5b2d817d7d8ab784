package agent

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// SaveResult is what became of one key in one escrow.
type SaveResult struct {
	Escrow     string
	Required   bool
	Key        key.Fingerprint
	Shelf      escrow.Shelf
	decide.Bar // why it went to quarantine and not to current (law 4)
	Copy       escrow.Copy
	// Unverified: it was stored, and this identity may not read it back. AddOnly: as the
	// configuration has it.
	Unverified, AddOnly bool
	// Sealed: no identity of this host opens it, so that nobody here can tell what it is.
	Sealed bool
	// Why it may be no current copy for now (law 4). Alarm: another host writes to the same place,
	// until a person does something about that. Halfway: a rotation is open, until the rows close it.
	Alarm, Halfway bool
	Err            error
}

// shelfRule says on which shelf of an escrow a key may be saved, and why not on the current one
// (law 4): decide.Shelf, or decide.DueShelf for a key that may not be the keyfile's.
type shelfRule func(e decide.Evidence, i int, f key.Fingerprint) (escrow.Shelf, decide.Bar)

// save brings a key to one escrow, unless the copy stands there, and records it. Several escrows
// may be saved to at once: what is known of all, and the ledger, are one's alone at a time. A store
// takes its time for what it is asked; a rotation may have begun meanwhile, or begun and ended, and put
// its own key there. Then nothing is saved, and the error is ErrOvertaken. It may take as long for
// the save itself: whoever is done with his saves asks once more (stillStands).
func (o *observation) save(ctx context.Context, i int, f key.Fingerprint, rule shelfRule) (r SaveResult) {
	o.inTurn(func() { r = o.toSave(i, f, rule) })
	if !o.noteThere(ctx, i, &r) {
		again := false
		o.inTurn(func() {
			again = o.writeSaving(i, r.Shelf, f)
			r = o.toSave(i, f, rule)
		})
		if again {
			said := o.rowsNow(ctx, f)
			o.inTurn(func() {
				o.takeIn(said)
				o.askHistory()
				r = o.toSave(i, f, rule)
			})
		}
		if r.Err = o.stillStands(); r.Err != nil {
			return r
		}
		// A crash from here on: what then stands there is known for this host's own.
		o.add(ctx, i, &r)
	}
	o.inTurn(func() { o.writeSaved(r) })
	return r
}

func (o *observation) inTurn(do func()) {
	o.saving.Lock()
	defer o.saving.Unlock() // after a panic, too: the others would wait for ever
	do()
}

// toSave is where a key is to go in one escrow, and why.
func (o *observation) toSave(i int, f key.Fingerprint, rule shelfRule) SaveResult {
	o.history()
	if errors.Is(decide.Alarm(o.evidence, i), decide.ErrForeignCopy) {
		o.askHistory() // another process may have saved what was listed, since this was read
	}
	s := o.host.Escrows[i]
	r := SaveResult{Escrow: s.Name(), Required: s.Required, Key: f}
	r.Shelf, r.Bar = rule(o.evidence, i, f)
	r.Alarm, r.Halfway = errors.Is(decide.Alarm(o.evidence, i), decide.ErrForeignCopy), o.evidence.OpenRotation() != nil
	return r
}

// writeSaving records that a key is about to be put on a current shelf: what stands there
// after a crash is then known for this host's own. It is no news where the key stands there
// already, or a save of it was begun before. Where the ledger cannot be written, law 4 judges the
// key anew by that. Where the rows are Silent the line of a save keeps other keys from the current
// shelf, but not for long (SavedEvidence.ToldUnderway): where the last one is too old a new one is
// written. Then (again) the rows are to be asked and the ledger is to be read once more: rows may have
// come while an escrow took its time; and of two savers that bring different keys at once, in one
// process or in two, at least one then sees the other's line, and judges by it.
func (o *observation) writeSaving(i int, shelf escrow.Shelf, f key.Fingerprint) (again bool) {
	name := o.host.Escrows[i].Name()
	newest, there := o.evidence.Escrows[i].NewestCurrent()
	mend := newest.Ends || newest.Lacks
	if shelf != escrow.Current || there && o.evidence.Holds(i, newest, f) && !mend {
		return false
	}
	silent := o.evidence.Rows.VerdictOf(f) == rows.Silent
	if saved := o.evidence.History.Saved[name]; !saved.Begun[f] || silent && !saved.ToldUnderway(f, o.host.Now()) {
		if err := o.host.Append(ledger.Entry{Event: ledger.Saving, Fingerprint: f, Escrow: name, Shelf: string(shelf)}); err != nil {
			o.complain("cannot write the ledger", err)
			saved.Untold = err.Error()
			o.evidence.History.Saved[name] = saved
			return false
		}
	}
	return silent
}

// keepApart saves a key on the quarantine shelf of every escrow but the unheard, of which is known
// why: no row is to be under it alone, or taken from it, before it is safe off this host.
func (o *observation) keepApart(ctx context.Context, f key.Fingerprint, why string, unheard map[int]error) []SaveResult {
	o.history()
	saves := make([]SaveResult, len(o.host.Escrows))
	eachEscrow(o.host, func(i int, s Escrow) {
		saves[i] = SaveResult{Escrow: s.Name(), Required: s.Required, Key: f, Shelf: escrow.Quarantine, Bar: decide.Bar{Why: why}, Err: unheard[i]}
		if unheard[i] == nil && !o.noteThere(ctx, i, &saves[i]) {
			o.add(ctx, i, &saves[i]) // nothing on a current shelf is begun by that
		}
	})
	for _, s := range saves {
		o.writeSaved(s)
	}
	return saves
}

// noteThere notes in the result the copy that it is to be of, where that is there as far as anybody can
// say, and tells whether it is. A Save, which could not compare, would add another each time.
func (o *observation) noteThere(ctx context.Context, i int, r *SaveResult) bool {
	s := o.host.Escrows[i]
	var c escrow.Copy
	var there, unread bool
	o.inTurn(func() { // the save to another escrow may read the ledger anew
		if s.AddOnly {
			c, there = o.added(*r)
		}
		if !there && r.Shelf == escrow.Current {
			c, unread = o.unread(r.Escrow, r.Key)
		}
	})
	if unread {
		k, _, err := s.Fetch(ctx, c)
		k.Wipe()
		there = errors.Is(err, escrow.ErrDenied) // still
	}
	if there {
		r.Copy, r.Unverified, r.AddOnly = c, true, s.AddOnly
	}
	return there
}

// add has the escrow save the result's key on the result's shelf, and notes in it what came of
// that. It reads the evidence and writes nothing but the copy, so that it may run for several
// escrows at once.
func (o *observation) add(ctx context.Context, i int, r *SaveResult) {
	r.AddOnly = o.host.Escrows[i].AddOnly
	if r.Shelf == decide.NotYet {
		r.Bar, r.Err = decide.Bar{}, cmp.Or(o.evidence.Escrows[i].Err, escrow.ErrTimeout)
		return
	}
	r.Copy, r.Err = o.host.Escrows[i].Writer.Save(ctx, r.Shelf, o.keys[r.Key])
	if m, ok := o.host.Escrows[i].Reader.(Rememberer); ok {
		m.Changed()
	}
	if errors.Is(r.Err, escrow.ErrUnverified) {
		r.Unverified, r.Err = true, nil
	}
	if r.Err == nil && !r.Unverified && o.host.Escrows[i].Sealed {
		k, _, err := o.host.Escrows[i].Fetch(ctx, r.Copy)
		r.Sealed = errors.Is(err, escrow.ErrSealed)
		k.Wipe()
	}
}

// unread is the copy of a key that was the last to be saved as current in an escrow and could not
// be read back.
func (o *observation) unread(name string, f key.Fingerprint) (escrow.Copy, bool) {
	last, ok := o.history().LastSaved(name)
	if !ok || last.Fingerprint != f || last.Reason != escrow.ErrUnverified.Error() {
		return escrow.Copy{}, false
	}
	return escrow.Copy{Escrow: last.Escrow, ID: last.Copy, Shelf: escrow.Current, Fingerprint: last.Fingerprint, Created: last.Time}, true
}

// added is the copy that the result is to be of, where the ledger says that it was stored: on
// the current shelf as the last one.
func (o *observation) added(r SaveResult) (escrow.Copy, bool) {
	for _, e := range slices.Backward(o.history().Entries) {
		if e.Event != ledger.Saved || e.Escrow != r.Escrow || e.Shelf != string(r.Shelf) {
			continue
		}
		if e.Fingerprint == r.Key {
			return escrow.Copy{Escrow: e.Escrow, ID: e.Copy, Shelf: r.Shelf, Fingerprint: e.Fingerprint, Created: e.Time}, true
		}
		if r.Shelf == escrow.Current {
			break
		}
	}
	return escrow.Copy{}, false
}

// writeSaved records a copy that the ledger does not name yet. On the current shelf that
// is one that is not the last it names: a copy is the newest again where a newer one
// was taken away. One that lacks a part is this host's too (law 4), and stays due. So are
// the parts of a save that was not on enough stores: they may stand there on top.
func (o *observation) writeSaved(s SaveResult) {
	partly := errors.Is(s.Err, escrow.ErrPartly)
	var few *escrow.PartsError
	switch {
	case s.Err != nil && s.Shelf != escrow.Current:
		return
	case errors.As(s.Err, &few) && !partly:
		if !o.namesTops(s.Escrow, s.Key, few.Stored) {
			o.write(ledger.Entry{Event: ledger.Saving, Fingerprint: s.Key, Escrow: s.Escrow, Shelf: string(s.Shelf), Tops: topNames(few.Stored)})
		}
		return
	case s.Err != nil && !partly:
		return
	}
	var tops []escrow.Top // of the quarantine they tell nothing
	if s.Shelf == escrow.Current {
		tops = s.Copy.Tops
	}
	if last, ok := o.record.LastSaved(s.Escrow); o.evidence.History.Saved[s.Escrow].Copies[s.Copy.ID] == s.Key && o.namesTops(s.Escrow, s.Key, tops) &&
		(s.Shelf != escrow.Current || ok && last.Copy == s.Copy.ID && (last.Reason == "" || s.Unverified || partly)) {
		return
	}
	e := ledger.Entry{Event: ledger.Saved, Fingerprint: s.Key, Escrow: s.Escrow, Copy: s.Copy.ID, Shelf: string(s.Shelf), Tops: topNames(tops)}
	switch {
	case partly:
		e.Reason = escrow.ErrPartly.Error()
	case s.Unverified:
		e.Reason = escrow.ErrUnverified.Error()
	}
	o.write(e)
}

// namesTops tells whether the ledger names all of these tops as ones of a key.
func (o *observation) namesTops(name string, f key.Fingerprint, tops []escrow.Top) bool {
	saved := o.evidence.History.Saved[name]
	return !slices.ContainsFunc(tops, func(top escrow.Top) bool { return !saved.IsTop(top, f) })
}

func topNames(tops []escrow.Top) (list []string) {
	for _, t := range tops {
		list = append(list, t.String())
	}
	return list
}

// lacksParts tells that a copy was saved in parts of which some lack.
func lacksParts(e ledger.Entry) bool { return e.Reason == escrow.ErrPartly.Error() }
