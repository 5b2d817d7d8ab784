package agent

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
)

// This file fetches copies as evidence, for all but a drill, which takes in what it has restored
// (restoreAll in drill.go). A save reads a copy only to see whether it is there (save.go, due.go,
// revisit.go). How many are fetched depends on what they are for: a save of a key that the rows
// prove needs the newest current copy alone (askNewest); where they prove nothing, a saver needs the
// whole current shelf (askShelf), and a backup takes every copy, as a status and a restore do
// (askEscrow); a start and the watcher take the newest current copy first, and the others where that is
// not enough to decide. Which copy is the newest current one decide.EscrowEvidence.NewestCurrent says
// for all of them.

// fetchesAtOnce is how many copies of one escrow are fetched at the same time. A program
// that is run for each, a password manager's, is not known to bear more than one.
const fetchesAtOnce = 8

// mostDenials is how many copies are asked for where the store denies each.
const mostDenials = 3

func atOnce(s escrow.Reader) int {
	if s.Place().Kind == "command" {
		return 1
	}
	return fetchesAtOnce
}

// fetched is one copy as the store gave it.
type fetched struct {
	n        int // of the copies
	key      key.Key
	encoding key.Encoding
	err      error
	took     time.Duration
}

// fetchOptions change how fetchEach goes about it. The zero value fetches all, in their order.
type fetchOptions struct {
	skip         string                                                          // the id of a copy that was fetched before
	lastAsked    func(id string) time.Duration                                   // when a copy was asked for last: the longest ago comes first
	beforeSecond func()                                                          // called when the first was fetched, before any other
	fetch        func(ctx context.Context, n int) (key.Key, key.Encoding, error) // instead of the Reader's Fetch
}

// fetchEach fetches the copies that can be read. The first comes alone: it is mostly the
// one that is needed, and tells whether the store is there. Then the others follow, several
// at a time. got is called for each and owns its key, never twice at
// once; where it returns an error, no more are asked for, and that is returned.
func fetchEach(ctx context.Context, s escrow.Reader, copies []escrow.Copy, how fetchOptions, got func(fetched) error) error {
	g, ctx := crew.WithContext(ctx)
	g.SetLimit(atOnce(s))
	if how.fetch == nil {
		how.fetch = func(ctx context.Context, n int) (key.Key, key.Encoding, error) { return s.Fetch(ctx, copies[n]) }
	}
	var lock sync.Mutex
	fetch := func(n int) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		start := time.Now()
		k, encoding, err := how.fetch(ctx, n)
		lock.Lock()
		defer lock.Unlock()
		return got(fetched{n, k, encoding, err, time.Since(start)})
	}
	var order []int
	for n, c := range copies {
		if c.Unreadable == "" && c.ID != how.skip {
			order = append(order, n)
		}
	}
	if how.lastAsked != nil {
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(how.lastAsked(copies[a].ID), how.lastAsked(copies[b].ID)) })
	}
	for i, n := range order {
		if i > 0 {
			g.Go(func() error { return fetch(n) })
			continue
		}
		if err := fetch(n); err != nil {
			return err
		}
		if how.beforeSecond != nil {
			how.beforeSecond()
		}
	}
	return g.Wait()
}

// listedEvidence is a listing as evidence, of which no copy was fetched yet.
func listedEvidence(r escrow.Reader, copies []escrow.Copy) []decide.CopyEvidence {
	var list []decide.CopyEvidence
	members := 0
	if shared, ok := r.(escrow.Shared); ok {
		members = len(shared.Members())
	}
	for _, c := range copies {
		list = append(list, decide.CopyEvidence{ID: c.ID, Shelf: c.Shelf, Key: c.Fingerprint, Called: c.Fingerprint, Unreadable: c.Unreadable,
			Worthless: c.Worthless(),
			Withheld:  c.Unreadable != "" && !c.Sealed, Sealed: c.Sealed, Ends: !c.Ends.IsZero(), Beside: c.Beside, Tops: c.Tops, Under: c.Under,
			Lacks: len(c.Tops) < members || slices.ContainsFunc(c.Tops, func(top escrow.Top) bool { return top.Shut })})
	}
	return list
}

// noteFetched takes into the evidence of a copy how its fetch ended. It returns an error
// where that says nothing of the copy: the store itself fails.
func noteFetched(c *decide.CopyEvidence, f fetched) error {
	var sealed *escrow.SealedError
	switch err := f.err; {
	case err == nil:
		c.Key, c.Have, c.Encoding = f.key.Fingerprint(), true, f.encoding
	case errors.As(err, &sealed):
		c.Unreadable, c.Key, c.Sealed, c.Locked = err.Error(), sealed.Fingerprint, true, sealed.Unusable != nil
	case errors.Is(err, escrow.ErrUnreadable):
		c.Unreadable, c.Withheld = err.Error(), true
	case errors.Is(err, escrow.ErrSealed):
		c.Unreadable, c.Sealed = err.Error(), true
	case errors.Is(err, escrow.ErrCorrupt):
		c.Unreadable, c.Key = err.Error(), "" // what it says of itself is not so
	case errors.Is(err, escrow.ErrNotKey):
		c.Worthless, c.Unreadable, c.Key = true, err.Error(), ""
	case errors.Is(err, ErrNotAgain):
		// It was listed from memory: the escrow cannot answer yet, whatever the copy is.
	default:
		return err
	}
	return nil
}

// askLatest fetches the newest current copy of a store that gives it without a listing:
// where that one opens the rows, as it mostly does, nothing else is asked of the store. It
// returns an error where the store itself fails.
func (o *observation) askLatest(ctx context.Context, s escrow.Reader, got func(decide.CopyEvidence, key.Key)) error {
	l, ok := s.(escrow.Latest)
	if !ok {
		return nil
	}
	c, k, encoding, err := l.FetchLatest(ctx)
	if errors.Is(err, escrow.ErrNoPlace) { // or only no copy
		return nil
	}
	e := decide.CopyEvidence{ID: c.ID, Shelf: c.Shelf}
	if err := noteFetched(&e, fetched{key: k, encoding: encoding, err: err}); err != nil || !e.Have {
		k.Wipe()
		return err
	}
	got(e, k)
	return nil
}

// tellsTop tells whether what a store gives for its latest is all that a listing would say of
// the top of its current shelf. Of several stores each has a top of its own.
func tellsTop(s escrow.Reader) bool {
	_, parts := s.(escrow.Shared)
	return !parts
}

// unheard says why some of an escrow's stores did not answer to the last listing, "" where all
// did.
func unheard(s Escrow) string {
	if shared, ok := s.Writer.(escrow.Shared); ok {
		if silent := shared.Unheard(); silent != nil {
			return silent.Error()
		}
	}
	return ""
}

// displaced is ErrPartMoved where one of an escrow's stores has another part than the configuration
// says, by the last listing.
func displaced(s Escrow) error {
	if shared, ok := s.Writer.(escrow.Shared); ok {
		if err := shared.Refuses(""); errors.Is(err, escrow.ErrPartMoved) { // whichever key it is of
			return err
		}
	}
	return nil
}

// askEscrow lists one escrow and fetches its copies, and puts each into the inbox.
func (o *observation) askEscrow(ctx context.Context, i int) {
	s := o.host.Escrows[i]
	a := asking{i: i, s: s, inbox: o.inbox, e: decide.EscrowEvidence{Name: s.Name(), Required: s.Required}}
	err := o.askLatest(ctx, s.Reader, func(c decide.CopyEvidence, k key.Key) {
		a.latest, a.e.Copies, a.e.Seen = c, []decide.CopyEvidence{c}, tellsTop(s.Reader)
		a.put(k)
		a.inbox.awaitInterest(ctx, i)
	})
	if err == nil {
		err = ctx.Err() // nobody wanted more
	}
	if err == nil {
		err = a.all(ctx)
	}
	a.e.State = decide.EscrowAnswered
	if err != nil {
		a.e.State, a.e.Why, a.e.Err = decide.EscrowFailed, err.Error(), err
	}
	a.put(key.Key{})
}

// asking is one run of askEscrow.
type asking struct {
	i      int
	s      Escrow
	inbox  *inbox
	e      decide.EscrowEvidence // so far
	latest decide.CopyEvidence   // that was had without a listing
}

// put puts what is known by now into the inbox, and a key.
func (a *asking) put(k key.Key) {
	now := a.e
	now.Copies = append([]decide.CopyEvidence(nil), a.e.Copies...)
	a.inbox.put(a.i, now, k)
}

// all lists the escrow, and fetches what was not fetched yet.
func (a *asking) all(ctx context.Context) error {
	copies, err := a.s.List(ctx)
	if err != nil {
		return err
	}
	how := fetchOptions{skip: a.latest.ID, beforeSecond: func() { a.inbox.awaitInterest(ctx, a.i) }}
	if r, ok := a.s.Reader.(Rememberer); ok {
		a.e.Remembered, how.lastAsked = r.Remembered(), r.FetchedAt
	}
	a.e.Unheard, a.e.Displaced = unheard(a.s), displaced(a.s)
	a.e.Copies, a.e.Seen = listedEvidence(a.s.Reader, copies), true
	for n := range a.e.Copies {
		if a.e.Copies[n].ID == a.latest.ID {
			a.latest.Tops, a.latest.Under, a.latest.Lacks = a.e.Copies[n].Tops, a.e.Copies[n].Under, a.e.Copies[n].Lacks
			a.e.Copies[n] = a.latest
		}
	}
	var refused error // of every copy so far
	denials, given := 0, a.latest.Have
	err = fetchEach(ctx, a.s.Reader, copies, how, func(f fetched) error {
		c := &a.e.Copies[f.n]
		err := noteFetched(c, f)
		given = given || c.Have
		switch {
		case errors.Is(err, escrow.ErrGone): // since it was listed
			c.Unreadable, c.Withheld, err = err.Error(), true, nil
		case errors.Is(err, escrow.ErrDenied):
			// That copy's alone, where others are given; and nothing is asked a hundred times of
			// a store that gives none.
			if denials++; denials == mostDenials && !given {
				return err
			}
			refused = err
			c.Unreadable, c.Withheld, err = err.Error(), true, nil
		}
		if other, ok := errors.AsType[*escrow.MisnamedError](f.err); ok {
			c.Misnamed = other.Holds
		}
		if err == nil {
			a.put(f.key)
		}
		return err
	})
	if err == nil && !given {
		err = refused
	}
	return err
}

// askNewest lists an escrow, once, and makes sure of what its newest current copy is, where
// that is no key, of the one below, and where it is not the one that was saved there last, of
// that: all that law 4 has to know. A copy that this identity may not read is there all the same.
// It wants the history.
func (o *observation) askNewest(ctx context.Context, i int) {
	e := &o.evidence.Escrows[i]
	if e.State != decide.EscrowPending {
		return
	}
	copies, err := o.host.Escrows[i].List(ctx)
	o.newestOf(ctx, i, copies, err)
}

// newestOf is askNewest for who has the listing.
func (o *observation) newestOf(ctx context.Context, i int, copies []escrow.Copy, err error) {
	e, s := &o.evidence.Escrows[i], o.host.Escrows[i]
	if err == nil {
		e.Copies, e.Unheard, e.Displaced = listedEvidence(s.Reader, copies), unheard(s), displaced(s)
		read := func(n int) {
			c := &e.Copies[n]
			if c.Unreadable != "" {
				return
			}
			k, encoding, ferr := s.Fetch(ctx, copies[n])
			err = noteFetched(c, fetched{key: k, encoding: encoding, err: ferr})
			switch {
			case errors.Is(err, escrow.ErrDenied):
				c.Unreadable, err = err.Error(), nil
			case errors.Is(err, escrow.ErrGone): // since it was listed
				c.Unreadable, c.Withheld, err = err.Error(), true, nil
			}
			c.Have = false
			k.Wipe()
		}
		var last ledger.Entry
		o.inTurn(func() { // the save to another escrow may read the ledger anew
			last, _ = o.history().LastSaved(e.Name)
		})
		below := false // what follows stands below the newest that is, or may be, a key
		for n, c := range copies {
			if c.Shelf != escrow.Current || err != nil {
				break
			}
			if !c.Beside && (!below || c.ID == last.Copy && !e.Copies[n].InParts()) {
				read(n)
				below = below || !e.Copies[n].Worthless
			}
		}
	}
	e.State = decide.EscrowAnswered
	if err != nil {
		e.State, e.Why, e.Err, e.Copies = decide.EscrowFailed, err.Error(), err, nil
	}
	if errors.Is(err, escrow.ErrDenied) && tellsTop(s.Reader) {
		// What is on top may be told all the same, and says whether another host writes there.
		_ = o.askLatest(ctx, s.Reader, func(c decide.CopyEvidence, k key.Key) {
			c.Have, e.Copies, e.Seen = false, []decide.CopyEvidence{c}, true
			k.Wipe()
		})
	}
}

// askShelf makes sure, besides, of what the older copies on the current shelf are: where the
// rows prove nothing each of them has a say (law 4), and none that is not read may be another
// key. What the store does not give stays what the listing says.
func (o *observation) askShelf(ctx context.Context, i int) {
	o.askNewest(ctx, i)
	e, s := &o.evidence.Escrows[i], o.host.Escrows[i]
	var at []int
	var ask []escrow.Copy
	for n, c := range e.Copies {
		if c.Shelf == escrow.Current && c.Unreadable == "" && c.Encoding == "" { // not read yet
			at, ask = append(at, n), append(ask, escrow.Copy{Escrow: s.Name(), ID: c.ID, Shelf: c.Shelf, Fingerprint: c.Key})
		}
	}
	_ = fetchEach(ctx, s.Reader, ask, fetchOptions{}, func(f fetched) error { // what fails is not known
		defer f.key.Wipe()
		c := &e.Copies[at[f.n]]
		err := noteFetched(c, f)
		c.Have = false
		return err
	})
}

// askNewestAgain is askNewest for who has changed something there since.
func (o *observation) askNewestAgain(ctx context.Context, i int) {
	e := &o.evidence.Escrows[i]
	*e = decide.EscrowEvidence{Name: e.Name, Required: e.Required}
	o.askNewest(ctx, i)
}

// inbox holds what the escrows have told and the observation has not yet taken in.
//
// Of each escrow it lets the first copy by, mostly the newest current one, and then nothing more is
// fetched there until the rows have refused that one: put hands it over, awaitInterest holds the
// escrow back, take gives it to the observation, which tries it on the rows and decides. If that is no
// decision yet awaitEscrows comes again and begins with showInterest, which lets all escrows go on whose
// first copy was taken. If it is, the observation is closed, and no other copy is asked for.
type inbox struct {
	arrived chan struct{} // holds one where there is something

	lock     sync.Mutex // guards what follows
	told     map[int]decide.EscrowEvidence
	keys     []key.Key
	interest []chan struct{} // by escrow; closed by showInterest
	first    map[int]bool    // the escrows whose first copy was taken in
}

func newInbox(escrows int) *inbox {
	n := &inbox{arrived: make(chan struct{}, 1), told: map[int]decide.EscrowEvidence{}, first: map[int]bool{}}
	for range escrows {
		n.interest = append(n.interest, make(chan struct{}))
	}
	return n
}

// put replaces what was told of an escrow, and adds a key.
func (n *inbox) put(i int, e decide.EscrowEvidence, k key.Key) {
	n.lock.Lock()
	defer n.lock.Unlock()
	n.told[i] = e
	if !k.IsZero() {
		n.keys = append(n.keys, k)
	}
	select {
	case n.arrived <- struct{}{}:
	default: // there is something already
	}
}

// awaitInterest returns when the observation wants more of an escrow than its first copy.
func (n *inbox) awaitInterest(ctx context.Context, i int) {
	select {
	case <-n.interest[i]:
	case <-ctx.Done():
	}
}

// showInterest says that what was taken in was not enough.
func (n *inbox) showInterest() {
	n.lock.Lock()
	defer n.lock.Unlock()
	for i := range n.first {
		select {
		case <-n.interest[i]:
		default:
			close(n.interest[i])
		}
	}
}

// take hands over all that was told since.
func (n *inbox) take() (map[int]decide.EscrowEvidence, []key.Key) {
	n.lock.Lock()
	defer n.lock.Unlock()
	told, keys := n.told, n.keys
	n.told, n.keys = map[int]decide.EscrowEvidence{}, nil
	for i := range told {
		n.first[i] = true
	}
	return told, keys
}
