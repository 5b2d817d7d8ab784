package hooks_test

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/secretmanager"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/hooks"
)

// herd is many hosts of one project, each with a real keyguard, a Secret Manager with the
// published quotas, and virtual time, which is that of the next host to start.
type herd struct {
	t     *testing.T
	dir   string
	store *secretmanager.Server
	at    atomic.Int64 // the time, in ns since 1970: a store may still end a call whose caller has gone
	hosts []*sheep
	queue []*sheep
}

// sheep is one host.
type sheep struct {
	n      int
	dir    string
	right  key.Key // opens its rows
	next   time.Time
	starts int
	done   time.Time // its key is in place since
}

func (h *herd) Len() int           { return len(h.queue) }
func (h *herd) Less(i, j int) bool { return h.queue[i].next.Before(h.queue[j].next) }
func (h *herd) Swap(i, j int)      { h.queue[i], h.queue[j] = h.queue[j], h.queue[i] }
func (h *herd) Push(x any)         { h.queue = append(h.queue, x.(*sheep)) }
func (h *herd) Pop() any {
	last := h.queue[len(h.queue)-1]
	h.queue = h.queue[:len(h.queue)-1]
	return last
}

// oneKey is a host's table: every row is under one key.
type oneKey struct{ right key.Fingerprint }

func (o oneKey) Prove(_ context.Context, keys ...key.Key) rows.Answer {
	a := rows.Answer{State: rows.Answered, Counts: rows.Counts{Legacy: 100}}
	for _, k := range keys {
		p := rows.Proof{Fingerprint: k.Fingerprint(), Verdict: rows.Refuted, Checked: 100}
		if p.Fingerprint == o.right {
			p.Verdict, p.Opened = rows.Opens, 100
		}
		a.Proofs = append(a.Proofs, p)
	}
	return a
}

func (oneKey) Rewrite(context.Context, rows.RewriteOptions) (rows.RewriteResult, error) {
	return rows.RewriteResult{}, errors.New("nobody rotates here")
}
func (oneKey) MayRewrite(context.Context) error                    { return nil }
func (oneKey) OtherClients(context.Context) ([]rows.Client, error) { return nil, nil }
func (oneKey) Close()                                              {}

func (h *herd) now() time.Time { return time.Unix(0, h.at.Load()).UTC() }

// newHerd makes n hosts that have saved their key; of each tenth an older one opens the
// rows, which come from an old dump.
func newHerd(t *testing.T, n int, dumps bool) *herd {
	t.Helper()
	h := &herd{t: t, dir: t.TempDir()}
	h.at.Store(time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC).UnixNano())
	var err error
	h.store, err = secretmanager.Start(secretmanager.Options{Anonymous: true, Now: h.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.store.Close)
	for i := range n {
		s := &sheep{n: i, dir: filepath.Join(h.dir, strconv.Itoa(i)), right: key.Generate()}
		for _, d := range []string{"etc", "state", "run"} {
			if err := os.MkdirAll(filepath.Join(s.dir, d), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		newest := s.right
		if dumps && i%10 == 0 {
			h.store.Put(s.secret(), s.right.UnsafeBytes())
			newest = key.Generate()
		}
		h.store.Put(s.secret(), newest.UnsafeBytes())
		h.store.Put(s.secret()+"-quarantine", newest.UnsafeBytes())
		h.hosts = append(h.hosts, s)
	}
	h.store.Reset()
	return h
}

func (s *sheep) secret() string { return fmt.Sprintf("projects/my-project/secrets/host-%05d", s.n) }

// host is one host as its keyguard has it. What is returned with it ends its connections.
func (h *herd) host(s *sheep) (*agent.Host, func()) {
	h.t.Helper()
	g, err := kinds.NewGCP(kinds.GCPOptions{Name: "gcp", Project: "my-project", Secret: filepath.Base(s.secret()),
		Endpoint: h.store.Addr(), Plaintext: true, Timeout: time.Minute})
	if err != nil {
		h.t.Fatal(err)
	}
	state := filepath.Join(s.dir, "state")
	return &agent.Host{
		Keyfile: keyfile.File{Path: filepath.Join(s.dir, "etc/secrets.key"), Owner: os.Getuid(), Group: os.Getgid(),
			Quarantine: filepath.Join(state, "quarantine"), Locks: state},
		Ledger:   ledger.Open(state, ledger.Options{Host: strconv.Itoa(s.n), Now: h.now}),
		StateDir: state,
		Now:      h.now,
		OpenRows: func(context.Context, rows.Options) (agent.Rows, error) { return oneKey{s.right.Fingerprint()}, nil },
		Escrows:  []agent.Escrow{{Reader: g, Writer: g, Required: true}},
	}, func() { g.Close() }
}

// start is one start of the daemon on one host, and tells whether its key is in place then.
func (h *herd) start(s *sheep) bool {
	h.t.Helper()
	a, end := h.host(s)
	defer end()
	r, err := hooks.Prestart(h.t.Context(), a, hooks.PrestartOptions{Budget: time.Minute, RunDir: filepath.Join(s.dir, "run"), Configuration: "c",
		Clock: func() (string, time.Duration) { return "boot", time.Duration(h.at.Load()) }})
	if err != nil {
		h.t.Fatalf("host %d: %v", s.n, err)
	}
	s.starts++
	switch r.Decision.Action {
	case decide.Pass, decide.Install:
		if r.Decision.Key != "" && r.Decision.Key != s.right.Fingerprint() {
			h.t.Fatalf("host %d got key %s", s.n, r.Decision.Key)
		}
		return true
	case decide.Doubt:
		return false
	}
	h.t.Fatalf("host %d: %s, %s", s.n, r.Decision.Action, r.Decision.Reason)
	return false
}

// all starts all hosts within a minute, and each again every half a minute until its key
// is in place. It returns how long that took until the last one had it.
func (h *herd) all() time.Duration {
	h.t.Helper()
	begun := h.now()
	for i, s := range h.hosts {
		s.done, s.starts = time.Time{}, 0
		s.next = begun.Add(time.Duration(i) * 30 * time.Second / time.Duration(len(h.hosts)))
		heap.Push(h, s)
	}
	var last time.Time
	for h.Len() > 0 {
		s := heap.Pop(h).(*sheep)
		h.at.Store(s.next.UnixNano())
		if h.start(s) {
			s.done, last = h.now(), h.now()
			continue
		}
		if h.now().Sub(begun) > 24*time.Hour {
			h.t.Fatalf("host %d has no key after a day and %d starts", s.n, s.starts)
		}
		s.next = h.now().Add(30 * time.Second)
		heap.Push(h, s)
	}
	return last.Sub(begun)
}

// TestHerd: all hosts of one project start together. Where they are healthy, the store hears
// nothing. Where all were rebuilt, each asks once, for the newest copy. Where that one opens
// nothing, the lists' quota of 600 a minute is what it takes, and they do not get in each
// other's way.
func TestHerd(t *testing.T) {
	n := 60
	if testing.Short() {
		n = 20
	}
	if all, err := strconv.Atoi(os.Getenv("KEYGUARD_FLEET")); err == nil {
		n = all
	}
	t.Run("rebuilt", func(t *testing.T) {
		t.Parallel()
		h := newHerd(t, n, false)
		took := h.all()
		calls := h.store.Calls()
		t.Logf("%d hosts rebuilt: all have their key after %s, calls %v", n, took, calls)
		if len(calls) != 1 || calls["AccessSecretVersion"] != n || took > time.Minute {
			t.Errorf("it took %s, and calls %v, not one access a host", took, calls)
		}
		h.store.Reset()
		h.at.Add(int64(time.Hour))
		h.all()
		if calls := h.store.Calls(); len(calls) != 0 {
			t.Errorf("%d healthy hosts were rebooted, and the store was asked: %v", n, calls)
		}
		t.Logf("%d healthy hosts rebooted: 0 calls", n)
	})
	t.Run("from old dumps", func(t *testing.T) {
		t.Parallel()
		h := newHerd(t, n, true)
		took := h.all()
		calls := h.store.Calls()
		old := (n + 9) / 10
		t.Logf("%d hosts rebuilt, %d from an old dump: all have their key after %s, calls %v", n, old, took, calls)
		if calls["ListSecretVersions"] < 2*old || calls["AccessSecretVersion"] < n+old || took > time.Duration(2*old/600+10)*10*time.Minute {
			t.Errorf("it took %s, and calls %v", took, calls)
		}
	})
	t.Run("from old dumps, while others use the quota up", func(t *testing.T) {
		t.Parallel()
		h := newHerd(t, 40, true)
		h.store.Spend("my-project", "read", 600)
		took := h.all()
		t.Logf("40 hosts: all have their key after %s, calls %v", took, h.store.Calls())
		for _, s := range h.hosts {
			if most := 60; s.starts > most {
				t.Errorf("host %d has started %d times", s.n, s.starts)
			}
		}
		if took < 30*time.Second {
			t.Errorf("it took %s, and the quota was used up", took)
		}
	})
}

// TestHourlyLook: a watcher that looks at a store each hour takes one access where its copy
// is still the newest one, and the listing, of which a project has 600 a minute, only where
// another is.
func TestHourlyLook(t *testing.T) {
	t.Parallel()
	h := newHerd(t, 1, false)
	s := h.hosts[0]
	h.all()
	a, end := h.host(s)
	defer end()
	if _, err := agent.SaveDue(t.Context(), a, "gcp"); err != nil {
		t.Fatal(err)
	}
	look := func() (saved []agent.SaveResult, calls map[string]int) {
		t.Helper()
		h.store.Reset()
		saved, err := agent.Revisit(t.Context(), a, "gcp")
		if err != nil {
			t.Fatal(err)
		}
		return saved, h.store.Calls()
	}
	if saved, calls := look(); len(saved) != 0 || len(calls) != 1 || calls["AccessSecretVersion"] != 1 {
		t.Errorf("all is well: %v, saved %v", calls, saved)
	}
	newest := len(h.store.Versions(s.secret()))
	if err := h.store.Set(s.secret(), newest, secretmanagerpb.SecretVersion_DISABLED); err != nil {
		t.Fatal(err)
	}
	if saved, calls := look(); calls["ListSecretVersions"] == 0 || len(saved) != 1 || len(h.store.Versions(s.secret())) != newest+1 {
		t.Errorf("disabled: %v, saved %v", calls, saved)
	}
	if saved, calls := look(); len(saved) != 0 || len(calls) != 1 {
		t.Errorf("all is well again: %v, saved %v", calls, saved)
	}
	h.store.Put(s.secret(), s.right.UnsafeBytes()) // the same key, and by somebody else
	if _, calls := look(); calls["ListSecretVersions"] != 2 {
		t.Errorf("another's copy on top: %v", calls)
	}
}
