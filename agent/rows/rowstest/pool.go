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
// ALL), and one that was left in the middle of something is not handed on.
type Pool struct {
	cluster *Cluster
	addr    string
	mu      sync.Mutex           // guards idle
	idle    map[string][]*pooled // by what was asked for
}

// Pool listens until the test ends.
func (c *Cluster) Pool(tb testing.TB) *Pool {
	tb.Helper()
	p := &Pool{cluster: c, idle: map[string][]*pooled{}}
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
		if !slices.Contains(strings.Fields(asked), "database="+database) {
			continue
		}
		for _, s := range sessions {
			s.server.Close()
		}
		delete(p.idle, asked)
	}
}

// pooled is a session of the server.
type pooled struct {
	server   net.Conn
	greeting []byte // what the server says to a client that may begin

	mu       sync.Mutex // guards what follows
	client   net.Conn   // nil: nobody
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
	s, err := p.take(first, client)
	if err != nil {
		return
	}
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
		_, err = s.server.Write(m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client = nil; s.open > 0 || s.state != 'I' {
		s.server.Close()
		return
	}
	s.open, s.cleaning = 1, true
	const discard = "discard all\x00"
	s.server.Write(append(binary.BigEndian.AppendUint32([]byte{'Q'}, 4+uint32(len(discard))), discard...)) //nolint:errcheck // then it does not answer
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
	p.mu.Unlock()
	if s != nil {
		s.mu.Lock()
		s.client = client
		s.mu.Unlock()
		_, err := client.Write(s.greeting)
		return s, err
	}
	// Over its socket, where it asks for no password.
	server, err := net.Dial("unix", filepath.Join(p.cluster.Dir, ".s.PGSQL."+strconv.Itoa(p.cluster.Port)))
	if err != nil {
		return nil, err
	}
	s = &pooled{server: server, client: client}
	go p.answer(s, asked)
	_, err = server.Write(first)
	return s, err
}

// answer carries what the server says to whoever has its session.
func (p *Pool) answer(s *pooled, asked string) {
	defer s.server.Close()
	from := bufio.NewReader(s.server)
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
			s.greeting = append(s.greeting, m...)
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
			s.state, s.cleaning, free = m[5], false, s.cleaning
		}
		s.mu.Unlock()
		if client != nil {
			client.Write(m) //nolint:errcheck // who carries what it says notices too
		}
		if free {
			p.mu.Lock()
			p.idle[asked] = append(p.idle[asked], s)
			p.mu.Unlock()
		}
	}
}
