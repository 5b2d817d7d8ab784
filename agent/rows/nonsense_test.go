package rows_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"unicode"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
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
	nonsenseOf(t, w, d, rows.Options{Settle: true}, k)
	nonsenseOf(t, w, d, rows.Options{Full: true}, k)
}

// nonsenseOf distorts the rows of a proof, one after the other.
func nonsenseOf(t *testing.T, w *rowstest.Wire, d *rowstest.Database, o rows.Options, k key.Key) {
	t.Helper()
	proof := func(at int64, distort func([]byte) []byte) (rows.Answer, int64) {
		var seen atomic.Int64
		w.Distort(func(m []byte) []byte {
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
	for at := range min(all, 12) {
		for what, distort := range nonsense {
			a, _ := proof(at+1, distort)
			quiet(t, a)
			switch {
			case a.State == rows.Unknown && a.Proofs[0].Verdict == rows.Unknown && !errors.Is(a.Err, rows.ErrTimeout):
			case a.State == rows.Answered && a.Proofs[0].Verdict == rows.Partial: // a row of the table that says something else
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
	for _, username := range []string{"<0>mallory\n<0>keyguard: all is lost", "\x1b[2J\u202e\u0085", "tenant " + long} {
		must(t, d.Upsert(a, username, "N", nil))
	}
	plain := func(what, text string) {
		t.Helper()
		if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsGraphic(r) }) || len(text) > 8<<10 {
			t.Errorf("%s: %q", what, text[:min(len(text), 200)])
		}
	}
	got := ask(t, d.URL(), rows.Options{Full: true}, b)
	if len(got.Unopened.Rows) != 3 {
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
