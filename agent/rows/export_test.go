package rows

import "github.com/footprintai/containarium-keyguard/agent/key"

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
