package wiretest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/internal/wiretest"
)

const said, answered = "what is said", "what is answered"

// heard is what reached the other end, and how it ended.
type heard struct {
	text string
	err  error // nil: FIN
}

// listener answers one client when it has heard all of it, and tells what it heard.
func listener(t *testing.T) (addr string, got <-chan heard) {
	c := make(chan heard, 1)
	addr = wiretest.Listen(t, func(_ context.Context, conn net.Conn) {
		defer conn.Close()
		b := make([]byte, len(said))
		n, err := io.ReadFull(conn, b)
		if err == nil {
			if _, err = conn.Write([]byte(answered)); err == nil {
				_, err = conn.Read(make([]byte, 1))
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = nil
		}
		c <- heard{string(b[:n]), err}
	})
	return addr, c
}

// TestFaults: what each kind does, to the byte, either way.
func TestFaults(t *testing.T) {
	const at = 5
	for _, kind := range wiretest.Kinds() {
		for _, way := range wiretest.Ways {
			t.Run(kind.String()+" "+way.String(), func(t *testing.T) {
				t.Parallel()
				to, got := listener(t)
				r, err := wiretest.New(to, &wiretest.Fault{Kind: kind, Way: way, At: at, Bit: 5})
				if err != nil {
					t.Fatal(err)
				}
				defer r.End()
				conn, err := net.Dial("tcp", r.Addr)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Write([]byte(said)); err != nil {
					t.Fatal(err)
				}
				// Where nobody is told anything, who connected gives up: when nothing else can come.
				quiet := kind == wiretest.HalfOpen || kind == wiretest.Hole || kind == wiretest.Late
				if quiet && way == wiretest.Back {
					if _, err := io.ReadFull(conn, make([]byte, at)); err != nil {
						t.Fatal(err)
					}
				}
				var answer heard
				if quiet {
					for !r.Happened() {
						time.Sleep(time.Millisecond)
					}
					conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
					if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("it is told: %v", err)
					}
					conn.Close()
					if kind == wiretest.Hole {
						r.End() // nobody else tells the other end
					}
				} else {
					b := make([]byte, len(answered))
					n, err := io.ReadFull(conn, b)
					if err == io.EOF || err == io.ErrUnexpectedEOF {
						err = nil
					}
					answer = heard{string(b[:n]), err}
					conn.Close()
				}
				other := <-got
				r.End()
				want := said
				if way == wiretest.Forth {
					switch kind {
					case wiretest.Flip:
						want = flip(said, at)
					case wiretest.Late:
					default:
						want = said[:at]
					}
				}
				if other.text != want {
					t.Errorf("%q arrived, not %q", other.text, want)
				}
				if reset := errors.Is(other.err, syscall.ECONNRESET); reset != (kind == wiretest.Reset || kind == wiretest.HalfOpen) {
					t.Errorf("it was told %v", other.err)
				}
				if quiet {
					return
				}
				want = ""
				switch {
				case way == wiretest.Back && kind == wiretest.Flip:
					want = flip(answered, at)
				case way == wiretest.Back:
					want = answered[:at]
				case kind == wiretest.Flip:
					want = answered
				}
				if answer.text != want || errors.Is(answer.err, syscall.ECONNRESET) != (kind == wiretest.Reset) {
					t.Errorf("the answer is %q, %v, not %q", answer.text, answer.err, want)
				}
			})
		}
	}
}

func flip(s string, at int) string {
	b := []byte(s)
	b[at] ^= 1 << 5
	return string(b)
}

// TestUntil: who waits in a hole is hung up on in the end, and what comes then is carried.
func TestUntil(t *testing.T) {
	to, got := listener(t)
	r, err := wiretest.New(to, &wiretest.Fault{Kind: wiretest.Hole, Until: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer r.End()
	for _, want := range []string{"", answered} {
		conn, err := net.Dial("tcp", r.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte(said)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, len(want)+1)
		n, err := io.ReadAtLeast(conn, b, max(1, len(want)))
		if string(b[:n]) != want || (err == nil) != (want != "") {
			t.Errorf("%q, %v, not %q", b[:n], err, want)
		}
		conn.Close()
		<-got
	}
	if r.Carried(wiretest.Forth) != 2*len(said) || r.Carried(wiretest.Back) != len(answered) {
		t.Errorf("%d bytes forth, %d back", r.Carried(wiretest.Forth), r.Carried(wiretest.Back))
	}
}
