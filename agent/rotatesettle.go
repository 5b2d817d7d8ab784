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

// A rotation that was killed stays open in the ledger. Whoever looks next, a start, the watcher or
// another rotate, closes it: rule R1 of decide.Keyfile finds out from the rows which of its two keys
// holds, act puts that key in place as it does after any decision, and closeRotation writes that the
// rotation is closed.

const (
	// settlePatience is how long a rotation whose transaction broke off goes on asking the rows
	// which key holds. Postgres may be restarting; and a session that lost its other side holds its
	// locks until Postgres notices that, after half a minute. If the rows still do not answer, the
	// next start asks them (R1).
	settlePatience = 45 * time.Second
	settleAgain    = 500 * time.Millisecond
)

// closeRotation moves the staged key, which stands in `.next`, to the local quarantine, and writes
// to the ledger that the rotation is closed and which key holds. By then the keyfile is right, or
// the rules after R1 decide about it. If the staged key cannot be moved the rotation stays open, so
// that the next look asks the rows again: that is no reason to stop the daemon (law 9).
func (o *observation) closeRotation(d decide.Decision) error {
	if o.evidence.Next.There {
		if err := o.host.Keyfile.KeepNext(o.evidence.Now); err != nil {
			o.complain("cannot move the staged key of the rotation away", err)
			return nil
		}
	}
	rotation := o.evidence.OpenRotation()
	closed := ledger.Entry{Event: ledger.RotationClosed, Old: rotation.Old, Reason: d.Reason}
	if d.Settle == decide.SettleNeither {
		return o.writeWord(closed)
	}
	f := cmp.Or(d.Key, d.Needed) // a doubt has no key, and needs the one that is known by now
	closed.Fingerprint = f
	p, l := o.evidence.Rows.Proofs[f], o.evidence.Ledger
	if l.Accepted && l.Known == f && p.Verdict != rows.Opens {
		return o.writeWord(closed) // no proof is written: only a key that opens all rows is proven, and no more stands on a person's word
	}
	return o.writeWord(closed, provenEntry(p))
}

// settleWhich asks the rows which key holds until they answer, or settlePatience is over. When this process was told to end it
// asks only once: a host that shuts down has stopped Postgres already, and waits for this process.
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
// of the rotation any more), but never parks or makes a key. Where it is closed with neither of
// its keys known that is no error, whatever stands in the keyfile's place. Otherwise it returns
// ErrNoUsableCopy or ErrUnheard where nobody can tell which key belongs there; the rotation is closed
// then all the same, if the rows have chosen between its two.
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
			if err := o.closeRotation(d); err != nil {
				return decide.SettleNothing, err
			}
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
