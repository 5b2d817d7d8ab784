package rows

import (
	"context"
	"fmt"
	"strings"

	"github.com/footprintai/containarium-keyguard/agent/printable"
)

// Client is a session of the database.
type Client struct {
	PID         string
	Application string // what it calls itself; "" for nothing
	Address     string // "" for the unix socket
	State       string
}

func (c Client) String() string {
	return printable.Line(strings.TrimSpace(fmt.Sprintf("process %s %q %s %s", c.PID, c.Application, c.Address, c.State)))
}

// OtherClients lists who else is connected to the database as the daemon's role. Sessions
// of keyguard are not listed, nor those that PgBouncer keeps for nobody, which it has reset.
func (t *Table) OtherClients(ctx context.Context) ([]Client, error) {
	if t.place.Absent {
		return nil, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []Client
	err := t.over(ctx, func() error {
		list = nil
		return t.run(ctx, t.conn, 4, `select pid::text, application_name, host(client_addr), state from pg_stat_activity
where datname = current_database() and usename = current_user and backend_type = 'client backend'
and pid <> pg_backend_pid() and application_name <> 'keyguard' and not (state = 'idle' and query = 'DISCARD ALL') order by pid`, nil, func(v [][]byte) error {
			list = append(list, Client{string(v[0]), string(v[1]), string(v[2]), string(v[3])})
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("cannot ask who else is connected to %s: %w", place(t.config), err)
	}
	return list, nil
}
