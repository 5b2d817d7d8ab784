package rows

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

// AdvisoryLock is the lock of pg_advisory_lock(bigint) that a rotation holds,
// exclusively, for the length of its transaction: "keyguard" in ASCII. Who settles a
// rotation takes it shared.
const AdvisoryLock int64 = 0x6b65796775617264

const (
	// checkAll is how many dependent rows a proof checks one by one; beyond, a sample.
	checkAll = 100_000
	// sampleFill is about how many rows a sample draws at random, besides the oldest and
	// the newest row and two of every tenant. A key that opens all but one in a thousand
	// rows passes it once in 70 billion times.
	sampleFill = 25_000
	// pieceBytes is about how much of the table one statement reads, so that none comes
	// near its timeout and no lock outlives a few milliseconds. A table that fits in one
	// piece is read in one statement, and so in one snapshot.
	pieceBytes = 8 << 20
	// wholeBlocks is how much of a table whose rows are small one statement reads: 512 MB.
	wholeBlocks = 65536
	// patienceBlocks is how much of the table may take a second more: 32 MB, of a cold disk
	// or a busy host.
	patienceBlocks = 4096
	// fewIDs and manyIDs bound how many rows of a sample one statement fetches: 200 of the
	// largest values are 13 MB.
	fewIDs, manyIDs = 200, 5000
	// leastRow is less than any row of the table takes, in bytes: the header and the line
	// pointer, id, two times, version, two one-letter names, nonce and tag.
	leastRow = 100
	// holdTimeout is how long the server bears a transaction of ours that does nothing but
	// hold the snapshot for the others. It has no lock on the table.
	holdTimeout = time.Minute
	// largestAnswer bounds one message of the server, in bytes, and so one row: the daemon's
	// are at most 65 536 and some names.
	largestAnswer = 16 << 20
	// tidRangeScan is the first version, as in server_version_num, that reads a range of
	// blocks without reading all others.
	tidRangeScan = 140000
)

// Options bound a proof. The zero value is what prestart uses.
type Options struct {
	ConnectTimeout   time.Duration // 0: 2 s
	StatementTimeout time.Duration // 0: 3 s, for each statement, in the server and here
	LockTimeout      time.Duration // 0: 1 s
	// Full checks every row, however many there are, and names those that no key opens.
	Full bool
	// Settle takes AdvisoryLock for each proof: not free is Unknown, as the rotation's
	// transaction may still commit.
	Settle bool
}

func (o Options) withDefaults() Options {
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = 2 * time.Second
	}
	if o.StatementTimeout <= 0 {
		o.StatementTimeout = 3 * time.Second
	}
	if o.LockTimeout <= 0 {
		o.LockTimeout = time.Second
	}
	return o
}

// Table is the daemon's table, asked for the length of one decision. It keeps one idle
// session between calls, and for a large table the sample that all candidates share.
type Table struct {
	options Options
	place   Location
	config  *pgconn.Config // nil where there is no database yet

	mu     sync.Mutex // one call at a time; guards what follows
	conn   *pgconn.PgConn
	sample []uuid // nil until needed
}

type uuid [16]byte

// Open makes a Table without connecting. It fails only where l says nothing that can
// be connected to.
func Open(l Location, o Options) (*Table, error) {
	t := &Table{options: o.withDefaults(), place: l}
	if l.Absent {
		return t, nil
	}
	config, err := parseURL(l.URL)
	if err != nil {
		return nil, fmt.Errorf("cannot use the database URL from %s: %w", l.From, err)
	}
	config.ConnectTimeout = t.options.ConnectTimeout
	// A session is kept, and its other side may go without a word: known within half a minute.
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4}}
	config.DialFunc = dialer.DialContext
	// A pooler takes what the daemon says, and no more: all else is set in each transaction.
	config.RuntimeParams["application_name"] = "keyguard"
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		f := pgproto3.NewFrontend(r, w)
		f.SetMaxBodyLen(largestAnswer)
		return f
	}
	t.config = config
	return t, nil
}

// Close ends the session, if there is one. The Table may be used again.
func (t *Table) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop()
}

// Prove tries the keys on the rows. Whatever keeps it from looking makes the answer
// Unknown and says why; ctx bounds it besides the options. Without keys it counts.
//
// A table too large for one statement is read in pieces. If it was written to
// meanwhile it is read again, so that "all rows" was true of one moment.
func (t *Table) Prove(ctx context.Context, keys ...key.Key) Answer {
	if t.place.Absent {
		return flat(Answer{State: Silent, Why: t.place.Why}, keys)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var a Answer
	err := t.over(ctx, func() (err error) { a, err = t.prove(ctx, keys); return err })
	if err != nil {
		return NoAnswer(fmt.Errorf("cannot ask the rows in %s: %w", place(t.config), err), keys...)
	}
	return a
}

func (t *Table) prove(ctx context.Context, keys []key.Key) (Answer, error) {
	s, err := t.survey(ctx, t.conn)
	if err != nil {
		return Answer{}, err
	}
	pieces := s.pieces()
	// Every row is asked for by somebody who waits for it, and no start is (law 9).
	patience := time.Duration(0)
	if t.options.Full {
		patience = time.Duration(s.blocks/patienceBlocks) * time.Second
	}
	if len(pieces) == 1 && !t.options.Settle {
		return t.ask(ctx, s, moment{patience: patience}, pieces, keys)
	}
	m, err := t.hold(ctx)
	if err != nil {
		return Answer{}, err
	}
	m.patience = patience
	a, err := t.ask(ctx, s, m, pieces, keys)
	if err != nil {
		return a, err
	}
	return a, t.release(ctx, s)
}

// moment is what several sessions see: of all the same snapshot, which the table's own
// session holds. The zero moment is each statement's own.
type moment struct {
	snapshot string
	patience time.Duration // what a statement may take besides Options.StatementTimeout
}

// hold begins the transaction that holds a snapshot, and with Settle the lock.
func (t *Table) hold(ctx context.Context) (m moment, err error) {
	begin := t.begin(moment{}, holdTimeout)
	if t.options.Settle {
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
		case t.options.Settle && statement == len(begin)-1:
			locked = len(v[0]) == 1 && v[0][0] == 1
		}
		return nil
	})
	switch {
	case err != nil:
	case !locked:
		err = ErrRotating
	case m.snapshot == "" || strings.Trim(m.snapshot, "0123456789ABCDEFabcdef-") != "":
		err = errForm
	}
	return m, err
}

// release ends that transaction. A table whose file was exchanged meanwhile looks empty in
// an older snapshot (Postgres documentation, "Caveats" of MVCC), and was not read then.
func (t *Table) release(ctx context.Context, s *survey) error {
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

// ask reads the table.
func (t *Table) ask(ctx context.Context, s *survey, m moment, pieces []piece, keys []key.Key) (a Answer, err error) {
	var found findings
	var ends span
	if s.few || t.options.Full {
		found, err = t.scan(ctx, s, m, pieces, keys, untimed)
	} else {
		found.tally, ends, err = t.count(ctx, s, m)
	}
	if err != nil {
		return a, err
	}
	a = Answer{State: Answered, Counts: found.tally.counts(), Mark: found.tally.mark()}
	switch dependent := a.Counts.Dependent(); {
	case dependent == 0:
		return t.silence(s, a, keys)
	case len(keys) == 0:
	case found.opened != nil:
		a.Proofs = judge(keys, dependent, found.opened)
		if t.options.Full {
			a.Unopened, err = t.unopened(ctx, s, m, pieces, keys, found)
		}
	case dependent <= checkAll:
		if found, err = t.scan(ctx, s, m, pieces, keys, untimed); err != nil {
			return a, err
		}
		if found.tally.counts().Dependent() != dependent {
			return a, errForm // one snapshot, and not the same
		}
		a.Proofs = judge(keys, dependent, found.opened)
	default:
		a.Sampled = true
		for {
			drawn := t.sample == nil
			if drawn {
				if t.sample, err = t.draw(ctx, s, m, dependent, ends); err != nil {
					return a, err
				}
			}
			if found, err = t.scan(ctx, s, m, s.samplePieces(t.sample, dependent), keys, untimed); err != nil {
				return a, err
			}
			if checked := found.tally.counts().Dependent(); checked > 0 {
				a.Proofs = judge(keys, checked, found.opened)
				return a, nil
			}
			t.sample = nil // these rows are all gone
			if drawn {
				return a, errForm
			}
		}
	}
	return a, err
}

// silence refuses to be said of a table that need not be the daemon's only one, or
// whose rows are not all understood.
func (t *Table) silence(s *survey, a Answer, keys []key.Key) (Answer, error) {
	elsewhere := t.place.Rival
	if s.elsewhere != "" {
		elsewhere = "schema " + s.elsewhere
	}
	switch {
	case a.Counts.Unknown > 0:
		return a, fmt.Errorf("%w: %d", ErrUnknownClass, a.Counts.Unknown)
	case elsewhere != "":
		return a, fmt.Errorf("%s has no dependent row, but %w: %s", s.table, ErrElsewhere, elsewhere)
	}
	a.State, a.Why = Silent, "the table holds no secret"
	if n := a.Counts.External; n > 0 {
		a.Why = fmt.Sprintf("all secrets in the table, %d, are under an external KMS", n)
	}
	return flat(a, keys), nil
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
		t.conn = nil
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
// as many as columns says, and valid until the next row.
func (t *Table) run(ctx context.Context, c *pgconn.PgConn, columns int, sql string, params [][]byte, row func([][]byte) error) error {
	return t.at(ctx, c, moment{}, columns, sql, params, row)
}

// at is run in the snapshot of a moment.
func (t *Table) at(ctx context.Context, c *pgconn.PgConn, m moment, columns int, sql string, params [][]byte, row func([][]byte) error) error {
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

// query reads the rows of one statement of a transaction that is open.
func (t *Table) query(ctx context.Context, c *pgconn.PgConn, sql string, row func([][]byte) error) error {
	r := c.ExecParams(ctx, sql, nil, nil, nil, []int16{1})
	var bad error
	for r.NextRow() {
		if bad == nil {
			bad = row(r.Values())
		}
	}
	if _, err := r.Close(); err != nil {
		return t.explain(err)
	}
	return bad
}

// survey is what the catalog says of the server and the table.
type survey struct {
	table     string // schema-qualified and quoted
	elsewhere string // other schemas with such a table
	file      string // the table's filenode; "" for a partitioned one
	few       bool   // too small for checkAll rows
	version   int64  // server_version_num
	blocks    int64
	bytes     int64 // of all, with what lies outside the blocks
	perPiece  int64 // blocks
	small     bool  // most of the table lies in its blocks
	wrapped   string
	kekID     string
	others    string // the columns that say nothing of encryption, each after a comma
}

// surveySQL gives exactly one row. pg_table_size takes a share lock, and so tells
// before anything else whether the table is locked. row_security_active is true where
// a policy would hide rows from this role.
const surveySQL = `
select pg_is_in_recovery()::text, current_setting('row_security'), current_setting('server_version_num'),
  current_setting('block_size'), case when c.oid is not null then format('%I.%I', n.nspname, c.relname) end, c.relkind::text,
  row_security_active(c.oid)::text, pg_relation_size(c.oid)::text, pg_table_size(c.oid)::text,
  (select string_agg(attname, ' ') from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped),
  (select string_agg(quote_ident(n.nspname), ', ') from pg_class r join pg_namespace n on n.oid = r.relnamespace
    where r.relname = 'secrets' and r.relkind in ('r', 'p', 'v', 'm', 'f') and r.oid is distinct from here.oid
    and n.nspname !~ '^pg_' and exists (select from pg_attribute where attrelid = r.oid and attname = 'ciphertext')),
  coalesce(pg_relation_filenode(c.oid)::text, ''), (select string_agg(', ' || quote_ident(attname), '' order by attnum) from pg_attribute
    where attrelid = c.oid and attnum > 0 and not attisdropped
    and attname not in ('id', 'username', 'name', 'nonce', 'ciphertext', 'wrapped_dek', 'kek_id'))
from (select to_regclass('secrets')::oid as oid) here left join pg_class c on c.oid = here.oid
  left join pg_namespace n on n.oid = c.relnamespace`

func (t *Table) survey(ctx context.Context, c *pgconn.PgConn) (*survey, error) {
	var v []string
	const asked = 13
	err := t.run(ctx, c, asked, surveySQL, nil, func(row [][]byte) error {
		for _, b := range row {
			v = append(v, string(b))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(v) != asked {
		return nil, errForm
	}
	recovery, rowSecurity, version, blockSize := v[0], v[1], v[2], v[3]
	table, kind, filtered, heap, all, columns, elsewhere := v[4], v[5], v[6], v[7], v[8], v[9], printable.Line(v[10])
	switch {
	case recovery != "false":
		return nil, ErrRecovery
	case table == "" && elsewhere != "":
		return nil, fmt.Errorf("there is no table secrets on the search path, and %w: in schema %s", ErrElsewhere, elsewhere)
	case table == "":
		return nil, ErrNoTable
	case rowSecurity != "off" || filtered != "false":
		return nil, ErrRowSecurity
	case kind != "r" && kind != "p":
		return nil, fmt.Errorf("%w: %s is not an ordinary table", ErrShape, table)
	}
	has := strings.Fields(columns)
	for _, c := range []string{"id", "username", "name", "nonce", "ciphertext", "updated_at"} {
		if !slices.Contains(has, c) {
			return nil, fmt.Errorf("%w: %s has no column %s", ErrShape, table, c)
		}
	}
	// The daemon added these later, and an old table lacks them until its next start.
	s := &survey{table: table, elsewhere: elsewhere, file: v[11], others: v[12], wrapped: "null::bytea", kekID: "null::text"}
	if slices.Contains(has, "wrapped_dek") {
		s.wrapped = "wrapped_dek"
	}
	if slices.Contains(has, "kek_id") {
		s.kekID = "kek_id"
	}
	number := func(text string) int64 {
		n, err2 := strconv.ParseInt(text, 10, 64)
		err = errors.Join(err, err2)
		return n
	}
	block, heapBytes, allBytes := max(number(blockSize), 1), number(heap), number(all)
	s.version = number(version)
	if err != nil {
		return nil, fmt.Errorf("%w: sizes that are no numbers", ErrNonsense)
	}
	s.blocks = heapBytes / block
	s.few = heapBytes < checkAll*leastRow
	// Values of more than 2 kB lie outside the blocks that are counted here.
	s.small = 2*heapBytes > allBytes
	s.bytes = allBytes
	s.perPiece = max(1, s.blocks*pieceBytes/max(allBytes, 1))
	return s, nil
}

// piece is the part of the table that one statement reads.
type piece struct {
	where  string
	params [][]byte
}

// pieces cuts the table for reading whole rows. One statement reads a table of small rows
// best: to look for a range of blocks costs the server three times as much for each row as
// to read on (measured with Postgres 15).
func (s *survey) pieces() []piece {
	if s.small && s.blocks <= wholeBlocks {
		return s.cut(wholeBlocks)
	}
	return s.cut(s.perPiece)
}

// ranges cuts it for looking at the small columns.
func (s *survey) ranges() []piece { return s.cut(wholeBlocks) }

// cut cuts the table by block numbers. The last piece is open, as the table grows.
func (s *survey) cut(blocks int64) []piece {
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

// each runs read on every piece, over several sessions that see the same moment. read is
// given the number of its worker. All but one session are a matter of speed only: where
// the server has none left, one does all.
func (t *Table) each(ctx context.Context, m moment, pieces []piece, read func(ctx context.Context, worker int, c *pgconn.PgConn, p piece) error) error {
	var next atomic.Int64
	work := func(ctx context.Context, worker int, c *pgconn.PgConn) error {
		for {
			i := next.Add(1) - 1
			if i >= int64(len(pieces)) {
				return nil
			}
			if err := read(ctx, worker, c, pieces[i]); err != nil {
				return err
			}
		}
	}
	if m.snapshot == "" {
		return work(ctx, 0, t.conn)
	}
	var some atomic.Bool
	g, all := crew.WithContext(ctx)
	for worker := range workers(pieces) {
		g.Go(func() error {
			c, err := t.connect(all, t.config)
			if err != nil {
				return nil
			}
			defer hangUp(c)
			some.Store(true)
			return work(all, worker, c)
		})
	}
	if err := g.Wait(); err != nil || some.Load() {
		return err
	}
	// In the transaction that holds the snapshot, at the price of a lock on the table until
	// all of it is read.
	return work(ctx, 0, nil)
}

// workers is how many sessions read at once: two for each core, as one waits for the
// server while the other's rows are opened, and not more than a daemon can spare.
func workers(pieces []piece) int { return min(2*runtime.GOMAXPROCS(0), 8, len(pieces)) }

// versions stands for a set of row versions: how many there are, and the sum of the
// transaction numbers that wrote them (xmin), which are 32 bits and go round.
type versions struct {
	rows    int64
	writers uint32
}

// tally is the table by classes, in the order of classes.
type tally [4]versions

var classes = [4]Class{Legacy, InProc, External, UnknownClass}

func (y *tally) add(c Class, v versions) {
	i := slices.Index(classes[:], c)
	y[i].rows += v.rows
	y[i].writers += v.writers
}

func (y *tally) sum(o tally) {
	for i, v := range o {
		y.add(classes[i], v)
	}
}

func (y tally) counts() Counts {
	return Counts{Legacy: y[0].rows, InProc: y[1].rows, External: y[2].rows, Unknown: y[3].rows}
}

func (y tally) mark() string {
	var b strings.Builder
	for i, v := range y {
		fmt.Fprintf(&b, "%.*s%d-%x", min(i, 1), ".", v.rows, v.writers)
	}
	return b.String()
}

// span is when the first and the last dependent row were written, in Postgres' own time.
type span struct{ from, to int64 }

// stretch makes s hold o. The zero span holds nothing.
func (s *span) stretch(o span) {
	switch {
	case o == span{}:
	case *s == span{}:
		*s = o
	default:
		*s = span{min(s.from, o.from), max(s.to, o.to)}
	}
}

// legacy and inproc are what classify says of rows, in SQL: what is neither is rare beside
// them, or there is nothing else, and is classified here.
func (s *survey) legacy() string { return "coalesce(octet_length(" + s.wrapped + "), 0) = 0" }
func (s *survey) inproc() string {
	return fmt.Sprintf("coalesce(%s = '%s' and octet_length(%s) = %d, false)", s.kekID, inprocID, s.wrapped, wrappedSize)
}

// dependent is true of the rows that only the keyfile's key can open.
func (s *survey) dependent() string { return "(" + s.legacy() + " or " + s.inproc() + ")" }

// count has the server count the rows by their classes. Most tables hold legacy rows alone,
// and one look at them is enough.
func (t *Table) count(ctx context.Context, s *survey, m moment) (tally, span, error) {
	// Of all ways to make a number of xmin only this one lets the server's workers share the
	// scan: age(xid) is for its leader alone.
	const counted = "count(*), coalesce(sum(xmin::text::bigint) % 4294967296, 0)::bigint, min(updated_at), max(updated_at) from "
	y, ends, others, err := t.countBy(ctx, s, m, "select case when count("+s.wrapped+") = 0 then 0 else 2 end, "+counted+s.table+" where ", "")
	if err != nil || !others {
		return y, ends, err
	}
	y, ends, others, err = t.countBy(ctx, s, m, "select case when "+s.legacy()+" then 0 when "+s.inproc()+" then 1 else 2 end, "+counted+s.table+" where ", " group by 1")
	if err != nil || !others {
		return y, ends, err
	}
	pieces := s.pieces()
	rest := make([]tally, workers(pieces))
	sql := "select " + s.wrapped + ", " + s.kekID + ", xmin from " + s.table + " where not " + s.dependent() + " and "
	err = t.each(ctx, m, pieces, func(ctx context.Context, number int, c *pgconn.PgConn, p piece) error {
		return t.at(ctx, c, m, 3, sql+p.where, nil, func(v [][]byte) error {
			if len(v[2]) != 4 {
				return errForm
			}
			rest[number].add(classify(v[0], v[1]), versions{1, binary.BigEndian.Uint32(v[2])})
			return nil
		})
	})
	for _, o := range rest {
		y.sum(o)
	}
	return y, ends, err
}

// countBy adds up what sql counts in each range of the table: the place of a class, with 2
// for others, which are not counted here; how many rows; the sum of the transaction numbers
// that wrote them, modulo 2^32; the first and the last time of writing.
func (t *Table) countBy(ctx context.Context, s *survey, m moment, sql, end string) (y tally, ends span, others bool, err error) {
	type worker struct {
		tally
		span
		others bool
	}
	ranges := s.ranges()
	hands := make([]worker, workers(ranges))
	err = t.each(ctx, m, ranges, func(ctx context.Context, number int, c *pgconn.PgConn, p piece) error {
		w := &hands[number]
		return t.at(ctx, c, m, 5, sql+p.where+end, nil, func(v [][]byte) error {
			if len(v[0]) != 4 || len(v[1]) != 8 || len(v[2]) != 8 {
				return errForm
			}
			class, rows := binary.BigEndian.Uint32(v[0]), int64(binary.BigEndian.Uint64(v[1]))
			switch {
			case class > 2 || rows < 0:
				return errForm
			case rows == 0:
				return nil
			case class == 2:
				w.others = true
				return nil
			case len(v[3]) != 8 || len(v[4]) != 8:
				return errColumns
			}
			w.tally.add(classes[class], versions{rows, binary.BigEndian.Uint32(v[2][4:])})
			w.span.stretch(span{int64(binary.BigEndian.Uint64(v[3])), int64(binary.BigEndian.Uint64(v[4]))})
			return nil
		})
	})
	for _, w := range hands {
		y.sum(w.tally)
		ends.stretch(w.span)
		others = others || w.others
	}
	return y, ends, others, err
}

// draw chooses dependent rows: the one written first and the one written last, of every
// tenant the first and the last by name, and others at random.
func (t *Table) draw(ctx context.Context, s *survey, m moment, dependent int64, ends span) ([]uuid, error) {
	which := s.dependent()
	edge := func(order string) string {
		return "select (select id from " + s.table + " where username = t.name and " + which + " order by name " + order + " limit 1) from t where t.name is not null"
	}
	// What was written first is mostly where the table begins, and what was written last
	// where it grows. To look there first spares a look at everything, which even a limit of
	// one row does not end early where the server's workers share it.
	written := func(parameter, mostly string) string {
		anywhere := "select id from " + s.table + " where updated_at = " + parameter + " and " + which
		if s.version < tidRangeScan {
			return "(" + anywhere + " limit 1)"
		}
		return fmt.Sprintf("(select id from ((%s and ctid %s) union all (%s)) n limit 1)", anywhere, mostly, anywhere)
	}
	hundredth := s.blocks/100 + 1
	pieces := []piece{
		{where: fmt.Sprintf("select id from %s tablesample bernoulli (%g) where %s", s.table, min(100, 100*sampleFill/float64(dependent)), which)},
		// One tenant after the other, by the index that the daemon reads them by.
		{where: "with recursive t(name) as ((select username from " + s.table + " order by username limit 1) union all" +
			" select (select username from " + s.table + " where username > t.name order by username limit 1) from t where t.name is not null) " +
			edge("asc") + " union all " + edge("desc")},
		{where: written("$1", fmt.Sprintf("< '(%d,0)'", hundredth)) + " union all " + written("$2", fmt.Sprintf(">= '(%d,0)'", max(0, s.blocks-hundredth))),
			params: [][]byte{timestamp(ends.from), timestamp(ends.to)}},
	}
	drawn := make([][]uuid, len(pieces))
	err := t.each(ctx, m, pieces, func(ctx context.Context, _ int, c *pgconn.PgConn, p piece) error {
		var ids []uuid
		err := t.at(ctx, c, m, 1, p.where, p.params, func(v [][]byte) error {
			switch len(v[0]) {
			case len(uuid{}):
				ids = append(ids, uuid(v[0]))
			case 0: // a tenant without a dependent row
			default:
				return errColumns
			}
			return nil
		})
		drawn[slices.IndexFunc(pieces, func(o piece) bool { return o.where == p.where })] = ids
		return err
	})
	all := slices.Concat(drawn...)
	slices.SortFunc(all, func(a, b uuid) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(all), err
}

// errColumns says that the daemon's columns have other types.
var errColumns = fmt.Errorf("%w: the columns id and updated_at are no uuid and timestamp", ErrShape)

// findings are what a scan found.
type findings struct {
	tally  tally
	opened []int64 // by key
	// The dependent rows that no key opens, and, of a timed scan, when the first and the last
	// of them were written.
	unopened names
	span
}

func (f *findings) mergeUnopened(o findings) {
	f.stretch(o.span)
	f.unopened.merge(o.unopened)
}

// What a scan reads of each row: without the time of writing, or with it.
const (
	untimed = 7
	timed   = 8
)

// scan reads all rows of the pieces and tries every key on every dependent one. What reads
// does not open: one session keeps several cores busy.
func (t *Table) scan(ctx context.Context, s *survey, m moment, pieces []piece, keys []key.Key, columns int) (findings, error) {
	names := `username, name, nonce, ciphertext, ` + s.wrapped + `, ` + s.kekID + `, xmin`
	if columns == timed {
		names += `, updated_at`
	}
	sql := `select ` + names + ` from ` + s.table + ` where `
	full := make(chan []byte, chunksAhead)
	var spare sync.Pool // of *[]byte, chunks that were tried
	empty := func() []byte {
		if b, ok := spare.Get().(*[]byte); ok {
			return (*b)[:0]
		}
		return make([]byte, 0, chunkBytes+chunkBytes/4)
	}
	hands := make([]trier, runtime.GOMAXPROCS(0))
	g, all := crew.WithContext(ctx)
	for i := range hands {
		w := &hands[i]
		w.opened, w.columns = make([]int64, len(keys)), columns
		for _, k := range keys {
			w.openers = append(w.openers, newOpener(k))
		}
		g.Go(func() error {
			for chunk := range full {
				if err := w.try(chunk); err != nil {
					return err
				}
				spare.Put(&chunk)
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(full)
		return t.each(all, m, pieces, func(ctx context.Context, _ int, c *pgconn.PgConn, p piece) error {
			chunk := empty()
			send := func() error {
				select {
				case full <- chunk:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			err := t.at(ctx, c, m, columns, sql+p.where, p.params, func(v [][]byte) error {
				for _, cell := range v {
					chunk = appendCell(chunk, cell)
				}
				if len(chunk) < chunkBytes {
					return nil
				}
				err := send()
				chunk = empty()
				return err
			})
			if err == nil && len(chunk) > 0 {
				err = send()
			}
			return err
		})
	})
	err := g.Wait()
	if errors.Is(err, context.Canceled) && ctx.Err() == nil {
		err = errors.Join(err, ErrLost)
	}
	sum := findings{opened: make([]int64, len(keys))}
	for i := range hands {
		sum.tally.sum(hands[i].tally)
		sum.mergeUnopened(hands[i].findings)
		for k, n := range hands[i].opened {
			sum.opened[k] += n
		}
	}
	return sum, err
}

// trier tries all keys on rows, and is used by one goroutine.
type trier struct {
	findings
	columns int
	openers []*opener
	data    []byte
	_       [64]byte // no two count in one cache line
}

// try takes a chunk of rows, as appendCell packed them.
func (w *trier) try(chunk []byte) error {
	var v [8][]byte
	for len(chunk) > 0 {
		for i := range v[:w.columns] {
			v[i], chunk = nextCell(chunk)
		}
		r := cells{v[0], v[1], v[2], v[3], v[4], v[5]}
		if len(v[6]) != 4 {
			return errForm
		}
		class := classify(r.wrappedDEK, r.kekID)
		w.tally.add(class, versions{rows: 1, writers: binary.BigEndian.Uint32(v[6])})
		if !class.Dependent() {
			continue
		}
		w.data = r.additionalData(w.data[:0])
		missed := true
		for i, o := range w.openers {
			if o.opens(&r, class, w.data) {
				w.opened[i]++
				missed = false
			}
		}
		switch {
		case !missed || len(w.openers) == 0:
		case w.columns == untimed:
			w.unopened.add(&r)
		case len(v[7]) != 8:
			return errColumns
		default:
			written := int64(binary.BigEndian.Uint64(v[7]))
			w.unopened.add(&r)
			w.stretch(span{written, written})
		}
	}
	return nil
}

// stretch is the least number of rows of which to say that they were written in a
// stretch: of two side by side chance may be the reason.
const stretch = 3

// unopened tells of the rows that no key opened. Of several it looks again when they were
// written, and who else was in that time.
func (t *Table) unopened(ctx context.Context, s *survey, m moment, pieces []piece, keys []key.Key, f findings) (Unopened, error) {
	u := Unopened{Count: f.unopened.count, Rows: f.unopened.first}
	if u.Count < stretch {
		return u, nil
	}
	f, err := t.scan(ctx, s, m, pieces, keys, timed)
	if err != nil {
		return u, err
	}
	sql := fmt.Sprintf(`select %s, %s from %s where updated_at between $1 and $2 and `, s.wrapped, s.kekID, s.table)
	params := [][]byte{timestamp(f.from), timestamp(f.to)}
	var written atomic.Int64
	err = t.each(ctx, m, pieces, func(ctx context.Context, _ int, c *pgconn.PgConn, p piece) error {
		return t.at(ctx, c, m, 2, sql+p.where, params, func(v [][]byte) error {
			if classify(v[0], v[1]).Dependent() {
				written.Add(1)
			}
			return nil
		})
	})
	u.Stretch = written.Load() == u.Count
	return u, err
}

// timestamp puts Postgres' own time, microseconds from the first day of 2000, in words.
func timestamp(t int64) []byte {
	epoch := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	return time.UnixMicro(epoch+t).UTC().AppendFormat(nil, "2006-01-02T15:04:05.999999Z07:00")
}

// samplePieces cuts a sample of so many dependent rows for fetching by id: what pieceBytes
// allows, where the rows have their mean size, and something for every session.
func (s *survey) samplePieces(sample []uuid, dependent int64) []piece {
	fits := pieceBytes * dependent / max(s.bytes, 1)
	share := int64(len(sample))/int64(2*runtime.GOMAXPROCS(0)) + 1
	var pieces []piece
	for ids := range slices.Chunk(sample, int(max(fewIDs, min(fits, share, manyIDs)))) {
		list := []byte{'{'}
		for _, id := range ids {
			list = append(hex.AppendEncode(list, id[:]), ',')
		}
		list[len(list)-1] = '}'
		pieces = append(pieces, piece{where: "id = any($1::uuid[])", params: [][]byte{list}})
	}
	return pieces
}

// place names what a session is opened to, without the password.
func place(c *pgconn.Config) string {
	where := net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))
	if strings.HasPrefix(c.Host, "/") {
		where = c.Host + ", port " + strconv.Itoa(int(c.Port))
	}
	return fmt.Sprintf("database %q at %s as %q", c.Database, where, c.User)
}
