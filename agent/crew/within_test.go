package crew

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestWithin: whoever waits for a place that hangs walks away, and nobody waits there again
// until it has answered.
func TestWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		back := make(chan struct{})
		var late string
		var calls atomic.Int32
		hanging := func() (string, error) {
			return Within("/hung", func() (string, error) { calls.Add(1); <-back; return "x", nil }, func(s string) { late = s })
		}
		began := time.Now()
		if _, err := hanging(); !errors.Is(err, ErrHangs) || time.Since(began) != Patience {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		began = time.Now()
		if _, err := hanging(); !errors.Is(err, ErrHangs) || time.Since(began) != 0 || calls.Load() != 1 {
			t.Errorf("the second time: %v after %s, %d calls", err, time.Since(began), calls.Load())
		}
		began = time.Now()
		if err := Try("/busy", func() error { time.Sleep(2 * Patience); return errOther }); !errors.Is(err, errOther) {
			t.Errorf("a disk that is busy for %s: %v", time.Since(began), err)
		}
		if err := Try("/other", func() error { return errOther }); !errors.Is(err, errOther) {
			t.Errorf("another place: %v", err)
		}
		close(back)
		synctest.Wait()
		if v, err := hanging(); v != "x" || err != nil || late != "x" {
			t.Errorf("it answers again: %q, %v; late came %q", v, err, late)
		}
		defer func() {
			if p, is := recover().(*Panic); !is || p.Value != "boo" {
				t.Errorf("a panic is %v", p)
			}
		}()
		_ = Try("/other", func() error { panic("boo") })
	})
}

var errOther = errors.New("other")
