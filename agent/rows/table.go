package rows

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// AdvisoryLock is the lock of pg_advisory_lock(bigint) that a rotation holds,
// exclusively, for the length of its transaction: "keyguard" in ASCII. Who settles a
// rotation takes it shared.
const AdvisoryLock int64 = 0x6b65796775617264

// Options bound a proof. The zero value is what prestart uses.
type Options struct {
	ConnectTimeout   time.Duration // 0: 2 s
	StatementTimeout time.Duration // 0: 3 s, for each statement, in the server and here
	LockTimeout      time.Duration // 0: 1 s
	// Full checks every row, however many there are, and names those that no key opens.
	Full bool
	// HoldRotationLock takes AdvisoryLock for each proof: not free is Unknown, as the rotation's
	// transaction may still commit.
	HoldRotationLock bool
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
	// What goes over its sessions is counted, but for those of unwatched.
	unwatched *pgconn.Config
	pulse     pulse

	mu     sync.Mutex // one call at a time; guards what follows
	conn   *pgconn.PgConn
	beside *pgconn.PgConn // another, which MayRewrite leaves to Rewrite
	alone  bool           // the server has no other session for us
	sample []uuid         // nil until needed
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
		f := pgproto3.NewFrontend(&unasked{from: r}, w)
		f.SetMaxBodyLen(largestAnswer)
		return f
	}
	t.unwatched = config
	t.config = config.Copy()
	t.config.DialFunc = t.pulse.over(config.DialFunc)
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
// A table too large for one statement is read in pieces, all of one snapshot, so that "all
// rows" was true of one moment. Where the table's file was exchanged meanwhile that snapshot
// shows it empty, and the answer is Unknown (ErrChanging).
func (t *Table) Prove(ctx context.Context, keys ...key.Key) Answer {
	if t.place.Absent {
		return flat(Answer{State: Silent, Why: t.place.Why, Never: t.place.Never}, keys)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var a Answer
	err := t.over(ctx, func() (err error) { a, err = t.prove(ctx, keys); return err })
	if err != nil {
		return NoAnswer(fmt.Errorf("%s: %w", place(t.config), err), keys...)
	}
	return a
}

func (t *Table) prove(ctx context.Context, keys []key.Key) (Answer, error) {
	s, err := t.readCatalog(ctx, t.conn)
	if err != nil {
		return Answer{}, err
	}
	a, err := t.read(ctx, s, keys)
	if err == nil && a.Counts.Dependent() == 0 {
		a, err = t.silence(ctx, s, a, keys)
	}
	a.Unlogged = s.unlogged
	return a, err
}

// read asks the table. Where it is too large for one statement, or a rotation's lock is to be
// held, a transaction keeps one snapshot for all statements meanwhile (hold, release).
func (t *Table) read(ctx context.Context, s *catalog, keys []key.Key) (Answer, error) {
	pieces := s.pieces()
	// Every row is asked for by somebody who waits for it, and no start is (law 9).
	patience := time.Duration(0)
	if t.options.Full {
		patience = time.Duration(s.blocks/patienceBlocks) * time.Second
	}
	if len(pieces) == 1 && !t.options.HoldRotationLock {
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

// ask reads the table.
func (t *Table) ask(ctx context.Context, s *catalog, m moment, pieces []piece, keys []key.Key) (a Answer, err error) {
	var found tried
	var ends span
	if s.few || t.options.Full {
		found, err = t.scan(ctx, s, m, pieces, keys, untimed, nil)
	} else {
		found.counts, ends, err = t.count(ctx, s, m)
	}
	if err != nil {
		return a, err
	}
	a = Answer{State: Answered, Counts: found.counts}
	switch dependent := a.Counts.Dependent(); {
	case dependent == 0 || len(keys) == 0:
	case found.opened != nil:
		a.Proofs = judge(keys, dependent, found.opened)
		if t.options.Full {
			a.Unopened, err = t.unopened(ctx, s, m, pieces, keys, found)
		}
	case dependent <= checkAll:
		if found, err = t.scan(ctx, s, m, pieces, keys, untimed, nil); err != nil {
			return a, err
		}
		if found.counts.Dependent() != dependent { // in one snapshot two counts are equal: somebody makes the answers up
			return a, errForm
		}
		a.Proofs = judge(keys, dependent, found.opened)
	default:
		a.Sampled = true
		if t.sample != nil {
			if found, err = t.scan(ctx, s, m, s.samplePieces(t.sample, dependent), keys, untimed, nil); err != nil {
				return a, err
			}
		}
		// None was drawn yet, or these rows are all gone.
		if t.sample == nil || found.counts.Dependent() == 0 {
			if found, err = t.draw(ctx, s, m, dependent, ends, keys); err != nil {
				return a, err
			}
		}
		checked := found.counts.Dependent()
		if checked == 0 {
			return a, errForm
		}
		a.Proofs = judge(keys, checked, found.opened)
	}
	return a, err
}

// silence refuses to be said of a table that need not be the daemon's only one, whose rows
// are not all understood, or may not all be there yet.
func (t *Table) silence(ctx context.Context, s *catalog, a Answer, keys []key.Key) (Answer, error) {
	err := error(nil)
	switch {
	case a.Counts.Unknown > 0:
		return a, fmt.Errorf("%w: %d", ErrUnknownClass, a.Counts.Unknown)
	case t.place.Rival != "":
		err = fmt.Errorf("%w: %s", ErrElsewhere, t.place.Rival)
	default:
		if err = t.coming(ctx, s); err == nil {
			err = t.elsewhere(ctx, t.conn, []byte(s.table))
		}
	}
	if err != nil {
		return a, fmt.Errorf("%s has no dependent row, but %w", s.table, err)
	}
	a.State, a.Why = Silent, "the table holds no secret"
	if n := a.Counts.External; n > 0 {
		a.Why = fmt.Sprintf("all secrets in the table, %d, are under an external KMS", n)
	}
	return flat(a, keys), nil
}
