package rows_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/footprintai/containarium-keyguard/agent/internal/wiretest"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

// dataRow is a message of these values; nil is NULL.
func dataRow(values ...[]byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, uint16(len(values)))
	for _, v := range values {
		n := uint32(len(v))
		if v == nil {
			n = 1<<32 - 1
		}
		body = append(binary.BigEndian.AppendUint32(body, n), v...)
	}
	return append(binary.BigEndian.AppendUint32([]byte{'D'}, uint32(4+len(body))), body...)
}

// valuesOf takes such a message apart.
func valuesOf(message []byte) (values [][]byte) {
	for rest := message[7:]; len(rest) > 0; {
		n := int32(binary.BigEndian.Uint32(rest))
		if rest = rest[4:]; n < 0 {
			values = append(values, nil)
			continue
		}
		values, rest = append(values, rest[:n:n]), rest[n:]
	}
	return values
}

// nonsense is what a server may make of a row.
var nonsense = map[string]func(message []byte) []byte{
	"none":         func([]byte) []byte { return nil },
	"no column":    func([]byte) []byte { return dataRow() },
	"one too few":  func(m []byte) []byte { v := valuesOf(m); return dataRow(v[:len(v)-1]...) },
	"one too many": func(m []byte) []byte { return dataRow(append(valuesOf(m), []byte("x"))...) },
	"NULL":         func(m []byte) []byte { return dataRow(make([][]byte, len(valuesOf(m)))...) },
	"empty": func(m []byte) []byte {
		v := valuesOf(m)
		for i := range v {
			v[i] = []byte{}
		}
		return dataRow(v...)
	},
	"rubbish": func(m []byte) []byte {
		v := valuesOf(m)
		for i := range v {
			v[i] = []byte("\xff\x00'; drop table secrets; --")
		}
		return dataRow(v...)
	},
	"a GiB":                 func([]byte) []byte { return []byte{'D', 0x3f, 0xff, 0xff, 0xff, 0, 1} },
	"a row of 250 MB":       func([]byte) []byte { return binary.BigEndian.AppendUint32([]byte{'D'}, 250<<20) },
	"less than it says":     func(m []byte) []byte { m[5], m[6] = 0x7f, 0xff; return m },
	"a length that is none": func(m []byte) []byte { return []byte{'D', 0, 0, 0, 1} },
	"no message":            func([]byte) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") },
}

// TestNonsense: whichever row of an answer makes no sense, of whichever statement, the
// keys are neither proven nor refuted by it, nothing panics, and nothing large is kept.
func TestNonsense(t *testing.T) {
	d := cluster.Database(t)
	k := key.Generate()
	for i := range 3 {
		must(t, d.Upsert(k, "u", fmt.Sprint("N", i), []byte("v")))
	}
	w := cluster.Wire(t)
	nonsenseOf(t, w, d, rows.Options{HoldRotationLock: true}, k)
	nonsenseOf(t, w, d, rows.Options{Full: true}, k)
}

// nonsenseOf distorts the rows of a proof, one after the other.
func nonsenseOf(t *testing.T, w *rowstest.Wire, d *rowstest.Database, o rows.Options, k key.Key) {
	t.Helper()
	proof := func(at int64, distort func([]byte) []byte) (rows.Answer, int64) {
		var seen atomic.Int64
		w.Distort('D', func(m []byte) []byte {
			if seen.Add(1) == at {
				return distort(m)
			}
			return m
		})
		table := open(t, w.URL(d.Name), o)
		defer table.Close()
		stop := rowstest.WatchHeap()
		a := table.Prove(context.Background(), k)
		if most := stop(); most > 64<<20 {
			t.Errorf("%d bytes were held", most)
		}
		return a, seen.Load()
	}
	whole, all := proof(0, nil)
	if whole.State != rows.Answered || whole.Proofs[0].Verdict != rows.Opens {
		t.Fatalf("%+v", whole)
	}
	// Of the rows of the table one stands for all.
	n := 0
	for at := range min(all, 12) {
		for what, distort := range nonsense {
			if n++; brief.Run() && n%4 != 0 {
				continue
			}
			a, _ := proof(at+1, distort)
			quiet(t, a)
			switch {
			case a.State == rows.Unknown && a.Proofs[0].Verdict == rows.Unknown && !errors.Is(a.Err, rows.ErrTimeout):
			case a.State == rows.Answered && a.Proofs[0].Verdict == rows.Partial: // a row of the table that says something else
			case a.State == rows.Answered && what == "rubbish" && a.Counts.Unknown == 1: // a row of a class that nobody knows
			case a.State == rows.Answered && what == "none" && a.Proofs[0].Checked > 0: // one row less
			default:
				t.Errorf("row %d, %s: %+v", at+1, what, a)
			}
		}
	}
}

// TestNamesAreShown: what tenants and their neighbours chose leaves as one bounded,
// printable line (law 10).
func TestNamesAreShown(t *testing.T) {
	d := cluster.Database(t)
	a, b := key.Generate(), key.Generate()
	long := strings.Repeat("x", 200_000)
	whole := strings.Repeat("y", 256)
	for _, username := range []string{whole, "<0>mallory\n<0>keyguard: all is lost", "\x1b[2J\u202e\u0085", "tenant " + long} {
		must(t, d.Upsert(a, username, "N", nil))
	}
	plain := func(what, text string) {
		t.Helper()
		if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsGraphic(r) }) || len(text) > 8<<10 {
			t.Errorf("%s: %q", what, text[:min(len(text), 200)])
		}
	}
	got := ask(t, d.URL(), rows.Options{Full: true}, b)
	if len(got.Unopened.Rows) != 4 || !slices.Contains(got.Unopened.Rows, rows.RowName{Username: whole, Name: "N"}) {
		t.Fatalf("%+v", got)
	}
	for _, r := range got.Unopened.Rows {
		plain("a row", r.String())
		if len(r.Username) > 300 {
			t.Errorf("%d bytes of a name are kept", len(r.Username))
		}
	}
	_, err := open(t, d.URL(), rows.Options{}).Rewrite(t.Context(), rows.RewriteOptions{Target: b})
	if !errors.Is(err, rows.ErrUnopenable) {
		t.Fatal(err)
	}
	plain("an error", err.Error())
	must(t, d.Admin("create schema \"a\n\x1b[2J\"; alter table secrets set schema \"a\n\x1b[2J\""))
	missing := ask(t, d.URL(), rows.Options{}, a)
	plain("a schema", missing.Why)
	plain("its error", missing.Err.Error())
}

// TestEndless: a server that goes on for ever, with whatever it may say at that moment, has
// its time, and is not remembered.
func TestEndless(t *testing.T) {
	brief.Skip(t)
	text := func(s string) []byte { return append([]byte(s), 0) }
	fresh := func(i int) []byte { return append(text(fmt.Sprintf("p%d", i)), text(strings.Repeat("x", 200))...) }
	notice := func(int) []byte { return append([]byte("SNOTICE\x00C00000\x00Z"), 0, 0) }
	many := dataRow(slices.Repeat([][]byte{make([]byte, 1<<10)}, 14)...)[5:]
	row := func(int) []byte { return many }
	large := append(append([]byte("M"), bytes.Repeat([]byte("x"), 4<<20)...), 0, 0)
	message := func(kind byte, body []byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))), body...)
	}
	for _, c := range []struct {
		name    string
		asked   bool // it says so when it is asked something, and not while it takes the session in
		kind    byte
		body    func(i int) []byte
		is      error
		patient bool // it ends by itself
	}{
		{name: "parameters, at the start", kind: 'S', body: fresh, is: rows.ErrNonsense, patient: true},
		{name: "parameters, then", kind: 'S', asked: true, body: fresh, is: rows.ErrNonsense, patient: true},
		{name: "notices", kind: 'N', asked: true, body: notice, is: rows.ErrTimeout},
		{name: "large notices", kind: 'N', asked: true, body: func(int) []byte { return large }, is: rows.ErrNonsense, patient: true},
		{name: "keys to cancel by", kind: 'K', body: func(i int) []byte { return []byte{0, 0, 0, 1, 0, 0, 0, byte(i)} }, is: rows.ErrTimeout},
		{name: "rows", kind: 'D', asked: true, body: row, is: rows.ErrTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr := wiretest.Listen(t, func(closing context.Context, client net.Conn) {
				defer client.Close()
				defer context.AfterFunc(closing, func() { client.Close() })()
				buffer := make([]byte, 1<<16)
				if _, err := client.Read(buffer); err != nil {
					return
				}
				out := message('R', make([]byte, 4)) // AuthenticationOk
				if c.asked {
					client.Write(append(out, message('Z', []byte("I"))...)) //nolint:errcheck // the next says so
					if _, err := client.Read(buffer); err != nil {
						return
					}
					out = nil
				}
				if c.kind == 'D' {
					for range 5 { // that begin the transaction
						out = append(out, bytes.Join([][]byte{message('1', nil), message('2', nil), message('n', nil), message('C', text("SET"))}, nil)...)
					}
					out = append(out, bytes.Join([][]byte{message('1', nil), message('2', nil),
						message('T', append([]byte{0, 14}, bytes.Repeat(append(text("c"), make([]byte, 18)...), 14)...))}, nil)...)
				}
				for i := 0; ; i++ {
					body := c.body(i)
					out = append(binary.BigEndian.AppendUint32(append(out, c.kind), uint32(4+len(body))), body...)
					if len(out) < 64<<10 {
						continue
					}
					if _, err := client.Write(out); err != nil {
						return
					}
					out = out[:0]
				}
			})
			o := rows.Options{ConnectTimeout: 300 * time.Millisecond, StatementTimeout: 300 * time.Millisecond}
			if c.patient {
				o = rows.Options{ConnectTimeout: time.Minute, StatementTimeout: time.Minute}
			}
			table := open(t, rowstest.URLAt(addr, "d"), o)
			stop := rowstest.WatchHeap()
			a := table.Prove(context.Background(), key.Generate())
			if most := stop(); most > 64<<20 {
				t.Errorf("%d bytes were held", most)
			}
			quiet(t, a)
			if a.State != rows.Unknown || !errors.Is(a.Err, c.is) {
				t.Errorf("%+v", a)
			}
		})
	}
}

// TestRewriteNonsense: whichever answer of a rewrite makes no sense, nothing panics, and the
// rows are all old; all new, where it is the answer to the commit.
func TestRewriteNonsense(t *testing.T) {
	brief.Skip(t)
	d := cluster.Database(t)
	now := key.Generate()
	must(t, d.Upsert(now, "a", "LEGACY", []byte("one")), d.UpsertEnvelope(now, "b", "ENVELOPE", []byte("two")))
	w := cluster.Wire(t)
	rewrite := func(kind byte, at int64, distort func([]byte) []byte) (all int64) {
		var seen atomic.Int64
		w.Distort(kind, func(m []byte) []byte {
			if seen.Add(1) == at {
				return distort(m)
			}
			return m
		})
		before, next := secrets(t, d, now), key.Generate()
		_, err := open(t, w.URL(d.Name), rows.Options{}).Rewrite(t.Context(),
			rows.RewriteOptions{Target: next, Keys: []key.Key{now}, Silence: 200 * time.Millisecond})
		after := secrets(t, d, now, next)
		if err == nil || errors.Is(err, rows.ErrUnanswered) {
			before, now = under(before, next), next
		}
		compare(t, after, before)
		if err != nil {
			quiet(t, err)
		}
		if errors.Is(err, rows.ErrConnection) {
			t.Errorf("answer %c %d: %v", kind, at, err)
		}
		return seen.Load()
	}
	none := func([]byte) []byte { return nil }
	for _, c := range []struct {
		kind    byte // of the message
		last    int64
		distort func([]byte) []byte
	}{
		{'D', 100, none},
		{'D', 100, nonsense["no column"]},
		{'D', 100, nonsense["NULL"]},
		{'T', 100, none},
		// CommandComplete: of the commit, of what reads back, of the update.
		{'C', 3, none},
		{'C', 3, func([]byte) []byte { return []byte("C\x00\x00\x00\x0bCREATE\x00") }},
		{'C', 3, func([]byte) []byte { return []byte("C\x00\x00\x00\x05\x00") }},
	} {
		all := rewrite(c.kind, 0, nil)
		for at := max(all-c.last, 0); at < all; at++ {
			rewrite(c.kind, at+1, c.distort)
		}
	}
}

// TestCommitAnswers: a rewrite is done where the server says so. What the server rolled back or
// refused is not, and of all else nobody knows.
func TestCommitAnswers(t *testing.T) {
	d := cluster.Database(t)
	now := key.Generate()
	must(t, d.Upsert(now, "a", "LEGACY", []byte("one")))
	w := cluster.Wire(t)
	for name, c := range map[string]struct {
		kind    byte // of the message
		says    string
		is      error
		unknown bool
	}{
		"done":         {'C', "COMMIT\x00", nil, false},
		"rolled back":  {'C', "ROLLBACK\x00", rows.ErrServer, false},
		"another word": {'C', "CREATE\x00", rows.ErrNonsense, true},
		"refused":      {'E', "SERROR\x00VERROR\x00C40001\x00Mno\x00\x00", rows.ErrServer, false},
		"ended":        {'E', "SFATAL\x00VFATAL\x00C57P01\x00Mno\x00\x00", rows.ErrUnanswered, true},
	} {
		var commits atomic.Bool
		w.Distort('C', func(m []byte) []byte {
			if !commits.Load() {
				return m
			}
			return append(binary.BigEndian.AppendUint32([]byte{c.kind}, uint32(4+len(c.says))), c.says...)
		})
		next := key.Generate()
		_, err := open(t, w.URL(d.Name), rows.Options{}).Rewrite(t.Context(), rows.RewriteOptions{Target: next, Keys: []key.Key{now},
			BeforeCommit: func(context.Context, rows.RewriteResult) error { commits.Store(true); return nil }})
		if !errors.Is(err, c.is) || errors.Is(err, rows.ErrUnanswered) != c.unknown {
			t.Errorf("%s: %v", name, err)
		}
		now = next // the wire alone says something else
	}
}
