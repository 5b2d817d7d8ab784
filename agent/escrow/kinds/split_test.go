package kinds_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest"
	sm "github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/secretmanager"
	fake "github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/vault"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// TestSplitConforms runs the suite over members of three kinds, any two of which rebuild a
// key. Every fault of every member strikes one of the three: reading copes, and a save is
// on the other two.
func TestSplitConforms(t *testing.T) {
	t.Parallel()
	to, identity := identityFile(t)
	escrowtest.Run(t, escrowtest.Harness{
		Once: true, Seals: true, Outvoted: true, // a whole key is never what a save stores
		New: func(t *testing.T) escrowtest.Place {
			store, safe := startStore(t, sm.Options{}, sm.Admin), startSafe(t, 2, fake.Options{})
			dir := kinds.DirectoryOptions{Name: "usb", Path: filepath.Join(tmpfs(t, "size=1m"), "keys"), Recipients: []string{to}, IdentityFiles: []string{identity}}
			store.o.Part, safe.o.Part, dir.Part = escrow.PartOf{Need: 2, Number: 1}, escrow.PartOf{Need: 2, Number: 2}, escrow.PartOf{Need: 2, Number: 3}
			var faults []escrowtest.Fault
			for member, list := range map[string][]escrowtest.Fault{"gcp": gcpFaults(store), "vault": safe.place().Faults, "usb": directoryFaults(dir.Path)} {
				for _, f := range list {
					f.Name = f.Op + " with " + member + ": " + f.Name
					if f.Op == "save" && f.Want != nil {
						f.Want, f.Stored = escrow.ErrPartly, true
					} else {
						f.Want = nil
					}
					faults = append(faults, f)
				}
			}
			slices.SortFunc(faults, func(a, b escrowtest.Fault) int { return strings.Compare(a.Name, b.Name) })
			return escrowtest.Place{
				Open: func(t *testing.T) escrow.Escrow {
					s, err := kinds.NewSplit(kinds.SplitOptions{Name: "split", Need: 2, Members: []escrow.Member{
						{Escrow: store.open(t), Number: 1}, {Escrow: safe.open(t), Number: 2}, {Escrow: openDirectory(t, dir), Number: 3},
					}})
					if err != nil {
						t.Fatal(err)
					}
					return s
				},
				Put: func(t *testing.T, s escrow.Shelf, data []byte) string {
					return fmt.Sprintf("%s/gcp/%d", s, store.Put(store.secret(s), data))
				},
				Faults: faults,
			}
		},
	})
}

// rack is a split over directories, of which each may be taken away.
type rack struct {
	t       *testing.T
	need    int
	names   []string
	numbers []int
	dir     string
	dead    map[string]error
}

func newRack(t *testing.T, need, n int) *rack {
	t.Helper()
	r := &rack{t: t, need: need, dir: t.TempDir(), dead: map[string]error{}}
	for i := range n {
		r.names, r.numbers = append(r.names, string(rune('a'+i))), append(r.numbers, i+1)
	}
	if err := r.open().Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rack) path(name string) string { return filepath.Join(r.dir, name) }

// member opens one store: as it is, or as one that says no more than an error.
func (r *rack) member(i int) escrow.Escrow {
	r.t.Helper()
	e := openDirectory(r.t, kinds.DirectoryOptions{Name: r.names[i], Path: r.path(r.names[i]), AllowSameDisk: true,
		Part: escrow.PartOf{Need: r.need, Number: r.numbers[i]}})
	return &dying{e, func() error { return r.dead[r.names[i]] }}
}

func (r *rack) open() *kinds.Split {
	r.t.Helper()
	o := kinds.SplitOptions{Name: "split", Need: r.need}
	for i := range r.names {
		o.Members = append(o.Members, escrow.Member{Escrow: r.member(i), Number: r.numbers[i], Required: true})
	}
	s, err := kinds.NewSplit(o)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// files are the copies on a member's current shelf, oldest first.
func (r *rack) files(name string) []string {
	r.t.Helper()
	list, err := filepath.Glob(filepath.Join(r.path(name), "current", "*"))
	try(r.t, err)
	return list
}

// dying is an escrow that may be dead.
type dying struct {
	escrow.Escrow
	dead func() error
}

func (d *dying) List(ctx context.Context) ([]escrow.Copy, error) {
	if err := d.dead(); err != nil {
		return nil, err
	}
	return d.Escrow.List(ctx)
}

func (d *dying) Fetch(ctx context.Context, c escrow.Copy) (key.Key, key.Encoding, error) {
	if err := d.dead(); err != nil {
		return key.Key{}, "", err
	}
	return d.Escrow.Fetch(ctx, c)
}

func (d *dying) Save(ctx context.Context, s escrow.Shelf, k key.Key) (escrow.Copy, error) {
	if err := d.dead(); err != nil {
		return escrow.Copy{}, err
	}
	return d.Escrow.Save(ctx, s, k)
}

// holdsKey tells whether the newest current copy is k.
func holdsKey(t *testing.T, s *kinds.Split, k key.Key) {
	t.Helper()
	copies, err := s.List(t.Context())
	if err != nil || len(copies) == 0 {
		t.Fatalf("List: %v, %v", copies, err)
	}
	got, enc, err := s.Fetch(t.Context(), copies[0])
	if err != nil || enc != key.Raw || !got.Equal(k) {
		t.Errorf("the newest is %+v: %v, %q, %v; want %v", copies[0], got, enc, err, k)
	}
}

// TestSplitStoresParts: a store holds a line, and nothing that is the key.
func TestSplitStoresParts(t *testing.T) {
	t.Parallel()
	r := newRack(t, 2, 3)
	k := key.Generate()
	mustSave(t, r.open(), escrow.Current, k)
	for i, name := range r.names {
		files := r.files(name)
		if len(files) != 1 || !strings.HasSuffix(files[0], fmt.Sprintf("-%s.need2.part%d", k.Fingerprint(), i+1)) {
			t.Fatalf("%s holds %v", name, files)
		}
		data, err := os.ReadFile(files[0])
		try(t, err)
		p, err := key.ParsePart(data)
		if err != nil || p.Of != k.Fingerprint() || p.Need != 2 || p.Number != i+1 || !strings.HasSuffix(string(data), "\n") {
			t.Errorf("%s holds %q: %v", name, data, err)
		}
		// As an escrow of its own, the store has no key.
		got, _, err := r.member(i).Fetch(t.Context(), escrow.Copy{ID: "current/" + filepath.Base(files[0])})
		if !errors.Is(err, escrow.ErrNotKey) || !errors.Is(err, key.ErrPart) || !got.IsZero() {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// TestSplitLaw6: what fewer than enough stores can say, and what of it is an answer.
func TestSplitLaw6(t *testing.T) {
	t.Parallel()
	gone := fmt.Errorf("down: %w", escrow.ErrUnreachable)
	t.Run("every store lost, one after the other", func(t *testing.T) {
		r := newRack(t, 2, 3)
		k := key.Generate()
		mustSave(t, r.open(), escrow.Current, k)
		for _, name := range r.names {
			r.dead = map[string]error{name: gone}
			holdsKey(t, r.open(), k)
		}
		r.dead = map[string]error{"a": gone, "b": escrow.ErrTimeout}
		copies, err := r.open().List(t.Context())
		if copies != nil || !errors.Is(err, escrow.ErrUnreachable) || !errors.Is(err, escrow.ErrTimeout) || !strings.Contains(err.Error(), "1 of 3 members answer") {
			t.Errorf("two dead: %v, %v", copies, err)
		}
		s := r.open()
		r.dead = nil
		copies, err = s.List(t.Context())
		try(t, err)
		r.dead = map[string]error{"a": gone, "b": gone} // between the listing and the fetching
		if got, _, err := s.Fetch(t.Context(), copies[0]); !errors.Is(err, escrow.ErrUnreachable) || errors.Is(err, escrow.ErrUnreadable) || !got.IsZero() {
			t.Errorf("dead since: %v, %v", got, err)
		}
	})
	t.Run("no way to some of them, or to all", func(t *testing.T) {
		r := newRack(t, 2, 3)
		mustSave(t, r.open(), escrow.Current, key.Generate())
		far := escrow.ErrNeverLeft
		for _, tt := range []struct {
			dead  map[string]error
			never bool
		}{
			{map[string]error{"a": far, "b": far, "c": far}, true},
			{map[string]error{"a": far, "b": far}, false},
			{map[string]error{"a": far, "b": far, "c": gone}, false},
		} {
			r.dead = tt.dead
			if _, err := r.open().List(t.Context()); !errors.Is(err, escrow.ErrUnreachable) || errors.Is(err, far) != tt.never {
				t.Errorf("%v: %v", tt.dead, err)
			}
		}
	})
	t.Run("one refuses, and others fail otherwise", func(t *testing.T) {
		r := newRack(t, 3, 3)
		mustSave(t, r.open(), escrow.Current, key.Generate())
		s := r.open()
		copies, err := s.List(t.Context())
		try(t, err)
		for _, tt := range []struct {
			b    error
			want error
		}{
			{gone, escrow.ErrUnreachable},
			{escrow.ErrRateLimited, escrow.ErrRateLimited},
			{escrow.ErrDenied, escrow.ErrDenied},
			{nil, escrow.ErrDenied},
		} {
			refused := tt.want == escrow.ErrDenied
			if r.dead = map[string]error{"a": escrow.ErrDenied}; tt.b != nil {
				r.dead["b"] = tt.b
			}
			if _, err := r.open().List(t.Context()); !errors.Is(err, tt.want) || errors.Is(err, escrow.ErrDenied) != refused || !strings.Contains(err.Error(), "a: ") {
				t.Errorf("%v: %v", tt.b, err)
			}
			if _, _, err := s.Fetch(t.Context(), copies[0]); !errors.Is(err, tt.want) || errors.Is(err, escrow.ErrDenied) != refused || !strings.Contains(err.Error(), "a: ") {
				t.Errorf("%v, since the listing: %v", tt.b, err)
			}
		}
	})
	t.Run("nothing where they answer, and one is silent", func(t *testing.T) {
		r := newRack(t, 2, 3)
		r.dead["c"] = gone
		if copies, err := r.open().List(t.Context()); copies != nil || !errors.Is(err, escrow.ErrUnreachable) {
			t.Errorf("%v, %v: that is \"no copies\"", copies, err)
		}
		r.dead = nil
		if copies, err := r.open().List(t.Context()); err != nil || len(copies) != 0 {
			t.Errorf("%v, %v: all have answered", copies, err)
		}
	})
	t.Run("too few parts, all have answered", func(t *testing.T) {
		r := newRack(t, 2, 3)
		k := key.Generate()
		mustSave(t, r.open(), escrow.Current, k)
		for _, name := range []string{"a", "c"} {
			try(t, os.Remove(r.files(name)[0]))
		}
		copies, err := r.open().List(t.Context())
		if err != nil || len(copies) != 1 || copies[0].Fingerprint != k.Fingerprint() || copies[0].Unreadable != "1 of the 2 parts that it needs: a: it has none; c: it has none" {
			t.Errorf("%+v, %v: want a copy that cannot be read", copies, err)
		}
		if got, _, err := r.open().Fetch(t.Context(), copies[0]); !errors.Is(err, escrow.ErrUnreadable) || !got.IsZero() {
			t.Errorf("Fetch: %v, %v", got, err)
		}
		// A silent one may have it.
		r.dead["c"] = gone
		copies, err = r.open().List(t.Context())
		if err != nil || len(copies) != 1 || copies[0].Unreadable != "" {
			t.Errorf("%+v, %v: nobody knows whether it can be read", copies, err)
		}
		if got, _, err := r.open().Fetch(t.Context(), copies[0]); !errors.Is(err, escrow.ErrUnreachable) || isAnyOf(err, escrow.ErrUnreadable, escrow.ErrGone) || !got.IsZero() {
			t.Errorf("Fetch: %v, %v", got, err)
		}
	})
	t.Run("damaged parts are no bytes that are no key", func(t *testing.T) {
		r := newRack(t, 2, 2)
		k := key.Generate()
		mustSave(t, r.open(), escrow.Current, k)
		file := r.files("a")[0]
		data, err := os.ReadFile(file)
		try(t, err)
		try(t, os.Chmod(file, 0o600))
		for i := range len(data) - 1 {
			for bit := range 8 {
				bad := slices.Clone(data)
				bad[i] ^= 1 << bit
				try(t, os.WriteFile(file, bad, 0o600))
				s := r.open()
				copies, err := s.List(t.Context())
				try(t, err)
				got, _, err := s.Fetch(t.Context(), copies[0])
				if !errors.Is(err, escrow.ErrUnreadable) || errors.Is(err, escrow.ErrNotKey) || !got.IsZero() || !strings.Contains(err.Error(), "a: ") {
					t.Fatalf("byte %d, bit %d: %v, %v", i, bit, got, err)
				}
			}
		}
	})
}

func isAnyOf(err error, targets ...error) bool {
	return slices.ContainsFunc(targets, func(t error) bool { return errors.Is(err, t) })
}

// TestSplitSave: how much is saved while stores are down, and what the same save does when
// they are back.
func TestSplitSave(t *testing.T) {
	t.Parallel()
	full := fmt.Errorf("no room: %w", escrow.ErrFull)
	for _, tt := range []struct {
		need, n, dead int
		want          error
		safe          bool
		text          string
	}{
		{2, 3, 0, nil, true, ""},
		{2, 3, 1, escrow.ErrPartly, false, "saved on 2 of 3 members, and none of them may be lost: a: no room"},
		{2, 4, 1, escrow.ErrPartly, false, "saved on 3 of 4 members, 1 more may be lost: a: no room"},
		{2, 3, 2, escrow.ErrFull, false, "not saved: 1 of 3 members have their part, and 2 are needed: a: no room"},
		{3, 3, 1, escrow.ErrFull, false, "not saved: 2 of 3"},
	} {
		t.Run(fmt.Sprintf("%d of %d, %d full", tt.need, tt.n, tt.dead), func(t *testing.T) {
			r := newRack(t, tt.need, tt.n)
			old, k := key.Generate(), key.Generate()
			mustSave(t, r.open(), escrow.Current, old)
			s := r.open()
			for i := range tt.dead {
				m := s.Members()[i].Escrow.(*dying)
				s.Members()[i].Escrow = &readOnly{m, full}
			}
			c, err := s.Save(t.Context(), escrow.Current, k)
			if !errors.Is(err, tt.want) || (tt.want == nil) != (err == nil) || tt.want != escrow.ErrPartly && errors.Is(err, escrow.ErrPartly) {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			var parts *escrow.PartsError
			if err != nil && (!errors.As(err, &parts) || !strings.Contains(err.Error(), tt.text) || parts.Safe != tt.safe) {
				t.Errorf("%v, %+v", err, parts)
			}
			if (c.ID == "") != (tt.want != nil && tt.want != escrow.ErrPartly) {
				t.Errorf("the copy is %+v", c)
			}
			newest := k
			if c.ID == "" {
				newest = old // a save that broke off: both stay, and the whole one counts
			}
			holdsKey(t, r.open(), newest)
			if copies, err := r.open().List(t.Context()); err != nil || len(copies) != 2 {
				t.Errorf("%+v, %v: want both keys", copies, err)
			}
			// Again: what was missing comes, and nothing else.
			mustSave(t, r.open(), escrow.Current, k)
			holdsKey(t, r.open(), k)
			for _, name := range r.names {
				if files := r.files(name); len(files) != 2 {
					t.Errorf("%s holds %v", name, files)
				}
			}
		})
	}
	t.Run("no required store lacks it, and one more may be lost", func(t *testing.T) {
		r := newRack(t, 2, 4)
		s := r.open()
		s.Members()[0].Escrow, s.Members()[0].Required = &readOnly{s.Members()[0].Escrow, full}, false
		var parts *escrow.PartsError
		if _, err := s.Save(t.Context(), escrow.Current, key.Generate()); !errors.As(err, &parts) || !parts.Safe {
			t.Errorf("%v, %+v", err, parts)
		}
	})
}

// readOnly is an escrow in which nothing can be saved.
type readOnly struct {
	escrow.Escrow
	err error
}

func (r *readOnly) Save(context.Context, escrow.Shelf, key.Key) (escrow.Copy, error) {
	return escrow.Copy{}, r.err
}

// TestSplitAsksAtOnce: a split takes as long as its slowest store, not as all of them. Each
// waits here for the others: one after the other, nobody would ever answer.
func TestSplitAsksAtOnce(t *testing.T) {
	t.Parallel()
	r := newRack(t, 2, 3)
	k := key.Generate()
	mustSave(t, r.open(), escrow.Current, k)
	synctest.Test(t, func(t *testing.T) {
		s := r.open()
		meet := func(call func()) {
			t.Helper()
			all, done := make(chan struct{}, 3), make(chan struct{})
			for i := range s.Members() {
				s.Members()[i].Escrow.(*dying).dead = func() error {
					all <- struct{}{}
					for len(all) < 3 {
						time.Sleep(time.Millisecond)
					}
					return nil
				}
			}
			go func() { defer close(done); call() }()
			select {
			case <-done:
			case <-time.After(time.Hour):
				t.Fatal("one waits for the other")
			}
		}
		var copies []escrow.Copy
		meet(func() { copies, _ = s.List(t.Context()) })
		meet(func() {
			if got, _, err := s.Fetch(t.Context(), copies[0]); err != nil || !got.Equal(k) {
				t.Errorf("%v, %v", got, err)
			}
		})
	})
}

// TestSplitLatest: the newest key comes from the stores that are fastest, whatever the slow,
// the dead and the lying one would say; and never from fewer than enough of them.
func TestSplitLatest(t *testing.T) {
	t.Parallel()
	r := newRack(t, 2, 3)
	old, k := key.Generate(), key.Generate()
	mustSave(t, r.open(), escrow.Current, old)
	latest := func(want key.Key) {
		t.Helper()
		s := r.open()
		c, got, _, err := s.FetchLatest(t.Context())
		if err != nil || !got.Equal(want) || c.ID != "current/"+string(want.Fingerprint()) || c.Shelf != escrow.Current {
			t.Errorf("%+v, %v, %v; want %v", c, got, err, want)
		}
	}
	latest(old)
	mustSave(t, r.member(0), escrow.Current, k) // a save that broke off
	latest(old)
	mustSave(t, r.member(1), escrow.Current, k)
	latest(k)
	mustSave(t, r.open(), escrow.Current, k)
	for i, name := range r.names {
		r.dead = map[string]error{name: escrow.ErrUnreachable}
		latest(k)
		// It hangs: nobody waits for it.
		s := r.open()
		s.Members()[i].Escrow = &hanging{s.Members()[i].Escrow}
		_, got, _, err := s.FetchLatest(t.Context())
		if err != nil || !got.Equal(k) {
			t.Errorf("%s hangs: %v, %v", name, got, err)
		}
	}
	r.dead = map[string]error{"a": escrow.ErrUnreachable, "b": escrow.ErrTimeout}
	if c, got, _, err := r.open().FetchLatest(t.Context()); !errors.Is(err, escrow.ErrUnreachable) || errors.Is(err, escrow.ErrNoPlace) || c.ID != "" || !got.IsZero() {
		t.Errorf("two dead: %+v, %v, %v", c, got, err)
	}
	r.dead = nil
	for _, name := range []string{"a", "b"} {
		try(t, os.Remove(r.files(name)[1]))
		try(t, os.Remove(r.files(name)[0]))
	}
	// Of four stores two have one key on top, and two another: only a listing tells.
	four := newRack(t, 2, 4)
	mustSave(t, four.open(), escrow.Current, old)
	for i := range 2 {
		mustSave(t, four.member(i), escrow.Current, k)
	}
	if c, got, _, err := four.open().FetchLatest(t.Context()); !errors.Is(err, escrow.ErrNoPlace) || c.ID != "" || !got.IsZero() {
		t.Errorf("two of four: %+v, %v, %v", c, got, err)
	}
	if c, got, _, err := r.open().FetchLatest(t.Context()); !errors.Is(err, escrow.ErrNoPlace) || c.ID != "" || !got.IsZero() {
		t.Errorf("one part: %+v, %v, %v", c, got, err)
	}
}

// hanging is an escrow whose listing does not end before the caller gives up.
type hanging struct{ escrow.Escrow }

func (h *hanging) List(ctx context.Context) ([]escrow.Copy, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestSplitRests: a save leaves a store alone that did not take one a moment ago, the others
// get what is new at once, and whoever reads asks them all.
func TestSplitRests(t *testing.T) {
	t.Parallel()
	r := newRack(t, 2, 3)
	synctest.Test(t, func(t *testing.T) {
		s := r.open()
		asked := 0
		s.Members()[2].Escrow.(*dying).dead = func() error {
			asked++
			return r.dead["c"]
		}
		mustSave(t, s, escrow.Current, key.Generate())
		if d := s.Rests(); d != 0 {
			t.Errorf("rests %v though all answered", d)
		}
		r.dead["c"] = escrow.ErrUnreachable
		begin, tries := time.Now(), 0
		asked = 0
		for time.Since(begin) < time.Hour {
			k := key.Generate()
			if _, err := s.Save(t.Context(), escrow.Current, k); !errors.Is(err, escrow.ErrPartly) || !strings.Contains(err.Error(), "c: ") {
				t.Fatal(err)
			}
			rests := s.Rests()
			if rests <= 0 || rests > restLongest {
				t.Fatalf("rests %v", rests)
			}
			// Another key, at once: the others have it, and nobody asks the dead one.
			before := asked
			if _, err := s.Save(t.Context(), escrow.Current, key.Generate()); !errors.Is(err, escrow.ErrPartly) || asked != before {
				t.Fatalf("%v; asked %d times", err, asked-before)
			}
			tries++
			time.Sleep(rests)
		}
		// 5 s, doubling to 5 min: 17 tries at most.
		if asked != tries || tries < 12 || tries > 18 {
			t.Errorf("asked %d times in an hour, by %d tries", asked, tries)
		}
		asked = 0
		if _, err := s.List(t.Context()); err != nil || asked != 1 {
			t.Errorf("%v; a listing asked it %d times", err, asked)
		}
		r.dead = map[string]error{}
		k := key.Generate()
		if _, err := s.Save(t.Context(), escrow.Current, k); !errors.Is(err, escrow.ErrPartly) {
			t.Errorf("it rests still: %v", err)
		}
		if _, err := s.List(t.Context()); err != nil { // it answers: no reason to wait
			t.Error(err)
		}
		mustSave(t, s, escrow.Current, k)
		if s.Rests() != 0 {
			t.Error("it rests though it took its part")
		}
	})
}

// TestSplitRestsUntilTheFirst: of two stores that are left alone the next save asks the one whose
// time is over first, whichever that is.
func TestSplitRestsUntilTheFirst(t *testing.T) {
	t.Parallel()
	for _, names := range [][2]string{{"c", "d"}, {"d", "c"}} {
		r := newRack(t, 2, 4)
		synctest.Test(t, func(t *testing.T) {
			s := r.open()
			save := func() time.Duration {
				if _, err := s.Save(t.Context(), escrow.Current, key.Generate()); !errors.Is(err, escrow.ErrPartly) {
					t.Error(err)
				}
				return s.Rests()
			}
			r.dead[names[0]] = escrow.ErrUnreachable
			time.Sleep(save())
			once := save() // ten seconds or a quarter more; the other will rest for five, or a quarter more
			r.dead[names[1]] = escrow.ErrUnreachable
			first := save()
			if first <= 0 || first >= once {
				t.Errorf("one rests for %v, and the first for %v", once, first)
			}
			time.Sleep(first)
			if left := s.Rests(); left != once-first {
				t.Errorf("one rests for %v more, and the first for %v", once-first, left)
			}
		})
	}
}

// TestSplitRestsLonger: twice as long after each failure, but for one that never left this host.
func TestSplitRestsLonger(t *testing.T) {
	t.Parallel()
	for err, wants := range map[error][]time.Duration{
		escrow.ErrUnreachable: {5 * time.Second, 10 * time.Second, 20 * time.Second},
		escrow.ErrNeverLeft:   {5 * time.Second, 5 * time.Second, 5 * time.Second},
	} {
		r := newRack(t, 2, 3)
		synctest.Test(t, func(t *testing.T) {
			s := r.open()
			r.dead["c"] = err
			for _, want := range wants {
				if _, err := s.Save(t.Context(), escrow.Current, key.Generate()); !errors.Is(err, escrow.ErrPartly) {
					t.Error(err)
				}
				rests := s.Rests()
				if rests < want || rests > want+want/4 {
					t.Errorf("%v: it rests for %v, and not for %v", err, rests, want)
				}
				time.Sleep(rests)
			}
		})
	}
}

// restLongest is a quarter more than the longest pause.
const restLongest = 5*time.Minute + 75*time.Second

// TestSplitRefusesToTellTwice: two parts of a key in one store, or parts of two cuts of
// it, tell more than one. Nothing is written.
func TestSplitRefusesToTellTwice(t *testing.T) {
	t.Parallel()
	r := newRack(t, 2, 3)
	k := key.Generate()
	mustSave(t, r.open(), escrow.Current, k)
	before := func() (all []string) {
		for _, name := range r.names {
			all = append(all, r.files(name)...)
		}
		return all
	}
	had := before()

	r.numbers = []int{2, 1, 3} // somebody swapped them
	for _, k := range []key.Key{k, key.Generate()} {
		if _, err := r.open().Save(t.Context(), escrow.Current, k); !errors.Is(err, escrow.ErrPartMoved) || !strings.Contains(err.Error(), "a keeps part 1") || !strings.Contains(err.Error(), "says part 2") {
			t.Errorf("swapped: %v", err)
		}
	}
	holdsKey(t, r.open(), k) // reading goes by what the parts say
	r.numbers = []int{1, 2, 3}

	r.need = 3
	if _, err := r.open().Save(t.Context(), escrow.Current, k); !errors.Is(err, escrow.ErrRecut) || !strings.Contains(err.Error(), "any 2 parts") {
		t.Errorf("another need: %v", err)
	}
	holdsKey(t, r.open(), k)
	if got := before(); !slices.Equal(got, had) {
		t.Errorf("written: %v", got)
	}
	// A new key takes the new need, and the old one can still be had.
	next := key.Generate()
	mustSave(t, r.open(), escrow.Current, next)
	holdsKey(t, r.open(), next)
	copies, err := r.open().List(t.Context())
	try(t, err)
	if got, _, err := r.open().Fetch(t.Context(), copies[1]); err != nil || !got.Equal(k) {
		t.Errorf("the old key: %v, %v", got, err)
	}

	// A renamed store keeps its part.
	r.need = 2
	try(t, os.Rename(r.path("a"), r.path("renamed")))
	r.names[0] = "renamed"
	s := r.open()
	mustSave(t, s, escrow.Current, k)
	holdsKey(t, s, k)
}

// TestSplitNewest: the newest is the key whose part is the newest on enough stores.
func TestSplitNewest(t *testing.T) {
	t.Parallel()
	r := newRack(t, 2, 3)
	a, b := key.Generate(), key.Generate()
	mustSave(t, r.open(), escrow.Current, a)
	only := func(k key.Key, i int) {
		t.Helper()
		mustSave(t, r.member(i), escrow.Current, k)
	}
	only(b, 0) // a save that broke off after one store
	holdsKey(t, r.open(), a)
	copies, err := r.open().List(t.Context())
	if err != nil || len(copies) != 2 || copies[1].Fingerprint != b.Fingerprint() || !strings.Contains(copies[1].Unreadable, "1 of the 2 parts") {
		t.Errorf("%+v, %v", copies, err)
	}
	only(b, 1)
	holdsKey(t, r.open(), b)
	only(a, 1) // and back
	holdsKey(t, r.open(), a)
	if copies, err := r.open().List(t.Context()); err != nil || len(copies) != 2 || copies[1].Unreadable != "" {
		t.Errorf("%+v, %v: both can be had", copies, err)
	}
	// What is no part never stands above a key of which enough parts are there, wherever it
	// stands in its own store, and whoever is dead.
	mustSave(t, r.open(), escrow.Current, a)
	try(t, os.WriteFile(filepath.Join(r.path("a"), "current", "99999999T999999.999999999Z-by-hand"), key.Generate().UnsafeBytes(), 0o400))
	for _, dead := range []string{"", "b", "c"} {
		r.dead = map[string]error{dead: escrow.ErrUnreachable}
		holdsKey(t, r.open(), a)
	}
}

// TestSplitNeedRaised: the configuration wants three parts by now, and a key from before was
// cut for two. It is not cut again; and as long as two of its parts can be read it is there,
// though fewer answer than a new key needs.
func TestSplitNeedRaised(t *testing.T) {
	t.Parallel()
	r := newRack(t, 2, 3)
	k, next := key.Generate(), key.Generate()
	c := mustSave(t, r.open(), escrow.Current, k)
	r.need = 3
	refuses := func(s *kinds.Split, want error) {
		t.Helper()
		if _, err := s.List(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Refuses(k.Fingerprint()); !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	refuses(r.open(), escrow.ErrRecut)
	try(t, os.Rename(r.path("c"), r.path("away")))
	try(t, r.open().Init(t.Context())) // a store that came later
	s := r.open()
	_, err := s.List(t.Context())
	try(t, err)
	if need, on := s.Cutting(c); need != 2 || !slices.Equal(on, []bool{true, true, false}) {
		t.Errorf("cut for %d, and is on %v", need, on)
	}
	if need, on := s.Cutting(escrow.Copy{ID: "current/" + string(next.Fingerprint())}); need != 3 || !slices.Equal(on, []bool{true, true, true}) {
		t.Errorf("the next is cut for %d, and on %v", need, on)
	}
	if lacks := s.Lacks(c); lacks == nil || lacks.Need != 2 || lacks.Saved != 2 || lacks.Safe {
		t.Errorf("none of two may be lost: %+v", lacks)
	}
	try(t, os.RemoveAll(r.path("c")))
	try(t, os.Rename(r.path("away"), r.path("c")))
	for _, name := range r.names {
		r.dead = map[string]error{name: escrow.ErrUnreachable}
		s := r.open()
		holdsKey(t, s, k)
		if need, on := s.Cutting(c); need != 2 || !slices.Equal(on, []bool{true, true, true}) {
			t.Errorf("%s is dead: cut for %d, and is on %v", name, need, on)
		}
		if lacks := s.Lacks(c); lacks == nil || lacks.Need != 2 || lacks.Saved != 2 || lacks.Safe {
			t.Errorf("%s is dead: %+v", name, lacks)
		}
		if _, got, _, err := r.open().FetchLatest(t.Context()); !errors.Is(err, escrow.ErrNoPlace) || !got.IsZero() {
			t.Errorf("%s is dead: %v, %v; a newer key may be there, and only a listing tells", name, got, err)
		}
		if _, err := r.open().Save(t.Context(), escrow.Current, next); !errors.Is(err, escrow.ErrUnreachable) || !strings.Contains(err.Error(), "2 of 3 members answer, and 3 are needed") {
			t.Errorf("%s is dead: %v", name, err)
		}
	}
	r.dead = map[string]error{"a": escrow.ErrUnreachable, "b": escrow.ErrTimeout}
	if copies, err := r.open().List(t.Context()); err == nil {
		t.Errorf("one answers: %+v", copies)
	}
	r.dead = nil
	if _, got, _, err := r.open().FetchLatest(t.Context()); err != nil || !got.Equal(k) {
		t.Errorf("%v, %v", got, err)
	}
	mustSave(t, r.open(), escrow.Current, next)
	holdsKey(t, r.open(), next)
	r.dead = map[string]error{"c": escrow.ErrUnreachable}
	copies, err := r.open().List(t.Context())
	if err != nil || len(copies) != 2 {
		t.Errorf("%+v, %v", copies, err)
	}
	r.dead, r.need = nil, 2
	refuses(r.open(), nil)
	r.numbers = []int{2, 1, 3}
	refuses(r.open(), escrow.ErrPartMoved)
}

// TestSplitNeedRaisedOfFour: what a required store has of a key that was cut for another need nobody
// knows while it does not answer; where it has lost it, no save brings it.
func TestSplitNeedRaisedOfFour(t *testing.T) {
	t.Parallel()
	r := newRack(t, 2, 4)
	c := mustSave(t, r.open(), escrow.Current, key.Generate())
	r.need = 3
	lacks := func() *escrow.PartsError {
		t.Helper()
		s := r.open()
		_, err := s.List(t.Context())
		try(t, err)
		return s.Lacks(c)
	}
	r.dead = map[string]error{"d": escrow.ErrUnreachable}
	if e := lacks(); e == nil || e.Saved != 3 || e.Safe {
		t.Errorf("it does not answer: %+v", e)
	}
	r.dead = nil
	try(t, os.Remove(r.files("d")[0]))
	if e := lacks(); e == nil || e.Saved != 3 || !e.Safe {
		t.Errorf("it has lost its part: %+v", e)
	}
}

// TestSplitNeedRaisedSealed: a part that only others can open is kept where it is all the same.
func TestSplitNeedRaisedSealed(t *testing.T) {
	t.Parallel()
	to, _ := identityFile(t)
	dir := t.TempDir()
	open := func(need int) *kinds.Split {
		o := kinds.SplitOptions{Name: "split", Need: need}
		for i := range 3 {
			d := openDirectory(t, kinds.DirectoryOptions{Name: fmt.Sprint("usb", i), Path: filepath.Join(dir, fmt.Sprint(i)), AllowSameDisk: true,
				Recipients: []string{to}, Part: escrow.PartOf{Need: need, Number: i + 1}})
			o.Members = append(o.Members, escrow.Member{Escrow: d, Number: i + 1})
		}
		s, err := kinds.NewSplit(o)
		try(t, err)
		try(t, s.Init(t.Context()))
		return s
	}
	c := mustSave(t, open(2), escrow.Current, key.Generate())
	s := open(3)
	_, err := s.List(t.Context())
	try(t, err)
	if need, on := s.Cutting(c); need != 2 || !slices.Equal(on, []bool{true, true, true}) {
		t.Errorf("cut for %d, and is on %v", need, on)
	}
}

// TestSplitFirstSave: nothing is anywhere, and not all stores answer.
func TestSplitFirstSave(t *testing.T) {
	t.Parallel()
	k := key.Generate()
	r := newRack(t, 2, 3)
	r.dead["b"] = escrow.ErrUnreachable
	if copies, err := r.open().List(t.Context()); copies != nil || !errors.Is(err, escrow.ErrPerhaps) || !errors.Is(err, escrow.ErrUnreachable) {
		t.Errorf("%v, %v", copies, err)
	}
	var parts *escrow.PartsError
	c, err := r.open().Save(t.Context(), escrow.Current, k)
	if !errors.Is(err, escrow.ErrPartly) || !errors.As(err, &parts) || parts.Saved != 2 || len(c.Tops) != 2 || c.Tops[1].Member != "c" || c.Tops[1].Number != 3 {
		t.Errorf("%+v, %v", c, err)
	}
	holdsKey(t, r.open(), k)
	r.dead = map[string]error{"a": escrow.ErrUnreachable, "b": escrow.ErrUnreachable}
	if _, err := r.open().Save(t.Context(), escrow.Current, key.Generate()); err == nil || isAnyOf(err, escrow.ErrPartly, escrow.ErrPerhaps) || len(r.files("c")) != 1 {
		t.Errorf("%v, and c has %v", err, r.files("c"))
	}
}

// TestSplitTops: what each store has on top is told, whose part of which key it is, or what
// else; and a store that is renamed is the same one by its number.
func TestSplitTops(t *testing.T) {
	t.Parallel()
	r := newRack(t, 2, 3)
	a, b := key.Generate(), key.Generate()
	saved := mustSave(t, r.open(), escrow.Current, a)
	on := func(f key.Fingerprint) []escrow.Top {
		t.Helper()
		copies, err := r.open().List(t.Context())
		try(t, err)
		for _, c := range copies {
			if c.Fingerprint == f && c.Tops != nil {
				return c.Tops
			}
		}
		return nil
	}
	if got := on(a.Fingerprint()); !slices.Equal(got, saved.Tops) || len(got) != 3 {
		t.Errorf("%v, and saved were %v", got, saved.Tops)
	}
	mustSave(t, r.member(1), escrow.Current, b) // another host's, which shares one store
	if got := on(b.Fingerprint()); len(got) != 1 || got[0].Member != "b" || got[0].Number != 2 {
		t.Errorf("%v", got)
	}
	if got := on(a.Fingerprint()); len(got) != 2 || got[1] != saved.Tops[2] {
		t.Errorf("%v", got)
	}
	// The same key once more on top, by whoever it is: another copy of each store.
	mustSave(t, r.open(), escrow.Current, b)
	mustSave(t, r.open(), escrow.Current, a)
	for i, top := range on(a.Fingerprint()) {
		if top == saved.Tops[i] || top.String() == saved.Tops[i].String() {
			t.Errorf("%v looks as if it were %v", top, saved.Tops[i])
		}
	}
	before := on(a.Fingerprint())
	// Rubbish is nobody's, a whole key is somebody's.
	try(t, os.WriteFile(filepath.Join(r.path("a"), "current", "99999999T999999.999999998Z-rubbish"), []byte("no key"), 0o400))
	link := filepath.Join(r.path("c"), "current", "99991231T235959.999Z-"+string(b.Fingerprint())+".need2.part3")
	try(t, os.Symlink("/nonexistent", link))
	if got := on(a.Fingerprint()); !slices.Equal(got, before) {
		t.Errorf("%v instead of %v", got, before)
	}
	copies, err := r.open().List(t.Context())
	try(t, err)
	for _, c := range copies {
		if c.Beside && (c.Tops != nil || c.Under != nil) {
			t.Errorf("what is no key is on top, or below it: %+v", c)
		}
	}
	try(t, os.Remove(link))
	try(t, os.WriteFile(filepath.Join(r.path("a"), "current", "99999999T999999.999999999Z-by-hand"), b.UnsafeBytes(), 0o400))
	if got := on(b.Fingerprint()); len(got) != 1 || got[0].Member != "a" {
		t.Errorf("%v", got)
	}
	try(t, os.Rename(r.path("b"), r.path("renamed")))
	r.names[1] = "renamed"
	if got := on(a.Fingerprint()); len(got) != 2 || got[0].String() != before[1].String() || got[0].Member != "renamed" {
		t.Errorf("%v, before it was renamed %v", got, before)
	}
}

// TestSplitNeverMixes: what stands on the stores is enough parts by number alone, and not of
// one cut, or the same one twice. No key is made up, and a save refuses before it writes.
func TestSplitNeverMixes(t *testing.T) {
	t.Parallel()
	k := key.Generate()
	for name, tt := range map[string]struct {
		spoil func(r *rack)
		of    string // of what is there
		save  error
		says  string
	}{
		"the same part twice": {func(r *rack) {
			data, err := os.ReadFile(r.files("a")[0])
			try(t, err)
			for _, name := range []string{"b", "c"} {
				try(t, errors.Join(os.Remove(r.files(name)[0]), os.WriteFile(filepath.Join(r.path(name), "current", filepath.Base(r.files("a")[0])), data, 0o400)))
			}
		}, "1 of the 2 parts", escrow.ErrPartMoved, "b keeps part 1"},
		"parts that were cut for three": {func(r *rack) {
			try(t, errors.Join(os.Remove(r.files("b")[0]), os.Remove(r.files("c")[0])))
			r.need = 3
			mustSave(t, r.member(1), escrow.Current, k)
			mustSave(t, r.member(2), escrow.Current, k)
			r.need = 2
		}, "of the ", escrow.ErrRecut, "any 3 parts"},
		"parts of another host's key": {func(r *rack) {
			try(t, errors.Join(os.Remove(r.files("b")[0]), os.Remove(r.files("c")[0])))
			mustSave(t, r.member(1), escrow.Current, key.Generate())
		}, "1 of the 2 parts", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRack(t, 2, 3)
			mustSave(t, r.open(), escrow.Current, k)
			tt.spoil(r)
			had := slices.Concat(r.files("a"), r.files("b"), r.files("c"))
			s := r.open()
			copies, err := s.List(t.Context())
			if err != nil || len(copies) == 0 {
				t.Fatalf("%v, %v", copies, err)
			}
			for _, c := range copies {
				if got, _, err := s.Fetch(t.Context(), c); !errors.Is(err, escrow.ErrUnreadable) || !got.IsZero() || !strings.Contains(c.Unreadable, tt.of) {
					t.Errorf("%+v: %v, %v", c, got, err)
				}
				if got, _, err := s.Rebuild(t.Context(), c); err == nil || !got.IsZero() {
					t.Errorf("%+v: %v, %v", c, got, err)
				}
			}
			if tt.save == nil {
				mustSave(t, s, escrow.Current, k)
				holdsKey(t, r.open(), k)
				return
			}
			if _, err := s.Save(t.Context(), escrow.Current, k); !errors.Is(err, tt.save) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Save: %v", err)
			}
			if now := slices.Concat(r.files("a"), r.files("b"), r.files("c")); !slices.Equal(now, had) {
				t.Errorf("written: %v", now)
			}
		})
	}
}

// TestSplitDestroyed: a part that a store has destroyed refuses no save, of whatever number and need
// its name says it was, and of whatever key: nobody can put it together with another.
func TestSplitDestroyed(t *testing.T) {
	t.Parallel()
	for _, was := range []escrow.PartOf{{Need: 3, Number: 2}, {Need: 2, Number: 1}} {
		k := key.Generate()
		r, store := newRack(t, 2, 3), startSafe(t, 2, fake.Options{})
		store.o.Part = was
		save(t, store.ready(t), escrow.Current, k)
		store.o.Part = escrow.PartOf{Need: 2, Number: 2}
		open := func() *kinds.Split {
			s, err := kinds.NewSplit(kinds.SplitOptions{Name: "split", Need: 2, Members: []escrow.Member{
				{Escrow: r.member(0), Number: 1}, {Escrow: store.open(t), Number: 2}, {Escrow: r.member(2), Number: 3},
			}})
			try(t, err)
			return s
		}
		if _, err := open().Save(t.Context(), escrow.Current, k); !errors.Is(err, escrow.ErrRecut) && !errors.Is(err, escrow.ErrPartMoved) {
			t.Errorf("%+v is there: %v", was, err)
		}
		for _, name := range store.Names(safeMount) {
			if !strings.HasSuffix(name, "/keyguard") { // the marker
				try(t, store.Set(safeMount, name, 0, "destroyed"))
			}
		}
		for _, k := range []key.Key{k, key.Generate()} {
			mustSave(t, open(), escrow.Current, k)
			holdsKey(t, open(), k)
		}
	}
}

// TestSplitBesideAnotherCut: enough parts of one cut, and beside them one of another. It is
// never put together with them, in whatever order they come, a drill names its store, and none of
// the others may be lost.
func TestSplitBesideAnotherCut(t *testing.T) {
	t.Parallel()
	r := newRack(t, 2, 3)
	k := key.Generate()
	c := mustSave(t, r.open(), escrow.Current, k)
	try(t, os.Remove(r.files("c")[0]))
	r.need = 3
	mustSave(t, r.member(2), escrow.Current, k)
	r.need = 2
	for range 20 { // the stores answer in any order
		holdsKey(t, r.open(), k)
		got, parts, err := r.open().Rebuild(t.Context(), c)
		if err != nil || !got.Equal(k) || parts[0].Err != nil || parts[1].Err != nil || !errors.Is(parts[2].Err, escrow.ErrRecut) || !parts[2].Wrong() {
			t.Errorf("%v, %+v, %v", got, parts, err)
		}
	}
	s := r.open()
	_, err := s.List(t.Context())
	try(t, err)
	if need, on := s.Cutting(c); need != 2 || !slices.Equal(on, []bool{true, true, false}) {
		t.Errorf("cut for %d, and is on %v", need, on)
	}
	if lacks := s.Lacks(c); lacks == nil || lacks.Saved != 2 || lacks.Need != 2 || lacks.Safe || !strings.Contains(lacks.Error(), "c: no such copy: its part was cut for another need") {
		t.Errorf("%+v", lacks)
	}
}

// TestSplitTwoCuts: a key that was saved while those stores did not answer that have it, cut for
// another need, may lose any store, but not one of each cut.
func TestSplitTwoCuts(t *testing.T) {
	t.Parallel()
	r := newRack(t, 2, 5)
	k := key.Generate()
	for i, need := range []int{2, 2, 3, 3, 3} {
		r.need = need
		mustSave(t, r.member(i), escrow.Current, k)
	}
	for lost, of := range []string{"nobody", "d"} {
		for _, f := range r.files(of) {
			try(t, os.Remove(f))
		}
		s := r.open()
		copies, err := s.List(t.Context())
		if try(t, err); len(copies) != 1 {
			t.Fatalf("%+v", copies)
		}
		if lacks := s.Lacks(copies[0]); lacks == nil || lacks.Safe != (lost == 0) {
			t.Errorf("%d stores lost their part: %+v", lost, lacks)
		}
		holdsKey(t, s, k)
	}
}

// roomless is a store that is full.
type roomless struct{ escrow.Escrow }

func (roomless) Rehearse(context.Context) error { return escrow.ErrFull }

// TestSplitRoom: a store without room for the next part is told before there is one.
func TestSplitRoom(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		need, n, full int
		required      bool // those that are full, or the others
		want          error
	}{
		{2, 3, 0, true, nil},
		{2, 3, 1, true, escrow.ErrFull},
		{2, 3, 1, false, escrow.ErrFull}, // none of the others may be lost
		{2, 4, 1, false, nil},
		{2, 4, 1, true, escrow.ErrFull}, // a rotation wants its part there
		{2, 4, 2, false, escrow.ErrFull},
	} {
		r := newRack(t, tt.need, tt.n)
		s := r.open()
		for i := range s.Members() {
			s.Members()[i].Required = tt.required == (i < tt.full)
		}
		for i := range tt.full {
			s.Members()[i].Escrow = roomless{s.Members()[i].Escrow}
		}
		err := s.Rehearse(t.Context())
		if !errors.Is(err, tt.want) || (tt.want == nil) != (err == nil) || err != nil && !strings.Contains(err.Error(), "a: ") {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

// lie replaces the part of a store by another's, with a sum that fits.
func (r *rack) lie(i int, of key.Fingerprint) {
	r.t.Helper()
	p, err := key.Generate().Cut(r.need, r.numbers[i])
	try(r.t, err)
	p.Of = of
	file := r.files(r.names[i])[0]
	try(r.t, os.Chmod(file, 0o600))
	try(r.t, os.WriteFile(file, p.UnsafeText(), 0o400))
}

// TestSplitLiars: a store that lies is named, and never makes a wrong key.
func TestSplitLiars(t *testing.T) {
	t.Parallel()
	for liar := range 3 {
		r := newRack(t, 2, 3)
		k := key.Generate()
		c := mustSave(t, r.open(), escrow.Current, k)
		r.lie(liar, k.Fingerprint())
		holdsKey(t, r.open(), k)
		got, parts, err := r.open().Rebuild(t.Context(), c)
		if err != nil || !got.Equal(k) || len(parts) != 3 {
			t.Fatalf("%v, %+v, %v", got, parts, err)
		}
		for i, p := range parts {
			if p.Member != r.names[i] || p.Number != i+1 || errors.Is(p.Err, escrow.ErrCorrupt) != (i == liar) || i != liar && p.Err != nil {
				t.Errorf("liar %d: %+v", liar, p)
			}
		}
		// One more, and no key is made up.
		r.lie((liar+1)%3, k.Fingerprint())
		if got, _, err := r.open().Fetch(t.Context(), c); !errors.Is(err, escrow.ErrCorrupt) || !got.IsZero() {
			t.Errorf("two liars: %v, %v", got, err)
		}
		if got, _, err := r.open().Rebuild(t.Context(), c); err == nil || !got.IsZero() {
			t.Errorf("two liars: %v, %v", got, err)
		}
	}
}

// TestSplitOlderPart: a part that was spoiled, or is called another key's, does not hide the good
// one that stands below it on the same member; a drill names it all the same.
func TestSplitOlderPart(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(other []byte) []byte{
		"spoiled":      func([]byte) []byte { return []byte("a note, and no key") },
		"another's":    func(other []byte) []byte { return other },
		"nothing less": func([]byte) []byte { return nil },
	} {
		r := newRack(t, 2, 3)
		k, other := key.Generate(), key.Generate()
		mustSave(t, r.open(), escrow.Current, k)
		mustSave(t, r.open(), escrow.Current, other)
		c := mustSave(t, r.open(), escrow.Current, k)
		files := r.files("c")
		text, err := os.ReadFile(files[1])
		try(t, err)
		try(t, os.Remove(files[2]))
		try(t, os.WriteFile(files[2], spoil(text), 0o400))
		for _, f := range r.files("a") {
			try(t, os.Remove(f))
		}
		if got, _, err := r.open().Fetch(t.Context(), c); err != nil || !got.Equal(k) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if _, parts, err := r.open().Rebuild(t.Context(), c); err == nil || len(parts) != 3 || parts[2].Err == nil {
			t.Errorf("%s: a drill says nothing of it: %+v, %v", name, parts, err)
		}
	}
}

// TestSplitPartUnderAnotherName: what a store calls a part is hearsay. One that lies under the name
// of another key is found where its own key lacks it, and the other key is rebuilt all the same.
func TestSplitPartUnderAnotherName(t *testing.T) {
	t.Parallel()
	for name, former := range map[string]key.Key{"one that is there": key.Generate(), "one that is nowhere else": key.Generate()} {
		r := newRack(t, 2, 3)
		k := key.Generate()
		there := name == "one that is there"
		if there {
			mustSave(t, r.open(), escrow.Current, former)
		}
		mustSave(t, r.open(), escrow.Current, k)
		files := r.files("b")
		last := files[len(files)-1]
		try(t, os.Rename(last, strings.Replace(last, string(k.Fingerprint()), string(former.Fingerprint()), 1)))
		for _, f := range r.files("a") {
			try(t, os.Remove(f))
		}
		s := r.open()
		holdsKey(t, s, k)
		odd, err := k.Cut(3, 2) // beside one that was cut for another need, too
		try(t, err)
		path := filepath.Join(r.path("b"), "current", "20400101T000000.000Z-"+string(k.Fingerprint())+".need3.part2")
		try(t, os.WriteFile(path, odd.UnsafeText(), 0o400))
		if copies, err := r.open().List(t.Context()); err != nil || slices.ContainsFunc(copies, func(c escrow.Copy) bool { return c.Fingerprint == k.Fingerprint() && c.Unreadable != "" }) {
			t.Errorf("%s, beside another cut: %+v, %v", name, copies, err)
		}
		try(t, os.Remove(path))
		if copies, err := s.List(t.Context()); err != nil || len(copies) != 1 && !there || there && (len(copies) != 2 || copies[1].Unreadable != "") {
			t.Errorf("%s: %+v, %v", name, copies, err)
		}
		mustSave(t, r.open(), escrow.Current, k)
		r.dead["a"] = escrow.ErrUnreachable
		holdsKey(t, r.open(), k)
		r.dead["c"] = escrow.ErrUnreachable
		if _, err := r.open().List(t.Context()); !errors.Is(err, escrow.ErrUnreachable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSplitCutByItsName: nor does a name keep a key from being saved. Another key's part that is
// called one of it, cut for another need, is no part of it.
func TestSplitCutByItsName(t *testing.T) {
	t.Parallel()
	for _, saved := range []bool{true, false} {
		r := newRack(t, 2, 3)
		k := key.Generate()
		if saved {
			mustSave(t, r.open(), escrow.Current, k)
		}
		part, err := key.Generate().Cut(3, 3)
		try(t, err)
		path := filepath.Join(r.path("c"), "current", "20400101T000000.000Z-"+string(k.Fingerprint())+".need3.part3")
		try(t, os.WriteFile(path, part.UnsafeText(), 0o400))
		s := r.open()
		if _, err := s.List(t.Context()); err != nil || s.Refuses(k.Fingerprint()) != nil {
			t.Errorf("%v, %v", err, s.Refuses(k.Fingerprint()))
		}
		mustSave(t, r.open(), escrow.Current, k)
		holdsKey(t, r.open(), k)
	}
}

// TestSplitRubbishByItsName: nor does a name under which there is no part at all: another
// number, another need, of this key or of one that nobody has.
func TestSplitRubbishByItsName(t *testing.T) {
	t.Parallel()
	k := key.Generate()
	for _, shelf := range escrow.Shelves {
		for _, called := range []string{".need3.part1", ".need1.part1", ".need2.part3", ".need2.part9"} {
			for _, of := range []key.Fingerprint{k.Fingerprint(), key.Generate().Fingerprint()} {
				for _, text := range []string{"", "rubbish"} {
					r := newRack(t, 2, 3)
					mustSave(t, r.open(), escrow.Current, k)
					path := filepath.Join(r.path("a"), string(shelf), "20010101T000000.000Z-"+string(of)+called)
					try(t, os.WriteFile(path, []byte(text), 0o400))
					for _, f := range r.files("c") {
						try(t, os.Remove(f))
					}
					s := r.open()
					if _, err := s.List(t.Context()); err != nil || s.Refuses(k.Fingerprint()) != nil {
						t.Errorf("%s, %q: %v, %v", path, text, err, s.Refuses(k.Fingerprint()))
						continue
					}
					if c, err := s.Save(t.Context(), escrow.Current, k); err != nil || s.Lacks(c) != nil {
						t.Errorf("%s, %q: %v, %v", path, text, err, s.Lacks(c))
					}
					mustSave(t, r.open(), escrow.Current, key.Generate())
				}
			}
		}
	}
}

// TestSplitWholeKeyBeside: a store's whole copies from before stay copies, below the parts.
func TestSplitWholeKeyBeside(t *testing.T) {
	t.Parallel()
	r := newRack(t, 2, 3)
	old, k := key.Generate(), key.Generate()
	whole := mustSave(t, openDirectory(t, kinds.DirectoryOptions{Name: "a", Path: r.path("a"), AllowSameDisk: true}), escrow.Current, old)
	s := r.open()
	copies, err := s.List(t.Context())
	if err != nil || len(copies) != 1 || copies[0].ID != "current/a/"+strings.TrimPrefix(whole.ID, "current/") || copies[0].Fingerprint != old.Fingerprint() {
		t.Fatalf("%+v, %v", copies, err)
	}
	holdsKey(t, s, old)
	mustSave(t, s, escrow.Current, k)
	holdsKey(t, r.open(), k)
	copies, err = s.List(t.Context())
	if err != nil || len(copies) != 2 {
		t.Fatalf("%+v, %v", copies, err)
	}
	if got, _, err := s.Fetch(t.Context(), copies[1]); err != nil || !got.Equal(old) {
		t.Errorf("%v, %v", got, err)
	}
	// Called another key, it is a copy of neither, to who lists it as to who fetches it.
	for _, f := range r.files("a") {
		if as := strings.Replace(f, string(old.Fingerprint()), string(key.Generate().Fingerprint()), 1); as != f {
			try(t, os.Rename(f, as))
		}
	}
	copies, err = r.open().List(t.Context())
	if err != nil || len(copies) != 2 || !copies[1].Beside || copies[1].Fingerprint != "" {
		t.Errorf("%+v, %v", copies, err)
	}
}

// TestSplitByHand: with the files and base64(1), as the manual says it.
func TestSplitByHand(t *testing.T) {
	t.Parallel()
	r := newRack(t, 3, 5)
	k := key.Generate()
	mustSave(t, r.open(), escrow.Current, k)
	var all []byte
	for _, name := range []string{"e", "b", "d"} {
		data, err := os.ReadFile(r.files(name)[0])
		try(t, err)
		all = append(all, data...)
	}
	parts, err := key.ReadParts(all)
	try(t, err)
	if got, wrong, err := key.Rebuild(parts); err != nil || wrong != nil || !got.Equal(k) {
		t.Errorf("%v, %v, %v", got, wrong, err)
	}
}

func TestSplitOptions(t *testing.T) {
	t.Parallel()
	dir := func(name, path string) escrow.Escrow {
		return openDirectory(t, kinds.DirectoryOptions{Name: name, Path: path, Part: escrow.PartOf{Need: 2, Number: 1}})
	}
	a, b := dir("a", "/a"), dir("b", "/b")
	for want, o := range map[string]kinds.SplitOptions{
		"need is 1":             {Need: 1, Members: []escrow.Member{{Escrow: a, Number: 1}, {Escrow: b, Number: 2}}},
		"need is 10":            {Need: 10, Members: []escrow.Member{{Escrow: a, Number: 1}, {Escrow: b, Number: 2}}},
		"1 members, and 2":      {Need: 2, Members: []escrow.Member{{Escrow: a, Number: 1}}},
		"both have part 1":      {Need: 2, Members: []escrow.Member{{Escrow: a, Number: 1}, {Escrow: b, Number: 1}}},
		"has part 0":            {Need: 2, Members: []escrow.Member{{Escrow: a}, {Escrow: b, Number: 1}}},
		"has part 10":           {Need: 2, Members: []escrow.Member{{Escrow: a, Number: 10}, {Escrow: b, Number: 1}}},
		"a is named twice":      {Need: 2, Members: []escrow.Member{{Escrow: a, Number: 1}, {Escrow: dir("a", "/c"), Number: 2}}},
		"a and c are one place": {Need: 2, Members: []escrow.Member{{Escrow: a, Number: 1}, {Escrow: dir("c", "/a"), Number: 2}}},
	} {
		o.Name = "split"
		if s, err := kinds.NewSplit(o); err == nil || s != nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "escrow split: ") {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := kinds.NewDirectory(kinds.DirectoryOptions{Name: "a", Path: "/a", Part: escrow.PartOf{Need: 1, Number: 1}}); !errors.Is(err, key.ErrParts) {
		t.Errorf("a part of which one is needed: %v", err)
	}
	for need, lost := range map[int]string{2: "any 8 of ", 7: "any 3 of ", key.MaxParts: "any 1 of "} {
		if p := newRack(t, need, key.MaxParts).open().Place(); !strings.HasPrefix(p.Domain, lost) || !strings.HasPrefix(p.Where, fmt.Sprintf("%d of a, b, ", need)) {
			t.Errorf("%d of %d are lost with %q, and are %q", need, key.MaxParts, p.Domain, p.Where)
		}
	}
}

// TestPartGoesThroughTheChild: a directory's reader hands a part on, beside its refusal.
func TestPartGoesThroughTheChild(t *testing.T) {
	t.Parallel()
	o := kinds.DirectoryOptions{Name: "usb", Path: filepath.Join(t.TempDir(), "keys"), AllowSameDisk: true, Part: escrow.PartOf{Need: 2, Number: 3}}
	i, err := kinds.NewIsolated("/usr/bin/env", []string{"GORACE=atexit_sleep_ms=0", os.Args[0], "serve-directory"}, o, time.Minute)
	try(t, err)
	try(t, i.Init(t.Context()))
	k := key.Generate()
	c := mustSave(t, i, escrow.Current, k)
	_, _, err = i.Fetch(t.Context(), c)
	var part *key.PartError
	if !errors.As(err, &part) || !errors.Is(err, escrow.ErrNotKey) {
		t.Fatal(err)
	}
	own, err := k.Cut(2, 3)
	try(t, err)
	if !part.Part.Equal(own) || strings.Contains(part.Error(), base64.StdEncoding.EncodeToString(k.UnsafeBytes())) {
		t.Errorf("%v is not %v", part.Part, own)
	}
}

// TestReread: the parts that are read count for what they are, not for their names.
func TestReread(t *testing.T) {
	r := newRack(t, 2, 3)
	k := key.Generate()
	s := r.open()
	c := mustSave(t, s, escrow.Current, k)
	try(t, os.Truncate(r.files("c")[0], 20))
	try(t, os.Rename(r.files("b")[0], filepath.Join(r.path("b"), "current", filepath.Base(r.files("a")[0]))))
	for _, wanted := range []bool{false, true} {
		_, err := s.List(t.Context())
		try(t, err)
		s.Reread(t.Context(), c, func(escrow.Place) bool { return wanted })
		lacks, want := s.Lacks(c), []string(nil)
		if wanted {
			want = []string{"c"}
		}
		if (lacks != nil) != wanted || wanted && (!slices.Equal(lacks.Bare, want) || lacks.Saved != 2 || !strings.Contains(lacks.Error(), "c: no such copy: cannot fetch")) {
			t.Errorf("%+v", lacks)
		}
	}
	mustSave(t, s, escrow.Current, k)
	_, err := s.List(t.Context())
	try(t, err)
	s.Reread(t.Context(), c, func(escrow.Place) bool { return true })
	if lacks := s.Lacks(c); lacks != nil {
		t.Errorf("saved again: %v", lacks)
	}
}

// TestApart: two names that lead to one directory, or one into the other, are told before anything
// is written: whoever reads it would have two parts (law 8).
func TestApart(t *testing.T) {
	for name, tt := range map[string]struct {
		paths []string
		make  func(path func(string) string) error
		one   bool
	}{
		"two": {[]string{"a", "b"}, nil, false},
		"a link": {[]string{"a", "b"}, func(p func(string) string) error {
			return errors.Join(os.Mkdir(p("a"), 0o700), os.Symlink("a", p("b")))
		}, true},
		"not made yet": {[]string{"c/a", "d/a"}, func(p func(string) string) error {
			return errors.Join(os.Mkdir(p("c"), 0o700), os.Symlink("c", p("d")))
		}, true},
		"two, not made yet": {[]string{"c/a", "d/b"}, func(p func(string) string) error {
			return errors.Join(os.Mkdir(p("c"), 0o700), os.Symlink("c", p("d")))
		}, false},
		"one in the other":      {[]string{"a", "a/b"}, func(p func(string) string) error { return os.Mkdir(p("a"), 0o700) }, true},
		"the other in that":     {[]string{"a/b/c", "a"}, func(p func(string) string) error { return os.MkdirAll(p("a/b"), 0o700) }, true},
		"one that is not there": {[]string{"a", "gone/away/b"}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := func(name string) string { return filepath.Join(dir, name) }
			if tt.make != nil {
				try(t, tt.make(path))
			}
			o := kinds.SplitOptions{Name: "split", Need: 2}
			whole := []escrow.Writer{}
			for i, p := range tt.paths {
				d := openDirectory(t, kinds.DirectoryOptions{Name: fmt.Sprint("m", i), Path: path(p), AllowSameDisk: true, Part: escrow.PartOf{Need: 2, Number: i + 1}})
				whole = append(whole, d)
				o.Members = append(o.Members, escrow.Member{Escrow: d, Number: i + 1})
			}
			s, err := kinds.NewSplit(o)
			try(t, err)
			for _, places := range [][]escrow.Writer{whole, {s}} {
				if err := escrow.Apart(t.Context(), places); errors.Is(err, escrow.ErrOnePlace) != tt.one || (err != nil) != tt.one {
					t.Error(err)
				}
			}
			if !tt.one {
				return
			}
			for i := range tt.paths {
				try(t, o.Members[i].Init(t.Context()))
			}
			if _, err := s.Save(t.Context(), escrow.Current, key.Generate()); !errors.Is(err, escrow.ErrOnePlace) {
				t.Error(err)
			}
			for _, p := range tt.paths {
				if kept, err := os.ReadDir(path(p) + "/current"); err != nil || len(kept) > 0 {
					t.Error(kept, err)
				}
			}
		})
	}
}
