package agent

import (
	"context"
	"fmt"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// PaperOptions say for whom the key is taken out.
type PaperOptions struct {
	Person string
	// Parts is how many sheets are printed, of parts of which Need rebuild the key; 0 is one
	// sheet of the whole key.
	Parts, Need int
}

// PaperResult is a key that is to be printed, and what is known of it.
type PaperResult struct {
	Key     key.Key // the caller's to wipe
	Rows    decide.RowsEvidence
	Verdict rows.Verdict
	Proof   string // what the sheet is to say of it
	Trouble []Trouble
}

// Paper takes the keyfile's key out for a printed sheet, tries it on the rows, and
// records who asked. A key that opens no row is not printed: in ten years the sheet
// would be taken for the backup (law 4), unless a person vouched for the key. It
// returns ErrNoKeyfile and ErrRefused.
func Paper(ctx context.Context, h *Host, opts PaperOptions) (PaperResult, error) {
	return whileChanging(func() (PaperResult, error) { return takeOut(ctx, h, opts) })
}

func takeOut(ctx context.Context, h *Host, opts PaperOptions) (PaperResult, error) {
	o, err := h.observe()
	if err != nil {
		return PaperResult{}, err
	}
	defer o.close()
	if !o.evidence.Keyfile.Good {
		return PaperResult{}, fmt.Errorf("%w: the keyfile is %s", ErrNoKeyfile, o.evidence.Keyfile.Why)
	}
	f := o.evidence.Keyfile.Key
	o.askRows(ctx)
	r := PaperResult{Rows: o.evidence.Rows, Verdict: o.evidence.Rows.VerdictOf(f)}
	proof, known := o.evidence.Rows.Proofs[f], o.evidence.Ledger
	const now = "when this was printed"
	switch r.Verdict {
	case rows.Opens:
		if err := o.writeWord(provenEntry(proof)); err != nil {
			return r, err
		}
		r.Proof = fmt.Sprintf("it opened %s tried %s", printable.All(proof.Checked, "row"), now)
	case rows.Partial:
		r.Proof = fmt.Sprintf("it opened only %d of %s %s", proof.Opened, printable.Count(proof.Checked, "row"), now)
	case rows.Silent:
		r.Proof = "there was no row to try it on " + now
	case rows.Refuted:
		if known.Known != f {
			return r, fmt.Errorf("%w: key %s opens none of %s, and a sheet would be taken for a backup",
				ErrRefused, f, printable.Count(proof.Checked, "row"))
		}
		r.Proof = fmt.Sprintf("it opened none of %s %s; a person vouched for it", printable.Count(proof.Checked, "row"), now)
	default:
		r.Proof = "it could not be tried on the rows " + now
		if day := known.LastLook.UTC().Format("2006-01-02"); known.Known == f && known.Accepted {
			r.Proof += "; a person vouched for it on " + day
		} else if known.Known == f {
			r.Proof += "; it last opened them on " + day
		}
	}
	if err := o.stillStands(); err != nil {
		return r, err
	}
	how := ""
	if opts.Parts > 0 {
		how = fmt.Sprintf("in %d parts, of which %d rebuild it", opts.Parts, opts.Need)
	}
	o.write(ledger.Entry{Event: ledger.Printed, Reason: how, Fingerprint: f, Person: opts.Person, Verdict: string(r.Verdict),
		Checked: proof.Checked, Opened: proof.Opened})
	r.Key, r.Trouble = o.keys[f].Clone(), o.trouble
	return r, nil
}
