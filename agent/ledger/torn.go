package ledger

import (
	"bytes"
	"errors"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
)

// A torn line, one without its newline, is what a crash has left of an append that never
// returned: nobody relied on it. Read leaves it out (parse), whoever reads from the end passes over
// it (skipTorn), and the next Append cuts it off.

// torn tells whether this may be what a crash has left of an entry. Anything else without a
// newline is damage, such as a file of zeros, and there may have been a ledger (law 6).
func torn(line []byte) bool { return len(line) <= maxLine && bytes.HasPrefix(line, []byte("{")) }

// mayCut says why a torn line could not be cut off: root itself may only append to the file.
func (l *Ledger) mayCut() error {
	f, size, err := l.openRead()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	if size == 0 {
		return nil
	}
	var last [1]byte
	if _, err := f.ReadAt(last[:], size-1); err != nil || last[0] == '\n' {
		return err
	}
	w, err := durable.Open(l.path(), unix.O_WRONLY|unix.O_NOFOLLOW) // open(2): EPERM without O_APPEND
	if err != nil {
		return &fs.PathError{Op: "open", Path: l.path(), Err: err}
	}
	return w.Close()
}

// damage tells whether all that stands in the file is neither a whole line nor what a crash
// leaves of one.
func damage(f io.ReaderAt, end, size int64) (bool, error) {
	if end > 0 || size == 0 {
		return false, nil
	}
	line := make([]byte, min(size, maxLine+1))
	_, err := f.ReadAt(line, 0)
	return !torn(line), err
}

// skipTorn passes over what stands behind the last newline. It must be called first.
func (b *backwards) skipTorn() error {
	for {
		if i := bytes.LastIndexByte(b.buf, '\n'); i >= 0 {
			b.buf = b.buf[:i+1]
			return nil
		}
		if b.buf = nil; b.off == 0 { // a torn line may be as long as it likes
			return nil
		}
		if err := b.more(); err != nil {
			return err
		}
	}
}
