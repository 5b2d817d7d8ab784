package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// aliveTimeout bounds what systemd and the journal are asked about the daemon and our units.
const aliveTimeout = 5 * time.Second

// DaemonIs is how the daemon stands to the key, in a few words.
type DaemonIs string

// What the daemon can be.
const (
	DaemonNotAsked  DaemonIs = ""                  // no unit is configured
	DaemonUnknown   DaemonIs = "unknown"           // systemd does not answer, or the journal
	DaemonAbsent    DaemonIs = "not installed"     // systemd has loaded no unit of it
	DaemonDown      DaemonIs = "not running"       // it would start on what a start decides
	DaemonUp        DaemonIs = "running"           // on the keyfile's key, or it has not read it yet
	DaemonParked    DaemonIs = "parked"            // on the empty keyfile that is still there
	DaemonNoSecrets DaemonIs = "without secrets"   // it runs, and keeps and gives none
	DaemonOtherKey  DaemonIs = "on another key"    // than the keyfile's
	DaemonUntold    DaemonIs = "on an unknown key" // ErrUntold
)

// DaemonStates are all that a daemon which is asked about can be.
var DaemonStates = []DaemonIs{DaemonUnknown, DaemonAbsent, DaemonDown, DaemonUp, DaemonParked, DaemonNoSecrets, DaemonOtherKey, DaemonUntold}

// ErrUntold says that what stood in the keyfile's place when the daemon read it has gone, and
// nobody wrote down which key it was.
var ErrUntold = errors.New("the keyfile was changed since the daemon read it, and no record says what it held then")

// RestartNeeded tells whether only a restart brings the daemon to the key that is in place.
// Where nobody can tell on which key it runs, only a restart brings that to light, too.
func (d DaemonStanding) RestartNeeded() bool {
	return d.Is == DaemonUntold || d.Is == DaemonOtherKey || d.Is == DaemonNoSecrets && d.Told != unit.Disabled
}

// DaemonStanding is how the daemon stands to the key.
type DaemonStanding struct {
	unit.DaemonState
	Is  DaemonIs
	Key key.Fingerprint // on which it runs; "" where nobody can tell
	Err error           // why it is unknown
}

// askAlive asks systemd, if there is one.
func (r *StatusResult) askAlive(ctx context.Context, o *observation) {
	ctx, cancel := context.WithTimeout(ctx, aliveTimeout)
	defer cancel()
	r.Daemon = o.askDaemon(ctx)
	if o.host.NextDrill != nil {
		r.Drill.Next, r.Drill.Err = o.host.NextDrill(ctx)
	}
	if o.host.Watcher != nil {
		r.Units = true
		r.Watcher, r.WatcherErr = o.host.Watcher(ctx)
	}
}

// askedDaemon is askDaemon, in bounded time.
func (o *observation) askedDaemon(ctx context.Context) DaemonStanding {
	ctx, cancel := context.WithTimeout(ctx, aliveTimeout)
	defer cancel()
	return o.askDaemon(ctx)
}

// askDaemon asks how the daemon stands, until ctx ends.
func (o *observation) askDaemon(ctx context.Context) (d DaemonStanding) {
	if o.host.Daemon.State == nil {
		return d
	}
	if d.DaemonState, d.Err = o.host.Daemon.State(ctx); d.Err == nil {
		d.Err = d.Unread
	}
	file := o.evidence.Keyfile
	switch {
	case d.Err != nil:
		d.Is = DaemonUnknown
	case d.Name == "":
		d.Is = DaemonAbsent
	case !d.Up():
		d.Is = DaemonDown
	case d.Told == unit.Empty && o.seen.Empty:
		d.Is = DaemonParked
	case d.Told == unit.Empty && o.loadable(d.ToldAt):
		d.Is = DaemonUp // somebody else's word
	case d.Told == unit.Empty, d.Told == unit.Failed, d.Told == unit.Untouched, d.Told == unit.Disabled:
		d.Is = DaemonNoSecrets
	default:
		event := ledger.StartedOn
		if d.Minted {
			event = ledger.Minted
		}
		d.Is, d.Key = DaemonUp, o.keyRead(event, d.Invocation, d.ToldAt)
		switch {
		case !file.Good, d.Key == file.Key:
		case d.Key != "", d.Minted && o.namedBefore(d.ToldAt): // what it makes nobody had before
			d.Is = DaemonOtherKey
		case d.Told != "":
			d.Is, d.Err = DaemonUntold, ErrUntold
		}
	}
	return d
}

// Working is a rotation or a repair that is at work.
type Working struct {
	What   string // "rotation", "repair"
	Since  time.Time
	Person string // who asked for it; "" where that was not written down
}

func (w Working) String() string {
	return fmt.Sprintf("a %s is under way since %s", w.What, since(w.Since, w.Person))
}

// since says when something began, and who wanted it where that was written down.
func since(at time.Time, person string) string {
	if person == "" {
		return printable.Time(at)
	}
	return printable.Time(at) + ", asked for by " + person
}

// working finds the one that is at work: a lock tells that it lives, and the ledger, read after
// that, what it is. Until it is over, the last saves of its key included, nothing is to be judged.
func (o *observation) working() *Working {
	rotating, _ := lock.Held(o.host.StateDir, lock.Rotate)
	ending, _ := lock.Held(o.host.StateDir, lock.Start)
	if !rotating && !ending {
		return nil // or nobody can tell, and then what it left is judged
	}
	l, err := o.host.Ledger.Standing()
	if err != nil || l.Rotation == nil && len(l.Stopped) == 0 && !ending {
		return nil // it has changed nothing yet, or ended just now
	}
	record, _ := o.host.Ledger.Read() // what can be read of it
	rotation := l.Rotation != nil
	w := &Working{What: "repair"}
	for _, e := range slices.Backward(record.Entries) {
		switch e.Event {
		case ledger.Rotated, ledger.RotationClosed:
			rotation = rotation || w.Since.IsZero()
		case ledger.RotationOpen:
			if rotation {
				return &Working{What: "rotation", Since: e.Time, Person: e.Person}
			}
			return w
		case ledger.Repaired:
			w.Since, w.Person = e.Time.Add(-e.Took), e.Person
		case ledger.Stopped:
			if w.Since, w.Person = e.Time, e.Person; !rotation {
				return w
			}
		case ledger.Started:
			if !rotation && !w.Since.IsZero() {
				return w
			}
		}
	}
	return w
}

// overtaken tells whether a rotation or a repair began or ended while others were asked: what
// they said is of one moment, and what stands here of another.
func (o *observation) overtaken() bool {
	seen, err := o.host.Keyfile.Look()
	if err != nil {
		return false
	}
	defer seen.Key.Wipe()
	defer seen.Next.Wipe()
	now, err := o.host.Ledger.Standing()
	return err == nil && (seen.Key.Fingerprint() != o.evidence.Keyfile.Key || !now.Same(o.standing) ||
		(len(now.Stopped) > 0) != o.evidence.Ledger.Stopped)
}

// judgeAlive judges the daemon, the watcher and the timer. Where the keyfile is not right
// yet, what the daemon runs on is for whoever puts it right.
func (r *StatusResult) judgeAlive() {
	say := func(what Ails, format string, a ...any) { r.ail(what, Amiss, format, a...) }
	if r.Decision.Action != decide.Install {
		r.judgeDaemon()
	}
	if r.LeftDown {
		say(AilsLeftDown, "the daemon was stopped for a rotation or a repair, and was not started again")
	}
	if d := r.Daemon; d.Unasked != "" {
		say(AilsUnasked, "nothing looks at the key before the daemon starts: %s", d.Unasked)
	}
	if !r.Units || r.Daemon.Is == DaemonUnknown && r.Daemon.Name == "" { // systemd would not tell of these, either
		return
	}
	switch w := r.Watcher; {
	case r.WatcherErr != nil:
		say(AilsWatcher, "nobody can tell whether the watcher runs: %v", r.WatcherErr)
	case !w.Up():
		say(AilsWatcher, "the watcher does not run (%s): nobody sees a key that changes or goes", inWords(w.State))
	}
	switch d := r.Drill; {
	case d.Err != nil:
		say(AilsTimer, "nobody can tell when the next drill is: %v", d.Err)
	case d.Next.Active != "active":
		say(AilsTimer, "the weekly drill is not to come: its timer is %s", inWords(d.Next.State))
	}
}

func (r *StatusResult) judgeDaemon() {
	say := func(format string, a ...any) { r.ail(AilsDaemon, Amiss, format, a...) }
	switch d := r.Daemon; {
	case d.Is == DaemonUntold:
		say("restart needed: nobody can tell on which key the daemon runs: %v; %s", d.Err, r.inPlace())
	case d.Is == DaemonUnknown:
		say("nobody can tell on which key the daemon runs: %v", d.Err)
	case d.Is == DaemonDown && d.Failing:
		say("the daemon does not stay up: systemd starts it again and again")
	case d.Is == DaemonParked:
		say("the daemon is parked: it runs on an empty keyfile, without secrets")
	case d.Is == DaemonNoSecrets && d.Told == unit.Disabled:
		say("the daemon has read its key and runs without secrets all the same; its journal says why")
	case d.Is == DaemonNoSecrets:
		now := ""
		if d.Told == unit.Untouched && r.Rows.State == decide.RowsUnknown {
			now = ", nor can keyguard now: " + r.Rows.Why
		}
		say("restart needed: the daemon runs without secrets, since %s%s; %s", d.why(), now, r.inPlace())
	case d.Is == DaemonOtherKey && d.Minted:
		say("restart needed: the daemon has made a key of its own and runs on that; %s", r.inPlace())
	case d.Is == DaemonOtherKey && r.Untried():
		say("the daemon runs on key %s; key %s is in place on a person's word alone, and no row was ever tried with it", d.Key, r.Keyfile.Key)
	case d.Is == DaemonOtherKey:
		say("restart needed: the daemon runs on key %s; %s", d.Key, r.inPlace())
	}
}

// Untried tells whether the keyfile's key stands there on a person's word that no row has borne
// out, then or now.
func (r *StatusResult) Untried() bool {
	return r.Accepted && r.Known == r.Keyfile.Key && r.Look == rows.Unknown && r.Rows.State == decide.RowsUnknown
}

// why says why a daemon that runs keeps no secrets.
func (d DaemonStanding) why() string {
	switch d.Told {
	case unit.Empty:
		return "the keyfile was empty when it started"
	case unit.Untouched:
		return "it could not connect to Postgres when it started"
	}
	return "it could not load the keyfile when it started"
}

// inPlace says what stands in the keyfile's place.
func (r *StatusResult) inPlace() string {
	if k := r.Keyfile.Key; r.Keyfile.Good {
		return fmt.Sprintf("key %s is in place", k)
	}
	return "the keyfile is " + r.Keyfile.State()
}

func inWords(s unit.State) string {
	switch {
	case s.Enabled == "masked":
		return "masked"
	case !s.Loaded:
		return "not installed"
	case s.Active == "activating":
		return "not up yet"
	}
	return s.Active
}
