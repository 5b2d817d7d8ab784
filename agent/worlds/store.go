package worlds

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/worlds/laws"
)

// store is an escrow. Its manners are those of every kind, and more of them.
type store struct {
	name   string
	copies []stored // oldest first
	serial int

	manners

	optional bool // nobody requires it

	part escrow.PartOf // it is a member of the split, and keeps this part of each key
}

// manners are how a store behaves.
type manners struct {
	down    bool          // nobody answers
	far     bool          // there is no way to it from here, yet
	hangs   bool          // the connection is taken, and nothing comes
	slow    time.Duration // before each answer
	denied  bool          // it knows who asks, and refuses
	addOnly bool          // it takes copies, and shows none
	mute    bool          // listings show no fingerprints, as Secret Manager's
	late    time.Duration // a listing shows only then what is put there from now on
	gone    bool          // the place is not there any more
	full    bool          // it shows what it has, and takes nothing
	fails   int           // so many calls from now on, as if it were away
}

type stored struct {
	id     string
	shelf  escrow.Shelf
	bytes  []byte // what is there; no key where somebody mangled it
	at     time.Time
	late   time.Duration   // before a listing shows it
	state  string          // "", "disabled", "destroyed"
	byHand bool            // somebody else than keyguard put it there
	by     string          // the host whose keyguard did, "" for nobody's
	unseen []string        // ids of what stood there then and had not been shown to it
	label  key.Fingerprint // of which key a listing says it is, where that is not so
	hidden bool            // it was shut once, where no listing says what it is

	of   key.Fingerprint // what the bytes are: a key, or this part of one
	part escrow.PartOf
}

// is names what the copy holds, and which part of it.
func (c stored) is() (key.Fingerprint, escrow.PartOf) { return c.of, c.part }

// whole names the key that is there whole, "" for none.
func (c stored) whole() key.Fingerprint {
	if c.part != (escrow.PartOf{}) {
		return ""
	}
	return c.of
}

// read names what bytes are.
func read(bytes []byte) (key.Fingerprint, escrow.PartOf) {
	k, _, err := key.Decode(bytes)
	if part, ok := errors.AsType[*key.PartError](err); ok {
		defer part.Part.Wipe()
		return part.Part.Of, escrow.PartOf{Need: part.Part.Need, Number: part.Part.Number}
	}
	defer k.Wipe()
	return k.Fingerprint(), escrow.PartOf{}
}

// add puts bytes on a shelf, as a host does.
func (s *store) add(shelf escrow.Shelf, bytes []byte) stored {
	s.serial++
	c := stored{id: fmt.Sprintf("%s/%d", shelf, s.serial), shelf: shelf, bytes: slices.Clone(bytes), at: time.Now(), late: s.late}
	c.of, c.part = read(bytes)
	s.copies = append(s.copies, c)
	return c
}

// addByHand is add for a person, or another program.
func (s *store) addByHand(shelf escrow.Shelf, bytes []byte) {
	s.add(shelf, bytes)
	s.copies[len(s.copies)-1].byHand = true
}

// lists tells whether a listing at a time shows a copy: what was shown once is shown ever after.
func (s *store) lists(c stored, at time.Time) bool {
	late := c.late
	if s.late == 0 {
		late = 0
	}
	return !at.Before(c.at.Add(late))
}

// answers tells that nothing keeps the store from answering.
func (s *store) answers() bool {
	return !s.down && !s.far && !s.hangs && !s.denied && !s.gone && !s.addOnly && s.fails == 0
}

// view is the store as one process sees it.
type view struct {
	*store
	p *process
}

func (v view) Name() string { return v.name }

func (v view) Place() escrow.Place {
	return escrow.Place{Kind: "simulated", Where: v.name, Domain: "the store " + v.name}
}

// answer waits as long as the store takes, and says what keeps it from answering. No two
// calls take equally long, so that those that are made at once end in one order.
func (v view) answer(ctx context.Context, call, id string) (err error) {
	h := fnv.New32a()
	h.Write([]byte(v.name + call + id)) //nolint:errcheck // a hash
	wait := v.slow + time.Millisecond + time.Duration(h.Sum32()%1_000_000)
	if v.hangs {
		wait = time.Hour
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
	}
	v.p.cross()
	if err := v.p.effect(v.name, call); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			v.p.failed.Store(true)
		}
	}()
	if v.far {
		return escrow.ErrNeverLeft
	}
	v.p.called(v.store, call)
	switch {
	case ctx.Err() != nil:
		return errors.Join(escrow.ErrTimeout, ctx.Err())
	case v.down, v.failing():
		return escrow.ErrUnreachable
	case v.gone:
		return escrow.ErrNoPlace
	case v.denied, v.addOnly && call != "save":
		return escrow.ErrDenied
	}
	return nil
}

// cross lets happen what is to happen between two calls of stores, or between a store's listing and
// what is made of it.
func (p *process) cross() {
	p.w.mu.Lock()
	p.after--
	now := p.after == 0 && !p.dead
	p.w.mu.Unlock()
	if now {
		p.crossed()
	}
}

// failing tells whether this call is one of those that fail now and then.
func (v view) failing() bool {
	v.p.w.mu.Lock()
	defer v.p.w.mu.Unlock()
	if v.fails == 0 {
		return false
	}
	v.fails--
	return true
}

// called holds a call of a process to law 9.
func (p *process) called(s *store, call string) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.calls++
	p.of[s.name]++
	p.w.calls[p.h.name+s.name]++
	if call == "save" {
		p.w.saves[p.h.name+s.name]++
	}
	if !p.starts {
		return
	}
	copies := len(s.copies)
	if s.part != (escrow.PartOf{}) { // a part is read to be told which it is, and to rebuild the key
		copies *= 2
	}
	looks := 1
	if p.crossed != nil && p.after <= 0 {
		looks++
	}
	p.w.hold(laws.Called(s.name, p.of[s.name], copies, looks))
	if call != "list" || p.listed[s.name] {
		return
	}
	p.listed[s.name] = true
	now := asked{p.recalled, 1, p.h.boot, p.found}
	was, there := p.h.asked[s.name]
	if there && was.boot == now.boot && was.found == now.found && now.at.Sub(was.at) <= 10*time.Minute {
		now.n = was.n + 1
		p.w.hold(laws.Asked(s.name, now.n, now.at.Sub(was.at)))
	}
	p.h.asked[s.name] = now
}

// asked is when the starts of a host asked a store for its list last, how often in a row, in
// which boot, and what they found in the keyfile's place. Where that has changed, they may
// ask anew.
type asked struct {
	at    time.Time
	n     int
	boot  int
	found [2]int
}

// touched tells when the keyfile, and what stands beside it, were changed last.
func (h *host) touched() [2]int {
	return [2]int{h.disk.touched[h.keyfile()], h.disk.touched[h.keyfile()+".next"]}
}

func (v view) List(ctx context.Context) ([]escrow.Copy, error) {
	if err := v.answer(ctx, "list", ""); err != nil {
		return nil, err
	}
	defer v.p.cross()
	v.p.w.turn.Lock()
	defer v.p.w.turn.Unlock()
	delete(v.p.changed, v.name)
	v.p.shown[v.name] = time.Now()
	list := make([]escrow.Copy, 0, len(v.copies))
	for _, shelf := range escrow.Shelves {
		for _, c := range slices.Backward(v.copies) {
			if c.shelf != shelf || !v.lists(c, time.Now()) {
				continue
			}
			shown := escrow.Copy{Escrow: v.name, ID: c.id, Shelf: shelf, Created: c.at, Unreadable: c.state}
			if f, part := c.is(); !v.mute {
				shown.Fingerprint, shown.Part = cmp.Or(c.label, f), part
			}
			list = append(list, shown)
		}
	}
	return list, nil
}

func (v view) Fetch(ctx context.Context, want escrow.Copy) (key.Key, key.Encoding, error) {
	if err := v.answer(ctx, "fetch", want.ID); err != nil {
		return key.Key{}, "", err
	}
	v.p.w.turn.Lock()
	defer v.p.w.turn.Unlock()
	for _, c := range v.copies {
		switch {
		case c.id != want.ID:
			continue
		case c.state != "":
			return key.Key{}, "", fmt.Errorf("%w: %s", escrow.ErrUnreadable, c.state)
		}
		k, encoding, err := key.Decode(c.bytes)
		if err == nil && !v.mute && c.label != "" && c.label != c.of {
			err = &escrow.MisnamedError{Says: c.label, Holds: k.Fingerprint()}
		}
		return k, encoding, err
	}
	return key.Key{}, "", escrow.ErrGone
}

func (v view) Init(ctx context.Context) error {
	if err := v.answer(ctx, "init", ""); err != nil && !errors.Is(err, escrow.ErrNoPlace) {
		return err
	}
	v.gone = false
	return nil
}

// Save is the contract's: it compares, adds, reads back.
func (v view) Save(ctx context.Context, shelf escrow.Shelf, k key.Key) (escrow.Copy, error) {
	if err := v.answer(ctx, "save", string(shelf)); err != nil {
		return escrow.Copy{}, err
	}
	if v.full {
		return escrow.Copy{}, escrow.ErrFull
	}
	v.p.w.turn.Lock()
	defer v.p.w.turn.Unlock()
	name := func(c stored) escrow.Copy {
		return escrow.Copy{Escrow: v.name, ID: c.id, Shelf: shelf, Fingerprint: k.Fingerprint(), Created: c.at}
	}
	content := k.UnsafeBytes()
	if v.part != (escrow.PartOf{}) {
		part, err := k.Cut(v.part.Need, v.part.Number)
		if err != nil {
			return escrow.Copy{}, err
		}
		defer part.Wipe()
		content = part.UnsafeText()
	}
	if !v.addOnly {
		for _, c := range slices.Backward(v.copies) {
			if c.shelf != shelf {
				continue
			}
			if c.state == "" && bytes.Equal(c.bytes, content) && (v.mute || cmp.Or(c.label, c.of) == c.of) {
				return name(c), nil
			}
			if shelf == escrow.Current {
				break
			}
		}
	}
	var unseen []string
	for _, o := range v.copies {
		if !v.lists(o, v.p.shown[v.name]) {
			unseen = append(unseen, o.id)
		}
	}
	c := v.add(shelf, content)
	added := &v.copies[len(v.copies)-1]
	added.by, added.unseen = v.p.h.name, unseen
	if shelf == escrow.Current && v.p.changed[v.name] && !v.addOnly {
		v.p.w.broken("law 4", "law 4: a copy went onto the current shelf of %s by what stood there before the save before", v.name)
	}
	v.p.changed[v.name] = true
	if v.part == (escrow.PartOf{}) {
		v.p.w.saved(v.p, v.store, c)
	} else if shelf == escrow.Current {
		v.p.w.covered(v.p, v.store, c)
	}
	if err := v.p.effect(v.name, "the answer to the save"); err != nil {
		return escrow.Copy{}, errors.Join(escrow.ErrTimeout, err)
	}
	if v.addOnly {
		return name(c), escrow.ErrUnverified
	}
	return name(c), nil
}

func (v view) Close() error { return nil }

// shared is the split over the world's members, as one process sees it.
type shared struct {
	*kinds.Split
	p *process
}

// split is made anew for each process, as a program does.
func (p *process) split() (shared, bool) {
	o := kinds.SplitOptions{Name: "split"}
	for _, s := range p.h.stores {
		if s.part != (escrow.PartOf{}) {
			o.Need = s.part.Need
			o.Members = append(o.Members, escrow.Member{Escrow: view{s, p}, Number: s.part.Number})
		}
	}
	if o.Members == nil {
		return shared{}, false
	}
	split, err := kinds.NewSplit(o)
	must(err)
	return shared{split, p}, true
}

// Save holds a save to what it says: the parts that are there by then are the key, and no
// store alone has as many.
func (v shared) Save(ctx context.Context, shelf escrow.Shelf, k key.Key) (escrow.Copy, error) {
	w, had := v.p.w, v.p.h.parts()
	top := w.onTop(k.Fingerprint())
	c, err := v.Split.Save(ctx, shelf, k)
	w.turn.Lock()
	defer w.turn.Unlock()
	if err == nil || errors.Is(err, escrow.ErrPartly) {
		w.sharedSaved(v.p, shelf, k.Fingerprint(), v.p.h.parts() > had && !top)
	}
	w.apart()
	return c, err
}

// List holds a listing to what the newest copy in parts is: that of the key whose part is on
// top of as many members as it needs. And it shows no key as one that cannot be had of which
// parts enough are there.
func (v shared) List(ctx context.Context) ([]escrow.Copy, error) {
	had := v.p.h.parts()
	failing, well := slices.ContainsFunc(v.p.h.stores, func(s *store) bool { return s.fails > 0 }), v.p.h.well()
	copies, err := v.Split.List(ctx)
	if err == nil && !failing && !v.p.dead && v.p.h.parts() == had { // what comes meanwhile need not be listed
		v.p.w.turn.Lock()
		defer v.p.w.turn.Unlock()
		v.p.w.newestShared(v.p.h, copies)
		for _, c := range copies {
			if need, there := v.p.h.enough(c.Shelf)[c.Fingerprint]; there && well && !v.p.failed.Load() && !c.Beside && c.Unreadable != "" {
				v.p.w.broken("law 6", "law 6: of key %s there are %d parts that fit, and as many are needed; the split lists: %s", c.Fingerprint, need, c.Unreadable)
			}
		}
	}
	return copies, err
}

// Fetch holds a key in parts to law 6: it is had where enough parts of it, cut for one need,
// are there to be read.
func (v shared) Fetch(ctx context.Context, want escrow.Copy) (key.Key, key.Encoding, error) {
	well, had := v.p.h.well(), v.p.h.parts()
	k, encoding, err := v.Split.Fetch(ctx, want)
	if err != nil && well && !v.p.failed.Load() && !v.p.dead && ctx.Err() == nil && v.p.h.parts() == had {
		v.p.w.turn.Lock()
		defer v.p.w.turn.Unlock()
		for f, need := range v.p.h.enough(want.Shelf) {
			if want.ID == string(want.Shelf)+"/"+string(f) {
				v.p.w.broken("law 6", "law 6: of key %s there are %d parts that fit, and as many are needed; the split says: %v", f, need, err)
			}
		}
	}
	return k, encoding, err
}

// well tells that every member of the split shows all that it has, and at once.
func (h *host) well() bool {
	return !slices.ContainsFunc(h.stores, func(s *store) bool {
		return s.part != (escrow.PartOf{}) && (!s.answers() || s.slow > 0 || s.late > 0)
	})
}

// enough are the keys of which a shelf has as many parts that fit each other as they need, and
// how many that is: of each member the newest that can be read.
func (h *host) enough(shelf escrow.Shelf) map[key.Fingerprint]int {
	type cut struct {
		of   key.Fingerprint
		need int
	}
	numbers, enough := map[cut]map[int]bool{}, map[key.Fingerprint]int{}
	for _, s := range h.stores {
		seen := map[cut]bool{}
		for _, c := range slices.Backward(s.copies) {
			of, part := c.is()
			at := cut{of, part.Need}
			if s.part == (escrow.PartOf{}) || part == (escrow.PartOf{}) || c.shelf != shelf || c.state != "" || seen[at] {
				continue
			}
			seen[at] = true
			if numbers[at] == nil {
				numbers[at] = map[int]bool{}
			}
			if numbers[at][part.Number] = true; len(numbers[at]) >= part.Need {
				enough[of] = part.Need
			}
		}
	}
	return enough
}

// parts counts what members were ever given.
func (h *host) parts() (n int) {
	for _, s := range h.stores {
		if s.part != (escrow.PartOf{}) {
			n += s.serial
		}
	}
	return n
}
