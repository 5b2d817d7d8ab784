package agent_test

import (
	"context"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// TestRestoreBesideTheWatcher: the watcher puts the key back while a person restores or
// imports it, and the person is not told that somebody else writes the keyfile.
func TestRestoreBesideTheWatcher(t *testing.T) {
	a := testKey("a")
	for name, restore := range map[string]func(*host) (agent.RestoreResult, error){
		"restore": func(h *host) (agent.RestoreResult, error) {
			return agent.Restore(t.Context(), &h.Host, agent.RestoreOptions{})
		},
		"import": func(h *host) (agent.RestoreResult, error) {
			return agent.Import(t.Context(), &h.Host, a.Clone(), agent.ImportOptions{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, server.Cluster(t).Database(t), 1)
			h.upsert(a, "ONE")
			h.must(save(&h.Host, a))
			open := h.OpenRows
			h.OpenRows = func(ctx context.Context, o rows.Options) (agent.Rows, error) {
				if len(h.content()) == 0 {
					h.write(a.UnsafeBytes())
				}
				return open(ctx, o)
			}
			r, err := restore(h)
			if err != nil || r.Installed || r.Source != agent.FromKeyfile || !h.holds(a) {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

// TestRestoreHearsNoSilence: a copy may be where nobody answers, so that nobody is told that
// there is none (law 6).
func TestRestoreHearsNoSilence(t *testing.T) {
	db := server.Cluster(t).Database(t)
	for name, test := range map[string]struct {
		opts agent.RestoreOptions
		also bool // another escrow answers, with a key that opens nothing
		up   bool
	}{
		"all of them":               {},
		"the one that is named":     {opts: agent.RestoreOptions{From: "usb0"}},
		"beside one that is no use": {also: true, up: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, db, 2)
			h.rowsUnder(testKey("a"))
			h.up = test.up
			if test.also {
				h.save(1, escrow.Current, testKey("b"))
			}
			trouble(h, 0).list = escrow.ErrUnreachable
			r, err := agent.Restore(t.Context(), &h.Host, test.opts)
			if !errors.Is(err, agent.ErrUnheard) || errors.Is(err, agent.ErrNoUsableCopy) || !errors.Is(err, escrow.ErrUnreachable) {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

// TestRestoreDryOfAnImmutableKeyfile: what would not go in is not said to.
func TestRestoreDryOfAnImmutableKeyfile(t *testing.T) {
	h := newHost(t, server.Cluster(t).Database(t), 1)
	a, other := testKey("a"), testKey("other")
	h.upsert(a, "ONE")
	h.save(0, escrow.Current, a)
	h.write(other.UnsafeBytes())
	flag(h, "etc/secrets.key", unix.STATX_ATTR_IMMUTABLE)
	for _, dry := range []bool{true, false} {
		r, err := agent.Restore(t.Context(), &h.Host, agent.RestoreOptions{DryRun: dry})
		if !errors.Is(err, keyfile.ErrImmutable) || r.Installed {
			t.Errorf("dry %t: %+v, %v", dry, r, err)
		}
	}
}

// TestRestoreDuringARotation: what a person names goes in only where a start would take it.
func TestRestoreDuringARotation(t *testing.T) {
	db := server.Cluster(t).Database(t)
	old, fresh := testKey("old"), testKey("new")
	for name, test := range map[string]struct {
		under   key.Key
		up      bool
		restore func(*host) (agent.RestoreResult, error)
		err     error
	}{
		"the rows cannot be asked": {under: fresh, err: agent.ErrUnsure, restore: func(h *host) (agent.RestoreResult, error) {
			return agent.Restore(t.Context(), &h.Host, agent.RestoreOptions{From: "usb0"})
		}},
		"a key that is typed in, and the rows cannot be asked": {under: fresh, err: agent.ErrUnsure, restore: func(h *host) (agent.RestoreResult, error) {
			return agent.Import(t.Context(), &h.Host, old.Clone(), agent.ImportOptions{})
		}},
		"the rows are under it": {under: old, up: true, restore: func(h *host) (agent.RestoreResult, error) {
			return agent.Restore(t.Context(), &h.Host, agent.RestoreOptions{From: "usb0"})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, db, 1)
			h.rowsUnder(test.under)
			h.save(0, escrow.Current, old)
			h.must(prove(&h.Host, old))
			h.must(h.Ledger.Append(ledger.Entry{Event: ledger.RotationOpen, Old: old.Fingerprint(), Fingerprint: fresh.Fingerprint()},
				ledger.Entry{Event: ledger.CommitBegun}))
			h.must(os.WriteFile(h.Keyfile.Path+".next", fresh.UnsafeBytes(), 0o400))
			h.up = test.up
			r, err := test.restore(h)
			if !errors.Is(err, test.err) || r.Installed != (test.err == nil) || h.holds(old) != r.Installed {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}
