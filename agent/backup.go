package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// Errors of Backup.
var (
	// ErrNoEscrow says that the configuration names no place for copies.
	ErrNoEscrow = errors.New("no escrow is configured, so there is no backup")
	// ErrNoKeyfile says that there is no key of 32 bytes in the keyfile's place.
	ErrNoKeyfile = errors.New("there is no key to back up")
)

// BackupResult is what became of one key in every escrow.
type BackupResult struct {
	Key     key.Fingerprint
	Rows    RowsEvidence
	Escrows []SaveResult // in the order of the configuration
	Trouble []Trouble
}

// SaveResult is what became of one key in one escrow.
type SaveResult struct {
	Escrow   string
	Required bool
	Key      key.Fingerprint
	Shelf    escrow.Shelf
	Why      string // why it went to quarantine and not to current (law 4)
	Copy     escrow.Copy
	// Unverified: it was stored, and this identity may not read it back.
	Unverified bool
	// Alarm: another host writes to the same place (law 4).
	Alarm bool
	Err   error
}

// Backup escrows the present keyfile's key: on the current shelf where law 4 allows
// it, in quarantine otherwise. Escrows that fail are in the result, not in the error.
// It returns ErrNoKeyfile and ErrNoEscrow.
func Backup(ctx context.Context, h *Host) (BackupResult, error) {
	return backup(ctx, h, (*observation).escrowKey)
}

func backup(ctx context.Context, h *Host, how func(*observation, context.Context, key.Fingerprint) BackupResult) (BackupResult, error) {
	if len(h.Escrows) == 0 {
		return BackupResult{}, ErrNoEscrow
	}
	o, err := h.observe()
	if err != nil {
		return BackupResult{}, err
	}
	defer o.close()
	if !o.evidence.Keyfile.Good {
		return BackupResult{}, fmt.Errorf("%w: the keyfile is %s", ErrNoKeyfile, o.evidence.Keyfile.Why)
	}
	return how(o, ctx, o.evidence.Keyfile.Key), nil
}

// escrowKey proves a key at hand and saves it in every escrow.
func (o *observation) escrowKey(ctx context.Context, f key.Fingerprint) BackupResult {
	o.askRows(ctx)
	v := verdictOf(o.evidence.Rows, f)
	if v == rows.Opens {
		o.write(provenEntry(o.evidence.Rows.Proofs[f]))
	}
	o.awaitAllEscrows(ctx)
	return o.saveEverywhere(ctx, f, v)
}

// escrowRead is escrowKey for a key under which all rows have just been read: the ledger
// says so, and nobody has to ask them once more.
func (o *observation) escrowRead(ctx context.Context, f key.Fingerprint) BackupResult {
	if l := o.evidence.Ledger; f != l.Known || l.Accepted {
		return o.escrowKey(ctx, f)
	}
	eachEscrow(o.host, func(i int, _ Escrow) { o.fetchNewest(ctx, i) })
	return o.saveEverywhere(ctx, f, rows.Unknown)
}

func (o *observation) saveEverywhere(ctx context.Context, f key.Fingerprint, v rows.Verdict) BackupResult {
	r := BackupResult{Key: f, Rows: o.evidence.Rows, Escrows: make([]SaveResult, len(o.host.Escrows))}
	o.history()
	eachEscrow(o.host, func(i int, _ Escrow) { r.Escrows[i] = o.store(ctx, i, o.keys[f], v) })
	for _, s := range r.Escrows {
		o.writeSaved(s)
	}
	r.Trouble = o.trouble
	return r
}

// save stores a key in one escrow and records it.
func (o *observation) save(ctx context.Context, i int, k key.Key, v rows.Verdict) SaveResult {
	o.history()
	s := o.store(ctx, i, k, v)
	o.writeSaved(s)
	return s
}

// store is the part of save that may run for several escrows at once: it reads the
// evidence and writes nothing but the copy.
func (o *observation) store(ctx context.Context, i int, k key.Key, v rows.Verdict) SaveResult {
	s := o.host.Escrows[i]
	r := SaveResult{Escrow: s.Name(), Required: s.Required, Key: k.Fingerprint()}
	r.Shelf, r.Why = o.shelf(i, r.Key, v)
	o.put(ctx, i, &r)
	return r
}

// put writes the copy that a result is to be of.
func (o *observation) put(ctx context.Context, i int, r *SaveResult) {
	r.Copy, r.Err = o.host.Escrows[i].Writer.Save(ctx, r.Shelf, o.keys[r.Key])
	if errors.Is(r.Err, escrow.ErrUnverified) {
		r.Unverified, r.Err = true, nil
	}
}

// writeSaved records a copy that the ledger does not name yet. On the current shelf that
// is one that is not the last it names: a copy is the newest again where a newer one
// was taken away.
func (o *observation) writeSaved(s SaveResult) {
	if s.Err != nil {
		return
	}
	if last, ok := o.record.LastSaved(s.Escrow); o.record.Holds(s.Escrow, s.Copy.ID) &&
		(s.Shelf != escrow.Current || ok && last.Copy == s.Copy.ID && (last.Reason == "" || s.Unverified)) {
		return
	}
	e := ledger.Entry{Event: ledger.Saved, Fingerprint: s.Key, Escrow: s.Escrow, Copy: s.Copy.ID, Shelf: string(s.Shelf)}
	if s.Unverified {
		e.Reason = escrow.ErrUnverified.Error()
	}
	o.write(e)
}

// shelf is law 4: it says where in an escrow a key may be saved, and why not on the
// current shelf.
func (o *observation) shelf(i int, f key.Fingerprint, v rows.Verdict) (escrow.Shelf, string) {
	e := o.evidence.Escrows[i]
	newest, there := e.newestCurrent()
	if there && newest.Key == f {
		return escrow.Current, ""
	}
	if why := o.alarm(i); why != "" {
		return escrow.Quarantine, why
	}
	l := o.evidence.Ledger
	provenHere := f == l.Known && !l.Accepted
	switch {
	case v == rows.Opens, provenHere && v != rows.Refuted:
		return escrow.Current, ""
	case v == rows.Refuted:
		return escrow.Quarantine, "it opens no row"
	case v == rows.Unknown:
		return escrow.Quarantine, "it could not be tried on the rows: " + o.evidence.Rows.Why
	}
	// Partial and Silent prove too little to stand above any other key.
	for _, other := range o.record.EverProven() {
		if other != f {
			return escrow.Quarantine, fmt.Sprintf("the rows do not prove it, and key %s was proven here before", other)
		}
	}
	for _, s := range o.evidence.Escrows {
		if s.State != EscrowAnswered {
			// Law 6: what cannot be heard of may be there.
			return escrow.Quarantine, fmt.Sprintf("the rows do not prove it, and escrow %q cannot say whether it holds another key: %s", s.Name, s.Why)
		}
		for _, c := range s.Copies {
			if c.Shelf == escrow.Current && !c.Worthless && c.Key != f {
				return escrow.Quarantine, fmt.Sprintf("the rows do not prove it, and copy %s in escrow %q is of another key", c.ID, s.Name)
			}
		}
	}
	return escrow.Current, ""
}

// alarm says why only the quarantine of an escrow may be written: its newest current
// copy is not from this host (law 4). One of a key that is, or was right, here is taken
// for ours: a save that was killed before the ledger named it.
func (o *observation) alarm(i int) string {
	e, record := o.evidence.Escrows[i], o.history()
	newest, there := e.newestCurrent()
	if !there || !record.SavedOn(e.Name) || record.Holds(e.Name, newest.ID) {
		return ""
	}
	for _, f := range append(record.EverProven(), o.evidence.Local.Keys...) {
		if f == newest.Key {
			return ""
		}
	}
	return fmt.Sprintf("copy %s there is not from this host: another host writes to the same place", newest.ID)
}

// history reads the whole ledger, once.
func (o *observation) history() *ledger.Record {
	if o.record == nil {
		o.askHistory()
	}
	return o.record
}

// verdictOf is what the rows say of one key.
func verdictOf(e RowsEvidence, f key.Fingerprint) rows.Verdict {
	switch e.State {
	case RowsAnswer:
		if p, tried := e.Proofs[f]; tried {
			return p.Verdict
		}
	case RowsSilent:
		return rows.Silent
	}
	return rows.Unknown
}
