package agent

import (
	"context"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
)

// VerifyResult is what the rows say of every key that can be had.
type VerifyResult struct {
	Keyfile    decide.KeyfileEvidence
	Known      key.Fingerprint
	Rows       decide.RowsEvidence
	Candidates []Candidate // besides the keyfile
	Escrows    []decide.EscrowEvidence
	Decision   decide.Decision // what a start of the daemon would do
	Daemon     DaemonStanding
	Broken     *ledger.Break // of StatusResult
	Trouble    []Trouble
}

// Verify tries the keyfile's key and every copy on the rows, and changes nothing.
func Verify(ctx context.Context, h *Host) (VerifyResult, error) {
	o, err := h.observe()
	if err != nil {
		return VerifyResult{}, err
	}
	defer o.close()
	o.askLocal()
	o.askRows(ctx)
	o.awaitAllEscrows(ctx)
	if o.evidence.Rows.State == decide.RowsAnswer {
		o.askRows(ctx) // the keys that were fetched
	}
	d, broken := o.decide(ctx), o.broken()
	for _, err := range h.hanging() {
		o.complain("a directory that keyguard needs hangs", err)
	}
	return VerifyResult{Decision: d, Broken: broken, Keyfile: o.evidence.Keyfile, Known: o.evidence.Ledger.Known, Rows: o.evidence.Rows,
		Candidates: o.candidates(), Escrows: o.evidence.Escrows, Daemon: o.askedDaemon(ctx), Trouble: o.trouble}, nil
}
