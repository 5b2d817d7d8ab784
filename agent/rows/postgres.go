package rows

import (
	"context"
	"encoding/binary"
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
	// sampleFill is about how many rows of a sample are drawn at random, besides the
	// oldest and the newest row of every tenant. A key that opens all but one in a
	// thousand rows passes it once in 500 million times.
	sampleFill = 20_000
	// pieceBytes is about how much of the table one statement reads, so that none comes
	// near its timeout and no lock outlives a few milliseconds. A table that fits in one
	// piece is read in one statement, and so in one snapshot.
	pieceBytes = 8 << 20
	// idsPerPiece is how many rows of a sample one statement fetches: 32 MiB of the
	// largest values.
	idsPerPiece = 500
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
	// Full checks every row, however many there are.
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
// session between proofs, and for a large table the sample that all candidates share.
type Table struct {
	options Options
	place   Location
	config  *pgconn.Config // nil where there is no database yet

	mu     sync.Mutex // one proof at a time; guards what follows
	conn   *pgconn.PgConn
	sample []uuid // nil until drawn
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
	kept := t.conn != nil
	a, err := t.prove(ctx, keys)
	if err != nil && kept && t.conn == nil && errors.Is(err, ErrLost) {
		// The server was restarted since the last proof: only a new session can tell.
		a, err = t.prove(ctx, keys)
	}
	if err != nil {
		return NoAnswer(fmt.Errorf("cannot ask the rows in %s: %w", place(t.config), err), keys...)
	}
	return a
}

func (t *Table) prove(ctx context.Context, keys []key.Key) (a Answer, err error) {
	defer func() {
		if err != nil {
			t.drop() // whatever the session was in the middle of ends with it
		}
	}()
	if t.conn == nil {
		if t.conn, err = t.connect(ctx); err != nil {
			return a, err
		}
	}
	s, err := t.survey(ctx)
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
		pieces := s.pieces()
		before, err := t.tally(ctx, s, pieces)
		if err != nil {
			return a, err
		}
		a = Answer{State: Answered, Counts: before.counts(), Mark: before.mark()}
		if a.Counts.Dependent() == 0 {
			if len(pieces) > 1 {
				after, err := t.tally(ctx, s, pieces)
				if err != nil {
					return a, err
				}
				if after != before {
					continue
				}
			}
			if err := t.mayBeSilent(s, a.Counts); err != nil {
				return a, err
			}
			a.State = Silent
			a.Why = "the table holds no secret"
			if n := a.Counts.External; n > 0 {
				a.Why = fmt.Sprintf("all secrets in the table, %d, are under an external KMS", n)
			}
			return flat(a, keys), nil
		}
		a.Sampled = a.Counts.Dependent() > checkAll && !t.options.Full
		if a.Sampled {
			if pieces, err = t.samplePieces(ctx, s, a.Counts.Dependent()); err != nil {
				return a, err
			}
		}
		if len(keys) == 0 {
			return a, nil
		}
		found, err := t.scan(ctx, s, pieces, keys)
		if err != nil {
			return a, err
		}
		if !a.Sampled && found.versions != before.dependent() || found.versions.rows == 0 {
			continue
		}
		for i, k := range keys {
			a.Proofs = append(a.Proofs, judge(k.Fingerprint(), found.versions.rows, found.opened[i]))
		}
		return a, nil
	}
	return a, ErrChanging
}

// mayBeSilent refuses silence to a table that need not be the daemon's only one, or
// whose rows are not all understood.
func (t *Table) mayBeSilent(s *survey, c Counts) error {
	switch {
	case c.Unknown > 0:
		return fmt.Errorf("%w: %d", ErrUnknownClass, c.Unknown)
	case s.elsewhere != "":
		return fmt.Errorf("%s has no dependent row, but %w: %s", s.table, ErrElsewhere, s.elsewhere)
	case t.place.Rival != "":
		return fmt.Errorf("%s has no dependent row, but %w: %s", s.table, ErrElsewhere, t.place.Rival)
	}
	return nil
}

func (t *Table) connect(ctx context.Context) (*pgconn.PgConn, error) {
	// The driver's own timeout holds for each host and each fallback.
	ctx, cancel := context.WithTimeout(ctx, t.options.ConnectTimeout)
	defer cancel()
	c, err := pgconn.ConnectConfig(ctx, t.config)
	if err != nil {
		return nil, t.explain(err)
	}
	return c, nil
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
	whole     bool   // cannot be read in pieces
	blocks    int64
	perPiece  int64 // blocks
	wrapped   string
	kekID     string
}

// surveySQL gives exactly one row. pg_table_size takes a share lock, and so tells
// before anything else whether the table is locked. row_security_active is true where
// a policy would hide rows from this role.
const surveySQL = `
select pg_is_in_recovery()::text, current_setting('row_security'), current_setting('server_version_num'),
  current_setting('block_size'), format('%I.%I', n.nspname, c.relname), c.relkind::text, c.relhassubclass::text,
  row_security_active(c.oid)::text, pg_relation_size(c.oid)::text, pg_table_size(c.oid)::text,
  (select string_agg(attname, ' ') from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped),
  (select string_agg(quote_ident(n.nspname), ', ') from pg_class r join pg_namespace n on n.oid = r.relnamespace
    where r.relname = 'secrets' and r.relkind in ('r', 'p', 'v', 'm', 'f') and r.oid is distinct from here.oid
    and n.nspname !~ '^pg_' and exists (select from pg_attribute where attrelid = r.oid and attname = 'ciphertext'))
from (select to_regclass('secrets')::oid as oid) here left join pg_class c on c.oid = here.oid
  left join pg_namespace n on n.oid = c.relnamespace`

func (t *Table) survey(ctx context.Context) (*survey, error) {
	var v []string
	err := t.run(ctx, t.conn, surveySQL, nil, func(row [][]byte) error {
		for _, b := range row {
			v = append(v, string(b))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(v) != 12 {
		return nil, fmt.Errorf("%w: it says nothing of itself", ErrServer)
	}
	recovery, rowSecurity, version, blockSize := v[0], v[1], v[2], v[3]
	table, kind, children, filtered, heap, all, columns, elsewhere := v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11]
	switch {
	case recovery != "false":
		return nil, ErrRecovery
	case table == "" && elsewhere != "":
		return nil, fmt.Errorf("%w; there is one in schema %s", ErrNoTable, elsewhere)
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
	s := &survey{table: table, elsewhere: elsewhere, wrapped: "null::bytea", kekID: "null::text"}
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
	s.whole = number(version) < tidRangeScan || kind != "r" || children != "false"
	if err != nil {
		return nil, fmt.Errorf("%w: sizes that are no numbers", ErrServer)
	}
	s.blocks = heapBytes / block
	// Values of more than 2 kB lie outside the blocks that are counted here.
	s.perPiece = max(1, s.blocks*pieceBytes/max(allBytes, 1))
	return s, nil
}

// class is Classify in SQL.
func (s *survey) class() string {
	kek, wrapped := s.kekID+` collate "C"`, `encode(`+s.wrapped+`, 'escape') collate "C"`
	return `case when coalesce(length(` + s.wrapped + `), 0) = 0 then 'legacy'` +
		` when ` + kek + ` = '` + inprocID + `' and length(` + s.wrapped + `) = ` + strconv.Itoa(wrappedSize) + ` then 'inproc'` +
		` when ` + kek + ` ~ '` + vaultKEKForm + `' and ` + wrapped + ` ~ '` + vaultDEKForm + `'` +
		` or (` + kek + ` ~ '` + gcpKEKForm + `' or ` + kek + ` ~ '` + awsKEKForm + `') and ` + wrapped + ` ~ '` + cloudDEKForm + `' then 'external'` +
		` else 'unknown' end`
}

// dependent is a condition that holds for the rows of the first two classes.
func (s *survey) dependent() string {
	return `(coalesce(length(` + s.wrapped + `), 0) = 0 or ` + s.kekID + ` collate "C" = '` + inprocID +
		`' and length(` + s.wrapped + `) = ` + strconv.Itoa(wrappedSize) + `)`
}

// piece is the part of the table that one statement reads.
type piece struct {
	where  string
	params [][]byte
}

// pieces cuts the table by block numbers. The last one is open, as the table grows.
func (s *survey) pieces() []piece {
	if s.whole || s.blocks <= s.perPiece {
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

// each runs read on every piece, over as many sessions as there are cores. read is
// given the number of its worker. Further sessions are a matter of speed only: where
// the server has none left, one does all.
func (t *Table) each(ctx context.Context, pieces []piece, read func(ctx context.Context, worker int, c *pgconn.PgConn, p piece) error) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for worker := range workers(pieces) {
		g.Go(func() error {
			c := t.conn
			if worker > 0 {
				var err error
				if c, err = t.connect(ctx); err != nil {
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

func workers(pieces []piece) int { return min(runtime.GOMAXPROCS(0), len(pieces)) }

// versions tells row versions apart without comparing rows: how many there are, and
// the sum of the transaction numbers that wrote them (xmin).
type versions struct{ rows, writers int64 }

// tally is the table by classes, in the order of classes.
type tally [4]versions

var classes = [4]Class{Legacy, InProc, External, UnknownClass}

func (y tally) counts() Counts {
	return Counts{Legacy: y[0].rows, InProc: y[1].rows, External: y[2].rows, Unknown: y[3].rows}
}

func (y tally) dependent() versions {
	return versions{y[0].rows + y[1].rows, y[0].writers + y[1].writers}
}

func (y tally) mark() string {
	var b strings.Builder
	for i, v := range y {
		if i > 0 {
			b.WriteByte('.')
		}
		fmt.Fprintf(&b, "%d-%x", v.rows, v.writers)
	}
	return b.String()
}

func (t *Table) tally(ctx context.Context, s *survey, pieces []piece) (tally, error) {
	counted := make([]tally, workers(pieces))
	sql := `select ` + s.class() + `, count(*), sum(xmin::text::bigint)::bigint from ` + s.table + ` where `
	err := t.each(ctx, pieces, func(ctx context.Context, worker int, c *pgconn.PgConn, p piece) error {
		return t.run(ctx, c, sql+p.where+` group by 1`, nil, func(v [][]byte) error {
			i := slices.Index(classes[:], Class(v[0]))
			counted[worker][i].rows += int64(binary.BigEndian.Uint64(v[1]))
			counted[worker][i].writers += int64(binary.BigEndian.Uint64(v[2]))
			return nil
		})
	})
	var sum tally
	for _, y := range counted {
		for i := range y {
			sum[i].rows += y[i].rows
			sum[i].writers += y[i].writers
		}
	}
	return sum, err
}

// tried is what a scan found.
type tried struct {
	versions versions // of the dependent rows that were read
	opened   []int64  // by key
	_        [64]byte // workers count in cache lines of their own
}

func (t *Table) scan(ctx context.Context, s *survey, pieces []piece, keys []key.Key) (tried, error) {
	type worker struct {
		tried
		openers []*opener
		data    []byte
	}
	crew := make([]worker, workers(pieces))
	for w := range crew {
		crew[w].opened = make([]int64, len(keys))
		for _, k := range keys {
			crew[w].openers = append(crew[w].openers, newOpener(k))
		}
	}
	sql := `select username, name, nonce, ciphertext, ` + s.wrapped + `, ` + s.kekID + `, xmin from ` + s.table +
		` where ` + s.dependent() + ` and `
	err := t.each(ctx, pieces, func(ctx context.Context, number int, c *pgconn.PgConn, p piece) error {
		w := &crew[number]
		return t.run(ctx, c, sql+p.where, p.params, func(v [][]byte) error {
			r := cells{v[0], v[1], v[2], v[3], v[4], v[5]}
			class := classify(r.wrappedDEK, r.kekID)
			if !class.Dependent() {
				return fmt.Errorf("%w: it counts rows otherwise than we do", ErrServer)
			}
			w.versions.rows++
			w.versions.writers += int64(binary.BigEndian.Uint32(v[6]))
			w.data = r.additionalData(w.data[:0])
			for i, o := range w.openers {
				if o.opens(&r, class, w.data) {
					w.opened[i]++
				}
			}
			return nil
		})
	})
	sum := tried{opened: make([]int64, len(keys))}
	for w := range crew {
		sum.versions.rows += crew[w].versions.rows
		sum.versions.writers += crew[w].versions.writers
		for i, n := range crew[w].opened {
			sum.opened[i] += n
		}
	}
	return sum, err
}

// samplePieces draws the sample at the first call and cuts it for fetching by id.
func (t *Table) samplePieces(ctx context.Context, s *survey, dependent int64) ([]piece, error) {
	if t.sample == nil {
		drawn, err := t.draw(ctx, s, dependent)
		if err != nil {
			return nil, err
		}
		t.sample = drawn
	}
	var pieces []piece
	for ids := range slices.Chunk(t.sample, idsPerPiece) {
		var b strings.Builder
		for i, id := range ids {
			b.WriteByte("{,"[min(i, 1)])
			fmt.Fprintf(&b, "%x", id)
		}
		b.WriteByte('}')
		pieces = append(pieces, piece{where: "id = any($1::uuid[])", params: [][]byte{[]byte(b.String())}})
	}
	return pieces, nil
}

func (t *Table) draw(ctx context.Context, s *survey, dependent int64) ([]uuid, error) {
	pieces := s.pieces()
	samplers := make([]*sampler, workers(pieces))
	for i := range samplers {
		samplers[i] = &sampler{tenants: map[string]*span{}, chance: float64(sampleFill) / float64(dependent)}
	}
	sql := `select id, username, updated_at from ` + s.table + ` where ` + s.dependent() + ` and `
	err := t.each(ctx, pieces, func(ctx context.Context, worker int, c *pgconn.PgConn, p piece) error {
		return t.run(ctx, c, sql+p.where, nil, func(v [][]byte) error {
			if len(v[0]) != len(uuid{}) || len(v[2]) != 8 {
				return fmt.Errorf("%w: the columns id and updated_at are no uuid and timestamp", ErrShape)
			}
			samplers[worker].add(uuid(v[0]), v[1], int64(binary.BigEndian.Uint64(v[2])))
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	for _, o := range samplers[1:] {
		samplers[0].merge(o)
	}
	return samplers[0].ids(), nil
}

// sampler chooses rows: the one written first and the one written last of every
// tenant, and so of all, and others at random. It is pure but for the dice.
type sampler struct {
	tenants map[string]*span
	chance  float64
	others  []uuid
}

// span is what one tenant's oldest and newest row are. Times are Postgres' own:
// microseconds from a fixed day.
type span struct {
	oldest, newest uuid
	from, to       int64
}

func (p *sampler) add(id uuid, tenant []byte, written int64) {
	if rand.Float64() < p.chance {
		p.others = append(p.others, id)
	}
	p.stretch(id, tenant, written)
}

func (p *sampler) stretch(id uuid, tenant []byte, written int64) {
	s, ok := p.tenants[string(tenant)]
	if !ok {
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

func (p *sampler) merge(o *sampler) {
	p.others = append(p.others, o.others...)
	for tenant, s := range o.tenants {
		p.stretch(s.oldest, []byte(tenant), s.from)
		p.stretch(s.newest, []byte(tenant), s.to)
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
