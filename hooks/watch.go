package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// mostDebounces is how many debounces events that keep coming put a round off.
const mostDebounces = 4

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
	// Stands tells that the state directory is the one that this process was started with; nil:
	// it is not looked at.
	Stands func() bool
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
	repeat   *time.Timer // runs for pause
	pending  time.Time   // since when the debounce runs; zero: it does not
	prove    bool        // the next round asks the rows

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
	pause    time.Duration   // until the next decision without any event (pace); 0: there is none

	daemon daemon

	flight *flight      // the round that is under way, or nil
	landed chan outcome // of that round
	next   bool         // another one is due when it has ended
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
	saves := make(chan visitResult)
	for i := range h.Escrows {
		s := newSaver(h, h.Escrows[i].Name(), opts.Clock)
		w.savers = append(w.savers, s)
		w.running.Go(func() error { s.run(ctx, saves); return nil })
	}
	journal := make(chan journalNews)
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

func (w *watcher) loop(ctx context.Context, journal <-chan journalNews, saves <-chan visitResult) error {
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
	w.debounce, w.repeat = stoppedTimer(), stoppedTimer()
	w.prove = true
	w.round(ctx)
	for {
		events, errs := w.kernelEvents()
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-events:
			if !ok {
				return errUnwatched
			}
			w.event(e)
		case err, ok := <-errs:
			if !ok {
				return errUnwatched
			}
			w.overflowed(err)
		case <-w.debounce.C:
			w.round(ctx)
		case <-rescan.C:
			if err := w.rescan(ctx); err != nil {
				return err
			}
		case <-beat:
			if !w.hangs() {
				w.o.Beat()
			}
		case <-w.repeat.C:
			w.prove = true
			w.round(ctx)
		case o := <-w.landed:
			w.land(ctx, o)
			w.setRepeat()
		case n := <-journal:
			if w.heard(n) {
				w.prove = true
				w.soon()
			}
		case err := <-w.restarts:
			w.tellRestarted(err)
		case r := <-w.resumes:
			w.resuming = false
			w.tellResumed(r)
		case v := <-saves:
			w.visited(v)
		}
	}
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

var errUnwatched = errors.New("the kernel ended the watch")

// ErrStateDir says that a watcher must be started again, as the state directory is another one
// than at its start. A sandbox shows the process that it was made for what was there then, and
// what is made since cannot be written: systemd gives it to the next watcher.
var ErrStateDir = errors.New("the state directory was taken away or made anew under the watcher")

// soon makes a round due when nothing has happened for a debounce: who writes a file
// may not be done yet. Who never stops is not waited for.
func (w *watcher) soon() {
	now := time.Now()
	if w.pending.IsZero() {
		w.pending = now
	}
	if now.Sub(w.pending) < mostDebounces*w.o.Debounce {
		w.debounce.Reset(w.o.Debounce)
	}
}

// overflowed takes in that the kernel has dropped events: what happened is unknown, so
// everything is read again.
func (w *watcher) overflowed(err error) {
	w.o.Tell(Event{Text: "changes in " + w.dir + " came too fast to be told one by one; everything is read again", Err: err})
	w.names = map[string]inode{}
	w.soon()
}

// visited takes in what came of a saver's visit to its escrow.
func (w *watcher) visited(v visitResult) {
	if len(v.results) > 0 { // what an escrow answered before is not what it holds now
		_ = ForgetBackoff(w.o.RunDir) // what cannot be taken away is hearsay, and no more
	}
	w.tellSaved(v)
	// A save is rare, and what it took besides is not needed for weeks: without
	// this the runtime keeps most of it, a tenth of all that is resident.
	debug.FreeOSMemory()
}

// rescan compares everything again, and begins a round where one is due. It returns ErrStateDir.
func (w *watcher) rescan(ctx context.Context) error {
	if w.o.Stands != nil && !w.o.Stands() {
		return fmt.Errorf("%w: %s", ErrStateDir, w.h.StateDir)
	}
	w.rewatch()
	if w.roundDue() {
		w.round(ctx)
	} else {
		w.keepKeyfile() // of a local quarantine that somebody takes away no event tells
	}
	return nil
}
