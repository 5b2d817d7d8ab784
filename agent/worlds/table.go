package worlds

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/worlds/laws"
)

// table is the ciphertext of one host's daemon: which key each row is under.
type table struct {
	rows    map[string]key.Fingerprint // by name
	version int                        // of all that is in it
	dumps   []map[string]key.Fingerprint
	// rewritten is the key under which keyguard brought the rows last.
	rewritten key.Fingerprint

	down     bool
	slow     time.Duration
	noTable  bool // a dump is about to be loaded
	external int64
}

// answers tells that nothing keeps the rows from answering.
func (t *table) answers() bool { return !t.down && !t.noTable && t.slow <= 3*time.Second }

func (t *table) write(name string, f key.Fingerprint) {
	t.rows[name] = f
	t.version++
}

// dump is what pg_dump takes.
func (t *table) dump() {
	t.dumps = append(t.dumps, maps.Clone(t.rows))
}

// load brings a dump back.
func (t *table) load(n int) {
	t.rows = maps.Clone(t.dumps[n])
	t.version++
}

// opens counts the rows that a key opens.
func (t *table) opens(f key.Fingerprint) int64 {
	var n int64
	for _, under := range t.rows {
		if under == f {
			n++
		}
	}
	return n
}

// session is the table as one process asks it.
type session struct {
	*table
	p *process
}

func (s session) answer(ctx context.Context, call string) error {
	if err := s.p.effect("Postgres", call); err != nil {
		return errors.Join(rows.ErrNotListening, err)
	}
	if s.slow > 0 {
		select {
		case <-time.After(s.slow):
		case <-ctx.Done():
		}
	}
	switch {
	case ctx.Err() != nil:
		return errors.Join(rows.ErrTimeout, ctx.Err())
	case s.down:
		return rows.ErrNotListening
	case s.noTable:
		return rows.ErrNoTable
	case !s.answers(): // the statement's timeout
		return rows.ErrTimeout
	}
	return nil
}

func (s session) Prove(ctx context.Context, keys ...key.Key) rows.Answer {
	if err := s.answer(ctx, "prove"); err != nil {
		return rows.NoAnswer(err, keys...)
	}
	a := rows.Answer{State: rows.Answered, Counts: rows.Counts{Legacy: int64(len(s.rows)), External: s.external}}
	if len(s.rows) == 0 {
		a.State, a.Why = rows.Silent, "no row depends on the key"
	}
	s.p.looked, s.p.seen = true, maps.Clone(s.rows)
	for _, k := range keys {
		f := laws.Name(k.UnsafeBytes())
		p := rows.Proof{Fingerprint: f, Verdict: rows.Silent}
		if len(s.rows) > 0 {
			p = rows.Proof{Fingerprint: f, Verdict: rows.Partial, Checked: int64(len(s.rows)), Opened: s.opens(f)}
			switch p.Opened {
			case 0:
				p.Verdict = rows.Refuted
			case p.Checked:
				p.Verdict = rows.Opens
			}
			if 2*p.Opened > p.Checked {
				s.p.w.opens(s.p.h, f)
			}
		}
		a.Proofs = append(a.Proofs, p)
	}
	return a
}

func (s session) OtherClients(ctx context.Context) ([]rows.Client, error) {
	return nil, s.answer(ctx, "who is connected")
}

func (s session) Close() {}

// Rewrite is all or nothing, as a transaction is; only its answer may be lost.
func (s session) Rewrite(ctx context.Context, o rows.RewriteOptions) (rows.RewriteResult, error) {
	result := rows.RewriteResult{ByKey: map[key.Fingerprint]int64{}, Counts: rows.Counts{Legacy: int64(len(s.rows)), External: s.external}}
	if err := s.answer(ctx, "begin"); err != nil {
		return result, err
	}
	may := map[key.Fingerprint]bool{o.Target.Fingerprint(): true}
	for _, k := range o.Keys {
		may[k.Fingerprint()] = true
	}
	after := maps.Clone(s.rows)
	for _, name := range slices.Sorted(maps.Keys(s.rows)) {
		under := s.rows[name]
		switch {
		case under == o.Target.Fingerprint():
			result.AlreadyUnder++
		case may[under]:
			result.Rewritten++
		case o.LeaveUnopenable:
			result.Unopenable++
			continue
		default:
			return result, rows.ErrUnopenable
		}
		result.ByKey[under]++
		after[name] = o.Target.Fingerprint()
	}
	if o.DryRun {
		return result, nil
	}
	if o.BeforeCommit != nil {
		if err := o.BeforeCommit(ctx, result); err != nil {
			return result, err
		}
	}
	if err := s.p.effect("Postgres", "commit"); err != nil {
		return result, errors.Join(rows.ErrUnanswered, err)
	}
	h := s.p.h
	s.p.w.hold(laws.Rewritten(s.p.w.state(h), slices.Collect(maps.Values(h.disk.survivors())), o.Target.Fingerprint(), slices.Sorted(maps.Keys(result.ByKey))))
	s.table.rows, s.rewritten = after, o.Target.Fingerprint()
	s.version++
	if result.Unopenable == 0 { // before its commit a rewrite opens every row with the target
		s.p.w.opens(h, o.Target.Fingerprint())
	}
	if err := s.p.effect("Postgres", "the answer to the commit"); err != nil {
		return result, errors.Join(rows.ErrUnanswered, err)
	}
	return result, nil
}

func (s session) MayRewrite(ctx context.Context) error { return s.answer(ctx, "may I write") }
