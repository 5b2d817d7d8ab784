package rows

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

const (
	// rewriteVersion is the first server, as in server_version_num, that looks a row up by
	// its place (ctid) for each row of another table.
	rewriteVersion = 120000
	// A lot is written with one UPDATE when it has so many rows or so many bytes: of fewer the
	// server spends more on the statement than on its rows. Rows of 64 KiB take a fifth longer in lots
	// of a quarter of a megabyte.
	lotRows  = 128
	lotBytes = 1 << 20
	// commitTimeout bounds the wait for the answer to a commit, which syncs what is left
	// of the log to disk. After it nobody knows.
	commitTimeout = time.Minute
	// idle is how long the server bears a transaction with locks on the table of which it hears
	// nothing: where a proxy holds a connection open whose other side has gone, nothing else ends
	// it before a statement's timeout does.
	idle = time.Minute
	// endTimeout bounds a rollback, which is instant.
	endTimeout = 5 * time.Second
)

// RewriteOptions say which key to bring the rows under, and from which.
type RewriteOptions struct {
	Target key.Key
	Keys   []key.Key // what rows may be under besides
	// LeaveUnopenable leaves rows that none of the keys opens as they are. Otherwise they
	// stop the rewrite.
	LeaveUnopenable bool
	// DryRun does everything but BeforeCommit and the commit.
	DryRun bool
	// LockTimeout is how long to wait for the table and for AdvisoryLock. 0: 5 s, as a
	// vacuum that is in the way is sent off after one.
	LockTimeout time.Duration
	// Timeout bounds each statement. 0: 30 min.
	Timeout time.Duration
	// Silence is how long nothing may come and go until the server is asked, over another
	// connection, whether it works. Where it twice does not, that is the end. 0: 10 s.
	Silence time.Duration
	// Idle is how long the server bears to hear nothing of the transaction. It is told several
	// times meanwhile that there is nothing to write yet. 0: 1 min.
	Idle time.Duration
	// Progress is told every few hundred kilobytes, by one goroutine at a time.
	Progress func(RewriteProgress)
	// BeforeCommit is asked when all is done but the commit, and shown what was. The rows are locked
	// meanwhile.
	BeforeCommit func(context.Context, RewriteResult) error
}

func (o RewriteOptions) withDefaults() RewriteOptions {
	if o.LockTimeout <= 0 {
		o.LockTimeout = 5 * time.Second
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Minute
	}
	if o.Silence <= 0 {
		o.Silence = silence
	}
	if o.Idle <= 0 {
		o.Idle = idle
	}
	if o.Progress == nil {
		o.Progress = func(RewriteProgress) {}
	}
	o.Keys = slices.DeleteFunc(slices.Clone(o.Keys), func(k key.Key) bool { return k.IsZero() || k.Equal(o.Target) })
	return o
}

// RewriteStep is what a rewrite is busy with.
type RewriteStep string

// In this order.
const (
	Resealing  RewriteStep = "re-encrypting" // reads all rows, and writes them
	Checking   RewriteStep = "reading back"  // reads all rows again
	Committing RewriteStep = "committing"    // one statement, until it is on the server's disk
)

// RewriteProgress says how far a step is, in rows of the table.
type RewriteProgress struct {
	Step        RewriteStep
	Done, Total int64
}

// RewriteResult says what a rewrite did, or found where it fails.
type RewriteResult struct {
	Counts       Counts                    // of all rows
	Rewritten    int64                     // legacy rows, encrypted anew
	Rewrapped    int64                     // in-process rows, whose DEK was wrapped anew
	AlreadyUnder int64                     // dependent rows that were under Target before
	ByKey        map[key.Fingerprint]int64 // dependent rows by what they were under before
	Unopenable   int64                     // dependent rows that no key opens, left as they are
	Left         []RowName                 // at most the first thousand of these
	Elapsed      time.Duration
}

// Rewrite brings every dependent row under one key, in one transaction: a legacy row is
// encrypted anew, the DEK of an in-process row wrapped anew, and nothing else of any row
// changes. Before the commit all rows are read back: they are under Target and say what
// they said. When it returns without an error the rows are all new, on disk; after
// ErrUnanswered they are all old or all new; after every other error they are all old.
//
// The transaction holds AdvisoryLock, and the table against writers and other lockers;
// readers read the old rows meanwhile. It must not run beside a daemon: that would go on
// writing under the old key.
func (t *Table) Rewrite(ctx context.Context, o RewriteOptions) (RewriteResult, error) {
	if t.place.Absent {
		return RewriteResult{}, fmt.Errorf("cannot rewrite the rows: %w: %s", ErrNoDatabase, t.place.Why)
	}
	start := time.Now()
	w := &rewrite{Table: t, o: o.withDefaults(), seed: maphash.MakeSeed()}
	w.result.ByKey = map[key.Fingerprint]int64{}
	err := w.do(ctx)
	w.result.Elapsed = time.Since(start)
	if err != nil {
		return w.result, fmt.Errorf("cannot rewrite the rows in %s: %w", place(t.config), err)
	}
	return w.result, nil
}

// rewrite is one run of Rewrite. The session that the table keeps reads the old rows, as
// none can send and fetch at once.
type rewrite struct {
	*Table
	chunks
	o        RewriteOptions
	seed     maphash.Seed
	writer   *pgconn.PgConn // the transaction's
	backends []string       // the processes of both sessions in the server
	catalog  *catalog
	total    int64
	snapshot string // of the old rows, for the reader
	result   RewriteResult
	doomed   atomic.Bool // rows stand in the way, and what is written will be taken back
	lots     sync.Pool   // of *lot, that were written
}

// lot returns an empty lot: one that was written, or a new one.
func (w *rewrite) lot() *lot {
	l, ok := w.lots.Get().(*lot)
	if !ok {
		l = new(lot)
	}
	l.empty()
	return l
}

func (w *rewrite) do(ctx context.Context) (err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.drop()
	kept := w.beside
	w.beside = nil
	var both crew.Group
	both.Go(func() error {
		return w.over(ctx, func() (err error) { w.catalog, err = w.readCatalog(ctx, w.conn); return err })
	})
	both.Go(func() (err error) {
		w.writer, err = w.reuse(ctx, kept)
		return err
	})
	err = both.Wait()
	if w.writer != nil {
		defer hangUp(w.writer)
	}
	if err != nil {
		return err
	}
	if w.catalog.version < rewriteVersion {
		return ErrOldServer
	}
	if w.backends, err = w.unpooled(ctx, w.catalog, w.conn, w.writer); err != nil {
		return err
	}
	open := true
	defer func() {
		if open && !w.writer.IsClosed() {
			// The locks go now, and not when the server notices that we are gone.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
			defer cancel()
			_ = w.exec(ctx, "rollback") // the session's end does the same
		}
	}()
	if err := w.watched(ctx, w.prepare); err != nil || w.o.DryRun {
		return err
	}
	if w.o.BeforeCommit != nil {
		if err := w.o.BeforeCommit(ctx, w.result); err != nil {
			return err
		}
	}
	open = false
	w.o.Progress(RewriteProgress{Committing, 0, w.total})
	return w.commitTransaction(ctx)
}

// prepare is all of the transaction but its end.
func (w *rewrite) prepare(ctx context.Context) error {
	if err := w.beginTransaction(ctx); err != nil {
		return err
	}
	before, err := w.resealRows(ctx)
	if err != nil {
		return err
	}
	return w.check(ctx, before)
}

// unpooled refuses a pooler that gives a session of the server away between transactions:
// what we lock and whom we see connected would not be ours. The first of two connections
// has just ended a transaction, and its session is handed to the second there. It returns
// the processes of both in the server. s is what the first one said of the catalog.
func (t *Table) unpooled(ctx context.Context, s *catalog, first, second *pgconn.PgConn) ([]string, error) {
	number := func(c *pgconn.PgConn) string { return strconv.FormatUint(uint64(c.PID()), 10) }
	if s.backend == number(first) { // the server itself
		return []string{s.backend, number(second)}, nil
	}
	one, err := t.backend(ctx, first)
	if err != nil {
		return nil, err
	}
	other, err := t.backend(ctx, second)
	if err == nil && one == other {
		err = ErrPooled
	}
	return []string{one, other}, err
}

// bounds let the transaction that was just begun take its time: timeout for a statement.
func (w *rewrite) bounds(timeout time.Duration) []string {
	milliseconds := func(d time.Duration) string { return strconv.FormatInt(max(d.Milliseconds(), 1), 10) }
	return []string{
		"set local statement_timeout = " + milliseconds(timeout),
		"set local lock_timeout = " + milliseconds(w.o.LockTimeout),
		"set local idle_in_transaction_session_timeout = " + milliseconds(w.o.Idle),
		"set local row_security = off",
	}
}

// beginTransaction opens the transaction, takes both locks, counts the rows, and names the view of them
// for the other session, all in one go. Both sides of it notice within half a minute that
// the other is gone.
func (w *rewrite) beginTransaction(ctx context.Context) error {
	list := append([]string{"begin isolation level read committed"}, w.bounds(w.o.Timeout)...)
	list = append(list, "set local synchronous_commit = on",
		// A row is looked up by its place, and nothing is sorted or hashed for it.
		"set local enable_hashjoin = off", "set local enable_mergejoin = off",
		// Some servers have not all of them. pg_settings, which knows that as well, costs milliseconds.
		`select set_config(name, value, true) from (values ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'),
  ('tcp_keepalives_count', '4'), ('tcp_user_timeout', '30000'), ('client_connection_check_interval', '5000'),
  ('transaction_timeout', '0')) v(name, value) where current_setting(name, true) is not null`)
	advisory := len(list)
	list = append(list, "select pg_advisory_xact_lock("+strconv.FormatInt(AdvisoryLock, 10)+")",
		// Not even a row of it can be locked by anybody else; plain reads can go on.
		"lock table "+w.catalog.table+" in exclusive mode")
	last := len(list)
	list = append(list, "select count(*)::text, pg_export_snapshot() from "+w.catalog.table)
	held, locked, total := true, w.catalog.table, ""
	timed, cancel := context.WithTimeout(ctx, w.o.Timeout+time.Second)
	defer cancel()
	err := w.batch(timed, w.writer, list, nil, func(statement int, v [][]byte) error {
		switch {
		case statement == advisory:
			held = false
		case statement == last && len(v) != 2:
			return errForm
		case statement == last:
			total, w.snapshot = string(v[0]), string(v[1])
		}
		return nil
	})
	if held && errors.Is(err, ErrLocked) {
		return ErrRotationHolds
	}
	if err != nil {
		return err
	}
	if w.total, err = strconv.ParseInt(total, 10, 64); err != nil || !isSnapshot(w.snapshot) {
		return errForm
	}
	// It changes no more. The reader knows the catalog, which the writer would read first.
	if w.catalog, err = w.readCatalog(ctx, w.conn); err != nil {
		return err
	}
	if w.catalog.table != locked {
		return fmt.Errorf("%w: the table was %s, and is %s", ErrConcurrent, locked, w.catalog.table)
	}
	return nil
}

// resealRows reads all rows as they were, and writes them as they shall be while it reads on.
func (w *rewrite) resealRows(ctx context.Context) (*resealed, error) {
	// What reads waits for what is written.
	patience := 2 * w.o.Timeout
	within, cancel := context.WithTimeout(ctx, patience+time.Second)
	defer cancel()
	// The same rows to the last: on another server this snapshot does not exist.
	begin := append([]string{"begin isolation level repeatable read, read only", "set transaction snapshot '" + w.snapshot + "'"}, w.bounds(patience)...)
	sealed := make(chan *lot, chunksAhead)
	var found *resealed
	written := int64(0)
	g, ctx := crew.WithContext(within)
	g.Go(func() (err error) {
		defer close(sealed)
		found, err = w.readRows(ctx, w.conn, Resealing, begin, w.o.Keys, sealed)
		return err
	})
	g.Go(func() (err error) {
		written, err = w.writeRows(ctx, sealed)
		return err
	})
	err := g.Wait()
	if found != nil {
		w.report(found)
		// Whatever became of what is written: these would have stopped it.
		if stands := w.inTheWay(found); stands != nil && within.Err() == nil {
			return nil, stands
		}
	}
	if err != nil {
		return nil, err
	}
	if want := found.rewritten + found.rewrapped; written != want {
		return nil, fmt.Errorf("%w: %d of %d were still as they had been read", ErrConcurrent, written, want)
	}
	return found, nil
}

// inTheWay says which rows keep the others from being rewritten, nil for none.
func (w *rewrite) inTheWay(c *resealed) error {
	if err := c.unknown.err(ErrUnknownClass); err != nil || w.o.LeaveUnopenable {
		return err
	}
	return c.unopenable.err(ErrUnopenable)
}

// writeRows has the server write one lot after the other, and returns how many rows were still
// as they had been read. While one is written the next is on its way; while none is, the server
// hears that we are still here.
func (w *rewrite) writeRows(ctx context.Context, sealed <-chan *lot) (written int64, err error) {
	const statement = "keyguard_rewrite"
	p := w.writer.StartPipeline(ctx)
	alive := time.NewTicker(w.o.Idle / 8)
	defer alive.Stop()
	prepared, waits := false, false // for an answer
	next := func() error {
		err := p.Sync()
		if err == nil && waits {
			err = answered(p, &written)
		}
		waits = true
		return err
	}
	for more := true; more && err == nil; {
		select {
		case l, ok := <-sealed:
			if more = ok; !more {
				break
			}
			if !prepared {
				p.SendPrepare(statement, w.catalog.writeSQL(), nil)
				prepared = true
			}
			p.SendQueryPrepared(statement, l.arrays(), []int16{1}, nil)
			err = next()
			w.lots.Put(l)
		case <-alive.C:
			w.pulse.unheard(func() { err = next() })
		}
	}
	if err == nil && waits {
		err = answered(p, &written)
	}
	if closed := p.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return written, w.explain(err)
	}
	return written, nil
}

// answered waits for the answer to what was sent up to one Sync, and adds the rows that it
// has changed.
func answered(p *pgconn.Pipeline, changed *int64) error {
	for {
		result, err := p.GetResults()
		if err != nil {
			return err
		}
		switch r := result.(type) {
		case *pgconn.StatementDescription:
		case *pgconn.ResultReader:
			tag, err := r.Close()
			if err != nil {
				return err
			}
			*changed += tag.RowsAffected()
		case *pgconn.PipelineSync:
			return nil
		default:
			return errForm
		}
	}
}

func (w *rewrite) report(c *resealed) {
	r := &w.result
	r.Counts, r.Rewritten, r.Rewrapped, r.AlreadyUnder = c.counts, c.rewritten, c.rewrapped, c.already
	r.Unopenable, r.Left = c.unopenable.count, c.unopenable.first
	for i, n := range c.byKey {
		if n > 0 {
			r.ByKey[w.o.Keys[i].Fingerprint()] += n
		}
	}
	if c.already > 0 {
		r.ByKey[w.o.Target.Fingerprint()] = c.already
	}
}

// readRows reads all rows of the table over c, after some statements that go before, and lets
// every core reseal them. What is to be written goes to sealed.
func (w *rewrite) readRows(ctx context.Context, c *pgconn.PgConn, step RewriteStep, before []string, keys []key.Key, sealed chan<- *lot) (*resealed, error) {
	p := &pass{rewrite: w, step: step, raw: make(chan []byte, chunksAhead), sealed: sealed}
	g, ctx := crew.WithContext(ctx)
	g.Go(func() error { return p.read(ctx, c, before) })
	hands := make([]*resealer, runtime.GOMAXPROCS(0))
	for i := range hands {
		r := newResealer(w.o.Target, keys, w.seed)
		hands[i] = r
		g.Go(func() error { return p.work(ctx, r) })
	}
	err := g.Wait()
	sum := &hands[0].resealed
	for _, r := range hands[1:] {
		sum.merge(&r.resealed)
	}
	return sum, err
}

// pass reads the whole table once.
type pass struct {
	*rewrite
	step    RewriteStep
	raw     chan []byte // chunks of rows, as appendCell packs them
	columns int         // of a row; known once there is a chunk
	sealed  chan<- *lot
}

// read brings all rows to raw.
func (p *pass) read(ctx context.Context, c *pgconn.PgConn, before []string) error {
	defer close(p.raw)
	chunk := p.chunk()
	send := func() error {
		select {
		case p.raw <- chunk:
			chunk = p.chunk()
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	done := int64(0)
	p.o.Progress(RewriteProgress{p.step, done, p.total})
	statements := append(slices.Clone(before), p.catalog.resealSQL())
	err := p.batch(ctx, c, statements, nil, func(statement int, v [][]byte) error {
		if statement != len(before) {
			return errForm
		}
		if p.columns == 0 {
			p.columns = len(v)
		}
		if len(v) != p.columns || p.columns <= kekIDAt+wrappedFromEnd {
			return errForm
		}
		for _, cell := range v {
			chunk = appendCell(chunk, cell)
		}
		if done++; len(chunk) < chunkBytes {
			return nil
		}
		p.o.Progress(RewriteProgress{p.step, done, p.total})
		return send()
	})
	if err == nil && len(chunk) > 0 {
		err = send()
	}
	p.o.Progress(RewriteProgress{p.step, done, p.total})
	return err
}

// work has one hand reseal what is read, as long as there is any use in it.
func (p *pass) work(ctx context.Context, r *resealer) error {
	out := p.lot()
	send := func() error {
		if out.rows == 0 || p.doomed.Load() {
			out.empty()
			return nil
		}
		select {
		case p.sealed <- out:
			out = p.lot()
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for chunk := range p.raw {
		for rest := chunk; len(rest) > 0; {
			rest = r.row(rest, p.columns, out)
		}
		p.recycle(chunk)
		if r.unknown.count > 0 || r.unopenable.count > 0 && !p.o.LeaveUnopenable {
			p.doomed.Store(true)
		}
		if out.rows < lotRows && out.bytes() < lotBytes {
			continue
		}
		if err := send(); err != nil {
			return err
		}
	}
	return send()
}

// check reads all rows as this transaction sees them.
func (w *rewrite) check(ctx context.Context, before *resealed) error {
	ctx, cancel := context.WithTimeout(ctx, w.o.Timeout+time.Second)
	defer cancel()
	// What is left to the commit, which nobody reads back and a dry run does not come to, is
	// done now.
	after, err := w.readRows(ctx, w.writer, Checking, []string{"set constraints all immediate"}, nil, nil)
	if err != nil {
		return err
	}
	dependent := before.already + before.rewritten + before.rewrapped
	switch {
	case after.already != dependent || after.unopenable.count != before.unopenable.count || after.counts != before.counts:
		return fmt.Errorf("%w: %d of %d are under the new key", ErrReadBack, after.already, dependent)
	case after.contents != before.contents:
		return fmt.Errorf("%w: not only their encryption changed", ErrReadBack)
	}
	return nil
}

// commitTransaction is not interrupted by ctx: that would only make the outcome unknown.
func (w *rewrite) commitTransaction(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return w.explain(ctx.Err())
	case w.writer.IsClosed():
		return ErrLost
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	done := ""
	err := w.watched(ctx, func(ctx context.Context) error {
		r := w.writer.Exec(ctx, "commit")
		for r.NextResult() {
			tag, _ := r.ResultReader().Close() // the end of all says its error
			done = tag.String()
		}
		return r.Close()
	})
	var server *pgconn.PgError
	switch {
	case err == nil && done == "COMMIT":
		return nil
	case err == nil && done == "ROLLBACK":
		return fmt.Errorf("%w: it rolled the transaction back", ErrServer)
	case err == nil:
		err = errForm
	case errors.As(err, &server) && server.SeverityUnlocalized == "ERROR":
		return w.explain(err)
	}
	// Not even pgconn.SafeToRetry says that it was not sent: it is true of a connection that
	// was lost afterwards.
	return fmt.Errorf("%w: %w", ErrUnanswered, w.explain(err))
}

// exec executes statements, separated by semicolons, in the transaction.
func (w *rewrite) exec(ctx context.Context, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, w.o.Timeout+time.Second)
	defer cancel()
	if err := w.writer.Exec(ctx, sql).Close(); err != nil { // what it answers besides is not kept
		return w.Table.explain(err)
	}
	return nil
}
