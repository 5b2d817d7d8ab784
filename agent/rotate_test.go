package agent_test

import (
	"fmt"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

// TestRotationUnwritten: where the ledger could not take down that the rotation is done,
// it does not know the new key, and the rows are asked before that becomes the current
// copy (law 4).
func TestRotationUnwritten(t *testing.T) {
	t.Parallel() // it waits for the ledger
	r := rotation{testKey("old")}
	db := rowstest.New(t).Database(t)
	h := newHost(t, db, 2)
	h.must(r.rows(db))
	h.must(r.furnish(&h.Host, false))
	var held *lock.Lock
	got, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{Progress: func(p agent.RotateProgress) {
		switch p.Step {
		case "putting the new key in place":
			var err error
			held, err = lock.Try(h.StateDir, lock.Ledger)
			h.must(err)
		case "saving the key as the current one":
			held.Release()
		}
	}})
	if err != nil || !got.Rotated || len(got.Trouble) == 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, s := range got.Saved.Escrows {
		if s.Shelf != escrow.Current || s.Key != got.New || s.Err != nil {
			t.Errorf("%+v", s)
		}
	}
	h.must(r.check(&h.Host, db))
}

// TestRotationFetches no more than the newest current copy of each escrow: before, to be
// sure that the present key is safe there, and after, as law 4 wants to know.
func TestRotationFetches(t *testing.T) {
	r := rotation{testKey("old")}
	db := rowstest.New(t).Database(t)
	h := newHost(t, db, 2)
	h.must(r.rows(db))
	h.must(r.furnish(&h.Host, false))
	var asked []*troubled
	for i, e := range h.Escrows {
		for n := range 5 {
			_, err := e.Writer.Save(t.Context(), escrow.Quarantine, testKey(fmt.Sprint("older ", n)))
			h.must(err)
		}
		asked = append(asked, trouble(h, i))
	}
	got, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{})
	if err != nil || len(got.Trouble) > 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, e := range asked {
		if e.lists != 2 || e.fetches != 2 {
			t.Errorf("escrow %d was listed %d times, and %d copies were fetched", i, e.lists, e.fetches)
		}
	}
}
