package rows

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// holdTimeout is how long the server bears a transaction of ours that does nothing but
	// hold the snapshot for the others. It has no lock on the table.
	holdTimeout = time.Minute
	// largestAnswer bounds one message of the server, in bytes, and so one row: the daemon's
	// are at most 65 536 and some names.
	largestAnswer = 16 << 20
)

// moment is what several sessions see: of all the same snapshot, which the table's own
// session holds. The zero moment is each statement's own.
type moment struct {
	snapshot string
	patience time.Duration // what a statement may take besides Options.StatementTimeout
}

// hold begins the transaction that holds a snapshot, and with HoldRotationLock that lock.
func (t *Table) hold(ctx context.Context) (m moment, err error) {
	begin := t.begin(moment{}, holdTimeout)
	if t.options.HoldRotationLock {
		// Shared: prestart and watcher may settle together.
		begin = append(begin, "select pg_try_advisory_xact_lock_shared("+strconv.FormatInt(AdvisoryLock, 10)+")")
	}
	locked := true
	ctx, cancel := context.WithTimeout(ctx, t.options.StatementTimeout+time.Second)
	defer cancel()
	err = t.batch(ctx, t.conn, append(begin, "select pg_export_snapshot()"), nil, func(statement int, v [][]byte) error {
		switch {
		case len(v) != 1:
			return errForm
		case statement == len(begin):
			m.snapshot = string(v[0])
		case t.options.HoldRotationLock && statement == len(begin)-1:
			locked = len(v[0]) == 1 && v[0][0] == 1
		}
		return nil
	})
	switch {
	case err != nil:
	case !locked:
		err = ErrRotating
	case !isSnapshot(m.snapshot):
		err = errForm
	}
	return m, err
}

// isSnapshot tells whether a server may have called a snapshot so, and it can stand in a
// statement.
func isSnapshot(name string) bool {
	return name != "" && len(name) < 64 && strings.Trim(name, "0123456789ABCDEFabcdef-") == ""
}

// release ends that transaction. A table whose file was exchanged meanwhile looks empty in
// an older snapshot (Postgres documentation, "Caveats" of MVCC), and was not read then.
func (t *Table) release(ctx context.Context, s *catalog) error {
	file := "none"
	ctx, cancel := context.WithTimeout(ctx, t.options.StatementTimeout+time.Second)
	defer cancel()
	err := t.batch(ctx, t.conn, []string{"select coalesce(pg_relation_filenode(to_regclass($1))::text, '')", "commit"}, [][]byte{[]byte(s.table)},
		func(_ int, v [][]byte) error {
			if len(v) != 1 {
				return errForm
			}
			file = string(v[0])
			return nil
		})
	if err == nil && file != s.file {
		err = ErrChanging
	}
	return err
}

func (t *Table) connect(ctx context.Context, config *pgconn.Config) (*pgconn.PgConn, error) {
	// The driver's own timeout holds for each host and each fallback.
	ctx, cancel := context.WithTimeout(ctx, t.options.ConnectTimeout)
	defer cancel()
	c, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, t.explain(err)
	}
	return c, nil
}

// another opens a session besides the one that is kept. A pooler takes it in, and lets it
// wait for as long as it has no session of the server to spare: ErrCrowded.
func (t *Table) another(ctx context.Context) (*pgconn.PgConn, error) {
	c, err := t.connect(ctx, t.config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, t.options.ConnectTimeout)
	defer cancel()
	if err = c.Ping(ctx); err == nil {
		return c, nil
	}
	hangUp(c)
	if err = t.explain(err); errors.Is(err, ErrTimeout) {
		err = ErrCrowded
	}
	return nil, err
}

// reuse returns the session c, where it still answers, or a new one.
func (t *Table) reuse(ctx context.Context, c *pgconn.PgConn) (*pgconn.PgConn, error) {
	if c != nil {
		timed, cancel := context.WithTimeout(ctx, t.options.ConnectTimeout)
		defer cancel()
		if c.Ping(timed) == nil {
			return c, nil
		}
		hangUp(c)
	}
	return t.connect(ctx, t.config)
}

// over does something over the session that is kept, or a new one: where the kept one is
// lost, as after a restart of the server, only that can tell.
func (t *Table) over(ctx context.Context, do func() error) error {
	for {
		kept := t.conn != nil
		err := error(nil)
		if !kept {
			t.conn, err = t.connect(ctx, t.config)
		}
		if err == nil {
			err = do()
		}
		if err == nil {
			return nil
		}
		t.drop() // whatever the session was in the middle of ends with it
		if !kept || !errors.Is(err, ErrLost) {
			return err
		}
	}
}

func (t *Table) drop() {
	if t.conn != nil {
		hangUp(t.conn)
		t.conn, t.alone = nil, false
	}
	if t.beside != nil {
		hangUp(t.beside)
		t.beside = nil
	}
}

// hangUp does not wait for a server that hangs.
func hangUp(c *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx) // the session ends with the socket whatever is said of it
}

// errForm says that an answer is not of the form that was asked for.
var errForm = fmt.Errorf("%w: one of another form", ErrNonsense)

// begin are the statements that open a transaction which reads, in which nothing takes
// long. idle is how long the server bears one that does nothing.
func (t *Table) begin(m moment, idle time.Duration) []string {
	milliseconds := func(d time.Duration) string { return strconv.FormatInt(max(d.Milliseconds(), 1), 10) }
	list := []string{"begin isolation level repeatable read, read only"}
	if m.snapshot != "" {
		list = append(list, "set transaction snapshot '"+m.snapshot+"'")
	}
	return append(list,
		"set local statement_timeout = "+milliseconds(t.options.StatementTimeout+m.patience),
		"set local lock_timeout = "+milliseconds(t.options.LockTimeout),
		"set local idle_in_transaction_session_timeout = "+milliseconds(idle),
		// Off does not switch policies off: it makes a query that one would filter fail.
		"set local row_security = off")
}

// run reads the rows of one statement, each its own transaction. Values are in binary,
// as many as columns says, and valid until the next row. They may be kept: beyond mostToTell
// they make no sense.
func (t *Table) run(ctx context.Context, c *pgconn.PgConn, columns int, sql string, params [][]byte, row func([][]byte) error) error {
	heard := 0
	return t.runAt(ctx, c, moment{}, columns, sql, params, func(v [][]byte) error {
		for _, value := range v {
			heard += len(value) + 16 // what keeping an empty one costs, too
		}
		if heard > mostToTell {
			return errLong
		}
		return row(v)
	})
}

// one is run for a statement that answers with one row, of text.
func (t *Table) one(ctx context.Context, c *pgconn.PgConn, columns int, sql string, params [][]byte) ([]string, error) {
	var values []string
	err := t.run(ctx, c, columns, sql, params, func(v [][]byte) error {
		for _, b := range v {
			values = append(values, string(b))
		}
		return nil
	})
	if err == nil && len(values) != columns {
		err = errForm
	}
	return values, err
}

// runAt is run in the snapshot of a moment, for an answer of any length.
func (t *Table) runAt(ctx context.Context, c *pgconn.PgConn, m moment, columns int, sql string, params [][]byte, row func([][]byte) error) error {
	statements, number := []string{sql}, 0
	if c == nil { // in the transaction that holds the moment
		c = t.conn
	} else {
		begin := t.begin(m, t.options.StatementTimeout)
		statements, number = append(begin, sql, "commit"), len(begin)
	}
	// The server's own timeout comes first; this one is for a server that hangs.
	ctx, cancel := context.WithTimeout(ctx, t.options.StatementTimeout+m.patience+time.Second)
	defer cancel()
	return t.batch(ctx, c, statements, params, func(n int, v [][]byte) error {
		if n != number || len(v) != columns {
			return errForm
		}
		return row(v)
	})
}

// batch sends several statements at once, and hands on their rows, each with the number of
// its statement. params are those of the only statement that has any.
func (t *Table) batch(ctx context.Context, c *pgconn.PgConn, statements []string, params [][]byte, row func(statement int, v [][]byte) error) error {
	p := c.StartPipeline(ctx)
	for _, sql := range statements {
		if strings.Contains(sql, "$1") {
			p.SendQueryParams(sql, params, nil, nil, []int16{1})
		} else {
			p.SendQueryParams(sql, nil, nil, nil, []int16{1})
		}
	}
	var bad error
	err := p.Sync()
	for n := 0; err == nil; n++ {
		var result any
		if result, err = p.GetResults(); err != nil || result == nil {
			break
		}
		r, ok := result.(*pgconn.ResultReader)
		if !ok {
			break // the end of the batch
		}
		for r.NextRow() {
			if bad == nil {
				bad = row(n, r.Values())
			}
		}
		_, err = r.Close()
	}
	if closed := p.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return t.explain(err)
	}
	return bad
}

// place names what a session is opened to, without the password.
func place(c *pgconn.Config) string {
	where := net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))
	if strings.HasPrefix(c.Host, "/") {
		where = c.Host + ", port " + strconv.Itoa(int(c.Port))
	}
	return fmt.Sprintf("database %q at %s as %q", c.Database, where, c.User)
}
