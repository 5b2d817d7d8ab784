package rows_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

// cluster is shared by the tests that leave it as it was.
var cluster *rowstest.Cluster

func TestMain(m *testing.M) {
	// More of those that may go side by side wait than work: as many do on few processors, too. A
	// -parallel that somebody types counts more, since Run reads the flags after this.
	err := flag.Set("test.parallel", "8")
	code := 1
	if err == nil {
		code, err = withCluster(m.Run)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withCluster(run func() int) (code int, err error) {
	if cluster, err = rowstest.Start(""); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	return run(), nil
}

// open gives an answer that must come all the time that a busy machine takes for it.
func open(t *testing.T, url string, o rows.Options) *rows.Table {
	t.Helper()
	o.ConnectTimeout, o.StatementTimeout = cmp.Or(o.ConnectTimeout, time.Minute), cmp.Or(o.StatementTimeout, time.Minute)
	table, err := rows.Open(rows.Location{URL: url, From: "a test"}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(table.Close)
	return table
}

// ask proves over a session of its own.
func ask(t *testing.T, url string, o rows.Options, keys ...key.Key) rows.Answer {
	t.Helper()
	table := open(t, url, o)
	defer table.Close()
	return table.Prove(context.Background(), keys...)
}

// must stops the test that cannot prepare.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// noSession fails unless the database has no session of ours. One that was closed goes
// in the server's own time.
func noSession(t *testing.T, d *rowstest.Database) {
	t.Helper()
	var list []string
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var err error
		if list, err = d.Activity(); err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(list, func(s string) bool { return strings.HasPrefix(s, "keyguard") }) {
			return
		}
	}
	t.Errorf("sessions left behind: %q", list)
}

// quiet fails if the answer gives a password away, whichever way it is printed.
func quiet(t *testing.T, values ...any) {
	t.Helper()
	for _, v := range values {
		j, _ := json.Marshal(v)
		for _, text := range []string{fmt.Sprint(v), fmt.Sprintf("%+v", v), fmt.Sprintf("%#v", v), fmt.Sprintf("%q", v), string(j)} {
			for _, secret := range []string{rowstest.Password, "hunter2"} {
				if strings.Contains(text, secret) {
					t.Errorf("the password shows: %s", text)
				}
			}
		}
	}
}

// TestAnswers is law 6 for the rows: every condition of silence, the opposite of each,
// and every way of not having looked.
func TestAnswers(t *testing.T) {
	a, b, _ := rowstest.Vectors()
	external := func(v rowstest.Vector) bool { return strings.Contains(v.Case, "external") }
	one := rowstest.Vector{Username: "u", Name: "N", Nonce: make([]byte, 12), Ciphertext: make([]byte, 16)}
	strange := one
	strange.WrappedDEK = []byte("what is this")
	noNonce := one
	noNonce.Nonce = []byte{}

	for _, c := range []struct {
		name    string
		empty   bool // no table yet
		prepare func(d *rowstest.Database) error
		url     func(d *rowstest.Database) string
		state   rows.Verdict
		err     error
		proofA  rows.Proof // verdict and counts of key A
		why     string     // to be found in Why
	}{
		{name: "empty table", state: rows.Silent, why: "no secret"},
		{name: "empty old table", empty: true, state: rows.Silent,
			prepare: func(d *rowstest.Database) error { return d.CreateOldTable() }},
		{name: "external rows only", state: rows.Silent, why: "all secrets in the table, 3, are under an external KMS",
			prepare: func(d *rowstest.Database) error { return d.InsertVectors(external) }},
		{name: "unknown class", state: rows.Unknown, err: rows.ErrUnknownClass, why: "1",
			prepare: func(d *rowstest.Database) error { return d.Insert(strange) }},
		{name: "unknown class beside external ones", state: rows.Unknown, err: rows.ErrUnknownClass,
			prepare: func(d *rowstest.Database) error { return errors.Join(d.InsertVectors(external), d.Insert(strange)) }},
		{name: "unknown class beside dependent rows", state: rows.Answered,
			proofA: rows.Proof{Verdict: rows.Opens, Checked: 1, Opened: 1},
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(a, "x", "X", nil), d.Insert(strange))
			}},
		{name: "no table", empty: true, state: rows.Unknown, err: rows.ErrNoTable},
		{name: "table in another schema", state: rows.Unknown, err: rows.ErrOtherTable, why: "there is no table secrets on the search path, and the daemon's rows may be elsewhere, in another table: elsewhere.secrets",
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(a, "x", "X", nil), d.Admin("create schema elsewhere; alter table secrets set schema elsewhere; grant usage on schema elsewhere to containarium"))
			}},
		{name: "search_path to an empty one", state: rows.Unknown, err: rows.ErrOtherTable, why: "decoy.secrets has no dependent row, but the daemon's rows may be elsewhere, in another table: public.secrets",
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(a, "x", "X", nil),
					d.Admin("create schema decoy authorization containarium; create table decoy.secrets (like public.secrets including indexes); alter table decoy.secrets owner to containarium; alter role containarium in database "+d.Name+" set search_path = decoy, public"))
			}},
		{name: "search_path to the full one", state: rows.Answered,
			proofA: rows.Proof{Verdict: rows.Opens, Checked: 1, Opened: 1},
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(a, "x", "X", nil),
					d.Admin("create schema real authorization containarium; alter table secrets set schema real; create table public.secrets (like real.secrets); alter role containarium in database "+d.Name+" set search_path = real, public"))
			}},
		{name: "unrelated table of that name elsewhere", state: rows.Silent,
			prepare: func(d *rowstest.Database) error {
				return d.Admin("create schema other; create table other.secrets (pirate text, treasure text)")
			}},
		{name: "renamed, and a new one beside it", state: rows.Unknown, err: rows.ErrOtherTable, why: ": public.secrets_old",
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(a, "x", "X", nil), d.Admin("alter table secrets rename to secrets_old"), d.CreateTable())
			}},
		{name: "renamed", state: rows.Unknown, err: rows.ErrOtherTable, why: ", in another table: public.secrets_old",
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(a, "x", "X", nil), d.Admin("alter table secrets rename to secrets_old"))
			}},
		{name: "a copy whose rows are gone", state: rows.Silent,
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(a, "x", "X", nil), d.Admin("create table copy as table secrets; grant select on copy to containarium; delete from copy; delete from secrets"))
			}},
		{name: "a copy of external rows", state: rows.Silent,
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.InsertVectors(external), d.Admin("create table copy as table secrets; grant select on copy to containarium"))
			}},
		{name: "a copy from before they were external", state: rows.Unknown, err: rows.ErrOtherTable, why: ": public.copy",
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.InsertVectors(external), d.Admin("create table copy as table secrets; grant select on copy to containarium; update copy set wrapped_dek = null where name = (select min(name) from copy)"))
			}},
		{name: "an old copy", empty: true, state: rows.Unknown, err: rows.ErrOtherTable, why: ": public.copy",
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.CreateOldTable(), d.Upsert(a, "x", "X", nil), d.Admin("create table copy as table secrets; grant select on copy to containarium; delete from secrets"))
			}},
		{name: "a copy that cannot be read", state: rows.Unknown, err: rows.ErrOtherTable, why: "public.copy, which the role may not read",
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(a, "x", "X", nil), d.Admin("create table copy as table secrets; delete from secrets"))
			}},
		{name: "a copy in a schema that cannot be read", state: rows.Unknown, err: rows.ErrOtherTable, why: "closed.copy, which the role may not read",
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(a, "x", "X", nil), d.Admin("create schema closed; create table closed.copy as table secrets; grant select on closed.copy to containarium; delete from secrets"))
			}},
		{name: "a copy under row security", state: rows.Unknown, err: rows.ErrOtherTable, why: "public.copy, of which row security would hide rows",
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(a, "x", "X", nil), d.Admin("create table copy as table secrets; grant select on copy to containarium; alter table copy enable row level security; delete from secrets"))
			}},
		{name: "a copy that cannot be read, and never held a row", state: rows.Silent,
			prepare: func(d *rowstest.Database) error { return d.Admin("create table copy (like secrets)") }},
		{name: "a partition that was detached", state: rows.Unknown, err: rows.ErrOtherTable, why: ": public.part",
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(a, "x", "X", nil), d.Admin(`create table part () inherits (secrets); alter table part owner to containarium;
					with gone as (delete from only secrets returning *) insert into part select * from gone; alter table part no inherit secrets`))
			}},
		{name: "partitions of its own", state: rows.Silent,
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(a, "x", "X", nil), d.Admin(`create table part () inherits (secrets); create table part2 () inherits (part);
					insert into part2 select * from secrets; delete from secrets`)) // nobody but their owner may read these
			}},
		{name: "what was kept of it", state: rows.Unknown, err: rows.ErrOtherTable, why: ": public.kept",
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(a, "x", "X", nil), d.Admin("create materialized view kept as table secrets; grant select on kept to containarium; delete from secrets"))
			}},
		{name: "a foreign table", state: rows.Unknown, err: rows.ErrOtherTable, why: "public.far, a foreign table",
			prepare: func(d *rowstest.Database) error {
				return d.Admin("create foreign data wrapper w; create server s foreign data wrapper w; create foreign table far (username text, name text, nonce bytea, ciphertext bytea) server s")
			}},
		{name: "views of it", state: rows.Silent,
			prepare: func(d *rowstest.Database) error {
				return d.Admin(`create table plans (username text, plan text); create view planned as select s.*, plan from secrets s join plans using (username);
					create schema app; create view app.secrets as select * from planned`)
			}},
		{name: "a view of another", state: rows.Unknown, err: rows.ErrOtherTable, why: "app.secrets, a view",
			prepare: func(d *rowstest.Database) error {
				return d.Admin("create table vault (tenant text, key text, iv bytea, sealed bytea); create schema app; create view app.secrets as select tenant username, key as name, iv nonce, sealed ciphertext from vault")
			}},
		{name: "a view", state: rows.Unknown, err: rows.ErrShape,
			prepare: func(d *rowstest.Database) error {
				return d.Admin("alter table secrets rename to hidden; create view secrets as select * from hidden where false; grant all on secrets to containarium")
			}},
		{name: "a column is gone", state: rows.Unknown, err: rows.ErrShape, why: "ciphertext",
			prepare: func(d *rowstest.Database) error { return d.Admin("alter table secrets drop column ciphertext") }},
		{name: "row security with a policy", state: rows.Unknown, err: rows.ErrRowSecurity,
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(a, "x", "X", nil),
					d.Admin("alter table secrets owner to postgres; grant all on secrets to containarium; alter table secrets enable row level security; create policy nobody on secrets using (false)"))
			}},
		{name: "row security that does not bind the owner", state: rows.Silent,
			prepare: func(d *rowstest.Database) error { return d.Admin("alter table secrets enable row level security") }},
		{name: "forced row security", state: rows.Unknown, err: rows.ErrRowSecurity,
			prepare: func(d *rowstest.Database) error {
				return d.Admin("alter table secrets enable row level security; alter table secrets force row level security")
			}},
		{name: "denied", state: rows.Unknown, err: rows.ErrDenied, why: "permission denied",
			prepare: func(d *rowstest.Database) error { return d.Admin("alter table secrets owner to postgres") }},
		{name: "wrong password", state: rows.Unknown, err: rows.ErrPassword, why: "wrong password (from a test)",
			url: func(d *rowstest.Database) string { return strings.Replace(d.URL(), rowstest.Password, "hunter2", 1) }},
		{name: "no such role", state: rows.Unknown, err: rows.ErrPassword, // Postgres does not tell
			url: func(d *rowstest.Database) string { return strings.Replace(d.URL(), "//containarium", "//nobody", 1) }},
		{name: "not let in", state: rows.Unknown, err: rows.ErrDenied, why: "not permitted to log in",
			prepare: func(d *rowstest.Database) error {
				return d.Admin("create role locked nologin password '" + rowstest.Password + "'")
			},
			url: func(d *rowstest.Database) string { return strings.Replace(d.URL(), "//containarium", "//locked", 1) }},
		{name: "no database", state: rows.Unknown, err: rows.ErrNoDatabase, why: "nowhere",
			url: func(d *rowstest.Database) string { return d.Cluster.URL("nowhere") }},
		{name: "nothing listens", state: rows.Unknown, err: rows.ErrNotListening, why: "127.0.0.1:1 ",
			url: func(*rowstest.Database) string { return "postgres://u:hunter2@127.0.0.1:1/d?sslmode=disable" }},
		{name: "no socket", state: rows.Unknown, err: rows.ErrNotListening,
			url: func(*rowstest.Database) string { return "postgres://u:hunter2@/d?host=/nonexistent" }},
		{name: "no such name", state: rows.Unknown, err: rows.ErrUnreachable,
			url: func(*rowstest.Database) string { return "postgres://u:hunter2@host.invalid/d?sslmode=disable" }},
		{name: "no TLS there", state: rows.Unknown, err: rows.ErrConnection,
			url: func(d *rowstest.Database) string {
				return strings.Replace(d.URL(), "sslmode=disable", "sslmode=require", 1)
			}},
		{name: "no connection left", state: rows.Unknown, err: rows.ErrCrowded,
			prepare: func(d *rowstest.Database) error {
				return d.Admin("create role crowd login connection limit 0 password '" + rowstest.Password + "'")
			},
			url: func(d *rowstest.Database) string { return strings.Replace(d.URL(), "//containarium", "//crowd", 1) }},

		{name: "rows under A", state: rows.Answered, proofA: rows.Proof{Verdict: rows.Opens, Checked: 2, Opened: 2},
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(a, "x", "X", nil), d.UpsertEnvelope(a, "y", "Y", []byte("v")))
			}},
		{name: "rows of an old table", empty: true, state: rows.Answered, proofA: rows.Proof{Verdict: rows.Opens, Checked: 1, Opened: 1},
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.CreateOldTable(), d.Upsert(a, "x", "X", nil))
			}},
		{name: "rows under B", state: rows.Answered, proofA: rows.Proof{Verdict: rows.Refuted, Checked: 2},
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(b, "x", "X", nil), d.UpsertEnvelope(b, "y", "Y", []byte("v")))
			}},
		{name: "split", state: rows.Answered, proofA: rows.Proof{Verdict: rows.Partial, Checked: 3, Opened: 2},
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(a, "x", "X", nil), d.Upsert(b, "x", "Y", nil), d.Upsert(a, "x", "Z", nil))
			}},
		{name: "all vectors", state: rows.Answered, proofA: rows.Proof{Verdict: rows.Partial, Checked: 12, Opened: 8},
			prepare: func(d *rowstest.Database) error { return d.InsertVectors(nil) }},
		{name: "a nonce of no bytes", state: rows.Answered, proofA: rows.Proof{Verdict: rows.Partial, Checked: 2, Opened: 1},
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.Upsert(a, "x", "X", nil), d.Insert(noNonce))
			}},
		{name: "rows in a partition", empty: true, state: rows.Answered, proofA: rows.Proof{Verdict: rows.Opens, Checked: 1, Opened: 1},
			prepare: func(d *rowstest.Database) error {
				return errors.Join(d.CreateTable(),
					d.Admin("create table part () inherits (secrets); alter table part owner to containarium"),
					d.Upsert(a, "x", "X", nil), d.Admin("with gone as (delete from only secrets returning *) insert into part select * from gone"))
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := cluster.NewDatabase("")
			must(t, err)
			if !c.empty {
				must(t, d.CreateTable())
			}
			if c.prepare != nil {
				must(t, c.prepare(d))
			}
			url := d.URL()
			if c.url != nil {
				url = c.url(d)
			}
			table := open(t, url, rows.Options{})
			for range 2 { // the second over the session that was kept
				got := table.Prove(context.Background(), a, b)
				quiet(t, got, got.Err)
				if got.State != c.state || !errors.Is(got.Err, c.err) || (got.Err != nil) != (c.state == rows.Unknown) {
					t.Fatalf("%+v", got)
				}
				if got.Err != nil && got.Why != got.Err.Error() || !strings.Contains(got.Why, c.why) {
					t.Errorf("why: %s", got.Why)
				}
				want := c.proofA
				if c.state != rows.Answered {
					want.Verdict = c.state
				}
				want.Fingerprint = a.Fingerprint()
				if len(got.Proofs) != 2 || got.Proofs[0] != want || got.Proofs[1].Fingerprint != b.Fingerprint() {
					t.Errorf("proofs %+v, not %+v first", got.Proofs, want)
				}
				if c.state == rows.Answered && got.Counts.Dependent() != want.Checked {
					t.Errorf("%+v", got.Counts)
				}
				// One that failed holds nothing, and is closed; the server may be yet to see that.
				if list, err := d.Activity(); err != nil || slices.ContainsFunc(list, func(s string) bool {
					return strings.HasPrefix(s, "keyguard") && s != "keyguard idle" && s != "keyguard idle in transaction (aborted)"
				}) {
					t.Errorf("%q, %v", list, err)
				}
			}
			table.Close()
			noSession(t, d)
		})
	}
}

func TestAbsent(t *testing.T) {
	table, err := rows.Open(rows.Location{Absent: true, Why: "so it is"}, rows.Options{})
	must(t, err)
	defer table.Close()
	k := key.Generate()
	got := table.Prove(context.Background(), k)
	if got.State != rows.Silent || got.Why != "so it is" || len(got.Proofs) != 1 ||
		got.Proofs[0] != (rows.Proof{Fingerprint: k.Fingerprint(), Verdict: rows.Silent}) {
		t.Errorf("%+v", got)
	}
}

// TestRival: a database is not silent where another may be the daemon's.
func TestRival(t *testing.T) {
	d := cluster.Database(t)
	l := rows.Location{URL: d.URL(), From: "a test", Rival: "container old-postgres"}
	prove := func() rows.Answer {
		table, err := rows.Open(l, rows.Options{})
		must(t, err)
		defer table.Close()
		return table.Prove(context.Background(), key.Generate())
	}
	if got := prove(); !errors.Is(got.Err, rows.ErrElsewhere) || !strings.Contains(got.Why, l.Rival) {
		t.Errorf("%+v", got)
	}
	must(t, d.Upsert(key.Generate(), "u", "N", nil))
	if got := prove(); got.State != rows.Answered {
		t.Errorf("%+v", got)
	}
}

func TestNoKeys(t *testing.T) {
	d := cluster.Database(t)
	must(t, d.InsertVectors(nil))
	got := ask(t, d.URL(), rows.Options{})
	if got.State != rows.Answered || got.Counts != (rows.Counts{Legacy: 10, InProc: 2, External: 3}) || len(got.Proofs) != 0 {
		t.Errorf("%+v", got)
	}
}

// TestUnlogged: a table that a crash of the server empties is told, whatever is in it.
func TestUnlogged(t *testing.T) {
	d := cluster.Database(t)
	k := key.Generate()
	for _, step := range []struct {
		sql  string
		want bool
	}{{"select", false}, {"alter table secrets set unlogged", true}, {"alter table secrets set logged", false}} {
		must(t, d.Admin(step.sql))
		for _, insert := range []bool{false, true} {
			if insert {
				must(t, d.Upsert(k, "u", "N", nil))
			}
			if got := ask(t, d.URL(), rows.Options{}, k); got.Unlogged != step.want || got.State == rows.Unknown {
				t.Errorf("%s, with a row %v: %+v", step.sql, insert, got)
			}
		}
		must(t, d.Admin("delete from secrets"))
	}
}

// TestForms: where the server hands names or values over in another form than the daemon
// wrote them, the right key opens nothing, and that says nothing of it (law 1).
func TestForms(t *testing.T) {
	k := key.Generate()
	d := cluster.Database(t)
	must(t, d.Upsert(k, "\u00f6", "LEGACY", []byte("v")), d.UpsertEnvelope(k, "\u00f6", "ENVELOPE", []byte("v")))
	column := func(name, kind string) string { return "alter table secrets alter " + name + " type " + kind }
	role := func(set string) string { return "alter role containarium in database " + d.Name + set }
	for _, c := range []struct {
		name, do, undo string
		url            string // after the usual one
		err            error  // nil: the key opens both rows
		why            string
	}{
		{name: "as the daemon made it"},
		{name: "varchar", do: column("username", "varchar(40), alter name type varchar, alter kek_id type varchar"), undo: column("username", "text, alter name type text, alter kek_id type text")},
		{name: "domains", do: "create domain tenant as text; create domain sealed as bytea; " + column("username", "tenant, alter ciphertext type sealed"),
			undo: column("username", "text, alter ciphertext type bytea") + "; drop domain tenant, sealed"},
		{name: "ciphertext as text", do: column("ciphertext", "text using encode(ciphertext, 'hex')"), undo: column("ciphertext", "bytea using decode(ciphertext, 'hex')"),
			err: rows.ErrShape, why: "column ciphertext of public.secrets is of type text"},
		{name: "nonce as text", do: column("nonce", "text using encode(nonce, 'hex')"), undo: column("nonce", "bytea using decode(nonce, 'hex')"),
			err: rows.ErrShape, why: "column nonce of public.secrets is of type text"},
		{name: "wrapped_dek as text", do: column("wrapped_dek", "text using encode(wrapped_dek, 'hex')"), undo: column("wrapped_dek", "bytea using decode(wrapped_dek, 'hex')"),
			err: rows.ErrShape, why: "column wrapped_dek of public.secrets is of type text"},
		{name: "kek_id as bytes", do: column("kek_id", "bytea using convert_to(kek_id, 'UTF8')"), undo: column("kek_id", "text using convert_from(kek_id, 'UTF8')"),
			err: rows.ErrShape, why: "column kek_id of public.secrets is of type bytea"},
		{name: "filled up with spaces", do: column("username", "char(40)"), undo: column("username", "text"),
			err: rows.ErrShape, why: "column username of public.secrets is of type character,"},
		{name: "cut off", do: column("name", "name"), undo: column("name", "text"),
			err: rows.ErrShape, why: "column name of public.secrets is of type name"},
		{name: "the URL's encoding", url: "&client_encoding=LATIN1", err: rows.ErrEncoding, why: "client_encoding is LATIN1, and the database's is UTF8"},
		{name: "the role's encoding", do: role(" set client_encoding = LATIN1"), undo: role(" reset client_encoding"), err: rows.ErrEncoding},
		{name: "the daemon's encoding", do: role(" set client_encoding = LATIN1"), undo: role(" reset client_encoding"), url: "&client_encoding=utf-8"},
		{name: "none", url: "&client_encoding=SQL_ASCII"},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, d.Admin(c.do))
			defer func() { must(t, d.Admin(c.undo)) }()
			got := ask(t, d.URL()+c.url, rows.Options{}, k)
			switch {
			case c.err != nil:
				if got.State != rows.Unknown || !errors.Is(got.Err, c.err) || !strings.Contains(got.Why, c.why) {
					t.Errorf("%+v", got)
				}
			case got.State != rows.Answered || got.Proofs[0].Opened != 2:
				t.Errorf("%+v", got)
			}
		})
	}
	noSession(t, d)
}

// TestStandby: a standby may be behind, or left over from a failover. It is not asked.
func TestStandby(t *testing.T) {
	if err := os.MkdirAll(cluster.Dir+"/standby", 0o755); err != nil {
		t.Fatal(err)
	}
	d := cluster.Database(t) // empty, and so silent on the primary
	standby, err := cluster.Standby(cluster.Dir + "/standby")
	must(t, err)
	defer func() { must(t, standby.Stop()) }()
	got := ask(t, standby.URL(d.Name), rows.Options{}, key.Generate())
	if got.State != rows.Unknown || !errors.Is(got.Err, rows.ErrRecovery) {
		t.Errorf("%+v", got)
	}
	if got := ask(t, d.URL(), rows.Options{}); got.State != rows.Silent {
		t.Errorf("the primary: %+v", got)
	}
}

// TestLocked: a lock that is not free is not waited for long, and nothing is left that
// the daemon's ALTER at its start would wait for (law 9).
func TestLocked(t *testing.T) {
	d := cluster.Database(t)
	k := key.Generate()
	must(t, d.Upsert(k, "u", "N", nil))
	s, err := d.Session()
	must(t, err)
	defer s.Close()
	table := open(t, d.URL(), rows.Options{LockTimeout: 50 * time.Millisecond})
	for range 2 {
		_, err1 := s.Exec("begin")
		_, err2 := s.Exec("lock table secrets in access exclusive mode")
		must(t, err1, err2)
		if got := table.Prove(context.Background(), k); got.State != rows.Unknown || !errors.Is(got.Err, rows.ErrLocked) {
			t.Errorf("%+v", got)
		}
		_, err = s.Exec("rollback")
		must(t, err)
		if got := table.Prove(context.Background(), k); got.State != rows.Answered {
			t.Errorf("%+v", got)
		}
	}
	// The session is still open here, and in nobody's way.
	_, err1 := s.Exec("set lock_timeout = 50")
	_, err2 := s.Exec("alter table secrets add column later text")
	must(t, err1, err2)
}

func TestStatementTimeout(t *testing.T) {
	d := cluster.Database(t)
	k := key.Generate()
	must(t, d.Fill(k, 0, 10_000, 10, 200))
	got := ask(t, d.URL(), rows.Options{StatementTimeout: time.Millisecond}, k)
	if got.State != rows.Unknown || !errors.Is(got.Err, rows.ErrTimeout) {
		t.Errorf("%+v", got)
	}
	noSession(t, d)
}

func TestCancelled(t *testing.T) {
	d := cluster.Database(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	got := open(t, d.URL(), rows.Options{}).Prove(ctx, key.Generate())
	if got.State != rows.Unknown || !errors.Is(got.Err, context.Canceled) {
		t.Errorf("%+v", got)
	}
	noSession(t, d)
}

// TestComing: a table without a row need not stay so.
func TestComing(t *testing.T) {
	d := cluster.Database(t)
	k := key.Generate()
	table := open(t, d.URL(), rows.Options{})
	expect := func(state rows.Verdict, why string) {
		t.Helper()
		if got := table.Prove(context.Background(), k); got.State != state || !strings.Contains(got.Why, why) || (state == rows.Unknown) != errors.Is(got.Err, rows.ErrComing) {
			t.Errorf("%+v", got)
		}
	}
	expect(rows.Silent, "no secret")
	dump, err := d.Session()
	must(t, err)
	defer dump.Close()
	do := func(sql string) (answer string) {
		t.Helper()
		v, err := dump.Exec(sql)
		must(t, err)
		for _, row := range v {
			answer += row[0]
		}
		return answer
	}
	const insert = "insert into secrets (username, name, nonce, ciphertext) values ('u', 'N', '', '')"
	pid := do("select pg_backend_pid()")
	do("begin")
	do("select count(*) from secrets") // who reads brings none
	expect(rows.Silent, "no secret")
	do(insert)
	expect(rows.Unknown, "public.secrets has no dependent row, but rows may be on their way into the table: a transaction writes to it that is not over, of process "+pid)
	do("rollback")
	expect(rows.Silent, "no secret")
	do("create table part () inherits (secrets)")
	do("begin")
	do(strings.Replace(insert, "secrets", "part", 1))
	expect(rows.Unknown, "of process "+pid)
	do("rollback")
	do("drop table part")

	do("alter table secrets rename to own")
	do("create table secrets (like own including defaults)") // as a dump makes it
	expect(rows.Unknown, "public.secrets has no dependent row, but rows may be on their way into the table: it has no primary key, which a dump adds after the rows")
	do("alter table secrets add primary key (id)")
	expect(rows.Silent, "no secret")
	do("drop table secrets")
	do("alter table own rename to secrets")

	must(t, d.Admin("create subscription other connection 'dbname=nowhere' publication p with (connect = false, slot_name = none)"))
	defer func() { must(t, d.Admin("drop subscription other")) }()
	expect(rows.Silent, "no secret") // of other tables
	must(t, d.Admin("insert into pg_subscription_rel select s.oid, 'secrets'::regclass, 'i' from pg_subscription s join pg_database d on d.oid = subdbid where datname = current_database()"))
	expect(rows.Unknown, "rows may be on their way into the table: subscription other fills it from another server")
}

// TestHoldRotationLock: who settles a rotation learns that its transaction may still commit.
func TestHoldRotationLock(t *testing.T) {
	d := cluster.Database(t)
	k := key.Generate()
	must(t, d.Upsert(k, "u", "N", nil))
	rotation, err := d.Session()
	must(t, err)
	defer rotation.Close()
	try := func(sql string) string {
		v, err := rotation.Exec(sql, fmt.Sprint(rows.AdvisoryLock))
		must(t, err)
		return v[0][0]
	}
	table, other := open(t, d.URL(), rows.Options{HoldRotationLock: true}), open(t, d.URL(), rows.Options{HoldRotationLock: true})

	try("select pg_advisory_lock($1)")
	if got := table.Prove(context.Background(), k); got.State != rows.Unknown || !errors.Is(got.Err, rows.ErrRotating) {
		t.Errorf("%+v", got)
	}
	if got := ask(t, d.URL(), rows.Options{}, k); got.State != rows.Answered {
		t.Errorf("without Settle: %+v", got)
	}
	try("select pg_advisory_unlock($1)")
	for _, table := range []*rows.Table{table, other} {
		if got := table.Prove(context.Background(), k); got.State != rows.Answered {
			t.Errorf("%+v", got)
		}
	}
	// Both sessions are open, and hold nothing.
	if got := try("select pg_try_advisory_lock($1)"); got != "t" {
		t.Error("the lock was kept")
	}
	try("select pg_advisory_unlock($1)")
	// Prestart and watcher may settle at once.
	try("select pg_advisory_lock_shared($1)")
	if got := table.Prove(context.Background(), k); got.State != rows.Answered {
		t.Errorf("%+v", got)
	}
}

// TestPasswordInAnAnswer: what a server says of itself may have the password in it, and is shown without.
func TestPasswordInAnAnswer(t *testing.T) {
	d := rowstest.New(t).Database(t)
	must(t, d.Admin("create schema talks; grant usage on schema talks to public; create function talks.pg_is_in_recovery() returns boolean language plpgsql as $$begin raise 'it is "+
		rowstest.Password+", is it not'; end$$; alter database "+d.Name+" set search_path = talks, pg_catalog, public"))
	got := open(t, d.URL(), rows.Options{}).Prove(t.Context(), key.Generate())
	if quiet(t, got); got.Err == nil || !strings.Contains(got.Why, "it is …, is it not") {
		t.Errorf("%+v", got)
	}
}

// TestServerTrouble takes a server of its own through what servers do.
func TestServerTrouble(t *testing.T) {
	t.Parallel() // it waits
	c := rowstest.New(t)
	d := c.Database(t)
	k := key.Generate()
	must(t, d.Upsert(k, "u", "N", nil))
	options := rows.Options{ConnectTimeout: time.Second, StatementTimeout: time.Second, LockTimeout: time.Minute}
	prove := func(table *rows.Table, want error) {
		t.Helper()
		start := time.Now()
		got := table.Prove(context.Background(), k)
		quiet(t, got)
		if !errors.Is(got.Err, want) || (got.State == rows.Answered) != (want == nil) {
			t.Errorf("%+v", got)
		}
		if took := time.Since(start); took > 30*time.Second { // nothing else here ends
			t.Errorf("it took %v", took)
		}
	}
	kept := open(t, d.URL(), rows.Options{})
	prove(kept, nil)

	must(t, c.Restart())
	prove(kept, nil) // over a new session

	hung := open(t, d.URL(), rows.Options{StatementTimeout: 5 * time.Second}) // it has to succeed as well
	prove(hung, nil)
	c.Pause()
	prove(hung, rows.ErrTimeout)                      // the session that was there
	prove(open(t, d.URL(), options), rows.ErrTimeout) // a new one
	prove(open(t, c.SocketURL(d.Name), options), rows.ErrTimeout)
	c.Resume()
	prove(hung, nil)

	must(t, c.Stop())
	prove(kept, rows.ErrNotListening)
	prove(open(t, c.SocketURL(d.Name), rows.Options{}), rows.ErrNotListening)
	must(t, c.Restart())
	prove(kept, nil)

	// In the middle of a statement: one that waits for a lock cannot be missed.
	s, err := d.Session()
	must(t, err)
	defer s.Close() //nolint:errcheck // the server ends it; what nobody refers to any more is closed before
	_, err1 := s.Exec("begin")
	_, err2 := s.Exec("lock table secrets in access exclusive mode")
	must(t, err1, err2)
	options.ConnectTimeout, options.StatementTimeout = time.Minute, time.Minute
	waiting := open(t, d.URL(), options)
	answer := make(chan rows.Answer)
	go func() { answer <- waiting.Prove(context.Background(), k) }()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		n, err := d.Exec("select count(*) from pg_stat_activity where application_name = 'keyguard' and wait_event_type = 'Lock'")
		must(t, err)
		if n[0][0] == "1" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not wait")
		}
	}
	must(t, c.Stop())
	if got := <-answer; got.State != rows.Unknown || !errors.Is(got.Err, rows.ErrLost) {
		t.Errorf("%+v", got)
	}
	must(t, c.Restart())
	prove(waiting, nil)
	waiting.Close()
	hung.Close()
	kept.Close()
	noSession(t, d)
}

// many rows of large bytes are 50 MB outside the table's blocks: more pieces than two cores have
// sessions.
const many, large = 5_000, 10_000

// TestLargeTable is read in pieces by several sessions.
func TestLargeTable(t *testing.T) {
	d := cluster.Database(t)
	a, b, _ := rowstest.Vectors()
	must(t, d.Fill(a, 0, many, 50, large))
	prove := func(o rows.Options) rows.Answer {
		t.Helper()
		table := open(t, d.URL(), o)
		defer table.Close()
		got := table.Prove(context.Background(), a, b)
		if got.State != rows.Answered || got.Sampled || got.Proofs[0].Checked != got.Counts.Dependent() {
			t.Fatalf("%+v", got)
		}
		return got
	}
	got := prove(rows.Options{})
	if got.Proofs[0].Opened != many || got.Proofs[1].Verdict != rows.Refuted || got.Proofs[1].Checked != many {
		t.Errorf("%+v", got)
	}
	if full := prove(rows.Options{Full: true}); full.Counts != got.Counts {
		t.Errorf("%+v, then %+v", got, full)
	}
	must(t, d.Upsert(b, "tenant7", "K7", nil))
	if got := prove(rows.Options{}); got.Proofs[0].Opened != many-1 || got.Proofs[1].Opened != 1 {
		t.Errorf("%+v", got)
	}
	noSession(t, d)

	// One session is enough.
	must(t, d.Admin("alter role containarium connection limit 1"))
	defer func() { must(t, d.Admin("alter role containarium connection limit -1")) }()
	prove(rows.Options{})
}

// TestCountedLikeRead: what the server counts of a large table is what reading it counts,
// also of rows of every class.
func TestCountedLikeRead(t *testing.T) {
	brief.Skip(t)
	const many = 32_000 // 12 MB: too many to read unseen
	d := cluster.Database(t)
	a, _, _ := rowstest.Vectors()
	must(t, d.Fill(a, 0, many, 50, 250))
	for _, prepare := range []func() error{
		func() error { return nil },
		func() error {
			return d.Admin("update secrets set wrapped_dek = '' where name like 'K1%'") // legacy all the same
		},
		func() error { return d.InsertVectors(nil) },
		func() error {
			return d.Insert(rowstest.Vector{Username: "u", Name: "N", Nonce: make([]byte, 12), Ciphertext: make([]byte, 16), WrappedDEK: []byte("what is this")})
		},
	} {
		must(t, prepare())
		counted, read := ask(t, d.URL(), rows.Options{}), ask(t, d.URL(), rows.Options{Full: true})
		if counted.State != rows.Answered || counted.Counts != read.Counts || counted.Counts.Total() < many {
			t.Errorf("%+v, and %+v", counted, read)
		}
	}
}

// TestBusyTable: rows that move while a large table is read are neither missed nor
// counted twice, and writers elsewhere do not matter.
func TestBusyTable(t *testing.T) {
	brief.Skip(t)
	d, other := cluster.Database(t), cluster.Database(t)
	k := key.Generate()
	must(t, d.Fill(k, 0, many, 50, large))
	for _, busy := range []*rowstest.Database{other, d} {
		s, err := busy.Session()
		must(t, err)
		stop, stopped := make(chan struct{}), make(chan error, 1)
		go func() {
			for i := 0; ; i += 1009 {
				select {
				case <-stop:
					stopped <- nil
					return
				default:
				}
				username, name := fmt.Sprintf("tenant%d", i%many%50), fmt.Sprintf("K%d", i%many)
				nonce, ciphertext := rowstest.Seal(k, username, name, make([]byte, 1000)) // larger: it must move
				_, err := s.Exec(`insert into secrets (username, name, nonce, ciphertext) values ($1, $2, $3, $4)
					on conflict (username, name) do update set nonce = excluded.nonce, ciphertext = excluded.ciphertext`,
					username, name, nonce, ciphertext)
				if err != nil {
					stopped <- err
					return
				}
			}
		}()
		for i := range 4 {
			got := ask(t, d.URL(), rows.Options{Full: i%2 == 0}, k)
			switch {
			case got.State == rows.Answered:
				if p := got.Proofs[0]; p.Verdict != rows.Opens || p.Checked != many || got.Counts.Legacy != many {
					t.Errorf("%+v", got)
				}
			case busy == other || !errors.Is(got.Err, rows.ErrChanging):
				t.Errorf("%+v", got)
			}
		}
		close(stop)
		must(t, <-stopped, s.Close())
	}
	noSession(t, d)
}

// TestSample: beyond 100 000 rows the oldest, the newest and every tenant are looked
// at, the same ones for every candidate.
func TestSample(t *testing.T) {
	d := cluster.Database(t)
	a, b, _ := rowstest.Vectors()
	const many = 100_500 // more than are checked one by one
	must(t, d.Fill(a, 0, many, 100, 1))
	table := open(t, d.URL(), rows.Options{})
	first, second := table.Prove(context.Background(), a), table.Prove(context.Background(), b, a)
	if first.State != rows.Answered || !first.Sampled || first.Counts.Dependent() != many || first.Proofs[0].Verdict != rows.Opens {
		t.Errorf("%+v", first)
	}
	checked := first.Proofs[0].Checked
	if checked < 20_000 || checked > 45_000 {
		t.Errorf("%d checked", checked)
	}
	if second.Proofs[0].Checked != checked || second.Proofs[1] != first.Proofs[0] || second.Proofs[0].Verdict != rows.Refuted {
		t.Errorf("another sample: %+v", second)
	}
	if full := ask(t, d.URL(), rows.Options{Full: true}, a); full.Sampled || full.Proofs[0].Checked != many {
		t.Errorf("%+v", full)
	}
	// Each of these single rows under another key must be in every sample.
	put := func(username, name, when string) {
		must(t, d.Upsert(b, username, name, nil))
		_, err := d.Exec("update secrets set updated_at = $3::timestamptz where username = $1 and name = $2", username, name, when)
		must(t, err)
	}
	put("tenant3", "OLDEST", "2020-01-01")
	put("tenant4", "NEWEST", "2030-01-01")
	put("new tenant", "ONLY", "2026-01-01 00:00:00.000050")
	got := ask(t, d.URL(), rows.Options{}, b)
	if p := got.Proofs[0]; !got.Sampled || p.Verdict != rows.Partial || p.Opened != 3 {
		t.Errorf("%+v", got)
	}
	if brief.Run() {
		return
	}
	// A sample whose rows are gone is drawn again.
	_, err := d.Exec("update secrets set id = gen_random_uuid()")
	must(t, err)
	if got := table.Prove(context.Background(), a); !got.Sampled || got.Proofs[0].Verdict != rows.Partial {
		t.Errorf("%+v", got)
	}
	table.Close()
	noSession(t, d)

	// Where most of the table are large values, no single statement has time for those of a
	// sample: they are drawn by their ids.
	must(t, d.Fill(a, many, 500, 100, 64<<10))
	wire := cluster.Wire(t)
	var ids atomic.Int64
	wire.Distort('D', func(row []byte) []byte {
		if binary.BigEndian.Uint16(row[5:]) == 1 && len(row) == 1+4+2+4+16 {
			ids.Add(1)
		}
		return row
	})
	if got := ask(t, wire.URL(d.Name), rows.Options{}, b); !got.Sampled || got.Proofs[0].Verdict != rows.Partial || got.Proofs[0].Opened != 3 {
		t.Errorf("%+v", got)
	}
	if n := ids.Load(); n < 20_000 {
		t.Errorf("%d ids were drawn", n)
	}
}

// The rows that no key opens are named, and those of a key that was in force for a time
// are told from those that were tampered with.
func TestUnopened(t *testing.T) {
	a, b, c := key.Generate(), key.Generate(), key.Generate()
	d := cluster.Database(t)
	// Enough for several pieces.
	must(t, d.Fill(a, 0, 1000, 10, 10_000), d.Fill(b, 1000, 4, 10, 10))
	for name, test := range map[string]struct {
		alter   string // of the rows of tenant0 … tenant9, under a, and then K1000 … K1003, under b
		keys    []key.Key
		want    []string
		stretch bool
	}{
		"all open":                 {keys: []key.Key{c, b, a}},
		"a key is not at hand":     {keys: []key.Key{a, c}, want: []string{`"tenant0" K1000`, `"tenant1" K1001`, `"tenant2" K1002`, `"tenant3" K1003`}, stretch: true},
		"one was tampered with":    {alter: `where name = 'K7'`, keys: []key.Key{a, b}, want: []string{`"tenant7" K7`}},
		"two, side by side":        {alter: `where name in ('K7', 'K8')`, keys: []key.Key{a, b}, want: []string{`"tenant7" K7`, `"tenant8" K8`}},
		"three among others":       {alter: `where name in ('K7', 'K8', 'K10')`, keys: []key.Key{a, b}, want: []string{`"tenant0" K10`, `"tenant7" K7`, `"tenant8" K8`}},
		"three before an external": {alter: `where name in ('K8', 'K10', 'K11')`, keys: []key.Key{a, b}, want: []string{`"tenant0" K10`, `"tenant1" K11`, `"tenant8" K8`}, stretch: true},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(test.alter, "K11") { // K9 is no neighbour
				must(t, d.Admin(`update secrets set wrapped_dek = 'vault:v1:AAAA', kek_id = 'vault:a|m|k' where name = 'K9'`))
				defer func() { must(t, d.Admin(`update secrets set wrapped_dek = null, kek_id = null where name = 'K9'`)) }()
			}
			if test.alter != "" {
				alter := `update secrets set ciphertext = set_byte(ciphertext, 0, get_byte(ciphertext, 0) # 1) ` + test.alter
				must(t, d.Admin(alter))
				defer func() { must(t, d.Admin(alter)) }() // twice is not at all
			}
			got := ask(t, d.URL(), rows.Options{Full: true}, test.keys...)
			var list []string
			for _, r := range got.Unopened.Rows {
				list = append(list, r.String())
			}
			if !slices.Equal(list, test.want) || got.Unopened.Count != int64(len(test.want)) || got.Unopened.Stretch != test.stretch {
				t.Errorf("%v %+v", list, got.Unopened)
			}
			if sampled := ask(t, d.URL(), rows.Options{}, test.keys...); sampled.Unopened.Count != 0 {
				t.Errorf("it was not asked for: %+v", sampled.Unopened)
			}
		})
	}
}
