package rowstest

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
)

// A connection costs the server a process, and a test asks a hundred times: so a session
// that was used is kept for who asks the same database next. It is a superuser's, whom
// nobody takes for a client of the daemon's, with the rights of the role that asks, and
// each finds it as new.

// superuser is who made the cluster.
const superuser = "postgres"

// asker is what kept sessions call themselves.
const asker = "rowstest"

// maxIdle is how many sessions are kept: a test has a few databases at a time, and a
// cluster hundreds in its life.
const maxIdle = 16

// kept is a session of the superuser that nobody uses.
type kept struct {
	conn     *pgconn.PgConn
	database string
}

// as lends a session with the rights of a role, and takes it back.
func (c *Cluster) as(role, database string, do func(*pgconn.PgConn) error) error {
	conn, err := c.lend(role, database)
	if err != nil {
		return err
	}
	err = do(conn)
	c.takeBack(conn, database)
	return err
}

func (c *Cluster) lend(role, database string) (*pgconn.PgConn, error) {
	become := func(conn *pgconn.PgConn) error {
		_, err := conn.Exec(context.Background(), "set session authorization "+role).ReadAll()
		return err
	}
	for {
		conn := c.idleSession(database)
		if conn == nil {
			break
		}
		if become(conn) == nil {
			return conn, nil
		}
		conn.Close(context.Background()) // the server has ended it meanwhile
	}
	conn, err := c.connect(database)
	if err != nil {
		return nil, err
	}
	if err := become(conn); err != nil {
		conn.Close(context.Background())
		return nil, err
	}
	return conn, nil
}

// idleSession is the one of the database that was used last, or nil.
func (c *Cluster) idleSession(database string) *pgconn.PgConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, k := range slices.Backward(c.idle) {
		if k.database == database {
			c.idle = slices.Delete(c.idle, i, i+1)
			return k.conn
		}
	}
	return nil
}

// takeBack undoes what its end would undo: a transaction, locks, temporary tables.
func (c *Cluster) takeBack(conn *pgconn.PgConn, database string) {
	clean := func() error {
		if conn.TxStatus() != 'I' {
			return fmt.Errorf("in a transaction")
		}
		_, err := conn.Exec(context.Background(), "discard all").ReadAll()
		return err
	}
	if clean() != nil {
		conn.Close(context.Background())
		return
	}
	c.mu.Lock()
	c.idle = append(c.idle, kept{conn, database})
	var oldest *pgconn.PgConn
	if len(c.idle) > maxIdle {
		oldest = c.idle[0].conn
		c.idle = c.idle[1:]
	}
	c.mu.Unlock()
	if oldest != nil {
		oldest.Close(context.Background())
	}
}

// forget ends what is kept of a database, or of all if it is "".
func (c *Cluster) forget(database string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var rest []kept
	for _, k := range c.idle {
		if database == "" || k.database == database {
			k.conn.Close(context.Background())
		} else {
			rest = append(rest, k)
		}
	}
	c.idle = rest
}
