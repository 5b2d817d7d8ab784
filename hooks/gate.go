package hooks

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// A start that fails is repeated for ever, every few seconds: Restart=on-failure without
// a limit (design §9). An escrow is asked again only after a while that doubles from
// firstWait to longestWait; up to then a start goes by what was answered before (law 9).
// That is hearsay: it names copies and decides nothing (law 6). A start that may ask does all
// of it anew, whatever was seen before: a copy may be mended under its name, and another table
// stand where one was. This file says when to ask; what is remembered from start to start is in
// gatememory.go.
const (
	firstWait   = 5 * time.Second
	longestWait = 2 * time.Minute
	// spread is half of what wait can be at most, and more than the minute by which stores
	// count calls.
	spread = longestWait * 5 / 8
	// forget is how long after the last call the next start is no repetition any more.
	forget = 10 * time.Minute
)

// wait is the pause after the given number of calls in a row, a quarter longer at
// random, so that many hosts do not ask one store in step.
func wait(calls int) time.Duration {
	d := firstWait
	for range calls - 1 {
		d = min(2*d, longestWait)
	}
	return d + upTo(d/4)
}

// upTo draws a pause that is shorter than d, from where keys come from: a test that gives
// those out of a seed gets the same pauses again.
func upTo(d time.Duration) time.Duration {
	var b [8]byte
	rand.Read(b[:]) //nolint:errcheck // it never fails
	return time.Duration(binary.LittleEndian.Uint64(b[:]) % uint64(d))
}

// spreadOut is the pause after a store has wanted fewer requests: half the usual one, and
// anything up to spread besides. Quotas are counted by the minute and over all hosts of a
// project, so that those which were refused together are to come back one by one; and it is
// no longer than any other pause can be.
func spreadOut(calls int) time.Duration { return wait(calls)/2 + upTo(spread) }

// gateEscrows puts a gate before every escrow of a host. What is remembered is read when
// it is first needed.
func gateEscrows(h *agent.Host, recall func() *memory) (*agent.Host, func() *memory) {
	once := sync.OnceValue(recall)
	gated := *h
	gated.Escrows = append([]agent.Escrow(nil), h.Escrows...)
	for i := range gated.Escrows {
		g := &gate{Reader: h.Escrows[i].Reader, recall: once}
		gated.Escrows[i].Reader = g
		if l, ok := g.Reader.(escrow.Latest); ok {
			gated.Escrows[i].Reader = &latestGate{g, l}
		}
	}
	return &gated, once
}

// gate is a Reader that asks the store behind it only when it is time to.
type gate struct {
	escrow.Reader
	recall             func() *memory
	answeredFromMemory bool // the last List was answered from memory
	listed             bool // the last List has asked the store
	mayList            bool // this start has asked for the latest copy or saved one, or looks at all anew, and may go on with a List
}

func (g *gate) List(ctx context.Context) ([]escrow.Copy, error) {
	m := g.recall()
	done, waited, err := g.takeTurn(ctx, filepath.Dir(m.path))
	if err != nil {
		return nil, err
	}
	defer done()
	if waited {
		m.reload(g.Name())
	}
	e := m.escrow(g.Name())
	calls := e.calls()
	if !g.mayList { // else the two are one call
		calls++
	}
	if e != nil && g.early(e) && !(waited && e.answers()) && !g.mayList {
		m.lock.Lock()
		defer m.lock.Unlock()
		g.answeredFromMemory, g.listed = true, false
		if !e.Answered {
			return nil, fmt.Errorf("%w, for %s more; it said: %s", agent.ErrNotAgain, (e.Next - m.since).Round(time.Second), e.Error)
		}
		return e.recalled(), nil
	}
	g.mayList, g.answeredFromMemory, g.listed = false, false, true
	var copies []escrow.Copy
	err = g.ask(e, calls, func(now, before *escrowMemory) error {
		var err error
		if copies, err = g.Reader.List(ctx); err != nil {
			return err
		}
		m.lock.Lock()
		defer m.lock.Unlock()
		now.Answered, now.Copies, now.Fetched, now.Error = true, copies, map[string]fetchedKey{}, ""
		for _, c := range copies {
			f, ok := before.Fetched[c.ID]
			switch {
			case ok && f.At == m.since: // by this start
				now.Fetched[c.ID] = f
			case ok:
				now.Fetched[c.ID] = fetchedKey{At: f.At}
			}
		}
		return nil
	})
	return copies, err
}

// early tells whether it is too early to ask the store again.
func (g *gate) early(e *escrowMemory) bool { return g.recall().since < e.Next }

// begin remembers a call that is about to be made, as ask has it.
func (g *gate) begin(m *memory, e *escrowMemory, calls int) (now, before *escrowMemory) {
	m.lock.Lock()
	defer m.lock.Unlock()
	before = &escrowMemory{}
	if e != nil {
		*before = *e
	}
	now = &escrowMemory{Calls: calls, Last: m.since, Error: "it was asked and did not answer"}
	now.Next = m.since + wait(now.Calls)
	m.Escrows[g.Name()], m.asked = now, true
	// On disk before the call: a start that is killed while it waits has asked too.
	// That it cannot be written is no reason to keep the daemon from its key; the save
	// at the end of the start reports it.
	_ = m.save()
	return now, before
}

// ask calls the store, and remembers that: e is what the memory has of the escrow, or nil, and
// calls is how many calls in a row this one makes.
func (g *gate) ask(e *escrowMemory, calls int, call func(now, before *escrowMemory) error) error {
	m := g.recall()
	now, before := g.begin(m, e, calls)
	err := call(now, before)
	m.lock.Lock()
	defer m.lock.Unlock()
	switch {
	case err == nil:
	case errors.Is(err, escrow.ErrNeverLeft), errors.Is(err, escrow.ErrNoPlace) && g.Place().Kind == "directory":
		// A cold boot, a stick that is not mounted: no store was bothered, so nothing is
		// held against asking it.
		if e == nil {
			delete(m.Escrows, g.Name())
		} else {
			m.Escrows[g.Name()] = before
		}
	case errors.Is(err, context.Canceled):
		now.Error = "it was asked, and not waited for"
	case errors.Is(err, escrow.ErrRateLimited):
		now.Next, now.Error = m.since+spreadOut(now.Calls), err.Error()
	default:
		now.Error = err.Error()
	}
	return err
}

// latestGate is the gate before a store that gives its latest copy without a listing.
type latestGate struct {
	*gate
	latest escrow.Latest
}

// FetchLatest asks the store where it is time to, and an earlier start has left no listing:
// where one has, the newest copy was not enough.
func (g *latestGate) FetchLatest(ctx context.Context) (c escrow.Copy, k key.Key, encoding key.Encoding, err error) {
	m := g.recall()
	done, waited, err := g.takeTurn(ctx, filepath.Dir(m.path))
	if err != nil {
		return c, k, "", err
	}
	defer done()
	if waited {
		m.reload(g.Name())
	}
	e := m.escrow(g.Name())
	if e != nil && (e.Answered || g.early(e) && !(waited && e.answers())) {
		return c, k, "", agent.ErrNotAgain
	}
	err = g.ask(e, e.calls()+1, func(now, _ *escrowMemory) error {
		var err error
		if c, k, encoding, err = g.latest.FetchLatest(ctx); err != nil {
			return err
		}
		m.lock.Lock()
		defer m.lock.Unlock()
		now.Latest, now.Error = true, "it was asked for its newest copy alone"
		now.Fetched = map[string]fetchedKey{c.ID: {At: m.since, Key: k.Fingerprint()}}
		return nil
	})
	g.mayList = true
	return c, k, encoding, err
}

// turnAgain is the pause between two looks whether another process still waits for an escrow.
const turnAgain = 50 * time.Millisecond

// takeTurn waits, within ctx, until no other process asks this escrow, and keeps others
// waiting until done is called. It tells whether it had to wait: then the other process has
// left in the memory what the store answered.
func (g *gate) takeTurn(ctx context.Context, dir string) (done func(), waited bool, err error) {
	name := fmt.Sprintf("%s.%x", backoffFile, sha256.Sum256([]byte(g.Name())))[:len(backoffFile)+17]
	f, err := crew.Within(dir, func() (*os.File, error) {
		return os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	}, func(f *os.File) { f.Close() })
	if err != nil {
		return func() {}, false, nil // no directory yet: nobody is there to wait for
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) {
			return func() { f.Close() }, waited, nil //nolint:errcheck // nothing was written
		}
		waited = true
		select {
		case <-time.After(turnAgain):
		case <-ctx.Done():
			f.Close() //nolint:errcheck // nothing was written
			return nil, true, fmt.Errorf("%w: another keyguard is asking it", agent.ErrNotAgain)
		}
	}
}

// Changed lets this start ask the store once more.
func (g *gate) Changed() { g.mayList = true }

// Again lets this start ask the store once more for what it has asked it for.
func (g *gate) Again() { g.mayList = g.mayList || g.listed }

// Remembered tells whether the last List was answered from memory.
func (g *gate) Remembered() bool { return g.answeredFromMemory }

// FetchedAt tells how long after the boot a copy was asked for last, 0 for never: where one
// start has no time for all of them, or one of them fails, the next goes on with the others.
func (g *gate) FetchedAt(id string) time.Duration {
	m := g.recall()
	m.lock.Lock()
	defer m.lock.Unlock()
	return m.Escrows[g.Name()].Fetched[id].At
}

func (g *gate) Fetch(ctx context.Context, c escrow.Copy) (key.Key, key.Encoding, error) {
	m := g.recall()
	if g.answeredFromMemory {
		m.lock.Lock()
		defer m.lock.Unlock()
		f := m.Escrows[g.Name()].Fetched[c.ID]
		if class := classes[f.Class]; class != nil {
			return key.Key{}, "", remembered{f.Error, class}
		}
		return key.Key{}, "", agent.ErrNotAgain
	}
	k, encoding, err := g.Reader.Fetch(ctx, c)
	f := fetchedKey{At: m.since}
	if err == nil {
		f.Key = k.Fingerprint()
	}
	for name, class := range classes {
		if errors.Is(err, class) {
			f.Class, f.Error = name, err.Error()
		}
	}
	if err == nil || !errors.Is(ctx.Err(), context.Canceled) { // else it was called off, and has its turn
		m.lock.Lock()
		defer m.lock.Unlock()
		m.Escrows[g.Name()].Fetched[c.ID] = f
	}
	return k, encoding, err
}
