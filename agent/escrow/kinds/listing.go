package kinds

import (
	"fmt"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

// What a listing shows of a shelf at most (law 10): of copies that have a name of ours,
// and of names that anybody can give. The rest is one copy that cannot be read, so that a
// neighbour who fills a shelf takes neither our time nor our copies.
const (
	maxListed  = 10_000
	maxForeign = 100
	// moreName is the name of the copy that stands for the rest.
	moreName = ".more"
)

// more stands for what a listing does not show: so many copies, of which the newest is of
// this time. Less than one is a number that the store does not tell.
func more(name string, s escrow.Shelf, n int, at time.Time) escrow.Copy {
	c := escrow.Copy{Escrow: name, ID: string(s) + "/" + moreName, Shelf: s, Created: at, Unreadable: "older ones, which are not listed"}
	if n > 0 {
		c.Unreadable = fmt.Sprintf("%d more, which are not listed", n)
	}
	return c
}

// bounded cuts a shelf's copies, newest first, to what a listing shows. ours tells those
// that have a name of ours.
func bounded(copies []escrow.Copy, ours func(escrow.Copy) bool) []escrow.Copy {
	own, foreign, left := 0, 0, 0
	var at time.Time
	kept := copies[:0:len(copies)]
	for _, c := range copies {
		count, limit := &foreign, maxForeign
		if ours(c) {
			count, limit = &own, maxListed
		}
		if *count++; *count <= limit {
			kept = append(kept, c)
			continue
		}
		if left++; left == 1 {
			at = c.Created
		}
	}
	if left > 0 {
		kept = append(kept, more(copies[0].Escrow, copies[0].Shelf, left, at))
	}
	return kept
}

// errNoNewest is a FetchLatest to which the store has no answer: only a listing tells which copy is
// the newest.
var errNoNewest = fmt.Errorf("%w: no newest copy without a listing", escrow.ErrNoPlace)
