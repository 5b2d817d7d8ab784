package crew

// This file leaves a goroutine behind whose system call hangs. A process with a thread in such a call
// cannot exit, so that the one that systemd waits for leaves the whole process behind:
// cmd/keyguard/outside.

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
)

// ErrHangs says that a file system, or what stands in a file's place there, did not answer.
// That is no answer (law 6): neither that something is there, nor that it is not.
var ErrHangs = errors.New("it does not answer")

const (
	// Patience is how long Within waits for what takes microseconds: to open, to read.
	Patience = 5 * time.Second
	// SyncPatience is how long Try waits for a change to be on disk: fsync(2) waits for what
	// others have written, too, which on a busy disk was seen to take more than Patience.
	SyncPatience = 15 * time.Second
)

// stuck counts, by place, the calls that nobody waits for any more and that have not ended.
var stuck struct {
	sync.Mutex
	at map[string]int
}

// Within calls f, which touches a place that may hang for ever: a file system whose server
// is gone, a FIFO. A system call in one ends for no signal and no context, so that it is
// left behind after Patience, and the error is ErrHangs. As long as it has not ended nobody
// waits for that place again, or leaves another call there. What f returns after all goes to
// late; nil is nobody. f runs in another goroutine, where a panic is the caller's.
func Within[T any](place string, f func() (T, error), late func(T)) (T, error) {
	return within(Patience, place, f, late)
}

// Try is Within for a change that is to be on disk: it waits for SyncPatience.
func Try(place string, f func() error) error {
	_, err := within(SyncPatience, place, func() (struct{}, error) { return struct{}{}, f() }, nil)
	return err
}

func within[T any](wait time.Duration, place string, f func() (T, error), late func(T)) (T, error) {
	hangs := func() (T, error) {
		var none T
		return none, fmt.Errorf("%s: %w", place, ErrHangs)
	}
	stuck.Lock()
	n := stuck.at[place]
	stuck.Unlock()
	if n > 0 {
		return hangs()
	}
	if durable.AtOnce() {
		var value T
		err := Do(func() (err error) { value, err = f(); return err })
		if p, ok := errors.AsType[*Panic](err); ok {
			panic(p)
		}
		return value, err
	}
	type result struct {
		value T
		err   error
		left  bool // by runtime.Goexit
	}
	ended := make(chan result, 1)
	go func() {
		r := result{left: true}
		defer func() { ended <- r }()
		r.err = Do(func() (err error) { r.value, err = f(); return err })
		r.left = false
	}()
	patience := time.NewTimer(wait)
	defer patience.Stop()
	select {
	case r := <-ended:
		if p, ok := errors.AsType[*Panic](r.err); ok {
			panic(p)
		}
		if r.left {
			runtime.Goexit()
		}
		return r.value, r.err
	case <-patience.C:
	}
	count := func(by int) {
		stuck.Lock()
		defer stuck.Unlock()
		if stuck.at == nil {
			stuck.at = map[string]int{}
		}
		stuck.at[place] += by
	}
	count(1)
	go func() {
		r := <-ended
		count(-1)
		if late != nil && r.err == nil && !r.left {
			late(r.value)
		}
	}()
	return hangs()
}
