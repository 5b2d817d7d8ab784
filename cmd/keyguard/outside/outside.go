// Package outside waits for a command from outside (law 9). A system call in a file system
// that hangs ends for no signal, and a process with a thread in one cannot even exit. So the
// process that is waited for, by systemd or by a shell, reads no file but on a disk of this
// machine (Local), and writes one alone, on such a disk: a start that has nothing to do notes which key
// it left for the daemon (package start). Where that is not all that is to be done, it starts this
// program once more, the worker, and leaves when that has said that it is done, whatever
// still holds it.
//
// A start has a time, too, which is kept here (Run): its process hands on what the worker
// prints, and leaves when the time is over. Until then the worker reports what is to be
// answered in its place.
package outside

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/crew"
)

// Doubt is the exit status where the time is over before the worker has seen that the
// daemon may start: exit code 11 of keyguard.
const Doubt = 11

// toEnd is how long a worker that is done may take to end: one with a thread in a file
// system that hangs does not.
const toEnd = 250 * time.Millisecond

// marker is the variable of the environment that marks a worker, KEYGUARD_OUTSIDE="FD NANOSECONDS": the
// pipe on which it reports, and when the start began, by CLOCK_MONOTONIC.
const marker = "KEYGUARD_OUTSIDE"

// IsWorker tells whether this process is one.
func IsWorker() bool { return os.Getenv(marker) != "" }

// Run starts the worker of a start with these arguments, waits for it, and returns the exit
// status. An error is that there is none. Only this process is left to end by then.
func Run(args []string) (int, error) {
	var output [2]int
	if err := syscall.Pipe2(output[:], syscall.O_CLOEXEC); err != nil {
		return 0, err
	}
	// It waits more than it works: threads that look for work of others would cost it a sixth more.
	w, err := start(args, output[1], output[1], "GOMAXPROCS=1")
	syscall.Close(output[1]) //nolint:errcheck // nothing was written
	if err != nil {
		syscall.Close(output[0]) //nolint:errcheck // nothing was read
		return 0, err
	}
	w.output, w.deadline = output[0], w.began.Add(config.DefaultBudget) // until the worker has read its configuration
	return w.wait(), nil
}

// Command is Run for any other command: its worker has the terminal, or what stands in its
// place, and as long as it likes, and the signals to end are its to obey.
func Command(args []string) (int, error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM) // where a shell has them ignored, too, as the worker does
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGQUIT} {
		if !signal.Ignored(s) { // by nohup(1), for the worker, too
			signal.Notify(signals, s)
		}
	}
	w, err := start(args, 1, 2)
	if err != nil {
		signal.Stop(signals) // this process does the work itself
		return 0, err
	}
	crew.Go(func() error {
		for s := range signals {
			_ = syscall.Kill(w.pid, s.(syscall.Signal)) // one that has ended needs none
		}
		return nil
	})
	return w.wait(), nil
}

// IsStart tells whether a command line is that of a start, `keyguard [--config FILE]
// prestart`, and which configuration it names, "" for none.
func IsStart(args []string) (config string, is bool) {
	for i := 1; i < len(args); i++ {
		given, named := strings.CutPrefix(args[i], "--config=")
		switch {
		case named:
			config = given
		case args[i] == "--config" && i+1 < len(args):
			i++
			config = args[i]
		case args[i] == "prestart" && !is:
			is = true
		default:
			return "", false // help, or a mistake
		}
	}
	return config, is
}

// worker is the process that does the work, as the one outside has it.
type worker struct {
	pid      int
	output   int       // what it prints, -1 where that is not for this process to hand on
	unsaid   []byte    // of that, what was read and not handed on
	reports  int       // what it reports of how things stand
	deadline time.Time // zero for none
	began    time.Time
	status   int  // if it is still at work then
	refused  bool // the daemon must not start, which holds however it ends
	done     bool // it has said all, and only has to end
	rest     string
}

// start starts a worker that prints to these files, in this environment and what is given besides. It dies with this process, which is one
// that systemd or a person has ended, or whose time is over, if anything ends it.
func start(args []string, stdout, stderr int, besides ...string) (*worker, error) {
	runtime.LockOSThread() // it dies with the thread that started it, prctl(2)
	var reports [2]int
	if err := syscall.Pipe2(reports[:], syscall.O_CLOEXEC); err != nil {
		return nil, err
	}
	const fourth = 3
	now := time.Now()
	pid, err := syscall.ForkExec("/proc/self/exe", args, &syscall.ProcAttr{
		Env:   with(os.Environ(), append(besides, fmt.Sprintf("%s=%d %d", marker, fourth, monotonic()))...),
		Files: []uintptr{0, uintptr(stdout), uintptr(stderr), uintptr(reports[1])},
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	syscall.Close(reports[1]) //nolint:errcheck // nothing was written
	if err != nil {
		syscall.Close(reports[0]) //nolint:errcheck // nothing was read
		return nil, err
	}
	return &worker{pid: pid, output: -1, reports: reports[0], began: now, status: Doubt}, nil
}

// with is an environment in which these variables are what they are here: of two with one name a program has the
// first, and one that found no marker would be no worker, and start one.
func with(env []string, variables ...string) []string {
	return append(slices.DeleteFunc(env, func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return slices.ContainsFunc(variables, func(v string) bool { return strings.HasPrefix(v, name+"=") })
	}), variables...)
}

// pollFD is struct pollfd of poll(2).
type pollFD struct {
	fd              int32
	events, revents int16
}

const (
	pollIn, pollOut = 1, 4 // POLLIN, POLLOUT
	stderr          = 2
	page            = 4096 // bytes
)

// poll waits for one of the files, and tells whether that came before the deadline; zero is none.
func poll(fds []pollFD, deadline time.Time) bool {
	for {
		var left *syscall.Timespec // nil waits for ever
		if !deadline.IsZero() {
			left = new(syscall.NsecToTimespec(max(time.Until(deadline), 0).Nanoseconds()))
		}
		n, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), uintptr(len(fds)),
			uintptr(unsafe.Pointer(left)), 0, 0, 0)
		if errno != syscall.EINTR {
			return n != 0
		}
	}
}

// wait hands on what the worker prints, and returns the status to exit with. A pipe whose reader hangs holds
// neither this process nor what the worker reports.
func (w *worker) wait() int {
	for {
		fds := []pollFD{{int32(w.reports), pollIn, 0}, {int32(w.output), pollIn, 0}}
		if len(w.unsaid) > 0 {
			fds[1] = pollFD{stderr, pollOut, 0}
		}
		if !poll(fds, w.deadline) {
			return w.leave()
		}
		if fds[1].revents != 0 && !w.handOn() {
			w.output = -1 // poll(2) passes over it
		}
		if fds[0].revents != 0 && !w.hear() {
			return w.end()
		}
	}
}

// handOn reads what was printed, or passes on what was read, and tells whether there may be more.
func (w *worker) handOn() bool {
	if len(w.unsaid) > 0 {
		// A pipe that poll(2) calls ready takes a page at once, pipe(7).
		n, err := syscall.Write(stderr, w.unsaid[:min(len(w.unsaid), page)])
		if err != nil && err != syscall.EINTR && err != syscall.EAGAIN {
			n = len(w.unsaid) // nobody reads it, which changes nothing
		}
		w.unsaid = w.unsaid[max(n, 0):]
		return true
	}
	buf := make([]byte, page)
	n, err := syscall.Read(w.output, buf)
	w.unsaid = buf[:max(n, 0)]
	return n > 0 || err == syscall.EINTR
}

// hear takes in what the worker reports: words, each a name, a number and a newline. It
// tells whether there may be more.
func (w *worker) hear() bool {
	buf := make([]byte, 256)
	n, err := syscall.Read(w.reports, buf)
	w.rest += string(buf[:max(n, 0)])
	for {
		word, rest, whole := strings.Cut(w.rest, "\n")
		if !whole {
			return n > 0 || err == syscall.EINTR
		}
		w.rest = rest
		name, value, _ := strings.Cut(word, " ")
		number, err := strconv.ParseInt(value, 10, 64)
		switch {
		case err != nil:
		case name == "budget":
			w.deadline = w.began.Add(time.Duration(number))
		case name == "status", name == "refuse":
			w.status, w.refused = int(number), name == "refuse"
		case name == "done":
			w.status, w.done = int(number), true
			w.deadline = time.Now().Add(toEnd)
		}
	}
}

// end is a worker that has ended: its files are closed.
func (w *worker) end() int {
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(w.pid, &status, 0, nil)
		if err != syscall.EINTR {
			break
		}
	}
	w.drain()
	switch {
	case w.refused, w.done: // killed after that, it has decided all the same
		return w.status
	case status.Exited():
		return status.ExitStatus()
	}
	return 1 // killed, or crashed: that decides nothing
}

// drain hands on what was printed and not read yet. Whoever has the output still is not
// waited for, and whoever hears it not for long.
func (w *worker) drain() {
	if w.output >= 0 && syscall.SetNonblock(w.output, true) != nil {
		w.output = -1
	}
	for last := time.Now().Add(toEnd); len(w.unsaid) > 0 || w.output >= 0; {
		if len(w.unsaid) > 0 && !poll([]pollFD{{stderr, pollOut, 0}}, last) || !w.handOn() {
			return
		}
	}
}

// leave is a worker whose time is over.
func (w *worker) leave() int {
	if w.drain(); w.done {
		return w.status
	}
	text := "the daemon is not started, since it could make a key, or use a wrong one"
	if w.status == 0 {
		text = "the daemon starts all the same, on the 32 bytes that the keyfile holds"
	}
	level := ""
	if os.Getenv("JOURNAL_STREAM") != "" {
		level = "<3>" // err; sd-daemon(3)
	}
	text = level + "keyguard: a start did not end within " + w.deadline.Sub(w.began).String() + ", which a file system that hangs may be the cause of; " + text + "\n" +
		level + "hint: see which one (df, dmesg, findmnt) and bring it back, or take it out of the configuration; then: keyguard status\n"
	w.unsaid, w.output = append(w.unsaid, text...), -1
	w.drain()
	return w.status
}

// monotonic reads CLOCK_MONOTONIC, which is one for all processes, in nanoseconds.
func monotonic() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // it cannot fail for this clock
	return t.Nano()
}

// Outside is the process outside, as the worker has it. nil is none, and takes reports all
// the same.
type Outside struct {
	fd    int
	began time.Time
}

// Worker returns the process outside where this is its worker. What this process starts
// does not take part in it.
func Worker() *Outside {
	var fd int
	var began int64
	if _, err := fmt.Sscanf(os.Getenv(marker), "%d %d", &fd, &began); err != nil {
		return nil
	}
	os.Unsetenv(marker) //nolint:errcheck // it fails for no such name
	syscall.CloseOnExec(fd)
	return &Outside{fd, time.Now().Add(min(0, time.Duration(began-monotonic())))}
}

// Began tells when the start began: a busy machine may run the worker much later, and the
// process outside does not wait longer for that.
func (o *Outside) Began() time.Time {
	if o == nil {
		return time.Now()
	}
	return o.began
}

// Budget says how long after its beginning the start is to have ended.
func (o *Outside) Budget(d time.Duration) { o.report("budget", int64(d)) }

// Status says which exit status is right if the time is over now.
func (o *Outside) Status(code int) { o.report("status", int64(code)) }

// Refuse is Status where the daemon must not start however this process ends: killed for
// want of memory, or crashed, too.
func (o *Outside) Refuse(code int) { o.report("refuse", int64(code)) }

// Done says that the worker will end with this exit status, and has printed everything: its
// output is closed, so that whoever reads it from a pipe does not wait for the worker either.
func (o *Outside) Done(code int) {
	if o == nil {
		return
	}
	if null, err := syscall.Open(os.DevNull, syscall.O_WRONLY|syscall.O_CLOEXEC, 0); err == nil {
		for _, fd := range []int{1, 2} {
			_ = unix.Dup3(null, fd, 0) // it fails for no open file
		}
	}
	o.report("done", int64(code))
}

func (o *Outside) report(name string, number int64) {
	if o != nil {
		// One that has gone needs to hear nothing.
		_, _ = syscall.Write(o.fd, []byte(name+" "+strconv.FormatInt(number, 10)+"\n"))
	}
}
