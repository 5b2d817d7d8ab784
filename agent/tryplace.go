package agent

import (
	"context"
	"errors"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

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
