// Package durabletest gives tests the worst a file system can do: a crash, or the loss
// of a disk, before any of the system calls that change files, a kernel without the flags of renameat2(2),
// a full disk, a read-only one.
//
// The crashes are real. The test program starts itself again under ptrace(2), and the
// copy is killed on entry to a system call, which then does not happen. So the steps
// are counted, not listed by hand, and the tested code has no hooks.
package durabletest

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Begin and End enclose, in the traced program, the calls that count. They are a
// getpriority(2) that asks for nonsense and does nothing.
func Begin() { unix.Getpriority(markBegin, 0) } //nolint:errcheck // it fails, on purpose

// End: see Begin.
func End() { unix.Getpriority(markEnd, 0) } //nolint:errcheck // it fails, on purpose

const (
	markBegin = 0x6b67
	markEnd   = 0x6b68
)

// changing names the system calls that Go programs change files with.
var changing = map[uint64]string{
	unix.SYS_OPENAT: "openat", unix.SYS_WRITE: "write", unix.SYS_PWRITE64: "pwrite64",
	unix.SYS_FTRUNCATE: "ftruncate", unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fdatasync",
	unix.SYS_FCHMOD: "fchmod", unix.SYS_FCHMODAT: "fchmodat", unix.SYS_FCHOWN: "fchown",
	unix.SYS_FCHOWNAT: "fchownat", unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2",
	unix.SYS_LINKAT: "linkat", unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_UNLINKAT: "unlinkat",
	unix.SYS_MKDIRAT: "mkdirat",
}

// Run starts this test program again with the variables env added to its environment,
// and kills it on entry to the n-th file-changing call between Begin and End; n = 0
// lets it run. It returns the calls that began, and whether the program came to its
// end by itself. One that ends with a status other than 0 fails the test.
func Run(t testing.TB, n int, env ...string) (calls []string, ended bool) {
	t.Helper()
	return start(t, n, func(pid int) error { return unix.Kill(pid, unix.SIGKILL) }, env)
}

// Interrupt is as Run, but lets the program live: before the n-th call happens the world
// around it changes, as do says.
func Interrupt(t testing.TB, n int, do func() error, env ...string) (calls []string) {
	t.Helper()
	calls, ended := start(t, n, func(int) error { return do() }, env)
	if !ended {
		t.Fatal("the traced program was killed")
	}
	return calls
}

func start(t testing.TB, n int, do func(pid int) error, env []string) (calls []string, ended bool) {
	t.Helper()
	// Only the thread that traces may wait for the traced.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close() //nolint:errcheck // nothing was written
	p, err := os.StartProcess("/proc/self/exe", os.Args[:1], &os.ProcAttr{
		Env:   append(os.Environ(), env...),
		Files: []*os.File{null, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release() //nolint:errcheck // it was waited for below
	calls, ended, err = trace(p.Pid, n, do)
	if err != nil {
		unix.Kill(p.Pid, unix.SIGKILL) //nolint:errcheck // it may be dead
		t.Fatal(err)
	}
	return calls, ended
}

func trace(pid, n int, do func(pid int) error) (calls []string, ended bool, err error) {
	// The first stop is that of execve(2); a thread's first is a SIGSTOP.
	known := map[int]bool{}
	counting := false
	for {
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, false, fmt.Errorf("wait4: %w", err)
		}
		if ws.Exited() || ws.Signaled() {
			if tid != pid {
				continue
			}
			if ws.Exited() && ws.ExitStatus() != 0 {
				return nil, false, fmt.Errorf("the traced program ended with status %d", ws.ExitStatus())
			}
			return calls, ws.Exited(), nil
		}
		signal := 0
		switch s := ws.StopSignal(); {
		case !known[tid]:
			known[tid] = true
			if tid == pid {
				if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL); err != nil {
					return nil, false, fmt.Errorf("ptrace: %w", err)
				}
			}
		case s == unix.SIGTRAP|0x80:
			call, ok, err := entered(tid, &counting)
			if err != nil {
				return nil, false, err
			}
			if ok {
				calls = append(calls, call)
				if len(calls) == n {
					if err := do(pid); err != nil {
						return nil, false, fmt.Errorf("before call %d, %s: %w", n, call, err)
					}
				}
			}
		case s == unix.SIGTRAP: // a new thread
		default:
			signal = int(s)
		}
		// ESRCH: it was killed meanwhile, and will be reported dead.
		if err := unix.PtraceSyscall(tid, signal); err != nil && err != unix.ESRCH {
			return nil, false, fmt.Errorf("ptrace: %w", err)
		}
	}
}

// entered names the file-changing call that the thread is about to make, if it is.
func entered(tid int, counting *bool) (name string, ok bool, err error) {
	// struct ptrace_syscall_info of ptrace(2): op in byte 0, nr in 24, args from 32.
	var info [88]byte
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid),
		unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno == unix.ESRCH {
		return "", false, nil
	}
	if errno != 0 {
		return "", false, fmt.Errorf("ptrace: %w", errno)
	}
	if info[0] != unix.PTRACE_SYSCALL_INFO_ENTRY {
		return "", false, nil
	}
	arg := func(i int) uint64 { return binary.NativeEndian.Uint64(info[32+8*i:]) }
	nr := binary.NativeEndian.Uint64(info[24:])
	if nr == unix.SYS_GETPRIORITY && (arg(0) == markBegin || arg(0) == markEnd) {
		*counting = arg(0) == markBegin
	}
	name, ok = changing[nr]
	if !ok || !*counting || nr == unix.SYS_OPENAT && arg(2)&unix.O_CREAT == 0 || nr == unix.SYS_WRITE && wakes(tid, arg(0)) {
		return "", false, nil
	}
	return name, true, nil
}

// wakes tells whether a write goes to an eventfd(2). Go's runtime does that to wake the thread
// that sleeps until the next timer (netpollBreak): how often depends on how threads are
// scheduled, and a crash there is one at the next call that counts.
func wakes(tid int, fd uint64) bool {
	to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, fd))
	return err == nil && to == "anon_inode:[eventfd]"
}

// WithoutRename2 makes renameat2(2) fail with EINVAL in this process from now on, as
// on a file system that does not know its flags. See refuse.
func WithoutRename2() error { return refuse(map[uint32]unix.Errno{unix.SYS_RENAMEAT2: unix.EINVAL}) }

// LikeFAT makes this process's file systems as poor as FAT is behind FUSE: no flags of
// renameat2(2), no links of either kind, no modes. See refuse.
func LikeFAT() error {
	return refuse(map[uint32]unix.Errno{
		unix.SYS_RENAMEAT2: unix.EINVAL, unix.SYS_LINKAT: unix.EPERM, unix.SYS_SYMLINKAT: unix.EPERM,
		unix.SYS_FCHMOD: unix.ENOSYS, unix.SYS_FCHMODAT: unix.ENOSYS,
	})
}

// refuse answers system calls with errors, by a seccomp(2) filter. There is no way back:
// it is for a program that was started for the purpose.
func refuse(calls map[uint32]unix.Errno) error {
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}} // seccomp_data.nr
	for nr, errno := range calls {
		filter = append(filter,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jf: 1},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)})
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl: %w", err)
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}

// TmpFS mounts a tmpfs of so many bytes and returns where. It needs root.
func TmpFS(t testing.TB, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	mount(t, "tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes))
	return dir
}

// Flag sets FS_IMMUTABLE_FL or FS_APPEND_FL of ioctl_iflags(2), which have the values of
// statx(2), on a file or a directory, until it is cleared or the test ends. The other flags
// stay: without the one for extents ext4 lays a file out anew, and refuses that
// (EOPNOTSUPP) while it still writes the file's bytes. It needs root.
func Flag(t testing.TB, path string, flag int) (off func()) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	change := func(to func(flags int) int) {
		t.Helper()
		flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		if err == nil {
			err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, to(flags))
		}
		if err != nil {
			t.Fatalf("this test sets a flag that is root's, on a file system that has it: %v", err)
		}
	}
	off = sync.OnceFunc(func() {
		defer f.Close() //nolint:errcheck // only its flags changed
		change(func(flags int) int { return flags &^ flag })
	})
	t.Cleanup(off)
	change(func(flags int) int { return flags | flag })
	return off
}

// Fill leaves no free byte on the file system of dir, and returns the file that takes
// them.
func Fill(t testing.TB, dir string) string {
	t.Helper()
	f, err := os.CreateTemp(dir, "filler")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // it cannot be whole
	for page := make([]byte, 4096); ; {
		if _, err := f.Write(page); err != nil {
			return f.Name()
		}
	}
}

// ReadOnly mounts dir over itself, read-only. It needs root.
func ReadOnly(t testing.TB, dir string) {
	t.Helper()
	mount(t, dir, dir, "", unix.MS_BIND, "")
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
}

// Bind mounts what stands at from over what stands at to. It needs root.
func Bind(t testing.TB, from, to string) {
	t.Helper()
	mount(t, from, to, "", unix.MS_BIND, "")
}

func mount(t testing.TB, source, target, kind string, flags uintptr, data string) {
	t.Helper()
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		t.Fatalf("mount %s: %v (these tests need root)", target, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}
