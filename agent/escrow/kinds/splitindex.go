package kinds

// This file lists what the members hold, and says which keys that makes; split.go saves these, and
// splitread.go reads them.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// splitLooks is how many copies of one member are read at once where its listing does not
// say which key they are of.
const splitLooks = 8

// held is what a copy on a member is.
type held struct {
	of    key.Fingerprint // "" where it is no key and no part
	part  escrow.PartOf   // the zero PartOf where it is a whole key, or nothing
	wrong string          // why it is no use, "" for none
	none  bool            // positively no key and no part
}

// pieceID names one copy of one member, as its listing calls it.
type pieceID struct {
	member int
	id     string
	called key.Fingerprint
}

// piece is a copy on a member's shelf.
type piece struct {
	held
	member int
	copy   escrow.Copy
	place  int  // in the member's shelf, from 0, the newest
	read   bool // it was, and held does not only say what the listing calls it
}

// splitIndex is what the members hold, as they last said.
type splitIndex struct {
	silent []error // by member; nil of those that answered
	pieces []piece
}

// look lists all members. The error is for too few that answer, or for enough that have
// nothing while another may have some: ErrPerhaps.
func (s *Split) look(ctx context.Context) (*splitIndex, error) {
	x := s.lookExcept(ctx, func(int) error { return nil })
	if err := s.answers(x, s.enough(x)); err != nil {
		return nil, err
	}
	if silent := failures(x.silent); len(x.pieces) == 0 && len(silent) > 0 {
		return nil, fmt.Errorf("%w: %w", escrow.ErrPerhaps, s.all(silent))
	}
	s.mu.Lock()
	s.index = x
	s.mu.Unlock()
	return x, nil
}

// lookExcept lists all members but those for which skip returns an error, which then stands for
// their answer.
func (s *Split) lookExcept(ctx context.Context, skip func(i int) error) *splitIndex {
	found := make([][]piece, len(s.o.Members))
	x := &splitIndex{silent: s.each(func(i int, m escrow.Member) (err error) {
		if err := skip(i); err != nil {
			return err
		}
		found[i], err = s.lookAt(ctx, i, m)
		s.note(ctx, i, err)
		return err
	})}
	x.pieces = slices.Concat(found...)
	s.seeThrough(ctx, x)
	return x
}

// answers is what those say that do not answer, where they leave too few.
func (s *Split) answers(x *splitIndex, need int) error {
	silent := failures(x.silent)
	if n := len(s.o.Members) - len(silent); n < need {
		return fmt.Errorf("%d of %d members answer, and %d are needed: %w", n, len(s.o.Members), need, s.all(silent))
	}
	return nil
}

// enough is how many members must answer: fewer than Need where those that do have a key
// that was cut for fewer.
func (s *Split) enough(x *splitIndex) int {
	n := s.o.Need
	for _, shelf := range escrow.Shelves {
		for _, cuttings := range x.cuttings(shelf) {
			for _, g := range cuttings {
				if numbers, _ := g.numbers(); len(numbers) >= g.need {
					n = min(n, g.need)
				}
			}
		}
	}
	return n
}

// lookAt lists one member, and reads what its listing does not name.
func (s *Split) lookAt(ctx context.Context, i int, m escrow.Member) ([]piece, error) {
	copies, err := m.List(ctx)
	if err != nil {
		return nil, err
	}
	pieces := make([]piece, len(copies))
	place := map[escrow.Shelf]int{}
	var unknown []int
	for n, c := range copies {
		pieces[n] = piece{held{c.Fingerprint, c.Part, c.Unreadable, c.Worthless()}, i, c, place[c.Shelf], false}
		place[c.Shelf]++
		if c.Unreadable != "" {
			continue
		}
		s.mu.Lock()
		was, ok := s.known[pieceID{i, c.ID, c.Fingerprint}]
		s.mu.Unlock()
		if ok {
			pieces[n].held, pieces[n].read = was, true
		} else if c.Part.Whole() {
			unknown = append(unknown, n)
		}
	}
	// A member's errors end the look at it: which key a copy is of may decide which is
	// the newest.
	var (
		wait  crew.Group
		mu    sync.Mutex
		first error
	)
	turns := make(chan struct{}, splitLooks)
	for _, n := range unknown {
		turns <- struct{}{}
		wait.Go(func() error {
			defer func() { <-turns }()
			was, err := s.identify(ctx, m, copies[n])
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				first = cmp.Or(first, err)
				return nil
			}
			pieces[n].held, pieces[n].read = was, true
			s.learn(i, copies[n], was)
			return nil
		})
	}
	if first = cmp.Or(wait.Wait(), first); first != nil {
		return nil, first
	}
	return pieces, nil
}

// learn remembers what was read of a copy.
func (s *Split) learn(i int, c escrow.Copy, was held) {
	if was.wrong != "" {
		return // it may be enabled, or opened, later
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[pieceID{i, c.ID, c.Fingerprint}] = was
}

// seeThrough reads parts that may not be what their listing calls them, where the names do not
// add up: a name is hearsay (law 1). The part that a key seems to lack may lie under the name of
// another, and one that seems to be cut for another need may be another key's.
func (s *Split) seeThrough(ctx context.Context, x *splitIndex) {
	for doubted := x.doubted(s.displaced); len(doubted) > 0; doubted = x.doubted(s.displaced) {
		turns := make(chan struct{}, splitLooks)
		errs := make([]error, len(doubted))
		crew.Each(len(doubted), func(n int) {
			turns <- struct{}{}
			defer func() { <-turns }()
			p := doubted[n]
			was, err := s.identify(ctx, s.o.Members[p.member], p.copy)
			switch p.read = true; {
			case err != nil:
			case was.wrong == "":
				p.held = was
				s.learn(p.member, p.copy, was)
			case was.of == "" && (s.displaced(p) || p.part.Need != s.o.Need): // no part at all, which keeps no key away
				p.held = was
			}
			errs[n] = err
		})
		for n, err := range errs {
			if i := doubted[n].member; err != nil && x.silent[i] == nil {
				x.silent[i] = fmt.Errorf("%s: %w", s.o.Members[i].Name(), err)
			}
		}
		x.pieces = slices.DeleteFunc(x.pieces, func(p piece) bool { return x.silent[p.member] != nil })
	}
}

// Reread reads the parts of a copy that List has shown on those of the members that are wanted, and
// takes in what is wrong with them: until then Lacks and Cutting go by their names alone.
func (s *Split) Reread(ctx context.Context, c escrow.Copy, wanted func(escrow.Place) bool) {
	s.mu.Lock()
	was := s.index
	s.mu.Unlock()
	if was == nil {
		return
	}
	x := &splitIndex{was.silent, slices.Clone(was.pieces)}
	shelf, of, _ := strings.Cut(c.ID, "/")
	crew.Each(len(x.pieces), func(n int) {
		p := &x.pieces[n]
		m := s.o.Members[p.member]
		if p.copy.Shelf != escrow.Shelf(shelf) || string(p.of) != of || p.part.Whole() || p.wrong != "" || !wanted(m.Place()) {
			return
		}
		switch is, err := s.identify(ctx, m, p.copy); {
		case err != nil:
			p.wrong = err.Error()
		case is.wrong != "":
			p.wrong = is.wrong
		case is.of != p.of || is.part != p.part:
			p.wrong = "it is another part than its name says"
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index == was {
		s.index = x
	}
}

// displaced tells whether a part is of another number than its member's, by what is known of it.
func (s *Split) displaced(p *piece) bool { return p.part.Number != s.o.Members[p.member].Number }

// doubted are parts that nobody has read: of a key of which too few are there, and of members
// that show none of it; of a key that shows parts which were cut for different needs; and such
// as are displaced.
func (x *splitIndex) doubted(displaced func(p *piece) bool) (list []*piece) {
	doubt := map[*piece]bool{}
	doubts := func(which func(p *piece) bool) {
		for i := range x.pieces {
			if p := &x.pieces[i]; !p.read && p.wrong == "" && !p.part.Whole() && which(p) {
				doubt[p] = true
			}
		}
	}
	doubts(displaced)
	needs := map[key.Fingerprint]int{}
	for _, shelf := range escrow.Shelves {
		for of, cuttings := range x.cuttings(shelf) {
			for _, g := range cuttings {
				if was, there := needs[of]; there && was != g.need {
					doubts(func(p *piece) bool { return p.of == of })
				}
				needs[of] = g.need
			}
			if have, g := best(cuttings); have >= g.need {
				continue
			}
			for _, g := range cuttings { // one that is cut for another need is of no use to it
				shows := map[int]bool{}
				for _, p := range g.pieces {
					shows[p.member] = shows[p.member] || p.wrong == ""
				}
				doubts(func(p *piece) bool { return p.copy.Shelf == shelf && (p.of == of || !shows[p.member]) })
			}
		}
	}
	for i := range x.pieces { // in the order of the listings
		if p := &x.pieces[i]; doubt[p] {
			list = append(list, p)
		}
	}
	return list
}

// identify reads a copy to learn which key it is of. The error is one that may go away.
func (s *Split) identify(ctx context.Context, m escrow.Member, c escrow.Copy) (held, error) {
	k, _, err := m.Fetch(ctx, c)
	defer k.Wipe()
	var part *key.PartError
	var shut *escrow.SealedError
	switch {
	case err == nil:
		return held{of: k.Fingerprint()}, nil
	case errors.As(err, &part):
		defer part.Part.Wipe()
		return held{of: part.Part.Of, part: escrow.PartOf{Need: part.Part.Need, Number: part.Part.Number}}, nil
	case errors.As(err, &shut) && shut.Fingerprint != "": // what keyguard seals here is this part
		return held{of: shut.Fingerprint, part: escrow.PartOf{Need: s.o.Need, Number: m.Number}, wrong: err.Error()}, nil
	case isAny(err, escrow.ErrNotKey, escrow.ErrCorrupt): // what it says of itself is not so
		return held{wrong: err.Error(), none: errors.Is(err, escrow.ErrNotKey)}, nil
	case isAny(err, escrow.ErrSealed, escrow.ErrUnreadable, escrow.ErrGone, escrow.ErrDenied):
		return held{of: c.Fingerprint, wrong: err.Error()}, nil
	}
	return held{}, err
}

// markTops returns what adds to a copy where a piece of it stands on its member's current shelf: on top
// (Copy.Tops), being the newest there that is, or may be, a key or a part of one, or below (Copy.Under).
func (s *Split) markTops(x *splitIndex) func(c *escrow.Copy, p piece) {
	tops := map[int]string{}
	for _, p := range x.pieces { // of each member the newest first
		if _, had := tops[p.member]; !had && p.copy.Shelf == escrow.Current && !p.none {
			tops[p.member] = p.copy.ID
		}
	}
	return func(c *escrow.Copy, p piece) {
		if p.copy.Shelf != escrow.Current || p.none {
			return
		}
		m, where := s.o.Members[p.member], &c.Under
		if p.copy.ID == tops[p.member] {
			where = &c.Tops
		}
		*where = append(*where, escrow.Top{Member: m.Name(), Number: m.Number, ID: p.copy.ID, Shut: p.wrong != "" && !p.copy.Sealed})
	}
}

// cutting is the parts of one key that are on one shelf and were cut with one need.
type cutting struct {
	need   int
	pieces []piece
}

// numbers are the parts that can be read, by number; places are where in each member's
// shelf its newest one stands.
func (g cutting) numbers() (numbers map[int]bool, places []int) {
	numbers = map[int]bool{}
	best := map[int]int{}
	for _, p := range g.pieces {
		if p.wrong != "" {
			continue
		}
		numbers[p.part.Number] = true
		if at, ok := best[p.member]; !ok || p.place < at {
			best[p.member] = p.place
		}
	}
	return numbers, slices.Sorted(maps.Values(best))
}

// cuttings are the keys of a shelf that are there in parts, by fingerprint, one for each need.
func (x *splitIndex) cuttings(shelf escrow.Shelf) map[key.Fingerprint][]cutting {
	found := map[key.Fingerprint][]cutting{}
	for _, p := range x.pieces {
		if p.copy.Shelf != shelf || p.part.Whole() {
			continue
		}
		list := found[p.of]
		i := slices.IndexFunc(list, func(g cutting) bool { return g.need == p.part.Need })
		if i < 0 {
			i, list = len(list), append(list, cutting{need: p.part.Need})
		}
		list[i].pieces = append(list[i].pieces, p)
		found[p.of] = list
	}
	return found
}

// ranked is a copy with where it stands.
type ranked struct {
	escrow.Copy
	place int // the place that Need members give it, or better
	below int // 0 for a key of which enough parts are there or may be, 1 for one of too few, 2 for what is no part
}

// List needs what the members' List needs, and of those whose listing does not say which
// key a copy is of, Google Secret Manager's, what their Fetch needs.
func (s *Split) List(ctx context.Context) ([]escrow.Copy, error) {
	x, err := s.look(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list %s: %w", s.o.Name, err)
	}
	var copies []escrow.Copy
	mark := s.markTops(x)
	for _, shelf := range escrow.Shelves {
		var list []ranked
		for of, cuttings := range x.cuttings(shelf) {
			r := s.ranked(x, shelf, of, cuttings)
			for _, g := range cuttings {
				for _, p := range g.pieces {
					mark(&r.Copy, p)
				}
			}
			list = append(list, r)
		}
		for _, p := range x.pieces {
			if p.copy.Shelf == shelf && p.part.Whole() {
				_, rest, _ := strings.Cut(p.copy.ID, "/")
				c := p.copy
				c.Escrow, c.ID, c.Fingerprint, c.Beside = s.o.Name, string(shelf)+"/"+s.o.Members[p.member].Name()+"/"+rest, p.of, true
				mark(&c, p)
				list = append(list, ranked{c, p.place, 2})
			}
		}
		slices.SortFunc(list, func(a, b ranked) int {
			return cmp.Or(cmp.Compare(a.below, b.below), cmp.Compare(a.place, b.place), b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
		})
		for _, r := range list {
			copies = append(copies, r.Copy)
		}
	}
	return copies, nil
}

// ranked describes a key that is there in parts.
func (s *Split) ranked(x *splitIndex, shelf escrow.Shelf, of key.Fingerprint, cuttings []cutting) ranked {
	r := ranked{Copy: escrow.Copy{Escrow: s.o.Name, ID: string(shelf) + "/" + string(of), Shelf: shelf, Fingerprint: of}, place: math.MaxInt}
	have, most := best(cuttings)
	need := most.need
	for _, g := range cuttings {
		numbers, places := g.numbers()
		if len(numbers) >= g.need {
			r.place = min(r.place, places[min(g.need, len(places))-1])
		}
		for _, p := range g.pieces {
			if p.copy.Created.After(r.Created) {
				r.Created = p.copy.Created
			}
		}
	}
	if have >= need {
		return r
	}
	silent := len(failures(x.silent))
	if have+silent < need {
		r.below = 1
	}
	if silent > 0 {
		return r // Fetch says what the silent ones said
	}
	r.Unreadable = fmt.Sprintf("%d of the %d parts that it needs: %s", have, need, s.missing(cuttings))
	for _, g := range cuttings {
		sealed := map[int]bool{}
		numbers, _ := g.numbers()
		for _, p := range g.pieces {
			if p.copy.Sealed {
				sealed[p.part.Number] = true
			}
		}
		r.Sealed = r.Sealed || len(numbers)+len(sealed) >= g.need
	}
	return r
}

// best is, of the cuts of a key, the one of which the most parts are there for its need.
func best(cuttings []cutting) (have int, of cutting) {
	have = -1
	for _, g := range cuttings {
		numbers, _ := g.numbers()
		if d := len(numbers) - g.need; have < 0 || d > have-of.need {
			have, of = len(numbers), g
		}
	}
	return have, of
}

// spares tells whether a key can be rebuilt whichever one of n members is lost.
func spares(cuttings []cutting, n int) bool {
	for lost := range n {
		if !slices.ContainsFunc(cuttings, func(g cutting) bool {
			g.pieces = slices.DeleteFunc(slices.Clone(g.pieces), func(p piece) bool { return p.member == lost })
			numbers, _ := g.numbers()
			return len(numbers) >= g.need
		}) {
			return false
		}
	}
	return true
}

// missing says what became of the parts that cannot be read.
func (s *Split) missing(cuttings []cutting) string {
	var said []string
	for i, m := range s.o.Members {
		if why := s.without(i, cuttings...); why != "" {
			said = append(said, m.Name()+": "+why)
		}
	}
	return strings.Join(said, "; ")
}

// without says why a member's part of a key is of no use, "" where it can be read.
func (s *Split) without(member int, cuttings ...cutting) string {
	const none = "it has none"
	why := none
	for _, g := range cuttings {
		for _, p := range g.pieces {
			if p.member == member && (why == none || p.wrong == "") {
				why = p.wrong
			}
		}
	}
	return why
}
