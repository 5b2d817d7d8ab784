package kinds

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// Credential tells of the token.
func (v *Vault) Credential(ctx context.Context) escrow.Credential { return v.tokens.credential(ctx) }

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
func (g *GCP) Examine(ctx context.Context) (escrow.Examination, error) {
	host, _, _ := net.SplitHostPort(g.target)
	e := escrow.Examination{Project: g.o.Project, Local: loopback(host)}
	for _, s := range escrow.Shelves {
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

// awsFilling is how many labels of a secret are used when it is told that they end.
const awsFilling = awsLabels - 3

// Examine tells which account the secrets are in, and what will go wrong with them. What
// this host may do there AWS tells only who has rights on IAM (iam:SimulatePrincipalPolicy),
// and asking for it by trying is not for keyguard: it may succeed.
func (a *AWS) Examine(ctx context.Context) (escrow.Examination, error) {
	host, _, _ := net.SplitHostPort(a.o.Endpoint)
	e := escrow.Examination{Local: loopback(host)}
	for _, s := range escrow.Shelves {
		about, err := a.describe(ctx, s)
		if err != nil {
			return e, fmt.Errorf("cannot look at %s: %w", a.secret(s), err)
		}
		if f := strings.Split(about.ARN, ":"); len(f) > 5 { // arn:aws:secretsmanager:<region>:<account>:secret:<name>
			e.Account = clip(f[4])
		}
		switch n := about.labels(); {
		case about.DeletedDate != nil:
			e.Trouble = &escrow.TroubleError{Trouble: escrow.TroubleDeleted, Text: a.secret(s) + ": " + awsDeleted(*about.DeletedDate), At: a.secret(s)}
		case a.replica(about) != "":
			e.Trouble = &escrow.TroubleError{Trouble: escrow.TroubleReplica, Text: fmt.Sprintf("%s is a replica of that in %s: nothing can be saved there, and it goes with its primary", a.secret(s), clip(about.PrimaryRegion)), At: a.secret(s)}
		case n >= awsFilling && e.Trouble == nil:
			e.Trouble = &escrow.TroubleError{Trouble: escrow.TroubleLabels, Text: fmt.Sprintf("%s has %d of %d labels in use, each of which keeps a key", a.secret(s), n, awsLabels), At: a.secret(s)}
		}
	}
	return e, nil
}

// OnGoogle tells whether this host is a machine of Google's cloud, by what its firmware
// says (https://cloud.google.com/compute/docs/instances/detect-compute-engine), or because
// the environment names a metadata server. It asks nobody.
func OnGoogle() bool {
	name, err := os.ReadFile("/sys/class/dmi/id/product_name")
	return err == nil && strings.HasPrefix(string(name), "Google") || os.Getenv("GCE_METADATA_HOST") != ""
}

// OnAmazon tells whether this host is a machine of Amazon's cloud, by what its firmware says
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/identify_ec2_instances.html). It asks nobody.
func OnAmazon() bool {
	name, err := os.ReadFile("/sys/class/dmi/id/sys_vendor")
	return err == nil && strings.TrimSpace(string(name)) == "Amazon EC2"
}

// Examine tells where the server is, and asks what the token may do there, which every
// token with the policy `default` may ask
// (https://developer.hashicorp.com/vault/api-docs/system/capabilities-self).
func (v *Vault) Examine(ctx context.Context) (escrow.Examination, error) {
	u, err := url.Parse(v.o.Address)
	e := escrow.Examination{Local: err == nil && loopback(u.Hostname())}
	kv, err := v.engine(ctx)
	if err != nil {
		return e, err
	}
	copies, err := v.List(ctx)
	if err != nil {
		return e, err
	}
	for _, c := range copies {
		if !c.Ends.IsZero() && (e.Deletes.IsZero() || c.Ends.Before(e.Deletes)) {
			e.Deletes = c.Ends
		}
	}
	rights := v.rights(kv)
	may, err := v.capabilities(ctx, slices.Collect(maps.Keys(rights)))
	if isAny(err, escrow.ErrDenied, errNotFound) {
		return e, nil // without that policy nobody tells
	}
	if err != nil {
		return e, fmt.Errorf("cannot ask what this host may do with %s: %w", v.where(), err)
	}
	for _, path := range slices.Sorted(maps.Keys(rights)) {
		r := rights[path]
		for _, c := range may[path] {
			if slices.Contains(r.destroys, c) || c == "root" {
				e.Destroys = append(e.Destroys, c+" on "+r.shown)
			}
		}
		for _, c := range r.needs {
			if !slices.Contains(may[path], c) && !slices.Contains(may[path], "root") {
				e.Lacks = append(e.Lacks, c+" on "+r.shown)
			}
		}
	}
	e.Asked = true
	return e, nil
}

// vaultRight is what keyguard needs on a path, and what it had better not have there.
type vaultRight struct {
	shown           string // the path as a policy has it
	needs, destroys []string
}

// rights are those of the README's policy, by a path that they are for. The folders are
// asked about by an entry in them that is nobody's.
func (v *Vault) rights(kv int) map[string]vaultRight {
	all := map[string]vaultRight{}
	add := func(path, entry string, needs, destroys []string) {
		all[path+entry] = vaultRight{strings.TrimSuffix(path, "/") + map[bool]string{true: "/*"}[strings.HasSuffix(path, "/")], needs, destroys}
	}
	read, keep := []string{"read"}, []string{"create", "read"}
	write, change := []string{"create", "read", "update"}, []string{"update", "patch", "delete"}
	const nobodys = "0000000000000000"
	m := v.o.Mount
	if kv == 1 {
		add(m+"/"+v.o.Path, "", write, nil)
	} else {
		add(m+"/data/"+v.o.Path, "", write, nil)
		add(m+"/metadata/"+v.o.Path, "", read, nil)
	}
	for _, s := range escrow.Shelves {
		folder := v.folder(s) + "/"
		if kv == 1 {
			add(m+"/"+folder, nobodys, keep, change)
			add(m+"/"+folder, "", []string{"list"}, nil)
			continue
		}
		add(m+"/data/"+folder, nobodys, keep, change)
		add(m+"/metadata/"+folder, "", []string{"list"}, nil)
		add(m+"/metadata/"+folder, nobodys, nil, change)
		add(m+"/delete/"+folder, nobodys, nil, []string{"update"})
		add(m+"/destroy/"+folder, nobodys, nil, []string{"update"})
	}
	// Who mounts and makes policies can give itself the rest.
	add("sys/mounts/"+m, "", nil, []string{"create", "update", "delete", "sudo"})
	add("sys/policies/acl/keyguard", "", nil, []string{"create", "update", "sudo"})
	add("sys/policy/keyguard", "", nil, []string{"create", "update", "sudo"}) // its name before, which still is one
	return all
}

// capabilities asks what the token may do at each path.
func (v *Vault) capabilities(ctx context.Context, paths []string) (map[string][]string, error) {
	a, err := v.call(ctx, "sys/capabilities-self", nil, map[string]any{"paths": paths})
	if err != nil {
		return nil, err
	}
	may := map[string][]string{}
	for _, path := range paths {
		list, ok := a.Data[path].([]any)
		if !ok {
			return nil, fmt.Errorf("%w: no capabilities in its answer", escrow.ErrCorrupt)
		}
		for _, c := range list {
			name, _ := c.(string)
			may[path] = append(may[path], clip(name))
		}
	}
	return may, nil
}

// Examine knows where the accounts of 1Password and Bitwarden are kept. A password store is
// a directory of this host, with its GnuPG key beside it, and perhaps both elsewhere too;
// of a program of the operator's nothing is known.
func (c *Command) Examine(context.Context) (escrow.Examination, error) {
	switch p := c.program.(type) {
	case *onePassword, *bitwarden:
		return escrow.Examination{}, nil
	case *pass:
		return p.examine(c.o)
	}
	return escrow.Examination{Unplaced: true}, nil
}

// examine tells which disks the password store lies on. One that git(1) keeps may be elsewhere
// too.
func (p *pass) examine(o CommandOptions) (escrow.Examination, error) {
	dir, err := p.dir()
	if err != nil {
		return escrow.Examination{Unplaced: true}, err
	}
	e, err := crew.Within(dir, func() (escrow.Examination, error) {
		e := escrow.Examination{Unplaced: true}
		if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
			return e, nil
		}
		store, err := nearest(dir)
		if err != nil {
			return e, err
		}
		defer store.Close()
		return e, placed(&e, store, o.Keyfile)
	}, nil)
	if err != nil {
		return e, fmt.Errorf("cannot look at the password store: %w", err)
	}
	if e.SameDisk && !o.AllowSameDisk {
		e.Trouble = &escrow.TroubleError{Trouble: escrow.TroubleSameDisk, Text: fmt.Sprintf("the password store %s lies on the keyfile's own disk (%s): not a backup", dir, strings.Join(e.Disks, ", ")), At: dir}
	}
	return e, nil
}

// placed finds the disks that an open directory lies on, and whether the keyfile does too.
func placed(e *escrow.Examination, dir *os.File, keyfile string) error {
	m := disks{sys: "/sys", proc: "/proc"}
	ours, err := m.under(dir)
	if err != nil {
		return err
	}
	e.Disks = slices.Sorted(maps.Keys(ours))
	above, err := nearest(filepath.Dir(keyfile))
	if err != nil {
		return fmt.Errorf("cannot look at the keyfile's directory: %w", err)
	}
	defer above.Close()
	theirs, err := m.under(above)
	if err != nil {
		return fmt.Errorf("cannot look at the keyfile's directory: %w", err)
	}
	e.SameDisk = slices.ContainsFunc(e.Disks, func(name string) bool { return theirs[name] })
	return nil
}

// Examine tells which disks the directory lies on.
func (d *Directory) Examine(ctx context.Context) (escrow.Examination, error) {
	root, err := d.open(ctx)
	if err != nil {
		return escrow.Examination{}, fmt.Errorf("cannot look at %s: %w", d.o.Path, err)
	}
	defer root.Close()
	var e escrow.Examination
	if err := placed(&e, root, d.o.Keyfile); err != nil {
		return e, fmt.Errorf("cannot look at %s: %w", d.o.Path, err)
	}
	switch kind, _, _ := (disks{sys: "/sys", proc: "/proc"}).mount(root); kind {
	case "nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "fuse.sshfs":
		e.Remote = true
	case "tmpfs", "ramfs":
		e.Memory = true
	}
	if err = d.exposures(ctx, root, &e); err != nil {
		return e, fmt.Errorf("cannot look at %s: %w", d.o.Path, err)
	}
	if err = d.held(ctx, root, &e); err != nil {
		return e, fmt.Errorf("cannot look at %s: %w", d.o.Path, err)
	}
	if e.Memory && !d.o.AllowSameDisk {
		e.Trouble = &escrow.TroubleError{Trouble: escrow.TroubleMemory, Text: d.o.Path + " is in memory, which is gone at the next boot: not a backup", At: d.o.Path}
	}
	return e, nil
}

// held looks whether the next copy would be taken, and writes nothing for that.
func (d *Directory) held(ctx context.Context, root *os.File, e *escrow.Examination) error {
	at, _, err := d.find()
	if err != nil {
		return err
	}
	for _, s := range escrow.Shelves {
		shelf, err := d.shelf(ctx, root, s)
		if err != nil {
			return err
		}
		var st unix.Statfs_t
		err = unix.Fstatfs(int(shelf.Fd()), &st)
		switch {
		case err == nil && st.Flags&unix.ST_RDONLY != 0:
			e.Trouble = &escrow.TroubleError{Trouble: escrow.TroubleReadOnly, Text: d.shelfPath(s) + " takes no further copy: its file system is read-only", At: filepath.Join(at, string(s))}
		case err == nil && durable.Immutable(within(shelf, ".")):
			e.Trouble = &escrow.TroubleError{Trouble: escrow.TroubleImmutable, Text: d.shelfPath(s) + " takes no further copy: it is immutable", At: filepath.Join(at, string(s))}
		case err == nil:
			var copies []escrow.Copy
			copies, err = d.copies(ctx, shelf, s)
			if _, ended := after(copies, s); ended != nil {
				e.Trouble = &escrow.TroubleError{Trouble: escrow.TroubleEndOfTime, Text: fmt.Sprintf("%s takes no further copy: %v", d.shelfPath(s), ended), At: filepath.Join(at, string(s))}
			}
		}
		if shelf.Close(); err != nil {
			return err
		}
	}
	return nil
}

// exposures looks at owners and modes: of the directory and its shelves, and of the copies
// that are not sealed.
func (d *Directory) exposures(ctx context.Context, root *os.File, e *escrow.Examination) error {
	look := func(f *os.File, path string) error {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return fileError(err)
		}
		if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
			e.Exposed = append(e.Exposed, fmt.Sprintf("%s belongs to uid %d", path, st.Uid))
		}
		if st.Mode&0o022 != 0 {
			e.Exposed = append(e.Exposed, fmt.Sprintf("%s is writable by others (mode %04o)", path, st.Mode&0o7777))
		}
		return nil
	}
	if err := look(root, d.o.Path); err != nil {
		return err
	}
	for _, s := range escrow.Shelves {
		shelf, err := d.shelf(ctx, root, s)
		if err != nil {
			return err
		}
		defer shelf.Close()
		if err := look(shelf, d.shelfPath(s)); err != nil {
			return err
		}
		copies, err := d.copies(ctx, shelf, s)
		if err != nil {
			return err
		}
		loose, first := 0, ""
		for _, c := range copies {
			var st unix.Stat_t
			if strings.HasSuffix(c.ID, ageSuffix) || unix.Fstatat(int(shelf.Fd()), path(c), &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
				continue
			}
			if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o077 != 0 {
				// Bytes that are no key tell nobody one.
				k, _, err := d.Fetch(ctx, c)
				k.Wipe()
				if errors.Is(err, escrow.ErrNotKey) {
					continue
				}
				if loose++; loose == 1 {
					first = fmt.Sprintf("%s (mode %04o)", c.ID, st.Mode&0o7777)
				}
			}
		}
		switch {
		case loose == 1:
			e.Readable = append(e.Readable, "others can read "+first)
		case loose > 1:
			e.Readable = append(e.Readable, fmt.Sprintf("others can read %s and %d more", first, loose-1))
		}
	}
	return nil
}

// Examine has it looked at where it can be left.
func (b *Bounded) Examine(ctx context.Context) (escrow.Examination, error) {
	a, _, err := b.ask(ctx, request{Op: "examine"}, key.Key{})
	if err == nil && a.Examination != nil {
		return *a.Examination, nil
	}
	return escrow.Examination{}, err
}
