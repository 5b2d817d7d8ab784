package worlds

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/hooks"
)

// host is one machine: a disk, a daemon with its table, and keyguard.
type host struct {
	w       *world
	name    string
	disk    *disk
	table   *table
	stores  []*store
	daemon  daemon
	watcher watcher
	boot    int
	clock   time.Duration    // by which the host's clock is ahead
	silent  bool             // systemd does not answer: nobody can tell where the database is
	tardy   time.Duration    // before systemd answers
	images  []image          // snapshots of the machine
	off     time.Time        // when it comes up again after a power cut; zero: it is up
	removed time.Time        // when somebody last took something of it away
	rolled  bool             // back, once
	word    *word            // what a person accepted here, as long as nobody has done anything about it since
	asked   map[string]asked // by store: when a start asked it last
	read    struct {         // of the ledger, last
		number, written int64 // of the file
		data            []byte
		lines           []line
	}
}

// word is a person's for a key.
type word struct {
	key   key.Fingerprint
	worth int  // of what the rows said of it
	open  bool // a rotation was: by R1 the rows say which of its keys it is, before anybody's word
}

// daemon is the guarded one: prestart, then minutes, then it reads the key once.
type daemon struct {
	up     bool
	reads  time.Time       // when it reads its key; zero: it has
	holds  key.Fingerprint // "": it runs without secrets
	failed bool            // it read a file that was no key
	start  int             // counts its starts
	again  time.Time       // when systemd tries a refused start again; zero: it does not
	tries  int
}

// watcher is the long-lived process.
type watcher struct {
	alive   bool
	stopped bool // by a person
	release func()
	next    time.Time // its next look
	kept    key.Fingerprint
	refused int                          // looks in a row in which a store did not take a first key
	pace    time.Duration                // of its looks, as long as they find the same
	looked  time.Time                    // its last look
	saw     *sight                       // what that depended on, where there was nothing to do
	same    int                          // how many looks before that found the same
	since   time.Time                    // it lives
	asked   bool                         // the rows have answered since the daemon's last start
	restart int                          // the start of the daemon that it has restarted
	retry   map[string]time.Time         // by escrow
	failed  map[string]int               // by escrow: how often in a row
	visited map[string]time.Time         // by escrow: when the store was asked last
	left    map[string][]key.Fingerprint // by escrow: what was due there still after a visit that succeeded
	leftAt  map[string]time.Time         // and when that was
	quiet   map[string]int               // by what asks the disk alone: its version when there was nothing to do
}

func (h *host) path(name string) string { return h.disk.root + "/" + name }

func (h *host) keyfile() string { return h.path("etc/secrets.key") }

// live is what stands in the keyfile's place; ok tells whether the daemon would load it.
func (h *host) live() (data []byte, ok bool) {
	f := h.disk.names[h.keyfile()]
	if f == nil {
		return nil, false
	}
	return f.data, len(f.data) == key.Size && f.mode.Perm()&0o077 == 0
}

func (h *host) now() time.Time { return time.Now().Add(h.clock) }

// recovers ends what ails its disk, its rows and systemd.
func (h *host) recovers() {
	h.disk.mend()
	h.removed = time.Now() // what is missing by now can be put back only from now on
	h.table.down, h.table.noTable, h.table.slow = false, false, 0
	h.silent, h.tardy = false, 0
}

// process is one run of keyguard. It may die before any of its effects.
type process struct {
	w      *world
	h      *host
	name   string
	began  time.Time
	n      int   // effects so far
	dies   int   // before this one; 0: never
	at     phase // before this one
	dead   bool
	rows   bool                       // it has asked the rows
	looked bool                       // and they have answered it
	seen   map[string]key.Fingerprint // what they were at its last look, nil where it has begun a save since
	calls  int                        // of stores
	starts bool                       // it is prestart
	of     map[string]int             // by store: how often it was called
	listed map[string]bool            // by store
	// changed are the stores to which it has saved since they showed it what they have.
	changed map[string]bool
	shown   map[string]time.Time // by store: when it showed it last what it has
	failed  atomic.Bool          // a store has failed it
	crossed func()               // happens in the midst of what it does with stores,
	after   int                  // when this has come to 0
	// recalled is when it looked up what the starts before had been told.
	recalled time.Time
	found    [2]int          // and what it found then in the keyfile's place
	wrote    map[string]bool // paths
	made     map[*inode]bool // files that were not there before
	// passing are those of made that nobody else has seen anything of yet, unless it dies.
	passing map[*inode]bool
}

// errDead is what a dead process hears: nothing it does has an effect any more.
var errDead = errors.New("this process is dead")

// effect is something that others can see, of whom and what.
func (p *process) effect(of, what string) error {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if p.dead {
		return errDead
	}
	if p.n++; p.at.is(of, what) {
		p.dies = p.n
	}
	if p.n == p.dies {
		p.dead = true
		p.w.tell("    %s dies before its effect %d: %s %s", p.name, p.n, of, what)
		return errDead
	}
	return nil
}

// agent is the host as that process has it: the real code around simulated things.
func (p *process) agent() *agent.Host {
	h, state := p.h, p.h.path("state")
	a := &agent.Host{
		Keyfile:  keyfile.File{Path: h.keyfile(), Quarantine: filepath.Join(state, "quarantine"), Locks: state},
		Ledger:   ledger.Open(state, ledger.Options{Host: h.name, Machine: h.name, Version: "worlds", Now: h.now}),
		Machine:  h.name,
		StateDir: state,
		Now:      h.now,
		OpenRows: func(ctx context.Context, _ rows.Options) (agent.Rows, error) {
			p.rows = true
			if h.systemd(ctx, time.Second) != nil || h.silent {
				return nil, fmt.Errorf("%w: systemd does not answer", rows.ErrElsewhere)
			}
			return session{h.table, p}, nil
		},
	}
	for _, s := range h.stores {
		if s.part == (escrow.PartOf{}) {
			v := &view{s, p}
			a.Escrows = append(a.Escrows, agent.Escrow{Reader: v, Writer: v, Required: !s.optional})
		}
	}
	if s, there := p.split(); there {
		a.Escrows = append(a.Escrows, agent.Escrow{Reader: s, Writer: s, Required: true})
	}
	a.Daemon = agent.Daemon{
		Running: func(ctx context.Context) ([]string, error) {
			if err := h.systemd(ctx, time.Minute); err != nil {
				return nil, err
			}
			// One that systemd is about to try again is not at rest.
			if err := p.effect("systemd", "what runs"); err != nil || !h.daemon.up && h.daemon.again.IsZero() {
				return nil, err
			}
			return []string{"containarium.service"}, nil
		},
		Stop: func(ctx context.Context) error {
			if err := h.systemd(ctx, time.Minute); err != nil {
				return err
			}
			if err := p.effect("systemd", "stop"); err != nil {
				return err
			}
			h.daemon = daemon{start: h.daemon.start}
			return nil
		},
		Start: func(ctx context.Context, _ []string) error {
			if err := h.systemd(ctx, time.Minute); err != nil {
				return err
			}
			if err := p.effect("systemd", "start"); err != nil {
				return err
			}
			return p.w.start(h)
		},
	}
	return a
}

// systemd waits until it answers, and no longer than patience.
func (h *host) systemd(ctx context.Context, patience time.Duration) error {
	if h.tardy == 0 {
		return nil
	}
	select {
	case <-time.After(min(h.tardy, patience)):
	case <-ctx.Done():
		return ctx.Err()
	}
	if h.tardy > patience {
		return context.DeadlineExceeded
	}
	return nil
}

// run lets a process do something, and buries it if it died of it.
func (w *world) run(h *host, name string, dies int, do func(context.Context, *process, *agent.Host)) *process {
	p := &process{w: w, h: h, name: name, began: time.Now(), dies: dies, at: w.at, wrote: map[string]bool{}, of: map[string]int{}, listed: map[string]bool{}, changed: map[string]bool{}, shown: map[string]time.Time{}, starts: strings.HasSuffix(name, ": prestart"), made: map[*inode]bool{}, passing: map[*inode]bool{}}
	w.running, w.at = append(w.running, p), phase{}
	if w.crossed != nil {
		p.crossed, p.after, w.crossed = w.crossed, 1+w.rand.IntN(12), nil
	}
	before := w.held()
	w.settle(before)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	do(ctx, p, p.agent())
	cancel()
	w.running = w.running[:len(w.running)-1]
	if len(p.passing) > 0 {
		h.disk.shown = h.disk.version
	}
	if p.dead && p.n == p.dies {
		w.died(p)
	}
	w.judge(p, before)
	return p
}

// died buries a process: it was killed, or the power was cut.
func (w *world) died(p *process) {
	if !w.killed && w.rand.IntN(3) > 0 {
		w.powerCut(p.h)
		return
	}
	if strings.HasSuffix(p.name, ": watcher") {
		w.stopWatcher(p.h)
		p.h.watcher.next = time.Now().Add(time.Second)
	}
}

// powerCut takes a machine down, and with it all that was not synced.
func (w *world) powerCut(h *host) {
	w.tell("    %s: the power is cut", h.name)
	for _, p := range w.running {
		if p.h == h {
			p.dead = true
		}
	}
	w.stopWatcher(h)
	h.disk.crash(w.rand)
	h.boots()
	h.disk.dirs[h.path("state")] = true // tmpfiles.d
	if h.disk.real {
		must(os.MkdirAll(h.path("state"), 0o700))
	}
	h.daemon = daemon{start: h.daemon.start}
	h.boot++
	h.off = time.Now().Add(5 * time.Second)
}

// boots makes /run anew, which no disk keeps: it is real.
func (h *host) boots() {
	left, err := os.ReadDir(h.disk.run)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(h.disk.run, 0o700)
	}
	must(err)
	for _, e := range left {
		must(os.RemoveAll(filepath.Join(h.disk.run, e.Name())))
	}
}

func (w *world) stopWatcher(h *host) {
	if h.watcher.release != nil {
		h.watcher.release()
	}
	h.watcher = watcher{stopped: h.watcher.stopped}
}

// comesUp is a boot.
func (w *world) comesUp(h *host) {
	h.off = time.Time{}
	w.tell("    %s comes up", h.name)
	if !h.watcher.stopped {
		w.watch(h)
	}
	w.start(h) //nolint:errcheck // it tells
}

// prestart runs what systemd runs before the daemon, and says whether it may start.
func (w *world) prestart(h *host, dies int) (may bool) {
	began, was := time.Now(), w.before(h)
	var result agent.GuardResult
	var err error
	p := w.run(h, h.name+": prestart", dies, func(ctx context.Context, p *process, a *agent.Host) {
		result, err = hooks.Prestart(ctx, a, hooks.PrestartOptions{Budget: budget, RunDir: h.path("run"), Configuration: "c",
			Clock: func() (string, time.Duration) {
				p.recalled, p.found = time.Now(), h.touched()
				return fmt.Sprint(h.boot), time.Since(w.epoch)
			}})
	})
	if took := time.Since(began); took > budget+5*time.Second {
		w.broken("budget", "prestart took %s of %s", took, budget)
	}
	data, good := h.live()
	_, staged := h.disk.names[h.keyfile()+".next"]
	switch {
	case !h.off.IsZero():
		return false
	case !p.dead && err == nil:
		switch result.Decision.Action {
		case decide.Doubt, decide.Lost:
			may = result.Parked
		default:
			may = true
		}
		w.tell("    %s: %s %s: %s (parked: %t)", p.name, result.Decision.Rule, result.Decision.Action, result.Decision.Reason, result.Parked)
	case !p.dead && errors.Is(err, agent.ErrBusy), !p.dead && errors.Is(err, agent.ErrNotPlaced):
		w.tell("    %s refuses: %v", p.name, err)
	case good && !staged:
		w.tell("    the hook passes what is there: %v", err)
		may = true
	case h.disk.readOnly == h.path("etc"), h.disk.noInodes, h.disk.immutable != "" && len(data) > 0:
		w.tell("    the hook refuses, as it cannot park: %v", err)
	default:
		w.tell("    the hook parks: %v", err)
		if len(data) > 0 {
			h.disk.put(h.path("etc/.keyguard-20000101T000000.000000Z"), data, 0o400)
		}
		h.disk.put(h.keyfile(), nil, 0o400)
		may = true
	}
	if !p.dead {
		if may && p.looked {
			w.startsOn(h, p, result)
		}
		if !errors.Is(err, agent.ErrBusy) {
			w.after(h, p, was, result, may)
		}
	}
	if err == nil && (result.Decision.Action == decide.Install || result.Decision.Action == decide.Make) {
		clear(h.asked) // it forgets, too
	}
	return may
}

// budget is prestart's.
const budget = 20 * time.Second

// start starts the daemon: its prestart now, and its look at the key a while later.
func (w *world) start(h *host) error {
	if h.daemon.up {
		return nil
	}
	if !w.prestart(h, w.dies()) {
		h.daemon.tries++
		h.daemon.again = time.Now().Add(min(5*time.Second<<min(h.daemon.tries, 6), 5*time.Minute))
		return errors.New("the start was refused")
	}
	h.daemon = daemon{up: true, start: h.daemon.start + 1, reads: time.Now().Add(w.takes())}
	h.watcher.asked, h.watcher.next = false, time.Now().Add(time.Second)
	return nil
}

// read is the daemon's look at its key, the only one: it mints where none is.
func (w *world) read(h *host) {
	due := h.daemon.reads
	h.daemon.reads = time.Time{}
	if h.table.down { // after five tries it goes on without secrets
		w.tell("    %s: the daemon does not reach Postgres and runs without secrets", h.name)
		return
	}
	data, good := h.live()
	switch {
	case good:
		k, _ := key.New(data)
		h.daemon.holds = k.Fingerprint()
		w.tell("    %s: the daemon reads key %s", h.name, h.daemon.holds)
	case h.disk.names[h.keyfile()] == nil && (h.disk.full || h.disk.noInodes || h.disk.readOnly == h.path("etc")):
		h.daemon.failed = true
		w.tell("    %s: the daemon finds no key, can make none, and runs without secrets", h.name)
	case h.disk.names[h.keyfile()] == nil:
		k := w.makeKey()
		h.daemon.holds = k.Fingerprint()
		h.disk.put(h.keyfile(), k.UnsafeBytes(), 0o400)
		w.tell("    %s: the daemon finds no key and mints %s", h.name, h.daemon.holds)
		w.minted(h, h.daemon.holds, due)
	default:
		h.daemon.failed = true
		w.tell("    %s: the daemon finds %d bytes and runs without secrets", h.name, len(data))
	}
}

// watch starts the watcher.
func (w *world) watch(h *host) {
	p := &process{w: w, h: h, name: h.name + ": watcher"}
	a := p.agent()
	hold, err := agent.HoldWatch(a)
	if err != nil {
		w.tell("    %s: the watcher does not start: %v", h.name, err)
		return
	}
	h.watcher = watcher{alive: true, since: time.Now(), release: hold.Release, next: time.Now(), retry: map[string]time.Time{}, failed: map[string]int{}, quiet: map[string]int{}, visited: map[string]time.Time{}, left: map[string][]key.Fingerprint{}, leftAt: map[string]time.Time{}}
	for _, s := range a.Escrows {
		h.watcher.visited[s.Name()] = time.Now()
	}
}

// look is one round of the watcher, with its savers.
func (w *world) look(h *host, dies int) {
	t := &h.watcher
	if !t.alive {
		return
	}
	t.next = time.Now().Add(time.Minute)
	if w.calm { // what a look finds every minute it finds every ten, too
		t.next = time.Now().Add(10 * time.Minute)
	}
	began, start, before, again := time.Now(), h.daemon.start, h.sight(), h.idle()
	var p *process
	defer func() {
		t.pace, t.looked, t.saw = t.next.Sub(began), began, nil
		if t.same++; !again {
			t.same = 0
		}
		// One that takes long may have another end, where what it waits for changes meanwhile.
		if now := h.sight(); now == before && time.Since(began) < time.Second {
			now = now.askedBy(p)
			t.saw = &now
		}
	}()
	saved, rule := false, ""
	p = w.run(h, h.name+": watcher", dies, func(ctx context.Context, p *process, a *agent.Host) {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		t.unlessQuiet(h, "keep", func() bool {
			f, err := agent.KeepKeyfile(a, t.kept)
			if err == nil {
				t.kept = f
			}
			return err == nil
		})
		unread, was := h.daemon.up && !h.daemon.reads.IsZero(), w.before(h)
		r, err := agent.Tend(ctx, a, agent.TendOptions{Prove: true, DaemonRead: !unread, Park: unread, Starting: unread})
		if p.dead {
			return
		}
		w.did(h, p, was, r.GuardResult)
		w.tell("    %s: %s %s: %s (withheld: %q, err: %v)", p.name, r.Decision.Rule, r.Decision.Action, r.Decision.Reason, r.Withheld, err)
		if p.looked {
			t.asked = true
		}
		if rule = r.Decision.Rule; r.Decision.Action != decide.Pass {
			rule = ""
		}
		if r.Waiting || unread || err != nil || h.daemon.up && !t.asked {
			t.next = time.Now().Add(time.Second)
		}
		// Nobody says again that there is no copy before the store may be asked again, and so
		// makes no other first key.
		if t.refused++; !strings.HasPrefix(r.Decision.Reason, "a first key was made") {
			t.refused = 0
		} else {
			t.next = time.Now().Add(min(5*time.Second<<min(t.refused, 5), 2*time.Minute))
		}
		t.unlessQuiet(h, "resume", func() bool {
			units, err := agent.Resume(ctx, a)
			if err != nil || units != nil {
				w.tell("    %s starts the daemon again: %v", p.name, err)
			}
			return err == nil && units == nil
		})
		if _, good := h.live(); good && h.daemon.up && h.daemon.failed && t.restart != h.daemon.start {
			t.restart = h.daemon.start
			w.tell("    %s restarts the daemon, which has read an empty file", p.name)
			h.daemon = daemon{start: h.daemon.start}
			w.start(h) //nolint:errcheck // systemd tries again
		}
		for _, s := range a.Escrows {
			saved = w.save(ctx, h, p, a, s.Name()) || saved
		}
	})
	if p.calls > 0 && rule == "R2" && !saved && h.daemon.start == start {
		w.broken("law 9", "law 9: the watcher of %s found the known key, had nothing to save, and called stores %d times", h.name, p.calls)
	}
}

// unlessQuiet calls f, which asks nothing but the disk, unless the last time it had nothing
// to do and the disk is the same still.
func (t *watcher) unlessQuiet(h *host, what string, f func() (quiet bool)) {
	if at, there := t.quiet[what]; there && at == h.disk.shown {
		return
	}
	delete(t.quiet, what)
	if f() && t.quiet != nil {
		t.quiet[what] = h.disk.shown
	}
}

// save is what the saver of one escrow does when it is woken. It tells whether it asked.
func (w *world) save(ctx context.Context, h *host, p *process, a *agent.Host, name string) bool {
	t := &h.watcher
	if p.dead || time.Now().Before(t.retry[name]) {
		return false
	}
	var saved []agent.SaveResult
	var err error
	asked, more := false, true
	// What a visit leaves due is not due because of the store.
	if left := t.left[name]; len(left) > 0 && time.Since(t.leftAt[name]) < time.Hour {
		due, err := agent.Due(a, name)
		more = err != nil || !slices.Equal(due, left)
	}
	if more {
		t.unlessQuiet(h, "due "+name, func() bool {
			before := p.calls
			saved, err = agent.SaveDue(ctx, a, name)
			asked = p.calls > before
			return err == nil && !asked
		})
	}
	revisit := !asked && !p.dead && time.Since(t.visited[name]) >= time.Hour
	if revisit {
		saved, err = agent.Revisit(ctx, a, name)
	}
	if !asked && !revisit {
		return false
	}
	delete(t.retry, name)
	t.failed[name]++
	for _, s := range saved {
		w.tell("    %s: key %s to %s of %s (%s) %v", p.name, s.Key, s.Shelf, name, s.Why, s.Err)
	}
	if err == nil {
		t.failed[name] = 0
		if revisit {
			t.visited[name] = time.Now()
			return true
		}
		due, _ := agent.Due(a, name) // the ledger is asked again next time
		t.leftAt[name] = time.Now()
		t.left[name] = slices.DeleteFunc(due, func(f key.Fingerprint) bool {
			return !slices.ContainsFunc(saved, func(s agent.SaveResult) bool { return s.Key == f })
		})
		return true
	}
	delete(t.left, name)
	t.visited[name] = time.Now()
	t.retry[name] = time.Now().Add(30 * time.Second << min(t.failed[name]-1, 4))
	return true
}
