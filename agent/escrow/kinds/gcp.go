package kinds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	pb "cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

const (
	gcpEndpoint = "secretmanager.googleapis.com:443"
	// gcpTimeout is for one call, the token that it may need first included.
	gcpTimeout = 5 * time.Second
	// gcpPage is how many versions one call lists. The API allows 25 000; 1000 of them
	// are a few hundred KiB.
	gcpPage = 1000
	// gcpPages ends a listing whose page tokens go in circles.
	gcpPages = 50
	// gcpSameLooks bounds how many quarantined copies a Save compares with. Beyond, it
	// may store a key a second time, which costs nothing but a version.
	gcpSameLooks = 16
	// gcpIdle is how long an unused connection is kept; the watcher at rest holds none.
	gcpIdle = 10 * time.Second

	managedBy, keyguard = "managed-by", "keyguard" // the label of our secrets
)

// castagnoli is the polynomial of the API's checksums (CRC32C).
var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

// GCPOptions say where in Google Secret Manager an escrow is, and who asks.
type GCPOptions struct {
	Name    string // of the escrow
	Project string // project id or number
	// Secret is the id of the current shelf's secret, `{hostname}` already expanded; the
	// quarantine shelf is the secret "<Secret>-quarantine".
	Secret string
	// Location is the region of a regional secret, "" for a global one.
	Location string
	// Replicas are the regions in which a global secret is kept, where Init makes it; none is
	// wherever Google keeps it (automatic replication).
	Replicas []string
	// CredentialsFile is a service account's key or an authorized user's; "" means
	// Application Default Credentials.
	CredentialsFile string
	// Endpoint is host:port, "" for Google's own, of the region where there is one.
	Endpoint string
	// Plaintext speaks to a fake or an emulator without TLS: on loopback only.
	Plaintext bool
	// SealTo are recipients as age(1) takes them; IdentityFiles let this host open what is sealed.
	SealTo        []string
	IdentityFiles []string
	// Part is the part of each key that is kept here, the zero PartOf for the whole key.
	Part escrow.PartOf
	// Timeout is for each call; 0 is 5 s.
	Timeout time.Duration
}

// GCP is an escrow in Google Secret Manager: the raw 32 bytes, one version a copy, one
// secret a shelf.
//
// It drives the gRPC stub that cloud.google.com/go/secretmanager generates, not that
// module's higher client: the latter repeats AccessSecretVersion on UNAVAILABLE and
// RESOURCE_EXHAUSTED by itself until the deadline (so callers' back-off means nothing),
// probes the host for DirectPath and mutual TLS, and costs every start of the program
// another millisecond of package initialisation, mostly for telemetry.
//
// Consistency: only reading a version by the number that adding it returned is strongly
// consistent, "latest" and listings follow within minutes
// (https://cloud.google.com/secret-manager/docs/consistency). So a copy is read back by
// number, and what this process has added is remembered.
type GCP struct {
	o      GCPOptions
	seal   *sealer
	tokens *tokens
	target string

	mu    sync.Mutex
	link  *gcpLink                  // nil until the first call
	added map[escrow.Shelf]gcpAdded // the last that this process added, for Save
}

type gcpAdded struct {
	number      uint64
	fingerprint key.Fingerprint
}

// NewGCP checks the options. It opens no socket and no file.
func NewGCP(o GCPOptions) (*GCP, error) {
	fail := func(err error) (*GCP, error) { return nil, fmt.Errorf("escrow %s: %w", o.Name, err) }
	if o.Project == "" || o.Secret == "" {
		return fail(errors.New("project and secret are needed"))
	}
	target := o.Endpoint
	if target == "" {
		target = gcpEndpoint
		if o.Location != "" {
			target = "secretmanager." + o.Location + ".rep.googleapis.com:443"
		}
	}
	if o.Location != "" && len(o.Replicas) > 0 {
		return fail(errors.New("a regional secret, of location, has no replicas"))
	}
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return fail(fmt.Errorf("endpoint %q is not host:port", target))
	}
	if o.Plaintext && !loopback(host) {
		return fail(fmt.Errorf("plaintext is for loopback addresses only, not %s", host))
	}
	seal, err := newSealer(o.Part, o.SealTo, o.IdentityFiles...)
	if err != nil {
		return fail(err)
	}
	o.Timeout = cmp.Or(o.Timeout, gcpTimeout)
	t := &tokens{file: o.CredentialsFile, none: o.Plaintext && o.CredentialsFile == "", asking: make(chan struct{}, 1)}
	return &GCP{o: o, seal: seal, tokens: t, target: target, added: map[escrow.Shelf]gcpAdded{}}, nil
}

func (g *GCP) Name() string { return g.o.Name }

func (g *GCP) Place() escrow.Place {
	return escrow.Place{Kind: "gcp-secret-manager", Where: g.secret(escrow.Current), Domain: "Google Cloud project " + g.o.Project}
}

func (g *GCP) parent() string {
	if g.o.Location != "" {
		return "projects/" + g.o.Project + "/locations/" + g.o.Location
	}
	return "projects/" + g.o.Project
}

func (g *GCP) secretID(s escrow.Shelf) string { return shelfName(g.o.Secret, s) }

func (g *GCP) secret(s escrow.Shelf) string { return g.parent() + "/secrets/" + g.secretID(s) }

func (g *GCP) version(s escrow.Shelf, n uint64) string {
	return g.secret(s) + "/versions/" + strconv.FormatUint(n, 10)
}

// List needs the permission secretmanager.versions.list on both secrets. One shelf is
// asked after the other, so that a store in trouble meets one call and not two.
func (g *GCP) List(ctx context.Context) ([]escrow.Copy, error) {
	var all []escrow.Copy
	for _, s := range escrow.Shelves {
		copies, err := g.list(ctx, s)
		if err != nil {
			return nil, err
		}
		all = append(all, copies...)
	}
	return all, nil
}

func (g *GCP) list(ctx context.Context, s escrow.Shelf) ([]escrow.Copy, error) {
	var copies []escrow.Copy
	req := &pb.ListSecretVersionsRequest{Parent: g.secret(s), PageSize: gcpPage}
	for range gcpPages {
		var page *pb.ListSecretVersionsResponse
		err := g.call(ctx, "parent", req.Parent, func(ctx context.Context, c pb.SecretManagerServiceClient, o ...grpc.CallOption) (err error) {
			page, err = c.ListSecretVersions(ctx, req, o...)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("cannot list %s: %w", req.Parent, err)
		}
		for _, v := range page.GetVersions() {
			n, err := g.number(s, v.GetName())
			if err != nil {
				return nil, fmt.Errorf("cannot list %s: %w", req.Parent, err)
			}
			c := g.copy(s, n)
			c.Created = v.GetCreateTime().AsTime()
			if t := v.GetScheduledDestroyTime(); t != nil {
				c.Ends = t.AsTime()
			}
			if v.GetState() != pb.SecretVersion_ENABLED {
				c.Unreadable = strings.ToLower(v.GetState().String())
			}
			copies = append(copies, c)
		}
		req.PageToken = page.GetNextPageToken()
		if req.PageToken == "" || len(copies) >= maxListed {
			// The API lists newest first; sorting by number makes that ours.
			slices.SortFunc(copies, func(a, b escrow.Copy) int { return cmp.Compare(versionNumber(b.ID), versionNumber(a.ID)) })
			copies = slices.CompactFunc(copies, func(a, b escrow.Copy) bool { return a.ID == b.ID })
			if req.PageToken != "" {
				copies = append(copies, more(g.o.Name, s, 0, copies[len(copies)-1].Created))
			}
			return copies, nil
		}
	}
	return nil, fmt.Errorf("cannot list %s: %w: a listing without end", req.Parent, escrow.ErrCorrupt)
}

func (g *GCP) copy(s escrow.Shelf, n uint64) escrow.Copy {
	return escrow.Copy{Escrow: g.o.Name, Shelf: s, ID: string(s) + "/" + strconv.FormatUint(n, 10)}
}

// number reads the version number from a version's full name. The store writes the
// project's number where we wrote its id, so only the rest is compared.
func (g *GCP) number(s escrow.Shelf, name string) (uint64, error) {
	rest, ok := strings.CutPrefix(name, "projects/")
	_, rest, slash := strings.Cut(rest, "/")
	want := strings.TrimPrefix(g.secret(s), "projects/"+g.o.Project+"/") + "/versions/"
	digits, prefix := strings.CutPrefix(rest, want)
	n, err := strconv.ParseUint(digits, 10, 64)
	if !ok || !slash || !prefix || err != nil || n == 0 {
		return 0, fmt.Errorf("%w: the store speaks of %q", escrow.ErrCorrupt, clip(name))
	}
	return n, nil
}

// Fetch needs the permission secretmanager.versions.access, and no other.
func (g *GCP) Fetch(ctx context.Context, c escrow.Copy) (key.Key, key.Encoding, error) {
	shelf, name, _ := strings.Cut(c.ID, "/")
	if name == moreName {
		return key.Key{}, "", fmt.Errorf("cannot fetch %q from %s: %w", c.ID, g.secret(escrow.Current), escrow.ErrUnreadable)
	}
	n := versionNumber(c.ID)
	if n == 0 || !slices.Contains(escrow.Shelves[:], escrow.Shelf(shelf)) {
		return key.Key{}, "", fmt.Errorf("cannot fetch %q from %s: %w", clip(c.ID), g.secret(escrow.Current), escrow.ErrGone)
	}
	name = g.version(escrow.Shelf(shelf), n)
	fail := func(err error) (key.Key, key.Encoding, error) {
		return key.Key{}, "", fmt.Errorf("cannot fetch %s: %w", name, err)
	}
	_, data, err := g.access(ctx, escrow.Shelf(shelf), strconv.FormatUint(n, 10))
	if errors.Is(err, escrow.ErrNoPlace) {
		// NOT_FOUND is the answer for a missing version and for a missing secret.
		if got := g.getSecret(ctx, escrow.Shelf(shelf), nil); !errors.Is(got, escrow.ErrNoPlace) {
			err = escrow.ErrGone
		}
	}
	if err != nil {
		return fail(err)
	}
	k, enc, err := g.seal.key(data)
	if err != nil {
		return fail(err)
	}
	return k, enc, nil
}

// FetchLatest needs the permission secretmanager.versions.access, and no other.
func (g *GCP) FetchLatest(ctx context.Context) (escrow.Copy, key.Key, key.Encoding, error) {
	n, data, err := g.access(ctx, escrow.Current, "latest")
	if err == nil {
		var k key.Key
		var enc key.Encoding
		if k, enc, err = g.seal.key(data); err == nil {
			return g.copy(escrow.Current, n), k, enc, nil
		}
	}
	return escrow.Copy{}, key.Key{}, "", fmt.Errorf("cannot read %s: %w", g.secret(escrow.Current), err)
}

// access reads a version's payload: a number, or "latest", the newest created one. A
// missing secret, and one without versions, is ErrNoPlace.
func (g *GCP) access(ctx context.Context, s escrow.Shelf, version string) (uint64, []byte, error) {
	req := &pb.AccessSecretVersionRequest{Name: g.secret(s) + "/versions/" + version}
	var got *pb.AccessSecretVersionResponse
	err := g.call(ctx, "name", req.Name, func(ctx context.Context, c pb.SecretManagerServiceClient, o ...grpc.CallOption) (err error) {
		got, err = c.AccessSecretVersion(ctx, req, o...)
		return err
	})
	if err != nil {
		if errors.Is(err, errPrecondition) {
			// Rebuilt from its text: for a read this code is no ErrRefused.
			err = fmt.Errorf("%w: %v", escrow.ErrUnreadable, err)
		}
		return 0, nil, err
	}
	data := got.GetPayload().GetData()
	n, err := g.number(s, got.GetName())
	if err == nil && version != "latest" && strconv.FormatUint(n, 10) != version {
		err = fmt.Errorf("%w: the store answers with version %d", escrow.ErrCorrupt, n)
	}
	// Absent is "not checked", pitfall: some answers and emulators have none.
	if p := got.GetPayload(); err == nil && p != nil && p.DataCrc32C != nil &&
		p.GetDataCrc32C() != int64(crc32.Checksum(data, castagnoli())) {
		err = fmt.Errorf("%w: wrong CRC32C", escrow.ErrCorrupt)
	}
	if err != nil {
		clear(data)
		return 0, nil, err
	}
	return n, data, nil
}

// Init makes the two secrets, and labels those it finds. It needs
// secretmanager.secrets.get; .create where one is missing. Without .update an existing
// secret stays without our label, which is for people.
func (g *GCP) Init(ctx context.Context) error {
	for _, s := range escrow.Shelves {
		if err := g.initShelf(ctx, s); err != nil {
			return fmt.Errorf("cannot initialise %s: %w", g.secret(s), err)
		}
	}
	return nil
}

func (g *GCP) initShelf(ctx context.Context, s escrow.Shelf) error {
	var found pb.Secret
	err := g.getSecret(ctx, s, &found)
	if errors.Is(err, escrow.ErrNoPlace) && !g.unexpanded() {
		err = g.createSecret(ctx, s)
		if err == nil || !errors.Is(err, errExists) {
			return err
		}
		err = g.getSecret(ctx, s, &found) // somebody else was faster
	}
	// Twice, as somebody may change the secret between our reading and our writing:
	// FAILED_PRECONDITION says that the etag is no longer the secret's
	// (https://cloud.google.com/secret-manager/docs/etags).
	for try := 0; err == nil && found.GetLabels()[managedBy] != keyguard && try < 2; try++ {
		err = g.label(ctx, s, &found)
		switch {
		case errors.Is(err, escrow.ErrDenied):
			return nil
		case errors.Is(err, errPrecondition) && try == 0:
			err = g.getSecret(ctx, s, &found)
		case err == nil:
			return nil
		}
	}
	return err
}

func (g *GCP) getSecret(ctx context.Context, s escrow.Shelf, found *pb.Secret) error {
	req := &pb.GetSecretRequest{Name: g.secret(s)}
	return g.call(ctx, "name", req.Name, func(ctx context.Context, c pb.SecretManagerServiceClient, o ...grpc.CallOption) error {
		got, err := c.GetSecret(ctx, req, o...)
		if err == nil && found != nil {
			found.Labels, found.Etag = got.GetLabels(), got.GetEtag()
		}
		return err
	})
}

func (g *GCP) createSecret(ctx context.Context, s escrow.Shelf) error {
	secret := &pb.Secret{Labels: map[string]string{managedBy: keyguard}}
	if g.o.Location == "" {
		// A global secret must say how it is replicated; a regional one must not.
		secret.Replication = g.replication()
	}
	req := &pb.CreateSecretRequest{Parent: g.parent(), SecretId: g.secretID(s), Secret: secret}
	return g.call(ctx, "parent", req.Parent, func(ctx context.Context, c pb.SecretManagerServiceClient, o ...grpc.CallOption) error {
		_, err := c.CreateSecret(ctx, req, o...)
		return err
	})
}

// replication is where a global secret is kept.
func (g *GCP) replication() *pb.Replication {
	if len(g.o.Replicas) == 0 {
		return &pb.Replication{Replication: &pb.Replication_Automatic_{Automatic: &pb.Replication_Automatic{}}}
	}
	managed := &pb.Replication_UserManaged{}
	for _, r := range g.o.Replicas {
		managed.Replicas = append(managed.Replicas, &pb.Replication_UserManaged_Replica{Location: r})
	}
	return &pb.Replication{Replication: &pb.Replication_UserManaged_{UserManaged: managed}}
}

func (g *GCP) label(ctx context.Context, s escrow.Shelf, found *pb.Secret) error {
	labels := maps.Clone(found.GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	labels[managedBy] = keyguard
	req := &pb.UpdateSecretRequest{
		Secret:     &pb.Secret{Name: g.secret(s), Labels: labels, Etag: found.GetEtag()},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels"}},
	}
	return g.call(ctx, "secret.name", req.GetSecret().GetName(), func(ctx context.Context, c pb.SecretManagerServiceClient, o ...grpc.CallOption) error {
		_, err := c.UpdateSecret(ctx, req, o...)
		return err
	})
}

// Save needs secretmanager.versions.add and .access, on the quarantine shelf .list too.
func (g *GCP) Save(ctx context.Context, s escrow.Shelf, k key.Key) (escrow.Copy, error) {
	fail := func(err error) (escrow.Copy, error) {
		return escrow.Copy{}, fmt.Errorf("cannot save to %s: %w", g.secret(s), err)
	}
	if !slices.Contains(escrow.Shelves[:], s) {
		return fail(fmt.Errorf("no shelf %q", s))
	}
	c, newest, err := g.stored(ctx, s, k)
	if err != nil {
		return fail(err)
	}
	if c.ID != "" {
		return c, nil
	}

	g.mu.Lock()
	last := g.added[s]
	g.mu.Unlock()
	// What this process added last is not added again only because it cannot be compared;
	// it is where somebody has put another key on top since.
	if last.fingerprint != k.Fingerprint() || last.number < newest {
		n, err := g.add(ctx, s, k)
		if err != nil {
			// It may have been stored all the same, the answer lost. Adding is not repeated,
			// looking is: equal bytes there are what was asked for.
			if errors.Is(err, escrow.ErrUnreachable) {
				if c, _, err := g.stored(ctx, s, k); err == nil && c.ID != "" {
					return c, nil
				}
			}
			return fail(err)
		}
		last = gcpAdded{n, k.Fingerprint()}
		g.mu.Lock()
		if g.added[s].number < n { // another save at the same time may have been later
			g.added[s] = last
		}
		g.mu.Unlock()
	}
	// A crash or an error from here on: stored, and the next Save finds it by comparing.
	c = g.copy(s, last.number)
	c.Fingerprint = k.Fingerprint()
	_, data, err := g.access(ctx, s, strconv.FormatUint(last.number, 10))
	switch {
	case errors.Is(err, escrow.ErrDenied):
		return c, fmt.Errorf("%s: %w", g.version(s, last.number), escrow.ErrUnverified)
	case err != nil:
		return fail(fmt.Errorf("reading back %s: %w", g.version(s, last.number), err))
	}
	defer clear(data)
	if !g.seal.same(data, k) {
		return fail(fmt.Errorf("reading back %s: %w: other bytes", g.version(s, last.number), escrow.ErrCorrupt))
	}
	return c, nil
}

// stored looks for k on the shelf: at the newest copy; on the quarantine shelf at some
// older ones too. The zero Copy means that it has to be added: it is not there, or what
// is there cannot be compared. newest is the number of the newest copy that could be
// read, else 0.
func (g *GCP) stored(ctx context.Context, s escrow.Shelf, k key.Key) (c escrow.Copy, newest uint64, err error) {
	n, same, err := g.compare(ctx, s, "latest", k)
	g.mu.Lock()
	last := g.added[s]
	g.mu.Unlock()
	if err == nil && last.number > n {
		// "latest" lags behind what we added ourselves.
		n, same, err = g.compare(ctx, s, strconv.FormatUint(last.number, 10), k)
	}
	if errors.Is(err, escrow.ErrUnreadable) {
		// Disabled or destroyed on top: the runbook's `latest` fails until there is a newer one.
		g.mu.Lock()
		delete(g.added, s)
		g.mu.Unlock()
		return escrow.Copy{}, 0, nil
	}
	if err != nil {
		return escrow.Copy{}, 0, err
	}
	newest = n
	if s == escrow.Quarantine && !same && n != 0 {
		copies, err := g.list(ctx, s)
		if errors.Is(err, escrow.ErrDenied) {
			return escrow.Copy{}, newest, nil
		}
		if err != nil {
			return escrow.Copy{}, 0, err
		}
		looks := 0
		for _, c := range copies {
			if c.Unreadable != "" || versionNumber(c.ID) == n {
				continue
			}
			if looks++; looks > gcpSameLooks {
				break
			}
			v, equal, err := g.compare(ctx, s, strconv.FormatUint(versionNumber(c.ID), 10), k)
			if err != nil && !errors.Is(err, escrow.ErrUnreadable) {
				return escrow.Copy{}, 0, err
			}
			if equal {
				n, same = v, true
				break
			}
		}
	}
	if !same {
		return escrow.Copy{}, newest, nil
	}
	c = g.copy(s, n)
	c.Fingerprint = k.Fingerprint()
	return c, newest, nil
}

// compare reads one version and compares. It is an error where the version is disabled or
// destroyed, and where asking again later may give another answer; number 0 means that
// nothing could be read.
func (g *GCP) compare(ctx context.Context, s escrow.Shelf, version string, k key.Key) (uint64, bool, error) {
	n, data, err := g.access(ctx, s, version)
	switch {
	case errors.Is(err, escrow.ErrNoPlace), errors.Is(err, escrow.ErrDenied), errors.Is(err, escrow.ErrCorrupt):
		if g.unexpanded() {
			return 0, false, err
		}
		return 0, false, nil
	case err != nil:
		return 0, false, err
	}
	defer clear(data)
	return n, g.seal.same(data, k), nil
}

func (g *GCP) add(ctx context.Context, s escrow.Shelf, k key.Key) (uint64, error) {
	data, err := g.seal.bytes(k)
	if err != nil {
		return 0, err
	}
	defer clear(data)
	sum := int64(crc32.Checksum(data, castagnoli()))
	req := &pb.AddSecretVersionRequest{
		Parent:  g.secret(s),
		Payload: &pb.SecretPayload{Data: data, DataCrc32C: &sum},
	}
	var made *pb.SecretVersion
	err = g.call(ctx, "parent", req.Parent, func(ctx context.Context, c pb.SecretManagerServiceClient, o ...grpc.CallOption) (err error) {
		made, err = c.AddSecretVersion(ctx, req, o...)
		return err
	})
	if err != nil {
		return 0, err
	}
	return g.number(s, made.GetName())
}

func (g *GCP) unexpanded() bool { return strings.Contains(g.o.Secret, "{") }
