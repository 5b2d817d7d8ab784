package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
)

const (
	// atOnce is how many hosts of a store are looked at together.
	atOnce = 8
	// saveEvery is how many looks are lost at most where the program is killed.
	saveEvery = 500
	// keepFor is how long an interrupted run may be gone on with.
	keepFor = 24 * time.Hour
	// mostTries is how often a store that wants fewer requests is asked, and quotaTime the
	// longest pause before it is again: quotas are counted by the minute.
	mostTries = 8
	quotaTime = time.Minute
	// enough is after how many looks in a row that failed a store is asked no more: it would
	// say the same ten thousand times (law 9).
	enough = 2 * atOnce
	// maxState bounds the file of what was seen, in bytes: ten thousand hosts take a few million.
	maxState = 256 << 20
)

// Clock is time, which a test has of its own.
type Clock interface {
	Now() time.Time
	// Until waits until t, or until ctx ends.
	Until(ctx context.Context, t time.Time) error
}

// WallClock is the machine's.
type WallClock struct{}

func (WallClock) Now() time.Time { return time.Now() }

func (WallClock) Until(ctx context.Context, t time.Time) error {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Pace holds calls so that there are no more than so many a minute, evenly.
type Pace struct {
	clock Clock
	every time.Duration

	mu   sync.Mutex
	next time.Time // mu: when the next call may be made
}

// NewPace makes one of so many calls a minute.
func NewPace(c Clock, perMinute int) *Pace {
	return &Pace{clock: c, every: time.Minute / time.Duration(perMinute)}
}

// Wait returns when a call may be made.
func (p *Pace) Wait(ctx context.Context) error {
	return p.clock.Until(ctx, p.turn())
}

// turn is when the next call may be made.
func (p *Pace) turn() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.clock.Now()
	if at.Before(p.next) {
		at = p.next
	}
	p.next = at.Add(p.every)
	return at
}

// Store is one that is to be looked at.
type Store struct {
	escrow.Fleet
	Required bool
	// Wrong is why its configuration cannot be used; then there is no Fleet.
	Wrong error
	Named string // its name, where there is no Fleet
}

// Looker looks at every host of an inventory in every store.
type Looker struct {
	Stores    []Store
	Inventory []string
	Said      []Said // where a host says what it is called
	Policies  bool   // ask who may destroy, too
	Clock     Clock
	// Again is after how long what looks wrong in a store that lags is looked at a second
	// time; 0 leaves it at one look.
	Again time.Duration
	// State is a file that keeps what was seen, so that an interrupted run goes on; "" is none.
	State string
	// Progress is told how far it is, nil for nobody.
	Progress func(store string, done, all int)
	// Questions are those of Judge: what would look wrong.
	Questions Questions
}

// ErrState says that the file that keeps what was seen cannot be used.
var ErrState = errors.New("it keeps no looks of a fleet")

// state is the file.
type state struct {
	Version int                         `json:"version"`
	Begun   time.Time                   `json:"begun"`
	Done    bool                        `json:"done"`
	Stores  map[string]map[string]*Look `json:"stores"` // by name and place
}

const stateVersion = 1

// look is one run.
type look struct {
	*Looker
	mu    sync.Mutex
	state state // mu
	fresh int   // mu: looks that are not saved yet
}

// Look looks at all of them. What a store does not answer stands in its View; the error is
// the context's, or says that State cannot be read or written. What was seen until then is kept.
func (l *Looker) Look(ctx context.Context) ([]View, error) {
	r := &look{Looker: l}
	if err := r.load(); err != nil {
		return nil, err
	}
	views := make([]View, len(l.Stores))
	said, _ := Match(l.Inventory, l.Said)
	where := placesOf(l.Inventory, said)
	for i, s := range l.Stores {
		if err := r.store(ctx, s, where, &views[i]); err != nil {
			return nil, errors.Join(err, r.save())
		}
	}
	if err := r.again(ctx, where, views); err != nil {
		return nil, errors.Join(err, r.save())
	}
	return views, r.finish()
}

// load reads what an interrupted run has seen. One that ended, or is of long ago, counts
// for nothing.
func (r *look) load() error {
	r.state = state{Version: stateVersion, Begun: r.Clock.Now(), Stores: map[string]map[string]*Look{}}
	if r.State == "" {
		return nil
	}
	data, err := crew.Read(r.State, maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot go on from %s: %w: %w", r.State, ErrState, err)
	}
	var kept state
	if json.Unmarshal(data, &kept) != nil || kept.Version != stateVersion {
		return fmt.Errorf("cannot go on from %s: %w", r.State, ErrState)
	}
	if !kept.Done && r.Clock.Now().Sub(kept.Begun) < keepFor && kept.Stores != nil {
		r.state = kept
	}
	return nil
}

// finish saves that all was looked at: the next run begins anew.
func (r *look) finish() error {
	r.mu.Lock()
	r.state.Done = true
	r.mu.Unlock()
	return r.save()
}

func (r *look) save() error {
	if r.State == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fresh = 0
	data, err := json.Marshal(r.state)
	if err == nil {
		err = crew.Try(filepath.Dir(r.State), func() error {
			return durable.WriteFile(r.State, data, durable.Attr{Mode: 0o600, UID: -1, GID: -1})
		})
	}
	if err != nil {
		return fmt.Errorf("cannot keep what was seen in %s: %w", r.State, err)
	}
	return nil
}

// kept are the looks at one store, by its name there.
func (r *look) kept(s Store) map[string]*Look {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := s.Name() + " " + s.Place().Where
	if r.state.Stores[id] == nil {
		r.state.Stores[id] = map[string]*Look{}
	}
	return r.state.Stores[id]
}

// store looks at every host in one store.
func (r *look) store(ctx context.Context, s Store, where places, v *View) error {
	if s.Fleet == nil {
		*v = View{Name: s.Named, Required: s.Required, Err: s.Wrong}
		return nil
	}
	*v = View{Name: s.Name(), Place: s.Place(), Required: s.Required, Lags: s.Lags(), Hosts: map[string]*Look{}}
	listed, err := patiently(ctx, r.Clock, func() (map[string]*escrow.Shown, error) { return s.Hosts(ctx) })
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, escrow.ErrNotListed):
	case err != nil:
		v.Err = err
		return nil
	}
	v.Listed, v.Place = err == nil, s.Place()
	for name := range listed {
		v.Hosts[name] = nil
	}
	policied, _ := s.Fleet.(escrow.Policied)
	if v.Policies = r.Policies && policied != nil; v.Policies {
		v.Destroyers, v.PolicyErr = patiently(ctx, r.Clock, func() ([]string, error) { return policied.Destroyers(ctx, "") })
	}
	kept := r.kept(s)
	var todo, names []string
	for _, h := range r.Inventory {
		name := where.in(h, *v)
		if _, there := listed[name]; !there { // not listed is not yet missing, under any of its names
			names = append(names, where[h]...)
			continue
		}
		names = append(names, name)
	}
	if s.NamesKeys() { // whose key a host in no inventory has is of interest, too
		names = append(names, slices.Collect(maps.Keys(listed))...)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) { // each once: two looks are some time apart
		if l := kept[name]; l != nil && l.Why == "" && (!v.Policies || l.Policies && l.PolicyWhy == "") {
			v.Hosts[name] = l
			continue
		}
		if shown := listed[name]; shown != nil && !v.Policies {
			v.Hosts[name] = &Look{Shown: *shown, At: r.Clock.Now(), Times: 1}
			continue
		}
		todo = append(todo, name)
	}
	return r.each(ctx, s, v, kept, todo, listed)
}

// each looks at these hosts in one store, some at a time.
func (r *look) each(ctx context.Context, s Store, v *View, kept map[string]*Look, todo []string, listed map[string]*escrow.Shown) error {
	failed, done := 0, 0 // r.mu
	blind := 0           // r.mu: looks in a row at which the store did not tell its policies
	g, gctx := crew.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, name := range todo {
		g.Go(func() error {
			r.mu.Lock()
			stop, policies := v.Err != nil, v.Policies && blind < enough
			r.mu.Unlock()
			if stop || gctx.Err() != nil {
				return nil
			}
			l, err := r.one(gctx, s, name, listed[name])
			told := err == nil && policies && r.destroyers(gctx, s, name, l)
			if gctx.Err() != nil {
				return gctx.Err()
			}
			full := func() bool {
				r.mu.Lock()
				defer r.mu.Unlock()
				switch {
				case told:
					blind = 0
				case l.Policies:
					blind++
				}
				if done++; err != nil {
					l.Why = err.Error()
					if failed++; failed >= enough {
						v.Err = err
					}
				} else {
					failed = 0
					// One soon after the other, as of a run that was broken off, shows the same.
					if before := kept[name]; before != nil && r.Again > 0 && l.At.Sub(before.At) >= r.Again {
						l.Times += before.Times
					}
					kept[name] = l
				}
				v.Hosts[name] = l
				if r.Progress != nil {
					r.Progress(v.Name, done, len(todo))
				}
				r.fresh++
				return r.fresh >= saveEvery
			}()
			if full {
				return r.save()
			}
			return nil
		})
	}
	return cmp.Or(g.Wait(), ctx.Err())
}

// one looks at one host.
func (r *look) one(ctx context.Context, s Store, name string, shown *escrow.Shown) (l *Look, err error) {
	l = &Look{Times: 1}
	if shown != nil {
		l.Shown = *shown
	} else if l.Shown, err = patiently(ctx, r.Clock, func() (escrow.Shown, error) { return s.Look(ctx, name) }); err != nil {
		return l, err
	}
	l.At = r.Clock.Now()
	return l, nil
}

// destroyers asks who may destroy the copies of a host that was looked at. It tells whether the
// store answered that, however much its policies leave open.
func (r *look) destroyers(ctx context.Context, s Store, name string, l *Look) bool {
	policied, _ := s.Fleet.(escrow.Policied)
	l.Policies = true
	var why error
	l.Destroyers, why = patiently(ctx, r.Clock, func() ([]string, error) { return policied.Destroyers(ctx, name) })
	if why != nil {
		l.PolicyWhy = why.Error() // of what stands there this says nothing
	}
	return why == nil || errors.Is(why, escrow.ErrLeftOpen)
}

// again looks a second time at what looked wrong in stores that lag, once it is long enough
// ago: what was written a minute before may not have been seen.
func (r *look) again(ctx context.Context, where places, views []View) error {
	if r.Again <= 0 {
		return nil
	}
	for i := range views {
		v := &views[i]
		if !v.Lags || v.Err != nil {
			continue
		}
		var todo []string
		var last time.Time
		for _, h := range r.Inventory {
			name := where.in(h, *v)
			l := v.Hosts[name]
			if l == nil || l.Why != "" || l.Times > 1 || trouble(l.Shown, *v, r.Questions).Is != Bad {
				continue
			}
			todo = append(todo, name)
			if l.At.After(last) {
				last = l.At
			}
		}
		if len(todo) == 0 {
			continue
		}
		if err := r.Clock.Until(ctx, last.Add(r.Again)); err != nil {
			return err
		}
		slices.Sort(todo)
		todo = slices.Compact(todo)
		kept := r.kept(r.Stores[i])
		for _, name := range todo { // those of a listing, which are looked at by name now
			kept[name] = v.Hosts[name]
		}
		if err := r.each(ctx, r.Stores[i], v, kept, todo, nil); err != nil {
			return err
		}
	}
	return nil
}

// patiently asks again where a store wants fewer requests: after a pause of full jitter, so
// that of many who were refused together not all come back together.
func patiently[T any](ctx context.Context, c Clock, ask func() (T, error)) (T, error) {
	for n := 1; ; n++ {
		got, err := ask()
		if n >= mostTries || !errors.Is(err, escrow.ErrRateLimited) {
			return got, err
		}
		if err := c.Until(ctx, c.Now().Add(rand.N(quotaTime))); err != nil {
			return got, err
		}
	}
}
