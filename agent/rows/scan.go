package rows

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// patienceBlocks is how much of the table may take a second more: 32 MB, of a cold disk
// or a busy host.
const patienceBlocks = 4096

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
	switch {
	case m.snapshot == "":
		return work(ctx, 0, t.conn)
	case t.alone:
		return work(ctx, 0, nil)
	}
	var some atomic.Bool
	g, all := crew.WithContext(ctx)
	for worker := range workers(pieces) {
		g.Go(func() error {
			c, err := t.another(all)
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
	// all of it is read. What is asked next does not wait for others again.
	t.alone = true
	return work(ctx, 0, nil)
}

// workers is how many sessions read at once: two for each core, as one waits for the
// server while the other's rows are opened, and not more than a daemon can spare.
func workers(pieces []piece) int { return min(2*runtime.GOMAXPROCS(0), 8, len(pieces)) }

// tried is what a scan found.
type tried struct {
	counts Counts
	opened []int64 // by key
	// The dependent rows that no key opens, and, of a timed scan, when the first and the last
	// of them were written.
	unopened names
	span
}

func (f *tried) mergeUnopened(o tried) {
	f.include(o.span)
	f.unopened.merge(o.unopened)
}

// What a scan reads of each row: without the time of writing, or with it.
const (
	untimed = 6
	timed   = 7
)

// scan reads all rows of the pieces and tries every key on every dependent one. What reads
// does not open: one session keeps several cores busy. The pieces of a sample may share rows
// (drawPieces): drawn has each of these counted once, and is nil where no two pieces share one.
func (t *Table) scan(ctx context.Context, s *catalog, m moment, pieces []piece, keys []key.Key, columns int, drawn *drawing) (tried, error) {
	r := &scanning{Table: t, catalog: s, m: m, columns: columns, drawn: drawn, full: make(chan []byte, chunksAhead)}
	hands := make([]trier, runtime.GOMAXPROCS(0))
	g, all := crew.WithContext(ctx)
	for i := range hands {
		w := &hands[i]
		w.opened, w.columns = make([]int64, len(keys)), columns
		for _, k := range keys {
			w.openers = append(w.openers, newOpener(k))
		}
		g.Go(func() error {
			for chunk := range r.full {
				if err := w.try(chunk); err != nil {
					return err
				}
				r.recycle(chunk)
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(r.full)
		return t.each(all, m, pieces, func(ctx context.Context, _ int, c *pgconn.PgConn, p piece) error {
			return r.read(ctx, c, p)
		})
	})
	err := g.Wait()
	if errors.Is(err, context.Canceled) && ctx.Err() == nil {
		err = errors.Join(err, ErrLost)
	}
	sum := tried{opened: make([]int64, len(keys))}
	for i := range hands {
		sum.counts.sum(hands[i].counts)
		sum.mergeUnopened(hands[i].tried)
		for k, n := range hands[i].opened {
			sum.opened[k] += n
		}
	}
	return sum, err
}

// scanning is how a scan reads.
type scanning struct {
	*Table
	chunks
	catalog *catalog
	m       moment
	columns int // of what is tried: untimed or timed
	drawn   *drawing
	full    chan []byte // chunks that nobody has tried yet
}

// read brings the rows of a piece to full.
func (r *scanning) read(ctx context.Context, c *pgconn.PgConn, p piece) error {
	names, asked := "username, name, nonce, ciphertext, "+r.catalog.wrapped+", "+r.catalog.kekID, r.columns
	if r.columns == timed {
		names += ", updated_at"
	}
	if r.drawn != nil {
		names += ", id"
		asked++
	}
	chunk := r.chunk()
	send := func() error {
		select {
		case r.full <- chunk:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	sql := "select " + names + " from " + cmp.Or(p.from, r.catalog.table) + " where " + p.where
	err := r.runAt(ctx, c, r.m, asked, sql, p.params, func(v [][]byte) error {
		if r.drawn != nil {
			if first, err := r.drawn.first(v[r.columns]); err != nil || !first {
				return err
			}
		}
		for _, cell := range v[:r.columns] {
			chunk = appendCell(chunk, cell)
		}
		if len(chunk) < chunkBytes {
			return nil
		}
		err := send()
		chunk = r.chunk()
		return err
	})
	if err == nil && len(chunk) > 0 {
		err = send()
	}
	return err
}

// trier tries all keys on rows, and is used by one goroutine.
type trier struct {
	tried
	columns int
	openers []*opener
	data    []byte
	_       [64]byte // between the counts of two: cores that count in one cache line wait for each other
}

// try takes a chunk of rows, as appendCell packed them.
func (w *trier) try(chunk []byte) error {
	var v [timed][]byte
	for len(chunk) > 0 {
		for i := range v[:w.columns] {
			v[i], chunk = nextCell(chunk)
		}
		r := cells{v[0], v[1], v[2], v[3], v[4], v[5]}
		class := classify(r.wrappedDEK, r.kekID)
		w.counts.add(class, 1)
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
		case len(v[6]) != 8:
			return errColumns
		default:
			written := int64(binary.BigEndian.Uint64(v[6]))
			w.unopened.add(&r)
			w.include(span{written, written})
		}
	}
	return nil
}

// leastStretch is the least number of rows of which to say that they were written in one
// stretch: that two stand side by side may be chance.
const leastStretch = 3

// unopened tells of the rows that no key opened. Of several it looks again when they were
// written, and who else was in that time.
func (t *Table) unopened(ctx context.Context, s *catalog, m moment, pieces []piece, keys []key.Key, f tried) (Unopened, error) {
	u := Unopened{Count: f.unopened.count, Rows: f.unopened.first}
	if u.Count < leastStretch {
		return u, nil
	}
	f, err := t.scan(ctx, s, m, pieces, keys, timed, nil)
	if err != nil {
		return u, err
	}
	sql := fmt.Sprintf(`select %s, %s from %s where updated_at between $1 and $2 and `, s.wrapped, s.kekID, s.table)
	params := [][]byte{timestamp(f.from), timestamp(f.to)}
	var written atomic.Int64
	err = t.each(ctx, m, pieces, func(ctx context.Context, _ int, c *pgconn.PgConn, p piece) error {
		return t.runAt(ctx, c, m, 2, sql+p.where, params, func(v [][]byte) error {
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
