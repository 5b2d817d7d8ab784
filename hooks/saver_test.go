package hooks

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/secretmanager"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// hostOf is a host below dir, with one escrow, whose rows cannot be asked.
func hostOf(dir string, e agent.Escrow) *agent.Host {
	state := filepath.Join(dir, "state")
	return &agent.Host{
		Keyfile: keyfile.File{Path: filepath.Join(dir, "etc/secrets.key"), Owner: os.Getuid(), Group: os.Getgid(),
			Quarantine: filepath.Join(state, "quarantine"), Locks: state},
		Ledger: ledger.Open(state, ledger.Options{Host: "test"}), StateDir: state, Now: time.Now,
		Escrows:  []agent.Escrow{e},
		OpenRows: func(context.Context, rows.Options) (agent.Rows, error) { return nil, rows.ErrNotListening },
	}
}

// booted is the clock of a machine that has booted just now.
func booted() Clock {
	boot := time.Now()
	return func() (string, time.Duration) { return "boot", time.Since(boot) }
}

func keyNamed(t *testing.T, name string) key.Key {
	t.Helper()
	sum := sha256.Sum256([]byte(name))
	k, err := key.New(sum[:])
	must(t, err)
	return k
}

// outside calls an escrow on a goroutine that lives in real time: synctest stops the
// clock for as long as one inside waits for it, and it does not have to know of the
// connections that the escrow keeps.
type outside struct {
	place escrow.Escrow
	mu    sync.Mutex // one call at a time
	calls chan func()
	done  chan struct{}
}

func newOutside(t *testing.T, place escrow.Escrow) *outside {
	o := &outside{place: place, calls: make(chan func()), done: make(chan struct{})}
	go func() {
		for call := range o.calls {
			call()
			o.done <- struct{}{}
		}
	}()
	t.Cleanup(func() { close(o.calls); place.Close() })
	return o
}

// call does not hand on the context, whose end would be one in simulated time.
func (o *outside) call(f func(context.Context)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls <- func() { f(context.Background()) }
	<-o.done
}

func (o *outside) Name() string        { return o.place.Name() }
func (o *outside) Place() escrow.Place { return o.place.Place() }

func (o *outside) List(context.Context) (copies []escrow.Copy, err error) {
	o.call(func(ctx context.Context) { copies, err = o.place.List(ctx) })
	return copies, err
}

func (o *outside) Fetch(_ context.Context, c escrow.Copy) (k key.Key, enc key.Encoding, err error) {
	o.call(func(ctx context.Context) { k, enc, err = o.place.Fetch(ctx, c) })
	return k, enc, err
}

func (o *outside) Init(context.Context) (err error) {
	o.call(func(ctx context.Context) { err = o.place.Init(ctx) })
	return err
}

func (o *outside) Save(_ context.Context, s escrow.Shelf, k key.Key) (c escrow.Copy, err error) {
	o.call(func(ctx context.Context) { c, err = o.place.Save(ctx, s, k) })
	return c, err
}

// TestSaverHour counts the calls that reach a Secret Manager which is in trouble for an
// hour, simulated, and how soon after it the key is there. The rescan wakes the saver
// every minute besides.
func TestSaverHour(t *testing.T) {
	const secret, identity = "projects/keyguard-test/secrets/master", "host@keyguard-test.iam.gserviceaccount.com"
	for _, c := range []struct {
		name  string
		fault secretmanager.Fault
	}{
		{"unavailable", secretmanager.Fault{Kind: secretmanager.Fail, Code: codes.Unavailable}},
		{"connections break", secretmanager.Fault{Kind: secretmanager.CutBefore}},
		{"rate limited", secretmanager.Fault{Kind: secretmanager.Fail, Code: codes.ResourceExhausted}},
		{"denied", secretmanager.Fault{Kind: secretmanager.Fail, Code: codes.PermissionDenied}},
		{"answers are lost", secretmanager.Fault{Kind: secretmanager.CutAfter, Method: "AddSecretVersion"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			fake, err := secretmanager.Start(secretmanager.Options{Unlimited: true})
			must(t, err)
			t.Cleanup(fake.Close)
			fake.Grant(identity, secretmanager.Admin)
			credentials, err := fake.Credentials(identity, "service_account")
			must(t, err)
			dir := t.TempDir()
			path := func(name string) string { return filepath.Join(dir, name) }
			must(t, os.WriteFile(path("credentials.json"), credentials, 0o600))
			gcp, err := kinds.NewGCP(kinds.GCPOptions{Name: "gcp", Project: "keyguard-test", Secret: "master",
				Endpoint: fake.Addr(), Plaintext: true, CredentialsFile: path("credentials.json")})
			must(t, err)
			must(t, gcp.Init(t.Context()))
			place := newOutside(t, gcp)
			k := keyNamed(t, "saver")
			must(t, errors.Join(os.Mkdir(path("etc"), 0o700), os.WriteFile(path("etc/secrets.key"), k.UnsafeBytes(), 0o400)))
			fake.Break(c.fault)
			fake.Reset()
			calls := func() (n int) {
				for method, times := range fake.Calls() {
					if method != "token" {
						n += times
					}
				}
				return n
			}

			synctest.Test(t, func(t *testing.T) {
				h := hostOf(dir, agent.Escrow{Reader: place, Writer: place, Required: true})
				must(t, h.Ledger.Append(ledger.Entry{Event: ledger.Proven, Fingerprint: k.Fingerprint(), Verdict: string(rows.Opens)}))
				began := time.Now()
				s := newSaver(h, "gcp", booted())
				ctx, cancel := context.WithCancel(t.Context())
				out := make(chan visitResult)
				go s.run(ctx, out)
				told, isSaved := 0, time.Duration(-1)
				heard := make(chan struct{})
				go func() {
					defer close(heard)
					for v := range out {
						if v.err != nil {
							told++
						}
						if len(v.results) > 0 {
							isSaved = time.Since(began)
						}
					}
				}()
				s.wake()
				for range 60 {
					time.Sleep(time.Minute)
					s.wake()
				}
				synctest.Wait()
				reached := calls()
				fake.Heal()
				time.Sleep(saveLongest + saveLongest/4 + time.Second)
				synctest.Wait()
				cancel()
				<-s.ended
				close(out)
				<-heard
				t.Logf("%d calls in an hour, told %d times, saved at %s", reached, told, isSaved.Round(time.Second))
				// 5 s, doubling to 5 min: 17 tries at most, of two or three calls each.
				if reached > 60 || reached < 12 && c.name != "answers are lost" {
					t.Errorf("%d calls in an hour", reached)
				}
				if told > 3 {
					t.Errorf("told %d times of one trouble", told)
				}
				if isSaved < 0 {
					t.Error("it was not saved when the trouble was over")
				}
			})
			if v := fake.Versions(secret); len(v) != 1 {
				t.Errorf("%d versions", len(v))
			}
		})
	}
}

// idleEscrow holds nothing, and counts who asks.
type idleEscrow struct {
	asked, renewed int
	at             []time.Time // when it was asked
	err            error
	panics         bool
}

func (e *idleEscrow) Name() string        { return "idle" }
func (e *idleEscrow) Place() escrow.Place { return escrow.Place{} }
func (e *idleEscrow) List(context.Context) ([]escrow.Copy, error) {
	e.asked++
	e.at = append(e.at, time.Now())
	if e.panics {
		panic("what the store has sent")
	}
	return nil, e.err
}
func (e *idleEscrow) Fetch(context.Context, escrow.Copy) (key.Key, key.Encoding, error) {
	return key.Key{}, "", escrow.ErrGone
}
func (e *idleEscrow) Init(context.Context) error  { return nil }
func (e *idleEscrow) Renew(context.Context) error { e.renewed++; return nil }
func (e *idleEscrow) Save(context.Context, escrow.Shelf, key.Key) (escrow.Copy, error) {
	return escrow.Copy{}, escrow.ErrRefused
}

// TestSaverAsks: an escrow to which nothing is due is asked every hour (law 4), so that a
// token that is no longer taken is told within the hour, and every hour; and one that failed
// soon again, with a pause that doubles, so that the end of an outage is known.
func TestSaverAsks(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "etc"), 0o700))
	synctest.Test(t, func(t *testing.T) {
		e := &idleEscrow{}
		h := hostOf(dir, agent.Escrow{Reader: e, Writer: e, Required: true})
		s := newSaver(h, "idle", booted())
		day := func() (told int) {
			for range 24 * 60 {
				time.Sleep(time.Minute)
				if _, visit := s.visit(t.Context()); visit != nil && visit.err != nil {
					told++
				}
			}
			return told
		}
		if told := day(); told != 0 || e.asked != 24 || e.renewed != 24 {
			t.Errorf("asked %d times on the first day, renewed %d, told %d", e.asked, e.renewed, told)
		}
		e.err = escrow.ErrUnauthenticated
		e.asked = 0
		// 5 s, doubling to an hour: a dozen tries until it is one an hour.
		if told := day(); told != 24 || e.asked < 24+6 || e.asked > 24+14 {
			t.Errorf("asked %d times on a day of failures, told %d", e.asked, told)
		}
		e.panics, e.asked = true, 0
		if told := day(); told != 24 || e.asked < 24 || e.asked > 24+14 {
			t.Errorf("a panic: asked %d times on a day, told %d", e.asked, told)
		}
		e.panics = false
		e.err = escrow.ErrNoPlace
		h.Escrows[0].Required = false
		e.asked = 0
		if told := day(); told != 0 || e.asked < 23 || e.asked > 25 {
			t.Errorf("a stick that lies in a safe: asked %d times on a day, told %d", e.asked, told)
		}
		e.err = escrow.ErrUnreachable
		for e.asked = 0; e.asked == 0; time.Sleep(time.Minute) {
			s.visit(t.Context())
		}
		time.Sleep(3 * time.Minute)
		e.err = nil
		var again *visitResult
		for since := time.Now(); again == nil && time.Since(since) < 10*time.Minute; time.Sleep(time.Minute) {
			_, again = s.visit(t.Context())
		}
		if again == nil || !again.recovered {
			t.Errorf("an outage of minutes is told to be over after an hour: %+v", again)
		}
	})
}

// running runs a saver until the returned function is called, which returns what it told.
func running(t *testing.T, s *saver) (stop func() []visitResult) {
	ctx, cancel := context.WithCancel(t.Context())
	out, heard := make(chan visitResult), make(chan struct{})
	var told []visitResult
	go s.run(ctx, out)
	go func() {
		defer close(heard)
		for v := range out {
			told = append(told, v)
		}
	}()
	return func() []visitResult {
		cancel()
		<-s.ended
		close(out)
		<-heard
		return told
	}
}

// TestSaverLooksByItself: hosts that start at one moment look at their escrows at moments of
// their own within the hour, and then each an hour after its last look, whenever rounds end. Of
// those that end a little sooner than the ones before each would be too early for the look.
func TestSaverLooksByItself(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "etc"), 0o700))
	synctest.Test(t, func(t *testing.T) {
		const hosts = 60
		var escrows [hosts]*idleEscrow
		var stops [hosts]func() []visitResult
		var savers []*saver
		began := time.Now()
		for i := range hosts {
			escrows[i] = &idleEscrow{}
			s := newSaver(hostOf(dir, agent.Escrow{Reader: escrows[i], Writer: escrows[i], Required: true}), "idle", booted())
			stops[i] = running(t, s)
			savers = append(savers, s)
		}
		for round := range 7 { // of every hour
			for _, s := range savers {
				s.wake()
			}
			time.Sleep(time.Hour - time.Duration(7-round)*time.Millisecond)
		}
		for _, stop := range stops {
			stop()
		}
		var quarters [4]int
		for _, e := range escrows {
			if len(e.at) < 6 {
				t.Fatalf("asked at %v", e.at)
			}
			if first := e.at[0].Sub(began); first < time.Hour {
				quarters[int(first/(15*time.Minute))]++
			}
			for i, at := range e.at[1:] {
				if d := at.Sub(e.at[i]); d != saveAsk {
					t.Errorf("asked again after %s", d)
				}
			}
		}
		for i, n := range quarters {
			if n == 0 {
				t.Errorf("none of %d hosts looks in quarter %d of the first hour: %v", hosts, i+1, quarters)
			}
		}
	})
}

// part is a store of a split that may be dead, and counts what it is given.
type part struct {
	escrow.Escrow
	dead    error
	refuses error // only what is saved
	asked   int
}

func (p *part) List(ctx context.Context) ([]escrow.Copy, error) {
	p.asked++
	if p.dead != nil {
		return nil, p.dead
	}
	return p.Escrow.List(ctx)
}

func (p *part) Save(ctx context.Context, s escrow.Shelf, k key.Key) (escrow.Copy, error) {
	if err := cmp.Or(p.dead, p.refuses); err != nil {
		return escrow.Copy{}, err
	}
	return p.Escrow.Save(ctx, s, k)
}

// TestSaverOfParts: of a key in parts each store has its own breaker. One that is dead does
// not keep a new key from the others; it gets its part when it is back, and a part that is
// lost later comes again by itself.
func TestSaverOfParts(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Mkdir(path("etc"), 0o700))
	var parts []*part
	open := func(need int) *kinds.Split {
		o := kinds.SplitOptions{Name: "split", Need: need}
		parts = nil
		for i, name := range []string{"one", "two", "three"} {
			d, err := kinds.NewDirectory(kinds.DirectoryOptions{Name: name, Path: path(name), AllowSameDisk: true, Part: escrow.PartOf{Need: need, Number: i + 1}})
			must(t, err)
			must(t, d.Init(t.Context()))
			parts = append(parts, &part{Escrow: d})
			o.Members = append(o.Members, escrow.Member{Escrow: parts[i], Number: i + 1, Required: true})
		}
		split, err := kinds.NewSplit(o)
		must(t, err)
		return split
	}
	split := open(2)
	live := func(name string) key.Fingerprint {
		k := keyNamed(t, name)
		must(t, errors.Join(os.RemoveAll(path("etc/secrets.key")), os.WriteFile(path("etc/secrets.key"), k.UnsafeBytes(), 0o400)))
		return k.Fingerprint()
	}
	holds := func(store string, f key.Fingerprint) bool {
		files, err := filepath.Glob(path(store + "/current/*" + string(f) + "*"))
		must(t, err)
		return len(files) > 0
	}
	synctest.Test(t, func(t *testing.T) {
		h := hostOf(dir, agent.Escrow{Reader: split, Writer: split, Required: true})
		clock := booted()
		s := newSaver(h, "split", clock)
		told := 0
		minutes := func(n int) {
			for range n {
				if _, visit := s.visit(t.Context()); visit != nil && visit.err != nil {
					told++
				}
				time.Sleep(time.Minute)
			}
		}
		prove := func(f key.Fingerprint) {
			must(t, h.Ledger.Append(ledger.Entry{Event: ledger.Proven, Fingerprint: f, Verdict: string(rows.Opens)}))
		}
		prove(live("the first"))
		minutes(1)
		a := live("a")
		prove(a)
		parts[2].dead, parts[2].asked = escrow.ErrUnreachable, 0
		minutes(60)
		if !holds("one", a) || !holds("two", a) || told == 0 || told > 3 {
			t.Errorf("with one store dead the others have their parts: %v, %v; told %d times", holds("one", a), holds("two", a), told)
		}
		if n := parts[2].asked; n < 12 || n > 20 {
			t.Errorf("the dead one was asked %d times in an hour", n)
		}
		// Its pause is minutes by now. Another key does not wait for that.
		b := live("b")
		prove(b)
		if _, visit := s.visit(t.Context()); visit == nil || !holds("one", b) || !holds("two", b) {
			t.Errorf("a new key waits for the dead store: %v", visit)
		}
		parts[2].dead = nil
		minutes(8) // its pause is five, and a quarter at random; the eighth look is after seven
		if !holds("three", b) {
			t.Error("it did not get its part when it was back")
		}
		if _, err := os.Stat(path("three/current")); err != nil {
			t.Error(err)
		}
		// Somebody loses a part, and nobody types anything.
		files, err := filepath.Glob(path("two/current/*" + string(b) + "*"))
		must(t, err)
		for _, f := range files {
			must(t, os.Remove(f))
		}
		minutes(61)
		if !holds("two", b) {
			t.Error("a part that was lost did not come again")
		}
		calls := parts[0].asked
		minutes(60)
		if n := parts[0].asked - calls; n != 1 {
			t.Errorf("with nothing to bring it was asked %d times in an hour", n)
		}
		// A part lacks, and the configuration wants another cut by now: refused until a person
		// rotates, and told once, not tried for ever.
		parts[2].dead = escrow.ErrUnreachable
		prove(live("c"))
		minutes(1)
		split = open(3)
		h.Escrows[0].Reader, h.Escrows[0].Writer = split, split
		s = newSaver(h, "split", clock)
		told = 0
		minutes(119)
		if n := parts[0].asked; n > 2*2 || told == 0 || told > 2 { // a visit lists, and its Save does
			t.Errorf("in two hours it was asked %d times, and told %d times", n, told)
		}
	})
}

// usbOf makes a directory with a place for a keyfile, and an escrow, in it.
func usbOf(t *testing.T) (dir string, usb *kinds.Directory) {
	dir = t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "etc"), 0o700))
	usb, err := kinds.NewDirectory(kinds.DirectoryOptions{Name: "usb", Path: filepath.Join(dir, "usb"), Keyfile: filepath.Join(dir, "etc/secrets.key"), AllowSameDisk: true})
	must(t, err)
	must(t, usb.Init(t.Context()))
	return dir, usb
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestSaverNewlyDue: after a look that failed an escrow is looked at again within the hour only. A
// key that comes meanwhile waits no longer than for a save that failed, and no less.
func TestSaverNewlyDue(t *testing.T) {
	for _, c := range []struct {
		name    string
		after   time.Duration // of the key, since the last look failed
		waits   time.Duration // at least, and no more than longest
		longest time.Duration
		back    bool // the store is
	}{
		{"the store is back", 20 * time.Minute, 0, 0, true},
		{"the look has failed just now", time.Second, saveLongest - time.Second, saveLongest + saveLongest/4, true},
		{"the store is down still", 20 * time.Minute, 0, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, usb := usbOf(t)
			synctest.Test(t, func(t *testing.T) {
				store := &part{Escrow: usb, dead: escrow.ErrUnreachable}
				h := hostOf(dir, agent.Escrow{Reader: store, Writer: store, Required: true})
				clock := booted()
				s := newSaver(h, "usb", clock)
				asked := func(within time.Duration) (after time.Duration) { // -1 for never
					calls := store.asked
					for began := time.Now(); time.Since(began) <= within; {
						until, _ := s.visit(t.Context())
						if store.asked > calls {
							return time.Since(began)
						}
						_, now := clock()
						time.Sleep(until - now)
					}
					return -1
				}
				minutes := func(n int) (calls int) {
					before := store.asked
					for range n {
						s.visit(t.Context())
						time.Sleep(time.Minute)
					}
					return store.asked - before
				}
				minutes(24 * 60) // until it is one an hour
				if d := asked(2 * time.Hour); d < 0 || d > saveAsk {
					t.Fatalf("asked after %s", d)
				}
				time.Sleep(c.after)
				if c.back {
					store.dead = nil
				}
				k := keyNamed(t, "new")
				must(t, os.WriteFile(filepath.Join(dir, "etc/secrets.key"), k.UnsafeBytes(), 0o400))
				must(t, h.Ledger.Append(ledger.Entry{Event: ledger.Proven, Fingerprint: k.Fingerprint(), Verdict: string(rows.Opens)}))
				if d := asked(2 * time.Hour); d < c.waits || d > c.longest {
					t.Errorf("the new key is tried after %s", d)
				}
				if c.back {
					if due, err := agent.Due(h, "usb"); err != nil || len(due) > 0 {
						t.Errorf("due: %v, %v", due, err)
					}
					return
				}
				if n := minutes(60); n < 8 || n > 12 { // a pause is five minutes, and a quarter at random
					t.Errorf("asked %d times in an hour", n)
				}
			})
		})
	}
}

// TestSaverTellsWhatFailed: an outage while nothing is due is no backup that is missing, and is not
// told as one; but the same outage is, as soon as a key is due.
func TestSaverTellsWhatFailed(t *testing.T) {
	dir, usb := usbOf(t)
	synctest.Test(t, func(t *testing.T) {
		store := &part{Escrow: usb, dead: escrow.ErrUnreachable}
		h := hostOf(dir, agent.Escrow{Reader: store, Writer: store, Required: true})
		s := newSaver(h, "usb", booted())
		var told []Event
		w := &watcher{o: WatchOptions{Tell: func(e Event) { told = append(told, e) }}}
		next := func(name EventName, texts ...string) { // of what is told within two hours
			t.Helper()
			told = nil
			for began := time.Now(); len(told) == 0 && time.Since(began) < 2*time.Hour; time.Sleep(time.Minute) {
				if _, v := s.visit(t.Context()); v != nil {
					w.tellSaved(*v)
				}
			}
			told = slices.DeleteFunc(told, func(e Event) bool { return e.Name == Saved })
			if len(told) != 1 || told[0].Name != name {
				t.Fatalf("told %+v, not %s", told, name)
			}
			for _, text := range texts {
				if !strings.Contains(told[0].Text, text) {
					t.Errorf("%q does not say %q", told[0].Text, text)
				}
			}
			if due := strings.Contains(texts[0], "due"); due != strings.Contains(told[0].Text, "due") {
				t.Errorf("something is due: %v, and told is %q", due, told[0].Text)
			}
		}
		const missing, outage = "does not take what is due", "nothing is to be saved there now"
		next(EscrowFailing, outage, "none has succeeded since the watcher began")
		store.dead = nil
		next(EscrowRecovered, outage)
		time.Sleep(5 * time.Minute) // the minute of that visit is over as well
		store.dead = escrow.ErrUnreachable
		next(EscrowFailing, outage, "1h0m0s ago")

		k := keyNamed(t, "new")
		must(t, os.WriteFile(filepath.Join(dir, "etc/secrets.key"), k.UnsafeBytes(), 0o400))
		must(t, h.Ledger.Append(ledger.Entry{Event: ledger.Proven, Fingerprint: k.Fingerprint(), Verdict: string(rows.Opens)}))
		began := time.Now()
		next(EscrowFailing, missing)
		if d := time.Since(began); d > 2*time.Minute {
			t.Errorf("as it is the same trouble, what is missing is told after %s", d)
		}
		store.dead = nil
		next(EscrowRecovered, "has taken what is due")

		files, err := filepath.Glob(filepath.Join(dir, "usb/current/*"))
		must(t, err)
		for _, f := range files { // somebody takes the copy away, and it cannot be put there again
			must(t, os.Remove(f))
		}
		store.refuses = escrow.ErrRefused
		next(EscrowFailing, missing)
		store.refuses = nil
		next(EscrowRecovered, outage)
		if files, err := filepath.Glob(filepath.Join(dir, "usb/current/*")); err != nil || len(files) != 1 {
			t.Errorf("there is %v, %v", files, err)
		}
	})
}

// renewed is a place of which something is renewed when it is asked with nothing to save.
type renewed struct {
	escrow.Writer
	times *int
}

func (r renewed) Renew(context.Context) error { *r.times++; return nil }

// TestSaverRenewsBesideWhatStaysDue: where another host writes to the same place a new key stays in
// quarantine, and is due until a person has spoken. The store is asked all the same: what it gave,
// a token, would end meanwhile.
func TestSaverRenewsBesideWhatStaysDue(t *testing.T) {
	dir, usb := usbOf(t)
	old, k := keyNamed(t, "old"), keyNamed(t, "new")
	must(t, os.WriteFile(filepath.Join(dir, "etc/secrets.key"), k.UnsafeBytes(), 0o400))
	c, err := usb.Save(t.Context(), escrow.Current, old)
	must(t, err)
	_, err = usb.Save(t.Context(), escrow.Current, keyNamed(t, "of another host"))
	must(t, err)
	synctest.Test(t, func(t *testing.T) {
		times := 0
		h := hostOf(dir, agent.Escrow{Reader: usb, Writer: renewed{usb, &times}, Required: true})
		must(t, h.Ledger.Append(ledger.Entry{Event: ledger.Saved, Fingerprint: old.Fingerprint(), Escrow: "usb", Copy: c.ID, Shelf: string(escrow.Current)}))
		must(t, h.Ledger.Append(ledger.Entry{Event: ledger.Proven, Fingerprint: k.Fingerprint(), Verdict: string(rows.Opens)}))
		s := newSaver(h, "usb", booted())
		for range 10 * 60 {
			_, v := s.visit(t.Context())
			if v != nil && v.err != nil {
				t.Fatal(v.err)
			}
			time.Sleep(time.Minute)
		}
		if due, err := agent.Due(h, "usb"); err != nil || len(due) != 1 {
			t.Fatalf("due: %v, %v", due, err)
		}
		if times < 9 || times > 11 {
			t.Errorf("renewed %d times in ten hours", times)
		}
	})
}
