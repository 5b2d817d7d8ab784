package rows

import (
	"strings"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// Row is a row of the table as far as encryption goes. Username and Name are taken
// verbatim into the additional data.
type Row struct {
	Username, Name string
	Nonce          []byte
	Ciphertext     []byte  // followed by the 16-byte tag
	WrappedDEK     []byte  // nil or empty: the master key encrypts the value itself
	KEKID          *string // nil is SQL NULL; tells nothing about a row without WrappedDEK
}

// Classify is classify.
func Classify(r Row) Class {
	var id []byte
	if r.KEKID != nil {
		id = []byte(*r.KEKID)
	}
	return classify(r.WrappedDEK, id)
}

// OpensUnder tells whether k opens r. A row that does not depend on the keyfile, or
// whose nonce has not the daemon's size, opens under no key.
func (r Row) OpensUnder(k key.Key) bool {
	c := cells{
		username: []byte(r.Username), name: []byte(r.Name),
		nonce: r.Nonce, ciphertext: r.Ciphertext, wrappedDEK: r.WrappedDEK,
	}
	return newOpener(k).opens(&c, Classify(r), c.additionalData(nil))
}

// Cut is how a table is cut: which blocks each statement has that reads whole rows, and each
// that reads the small columns, and whether it is too small for a sample.
func Cut(heap, all, block, version int64) (pieces, ranges []string, few bool) {
	s := catalog{version: version}
	s.measure(heap, all, block)
	where := func(list []piece) (texts []string) {
		for _, p := range list {
			texts = append(texts, strings.NewReplacer("ctid ", "", "'", "", ",0)", "", "(", "").Replace(p.where))
		}
		return texts
	}
	return where(s.pieces()), where(s.ranges()), s.few
}

// Encoded is encoded.
func Encoded(client, database string) error { return encoded(client, database) }

// IsSnapshot is isSnapshot.
func IsSnapshot(name string) bool { return isSnapshot(name) }
