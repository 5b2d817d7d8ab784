package key

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
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
	for range 1000 {
		k := Generate()
		m := hmac.New(sha256.New, k.UnsafeBytes())
		m.Write([]byte("keyguard fingerprint v1"))
		if got, want := string(k.Fingerprint()), hex.EncodeToString(m.Sum(nil)[:8]); got != want {
			t.Fatalf("%s, and crypto/hmac says %s", got, want)
		}
	}
	k := Generate()
	if n := testing.AllocsPerRun(100, func() { k.Fingerprint() }); n > 1 { // the text
		t.Errorf("what holds the key is on the heap: %v allocations", n)
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
