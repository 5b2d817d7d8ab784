package key

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// partVectors were made by another implementation: Python's hmac and hashlib, HKDF written
// out after RFC 5869, and GF(2^8) by tables of powers of 3.
var partVectors = []struct {
	key          string
	need, number int
	line         string
}{
	{"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", 2, 1, "keyguard-part v1 key=b803a3c9f610fa86 need=2 part=1 value=yaaf7Ibj0ZNKHIYrcm4rS4VAi9wMRAcSm3glOtF2BIgB sum=1c3c844a7ceebcbd"},
	{"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", 2, 2, "keyguard-part v1 key=b803a3c9f610fa86 need=2 part=2 value=iVQjxhvSszSMIwlL8MtEhyGzO5YktzQdBdtkWZ3LKioC sum=fbf1f286824014a1"},
	{"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", 3, 9, "keyguard-part v1 key=b803a3c9f610fa86 need=3 part=9 value=FzXILWR2UkUbwG1b2eHgt9z8cggPZa9jb7BdrbuvaHgJ sum=d482c034b8ec51bc"},
	{"7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f", 5, 7, "keyguard-part v1 key=bd7f3c96cc6bf020 need=5 part=7 value=rXdsq6bmR5Z0XSBWcUN5//4XbgxQDBfqXmwUIuB0eUAH sum=bd28bead6391381f"},
	{"0000000000000000000000000000000000000000000000000000000000000000", 9, 4, "keyguard-part v1 key=c78291322a3f4759 need=9 part=4 value=/PyFn6m7DYAfhrbXot/oARJ1v9o0jLR4VNZLHxpjKzUE sum=7a90ce27565b388e"},
}

func TestPartVectors(t *testing.T) {
	for _, tt := range partVectors {
		k := fromDigits(t, tt.key)
		p := cut(t, k, tt.need, tt.number)
		if got := string(p.UnsafeText()); got != tt.line {
			t.Errorf("part %d of %d:\n%s, want\n%s", tt.number, tt.need, got, tt.line)
		}
		for _, text := range []string{tt.line, tt.line + "\n", "  " + tt.line + "\r\n", "QR-Code:" + tt.line + "\n"} {
			if got, err := ParsePart([]byte(text)); err != nil || !got.Equal(p) || got.Of != k.Fingerprint() {
				t.Errorf("%q: %v, %v", text, got, err)
			}
		}
	}
}

func cut(t testing.TB, k Key, need, number int) Part {
	t.Helper()
	p, err := k.Cut(need, number)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func cutAll(t testing.TB, k Key, need, n int) []Part {
	t.Helper()
	var parts []Part
	for x := 1; x <= n; x++ {
		parts = append(parts, cut(t, k, need, x))
	}
	return parts
}

// subsets are all ways to choose k of n.
func subsets(n, k int) (all [][]int) {
	for set := range 1 << n {
		var s []int
		for i := range n {
			if set>>i&1 == 1 {
				s = append(s, i)
			}
		}
		if len(s) == k {
			all = append(all, s)
		}
	}
	return all
}

// combine rebuilds a secret from values with their x behind them, as OpenBao's
// sdk/helper/shamir takes them. It has nothing in common with parts.go: powers of the
// generator 3 in tables, and Lagrange with quotients.
func combine(values [][]byte) []byte {
	var exp [255]byte
	var log [256]int
	x := 1
	for i := range exp {
		exp[i], log[x] = byte(x), i
		if x ^= x << 1; x > 255 {
			x ^= 0x11b
		}
	}
	secret := make([]byte, len(values[0])-1)
	for b := range secret {
		for i, v := range values {
			if v[b] == 0 {
				continue
			}
			power := log[v[b]]
			for j, o := range values {
				if i != j {
					power += log[o[len(o)-1]] - log[o[len(o)-1]^v[len(v)-1]] + 255
				}
			}
			secret[b] ^= exp[power%255]
		}
	}
	return secret
}

func TestPartsByAnotherImplementation(t *testing.T) {
	for _, need := range []int{2, 3, 5} {
		k := Generate()
		parts := cutAll(t, k, need, 6)
		for _, set := range subsets(6, need) {
			var values [][]byte
			var some []Part
			for _, i := range set {
				_, rest, _ := strings.Cut(string(parts[i].UnsafeText()), "value=")
				text, _, _ := strings.Cut(rest, " ")
				v, err := base64.StdEncoding.DecodeString(text)
				if err != nil || len(v) != Size+1 {
					t.Fatalf("%q: %v", text, err)
				}
				values = append(values, v)
				some = append(some, parts[i])
			}
			if got := combine(values); !bytes.Equal(got, k.UnsafeBytes()) {
				t.Errorf("need %d, parts %v: the other implementation finds another key", need, set)
			}
			slices.Reverse(some)
			if got, wrong, err := Rebuild(some); err != nil || wrong != nil || !got.Equal(k) {
				t.Errorf("need %d, parts %v: %v, %v, %v", need, set, got, wrong, err)
			}
		}
	}
}

// TestField compares the arithmetic with the definition, and with AES (FIPS 197, 4.2).
func TestField(t *testing.T) {
	if got := multiply(0x57, 0x83); got != 0xc1 {
		t.Errorf("{57} · {83} = {%x}, FIPS 197 says {c1}", got)
	}
	for a := range 256 {
		if a > 0 && multiply(byte(a), invert(byte(a))) != 1 {
			t.Fatalf("%d has a wrong inverse", a)
		}
		for b := range 256 {
			want := 0
			for i := range 8 {
				want ^= a << i * (b >> i & 1)
			}
			for i := 14; i >= 8; i-- {
				want ^= 0x11b << (i - 8) * (want >> i & 1)
			}
			if got := multiply(byte(a), byte(b)); int(got) != want {
				t.Fatalf("%d · %d = %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestCutRefuses(t *testing.T) {
	k := Generate()
	for _, tt := range [][2]int{{1, 1}, {0, 1}, {-1, 1}, {2, 0}, {2, -1}, {2, MaxParts + 1}, {MaxParts + 1, 1}, {257, 1}, {2, 257}} {
		if p, err := k.Cut(tt[0], tt[1]); !errors.Is(err, ErrParts) || !p.IsZero() {
			t.Errorf("need %d, part %d: %v, %v", tt[0], tt[1], p, err)
		}
	}
	if p, err := (Key{}).Cut(2, 1); !errors.Is(err, ErrParts) || !p.IsZero() {
		t.Errorf("no key: %v, %v", p, err)
	}
}

func TestRebuildRefuses(t *testing.T) {
	k, other := Generate(), Generate()
	a, b, c := cut(t, k, 3, 1), cut(t, k, 3, 2), cut(t, k, 3, 3)
	var few *FewPartsError
	var mixed *MixedError
	for name, parts := range map[string][]Part{
		"none": nil, "one": {a}, "two": {a, b}, "the same part three times": {a, b, b, a.Clone()},
	} {
		if got, _, err := Rebuild(parts); !errors.As(err, &few) || !got.IsZero() {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for name, parts := range map[string][]Part{
		"another key": {a, b, cut(t, other, 3, 3)}, "another need": {a, b, c, cut(t, k, 2, 3)},
	} {
		if got, _, err := Rebuild(parts); !errors.As(err, &mixed) || !got.IsZero() {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if got, _, err := Rebuild([]Part{a, b, {}}); !errors.Is(err, ErrParts) || !got.IsZero() {
		t.Errorf("a part that is none: %v, %v", got, err)
	}
}

// lying is a part that says it is another.
func lying(p Part, of Fingerprint, number int) Part {
	p = p.Clone()
	p.Of, p.Number = of, number
	return p
}

// TestRebuildNamesTheWrong: of parts of which some lie with a fitting sum, the key is
// still found wherever enough are right, and those that are not are named.
func TestRebuildNamesTheWrong(t *testing.T) {
	k, other := Generate(), Generate()
	for _, need := range []int{2, 3, 4} {
		parts := cutAll(t, k, need, need+2)
		for _, liars := range append(subsets(need+2, 1), subsets(need+2, 2)...) {
			told := slices.Clone(parts)
			for _, i := range liars {
				told[i] = lying(cut(t, other, need, i+1), k.Fingerprint(), i+1)
			}
			got, wrong, err := Rebuild(told)
			if err != nil || !got.Equal(k) || !slices.Equal(wrong, liars) {
				t.Errorf("need %d, liars %v: %v, %v, %v", need, liars, got, wrong, err)
			}
		}
		// One more liar, and nobody knows: never a wrong key.
		told := slices.Clone(parts)
		for i := range 3 {
			told[i] = lying(cut(t, other, need, i+1), k.Fingerprint(), i+1)
		}
		if got, _, err := Rebuild(told); !errors.Is(err, ErrWrongParts) || !got.IsZero() {
			t.Errorf("need %d, three liars: %v, %v", need, got, err)
		}
		// A liar that says it is a part which is there.
		told = append(slices.Clone(parts[:need]), lying(parts[need], k.Fingerprint(), 1))
		if got, wrong, err := Rebuild(told); err != nil || !got.Equal(k) || !slices.Equal(wrong, []int{need}) {
			t.Errorf("need %d, two parts 1: %v, %v, %v", need, got, wrong, err)
		}
	}
}

// TestPartsStayWithinBounds: the most parts, all lying but enough.
func TestPartsStayWithinBounds(t *testing.T) {
	k, other := Generate(), Generate()
	parts := cutAll(t, k, 4, MaxParts)
	for i := range 5 {
		parts[i] = lying(cut(t, other, 4, i+1), k.Fingerprint(), i+1)
	}
	if got, wrong, err := Rebuild(parts); err != nil || !got.Equal(k) || len(wrong) != 5 {
		t.Errorf("%v, %v, %v", got, wrong, err)
	}
}

// TestPartIsNoKey: no form of a part, nor of its value, decodes as a key.
func TestPartIsNoKey(t *testing.T) {
	for need := MinNeed; need <= 5; need++ {
		for x := 1; x <= MaxParts; x++ {
			p := cut(t, Generate(), need, x)
			line := string(p.UnsafeText())
			_, rest, _ := strings.Cut(line, "value=")
			value, _, _ := strings.Cut(rest, " ")
			raw, _ := base64.StdEncoding.DecodeString(value)
			var sheet []string
			for i, words := range p.UnsafeSheet() {
				sheet = append(sheet, fmt.Sprint(i+1)+" "+strings.Join(words, " "))
			}
			words := strings.Fields(strings.Join(sheet, " "))
			words = slices.DeleteFunc(words, func(w string) bool { return w[0] <= '9' })
			for what, tt := range map[string]struct {
				text string
				part bool
			}{
				"line": {line, true}, "line and newline": {line + "\n", true}, "QR code": {"QR-Code:" + line + "\n", true},
				"value": {value, false}, "value's bytes": {string(raw), false}, "value in hex": {fmt.Sprintf("%x", raw), false},
				"base64 of the line": {base64.StdEncoding.EncodeToString([]byte(line)), false},
				"sheet":              {"PART\n\n" + strings.Join(sheet, "\n") + "\n\nand so on\n", true},
				"words":              {strings.Join(words, " "), true},
				"six lines of it":    {strings.Join(sheet[:6], "\n"), false},
				"24 words of it":     {strings.Join(words[:24], " "), false},
				"30 words of it":     {strings.Join(words[:30], "\n"), false},
			} {
				k, enc, err := Decode([]byte(tt.text))
				if err == nil && what == "24 words of it" {
					continue // any 24 words of the list are a key's by their checksum, one in 256 times (BIP 39)
				}
				var got *PartError
				if !errors.Is(err, ErrNotKey) || !k.IsZero() || enc != "" || errors.As(err, &got) != tt.part || errors.Is(err, ErrPart) != tt.part {
					t.Fatalf("%s of part %d of %d: %v, %q, %v", what, x, need, k, enc, err)
				}
				if tt.part && !got.Part.Equal(p) {
					t.Fatalf("%s: %v is not %v", what, got.Part, p)
				}
			}
		}
	}
}

// TestEveryFlippedBitIsSeen, in each byte of a part's line.
func TestEveryFlippedBitIsSeen(t *testing.T) {
	k := Generate()
	for x := 1; x <= 3; x++ {
		line := cut(t, k, 3, x).UnsafeText()
		for i := range line {
			for bit := range 8 {
				bad := bytes.Clone(line)
				bad[i] ^= 1 << bit
				if p, err := ParsePart(bad); err == nil || !errors.Is(err, ErrNotKey) {
					t.Fatalf("byte %d, bit %d: %v, %v", i, bit, p, err)
				}
				if got, _, err := Decode(bad); err == nil || !got.IsZero() {
					t.Fatalf("byte %d, bit %d: decodes as %v", i, bit, got)
				}
			}
		}
		for cut := range line {
			if p, err := ParsePart(line[:cut]); err == nil {
				t.Fatalf("the first %d bytes: %v", cut, p)
			}
		}
	}
}

func TestDamagedPartIsNamed(t *testing.T) {
	line := string(cut(t, Generate(), 3, 2).UnsafeText())
	for want, bad := range map[string]string{
		"its sum does not fit":         line[:len(line)-1] + map[bool]string{true: "0", false: "1"}[line[len(line)-1] != '0'],
		"its version is not v1":        strings.Replace(line, " v1 ", " v2 ", 1),
		"words are missing":            strings.Replace(line, " need=3", "", 1),
		"need is not where it belongs": strings.Replace(line, "need=3 part=2", "part=2 need=3", 1),
		"no number that can be":        strings.Replace(line, "need=3", "need=1", 1),
		"key is no fingerprint":        strings.Replace(line, "key=", "key=x", 1),
		"the value is not this part's": strings.Replace(line, "part=2", "part=1", 1),
		"too long":                     line + strings.Repeat(" x", 100),
	} {
		_, _, err := Decode([]byte(bad))
		if !errors.Is(err, ErrPartDamaged) || !errors.Is(err, ErrNotKey) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestPartSheet takes keys that are always the same: of a sheet with a line of another key's
// nothing but the two bytes of its checksum tells that, and one in 65536 fits.
func TestPartSheet(t *testing.T) {
	k, another := fromDigits(t, strings.Repeat("7f", 32)), fromDigits(t, strings.Repeat("80", 32))
	p := cut(t, k, 2, 3)
	sheet := p.UnsafeSheet()
	number := 0
	for i, words := range sheet {
		var err error
		if number, err = CheckPartLine(i+1, number, []byte(strings.Join(words, " "))); err != nil || number != 3 {
			t.Fatalf("line %d: %d, %v", i+1, number, err)
		}
		if err := CheckLine(min(i+1, SheetLines), []byte(strings.Join(words, " "))); err == nil && i < SheetLines {
			t.Errorf("line %d passes for a key's", i+1)
		}
	}
	text := func(lines [][]string) []byte {
		var b strings.Builder
		for _, l := range lines {
			fmt.Fprintln(&b, strings.Join(l, " "))
		}
		return []byte(b.String())
	}
	var line *LineError
	for i := range sheet {
		for a := range 5 {
			for b := range a {
				if sheet[i][a] == sheet[i][b] {
					continue
				}
				bad := slices.Clone(sheet)
				bad[i] = slices.Clone(sheet[i])
				bad[i][a], bad[i][b] = bad[i][b], bad[i][a]
				_, _, err := Decode(text(bad))
				if !errors.As(err, &line) || !slices.Equal(line.Lines, []int{i + 1}) {
					t.Errorf("words %d and %d of line %d swapped: %v", b+1, a+1, i+1, err)
				}
			}
		}
		// The same line of another part's sheet, and of another key's.
		for _, o := range []Part{cut(t, k, 2, 4), cut(t, another, 2, 3)} {
			bad := slices.Clone(sheet)
			bad[i] = o.UnsafeSheet()[i]
			if slices.Equal(bad[i], sheet[i]) {
				continue
			}
			if got, _, err := Decode(text(bad)); errors.Is(err, ErrPart) || !errors.Is(err, ErrNotKey) {
				t.Errorf("line %d of %v: %v, %v", i+1, o, got, err)
			}
		}
	}
	bad := slices.Clone(sheet)
	bad[2] = slices.Clone(sheet[2])
	bad[2][1] = "xyzzy"
	var word *WordError
	if _, _, err := Decode(text(bad)); !errors.As(err, &word) || *word != (WordError{Position: 2, Count: 5, Line: 3}) {
		t.Errorf("a word of no list: %v", err)
	}
	if _, _, err := Decode(text(append(slices.Clone(sheet[:7]), sheet[7][:3]))); !errors.As(err, &word) || *word != (WordError{Count: 3, Line: 8}) {
		t.Errorf("a line cut off: %v", err)
	}
	if (Part{}).UnsafeSheet() != nil || (Part{}).UnsafeText() != nil {
		t.Error("the zero Part has text")
	}
}

// TestFewerPartsTellNothing looks at parts as somebody does who has all but one of those
// needed, of many keys: each byte of each is spread as evenly as random ones, and no bit
// goes with a bit of the key. The bounds are six standard deviations, and the keys are
// counted up, not random: the test says the same at every run.
func TestFewerPartsTellNothing(t *testing.T) {
	const keys = 4_000
	for _, need := range []int{2, 3} {
		var spread [256]float64
		var agree [8][8]float64 // bit of the part, bit of the key
		var xor [256]float64    // part and key, what a sum of the two would tell
		samples := 0.0
		for n := range keys {
			var b [Size]byte
			b[0], b[1], b[2] = byte(n), byte(n>>8), 0x5a // of structure: no spread of their own
			k, err := New(b[:])
			if err != nil {
				t.Fatal(err)
			}
			for x := 1; x < need; x++ {
				p := cut(t, k, need, x)
				for i, v := range *p.value {
					samples++
					spread[v]++
					xor[v^b[i]]++
					if i > 1 {
						continue
					}
					for pb := range 8 {
						for kb := range 8 {
							if v>>pb&1 == b[i]>>kb&1 {
								agree[pb][kb]++
							}
						}
					}
				}
			}
		}
		for name, counts := range map[string][256]float64{"part": spread, "part xor key": xor} {
			chi := 0.0
			for _, c := range counts {
				d := c - samples/256
				chi += d * d / (samples / 256)
			}
			// 255 degrees of freedom: mean 255, variance 510.
			if math.Abs(chi-255) > 6*math.Sqrt(510) {
				t.Errorf("need %d, %s: chi squared %.0f over 255 degrees of freedom", need, name, chi)
			}
		}
		trials := float64(2 * keys * (need - 1))
		for pb := range 8 {
			for kb := range 8 {
				if d := agree[pb][kb] - trials/2; math.Abs(d) > 6*math.Sqrt(trials)/2 {
					t.Errorf("need %d: bit %d of a part goes with bit %d of the key, %.0f times of %.0f", need, pb, kb, agree[pb][kb], trials)
				}
			}
		}
	}
}

func numberedLines(sheet [][]string) (lines []string) {
	for i, words := range sheet {
		lines = append(lines, fmt.Sprint(i+1)+"  "+strings.Join(words, "  "))
	}
	return lines
}

func numbered(p Part) []string { return numberedLines(p.UnsafeSheet()) }

// swapped has the first two words of line n change places, where they differ; else the first
// is another one.
func swapped(lines []string, n int) []string {
	lines = slices.Clone(lines)
	f := strings.Fields(lines[n-1])
	if f[1], f[2] = f[2], f[1]; f[1] == f[2] {
		f[1] = map[bool]string{true: "zoo", false: "abandon"}[f[1] != "zoo"]
	}
	lines[n-1] = strings.Join(f, " ")
	return lines
}

func TestReadParts(t *testing.T) {
	k := Generate()
	a, b := cut(t, k, 2, 1), cut(t, k, 2, 2)
	one, two := string(a.UnsafeText()), string(b.UnsafeText())
	broken := strings.Replace(two, " value=", "\n    value=", 1)
	words := numbered(a)
	for what, tt := range map[string]struct {
		text string
		want []Part
		err  error
	}{
		"lines":                   {two + "\n" + one + "\n", []Part{b, a}, nil},
		"Windows":                 {one + "\r\n\r\n" + two + "\r\n", []Part{a, b}, nil},
		"QR codes":                {"QR-Code:" + one + "\nQR-Code:" + two + "\n", []Part{a, b}, nil},
		"sheets":                  {"PART 1\n\n    " + one + "\n\nKeep it.\nPART 2\n\n    " + broken + "\n\nKeep it.\n", []Part{a, b}, nil},
		"words":                   {strings.Join(words, "\n"), []Part{a}, nil},
		"two sheets of words":     {strings.Join(append(numbered(b), words...), "\n"), []Part{b, a}, nil},
		"a sheet and a line":      {"keep\n" + strings.Join(words, "\n") + "\nand\n" + two, []Part{b, a}, nil},
		"the second has a swap":   {strings.Join(append(numbered(b), swapped(words, 3)...), "\n"), nil, ErrChecksum},
		"the second is short":     {strings.Join(append(numbered(b), words[:5]...), "\n"), nil, ErrNotKey},
		"steps, numbered":         {"1 take the sheet\n2 type it\n" + one, []Part{a}, nil},
		"a key's sheet, mistyped": {strings.Join(swapped(numberedLines(k.UnsafeSheet()), 2), "\n"), nil, nil},
		"a damaged one":           {one + "\n" + two[:len(two)-1] + "\n", nil, ErrPartDamaged},
		"one cut off":             {one + "\nkeyguard-part v1", nil, ErrPartDamaged},
		"nothing":                 {"", nil, nil},
		"a key":                   {strings.Join(k.UnsafeWords(), " "), nil, nil},
		"a key's bytes":           {string(k.UnsafeBytes()), nil, nil},
		"something else":          {"see the safe", nil, nil},
		"words, mistyped":         {strings.Replace(strings.Join(words, "\n"), "2  ", "2  abandon ", 1), nil, ErrNotKey},
	} {
		got, err := ReadParts([]byte(tt.text))
		if !errors.Is(err, tt.err) || !slices.EqualFunc(got, tt.want, Part.Equal) {
			t.Errorf("%s: %v, %v; want %v, %v", what, got, err, tt.want, tt.err)
		}
	}
}

func FuzzParsePart(f *testing.F) {
	seeds := 0
	for _, tt := range partVectors {
		for _, s := range []string{tt.line, tt.line + "\r\n", "QR-Code:" + tt.line, tt.line[:40], strings.ToUpper(tt.line), strings.Replace(tt.line, "=", "= ", 1), tt.line + tt.line} {
			f.Add([]byte(s))
			seeds++
		}
	}
	f.Add([]byte(partIntro + " v1 key= need= part= value= sum="))
	if seeds == 0 {
		f.Fatal("no seeds")
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		had := bytes.Clone(in)
		p, err := ParsePart(in)
		if !bytes.Equal(in, had) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			if !errors.Is(err, ErrNotKey) || !p.IsZero() || len(err.Error()) > 120 {
				t.Fatalf("%v, %v", p, err)
			}
			return
		}
		if got := p.UnsafeText(); !bytes.Contains(in, got) {
			t.Fatalf("%q reads as %q", in, got)
		}
		// Whatever it is, putting it together never panics, and never makes a key up.
		if k, _, err := Rebuild([]Part{p, p}); err == nil {
			t.Fatalf("%v of one part", k)
		}
		other := lying(p, p.Of, p.Number%MaxParts+1)
		if k, _, err := Rebuild([]Part{p, other}); err == nil && k.Fingerprint() != p.Of {
			t.Fatalf("%v, which is not %s", k, p.Of)
		}
	})
}

func BenchmarkRebuild(b *testing.B) {
	k := Generate()
	parts := cutAll(b, k, 3, 5)
	for b.Loop() {
		if _, _, err := Rebuild(parts); err != nil {
			b.Fatal(err)
		}
	}
}
