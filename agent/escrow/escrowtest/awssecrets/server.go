// Package awssecrets is a fake AWS Secrets Manager: the actions that keyguard calls,
// made after the service's API reference, its quotas and its error messages. Of requests
// it is stricter than the service: whatever no client of the API may send is an abuse,
// which the test that started it finds in Abuses.
//
// Signatures are checked as the documentation of Signature Version 4 describes it, by code
// of this package's own
// (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html).
package awssecrets

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxLabels = 20        // staging labels of a secret
	maxBody   = 128 << 10 // bytes of a request
	maxValue  = 65536     // bytes of a value
	keepOld   = 100       // versions, beyond which those without a label go
)

// The staging labels that the service moves itself.
const (
	Current  = "AWSCURRENT"
	Previous = "AWSPREVIOUS"
)

// Actions are all that this fake knows.
var Actions = []string{"CreateSecret", "DescribeSecret", "GetSecretValue", "ListSecretVersionIds", "PutSecretValue"}

// People are those that keyguard never calls, and a person does, with AWS's own command.
var People = append(slices.Clone(Actions), "DeleteSecret", "RestoreSecret")

// Least are those that a host needs where somebody else has made the secrets.
var Least = []string{"DescribeSecret", "GetSecretValue", "ListSecretVersionIds", "PutSecretValue"}

// Audit are those of somebody who looks at many hosts and reads no value.
var Audit = []string{"DescribeSecret", "GetResourcePolicy", "ListSecretVersionIds", "ListSecrets"}

// Identity is who may ask.
type Identity struct {
	AccessKey, Secret, Session string
	Actions                    []string // allowed
}

// Options of a Server. The zero Options are a region with nothing in it.
type Options struct {
	Region string // "" is eu-central-1
	// Page bounds how many versions one answer lists, 0 for what was asked for.
	Page int
}

// Server is the service.
type Server struct {
	o    Options
	http *httptest.Server

	mu         sync.Mutex
	identities map[string]Identity
	secrets    map[string]*secret
	faults     []Fault
	calls      map[string]int
	abuses     []string
	clock      time.Time     // of the version that was made last
	skew       time.Duration // what the service's clock is ahead of ours
	kmsOff     bool
	primary    string // the region of which all secrets are replicas, if any, or this one's own
}

type secret struct {
	versions map[string]*version
	order    []string // ids, oldest first
	deleted  time.Time
	policy   string // JSON, "" for none
}

type version struct {
	text    *string
	binary  []byte
	created time.Time
	stages  []string
}

// Kind is what goes wrong.
type Kind string

// The kinds of faults.
const (
	CutBefore Kind = "cut before" // the connection breaks, nothing is done
	CutAfter  Kind = "cut after"  // it is done, and the connection breaks
	Fail      Kind = "fail"       // an error, nothing is done
	FailAfter Kind = "fail after" // it is done, and there is an error
	NotJSON   Kind = "not json"   // a page of somebody's
	Lie       Kind = "lie"        // other bytes than those that are stored
	Endless   Kind = "endless"    // an answer that does not end
)

// Fault strikes one action, "" for all of them.
type Fault struct {
	Kind    Kind
	Action  string
	Status  int    // of Fail and FailAfter
	Code    string // "ThrottlingException"
	Message string
	Times   int // how often, 0 for always
}

// Start starts a server on loopback, in the clear.
func Start(o Options) *Server {
	if o.Region == "" {
		o.Region = "eu-central-1"
	}
	s := &Server{o: o, identities: map[string]Identity{}, secrets: map[string]*secret{}, calls: map[string]int{}}
	s.http = httptest.NewServer(http.HandlerFunc(s.serve))
	return s
}

// Close ends it.
func (s *Server) Close() { s.http.Close() }

// Addr is host:port.
func (s *Server) Addr() string { return strings.TrimPrefix(s.http.URL, "http://") }

// Region is where it is.
func (s *Server) Region() string { return s.o.Region }

// Grant makes an identity that may make these calls.
func (s *Server) Grant(actions ...string) Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := Identity{AccessKey: "AKIA" + rand.Text()[:16], Secret: rand.Text() + rand.Text()[:14], Session: rand.Text(), Actions: actions}
	s.identities[id.AccessKey] = id
	return id
}

// Allow changes what an identity may do.
func (s *Server) Allow(id Identity, actions ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id.Actions = actions
	s.identities[id.AccessKey] = id
}

// Revoke takes an identity away.
func (s *Server) Revoke(id Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.identities, id.AccessKey)
}

// File writes an identity as a shared credentials file.
func (i Identity) File(profile string) []byte {
	return fmt.Appendf(nil, "[other]\naws_access_key_id = AKIAWRONGWRONGWRONG0\naws_secret_access_key = wrong\n\n[%s]\naws_access_key_id = %s\naws_secret_access_key=%s\naws_session_token = %s\n",
		profile, i.AccessKey, i.Secret, i.Session)
}

// Break makes a fault strike; Heal ends all.
func (s *Server) Break(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
}

// Heal ends all faults.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults, s.skew, s.kmsOff, s.primary = nil, 0, false, ""
}

// Skew sets the service's clock ahead.
func (s *Server) Skew(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skew = d
}

// DisableKMS disables the KMS key of all secrets.
func (s *Server) DisableKMS() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kmsOff = true
}

// Replica makes all secrets replicas of a region's, or of its own: then they have some elsewhere.
func (s *Server) Replica(of string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.primary = of
}

// Label gives one more label to the version that is current: what older versions of this
// secret had, a key's each.
func (s *Server) Label(name, stage string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.secrets[name]
	s.move(x, stage, x.at(Current))
}

// Versions are the ids of a secret's versions, oldest first; none of a secret that is not there.
func (s *Server) Versions(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.secrets[name]; x != nil {
		return slices.Clone(x.order)
	}
	return nil
}

// Calls are how often each action was called.
func (s *Server) Calls() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.calls)
}

// Abuses are the requests that no client may send.
func (s *Server) Abuses() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.abuses)
}

// Put is what a person does: a new version that is current, with no label of its own.
// What is no text goes in as SecretBinary. It returns the version's id.
func (s *Server) Put(name string, data []byte, text bool) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := &version{}
	if text {
		v.text = new(string(data))
	} else {
		v.binary = bytes.Clone(data)
	}
	id := uuid()
	s.add(s.secrets[name], id, v, []string{Current})
	return id
}

// Delete schedules a secret for deletion, Undelete takes that back.
func (s *Server) Delete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets[name].deleted = s.now().Add(30 * 24 * time.Hour)
}

// Undelete takes a deletion back.
func (s *Server) Undelete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets[name].deleted = time.Time{}
}

// Policy gives a secret a policy of its own.
func (s *Server) Policy(name, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets[name].policy = text
}

// Move is UpdateSecretVersionStage, as a person calls it.
func (s *Server) Move(name, stage, to string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.move(s.secrets[name], stage, to)
}

// Stages are the labels of a secret's versions.
func (s *Server) Stages(name string) map[string][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.secrets[name].stages()
}

// Value is what stands in a version, "" for the current one.
func (s *Server) Value(name, id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	sec := s.secrets[name]
	if id == "" {
		id = sec.at(Current)
	}
	if v := sec.versions[id]; v.text != nil {
		return *v.text
	}
	return string(sec.versions[id].binary)
}

func uuid() string {
	var b [16]byte
	rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (s *Server) now() time.Time { return time.Now().Add(s.skew) }

func (x *secret) stages() map[string][]string {
	all := map[string][]string{}
	for id, v := range x.versions {
		if len(v.stages) > 0 {
			all[id] = slices.Clone(v.stages)
		}
	}
	return all
}

func (x *secret) at(stage string) string {
	for id, v := range x.versions {
		if slices.Contains(v.stages, stage) {
			return id
		}
	}
	return ""
}

// move attaches a label to one version and takes it from any other. AWSCURRENT leaves
// AWSPREVIOUS behind.
func (s *Server) move(x *secret, stage, to string) {
	from := x.at(stage)
	if from == to {
		return
	}
	take := func(label string) {
		for _, v := range x.versions {
			v.stages = slices.DeleteFunc(v.stages, func(l string) bool { return l == label })
		}
	}
	take(stage)
	x.versions[to].stages = append(x.versions[to].stages, stage)
	if stage == Current && from != "" {
		take(Previous)
		x.versions[from].stages = append(x.versions[from].stages, Previous)
	}
}

func (s *Server) add(x *secret, id string, v *version, stages []string) {
	// Times are told to the millisecond, and no two calls take less.
	v.created = s.now().UTC().Truncate(time.Millisecond)
	if !v.created.After(s.clock) {
		v.created = s.clock.Add(time.Millisecond)
	}
	s.clock = v.created
	x.versions[id] = v
	x.order = append(x.order, id)
	for _, l := range stages {
		s.move(x, l, id)
	}
	if x.at(Current) == "" {
		s.move(x, Current, id)
	}
	for i := 0; len(x.order) > keepOld && i < len(x.order); i++ {
		if old := x.order[i]; len(x.versions[old].stages) == 0 {
			delete(x.versions, old)
			x.order = slices.Delete(x.order, i, i+1)
			i--
		}
	}
}

// refusal is an error of the API.
type refusal struct {
	status        int
	code, message string
}

func (r refusal) Error() string { return r.code + ": " + r.message }

func bad(code, format string, a ...any) error {
	return refusal{http.StatusBadRequest, code, fmt.Sprintf(format, a...)}
}

// request has every member that one of the actions knows.
type request struct {
	SecretID           string `json:"SecretId"`
	Name               string
	ClientRequestToken string
	Description        string
	Tags               []struct{ Key, Value string }
	VersionID          string `json:"VersionId"`
	VersionStage       string
	VersionStages      []string
	SecretString       *string
	SecretBinary       []byte
	IncludeDeprecated  bool
	MaxResults         int
	NextToken          string

	Filters []struct {
		Key    string
		Values []string
	}
	IncludePlannedDeletion bool
}

// members are those that each action knows.
var members = map[string][]string{
	"CreateSecret":         {"Name", "ClientRequestToken", "Description", "Tags"},
	"DescribeSecret":       {"SecretId"},
	"GetResourcePolicy":    {"SecretId"},
	"GetSecretValue":       {"SecretId", "VersionId", "VersionStage"},
	"ListSecrets":          {"Filters", "IncludePlannedDeletion", "MaxResults", "NextToken"},
	"ListSecretVersionIds": {"SecretId", "IncludeDeprecated", "MaxResults", "NextToken"},
	"PutSecretValue":       {"SecretId", "ClientRequestToken", "SecretString", "SecretBinary", "VersionStages"},

	"DeleteSecret":  {"SecretId"},
	"RestoreSecret": {"SecretId"},
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return
	}
	action := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "secretsmanager.")
	s.mu.Lock()
	s.calls[action]++
	fault := s.fault(action)
	now := s.now()
	s.mu.Unlock()
	w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
	w.Header().Set("X-Amzn-Requestid", uuid())
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	cut := func() { panic(http.ErrAbortHandler) }
	switch fault.Kind {
	case CutBefore:
		cut()
	case Fail:
		writeError(w, refusal{fault.Status, fault.Code, fault.Message})
		return
	case NotJSON:
		fmt.Fprint(w, "<html>welcome to the hotel</html>")
		return
	case Endless:
		for range 64 {
			if _, err := w.Write(bytes.Repeat([]byte(" "), 64<<10)); err != nil {
				return
			}
		}
		return
	}
	answer, err := s.answer(r, action, body, now)
	switch {
	case fault.Kind == CutAfter:
		cut()
	case fault.Kind == FailAfter:
		err = refusal{fault.Status, fault.Code, fault.Message}
	}
	if err != nil {
		writeError(w, err)
		return
	}
	if value, ok := answer["SecretString"].(string); ok && fault.Kind == Lie {
		other := []byte(value) // near the end, where an age file has its contents
		if i := len(other) - 8; other[i] == 'A' {
			other[i] = 'B'
		} else {
			other[i] = 'A'
		}
		answer["SecretString"] = string(other)
	}
	json.NewEncoder(w).Encode(answer) //nolint:errcheck // the client is gone
}

func writeError(w http.ResponseWriter, err error) {
	r, ok := err.(refusal)
	if !ok {
		r = refusal{http.StatusInternalServerError, "InternalServiceError", "An error occurred on the server side."}
	}
	w.WriteHeader(r.status)
	// The service writes "Message" for some errors, and "message" for most.
	name := "message"
	if r.code == "AccessDeniedException" {
		name = "Message"
	}
	json.NewEncoder(w).Encode(map[string]string{"__type": r.code, name: r.message}) //nolint:errcheck // the client is gone
}

func (s *Server) fault(action string) Fault {
	for i := range s.faults {
		f := &s.faults[i]
		if f.Action != "" && f.Action != action || f.Times < 0 {
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				f.Times = -1
			}
		}
		return *f
	}
	return Fault{}
}

func (s *Server) abuse(format string, a ...any) {
	s.abuses = append(s.abuses, fmt.Sprintf(format, a...))
}

func (s *Server) answer(r *http.Request, action string, body []byte, now time.Time) (map[string]any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method != http.MethodPost || r.URL.Path != "/" || r.URL.RawQuery != "" || r.Header.Get("Content-Type") != "application/x-amz-json-1.1" {
		s.abuse("%s %s as %q", r.Method, r.URL, r.Header.Get("Content-Type"))
	}
	who, err := s.authenticate(r, body, now)
	if err != nil {
		return nil, err
	}
	known, ok := members[action]
	if !ok {
		return nil, bad("UnknownOperationException", "")
	}
	var sent map[string]json.RawMessage
	var q request
	if json.Unmarshal(body, &sent) != nil || json.Unmarshal(body, &q) != nil {
		return nil, bad("SerializationException", "")
	}
	for name := range sent {
		if !slices.Contains(known, name) {
			s.abuse("%s has no member %s", action, name)
		}
	}
	if action == "ListSecrets" {
		if !slices.Contains(who.Actions, action) {
			return nil, bad("AccessDeniedException", "User: arn:aws:sts::123456789012:assumed-role/host/i-0 is not authorized to perform: secretsmanager:%s because no identity-based policy allows the secretsmanager:%s action", action, action)
		}
		return s.listSecrets(q)
	}
	name := q.SecretID
	if action == "CreateSecret" {
		name = q.Name
	}
	if name == "" || len(name) > 512 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/_+=.@-") != "" {
		return nil, bad("ValidationException", "Invalid name. Must be a valid name containing alphanumeric characters, or any of the following: -/_+=.@!")
	}
	if !slices.Contains(who.Actions, action) {
		return nil, bad("AccessDeniedException", "User: arn:aws:sts::123456789012:assumed-role/host/i-0 is not authorized to perform: secretsmanager:%s on resource: %s because no identity-based policy allows the secretsmanager:%s action", action, name, action)
	}
	if action == "GetSecretValue" && q.VersionID == "" && q.VersionStage == "" && r.UserAgent() != "keyguard" {
		q.VersionStage = Current // a person means that; keyguard says what it means
	}
	return s.act(action, name, s.secrets[name], q)
}

func (s *Server) act(action, name string, x *secret, q request) (map[string]any, error) {
	if action == "CreateSecret" {
		return s.create(name, x, q)
	}
	if x == nil {
		return nil, bad("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
	}
	head := map[string]any{"ARN": "arn:aws:secretsmanager:" + s.o.Region + ":123456789012:secret:" + name + "-AbCdEf", "Name": name}
	switch action {
	case "DescribeSecret":
		head["VersionIdsToStages"], head["CreatedDate"] = x.stages(), 1.6e9
		if len(x.stages()) == 0 {
			delete(head, "VersionIdsToStages")
		}
		if !x.deleted.IsZero() {
			head["DeletedDate"] = float64(x.deleted.UnixMilli()) / 1000
		}
		if s.primary != "" {
			head["PrimaryRegion"] = s.primary
		}
		return head, nil
	case "GetResourcePolicy":
		if x.policy != "" {
			head["ResourcePolicy"] = x.policy
		}
		return head, nil
	case "ListSecretVersionIds":
		return s.list(head, x, q)
	case "DeleteSecret":
		x.deleted = s.now().Add(30 * 24 * time.Hour)
		head["DeletionDate"] = float64(x.deleted.UnixMilli()) / 1000
		return head, nil
	case "RestoreSecret":
		x.deleted = time.Time{}
		return head, nil
	}
	if !x.deleted.IsZero() {
		return nil, bad("InvalidRequestException", "You can't perform this operation on the secret because it was marked for deletion.")
	}
	if action == "GetSecretValue" {
		return s.get(head, x, q)
	}
	return s.put(head, x, q)
}

// listSecrets lists by name; a filter on it is a prefix.
func (s *Server) listSecrets(q request) (map[string]any, error) {
	if q.MaxResults < 1 || q.MaxResults > 100 {
		return nil, bad("InvalidParameterException", "MaxResults must be between 1 and 100.")
	}
	size := q.MaxResults
	if s.o.Page > 0 {
		size = min(size, s.o.Page)
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(s.secrets)), func(n string) bool {
		if !s.secrets[n].deleted.IsZero() && !q.IncludePlannedDeletion {
			return true
		}
		for _, f := range q.Filters {
			if f.Key != "name" || !slices.ContainsFunc(f.Values, func(v string) bool { return strings.HasPrefix(n, v) }) {
				return true
			}
		}
		return n <= q.NextToken
	})
	list := []map[string]any{}
	for _, n := range names[:min(size, len(names))] {
		list = append(list, map[string]any{"Name": n, "SecretVersionsToStages": s.secrets[n].stages()})
	}
	out := map[string]any{"SecretList": list}
	if len(names) > size {
		out["NextToken"] = names[size-1]
	}
	return out, nil
}

func (s *Server) create(name string, x *secret, q request) (map[string]any, error) {
	switch {
	case len(q.ClientRequestToken) < 32 || len(q.ClientRequestToken) > 64:
		return nil, bad("InvalidParameterException", "You must provide a ClientRequestToken value. We recommend a UUID-type value.")
	case x != nil && !x.deleted.IsZero():
		return nil, bad("InvalidRequestException", "You can't create this secret because a secret with this name is already scheduled for deletion.")
	case x != nil:
		return nil, bad("ResourceExistsException", "The operation failed because the secret %s already exists.", name)
	}
	s.secrets[name] = &secret{versions: map[string]*version{}}
	return map[string]any{"ARN": "arn:aws:secretsmanager:" + s.o.Region + ":123456789012:secret:" + name + "-AbCdEf", "Name": name}, nil
}

func (s *Server) list(head map[string]any, x *secret, q request) (map[string]any, error) {
	if q.MaxResults < 0 || q.MaxResults > 100 {
		return nil, bad("ValidationException", "1 validation error detected: Value at 'maxResults' failed to satisfy constraint: Member must have value less than or equal to 100")
	}
	size := q.MaxResults
	if size == 0 {
		size = 100
	}
	if s.o.Page > 0 {
		size = min(size, s.o.Page)
	}
	begin := 0
	if q.NextToken != "" {
		if _, err := fmt.Sscanf(q.NextToken, "after-%d", &begin); err != nil {
			return nil, bad("InvalidNextTokenException", "The NextToken value is invalid.")
		}
	}
	var list []map[string]any
	i := begin
	for ; i < len(x.order) && len(list) < size; i++ {
		v := x.versions[x.order[i]]
		if len(v.stages) == 0 && !q.IncludeDeprecated {
			continue
		}
		one := map[string]any{"VersionId": x.order[i], "CreatedDate": float64(v.created.UnixMilli()) / 1000}
		if len(v.stages) > 0 {
			one["VersionStages"] = slices.Clone(v.stages)
		}
		list = append(list, one)
	}
	head["Versions"] = list
	if i < len(x.order) {
		head["NextToken"] = fmt.Sprintf("after-%d", i)
	}
	return head, nil
}

func (s *Server) get(head map[string]any, x *secret, q request) (map[string]any, error) {
	id := q.VersionID
	switch {
	case id != "" && (len(id) < 32 || len(id) > 64):
		return nil, bad("ValidationException", "1 validation error detected: Value at 'versionId' failed to satisfy constraint: Member must have length greater than or equal to 32")
	case id == "" && q.VersionStage == "":
		s.abuse("neither a version nor a stage is named")
	case id == "":
		if id = x.at(q.VersionStage); id == "" {
			return nil, bad("ResourceNotFoundException", "Secrets Manager can't find the specified secret value for staging label: %s", q.VersionStage)
		}
	}
	v := x.versions[id]
	if v == nil {
		return nil, bad("ResourceNotFoundException", "Secrets Manager can't find the specified secret value for VersionId: %s", id)
	}
	if s.kmsOff {
		return nil, bad("DecryptionFailure", "Secrets Manager can't decrypt the protected secret text using the provided KMS key.")
	}
	head["VersionId"], head["CreatedDate"] = id, float64(v.created.UnixMilli())/1000
	if len(v.stages) > 0 {
		head["VersionStages"] = slices.Clone(v.stages)
	}
	if v.text != nil {
		head["SecretString"] = *v.text
	} else {
		head["SecretBinary"] = v.binary
	}
	return head, nil
}

func (s *Server) put(head map[string]any, x *secret, q request) (map[string]any, error) {
	id := q.ClientRequestToken
	switch {
	case len(id) < 32 || len(id) > 64:
		return nil, bad("InvalidParameterException", "You must provide a ClientRequestToken value. We recommend a UUID-type value.")
	case (q.SecretString == nil) == (q.SecretBinary == nil):
		return nil, bad("InvalidParameterException", "You must provide either SecretString or SecretBinary.")
	case q.SecretString != nil && len(*q.SecretString) > maxValue, len(q.SecretBinary) > maxValue:
		return nil, bad("ValidationException", "1 validation error detected: Value at 'secretString' failed to satisfy constraint: Member must have length less than or equal to 65536")
	case s.primary != "" && s.primary != s.o.Region:
		return nil, bad("InvalidRequestException", "Operation not permitted on a replica secret. Call must be made in primary secret's region.")
	case s.kmsOff:
		return nil, bad("EncryptionFailure", "Secrets Manager can't encrypt the protected secret text using the provided KMS key.")
	}
	if was := x.versions[id]; was != nil {
		if was.text == nil || q.SecretString == nil || *was.text != *q.SecretString {
			return nil, bad("ResourceExistsException", "A resource with the ID you requested already exists.")
		}
		head["VersionId"], head["VersionStages"] = id, slices.Clone(was.stages)
		return head, nil
	}
	used := map[string]bool{}
	for _, v := range x.versions {
		for _, l := range v.stages {
			used[l] = true
		}
	}
	for _, l := range q.VersionStages {
		used[l] = true
	}
	if used[Current] = true; len(x.versions) > 0 {
		used[Previous] = true
	}
	if len(used) > maxLabels {
		return nil, bad("LimitExceededException", "The request failed because it would exceed one of the Secrets Manager quotas.")
	}
	v := &version{text: q.SecretString, binary: q.SecretBinary}
	stages := q.VersionStages
	if stages == nil {
		stages = []string{Current}
	}
	s.add(x, id, v, stages)
	head["VersionId"], head["VersionStages"] = id, slices.Clone(v.stages)
	return head, nil
}

// authenticate checks a signature of Version 4.
func (s *Server) authenticate(r *http.Request, body []byte, now time.Time) (Identity, error) {
	header := r.Header.Get("Authorization")
	rest, ok := strings.CutPrefix(header, "AWS4-HMAC-SHA256 ")
	if !ok {
		return Identity{}, bad("MissingAuthenticationTokenException", "Missing Authentication Token")
	}
	fields := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		fields[name] = value
	}
	scope := strings.Split(fields["Credential"], "/")
	if len(scope) != 5 || scope[2] != s.o.Region || scope[3] != "secretsmanager" || scope[4] != "aws4_request" {
		return Identity{}, bad("InvalidSignatureException", "Credential should be scoped to a valid region.")
	}
	who, ok := s.identities[scope[0]]
	if !ok || who.Session != r.Header.Get("X-Amz-Security-Token") {
		return Identity{}, bad("UnrecognizedClientException", "The security token included in the request is invalid.")
	}
	stamp := r.Header.Get("X-Amz-Date")
	at, err := time.Parse("20060102T150405Z", stamp)
	if err != nil || !strings.HasPrefix(stamp, scope[1]) {
		return Identity{}, bad("IncompleteSignatureException", "Date must be in ISO-8601 'basic format'.")
	}
	switch d := now.Sub(at); {
	case d > 5*time.Minute:
		return Identity{}, bad("InvalidSignatureException", "Signature expired: %s is now earlier than %s (%s - 5 min.)", stamp, now.Add(-5*time.Minute).UTC().Format("20060102T150405Z"), now.UTC().Format("20060102T150405Z"))
	case d < -5*time.Minute:
		return Identity{}, bad("InvalidSignatureException", "Signature not yet current: %s is still later than %s (%s + 5 min.)", stamp, now.Add(5*time.Minute).UTC().Format("20060102T150405Z"), now.UTC().Format("20060102T150405Z"))
	}
	signed := strings.Split(fields["SignedHeaders"], ";")
	for _, must := range []string{"host", "x-amz-date", "x-amz-target", "x-amz-security-token", "content-type"} {
		if !slices.Contains(signed, must) {
			s.abuse("the header %s is not signed", must)
		}
	}
	var canonical strings.Builder
	fmt.Fprintf(&canonical, "POST\n%s\n%s\n", (&url.URL{Path: r.URL.Path}).EscapedPath(), r.URL.RawQuery)
	for _, name := range signed {
		value := r.Header.Get(name)
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = fmt.Sprint(len(body))
		}
		fmt.Fprintf(&canonical, "%s:%s\n", name, strings.Join(strings.Fields(value), " "))
	}
	sum := sha256.Sum256(body)
	fmt.Fprintf(&canonical, "\n%s\n%x", fields["SignedHeaders"], sum)
	hashed := sha256.Sum256([]byte(canonical.String()))
	text := fmt.Sprintf("AWS4-HMAC-SHA256\n%s\n%s\n%x", stamp, strings.Join(scope[1:], "/"), hashed)
	k := []byte("AWS4" + who.Secret)
	for _, step := range append(scope[1:], text) {
		m := hmac.New(sha256.New, k)
		m.Write([]byte(step))
		k = m.Sum(nil)
	}
	if got, err := hex.DecodeString(fields["Signature"]); err != nil || !hmac.Equal(got, k) {
		return Identity{}, bad("InvalidSignatureException", "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method.")
	}
	return who, nil
}
