// Package crewtest makes a place that hangs, for tests that run as root.
package crewtest

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Hang mounts a FUSE file system on dir whose server takes requests and answers none but the
// first, FUSE_INIT (fuse(4), include/uapi/linux/fuse.h): what NFS is whose server has gone. It
// serves until it is unmounted, by force (umount2(2)), and then closes the channel.
func Hang(dir string) (<-chan struct{}, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open /dev/fuse: %w", err)
	}
	err = unix.Mount("keyguard-test", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd))
	if err != nil {
		unix.Close(fd) //nolint:errcheck // the mount's error counts
		return nil, fmt.Errorf("cannot mount FUSE on %s: %w", dir, err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer unix.Close(fd) //nolint:errcheck // nothing was written that counts
		serve(fd)
	}()
	return served, nil
}

func serve(fd int) {
	b := make([]byte, 1<<17)
	for {
		n, err := unix.Read(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		const init = 26
		if n < 40 || binary.LittleEndian.Uint32(b[4:]) != init {
			continue
		}
		reply := make([]byte, 16+64) // fuse_out_header, fuse_init_out
		binary.LittleEndian.PutUint32(reply, uint32(len(reply)))
		copy(reply[8:16], b[8:16])                         // unique
		binary.LittleEndian.PutUint32(reply[16:], 7)       // major
		binary.LittleEndian.PutUint32(reply[20:], 31)      // minor
		binary.LittleEndian.PutUint32(reply[16+20:], 4096) // max_write
		if _, err := unix.Write(fd, reply); err != nil {
			return
		}
	}
}
