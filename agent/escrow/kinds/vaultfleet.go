package kinds

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// vaultDated is how many quarantined entries are asked for their time; of more, the first
// by name.
const vaultDated = 16

// vaultFleet looks at the entries of many hosts below one mount: lists of names, and of
// version 2 the metadata of <path>. An entry itself is never read, which on version 1 means
// that no times are known.
type vaultFleet struct {
	v        *Vault
	pattern  string
	o        FleetOptions
	policied vaultRights
}

// NewVaultFleet checks the options. It opens no socket and no file.
func NewVaultFleet(o VaultOptions, f FleetOptions) (escrow.Fleet, error) {
	pattern := o.Path
	if !strings.Contains(pattern, hostWord) {
		return nil, fmt.Errorf("escrow %s: %w", o.Name, errNoHost)
	}
	o.Path = "any" // the calls that are for all of them name none
	v, err := NewVault(o)
	if err != nil {
		return nil, err
	}
	return &vaultFleet{v: v, pattern: pattern, o: f}, nil
}

func (f *vaultFleet) Name() string { return f.v.o.Name }
func (f *vaultFleet) Lags() bool   { return false }
func (f *vaultFleet) Close() error { return f.v.Close() }

func (f *vaultFleet) NamesKeys() bool { return true }

func (f *vaultFleet) Place() escrow.Place {
	p := f.v.Place()
	p.Where = strings.Replace(p.Where, "/any", "/"+f.pattern, 1)
	return p
}

// engine asks the server which version the engine is. A server that does not tell is not
// tried by reading an entry.
func (f *vaultFleet) engine(ctx context.Context) (int, error) {
	f.v.mu.Lock()
	kv := f.v.kv
	f.v.mu.Unlock()
	if kv != 0 {
		return kv, nil
	}
	a, err := f.v.call(ctx, "sys/internal/ui/mounts/"+f.v.o.Mount, nil, nil)
	if err == nil {
		kv, err = f.v.mounted(a.Data)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot ask which engine is mounted at %s: %w", f.v.o.Mount, err)
	}
	f.v.mu.Lock()
	f.v.kv = kv
	f.v.mu.Unlock()
	return kv, nil
}

// Hosts lists the folder in which the hosts' entries or folders are.
func (f *vaultFleet) Hosts(ctx context.Context) (map[string]*escrow.Shown, error) {
	kv, err := f.engine(ctx)
	if err != nil {
		return nil, err
	}
	before, _, _ := strings.Cut(f.pattern, hostWord)
	folder := before[:strings.LastIndexByte(before, '/')+1]
	segment, rest, _ := strings.Cut(strings.TrimPrefix(f.pattern, folder), "/")
	path := f.v.o.Mount + "/" + folder
	if kv == 2 {
		path = f.v.o.Mount + "/metadata/" + folder
	}
	if err := f.o.wait(ctx); err != nil {
		return nil, err
	}
	a, err := f.v.call(ctx, strings.TrimSuffix(path, "/"), url.Values{"list": {"true"}}, nil)
	if errors.Is(err, errNotFound) {
		return map[string]*escrow.Shown{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list %s: %w", path, err)
	}
	names, _ := a.Data["keys"].([]any)
	all := map[string]*escrow.Shown{}
	for _, n := range names {
		name, _ := n.(string)
		name, isFolder := strings.CutSuffix(name, "/")
		if rest == "" && isFolder {
			name = strings.TrimSuffix(name, "-keys") // also where <path> itself was taken away
		}
		if host, ok := hostIn(segment, name); ok && (rest == "" || isFolder) {
			all[host] = nil
		}
	}
	return withoutQuarantines(all), nil
}

// Look lists the two folders of one host and reads the metadata of <path>.
func (f *vaultFleet) Look(ctx context.Context, host string) (escrow.Shown, error) {
	kv, err := f.engine(ctx)
	if err != nil {
		return escrow.Shown{}, err
	}
	o := f.v.o
	o.Path = forHost(f.pattern, host)
	// The same connections and token; nothing is saved through it.
	one := &Vault{o: o, seal: f.v.seal, tokens: f.v.tokens, wire: f.v.wire, kv: kv}
	if err := f.o.wait(ctx); err != nil {
		return escrow.Shown{}, err
	}
	names, err := one.entryNames(ctx, escrow.Current)
	if err != nil {
		return escrow.Shown{}, fmt.Errorf("cannot list %s/%s: %w", o.Mount, one.folder(escrow.Current), err)
	}
	var shown escrow.Shown
	own := false
	for name := range names {
		own = own || vaultName(name)
		if fp, _ := vaultClaim(name); fp != "" && !slices.Contains(shown.Keys, fp) {
			shown.Keys = append(shown.Keys, fp)
		}
	}
	slices.Sort(shown.Keys)
	if kv == 2 {
		all, err := one.history(ctx, one.o.Path)
		if err != nil {
			return escrow.Shown{}, fmt.Errorf("cannot read the metadata of %s: %w", one.where(), err)
		}
		shown.Missing = len(all) == 0 && len(names) == 0
		if len(all) > 0 {
			shown.Current = one.newest(escrow.Current, o.Path, all)
			if len(shown.Keys) == 1 {
				shown.Current.Fingerprint = shown.Keys[0] // there was never another
			}
		}
	} else if shown.Missing = len(names) == 0; own {
		shown.Current = &escrow.Copy{Escrow: o.Name, Shelf: escrow.Current, ID: string(escrow.Current) + "/" + o.Path}
	}
	if shown.Missing {
		return shown, nil
	}
	shown.Quarantine, err = one.newestApart(ctx, kv, shown.Keys)
	if err != nil {
		return escrow.Shown{}, err
	}
	return shown, nil
}

// newestApart is the newest copy in quarantine, but for those of keys that became current later:
// they are no news. nil is none.
func (v *Vault) newestApart(ctx context.Context, kv int, current []key.Fingerprint) (newest *escrow.Copy, err error) {
	names, err := v.entryNames(ctx, escrow.Quarantine)
	if err != nil {
		return nil, fmt.Errorf("cannot list %s/%s: %w", v.o.Mount, v.folder(escrow.Quarantine), err)
	}
	dated := 0
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fp, _ := vaultClaim(name)
		if !vaultName(name) || slices.Contains(current, fp) {
			continue
		}
		c := &escrow.Copy{Escrow: v.o.Name, Shelf: escrow.Quarantine, ID: vaultQuarantineID + name, Fingerprint: fp}
		if dated++; kv == 2 && dated <= vaultDated {
			all, err := v.history(ctx, v.folder(escrow.Quarantine)+"/"+name)
			if err != nil {
				return nil, fmt.Errorf("cannot read the metadata of %s/%s: %w", v.folder(escrow.Quarantine), name, err)
			}
			if len(all) > 0 {
				c = v.newest(escrow.Quarantine, name, all)
				c.Fingerprint = fp
			}
		}
		if newest == nil || c.Created.After(newest.Created) {
			newest = c
		}
	}
	return newest, nil
}

// newest is the newest version of an entry, as its metadata tells of it.
func (v *Vault) newest(s escrow.Shelf, name string, all []vaultEntry) *escrow.Copy {
	e := all[0]
	return &escrow.Copy{Escrow: v.o.Name, Shelf: s, ID: fmt.Sprintf("%s/%s/%d", s, name, e.version), Created: e.created, Ends: e.ends, Unreadable: e.gone}
}
