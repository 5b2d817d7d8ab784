package rowstest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/internal/wiretest"
)

// cancelRequest stands in the first message of a connection in place of a version.
const cancelRequest = 80877102

// Connect is the statement that a Wire makes of a new connection.
const Connect = "connect"

// Wire stands between clients and the server, and knows where a statement begins and
// ends (Postgres documentation, "Frontend/Backend Protocol"). It is how a test makes a
// statement fail that was never executed, or one that was and is not answered.
type Wire struct {
	to   string // the address that it stands before
	addr string

	mu      sync.Mutex // guards what follows
	telling *telling
	distort func(message []byte) []byte
	kind    byte // of messages that are distorted
}

// telling is what one call of Restart begins. Whoever was told that a statement is sent is
// told that it is answered, also where another is told of those that are sent since: a
// connection that nobody waits for any more may still be in the middle of one.
type telling struct {
	on    func(number int, statement string, answered bool) bool
	count int
}

// Wire stands before the server, and listens until the test ends.
func (c *Cluster) Wire(tb testing.TB) *Wire {
	tb.Helper()
	return wire(tb, net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Port)))
}

// Wire stands before sessions that are kept, and listens until the test ends. What it cuts
// off in the middle of something is not kept.
func (p *Pool) Wire(tb testing.TB) *Wire {
	tb.Helper()
	return wire(tb, p.addr)
}

// Listen has what is no Postgres, or not a sound one, serve clients until the test ends, and
// says where.
func Listen(tb testing.TB, serve func(client net.Conn)) (addr string) {
	tb.Helper()
	return wiretest.Listen(tb, func(closing context.Context, client net.Conn) {
		defer context.AfterFunc(closing, func() { client.Close() })() // who still waits for it has gone
		defer client.Close()
		serve(client)
	})
}

func wire(tb testing.TB, to string) *Wire {
	tb.Helper()
	w := &Wire{to: to}
	w.Restart(nil)
	w.addr = wiretest.Listen(tb, w.carry)
	return w
}

// URL is what the daemon would connect to the database with, over the wire.
func (w *Wire) URL(database string) string { return URLAt(w.addr, database) }

// Restart has on called twice for each statement from now on: before the server is given
// it, and when the server has answered and the client does not know. False ends the
// connection there. Statements are counted from 1 over all connections. A COPY FROM STDIN
// is two: to begin it, and to end its data. on may be nil.
func (w *Wire) Restart(on func(number int, statement string, answered bool) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.telling = &telling{on: on}
}

// Distort has every message of one kind that the server sends, 'D' for a row, go through f
// from now on: the client gets what that returns. It is called by one goroutine for each
// connection.
func (w *Wire) Distort(kind byte, f func(message []byte) []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.distort, w.kind = f, kind
}

func (w *Wire) distorted(message []byte) []byte {
	w.mu.Lock()
	f, kind := w.distort, w.kind
	w.mu.Unlock()
	if f == nil || message[0] != kind {
		return message
	}
	return f(message)
}

// statement is one that the server has not answered yet.
type statement struct {
	number int
	text   string
	to     *telling
}

// sent numbers a statement.
func (w *Wire) sent(text string) statement {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.telling.count++
	return statement{w.telling.count, text, w.telling}
}

// tell asks whether the connection goes on.
func (s statement) tell(answered bool) bool {
	return s.to.on == nil || s.to.on(s.number, s.text, answered)
}

// carry serves one connection until either side or the test ends it.
func (w *Wire) carry(closing context.Context, client net.Conn) {
	server, err := net.Dial("tcp", w.to)
	if err != nil {
		client.Close()
		return
	}
	hangUp := sync.OnceFunc(func() {
		client.Close()
		server.Close()
	})
	defer context.AfterFunc(closing, hangUp)()
	open := make(chan statement, 16) // more than a client sends before it reads
	var both sync.WaitGroup
	both.Go(func() {
		defer hangUp()
		_ = w.forth(client, server, open) // either side may go at any time
	})
	both.Go(func() {
		defer hangUp()
		_ = w.back(server, client, open)
	})
	both.Wait()
}

var errCut = errors.New("cut by the test")

// forth carries what the client says. What belongs to one statement goes out at once.
func (w *Wire) forth(client, server net.Conn, open chan<- statement) error {
	from := bufio.NewReader(client)
	send := func(batch []byte, text string) error {
		if text != "" {
			s := w.sent(text)
			if !s.tell(false) {
				return errCut
			}
			open <- s
		}
		_, err := server.Write(batch)
		return err
	}
	first, err := message(from, 0)
	if err != nil {
		return err
	}
	text := Connect
	if binary.BigEndian.Uint32(first[4:]) == cancelRequest {
		text = ""
	}
	if err := send(first, text); err != nil {
		return err
	}
	var batch []byte
	parsed := ""
	for {
		m, err := message(from, 1)
		if err != nil {
			return err
		}
		batch, text = append(batch, m...), ""
		switch m[0] {
		case 'P': // Parse: the name, and then the statement
			parsed = cString(m[5+len(cString(m[5:]))+1:])
			continue
		case 'B', 'D', 'E', 'C': // Bind, Describe, Execute, Close: a Sync follows
			continue
		case 'S': // Sync
			text = parsed
		case 'Q': // Query
			text = cString(m[5:])
		case 'c', 'f': // CopyDone, CopyFail
			text = "end of data"
		}
		if err := send(batch, text); err != nil {
			return err
		}
		batch = nil
	}
}

// back carries what the server says. The client gets an answer when it is whole, or
// when it is long.
func (w *Wire) back(server, client net.Conn, open <-chan statement) error {
	from := bufio.NewReader(server)
	const long = 1 << 20
	var answer []byte
	started := false
	for {
		m, err := message(from, 1)
		if err != nil {
			client.Write(answer) //nolint:errcheck // the last words of a server that goes
			return err
		}
		answer = append(answer, w.distorted(m)...)
		switch {
		case m[0] == 'Z', m[0] == 'G': // ReadyForQuery, CopyInResponse
			started = true
			select {
			case s := <-open:
				if !s.tell(true) {
					return errCut
				}
			default: // of a COPY that the server ends by itself: no statement is sent without standing there
			}
		case started && len(answer) < long:
			continue
		}
		if _, err := client.Write(answer); err != nil {
			return err
		}
		answer = answer[:0]
	}
}

// message reads one message: its type, if it has one, and its length with itself.
func message(r io.Reader, typed int) ([]byte, error) {
	b := make([]byte, typed+4)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(b[typed:])) - 4
	if n < 0 || n > 1<<30 {
		return nil, fmt.Errorf("a message of %d bytes", n)
	}
	b = append(b, make([]byte, n)...)
	_, err := io.ReadFull(r, b[typed+4:])
	return b, err
}

func cString(b []byte) string {
	text, _, _ := bytes.Cut(b, []byte{0})
	return string(text)
}
