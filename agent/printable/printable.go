// Package printable makes what others wrote fit to be shown: names, ids, messages, rows and
// log lines from stores, sticks, the database and the daemon's journal (law 10). It is for
// the edges, where something is printed, recorded or handed on; inside, a name is what it is.
package printable

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Max is how long a line may be, in bytes. What is longer loses its middle: its ends say
// what it is and what was done.
const Max = 4 << 10

// Line makes one printable line of any bytes. What is no letter, mark, number, sign or
// space, so that it could move a cursor, turn the writing around or begin a line of its own,
// is shown as a string of Go would have it: \n, \x1b, \u202e. So is a priority in front,
// "<0>", which the journal takes off what it reads (sd-daemon(3)).
func Line(s string) string {
	if len(s) > Max {
		const head = Max * 3 / 4
		s = strings.ToValidUTF8(s[:head], "") + "…" + strings.ToValidUTF8(s[len(s)-(Max-head-len("…")):], "")
	}
	if len(s) > 1 && s[0] == '<' && '0' <= s[1] && s[1] <= '9' {
		return `\x3c` + escape(s[1:], "", quoted)
	}
	return escape(s, "", quoted)
}

// Page does the same to a text whose line breaks and tabs are our own, without a bound.
func Page(text string) string { return escape(text, "\n\t", quoted) }

// JSON writes what is not printable in a document by its number: it still means the same.
func JSON(document []byte) []byte {
	return []byte(escape(string(document), "\n", func(r rune) string {
		if r > 0xffff { // by two halves, RFC 8259, 7
			high, low := utf16(r)
			return fmt.Sprintf(`\u%04x\u%04x`, high, low)
		}
		return fmt.Sprintf(`\u%04x`, r)
	}))
}

// utf16 are the halves of a rune that does not fit into one, RFC 2781, 2.1.
func utf16(r rune) (high, low rune) { return 0xd800 + (r-0x10000)>>10, 0xdc00 + (r-0x10000)&0x3ff }

// quoted is a rune as a string of Go would have it.
func quoted(r rune) string { return strings.Trim(strconv.QuoteRune(r), "'") }

// escape shows the runes by show that are neither graphic nor kept, and bytes that are no
// UTF-8 by their number.
func escape(s, kept string, show func(rune) string) string {
	fine := func(r rune) bool { return unicode.IsGraphic(r) || strings.ContainsRune(kept, r) }
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !fine(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case fine(r):
			b.WriteRune(r)
		default:
			b.WriteString(show(r))
		}
		i += n
	}
	return b.String()
}

// Time is a moment as this host's clocks show it, with the zone that they are in.
func Time(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }

// Count puts a number before what is counted: "1 row", "2 rows".
func Count(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.FormatInt(n, 10) + " " + noun + "s"
}

// All is Count for all that there are: "the only row", "all 2 rows".
func All(n int64, noun string) string {
	if n == 1 {
		return "the only " + noun
	}
	return "all " + Count(n, noun)
}
