package kinds

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/iam/apiv1/iampb"
	pb "cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/grpc"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

const (
	// gcpSecrets is how many secrets one page of ListSecrets has: more would not fit into an
	// answer of 4 MiB with every label that a secret may have.
	gcpSecrets = 1000
	// gcpAssets is how many assets one page has, the API's highest.
	gcpAssets = 1000
	// gcpAnswer bounds an answer in JSON, in bytes.
	gcpAnswer = 32 << 20

	assetURL  = "https://cloudasset.googleapis.com"
	policyURL = "https://cloudresourcemanager.googleapis.com"
)

// gcpFleet looks at the secrets of many hosts in one project: one ListSecrets by our label,
// then ListSecretVersions with a page of one for each shelf of each host. The role
// roles/secretmanager.viewer grants all of it, and no access to a value.
type gcpFleet struct {
	g       *GCP
	pattern string
	o       FleetOptions
	http    *http.Client
}

// NewGCPFleet checks the options. It opens no socket and no file.
func NewGCPFleet(o GCPOptions, f FleetOptions) (escrow.Fleet, error) {
	fail := func(err error) (escrow.Fleet, error) { return nil, fmt.Errorf("escrow %s: %w", o.Name, err) }
	pattern := o.Secret
	if !strings.Contains(pattern, hostWord) {
		return fail(errNoHost)
	}
	o.Secret = "any" // the calls that are for all of them name none
	g, err := NewGCP(o)
	if err != nil {
		return nil, err
	}
	if o.Endpoint == "" {
		f.AssetURL, f.PolicyURL = cmp.Or(f.AssetURL, assetURL), cmp.Or(f.PolicyURL, policyURL)
	}
	if f.Assets && f.AssetURL == "" {
		return fail(fmt.Errorf("%w: an endpoint of one's own has no Cloud Asset Inventory", escrow.ErrRefused))
	}
	return &gcpFleet{g: g, pattern: pattern, o: f,
		http: &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, IdleConnTimeout: gcpIdle}}}, nil
}

func (f *gcpFleet) Name() string { return f.g.o.Name }
func (f *gcpFleet) Lags() bool   { return true }

func (f *gcpFleet) NamesKeys() bool { return false }

func (f *gcpFleet) Place() escrow.Place {
	p := f.g.Place()
	p.Where = f.g.parent() + "/secrets/" + f.pattern
	return p
}

func (f *gcpFleet) Close() error {
	f.http.CloseIdleConnections()
	return f.g.Close()
}

// secretID is that of a host's shelf.
func (f *gcpFleet) secretID(host string, s escrow.Shelf) string {
	return shelfName(forHost(f.pattern, host), s)
}

func (f *gcpFleet) Hosts(ctx context.Context) (map[string]*escrow.Shown, error) {
	if f.o.Assets {
		return f.assets(ctx)
	}
	all := map[string]*escrow.Shown{}
	req := &pb.ListSecretsRequest{Parent: f.g.parent(), PageSize: gcpSecrets, Filter: "labels." + managedBy + "=" + keyguard}
	for range maxListed {
		if err := f.o.wait(ctx); err != nil {
			return nil, err
		}
		var page *pb.ListSecretsResponse
		err := f.g.call(ctx, "parent", req.Parent, func(ctx context.Context, c pb.SecretManagerServiceClient, o ...grpc.CallOption) (err error) {
			page, err = c.ListSecrets(ctx, req, o...)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("cannot list the secrets of %s: %w", req.Parent, err)
		}
		for _, s := range page.GetSecrets() {
			_, id, _ := strings.Cut(s.GetName(), "/secrets/")
			if host, ok := hostIn(f.pattern, id); ok {
				all[host] = nil
			}
		}
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
			return withoutQuarantines(all), nil
		}
	}
	return nil, fmt.Errorf("cannot list the secrets of %s: %w: a listing without end", req.Parent, escrow.ErrCorrupt)
}

// Look asks for the newest version of both shelves.
func (f *gcpFleet) Look(ctx context.Context, host string) (escrow.Shown, error) {
	var shown escrow.Shown
	for _, s := range escrow.Shelves {
		c, err := f.newest(ctx, host, s)
		switch {
		case errors.Is(err, escrow.ErrNoPlace) && s == escrow.Current:
			return escrow.Shown{Missing: true}, nil
		case errors.Is(err, escrow.ErrNoPlace): // made by hand: without a quarantine
		case err != nil:
			return escrow.Shown{}, err
		case s == escrow.Current:
			shown.Current = c
		default:
			shown.Quarantine = c
		}
	}
	return shown, nil
}

func (f *gcpFleet) newest(ctx context.Context, host string, s escrow.Shelf) (*escrow.Copy, error) {
	parent := f.g.parent() + "/secrets/" + f.secretID(host, s)
	req := &pb.ListSecretVersionsRequest{Parent: parent, PageSize: 1}
	if err := f.o.wait(ctx); err != nil {
		return nil, err
	}
	var page *pb.ListSecretVersionsResponse
	err := f.g.call(ctx, "parent", parent, func(ctx context.Context, c pb.SecretManagerServiceClient, o ...grpc.CallOption) (err error) {
		page, err = c.ListSecretVersions(ctx, req, o...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list %s: %w", parent, err)
	}
	if len(page.GetVersions()) == 0 {
		return nil, nil
	}
	v := page.GetVersions()[0]
	var ends time.Time
	if t := v.GetScheduledDestroyTime(); t != nil {
		ends = t.AsTime()
	}
	return f.version(s, v.GetName(), v.GetCreateTime().AsTime(), v.GetState().String(), ends)
}

// version is a copy by what the store says of it. All but ENABLED cannot be read.
func (f *gcpFleet) version(s escrow.Shelf, name string, created time.Time, state string, ends time.Time) (*escrow.Copy, error) {
	_, digits, ok := strings.Cut(name, "/versions/")
	c := escrow.Copy{Escrow: f.g.o.Name, Shelf: s, ID: string(s) + "/" + digits, Created: created, Ends: ends}
	if !ok || versionNumber(c.ID) == 0 {
		return nil, fmt.Errorf("%w: the store speaks of %q", escrow.ErrCorrupt, clip(name))
	}
	if state != "ENABLED" {
		c.Unreadable = strings.ToLower(clip(state))
	}
	return &c, nil
}

// asset is one of what assets.list answers with
// (https://cloud.google.com/asset-inventory/docs/reference/rest/v1/assets/list), as far as
// it is read.
type asset struct {
	Name      string `json:"name"`
	AssetType string `json:"assetType"`
	Resource  struct {
		Data struct {
			State                string    `json:"state"`
			CreateTime           time.Time `json:"createTime"`
			ScheduledDestroyTime time.Time `json:"scheduledDestroyTime"`
		} `json:"data"`
	} `json:"resource"`
}

// The types of assets that are asked for
// (https://cloud.google.com/asset-inventory/docs/asset-types).
const (
	secretAsset  = "secretmanager.googleapis.com/Secret"
	versionAsset = "secretmanager.googleapis.com/SecretVersion"
)

// assets asks Cloud Asset Inventory for every secret and every version of the project, a
// thousand at a time. It needs cloudasset.assets.listResource (roles/cloudasset.viewer).
func (f *gcpFleet) assets(ctx context.Context) (map[string]*escrow.Shown, error) {
	all := gcpAssetsOf{f, map[string]*escrow.Shown{}}
	query := url.Values{"assetTypes": {secretAsset, versionAsset}, "contentType": {"RESOURCE"}, "pageSize": {fmt.Sprint(gcpAssets)}}
	for range maxListed {
		var page struct {
			Assets        []asset `json:"assets"`
			NextPageToken string  `json:"nextPageToken"`
		}
		err := f.rest(ctx, http.MethodGet, f.o.AssetURL+"/v1/projects/"+f.g.o.Project+"/assets?"+query.Encode(), nil, &page)
		if err != nil {
			return nil, fmt.Errorf("cannot list the assets of project %s: %w", f.g.o.Project, err)
		}
		for _, a := range page.Assets {
			if err := all.take(a); err != nil {
				return nil, err
			}
		}
		if page.NextPageToken == "" {
			for host, shown := range all.hosts {
				if shown.Missing && shown.Current == nil {
					delete(all.hosts, host) // a quarantine alone is no host's place
				}
			}
			return all.hosts, nil
		}
		query.Set("pageToken", page.NextPageToken)
	}
	return nil, fmt.Errorf("cannot list the assets of project %s: %w: a listing without end", f.g.o.Project, escrow.ErrCorrupt)
}

// gcpAssetsOf is what assets show of hosts.
type gcpAssetsOf struct {
	f     *gcpFleet
	hosts map[string]*escrow.Shown
}

// of is what is shown of the host that has a secret, nil for none's, and which shelf that is.
func (all gcpAssetsOf) of(id string) (*escrow.Shown, escrow.Shelf) {
	host, ok := hostIn(all.f.pattern, id)
	s := escrow.Current
	if base, quarantine := strings.CutSuffix(id, quarantined); quarantine {
		if other, also := hostIn(all.f.pattern, base); also {
			host, ok, s = other, true, escrow.Quarantine
		}
	}
	if !ok {
		return nil, s
	}
	if all.hosts[host] == nil {
		all.hosts[host] = &escrow.Shown{Missing: true}
	}
	return all.hosts[host], s
}

// take takes in a secret or a version.
func (all gcpAssetsOf) take(a asset) error {
	g := all.f.g
	prefix := strings.TrimPrefix(g.parent(), "projects/"+g.o.Project) + "/secrets/" // "/locations/l/secrets/"
	_, rest, _ := strings.Cut(a.Name, "/projects/")                                 // //secretmanager.googleapis.com/projects/123/secrets/…
	_, rest, _ = strings.Cut(rest, "/")
	rest, ours := strings.CutPrefix("/"+rest, prefix)
	id, _, _ := strings.Cut(rest, "/versions/")
	shown, s := all.of(id)
	if !ours || shown == nil {
		return nil
	}
	if a.AssetType == secretAsset {
		shown.Missing = shown.Missing && s != escrow.Current
		return nil
	}
	d := a.Resource.Data
	c, err := all.f.version(s, a.Name, d.CreateTime, d.State, d.ScheduledDestroyTime)
	if err != nil {
		return err
	}
	newest := &shown.Current
	if s == escrow.Quarantine {
		newest = &shown.Quarantine
	}
	if *newest == nil || versionNumber((*newest).ID) < versionNumber(c.ID) {
		*newest = c
	}
	return nil
}

// rest makes one call of an API in JSON, with the credentials of the store.
func (f *gcpFleet) rest(ctx context.Context, method, address string, body []byte, answer any) error {
	if err := f.o.wait(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 12*gcpTimeout) // a page of a thousand takes its time
	defer cancel()
	t, _, err := f.g.tokens.get(ctx)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: %s", escrow.ErrRefused, clip(err.Error()))
	}
	r.Header.Set("User-Agent", "keyguard")
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if t.value != "" {
		r.Header.Set("Authorization", "Bearer "+t.value)
	}
	if t.project != "" {
		r.Header.Set("X-Goog-User-Project", t.project)
	}
	resp, err := f.http.Do(r)
	if err != nil {
		return wireError(ctx, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, gcpAnswer))
	if err != nil {
		return wireError(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(data, answer); err != nil {
			return fmt.Errorf("%w: an answer that is no JSON of the API's", escrow.ErrCorrupt)
		}
		return nil
	}
	var said struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	_ = json.Unmarshal(data, &said) // what is no JSON says nothing
	text := cmp.Or(clip(said.Error.Message), fmt.Sprintf("status %d", resp.StatusCode))
	for status, err := range map[int]error{
		http.StatusUnauthorized: escrow.ErrUnauthenticated, http.StatusForbidden: escrow.ErrDenied, http.StatusNotFound: escrow.ErrNoPlace,
		http.StatusTooManyRequests: escrow.ErrRateLimited, http.StatusBadRequest: escrow.ErrRefused,
	} {
		if resp.StatusCode == status {
			return fmt.Errorf("%w: %s", err, text)
		}
	}
	return fmt.Errorf("%w: %s", escrow.ErrUnreachable, text)
}

// gcpDestroyers are the roles by which copies can be destroyed, or the right to do so be had
// (https://cloud.google.com/iam/docs/roles-permissions/secretmanager and
// https://cloud.google.com/iam/docs/roles-permissions/resourcemanager).
var gcpDestroyers = []string{"roles/owner", "roles/editor", "roles/secretmanager.admin", "roles/secretmanager.secretVersionManager",
	"roles/iam.securityAdmin", "roles/resourcemanager.projectIamAdmin", "roles/resourcemanager.folderAdmin",
	"roles/resourcemanager.folderIamAdmin", "roles/resourcemanager.organizationAdmin"}

// Destroyers reads the policy of both secrets of a host, or those of the project and of the
// folders and the organisation that it is in. People and groups are left out: hosts are
// service accounts and workload identities. What a role of one's own grants is not known.
func (f *gcpFleet) Destroyers(ctx context.Context, host string) ([]string, error) {
	if host == "" {
		return f.projectDestroyers(ctx)
	}
	var all gcpPolicies
	for _, s := range escrow.Shelves {
		resource := f.g.parent() + "/secrets/" + f.secretID(host, s)
		if err := f.o.wait(ctx); err != nil {
			return nil, err
		}
		var policy *iampb.Policy
		err := f.g.call(ctx, "resource", resource, func(ctx context.Context, c pb.SecretManagerServiceClient, o ...grpc.CallOption) (err error) {
			policy, err = c.GetIamPolicy(ctx, &iampb.GetIamPolicyRequest{Resource: resource, Options: &iampb.GetPolicyOptions{RequestedPolicyVersion: policyVersion}}, o...)
			return err
		})
		if errors.Is(err, escrow.ErrNoPlace) {
			continue // nothing to destroy
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the policy of %s: %w", resource, err)
		}
		for _, b := range policy.GetBindings() {
			all.add(b.GetRole(), b.GetMembers())
		}
	}
	return all.sum()
}

// projectDestroyers reads the policies of the project and of what is above it.
func (f *gcpFleet) projectDestroyers(ctx context.Context) ([]string, error) {
	project := "projects/" + f.g.o.Project
	if f.o.PolicyURL == "" {
		return nil, fmt.Errorf("cannot read the policy of %s: %w: an endpoint of one's own has none", project, escrow.ErrRefused)
	}
	var all gcpPolicies
	read := func(version, resource string) {
		var policy struct {
			Bindings []struct {
				Role    string   `json:"role"`
				Members []string `json:"members"`
			} `json:"bindings"`
		}
		if err := f.rest(ctx, http.MethodPost, f.o.PolicyURL+"/"+version+"/"+resource+":getIamPolicy",
			fmt.Appendf(nil, `{"options":{"requestedPolicyVersion":%d}}`, policyVersion), &policy); err != nil {
			all.unknown = append(all.unknown, fmt.Errorf("cannot read the policy of %s: %w", resource, err))
		}
		for _, b := range policy.Bindings {
			all.add(b.Role, b.Members)
		}
	}
	read("v1", project)
	var above struct {
		Ancestor []struct {
			ResourceID struct {
				Type string `json:"type"`
				ID   string `json:"id"`
			} `json:"resourceId"`
		} `json:"ancestor"`
	}
	if err := f.rest(ctx, http.MethodPost, f.o.PolicyURL+"/v1/"+project+":getAncestry", []byte("{}"), &above); err != nil {
		all.unknown = append(all.unknown, fmt.Errorf("cannot ask what %s is in: %w", project, err))
	}
	for _, a := range above.Ancestor {
		kind, id := a.ResourceID.Type, a.ResourceID.ID
		switch {
		case kind == "project":
		case (kind == "folder" || kind == "organization") && id != "" && strings.Trim(id, "0123456789") == "":
			read("v3", kind+"s/"+id)
		default:
			all.unknown = append(all.unknown, fmt.Errorf("%w: %s is in a %s %q", escrow.ErrCorrupt, project, clip(kind), clip(id)))
		}
	}
	return all.sum()
}

// policyVersion is that which tells of conditions. In a lower one the role of a binding that
// has a condition goes by another name (https://cloud.google.com/iam/docs/policies#versions).
const policyVersion = 3

// gcpPolicies are what some policies say.
type gcpPolicies struct {
	destroyers []string
	unknown    []error
}

// add takes one binding in.
func (p *gcpPolicies) add(role string, members []string) {
	role, _, _ = strings.Cut(role, "_withcond_")
	own := !strings.HasPrefix(role, "roles/") // "projects/p/roles/r": what it grants its owner says
	if !own && !slices.Contains(gcpDestroyers, role) {
		return
	}
	for _, m := range members {
		kind, _, _ := strings.Cut(m, ":")
		switch {
		case !slices.Contains([]string{"serviceAccount", "principal", "principalSet", "allUsers", "allAuthenticatedUsers"}, kind):
		case own:
			p.unknown = append(p.unknown, fmt.Errorf("what %s grants to %s is not looked up", clip(role), clip(m)))
		default:
			p.destroyers = append(p.destroyers, clip(m)+" by "+role)
		}
	}
}

func (p *gcpPolicies) sum() ([]string, error) {
	slices.Sort(p.destroyers)
	return slices.Compact(p.destroyers), joined(p.unknown)
}
