package hooks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

const (
	// resumeTimeout bounds a start of the daemon, which systemd gives 90 s.
	resumeTimeout = 2 * time.Minute
	// followAgain is the pause before the journal is followed again after it ended.
	followAgain = 10 * time.Second
)

// journalNews is a line of the daemon's journal, or why there are none.
type journalNews struct {
	line unit.Line
	err  error
}

// daemon is what the journal tells of the daemon's present start.
type daemon struct {
	caughtUp   bool // the journal was read to its present end
	invocation string
	began      time.Time // by the host's clock
	said       map[unit.Said]bool
	readAt     time.Time       // when the journal got that it has read its key; zero: it has not, or that is not told
	answered   bool            // since it began a round has found all well, by an answer of the rows
	holds      key.Fingerprint // the key it runs on, "" where that is not known
	recorded   bool            // the ledger was told which key it reads
	// unexplained: a line says that it failed to load the key, and nothing is known that would
	// have made it fail. Others can print that line, so that heal does not restart it for that.
	unexplained bool
	// replaced is the key that this watcher took out of the keyfile's place during this
	// start, since when it had stood there, and when it was taken.
	replaced     key.Fingerprint
	replacedThen time.Time
	replacedAt   time.Time
	// closed is the key whose file this watcher has closed to others, and since when it had
	// stood there until then.
	closed     key.Fingerprint
	closedThen time.Time
	trouble    string // why the journal could not be followed, as it was reported
}

// read tells whether the daemon has read its key, or made one.
func (d *daemon) read() bool {
	return d.said[unit.Ready] || d.said[unit.Minted] || d.said[unit.Loaded] || d.said[unit.Disabled]
}

// tried tells whether the daemon will not look at the keyfile any more.
func (d *daemon) tried() bool {
	return d.read() || d.said[unit.Empty] || d.said[unit.Failed] || d.said[unit.Untouched]
}

// about tells whether the daemon may read its key, or make one, at any moment.
func (d *daemon) about(now time.Time) bool {
	return d.invocation != "" && !d.tried() && now.Sub(d.began) < agent.StartTakes
}

// unread tells whether the daemon was started and has not tried to read its key yet, as
// far as the journal tells. Where none was ever started there is nobody to park for; where
// there is no unit that would tell, one may be about to.
func (w *watcher) unread() bool {
	d := &w.daemon
	return w.o.Follow == nil || d.caughtUp && d.invocation != "" && !d.tried()
}

// follow hands on the journal, and begins again when it ends.
func (w *watcher) follow(ctx context.Context, out chan<- journalNews) {
	send := func(n journalNews) {
		select {
		case out <- n:
		case <-ctx.Done():
		}
	}
	for w.o.Follow != nil && ctx.Err() == nil {
		err := w.o.Follow(ctx, func(l unit.Line) { send(journalNews{line: l}) })
		if err == nil {
			err = errors.New("it ended")
		}
		send(journalNews{err: err})
		select {
		case <-time.After(followAgain):
		case <-ctx.Done():
		}
	}
}

// heard takes in news of the daemon's journal, and tells whether a round is due. What
// the journal says of the past is taken in whole before anything is done about it.
func (w *watcher) heard(n journalNews) bool {
	d := &w.daemon
	if n.err != nil {
		d.caughtUp = false // it begins again from the past
		if text := n.err.Error(); d.trouble != text {
			d.trouble = text
			w.o.Tell(Event{Loud: true, Text: "cannot follow the daemon's journal, so a keyfile that is not right stays until the daemon starts again", Err: n.err})
		}
		return false
	}
	l := n.line
	if l.Said == unit.CaughtUp {
		d.caughtUp, d.trouble = true, ""
		if d.read() { // nobody may have been there to write that down
			w.understand(w.recordStart)
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
	if d.read() && (l.Said == unit.Minted || l.Said == unit.Empty || l.Said == unit.Failed || l.Said == unit.Untouched) {
		return false // a daemon reads its key, or makes it, once
	}
	if (l.Said == unit.Empty || l.Said == unit.Failed) && agent.Loadable(w.h, l.Time) {
		if l.Said == unit.Empty {
			return false // somebody else's word
		}
		d.unexplained = true
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
		w.understand(w.recordStart)
	}
	return true
}

// understand finds out which key the daemon has told of, and then does what follows: where a
// round under way may be the only one who knows, when that ends, unless the daemon was started
// again by then.
func (w *watcher) understand(then func()) {
	w.findKeyRead()
	if w.daemon.holds != "" || w.flight == nil {
		then()
		return
	}
	invocation := w.daemon.invocation
	w.waiting = append(w.waiting, func() {
		if w.daemon.invocation == invocation {
			w.findKeyRead()
			then()
		}
	})
}

// recordStart records in the ledger which key the daemon has read.
func (w *watcher) recordStart() {
	if d := &w.daemon; !d.recorded && d.holds != "" {
		d.recorded = true
		w.record(ledger.StartedOn)
	}
}

// record writes to the ledger what the daemon did with a key: for status, whatever becomes
// of the keyfile, and for a report.
func (w *watcher) record(event ledger.Event) {
	if err := agent.NoteKeyRead(w.h, event, w.daemon.invocation, w.daemon.holds); err != nil {
		w.say("trouble ledger", Event{Loud: true, Text: "the ledger cannot take down which key the daemon reads", Err: err})
	}
}

// findKeyRead finds which key the daemon has read or made: the one in the keyfile's place,
// unless that was replaced since, by this watcher or before it was there.
func (w *watcher) findKeyRead() {
	w.keepKeyfile()
	d := &w.daemon
	switch {
	case d.holds != "": // it reads its key once, whatever stands there by now
	case d.replaced != "" && (d.readAt.IsZero() || !d.replacedThen.After(d.readAt) && !d.readAt.After(d.replacedAt)):
		d.holds = d.replaced
	case d.closed != "" && d.closed == w.kept && !d.closedThen.After(d.readAt):
		d.holds = d.closed
	case d.readAt.IsZero():
		d.holds = w.kept
	default:
		event := ledger.StartedOn
		if d.said[unit.Minted] {
			event = ledger.Minted
		}
		d.holds = agent.KeyRead(w.h, event, d.invocation, d.readAt)
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
	case said[unit.Empty], w.o.Heal && (foreign || said[unit.Failed] && !w.daemon.unexplained):
	case foreign:
		w.say("restart", Event{Name: RestartNeeded, Fingerprint: r.Decision.Key,
			Text: fmt.Sprintf("restart needed: the daemon runs on another key than %s, which is in place; what it writes until then may be lost: systemctl restart containarium", r.Decision.Key)})
		return
	case said[unit.Failed]:
		w.say("restart", Event{Name: RestartNeeded, Fingerprint: r.Decision.Key,
			Text: fmt.Sprintf("restart needed: the daemon could not read the keyfile when it started and runs without secrets; key %s is in place now: systemctl restart containarium", r.Decision.Key)})
		return
	case said[unit.Untouched]:
		w.say("restart", Event{Name: RestartNeeded, Fingerprint: r.Decision.Key,
			Text: fmt.Sprintf("restart needed: the daemon could not use its database when it started and runs without secrets; key %s is in place. When the database can be used (keyguard verify tells): systemctl restart containarium", r.Decision.Key)})
		return
	default:
		return
	}
	w.restarted = w.daemon.invocation
	w.o.Tell(Event{Loud: true, Text: fmt.Sprintf("restarting the daemon, which does not run on key %s yet", r.Decision.Key)})
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

func (w *watcher) tellRestarted(err error) {
	if err != nil {
		w.o.Tell(Event{Name: RestartNeeded, Text: "the daemon could not be restarted, and runs without the key that is in place: systemctl restart containarium", Err: err})
	}
}

// resumed is how starting a daemon that was left stopped ended.
type resumed struct {
	units []string
	err   error
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
		w.say("resume", Event{Loud: true, Text: "the daemon was stopped for a rotation or a repair, and nothing tells that it was started again; to start it: systemctl start containarium", Err: r.err})
	case r.units != nil:
		w.o.Tell(Event{Loud: true, Text: fmt.Sprintf("the daemon was stopped for a rotation or a repair that did not start it again, and is started now: %s", strings.Join(r.units, ", "))})
	}
}
