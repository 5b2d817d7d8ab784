package kinds

import (
	"fmt"
	"strings"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

// suffix is what the name of a part has in the place of keySuffix: ".need2.part1".
func suffix(p escrow.PartOf) string { return fmt.Sprintf(".need%d.part%d", p.Need, p.Number) }

// cutSuffix reads the end of the name of a part or, the zero PartOf, of a key.
func cutSuffix(name string) (base string, p escrow.PartOf, ok bool) {
	if base, ok = strings.CutSuffix(name, keySuffix); ok {
		return base, p, true
	}
	i := strings.Index(name, ".need")
	if i < 0 {
		return "", p, false
	}
	if _, err := fmt.Sscanf(name[i:], ".need%d.part%d", &p.Need, &p.Number); err != nil || name[i:] != suffix(p) {
		return "", escrow.PartOf{}, false
	}
	return name[:i], p, true
}
