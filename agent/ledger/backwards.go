package ledger

import (
	"bytes"
	"io"
)

// backwards reads the lines of a file from the last to the first.
type backwards struct {
	f   io.ReaderAt
	off int64  // where buf stands in the file; at first, the file's size
	buf []byte // read and not given out yet: whole lines at its end
}

// chunk is how many bytes are read at once: a disk page, some dozen entries.
const chunk = 4 << 10

// more reads what stands before buf.
func (b *backwards) more() error {
	n := min(chunk, b.off)
	grown := make([]byte, n, int(n)+len(b.buf))
	if _, err := b.f.ReadAt(grown, b.off-n); err != nil {
		return err
	}
	b.off -= n
	b.buf = append(grown, b.buf...)
	return nil
}

// line returns the line before, without its newline, until there is none. Of a line
// that is longer than maxLine it returns maxLine bytes and one more, which is all
// that is ever kept of it. The bytes are good until the next call.
func (b *backwards) line() (line []byte, ok bool, err error) {
	for {
		if len(b.buf) > 0 {
			body := b.buf[:len(b.buf)-1] // its newline is the last
			if i := bytes.LastIndexByte(body, '\n'); i >= 0 || b.off == 0 {
				b.buf = b.buf[:i+1]
				return body[i+1:], true, nil
			}
			if len(body) > maxLine+1 {
				b.buf = append(body[:maxLine+1:maxLine+1], '\n')
			}
		} else if b.off == 0 {
			return nil, false, nil
		}
		if err := b.more(); err != nil {
			return nil, false, err
		}
	}
}
