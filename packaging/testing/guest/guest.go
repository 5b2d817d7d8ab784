// Package guest boots Debian guests for the tests that need a real systemd: a root
// directory made by debootstrap, under it an overlay that each guest throws away, and
// systemd-nspawn with a network of its own, in which only loopback exists. Commands run
// in the guest through nsenter(1) on its init, with no more capabilities than init has.
//
// It works on machines whose own init is systemd and on those whose is not, with a
// unified or a hybrid cgroup hierarchy. A guest's clock is the host's: never set it.
package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Guest is one machine. It is not safe for use by several goroutines, but for Run.
type Guest struct {
	dir     string    // upper, work and root of the overlay, and its lock
	lower   string    // what lies below upper: directories with colons between, the topmost first
	root    *os.File  // the lock that says that the suite's root directory is in use
	held    *os.File  // the same of dir
	cgroups []string  // directories, one in each hierarchy
	nspawn  *exec.Cmd // or rather unshare(1) around it
	console bytes.Buffer
	exited  chan struct{} // closed when nspawn is gone
	leader  int           // the guest's init, as a process of the host
}

// errReboot is the status of systemd-nspawn --keep-unit whose guest asks for a reboot.
const errReboot = 133

// New makes a guest of that suite that is not yet booted. Close throws it away.
func New(ctx context.Context, suite string, log io.Writer) (*Guest, error) {
	dir, root, err := Root(ctx, suite, log)
	if err != nil {
		return nil, err
	}
	return newGuest(suite, dir, root)
}

// Clone makes a guest that is not yet booted, whose disk begins as g's is. g is off, and
// stays so until every clone is closed.
func (g *Guest) Clone() (*Guest, error) {
	lowest := g.lower[strings.LastIndexByte(g.lower, ':')+1:]
	root, err := holdRoot(lowest, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	return newGuest(filepath.Base(g.dir), filepath.Join(g.dir, "upper")+":"+g.lower, root)
}

func newGuest(name, lower string, root *os.File) (_ *Guest, err error) {
	g := &Guest{lower: lower, root: root}
	defer func() {
		if err != nil {
			root.Close() //nolint:errcheck // held a lock, nothing else
		}
	}()
	run := filepath.Join(Cache, "run")
	// Between its making and its lock a directory looks like one that was left.
	making, err := lock(filepath.Join(Cache, "run.lock"), os.O_CREATE|os.O_RDWR, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer making.Close() //nolint:errcheck // held a lock, nothing else
	if err := sweep(filepath.Join(run, "*"), holdGuest); err != nil {
		return nil, err
	}
	if g.dir, err = os.MkdirTemp(run, name+"-"); err != nil {
		return nil, err
	}
	if g.held, err = holdGuest(g.dir, unix.LOCK_EX); err != nil {
		return nil, err
	}
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(g.dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// holdGuest takes the lock that says of a guest's directory that somebody has it.
func holdGuest(dir string, how int) (*os.File, error) {
	return lock(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, how)
}

// mount is a piece of shell that mounts the overlay, for a process with a mount
// namespace of its own: with the process the mount is gone.
const mount = `mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"; `

// Boot starts the guest and waits until systemd has finished starting: "running", or
// "degraded" where a unit failed, which is for the test to judge.
func (g *Guest) Boot(ctx context.Context) error {
	spawn := `exec systemd-nspawn --quiet --boot --register=no --keep-unit --console=passive \
		--private-network --hostname=keyguard-guest --link-journal=no --resolv-conf=off --timezone=off --directory="$2/root"`
	// A pid namespace around nspawn's own: were nspawn alone killed, its guest lived on.
	args := []string{"unshare", "--mount", "--propagation=private", "--mount-proc", "--pid", "--fork", "--kill-child", "--", "sh", "-ec", mount + g.cgroup() + spawn, "boot", g.lower, g.dir}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		// A scope that is delegated to us is what --keep-unit wants, systemd-nspawn(1).
		args = append([]string{"systemd-run", "--scope", "--quiet", "--collect", "--property=Delegate=yes", "--"}, args...)
	}
	g.console.Reset()
	g.nspawn = exec.Command(args[0], args[1:]...)
	g.nspawn.Stdout, g.nspawn.Stderr = &g.console, &g.console
	g.nspawn.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	g.nspawn.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := g.nspawn.Start(); err != nil {
		return err
	}
	g.exited = make(chan struct{})
	go func() {
		g.nspawn.Wait() //nolint:errcheck // ProcessState tells
		close(g.exited)
	}()
	if err := g.await(ctx); err != nil {
		g.Kill()
		return fmt.Errorf("guest does not boot: %w\n%s", err, tail(g.console.String()))
	}
	return nil
}

// await finds the guest's init, and asks its systemd until it says that it is up.
func (g *Guest) await(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if g.leader = leader(g.nspawn.Process.Pid); g.leader != 0 {
			out, err := g.Run(ctx, "systemctl is-system-running --wait 2>/dev/null || true")
			if s := strings.TrimSpace(out); err == nil && (s == "running" || s == "degraded") {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-g.exited:
			return fmt.Errorf("systemd-nspawn: %s", g.nspawn.ProcessState)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// leader is the guest's init, a grandchild of unshare(1) and init of the innermost of
// three pid namespaces; 0 if there is none yet.
func leader(unshare int) int {
	for _, nspawn := range children(unshare) {
		for _, pid := range children(nspawn) {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(status)) {
				f := strings.Fields(line)
				if len(f) >= 4 && f[0] == "NSpid:" && f[len(f)-1] == "1" {
					return pid
				}
			}
		}
	}
	return 0
}

func children(pid int) []int {
	list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	if err != nil {
		return nil
	}
	var pids []int
	for f := range strings.FieldsSeq(string(list)) {
		if n, err := strconv.Atoi(f); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

// cgroup is a piece of shell that puts the guest into cgroups of its own: two that
// shared one would each take the other's services for theirs.
func (g *Guest) cgroup() string {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	g.cgroups = nil
	var script strings.Builder
	for line := range strings.Lines(string(own)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		var mounted string
		switch {
		case f[1] == "name=systemd":
			mounted = "/sys/fs/cgroup/systemd"
		case f[0] == "0" && exists("/sys/fs/cgroup/unified"):
			mounted = "/sys/fs/cgroup/unified"
		case f[0] == "0" && !exists("/run/systemd/system"):
			mounted = "/sys/fs/cgroup"
		default:
			continue
		}
		dir := filepath.Join(mounted, f[2], "keyguard-"+filepath.Base(g.dir))
		g.cgroups = append(g.cgroups, dir)
		fmt.Fprintf(&script, "mkdir -p '%s'; echo $$ >'%[1]s/cgroup.procs'; ", dir)
	}
	return script.String()
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// PowerOff shuts the guest down in order.
func (g *Guest) PowerOff(ctx context.Context) error {
	return g.down(ctx, "poweroff", 0)
}

// Reboot shuts the guest down in order and boots it again: a cold boot, with an empty
// /run and everything else as it was.
func (g *Guest) Reboot(ctx context.Context) error {
	if err := g.down(ctx, "reboot", errReboot); err != nil {
		return err
	}
	return g.Boot(ctx)
}

func (g *Guest) down(ctx context.Context, how string, want int) error {
	// The connection may be cut before the answer.
	g.Run(ctx, "systemctl "+how) //nolint:errcheck // judged by what becomes of the guest
	select {
	case <-g.exited:
	case <-ctx.Done():
		return fmt.Errorf("guest does not %s: %w", how, ctx.Err())
	}
	if got := g.nspawn.ProcessState.ExitCode(); got != want {
		return fmt.Errorf("guest ends with status %d after %s\n%s", got, how, tail(g.console.String()))
	}
	return nil
}

// Kill cuts the power: nothing in the guest gets to say a word, and when Kill returns
// nothing of it runs. What its kernel, which is the host's, had not yet written is not
// lost.
func (g *Guest) Kill() {
	if g.exited == nil {
		return
	}
	// Init of a pid namespace is gone only after everybody in it, pid_namespaces(7).
	fd, err := unix.PidfdOpen(g.leader, 0)
	g.nspawn.Process.Kill() //nolint:errcheck // gone already
	<-g.exited
	if err != nil {
		return // gone before
	}
	defer unix.Close(fd) //nolint:errcheck // only waited on
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// Close kills the guest, if it runs, and throws it away.
func (g *Guest) Close() error {
	g.Kill()
	for _, root := range g.cgroups {
		var dirs []string
		filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error { //nolint:errcheck // what is left is empty
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			os.Remove(dir) //nolint:errcheck // one that stays is empty and costs nothing
		}
	}
	err := os.RemoveAll(g.dir)
	return errors.Join(err, g.held.Close(), g.root.Close())
}
