package key

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
)

// A key can be cut into parts, of which any Need rebuild it and fewer tell nothing.
// This is Shamir's scheme ("How to Share a Secret", CACM 22, 1979), byte by byte over
// GF(2^8) with the polynomial of AES, x^8+x^4+x^3+x+1: part x of a byte is f(x), the byte
// itself f(0), for
//
//	f(x) = byte + c1·x + … + c(need-1)·x^(need-1)
//
// The coefficients are not random but HKDF-SHA256(key, no salt, info "keyguard split v1
// need=<need>"), Size bytes for c1, then for c2, and so on (RFC 5869). So a key always has
// the same parts: cutting it again, because a save broke off or a part was lost, gives
// nobody a second equation, and one part more touches no other.
//
// What that costs is a claim by computation instead of by information: to whoever holds
// fewer than Need parts the coefficients are as random unless the key itself is guessed,
// of 2^256, or 2^128 steps on a quantum computer. The part's fingerprint tells as much.
// docs/design.md has the argument.
const (
	// MaxParts is the highest number of a part, and how many may be needed. With 10, a line
	// feed, the bytes of a value would read as a raw key and a newline.
	MaxParts = 9
	// MinNeed is how many parts are needed at least: of one, each would be the key.
	MinNeed = 2

	partIntro = "keyguard-part"
	partInfo  = "keyguard split v1 need="
	// maxPart bounds a part's line, in bytes. The longest has 140.
	maxPart = 256
	// maxSubsets bounds how many combinations Rebuild tries: far more than nine parts have.
	maxSubsets = 1 << 12
)

// Part is one part of a key. Its value is kept from fmt as a Key's bytes are: one part
// tells nothing, but who collects logs may collect several. The zero Part is none.
type Part struct {
	_      [0]func()
	Of     Fingerprint // the key
	Need   int         // how many parts of these rebuild it
	Number int         // which part this is, from 1
	value  **[Size]byte
}

// ErrPart says that bytes are no key, but a part of one. It wraps ErrNotKey.
var ErrPart = fmt.Errorf("%w: it is a part of one", ErrNotKey)

// ErrPartDamaged says that bytes were a part of a key, and are damaged. It wraps ErrNotKey.
var ErrPartDamaged = fmt.Errorf("%w: a damaged part of one", ErrNotKey)

// ErrParts says that a key cannot be cut so.
var ErrParts = fmt.Errorf("a key is cut into %d to %d parts, of which at least %d are needed", MinNeed, MaxParts, MinNeed)

// PartError is the ErrPart that holds the part: what Decode says of one. The part is the
// caller's to wipe.
type PartError struct{ Part Part }

func (e *PartError) Error() string {
	return fmt.Sprintf("%v: part %d of key %s, of which %d are needed", ErrNotKey, e.Part.Number, e.Part.Of, e.Part.Need)
}

func (e *PartError) Unwrap() error { return ErrPart }

// Cut returns one part of the key. The error is ErrParts.
func (k Key) Cut(need, number int) (Part, error) {
	if k.b == nil || !canCut(need, number) {
		return Part{}, ErrParts
	}
	// HKDF fails only for more than 255 blocks of 32 bytes.
	c, err := hkdf.Key(sha256.New, k.UnsafeBytes(), nil, partInfo+strconv.Itoa(need), (need-1)*Size)
	if err != nil {
		return Part{}, err
	}
	defer clear(c)
	value := new([Size]byte)
	for i, b := range k.UnsafeBytes() {
		// Horner's rule, from the highest coefficient down.
		var f byte
		for n := need - 1; n > 0; n-- {
			f = multiply(f^c[(n-1)*Size+i], byte(number))
		}
		value[i] = f ^ b
	}
	return Part{Of: k.Fingerprint(), Need: need, Number: number, value: &value}, nil
}

func canCut(need, number int) bool {
	return need >= MinNeed && need <= MaxParts && number >= 1 && number <= MaxParts
}

// IsZero tells whether p is no part at all.
func (p Part) IsZero() bool { return p.value == nil }

// Equal tells whether two parts are the same, in constant time.
func (p Part) Equal(o Part) bool {
	return p.value != nil && o.value != nil && p.Of == o.Of && p.Need == o.Need && p.Number == o.Number &&
		subtle.ConstantTimeCompare((*p.value)[:], (*o.value)[:]) == 1
}

// Clone returns a part with bytes of its own.
func (p Part) Clone() Part {
	if p.value != nil {
		v := **p.value
		b := &v
		p.value = &b
	}
	return p
}

// Wipe overwrites the value with zeros. It may be called again, and on the zero Part.
func (p Part) Wipe() {
	if p.value != nil {
		clear((*p.value)[:])
	}
}

// String names the part, or says that there is none.
func (p Part) String() string {
	if p.value == nil {
		return "no part"
	}
	return fmt.Sprintf("part %d of key %s, of which %d are needed", p.Number, p.Of, p.Need)
}

// Format prints what String says whatever the verb.
func (p Part) Format(f fmt.State, _ rune) { io.WriteString(f, p.String()) } //nolint:errcheck // fmt has nowhere to put it

// LogValue makes slog print what String says.
func (p Part) LogValue() slog.Value { return slog.StringValue(p.String()) }

// MarshalText refuses (law 8). encoding/json and encoding/xml call it too.
func (p Part) MarshalText() ([]byte, error) { return nil, ErrMarshal }

// MarshalBinary refuses (law 8). encoding/gob calls it too.
func (p Part) MarshalBinary() ([]byte, error) { return nil, ErrMarshal }

// UnsafeText returns the part as it is stored, one line without its end:
//
//	keyguard-part v1 key=<fingerprint> need=3 part=2 value=<base64> sum=<hex>
//
// The value is base64 of the 32 bytes and the part's number behind them, as other
// implementations of the scheme over this field take it (OpenBao's sdk/helper/shamir):
// so not even the value alone is as long as a key. The sum is the first 8 bytes of the
// SHA-256 of the line before " sum=". Unsafe, as UnsafeBytes of a key is. The caller wipes
// it. It is nil for the zero Part.
func (p Part) UnsafeText() []byte {
	if p.value == nil {
		return nil
	}
	line := fmt.Appendf(make([]byte, 0, maxPart), "%s v1 key=%s need=%d part=%d value=", partIntro, p.Of, p.Need, p.Number)
	var value [Size + 1]byte
	defer clear(value[:])
	copy(value[:], (*p.value)[:])
	value[Size] = byte(p.Number)
	line = base64.StdEncoding.AppendEncode(line, value[:])
	sum := sha256.Sum256(line)
	return hex.AppendEncode(append(line, " sum="...), sum[:8])
}

// isPart tells whether text is meant to be a part's line.
func isPart(text []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte(partIntro))
}

// ParsePart reads a part's line; white space around it, and what zbarimg(1) writes before
// it, are ignored, and everything else is exact. The error is ErrNotKey where it is no
// part's line, and ErrPartDamaged where it was one. Neither tells any of it.
func ParsePart(text []byte) (Part, error) {
	text = bytes.TrimPrefix(bytes.TrimSpace(text), []byte("QR-Code:"))
	if !isPart(text) {
		return Part{}, fmt.Errorf("%w: not a part's line", ErrNotKey)
	}
	damaged := func(what string) (Part, error) { return Part{}, fmt.Errorf("%w: %s", ErrPartDamaged, what) }
	if len(text) > maxPart {
		return damaged("too long")
	}
	fields := bytes.Split(text, []byte(" "))
	if len(fields) < 2 || string(fields[0]) != partIntro || string(fields[1]) != "v1" {
		return damaged("its version is not v1")
	}
	var said [5][]byte
	names := [...]string{"key=", "need=", "part=", "value=", "sum="}
	if len(fields) != 2+len(names) {
		return damaged("words are missing or too many")
	}
	for i, name := range names {
		value, ok := bytes.CutPrefix(fields[2+i], []byte(name))
		if !ok {
			return damaged(strings.TrimSuffix(name, "=") + " is not where it belongs")
		}
		said[i] = value
	}
	of, err := ParseFingerprint(string(said[0]))
	if err != nil {
		return damaged("key is no fingerprint")
	}
	need, nerr := strconv.Atoi(string(said[1]))
	number, perr := strconv.Atoi(string(said[2]))
	if nerr != nil || perr != nil || !canCut(need, number) {
		return damaged("need or part is no number that can be")
	}
	var raw [Size + 3]byte // what DecodedLen wants at most
	defer clear(raw[:])
	if len(said[3]) != base64.StdEncoding.EncodedLen(Size+1) {
		return damaged("the value is not as long as one")
	}
	n, err := base64.StdEncoding.Strict().Decode(raw[:], said[3])
	if err != nil || n != Size+1 || int(raw[Size]) != number {
		return damaged("the value is not this part's")
	}
	value := new([Size]byte)
	copy(value[:], raw[:Size])
	p := Part{Of: of, Need: need, Number: number, value: &value}
	// Written again it must be the same: so there is one text of a part, and its sum fits.
	again := p.UnsafeText()
	defer clear(again)
	if subtle.ConstantTimeCompare(again, text) != 1 {
		p.Wipe()
		return damaged("its sum does not fit")
	}
	return p, nil
}

// MixedError says that parts are not of one key, or of one need: they are never put
// together. It wraps ErrPart.
type MixedError struct{ A, B Part }

func (e *MixedError) Error() string {
	return fmt.Sprintf("parts that do not belong together: %v, and %v", e.A, e.B)
}

func (e *MixedError) Unwrap() error { return ErrPart }

// FewPartsError says that parts are too few. It wraps ErrPart.
type FewPartsError struct {
	Of         Fingerprint
	Have, Need int
}

func (e *FewPartsError) Error() string {
	return fmt.Sprintf("%d of the %d parts that rebuild key %s", e.Have, e.Need, e.Of)
}

func (e *FewPartsError) Unwrap() error { return ErrPart }

// ErrWrongParts says that no combination of the parts rebuilds the key that they name.
var ErrWrongParts = errors.New("no combination of the parts rebuilds the key that they name")

// Rebuild returns the key of parts that all name one key and one need: of the first Need
// parts whose key has the fingerprint that they name, whichever parts those are. The
// key's own parts are then cut again, and wrong are the places in the list of those that
// are others. One part twice counts once. The parts stay the caller's.
//
// The errors are MixedError, FewPartsError and ErrWrongParts.
func Rebuild(parts []Part) (k Key, wrong []int, err error) {
	if len(parts) == 0 {
		return Key{}, nil, &FewPartsError{Need: MinNeed}
	}
	first := parts[0]
	var distinct []Part
	numbers := map[int]bool{}
	for _, p := range parts {
		if p.value == nil || !canCut(p.Need, p.Number) {
			return Key{}, nil, ErrParts
		}
		if p.Of != first.Of || p.Need != first.Need {
			return Key{}, nil, &MixedError{first, p}
		}
		if !slices.ContainsFunc(distinct, p.Equal) {
			distinct = append(distinct, p)
			numbers[p.Number] = true
		}
	}
	if len(numbers) < first.Need {
		return Key{}, nil, &FewPartsError{first.Of, len(numbers), first.Need}
	}
	tries := 0
	if k = rebuild(distinct, make([]Part, 0, first.Need), &tries); k.b == nil {
		return Key{}, nil, fmt.Errorf("%w: key %s, %d parts", ErrWrongParts, first.Of, len(distinct))
	}
	for i, p := range parts {
		own, err := k.Cut(p.Need, p.Number)
		if err != nil || !own.Equal(p) {
			wrong = append(wrong, i)
		}
		own.Wipe()
	}
	return k, wrong, nil
}

// rebuild tries every way to choose what is missing in chosen.
func rebuild(from, chosen []Part, tries *int) Key {
	if len(chosen) == cap(chosen) {
		*tries++
		k := join(chosen)
		if k.Fingerprint() == chosen[0].Of {
			return k
		}
		k.Wipe()
		return Key{}
	}
	for i, p := range from {
		if len(from)-i < cap(chosen)-len(chosen) || *tries >= maxSubsets {
			break
		}
		if slices.ContainsFunc(chosen, func(c Part) bool { return c.Number == p.Number }) {
			continue // a liar's, or its victim's: never both
		}
		if k := rebuild(from[i+1:], append(chosen, p), tries); k.b != nil {
			return k
		}
	}
	return Key{}
}

// join interpolates at 0 (Lagrange): the sum over the parts of value · weight, where a
// part's weight is the product over the others of x' / (x' - x). The numbers are public,
// the values are not: nothing here branches on them or looks up a table by them.
func join(parts []Part) Key {
	out := new([Size]byte)
	for i, p := range parts {
		weight := byte(1)
		for j, o := range parts {
			if i != j {
				weight = multiply(weight, multiply(byte(o.Number), invert(byte(o.Number)^byte(p.Number))))
			}
		}
		for n, v := range *p.value {
			out[n] ^= multiply(v, weight)
		}
	}
	return hold(out)
}

// multiply multiplies in GF(2^8), without a branch and without a table.
func multiply(a, b byte) byte {
	var product byte
	for range 8 {
		product ^= a & -(b & 1)
		a = a<<1 ^ 0x1b&-(a>>7)
		b >>= 1
	}
	return product
}

// invert is a^254, since a^255 is 1 for all but 0.
func invert(a byte) byte {
	product := byte(1)
	for range 7 { // 254 = 2 + 4 + … + 128
		a = multiply(a, a)
		product = multiply(product, a)
	}
	return product
}

// ReadParts finds the parts in a text: each of their lines, and each sheet's eight numbered
// lines of words, whatever else stands around them; and words of one sheet alone. It is nil
// where there is none. The error names the one that is damaged or mistyped, and its line.
func ReadParts(text []byte) ([]Part, error) {
	var parts []Part
	fail := func(err error) ([]Part, error) {
		for _, p := range parts {
			p.Wipe()
		}
		return nil, err
	}
	add := func(p Part) { // a sheet says its part twice, in words too
		if slices.ContainsFunc(parts, p.Equal) {
			p.Wipe()
			return
		}
		parts = append(parts, p)
	}
	pieces := bytes.Split(text, []byte(partIntro))
	for i, piece := range pieces[1:] {
		fields := bytes.Fields(piece)
		line := append([]byte(partIntro+" "), bytes.Join(fields[:min(len(fields), 6)], []byte(" "))...)
		p, err := ParsePart(line)
		clear(line)
		if err != nil {
			return fail(fmt.Errorf("part %d of the %d that stand there: %w", i+1, len(pieces)-1, err))
		}
		add(p)
	}
	sheets := partSheets(text)
	for i, sheet := range sheets {
		p, err := fromPartSheet(sheet)
		if err != nil {
			return fail(fmt.Errorf("sheet %d of the %d that stand there: %w", i+1, len(sheets), err))
		}
		add(p)
	}
	if parts != nil {
		return parts, nil
	}
	var one *PartError
	_, _, err := Decode(text)
	switch {
	case errors.As(err, &one):
		return []Part{one.Part}, nil
	case errors.Is(err, ErrPartDamaged):
		return nil, err
	}
	return nil, nil
}
