package unit

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/internal/run"
)

// Said is what a line of the daemon's journal tells about its key.
type Said string

// The daemon's own lines (its log, identifier containarium), systemd's that it is being
// started, and the place where the past ends.
const (
	Starting  Said = "starting"      // a new start begins, or has begun
	Ready     Said = "ready"         // it has read a key: "Secrets store ready"
	Minted    Said = "minted"        // it made one: "NEW MASTER KEY generated"
	Loaded    Said = "loaded"        // it has read a key, whatever became of its secrets then
	Disabled  Said = "disabled"      // it has read a key, and runs without secrets all the same
	Empty     Said = "empty keyfile" // it found 0 bytes and runs without secrets
	Failed    Said = "failed"        // it could not load the key for another reason
	Untouched Said = "untouched"     // it did not get to Postgres, and leaves the key alone
	CaughtUp  Said = "caught up"     // no line: all of the past was told, what follows is news
)

// Line is one line that tells something.
type Line struct {
	Said       Said
	Invocation string    // of the unit, systemd.exec(5) $INVOCATION_ID
	PID        int       // of the process that said it; 0 for systemd
	Time       time.Time // when the journal got it, by this host's clock
}

// The MESSAGE_IDs of "Starting …" and "Started …", SD_MESSAGE_UNIT_STARTING and
// SD_MESSAGE_UNIT_STARTED of sd-messages(3). Of a unit that is up at once, as the daemon's is
// without an ExecStartPre=, systemd tells only the second (252).
const (
	startingMessage = "7d4958e842da4a758f6c1cdc7b36dcc5"
	startedMessage  = "39f53479d3a045ac8e11786248231fbf"
)

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

// Follow reads the daemon's journal from the beginning of this boot on, hands on what its
// present start has told about the key, then CaughtUp, and then such lines as they come,
// until ctx ends. A line counts only if the unit's main process said it (law 10): what
// the daemon runs has the same identifier, and prints what it likes. It runs
// journalctl(1): the library for reading journals needs cgo.
func Follow(ctx context.Context, names []string, line func(Line)) error {
	return follow(ctx, names, mainPID, line)
}

// follow is Follow where main tells the main process of an invocation, 0 of an earlier one.
func follow(ctx context.Context, names []string, main mainProcess, line func(Line)) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	j := journalctl{args: []string{"--lines=all", "--output=json", "--quiet",
		"--output-fields=MESSAGE,MESSAGE_ID,INVOCATION_ID,_SYSTEMD_INVOCATION_ID,_PID"}}
	for _, n := range names {
		j.args = append(j.args, "--unit="+n)
	}
	// --follow alone means this boot too (systemd 252), by the id that /proc shows.
	boot := "--boot"
	if id := BootID(); id != "" {
		boot += "=" + id
	}
	j.args = append(j.args, boot)
	past, err := j.readPast(ctx)
	if err != nil {
		return err
	}
	l := listener{names: names, main: main, line: line, stop: stop}
	for _, p := range past {
		l.tell(ctx, p)
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	line(Line{Said: CaughtUp})
	j.args = append(j.args, "--follow")
	if j.cursor != "" { // else nothing was ever logged
		j.args = append(j.args, "--after-cursor="+j.cursor)
	}
	return j.read(ctx, func(p Line) { l.tell(ctx, p) })
}

// journalctl reads the journal of some units.
type journalctl struct {
	args   []string
	cursor string // of the last entry that was read
}

// read hands on what can be understood, until the journal or ctx ends.
func (j *journalctl) read(ctx context.Context, handle func(Line)) error {
	err := run.Follow(ctx, run.Spec{Path: "journalctl", Args: j.args}, func(text []byte) {
		l, at, ok := parseLine(text)
		if at != "" {
			j.cursor = at
		}
		if ok && ctx.Err() == nil {
			handle(l)
		}
	})
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// readPast is what the last start has told: only of that one can systemd still tell which
// process was its main one.
func (j *journalctl) readPast(ctx context.Context) (past []Line, err error) {
	err = j.read(ctx, func(l Line) {
		if l.Said == Starting { // journald may have got what the daemon said first
			past = slices.DeleteFunc(past, func(p Line) bool { return p.Invocation != l.Invocation })
		}
		same := func(p Line) bool { return p.Said == l.Said && p.Invocation == l.Invocation && p.PID == l.PID }
		if !slices.ContainsFunc(past, same) {
			past = append(past, l)
		}
	})
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return past, err
}

// mainProcess tells the main process of an invocation of one of these units, 0 where the unit has
// been started anew since.
type mainProcess func(ctx context.Context, invocation string, names []string) (pid int, err error)

// listener hands on what the main process said (law 10).
type listener struct {
	names []string
	main  mainProcess
	line  func(Line)
	stop  context.CancelCauseFunc // where that cannot be asked

	asked string // the invocation of which pid is the main process
	pid   int
	began string // the one that was told of last
}

func (l *listener) tell(ctx context.Context, p Line) {
	if p.Said == Starting {
		l.begin(p)
		return
	}
	fresh := p.Invocation != l.asked
	if fresh {
		pid, err := l.main(ctx, p.Invocation, l.names)
		if err != nil {
			l.stop(err)
			return
		}
		l.asked, l.pid = p.Invocation, pid
	}
	if p.PID != l.pid || l.pid == 0 {
		return
	}
	if fresh { // systemd has it as the present start, whatever it has logged of that
		l.begin(p)
	}
	l.line(p)
}

func (l *listener) begin(p Line) {
	if p.Invocation != l.began {
		l.began = p.Invocation
		l.line(Line{Said: Starting, Invocation: p.Invocation, Time: p.Time})
	}
}

// mainPID asks systemd for the main process of an invocation of one of these units, one
// that has ended included (ExecMainPID of org.freedesktop.systemd1(5)). It is 0 where the
// unit has been started anew since.
func mainPID(ctx context.Context, invocation string, names []string) (int, error) {
	conn, err := dial(ctx)
	if err != nil {
		return 0, fmt.Errorf("cannot ask systemd which process is the daemon: %w", err)
	}
	defer conn.Close()
	for _, name := range names {
		id, err := conn.property(ctx, name, "InvocationID")
		if err != nil {
			return 0, fmt.Errorf("cannot ask systemd which process is %s: %w", name, err)
		}
		if bytes, _ := id.Value.Value().([]byte); hex.EncodeToString(bytes) != invocation {
			continue
		}
		pid, err := conn.serviceProperty(ctx, name, "ExecMainPID")
		if err != nil {
			return 0, fmt.Errorf("cannot ask systemd which process is %s: %w", name, err)
		}
		main, _ := pid.Value.Value().(uint32)
		return int(main), nil
	}
	return 0, nil
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
		PID       string `json:"_PID"`
		Time      string `json:"__REALTIME_TIMESTAMP"` // microseconds since 1970
		Cursor    string `json:"__CURSOR"`
	}
	if json.Unmarshal(text, &e) != nil {
		return Line{}, "", false
	}
	l = Line{Said: said(e.Message), Invocation: e.OfProcess}
	l.PID, _ = strconv.Atoi(e.PID) // 0 is nobody's
	if (e.ID == startingMessage || e.ID == startedMessage) && e.OfUnit != "" {
		l = Line{Said: Starting, Invocation: e.OfUnit}
	}
	if at, err := strconv.ParseInt(e.Time, 10, 64); err == nil {
		l.Time = time.UnixMicro(at)
	}
	return l, e.Cursor, l.Said != "" && l.Invocation != ""
}

// stamp is what log.Printf puts in front of what the daemon says itself. A healthy start,
// which reads no journal, does not wait until it is compiled.
var stamp = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d `) })

// lines are the beginnings of what the daemon says about its key.
var lines = []struct {
	begins string
	said   Said
}{
	{"[secrets] NEW MASTER KEY generated at ", Minted},
	{"Secrets store ready (", Ready},
	{"Warning: Failed to load secrets master key: ", Failed},
	{"Failed to construct secrets cipher", Disabled},
	{"Warning: Failed to construct secrets cipher", Disabled},
	{"Warning: Failed to init secrets store: ", Disabled},
	{"Warning: KMS backend config error: ", Loaded},
	{"FATAL: CONTAINARIUM_REQUIRE_ENVELOPE=true but no KMS backend is configured", Disabled},
	{"Warning: Failed to connect to Postgres for secrets store: ", Untouched},
}

// said tells what a message of the daemon's says, "" for nothing about its key. The
// daemon also prints what tenants chose: only what begins as its own lines do counts.
func said(message any) Said {
	text, ok := message.(string)
	if !ok {
		return ""
	}
	at := stamp().FindStringIndex(text)
	if at == nil {
		return ""
	}
	text = text[at[1]:]
	for _, l := range lines {
		switch {
		case !strings.HasPrefix(text, l.begins):
		case l.said == Failed && strings.HasSuffix(text, " has 0 bytes). Secrets disabled."):
			return Empty
		default:
			return l.said
		}
	}
	return ""
}
