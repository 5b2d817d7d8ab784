package kinds

// This file puts keys together from their parts; splitindex.go says where these are.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// Fetch rebuilds a key from the parts of as many members as it takes, or reads a whole
// one. The parts alone decide: what a listing claims is only where to look.
func (s *Split) Fetch(ctx context.Context, c escrow.Copy) (key.Key, key.Encoding, error) {
	fail := func(err error) (key.Key, key.Encoding, error) {
		return key.Key{}, "", fmt.Errorf("cannot fetch %q from %s: %w", clip(c.ID), s.o.Name, err)
	}
	shelf, rest, ok := strings.Cut(c.ID, "/")
	if !ok || !slices.Contains(escrow.Shelves[:], escrow.Shelf(shelf)) {
		return fail(escrow.ErrGone)
	}
	if member, id, ok := strings.Cut(rest, "/"); ok {
		i := slices.IndexFunc(s.o.Members, func(m escrow.Member) bool { return m.Name() == member })
		if i < 0 {
			return fail(escrow.ErrGone)
		}
		k, enc, err := s.o.Members[i].Fetch(ctx, escrow.Copy{ID: shelf + "/" + id})
		wipePart(err)
		return k, enc, err
	}
	of, err := key.ParseFingerprint(rest)
	if err != nil {
		return fail(escrow.ErrGone)
	}
	s.mu.Lock()
	x := s.index
	s.mu.Unlock()
	if x == nil || x.cuttings(escrow.Shelf(shelf))[of] == nil {
		if x, err = s.look(ctx); err != nil {
			return fail(err)
		}
	}
	cuttings := x.cuttings(escrow.Shelf(shelf))[of]
	if cuttings == nil {
		if silent := failures(x.silent); len(silent) > 0 {
			return fail(s.all(silent))
		}
		return fail(escrow.ErrGone)
	}
	k, err := s.gather(ctx, of, cuttings, x.silent)
	if err != nil {
		return fail(err)
	}
	return k, key.Raw, nil
}

// FetchLatest rebuilds the newest key from the members that are fastest: that of which Need
// members have the newest part is the newest whatever the others say, and they are not
// waited for. Where others are enough for a key of their own, only a listing tells. It needs
// what a member's FetchLatest needs, else List and Fetch.
func (s *Split) FetchLatest(ctx context.Context) (escrow.Copy, key.Key, key.Encoding, error) {
	if 2*s.o.Need <= len(s.o.Members) {
		return escrow.Copy{}, key.Key{}, "", fmt.Errorf("%s: %w", s.o.Name, errNoNewest)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	type cut struct {
		of   key.Fingerprint
		need int
	}
	parts := map[cut][]key.Part{}
	var k key.Key
	var silent []error
	fewer := false // are enough, for a key that was cut when fewer were needed
	for n := range s.newestParts(ctx) {
		switch c := (cut{n.part.Of, n.part.Need}); {
		case n.err != nil && !isAny(n.err, escrow.ErrNotKey, escrow.ErrCorrupt, escrow.ErrUnreadable, escrow.ErrGone, escrow.ErrSealed, errNoNewest):
			silent = append(silent, n.err)
		case n.err != nil:
		case !k.IsZero():
			n.part.Wipe()
		default:
			if parts[c] = append(parts[c], n.part); len(parts[c]) < s.o.Need {
				fewer = fewer || len(parts[c]) >= c.need
				break // another key may be newer elsewhere
			}
			var err error
			if k, _, err = key.Rebuild(parts[c]); err == nil {
				stop()
			}
		}
	}
	for _, list := range parts {
		for _, p := range list {
			p.Wipe()
		}
	}
	switch {
	case !k.IsZero():
		of := k.Fingerprint()
		return escrow.Copy{Escrow: s.o.Name, ID: string(escrow.Current) + "/" + string(of), Shelf: escrow.Current, Fingerprint: of}, k, key.Raw, nil
	case len(s.o.Members)-len(silent) < s.o.Need && !fewer:
		return escrow.Copy{}, key.Key{}, "", fmt.Errorf("cannot read the newest part of %s: %w", s.o.Name, s.all(silent))
	}
	return escrow.Copy{}, key.Key{}, "", fmt.Errorf("%s: %w", s.o.Name, errNoNewest)
}

// topPart is what a member has on top of its current shelf, or why that cannot be had.
type topPart struct {
	part key.Part
	err  error
}

// newestParts asks all members at once.
func (s *Split) newestParts(ctx context.Context) <-chan topPart {
	came := make(chan topPart)
	var wait crew.Group
	for _, m := range s.o.Members {
		wait.Go(func() error {
			var n topPart
			n.err = crew.Do(func() (err error) {
				n.part, err = newestPart(ctx, m.Escrow)
				return err
			})
			if n.err != nil {
				n.err = fmt.Errorf("%s: %w", m.Name(), n.err)
			}
			came <- n
			return nil
		})
	}
	crew.Go(func() error { defer close(came); return wait.Wait() })
	return came
}

// newestPart reads the part that a member has on top of its current shelf.
func newestPart(ctx context.Context, e escrow.Escrow) (key.Part, error) {
	var k key.Key
	var err error
	if l, ok := e.(escrow.Latest); ok {
		_, k, _, err = l.FetchLatest(ctx)
	} else {
		var copies []escrow.Copy
		if copies, err = e.List(ctx); err == nil {
			err = errNoNewest
			if len(copies) > 0 && copies[0].Shelf == escrow.Current {
				k, _, err = e.Fetch(ctx, copies[0])
			}
		}
	}
	k.Wipe()
	var part *key.PartError
	switch {
	case errors.As(err, &part):
		return part.Part, nil
	case err == nil:
		err = errNoNewest // a whole key
	}
	return key.Part{}, err
}

func wipePart(err error) {
	if part, ok := errors.AsType[*key.PartError](err); ok {
		part.Part.Wipe()
	}
}

// readPart is a member's part as it was fetched.
type readPart struct {
	piece
	got key.Part
	err error
}

// fetch reads the parts of a key on every member that answers, and hands them on as they
// come: of each member and need the first of pieces that is what it is called, or else what
// became of the first. The channel is closed after the last; who reads it reads all.
func (s *Split) fetch(ctx context.Context, of key.Fingerprint, cuttings []cutting, pieces func(cutting) [][]piece) <-chan readPart {
	out := make(chan readPart)
	var wait crew.Group
	for _, g := range cuttings {
		for _, own := range pieces(g) {
			wait.Go(func() error {
				first := s.read(ctx, of, own[0])
				for _, p := range own[1:] {
					if first.err == nil || !isAny(first.err, escrow.ErrNotKey, escrow.ErrCorrupt, escrow.ErrUnreadable, escrow.ErrGone) {
						break
					}
					if r := s.read(ctx, of, p); r.err == nil {
						first = r
					}
				}
				out <- first
				return nil
			})
		}
	}
	crew.Go(func() error { defer close(out); return wait.Wait() })
	return out
}

// read fetches one piece and makes sure that it is a part of the key.
func (s *Split) read(ctx context.Context, of key.Fingerprint, p piece) readPart {
	err := crew.Do(func() error {
		k, _, err := s.o.Members[p.member].Fetch(ctx, p.copy)
		k.Wipe()
		return err
	})
	r := readPart{piece: p, err: err}
	var part *key.PartError
	switch {
	case errors.As(err, &part) && part.Part.Of == of:
		r.got, r.err = part.Part, nil
	case errors.As(err, &part):
		r.err = fmt.Errorf("%w: it is of key %s", escrow.ErrCorrupt, part.Part.Of)
		part.Part.Wipe()
	case err == nil:
		r.err = fmt.Errorf("%w: it is no part", escrow.ErrCorrupt)
	}
	return r
}

// each are a cutting's pieces by member: those that can be read where there are such, the newest
// first.
func (g cutting) each() [][]piece {
	all := map[int][]piece{}
	for _, p := range g.pieces {
		own := all[p.member]
		switch {
		case len(own) == 0, own[0].wrong != "" && p.wrong == "":
			all[p.member] = []piece{p}
		case p.wrong == "":
			all[p.member] = append(own, p)
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b []piece) int { return cmp.Compare(a[0].member, b[0].member) })
}

// newest is the first of each.
func (g cutting) newest() [][]piece {
	each := g.each()
	for i := range each {
		each[i] = each[i][:1]
	}
	return each
}

// gather rebuilds a key. It does not wait for a member once the others have told enough. Of a
// part that was spoiled, or is called what it is not, an older copy on the same member will do.
func (s *Split) gather(ctx context.Context, of key.Fingerprint, cuttings []cutting, silent []error) (key.Key, error) {
	ctx, stop := context.WithCancel(ctx)
	parts := map[int][]key.Part{} // by need
	var k key.Key
	var said []error
	var wrong error
	for r := range s.fetch(ctx, of, cuttings, cutting.each) {
		switch {
		case r.err != nil:
			said = append(said, fmt.Errorf("%s: %w", s.o.Members[r.member].Name(), r.err))
		case !k.IsZero():
			r.got.Wipe()
		default:
			parts[r.got.Need] = append(parts[r.got.Need], r.got)
			var err error
			if k, _, err = key.Rebuild(parts[r.got.Need]); err == nil {
				stop()
			} else if errors.Is(err, key.ErrWrongParts) {
				wrong = err
			}
		}
	}
	stop()
	have := map[int]int{}
	for need, list := range parts {
		have[need] = len(list)
		for _, p := range list {
			p.Wipe()
		}
	}
	if k.IsZero() {
		return k, s.notRebuilt(cuttings, have, append(said, failures(silent)...), wrong)
	}
	return k, nil
}

// notRebuilt is why a key was not: of what was read, by need, and of what members said; or
// wrong, where there were enough.
func (s *Split) notRebuilt(cuttings []cutting, read map[int]int, said []error, wrong error) error {
	if wrong != nil {
		return fmt.Errorf("%w: %s", escrow.ErrCorrupt, wrong)
	}
	have, need := 0, cuttings[0].need
	for n, parts := range read {
		if have == 0 || parts-n > have-need {
			have, need = parts, n
		}
	}
	if len(said) > 0 {
		return fmt.Errorf("%d of the %d parts that it needs: %w", have, need, fewParts(said))
	}
	return fmt.Errorf("%w: %d of the %d parts that it needs: %s", escrow.ErrUnreadable, have, need, s.missing(cuttings))
}

// errAlone: a part that was read, and tells nothing without others.
var errAlone = errors.New("too few others to try it with")

// Rebuild reads the parts of a copy from every member, and rebuilds the key so often that
// each part that is right takes part. A part that is not the key's is named as wrong. The
// error is Fetch's where they are not enough.
func (s *Split) Rebuild(ctx context.Context, c escrow.Copy) (key.Key, []escrow.PartOutcome, error) {
	fail := func(list []escrow.PartOutcome, err error) (key.Key, []escrow.PartOutcome, error) {
		return key.Key{}, list, fmt.Errorf("cannot rebuild %q from %s: %w", clip(c.ID), s.o.Name, err)
	}
	shelf, rest, _ := strings.Cut(c.ID, "/")
	if strings.Contains(rest, "/") { // a whole one
		k, _, err := s.Fetch(ctx, c)
		return k, nil, err
	}
	of, err := key.ParseFingerprint(rest)
	if err != nil {
		return fail(nil, escrow.ErrGone)
	}
	x, err := s.look(ctx)
	if err != nil {
		return fail(nil, err)
	}
	cuttings := x.cuttings(escrow.Shelf(shelf))[of]
	list := make([]escrow.PartOutcome, len(s.o.Members))
	for i, m := range s.o.Members {
		list[i] = escrow.PartOutcome{Member: m.Name(), Number: m.Number, Required: m.Required, Err: fmt.Errorf("%w: it has no part of key %s", escrow.ErrGone, of)}
		if x.silent[i] != nil {
			list[i].Err = errors.Unwrap(x.silent[i])
		}
	}
	said := failures(x.silent)
	switch {
	case cuttings == nil && len(said) > 0:
		return fail(list, s.all(said))
	case cuttings == nil:
		return fail(list, escrow.ErrGone)
	}
	got, have := map[int][]readPart{}, map[int]int{} // by need
	for r := range s.fetch(ctx, of, cuttings, cutting.newest) {
		if list[r.member].Err = r.err; r.err == nil {
			got[r.got.Need] = append(got[r.got.Need], r)
			have[r.got.Need]++
		} else {
			said = append(said, fmt.Errorf("%s: %w", s.o.Members[r.member].Name(), r.err))
		}
	}
	var k key.Key
	var none error // of enough parts no combination is the key
	var few []readPart
	for need, read := range got {
		found, err := s.judge(of, need, read, list)
		switch {
		case err == nil:
		case errors.Is(err, key.ErrWrongParts):
			none = cmp.Or(none, err)
		default:
			few = append(few, read...)
		}
		if k.IsZero() {
			k = found
		} else {
			found.Wipe()
		}
	}
	for _, r := range few {
		if !k.IsZero() {
			list[r.member].Err = fmt.Errorf("%w: it was cut for another need, %d", escrow.ErrRecut, r.part.Need)
		}
	}
	if k.IsZero() {
		return fail(list, s.notRebuilt(cuttings, have, said, none))
	}
	return k, list, nil
}

// judge rebuilds the key from parts that were cut for one need, wipes them, and says in the list
// which of them are not that key's. The error is key.Rebuild's.
func (s *Split) judge(of key.Fingerprint, need int, read []readPart, list []escrow.PartOutcome) (key.Key, error) {
	var parts []key.Part
	for _, r := range read {
		parts = append(parts, r.got)
	}
	found, wrong, err := key.Rebuild(parts)
	for i, r := range read {
		m := s.o.Members[r.member]
		switch e := &list[r.member].Err; {
		case err != nil:
			*e = errAlone
		case slices.Contains(wrong, i):
			*e = fmt.Errorf("%w: part %d is not that of key %s, though it says so", escrow.ErrCorrupt, r.got.Number, of)
		case r.got.Number != m.Number:
			*e = fmt.Errorf("%w: it is part %d, and the configuration says part %d", escrow.ErrPartMoved, r.got.Number, m.Number)
		case !sameKey(found, rebuiltWith(parts, wrong, i, need)):
			*e = fmt.Errorf("%w: with part %d the key is not rebuilt", escrow.ErrCorrupt, r.got.Number)
		}
	}
	for _, p := range parts {
		p.Wipe()
	}
	return found, err
}

// sameKey compares, and wipes the second.
func sameKey(k, o key.Key) bool {
	defer o.Wipe()
	return k.Equal(o)
}

// rebuiltWith rebuilds the key from part i and as many others as are needed, the next
// ones in the list that have other numbers.
func rebuiltWith(parts []key.Part, wrong []int, i, need int) key.Key {
	var some []key.Part
	for n := range parts {
		p := parts[(i+n)%len(parts)]
		if len(some) < need && !slices.Contains(wrong, (i+n)%len(parts)) && !slices.ContainsFunc(some, func(o key.Part) bool { return o.Number == p.Number }) {
			some = append(some, p)
		}
	}
	k, _, _ := key.Rebuild(some)
	return k
}
