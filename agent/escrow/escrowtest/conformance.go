// Package escrowtest is the conformance suite that every kind of escrow passes: the
// contract of package escrow, sentence by sentence, and a table of faults after each of
// which it is looked at what the store really holds.
package escrowtest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/key/keytest"
)

// Harness sets up one kind of escrow.
type Harness struct {
	// New makes a fresh place, not yet initialised.
	New func(t *testing.T) Place
	// Seals says that copies are sealed, Sealed that it is to somebody else than this host.
	Seals, Sealed bool
	// Once says that the current shelf has a key once, however often it was the newest:
	// the store keeps no history.
	Once bool
	// Outvoted says that what a person puts there by hand stands below what the escrow itself
	// has saved: other places say which copy is the newest.
	Outvoted bool
}

// Place is where an escrow under test keeps its copies.
type Place struct {
	// Open opens the place, as a process that has just started would.
	Open func(t *testing.T) escrow.Escrow
	// Put adds bytes as a person does by hand, and returns the copy's id.
	Put func(t *testing.T, s escrow.Shelf, data []byte) string
	// Misname gives bytes the name of a copy in quarantine, as a person may who copies one over
	// the other, and returns the id that they have. nil for a store where no copy is called
	// after its key.
	Misname func(t *testing.T, id string, data []byte) string
	// Faults are what can go wrong.
	Faults []Fault
}

// Fault is one thing that goes wrong, in one place.
type Fault struct {
	Name string
	// Break makes it go wrong; the function it returns heals it.
	Break func(t *testing.T) (heal func())
	// Op is the operation it strikes: "save", "fetch" or "list".
	Op string
	// Want is what the operation's error is; nil where it copes.
	Want error
	// Stored says that a failed save has stored the key all the same.
	Stored bool
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	for _, tt := range []struct {
		name string
		test func(t *testing.T, h Harness)
	}{
		{"Uninitialised", uninitialised},
		{"Init", initialise},
		{"SaveAndFetch", saveAndFetch},
		{"SaveCompares", saveCompares},
		{"Quarantine", quarantine},
		{"Order", order},
		{"Latest", latest},
		{"UnknownIDs", unknownIDs},
		{"ByHand", byHand},
		{"Misnamed", misnamed},
		{"Refusals", refusals},
		{"Rehearsal", rehearsal},
		{"Contexts", contexts},
		{"Concurrent", concurrent},
		{"Faults", faults},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, h) })
	}
}

// open opens a place, and initialises it.
func open(t *testing.T, h Harness) (Place, *guarded) {
	t.Helper()
	p := h.New(t)
	e := reopen(t, p)
	if err := e.Init(t.Context()); err != nil {
		t.Fatalf("Init: %v", err)
	}
	return p, e
}

func reopen(t *testing.T, p Place) *guarded {
	t.Helper()
	e := &guarded{Escrow: p.Open(t), t: t}
	t.Cleanup(func() { e.Close() })
	return e
}

func uninitialised(t *testing.T, h Harness) {
	p := h.New(t)
	e := reopen(t, p)
	copies, err := e.List(t.Context())
	if !errors.Is(err, escrow.ErrNoPlace) || copies != nil {
		t.Errorf("List: %v, %v; want ErrNoPlace and no copies (law 6)", copies, err)
	}
	if _, err := e.Save(t.Context(), escrow.Current, key.Generate()); !errors.Is(err, escrow.ErrNoPlace) {
		t.Errorf("Save: %v, want ErrNoPlace", err)
	}
	if _, _, err := e.Fetch(t.Context(), escrow.Copy{ID: "current/1"}); !errors.Is(err, escrow.ErrNoPlace) && !errors.Is(err, escrow.ErrGone) {
		t.Errorf("Fetch: %v, want ErrNoPlace or ErrGone", err)
	}
	// None of this made the place.
	if _, err := reopen(t, p).List(t.Context()); !errors.Is(err, escrow.ErrNoPlace) {
		t.Errorf("List afterwards: %v, want ErrNoPlace", err)
	}
}

func initialise(t *testing.T, h Harness) {
	p, e := open(t, h)
	e.want(t, 0, 0)
	if e.Name() == "" || e.Place().Kind == "" || e.Place().Where == "" || e.Place().Domain == "" {
		t.Errorf("an escrow without name or place: %q %+v", e.Name(), e.Place())
	}
	k := key.Generate()
	e.save(t, escrow.Current, k)
	for range 2 {
		if err := reopen(t, p).Init(t.Context()); err != nil {
			t.Errorf("Init of a place that is there: %v", err)
		}
	}
	e.want(t, 1, 0)
	e.holds(t, h, e.newest(t, escrow.Current), k)
}

func saveAndFetch(t *testing.T, h Harness) {
	p, e := open(t, h)
	before := time.Now().Add(-time.Minute)
	for _, s := range escrow.Shelves {
		k := key.Generate()
		c := e.save(t, s, k)
		if c.Fingerprint != k.Fingerprint() {
			t.Errorf("Save on %s returned fingerprint %q, the key's is %q", s, c.Fingerprint, k.Fingerprint())
		}
		again := reopen(t, p)
		l := again.newest(t, s)
		if l.ID != c.ID || l.Shelf != s || c.Shelf != s || l.Escrow != e.Name() {
			t.Errorf("Save returned %+v, List %+v", c, l)
		}
		if l.Fingerprint != "" && l.Fingerprint != k.Fingerprint() {
			t.Errorf("the listing claims fingerprint %q, the key's is %q", l.Fingerprint, k.Fingerprint())
		}
		if l.Created.Before(before) || l.Created.After(time.Now().Add(time.Minute)) {
			t.Errorf("created %v", l.Created)
		}
		again.holds(t, h, l, k)
	}
}

// saveCompares: a save of what is there adds nothing, and the newest copy is always the
// key that was saved last.
func saveCompares(t *testing.T, h Harness) {
	p, e := open(t, h)
	a, b := key.Generate(), key.Generate()
	first := e.save(t, escrow.Current, a)
	if c := e.save(t, escrow.Current, a); c.ID != first.ID {
		t.Errorf("the same key again made %s beside %s", c.ID, first.ID)
	}
	if c := reopen(t, p).save(t, escrow.Current, a); c.ID != first.ID {
		t.Errorf("the same key by another process made %s beside %s", c.ID, first.ID)
	}
	e.want(t, 1, 0)
	e.save(t, escrow.Current, b)
	e.holds(t, h, e.newest(t, escrow.Current), b)
	e.save(t, escrow.Current, a) // a is there, but not the newest
	n := 3
	if h.Once {
		n = 2
	}
	e.want(t, n, 0)
	e.holds(t, h, e.newest(t, escrow.Current), a)
	reopen(t, p).save(t, escrow.Current, b) // somebody else puts another key on top
	e.save(t, escrow.Current, a)
	if !h.Once {
		n = 5
	}
	e.want(t, n, 0)
	e.holds(t, h, e.newest(t, escrow.Current), a)
}

// quarantine: keys that come back do not pile up.
func quarantine(t *testing.T, h Harness) {
	p, e := open(t, h)
	a, b := key.Generate(), key.Generate()
	first := e.save(t, escrow.Quarantine, a)
	e.save(t, escrow.Quarantine, b)
	for _, e := range []*guarded{e, reopen(t, p)} {
		if c := e.save(t, escrow.Quarantine, a); c.ID != first.ID {
			t.Errorf("a key that is in quarantine went there again, as %s beside %s", c.ID, first.ID)
		}
	}
	e.want(t, 0, 2)
}

func order(t *testing.T, h Harness) {
	p, e := open(t, h)
	var ids []string
	for range 5 { // faster than any clock ticks
		ids = append(ids, e.save(t, escrow.Current, key.Generate()).ID)
	}
	ids = append(ids, e.save(t, escrow.Quarantine, key.Generate()).ID)
	slices.Reverse(ids[:5])
	var got []string
	for _, c := range reopen(t, p).list(t) {
		got = append(got, c.ID)
	}
	if !slices.Equal(got, ids) {
		t.Errorf("listed\n%q, want newest first, current before quarantine:\n%q", got, ids)
	}
}

// latest is of stores that give their newest current copy without a listing.
func latest(t *testing.T, h Harness) {
	p := h.New(t)
	e := reopen(t, p)
	l, ok := e.Escrow.(escrow.Latest)
	if !ok {
		return
	}
	none := func(what string) {
		t.Helper()
		if c, k, _, err := l.FetchLatest(t.Context()); err == nil || c.ID != "" || !k.IsZero() {
			t.Errorf("%s: %+v, %v", what, c, err)
		}
	}
	none("of a place that is not there")
	if err := e.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	none("of an empty shelf")
	e.save(t, escrow.Quarantine, key.Generate())
	none("of a quarantine")
	for range 2 {
		want := key.Generate()
		e.save(t, escrow.Current, want)
		c, k, enc, err := l.FetchLatest(t.Context())
		if h.Sealed {
			if !errors.Is(err, escrow.ErrSealed) {
				t.Errorf("%v, want ErrSealed", err)
			}
			continue
		}
		if newest := e.newest(t, escrow.Current); err != nil || !k.Equal(want) || enc != key.Raw || c.ID != newest.ID || c.Shelf != escrow.Current {
			t.Errorf("%+v of key %s, %v; want %+v of key %s", c, k.Fingerprint(), err, newest, want.Fingerprint())
		}
		k.Wipe()
	}
	if !h.Outvoted {
		p.Put(t, escrow.Current, []byte("no key"))
		none("of a copy that is no key")
	}
}

func unknownIDs(t *testing.T, h Harness) {
	_, e := open(t, h)
	c := e.save(t, escrow.Current, key.Generate())
	_, name, _ := strings.Cut(c.ID, "/")
	for _, id := range []string{
		"", "/", "current", "current/", name, "quarantine/" + name, "nowhere/" + name, c.ID + "0", "current/0", "current/007",
		"current/-1", "current/latest", "current/18446744073709551616", "current/../" + c.ID, "../" + c.ID, "/" + c.ID,
		"current/..", "current/.", "current//etc/passwd", "current/../../../../etc/passwd", "current/\x00", "current/%00", "current/\xff",
		strings.Repeat("x", 5000),
	} {
		k, _, err := e.Fetch(t.Context(), escrow.Copy{ID: id})
		if !errors.Is(err, escrow.ErrGone) || !k.IsZero() {
			t.Errorf("Fetch(%q): %v, %v; want ErrGone", id, k, err)
		}
	}
	e.want(t, 1, 0)
}

// byHand: copies that people made, with the tools of the runbook.
func byHand(t *testing.T, h Harness) {
	// Three bytes in a row that no text has, and 29 that it may: what is left of it can be 32
	// bytes too.
	raw := []byte("\xfe\x80\x81kept by hand, as people keep it")[:key.Size]
	k, err := key.New(raw)
	if err != nil {
		t.Fatal(err)
	}
	each := strings.Map(func(r rune) rune { return r }, string(raw)) // U+FFFD for each of the bytes
	inOne := strings.ToValidUTF8(string(raw), "\uFFFD")              // and one for all three
	for _, tt := range []struct {
		name string
		data []byte
		enc  key.Encoding // "" where it is no key
		want error
	}{
		{"raw", raw, key.Raw, nil},
		{"trailing newline", append(bytes.Clone(raw), '\n'), key.Newline, nil},
		{"CR LF", append(bytes.Clone(raw), "\r\n"...), key.Newline, nil},
		{"base64", []byte(base64.StdEncoding.EncodeToString(raw) + "\n"), key.Base64, nil},
		{"hex", []byte(hex.EncodeToString(raw)), key.Hex, nil},
		{"words", []byte(strings.Join(keytest.Words(k), " ")), key.Words, nil},
		{"mangled", []byte(each), "", key.ErrMangled},
		{"mangled to 32 bytes", []byte(inOne), "", key.ErrMangled},
		{"31 bytes", raw[:31], "", escrow.ErrNotKey},
		{"text", []byte("see the safe"), "", escrow.ErrNotKey},
		{"huge", bytes.Repeat([]byte("x"), 60<<10), "", escrow.ErrNotKey},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, e := open(t, h)
			older := key.Generate()
			e.save(t, escrow.Current, older)
			id := p.Put(t, escrow.Current, tt.data)
			e = reopen(t, p)
			c := e.newest(t, escrow.Current)
			if h.Outvoted {
				e.holds(t, h, c, older)
				copies := e.list(t)
				i := slices.IndexFunc(copies, func(c escrow.Copy) bool { return c.ID == id })
				if i < 0 {
					t.Fatalf("%s is not listed: %v", id, copies)
				}
				c = copies[i]
			}
			if c.ID != id {
				t.Fatalf("the newest copy is %s, not %s", c.ID, id)
			}
			got, enc, err := e.Fetch(t.Context(), c)
			switch {
			case tt.want != nil:
				if !errors.Is(err, escrow.ErrNotKey) || !errors.Is(err, tt.want) || !got.IsZero() {
					t.Errorf("Fetch: %v, %v; want %v", got, err, tt.want)
				}
			case err != nil || !got.Equal(k) || enc != tt.enc:
				t.Errorf("Fetch: %v, %q, %v; want %v as %q", got, enc, err, k, tt.enc)
			}
			// Whatever it is, a save puts a good copy on top and leaves it alone.
			copies := 3
			if tt.enc == key.Raw && !h.Seals {
				copies = 2 // it is what a save would store
			}
			e.save(t, escrow.Current, k)
			e.want(t, copies, 0)
			e.holds(t, h, e.newest(t, escrow.Current), k)
		})
	}
}

// misnamed: a key under another one's name is had, with an error beside it that says so (law 1).
func misnamed(t *testing.T, h Harness) {
	p, e := open(t, h)
	if p.Misname == nil {
		return
	}
	says, holds := key.Generate(), key.Generate()
	id := p.Misname(t, e.save(t, escrow.Quarantine, says).ID, holds.UnsafeBytes())
	e = reopen(t, p)
	got, enc, err := e.Fetch(t.Context(), escrow.Copy{ID: id})
	var named *escrow.MisnamedError
	if !errors.As(err, &named) || !errors.Is(err, escrow.ErrCorrupt) || named.Says != says.Fingerprint() || named.Holds != holds.Fingerprint() {
		t.Errorf("Fetch of %s: %v, want that it is called key %s and holds key %s", id, err, says.Fingerprint(), holds.Fingerprint())
	}
	if !got.Equal(holds) || enc != key.Raw {
		t.Errorf("Fetch of %s: key %s as %q, want key %s", id, got.Fingerprint(), enc, holds.Fingerprint())
	}
	got.Wipe()
	if err != nil && !strings.Contains(err.Error(), string(holds.Fingerprint())) {
		t.Errorf("when the key is wiped, the error is %v", err)
	}
}

func refusals(t *testing.T, h Harness) {
	_, e := open(t, h)
	if _, err := e.Save(t.Context(), escrow.Current, key.Key{}); err == nil {
		t.Error("no key at all was saved")
	}
	for _, s := range []escrow.Shelf{"", "new", "current/x", "../current"} {
		if _, err := e.Save(t.Context(), s, key.Generate()); err == nil {
			t.Errorf("saved on shelf %q", s)
		}
	}
	e.want(t, 0, 0)
}

func contexts(t *testing.T, h Harness) {
	_, e := open(t, h)
	c := e.save(t, escrow.Current, key.Generate())
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for _, tt := range []struct {
		name string
		ctx  context.Context
		want error
	}{
		{"canceled", canceled, context.Canceled},
		{"too late", late, escrow.ErrTimeout},
	} {
		for name, call := range map[string]func() error{
			"List":  func() error { _, err := e.List(tt.ctx); return err },
			"Fetch": func() error { _, _, err := e.Fetch(tt.ctx, c); return err },
			"Save":  func() error { _, err := e.Save(tt.ctx, escrow.Current, key.Generate()); return err },
			"Init":  func() error { return e.Init(tt.ctx) },
		} {
			if err := call(); !errors.Is(err, tt.want) {
				t.Errorf("%s, context %s: %v, want %v", name, tt.name, err, tt.want)
			}
		}
	}
	e.want(t, 1, 0)
}

func concurrent(t *testing.T, h Harness) {
	p, e := open(t, h)
	keys := []key.Key{key.Generate(), key.Generate(), key.Generate(), key.Generate()}
	var wait sync.WaitGroup
	for _, k := range keys {
		wait.Go(func() {
			for _, s := range escrow.Shelves {
				c, err := e.Save(t.Context(), s, k)
				if err != nil {
					t.Errorf("Save: %v", err)
					continue
				}
				e.holds(t, h, c, k)
				if _, err := e.List(t.Context()); err != nil {
					t.Errorf("List: %v", err)
				}
			}
		})
	}
	wait.Wait()
	if copies := reopen(t, p).list(t); len(copies) != 2*len(keys) {
		t.Errorf("%d copies of %d keys on two shelves: %v", len(copies), len(keys), copies)
	}
	for range 4 {
		wait.Go(func() {
			if _, err := e.Save(t.Context(), escrow.Current, keys[0]); err != nil {
				t.Errorf("Save of one key by many: %v", err)
			}
		})
	}
	wait.Wait()
	e.holds(t, h, e.newest(t, escrow.Current), keys[0])
}

// faults: an operation fails as it should, and afterwards the store holds what it held,
// or that and the key, once; and the same operation again succeeds.
func faults(t *testing.T, h Harness) {
	for i, f := range h.New(t).Faults {
		t.Run(f.Name, func(t *testing.T) {
			p, e := open(t, h)
			f := p.Faults[i]
			old, k := key.Generate(), key.Generate()
			c := e.save(t, escrow.Current, old)

			heal := f.Break(t)
			healed := sync.OnceFunc(heal)
			defer healed()
			var err error
			switch f.Op {
			case "save":
				_, err = e.Save(t.Context(), escrow.Current, k)
			case "fetch":
				_, _, err = e.Fetch(t.Context(), c)
				if h.Sealed && errors.Is(err, escrow.ErrSealed) {
					err = nil
				}
			case "list":
				var copies []escrow.Copy
				if copies, err = e.List(t.Context()); err != nil && copies != nil {
					t.Errorf("%d copies beside the error %v: somebody will take them for all (law 6)", len(copies), err)
				}
			default:
				t.Fatalf("no operation %q", f.Op)
			}
			if f.Want == nil && err != nil || !errors.Is(err, f.Want) {
				t.Errorf("%s: %v, want %v", f.Op, err, f.Want)
			}
			healed()

			// As after a crash: another process looks.
			e = reopen(t, p)
			n := 1
			if f.Op == "save" && (f.Want == nil || f.Stored) {
				n = 2
				e.holds(t, h, e.newest(t, escrow.Current), k)
			}
			e.want(t, n, 0)
			e.holds(t, h, e.list(t)[n-1], old)
			// And does what is due. Nothing is stored a second time.
			if f.Op == "save" {
				e.save(t, escrow.Current, k)
				e.want(t, 2, 0)
				e.holds(t, h, e.newest(t, escrow.Current), k)
			}
		})
	}
}

// rehearsal: whoever can rehearse a save finds nothing where a Save goes well, and leaves nothing.
func rehearsal(t *testing.T, h Harness) {
	_, e := open(t, h)
	r, ok := e.Escrow.(escrow.Rehearser)
	if !ok {
		return
	}
	for n := range 3 {
		if err := r.Rehearse(t.Context()); err != nil {
			t.Errorf("after %d saves: %v", n, err)
		}
		e.want(t, n, n)
		e.save(t, escrow.Quarantine, key.Generate())
		e.save(t, escrow.Current, key.Generate())
	}
}

// guarded is an escrow in whose errors no key may be (law 8).
type guarded struct {
	escrow.Escrow
	t *testing.T

	mu   sync.Mutex
	keys []key.Key
}

func (g *guarded) check(err error) {
	if err == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	text := fmt.Sprintf("%v %+v %#v", err, err, err)
	for _, k := range g.keys {
		b := k.UnsafeBytes()
		for _, form := range []string{string(b), hex.EncodeToString(b), base64.StdEncoding.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b)} {
			if strings.Contains(text, form) {
				g.t.Errorf("an error holds a key: %q", text)
			}
		}
	}
	if strings.ContainsAny(err.Error(), "\n\r\x00") {
		g.t.Errorf("an error of several lines: %q", err)
	}
}

func (g *guarded) List(ctx context.Context) ([]escrow.Copy, error) {
	c, err := g.Escrow.List(ctx)
	g.check(err)
	return c, err
}

func (g *guarded) Fetch(ctx context.Context, c escrow.Copy) (key.Key, key.Encoding, error) {
	k, enc, err := g.Escrow.Fetch(ctx, c)
	g.check(err)
	if named := (*escrow.MisnamedError)(nil); err != nil && !k.IsZero() && !errors.As(err, &named) {
		g.t.Errorf("a key beside the error %v", err)
	}
	return k, enc, err
}

func (g *guarded) Save(ctx context.Context, s escrow.Shelf, k key.Key) (escrow.Copy, error) {
	if !k.IsZero() {
		g.mu.Lock()
		g.keys = append(g.keys, k)
		g.mu.Unlock()
	}
	c, err := g.Escrow.Save(ctx, s, k)
	g.check(err)
	return c, err
}

func (g *guarded) Init(ctx context.Context) error {
	err := g.Escrow.Init(ctx)
	g.check(err)
	return err
}

func (g *guarded) save(t *testing.T, s escrow.Shelf, k key.Key) escrow.Copy {
	t.Helper()
	c, err := g.Save(t.Context(), s, k)
	if err != nil {
		t.Fatalf("Save on %s: %v", s, err)
	}
	return c
}

func (g *guarded) list(t *testing.T) []escrow.Copy {
	t.Helper()
	copies, err := g.List(t.Context())
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	return copies
}

func (g *guarded) newest(t *testing.T, s escrow.Shelf) escrow.Copy {
	t.Helper()
	for _, c := range g.list(t) {
		if c.Shelf == s {
			return c
		}
	}
	t.Fatalf("no copy on %s", s)
	return escrow.Copy{}
}

// want counts the copies on both shelves.
func (g *guarded) want(t *testing.T, current, quarantined int) {
	t.Helper()
	n := map[escrow.Shelf]int{}
	copies := g.list(t)
	for _, c := range copies {
		n[c.Shelf]++
	}
	if n[escrow.Current] != current || n[escrow.Quarantine] != quarantined {
		t.Errorf("%d current and %d quarantined copies, want %d and %d: %+v",
			n[escrow.Current], n[escrow.Quarantine], current, quarantined, copies)
	}
}

// holds fetches a copy and compares. A sealed one names the key.
func (g *guarded) holds(t *testing.T, h Harness, c escrow.Copy, k key.Key) {
	t.Helper()
	got, enc, err := g.Fetch(t.Context(), c)
	if h.Sealed {
		var shut *escrow.SealedError
		if !errors.Is(err, escrow.ErrSealed) || !errors.As(err, &shut) || shut.Fingerprint != k.Fingerprint() || len(shut.To) == 0 {
			t.Errorf("Fetch of sealed %s: %v, want a SealedError for %s", c.ID, err, k.Fingerprint())
		}
		return
	}
	if err != nil || !got.Equal(k) || enc != key.Raw {
		t.Errorf("%s holds %v as %q, %v; want %v", c.ID, got, enc, err, k)
	}
}
