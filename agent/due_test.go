package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
)

// troubled is an escrow with a trouble of its own.
type troubled struct {
	agent.Escrow
	list, fetch, save     error
	hang                  bool   // no call answers before its context ends
	asked                 func() // is told of such a call
	lists, fetches, saves int
}

// listening is an escrow where something is done before its first listing.
type listening struct {
	escrow.Reader
	first func()
}

func (l *listening) List(ctx context.Context) ([]escrow.Copy, error) {
	if do := l.first; do != nil {
		l.first = nil
		do()
	}
	return l.Reader.List(ctx)
}

// outdated is an escrow where something is done after its first listing, which does not show it.
type outdated struct {
	escrow.Reader
	then func()
}

func (o *outdated) List(ctx context.Context) ([]escrow.Copy, error) {
	copies, err := o.Reader.List(ctx)
	if do := o.then; do != nil {
		o.then = nil
		do()
	}
	return copies, err
}

// overtaken is an escrow where something is done before its first save.
type overtaken struct {
	escrow.Writer
	first func()
}

func (o *overtaken) Save(ctx context.Context, shelf escrow.Shelf, k key.Key) (escrow.Copy, error) {
	if do := o.first; do != nil {
		o.first = nil
		do()
	}
	return o.Writer.Save(ctx, shelf, k)
}

// brokenOff is an escrow that does not answer to a save.
type brokenOff struct{ escrow.Writer }

func (brokenOff) Save(context.Context, escrow.Shelf, key.Key) (escrow.Copy, error) {
	return escrow.Copy{}, escrow.ErrUnreachable
}

// storing is an escrow where something is done after a save.
type storing struct {
	escrow.Writer
	then func()
	done bool
}

func (s *storing) Save(ctx context.Context, shelf escrow.Shelf, k key.Key) (escrow.Copy, error) {
	c, err := s.Writer.Save(ctx, shelf, k)
	s.done = err == nil
	s.then()
	return c, err
}

func trouble(h *host, i int) *troubled {
	t := &troubled{Escrow: h.Escrows[i]}
	h.Escrows[i] = agent.Escrow{Reader: t, Writer: t, Required: true}
	return t
}

func (t *troubled) wait(ctx context.Context, err error) error {
	if t.hang {
		if t.asked != nil {
			t.asked()
		}
		<-ctx.Done()
		return escrow.ErrTimeout
	}
	return err
}

func (t *troubled) List(ctx context.Context) ([]escrow.Copy, error) {
	t.lists++
	if err := t.wait(ctx, t.list); err != nil {
		return nil, err
	}
	return t.Reader.List(ctx)
}

func (t *troubled) Fetch(ctx context.Context, c escrow.Copy) (key.Key, key.Encoding, error) {
	t.fetches++
	if err := t.wait(ctx, t.fetch); err != nil {
		return key.Key{}, "", err
	}
	return t.Reader.Fetch(ctx, c)
}

func (t *troubled) Init(ctx context.Context) error { return t.Writer.Init(ctx) }

// Save is that of a store which may be written to and not read, where fetch is denied.
func (t *troubled) Save(ctx context.Context, s escrow.Shelf, k key.Key) (escrow.Copy, error) {
	t.saves++
	if err := t.wait(ctx, t.save); err != nil {
		return escrow.Copy{}, err
	}
	c, err := t.Writer.Save(ctx, s, k)
	if err == nil && errors.Is(t.fetch, escrow.ErrDenied) {
		err = escrow.ErrUnverified
	}
	return c, err
}

// shelf lists the keys on a shelf, newest first.
func (h *host) shelf(i int, s escrow.Shelf) []key.Fingerprint {
	h.t.Helper()
	reader := h.Escrows[i].Reader
	if t, ok := reader.(*troubled); ok {
		reader = t.Reader
	}
	copies, err := reader.List(context.Background())
	h.must(err)
	var list []key.Fingerprint
	for _, c := range copies {
		if c.Shelf == s {
			list = append(list, fingerprint(reader, c))
		}
	}
	return list
}

// told is how often the ledger tells of something.
func (h *host) told(what ledger.Event) (n int) {
	h.t.Helper()
	r, err := h.Ledger.Read()
	h.must(err)
	for _, e := range r.Entries {
		if e.Event == what {
			n++
		}
	}
	return n
}

func (h *host) saveDue(i int) []agent.SaveResult {
	h.t.Helper()
	saved, err := agent.SaveDue(context.Background(), &h.Host, h.Escrows[i].Name())
	h.must(err)
	return saved
}

func (h *host) due(i int) []key.Fingerprint {
	h.t.Helper()
	due, err := agent.Due(&h.Host, h.Escrows[i].Name())
	h.must(err)
	return due
}

func (h *host) wants(i int, s escrow.Shelf, keys ...key.Key) {
	h.t.Helper()
	var want []key.Fingerprint
	for _, k := range keys {
		want = append(want, k.Fingerprint())
	}
	if got := h.shelf(i, s); !slices.Equal(got, want) {
		h.t.Errorf("escrow %d, %s: %v instead of %v", i, s, got, want)
	}
}

// rowsUnder makes one row under each of these keys, ONE, TWO and so on, and none beside them.
func (h *host) rowsUnder(keys ...key.Key) {
	h.t.Helper()
	h.must(h.db.Admin("delete from secrets"))
	for i, name := range []string{"ONE", "TWO", "THREE"}[:len(keys)] {
		h.upsert(keys[i], name)
	}
}

// settle makes all well under a key: two rows, the keyfile, a copy in each escrow, and a proof.
func (h *host) settle(k key.Key) {
	h.t.Helper()
	h.rowsUnder(k, k)
	h.write(k.UnsafeBytes())
	h.must(save(&h.Host, k))
	h.must(prove(&h.Host, k))
}

func (h *host) upsert(k key.Key, name string) {
	h.t.Helper()
	h.must(h.db.Upsert(k, "tenant", name, []byte("v")))
}

// TestSaveDue shows which shelf a key comes to, and what is due after it (law 4).
func TestSaveDue(t *testing.T) {
	t.Parallel() // it waits
	bothListings(t, testSaveDue)
}

func testSaveDue(t *testing.T, list listing) {
	cluster := server.Cluster(t)
	a, b := testKey("a"), testKey("b")
	start := func(t *testing.T) *host {
		h := list(newHost(t, cluster.Database(t), 2))
		h.write(a.UnsafeBytes())
		return h
	}

	t.Run("proven", func(t *testing.T) {
		h := start(t)
		h.upsert(a, "ONE")
		h.saveDue(0)
		h.wants(0, escrow.Current, a)
		if due := h.due(0); len(due) != 0 {
			t.Error(due, "is due still")
		}
		if due := h.due(1); len(due) != 1 {
			t.Error(due, "is due in the other")
		}
	})
	t.Run("the rows are down, and come up", func(t *testing.T) {
		h := start(t)
		h.up = false
		h.saveDue(0)
		h.wants(0, escrow.Quarantine, a)
		h.wants(0, escrow.Current)
		if due := h.due(0); len(due) != 0 {
			t.Error(due, "is due before it is proven")
		}
		h.up = true
		h.upsert(a, "ONE")
		_, err := agent.Tend(context.Background(), &h.Host, agent.TendOptions{Prove: true})
		h.must(err)
		h.saveDue(0)
		h.wants(0, escrow.Current, a)
	})
	t.Run("no rows, and the other escrow cannot say", func(t *testing.T) {
		h := start(t)
		other := trouble(h, 1)
		other.list = escrow.ErrUnreachable
		saved := h.saveDue(0)
		h.wants(0, escrow.Quarantine, a) // law 6: another key may stand there
		if len(saved) != 1 || saved[0].Why == "" {
			t.Errorf("nobody is told why: %+v", saved)
		}
	})
	t.Run("no rows, and every escrow is empty", func(t *testing.T) {
		h := start(t)
		h.saveDue(0)
		h.wants(0, escrow.Current, a)
	})
	t.Run("proven, and its save is tried again", func(t *testing.T) {
		h := start(t)
		h.upsert(a, "ONE")
		h.Escrows[0].Writer = brokenOff{h.Escrows[0].Writer}
		for range 3 {
			if _, err := agent.SaveDue(t.Context(), &h.Host, h.Escrows[0].Name()); !errors.Is(err, escrow.ErrUnreachable) {
				t.Error(err)
			}
			h.now = h.now.Add(time.Hour)
		}
		record, err := h.Ledger.Read()
		h.must(err)
		begun := slices.DeleteFunc(record.Entries, func(e ledger.Entry) bool { return e.Event != ledger.Saving })
		if len(begun) != 1 { // a store may refuse for months
			t.Errorf("the ledger was told of it %d times", len(begun))
		}
	})
	t.Run("no rows, and another key is on its way to the other escrow", func(t *testing.T) {
		h := start(t)
		h.Escrows[1].Writer = &overtaken{Writer: h.Escrows[1].Writer, first: func() {
			h.write(b.UnsafeBytes())
			h.saveDue(0)
		}}
		h.saveDue(1)
		h.wants(1, escrow.Current, a)
		h.wants(0, escrow.Current)
		if list := h.shelf(0, escrow.Quarantine); !slices.Contains(list, b.Fingerprint()) {
			t.Error("the other key is nowhere (law 3):", list)
		}
	})
	t.Run("no rows, and another key is on its way once more, an hour after its first save broke off", func(t *testing.T) {
		h := start(t)
		store := h.Escrows[1].Writer
		h.Escrows[1].Writer = brokenOff{store}
		if _, err := agent.SaveDue(t.Context(), &h.Host, h.Escrows[1].Name()); !errors.Is(err, escrow.ErrUnreachable) {
			t.Fatal(err)
		}
		h.now = h.now.Add(time.Hour)
		h.Escrows[1].Writer = &overtaken{Writer: store, first: func() {
			h.write(b.UnsafeBytes())
			h.saveDue(0)
		}}
		h.saveDue(1)
		h.wants(1, escrow.Current, a)
		h.wants(0, escrow.Current)
	})
	overtaking := func(t *testing.T) *host { // another key comes to the other escrow after it was listed
		h := start(t)
		h.Escrows[1].Reader = &outdated{Reader: h.Escrows[1].Reader, then: func() {
			h.write(b.UnsafeBytes())
			h.saveDue(1)
		}}
		return h
	}
	t.Run("no rows, and another key came to the other escrow after it was listed", func(t *testing.T) {
		h := overtaking(t)
		h.saveDue(0)
		h.wants(1, escrow.Current, b)
		h.wants(0, escrow.Current)
		h.wants(0, escrow.Quarantine, a)
	})
	t.Run("no rows, and a backup by hand lists before another key comes", func(t *testing.T) {
		h := overtaking(t)
		r, err := agent.Backup(t.Context(), &h.Host)
		h.must(err)
		h.wants(1, escrow.Current, b)
		h.wants(0, escrow.Current)
		if r.Escrows[0].Shelf != escrow.Quarantine || r.Escrows[1].Shelf != escrow.Quarantine {
			t.Errorf("%+v", r.Escrows)
		}
	})
	t.Run("no rows, and the other escrow hangs", func(t *testing.T) {
		t.Parallel()
		h := start(t)
		trouble(h, 1).hang = true
		began := time.Now()
		h.saveDue(0)
		h.wants(0, escrow.Quarantine, a)
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it waited %s", took)
		}
	})
	t.Run("a proven key does not wait for the other escrow", func(t *testing.T) {
		h := start(t)
		h.upsert(a, "ONE")
		other := trouble(h, 1)
		h.saveDue(0)
		h.wants(0, escrow.Current, a)
		if other.lists > 0 {
			t.Errorf("it was asked %d times", other.lists)
		}
	})
	t.Run("nor does a person's backup of it wait for one that hangs", func(t *testing.T) {
		h := start(t)
		h.upsert(a, "ONE")
		trouble(h, 1).hang = true
		ctx, enough := context.WithTimeout(t.Context(), time.Minute)
		defer enough()
		stored := &storing{Writer: h.Escrows[0].Writer, then: enough}
		h.Escrows[0].Writer = stored
		r, err := agent.Backup(ctx, &h.Host)
		h.must(err)
		if !stored.done || r.Escrows[0].Err != nil || !errors.Is(r.Escrows[1].Err, escrow.ErrTimeout) {
			t.Errorf("%+v", r.Escrows)
		}
	})
	t.Run("unverified, it is only read again", func(t *testing.T) {
		h := start(t)
		h.upsert(a, "ONE")
		e := trouble(h, 0)
		e.fetch = escrow.ErrDenied
		if saved := h.saveDue(0); len(saved) != 1 || !saved[0].Unverified {
			t.Fatalf("%+v", saved)
		}
		for range 3 {
			if due := h.due(0); len(due) != 1 {
				t.Fatal("an unverified copy is not due any more")
			}
			h.saveDue(0)
		}
		for range 2 { // nor does a person's save add another
			r, err := agent.Backup(t.Context(), &h.Host)
			h.must(err)
			if s := r.Escrows[0]; s.Err != nil || !s.Unverified {
				t.Errorf("%+v", s)
			}
		}
		e.list = escrow.ErrDenied // nothing is begun by that which a stranger's copy could be of
		h.backup()
		record, err := h.Ledger.Read()
		h.must(err)
		begun := slices.DeleteFunc(record.Entries, func(e ledger.Entry) bool { return e.Event != ledger.Saving || e.Escrow != "usb0" })
		if e.saves != 1 || len(begun) != 1 {
			t.Errorf("%d saves, %d of them begun", e.saves, len(begun))
		}
		e.list, e.fetch = nil, nil
		h.saveDue(0)
		if e.saves != 1 {
			t.Errorf("%d saves", e.saves)
		}
		h.wants(0, escrow.Current, a)
		if due := h.due(0); len(due) != 0 {
			t.Error(due, "is due still")
		}
	})
	t.Run("unverified, and gone when it can be read", func(t *testing.T) {
		h := start(t)
		h.upsert(a, "ONE")
		e := trouble(h, 0)
		e.fetch = escrow.ErrDenied
		h.saveDue(0)
		e.fetch = escrow.ErrGone
		h.saveDue(0)
		if e.saves != 2 {
			t.Errorf("%d saves", e.saves)
		}
	})
	t.Run("unverified, gone, and refuted meanwhile (law 4)", func(t *testing.T) {
		h := start(t)
		h.upsert(a, "ONE")
		e := trouble(h, 0)
		e.fetch = escrow.ErrDenied
		h.saveDue(0)
		h.rowsUnder(b)
		h.must(errors.Join(os.RemoveAll(h.path("usb0/current")), os.Mkdir(h.path("usb0/current"), 0o700)))
		e.fetch = nil
		if saved := h.saveDue(0); len(saved) != 1 || saved[0].Shelf != escrow.Quarantine || saved[0].Why == "" {
			t.Errorf("%+v", saved)
		}
		h.wants(0, escrow.Quarantine, a)
	})
	t.Run("a key that fails keeps no other back", func(t *testing.T) {
		h := start(t)
		h.upsert(a, "ONE")
		h.must(h.Keyfile.Keep(b, h.now))
		trouble(h, 0).save = escrow.ErrRefused
		_, err := agent.SaveDue(context.Background(), &h.Host, h.Escrows[0].Name())
		if e := h.Escrows[0].Reader.(*troubled); !errors.Is(err, escrow.ErrRefused) || e.saves != 2 {
			t.Errorf("%v after %d saves", err, e.saves)
		}
		e := h.Escrows[0].Reader.(*troubled)
		e.save, e.saves = escrow.ErrTimeout, 0
		if _, err := agent.SaveDue(context.Background(), &h.Host, e.Name()); err == nil || e.saves != 1 {
			t.Errorf("%v after %d saves: a place that does not answer is asked once", err, e.saves)
		}
	})
	t.Run("a quarantined key that opens the rows, under another keyfile", func(t *testing.T) {
		h := start(t)
		h.upsert(a, "ONE")
		h.saveDue(0)
		h.must(h.Keyfile.Keep(b, h.now))
		h.saveDue(0)
		h.wants(0, escrow.Quarantine, b)
		h.rowsUnder(b) // a dump was restored
		r, err := agent.Tend(context.Background(), &h.Host, agent.TendOptions{Prove: true, DaemonRead: true})
		h.must(err)
		if r.Withheld == "" || !h.holds(a) {
			t.Fatalf("the keyfile was changed under the daemon: %+v", r.Decision)
		}
		h.saveDue(0)
		h.wants(0, escrow.Current, b, a)
		if due := h.due(0); len(due) != 0 {
			t.Error(due, "is due still")
		}
	})
	t.Run("another host writes there", func(t *testing.T) {
		h := start(t)
		h.upsert(a, "ONE")
		h.saveDue(0)
		foreign := testKey("of another host")
		_, err := h.Escrows[0].Writer.Save(context.Background(), escrow.Current, foreign)
		h.must(err)
		h.write(b.UnsafeBytes())
		h.rowsUnder(b)
		for range 3 {
			saved := h.saveDue(0)
			if len(saved) != 1 || !saved[0].Alarm || saved[0].Shelf != escrow.Quarantine {
				t.Fatalf("%+v", saved)
			}
			_, err := agent.Tend(context.Background(), &h.Host, agent.TendOptions{Prove: true})
			h.must(err)
		}
		h.wants(0, escrow.Current, foreign, a)
		h.wants(0, escrow.Quarantine, b)
	})
	t.Run("killed between the save and the ledger", func(t *testing.T) {
		h := start(t)
		h.upsert(a, "ONE")
		h.saveDue(0)
		h.write(b.UnsafeBytes())
		h.rowsUnder(b)
		h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Proven, Fingerprint: b.Fingerprint()}))
		h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Saving, Fingerprint: b.Fingerprint(), Escrow: h.Escrows[0].Name(), Shelf: "current"}))
		_, err := h.Escrows[0].Writer.Save(context.Background(), escrow.Current, b)
		h.must(err)
		if saved := h.saveDue(0); len(saved) != 1 || saved[0].Alarm {
			t.Errorf("our own copy was taken for another host's: %+v", saved)
		}
		h.wants(0, escrow.Current, b, a)
		if due := h.due(0); len(due) != 0 {
			t.Error(due, "is due still")
		}
	})
	t.Run("saved by another process while this one looks", func(t *testing.T) {
		h := start(t)
		h.upsert(a, "ONE")
		h.saveDue(0)
		h.rowsUnder(b)
		h.write(b.UnsafeBytes())
		h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Proven, Fingerprint: b.Fingerprint()}))
		e := h.Escrows[0]
		h.Escrows[0].Reader = &listening{e.Reader, func() {
			h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Saving, Fingerprint: b.Fingerprint(), Escrow: e.Name(), Shelf: "current"}))
			_, err := e.Writer.Save(context.Background(), escrow.Current, b)
			h.must(err)
		}}
		for _, s := range h.saveDue(0) {
			if s.Alarm || s.Shelf != escrow.Current {
				t.Errorf("another process's copy was taken for another host's: %+v", s)
			}
		}
		h.wants(0, escrow.Quarantine)
	})
	t.Run("while another key's save is begun, and the clock is set", func(t *testing.T) {
		for _, set := range []time.Duration{0, 3 * time.Hour, -3 * time.Hour} {
			h := newHost(t, cluster.Database(t), 2)
			h.write(b.UnsafeBytes())
			other := h.Escrows[1]
			h.Escrows[1].Reader = &listening{other.Reader, func() {
				h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Saving, Fingerprint: a.Fingerprint(), Escrow: other.Name(), Shelf: "current", Time: h.now.Add(set)}))
			}}
			h.saveDue(0)
			h.wants(0, escrow.Current)
			h.wants(0, escrow.Quarantine, b)
		}
	})
	t.Run("another host writes a key there that was proven here", func(t *testing.T) {
		h := start(t)
		h.upsert(a, "ONE")
		h.saveDue(0)
		h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Proven, Fingerprint: b.Fingerprint(), Verdict: "opens"},
			ledger.Entry{Event: ledger.Proven, Fingerprint: a.Fingerprint(), Verdict: "opens"}))
		h.must(h.Keyfile.Keep(b, h.now))
		_, err := h.Escrows[0].Writer.Save(context.Background(), escrow.Current, b)
		h.must(err)
		if r, err := agent.Status(context.Background(), &h.Host); err != nil || r.Health != agent.Lagging || r.Escrows[0].Alarm == "" {
			t.Errorf("%s: %s, %v", r.Health, r.Line, err)
		}
	})
	t.Run("nothing goes to a current shelf while a rotation is open", func(t *testing.T) {
		h := start(t)
		h.upsert(a, "ONE")
		h.must(h.Ledger.Append(ledger.Entry{Event: ledger.RotationOpen, Old: a.Fingerprint(), Fingerprint: b.Fingerprint()}))
		h.saveDue(0)
		h.wants(0, escrow.Current)
		h.wants(0, escrow.Quarantine, a)
		if due := h.due(0); len(due) != 0 {
			t.Error(due, "is due before it can be saved")
		}
		h.must(h.Ledger.Append(ledger.Entry{Event: ledger.RotationClosed, Old: a.Fingerprint(), Fingerprint: a.Fingerprint()},
			ledger.Entry{Event: ledger.Proven, Fingerprint: a.Fingerprint(), Verdict: "opens"}))
		h.saveDue(0)
		h.wants(0, escrow.Current, a)
	})
	t.Run("the newest copy was taken away", func(t *testing.T) {
		h := start(t)
		h.upsert(a, "ONE")
		h.saveDue(0)
		// What the ledger says was saved last is another key's, which is gone from the store.
		h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Saved, Fingerprint: b.Fingerprint(), Escrow: h.Escrows[0].Name(), Copy: "current/gone", Shelf: "current"},
			ledger.Entry{Event: ledger.Proven, Fingerprint: a.Fingerprint(), Verdict: "opens"}))
		if due := h.due(0); len(due) != 1 {
			t.Fatal(due, "is due")
		}
		h.saveDue(0)
		h.wants(0, escrow.Current, a)
		if due := h.due(0); len(due) != 0 {
			t.Error(due, "is due for ever")
		}
	})
}

// TestForeignCopyOfTheSameKey: whichever key a copy holds that this host did not save, the
// keyfile's own included, somebody else writes there: a clone, a person (law 4).
func TestForeignCopyOfTheSameKey(t *testing.T) { bothListings(t, testForeignCopyOfTheSameKey) }

func testForeignCopyOfTheSameKey(t *testing.T, list listing) {
	h := newHost(t, server.Cluster(t).Database(t), 1)
	a := testKey("a")
	h.upsert(a, "ONE")
	h.write(a.UnsafeBytes())
	h.backup()
	h.now = h.now.Add(time.Hour)
	h.plant(0, escrow.Current, a.UnsafeBytes())
	list(h)
	if r, err := agent.Status(t.Context(), &h.Host); err != nil || r.Health != agent.Lagging || !strings.Contains(r.Escrows[0].Alarm, "duplicate") {
		t.Errorf("%s: %s, %v", r.Health, r.Line, err)
	}
	if _, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{DryRun: true}); !errors.Is(err, agent.ErrNotSafe) {
		t.Errorf("a rotation: %v", err)
	}
	for who, save := range map[string]func() []agent.SaveResult{
		"backup": func() []agent.SaveResult {
			r, err := agent.Backup(t.Context(), &h.Host)
			h.must(err)
			return r.Escrows
		},
		"the hourly look": func() []agent.SaveResult {
			saved, err := agent.Revisit(t.Context(), &h.Host, "usb0")
			h.must(err)
			return saved
		},
	} {
		if saved := save(); len(saved) != 1 || !saved[0].Alarm && who != "backup" || saved[0].Shelf != escrow.Quarantine {
			t.Errorf("%s: %+v", who, saved)
		}
	}
	if _, err := agent.Accept(t.Context(), &h.Host, agent.AcceptOptions{Confirm: yes}); err != nil {
		t.Fatal(err)
	}
	if r, err := agent.Status(t.Context(), &h.Host); err != nil || r.Health != agent.Green {
		t.Errorf("accepted: %s: %s, %v", r.Health, r.Line, err)
	}
}

// TestSpoiledBelowAnOlderOne: where the copy that was saved last is none any more, the older one on
// top is no stranger's, and a save puts the right one there.
func TestSpoiledBelowAnOlderOne(t *testing.T) {
	h := newHost(t, server.Cluster(t).Database(t), 1)
	old, a := testKey("old"), testKey("a")
	h.upsert(old, "ONE")
	h.write(old.UnsafeBytes())
	h.backup()
	h.now = h.now.Add(time.Hour)
	h.db.Exec("DELETE FROM secrets")
	h.upsert(a, "ONE")
	h.write(a.UnsafeBytes())
	h.backup()
	files, err := filepath.Glob(h.path("usb0/current/*"))
	h.must(err)
	h.must(os.WriteFile(files[1], []byte("somebody's note, and no key"), 0o600))
	h.Escrows[0].Reader = relisted{h.Escrows[0].Reader, slices.Reverse[[]escrow.Copy]} // a person has put the older one on top
	saved, err := agent.Revisit(t.Context(), &h.Host, "usb0")
	if err != nil || len(saved) != 1 || saved[0].Alarm || saved[0].Shelf != escrow.Current {
		t.Errorf("%+v, %v", saved, err)
	}
}

// TestEscrowMadeAnew: what the ledger says was saved there is gone with the place that had
// the name before, and all of it is brought again.
func TestEscrowMadeAnew(t *testing.T) { bothListings(t, testEscrowMadeAnew) }

func testEscrowMadeAnew(t *testing.T, list listing) {
	h := newHost(t, server.Cluster(t).Database(t), 1)
	a, older := testKey("a"), testKey("older")
	h.upsert(a, "ONE")
	h.write(a.UnsafeBytes())
	h.must(h.Keyfile.Keep(older, h.now))
	h.saveDue(0)
	h.wants(0, escrow.Quarantine, older)
	h.must(os.RemoveAll(h.path("usb0")))
	h.must(os.Mkdir(h.path("usb0"), 0o700))
	h.must(h.Escrows[0].Writer.Init(t.Context()))
	list(h)
	for range 2 { // the second time nothing is to be done
		_, err := agent.Revisit(t.Context(), &h.Host, "usb0")
		h.must(err)
		h.wants(0, escrow.Current, a)
		h.wants(0, escrow.Quarantine, older)
	}
}

// TestLateRevisit (law 4): while a copy that somebody took away is saved again a whole rotation goes by. What is
// due by then is the savers'.
func TestLateRevisit(t *testing.T) {
	a := testKey("a")
	h := newHost(t, server.Cluster(t).Database(t), 2)
	h.settle(a)
	h.Escrows[1].Required = false
	gone, err := filepath.Glob(h.path("usb1/current/*"))
	h.must(errors.Join(err, os.Remove(gone[0])))
	var fresh key.Fingerprint
	h.Escrows[1].Writer = &overtaken{h.Escrows[1].Writer, func() { fresh = h.rotates() }}
	saved, err := agent.Revisit(t.Context(), &h.Host, "usb1")
	if h.must(err); len(saved) != 1 || saved[0].Key != a.Fingerprint() || fresh == "" {
		t.Errorf("%+v", saved)
	}
	h.saveDue(1)
	if newest := h.shelf(1, escrow.Current)[0]; newest != fresh {
		t.Errorf("key %s is the newest current copy, and the rows are under key %s", newest, fresh)
	}
}

// TestSealedIsNotHeld: a copy that nobody here opens is the key by its own word alone, who
// ever wrote it, until a drill has opened it with an identity.
func TestSealedIsNotHeld(t *testing.T) {
	h := newHost(t, server.Cluster(t).Database(t), 1)
	a := testKey("a")
	h.upsert(a, "ONE")
	h.write(a.UnsafeBytes())
	id, err := age.GenerateX25519Identity()
	h.must(err)
	to := id.Recipient().String()
	sealed := func(identities ...string) agent.Escrow {
		d, err := kinds.NewDirectory(kinds.DirectoryOptions{Name: "usb0", Path: h.path("usb0"), Keyfile: h.Keyfile.Path, AllowSameDisk: true,
			Recipients: []string{to}, IdentityFiles: identities})
		h.must(err)
		return agent.Escrow{Reader: d, Writer: d, Required: true, Sealed: true}
	}
	h.Escrows[0] = sealed()
	b, err := agent.Backup(t.Context(), &h.Host)
	if err != nil || b.Escrows[0].Err != nil || !b.Escrows[0].Sealed {
		t.Errorf("%+v, %v", b, err)
	}
	green := func(want bool) {
		t.Helper()
		r, err := agent.Status(t.Context(), &h.Host)
		h.must(err)
		if got := r.Health == agent.Green && r.Escrows[0].Holds; got != want || !want && !strings.Contains(r.Line, "sealed") {
			t.Errorf("%s: %s", r.Health, r.Line)
		}
	}
	green(false)
	h.must(os.WriteFile(h.path("id"), []byte(id.String()), 0o600))
	h.Escrows[0] = sealed(h.path("id"))
	green(true)
	if d, err := agent.Drill(t.Context(), &h.Host, agent.DrillOptions{Scratch: scratch(t)}); err != nil || d.Verdict != agent.DrillPassed {
		t.Errorf("%+v, %v", d, err)
	}
	h.Escrows[0] = sealed()
	green(true)
	// The weekly one cannot open it, and takes nothing back.
	if d, err := agent.Drill(t.Context(), &h.Host, agent.DrillOptions{Scratch: scratch(t)}); err != nil || d.Verdict != agent.DrillInconclusive {
		t.Errorf("%+v, %v", d, err)
	}
	green(true)
	revisit := func() {
		t.Helper()
		if saved, err := agent.Revisit(t.Context(), &h.Host, "usb0"); err != nil || len(saved) > 0 {
			t.Errorf("it is saved again each hour: %+v, %v", saved, err)
		}
	}
	revisit()
	// That a drill opened it tells what it is, and not that this host can have a key from there
	// (design §6, step 0).
	notRotated := func(o agent.RotateOptions, want error) {
		t.Helper()
		if r, err := agent.Rotate(t.Context(), &h.Host, o); !errors.Is(err, agent.ErrNotRotated) || !errors.Is(err, want) || r.Rotated || !h.holds(a) {
			t.Errorf("%+v, %v, want %v", r, err, want)
		}
	}
	notRotated(agent.RotateOptions{DryRun: true}, agent.ErrNoHome)
	h.Escrows[0] = sealed(h.path("gone"))
	green(false)
	revisit()
	notRotated(agent.RotateOptions{DryRun: true}, agent.ErrNotSafe)
	h.Escrows[0] = sealed(h.path("id"))
	green(true)
	somebody, err := age.GenerateX25519Identity()
	h.must(err)
	to = somebody.Recipient().String() // what is saved from now on
	h.Escrows[0] = sealed(h.path("id"))
	notRotated(agent.RotateOptions{}, agent.ErrNoHome)
	to = id.Recipient().String()
	h.Escrows[0] = sealed()
	// A rotation is of the same mind as status.
	h.must(os.Mkdir(h.path("usb1"), 0o700))
	other, err := usbIn(h.dir, "usb1")
	h.must(errors.Join(err, other.Writer.Init(t.Context())))
	h.Escrows = append(h.Escrows, other)
	_, err = agent.Backup(t.Context(), &h.Host)
	h.must(err)
	if _, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{DryRun: true}); err != nil {
		t.Error(err)
	}
}

// told is a store that gives its latest without a listing.
type told struct {
	*troubled
	latest escrow.Copy
}

func (t told) FetchLatest(ctx context.Context) (escrow.Copy, key.Key, key.Encoding, error) {
	k, encoding, err := t.Reader.Fetch(ctx, t.latest)
	return escrow.Copy{ID: t.latest.ID, Shelf: t.latest.Shelf}, k, encoding, err
}

// TestUnseen: a listing that fails does not say that nobody else writes there (laws 4, 6).
func TestUnseen(t *testing.T) {
	h := newHost(t, server.Cluster(t).Database(t), 1)
	a, b, foreign := testKey("a"), testKey("b"), testKey("of another host")
	backup := func() agent.SaveResult {
		t.Helper()
		r, err := agent.Backup(t.Context(), &h.Host)
		h.must(err)
		return r.Escrows[0]
	}
	h.upsert(a, "ONE")
	h.write(a.UnsafeBytes())
	backup()
	e := trouble(h, 0)
	top, err := e.Writer.Save(t.Context(), escrow.Current, foreign)
	h.must(err)
	for _, e.list = range []error{escrow.ErrRateLimited, escrow.ErrTimeout, escrow.ErrDenied} {
		if s := backup(); !errors.Is(s.Err, e.list) || s.Alarm || e.saves > 0 {
			t.Errorf("%v: %+v after %d saves", e.list, s, e.saves)
		}
	}
	h.rowsUnder(b)
	h.write(b.UnsafeBytes())
	if saved, err := agent.SaveDue(t.Context(), &h.Host, e.Name()); !errors.Is(err, escrow.ErrDenied) || len(saved)+e.saves > 0 {
		t.Errorf("%+v, %v after %d saves", saved, err, e.saves)
	}
	if due := h.due(0); !slices.Equal(due, []key.Fingerprint{b.Fingerprint()}) {
		t.Errorf("%v is due", due)
	}
	h.Escrows[0].Reader = told{e, top}
	if saved := h.saveDue(0); len(saved) != 1 || !saved[0].Alarm || saved[0].Shelf != escrow.Quarantine {
		t.Errorf("%+v", saved)
	}
	if s := backup(); !s.Alarm || s.Shelf != escrow.Quarantine || s.Err != nil {
		t.Errorf("%+v", s)
	}
	h.Escrows[0].Reader = e
	h.wants(0, escrow.Current, foreign, a)
	h.wants(0, escrow.Quarantine, b)
}

// forgetful is an escrow that keeps other bytes than it was given, and says so when they are read
// back.
type forgetful struct {
	escrow.Writer
	keep func(escrow.Copy)
}

func (s forgetful) Save(ctx context.Context, shelf escrow.Shelf, k key.Key) (escrow.Copy, error) {
	c, err := s.Writer.Save(ctx, shelf, k)
	if err != nil {
		return c, err
	}
	s.keep(c)
	return escrow.Copy{}, fmt.Errorf("reading back: %w: other bytes", escrow.ErrCorrupt)
}

// A store that has kept another key's bytes for what this host has just saved there is no other
// host: the next save puts a good copy on top. Another one's own copy is, then as ever (law 4).
func TestSpoiledSaveIsOurs(t *testing.T) {
	h := newHost(t, server.Cluster(t).Database(t), 1)
	a, b := testKey("a"), testKey("b")
	h.upsert(a, "ONE")
	h.write(a.UnsafeBytes())
	h.backup()
	h.must(os.RemoveAll(h.path("usb0/current")))
	h.must(os.Mkdir(h.path("usb0/current"), 0o700))
	good := h.Escrows[0].Writer
	save := func() agent.SaveResult {
		t.Helper()
		r, err := agent.Backup(t.Context(), &h.Host)
		h.must(err)
		return r.Escrows[0]
	}
	spoil := func() {
		t.Helper()
		h.Escrows[0].Writer = forgetful{good, func(c escrow.Copy) {
			path := h.path("usb0/" + c.ID)
			h.must(os.Remove(path))
			h.must(os.WriteFile(path, b.UnsafeBytes(), 0o400))
		}}
		if s := save(); !errors.Is(s.Err, escrow.ErrCorrupt) || s.Shelf != escrow.Current {
			t.Errorf("%+v", s)
		}
		h.Escrows[0].Writer = good
	}
	spoil()
	if r, err := agent.Status(t.Context(), &h.Host); err != nil || r.Health != agent.Lagging || r.Escrows[0].Alarm != "" {
		t.Errorf("%s: %s, %q, %v", r.Health, r.Line, r.Escrows[0].Alarm, err)
	}
	if s := save(); s.Err != nil || s.Alarm || s.Shelf != escrow.Current {
		t.Errorf("%+v", s)
	}
	if r, err := agent.Status(t.Context(), &h.Host); err != nil || r.Health != agent.Green {
		t.Errorf("%s: %s, %v", r.Health, r.Line, err)
	}

	h.must(os.RemoveAll(h.path("usb0/current")))
	h.must(os.Mkdir(h.path("usb0/current"), 0o700))
	spoil()
	_, err := good.Save(t.Context(), escrow.Current, b)
	h.must(err)
	if s := save(); !s.Alarm || s.Shelf != escrow.Quarantine {
		t.Errorf("another host's copy above it: %+v", s)
	}
}
