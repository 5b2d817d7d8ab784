package agent

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// Ails is what an Ailment is about. What to type for each is in cmd/keyguard/statusremedies.go.
type Ails string

// What can ail, the most urgent first.
const (
	AilsWorking    Ails = "working"    // nothing does: a rotation or a repair is under way
	AilsLost       Ails = "lost"       // no key that can be had opens a row
	AilsDoubt      Ails = "doubt"      // nobody can tell which key is right
	AilsKeyfile    Ails = "keyfile"    // another key belongs there
	AilsFirst      Ails = "first"      // a first key was made, and a required escrow has not taken it
	AilsRows       Ails = "rows"       // the key opens a part of them, or none
	AilsCloned     Ails = "cloned"     // the ledger is another machine's
	AilsHalfway    Ails = "halfway"    // a rotation stopped
	AilsDaemon     Ails = "daemon"     // it does not run on the key that is in place, or nobody can tell
	AilsLeftDown   Ails = "left down"  // keyguard stopped it, and nobody has started it
	AilsUnasked    Ails = "unasked"    // its start does not ask keyguard
	AilsWatcher    Ails = "watcher"    // it does not run
	AilsTimer      Ails = "timer"      // no drill is to come
	AilsUnproven   Ails = "unproven"   // the rows cannot be asked, and nothing on record vouches for the key
	AilsDatabase   Ails = "database"   // they cannot be until a person puts right the file that leads to them
	AilsUnread     Ails = "unread"     // the ledger cannot be read
	AilsBroken     Ails = "broken"     // its chain is broken, and nobody has seen to it
	AilsUnrecorded Ails = "unrecorded" // its beginning is gone
	AilsForgets    Ails = "forgets"    // what it is kept in does not last
	AilsUnwritable Ails = "unwritable" // it cannot be written
	AilsUnkept     Ails = "unkept"     // the local quarantine takes no key
	AilsHanging    Ails = "hanging"    // a directory of ours hangs
	AilsLoose      Ails = "loose"      // the keyfile's mode or owner
	AilsNoEscrow   Ails = "no escrow"  // none is configured
	AilsNowhere    Ails = "nowhere"    // no escrow that answers holds the key
)

// What can ail an escrow, the most urgent first: Ailment.Escrow says which one.
const (
	AilsUngiven    Ails = "ungiven"    // nothing is read from there, and it was not given the key yet
	AilsForeign    Ails = "foreign"    // another host writes to the same place
	AilsAway       Ails = "away"       // it is required, and cannot answer
	AilsBlocked    Ails = "blocked"    // it is required, and takes no further copy
	AilsHere       Ails = "here"       // it alone holds the key, and lies on the keyfile's own disk, or in memory
	AilsMiswritten Ails = "miswritten" // the key is on top, and not as its 32 bytes
	AilsUnopened   Ails = "unopened"   // what is on top is the key by its own word alone
	AilsLocked     Ails = "locked"     // the same, and an identity that this host is given for it cannot be used
	AilsRefuses    Ails = "refuses"    // it takes no part of the key as it is configured
	AilsBarred     Ails = "barred"     // it does not hold the key, and law 4 keeps the key from there
	AilsUnheld     Ails = "unheld"     // it does not hold the key
	AilsLacks      Ails = "lacks"      // parts of the key
	AilsReadable   Ails = "readable"   // others on this host can read copies there
	AilsFailed     Ails = "failed"     // its last drill
	AilsUntried    Ails = "untried"    // no drill has tried a part of it for long
)

// Ailment is one thing that is not as it should be.
type Ailment struct {
	Ails   Ails
	Health Health
	Line   string        // for people
	Escrow *EscrowStatus // nil where it is about none
}

// judge lists what ails, the most urgent first: what is decided of the keyfile, then how the
// daemon and our units run (judgeAlive in alive.go), then the ledger, then what the escrows hold.
// The first one is the verdict, and its line what status begins with; status is green where
// nothing ails. The command that it names for each is in cmd/keyguard/statusremedies.go.
func (r *StatusResult) judge(now time.Time) {
	if r.judgeKey() {
		r.judgeAlive()
		if r.Decision.Action == decide.Pass {
			r.judgeRecord(now)
			r.judgeEscrows(now)
		}
	}
	if len(r.Ailments) > 0 {
		r.Health, r.Line = r.Ailments[0].Health, r.Ailments[0].Line
		return
	}
	r.Health, r.Line = Green, fmt.Sprintf("key %s is in place and in every escrow that answers", r.Keyfile.Key)
	if r.Decision.Action == decide.Make {
		r.Line = fmt.Sprintf("no key yet: the daemon's first start makes one (%s)", r.Decision.Reason)
		return
	}
	if r.Drill.Last.Verdict == string(DrillFailed) { // else an escrow would ail with it
		r.Line += fmt.Sprintf("; the last drill failed, at %s (%s), and what it found was saved anew since, which no drill has tried", printable.Time(r.Drill.Last.Time), r.Drill.Last.Reason)
	}
	if r.Rows.State == decide.RowsUnknown {
		r.Line += "; the rows cannot be asked just now: " + r.Rows.Why
	}
}

func (r *StatusResult) ail(what Ails, h Health, format string, a ...any) {
	r.Ailments = append(r.Ailments, Ailment{Ails: what, Health: h, Line: fmt.Sprintf(format, a...)})
}

// judgeKey judges what a start would do with the keyfile. It reports false while nothing is
// to be judged.
func (r *StatusResult) judgeKey() bool {
	if r.Working != nil {
		r.ail(AilsWorking, Busy, "%s", r.Working)
		return false
	}
	switch r.Decision.Action {
	case decide.Lost:
		r.ail(AilsLost, Gone, "%s%s", r.Decision.Reason, r.needed())
	case decide.Doubt:
		r.ail(AilsDoubt, Unsure, "%s%s", r.Decision.Reason, r.needed())
	case decide.Install:
		r.ail(AilsKeyfile, Unsure, "the keyfile is not right: key %s belongs there (%s)", r.Decision.Key, r.Decision.Reason)
	case decide.Make:
		for _, s := range r.Escrows {
			if f := r.Decision.Key; f != "" && s.Required && s.Newest.Key != f {
				r.ail(AilsFirst, Lagging, "key %s was made for the first start, and is in place only when every required escrow has it: %q does not hold it yet", f, s.Name)
			}
		}
	case decide.Pass:
		switch r.Proof.Verdict {
		case rows.Partial:
			what := "the table is split"
			if !r.Rows.Split() {
				what += ", or rows were tampered with"
			}
			r.ail(AilsRows, Unsure, "%s: key %s opens %d of %s%s", what, r.Keyfile.Key, r.Proof.Opened, printable.Count(r.Proof.Checked, "row"), r.word())
		case rows.Refuted:
			r.ail(AilsRows, Unsure, "key %s opens none of %s%s", r.Keyfile.Key, printable.Count(r.Proof.Checked, "row"), r.word())
		}
	}
	switch at := printable.Time(r.Other.Time); {
	case r.Other.Event == "":
	case r.Nameless:
		r.ail(AilsCloned, Amiss, "this machine has no id (/etc/machine-id), so nobody can tell whether it is the one that wrote the ledger, called %s, last at %s, or a clone of it",
			r.Other.Host, at)
	default:
		r.ail(AilsCloned, Amiss, "the ledger is another machine's, called %s, which wrote to it last at %s: this one is a clone of it, and nobody has accepted its key here",
			r.Other.Host, at)
	}
	if r.Halfway != nil {
		r.ail(AilsHalfway, Amiss, "%v", r.Halfway)
	}
	return true
}

// judgeRecord judges what is on record of a key that is in place, and the file it is in.
func (r *StatusResult) judgeRecord(now time.Time) {
	switch why, err := r.unproven(now), r.Rows.Err; {
	case r.Rows.State != decide.RowsUnknown:
	case why != "":
		r.ail(AilsUnproven, Amiss, "key %s is in place, and nobody knows whether it opens the rows: they cannot be asked, and %s", r.Keyfile.Key, why)
	case errors.Is(err, rows.ErrLoose), errors.Is(err, rows.ErrNotFile), errors.Is(err, rows.ErrURL): // which does not pass by itself
		r.ail(AilsDatabase, Amiss, "key %s is in place, and nobody can ask the rows any more: %v", r.Keyfile.Key, err)
	}
	switch {
	case r.Damaged != "":
		r.ail(AilsUnread, Amiss, "key %s is in place, and the ledger cannot tell what was proven and saved here: %s", r.Keyfile.Key, r.Damaged)
	case r.Unwritable != nil:
		r.ail(AilsUnwritable, Amiss, "key %s is in place, and nothing that becomes of it can be recorded: %v", r.Keyfile.Key, r.Unwritable)
	case r.Unkept != nil:
		r.ail(AilsUnkept, Amiss, "key %s is in place, and another that comes there would be kept beside it alone: %v", r.Keyfile.Key, r.Unkept)
	}
	if r.Broken != nil && r.Damaged == "" {
		r.ail(AilsBroken, Amiss, "key %s is in place, and the ledger's chain is broken at line %d: somebody edited it or a disk damaged it, and what stands before proves nothing", r.Keyfile.Key, r.Broken.Line)
	}
	if r.Damaged == "" && r.Broken == nil && !r.Unrecorded.IsZero() {
		r.ail(AilsUnrecorded, Amiss, "key %s is in place, and the ledger was emptied or taken away: keys were kept here at %s already, and what was proven, saved and drilled then is not on record",
			r.Keyfile.Key, printable.Time(r.Unrecorded))
	}
	if r.Forgets {
		r.ail(AilsForgets, Amiss, "key %s is in place, and something in memory is mounted on the state directory: ledger and local quarantine go with the next boot, and the ones below are covered", r.Keyfile.Key)
	}
	if len(r.Hanging) > 0 {
		r.ail(AilsHanging, Amiss, "key %s is in place, and a directory that keyguard needs hangs: %v", r.Keyfile.Key, r.Hanging[0])
	}
	if r.Loose != "" {
		r.ail(AilsLoose, Amiss, "the daemon refuses a keyfile that is loose (%s)", r.Loose)
	}
}

func (r *StatusResult) judgeEscrows(now time.Time) {
	if len(r.Escrows) == 0 {
		r.ail(AilsNoEscrow, Lagging, "key %s is in place, and no escrow is configured: it has no copy off this host", r.Keyfile.Key)
		return
	}
	held, here := false, (*EscrowStatus)(nil)
	for i := range r.Escrows {
		s := &r.Escrows[i]
		held = held || s.Holds && s.Here == nil
		if s.Holds && s.Here != nil {
			here = s
		}
		if what, line := s.lags(r.Keyfile.Key, now); what != "" {
			health := Lagging
			if what == AilsReadable || what == AilsBlocked && s.Holds {
				health = Amiss
			}
			r.Ailments = append(r.Ailments, Ailment{what, health, fmt.Sprintf("escrow %q", s.Name) + line, s})
		}
	}
	switch {
	case held:
	case here != nil:
		r.Ailments = append(r.Ailments, Ailment{AilsHere, Amiss, fmt.Sprintf("key %s has no copy off this host: escrow %q: %v", r.Keyfile.Key, here.Name, here.Here), here})
	default:
		r.ail(AilsNowhere, Lagging, "key %s is in place, and no escrow that answers holds it", r.Keyfile.Key)
	}
}

// lags says what is not as it should be with an escrow, "" for nothing.
func (s *EscrowStatus) lags(own key.Fingerprint, now time.Time) (Ails, string) {
	switch {
	case s.AddOnly && s.Added != own:
		return AilsUngiven, fmt.Sprintf(" was not given key %s yet", own)
	case s.Alarm != "":
		return AilsForeign, ": " + s.Alarm
	case s.State == decide.EscrowFailed && s.Required:
		return AilsAway, " cannot answer: " + s.Why
	case s.Blocked != nil && s.Required: // before what a save would mend
		return AilsBlocked, ": " + s.Blocked.Text
	case s.State == decide.EscrowAnswered && s.Newest.Miswritten() && s.Newest.Key == own:
		return AilsMiswritten, fmt.Sprintf(" has copy %s on top, which is key %s as %s, not as its 32 bytes: keyguard restores it, the runbook's commands would not",
			s.Newest.ID, own, s.Newest.Encoding)
	case s.unopened(own) && s.Newest.Locked:
		return AilsLocked, fmt.Sprintf(" has copy %s on top, which says that it is key %s and cannot be opened here: %s", s.Newest.ID, own, s.Newest.Unreadable)
	case s.unopened(own):
		return AilsUnopened, fmt.Sprintf(" has copy %s on top, which says that it is key %s and is sealed: no identity has opened it here", s.Newest.ID, own)
	case s.Refuses != nil: // before what a save would mend
		return AilsRefuses, fmt.Sprintf(" takes no part of key %s as it is configured: %v", own, s.Refuses)
	case s.State == decide.EscrowAnswered && !s.Holds && s.Barred.Why != "":
		return AilsBarred, fmt.Sprintf(" does not hold key %s as its newest current copy, and would not take it for one: %s", own, s.Barred.Why)
	case s.State == decide.EscrowAnswered && !s.Holds:
		return AilsUnheld, fmt.Sprintf(" does not hold key %s as its newest current copy", own)
	case s.Lacks != nil:
		return AilsLacks, fmt.Sprintf(": key %s is %v", own, s.Lacks)
	case s.Readable != "":
		return AilsReadable, ": " + s.Readable
	case s.failedDrill():
		return AilsFailed, " failed its last drill: " + s.Drilled.Reason
	}
	for _, p := range s.Untried {
		// Not at once: a store may be down at one drill, and by longestGap after that the next weekly one was
		// due. A clock that was ahead tells nothing of how long.
		if age := now.Sub(p.Since); age > longestGap || age < -clockSlack {
			return AilsUntried, ": " + p.String()
		}
	}
	return "", ""
}

// unproven says why what is on record does not vouch for the keyfile's key as it would at a
// start (R2), "" where it does.
func (r *StatusResult) unproven(now time.Time) string {
	age := now.Sub(r.LastLook)
	switch {
	case r.Known != r.Keyfile.Key:
		return "no look at them is on record"
	case r.LastLook.IsZero(), age < 0, age > decide.ProofLife:
		return "the last look at them is too old"
	case r.Look == rows.Unknown:
		return "they could not be asked either when a person accepted it"
	case r.Look == rows.Silent:
		return "no row could tell when a person accepted it"
	case r.Look == rows.Partial:
		return "it opened only a part of them at the last look"
	case r.Look == rows.Refuted:
		return "it opened none of them when a person accepted it"
	}
	return ""
}

// needed names the key that was last known to be right, where that is not at hand.
func (r *StatusResult) needed() string {
	f := r.Decision.Needed
	if f == "" || strings.Contains(r.Decision.Reason, string(f)) {
		return ""
	}
	return fmt.Sprintf("; needed is key %s", f)
}

// word says that the keyfile's key stands there because a person accepted it.
func (r *StatusResult) word() string {
	if !r.Accepted || r.Known != r.Keyfile.Key {
		return ""
	}
	return ", and is in place on a person's word"
}
