package unit

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/internal/run"
)

// Said is what a line of the daemon's journal tells about its key.
type Said string

// The daemon's own lines (its log, identifier containarium), systemd's that it is being
// started, and the place where the past ends.
const (
	Starting Said = "starting"      // a new start begins
	Ready    Said = "ready"         // it has read a key: "Secrets store ready"
	Minted   Said = "minted"        // it made one: "NEW MASTER KEY generated"
	Empty    Said = "empty keyfile" // it found 0 bytes and runs without secrets
	Failed   Said = "failed"        // it could not load the key for another reason
	CaughtUp Said = "caught up"     // no line: all of the past was told, what follows is news
)

// Line is one line that tells something.
type Line struct {
	Said       Said
	Invocation string    // of the unit, systemd.exec(5) $INVOCATION_ID
	Time       time.Time // when the journal got it, by this host's clock
}

// startingMessage is the MESSAGE_ID of "Starting …", SD_MESSAGE_UNIT_STARTING of sd-messages(3).
const startingMessage = "7d4958e842da4a758f6c1cdc7b36dcc5"

// BootID is the id of this boot, 32 hex digits, "" where it cannot be told. The watcher
// has it from its unit: in a container the /proc of its sandbox shows the host's.
func BootID() string {
	if id := os.Getenv("KEYGUARD_BOOT_ID"); id != "" {
		return id
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(strings.TrimSpace(string(id)), "-", "")
}

// Follow reads the daemon's journal from the beginning of this boot on, hands on the
// lines that tell something about the key, then CaughtUp, and then such lines as they
// come, until ctx ends. It runs journalctl(1): the library for reading journals needs
// cgo.
func Follow(ctx context.Context, names []string, line func(Line)) error {
	args := []string{"--lines=all", "--output=json", "--quiet",
		"--output-fields=MESSAGE,MESSAGE_ID,INVOCATION_ID,_SYSTEMD_INVOCATION_ID"}
	for _, n := range names {
		args = append(args, "--unit="+n)
	}
	cursor := ""
	hand := func(text []byte) {
		l, at, ok := parseLine(text)
		if at != "" {
			cursor = at
		}
		if ok {
			line(l)
		}
	}
	// --follow alone means this boot too (systemd 252), by the id that /proc shows.
	boot := "--boot"
	if id := BootID(); id != "" {
		boot += "=" + id
	}
	args = append(args, boot)
	err := run.Follow(ctx, run.Spec{Path: "journalctl", Args: args}, hand)
	if !errors.Is(err, io.EOF) {
		return err
	}
	line(Line{Said: CaughtUp})
	args = append(args, "--follow")
	if cursor != "" { // else nothing was ever logged
		args = append(args, "--after-cursor="+cursor)
	}
	return run.Follow(ctx, run.Spec{Path: "journalctl", Args: args}, hand)
}

// parseLine reads one object of journalctl --output=json, and where in the journal it
// stands. MESSAGE is an array of numbers where it is not UTF-8, and then none of the
// daemon's.
func parseLine(text []byte) (l Line, cursor string, ok bool) {
	var e struct {
		Message   any    `json:"MESSAGE"`
		ID        string `json:"MESSAGE_ID"`
		OfUnit    string `json:"INVOCATION_ID"` // in systemd's own lines about the unit
		OfProcess string `json:"_SYSTEMD_INVOCATION_ID"`
		Time      string `json:"__REALTIME_TIMESTAMP"` // microseconds since 1970
		Cursor    string `json:"__CURSOR"`
	}
	if json.Unmarshal(text, &e) != nil {
		return Line{}, "", false
	}
	l = Line{Said: said(e.Message), Invocation: e.OfProcess}
	if e.ID == startingMessage && e.OfUnit != "" {
		l = Line{Said: Starting, Invocation: e.OfUnit}
	}
	if at, err := strconv.ParseInt(e.Time, 10, 64); err == nil {
		l.Time = time.UnixMicro(at)
	}
	return l, e.Cursor, l.Said != "" && l.Invocation != ""
}

// said tells what a message of the daemon's says, "" for nothing about its key.
func said(message any) Said {
	text, ok := message.(string)
	if !ok {
		return ""
	}
	failed := strings.Contains(text, "Failed to load secrets master key")
	switch {
	case strings.Contains(text, "NEW MASTER KEY generated"):
		return Minted
	case strings.Contains(text, "Secrets store ready"):
		return Ready
	case failed && strings.Contains(text, "has 0 bytes"):
		return Empty
	case failed:
		return Failed
	}
	return ""
}
