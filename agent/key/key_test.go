package key

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// Made by: printf 'keyguard fingerprint v1' | openssl dgst -sha256 -mac HMAC -macopt hexkey:<key>
// and cut to 16 digits.
var fingerprints = map[string]Fingerprint{
	"0000000000000000000000000000000000000000000000000000000000000000": "c78291322a3f4759",
	"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f": "b803a3c9f610fa86",
}

func TestFingerprint(t *testing.T) {
	for digits, want := range fingerprints {
		k := fromDigits(t, digits)
		if got := k.Fingerprint(); got != want {
			t.Errorf("%s: %s, want %s", digits, got, want)
		}
		if got, err := ParseFingerprint(string(want)); err != nil || got != want {
			t.Errorf("ParseFingerprint: %v, %v", got, err)
		}
	}
	if got := (Key{}).Fingerprint(); got != "" {
		t.Errorf("zero Key: %q", got)
	}
	for _, bad := range []string{"", "0123", "0123456789abcde", "0123456789ABCDEF", "0123456789abcdeg", "0123456789abcdef0", "0123456789abcdef\n"} {
		if got, err := ParseFingerprint(bad); !errors.Is(err, ErrFingerprint) || got != "" {
			t.Errorf("%q: %v, %v", bad, got, err)
		}
	}
}

func TestNew(t *testing.T) {
	for _, n := range []int{0, 1, 31, 33, 64} {
		if k, err := New(make([]byte, n)); !errors.Is(err, ErrSize) || !k.IsZero() {
			t.Errorf("%d bytes: %v, %v", n, k, err)
		}
	}
	b := bytes.Repeat([]byte{7}, Size)
	k, err := New(b)
	if err != nil {
		t.Fatal(err)
	}
	b[0] = 8
	if k.UnsafeBytes()[0] != 7 {
		t.Error("New keeps the caller's bytes")
	}
}

func TestEqualCloneWipe(t *testing.T) {
	a, b := Generate(), Generate()
	same, err := New(a.UnsafeBytes())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what string
		x, y Key
		want bool
	}{
		{"itself", a, a, true},
		{"the same bytes", a, same, true},
		{"another", a, b, false},
		{"none", a, Key{}, false},
		{"none and none", Key{}, Key{}, false},
	} {
		if tt.x.Equal(tt.y) != tt.want || tt.y.Equal(tt.x) != tt.want {
			t.Errorf("%s: not %v", tt.what, tt.want)
		}
	}
	shared, clone := a, a.Clone()
	a.Wipe()
	a.Wipe()
	if zero := make([]byte, Size); !bytes.Equal(shared.UnsafeBytes(), zero) {
		t.Error("a copy is not wiped with the key")
	}
	if !clone.Equal(same) {
		t.Error("a clone is wiped with the key")
	}
	if a.IsZero() {
		t.Error("a wiped key is none")
	}
	var none Key
	none.Wipe()
	if !none.IsZero() || !none.Clone().IsZero() || none.UnsafeBytes() != nil {
		t.Error("the zero Key holds something")
	}
}

// TestNothingLetsAKeyOut prints and marshals keys in every way and place (law 8).
func TestNothingLetsAKeyOut(t *testing.T) {
	k := Generate()
	type hidden struct{ k Key }
	type holder struct {
		K    Key
		P    *Key
		Any  any
		List []Key
		Map  map[string]Key
		h    hidden
		hp   *hidden
	}
	h := holder{k, &k, k, []Key{k}, map[string]Key{"k": k}, hidden{k}, &hidden{k}}
	things := map[string]any{"key": k, "pointer": &k, "slice": []Key{k}, "holder": h, "pointer to holder": &h, "hidden": h.h, "hidden pointer": h.hp, "error": fmt.Errorf("with %v %s %x: %w", k, k, k, ErrSize)}
	for name, thing := range things {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%#x", "%d", "%b", "%o", "%c", "%U", "%t", "%e", "%T", "%p", "%32v", "%-64x", "%.99v", "%!", "%z"} {
			text := fmt.Sprintf(verb, thing)
			noLeak(t, name+" "+verb, []byte(text), k)
		}
		for kind, marshal := range map[string]func(any) ([]byte, error){"json": json.Marshal, "xml": xml.Marshal, "gob": gobOf} {
			out, err := marshal(thing)
			noLeak(t, name+" "+kind, out, k)
			if err != nil {
				noLeak(t, name+" "+kind+" error", []byte(err.Error()), k)
			}
			if (name == "key" || name == "slice" || name == "holder") && err == nil {
				t.Errorf("%s: %s marshals it: %s", name, kind, out)
			}
		}
		var log bytes.Buffer
		for _, l := range []*slog.Logger{slog.New(slog.NewTextHandler(&log, nil)), slog.New(slog.NewJSONHandler(&log, nil))} {
			l.Info("a key", "it", thing, slog.Group("group", "it", thing))
		}
		noLeak(t, name+" slog", log.Bytes(), k)
		if name == "key" && bytes.Count(log.Bytes(), []byte(k.Fingerprint())) != 4 {
			t.Errorf("slog does not show the fingerprint: %s", &log)
		}
	}
	if got, want := fmt.Sprint(k, Key{}), "key "+string(k.Fingerprint())+" no key"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func gobOf(v any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

// noLeak fails if out holds a quarter of the key in any form that is likely.
func noLeak(t *testing.T, what string, out []byte, k Key) {
	t.Helper()
	const part = Size / 4
	raw := k.UnsafeBytes()
	lower := strings.ToLower(string(out))
	for i := range Size - part + 1 {
		piece := raw[i : i+part]
		forms := []string{
			hex.EncodeToString(piece), fmt.Sprintf("% x", piece), // also with upper-case digits
			strings.Trim(fmt.Sprint(piece), "[]"), strings.ReplaceAll(strings.Trim(fmt.Sprint(piece), "[]"), " ", ","),
			strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", piece), "[]byte{"), "}"),
		}
		for _, f := range forms {
			if strings.Contains(lower, f) {
				t.Fatalf("%s: a part of the key is in %q", what, out)
			}
		}
		if bytes.Contains(out, piece) {
			t.Fatalf("%s: a part of the key is in %q", what, out)
		}
	}
	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		// Any of the three ways in which base64 can fall on the bytes.
		for shift := range 3 {
			n := (Size - shift) / 3 * 3
			if all := e.EncodeToString(raw[shift : shift+n]); bytes.Contains(out, []byte(all[:12])) || bytes.Contains(out, []byte(all[len(all)-12:])) {
				t.Fatalf("%s: base64 of the key is in %q", what, out)
			}
		}
	}
}

// TestNoLeakSees checks the checker.
func TestNoLeakSees(t *testing.T) {
	k := Generate()
	b := k.UnsafeBytes()
	for _, out := range []string{
		string(b), string(b[8:16]), fmt.Sprintf("%x", b), fmt.Sprintf("%X", b[20:]), fmt.Sprintf("% X", b), fmt.Sprint(b), fmt.Sprintf("%#v", b), fmt.Sprintf("%#v", [Size]byte(b)),
		base64.StdEncoding.EncodeToString(b), base64.URLEncoding.EncodeToString(b), base64.StdEncoding.EncodeToString(append([]byte("x"), b...)),
	} {
		saw := make(chan bool)
		go func() {
			probe := &testing.T{}
			defer func() { saw <- probe.Failed() }()
			noLeak(probe, "probe", []byte("before "+out+" after"), k)
		}()
		if !<-saw {
			t.Errorf("not seen: %q", out)
		}
	}
}

func fromDigits(t *testing.T, digits string) Key {
	t.Helper()
	b, err := hex.DecodeString(digits)
	if err != nil {
		t.Fatal(err)
	}
	k, err := New(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
