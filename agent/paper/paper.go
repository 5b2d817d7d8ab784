// Package paper lays a key out on one page, of A4 or Letter, that brings it back: as a
// QR code and base64, and as words with a check for each line. Whoever finds the page
// in a safe in ten years needs nothing but what it says, keyguard least of all.
//
// All three forms say the same. They hold the key, so their functions are Unsafe: the
// caller answers for where a page goes (law 8), and wipes it.
package paper

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/boombuler/barcode/qr"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// Sheet is what a page says.
type Sheet struct {
	Key     key.Key
	Host    string    // whose key it is
	Keyfile string    // where the key belongs on it
	Unit    string    // the daemon's, that reads it; "" for none
	Proof   string    // what the rows said of the key, for people
	Printed time.Time // when
	Version string    // of keyguard
	// Screen is for text that goes to a terminal: the QR code is black on white there,
	// whatever the colours of the terminal.
	Screen bool
}

// errNoCode is a fault of ours: every key fits.
var errNoCode = errors.New("cannot make a QR code of the key")

// fact is a line of the table at the top.
type fact struct{ Name, Value string }

func (s Sheet) facts() []fact {
	return []fact{
		{"Host", s.Host},
		{"Key file", s.Keyfile},
		{"Fingerprint", string(s.Key.Fingerprint()) + ", the key's public name"},
		{"Proven", s.Proof},
		{"Printed", s.Printed.UTC().Format("2006-01-02 15:04 UTC") + " by keyguard " + s.Version},
	}
}

const title = "Master key of a containarium host. Secret: keep it in a safe."

// section is a piece of the instructions: a paragraph, and what to type after it.
type section struct {
	Title string
	Text  string
	Code  []string
}

// sections are the instructions. What is to be typed in them is played by a test.
func (s Sheet) sections() []section {
	stop, start := []string{}, []string{}
	if s.Unit != "" {
		stop, start = []string{"sudo systemctl stop " + s.Unit}, []string{"sudo systemctl start " + s.Unit}
	}
	by := append(stop,
		"sudo mv -n "+s.Keyfile+" "+s.Keyfile+".before",
		"sudo sh -c 'umask 377; base64 -d > "+s.Keyfile+"'",
		"sudo wc -c "+s.Keyfile,
		"sudo python3 -c \"import hmac; print(hmac.new(",
		"  open('"+s.Keyfile+"', 'rb').read(),",
		"  b'keyguard fingerprint v1', 'sha256').hexdigest()[:16])\"")
	return []section{
		{"What this is", "The host named above keeps the secrets of its tenants encrypted under one key of 32 bytes, and this page is " +
			"that key. Without any copy of it the secrets are lost; with this page, and their database, anybody can read them. " +
			"Do not photograph, scan, copy or mail it, and type it into no web page.", nil},
		{"To bring the key back, with keyguard", "Type the six lines when it asks for them, each with its check word, or paste the text that a " +
			"reader shows of the QR code. A mistyped line is named, and a key that opens less than the present one is refused.",
			[]string{"sudo keyguard import"}},
		{"Without keyguard, by the QR code", "Keep the present file, if there is one. Then paste the text of the QR code, or type the base64, and press " +
			"Enter and Ctrl-D. wc must say 32, and python3 the fingerprint above; only then start the daemon.",
			append(by, start...)},
		{"Without keyguard, by the words", "Leave out the check words. The 24 words that are left are BIP-39, English: the key is their entropy, not " +
			"the seed or a wallet made of them. A BIP-39 program without a network shows it as 64 hex digits: go on as above, with xxd -r -p in " +
			"the place of base64 -d.", nil},
		{"The check words", "Number the words of the list of BIP-39 from 0, abandon, to 2047, zoo. Begin with the number of the line; for each of " +
			"its four words: xor with the word's number, double, and if that is more than 2047, xor with 2053. " +
			"The result is the check word's number.", nil},
	}
}

// wordsNote stands below the words.
const wordsNote = "Read line by line. A line's fifth word checks it and is no part of the key."

// base64Note stands above the base64.
const base64Note = "The key in base64, which the QR code says too:"

// code is the text of the QR code.
func (s Sheet) code() string { return base64.StdEncoding.EncodeToString(s.Key.UnsafeBytes()) }

// matrix is the QR code, true where it is black: 37 modules a side for 44 letters, at
// level H, of which a third may be lost to stains and folds (ISO/IEC 18004).
func (s Sheet) matrix() ([][]bool, error) {
	if s.Key.IsZero() {
		return nil, errNoCode
	}
	c, err := qr.Encode(s.code(), qr.H, qr.Unicode)
	if err != nil {
		return nil, errNoCode // err tells the text (law 8)
	}
	m := make([][]bool, c.Bounds().Dy())
	for y := range m {
		m[y] = make([]bool, c.Bounds().Dx())
		for x := range m[y] {
			r, _, _, _ := c.At(x, y).RGBA()
			m[y][x] = r == 0
		}
	}
	return m, nil
}

// columns is the width of the text, in letters.
const columns = 80

// UnsafeText returns the page as UTF-8 text for a fixed-width font, of no
// more than the 66 lines that Letter has at six to the inch.
func (s Sheet) UnsafeText() ([]byte, error) {
	m, err := s.matrix()
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", strings.ToUpper(title))
	for i, line := range s.Key.UnsafeSheet() {
		fmt.Fprintf(&b, "  %d", i+1)
		for _, w := range line[:len(line)-1] {
			fmt.Fprintf(&b, "  %-8s", w)
		}
		fmt.Fprintf(&b, "      %s\n", line[len(line)-1])
	}
	fmt.Fprintf(&b, "\n%s\n%s\n    %s\n\n", wordsNote, base64Note, s.code())
	s.drawText(&b, m)
	for _, sec := range s.sections() {
		b.WriteByte('\n')
		for _, line := range wrap(strings.ToUpper(sec.Title)+". "+sec.Text, func(text string) bool { return len(text) <= columns }) {
			fmt.Fprintf(&b, "%s\n", line)
		}
		for _, line := range sec.Code {
			fmt.Fprintf(&b, "  %s\n", line)
		}
	}
	return []byte(b.String()), nil
}

// quiet is the width in modules of the white around a code, as the standard has it.
const quiet = 4

// drawText draws the code, two modules to a letter, with the facts beside it. On paper
// the white around it is there already.
func (s Sheet) drawText(b *strings.Builder, m [][]bool) {
	margin, begin, end := 0, "  ", ""
	if s.Screen {
		margin, begin, end = quiet, "\x1b[30;107m", "\x1b[0m" // black on bright white, ECMA-48
	}
	var beside []string
	for _, f := range s.facts() {
		beside = append(beside, f.Name)
		for _, line := range wrap(f.Value, func(text string) bool { return len(text) <= columns-len(m)-8 }) {
			beside = append(beside, "  "+line)
		}
		beside = append(beside, "")
	}
	black := func(x, y int) bool { return y >= 0 && y < len(m) && x >= 0 && x < len(m) && m[y][x] }
	for y := -margin; y < len(m)+margin; y += 2 {
		row := begin
		for x := -margin; x < len(m)+margin; x++ {
			switch up, down := black(x, y), black(x, y+1); {
			case up && down:
				row += "█"
			case up:
				row += "▀"
			case down:
				row += "▄"
			default:
				row += " "
			}
		}
		row += end
		if len(beside) > 0 {
			row, beside = row+"    "+beside[0], beside[1:]
		}
		fmt.Fprintf(b, "%s\n", strings.TrimRight(row, " "))
	}
}

// wrap breaks a text into lines that fit.
func wrap(text string, fits func(string) bool) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && !fits(line+" "+word) {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}
