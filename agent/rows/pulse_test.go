package rows_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

// TestRewriteStalled has a proxy keep both of its connections, at some statement, and carry
// nothing any more: what would end it is the statement's timeout, half an hour later.
func TestRewriteStalled(t *testing.T) {
	for _, c := range []struct {
		name, at string // a statement's beginning
		answered bool   // the server has executed it
		deaf     bool   // nor is a new connection carried
	}{
		{name: "the server never hears of the locks", at: "select count(*)"},
		{name: "the old rows are not sent", at: "select ctid"},
		{name: "the new ones are not heard", at: "update"},
		{name: "it has updated, and nobody is told", at: "update", answered: true},
		{name: "and no other connection comes about", at: "update", answered: true, deaf: true},
		{name: "it never hears of the commit", at: "commit"},
		{name: "it has committed, and nobody is told", at: "commit", answered: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // it waits
			d := cluster.Database(t)
			now, next := key.Generate(), key.Generate()
			must(t, d.Upsert(now, "a", "LEGACY", []byte("one")), d.UpsertEnvelope(now, "b", "ENVELOPE", []byte("two")))
			before := secrets(t, d, now)
			wire := cluster.Wire(t)
			end := make(chan struct{})
			t.Cleanup(func() { close(end) })
			var last, happened atomic.Bool // the commit is next; nothing is carried any more
			wire.Restart(func(_ int, text string, answered bool) bool {
				switch {
				case c.at == "commit" && !last.Load(): // what reads ends with one, too
					return true
				case strings.HasPrefix(text, c.at) && answered == c.answered && happened.CompareAndSwap(false, true):
				case happened.Load() && c.deaf && text == rowstest.Connect:
				default:
					return true
				}
				<-end
				return false
			})
			o := rows.Options{}
			if c.deaf {
				o.ConnectTimeout = time.Second
			}
			r := rows.RewriteOptions{Target: next, Keys: []key.Key{now}, Silence: time.Second,
				BeforeCommit: func(context.Context, rows.RewriteResult) error { last.Store(true); return nil }}
			table := open(t, wire.URL(d.Name), o)
			var err error
			for !happened.Load() { // what a busy machine ends before is as it was
				_, err = table.Rewrite(context.Background(), r)
			}
			if !errors.Is(err, rows.ErrStalled) || errors.Is(err, rows.ErrUnanswered) != (c.at == "commit") {
				t.Error(err)
			}
			if !c.deaf {
				noSession(t, d) // though the proxy keeps them
			}
			if c.at == "commit" && c.answered {
				before = under(before, next)
			}
			compare(t, secrets(t, d, now, next), before)
		})
	}
}

// TestRewriteWorks has the server be at one statement for as long as it is asked three
// times whether it is.
func TestRewriteWorks(t *testing.T) {
	t.Parallel() // it waits
	d := cluster.Database(t)
	now, next := key.Generate(), key.Generate()
	must(t, d.Upsert(now, "a", "LEGACY", []byte("one")))
	before := secrets(t, d, now)
	must(t, d.Admin(`create function wait() returns trigger language plpgsql as $$ begin perform pg_advisory_xact_lock_shared(1); return new; end $$;
		create trigger waits before update on secrets for each row execute function wait()`))
	other, err := d.Session()
	must(t, err)
	_, err = other.Exec("select pg_advisory_lock(1)")
	must(t, err)
	var connected atomic.Int64
	wire := cluster.Wire(t)
	wire.Restart(func(_ int, text string, answered bool) bool {
		if answered && text == rowstest.Connect {
			if connected.Add(1) == 2+4 { // three have asked, and another one does
				if err := other.Close(); err != nil {
					t.Error(err)
				}
			}
		}
		return true
	})
	table := open(t, wire.URL(d.Name), rows.Options{})
	_, err = table.Rewrite(context.Background(), rows.RewriteOptions{Target: next, Keys: []key.Key{now}, LockTimeout: time.Hour, Silence: 300 * time.Millisecond})
	must(t, err)
	compare(t, secrets(t, d, next), under(before, next))
	noSession(t, d)
}
