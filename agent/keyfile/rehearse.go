package keyfile

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
)

// Rehearse does with the keyfile what UseNext will do, with a copy of the same bytes, and takes
// it back: whatever would keep a new key out shows here (an immutable or append-only file
// or directory, a bind mount, a read-only file system, one without modes). And it makes sure that there is
// room beside the keyfile and in the local quarantine's file system, which the ledger
// shares, for what is written on the way. seen is what Look found, a good keyfile.
//
// At every moment the keyfile holds the same key. ErrChanged if it does not: look again. A
// crash leaves a copy beside it, for Sweep.
func (f File) Rehearse(seen Seen, now time.Time) error {
	l, err := f.lock()
	if err != nil {
		return err
	}
	defer l.Release()
	if err := durable.MkdirAll(f.Quarantine, f.attr()); err != nil {
		return err
	}
	// Three files of the quarantine and a dozen entries of the ledger; .next, and what one
	// more file needs. Where neither has room, it is the quarantine that is told of.
	const block = 4096
	for _, needs := range []struct {
		dir   string
		files int
	}{{f.Quarantine, 6}, {f.dir(), 2}} {
		if err := durable.Room(needs.dir, needs.files, block, f.attr()); err != nil {
			return fmt.Errorf("nothing can be written to %s: %w", needs.dir, f.named(err))
		}
	}
	return f.named(f.rehearseExchange(seen, now))
}

func (f File) rehearseExchange(seen Seen, now time.Time) error {
	there, content, err := f.observe(f.Path)
	defer clear(content)
	if err != nil {
		return err
	}
	if !seen.same(there) {
		return ErrChanged
	}
	var temp string
	err = firstFree(now, func(stamp string) error {
		temp = filepath.Join(f.dir(), asidePrefix+stamp)
		return durable.Create(temp, content, f.attr())
	})
	if err != nil {
		return err
	}
	aside, err := f.exchange(seen, temp, now)
	if err != nil {
		return err
	}
	if aside != temp {
		// There is no way back without the exchange, and none is needed: the copy has the
		// keyfile's name, and what had it is an aside.
		return durable.SyncFound(f.dir())
	}
	if err := durable.Exchange(temp, f.Path); err != nil {
		return fmt.Errorf("it could be exchanged, and not back: a copy of it is in its place: %w", err)
	}
	// What somebody wrote to the copy meanwhile stays beside it.
	_, copied, err := f.observe(temp)
	defer clear(copied)
	if err == nil && !bytes.Equal(copied, content) {
		err = ErrChanged
	}
	if err != nil {
		return err
	}
	return errors.Join(remove(temp), durable.SyncFound(f.dir()))
}
