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

// ErrChecksum says that words are all of the list, but are no key: one was taken for
// another, or two are swapped.
var ErrChecksum = fmt.Errorf("%w: the checksum of the words does not match", ErrNotKey)

// WordError names a word that is not in the list, or where words are missing or too
// many, the count. It wraps ErrNotKey. The word itself it does not tell (law 8).
type WordError struct {
	Position int // from 1; 0 when the count is wrong
	Count    int // of all words, or of those in Line
	Line     int // of a printed sheet, from 1; 0 where the words stand in no lines
}

func (e *WordError) Error() string {
	where, want := "", wordCount
	if e.Line > 0 {
		where, want = fmt.Sprintf("line %d: ", e.Line), lineWords+1
	}
	if e.Position == 0 {
		return fmt.Sprintf("%v: %s%d words instead of %d", ErrNotKey, where, e.Count, want)
	}
	return fmt.Sprintf("%v: %sword %d of %d is not in the BIP-39 English list", ErrNotKey, where, e.Position, e.Count)
}

func (e *WordError) Unwrap() error { return ErrNotKey }

// numbers are those of the key's words in the list.
func (k Key) numbers() (list [wordCount]uint16) {
	bits := checked(k)
	defer clear(bits[:])
	for i := range list {
		for bit := i * 11; bit < i*11+11; bit++ {
			list[i] = list[i]<<1 | uint16(bits[bit/8]>>(7-bit%8)&1)
		}
	}
	return list
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
	return len(fields) >= wordCount/2 && len(fields) <= wordCount+wordCount/2 && areLetters(fields)
}

func areLetters(fields [][]byte) bool {
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
	numbers, err := numbersOf(fields, 0)
	defer clear(numbers)
	if err != nil {
		return Key{}, err
	}
	if len(numbers) != wordCount {
		return Key{}, &WordError{Count: len(numbers)}
	}
	var bits [Size + 1]byte
	defer clear(bits[:])
	for i, n := range numbers {
		for b := range 11 {
			if n>>(10-b)&1 == 1 {
				bits[(i*11+b)/8] |= 1 << (7 - (i*11+b)%8)
			}
		}
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

// numbersOf finds words in the list: their numbers count from 0. A wrong word is better
// news than a wrong count, which is the caller's to judge. The error is a *WordError
// for that line.
func numbersOf(fields [][]byte, line int) ([]uint16, error) {
	list := wordList()
	numbers := make([]uint16, len(fields))
	for i, f := range fields {
		word := strings.ToLower(string(f))
		n, ok := sort.Find(len(list), func(i int) int { return strings.Compare(word, list[i]) })
		if !ok {
			clear(numbers)
			return nil, &WordError{Position: i + 1, Count: len(fields), Line: line}
		}
		numbers[i] = uint16(n)
	}
	return numbers, nil
}
