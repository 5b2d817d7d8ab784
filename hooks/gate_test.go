package hooks_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/grpc/codes"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/secretmanager"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
	"github.com/footprintai/containarium-keyguard/hooks"
	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

const masterSecret = "projects/keyguard-test/secrets/master"

// loop is a host whose daemon is started again and again: a real Secret Manager client
// against a fake server, a real Postgres, and a clock that stands still until told.
type loop struct {
	t       *testing.T
	dir     string
	store   *secretmanager.Server
	db      *rowstest.Database
	up      bool // the rows can be asked
	boot    string
	since   time.Duration
	options hooks.PrestartOptions
	escrows []agent.Escrow // nil: the Secret Manager, opened anew for every start
}

// newLoop has a database, or nil for none yet, a Secret Manager with both secrets and no
// version, and no keyfile.
func newLoop(t *testing.T, db *rowstest.Database) *loop {
	t.Helper()
	store, err := secretmanager.Start(secretmanager.Options{Anonymous: true, Unlimited: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	l := &loop{t: t, dir: t.TempDir(), store: store, db: db, up: true, boot: "one", since: time.Hour}
	for _, d := range []string{"etc", "state", "run"} {
		l.must(os.Mkdir(l.path(d), 0o700))
	}
	l.must(l.gcp().Init(t.Context()))
	store.Reset()
	l.options = hooks.PrestartOptions{Budget: 20 * time.Second, RunDir: l.path("run"), Configuration: "digest",
		Clock: func() (string, time.Duration) { return l.boot, l.since }}
	return l
}

func (l *loop) path(name string) string { return filepath.Join(l.dir, name) }

func (l *loop) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *loop) upsert(k key.Key, name string) {
	l.t.Helper()
	l.must(l.db.Upsert(k, "tenant", name, []byte("value")))
}

func (l *loop) gcp() *kinds.GCP {
	l.t.Helper()
	g, err := kinds.NewGCP(kinds.GCPOptions{Name: "gcp", Project: "keyguard-test", Secret: "master", Endpoint: l.store.Addr(), Plaintext: true})
	l.must(err)
	return g
}

func (l *loop) host() *agent.Host {
	h := &agent.Host{
		Keyfile: keyfile.File{Path: l.path("etc/secrets.key"), Owner: os.Getuid(), Group: os.Getgid(),
			Quarantine: l.path("state/quarantine"), Locks: l.path("state")},
		Ledger:   ledger.Open(l.path("state"), ledger.Options{Host: "test"}),
		StateDir: l.path("state"),
		Now:      time.Now,
		OpenRows: func(_ context.Context, o rows.Options) (agent.Rows, error) {
			switch {
			case !l.up:
				return nil, rows.ErrNotListening
			case l.db == nil:
				return rows.Open(rows.Location{Absent: true, Why: "no database yet"}, o)
			}
			return patient(l.db.URL(), o)
		},
		Escrows: l.escrows,
	}
	if h.Escrows == nil {
		g := l.gcp()
		h.Escrows = []agent.Escrow{{Reader: g, Writer: g, Required: true}}
	}
	return h
}

// start starts the daemon once, as a process of its own would.
func (l *loop) start() agent.GuardResult {
	l.t.Helper()
	h := l.host()
	r, err := hooks.Prestart(l.t.Context(), h, l.options)
	l.must(err)
	if l.escrows == nil {
		h.Escrows[0].Reader.(*kinds.GCP).Close()
	}
	return r
}

// decides starts once, wants this decision, and returns how often the store was called.
func (l *loop) decides(want decide.Action) (agent.GuardResult, int) {
	l.t.Helper()
	before := l.calls()
	r := l.start()
	if r.Decision.Action != want {
		l.t.Fatalf("decided %s (%s), not %s", r.Decision.Action, r.Decision.Reason, want)
	}
	return r, l.calls() - before
}

func (l *loop) calls() int {
	sum := 0
	for _, n := range l.store.Calls() {
		sum += n
	}
	return sum
}

func (l *loop) wants(what string, got, want int) {
	l.t.Helper()
	if got != want {
		l.t.Fatalf("%s: %d calls of the store, want %d", what, got, want)
	}
}

// later lets time pass, less than any back-off by default.
func (l *loop) later(d time.Duration) { l.since += d }

// TestBackoff: a restart loop that goes on for ever does not hammer a store (law 9), and
// what was learnt meanwhile is never more than what it was learnt from.
func TestBackoff(t *testing.T) {
	cluster := rowstest.New(t)
	right, foreign := key.Generate(), key.Generate()
	db := cluster.Database(t)
	if err := db.Upsert(right, "tenant", "SECRET_1", []byte("value")); err != nil {
		t.Fatal(err)
	}

	for name, fault := range map[string]secretmanager.Fault{
		"fails":    {Kind: secretmanager.Fail, Code: codes.Unavailable},
		"is cut":   {Kind: secretmanager.CutBefore},
		"refuses":  {Kind: secretmanager.Fail, Code: codes.PermissionDenied},
		"is tired": {Kind: secretmanager.Fail, Code: codes.ResourceExhausted},
	} {
		if brief.Run() && name != "fails" {
			continue
		}
		t.Run("100 starts 5 s apart, the store "+name, func(t *testing.T) {
			l := newLoop(t, nil) // no database yet: the copies alone decide
			l.store.Put(masterSecret, right.UnsafeBytes())
			l.store.Break(fault)
			for range 100 {
				l.decides(decide.Doubt)
				l.later(5 * time.Second)
			}
			n := l.calls()
			if n > 12 || n < 5 {
				t.Errorf("%d calls: %v; want at most 12, and not none", n, l.store.Calls())
			}
			// It answers again, and the daemon starts after two and a half minutes at most.
			l.store.Heal()
			l.later(150 * time.Second)
			l.decides(decide.Install)
		})
	}

	t.Run("100 starts, the store answers that the key is lost", func(t *testing.T) {
		brief.Skip(t)
		l := newLoop(t, db)
		l.store.Put(masterSecret, foreign.UnsafeBytes())
		l.store.Put(masterSecret, []byte("not a key"))
		l.decides(decide.Lost)
		for range 100 {
			// From memory alone it is never lost (law 6).
			calls := l.calls()
			if r := l.start(); r.Decision.Action != decide.Doubt && (r.Decision.Action != decide.Lost || l.calls() == calls) {
				t.Fatalf("%+v after %d calls", r.Decision, l.calls()-calls)
			}
			l.later(5 * time.Second)
		}
		// A round is two listings and two fetches.
		if n := l.store.Calls()["ListSecretVersions"] / 2; n > 12 || n < 5 {
			t.Errorf("%d rounds", n)
		}
	})

	t.Run("100 starts, and the key cannot be put in place", func(t *testing.T) {
		brief.Skip(t)
		l := newLoop(t, db)
		l.store.Put(masterSecret, right.UnsafeBytes())
		l.must(os.Remove(l.path("etc")))
		l.must(os.WriteFile(l.path("etc"), nil, 0o600))
		refused := func() {
			g := l.gcp()
			defer g.Close() //nolint:errcheck // it was only read
			h := l.host()
			h.Escrows = []agent.Escrow{{Reader: g, Writer: g, Required: true}}
			if _, err := hooks.Prestart(t.Context(), h, l.options); !errors.Is(err, agent.ErrNotPlaced) {
				t.Fatal(err)
			}
			l.later(5 * time.Second)
		}
		for range 100 {
			refused()
		}
		l.wants("they", l.calls(), 1) // from then on the key is on this host
		// And where it cannot be kept here either, the pauses grow.
		l.must(os.RemoveAll(l.path("state/quarantine")))
		l.must(os.WriteFile(l.path("state/quarantine"), nil, 0o600))
		l.later(time.Hour)
		before := l.store.Calls()["AccessSecretVersion"]
		for range 100 {
			if _, err := hooks.Prestart(t.Context(), l.host(), l.options); err != nil && !errors.Is(err, agent.ErrNotPlaced) {
				t.Fatal(err)
			}
			l.later(5 * time.Second)
		}
		if n := l.store.Calls()["AccessSecretVersion"] - before; n > 12 || n < 5 {
			t.Errorf("%d reads", n)
		}
	})

	t.Run("a start that may ask fetches what opened nothing, too", func(t *testing.T) {
		l := newLoop(t, cluster.Database(t))
		l.upsert(right, "SECRET_1")
		l.store.Put(masterSecret, foreign.UnsafeBytes())
		_, n := l.decides(decide.Lost)
		l.wants("the first start", n, 3)
		l.later(time.Second)
		again, n := l.decides(decide.Doubt) // never lost from memory
		l.wants("the second", n, 0)
		if len(again.Evidence.Escrows) != 1 || !again.Evidence.Escrows[0].Remembered {
			t.Errorf("the second start does not say that it remembers: %+v", again.Evidence.Escrows)
		}
		if p, tried := again.Evidence.Rows.Proofs[foreign.Fingerprint()]; tried {
			t.Errorf("the second start says that it has tried what it has not: %v", p)
		}
		l.later(time.Minute)
		_, n = l.decides(decide.Lost)
		l.wants("the third, which asks again", n, 3)
	})

	// What was answered before says nothing of the table that stands there now, nor of the
	// bytes that a name has now.
	t.Run("another dump is loaded, of as many rows", func(t *testing.T) {
		// A fresh cluster counts its transactions as the one before did.
		load := func(k key.Key) *rowstest.Database {
			db := rowstest.New(t).Database(t)
			l := &loop{t: t, db: db}
			l.upsert(k, "SECRET_1")
			return db
		}
		l := newLoop(t, load(right))
		l.store.Put(masterSecret, foreign.UnsafeBytes())
		l.decides(decide.Lost)
		l.db = load(foreign)
		l.later(time.Second)
		_, n := l.decides(decide.Doubt)
		l.wants("too early to ask again", n, 0)
		l.later(time.Minute)
		l.decides(decide.Install)
	})

	t.Run("a copy is mended under its name", func(t *testing.T) {
		l := newLoop(t, cluster.Database(t))
		l.upsert(right, "SECRET_1")
		d, err := kinds.NewDirectory(kinds.DirectoryOptions{Name: "usb", Path: l.path("usb"), Keyfile: l.path("etc/secrets.key"), AllowSameDisk: true})
		l.must(err)
		l.must(os.Mkdir(l.path("usb"), 0o700))
		l.must(d.Init(t.Context()))
		c, err := d.Save(t.Context(), escrow.Current, right)
		l.must(err)
		name := l.path("usb/" + c.ID)
		l.must(os.Chmod(name, 0o600))
		write := func(content []byte) {
			f, err := os.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
			l.must(err)
			_, err = f.Write(content)
			l.must(errors.Join(err, f.Close()))
		}
		good, err := os.ReadFile(name)
		l.must(err)
		l.escrows = []agent.Escrow{{Reader: d, Writer: d, Required: true}}
		write([]byte("\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd what once was a key"))
		l.decides(decide.Lost)
		write(good)
		l.later(time.Second)
		l.decides(decide.Doubt)
		l.later(time.Minute)
		l.decides(decide.Install)
	})

	for _, c := range []struct {
		name  string
		store []key.Key // the newest last
		early bool      // to ask it
		want  decide.Action
	}{
		{"the newest copy is right", []key.Key{right}, false, decide.Install},
		{"an older copy is right", []key.Key{right, foreign}, false, decide.Install},
		{"it is early to ask the store", []key.Key{foreign}, true, decide.Doubt},
	} {
		t.Run("the watcher is the first to tell the ledger what this start has found, too, and "+c.name, func(t *testing.T) {
			l := newLoop(t, cluster.Database(t))
			l.upsert(right, "SECRET_1")
			for _, k := range c.store {
				l.store.Put(masterSecret, k.UnsafeBytes())
			}
			h := l.host()
			l.must(os.WriteFile(h.Keyfile.Path, foreign.UnsafeBytes(), 0o400))
			if c.early {
				l.decides(decide.Lost)
				l.later(time.Second)
			}
			l.must(h.Ledger.Append(ledger.Entry{Event: ledger.Proven, Fingerprint: foreign.Fingerprint(), Verdict: string(rows.Opens), Time: time.Now().Add(-26 * time.Hour)}))
			open, looks, before := h.OpenRows, 0, l.calls()
			h.OpenRows = func(ctx context.Context, o rows.Options) (agent.Rows, error) {
				if looks++; looks == 1 {
					l.must(h.Ledger.Append(ledger.Entry{Event: ledger.Contradicted, Fingerprint: foreign.Fingerprint(), Verdict: string(rows.Refuted)}))
				}
				return open(ctx, o)
			}
			r, err := hooks.Prestart(t.Context(), h, l.options)
			if l.must(err); r.Decision.Action != c.want || looks != 2 || (l.calls() == before) != c.early {
				t.Errorf("%+v after %d looks and %d calls", r.Decision, looks, l.calls()-before)
			}
		})
	}

	t.Run("a start goes on where the one before had no time", func(t *testing.T) {
		l := newLoop(t, db)
		s := &slowly{Reader: l.gcp(), right: right}
		l.escrows = []agent.Escrow{{Reader: s, Writer: l.gcp(), Required: true}}
		l.decides(decide.Doubt)
		l.later(5 * time.Minute)
		s.asked = nil
		l.decides(decide.Install)
	})

	t.Run("the newest copy alone is asked for where it opens the rows", func(t *testing.T) {
		for _, c := range []struct {
			name       string
			put        func(l *loop)
			reads, all int
		}{
			{"it does", func(l *loop) { l.store.Put(masterSecret, right.UnsafeBytes()) }, 1, 1},
			{"the one below does", func(l *loop) {
				l.store.Put(masterSecret, right.UnsafeBytes())
				l.store.Put(masterSecret, foreign.UnsafeBytes())
			}, 2, 4},
			{"it is no key", func(l *loop) {
				l.store.Put(masterSecret, right.UnsafeBytes())
				l.store.Put(masterSecret, []byte("no key"))
			}, 3, 5},
			{"it is disabled", func(l *loop) {
				l.store.Put(masterSecret, right.UnsafeBytes())
				l.store.Put(masterSecret, foreign.UnsafeBytes())
				l.must(l.store.Set(masterSecret, 2, secretmanagerpb.SecretVersion_DISABLED))
			}, 2, 4},
			{"it is in quarantine alone", func(l *loop) { l.store.Put(masterSecret+"-quarantine", right.UnsafeBytes()) }, 2, 4},
		} {
			l := newLoop(t, cluster.Database(t))
			l.upsert(right, "SECRET_1")
			c.put(l)
			_, n := l.decides(decide.Install)
			l.wants(c.name, n, c.all)
			l.wants(c.name+", reads", l.store.Calls()["AccessSecretVersion"], c.reads)
		}
	})

	t.Run("a remembered copy is not installed, having no bytes", func(t *testing.T) {
		l := newLoop(t, cluster.Database(t))
		l.store.Put(masterSecret, foreign.UnsafeBytes())
		l.up = false
		l.decides(decide.Doubt) // nothing is known here
		l.up = true
		l.upsert(foreign, "SECRET_1")
		r, _ := l.decides(decide.Install)
		if r.Decision.Key != foreign.Fingerprint() {
			t.Errorf("installed %s", r.Decision.Key)
		}
	})

	t.Run("never a new key from memory", func(t *testing.T) {
		l := newLoop(t, nil)
		// The first start finds no copy, and cannot save there.
		l.store.Break(secretmanager.Fault{Kind: secretmanager.Fail, Method: "AddSecretVersion", Code: codes.PermissionDenied})
		l.decides(decide.Doubt)
		// Meanwhile somebody brings the key of this host.
		l.store.Heal()
		l.store.Put(masterSecret, right.UnsafeBytes())
		l.later(time.Second)
		r, n := l.decides(decide.Doubt)
		l.wants("too early to ask again", n, 0)
		if !strings.Contains(r.Decision.Reason, "not asked again yet") {
			t.Errorf("reason %q", r.Decision.Reason)
		}
		l.later(time.Minute)
		l.decides(decide.Install)
		r, _ = l.decides(decide.Pass)
		if r.Decision.Key != right.Fingerprint() {
			t.Errorf("passes %s", r.Decision.Key)
		}
	})

	t.Run("what clears it", func(t *testing.T) {
		for name, change := range map[string]func(l *loop){
			"another configuration": func(l *loop) { l.options.Configuration = "other" },
			"another boot":          func(l *loop) { l.boot = "two" },
			"a clock that is gone":  func(l *loop) { l.boot, l.since = "", 0 },
			"another keyfile": func(l *loop) {
				l.must(os.WriteFile(l.path("etc/secrets.key"), []byte("x"), 0o400))
			},
			"a person":          func(l *loop) { l.must(hooks.ForgetBackoff(l.path("run"))) },
			"ten quiet minutes": func(l *loop) { l.later(11 * time.Minute) },
			"garbage":           func(l *loop) { l.must(os.WriteFile(l.path("run/backoff.json"), []byte("{garbage"), 0o600)) },
			"nothing in it":     func(l *loop) { l.must(os.WriteFile(l.path("run/backoff.json"), nil, 0o600)) },
			"null": func(l *loop) {
				text := `{"boot":"one","about":"","escrows":{"gcp":null},"proofs":null}`
				l.must(os.WriteFile(l.path("run/backoff.json"), []byte(text), 0o600))
			},
			"it is lost": func(l *loop) { l.must(os.RemoveAll(l.path("run"))) },
		} {
			l := newLoop(t, db)
			l.store.Put(masterSecret, foreign.UnsafeBytes())
			l.decides(decide.Lost)
			l.later(time.Second)
			_, n := l.decides(decide.Doubt)
			l.wants("before "+name, n, 0)
			change(l)
			_, n = l.decides(decide.Lost)
			l.wants("after "+name, n, 3)
			if l.boot == "" { // then every start asks: it must not wait for ever
				_, n = l.decides(decide.Lost)
				l.wants("again after "+name, n, 3)
			}
		}
	})

	t.Run("a person who clears twice meets no error", func(t *testing.T) {
		if err := errors.Join(hooks.ForgetBackoff(t.TempDir()), hooks.ForgetBackoff("/nonexistent/run")); err != nil {
			t.Error(err)
		}
	})

	t.Run("a call that never left the host does not count", func(t *testing.T) {
		l := newLoop(t, db)
		asked := 0
		never := &failing{Reader: l.gcp(), err: fmt.Errorf("%w: no route", escrow.ErrNeverLeft), asked: &asked}
		gone, err := kinds.NewDirectory(kinds.DirectoryOptions{Name: "usb", Path: l.path("usb"), Keyfile: l.path("etc/secrets.key"), AllowSameDisk: true})
		l.must(err)
		l.must(os.Mkdir(l.path("usb"), 0o700))
		l.escrows = []agent.Escrow{{Reader: never, Writer: l.gcp(), Required: true}, {Reader: gone, Writer: gone}}
		for range 20 {
			l.decides(decide.Doubt)
			l.later(5 * time.Second)
		}
		if asked != 20 {
			t.Errorf("asked %d times in 20 starts", asked)
		}
		// The stick is put in: it is read at once.
		l.must(gone.Init(t.Context()))
		if _, err := gone.Save(t.Context(), escrow.Current, right); err != nil {
			t.Fatal(err)
		}
		l.decides(decide.Install)
	})

	t.Run("a call that left counts again after those that did not", func(t *testing.T) {
		l := newLoop(t, db)
		asked := 0
		flaky := &failing{Reader: l.gcp(), err: escrow.ErrUnreachable, asked: &asked}
		l.escrows = []agent.Escrow{{Reader: flaky, Writer: l.gcp(), Required: true}}
		l.decides(decide.Doubt)
		flaky.err = escrow.ErrNeverLeft
		l.later(10 * time.Second)
		l.decides(decide.Doubt)
		l.decides(decide.Doubt)
		flaky.err = escrow.ErrUnreachable
		l.decides(decide.Doubt)
		l.later(9 * time.Second) // the second that left: 10 s
		l.decides(decide.Doubt)
		if asked != 4 {
			t.Errorf("asked %d times", asked)
		}
	})

	t.Run("a runtime directory that cannot be written", func(t *testing.T) {
		l := newLoop(t, db)
		l.must(os.RemoveAll(l.path("run")))
		l.must(os.WriteFile(l.path("run"), nil, 0o600)) // a file in its place: root may write anywhere
		r, _ := l.decides(decide.Lost)
		if len(r.Trouble) != 1 || !strings.Contains(r.Trouble[0].Error(), "cannot remember") {
			t.Errorf("trouble: %v", r.Trouble)
		}
		l.store.Put(masterSecret, right.UnsafeBytes())
		l.decides(decide.Install)
	})

	t.Run("several starts at once", func(t *testing.T) {
		l := newLoop(t, db)
		l.store.Put(masterSecret, foreign.UnsafeBytes())
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				r, err := hooks.Prestart(t.Context(), l.host(), l.options)
				if err != nil || r.Decision.Action != decide.Lost && r.Decision.Action != decide.Doubt {
					t.Errorf("%v, %v", r.Decision, err)
				}
			})
		}
		all.Wait()
		l.decides(decide.Doubt) // whatever they left can be read
	})

	t.Run("nothing is remembered of a healthy start", func(t *testing.T) {
		l := newLoop(t, db)
		l.must(os.WriteFile(l.path("etc/secrets.key"), right.UnsafeBytes(), 0o400))
		l.decides(decide.Pass)
		_, n := l.decides(decide.Pass)
		l.wants("a healthy start", n, 0)
		if left, _ := filepath.Glob(l.path("run/*")); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	})
}

// failing is an escrow that fails in a way that no network here can be made to.
type failing struct {
	escrow.Reader
	err   error
	asked *int
}

func (f *failing) List(context.Context) ([]escrow.Copy, error) {
	*f.asked++
	return nil, f.err
}

// slowly is an escrow of a program that a start has time to run three times: the right key
// is the last of its copies.
type slowly struct {
	escrow.Reader
	right key.Key
	asked []string
}

const slowCopies = 5

func (s *slowly) Place() escrow.Place { return escrow.Place{Kind: "command"} }

func (s *slowly) List(context.Context) (list []escrow.Copy, err error) {
	for n := range slowCopies {
		list = append(list, escrow.Copy{ID: fmt.Sprint("current/", n), Shelf: escrow.Current})
	}
	return list, nil
}

func (s *slowly) Fetch(_ context.Context, c escrow.Copy) (key.Key, key.Encoding, error) {
	if s.asked = append(s.asked, c.ID); len(s.asked) > 3 {
		return key.Key{}, "", escrow.ErrTimeout
	}
	if c.ID == fmt.Sprint("current/", slowCopies-1) {
		return s.right.Clone(), key.Raw, nil
	}
	return key.Generate(), key.Raw, nil
}

// TestPrestartBudget: what hangs ends with the budget, and is no answer (law 6, law 9).
func TestPrestartBudget(t *testing.T) {
	t.Parallel() // it waits
	const budget, generous = time.Second, 15 * time.Second
	cluster := rowstest.New(t)
	right := key.Generate()
	db := cluster.Database(t)
	if err := db.Upsert(right, "tenant", "SECRET_1", []byte("value")); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		hang func(l *loop)
		want decide.Action
	}{
		"a hung escrow": {func(l *loop) { l.store.Break(secretmanager.Fault{Kind: secretmanager.Hang}) }, decide.Doubt},
		"an escrow that hangs at the second copy": {func(l *loop) {
			l.store.Break(secretmanager.Fault{Kind: secretmanager.Hang, Method: "AccessSecretVersion"})
		}, decide.Doubt},
		"a hung Postgres": {func(*loop) { cluster.Pause() }, decide.Doubt},
		"both": {func(l *loop) {
			cluster.Pause()
			l.store.Break(secretmanager.Fault{Kind: secretmanager.Hang})
		}, decide.Doubt},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLoop(t, db)
			l.store.Put(masterSecret, right.UnsafeBytes())
			l.options.Budget = budget
			test.hang(l)
			defer cluster.Resume()
			begin := time.Now()
			r, _ := l.decides(test.want)
			if took := time.Since(begin); took > generous {
				t.Errorf("took %v", took)
			}
			if len(r.Evidence.Escrows) != 1 {
				t.Errorf("%+v", r.Evidence.Escrows)
			}
			if left, _ := filepath.Glob(l.path("etc/*")); len(left) > 0 {
				t.Errorf("made %v", left)
			}
		})
	}
}
