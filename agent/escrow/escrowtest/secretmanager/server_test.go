package secretmanager

import (
	"context"
	"errors"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	pb "cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

const (
	project = "projects/my-project"
	name    = project + "/secrets/s"
)

func start(t *testing.T, o Options) (*Server, pb.SecretManagerServiceClient) {
	t.Helper()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	conn, err := grpc.NewClient(s.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return s, pb.NewSecretManagerServiceClient(conn)
}

// routed adds what a client of the API sends along.
func routed(t *testing.T, field, value, token string) context.Context {
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-goog-request-params", field+"="+url.QueryEscape(value))
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	return ctx
}

// TestRefusals: what a client must not do, and the code for it.
func TestRefusals(t *testing.T) {
	s, c := start(t, Options{Anonymous: true})
	s.Put(name, []byte("x"))
	automatic := &pb.Replication{Replication: &pb.Replication_Automatic_{Automatic: &pb.Replication_Automatic{}}}
	create := func(id string, secret *pb.Secret) error {
		_, err := c.CreateSecret(routed(t, "parent", project, ""), &pb.CreateSecretRequest{Parent: project, SecretId: id, Secret: secret})
		return err
	}
	add := func(data []byte, sum *int64) error {
		_, err := c.AddSecretVersion(routed(t, "parent", name, ""), &pb.AddSecretVersionRequest{Parent: name, Payload: &pb.SecretPayload{Data: data, DataCrc32C: sum}})
		return err
	}
	access := func(full string) error {
		_, err := c.AccessSecretVersion(routed(t, "name", full, ""), &pb.AccessSecretVersionRequest{Name: full})
		return err
	}
	list := func(parent string, size int32, token string) error {
		_, err := c.ListSecretVersions(routed(t, "parent", parent, ""), &pb.ListSecretVersionsRequest{Parent: parent, PageSize: size, PageToken: token})
		return err
	}
	update := func(etag string, mask ...string) error {
		_, err := c.UpdateSecret(routed(t, "secret.name", name, ""), &pb.UpdateSecretRequest{
			Secret: &pb.Secret{Name: name, Etag: etag}, UpdateMask: &fieldmaskpb.FieldMask{Paths: mask}})
		return err
	}
	labelled := func(k, v string) error {
		return create("labelled", &pb.Secret{Replication: automatic, Labels: map[string]string{k: v}})
	}
	for what, tt := range map[string]struct {
		err  error
		want codes.Code
	}{
		"a secret that exists":           {create("s", &pb.Secret{Replication: automatic}), codes.AlreadyExists},
		"a secret without replication":   {create("t", &pb.Secret{}), codes.InvalidArgument},
		"a secret id with a slash":       {create("a/b", &pb.Secret{Replication: automatic}), codes.InvalidArgument},
		"a secret id with a brace":       {create("{hostname}", &pb.Secret{Replication: automatic}), codes.InvalidArgument},
		"a secret id of 256":             {create(strings.Repeat("a", 256), &pb.Secret{Replication: automatic}), codes.InvalidArgument},
		"a label in capitals":            {labelled("Managed", "x"), codes.InvalidArgument},
		"a label's value with a dot":     {labelled("managed", "a.b"), codes.InvalidArgument},
		"a label's value of 64":          {labelled("managed", strings.Repeat("a", 64)), codes.InvalidArgument},
		"an empty payload":               {add(nil, checksum(nil)), codes.InvalidArgument},
		"a payload of 64 KiB and one":    {add(make([]byte, 64<<10+1), checksum(make([]byte, 64<<10+1))), codes.InvalidArgument},
		"a payload of 64 KiB":            {add(make([]byte, 64<<10), checksum(make([]byte, 64<<10))), codes.OK},
		"no checksum":                    {add([]byte("x"), nil), codes.InvalidArgument},
		"a wrong checksum":               {add([]byte("x"), checksum([]byte("y"))), codes.InvalidArgument},
		"a version that is not there":    {access(name + "/versions/7"), codes.NotFound},
		"a version that is no number":    {access(name + "/versions/07"), codes.InvalidArgument},
		"a secret that is not there":     {access(project + "/secrets/t/versions/latest"), codes.NotFound},
		"a project in capitals":          {access("projects/My/secrets/s/versions/1"), codes.InvalidArgument},
		"a regional name, global server": {access(project + "/locations/europe-west1/secrets/s/versions/1"), codes.InvalidArgument},
		"a page of minus one":            {list(name, -1, ""), codes.InvalidArgument},
		"a page of 25001":                {list(name, 25001, ""), codes.InvalidArgument},
		"a page token made up":           {list(name, 1, "x"), codes.InvalidArgument},
		"a page token of another parent": {list(name, 1, pageToken(project+"/secrets/t", 1)), codes.InvalidArgument},
		"an update with an old etag":     {update(etag(99), "labels"), codes.FailedPrecondition},
		"an update without an etag":      {update("", "labels"), codes.InvalidArgument},
		"an update without a mask":       {update(etag(1)), codes.InvalidArgument},
	} {
		if got := status.Code(tt.err); got != tt.want {
			t.Errorf("%s: %v, want %v (%v)", what, got, tt.want, tt.err)
		}
	}
	if err := update(etag(1), "labels"); err != nil {
		t.Error(err)
	}
	if err := update(etag(1), "labels"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("an update with the etag from before another: %v", err)
	}
	_, err := c.GetSecret(t.Context(), &pb.GetSecretRequest{Name: name})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("without the routing header: %v", err)
	}
}

func TestLatestAndStates(t *testing.T) {
	s, c := start(t, Options{Anonymous: true})
	for _, data := range []string{"1", "2", "3"} {
		s.Put(name, []byte(data))
	}
	latest := func() (string, error) {
		full := name + "/versions/latest"
		got, err := c.AccessSecretVersion(routed(t, "name", full, ""), &pb.AccessSecretVersionRequest{Name: full})
		return string(got.GetPayload().GetData()), err
	}
	if got, err := latest(); got != "3" || err != nil {
		t.Errorf("latest: %q, %v", got, err)
	}
	three := name + "/versions/3"
	v, err := c.DisableSecretVersion(routed(t, "name", three, ""), &pb.DisableSecretVersionRequest{Name: three})
	if err != nil || v.State != pb.SecretVersion_DISABLED {
		t.Fatal(v, err)
	}
	if _, err := latest(); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "is in DISABLED state.") {
		t.Errorf("latest is disabled: %v; it does not fall back to version 2", err)
	}
	_, err = c.EnableSecretVersion(routed(t, "name", three, ""), &pb.EnableSecretVersionRequest{Name: three, Etag: etag(1)})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("enabled with the etag from before: %v", err)
	}
	if _, err = c.DestroySecretVersion(routed(t, "name", three, ""), &pb.DestroySecretVersionRequest{Name: three}); err != nil {
		t.Fatal(err)
	}
	_, err = c.EnableSecretVersion(routed(t, "name", three, ""), &pb.EnableSecretVersionRequest{Name: three})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a destroyed version came back: %v", err)
	}
	// Newest first, in pages, destroyed ones too.
	var got []string
	token := ""
	for {
		page, err := c.ListSecretVersions(routed(t, "parent", name, ""), &pb.ListSecretVersionsRequest{Parent: name, PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range page.Versions {
			got = append(got, v.Name[strings.LastIndexByte(v.Name, '/')+1:]+" "+v.State.String())
		}
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	if strings.Join(got, ", ") != "3 DESTROYED, 2 ENABLED, 1 ENABLED" {
		t.Errorf("listed %v", got)
	}
}

func TestWhoMay(t *testing.T) {
	s, c := start(t, Options{})
	s.Put(name, []byte("x"))
	s.Grant("reader", Reader)
	s.GrantIn("my-project", "at-home", Reader)
	s.GrantIn("elsewhere", "abroad", Reader)
	s.GrantIn("my-project", "gone", Reader)
	gone := s.Token("gone")
	s.Forget("gone")
	full := name + "/versions/1"
	access := func(token string) codes.Code {
		_, err := c.AccessSecretVersion(routed(t, "name", full, token), &pb.AccessSecretVersionRequest{Name: full})
		return status.Code(err)
	}
	for what, tt := range map[string]struct {
		token string
		want  codes.Code
	}{
		"nobody":         {"", codes.Unauthenticated},
		"a forged token": {"ya29.forged", codes.Unauthenticated},
		"a stranger":     {s.Token("stranger"), codes.PermissionDenied},
		"a reader":       {s.Token("reader"), codes.OK},
		"a reader here":  {s.Token("at-home"), codes.OK},
		"one elsewhere":  {s.Token("abroad"), codes.PermissionDenied},
		"one deleted":    {gone, codes.Unauthenticated},
	} {
		if got := access(tt.token); got != tt.want {
			t.Errorf("%s: %v, want %v", what, got, tt.want)
		}
	}
	// Whoever may not read does not learn what is there.
	missing := project + "/secrets/missing"
	_, err := c.GetSecret(routed(t, "name", missing, s.Token("stranger")), &pb.GetSecretRequest{Name: missing})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("a stranger asks for what is missing: %v", err)
	}
}

func TestRateLimits(t *testing.T) {
	s, c := start(t, Options{Anonymous: true})
	s.Put(name, []byte("x"))
	add := func() codes.Code {
		data := []byte("x")
		_, err := c.AddSecretVersion(routed(t, "parent", name, ""), &pb.AddSecretVersionRequest{Parent: name, Payload: &pb.SecretPayload{Data: data, DataCrc32C: checksum(data)}})
		return status.Code(err)
	}
	// At most one minute's end lies within the loop, and starts the count once more.
	refused := false
	for range 2*addsPerMinute + 1 {
		refused = refused || add() == codes.ResourceExhausted
	}
	if !refused {
		t.Errorf("%d additions to one secret were let through", 2*addsPerMinute+1)
	}
}

func TestRegional(t *testing.T) {
	_, c := start(t, Options{Anonymous: true, Location: "europe-west1"})
	parent := project + "/locations/europe-west1"
	create := func(secret *pb.Secret) error {
		_, err := c.CreateSecret(routed(t, "parent", parent, ""), &pb.CreateSecretRequest{Parent: parent, SecretId: "s", Secret: secret})
		return err
	}
	automatic := &pb.Replication{Replication: &pb.Replication_Automatic_{Automatic: &pb.Replication_Automatic{}}}
	if err := create(&pb.Secret{Replication: automatic}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a regional secret with replication: %v", err)
	}
	if err := create(&pb.Secret{}); err != nil {
		t.Error(err)
	}
	if _, err := c.GetSecret(routed(t, "name", name, ""), &pb.GetSecretRequest{Name: name}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a global name at a regional server: %v", err)
	}
}

// TestSnapshot: what was done since is undone, and a snapshot is good for more than once. A
// request that has begun by then changes nothing afterwards.
func TestSnapshot(t *testing.T) {
	s, c := start(t, Options{Anonymous: true})
	s.Put(name, []byte("old"))
	snapshot, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s.Put(project+"/secrets/other", nil)
		s.Reset()
		s.Break(Fault{Kind: Slow, Delay: 50 * time.Millisecond, Times: 1})
		added := make(chan error)
		go func() {
			data := []byte("new")
			_, err := c.AddSecretVersion(routed(t, "parent", name, ""),
				&pb.AddSecretVersionRequest{Parent: name, Payload: &pb.SecretPayload{Data: data, DataCrc32C: checksum(data)}})
			added <- err
		}()
		for len(s.Calls()) == 0 {
			runtime.Gosched()
		}
		if err := errors.Join(s.Restore(snapshot), <-added); err != nil {
			t.Fatal(err)
		}
		if got := s.Versions(name); len(got) != 1 || string(got[0]) != "old" || s.Versions(project+"/secrets/other") != nil {
			t.Errorf("%q", got)
		}
	}
}
