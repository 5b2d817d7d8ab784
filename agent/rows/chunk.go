package rows

import (
	"encoding/binary"
	"sync"
)

// What a pass over the table reads goes from one goroutine to others in chunks, each the cells of
// some rows one after the other.
const (
	// chunkBytes is about how long a chunk is, and chunksAhead how many wait to be taken, as
	// the server reads and writes by fits and starts.
	chunkBytes  = 256 << 10
	chunksAhead = 8
)

// chunks are the buffers of a pass. What they held before was encrypted.
type chunks struct{ spare sync.Pool } // of *[]byte

// chunk is an empty one.
func (c *chunks) chunk() []byte {
	if b, ok := c.spare.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, chunkBytes+chunkBytes/4)
}

// recycle takes back one that nobody reads any more.
func (c *chunks) recycle(chunk []byte) { c.spare.Put(&chunk) }

// appendCell packs one value the way Postgres does in binary: its length, then its bytes; -1
// is NULL.
func appendCell(b, value []byte) []byte {
	if value == nil {
		return append(b, 0xff, 0xff, 0xff, 0xff)
	}
	return append(binary.BigEndian.AppendUint32(b, uint32(len(value))), value...)
}

// nextCell takes one value off b, which appendCell packed.
func nextCell(b []byte) (value, rest []byte) {
	n := int32(binary.BigEndian.Uint32(b))
	if b = b[4:]; n < 0 {
		return nil, b
	}
	return b[:n:n], b[n:]
}
