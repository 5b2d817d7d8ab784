package kinds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// Locate begins with the directory that Init would make, where it is not there yet.
func (d *Directory) Locate(ctx context.Context) (list []string, err error) {
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

func (b *Bounded) Locate(ctx context.Context) ([]string, error) {
	a, _, err := b.ask(ctx, request{Op: "locate"}, key.Key{})
	return a.Located, err
}
