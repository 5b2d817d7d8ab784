package hooks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
)

const (
	// proofEvery is how often the rows are asked about a key that is known.
	proofEvery = time.Hour
	// roundBudget bounds one round, well within the unit's WatchdogSec=.
	roundBudget = 20 * time.Second
	// parkedFirst is how often a parked keyfile is decided on at first; the pause doubles up
	// to the rescan once the daemon has tried to read its key.
	parkedFirst = time.Second
	// secondLook is how long after another key took the keyfile's place the rows are asked
	// again: who still writes under the one before shows by then.
	secondLook = 5 * time.Minute
)

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

// roundDue tells whether a round is due without any event: the keyfile is not what it
// was, a proof is due, or nothing is settled yet.
func (w *watcher) roundDue() bool {
	return w.prove || w.seen == "" || w.proofDue() || markOf(w.h) != w.seen
}

// proofDue tells whether the rows are to be asked though nothing has happened.
func (w *watcher) proofDue() bool {
	now := w.h.Now()
	return now.Sub(w.lastLook) >= proofEvery || !w.second.IsZero() && !now.Before(w.second)
}

// round lets agent.Tend decide and act once. One that is under way is called off where the
// keyfile has changed since; whether it is or not, the next one waits for its end.
func (w *watcher) round(ctx context.Context) {
	w.debounce.Stop()
	w.pending = time.Time{}
	w.rewatch()
	there := markOf(w.h)
	if w.flight != nil {
		w.next = true
		if there != w.flight.there {
			w.flight.stop()
		}
	} else {
		w.before, w.states = w.states, map[string]bool{}
	}
	if w.keepKeyfile() {
		// The savers need not wait for a decision, which may wait for one escrow's answer.
		w.wake()
	}
	if w.flight != nil {
		return
	}
	// The savers ask the escrows themselves (saver): a gate is for who decides, here and at a start.
	gated, m := gateEscrows(w.h, func() *memory {
		return recall(w.o.RunDir, w.o.Configuration+" "+there, w.o.Clock)
	})
	opts := agent.TendOptions{
		Prove: w.prove || w.seen == "" || w.proofDue(),
		// Before the journal has told, the daemon may have read its key long ago.
		DaemonRead: !w.daemon.caughtUp || w.daemon.read(),
		Park:       w.unread(),
		Starting:   w.daemon.about(w.h.Now()),
		Heal:       w.o.Heal,
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
	if w.next {
		w.next = false
		defer w.round(ctx)
	}
	if r.Installed != "" && r.Evidence.Keyfile.Good {
		w.daemon.replaced, w.daemon.replacedThen, w.daemon.replacedAt = r.Evidence.Keyfile.Key, r.Untouched, w.h.Now()
	}
	if r.Tightened != "" && r.Evidence.Keyfile.Good {
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
	acted := o.err == nil && r.Withheld == "" && r.Decision.Action != decide.Doubt && r.Decision.Action != decide.Lost
	if !acted {
		w.seen = ""
	}
	keyfile := keyfileAmiss
	switch {
	case r.Waiting:
		keyfile = keyfileAwaited
	case acted:
		keyfile = keyfileRight
	}
	answer := r.Evidence.Rows.State == decide.RowsAnswer || r.Evidence.Rows.State == decide.RowsSilent
	if keyfile == keyfileRight && answer && f.invocation == w.daemon.invocation {
		w.daemon.answered = true
	}
	w.tellRound(r, o.err)
	if acted && !r.Evidence.Ledger.Stopped {
		w.restart(ctx, r)
	}
	w.resume(ctx, r)
	w.pace(keyfile)
	w.wake()
}

// keepKeyfile copies a key that is new in the keyfile's place to the local quarantine: whoever
// put it there may take it away again before any escrow has it (law 3). It tells
// whether there was one.
func (w *watcher) keepKeyfile() bool {
	k, err := agent.KeepKeyfile(w.h, w.kept)
	if err != nil {
		w.say("kept", Event{Loud: true, Err: err,
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

func (w *watcher) wake() {
	for _, s := range w.savers {
		s.wake()
	}
}

// keyfileState is how a round left the keyfile.
type keyfileState string

const (
	keyfileRight   keyfileState = "right"
	keyfileAwaited keyfileState = "empty, or in somebody's hands" // agent.TendResult.Waiting
	keyfileAmiss   keyfileState = "neither"
)

// pace sets when the keyfile is decided on next without any event: soon where it is parked, and
// every second where the daemon may read it at any moment, until all is well and the rows have
// said so since its start.
func (w *watcher) pace(keyfile keyfileState) {
	switch about := w.daemon.about(w.h.Now()); {
	case about && !(keyfile == keyfileRight && w.daemon.answered):
		w.pause = parkedFirst
	case keyfile != keyfileAwaited:
		w.pause = 0
	case w.pause == 0:
		w.pause = parkedFirst
	default:
		w.pause = min(2*w.pause, w.o.Rescan)
	}
}

func (w *watcher) setRepeat() {
	if w.pause > 0 {
		w.repeat.Reset(w.pause)
	} else {
		w.repeat.Stop()
	}
}

// hangs tells whether a round does not even end when its time is over: so does the watcher then.
func (w *watcher) hangs() bool {
	return w.flight != nil && time.Since(w.flight.began) >= 2*roundBudget
}
