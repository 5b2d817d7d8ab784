package keyfile

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// StageNext writes k to <keyfile>.next, 0400, synced: rotation's step 2. The error is
// fs.ErrExist if something is there. After any error KeepNext puts away what stands there.
func (f File) StageNext(k key.Key) error {
	if k.IsZero() {
		return fmt.Errorf("cannot stage %s: %w", f.next(), key.ErrSize)
	}
	l, err := f.lock()
	if err != nil {
		return err
	}
	defer l.Release()
	if err := durable.CreateNew(f.next(), k.UnsafeBytes(), f.attr()); err != nil {
		return fmt.Errorf("cannot stage %s: %w", f.next(), f.named(durable.NotDone(err)))
	}
	return nil
}

// UseNext exchanges <keyfile>.next and the keyfile: step 5 of a rotation that lives. One that died
// is settled with Install and KeepNext. The old key is kept as Install keeps it. seen is what Look found; ErrChanged if
// either file is another now. A crash inside leaves the old key as .next, which
// KeepNext puts away.
func (f File) UseNext(seen Seen, now time.Time) error {
	if err := f.useNext(seen, now); err != nil {
		return fmt.Errorf("cannot put %s in place cleanly: %w", f.next(), f.named(err))
	}
	return nil
}

func (f File) useNext(seen Seen, now time.Time) error {
	if seen.NextSeen == nil || seen.NextSeen.Kind != Good || seen.NextSeen.Target != "" {
		return ErrNoNext
	}
	l, err := f.lock()
	if err != nil {
		return err
	}
	defer l.Release()
	next, content, err := f.observe(f.next())
	clear(content)
	if err != nil {
		return err
	}
	if !seen.NextSeen.same(next) {
		return fmt.Errorf("%w: another .next is there", ErrChanged)
	}
	if err := f.swapNext(seen, now); err != nil {
		return err
	}
	// Between the look and the exchange somebody may have put another .next there.
	in, content, err := f.observe(f.Path)
	clear(content)
	if err == nil && !seen.NextSeen.same(in) {
		err = fmt.Errorf("%w: another .next went in", ErrChanged)
	}
	return err
}

// swapNext gives .next the keyfile's name, and sees to what had it.
func (f File) swapNext(seen Seen, now time.Time) error {
	if seen.Kind == Missing {
		err := rename(f.next(), f.Path)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%w: it was missing, and has appeared", ErrChanged)
		}
		if err != nil {
			return err
		}
		return durable.SyncDir(f.dir())
	}
	err := durable.Exchange(f.next(), f.Path)
	if err == nil {
		// A crash from here on leaves the old key as .next.
		return both(f.keepAside(seen, f.next(), now), f.nextAside(now))
	}
	var aside string
	if errors.Is(err, durable.ErrNoRename2) {
		aside, err = f.exchangeByLink(seen, f.next(), now)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: it has gone", ErrChanged)
	}
	if err != nil {
		return err
	}
	return f.keepAside(seen, aside, now)
}

// KeepNext puts <keyfile>.next away: it is copied to the local quarantine and moved
// aside, where Sweep removes it later. Nothing is done where there is none. If it
// cannot be copied it stays: ErrNotKept.
func (f File) KeepNext(now time.Time) error {
	if err := f.keepNext(now); err != nil {
		return fmt.Errorf("cannot put %s away: %w", f.next(), f.named(err))
	}
	return nil
}

func (f File) keepNext(now time.Time) error {
	l, err := f.lock()
	if err != nil {
		return err
	}
	defer l.Release()
	next, content, err := f.observe(f.next())
	defer clear(content)
	if err != nil || next.Kind == Missing {
		return err
	}
	if err := f.keep(content, now); err != nil {
		return err
	}
	return f.nextAside(now)
}

// nextAside moves .next aside, durably.
func (f File) nextAside(now time.Time) error {
	if _, err := f.moveAside(f.next(), now); err != nil {
		return err
	}
	return durable.SyncDir(f.dir())
}
