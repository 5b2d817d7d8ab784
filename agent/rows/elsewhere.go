package rows

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/footprintai/containarium-keyguard/agent/printable"
)

// elsewhereSQL lists what besides the table $1, NULL for none, could hold the daemon's
// rows: whatever has its columns, under whatever name, in any schema, and is not positively
// without a row. Partitions of the table are of the table. What a view shows are the rows
// of tables, which are looked at, unless none of those has these columns. Each is given by
// its name; what it is, where it cannot be looked into: a view may call anybody's function,
// a foreign table asks another server; and what it has that tells an external KMS.
const elsewhereSQL = `
with recursive ours(oid) as (select to_regclass($1)::oid union select inhrelid from pg_inherits join ours on inhparent = ours.oid),
like_it as (select c.* from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p', 'm', 'f', 'v') and n.nspname !~ '^pg_' and exists (select from pg_attribute a
    where a.attrelid = c.oid and not attisdropped and attname in ('username', 'name', 'nonce', 'ciphertext')
    having count(*) = 4 or c.relname = 'secrets' and bool_or(attname = 'ciphertext'))),
holds as (select * from like_it l where not exists (select from ours where ours.oid = l.oid) and case l.relkind
  when 'p' then false -- its partitions do
  when 'v' then not exists (select from pg_rewrite w join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
    and d.refclassid = 'pg_class'::regclass join like_it o on o.oid = d.refobjid and o.oid <> l.oid where w.ev_class = l.oid)
  when 'f' then true
  else pg_relation_size(l.oid) > 0 end)
select format('%I.%I', n.nspname, h.relname), case when h.relkind = 'v' then 'a view' when h.relkind = 'f' then 'a foreign table'
  when not coalesce(has_schema_privilege(n.oid, 'USAGE') and has_table_privilege(h.oid, 'SELECT'), false) then 'which the role may not read'
  when row_security_active(h.oid) then 'of which row security would hide rows' else '' end,
  (select count(*) from pg_attribute where attrelid = h.oid and not attisdropped
    and (attname = 'wrapped_dek' and atttypid = 'bytea'::regtype or attname = 'kek_id' and atttypid = 'text'::regtype))::text
from holds h join pg_namespace n on n.oid = h.relnamespace order by 1`

// comingSQL names who may be bringing rows into the table $1: the subscriptions that fill it
// from another server, and the sessions with a transaction that has written to it or is
// about to, as one that loads a dump. A transaction that is prepared has no session.
const comingSQL = `
with recursive ours(oid) as (select to_regclass($1)::oid union select inhrelid from pg_inherits join ours on inhparent = ours.oid)
select coalesce((select string_agg(distinct subname, ', ') from pg_subscription_rel r join pg_stat_subscription s on s.subid = r.srsubid
    join ours on ours.oid = r.srrelid), ''),
  coalesce((select string_agg(distinct coalesce('process ' || pid, 'a prepared transaction'), ', ') from pg_locks l join ours on ours.oid = l.relation
    where l.database = (select oid from pg_database where datname = current_database()) and mode = 'RowExclusiveLock'
    and pid is distinct from pg_backend_pid()), '')`

// subscriptions is the first version, as in server_version_num, that has any.
const subscriptions = 100000

// coming returns ErrComing where a table without a row may be one whose rows are still to
// come. What was written meanwhile is seen by whoever looks next. A dump makes the tables first, fills
// them one after the other in transactions of their own, and adds the keys last: the daemon makes its
// table with a primary key.
func (t *Table) coming(ctx context.Context, s *catalog) error {
	if s.keyless {
		return fmt.Errorf("%w: it has no primary key, which a dump adds after the rows", ErrComing)
	}
	if s.version < subscriptions {
		return nil
	}
	v, err := t.one(ctx, t.conn, 2, comingSQL, [][]byte{[]byte(s.table)})
	if err != nil {
		return err
	}
	switch subscription, writer := printable.Line(v[0]), printable.Line(v[1]); {
	case subscription != "":
		return fmt.Errorf("%w: subscription %s fills it from another server", ErrComing, subscription)
	case writer != "":
		return fmt.Errorf("%w: a transaction writes to it that is not over, of %s", ErrComing, writer)
	}
	return nil
}

// elsewhere looks for rows that need the keyfile in other tables than the one on the search
// path, which may have been renamed, detached or moved: ErrOtherTable.
func (t *Table) elsewhere(ctx context.Context, c *pgconn.PgConn, table []byte) error {
	type relation struct{ name, closed, tells string }
	var list []relation
	err := t.run(ctx, c, 3, elsewhereSQL, [][]byte{table}, func(v [][]byte) error {
		list = append(list, relation{string(v[0]), string(v[1]), string(v[2])})
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range list {
		name := printable.Line(r.name)
		if r.closed != "" {
			return fmt.Errorf("%w: %s, %s", ErrOtherTable, name, r.closed)
		}
		sql := "select exists (select from only " + r.name + ")::text"
		if r.tells == "2" {
			sql = "select exists (select from only " + r.name + " where coalesce(octet_length(wrapped_dek), 0) = 0 or coalesce(kek_id, '') !~ '^(vault|gcp|aws):')::text"
		}
		holds, err := t.one(ctx, c, 1, sql, nil)
		if err != nil {
			return err
		}
		if holds[0] != "false" {
			return fmt.Errorf("%w: %s", ErrOtherTable, name)
		}
	}
	return nil
}
