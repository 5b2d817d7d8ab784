package agent

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
)

// left is what prestart left for a start of the daemon, as Host.Left has it.
type left struct {
	Invocation string          `json:"invocation"` // $INVOCATION_ID of systemd.exec(5)
	Key        key.Fingerprint `json:"fingerprint"`
	At         time.Time       `json:"at"` // by the host's clock
}

// StartTakes is how long after its start the daemon may be about to read its key.
const StartTakes = 15 * time.Minute

// NoteLeft takes down which key a start of the daemon finds in the keyfile's place. Without an
// invocation nobody could tell which start that was, and nothing is written.
func NoteLeft(h *Host, invocation string, f key.Fingerprint) error {
	if h.Left == "" || invocation == "" {
		return nil
	}
	data, err := json.Marshal(left{invocation, f, h.Now()})
	if err == nil {
		err = crew.Try(filepath.Dir(h.Left), func() error {
			return durable.WriteFile(h.Left, append(data, '\n'), durable.Attr{Mode: 0o600, UID: -1, GID: -1})
		})
	}
	if err != nil {
		return fmt.Errorf("cannot take down which key the daemon finds: %w", err)
	}
	return nil
}

// leftFor is the key that prestart left for a start of the daemon that told of its key at a time,
// or not at all: "" where that was not taken down, or something tells that the keyfile was
// changed before the daemon read it.
func (o *observation) leftFor(invocation string, at time.Time) key.Fingerprint {
	if o.host.Left == "" || invocation == "" {
		return ""
	}
	data, err := crew.Read(o.host.Left, 4<<10)
	var l left
	if err != nil || json.Unmarshal(data, &l) != nil || l.Invocation != invocation {
		return ""
	}
	if at.IsZero() {
		at = l.At.Add(StartTakes)
	}
	between := func(t time.Time) bool { return t.After(l.At) && !t.After(at) }
	if between(o.seen.Changed) || slices.ContainsFunc(o.history().Entries, func(e ledger.Entry) bool {
		switch e.Event {
		case ledger.Installed, ledger.Parked, ledger.Restored, ledger.Imported:
			return between(e.Time) || between(e.Untouched)
		}
		return between(e.Untouched)
	}) {
		return ""
	}
	return l.Key
}
