package ledger

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

const (
	current = "current" // the shelf whose copies count as saved: escrow.Current
	passed  = "passed"  // what a drill says of a copy that opened the rows: agent.DrillPassed
)

// Record is the whole ledger.
type Record struct {
	Entries []Entry // every line that is an entry, in the order of the file
	Breaks  []Break // where the chain is broken, in that order
	Torn    bool    // the last line was torn by a crash and is dropped
	Sum     string  // SHA-256, hex, of the last whole line: what the next entry will carry as Prev
}

// Break is a place where the chain is broken: the file was edited or damaged there,
// or just before it.
type Break struct {
	Line int    // from 1
	Why  string // for people
}

// Read reads the whole ledger. A missing one is empty, and no error; one that cannot
// be read is an error.
func (l *Ledger) Read() (Record, error) {
	data, err := crew.Within(l.dir, l.read, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, nil
	}
	if err != nil {
		return Record{}, fmt.Errorf("cannot read the ledger: %w", err)
	}
	return parse(data), nil // years of it take their time where the processor is busy, and nothing hangs
}

func (l *Ledger) read() ([]byte, error) {
	f, size, err := l.openRead()
	if err != nil {
		return nil, err
	}
	defer f.Close()                                              //nolint:errcheck // nothing was written
	data := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead)) // so that it need not grow
	_, err = data.ReadFrom(f)
	return data.Bytes(), err
}

func parse(data []byte) Record {
	var r Record
	var before [2 * sha256.Size]byte
	prev, garbage := before[:0], false // "" begins a chain
	var lines reader
	r.Entries = slices.Grow(r.Entries, min(bytes.Count(data, []byte("\n")), len(data)/128)) // no line of ours is shorter
	for n := 1; len(data) > 0; n++ {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		if !whole {
			if r.Torn = true; n == 1 && !torn(line) {
				r.Breaks = append(r.Breaks, Break{n, "no line of it is whole, and it is no beginning of one"})
			}
			break
		}
		data = rest
		r.Entries = append(r.Entries, Entry{})
		e := &r.Entries[len(r.Entries)-1]
		err := lines.decode(line, e)
		switch {
		case err != nil:
			r.Entries = r.Entries[:len(r.Entries)-1]
			r.Breaks = append(r.Breaks, Break{n, err.Error()})
			prev, garbage = before[:0], true
			continue
		case garbage && e.Prev == "": // the break was told at the line before
		case e.Prev != string(prev):
			why := "it does not continue the line before, which was changed, or lines between were taken out"
			switch {
			case n == 1:
				why = "lines before it were taken out"
			case e.Prev == "":
				why = "a new chain begins, as it does behind damage"
			}
			r.Breaks = append(r.Breaks, Break{n, why})
		}
		e.Line = n
		before = sumText(line)
		prev, garbage = before[:], false
	}
	r.Sum = string(prev)
	return r
}

// Contradicted are the keys on which the last word is that they opened no row: of a proof, or
// of a drill that read a copy of one. It looks across breaks: a word against a key is taken
// from hearsay too.
func (r Record) Contradicted() map[key.Fingerprint]bool {
	list := map[key.Fingerprint]bool{}
	for _, e := range r.Entries {
		switch {
		case e.Event == Contradicted, e.Event == Drilled && e.Checked > 0 && e.Opened == 0:
			list[e.Fingerprint] = true
		case e.known(), e.Event == Drilled && e.Opened > 0:
			delete(list, e.Fingerprint)
		}
	}
	return list
}

// EverProven lists the keys that ever opened rows here, each once, the last first. It
// looks across breaks: it is asked for reasons to be careful with another key
// (law 4), and a damaged ledger is none to be less so.
func (r Record) EverProven() []key.Fingerprint {
	var list []key.Fingerprint
	for _, e := range slices.Backward(r.Entries) {
		if e.Event == Proven && !slices.Contains(list, e.Fingerprint) {
			list = append(list, e.Fingerprint)
		}
	}
	return list
}

// Broken is the last break of the chain, unless a person was told of it and has accepted the
// key all the same: what stands before it was edited or damaged, and vouches for nothing.
func (r Record) Broken() (Break, bool) {
	if len(r.Breaks) == 0 {
		return Break{}, false
	}
	last := r.Breaks[len(r.Breaks)-1]
	return last, !slices.ContainsFunc(r.Entries, func(e Entry) bool { return e.Event == Accepted && e.Broken >= last.Line })
}

// OtherMachine is the last entry that another machine wrote, if nobody on this one has
// accepted a key since: the state directory was copied, and what stands in it is true of
// the other. Entries without a machine are older than that, or tell nothing. A machine that
// has no id itself, "", cannot tell that it is the one that wrote (law 6).
func (r Record) OtherMachine(machine string) (Entry, bool) {
	for _, e := range slices.Backward(r.Entries) {
		switch {
		case e.Event == Accepted && e.Machine == machine:
			return Entry{}, false
		case e.Machine != "" && e.Machine != machine:
			return e, true
		}
	}
	return Entry{}, false
}

// Named lists the keys that were ever in use here by name, each once, the last first:
// proven, accepted or saved, on any shelf. It looks across breaks, as EverProven does.
func (r Record) Named() []key.Fingerprint {
	var list []key.Fingerprint
	for _, e := range slices.Backward(r.Entries) {
		if (e.known() || e.Event == Saved || e.Event == Adopted) && e.Fingerprint != "" && !slices.Contains(list, e.Fingerprint) {
			list = append(list, e.Fingerprint)
		}
	}
	return list
}

// Unused are the keys that were made here for a first start, and of which nothing says since that they
// were put in the keyfile's place, or that a person or the rows have spoken for them.
func (r Record) Unused() map[key.Fingerprint]bool {
	unused := map[key.Fingerprint]bool{}
	for _, e := range r.Entries {
		switch {
		case e.Event == Made:
			unused[e.Fingerprint] = true
		case e.known(), e.Event == Installed, e.Event == Restored, e.Event == Imported:
			delete(unused, e.Fingerprint)
		}
	}
	return unused
}

// LastSaved is the last entry of a current copy in the escrow, which this host saved
// or a person adopted.
func (r Record) LastSaved(escrow string) (Entry, bool) {
	for _, e := range slices.Backward(r.Entries) {
		if e.Escrow == escrow && (e.Event == Saved || e.Event == Adopted) && e.Shelf == current {
			return e, true
		}
	}
	return Entry{}, false
}

// SavedAfter tells whether this host has saved a current copy in the escrow since a line. The order
// of the lines counts: the clock may have been wrong at either. A copy that a person adopted is
// what stood there before.
func (r Record) SavedAfter(escrow string, line int) bool {
	for _, e := range slices.Backward(r.Entries) {
		if e.Line <= line {
			return false
		}
		if e.Escrow == escrow && e.Event == Saved && e.Shelf == current {
			return true
		}
	}
	return false
}

// LastDrilled is what the last drill said of an escrow: of its newest current copy, or,
// without a Copy, of the escrow that could not answer. LastProven is the last that passed,
// which may be the same.
func (r Record) LastDrilled(escrow string) (Entry, bool) {
	return r.lastDrilled(escrow, func(Entry) bool { return true })
}

// LastProven is the last time that a drill restored the escrow's newest current copy and
// it opened the rows. What stands before a break of the chain does not count as proven.
func (r Record) LastProven(escrow string) (Entry, bool) {
	sound := 0
	if n := len(r.Breaks); n > 0 {
		sound = r.Breaks[n-1].Line
	}
	return r.lastDrilled(escrow, func(e Entry) bool { return e.Verdict == passed && e.Line >= sound })
}

func (r Record) lastDrilled(escrow string, fits func(Entry) bool) (Entry, bool) {
	for _, e := range slices.Backward(r.Entries) {
		if e.Event == Drilled && e.Escrow == escrow && (e.Judged || e.Copy == "") && fits(e) {
			return e, true
		}
	}
	return Entry{}, false
}

// UntriedSince is when the first of the last drills in a row was that could not try a part of
// an escrow's key; zero where the last one did.
func (r Record) UntriedSince(escrow string, part int) (since time.Time) {
	for _, e := range slices.Backward(r.Entries) {
		switch {
		case e.Event != Drilled || e.Escrow != escrow || !e.Judged || e.Copy == "":
		case slices.Contains(e.Untried, part):
			since = e.Time
		default:
			return since
		}
	}
	return since
}

// Holds tells whether a copy in the escrow is this host's: saved or adopted, on either shelf.
func (r Record) Holds(escrow, copy string) bool {
	return slices.ContainsFunc(r.Entries, func(e Entry) bool {
		return e.Escrow == escrow && e.Copy == copy && (e.Event == Saved || e.Event == Adopted)
	})
}
