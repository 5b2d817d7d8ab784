package kinds

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// FuzzEscaped: every name becomes one printable line, and comes back as it was.
func FuzzEscaped(f *testing.F) {
	for _, name := range []string{"", "a.key", "schlüssel", "schl\xfcssel", "20991127T1\n<0>forged\x1b]0;x\x07\u009b.key", "\u202e", "100%", "%41", "\uFFFD", "a b"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		id := escaped(name)
		if !utf8.ValidString(id) || strings.ContainsFunc(id, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q became %q", name, id)
		}
		if back, ok := unescaped(id); !ok || back != name {
			t.Errorf("%q became %q and came back as %q, %v", name, id, back, ok)
		}
		if back, ok := unescaped(name); ok && escaped(back) != name {
			t.Errorf("%q, which no name becomes, is taken for %q", name, back)
		}
	})
}
