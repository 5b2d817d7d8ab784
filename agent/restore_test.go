package agent_test

import (
	"context"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
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
			h := newHost(t, rowstest.New(t).Database(t), 1)
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
