// Package paper lays a key out on one page, of A4 or Letter, that brings it back: as a
// QR code and base64, and as words with a check for each line. Whoever finds the page
// in a safe in ten years needs nothing but what it says, keyguard least of all. What the words
// are agent/key/sheet.go says, of a part agent/key/partsheet.go; agent/key/encoding.go reads all three
// forms again, and cmd/keyguard/import.go takes them from a person.
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
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

// Sheet is what a page says.
type Sheet struct {
	Key     key.Key
	Part    key.Part  // what is printed in the key's place where it is not zero
	Of      int       // how many parts are printed with it
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
	list := []fact{{"Host", printable.Line(s.Host)}, {"Key file", printable.Line(s.Keyfile)}}
	fingerprint := s.Key.Fingerprint()
	if s.inParts() {
		fingerprint = s.Part.Of
		list = append(list,
			fact{"Part", fmt.Sprintf("%d of %d: any %d of them are the key, one alone tells nothing", s.Part.Number, s.Of, s.Part.Need)},
			fact{"Who may hold it", "nobody who holds another of these parts"})
	}
	return append(list, []fact{
		{"Fingerprint", string(fingerprint) + ", the key's public name"},
		{"Proven", s.Proof},
		{"Printed", s.Printed.UTC().Format("2006-01-02 15:04 UTC") + " by keyguard " + s.Version},
	}...)
}

// inParts tells whether the sheet is that of a part.
func (s Sheet) inParts() bool { return !s.Part.IsZero() }

func (s Sheet) title() string {
	if s.inParts() {
		return fmt.Sprintf("Part %d of a master key of a containarium host. Keep it in a safe of its own.", s.Part.Number)
	}
	return "Master key of a containarium host. Secret: keep it in a safe."
}

// words are the lines of words.
func (s Sheet) words() [][]string {
	if s.inParts() {
		return s.Part.UnsafeSheet()
	}
	return s.Key.UnsafeSheet()
}

// section is a piece of the instructions: a paragraph, and what to type after it.
type section struct {
	Title string
	Text  string
	Code  []string
}

// sections are the instructions. What is to be typed in them is played by a test.
func (s Sheet) sections() []section {
	if s.inParts() {
		return s.partSections()
	}
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

// partSections are the instructions of a part's sheet.
func (s Sheet) partSections() []section {
	return []section{
		{"What this is", fmt.Sprintf("The host named above keeps the secrets of its tenants encrypted under one key. This page is part %d of that key, of "+
			"which any %d are the key; fewer tell nothing. Without enough of them, or another copy, the secrets are lost. "+
			"Do not photograph, scan, copy or mail it, and keep it apart from the other parts.", s.Part.Number, s.Part.Need), nil},
		{"To bring the key back, with keyguard", fmt.Sprintf("Bring %d of these pages together, in any order. Type the eight lines of each when it asks for them, "+
			"or paste the text that a reader shows of the QR codes. A mistyped line is named, and a key that opens less than the present one is refused.", s.Part.Need),
			[]string{"sudo keyguard import"}},
		{"Without keyguard", "Shamir's scheme, byte by byte over GF(2^8), polynomial 0x11b. The value above is base64 of 32 bytes and the part's number " +
			"behind them, as combine of OpenBao's or Vault's shamir package takes it: of enough parts it returns the 32 bytes of the key file.", nil},
	}
}

// wordsNote stands below the words.
func (s Sheet) wordsNote() string {
	if s.inParts() {
		return "Read line by line. A line's fifth word checks it. No BIP-39 program reads these."
	}
	return "Read line by line. A line's fifth word checks it and is no part of the key."
}

// codeNote stands above the text of the QR code.
func (s Sheet) codeNote() string {
	if s.inParts() {
		return "The part as text, which the QR code says too, on one line:"
	}
	return "The key in base64, which the QR code says too:"
}

// code is the text of the QR code.
func (s Sheet) code() string {
	if s.inParts() {
		return string(s.Part.UnsafeText())
	}
	return base64.StdEncoding.EncodeToString(s.Key.UnsafeBytes())
}

// printed is the text of the QR code in lines that fit the page.
func (s Sheet) printed() []string {
	head, value, ok := strings.Cut(s.code(), " value=")
	if !ok {
		return []string{head}
	}
	return []string{head, "value=" + value}
}

// matrix is the QR code, true where it is black: for a key 37 modules a side for 44
// letters, at level H, of which a third may be lost to stains and folds (ISO/IEC 18004);
// for a part 49 at level M, of which it is a seventh.
func (s Sheet) matrix() ([][]bool, error) {
	level := qr.H
	if s.inParts() {
		level = qr.M
	} else if s.Key.IsZero() {
		return nil, errNoCode
	}
	c, err := qr.Encode(s.code(), level, qr.Unicode)
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
	fmt.Fprintf(&b, "%s\n\n", strings.ToUpper(s.title()))
	for i, line := range s.words() {
		fmt.Fprintf(&b, "  %d", i+1)
		for _, w := range line[:len(line)-1] {
			fmt.Fprintf(&b, "  %-8s", w)
		}
		fmt.Fprintf(&b, "      %s\n", line[len(line)-1])
	}
	fmt.Fprintf(&b, "\n%s\n%s\n", s.wordsNote(), s.codeNote())
	for _, line := range s.printed() {
		fmt.Fprintf(&b, "    %s\n", line)
	}
	b.WriteByte('\n')
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
		if s.inParts() { // the code leaves them no room
			for i, line := range wrap(f.Value, func(text string) bool { return len(text) <= columns-20 }) {
				if i > 0 {
					f.Name = ""
				}
				fmt.Fprintf(b, "  %-16s  %s\n", f.Name, line)
			}
			continue
		}
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
	for word := range strings.FieldsSeq(text) {
		if line != "" && !fits(line+" "+word) {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}
