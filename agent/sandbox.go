package agent

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

// used is a path of the configuration that the watcher uses.
type used struct {
	file  ModeWanted // a directory has no Key
	what  string     // for people
	probe string     // a directory in it that is tried in its place
	need  uint32     // as access(2) has it
}

// used lists them. An escrow that does not answer has a check of its own. What begins with
// LABEL= or UUID= is no path, and never found here: it is used wherever people mount it.
func (f facts) used(o DoctorOptions) (list []used) {
	for _, s := range f.escrows {
		if s.Place.Kind == "directory" && s.State == decide.EscrowAnswered {
			list = append(list, used{file: ModeWanted{Path: s.Place.Where}, what: fmt.Sprintf("escrow %q", s.Name), probe: string(escrow.Current), need: unix.W_OK | unix.X_OK})
		}
	}
	for _, dir := range o.Writes {
		list = append(list, used{file: ModeWanted{Path: dir}, what: "where it writes", need: unix.W_OK | unix.X_OK})
	}
	if o.HooksDir != "" {
		list = append(list, used{file: ModeWanted{Path: o.HooksDir}, what: "hooks_dir", need: unix.R_OK | unix.X_OK})
	}
	for _, w := range o.Files {
		if w.Path != "" && w.Key != "" {
			list = append(list, used{file: w, what: fmt.Sprintf("%s of %q", w.Key, w.Table), need: unix.R_OK})
		}
	}
	return list
}

// checkSandbox looks at these paths as the watcher has them. A person's commands and
// prestart run without its sandbox: what init wrote to may be read-only for the watcher,
// hidden, or another user's. The process is looked at and not its unit, so that what
// admins' drop-ins change counts. Where it does not run, the check of the watcher says so.
func (f facts) checkSandbox(o DoctorOptions) []Check {
	if f.units.Watcher.MainPID == 0 {
		return nil
	}
	list, err := unreached(f.used(o), f.units.Watcher.MainPID)
	switch {
	case err != nil:
		return []Check{{Name: "sandbox", State: CheckUnknown, Text: "what the watcher can use is not known: " + err.Error(), Fix: FixUnit}}
	case len(list) == 0:
		return []Check{{Name: "sandbox", State: CheckOK, Text: "the watcher can use every path of the configuration"}}
	}
	return list
}

// unreached returns a problem for each path that we reach and the watcher does not.
func unreached(paths []used, watcher int) (problems []Check, err error) {
	ours, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/: %w", err)
	}
	defer unix.Close(ours)                             //nolint:errcheck // nothing was written
	link := "/proc/" + strconv.Itoa(watcher) + "/root" // proc_pid_root(5): with its mounts
	theirs, err := unix.Open(link, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", link, err)
	}
	defer unix.Close(theirs) //nolint:errcheck // nothing was written
	for _, u := range paths {
		path, c := u.file.Path, Check{Name: "sandbox", State: CheckProblem, File: u.file}
		owner, err := crew.Within(path, func() (uint32, error) { return u.reach(ours, theirs) }, nil)
		switch {
		case err == nil:
			continue
		case absent(err):
			c.Text, c.Fix = fmt.Sprintf("the watcher does not see %s, %s%s", path, u.what, hider(path)), FixMove
		case errors.Is(err, unix.EROFS):
			c.Text, c.Fix = fmt.Sprintf("the watcher sees %s, %s, read-only", path, u.what), FixWriting
		case errors.Is(err, unix.EACCES) && owner != 0:
			c.Text = fmt.Sprintf("the watcher, root without a capability, cannot use %s, %s, which belongs to uid %d", path, u.what, owner)
			c.Fix = FixOwner
		case errors.Is(err, unix.EACCES):
			c.Text = fmt.Sprintf("the watcher, root without a capability, cannot use %s, %s, which lies in a directory of another user's", path, u.what)
			c.Fix = FixMove
		case errors.Is(err, unix.ENOSYS): // no openat2(2) before Linux 5.6, no faccessat2(2) before 5.8, for no path
			return nil, err
		default:
			c.State, c.Text = CheckUnknown, fmt.Sprintf("whether the watcher can use %s, %s, is not known: %v", path, u.what, err)
		}
		problems = append(problems, c)
	}
	return problems, nil
}

// reach tells whether the watcher, who has that root, reaches what we do: nil, too, where we
// do not, of which whoever uses it tells. owner is whom it belongs to.
func (u used) reach(ours, theirs int) (owner uint32, err error) {
	_, err = lookup(ours, u.file.Path)
	tried := u.try(ours)
	if absent(err) || errors.Is(tried, unix.EROFS) || errors.Is(tried, unix.EPERM) {
		return 0, nil
	}
	if err == nil {
		owner, err = lookup(theirs, u.file.Path)
	}
	if err == nil {
		err = powerless(func() error { return u.try(theirs) })
	}
	return owner, err
}

func absent(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

// openIn opens a path below a root as a process with this root does, absolute links
// included (openat2(2)), and of what it finds no more than the name.
func openIn(root int, path string) (int, error) {
	return unix.Openat2(root, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
}

// lookup finds a path, and whom it belongs to.
func lookup(root int, path string) (owner uint32, err error) {
	fd, err := openIn(root, path)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	return st.Uid, err
}

// try asks the kernel for what the watcher needs.
func (u used) try(root int) error {
	fd, err := openIn(root, filepath.Join(u.file.Path, u.probe))
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	// Not Faccessat, which has an answer of its own where the kernel says EPERM.
	return unix.Faccessat2(fd, "", u.need, unix.AT_EACCESS|unix.AT_EMPTY_PATH)
}

// powerless calls f without any capability, as the watcher is. Capabilities are a
// thread's own (capabilities(7)), and this one ends with the goroutine that is locked to it.
func powerless(f func() error) error {
	return <-crew.Go(func() error {
		runtime.LockOSThread()
		var none [2]unix.CapUserData
		err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
		if err == nil {
			err = f()
		}
		return err
	})
}

// hider says what of the watcher's unit hides a path, as far as it can be told by the path.
func hider(path string) string {
	for directive, hides := range map[string][]string{"ProtectHome=": {"/home/", "/root/", "/run/user/"}, "PrivateTmp=": {"/tmp/", "/var/tmp/"}} {
		for _, dir := range hides {
			if strings.HasPrefix(path+"/", dir) {
				return ": " + directive + " of its unit hides it"
			}
		}
	}
	return ""
}
