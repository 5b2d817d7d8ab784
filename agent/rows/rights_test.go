package rows_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

// TestNoStandby: a standby that is away would hold the commit, with the daemon stopped for it.
func TestNoStandby(t *testing.T) {
	db := rowstest.New(t).Database(t)
	for _, change := range []struct {
		sql, shown string
		err        error
	}{{"alter system set synchronous_standby_names = 'away'", "away", rows.ErrNoStandby}, {"alter system reset synchronous_standby_names", "", nil}} {
		if err := errors.Join(db.Admin(change.sql), db.Admin("select pg_reload_conf()")); err != nil {
			t.Fatal(err)
		}
		for shown := "?"; shown != change.shown; { // the server reads it by and by, and has new sessions know
			s, err := db.Session()
			if err != nil {
				t.Fatal(err)
			}
			r, err := s.Exec("show synchronous_standby_names")
			if err = errors.Join(err, s.Close()); err != nil {
				t.Fatal(err)
			}
			shown = r[0][0]
		}
		table, err := rows.Open(rows.Location{URL: db.URL(), From: "the test"}, rows.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := table.MayRewrite(t.Context()); !errors.Is(err, change.err) {
			t.Errorf("%s: %v", change.sql, err)
		}
		table.Close()
	}
}

// TestMayRewrite tells, before a daemon is stopped for it, that the role may not rewrite.
func TestMayRewrite(t *testing.T) {
	cluster := rowstest.New(t)
	for _, c := range []struct {
		name, sql string
		lacks     []string
	}{
		{name: "all rights"},
		{"no UPDATE", "revoke update on secrets from current_user", []string{"UPDATE on table"}},
		{"no TEMP", "do $$ begin execute format('revoke temporary on database %I from public, %I', current_database(), current_user); end $$", []string{"TEMPORARY on database"}},
		{"read-only by default", "do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$", []string{"default_transaction_read_only"}},
		{"neither", "revoke update on secrets from current_user; do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$",
			[]string{"UPDATE on table", "default_transaction_read_only"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := cluster.Database(t)
			for statement := range strings.SplitSeq(strings.ReplaceAll(c.sql, "; do", "\x00do"), "\x00") {
				if statement == "" {
					continue
				}
				if _, err := db.Exec(statement); err != nil {
					t.Fatal(err)
				}
			}
			table, err := rows.Open(rows.Location{URL: db.URL(), From: "the test"}, rows.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer table.Close()
			err = table.MayRewrite(t.Context())
			if (err != nil) != (c.lacks != nil) || err != nil && !errors.Is(err, rows.ErrMayNot) {
				t.Fatal(err)
			}
			for _, right := range c.lacks {
				if !strings.Contains(err.Error(), right) {
					t.Errorf("%q is not named: %v", right, err)
				}
			}
		})
	}
}
