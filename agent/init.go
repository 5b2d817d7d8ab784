package agent

import (
	"context"
	"errors"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

// InitResult is what became of every escrow, and of the key in them.
type InitResult struct {
	Places []PlaceResult // in the order of the configuration
	Backup *BackupResult // nil when there is no key to escrow yet
}

// PlaceResult is one escrow's place, made or found.
type PlaceResult struct {
	Escrow   string
	Place    escrow.Place
	Required bool
	Err      error
}

// Init makes the place that each escrow needs, where it is missing, and then escrows
// the present key and reads it back, as Backup does. It may be called again at any
// time. Without a key of 32 bytes it only makes the places: the first start of the
// daemon makes the key, or finds it.
func Init(ctx context.Context, h *Host) (InitResult, error) {
	r := InitResult{Places: make([]PlaceResult, len(h.Escrows))}
	eachEscrow(h, func(i int, s Escrow) {
		r.Places[i] = PlaceResult{Escrow: s.Name(), Place: s.Place(), Required: s.Required, Err: s.Writer.Init(ctx)}
		if p := &r.Places[i]; s.AddOnly && errors.Is(p.Err, escrow.ErrDenied) {
			p.Err = nil // Terraform or an administrator makes the place, and saving tells whether it is there
		}
	})
	o, err := h.observe()
	if err != nil {
		return r, err
	}
	defer o.close()
	if !o.evidence.Keyfile.Good || len(h.Escrows) == 0 {
		return r, nil
	}
	b := o.escrowKey(ctx, o.evidence.Keyfile.Key)
	r.Backup = &b
	return r, nil
}

// TryPlaceResult is what stands in an escrow already.
type TryPlaceResult struct {
	Copies  []escrow.Copy // newest first within a shelf, current first
	Unknown int           // of these, copies that this host did not save
}

// tryTimeout bounds a try, in which a person waits.
const tryTimeout = 30 * time.Second

// TryPlace makes the place of an escrow as Init does and lists what stands there, so that
// only what can be used gets into the configuration. The error is why it cannot.
func TryPlace(ctx context.Context, h *Host, e Escrow) (TryPlaceResult, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	err := e.Writer.Init(ctx)
	if e.AddOnly && (err == nil || errors.Is(err, escrow.ErrDenied)) {
		return TryPlaceResult{}, nil // it may not be listed from here
	}
	if err != nil {
		return TryPlaceResult{}, err
	}
	return standsIn(ctx, h, e)
}

// LookAtPlace lists what stands in an escrow, and makes nothing. The error is why it cannot
// be told, which says nothing of whether Init can make it.
func LookAtPlace(ctx context.Context, h *Host, e Escrow) (TryPlaceResult, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	if e.AddOnly {
		return TryPlaceResult{}, nil
	}
	return standsIn(ctx, h, e)
}

func standsIn(ctx context.Context, h *Host, e Escrow) (r TryPlaceResult, err error) {
	if r.Copies, err = e.List(ctx); err != nil {
		return TryPlaceResult{}, err
	}
	record, err := h.Ledger.Read()
	if err != nil {
		return TryPlaceResult{}, err
	}
	for _, c := range r.Copies {
		if !record.Holds(e.Name(), c.ID) {
			r.Unknown++
		}
	}
	return r, nil
}
