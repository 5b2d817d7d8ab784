package escrow

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/iam/apiv1/iampb"
	pb "cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// Examiner is an escrow that can tell more of itself than what it holds: what it is lost
// together with, and what this host may do there.
type Examiner interface {
	Examine(ctx context.Context) (Examination, error)
}

// Examination is what Examine found.
type Examination struct {
	// Project is the Google Cloud project that the copies are lost with, "" for none.
	Project string
	// Local: the store is reached over loopback, so it is this host's, or a tunnel's.
	Local bool
	// Disks are what a directory's file system is made of: "sda", "server:/export".
	Disks []string
	// SameDisk: one of them holds the keyfile too.
	SameDisk bool
	// Remote: the file system is another machine's.
	Remote bool
	// Unplaced: which machine the copies are on is not known.
	Unplaced bool
	// Memory: the file system is gone at the next boot.
	Memory bool
	// Asked: the store said what this host's identity may do there.
	Asked bool
	// Lacks are the permissions that keyguard needs and that are not granted.
	Lacks []string
	// Destroys are those granted by which copies could be destroyed, or the right to do so
	// be had. keyguard needs none of them.
	Destroys []string
	// Clock is how far the store's clock is ahead of this host's, to the second; nil where
	// it did not tell.
	Clock *time.Duration
}

// Credentialed is an escrow whose credentials may end.
type Credentialed interface {
	// Credential tells of what was used last. It asks nobody.
	Credential(ctx context.Context) Credential
}

// Credential is what this host shows to a store, as far as its end is known.
type Credential struct {
	What  string        // "the token in /etc/…"
	Until time.Time     // zero: for ever, or not known
	Life  time.Duration // the longest that the store has given it
	// Renewable: keyguard renews it in time, as long as it runs.
	Renewable bool
}

// Ends says when it ends and why somebody has to see to it, "" while nobody has to: it is
// renewed by itself, or not yet in the last third of its life.
func (c Credential) Ends(now time.Time) string {
	if c.Until.IsZero() || c.Renewable || c.Until.Sub(now) >= c.Life/3 {
		return ""
	}
	return fmt.Sprintf("%s ends %s and cannot be renewed", c.What, c.Until.UTC().Format("2006-01-02 15:04 UTC"))
}

// Credential tells of the token.
func (v *Vault) Credential(ctx context.Context) Credential { return v.tokens.credential(ctx) }

// What keyguard needs in Secret Manager, and what it had better not have
// (https://cloud.google.com/secret-manager/docs/access-control).
var (
	gcpNeeds = []string{
		"secretmanager.secrets.get", "secretmanager.versions.access", "secretmanager.versions.add", "secretmanager.versions.list",
	}
	gcpDestroys = []string{
		"secretmanager.secrets.delete", "secretmanager.secrets.setIamPolicy", "secretmanager.secrets.update", "secretmanager.versions.destroy",
	}
)

// Examine asks on both secrets what this identity may do there; that needs no permission.
func (g *GCP) Examine(ctx context.Context) (Examination, error) {
	host, _, _ := net.SplitHostPort(g.target)
	e := Examination{Project: g.o.Project, Local: loopback(host)}
	for _, s := range Shelves {
		req := &iampb.TestIamPermissionsRequest{Resource: g.secret(s), Permissions: append(slices.Clone(gcpNeeds), gcpDestroys...)}
		var may []string
		err := g.call(ctx, "resource", req.Resource, func(ctx context.Context, c pb.SecretManagerServiceClient, o ...grpc.CallOption) error {
			var answered metadata.MD
			got, err := c.TestIamPermissions(ctx, req, append(o, grpc.Header(&answered))...)
			if err == nil {
				may, e.Clock = got.GetPermissions(), ahead(answered.Get("date"))
			}
			return err
		})
		if err != nil {
			return e, fmt.Errorf("cannot ask what this host may do with %s: %w", req.Resource, err)
		}
		for _, p := range gcpNeeds {
			if !slices.Contains(may, p) {
				e.Lacks = append(e.Lacks, p+" on "+g.secretID(s))
			}
		}
		for _, p := range gcpDestroys {
			if slices.Contains(may, p) && !slices.Contains(e.Destroys, p) {
				e.Destroys = append(e.Destroys, p)
			}
		}
	}
	e.Asked = true
	return e, nil
}

// ahead is how far the Date of an answer (RFC 9110, 6.6.1) is ahead of this host's clock.
func ahead(date []string) *time.Duration {
	if len(date) == 0 {
		return nil
	}
	t, err := http.ParseTime(date[0])
	if err != nil {
		return nil
	}
	d := time.Until(t).Truncate(time.Second)
	return &d
}

// OnGoogle tells whether this host is a machine of Google's cloud, by what its firmware
// says (https://cloud.google.com/compute/docs/instances/detect-compute-engine), or because
// the environment names a metadata server. It asks nobody.
func OnGoogle() bool {
	name, err := os.ReadFile("/sys/class/dmi/id/product_name")
	return err == nil && strings.HasPrefix(string(name), "Google") || os.Getenv("GCE_METADATA_HOST") != ""
}

// Examine tells where the server is. What the token may do there differs by its policy,
// which is not asked for.
func (v *Vault) Examine(context.Context) (Examination, error) {
	u, err := url.Parse(v.o.Address)
	return Examination{Local: err == nil && loopback(u.Hostname())}, nil
}

// Examine knows where the accounts of 1Password and Bitwarden are kept. A password store is
// a directory of this host, with its GnuPG key beside it, and perhaps both elsewhere too;
// of a program of the operator's nothing is known.
func (c *Command) Examine(context.Context) (Examination, error) {
	switch c.program.(type) {
	case *onePassword, *bitwarden:
		return Examination{}, nil
	}
	return Examination{Unplaced: true}, nil
}

// Examine tells which disks the directory lies on.
func (d *Directory) Examine(ctx context.Context) (Examination, error) {
	root, err := d.open(ctx)
	if err != nil {
		return Examination{}, fmt.Errorf("cannot look at %s: %w", d.o.Path, err)
	}
	defer root.Close()
	m := disks{sys: "/sys", proc: "/proc"}
	ours, err := m.under(root)
	if err != nil {
		return Examination{}, fmt.Errorf("cannot look at %s: %w", d.o.Path, err)
	}
	var e Examination
	for name := range ours {
		e.Disks = append(e.Disks, name)
	}
	slices.Sort(e.Disks)
	switch kind, _, _ := m.mount(root); kind {
	case "nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "fuse.sshfs":
		e.Remote = true
	case "tmpfs", "ramfs":
		e.Memory = true
	}
	keyfile, err := nearest(filepath.Dir(d.o.Keyfile))
	if err != nil {
		return e, fmt.Errorf("cannot look at the keyfile's directory: %w", err)
	}
	defer keyfile.Close()
	theirs, err := m.under(keyfile)
	if err != nil {
		return e, fmt.Errorf("cannot look at the keyfile's directory: %w", err)
	}
	for name := range theirs {
		e.SameDisk = e.SameDisk || ours[name]
	}
	return e, nil
}

// Examine has the child look.
func (i *Isolated) Examine(ctx context.Context) (Examination, error) {
	a, _, err := i.ask(ctx, request{Op: "examine"}, key.Key{})
	if err == nil && a.Examination != nil {
		return *a.Examination, nil
	}
	return Examination{}, err
}
