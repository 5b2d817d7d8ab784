package hooks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

const (
	// proofEvery is how often the rows are asked about a key that is known.
	proofEvery = time.Hour
	// roundBudget bounds one round, well within the unit's WatchdogSec=.
	roundBudget = 20 * time.Second
	// parkedFirst is how often a parked keyfile is decided on at first; the pause then
	// doubles up to the rescan.
	parkedFirst = time.Second
	// followAgain is the pause before the journal is followed again after it ended.
	followAgain = 10 * time.Second
)

// WatchOptions are what the configuration says, and how to reach systemd.
type WatchOptions struct {
	Debounce, Rescan time.Duration
	Heal             bool
	RunDir           string
	Configuration    string
	// Follow hands on what the daemon's journal tells, until ctx ends. nil: there is no unit.
	Follow func(ctx context.Context, line func(unit.Line)) error
	// Restart restarts the daemon, and returns when that is done. nil: there is no unit.
	Restart func(ctx context.Context) error
	// Report is called for what a person should know, from one goroutine at a time.
	Report func(Report)
	// Status sets the status line of the unit, sd_notify(3).
	Status func(string)
	// Ready is called before any network or database is touched.
	Ready func()
	// Beat is called by a loop that is alive, every BeatEvery; 0 is never.
	Beat      func()
	BeatEvery time.Duration
	Clock     Clock // nil is BootClock
}

// Report is one thing that happened, for the journal.
type Report struct {
	Urgent bool
	Text   string
	Err    error // nil, or what went wrong, for its remedy
}

// watcher is one run of Watch. Its fields belong to the loop's goroutine.
type watcher struct {
	h     *agent.Host
	o     WatchOptions
	fs    *fsnotify.Watcher
	dir   string
	names map[string]inode // the directories that are watched, as they were then

	seen     string // what the keyfile was at the last round
	lastLook time.Time
	reported string // the last report of a state, not to repeat it every round
	parked   time.Duration

	invocation string // the daemon's present start
	said       map[unit.Said]bool
	minted     key.Fingerprint // the keyfile's key when the daemon said that it made one
	restarted  string          // the invocation that was restarted

	savers []*saver
}

type inode struct{ dev, ino uint64 }

// Watch looks after the keyfile and its copies until ctx ends. It watches the keyfile's
// directory and the one above, since the directory itself may go; and since events can
// be lost, or never come, it compares everything again at every rescan.
func Watch(ctx context.Context, h *agent.Host, opts WatchOptions) error {
	if opts.Clock == nil {
		opts.Clock = BootClock
	}
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("cannot watch directories: %w", err)
	}
	defer events.Close()
	w := &watcher{h: h, o: opts, fs: events, dir: filepath.Dir(h.Keyfile.Path), names: map[string]inode{}, said: map[unit.Said]bool{}}
	ctx, stop := context.WithCancel(ctx)
	saves := make(chan saved)
	for i := range h.Escrows {
		s := newSaver(h, h.Escrows[i].Name(), opts.Clock)
		w.savers = append(w.savers, s)
		go s.run(ctx, saves)
	}
	lines := make(chan unit.Line)
	followed := make(chan struct{})
	go w.follow(ctx, lines, followed)
	defer func() {
		stop()
		<-followed
		for _, s := range w.savers {
			<-s.ended
		}
	}()
	return w.loop(ctx, lines, saves)
}

func (w *watcher) loop(ctx context.Context, lines <-chan unit.Line, saves <-chan saved) error {
	w.o.Ready()
	rescan := time.NewTicker(w.o.Rescan)
	defer rescan.Stop()
	var beat <-chan time.Time
	if w.o.BeatEvery > 0 {
		t := time.NewTicker(w.o.BeatEvery)
		defer t.Stop()
		beat = t.C
	}
	debounce := time.NewTimer(time.Hour)
	debounce.Stop()
	parked := time.NewTimer(time.Hour)
	parked.Stop()
	w.rewatch()
	round := func(prove bool) {
		w.round(ctx, prove)
		if w.parked > 0 {
			parked.Reset(w.parked)
		}
	}
	round(true)
	prove := false // the next round asks the rows whatever is on record
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.fs.Events:
			if !ok {
				return errors.New("the kernel ended the watch")
			}
			if w.ours(e.Name) {
				debounce.Reset(w.o.Debounce)
			}
		case err, ok := <-w.fs.Errors:
			if !ok {
				return errors.New("the kernel ended the watch")
			}
			// An overflow, above all: what happened is unknown, so everything is read again.
			w.report(Report{Text: "events were lost, reading everything again", Err: err})
			debounce.Reset(w.o.Debounce)
		case <-debounce.C:
			w.rewatch()
			round(prove)
			prove = false
		case <-rescan.C:
			w.rewatch()
			if w.rescan() {
				round(false)
			}
		case <-beat:
			w.o.Beat()
		case <-parked.C:
			round(true)
		case l := <-lines:
			// A journal is read from its beginning: only what it comes to is acted on.
			w.heard(l)
			prove = true
			debounce.Reset(w.o.Debounce)
		case s := <-saves:
			w.reportSaved(s)
		}
	}
}

// ours tells whether a name is the keyfile's, its staged successor's, or a directory's
// on the way to it. The daemon's self-check and our own asides are not.
func (w *watcher) ours(name string) bool {
	return name == w.h.Keyfile.Path || name == w.h.Keyfile.Path+".next" || name == w.dir || name == filepath.Dir(w.dir)
}

// rewatch makes sure that the watches are on the directories that have the names now:
// a rename, a removal or a mount leaves them on something else, without a word.
func (w *watcher) rewatch() {
	for _, dir := range []string{w.dir, filepath.Dir(w.dir)} {
		now, there := inodeOf(dir)
		before, watched := w.names[dir]
		if there && watched && now == before {
			continue
		}
		if watched {
			w.fs.Remove(dir) //nolint:errcheck // it may have gone with its directory
			delete(w.names, dir)
		}
		if !there {
			continue
		}
		if err := w.fs.Add(dir); err != nil {
			w.report(Report{Text: "cannot watch " + dir + ", so only the rescan sees changes", Err: err})
			continue
		}
		w.names[dir] = now
	}
}

func inodeOf(path string) (inode, bool) {
	info, err := os.Stat(path)
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
// was, a proof is due, or nothing is proven yet.
func (w *watcher) rescan() bool {
	return w.seen == "" || present(w.h) != w.seen || w.h.Now().Sub(w.lastLook) >= proofEvery
}

// round decides and acts once, and wakes the savers.
func (w *watcher) round(ctx context.Context, prove bool) {
	ctx, cancel := context.WithTimeout(ctx, roundBudget)
	defer cancel()
	if w.h.Now().Sub(w.lastLook) >= proofEvery {
		prove = true
	}
	gated, m := gateEscrows(w.h, func() *memory {
		return recall(w.o.RunDir, w.o.Configuration+" "+present(w.h), w.o.Clock)
	})
	r, err := agent.Tend(ctx, gated, agent.TendOptions{
		Prove:      prove || w.seen == "",
		DaemonRead: w.said[unit.Ready] || w.said[unit.Minted],
		Heal:       w.o.Heal,
		Remembered: func(mark string) map[key.Fingerprint]rows.Proof { return m().proofs(mark) },
	})
	if errors.Is(err, context.Canceled) {
		return
	}
	if r.Evidence.Rows.State != agent.RowsNotAsked {
		remember(m(), &r.GuardResult)
	}
	w.seen = present(w.h)
	switch r.Evidence.Rows.State {
	case agent.RowsAnswer:
		w.lastLook = w.h.Now()
	case agent.RowsSilent, agent.RowsUnknown:
		w.seen = "" // nothing is proven: the next rescan looks again
	}
	if r.Decision.Action == agent.Doubt || r.Decision.Action == agent.Lost {
		w.seen = ""
	}
	w.told(r, err)
	w.pace(r)
	if r.Installed != "" || r.Decision.Action == agent.Pass {
		w.afterwards(ctx, r)
	}
	for _, s := range w.savers {
		s.wake()
	}
}

// pace sets when a parked keyfile is decided on next.
func (w *watcher) pace(r agent.TendResult) {
	switch {
	case !r.Waiting:
		w.parked = 0
	case w.parked == 0:
		w.parked = parkedFirst
	default:
		w.parked = min(2*w.parked, w.o.Rescan)
	}
}

// afterwards restarts a daemon that runs without the key that is in place by now: once
// for a start that read the parked, empty file, and otherwise only with heal.
func (w *watcher) afterwards(ctx context.Context, r agent.TendResult) {
	if w.o.Restart == nil || w.invocation == "" || w.restarted == w.invocation {
		return
	}
	foreign := w.said[unit.Minted] && w.minted != r.Decision.Key || w.said[unit.Ready] && r.Installed != "" && r.Evidence.Keyfile.Good
	switch {
	case w.said[unit.Empty]:
	case foreign && w.o.Heal:
	case foreign:
		w.say("restart needed", true, "the daemon runs on another key than %s, which is in place: systemctl restart containarium", r.Decision.Key)
		return
	default:
		return
	}
	w.restarted = w.invocation
	w.report(Report{Urgent: true, Text: fmt.Sprintf("restarting the daemon, which does not run on key %s yet", r.Decision.Key)})
	// Its start runs our own prestart, which must not find this loop waiting for it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	go func() {
		defer cancel()
		if err := w.o.Restart(ctx); err != nil {
			w.o.Report(Report{Urgent: true, Text: "cannot restart the daemon", Err: err})
		}
	}()
}

// heard takes in a line of the daemon's journal.
func (w *watcher) heard(l unit.Line) {
	if l.Invocation != w.invocation {
		if l.Said != unit.Starting && w.invocation != "" {
			return // of an earlier start
		}
		w.invocation, w.said, w.minted = l.Invocation, map[unit.Said]bool{}, ""
	}
	w.said[l.Said] = true
	if l.Said != unit.Minted {
		return
	}
	// The file may show another key in a moment, and the daemon holds this one.
	var err error
	if w.minted, err = agent.KeepKeyfile(w.h); err != nil {
		w.report(Report{Urgent: true, Text: "the daemon made a key, and it cannot be kept", Err: err})
	}
}

// follow hands on the journal, and begins again when journalctl ends.
func (w *watcher) follow(ctx context.Context, lines chan<- unit.Line, ended chan<- struct{}) {
	defer close(ended)
	if w.o.Follow == nil {
		return
	}
	for ctx.Err() == nil {
		w.o.Follow(ctx, func(l unit.Line) { //nolint:errcheck // it ends when the journal restarts; it begins again
			select {
			case lines <- l:
			case <-ctx.Done():
			}
		})
		select {
		case <-time.After(followAgain):
		case <-ctx.Done():
		}
	}
}

// told reports what a round found, once for as long as it stays the same.
func (w *watcher) told(r agent.TendResult, err error) {
	for _, t := range r.Trouble {
		w.say("trouble "+t.Error(), true, "%v", t)
	}
	d := r.Decision
	switch {
	case err != nil:
		w.o.Status("trouble: " + err.Error())
		w.say("error "+err.Error(), true, "%v", err)
		return
	case r.Exposed != "":
		w.report(Report{Urgent: true, Text: fmt.Sprintf("the keyfile was loose (%s) and is 0400 again; whoever could read it may have key %s", r.Exposed, d.Key)})
	case r.Installed != "":
		w.report(Report{Urgent: true, Text: fmt.Sprintf("the keyfile was %s; key %s is in place now: %s", r.Evidence.Keyfile.State(), r.Installed, d.Reason)})
	}
	if d.Contradicted != "" {
		w.report(Report{Urgent: true, Text: fmt.Sprintf("key %s, known until now, opens none of the rows any more", d.Contradicted)})
	}
	switch {
	case r.Held != "":
		w.o.Status(r.Held)
		w.say("held "+r.Held, true, "%s", r.Held)
	case d.Action == agent.Doubt, d.Action == agent.Lost:
		w.o.Status(string(d.Action) + ": " + d.Reason)
		w.say(string(d.Action)+d.Reason, true, "%s: %s", d.Action, d.Reason)
	default:
		w.o.Status("guarding key " + string(d.Key))
		w.say("fine "+string(d.Key), false, "guarding key %s: %s", d.Key, d.Reason)
	}
	if d.Warning != "" {
		w.say("warning "+d.Warning, true, "%s", d.Warning)
	}
}

// say reports a state unless it was the last that was reported.
func (w *watcher) say(state string, urgent bool, format string, args ...any) {
	if w.reported == state {
		return
	}
	w.reported = state
	w.report(Report{Urgent: urgent, Text: fmt.Sprintf(format, args...)})
}

func (w *watcher) report(r Report) { w.o.Report(r) }

func (w *watcher) reportSaved(s saved) {
	for _, r := range s.results {
		w.report(Report{Text: fmt.Sprintf("key %s is saved in escrow %q as %s, and read back", r.Key, s.escrow, r.Copy.ID)})
	}
	if s.err != nil {
		w.report(Report{Urgent: true, Text: fmt.Sprintf("escrow %q does not take what is due; the next try is in %s", s.escrow, s.next.Round(time.Second)), Err: s.err})
	}
}
