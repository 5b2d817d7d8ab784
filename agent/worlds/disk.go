package worlds

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
)

// disk is what one host keeps: its files are in memory, and it is known which of them would
// survive a crash.
//
// Names survive by the rules of a journal (ext4, xfs): those of the first n changes do, for
// some n, and a sync makes n at least the last change of what was synced. Contents survive
// as they were last synced, or torn.
type disk struct {
	root  string
	run   string            // the directory below it that a boot makes anew
	real  bool              // the files are on a tmpfs as well, for the kernel to change and to read
	names map[string]*inode // live
	dirs  map[string]bool   // live
	// The state of the names before journal, and the changes since.
	before     map[string]*inode
	dirsBefore map[string]bool
	journal    []nameChange

	touched map[string]int // by path: the version at its last change; a crash touches all
	version int            // of all that is live
	shown   int            // the same, but for files that the process which made them takes away again
	kept    int            // the version that is durable whole; 0: none
	serial  int64          // of inodes, and of what is written to them
	locks   map[string]*lock.Simulated
	faults
}

// faults are what is wrong with a disk.
type faults struct {
	full, noInodes bool
	readOnly       string // a directory
	immutable      string // a path
}

// inode is a file.
type inode struct {
	data, synced []byte
	mode         fs.FileMode
	everSynced   bool
	number       int64 // that of the inode, which no other file had
	written      int64 // when it was last, in an order
}

func (d *disk) isNew(f *inode) {
	d.serial++
	f.number, f.written = d.serial, d.serial
}

func (d *disk) wrote(f *inode) {
	d.serial++
	f.written = d.serial
}

// sync makes the content durable. It is not copied: a write adds behind it, and all else
// makes a new one.
func (f *inode) sync() { f.synced, f.everSynced = f.data[:len(f.data):len(f.data)], true }

// nameChange is a change of the names that is not known to survive yet.
type nameChange struct {
	do       durable.Do
	path, to string
	file     *inode
}

func newDisk(root string, real bool) *disk {
	d := &disk{root: root, run: root + "/run", real: real, locks: map[string]*lock.Simulated{}}
	d.reset()
	return d
}

// reset empties the disk.
func (d *disk) reset() {
	d.names, d.dirs, d.journal, d.touched = map[string]*inode{}, map[string]bool{}, nil, map[string]int{}
	d.mend()
	d.version++
	d.keep()
	d.lay()
}

// keep makes what is live durable.
func (d *disk) keep() {
	if d.kept == d.version {
		return
	}
	d.kept, d.journal = d.version, nil
	d.before, d.dirsBefore = maps.Clone(d.names), maps.Clone(d.dirs)
	for _, f := range d.names {
		f.sync()
	}
}

// lay makes new files of the live ones.
func (d *disk) lay() {
	d.changed()
	clear(d.locks)
	for _, path := range slices.Sorted(maps.Keys(d.names)) {
		d.isNew(d.names[path])
	}
	if !d.real {
		return
	}
	must(os.RemoveAll(d.root))
	must(os.MkdirAll(d.root, 0o700))
	for _, dir := range slices.Sorted(maps.Keys(d.dirs)) {
		must(os.MkdirAll(dir, 0o700))
	}
	for path := range d.names {
		d.write(path)
	}
}

// write makes a real file what the live one is.
func (d *disk) write(path string) {
	f := d.names[path]
	must(os.MkdirAll(filepath.Dir(path), 0o700))
	must(os.RemoveAll(path))
	must(os.WriteFile(path, f.data, 0o600))
	must(os.Chmod(path, f.mode))
}

// image is all that survives a power cut just now if all of it was synced.
type image struct {
	names map[string]inode
	dirs  map[string]bool
}

// image copies the live disk.
func (d *disk) image() image {
	i := image{map[string]inode{}, maps.Clone(d.dirs)}
	for path, f := range d.names {
		i.names[path] = inode{data: bytes.Clone(f.data), mode: f.mode}
	}
	return i
}

// restore makes the disk what it was when i was taken, elsewhere perhaps.
func (d *disk) restore(i image, from string) {
	d.names, d.dirs = map[string]*inode{}, map[string]bool{}
	here := func(path string) string { return d.root + strings.TrimPrefix(path, from) }
	for path, f := range i.names {
		d.names[here(path)] = &inode{data: bytes.Clone(f.data), mode: f.mode}
	}
	for dir := range i.dirs {
		d.dirs[here(dir)] = true
	}
	d.version++
	d.keep()
	d.lay()
}

// crash is a power cut: what was not synced may be gone.
func (d *disk) crash(r *rand.Rand) {
	n := r.IntN(len(d.journal) + 1)
	for _, c := range d.journal[:n] {
		change(d.before, d.dirsBefore, c)
	}
	d.names, d.dirs = d.before, d.dirsBefore
	for _, path := range slices.Sorted(maps.Keys(d.names)) {
		f := d.names[path]
		f.data = f.survives(r)
		for dir := filepath.Dir(path); dir != d.root; dir = filepath.Dir(dir) {
			d.dirs[dir] = true // it was there when its file was
		}
	}
	d.version++
	d.keep()
	d.lay()
}

// survivors are the files that a power cut just now would leave in any case.
func (d *disk) survivors() map[string][]byte {
	all := map[string][]byte{}
	for path, f := range d.before {
		if f.everSynced && bytes.Equal(f.data, f.synced) && (d.names[path] == f || d.has(f)) {
			all[path] = f.data
		}
	}
	return all
}

// has tells whether a file is there. One that was taken away a power cut may bring back, or not.
func (d *disk) has(f *inode) bool {
	for _, live := range d.names {
		if live == f {
			return true
		}
	}
	return false
}

// survives is what a crash leaves of the content.
func (f *inode) survives(r *rand.Rand) []byte {
	if f.everSynced && bytes.Equal(f.data, f.synced) {
		return f.data
	}
	switch r.IntN(4) {
	case 0:
		return f.data
	case 1: // the size got there, and the data did not
		torn := make([]byte, len(f.data))
		copy(torn, f.synced)
		return torn
	case 2:
		if rest, ok := bytes.CutPrefix(f.data, f.synced); ok && len(rest) > 0 {
			n := len(f.synced) + r.IntN(len(rest))
			return f.data[:n:n]
		}
	}
	return bytes.Clone(f.synced)
}

// well tells that nothing is wrong with it.
func (d *disk) well() bool { return d.faults == faults{} }

// mend ends what is wrong with it.
func (d *disk) mend() { d.faults = faults{} }

// make makes a change, or says why it cannot be made.
func (d *disk) make(c durable.Change) error {
	if err := d.refuses(c); err != nil {
		return err
	}
	before := d.version
	err := d.change(c)
	if d.version != before {
		d.touched[c.Path], d.touched[c.To] = d.version, d.version
	}
	if d.real && err != nil {
		return nil // the kernel is to say so itself
	}
	return err
}

// refuses says what is wrong with the disk that keeps a change from being made.
func (d *disk) refuses(c durable.Change) error {
	changes := c.Do != durable.SyncFile && c.Do != durable.SyncNames
	readOnly := func(path string) bool { return d.readOnly != "" && within(d.readOnly, path) }
	switch {
	case c.Do == durable.MakeDir && d.dirs[c.Path]:
		return nil // EEXIST comes first
	case changes && (readOnly(c.Path) || readOnly(c.To)):
		return unix.EROFS
	case changes && d.immutable != "" && (c.Path == d.immutable || c.To == d.immutable):
		return unix.EPERM
	case d.full && c.Do == durable.Write && len(c.Data) > 0:
		return &durable.ShortWrite{Written: 0, Err: unix.ENOSPC}
	case (d.noInodes || d.full) && (c.Do == durable.CreateFile || c.Do == durable.MakeDir):
		if d.noInodes || c.Do == durable.MakeDir {
			return unix.ENOSPC
		}
	}
	return nil
}

// change makes a change, with the error by which the kernel would refuse it. What is done to a
// file that has lost its name nobody sees.
func (d *disk) change(c durable.Change) error {
	file, there := d.names[c.Path]
	_, taken := d.names[c.To]
	inDir := func(path string) bool { dir := filepath.Dir(path); return d.dirs[dir] || dir == d.root }
	named := func() { d.named(nameChange{do: c.Do, path: c.Path, to: c.To, file: d.names[c.Path]}) }
	switch c.Do {
	case durable.CreateFile, durable.MakeDir:
		switch {
		case there, d.dirs[c.Path]:
			return unix.EEXIST
		case !inDir(c.Path):
			return unix.ENOENT
		case c.Do == durable.MakeDir:
			named()
		default:
			f := &inode{mode: c.Mode}
			d.isNew(f)
			d.named(nameChange{do: c.Do, path: c.Path, file: f})
		}
	case durable.Write:
		if there && len(c.Data) > 0 {
			d.version++
			file.data = append(file.data, c.Data...)
			d.wrote(file)
		}
	case durable.Resize:
		if there && int(c.Size) < len(file.data) {
			d.version++
			file.data = file.data[:c.Size:c.Size]
			d.wrote(file)
		}
	case durable.SetMode:
		if there && file.mode != c.Mode {
			d.version++
			file.mode = c.Mode
		}
	case durable.SyncFile:
		if there {
			file.sync()
			d.commit(func(n nameChange) bool { return n.file == file })
		}
	case durable.SyncNames:
		d.commit(func(n nameChange) bool {
			return filepath.Dir(n.path) == c.Path || n.to != "" && filepath.Dir(n.to) == c.Path
		})
	case durable.RemoveFile, durable.RenameFile, durable.NoReplaceRename, durable.HardLink, durable.ExchangeNames:
		switch {
		case d.dirs[c.Path], d.dirs[c.To]:
			return unix.EISDIR // no directory is ever moved
		case !there, c.To != "" && !inDir(c.To), c.Do == durable.ExchangeNames && !taken:
			return unix.ENOENT
		case taken && (c.Do == durable.NoReplaceRename || c.Do == durable.HardLink):
			return unix.EEXIST
		}
		named()
	default:
		return fmt.Errorf("the simulated disk does not know the change %q", c.Do)
	}
	return nil
}

// named makes a change of the names, which a crash may undo.
func (d *disk) named(n nameChange) {
	d.version++
	change(d.names, d.dirs, n)
	d.journal = append(d.journal, n)
}

// commit makes all changes durable up to the last one that fits.
func (d *disk) commit(fits func(nameChange) bool) {
	for n := len(d.journal); n > 0; n-- {
		if !fits(d.journal[n-1]) {
			continue
		}
		for _, c := range d.journal[:n] {
			change(d.before, d.dirsBefore, c)
		}
		d.journal = d.journal[n:]
		return
	}
}

func change(names map[string]*inode, dirs map[string]bool, c nameChange) {
	switch c.do {
	case durable.CreateFile:
		names[c.path] = c.file
	case durable.MakeDir:
		dirs[c.path] = true
	case durable.RemoveFile:
		delete(names, c.path)
	case durable.RenameFile, durable.NoReplaceRename:
		names[c.to] = names[c.path]
		delete(names, c.path)
	case durable.HardLink:
		names[c.to] = names[c.path]
	case durable.ExchangeNames:
		names[c.path], names[c.to] = names[c.to], names[c.path]
	}
}

// What others than keyguard do to the disk.

func (d *disk) changed() {
	d.version++
	d.shown = d.version
}

// put writes a file in place, as os.WriteFile does, and does not sync it.
func (d *disk) put(path string, data []byte, mode fs.FileMode) {
	d.changed()
	d.touched[path] = d.version
	f, there := d.names[path]
	if !there {
		d.mkdir(filepath.Dir(path))
		d.named(nameChange{do: durable.CreateFile, path: path, file: &inode{}})
		f = d.names[path]
	}
	f.data, f.mode = bytes.Clone(data), mode
	d.isNew(f)
	if d.real {
		d.write(path)
	}
}

// mkdir makes a directory where it is missing.
func (d *disk) mkdir(dir string) {
	d.changed()
	if !d.dirs[dir] && dir != d.root {
		d.mkdir(filepath.Dir(dir))
		d.named(nameChange{do: durable.MakeDir, path: dir})
		if d.real {
			must(os.MkdirAll(dir, 0o700))
		}
	}
}

// remove takes a file or a directory away.
func (d *disk) remove(path string) {
	d.changed()
	for _, name := range slices.Sorted(maps.Keys(d.names)) {
		if name == path || strings.HasPrefix(name, path+"/") {
			d.named(nameChange{do: durable.RemoveFile, path: name})
			d.touched[name] = d.version
		}
	}
	for dir := range d.dirs {
		if dir == path || strings.HasPrefix(dir, path+"/") {
			delete(d.dirs, dir)
			delete(d.dirsBefore, dir)
		}
	}
	maps.DeleteFunc(d.locks, func(name string, _ *lock.Simulated) bool { return within(path, name) })
	if d.real {
		must(os.RemoveAll(path))
	}
}

// chmod is somebody's.
func (d *disk) chmod(path string, mode fs.FileMode) {
	d.changed()
	d.touched[path] = d.version
	if f := d.names[path]; f != nil {
		f.mode = mode
		d.isNew(f)
		if d.real {
			d.write(path)
		}
	}
}

// sync is a minute that passes: the kernel writes everything back.
func (d *disk) sync() { d.keep() }

// check compares the real files with the live ones: a change that did not come by here
// would be one that no crash can undo.
func (d *disk) check() error {
	if !d.real {
		return nil
	}
	var wrong []error
	seen := map[string]bool{}
	err := filepath.WalkDir(d.root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || d.volatile(path) {
			return err
		}
		seen[path] = true
		data, err := os.ReadFile(path)
		if f := d.names[path]; f == nil || err != nil || !bytes.Equal(f.data, data) {
			wrong = append(wrong, fmt.Errorf("%s is not what the simulated disk has (%v)", path, err))
		}
		return nil
	})
	for path := range d.names {
		if !seen[path] {
			wrong = append(wrong, fmt.Errorf("%s is missing from the real disk", path))
		}
	}
	return errors.Join(append(wrong, err)...)
}

// within tells whether a path is below a directory.
func within(dir, path string) bool {
	return len(path) > len(dir) && path[len(dir)] == '/' && path[:len(dir)] == dir
}

// volatile tells whether a path is of what goes with a reboot.
func (d *disk) volatile(path string) bool { return path == d.run || within(d.run, path) }

func must(err error) {
	if err != nil {
		panic(err)
	}
}
