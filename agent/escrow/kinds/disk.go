package kinds

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

// checkDisk returns ErrSameDisk where dir is lost together with the keyfile.
func (d *Directory) checkDisk(dir *os.File) error {
	if d.o.AllowSameDisk || d.o.Keyfile == "" {
		return nil
	}
	var e escrow.Examination
	if err := placed(&e, dir, d.o.Keyfile); err != nil {
		return err
	}
	if e.SameDisk {
		return fmt.Errorf("%w (%s): not a backup", escrow.ErrSameDisk, strings.Join(e.Disks, ", "))
	}
	return nil
}

// nearest opens the directory, or the nearest one above that exists: where the keyfile
// will be.
func nearest(dir string) (*os.File, error) {
	for {
		f, err := openDir(unix.AT_FDCWD, dir, 0)
		if err == nil || dir == filepath.Dir(dir) || !isAny(err, unix.ENOENT, unix.ENOTDIR) {
			return f, err
		}
		dir = filepath.Dir(dir)
	}
}

// disks finds out what a file system is made of, through sysfs(5) and proc(5).
type disks struct{ sys, proc string }

// under names the disks below an open directory: "sda", "nvme0n1"; "zfs pool tank", "the
// server nas" or "device 0:45" where there is no block device. Two directories that share a
// name are lost together.
func (m disks) under(dir *os.File) (map[string]bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, err
	}
	found := map[string]bool{}
	m.device(uint64(st.Dev), dir, found, 0)
	return found, nil
}

// maxDepth ends a chain of devices on devices that goes in circles.
const maxDepth = 16

// device adds the disks of a device number. dir, if any, is an open directory on it.
func (m disks) device(dev uint64, dir *os.File, found map[string]bool, depth int) {
	number := fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	block, err := filepath.EvalSymlinks(filepath.Join(m.sys, "dev/block", number))
	if err == nil && depth < maxDepth {
		m.block(block, found, depth)
		return
	}
	if dir != nil && depth < maxDepth && m.mounted(dir, found, depth) {
		return
	}
	found["device "+number] = true
}

// block adds the disks of a block device, given its directory in sysfs: a partition's
// disk, the disks that a mapped device (dm, md) is made of, the disk of a loop device's
// file.
func (m disks) block(dir string, found map[string]bool, depth int) {
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		dir = filepath.Dir(dir)
	}
	slaves, _ := filepath.Glob(filepath.Join(dir, "slaves", "*"))
	for _, s := range slaves {
		if p, err := filepath.EvalSymlinks(s); err == nil && depth < maxDepth {
			m.block(p, found, depth+1)
		}
	}
	if len(slaves) > 0 {
		return
	}
	if file, err := os.ReadFile(filepath.Join(dir, "loop/backing_file")); err == nil && depth < maxDepth {
		if f, err := nearest(filepath.Dir(strings.TrimSpace(string(file)))); err == nil {
			defer f.Close()
			var st unix.Stat_t
			if unix.Fstat(int(f.Fd()), &st) == nil {
				m.device(uint64(st.Dev), f, found, depth+1)
				return
			}
		}
	}
	found[filepath.Base(dir)] = true
}

// mounted adds the disks of a file system that has no device number of its own, by what
// is mounted: btrfs (whose subvolumes each have a made-up number), ZFS, NFS, overlayfs.
func (m disks) mounted(dir *os.File, found map[string]bool, depth int) bool {
	kind, source, super := m.mount(dir)
	switch kind {
	case "zfs":
		pool, _, _ := strings.Cut(source, "/")
		found["zfs pool "+pool] = true
		return true
	case "nfs", "nfs4", "cifs", "smb3", "fuse.sshfs":
		found["the server "+serverOf(source)] = true
		return true
	case "9p", "virtiofs", "ceph":
		found[source] = true
		return true
	case "overlay":
		for option := range strings.SplitSeq(super, ",") {
			upper, ok := strings.CutPrefix(option, "upperdir=")
			if !ok {
				continue
			}
			f, err := nearest(unescape(upper))
			if err != nil {
				return false
			}
			defer f.Close()
			var st unix.Stat_t
			if unix.Fstat(int(f.Fd()), &st) != nil {
				return false
			}
			m.device(uint64(st.Dev), f, found, depth+1)
			return true
		}
	case "btrfs":
		var st unix.Stat_t
		if unix.Stat(source, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
			return false
		}
		// One of its devices is mounted; sysfs lists all of them.
		number := fmt.Sprintf("%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
		volumes, _ := filepath.Glob(filepath.Join(m.sys, "fs/btrfs/*/devices"))
		for _, v := range volumes {
			links, _ := filepath.Glob(filepath.Join(v, "*"))
			var members []string
			ours := false
			for _, l := range links {
				if p, err := filepath.EvalSymlinks(l); err == nil {
					members = append(members, p)
					n, _ := os.ReadFile(filepath.Join(p, "dev"))
					ours = ours || strings.TrimSpace(string(n)) == number
				}
			}
			if ours {
				for _, p := range members {
					m.block(p, found, depth+1)
				}
				return true
			}
		}
		m.device(uint64(st.Rdev), nil, found, depth+1)
		return true
	}
	return false
}

// serverOf is the server of a network file system: "nas" of "nas:/export", "//nas/share" and
// "who@nas:".
func serverOf(source string) string {
	if share, ok := strings.CutPrefix(source, "//"); ok {
		server, _, _ := strings.Cut(share, "/")
		return server
	}
	server := source
	if i := strings.LastIndex(source, ":/"); i >= 0 {
		server = source[:i]
	}
	if i := strings.LastIndex(server, "@"); i >= 0 {
		server = server[i+1:]
	}
	return strings.TrimSuffix(server, ":")
}

// mount returns type, source and options of the mount that an open directory is on:
// its id from proc_pid_fdinfo(5), the rest from proc_pid_mountinfo(5).
func (m disks) mount(dir *os.File) (kind, source, super string) {
	info, err := os.ReadFile(filepath.Join(m.proc, "self/fdinfo", strconv.Itoa(int(dir.Fd()))))
	if err != nil {
		return "", "", ""
	}
	_, id, _ := strings.Cut(string(info), "mnt_id:")
	id, _, _ = strings.Cut(strings.TrimSpace(id), "\n")
	mounts, err := os.Open(filepath.Join(m.proc, "self/mountinfo"))
	if err != nil {
		return "", "", ""
	}
	defer mounts.Close()
	lines := bufio.NewScanner(mounts)
	for lines.Scan() {
		first, rest, _ := strings.Cut(lines.Text(), " ")
		if first != id {
			continue
		}
		_, rest, _ = strings.Cut(rest, " - ")
		if f := strings.Fields(rest); len(f) >= 3 {
			return f[0], unescape(f[1]), f[2]
		}
	}
	return "", "", ""
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// Mounts lists the mount points below /mnt, /media and /run/media that can be written
// to: where sticks and other disks of a person's are mounted.
func Mounts() []string { return disks{proc: "/proc"}.mounts() }

// incusData is where the host has its containers, Postgres among them, on a disk of its
// own: copies of the key are to be elsewhere.
const incusData = "/mnt/incus-data"

func (m disks) mounts() []string {
	mounts, err := os.Open(filepath.Join(m.proc, "self/mountinfo"))
	if err != nil {
		return nil
	}
	defer mounts.Close()
	var list []string
	for lines := bufio.NewScanner(mounts); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 6 {
			continue
		}
		point := unescape(f[4])
		if point == incusData || strings.HasPrefix(point, incusData+"/") || slices.Contains(list, point) {
			continue
		}
		for _, above := range []string{"/mnt/", "/media/", "/run/media/"} {
			if strings.HasPrefix(point, above) && slices.Contains(strings.Split(f[5], ","), "rw") {
				list = append(list, point)
			}
		}
	}
	return list
}
