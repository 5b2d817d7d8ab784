package agent

import (
	"context"
	"errors"

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
// daemon makes the key, or finds it. Where two escrows are one directory it makes and saves nothing.
func Init(ctx context.Context, h *Host) (InitResult, error) {
	if err := h.Apart(ctx); err != nil {
		return InitResult{}, err
	}
	r := InitResult{Places: make([]PlaceResult, len(h.Escrows))}
	eachEscrow(h, func(i int, s Escrow) {
		r.Places[i] = PlaceResult{Escrow: s.Name(), Place: s.Place(), Required: s.Required, Err: s.Writer.Init(ctx)}
		if p := &r.Places[i]; s.AddOnly && errors.Is(p.Err, escrow.ErrDenied) {
			p.Err = nil // Terraform or an administrator makes the place, and saving tells whether it is there
		}
	})
	b, err := Backup(ctx, h)
	switch {
	case errors.Is(err, ErrNoKeyfile), errors.Is(err, ErrNoEscrow):
		return r, nil
	case err != nil:
		return r, err
	}
	r.Backup = &b
	return r, nil
}

// Apart returns escrow.ErrOnePlace where two escrows, or members of a split, are one directory.
func (h *Host) Apart(ctx context.Context) error {
	var places []escrow.Writer
	for _, e := range h.Escrows {
		places = append(places, e.Writer)
	}
	return escrow.Apart(ctx, places)
}
