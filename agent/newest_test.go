package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

// withheld is an escrow that lists a copy and does not give it.
type withheld struct {
	relisted
	id string
}

func withhold(e escrow.Reader, id, why string) withheld {
	return withheld{relisted{e, func(copies []escrow.Copy) {
		for i := range copies {
			if copies[i].ID == id {
				copies[i].Unreadable = why
			}
		}
	}}, id}
}

func (w withheld) Fetch(ctx context.Context, c escrow.Copy) (key.Key, key.Encoding, error) {
	if c.ID == w.id {
		return key.Key{}, "", escrow.ErrUnreadable
	}
	return w.Reader.Fetch(ctx, c)
}

// newestCopy is what stands on top of escrow 0, as everybody sees it who looks: whether it
// is the keyfile's key, and which copy it is.
type newestCopy struct {
	status, drill, rotate bool
	id                    map[string]string
}

func (h *host) newest() newestCopy {
	h.t.Helper()
	ctx := context.Background()
	n := newestCopy{id: map[string]string{}}
	s, err := agent.Status(ctx, &h.Host)
	h.must(err)
	n.status, n.id["status"] = s.Health == agent.Green, s.Escrows[0].Newest.ID
	d, err := agent.Drill(ctx, &h.Host, agent.DrillOptions{Scratch: scratch(h.t)})
	h.must(err)
	n.drill = d.Verdict == agent.DrillPassed
	for _, c := range d.Copies {
		if c.Judged {
			n.id["drill"] = c.ID
		}
	}
	for _, c := range agent.Copies(ctx, &h.Host).Escrows[0].Copies {
		if c.Newest {
			n.id["copies"] = c.ID
		}
	}
	_, err = agent.Rotate(ctx, &h.Host, agent.RotateOptions{DryRun: true})
	n.rotate = err == nil
	if err != nil && !errors.Is(err, agent.ErrNotSafe) {
		h.t.Errorf("rotate: %v", err)
	}
	return n
}

func (n newestCopy) want(t *testing.T, right bool, id string) {
	t.Helper()
	if n.status != right || n.drill != right || n.rotate != right {
		t.Errorf("status %t, drill %t, rotate --dry-run %t instead of %t", n.status, n.drill, n.rotate, right)
	}
	for who, saw := range n.id {
		if saw != id {
			t.Errorf("%s: the newest is %s, and not %s", who, saw, id)
		}
	}
}

// TestOneNewestCopy: whoever looks means the same by the newest current copy, whatever stands
// there, and the next save, a person's or the saver's, puts a good copy on top of what is none.
func TestOneNewestCopy(t *testing.T) { bothListings(t, testOneNewestCopy) }

func testOneNewestCopy(t *testing.T, list listing) {
	cluster := server.Cluster(t)
	db, pool := cluster.Database(t), cluster.Pool(t)
	a := testKey("a")
	mangled := []byte(strings.ToValidUTF8(string(a.UnsafeBytes()), "\uFFFD"))
	savers := map[string]func(*testing.T, *host) agent.SaveResult{
		"backup": func(t *testing.T, h *host) agent.SaveResult {
			r, err := agent.Backup(t.Context(), &h.Host)
			h.must(err)
			return r.Escrows[0]
		},
		"the saver's hourly look": func(t *testing.T, h *host) agent.SaveResult {
			saved, err := agent.Revisit(t.Context(), &h.Host, "usb0")
			if err != nil || len(saved) != 1 {
				t.Fatalf("%+v, %v", saved, err)
			}
			return saved[0]
		},
		"the saver, of a ledger that was lost": func(t *testing.T, h *host) agent.SaveResult {
			h.must(os.Remove(h.path("state/ledger.jsonl")))
			saved := h.saveDue(0)
			if len(saved) != 1 {
				t.Fatalf("%+v", saved)
			}
			return saved[0]
		},
	}
	above := func(content []byte) func(*host) {
		return func(h *host) { h.plant(0, escrow.Current, content) }
	}
	destroyed := func(h *host) {
		h.plant(0, escrow.Current, mangled)
		h.Escrows[0].Reader = withhold(h.Escrows[0].Reader, "current/planted", "destroyed")
	}
	for _, test := range []struct {
		name    string
		arrange func(*host) // something above a good copy of the keyfile's key
	}{
		{"destroyed, the right key below it", destroyed},
		{"mangled", above(mangled)},
		{"no value", above(nil)},
		{"another value", above([]byte("other=x"))},
		{"raw with a newline", above(append(bytes.Clone(a.UnsafeBytes()), '\n'))},
	} {
		for who, save := range savers {
			if brief.Run() && who != "backup" && test.name != "mangled" {
				continue
			}
			t.Run(test.name+", "+who, func(t *testing.T) {
				h := newHost(t, db, 1)
				h.pool = pool
				h.rowsUnder(a)
				h.write(a.UnsafeBytes())
				h.backup()
				h.now = h.now.Add(time.Hour)
				test.arrange(h)
				list(h)
				h.newest().want(t, false, "current/planted")
				s, err := agent.Status(t.Context(), &h.Host)
				h.must(err)
				if s.Health != agent.Lagging || s.Escrows[0].Alarm != "" {
					t.Errorf("status: %s: %s", s.Health, s.Line)
				}
				h.now = h.now.Add(time.Hour)
				r := save(t, h)
				if r.Err != nil || r.Shelf != escrow.Current {
					t.Fatalf("%+v", r)
				}
				h.newest().want(t, true, r.Copy.ID)
				// Killed before the entry of what was saved, it would be no other host's.
				record, err := h.Ledger.Read()
				h.must(err)
				last := slices.DeleteFunc(record.Entries, func(e ledger.Entry) bool { return e.Event != ledger.Saving && e.Event != ledger.Saved })
				if n := len(last); n < 2 || last[n-2].Event != ledger.Saving || last[n-2].Fingerprint != a.Fingerprint() {
					t.Errorf("nothing says that the save was begun: %+v", last)
				}
			})
		}
	}
}

// TestGoneSinceListed: what a listing calls the keyfile's key and nobody can fetch any more holds
// no key: no rotation relies on it, and the hourly look saves it again.
func TestGoneSinceListed(t *testing.T) {
	db := server.Cluster(t).Database(t)
	a := testKey("a")
	gone := func(t *testing.T) *host {
		h := newHost(t, db, 1)
		h.rowsUnder(a)
		h.write(a.UnsafeBytes())
		r, err := agent.Backup(t.Context(), &h.Host)
		h.must(err)
		h.now = h.now.Add(time.Hour)
		h.Escrows[0].Reader = &outdated{h.Escrows[0].Reader, func() { h.must(os.Remove(h.path("usb0/" + r.Escrows[0].Copy.ID))) }}
		return h
	}
	t.Run("a rotation", func(t *testing.T) {
		if _, err := agent.Rotate(t.Context(), &gone(t).Host, agent.RotateOptions{DryRun: true}); !errors.Is(err, agent.ErrNotSafe) {
			t.Errorf("%v", err)
		}
	})
	t.Run("the hourly look", func(t *testing.T) {
		h := gone(t)
		saved, err := agent.Revisit(t.Context(), &h.Host, "usb0")
		if err != nil || len(saved) != 1 || saved[0].Err != nil || saved[0].Shelf != escrow.Current {
			t.Errorf("%+v, %v", saved, err)
		}
	})
}

// TestPartIsBroughtAgain: of a key in parts, a member lost its own. The others are enough to
// have the key, and the hourly look brings the part again before one more is lost.
func TestPartIsBroughtAgain(t *testing.T) {
	h, _ := inParts(t, testKey("a"))
	h.backup()
	lacks := func() *escrow.PartsError {
		r, err := agent.Status(t.Context(), &h.Host)
		h.must(err)
		return r.Escrows[0].Lacks
	}
	part, err := filepath.Glob(h.path("usb1/current/*"))
	if err != nil || len(part) != 1 {
		t.Fatal(part, err)
	}
	h.must(os.Remove(part[0]))
	if lacks() == nil {
		t.Fatal("status misses no part")
	}
	if saved, err := agent.Revisit(t.Context(), &h.Host, "split"); err != nil || len(saved) != 1 {
		t.Errorf("%+v, %v", saved, err)
	}
	if e := lacks(); e != nil {
		t.Error(e)
	}
	if saved, err := agent.Revisit(t.Context(), &h.Host, "split"); err != nil || len(saved) != 0 {
		t.Errorf("all are there: %+v, %v", saved, err)
	}
	if r, err := agent.Status(t.Context(), &h.Host); err != nil || r.Escrows[0].Alarm != "" {
		t.Errorf("the part that was brought again is this host's own: %q, %v", r.Escrows[0].Alarm, err)
	}
}

// TestLedgerBeforeTops: a ledger of an earlier version names a copy in parts, and not what each
// store has of it. That is no alarm, and is found out by the hourly look, once.
func TestLedgerBeforeTops(t *testing.T) {
	a := testKey("a")
	h, _ := inParts(t, a)
	h.backup()
	h.must(os.Remove(h.path("state/ledger.jsonl")))
	h.must(h.Ledger.Append(
		ledger.Entry{Event: ledger.Proven, Fingerprint: a.Fingerprint(), Verdict: string(rows.Opens), Checked: 1, Opened: 1},
		ledger.Entry{Event: ledger.Saved, Fingerprint: a.Fingerprint(), Escrow: "split", Copy: "current/" + string(a.Fingerprint()), Shelf: string(escrow.Current)}))
	for _, saves := range []int{1, 0} {
		if r, err := agent.Status(t.Context(), &h.Host); err != nil || r.Health != agent.Green || r.Escrows[0].Alarm != "" {
			t.Errorf("%s: %s, %v", r.Health, r.Line, err)
		}
		if saved, err := agent.Revisit(t.Context(), &h.Host, "split"); err != nil || len(saved) != saves || saves == 1 && (saved[0].Alarm || saved[0].Shelf != escrow.Current) {
			t.Errorf("%+v, %v, want %d", saved, err, saves)
		}
	}
	// From now on another host's is told from it, though the key is the same.
	h.must(os.WriteFile(h.path("usb1/current/20991231T235959.000Z-by-hand"), a.UnsafeBytes(), 0o400))
	if r, err := agent.Status(t.Context(), &h.Host); err != nil || r.Escrows[0].Alarm == "" {
		t.Errorf("%s: %s, %v", r.Health, r.Line, err)
	}
}

// TestLostAnswerOfAMember: a member took its part of a key without an answer, and is back after
// another key was saved on the others. What it has is this host's own all the same.
func TestLostAnswerOfAMember(t *testing.T) {
	a, b := testKey("a"), testKey("b")
	h, _ := inParts(t, a)
	entry := func(e ledger.Event, f key.Fingerprint, why error, tops ...string) ledger.Entry {
		x := ledger.Entry{Event: e, Fingerprint: f, Escrow: "split", Shelf: string(escrow.Current), Tops: tops}
		if e == ledger.Saved {
			x.Copy = "current/" + string(f)
		}
		if why != nil {
			x.Reason = why.Error()
		}
		return x
	}
	h.backup() // all three have a
	h.must(os.Rename(h.path("usb2"), h.path("away")))
	h.must(h.Ledger.Append(entry(ledger.Saving, b.Fingerprint(), nil)))
	h.upsert(b, "ONE")
	h.write(b.UnsafeBytes())
	if r, err := agent.Backup(t.Context(), &h.Host); err != nil || !errors.Is(r.Escrows[0].Err, escrow.ErrPartly) {
		t.Fatalf("%+v, %v", r, err)
	}
	// While it was away it had taken a third key's part, and the word of that was lost.
	c := testKey("c")
	h.must(h.Ledger.Append(entry(ledger.Saving, c.Fingerprint(), nil),
		entry(ledger.Saved, b.Fingerprint(), escrow.ErrPartly)))
	h.must(os.Rename(h.path("away"), h.path("usb2")))
	_, err := splitOver(h).Members()[2].Save(t.Context(), escrow.Current, c)
	h.must(err)
	if r, err := agent.Status(t.Context(), &h.Host); err != nil || r.Escrows[0].Alarm != "" {
		t.Errorf("%s: %s, %v", r.Health, r.Line, err)
	}
	// The next save is on all of them, and from then on it would be another host's.
	if r, err := agent.Backup(t.Context(), &h.Host); err != nil || r.Escrows[0].Err != nil || r.Escrows[0].Shelf != escrow.Current {
		t.Fatalf("%+v, %v", r, err)
	}
	_, err = splitOver(h).Members()[2].Save(t.Context(), escrow.Current, c)
	h.must(err)
	if r, err := agent.Status(t.Context(), &h.Host); err != nil || r.Escrows[0].Alarm == "" {
		t.Errorf("%s: %s, %v", r.Health, r.Line, err)
	}
}

// inParts is a host with that key in the keyfile and one row, and splitOver's escrow.
func inParts(t *testing.T, k key.Key) (*host, *kinds.Split) {
	t.Helper()
	h := newHost(t, server.Cluster(t).Database(t), 0)
	s := splitOver(h)
	h.upsert(k, "ONE")
	h.write(k.UnsafeBytes())
	return h, s
}

// splitOver gives a host one escrow that keeps each key in three directories, of which two
// are enough.
func splitOver(h *host) *kinds.Split {
	h.t.Helper()
	return splitAs(h, 2, 3)
}

// splitAs is splitOver where so many parts are needed of so many.
func splitAs(h *host, need, of int) *kinds.Split {
	h.t.Helper()
	o := kinds.SplitOptions{Name: "split", Need: need}
	for i := range of {
		d, err := kinds.NewDirectory(kinds.DirectoryOptions{Name: fmt.Sprint("usb", i), Path: h.path(fmt.Sprint("usb", i)),
			Keyfile: h.path("etc/secrets.key"), AllowSameDisk: true, Part: escrow.PartOf{Need: need, Number: i + 1}})
		h.must(errors.Join(err, os.MkdirAll(h.path(fmt.Sprint("usb", i)), 0o700), d.Init(context.Background())))
		o.Members = append(o.Members, escrow.Member{Escrow: d, Number: i + 1, Required: true})
	}
	s, err := kinds.NewSplit(o)
	h.must(err)
	h.Escrows = []agent.Escrow{{Reader: s, Writer: s, Required: true}}
	return s
}

// relistMember makes the host's only escrow the split with its second member relisted.
func relistMember(h *host, s *kinds.Split, change func([]escrow.Copy)) error {
	members := slices.Clone(s.Members())
	was := members[1].Escrow
	members[1].Escrow = struct {
		relisted
		escrow.Writer
		io.Closer
	}{relisted{was, change}, was, was}
	changed, err := kinds.NewSplit(kinds.SplitOptions{Name: s.Name(), Need: s.Need(), Members: members})
	h.Escrows = []agent.Escrow{{Reader: changed, Writer: changed, Required: true}}
	return err
}

// movedBack is what a store lists whose label of the current copy somebody has moved back to the
// oldest.
func movedBack(copies []escrow.Copy) {
	current := slices.IndexFunc(copies, func(c escrow.Copy) bool { return c.Shelf != escrow.Current })
	if current < 0 {
		current = len(copies)
	}
	slices.Reverse(copies[:current])
}

// disabled is what a store lists that gives none of its copies.
func disabled(copies []escrow.Copy) {
	for i := range copies {
		copies[i].Unreadable = "disabled"
	}
}

// TestSavingAboveDisabledPart: where a part that a store has on top is disabled, a save puts
// another above it, and so the ledger is told before (law 4).
func TestSavingAboveDisabledPart(t *testing.T) {
	cluster := server.Cluster(t)
	h := newHost(t, cluster.Database(t), 0)
	s, a := splitOver(h), testKey("a")
	h.upsert(a, "ONE")
	h.write(a.UnsafeBytes())
	for i, want := range []int{1, 1, 2} { // a save, one that finds it there, and one that does not
		if i == 2 {
			h.must(relistMember(h, s, disabled))
		}
		h.backup()
		if n := h.told(ledger.Saving); n != want {
			t.Errorf("backup %d: the ledger was told of %d saves, not %d", i, n, want)
		}
	}
}

// TestAnotherHostsParts: two hosts share the stores of a split by mistake, or somebody puts
// something there. The ids of copies in parts are their keys' names, so that a former key of
// this host's own looks as if it were from here; what the stores have on top does not.
func TestAnotherHostsParts(t *testing.T) {
	cluster := server.Cluster(t)
	former, a, c := testKey("former"), testKey("a"), testKey("c")
	for name, other := range map[string]func(h *host, s *kinds.Split) error{
		"a former key of this host, in parts": func(h *host, s *kinds.Split) error {
			_, err := s.Save(h.t.Context(), escrow.Current, former)
			return err
		},
		"another key, in parts": func(h *host, s *kinds.Split) error {
			_, err := s.Save(h.t.Context(), escrow.Current, c)
			return err
		},
		"one part of another key": func(h *host, s *kinds.Split) error {
			_, err := s.Members()[1].Save(h.t.Context(), escrow.Current, c)
			return err
		},
		"one part of a former key": func(h *host, s *kinds.Split) error {
			_, err := s.Members()[1].Save(h.t.Context(), escrow.Current, former)
			return err
		},
		"a former part, moved back to the top": func(h *host, s *kinds.Split) error {
			return relistMember(h, s, movedBack)
		},
		"the whole key": func(h *host, _ *kinds.Split) error {
			return os.WriteFile(h.path("usb1/current/20991231T235959.000Z-by-hand"), a.UnsafeBytes(), 0o400)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, cluster.Database(t), 0)
			s := splitOver(h)
			h.upsert(former, "ONE")
			h.write(former.UnsafeBytes())
			h.backup()
			h.upsert(a, "ONE")
			h.write(a.UnsafeBytes())
			h.backup()
			status := func() agent.StatusResult {
				t.Helper()
				r, err := agent.Status(t.Context(), &h.Host)
				h.must(err)
				return r
			}
			if r := status(); r.Escrows[0].Alarm != "" || !r.Escrows[0].Holds {
				t.Fatalf("before: %+v", r.Escrows[0])
			}
			h.must(other(h, splitOver(h)))
			if r := status(); r.Health == agent.Green || r.Escrows[0].Alarm == "" || !strings.Contains(r.Line, "another host writes to the same place") {
				t.Errorf("%s: %s", r.Health, r.Line)
			}
			// The watcher looks, and writes nothing but quarantine.
			saved, err := agent.Revisit(t.Context(), &h.Host, "split")
			if err != nil || len(saved) != 1 || !saved[0].Alarm || saved[0].Shelf != escrow.Quarantine {
				t.Errorf("%+v, %v", saved, err)
			}
			if k, _, err := s.Fetch(t.Context(), escrow.Copy{ID: "current/" + string(a.Fingerprint())}); err != nil || !k.Equal(a) {
				t.Errorf("the parts rebuild it still: %v, %v", k, err)
			}
			// A person sees to it.
			accepted, err := agent.Accept(t.Context(), &h.Host, agent.AcceptOptions{Confirm: func(agent.AcceptResult) (bool, error) { return true, nil }})
			if err != nil || len(accepted.Adopted) != 1 {
				t.Errorf("%+v, %v", accepted.Adopted, err)
			}
			h.backup()
			if r := status(); r.Escrows[0].Alarm != "" || !r.Escrows[0].Holds {
				t.Errorf("after: %+v", r.Escrows[0])
			}
		})
	}
}

// TestAdoptedWhileOneStoreIsAway: a person vouches for what stands there while not all stores
// answer. What the last one has of the same key is vouched for, too.
func TestAdoptedWhileOneStoreIsAway(t *testing.T) {
	h, _ := inParts(t, testKey("a"))
	h.backup()
	h.must(os.Remove(h.path("state/ledger.jsonl")))
	h.must(os.Rename(h.path("usb2"), h.path("away")))
	if r, err := agent.Accept(t.Context(), &h.Host, agent.AcceptOptions{Confirm: func(agent.AcceptResult) (bool, error) { return true, nil }}); err != nil || len(r.Adopted) != 1 {
		t.Errorf("%+v, %v", r.Adopted, err)
	}
	h.must(os.Rename(h.path("away"), h.path("usb2")))
	if r, err := agent.Status(t.Context(), &h.Host); err != nil || r.Escrows[0].Alarm != "" || r.Health != agent.Green {
		t.Errorf("%s: %s, %v", r.Health, r.Line, err)
	}
	h.backup()
	// From here on it is known what that one has.
	h.must(func() error {
		_, err := splitOver(h).Members()[2].Save(t.Context(), escrow.Current, testKey("b"))
		return err
	}())
	if r, err := agent.Status(t.Context(), &h.Host); err != nil || r.Escrows[0].Alarm == "" {
		t.Errorf("%s: %s, %v", r.Health, r.Line, err)
	}
}

// TestWholeKeyIsNotInParts: a whole key on one member, and no part anywhere, is not what the
// split has.
func TestWholeKeyIsNotInParts(t *testing.T) {
	a := testKey("a")
	h, s := inParts(t, a)
	h.must(os.WriteFile(h.path("usb1/current/20991231T235959.000Z-by-hand"), a.UnsafeBytes(), 0o400))
	r, err := agent.Status(t.Context(), &h.Host)
	h.must(err)
	if e := r.Escrows[0]; r.Health != agent.Lagging || e.Holds || e.Newest.ID != "" || e.Beside == "" {
		t.Errorf("%s: %s: %+v", r.Health, r.Line, e)
	}
	if saved, err := agent.SaveDue(t.Context(), &h.Host, "split"); err != nil || len(saved) != 1 || saved[0].Shelf != escrow.Current {
		t.Errorf("%+v, %v", saved, err)
	}
	if r, err = agent.Status(t.Context(), &h.Host); err != nil || !r.Escrows[0].Holds || r.Escrows[0].Lacks != nil || r.Escrows[0].Beside == "" {
		t.Errorf("%s: %+v, %v", r.Line, r.Escrows[0], err)
	}
	// Without the parts it is a candidate still.
	for _, m := range s.Members() {
		files, err := filepath.Glob(h.path(m.Name() + "/current/*.need*"))
		h.must(err)
		for _, f := range files {
			h.must(os.Remove(f))
		}
	}
	h.must(os.Remove(h.path("etc/secrets.key")))
	if g, err := h.guard(); err != nil || g.Decision.Action != decide.Install || g.Decision.Key != a.Fingerprint() {
		t.Errorf("%+v, %v", g.Decision, err)
	}
}

// TestFirstSaveWithoutOneStore: n-1 of the stores answer, and none has a part of anything.
// Whether the last one has, nobody can tell; a save, which is on the others, need not know.
func TestFirstSaveWithoutOneStore(t *testing.T) {
	a := testKey("a")
	h, _ := inParts(t, a)
	h.must(os.Rename(h.path("usb2"), h.path("away")))
	if _, err := h.Escrows[0].List(t.Context()); !errors.Is(err, escrow.ErrPerhaps) || !errors.Is(err, escrow.ErrNoPlace) {
		t.Errorf("%v: that is \"no copies\"", err)
	}
	var parts *escrow.PartsError
	if saved, err := agent.SaveDue(t.Context(), &h.Host, "split"); !errors.Is(err, escrow.ErrPartly) || !errors.As(err, &parts) || parts.Saved != 2 || len(saved) != 0 {
		t.Errorf("%+v, %v", saved, err)
	}
	r, err := agent.Status(t.Context(), &h.Host)
	h.must(err)
	if e := r.Escrows[0]; r.Health != agent.Lagging || !e.Holds || e.Lacks == nil || e.Alarm != "" {
		t.Errorf("%s: %s: %+v", r.Health, r.Line, e)
	}
	h.must(os.Rename(h.path("away"), h.path("usb2")))
	if saved, err := agent.SaveDue(t.Context(), &h.Host, "split"); err != nil || len(saved) != 1 {
		t.Errorf("%+v, %v", saved, err)
	}
	if r, err = agent.Status(t.Context(), &h.Host); err != nil || r.Escrows[0].Lacks != nil || r.Escrows[0].Alarm != "" {
		t.Errorf("%s: %+v, %v", r.Line, r.Escrows[0], err)
	}
	// Fewer than are needed: not saved.
	h.must(errors.Join(os.Rename(h.path("usb1"), h.path("away")), os.Rename(h.path("usb2"), h.path("away2"))))
	b := testKey("b")
	h.upsert(b, "ONE")
	h.write(b.UnsafeBytes())
	if saved, err := agent.SaveDue(t.Context(), &h.Host, "split"); err == nil || errors.Is(err, escrow.ErrPartly) || len(saved) != 0 {
		t.Errorf("%+v, %v", saved, err)
	}
}

// TestDisabledIsNotHeld: this host's own newest copy, which the store gives to nobody.
func TestDisabledIsNotHeld(t *testing.T) {
	h := newHost(t, server.Cluster(t).Database(t), 1)
	h.upsert(testKey("a"), "ONE")
	h.write(testKey("a").UnsafeBytes())
	h.backup()
	copies, err := h.Escrows[0].List(t.Context())
	h.must(err)
	h.Escrows[0].Reader = withhold(h.Escrows[0].Reader, copies[0].ID, "disabled")
	n := h.newest()
	n.want(t, false, copies[0].ID)
}

// TestTwoVersionsAreOneKey: two copies of the same bytes are one candidate, and none that is
// counted against the other.
func TestTwoVersionsAreOneKey(t *testing.T) { bothListings(t, testTwoVersionsAreOneKey) }

func testTwoVersionsAreOneKey(t *testing.T, list listing) {
	h := newHost(t, server.Cluster(t).Database(t), 2)
	a := testKey("a")
	h.upsert(a, "ONE")
	h.must(save(&h.Host, a))
	h.plant(0, escrow.Current, a.UnsafeBytes())
	list(h)
	h.up = false // the rows do not say which
	h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Proven, Fingerprint: a.Fingerprint(), Verdict: "opens", Checked: 1, Opened: 1}))
	r, err := h.guard()
	if err != nil || r.Decision.Action != decide.Install || r.Decision.Key != a.Fingerprint() || !h.holds(a) {
		t.Errorf("%+v, %v", r.Decision, err)
	}
	h.up = true
	h.write(a.UnsafeBytes())
	v, err := agent.Verify(t.Context(), &h.Host)
	h.must(err)
	if len(v.Rows.Proofs) != 1 {
		t.Errorf("%d keys were tried", len(v.Rows.Proofs))
	}
	if due := h.due(0); len(due) != 0 {
		t.Error(due, "is due")
	}
}

// TestNoEscrowIsNotGreen: a key in place and nowhere else is no backup.
func TestNoEscrowIsNotGreen(t *testing.T) {
	h := newHost(t, nil, 0)
	h.write(testKey("a").UnsafeBytes())
	r, err := agent.Status(t.Context(), &h.Host)
	if err != nil || r.Health != agent.Lagging || !strings.Contains(r.Line, "no escrow is configured") {
		t.Errorf("%s: %s, %v", r.Health, r.Line, err)
	}
}
