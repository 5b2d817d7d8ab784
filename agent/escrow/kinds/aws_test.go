package kinds_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest"
	fake "github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/awssecrets"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// awsStore is a fake Secrets Manager and an escrow's options for it.
type awsStore struct {
	*fake.Server
	who fake.Identity
	o   kinds.AWSOptions
}

func startAWS(t testing.TB, o fake.Options, actions ...string) *awsStore {
	t.Helper()
	s := fake.Start(o)
	t.Cleanup(func() {
		s.Close()
		for _, a := range s.Abuses() {
			t.Error("abuse of the API:", a)
		}
	})
	if actions == nil {
		actions = fake.Actions
	}
	who := s.Grant(actions...)
	return &awsStore{s, who, kinds.AWSOptions{
		Name: "aws", Region: s.Region(), Secret: "containarium/h1/secrets-master", Endpoint: s.Addr(), Plaintext: true,
		Credentials: kinds.AWSCredentials{Kind: kinds.AWSFile, File: secretFile(t, "credentials", string(who.File("default")))},
		Timeout:     time.Minute,
	}}
}

func (s *awsStore) open(t testing.TB) *kinds.AWS {
	t.Helper()
	e, err := kinds.NewAWS(s.o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func (s *awsStore) ready(t testing.TB) *kinds.AWS {
	t.Helper()
	e := s.open(t)
	try(t, e.Init(t.Context()))
	return e
}

func (s *awsStore) secret(shelf escrow.Shelf) string {
	if shelf == escrow.Quarantine {
		return s.o.Secret + "-quarantine"
	}
	return s.o.Secret
}

func TestAWSConforms(t *testing.T) {
	t.Parallel()
	to, identity := identityFile(t)
	for _, tt := range []struct {
		name     string
		page     int
		to       []string
		identity string
	}{
		{name: "plain", page: 2},
		{name: "sealed and opened", to: []string{to}, identity: identity},
		{name: "sealed", to: []string{to}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			escrowtest.Run(t, escrowtest.Harness{
				Seals: len(tt.to) > 0, Sealed: len(tt.to) > 0 && tt.identity == "",
				New: func(t *testing.T) escrowtest.Place {
					s := startAWS(t, fake.Options{Page: tt.page})
					s.o.SealTo, s.o.IdentityFiles = tt.to, files(tt.identity)
					return escrowtest.Place{
						Open: func(t *testing.T) escrow.Escrow { return s.open(t) },
						Put: func(t *testing.T, shelf escrow.Shelf, data []byte) string {
							return string(shelf) + "/" + s.Put(s.secret(shelf), data, utf8.Valid(data))
						},
						Misname: func(_ *testing.T, id string, data []byte) string {
							secret := s.secret(escrow.Quarantine)
							_, version, _ := strings.Cut(id, "/")
							put := s.Put(secret, data, false)
							for _, stage := range s.Stages(secret)[version] {
								if strings.HasPrefix(stage, "keyguard-") {
									s.Move(secret, stage, put)
								}
							}
							return string(escrow.Quarantine) + "/" + put
						},
						Faults: awsFaults(s),
					}
				},
			})
		})
	}
}

func awsFaults(s *awsStore) []escrowtest.Fault {
	var faults []escrowtest.Fault
	add := func(op, name string, f fake.Fault, want error, stored bool) {
		faults = append(faults, escrowtest.Fault{
			Name: op + " " + name, Op: op, Want: want, Stored: stored,
			Break: func(*testing.T) func() { s.Break(f); return s.Heal },
		})
	}
	const put, get, list, describe = "PutSecretValue", "GetSecretValue", "ListSecretVersionIds", "DescribeSecret"
	fail := func(action string, status int, code, message string) fake.Fault {
		return fake.Fault{Kind: fake.Fail, Action: action, Status: status, Code: code, Message: message}
	}
	after := func(action string, status int, code, message string) fake.Fault {
		return fake.Fault{Kind: fake.FailAfter, Action: action, Status: status, Code: code, Message: message}
	}
	add("save", "cut before", fake.Fault{Kind: fake.CutBefore, Action: put}, escrow.ErrUnreachable, false)
	add("save", "cut after", fake.Fault{Kind: fake.CutAfter, Action: put}, nil, true)
	add("save", "failed before", fail(put, 500, "InternalServiceError", "An error occurred on the server side."), escrow.ErrUnreachable, false)
	add("save", "failed after", after(put, 500, "InternalServiceError", "An error occurred on the server side."), nil, true)
	add("save", "denied", fail(put, 400, "AccessDeniedException", "User is not authorized"), escrow.ErrDenied, false)
	add("save", "throttled", fail(put, 400, "ThrottlingException", "Rate exceeded"), escrow.ErrRateLimited, false)
	add("save", "over a quota", fail(put, 400, "LimitExceededException", "The request failed because it would exceed one of the Secrets Manager quotas."), escrow.ErrFull, false)
	add("save", "refused", fail(put, 400, "InvalidParameterException", "The parameter name or value is invalid."), escrow.ErrRefused, false)
	const deleted = "You can't perform this operation on the secret because it was marked for deletion."
	add("save", "deleted meanwhile", fail(put, 400, "InvalidRequestException", deleted), escrow.ErrUnreadable, false)
	add("save", "deleted before it is read back", after(put, 400, "InvalidRequestException", deleted), escrow.ErrUnreadable, true)
	add("save", "no encryption", fail(put, 400, "EncryptionFailure", "Secrets Manager can't encrypt"), escrow.ErrRefused, false)
	add("save", "comparison cut", fake.Fault{Kind: fake.CutBefore, Action: get, Times: 1}, escrow.ErrUnreachable, false)
	add("save", "description cut", fake.Fault{Kind: fake.CutBefore, Action: describe}, escrow.ErrUnreachable, false)
	for code, want := range map[string]error{
		"InternalServiceError": escrow.ErrUnreachable, "AccessDeniedException": escrow.ErrDenied, "DecryptionFailure": escrow.ErrUnreadable,
		"ThrottlingException": escrow.ErrRateLimited, "ValidationException": escrow.ErrRefused, "ExpiredTokenException": escrow.ErrUnauthenticated,
		"UnrecognizedClientException": escrow.ErrUnauthenticated, "RequestExpired": escrow.ErrClock, "SomethingNewException": escrow.ErrRefused,
	} {
		status := 400
		if code == "InternalServiceError" {
			status = 500
		}
		add("fetch", code, fail(get, status, code, "…"), want, false)
		if code != "DecryptionFailure" {
			add("list", code, fail(list, status, code, "…"), want, false)
		}
	}
	add("fetch", "cut", fake.Fault{Kind: fake.CutBefore, Action: get}, escrow.ErrUnreachable, false)
	add("fetch", "another's page", fake.Fault{Kind: fake.NotJSON, Action: get}, escrow.ErrNotStore, false)
	if len(s.o.SealTo) == 0 || len(s.o.IdentityFiles) > 0 { // else nobody here could tell
		add("fetch", "other bytes", fake.Fault{Kind: fake.Lie, Action: get}, escrow.ErrCorrupt, false)
	}
	add("fetch", "endless", fake.Fault{Kind: fake.Endless, Action: get}, escrow.ErrNotStore, false)
	add("fetch", "a proxy's refusal", fail(get, 407, "", ""), escrow.ErrUnreachable, false)
	add("list", "cut", fake.Fault{Kind: fake.CutBefore, Action: list}, escrow.ErrUnreachable, false)
	add("list", "description cut", fake.Fault{Kind: fake.CutBefore, Action: describe}, escrow.ErrUnreachable, false)
	add("list", "another's page", fake.Fault{Kind: fake.NotJSON, Action: list}, escrow.ErrNotStore, false)
	return faults
}

// TestAWSStores: what stands there is what the manual restores by hand, and every version
// is labelled, so that AWS never throws it away.
func TestAWSStores(t *testing.T) {
	t.Parallel()
	s := startAWS(t, fake.Options{})
	e := s.ready(t)
	a, b := key.Generate(), key.Generate()
	for _, k := range []key.Key{a, b, a} {
		c := mustSave(t, e, escrow.Current, k)
		if got := s.Value(s.o.Secret, ""); got != base64.StdEncoding.EncodeToString(k.UnsafeBytes()) {
			t.Errorf("the current value is %q", got)
		}
		stages := s.Stages(s.o.Secret)[strings.TrimPrefix(c.ID, "current/")]
		if len(stages) != 2 || stages[0] != fake.Current || stages[1] != "keyguard-"+string(k.Fingerprint()) {
			t.Errorf("labels %q", stages)
		}
		if c.Created.IsZero() || time.Since(c.Created).Abs() > time.Hour {
			t.Errorf("created %v", c.Created)
		}
	}
	copies, err := e.List(t.Context())
	if err != nil || len(copies) != 3 || copies[0].Fingerprint != a.Fingerprint() || copies[1].Fingerprint != b.Fingerprint() || copies[2].Fingerprint != "" {
		t.Errorf("%+v, %v", copies, err)
	}
	// The label has moved with the key; what it left is still a copy.
	if got, _, err := e.Fetch(t.Context(), copies[2]); err != nil || !got.Equal(a) {
		t.Errorf("%v, %v", got, err)
	}
}

// TestAWSCalls: how often the service is asked.
func TestAWSCalls(t *testing.T) {
	t.Parallel()
	s := startAWS(t, fake.Options{})
	e := s.ready(t)
	k := key.Generate()
	count := func(want map[string]int, what string, call func()) {
		t.Helper()
		before := s.Calls()
		call()
		for action, n := range s.Calls() {
			if n-before[action] != want[action] {
				t.Errorf("%s: %d calls of %s, want %d", what, n-before[action], action, want[action])
			}
		}
	}
	var c escrow.Copy
	count(map[string]int{"GetSecretValue": 2, "DescribeSecret": 1, "PutSecretValue": 1}, "a save", func() { c = mustSave(t, e, escrow.Current, k) })
	count(map[string]int{"GetSecretValue": 1}, "the same save", func() { mustSave(t, e, escrow.Current, k) })
	count(map[string]int{"DescribeSecret": 2, "ListSecretVersionIds": 2}, "a listing", func() { _, err := e.List(t.Context()); try(t, err) })
	count(map[string]int{"GetSecretValue": 1}, "a fetch", func() { _, _, err := e.Fetch(t.Context(), c); try(t, err) })
	s.Break(fake.Fault{Kind: fake.CutBefore})
	count(map[string]int{"DescribeSecret": 1}, "a listing in trouble", func() { e.List(t.Context()) }) //nolint:errcheck // counted
}

// TestAWSSaysWhatIsWrong: of a secret that was deleted, a KMS key that is off, a clock, a
// label that somebody moved, a shelf that is full.
func TestAWSSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	t.Run("deletion pending", func(t *testing.T) {
		s := startAWS(t, fake.Options{})
		e := s.ready(t)
		k := key.Generate()
		c := mustSave(t, e, escrow.Current, k)
		s.Delete(s.o.Secret)
		copies, err := e.List(t.Context())
		if err != nil || len(copies) != 1 || !strings.Contains(copies[0].Unreadable, "restore-secret") {
			t.Errorf("%+v, %v: want a copy that cannot be read", copies, err)
		}
		_, _, err = e.Fetch(t.Context(), c)
		_, serr := e.Save(t.Context(), escrow.Current, key.Generate())
		for _, err := range []error{err, serr, e.Init(t.Context())} {
			if !errors.Is(err, escrow.ErrUnreadable) || errors.Is(err, escrow.ErrNoPlace) || !strings.Contains(err.Error(), "restore-secret") {
				t.Errorf("%v, want ErrUnreadable and what brings it back", err)
			}
		}
		s.Undelete(s.o.Secret)
		if got, _, err := e.Fetch(t.Context(), c); err != nil || !got.Equal(k) {
			t.Errorf("restored: %v, %v", got, err)
		}
	})
	t.Run("KMS key disabled", func(t *testing.T) {
		s := startAWS(t, fake.Options{})
		e := s.ready(t)
		c := mustSave(t, e, escrow.Current, key.Generate())
		s.DisableKMS()
		if _, _, err := e.Fetch(t.Context(), c); !errors.Is(err, escrow.ErrUnreadable) || !strings.Contains(err.Error(), "KMS") {
			t.Errorf("%v", err)
		}
	})
	t.Run("not found means two things", func(t *testing.T) {
		s := startAWS(t, fake.Options{})
		e := s.ready(t)
		if copies, err := e.List(t.Context()); err != nil || len(copies) != 0 {
			t.Errorf("a secret without a value: %v, %v", copies, err)
		}
		s.o.Secret = "another"
		if copies, err := s.open(t).List(t.Context()); !errors.Is(err, escrow.ErrNoPlace) || copies != nil {
			t.Errorf("no secret: %v, %v", copies, err)
		}
	})
	t.Run("clock", func(t *testing.T) {
		for _, skew := range []time.Duration{time.Hour, -time.Hour} {
			s := startAWS(t, fake.Options{})
			e := s.ready(t)
			s.Skew(skew)
			if _, err := e.List(t.Context()); !errors.Is(err, escrow.ErrClock) {
				t.Errorf("%v ahead: %v", skew, err)
			}
		}
	})
	t.Run("full", func(t *testing.T) {
		s := startAWS(t, fake.Options{})
		e := s.ready(t)
		var last key.Key
		for range 18 {
			last = key.Generate()
			mustSave(t, e, escrow.Current, last)
		}
		before := s.Calls()["PutSecretValue"]
		if err := e.Rehearse(t.Context()); !errors.Is(err, escrow.ErrFull) || !strings.Contains(err.Error(), "18 keys") {
			t.Errorf("there is room: %v", err)
		}
		if _, err := e.Save(t.Context(), escrow.Current, key.Generate()); !errors.Is(err, escrow.ErrFull) || !strings.Contains(err.Error(), "18 keys") {
			t.Errorf("%v", err)
		}
		mustSave(t, e, escrow.Current, last) // what is labelled stays
		if n := s.Calls()["PutSecretValue"]; n != before {
			t.Errorf("%d versions were added to a full secret", n-before)
		}
	})
	t.Run("replica", func(t *testing.T) {
		s := startAWS(t, fake.Options{})
		e := s.ready(t)
		try(t, e.Rehearse(t.Context()))
		s.Replica(s.Region())
		try(t, e.Rehearse(t.Context())) // a primary takes another
		s.Replica("eu-west-3")
		if err := e.Rehearse(t.Context()); !errors.Is(err, escrow.ErrRefused) || !strings.Contains(err.Error(), "eu-west-3") {
			t.Errorf("a replica takes another: %v", err)
		}
		if _, err := e.Save(t.Context(), escrow.Current, key.Generate()); !errors.Is(err, escrow.ErrRefused) {
			t.Errorf("%v", err)
		}
	})
	t.Run("label moved", func(t *testing.T) {
		s := startAWS(t, fake.Options{})
		e := s.ready(t)
		old := mustSave(t, e, escrow.Current, key.Generate())
		k := key.Generate()
		mustSave(t, e, escrow.Current, k)
		s.Move(s.o.Secret, fake.Current, strings.TrimPrefix(old.ID, "current/"))
		// The newest is what every other tool takes for it, and law 4 sees that it is not ours.
		copies, err := e.List(t.Context())
		if err != nil || copies[0].ID != old.ID {
			t.Errorf("%+v, %v", copies, err)
		}
		// The connection breaks: the version from before is no sign that it is on top now.
		s.Break(fake.Fault{Action: "PutSecretValue", Kind: fake.CutBefore, Times: 1})
		if c, err := e.Save(t.Context(), escrow.Current, k); !errors.Is(err, escrow.ErrUnreachable) {
			t.Errorf("%+v, %v", c, err)
		}
		// Once a person has accepted that, the key comes on top again, as often as it takes.
		for range 3 {
			back := mustSave(t, e, escrow.Current, k)
			if copies, err := e.List(t.Context()); err != nil || copies[0].ID != back.ID || copies[0].Fingerprint != k.Fingerprint() {
				t.Errorf("%+v, %v", copies, err)
			}
			s.Move(s.o.Secret, fake.Current, strings.TrimPrefix(old.ID, "current/"))
		}
		// A fingerprint on another version than its key's is no copy of that key.
		s.Move(s.o.Secret, "keyguard-"+string(k.Fingerprint()), strings.TrimPrefix(old.ID, "current/"))
		if got, _, err := e.Fetch(t.Context(), old); err == nil && got.Equal(k) {
			t.Errorf("%v, %v", got, err)
		}
	})
	t.Run("credentials revoked", func(t *testing.T) {
		s := startAWS(t, fake.Options{})
		e := s.ready(t)
		s.Revoke(s.who)
		if _, err := e.List(t.Context()); !errors.Is(err, escrow.ErrUnauthenticated) || errors.Is(err, escrow.ErrClock) {
			t.Errorf("%v", err)
		}
	})
	t.Run("least rights", func(t *testing.T) {
		s := startAWS(t, fake.Options{})
		s.ready(t)
		s.Allow(s.who, fake.Least...)
		e := s.ready(t) // Init of what Terraform made
		k := key.Generate()
		c := mustSave(t, e, escrow.Current, k)
		s.Allow(s.who, "PutSecretValue", "DescribeSecret")
		if c, err := e.Save(t.Context(), escrow.Current, key.Generate()); !errors.Is(err, escrow.ErrUnverified) || c.ID == "" {
			t.Errorf("without reading: %+v, %v", c, err)
		}
		if _, _, err := e.Fetch(t.Context(), c); !errors.Is(err, escrow.ErrDenied) {
			t.Errorf("without reading: %v", err)
		}
	})
}

// TestAWSCredentials: each way is asked as it is documented, and no other.
func TestAWSCredentials(t *testing.T) {
	s := startAWS(t, fake.Options{})
	s.ready(t)
	expires := time.Now().Add(time.Hour)
	keys, err := json.Marshal(map[string]any{"Code": "Success", "AccessKeyId": s.who.AccessKey, "SecretAccessKey": s.who.Secret,
		"Token": s.who.Session, "SessionToken": s.who.Session, "Version": 1, "Expiration": expires})
	try(t, err)
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" && r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds") != "":
			fmt.Fprint(w, "the-token")
		case r.Method == http.MethodGet && r.Header.Get("X-Aws-Ec2-Metadata-Token") == "the-token" && r.URL.Path == "/latest/meta-data/iam/security-credentials/":
			fmt.Fprint(w, "keyguard-host")
		case r.Method == http.MethodGet && r.Header.Get("X-Aws-Ec2-Metadata-Token") == "the-token" && r.URL.Path == "/latest/meta-data/iam/security-credentials/keyguard-host",
			r.Method == http.MethodGet && r.URL.Path == "/container" && r.Header.Get("Authorization") == "container token":
			w.Write(keys) //nolint:errcheck // the client looks
		case r.Method == http.MethodPost && r.FormValue("Action") == "AssumeRoleWithWebIdentity" && r.FormValue("RoleArn") == "arn:aws:iam::123456789012:role/host" &&
			r.FormValue("WebIdentityToken") == "web token" && r.FormValue("Version") == "2011-06-15" && r.Header.Get("Authorization") == "":
			fmt.Fprintf(w, `{"AssumeRoleWithWebIdentityResponse":{"AssumeRoleWithWebIdentityResult":{"Credentials":{"AccessKeyId":%q,"SecretAccessKey":%q,"SessionToken":%q,"Expiration":%d}}}}`,
				s.who.AccessKey, s.who.Secret, s.who.Session, expires.Unix())
		default:
			http.Error(w, "no", http.StatusForbidden)
		}
	}))
	defer agent.Close()
	addr := strings.TrimPrefix(agent.URL, "http://")
	token := secretFile(t, "token", "web token\n")
	program := filepath.Join(t.TempDir(), "print")
	try(t, os.WriteFile(program, []byte("#!/bin/sh\ncat <<'END'\n"+string(keys)+"\nEND\n"), 0o700))
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.URL+"/container")
	t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container token")
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAWRONGWRONGWRONG0")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	good := []kinds.AWSCredentials{
		{Kind: kinds.AWSFile, File: secretFile(t, "keys", string(s.who.File("host"))), Profile: "host"},
		{Kind: kinds.AWSInstance, Metadata: addr},
		{Kind: kinds.AWSContainer},
		{Kind: kinds.AWSProcess, Process: []string{program}},
		{Kind: kinds.AWSWebIdentity, Role: "arn:aws:iam::123456789012:role/host", TokenFile: token, STS: addr},
	}
	for _, c := range good {
		s.o.Credentials = c
		if _, err := s.open(t).List(t.Context()); err != nil {
			t.Errorf("%s: %v", c.Kind, err)
		}
	}
	bad := []kinds.AWSCredentials{
		{Kind: kinds.AWSEnvironment}, // the daemon's own, which are others
		{Kind: kinds.AWSFile, File: "/nowhere"},
		{Kind: kinds.AWSFile, File: secretFile(t, "others", string(s.who.File("host")))}, // no default in it
		{Kind: kinds.AWSInstance, Metadata: closedPort(t)},
		{Kind: kinds.AWSProcess, Process: []string{"/bin/false"}},
		{Kind: kinds.AWSWebIdentity, Role: "arn:aws:iam::123456789012:role/another", TokenFile: token, STS: addr},
	}
	for _, c := range bad {
		s.o.Credentials = c
		_, err := s.open(t).List(t.Context())
		if !errors.Is(err, escrow.ErrUnauthenticated) {
			t.Errorf("%+v: %v", c, err)
		}
		if err != nil && strings.Contains(err.Error(), s.who.Secret) {
			t.Errorf("%s: the error tells a secret: %v", c.Kind, err)
		}
	}
	t.Setenv("AWS_ACCESS_KEY_ID", s.who.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s.who.Secret)
	t.Setenv("AWS_SESSION_TOKEN", s.who.Session)
	s.o.Credentials = kinds.AWSCredentials{Kind: kinds.AWSEnvironment}
	if _, err := s.open(t).List(t.Context()); err != nil {
		t.Errorf("environment: %v", err)
	}
}

func TestAWSOptions(t *testing.T) {
	t.Parallel()
	file := kinds.AWSCredentials{Kind: kinds.AWSFile, File: "/f"}
	for want, o := range map[string]kinds.AWSOptions{
		"region and secret are needed": {Region: "eu-central-1", Credentials: file},
		"is no region":                 {Region: "eu/../x", Secret: "s", Credentials: file},
		"is not host:port":             {Region: "eu-central-1", Secret: "s", Credentials: file, Endpoint: "https://x"},
		"loopback":                     {Region: "eu-central-1", Secret: "s", Credentials: file, Endpoint: "10.0.0.1:80", Plaintext: true},
		"credentials are named":        {Region: "eu-central-1", Secret: "s"},
		"need the file":                {Region: "eu-central-1", Secret: "s", Credentials: kinds.AWSCredentials{Kind: kinds.AWSFile}},
		"need the program":             {Region: "eu-central-1", Secret: "s", Credentials: kinds.AWSCredentials{Kind: kinds.AWSProcess}},
	} {
		if _, err := kinds.NewAWS(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	e, err := kinds.NewAWS(kinds.AWSOptions{Region: "cn-north-1", Secret: "containarium-{hostname}", Credentials: file})
	try(t, err)
	if _, err := e.List(t.Context()); !errors.Is(err, escrow.ErrNoPlace) {
		t.Errorf("not expanded: %v", err)
	}
	if _, err := e.Save(t.Context(), escrow.Current, key.Generate()); !errors.Is(err, escrow.ErrNoPlace) {
		t.Errorf("not expanded: %v", err)
	}
}
