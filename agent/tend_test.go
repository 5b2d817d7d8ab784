package agent_test

import (
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// TestTendParksBlind (law 2): where nobody can tell whether a rotation is under way the daemon,
// which may read its key at any moment, finds an empty file all the same. Nothing else is
// touched, and the lock is not said to be held.
func TestTendParksBlind(t *testing.T) {
	db := server.Cluster(t).Database(t)
	for _, test := range []struct {
		name  string
		spoil func(h *host)
	}{
		{"the state directory is a file", func(h *host) {
			h.must(os.RemoveAll(h.StateDir))
			h.must(os.WriteFile(h.StateDir, nil, 0o600))
		}},
		{"the lock is a link", func(h *host) { h.must(os.Symlink("elsewhere", h.path("state/"+lock.Rotate))) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, db, 1)
			test.spoil(h)
			r, err := agent.Tend(t.Context(), &h.Host, agent.TendOptions{Park: true})
			if err == nil || !r.Parked || !r.Waiting || r.Withheld != "" || len(h.content()) != 0 {
				t.Errorf("%+v, %v", r, err)
			}
			h.write([]byte("no key"))
			if r, err = agent.Tend(t.Context(), &h.Host, agent.TendOptions{Park: true}); err == nil || r.Withheld != "" || string(h.content()) != "no key" {
				t.Errorf("%+v, %v, %q", r, err, h.content())
			}
			h.must(os.Remove(h.Keyfile.Path))
			if _, err = agent.Tend(t.Context(), &h.Host, agent.TendOptions{}); err == nil {
				t.Error("no error")
			}
			if _, err = os.Lstat(h.Keyfile.Path); err == nil {
				t.Error("parked though the daemon has read its key")
			}
		})
	}
}

// TestTendTellsWhatOthersCouldRead: that a key took the place of a file that held it, and that
// others could read, is an exposure all the same.
func TestTendTellsWhatOthersCouldRead(t *testing.T) {
	a := testKey("a")
	for mode, loose := range map[os.FileMode]string{0o400: "", 0o644: "mode 0644"} {
		h := newHost(t, nil, 1)
		h.must(prove(&h.Host, a))
		h.must(h.Keyfile.Keep(a, h.now))
		h.write([]byte(base64.StdEncoding.EncodeToString(a.UnsafeBytes())))
		h.must(os.Chmod(h.Keyfile.Path, mode))
		r, err := agent.Tend(t.Context(), &h.Host, agent.TendOptions{})
		if err != nil || r.Installed != a.Fingerprint() || r.Tightened != loose {
			t.Errorf("%04o: %+v, %v", mode, r, err)
		}
		record, err := h.Ledger.Read()
		h.must(err)
		last := record.Entries[len(record.Entries)-1]
		if told := last.Event == ledger.Exposed && last.Fingerprint == a.Fingerprint() && last.Reason == loose; told != (loose != "") {
			t.Errorf("%04o: %+v", mode, last)
		}
	}
}

// TestTendSettlesUnderTheLock (R1): whoever finds a rotation open, also one that a staged key alone
// gives away, keeps others from beginning one until it is closed: it would be closed in the
// middle, and its staged key put away.
func TestTendSettlesUnderTheLock(t *testing.T) {
	a, b := testKey("a"), testKey("b")
	for name, entries := range map[string][]ledger.Entry{
		"a staged key alone":          nil,
		"a rotation that was stopped": {{Event: ledger.RotationOpen, Old: a.Fingerprint(), Fingerprint: b.Fingerprint()}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, nil, 1)
			h.write(a.UnsafeBytes())
			h.must(h.Ledger.Append(entries...))
			h.must(os.WriteFile(h.Keyfile.Path+".next", b.UnsafeBytes(), 0o400))
			table := toldRows{state: rows.Answered, opens: map[key.Fingerprint]int64{a.Fingerprint(): 1}, total: 10}
			h.OpenRows = func(context.Context, rows.Options) (agent.Rows, error) { return table, nil }
			asked := false
			h.Escrows[0].Reader = &listening{h.Escrows[0].Reader, func() {
				asked = true
				l, err := lock.Try(h.StateDir, lock.Rotate)
				if _, held := errors.AsType[lock.ErrBusy](err); !held {
					t.Errorf("another rotation may begin: %v", err)
				}
				l.Release()
			}}
			r, err := agent.Tend(t.Context(), &h.Host, agent.TendOptions{Prove: true})
			h.must(err)
			if !asked || r.Withheld != "" || r.Decision.Settle != decide.SettleOld {
				t.Errorf("asked %t: %+v", asked, r)
			}
			if _, err := os.Lstat(h.Keyfile.Path + ".next"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the staged key: %v", err)
			}
			l, err := lock.Try(h.StateDir, lock.Rotate)
			h.must(err)
			l.Release()
		})
	}
}

// TestTendSettlesWhatItLeaves (R1): where no row is under either key of a rotation, and the key that
// belongs there is not put in the place of one that the daemon has read, the rotation is closed
// all the same: a person who would accept the key, or repair the rows, is refused while it is open.
func TestTendSettlesWhatItLeaves(t *testing.T) {
	a, b, c := testKey("a"), testKey("b"), testKey("c")
	h := newHost(t, nil, 1)
	h.write(a.UnsafeBytes())
	h.must(prove(&h.Host, a))
	h.must(h.Ledger.Append(ledger.Entry{Event: ledger.RotationOpen, Old: a.Fingerprint(), Fingerprint: b.Fingerprint()}))
	h.must(h.Keyfile.Keep(b, h.now))
	h.must(h.Keyfile.Keep(c, h.now))
	table := toldRows{state: rows.Answered, opens: map[key.Fingerprint]int64{c.Fingerprint(): 9}, total: 10}
	h.OpenRows = func(context.Context, rows.Options) (agent.Rows, error) { return table, nil }
	for look, known := range []key.Fingerprint{"", c.Fingerprint()} {
		r, err := agent.Tend(t.Context(), &h.Host, agent.TendOptions{Prove: true, DaemonRead: true})
		h.must(err)
		if r.Withheld == "" || r.Done || r.Decision.Action != decide.Install || r.Decision.Key != c.Fingerprint() || !h.holds(a) {
			t.Errorf("look %d: %+v", look, r)
		}
		standing, err := h.Ledger.Standing()
		h.must(err)
		if standing.Rotation != nil || standing.Known != known {
			t.Errorf("look %d: the ledger says %+v", look, standing)
		}
	}
	if r, err := agent.Accept(t.Context(), &h.Host, agent.AcceptOptions{Confirm: yes}); err != nil {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestTendLooksAgainUnderTheLock: a rotation that ends while the watcher looks is not closed once
// more on what was seen before: the key that it made known would be so no longer.
func TestTendLooksAgainUnderTheLock(t *testing.T) {
	a, b := testKey("a"), testKey("b")
	h := newHost(t, nil, 1)
	h.write(b.UnsafeBytes())
	h.must(os.WriteFile(h.Keyfile.Path+".next", a.UnsafeBytes(), 0o400)) // exchanged, and not put away yet
	now, ended := h.Now, false
	h.Host.Now = func() time.Time {
		if !ended { // between what it sees beside the keyfile and what it reads in the ledger
			ended = true
			h.must(h.Keyfile.KeepNext(h.now))
			h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Rotated, Fingerprint: b.Fingerprint(), Old: a.Fingerprint()},
				ledger.Entry{Event: ledger.Proven, Fingerprint: b.Fingerprint(), Verdict: string(rows.Opens), Checked: 1, Opened: 1}))
		}
		return now()
	}
	r, err := agent.Tend(t.Context(), &h.Host, agent.TendOptions{Prove: true})
	h.must(err)
	standing, err := h.Ledger.Standing()
	h.must(err)
	if r.Decision.Settle != decide.SettleNothing || standing.Known != b.Fingerprint() {
		t.Errorf("%+v, and known is %q", r.Decision, standing.Known)
	}
}

// lateStore answers when the keyfile's place is taken.
type lateStore struct {
	escrow.Reader
	path string
}

func (s lateStore) List(ctx context.Context) ([]escrow.Copy, error) {
	for {
		if _, err := os.Lstat(s.path); err == nil {
			return s.Reader.List(ctx)
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// lockedRows are those of a table that somebody has locked until they were asked in vain.
type lockedRows struct {
	agent.Rows
	unlock func()
}

func (r lockedRows) Prove(ctx context.Context, keys ...key.Key) rows.Answer {
	defer r.unlock()
	return r.Rows.Prove(ctx, keys...)
}

// TestTendParksWhileRowsHang (law 2): the same while Postgres takes its time.
func TestTendParksWhileRowsHang(t *testing.T) {
	a := testKey("a")
	h := newHost(t, server.Cluster(t).Database(t), 1)
	h.upsert(a, "ONE")
	h.must(save(&h.Host, a))
	locks, err := h.db.Session()
	h.must(err)
	unlock := sync.OnceFunc(func() { h.must(locks.Close()) })
	t.Cleanup(unlock)
	for _, sql := range []string{"begin", "lock table secrets in access exclusive mode"} {
		_, err := locks.Exec(sql)
		h.must(err)
	}
	open := h.OpenRows
	h.OpenRows = func(ctx context.Context, o rows.Options) (agent.Rows, error) {
		r, err := open(ctx, o)
		return lockedRows{r, unlock}, err
	}
	r, err := agent.Tend(t.Context(), &h.Host, agent.TendOptions{Park: true, Prove: true})
	if err != nil || r.Parked || r.Installed != a.Fingerprint() || string(h.content()) != string(a.UnsafeBytes()) {
		t.Errorf("%+v, %v", r, err)
	}
	record, err := h.Ledger.Read()
	h.must(err)
	if !slices.ContainsFunc(record.Entries, func(e ledger.Entry) bool { return e.Event == ledger.Parked }) {
		t.Errorf("%+v", record.Entries)
	}
}

// TestTendParksMeanwhile (law 2): while a store takes its time the daemon, which may read its
// key at any moment, finds an empty file; and the key, when the store has answered.
func TestTendParksMeanwhile(t *testing.T) {
	a := testKey("a")
	h := newHost(t, nil, 1)
	h.must(save(&h.Host, a))
	h.Escrows[0].Reader = lateStore{h.Escrows[0].Reader, h.Keyfile.Path}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := agent.Tend(ctx, &h.Host, agent.TendOptions{Park: true})
	if err != nil || r.Parked || r.Waiting || r.Installed != a.Fingerprint() || string(h.content()) != string(a.UnsafeBytes()) {
		t.Errorf("%+v, %v", r, err)
	}
	record, err := h.Ledger.Read()
	h.must(err)
	if n := len(record.Entries); n < 2 || record.Entries[n-2].Event != ledger.Parked || record.Entries[n-1].Event != ledger.Installed {
		t.Errorf("%+v", record.Entries)
	}
}

// TestKeyfileIsKeptAgain: a key that was copied to the local quarantine before is copied again where
// somebody has taken that away since: it may be the last place that has it (law 3).
func TestKeyfileIsKeptAgain(t *testing.T) {
	h := newHost(t, nil, 0)
	a := testKey("a")
	h.write(a.UnsafeBytes())
	f, err := agent.KeepKeyfile(&h.Host, "")
	h.must(err)
	for what, take := range map[string]func() error{
		"all of it": func() error { return os.RemoveAll(h.Keyfile.Quarantine) },
		"that key, and not another": func() error {
			h.must(h.Keyfile.Keep(testKey("b"), h.now))
			files, err := filepath.Glob(h.Keyfile.Quarantine + "/*" + string(f) + "*")
			h.must(err)
			return os.Remove(files[0])
		},
	} {
		h.must(take())
		if again, err := agent.KeepKeyfile(&h.Host, f); err != nil || again != f {
			t.Errorf("%s: %s, %v", what, again, err)
		}
		kept, err := h.Keyfile.Kept()
		if err != nil || !slices.ContainsFunc(kept, func(k keyfile.Kept) bool { return k.Key.Fingerprint() == f }) {
			t.Errorf("%s: %+v, %v", what, kept, err)
		}
	}
}

// TestTendParksAFirstKey: where nothing stands in the way of a first key and the daemon is about to
// look for one, it finds an empty file, and the next look has a key in its place that an escrow
// has, too.
func TestTendParksAFirstKey(t *testing.T) {
	h := newHost(t, server.Cluster(t).Database(t), 1)
	starting := agent.TendOptions{Prove: true, Park: true, Starting: true}
	r, err := agent.Tend(t.Context(), &h.Host, starting)
	if err != nil || !r.Parked || !r.Waiting || r.Decision.Action != decide.Make || r.Withheld != "an empty keyfile is in place, and the next look makes the first key" {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = agent.Tend(t.Context(), &h.Host, starting)
	if err != nil || r.Installed == "" || r.Installed != r.Decision.Key {
		t.Errorf("%+v, %v", r, err)
	}
	if copies, err := h.Escrows[0].Reader.List(t.Context()); err != nil || len(copies) != 1 || copies[0].Fingerprint != r.Installed || copies[0].Shelf != escrow.Current {
		t.Errorf("%+v, %v", copies, err)
	}
	// One that has read its key, or none, or may have, and one of which nothing tells that it was
	// started, are left to make it at their next start.
	for _, opts := range []agent.TendOptions{{Prove: true, DaemonRead: true}, {Prove: true, DaemonRead: true, Starting: true}, {Prove: true, Park: true}} {
		h := newHost(t, server.Cluster(t).Database(t), 1)
		if r, err := agent.Tend(t.Context(), &h.Host, opts); err != nil || r.Parked || r.Installed != "" || r.Decision.Action != decide.Make {
			t.Errorf("%+v: %+v, %v", opts, r, err)
		}
	}
}
