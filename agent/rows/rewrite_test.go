package rows_test

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"

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
			keys: []key.Key{a},
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
			keys: []key.Key{a},
			want: rows.RewriteResult{
				Counts: rows.Counts{Legacy: 2, InProc: 2}, Rewritten: 1, Rewrapped: 1, AlreadyUnder: 2,
				ByKey: map[key.Fingerprint]int64{a.Fingerprint(): 2, target.Fingerprint(): 2},
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
