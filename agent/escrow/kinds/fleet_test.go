package kinds_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	awsfake "github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/awssecrets"
	sm "github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/secretmanager"
	fake "github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/vault"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// park is a store of one kind with the places of many hosts, and somebody who may look at
// its metadata alone.
type park struct {
	host   func(host string) escrow.Escrow // as the host itself has it
	fleet  escrow.Fleet
	values func() int // how often anybody read a value, or tried
	reset  func()     // set the counters to zero
	nohost bool       // it does not list its hosts
	notold bool       // it tells no times
}

// parks are stores of every kind.
var parks = map[string]func(t *testing.T) park{
	"Secret Manager":             func(t *testing.T) park { return gcpPark(t, sm.Options{MaxPage: 2}) },
	"a region's":                 func(t *testing.T) park { return gcpPark(t, sm.Options{Location: "europe-west1"}) },
	"Vault, KV 2":                func(t *testing.T) park { return vaultPark(t, 2, "hosts/{hostname}/master") },
	"Vault, KV 2, the host last": func(t *testing.T) park { return vaultPark(t, 2, "containarium-{hostname}") },
	"Vault, KV 1":                func(t *testing.T) park { return vaultPark(t, 1, "hosts/{hostname}/master") },
	"AWS": func(t *testing.T) park {
		s := startAWS(t, awsfake.Options{Page: 3})
		o := s.o
		o.Secret = "containarium/{hostname}/master"
		audit := o
		who := s.Grant(awsfake.Audit...)
		audit.Credentials.File = secretFile(t, "credentials", string(who.File("default")))
		f, err := kinds.NewAWSFleet(audit, kinds.FleetOptions{})
		try(t, err)
		before := 0
		return park{fleet: f, host: func(host string) escrow.Escrow {
			one := o
			one.Secret = strings.ReplaceAll(o.Secret, "{hostname}", host)
			e, err := kinds.NewAWS(one)
			try(t, err)
			return e
		}, values: func() int { return s.Calls()["GetSecretValue"] - before }, reset: func() { before = s.Calls()["GetSecretValue"] }}
	},
	"a directory":       func(t *testing.T) park { return directoryPark(t, "{hostname}") },
	"a directory below": func(t *testing.T) park { return directoryPark(t, "h-{hostname}/keys") },
	"programs": func(t *testing.T) park {
		dir := t.TempDir()
		script := filepath.Join(dir, "store")
		try(t, os.WriteFile(script, []byte("#!/bin/sh\nset -e\ncd "+dir+"\nmkdir -p \"$2\"\ncase $1 in\nlist) cd \"$2\"; find . -type f | cut -c3- ;;\nsave) mkdir -p \"$(dirname \"$2/$3\")\"; cat >\"$2/$3\" ;;\nfetch) echo x >>values; cat \"$2/$3\" ;;\nesac\n"), 0o700))
		o := kinds.CommandOptions{Name: "programs", List: []string{script, "list", "{hostname}"},
			Save: []string{script, "save", "{hostname}", "{name}"}, Fetch: []string{script, "fetch", "{hostname}", "{name}"}}
		f, err := kinds.NewCommandFleet(o, kinds.FleetOptions{})
		try(t, err)
		log := filepath.Join(dir, "values")
		return park{fleet: f, nohost: true, host: func(host string) escrow.Escrow {
			one := o
			for _, c := range []*[]string{&one.List, &one.Save, &one.Fetch} {
				*c = slices.Clone(*c)
				for i := range *c {
					(*c)[i] = strings.ReplaceAll((*c)[i], "{hostname}", host)
				}
			}
			e, err := kinds.NewCommand(one)
			try(t, err)
			return e
		}, reset: func() { os.Remove(log) }, values: func() int { b, _ := os.ReadFile(log); return len(b) }}
	},
}

func gcpPark(t *testing.T, so sm.Options) park {
	s := startStore(t, so, sm.Admin)
	s.Grant("auditor", sm.Viewer)
	o := s.o
	o.Secret = "containarium-{hostname}-master"
	audit := o
	audit.CredentialsFile = credentials(t, s.Server, "auditor", "service_account")
	f, err := kinds.NewGCPFleet(audit, kinds.FleetOptions{})
	try(t, err)
	return park{fleet: f, host: func(host string) escrow.Escrow {
		one := o
		one.Secret = strings.ReplaceAll(o.Secret, "{hostname}", host)
		e, err := kinds.NewGCP(one)
		try(t, err)
		return e
	}, reset: s.Reset, values: func() int { return s.Calls()["AccessSecretVersion"] }}
}

func vaultPark(t *testing.T, kv int, pattern string) park {
	s := startSafe(t, kv, fake.Options{})
	s.Policy("hosts", fake.Policy{safeMount + "/*": {"create", "read", "update", "list"}})
	audit := fake.Policy{safeMount + "/metadata/*": {"read", "list"}}
	if kv == 1 {
		audit = fake.Policy{safeMount + "/*": {"list"}}
	}
	s.Policy("audit", audit)
	o := s.o
	o.Path, o.TokenFile = pattern, secretFile(t, "token", s.Token(fake.TokenOptions{Policies: []string{"hosts"}}))
	auditor := o
	auditor.TokenFile = secretFile(t, "token", s.Token(fake.TokenOptions{Policies: []string{"audit"}}))
	f, err := kinds.NewVaultFleet(auditor, kinds.FleetOptions{})
	try(t, err)
	return park{fleet: f, notold: kv == 1, host: func(host string) escrow.Escrow {
		one := o
		one.Path = strings.ReplaceAll(pattern, "{hostname}", host)
		e, err := kinds.NewVault(one)
		try(t, err)
		return e
	}, reset: s.Reset, values: func() (n int) {
		for call, times := range s.Calls() {
			method, path, _ := strings.Cut(call, " ")
			if method == http.MethodGet && strings.Contains(path, safeMount+"/") && !strings.Contains(path, "/metadata/") && !strings.Contains(path, "sys/") {
				n += times
			}
		}
		return n
	}}
}

func directoryPark(t *testing.T, pattern string) park {
	dir := t.TempDir()
	o := kinds.DirectoryOptions{Name: "usb", Path: filepath.Join(dir, pattern), AllowSameDisk: true}
	f, err := kinds.NewDirectoryFleet(o, kinds.FleetOptions{})
	try(t, err)
	return park{fleet: f, values: func() int { return 0 }, reset: func() {}, host: func(host string) escrow.Escrow {
		one := o
		one.Path = strings.ReplaceAll(o.Path, "{hostname}", host)
		try(t, os.MkdirAll(filepath.Dir(one.Path), 0o700))
		e, err := kinds.NewDirectory(one)
		try(t, err)
		return e
	}}
}

// TestFleets: what hosts have saved themselves is seen by somebody who may read no value, in
// stores of every kind, and no value is asked for.
func TestFleets(t *testing.T) {
	for kind, start := range parks {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			t.Cleanup(func() { p.fleet.Close() })
			if where := p.fleet.Place().Where; !strings.Contains(where, "{hostname}") {
				t.Errorf("it is at %q", where)
			}
			keys := map[string]key.Key{}
			for _, host := range []string{"web1", "web2", "db-1"} {
				e := p.host(host)
				try(t, e.Init(t.Context()))
				if host == "db-1" {
					continue // made, and nothing saved yet
				}
				keys[host] = key.Generate()
				_, err := e.Save(t.Context(), escrow.Current, keys[host])
				try(t, err)
			}
			_, err := p.host("web2").Save(t.Context(), escrow.Quarantine, key.Generate())
			try(t, err)
			p.reset()

			hosts, err := p.fleet.Hosts(t.Context())
			if p.nohost {
				if !errors.Is(err, escrow.ErrNotListed) {
					t.Errorf("hosts: %v, %v", hosts, err)
				}
			} else if got := slices.Sorted(maps.Keys(hosts)); err != nil || !slices.Equal(got, []string{"db-1", "web1", "web2"}) {
				t.Errorf("hosts: %q, %v", got, err)
			}
			for host, want := range map[string]struct{ missing, current, quarantine bool }{
				"web1": {current: true}, "web2": {current: true, quarantine: true}, "db-1": {}, "web3": {missing: true},
			} {
				got, err := p.fleet.Look(t.Context(), host)
				if err != nil || got.Missing != want.missing || (got.Current != nil) != want.current || (got.Quarantine != nil) != want.quarantine {
					t.Errorf("%s: %+v, %v; want %+v", host, got, err, want)
					continue
				}
				for _, c := range []*escrow.Copy{got.Current, got.Quarantine} {
					if c != nil && (c.Unreadable != "" || !p.notold && time.Since(c.Created).Abs() > time.Hour || p.notold && !c.Created.IsZero()) {
						t.Errorf("%s: %+v", host, c)
					}
				}
				if k, ok := keys[host]; ok && got.Current != nil && got.Current.Fingerprint != "" && got.Current.Fingerprint != k.Fingerprint() {
					t.Errorf("%s: key %s, want %s", host, got.Current.Fingerprint, k.Fingerprint())
				}
			}
			if n := p.values(); n != 0 {
				t.Errorf("a value was asked for %d times", n)
			}
		})
	}
}

// A Fleet is for names that hold the host, and for what many hosts can reach.
func TestFleetRefuses(t *testing.T) {
	for name, open := range map[string]func() (escrow.Fleet, error){
		"Secret Manager": func() (escrow.Fleet, error) {
			return kinds.NewGCPFleet(kinds.GCPOptions{Project: "my-project", Secret: "one"}, kinds.FleetOptions{})
		},
		"Vault": func() (escrow.Fleet, error) {
			return kinds.NewVaultFleet(kinds.VaultOptions{Address: "https://v", Mount: "kv", Path: "one", TokenFile: "t"}, kinds.FleetOptions{})
		},
		"AWS": func() (escrow.Fleet, error) {
			return kinds.NewAWSFleet(kinds.AWSOptions{Region: "eu-central-1", Secret: "one"}, kinds.FleetOptions{})
		},
		"a directory": func() (escrow.Fleet, error) {
			return kinds.NewDirectoryFleet(kinds.DirectoryOptions{Path: "/mnt/keys"}, kinds.FleetOptions{})
		},
		"a stick": func() (escrow.Fleet, error) {
			return kinds.NewDirectoryFleet(kinds.DirectoryOptions{Path: "LABEL=KEYS/{hostname}"}, kinds.FleetOptions{})
		},
		"a command": func() (escrow.Fleet, error) {
			return kinds.NewCommandFleet(kinds.CommandOptions{Preset: "pass", Path: "one"}, kinds.FleetOptions{})
		},
		"an emulator's Asset Inventory": func() (escrow.Fleet, error) {
			return kinds.NewGCPFleet(kinds.GCPOptions{Project: "my-project", Secret: "{hostname}", Endpoint: "127.0.0.1:1", Plaintext: true}, kinds.FleetOptions{Assets: true})
		},
	} {
		if _, err := open(); !errors.Is(err, escrow.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFleetDomains: two paths on one disk are one failure domain, another file system is another.
func TestFleetDomains(t *testing.T) {
	memory, err := os.MkdirTemp("/dev/shm", "keyguard-test-")
	try(t, err)
	t.Cleanup(func() { os.RemoveAll(memory) })
	disk := t.TempDir()
	var domains []string
	for _, at := range []string{disk + "/a", disk + "/b", memory, disk + "/none"} {
		if !strings.HasSuffix(at, "/none") {
			try(t, os.MkdirAll(at+"/web1", 0o700))
		}
		f, err := kinds.NewDirectoryFleet(kinds.DirectoryOptions{Name: "d", Path: at + "/{hostname}"}, kinds.FleetOptions{})
		try(t, err)
		if before := f.Place().Domain; before != "the file system at "+at {
			t.Errorf("before anybody looks it is lost with %q", before)
		}
		_, err = f.Hosts(t.Context())
		if (err != nil) != strings.HasSuffix(at, "/none") {
			t.Errorf("%s: %v", at, err)
		}
		domains = append(domains, f.Place().Domain)
	}
	if domains[0] != domains[1] || domains[0] == domains[2] || domains[3] != "the file system at "+disk+"/none" {
		t.Errorf("they are lost with %q", domains)
	}
}

// TestFleetNewest: what stands on top in Secret Manager, and cannot be read.
func TestFleetNewest(t *testing.T) {
	t.Parallel()
	s := startStore(t, sm.Options{}, sm.Viewer)
	o := s.o
	o.Secret = "c-{hostname}"
	f, err := kinds.NewGCPFleet(o, kinds.FleetOptions{})
	try(t, err)
	defer f.Close()
	name := func(host string) string { return "projects/my-project/secrets/c-" + host }
	for _, host := range []string{"off", "gone", "soon", "byhand"} {
		s.Put(name(host), []byte("old"))
		s.Put(name(host), []byte("new"))
	}
	later := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	try(t, s.Set(name("off"), 2, pb.SecretVersion_DISABLED))
	try(t, s.Set(name("gone"), 2, pb.SecretVersion_DESTROYED))
	try(t, s.Schedule(name("soon"), 2, later))
	for host, want := range map[string]string{"off": "disabled", "gone": "destroyed", "soon": "disabled", "byhand": ""} {
		got, err := f.Look(t.Context(), host)
		if err != nil || got.Current == nil || got.Current.ID != "current/2" || got.Current.Unreadable != want || got.Current.Ends.Equal(later) != (host == "soon") || got.Quarantine != nil {
			t.Errorf("%s: %+v, %v", host, got.Current, err)
		}
	}
	// Without our label a secret is in no listing, and is seen by whoever asks for it.
	if hosts, err := f.Hosts(t.Context()); err != nil || len(hosts) != 0 {
		t.Errorf("hosts %v, %v", hosts, err)
	}
	if n := s.Calls()["AccessSecretVersion"]; n != 0 {
		t.Errorf("%d accesses", n)
	}
}

// TestFleetPolicies: a service account that may destroy is named, people are not, and what
// grants something unknown is said to be unknown.
func TestFleetPolicies(t *testing.T) {
	t.Parallel()
	s := startStore(t, sm.Options{}, sm.Viewer)
	var asked []string
	bindings := map[string]string{
		"/v1/projects/my-project:getIamPolicy": `{"role":"roles/owner_withcond_8ab3f1b1","members":["user:a@example.org","serviceAccount:ci@p"]},{"role":"roles/viewer","members":["serviceAccount:v@p"]}`,
		"/v3/folders/12:getIamPolicy":          `{"role":"roles/resourcemanager.folderAdmin","members":["group:g@example.org"]}`,
		"/v3/organizations/345:getIamPolicy":   `{"role":"roles/resourcemanager.organizationAdmin","members":["serviceAccount:top@q"]}`,
	}
	denied := ""
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path)
		body, _ := io.ReadAll(r.Body)
		switch {
		case !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer "):
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == denied:
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"error":{"message":"The caller does not have permission"}}`)
		case r.URL.Path == "/v1/projects/my-project:getAncestry" && string(body) == "{}":
			fmt.Fprint(w, `{"ancestor":[{"resourceId":{"type":"project","id":"my-project"}},{"resourceId":{"type":"folder","id":"12"}},{"resourceId":{"type":"organization","id":"345"}}]}`)
		case bindings[r.URL.Path] == "" || string(body) != `{"options":{"requestedPolicyVersion":3}}`:
			t.Errorf("%s with %s", r.URL, body)
		default:
			fmt.Fprint(w, `{"bindings":[`+bindings[r.URL.Path]+`]}`)
		}
	}))
	defer api.Close()
	o := s.o
	o.Secret = "c-{hostname}"
	f, err := kinds.NewGCPFleet(o, kinds.FleetOptions{PolicyURL: api.URL})
	try(t, err)
	defer f.Close()
	policied := f.(escrow.Policied)
	name := "projects/my-project/secrets/c-web1"
	s.Put(name, []byte("x"))
	s.Put(name+"-quarantine", []byte("x"))
	s.Allow(name, "roles/secretmanager.secretAccessor", "serviceAccount:web1@p")
	s.Allow(name, "roles/secretmanager.admin", "user:root@example.org")
	s.Allow(name, "roles/secretmanager.admin", "serviceAccount:web1@p")
	s.Allow(name+"-quarantine", "roles/secretmanager.secretVersionManager", "principalSet://iam/pool")
	got, err := policied.Destroyers(t.Context(), "web1")
	want := []string{"principalSet://iam/pool by roles/secretmanager.secretVersionManager", "serviceAccount:web1@p by roles/secretmanager.admin"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	if got, err := policied.Destroyers(t.Context(), "web2"); err != nil || len(got) != 0 {
		t.Errorf("of a host that is not there: %q, %v", got, err)
	}
	s.Put("projects/my-project/secrets/c-web3", []byte("x"))
	s.Allow("projects/my-project/secrets/c-web3", "projects/my-project/roles/keeper", "serviceAccount:web3@p")
	s.Allow("projects/my-project/secrets/c-web3", "projects/my-project/roles/keeper", "user:a@example.org")
	if got, err := policied.Destroyers(t.Context(), "web3"); len(got) != 0 || err == nil || err.Error() != "what projects/my-project/roles/keeper grants to serviceAccount:web3@p is not looked up" {
		t.Errorf("of a role of one's own: %q, %v", got, err)
	}
	want = []string{"serviceAccount:ci@p by roles/owner", "serviceAccount:top@q by roles/resourcemanager.organizationAdmin"}
	if got, err := policied.Destroyers(t.Context(), ""); err != nil || !slices.Equal(got, want) || !slices.Equal(asked, []string{"POST /v1/projects/my-project:getIamPolicy",
		"POST /v1/projects/my-project:getAncestry", "POST /v3/folders/12:getIamPolicy", "POST /v3/organizations/345:getIamPolicy"}) {
		t.Errorf("of the project: %q, %v, by %q", got, err, asked)
	}
	// What of it may not be read does not hide the rest.
	for path, left := range map[string]int{"/v1/projects/my-project:getIamPolicy": 1, "/v1/projects/my-project:getAncestry": 1, "/v3/organizations/345:getIamPolicy": 1, "/v3/folders/12:getIamPolicy": 2} {
		denied = path
		if got, err := policied.Destroyers(t.Context(), ""); len(got) != left || !errors.Is(err, escrow.ErrDenied) {
			t.Errorf("without %s: %q, %v", path, got, err)
		}
	}
	s.Grant("host", sm.Adder)
	if _, err := policied.Destroyers(t.Context(), "web1"); !errors.Is(err, escrow.ErrDenied) {
		t.Errorf("who may not read the policy: %v", err)
	}
}

// README's policy of one host, on KV version 2.
const readmePolicy = `
# what the README says
path "kv/data/web1"                  { capabilities = ["create", "read", "update"] }
path "kv/data/web1-keys/*"           { capabilities = ["create", "read"] }
path "kv/data/web1-quarantine/*"     { capabilities = ["create", "read"] }
path "kv/metadata/web1"              { capabilities = ["read"] }
path "kv/metadata/web1-keys/*"       { capabilities = ["list"] }
path "kv/metadata/web1-quarantine/*" { capabilities = ["list"] }
`

// TestFleetVaultPolicies: an AppRole whose policies let it destroy is named; of a policy that
// allows it and that no AppRole has, nobody knows whose it is.
func TestFleetVaultPolicies(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		kv       int
		policies map[string]string
		roles    map[string][]string
		host     string   // "" for all of the store
		who      []string // what each begins with
		unknown  []string // a part of each
	}{
		{"the README's", 2, map[string]string{"web1": readmePolicy}, map[string][]string{"web1": {"web1"}}, "web1", nil, nil},
		{"the README's, on all of it", 2, map[string]string{"web1": readmePolicy}, map[string][]string{"web1": {"web1"}}, "", nil, nil},
		{"no policies at all", 2, nil, nil, "web1", nil, nil},
		{"everything below the mount", 2, map[string]string{"all": `path "kv/*" { capabilities = ["create", "read", "update", "delete", "list"] }`},
			map[string][]string{"web1": {"all"}, "web2": {"none"}}, "web1", []string{"AppRole web1 by policy all"}, nil},
		{"the entry that is written over anyway", 2, map[string]string{"w": `path "kv/metadata/web1" { capabilities = ["delete"] }`}, map[string][]string{"w": {"w"}}, "web1", nil, nil},
		{"another host's", 2, map[string]string{"w2": `path "kv/metadata/web2-keys/*" { capabilities = ["delete"] }`}, map[string][]string{"web2": {"w2"}}, "web1", nil, nil},
		{"one segment for any host", 2, map[string]string{"w": `path "kv/destroy/+/*" { capabilities = ["update"] }`}, map[string][]string{"w": {"w"}}, "web1", []string{"AppRole w by policy w"}, nil},
		{"a template", 2, map[string]string{"w": `path "kv/metadata/{{identity.entity.name}}-keys/*" { capabilities = ["delete"] }`}, map[string][]string{"w": {"w"}}, "web1", []string{"AppRole w by policy w"}, nil},
		{"writing over in a folder", 2, map[string]string{"w": `path "kv/data/web1-keys/*" { capabilities = ["create", "update"] }`}, map[string][]string{"w": {"w"}}, "web1", []string{"AppRole w"}, nil},
		{"keeping one version only", 2, map[string]string{"w": `path "kv/metadata/web1-keys/*" { capabilities = ["update"] }`}, map[string][]string{"w": {"w"}}, "web1", []string{"AppRole w"}, nil},
		{"the old word for it", 2, map[string]string{"w": `path "kv/metadata/*" { policy = "write" }`}, map[string][]string{"w": {"w"}}, "web1", []string{"AppRole w"}, nil},
		{"in JSON", 2, map[string]string{"w": `{"path": {"kv/metadata/*": {"capabilities": ["delete"]}}}`}, map[string][]string{"w": {"w"}}, "web1", []string{"AppRole w"}, nil},
		{"denied where it counts", 2, map[string]string{"w": `path "kv/*" { capabilities = ["create", "read", "update"] }
			path "kv/data/web1-keys/*" { capabilities = ["create", "read"] }
			path "kv/data/web1-quarantine/*" { capabilities = ["create", "read"] }
			path "kv/metadata/*" { capabilities = ["deny"] }
			path "kv/delete/*" { capabilities = ["deny"] }
			path "kv/destroy/*" { capabilities = ["deny"] }`}, map[string][]string{"w": {"w"}}, "web1", nil, nil},
		{"one policy denies what another allows", 2, map[string]string{"a": `path "kv/destroy/*" { capabilities = ["update"] }`, "d": `path "kv/destroy/*" { capabilities = ["deny"] }`},
			map[string][]string{"w": {"a", "d"}}, "web1", nil, []string{"policy a allows it"}},
		{"a person's, or a token's", 2, map[string]string{"web1": readmePolicy, "admin": `path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }`},
			map[string][]string{"web1": {"web1"}}, "web1", nil, []string{"policy admin allows it, and the server does not tell who has it"}},
		{"default lets everybody", 2, map[string]string{"default": `path "kv/*" { capabilities = ["update"] }`}, map[string][]string{"web1": nil}, "web1", []string{"AppRole web1 by policy default"}, nil},
		{"may change policies", 2, map[string]string{"w": `path "sys/policies/acl/*" { capabilities = ["create", "update"] }`}, map[string][]string{"ci": {"w"}}, "", []string{"AppRole ci by policy w"}, nil},
		{"by their older name", 2, map[string]string{"w": `path "sys/policy/*" { capabilities = ["create", "update"] }`}, map[string][]string{"ci": {"w"}}, "", []string{"AppRole ci by policy w"}, nil},
		{"may unmount", 2, map[string]string{"w": `path "sys/mounts/*" { capabilities = ["delete"] }`}, map[string][]string{"ci": {"w"}}, "", []string{"AppRole ci by policy w"}, nil},
		{"a policy that is none", 2, map[string]string{"w": `path "kv/*" { capabilities = `}, map[string][]string{"w": {"w"}}, "web1", nil, []string{"policy w: "}},
		{"version 1, writing over a key's own entry", 1, map[string]string{"w": `path "kv/web1-keys/*" { capabilities = ["create", "update"] }`}, map[string][]string{"w": {"w"}}, "web1", []string{"AppRole w"}, nil},
		{"version 1, the README's", 1, map[string]string{"w": `path "kv/web1" { capabilities = ["create", "read", "update"] }
			path "kv/web1-keys/*" { capabilities = ["create", "read", "list"] }`}, map[string][]string{"w": {"w"}}, "web1", nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := fake.Start(fake.Options{})
			try(t, err)
			t.Cleanup(s.Close)
			s.Mount("kv", tt.kv)
			s.Policy("audit", fake.Policy{"kv/metadata/*": {"read", "list"}, "kv/*": {"list"}, "sys/policies/acl/*": {"read", "list"}, "auth/approle/role/*": {"read", "list"}})
			for name, text := range tt.policies {
				s.PolicyText(name, text)
			}
			for name, policies := range tt.roles {
				s.Role(name, policies...)
			}
			o := kinds.VaultOptions{Name: "v", Address: s.URL(), Mount: "kv", Path: "{hostname}",
				TokenFile: secretFile(t, "token", s.Token(fake.TokenOptions{Policies: []string{"audit"}}))}
			f, err := kinds.NewVaultFleet(o, kinds.FleetOptions{})
			try(t, err)
			defer f.Close()
			for range 2 { // the second time from what was read
				who, err := f.(escrow.Policied).Destroyers(t.Context(), tt.host)
				said := ""
				if err != nil {
					said = err.Error()
				}
				if len(who) != len(tt.who) || (said != "") != (len(tt.unknown) > 0) {
					t.Fatalf("%q, %v; want %q and %q", who, err, tt.who, tt.unknown)
				}
				for i, w := range tt.who {
					if !strings.HasPrefix(who[i], w) {
						t.Errorf("%q, want %q", who[i], w)
					}
				}
				for _, part := range tt.unknown {
					if !strings.Contains(said, part) {
						t.Errorf("%q is not in %q", part, said)
					}
				}
			}
			if n := s.Calls()["LIST sys/policies/acl"]; n != 1 {
				t.Errorf("the policies were listed %d times", n)
			}
		})
	}
}

// TestFleetVaultPoliciesDenied: who may not read the policies knows nothing of them, and who
// may not read the AppRoles knows no role that has one.
func TestFleetVaultPoliciesDenied(t *testing.T) {
	t.Parallel()
	s := startSafe(t, 2, fake.Options{})
	s.PolicyText("all", `path "*" { capabilities = ["delete"] }`)
	s.Role("web1", "all")
	for name, policy := range map[string]fake.Policy{
		"cannot read the policies: cannot list sys/policies/acl":        {safeMount + "/metadata/*": {"read", "list"}},
		"cannot read the policies: cannot read sys/policies/acl/all":    {safeMount + "/metadata/*": {"read"}, "sys/policies/acl/": {"list"}, "sys/policies/acl/default": {"read"}},
		"policy all allows it, and the server does not tell who has it": {safeMount + "/metadata/*": {"read"}, "sys/policies/acl/*": {"read", "list"}},
	} {
		s.Policy("audit", policy)
		o := s.o
		o.Path, o.TokenFile = "{hostname}", secretFile(t, "token", s.Token(fake.TokenOptions{Policies: []string{"audit"}}))
		f, err := kinds.NewVaultFleet(o, kinds.FleetOptions{})
		try(t, err)
		who, err := f.(escrow.Policied).Destroyers(t.Context(), "web1")
		if len(who) > 0 || !errors.Is(err, escrow.ErrDenied) || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %q, %v", name, who, err)
		}
		f.Close()
	}
}

// TestFleetAWSPolicies: what a secret's own policy allows is named, what it denies to
// everybody is known, and all else is IAM's, which nobody asks.
func TestFleetAWSPolicies(t *testing.T) {
	t.Parallel()
	const all = `["secretsmanager:DeleteSecret", "secretsmanager:UpdateSecretVersionStage", "secretsmanager:PutResourcePolicy", "secretsmanager:DeleteResourcePolicy"]`
	deny := func(actions, rest string) string {
		return `{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": {"AWS": "*"}, "Resource": "*", "Action": ` + actions + rest + `}]}`
	}
	guarded := deny(all, `, "Condition": {"StringNotEquals": {"aws:PrincipalArn": "arn:aws:iam::1:role/guardian"}}`)
	s := startAWS(t, awsfake.Options{})
	o := s.o
	o.Secret = "c/{hostname}"
	who := s.Grant(awsfake.Audit...)
	o.Credentials.File = secretFile(t, "credentials", string(who.File("default")))
	f, err := kinds.NewAWSFleet(o, kinds.FleetOptions{})
	try(t, err)
	defer f.Close()
	own := s.o
	own.Secret = "c/web1"
	e, err := kinds.NewAWS(own)
	try(t, err)
	try(t, e.Init(t.Context()))
	policied := f.(escrow.Policied)
	for _, tt := range []struct {
		name, policy string
		who          string // a part, "" for nobody
		known        bool
	}{
		{"none", "", "", false},
		{"the manual's", guarded, "", true},
		{"denied to everybody", deny(all, ""), "", true},
		{"denied by a pattern", deny(`"secretsmanager:*"`, ""), "", true},
		{"one statement, not in a list", `{"Statement": {"Effect": "Deny", "Principal": "*", "Resource": "*", "Action": "*"}}`, "", true},
		{"its policy may be taken away", deny(`["secretsmanager:DeleteSecret", "secretsmanager:UpdateSecretVersionStage", "secretsmanager:PutResourcePolicy"]`, ""), "", false},
		{"denied on a condition", deny(all, `, "Condition": {"Bool": {"aws:MultiFactorAuthPresent": "false"}}`), "", false},
		{"denied to all but a pattern", deny(all, `, "Condition": {"ArnNotLike": {"aws:PrincipalArn": "arn:aws:iam::1:role/*"}}`), "", false},
		{"denied to one", strings.Replace(deny(all, ""), `"*"`, `"arn:aws:iam::1:role/web1"`, 1), "", false},
		{"allowed to a host", `{"Statement": [{"Effect": "Allow", "Principal": {"AWS": ["arn:aws:iam::1:role/web1", "arn:aws:iam::1:root"]}, "Resource": "*", "Action": "secretsmanager:Delete*"}]}`, "arn:aws:iam::1:role/web1", false},
		{"allowed but for something", `{"Statement": [{"Effect": "Allow", "Principal": "*", "Resource": "*", "NotAction": "secretsmanager:GetSecretValue"}]}`, "* by", false},
		{"reading alone", `{"Statement": [{"Effect": "Allow", "Principal": "*", "Resource": "*", "Action": ["secretsmanager:Get*"]}]}`, "", false},
		{"allowed, and denied to all", `{"Statement": [{"Effect": "Allow", "Principal": "*", "Resource": "*", "Action": "*"}, {"Effect": "Deny", "Principal": "*", "Resource": "*", "Action": "*"}]}`, "", true},
		{"no policy", "<html>", "", false},
	} {
		for _, shelf := range []string{"", "-quarantine"} {
			s.Policy("c/web1", guarded)
			s.Policy("c/web1-quarantine", guarded)
			s.Policy("c/web1"+shelf, tt.policy)
			got, err := policied.Destroyers(t.Context(), "web1")
			if strings.Contains(strings.Join(got, ", "), tt.who) != true || (tt.who == "") != (len(got) == 0) || (err == nil) != tt.known || err != nil && !errors.Is(err, escrow.ErrLeftOpen) {
				t.Errorf("%s%s: %q, %v", tt.name, shelf, got, err)
			}
		}
	}
	if got, err := policied.Destroyers(t.Context(), "web2"); err != nil || len(got) > 0 {
		t.Errorf("of a host that is not there: %q, %v", got, err)
	}
	s.Allow(who, "DescribeSecret")
	if _, err := policied.Destroyers(t.Context(), "web1"); !errors.Is(err, escrow.ErrDenied) {
		t.Errorf("who may not read the policy: %v", err)
	}
}

// assets answers as Cloud Asset Inventory's assets.list does, some at a time.
func assets(t *testing.T, page int, all []map[string]any) (address string, calls *int) {
	n := 0
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		q := r.URL.Query()
		if r.Method != http.MethodGet || r.URL.Path != "/v1/projects/my-project/assets" || q.Get("contentType") != "RESOURCE" || q.Get("pageSize") != "1000" ||
			len(q["assetTypes"]) != 2 || !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		from := 0
		fmt.Sscan(q.Get("pageToken"), &from)
		to := min(from+page, len(all))
		out := map[string]any{"readTime": "2026-11-27T00:00:00Z", "assets": all[from:to]}
		if to < len(all) {
			out["nextPageToken"] = fmt.Sprint(to)
		}
		json.NewEncoder(w).Encode(out)
	}))
	t.Cleanup(api.Close)
	return api.URL, &n
}

func assetOf(path, state string, at time.Time) map[string]any {
	kind := "secretmanager.googleapis.com/Secret"
	if state != "" {
		kind += "Version"
	}
	return map[string]any{"name": "//secretmanager.googleapis.com/projects/123/" + path, "assetType": kind,
		"resource": map[string]any{"data": map[string]any{"state": state, "createTime": at.UTC().Format(time.RFC3339Nano)}}}
}

// TestFleetAssets: everything from the Asset Inventory, in whatever order it comes.
func TestFleetAssets(t *testing.T) {
	t.Parallel()
	s := startStore(t, sm.Options{}, sm.Viewer)
	at := time.Now().UTC().Truncate(time.Second)
	address, calls := assets(t, 2, []map[string]any{
		assetOf("secrets/c-web1-m/versions/10", "DISABLED", at),
		assetOf("secrets/c-web1-m/versions/9", "ENABLED", at.Add(-time.Hour)),
		assetOf("secrets/c-web1-m", "", at),
		assetOf("secrets/c-web1-m-quarantine/versions/1", "ENABLED", at.Add(-2*time.Hour)),
		assetOf("secrets/c-empty-m", "", at),
		assetOf("secrets/c-half-m-quarantine", "", at),
		assetOf("secrets/other", "", at),
		assetOf("locations/europe-west1/secrets/c-web2-m", "", at),
	})
	o := s.o
	o.Secret = "c-{hostname}-m"
	f, err := kinds.NewGCPFleet(o, kinds.FleetOptions{Assets: true, AssetURL: address})
	try(t, err)
	defer f.Close()
	hosts, err := f.Hosts(t.Context())
	if got := slices.Sorted(maps.Keys(hosts)); err != nil || !slices.Equal(got, []string{"empty", "web1"}) || *calls != 4 {
		t.Fatalf("hosts %q, %v after %d calls", got, err, *calls)
	}
	w := hosts["web1"]
	if w.Current == nil || w.Current.ID != "current/10" || w.Current.Unreadable != "disabled" || !w.Current.Created.Equal(at) ||
		w.Quarantine == nil || w.Quarantine.ID != "quarantine/1" || w.Missing {
		t.Errorf("web1 is %+v, %+v, %+v", w, w.Current, w.Quarantine)
	}
	if e := hosts["empty"]; e.Missing || e.Current != nil {
		t.Errorf("empty is %+v", e)
	}
	if calls := s.Calls(); len(calls) != 1 || calls["token"] == 0 {
		t.Errorf("Secret Manager was asked: %v", calls)
	}
	for code, want := range map[int]error{401: escrow.ErrUnauthenticated, 403: escrow.ErrDenied, 429: escrow.ErrRateLimited, 503: escrow.ErrUnreachable} {
		api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			fmt.Fprint(w, `{"error":{"message":"no"}}`)
		}))
		f, err := kinds.NewGCPFleet(o, kinds.FleetOptions{Assets: true, AssetURL: api.URL})
		try(t, err)
		if _, err := f.Hosts(context.Background()); !errors.Is(err, want) {
			t.Errorf("status %d: %v, want %v", code, err, want)
		}
		f.Close()
		api.Close()
	}
}
