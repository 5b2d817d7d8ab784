// Package vault is a HashiCorp Vault for tests: an HTTP server that keeps KV engines of
// version 1 and 2 in memory, or in a directory, and is stricter than the real one.
// Requests that a careful client does not make are refused here: without the header
// against request forgery, with one to wrap the answer, a body with unknown fields.
//
// Behaviour was taken from the API's reference (https://developer.hashicorp.com/vault/api-docs)
// and from messages that users of the real one have reported.
//
// A Fault makes it slow, silent, or a liar. Every call is counted.
package vault

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/kept"
)

const (
	maxVersions = 10       // KV version 2's default
	maxBody     = 32 << 20 // max_request_size's default
)

// Options set up a Server. The zero value listens on a free loopback port, without TLS,
// has no engines, and lets nobody do anything.
type Options struct {
	Listen    string      // "" is 127.0.0.1:0
	TLS       *tls.Config // nil is plain HTTP
	Namespace string      // in which everything is
	// Dir keeps the state over restarts, unencrypted; "" keeps it in memory.
	Dir string
	// Terse words the refusal of a token that is none any more as OpenBao and Vault before
	// 1.16 do: on every path, lookup-self too, "permission denied" and nothing else.
	Terse bool
	// Old is a server from before it told clients which version an engine is. It is terse,
	// and words the lack of a right in the same way.
	Old bool
}

// Policy says what may be done where: capabilities by path, which may end in "*". Of
// several paths that fit, the longest counts.
type Policy map[string][]string

// Root is the policy that may everything.
const Root = "root"

// Keyguard is the policy that an escrow needs, as the README has it.
func Keyguard(version int, mount, path string) Policy {
	if version == 1 {
		return Policy{
			mount + "/" + path:                   {"create", "read", "update"},
			mount + "/" + path + "-keys/*":       {"create", "read", "list"},
			mount + "/" + path + "-quarantine/*": {"create", "read", "list"},
		}
	}
	return Policy{
		mount + "/data/" + path:                       {"create", "read", "update"},
		mount + "/data/" + path + "-keys/*":           {"create", "read"},
		mount + "/data/" + path + "-quarantine/*":     {"create", "read"},
		mount + "/metadata/" + path:                   {"read"},
		mount + "/metadata/" + path + "-keys/*":       {"list"},
		mount + "/metadata/" + path + "-quarantine/*": {"list"},
	}
}

// Kind says what a Fault does to a call.
type Kind string

const (
	Slow       Kind = "slow"        // answers after Delay
	Hang       Kind = "hang"        // never answers
	HangAfter  Kind = "hang-after"  // does what was asked, and never answers
	CutBefore  Kind = "cut-before"  // drops the connection, nothing was done
	CutAfter   Kind = "cut-after"   // does what was asked, then drops the connection
	CutMiddle  Kind = "cut-middle"  // drops it in the middle of the answer
	Fail       Kind = "fail"        // answers Status, nothing was done
	FailAfter  Kind = "fail-after"  // does what was asked, then answers Status
	Redirect   Kind = "redirect"    // 307 to To, as a standby does
	WrongBytes Kind = "wrong-bytes" // another value
	WrongEntry Kind = "wrong-entry" // another version than was asked for
	NotJSON    Kind = "not-json"    // a proxy's page, with 200
	Empty      Kind = "empty"       // no body, with 200
	Endless    Kind = "endless"     // a body without end
)

// Fault is one thing that goes wrong.
type Fault struct {
	Kind   Kind
	Method string        // GET, PUT, LIST; "" is every one
	Path   string        // a part of the path, with "$" at the end its last one; "" is every one
	Delay  time.Duration // of Slow
	Status int           // of Fail and FailAfter
	Text   string        // what they say
	To     string        // of Redirect: another server's URL
	Times  int           // calls it lasts for; 0 is until Heal
}

// Server is a running fake. It is safe for use by several goroutines.
type Server struct {
	o Options
	*kept.Keeper[state]
	http    *http.Server
	addr    string
	done    chan struct{}
	closing sync.Once
	wait    sync.WaitGroup

	mu     sync.Mutex // everything below
	state  state
	faults []*Fault
	calls  map[string]int
	sealed bool
}

// state is what survives a restart.
type state struct {
	Mounts   map[string]*mount
	Policies map[string]Policy
	Tokens   map[string]*token
	Roles    map[string]*role
	Texts    map[string]string   // of policies that are only to be read
	Named    map[string][]string // the policies of roles that are only to be read
}

type mount struct {
	Type        string // "kv", or something else that holds nothing
	Version     int
	CASRequired bool
	DeleteAfter time.Duration
	Entries     map[string]*entry
}

type entry struct {
	Created  time.Time
	Current  int // version 2
	Max      int
	Versions map[int]*version
	Fields   map[string]any // version 1
}

type version struct {
	Created, Deleted time.Time
	Destroyed        bool
	Fields           map[string]any
}

type token struct {
	Policies  []string
	Until     time.Time // zero: for ever
	Last      time.Time // beyond which nobody renews it; zero: never
	Life      time.Duration
	Renewable bool
	Renewed   int
	NoDefault bool
}

type role struct {
	SecretIDs map[string]int // how many uses are left; negative: any
	Token     TokenOptions
}

// Start listens and serves until Close.
func Start(o Options) (*Server, error) {
	s := &Server{o: o, done: make(chan struct{}), calls: map[string]int{}, state: state{
		Mounts: map[string]*mount{}, Policies: map[string]Policy{Root: {"*": {"root"}}},
		Tokens: map[string]*token{}, Roles: map[string]*role{}, Texts: map[string]string{}, Named: map[string][]string{},
	}}
	var err error
	if s.Keeper, err = kept.New(o.Dir, "vault.json", &s.mu, &s.state); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", cmp.Or(o.Listen, "127.0.0.1:0"))
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	s.addr = l.Addr().String()
	s.http = &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: log.New(io.Discard, "", 0), // of handshakes that a test wants to fail
	}
	if o.TLS != nil {
		l = tls.NewListener(l, o.TLS)
	}

	s.wait.Go(func() { _ = s.http.Serve(l) })
	return s, nil
}

// URL is the server's address.
func (s *Server) URL() string {
	if s.o.TLS != nil {
		return "https://" + s.addr
	}
	return "http://" + s.addr
}

// Addr is where it listens, host and port.
func (s *Server) Addr() string { return s.addr }

// Close ends all calls, hung ones too.
func (s *Server) Close() {
	s.closing.Do(func() { close(s.done) })
	s.http.Close()
	s.wait.Wait()
}

// Mount makes a KV engine of version 1 or 2; of version 0, an engine of another type.
func (s *Server) Mount(name string, version int) {
	s.change(func() {
		kind := "kv"
		if version == 0 {
			kind = "transit"
		}
		s.state.Mounts[name] = &mount{Type: kind, Version: version, Entries: map[string]*entry{}}
	})
}

// Unmount takes an engine away, with all that is in it.
func (s *Server) Unmount(name string) { s.change(func() { delete(s.state.Mounts, name) }) }

// RequireCAS makes an engine refuse writes without check-and-set.
func (s *Server) RequireCAS(name string) {
	s.change(func() { s.state.Mounts[name].CASRequired = true })
}

// DeleteAfter makes an engine delete by itself what is written from now on
// (delete_version_after); 0 is never.
func (s *Server) DeleteAfter(name string, life time.Duration) {
	s.change(func() { s.state.Mounts[name].DeleteAfter = life })
}

// Later lets so much of the life of all versions pass.
func (s *Server) Later(name string, by time.Duration) {
	s.change(func() {
		for _, e := range s.state.Mounts[name].Entries {
			for _, v := range e.Versions {
				v.Created = v.Created.Add(-by)
				if !v.Deleted.IsZero() {
					v.Deleted = v.Deleted.Add(-by)
				}
			}
		}
	})
}

// Policy makes or changes a policy.
func (s *Server) Policy(name string, p Policy) { s.change(func() { s.state.Policies[name] = p }) }

// PolicyText makes a policy that somebody reads, and that grants nobody anything.
func (s *Server) PolicyText(name, text string) { s.change(func() { s.state.Texts[name] = text }) }

// Role makes an AppRole that somebody reads, and by which nobody logs in.
func (s *Server) Role(name string, policies ...string) {
	s.change(func() { s.state.Named[name] = policies })
}

// TokenOptions say what a token may do, and for how long.
type TokenOptions struct {
	Policies  []string
	TTL       time.Duration // 0 is for ever
	MaxTTL    time.Duration // beyond which nobody renews it; 0 is never
	Renewable bool
	NoDefault bool // without the policy `default`: it may not look itself up
}

// Token makes a token.
func (s *Server) Token(o TokenOptions) (id string) {
	s.change(func() { id = s.tokenLocked(o) })
	return id
}

func (s *Server) tokenLocked(o TokenOptions) string {
	id := "hvs." + rand.Text()
	t := &token{Policies: o.Policies, Life: o.TTL, Renewable: o.Renewable, NoDefault: o.NoDefault}
	if o.TTL > 0 {
		t.Until = time.Now().Add(o.TTL)
	}
	if o.MaxTTL > 0 {
		t.Last = time.Now().Add(o.MaxTTL)
	}
	s.state.Tokens[id] = t
	return id
}

// Revoke takes all tokens away.
func (s *Server) Revoke() { s.change(func() { clear(s.state.Tokens) }) }

// Age lets so much of the life of all tokens pass.
func (s *Server) Age(by time.Duration) {
	s.change(func() {
		for _, t := range s.state.Tokens {
			if !t.Until.IsZero() {
				t.Until = t.Until.Add(-by)
			}
			if !t.Last.IsZero() {
				t.Last = t.Last.Add(-by)
			}
		}
	})
}

// Renewed counts how often tokens were renewed.
func (s *Server) Renewed() (n int) {
	s.change(func() {
		for _, t := range s.state.Tokens {
			n += t.Renewed
		}
	})
	return n
}

// AppRole makes a role whose secret id is good for so many logins; negative is any number.
func (s *Server) AppRole(uses int, o TokenOptions) (roleID, secretID string) {
	roleID, secretID = rand.Text(), rand.Text()
	s.change(func() { s.state.Roles[roleID] = &role{SecretIDs: map[string]int{secretID: uses}, Token: o} })
	return roleID, secretID
}

// Seal seals the server, or unseals it.
func (s *Server) Seal(sealed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed = sealed
}

// Break adds a fault; several may be in force, the first that fits a call is taken.
func (s *Server) Break(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
}

// Heal takes all faults away.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// Calls counts calls by method and path, refused ones too, since the start or the last Reset.
func (s *Server) Calls() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.calls)
}

// Reset sets the counters to zero.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.calls)
}

// Put writes an entry as the vendor's command line does, whatever stands there: a value
// of bytes (`value=@file`) becomes a JSON string, and what is no UTF-8 in it U+FFFD.
func (s *Server) Put(mount, path string, fields map[string]any) error {
	body, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	if fields, err = decode(bytes.NewReader(body)); err != nil {
		return err
	}
	s.change(func() {
		m := s.state.Mounts[mount]
		if m == nil {
			err = fmt.Errorf("nothing is mounted at %s", mount)
			return
		}
		m.put(path, fields)
	})
	return err
}

// Get returns the fields of an entry's newest version, nil where it cannot be read.
func (s *Server) Get(mount, path string) (fields map[string]any) {
	s.change(func() {
		m := s.state.Mounts[mount]
		if m == nil || m.Entries[path] == nil {
			return
		}
		e := m.Entries[path]
		if fields = e.Fields; m.Version == 2 {
			if v := e.Versions[e.Current]; v.gone() == "" {
				fields = v.Fields
			}
		}
	})
	return maps.Clone(fields)
}

// Names lists all entries of an engine.
func (s *Server) Names(mount string) (names []string) {
	s.change(func() {
		if m := s.state.Mounts[mount]; m != nil {
			names = slices.Sorted(maps.Keys(m.Entries))
		}
	})
	return names
}

// Set brings a version of an entry into a state: "deleted", "destroyed" or "", undeleted.
// Number 0 is the newest.
func (s *Server) Set(mount, path string, number int, to string) (err error) {
	s.change(func() {
		m := s.state.Mounts[mount]
		if m == nil || m.Entries[path] == nil {
			err = fmt.Errorf("%s has no %s", mount, path)
			return
		}
		e := m.Entries[path]
		v := e.Versions[cmp.Or(number, e.Current)]
		switch {
		case v == nil:
			err = fmt.Errorf("%s has no version %d", path, number)
		case to == "destroyed":
			v.Destroyed, v.Fields = true, nil
		case to == "deleted":
			v.Deleted = time.Now()
		default:
			v.Deleted = time.Time{}
		}
	})
	return err
}

// Remove takes an entry away with its history, or all that begin with path where it ends in "*".
func (s *Server) Remove(mount, path string) {
	s.change(func() {
		prefix, all := strings.CutSuffix(path, "*")
		if m := s.state.Mounts[mount]; m != nil {
			maps.DeleteFunc(m.Entries, func(name string, _ *entry) bool {
				return name == path || all && strings.HasPrefix(name, prefix)
			})
		}
	})
}

func (m *mount) put(path string, fields map[string]any) *entry {
	e := m.Entries[path]
	if e == nil {
		e = &entry{Created: time.Now(), Versions: map[int]*version{}}
		m.Entries[path] = e
	}
	if m.Version == 1 {
		e.Fields = fields
		return e
	}
	e.Current++
	e.Versions[e.Current] = &version{Created: time.Now(), Fields: fields}
	if m.DeleteAfter > 0 {
		e.Versions[e.Current].Deleted = time.Now().Add(m.DeleteAfter)
	}
	maps.DeleteFunc(e.Versions, func(n int, _ *version) bool { return n <= e.Current-cmp.Or(e.Max, maxVersions) })
	return e
}

func (v *version) gone() string {
	switch {
	case v == nil:
		return "missing"
	case v.Destroyed:
		return "destroyed"
	case !v.Deleted.IsZero() && v.Deleted.Before(time.Now()):
		return "deleted"
	}
	return ""
}

func (v *version) metadata() map[string]any {
	deleted := ""
	if !v.Deleted.IsZero() {
		deleted = v.Deleted.UTC().Format(time.RFC3339Nano)
	}
	return map[string]any{"created_time": v.Created.UTC().Format(time.RFC3339Nano), "deletion_time": deleted,
		"destroyed": v.Destroyed, "custom_metadata": nil}
}

// answer is what a call gets.
type answer struct {
	status int
	body   map[string]any // nil is no body
}

func data(d map[string]any) answer { return answer{200, map[string]any{"data": d}} }

func refuse(status int, text ...string) answer {
	if text == nil {
		text = []string{}
	}
	return answer{status, map[string]any{"errors": text}}
}

var done = answer{status: 204}

func decode(r io.Reader) (map[string]any, error) {
	d := json.NewDecoder(io.LimitReader(r, maxBody))
	d.UseNumber()
	var body map[string]any
	err := d.Decode(&body)
	if err == nil && d.More() {
		err = errors.New("more than one document")
	}
	return body, err
}

// ServeHTTP does what comes before the call itself: counting, faults, who asks.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method := r.Method
	switch {
	case method == http.MethodGet && r.URL.Query().Get("list") == "true":
		method = "LIST"
	case method == http.MethodPost:
		method = http.MethodPut
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	body := map[string]any{}
	var err error
	if method == http.MethodPut {
		body, err = decode(r.Body)
	}
	defer s.Begin()()
	s.mu.Lock()
	s.calls[method+" "+path]++
	fault := s.takeFault(method, path)
	s.mu.Unlock()
	var a answer
	act := func() { a = s.answer(r, method, path, body) }
	switch {
	case err != nil:
		a = refuse(400, "error parsing JSON")
	case !ok:
		a = refuse(404)
	case fault.Kind == Slow:
		t := time.NewTimer(fault.Delay)
		defer t.Stop()
		select {
		case <-t.C:
			act()
		case <-r.Context().Done():
			return
		case <-s.done:
			return
		}
	case fault.Kind == Hang, fault.Kind == HangAfter:
		if fault.Kind == HangAfter {
			act()
		}
		select {
		case <-r.Context().Done():
		case <-s.done:
		}
		panic(http.ErrAbortHandler)
	case fault.Kind == CutBefore:
		panic(http.ErrAbortHandler)
	case fault.Kind == CutAfter:
		act()
		panic(http.ErrAbortHandler)
	case fault.Kind == Fail:
		a = refuse(fault.Status, fault.Text)
	case fault.Kind == FailAfter:
		act()
		a = refuse(fault.Status, fault.Text)
	case fault.Kind == Redirect:
		w.Header().Set("Location", fault.To+r.URL.RequestURI())
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	case fault.Kind == NotJSON:
		io.WriteString(w, "<html>Please log in to the guest network</html>")
		return
	case fault.Kind == Empty:
		return
	case fault.Kind == Endless:
		for r.Context().Err() == nil {
			if _, err := w.Write(bytes.Repeat([]byte(" "), 64<<10)); err != nil {
				return
			}
		}
		return
	default:
		act()
		a.lie(fault.Kind)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if a.status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "30")
	}
	text, err := json.Marshal(a.body)
	if err != nil {
		panic(err)
	}
	if a.body == nil {
		text = nil
	}
	if fault.Kind == CutMiddle {
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		w.WriteHeader(a.status)
		w.Write(text[:len(text)/2])
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(a.status)
	w.Write(text)
}

func (s *Server) takeFault(method, path string) Fault {
	for i, f := range s.faults {
		if (f.Method == "" || f.Method == method) && strings.Contains(path+"$", f.Path) {
			if f.Times--; f.Times == 0 {
				s.faults = slices.Delete(s.faults, i, i+1)
			}
			return *f
		}
	}
	return Fault{}
}

// lie changes an answer.
func (a *answer) lie(k Kind) {
	d, _ := a.body["data"].(map[string]any)
	switch k {
	case WrongBytes:
		if in, ok := d["data"].(map[string]any); ok {
			d = in
		}
		if _, ok := d["value"]; ok {
			d["value"] = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
		}
	case WrongEntry:
		if m, ok := d["metadata"].(map[string]any); ok {
			m["version"] = 77
		}
	}
}

// answer does the call.
func (s *Server) answer(r *http.Request, method, path string, body map[string]any) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Header.Get("X-Vault-Request") != "true":
		return refuse(412, "X-Vault-Request is missing")
	case r.Header.Get("X-Vault-Wrap-TTL") != "":
		return refuse(400, "nobody unwraps an answer here")
	case s.sealed:
		return refuse(503, "Vault is sealed")
	}
	defer s.Save()
	if path == "auth/approle/login" {
		return s.login(method, body)
	}
	id := r.Header.Get("X-Vault-Token")
	t := s.state.Tokens[id]
	if t == nil || !t.Until.IsZero() && time.Now().After(t.Until) || r.Header.Get("X-Vault-Namespace") != s.o.Namespace {
		if s.o.Old || s.o.Terse {
			return refuse(403, "permission denied")
		}
		return refuse(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
	}
	switch path {
	case "auth/token/lookup-self":
		if t.NoDefault || method != http.MethodGet {
			return s.denied()
		}
		return data(t.describe())
	case "sys/capabilities-self":
		if t.NoDefault || method != http.MethodPut {
			return s.denied()
		}
		return s.ask(t, body)
	case "auth/token/renew-self":
		if t.NoDefault || method != http.MethodPut {
			return s.denied()
		}
		if !t.Renewable {
			return refuse(400, "lease is not renewable")
		}
		t.Until = time.Now().Add(t.Life)
		if !t.Last.IsZero() && t.Last.Before(t.Until) {
			t.Until = t.Last
		}
		t.Renewed++
		return t.auth(id)
	}
	if rest, ok := strings.CutPrefix(path, "sys/internal/ui/mounts/"); ok && method == http.MethodGet {
		return s.preflight(t, rest)
	}
	name, m := s.find(path)
	if !s.may(t, method, path, strings.TrimPrefix(path, name+"/"), m) {
		return s.denied()
	}
	if a, ours := s.system(method, path); ours {
		return a
	}
	if m == nil || m.Type != "kv" {
		return refuse(404, fmt.Sprintf("no handler for route %q. route entry not found.", path))
	}
	rest := strings.TrimPrefix(path, name+"/")
	if m.Version == 1 {
		return m.serve1(method, rest, body)
	}
	return m.serve2(method, rest, body, r.URL.Query().Get("version"))
}

// system answers for the policies and the AppRoles of the server, as far as they are read.
// AppRole is there where a role is.
func (s *Server) system(method, path string) (answer, bool) {
	names := func(all []string) answer {
		if len(all) == 0 {
			return refuse(404)
		}
		return data(map[string]any{"keys": all})
	}
	if rest, ok := strings.CutPrefix(path+"/", "sys/policies/acl/"); ok {
		name := strings.TrimSuffix(rest, "/")
		text, there := s.state.Texts[name]
		switch {
		case method == "LIST" && name == "":
			return names(append([]string{"default", "root"}, slices.Sorted(maps.Keys(s.state.Texts))...)), true
		case method != http.MethodGet:
			return refuse(405, "unsupported operation"), true
		case !there && name != "default" && name != "root":
			return refuse(404), true
		}
		return data(map[string]any{"name": name, "policy": text}), true
	}
	if rest, ok := strings.CutPrefix(path+"/", "auth/approle/role/"); ok && len(s.state.Named)+len(s.state.Roles) > 0 {
		name := strings.TrimSuffix(rest, "/")
		policies, there := s.state.Named[name]
		switch {
		case method == "LIST" && name == "":
			return names(slices.Sorted(maps.Keys(s.state.Named))), true
		case method != http.MethodGet:
			return refuse(405, "unsupported operation"), true
		case !there:
			return refuse(404), true
		}
		return data(map[string]any{"bind_secret_id": true, "token_no_default_policy": false, "token_policies": policies}), true
	}
	return answer{}, false
}

// denied is what a token gets that is accepted and may not.
func (s *Server) denied() answer {
	if s.o.Old {
		return refuse(403, "permission denied")
	}
	return refuse(403, "1 error occurred:\n\t* permission denied\n\n")
}

func (t *token) describe() map[string]any {
	d := map[string]any{"ttl": 0, "creation_ttl": int(t.Life.Seconds()), "renewable": t.Renewable,
		"policies": t.Policies, "expire_time": nil}
	if !t.Until.IsZero() {
		d["ttl"] = max(1, int(time.Until(t.Until).Seconds()))
		d["expire_time"] = t.Until.UTC().Format(time.RFC3339Nano)
	}
	return d
}

func (t *token) auth(id string) answer {
	left := 0
	if !t.Until.IsZero() {
		left = int(time.Until(t.Until).Round(time.Second).Seconds())
	}
	return answer{200, map[string]any{"auth": map[string]any{"client_token": id, "policies": t.Policies,
		"lease_duration": left, "renewable": t.Renewable}}}
}

func (s *Server) login(method string, body map[string]any) answer {
	id, _ := body["role_id"].(string)
	secret, _ := body["secret_id"].(string)
	r := s.state.Roles[id]
	if method != http.MethodPut || r == nil || r.SecretIDs[secret] == 0 {
		return refuse(400, "invalid role or secret ID")
	}
	r.SecretIDs[secret]--
	token := s.tokenLocked(r.Token)
	return s.state.Tokens[token].auth(token)
}

// find finds the engine of a path.
func (s *Server) find(path string) (string, *mount) {
	best := ""
	for name := range s.state.Mounts {
		if strings.HasPrefix(path, name+"/") && len(name) > len(best) {
			best = name
		}
	}
	return best, s.state.Mounts[best]
}

// may decides by the token's policies: the path itself counts before a pattern, the longest
// pattern before others, and what several policies say of one pattern adds up
// (https://developer.hashicorp.com/vault/docs/concepts/policies#priority-matching).
func (s *Server) may(t *token, method, path, entry string, m *mount) bool {
	need := map[string]string{http.MethodGet: "read", http.MethodPut: "update", http.MethodDelete: "delete", "LIST": "list"}[method]
	if method == "LIST" {
		path = strings.TrimSuffix(path, "/") + "/"
	}
	if method == http.MethodPut && m != nil && m.Entries[strings.TrimPrefix(entry, "data/")] == nil {
		need = "create"
	}
	can := s.capabilities(t, path)
	return slices.Contains(can, need) || slices.Contains(can, "root")
}

func (s *Server) capabilities(t *token, path string) (can []string) {
	best := ""
	for _, name := range t.Policies {
		for pattern, capabilities := range s.state.Policies[name] {
			prefix, glob := strings.CutSuffix(pattern, "*")
			switch {
			case pattern != path && (!glob || !strings.HasPrefix(path, prefix)):
			case pattern == best:
				can = append(slices.Clone(can), capabilities...)
			case best == "" || pattern == path || best != path && len(pattern) > len(best):
				best, can = pattern, capabilities
			}
		}
	}
	return can
}

// ask answers which of the asked paths a token may do what with.
func (s *Server) ask(t *token, body map[string]any) answer {
	paths, _ := body["paths"].([]any)
	if len(paths) == 0 || len(body) != 1 {
		return refuse(400, "path or paths must be supplied")
	}
	d := map[string]any{}
	for _, p := range paths {
		path, _ := p.(string)
		can := slices.Clone(s.capabilities(t, path))
		slices.Sort(can)
		if len(can) == 0 {
			can = []string{"deny"}
		}
		d[path] = slices.Compact(can)
	}
	if len(paths) == 1 {
		d["capabilities"] = d[fmt.Sprint(paths[0])]
	}
	return data(d)
}

// preflight tells a client which version an engine is, if it may do anything there.
func (s *Server) preflight(t *token, path string) answer {
	name, m := s.find(path + "/")
	may := false
	for _, policy := range t.Policies {
		for pattern := range s.state.Policies[policy] {
			may = may || pattern == "*" || strings.HasPrefix(pattern, name+"/")
		}
	}
	switch {
	case s.o.Old:
		return refuse(404)
	case m == nil || !may:
		return refuse(403, fmt.Sprintf("preflight capability check returned 403, please ensure client's policies grant access to path %q", path+"/"))
	}
	var options any
	if m.Version > 0 {
		options = map[string]any{"version": strconv.Itoa(m.Version)}
	}
	return data(map[string]any{"path": name + "/", "type": m.Type, "options": options})
}

func (m *mount) list(folder string) answer {
	prefix := strings.TrimPrefix(strings.TrimSuffix(folder, "/")+"/", "/") // "" is all of the mount
	names := map[string]bool{}
	for name := range m.Entries {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			if at := strings.IndexByte(rest, '/'); at >= 0 {
				rest = rest[:at+1]
			}
			names[rest] = true
		}
	}
	if len(names) == 0 {
		return refuse(404)
	}
	return data(map[string]any{"keys": slices.Sorted(maps.Keys(names))})
}

func (m *mount) serve1(method, path string, body map[string]any) answer {
	e := m.Entries[path]
	switch method {
	case "LIST":
		return m.list(path)
	case http.MethodGet:
		if e == nil {
			return refuse(404)
		}
		return data(maps.Clone(e.Fields))
	case http.MethodPut:
		if len(body) == 0 {
			return refuse(400, "missing data fields")
		}
		m.put(path, body)
		return done
	case http.MethodDelete:
		delete(m.Entries, path)
		return done
	}
	return refuse(405, "unsupported operation")
}

func (m *mount) serve2(method, path string, body map[string]any, asked string) answer {
	kind, path, ok := strings.Cut(path, "/")
	ok = ok || method == "LIST" // to such a path the server adds the slash itself
	if !ok || !slices.Contains([]string{"data", "metadata", "delete", "undelete", "destroy"}, kind) {
		return answer{404, map[string]any{"data": nil, "warnings": []string{
			"Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use. If using the Vault CLI, use 'vault kv get' for this operation."}}}
	}
	e := m.Entries[path]
	switch kind + " " + method {
	case "metadata LIST":
		return m.list(path)
	case "metadata GET":
		if e == nil {
			return refuse(404)
		}
		return data(e.describe())
	case "metadata DELETE":
		delete(m.Entries, path)
		return done
	case "data GET":
		if e == nil {
			return refuse(404)
		}
		number := e.Current
		if asked != "" {
			n, err := strconv.Atoi(asked)
			if err != nil {
				return refuse(400, "error converting input for field \"version\"")
			}
			number = cmp.Or(n, number)
		}
		v := e.Versions[number]
		if v == nil {
			return refuse(404)
		}
		about := v.metadata()
		about["version"] = number
		if v.gone() != "" {
			return answer{404, map[string]any{"data": map[string]any{"data": nil, "metadata": about}}}
		}
		return data(map[string]any{"data": maps.Clone(v.Fields), "metadata": about})
	case "data PUT":
		return m.write2(path, e, body)
	case "data DELETE":
		if e != nil && e.Versions[e.Current] != nil {
			e.Versions[e.Current].Deleted = time.Now()
		}
		return done
	case "delete PUT", "undelete PUT", "destroy PUT":
		list, _ := body["versions"].([]any)
		if len(list) == 0 {
			return refuse(400, "No version number provided")
		}
		for _, n := range list {
			number, err := strconv.Atoi(fmt.Sprint(n))
			if err != nil || e == nil || e.Versions[number] == nil {
				continue
			}
			switch v := e.Versions[number]; kind {
			case "delete":
				v.Deleted = time.Now()
			case "undelete":
				v.Deleted = time.Time{}
			default:
				v.Destroyed, v.Fields = true, nil
			}
		}
		return done
	}
	return refuse(405, "unsupported operation")
}

func (m *mount) write2(path string, e *entry, body map[string]any) answer {
	fields, _ := body["data"].(map[string]any)
	options, _ := body["options"].(map[string]any)
	for name := range body {
		if name != "data" && name != "options" {
			return refuse(400, fmt.Sprintf("unknown field %q", name))
		}
	}
	if fields == nil {
		return refuse(400, "no data provided")
	}
	current := 0
	if e != nil {
		current = e.Current
	}
	if cas, ok := options["cas"]; ok {
		if fmt.Sprint(cas) != strconv.Itoa(current) {
			return refuse(400, "check-and-set parameter did not match the current version")
		}
	} else if m.CASRequired {
		return refuse(400, "check-and-set parameter required for this call")
	}
	e = m.put(path, fields)
	about := e.Versions[e.Current].metadata()
	about["version"] = e.Current
	return data(about)
}

func (e *entry) describe() map[string]any {
	versions := map[string]any{}
	oldest := e.Current
	for n, v := range e.Versions {
		about := v.metadata()
		delete(about, "custom_metadata")
		versions[strconv.Itoa(n)] = about
		oldest = min(oldest, n)
	}
	return map[string]any{"cas_required": false, "created_time": e.Created.UTC().Format(time.RFC3339Nano), "current_version": e.Current,
		"max_versions": e.Max, "oldest_version": oldest, "versions": versions}
}

// change does something under the lock, and keeps the state.
func (s *Server) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.Save()
}
