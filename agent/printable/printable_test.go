package printable

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// hostile are names that somebody may choose, and how they are shown.
var hostile = []struct{ name, is, shown string }{
	{"an ordinary one", "current/20260101T000000Z-00112233.key", "current/20260101T000000Z-00112233.key"},
	{"other scripts", "Schlüssel 鍵 مفتاح", "Schlüssel 鍵 مفتاح"},
	{"a thin space between thousands", "50\u202f023", "50\u202f023"},
	{"a backslash", `\d secrets`, `\d secrets`},
	{"lines", "a\r\nb\tc", `a\r\nb\tc`},
	{"a priority of the journal", "<0>forged", `\x3c0>forged`},
	{"a priority on a line of its own", "x\n<0>forged", `x\n<0>forged`},
	{"a title", "\x1b]0;x\x07", `\x1b]0;x\a`},
	{"C1 in UTF-8", "\u009b2J", `\u009b2J`},
	{"C1 as a byte", "\x9b2J", `\x9b2J`},
	{"the name of an old disk", "schl\xfcssel", `schl\xfcssel`},
	{"half a rune", "\xe2\x80", `\xe2\x80`},
	{"nothing", "a\x00b\x7f", `a\x00b\x7f`},
	{"writing from the right", "gnp\u202e.key", `gnp\u202e.key`},
	{"isolates", "\u2066\u2069\u200f\u061c", `\u2066\u2069\u200f\u061c`},
	{"separators", "a\u2028b\u2029c\u0085d", `a\u2028b\u2029c\u0085d`},
	{"what is not seen", "a\u200bb\ufeffc", `a\u200bb\ufeffc`},
	{"tags beyond the first plane", "\U000e0041", `\U000e0041`},
	{"an apostrophe", "'", "'"},
	{"empty", "", ""},
}

func TestLineIsOnePrintableLine(t *testing.T) {
	for _, h := range hostile {
		if got := Line(h.is); got != h.shown {
			t.Errorf("%s: Line(%q) is %q, want %q", h.name, h.is, got, h.shown)
		}
	}
	long := Line("<7>" + strings.Repeat("ü", Max) + " the end")
	if len(long) > Max+len(`\x3c`) || !strings.HasSuffix(long, " the end") || !strings.HasPrefix(long, `\x3c7>ü`) || !utf8.ValidString(long) {
		t.Errorf("a long one is %d bytes: %.20q … %q", len(long), long, long[len(long)-20:])
	}
}

// TestJSONMeansTheSame: programs that read a document get the name itself.
func TestJSONMeansTheSame(t *testing.T) {
	for _, h := range hostile {
		document, err := json.MarshalIndent(map[string]string{"name": h.is}, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		clean := JSON(document)
		for _, r := range string(clean) {
			if !unicode.IsGraphic(r) && r != '\n' {
				t.Errorf("%s: %q is in the document", h.name, r)
			}
		}
		var back map[string]string
		if err := json.Unmarshal(clean, &back); err != nil || back["name"] != strings.ToValidUTF8(h.is, "\ufffd") && utf8.ValidString(h.is) {
			t.Errorf("%s: %q came back as %q, %v", h.name, h.is, back["name"], err)
		}
	}
}

func TestPageKeepsItsLines(t *testing.T) {
	if got, want := Page("one\n\ttwo\x1b[2J\r"), "one\n\ttwo"+`\x1b[2J\r`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestTimeHasItsZone: a time for people is where the host is, and says where that is.
func TestTimeHasItsZone(t *testing.T) {
	defer func(was *time.Location) { time.Local = was }(time.Local)
	at := time.Date(2026, 7, 1, 23, 30, 5, 0, time.UTC)
	for zone, want := range map[string]string{
		"UTC": "2026-07-01 23:30:05 UTC", "Europe/Berlin": "2026-07-02 01:30:05 CEST", "America/Sao_Paulo": "2026-07-01 20:30:05 -03",
	} {
		var err error
		if time.Local, err = time.LoadLocation(zone); err != nil {
			t.Fatal(err)
		}
		if got := Time(at); got != want {
			t.Errorf("%s: %s, want %s", zone, got, want)
		}
	}
}

func FuzzLine(f *testing.F) {
	for _, h := range hostile {
		f.Add(h.is)
	}
	f.Fuzz(func(t *testing.T, s string) {
		line := Line(s)
		if strings.IndexFunc(line, func(r rune) bool { return !unicode.IsGraphic(r) }) >= 0 || !utf8.ValidString(line) {
			t.Errorf("%q is shown as %q", s, line)
		}
		if again := Line(line); len(s) < Max/10 && again != line {
			t.Errorf("%q is shown as %q once and %q twice", s, line, again)
		}
	})
}
