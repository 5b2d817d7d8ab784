package key

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// A sheet is how a key stands on paper: its words in six lines of four, and behind
// each four a fifth, the check word of that line.
const (
	// SheetLines is the number of lines of words on a sheet.
	SheetLines = wordCount / lineWords

	lineWords = 4 // of the key, in a line
)

// LineError names the lines of a sheet that do not fit their check words. It wraps
// ErrChecksum.
type LineError struct {
	Lines []int // from 1, ascending
}

func (e *LineError) Error() string {
	if len(e.Lines) == 1 {
		return fmt.Sprintf("%v in line %d", ErrChecksum, e.Lines[0])
	}
	return fmt.Sprintf("%v in lines %s", ErrChecksum, strings.Trim(fmt.Sprint(e.Lines), "[]"))
}

func (e *LineError) Unwrap() error { return ErrChecksum }

// UnsafeSheet returns the key as the lines of a sheet, of five words each. Unsafe, as UnsafeBytes
// is; and strings cannot be wiped. It is nil for the zero Key.
func (k Key) UnsafeSheet() [][]string {
	if k.b == nil {
		return nil
	}
	numbers := k.numbers()
	defer clear(numbers[:])
	sheet := make([][]string, SheetLines)
	for i := range sheet {
		line := numbers[i*lineWords : (i+1)*lineWords]
		for _, n := range append(line[:lineWords:lineWords], check(i+1, line)) {
			sheet[i] = append(sheet[i], wordList()[n])
		}
	}
	return sheet
}

// check computes the check word of line n, which counts from 1, of the four words
// before it. Words are their numbers in the list, from 0 to 2047:
//
//	c = n
//	for each word: c = c xor word; c = 2 × c; if c > 2047: c = c xor 2053
//
// Doubling so is multiplying by x in GF(2^11), the polynomials over GF(2) modulo the
// primitive x^11 + x^2 + 1, in which 2053 is that modulus. So for the words a b c d and
// the check word e of line n
//
//	(n + a) x^4 + b x^3 + c x^2 + d x + e = 0
//
// and since these powers of x are different and none is 0, it holds no more when any one
// of the five is another word, when any two change places, or when the line stands in
// another line's place.
func check(n int, words []uint16) uint16 {
	c := uint16(n)
	for _, w := range words {
		c = (c ^ w) << 1
		if c > 2047 {
			c ^= 2053
		}
	}
	return c
}

// CheckLine tells whether text is line n, from 1, of a sheet, as a person types it: with
// the line's number before it or without. The error is a *WordError or a *LineError.
func CheckLine(n int, text []byte) error {
	fits, err := fitsCheck(n, n, withoutNumber(n, bytes.Fields(text)))
	if err == nil && !fits {
		err = &LineError{[]int{n}}
	}
	return err
}

// fitsCheck tells whether the words of line n fit its check word, which begins with
// from: a key's lines begin with their number.
func fitsCheck(n, from int, fields [][]byte) (bool, error) {
	numbers, err := numbersOf(fields, n)
	defer clear(numbers)
	switch {
	case err != nil:
		return false, err
	case len(numbers) != lineWords+1:
		return false, &WordError{Count: len(numbers), Line: n}
	}
	return check(from, numbers[:lineWords]) == numbers[lineWords], nil
}

// withoutNumber drops the number of the line from its fields.
func withoutNumber(n int, fields [][]byte) [][]byte {
	if len(fields) > 1 && string(fields[0]) == fmt.Sprint(n) {
		return fields[1:]
	}
	return fields
}

// sheetOf finds the lines of words in a text whose fields are given: numbered ones
// among others; or, where all is words, as many lines as asked for, or five words for each
// of them. It is nil for everything else.
func sheetOf(text []byte, fields [][]byte, count int) [][][]byte {
	looksLikeWords := func(fields [][]byte) bool {
		return len(fields) >= 2*count && len(fields) <= (lineWords+2)*count && areLetters(fields)
	}
	var numbered, lines [][][]byte
	for line := range bytes.Lines(text) {
		f := bytes.Fields(line)
		if len(f) == 0 {
			continue
		}
		lines = append(lines, withoutNumber(len(lines)+1, f))
		if n := len(numbered) + 1; n <= count {
			if words := withoutNumber(n, f); len(words) < len(f) && len(words) > 2 && len(words) <= 2*lineWords && areLetters(words) {
				numbered = append(numbered, words)
			}
		}
	}
	switch {
	case len(numbered) == count:
		return numbered
	case len(lines) == count && looksLikeWords(slices.Concat(lines...)):
		return lines
	case len(fields) == count*(lineWords+1) && looksLikeWords(fields):
		return slices.Collect(slices.Chunk(fields, lineWords+1))
	}
	return nil
}

// fromSheet reads the six lines of a sheet, or 24 words that stand in six lines.
func fromSheet(lines [][][]byte) (Key, error) {
	if all := slices.Concat(lines...); len(all) == wordCount {
		return fromWords(all)
	}
	var words [][]byte
	var wrong []int
	for i, fields := range lines {
		fits, err := fitsCheck(i+1, i+1, fields)
		if err != nil {
			return Key{}, err
		}
		if !fits {
			wrong = append(wrong, i+1)
		}
		words = append(words, fields[:lineWords]...)
	}
	if wrong != nil {
		return Key{}, &LineError{wrong}
	}
	return fromWords(words)
}
