package rows

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/footprintai/containarium-keyguard/agent/printable"
)

const (
	// pieceBytes is about how much of the table one statement reads, so that none comes
	// near its timeout and no lock outlives a few milliseconds. A table that fits in one
	// piece is read in one statement, and so in one snapshot.
	pieceBytes = 8 << 20
	// wholeBlocks is how much of a table whose rows are small one statement reads: 512 MB.
	wholeBlocks = 65536
	// leastRow is less than any row of the table takes, in bytes: the header and the line
	// pointer, id, two times, version, two one-letter names, nonce and tag.
	leastRow = 100
	// tidRangeScan is the first version, as in server_version_num, that reads a range of
	// blocks without reading all others.
	tidRangeScan = 140000
)

// catalog is what the server says of itself and of the table.
type catalog struct {
	table    string // schema-qualified and quoted
	file     string // the table's filenode; "" for a partitioned one
	unlogged bool   // a crash of the server empties it
	keyless  bool   // it has no primary key
	few      bool   // too small for checkAll rows
	version  int64  // server_version_num
	blocks   int64
	bytes    int64 // of all, with what lies outside the blocks
	perPiece int64 // blocks
	small    bool  // most of the table lies in its blocks
	wrapped  string
	kekID    string
	backend  string // the session's process in the server
	others   string // the columns that say nothing of encryption, each after a comma
}

// columns are what is known of the daemon's, with the types that the driver hands over as
// the daemon stored it: a value that was written as another type is not what was sealed.
// A character(n) is filled up with spaces, which are of the name there and not here.
var columns = []struct {
	name  string
	types []string // by their object ids, which are the same in every server; nil: any
	late  bool     // the daemon added it later, and an old table lacks it until its next start
}{
	{name: "id"},
	{name: "username", types: textTypes},
	{name: "name", types: textTypes},
	{name: "nonce", types: byteTypes},
	{name: "ciphertext", types: byteTypes},
	{name: "updated_at"},
	{name: "wrapped_dek", types: byteTypes, late: true},
	{name: "kek_id", types: textTypes, late: true},
}

var (
	textTypes = []string{"25", "1043"} // text, character varying
	byteTypes = []string{"17"}         // bytea
)

// catalogSQL gives exactly one row. pg_table_size takes a share lock, and so tells
// before anything else whether the table is locked. row_security_active is true where
// a policy would hide rows from this role. The columns are each a name, the object id of
// its type, of a domain that of what it is made of, as the driver is told it, and that
// type's name. A generated column says what the others say; before Postgres 12 there was none.
const catalogSQL = `
select pg_is_in_recovery()::text, current_setting('row_security'), current_setting('server_version_num'),
  current_setting('block_size'), case when c.oid is not null then format('%I.%I', n.nspname, c.relname) end, c.relkind::text,
  row_security_active(c.oid)::text, pg_relation_size(c.oid)::text, pg_table_size(c.oid)::text,
  (select string_agg(concat_ws(' ', attname, b, format_type(b, null)), E'\n') from (
    select attname, coalesce(nullif(typbasetype, 0), t.oid) b from pg_attribute a join pg_type t on t.oid = atttypid
      where attrelid = c.oid and attnum > 0 and not attisdropped and attname in ('id', 'username', 'name', 'nonce', 'ciphertext',
        'updated_at', 'wrapped_dek', 'kek_id')) a),
  coalesce(pg_relation_filenode(c.oid)::text, ''), (select string_agg(', ' || quote_ident(attname), '' order by attnum) from pg_attribute a
    where attrelid = c.oid and attnum > 0 and not attisdropped and coalesce(to_jsonb(a) ->> 'attgenerated', '') = ''
    and attname not in ('id', 'username', 'name', 'nonce', 'ciphertext', 'wrapped_dek', 'kek_id')),
  pg_client_encoding()::text, getdatabaseencoding()::text, c.relpersistence::text, pg_backend_pid()::text,
  exists (select from pg_index where indrelid = c.oid and indisprimary)::text
from (select to_regclass('secrets')::oid as oid) here left join pg_class c on c.oid = here.oid
  left join pg_namespace n on n.oid = c.relnamespace`

func (t *Table) readCatalog(ctx context.Context, c *pgconn.PgConn) (*catalog, error) {
	v, err := t.one(ctx, c, 17, catalogSQL, nil)
	if err != nil {
		return nil, err
	}
	recovery, rowSecurity, version, blockSize := v[0], v[1], v[2], v[3]
	table, kind, filtered, heap, all, present := v[4], v[5], v[6], v[7], v[8], v[9]
	switch {
	case recovery != "false":
		return nil, ErrRecovery
	case table == "":
		if err := t.elsewhere(ctx, c, nil); err != nil {
			return nil, fmt.Errorf("%v, and %w", ErrNoTable, err) // not the former: a person may accept that
		}
		return nil, ErrNoTable
	case rowSecurity != "off" || filtered != "false":
		return nil, ErrRowSecurity
	case kind != "r" && kind != "p":
		return nil, fmt.Errorf("%w: %s is not an ordinary table", ErrShape, table)
	}
	if err := encoded(v[12], v[13]); err != nil {
		return nil, err
	}
	types := map[string]string{}
	for line := range strings.Lines(present) {
		name, kind, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		types[name] = kind
	}
	for _, c := range columns {
		id, is, _ := strings.Cut(types[c.name], " ")
		switch {
		case id == "" && !c.late:
			return nil, fmt.Errorf("%w: %s has no column %s", ErrShape, table, c.name)
		case id != "" && c.types != nil && !slices.Contains(c.types, id):
			return nil, fmt.Errorf("%w: column %s of %s is of type %s, in which a value is not what the daemon wrote", ErrShape, c.name, table, printable.Line(is))
		}
	}
	s := &catalog{table: table, file: v[10], unlogged: v[14] == "u", keyless: v[16] != "true", others: v[11], backend: v[15], wrapped: "null::bytea", kekID: "null::text"}
	if types["wrapped_dek"] != "" {
		s.wrapped = "wrapped_dek"
	}
	if types["kek_id"] != "" {
		s.kekID = "kek_id"
	}
	number := func(text string) int64 {
		n, err2 := strconv.ParseInt(text, 10, 64)
		err = errors.Join(err, err2)
		return n
	}
	heapBytes, allBytes, block := number(heap), number(all), max(number(blockSize), 1)
	s.version = number(version)
	if err != nil {
		return nil, fmt.Errorf("%w: sizes that are no numbers", ErrNonsense)
	}
	s.measure(heapBytes, allBytes, block)
	return s, nil
}

// measure takes in how many bytes the table's blocks have, and all with what lies outside of them, and
// how large a block is.
func (s *catalog) measure(heap, all, block int64) {
	s.blocks = heap / block
	s.few = heap < checkAll*leastRow
	// Values of more than 2 kB lie outside the blocks that are counted here.
	s.small = 2*heap > all
	s.bytes = all
	s.perPiece = max(1, s.blocks*pieceBytes/max(all, 1))
}

// errColumns says that the daemon's columns have other types.
var errColumns = fmt.Errorf("%w: the columns id and updated_at are no uuid and timestamp", ErrShape)

// encoded refuses a session whose names are not those that were sealed: the server puts
// them into the client's encoding, and with a setting of later the same name has other
// bytes. The driver's own strings are UTF-8, which come back from every database as they
// were written, as do those that are not converted at all.
func encoded(client, database string) error {
	const none = "SQL_ASCII"
	if client == "UTF8" || client == database || client == none || database == none {
		return nil
	}
	return fmt.Errorf("%w: client_encoding is %s, and the database's is %s", ErrEncoding, printable.Line(client), printable.Line(database))
}

// piece is the part of the table that one statement reads.
type piece struct {
	from   string // "": the table
	where  string
	params [][]byte
}

// pieces cuts the table for reading whole rows. One statement reads a table of small rows
// best: to look for a range of blocks costs the server three times as much for each row as
// to read on (measured with Postgres 15).
func (s *catalog) pieces() []piece {
	if s.small && s.blocks <= wholeBlocks {
		return s.cut(wholeBlocks)
	}
	return s.cut(s.perPiece)
}

// ranges cuts it for looking at the small columns.
func (s *catalog) ranges() []piece { return s.cut(wholeBlocks) }

// cut cuts the table by block numbers. The last piece is open, as the table grows.
func (s *catalog) cut(blocks int64) []piece {
	if s.version < tidRangeScan || s.blocks <= blocks {
		return []piece{{where: "true"}}
	}
	var p []piece
	for from := int64(0); from < s.blocks; from += blocks {
		where := fmt.Sprintf("ctid >= '(%d,0)'", from)
		if to := from + blocks; to < s.blocks {
			where += fmt.Sprintf(" and ctid < '(%d,0)'", to)
		}
		p = append(p, piece{where: where})
	}
	return p
}

// legacy and inproc are what classify says of rows, in SQL: what is neither is rare beside
// them, or there is nothing else, and is classified here.
func (s *catalog) legacy() string { return "coalesce(octet_length(" + s.wrapped + "), 0) = 0" }

func (s *catalog) inproc() string {
	return fmt.Sprintf("coalesce(%s = '%s' and octet_length(%s) = %d, false)", s.kekID, inprocID, s.wrapped, wrappedSize)
}

// dependent is true of the rows that only the keyfile's key can open.
func (s *catalog) dependent() string { return "(" + s.legacy() + " or " + s.inproc() + ")" }
