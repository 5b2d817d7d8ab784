// Package secretmanager is a Google Secret Manager for tests: a server that keeps secrets
// in memory, or in a directory, and is stricter than the real one. What the real one
// forgives and a careful client does not do is refused here: additions without a checksum,
// calls without the routing header, names of another location. It speaks gRPC and, in
// front of the same code, JSON, which is what gcloud speaks.
//
// Behaviour was taken from the API's reference
// (https://cloud.google.com/secret-manager/docs/reference/rpc), its pages on etags,
// quotas and consistency, and from messages that users of the real one have reported.
//
// A Fault makes it slow, silent, or a liar. Every call is counted.
package secretmanager

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"cloud.google.com/go/iam/apiv1/iampb"
	pb "cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/kept"
)

// The API's limits (https://cloud.google.com/secret-manager/quotas). The number of
// additions to one secret is not published; two a second is what users have met.
const (
	maxPayload      = 64 << 10 // bytes
	maxPage         = 25000
	defaultPage     = 100
	readsPerMinute  = 600 // a project, listing and metadata
	writesPerMinute = 600 // a project
	accessPerMinute = 90000
	addsPerMinute   = 120 // a secret
)

// Options set up a Server. The zero value is a global one on a free loopback port, with
// nobody allowed to do anything.
type Options struct {
	Listen      string      // address for gRPC; "" is 127.0.0.1:0
	TLS         *tls.Config // nil is plaintext
	TokenListen string      // address for tokens, by http; "" is 127.0.0.1:0
	RESTListen  string      // address for the API in JSON, by http; "" is 127.0.0.1:0
	Location    string      // the region that a regional endpoint serves; "" is the global one
	// Dir keeps the state over restarts, unencrypted; "" keeps it in memory.
	Dir string
	// Allowed are the regions that the organisation's policy allows; nil is everywhere.
	Allowed []string
	// Anonymous lets calls without a token do everything, as an emulator does.
	Anonymous bool
	// Unlimited turns the rate limits off.
	Unlimited bool
	// Now is the clock of times and rate limits; nil is this machine's.
	Now func() time.Time
	// MaxPage makes pages shorter than was asked for, which the API reserves the right to do.
	MaxPage int
}

// Role is what an identity may do, in the whole of one project or of all.
type Role string

// The roles of the same names in roles/secretmanager.*, but for Reader, which is
// secretAccessor and viewer together.
const (
	Adder    Role = "adder"    // secretVersionAdder
	Accessor Role = "accessor" // secretAccessor
	Viewer   Role = "viewer"
	Reader   Role = "reader"
	Admin    Role = "admin"
)

var grants = map[Role][]string{
	Adder:    {"versions.add"},
	Accessor: {"versions.access"},
	Viewer:   {"secrets.get", "secrets.list", "secrets.getIamPolicy", "versions.get", "versions.list"},
	Reader:   {"versions.access", "secrets.get", "secrets.list", "secrets.getIamPolicy", "versions.get", "versions.list"},
	Admin: {
		"secrets.create", "secrets.get", "secrets.list", "secrets.update", "secrets.delete", "secrets.getIamPolicy", "secrets.setIamPolicy", "versions.add",
		"versions.access", "versions.get", "versions.list", "versions.enable", "versions.disable", "versions.destroy",
	},
}

// Kind says what a Fault does to a call.
type Kind string

const (
	Slow        Kind = "slow"         // answers after Delay
	Hang        Kind = "hang"         // never answers
	CutBefore   Kind = "cut-before"   // drops the connection, nothing was done
	CutAfter    Kind = "cut-after"    // does what was asked, then drops the connection
	Fail        Kind = "fail"         // answers Code, nothing was done
	FailAfter   Kind = "fail-after"   // does what was asked, then answers Code
	WrongBytes  Kind = "wrong-bytes"  // other bytes, with a CRC32C that fits them
	WrongCRC    Kind = "wrong-crc"    // a CRC32C that does not fit
	NoCRC       Kind = "no-crc"       // no CRC32C at all
	StaleList   Kind = "stale-list"   // a listing that lacks the newest version
	StaleLatest Kind = "stale-latest" // "latest" is still the one before
)

// Fault is one thing that goes wrong.
type Fault struct {
	Kind   Kind
	Method string        // "AccessSecretVersion"; "" is every one
	Secret string        // id of a secret; "" is every one
	Delay  time.Duration // of Slow, in nanoseconds where it is JSON
	Code   codes.Code    // of Fail and FailAfter
	Times  int           // calls it lasts for; 0 is until Heal
}

// Server is a running fake. It is safe for use by several goroutines.
type Server struct {
	pb.UnimplementedSecretManagerServiceServer
	o Options
	*kept.Keeper[state]
	grpc  *grpc.Server
	http  *http.Server
	json  *http.Server
	addr  string
	token string
	rest  string
	done  chan struct{}
	wait  sync.WaitGroup

	mu     sync.Mutex // everything below
	state  state
	faults []*Fault
	calls  map[string]int
	asked  []Request
	tokens map[string]issued
	skew   time.Duration
	spent  map[string]int // rate limits: what was used in this minute
	minute int64
	conns  map[string]net.Conn // by remote address
}

// state is what survives a restart.
type state struct {
	Secrets    map[string]*secret
	Identities map[string][]Role
	SigningKey string // PEM, of all service accounts
}

type secret struct {
	Created  time.Time
	Etag     int64
	Labels   map[string]string
	Replica  bool     // replication given
	Regions  []string // of user-managed replication; nil is automatic
	Versions []*version
	// Policy has the members of each role on the secret.
	Policy map[string][]string
}

type version struct {
	Created, Destroyed time.Time
	Etag               int64
	State              pb.SecretVersion_State
	Data               []byte
	Checksum           bool      // the client sent one
	Scheduled          time.Time // when it will be destroyed; zero for never
}

// Start listens and serves until Close.
func Start(o Options) (*Server, error) {
	s := &Server{
		o: o, done: make(chan struct{}), calls: map[string]int{}, tokens: map[string]issued{},
		spent: map[string]int{}, conns: map[string]net.Conn{},
		state: state{Secrets: map[string]*secret{}, Identities: map[string][]Role{}},
	}
	var err error
	if s.Keeper, err = kept.New(o.Dir, "secretmanager.json", &s.mu, &s.state); err != nil {
		return nil, err
	}
	rpc, err := net.Listen("tcp", cmp.Or(o.Listen, "127.0.0.1:0"))
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	web, err := net.Listen("tcp", cmp.Or(o.TokenListen, "127.0.0.1:0"))
	if err != nil {
		rpc.Close()
		return nil, fmt.Errorf("cannot listen for tokens: %w", err)
	}
	rest, err := net.Listen("tcp", cmp.Or(o.RESTListen, "127.0.0.1:0"))
	if err != nil {
		rpc.Close()
		web.Close()
		return nil, fmt.Errorf("cannot listen for JSON: %w", err)
	}
	s.addr, s.token, s.rest = rpc.Addr().String(), web.Addr().String(), rest.Addr().String()
	opts := []grpc.ServerOption{grpc.UnaryInterceptor(s.intercept)}
	if o.TLS != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(o.TLS)))
	}
	s.grpc = grpc.NewServer(opts...)
	pb.RegisterSecretManagerServiceServer(s.grpc, s)
	s.http = &http.Server{Handler: s.tokenHandler(), ReadHeaderTimeout: 10 * time.Second}
	s.wait.Go(func() { _ = s.grpc.Serve(&listener{rpc, s}) }) // it ends with Stop
	s.wait.Go(func() { _ = s.http.Serve(web) })
	s.json = &http.Server{Handler: s.restHandler(), ReadHeaderTimeout: 10 * time.Second}
	s.wait.Go(func() { _ = s.json.Serve(&listener{rest, s}) })
	return s, nil
}

// Addr is the gRPC server's host:port.
func (s *Server) Addr() string { return s.addr }

// RESTURL is where the API is spoken in JSON, with the final slash that gcloud wants of
// CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER.
func (s *Server) RESTURL() string { return "http://" + s.rest + "/" }

// TokenURL is the token endpoint of service accounts and authorized users.
func (s *Server) TokenURL() string { return "http://" + s.token + "/token" }

// MetadataHost is for GCE_METADATA_HOST: the machine's own service account is the
// identity "metadata".
func (s *Server) MetadataHost() string { return s.token }

// Close ends all calls, hung ones too.
func (s *Server) Close() {
	close(s.done)
	s.grpc.Stop()
	s.http.Close()
	s.json.Close()
	s.wait.Wait()
}

// Grant makes an identity, or gives it other roles in every project: none takes all away.
func (s *Server) Grant(identity string, roles ...Role) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Identities[identity] = roles
	s.Save()
}

// GrantIn gives an identity roles in one project, besides those that it has in every one.
func (s *Server) GrantIn(project, identity string, roles ...Role) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.state.Identities[identity]; !known {
		s.state.Identities[identity] = nil // somebody now
	}
	s.state.Identities[identity+" "+project] = roles
	s.Save()
}

// Forget deletes an identity: its tokens and its credentials are worth nothing any more.
func (s *Server) Forget(identity string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.state.Identities, func(i string, _ []Role) bool { return i == identity || strings.HasPrefix(i, identity+" ") })
	maps.DeleteFunc(s.tokens, func(_ string, t issued) bool { return t.identity == identity })
	s.Save()
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

// Skew sets the server's clock off by d: tokens and Date headers go by it.
func (s *Server) Skew(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skew = d
}

// Calls counts calls by method, refused ones too, since the start or the last Reset.
func (s *Server) Calls() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.calls)
}

// Reset sets the counters to zero, the rate limits' included.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.calls)
	s.asked = nil
	clear(s.spent)
}

// Put adds a version as a person would by hand, and makes the secret if need be. name is
// "projects/p/secrets/s". It returns the version's number.
func (s *Server) Put(name string, data []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.state.Secrets[name]
	if c == nil {
		c = &secret{Created: s.now(), Etag: 1, Replica: s.o.Location == ""}
		s.state.Secrets[name] = c
	}
	c.Versions = append(c.Versions, &version{Created: s.now(), Etag: 1, State: pb.SecretVersion_ENABLED, Data: bytes.Clone(data)})
	s.Save()
	return len(c.Versions)
}

// Set puts a version into a state. Destroying it removes its bytes.
func (s *Server) Set(name string, number int, to pb.SecretVersion_State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.state.Secrets[name]
	if c == nil || number < 1 || number > len(c.Versions) {
		return fmt.Errorf("%s has no version %d", name, number)
	}
	return s.setLocked(name, number, to, "")
}

// Schedule disables a version until it is destroyed, as a secret with version_destroy_ttl
// does where somebody destroys one.
func (s *Server) Schedule(name string, number int, at time.Time) error {
	if err := s.Set(name, number, pb.SecretVersion_DISABLED); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Secrets[name].Versions[number-1].Scheduled = at
	s.Save()
	return nil
}

// Allow gives a role on one secret to a member, which only its policy shows.
func (s *Server) Allow(name, role, member string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.state.Secrets[name]
	if c.Policy == nil {
		c.Policy = map[string][]string{}
	}
	c.Policy[role] = append(c.Policy[role], member)
	s.Save()
}

// GetIamPolicy tells the roles on one secret, and nothing of those on its project.
func (s *Server) GetIamPolicy(_ context.Context, r *iampb.GetIamPolicyRequest) (*iampb.Policy, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.find(r.Resource)
	if err != nil {
		return nil, err
	}
	policy := &iampb.Policy{Version: 1}
	for _, role := range slices.Sorted(maps.Keys(c.Policy)) {
		policy.Bindings = append(policy.Bindings, &iampb.Binding{Role: role, Members: slices.Clone(c.Policy[role])})
	}
	return policy, nil
}

// Versions returns the bytes of every version, oldest first; nil where destroyed.
func (s *Server) Versions(name string) [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all [][]byte
	if c := s.state.Secrets[name]; c != nil {
		for _, v := range c.Versions {
			all = append(all, bytes.Clone(v.Data))
		}
	}
	return all
}

// Labels returns a secret's labels, nil where there is no such secret.
func (s *Server) Labels(name string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.state.Secrets[name]; c != nil {
		return maps.Clone(c.Labels)
	}
	return nil
}

// Spend uses up so many calls of a project's quota ("read", "write", "access") in this minute.
func (s *Server) Spend(project, quota string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.clock().Unix() / 60; m != s.minute {
		s.minute = m
		clear(s.spent)
	}
	s.spent[quota+" "+project] += n
}

// Label puts a label on a secret.
func (s *Server) Label(name, label, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.state.Secrets[name]
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	c.Labels[label] = value
	s.Save()
}

// Remove takes a secret away, as somebody who deletes it would.
func (s *Server) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.state.Secrets, name)
	s.Save()
}

func (s *Server) now() time.Time { return s.clock().Add(s.skew) }

// clock is now without the skew: minutes of the rate limits go by it.
func (s *Server) clock() time.Time {
	if s.o.Now != nil {
		return s.o.Now()
	}
	return time.Now()
}

// intercept does what comes before the call itself: counting, faults, who asks.
func (s *Server) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	method := info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]
	name := resource(req)
	defer s.Begin()()
	s.mu.Lock()
	s.calls[method]++
	fault := s.takeFault(method, name)
	date := s.now().UTC().Format(http.TimeFormat)
	s.mu.Unlock()
	if err := grpc.SetHeader(ctx, metadata.Pairs("date", date)); err != nil {
		return nil, err
	}
	switch fault.Kind {
	case Slow:
		t := time.NewTimer(fault.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		case <-s.done:
			return nil, status.Error(codes.Unavailable, "closing")
		}
	case Hang:
		select {
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		case <-s.done:
			return nil, status.Error(codes.Unavailable, "closing")
		}
	case CutBefore:
		s.cut(ctx)
		return nil, status.Error(codes.Unavailable, "cut")
	case Fail:
		return nil, status.Error(fault.Code, "a fault was asked for")
	}
	if err := s.admit(ctx, method, name); err != nil {
		return nil, err
	}
	resp, err := next(ctx, req)
	switch {
	case err != nil:
	case fault.Kind == CutAfter:
		s.cut(ctx)
	case fault.Kind == FailAfter:
		return nil, status.Error(fault.Code, "a fault was asked for")
	default:
		resp, err = s.lie(fault.Kind, req, resp)
	}
	return resp, err
}

func (s *Server) takeFault(method, name string) Fault {
	id := name
	if _, rest, ok := strings.Cut(name, "/secrets/"); ok {
		id, _, _ = strings.Cut(rest, "/")
	}
	for i, f := range s.faults {
		if f.Method != "" && f.Method != method || f.Secret != "" && f.Secret != id {
			continue
		}
		taken := *f
		if f.Times == 1 {
			s.faults = slices.Delete(s.faults, i, i+1)
		} else if f.Times > 1 {
			f.Times--
		}
		return taken
	}
	return Fault{}
}

// lie changes a good answer.
func (s *Server) lie(kind Kind, req, resp any) (any, error) {
	if list, ok := resp.(*pb.ListSecretVersionsResponse); ok && kind == StaleList {
		newest := func(v *pb.SecretVersion) bool {
			name, _, _ := strings.Cut(v.Name, "/versions/")
			s.mu.Lock()
			defer s.mu.Unlock()
			for n, c := range s.state.Secrets {
				if s.numbered(n) == name {
					return strings.HasSuffix(v.Name, "/"+strconv.Itoa(len(c.Versions)))
				}
			}
			return false
		}
		list.Versions = slices.DeleteFunc(list.Versions, newest)
		list.TotalSize = max(0, list.TotalSize-1)
		return list, nil
	}
	got, ok := resp.(*pb.AccessSecretVersionResponse)
	if !ok {
		return resp, nil
	}
	p := &pb.SecretPayload{Data: bytes.Clone(got.Payload.Data), DataCrc32C: got.Payload.DataCrc32C}
	switch kind {
	case WrongBytes:
		p.Data[0] ^= 1
		p.DataCrc32C = checksum(p.Data)
	case WrongCRC:
		*p.DataCrc32C ^= 1
	case NoCRC:
		p.DataCrc32C = nil
	case StaleLatest:
		asked, ok := req.(*pb.AccessSecretVersionRequest)
		name, isLatest := "", false
		if ok {
			name, isLatest = strings.CutSuffix(asked.Name, "/versions/latest")
		}
		if isLatest {
			s.mu.Lock()
			defer s.mu.Unlock()
			n := len(s.state.Secrets[name].Versions) - 1
			if n == 0 {
				return nil, status.Errorf(codes.NotFound, "Secret [%s] not found or has no versions.", s.numbered(name))
			}
			return s.payload(name, n)
		}
	}
	return &pb.AccessSecretVersionResponse{Name: got.Name, Payload: p}, nil
}

// cut closes the caller's connection.
func (s *Server) cut(ctx context.Context) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return
	}
	s.mu.Lock()
	c := s.conns[p.Addr.String()]
	s.mu.Unlock()
	if c != nil {
		c.Close()
	}
	<-ctx.Done() // the answer is not to overtake the closing
}

// listener remembers connections, so that cut can close them.
type listener struct {
	net.Listener
	s *Server
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.s.conns[c.RemoteAddr().String()] = c
	return &conn{c, l.s}, nil
}

type conn struct {
	net.Conn
	s *Server
}

func (c *conn) Close() error {
	c.s.mu.Lock()
	delete(c.s.conns, c.RemoteAddr().String())
	c.s.mu.Unlock()
	return c.Conn.Close()
}

// rules are what each method needs: a permission, the field of the routing header, and
// the quota that it is counted under.
var rules = map[string]struct {
	permission, route, quota string
	perMinute                int
}{
	"ListSecrets":          {"secrets.list", "parent", "read", readsPerMinute},
	"CreateSecret":         {"secrets.create", "parent", "write", writesPerMinute},
	"GetSecret":            {"secrets.get", "name", "read", readsPerMinute},
	"UpdateSecret":         {"secrets.update", "secret.name", "write", writesPerMinute},
	"DeleteSecret":         {"secrets.delete", "name", "write", writesPerMinute},
	"AddSecretVersion":     {"versions.add", "parent", "write", writesPerMinute},
	"ListSecretVersions":   {"versions.list", "parent", "read", readsPerMinute},
	"GetSecretVersion":     {"versions.get", "name", "read", readsPerMinute},
	"AccessSecretVersion":  {"versions.access", "name", "access", accessPerMinute},
	"EnableSecretVersion":  {"versions.enable", "name", "write", writesPerMinute},
	"DisableSecretVersion": {"versions.disable", "name", "write", writesPerMinute},
	"DestroySecretVersion": {"versions.destroy", "name", "write", writesPerMinute},
	"GetIamPolicy":         {"secrets.getIamPolicy", "resource", "read", readsPerMinute},
	"TestIamPermissions":   {"", "resource", "read", readsPerMinute}, // everybody who is somebody may
}

// admit checks, in the real one's order: who asks, the form of the name, whether they
// may (a secret that is missing is denied, too), and how often.
func (s *Server) admit(ctx context.Context, method, name string) error {
	rule, ok := rules[method]
	if !ok {
		return status.Errorf(codes.Unimplemented, "the fake has no %s", method)
	}
	md, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	roles, err := s.caller(md.Get("authorization"), name)
	if err != nil {
		return err
	}
	if err := s.checkName(name); err != nil {
		return err
	}
	if want := rule.route + "=" + url.QueryEscape(name); !slices.Contains(md.Get("x-goog-request-params"), want) {
		return status.Errorf(codes.InvalidArgument, "x-goog-request-params is %q, not %q", md.Get("x-goog-request-params"), want)
	}
	allowed := rule.permission == "" || slices.ContainsFunc(roles, func(r Role) bool { return slices.Contains(grants[r], rule.permission) })
	if !allowed {
		return status.Errorf(codes.PermissionDenied, "Permission 'secretmanager.%s' denied for resource '%s' (or it may not exist).", rule.permission, name)
	}
	if s.o.Unlimited {
		return nil
	}
	if m := s.clock().Unix() / 60; m != s.minute {
		s.minute = m
		clear(s.spent)
	}
	project := strings.Split(name, "/")[1]
	if s.spent[rule.quota+" "+project]++; s.spent[rule.quota+" "+project] > rule.perMinute {
		return status.Errorf(codes.ResourceExhausted, "Quota exceeded for quota metric '%s requests' and limit '%s requests per minute' of service 'secretmanager.googleapis.com' for consumer 'project_number:%d'.", rule.quota, rule.quota, projectNumber(project))
	}
	if method == "AddSecretVersion" {
		if s.spent[name]++; s.spent[name] > addsPerMinute {
			return status.Errorf(codes.ResourceExhausted, "Resource has been exhausted (e.g. check quota).")
		}
	}
	return nil
}

// TestIamPermissions tells which of these the caller has. A secret that is missing has
// none to give, which is no error (google.iam.v1).
func (s *Server) TestIamPermissions(ctx context.Context, req *iampb.TestIamPermissionsRequest) (*iampb.TestIamPermissionsResponse, error) {
	if strings.Contains(req.Resource, "/versions/") || !strings.Contains(req.Resource, "/secrets/") {
		return nil, status.Errorf(codes.InvalidArgument, "Invalid resource field value in the request: %q is no secret.", req.Resource)
	}
	md, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	roles, err := s.caller(md.Get("authorization"), req.Resource)
	if err != nil {
		return nil, err
	}
	resp := &iampb.TestIamPermissionsResponse{}
	for _, p := range req.Permissions {
		name, ok := strings.CutPrefix(p, "secretmanager.")
		if !ok || !slices.Contains(grants[Admin], name) {
			return nil, status.Errorf(codes.InvalidArgument, "Permission %s is not valid for this resource.", p)
		}
		has := slices.ContainsFunc(roles, func(r Role) bool { return slices.Contains(grants[r], name) })
		if has && s.state.Secrets[req.Resource] != nil {
			resp.Permissions = append(resp.Permissions, p)
		}
	}
	return resp, nil
}

// caller finds what the identity of a bearer token may do with a name's project.
func (s *Server) caller(header []string, name string) ([]Role, error) {
	if len(header) == 0 && s.o.Anonymous {
		return []Role{Admin}, nil
	}
	if len(header) == 0 {
		return nil, status.Error(codes.Unauthenticated, "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other valid authentication credential.")
	}
	value, ok := strings.CutPrefix(header[0], "Bearer ")
	t, known := s.tokens[value]
	if !ok || len(header) != 1 || !known || s.now().After(t.until) {
		return nil, status.Error(codes.Unauthenticated, "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential.")
	}
	project, _, _ := strings.Cut(strings.TrimPrefix(name, "projects/"), "/")
	return slices.Concat(s.state.Identities[t.identity], s.state.Identities[t.identity+" "+project]), nil
}

var (
	projectForm  = form(`^([a-z][a-z0-9-]{4,28}[a-z0-9]|[0-9]{1,19})$`)
	locationForm = form(`^[a-z]+(-[a-z]+)*[0-9]*$`)
	secretForm   = form(`^[A-Za-z0-9_-]{1,255}$`)
	versionForm  = form(`^(latest|[1-9][0-9]{0,18})$`)
)

// form compiles an expression when it is first needed. A test's program starts itself a
// thousand times, as keyguard and others, and need not pay for a server each time.
func form(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// checkName checks a name of any kind: a parent, a secret, a version.
func (s *Server) checkName(name string) error {
	bad := func(what string) error {
		return status.Errorf(codes.InvalidArgument, "Invalid resource field value in the request: %s in %q.", what, name)
	}
	p := strings.Split(name, "/")
	if len(p) < 2 || len(p)%2 != 0 || p[0] != "projects" || !projectForm().MatchString(p[1]) {
		return bad("the project")
	}
	p = p[2:]
	location := ""
	if len(p) > 0 && p[0] == "locations" {
		if !locationForm().MatchString(p[1]) {
			return bad("the location")
		}
		location = p[1]
		p = p[2:]
	}
	if location != s.o.Location {
		return bad("a location that this endpoint does not serve")
	}
	if len(p) > 0 && (p[0] != "secrets" || !secretForm().MatchString(p[1])) {
		return bad("the secret")
	}
	if len(p) > 2 && (p[2] != "versions" || !versionForm().MatchString(p[3])) || len(p) > 4 {
		return bad("the version")
	}
	return nil
}

// resource is the name that a request is about.
func resource(req any) string {
	switch r := req.(type) {
	case interface{ GetParent() string }:
		return r.GetParent()
	case *pb.UpdateSecretRequest:
		return r.GetSecret().GetName()
	case interface{ GetResource() string }:
		return r.GetResource()
	case interface{ GetName() string }:
		return r.GetName()
	}
	return ""
}

// projectNumber: every project has a number, and the API's answers name it by that.
func projectNumber(project string) uint64 {
	if n, err := strconv.ParseUint(project, 10, 64); err == nil {
		return n
	}
	h := fnv.New32a()
	h.Write([]byte(project))
	return 100_000_000_000 + uint64(h.Sum32())
}

// numbered is a name as answers have it.
func (s *Server) numbered(name string) string {
	p := strings.SplitN(name, "/", 3)
	p[1] = strconv.FormatUint(projectNumber(p[1]), 10)
	return strings.Join(p, "/")
}

func (s *Server) find(name string) (*secret, error) {
	c := s.state.Secrets[name]
	if c == nil {
		return nil, status.Errorf(codes.NotFound, "Secret [%s] not found.", s.numbered(name))
	}
	return c, nil
}

func (s *Server) findVersion(full string) (*secret, string, int, error) {
	name, id, _ := strings.Cut(full, "/versions/")
	c := s.state.Secrets[name]
	if c == nil || id == "latest" && len(c.Versions) == 0 {
		return nil, "", 0, status.Errorf(codes.NotFound, "Secret [%s] not found or has no versions.", s.numbered(name))
	}
	n := len(c.Versions)
	if id != "latest" {
		var err error
		if n, err = strconv.Atoi(id); err != nil || n > len(c.Versions) {
			return nil, "", 0, status.Errorf(codes.NotFound, "Secret Version [%s] not found.", s.numbered(full))
		}
	}
	return c, name, n, nil
}

func etag(n int64) string { return fmt.Sprintf("%q", strconv.FormatInt(n, 16)) }

func checkEtag(got string, have int64) error {
	if got != "" && got != etag(have) {
		return status.Errorf(codes.FailedPrecondition, "The provided etag %s does not match the current etag %s.", got, etag(have))
	}
	return nil
}

func (s *Server) secretPB(name string, c *secret) *pb.Secret {
	out := &pb.Secret{Name: s.numbered(name), CreateTime: timestamppb.New(c.Created), Etag: etag(c.Etag), Labels: maps.Clone(c.Labels)}
	switch {
	case c.Regions != nil:
		managed := &pb.Replication_UserManaged{}
		for _, r := range c.Regions {
			managed.Replicas = append(managed.Replicas, &pb.Replication_UserManaged_Replica{Location: r})
		}
		out.Replication = &pb.Replication{Replication: &pb.Replication_UserManaged_{UserManaged: managed}}
	case c.Replica:
		out.Replication = &pb.Replication{Replication: &pb.Replication_Automatic_{Automatic: &pb.Replication_Automatic{}}}
	}
	return out
}

func (s *Server) versionPB(name string, n int, v *version) *pb.SecretVersion {
	out := &pb.SecretVersion{
		Name: fmt.Sprintf("%s/versions/%d", s.numbered(name), n), CreateTime: timestamppb.New(v.Created),
		State: v.State, Etag: etag(v.Etag), ClientSpecifiedPayloadChecksum: v.Checksum,
	}
	if v.State == pb.SecretVersion_DESTROYED {
		out.DestroyTime = timestamppb.New(v.Destroyed)
	} else if !v.Scheduled.IsZero() {
		out.ScheduledDestroyTime = timestamppb.New(v.Scheduled)
	}
	return out
}

func checkLabels(labels map[string]string) error {
	if len(labels) > 64 {
		return status.Error(codes.InvalidArgument, "more than 64 labels")
	}
	letter := func(r rune) bool { return unicode.Is(unicode.Ll, r) || unicode.Is(unicode.Lo, r) }
	for k, v := range labels {
		for i, r := range k + v {
			first := i == 0
			if len(k) == 0 || first && !letter(r) || !letter(r) && !unicode.IsNumber(r) && r != '_' && r != '-' {
				return status.Errorf(codes.InvalidArgument, "label %q=%q", k, v)
			}
		}
		if k == "" || utf8.RuneCountInString(k) > 63 || utf8.RuneCountInString(v) > 63 || len(k) > 128 || len(v) > 128 {
			return status.Errorf(codes.InvalidArgument, "label %q=%q", k, v)
		}
	}
	return nil
}

// CreateSecret wants replication for a global secret, and none for a regional one.
func (s *Server) CreateSecret(_ context.Context, r *pb.CreateSecretRequest) (*pb.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !secretForm().MatchString(r.SecretId) {
		return nil, status.Errorf(codes.InvalidArgument, "The secret id %q does not match the expected format [[a-zA-Z_0-9-]+].", r.SecretId)
	}
	if strings.Contains(r.Parent, "/secrets") || r.Secret == nil {
		return nil, status.Error(codes.InvalidArgument, "parent and secret are required")
	}
	if given := r.Secret.GetReplication().GetReplication() != nil; given != (s.o.Location == "") {
		return nil, status.Error(codes.InvalidArgument, "replication is required for a global secret, and refused for a regional one")
	}
	var regions []string
	for _, one := range r.Secret.GetReplication().GetUserManaged().GetReplicas() {
		regions = append(regions, one.GetLocation())
	}
	if r.Secret.GetReplication().GetUserManaged() != nil && len(regions) == 0 {
		return nil, status.Error(codes.InvalidArgument, "user-managed replication without replicas")
	}
	if s.o.Allowed != nil {
		asked := regions
		switch {
		case s.o.Location != "":
			asked = []string{s.o.Location}
		case regions == nil:
			asked = []string{"global"}
		}
		for _, where := range asked {
			if !slices.Contains(s.o.Allowed, where) {
				return nil, status.Errorf(codes.FailedPrecondition, "Constraint constraints/gcp.resourceLocations violated for [orgpolicy:%s] attempting to create a secret in [%s]. For more information, see https://cloud.google.com/resource-manager/docs/organization-policy/org-policy-constraints.", s.numbered(r.Parent), where)
			}
		}
	}
	if err := checkLabels(r.Secret.Labels); err != nil {
		return nil, err
	}
	name := r.Parent + "/secrets/" + r.SecretId
	if s.state.Secrets[name] != nil {
		return nil, status.Errorf(codes.AlreadyExists, "Secret [%s] already exists.", s.numbered(name))
	}
	c := &secret{Created: s.now(), Etag: 1, Labels: maps.Clone(r.Secret.Labels), Replica: s.o.Location == "", Regions: regions}
	s.state.Secrets[name] = c
	s.Save()
	return s.secretPB(name, c), nil
}

func (s *Server) GetSecret(_ context.Context, r *pb.GetSecretRequest) (*pb.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.find(r.Name)
	if err != nil {
		return nil, err
	}
	return s.secretPB(r.Name, c), nil
}

// UpdateSecret updates labels; a client that means something else is mistaken here.
func (s *Server) UpdateSecret(_ context.Context, r *pb.UpdateSecretRequest) (*pb.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.find(r.Secret.Name)
	if err != nil {
		return nil, err
	}
	if paths := r.GetUpdateMask().GetPaths(); !slices.Equal(paths, []string{"labels"}) {
		return nil, status.Errorf(codes.InvalidArgument, "update_mask %q", paths)
	}
	if r.Secret.Etag == "" {
		return nil, status.Error(codes.InvalidArgument, "an update without an etag may undo somebody else's")
	}
	if err := checkEtag(r.Secret.Etag, c.Etag); err != nil {
		return nil, err
	}
	if err := checkLabels(r.Secret.Labels); err != nil {
		return nil, err
	}
	c.Labels = maps.Clone(r.Secret.Labels)
	c.Etag++
	s.Save()
	return s.secretPB(r.Secret.Name, c), nil
}

func (s *Server) DeleteSecret(_ context.Context, r *pb.DeleteSecretRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.find(r.Name)
	if err == nil {
		err = checkEtag(r.Etag, c.Etag)
	}
	if err != nil {
		return nil, err
	}
	delete(s.state.Secrets, r.Name)
	s.Save()
	return &emptypb.Empty{}, nil
}

func (s *Server) AddSecretVersion(_ context.Context, r *pb.AddSecretVersionRequest) (*pb.SecretVersion, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data := r.GetPayload().GetData()
	switch {
	case len(data) == 0:
		return nil, status.Error(codes.InvalidArgument, "Secret Payload cannot be empty.")
	case len(data) > maxPayload:
		return nil, status.Errorf(codes.InvalidArgument, "The secret payload is %d bytes, larger than %d.", len(data), maxPayload)
	case r.Payload.DataCrc32C == nil:
		return nil, status.Error(codes.InvalidArgument, "data_crc32c is missing")
	case *r.Payload.DataCrc32C != *checksum(data):
		return nil, status.Error(codes.InvalidArgument, "The checksum of the secret payload does not match data_crc32c.")
	}
	c, err := s.find(r.Parent)
	if err != nil {
		return nil, err
	}
	v := &version{Created: s.now(), Etag: 1, State: pb.SecretVersion_ENABLED, Data: bytes.Clone(data), Checksum: true}
	c.Versions = append(c.Versions, v)
	s.Save()
	return s.versionPB(r.Parent, len(c.Versions), v), nil
}

func (s *Server) AccessSecretVersion(_ context.Context, r *pb.AccessSecretVersionRequest) (*pb.AccessSecretVersionResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, name, n, err := s.findVersion(r.Name)
	if err != nil {
		return nil, err
	}
	return s.payload(name, n)
}

func (s *Server) payload(name string, n int) (*pb.AccessSecretVersionResponse, error) {
	v := s.state.Secrets[name].Versions[n-1]
	full := fmt.Sprintf("%s/versions/%d", s.numbered(name), n)
	if v.State != pb.SecretVersion_ENABLED {
		return nil, status.Errorf(codes.FailedPrecondition, "Secret Version [%s] is in %s state.", full, v.State)
	}
	return &pb.AccessSecretVersionResponse{Name: full, Payload: &pb.SecretPayload{Data: bytes.Clone(v.Data), DataCrc32C: checksum(v.Data)}}, nil
}

func (s *Server) GetSecretVersion(_ context.Context, r *pb.GetSecretVersionRequest) (*pb.SecretVersion, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, name, n, err := s.findVersion(r.Name)
	if err != nil {
		return nil, err
	}
	return s.versionPB(name, n, c.Versions[n-1]), nil
}

// ListSecretVersions lists newest first. A page token is good for the parent that it was
// made for.
func (s *Server) ListSecretVersions(_ context.Context, r *pb.ListSecretVersionsRequest) (*pb.ListSecretVersionsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.find(r.Parent)
	if err != nil {
		return nil, err
	}
	size, err := s.pageSize(r.PageSize)
	if err != nil {
		return nil, err
	}
	if r.Filter != "" {
		return nil, status.Error(codes.InvalidArgument, "the fake has no filters")
	}
	at := len(c.Versions)
	if r.PageToken != "" {
		if at, err = readPageToken(r.PageToken, r.Parent); err != nil || at > len(c.Versions) {
			return nil, status.Error(codes.InvalidArgument, "Invalid page_token.")
		}
	}
	out := &pb.ListSecretVersionsResponse{TotalSize: int32(len(c.Versions))}
	for ; at > 0 && len(out.Versions) < size; at-- {
		out.Versions = append(out.Versions, s.versionPB(r.Parent, at, c.Versions[at-1]))
	}
	if at > 0 {
		out.NextPageToken = pageToken(r.Parent, at)
	}
	return out, nil
}

func (s *Server) ListSecrets(_ context.Context, r *pb.ListSecretsRequest) (*pb.ListSecretsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size, err := s.pageSize(r.PageSize)
	if err != nil {
		return nil, err
	}
	label, value := "", ""
	if r.Filter != "" {
		var ok bool
		if label, value, ok = strings.Cut(strings.TrimPrefix(r.Filter, "labels."), "="); !ok || !strings.HasPrefix(r.Filter, "labels.") {
			return nil, status.Errorf(codes.InvalidArgument, "the fake has no filter %q", r.Filter)
		}
	}
	names := slices.Sorted(maps.Keys(s.state.Secrets))
	names = slices.DeleteFunc(names, func(n string) bool {
		return !strings.HasPrefix(n, r.Parent+"/secrets/") || label != "" && s.state.Secrets[n].Labels[label] != value
	})
	at := 0
	if r.PageToken != "" {
		if at, err = readPageToken(r.PageToken, r.Parent); err != nil || at > len(names) {
			return nil, status.Error(codes.InvalidArgument, "Invalid page_token.")
		}
	}
	out := &pb.ListSecretsResponse{TotalSize: int32(len(names))}
	for ; at < len(names) && len(out.Secrets) < size; at++ {
		out.Secrets = append(out.Secrets, s.secretPB(names[at], s.state.Secrets[names[at]]))
	}
	if at < len(names) {
		out.NextPageToken = pageToken(r.Parent, at)
	}
	return out, nil
}

func (s *Server) pageSize(asked int32) (int, error) {
	if asked < 0 || asked > maxPage {
		return 0, status.Errorf(codes.InvalidArgument, "page_size %d", asked)
	}
	size := int(asked)
	if size == 0 {
		size = defaultPage
	}
	if s.o.MaxPage > 0 {
		size = min(size, s.o.MaxPage)
	}
	return size, nil
}

func pageToken(parent string, at int) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", at, parent))
}

func readPageToken(token, parent string) (int, error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return 0, err
	}
	n, p, _ := strings.Cut(string(b), " ")
	if p != parent {
		return 0, errors.New("a page token of another parent")
	}
	return strconv.Atoi(n)
}

func (s *Server) EnableSecretVersion(_ context.Context, r *pb.EnableSecretVersionRequest) (*pb.SecretVersion, error) {
	return s.set(r.Name, r.Etag, pb.SecretVersion_ENABLED)
}

func (s *Server) DisableSecretVersion(_ context.Context, r *pb.DisableSecretVersionRequest) (*pb.SecretVersion, error) {
	return s.set(r.Name, r.Etag, pb.SecretVersion_DISABLED)
}

func (s *Server) DestroySecretVersion(_ context.Context, r *pb.DestroySecretVersionRequest) (*pb.SecretVersion, error) {
	return s.set(r.Name, r.Etag, pb.SecretVersion_DESTROYED)
}

func (s *Server) set(full, tag string, to pb.SecretVersion_State) (*pb.SecretVersion, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, name, n, err := s.findVersion(full)
	if err == nil {
		err = s.setLocked(name, n, to, tag)
	}
	if err != nil {
		return nil, err
	}
	return s.versionPB(name, n, c.Versions[n-1]), nil
}

func (s *Server) setLocked(name string, n int, to pb.SecretVersion_State, tag string) error {
	v := s.state.Secrets[name].Versions[n-1]
	if err := checkEtag(tag, v.Etag); err != nil {
		return err
	}
	if v.State == pb.SecretVersion_DESTROYED {
		return status.Errorf(codes.FailedPrecondition, "Secret Version [%s/versions/%d] is in DESTROYED state.", s.numbered(name), n)
	}
	v.State = to
	v.Etag++ // also where nothing changes
	if to == pb.SecretVersion_DESTROYED {
		v.Data, v.Destroyed = nil, s.now()
	}
	s.Save()
	return nil
}

func checksum(b []byte) *int64 {
	n := int64(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return &n
}
