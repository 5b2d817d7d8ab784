package key

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// handChecks are the check words of the key of 32 bytes of 0, 1, 2 … , by this program:
//
//	python3 - <<'EOF'
//	import hashlib
//	L = open("english.txt").read().split()
//	k = bytes(range(32)); n = int.from_bytes(k + hashlib.sha256(k).digest()[:1], "big")
//	w = [n >> 11*(23-i) & 2047 for i in range(24)]
//	for l in range(6):
//	    c = l + 1
//	    for x in w[4*l:4*l+4]:
//	        c = (c ^ x) * 2
//	        if c > 2047: c ^= 2053
//	    print(*[L[x] for x in w[4*l:4*l+4]], L[c])
//	EOF
var handChecks = []string{
	"abandon amount liar amount expect",
	"expire adjust cage candy taste",
	"arch gather drum bullet maid",
	"absurd math era live grocery",
	"bid rhythm alien crouch thank",
	"range attend journey unaware fluid",
}

func TestSheet(t *testing.T) {
	b := make([]byte, Size)
	for i := range b {
		b[i] = byte(i)
	}
	k, err := New(b)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, line := range k.UnsafeSheet() {
		got = append(got, strings.Join(line, " "))
	}
	if !slices.Equal(got, handChecks) {
		t.Errorf("%q\nwant %q", got, handChecks)
	}
	if (Key{}).UnsafeSheet() != nil {
		t.Error("the zero Key has a sheet")
	}
	numbered, prose := "", "This page holds one key, and tells 2 things.\n\n1 QR code\n"
	for i, line := range got {
		numbered += fmt.Sprintf("  %d  %s\r\n", i+1, line)
		if err := CheckLine(i+1, []byte(line)); err != nil {
			t.Error(err)
		}
		if err := CheckLine(i+1, fmt.Appendf(nil, " %d %s\n", i+1, strings.ToUpper(line))); err != nil {
			t.Error(err)
		}
	}
	for what, text := range map[string]string{
		"lines":                   strings.Join(got, "\n"),
		"one line":                strings.Join(got, " ") + "\n",
		"a word a line":           strings.Join(strings.Fields(strings.Join(got, " ")), "\n"),
		"numbered":                numbered,
		"the second is numbered":  strings.Join(append([]string{got[0], "2 " + got[1]}, got[2:]...), "\n"),
		"without check words":     strings.Join(k.UnsafeWords(), " "),
		"four words a line":       fours(k.UnsafeWords(), ""),
		"numbered, four a line":   fours(k.UnsafeWords(), "n "),
		"numbered, among prose":   prose + numbered + "\n1 2 3\nMore words.\n",
		"empty lines, upper case": strings.ToUpper(strings.Join(got, "\n\n")) + "\n\n",
	} {
		want := Sheet
		if what == "without check words" || strings.Contains(what, "four") {
			want = Words
		}
		if read, enc, err := Decode([]byte(text)); err != nil || enc != want || !read.Equal(k) {
			t.Errorf("%s: %v, %q, %v", what, read, enc, err)
		}
	}
}

// fours writes words four a line, with the line's number before it where a prefix is given.
func fours(words []string, prefix string) string {
	s := ""
	for i := 0; i < len(words); i += 4 {
		s += strings.Replace(prefix, "n", fmt.Sprint(i/4+1), 1) + strings.Join(words[i:i+4], " ") + "\n"
	}
	return s
}

// keysOfSheets is how many keys the tests of wrong lines take.
func keysOfSheets(t *testing.T) int {
	if testing.Short() { // under the race detector
		return 50
	}
	return 1000
}

// TestEveryWrongWord puts, on the sheets of many keys, every other word of the list in
// the place of every word, and swaps all neighbours in every line: no line fits any more.
func TestEveryWrongWord(t *testing.T) {
	keys := keysOfSheets(t)
	wrong, swaps := 0, 0
	for range keys {
		numbers := Generate().numbers()
		for l := range SheetLines {
			n := l + 1
			line := append(slices.Clone(numbers[l*lineWords:(l+1)*lineWords]), 0)
			line[lineWords] = check(n, line[:lineWords])
			for i, right := range line {
				for other := range uint16(len(wordList())) {
					if line[i] = other; other != right {
						wrong++
						if check(n, line[:lineWords]) == line[lineWords] {
							t.Fatalf("line %d fits with another word %d", n, i+1)
						}
					}
				}
				line[i] = right
			}
			for i := range line {
				for j := range i { // neighbours among them
					if line[i] == line[j] {
						continue
					}
					swaps++
					line[i], line[j] = line[j], line[i]
					if check(n, line[:lineWords]) == line[lineWords] {
						t.Fatalf("line %d fits with words %d and %d swapped", n, j+1, i+1)
					}
					line[i], line[j] = line[j], line[i]
				}
			}
			for other := range SheetLines {
				if other != l && check(other+1, line[:lineWords]) == line[lineWords] {
					t.Fatalf("line %d fits as line %d", n, other+1)
				}
			}
		}
	}
	if wrong != keys*30*2047 || swaps < keys*6*10-keys {
		t.Errorf("only %d wrong words and %d swaps of %d keys", wrong, swaps, keys)
	}
}

// TestWrongLineIsNamed is TestEveryWrongWord as people meet it: in text, with one other
// word in each place and every swap of neighbours, and the line told.
func TestWrongLineIsNamed(t *testing.T) {
	list := wordList()
	for range keysOfSheets(t) {
		sheet := Generate().UnsafeSheet()
		text := func() []byte {
			s := ""
			for _, line := range sheet {
				s += strings.Join(line, " ") + "\n"
			}
			return []byte(s)
		}
		named := func(what string, l int) {
			t.Helper()
			var e *LineError
			_, _, err := Decode(text())
			if !errors.As(err, &e) || !slices.Equal(e.Lines, []int{l + 1}) || !errors.Is(err, ErrChecksum) {
				t.Fatalf("%s in line %d: %v", what, l+1, err)
			}
			if err := CheckLine(l+1, []byte(strings.Join(sheet[l], " "))); !errors.As(err, &e) || !slices.Equal(e.Lines, []int{l + 1}) {
				t.Fatalf("%s in line %d: %v", what, l+1, err)
			}
		}
		for l, line := range sheet {
			for i, right := range line {
				for line[i] == right {
					line[i] = list[rand.IntN(len(list))]
				}
				named("a wrong word", l)
				line[i] = right
				if i > 0 && line[i-1] != right {
					line[i-1], line[i] = line[i], line[i-1]
					named("a swap", l)
					line[i-1], line[i] = line[i], line[i-1]
				}
			}
		}
		if _, _, err := Decode(text()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWrongSheets(t *testing.T) {
	good := fromDigits(t, strings.Repeat("7f", 32)).UnsafeSheet()
	with := func(change func([][]string) [][]string) string {
		sheet := make([][]string, len(good))
		for i := range good {
			sheet[i] = slices.Clone(good[i])
		}
		s := ""
		for _, line := range change(sheet) {
			s += strings.Join(line, " ") + "\n"
		}
		return s
	}
	for _, tt := range []struct {
		what, text, want string
	}{
		{"not in the list", with(func(s [][]string) [][]string { s[3][4] = "wurth"; return s }), "line 4: word 5 of 5 is not in"},
		{"a word too few", with(func(s [][]string) [][]string { s[1] = s[1][1:]; return s }), "line 2: 4 words instead of 5"},
		{"a word too many", with(func(s [][]string) [][]string { s[5] = append(s[5], "zoo"); return s }), "line 6: 6 words instead of 5"},
		{"numbered, a word too few", with(func(s [][]string) [][]string {
			for i := range s {
				s[i] = append([]string{fmt.Sprint(i + 1)}, s[i]...)
			}
			s[2] = s[2][:5]
			return s
		}), "line 3: 4 words instead of 5"},
		{"lines swapped", with(func(s [][]string) [][]string { s[1], s[4] = s[4], s[1]; return s }), "in lines 2 5"},
		{"a line too few", with(func(s [][]string) [][]string { return s[1:] }), "25 words instead of 24"},
	} {
		k, enc, err := Decode([]byte(tt.text))
		if !errors.Is(err, ErrNotKey) || !strings.Contains(fmt.Sprint(err), tt.want) || enc != "" || !k.IsZero() {
			t.Errorf("%s: %v, want %q", tt.what, err, tt.want)
		}
	}
	for _, tt := range []struct{ line, want string }{
		{"", "line 1: 0 words"}, {"1", "word 1 of 1 is not"}, {"2 " + strings.Join(good[0], " "), "word 1 of 6"},
		{strings.Join(good[1], " "), "in line 1"}, {"one two three", "3 words"},
	} {
		if err := CheckLine(1, []byte(tt.line)); !errors.Is(err, ErrNotKey) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want %q", tt.line, err, tt.want)
		}
	}
}
