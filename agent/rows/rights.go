package rows

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// ErrMayNot says that the role lacks a right that a rotation is to have.
var ErrMayNot = errors.New("the database role may not rewrite the rows")

// ErrNoStandby says that a commit would wait for a standby that is not connected.
var ErrNoStandby = errors.New("synchronous_standby_names names a standby, and none is connected: a commit would wait for it")

// MayRewrite asks whether the role has the rights that a rotation is to have besides reading:
// UPDATE on the table, sessions of its own, and TEMPORARY on the database. Rewrite itself makes
// no temporary table any more; that the right is asked for is what is promised (design §6, step
// 0), and the daemon's role, which owns the database, has it. It returns ErrMayNot, ErrPooled,
// ErrNoStandby, or why that cannot be told.
//
// The session that it asks over is kept for Rewrite to write over: it knows the catalog by then,
// and what it costs to open one is not of the time in which the daemon is down.
func (t *Table) MayRewrite(ctx context.Context) error {
	if t.place.Absent {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var lacks []string
	err := t.over(ctx, func() (err error) {
		if t.beside == nil {
			if t.beside, err = t.another(ctx); err != nil {
				return err
			}
		}
		s, err := t.readCatalog(ctx, t.beside)
		if err != nil {
			return err
		}
		v, err := t.one(ctx, t.beside, 6, `select has_table_privilege($1, 'UPDATE')::text, has_database_privilege(current_database(), 'TEMP')::text,
current_user, current_database(), current_setting('default_transaction_read_only'),
(current_setting('synchronous_standby_names') <> '' and not exists (select from pg_stat_replication))::text`, [][]byte{[]byte(s.table)})
		if err != nil {
			return err
		}
		if v[5] == "true" {
			return ErrNoStandby
		}
		lacks = nil
		mayUpdate, mayTemp, role, database, readOnly := v[0], v[1], v[2], v[3], v[4]
		if mayUpdate != "true" {
			lacks = append(lacks, fmt.Sprintf("UPDATE on table %s is not granted to %q", s.table, role))
		}
		if readOnly == "on" {
			lacks = append(lacks, "default_transaction_read_only is on, which somebody has set")
		}
		if mayTemp != "true" {
			lacks = append(lacks, fmt.Sprintf("TEMPORARY on database %q is not granted to %q", database, role))
		}
		_, err = t.unpooled(ctx, s, t.beside, t.conn)
		return err
	})
	switch {
	case errors.Is(err, ErrNoStandby):
		return fmt.Errorf("%w, at %s", err, place(t.config))
	case err != nil:
		return fmt.Errorf("cannot tell what may be done to the rows at %s: %w", place(t.config), err)
	case len(lacks) > 0:
		return fmt.Errorf("%w at %s: %s", ErrMayNot, place(t.config), strings.Join(lacks, "; "))
	}
	return nil
}
