package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// TestStatusOfADeafWatcher names the limit that makes the watcher notice changes late.
func TestStatusOfADeafWatcher(t *testing.T) {
	h := newHost(t, nil, 0)
	h.write(testKey("a").UnsafeBytes())
	for _, want := range []error{nil, unit.ErrInotifyInstances, unit.ErrInotifyWatches} {
		h.Watcher = func(context.Context) (unit.WatcherState, error) { return unit.WatcherState{Deaf: want}, nil }
		r, err := agent.Status(t.Context(), &h.Host)
		if err != nil || !errors.Is(r.Watcher.Deaf, want) || (r.Watcher.Deaf == nil) != (want == nil) {
			t.Errorf("%v: %v, %v", want, r.Watcher.Deaf, err)
		}
	}
}

// TestStatusOfTheDaemon: whatever is amiss with the daemon, the watcher or the timer is the
// verdict, and what nobody can tell is never green.
func TestStatusOfTheDaemon(t *testing.T) {
	a, b := testKey("a"), testKey("b")
	nameA, nameB := string(a.Fingerprint()), string(b.Fingerprint())
	const before, after = -time.Hour, time.Hour // when the daemon told, against when the keyfile was written
	up := unit.State{Loaded: true, Enabled: "enabled", Active: "active"}
	down := unit.State{Loaded: true, Enabled: "enabled", Active: "inactive"}
	const nobody = "restart needed: nobody can tell on which key the daemon runs"
	read := func(invocation string, k key.Key) []ledger.Entry {
		return []ledger.Entry{{Event: ledger.StartedOn, Invocation: invocation, Fingerprint: k.Fingerprint()}}
	}
	installed := []ledger.Entry{{Event: ledger.Installed, Fingerprint: a.Fingerprint(), Old: b.Fingerprint()}}
	malformed := []ledger.Entry{{Event: ledger.Installed, Fingerprint: a.Fingerprint()}}
	between := []ledger.Entry{{Time: time.Now().Add(3 * before / 2), Event: ledger.Installed, Fingerprint: b.Fingerprint(), Old: a.Fingerprint()}}
	for name, tt := range map[string]struct {
		daemon         unit.State
		told           unit.Said
		minted         bool
		at             time.Duration
		unread, silent error   // of the journal, of systemd
		unasked        string  // why its start does not ask keyguard
		left           key.Key // by prestart for this start
		failing        bool    // systemd is about to start it again
		watcher, timer unit.State
		known          []key.Key      // proven two hours before the keyfile was written, and since
		noted          []ledger.Entry // Time and Untouched are filled in
		untouched      time.Duration  // against when the keyfile was written; 0 is never
		stopped        bool           // for a rotation that is not at work any more
		health         agent.Health
		line           string
		on             string // the key that it runs on
		restart        bool
	}{
		"it has read what is there":         {daemon: up, told: unit.Ready, at: after, watcher: up, timer: up, health: agent.Green, line: "is in place", on: nameA},
		"with its KMS wrong":                {daemon: up, told: unit.Loaded, at: after, watcher: up, timer: up, health: agent.Green, on: nameA},
		"it has not read it yet":            {daemon: up, watcher: up, timer: up, health: agent.Green},
		"it is down":                        {daemon: down, watcher: up, timer: up, health: agent.Green},
		"it does not stay up":               {daemon: down, failing: true, watcher: up, timer: up, health: agent.Amiss, line: "the daemon does not stay up"},
		"it is down since a rotation":       {daemon: down, stopped: true, watcher: up, timer: up, health: agent.Amiss, line: "was stopped for a rotation or a repair, and was not started again"},
		"it is up again since a rotation":   {daemon: up, stopped: true, told: unit.Ready, at: after, watcher: up, timer: up, health: agent.Green, on: nameA},
		"it is not installed":               {watcher: up, timer: up, health: agent.Green},
		"it minted what is there":           {daemon: up, told: unit.Ready, minted: true, at: after, watcher: up, timer: up, health: agent.Green, on: nameA},
		"the same key was put back":         {daemon: up, told: unit.Ready, at: before, noted: read("1", a), watcher: up, timer: up, health: agent.Green, on: nameA},
		"touched, and no key was known":     {daemon: up, told: unit.Ready, at: before, watcher: up, timer: up, health: agent.Amiss, line: nobody, restart: true},
		"touched, and keyguard was asked":   {daemon: up, told: unit.Ready, at: before, left: a, watcher: up, timer: up, health: agent.Green, on: nameA},
		"replaced, and keyguard was asked":  {daemon: up, told: unit.Ready, at: before, left: b, known: []key.Key{b, a}, watcher: up, timer: up, health: agent.Amiss, line: "restart needed: the daemon runs on key " + nameB, on: nameB, restart: true},
		"asked, and then it was replaced":   {daemon: up, told: unit.Ready, at: before, left: a, known: []key.Key{a}, noted: between, watcher: up, timer: up, health: agent.Amiss, line: nobody, restart: true},
		"asked, and then it was malformed":  {daemon: up, told: unit.Ready, at: before, left: a, known: []key.Key{a}, noted: malformed, untouched: 3 * before / 2, watcher: up, timer: up, health: agent.Amiss, line: nobody, restart: true},
		"asked, and its journal is lost":    {daemon: up, left: b, known: []key.Key{b, a}, watcher: up, timer: up, health: agent.Amiss, line: "restart needed: the daemon runs on key " + nameB, on: nameB, restart: true},
		"touched, and nobody saw the start": {daemon: up, told: unit.Ready, at: before, known: []key.Key{a}, noted: read("0", a), watcher: up, timer: up, health: agent.Amiss, line: nobody, restart: true},
		"another key was put there":         {daemon: up, told: unit.Ready, at: before, known: []key.Key{b, a}, noted: read("1", b), watcher: up, timer: up, health: agent.Amiss, line: "restart needed: the daemon runs on key " + nameB + "; key " + nameA + " is in place", on: nameB, restart: true},
		"keyguard put another there":        {daemon: up, told: unit.Ready, at: before, known: []key.Key{a, a}, noted: installed, untouched: 2 * before, watcher: up, timer: up, health: agent.Amiss, line: "restart needed: the daemon runs on key " + nameB, on: nameB, restart: true},
		"and somebody else did before":      {daemon: up, told: unit.Ready, at: before, known: []key.Key{a, a}, noted: installed, untouched: before / 2, watcher: up, timer: up, health: agent.Amiss, line: nobody, restart: true},
		"keyguard closed it":                {daemon: up, told: unit.Ready, at: before, noted: []ledger.Entry{{Event: ledger.Exposed, Fingerprint: a.Fingerprint()}}, untouched: 2 * before, watcher: up, timer: up, health: agent.Green, on: nameA},
		"its journal is lost":               {daemon: up, noted: read("1", a), watcher: up, timer: up, health: agent.Green, on: nameA},
		"its journal is lost, on another":   {daemon: up, noted: read("1", b), watcher: up, timer: up, health: agent.Amiss, line: "restart needed: the daemon runs on key " + nameB, on: nameB, restart: true},
		"it minted, and that was noted":     {daemon: up, told: unit.Ready, minted: true, at: before, noted: []ledger.Entry{{Event: ledger.Minted, Invocation: "1", Fingerprint: b.Fingerprint()}}, watcher: up, timer: up, health: agent.Amiss, line: "restart needed: the daemon has made a key of its own", on: nameB, restart: true},
		"it minted, and nobody knows what":  {daemon: up, told: unit.Ready, minted: true, at: 2 * before, left: b, known: []key.Key{b}, watcher: up, timer: up, health: agent.Amiss, line: nobody, restart: true},
		"it minted, and the key came back":  {daemon: up, told: unit.Ready, minted: true, at: before, known: []key.Key{a}, watcher: up, timer: up, health: agent.Amiss, line: "restart needed: the daemon has made a key of its own", restart: true},
		"it found an empty keyfile":         {daemon: up, told: unit.Empty, at: before, watcher: up, timer: up, health: agent.Amiss, line: "restart needed: the daemon runs without secrets, since the keyfile was empty", restart: true},
		"it could not load the keyfile":     {daemon: up, told: unit.Failed, at: before, watcher: up, timer: up, health: agent.Amiss, line: "restart needed: the daemon runs without secrets, since it could not load", restart: true},
		"a tenant says that it was empty":   {daemon: up, told: unit.Empty, at: after, watcher: up, timer: up, health: agent.Green},
		"Postgres came late":                {daemon: up, told: unit.Untouched, at: after, watcher: up, timer: up, health: agent.Amiss, line: "restart needed: the daemon runs without secrets, since it could not connect to Postgres when it started; key", restart: true},
		"its store does not open":           {daemon: up, told: unit.Disabled, at: after, watcher: up, timer: up, health: agent.Amiss, line: "runs without secrets all the same"},
		"the journal cannot be read":        {daemon: up, unread: errors.New("no journal"), watcher: up, timer: up, health: agent.Amiss, line: "nobody can tell on which key the daemon runs: no journal"},
		"systemd does not answer":           {silent: errors.New("no bus"), watcher: up, timer: up, health: agent.Amiss, line: "nobody can tell on which key the daemon runs: no bus"},
		"its start does not ask":            {daemon: up, told: unit.Ready, at: after, unasked: "masked", watcher: up, timer: up, health: agent.Amiss, line: "nothing looks at the key before the daemon starts: masked", on: nameA},
		"it is down, and will not ask":      {daemon: down, unasked: "masked", watcher: up, timer: up, health: agent.Amiss, line: "nothing looks at the key before the daemon starts: masked"},
		"the watcher is stopped":            {daemon: up, told: unit.Ready, at: after, watcher: down, timer: up, health: agent.Amiss, line: "the watcher does not run (inactive)", on: nameA},
		"the watcher is not installed":      {daemon: up, told: unit.Ready, at: after, timer: up, health: agent.Amiss, line: "the watcher does not run (not installed)", on: nameA},
		"the timer is stopped":              {daemon: up, told: unit.Ready, at: after, watcher: up, timer: down, health: agent.Amiss, line: "its timer is inactive", on: nameA},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, nil, 1)
			h.now = time.Now() // as the file system has it
			h.write(a.UnsafeBytes())
			h.must(save(&h.Host, a))
			for i, k := range tt.known {
				at := time.Now().Add(-2*time.Hour + time.Duration(i)*110*time.Minute)
				h.must(h.Ledger.Append(ledger.Entry{Time: at, Event: ledger.Proven, Fingerprint: k.Fingerprint(), Verdict: string(rows.Opens), Checked: 1, Opened: 1}))
			}
			for _, e := range tt.noted {
				if tt.untouched != 0 {
					e.Untouched = time.Now().Add(tt.untouched)
				}
				h.must(h.Ledger.Append(e))
			}
			if tt.stopped {
				h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Stopped, Stopped: []string{"containarium.service"}}))
			}
			h.Left = filepath.Join(t.TempDir(), "started.json")
			h.must(agent.NoteLeft(&h.Host, "0", a.Fingerprint())) // of an earlier start
			if !tt.left.IsZero() {
				h.now = h.now.Add(2 * before)
				h.must(agent.NoteLeft(&h.Host, "1", tt.left.Fingerprint()))
				h.now = time.Now()
			}
			h.Daemon.State = func(ctx context.Context) (unit.DaemonState, error) {
				if _, limited := ctx.Deadline(); !limited {
					t.Error("systemd is asked without a deadline")
				}
				told := time.Now().Add(tt.at)
				if tt.told == "" {
					told = time.Time{}
				}
				s := unit.DaemonState{State: tt.daemon, Told: tt.told, Minted: tt.minted, Invocation: "1", ToldAt: told, Unread: tt.unread, Unasked: tt.unasked, Failing: tt.failing}
				if tt.daemon.Loaded {
					s.Name = "containarium.service"
				}
				return s, tt.silent
			}
			h.Watcher = func(context.Context) (unit.WatcherState, error) {
				return unit.WatcherState{State: tt.watcher}, tt.silent
			}
			h.NextDrill = func(context.Context) (unit.DrillState, error) {
				return unit.DrillState{State: tt.timer}, tt.silent
			}
			r, err := agent.Status(t.Context(), &h.Host)
			if err != nil || r.Health != tt.health || !strings.Contains(r.Line, tt.line) {
				t.Errorf("%s: %s, %v", r.Health, r.Line, err)
			}
			if d := r.Daemon; string(d.Key) != tt.on || d.RestartNeeded() != tt.restart {
				t.Errorf("%s, on key %q, restart needed: %v", d.Is, d.Key, d.RestartNeeded())
			}
			if d := r.Daemon; d.Err == nil && (tt.told == unit.Ready || tt.told == unit.Loaded) {
				event := ledger.StartedOn
				if tt.minted {
					event = ledger.Minted
				}
				if k := agent.KeyRead(&h.Host, event, "1", d.ToldAt); k != d.Key {
					t.Errorf("the watcher takes it for key %q, and status for %q", k, d.Key)
				}
			}
			s, err := agent.Survey(&h.Host)
			if err != nil || s.Daemon.Is != r.Daemon.Is {
				t.Errorf("the metrics say %q, %v", s.Daemon.Is, err)
			}
		})
	}
}

// TestNoteKeyRead: which key a start has read is taken down once, and of a start that nobody can
// tell from another not at all.
func TestNoteKeyRead(t *testing.T) {
	h := newHost(t, nil, 0)
	f := testKey("a").Fingerprint()
	for _, invocation := range []string{"", "1", "1", "", "2"} {
		h.must(agent.NoteKeyRead(&h.Host, ledger.StartedOn, invocation, f))
	}
	record, err := h.Ledger.Read()
	h.must(err)
	if e := record.Entries; len(e) != 2 || e[0].Invocation != "1" || e[1].Invocation != "2" {
		t.Errorf("%+v", e)
	}
}

// TestStatusWithoutSystemd: where no unit is configured nothing of it is judged.
func TestStatusWithoutSystemd(t *testing.T) {
	h := newHost(t, nil, 1)
	h.write(testKey("a").UnsafeBytes())
	h.must(save(&h.Host, testKey("a")))
	r, err := agent.Status(t.Context(), &h.Host)
	if err != nil || r.Health != agent.Green || r.Daemon.Is != agent.DaemonNotAsked || r.Units {
		t.Errorf("%s: %s, %+v, %v", r.Health, r.Line, r.Daemon, err)
	}
}

// TestStatusOfAParkedDaemon: the daemon is what stands in the first line where nothing else
// is decided, and is named parked whatever is.
func TestStatusOfAParkedDaemon(t *testing.T) {
	h := newHost(t, nil, 0)
	h.must(os.WriteFile(h.Keyfile.Path, nil, 0o400))
	h.Daemon.State = func(context.Context) (unit.DaemonState, error) {
		return unit.DaemonState{Name: "containarium.service", State: unit.State{Loaded: true, Active: "active"}, Told: unit.Empty, ToldAt: time.Now()}, nil
	}
	r, err := agent.Status(t.Context(), &h.Host)
	if err != nil || r.Health == agent.Green || r.Daemon.Is != agent.DaemonParked {
		t.Errorf("%s: %s, %s, %v", r.Health, r.Line, r.Daemon.Is, err)
	}
}

// TestStatusWhileARotationRuns: nothing is judged, restored or rotated while one is at work, and
// all say since when and for whom. One that has died is judged.
func TestStatusWhileARotationRuns(t *testing.T) {
	old, fresh := testKey("old"), testKey("new")
	for name, tt := range map[string]struct {
		entries []ledger.Entry
		want    string
	}{
		"rotation": {[]ledger.Entry{{Event: ledger.RotationOpen, Old: old.Fingerprint(), Fingerprint: fresh.Fingerprint(), Person: "olga"}}, "a rotation is under way since 20"},
		"repair":   {[]ledger.Entry{{Event: ledger.Stopped, Stopped: []string{"containarium.service"}}}, "a repair is under way since 20"},
		"rotation that starts the daemon": {[]ledger.Entry{
			{Event: ledger.RotationOpen, Old: old.Fingerprint(), Fingerprint: fresh.Fingerprint(), Person: "olga"},
			{Event: ledger.Stopped, Stopped: []string{"containarium.service"}},
			{Event: ledger.Rotated, Fingerprint: fresh.Fingerprint()}}, "asked for by olga"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, nil, 1)
			h.write(old.UnsafeBytes())
			h.must(save(&h.Host, old))
			h.must(h.Ledger.Append(tt.entries...))
			l, err := lock.Try(h.StateDir, lock.Rotate)
			h.must(err)
			r, err := agent.Status(t.Context(), &h.Host)
			if err != nil || r.Health != agent.Busy || !strings.Contains(r.Line, tt.want) {
				t.Errorf("%s: %s, %v", r.Health, r.Line, err)
			}
			if _, err := agent.Restore(t.Context(), &h.Host, agent.RestoreOptions{}); !errors.Is(err, agent.ErrBusy) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("restore: %v", err)
			}
			if _, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{}); !errors.Is(err, agent.ErrBusy) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("rotate: %v", err)
			}
			l.Release()
			if r, err := agent.Status(t.Context(), &h.Host); err != nil || r.Health == agent.Busy {
				t.Errorf("dead: %s: %s, %v", r.Health, r.Line, err)
			}
		})
	}
}

// TestStatusOfAStagedKey: what stands beside the keyfile as its successor is told, whatever
// it is and whoever put it there; a start counts it for a rotation that stopped. What the
// ledger knows of that is told, too, and by a trial of a rotation as well.
func TestStatusOfAStagedKey(t *testing.T) {
	a, b := testKey("a"), testKey("b")
	db := server.Cluster(t).Database(t)
	for name, tt := range map[string]struct {
		next   []byte
		opened bool // the ledger has it open
		line   string
	}{
		"a key":         {b.UnsafeBytes(), false, "; key " + string(b.Fingerprint()) + " stands beside the keyfile"},
		"nothing":       {[]byte{}, false, "is no key"},
		"in the ledger": {b.UnsafeBytes(), true, fmt.Sprintf(", from key %s to key %s, since 2", a.Fingerprint(), b.Fingerprint())},
		"by a person":   {b.UnsafeBytes(), true, ", asked for by olga; key " + string(b.Fingerprint()) + " stands"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, db, 1)
			h.rowsUnder(a)
			h.write(a.UnsafeBytes())
			h.backup()
			h.must(os.WriteFile(h.Keyfile.Path+".next", tt.next, 0o400))
			if tt.opened {
				h.must(h.Ledger.Append(ledger.Entry{Event: ledger.RotationOpen, Old: a.Fingerprint(), Fingerprint: b.Fingerprint(), Person: "olga"}))
			}
			r, err := agent.Status(t.Context(), &h.Host)
			if err != nil || r.Health != agent.Amiss || !strings.Contains(r.Line, "stopped halfway") || !strings.Contains(r.Line, tt.line) {
				t.Errorf("%s: %s, %v", r.Health, r.Line, err)
			}
			if _, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{DryRun: true}); !errors.Is(err, agent.ErrRotationOpen) || !strings.Contains(err.Error(), tt.line) {
				t.Errorf("a trial: %v", err)
			}
		})
	}
}

// TestStatusOfWhatNobodyKnows: while the rows cannot be asked, only a look on record makes a
// key the right one.
func TestStatusOfWhatNobodyKnows(t *testing.T) {
	a := testKey("a")
	look := func(h *host, v rows.Verdict, opened int64) {
		h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Proven, Fingerprint: a.Fingerprint(), Verdict: string(v), Checked: 10, Opened: opened}))
	}
	for name, tt := range map[string]struct {
		arrange func(*host)
		health  agent.Health
		line    string
	}{
		"proven":                 {func(h *host) { look(h, rows.Opens, 10) }, agent.Green, ""},
		"the ledger is gone":     {func(h *host) { h.must(os.Remove(h.path("state/ledger.jsonl"))) }, agent.Amiss, "no look at them is on record"},
		"most rows, a while ago": {func(h *host) { look(h, rows.Partial, 9) }, agent.Amiss, "only a part"},
		"long ago": {func(h *host) {
			look(h, rows.Opens, 10)
			h.now = h.now.Add(decide.ProofLife + time.Second)
		}, agent.Amiss, "too old"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, nil, 1)
			h.write(a.UnsafeBytes())
			h.must(save(&h.Host, a))
			h.up = false
			tt.arrange(h)
			r, err := agent.Status(t.Context(), &h.Host)
			if err != nil || r.Health != tt.health || !strings.Contains(r.Line, tt.line) {
				t.Errorf("%s: %s, %v", r.Health, r.Line, err)
			}
		})
	}
}

// refusing is an escrow that takes no part of a key as it is configured.
type refusing struct{ place }

func (refusing) Refuses(key.Fingerprint) error                                { return escrow.ErrRecut }
func (refusing) Lacks(escrow.Copy) *escrow.PartsError                         { return &escrow.PartsError{} }
func (refusing) Reread(context.Context, escrow.Copy, func(escrow.Place) bool) {}
func (refusing) Cutting(escrow.Copy) (int, []bool)                            { return 2, nil }
func (refusing) Unheard() error                                               { return nil }
func (refusing) Members() []escrow.Member                                     { return nil }
func (refusing) Need() int                                                    { return 2 }
func (r refusing) Rebuild(ctx context.Context, c escrow.Copy) (key.Key, []escrow.PartOutcome, error) {
	k, _, err := r.Fetch(ctx, c)
	return k, nil, err
}

// TestStatusOfAnEscrowThatRefuses: that it takes nothing is told before what a save would mend.
func TestStatusOfAnEscrowThatRefuses(t *testing.T) {
	for name, on := range map[string][]key.Key{"it holds nothing": nil, "it holds the key": {testKey("a")}, "it holds another key": {testKey("b")}} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, nil, 0)
			h.write(testKey("a").UnsafeBytes())
			e := refusing{place{store: &store{name: "split"}, call: plain}}
			for _, k := range on {
				e.save(escrow.Current, k)
			}
			h.Escrows = []agent.Escrow{{Reader: e, Writer: e, Required: true}}
			r, err := agent.Status(t.Context(), &h.Host)
			if err != nil || len(r.Ailments) == 0 || r.Ailments[0].Ails != agent.AilsRefuses {
				t.Errorf("%+v, %v", r.Ailments, err)
			}
		})
	}
}

// TestStatusOvertaken: from its first change until its last save a rotation is under way, and
// one that begins and ends while status asks is no reason to judge half of what was before it.
func TestStatusOvertaken(t *testing.T) {
	r := rotation{testKey("old")}
	db := server.Cluster(t).Database(t)
	h := newHost(t, db, 1)
	h.must(r.rows(db))
	h.must(r.furnish(&h.Host, false))
	status := func() agent.StatusResult {
		t.Helper()
		s, err := agent.Status(t.Context(), &h.Host)
		h.must(err)
		return s
	}
	last := ""
	rotate := func() {
		began := false
		_, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{Person: "olga",
			Staged: func(key.Fingerprint, key.Fingerprint) { began = true },
			Progress: func(p agent.RotateProgress) {
				if !began || p.Step == last {
					return
				}
				last = p.Step
				if s := status(); s.Health != agent.Busy || !strings.Contains(s.Line, "a rotation is under way") || !strings.Contains(s.Line, "olga") {
					t.Errorf("%s: %s: %s", p.Step, s.Health, s.Line)
				}
			}})
		h.must(err)
	}
	rotate()
	if last != "saving the key as the current one" {
		t.Errorf("the last step was %q", last)
	}
	open, before := h.OpenRows, h.content()
	h.OpenRows = func(ctx context.Context, o rows.Options) (agent.Rows, error) {
		h.OpenRows = open
		rotate()
		return open(ctx, o)
	}
	if s := status(); s.Health != agent.Green {
		t.Errorf("%s: %s", s.Health, s.Line)
	}
	if string(h.content()) == string(before) {
		t.Error("it was not rotated meanwhile")
	}
}

// examined is a directory whose examination has that trouble.
type examined struct {
	place
	exam escrow.Examination
}

func (examined) Place() escrow.Place { return escrow.Place{Kind: "directory"} }

func (e examined) Examine(context.Context) (escrow.Examination, error) { return e.exam, nil }

// TestStatusOfADirectoryThatIsHeld: that a required one takes no further copy is told before one
// is due, and before what it lacks.
func TestStatusOfADirectoryThatIsHeld(t *testing.T) {
	a := testKey("a")
	for name, tt := range map[string]struct {
		on       key.Key
		required bool
		health   agent.Health
	}{
		"it holds the key":               {a, true, agent.Amiss},
		"it holds another key":           {testKey("b"), true, agent.Lagging},
		"it holds the key, and need not": {a, false, agent.Green},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, nil, 0)
			h.write(a.UnsafeBytes())
			e := examined{place{store: &store{name: "usb"}, call: plain}, escrow.Examination{Trouble: &escrow.TroubleError{Trouble: escrow.TroubleReadOnly, Text: "it is read-only"}}}
			e.save(escrow.Current, tt.on)
			h.Escrows = []agent.Escrow{{Reader: e, Writer: e, Required: tt.required}}
			h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Accepted, Fingerprint: a.Fingerprint(), Verdict: string(rows.Silent)}))
			r, err := agent.Status(t.Context(), &h.Host)
			if err != nil || r.Health != tt.health || r.Escrows[0].Blocked != e.exam.Trouble {
				t.Fatalf("%s: %s, %+v, %v", r.Health, r.Line, r.Escrows, err)
			}
			if told := len(r.Ailments) > 0 && r.Ailments[0].Ails == agent.AilsBlocked; told != tt.required {
				t.Errorf("%+v", r.Ailments)
			}
		})
	}
}

// onOurDisk is a password store on the keyfile's own disk, or a directory in memory.
type onOurDisk struct {
	examined
	kind string
}

func (o onOurDisk) Place() escrow.Place { return escrow.Place{Kind: o.kind} }

// TestStatusOfACopyOnOurDisk: what is lost with the keyfile is no copy off this host (design §8),
// and is well beside one that is.
func TestStatusOfACopyOnOurDisk(t *testing.T) {
	a := testKey("a")
	for name, tt := range map[string]struct {
		kind    string
		trouble escrow.Trouble
		beside  bool
	}{
		"alone":                     {"command", escrow.TroubleSameDisk, false},
		"beside another":            {"command", escrow.TroubleSameDisk, true},
		"in memory":                 {"directory", escrow.TroubleMemory, false},
		"in memory, beside another": {"directory", escrow.TroubleMemory, true},
	} {
		t.Run(name, func(t *testing.T) {
			beside := tt.beside
			h := newHost(t, nil, 1)
			h.write(a.UnsafeBytes())
			h.save(0, escrow.Current, a)
			e := onOurDisk{examined{place{store: &store{name: "pass"}, call: plain}, escrow.Examination{Trouble: &escrow.TroubleError{Trouble: tt.trouble, Text: "on our disk"}}}, tt.kind}
			e.save(escrow.Current, a)
			if !beside {
				h.Escrows = nil
			}
			h.Escrows = append(h.Escrows, agent.Escrow{Reader: e, Writer: e, Required: true})
			h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Accepted, Fingerprint: a.Fingerprint(), Verdict: string(rows.Silent)}))
			r, err := agent.Status(t.Context(), &h.Host)
			h.must(err)
			if green := r.Health == agent.Green; green != beside || !beside && (r.Health != agent.Amiss || r.Ailments[0].Ails != agent.AilsHere || r.Ailments[0].Escrow.Here != e.exam.Trouble) {
				t.Errorf("%s: %s, %+v", r.Health, r.Line, r.Ailments)
			}
		})
	}
}

// memberOn is a store of a split on some disks.
type memberOn struct {
	examined
	at string
}

func (m memberOn) Place() escrow.Place {
	return escrow.Place{Kind: "directory", Where: m.at, Domain: "the file system at " + m.at}
}

func (memberOn) Close() error { return nil }

// TestSplitIsLostWith: status and doctor name the same as what a key in parts is lost with: a disk
// that takes too many of them along, whatever their paths are, and else so many stores.
func TestSplitIsLostWith(t *testing.T) {
	for name, tt := range map[string]struct {
		need  int
		disks [][]string // by member
		want  string
	}{
		"three paths on one disk":       {2, [][]string{{"sda"}, {"sda"}, {"sda"}}, "the disk sda"},
		"each on a disk of its own":     {2, [][]string{{"sda"}, {"sdb"}, {"sdc"}}, "any 2 of the disk sda, the disk sdb, the disk sdc"},
		"two on one, and all needed":    {3, [][]string{{"sda"}, {"sda"}, {"sdb"}}, "any 1 of the disk sda, the disk sda, the disk sdb"},
		"all needed, all on one":        {2, [][]string{{"sda"}, {"sda"}}, "the disk sda"},
		"two on one, and one may go":    {3, [][]string{{"sda"}, {"sda"}, {"sdb"}, {"sdc"}}, "the disk sda"},
		"two on one, and two may go":    {2, [][]string{{"sda"}, {"sda"}, {"sdb"}, {"sdc"}}, "any 3 of the disk sda, the disk sda, the disk sdb, the disk sdc"},
		"one on two, not all are known": {2, [][]string{{"sda", "sdb"}, {"sdc"}, nil}, "any 2 of the disk sda or the disk sdb, the disk sdc, the file system at /2"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, nil, 0)
			o := kinds.SplitOptions{Name: "split", Need: tt.need}
			for i, disks := range tt.disks {
				m := memberOn{examined{place{store: &store{name: fmt.Sprint("m", i)}, call: plain}, escrow.Examination{Disks: disks}}, fmt.Sprint("/", i)}
				o.Members = append(o.Members, escrow.Member{Escrow: m, Number: i + 1, Required: true})
			}
			s, err := kinds.NewSplit(o)
			h.must(err)
			h.Escrows = []agent.Escrow{{Reader: s, Writer: s, Required: true}}
			r, err := agent.Status(t.Context(), &h.Host)
			if err != nil || r.Escrows[0].Place.Domain != tt.want {
				t.Errorf("status: lost with %s, %v", r.Escrows[0].Place.Domain, err)
			}
			d, err := agent.Doctor(t.Context(), &h.Host, agent.DoctorOptions{})
			h.must(err)
			i := slices.IndexFunc(d.Checks, func(c agent.Check) bool { return c.Name == `escrow "split"` })
			if c := d.Checks[i]; c.Text != tt.want {
				t.Errorf("doctor: %s", c.Text)
			}
		})
	}
}

// TestStatusAfterAFailedDrill: what a drill found wrong is told until it was saved anew, also where the
// clock was ahead when it was saved before, and where a person adopts what stands there; and then
// that no drill has tried it since.
func TestStatusAfterAFailedDrill(t *testing.T) {
	a := testKey("a")
	h := newHost(t, nil, 1)
	h.write(a.UnsafeBytes())
	right := h.now
	h.now = right.Add(time.Hour)
	h.must(save(&h.Host, a))
	h.now = right
	failed := ledger.Entry{Time: right, Fingerprint: a.Fingerprint(), Escrow: "usb0", Drill: "1", Judged: true, Verdict: string(agent.DrillFailed), Reason: "it opened 0 of 7"}
	drilled, ended := failed, failed
	drilled.Event, drilled.Copy, drilled.Shelf = ledger.Drilled, "current/1", string(escrow.Current)
	ended.Event, ended.Escrow, ended.Fingerprint, ended.Judged = ledger.DrillEnded, "", "", false
	h.must(h.Ledger.Append(drilled, ended))
	look := func(health agent.Health, line string) {
		t.Helper()
		if r, err := agent.Status(t.Context(), &h.Host); err != nil || r.Health != health || !strings.Contains(r.Line, line) {
			t.Errorf("%s: %s, %v", r.Health, r.Line, err)
		}
	}
	look(agent.Lagging, "failed its last drill: it opened 0 of 7")
	adopted := ledger.Entry{Event: ledger.Adopted, Time: right.Add(time.Minute), Fingerprint: a.Fingerprint(), Escrow: "usb0", Copy: "current/1", Shelf: string(escrow.Current)}
	elsewhere, quarantined := adopted, adopted
	elsewhere.Event, elsewhere.Escrow = ledger.Saved, "another"
	quarantined.Event, quarantined.Copy, quarantined.Shelf = ledger.Saved, "quarantine/1", string(escrow.Quarantine)
	h.must(h.Ledger.Append(adopted, elsewhere, quarantined)) // none of them has saved it anew there
	look(agent.Lagging, "failed its last drill: it opened 0 of 7")
	h.now = h.now.Add(2 * time.Minute)
	h.must(save(&h.Host, a))
	look(agent.Green, "in every escrow that answers; the last drill failed, at 2026-03-01 12:00")
}

// TestStatusOfALostLedger: that what was on record is gone, or is about to go, is not green.
func TestStatusOfALostLedger(t *testing.T) {
	a := testKey("a")
	for name, tt := range map[string]struct {
		lose func(*host)
		ails agent.Ails
	}{
		"nothing is lost": {func(*host) {}, ""},
		"it was emptied": {func(h *host) {
			h.must(os.Truncate(h.path("state/ledger.jsonl"), 0))
			h.now = h.now.Add(2 * time.Hour)
		}, agent.AilsUnrecorded},
		"and begins anew": {func(h *host) {
			h.must(os.Remove(h.path("state/ledger.jsonl")))
			h.now = h.now.Add(2 * time.Hour)
			h.must(prove(&h.Host, a))
		}, agent.AilsUnrecorded},
		"a mount covers it": {func(h *host) {
			h.must(unix.Mount("keyguard-test", h.StateDir, "tmpfs", 0, "mode=0700"))
			h.t.Cleanup(func() { h.must(unix.Unmount(h.StateDir, unix.MNT_DETACH)) })
		}, agent.AilsForgets},
		"nothing can be kept": {func(h *host) {
			h.must(os.Rename(h.Keyfile.Quarantine, h.path("away")))
			h.must(os.Symlink("nowhere", h.Keyfile.Quarantine))
		}, agent.AilsUnkept},
		"nor written": {func(h *host) {
			flag(h, "state/quarantine", unix.STATX_ATTR_IMMUTABLE)
		}, agent.AilsUnkept},
		"there is no local quarantine yet": {func(h *host) { h.must(os.Rename(h.Keyfile.Quarantine, h.path("away"))) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, nil, 1)
			h.write(a.UnsafeBytes())
			h.must(h.Keyfile.Keep(a, h.now))
			h.must(prove(&h.Host, a))
			h.must(save(&h.Host, a))
			tt.lose(h)
			r, err := agent.Status(t.Context(), &h.Host)
			if err != nil {
				t.Fatal(err)
			}
			if tt.ails == "" && r.Health == agent.Green {
				return
			}
			if len(r.Ailments) == 0 || r.Ailments[0].Ails != tt.ails || r.Health != agent.Amiss {
				t.Fatalf("%s: %s, %+v", r.Health, r.Line, r.Ailments)
			}
			if tt.ails == agent.AilsUnrecorded {
				h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Accepted, Fingerprint: a.Fingerprint(), Verdict: string(rows.Silent)}))
				if r, err := agent.Status(t.Context(), &h.Host); err != nil || r.Health != agent.Green {
					t.Errorf("accepted: %s: %s, %v", r.Health, r.Line, err)
				}
			}
		})
	}
}

// TestStatusWithoutRows: while the rows cannot be asked a person's word for a key is no more than what
// the rows said when it was given.
func TestStatusWithoutRows(t *testing.T) {
	a := testKey("a")
	for look, want := range map[rows.Verdict]agent.Health{
		rows.Opens: agent.Green, rows.Partial: agent.Amiss, rows.Refuted: agent.Amiss, rows.Silent: agent.Amiss, rows.Unknown: agent.Amiss,
	} {
		t.Run(string(look), func(t *testing.T) {
			h := newHost(t, nil, 1)
			h.up = false
			h.write(a.UnsafeBytes())
			h.must(save(&h.Host, a))
			h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Accepted, Fingerprint: a.Fingerprint(), Verdict: string(look)}))
			r, err := agent.Status(t.Context(), &h.Host)
			if err != nil || r.Health != want || want != agent.Green && r.Ailments[0].Ails != agent.AilsUnproven {
				t.Errorf("%s: %s, %v", r.Health, r.Line, err)
			}
		})
	}
}

// TestStatusNamesTheKey: whoever looks for the key that is needed is told which one.
func TestStatusNamesTheKey(t *testing.T) {
	a := testKey("a")
	db := server.Cluster(t).Database(t)
	for name, tt := range map[string]struct {
		up     bool
		health agent.Health
	}{"no key opens a row": {true, agent.Gone}, "the rows cannot be asked": {false, agent.Unsure}} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, db, 1)
			h.rowsUnder(a)
			h.must(prove(&h.Host, a))
			h.up = tt.up
			r, err := agent.Status(t.Context(), &h.Host)
			if err != nil || r.Health != tt.health || strings.Count(r.Line, string(a.Fingerprint())) != 1 {
				t.Errorf("%s: %s, %v", r.Health, r.Line, err)
			}
		})
	}
}

// TestPartsOnEachOthersStores: two members of a split were mounted the other way round. Nobody but
// this host has written there: all that judge say so, and a person's word adopts nothing.
func TestPartsOnEachOthersStores(t *testing.T) {
	a := testKey("a")
	h, _ := inParts(t, a)
	h.backup()
	h.must(errors.Join(os.Rename(h.path("usb1"), h.path("x")), os.Rename(h.path("usb2"), h.path("usb1")), os.Rename(h.path("x"), h.path("usb2"))))
	look := func() {
		t.Helper()
		r, err := agent.Status(t.Context(), &h.Host)
		h.must(err)
		if len(r.Ailments) == 0 || r.Ailments[0].Ails != agent.AilsRefuses || r.Escrows[0].Alarm != "" {
			t.Errorf("%s, %+v", r.Line, r.Ailments)
		}
	}
	look()
	if r, err := agent.Backup(t.Context(), &h.Host); err != nil || r.Escrows[0].Alarm || !errors.Is(r.Escrows[0].Err, escrow.ErrPartMoved) {
		t.Errorf("%+v, %v", r.Escrows, err)
	}
	if r, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{DryRun: true}); !errors.Is(err, escrow.ErrPartMoved) || errors.Is(err, decide.ErrForeignCopy) {
		t.Errorf("%+v, %v", r, err)
	}
	r, err := agent.Accept(t.Context(), &h.Host, agent.AcceptOptions{Confirm: yes})
	if err != nil || len(r.Adopted) > 0 {
		t.Errorf("%+v, %v", r.Adopted, err)
	}
	look()

	b := testKey("b")
	h.write(b.UnsafeBytes())
	h.rowsUnder(b)
	drilled, err := agent.Drill(t.Context(), &h.Host, agent.DrillOptions{Scratch: scratch(t)})
	h.must(err)
	if err := drilled.Copies[0].Err; !errors.Is(err, escrow.ErrPartMoved) || errors.Is(err, decide.ErrForeignCopy) {
		t.Errorf("%s: %v", drilled.Reason, err)
	}
}
