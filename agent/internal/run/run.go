// Package run starts other programs: the one place that may (os/exec). A command
// here never goes through a shell, always has a deadline, gets only the
// environment it was meant to have, has no terminal to ask questions on (a session
// of its own, setsid(2)), and takes its whole process group with it when it ends.
//
// Standard input and standard output may carry a key. Both stay in buffers of
// this package and of the caller, and what of them turns up in a message on
// standard error is blotted out before it gets into an error (law 8). What is not
// wiped is the kernel's pipe buffer and the memory of the program that was run.
package run

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
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
)

const (
	defaultTimeout   = 30 * time.Second
	defaultMaxOutput = 1 << 20 // bytes
	defaultPath      = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

	// keptStderr is how much of the end of standard error is held, tailSize how
	// much of it gets into an error. The first is far the larger one, so that a key
	// cut in half by it never reaches the second.
	keptStderr = 64 << 10
	tailSize   = 512

	// lingering is how long a command that has ended may keep its input open
	// through a program that left its process group (an agent it started).
	lingering = 250 * time.Millisecond
	// dying is how long a killed command has to go before it is abandoned.
	dying = 100 * time.Millisecond
)

var (
	// ErrExit says that the command ran and ended with a status other than 0 or by a
	// signal that nobody here sent.
	ErrExit = errors.New("failed")
	// ErrOutput says that the command wrote more than Spec.MaxOutput and was killed.
	ErrOutput = errors.New("too much output")
	// ErrAbandoned says that the command was killed and did not die (a process
	// inside a system call of a file system that hangs), and was not waited for.
	ErrAbandoned = errors.New("killed and abandoned")
)

// Spec is a command to run. Only Path must be set.
type Spec struct {
	// Path is the program: an absolute path, or a bare name found through PATH. A
	// relative path with a slash is refused: the working directory is nobody's word.
	Path string
	Args []string // without the program's own name; everybody can read them: never a key
	// Stdin is written to the command, which may leave it unread. nil is /dev/null.
	Stdin []byte
	// Env lists what the command finds in its environment: "NAME" hands on our own
	// variable if it is set, "NAME=value" sets one. PATH is always handed on.
	// Everybody who may ptrace can read it: never a key.
	Env []string
	// Secrets are blotted out of errors, as what went through the pipes is.
	Secrets [][]byte
	Dir     string // working directory; "" is /, so that no mount is kept busy

	Timeout   time.Duration // on top of the context's deadline; 0 is 30 s
	MaxOutput int           // bytes of standard output; 0 is 1 MiB
	// Safe: a program that others may change is refused, ErrUnsafe.
	Safe bool
	// Abandon returns 100 ms after the kill even when the command does not die. The
	// goroutine that reaps it stays until it does. Without Abandon, Command waits.
	Abandon bool
}

// Error is a command that did not do what it was asked. It wraps ErrExit,
// ErrOutput, ErrAbandoned, the context's error, or why the program could not be started
// (fs.ErrNotExist, fs.ErrPermission …).
type Error struct {
	Command string // the program's base name
	Status  int    // exit status; -1 if it did not end by itself
	Tail    string // the end of its standard error, at most 512 bytes, on one line
	Err     error
}

func (e *Error) Error() string {
	s := e.Command + ": " + e.Err.Error()
	if e.Status > 0 {
		s += fmt.Sprintf(" with status %d", e.Status)
	}
	if e.Tail != "" {
		s += ": " + e.Tail
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Command runs s and returns its standard output. Every error is an *Error; there
// is no output with an error. When ctx ends or the timeout passes, the command's process
// group is killed. The output is the caller's to wipe.
func Command(ctx context.Context, s Spec) ([]byte, error) {
	path, err := lookPath(s.Path)
	if err == nil && s.Safe {
		_, err = SafeProgram(path) // and is called by its own name, which may say what it does
	}
	if err != nil {
		return nil, s.fail(err)
	}
	if s.Timeout <= 0 {
		s.Timeout = defaultTimeout
	}
	if s.MaxOutput <= 0 {
		s.MaxOutput = defaultMaxOutput
	}
	if s.Dir == "" {
		s.Dir = "/"
	}
	ctx, stop := context.WithTimeout(ctx, s.Timeout)
	defer stop()
	if err := ctx.Err(); err != nil {
		return nil, s.fail(err)
	}
	c, err := start(path, s)
	if err != nil {
		return nil, s.fail(err)
	}
	err, why := c.await(ctx)
	if errors.Is(why, ErrAbandoned) { // whoever copies still owns both buffers
		return nil, s.fail(why)
	}
	if why == nil && c.stdout.full {
		why = ErrOutput // it ended while, or just after, its last byte too many was read
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it did end well; only an agent that it left behind has our input
	}
	if why == nil && err == nil {
		return c.stdout.b, nil
	}
	return nil, c.failure(why, err)
}

func (s Spec) fail(err error) error {
	return &Error{Command: filepath.Base(s.Path), Status: -1, Err: err}
}

// command is one that was started.
type command struct {
	spec    Spec
	cmd     *exec.Cmd
	stdout  *capped
	stderr  *tail
	over    <-chan struct{} // stdout is full
	outlets [2]outlet
	ended   <-chan error // it has, and was reaped, and its output is read
}

func start(path string, s Spec) (*command, error) {
	over := make(chan struct{})
	c := &command{spec: s, cmd: exec.Command(path, s.Args...), over: over,
		stdout: &capped{max: s.MaxOutput, over: over}, stderr: &tail{max: keptStderr}}
	c.outlets = [2]outlet{{into: c.stdout}, {into: c.stderr}}
	if err := errors.Join(c.outlets[0].open(), c.outlets[1].open()); err != nil {
		c.drain()
		return nil, err
	}
	c.cmd.Dir, c.cmd.Env = s.Dir, environ(s.Env)
	c.cmd.Stdout, c.cmd.Stderr = c.outlets[0].w, c.outlets[1].w
	if s.Stdin != nil {
		c.cmd.Stdin = bytes.NewReader(s.Stdin)
	}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	c.cmd.WaitDelay = lingering
	err := c.cmd.Start()
	for _, o := range c.outlets {
		o.w.Close() //nolint:errcheck // the command has it
	}
	if err != nil {
		c.drain()
		if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
			err = pathErr.Err // the name stands in Error.Command
		}
		return nil, fmt.Errorf("cannot start: %w", err)
	}
	c.ended = crew.Go(func() error {
		awaitExit(c.cmd.Process.Pid)
		// Not reaped yet, so the number still names this group and no other. What the
		// command left running in it would hold its output open.
		killGroup(c.cmd.Process.Pid)
		defer c.drain()
		return c.cmd.Wait()
	})
	return c, nil
}

func (c *command) drain() {
	for i := range c.outlets {
		c.outlets[i].drain()
	}
}

// await returns how the command ended, and why we ended it; nil where it did so by itself. Where
// it was abandoned that is ErrAbandoned, too, and it has not ended.
func (c *command) await(ctx context.Context) (err, why error) {
	select {
	case err = <-c.ended:
		return err, nil
	case <-c.over:
		why = ErrOutput
	case <-ctx.Done():
		why = ctx.Err()
	}
	killGroup(c.cmd.Process.Pid)
	if !c.spec.Abandon {
		return <-c.ended, why
	}
	t := time.NewTimer(dying)
	defer t.Stop()
	select {
	case err = <-c.ended:
		return err, why
	case <-t.C:
		return nil, fmt.Errorf("%w: %w", ErrAbandoned, why)
	}
}

// failure is the error for a command that has ended, and not well. It wipes what it wrote.
func (c *command) failure(why, err error) error {
	e := &Error{Command: filepath.Base(c.spec.Path), Status: -1, Err: why}
	e.Tail = c.stderr.line(append(c.spec.Secrets, c.spec.Stdin, c.stdout.b)...)
	clear(c.stdout.b)
	if why != nil {
		return e
	}
	var exit *exec.ExitError
	switch {
	case !errors.As(err, &exit):
		e.Err = err
	case exit.Exited():
		e.Err, e.Status = ErrExit, exit.ExitCode()
	default:
		e.Err = fmt.Errorf("%w: %s", ErrExit, exit) // "signal: killed"
	}
	return e
}

// lookPath finds the program as Spec.Path describes.
func lookPath(path string) (string, error) {
	if strings.Contains(path, "/") && !filepath.IsAbs(path) {
		return "", fmt.Errorf("%w: a relative path", fs.ErrInvalid)
	}
	found, err := exec.LookPath(path)
	if err == nil {
		return found, nil
	}
	if execErr, ok := errors.AsType[*exec.Error](err); ok {
		err = execErr.Err
	}
	if errors.Is(err, exec.ErrNotFound) {
		err = fmt.Errorf("%w in PATH", fs.ErrNotExist)
	}
	return "", err
}

// environ makes the command's environment from Spec.Env.
func environ(list []string) []string {
	env := []string{"PATH=" + defaultPath}
	if p, ok := os.LookupEnv("PATH"); ok {
		env[0] = "PATH=" + p
	}
	for _, e := range list {
		if !strings.Contains(e, "=") {
			v, ok := os.LookupEnv(e)
			if !ok {
				continue
			}
			e += "=" + v
		}
		env = append(env, e)
	}
	return env
}

// awaitExit blocks until the child pid has ended, and leaves it to be reaped,
// waitid(2) with WNOWAIT. Its errors are those of a child that is not there.
func awaitExit(pid int) {
	for {
		if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != unix.EINTR {
			return
		}
	}
}

// killGroup kills whatever is left of the command's process group, kill(2). That
// there is nothing left is no error.
func killGroup(pid int) { _ = unix.Kill(-pid, unix.SIGKILL) }

// outlet is where a command's output comes out: a pipe, and what reads it.
type outlet struct {
	into io.ReaderFrom
	r, w *os.File // w is the command's end
	read <-chan error
}

// open makes the pipe, and reads it.
func (o *outlet) open() (err error) {
	if o.r, o.w, err = os.Pipe(); err != nil {
		return fmt.Errorf("cannot make a pipe: %w", err)
	}
	o.read = crew.Go(func() error { _, err := o.into.ReadFrom(o.r); return err })
	return nil
}

// drain reads what is left of a command that has ended. All that it wrote is in the pipe by
// now, on however busy a machine. Where an agent that it left behind has the pipe too, the
// pipe has no end, and what the agent writes is not waited for.
func (o *outlet) drain() {
	if o.r == nil {
		return
	}
	defer o.r.Close()                   //nolint:errcheck // nothing was written
	defer o.w.Close()                   //nolint:errcheck // closed already, but where nothing was started
	_ = o.r.SetReadDeadline(time.Now()) // a pipe takes it
	if err := <-o.read; !errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	_ = o.r.SetReadDeadline(time.Time{})
	if n, err := unix.IoctlGetInt(int(o.r.Fd()), unix.TIOCINQ); err == nil {
		_, _ = o.into.ReadFrom(io.LimitReader(o.r, int64(n)))
	}
}

// capped holds standard output up to a limit, and no copy of it elsewhere: what a
// growing buffer leaves behind is wiped.
type capped struct {
	b    []byte
	max  int
	full bool
	over chan<- struct{}
}

// ReadFrom reads until the end, or until there is one byte more than the limit.
func (c *capped) ReadFrom(r io.Reader) (int64, error) {
	start := len(c.b)
	for {
		if len(c.b) == cap(c.b) {
			grown := make([]byte, len(c.b), min(2*cap(c.b)+512, c.max+1))
			copy(grown, c.b)
			clear(c.b)
			c.b = grown
		}
		n, err := r.Read(c.b[len(c.b):cap(c.b)])
		c.b = c.b[:len(c.b)+n]
		if len(c.b) > c.max {
			c.full = true
			close(c.over)
			return int64(len(c.b) - start), ErrOutput
		}
		if err == io.EOF {
			return int64(len(c.b) - start), nil
		}
		if err != nil {
			return int64(len(c.b) - start), err
		}
	}
}

// tail holds the last bytes of standard error.
type tail struct {
	b   []byte
	max int
}

// ReadFrom reads until the end.
func (t *tail) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{t}, r)
}

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if n := len(t.b) - t.max; n > 0 {
		kept := append([]byte(nil), t.b[n:]...)
		clear(t.b)
		t.b = kept
	}
	return len(p), nil
}

// line is the end of what was written, fit for an error: on one line, printable,
// at most tailSize bytes, and without anything that passed through the pipes of
// secrets. It wipes the rest.
func (t *tail) line(secrets ...[]byte) string {
	text := string(t.b)
	clear(t.b)
	for _, s := range secrets {
		for _, word := range words(s) {
			text = strings.ReplaceAll(text, word, "[removed]")
		}
	}
	text = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return ' '
		}
		return r
	}, text)), " ")
	if len(text) > tailSize {
		text = strings.ToValidUTF8("…"+text[len(text)-tailSize+len("…"):], "")
	}
	return text
}

// words lists what in a pipe's bytes could be a key: the whole of it, and every
// long run of the letters of base64 and hex. 20 is well below the 43 characters of
// 32 bytes in base64, and above those of most names.
func words(b []byte) []string {
	const long = 20
	var list []string
	if whole := bytes.TrimSpace(b); len(whole) >= long {
		list = append(list, string(whole))
	}
	start := 0
	for i := 0; i <= len(b); i++ {
		if i < len(b) && keyLetter(b[i]) {
			continue
		}
		if i-start >= long {
			list = append(list, string(b[start:i]))
		}
		start = i + 1
	}
	return list
}

func keyLetter(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '+' || c == '/' || c == '-' || c == '_' || c == '='
}
