package worlds

import (
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
)

// world is the durable.Image of its hosts' disks: it knows what is in directories that it has,
// and what is missing there. All else is the kernel's to say, and all where files are real.

// firstWritten is when the oldest file was written, in seconds since 1970: the clock of the
// file system is ahead of all others, as that of a real one is here.
const firstWritten = 4102444800 // 2100-01-01

// files are those of the disk that a path is on, nil for none. They are the world's alone as
// long as it holds mu.
func (w *world) files(path string) *disk {
	for _, h := range w.hosts {
		if path == h.disk.root || within(h.disk.root, path) {
			return h.disk
		}
	}
	return nil
}

var uid, gid = uint32(os.Geteuid()), uint32(os.Getegid())

func (w *world) Stat(path string, st *unix.Stat_t) (known bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.files(path)
	if d == nil || d.real || d.volatile(path) {
		return false, nil
	}
	if st == nil {
		st = new(unix.Stat_t)
	}
	if d.dirs[path] || path == d.root {
		*st = unix.Stat_t{Dev: 1, Nlink: 2, Mode: unix.S_IFDIR | 0o700, Uid: uid, Gid: gid}
		return true, nil
	}
	f := d.names[path]
	if f == nil {
		return true, unix.ENOENT
	}
	at := unix.Timespec{Sec: firstWritten, Nsec: f.written}
	*st = unix.Stat_t{Dev: 1, Ino: uint64(f.number), Nlink: 1, Mode: unix.S_IFREG | uint32(f.mode.Perm()), Uid: uid, Gid: gid,
		Size: int64(len(f.data)), Mtim: at, Ctim: at}
	return true, nil
}

func (w *world) Content(path string) (data []byte, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := w.files(path); d != nil && !d.real && !d.volatile(path) && d.names[path] != nil {
		data := d.names[path].data
		return data[:len(data):len(data)], true
	}
	return nil, false
}

func (w *world) Names(dir string) (names []string, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.files(dir)
	if d == nil || d.real || !d.dirs[dir] {
		return nil, false
	}
	here := func(path string) {
		if within(dir, path) && strings.IndexByte(path[len(dir)+1:], '/') < 0 {
			names = append(names, path[len(dir)+1:])
		}
	}
	for path := range d.names {
		here(path)
	}
	for path := range d.dirs {
		here(path)
	}
	slices.Sort(names)
	return names, true
}

// lock is the lock.Find of its hosts' disks.
func (w *world) lock(path string) *lock.Simulated {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.files(path)
	if d.locks[path] == nil {
		d.locks[path] = new(lock.Simulated)
	}
	return d.locks[path]
}
