// Package wiretest spoils connections at a byte that a test names: between the program and
// whatever it talks to by TCP. It knows nothing of what is said; rowstest.Wire does.
package wiretest

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// Way is a direction.
type Way int

// The two ways. Forth is from who connects.
const (
	Forth Way = iota
	Back
)

// Ways are both.
var Ways = [...]Way{Forth, Back}

func (w Way) String() string { return [...]string{"forth", "back"}[w] }

// Kind is what happens to a byte. Bytes before it have arrived.
type Kind int

// What happens, once.
const (
	Reset    Kind = iota // both ends are told by RST
	Close                // both ends are told by FIN, in the middle of what was said
	HalfOpen             // who listens is told by RST, and who connected waits
	Hole                 // nothing is carried any more, on any connection, and nobody is told
	Late                 // it arrives when who connected has hung up
	Flip                 // one of its bits is another
	kinds
)

func (k Kind) String() string {
	return [...]string{"reset", "close", "half-open", "hole", "late", "flip"}[k]
}

// Kinds are all of them.
func Kinds() (all []Kind) {
	for k := range kinds {
		all = append(all, k)
	}
	return all
}

// Fault is one thing that happens to what a Relay carries.
type Fault struct {
	Kind Kind
	Way  Way
	At   int // the byte, from 0, counted over all connections
	Bit  int // of Flip, 0 to 7
	// Until is when the relay hangs up on who still waits, as the kernel does whose keepalive
	// is not answered, and carries what comes then. 0: at End.
	Until time.Duration
}

func (f Fault) String() string { return fmt.Sprintf("%s at byte %d %s", f.Kind, f.At, f.Way) }

// Relay carries connections to an address, until a Fault happens to one of them. It has one
// life: what it counts begins with it.
type Relay struct {
	Addr string // where it listens

	listener net.Listener
	to       string
	fault    *Fault
	hole     chan struct{} // closed when nothing is carried any more
	mended   chan struct{} // closed when it is again
	mend     func()        // closes mended, once
	open     sync.WaitGroup

	mu       sync.Mutex // guards what follows
	carried  [2]int
	pauses   [2][]int
	happened bool
	clients  []net.Conn
	ended    bool
	timer    *time.Timer // of Until
}

// New listens until End. Without a fault it only counts.
func New(to string, fault *Fault) (*Relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Relay{Addr: l.Addr().String(), listener: l, to: to, fault: fault, hole: make(chan struct{}), mended: make(chan struct{})}
	r.mend = sync.OnceFunc(func() { close(r.mended) })
	r.open.Go(func() {
		accept(l, func(client net.Conn) { r.open.Go(func() { r.carry(client) }) })
	})
	return r, nil
}

// Listen serves clients, on a free port of loopback, until the test ends, and says where.
// The context of what serves one ends a moment before.
func Listen(tb testing.TB, serve func(closing context.Context, client net.Conn)) (addr string) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	closing, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		accept(l, func(client net.Conn) { all.Go(func() { serve(closing, client) }) })
	})
	tb.Cleanup(func() {
		stop()
		l.Close()
		all.Wait()
	})
	return l.Addr().String()
}

// accept returns when the listener is closed.
func accept(l net.Listener, serve func(client net.Conn)) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		serve(client)
	}
}

// Happened tells whether the byte of the fault was sent at all.
func (r *Relay) Happened() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.happened
}

// Silent tells whether it may let somebody wait who is told nothing: a bit of a length will do.
func (k Kind) Silent() bool { return k == HalfOpen || k == Hole || k == Late || k == Flip }

// Carried is how many bytes were sent one way.
func (r *Relay) Carried(w Way) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.carried[w]
}

// Points are bytes of one way at which a fault may tell something: with which something
// begins that was sent at once, the one before, and as many as are wanted by chance, each
// once and in order.
func (r *Relay) Points(w Way, chance int, draw func(n int) int) []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	var points []int
	for _, p := range r.pauses[w] {
		points = append(points, p-1, p)
	}
	for range chance {
		points = append(points, draw(r.carried[w]))
	}
	slices.Sort(points)
	return slices.DeleteFunc(slices.Compact(points), func(p int) bool { return p < 0 || p >= r.carried[w] })
}

// End hangs up on all who have connected, and returns when who listens has noticed, and has
// hung up too. It may be called again.
func (r *Relay) End() {
	r.listener.Close()
	r.mu.Lock()
	r.ended = true
	if r.timer != nil {
		r.timer.Stop()
	}
	r.mu.Unlock()
	r.hangUp()
	r.open.Wait()
}

// hangUp hangs up on all who have connected by now, and on nobody who connects since he was
// hung up on: a mended pipe ends its own.
func (r *Relay) hangUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mend()
	for _, c := range r.clients {
		c.Close()
	}
	r.clients = nil
}

// begin makes a client one that is hung up on, unless it is too late for that.
func (r *Relay) begin(client net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients = append(r.clients, client)
	return !r.ended
}

// empty tells whether nothing is carried now; then it waits until something is.
func (r *Relay) empty() bool {
	if !closed(r.hole) || closed(r.mended) {
		return false
	}
	<-r.mended
	return true
}

// count notes what is sent, and says whether the fault's byte is in it, and where.
func (r *Relay) count(w Way, n int) (at int, happens bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	start := r.carried[w]
	if n == 0 {
		return 0, false
	}
	r.carried[w] += n
	r.pauses[w] = append(r.pauses[w], start)
	if f := r.fault; f != nil && !r.happened && f.Way == w && start <= f.At && f.At < start+n {
		r.happened = true
		if f.Until > 0 {
			r.timer = time.AfterFunc(f.Until, r.hangUp)
		}
		return f.At - start, true
	}
	return 0, false
}

// cable is one connection.
type cable struct {
	*Relay
	client, server *net.TCPConn
	gone           chan struct{} // closed when who connected has hung up
	silent         chan struct{} // closed when who connected is not told that the other end has gone
	cut            chan struct{} // closed when the fault hangs up on both
}

func (r *Relay) carry(client net.Conn) {
	defer client.Close()
	if !r.begin(client) {
		return
	}
	if r.empty() {
		return
	}
	server, err := net.Dial("tcp", r.to)
	if err != nil {
		return // as if nobody listened there
	}
	defer server.Close()
	c := &cable{r, client.(*net.TCPConn), server.(*net.TCPConn), make(chan struct{}), make(chan struct{}), make(chan struct{})}
	var both sync.WaitGroup
	both.Go(func() {
		c.pipe(Forth, c.client, c.server)
		close(c.gone)
		if !closed(c.cut) {
			c.server.CloseWrite() // and it hangs up in turn
		}
	})
	both.Go(func() {
		c.pipe(Back, c.server, c.client)
		if closed(c.silent) {
			<-c.gone
		}
		if !closed(c.cut) {
			c.client.Close()
		}
	})
	both.Wait()
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// pipe carries one way until who talks has hung up. What cannot be delivered goes nowhere.
func (c *cable) pipe(w Way, from, to *net.TCPConn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if c.empty() {
			return
		}
		if at, happens := c.count(w, n); happens {
			if c.spoil(w, from, to, buf[:n], at); c.fault.Kind == Hole {
				return
			}
		} else {
			to.Write(buf[:n]) //nolint:errcheck // see above
		}
		if err != nil {
			return
		}
	}
}

// spoil is what happens to the byte at a place of a chunk.
func (c *cable) spoil(w Way, from, to *net.TCPConn, chunk []byte, at int) {
	if c.fault.Kind == Flip {
		chunk[at] ^= 1 << (c.fault.Bit & 7)
		to.Write(chunk) //nolint:errcheck // as in pipe
		return
	}
	to.Write(chunk[:at]) //nolint:errcheck // as in pipe
	switch c.fault.Kind {
	case Reset:
		close(c.cut)
		reset(c.client)
		reset(c.server)
	case Close:
		close(c.cut)
		c.client.Close()
		c.server.Close()
	case HalfOpen:
		close(c.silent)
		reset(c.server)
	case Hole:
		close(c.hole)
		<-c.mended
	case Late:
		late := slices.Clone(chunk[at:])
		if w == Back {
			<-c.gone
			break
		}
		for buf := make([]byte, 64<<10); ; {
			n, err := from.Read(buf)
			if late = append(late, buf[:n]...); err != nil {
				break
			}
		}
		to.Write(late) //nolint:errcheck // as in pipe
	}
}

// reset hangs up so that the other end is told by RST.
func reset(c *net.TCPConn) {
	c.SetLinger(0) //nolint:errcheck // it is being thrown away
	c.Close()
}
