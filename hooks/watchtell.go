package hooks

import (
	"fmt"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
)

// stated is a state that was told, and in which words.
type stated struct{ state, text string }

// tellRound tells what a round found, once for as long as it stays the same.
func (w *watcher) tellRound(r agent.TendResult, err error) {
	for _, t := range r.Trouble {
		w.say("trouble "+t.What, Event{Loud: true, Text: t.What, Err: t.Err})
	}
	split := false
	for _, e := range Events(r.GuardResult) {
		if e.Name == Split {
			split = true
			w.say("split", e)
		} else {
			w.o.Tell(e)
		}
	}
	d := r.Decision
	switch {
	case err != nil:
		w.provenAs = ""
		w.o.Status("trouble: " + err.Error())
		w.say("error "+string(d.Action), Event{Loud: true, Text: "the keyfile could not be looked after", Err: err})
		return
	case r.Withheld != "":
		w.tellWithheld(r)
	case d.Action == decide.Doubt, d.Action == decide.Lost:
		w.tellUndecided(r)
	default:
		w.lost = stated{}
		w.o.Status("guarding key " + string(d.Key))
		w.say("fine "+string(d.Key), Event{Text: fmt.Sprintf("guarding key %s: %s", d.Key, d.Reason)})
		if !split {
			w.proven(r)
		}
	}
	const warning = "warning"
	switch {
	case d.Warning != "" && !split:
		w.say(warning, Event{Loud: true, Text: d.Warning})
	case r.Evidence.Rows.State == decide.RowsNotAsked:
		for _, state := range []string{warning, "split"} {
			w.states[state] = w.before[state] // it was not looked at again
		}
	}
}

// tellWithheld tells why what was decided was not done.
func (w *watcher) tellWithheld(r agent.TendResult) {
	key, holds := r.Decision.Key, w.daemon.holds
	e := Event{Name: RestartNeeded, Fingerprint: key}
	switch {
	case r.Decision.Action != decide.Install:
		e = Event{Loud: true, Text: r.Withheld}
	case !w.daemon.caughtUp && w.daemon.trouble == "":
		w.o.Status(r.Withheld) // on which key the daemon runs its journal is about to tell
		return
	case holds == key:
		e.Name = Replaced
		e.Text = fmt.Sprintf("the daemon runs on key %s, and only the file differs: %s; to put key %s back: keyguard restore", key, r.Withheld, key)
	default:
		e.Text = r.Withheld + "; to put it there: keyguard restore; then: systemctl restart containarium"
		if holds != "" {
			e.Text = fmt.Sprintf("restart needed: the daemon runs on key %s; %s", holds, e.Text)
		}
	}
	w.o.Status(e.Text)
	w.say("withheld "+r.Withheld, e)
}

// tellUndecided tells that nobody can say which key is right, or that none is to be had.
func (w *watcher) tellUndecided(r agent.TendResult) {
	d := r.Decision
	w.provenAs = ""
	if r.Parked {
		why := "there was no keyfile, and on an empty one the daemon makes no key"
		if k := r.Evidence.Keyfile; k.Good {
			w.emptied = k.Key
			why = fmt.Sprintf("key %s opens no row and was in place for the daemon to read; it is kept, and on an empty keyfile the daemon keeps no secrets", k.Key)
		}
		w.o.Tell(Event{Name: Parked, Fingerprint: d.Needed, Verdict: string(d.Action), Text: "parked: " + why + "; " + d.Reason})
	}
	if w.lost.state != "" && hearsay(r) {
		// Nobody was asked again: what was found when all were is all there is to say.
		w.states[w.lost.state] = true
		w.o.Status(w.lost.text)
		return
	}
	text := string(d.Action) + ": " + d.Reason
	if d.Needed != "" {
		text += fmt.Sprintf("; key %s is needed", d.Needed)
	}
	if w.lost = (stated{}); d.Action == decide.Lost {
		w.lost = stated{w.undecided(r), text}
	}
	w.o.Status(text)
	w.say(w.undecided(r), Event{Name: Undecided, Fingerprint: d.Needed, Verdict: string(d.Action), Text: text + "; see keyguard status"})
}

// proven tells that the rows were asked and have nothing against the key: once an hour,
// and whenever that is news.
func (w *watcher) proven(r agent.TendResult) {
	e := provenEvent(r.GuardResult)
	if now := w.h.Now(); e.Name != "" && (w.provenAs != e.Text || now.Sub(w.provenAt) >= proofEvery) {
		w.provenAs, w.provenAt = e.Text, now
		w.o.Tell(e)
	}
}

// undecided tells two doubts apart by what they come from: the words also hold what
// changes all the time. Where this watcher has parked since, the keyfile counts as what it was before:
// the doubt is the same one.
func (w *watcher) undecided(r agent.TendResult) string {
	d, e := r.Decision, r.Evidence
	file := e.Keyfile
	switch {
	case file.Good && !r.Parked:
		w.emptied = ""
	case w.emptied != "":
		file.Good, file.Key = true, w.emptied
	}
	s := fmt.Sprint(d.Action, d.Rule, d.Needed, file.Good, file.Key, e.Rows.State)
	for _, place := range e.Escrows {
		s += fmt.Sprint(" ", place.State)
	}
	return s
}

// hearsay tells whether the keyfile stays undecided only because an escrow is not asked
// again yet.
func hearsay(r agent.TendResult) bool {
	one := false
	for _, s := range r.Evidence.Escrows {
		if s.State != decide.EscrowAnswered {
			return false
		}
		one = one || s.Remembered
	}
	return one && r.Decision.Action == decide.Doubt && r.Evidence.Rows.State == decide.RowsAnswer
}

// say tells of a state unless the last round did.
func (w *watcher) say(state string, e Event) {
	if !w.before[state] && !w.states[state] {
		w.o.Tell(e)
	}
	w.states[state] = true
}

func (w *watcher) tellSaved(s visitResult) {
	for _, r := range s.results {
		e := Event{Name: Saved, Fingerprint: r.Key, Escrow: s.escrow, Copy: r.Copy.ID,
			Text: fmt.Sprintf("key %s is saved in escrow %q as %s, and read back", r.Key, s.escrow, r.Copy.ID)}
		if r.Unverified {
			e.Text = fmt.Sprintf("key %s is stored in escrow %q as %s; it may not be read back from here, so nobody knows that it is whole", r.Key, s.escrow, r.Copy.ID)
		}
		if r.Sealed {
			e.Text = fmt.Sprintf("key %s is stored in escrow %q as %s, sealed: no identity of this host opens it; where one is, prove it: keyguard drill --identity FILE", r.Key, s.escrow, r.Copy.ID)
		}
		if r.Why != "" {
			e.Text += "; it is no current copy: " + r.Why
		}
		if r.Alarm {
			e.Name = ForeignWriter
		}
		w.o.Tell(e)
	}
	switch {
	case s.err != nil:
		text := fmt.Sprintf("escrow %q does not take what is due", s.escrow)
		if s.looked {
			last := "none has succeeded since the watcher began"
			if s.since > 0 {
				last = fmt.Sprintf("the last visit that succeeded was %s ago", s.since.Round(time.Second))
			}
			text = fmt.Sprintf("a look at escrow %q failed; nothing is to be saved there now, and %s", s.escrow, last)
		}
		w.o.Tell(Event{Name: EscrowFailing, Escrow: s.escrow, Err: s.err,
			Text: fmt.Sprintf("%s; it is tried again and again, the next time in %s", text, s.next.Round(time.Second))})
	case s.recovered:
		text := fmt.Sprintf("escrow %q has taken what is due, after it had failed", s.escrow)
		if s.looked {
			text = fmt.Sprintf("a look at escrow %q has succeeded, after it had failed; nothing is to be saved there now", s.escrow)
		}
		w.o.Tell(Event{Name: EscrowRecovered, Escrow: s.escrow, Text: text})
	}
}
