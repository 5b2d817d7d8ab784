package unit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/internal/run"
)

// Told is an event as keyguard told it to the journal (Record).
type Told struct {
	Time                             time.Time
	Event, Fingerprint, Escrow, Copy string
	Text                             string
}

// History hands on what keyguard has told the journal since a time, the oldest first. Only what
// root's processes wrote counts (_UID of systemd.journal-fields(7)): anybody can write to the
// journal under any identifier.
func History(ctx context.Context, since time.Time, tell func(Told)) error {
	return history(ctx, since, tell)
}

// FollowHistory is History that goes on with what keyguard tells until ctx ends.
func FollowHistory(ctx context.Context, since time.Time, tell func(Told)) error {
	return history(ctx, since, tell, "--follow")
}

func history(ctx context.Context, since time.Time, tell func(Told), flags ...string) error {
	args := append(flags, "--output=json", "--quiet", "--lines=all", "--since=@"+strconv.FormatInt(since.Unix(), 10),
		"--output-fields=MESSAGE,KEYGUARD_EVENT,KEYGUARD_FINGERPRINT,KEYGUARD_ESCROW,KEYGUARD_COPY")
	err := run.Follow(ctx, run.Spec{Path: "journalctl", Args: append(args, "_UID=0", "SYSLOG_IDENTIFIER=keyguard")}, func(text []byte) {
		if t, ok := parseTold(text); ok {
			tell(t)
		}
	})
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(ctx.Err(), context.Canceled):
		return nil
	case ctx.Err() != nil: // what was told is not all
		err = ctx.Err()
	}
	return fmt.Errorf("cannot read keyguard's journal: %w", err)
}

// parseTold reads one object of journalctl --output=json.
func parseTold(text []byte) (Told, bool) {
	var e struct {
		Message     any    `json:"MESSAGE"`
		Event       string `json:"KEYGUARD_EVENT"`
		Fingerprint string `json:"KEYGUARD_FINGERPRINT"`
		Escrow      string `json:"KEYGUARD_ESCROW"`
		Copy        string `json:"KEYGUARD_COPY"`
		Time        string `json:"__REALTIME_TIMESTAMP"` // microseconds since 1970
	}
	if json.Unmarshal(text, &e) != nil || e.Event == "" {
		return Told{}, false
	}
	at, err := strconv.ParseInt(e.Time, 10, 64)
	if err != nil {
		return Told{}, false
	}
	message, _ := e.Message.(string) // an array of numbers where it is not UTF-8
	return Told{time.UnixMicro(at), e.Event, e.Fingerprint, e.Escrow, e.Copy, message}, true
}
