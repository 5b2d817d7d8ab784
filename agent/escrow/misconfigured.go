package escrow

import (
	"context"
	"errors"
	"fmt"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// ErrMisconfigured: the configuration of the escrow is wrong, and nobody was asked.
var ErrMisconfigured = errors.New("misconfigured")

// Misconfigured is an escrow whose configuration cannot be used. It cannot answer, and
// says why: one escrow's mistake is no other's trouble, and its copies are not none (law 6).
type Misconfigured struct {
	name string
	kind string
	why  error
}

// NewMisconfigured makes an escrow that answers every call with ErrMisconfigured and why.
func NewMisconfigured(name, kind string, why error) *Misconfigured {
	return &Misconfigured{name, kind, fmt.Errorf("%w: %w", ErrMisconfigured, why)}
}

func (m *Misconfigured) Name() string { return m.name }

// Place is unknown: the configuration does not say, or not rightly.
func (m *Misconfigured) Place() Place {
	return Place{Kind: m.kind, Where: "what the configuration says of it cannot be used"}
}

func (m *Misconfigured) List(context.Context) ([]Copy, error) { return nil, m.why }

func (m *Misconfigured) Fetch(context.Context, Copy) (key.Key, key.Encoding, error) {
	return key.Key{}, "", m.why
}

func (m *Misconfigured) Init(context.Context) error { return m.why }

func (m *Misconfigured) Save(context.Context, Shelf, key.Key) (Copy, error) { return Copy{}, m.why }

// Close does nothing.
func (m *Misconfigured) Close() error { return nil }
