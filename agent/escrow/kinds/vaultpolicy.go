package kinds

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/hcl/hcl/ast"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

const (
	vaultPolicies = "sys/policies/acl"
	vaultRoles    = "auth/approle/role"
	// vaultPolicySize bounds a policy's text, in bytes.
	vaultPolicySize = 64 << 10
)

// vaultRule is one path of a policy, and what may be done there
// (https://developer.hashicorp.com/vault/docs/concepts/policies).
type vaultRule struct {
	path         string // "+" is one segment, "*" at the end is any rest
	capabilities []string
}

func (r vaultRule) can(capability string) bool { return slices.Contains(r.capabilities, capability) }

// parseVaultPolicy reads a policy's text, HCL or JSON.
func parseVaultPolicy(text string) ([]vaultRule, error) {
	if len(text) > vaultPolicySize {
		return nil, fmt.Errorf("%w: a policy of %d bytes", escrow.ErrCorrupt, len(text))
	}
	file, err := hcl.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: a policy that cannot be read: %s", escrow.ErrCorrupt, clip(err.Error()))
	}
	root, ok := file.Node.(*ast.ObjectList)
	if !ok {
		return nil, fmt.Errorf("%w: a policy that is none", escrow.ErrCorrupt)
	}
	var rules []vaultRule
	for _, item := range root.Filter("path").Items {
		var says struct {
			Policy       string   `hcl:"policy"` // what came before capabilities
			Capabilities []string `hcl:"capabilities"`
		}
		if len(item.Keys) != 1 {
			return nil, fmt.Errorf("%w: a policy with a path that has no name", escrow.ErrCorrupt)
		}
		path, _ := item.Keys[0].Token.Value().(string)
		if err := hcl.DecodeObject(&says, item.Val); err != nil || path == "" {
			return nil, fmt.Errorf("%w: a policy that cannot be read, at path %q", escrow.ErrCorrupt, clip(path))
		}
		switch says.Policy {
		case "read":
			says.Capabilities = append(says.Capabilities, "read", "list")
		case "write":
			says.Capabilities = append(says.Capabilities, "create", "read", "update", "delete", "list")
		case "sudo":
			says.Capabilities = append(says.Capabilities, "create", "read", "update", "delete", "list", "sudo")
		case "deny":
			says.Capabilities = append(says.Capabilities, "deny")
		}
		rules = append(rules, vaultRule{strings.TrimPrefix(path, "/"), says.Capabilities})
	}
	return rules, nil
}

// fits tells whether a rule is for a path. What a template ({{identity.entity.name}}) will
// stand for nobody knows here: it may be anything.
func (r vaultRule) fits(path string) bool {
	pattern := r.path
	if before, _, template := strings.Cut(pattern, "{{"); template {
		pattern = before + "*"
	}
	pattern, glob := strings.CutSuffix(pattern, "*")
	if !strings.Contains(pattern, "+") {
		return path == pattern || glob && strings.HasPrefix(path, pattern)
	}
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(have) < len(want) || !glob && len(have) > len(want) {
		return false
	}
	for i, w := range want {
		last := glob && i == len(want)-1
		if w != "+" && w != have[i] && !(last && strings.HasPrefix(have[i], w)) {
			return false
		}
	}
	return true
}

// weight orders the rules that fit one path: the heaviest counts alone
// (https://developer.hashicorp.com/vault/docs/concepts/policies#priority-matching).
func (r vaultRule) weight() (w [4]int) {
	if i := strings.IndexAny(r.path, "+*"); i >= 0 {
		w[0] = i // the later its first wildcard, the more exact
	} else {
		w[0] = 1 << 20
	}
	if !strings.HasSuffix(r.path, "*") {
		w[1] = 1
	}
	w[2] = -strings.Count(r.path, "+")
	w[3] = len(r.path)
	return w
}

// allowed tells whether rules, those of all policies of one token, allow any of these
// capabilities on a path. Where a template may fit, it does not take anything away.
func allowed(rules []vaultRule, path string, capabilities ...string) bool {
	var best []vaultRule
	grants := func(list []vaultRule) bool {
		return !slices.ContainsFunc(list, func(r vaultRule) bool { return r.can("deny") }) &&
			slices.ContainsFunc(list, func(r vaultRule) bool { return slices.ContainsFunc(capabilities, r.can) })
	}
	for _, r := range rules {
		switch {
		case !r.fits(path):
		case strings.Contains(r.path, "{{"):
			if grants([]vaultRule{r}) {
				return true
			}
		case len(best) == 0 || r.path == best[0].path:
			best = append(best, r)
		default:
			a, b := r.weight(), best[0].weight()
			if order := slices.Compare(a[:], b[:]); order > 0 || order == 0 && r.path > best[0].path {
				best = []vaultRule{r}
			}
		}
	}
	return grants(best)
}

// vaultRights are the policies of a server and the machines that have them, read once.
type vaultRights struct {
	mu       sync.Mutex
	read     bool                   // mu
	err      error                  // mu: why the policies are not known
	policies map[string][]vaultRule // mu: what may change something, by the policy's name
	unread   []error                // mu: policies whose text says nothing to us
	roles    map[string][]string    // mu: the policies of each AppRole
	roleErr  error                  // mu: why these are not known
}

// rights reads them. That takes read and list on sys/policies/acl, and on auth/approle/role
// to tell whose they are. What was refused is not asked again for each of many hosts (law 9).
func (f *vaultFleet) rights(ctx context.Context) (*vaultRights, error) {
	r := &f.policied
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.read {
		return r, r.err
	}
	policies, unread := map[string][]vaultRule{}, []error(nil)
	names, err := f.list(ctx, vaultPolicies)
	if errors.Is(err, errNotFound) {
		err = fmt.Errorf("%w: there is no such list", escrow.ErrCorrupt)
	}
	for _, name := range names {
		if name == "root" || err != nil {
			continue // whose tokens are people's
		}
		var text string
		if text, err = f.text(ctx, vaultPolicies+"/"+name); err != nil {
			break
		}
		rules, perr := parseVaultPolicy(text)
		if perr != nil {
			unread = append(unread, fmt.Errorf("policy %s: %w", clip(name), perr))
		}
		if policies[name] = rules; len(rules) == 0 {
			delete(policies, name)
		}
	}
	if err == nil {
		r.roles, r.roleErr = f.appRoles(ctx)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if errors.Is(err, escrow.ErrRateLimited) {
		return nil, err
	}
	if err != nil {
		err = fmt.Errorf("cannot read the policies: %w", err)
	}
	r.read, r.err, r.policies, r.unread = true, err, policies, unread
	return r, err
}

// list reads the names in a list of the server's; what cannot be in a URL is none of ours.
func (f *vaultFleet) list(ctx context.Context, path string) ([]string, error) {
	if err := f.o.wait(ctx); err != nil {
		return nil, err
	}
	a, err := f.v.call(ctx, path, url.Values{"list": {"true"}}, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot list %s: %w", path, err)
	}
	keys, _ := a.Data["keys"].([]any)
	var names []string
	for _, k := range keys {
		name, _ := k.(string)
		if !vaultName(name) {
			return nil, fmt.Errorf("cannot list %s: %w: a name %q", path, escrow.ErrCorrupt, clip(name))
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (f *vaultFleet) text(ctx context.Context, path string) (string, error) {
	if err := f.o.wait(ctx); err != nil {
		return "", err
	}
	a, err := f.v.call(ctx, path, nil, nil)
	if err != nil {
		return "", fmt.Errorf("cannot read %s: %w", path, err)
	}
	text, ok := a.Data["policy"].(string)
	if !ok {
		return "", fmt.Errorf("cannot read %s: %w: no policy in the answer", path, escrow.ErrCorrupt)
	}
	return text, nil
}

// appRoles reads the policies of the machines' roles. Every token has `default` besides,
// unless its role says no.
func (f *vaultFleet) appRoles(ctx context.Context) (map[string][]string, error) {
	names, err := f.list(ctx, vaultRoles)
	if errors.Is(err, escrow.ErrNoPlace) {
		return nil, nil // nobody logs in by AppRole
	}
	if err != nil {
		return nil, err
	}
	roles := map[string][]string{}
	for _, name := range names {
		if err := f.o.wait(ctx); err != nil {
			return nil, err
		}
		a, err := f.v.call(ctx, vaultRoles+"/"+name, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("cannot read %s/%s: %w", vaultRoles, name, err)
		}
		if none, _ := a.Data["token_no_default_policy"].(bool); !none {
			roles[name] = append(roles[name], "default")
		}
		for _, field := range []string{"token_policies", "policies"} {
			list, _ := a.Data[field].([]any)
			for _, p := range list {
				if policy, _ := p.(string); policy != "" && !slices.Contains(roles[name], policy) {
					roles[name] = append(roles[name], policy)
				}
			}
		}
	}
	return roles, nil
}

// Destroyers goes by the texts of the policies. A policy that an AppRole has is a machine's.
// Who else has one a server does not tell: tokens, people, other ways to log in.
func (f *vaultFleet) Destroyers(ctx context.Context, host string) ([]string, error) {
	r, err := f.rights(ctx)
	if err != nil {
		return nil, err
	}
	kv, err := f.engine(ctx)
	if err != nil {
		return nil, err
	}
	o := f.v.o
	o.Path = forHost(f.pattern, host)
	one := &Vault{o: o}
	rights := one.rights(kv) // what doctor asks of a host's own token
	maps.DeleteFunc(rights, func(path string, _ vaultRight) bool { return strings.HasPrefix(path, "sys/") != (host == "") })
	may := func(rules []vaultRule) bool {
		for path, right := range rights {
			if allowed(rules, path, right.destroys...) {
				return true
			}
		}
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	loose := map[string]bool{} // policies that allow it
	for name, rules := range r.policies {
		if may(rules) {
			loose[name] = true
		}
	}
	var who, held []string // held are policies that a machine has
	var unknown []error
	for role, policies := range r.roles {
		if slices.Contains(policies, "root") {
			who = append(who, "AppRole "+role+" by policy root")
			continue
		}
		var rules []vaultRule
		var by []string
		for _, p := range policies {
			if rules = append(rules, r.policies[p]...); loose[p] {
				by = append(by, p)
			}
		}
		if len(by) > 0 && may(rules) { // one policy may deny what another allows
			slices.Sort(by)
			who = append(who, "AppRole "+role+" by policy "+strings.Join(by, ", "))
			held = append(held, by...)
		}
	}
	for name := range loose {
		if !slices.Contains(held, name) {
			unknown = append(unknown, fmt.Errorf("policy %s allows it, and the server does not tell who has it", name))
		}
	}
	slices.SortFunc(unknown, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	unknown = append(unknown, r.unread...)
	if len(loose) > 0 && r.roleErr != nil {
		unknown = append(unknown, r.roleErr)
	}
	if host == "" && o.Namespace != "" {
		unknown = append(unknown, errors.New("what the policies of the namespaces above allow is not looked up"))
	}
	slices.Sort(who)
	return who, joined(unknown)
}
