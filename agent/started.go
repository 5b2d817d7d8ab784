package agent

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// left is what prestart left for a start of the daemon, as Host.Left has it.
type left struct {
	Invocation string          `json:"invocation"` // $INVOCATION_ID of systemd.exec(5)
	Key        key.Fingerprint `json:"fingerprint"`
}

// NoteLeft takes down which key a start of the daemon finds in the keyfile's place. Without an
// invocation nobody could tell which start that was, and nothing is written.
func NoteLeft(h *Host, invocation string, f key.Fingerprint) error {
	if h.Left == "" || invocation == "" {
		return nil
	}
	data, err := json.Marshal(left{invocation, f})
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

// leftFor is the key that prestart left for a start, "" where it did not take that down.
func leftFor(h *Host, invocation string) key.Fingerprint {
	if h.Left == "" || invocation == "" {
		return ""
	}
	data, err := crew.Read(h.Left, 4<<10)
	var l left
	if err != nil || json.Unmarshal(data, &l) != nil || l.Invocation != invocation {
		return ""
	}
	return l.Key
}
