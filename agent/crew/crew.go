// Package crew runs goroutines none of which can end the program by a panic: a recover
// reaches only its own goroutine, and a start of the daemon must not depend on what a
// server, a store or a stick has sent to another one (law 9). A panic becomes an error of
// whoever waits, and there it is what every error is: no answer (law 6).
package crew

import (
	"context"
	"fmt"
	"runtime/debug"

	"golang.org/x/sync/errgroup"
)

// Panic is what a function panicked with.
type Panic struct {
	Value any
	Stack []byte // of the goroutine that panicked
}

func (p *Panic) Error() string { return fmt.Sprintf("panic: %v", p.Value) }

// Do calls f, here. Where it panics, that is the error: a *Panic, and the first of several
// where one goroutine handed it to another.
func Do(f func() error) (err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case *Panic:
			err = v
		default:
			err = &Panic{v, debug.Stack()}
		}
	}()
	return f()
}

// Go calls f in a goroutine of its own, and sends what comes of it once.
func Go(f func() error) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- Do(f) }()
	return ended
}

// Group is several goroutines with one owner, who waits for them. The zero Group is ready.
type Group struct {
	zero errgroup.Group
	own  *errgroup.Group // of WithContext
}

// WithContext returns a group and a context that ends with the first error or panic of its
// goroutines, or when all have ended.
func WithContext(ctx context.Context) (*Group, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	return &Group{own: g}, ctx
}

// Go calls f in a goroutine of its own.
func (g *Group) Go(f func() error) { g.group().Go(func() error { return Do(f) }) }

// SetLimit bounds how many run at once; Go waits for its turn then.
func (g *Group) SetLimit(n int) { g.group().SetLimit(n) }

// Wait returns when all have, with the first error or panic.
func (g *Group) Wait() error { return g.group().Wait() }

func (g *Group) group() *errgroup.Group {
	if g.own != nil {
		return g.own
	}
	return &g.zero
}

// Each calls f for 0 … n-1 at once, and returns when all have. A panic of one of them goes
// on in the caller: what it was to leave behind is not there.
func Each(n int, f func(i int)) {
	var g Group
	for i := range n {
		g.Go(func() error { f(i); return nil })
	}
	if err := g.Wait(); err != nil {
		panic(err)
	}
}
