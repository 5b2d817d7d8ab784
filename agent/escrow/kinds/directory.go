package kinds

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

const (
	// readme marks a directory as ours. An empty mount point has none, so what is not
	// mounted is never taken for a place without copies (law 6).
	readme       = "README.txt"
	readmeMarker = "keyguard escrow directory"
	readmeText   = readmeMarker + `

This directory keeps copies of a containarium master key (/etc/containarium/secrets.key).
keyguard writes it; leave this file where it is, it marks the place.

current/     the newest file here is the key in use
quarantine/  keys that did not, or do not, open the host's secrets; keep them,
             old database dumps may need one

A file is named <UTC time>-<fingerprint>.key and holds the 32 bytes of a key.
One that ends in .need2.part1 holds a line, part 1 of that key: any 2 parts rebuild it.
One that ends in .age is encrypted: age --decrypt -i IDENTITY FILE > secrets.key
To put a key in place by hand: keyguard import < FILE

Whoever reads an unencrypted file here reads every secret of that host.
`

	// stampLayout is UTC to the millisecond: names sort as times do.
	stampLayout = "20060102T150405.000Z"
	keySuffix   = ".key"
	ageSuffix   = ".age"

	// maxNames is how many names a listing reads. A shelf of more is somebody else's directory.
	maxNames = 100_000
)

// DirectoryOptions say which directory an escrow is.
type DirectoryOptions struct {
	Name string // of the escrow
	// Path is absolute and may be a symlink, or begins with the name of a file system,
	// "LABEL=KEYGUARD/host1" or "UUID=…": the directory there, wherever it is mounted.
	Path string
	// Udev is where udev keeps what it knows of devices, "" for /run/udev/data, and
	// Mountinfo says what is mounted, "" for /proc/self/mountinfo.
	Udev, Mountinfo string
	// Keyfile is the live key's path: a directory on its disk is no backup.
	Keyfile       string
	AllowSameDisk bool // tests and demos
	// Recipients are as age(1) takes them, none to store the raw 32 bytes. IdentityFiles
	// let this host open what is sealed.
	Recipients    []string
	IdentityFiles []string
	// Part is the part of each key that is kept here, the zero PartOf for the whole key.
	Part escrow.PartOf
}

// Directory is an escrow in a directory: a USB stick, NFS, another disk.
//
// A file system can hang, and then so does every call here, past its context: reach one
// through Bounded wherever that matters.
//
// Files of others lie there too. Nothing is opened through a symlink below Path, nothing
// but a regular file is read, and no more of it than a copy can have; and all of a call
// happens in the one directory it opened, even if that is unmounted or renamed meanwhile.
type Directory struct {
	o    DirectoryOptions
	seal *sealer
}

// NewDirectory checks the options. It opens no file.
func NewDirectory(o DirectoryOptions) (*Directory, error) {
	switch _, ok, err := parseStick(o.Path); {
	case err != nil:
		return nil, fmt.Errorf("escrow %s: %w", o.Name, err)
	case !ok && !filepath.IsAbs(o.Path):
		return nil, fmt.Errorf("escrow %s: path %q is not absolute", o.Name, o.Path)
	}
	seal, err := newSealer(o.Part, o.Recipients, o.IdentityFiles...)
	if err != nil {
		return nil, fmt.Errorf("escrow %s: %w", o.Name, err)
	}
	return &Directory{o, seal}, nil
}

func (d *Directory) Name() string { return d.o.Name }

func (d *Directory) Place() escrow.Place {
	domain := "the file system at " + d.o.Path
	if s, ok, _ := parseStick(d.o.Path); ok {
		domain = "the file system " + s.name
	}
	return escrow.Place{Kind: "directory", Where: d.o.Path, Domain: domain}
}

// Close does nothing: no call leaves anything open.
func (d *Directory) Close() error { return nil }

// List reads names, and the status of files that do not have ours.
func (d *Directory) List(ctx context.Context) ([]escrow.Copy, error) {
	root, err := d.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list %s: %w", d.o.Path, err)
	}
	defer root.Close()
	var all []escrow.Copy
	for _, s := range escrow.Shelves {
		shelf, err := d.shelf(ctx, root, s)
		if err != nil {
			return nil, fmt.Errorf("cannot list %s: %w", d.shelfPath(s), err)
		}
		copies, err := d.copies(ctx, shelf, s)
		shelf.Close()
		if err != nil {
			return nil, fmt.Errorf("cannot list %s: %w", d.shelfPath(s), err)
		}
		all = append(all, copies...)
	}
	return all, nil
}

// Fetch reads one file.
func (d *Directory) Fetch(ctx context.Context, c escrow.Copy) (key.Key, key.Encoding, error) {
	fail := func(err error) (key.Key, key.Encoding, error) {
		return key.Key{}, "", fmt.Errorf("cannot fetch %q from %s: %w", clip(c.ID), d.o.Path, err)
	}
	s, id, _ := strings.Cut(c.ID, "/")
	if id == moreName {
		return fail(escrow.ErrUnreadable)
	}
	name, ok := unescaped(id)
	if !ok || !slices.Contains(escrow.Shelves[:], escrow.Shelf(s)) || !copyName(name) {
		return fail(escrow.ErrGone)
	}
	root, err := d.open(ctx)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	shelf, err := d.shelf(ctx, root, escrow.Shelf(s))
	if err != nil {
		return fail(err)
	}
	defer shelf.Close()
	stored, err := d.read(ctx, shelf, name)
	if err != nil {
		return fail(err)
	}
	k, enc, err := d.seal.key(stored)
	if err != nil {
		return fail(err)
	}
	// The name's fingerprint is all the checksum that raw bytes have.
	if _, fp, _, ours := parseName(name); ours && fp != k.Fingerprint() {
		_, _, err = fail(&escrow.MisnamedError{Says: fp, Holds: k.Fingerprint()})
	}
	return k, enc, err
}

// Init makes the directory (not what is above it: that is somebody else's mount), both
// shelves and the README, in this order, so that a place that has its README is whole.
func (d *Directory) Init(ctx context.Context) error {
	fail := func(err error) error { return fmt.Errorf("cannot initialise %s: %w", d.o.Path, fileError(err)) }
	if err := ctx.Err(); err != nil {
		return fail(contextError(err))
	}
	path, dev, err := d.find()
	if err != nil {
		return fail(err)
	}
	parent := path
	if _, err := os.Lstat(parent); errors.Is(err, fs.ErrNotExist) {
		parent = filepath.Dir(parent)
	}
	at, err := d.enter(parent, dev)
	if err != nil {
		return fail(err)
	}
	defer at.Close()
	if err := d.checkDisk(at); err != nil {
		return fail(err)
	}
	root := at
	if parent != path {
		if err := mkdir(at, filepath.Base(path)); err != nil {
			return fail(err)
		}
		if root, err = openDir(int(at.Fd()), filepath.Base(path), unix.O_NOFOLLOW); err != nil {
			return fail(err)
		}
		defer root.Close()
	}
	marked, err := d.marked(root)
	if err != nil {
		return fail(err)
	}
	for _, s := range escrow.Shelves {
		if err := mkdir(root, string(s)); err != nil {
			return fail(err)
		}
		shelf, err := d.shelf(ctx, root, s)
		if err != nil {
			return fail(err)
		}
		shelf.Close()
	}
	if marked {
		return nil
	}
	// Again by somebody else in between: the same README.
	err = durable.CreateNew(within(root, readme), []byte(readmeText), durable.Attr{Mode: 0o444, UID: -1, GID: -1, Modeless: true, Public: true})
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fail(err)
	}
	return nil
}

// Save writes one new file. It refuses the keyfile's own disk before it writes anything.
func (d *Directory) Save(ctx context.Context, s escrow.Shelf, k key.Key) (escrow.Copy, error) {
	fail := func(err error) (escrow.Copy, error) {
		return escrow.Copy{}, fmt.Errorf("cannot save to %s: %w", d.shelfPath(s), fileError(err))
	}
	if !slices.Contains(escrow.Shelves[:], s) {
		return fail(fmt.Errorf("no shelf %q", s))
	}
	root, err := d.open(ctx)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	if err := d.checkDisk(root); err != nil {
		return fail(err)
	}
	shelf, err := d.shelf(ctx, root, s)
	if err != nil {
		return fail(err)
	}
	defer shelf.Close()
	found, now, err := d.stored(ctx, shelf, s, k)
	if err != nil {
		return fail(err)
	}
	if found.ID != "" {
		// Whoever wrote it may have crashed before the name was on disk.
		if err := durable.SyncFound(within(shelf, ".")); err != nil {
			return fail(err)
		}
		return found, nil
	}
	made, err := d.create(ctx, shelf, s, k, now)
	if err != nil {
		return fail(err)
	}
	return made, nil
}

// stored finds the copy that a Save of k compares with and that is equal, or else says of which
// time a new one would be.
func (d *Directory) stored(ctx context.Context, shelf *os.File, s escrow.Shelf, k key.Key) (found escrow.Copy, now time.Time, err error) {
	copies, err := d.copies(ctx, shelf, s)
	if err != nil {
		return escrow.Copy{}, now, err
	}
	for _, c := range comparable(copies, s, k) {
		stored, err := d.read(ctx, shelf, path(c))
		if err != nil && isAny(err, escrow.ErrUnreachable, escrow.ErrTimeout, context.Canceled) {
			return escrow.Copy{}, now, err
		}
		same := err == nil && d.seal.same(stored, k)
		clear(stored)
		if same {
			return c, now, nil
		}
	}
	now, err = after(copies, s)
	return escrow.Copy{}, now, err
}

// create writes the file of a copy of this time, or the next that is free, and reads it back.
func (d *Directory) create(ctx context.Context, shelf *os.File, s escrow.Shelf, k key.Key, now time.Time) (escrow.Copy, error) {
	data, err := d.seal.bytes(k)
	if err != nil {
		return escrow.Copy{}, err
	}
	defer clear(data)
	var name string
	for {
		name = d.seal.name(now, k)
		// A crash before the rename in here leaves a temporary file that no listing shows, one
		// after it a whole copy, which the next Save finds.
		err := durable.CreateNew(within(shelf, name), data, d.attr())
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrExist) || ctx.Err() != nil {
			return escrow.Copy{}, err
		}
		now = now.Add(time.Millisecond) // somebody saves the same key in this very millisecond
	}
	back, err := d.read(ctx, shelf, name)
	if err != nil {
		return escrow.Copy{}, fmt.Errorf("reading back %s: %w", name, err)
	}
	defer clear(back)
	if !bytes.Equal(back, data) {
		return escrow.Copy{}, fmt.Errorf("reading back %s: %w: other bytes", name, escrow.ErrCorrupt)
	}
	made := d.copy(s, name, now, k.Fingerprint())
	made.Part = d.o.Part
	return made, nil
}

// attr is what the file of a copy is to have. On a file system without modes (FAT) all files
// have the mount's, and only what is sealed is for everybody to read.
func (d *Directory) attr() durable.Attr {
	return durable.Attr{Mode: 0o400, UID: -1, GID: -1, Modeless: true, Public: len(d.o.Recipients) > 0}
}

// Rehearse does on both shelves what a Save does of a key that nobody has, with a file that holds
// no key, and takes it away again.
func (d *Directory) Rehearse(ctx context.Context) error {
	k := key.Generate()
	defer k.Wipe()
	root, err := d.open(ctx)
	if err != nil {
		return fmt.Errorf("cannot rehearse a save to %s: %w", d.o.Path, err)
	}
	defer root.Close()
	if err := d.checkDisk(root); err != nil {
		return fmt.Errorf("cannot save to %s: %w", d.o.Path, err)
	}
	for _, s := range escrow.Shelves {
		if err := d.rehearse(ctx, root, s, k); err != nil {
			return fmt.Errorf("cannot save to %s: %w", d.shelfPath(s), fileError(err))
		}
	}
	return nil
}

func (d *Directory) rehearse(ctx context.Context, root *os.File, s escrow.Shelf, k key.Key) error {
	shelf, err := d.shelf(ctx, root, s)
	if err != nil {
		return err
	}
	defer shelf.Close()
	if _, _, err := d.stored(ctx, shelf, s, k); err != nil {
		return err
	}
	const block = 4096 // a copy, sealed or not, takes one
	return durable.Room(within(shelf, "."), 1, block, d.attr())
}

func (d *Directory) shelfPath(s escrow.Shelf) string { return filepath.Join(d.o.Path, string(s)) }

// open returns the directory, if it is ours.
func (d *Directory) open(ctx context.Context) (*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, contextError(err)
	}
	path, dev, err := d.find()
	if err != nil {
		return nil, err
	}
	root, err := d.enter(path, dev)
	if err != nil {
		return nil, err
	}
	ok, err := d.marked(root)
	if err == nil && !ok {
		err = fmt.Errorf("%w: not mounted or not initialised, it has no %s", escrow.ErrNoPlace, readme)
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

// marked looks for our README. Somebody else's, or what is no regular file, is an error.
func (d *Directory) marked(root *os.File) (bool, error) {
	data, err := readRegular(int(root.Fd()), readme)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil && !isAny(err, escrow.ErrUnreadable, escrow.ErrNotKey) {
		return false, fmt.Errorf("%s: %w", readme, fileError(err))
	}
	if !bytes.HasPrefix(data, []byte(readmeMarker)) { // or it is no file, or too long
		return false, fmt.Errorf("%w: its %s is not keyguard's", escrow.ErrInTheWay, readme)
	}
	return true, nil
}

func (d *Directory) shelf(ctx context.Context, root *os.File, s escrow.Shelf) (*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, contextError(err)
	}
	f, err := openDir(int(root.Fd()), string(s), unix.O_NOFOLLOW)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %s is missing, initialise again", escrow.ErrNoPlace, s)
	case isAny(err, unix.ELOOP, unix.ENOTDIR):
		return nil, fmt.Errorf("%w: %s is not a directory", escrow.ErrInTheWay, s)
	case err != nil:
		return nil, fileError(err)
	}
	return f, nil
}

// copies lists a shelf, newest first.
func (d *Directory) copies(ctx context.Context, shelf *os.File, s escrow.Shelf) ([]escrow.Copy, error) {
	var copies []escrow.Copy
	for {
		if err := ctx.Err(); err != nil {
			return nil, contextError(err)
		}
		entries, err := shelf.ReadDir(512)
		for _, e := range entries {
			if !copyName(e.Name()) {
				continue
			}
			c, err := d.entry(shelf, s, e)
			if errors.Is(err, fs.ErrNotExist) {
				continue // gone since; it was there for nobody
			}
			if err != nil {
				return nil, fileError(err)
			}
			copies = append(copies, c)
		}
		if len(copies) > maxNames {
			return nil, fmt.Errorf("%w: more than %d files", escrow.ErrRefused, maxNames)
		}
		if err == io.EOF {
			newestFirst(copies)
			return bounded(copies, func(c escrow.Copy) bool { return c.Fingerprint != "" }), nil
		}
		if err != nil {
			return nil, fileError(err)
		}
	}
}

func newestFirst(copies []escrow.Copy) {
	slices.SortFunc(copies, func(a, b escrow.Copy) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(b.ID, a.ID))
	})
}

// entry describes one name. A file put there by hand is a copy as well, its time that of
// its last change.
func (d *Directory) entry(shelf *os.File, s escrow.Shelf, e fs.DirEntry) (escrow.Copy, error) {
	at, fp, part, ours := parseName(e.Name())
	if !ours {
		var st unix.Stat_t
		if err := unix.Fstatat(int(shelf.Fd()), e.Name(), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return escrow.Copy{}, err
		}
		// mtime can be set to any time (utimensat(2)), ctime cannot.
		at = time.Unix(st.Mtim.Unix())
		if changed := time.Unix(st.Ctim.Unix()); changed.Before(at) {
			at = changed
		}
	}
	c := d.copy(s, e.Name(), at.UTC(), fp)
	c.Part = part
	if t := e.Type(); !t.IsRegular() {
		c.NoFile, c.Unreadable, c.Sealed, c.Fingerprint, c.Part = true, crew.KindOf(t), false, "", escrow.PartOf{}
	}
	return c, nil
}

func (d *Directory) copy(s escrow.Shelf, name string, at time.Time, fp key.Fingerprint) escrow.Copy {
	c := escrow.Copy{Escrow: d.o.Name, ID: string(s) + "/" + escaped(name), Shelf: s, Fingerprint: fp, Created: at}
	if strings.HasSuffix(name, ageSuffix) {
		d.seal.shut(&c)
	}
	return c
}

// path is the file name of a copy.
func path(c escrow.Copy) string {
	_, id, _ := strings.Cut(c.ID, "/")
	name, _ := unescaped(id)
	return name
}

// copyName tells names of copies from what is nobody's copy: hidden files (our
// temporary ones, a file manager's; Windows hides them without a dot) and names that are no
// single path element.
func copyName(name string) bool {
	return name != "" && name[0] != '.' && !strings.ContainsAny(name, "/\x00") &&
		!strings.EqualFold(name, "Thumbs.db") && !strings.EqualFold(name, "desktop.ini")
}

// comparable are the copies of a shelf, newest first, that a Save of k compares with: the
// newest, unless it is called another key, and in quarantine those that claim to be k.
func comparable(copies []escrow.Copy, s escrow.Shelf, k key.Key) []escrow.Copy {
	var list []escrow.Copy
	for i, c := range copies {
		if s == escrow.Current && i > 0 {
			break
		}
		if (i == 0 && c.Fingerprint == "" || c.Fingerprint == k.Fingerprint()) && (c.Unreadable == "" || strings.HasSuffix(c.ID, ageSuffix)) {
			list = append(list, c)
		}
	}
	return list
}

// after is the time of a copy that is to be the newest of a shelf: now, or just after
// one that was written by a clock ahead of ours. After the end of time nothing comes: a key in
// quarantine is kept there all the same, below that copy.
func after(copies []escrow.Copy, s escrow.Shelf) (time.Time, error) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	if len(copies) == 0 || copies[0].Created.Before(now) {
		return now, nil
	}
	next := copies[0].Created.UTC().Truncate(time.Millisecond).Add(time.Millisecond)
	switch {
	case next.Year() <= 9999:
		return next, nil
	case s == escrow.Quarantine:
		return now, nil
	}
	return now, fmt.Errorf("%w: %s", escrow.ErrEndOfTime, clip(copies[0].ID))
}

// parseName reads a name that we gave.
func parseName(name string) (time.Time, key.Fingerprint, escrow.PartOf, bool) {
	base, part, ok := cutSuffix(strings.TrimSuffix(name, ageSuffix))
	stamp, print, dash := strings.Cut(base, "-")
	fp, err := key.ParseFingerprint(print)
	at, terr := time.Parse(stampLayout, stamp)
	if !ok || !dash || err != nil || terr != nil || at.Format(stampLayout) != stamp {
		return time.Time{}, "", escrow.PartOf{}, false
	}
	return at, fp, part, true
}

// read returns a copy's bytes as the disk has them.
func (d *Directory) read(ctx context.Context, shelf *os.File, name string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, contextError(err)
	}
	b, err := readRegular(int(shelf.Fd()), name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, escrow.ErrGone
	}
	if err != nil {
		return nil, fileError(err)
	}
	return b, nil
}

// readRegular reads a regular file of at most maxPayload bytes. O_NOFOLLOW because the
// directory may belong to others; O_NONBLOCK so that a FIFO put there does not hold us
// before fstat shows what it is.
func readRegular(dir int, name string) ([]byte, error) {
	fd, err := retryFD(func() (int, error) {
		return unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	})
	switch err {
	case nil:
	case unix.ELOOP:
		return nil, fmt.Errorf("%w: %s", escrow.ErrUnreadable, crew.KindOf(fs.ModeSymlink))
	case unix.ENXIO: // open(2): a socket
		return nil, fmt.Errorf("%w: %s", escrow.ErrUnreadable, crew.KindOf(fs.ModeSocket))
	default:
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s", escrow.ErrUnreadable, crew.KindOf(st.Mode().Type()))
	}
	if st.Size() > maxPayload {
		return nil, fmt.Errorf("%w: %d bytes", escrow.ErrNotKey, st.Size())
	}
	// What was just written and synced is to come from the disk, not from memory. A hint.
	_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
	b := make([]byte, 0, maxPayload+1) // never grown, so nothing unwiped is left behind
	for len(b) < cap(b) {
		n, err := f.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			clear(b)
			return nil, err
		}
	}
	clear(b)
	return nil, fmt.Errorf("%w: more than %d bytes", escrow.ErrNotKey, maxPayload)
}

func openDir(at int, name string, flags int) (*os.File, error) {
	fd, err := retryFD(func() (int, error) {
		return unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NONBLOCK|flags, 0)
	})
	if err != nil {
		return nil, err
	}
	// Under this name ReadDir's lstat, where the file system tells no types, and every path
	// made by within stay in the very directory that is open, proc_pid_fd(5).
	return os.NewFile(uintptr(fd), fmt.Sprintf("/proc/self/fd/%d", fd)), nil
}

func retryFD(open func() (int, error)) (int, error) {
	for {
		fd, err := open()
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// within is a path to a name in a directory that openDir opened.
func within(dir *os.File, name string) string { return dir.Name() + "/" + name }

// mkdir makes a directory durably, or finds it.
func mkdir(at *os.File, name string) error {
	err := unix.Mkdirat(int(at.Fd()), name, 0o700)
	if err == unix.EEXIST {
		return nil
	}
	if err != nil {
		return err
	}
	return at.Sync()
}

// notMounted gives a path that is not there its meaning.
func notMounted(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: not mounted: %w", escrow.ErrNoPlace, err)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w: %w", escrow.ErrInTheWay, err)
	}
	return fileError(err)
}

// fileError gives an error of the file system its sentinel, and takes the path from it,
// which is one in /proc: the caller names the place. An error that has a sentinel keeps it.
func fileError(err error) error {
	var errno syscall.Errno
	switch {
	case errors.Is(err, unix.EFBIG): // the path to which it was written tells nobody anything
		return unix.EFBIG
	case err == nil || hasSentinel(err):
		return err
	case errors.Is(err, durable.ErrExposed):
		return fmt.Errorf("%w: %w", escrow.ErrExposed, err)
	case errors.Is(err, durable.ErrAppendOnly):
		return fmt.Errorf("%w: %w", escrow.ErrHeld, durable.ErrAppendOnly)
	case !errors.As(err, &errno):
		return err
	}
	switch errno {
	case unix.EACCES, unix.EPERM:
		return fmt.Errorf("%w: %w", escrow.ErrHeld, errno)
	case unix.EROFS:
		return fmt.Errorf("%w: %w", escrow.ErrReadOnly, errno)
	case unix.ENOSPC, unix.EDQUOT:
		return fmt.Errorf("%w: %w", escrow.ErrFull, errno)
	case unix.ENOENT, unix.ENOTDIR:
		return fmt.Errorf("%w: %w", escrow.ErrNoPlace, errno)
	}
	// EIO and ENODEV of a stick pulled out, ESTALE and ETIMEDOUT of NFS, ENOTCONN of FUSE.
	return fmt.Errorf("%w: %w", escrow.ErrUnreachable, errno)
}
