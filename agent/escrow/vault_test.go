package escrow_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest"
	fake "github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/vault"
)

// safe is a fake Vault with an engine at team/kv, and an escrow's options for it.
type safe struct {
	*fake.Server
	kv int
	o  escrow.VaultOptions
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
	return &safe{s, kv, escrow.VaultOptions{
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

func (s *safe) open(t testing.TB) *escrow.Vault {
	t.Helper()
	e, err := escrow.NewVault(s.o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// ready opens an initialised place.
func (s *safe) ready(t testing.TB) *escrow.Vault {
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
	add("fetch", "a page of somebody's", fake.Fault{Kind: fake.NotJSON, Method: get}, escrow.ErrCorrupt, false)
	add("fetch", "an answer without end", fake.Fault{Kind: fake.Endless, Method: get}, escrow.ErrCorrupt, false)
	add("list", "cut", fake.Fault{Kind: fake.CutBefore, Method: "LIST"}, escrow.ErrUnreachable, false)
	add("list", "one entry cut", fake.Fault{Kind: fake.CutBefore, Method: get, Path: safePath}, escrow.ErrUnreachable, false)
	add("list", "quarantine cut", fake.Fault{Kind: fake.CutBefore, Path: "-quarantine"}, escrow.ErrUnreachable, false)
	add("list", "quarantine denied", fake.Fault{Kind: fake.Fail, Path: "-quarantine", Status: 403, Text: "permission denied"}, escrow.ErrDenied, false)
	add("list", "empty", fake.Fault{Kind: fake.Empty}, escrow.ErrCorrupt, false)
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
		Faults: faults,
	}
}

func TestVaultConforms(t *testing.T) {
	t.Parallel()
	to, identity := identityFile(t)
	for _, kv := range []int{1, 2} {
		for _, tt := range []struct {
			name     string
			to       []string
			identity string
		}{
			{name: "plain"},
			{name: "sealed and opened", to: []string{to}, identity: identity},
			{name: "sealed", to: []string{to}},
		} {
			t.Run(fmt.Sprintf("kv %d %s", kv, tt.name), func(t *testing.T) {
				t.Parallel()
				escrowtest.Run(t, escrowtest.Harness{
					Once: kv == 1, Seals: len(tt.to) > 0, Sealed: len(tt.to) > 0 && tt.identity == "",
					New: func(t *testing.T) escrowtest.Place {
						s := startSafe(t, kv, fake.Options{})
						s.o.SealTo, s.o.IdentityFile = tt.to, tt.identity
						return s.place()
					},
				})
			})
		}
	}
}
