package ledger

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

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

	word uint64 // the Seq of the entry that is the last word on the known key; 0 for none
}

// Same tells whether two readings found the same last word on the known key, and the same rotation open.
func (s Standing) Same(t Standing) bool {
	rotation := func(s Standing) Rotation {
		if s.Rotation == nil {
			return Rotation{}
		}
		return *s.Rotation
	}
	return s.word == t.word && s.Known == t.Known && rotation(s) == rotation(t)
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
	prev, first := "", true // what the entry after the line in hand says of it, if there is one
	contradicted := map[key.Fingerprint]bool{}
	var r reader
	var e Entry
	for broken := false; ; {
		line, ok, err := b.line()
		if !ok || err != nil {
			return s, err
		}
		if err := r.decode(line, &e); err != nil {
			if !first {
				return s, nil
			}
			broken = true // and look for an entry that carries what is open
			continue
		}
		if first {
			s.Rotation, s.Stopped = e.Rotation, e.Stopped
		} else if text := sumText(line); prev != string(text[:]) {
			broken = true
		}
		if broken {
			return s, nil
		}
		switch {
		case e.Event == Contradicted:
			contradicted[e.Fingerprint] = true
		case e.Event == RotationClosed && e.Fingerprint == "":
			s.word = e.Seq
			return s, nil
		case e.known():
			s.word = e.Seq
			if !contradicted[e.Fingerprint] {
				s.Known, s.By, s.Verdict, s.LastLook = e.Fingerprint, e.Event, e.Verdict, e.Time
				s.Checked, s.Opened = e.Checked, e.Opened
			}
			return s, nil
		}
		prev, first = e.Prev, false
	}
}
