package kinds

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

// stick is a file system by its name, wherever it is mounted. Nothing is mounted here:
// who may mount a stick is for people to decide.
type stick struct {
	name     string // as mount(8) takes it: "LABEL=KEYGUARD"
	property string // udev's name for what stands before the "="
	value    string
	sub      string // the directory on it, "" for its root
}

// parseStick reads a path such as "LABEL=KEYGUARD/host1". Any other path is no stick.
func parseStick(path string) (s stick, ok bool, err error) {
	name, sub, below := strings.Cut(path, "/")
	kind, value, _ := strings.Cut(name, "=")
	switch kind {
	case "LABEL":
		s.property = "ID_FS_LABEL_ENC"
	case "UUID":
		s.property = "ID_FS_UUID_ENC"
	default:
		return s, false, nil
	}
	if value == "" || below && (!filepath.IsLocal(sub) || filepath.Clean(sub) != sub) {
		return s, true, fmt.Errorf("path %q is no LABEL= or UUID= with a clean path behind it", path)
	}
	s.name, s.value, s.sub = name, value, sub
	return s, true, nil
}

// device finds the one plugged in device with the name, in udev's database: a file
// "b8:17" for each block device. /dev/disk is made of the same, but a unit with
// PrivateDevices= has none.
func (s stick) device(udev string) (uint64, error) {
	entries, err := os.ReadDir(udev)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%w: no udev runs here to find %s (no %s): name the directory itself in path", escrow.ErrNoPlace, s.name, udev)
	}
	if err != nil {
		return 0, fileError(err)
	}
	var found []uint64
	for _, e := range entries {
		number, block := strings.CutPrefix(e.Name(), "b")
		dev, ok := deviceNumber(number)
		if !block || !ok {
			continue
		}
		data, err := os.ReadFile(filepath.Join(udev, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // pulled out since
		}
		if err != nil {
			return 0, fileError(err)
		}
		if s.names(string(data)) {
			found = append(found, dev)
		}
	}
	switch len(found) {
	case 0:
		return 0, fmt.Errorf("%w: no device with %s is plugged in; plug it in, then: %s", escrow.ErrNoPlace, s.name, s.mountCommand())
	case 1:
		return found[0], nil
	}
	names := make([]string, len(found))
	for i, dev := range found {
		names[i] = deviceName(dev)
	}
	slices.Sort(names)
	return 0, fmt.Errorf("%w: %s is on %s", escrow.ErrAmbiguous, s.name, strings.Join(names, " and on "))
}

// names tells whether a device's entry has the name of s. One that is part of a RAID,
// or of LUKS, may have it as well, and holds no file system.
func (s stick) names(entry string) bool {
	var named, holds bool
	for line := range strings.Lines(entry) {
		property, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch property {
		case "E:" + s.property:
			named = unescapeUdev(value) == s.value
		case "E:ID_FS_USAGE":
			holds = value == "filesystem"
		}
	}
	return named && holds
}

func (s stick) mountCommand() string {
	return "mount '" + strings.ReplaceAll(s.name, "'", `'\''`) + "' /mnt/…"
}

// mounted returns where the device's root is mounted, and the number that files there have
// for their device. What is mounted over does not count.
func (s stick) mounted(mountinfo string, dev uint64) (string, uint64, error) {
	mounts, err := os.Open(mountinfo)
	if err != nil {
		return "", 0, fileError(err)
	}
	defer mounts.Close()
	lines := bufio.NewScanner(mounts)
	for lines.Scan() {
		// proc_pid_mountinfo(5): id, parent, major:minor, root, mount point, options, some
		// optional ones, "-", type, source
		f := strings.Fields(lines.Text())
		if len(f) < 5 || f[3] != "/" {
			continue
		}
		on, ok := deviceNumber(f[2])
		if end := slices.Index(f, "-"); end > 0 && len(f) > end+2 && f[end+1] == "btrfs" {
			// Its numbers are of no device, and differ between mountinfo and stat(2).
			on, ok = sourceDevice(unescape(f[end+2]))
		}
		if !ok || on != dev {
			continue
		}
		// The mount's id tells that nothing else is mounted over it; kernels before 5.8 do
		// not tell it.
		var st unix.Statx_t
		point := unescape(f[4])
		if unix.Statx(unix.AT_FDCWD, point, 0, unix.STATX_MNT_ID, &st) != nil {
			continue
		}
		there := unix.Mkdev(st.Dev_major, st.Dev_minor)
		if st.Mask&unix.STATX_MNT_ID != 0 && strconv.FormatUint(st.Mnt_id, 10) == f[0] || st.Mask&unix.STATX_MNT_ID == 0 && there == dev {
			return point, there, nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", 0, fmt.Errorf("%w: %s: %w", escrow.ErrUnreachable, mountinfo, err)
	}
	return "", 0, fmt.Errorf("%w: %s is plugged in (%s) and not mounted: %s", escrow.ErrNoPlace, s.name, deviceName(dev), s.mountCommand())
}

// find returns the directory that Path means at this moment, and for a stick the device
// that it must lie on.
func (d *Directory) find() (path string, dev uint64, err error) {
	s, ok, err := parseStick(d.o.Path)
	if !ok || err != nil {
		return d.o.Path, 0, err
	}
	udev, mountinfo := d.o.Udev, d.o.Mountinfo
	if udev == "" {
		udev = "/run/udev/data"
	}
	if mountinfo == "" {
		mountinfo = "/proc/self/mountinfo"
	}
	if dev, err = s.device(udev); err != nil {
		return "", 0, err
	}
	point, dev, err := s.mounted(mountinfo, dev)
	if err != nil {
		return "", 0, err
	}
	return filepath.Join(point, s.sub), dev, nil
}

// enter opens a directory that find found. The stick may have been unmounted since, and
// a symlink on it may lead off it: then it is another device's, and is not used.
func (d *Directory) enter(path string, dev uint64) (*os.File, error) {
	f, err := openDir(unix.AT_FDCWD, path, 0)
	if err != nil && dev != 0 && errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("%w: not initialised: no directory %s: %w", escrow.ErrNoPlace, path, err)
	}
	if err != nil {
		return nil, notMounted(err)
	}
	if dev == 0 {
		return f, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fileError(err)
	}
	if uint64(st.Dev) != dev {
		f.Close()
		return nil, fmt.Errorf("%w: %s does not lie on that device", escrow.ErrNoPlace, path)
	}
	return f, nil
}

// deviceNumber reads "8:17".
func deviceNumber(s string) (uint64, bool) {
	major, minor, _ := strings.Cut(s, ":")
	a, err := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	return unix.Mkdev(uint32(a), uint32(b)), err == nil && err2 == nil
}

// sourceDevice is the number of what was mounted, "/dev/sdb1". A unit with PrivateDevices=
// does not see the file itself.
func sourceDevice(source string) (uint64, bool) {
	number, err := os.ReadFile("/sys/class/block/" + filepath.Base(source) + "/dev")
	if err != nil {
		return 0, false
	}
	return deviceNumber(strings.TrimSpace(string(number)))
}

// deviceName is what people call a block device: "/dev/sdb1".
func deviceName(dev uint64) string {
	number := fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	if link, err := os.Readlink("/sys/dev/block/" + number); err == nil {
		return "/dev/" + filepath.Base(link)
	}
	return "device " + number
}

// unescapeUdev undoes udev's escapes of a byte: "\x20".
func unescapeUdev(s string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, `\x`)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		if len(after) >= 2 {
			if c, err := strconv.ParseUint(after[:2], 16, 8); err == nil {
				b.WriteByte(byte(c))
				s = after[2:]
				continue
			}
		}
		b.WriteString(`\x`)
		s = after
	}
}
