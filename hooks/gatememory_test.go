package hooks

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
)

// What the escrows answered is forgotten where a key was put in place, and where the watcher
// leaves that to the next start: the first start of a host asked in vain else, and parked.
func TestRemember(t *testing.T) {
	for name, tt := range map[string]struct {
		action decide.Action
		failed error
		kept   bool
	}{
		"the next start makes the first key":     {action: decide.Make},
		"the next start puts the key in place":   {action: decide.Install},
		"the key could not be put in place":      {decide.Install, fmt.Errorf("%w: immutable", agent.ErrNotPlaced), true},
		"the first key could not be made":        {decide.Make, fmt.Errorf("%w: full", agent.ErrNotPlaced), true},
		"nobody knows which key belongs there":   {action: decide.Doubt, kept: true},
		"it was put in place, and not recorded":  {action: decide.Install, failed: errors.New("no room")},
		"the keyfile's key opens the rows still": {action: decide.Pass, kept: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := recall(t.TempDir(), "about", func() (string, time.Duration) { return "boot", time.Hour })
			m.Escrows["gcp"], m.asked = &escrowMemory{Last: time.Hour}, true
			if err := m.save(); err != nil {
				t.Fatal(err)
			}
			r := agent.GuardResult{Decision: decide.Decision{Action: tt.action}}
			remember(m, &r, tt.failed)
			if _, err := os.Stat(filepath.Join(filepath.Dir(m.path), backoffFile)); (err == nil) != tt.kept || len(r.Trouble) > 0 {
				t.Errorf("kept: %t, %+v", err == nil, r.Trouble)
			}
		})
	}
}
