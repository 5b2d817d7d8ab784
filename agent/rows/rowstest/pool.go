package rowstest

import (
	"bufio"
	"context"
	"encoding/binary"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/internal/wiretest"
)

// Pool stands between clients and the server, and keeps a session that a client has left
// for the next who asks for the same: for a test with thousands of short sessions, each of
// which would cost the server a process. A session that is handed on is as new (DISCARD
// ALL), after the rollback that the server owes to a client that is gone; one that was left
// in the middle of a statement is not handed on. A client that asks, late, to have its
// statement cancelled does not hit the next one's.
type Pool struct {
	cluster *Cluster
	addr    string
	mu      sync.Mutex           // guards what follows
	idle    map[string][]*pooled // by what was asked for
	clients map[uint64]*pooled   // by what each was told to name in a cancel request
	last    uint64               // of these
}

// Pool listens until the test ends.
func (c *Cluster) Pool(tb testing.TB) *Pool {
	tb.Helper()
	p := &Pool{cluster: c, idle: map[string][]*pooled{}, clients: map[uint64]*pooled{}}
	tb.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, sessions := range p.idle {
			for _, s := range sessions {
				s.server.Close()
			}
		}
	})
	p.addr = wiretest.Listen(tb, p.carry)
	return p
}

// Addr is where it listens, host and port.
func (p *Pool) Addr() string { return p.addr }

// URL is what the daemon would connect to the database with, through the pool.
func (p *Pool) URL(database string) string { return URLAt(p.addr, database) }

// Forget ends the sessions of a database that nobody will ask any more.
func (p *Pool) Forget(database string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for asked, sessions := range p.idle {
		if !isOf(asked, database) {
			continue
		}
		for _, s := range sessions {
			s.server.Close()
		}
		delete(p.idle, asked)
	}
}

// isOf tells whether a session of a database was asked for.
func isOf(asked, database string) bool {
	return slices.Contains(strings.Fields(asked), "database="+database)
}

// Clients is how many have a session of a database now.
func (p *Pool) Clients(database string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.clients {
		if isOf(s.asked, database) {
			n++
		}
	}
	return n
}

// pooled is a session of the server.
type pooled struct {
	server net.Conn
	asked  string // for, by whoever was the first

	mu       sync.Mutex // guards what follows
	greeting [][]byte   // what the server says to a client that may begin
	client   net.Conn   // nil: nobody
	number   uint64     // the client's, in a cancel request
	called   bool       // off, perhaps: such a request may hit whatever is asked next
	open     int        // what was asked and is not answered
	state    byte       // of the transaction, as in ReadyForQuery
	cleaning bool       // between two clients
}

// carry serves one client.
func (p *Pool) carry(closing context.Context, client net.Conn) {
	defer client.Close()
	defer context.AfterFunc(closing, func() { client.Close() })()
	from := bufio.NewReader(client)
	first, err := message(from, 0)
	if err != nil {
		return
	}
	if binary.BigEndian.Uint32(first[4:]) == cancelRequest {
		p.cancel(first)
		return
	}
	s, err := p.take(first, client)
	if s != nil {
		defer p.leave(s)
	}
	var batch []byte
	for err == nil {
		var m []byte
		if m, err = message(from, 1); err != nil || m[0] == 'X' { // Terminate
			break
		}
		if m[0] == 'Q' || m[0] == 'S' { // Query, Sync
			s.mu.Lock()
			s.open++
			s.mu.Unlock()
		}
		if batch = append(batch, m...); !another(from) {
			_, err = s.server.Write(batch)
			batch = nil
		}
	}
	if s != nil && len(batch) > 0 {
		s.server.Write(batch) //nolint:errcheck // the last words of one who goes
	}
}

// another tells whether one more message is here already, whole: what came at once is passed
// on at once.
func another(from *bufio.Reader) bool {
	head, err := from.Peek(min(5, from.Buffered()))
	return err == nil && len(head) == 5 && 1+int(binary.BigEndian.Uint32(head[1:])) <= from.Buffered()
}

// leave is a client's.
func (p *Pool) leave(s *pooled) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.mu.Lock()
	delete(p.clients, s.number)
	p.mu.Unlock()
	if s.client, s.number = nil, 0; s.open > 0 || s.state == 0 || s.called {
		s.server.Close()
		return
	}
	clean := []string{"discard all"}
	if s.state != 'I' { // as the server does when a client is gone
		clean = []string{"rollback", "discard all"}
	}
	s.open, s.cleaning = len(clean), true
	var queries []byte
	for _, sql := range clean {
		queries = append(binary.BigEndian.AppendUint32(append(queries, 'Q'), uint32(4+len(sql)+1)), sql+"\x00"...)
	}
	s.server.Write(queries) //nolint:errcheck // then it does not answer
}

// cancel passes on what a client asks that has the session still.
func (p *Pool) cancel(request []byte) {
	if len(request) != 16 {
		return
	}
	number := binary.BigEndian.Uint64(request[8:])
	p.mu.Lock()
	s := p.clients[number]
	p.mu.Unlock()
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.number != number {
		return
	}
	for _, m := range s.greeting {
		if m[0] != 'K' {
			continue
		}
		s.called = true
		if server, err := p.dial(); err == nil {
			server.Write(append(slices.Clone(request[:8]), m[5:]...)) //nolint:errcheck // who asks is not told either
			server.Read(make([]byte, 1))                              //nolint:errcheck // the server ends it when it is done
			server.Close()
		}
	}
}

// dial connects over the server's socket, where it asks for no password.
func (p *Pool) dial() (net.Conn, error) {
	return net.Dial("unix", filepath.Join(p.cluster.Dir, ".s.PGSQL."+strconv.Itoa(p.cluster.Port)))
}

// tells is a message of the greeting as a client gets it: BackendKeyData is the client's own.
func tells(m []byte, number uint64) []byte {
	if m[0] != 'K' {
		return m
	}
	return binary.BigEndian.AppendUint64([]byte{'K', 0, 0, 0, 12}, number)
}

// take gives a client that says this first a session, and greets it.
func (p *Pool) take(first []byte, client net.Conn) (*pooled, error) {
	// The parameters and their values, which clients send in any order.
	words := strings.Split(string(first[8:]), "\x00")
	var parameters []string
	for pair := range slices.Chunk(words, 2) {
		parameters = append(parameters, strings.Join(pair, "="))
	}
	slices.Sort(parameters)
	asked := strings.Join(parameters, " ")
	p.mu.Lock()
	var s *pooled
	if idle := p.idle[asked]; len(idle) > 0 {
		s = idle[len(idle)-1]
		p.idle[asked] = idle[:len(idle)-1]
	}
	p.last++
	number := p.last
	if s != nil {
		p.clients[number] = s
	}
	p.mu.Unlock()
	if s != nil {
		s.mu.Lock()
		s.client, s.number = client, number
		var greeting []byte
		for _, m := range s.greeting {
			greeting = append(greeting, tells(m, number)...)
		}
		s.mu.Unlock()
		_, err := client.Write(greeting)
		return s, err
	}
	server, err := p.dial()
	if err != nil {
		return nil, err
	}
	s = &pooled{server: server, asked: asked, client: client, number: number}
	p.mu.Lock()
	p.clients[number] = s
	p.mu.Unlock()
	go p.answer(s)
	_, err = server.Write(first)
	return s, err
}

// answer carries what the server says to whoever has its session.
func (p *Pool) answer(s *pooled) {
	defer s.server.Close()
	from := bufio.NewReader(s.server)
	var batch []byte
	for {
		m, err := message(from, 1)
		s.mu.Lock()
		if err != nil {
			if s.client != nil {
				s.client.Close()
			}
			s.mu.Unlock()
			return
		}
		if s.state == 0 {
			s.greeting = append(s.greeting, m)
			m = tells(m, s.number)
		}
		client, free := s.client, false
		switch {
		case m[0] == 'E' && s.cleaning: // ErrorResponse
			s.mu.Unlock()
			return
		case m[0] == 'Z': // ReadyForQuery
			if s.state != 0 {
				s.open--
			}
			if s.state = m[5]; s.cleaning && s.open == 0 {
				s.cleaning, free = false, true
			}
		}
		s.mu.Unlock()
		if batch = append(batch, m...); m[0] == 'Z' || !another(from) {
			if client != nil {
				client.Write(batch) //nolint:errcheck // who carries what it says notices too
			}
			batch = batch[:0]
		}
		if free {
			p.mu.Lock()
			p.idle[s.asked] = append(p.idle[s.asked], s)
			p.mu.Unlock()
		}
	}
}
