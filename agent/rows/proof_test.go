package rows_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

func row(v rowstest.Vector) rows.Row {
	return rows.Row{
		Username: v.Username, Name: v.Name, Nonce: v.Nonce, Ciphertext: v.Ciphertext,
		WrappedDEK: v.WrappedDEK, KEKID: v.KEKID,
	}
}

// TestVectors holds each row of the daemon's own code against both keys.
func TestVectors(t *testing.T) {
	a, b, vectors := rowstest.Vectors()
	if len(vectors) == 0 {
		t.Fatal("no vectors")
	}
	for _, v := range vectors {
		want := rows.Legacy
		switch {
		case strings.Contains(v.Case, "in process"):
			want = rows.InProc
		case strings.Contains(v.Case, "external"):
			want = rows.External
		}
		if got := rows.Classify(row(v)); got != want {
			t.Errorf("%s is %s", v.Case, got)
		}
		for name, k := range map[string]key.Key{"A": a, "B": b, "the zero key": {}, "another": key.Generate()} {
			if got := row(v).OpensUnder(k); got != (v.OpensWith == name) {
				t.Errorf("%s opens under %s: %v", v.Case, name, got)
			}
		}
	}
}

func TestClassify(t *testing.T) {
	id := func(s string) *string { return &s }
	vault := id("vault:https://vault.example:8200|transit|containarium")
	wrapped := bytes.Repeat([]byte{7}, 60)
	for _, c := range []struct {
		what    string
		wrapped []byte
		id      *string
		want    rows.Class
	}{
		{"never by kek_id: NULL", nil, nil, rows.Legacy},
		{"never by kek_id: empty", []byte{}, id(""), rows.Legacy},
		{"never by kek_id: in process", nil, id("inproc:master"), rows.Legacy},
		{"never by kek_id: a KMS", []byte{}, vault, rows.Legacy},
		{"in process", wrapped, id("inproc:master"), rows.InProc},
		{"in process, a byte short", wrapped[:59], id("inproc:master"), rows.UnknownClass},
		{"in process of another name", wrapped, id("inproc:other"), rows.UnknownClass},
		{"wrapped by nobody", wrapped, nil, rows.UnknownClass},
		{"wrapped by nobody, empty", wrapped, id(""), rows.UnknownClass},
		{"vault", []byte("vault:v1:AAAA"), vault, rows.External},
		{"vault, key rotated", []byte("vault:v12:AAAA"), vault, rows.External},
		{"vault with raw bytes", wrapped, vault, rows.UnknownClass},
		{"vault without version", []byte("vault:AAAA"), vault, rows.UnknownClass},
		{"vault, cut short", []byte("vault:v1:AAA"), vault, rows.UnknownClass},
		{"vault, empty", []byte("vault:v1:"), vault, rows.UnknownClass},
		{"vault, a newline", []byte("vault:v1:AAAA\n"), vault, rows.UnknownClass},
		{"vault without mount", []byte("vault:v1:AAAA"), id("vault:https://vault.example|containarium"), rows.UnknownClass},
		{"gcp", []byte("QUFBQQ=="), id("gcp:projects/p/locations/l/keyRings/r/cryptoKeys/k"), rows.External},
		{"gcp, not base64", wrapped, id("gcp:projects/p"), rows.UnknownClass},
		{"gcp of nowhere", []byte("QUFBQQ=="), id("gcp:"), rows.UnknownClass},
		{"gcp with vault's form", []byte("vault:v1:AAAA"), id("gcp:projects/p"), rows.UnknownClass},
		{"aws", []byte("QUFBQQ=="), id("aws:eu-west-1|alias/containarium"), rows.External},
		{"aws without region", []byte("QUFBQQ=="), id("aws:alias/containarium"), rows.UnknownClass},
		{"a KMS nobody knows", []byte("QUFBQQ=="), id("azure:vault|key"), rows.UnknownClass},
		{"a prefix in other letters", []byte("QUFBQQ=="), id("AWS:eu-west-1|k"), rows.UnknownClass},
	} {
		if got := rows.Classify(rows.Row{WrappedDEK: c.wrapped, KEKID: c.id}); got != c.want {
			t.Errorf("%s is %s, not %s", c.what, got, c.want)
		}
	}
}

func TestCounts(t *testing.T) {
	c := rows.Counts{Legacy: 1, InProc: 2, External: 4, Unknown: 8}
	if c.Dependent() != 3 || c.Total() != 15 {
		t.Errorf("%d dependent ones of %d", c.Dependent(), c.Total())
	}
}

// FuzzOpens: no row, however broken, panics or opens under a key that did not seal it.
func FuzzOpens(f *testing.F) {
	a, _, vectors := rowstest.Vectors()
	for _, v := range vectors {
		id := ""
		if v.KEKID != nil {
			id = *v.KEKID
		}
		f.Add(v.Username, v.Name, v.Nonce, v.Ciphertext, v.WrappedDEK, id)
	}
	f.Add("u", "N", []byte{}, []byte{}, []byte{}, "")
	f.Add("u", "N", make([]byte, 12), make([]byte, 15), make([]byte, 60), "inproc:master")
	f.Add("u", "N", make([]byte, 13), make([]byte, 16), []byte(nil), "")
	f.Fuzz(func(t *testing.T, username, name string, nonce, ciphertext, wrapped []byte, id string) {
		r := rows.Row{Username: username, Name: name, Nonce: nonce, Ciphertext: ciphertext, WrappedDEK: wrapped, KEKID: &id}
		class := rows.Classify(r)
		opens := r.OpensUnder(a)
		if opens && (!class.Dependent() || len(nonce) != 12 || len(ciphertext) < 16) {
			t.Fatalf("a %s row opens", class)
		}
		if opens && r.OpensUnder(key.Generate()) {
			t.Fatal("two keys open it")
		}
	})
}
