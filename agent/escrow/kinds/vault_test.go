package kinds_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest"
	fake "github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/vault"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// safe is a fake Vault with an engine at team/kv, and an escrow's options for it.
type safe struct {
	*fake.Server
	kv int
	o  kinds.VaultOptions
}

const safeMount, safePath = "team/kv", "hosts/h1/master"

// startSafe lets the escrow do what the README's policy allows, and no more.
func startSafe(t testing.TB, kv int, o fake.Options) *safe {
	t.Helper()
	s, err := fake.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	s.Mount(safeMount, kv)
	s.Policy("keyguard", fake.Keyguard(kv, safeMount, safePath))
	return &safe{s, kv, kinds.VaultOptions{
		Name: "vault", Address: s.URL(), Mount: safeMount, Path: safePath, Namespace: o.Namespace,
		TokenFile: secretFile(t, "token", s.Token(fake.TokenOptions{Policies: []string{"keyguard"}})), Timeout: 5 * time.Second,
	}}
}

// secretFile makes a file as an editor leaves it: with a newline.
func secretFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *safe) open(t testing.TB) *kinds.Vault {
	t.Helper()
	e, err := kinds.NewVault(s.o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// ready opens an initialised place.
func (s *safe) ready(t testing.TB) *kinds.Vault {
	t.Helper()
	e := s.open(t)
	if err := e.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e
}

// put writes the value as a person does.
func (s *safe) put(t testing.TB, value any) {
	t.Helper()
	if err := s.Put(safeMount, safePath, map[string]any{"value": value}); err != nil {
		t.Fatal(err)
	}
}

// place is a fake for the conformance suite.
func (s *safe) place() escrowtest.Place {
	data := "/" + safePath + "$" // of <path> itself
	if s.kv == 2 {
		data = "data" + data
	}
	var faults []escrowtest.Fault
	add := func(op, name string, f fake.Fault, want error, stored bool) {
		faults = append(faults, escrowtest.Fault{
			Name: op + " " + name, Op: op, Want: want, Stored: stored,
			Break: func(*testing.T) func() { s.Break(f); return s.Heal },
		})
	}
	put, get := http.MethodPut, http.MethodGet
	add("save", "cut before", fake.Fault{Kind: fake.CutBefore, Method: put, Path: data}, escrow.ErrUnreachable, false)
	add("save", "cut after", fake.Fault{Kind: fake.CutAfter, Method: put, Path: data}, nil, true)
	add("save", "failed after", fake.Fault{Kind: fake.FailAfter, Method: put, Path: data, Status: 500, Text: "1 error occurred"}, nil, true)
	add("save", "failed before", fake.Fault{Kind: fake.Fail, Method: put, Path: data, Status: 500, Text: "1 error occurred"}, escrow.ErrUnreachable, false)
	add("save", "no right to write", fake.Fault{Kind: fake.Fail, Method: put, Path: data, Status: 403, Text: "permission denied"}, escrow.ErrDenied, false)
	add("save", "over the limit", fake.Fault{Kind: fake.Fail, Method: put, Path: data, Status: 429, Text: "rate limit quota exceeded"}, escrow.ErrRateLimited, false)
	add("save", "too large", fake.Fault{Kind: fake.Fail, Method: put, Path: data, Status: 413, Text: "http: request body too large"}, escrow.ErrRefused, false)
	add("save", "its own entry cut before", fake.Fault{Kind: fake.CutBefore, Method: put, Path: safePath + "-keys/"}, escrow.ErrUnreachable, true)
	add("save", "its own entry cut after", fake.Fault{Kind: fake.CutAfter, Method: put, Path: safePath + "-keys/"}, nil, true)
	add("save", "sealed", fake.Fault{Kind: fake.Fail, Status: 503, Text: "Vault is sealed"}, escrow.ErrStoreSealed, false)
	add("fetch", "cut", fake.Fault{Kind: fake.CutBefore, Method: get}, escrow.ErrUnreachable, false)
	add("fetch", "cut in the middle", fake.Fault{Kind: fake.CutMiddle, Method: get}, escrow.ErrUnreachable, false)
	add("fetch", "a page of somebody's", fake.Fault{Kind: fake.NotJSON, Method: get}, escrow.ErrNotStore, false)
	add("fetch", "an answer without end", fake.Fault{Kind: fake.Endless, Method: get}, escrow.ErrNotStore, false)
	add("list", "cut", fake.Fault{Kind: fake.CutBefore, Method: "LIST"}, escrow.ErrUnreachable, false)
	add("list", "one entry cut", fake.Fault{Kind: fake.CutBefore, Method: get, Path: safePath}, escrow.ErrUnreachable, false)
	add("list", "quarantine cut", fake.Fault{Kind: fake.CutBefore, Path: "-quarantine"}, escrow.ErrUnreachable, false)
	add("list", "quarantine denied", fake.Fault{Kind: fake.Fail, Path: "-quarantine", Status: 403, Text: "permission denied"}, escrow.ErrDenied, false)
	add("list", "empty", fake.Fault{Kind: fake.Empty}, escrow.ErrNotStore, false)
	return escrowtest.Place{
		Open: func(t *testing.T) escrow.Escrow { return s.open(t) },
		Put: func(t *testing.T, _ escrow.Shelf, data []byte) string {
			if utf8.Valid(data) {
				s.put(t, string(data))
			} else {
				s.put(t, base64.StdEncoding.EncodeToString(data))
			}
			copies, err := s.open(t).List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return copies[0].ID
		},
		Misname: func(t *testing.T, id string, data []byte) string {
			_, name, _ := strings.Cut(id, "/")
			try(t, s.Put(safeMount, safePath+"-quarantine/"+name, map[string]any{"value": base64.StdEncoding.EncodeToString(data)}))
			return id
		},
		Faults: faults,
	}
}

func TestVaultConforms(t *testing.T) {
	t.Parallel()
	to, identity := identityFile(t)
	kinds := []struct {
		name     string
		kv       int
		to       []string
		identity string
	}{
		{name: "version 1", kv: 1},
		{name: "version 2", kv: 2},
		{name: "version 1, sealed and opened", kv: 1, to: []string{to}, identity: identity},
		{name: "version 2, sealed", kv: 2, to: []string{to}},
	}
	if testing.Short() { // with the race detector sealing takes half a minute
		kinds = kinds[:2]
	}
	for _, tt := range kinds {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			escrowtest.Run(t, escrowtest.Harness{
				Once: tt.kv == 1, Seals: len(tt.to) > 0, Sealed: len(tt.to) > 0 && tt.identity == "",
				New: func(t *testing.T) escrowtest.Place {
					s := startSafe(t, tt.kv, fake.Options{})
					s.o.SealTo, s.o.IdentityFiles = tt.to, files(tt.identity)
					return s.place()
				},
			})
		})
	}
}

// both runs a test on KV version 1 and 2.
func both(t *testing.T, test func(t *testing.T, kv int)) {
	t.Parallel()
	for _, kv := range []int{1, 2} {
		t.Run(fmt.Sprint("kv ", kv), func(t *testing.T) { t.Parallel(); test(t, kv) })
	}
}

// save saves a key, and fails the test if that fails.
func save(t *testing.T, e *kinds.Vault, s escrow.Shelf, k key.Key) escrow.Copy {
	t.Helper()
	c, err := e.Save(t.Context(), s, k)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// opens tells whether some copy of the shelf is the key.
func opens(t *testing.T, e *kinds.Vault, s escrow.Shelf, k key.Key) bool {
	t.Helper()
	copies, err := e.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range copies {
		if got, _, err := e.Fetch(t.Context(), c); err == nil && c.Shelf == s && got.Equal(k) {
			return true
		}
	}
	return false
}

// TestVaultErrors: what the server can say, and what is said of it. Nothing is repeated.
func TestVaultErrors(t *testing.T) {
	t.Parallel()
	s := startSafe(t, 2, fake.Options{})
	e := s.ready(t)
	c := save(t, e, escrow.Current, key.Generate())
	for _, tt := range []struct {
		status int
		text   string
		want   error
	}{
		{400, "bad request", escrow.ErrRefused},
		{400, "missing client token", escrow.ErrUnauthenticated},
		{401, "unauthorized", escrow.ErrUnauthenticated},
		{403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n", escrow.ErrUnauthenticated},
		{403, "1 error occurred:\n\t* permission denied\n\n", escrow.ErrDenied},
		{404, "no handler for route \"x\". route entry not found.", escrow.ErrNoEngine},
		{400, "Upgrading from non-versioned to versioned data. This backend will be unavailable for a brief period and will resume service shortly.", escrow.ErrNotServing},
		{400, "path disabled in replication DR secondary mode", escrow.ErrNotServing},
		{500, "1 error occurred:\n\t* no audit backend succeeded in logging the request\n\n", escrow.ErrNotServing},
		{503, "API access to this namespace has been locked by an administrator - \"ns1/\" must be unlocked to gain access.", escrow.ErrNotServing},
		{404, "", escrow.ErrGone},
		{405, "unsupported operation", escrow.ErrRefused},
		{412, "required index state not present", escrow.ErrUnreachable},
		{429, "request path \"x\": rate limit quota exceeded", escrow.ErrRateLimited},
		{500, "local node not active but active cluster node not found", escrow.ErrNotServing},
		{502, "", escrow.ErrUnreachable},
		{503, "Vault is sealed", escrow.ErrStoreSealed},
		{503, "overloaded, try again later", escrow.ErrUnreachable},
		{503, "Vault is not initialized", escrow.ErrStoreSealed},
		{400, "server is not yet initialized", escrow.ErrStoreSealed},
	} {
		s.Reset()
		s.Break(fake.Fault{Kind: fake.Fail, Path: "data/", Status: tt.status, Text: tt.text})
		_, _, err := e.Fetch(t.Context(), c)
		s.Heal()
		if !errors.Is(err, tt.want) {
			t.Errorf("%d %q: %v, want %v", tt.status, tt.text, err, tt.want)
		}
		if strings.ContainsAny(err.Error(), "\n\t") {
			t.Errorf("%d %q: an error of several lines: %q", tt.status, tt.text, err)
		}
		n := 0
		for path, calls := range s.Calls() {
			if strings.Contains(path, "/data/") {
				n += calls
			}
		}
		if n != 1 {
			t.Errorf("%d %q: asked %d times", tt.status, tt.text, n)
		}
	}
	s.Break(fake.Fault{Kind: fake.WrongEntry, Path: "data/"})
	if _, _, err := e.Fetch(t.Context(), c); !errors.Is(err, escrow.ErrCorrupt) {
		t.Errorf("another version: %v, want ErrCorrupt", err)
	}
	s.Heal()
	s.Break(fake.Fault{Kind: fake.Slow, Delay: 20 * time.Millisecond})
	if _, _, err := e.Fetch(t.Context(), c); err != nil {
		t.Errorf("slow: %v", err)
	}
	s.Heal()
	// In an entry that we named, other bytes are damage. At <path> the rows are the judge.
	s.Break(fake.Fault{Kind: fake.WrongBytes, Path: "-keys/"})
	own := escrow.Copy{ID: "current/keys/" + string(c.Fingerprint)}
	if _, _, err := e.Fetch(t.Context(), own); !errors.Is(err, escrow.ErrCorrupt) {
		t.Errorf("other bytes in its own entry: %v, want ErrCorrupt", err)
	}
	s.Close()
	if _, _, err := e.Fetch(t.Context(), c); !errors.Is(err, escrow.ErrUnreachable) || errors.Is(err, escrow.ErrNeverLeft) {
		t.Errorf("nothing listens: %v, want ErrUnreachable", err)
	}
}

// TestVaultHung: a server that takes a call and says nothing is asked once, and costs one
// deadline.
func TestVaultHung(t *testing.T) {
	both(t, func(t *testing.T, kv int) {
		for _, kind := range []fake.Kind{fake.Hang, fake.HangAfter} {
			t.Run(fmt.Sprint(kind), func(t *testing.T) {
				t.Parallel()
				s := startSafe(t, kv, fake.Options{})
				s.ready(t)
				s.Break(fake.Fault{Kind: kind, Method: http.MethodPut})
				s.o.Timeout = callTimeout
				k := key.Generate()
				s.Reset()
				start := time.Now()
				_, err := s.open(t).Save(t.Context(), escrow.Current, k)
				took := time.Since(start)
				puts := 0
				for call, n := range s.Calls() {
					if strings.HasPrefix(call, http.MethodPut) {
						puts += n
					}
				}
				if !errors.Is(err, escrow.ErrTimeout) || puts != 1 || took > 20*callTimeout {
					t.Errorf("%v after %d calls and %v, want ErrTimeout after one and %v", err, puts, took, callTimeout)
				}
				s.Heal()
				s.o.Timeout = 5 * time.Second
				if there := opens(t, s.open(t), escrow.Current, k); there != (kind == fake.HangAfter) {
					t.Errorf("stored: %v", there)
				}
			})
		}
	})
}

// TestVaultKeepsAll: no write, however many, takes a key away that it did not put there.
func TestVaultKeepsAll(t *testing.T) {
	both(t, func(t *testing.T, kv int) {
		s := startSafe(t, kv, fake.Options{})
		e := s.ready(t)
		first, hand := key.Generate(), key.Generate()
		save(t, e, escrow.Current, first)
		s.put(t, base64.StdEncoding.EncodeToString(hand.UnsafeBytes())+"\n")
		var keys []key.Key
		for range 12 { // the engine keeps ten
			keys = append(keys, key.Generate())
			save(t, e, escrow.Current, keys[len(keys)-1])
		}
		for i, k := range append(keys, first, hand) {
			if !opens(t, s.open(t), escrow.Current, k) {
				t.Errorf("key %d is gone", i)
			}
		}
		copies, err := e.List(t.Context())
		if err != nil || len(copies) != 14 {
			t.Errorf("%d copies of 14 keys, %v", len(copies), err)
		}
	})
}

// TestVaultDamagedEntry: somebody writes into an entry of ours. A Save puts the key
// back, and what stood there is kept.
func TestVaultDamagedEntry(t *testing.T) {
	both(t, func(t *testing.T, kv int) {
		s := startSafe(t, kv, fake.Options{})
		e := s.ready(t)
		k, other := key.Generate(), key.Generate()
		for shelf, folder := range map[escrow.Shelf]string{escrow.Current: "-keys/", escrow.Quarantine: "-quarantine/"} {
			c := save(t, e, shelf, k)
			entry := safePath + folder + string(k.Fingerprint())
			if err := s.Put(safeMount, entry, map[string]any{"value": base64.StdEncoding.EncodeToString(other.UnsafeBytes())}); err != nil {
				t.Fatal(err)
			}
			again := save(t, e, shelf, k)
			want := c.ID // of <path>, and in quarantine the next name
			if shelf == escrow.Quarantine {
				want += ".2"
			}
			if got, _, err := e.Fetch(t.Context(), again); err != nil || !got.Equal(k) || again.ID != want {
				t.Errorf("%s: %s holds %v, %v; want %s", shelf, again.ID, got, err, want)
			}
			if !opens(t, e, shelf, other) {
				t.Errorf("%s: what stood there is gone", shelf)
			}
			names := len(s.Names(safeMount))
			if again := save(t, e, shelf, k); again.ID != want || len(s.Names(safeMount)) != names {
				t.Errorf("%s: saved once more it is %s, of %q", shelf, again.ID, s.Names(safeMount))
			}
		}
	})
}

// TestVaultRights: the escrow does all it does by the README's policy, and by it nobody
// takes away a key that has an entry of its own. The doctor is told what else a token may.
func TestVaultRights(t *testing.T) {
	both(t, func(t *testing.T, kv int) {
		s := startSafe(t, kv, fake.Options{})
		e, k := s.ready(t), key.Generate()
		save(t, e, escrow.Current, k)
		got, err := e.Examine(t.Context())
		if err != nil || !got.Asked || got.Lacks != nil || got.Destroys != nil {
			t.Errorf("by the README's policy: %+v, %v", got, err)
		}
		p := fake.Keyguard(kv, safeMount, safePath)
		folder := safeMount + map[int]string{1: "/", 2: "/data/"}[kv] + safePath + "-keys/*"
		p[folder] = append(p[folder], "update", "delete")
		top := strings.TrimSuffix(folder, "-keys/*")
		p[top] = []string{"create", "read"}
		s.Policy("keyguard", p)
		want := "[delete on " + folder + " update on " + folder + "] [update on " + top + "]"
		if got, err := e.Examine(t.Context()); err != nil || !got.Asked || fmt.Sprint(got.Destroys, got.Lacks) != want {
			t.Errorf("%v %v, %v; want %s", got.Destroys, got.Lacks, err, want)
		}
		s.o.TokenFile = secretFile(t, "token", s.Token(fake.TokenOptions{Policies: []string{fake.Root}}))
		if got, err := s.open(t).Examine(t.Context()); err != nil || len(got.Destroys) == 0 || got.Lacks != nil {
			t.Errorf("root: %+v, %v", got, err)
		}
		s.o.TokenFile = secretFile(t, "token", s.Token(fake.TokenOptions{Policies: []string{"keyguard"}, NoDefault: true}))
		if got, err := s.open(t).Examine(t.Context()); err != nil || got.Asked {
			t.Errorf("a token that may not ask: %+v, %v", got, err)
		}
	})
}

// TestVaultDeleted: what was deleted in Vault is a copy that cannot be read (law 6), and
// a Save puts a new one on top.
func TestVaultDeleted(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"deleted", "destroyed"} {
		s := startSafe(t, 2, fake.Options{})
		e := s.ready(t)
		k := key.Generate()
		c := save(t, e, escrow.Current, k)
		q := save(t, e, escrow.Quarantine, k)
		for _, path := range []string{safePath, safePath + "-keys/" + string(k.Fingerprint()), safePath + "-quarantine/" + string(k.Fingerprint()), safePath + "-keys/keyguard"} {
			if err := s.Set(safeMount, path, 0, state); err != nil {
				t.Fatal(err)
			}
		}
		copies, err := e.List(t.Context())
		if err != nil || len(copies) != 3 {
			t.Fatalf("%s: %+v, %v; want the version and two entries", state, copies, err)
		}
		for _, c := range copies {
			if !strings.Contains(c.Unreadable, state) {
				t.Errorf("%s: %s is %q", state, c.ID, c.Unreadable)
			}
		}
		for _, c := range []escrow.Copy{c, q} {
			if _, _, err := e.Fetch(t.Context(), c); !errors.Is(err, escrow.ErrUnreadable) {
				t.Errorf("%s: %v, want ErrUnreadable", state, err)
			}
		}
		if err := e.Init(t.Context()); err != nil {
			t.Errorf("%s: Init over a deleted marker: %v", state, err)
		}
		for _, shelf := range escrow.Shelves {
			if got, _, err := e.Fetch(t.Context(), save(t, e, shelf, k)); err != nil || !got.Equal(k) {
				t.Errorf("%s: saved again on %s, it is %v, %v", state, shelf, got, err)
			}
		}
	}
}

// TestVaultTokens: a token is renewed in time, replaced where it was revoked, and told
// from one that has no right.
func TestVaultTokens(t *testing.T) {
	t.Parallel()
	policies := []string{"keyguard"}
	list := func(e *kinds.Vault) error { _, err := e.List(t.Context()); return err }
	t.Run("renewed", func(t *testing.T) {
		s := startSafe(t, 2, fake.Options{})
		s.o.TokenFile = secretFile(t, "token", s.Token(fake.TokenOptions{Policies: policies, TTL: 30 * 24 * time.Hour, Renewable: true}))
		e := s.ready(t)
		if n := s.Renewed(); n != 0 {
			t.Errorf("a young token was renewed %d times", n)
		}
		s.Age(21 * 24 * time.Hour)
		if err := list(s.open(t)); err != nil || s.Renewed() != 1 { // another process: the file is all it has
			t.Errorf("%v, renewed %d times", err, s.Renewed())
		}
		s.Age(21 * 24 * time.Hour)
		if err := list(s.open(t)); err != nil || s.Renewed() != 2 {
			t.Errorf("%v, renewed %d times", err, s.Renewed())
		}
		s.Age(29*24*time.Hour + 23*time.Hour)
		s.Break(fake.Fault{Kind: fake.Fail, Path: "renew-self", Status: 500})
		if err := list(s.open(t)); err != nil {
			t.Errorf("a token that cannot be renewed is still good: %v", err)
		}
		s.Heal()
		s.Age(2 * time.Hour)
		if err := list(e); !errors.Is(err, escrow.ErrUnauthenticated) {
			t.Errorf("a token that has ended: %v, want ErrUnauthenticated", err)
		}
	})
	// However the server words it, a token that is none any more is told from one that may not.
	for name, o := range map[string]fake.Options{"verbose": {}, "terse": {Terse: true}, "old": {Old: true}} {
		t.Run("replaced, "+name, func(t *testing.T) {
			s := startSafe(t, 2, o)
			e := s.ready(t)
			s.Revoke()
			for range 2 { // one that was accepted once, and one that never was
				if err := list(e); !errors.Is(err, escrow.ErrUnauthenticated) || !strings.Contains(err.Error(), "the token in "+s.o.TokenFile+" is not accepted") {
					t.Errorf("revoked: %v, want ErrUnauthenticated and the file", err)
				}
			}
			must(os.WriteFile(s.o.TokenFile, []byte(s.Token(fake.TokenOptions{Policies: policies})), 0o600))
			if err := list(e); err != nil {
				t.Errorf("a new token in the file: %v", err)
			}
			// Another one is used at once, though the first is still good, and where the first may not.
			s.Policy("none", fake.Policy{safeMount + "/nothing": {"read"}})
			must(os.WriteFile(s.o.TokenFile, []byte(s.Token(fake.TokenOptions{Policies: []string{"none"}})), 0o600))
			if err := list(e); !errors.Is(err, escrow.ErrDenied) || errors.Is(err, escrow.ErrUnauthenticated) {
				t.Errorf("a token without a right: %v, want ErrDenied", err)
			}
			must(os.WriteFile(s.o.TokenFile, []byte(s.Token(fake.TokenOptions{Policies: policies})), 0o600))
			if err := list(e); err != nil {
				t.Errorf("a token with the right in the file: %v", err)
			}
		})
		t.Run("no right to look itself up, "+name, func(t *testing.T) {
			s := startSafe(t, 2, o)
			s.o.TokenFile = secretFile(t, "token", s.Token(fake.TokenOptions{Policies: policies, NoDefault: true}))
			e := s.ready(t)
			s.Policy("keyguard", fake.Policy{safeMount + "/data/" + safePath: {"read"}})
			// The old server says of such a token what it says of one that is none.
			want := escrow.ErrDenied
			if o.Old {
				want = escrow.ErrUnauthenticated
			}
			if err := list(s.open(t)); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
			s.Revoke()
			if err := list(e); !errors.Is(err, escrow.ErrUnauthenticated) {
				t.Errorf("revoked: %v, want ErrUnauthenticated", err)
			}
		})
	}
	t.Run("ends", func(t *testing.T) {
		for name, tt := range map[string]struct {
			o    fake.TokenOptions
			age  time.Duration
			ends bool
		}{
			"for ever":                          {fake.TokenOptions{}, 1000 * time.Hour, false},
			"young":                             {fake.TokenOptions{TTL: 30 * time.Hour}, 19 * time.Hour, false},
			"cannot be renewed, its last third": {fake.TokenOptions{TTL: 30 * time.Hour}, 21 * time.Hour, true},
			"renewed":                           {fake.TokenOptions{TTL: 30 * time.Hour, Renewable: true}, 21 * time.Hour, false},
			"renewed to its longest life":       {fake.TokenOptions{TTL: 30 * time.Hour, MaxTTL: 31 * time.Hour, Renewable: true}, 21 * time.Hour, true},
			"at its longest life":               {fake.TokenOptions{TTL: 30 * time.Hour, MaxTTL: 30 * time.Hour, Renewable: true}, 21 * time.Hour, true},
		} {
			s := startSafe(t, 2, fake.Options{})
			s.ready(t)
			tt.o.Policies = policies
			s.o.TokenFile = secretFile(t, "token", s.Token(tt.o))
			s.Age(tt.age)
			e := s.open(t)
			for range 3 {
				if err := list(e); err != nil {
					t.Fatal(name, err)
				}
			}
			c := e.Credential(t.Context())
			if got := c.Ends(time.Now()); (got != "") != tt.ends || tt.ends && !strings.Contains(got, s.o.TokenFile) {
				t.Errorf("%s: %q of %+v, want one: %v", name, got, c, tt.ends)
			}
			if n := s.Renewed(); n > 2 {
				t.Errorf("%s: renewed %d times", name, n)
			}
		}
	})
	t.Run("an old server", func(t *testing.T) {
		s := startSafe(t, 2, fake.Options{Old: true})
		e := s.ready(t)
		s.Policy("keyguard", fake.Policy{})
		if err := list(e); !errors.Is(err, escrow.ErrDenied) || errors.Is(err, escrow.ErrUnauthenticated) {
			t.Errorf("no right: %v, want ErrDenied", err)
		}
		s.Revoke()
		if err := list(e); !errors.Is(err, escrow.ErrUnauthenticated) {
			t.Errorf("revoked: %v, want ErrUnauthenticated", err)
		}
	})
	t.Run("AppRole", func(t *testing.T) {
		s := startSafe(t, 2, fake.Options{})
		role, secret := s.AppRole(2, fake.TokenOptions{Policies: policies, TTL: time.Hour})
		s.o.TokenFile, s.o.RoleIDFile, s.o.SecretIDFile = "", secretFile(t, "role", role), secretFile(t, "secret", secret)
		e := s.ready(t)
		if err := list(e); err != nil {
			t.Error(err)
		}
		s.Revoke() // a login more
		if err := list(e); err != nil {
			t.Errorf("after a revocation: %v", err)
		}
		s.Revoke()
		if err := list(e); !errors.Is(err, escrow.ErrUnauthenticated) || strings.Contains(fmt.Sprint(err), secret) {
			t.Errorf("a secret id that is used up: %v, want ErrUnauthenticated", err)
		}
	})
	t.Run("files", func(t *testing.T) {
		s := startSafe(t, 2, fake.Options{})
		for _, text := range []string{"", "two words", "tök"} {
			s.o.TokenFile = secretFile(t, "token", text)
			if err := list(s.open(t)); !errors.Is(err, escrow.ErrUnauthenticated) {
				t.Errorf("%q: %v, want ErrUnauthenticated", text, err)
			}
		}
		s.o.TokenFile = "/nonexistent/token"
		if err := list(s.open(t)); !errors.Is(err, escrow.ErrUnauthenticated) || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("no file: %v, want ErrUnauthenticated", err)
		}
		if n := len(s.Calls()); n != 0 {
			t.Errorf("%d calls with no token", n)
		}
	})
}

// TestVaultBlind: a token that may write and not read stores on version 2, unverified
// and once, also where it may create alone: then what stood at <path> stays the newest. On
// version 1 it could write over somebody's only copy.
func TestVaultBlind(t *testing.T) {
	both(t, func(t *testing.T, kv int) {
		for _, can := range [][]string{{"create", "update"}, {"create"}} {
			s := startSafe(t, kv, fake.Options{})
			s.ready(t)
			p := fake.Keyguard(kv, safeMount, safePath)
			for path := range p {
				p[path] = can
			}
			s.Policy("keyguard", p)
			keys := []key.Key{key.Generate(), key.Generate()}
			for range 2 {
				e := s.open(t) // another process, which knows nothing of what was stored
				for _, k := range keys {
					for _, shelf := range escrow.Shelves {
						c, err := e.Save(t.Context(), shelf, k)
						switch {
						case kv == 1 && !errors.Is(err, escrow.ErrDenied):
							t.Errorf("%q, %s: %v, want ErrDenied", can, shelf, err)
						case kv == 2 && (!errors.Is(err, escrow.ErrUnverified) || c.ID == "" || c.Fingerprint != k.Fingerprint()):
							t.Errorf("%q, %s: %+v, %v, want ErrUnverified", can, shelf, c, err)
						}
					}
				}
			}
			s.Policy("keyguard", fake.Keyguard(kv, safeMount, safePath))
			if names := s.Names(safeMount); len(names) != []int{1, 6}[kv-1] { // marker; <path>, two a key
				t.Errorf("%q: %q", can, names)
			}
			for _, k := range keys {
				for _, shelf := range escrow.Shelves {
					if opens(t, s.open(t), shelf, k) != (kv == 2) {
						t.Errorf("%q: %s stored on %s: %v", can, k, shelf, kv != 2)
					}
				}
			}
		}
	})
}

// TestVaultBlindChecksAndSets: an engine that wants to be told what a write replaces is told by
// who may read the metadata alone; who may not even do that keeps the key in its own entry.
func TestVaultBlindChecksAndSets(t *testing.T) {
	t.Parallel()
	for _, told := range []bool{true, false} {
		s := startSafe(t, 2, fake.Options{})
		s.ready(t)
		s.RequireCAS(safeMount)
		p := fake.Keyguard(2, safeMount, safePath)
		for path := range p {
			if strings.HasPrefix(path, safeMount+"/data/") {
				p[path] = []string{"create", "update"}
			} else if !told {
				delete(p, path)
			}
		}
		p[safeMount+"/data/"+safePath+"-keys/keyguard"] = []string{"read"}
		s.Policy("keyguard", p)
		keys := []key.Key{key.Generate(), key.Generate()}
		for _, k := range keys {
			c, err := s.open(t).Save(t.Context(), escrow.Current, k)
			if told && (!errors.Is(err, escrow.ErrUnverified) || !strings.HasPrefix(c.ID, "current/")) || !told && !errors.Is(err, escrow.ErrRefused) {
				t.Errorf("metadata %t: %+v, %v", told, c, err)
			}
		}
		s.Policy("keyguard", fake.Keyguard(2, safeMount, safePath))
		for _, k := range keys {
			if !opens(t, s.open(t), escrow.Current, k) {
				t.Errorf("metadata %t: key %s is not there", told, k.Fingerprint())
			}
		}
		if told != (s.Get(safeMount, safePath) != nil) {
			t.Errorf("metadata %t: what stands on top: %v", told, s.Get(safeMount, safePath) != nil)
		}
	}
}

// TestVaultDeletesByItself: what an engine with delete_version_after is to delete is told,
// and renewed before, by the README's policy, for as long as it takes.
func TestVaultDeletesByItself(t *testing.T) {
	t.Parallel()
	s := startSafe(t, 2, fake.Options{})
	s.DeleteAfter(safeMount, 30*24*time.Hour)
	e, old, live, q := s.ready(t), key.Generate(), key.Generate(), key.Generate()
	save(t, e, escrow.Current, old)
	save(t, e, escrow.Current, live)
	save(t, e, escrow.Quarantine, q)
	ending := func() (n int) {
		copies, err := e.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range copies {
			if c.Unreadable == "" && c.Ends.IsZero() {
				t.Errorf("%s: when it ends is not told", c.ID)
			}
			if c.Unreadable == "" && c.Ending(time.Now()) {
				n++
			}
		}
		return n
	}
	if n := ending(); n != 0 {
		t.Errorf("%d copies of today are ending", n)
	}
	for range 3 { // longer than any entry lives
		s.Later(safeMount, 21*24*time.Hour)
		if n := ending(); n == 0 {
			t.Error("none is ending")
		}
		if err := e.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if c := save(t, e, escrow.Current, live); c.ID == "current/2" {
			t.Error("the newest was not stored again")
		}
		names := len(s.Names(safeMount))
		if err := e.Renew(t.Context()); err != nil || len(s.Names(safeMount)) != names {
			t.Errorf("renewed again: %v, %d entries after %d", err, len(s.Names(safeMount)), names)
		}
	}
	for k, shelf := range map[*key.Key]escrow.Shelf{&old: escrow.Current, &live: escrow.Current, &q: escrow.Quarantine} {
		if !opens(t, e, shelf, *k) {
			t.Errorf("%v is gone from %s", *k, shelf)
		}
	}
	s.Later(safeMount, 21*24*time.Hour)
	p := fake.Keyguard(2, safeMount, safePath)
	for path := range p {
		p[path] = []string{"read", "list"}
	}
	s.Policy("keyguard", p)
	if err := e.Renew(t.Context()); !errors.Is(err, escrow.ErrDenied) || !strings.Contains(err.Error(), "which the store deletes at") {
		t.Errorf("without the right: %v, want ErrDenied", err)
	}
}

// TestVaultForeign: whoever may write below the folders hides no copy of ours, takes
// nobody's time, and prints nothing.
func TestVaultForeign(t *testing.T) {
	both(t, func(t *testing.T, kv int) {
		s := startSafe(t, kv, fake.Options{})
		e, k := s.ready(t), key.Generate()
		saved := save(t, e, escrow.Quarantine, k)
		names := []string{"<0>forged\n\x1b]0;x\a\u202e", strings.Repeat("long", 1000), "../keyguard", "a/b"}
		for i := range 300 {
			names = append(names, fmt.Sprint("foreign-", i))
		}
		for _, name := range names {
			if err := s.Put(safeMount, safePath+"-quarantine/"+name, map[string]any{"value": "x"}); err != nil {
				t.Fatal(err)
			}
		}
		s.Reset()
		copies, err := e.List(t.Context())
		if err != nil || len(copies) != 102 {
			t.Fatalf("%d copies, %v", len(copies), err)
		}
		if calls := s.Calls(); len(calls) > 120 {
			t.Errorf("%d calls", len(calls))
		}
		found := false
		for _, c := range copies {
			found = found || c.ID == saved.ID
			if len(c.ID) > 300 || strings.ContainsFunc(c.ID, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("listed as %q", c.ID)
			}
			if _, _, err := e.Fetch(t.Context(), c); (err == nil) != (c.ID == saved.ID) {
				t.Errorf("%s: %v", c.ID, err)
			}
		}
		if !found {
			t.Error("our copy is not listed")
		}
	})
}

// TestVaultRequiresCAS: an engine that wants check-and-set gets it.
func TestVaultRequiresCAS(t *testing.T) {
	t.Parallel()
	s := startSafe(t, 2, fake.Options{})
	s.RequireCAS(safeMount)
	e := s.ready(t)
	for range 2 {
		save(t, e, escrow.Current, key.Generate())
	}
}

// TestVaultTwoProcesses save at the same moment, without knowing of each other.
func TestVaultTwoProcesses(t *testing.T) {
	t.Parallel()
	s := startSafe(t, 2, fake.Options{})
	s.ready(t)
	var wait sync.WaitGroup
	keys := []key.Key{key.Generate(), key.Generate(), key.Generate()}
	for _, k := range keys {
		e := s.open(t)
		wait.Go(func() {
			if _, err := e.Save(t.Context(), escrow.Current, k); err != nil {
				t.Errorf("Save: %v", err)
			}
		})
	}
	wait.Wait()
	for _, k := range keys {
		if !opens(t, s.open(t), escrow.Current, k) {
			t.Errorf("%v is gone", k)
		}
	}
}

// TestVaultRaceRefused: of two processes that keep the same value the slower finds it kept,
// though the policy grants no update and so the server answers as if it might not write.
func TestVaultRaceRefused(t *testing.T) {
	both(t, func(t *testing.T, kv int) {
		s := startSafe(t, kv, fake.Options{})
		e := s.ready(t)
		first, second := key.Generate(), key.Generate()
		save(t, e, escrow.Current, first)
		// The entry came between the slower one's look and its write.
		s.Break(fake.Fault{Kind: fake.Fail, Method: "GET", Path: "/" + string(first.Fingerprint()) + "$", Status: 404, Times: 1})
		save(t, s.open(t), escrow.Current, second)
		for _, k := range []key.Key{first, second} {
			if !opens(t, s.open(t), escrow.Current, k) {
				t.Errorf("%v is gone", k)
			}
		}
	})
}

// TestVaultEngine: which engine is there, and whether one is.
func TestVaultEngine(t *testing.T) {
	both(t, func(t *testing.T, kv int) {
		s := startSafe(t, kv, fake.Options{Old: true})
		e := s.ready(t) // a server that does not say which version it is
		k := key.Generate()
		save(t, e, escrow.Current, k)
		if !opens(t, s.open(t), escrow.Current, k) {
			t.Error("an old server: the key is gone")
		}

		// Made version 2 while this process runs: empty here, and no place (law 6).
		if s.Mount(safeMount, 2); kv == 1 {
			s.Policy("keyguard", fake.Policy{safeMount + "/*": {"create", "read", "update", "list"}})
			if _, err := e.List(t.Context()); !errors.Is(err, escrow.ErrNoPlace) {
				t.Errorf("another version than before: %v, want ErrNoPlace", err)
			}
			if err := e.Init(t.Context()); err != nil {
				t.Errorf("another version than before: %v", err)
			}
		}

		s = startSafe(t, kv, fake.Options{})
		s.Mount(safeMount, 0)
		if err := s.open(t).Init(t.Context()); !errors.Is(err, escrow.ErrRefused) {
			t.Errorf("another engine: %v, want ErrRefused", err)
		}
		s.Unmount(safeMount)
		s.Mount("team", kv)
		s.Policy("keyguard", fake.Policy{"team/*": {"create", "read", "update", "list"}})
		if err := s.open(t).Init(t.Context()); !errors.Is(err, escrow.ErrNoPlace) {
			t.Errorf("an engine above: %v, want ErrNoPlace", err)
		}
		s.Unmount("team")
		if err := s.open(t).Init(t.Context()); !errors.Is(err, escrow.ErrNoPlace) {
			t.Errorf("no engine: %v, want ErrNoPlace", err)
		}
		s.Policy("keyguard", fake.Policy{})
		if err := s.open(t).Init(t.Context()); !errors.Is(err, escrow.ErrDenied) {
			t.Errorf("no engine and no right: %v, want ErrDenied", err)
		}
		s.o.Path = "{hostname}/master"
		if err := s.open(t).Init(t.Context()); !errors.Is(err, escrow.ErrNoPlace) {
			t.Errorf("a path that init has not expanded: %v, want ErrNoPlace", err)
		}
	})
}

func TestVaultNamespace(t *testing.T) {
	t.Parallel()
	s := startSafe(t, 2, fake.Options{Namespace: "team-a"})
	save(t, s.ready(t), escrow.Current, key.Generate())
	s.o.Namespace = "team-b"
	if _, err := s.open(t).List(t.Context()); !errors.Is(err, escrow.ErrUnauthenticated) {
		t.Errorf("another namespace: %v, want ErrUnauthenticated", err)
	}
}

// TestVaultRedirects: a standby sends us on, with everything that we sent; nobody sends
// the key into the open, or round in circles.
func TestVaultRedirects(t *testing.T) {
	t.Parallel()
	standby := startSafe(t, 2, fake.Options{})
	e, k := standby.ready(t), key.Generate()
	save(t, e, escrow.Current, k)
	standby.Break(fake.Fault{Kind: fake.Redirect, To: standby.URL()})
	if _, err := e.List(t.Context()); !errors.Is(err, escrow.ErrUnreachable) {
		t.Errorf("in circles: %v, want ErrUnreachable", err)
	}
	// Neither the token nor a key goes to another host, to another program on the same one, or
	// into the open.
	other, port := startSafe(t, 2, fake.Options{Listen: "127.0.0.2:0"}), startSafe(t, 2, fake.Options{})
	for _, to := range []string{other.URL(), port.URL(), "http://127.0.0.1", "http://192.0.2.1:8200"} { // RFC 5737: nobody's
		standby.Heal()
		standby.Break(fake.Fault{Kind: fake.Redirect, To: to})
		if _, err := e.Save(t.Context(), escrow.Current, key.Generate()); !errors.Is(err, escrow.ErrRefused) || !strings.Contains(err.Error(), "sends us to") {
			t.Errorf("to %s: %v, want ErrRefused", to, err)
		}
	}
	for _, s := range []*safe{other, port} {
		if calls := s.Calls(); len(calls) != 0 {
			t.Errorf("%s was asked: %v", s.URL(), calls)
		}
	}
}

// authority makes a certificate for loopback, and a file with the authority it is of: itself.
func authority(t *testing.T, from, until time.Time) (*tls.Config, string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: from, NotAfter: until, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	must(err)
	ca := secretFile(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}}, ca
}

func TestVaultTLS(t *testing.T) {
	t.Parallel()
	now := time.Now()
	good, ca := authority(t, now.Add(-time.Hour), now.Add(time.Hour))
	_, other := authority(t, now.Add(-time.Hour), now.Add(time.Hour))
	tomorrow, tomorrowCA := authority(t, now.Add(24*time.Hour), now.Add(48*time.Hour))
	expired, expiredCA := authority(t, now.Add(-2*time.Hour), now.Add(-time.Hour))
	for _, tt := range []struct {
		name   string
		server *tls.Config
		ca     string
		want   error
	}{
		{"ca_file", good, ca, nil},
		{"the system's", certificate, "", nil}, // SSL_CERT_FILE has it
		{"not the system's", good, "", escrow.ErrUntrusted},
		{"ca_file instead of the system's", certificate, ca, escrow.ErrUntrusted},
		{"another ca_file", good, other, escrow.ErrUntrusted},
		{"no ca_file", good, "/nonexistent/ca.pem", escrow.ErrUntrusted},
		{"a ca_file that is none", good, secretFile(t, "ca.pem", "nonsense"), escrow.ErrUntrusted},
		{"expired", expired, expiredCA, escrow.ErrUntrusted},
		{"our clock", tomorrow, tomorrowCA, escrow.ErrClock},
	} {
		s := startSafe(t, 2, fake.Options{TLS: tt.server})
		s.o.CAFile = tt.ca
		if err := s.open(t).Init(t.Context()); tt.want == nil && err != nil || !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	s := startSafe(t, 2, fake.Options{})
	s.o.Address = strings.Replace(s.o.Address, "http:", "https:", 1)
	if err := s.open(t).Init(t.Context()); !errors.Is(err, escrow.ErrRefused) || !strings.Contains(err.Error(), "begins with https") {
		t.Errorf("a server without TLS: %v, want ErrRefused", err)
	}
	s = startSafe(t, 2, fake.Options{TLS: good})
	s.o.Address = strings.Replace(s.o.Address, "https:", "http:", 1)
	if err := s.open(t).Init(t.Context()); !errors.Is(err, escrow.ErrRefused) || !strings.Contains(err.Error(), "begins with http") {
		t.Errorf("a server with TLS: %v, want ErrRefused", err)
	}
}

// TestVaultEnvironment: the daemon's Vault is not ours.
func TestVaultEnvironment(t *testing.T) {
	s := startSafe(t, 2, fake.Options{})
	for name, value := range map[string]string{
		"VAULT_ADDR": "https://192.0.2.1:8200", "VAULT_TOKEN": "other", "VAULT_NAMESPACE": "other", "VAULT_CACERT": "/nonexistent",
		"VAULT_HEADERS": "{", "VAULT_MAX_RETRIES": "many", "VAULT_WRAP_TTL": "60", "VAULT_SKIP_VERIFY": "perhaps",
	} {
		t.Setenv(name, value)
	}
	save(t, s.ready(t), escrow.Current, key.Generate())
}

// TestVaultOptions: what makes no escrow.
func TestVaultOptions(t *testing.T) {
	t.Parallel()
	good := kinds.VaultOptions{Name: "v", Address: "https://vault.example:8200", Mount: "m", Path: "p", TokenFile: "/t"}
	for name, change := range map[string]func(*kinds.VaultOptions){
		"no address":        func(o *kinds.VaultOptions) { o.Address = "" },
		"no scheme":         func(o *kinds.VaultOptions) { o.Address = "vault.example:8200" },
		"a password in it":  func(o *kinds.VaultOptions) { o.Address = "https://u:p@vault.example" },
		"in the clear":      func(o *kinds.VaultOptions) { o.Address = "http://vault.example:8200" },
		"no mount":          func(o *kinds.VaultOptions) { o.Mount = "" },
		"no path":           func(o *kinds.VaultOptions) { o.Path = "" },
		"no token":          func(o *kinds.VaultOptions) { o.TokenFile = "" },
		"half an AppRole":   func(o *kinds.VaultOptions) { o.TokenFile, o.RoleIDFile = "", "/r" },
		"no such recipient": func(o *kinds.VaultOptions) { o.SealTo = []string{"age1"} },
	} {
		o := good
		change(&o)
		if _, err := kinds.NewVault(o); err == nil || !strings.HasPrefix(err.Error(), "escrow v: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	e, err := kinds.NewVault(good)
	if err != nil {
		t.Fatal(err)
	}
	if p := e.Place(); e.Name() != "v" || p.Where != "m/p at https://vault.example:8200" {
		t.Errorf("%s: %+v", e.Name(), p)
	}
}

// TestVaultFlooded: who fills the folders with names takes no time of those who look. The newest
// copy is one read, and a listing reads a bounded number of entries and names them all.
func TestVaultFlooded(t *testing.T) {
	for _, kv := range []int{1, 2} {
		t.Run(fmt.Sprintf("kv%d", kv), func(t *testing.T) {
			t.Parallel()
			s := startSafe(t, kv, fake.Options{})
			e := s.ready(t)
			want := key.Generate()
			saved, err := e.Save(t.Context(), escrow.Current, want)
			if err != nil {
				t.Fatal(err)
			}
			const planted = 5_000
			for _, folder := range []string{"-keys", "-quarantine"} {
				for i := range planted {
					if err := s.Put(safeMount, fmt.Sprintf("%s%s/%016x", safePath, folder, i), map[string]any{"value": "x"}); err != nil {
						t.Fatal(err)
					}
				}
			}
			calls := func() (n int) {
				for _, times := range s.Calls() {
					n += times
				}
				return n
			}
			s.Reset()
			c, k, enc, err := e.FetchLatest(t.Context())
			if n := calls(); err != nil || c.ID != saved.ID || enc != key.Raw || !k.Equal(want) || n > 2 {
				t.Errorf("%+v, %v, by %d calls; want %+v", c, err, n, saved)
			}
			s.Reset()
			copies, err := e.List(t.Context())
			if n := calls(); err != nil || len(copies) < 2*planted || copies[0].ID != saved.ID || n > 600 {
				t.Errorf("%d copies, %v, by %d calls", len(copies), err, n)
			}
		})
	}
}

// TestVaultLongNames: a list of ten thousand hosts' names is no answer without end, and one that
// has no end is told for what it is.
func TestVaultLongNames(t *testing.T) {
	s := startSafe(t, 1, fake.Options{})
	s.o.Timeout = time.Minute // of six thousand names a busy machine makes more than a few seconds' work
	e := s.ready(t)
	long := strings.Repeat("x", 245)
	for i := range 6_000 {
		if err := s.Put(safeMount, fmt.Sprintf("%s-keys/%s%06d", safePath, long, i), map[string]any{"value": "x"}); err != nil {
			t.Fatal(err)
		}
	}
	if copies, err := e.List(t.Context()); err != nil || len(copies) == 0 {
		t.Errorf("%d copies, %v", len(copies), err)
	}
	s.Break(fake.Fault{Kind: fake.Endless, Method: "LIST"})
	if _, err := e.List(t.Context()); !errors.Is(err, escrow.ErrFull) || !strings.Contains(err.Error(), "cannot be listed whole") {
		t.Errorf("%v, want that there are too many names", err)
	}
}
