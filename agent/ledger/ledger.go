// Package ledger is keyguard's own record on this host: which key a person accepted,
// which opened the rows, which no longer did; and for people, everything that was
// done. It never holds a key, only fingerprints.
//
// It is the file `ledger.jsonl` in the state directory: a JSON object a line, only
// ever appended to, each with the SHA-256 of the line before, so that an edit in the
// middle shows. What it cannot show is that lines are missing at its end: for that an
// auditor compares with the journal.
//
// The ledger is hearsay beside the rows (law 1). So a damaged one costs nothing but
// what it said: a torn last line is dropped, and where the chain is broken nothing
// before it counts as proven.
//
// Where the chain is checked: record.go reads all of it, and every break is a Break of the Record;
// standing.go reads its end, which is all that a healthy start wants, back to the last word on the
// known key, and behind a break there no key is known. Until a person was told of the last break and
// has accepted the key (Broken), nothing is a first start (agent/decide/keyfile.go), no key becomes a
// current copy above another, or while no row speaks (agent/decide/shelf.go), and status is not green
// (agent/statusverdict.go).
package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

const (
	// Name is the ledger's file in the state directory.
	Name = "ledger.jsonl"

	// maxLine is the longest line in bytes that counts as an entry. Ours have some
	// hundred; Append cuts a reason to maxReason.
	maxLine   = 16 << 10
	maxReason = 2 << 10

	// patience is how long an append waits for another one, which takes milliseconds.
	// It stands in the way of the daemon's start (law 9).
	patience = 2 * time.Second
)

// Options say who writes.
type Options struct {
	Host string
	// Machine tells this machine from a clone of it, whatever both are called; "" does not.
	Machine string
	Version string
	Config  string
	Now     func() time.Time // nil is time.Now
}

// Ledger is the record of one host.
type Ledger struct {
	dir  string
	opts Options
}

// Open names the ledger in a state directory. It touches nothing.
func Open(stateDir string, opts Options) *Ledger {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Ledger{stateDir, opts}
}

func (l *Ledger) path() string { return filepath.Join(l.dir, Name) }

// Append writes entries, in this order, and syncs them: when it returns nil they are
// on disk (law 5). On error none counts that was not whole on disk before a crash, and
// what was there is as readable as before. It makes the file, 0600, and the directory.
// Where the file system hangs it is crew.ErrHangs. A caller that has gone by then acts on
// what stands there, so that its entries may not come late: what is not written yet is left
// alone, and what is, is taken away again before anybody else may append.
//
//	flock(ledger)
//	openat(O_RDWR|O_CREAT|O_APPEND|O_NOFOLLOW, 0600), fchmod if the mode is another
//	fsync of the directory, only if the file is empty: one with bytes has a durable name
//	ftruncate   only if the last line is torn
//	write       all entries at once: a crash here leaves some of them and a torn line
//	fsync
func (l *Ledger) Append(entries ...Entry) error {
	_, err := l.appendIf(nil, entries)
	return err
}

// AppendIf appends as Append does, unless another key is known since seen was read, the known one was
// proven or accepted anew, or a rotation was opened or closed: then it is ErrMovedOn, and nothing is
// written. What is told by a look at the rows goes in by this, as the last word on a key counts, and
// not the last look. A rotation that was opened and called off since is none. It returns how things stand
// with the entries; where that cannot be told they are taken away again.
func (l *Ledger) AppendIf(seen Standing, entries ...Entry) (Standing, error) {
	return l.appendIf(&seen, entries)
}

// ErrMovedOn says that the ledger tells otherwise by now which key is known, or which rotation is open.
var ErrMovedOn = errors.New("the ledger tells otherwise by now which key is known")

func (l *Ledger) appendIf(seen *Standing, entries []Entry) (Standing, error) {
	var e ending
	err := crew.Try(l.dir, func() error { return l.append(seen, entries, &e) })
	if errors.Is(err, crew.ErrHangs) && !e.first() {
		return e.stands, nil // it was done at that very moment
	}
	if err != nil {
		return Standing{}, fmt.Errorf("cannot append to the ledger: %w", err)
	}
	return e.stands, nil
}

// ending is how an append ended. Whoever comes to it first says that: who writes, that it is
// done; who waits, that it was given up.
type ending struct {
	said   atomic.Bool
	stands Standing // of AppendIf, set before it is said that it is done
}

func (e *ending) first() bool { return !e.said.Swap(true) }

func (l *Ledger) append(seen *Standing, entries []Entry, ended *ending) error {
	for _, e := range entries {
		if err := e.check(); err != nil {
			return err
		}
	}
	if err := durable.MkdirAll(l.dir, durable.Attr{UID: -1, GID: -1}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	held, err := lock.Wait(ctx, l.dir, lock.Ledger)
	if err != nil {
		return err
	}
	defer held.Release()

	f, size, err := l.open()
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // synced by then
	if size == 0 {
		if err := durable.SyncFound(l.dir); err != nil {
			return err
		}
	}
	if seen != nil {
		if now, err := standing(f, size); err != nil {
			return err
		} else if !now.Same(*seen) {
			return ErrMovedOn
		}
	}
	end, last, prev, err := lastEntry(f, size)
	if err != nil {
		return err
	}
	text, err := l.lines(entries, last, prev)
	if err != nil {
		return err
	}
	switch damaged, err := damage(f, end, size); {
	case err != nil:
		return err
	case damaged && len(text) > 0: // it stays, for everybody to see
		text, end = append([]byte("\n"), text...), size
	case end < size && !damaged: // nobody relied on a torn line: its append never returned
		if err := durable.Truncate(f, end); err != nil {
			return err
		}
	}
	if ended.said.Load() {
		return crew.ErrHangs
	}
	if err := durable.Append(f, text); err != nil {
		// A full disk: what got there is a torn line at best, and is dropped in any case.
		return errors.Join(err, durable.Truncate(f, end))
	}
	if seen != nil {
		ended.stands, err = l.standing()
	}
	switch {
	case err == nil && ended.first():
		return nil
	case err == nil:
		err = crew.ErrHangs
	}
	return errors.Join(err, durable.Truncate(f, end), durable.Sync(f))
}

// Try does all that Append does, of no entry: an immutable ledger, one that cannot be read, a
// torn line that cannot be cut off, a lock that cannot be taken show here.
func (l *Ledger) Try() error {
	if err := crew.Try(l.dir, func() error { return l.append(nil, nil, new(ending)) }); err != nil {
		return fmt.Errorf("the ledger cannot be appended to: %w", err)
	}
	return nil
}

// Writable says why nothing could be appended just now: a read-only file system, one without
// room, an immutable file, a torn line that cannot be cut off. It takes no lock and changes
// nothing.
func (l *Ledger) Writable() error {
	_, err := crew.Within(l.dir, func() (struct{}, error) {
		err := l.mayWrite(l.path())
		if path := filepath.Join(l.dir, lock.Ledger); err == nil && durable.Access(path, unix.R_OK) != nil {
			err = l.mayWrite(path)
		}
		if err == nil {
			err = l.mayCut()
		}
		if err == nil {
			err = room(l.dir)
		}
		return struct{}{}, err
	}, nil)
	if err != nil {
		return fmt.Errorf("the ledger in %s cannot be written: %w", l.dir, err)
	}
	return nil
}

// room says that a file system has no block or no inode left. One that counts none has them.
func room(dir string) error {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) == nil && (st.Blocks > 0 && st.Bfree == 0 || st.Files > 0 && st.Ffree == 0) {
		return unix.ENOSPC
	}
	return nil
}

// mayWrite asks the kernel whether a file of the ledger may be written to, or made where it
// is missing. access(2) does; what x/sys makes of faccessat(2) with flags answers EPERM, as
// an immutable file has it, by the mode alone, and root may do anything by that.
func (l *Ledger) mayWrite(path string) error {
	err := durable.Access(path, unix.W_OK)
	if err == unix.ENOENT {
		path = l.dir
		err = durable.Access(path, unix.W_OK)
	}
	switch err {
	case nil, unix.ENOENT: // the first entry makes the directory
		return nil
	case unix.EROFS: // whatever file it is
		return err
	}
	return &fs.PathError{Op: "write", Path: path, Err: err}
}

// lines is what to write behind last, whose line has the hash prev.
func (l *Ledger) lines(entries []Entry, last Entry, prev string) ([]byte, error) {
	var text []byte
	for _, e := range entries {
		e.Seq, e.Prev = last.Seq+1, prev
		e.Rotation, e.Stopped = e.rotation(last.Rotation), e.stopped(last.Stopped)
		if e.Time.IsZero() {
			e.Time = l.opts.Now()
		}
		e.Time = e.Time.UTC().Truncate(time.Millisecond) // not rounded: a proof must not lie in the future
		if e.Host == "" {
			e.Host = l.opts.Host
		}
		if e.Machine == "" {
			e.Machine = l.opts.Machine
		}
		if e.Version == "" {
			e.Version = l.opts.Version
		}
		if e.Config == "" {
			e.Config = l.opts.Config
		}
		if len(e.Reason) > maxReason {
			e.Reason = strings.ToValidUTF8(e.Reason[:maxReason], "") + "…"
		}
		line, err := json.Marshal(e)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrEntry, err)
		}
		line = printable.JSON(line) // for whoever reads the file itself
		if len(line) > maxLine {
			return nil, fmt.Errorf("%w: %d bytes long", ErrEntry, len(line))
		}
		text = append(append(text, line...), '\n')
		last, prev = e, sum(line)
	}
	return text, nil
}

// decode reads a line without its newline.
func (r *reader) decode(line []byte, e *Entry) error {
	if len(line) > maxLine {
		return fmt.Errorf("%w: more than %d bytes long", ErrEntry, maxLine)
	}
	if *e = (Entry{}); r.plain(line, e) {
		return e.check()
	}
	var odd Entry
	err := json.Unmarshal(line, &odd)
	if *e = odd; err != nil {
		return fmt.Errorf("%w: %w", ErrEntry, err)
	}
	if len(e.Stopped) == 0 {
		e.Stopped = nil // as what is written of no units reads
	}
	return e.check()
}

func sum(line []byte) string {
	text := sumText(line)
	return string(text[:])
}

// sumText is sum for whoever compares it and does not keep it.
func sumText(line []byte) (text [2 * sha256.Size]byte) {
	h := sha256.Sum256(line)
	hex.Encode(text[:], h[:])
	return text
}

// nonblock keeps a FIFO in the ledger's place from hanging the daemon's start (law 9).
const nonblock = unix.O_NOFOLLOW | unix.O_NONBLOCK

// open opens the file for appending, makes sure that it is one, and tells its size in bytes.
func (l *Ledger) open() (*durable.File, int64, error) {
	f, err := durable.OpenOrNew(l.path(), os.O_RDWR|os.O_APPEND|nonblock)
	if err != nil {
		return nil, 0, l.unopened(err)
	}
	var st unix.Stat_t
	err = f.Stat(&st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = l.irregular()
	}
	if err == nil && st.Size > most {
		err = l.large()
	}
	if err == nil && st.Mode&0o777 != 0o600 {
		err = durable.Chmod(f, 0o600)
	}
	if err != nil {
		f.Close() //nolint:errcheck // nothing was written
		return nil, 0, err
	}
	return f, st.Size, nil
}

// openRead is open for reading.
func (l *Ledger) openRead() (*durable.File, int64, error) {
	f, err := durable.Open(l.path(), os.O_RDONLY|nonblock)
	if err != nil {
		return nil, 0, l.unopened(&fs.PathError{Op: "open", Path: l.path(), Err: err})
	}
	var st unix.Stat_t
	err = f.Stat(&st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = l.irregular()
	}
	if err == nil && st.Size > most {
		err = l.large()
	}
	if err != nil {
		f.Close() //nolint:errcheck // nothing was written
		return nil, 0, err
	}
	return f, st.Size, nil
}

func (l *Ledger) unopened(err error) error {
	if errors.Is(err, fs.ErrNotExist) && nowhere(l.dir) {
		return fmt.Errorf("%s leads nowhere", l.dir) // to what is not mounted: no ledger is not known (law 6)
	}
	// A symlink, which is not followed; a socket, or a device that nobody drives; a directory,
	// where it is to be written to. In the end of the path, that is.
	if odd := errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EISDIR); odd {
		if info, lerr := os.Lstat(l.path()); lerr == nil && !info.Mode().IsRegular() {
			return l.irregular()
		}
	}
	return err
}

// ErrNoLedger says that something else stands in the ledger's place. It is left alone.
var ErrNoLedger = errors.New("no ledger of keyguard's")

func (l *Ledger) irregular() error {
	return fmt.Errorf("%s is %w: not a regular file", l.path(), ErrNoLedger)
}

// most bounds the file, in bytes. Entries have some hundred, and a host writes some a day.
const most = 256 << 20

func (l *Ledger) large() error {
	return fmt.Errorf("%s is %w: larger than %d MiB", l.path(), ErrNoLedger, most>>20)
}

// nowhere tells whether a symlink stands in the place of a directory, and what it leads to is
// not there.
func nowhere(dir string) bool {
	_, lerr := os.Lstat(dir)
	_, err := os.Stat(dir)
	return lerr == nil && errors.Is(err, fs.ErrNotExist)
}

// lastEntry finds behind what to append: the end of the last whole line, the last
// line that is an entry, and the hash for the next one. Behind a line that is no
// entry a new chain begins.
func lastEntry(f io.ReaderAt, size int64) (end int64, last Entry, prev string, err error) {
	b := backwards{f: f, off: size}
	if err := b.skipTorn(); err != nil {
		return 0, Entry{}, "", err
	}
	end = b.off + int64(len(b.buf))
	var r reader
	for nearest := true; ; nearest = false {
		line, ok, err := b.line()
		if !ok || err != nil {
			return end, Entry{}, "", err
		}
		if r.decode(line, &last) == nil {
			if nearest {
				prev = sum(line)
			}
			return end, last, prev, nil
		}
	}
}
