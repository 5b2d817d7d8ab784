package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

const (
	// proofEvery is how often the rows are asked about a key that is known.
	proofEvery = time.Hour
	// roundBudget bounds one round, well within the unit's WatchdogSec=.
	roundBudget = 20 * time.Second
	// parkedFirst is how often a parked keyfile is decided on at first; the pause doubles up
	// to the rescan once the daemon has tried to read its key.
	parkedFirst = time.Second
	// startTakes is how long after its start the daemon may be about to read its key.
	startTakes = 15 * time.Minute
	// secondLook is how long after another key took the keyfile's place the rows are asked
	// again: who still writes under the one before shows by then.
	secondLook = 5 * time.Minute
	// resumeTimeout bounds a start of the daemon, which systemd gives 90 s.
	resumeTimeout = 2 * time.Minute
	// followAgain is the pause before the journal is followed again after it ended.
	followAgain = 10 * time.Second
	// patience bounds, in debounces, how long events that keep coming put a round off.
	patience = 4
)

// WatchOptions are what the configuration says, and how to reach systemd.
type WatchOptions struct {
	Debounce, Rescan time.Duration
	Heal             bool
	RunDir           string
	Configuration    string
	// Follow hands on what the daemon's journal has told, unit.CaughtUp, and then what it
	// tells, until ctx ends. nil: there is no unit.
	Follow func(ctx context.Context, line func(unit.Line)) error
	// Restart restarts the daemon if this is still its invocation, and returns when that
	// is done. nil: there is no unit.
	Restart func(ctx context.Context, invocation string) error
	// Tell is called for what a person should know, never by two goroutines at once. It
	// does not wait.
	Tell func(Event)
	// Status sets the status line of the unit, sd_notify(3).
	Status func(string)
	// Ready is called before any network or database is touched.
	Ready func()
	// Beat is called by a loop that is alive, every BeatEvery; 0 is never.
	Beat      func()
	BeatEvery time.Duration
	Clock     Clock // nil is BootClock
}

// watcher is one run of Watch. Its fields belong to the loop's goroutine.
type watcher struct {
	h   *agent.Host
	o   WatchOptions
	fs  *fsnotify.Watcher // nil: the kernel has none left, and everything is polled
	dir string
	// names are the directories that are watched, as they were then.
	names map[string]inode
	// deaf is why a directory is not watched, as it was told.
	deaf map[string]string

	debounce *time.Timer
	pending  time.Time // since when the debounce runs; zero: it does not
	prove    bool      // the next round asks the rows

	seen     string // what the keyfile was at the last round; "": nothing is settled
	kept     key.Fingerprint
	lastLook time.Time
	second   time.Time       // when the rows are asked once more about a key that is new; zero: never
	states   map[string]bool // what this round has said
	before   map[string]bool // what the round before said, not to repeat it every round
	lost     stated          // that the key was lost when all were asked; zero where that is over
	provenAs string          // what was told of the last proof, and when
	provenAt time.Time
	emptied  key.Fingerprint // the key in whose place this watcher has put an empty keyfile; "" for none
	parked   time.Duration   // until a parked keyfile is decided on again; 0: none is

	daemon daemon

	flight *flight      // the round that is under way, or nil
	landed chan outcome // of that round
	again  bool         // another one is due after it
	// waiting is what the journal has told of a key that nobody can name before the round
	// ends: it may have touched the keyfile, and then only it knows what was there.
	waiting []func()

	savers    []*saver
	restarts  chan error
	restarted string // the invocation that was restarted
	resumes   chan resumed
	resuming  bool // a daemon that was left stopped is being started
	running   *crew.Group
}

// flight is a round under way. It may wait for a store that hangs, and the loop does not.
type flight struct {
	there  string // what the keyfile was when it began
	began  time.Time
	look   time.Time // the same by the host's clock: what the rows say is as old as this
	stop   context.CancelFunc
	memory func() *memory
	// invocation is the start of the daemon that it began in.
	invocation string
}

// outcome is how a round ended.
type outcome struct {
	r   agent.TendResult
	err error
}

// resumed is how starting a daemon that was left stopped ended.
type resumed struct {
	units []string
	err   error
}

// daemon is what the journal tells of the daemon's present start.
type daemon struct {
	caughtUp   bool // the journal was read to its present end
	invocation string
	began      time.Time // by the host's clock
	said       map[unit.Said]bool
	readAt     time.Time       // when the journal got that it has read its key; zero: it has not, or that is not told
	answered   bool            // the rows have said something since it began, and all is well
	holds      key.Fingerprint // the key it runs on, "" where that is not known
	recorded   bool            // that it reads it stands in the ledger
	// replaced is the key that this watcher took out of the keyfile's place during this
	// start, and when.
	replaced   key.Fingerprint
	replacedAt time.Time
	// closed is the key whose file this watcher has closed to others, and since when it had
	// stood there until then.
	closed     key.Fingerprint
	closedThen time.Time
	trouble    string // why the journal could not be followed, as it was reported
}

// news is a line of the daemon's journal, or why there are none.
type news struct {
	line unit.Line
	err  error
}

// read tells whether the daemon has read its key, or made one.
func (d *daemon) read() bool {
	return d.said[unit.Ready] || d.said[unit.Minted] || d.said[unit.Loaded] || d.said[unit.Disabled]
}

// tried tells whether the daemon will not look at the keyfile any more.
func (d *daemon) tried() bool {
	return d.read() || d.said[unit.Empty] || d.said[unit.Failed] || d.said[unit.Untouched]
}

// unread tells whether the daemon was started and has not tried to read its key yet, as
// far as the journal tells. Where none was ever started there is nobody to park for; where
// there is no unit that would tell, one may be about to.
func (w *watcher) unread() bool {
	d := &w.daemon
	return w.o.Follow == nil || d.caughtUp && d.invocation != "" && !d.tried()
}

// about tells whether the daemon may read its key, or make one, at any moment.
func (d *daemon) about(now time.Time) bool {
	return d.invocation != "" && !d.tried() && now.Sub(d.began) < startTakes
}

type inode struct{ dev, ino uint64 }

// Watch looks after the keyfile and its copies until ctx ends. It watches the keyfile's
// directory and the one above, since the directory itself may go; and since events can
// be lost, or never come, it compares everything again at every rescan.
func Watch(ctx context.Context, h *agent.Host, opts WatchOptions) (err error) {
	if opts.Clock == nil {
		opts.Clock = BootClock
	}
	w := &watcher{h: h, o: opts, dir: filepath.Dir(h.Keyfile.Path), names: map[string]inode{}, deaf: map[string]string{},
		daemon: daemon{caughtUp: opts.Follow == nil, said: map[unit.Said]bool{}}, restarts: make(chan error), resumes: make(chan resumed), landed: make(chan outcome)}
	ctx, stop := context.WithCancel(ctx)
	// Without one of its parts it is no watcher, and systemd starts another.
	w.running, ctx = crew.WithContext(ctx)
	saves := make(chan saved)
	for i := range h.Escrows {
		s := newSaver(h, h.Escrows[i].Name(), opts.Clock)
		w.savers = append(w.savers, s)
		w.running.Go(func() error { s.run(ctx, saves); return nil })
	}
	journal := make(chan news)
	w.running.Go(func() error { w.follow(ctx, journal); return nil })
	defer func() { err = cmp.Or(w.running.Wait(), err) }()
	defer stop()
	defer func() {
		if w.fs != nil {
			w.fs.Close()
		}
	}()
	return w.loop(ctx, journal, saves)
}

func (w *watcher) loop(ctx context.Context, journal <-chan news, saves <-chan saved) error {
	w.o.Ready()
	rescan := time.NewTicker(w.o.Rescan)
	defer rescan.Stop()
	var beat <-chan time.Time
	if w.o.BeatEvery > 0 {
		w.o.Beat() // the loop before this one may have beaten long ago
		t := time.NewTicker(w.o.BeatEvery)
		defer t.Stop()
		beat = t.C
	}
	w.debounce = time.NewTimer(time.Hour)
	w.debounce.Stop()
	parked := time.NewTimer(time.Hour)
	parked.Stop()
	w.prove = true
	w.round(ctx)
	for {
		var events <-chan fsnotify.Event
		var lost <-chan error
		if w.fs != nil {
			events, lost = w.fs.Events, w.fs.Errors
		}
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-events:
			if !ok {
				return errors.New("the kernel ended the watch")
			}
			w.event(e)
		case err, ok := <-lost:
			if !ok {
				return errors.New("the kernel ended the watch")
			}
			// An overflow, above all: what happened is unknown, so everything is read again.
			w.o.Tell(Event{Text: "changes in " + w.dir + " came too fast to be told one by one; everything is read again", Err: err})
			w.names = map[string]inode{}
			w.soon()
		case <-w.debounce.C:
			w.round(ctx)
		case <-rescan.C:
			w.rewatch()
			if w.rescan() {
				w.round(ctx)
			}
		case <-beat:
			// A round that does not even end when its time is over hangs, and so do we.
			if w.flight == nil || time.Since(w.flight.began) < 2*roundBudget {
				w.o.Beat()
			}
		case <-parked.C:
			w.prove = true
			w.round(ctx)
		case o := <-w.landed:
			w.land(ctx, o)
			if w.parked > 0 {
				parked.Reset(w.parked)
			} else {
				parked.Stop()
			}
		case n := <-journal:
			if w.heard(n) {
				w.prove = true
				w.soon()
			}
		case err := <-w.restarts:
			if err != nil {
				w.o.Tell(Event{Name: RestartNeeded, Text: "the daemon could not be restarted, and runs without the key that is in place: systemctl restart containarium", Err: err})
			}
		case r := <-w.resumes:
			w.resuming = false
			w.tellResumed(r)
		case s := <-saves:
			if len(s.results) > 0 { // what an escrow answered before is not what it holds now
				_ = ForgetBackoff(w.o.RunDir) // what cannot be taken away is hearsay, and no more
			}
			w.tellSaved(s)
			// A save is rare, and what it took besides is not needed for weeks: without
			// this the runtime keeps most of it, a tenth of all that is resident.
			debug.FreeOSMemory()
		}
	}
}

// soon makes a round due when nothing has happened for a debounce: who writes a file
// may not be done yet. Who never stops is not waited for.
func (w *watcher) soon() {
	now := time.Now()
	if w.pending.IsZero() {
		w.pending = now
	}
	if now.Sub(w.pending) < patience*w.o.Debounce {
		w.debounce.Reset(w.o.Debounce)
	}
}

// event takes in what happened to a name: the keyfile's, its staged successor's, or a
// directory's on the way to it. The daemon's self-check and our own asides are not
// ours to mind.
func (w *watcher) event(e fsnotify.Event) {
	switch e.Name {
	case w.h.Keyfile.Path, w.h.Keyfile.Path + ".next":
	case w.dir, filepath.Dir(w.dir):
		if e.Op&(fsnotify.Create|fsnotify.Remove|fsnotify.Rename) != 0 {
			// Another directory has the name now, perhaps with the number of the one before.
			delete(w.names, e.Name)
		}
	default:
		return
	}
	w.soon()
}

// rewatch makes sure that the watches are on the directories that have the names now:
// a rename, a removal or a mount leaves them on something else, or on nothing, without
// a word.
func (w *watcher) rewatch() {
	if w.fs == nil {
		fs, err := fsnotify.NewWatcher()
		if w.hear("", err); err != nil {
			return
		}
		w.fs = fs
	}
	watched := w.fs.WatchList()
	for _, dir := range []string{w.dir, filepath.Dir(w.dir)} {
		now, there := inodeOf(dir)
		before, known := w.names[dir]
		has := slices.Contains(watched, dir)
		if there && has && known && now == before {
			continue
		}
		delete(w.names, dir)
		if has {
			w.fs.Remove(dir) //nolint:errcheck // it may have gone with its directory
		}
		if !there {
			continue
		}
		err := w.fs.Add(dir)
		if inotify, there := inodeOf(dir); err != nil && !(there && inotify == now) {
			continue // it went meanwhile
		}
		if w.hear(dir, err); err == nil {
			w.names[dir] = now
		}
	}
}

// hear tells once, for as long as it stays the same, that no events come from a directory,
// or from none.
func (w *watcher) hear(dir string, err error) {
	text := ""
	if err = unit.InotifyError(err); err != nil {
		text = err.Error()
	}
	if w.deaf[dir] == text {
		return
	}
	if w.deaf[dir] = text; err != nil {
		w.o.Tell(Event{Urgent: true, Text: fmt.Sprintf("cannot watch %s; changes there are noticed only every %s", cmp.Or(dir, w.dir), w.o.Rescan), Err: err})
	}
}

func inodeOf(path string) (inode, bool) {
	// The loop must not hang here.
	info, err := crew.Stat(path)
	if err != nil {
		return inode{}, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return inode{}, false
	}
	return inode{st.Dev, st.Ino}, true
}

// rescan tells whether a round is due without any event: the keyfile is not what it
// was, a proof is due, or nothing is settled yet.
func (w *watcher) rescan() bool {
	return w.prove || w.seen == "" || w.due() || present(w.h) != w.seen
}

// due tells whether the rows are to be asked though nothing has happened.
func (w *watcher) due() bool {
	now := w.h.Now()
	return now.Sub(w.lastLook) >= proofEvery || !w.second.IsZero() && !now.Before(w.second)
}

// round lets agent.Tend decide and act once. One that is under way is called off where
// the keyfile has changed since; otherwise the next one waits for it.
func (w *watcher) round(ctx context.Context) {
	w.debounce.Stop()
	w.pending = time.Time{}
	w.rewatch()
	there := present(w.h)
	if w.flight != nil {
		w.again = true
		if there != w.flight.there {
			w.flight.stop()
		}
	} else {
		w.before, w.states = w.states, map[string]bool{}
	}
	if w.keep() {
		// The savers need not wait for a decision, which may wait for one escrow's answer.
		w.wake()
	}
	if w.flight != nil {
		return
	}
	gated, m := gateEscrows(w.h, func() *memory {
		return recall(w.o.RunDir, w.o.Configuration+" "+there, w.o.Clock)
	})
	opts := agent.TendOptions{
		Prove: w.prove || w.seen == "" || w.due(),
		// Before the journal has told, the daemon may have read its key long ago.
		DaemonRead: !w.daemon.caughtUp || w.daemon.read(),
		Park:       w.unread(),
		Starting:   w.daemon.about(w.h.Now()),
		Heal:       w.o.Heal,
		Remembered: func(mark string) map[key.Fingerprint]rows.Proof { return m().proofs(mark) },
	}
	w.prove = false
	limited, stop := context.WithTimeout(ctx, roundBudget)
	w.flight = &flight{there: there, began: time.Now(), look: w.h.Now(), stop: stop, memory: m, invocation: w.daemon.invocation}
	w.running.Go(func() error {
		defer stop()
		r, err := agent.Tend(limited, gated, opts)
		select {
		case w.landed <- outcome{r, err}:
		case <-ctx.Done():
		}
		return nil
	})
}

// land takes in how a round ended, tells what a person should know of it, and wakes the
// savers.
func (w *watcher) land(ctx context.Context, o outcome) {
	f, r := w.flight, o.r
	w.flight = nil
	if again := w.again; again {
		w.again = false
		defer w.round(ctx)
	}
	if r.Installed != "" && r.Evidence.Keyfile.Good {
		w.daemon.replaced, w.daemon.replacedAt = r.Evidence.Keyfile.Key, w.h.Now()
	}
	if r.Exposed != "" {
		w.daemon.closed, w.daemon.closedThen = r.Evidence.Keyfile.Key, r.Untouched
	}
	for _, understand := range w.waiting {
		understand()
	}
	w.waiting = nil
	if errors.Is(o.err, context.Canceled) {
		w.seen, w.states = "", w.before // it was called off, and says nothing
		return
	}
	if r.Evidence.Rows.State != decide.RowsNotAsked {
		remember(f.memory(), &r.GuardResult, o.err)
	}
	w.seen = f.there // not what is there now: that may have come after the decision
	switch r.Evidence.Rows.State {
	case decide.RowsAnswer:
		w.lastLook = f.look
		if !w.lastLook.Before(w.second) {
			w.second = time.Time{}
		}
	case decide.RowsSilent, decide.RowsUnknown:
		w.seen = "" // nothing is proven: the next rescan looks again
	}
	if o.err != nil || r.Held != "" || r.Decision.Action == decide.Doubt || r.Decision.Action == decide.Lost {
		w.seen = ""
	}
	settled := o.err == nil && r.Held == "" && !r.Waiting && r.Decision.Action != decide.Doubt && r.Decision.Action != decide.Lost
	answer := r.Evidence.Rows.State == decide.RowsAnswer || r.Evidence.Rows.State == decide.RowsSilent
	if settled && answer && f.invocation == w.daemon.invocation {
		w.daemon.answered = true
	}
	w.told(ctx, r, o.err)
	w.resume(ctx, r)
	w.pace(settled, r.Waiting)
	w.wake()
}

// keep copies a key that is new in the keyfile's place to the local quarantine: whoever
// put it there may take it away again before any escrow has it (law 3). It tells
// whether there was one.
func (w *watcher) keep() bool {
	k, err := agent.KeepKeyfile(w.h, w.kept)
	if err != nil {
		w.say("kept", Event{Urgent: true, Err: err,
			Text: fmt.Sprintf("key %s stands in the keyfile's place and could not be copied to the local quarantine", k)})
		return false
	}
	fresh := k != "" && k != w.kept
	w.kept = k
	if fresh {
		w.second = w.h.Now().Add(secondLook)
	}
	return fresh
}

// resume starts the daemon where a rotation or a repair stopped it and died: whatever
// was decided, since its own start looks at the key again.
func (w *watcher) resume(ctx context.Context, r agent.TendResult) {
	if !r.Evidence.Ledger.Stopped || w.resuming {
		return
	}
	w.resuming = true
	// That start may have to settle the rotation, and the loop does not wait for it.
	w.running.Go(func() error {
		limited, cancel := context.WithTimeout(ctx, resumeTimeout)
		defer cancel()
		units, err := agent.Resume(limited, w.h)
		select {
		case w.resumes <- resumed{units, err}:
		case <-ctx.Done():
		}
		return nil
	})
}

func (w *watcher) tellResumed(r resumed) {
	switch {
	case r.err != nil:
		w.seen = "" // it is tried again
		w.say("resume", Event{Urgent: true, Text: "the daemon was stopped for a rotation or a repair, and nothing tells that it was started again; to start it: systemctl start containarium", Err: r.err})
	case r.units != nil:
		w.o.Tell(Event{Urgent: true, Text: fmt.Sprintf("the daemon was stopped for a rotation or a repair that did not start it again, and is started now: %s", strings.Join(r.units, ", "))})
	}
}

func (w *watcher) wake() {
	for _, s := range w.savers {
		s.wake()
	}
}

// pace sets when a keyfile is decided on next that is parked, or that the daemon may read
// at any moment: until all is well, and the rows have said so since its start, every
// second.
func (w *watcher) pace(settled, waiting bool) {
	switch about := w.daemon.about(w.h.Now()); {
	case about && !(settled && w.daemon.answered):
		w.parked = parkedFirst
	case !waiting:
		w.parked = 0
	case w.parked == 0:
		w.parked = parkedFirst
	default:
		w.parked = min(2*w.parked, w.o.Rescan)
	}
}

// restart restarts a daemon that runs without the key that is in place by now: once
// for a start that read the parked, empty file, and otherwise only with heal.
func (w *watcher) restart(ctx context.Context, r agent.TendResult) {
	if w.o.Restart == nil || !w.daemon.caughtUp || w.daemon.invocation == "" || w.restarted == w.daemon.invocation {
		return
	}
	said := w.daemon.said
	foreign := w.daemon.holds != "" && w.daemon.holds != r.Decision.Key ||
		said[unit.Ready] && r.Installed != "" && r.Evidence.Keyfile.Good
	switch {
	case said[unit.Empty], w.o.Heal && (foreign || said[unit.Failed]):
	case foreign:
		w.say("restart", Event{Name: RestartNeeded, Fingerprint: r.Decision.Key,
			Text: fmt.Sprintf("restart needed: the daemon runs on another key than %s, which is in place; what it writes until then may be lost: systemctl restart containarium", r.Decision.Key)})
		return
	case said[unit.Failed]:
		w.say("restart", Event{Name: RestartNeeded, Fingerprint: r.Decision.Key,
			Text: fmt.Sprintf("restart needed: the daemon could not read the keyfile when it started and runs without secrets; key %s is in place now: systemctl restart containarium", r.Decision.Key)})
		return
	default:
		return
	}
	w.restarted = w.daemon.invocation
	w.o.Tell(Event{Urgent: true, Text: fmt.Sprintf("restarting the daemon, which does not run on key %s yet", r.Decision.Key)})
	// Its start runs our own prestart, which must not find the loop waiting for it.
	invocation := w.daemon.invocation
	w.running.Go(func() error {
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		err := w.o.Restart(limited, invocation)
		select {
		case w.restarts <- err:
		case <-ctx.Done():
		}
		return nil
	})
}

// heard takes in news of the daemon's journal, and tells whether a round is due. What
// the journal says of the past is taken in whole before anything is done about it.
func (w *watcher) heard(n news) bool {
	d := &w.daemon
	if n.err != nil {
		d.caughtUp = false // it begins again from the past
		if text := n.err.Error(); d.trouble != text {
			d.trouble = text
			w.o.Tell(Event{Urgent: true, Text: "cannot follow the daemon's journal, so a keyfile that is not right stays until the daemon starts again", Err: n.err})
		}
		return false
	}
	l := n.line
	if l.Said == unit.CaughtUp {
		d.caughtUp, d.trouble = true, ""
		if d.read() {
			w.understand(func() {})
		}
		return true
	}
	if l.Said == unit.Starting || d.invocation == "" {
		if l.Invocation != d.invocation {
			*d = daemon{caughtUp: d.caughtUp, trouble: d.trouble, invocation: l.Invocation, began: l.Time, said: map[unit.Said]bool{}}
			if d.began.IsZero() {
				d.began = w.h.Now()
			}
		}
	}
	if l.Invocation != d.invocation {
		return false // of an earlier start
	}
	if d.read() && (l.Said == unit.Empty || l.Said == unit.Failed || l.Said == unit.Untouched) {
		return false // a daemon reads its key once
	}
	d.said[l.Said] = true
	if d.read() && d.readAt.IsZero() {
		d.readAt = l.Time
	}
	if !d.caughtUp {
		return false
	}
	switch l.Said {
	case unit.Minted:
		w.understand(func() {
			w.record(ledger.Minted)
			w.o.Tell(Event{Name: Minted, Fingerprint: d.holds, Text: fmt.Sprintf("the daemon found no key and made one, %s", d.holds)})
		})
	case unit.Ready, unit.Loaded, unit.Disabled:
		w.understand(func() {
			if !d.recorded && d.holds != "" {
				d.recorded = true
				w.record(ledger.StartedOn)
			}
		})
	}
	return true
}

// understand finds out which key the daemon has told of, and then does what follows: where a
// round under way may be the only one who knows, when that ends, unless the daemon was started
// again by then.
func (w *watcher) understand(then func()) {
	w.daemonRead()
	if w.daemon.holds != "" || w.flight == nil {
		then()
		return
	}
	invocation := w.daemon.invocation
	w.waiting = append(w.waiting, func() {
		if w.daemon.invocation == invocation {
			w.daemonRead()
			then()
		}
	})
}

// record has the ledger take down what the daemon did with a key, for a report.
func (w *watcher) record(event ledger.Event) {
	if err := w.h.Ledger.Append(ledger.Entry{Event: event, Fingerprint: w.daemon.holds}); err != nil {
		w.say("trouble ledger", Event{Urgent: true, Text: "the ledger cannot take down which key the daemon reads", Err: err})
	}
}

// daemonRead notes which key the daemon has read or made: the one in the keyfile's place,
// unless that was replaced since, by this watcher or before it was there.
func (w *watcher) daemonRead() {
	w.keep()
	d := &w.daemon
	switch {
	case d.holds != "": // it reads its key once, whatever stands there by now
	case d.replaced != "" && !d.readAt.After(d.replacedAt):
		d.holds = d.replaced
	case d.closed != "" && d.closed == w.kept && !d.closedThen.After(d.readAt):
		d.holds = d.closed
	case d.readAt.IsZero():
		d.holds = w.kept
	default:
		d.holds = agent.DaemonRead(w.h, d.readAt, d.said[unit.Minted])
	}
}

// follow hands on the journal, and begins again when it ends.
func (w *watcher) follow(ctx context.Context, out chan<- news) {
	send := func(n news) {
		select {
		case out <- n:
		case <-ctx.Done():
		}
	}
	for w.o.Follow != nil && ctx.Err() == nil {
		err := w.o.Follow(ctx, func(l unit.Line) { send(news{line: l}) })
		if err == nil {
			err = errors.New("it ended")
		}
		send(news{err: err})
		select {
		case <-time.After(followAgain):
		case <-ctx.Done():
		}
	}
}
