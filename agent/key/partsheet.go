package key

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
)

// A part stands on paper in eight lines of four words and a check word. The 32 words say
// the part's number, how many are needed, the fingerprint, the value, and two bytes of
// checksum; the check words of its lines begin elsewhere than a key's. So no line of a
// part passes for a key's, or for another part's, and no sheet of a part for a key.
const (
	// PartLines is the number of lines of words on a part's sheet.
	PartLines = 8

	partWords  = PartLines * lineWords
	partBytes  = 1 + 1 + 8 + Size + 2 // 352 bits, 11 a word
	partDomain = "keyguard part sheet v1"
)

// lineFrom is what the check word of line n of a part begins with: above all numbers of a
// key's lines, and different for each line of each part.
func lineFrom(number, n int) int { return 16*number + n }

// partSum is the checksum of what a part's words say before it.
func partSum(said []byte) (sum [2]byte) {
	h := sha256.New()
	h.Write([]byte(partDomain))
	h.Write(said)
	copy(sum[:], h.Sum(nil))
	return sum
}

// UnsafeSheet returns the part as the lines of a sheet, of five words each. Unsafe, as
// UnsafeText is. It is nil for the zero Part.
func (p Part) UnsafeSheet() [][]string {
	if p.value == nil {
		return nil
	}
	var bits [partBytes]byte
	defer clear(bits[:])
	bits[0], bits[1] = byte(p.Number), byte(p.Need)
	of, err := hex.DecodeString(string(p.Of))
	if err != nil || len(of) != 8 {
		return nil
	}
	copy(bits[2:], of)
	copy(bits[10:], (*p.value)[:])
	sum := partSum(bits[:partBytes-2])
	copy(bits[partBytes-2:], sum[:])
	sheet := make([][]string, PartLines)
	for i := range sheet {
		var line [lineWords + 1]uint16
		for w := range lineWords {
			for bit := (i*lineWords + w) * 11; bit < (i*lineWords+w)*11+11; bit++ {
				line[w] = line[w]<<1 | uint16(bits[bit/8]>>(7-bit%8)&1)
			}
		}
		line[lineWords] = check(lineFrom(p.Number, i+1), line[:lineWords])
		for _, n := range line {
			sheet[i] = append(sheet[i], wordList()[n])
		}
		clear(line[:])
	}
	return sheet
}

// fromPartSheet reads the eight lines of a part's sheet. The errors are a *WordError, a
// *LineError and ErrPartDamaged.
func fromPartSheet(lines [][][]byte) (Part, error) {
	var bits [partBytes]byte
	defer clear(bits[:])
	var wrong []int
	number := 0
	for i, fields := range lines {
		numbers, err := numbersOf(fields, i+1)
		if err == nil && len(numbers) != lineWords+1 {
			err = &WordError{Count: len(numbers), Line: i + 1}
		}
		if err != nil {
			clear(numbers)
			return Part{}, err
		}
		if i == 0 {
			number = int(numbers[0] >> 3) // the first 8 of its 11 bits
		}
		// A first line that is wrong leaves nothing to check the others by.
		if fits := check(lineFrom(number, i+1), numbers[:lineWords]) == numbers[lineWords]; !fits && (len(wrong) == 0 || wrong[0] != 1) {
			wrong = append(wrong, i+1)
		}
		for w, n := range numbers[:lineWords] {
			for b := range 11 {
				if bit := (i*lineWords+w)*11 + b; n>>(10-b)&1 == 1 {
					bits[bit/8] |= 1 << (7 - bit%8)
				}
			}
		}
		clear(numbers)
	}
	if wrong != nil {
		return Part{}, &LineError{wrong}
	}
	sum := partSum(bits[:partBytes-2])
	need := int(bits[1])
	if subtle.ConstantTimeCompare(sum[:], bits[partBytes-2:]) != 1 || !canCut(need, number) {
		return Part{}, fmt.Errorf("%w: the checksum of its words does not match", ErrPartDamaged)
	}
	value := new([Size]byte)
	copy(value[:], bits[10:])
	return Part{Of: Fingerprint(hex.EncodeToString(bits[2:10])), Need: need, Number: number, value: &value}, nil
}

// CheckPartLine tells whether text is line n, from 1, of the sheet of a part, as a person
// types it. The first line says which part it is, and that is returned; for the lines
// after it the caller hands it back. The error is a *WordError or a *LineError.
func CheckPartLine(n, number int, text []byte) (int, error) {
	fields := withoutNumber(n, bytes.Fields(text))
	if n == 1 {
		numbers, err := numbersOf(fields, n)
		if err != nil {
			return 0, err
		}
		if len(numbers) > 0 {
			number = int(numbers[0] >> 3)
		}
		clear(numbers)
	}
	fits, err := fitsCheck(n, lineFrom(number, n), fields)
	if err == nil && (!fits || number < 1 || number > MaxParts) {
		err = &LineError{[]int{n}}
	}
	return number, err
}

// partSheets finds runs of lines of words that are numbered from 1, as long as a part's sheet:
// each is one. A shorter run is one that is not whole if its first line is a part's; a single
// line is none.
func partSheets(text []byte) (sheets [][][][]byte) {
	var run [][][]byte
	end := func() {
		if len(run) == PartLines {
			sheets = append(sheets, run)
		} else if len(run) > 1 {
			if _, err := CheckPartLine(1, 0, bytes.Join(run[0], []byte(" "))); err == nil {
				for len(run) < PartLines {
					run = append(run, nil)
				}
				sheets = append(sheets, run)
			}
		}
		run = nil
	}
	for line := range bytes.Lines(text) {
		f := bytes.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(run) == PartLines || len(f) > 1 && string(f[0]) == "1" {
			end()
		}
		words := withoutNumber(len(run)+1, f)
		if len(words) == len(f) || len(words) > 2*lineWords || !areLetters(words) {
			end()
			continue
		}
		run = append(run, words)
	}
	end()
	return sheets
}
