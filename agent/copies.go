package agent

import (
	"context"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// CopiesResult is what every escrow holds.
type CopiesResult struct {
	Escrows []EscrowCopies // in the order of the configuration
}

// EscrowCopies is one escrow's answer.
type EscrowCopies struct {
	Name     string
	Place    escrow.Place
	Required bool
	Err      error // why it cannot answer; then Copies may be incomplete
	AddOnly  bool  // it is not read from here, and is no error
	Copies   []Listed
}

// Listed is one copy. Its fingerprint was computed from its bytes where they could
// be read, and is the store's claim otherwise.
type Listed struct {
	escrow.Copy
	Encoding key.Encoding // how the bytes are written; only raw is what `latest` must return
	Read     bool         // its bytes were fetched
	Newest   bool         // of the current shelf: what the runbook's `latest` returns
	Err      error        // why its bytes could not be read
}

// Copies lists and fetches every copy in every escrow, in parallel.
func Copies(ctx context.Context, h *Host) CopiesResult {
	r := CopiesResult{Escrows: make([]EscrowCopies, len(h.Escrows))}
	eachEscrow(h, func(i int, s Escrow) { r.Escrows[i] = listed(ctx, s) })
	return r
}

func listed(ctx context.Context, s Escrow) EscrowCopies {
	e := EscrowCopies{Name: s.Name(), Place: s.Place(), Required: s.Required, AddOnly: s.AddOnly}
	if s.AddOnly {
		return e
	}
	copies, err := s.List(ctx)
	if err != nil {
		e.Err = err
		return e
	}
	newest := true
	for _, c := range copies {
		l := Listed{Copy: c}
		if c.Shelf == escrow.Current && !c.Beside {
			l.Newest, newest = newest, false
		}
		e.Copies = append(e.Copies, l)
	}
	// What one copy fails with says nothing of the next, for people who look.
	_ = fetchEach(ctx, s.Reader, copies, fetchOptions{}, func(f fetched) error {
		defer f.key.Wipe()
		l := &e.Copies[f.n]
		if l.Err = f.err; f.err == nil {
			l.Fingerprint, l.Encoding, l.Read = f.key.Fingerprint(), f.encoding, true
		}
		return nil
	})
	return e
}
