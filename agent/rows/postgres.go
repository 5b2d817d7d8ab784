package rows

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// AdvisoryLock is the lock of pg_advisory_lock(bigint) that a rotation holds,
// exclusively, for the length of its transaction: "keyguard" in ASCII. Who settles a
// rotation takes it shared.
const AdvisoryLock int64 = 0x6b65796775617264

const (
	// checkAll is how many dependent rows a proof checks one by one; beyond, a sample.
	checkAll = 100_000
	// sampleFill is the least of rows that a sample draws at random, and half of the most,
	// besides the oldest and the newest row of every tenant. A key that opens all but one
	// in a thousand rows passes it once in 500 million times.
	sampleFill = 20_000
	// pieceBytes is about how much of the table one statement reads, so that none comes
	// near its timeout and no lock outlives a few milliseconds. A table that fits in one
	// piece is read in one statement, and so in one snapshot.
	pieceBytes = 8 << 20
	// idsPerPiece is how many rows of a sample one statement fetches: 13 MB of the
	// largest values.
	idsPerPiece = 200
	// leastRow is less than any row of the table takes, in bytes: the header and the line
	// pointer, id, two times, version, two one-letter names, nonce and tag.
	leastRow = 100
	// attempts is how often a large table is read again because it changed meanwhile.
	attempts = 3
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
	milliseconds := func(d time.Duration) string { return strconv.FormatInt(max(d.Milliseconds(), 1), 10) }
	for k, v := range map[string]string{
		"application_name":                    "keyguard",
		"default_transaction_read_only":       "on",
		"statement_timeout":                   milliseconds(t.options.StatementTimeout),
		"lock_timeout":                        milliseconds(t.options.LockTimeout),
		"idle_in_transaction_session_timeout": milliseconds(t.options.StatementTimeout),
		// Off does not switch policies off: it makes a query that one would filter fail.
		"row_security": "off",
	} {
		config.RuntimeParams[k] = v
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

func (t *Table) prove(ctx context.Context, keys []key.Key) (a Answer, err error) {
	s, err := t.survey(ctx, t.conn)
	if err != nil {
		return a, err
	}
	if t.options.Settle {
		if err := t.lock(ctx); err != nil {
			return a, err
		}
		defer func() {
			if err == nil && t.unlock(ctx) != nil {
				t.drop() // the lock goes with the session; the answer stands
			}
		}()
	}
	for range attempts {
		a, steady, err := t.ask(ctx, s, keys)
		if err != nil {
			return a, err
		}
		if steady {
			return a, nil
		}
	}
	return a, ErrChanging
}

// ask reads the table once. The answer holds if steady.
func (t *Table) ask(ctx context.Context, s *survey, keys []key.Key) (a Answer, steady bool, err error) {
	pieces := s.pieces()
	var found findings
	drawn := t.sample
	if s.few || t.options.Full {
		found, err = t.scan(ctx, s, pieces, keys)
	} else {
		found.tally, drawn, err = t.count(ctx, s, pieces, drawn)
	}
	if err != nil {
		return a, false, err
	}
	a = Answer{State: Answered, Counts: found.tally.counts(), Mark: found.tally.mark()}
	switch dependent := a.Counts.Dependent(); {
	case dependent == 0:
		if a, err = t.silence(s, a, keys); err != nil {
			return a, false, err
		}
	case len(keys) == 0:
	case found.opened != nil:
		a.Proofs = judge(keys, dependent, found.opened)
		if t.options.Full {
			if a.Unopened, err = t.unopened(ctx, s, pieces, found); err != nil {
				return a, false, err
			}
		}
	case dependent <= checkAll:
		counted := found.tally
		if found, err = t.scan(ctx, s, pieces, keys); err != nil {
			return a, false, err
		}
		a.Proofs = judge(keys, dependent, found.opened)
		return a, found.tally == counted, nil // read twice, and the same
	default:
		a.Sampled, t.sample = true, drawn
		if found, err = t.scan(ctx, s, samplePieces(drawn), keys); err != nil {
			return a, false, err
		}
		checked := found.tally.counts().Dependent()
		if checked == 0 {
			t.sample = nil // these rows are all gone
			return a, false, nil
		}
		a.Proofs = judge(keys, checked, found.opened)
		return a, true, nil
	}
	steady, err = t.steady(ctx, s, pieces, found.tally)
	return a, steady, err
}

// steady tells whether what was read in pieces is what one statement would have read:
// no transaction of the server wrote anything meanwhile, or none of those that did
// wrote to the table, as counting it again shows.
func (t *Table) steady(ctx context.Context, s *survey, pieces []piece, read tally) (bool, error) {
	if len(pieces) == 1 {
		return true, nil
	}
	before := s.snapshot
	err := t.run(ctx, t.conn, "select txid_current_snapshot()::text", nil, func(v [][]byte) error {
		s.snapshot = string(v[0])
		return nil
	})
	if err != nil || s.snapshot == before {
		return err == nil, err
	}
	again, _, err := t.count(ctx, s, pieces, []uuid{})
	return again == read, err
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

// run reads the rows of one statement, each its own transaction. Values are in binary
// and valid until the next row.
func (t *Table) run(ctx context.Context, c *pgconn.PgConn, sql string, params [][]byte, row func([][]byte) error) error {
	// The server's own timeout comes first; this one is for a server that hangs.
	ctx, cancel := context.WithTimeout(ctx, t.options.StatementTimeout+time.Second)
	defer cancel()
	return t.query(ctx, c, sql, params, row)
}

func (t *Table) query(ctx context.Context, c *pgconn.PgConn, sql string, params [][]byte, row func([][]byte) error) error {
	r := c.ExecParams(ctx, sql, params, nil, nil, []int16{1})
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
	snapshot  string // of all transactions of the server, not only of this database
	few       bool   // too small for checkAll rows
	version   int64  // server_version_num
	blocks    int64
	perPiece  int64 // blocks
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
  txid_current_snapshot()::text, (select string_agg(', ' || quote_ident(attname), '' order by attnum) from pg_attribute
    where attrelid = c.oid and attnum > 0 and not attisdropped
    and attname not in ('id', 'username', 'name', 'nonce', 'ciphertext', 'wrapped_dek', 'kek_id'))
from (select to_regclass('secrets')::oid as oid) here left join pg_class c on c.oid = here.oid
  left join pg_namespace n on n.oid = c.relnamespace`

func (t *Table) survey(ctx context.Context, c *pgconn.PgConn) (*survey, error) {
	var v []string
	err := t.run(ctx, c, surveySQL, nil, func(row [][]byte) error {
		for _, b := range row {
			v = append(v, string(b))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(v) != 13 {
		return nil, fmt.Errorf("%w: it says nothing of itself", ErrServer)
	}
	recovery, rowSecurity, version, blockSize := v[0], v[1], v[2], v[3]
	table, kind, filtered, heap, all, columns, elsewhere := v[4], v[5], v[6], v[7], v[8], v[9], v[10]
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
	s := &survey{table: table, elsewhere: elsewhere, snapshot: v[11], others: v[12], wrapped: "null::bytea", kekID: "null::text"}
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
		return nil, fmt.Errorf("%w: sizes that are no numbers", ErrServer)
	}
	s.blocks = heapBytes / block
	s.few = heapBytes < checkAll*leastRow
	// Values of more than 2 kB lie outside the blocks that are counted here.
	s.perPiece = max(1, s.blocks*pieceBytes/max(allBytes, 1))
	return s, nil
}

// piece is the part of the table that one statement reads.
type piece struct {
	where  string
	params [][]byte
}

// pieces cuts the table by block numbers. The last one is open, as the table grows.
func (s *survey) pieces() []piece {
	if s.version < tidRangeScan || s.blocks <= s.perPiece {
		return []piece{{where: "true"}}
	}
	var p []piece
	for from := int64(0); from < s.blocks; from += s.perPiece {
		where := fmt.Sprintf("ctid >= '(%d,0)'", from)
		if to := from + s.perPiece; to < s.blocks {
			where += fmt.Sprintf(" and ctid < '(%d,0)'", to)
		}
		p = append(p, piece{where: where})
	}
	return p
}

// each runs read on every piece, over several sessions. read is given the number of its
// worker. Further sessions are a matter of speed only: where the server has none left,
// one does all.
func (t *Table) each(ctx context.Context, pieces []piece, read func(ctx context.Context, worker int, c *pgconn.PgConn, p piece) error) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for worker := range workers(pieces) {
		g.Go(func() error {
			c := t.conn
			if worker > 0 {
				var err error
				if c, err = t.connect(ctx, t.config); err != nil {
					return nil
				}
				defer hangUp(c)
			}
			for {
				i := next.Add(1) - 1
				if i >= int64(len(pieces)) {
					return nil
				}
				if err := read(ctx, worker, c, pieces[i]); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// workers is how many sessions read at once: two for each core, as one waits for the
// server while the other's rows are opened, and not more than a daemon can spare.
func workers(pieces []piece) int { return min(2*runtime.GOMAXPROCS(0), 8, len(pieces)) }

// versions stands for a set of row versions: how many there are, and the sum of the
// transaction numbers that wrote them (xmin).
type versions struct{ rows, writers int64 }

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

// count reads what tells the classes of all rows, and draws the sample of the dependent
// ones that a proof will need if they are many; unless there is one, which it returns.
func (t *Table) count(ctx context.Context, s *survey, pieces []piece, sample []uuid) (tally, []uuid, error) {
	type worker struct {
		tally
		sampler
		_ [64]byte // no two count in one cache line
	}
	crew := make([]worker, workers(pieces))
	columns := s.wrapped + `, ` + s.kekID + `, xmin`
	if sample == nil {
		columns += `, id, username, updated_at`
	}
	sql := `select ` + columns + ` from ` + s.table + ` where `
	err := t.each(ctx, pieces, func(ctx context.Context, number int, c *pgconn.PgConn, p piece) error {
		w := &crew[number]
		return t.run(ctx, c, sql+p.where, nil, func(v [][]byte) error {
			class := classify(v[0], v[1])
			w.tally.add(class, versions{rows: 1, writers: int64(binary.BigEndian.Uint32(v[2]))})
			if sample != nil || !class.Dependent() {
				return nil
			}
			if len(v[3]) != len(uuid{}) || len(v[5]) != 8 {
				return fmt.Errorf("%w: the columns id and updated_at are no uuid and timestamp", ErrShape)
			}
			w.sampler.add(uuid(v[3]), v[4], int64(binary.BigEndian.Uint64(v[5])))
			return nil
		})
	})
	for i := range crew[1:] {
		crew[0].tally.sum(crew[i+1].tally)
		crew[0].sampler.merge(&crew[i+1].sampler)
	}
	if sample == nil {
		sample = crew[0].sampler.ids()
	}
	return crew[0].tally, sample, err
}

// findings are what a scan found.
type findings struct {
	tally  tally
	opened []int64 // by key
	// With Options.Full: the dependent rows that no key opens, and when the first and the
	// last of them were written, in Postgres' own time.
	unopened names
	from, to int64
}

func (f *findings) miss(c *cells, written int64) {
	if f.unopened.count == 0 {
		f.from, f.to = written, written
	}
	f.from, f.to = min(f.from, written), max(f.to, written)
	f.unopened.add(c)
}

func (f *findings) mergeUnopened(o findings) {
	if o.unopened.count > 0 && f.unopened.count > 0 {
		f.from, f.to = min(f.from, o.from), max(f.to, o.to)
	} else if o.unopened.count > 0 {
		f.from, f.to = o.from, o.to
	}
	f.unopened.merge(o.unopened)
}

// scan reads all rows of the pieces and tries every key on every dependent one.
func (t *Table) scan(ctx context.Context, s *survey, pieces []piece, keys []key.Key) (findings, error) {
	type worker struct {
		findings
		openers []*opener
		data    []byte
		_       [64]byte // no two count in one cache line
	}
	crew := make([]worker, workers(pieces))
	for w := range crew {
		crew[w].opened = make([]int64, len(keys))
		for _, k := range keys {
			crew[w].openers = append(crew[w].openers, newOpener(k))
		}
	}
	columns := `username, name, nonce, ciphertext, ` + s.wrapped + `, ` + s.kekID + `, xmin`
	if t.options.Full {
		columns += `, updated_at`
	}
	sql := `select ` + columns + ` from ` + s.table + ` where `
	err := t.each(ctx, pieces, func(ctx context.Context, number int, c *pgconn.PgConn, p piece) error {
		w := &crew[number]
		return t.run(ctx, c, sql+p.where, p.params, func(v [][]byte) error {
			r := cells{v[0], v[1], v[2], v[3], v[4], v[5]}
			class := classify(r.wrappedDEK, r.kekID)
			w.tally.add(class, versions{rows: 1, writers: int64(binary.BigEndian.Uint32(v[6]))})
			if !class.Dependent() {
				return nil
			}
			w.data = r.additionalData(w.data[:0])
			missed := true
			for i, o := range w.openers {
				if o.opens(&r, class, w.data) {
					w.opened[i]++
					missed = false
				}
			}
			if missed && t.options.Full {
				if len(v[7]) != 8 {
					return fmt.Errorf("%w: the column updated_at is no timestamp", ErrShape)
				}
				w.miss(&r, int64(binary.BigEndian.Uint64(v[7])))
			}
			return nil
		})
	})
	sum := findings{opened: make([]int64, len(keys))}
	for _, w := range crew {
		sum.tally.sum(w.tally)
		sum.mergeUnopened(w.findings)
		for i, n := range w.opened {
			sum.opened[i] += n
		}
	}
	return sum, err
}

// stretch is the least number of rows of which to say that they were written in a
// stretch: of two side by side chance may be the reason.
const stretch = 3

// unopened tells of the rows that no key opened, and asks once more who else was written
// in that time.
func (t *Table) unopened(ctx context.Context, s *survey, pieces []piece, f findings) (Unopened, error) {
	u := Unopened{Count: f.unopened.count, Rows: f.unopened.first}
	if u.Count < stretch {
		return u, nil
	}
	sql := fmt.Sprintf(`select %s, %s from %s where updated_at between $1 and $2 and `, s.wrapped, s.kekID, s.table)
	span := [][]byte{timestamp(f.from), timestamp(f.to)}
	var written atomic.Int64
	err := t.each(ctx, pieces, func(ctx context.Context, _ int, c *pgconn.PgConn, p piece) error {
		return t.run(ctx, c, sql+p.where, span, func(v [][]byte) error {
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

// samplePieces cuts a sample for fetching by id.
func samplePieces(sample []uuid) []piece {
	var pieces []piece
	for ids := range slices.Chunk(sample, idsPerPiece) {
		list := []byte{'{'}
		for _, id := range ids {
			list = append(hex.AppendEncode(list, id[:]), ',')
		}
		list[len(list)-1] = '}'
		pieces = append(pieces, piece{where: "id = any($1::uuid[])", params: [][]byte{list}})
	}
	return pieces
}

// sampler chooses rows: of every tenant the one written first and the one written last,
// and so of all, and others at random. The zero value is ready.
type sampler struct {
	tenants map[string]*span
	others  []uuid
	halved  int // how often the chance of being among the others was halved
}

// span is what one tenant's oldest and newest row are. Times are Postgres' own:
// microseconds from a fixed day.
type span struct {
	oldest, newest uuid
	from, to       int64
}

func (p *sampler) add(id uuid, tenant []byte, written int64) {
	p.stretch(id, tenant, written)
	if rand.Uint64()>>(64-p.halved) != 0 {
		return
	}
	p.others = append(p.others, id)
	if len(p.others) == 2*sampleFill {
		p.halve()
	}
}

// halve keeps each of the others by the toss of a coin.
func (p *sampler) halve() {
	p.halved++
	p.others = slices.DeleteFunc(p.others, func(uuid) bool { return rand.Uint64()&1 == 0 })
}

func (p *sampler) stretch(id uuid, tenant []byte, written int64) {
	s, ok := p.tenants[string(tenant)]
	if !ok {
		if p.tenants == nil {
			p.tenants = map[string]*span{}
		}
		p.tenants[string(tenant)] = &span{id, id, written, written}
		return
	}
	if written < s.from {
		s.oldest, s.from = id, written
	}
	if written > s.to {
		s.newest, s.to = id, written
	}
}

// merge takes what o chose. o is of no use afterwards.
func (p *sampler) merge(o *sampler) {
	for tenant, s := range o.tenants {
		p.stretch(s.oldest, []byte(tenant), s.from)
		p.stretch(s.newest, []byte(tenant), s.to)
	}
	for p.halved < o.halved {
		p.halve()
	}
	for o.halved < p.halved {
		o.halve()
	}
	p.others = append(p.others, o.others...)
	for len(p.others) >= 2*sampleFill {
		p.halve()
	}
}

// ids is never nil.
func (p *sampler) ids() []uuid {
	all := append([]uuid{}, p.others...)
	for _, s := range p.tenants {
		all = append(all, s.oldest, s.newest)
	}
	slices.SortFunc(all, func(a, b uuid) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(all)
}

// lock takes the rotation's lock, shared: prestart and watcher may settle together.
func (t *Table) lock(ctx context.Context) error {
	return t.advisory(ctx, "select pg_try_advisory_lock_shared", ErrRotating)
}

// unlock is needed for a session that is kept; one that is dropped releases it anyhow.
func (t *Table) unlock(ctx context.Context) error {
	return t.advisory(ctx, "select pg_advisory_unlock_shared", ErrLost)
}

func (t *Table) advisory(ctx context.Context, call string, otherwise error) error {
	done := false
	err := t.run(ctx, t.conn, call+"("+strconv.FormatInt(AdvisoryLock, 10)+")", nil, func(v [][]byte) error {
		done = len(v[0]) == 1 && v[0][0] == 1
		return nil
	})
	if err == nil && !done {
		err = otherwise
	}
	return err
}

// place names what a session is opened to, without the password.
func place(c *pgconn.Config) string {
	where := net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))
	if strings.HasPrefix(c.Host, "/") {
		where = c.Host + ", port " + strconv.Itoa(int(c.Port))
	}
	return fmt.Sprintf("database %q at %s as %q", c.Database, where, c.User)
}
