package kinds

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

const (
	// vaultTimeout is for one call, the token that it may need first included.
	vaultTimeout = 5 * time.Second
	// vaultRaces is how often a Save looks again because somebody else wrote between its
	// look and its write.
	vaultRaces = 5
	// vaultMarker is the entry that Init makes below "<path>-keys".
	vaultMarker = "keyguard"
	// vaultAtOnce is how many entries a listing reads at a time.
	vaultAtOnce = 16
	// vaultReads is how many entries of a shelf a listing reads. Each is a call, and anybody who
	// may write there can make as many names as he likes (law 10): the others are listed by
	// their names alone, without a time.
	vaultReads = 256
)

// VaultOptions say which entry of which KV engine an escrow is, and who asks. Nothing
// else does: no VAULT_* of the environment, which is the daemon's where systemd calls.
type VaultOptions struct {
	Name    string // of the escrow
	Address string // "https://vault.example:8200"; http on loopback only
	Mount   string // of the KV engine, version 1 or 2
	// Path is the entry of the newest current copy, `{hostname}` already expanded.
	Path      string
	Namespace string
	// CAFile holds PEM certificates that the server's is checked against; "" are the system's.
	CAFile string
	// TokenFile holds a token; without it RoleIDFile and SecretIDFile log in by AppRole.
	TokenFile                string
	RoleIDFile, SecretIDFile string
	// SealTo are recipients as age(1) takes them; IdentityFiles let this host open what is sealed.
	SealTo        []string
	IdentityFiles []string
	// Part is the part of each key that is kept here, the zero PartOf for the whole key.
	Part escrow.PartOf
	// Timeout is for each call; 0 is 5 s.
	Timeout time.Duration
}

// Vault is an escrow in a KV engine of HashiCorp Vault or OpenBao. An entry's field
// `value` is the base64 of the key, or of the age file, and `fingerprint` names it:
//
//	<path>                    the newest current copy, where the runbook has it
//	<path>-keys/<name>        every current key has an entry of its own
//	<path>-keys/keyguard      Init made the place; KV has no folders, an empty list is a 404
//	<path>-quarantine/<name>  the quarantine shelf
//
// A name is the fingerprint; a part's has behind it which, a sealed copy's the digest of
// its recipients; and where that entry holds something else, or was deleted, ".2" and so on.
//
// Version 2 keeps the last ten versions of an entry, version 1 only the last. So nothing
// at <path> is written over, and pushed out, before it has an entry of its own, which
// once written is left alone: whatever people put there by hand is kept as it is, named
// by its digest. The newest current copy is written first and gets its own entry after,
// so that after a crash in between the next Save sees what is missing. Where reading is denied,
// and no Save would see it (saveBlind), the key's own entry is written first.
//
// In the two folders this needs the capabilities create and read, not update: who has
// this host's token can take nothing away there. Only <path> is written over.
//
// On version 2 writes name the version that they replace (check-and-set). Version 1
// has nothing of the kind: there a Save compares, writes and reads back, and two hosts at
// the same moment can still write over each other; both keys have their own entries.
type Vault struct {
	o      VaultOptions
	seal   *sealer
	tokens *vaultTokens
	wire   *vaultWire
	// saving holds one place: a Save looks and then writes.
	saving chan struct{}

	mu    sync.Mutex
	kv    int                    // mu: the engine's version, 0 until the server said
	blind map[string]vaultStored // mu: what this process stored without being able to read
}

// vaultStored is a write whose result may not be read.
type vaultStored struct {
	name    string
	version uint64
}

// NewVault checks the options. It opens no socket and no file.
func NewVault(o VaultOptions) (*Vault, error) {
	fail := func(err error) (*Vault, error) { return nil, fmt.Errorf("escrow %s: %w", o.Name, err) }
	u, err := url.Parse(o.Address)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http":
		return fail(errors.New("address is no URL of a Vault server"))
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return fail(errCleartext)
	case o.Mount == "" || o.Path == "":
		return fail(errors.New("mount and path are needed"))
	case o.TokenFile == "" && (o.RoleIDFile == "" || o.SecretIDFile == ""):
		return fail(errors.New("a token file is needed, or those of a role id and a secret id"))
	}
	seal, err := newSealer(o.Part, o.SealTo, o.IdentityFiles...)
	if err != nil {
		return fail(err)
	}
	o.Timeout = cmp.Or(o.Timeout, vaultTimeout)
	v := &Vault{o: o, seal: seal, wire: &vaultWire{o: o}, saving: make(chan struct{}, 1), blind: map[string]vaultStored{}}
	v.tokens = &vaultTokens{o: o, wire: v.wire, asking: make(chan struct{}, 1)}
	return v, nil
}

func (v *Vault) Name() string { return v.o.Name }

func (v *Vault) Place() escrow.Place {
	p := escrow.Place{Kind: "vault-kv", Where: v.where() + " at " + v.o.Address, Domain: "the Vault at " + v.o.Address}
	if v.o.Namespace != "" {
		p.Where += " in " + v.o.Namespace
	}
	return p
}

func (v *Vault) where() string { return v.o.Mount + "/" + v.o.Path }

// Close ends the connections. The token stays, and ends with its time to live.
func (v *Vault) Close() error {
	v.wire.close()
	return nil
}

// folder is where a shelf's entries are.
func (v *Vault) folder(s escrow.Shelf) string {
	if s == escrow.Quarantine {
		return v.o.Path + quarantined
	}
	return v.o.Path + "-keys"
}

// The ids of copies: "current/3" is a version of <path>, "current/keys/<name>" and
// "quarantine/<name>" are entries.
const (
	vaultVersionID    = string(escrow.Current) + "/"
	vaultKeysID       = string(escrow.Current) + "/keys/"
	vaultQuarantineID = string(escrow.Quarantine) + "/"
)

func (v *Vault) copy(prefix, name string) escrow.Copy {
	c := escrow.Copy{Escrow: v.o.Name, ID: prefix + name, Shelf: escrow.Current}
	c.Fingerprint, c.Part = vaultClaim(name)
	if prefix == vaultQuarantineID {
		c.Shelf = escrow.Quarantine
	}
	return c
}

// vaultClaim is the fingerprint in an entry's name, "" where it names none, and which
// part of that key it is.
func vaultClaim(name string) (key.Fingerprint, escrow.PartOf) {
	name, _, _ = strings.Cut(name, "-")
	words := strings.Split(name, ".")
	f, err := key.ParseFingerprint(words[0])
	if err != nil {
		return "", escrow.PartOf{}
	}
	_, part, _ := cutSuffix(strings.Join(words[:min(3, len(words))], "."))
	return f, part
}

// numbered is the n-th name of a value's own entry.
func numbered(name string, n int) string {
	if n == 1 {
		return name
	}
	return name + "." + strconv.Itoa(n)
}

// vaultName tells whether a name can be a copy's entry: one path element that needs no
// escaping in a URL.
func vaultName(name string) bool {
	return name != "" && name != vaultMarker && len(name) <= 128 && strings.Trim(name, ".") != "" &&
		!strings.ContainsFunc(name, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
		})
}

// List needs the capability list on both folders, and read on what is in them and on
// <path>. It reads entries besides listing them: only they tell times, and which
// version of <path> is which key, so that no copy is listed twice.
func (v *Vault) List(ctx context.Context) ([]escrow.Copy, error) {
	fail := func(s escrow.Shelf, err error) ([]escrow.Copy, error) {
		if s == escrow.Quarantine {
			return nil, fmt.Errorf("cannot list %s/%s: %w", v.o.Mount, v.folder(s), err)
		}
		return nil, fmt.Errorf("cannot list %s: %w", v.where(), err)
	}
	names, err := v.entryNames(ctx, escrow.Current)
	if err == nil && !names[vaultMarker] {
		err = v.noMarker()
	}
	if err != nil {
		return fail(escrow.Current, err)
	}
	delete(names, vaultMarker)
	top, err := v.versions(ctx, names)
	if err != nil {
		return fail(escrow.Current, err)
	}
	own, err := v.entries(ctx, vaultKeysID, names)
	if err != nil {
		return fail(escrow.Current, err)
	}
	if names, err = v.entryNames(ctx, escrow.Quarantine); err != nil {
		return fail(escrow.Quarantine, err)
	}
	quarantined, err := v.entries(ctx, vaultQuarantineID, names)
	if err != nil {
		return fail(escrow.Quarantine, err)
	}
	rest := own
	if len(top) > 0 { // the first of them stays the first: it is what `latest` returns
		rest = slices.Concat(top[1:], own)
		top = top[:1]
	}
	newestFirst := func(a, b escrow.Copy) int { return b.Created.Compare(a.Created) }
	slices.SortStableFunc(rest, newestFirst)
	slices.SortStableFunc(quarantined, newestFirst)
	return slices.Concat(top, rest, quarantined), nil
}

func (v *Vault) noMarker() error {
	return fmt.Errorf("%w: not initialised, it has no %s/%s", escrow.ErrNoPlace, v.folder(escrow.Current), vaultMarker)
}

// versions lists what stands at <path>, newest first, and takes from names the own
// entries of the copies it lists.
func (v *Vault) versions(ctx context.Context, names map[string]bool) ([]escrow.Copy, error) {
	kv, err := v.engine(ctx)
	if err != nil {
		return nil, err
	}
	if kv == 1 {
		e, err := v.read(ctx, v.o.Path, 0)
		if errors.Is(err, escrow.ErrGone) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		name := entryName(e.stored)
		delete(names, name)
		c := v.copy(vaultKeysID, name)
		c.Created = e.created
		v.shut(&c, name)
		return []escrow.Copy{c}, nil
	}
	all, err := v.history(ctx, v.o.Path)
	if err != nil {
		return nil, err
	}
	var copies []escrow.Copy
	denied := false
	for _, h := range all {
		c := v.copy(vaultVersionID, strconv.FormatUint(h.version, 10))
		c.Created, c.Ends, c.Unreadable = h.created, h.ends, h.gone
		if c.Unreadable == "" && !denied && (len(names) > 0 || len(copies) == 0) {
			e, err := v.read(ctx, v.o.Path, h.version)
			switch {
			case errors.Is(err, escrow.ErrDenied): // what it is stays unknown, and is listed twice
				denied = true
			case errors.Is(err, escrow.ErrGone):
				continue // pushed out since
			case err != nil:
				return nil, err
			default:
				name := entryName(e.stored)
				delete(names, name)
				c.Unreadable = e.gone
				c.Fingerprint, c.Part = vaultClaim(name)
				v.shut(&c, name)
			}
		}
		copies = append(copies, c)
	}
	return copies, nil
}

// entries describes the entries of a folder, several at a time: each is a call.
func (v *Vault) entries(ctx context.Context, prefix string, names map[string]bool) ([]escrow.Copy, error) {
	var all []escrow.Copy
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if strings.HasSuffix(name, "/") || name == vaultMarker {
			continue // a folder of somebody's is nobody's copy
		}
		c := v.copy(prefix, name)
		if !vaultName(name) {
			if len(name) > 128 {
				sum := sha256.Sum256([]byte(name))
				name = strings.ToValidUTF8(name[:100], "") + "…" + hex.EncodeToString(sum[:8])
			}
			c.ID, c.Unreadable = prefix+escaped(name), "not named by keyguard"
		}
		all = append(all, c)
	}
	shown := bounded(all, func(c escrow.Copy) bool { return c.Fingerprint != "" })
	gone := make([]bool, len(shown))
	reads := 0
	g, gctx := crew.WithContext(ctx)
	g.SetLimit(vaultAtOnce)
	for i := range shown {
		c := &shown[i]
		name := strings.TrimPrefix(c.ID, prefix)
		if c.Unreadable != "" {
			continue
		}
		if reads++; reads > vaultReads {
			v.shut(c, name)
			continue
		}
		g.Go(func() error {
			e, err := v.read(gctx, v.folder(c.Shelf)+"/"+name, 0)
			switch {
			case errors.Is(err, escrow.ErrGone):
				gone[i] = true
			case errors.Is(err, escrow.ErrDenied): // it is there, says the list
			case err != nil:
				return err
			default:
				c.Created, c.Ends, c.Unreadable = e.created, e.ends, e.gone
			}
			v.shut(c, name)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var copies []escrow.Copy
	for i, c := range shown {
		if !gone[i] {
			copies = append(copies, c)
		}
	}
	return copies, nil
}

// shut marks a copy that is sealed, as far as the name of its entry tells.
func (v *Vault) shut(c *escrow.Copy, name string) {
	if fp, _ := vaultClaim(name); strings.Contains(name, "-") && fp != "" && c.Unreadable == "" {
		v.seal.shut(c)
	}
}

// Fetch needs the capability read.
func (v *Vault) Fetch(ctx context.Context, c escrow.Copy) (key.Key, key.Encoding, error) {
	fail := func(err error) (key.Key, key.Encoding, error) {
		return key.Key{}, "", fmt.Errorf("cannot fetch %q from %s: %w", clip(c.ID), v.where(), err)
	}
	e, name, err := v.find(ctx, c.ID)
	if err == nil && e.gone != "" {
		err = fmt.Errorf("%w: %s", escrow.ErrUnreadable, e.gone)
	}
	if err != nil {
		return fail(err)
	}
	k, enc, err := v.key(e.stored)
	if errors.Is(err, key.ErrMangled) {
		err = fmt.Errorf("%w, as `vault kv put … value=@FILE` does it", err)
	}
	if err != nil {
		return fail(err)
	}
	// In an entry of ours the name is all the checksum that raw bytes have.
	if fp, _ := vaultClaim(name); fp != "" && fp != k.Fingerprint() {
		_, _, err = fail(&escrow.MisnamedError{Says: fp, Holds: k.Fingerprint()})
	}
	return k, enc, err
}

// FetchLatest needs the capability read on <path>, and no other.
func (v *Vault) FetchLatest(ctx context.Context) (escrow.Copy, key.Key, key.Encoding, error) {
	fail := func(err error) (escrow.Copy, key.Key, key.Encoding, error) {
		return escrow.Copy{}, key.Key{}, "", fmt.Errorf("cannot read %s: %w", v.where(), err)
	}
	kv, err := v.engine(ctx)
	if err != nil {
		return fail(err)
	}
	e, err := v.read(ctx, v.o.Path, 0)
	switch {
	case errors.Is(err, escrow.ErrGone):
		return fail(errNoNewest)
	case errors.Is(err, escrow.ErrDenied): // the folders may be open to this host all the same
		return fail(fmt.Errorf("%w: %w", escrow.ErrUnreadable, err))
	case err != nil:
		return fail(err)
	case e.gone != "":
		return fail(fmt.Errorf("%w: %s", escrow.ErrUnreadable, e.gone))
	}
	k, enc, err := v.key(e.stored)
	if err != nil {
		return fail(err)
	}
	id := vaultKeysID + entryName(e.stored)
	if kv == 2 {
		id = vaultVersionID + strconv.FormatUint(e.version, 10)
	}
	return escrow.Copy{Escrow: v.o.Name, ID: id, Shelf: escrow.Current}, k, enc, nil
}

// find reads the entry that an id names, and returns the entry's name too: "" for a
// version of <path>, which is where people put keys by hand.
func (v *Vault) find(ctx context.Context, id string) (vaultEntry, string, error) {
	folder, name, keys := v.folder(escrow.Current), "", false
	if name, keys = strings.CutPrefix(id, vaultKeysID); !keys {
		var ok bool
		if name, ok = strings.CutPrefix(id, vaultQuarantineID); ok {
			folder = v.folder(escrow.Quarantine)
		} else {
			n := versionNumber(id)
			if n == 0 || !strings.HasPrefix(id, vaultVersionID) {
				return vaultEntry{}, "", escrow.ErrGone
			}
			kv, err := v.engine(ctx)
			if err == nil && kv == 1 {
				err = escrow.ErrGone
			}
			if err != nil {
				return vaultEntry{}, "", err
			}
			e, err := v.read(ctx, v.o.Path, n)
			return e, "", err
		}
	}
	if !vaultName(name) {
		return vaultEntry{}, "", escrow.ErrGone
	}
	kv, err := v.engine(ctx)
	if err != nil {
		return vaultEntry{}, "", err
	}
	e, err := v.read(ctx, folder+"/"+name, 0)
	if kv == 1 && keys && (errors.Is(err, escrow.ErrGone) || err == nil && entryName(e.stored) != name) {
		// What stands at <path> has no entry of its own yet, by a crash or as a person put it there,
		// and is listed by the name that this will have.
		if top, terr := v.read(ctx, v.o.Path, 0); terr == nil && entryName(top.stored) == name {
			return top, name, nil
		}
	}
	return e, name, err
}

// Init makes the marker. The engine itself is the operator's to mount.
func (v *Vault) Init(ctx context.Context) error {
	entry := v.folder(escrow.Current) + "/" + vaultMarker
	// One that was deleted still has its name, which is all that it is for.
	_, err := v.read(ctx, entry, 0)
	if errors.Is(err, escrow.ErrGone) {
		first := uint64(0)
		_, err = v.write(ctx, entry, map[string]any{
			managedBy: keyguard,
			"about":   "copies of the containarium master key at " + v.o.Path + "; keyguard's mark that this place is there, leave it",
		}, &first)
		if errors.Is(err, errChanged) || v.there(ctx, entry, err) {
			err = nil // somebody else was faster
		}
	}
	if err != nil {
		return fmt.Errorf("cannot initialise %s: %w", v.where(), err)
	}
	return nil
}

// Save needs the capabilities create and read, and update on <path>. On version 2 it
// stores without read, unverified.
func (v *Vault) Save(ctx context.Context, s escrow.Shelf, k key.Key) (escrow.Copy, error) {
	fail := func(err error) (escrow.Copy, error) {
		return escrow.Copy{}, fmt.Errorf("cannot save to %s: %w", v.where(), err)
	}
	if !slices.Contains(escrow.Shelves[:], s) {
		return fail(fmt.Errorf("no shelf %q", s))
	}
	data, err := v.seal.bytes(k)
	if err != nil {
		return fail(err)
	}
	defer clear(data)
	select {
	case v.saving <- struct{}{}:
		defer func() { <-v.saving }()
	case <-ctx.Done():
		return fail(contextError(ctx.Err()))
	}
	put := v.saveCurrent
	if s == escrow.Quarantine {
		put = v.saveQuarantine
	}
	fields := map[string]any{"value": base64.StdEncoding.EncodeToString(data), "fingerprint": string(k.Fingerprint())}
	for range vaultRaces {
		c, err := put(ctx, k, fields)
		c.Fingerprint = k.Fingerprint()
		switch {
		case errors.Is(err, errChanged):
			continue
		case errors.Is(err, escrow.ErrUnverified):
			return c, fmt.Errorf("%s in %s: %w", c.ID, v.where(), err)
		case err != nil:
			return fail(err)
		}
		return c, nil
	}
	return fail(fmt.Errorf("%w: somebody else writes there all the time", escrow.ErrRefused))
}

func (v *Vault) saveCurrent(ctx context.Context, k key.Key, fields map[string]any) (escrow.Copy, error) {
	name := entryName(fields["value"].(string))
	same := func(stored string) bool { return v.same(stored, k) }
	id := func(version uint64) escrow.Copy {
		if version == 0 {
			return v.copy(vaultKeysID, name)
		}
		return v.copy(vaultVersionID, strconv.FormatUint(version, 10))
	}

	top, err := v.read(ctx, v.o.Path, 0)
	switch {
	case errors.Is(err, escrow.ErrDenied):
		return v.saveBlind(ctx, v.o.Path, v.folder(escrow.Current)+"/"+name, name, fields, id)
	case err != nil && !errors.Is(err, escrow.ErrGone):
		return escrow.Copy{}, err
	}
	there := err == nil && top.gone == "" && same(top.stored) && !(escrow.Copy{Created: top.created, Ends: top.ends}).Ending(time.Now())
	if there {
		// The entry of its own was written after Init, and after <path>.
		e, err := v.read(ctx, v.folder(escrow.Current)+"/"+name, 0)
		if err == nil && e.gone == "" && same(e.stored) {
			return id(top.version), nil
		}
		fields = map[string]any{"value": top.stored, "fingerprint": string(k.Fingerprint())}
	}
	names, err := v.marked(ctx)
	if err != nil {
		return escrow.Copy{}, err
	}
	if !there {
		if err := v.keepAll(ctx, top, names); err != nil {
			return escrow.Copy{}, fmt.Errorf("keeping what stands there: %w", err)
		}
		// A crash from here on: the next Save finds the key at <path>.
		if top, err = v.replace(ctx, v.o.Path, top.version, fields, same); err != nil {
			return id(top.version), err
		}
	}
	if _, err := v.ensure(ctx, escrow.Current, name, fields, same); err != nil {
		return id(top.version), err
	}
	return id(top.version), nil
}

func (v *Vault) saveQuarantine(ctx context.Context, k key.Key, fields map[string]any) (escrow.Copy, error) {
	name := entryName(fields["value"].(string))
	entry := v.folder(escrow.Quarantine) + "/" + name
	c := v.copy(vaultQuarantineID, name)
	same := func(stored string) bool { return v.same(stored, k) }
	e, err := v.read(ctx, entry, 0)
	switch {
	case errors.Is(err, escrow.ErrDenied):
		return v.saveBlind(ctx, "", entry, name, fields, func(uint64) escrow.Copy { return c })
	case err == nil && e.gone == "" && same(e.stored):
		return c, nil
	case err != nil && !errors.Is(err, escrow.ErrGone):
		return escrow.Copy{}, err
	}
	if _, err := v.marked(ctx); err != nil {
		return escrow.Copy{}, err
	}
	name, err = v.ensure(ctx, escrow.Quarantine, name, fields, same)
	return v.copy(vaultQuarantineID, name), err
}

// saveBlind stores where reading is denied: at path, "" for not there, and once in an
// entry of the key's own. Without reading, version 1 could write over anybody's only copy.
func (v *Vault) saveBlind(ctx context.Context, path, own, name string, fields map[string]any, id func(uint64) escrow.Copy) (escrow.Copy, error) {
	kv, err := v.engine(ctx)
	if err == nil && kv == 1 {
		err = fmt.Errorf("%w to read what a write would replace", escrow.ErrDenied)
	}
	if err == nil {
		_, err = v.marked(ctx)
	}
	if err != nil && (kv == 1 || !errors.Is(err, escrow.ErrDenied)) {
		return escrow.Copy{}, err
	}
	first := uint64(0)
	if _, err := v.write(ctx, own, fields, &first); err != nil && !errors.Is(err, errChanged) && !v.there(ctx, own, err) {
		return escrow.Copy{}, err
	}
	v.mu.Lock()
	last := v.blind[path]
	v.mu.Unlock()
	// What this process put there is not put there again only because it cannot be compared.
	if path != "" && last.name != name {
		// An engine may want to be told what a write replaces (cas_required), which who may not
		// read the value may mostly ask.
		var replaces *uint64
		switch all, err := v.history(ctx, path); {
		case err == nil && len(all) > 0:
			replaces = &all[0].version
		case err == nil:
			replaces = &first
		case !errors.Is(err, escrow.ErrDenied):
			return escrow.Copy{}, err
		}
		// Who may create and not update leaves what stands there the newest.
		if last.version, err = v.write(ctx, path, fields, replaces); err != nil && !v.there(ctx, path, err) {
			return escrow.Copy{}, err
		}
	}
	v.mu.Lock()
	v.blind[path] = vaultStored{name, last.version}
	v.mu.Unlock()
	return id(last.version), escrow.ErrUnverified
}

// there tells whether a write of an entry was refused because the entry is there: it may be
// created, and not changed.
func (v *Vault) there(ctx context.Context, entry string, err error) bool {
	if !errors.Is(err, escrow.ErrDenied) {
		return false
	}
	path, _, err := v.path(ctx, "data", entry)
	if err != nil {
		return false
	}
	may, err := v.capabilities(ctx, []string{path})
	return err == nil && slices.Contains(may[path], "create") && !slices.Contains(may[path], "update")
}

// marked lists the names in the current shelf's folder, if the marker is among them.
// Where listing is denied the marker itself is asked for, and the names are nil.
func (v *Vault) marked(ctx context.Context) (map[string]bool, error) {
	names, err := v.entryNames(ctx, escrow.Current)
	if errors.Is(err, escrow.ErrDenied) {
		_, err = v.read(ctx, v.folder(escrow.Current)+"/"+vaultMarker, 0)
		if errors.Is(err, escrow.ErrGone) {
			err = v.noMarker()
		}
		return nil, err
	}
	if err == nil && !names[vaultMarker] {
		err = v.noMarker()
	}
	return names, err
}

// keepAll gives everything that stands at <path> an entry of its own, before a write may
// push it out (law 3). What was deleted there in Vault cannot be read, and so not kept.
func (v *Vault) keepAll(ctx context.Context, top vaultEntry, names map[string]bool) error {
	all := []vaultEntry{top}
	if top.version > 1 {
		var err error
		if all, err = v.history(ctx, v.o.Path); errors.Is(err, escrow.ErrDenied) {
			all = []vaultEntry{top}
		} else if err != nil {
			return err
		}
	}
	for _, e := range all {
		if e.version != top.version && e.gone == "" {
			var err error
			if e, err = v.read(ctx, v.o.Path, e.version); errors.Is(err, escrow.ErrGone) {
				continue
			} else if err != nil {
				return err
			}
		} else if e.gone == "" {
			e = top
		}
		if e.gone != "" || e.fields == nil || e.version != top.version && names[entryName(e.stored)] {
			continue
		}
		_, err := v.ensure(ctx, escrow.Current, entryName(e.stored), e.fields, func(s string) bool { return v.alike(s, e.stored) })
		if err != nil {
			return err
		}
	}
	return nil
}

// ensure makes sure that an entry named after a value holds it, and is not about to be deleted
// by the store; it reads it back, and returns the entry's name: the plain one where that is free
// or holds the value, else the last numbered one, or the next. Nothing that stands under a name
// is written over. Where it is another value, which only somebody else can have put there, that
// gets an entry named after it besides.
func (v *Vault) ensure(ctx context.Context, s escrow.Shelf, name string, fields map[string]any, same func(string) bool) (string, error) {
	n, races := 1, 0
	for range vaultRaces {
		entry := v.folder(s) + "/" + numbered(name, n)
		e, err := v.read(ctx, entry, 0)
		switch {
		case err == nil && e.gone == "" && same(e.stored) && !(escrow.Copy{Created: e.created, Ends: e.ends}).Ending(time.Now()):
			return numbered(name, n), nil
		case err == nil:
			if aside := byDigest(e.stored); e.gone == "" && aside != name && !same(e.stored) {
				if _, err := v.ensure(ctx, s, aside, e.fields, func(s string) bool { return s == e.stored }); err != nil {
					return name, err
				}
			}
			if n > 1 {
				n++
				continue
			}
			names, err := v.entryNames(ctx, s)
			if err != nil && !errors.Is(err, escrow.ErrDenied) {
				return name, err
			}
			n = max(2, lastOf(name, names))
			continue
		case !errors.Is(err, escrow.ErrGone):
			return name, err
		}
		_, err = v.replace(ctx, entry, 0, fields, same)
		// Who may create and not update is told nothing of a race, but refused.
		if (errors.Is(err, errChanged) || v.there(ctx, entry, err)) && races < vaultRaces {
			races++ // somebody was faster: what did he put there?
			continue
		}
		return numbered(name, n), err
	}
	return name, fmt.Errorf("%w: %s/%s and those after it hold something else", escrow.ErrRefused, v.folder(s), name)
}

// lastOf is the highest number among the names of a value's own entries.
func lastOf(name string, names map[string]bool) int {
	last := 0
	for other := range names {
		if digits, ok := strings.CutPrefix(other, name+"."); ok {
			if n, err := strconv.Atoi(digits); err == nil && numbered(name, n) == other {
				last = max(last, n)
			}
		}
	}
	return last
}

// Renew gives what ends soon in the two folders another entry (delete_version_after).
func (v *Vault) Renew(ctx context.Context) error {
	copies, err := v.List(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for i, c := range copies {
		if !c.Ending(time.Now()) || c.Unreadable != "" && !c.Sealed || i == 0 && c.Shelf == escrow.Current {
			continue
		}
		e, _, err := v.find(ctx, c.ID)
		if err == nil && e.gone == "" {
			_, err = v.ensure(ctx, c.Shelf, entryName(e.stored), e.fields, func(s string) bool { return v.alike(s, e.stored) })
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("cannot renew %s in %s, which the store deletes at %s: %w",
				c.ID, v.where(), printable.Time(c.Ends), err))
		}
	}
	return errors.Join(failed...)
}

// replace writes over one version of an entry, and reads it back.
func (v *Vault) replace(ctx context.Context, entry string, version uint64, fields map[string]any, same func(string) bool) (vaultEntry, error) {
	version, err := v.write(ctx, entry, fields, &version)
	if errors.Is(err, escrow.ErrUnreachable) {
		// It may have been stored all the same, the answer lost. Writing is not repeated,
		// looking is: equal bytes there are what was asked for.
		if e, again := v.read(ctx, entry, 0); again == nil && e.gone == "" && same(e.stored) {
			return e, nil
		}
	}
	if err != nil {
		return vaultEntry{}, err
	}
	e, err := v.read(ctx, entry, version)
	switch {
	case errors.Is(err, escrow.ErrDenied):
		return vaultEntry{version: version}, escrow.ErrUnverified
	case err != nil:
		return vaultEntry{}, fmt.Errorf("reading back %s: %w", entry, err)
	case e.gone != "" || !same(e.stored):
		return vaultEntry{}, fmt.Errorf("reading back %s: %w: other bytes", entry, escrow.ErrCorrupt)
	}
	return e, nil
}

// key reads a value.
func (v *Vault) key(stored string) (key.Key, key.Encoding, error) { return v.seal.text(stored) }

// same tells whether a value is what a Save of k would store.
func (v *Vault) same(stored string, k key.Key) bool { return v.seal.sameText(stored, k) }

// alike tells whether two values hold one key in one form: sealing makes another text each
// time. Of what this host cannot open the claim is believed.
func (v *Vault) alike(a, b string) bool {
	if a == b || entryName(a) != entryName(b) {
		return a == b
	}
	k, _, err := v.key(a)
	defer k.Wipe()
	o, _, oerr := v.key(b)
	defer o.Wipe()
	if err != nil || oerr != nil {
		return errors.Is(err, escrow.ErrSealed) && errors.Is(oerr, escrow.ErrSealed)
	}
	return k.Equal(o)
}

// entryName is the name of a value's own entry: the fingerprint of what we could have
// written ourselves, else the digest of the whole value.
func entryName(stored string) string {
	b := fromText(stored)
	defer clear(b)
	if k, err := key.New(b); err == nil {
		defer k.Wipe()
		return string(k.Fingerprint())
	}
	if p, err := key.ParsePart(b); err == nil {
		defer p.Wipe()
		return string(p.Of) + suffix(escrow.PartOf{Need: p.Need, Number: p.Number})
	}
	if fp, digest := claimed(b); fp != "" && hexDigits(digest) {
		return string(fp) + "-" + digest
	}
	return byDigest(stored)
}

func byDigest(stored string) string {
	sum := sha256.Sum256([]byte(stored))
	return "value-" + hex.EncodeToString(sum[:8])
}

func hexDigits(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == 16
}
