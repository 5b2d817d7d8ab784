package kinds

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

// quarantined ends the name of a place's quarantine, for stores in which a name is a shelf.
const quarantined = "-quarantine"

// shelfName is what a shelf is called in them: the current one has the name itself.
func shelfName(name string, s escrow.Shelf) string {
	if s == escrow.Quarantine {
		return name + quarantined
	}
	return name
}

// escaped makes a name fit for a copy's ID: what is not printable, or no UTF-8, and "%",
// is "%" and two digits for each byte. No two names become one.
func escaped(name string) string {
	var b strings.Builder
	for len(name) > 0 {
		r, n := utf8.DecodeRuneInString(name)
		if r == utf8.RuneError || r == '%' || !unicode.IsPrint(r) {
			for i := range n {
				fmt.Fprintf(&b, "%%%02X", name[i])
			}
		} else {
			b.WriteString(name[:n])
		}
		name = name[n:]
	}
	return b.String()
}

// unescaped is the name that became id, if one did.
func unescaped(id string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(id); i++ {
		if id[i] != '%' {
			b.WriteByte(id[i])
			continue
		}
		var c byte
		if _, err := fmt.Sscanf(id[i:min(i+3, len(id))], "%%%02X", &c); err != nil {
			return "", false
		}
		b.WriteByte(c)
		i += 2
	}
	name := b.String()
	return name, escaped(name) == id
}

// versionNumber is the number in the id of a copy that is a version, 0 if it is none.
func versionNumber(id string) uint64 {
	_, digits, _ := strings.Cut(id, "/")
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != digits {
		return 0
	}
	return n
}
