package escrow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// ErrOnePlace: two directories are one, or one lies in the other, whatever they are called.
var ErrOnePlace = errors.New("one directory under two names")

// located is an escrow in a directory.
type located interface {
	Name() string
	// locate names the directory, and then those above it, each by its device and inode.
	locate(ctx context.Context) ([]string, error)
}

// Apart returns ErrOnePlace where two of these places, or of a split's members, lead to one directory, by a link
// or a mount, or one of them into the other: whoever reads it would have two parts of a key. It asks
// directories alone, and one that does not answer is none that anything is written to.
func Apart(ctx context.Context, places []Writer) error {
	var list []located
	add := func(w Writer) {
		if d, ok := w.(located); ok {
			list = append(list, d)
		}
	}
	for _, w := range places {
		if s, ok := w.(*Split); ok {
			for _, m := range s.o.Members {
				add(m.Escrow)
			}
		}
		add(w)
	}
	if len(list) < 2 {
		return nil
	}
	at := make([][]string, len(list))
	crew.Each(len(list), func(i int) { at[i], _ = list[i].locate(ctx) })
	for i, one := range at {
		for j, other := range at {
			if i != j && len(one) > 0 && slices.Contains(other, one[0]) {
				return fmt.Errorf("%w: what is saved in escrow %s lies in that of %s", ErrOnePlace, list[j].Name(), list[i].Name())
			}
		}
	}
	return nil
}

// locate begins with the directory that Init would make, where it is not there yet.
func (d *Directory) locate(ctx context.Context) (list []string, err error) {
	path, dev, err := d.find()
	if err != nil {
		return nil, err
	}
	at, err := d.enter(path, dev)
	missing := ""
	if errors.Is(err, unix.ENOENT) {
		missing = "/" + filepath.Base(path)
		at, err = d.enter(filepath.Dir(path), dev)
	}
	for err == nil && ctx.Err() == nil {
		var st unix.Stat_t
		if err = unix.Fstat(int(at.Fd()), &st); err != nil {
			break
		}
		one := fmt.Sprintf("%d:%d", st.Dev, st.Ino)
		if missing != "" {
			list, missing = append(list, one+missing), ""
		}
		if slices.Contains(list, one) { // the root is above itself
			return list, at.Close()
		}
		list = append(list, one)
		below := at
		at, err = openDir(int(below.Fd()), "..", unix.O_PATH)
		below.Close()
	}
	if at != nil {
		at.Close()
	}
	return nil, cmp.Or(err, ctx.Err())
}

func (b *Bounded) locate(ctx context.Context) ([]string, error) {
	a, _, err := b.ask(ctx, request{Op: "locate"}, key.Key{})
	return a.Located, err
}
