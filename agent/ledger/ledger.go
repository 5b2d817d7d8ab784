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
	"github.com/footprintai/containarium-keyguard/agent/key"
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

// Event is what an entry tells of.
type Event string

// The events. A newer keyguard may write others: they are kept and count as history.
const (
	// Accepted, Proven and Contradicted say which key is known. An Accepted or Proven
	// key is known until another one is, or until it is Contradicted.
	Accepted     Event = "accepted"     // a person's word, with the verdict at that time
	Proven       Event = "proven"       // it opened rows
	Contradicted Event = "contradicted" // it opened none any more

	// A rotation is open from RotationOpen until Rotated or RotationClosed.
	RotationOpen   Event = "rotation-open"   // Old, and Fingerprint is the new key
	CommitBegun    Event = "commit-begun"    // from here on the rows may be under either key
	Rotated        Event = "rotated"         // all is under the new key
	RotationClosed Event = "rotation-closed" // settled by the rows: Fingerprint is the key that holds; "" is neither, and then no key is known

	// Between Stopped and Started it is keyguard that keeps the daemon down.
	Stopped Event = "stopped" // Entry.Stopped names the units
	Started Event = "started"

	// The rest is history for people.
	Made       Event = "made"        // the host's first key
	Saving     Event = "saving"      // about to be stored in Escrow, on the current shelf
	Saved      Event = "saved"       // stored in Escrow as Copy, on Shelf
	Adopted    Event = "adopted"     // a person took over a Copy in Escrow that another host wrote
	Installed  Event = "installed"   // put into the keyfile's place, where Old was
	Parked     Event = "parked"      // the daemon started without a key
	Minted     Event = "minted"      // the daemon made a key of its own
	StartedOn  Event = "started-on"  // the key that the daemon has read at this start
	Exposed    Event = "exposed"     // the keyfile's mode or owner was loose
	Restored   Event = "restored"    // a person put a key back from a copy
	Imported   Event = "imported"    // a person brought a key
	Printed    Event = "printed"     // a person took a key out, on paper
	Drilled    Event = "drilled"     // a copy was restored into scratch and tried; without a Copy, the escrow or its shelf could not answer
	DrillEnded Event = "drill-ended" // what a drill came to; its Drilled entries stand before it
	Repaired   Event = "repaired"    // rows under several keys were brought under one
	UnitFailed Event = "unit-failed" // systemd says that Unit, one of ours, failed
)

// Entry is one line. Event is all that every entry must have; Append fills in Seq,
// Rotation, Stopped and Prev, and Time, Host, Machine, Version and Config where they are zero.
type Entry struct {
	Seq         uint64          `json:"seq"` // counts from 1
	Time        time.Time       `json:"time"`
	Event       Event           `json:"event"`
	Fingerprint key.Fingerprint `json:"fingerprint,omitempty"`
	Old         key.Fingerprint `json:"old,omitempty"` // the key that stood there before
	Escrow      string          `json:"escrow,omitempty"`
	Copy        string          `json:"copy,omitempty"`    // its id in Escrow
	Shelf       string          `json:"shelf,omitempty"`   // current or quarantine
	Tops        []string        `json:"tops,omitempty"`    // of a key in parts: what each store has of it, by its number there
	Verdict     string          `json:"verdict,omitempty"` // of a proof (rows.Verdict), or of a drill (agent.DrillVerdict): the event says which
	Checked     int64           `json:"checked,omitempty"` // rows tried
	Opened      int64           `json:"opened,omitempty"`  // rows opened, of those
	Total       int64           `json:"total,omitempty"`   // rows there are
	Took        time.Duration   `json:"took_ns,omitempty"`
	Drill       string          `json:"drill,omitempty"`   // names one drill, and is the same in all its entries
	Judged      bool            `json:"judged,omitempty"`  // the drill's verdict depends on this copy; the others are only reported
	Full        bool            `json:"full,omitempty"`    // every row was to be tried, no sample
	Untried     []int           `json:"untried,omitempty"` // of a key in parts: the numbers of those that the drill could not try
	Unit        string          `json:"unit,omitempty"`
	Invocation  string          `json:"invocation,omitempty"` // of the daemon's start that StartedOn and Minted tell of, $INVOCATION_ID of systemd.exec(5)
	Untouched   time.Time       `json:"untouched,omitzero"`   // Installed, Parked, Exposed: since when nobody had touched the keyfile until then (st_ctim)
	Person      string          `json:"person,omitempty"`
	Reason      string          `json:"reason,omitempty"` // longer than 2 KiB, it is cut
	Host        string          `json:"host,omitempty"`
	Machine     string          `json:"machine,omitempty"` // Options.Machine
	Version     string          `json:"version,omitempty"` // of keyguard
	Config      string          `json:"config,omitempty"`  // SHA-256, hex, of the configuration in force
	Rotation    *Rotation       `json:"rotation,omitempty"`
	Broken      int             `json:"broken,omitempty"`         // Accepted: the chain's last break that the person was told of, by its line
	Stopped     []string        `json:"daemon_stopped,omitempty"` // the daemon's units that are to be started again; every entry until Started carries them
	Prev        string          `json:"prev,omitempty"`           // SHA-256, hex, of the line before without its newline; "" begins a chain
	Line        int             `json:"-"`                        // where it stands in the file, from 1; only Read knows
}

// Rotation is a rotation that is under way. Every entry carries the one that is open
// when it is written, so that the last one tells.
type Rotation struct {
	Old         key.Fingerprint `json:"old"`
	New         key.Fingerprint `json:"new"`
	CommitBegun bool            `json:"commit_begun,omitempty"`
}

// Options say who writes.
type Options struct {
	Host string
	// Machine tells this machine from a copy of it, whatever both are called; "" does not.
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

// ErrEntry says that an entry cannot be written as it is.
var ErrEntry = errors.New("not a ledger entry")

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
	var e ending
	err := crew.Try(l.dir, func() error { return l.append(entries, &e) })
	if errors.Is(err, crew.ErrHangs) && !e.first() {
		return nil // it was done at that very moment
	}
	if err != nil {
		return fmt.Errorf("cannot append to the ledger: %w", err)
	}
	return nil
}

// ending is how an append ended. Whoever comes to it first says that: who writes, that it is
// done; who waits, that it was given up.
type ending struct{ said atomic.Bool }

func (e *ending) first() bool { return !e.said.Swap(true) }

func (l *Ledger) append(entries []Entry, ended *ending) error {
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
	if !ended.first() {
		return errors.Join(crew.ErrHangs, durable.Truncate(f, end), durable.Sync(f))
	}
	return nil
}

// Try does all that Append does, of no entry: an immutable ledger, one that cannot be read, a
// torn line that cannot be cut off, a lock that cannot be taken show here.
func (l *Ledger) Try() error {
	if err := crew.Try(l.dir, func() error { return l.append(nil, new(ending)) }); err != nil {
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

// rotation is the one that is open after e, where before was before it.
func (e Entry) rotation(before *Rotation) *Rotation {
	switch e.Event {
	case RotationOpen:
		return &Rotation{Old: e.Old, New: e.Fingerprint}
	case CommitBegun:
		if before == nil {
			return nil
		}
		begun := *before
		begun.CommitBegun = true
		return &begun
	case Rotated, RotationClosed:
		return nil
	}
	return before
}

// stopped are the units that are down after e, where before were before it.
func (e Entry) stopped(before []string) []string {
	switch e.Event {
	case Stopped:
		return e.Stopped
	case Started:
		return nil
	}
	return before
}

// check refuses what a reader would not take for an entry, or would misread.
func (e Entry) check() error {
	if e.Event == "" {
		return fmt.Errorf("%w: it has no event", ErrEntry)
	}
	for _, f := range []key.Fingerprint{e.Fingerprint, e.Old} {
		if f == "" {
			continue
		}
		if _, err := key.ParseFingerprint(string(f)); err != nil {
			return fmt.Errorf("%w: %w", ErrEntry, err)
		}
	}
	needs := e.Fingerprint == ""
	switch e.Event {
	case RotationOpen:
		needs = needs || e.Old == ""
	case Accepted, Proven, Contradicted:
	default:
		return nil
	}
	if needs {
		return fmt.Errorf("%w: %q without a fingerprint", ErrEntry, e.Event)
	}
	return nil
}

// decode reads a line without its newline.
func (r *reader) decode(line []byte) (Entry, error) {
	if len(line) > maxLine {
		return Entry{}, fmt.Errorf("%w: more than %d bytes long", ErrEntry, maxLine)
	}
	if e, ok := r.plain(line); ok {
		return e, e.check()
	}
	var e Entry
	if err := json.Unmarshal(line, &e); err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrEntry, err)
	}
	return e, e.check()
}

func sum(line []byte) string {
	h := sha256.Sum256(line)
	var text [2 * len(h)]byte
	hex.Encode(text[:], h[:])
	return string(text[:])
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
		if e, err := r.decode(line); err == nil {
			if nearest {
				prev = sum(line)
			}
			return end, e, prev, nil
		}
	}
}

// Standing is what the ledger says now.
type Standing struct {
	Known    key.Fingerprint // the known key; "" where none is
	By       Event           // Accepted or Proven
	Verdict  string          // that entry's
	Checked  int64           // and of how many rows it was
	Opened   int64
	LastLook time.Time // that entry's; it may lie in the future, and then proves nothing
	Rotation *Rotation // the one that is open, or nil
	Stopped  []string  // the daemon's units that keyguard stopped and did not start again
}

// Standing reads the ledger from its end, only as far back as the last word on the
// known key: it stands on the path of every healthy start (law 7). No ledger is no
// error, and says nothing; one that cannot be read is an error.
//
// The chain is checked as far as it is read. A break hides what stands before it,
// but for an open rotation, and for a daemon that is down: which key holds is for the
// rows to say, and whoever forgot it would not ask them.
func (l *Ledger) Standing() (Standing, error) {
	return crew.Within(l.dir, l.standing, nil)
}

func (l *Ledger) standing() (Standing, error) {
	f, size, err := l.openRead()
	if errors.Is(err, fs.ErrNotExist) {
		return Standing{}, nil
	}
	if err != nil {
		return Standing{}, fmt.Errorf("cannot read the ledger: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	s, err := standing(f, size)
	if err != nil {
		return Standing{}, fmt.Errorf("cannot read the ledger: %w", err)
	}
	return s, nil
}

func standing(f io.ReaderAt, size int64) (s Standing, err error) {
	b := backwards{f: f, off: size}
	if err := b.skipTorn(); err != nil {
		return s, err
	}
	prev, first := "", true // what the entry behind the line in hand says of it, if there is one
	contradicted := map[key.Fingerprint]bool{}
	var r reader
	for broken := false; ; {
		line, ok, err := b.line()
		if !ok || err != nil {
			return s, err
		}
		e, err := r.decode(line)
		if err != nil {
			if !first {
				return s, nil
			}
			broken = true // and look for an entry that carries what is open
			continue
		}
		if first {
			s.Rotation, s.Stopped = e.Rotation, e.Stopped
		} else if prev != sum(line) {
			broken = true
		}
		if broken {
			return s, nil
		}
		switch {
		case e.Event == Contradicted:
			contradicted[e.Fingerprint] = true
		case e.Event == RotationClosed && e.Fingerprint == "":
			return s, nil
		case e.known():
			if !contradicted[e.Fingerprint] {
				s.Known, s.By, s.Verdict, s.LastLook = e.Fingerprint, e.Event, e.Verdict, e.Time
				s.Checked, s.Opened = e.Checked, e.Opened
			}
			return s, nil
		}
		prev, first = e.Prev, false
	}
}

// known tells whether the entry makes its key the known one.
func (e Entry) known() bool { return e.Event == Accepted || e.Event == Proven }
