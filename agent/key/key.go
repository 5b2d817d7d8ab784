// Package key holds the one secret of the system: the 32-byte AES-256-GCM master
// key of the containarium daemon, and its public name, the fingerprint.
//
// A Key keeps its bytes out of the reach of fmt and refuses every way of being printed
// or marshalled (law 8): what reaches a log, an error or a format verb is the
// fingerprint. Wipe overwrites the bytes. What it cannot reach, and so is not
// wiped, are the cipher schedules made from a key, the buffers of TLS and of the
// vendors' SDKs, and the strings that decoding text passes through.
package key

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Size is the length of a key in bytes: AES-256 (FIPS 197).
const Size = 32

// ErrSize says that bytes offered as a key were not exactly Size bytes.
var ErrSize = errors.New("a key has exactly 32 bytes")

// ErrMarshal is what every marshaller of a Key returns (law 8).
var ErrMarshal = errors.New("a key is never marshalled")

// Key is 32 secret bytes. The zero Key holds none; IsZero tells.
// Copies of a Key share the bytes, so a Wipe of one wipes all: Clone before
// handing a key to somebody who outlives its owner. Keys cannot be compared with ==,
// which would compare pointers and leak time: Equal is the way.
type Key struct {
	_ [0]func() // makes == a compile error
	// The second pointer is not for us. Where a Key lies in an unexported field fmt
	// cannot call its methods; one pointer to an array it follows, for a verb that
	// does not fit (%s), and prints the array. Two it does not.
	b **[Size]byte
}

func hold(b *[Size]byte) Key { return Key{b: &b} }

// Generate makes a new key from the kernel's random source, getrandom(2).
func Generate() Key {
	k := hold(new([Size]byte))
	// crypto/rand.Read never returns an error; it crashes the process instead.
	rand.Read((*k.b)[:]) //nolint:errcheck
	return k
}

// New copies b into a Key. It returns ErrSize unless b has exactly Size bytes.
func New(b []byte) (Key, error) {
	if len(b) != Size {
		return Key{}, fmt.Errorf("%w, not %d", ErrSize, len(b))
	}
	k := hold(new([Size]byte))
	copy((*k.b)[:], b)
	return k, nil
}

// IsZero tells whether k holds no key at all (not: a key of zero bytes).
func (k Key) IsZero() bool { return k.b == nil }

// Clone returns a key with bytes of its own.
func (k Key) Clone() Key {
	if k.b == nil {
		return Key{}
	}
	c := hold(new([Size]byte))
	**c.b = **k.b
	return c
}

// UnsafeBytes returns the key's own bytes, not a copy: they change with Wipe, and
// whoever calls this answers for where they go (law 8). It is nil for the zero Key.
func (k Key) UnsafeBytes() []byte {
	if k.b == nil {
		return nil
	}
	return (*k.b)[:]
}

// Equal compares in constant time. The zero Key equals nothing, not even itself.
func (k Key) Equal(o Key) bool {
	return k.b != nil && o.b != nil && subtle.ConstantTimeCompare((*k.b)[:], (*o.b)[:]) == 1
}

// Wipe overwrites the bytes with zeros. It may be called again, and on the zero Key.
func (k Key) Wipe() {
	if k.b != nil {
		clear((*k.b)[:])
	}
}

// fingerprinted is what the HMAC of a fingerprint is of.
const fingerprinted = "keyguard fingerprint v1"

// Fingerprint is the key's public name: the first 8 bytes, as 16 hex digits, of
// HMAC-SHA256(key, "keyguard fingerprint v1") (RFC 2104). It is "" for the zero Key.
//
// crypto/hmac leaves two copies of the key on the heap, xored with a byte, and nobody can
// wipe them. These are wiped.
func (k Key) Fingerprint() Fingerprint {
	if k.b == nil {
		return ""
	}
	var inner [sha256.BlockSize + len(fingerprinted)]byte
	var outer [sha256.BlockSize + sha256.Size]byte
	defer clear(inner[:])
	defer clear(outer[:])
	copy(inner[:], (*k.b)[:])
	copy(outer[:], (*k.b)[:])
	for i := range sha256.BlockSize {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	copy(inner[sha256.BlockSize:], fingerprinted)
	sum := sha256.Sum256(inner[:])
	copy(outer[sha256.BlockSize:], sum[:])
	sum = sha256.Sum256(outer[:])
	return Fingerprint(hex.EncodeToString(sum[:8]))
}

// String names the key by its fingerprint, or says that there is none.
func (k Key) String() string {
	if k.b == nil {
		return "no key"
	}
	return "key " + string(k.Fingerprint())
}

// Format prints what String says whatever the verb, so that no format string can let
// the bytes out.
func (k Key) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) } //nolint:errcheck // fmt has nowhere to put it

// LogValue makes slog print the fingerprint.
func (k Key) LogValue() slog.Value { return slog.StringValue(string(k.Fingerprint())) }

// MarshalText refuses (law 8). encoding/json and encoding/xml call it too.
func (k Key) MarshalText() ([]byte, error) { return nil, ErrMarshal }

// MarshalBinary refuses (law 8). encoding/gob calls it too.
func (k Key) MarshalBinary() ([]byte, error) { return nil, ErrMarshal }

// Fingerprint names a key in public: 16 lower-case hex digits. "" means unknown.
type Fingerprint string

// ErrFingerprint says that a text is not a fingerprint.
var ErrFingerprint = errors.New("a fingerprint has 16 lower-case hex digits")

// ParseFingerprint checks the form; whether such a key exists, nobody knows.
func ParseFingerprint(s string) (Fingerprint, error) {
	if len(s) == 16 && strings.Trim(s, "0123456789abcdef") == "" {
		return Fingerprint(s), nil
	}
	return "", fmt.Errorf("%w: %q", ErrFingerprint, s)
}
