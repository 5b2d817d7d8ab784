package outside

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// disks are file systems on a disk of this machine, or in its memory. Reading one hangs
// where the disk itself is dying, and then this program could not have been read either.
var disks = []string{"btrfs", "devtmpfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}

// Mounts is what is mounted on this machine: the kind of file system at each place.
type Mounts map[string]string

// ReadMounts asks the kernel, whose list does not hang.
func ReadMounts() (Mounts, error) {
	list, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot tell what is mounted: %w", err)
	}
	return parse(string(list)), nil
}

// Local tells whether all of these files and directories, and what is mounted below them,
// lie on disks of this machine, or nowhere: what is not there does not hang. A symlink on the
// way is not followed: it may lead anywhere.
func (m Mounts) Local(paths ...string) bool {
	for _, path := range paths {
		if !filepath.IsAbs(path) || !local(filepath.Clean(path), m) {
			return false
		}
	}
	return true
}

func local(path string, mounts Mounts) bool {
	for place, kind := range mounts {
		if strings.HasPrefix(place, path+"/") && !slices.Contains(disks, kind) {
			return false
		}
	}
	// From the top: nothing below a mount that may hang is looked at.
	for i, c := range path + "/" {
		if c != '/' {
			continue
		}
		at := path[:max(i, 1)]
		if kind, mounted := mounts[at]; mounted && !slices.Contains(disks, kind) {
			return false
		}
		switch info, err := os.Lstat(at); {
		case errors.Is(err, fs.ErrNotExist):
			return true
		case err != nil || info.Mode()&os.ModeSymlink != 0:
			return false
		}
	}
	return true
}

// parse reads proc_pid_mountinfo(5): the kind of what is mounted on each place. Of several
// on one place the last counts.
func parse(list string) Mounts {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	mounts := Mounts{}
	for line := range strings.Lines(list) {
		before, after, _ := strings.Cut(line, " - ")
		if place, kind := strings.Fields(before), strings.Fields(after); len(place) > 4 && len(kind) > 0 {
			mounts[unescape.Replace(place[4])] = kind[0]
		}
	}
	return mounts
}
