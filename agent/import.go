package agent

import (
	"context"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
)

// ImportOptions are a person's wishes.
type ImportOptions struct {
	Person string
}

// Import installs a key that a person brought, as Restore would install a copy.
func Import(ctx context.Context, h *Host, k key.Key, opts ImportOptions) (RestoreResult, error) {
	return whileChanging(func() (RestoreResult, error) { return importKey(ctx, h, k, opts) })
}

func importKey(ctx context.Context, h *Host, k key.Key, opts ImportOptions) (RestoreResult, error) {
	o, err := h.observe()
	if err != nil {
		return RestoreResult{}, err
	}
	defer o.close()
	f := o.hold(k.Clone()) // k is the caller's, and may be wanted once more
	o.askRows(ctx)
	offered := []Candidate{{Source: "the key that was brought", Key: f, Proof: o.evidence.Rows.Proofs[f]}}
	return o.replace(ctx, replacement{offered: offered, named: true, best: true, vouch: o.proven,
		entry: ledger.Entry{Event: ledger.Imported, Person: opts.Person}})
}

// Keep saves a key that a person brought in every escrow, by law 4, and leaves the
// keyfile alone. It returns ErrNoEscrow.
func Keep(ctx context.Context, h *Host, k key.Key, opts ImportOptions) (BackupResult, error) {
	told := false
	return whileChanging(func() (BackupResult, error) {
		o, err := h.observeToSave()
		if err != nil {
			return BackupResult{}, err
		}
		defer o.close()
		f := o.hold(k.Clone()) // k is the caller's, and may be wanted once more
		if !told {
			o.write(ledger.Entry{Event: ledger.Imported, Fingerprint: f, Person: opts.Person, Reason: "for the escrows only"})
			told = true
		}
		return o.escrowKey(ctx, f)
	})
}
