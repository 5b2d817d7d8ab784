package unit

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/footprintai/containarium-keyguard/agent/internal/run"
)

// Said is what a line of the daemon's journal tells about its key.
type Said string

// The daemon's own lines (its log, identifier containarium), and systemd's that it is
// being started.
const (
	Starting Said = "starting"      // a new start begins
	Ready    Said = "ready"         // it has read a key: "Secrets store ready"
	Minted   Said = "minted"        // it made one: "NEW MASTER KEY generated"
	Empty    Said = "empty keyfile" // it found 0 bytes and runs without secrets
	Failed   Said = "failed"        // it could not load the key for another reason
)

// Line is one line that tells something.
type Line struct {
	Said       Said
	Invocation string // of the unit, systemd.exec(5) $INVOCATION_ID
}

// startingMessage is the MESSAGE_ID of "Starting …", SD_MESSAGE_UNIT_STARTING of sd-messages(3).
const startingMessage = "7d4958e842da4a758f6c1cdc7b36dcc5"

// Follow reads the daemon's journal from the beginning of this boot on and goes on
// following it, until ctx ends. It hands on the lines that tell something about the
// key. It runs journalctl(1): the library for reading journals needs cgo.
func Follow(ctx context.Context, names []string, line func(Line)) error {
	args := []string{"--follow", "--lines=all", "--boot", "--output=json", "--quiet",
		"--output-fields=MESSAGE,MESSAGE_ID,INVOCATION_ID,_SYSTEMD_INVOCATION_ID"}
	for _, n := range names {
		args = append(args, "--unit="+n)
	}
	return run.Follow(ctx, run.Spec{Path: "journalctl", Args: args}, func(text []byte) {
		if l, ok := parseLine(text); ok {
			line(l)
		}
	})
}

// parseLine reads one object of journalctl --output=json. MESSAGE is an array of
// numbers where it is not UTF-8, and then none of the daemon's.
func parseLine(text []byte) (Line, bool) {
	var e struct {
		Message   any    `json:"MESSAGE"`
		ID        string `json:"MESSAGE_ID"`
		OfUnit    string `json:"INVOCATION_ID"` // in systemd's own lines about the unit
		OfProcess string `json:"_SYSTEMD_INVOCATION_ID"`
	}
	if json.Unmarshal(text, &e) != nil {
		return Line{}, false
	}
	if e.ID == startingMessage && e.OfUnit != "" {
		return Line{Starting, e.OfUnit}, true
	}
	message, ok := e.Message.(string)
	if !ok {
		return Line{}, false
	}
	failed := strings.Contains(message, "Failed to load secrets master key")
	switch {
	case strings.Contains(message, "NEW MASTER KEY generated"):
		return Line{Minted, e.OfProcess}, true
	case strings.Contains(message, "Secrets store ready"):
		return Line{Ready, e.OfProcess}, true
	case failed && strings.Contains(message, "has 0 bytes"):
		return Line{Empty, e.OfProcess}, true
	case failed:
		return Line{Failed, e.OfProcess}, true
	}
	return Line{}, false
}
