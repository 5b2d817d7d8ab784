package escrow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// restFirst and restLongest bound how long a save leaves a member alone after it failed: it
// doubles. They are the watcher's own for an escrow.
const (
	restFirst   = 5 * time.Second
	restLongest = 5 * time.Minute
)

// splitLooks is how many copies of one member are read at once where its listing does not
// say which key they are of.
const splitLooks = 8

// Member is a store that keeps one part of each key: an escrow of any kind but Split, made
// with Part set.
type Member struct {
	Escrow
	// Number is that of the parts it keeps, and no other store's: for ever, whatever the
	// store is called.
	Number int
	// Required: a rotation does not go on without its part here.
	Required bool
}

// SplitOptions say which stores share a key.
type SplitOptions struct {
	Name    string // of the escrow
	Need    int    // how many parts rebuild a key
	Members []Member
}

// Split is an escrow that keeps a part of each key in each of several others: any Need
// rebuild it, and whoever reads fewer learns nothing.
//
// A copy here is a key, of which the members keep parts: "current/<fingerprint>". It is
// there once, however often it was the newest. The newest current copy is that of the key
// whose part is the newest on at least Need members. Where there is none, a save broke
// off: all are listed, in the order in which Need members have them.
//
// A whole key on a member's shelf, from before it was a member or put there by hand, is a
// copy of its own, "current/<member>/<the member's id>", below every key that is in parts
// and never the newest (Beside). So is what is neither.
//
// A copy's id is its key's name, whoever wrote it. So each copy says on which members it is
// on top, and under which of their ids (Tops): by these a stranger's is told from one's own.
//
// Law 6 in parts: fewer than Need members that answer cannot say anything, unless they are
// enough for a key that was cut for fewer. Where enough
// answer, a key of which too few parts are there is a copy that cannot be read; if a
// silent member may have what is missing, Fetch says what that member said.
type Split struct {
	o SplitOptions

	mu    sync.Mutex
	known map[pieceID]held // mu: what was read of copies whose listing does not tell
	index *splitIndex      // mu: the last listing
	rests []rest           // mu: by member
}

// rest is a member's breaker: a save does not ask it again before its time, and the others
// do not wait for it. Whoever reads asks it: a key may hang on its answer.
type rest struct {
	failures int // in a row
	until    time.Time
	err      error // the last one
}

// NewSplit checks the options. It opens no socket and no file.
func NewSplit(o SplitOptions) (*Split, error) {
	fail := func(format string, a ...any) (*Split, error) {
		return nil, fmt.Errorf("escrow %s: "+format, append([]any{o.Name}, a...)...)
	}
	if o.Need < key.MinNeed || o.Need > key.MaxParts {
		return fail("need is %d: %w", o.Need, key.ErrParts)
	}
	if len(o.Members) < o.Need {
		return fail("it has %d members, and %d are needed to rebuild a key", len(o.Members), o.Need)
	}
	for i, m := range o.Members {
		if _, wrong := m.Escrow.(*Misconfigured); wrong {
			continue // it cannot answer, and the others may be enough
		}
		if m.Number < 1 || m.Number > key.MaxParts {
			return fail("member %s has part %d: %w", m.Name(), m.Number, key.ErrParts)
		}
		for _, other := range o.Members[:i] {
			switch {
			case m.Name() == other.Name():
				return fail("member %s is named twice", m.Name())
			case m.Number == other.Number:
				return fail("members %s and %s both have part %d", other.Name(), m.Name(), m.Number)
			case m.Place().Kind == other.Place().Kind && m.Place().Where == other.Place().Where:
				return fail("members %s and %s are one place, %s: whoever reads it has two parts", other.Name(), m.Name(), m.Place().Where)
			}
		}
	}
	return &Split{o: o, known: map[pieceID]held{}, rests: make([]rest, len(o.Members))}, nil
}

func (s *Split) Name() string { return s.o.Name }

// Need is how many parts rebuild a key.
func (s *Split) Need() int { return s.o.Need }

// Members are the stores that have the parts.
func (s *Split) Members() []Member { return s.o.Members }

func (s *Split) Place() Place {
	var names, domains []string
	for _, m := range s.o.Members {
		names = append(names, m.Name())
		domains = append(domains, m.Place().Domain)
	}
	return Place{Kind: "split",
		Where:  fmt.Sprintf("%d of %s", s.o.Need, strings.Join(names, ", ")),
		Domain: fmt.Sprintf("any %d of %s", len(names)-s.o.Need+1, strings.Join(domains, ", "))}
}

// Close ends the members' connections.
func (s *Split) Close() error {
	return errors.Join(s.each(func(_ int, m Member) error { return m.Close() })...)
}

// PartsError is a save that is not on every member. Below Need the key is not saved, and
// cannot be read from here; with Need or more it is, and Save tells by ErrPartly.
type PartsError struct {
	Saved, Need, Of int
	// Safe: no required member lacks its part, and one more store may be lost. A rotation
	// may rely on it.
	Safe   bool
	Errors []error // what each member said that has no part now, each of one line
	Stored []Top   // what a Save has stored, or found
}

func (e *PartsError) Error() string {
	said := oneLine(e.Errors)
	switch spare := e.Saved - e.Need; {
	case e.Saved < e.Need:
		return fmt.Sprintf("not saved: %d of %d members have their part, and %d are needed: %s", e.Saved, e.Of, e.Need, said)
	case spare == 0:
		return fmt.Sprintf("saved on %d of %d members, and none of them may be lost: %s", e.Saved, e.Of, said)
	default:
		return fmt.Sprintf("saved on %d of %d members, %d more may be lost: %s", e.Saved, e.Of, spare, said)
	}
}

func (e *PartsError) Unwrap() []error {
	if e.Saved >= e.Need {
		return []error{ErrPartly}
	}
	return e.Errors
}

func oneLine(errs []error) string {
	var said []string
	for _, err := range errs {
		said = append(said, err.Error())
	}
	return strings.Join(said, "; ")
}

// several are the errors of members, as one error of one line, which is those of is.
type several struct{ said, is []error }

func (s *several) Error() string   { return oneLine(s.said) }
func (s *several) Unwrap() []error { return s.is }

// all is what members said as what the whole says. Nothing has left this host only where that
// is so of every member: else whoever asks again at once asks those that were reached.
func (s *Split) all(errs []error) error {
	e := &several{errs, slices.Clone(errs)}
	if len(errs) < len(s.o.Members) || slices.ContainsFunc(errs, func(err error) bool { return !errors.Is(err, ErrNeverLeft) }) {
		for i, err := range errs {
			e.is[i] = reached(err)
		}
	}
	return e
}

// reached is an error where others were asked, too.
func reached(err error) error {
	if errors.Is(err, ErrNeverLeft) {
		return ErrUnreachable
	}
	return err
}

// fewParts is what a key is from whose parts too few can be read. As long as one of the
// errors may go away it is these: the members cannot answer. Else it is sealed if a part
// is, and last a copy that cannot be read, but never bytes that are none (law 6).
func fewParts(errs []error) error {
	e := &several{said: errs}
	sealed := []error{ErrUnreadable}
	for _, err := range errs {
		switch {
		case errors.Is(err, ErrSealed):
			sealed = []error{err}
		case !isAny(err, ErrNotKey, ErrCorrupt, ErrUnreadable, ErrGone):
			e.is = append(e.is, reached(err))
		}
	}
	if e.is == nil {
		e.is = sealed
	}
	return e
}

// each calls f for every member at once, and waits.
func (s *Split) each(f func(i int, m Member) error) []error {
	errs := make([]error, len(s.o.Members))
	crew.Each(len(errs), func(i int) {
		m := s.o.Members[i]
		if err := crew.Do(func() error { return f(i, m) }); err != nil {
			errs[i] = fmt.Errorf("%s: %w", m.Name(), err)
		}
	})
	return errs
}

// Init makes the place of every member that is there to be asked.
func (s *Split) Init(ctx context.Context) error {
	failed := without(s.each(func(_ int, m Member) error { return m.Init(ctx) }), nil)
	if len(failed) > 0 {
		return fmt.Errorf("cannot initialise %d of %d members: %w", len(failed), len(s.o.Members), s.all(failed))
	}
	return nil
}

func without(errs []error, not error) []error {
	return slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == not })
}

// held is what a copy on a member is.
type held struct {
	of    key.Fingerprint // "" where it is no key and no part
	part  PartOf          // the zero PartOf where it is a whole key, or nothing
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
	copy   Copy
	place  int  // in the member's shelf, from 0, the newest
	read   bool // it was, and held does not only say what the listing calls it
}

// splitIndex is what the members hold, as they last said.
type splitIndex struct {
	silent []error // by member; nil of those that answered
	pieces []piece
}

// resting is what a member said that is not to be asked yet, nil for none.
func (s *Split) resting(i int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.rests[i].until) {
		return s.rests[i].err
	}
	return nil
}

// note remembers how a call of a member ended. Several that fail at the same time are one
// failure, and one that never left this host counts once.
func (s *Split) note(ctx context.Context, i int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.rests[i]
	switch {
	case err == nil || errors.Is(err, ErrUnverified):
		*r = rest{}
		return
	case ctx.Err() != nil || time.Now().Before(r.until):
		return
	case !errors.Is(err, ErrNeverLeft) || r.failures == 0:
		r.failures++
	}
	pause := restFirst
	for range r.failures - 1 {
		pause = min(2*pause, restLongest)
	}
	r.until, r.err = time.Now().Add(pause+rand.N(pause/4)), err
}

// Rests is how long it is until a save asks the first of the members that failed.
func (s *Split) Rests() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var first time.Duration
	for _, r := range s.rests {
		if d := time.Until(r.until); r.failures > 0 && d > 0 && (first == 0 || d < first) {
			first = d
		}
	}
	return first
}

// look lists all members. The error is for too few that answer, or for enough that have
// nothing while another may have some: ErrPerhaps.
func (s *Split) look(ctx context.Context) (*splitIndex, error) {
	x := s.lookBut(ctx, func(int) error { return nil })
	if err := s.answers(x, s.enough(x)); err != nil {
		return nil, err
	}
	if silent := without(x.silent, nil); len(x.pieces) == 0 && len(silent) > 0 {
		return nil, fmt.Errorf("%w: %w", ErrPerhaps, s.all(silent))
	}
	s.mu.Lock()
	s.index = x
	s.mu.Unlock()
	return x, nil
}

// lookBut lists the members of which but knows no error yet.
func (s *Split) lookBut(ctx context.Context, but func(i int) error) *splitIndex {
	found := make([][]piece, len(s.o.Members))
	x := &splitIndex{silent: s.each(func(i int, m Member) (err error) {
		if err := but(i); err != nil {
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
	silent := without(x.silent, nil)
	if n := len(s.o.Members) - len(silent); n < need {
		return fmt.Errorf("%d of %d members answer, and %d are needed: %w", n, len(s.o.Members), need, s.all(silent))
	}
	return nil
}

// enough is how many members must answer: fewer than Need where those that do have a key
// that was cut for fewer.
func (s *Split) enough(x *splitIndex) int {
	n := s.o.Need
	for _, shelf := range Shelves {
		for _, shares := range x.shares(shelf) {
			for _, g := range shares {
				if numbers, _ := g.numbers(); len(numbers) >= g.need {
					n = min(n, g.need)
				}
			}
		}
	}
	return n
}

// lookAt lists one member, and reads what its listing does not name.
func (s *Split) lookAt(ctx context.Context, i int, m Member) ([]piece, error) {
	copies, err := m.List(ctx)
	if err != nil {
		return nil, err
	}
	pieces := make([]piece, len(copies))
	place := map[Shelf]int{}
	var unknown []int
	for n, c := range copies {
		pieces[n] = piece{held{c.Fingerprint, c.Part, c.Unreadable, c.Unreadable == Destroyed}, i, c, place[c.Shelf], false}
		place[c.Shelf]++
		if c.Unreadable != "" {
			continue
		}
		s.mu.Lock()
		was, ok := s.known[pieceID{i, c.ID, c.Fingerprint}]
		s.mu.Unlock()
		if ok {
			pieces[n].held, pieces[n].read = was, true
		} else if c.Part.whole() {
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
func (s *Split) learn(i int, c Copy, was held) {
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

// displaced tells whether a part is of another number than its member's, by what is known of it.
func (s *Split) displaced(p *piece) bool { return p.part.Number != s.o.Members[p.member].Number }

// doubted are parts that nobody has read: of a key of which too few are there, and of members
// that show none of it; of a key that shows parts which were cut for different needs; and such
// as are displaced.
func (x *splitIndex) doubted(displaced func(p *piece) bool) (list []*piece) {
	doubt := map[*piece]bool{}
	doubts := func(which func(p *piece) bool) {
		for i := range x.pieces {
			if p := &x.pieces[i]; !p.read && p.wrong == "" && !p.part.whole() && which(p) {
				doubt[p] = true
			}
		}
	}
	doubts(displaced)
	needs := map[key.Fingerprint]int{}
	for _, shelf := range Shelves {
		for of, shares := range x.shares(shelf) {
			for _, g := range shares {
				if was, there := needs[of]; there && was != g.need {
					doubts(func(p *piece) bool { return p.of == of })
				}
				needs[of] = g.need
			}
			if have, need := best(shares); have >= need {
				continue
			}
			for _, g := range shares { // one that is cut for another need is of no use to it
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
func (s *Split) identify(ctx context.Context, m Member, c Copy) (held, error) {
	k, _, err := m.Fetch(ctx, c)
	defer k.Wipe()
	var part *key.PartError
	var shut *SealedError
	switch {
	case err == nil:
		return held{of: k.Fingerprint()}, nil
	case errors.As(err, &part):
		defer part.Part.Wipe()
		return held{of: part.Part.Of, part: PartOf{part.Part.Need, part.Part.Number}}, nil
	case errors.As(err, &shut) && shut.Fingerprint != "": // what keyguard seals here is this part
		return held{of: shut.Fingerprint, part: PartOf{s.o.Need, m.Number}, wrong: err.Error()}, nil
	case isAny(err, ErrNotKey, ErrCorrupt): // what it says of itself is not so
		return held{wrong: err.Error(), none: errors.Is(err, ErrNotKey)}, nil
	case isAny(err, ErrSealed, ErrUnreadable, ErrGone, ErrDenied):
		return held{of: c.Fingerprint, wrong: err.Error()}, nil
	}
	return held{}, err
}

// stand says of every copy where on the members' current shelves it is, and whether on top:
// the newest that is, or may be, a key or a part of one.
func (s *Split) stand(x *splitIndex) func(c *Copy, p piece) {
	tops := map[int]string{}
	for _, p := range x.pieces { // of each member the newest first
		if _, had := tops[p.member]; !had && p.copy.Shelf == Current && !p.none {
			tops[p.member] = p.copy.ID
		}
	}
	return func(c *Copy, p piece) {
		if p.copy.Shelf != Current || p.none {
			return
		}
		m, where := s.o.Members[p.member], &c.Under
		if p.copy.ID == tops[p.member] {
			where = &c.Tops
		}
		*where = append(*where, Top{m.Name(), m.Number, p.copy.ID, p.wrong != "" && !p.copy.Sealed})
	}
}

// share is a key of which parts are on one shelf, all cut with one need.
type share struct {
	need   int
	pieces []piece
}

// numbers are the parts that can be read, by number; places are where in each member's
// shelf its newest one stands.
func (g share) numbers() (numbers map[int]bool, places []int) {
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

// shares are the keys of a shelf that are there in parts, by fingerprint and then by need.
func (x *splitIndex) shares(shelf Shelf) map[key.Fingerprint][]share {
	found := map[key.Fingerprint][]share{}
	for _, p := range x.pieces {
		if p.copy.Shelf != shelf || p.part.whole() {
			continue
		}
		list := found[p.of]
		i := slices.IndexFunc(list, func(g share) bool { return g.need == p.part.Need })
		if i < 0 {
			i, list = len(list), append(list, share{need: p.part.Need})
		}
		list[i].pieces = append(list[i].pieces, p)
		found[p.of] = list
	}
	return found
}

// ranked is a copy with where it stands.
type ranked struct {
	Copy
	place int // the place that Need members give it, or better
	below int // 0 for a key of which enough parts are there or may be, 1 for one of too few, 2 for what is no part
}

// List needs what the members' List needs, and of those whose listing does not say which
// key a copy is of, Google Secret Manager's, what their Fetch needs.
func (s *Split) List(ctx context.Context) ([]Copy, error) {
	x, err := s.look(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list %s: %w", s.o.Name, err)
	}
	var copies []Copy
	stand := s.stand(x)
	for _, shelf := range Shelves {
		var list []ranked
		for of, shares := range x.shares(shelf) {
			r := s.ranked(x, shelf, of, shares)
			for _, g := range shares {
				for _, p := range g.pieces {
					stand(&r.Copy, p)
				}
			}
			list = append(list, r)
		}
		for _, p := range x.pieces {
			if p.copy.Shelf == shelf && p.part.whole() {
				_, rest, _ := strings.Cut(p.copy.ID, "/")
				c := p.copy
				c.Escrow, c.ID, c.Fingerprint, c.Beside = s.o.Name, string(shelf)+"/"+s.o.Members[p.member].Name()+"/"+rest, p.of, true
				stand(&c, p)
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
func (s *Split) ranked(x *splitIndex, shelf Shelf, of key.Fingerprint, shares []share) ranked {
	r := ranked{Copy: Copy{Escrow: s.o.Name, ID: string(shelf) + "/" + string(of), Shelf: shelf, Fingerprint: of}, place: math.MaxInt}
	have, need := best(shares)
	for _, g := range shares {
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
	silent := len(without(x.silent, nil))
	if have+silent < need {
		r.below = 1
	}
	if silent > 0 {
		return r // Fetch says what the silent ones said
	}
	r.Unreadable = fmt.Sprintf("%d of the %d parts that it needs: %s", have, need, s.missing(shares))
	for _, g := range shares {
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
func best(shares []share) (have, need int) {
	have = -1
	for _, g := range shares {
		numbers, _ := g.numbers()
		if d := len(numbers) - g.need; have < 0 || d > have-need {
			have, need = len(numbers), g.need
		}
	}
	return have, need
}

// missing says what became of the parts that cannot be read.
func (s *Split) missing(shares []share) string {
	var said []string
	for i, m := range s.o.Members {
		if why := s.without(shares, i); why != "" {
			said = append(said, m.Name()+": "+why)
		}
	}
	return strings.Join(said, "; ")
}

// without says why a member's part of a key is of no use, "" where it can be read.
func (s *Split) without(shares []share, member int) string {
	const none = "it has none"
	why := none
	for _, g := range shares {
		for _, p := range g.pieces {
			if p.member == member && (why == none || p.wrong == "") {
				why = p.wrong
			}
		}
	}
	return why
}

// Save has every member save its part, and those that have it compare. A member that failed
// a moment ago rests, and counts as one that fails. A part that was
// saved with another number by the same store, or the same key cut for another need, is
// refused before anything is written: parts of both kinds together tell more than either.
//
// A *PartsError says how many parts there are where not all are.
func (s *Split) Save(ctx context.Context, shelf Shelf, k key.Key) (Copy, error) {
	fail := func(err error) (Copy, error) { return Copy{}, fmt.Errorf("cannot save to %s: %w", s.o.Name, err) }
	switch {
	case !slices.Contains(Shelves[:], shelf):
		return fail(fmt.Errorf("no shelf %q", clip(string(shelf))))
	case k.IsZero():
		return fail(key.ErrSize)
	}
	of := k.Fingerprint()
	x := s.lookBut(ctx, s.resting)
	if err := cmp.Or(s.answers(x, s.o.Need), s.refusal(x, of)); err != nil {
		return fail(err)
	}
	c := Copy{Escrow: s.o.Name, ID: string(shelf) + "/" + string(of), Shelf: shelf, Fingerprint: of}
	made := make([]Copy, len(s.o.Members))
	errs := s.each(func(i int, m Member) (err error) {
		if x.silent[i] != nil {
			return errors.Unwrap(x.silent[i])
		}
		made[i], err = m.Save(ctx, shelf, k)
		s.note(ctx, i, err)
		return err
	})
	s.mu.Lock()
	s.index = nil // it tells of before
	s.mu.Unlock()
	e := &PartsError{Need: s.o.Need, Of: len(s.o.Members), Safe: true}
	unverified := 0
	for i, err := range errs {
		switch {
		case err == nil:
			e.Saved++
		case errors.Is(err, ErrUnverified):
			unverified++
		default:
			e.Errors = append(e.Errors, err)
			e.Safe = e.Safe && !s.o.Members[i].Required
			continue
		}
		if made[i].Created.After(c.Created) {
			c.Created = made[i].Created
		}
		e.Stored = append(e.Stored, Top{Member: s.o.Members[i].Name(), Number: s.o.Members[i].Number, ID: made[i].ID})
	}
	c.Tops = e.Stored
	e.Saved += unverified
	e.Safe = e.Safe && e.Saved > e.Need
	switch {
	case e.Saved < e.Need:
		return fail(e)
	case len(e.Errors) > 0:
		return c, e
	case unverified > 0:
		return c, fmt.Errorf("%s: %d of %d parts: %w", s.o.Name, unverified, e.Of, ErrUnverified)
	}
	return c, nil
}

// refusal says why a key is not to be saved as the configuration stands.
func (s *Split) refusal(x *splitIndex, of key.Fingerprint) error {
	for i := range x.pieces {
		p := &x.pieces[i]
		m := s.o.Members[p.member]
		switch {
		case p.part.whole():
		case s.displaced(p):
			return fmt.Errorf("%w: %s keeps part %d of key %s, and the configuration says part %d", ErrPartMoved, m.Name(), p.part.Number, p.of, m.Number)
		case p.of == of && p.part.Need != s.o.Need:
			return fmt.Errorf("%w: any %d parts of key %s rebuild it where %s keeps one, and the configuration says %d", ErrRecut, p.part.Need, of, m.Name(), s.o.Need)
		}
	}
	return nil
}

// Refuses says, by the last listing, why a Save of a key is refused: ErrPartMoved, ErrRecut,
// nil for not.
func (s *Split) Refuses(of key.Fingerprint) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index == nil {
		return nil
	}
	return s.refusal(s.index, of)
}

// Unheard says why members did not answer to the last listing, nil where all did.
func (s *Split) Unheard() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index == nil {
		return nil
	}
	if silent := without(s.index.silent, nil); len(silent) > 0 {
		return s.all(silent)
	}
	return nil
}

// Rehearse has every member that can rehearse a save. What a rotation would go on without is
// no error.
func (s *Split) Rehearse(ctx context.Context) error {
	errs := s.each(func(_ int, m Member) error {
		if r, ok := m.Escrow.(Rehearser); ok {
			return r.Rehearse(ctx)
		}
		return nil // its Save tells
	})
	failed, required := without(errs, nil), false
	for i, m := range s.o.Members {
		required = required || m.Required && errs[i] != nil
	}
	if len(failed) == 0 || !required && len(errs)-len(failed) > s.o.Need {
		return nil
	}
	return s.all(failed)
}

// Renew has every member renew what its store is to delete by itself (Renewer).
func (s *Split) Renew(ctx context.Context) error {
	failed := without(s.each(func(i int, m Member) error {
		r, ok := m.Escrow.(Renewer)
		if !ok {
			return nil
		}
		if err := s.resting(i); err != nil {
			return err
		}
		return r.Renew(ctx)
	}), nil)
	if len(failed) > 0 {
		return s.all(failed)
	}
	return nil
}

// Credential tells of the members' credentials the one that ends first and is not renewed.
func (s *Split) Credential(ctx context.Context) Credential {
	var first Credential
	for _, m := range s.o.Members {
		c, ok := m.Escrow.(Credentialed)
		if !ok {
			continue
		}
		one := c.Credential(ctx)
		if !one.Until.IsZero() && !one.Renewable && (first.Until.IsZero() || one.Until.Before(first.Until)) {
			first = one
		}
	}
	return first
}

// Lacks says of a copy that List has shown on how many members its parts are, nil where
// all have theirs and for a copy that is not in parts.
func (s *Split) Lacks(c Copy) *PartsError {
	s.mu.Lock()
	x := s.index
	s.mu.Unlock()
	shelf, rest, _ := strings.Cut(c.ID, "/")
	if x == nil {
		return nil
	}
	shares := x.shares(Shelf(shelf))[key.Fingerprint(rest)]
	if shares == nil {
		return nil
	}
	_, need := best(shares) // of its cut, which may be older than the configuration
	e := &PartsError{Need: need, Of: len(s.o.Members), Safe: true}
	for i, m := range s.o.Members {
		err := x.silent[i]
		if why := s.without(shares, i); err == nil && why != "" {
			err = fmt.Errorf("%s: %w: %s", m.Name(), ErrGone, why)
		}
		if err == nil {
			e.Saved++
			continue
		}
		e.Errors = append(e.Errors, err)
		e.Safe = e.Safe && !m.Required
	}
	if e.Errors == nil {
		return nil
	}
	e.Safe = e.Safe && e.Saved > need
	return e
}
