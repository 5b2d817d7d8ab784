package key

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

// Encoding says how the bytes that held a key were written.
type Encoding string

// The encodings in which people and tools leave keys. Only Raw is what the daemon
// reads and what the runbook's `latest` must return.
const (
	Raw     Encoding = "raw"
	Newline Encoding = "raw with a newline" // 32 bytes and then LF or CR LF
	Hex     Encoding = "hex"
	Base64  Encoding = "base64"               // RFC 4648, standard or URL alphabet, padded or not
	Sheet   Encoding = "the words of a sheet" // with the check word of each line
	// Words are 24 English words of BIP-39 alone. Of 256 mistakes their checksum lets one
	// pass: only the rows, or the fingerprint, say that it is the key that was meant.
	Words Encoding = "words"
)

// ErrNotKey says that bytes are no known encoding of a key.
var ErrNotKey = errors.New("not a key")

// ErrMangled says that bytes were a key once: a tool took them for UTF-8 text and put
// U+FFFD in place of every byte that was not. That key cannot be had back from them.
// `gcloud secrets versions access | tee` and `vault kv put value=@file` do this. It
// wraps ErrNotKey. What is left has any length, 32 bytes too.
var ErrMangled = fmt.Errorf("%w: destroyed by a conversion to UTF-8", ErrNotKey)

// replacement is U+FFFD, as UTF-8 and as JSON writes it.
var replacement = [...][]byte{[]byte("\uFFFD"), []byte(`\ufffd`)}

// Decode reads a key as people and tools leave it: for import, and for a damaged
// keyfile or copy that may still hold one. Storage is exact, so nothing but 32 bytes
// is Raw; and 32 bytes are Raw whatever else they look like, a password, digits or
// zeros, because the daemon takes them. Only 32 that are ErrMangled are not: of the
// keys that Generate makes one in 2^43 is UTF-8 throughout with U+FFFD in it.
//
// White space around and inside hex and base64 is ignored (xxd -p and base64 wrap
// lines). Base64 is strict otherwise: bits that no encoder sets mean damage.
//
// Of a printed sheet as text it takes the lines of words and leaves the rest.
//
// A part of a key is none: it is a *PartError, which holds it, or ErrPartDamaged.
//
// The error is one of these, ErrMangled, a *WordError, a *LineError, ErrChecksum, or plain
// ErrNotKey, which they all wrap. Its text tells lengths and positions, never a part of b (law 8).
func Decode(b []byte) (Key, Encoding, error) {
	if utf8.Valid(b) {
		lost := 0
		for _, r := range replacement {
			lost += bytes.Count(b, r)
		}
		if lost > 0 {
			return Key{}, "", fmt.Errorf("%w: %d bytes, %d times U+FFFD", ErrMangled, len(b), lost)
		}
	}
	if len(b) == Size {
		k, err := New(b)
		return k, Raw, err
	}
	if line, ok := cutNewline(b); ok && len(line) == Size {
		k, err := New(line)
		return k, Newline, err
	}
	if text := bytes.TrimPrefix(bytes.TrimSpace(b), []byte("QR-Code:")); isPart(text) {
		return Key{}, "", asError(ParsePart(text))
	}
	fields := bytes.Fields(b)
	// A part's lines all have their check words; a key's 24 words may stand in any lines.
	if lines := sheetOf(b, fields, PartLines); len(slices.Concat(lines...)) > partWords {
		return Key{}, "", asError(fromPartSheet(lines))
	}
	if lines := sheetOf(b, fields, SheetLines); lines != nil {
		k, err := fromSheet(lines)
		if err != nil {
			return Key{}, "", err
		}
		if len(slices.Concat(lines...)) == wordCount { // without check words
			return k, Words, nil
		}
		return k, Sheet, nil
	}
	if looksLikeWords(fields) {
		k, err := fromWords(fields)
		if err != nil {
			return Key{}, "", err
		}
		return k, Words, nil
	}
	if len(b) <= maxText {
		all := bytes.Join(fields, nil)
		defer clear(all)
		text := bytes.TrimPrefix(all, []byte("QR-Code:")) // zbarimg(1) writes it before what it read
		if k, ok := fromHex(text); ok {
			return k, Hex, nil
		}
		if k, ok := fromBase64(text); ok {
			return k, Base64, nil
		}
	}
	return Key{}, "", fmt.Errorf("%w: %d bytes in no known encoding of one", ErrNotKey, len(b))
}

// asError is a part on its way to who wanted a key.
func asError(p Part, err error) error {
	if err == nil {
		err = &PartError{p}
	}
	return err
}

// maxText bounds, in bytes, what is searched for hex or base64: 64 digits, each on a
// line of its own and indented, still fit.
const maxText = 4096

func cutNewline(b []byte) ([]byte, bool) {
	line, ok := bytes.CutSuffix(b, []byte("\n"))
	// CR belongs to the newline only where a key is left without it: a raw key may
	// end in 0x0d.
	if ok && len(line) == Size+1 {
		return bytes.CutSuffix(line, []byte("\r"))
	}
	return line, ok
}

func fromHex(text []byte) (Key, bool) {
	if len(text) != hex.EncodedLen(Size) {
		return Key{}, false
	}
	k := hold(new([Size]byte))
	if _, err := hex.Decode(k.UnsafeBytes(), text); err != nil {
		k.Wipe()
		return Key{}, false
	}
	return k, true
}

func fromBase64(text []byte) (Key, bool) {
	for _, e := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if len(text) != e.EncodedLen(Size) {
			continue
		}
		raw := make([]byte, e.DecodedLen(len(text)))
		n, err := e.Strict().Decode(raw, text)
		if err == nil && n == Size {
			k, err := New(raw[:n])
			clear(raw)
			return k, err == nil
		}
		clear(raw)
	}
	return Key{}, false
}
