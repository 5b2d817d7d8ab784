package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/key"
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
	Rows    decide.RowsEvidence
	Escrows []SaveResult // in the order of the configuration
	Trouble []Trouble
}

// Backup escrows the present keyfile's key: on the current shelf where law 4 allows
// it, in quarantine otherwise. Escrows that fail are in the result, not in the error.
// It returns ErrNoKeyfile and ErrNoEscrow.
func Backup(ctx context.Context, h *Host) (BackupResult, error) {
	return backup(ctx, h, (*observation).escrowKey)
}

func backup(ctx context.Context, h *Host, how func(*observation, context.Context, key.Fingerprint) (BackupResult, error)) (BackupResult, error) {
	return whileChanging(func() (BackupResult, error) { return backupSeen(ctx, h, how) })
}

// backupSeen backs up the key that stands in the keyfile's place just now.
func backupSeen(ctx context.Context, h *Host, how func(*observation, context.Context, key.Fingerprint) (BackupResult, error)) (BackupResult, error) {
	o, err := h.observeToSave()
	if err != nil {
		return BackupResult{}, err
	}
	defer o.close()
	if !o.evidence.Keyfile.Good {
		return BackupResult{}, fmt.Errorf("%w: the keyfile is %s", ErrNoKeyfile, o.evidence.Keyfile.Why)
	}
	return how(o, ctx, o.evidence.Keyfile.Key)
}

// observeToSave observes a host that has an escrow. It returns ErrNoEscrow.
func (h *Host) observeToSave() (*observation, error) {
	if len(h.Escrows) == 0 {
		return nil, ErrNoEscrow
	}
	return h.observe()
}

// escrowKey proves a key at hand and saves it in every escrow.
func (o *observation) escrowKey(ctx context.Context, f key.Fingerprint) (BackupResult, error) {
	o.askRows(ctx)
	if o.evidence.Rows.VerdictOf(f) == rows.Opens {
		if err := o.writeWord(provenEntry(o.evidence.Rows.Proofs[f])); err != nil {
			return BackupResult{}, err
		}
	}
	return o.saveEverywhere(ctx, f, o.awaitAllEscrows)
}

// escrowRead is escrowKey for a key under which all rows have just been read: the ledger
// says so, and nobody has to ask them once more.
func (o *observation) escrowRead(ctx context.Context, f key.Fingerprint) (BackupResult, error) {
	if l := o.evidence.Ledger; f != l.Known || l.Accepted {
		return o.escrowKey(ctx, f)
	}
	return o.saveEverywhere(ctx, f, func(ctx context.Context) {
		eachEscrow(o.host, func(i int, _ Escrow) { o.askNewest(ctx, i) })
	})
}

// saveEverywhere saves a key in every escrow. Unless the rows have just said that it opens all of
// them, what stands in one escrow has a say in the others (law 4): askAll asks them all, before
// the first is written. Else each is asked and written by itself, and none waits for another that
// hangs.
func (o *observation) saveEverywhere(ctx context.Context, f key.Fingerprint, askAll func(context.Context)) (BackupResult, error) {
	o.history() // before the escrows: what is saved meanwhile counts
	if o.evidence.Rows.VerdictOf(f) != rows.Opens {
		askAll(ctx)
	}
	r := BackupResult{Key: f, Rows: o.evidence.Rows, Escrows: make([]SaveResult, len(o.host.Escrows))}
	eachEscrow(o.host, func(i int, _ Escrow) {
		o.askNewest(ctx, i)
		r.Escrows[i] = o.save(ctx, i, f, decide.Shelf)
	})
	r.Trouble = o.trouble
	return r, o.stillStands()
}
