package key

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	bip39 "github.com/tyler-smith/go-bip39"
)

// sample has bytes that make all of base64's alphabets differ, and is no UTF-8.
var sample = []byte("\xfb\xff\xfe\x00\x01 \n\r\t=+/-_\x80\x81\xef\xbf\xbe~}{|azAZ09\xff\xfe\xfd")

// likeText is a key whose bytes are all printable, as hardly any is.
var likeText = []byte("0123456789abcdef0123456789ABCDEF")

func TestDecode(t *testing.T) {
	std, url := base64.StdEncoding.EncodeToString(sample), base64.URLEncoding.EncodeToString(sample)
	digits := hex.EncodeToString(sample)
	k, err := New(sample)
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Join(k.UnsafeWords(), " ")
	wrap := func(s string, n int, sep string) string {
		var out []string
		for ; len(s) > n; s = s[n:] {
			out = append(out, s[:n])
		}
		return strings.Join(append(out, s), sep)
	}
	for _, tt := range []struct {
		what string
		in   string
		want Encoding
	}{
		{"raw", string(sample), Raw},
		{"LF", string(sample) + "\n", Newline},
		{"CR LF", string(sample) + "\r\n", Newline},
		{"hex", digits, Hex},
		{"hex, LF", digits + "\n", Hex},
		{"HEX", strings.ToUpper(digits), Hex},
		{"hex in the lines of xxd -p", wrap(digits, 60, "\n") + "\n", Hex},
		{"hex of od", wrap(digits, 2, " "), Hex},
		{"base64", std, Base64},
		{"base64 without padding", strings.TrimRight(std, "="), Base64},
		{"base64url", url, Base64},
		{"base64url without padding", strings.TrimRight(url, "="), Base64},
		{"what zbarimg reads", "QR-Code:" + std + "\n", Base64},
		{"base64 and white space", " \t" + std + "\r\n\n", Base64},
		{"base64 in lines", wrap(std, 20, "\n"), Base64},
		{"base64 in lines of Windows, indented", wrap(std, 20, "\r\n    "), Base64},
		{"words", words, Words},
		{"words, LF", words + "\n", Words},
		{"WORDS", strings.ToUpper(words), Words},
		{"words in lines", "\n  " + strings.ReplaceAll(words, " ", "\r\n\t") + "\n", Words},
	} {
		t.Run(tt.what, func(t *testing.T) {
			in := []byte(tt.in)
			got, enc, err := Decode(in)
			if err != nil || enc != tt.want || !got.Equal(k) {
				t.Errorf("%v, %q, %v; want %q", got, enc, err, tt.want)
			}
			if string(in) != tt.in {
				t.Error("Decode changed its input")
			}
			got.Wipe()
			if string(in) != tt.in {
				t.Error("the key shares the input's bytes")
			}
		})
	}
	t.Run("32 bytes are raw whatever they look like", func(t *testing.T) {
		for _, b := range [][]byte{likeText, bytes.Repeat([]byte{0}, Size), bytes.Repeat([]byte("\n"), Size), bytes.Repeat([]byte("\xff"), Size),
			[]byte("correct horse battery staple 42!"), []byte("öäüß" + strings.Repeat("e", 24)), []byte("0123456789ab-cdef.0123456789_abc"),
			append([]byte(strings.Repeat("\uFFFD", 10)+"a"), 0x80), append([]byte{0xff}, (strings.Repeat("a", 25) + `\ufffd`)...)} {
			k, enc, err := Decode(b)
			if err != nil || enc != Raw || !bytes.Equal(k.UnsafeBytes(), b) {
				t.Errorf("%q: %v, %q, %v", b, k, enc, err)
			}
		}
	})
	t.Run("a raw key that ends in CR, and LF", func(t *testing.T) {
		b := append(bytes.Clone(sample[:Size-1]), '\r', '\n')
		k, enc, err := Decode(b)
		if err != nil || enc != Newline || !bytes.Equal(k.UnsafeBytes(), b[:Size]) {
			t.Errorf("%v, %q, %v", k, enc, err)
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	std := base64.StdEncoding.EncodeToString(sample)
	digits := hex.EncodeToString(sample)
	mangled := strings.ToValidUTF8(string(sample), "\uFFFD")
	each := "" // as gcloud does it: one U+FFFD for every byte
	for _, r := range string(sample) {
		each += string(r)
	}
	for _, tt := range []struct {
		what, in string
		want     error
		text     string // in the error
	}{
		{"nothing", "", ErrNotKey, "0 bytes"},
		{"31 bytes", string(sample[:31]), ErrNotKey, "31 bytes"},
		{"33 bytes", string(sample) + "x", ErrNotKey, "33 bytes"},
		{"two newlines", string(sample) + "\n\n", ErrNotKey, "34 bytes"},
		{"newline and CR", string(sample) + "\n\r", ErrNotKey, "34 bytes"},
		{"newline before", "\n" + string(sample), ErrNotKey, "33 bytes"},
		{"two keys", string(sample) + string(sample), ErrNotKey, "64 bytes"},
		{"63 digits", digits[:63], ErrNotKey, "63 bytes"},
		{"66 digits", digits + "00", ErrNotKey, "66 bytes"},
		{"0x", "0x" + digits, ErrNotKey, "66 bytes"},
		{"a digit too high", digits[:63] + "g", ErrNotKey, "64 bytes"},
		{"base64 of 31 bytes", base64.StdEncoding.EncodeToString(sample[:31]), ErrNotKey, "44 bytes"},
		{"base64 of 33 bytes", base64.StdEncoding.EncodeToString(append([]byte("x"), sample...)), ErrNotKey, "44 bytes"},
		{"base64 of base64", base64.StdEncoding.EncodeToString([]byte(std)), ErrNotKey, "60 bytes"},
		{"base64 of both alphabets", strings.Replace(std, "/", "_", 1), ErrNotKey, "44 bytes"},
		{"base64 with bits nobody sets", strings.Replace(std, "0=", "1=", 1), ErrNotKey, "44 bytes"},
		{"base64 cut off", std[:40], ErrNotKey, "40 bytes"},
		{"quoted base64", `"` + std + `"`, ErrNotKey, "46 bytes"},
		{"mangled", mangled, ErrMangled, "times U+FFFD"},
		{"mangled by gcloud", each, ErrMangled, "times U+FFFD"},
		{"mangled, LF", each + "\n", ErrMangled, "times U+FFFD"},
		{"mangled, as JSON", strings.ReplaceAll(each, "\uFFFD", `\ufffd`), ErrMangled, "times U+FFFD"},
		{"U+FFFD in what is no text", string(sample) + "\uFFFD", ErrNotKey, "35 bytes"},
		{"an endless line", strings.Repeat("a", 1<<16), ErrNotKey, "65536 bytes"},
		{"much white space", strings.Repeat(" ", 1<<16) + std, ErrNotKey, "65580 bytes"},
		{"prose", "the key was here, but it is somewhere else now", ErrNotKey, "46 bytes"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			k, enc, err := Decode([]byte(tt.in))
			if !errors.Is(err, tt.want) || !errors.Is(err, ErrNotKey) || !k.IsZero() || enc != "" {
				t.Fatalf("%v, %q, %v; want %v", k, enc, err, tt.want)
			}
			if (tt.want == ErrNotKey) == errors.Is(err, ErrMangled) {
				t.Errorf("%v is the wrong error", err)
			}
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%q does not say %q", err, tt.text)
			}
		})
	}
}

// TestMangledLengths: what a conversion leaves of a key may be as long as a key. One byte that
// is no UTF-8 shows that there was none.
func TestMangledLengths(t *testing.T) {
	for n := 30; n <= 36; n++ {
		for lost := 1; 3*lost <= n; lost++ {
			for _, end := range []string{"", "\n", "\r\n"} {
				text := strings.Repeat("\uFFFD", lost) + strings.Repeat("k", n-3*lost) + end
				if k, enc, err := Decode([]byte(text)); !errors.Is(err, ErrMangled) || !k.IsZero() || enc != "" {
					t.Errorf("%q, of %d bytes: %v, %q, %v", text, len(text), k, enc, err)
				}
				raw := []byte(text)
				raw[n-1] = 0xfe
				var want Encoding
				switch {
				case len(raw) == Size:
					want = Raw
				case n == Size, n == Size-1 && end == "\r\n": // whose CR is the key's
					want = Newline
				}
				k, enc, err := Decode(raw)
				if enc != want || errors.Is(err, ErrMangled) || want != "" && !bytes.Equal(k.UnsafeBytes(), raw[:Size]) {
					t.Errorf("%q: %v, %q, %v; want %q", raw, k, enc, err, want)
				}
			}
		}
	}
}

// TestMangledCount checks the number that people read.
func TestMangledCount(t *testing.T) {
	in := "ab\uFFFDc\uFFFD\uFFFD d\\ufffd"
	if _, _, err := Decode([]byte(in)); err == nil || !strings.Contains(err.Error(), "20 bytes, 4 times U+FFFD") {
		t.Errorf("%v", err)
	}
}

// The vectors of 256 bits of https://github.com/trezor/python-mnemonic/blob/master/vectors.json.
var bip39Vectors = map[string]string{
	strings.Repeat("00", 32): strings.Repeat("abandon ", 23) + "art",
	strings.Repeat("7f", 32): "legal winner thank year wave sausage worth useful legal winner thank year wave sausage worth useful legal winner thank year wave sausage worth title",
	strings.Repeat("80", 32): "letter advice cage absurd amount doctor acoustic avoid letter advice cage absurd amount doctor acoustic avoid letter advice cage absurd amount doctor acoustic bless",
	strings.Repeat("ff", 32): strings.Repeat("zoo ", 23) + "vote",
	"f585c11aec520db57dd353c69554b21a89b20fb0650966fa0a9d6f74fd989d8f": "void come effort suffer camp survey warrior heavy shoot primary clutch crush open amazing screen patrol group space point ten exist slush involve unfold",
}

func TestWords(t *testing.T) {
	if sum := crc32.ChecksumIEEE([]byte(english)); sum != 0xc1dbd296 {
		t.Errorf("the list has CRC-32 %x, that of BIP-39 c1dbd296", sum)
	}
	if n := len(wordList()); n != 2048 || !slices.IsSorted(wordList()) {
		t.Errorf("%d words, sorted %v", n, slices.IsSorted(wordList()))
	}
	for digits, words := range bip39Vectors {
		k := fromDigits(t, digits)
		if got := strings.Join(k.UnsafeWords(), " "); got != words {
			t.Errorf("%s: %q, want %q", digits, got, words)
		}
		if got, enc, err := Decode([]byte(words)); err != nil || enc != Words || !got.Equal(k) {
			t.Errorf("%q: %v, %q, %v", words, got, enc, err)
		}
	}
	// Against another implementation, on many keys.
	for range 200 {
		k := Generate()
		want, err := bip39.NewMnemonic(k.UnsafeBytes())
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(k.UnsafeWords(), " "); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
		if got, _, err := Decode([]byte(want)); err != nil || !got.Equal(k) {
			t.Fatalf("%q: %v", want, err)
		}
	}
	if (Key{}).UnsafeWords() != nil {
		t.Error("the zero Key has words")
	}
}

func TestWrongWords(t *testing.T) {
	k := fromDigits(t, strings.Repeat("7f", 32))
	good := k.UnsafeWords()
	with := func(i int, w string) []string {
		s := slices.Clone(good)
		s[i] = w
		return s
	}
	for _, tt := range []struct {
		what  string
		words []string
		want  error
	}{
		{"first", with(0, "leagl"), &WordError{Position: 1, Count: 24}},
		{"seventh", with(6, "wurth"), &WordError{Position: 7, Count: 24}},
		{"last", with(23, "titel"), &WordError{Position: 24, Count: 24}},
		{"two: the first is named", with(23, "x")[:24], &WordError{Position: 24, Count: 24}},
		{"a part of a word", with(2, "than"), &WordError{Position: 3, Count: 24}},
		{"one too few", good[:23], &WordError{Count: 23}},
		{"one too many", append(slices.Clone(good), "zoo"), &WordError{Count: 25}},
		{"one too many and wrong", append(slices.Clone(good), "zooo"), &WordError{Position: 25, Count: 25}},
		{"half", good[:12], &WordError{Count: 12}},
		{"swapped", append([]string{good[1], good[0]}, good[2:]...), ErrChecksum},
		{"another word of the list", with(5, "zoo"), ErrChecksum},
	} {
		_, enc, err := Decode([]byte(strings.Join(tt.words, " ")))
		var word *WordError
		switch want := tt.want.(type) {
		case *WordError:
			if !errors.As(err, &word) || *word != *want {
				t.Errorf("%s: %v, want %+v", tt.what, err, *want)
			}
		default:
			if !errors.Is(err, tt.want) {
				t.Errorf("%s: %v, want %v", tt.what, err, tt.want)
			}
		}
		if !errors.Is(err, ErrNotKey) || enc != "" {
			t.Errorf("%s: %v, %q", tt.what, err, enc)
		}
		for _, w := range tt.words {
			if err != nil && slices.Contains(strings.Fields(err.Error()), w) && w != "winner" {
				t.Errorf("%s: the error tells a word: %v", tt.what, err)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	seeds := 0
	k, err := New(sample)
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{
		"", "\n", "\uFFFD", string(sample), string(sample) + "\r\n", string(sample[:31]), string(likeText) + "\n",
		hex.EncodeToString(sample), base64.StdEncoding.EncodeToString(sample), base64.RawURLEncoding.EncodeToString(sample) + "\n",
		strings.Join(k.UnsafeWords(), " "), "1 " + strings.Join(k.UnsafeWords(), "\n2 "), strings.ToValidUTF8(string(sample), "\uFFFD"), "\xff\uFFFD",
	} {
		f.Add([]byte(s))
		seeds++
	}
	if seeds == 0 {
		f.Fatal("no seeds")
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		had := bytes.Clone(in)
		k, enc, err := Decode(in)
		if !bytes.Equal(in, had) {
			t.Fatal("the input was changed")
		}
		if (err == nil) == k.IsZero() || (err == nil) == (enc == "") {
			t.Fatalf("%v, %q, %v", k, enc, err)
		}
		if (len(in) == Size && !errors.Is(err, ErrMangled)) != (enc == Raw) {
			t.Fatalf("%d bytes are %q", len(in), enc)
		}
		if err != nil {
			if !errors.Is(err, ErrNotKey) {
				t.Fatalf("%v is not ErrNotKey", err)
			}
			if errors.Is(err, ErrMangled) && !utf8.Valid(in) {
				t.Fatalf("%v, but it is no text", err)
			}
			if len(err.Error()) > 120 {
				t.Fatalf("a long error: %v", err)
			}
			return
		}
		// What was read, written again the same way, reads the same.
		b := k.UnsafeBytes()
		var again string
		switch enc {
		case Raw:
			again = string(b)
		case Newline:
			again = string(b) + "\n"
		case Hex:
			again = fmt.Sprintf("%X", b)
		case Base64:
			again = base64.RawURLEncoding.EncodeToString(b)
		case Words:
			again = strings.Join(k.UnsafeWords(), "\n")
		case Sheet:
			again = strings.Join(slices.Concat(k.UnsafeSheet()...), "\n")
		default:
			t.Fatalf("unknown encoding %q", enc)
		}
		if k2, enc2, err := Decode([]byte(again)); err != nil || enc2 != enc || !k2.Equal(k) {
			t.Fatalf("%q: %v, %q, %v", again, k2, enc2, err)
		}
	})
}
