package escrow

import (
	"fmt"
	"strings"
)

// PartOf says which part of each key an escrow keeps, a member of a Split. The zero PartOf
// is the whole key.
type PartOf struct{ Need, Number int }

func (p PartOf) whole() bool { return p == PartOf{} }

// suffix is what the name of a part has in the place of keySuffix: ".need2.part1".
func (p PartOf) suffix() string { return fmt.Sprintf(".need%d.part%d", p.Need, p.Number) }

// cutSuffix reads the end of the name of a part or, the zero PartOf, of a key.
func cutSuffix(name string) (base string, p PartOf, ok bool) {
	if base, ok = strings.CutSuffix(name, keySuffix); ok {
		return base, p, true
	}
	i := strings.Index(name, ".need")
	if i < 0 {
		return "", p, false
	}
	if _, err := fmt.Sscanf(name[i:], ".need%d.part%d", &p.Need, &p.Number); err != nil || name[i:] != p.suffix() {
		return "", PartOf{}, false
	}
	return name[:i], p, true
}
