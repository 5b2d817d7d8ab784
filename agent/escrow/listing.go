package escrow

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
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

// quarantined ends the name of a place's quarantine, for stores in which a name is a shelf.
const quarantined = "-quarantine"

// shelfName is what a shelf is called in them: the current one has the name itself.
func shelfName(name string, s Shelf) string {
	if s == Quarantine {
		return name + quarantined
	}
	return name
}

// more stands for what a listing does not show: so many copies, of which the newest is of
// this time. Less than one is a number that the store does not tell.
func more(escrow string, s Shelf, n int, at time.Time) Copy {
	c := Copy{Escrow: escrow, ID: string(s) + "/" + moreName, Shelf: s, Created: at, Unreadable: "older ones, which are not listed"}
	if n > 0 {
		c.Unreadable = fmt.Sprintf("%d more, which are not listed", n)
	}
	return c
}

// bounded cuts a shelf's copies, newest first, to what a listing shows. ours tells those
// that have a name of ours.
func bounded(copies []Copy, ours func(Copy) bool) []Copy {
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

// escaped makes a name fit for a copy's ID: what is not printable, or no UTF-8, and "%",
// is "%" and two digits for each byte. No two names become one.
func escaped(name string) string {
	var b strings.Builder
	for len(name) > 0 {
		r, n := utf8.DecodeRuneInString(name)
		if r == utf8.RuneError || r == '%' || !unicode.IsPrint(r) {
			for i := range n {
				fmt.Fprintf(&b, "%%%02X", name[i])
			}
		} else {
			b.WriteString(name[:n])
		}
		name = name[n:]
	}
	return b.String()
}

// unescaped is the name that became id, if one did.
func unescaped(id string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(id); i++ {
		if id[i] != '%' {
			b.WriteByte(id[i])
			continue
		}
		var c byte
		if _, err := fmt.Sscanf(id[i:min(i+3, len(id))], "%%%02X", &c); err != nil {
			return "", false
		}
		b.WriteByte(c)
		i += 2
	}
	name := b.String()
	return name, escaped(name) == id
}
