package agent_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable/durabletest"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

// host is a host of its own in a temporary directory: real files, real directory
// escrows, and a table of a real Postgres.
type host struct {
	t     testing.TB
	dir   string
	now   time.Time
	db    *rowstest.Database
	pool  *rowstest.Pool // nil: db is asked without one
	up    bool           // the rows can be asked
	asked atomic.Int64   // how often somebody opened the rows
	agent.Host
}

func newHost(t testing.TB, db *rowstest.Database, escrows int) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir(), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), db: db, up: true}
	now := func() time.Time { return h.now }
	h.Host = hostIn(h.dir, now)
	h.OpenRows = func(_ context.Context, o rows.Options) (agent.Rows, error) {
		h.asked.Add(1)
		switch {
		case !h.up:
			return nil, rows.ErrNotListening
		case h.db == nil:
			return rows.Open(rows.Location{Absent: true, Why: "no database yet"}, o)
		}
		url := h.db.URL()
		if h.pool != nil {
			url = h.pool.URL(h.db.Name)
		}
		return patient(url, o)
	}
	h.must(errors.Join(os.Mkdir(h.path("etc"), 0o700), os.Mkdir(h.path("state"), 0o700)))
	for i := range escrows {
		name := fmt.Sprint("usb", i)
		h.must(os.Mkdir(h.path(name), 0o700))
		e, err := usbIn(h.dir, name)
		h.must(err)
		h.must(e.Writer.Init(context.Background()))
		h.Escrows = append(h.Escrows, e)
	}
	return h
}

// hostIn is a host in a directory, without a database or escrows.
func hostIn(dir string, now func() time.Time) agent.Host {
	state := filepath.Join(dir, "state")
	return agent.Host{
		Keyfile: keyfile.File{Path: filepath.Join(dir, "etc/secrets.key"), Owner: os.Getuid(), Group: os.Getgid(),
			Quarantine: filepath.Join(state, "quarantine"), Locks: state},
		Ledger:   ledger.Open(state, ledger.Options{Host: "test", Now: now}),
		StateDir: state,
		Now:      now,
	}
}

// usbIn is a directory escrow of a host.
func usbIn(dir, name string) (agent.Escrow, error) {
	d, err := kinds.NewDirectory(kinds.DirectoryOptions{Name: name, Path: filepath.Join(dir, name),
		Keyfile: filepath.Join(dir, "etc/secrets.key"), AllowSameDisk: true})
	return agent.Escrow{Reader: d, Writer: d, Required: true}, err
}

// A listing is how the escrows of a host list: as they do, or blind.
type listing func(*host) *host

// relisted is an escrow of which somebody changes what it lists.
type relisted struct {
	escrow.Reader
	change func([]escrow.Copy)
}

func (r relisted) List(ctx context.Context) ([]escrow.Copy, error) {
	copies, err := r.Reader.List(ctx)
	r.change(copies)
	return copies, err
}

// blind has an escrow list no fingerprints, as Secret Manager does: whose copy one is,
// only its bytes tell.
func blind(copies []escrow.Copy) {
	for i := range copies {
		copies[i].Fingerprint = ""
	}
}

// bothListings runs a test with escrows of either kind.
func bothListings(t *testing.T, test func(*testing.T, listing)) {
	t.Run("listed with fingerprints", func(t *testing.T) { test(t, func(h *host) *host { return h }) })
	if brief.Run() {
		return
	}
	t.Run("listed without", func(t *testing.T) {
		test(t, func(h *host) *host {
			for i := range h.Escrows {
				h.Escrows[i].Reader = relisted{h.Escrows[i].Reader, blind}
			}
			return h
		})
	})
}

// fingerprint is of the bytes of a copy, whatever its listing says.
func fingerprint(e escrow.Reader, c escrow.Copy) key.Fingerprint {
	k, _, err := e.Fetch(context.Background(), c)
	if err != nil {
		return ""
	}
	defer k.Wipe()
	return k.Fingerprint()
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) write(content []byte) {
	h.t.Helper()
	h.must(os.RemoveAll(h.Keyfile.Path))
	h.must(os.WriteFile(h.Keyfile.Path, content, 0o400))
}

func (h *host) content() []byte {
	content, err := os.ReadFile(h.Keyfile.Path)
	if err != nil {
		return nil
	}
	return content
}

func (h *host) holds(k key.Key) bool { return bytes.Equal(h.content(), k.UnsafeBytes()) }

func (h *host) guard() (agent.GuardResult, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return agent.Guard(ctx, &h.Host, agent.GuardOptions{})
}

func testKey(name string) key.Key {
	sum := sha256.Sum256([]byte("agent test key " + name))
	k, err := key.New(sum[:])
	if err != nil {
		panic(err)
	}
	return k
}

// somewhere tells whether a key can be found in a file below the host's directory, raw.
func (h *host) somewhere(k key.Key) bool {
	found := false
	h.must(filepath.WalkDir(h.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if content, err := os.ReadFile(path); err == nil && bytes.Equal(content, k.UnsafeBytes()) {
			found = true
		}
		return nil
	}))
	return found
}

// TestHistories plays random histories on real files and a real Postgres: whatever
// happens to key, rows, ledger and escrows, the laws hold at every start.
func TestHistories(t *testing.T) {
	histories, length := 8, 14
	if n, err := strconv.Atoi(os.Getenv("KEYGUARD_HISTORIES")); err == nil {
		histories = n // make test
	}
	cluster := server.Cluster(t)
	pool := cluster.Pool(t)
	r := rand.New(rand.NewPCG(3, 4))
	actions := map[decide.Action]int{}
	for n := range histories {
		db := cluster.Database(t)
		h := newHost(t, db, 1+r.IntN(2))
		h.pool = pool
		keys := []key.Key{testKey("a"), testKey("b"), testKey("c")}
		under := map[string]int{} // rows by the key that opens them
		var replaced []key.Key    // every key that Guard took out of the keyfile's place
		var story []string
		for range length {
			h.now = h.now.Add(time.Duration(r.IntN(40)) * time.Hour)
			k := keys[r.IntN(len(keys))]
			event := r.IntN(12)
			story = append(story, fmt.Sprint(event, " ", k.Fingerprint()))
			switch event {
			case 0, 1:
				h.must(os.RemoveAll(h.Keyfile.Path))
			case 2, 3:
				h.write(k.UnsafeBytes())
			case 4:
				h.write(k.UnsafeBytes()[:r.IntN(32)])
			case 5:
				h.write([]byte(base64.StdEncoding.EncodeToString(k.UnsafeBytes())))
			case 6, 7:
				for i := range 1 + r.IntN(3) {
					h.must(db.Upsert(k, "tenant", fmt.Sprint("SECRET_", k.Fingerprint(), i), []byte("v")))
					under[string(k.Fingerprint())] = max(under[string(k.Fingerprint())], i+1)
				}
			case 8:
				h.up = !h.up
			case 9:
				name := h.path("usb0")
				if os.Rename(name, name+"-away") != nil {
					h.must(os.Rename(name+"-away", name))
				}
			case 10:
				h.must(os.RemoveAll(h.path("state/ledger.jsonl")))
			case 11:
				agent.Backup(context.Background(), &h.Host)
			}
			before, err := h.Keyfile.Look()
			h.must(err)
			r, err := h.guard()
			if err != nil {
				t.Fatalf("history %d: %v\n%v", n, err, story)
			}
			actions[r.Decision.Action]++
			fail := func(format string, args ...any) {
				t.Helper()
				t.Fatalf("history %d: %s\n%v\n%+v", n, fmt.Sprintf(format, args...), story, r.Decision)
			}
			total := 0
			for _, rows := range under {
				total += rows
			}
			switch r.Decision.Action {
			case decide.Pass, decide.Install, decide.Make:
				seen, err := h.Keyfile.Look()
				h.must(err)
				if seen.Kind != keyfile.Good || seen.Loose != "" {
					fail("passes on a keyfile that the daemon cannot read")
				}
			}
			if r.Decision.Action == decide.Make && (total > 0 || len(replaced) > 0) {
				fail("made a key over %d rows and %d kept keys (law 2)", total, len(replaced))
			}
			if before.Kind == keyfile.Good && total > 0 && under[string(before.Key.Fingerprint())] == total && !h.holds(before.Key) {
				fail("replaced a key that opens every row (law 1)")
			}
			if before.Kind == keyfile.Good && !h.holds(before.Key) {
				replaced = append(replaced, before.Key.Clone())
			}
			for _, k := range replaced {
				if !h.somewhere(k) {
					fail("key %s is gone (law 3)", k.Fingerprint())
				}
			}
		}
		checkShelves(t, h, under)
	}
	for _, a := range []decide.Action{decide.Pass, decide.Install, decide.Make, decide.Doubt, decide.Lost} {
		if actions[a] == 0 && histories >= 30 {
			t.Errorf("no history came to %q", a)
		}
	}
	t.Logf("%d histories: %v", histories, actions)
}

// checkShelves is law 4 at the end of a history: where rows exist and the newest current
// copy was put there by a proof, it opens one.
func checkShelves(t *testing.T, h *host, under map[string]int) {
	record, err := h.Ledger.Read()
	h.must(err)
	proven := record.EverProven()
	for _, s := range h.Escrows {
		copies, err := s.List(context.Background())
		if err != nil {
			continue
		}
		i := slices.IndexFunc(copies, func(c escrow.Copy) bool { return c.Shelf == escrow.Current })
		if i < 0 {
			continue
		}
		f := fingerprint(s, copies[i])
		if slices.Contains(proven, f) && under[string(f)] == 0 {
			t.Errorf("the newest current copy is of key %s, which opens no row", f)
		}
	}
}

// handed is an escrow that keeps hold of every key that it has given.
type handed struct {
	escrow.Reader
	keys *[]key.Key
}

func (h handed) Fetch(ctx context.Context, c escrow.Copy) (key.Key, key.Encoding, error) {
	k, encoding, err := h.Reader.Fetch(ctx, c)
	*h.keys = append(*h.keys, k)
	return k, encoding, err
}

// withholding is an escrow that does not give every copy.
type withholding struct {
	escrow.Reader
	not map[string]error
}

func (w withholding) Fetch(ctx context.Context, c escrow.Copy) (key.Key, key.Encoding, error) {
	if err := cmp.Or(w.not[c.ID], w.not[""]); err != nil {
		return key.Key{}, "", err
	}
	return w.Reader.Fetch(ctx, c)
}

// TestCopyThatIsNotGiven: one copy that this host may not read, or that went after the listing,
// says nothing of the others; a store that gives none cannot answer (law 6).
func TestCopyThatIsNotGiven(t *testing.T) {
	db := server.Cluster(t).Database(t)
	right := testKey("right")
	for name, tt := range map[string]struct {
		is    error
		all   bool
		found bool
	}{
		"denied":     {escrow.ErrDenied, false, true},
		"gone":       {escrow.ErrGone, false, true},
		"all denied": {escrow.ErrDenied, true, false},
		"unreached":  {escrow.ErrUnreachable, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, db, 1)
			h.upsert(right, "ONE")
			h.save(0, escrow.Current, right)
			for n := range 4 {
				h.save(0, escrow.Current, testKey(fmt.Sprint("newer", n)))
			}
			copies, err := h.Escrows[0].List(t.Context())
			h.must(err)
			at := copies[0].ID
			if tt.all {
				at = ""
			}
			h.Escrows[0].Reader = withholding{h.Escrows[0].Reader, map[string]error{at: tt.is}}
			r, err := h.guard()
			if err != nil || h.holds(right) != tt.found {
				t.Errorf("%+v, %v", r.Decision, err)
			}
			if got := r.Evidence.Escrows[0]; !tt.found && (got.State != decide.EscrowFailed || !errors.Is(got.Err, tt.is)) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestRowsCome is law 2 and law 4 where a dump is loaded while the escrows of a host without rows take
// their time: a key that no row spoke for is not put over them, and goes to no further current shelf.
func TestRowsCome(t *testing.T) {
	db := server.Cluster(t).Database(t)
	copied := testKey("copied")
	if err := db.Upsert(testKey("right"), "tenant", "ONE", []byte("v")); err != nil {
		t.Fatal(err)
	}
	t.Run("while a first key is saved", func(t *testing.T) {
		h := newHost(t, nil, 2)
		h.Escrows[0].Writer = &overtaken{h.Escrows[0].Writer, func() { h.db = db }}
		r, err := h.guard()
		if err != nil || r.Decision.Action != decide.Lost || h.content() != nil {
			t.Errorf("%+v, %v, a keyfile of %d bytes", r.Decision, err, len(h.content()))
		}
		if first, apart := h.shelf(0, escrow.Current), h.shelf(1, escrow.Quarantine); len(first) != 1 || !slices.Equal(apart, first) {
			t.Errorf("current %v, and where the rows had come %v", first, apart)
		}
	})
	t.Run("while the last escrow takes a first key", func(t *testing.T) {
		h := newHost(t, nil, 1)
		h.Escrows[0].Writer = &overtaken{h.Escrows[0].Writer, func() { h.db = db }}
		if r, err := h.guard(); err != nil || r.Decision.Action != decide.Lost || h.content() != nil {
			t.Errorf("%+v, %v, a keyfile of %d bytes", r.Decision, err, len(h.content()))
		}
	})
	t.Run("while the copies are listed", func(t *testing.T) {
		h := newHost(t, nil, 1)
		h.save(0, escrow.Current, copied)
		h.Escrows[0].Reader = relisted{h.Escrows[0].Reader, func([]escrow.Copy) { h.db = db }}
		if r, err := h.guard(); err != nil || r.Decision.Action != decide.Lost || h.content() != nil {
			t.Errorf("%+v, %v, a keyfile of %d bytes", r.Decision, err, len(h.content()))
		}
	})
	t.Run("and cannot be asked", func(t *testing.T) {
		h := newHost(t, nil, 1)
		h.Escrows[0].Writer = &overtaken{h.Escrows[0].Writer, func() { h.up = false }}
		r, err := h.guard()
		if err != nil || r.Decision.Action != decide.Doubt || h.content() != nil {
			t.Errorf("%+v, %v, a keyfile of %d bytes", r.Decision, err, len(h.content()))
		}
	})
}

// TestCopyUnderAnotherName: the only copy that opens the rows is called another key. It is told
// by whoever looks, put in place by a start, and left in nobody's memory.
func TestCopyUnderAnotherName(t *testing.T) {
	db := server.Cluster(t).Database(t)
	right, other := testKey("right"), testKey("other")
	h := newHost(t, db, 1)
	h.upsert(right, "ONE")
	h.save(0, escrow.Current, other)
	copies, err := h.Escrows[0].List(t.Context())
	h.must(err)
	h.must(os.WriteFile(h.path("usb0/"+copies[0].ID), right.UnsafeBytes(), 0o600))
	var given []key.Key
	h.Escrows[0].Reader = handed{h.Escrows[0].Reader, &given}
	wiped, err := key.New(make([]byte, key.Size))
	h.must(err)
	for _, op := range []struct {
		name string
		do   func() error
	}{
		{"copies", func() error {
			r := agent.Copies(t.Context(), &h.Host)
			if l := r.Escrows[0].Copies[0]; l.Read || !errors.Is(l.Err, escrow.ErrCorrupt) {
				return fmt.Errorf("%+v", l)
			}
			return nil
		}},
		{"drill", func() error {
			r, err := agent.Drill(t.Context(), &h.Host, agent.DrillOptions{Scratch: scratch(t)})
			if err == nil && r.Verdict != agent.DrillFailed {
				err = fmt.Errorf("%+v", r)
			}
			return err
		}},
		{"verify", func() error { _, err := agent.Verify(t.Context(), &h.Host); return err }},
		{"status", func() error { _, err := agent.Status(t.Context(), &h.Host); return err }},
		{"guard", func() error {
			r, err := h.guard()
			if err == nil && (r.Decision.Action != decide.Install || r.Decision.Key != right.Fingerprint() || !h.holds(right)) {
				err = fmt.Errorf("%+v", r.Decision)
			}
			return err
		}},
		{"accept", func() error {
			_, err := agent.Accept(t.Context(), &h.Host, agent.AcceptOptions{Confirm: func(r agent.AcceptResult) (bool, error) {
				if len(r.Adopted) != 1 || !strings.Contains(r.Adopted[0].Unreadable, string(right.Fingerprint())) {
					return false, fmt.Errorf("%+v", r.Adopted)
				}
				return false, nil
			}})
			return err
		}},
		{"save", func() error {
			r, err := agent.SaveDue(t.Context(), &h.Host, "usb0")
			if err == nil && (len(r) != 1 || r[0].Err != nil || r[0].Key != right.Fingerprint() || r[0].Shelf != escrow.Current) {
				err = fmt.Errorf("%+v", r)
			}
			return err
		}},
	} {
		given = nil
		if err := op.do(); err != nil {
			t.Errorf("%s: %v", op.name, err)
		}
		left := 0
		for _, k := range given {
			if !k.IsZero() && !k.Equal(wiped) {
				left++
			}
		}
		if left > 0 || len(given) == 0 {
			t.Errorf("%s: %d of %d keys that the escrow gave are still there", op.name, left, len(given))
		}
	}
}

// TestHealthyPath is law 7: a known key with a fresh proof asks nobody, and writes nothing.
func TestHealthyPath(t *testing.T) {
	db := server.Cluster(t).Database(t)
	h := newHost(t, db, 1)
	h.write(testKey("a").UnsafeBytes())
	h.must(db.Upsert(testKey("a"), "tenant", "SECRET", []byte("v")))
	r, err := h.guard()
	if err != nil || r.Decision.Action != decide.Pass || h.asked.Load() != 1 {
		t.Fatalf("first: %+v, %v, the rows were asked %d times", r.Decision, err, h.asked.Load())
	}
	looked := h.now.Local().Format(time.DateTime)
	before, err := os.ReadFile(h.path("state/ledger.jsonl"))
	h.must(err)
	h.up = false
	h.must(os.RemoveAll(h.path("usb0")))
	h.now = h.now.Add(decide.ProofLife)
	r, err = h.guard()
	if err != nil || r.Decision.Rule != "R2" || r.Decision.Action != decide.Pass || h.asked.Load() != 1 || len(r.Trouble) > 0 {
		t.Fatalf("second: %+v, %v, the rows were asked %d times, %v", r.Decision, err, h.asked.Load(), r.Trouble)
	}
	after, err := os.ReadFile(h.path("state/ledger.jsonl"))
	h.must(err)
	if !bytes.Equal(before, after) {
		t.Error("the healthy path writes the ledger")
	}
	h.now = h.now.Add(time.Second)
	if r, err = h.guard(); err != nil || !strings.Contains(r.Decision.Warning, "last tried on the rows at "+looked) || h.asked.Load() != 2 {
		t.Fatalf("a second later: %+v, %v, the rows were asked %d times", r.Decision, err, h.asked.Load())
	}
}

// TestFirstStart is R4's last branch and law 5: the key is in every escrow, read back,
// before it is installed, and where one does not take it nothing is installed.
func TestFirstStart(t *testing.T) { bothListings(t, testFirstStart) }

func testFirstStart(t *testing.T, list listing) {
	h := list(newHost(t, nil, 2))
	r, err := h.guard()
	if err != nil || r.Decision.Action != decide.Make {
		t.Fatalf("%+v, %v", r.Decision, err)
	}
	for _, s := range agent.Copies(context.Background(), &h.Host).Escrows {
		if s.Err != nil || len(s.Copies) != 1 || s.Copies[0].Fingerprint != r.Decision.Key || s.Copies[0].Shelf != escrow.Current {
			t.Errorf("escrow %s: %+v", s.Name, s)
		}
	}
	t.Run("busy", func(t *testing.T) {
		h := list(newHost(t, nil, 1))
		hold(t, h.path("state/rotate"))
		r, err := h.guard()
		if err != nil || r.Decision.Action != decide.Doubt || h.content() != nil {
			t.Errorf("%+v, %v, a keyfile of %d bytes", r.Decision, err, len(h.content()))
		}
	})
	t.Run("full escrow", func(t *testing.T) {
		h := list(newHost(t, nil, 1))
		mount(t, h.path("usb0"), "size=4k,nr_inodes=5")
		h.must(h.Escrows[0].Writer.Init(context.Background()))
		fill(h, "usb0/fill")
		r, err := h.guard()
		if err != nil || r.Decision.Action != decide.Doubt || h.content() != nil {
			t.Errorf("%+v, %v, a keyfile of %d bytes", r.Decision, err, len(h.content()))
		}
	})
	for name, save := range map[string]error{
		"read-only escrow":                          fmt.Errorf("%w: of the first key", escrow.ErrReadOnly),
		"an escrow that does not answer to a save":  escrow.ErrTimeout,
		"an escrow that fails, nobody knows how":    errors.New("what its store said"),
		"a split, of one refuses and one is silent": errors.Join(escrow.ErrDenied, escrow.ErrTimeout),
	} {
		t.Run(name, func(t *testing.T) {
			h := list(newHost(t, nil, 1))
			store := trouble(h, 0)
			store.save = save
			if r, err := h.guard(); err != nil || r.Decision.Action != decide.Doubt || h.content() != nil {
				t.Fatalf("%+v, %v, a keyfile of %d bytes", r.Decision, err, len(h.content()))
			}
			kept, err := h.Keyfile.Kept()
			h.must(err)
			store.save = nil
			r, err := h.guard()
			if err != nil || r.Decision.Action != decide.Make || len(kept) != 1 || kept[0].Key.Fingerprint() != r.Decision.Key {
				t.Fatalf("%+v, %v, %d keys kept", r.Decision, err, len(kept))
			}
			if list := h.shelf(0, escrow.Current); !slices.Equal(list, []key.Fingerprint{r.Decision.Key}) {
				t.Errorf("the current shelf holds %v instead of %s", list, r.Decision.Key)
			}
		})
	}
	t.Run("an escrow that refuses, and what was kept here is taken away", func(t *testing.T) {
		h := list(newHost(t, nil, 1))
		store := trouble(h, 0)
		store.save = escrow.ErrDenied
		if r, err := h.guard(); err != nil || r.Decision.Action != decide.Doubt {
			t.Fatalf("%+v, %v", r.Decision, err)
		}
		store.save = nil
		h.must(os.RemoveAll(h.path("state/quarantine")))
		r, err := h.guard() // nobody knows of the first save that it has ended
		if list := h.shelf(0, escrow.Quarantine); err != nil || r.Decision.Action != decide.Make || !slices.Equal(list, []key.Fingerprint{r.Decision.Key}) {
			t.Fatalf("%+v, %v, in quarantine %v", r.Decision, err, list)
		}
		b, err := agent.Backup(t.Context(), &h.Host)
		h.must(err)
		s, err := agent.Status(t.Context(), &h.Host)
		h.must(err)
		if !b.Escrows[0].Waits.After(h.now) || !s.Escrows[0].Barred.Waits.After(h.now) {
			t.Errorf("it waits until %s, and by status until %s", b.Escrows[0].Waits, s.Escrows[0].Barred.Waits)
		}
	})
	t.Run("parts of it on too few stores", func(t *testing.T) {
		h := newHost(t, nil, 0)
		for _, usb := range []string{"usb1", "usb2"} {
			h.must(os.Mkdir(h.path(usb), 0o700))
			mount(t, h.path(usb), "")
		}
		splitOver(h)
		remount := func(flags uintptr) {
			for _, usb := range []string{"usb1", "usb2"} {
				h.must(unix.Mount("", h.path(usb), "", unix.MS_REMOUNT|flags, ""))
			}
		}
		remount(unix.MS_RDONLY)
		if r, err := h.guard(); err != nil || r.Decision.Action != decide.Doubt || h.content() != nil {
			t.Fatalf("%+v, %v, a keyfile of %d bytes", r.Decision, err, len(h.content()))
		}
		remount(0)
		if r, err := h.guard(); err != nil || r.Decision.Action != decide.Make || !slices.Equal(h.shelf(0, escrow.Current), []key.Fingerprint{r.Decision.Key}) {
			t.Errorf("%+v, %v, current %v", r.Decision, err, h.shelf(0, escrow.Current))
		}
	})
	t.Run("refused after it was stored", func(t *testing.T) {
		h := list(newHost(t, nil, 1))
		e := h.Escrows[0]
		h.Escrows[0].Writer = refusedLate{e.Writer}
		if r, err := h.guard(); err != nil || r.Decision.Action != decide.Doubt {
			t.Fatalf("%+v, %v", r.Decision, err)
		}
		h.Escrows[0] = e
		if r, err := h.guard(); err != nil || r.Decision.Action != decide.Make || !slices.Equal(h.shelf(0, escrow.Current), []key.Fingerprint{r.Decision.Key}) {
			t.Errorf("%+v, %v, current %v", r.Decision, err, h.shelf(0, escrow.Current))
		}
	})
	t.Run("one of two takes it", func(t *testing.T) {
		h := list(newHost(t, nil, 2))
		second := trouble(h, 1)
		second.save = fmt.Errorf("%w: any key", escrow.ErrDenied)
		for range 3 {
			if r, err := h.guard(); err != nil || r.Decision.Action != decide.Doubt || h.content() != nil {
				t.Fatalf("%+v, %v, a keyfile of %d bytes", r.Decision, err, len(h.content()))
			}
		}
		s, err := agent.Status(t.Context(), &h.Host)
		h.must(err)
		if len(s.Ailments) != 1 || s.Ailments[0].Ails != agent.AilsFirst || s.Health == agent.Green || !strings.Contains(s.Line, "usb1") {
			t.Errorf("%+v, %s", s.Ailments, s.Line)
		}
		second.save = nil
		r, err := h.guard()
		first := []key.Fingerprint{r.Decision.Key}
		if err != nil || r.Decision.Action != decide.Make || !slices.Equal(h.shelf(0, escrow.Current), first) || !slices.Equal(h.shelf(1, escrow.Current), first) {
			t.Errorf("%+v, %v, current %v and %v", r.Decision, err, h.shelf(0, escrow.Current), h.shelf(1, escrow.Current))
		}
	})
	t.Run("another key comes", func(t *testing.T) {
		brought := testKey("brought")
		for name, bring := range map[string]func(h *host){
			"by import": func(h *host) {
				h.save(0, escrow.Quarantine, brought)
				h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Saved, Fingerprint: brought.Fingerprint(), Escrow: "usb0", Shelf: string(escrow.Quarantine), Copy: "quarantine/by-import"}))
			},
			"by hand": func(h *host) {
				h.must(os.WriteFile(h.path("usb0/current/20251231T000000.000Z-old.key"), brought.UnsafeBytes(), 0o600))
			},
		} {
			t.Run(name, func(t *testing.T) {
				h := list(newHost(t, nil, 1))
				h.Escrows[0].Writer = &overtaken{h.Escrows[0].Writer, func() { bring(h) }}
				if r, err := h.guard(); err != nil || !h.holds(brought) {
					t.Errorf("%+v, %v", r.Decision, err)
				}
			})
		}
	})
	t.Run("it stands in quarantine from before", func(t *testing.T) {
		h := list(newHost(t, nil, 1))
		store := trouble(h, 0)
		store.save = escrow.ErrTimeout
		if r, err := h.guard(); err != nil || r.Decision.Action != decide.Doubt {
			t.Fatalf("%+v, %v", r.Decision, err)
		}
		kept, err := h.Keyfile.Kept()
		h.must(err)
		store.save = nil
		h.save(0, escrow.Quarantine, kept[0].Key)
		if r, err := h.guard(); err != nil || r.Decision.Action != decide.Make || !h.holds(kept[0].Key) {
			t.Errorf("%+v, %v", r.Decision, err)
		}
		h.wants(0, escrow.Current, kept[0].Key)
	})
	for name, split := range map[string]bool{"a store": false, "one of several stores of an escrow": true} {
		t.Run(name+" falls silent when it has taken the key", func(t *testing.T) {
			h := list(newHost(t, nil, 1))
			at := h.path("usb0")
			away := func() { h.must(os.Rename(at, at+"-away")) }
			w := h.Escrows[0].Writer
			h.Escrows[0].Writer, h.Escrows[0].Required = &storing{Writer: w, then: away}, false
			if split {
				s := splitOver(h)
				w, h.Escrows[0].Writer = s, &storingSplit{s, away}
			}
			if r, err := h.guard(); err != nil || r.Decision.Action != decide.Doubt || h.content() != nil { // law 6: somebody may have brought another key there
				t.Fatalf("%+v, %v, a keyfile of %d bytes", r.Decision, err, len(h.content()))
			}
			h.must(os.Rename(at+"-away", at))
			h.Escrows[0].Writer = w
			if r, err := h.guard(); err != nil || r.Decision.Action != decide.Make || !slices.Equal(h.shelf(0, escrow.Current), []key.Fingerprint{r.Decision.Key}) {
				t.Errorf("%+v, %v, current %v", r.Decision, err, h.shelf(0, escrow.Current))
			}
		})
	}
	t.Run("a person gives his word for another key, while the first of two takes it", func(t *testing.T) {
		h, brought := list(newHost(t, nil, 2)), testKey("brought")
		h.Escrows[0].Writer = &overtaken{h.Escrows[0].Writer, func() {
			h.must(h.Keyfile.Keep(brought, h.now))
			h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Accepted, Fingerprint: brought.Fingerprint(), Verdict: string(rows.Silent)}))
		}}
		if r, err := h.guard(); err != nil || !h.holds(brought) {
			t.Errorf("%+v, %v", r.Decision, err)
		}
		h.wants(1, escrow.Current)
	})
	t.Run("called off while it saves", func(t *testing.T) {
		h := list(newHost(t, nil, 1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		end, _ := ctx.Deadline()
		w := &timed{Writer: h.Escrows[0].Writer}
		h.Escrows[0].Writer = &overtaken{Writer: w, first: cancel}
		if r, err := agent.Guard(ctx, &h.Host, agent.GuardOptions{}); err != nil || r.Decision.Action != decide.Make {
			t.Fatalf("%+v, %v", r.Decision, err)
		}
		if !w.end.Equal(end) {
			t.Errorf("the save was to end at %s, and the start at %s (law 9)", w.end, end)
		}
		if list := h.shelf(0, escrow.Current); len(list) != 1 {
			t.Errorf("the current shelf holds %v", list)
		}
	})
	t.Run("damaged ledger", func(t *testing.T) {
		h := list(newHost(t, nil, 1))
		h.must(h.Escrows[0].Writer.Init(context.Background()))
		h.must(os.WriteFile(h.path("state/"+ledger.Name), []byte("what a disk makes of a line\n"), 0o600))
		for range 2 {
			r, err := h.guard()
			if err != nil || r.Decision.Action != decide.Doubt || len(h.content()) > 0 {
				t.Errorf("%+v, %v, a keyfile of %d bytes", r.Decision, err, len(h.content()))
			}
			// Whatever is written behind it does not tell what stood there.
			h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Parked}))
		}
	})
	t.Run("ledger cannot be written", func(t *testing.T) {
		h := list(newHost(t, nil, 1))
		mount(t, h.path("state"), "size=16k,nr_inodes=8")
		fill(h, "state/fill")
		r, err := h.guard()
		if err == nil && (r.Decision.Action != decide.Doubt || h.content() != nil) {
			t.Errorf("%+v, a keyfile of %d bytes", r.Decision, len(h.content()))
		}
	})
}

// TestLedgerGoes (law 9): a ledger that cannot be read any more keeps nobody from the key that it named.
func TestLedgerGoes(t *testing.T) {
	a := testKey("a")
	h := newHost(t, nil, 1)
	h.up = false
	h.save(0, escrow.Current, a)
	h.must(prove(&h.Host, a))
	h.Escrows[0].Reader = &outdated{h.Escrows[0].Reader, func() {
		h.must(os.Remove(h.path("state/ledger.jsonl")))
		h.must(os.Mkdir(h.path("state/ledger.jsonl"), 0o700))
	}}
	if r, err := h.guard(); err != nil || !h.holds(a) {
		t.Errorf("%+v, %v", r.Decision, err)
	}
}

// timed is an escrow that notes when its last save was to end, zero for never.
type timed struct {
	escrow.Writer
	end time.Time
}

func (w *timed) Save(ctx context.Context, s escrow.Shelf, k key.Key) (escrow.Copy, error) {
	w.end, _ = ctx.Deadline()
	return w.Writer.Save(ctx, s, k)
}

// storingSplit is a split where something is done after a save.
type storingSplit struct {
	*kinds.Split
	then func()
}

func (s *storingSplit) Save(ctx context.Context, shelf escrow.Shelf, k key.Key) (escrow.Copy, error) {
	defer s.then()
	return s.Split.Save(ctx, shelf, k)
}

// refusedLate is an escrow that stores, and says afterwards that it refuses.
type refusedLate struct{ escrow.Writer }

func (w refusedLate) Save(ctx context.Context, s escrow.Shelf, k key.Key) (escrow.Copy, error) {
	if _, err := w.Writer.Save(ctx, s, k); err != nil {
		return escrow.Copy{}, err
	}
	return escrow.Copy{}, escrow.ErrRateLimited
}

// TestOwnTrouble is law 9: a full disk under the state directory keeps no daemon from a
// keyfile of 32 bytes, and no right key from its place.
func TestOwnTrouble(t *testing.T) {
	db := server.Cluster(t).Database(t)
	h := newHost(t, db, 1)
	h.must(db.Upsert(testKey("a"), "tenant", "SECRET", []byte("v")))
	h.write(testKey("a").UnsafeBytes())
	h.backup()
	mount(t, h.path("state"), "size=16k,nr_inodes=12")
	for _, lock := range []string{"keyfile", "ledger", "rotate", "watch"} {
		h.must(os.WriteFile(h.path("state/"+lock), nil, 0o600))
	}
	fill(h, "state/fill")
	r, err := h.guard()
	if err != nil || r.Decision.Action != decide.Pass || len(r.Trouble) == 0 {
		t.Errorf("right key: %+v, %v, trouble %v", r.Decision, err, r.Trouble)
	}
	h.write(testKey("b").UnsafeBytes())
	r, err = h.guard()
	if err != nil || !h.holds(testKey("a")) || len(r.Trouble) == 0 {
		t.Errorf("foreign key: %+v, %v, trouble %v", r.Decision, err, r.Trouble)
	}
	if !h.somewhere(testKey("b")) {
		t.Error("the foreign key is gone (law 3)")
	}
	// The disk has room again: the next start brings the aside to the quarantine.
	h.must(os.Remove(h.path("state/fill")))
	if _, err := h.guard(); err != nil {
		t.Fatal(err)
	}
	if files, _ := filepath.Glob(h.path("state/quarantine/*" + string(testKey("b").Fingerprint()) + ".key")); len(files) != 1 {
		t.Errorf("the local quarantine holds %v", files)
	}
}

// TestRefutedDoesNotStart: where the rows have just refuted the keyfile's key, it does not
// pass because the right one cannot be put in its place, whatever keeps that out (laws 1
// and 2 above law 9).
func TestRefutedDoesNotStart(t *testing.T) {
	cluster := server.Cluster(t)
	a, b := testKey("a"), testKey("b")
	for name, hold := range map[string]func(h *host){
		"immutable":   func(h *host) { flag(h, "etc/secrets.key", unix.STATX_ATTR_IMMUTABLE) },
		"append-only": func(h *host) { flag(h, "etc/secrets.key", unix.STATX_ATTR_APPEND) },
		"its directory immutable": func(h *host) {
			flag(h, "etc", unix.STATX_ATTR_IMMUTABLE)
		},
		"its directory append-only": func(h *host) {
			flag(h, "etc", unix.STATX_ATTR_APPEND)
		},
		"bind mount": func(h *host) {
			h.must(unix.Mount(h.Keyfile.Path, h.Keyfile.Path, "", unix.MS_BIND, ""))
			h.t.Cleanup(func() { unix.Unmount(h.Keyfile.Path, unix.MNT_DETACH) })
		},
		"read-only": func(h *host) {
			mount(h.t, h.path("etc"), "size=64k")
			h.write(b.UnsafeBytes())
			h.must(unix.Mount("", h.path("etc"), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		},
		"no inodes": func(h *host) {
			mount(h.t, h.path("etc"), "size=64k,nr_inodes=2")
			h.write(b.UnsafeBytes())
		},
		"full": func(h *host) {
			mount(h.t, h.path("etc"), "size=8k")
			h.write(b.UnsafeBytes())
			fill(h, "etc/fill")
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := cluster.Database(t)
			h := newHost(t, db, 1)
			h.must(db.Upsert(a, "tenant", "SECRET", []byte("v")))
			h.write(a.UnsafeBytes())
			h.backup()
			h.write(b.UnsafeBytes())
			watch(h)
			hold(h)
			var told []agent.Start
			r, err := agent.Guard(t.Context(), &h.Host, agent.GuardOptions{Report: func(s agent.Start) { told = append(told, s) }})
			if told = slices.Compact(told); !slices.Equal(told, []agent.Start{agent.StartRight, agent.StartRefuted}) {
				t.Errorf("whoever cannot wait for the end is told %q", told)
			}
			if !errors.Is(err, agent.ErrNotPlaced) || r.Done || r.Decision.Action != decide.Install || r.Decision.Key != a.Fingerprint() {
				t.Errorf("%+v, %v", r.Decision, err)
			}
			if !h.holds(b) {
				t.Error("the keyfile is another one")
			}
			if left, err := filepath.Glob(h.path("etc/.keyguard-*")); err != nil || len(left) > 0 {
				t.Errorf("each start leaves %v, %v", left, err)
			}
		})
	}
}

// TestNotSynced: a key that is in place starts the daemon, and people are told that its
// directory could not be synced: what a power cut undoes, the next start does again.
func TestNotSynced(t *testing.T) {
	cluster := server.Cluster(t)
	a, b := testKey("a"), testKey("b")
	for name, stands := range map[string]func(h *host){
		"missing":     func(h *host) { h.must(os.Remove(h.Keyfile.Path)) },
		"another key": func(h *host) { h.write(b.UnsafeBytes()) },
	} {
		t.Run(name, func(t *testing.T) {
			db := cluster.Database(t)
			h := newHost(t, db, 1)
			h.must(db.Upsert(a, "tenant", "SECRET", []byte("v")))
			h.write(a.UnsafeBytes())
			h.backup()
			stands(h)
			durable.Disk = func(c durable.Change) error {
				if c.Do == durable.SyncNames && c.Path == h.path("etc") {
					return unix.EIO
				}
				return nil
			}
			r, err := h.guard()
			durable.Disk = nil
			if err != nil || !r.Done || r.Decision.Action != decide.Install || r.Decision.Key != a.Fingerprint() || !h.holds(a) {
				t.Errorf("%+v, done %v, %v", r.Decision, r.Done, err)
			}
			if !slices.ContainsFunc(r.Trouble, func(t agent.Trouble) bool {
				return errors.Is(t.Err, keyfile.ErrNotSynced) && errors.Is(t.Err, unix.EIO)
			}) {
				t.Errorf("trouble %v", r.Trouble)
			}
			if name == "another key" && !h.somewhere(b) {
				t.Error("the key that came out is gone (law 3)")
			}
		})
	}
}

// TestTightenedInAFileOfItsOwn: who may not change owners puts the same key there in a file of
// its own, and what was exposed is taken down, also where the copy of what came out failed.
func TestTightenedInAFileOfItsOwn(t *testing.T) {
	db := server.Cluster(t).Database(t)
	a := testKey("a")
	h := newHost(t, db, 1)
	h.upsert(a, "ONE")
	h.write(a.UnsafeBytes())
	h.backup()
	exposures := func() (n int) {
		record, err := h.Ledger.Read()
		h.must(err)
		for _, e := range record.Entries {
			if e.Event == ledger.Exposed {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		fails durable.Change
		want  error // of the trouble; nil for none
		fixed bool
	}{
		{durable.Change{Do: durable.SetMode, Path: h.Keyfile.Path}, nil, true},
		{durable.Change{Do: durable.SyncNames, Path: h.path("etc")}, keyfile.ErrNotSynced, true},
		{durable.Change{Do: durable.CreateFile, Path: h.Keyfile.Quarantine}, keyfile.ErrNotKept, true},
		{durable.Change{Do: durable.ExchangeNames, Path: h.path("etc")}, unix.EIO, false},
	} {
		h.write(a.UnsafeBytes())
		h.must(errors.Join(os.Chmod(h.Keyfile.Path, 0o644), os.Chown(h.Keyfile.Path, 1, -1)))
		h.must(os.RemoveAll(h.Keyfile.Quarantine))
		exposed := exposures()
		durable.Disk = func(d durable.Change) error {
			switch {
			case d.Do == durable.SetMode && d.Path == h.Keyfile.Path:
				return unix.EPERM
			case d.Do == c.fails.Do && strings.HasPrefix(d.Path, c.fails.Path):
				return unix.EIO
			}
			return nil
		}
		r, err := h.guard()
		durable.Disk = nil
		if err != nil || !r.Done || (r.Tightened != "") != c.fixed || !h.holds(a) || c.want == nil && len(r.Trouble) > 0 ||
			c.want != nil && !slices.ContainsFunc(r.Trouble, func(t agent.Trouble) bool { return errors.Is(t.Err, c.want) }) {
			t.Errorf("%s fails: tightened %q, trouble %v, %v", c.fails.Do, r.Tightened, r.Trouble, err)
		}
		if more := exposures() - exposed; (more == 1) != c.fixed {
			t.Errorf("%s fails: %d entries say that it was exposed", c.fails.Do, more)
		}
	}
}

// TestNothingToReadDoesNotStart: where no keyfile stands, an empty one is put there if that
// is all there is room for; where not even that can be made, the daemon does not start.
func TestNothingToReadDoesNotStart(t *testing.T) {
	cluster := server.Cluster(t)
	a := testKey("a")
	for _, c := range []struct {
		name, tmpfs string
		watched     bool
		up          bool // else nothing can be decided
		parked      bool
		err         error
	}{
		{name: "an empty file can be made", tmpfs: "size=8k", watched: true, up: true, parked: true},
		{name: "and no watcher lives", tmpfs: "size=8k", up: true, err: agent.ErrNotPlaced},
		{name: "none can be made", tmpfs: "size=8k,nr_inodes=2", watched: true, up: true, err: agent.ErrNotPlaced},
		{name: "none can be made, in doubt", tmpfs: "size=8k,nr_inodes=2", watched: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := cluster.Database(t)
			h := newHost(t, db, 1)
			h.must(db.Upsert(a, "tenant", "SECRET", []byte("v")))
			h.write(a.UnsafeBytes())
			h.backup()
			if h.up = c.up; !h.up {
				h.must(os.Rename(h.path("usb0"), h.path("away")))
				h.must(os.RemoveAll(h.path("state/ledger.jsonl")))
			}
			mount(t, h.path("etc"), c.tmpfs)
			fill(h, "etc/fill")
			if c.watched {
				watch(h)
			}
			r, err := h.guard()
			if !errors.Is(err, c.err) || r.Parked != c.parked {
				t.Errorf("parked %t, %+v, %v", r.Parked, r.Decision, err)
			}
			info, err := os.Stat(h.Keyfile.Path)
			if parked := err == nil && info.Size() == 0; parked != c.parked {
				t.Errorf("the keyfile: %v, %v", info, err)
			}
		})
	}
}

// watch plays a watcher that lives.
func watch(h *host) { hold(h.t, h.path("state/watch")) }

// flag is durabletest.Flag on a file of the host.
func flag(h *host, name string, flag int) { durabletest.Flag(h.t, h.path(name), flag) }

// TestReadOnlyStateFromTheBeginning: on a state directory in which no lock was ever made, and
// that is read-only, nobody holds one: the right key is put in place all the same.
func TestReadOnlyStateFromTheBeginning(t *testing.T) {
	db := server.Cluster(t).Database(t)
	a := testKey("a")
	h := newHost(t, db, 1)
	h.must(db.Upsert(a, "tenant", "SECRET", []byte("v")))
	_, err := h.Escrows[0].Writer.Save(t.Context(), escrow.Current, a)
	h.must(err)
	mount(t, h.path("state"), "ro")
	if r, err := h.guard(); err != nil || r.Decision.Action != decide.Install || !h.holds(a) {
		t.Errorf("%+v, %v", r.Decision, err)
	}
}

// TestReadOnlyState: where nothing can be written to the state directory, nothing says that
// somebody else is at work there: the rotation that stands open is decided by the rows.
func TestReadOnlyState(t *testing.T) {
	db := server.Cluster(t).Database(t)
	a, b := testKey("a"), testKey("b")
	for _, locks := range []bool{true, false} {
		h := newHost(t, db, 1)
		h.must(db.Upsert(a, "tenant", "SECRET", []byte("v")))
		mount(t, h.path("state"), "")
		h.write(a.UnsafeBytes())
		h.must(h.Ledger.Append(ledger.Entry{Event: ledger.RotationOpen, Old: a.Fingerprint(), Fingerprint: b.Fingerprint()}))
		if locks {
			h.must(os.WriteFile(h.path("state/rotate"), nil, 0o600))
		}
		h.must(unix.Mount("", h.path("state"), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		r, err := h.guard()
		if err != nil || r.Decision.Action != decide.Pass || r.Decision.Key != a.Fingerprint() || len(r.Trouble) == 0 {
			t.Errorf("locks %t: %+v, %v", locks, r.Decision, err)
		}
	}
}

// TestOwnCopyOfAReadOnlyState: what is saved while the ledger cannot be told of it is no
// stranger's afterwards: it goes to quarantine, and is current when the disk is well.
func TestOwnCopyOfAReadOnlyState(t *testing.T) {
	db := server.Cluster(t).Database(t)
	a, b := testKey("a"), testKey("b")
	h := newHost(t, db, 1)
	mount(t, h.path("state"), "")
	h.upsert(a, "SECRET")
	h.write(a.UnsafeBytes())
	h.backup()
	h.must(db.Admin("delete from secrets"))
	h.upsert(b, "SECRET")
	h.write(b.UnsafeBytes())
	h.must(unix.Mount("", h.path("state"), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	if r, err := agent.Backup(t.Context(), &h.Host); err != nil || r.Escrows[0].Shelf != escrow.Quarantine || len(r.Trouble) == 0 {
		t.Errorf("%+v, %v", r, err)
	}
	h.must(unix.Mount("", h.path("state"), "", unix.MS_REMOUNT, ""))
	if r, err := agent.Backup(t.Context(), &h.Host); err != nil || r.Escrows[0].Shelf != escrow.Current || r.Escrows[0].Alarm {
		t.Errorf("%+v, %v", r, err)
	}
	// Nothing ails but that the state directory of this test is in memory.
	if r, err := agent.Status(t.Context(), &h.Host); err != nil || r.Escrows[0].Alarm != "" || len(r.Ailments) != 1 || r.Ailments[0].Ails != agent.AilsForgets {
		t.Errorf("%s: %v, %v", r.Health, r.Ailments, err)
	}
}

// TestRotationLock waits for a rotation under way, and says so when it does not end.
func TestRotationLock(t *testing.T) {
	db := server.Cluster(t).Database(t)
	h := newHost(t, db, 1)
	a, b := testKey("a"), testKey("b")
	h.must(db.Upsert(a, "tenant", "SECRET", []byte("v")))
	h.write(a.UnsafeBytes())
	h.must(h.Ledger.Append(ledger.Entry{Event: ledger.RotationOpen, Old: a.Fingerprint(), Fingerprint: b.Fingerprint()}))
	held := hold(t, h.path("state/rotate"))
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := agent.Guard(ctx, &h.Host, agent.GuardOptions{}); !errors.Is(err, agent.ErrBusy) {
		t.Fatalf("while the lock is held: %v", err)
	}
	held.Close()
	r, err := h.guard()
	if err != nil || r.Decision.Rule != "R1" || r.Decision.Settle != decide.SettleOld {
		t.Errorf("%+v, %v", r.Decision, err)
	}
	standing, err := h.Ledger.Standing()
	h.must(err)
	if standing.Rotation != nil || standing.Known != a.Fingerprint() {
		t.Errorf("the ledger says %+v", standing)
	}
}

// TestRefutedIsNoCurrentCopy is law 4 at its core: a key that opens no row is kept, and
// does not stand on a current shelf, even on an empty one.
func TestRefutedIsNoCurrentCopy(t *testing.T) { bothListings(t, testRefutedIsNoCurrentCopy) }

func testRefutedIsNoCurrentCopy(t *testing.T, list listing) {
	db := server.Cluster(t).Database(t)
	h := list(newHost(t, db, 1))
	h.must(db.Upsert(testKey("a"), "tenant", "SECRET", []byte("v")))
	h.write(testKey("b").UnsafeBytes())
	b, err := agent.Backup(context.Background(), &h.Host)
	if err != nil || b.Escrows[0].Err != nil || b.Escrows[0].Shelf != escrow.Quarantine || b.Escrows[0].Why == "" {
		t.Errorf("%+v, %v", b, err)
	}
}

// TestAlarm is law 4's second half: where another host writes to the same place, only
// quarantine is written, until a person accepts.
func TestAlarm(t *testing.T) { bothListings(t, testAlarm) }

func testAlarm(t *testing.T, list listing) {
	ctx := context.Background()
	db := server.Cluster(t).Database(t)
	h := list(newHost(t, db, 1))
	a, other := testKey("a"), testKey("other")
	h.must(db.Upsert(a, "tenant", "SECRET", []byte("v")))
	h.write(a.UnsafeBytes())
	shelfOf := func() escrow.Shelf {
		t.Helper()
		b, err := agent.Backup(ctx, &h.Host)
		if err != nil || b.Escrows[0].Err != nil {
			t.Fatalf("%+v, %v", b, err)
		}
		return b.Escrows[0].Shelf
	}
	if s := shelfOf(); s != escrow.Current {
		t.Fatalf("first: %s", s)
	}
	if _, err := h.Escrows[0].Writer.Save(ctx, escrow.Current, other); err != nil {
		t.Fatal(err)
	}
	if s := shelfOf(); s != escrow.Quarantine {
		t.Errorf("another host's copy is newest, and ours went to %s", s)
	}
	status, err := agent.Status(ctx, &h.Host)
	h.must(err)
	if status.Health != agent.Lagging || !strings.Contains(status.Line, "another host") {
		t.Errorf("status: %s: %s", status.Health, status.Line)
	}
	yes := func(agent.AcceptResult) (bool, error) { return true, nil }
	if r, err := agent.Accept(ctx, &h.Host, agent.AcceptOptions{Person: "olga", Confirm: yes}); err != nil || len(r.Adopted) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	if s := shelfOf(); s != escrow.Current {
		t.Errorf("after accept: %s", s)
	}
	// An empty ledger raises no alarm.
	if _, err := h.Escrows[0].Writer.Save(ctx, escrow.Current, other); err != nil {
		t.Fatal(err)
	}
	h.must(os.Remove(h.path("state/ledger.jsonl")))
	if s := shelfOf(); s != escrow.Current {
		t.Errorf("with an empty ledger: %s", s)
	}
}

func hold(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	return f
}

func mount(t testing.TB, dir, options string) {
	t.Helper()
	if err := unix.Mount("keyguard-test", dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("this test mounts a tmpfs, as root: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// fill takes all the room that a file system has.
func fill(h *host, name string) {
	f, err := os.OpenFile(h.path(name), os.O_CREATE|os.O_WRONLY, 0o600)
	h.must(err)
	defer f.Close()
	for {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return
		}
	}
}
