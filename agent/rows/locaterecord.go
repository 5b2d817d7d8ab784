package rows

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
)

// ErrRecord says that the record of where the database is cannot be understood.
var ErrRecord = errors.New("not a record of where the database is")

// ErrInTheWay says that something else stands where that record is to be written.
var ErrInTheWay = errors.New("something stands in its place")

// record is what was learnt of the daemon. Its source and its flag are the last that
// were seen.
type record struct {
	source
	// Flag is a --postgres, which goes before the source.
	Flag string `json:"flag,omitempty"`
	// PG are the variables of the daemon that libpq's clients read.
	PG map[string]string `json:"pg,omitempty"`
	// Inherited: source and PG are what a process was given.
	Inherited bool `json:"inherited,omitempty"`
	// Former is a place, for people, that was named once and is no longer.
	Former string `json:"former,omitempty"`
}

// names describes the Postgres that r names, or named; "" without one.
func (r record) names() string {
	switch {
	case r.Flag != "":
		return fromFlag
	case !r.inContainer():
		return r.From
	}
	return r.Former
}

// SaveRecord writes to path, mode 0600, what is known of where the daemon has its
// database, for those who run without its flag and variables: the URL or the file that
// holds it, or that incus knows, so that a changed address is still found, and what else
// its variables say of the connection. It adds to what is recorded there, and takes
// nothing away that o does not know better. It writes only what changed, and nothing where
// nothing is known of the daemon; it opens no socket.
func SaveRecord(path string, o LocateOptions) error {
	return crew.Try(filepath.Dir(path), func() error { return o.save(path) })
}

func (o LocateOptions) save(path string) error {
	want, recorded, err := o.record(path)
	if err != nil || recorded {
		return err
	}
	if err := durable.WriteFile(path, append(want, '\n'), durable.Attr{Mode: 0o600, UID: -1, GID: -1}); err != nil {
		if errors.Is(err, durable.ErrNotReplaced) {
			err = fmt.Errorf("%w: %w", ErrInTheWay, err)
		}
		return fmt.Errorf("cannot record where the database is: %w", err)
	}
	return nil
}

// Recorded tells whether SaveRecord would write nothing.
func Recorded(path string, o LocateOptions) bool {
	_, recorded, err := o.record(path)
	return err == nil && recorded
}

// record is what is to stand in the record at path, and whether it does.
func (o LocateOptions) record(path string) (want []byte, recorded bool, err error) {
	if o.Environ == nil && o.PostgresFlag == "" {
		return nil, true, nil
	}
	old, damaged := readRecord(path)
	if want, err = json.Marshal(o.merge(old)); err != nil {
		return nil, false, err
	}
	have, err := json.Marshal(old)
	return want, err == nil && damaged == nil && bytes.Equal(have, want), nil
}

// readRecord returns the zero record where there is none.
func readRecord(path string) (r record, err error) {
	if path == "" {
		return r, nil
	}
	b, err := readPrivate(path, unix.O_CLOEXEC|unix.O_NOFOLLOW)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r, nil
	case errors.Is(err, crew.ErrHangs), errors.Is(err, fs.ErrPermission):
		return r, err
	case err != nil:
		return r, fmt.Errorf("%w: %w", ErrRecord, err)
	case json.Unmarshal(b, &r) != nil || r.From == "":
		return record{}, ErrRecord
	}
	if r.From == fromFlag && r.Flag == "" { // as it was written before flag had its own place
		r.Flag, r.source = r.URL, source{From: fromIncus}
	}
	return r, nil
}

// merge is what is known of the daemon now, with what was known before where that knew
// more: nothing is forgotten because somebody did not answer (law 6).
func (o LocateOptions) merge(old record) record {
	now := record{source: o.variables(), Flag: o.PostgresFlag, PG: o.pg(), Inherited: o.Inherited}
	if o.unread() != nil && now.Flag == "" {
		now.Flag = old.Flag
	}
	switch {
	case old.From == "":
	case o.Environ == nil, old.Inherited && !o.Inherited, o.unread() != nil && !o.Inherited && now.inContainer():
		// What a process was given counts more than a reading of its unit, and anything
		// more than what could not be read.
		now.source, now.PG, now.Inherited = old.source, old.PG, old.Inherited
	}
	if now.names() == "" {
		now.Former = old.names()
	}
	return now
}
