package rows

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/footprintai/containarium-keyguard/agent/crew"
)

// silence is how long a rewrite hears nothing until it asks whether the server still works
// for it. One statement may take half an hour without a byte, and the kernel notices only
// that the next hop is gone: a proxy that stays up and carries nothing looks like the one.
const silence = 10 * time.Second

// pulse counts what goes over the sessions of a table, in either direction.
type pulse struct {
	beats atomic.Int64
	deaf  atomic.Bool // what goes now tells nothing
}

func (p *pulse) beat(n int) {
	if n > 0 && !p.deaf.Load() {
		p.beats.Add(1)
	}
}

// unheard does what says that we are here and no more: of the work that is waited for it tells
// nothing.
func (p *pulse) unheard(do func()) {
	p.deaf.Store(true)
	defer p.deaf.Store(false)
	do()
}

// over has connections counted.
func (p *pulse) over(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return beating{c, p}, nil
	}
}

type beating struct {
	net.Conn
	p *pulse
}

func (b beating) Read(to []byte) (int, error) {
	n, err := b.Conn.Read(to)
	b.p.beat(n)
	return n, err
}

func (b beating) Write(from []byte) (int, error) {
	n, err := b.Conn.Write(from)
	b.p.beat(n)
	return n, err
}

// stops returns true when nothing goes any more, and false when ctx ends before. Where
// nothing went for so long it asks whether the server works. Two answers in a row that say
// no, and nothing between them, are believed: what came just when it asked is one.
func (p *pulse) stops(ctx context.Context, silence time.Duration, works func(context.Context) bool) bool {
	last, doubts := p.beats.Load(), 0
	tick := time.NewTicker(silence)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
		switch now := p.beats.Load(); {
		case now != last:
			last, doubts = now, 0
			continue
		case works(ctx):
			doubts = 0
			continue
		}
		if doubts++; doubts == 2 && p.beats.Load() == last && ctx.Err() == nil {
			return true
		}
	}
}

// watched does something that waits for the server, for as long as that is heard or works.
// Otherwise the sessions of the rewrite end, here and there, and the error is ErrStalled.
func (w *rewrite) watched(ctx context.Context, do func(context.Context) error) error {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	watching, enough := context.WithCancel(ctx)
	watch := crew.Go(func() error {
		if w.pulse.stops(watching, w.o.Silence, w.works) {
			// What still stands there would hold the locks, and might yet be told to commit.
			w.end(watching)
			giveUp(ErrStalled)
		}
		return nil
	})
	err := do(ctx)
	enough()
	if werr := <-watch; err == nil {
		err = werr
	}
	if err != nil && errors.Is(context.Cause(ctx), ErrStalled) {
		err = ErrStalled
	}
	return err
}

// works asks over a connection of its own whether one of the rewrite's sessions is busy in
// the server: there, and not waiting for us. A server without a connection left can be
// asked nothing, and does answer.
func (w *rewrite) works(ctx context.Context) bool {
	busy := false
	err := w.aside(ctx, "wait_event_type is distinct from 'Client'", func(v [][]byte) error {
		busy = busy || len(v[0]) == 1 && v[0][0] == 1
		return nil
	})
	return busy || errors.Is(err, ErrCrowded)
}

// end ends the rewrite's sessions in the server.
func (w *rewrite) end(ctx context.Context) {
	_ = w.aside(ctx, "pg_terminate_backend(pid)", func([][]byte) error { return nil }) // the server's timeouts do, later
}

// aside asks something of the sessions of the rewrite that are still there.
func (w *rewrite) aside(ctx context.Context, what string, row func([][]byte) error) error {
	c, err := w.connect(ctx, w.unwatched)
	if err != nil {
		return err
	}
	defer hangUp(c)
	sql := "select " + what + " from pg_stat_activity where usename = current_user and application_name = 'keyguard' and pid in (" +
		strings.Join(w.backends, ", ") + ")"
	return w.run(ctx, c, 1, sql, nil, row)
}

// backend is the number of a session's process in the server, which a pooler hides.
func (t *Table) backend(ctx context.Context, c *pgconn.PgConn) (pid string, err error) {
	v, err := t.one(ctx, c, 1, "select pg_backend_pid()::text", nil)
	if err != nil {
		return "", err
	}
	if _, err := strconv.ParseUint(v[0], 10, 32); err != nil {
		return "", errForm
	}
	return v[0], nil
}
