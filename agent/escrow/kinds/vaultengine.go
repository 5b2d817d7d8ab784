package kinds

// This file is Vault's KV engine as its API has it, in both of its versions; vault.go makes
// shelves of it, and vaultclient.go carries the calls.

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	vault "github.com/hashicorp/vault/api"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

// vaultEntry is an entry as it was read.
type vaultEntry struct {
	stored  string         // its field `value`, "" where it has none
	fields  map[string]any // all of them
	version uint64         // 0 on version 1
	created time.Time
	gone    string    // "deleted" or Destroyed: it is there and cannot be read
	ends    time.Time // when the engine will delete it by itself, zero for never
}

// engine asks which version the KV engine is, once. The question needs no right but any
// one below the mount. Servers that do not answer it are asked for the marker in both ways.
func (v *Vault) engine(ctx context.Context) (int, error) {
	v.mu.Lock()
	kv := v.kv
	v.mu.Unlock()
	switch {
	case strings.Contains(v.where(), "{"):
		return 0, fmt.Errorf("%w: not initialised, %s still has to be expanded", escrow.ErrNoPlace, v.where())
	case ctx.Err() != nil:
		return 0, contextError(ctx.Err())
	case kv != 0:
		return kv, nil
	}
	a, err := v.call(ctx, "sys/internal/ui/mounts/"+v.where(), nil, nil)
	switch {
	case err == nil:
		kv, err = v.mounted(a.Data)
	case isAny(err, errNotFound, escrow.ErrDenied):
		kv, err = v.guess(ctx)
	}
	if err != nil {
		return 0, err
	}
	v.mu.Lock()
	v.kv = kv
	v.mu.Unlock()
	return kv, nil
}

// mounted reads the description of a mount.
func (v *Vault) mounted(data map[string]any) (int, error) {
	kind, _ := data["type"].(string)
	path, _ := data["path"].(string)
	options, _ := data["options"].(map[string]any)
	switch {
	case path == "":
		return 0, fmt.Errorf("%w: it describes no engine", escrow.ErrNotStore)
	case path != v.o.Mount+"/":
		return 0, fmt.Errorf("%w: the engine is mounted at %q", escrow.ErrNoPlace, clip(path))
	case kind != "kv" && kind != "generic":
		return 0, fmt.Errorf("%w: %s is an engine of type %q, not kv", escrow.ErrRefused, v.o.Mount, clip(kind))
	case options["version"] == "2":
		return 2, nil
	}
	return 1, nil
}

// guess reads the marker as an entry of version 2 and of version 1. A policy for the
// one forbids the other; and version 2 says so where it is read as version 1.
func (v *Vault) guess(ctx context.Context) (int, error) {
	marker := v.folder(escrow.Current) + "/" + vaultMarker
	two, err2 := v.call(ctx, v.o.Mount+"/data/"+marker, nil, nil)
	if err2 != nil && !isAny(err2, errNotFound, escrow.ErrDenied, errInferred) {
		return 0, err2
	}
	if two != nil && two.Data["metadata"] != nil {
		return 2, nil
	}
	one, err1 := v.call(ctx, v.o.Mount+"/"+marker, nil, nil)
	switch {
	case versioned(one):
		return 2, nil
	case err1 == nil, errors.Is(err1, errNotFound):
		return 1, nil
	case isAny(err1, escrow.ErrDenied, errInferred) && errors.Is(err2, errNotFound):
		return 2, nil
	case errors.Is(err1, escrow.ErrDenied):
		return 0, fmt.Errorf("%w; %s may not be mounted at all", err1, v.o.Mount)
	}
	return 0, err1
}

// versioned tells an engine of version 2 that was asked as if it were of version 1: a
// 404 with a warning, or, to the vendor's helper, no error and no data.
func versioned(a *vault.Secret) bool {
	return a != nil && slices.ContainsFunc(a.Warnings, func(w string) bool { return strings.Contains(w, "versioned K/V") })
}

// path is where the API has an entry: of version 2 below "data" or "metadata".
func (v *Vault) path(ctx context.Context, kind, entry string) (string, int, error) {
	kv, err := v.engine(ctx)
	if kv == 2 {
		return v.o.Mount + "/" + kind + "/" + entry, kv, err
	}
	return v.o.Mount + "/" + entry, kv, err
}

// read reads an entry, or one version of it. What was deleted is there and cannot be
// read: a 404 with metadata. ErrGone is one without.
func (v *Vault) read(ctx context.Context, entry string, version uint64) (vaultEntry, error) {
	path, kv, err := v.path(ctx, "data", entry)
	if err != nil {
		return vaultEntry{}, err
	}
	var query url.Values
	if version > 0 && kv == 2 {
		query = url.Values{"version": {strconv.FormatUint(version, 10)}}
	}
	a, err := v.call(ctx, path, query, nil)
	if err != nil && (!errors.Is(err, errNotFound) || a == nil) {
		return vaultEntry{}, err
	}
	var e vaultEntry
	if kv == 1 {
		e.fields = a.Data
		created, _ := a.Data["created"].(string)
		e.created, _ = time.Parse(time.RFC3339Nano, created) // by hand, it has none
	} else {
		e.fields, _ = a.Data["data"].(map[string]any)
		if metadata, ok := a.Data["metadata"].(map[string]any); ok {
			if e.version, err = vaultNumber(metadata["version"]); err != nil || version > 0 && e.version != version {
				return vaultEntry{}, fmt.Errorf("%w: the store answers with version %v", escrow.ErrCorrupt, e.version)
			}
			e.describe(metadata)
			err = nil
		}
	}
	if err != nil {
		return vaultEntry{}, escrow.ErrGone
	}
	if e.fields == nil && e.gone == "" {
		return vaultEntry{}, fmt.Errorf("%w: an answer without data", escrow.ErrCorrupt)
	}
	e.stored, _ = e.fields["value"].(string)
	return e, nil
}

// describe reads what the metadata of a version says.
func (e *vaultEntry) describe(metadata map[string]any) {
	text := func(name string) time.Time {
		s, _ := metadata[name].(string)
		t, _ := time.Parse(time.RFC3339Nano, s) // "" where it does not apply
		return t
	}
	e.created = text("created_time")
	// A time ahead is when it will be deleted (delete_version_after).
	switch t := text("deletion_time"); {
	case metadata["destroyed"] == true:
		e.gone = escrow.Destroyed
	case t.After(time.Now()):
		e.ends = t
	case !t.IsZero():
		e.gone = "deleted " + printable.Time(t)
	}
}

func vaultNumber(n any) (uint64, error) {
	text, _ := n.(json.Number)
	return strconv.ParseUint(text.String(), 10, 64)
}

// history lists the versions of an entry that the engine still has, newest first.
func (v *Vault) history(ctx context.Context, entry string) ([]vaultEntry, error) {
	path, _, err := v.path(ctx, "metadata", entry)
	if err != nil {
		return nil, err
	}
	a, err := v.call(ctx, path, nil, nil)
	if errors.Is(err, errNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	versions, ok := a.Data["versions"].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%w: metadata without versions", escrow.ErrCorrupt)
	}
	var all []vaultEntry
	for n, metadata := range versions {
		var e vaultEntry
		about, ok := metadata.(map[string]any)
		if e.version, err = strconv.ParseUint(n, 10, 64); err != nil || !ok {
			return nil, fmt.Errorf("%w: the store speaks of version %q", escrow.ErrCorrupt, clip(n))
		}
		e.describe(about)
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b vaultEntry) int { return cmp.Compare(b.version, a.version) })
	return all, nil
}

// entryNames lists a shelf's folder: an empty one is a 404.
func (v *Vault) entryNames(ctx context.Context, s escrow.Shelf) (map[string]bool, error) {
	path, _, err := v.path(ctx, "metadata", v.folder(s))
	if err != nil {
		return nil, err
	}
	a, err := v.call(ctx, path, url.Values{"list": {"true"}}, nil)
	if errors.Is(err, errNotFound) {
		return map[string]bool{}, nil
	}
	if err != nil {
		return nil, err
	}
	list, ok := a.Data["keys"].([]any)
	if !ok {
		return nil, fmt.Errorf("%w: a list without names", escrow.ErrCorrupt)
	}
	names := map[string]bool{}
	for _, n := range list {
		name, ok := n.(string)
		if !ok {
			return nil, fmt.Errorf("%w: a name that is none", escrow.ErrCorrupt)
		}
		names[name] = true
	}
	return names, nil
}

// errChanged says that an entry is no longer the version that a write was to replace.
var errChanged = errors.New("changed in the meantime")

// write adds a version to an entry if the newest is still cas, 0 where there is none;
// nil writes whatever there is. Version 1 knows nothing of this, and keeps no times.
func (v *Vault) write(ctx context.Context, entry string, fields map[string]any, cas *uint64) (uint64, error) {
	path, kv, err := v.path(ctx, "data", entry)
	if err != nil {
		return 0, err
	}
	if kv == 1 {
		if fields["created"] == nil {
			fields = maps.Clone(fields)
			fields["created"] = time.Now().UTC().Format(time.RFC3339Nano)
		}
		_, err := v.call(ctx, path, nil, fields)
		return 0, err
	}
	body := map[string]any{"data": fields}
	if cas != nil {
		body["options"] = map[string]any{"cas": *cas}
	}
	a, err := v.call(ctx, path, nil, body)
	if err != nil {
		return 0, err
	}
	n, err := vaultNumber(a.Data["version"])
	if err != nil {
		return 0, fmt.Errorf("%w: stored as no version", escrow.ErrCorrupt)
	}
	return n, nil
}
