package rows

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

const (
	// checkAll is how many dependent rows a proof checks one by one; beyond, a sample.
	checkAll = 100_000
	// sampleFill is about how many rows a sample draws at random, besides the oldest and
	// the newest row and two of every tenant. A key that opens all but one in a thousand
	// rows passes it once in 70 billion times.
	sampleFill = 25_000
	// fewIDs and manyIDs bound how many rows of a sample one statement fetches: 200 of the
	// largest values are 13 MB.
	fewIDs, manyIDs = 200, 5000
)

// span is when the first and the last dependent row were written, in Postgres' own time.
type span struct{ from, to int64 }

// include makes s hold o. The zero span holds nothing.
func (s *span) include(o span) {
	switch {
	case o == span{}:
	case *s == span{}:
		*s = o
	default:
		*s = span{min(s.from, o.from), max(s.to, o.to)}
	}
}

// count has the server count the rows by their classes. Most tables hold legacy rows alone,
// and one look at them is enough.
func (t *Table) count(ctx context.Context, s *catalog, m moment) (Counts, span, error) {
	const counted = "count(*), min(updated_at), max(updated_at) from "
	y, ends, others, err := t.countBy(ctx, s, m, "select case when count("+s.wrapped+") = 0 then 0 else 2 end, "+counted+s.table+" where ", "")
	if err != nil || !others {
		return y, ends, err
	}
	y, ends, others, err = t.countBy(ctx, s, m, "select case when "+s.legacy()+" then 0 when "+s.inproc()+" then 1 else 2 end, "+counted+s.table+" where ", " group by 1")
	if err != nil || !others {
		return y, ends, err
	}
	pieces := s.pieces()
	rest := make([]Counts, workers(pieces))
	sql := "select " + s.wrapped + ", " + s.kekID + " from " + s.table + " where not " + s.dependent() + " and "
	err = t.each(ctx, m, pieces, func(ctx context.Context, number int, c *pgconn.PgConn, p piece) error {
		return t.runAt(ctx, c, m, 2, sql+p.where, nil, func(v [][]byte) error {
			rest[number].add(classify(v[0], v[1]), 1)
			return nil
		})
	})
	for _, o := range rest {
		y.sum(o)
	}
	return y, ends, err
}

// countBy adds up what sql counts in each range of the table: the place of a class, with 2
// for others, which are not counted here; how many rows; the first and the last time of
// writing.
func (t *Table) countBy(ctx context.Context, s *catalog, m moment, sql, end string) (y Counts, ends span, others bool, err error) {
	type worker struct {
		Counts
		span
		others bool
	}
	ranges := s.ranges()
	hands := make([]worker, workers(ranges))
	err = t.each(ctx, m, ranges, func(ctx context.Context, number int, c *pgconn.PgConn, p piece) error {
		w := &hands[number]
		return t.runAt(ctx, c, m, 4, sql+p.where+end, nil, func(v [][]byte) error {
			if len(v[0]) != 4 || len(v[1]) != 8 {
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
			case len(v[2]) != 8 || len(v[3]) != 8:
				return errColumns
			}
			w.Counts.add([2]Class{Legacy, InProc}[class], rows)
			w.span.include(span{int64(binary.BigEndian.Uint64(v[2])), int64(binary.BigEndian.Uint64(v[3]))})
			return nil
		})
	})
	for _, w := range hands {
		y.sum(w.Counts)
		ends.include(w.span)
		others = others || w.others
	}
	return y, ends, others, err
}

// drawing are the rows that were drawn, each once, whichever piece it came from.
type drawing struct {
	mu sync.Mutex // guards what follows
	is map[uuid]bool
}

// first tells whether a row was not drawn before.
func (d *drawing) first(id []byte) (bool, error) {
	if len(id) != len(uuid{}) {
		return false, errColumns
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	before := len(d.is)
	d.is[uuid(id)] = true
	return len(d.is) > before, nil
}

func (d *drawing) ids() []uuid {
	return slices.SortedFunc(maps.Keys(d.is), func(a, b uuid) int { return slices.Compare(a[:], b[:]) })
}

// draw draws a sample and tries it: in the statements that draw it, or by its ids where the
// values are so large that one statement has no time for all of them.
func (t *Table) draw(ctx context.Context, s *catalog, m moment, dependent int64, ends span, keys []key.Key) (found tried, err error) {
	drawn := &drawing{is: map[uuid]bool{}}
	pieces := s.drawPieces(dependent, ends)
	if s.small {
		found, err = t.scan(ctx, s, m, pieces, keys, untimed, drawn)
		t.sample = drawn.ids()
		return found, err
	}
	err = t.each(ctx, m, pieces, func(ctx context.Context, _ int, c *pgconn.PgConn, p piece) error {
		return t.runAt(ctx, c, m, 1, "select id from "+p.from+" where "+p.where, p.params, func(v [][]byte) error {
			_, err := drawn.first(v[0])
			return err
		})
	})
	if err != nil {
		return found, err
	}
	t.sample = drawn.ids()
	return t.scan(ctx, s, m, s.samplePieces(t.sample, dependent), keys, untimed, nil)
}

// drawPieces chooses dependent rows: the one written first and the one written last, of every
// tenant the first and the last by name, and others at random. A row may be in several of
// these pieces.
func (s *catalog) drawPieces(dependent int64, ends span) []piece {
	which, rows := s.dependent(), "select * from "+s.table+" where "
	edge := func(order string) string {
		return "(" + rows + "username = t.name and " + which + " order by name " + order + " limit 1)"
	}
	// What was written first is mostly where the table begins, and what was written last
	// where it grows. To look there first spares a look at everything, which even a limit of
	// one row does not end early where the server's workers share it.
	written := func(parameter, mostly string) string {
		anywhere := rows + "updated_at = " + parameter + " and " + which
		if s.version < tidRangeScan {
			return "(" + anywhere + " limit 1)"
		}
		return fmt.Sprintf("(select * from ((%s and ctid %s) union all (%s)) n limit 1)", anywhere, mostly, anywhere)
	}
	hundredth := s.blocks/100 + 1
	return []piece{
		{from: fmt.Sprintf("%s tablesample bernoulli (%g)", s.table, min(100, 100*sampleFill/float64(dependent))), where: which},
		// One tenant after the other, by the index that the daemon reads them by.
		{from: "(with recursive t(name) as ((select username from " + s.table + " order by username limit 1) union all" +
			" select (select username from " + s.table + " where username > t.name order by username limit 1) from t where t.name is not null)" +
			" select r.* from t cross join lateral (" + edge("asc") + " union all " + edge("desc") + ") r) tenants", where: "true"},
		{from: "(" + written("$1", fmt.Sprintf("< '(%d,0)'", hundredth)) + " union all " + written("$2", fmt.Sprintf(">= '(%d,0)'", max(0, s.blocks-hundredth))) + ") ends",
			where: "true", params: [][]byte{timestamp(ends.from), timestamp(ends.to)}},
	}
}

// samplePieces cuts a sample of so many dependent rows for fetching by id: what pieceBytes
// allows, where the rows have their mean size, and something for every session.
func (s *catalog) samplePieces(sample []uuid, dependent int64) []piece {
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
