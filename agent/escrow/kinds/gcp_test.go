package kinds_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"filippo.io/age"
	"google.golang.org/grpc/codes"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest"
	sm "github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/secretmanager"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable/durabletest"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

// callTimeout is what a fault that never answers costs a test. What does answer keeps it
// on a busy machine too.
const callTimeout = 5 * time.Second

// certificate is for servers on loopback, from an authority that this process trusts.
var certificate *tls.Config

// TestMain becomes the child of an isolated escrow where it is told so. Otherwise it
// makes a certificate: crypto/x509 reads SSL_CERT_FILE once, so it is set first of all.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "age-plugin-kgtest" {
		os.Exit(agePlugin())
	}
	if len(os.Args) == 2 {
		switch os.Args[1] {
		case "serve-directory":
			must(kinds.ServeDirectory(context.Background(), os.Stdin, os.Stdout))
			return
		case "serve-poor":
			must(durabletest.LikeFAT())
			must(kinds.ServeDirectory(context.Background(), os.Stdin, os.Stdout))
			return
		case "serve-mute": // does what it is asked, and is killed before it can say so
			must(kinds.ServeDirectory(context.Background(), os.Stdin, io.Discard))
			return
		case "serve-nothing":
			os.Exit(3)
		case "canary":
			saveCanary()
			return
		case "no-route":
			noRoute(os.Stdout)
			return
		}
	}
	if os.Getenv(envYanked) != "" {
		saveYanked()
		return
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	must(err)
	certificate = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}}
	dir, err := os.MkdirTemp("", "escrow")
	must(err)
	file := filepath.Join(dir, "ca.pem")
	must(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(os.Setenv("SSL_CERT_FILE", file))
	programs = dir
	must(os.Setenv("PATH", dir+":"+os.Getenv("PATH")))
	// More of them wait than work: as many go side by side on few processors, too. A -parallel that
	// somebody types counts more, since Run reads the flags after this.
	must(flag.Set("test.parallel", "12"))
	code := m.Run()
	must(os.RemoveAll(dir))
	os.Exit(code)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// store is a fake Secret Manager and an escrow's options for it, as the identity "host"
// with a service account's credentials.
type store struct {
	*sm.Server
	o kinds.GCPOptions
}

func startStore(t testing.TB, o sm.Options, roles ...sm.Role) *store {
	t.Helper()
	s, err := sm.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	s.Grant("host", roles...)
	return &store{s, kinds.GCPOptions{
		Name: "gcp", Project: "my-project", Location: o.Location, Secret: "containarium-h1-secrets-master",
		Endpoint: s.Addr(), Plaintext: o.TLS == nil, CredentialsFile: credentials(t, s, "host", "service_account"), Timeout: 5 * time.Second,
	}}
}

func (s *store) open(t testing.TB) *kinds.GCP {
	t.Helper()
	e, err := kinds.NewGCP(s.o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// ready opens an initialised place.
func (s *store) ready(t testing.TB) *kinds.GCP {
	t.Helper()
	e := s.open(t)
	if err := e.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e
}

func (s *store) secret(shelf escrow.Shelf) string {
	name := "projects/" + s.o.Project
	if s.o.Location != "" {
		name += "/locations/" + s.o.Location
	}
	name += "/secrets/" + s.o.Secret
	if shelf == escrow.Quarantine {
		name += "-quarantine"
	}
	return name
}

func credentials(t testing.TB, s *sm.Server, identity, kind string) string {
	t.Helper()
	data, err := s.Credentials(identity, kind)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "credentials.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestGCPConforms(t *testing.T) {
	t.Parallel()
	to, identity := identityFile(t)
	for _, tt := range []struct {
		name     string
		location string
		maxPage  int
		to       []string
		identity string
	}{
		{name: "global", maxPage: 2},
		{name: "regional", location: "europe-west1"},
		{name: "sealed and opened", to: []string{to}, identity: identity},
		{name: "sealed", to: []string{to}},
	} {
		if brief.Run() && tt.name != "global" {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			escrowtest.Run(t, escrowtest.Harness{
				Seals: len(tt.to) > 0, Sealed: len(tt.to) > 0 && tt.identity == "",
				New: func(t *testing.T) escrowtest.Place {
					s := startStore(t, sm.Options{Location: tt.location, MaxPage: tt.maxPage}, sm.Admin)
					s.o.SealTo, s.o.IdentityFiles = tt.to, files(tt.identity)
					return escrowtest.Place{
						Open: func(t *testing.T) escrow.Escrow { return s.open(t) },
						Put: func(t *testing.T, shelf escrow.Shelf, data []byte) string {
							return fmt.Sprintf("%s/%d", shelf, s.Put(s.secret(shelf), data))
						},
						Faults: gcpFaults(s),
					}
				},
			})
		})
	}
}

// gcpFaults: what the store, and the way to it, can do to a call.
func gcpFaults(s *store) []escrowtest.Fault {
	var faults []escrowtest.Fault
	add := func(op, name string, f sm.Fault, want error, stored bool) {
		faults = append(faults, escrowtest.Fault{
			Name: op + " " + name, Op: op, Want: want, Stored: stored,
			Break: func(*testing.T) func() { s.Break(f); return s.Heal },
		})
	}
	const addVersion, access, list = "AddSecretVersion", "AccessSecretVersion", "ListSecretVersions"
	// Lost answers: what was asked for is there, and a save finds that out by itself.
	add("save", "cut before storing", sm.Fault{Kind: sm.CutBefore, Method: addVersion}, escrow.ErrUnreachable, false)
	add("save", "cut after storing", sm.Fault{Kind: sm.CutAfter, Method: addVersion}, nil, true)
	add("save", "unavailable before storing", sm.Fault{Kind: sm.Fail, Code: codes.Unavailable, Method: addVersion}, escrow.ErrUnreachable, false)
	add("save", "unavailable after storing", sm.Fault{Kind: sm.FailAfter, Code: codes.Unavailable, Method: addVersion}, nil, true)
	add("save", "internal after storing", sm.Fault{Kind: sm.FailAfter, Code: codes.Internal, Method: addVersion}, nil, true)
	add("save", "deadline after storing", sm.Fault{Kind: sm.FailAfter, Code: codes.DeadlineExceeded, Method: addVersion}, escrow.ErrTimeout, true)
	add("save", "denied", sm.Fault{Kind: sm.Fail, Code: codes.PermissionDenied, Method: addVersion}, escrow.ErrDenied, false)
	add("save", "rate limited", sm.Fault{Kind: sm.Fail, Code: codes.ResourceExhausted, Method: addVersion}, escrow.ErrRateLimited, false)
	add("save", "refused", sm.Fault{Kind: sm.Fail, Code: codes.InvalidArgument, Method: addVersion}, escrow.ErrRefused, false)
	add("save", "comparison cut", sm.Fault{Kind: sm.CutBefore, Method: access, Times: 1}, escrow.ErrUnreachable, false)
	add("save", "no checksums", sm.Fault{Kind: sm.NoCRC}, nil, true)
	add("save", "read back wrong bytes", sm.Fault{Kind: sm.WrongBytes, Method: access}, escrow.ErrCorrupt, true)
	add("save", "read back wrong checksum", sm.Fault{Kind: sm.WrongCRC, Method: access}, escrow.ErrCorrupt, true)
	add("save", "everything denied", sm.Fault{Kind: sm.Fail, Code: codes.PermissionDenied}, escrow.ErrDenied, false)
	for code, want := range map[codes.Code]error{
		codes.Canceled: escrow.ErrUnreachable, codes.Unknown: escrow.ErrUnreachable, codes.InvalidArgument: escrow.ErrRefused,
		codes.DeadlineExceeded: escrow.ErrTimeout, codes.NotFound: escrow.ErrGone, codes.AlreadyExists: escrow.ErrRefused,
		codes.PermissionDenied: escrow.ErrDenied, codes.ResourceExhausted: escrow.ErrRateLimited,
		codes.FailedPrecondition: escrow.ErrUnreadable, codes.Aborted: escrow.ErrUnreachable, codes.OutOfRange: escrow.ErrRefused,
		codes.Unimplemented: escrow.ErrRefused, codes.Internal: escrow.ErrUnreachable, codes.Unavailable: escrow.ErrUnreachable,
		codes.DataLoss: escrow.ErrCorrupt, codes.Unauthenticated: escrow.ErrUnauthenticated, codes.Code(99): escrow.ErrUnreachable,
	} {
		add("fetch", code.String(), sm.Fault{Kind: sm.Fail, Code: code, Method: access}, want, false)
	}
	add("fetch", "cut", sm.Fault{Kind: sm.CutBefore, Method: access}, escrow.ErrUnreachable, false)
	add("fetch", "wrong checksum", sm.Fault{Kind: sm.WrongCRC, Method: access}, escrow.ErrCorrupt, false)
	add("fetch", "no checksum", sm.Fault{Kind: sm.NoCRC, Method: access}, nil, false)
	add("fetch", "slow", sm.Fault{Kind: sm.Slow, Delay: 20 * time.Millisecond, Method: access}, nil, false)
	add("list", "quarantine cut", sm.Fault{Kind: sm.CutBefore, Method: list, Secret: s.o.Secret + "-quarantine"}, escrow.ErrUnreachable, false)
	add("list", "quarantine denied", sm.Fault{Kind: sm.Fail, Code: codes.PermissionDenied, Method: list, Secret: s.o.Secret + "-quarantine"}, escrow.ErrDenied, false)
	add("list", "quarantine missing", sm.Fault{Kind: sm.Fail, Code: codes.NotFound, Method: list, Secret: s.o.Secret + "-quarantine"}, escrow.ErrNoPlace, false)
	add("list", "rate limited", sm.Fault{Kind: sm.Fail, Code: codes.ResourceExhausted, Method: list}, escrow.ErrRateLimited, false)
	return faults
}

// TestGCPNothingIsRepeated: back-off is the caller's. What the vendor's client would
// repeat until the deadline is asked once.
func TestGCPNothingIsRepeated(t *testing.T) {
	s := startStore(t, sm.Options{}, sm.Admin)
	e := s.ready(t)
	c, err := e.Save(t.Context(), escrow.Current, key.Generate())
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []codes.Code{codes.Unavailable, codes.ResourceExhausted, codes.Internal, codes.Aborted} {
		s.Reset()
		s.Break(sm.Fault{Kind: sm.Fail, Code: code})
		if _, _, err := e.Fetch(t.Context(), c); err == nil {
			t.Fatal("the fault is not in force")
		}
		s.Heal()
		if n := s.Calls()["AccessSecretVersion"]; n != 1 {
			t.Errorf("%v: asked %d times", code, n)
		}
	}
}

// TestGCPCalls: quota is counted in calls.
func TestGCPCalls(t *testing.T) {
	s := startStore(t, sm.Options{}, sm.Admin)
	e := s.ready(t)
	k := key.Generate()
	for _, tt := range []struct {
		name string
		do   func() error
		want map[string]int
	}{
		{"save", func() error { _, err := e.Save(t.Context(), escrow.Current, k); return err },
			map[string]int{"AccessSecretVersion": 2, "AddSecretVersion": 1}},
		{"save again", func() error { _, err := e.Save(t.Context(), escrow.Current, k); return err },
			map[string]int{"AccessSecretVersion": 1}},
		{"fetch", func() error { _, _, err := e.Fetch(t.Context(), escrow.Copy{ID: "current/1"}); return err },
			map[string]int{"AccessSecretVersion": 1}},
		{"list", func() error { _, err := e.List(t.Context()); return err }, map[string]int{"ListSecretVersions": 2}},
		{"init again", func() error { return e.Init(t.Context()) }, map[string]int{"GetSecret": 2}},
	} {
		s.Reset()
		if err := tt.do(); err != nil {
			t.Fatal(tt.name, err)
		}
		if got := s.Calls(); fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestGCPHung: a store that takes a call and says nothing is asked once, and costs one
// deadline.
func TestGCPHung(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"AccessSecretVersion", "token"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			s := startStore(t, sm.Options{}, sm.Admin)
			c, err := s.ready(t).Save(t.Context(), escrow.Current, key.Generate())
			if err != nil {
				t.Fatal(err)
			}
			s.Break(sm.Fault{Kind: sm.Hang, Method: method})
			s.o.Timeout = callTimeout
			s.Reset()
			start := time.Now()
			_, _, err = s.open(t).Fetch(t.Context(), c)
			if n, took := s.Calls()[method], time.Since(start); !errors.Is(err, escrow.ErrTimeout) || n != 1 || took > 10*callTimeout {
				t.Errorf("%v after %d calls and %v, want ErrTimeout after one and %v", err, n, took, callTimeout)
			}
		})
	}
}

func TestGCPNewestUnreadable(t *testing.T) {
	for _, state := range []secretmanagerpb.SecretVersion_State{secretmanagerpb.SecretVersion_DISABLED, secretmanagerpb.SecretVersion_DESTROYED} {
		s := startStore(t, sm.Options{}, sm.Admin)
		e := s.ready(t)
		older, k := key.Generate(), key.Generate()
		for _, k := range []key.Key{older, k} {
			if _, err := e.Save(t.Context(), escrow.Current, k); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Set(s.secret(escrow.Current), 2, state); err != nil {
			t.Fatal(err)
		}
		process := e // that has saved it
		e = s.open(t)
		copies, err := e.List(t.Context())
		if err != nil || len(copies) != 2 {
			t.Fatal(copies, err)
		}
		if word := strings.ToLower(state.String()); copies[0].Unreadable != word || copies[1].Unreadable != "" {
			t.Errorf("listed as %q and %q, want %q and readable", copies[0].Unreadable, copies[1].Unreadable, word)
		}
		if _, _, err := e.Fetch(t.Context(), copies[0]); !errors.Is(err, escrow.ErrUnreadable) || errors.Is(err, escrow.ErrRefused) {
			t.Errorf("Fetch: %v, want ErrUnreadable", err)
		}
		if got, _, err := e.Fetch(t.Context(), copies[1]); err != nil || !got.Equal(older) {
			t.Errorf("Fetch of the older one: %v, %v", got, err)
		}
		// The key that was disabled is saved again: `latest` is to return it.
		if c, err := process.Save(t.Context(), escrow.Current, k); err != nil || c.ID != "current/3" {
			t.Errorf("Save: %+v, %v", c, err)
		}
		// The same where another process saved what is on top now.
		try(t, s.Set(s.secret(escrow.Current), 3, state))
		if c, err := e.Save(t.Context(), escrow.Current, k); err != nil || c.ID != "current/4" {
			t.Errorf("Save: %+v, %v", c, err)
		}
		s.Put(s.secret(escrow.Current), []byte("by hand"))
		try(t, s.Set(s.secret(escrow.Current), 5, state))
		if c, err := e.Save(t.Context(), escrow.Current, k); err != nil || c.ID != "current/6" {
			t.Errorf("Save under a newest copy that cannot be read: %+v, %v", c, err)
		}
	}
}

// TestGCPRoles: what each identity can and cannot do, and that it is told so.
func TestGCPRoles(t *testing.T) {
	for _, tt := range []struct {
		roles             []sm.Role
		list, fetch, save error
	}{
		{[]sm.Role{sm.Reader}, nil, nil, escrow.ErrDenied},
		{[]sm.Role{sm.Accessor}, escrow.ErrDenied, nil, escrow.ErrDenied},
		{[]sm.Role{sm.Viewer}, nil, escrow.ErrDenied, escrow.ErrDenied},
		{[]sm.Role{sm.Adder}, escrow.ErrDenied, escrow.ErrDenied, escrow.ErrUnverified},
		{[]sm.Role{sm.Adder, sm.Viewer}, nil, escrow.ErrDenied, escrow.ErrUnverified},
		{[]sm.Role{sm.Adder, sm.Reader}, nil, nil, nil},
		{nil, escrow.ErrDenied, escrow.ErrDenied, escrow.ErrDenied},
	} {
		t.Run(fmt.Sprint(tt.roles), func(t *testing.T) {
			s := startStore(t, sm.Options{}, sm.Admin)
			if _, err := s.ready(t).Save(t.Context(), escrow.Current, key.Generate()); err != nil {
				t.Fatal(err)
			}
			s.Grant("host", tt.roles...)
			e := s.open(t)
			if _, err := e.List(t.Context()); !errors.Is(err, tt.list) {
				t.Errorf("List: %v, want %v", err, tt.list)
			}
			if _, _, err := e.Fetch(t.Context(), escrow.Copy{ID: "current/1"}); !errors.Is(err, tt.fetch) {
				t.Errorf("Fetch: %v, want %v", err, tt.fetch)
			}
			k := key.Generate()
			for range 3 {
				c, err := e.Save(t.Context(), escrow.Current, k)
				if !errors.Is(err, tt.save) {
					t.Errorf("Save: %v, want %v", err, tt.save)
				}
				if (err == nil || errors.Is(err, escrow.ErrUnverified)) && c.ID != "current/2" {
					t.Errorf("Save says %q, want current/2: an identity that may not read is no reason to pile up copies", c.ID)
				}
			}
		})
	}
}

func TestGCPMissingSecretIsNoPlace(t *testing.T) {
	s := startStore(t, sm.Options{}, sm.Admin)
	e := s.ready(t)
	c, err := e.Save(t.Context(), escrow.Current, key.Generate())
	if err != nil {
		t.Fatal(err)
	}
	s.Remove(s.secret(escrow.Quarantine))
	if copies, err := e.List(t.Context()); !errors.Is(err, escrow.ErrNoPlace) || copies != nil {
		t.Errorf("List without the quarantine secret: %v, %v", copies, err)
	}
	if _, _, err := e.Fetch(t.Context(), c); err != nil {
		t.Errorf("Fetch needs the one secret only: %v", err)
	}
	s.Remove(s.secret(escrow.Current))
	if _, _, err := e.Fetch(t.Context(), c); !errors.Is(err, escrow.ErrNoPlace) {
		t.Errorf("Fetch without the secret: %v, want ErrNoPlace", err)
	}
}

func TestGCPUnexpandedHostname(t *testing.T) {
	s := startStore(t, sm.Options{}, sm.Admin)
	s.o.Secret = "containarium-{hostname}-secrets-master"
	e := s.open(t)
	_, list := e.List(t.Context())
	_, _, fetch := e.Fetch(t.Context(), escrow.Copy{ID: "current/1"})
	_, save := e.Save(t.Context(), escrow.Current, key.Generate())
	for name, err := range map[string]error{"List": list, "Fetch": fetch, "Save": save, "Init": e.Init(t.Context())} {
		if !errors.Is(err, escrow.ErrNoPlace) || !strings.Contains(err.Error(), "not initialised") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if calls := s.Calls(); len(calls) != 0 {
		t.Errorf("calls were made: %v", calls)
	}
}

// TestGCPLabel: a secret that Terraform or a person made gets our label, beside its own.
func TestGCPLabel(t *testing.T) {
	s := startStore(t, sm.Options{}, sm.Admin)
	s.Put(s.secret(escrow.Current), []byte("by hand"))
	admin := s.open(t)
	// The first update meets an etag that has changed since.
	s.Break(sm.Fault{Kind: sm.Fail, Code: codes.FailedPrecondition, Method: "UpdateSecret", Times: 1})
	if err := admin.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, shelf := range escrow.Shelves {
		if l := s.Labels(s.secret(shelf)); l["managed-by"] != "keyguard" {
			t.Errorf("%s has labels %v", shelf, l)
		}
	}
	// Without the permission to label, a place that is there is a place.
	s.Remove(s.secret(escrow.Current))
	s.Put(s.secret(escrow.Current), []byte("by hand"))
	s.Grant("host", sm.Reader)
	if err := s.open(t).Init(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestGCPStale: "latest" and listings follow what was added by minutes. Nothing is
// stored twice for it.
func TestGCPStale(t *testing.T) {
	s := startStore(t, sm.Options{}, sm.Admin)
	e := s.ready(t)
	a, b := key.Generate(), key.Generate()
	if _, err := e.Save(t.Context(), escrow.Current, a); err != nil {
		t.Fatal(err)
	}
	s.Break(sm.Fault{Kind: sm.StaleLatest})
	for range 2 {
		if c, err := e.Save(t.Context(), escrow.Current, b); err != nil || c.ID != "current/2" {
			t.Errorf("Save: %+v, %v; want current/2", c, err)
		}
	}
	// "latest" is b's, and shows a's: a is not the newest.
	if c, err := e.Save(t.Context(), escrow.Current, a); err != nil || c.ID != "current/3" {
		t.Errorf("Save: %+v, %v; want current/3", c, err)
	}
	s.Heal()
	s.Break(sm.Fault{Kind: sm.StaleList})
	if copies, err := e.List(t.Context()); err != nil || len(copies) != 2 {
		t.Fatalf("the listing is not stale: %v, %v", copies, err)
	}
	if got, _, err := e.Fetch(t.Context(), escrow.Copy{ID: "current/3"}); err != nil || !got.Equal(a) {
		t.Errorf("Fetch of a copy that no listing shows yet: %v, %v", got, err)
	}
}

// TestGCPLocations: where an organisation says where copies may be, automatic replication is
// refused by name, and the regions of the configuration are taken.
func TestGCPLocations(t *testing.T) {
	for name, tt := range map[string]struct {
		location string
		replicas []string
		want     error
	}{
		"automatic":                 {"", nil, escrow.ErrLocation},
		"replicas":                  {"", []string{"europe-west1", "europe-west4"}, nil},
		"a replica that may not be": {"", []string{"europe-west1", "us-east1"}, escrow.ErrLocation},
		"regional":                  {"europe-west4", nil, nil},
		"a region that may not be":  {"us-east1", nil, escrow.ErrLocation},
	} {
		s := startStore(t, sm.Options{Location: tt.location, Allowed: []string{"europe-west1", "europe-west4"}}, sm.Admin)
		s.o.Location, s.o.Replicas = tt.location, tt.replicas
		err := s.open(t).Init(t.Context())
		if !errors.Is(err, tt.want) || tt.want != nil && (!errors.Is(err, escrow.ErrRefused) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		if tt.want == nil {
			if _, err := s.open(t).Save(t.Context(), escrow.Current, key.Generate()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestGCPManyVersions: a listing ends, and says that it is not whole.
func TestGCPManyVersions(t *testing.T) {
	s := startStore(t, sm.Options{Unlimited: true}, sm.Admin)
	e := s.ready(t)
	const n = 11_500
	for range n {
		s.Put(s.secret(escrow.Current), []byte("x"))
	}
	s.Reset()
	copies, err := e.List(t.Context())
	if err != nil || len(copies) != 10_001 || copies[0].ID != fmt.Sprint("current/", n) {
		t.Fatalf("%d copies, %v", len(copies), err)
	}
	last := copies[len(copies)-1]
	if last.Unreadable == "" {
		t.Errorf("the rest is %+v", last)
	}
	if _, _, err := e.Fetch(t.Context(), last); !errors.Is(err, escrow.ErrUnreadable) {
		t.Errorf("Fetch of the rest: %v, want ErrUnreadable", err)
	}
	if calls := s.Calls(); calls["ListSecretVersions"] > 11 {
		t.Errorf("%v", calls)
	}
}

// TestGCPLies: wrong bytes under a fitting checksum look like a key. Only a comparison,
// here, or the rows, later, tell (law 1).
func TestGCPLies(t *testing.T) {
	s := startStore(t, sm.Options{}, sm.Admin)
	e := s.ready(t)
	k := key.Generate()
	c, err := e.Save(t.Context(), escrow.Current, k)
	if err != nil {
		t.Fatal(err)
	}
	s.Break(sm.Fault{Kind: sm.WrongBytes})
	got, enc, err := e.Fetch(t.Context(), c)
	if err != nil || enc != key.Raw || got.Equal(k) {
		t.Errorf("Fetch: %v, %q, %v", got, enc, err)
	}
	if _, err := e.Save(t.Context(), escrow.Current, k); !errors.Is(err, escrow.ErrCorrupt) {
		t.Errorf("Save: %v, want ErrCorrupt", err)
	}
	if n := len(s.Versions(s.secret(escrow.Current))); n != 1 {
		t.Errorf("%d versions: a lying store made us add one each time", n)
	}
}

func TestGCPCredentials(t *testing.T) {
	s := startStore(t, sm.Options{}, sm.Admin)
	c, err := s.ready(t).Save(t.Context(), escrow.Current, key.Generate())
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "credentials.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	good, err := s.Credentials("host", "service_account")
	if err != nil {
		t.Fatal(err)
	}
	var foreign map[string]string // the same, with a key that the store does not know
	if err := json.Unmarshal(good, &foreign); err != nil {
		t.Fatal(err)
	}
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	foreign["private_key"] = string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)}))
	forged, err := json.Marshal(foreign)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		file string
		skew time.Duration
		want error
	}{
		{"service account", write(string(good)), 0, nil},
		{"authorized user", credentials(t, s.Server, "host", "authorized_user"), 0, nil},
		{"unknown identity", credentials(t, s.Server, "stranger", "service_account"), 0, escrow.ErrUnauthenticated},
		{"another key", write(string(forged)), 0, escrow.ErrUnauthenticated},
		{"no file", "/nonexistent/credentials.json", 0, escrow.ErrUnauthenticated},
		{"a directory", t.TempDir(), 0, escrow.ErrUnauthenticated},
		{"not JSON", write("hello"), 0, escrow.ErrUnauthenticated},
		{"another kind", write(`{"type":"root"}`), 0, escrow.ErrUnauthenticated},
		{"no private key", write(`{"type":"service_account","client_email":"host"}`), 0, escrow.ErrUnauthenticated},
		{"our clock is behind", write(string(good)), 3 * time.Hour, escrow.ErrClock},
		{"our clock is ahead", write(string(good)), -3 * time.Hour, escrow.ErrClock},
		{"no token endpoint", write(strings.ReplaceAll(string(good), s.TokenURL(), "http://"+closedPort(t)+"/token")), 0, escrow.ErrUnreachable},
		{"no name for the token endpoint", write(strings.ReplaceAll(string(good), s.TokenURL(), "http://no-such-host.invalid/token")), 0, escrow.ErrNeverLeft},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.Skew(tt.skew)
			defer s.Skew(0)
			o := s.o
			o.CredentialsFile = tt.file
			e, err := kinds.NewGCP(o)
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			_, _, err = e.Fetch(t.Context(), c)
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if tt.want != nil && !errors.Is(tt.want, escrow.ErrClock) && errors.Is(err, escrow.ErrClock) {
				t.Errorf("the clock is blamed: %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "PRIVATE KEY") {
				t.Errorf("the error holds the credentials: %v", err)
			}
			if err != nil && strings.HasSuffix(strings.TrimSpace(err.Error()), ":") {
				t.Errorf("the error does not say why: %q", err)
			}
		})
	}
}

// TestGCPTokens: one token serves many calls; a revoked one is replaced once; a clock
// that goes wrong later is named.
func TestGCPTokens(t *testing.T) {
	s := startStore(t, sm.Options{}, sm.Admin)
	e := s.ready(t)
	k := key.Generate()
	if _, err := e.Save(t.Context(), escrow.Current, k); err != nil {
		t.Fatal(err)
	}
	if n := s.Calls()["token"]; n != 1 {
		t.Errorf("%d tokens for a handful of calls", n)
	}
	s.Reset()
	if _, err := s.open(t).List(t.Context()); err != nil || s.Calls()["token"] != 1 {
		t.Errorf("two calls at once: %v, calls %v", err, s.Calls())
	}
	s.Reset()
	s.Revoke()
	if _, err := e.Save(t.Context(), escrow.Current, k); err != nil {
		t.Errorf("after the tokens were revoked: %v", err)
	}
	if n := s.Calls()["token"]; n != 1 {
		t.Errorf("%d tokens, want a new one", n)
	}
	s.Grant("host")
	if _, err := e.Save(t.Context(), escrow.Current, key.Generate()); !errors.Is(err, escrow.ErrDenied) {
		t.Errorf("without a role: %v, want ErrDenied", err)
	}
	// The server's clock passes the token's end, and ours does not.
	s.Grant("host", sm.Admin)
	s.Skew(2 * time.Hour)
	if _, err := e.Save(t.Context(), escrow.Current, k); !errors.Is(err, escrow.ErrClock) {
		t.Errorf("with clocks two hours apart: %v, want ErrClock", err)
	}
	// A refresh token does not care for clocks. Then the store's own Date tells.
	s.o.CredentialsFile = credentials(t, s.Server, "host", "authorized_user")
	s.Break(sm.Fault{Kind: sm.Fail, Code: codes.Unauthenticated, Method: "AccessSecretVersion"})
	for skew, clock := range map[time.Duration]bool{0: false, time.Minute: false, -2 * time.Hour: true, 2 * time.Hour: true} {
		s.Skew(skew)
		_, _, err := s.open(t).Fetch(t.Context(), escrow.Copy{ID: "current/1"})
		if !errors.Is(err, escrow.ErrUnauthenticated) || errors.Is(err, escrow.ErrClock) != clock {
			t.Errorf("with clocks %v apart: %v; the clock is why: %v", skew, err, clock)
		}
	}
}

// TestGCPDefaultCredentials: where they are looked for, and that a host without any is
// told so in a second, not in a minute.
func TestGCPDefaultCredentials(t *testing.T) {
	s := startStore(t, sm.Options{TLS: certificate}, sm.Admin)
	c, err := s.ready(t).Save(t.Context(), escrow.Current, key.Generate())
	if err != nil {
		t.Fatal(err)
	}
	file := s.o.CredentialsFile
	s.o.CredentialsFile, s.o.Timeout = "", time.Minute
	wellKnown := t.TempDir()
	if err := os.MkdirAll(filepath.Join(wellKnown, ".config/gcloud"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, filepath.Join(wellKnown, ".config/gcloud/application_default_credentials.json")); err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing, as off Google's cloud
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	s.Grant("metadata", sm.Admin)
	for _, tt := range []struct {
		name, variable, home, metadata string
		want                           error
	}{
		{"the variable", file, "/nonexistent", closedPort(t), nil},
		{"the home directory", "", wellKnown, closedPort(t), nil},
		{"the metadata server", "", "/nonexistent", s.MetadataHost(), nil},
		{"nothing", "", "/nonexistent", closedPort(t), escrow.ErrUnauthenticated},
		{"nothing that answers", "", "/nonexistent", silent.Addr().String(), escrow.ErrUnauthenticated},
		{"a variable that points nowhere", "/nonexistent/c.json", wellKnown, s.MetadataHost(), escrow.ErrUnauthenticated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", tt.variable)
			t.Setenv("HOME", tt.home)
			t.Setenv("GCE_METADATA_HOST", tt.metadata)
			e := s.open(t)
			start := time.Now()
			_, _, err := e.Fetch(t.Context(), c)
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
	// What was not there is looked for again: a cold boot's failure does not stick.
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	t.Setenv("HOME", "/nonexistent")
	t.Setenv("GCE_METADATA_HOST", closedPort(t))
	e := s.open(t)
	if _, _, err := e.Fetch(t.Context(), c); !errors.Is(err, escrow.ErrUnauthenticated) {
		t.Fatal(err)
	}
	t.Setenv("GCE_METADATA_HOST", s.MetadataHost())
	if _, _, err := e.Fetch(t.Context(), c); err != nil {
		t.Errorf("once the metadata server is up: %v", err)
	}
}

// TestMetadataProject: off Google's cloud there is no answer, soon.
func TestMetadataProject(t *testing.T) {
	s := startStore(t, sm.Options{}, sm.Admin)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "a portal") }))
	defer other.Close()
	for _, tt := range []struct{ name, host, want string }{
		{"in Google's cloud", s.MetadataHost(), sm.MetadataProject},
		{"nobody", closedPort(t), ""},
		{"nobody who answers", silent.Addr().String(), ""},
		{"somebody else", other.Listener.Addr().String(), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("GCE_METADATA_HOST", tt.host)
			got, err := kinds.MetadataProject(t.Context())
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// TestGCPBreaks: a connection that breaks is told in the same words, however it does.
func TestGCPBreaks(t *testing.T) {
	for name, end := range map[string]func(*net.TCPConn){
		"an end":  func(c *net.TCPConn) { c.CloseWrite() },
		"a reset": func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Read(make([]byte, 1)) // what it asks has come
				end(c.(*net.TCPConn))
			}
		}()
		e, err := kinds.NewGCP(kinds.GCPOptions{Name: "gcp", Project: "p", Secret: "s", Endpoint: l.Addr().String(), Plaintext: true, Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.Close() })
		if _, err = e.List(t.Context()); !errors.Is(err, escrow.ErrUnreachable) || !strings.HasSuffix(err.Error(), escrow.ErrUnreachable.Error()+": the connection broke") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestGCPNetwork: what never left the host, what did, and that a failed connection is
// not remembered.
func TestGCPNetwork(t *testing.T) {
	s := startStore(t, sm.Options{}, sm.Admin)
	c, err := s.ready(t).Save(t.Context(), escrow.Current, key.Generate())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, endpoint string
		plaintext      bool
		want, not      error
	}{
		{"refused", closedPort(t), true, escrow.ErrUnreachable, escrow.ErrNeverLeft},
		{"no name", "no-such-host.invalid:443", false, escrow.ErrNeverLeft, escrow.ErrTimeout},
		{"not TLS", s.Addr(), false, escrow.ErrUnreachable, escrow.ErrNeverLeft},
		{"not gRPC", strings.TrimSuffix(strings.TrimPrefix(s.TokenURL(), "http://"), "/token"), true, escrow.ErrUnreachable, escrow.ErrNeverLeft},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := s.o
			o.Endpoint, o.Plaintext, o.Timeout = tt.endpoint, tt.plaintext, time.Minute
			e, err := kinds.NewGCP(o)
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			for range 2 {
				_, _, err = e.Fetch(t.Context(), c)
				if !errors.Is(err, tt.want) || !errors.Is(err, escrow.ErrUnreachable) || errors.Is(err, tt.not) {
					t.Errorf("%v, want %v", err, tt.want)
				}
			}
		})
	}

	// A store that comes back is reached at the next call, not after gRPC's back-off.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	o := s.o
	o.Endpoint = address
	o.CredentialsFile = ""
	e, err := kinds.NewGCP(o)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for range 3 {
		if _, _, err := e.Fetch(t.Context(), c); !errors.Is(err, escrow.ErrUnreachable) {
			t.Fatal(err)
		}
	}
	back, err := sm.Start(sm.Options{Listen: address, Anonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	if err := e.Init(t.Context()); err != nil {
		t.Errorf("the store is back: %v", err)
	}
	if _, err := e.Save(t.Context(), escrow.Current, key.Generate()); err != nil {
		t.Error(err)
	}
	// Close ends the connection, and the escrow connects again.
	e.Close()
	if _, err := e.List(t.Context()); err != nil {
		t.Errorf("after Close: %v", err)
	}
}

// TestGCPNoRoute asks from a network namespace of its own, in which no interface is up.
func TestGCPNoRoute(t *testing.T) {
	child := exec.Command(os.Args[0], "no-route")
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	child.Env = append(os.Environ(), "GOOGLE_APPLICATION_CREDENTIALS="+startStore(t, sm.Options{}).o.CredentialsFile)
	out, err := child.CombinedOutput()
	if err != nil || string(out) != "never left\nnever left\n" {
		t.Errorf("%v: %s", err, out)
	}
}

// noRoute is the child of TestGCPNoRoute.
func noRoute(out io.Writer) {
	for _, o := range []kinds.GCPOptions{
		{Project: "my-project", Secret: "s"}, // the token already
		{Project: "my-project", Secret: "s", Endpoint: "127.0.0.1:1", Plaintext: true},
	} {
		e, err := kinds.NewGCP(o)
		must(err)
		if _, _, err = e.Fetch(context.Background(), escrow.Copy{ID: "current/1"}); errors.Is(err, escrow.ErrNeverLeft) {
			fmt.Fprintln(out, "never left")
		} else {
			fmt.Fprintln(out, err)
		}
	}
}

// canary is a key that every way of printing bytes shows as it is.
const canary = "canary-canary-canary-canary-0001"

// TestGCPDebugOutput: an administrator who debugs the daemon may have set these
// variables, and prestart inherits them (design §9). No key shows for it (law 8).
func TestGCPDebugOutput(t *testing.T) {
	s := startStore(t, sm.Options{Anonymous: true})
	child := exec.Command(os.Args[0], "canary")
	child.Env = append(os.Environ(), "ENDPOINT="+s.Addr(), "GODEBUG=http2debug=2", "GRPC_GO_LOG_SEVERITY_LEVEL=info",
		"GRPC_GO_LOG_VERBOSITY_LEVEL=99", "GRPC_BINARY_LOG_FILTER=*", "TMPDIR="+t.TempDir())
	child.Dir = t.TempDir()
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !strings.Contains(string(out), "http2: Framer") || !strings.Contains(string(out), "[core]") {
		t.Errorf("nothing was debugged: %s", out)
	}
	k, err := key.New([]byte(canary))
	must(err)
	for _, form := range []string{canary, hex.EncodeToString(k.UnsafeBytes()), base64.RawStdEncoding.EncodeToString(k.UnsafeBytes())} {
		if strings.Contains(string(out), form[:20]) {
			t.Errorf("the output holds the key: %s", out)
		}
	}
}

// saveCanary is the child of TestGCPDebugOutput.
func saveCanary() {
	e, err := kinds.NewGCP(kinds.GCPOptions{Project: "my-project", Secret: "s", Endpoint: os.Getenv("ENDPOINT"), Plaintext: true})
	must(err)
	must(e.Init(context.Background()))
	k, err := key.New([]byte(canary))
	must(err)
	c, err := e.Save(context.Background(), escrow.Current, k)
	must(err)
	_, _, err = e.Fetch(context.Background(), c)
	must(err)
}

func TestGCPOptions(t *testing.T) {
	good := kinds.GCPOptions{Name: "gcp", Project: "my-project", Secret: "s"}
	for _, tt := range []struct {
		name string
		set  func(*kinds.GCPOptions)
		want string // "" = accepted
	}{
		{"as it is", func(*kinds.GCPOptions) {}, ""},
		{"no project", func(o *kinds.GCPOptions) { o.Project = "" }, "project"},
		{"no secret", func(o *kinds.GCPOptions) { o.Secret = "" }, "secret"},
		{"no port", func(o *kinds.GCPOptions) { o.Endpoint = "localhost" }, "host:port"},
		{"plaintext to Google", func(o *kinds.GCPOptions) { o.Plaintext = true }, "loopback"},
		{"plaintext to the world", func(o *kinds.GCPOptions) { o.Plaintext, o.Endpoint = true, "192.0.2.1:80" }, "loopback"},
		{"plaintext to a name", func(o *kinds.GCPOptions) { o.Plaintext, o.Endpoint = true, "localhost.example:80" }, "loopback"},
		{"plaintext to ::1", func(o *kinds.GCPOptions) { o.Plaintext, o.Endpoint = true, "[::1]:80" }, ""},
		{"plaintext to localhost", func(o *kinds.GCPOptions) { o.Plaintext, o.Endpoint = true, "localhost:80" }, ""},
		{"a bad recipient", func(o *kinds.GCPOptions) { o.SealTo = []string{"age1nobody"} }, "age1nobody"},
	} {
		o := good
		tt.set(&o)
		_, err := kinds.NewGCP(o)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestGCPCanceled: who asks may stop asking.
func TestGCPCanceled(t *testing.T) {
	s := startStore(t, sm.Options{}, sm.Admin)
	e := s.ready(t)
	s.Break(sm.Fault{Kind: sm.Hang, Method: "ListSecretVersions"})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := e.List(ctx)
		ended <- err
	}()
	for s.Calls()["ListSecretVersions"] < 1 { // until it hangs
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) || errors.Is(err, escrow.ErrTimeout) {
		t.Errorf("%v, want context.Canceled", err)
	}
}

func TestSealedCopyIsAnAgeFile(t *testing.T) {
	s := startStore(t, sm.Options{}, sm.Admin)
	mine, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	var k key.Key
	for i, id := range []struct {
		to string
		as age.Identity
	}{{mine.Recipient().String(), mine}, {theirs.Recipient().String(), theirs}} {
		s.o.SealTo = []string{id.to}
		e := s.ready(t)
		k = key.Generate()
		for range 2 { // sealing is never twice the same, and is compared all the same
			if c, err := e.Save(t.Context(), escrow.Current, k); err != nil || c.ID != fmt.Sprintf("current/%d", i+1) {
				t.Fatal(c, err)
			}
		}
		stored := s.Versions(s.secret(escrow.Current))[i]
		r, err := age.Decrypt(strings.NewReader(string(stored)), id.as)
		if err != nil {
			t.Fatalf("age does not open it: %v", err)
		}
		plain := make([]byte, 64)
		n, _ := r.Read(plain)
		if !slices.Equal(plain[:n], k.UnsafeBytes()) {
			t.Error("age finds other bytes in it")
		}
	}
	// For another recipient the same key is sealed anew.
	s.o.SealTo = []string{mine.Recipient().String()}
	if c, err := s.open(t).Save(t.Context(), escrow.Current, k); err != nil || c.ID != "current/3" {
		t.Error(c, err)
	}
}

// closedPort is an address at which nobody listens.
func closedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func identityFile(t testing.TB) (recipient, file string) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "identity.txt")
	if err := os.WriteFile(file, []byte("# made by a test\n"+id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return id.Recipient().String(), file
}

// files is a list of at most one file.
func files(name string) []string {
	if name == "" {
		return nil
	}
	return []string{name}
}

func BenchmarkGCPFetch(b *testing.B) {
	s := startStore(b, sm.Options{Unlimited: true}, sm.Admin)
	e := s.ready(b)
	c, err := e.Save(b.Context(), escrow.Current, key.Generate())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("warm", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := e.Fetch(b.Context(), c); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("cold", func(b *testing.B) { // connection and token included: a restore
		for b.Loop() {
			e := s.open(b)
			if _, _, err := e.Fetch(b.Context(), c); err != nil {
				b.Fatal(err)
			}
			e.Close()
		}
	})
}

// BenchmarkNewGCP is on the healthy path (law 7).
func BenchmarkNewGCP(b *testing.B) {
	for b.Loop() {
		if _, err := kinds.NewGCP(kinds.GCPOptions{Name: "gcp", Project: "my-project", Secret: "s"}); err != nil {
			b.Fatal(err)
		}
	}
}
