package hooks

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/fsnotify/fsnotify"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

type inode struct{ dev, ino uint64 }

// kernelEvents are what the kernel tells of the directories, and why it lost some; nil where it has no
// watcher left.
func (w *watcher) kernelEvents() (<-chan fsnotify.Event, <-chan error) {
	if w.fs == nil {
		return nil, nil
	}
	return w.fs.Events, w.fs.Errors
}

// event takes in what happened to a name: the keyfile's, its staged successor's, or a
// directory's on the way to it. The daemon's self-check and our own asides are not
// ours to mind.
func (w *watcher) event(e fsnotify.Event) {
	switch e.Name {
	case w.h.Keyfile.Path, w.h.Keyfile.Path + ".next":
	case w.dir, filepath.Dir(w.dir):
		if e.Op&(fsnotify.Create|fsnotify.Remove|fsnotify.Rename) != 0 {
			// Another directory has the name now, perhaps with the number of the one before.
			delete(w.names, e.Name)
		}
	default:
		return
	}
	w.soon()
}

// rewatch makes sure that the watches are on the directories that have the names now:
// a rename, a removal or a mount leaves them on something else, or on nothing, without
// a word.
func (w *watcher) rewatch() {
	if w.fs == nil {
		fs, err := fsnotify.NewWatcher()
		if w.tellDeaf("", err); err != nil {
			return
		}
		w.fs = fs
	}
	watched := w.fs.WatchList()
	for _, dir := range []string{w.dir, filepath.Dir(w.dir)} {
		now, there := inodeOf(dir)
		before, known := w.names[dir]
		has := slices.Contains(watched, dir)
		if there && has && known && now == before {
			continue
		}
		delete(w.names, dir)
		if has {
			w.fs.Remove(dir) //nolint:errcheck // it may have gone with its directory
		}
		if !there {
			continue
		}
		err := w.fs.Add(dir)
		if inotify, there := inodeOf(dir); err != nil && !(there && inotify == now) {
			continue // it went meanwhile
		}
		if w.tellDeaf(dir, err); err == nil {
			w.names[dir] = now
		}
	}
}

// tellDeaf tells once, for as long as it stays the same, that no events come from a directory,
// or from none.
func (w *watcher) tellDeaf(dir string, err error) {
	text := ""
	if err = unit.InotifyError(err); err != nil {
		text = err.Error()
	}
	if w.deaf[dir] == text {
		return
	}
	if w.deaf[dir] = text; err != nil {
		w.o.Tell(Event{Loud: true, Text: fmt.Sprintf("cannot watch %s; changes there are noticed only every %s", cmp.Or(dir, w.dir), w.o.Rescan), Err: err})
	}
}

func inodeOf(path string) (inode, bool) {
	// The loop must not hang here.
	info, err := crew.Stat(path)
	if err != nil {
		return inode{}, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return inode{}, false
	}
	return inode{st.Dev, st.Ino}, true
}
