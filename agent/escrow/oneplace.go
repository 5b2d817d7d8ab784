package escrow

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/footprintai/containarium-keyguard/agent/crew"
)

// ErrOnePlace: two directories are one, or one lies in the other, whatever they are called.
var ErrOnePlace = errors.New("one directory under two names")

// located is an escrow in a directory.
type located interface {
	Name() string
	// Locate names the directory, and then those above it, each by its device and inode.
	Locate(ctx context.Context) ([]string, error)
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
		if s, ok := w.(Shared); ok {
			for _, m := range s.Members() {
				add(m.Escrow)
			}
		}
		add(w)
	}
	if len(list) < 2 {
		return nil
	}
	at := make([][]string, len(list))
	crew.Each(len(list), func(i int) { at[i], _ = list[i].Locate(ctx) })
	for i, one := range at {
		for j, other := range at {
			if i != j && len(one) > 0 && slices.Contains(other, one[0]) {
				return fmt.Errorf("%w: what is saved in escrow %s lies in that of %s", ErrOnePlace, list[j].Name(), list[i].Name())
			}
		}
	}
	return nil
}
