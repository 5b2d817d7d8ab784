package key

import (
	"crypto/sha256"
	_ "embed"
	"fmt"
	"sort"
	"strings"
	"sync"
)

// wordCount is the number of words of a key: 256 bits and 8 of checksum, 11 a word
// (BIP-39, https://github.com/bitcoin/bips/blob/master/bip-0039.mediawiki).
const wordCount = 24

//go:embed english.txt
var english string

// wordList is the English list of BIP-39, 2048 sorted words. It is made when first
// needed: a healthy start of the daemon never pays for it, as it would for a library
// that builds maps of ten languages at program start.
var wordList = sync.OnceValue(func() []string { return strings.Fields(english) })

// ErrChecksum says that 24 words are all of the list, but are no key: one was taken
// for another, or two are swapped.
var ErrChecksum = fmt.Errorf("%w: the checksum of the words does not match", ErrNotKey)

// WordError names a word that is not in the list, or where words are missing or too
// many, the count. It wraps ErrNotKey. The word itself it does not tell (law 8).
type WordError struct {
	Position int // from 1; 0 when the count is wrong
	Count    int // of all words
}

func (e *WordError) Error() string {
	if e.Position == 0 {
		return fmt.Sprintf("%v: %d words instead of %d", ErrNotKey, e.Count, wordCount)
	}
	return fmt.Sprintf("%v: word %d of %d is not in the BIP-39 English list", ErrNotKey, e.Position, e.Count)
}

func (e *WordError) Unwrap() error { return ErrNotKey }

// UnsafeWords returns the key as 24 words. Unsafe, as UnsafeBytes is; and strings
// cannot be wiped. It is nil for the zero Key.
func (k Key) UnsafeWords() []string {
	if k.b == nil {
		return nil
	}
	bits := checked(k)
	defer clear(bits[:])
	words := make([]string, wordCount)
	for i := range words {
		n := 0
		for bit := i * 11; bit < i*11+11; bit++ {
			n = n<<1 | int(bits[bit/8]>>(7-bit%8)&1)
		}
		words[i] = wordList()[n]
	}
	return words
}

// checked is the key followed by its checksum, the first byte of its SHA-256.
func checked(k Key) (bits [Size + 1]byte) {
	sum := sha256.Sum256(k.UnsafeBytes())
	copy(bits[:], k.UnsafeBytes())
	bits[Size] = sum[0]
	return bits
}

// looksLikeWords tells whether somebody who wrote these fields meant words: letters
// only, and about as many as a key has. The point is the error they get.
func looksLikeWords(fields [][]byte) bool {
	if len(fields) < wordCount/2 || len(fields) > wordCount+wordCount/2 {
		return false
	}
	for _, f := range fields {
		for _, c := range f {
			if c|0x20 < 'a' || c|0x20 > 'z' {
				return false
			}
		}
	}
	return true
}

func fromWords(fields [][]byte) (Key, error) {
	var bits [Size + 1]byte
	defer clear(bits[:])
	list := wordList()
	for i, f := range fields {
		word := strings.ToLower(string(f))
		n, ok := sort.Find(len(list), func(i int) int { return strings.Compare(word, list[i]) })
		if !ok {
			return Key{}, &WordError{Position: i + 1, Count: len(fields)}
		}
		if i >= wordCount {
			continue // only looked up: a wrong word is better news than a wrong count
		}
		for b := range 11 {
			if n>>(10-b)&1 == 1 {
				bits[(i*11+b)/8] |= 1 << (7 - (i*11+b)%8)
			}
		}
	}
	if len(fields) != wordCount {
		return Key{}, &WordError{Count: len(fields)}
	}
	k, err := New(bits[:Size])
	if err != nil {
		return Key{}, err
	}
	if checked(k) != bits {
		k.Wipe()
		return Key{}, ErrChecksum
	}
	return k, nil
}
