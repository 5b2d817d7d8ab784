package rows

import (
	"encoding/binary"
	"fmt"
	"io"
)

const (
	// mostParameters bounds what a server tells of its parameters in one session, in bytes:
	// it is some 500 at the start, and a line for each that changes.
	mostParameters = 64 << 10
	// mostUnasked bounds one message that was not asked for, in bytes.
	mostUnasked = 1 << 20
	// mostToTell bounds the rows of an answer that is kept whole, in bytes: of the catalog, of
	// who is connected.
	mostToTell = 1 << 20
)

var (
	errUnasked = fmt.Errorf("%w: it says more that was not asked for than a server does", ErrNonsense)
	errLong    = fmt.Errorf("%w: more than %d bytes where a few lines were asked for", ErrNonsense, mostToTell)
)

// unasked reads what the server says, and has the session fail where it says too much by
// itself: parameters, notices, notifications (Postgres documentation, "Asynchronous
// Operations" of the protocol). The driver takes them at any time, and keeps all parameters,
// whatever they are called.
type unasked struct {
	from       io.Reader
	header     [5]byte // of the message that comes: its type and its length
	have       int     // bytes of it
	body       int64   // bytes that are left of the message
	parameters int64   // bytes of all so far
}

func (u *unasked) Read(to []byte) (int, error) {
	n, err := u.from.Read(to)
	for rest := to[:n]; len(rest) > 0; {
		if skip := min(u.body, int64(len(rest))); skip > 0 {
			u.body -= skip
			rest = rest[skip:]
			continue
		}
		took := copy(u.header[u.have:], rest)
		rest = rest[took:]
		if u.have += took; u.have < len(u.header) {
			break
		}
		u.have = 0
		// A length that is none the driver refuses by itself.
		u.body = max(int64(binary.BigEndian.Uint32(u.header[1:]))-4, 0)
		switch u.header[0] {
		case 'S': // ParameterStatus
			u.parameters += u.body
		case 'N', 'A': // NoticeResponse, NotificationResponse
		default:
			continue
		}
		if u.body > mostUnasked || u.parameters > mostParameters {
			return 0, errUnasked
		}
	}
	return n, err
}
