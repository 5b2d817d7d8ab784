package escrow

import (
	"context"
	"fmt"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// ErrAddOnly: this host adds copies there and reads none, says the configuration; the store
// was not asked. It is an ErrDenied too.
var ErrAddOnly = fmt.Errorf("%w: this host only adds there (readable = false)", ErrDenied)

// Unread is the Reader of an escrow whose store lets this host add copies and read none. It
// asks nobody, so that nobody is told each time of what is as it should be. It does not
// know what is there, which is never "no copies" (law 6).
type Unread struct{ e Reader }

// NewUnread makes the Reader of e that does not read.
func NewUnread(e Reader) *Unread { return &Unread{e} }

func (u *Unread) Name() string { return u.e.Name() }
func (u *Unread) Place() Place { return u.e.Place() }

func (u *Unread) List(context.Context) ([]Copy, error) { return nil, ErrAddOnly }

func (u *Unread) Fetch(context.Context, Copy) (key.Key, key.Encoding, error) {
	return key.Key{}, "", ErrAddOnly
}
