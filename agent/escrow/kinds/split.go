package kinds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// restFirst and restLongest bound how long a save leaves a member alone after it failed: it
// doubles. They are the watcher's own for an escrow.
const (
	restFirst   = 5 * time.Second
	restLongest = 5 * time.Minute
)

// SplitOptions say which stores share a key.
type SplitOptions struct {
	Name    string // of the escrow
	Need    int    // how many parts rebuild a key
	Members []escrow.Member
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

	mu       sync.Mutex
	known    map[pieceID]held // mu: what was read of copies whose listing does not tell
	index    *splitIndex      // mu: the last listing
	breakers []breaker        // mu: by member
}

// breaker is a member's: a save does not ask it again before its time, and the others
// do not wait for it. Whoever reads asks it: a key may hang on its answer.
type breaker struct {
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
		if _, wrong := m.Escrow.(*escrow.Misconfigured); wrong {
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
	return &Split{o: o, known: map[pieceID]held{}, breakers: make([]breaker, len(o.Members))}, nil
}

func (s *Split) Name() string { return s.o.Name }

// Need is how many parts rebuild a key.
func (s *Split) Need() int { return s.o.Need }

// Members are the stores that have the parts.
func (s *Split) Members() []escrow.Member { return s.o.Members }

func (s *Split) Place() escrow.Place {
	var names, domains []string
	for _, m := range s.o.Members {
		names = append(names, m.Name())
		domains = append(domains, m.Place().Domain)
	}
	return escrow.Place{Kind: "split",
		Where:  fmt.Sprintf("%d of %s", s.o.Need, strings.Join(names, ", ")),
		Domain: fmt.Sprintf("any %d of %s", len(names)-s.o.Need+1, strings.Join(domains, ", "))}
}

// Close ends the members' connections.
func (s *Split) Close() error {
	return errors.Join(s.each(func(_ int, m escrow.Member) error { return m.Close() })...)
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
	e := &several{errs, withoutRefusals(errs)}
	if len(errs) < len(s.o.Members) || slices.ContainsFunc(errs, func(err error) bool { return !errors.Is(err, escrow.ErrNeverLeft) }) {
		for i, err := range e.is {
			e.is[i] = reached(err)
		}
	}
	return e
}

// withoutRefusals are what members said without the refusals, unless it is nothing else: as long as one
// failed otherwise another moment may tell more, and this is no place that lets nobody look (law 6).
func withoutRefusals(errs []error) []error {
	refused := func(err error) bool { return errors.Is(err, escrow.ErrDenied) }
	if others := slices.DeleteFunc(slices.Clone(errs), refused); len(others) > 0 {
		return others
	}
	return slices.Clone(errs)
}

// reached is an error where others were asked, too.
func reached(err error) error {
	if errors.Is(err, escrow.ErrNeverLeft) {
		return escrow.ErrUnreachable
	}
	return err
}

// fewParts is what a key is from whose parts too few can be read. As long as one of the
// errors may go away it is these: the members cannot answer. Else it is sealed if a part
// is, and last a copy that cannot be read, but never bytes that are none (law 6).
func fewParts(errs []error) error {
	e := &several{said: errs}
	sealed := []error{escrow.ErrUnreadable}
	for _, err := range errs {
		switch {
		case errors.Is(err, escrow.ErrSealed):
			sealed = []error{err}
		case !isAny(err, escrow.ErrNotKey, escrow.ErrCorrupt, escrow.ErrUnreadable, escrow.ErrGone):
			e.is = append(e.is, reached(err))
		}
	}
	if e.is = withoutRefusals(e.is); len(e.is) == 0 {
		e.is = sealed
	}
	return e
}

// each calls f for every member at once, and waits.
func (s *Split) each(f func(i int, m escrow.Member) error) []error {
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
	failed := failures(s.each(func(_ int, m escrow.Member) error { return m.Init(ctx) }))
	if len(failed) > 0 {
		return fmt.Errorf("cannot initialise %d of %d members: %w", len(failed), len(s.o.Members), s.all(failed))
	}
	return nil
}

// failures are the errors among what each member said.
func failures(errs []error) []error {
	return slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil })
}

// resting is what a member said that is not to be asked yet, nil for none.
func (s *Split) resting(i int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.breakers[i].until) {
		return s.breakers[i].err
	}
	return nil
}

// note remembers how a call of a member ended. Several that fail at the same time are one
// failure, and one that never left this host makes no pause longer.
func (s *Split) note(ctx context.Context, i int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &s.breakers[i]
	switch {
	case err == nil || errors.Is(err, escrow.ErrUnverified):
		*b = breaker{}
		return
	case ctx.Err() != nil || time.Now().Before(b.until):
		return
	case !errors.Is(err, escrow.ErrNeverLeft):
		b.failures++
	}
	pause := restFirst
	for range b.failures - 1 {
		pause = min(2*pause, restLongest)
	}
	b.until, b.err = time.Now().Add(pause+rand.N(pause/4)), err
}

// Rests is how long it is until a save asks the first of the members that failed.
func (s *Split) Rests() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var first time.Duration
	for _, b := range s.breakers {
		if d := time.Until(b.until); d > 0 && (first == 0 || d < first) {
			first = d
		}
	}
	return first
}

// Save has every member save its part, and those that have it compare. The cut itself is made in
// each member, which is given the whole key: its sealer has the number and the need (seal.go), and
// what it stores is that part alone. A member that failed
// a moment ago rests, and counts as one that fails. A part that was
// saved with another number by the same store, or the same key cut for another need, is
// refused before anything is written: parts of both kinds together tell more than either.
//
// A *PartsError says how many parts there are where not all are.
func (s *Split) Save(ctx context.Context, shelf escrow.Shelf, k key.Key) (escrow.Copy, error) {
	fail := func(err error) (escrow.Copy, error) {
		return escrow.Copy{}, fmt.Errorf("cannot save to %s: %w", s.o.Name, err)
	}
	switch {
	case !slices.Contains(escrow.Shelves[:], shelf):
		return fail(fmt.Errorf("no shelf %q", clip(string(shelf))))
	case k.IsZero():
		return fail(key.ErrSize)
	}
	of := k.Fingerprint()
	x := s.lookExcept(ctx, s.resting)
	if err := cmp.Or(s.answers(x, s.o.Need), s.refusal(x, of), s.apart(ctx, x)); err != nil {
		return fail(err)
	}
	c := escrow.Copy{Escrow: s.o.Name, ID: string(shelf) + "/" + string(of), Shelf: shelf, Fingerprint: of}
	made := make([]escrow.Copy, len(s.o.Members))
	errs := s.each(func(i int, m escrow.Member) (err error) {
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
	e := &escrow.PartsError{Need: s.o.Need, Of: len(s.o.Members), Safe: true}
	unverified := 0
	for i, err := range errs {
		switch {
		case err == nil:
			e.Saved++
		case errors.Is(err, escrow.ErrUnverified):
			unverified++
		default:
			e.Errors = append(e.Errors, err)
			e.Safe = e.Safe && !s.o.Members[i].Required
			continue
		}
		if made[i].Created.After(c.Created) {
			c.Created = made[i].Created
		}
		e.Stored = append(e.Stored, escrow.Top{Member: s.o.Members[i].Name(), Number: s.o.Members[i].Number, ID: made[i].ID})
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
		return c, fmt.Errorf("%s: %d of %d parts: %w", s.o.Name, unverified, e.Of, escrow.ErrUnverified)
	}
	return c, nil
}

// refusal says why a key is not to be saved as the configuration stands.
func (s *Split) refusal(x *splitIndex, of key.Fingerprint) error {
	for i := range x.pieces {
		p := &x.pieces[i]
		m := s.o.Members[p.member]
		switch {
		case p.part.Whole(), p.none: // what is said of one that was destroyed is nothing that anybody could use
		case s.displaced(p):
			return fmt.Errorf("%w: %s keeps part %d of key %s, and the configuration says part %d", escrow.ErrPartMoved, m.Name(), p.part.Number, p.of, m.Number)
		case p.of == of && p.part.Need != s.o.Need:
			return fmt.Errorf("%w: any %d parts of key %s rebuild it where %s keeps one, and the configuration says %d", escrow.ErrRecut, p.part.Need, of, m.Name(), s.o.Need)
		}
	}
	return nil
}

// apart is Apart of the members that keep nothing: what another keeps tells whose it is.
func (s *Split) apart(ctx context.Context, x *splitIndex) error {
	var bare []escrow.Writer
	for i, m := range s.o.Members {
		if x.silent[i] == nil && !slices.ContainsFunc(x.pieces, func(p piece) bool { return p.member == i }) {
			bare = append(bare, m.Escrow)
		}
	}
	return escrow.Apart(ctx, bare)
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
	if silent := failures(s.index.silent); len(silent) > 0 {
		return s.all(silent)
	}
	return nil
}

// Rehearse has every member that can rehearse a save. What a rotation would go on without is
// no error.
func (s *Split) Rehearse(ctx context.Context) error {
	errs := s.each(func(_ int, m escrow.Member) error {
		if r, ok := m.Escrow.(escrow.Rehearser); ok {
			return r.Rehearse(ctx)
		}
		return nil // its Save tells
	})
	failed, required := failures(errs), false
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
	failed := failures(s.each(func(i int, m escrow.Member) error {
		r, ok := m.Escrow.(escrow.Renewer)
		if !ok {
			return nil
		}
		if err := s.resting(i); err != nil {
			return err
		}
		return r.Renew(ctx)
	}))
	if len(failed) > 0 {
		return s.all(failed)
	}
	return nil
}

// Credential tells of the members' credentials the one that ends first and is not renewed.
func (s *Split) Credential(ctx context.Context) escrow.Credential {
	var first escrow.Credential
	for _, m := range s.o.Members {
		c, ok := m.Escrow.(escrow.Credentialed)
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

// Cutting says of a copy that List has shown how many parts rebuild it, and which members keep one of
// these, or are to.
func (s *Split) Cutting(c escrow.Copy) (need int, on []bool) {
	s.mu.Lock()
	x := s.index
	s.mu.Unlock()
	need = s.o.Need
	shelf, rest, _ := strings.Cut(c.ID, "/")
	var cuttings []cutting
	if x != nil && errors.Is(s.refusal(x, key.Fingerprint(rest)), escrow.ErrRecut) {
		cuttings = x.cuttings(escrow.Shelf(shelf))[key.Fingerprint(rest)]
	}
	_, most := best(cuttings)
	if cuttings != nil {
		need = most.need
	}
	for i := range s.o.Members {
		kept := func(p piece) bool { return p.member == i && (p.wrong == "" || p.copy.Sealed) }
		on = append(on, cuttings == nil || x.silent[i] != nil || slices.ContainsFunc(most.pieces, kept))
	}
	return need, on
}

// Lacks says of a copy that List has shown on how many members its parts are, nil where
// all have theirs and for a copy that is not in parts.
func (s *Split) Lacks(c escrow.Copy) *escrow.PartsError {
	s.mu.Lock()
	x := s.index
	s.mu.Unlock()
	shelf, rest, _ := strings.Cut(c.ID, "/")
	if x == nil {
		return nil
	}
	cuttings := x.cuttings(escrow.Shelf(shelf))[key.Fingerprint(rest)]
	if cuttings == nil {
		return nil
	}
	_, most := best(cuttings) // its cut may be older than the configuration
	// Then nobody brings a part to a member that came later, or has lost its own.
	older := errors.Is(s.refusal(x, key.Fingerprint(rest)), escrow.ErrRecut)
	e := &escrow.PartsError{Need: most.need, Of: len(s.o.Members), Safe: spares(cuttings, len(s.o.Members))}
	for i, m := range s.o.Members {
		err := x.silent[i]
		if why := s.without(i, most); err == nil && why != "" {
			if s.without(i, cuttings...) == "" {
				why = "its part was cut for another need"
			} else {
				e.Bare = append(e.Bare, m.Name())
			}
			err = fmt.Errorf("%s: %w: %s", m.Name(), escrow.ErrGone, why)
		}
		if err == nil {
			e.Saved++
			continue
		}
		e.Errors = append(e.Errors, err)
		e.Safe = e.Safe && (!m.Required || older && x.silent[i] == nil)
	}
	if e.Errors == nil {
		return nil
	}
	return e
}
