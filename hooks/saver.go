package hooks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

const (
	// saveTimeout bounds one visit to an escrow.
	saveTimeout = 30 * time.Second
	// saveFirst and saveLongest bound the pause of what is due after a failure: it doubles.
	saveFirst   = 5 * time.Second
	saveLongest = 5 * time.Minute
	// saveAgain is how long a key is left alone that an escrow took and that is due there still,
	// as law 4 kept it in quarantine; and how long a trouble that goes on is not told again.
	saveAgain = time.Hour
	// saveAsk is how often an escrow is looked at though nothing is due there (agent.Revisit). One
	// that does not answer is looked at again after a pause that doubles up to that.
	saveAsk = time.Hour
)

// saver brings to one escrow what is due there, for ever. It is its escrow's breaker: a
// failure makes only this one wait. Where an escrow is several stores, each has its own
// (escrow.Rester): a key that is new to it goes to those that take it at once. It asks the escrow
// itself, and not by the gate that a round or a start has before it (gateEscrows in gate.go): a
// pause of theirs delays no save, nor one of its own their questions.
type saver struct {
	h        *agent.Host
	escrow   string
	clock    Clock
	woken    chan struct{}
	lookedAt time.Duration // since boot: when it was last looked at though nothing was due
	ended    chan struct{}

	failures     int
	nextSave     time.Duration              // since boot: not before, where something is due
	nextLook     time.Duration              // since boot: the same after a failure, where nothing is
	keptBack     []key.Fingerprint          // what was due still after the last visit that succeeded
	keptBackAt   time.Duration              // since boot
	toldOf       map[key.Fingerprint]string // what was told of each key last
	dueAtFailure []key.Fingerprint          // what was due at the last visit that failed
	told         string                     // the last trouble that was told
	toldAt       time.Duration              // since boot
	visitedAt    time.Duration              // since boot: when a visit succeeded last; 0 where none has
}

// visitResult is what there is to tell of a visit to an escrow.
type visitResult struct {
	escrow  string
	results []agent.SaveResult
	err     error
	next    time.Duration // until the next try
	// recovered: it succeeded, and the last that was told was a failure.
	recovered bool
	// looked: nothing was due, nor was anything found that is to be saved again and was not.
	looked bool
	// since is how long before a failure a visit had succeeded; 0: none has.
	since time.Duration
}

func newSaver(h *agent.Host, name string, clock Clock) *saver {
	_, now := clock()
	return &saver{h: h, escrow: name, clock: clock, woken: make(chan struct{}, 1), toldOf: map[key.Fingerprint]string{}, ended: make(chan struct{}),
		lookedAt: now - rand.N(saveAsk)} // not all hosts at once
}

// wake makes the saver look at what is due. It never blocks.
func (s *saver) wake() {
	select {
	case s.woken <- struct{}{}:
	default: // it is about to look already
	}
}

func (s *saver) run(ctx context.Context, out chan<- visitResult) {
	defer close(s.ended)
	retry := stoppedTimer()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-s.woken:
		case <-retry.C:
		}
		until, visit := s.visit(ctx)
		if visit != nil {
			select {
			case out <- *visit:
			case <-ctx.Done():
				return
			}
		}
		_, now := s.clock()
		retry.Reset(until - now)
	}
}

// visit brings what is due, or looks at the escrow where nothing is, unless it is too early. It
// returns until when, since boot, there is nothing more to do unless it is woken, and what there is
// to tell, nil for nothing.
func (s *saver) visit(ctx context.Context) (time.Duration, *visitResult) {
	_, now := s.clock()
	due, err := agent.Due(s.h, s.escrow) // asks nobody, so that a key which comes in a pause is known
	look := err == nil && (len(due) == 0 || slices.Equal(due, s.keptBack) && now-s.keptBackAt < saveAgain)
	until := s.nextSave
	switch {
	case look:
		until = s.quiet(due)
	case s.rester() != nil && slices.ContainsFunc(due, func(f key.Fingerprint) bool { return !slices.Contains(s.dueAtFailure, f) }):
		until = now
	}
	if now < until {
		return until, nil
	}
	bring := agent.SaveDue
	if look {
		bring, s.lookedAt = agent.Revisit, now
	}
	var results []agent.SaveResult
	if err == nil {
		visit, cancel := context.WithTimeout(ctx, saveTimeout)
		defer cancel()
		// A panic, too, is this escrow's failure alone.
		err = crew.Do(func() (err error) { results, err = bring(visit, s.h, s.escrow); return err })
	}
	if ctx.Err() != nil {
		return until, nil
	}
	tried := map[key.Fingerprint]bool{}
	for _, r := range results {
		tried[r.Key] = true
	}
	results = slices.DeleteFunc(results, func(r agent.SaveResult) bool {
		news := fmt.Sprint(r.Copy.ID, r.Unverified)
		old := s.toldOf[r.Key] == news
		s.toldOf[r.Key] = news
		return old
	})
	if err != nil {
		s.dueAtFailure = due
		return s.failed(look, results, err)
	}
	recovered := s.told != ""
	s.failures, s.nextSave, s.told, s.visitedAt = 0, 0, "", now
	if !look {
		s.noteKeptBack(now, tried)
		due = s.keptBack
	}
	return s.quiet(due), &visitResult{escrow: s.escrow, results: results, recovered: recovered, looked: look}
}

// quiet is until when, since boot, the escrow is left alone where no more is due than what was kept
// back.
func (s *saver) quiet(keptBack []key.Fingerprint) time.Duration {
	until := s.lookedAt + saveAsk
	if s.failures > 0 {
		until = s.nextLook
	}
	if len(keptBack) > 0 {
		until = min(until, s.keptBackAt+saveAgain)
	}
	return until
}

// noteKeptBack notes what is due still after it was saved: that is not because of the escrow. Law 4
// keeps it in quarantine, or it may not be read back. A key that came while the others were
// saved was not tried, and does not wait.
func (s *saver) noteKeptBack(now time.Duration, tried map[key.Fingerprint]bool) {
	due, err := agent.Due(s.h, s.escrow)
	if err != nil {
		due = nil
	}
	s.keptBack = slices.DeleteFunc(due, func(f key.Fingerprint) bool { return !tried[f] })
	s.keptBackAt = now
}

// rester is the escrow where it is several stores with a breaker each, else nil.
func (s *saver) rester() escrow.Rester {
	for _, e := range s.h.Escrows {
		if r, ok := e.Writer.(escrow.Rester); ok && e.Name() == s.escrow {
			return r
		}
	}
	return nil
}

// failed sets the next try, and tells of the trouble when it is new, and else once every
// saveAgain: a pause that would end after that is cut short, so that the telling is not late.
// After a look that failed, a key that becomes due waits as after a save.
func (s *saver) failed(look bool, results []agent.SaveResult, err error) (time.Duration, *visitResult) {
	_, now := s.clock()
	if !errors.Is(err, escrow.ErrNeverLeft) || s.failures == 0 {
		s.failures++
	}
	var again *agent.SaveAgainError
	v := visitResult{escrow: s.escrow, results: results, looked: look && !errors.As(err, &again)}
	if s.visitedAt > 0 {
		v.since = now - s.visitedAt
	}
	trouble := fmt.Sprint(v.looked, err) // what comes to be due in an outage is news
	tell := trouble != s.told || now-s.toldAt >= saveAgain
	if tell {
		s.told, s.toldAt, v.err = trouble, now, err
	}
	s.nextSave = now + s.pause(now, saveLongest, err)
	s.nextLook = s.nextSave
	if look {
		s.nextLook = now + s.pause(now, saveAsk, err)
	}
	if !tell && len(results) == 0 {
		return s.nextLook, nil
	}
	v.next = s.nextLook - now
	return s.nextLook, &v
}

// pause is how long the escrow is left alone after a failure.
func (s *saver) pause(now, longest time.Duration, err error) time.Duration {
	pause := saveFirst
	for range s.failures - 1 {
		pause = min(2*pause, longest)
	}
	pause += rand.N(pause / 4)
	if r := s.rester(); r != nil {
		if d := r.Rests(); d > 0 {
			pause = d
		}
	}
	if errors.Is(err, escrow.ErrRecut) || errors.Is(err, escrow.ErrPartMoved) { // until somebody changes the configuration
		pause = saveAgain
	}
	return min(pause, s.toldAt+saveAgain-now)
}
