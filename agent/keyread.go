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

// keyRead is the key that the daemon read (ledger.StartedOn), or made (ledger.Minted), at a start
// of which it told at a time, "" where nobody can tell: the keyfile's, where nobody has touched it
// since; else what the watcher wrote down of that start, or what keyguard found in place when it
// was the first to touch it; else, of one that it read, what prestart left for that start. What
// was known then is no answer: that start need not have asked keyguard.
func (o *observation) keyRead(event ledger.Event, invocation string, at time.Time) key.Fingerprint {
	if o.untouchedSince(at) {
		return o.evidence.Keyfile.Key
	}
	for _, e := range o.history().Entries {
		stood := e.Old
		if e.Event == ledger.Exposed {
			stood = e.Fingerprint
		}
		switch {
		case (e.Event == ledger.StartedOn || e.Event == ledger.Minted) && e.Invocation == invocation && invocation != "" && e.Fingerprint != "":
			return e.Fingerprint
		case stood != "" && e.Time.After(at) && !e.Untouched.IsZero() && !e.Untouched.After(at):
			return stood
		}
	}
	if event == ledger.Minted {
		return ""
	}
	return o.leftFor(invocation, at)
}

// namedBefore tells whether the ledger named the keyfile's key before a time.
func (o *observation) namedBefore(at time.Time) bool {
	return slices.ContainsFunc(o.history().Entries, func(e ledger.Entry) bool {
		return e.Fingerprint == o.evidence.Keyfile.Key && e.Time.Before(at)
	})
}

// untouchedSince tells whether what the daemon read at a time is what is there.
func (o *observation) untouchedSince(at time.Time) bool {
	return o.evidence.Keyfile.Good && !o.seen.Changed.After(at)
}

// saying is how long after it has read the keyfile the daemon's word of it may stand in the
// journal.
const saying = 10 * time.Second

// loadable tells whether a keyfile that the daemon would load had stood there for a while at a
// time, and nobody has touched it since: that it was empty then is no word of the daemon's,
// which prints what tenants chose, and of which journald makes a line for each that is in it.
func (o *observation) loadable(at time.Time) bool {
	return !at.IsZero() && o.seen.Loose == "" && o.untouchedSince(at.Add(-saying))
}

// Loadable is whether the daemon cannot have found the keyfile empty at a time, and has little
// reason not to have loaded it.
func Loadable(h *Host, at time.Time) bool {
	o, err := h.observe()
	if err != nil {
		return false
	}
	defer o.close()
	return o.loadable(at)
}

// KeyRead is the key that the daemon read (ledger.StartedOn), or made (ledger.Minted), at a start
// of which it told at a time, "" where nobody can tell.
func KeyRead(h *Host, event ledger.Event, invocation string, at time.Time) key.Fingerprint {
	o, err := h.observe()
	if err != nil {
		return ""
	}
	defer o.close()
	return o.keyRead(event, invocation, at)
}

// NoteKeyRead records in the ledger, once for each start of the daemon, which key it read
// (ledger.StartedOn) or made (ledger.Minted).
func NoteKeyRead(h *Host, event ledger.Event, invocation string, f key.Fingerprint) error {
	if invocation == "" {
		return nil // nobody could tell which start that was
	}
	r, err := h.Ledger.Read()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(r.Entries, func(e ledger.Entry) bool { return e.Event == event && e.Invocation == invocation }) {
		return nil
	}
	return h.Append(ledger.Entry{Event: event, Fingerprint: f, Invocation: invocation})
}

// left is what prestart left for a start of the daemon, as Host.Left has it.
type left struct {
	Invocation string          `json:"invocation"` // $INVOCATION_ID of systemd.exec(5)
	Key        key.Fingerprint `json:"fingerprint"`
	At         time.Time       `json:"at"` // by the host's clock
}

// StartTakes is how long after its start the daemon may be about to read its key.
const StartTakes = 15 * time.Minute

// NoteLeft records in Host.Left which key a start of the daemon finds in the keyfile's place. Without an
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
// or not at all: "" where that was not recorded, or something tells that the keyfile was
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
