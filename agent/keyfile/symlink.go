package keyfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symlinks the kernel follows in one path, path_resolution(7).
const maxLinks = 40

// follow resolves the symlink at link as the daemon's stat(2) would, and says why it
// is not to be trusted, if so: it is followed only where it and every directory
// between it and its target belong to the owner or root and are writable by nobody
// else (design §3), so that nobody else chooses what is read. Whether the target
// itself is trusted, the caller checks on what it opens.
//
// "Between" is what is passed on the way up from the link to the directory that it
// shares with the target, and down again. What lies above decides over a regular
// keyfile as well.
func (f File) follow(link string) (target, file, why string, err error) {
	home, err := filepath.EvalSymlinks(filepath.Dir(link))
	if err != nil {
		return "", "", "", errMoved
	}
	at := home                            // where we are, free of symlinks
	todo := []string{filepath.Base(link)} // names still to walk
	passed := []string{home}
	links := 0
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if name == ".." {
			at = filepath.Dir(at)
			passed = append(passed, at)
			continue
		}
		here := filepath.Join(at, name)
		var st unix.Stat_t
		switch err := lstat(here, &st); {
		case (err == unix.ENOENT || err == unix.ENOTDIR) && links == 0:
			return "", "", "", errMoved // the link itself has gone
		case err == unix.ENOENT || err == unix.ENOTDIR:
			return target, "", fmt.Sprintf("a dangling symlink to %s", target), nil
		case err != nil:
			return target, "", fmt.Sprintf("a symlink to %s that cannot be followed: %v", target, err), nil
		}
		switch {
		case st.Mode&unix.S_IFMT == unix.S_IFLNK:
			text, err := os.Readlink(here)
			if err != nil {
				return "", "", "", errMoved
			}
			if links++; links == 1 {
				target = text
			}
			if links > maxLinks {
				return target, "", "a symlink loop", nil
			}
			if int(st.Uid) != f.Owner && st.Uid != 0 {
				return target, "", fmt.Sprintf("a symlink to %s that others can change (%s is owned by uid %d)", target, here, st.Uid), nil
			}
			if filepath.IsAbs(text) {
				at = "/"
				passed = append(passed, at)
			}
			todo = append(stepsOf(text), todo...)
		case len(todo) == 0:
			at = here
		case st.Mode&unix.S_IFMT != unix.S_IFDIR:
			return target, "", fmt.Sprintf("a dangling symlink to %s", target), nil
		default:
			at = here
			passed = append(passed, at)
		}
	}
	if links == 0 {
		return "", "", "", errMoved // it is no symlink any more
	}
	d, is, err := f.changeable(passed, home, at)
	switch {
	case err != nil:
		return "", "", "", errMoved
	case d != "":
		return target, "", fmt.Sprintf("a symlink to %s that others can change (%s is %s)", target, d, is), nil
	}
	return target, at, "", nil
}

// changeable finds a directory that others can change, and says how it is owned, among those that
// were passed between home, where the link is, and what it leads to; "" for none.
func (f File) changeable(passed []string, home, at string) (dir, is string, err error) {
	top := shared(home, filepath.Dir(at))
	for d := home; d != top; d = filepath.Dir(d) {
		passed = append(passed, d)
	}
	for _, d := range passed {
		if d != top && within(d, top) {
			continue
		}
		var st unix.Stat_t
		if err := lstat(d, &st); err != nil {
			return "", "", err
		}
		if !f.trusts(&st) {
			return d, ownership(&st), nil
		}
	}
	return "", "", nil
}

// trusts tells whether nobody but the owner and root can change what st describes.
func (f File) trusts(st *unix.Stat_t) bool {
	return (int(st.Uid) == f.Owner || st.Uid == 0) && st.Mode&0o022 == 0
}

// stepsOf splits a path into the names that have to be walked.
func stepsOf(path string) []string {
	var out []string
	for n := range strings.SplitSeq(path, "/") {
		if n != "" && n != "." {
			out = append(out, n)
		}
	}
	return out
}

// shared is the lowest directory that holds both a and b, which are absolute.
func shared(a, b string) string {
	for !within(a, b) {
		a = filepath.Dir(a)
	}
	return a
}

// within tells whether path is dir or lies below it.
func within(dir, path string) bool {
	return dir == "/" || path == dir || strings.HasPrefix(path, dir+"/")
}
