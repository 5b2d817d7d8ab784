package rows

import (
	"fmt"
	"slices"
	"strings"

	"github.com/footprintai/containarium-keyguard/agent/printable"
)

// namedRows is how many rows an error or a result names; the others are counted.
const namedRows = 1000

// longestName is how much of a name is kept to be shown, in bytes: the daemon's names are at
// most 128, and usernames free text.
const longestName = 256

// RowName is what a person knows a row by, its ends where it is long. It is no secret.
type RowName struct{ Username, Name string }

// String is one printable line, as both are somebody else's words (law 10).
func (n RowName) String() string { return printable.Line(fmt.Sprintf("%q %s", n.Username, n.Name)) }

// rowName keeps what is shown of a row's names.
func rowName(c *cells) RowName {
	keep := func(b []byte) string {
		if len(b) > longestName {
			b = slices.Concat(b[:longestName/2], []byte("…"), b[len(b)-longestName/2:])
		}
		return string(b)
	}
	return RowName{keep(c.username), keep(c.name)}
}

// RowsError names the rows that stand in the way. errors.Is finds its Kind.
type RowsError struct {
	Kind  error // ErrUnopenable or ErrUnknownClass
	Count int64
	Rows  []RowName // at most the first thousand
}

func (e *RowsError) Unwrap() error { return e.Kind }

func (e *RowsError) Error() string {
	const most = 10 // in a sentence
	var names []string
	for _, n := range e.Rows[:min(len(e.Rows), most)] {
		names = append(names, n.String())
	}
	text := fmt.Sprintf("%v: %d, of tenant and name %s", e.Kind, e.Count, strings.Join(names, ", "))
	if e.Count > int64(len(names)) {
		text += " and others"
	}
	return text
}

// names are counted, and the first of them kept.
type names struct {
	count int64
	first []RowName
}

func (n *names) add(c *cells) {
	n.count++
	if len(n.first) < namedRows {
		n.first = append(n.first, rowName(c))
	}
}

func (n *names) merge(o names) {
	n.count += o.count
	n.first = append(n.first, o.first...)
	slices.SortFunc(n.first, func(a, b RowName) int {
		return strings.Compare(a.Username+"\x00"+a.Name, b.Username+"\x00"+b.Name)
	})
	n.first = n.first[:min(len(n.first), namedRows)]
}

func (n names) err(kind error) error {
	if n.count == 0 {
		return nil
	}
	return &RowsError{Kind: kind, Count: n.count, Rows: n.first}
}
