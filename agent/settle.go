package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// A rotation that was killed is continued by whoever looks next: a start, the watcher, or
// another rotate. Rule R1 of decide.Keyfile finds out from the rows which of the two keys holds,
// the decision is done as any other (act), and closeRotation ends it.

const (
	// settlePatience is how long a rotation whose transaction broke off asks the rows which
	// key holds: Postgres may be restarting, and notices only after half a minute that a
	// session has lost its other side. Whoever starts later asks on (R1).
	settlePatience = 45 * time.Second
	settleAgain    = 500 * time.Millisecond
)

// closeRotation closes the open rotation: the keyfile is right by now, or is left to the rules
// after it, so what stands in `.next` goes to the local quarantine, and the ledger says which key holds. Where it
// cannot go there the rotation stays open, and the rows are asked again (law 9).
func (o *observation) closeRotation(d decide.Decision) {
	if o.evidence.Next.There {
		if err := o.host.Keyfile.KeepNext(o.evidence.Now); err != nil {
			o.complain("cannot move the staged key of the rotation away", err)
			return
		}
	}
	rotation := o.evidence.OpenRotation()
	closed := ledger.Entry{Event: ledger.RotationClosed, Old: rotation.Old, Reason: d.Reason}
	if d.Settle == decide.SettleNeither {
		o.write(closed)
		return
	}
	f := cmp.Or(d.Key, d.Needed) // in doubt it is what is known by now
	closed.Fingerprint = f
	p, l := o.evidence.Rows.Proofs[f], o.evidence.Ledger
	if l.Accepted && l.Known == f && p.Verdict != rows.Opens {
		o.write(closed) // a person's word stays one
		return
	}
	o.write(closed, provenEntry(p))
}

// settleWhich asks the rows which key holds, until they answer, or once where an end is wanted: a
// host that goes down has stopped Postgres, too, and would wait for us.
func (t *rotation) settleWhich(ctx context.Context) (decide.Settlement, error) {
	t.at("asking the rows which key holds")
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	for {
		settled, err := t.settleOpen(ctx)
		if err == nil {
			return settled, nil
		}
		select {
		case <-t.ended:
			return settled, fmt.Errorf("%w: %w", ErrEnded, err)
		case <-time.After(settleAgain):
		case <-ctx.Done():
			return settled, err
		}
	}
}

// settleOpen does what a start would do if the rows answer (R1, or R3 where nothing tells
// of the rotation any more), but never parks or makes a key. It returns ErrNoUsableCopy or
// ErrUnheard where nobody can tell which key belongs in the keyfile's place; the rotation is
// closed then all the same, if the rows have chosen between its two.
func (t *rotation) settleOpen(ctx context.Context) (decide.Settlement, error) {
	o, err := t.h.observe()
	if err != nil {
		return decide.SettleNothing, err
	}
	defer o.close()
	defer func() { t.r.Trouble = append(t.r.Trouble, o.trouble...) }()
	o.askRows(ctx)
	if o.evidence.Rows.State == decide.RowsUnknown {
		return decide.SettleNothing, o.evidence.Rows.Err
	}
	g := GuardResult{Decision: o.decide(ctx)}
	if d := g.Decision; d.Action != decide.Pass && d.Action != decide.Install {
		if d.Settle != decide.SettleNothing {
			o.closeRotation(d)
		}
		if d.Settle != decide.SettleNeither {
			return decide.SettleNothing, o.unusable("(%s)", d.Reason)
		}
		return d.Settle, nil
	}
	if err := o.act(ctx, &g); err != nil {
		return decide.SettleNothing, err
	}
	switch g.Decision.Key {
	case t.r.New:
		return decide.SettleNew, nil
	case t.r.Old:
		return decide.SettleOld, nil
	}
	return decide.SettleNeither, nil
}

// halfway is ErrRotationOpen, and says which rotation that is; nil where none is open.
func (o *observation) halfway() error {
	open := o.evidence.OpenRotation()
	if open == nil {
		return nil
	}
	said := ""
	if o.evidence.Ledger.Rotation != nil {
		said = fmt.Sprintf(", from key %s to key %s", open.Old, open.New)
		for _, e := range slices.Backward(o.history().Entries) {
			if e.Event == ledger.RotationOpen {
				said += ", since " + since(e.Time, e.Person)
				break
			}
		}
	}
	switch next := o.evidence.Next; {
	case next.Key != "":
		said += fmt.Sprintf("; key %s stands beside the keyfile as its successor", next.Key)
	case next.There:
		said += "; what stands beside the keyfile as its successor (.next) is no key"
	}
	return fmt.Errorf("%w%s", ErrRotationOpen, said)
}
