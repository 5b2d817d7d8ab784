package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Failed is a script in a guest that did not end with 0.
type Failed struct {
	Script         string
	Status         int // -1: killed
	Stdout, Stderr string
}

func (f *Failed) Error() string {
	return fmt.Sprintf("%s: status %d\n%s%s", f.Script, f.Status, tail(f.Stdout), tail(f.Stderr))
}

// Run has sh(1) in the guest run a script, as root, with -e, and returns what it
// printed. A status other than 0 is a *Failed.
func (g *Guest) Run(ctx context.Context, script string) (string, error) {
	return g.run(ctx, script, nil)
}

func (g *Guest) run(ctx context.Context, script string, in io.Reader) (string, error) {
	cmd, err := g.enter(ctx, "/bin/sh", "-ec", script)
	if err != nil {
		return "", err
	}
	cmd.Stdin = in
	return finish(script, cmd)
}

// finish runs a command whose whole process group goes when its context ends.
func finish(script string, cmd *exec.Cmd) (string, error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = &Failed{script, exit.ExitCode(), out.String(), errs.String()}
	}
	return out.String(), err
}

// enter is a command in the guest's namespaces. nsenter(1) alone would keep the host's
// capabilities, so a guest could do what no container can: its init's set bounds it.
func (g *Guest) enter(ctx context.Context, args ...string) (*exec.Cmd, error) {
	bounding, err := boundingSet(g.leader)
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, "nsenter", append([]string{
		"--target", strconv.Itoa(g.leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd",
		"--", "setpriv", "--bounding-set", bounding,
		"--", "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "LC_ALL=C.UTF-8", "TERM=" + os.Getenv("TERM"), "DEBIAN_FRONTEND=noninteractive",
	}, args...)...), nil
}

// Command is what to type on the host to run a program in the running guest.
func (g *Guest) Command(args ...string) ([]string, error) {
	cmd, err := g.enter(context.Background(), args...)
	if err != nil {
		return nil, err
	}
	return cmd.Args, nil
}

// boundingSet is the capability bounding set of a process, as setpriv(1) takes it.
func boundingSet(pid int) (string, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", fmt.Errorf("guest is not running: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		mask, ok := strings.CutPrefix(line, "CapBnd:")
		if !ok {
			continue
		}
		bits, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
		if err != nil {
			return "", err
		}
		set := "-all"
		for n := range 64 {
			if bits&(1<<n) != 0 {
				set += ",+cap_" + strconv.Itoa(n)
			}
		}
		return set, nil
	}
	return "", fmt.Errorf("process %d has no capability bounding set", pid)
}

// Off runs a script in the root directory of a guest that is not booted: a chroot with
// /proc and no systemd, as an image build has.
func (g *Guest) Off(ctx context.Context, script string) (string, error) {
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--", "sh", "-ec",
		mount+`mount -t proc proc "$2/root/proc"; exec chroot "$2/root" /bin/sh -ec "$3"`, "off", g.lower, g.dir, script)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}
	return finish(script, cmd)
}

// Outside runs a script of the host's programs on a guest that is not booted: $root is
// its root directory, with /proc, and $1 and so on are the arguments.
func (g *Guest) Outside(ctx context.Context, script string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--", "sh", "-ec",
		mount + `mount -t proc proc "$2/root/proc"; script=$3 root=$2/root; export root; shift 3; exec sh -ec "$script" outside "$@"`, "outside", g.lower, g.dir, script}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"}
	return finish(script, cmd)
}

// CopyOff puts a file of the host into a guest that is not booted, below a directory that
// nobody but root needs: those on the way are closed to others, like /root and /srv.
func (g *Guest) CopyOff(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	path := filepath.Join(g.dir, "upper", to)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}

// Write makes a file in the running guest, with that mode, and its directory if need be.
func (g *Guest) Write(ctx context.Context, path, content string, mode os.FileMode) error {
	_, err := g.run(ctx, fmt.Sprintf("install -D -m %o /dev/stdin '%s'", mode, path), strings.NewReader(content))
	return err
}

// Copy puts a file of the host into the running guest.
func (g *Guest) Copy(ctx context.Context, from, to string, mode os.FileMode) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	_, err = g.run(ctx, fmt.Sprintf("install -D -m %o /dev/stdin '%s'", mode, to), f)
	return err
}

// Install has apt install a .deb of the host, and returns what it said.
func (g *Guest) Install(ctx context.Context, deb string) (string, error) {
	if err := g.Copy(ctx, deb, "/root/package.deb", 0o644); err != nil {
		return "", err
	}
	return g.Run(ctx, "apt-get install -y --allow-downgrades -o Dpkg::Use-Pty=0 /root/package.deb 2>&1")
}

// Show returns properties of a unit, as systemctl show prints them.
func (g *Guest) Show(ctx context.Context, unit string, properties ...string) (map[string]string, error) {
	out, err := g.Run(ctx, "systemctl show -p "+strings.Join(properties, ",")+" "+unit)
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for line := range strings.Lines(out) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[k] = v
	}
	return values, nil
}

// Journal returns the lines of a unit in this boot, without times and names.
func (g *Guest) Journal(ctx context.Context, unit string) (string, error) {
	return g.Run(ctx, "journalctl --sync; journalctl -b -q --no-pager -o cat -u "+unit)
}

// Wait repeats a script until it succeeds.
func (g *Guest) Wait(ctx context.Context, script string) error {
	_, err := g.Run(ctx, "until ( "+script+" ) >/tmp/wait 2>&1; do sleep 0.1; done")
	if ctx.Err() != nil {
		said, _ := g.Run(context.WithoutCancel(ctx), "cat /tmp/wait")
		return fmt.Errorf("waiting in vain for: %s\n%s: %w", script, tail(said), ctx.Err())
	}
	return err
}

// Shell gives a person a shell in the guest.
func (g *Guest) Shell(ctx context.Context) error {
	cmd, err := g.enter(ctx, "/bin/bash", "-l")
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}
