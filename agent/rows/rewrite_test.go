package rows_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

func rewrite(t *testing.T, d *rowstest.Database, o rows.RewriteOptions) (rows.RewriteResult, error) {
	t.Helper()
	table := open(t, d.URL(), rows.Options{})
	defer table.Close()
	r, err := table.Rewrite(context.Background(), o)
	quiet(t, r, err)
	return r, err
}

// secrets opens the table with code that has nothing in common with the engine's.
func secrets(t *testing.T, d *rowstest.Database, keys ...key.Key) map[string]rowstest.Secret {
	t.Helper()
	s, err := d.Secrets(keys...)
	must(t, err)
	return s
}

// state is every row of the table to the last byte.
func state(t *testing.T, d *rowstest.Database) string {
	t.Helper()
	r, err := d.Exec("select coalesce(string_agg(s::text, E'\\n' order by id), '') from secrets s")
	must(t, err)
	return r[0][0]
}

// content is every row of every table to the last byte, and where every sequence stands, as
// pg_dump(1) would have it, which is dear for a test of many databases.
func content(t *testing.T, d *rowstest.Database) (all string) {
	t.Helper()
	tables, err := d.Exec("select format('%I.%I', schemaname, tablename) from pg_tables where schemaname not in ('pg_catalog', 'information_schema') order by 1")
	must(t, err)
	for _, table := range tables {
		list, err := d.Exec("select coalesce(string_agg(r::text, E'\\n' order by r::text), '') from " + table[0] + " r")
		must(t, err)
		all += table[0] + "\n" + list[0][0] + "\n"
	}
	sequences, err := d.Exec("select format('%I.%I %s', schemaname, sequencename, last_value) from pg_sequences order by 1")
	must(t, err)
	for _, sequence := range sequences {
		all += sequence[0] + "\n"
	}
	return all
}

// unchanged fails unless every row is what it was.
func unchanged(t *testing.T, d *rowstest.Database, was string) {
	t.Helper()
	if now := state(t, d); now != was {
		t.Errorf("the rows are\n%s\n\nand were\n\n%s", now, was)
	}
}

// under is what the table should be when the rows that one of the keys opens are under
// target: the same, but for the key.
func under(before map[string]rowstest.Secret, target key.Key) map[string]rowstest.Secret {
	after := maps.Clone(before)
	for name, s := range before {
		if s.Key != "" {
			s.Key = target.Fingerprint()
			after[name] = s
		}
	}
	return after
}

func compare(t *testing.T, got, want map[string]rowstest.Secret) {
	t.Helper()
	for name, s := range want {
		if got[name] != s {
			t.Errorf("%q is %+v, not %+v", name, got[name], s)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d rows, not %d", len(got), len(want))
	}
}

// TestRewrite brings every kind of row that the daemon ever wrote under a new key.
func TestRewrite(t *testing.T) {
	a, b, _ := rowstest.Vectors()
	target := key.Generate()
	odd := strings.Repeat("\t'\"\\ \u00e9\u4e16", 20)
	for _, c := range []struct {
		name    string
		old     bool // table
		prepare func(d *rowstest.Database) error
		keys    []key.Key
		want    rows.RewriteResult
	}{
		{name: "empty table"},
		{name: "empty old table", old: true},
		{
			name:    "every vector",
			prepare: func(d *rowstest.Database) error { return d.InsertVectors(nil) },
			keys:    []key.Key{b, target, a, {}},
			want: rows.RewriteResult{
				Counts: rows.Counts{Legacy: 10, InProc: 2, External: 3}, Rewritten: 8, Rewrapped: 2, Unopenable: 2,
				ByKey: map[key.Fingerprint]int64{a.Fingerprint(): 8, b.Fingerprint(): 2},
				Left:  []rows.RowName{{"alice", "STOLEN"}, {"mallory", "OPENAI_API_KEY"}},
			},
		},
		{
			name: "an old table", old: true,
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(a, odd, "A", []byte("x")), d.Upsert(a, "", "B", nil))
			},
			keys: []key.Key{b, a},
			want: rows.RewriteResult{
				Counts: rows.Counts{Legacy: 2}, Rewritten: 2, ByKey: map[key.Fingerprint]int64{a.Fingerprint(): 2},
			},
		},
		{
			name: "the largest values, and columns of others",
			prepare: func(d *rowstest.Database) error {
				return errors.Join(
					d.Admin(`alter table secrets add "my Column" jsonb default '{"a": 1}', add gone int; alter table secrets drop gone, drop created_at`),
					d.Upsert(a, "u", "BIG", []byte(strings.Repeat("x", 65536))),
					d.UpsertEnvelope(a, "u", "ENVELOPE", []byte(strings.Repeat("y", 65536))),
					d.Upsert(target, odd, "THERE", []byte("z")), d.UpsertEnvelope(target, odd, "THERE_TOO", nil))
			},
			keys: []key.Key{target, a},
			want: rows.RewriteResult{
				Counts: rows.Counts{Legacy: 2, InProc: 2}, Rewritten: 1, Rewrapped: 1, AlreadyUnder: 2,
				ByKey: map[key.Fingerprint]int64{a.Fingerprint(): 2, target.Fingerprint(): 2},
			},
		},
		{
			name:    "more than is read at once",
			prepare: func(d *rowstest.Database) error { return d.Fill(a, 0, 3000, 50, 1000) },
			keys:    []key.Key{a},
			want: rows.RewriteResult{
				Counts: rows.Counts{Legacy: 3000}, Rewritten: 3000, ByKey: map[key.Fingerprint]int64{a.Fingerprint(): 3000},
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := cluster.NewDatabase("")
			must(t, err)
			create := d.CreateTable
			if c.old {
				create = d.CreateOldTable
			}
			must(t, create(), d.Admin("create table bystander (a text); insert into bystander values ('stays')"))
			if c.prepare != nil {
				must(t, c.prepare(d))
			}
			before := secrets(t, d, a, b, target)
			was := state(t, d)
			rest, err := d.Dump("--exclude-table-data=secrets")
			must(t, err)

			o := rows.RewriteOptions{Target: target, Keys: c.keys, LeaveUnopenable: true}
			for _, o.DryRun = range []bool{true, false} {
				r, err := rewrite(t, d, o)
				if err != nil {
					t.Fatal(err)
				}
				if c.want.ByKey == nil {
					c.want.ByKey = map[key.Fingerprint]int64{}
				}
				want := c.want
				want.Elapsed = r.Elapsed
				if !reflect.DeepEqual(r, want) {
					t.Errorf("dry %v: %+v, not %+v", o.DryRun, r, want)
				}
				if o.DryRun {
					unchanged(t, d, was)
				}
			}
			compare(t, secrets(t, d, target), under(before, target))
			now, err := d.Dump("--exclude-table-data=secrets")
			must(t, err)
			if now != rest {
				t.Errorf("the rest of the database changed:\n%s\n\nwas\n\n%s", now, rest)
			}
			noSession(t, d)
		})
	}
}

// TestRewriteCut ends the connection at every statement of a rewrite, before the server
// is given it, and after it has executed it and nobody is told. Either way the rows are
// all old or all new, and which is known but for a commit that was not answered.
func TestRewriteCut(t *testing.T) {
	d := cluster.Database(t)
	now, next := key.Generate(), key.Generate()
	must(t, d.Upsert(now, "a", "LEGACY", []byte("one")), d.UpsertEnvelope(now, "b", "ENVELOPE", []byte("two")),
		d.Fill(now, 0, 300, 4, 1800)) // more than is written at once
	wire := cluster.Wire(t)
	table := open(t, wire.URL(d.Name), rows.Options{})
	cuts, unanswered := 0, map[bool]int{}
	for _, executed := range []bool{false, true} {
		for at := 1; ; at++ {
			statement, cut := "", make(chan string, 1)
			wire.Restart(func(number int, text string, answered bool) bool {
				if number != at || answered != executed {
					return true
				}
				cut <- text
				return false
			})
			before := secrets(t, d, now)
			_, err := table.Rewrite(context.Background(), rows.RewriteOptions{Target: next, Keys: []key.Key{now}})
			select {
			case statement = <-cut:
			default:
			}
			done := err == nil
			switch {
			case errors.Is(err, rows.ErrUnanswered):
				if statement != "commit" {
					t.Errorf("cut at %q: %v", statement, err)
				}
				done = executed
				unanswered[executed]++
			case err != nil && !errors.Is(err, rows.ErrLost):
				t.Errorf("cut at %q: %v", statement, err)
			case statement != "" && done && statement != "rollback":
				t.Errorf("cut at %q: no error", statement)
			}
			if done {
				before = under(before, next)
			}
			compare(t, secrets(t, d, now, next), before)
			if done {
				now, next = next, key.Generate()
			}
			if statement == "" {
				break // it was over before
			}
			cuts++
		}
	}
	if cuts < 22 || unanswered[false] != 1 || unanswered[true] != 1 {
		t.Errorf("cut %d times, %d and %d of them at the commit", cuts, unanswered[false], unanswered[true])
	}
	noSession(t, d)
}

// TestRewriteKept goes on over the session of a proof, and over a new one where the server
// ended that in between.
func TestRewriteKept(t *testing.T) {
	d := cluster.Database(t)
	now, next := key.Generate(), key.Generate()
	must(t, d.Upsert(now, "a", "LEGACY", []byte("one")))
	before := secrets(t, d, now)
	other, err := d.Session()
	must(t, err)
	daemon, err := other.Exec("select pg_backend_pid()::text")
	must(t, err)
	table := open(t, d.URL(), rows.Options{})
	sessions := func() (pids string) {
		r, err := d.Exec("select coalesce(string_agg(pid::text, ' '), '') from pg_stat_activity where datname = current_database() and application_name = 'keyguard'")
		must(t, err)
		return r[0][0]
	}
	prove := func() {
		t.Helper()
		if a := table.Prove(context.Background(), now); a.State != rows.Answered {
			t.Fatal(a.Err)
		}
	}
	alone := func() {
		t.Helper()
		others, err := table.OtherClients(context.Background())
		must(t, err)
		is := func(c rows.Client) bool { return c.PID == daemon[0][0] }
		ours := func(c rows.Client) bool { return c.Application == "keyguard" }
		if !slices.ContainsFunc(others, is) || slices.ContainsFunc(others, ours) {
			t.Errorf("%v, and not %s", others, daemon[0][0])
		}
	}
	end := func() {
		t.Helper()
		must(t, d.Admin("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '"+d.Name+"' and application_name = 'keyguard'"))
	}
	prove()
	one := sessions()
	alone()
	prove()
	if s := sessions(); s != one || strings.Contains(s, " ") {
		t.Errorf("sessions %q, and then %q", one, s)
	}
	end()
	alone()
	end()
	prove()
	rewrite := func() (during string) {
		t.Helper()
		_, err := table.Rewrite(context.Background(), rows.RewriteOptions{Target: next, Keys: []key.Key{now},
			BeforeCommit: func(context.Context, rows.RewriteResult) error { during = sessions(); return nil }})
		must(t, err)
		compare(t, secrets(t, d, next), under(before, next))
		now, next = next, key.Generate()
		return during
	}
	rewrite()
	// The session over which it was asked whether it may, writes.
	must(t, table.MayRewrite(context.Background()))
	two := sessions()
	if during := rewrite(); during != two || strings.Count(two, " ") != 1 {
		t.Errorf("sessions %q, and then %q", two, during)
	}
	// Either of them may be lost meanwhile, and both.
	for _, whom := range []string{"pid = ", "pid <> ", "0 <> "} {
		prove()
		whom += sessions()
		must(t, table.MayRewrite(context.Background()))
		must(t, d.Admin("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '"+d.Name+"' and application_name = 'keyguard' and "+whom))
		rewrite()
	}
	must(t, other.Close())
	noSession(t, d)
}

// TestGenerated is a column that the server makes of what is rewritten.
func TestGenerated(t *testing.T) {
	d := cluster.Database(t)
	now, next := key.Generate(), key.Generate()
	must(t, d.Admin("alter table secrets add text text generated always as (encode(ciphertext, 'hex')) stored"))
	must(t, d.Upsert(now, "a", "LEGACY", []byte("one")))
	table := open(t, d.URL(), rows.Options{})
	if _, err := table.Rewrite(t.Context(), rows.RewriteOptions{Target: next, Keys: []key.Key{now}}); err != nil {
		t.Error(err)
	}
	if a := table.Prove(t.Context(), next); a.Proofs[0].Opened != 1 {
		t.Errorf("%+v", a)
	}
}

// TestIdleSession is a server that ends sessions which wait for longer than the daemon takes to
// stop.
func TestIdleSession(t *testing.T) {
	t.Parallel() // it waits
	d := cluster.Database(t)
	must(t, d.Admin("alter database "+d.Name+" set idle_session_timeout = '2s'"))
	must(t, d.Upsert(key.Generate(), "a", "LEGACY", nil))
	table := open(t, d.URL(), rows.Options{})
	if a := table.Prove(t.Context(), key.Generate()); a.State != rows.Answered {
		t.Fatal(a.Err)
	}
	for left := "?"; left != "0"; {
		r, err := d.Exec("select count(*)::text from pg_stat_activity, pg_sleep(0.1) where datname = current_database() and application_name = 'keyguard'")
		must(t, err)
		left = r[0][0]
	}
	if _, err := table.OtherClients(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestRewriteTakesItsTime reads the old rows for longer than a proof's statement may take.
func TestRewriteTakesItsTime(t *testing.T) {
	t.Parallel() // it waits
	d := cluster.Database(t)
	now := key.Generate()
	must(t, d.Fill(now, 0, 300, 1, 64<<10)) // more than waits in sockets and buffers
	limit := 3 * time.Second                // for what else it asks
	table := open(t, d.URL(), rows.Options{StatementTimeout: limit})
	slow := sync.OnceFunc(func() { <-time.After(2 * limit) }) // nobody reads meanwhile
	_, err := table.Rewrite(context.Background(), rows.RewriteOptions{Target: key.Generate(), Keys: []key.Key{now}, Progress: func(p rows.RewriteProgress) {
		if p.Step == rows.Resealing && p.Done > 0 {
			slow()
		}
	}})
	must(t, err)
	noSession(t, d)
}

// TestRewriteWaits has what reads take longer than the server bears a transaction of which it
// hears nothing, with nothing to write meanwhile.
func TestRewriteWaits(t *testing.T) {
	t.Parallel() // it waits
	d := cluster.Database(t)
	now, next := key.Generate(), key.Generate()
	must(t, d.Upsert(now, "a", "LEGACY", []byte("one")))
	before := secrets(t, d, now)
	wire := cluster.Wire(t)
	idle, heard := 4*time.Second, make(chan struct{}, 1000)
	var waiting atomic.Bool
	wire.Restart(func(_ int, _ string, answered bool) bool {
		if answered && waiting.Load() { // all that is answered now is that the writer is still here
			heard <- struct{}{}
		}
		return true
	})
	slow := func(p rows.RewriteProgress) {
		if p.Step != rows.Resealing || p.Done > 0 {
			return
		}
		waiting.Store(true)
		defer waiting.Store(false)
		for range 10 { // an eighth of what the server bears after another
			select {
			case <-heard:
			case <-time.After(3 * idle):
				t.Error("the server hears nothing of the transaction")
				return
			}
		}
	}
	table := open(t, wire.URL(d.Name), rows.Options{})
	_, err := table.Rewrite(context.Background(), rows.RewriteOptions{Target: next, Keys: []key.Key{now}, Idle: idle, Silence: time.Hour, Progress: slow})
	must(t, err)
	compare(t, secrets(t, d, next), under(before, next))
	noSession(t, d)
}

// TestRewriteInVain has the server end the writer's session when rows stand in the way: what
// is told are the rows.
func TestRewriteInVain(t *testing.T) {
	d := cluster.Database(t)
	must(t, d.Upsert(key.Generate(), "a", "LOST", []byte("one")))
	was := state(t, d)
	table := open(t, d.URL(), rows.Options{})
	r, err := table.Rewrite(context.Background(), rows.RewriteOptions{Target: key.Generate(), Progress: func(p rows.RewriteProgress) {
		if p.Step == rows.Resealing && p.Done == p.Total {
			must(t, d.Admin("select pg_terminate_backend(pid, 5000) from pg_locks where relation = 'secrets'::regclass and mode = 'ExclusiveLock'"))
		}
	}})
	if !errors.Is(err, rows.ErrUnopenable) || r.Unopenable != 1 {
		t.Errorf("%v, %+v", err, r)
	}
	unchanged(t, d, was)
	noSession(t, d)
}

// TestRewriteOtherTable has another table of that name come before the daemon's when the
// rewrite has seen the one and not yet locked it.
func TestRewriteOtherTable(t *testing.T) {
	d := cluster.Database(t)
	now := key.Generate()
	must(t, d.Upsert(now, "a", "LEGACY", []byte("one")))
	was := state(t, d)
	wire := cluster.Wire(t)
	wire.Restart(func(_ int, text string, answered bool) bool {
		if strings.HasPrefix(text, "select count(*)") && !answered { // the lock goes along with it
			err := d.Admin("create schema containarium authorization containarium; create table containarium.secrets (like public.secrets); alter table containarium.secrets owner to containarium")
			if err != nil {
				t.Error(err)
			}
		}
		return true
	})
	table := open(t, wire.URL(d.Name), rows.Options{})
	_, err := table.Rewrite(context.Background(), rows.RewriteOptions{Target: key.Generate(), Keys: []key.Key{now}})
	if !errors.Is(err, rows.ErrConcurrent) || !strings.Contains(err.Error(), "the table was public.secrets, and is containarium.secrets") {
		t.Error(err)
	}
	must(t, d.Admin("drop schema containarium cascade"))
	unchanged(t, d, was)
	noSession(t, d)
}

// TestRowsError names ten rows, and says that there are others only where there are.
func TestRowsError(t *testing.T) {
	for n, others := range map[int]bool{1: false, 10: false, 11: true} {
		e := &rows.RowsError{Kind: rows.ErrUnopenable, Count: int64(n), Rows: make([]rows.RowName, n)}
		text := e.Error()
		if !errors.Is(e, rows.ErrUnopenable) || strings.HasSuffix(text, " and others") != others || strings.Count(text, `""`) != min(n, 10) {
			t.Errorf("%d: %s", n, text)
		}
	}
}

// TestRewriteFails is everything that keeps a rewrite from being done, and that nothing
// was changed then.
func TestRewriteFails(t *testing.T) {
	a, b, _ := rowstest.Vectors()
	trigger := func(when, body string) func(*testing.T, *rowstest.Database) {
		return func(t *testing.T, d *rowstest.Database) {
			must(t, d.Admin(`create function meddle() returns trigger language plpgsql as $$ begin `+body+` end $$;
				create trigger meddler `+when+` on secrets for each row execute function meddle()`))
		}
	}
	deferred := func(body string) func(*testing.T, *rowstest.Database) {
		return func(t *testing.T, d *rowstest.Database) {
			must(t, d.Admin(`create function meddle() returns trigger language plpgsql as $$ begin `+body+` end $$;
				create constraint trigger meddler after update on secrets deferrable initially deferred
				for each row when (pg_trigger_depth() = 0) execute function meddle()`))
		}
	}
	admin := func(sql string) func(*testing.T, *rowstest.Database) {
		return func(t *testing.T, d *rowstest.Database) { must(t, d.Admin(strings.ReplaceAll(sql, "DB", d.Name))) }
	}
	stop := errors.New("the ledger says something else")
	for _, c := range []struct {
		name    string
		prepare func(*testing.T, *rowstest.Database)
		holds   []string // what another session has done, and is not done with
		options rows.RewriteOptions
		url     func(*rowstest.Database) string
		err     error
		says    string
	}{
		{name: "a writer", holds: []string{"begin", "update secrets set version = 7"}, err: rows.ErrLocked},
		{name: "a row that is locked", holds: []string{"begin", "select from secrets for key share"}, err: rows.ErrLocked},
		{name: "the daemon's start", holds: []string{"begin", "alter table secrets add if not exists delivery text"}, err: rows.ErrLocked},
		{name: "a start that settles", holds: []string{fmt.Sprintf("select pg_advisory_lock_shared(%d)", rows.AdvisoryLock)}, err: rows.ErrRotationHolds},
		{name: "another rewrite", holds: []string{"begin", fmt.Sprintf("select pg_advisory_xact_lock(%d)", rows.AdvisoryLock)}, err: rows.ErrRotationHolds},
		{name: "read only", prepare: admin("alter database DB set default_transaction_read_only = on"), err: rows.ErrReadOnly},
		{name: "may read only", err: rows.ErrDenied,
			prepare: admin("alter table secrets owner to postgres; grant select on secrets to containarium")},
		{name: "a full disk", err: rows.ErrDiskFull,
			prepare: trigger("after update", "raise 'could not extend file: hunter2' using errcode = '53100';")},
		{name: "a row that changes by itself", err: rows.ErrConcurrent, says: "1 of 2",
			prepare: trigger("before update", "if new.username = 'a' then return null; end if; return new;")},
		{name: "another column changes", err: rows.ErrReadBack, says: "not only their encryption",
			prepare: trigger("before update", "new.updated_at = now(); return new;")},
		{name: "no wrapped key becomes an empty one", err: rows.ErrReadBack, says: "not only their encryption",
			prepare: trigger("before update", "if new.wrapped_dek is null then new.wrapped_dek = ''; end if; return new;")},
		{name: "what is written is lost", err: rows.ErrReadBack, says: "1 of 2",
			prepare: trigger("before update", "if new.username = 'a' then return old; end if; return new;")},
		{name: "a row comes back as another's", err: rows.ErrReadBack, says: "1 of 2",
			prepare: trigger("before update", "if new.username = 'a' then new.username = 'z'; end if; return new;")},
		{name: "a trigger that refuses at the commit, in a dry run", err: rows.ErrDiskFull, options: rows.RewriteOptions{DryRun: true},
			prepare: deferred("raise 'could not extend file: hunter2' using errcode = '53100';")},
		{name: "what is written is lost at the commit", err: rows.ErrReadBack, says: "0 of 2",
			prepare: deferred("update secrets set nonce = old.nonce, ciphertext = old.ciphertext, wrapped_dek = old.wrapped_dek where id = new.id; return null;")},
		{name: "a row that no key opens", err: rows.ErrUnopenable, says: `: 1, of tenant and name "o'hara" THERE`,
			prepare: func(t *testing.T, d *rowstest.Database) { must(t, d.Upsert(b, "o'hara", "THERE", nil)) }},
		{name: "rows of an unknown class", err: rows.ErrUnknownClass, says: `: 11, of tenant and name "" M0, "" M1, `,
			options: rows.RewriteOptions{LeaveUnopenable: true},
			prepare: func(t *testing.T, d *rowstest.Database) {
				for i := range 11 {
					must(t, d.Insert(rowstest.Vector{Name: fmt.Sprintf("M%d", i), Nonce: make([]byte, 12), WrappedDEK: []byte("?"), Ciphertext: make([]byte, 16)}))
				}
			}},
		{name: "not wanted any more", err: stop,
			options: rows.RewriteOptions{BeforeCommit: func(context.Context, rows.RewriteResult) error { return stop }}},
		{name: "out of time", err: rows.ErrTimeout, options: rows.RewriteOptions{Timeout: 300 * time.Millisecond},
			prepare: trigger("before update", "perform pg_sleep(60); return new;")},
		{name: "no table", err: rows.ErrNoTable, prepare: admin("drop table secrets")},
		{name: "another table", err: rows.ErrOtherTable, prepare: admin("alter table secrets rename to other")},
		{name: "nothing listens", err: rows.ErrNotListening,
			url: func(*rowstest.Database) string { return "postgres://u:hunter2@127.0.0.1:1/d?sslmode=disable" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := cluster.Database(t)
			must(t, d.Upsert(a, "a", "LEGACY", []byte("one")), d.UpsertEnvelope(a, "b", "ENVELOPE", []byte("two")))
			_, err := d.Exec("create sequence numbers") // which no rollback takes back
			must(t, err)
			if c.prepare != nil {
				c.prepare(t, d)
			}
			was := content(t, d)
			other, err := d.Session()
			must(t, err)
			for _, sql := range c.holds {
				_, err := other.Exec(sql)
				must(t, err)
			}
			o := c.options
			o.Target, o.Keys, o.LockTimeout = key.Generate(), []key.Key{a}, 100*time.Millisecond
			url := d.URL()
			if c.url != nil {
				url = c.url(d)
			}
			table := open(t, url, rows.Options{})
			_, err = table.Rewrite(context.Background(), o)
			quiet(t, err)
			must(t, other.Close())
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, not %v with %q", err, c.err, c.says)
			}
			if now := content(t, d); now != was {
				t.Errorf("the database changed:\n%s\n\nwas\n\n%s", now, was)
			}
			noSession(t, d)
		})
	}
}
