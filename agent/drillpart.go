package agent

import (
	"context"
	"fmt"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// DrillPartResult is what became of one part that a person brought.
type DrillPartResult struct {
	Verdict DrillVerdict
	Reason  string // a sentence
	Proof   rows.Proof
	Trouble []Trouble
}

// DrillPart proves a part that is kept where no escrow reads it: on paper, on a stick in a
// safe. The key that it names is looked for on this host and then in the escrows; the part
// is right if it is that key's own, since cutting a key gives the same parts every time,
// and if that key opens the rows. It writes nothing.
func DrillPart(ctx context.Context, h *Host, part key.Part) (DrillPartResult, error) {
	o, err := h.observe()
	if err != nil {
		return DrillPartResult{}, err
	}
	defer o.close()
	o.askLocal()
	if _, here := o.keys[part.Of]; !here {
		o.awaitAllEscrows(ctx)
	}
	r := DrillPartResult{Trouble: o.trouble}
	say := func(v DrillVerdict, format string, a ...any) (DrillPartResult, error) {
		r.Verdict, r.Reason = v, fmt.Sprintf(format, a...)
		return r, nil
	}
	k, ok := o.keys[part.Of]
	if !ok {
		return say(DrillInconclusive, "key %s is neither here nor in an escrow that answers, so that one part of it proves nothing", part.Of)
	}
	own, err := k.Cut(part.Need, part.Number)
	if err != nil {
		return r, err
	}
	defer own.Wipe()
	if !own.Equal(part) {
		return say(DrillFailed, "it is not part %d of key %s, though it says so: with others it rebuilds no key", part.Number, part.Of)
	}
	o.askRows(ctx)
	r.Proof = o.evidence.Rows.Proofs[part.Of]
	switch {
	case o.evidence.Rows.State == decide.RowsUnknown:
		return say(DrillInconclusive, "it is part %d of key %s; the rows cannot be asked: %s", part.Number, part.Of, o.evidence.Rows.Why)
	case o.evidence.Rows.State == decide.RowsSilent:
		return say(DrillInconclusive, "it is part %d of key %s; no row can prove that: %s", part.Number, part.Of, o.evidence.Rows.Why)
	case r.Proof.Verdict == rows.Opens:
		return say(DrillPassed, "with enough others it rebuilds key %s, which opens %s tried", part.Of, printable.All(r.Proof.Checked, "row"))
	}
	return say(DrillFailed, "with enough others it rebuilds key %s, which opens %d of %s: it is not today's key",
		part.Of, r.Proof.Opened, printable.Count(r.Proof.Checked, "row"))
}
