package agent

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// slow is a store that needs 80 ms for each copy.
type slow struct {
	escrow.Reader
	kind       string
	atOnce     atomic.Int32
	mostAtOnce atomic.Int32
}

func (s *slow) Place() escrow.Place { return escrow.Place{Kind: s.kind} }

func (s *slow) Fetch(context.Context, escrow.Copy) (key.Key, key.Encoding, error) {
	n := s.atOnce.Add(1)
	defer s.atOnce.Add(-1)
	for most := s.mostAtOnce.Load(); n > most && !s.mostAtOnce.CompareAndSwap(most, n); most = s.mostAtOnce.Load() {
	}
	time.Sleep(80 * time.Millisecond)
	return key.Generate(), key.Raw, nil
}

// TestManyCopiesAreFetchedInTime: 260 copies come within the budget of a start, eight at
// a time; a program that is run for each is run once at a time.
func TestManyCopiesAreFetchedInTime(t *testing.T) {
	for kind, most := range map[string]int32{"gcp-secret-manager": 8, "command": 1} {
		synctest.Test(t, func(t *testing.T) {
			s := &slow{kind: kind}
			var copies []escrow.Copy
			for n := range 260 {
				copies = append(copies, escrow.Copy{ID: fmt.Sprint("current/", n), Shelf: escrow.Current})
			}
			copies[7].Unreadable = "disabled"
			began, got := time.Now(), 0
			err := fetchEach(t.Context(), s, copies, fetchOptions{}, func(f fetched) error { got++; f.key.Wipe(); return nil })
			if err != nil || got != 259 {
				t.Errorf("%s: %d copies, %v", kind, got, err)
			}
			if n := s.mostAtOnce.Load(); n != most {
				t.Errorf("%s: %d at once", kind, n)
			}
			if took := time.Since(began); kind != "command" && took > 5*time.Second {
				t.Errorf("%s: it took %s", kind, took)
			}
		})
	}
}
