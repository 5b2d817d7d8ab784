package rowstest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

// TestVectors: our own sealing, read by our own reading, is the daemon's.
func TestVectors(t *testing.T) {
	d := rowstest.New(t).Database(t)
	a, b, vectors := rowstest.Vectors()
	if len(vectors) != 15 {
		t.Fatalf("%d vectors", len(vectors))
	}
	if err := d.InsertVectors(nil); err != nil {
		t.Fatal(err)
	}
	for _, v := range vectors {
		for name, k := range map[string]key.Key{"A": a, "B": b} {
			got, err := d.Read(k, v.Username, v.Name)
			if want := v.OpensWith == name; (err == nil) != want || want && !bytes.Equal(got, v.Plaintext) {
				t.Errorf("%s, key %s: %d bytes, %v", v.Case, name, len(got), err)
			}
		}
	}
}

func TestUpsert(t *testing.T) {
	c := rowstest.New(t)
	for _, old := range []bool{false, true} {
		d, err := c.NewDatabase("")
		if err != nil {
			t.Fatal(err)
		}
		create := d.CreateTable
		if old {
			create = d.CreateOldTable
		}
		k := key.Generate()
		err = errors.Join(create(), d.Upsert(k, "alice", "A", []byte("1")), d.Upsert(k, "alice", "A", []byte("2")))
		if !old {
			err = errors.Join(err, d.UpsertEnvelope(k, "bob", "B", []byte("3")))
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := d.Read(k, "alice", "A"); err != nil || string(got) != "2" {
			t.Errorf("%q, %v", got, err)
		}
		version, err := d.Exec("select version from secrets where username = $1", "alice")
		if err != nil || version[0][0] != "2" {
			t.Errorf("version %v, %v", version, err)
		}
		if old {
			continue
		}
		if got, err := d.Read(k, "bob", "B"); err != nil || string(got) != "3" {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// TestStart: other packages' tests rely on a start that costs next to nothing. The bound
// is of processor time, which a busy machine stretches least; at rest it is a tenth of a
// second.
func TestStart(t *testing.T) {
	rowstest.New(t) // makes the template
	spent := func() time.Duration {
		var sum time.Duration
		for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
			var u unix.Rusage
			if err := unix.Getrusage(who, &u); err != nil {
				t.Fatal(err)
			}
			sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
		return sum
	}
	before := spent()
	c, err := rowstest.Start("")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil { // a child's time is told when it has ended
		t.Fatal(err)
	}
	if took := spent() - before; took > 2*time.Second {
		t.Errorf("a start took %v of the processor", took)
	} else {
		t.Log(took)
	}
	c = rowstest.New(t)
	d := c.Database(t)
	if err := d.Fill(key.Generate(), 0, 1000, 10, 32); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(); err != nil {
		t.Fatal(err)
	}
	n, err := d.Exec("select count(*), count(distinct username) from secrets")
	if err != nil || strings.Join(n[0], " ") != "1000 10" {
		t.Errorf("%v, %v", n, err)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
}

// TestKept: who asks next has the session of who asked before, with the rights of the
// daemon's role, as new; it shows to nobody, holds nobody up and outlives the server.
func TestKept(t *testing.T) {
	c := rowstest.New(t)
	d := c.Database(t)
	ask := func(sql string) string {
		t.Helper()
		rows, err := d.Exec(sql)
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) == 0 {
			return ""
		}
		return strings.Join(rows[0], " ")
	}
	const look = `select pg_backend_pid()::text, session_user, current_user, current_setting('is_superuser'), to_regclass('pg_temp.x'),
		current_setting('work_mem'), (select count(*)::text from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())`
	fresh := ask(look)
	for _, sql := range []string{"create temp table x ()", "set work_mem = '1GB'", "select pg_advisory_lock(1)", "begin"} {
		ask(sql)
		if sql == "begin" {
			fresh = fresh[strings.Index(fresh, " "):] // that one is not used again
		}
		if again := ask(look); !strings.HasSuffix(again, fresh) {
			t.Errorf("after %s a session says %q, and a fresh one %q", sql, again, fresh)
		}
	}
	if !strings.HasPrefix(fresh, " containarium containarium off ") {
		t.Errorf("as the daemon's role: %q", fresh)
	}
	if _, err := d.Exec("set session authorization nobody"); err == nil {
		t.Error("the daemon's role becomes somebody else")
	}
	if list, err := d.Activity(); err != nil || len(list) != 0 {
		t.Errorf("activity: %q, %v", list, err)
	}
	// One that waits for a lock holds up no other.
	s, err := d.Session()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Exec("select pg_advisory_lock(2)"); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := d.Exec("select pg_advisory_lock(2)")
		waited <- err
	}()
	for ask("select count(*)::text from pg_locks where locktype = 'advisory' and not granted") != "1" {
	}
	if err := errors.Join(s.Close(), <-waited); err != nil {
		t.Error(err)
	}
	copied, err := d.Copy()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(copied.Admin("drop table secrets"), c.Restart(), d.Admin("drop table secrets")); err != nil {
		t.Error(err)
	}
	// A server that ends them all, as when one of its processes dies.
	if err := c.Admin("postgres", "select pg_terminate_backend(pid, 60000) from pg_stat_activity where datname = '"+d.Name+"'"); err != nil {
		t.Error(err)
	}
	ask("select 1")
}

// TestLeftovers: a cluster whose process is gone is swept away by the next, and no other.
func TestLeftovers(t *testing.T) {
	alive := rowstest.New(t)
	left, err := os.MkdirTemp(filepath.Dir(alive.Dir), "")
	if err != nil {
		t.Fatal(err)
	}
	next, err := rowstest.Start("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a leftover: %v", err)
	}
	if err := errors.Join(alive.Admin("postgres", "select 1"), next.Close()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(next.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is closed: %v", err)
	}
	if _, err := os.Stat(alive.Dir); err != nil {
		t.Error(err)
	}
}

// TestPool: whoever comes next has the session of who left, and it is as new; but not that
// of who left in the middle of a statement, or had it called off.
func TestPool(t *testing.T) {
	c := rowstest.New(t)
	d, p := c.Database(t), c.Pool(t)
	ctx := context.Background()
	come := func() *pgconn.PgConn {
		t.Helper()
		conn, err := pgconn.Connect(ctx, p.URL(d.Name))
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	ask := func(conn *pgconn.PgConn, sql string) (pid, answer string) {
		t.Helper()
		results, err := conn.Exec(ctx, "select pg_backend_pid(); "+sql).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range results[1:] {
			for _, row := range r.Rows {
				answer += string(bytes.Join(row, []byte(" "))) + ";"
			}
		}
		return string(results[0].Rows[0][0]), answer
	}
	visit := func(sql string) (pid, answer string) {
		t.Helper()
		conn := come()
		defer conn.Close(ctx)
		return ask(conn, sql)
	}
	const look = "select to_regclass('pg_temp.x'), current_setting('work_mem'), (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())"
	_, fresh := visit(look)
	seen := map[string]bool{}
	for { // it is handed on as soon as it is clean, which may be after the next has come
		pid, _ := visit("create temp table x (); set work_mem = '1GB'; select pg_advisory_lock(1)")
		if seen[pid] {
			break
		}
		seen[pid] = true
		if pid, answer := visit(look); seen[pid] && answer != fresh {
			t.Errorf("a session that is handed on says %q, and a fresh one %q", answer, fresh)
		}
	}
	until := func(condition string, args ...any) {
		t.Helper()
		for {
			there, err := d.Exec("select from pg_stat_activity where "+condition, args...)
			if err != nil {
				t.Fatal(err)
			}
			if len(there) > 0 {
				return
			}
		}
	}
	holder, err := d.Session()
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()

	// Who comes after one that left a transaction open finds nothing of it.
	pid, _ := visit("begin; create table left_open (); set work_mem = '1GB'; select pg_advisory_xact_lock(3)")
	for again, answer := "", ""; again != pid; { // all who come stay, so that it is handed on to one
		conn := come()
		defer conn.Close(ctx)
		if again, answer = ask(conn, look+"; select to_regclass('left_open')"); answer != fresh+";" {
			t.Fatalf("after a transaction that was left open a session says %q, and a fresh one %q", answer, fresh)
		}
	}
	if free, err := holder.Exec("select pg_try_advisory_lock(3)::text"); err != nil || free[0][0] != "true" {
		t.Errorf("what it had locked: %v, %v", free, err)
	}

	// One that was left in the middle of a statement ends with it.
	middle := come()
	pid, _ = ask(middle, "")
	cut := make(chan struct{})
	go func() {
		defer close(cut)
		middle.Exec(ctx, "select pg_advisory_lock(3)").ReadAll() //nolint:errcheck // it is cut off
	}()
	until("pid = $1::int and wait_event_type = 'Lock'", pid)
	middle.Conn().Close()
	<-cut
	if _, err := holder.Exec("select pg_advisory_unlock_all()"); err != nil {
		t.Fatal(err)
	}
	until("not exists (select from pg_stat_activity where pid = $1::int)", pid)

	// A request that comes when its client has left hits nobody.
	var left []*pgconn.PgConn
	for range len(seen) + 2 { // more than have a session yet
		left = append(left, come())
	}
	for _, conn := range left {
		conn.Close(ctx)
	}
	if _, err := holder.Exec("select pg_advisory_lock(2)"); err != nil {
		t.Fatal(err)
	}
	stays := come()
	defer stays.Close(ctx)
	waits := func() <-chan error {
		answer := make(chan error, 1)
		go func() {
			_, err := stays.Exec(ctx, "select pg_advisory_lock(2)").ReadAll()
			answer <- err
		}()
		until("wait_event_type = 'Lock'")
		return answer
	}
	answer := waits()
	for _, conn := range left {
		conn.CancelRequest(ctx) //nolint:errcheck // it has no answer
	}
	if _, err := holder.Exec("select pg_advisory_unlock(2)"); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Errorf("called off by who was gone: %v", err)
	}
	if _, err := stays.Exec(ctx, "select pg_advisory_unlock(2)").ReadAll(); err != nil {
		t.Fatal(err)
	}
	if _, err := holder.Exec("select pg_advisory_lock(2)"); err != nil {
		t.Fatal(err)
	}
	answer = waits()
	if err := stays.CancelRequest(ctx); err != nil {
		t.Fatal(err)
	}
	if err := (*pgconn.PgError)(nil); !errors.As(<-answer, &err) || err.Code != "57014" { // query_canceled
		t.Errorf("called off, it says %v", err)
	}
}

// TestWire: who was told that a statement is sent is told that it is answered, and what is
// sent since counts anew.
func TestWire(t *testing.T) {
	c := rowstest.New(t)
	d, w := c.Database(t), c.Wire(t)
	ctx := context.Background()
	conn, err := pgconn.Connect(ctx, w.URL(d.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var mu sync.Mutex
	var told []string
	listener := func(name string, then func()) func(int, string, bool) bool {
		return func(number int, statement string, answered bool) bool {
			mu.Lock()
			told = append(told, fmt.Sprint(name, " ", number, " ", statement, " ", answered))
			mu.Unlock()
			then()
			return true
		}
	}
	second := listener("second", func() {})
	w.Restart(listener("first", sync.OnceFunc(func() { w.Restart(second) })))
	for _, sql := range []string{"select 1", "select 2"} {
		if _, err := conn.Exec(ctx, sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	want := []string{"first 1 select 1 false", "first 1 select 1 true", "second 1 select 2 false", "second 1 select 2 true"}
	if !slices.Equal(told, want) {
		t.Errorf("%q", told)
	}
}
