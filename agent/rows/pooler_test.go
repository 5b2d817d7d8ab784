package rows_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// TestPgBouncer: a proof works through a pooler of default settings, whichever way it
// pools; a rotation where a session is one, and else it says so by name.
func TestPgBouncer(t *testing.T) {
	for _, mode := range []string{"session", "transaction"} {
		t.Run(mode, func(t *testing.T) {
			url := cluster.PgBouncer(t, mode)
			d := cluster.Database(t)
			a, b := key.Generate(), key.Generate()
			must(t, d.Fill(a, 0, many, 50, 250)) // read by several sessions
			daemon, err := pgxpool.New(t.Context(), url(d.Name))
			must(t, err)
			must(t, daemon.Ping(t.Context()))
			for _, o := range []rows.Options{{}, {Full: true}, {HoldRotationLock: true}} {
				if got := ask(t, url(d.Name), o, a, b); got.State != rows.Answered || got.Proofs[0].Verdict != rows.Opens || got.Proofs[0].Checked != many || got.Proofs[1].Verdict != rows.Refuted {
					t.Errorf("%+v: %+v", o, got)
				}
			}
			table := open(t, url(d.Name), rows.Options{})
			others, err := table.OtherClients(t.Context())
			if err != nil || mode == "session" && len(others) == 0 {
				t.Errorf("the daemon is connected: %v, %v", others, err)
			}
			daemon.Close()
			if err := table.MayRewrite(t.Context()); errors.Is(err, rows.ErrPooled) != (mode == "transaction") || mode == "session" && err != nil {
				t.Error(err)
			}
			_, err = table.Rewrite(context.Background(), rows.RewriteOptions{Target: b, Keys: []key.Key{a}})
			want := b
			if mode == "transaction" {
				want = a
				if !errors.Is(err, rows.ErrPooled) {
					t.Error(err)
				}
			} else if others, err2 := table.OtherClients(t.Context()); err != nil || err2 != nil || len(others) > 0 {
				t.Errorf("%v, %v, %v", err, others, err2)
			}
			if got := ask(t, d.URL(), rows.Options{}, want); got.Proofs[0].Verdict != rows.Opens {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestPgBouncerOfOne: where a pooler has one session for all, a table that several are to
// read is read by that one.
func TestPgBouncerOfOne(t *testing.T) {
	for _, mode := range []string{"session", "transaction"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel() // it waits
			url := cluster.PgBouncer(t, mode, "default_pool_size = 1")
			d := cluster.Database(t)
			a, b := key.Generate(), key.Generate()
			must(t, d.Fill(a, 0, 300, 1, 64<<10)) // in pieces
			got := rows.Answer{Err: rows.ErrTimeout}
			for range 10 { // a busy machine may take longer to connect at all
				if got = ask(t, url(d.Name), rows.Options{ConnectTimeout: time.Second, StatementTimeout: 20 * time.Second}, a, b); !errors.Is(got.Err, rows.ErrTimeout) {
					break
				}
			}
			if got.State != rows.Answered || got.Proofs[0].Verdict != rows.Opens || got.Proofs[0].Checked != 300 || got.Proofs[1].Verdict != rows.Refuted {
				t.Errorf("%+v", got)
			}
			if err := open(t, url(d.Name), rows.Options{ConnectTimeout: time.Second, StatementTimeout: time.Second}).MayRewrite(t.Context()); mode == "session" && !errors.Is(err, rows.ErrCrowded) && !errors.Is(err, rows.ErrTimeout) {
				t.Error(err)
			}
		})
	}
}

// TestPoolParameters: what the daemon's pool takes in its URL, keyguard takes.
func TestPoolParameters(t *testing.T) {
	d := cluster.Database(t)
	k := key.Generate()
	must(t, d.Upsert(k, "u", "N", nil))
	for _, parameter := range []string{"pool_max_conns=10", "pool_min_conns=1", "pool_max_conn_lifetime=1h", "pool_max_conn_idle_time=1m", "pool_health_check_period=1m",
		"pool_max_conn_lifetime_jitter=1m", "statement_cache_capacity=0", "description_cache_capacity=0", "default_query_exec_mode=simple_protocol", "default_query_exec_mode=exec",
		"target_session_attrs=read-write", "target_session_attrs=primary", "TimeZone=Europe/Berlin", "timezone=UTC", "DateStyle=ISO", "search_path=public", "connect_timeout=3"} {
		url := d.URL() + "&" + parameter
		daemon, err := pgxpool.New(t.Context(), url)
		must(t, err)
		err = daemon.Ping(t.Context())
		daemon.Close()
		if got := ask(t, url, rows.Options{}, k); err != nil || got.State != rows.Answered {
			t.Errorf("%s: the daemon %v, keyguard %+v", parameter, err, got)
		}
	}
}
