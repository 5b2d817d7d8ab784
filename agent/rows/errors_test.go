package rows

import (
	"errors"
	"net"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// TestExplainClosed: a connection that is closed under who reads from it is lost, as the
// driver closes one on which it cannot write.
func TestExplainClosed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	_, err = c.Read(make([]byte, 1))
	table := &Table{config: &pgconn.Config{}}
	if got := table.explain(err); !errors.Is(got, ErrLost) {
		t.Errorf("%v is explained as %v", err, got)
	}
}
