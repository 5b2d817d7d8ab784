package run

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is also the programs that are run: argument 1 says which.
const marker = "run-test-program"

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == marker {
		program(os.Args[2], os.Args[3:])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func program(name string, args []string) {
	must := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(99)
		}
	}
	switch name {
	case "environ":
		fmt.Print(strings.Join(os.Environ(), "\n"))
	case "unkillable":
		// A child in a session of its own traces us. A traced process that is killed
		// stays unreaped until its tracer has seen it: for the parent that is what a
		// process in an endless system call looks like. From then on any signal stops us, one
		// of our own runtime included, so that the tracer tells the test.
		cmd := exec.Command(os.Args[0], marker, "trace", strconv.Itoa(os.Getpid()), args[0], args[1])
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		cmd.Stderr = os.Stderr
		must(cmd.Run())
	case "trace":
		pid, err := strconv.Atoi(args[0])
		must(err)
		must(unix.PtraceSeize(pid))
		os.Stderr.Close()
		must(os.WriteFile(args[2], []byte(args[0]), 0o600))
		f, err := os.Open(args[1]) // a FIFO: until the test lets us go
		must(err)
		f.Close()
	case "agent":
		// What gpg-agent does: its own session, our pipes.
		cmd := exec.Command("sleep", "1000")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		must(cmd.Start())
		fmt.Print(cmd.Process.Pid)
	default:
		must(fmt.Errorf("no program %q", name))
	}
}

func sh(script string, args ...string) Spec {
	return Spec{Path: "/bin/sh", Args: append([]string{"-c", script, "sh"}, args...)}
}

func TestCommand(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	for _, c := range []struct {
		name   string
		spec   Spec
		out    string
		is     error  // nil: none
		status int    // of the error
		text   string // of the error
	}{
		{name: "output", spec: sh("echo hello"), out: "hello\n"},
		{name: "nothing", spec: sh(":"), out: ""},
		{name: "stdin through", spec: Spec{Path: "cat", Stdin: big}, out: string(big)},
		{name: "stdin unread", spec: Spec{Path: "true", Stdin: big}, out: ""},
		{name: "stdin closed", spec: Spec{Path: "cat"}, out: ""},
		{name: "empty stdin", spec: Spec{Path: "cat", Stdin: []byte{}}, out: ""},
		{name: "binary", spec: Spec{Path: "cat", Stdin: []byte("\x00\xff\n\r\n")}, out: "\x00\xff\n\r\n"},
		{name: "no shell", spec: Spec{Path: "echo", Args: []string{"$HOME;", "`id`", "*"}}, out: "$HOME; `id` *\n"},
		{name: "working directory", spec: sh("pwd"), out: "/\n"},
		{name: "own directory", spec: Spec{Path: "pwd", Dir: "/usr"}, out: "/usr\n"},
		{name: "stderr of a success is dropped", spec: sh("echo warning >&2; echo out"), out: "out\n"},
		{name: "status", spec: sh("echo first >&2; echo 'not  signed in' >&2; exit 3"), is: ErrExit, status: 3,
			text: "sh: failed with status 3: first not signed in"},
		{name: "status without words", spec: sh("exit 255"), is: ErrExit, status: 255, text: "sh: failed with status 255"},
		{name: "output of a failure", spec: sh("echo half; exit 1"), is: ErrExit, status: 1},
		{name: "signal", spec: sh("kill -TERM $$"), is: ErrExit, status: -1, text: "sh: failed: signal: terminated"},
		{name: "exactly the limit", spec: Spec{Path: "cat", Stdin: big[:1000], MaxOutput: 1000}, out: string(big[:1000])},
		{name: "one more", spec: Spec{Path: "cat", Stdin: big[:1001], MaxOutput: 1000}, is: ErrOutput, status: -1,
			text: "cat: too much output"},
		{name: "endless output", spec: Spec{Path: "yes", MaxOutput: 100}, is: ErrOutput, status: -1},
		{name: "default limit", spec: sh("head -c 1048577 /dev/zero"), is: ErrOutput, status: -1},
		{name: "missing", spec: Spec{Path: "/nonexistent/op"}, is: fs.ErrNotExist, status: -1, text: "op: "},
		{name: "missing in PATH", spec: Spec{Path: "no-such-program"}, is: fs.ErrNotExist, status: -1,
			text: "no-such-program: file does not exist in PATH"},
		{name: "not executable", spec: Spec{Path: "/etc/passwd"}, is: fs.ErrPermission, status: -1},
		{name: "a directory", spec: Spec{Path: "/etc"}, is: syscall.EISDIR, status: -1},
		{name: "relative", spec: Spec{Path: "bin/true"}, is: fs.ErrInvalid, status: -1},
		{name: "empty", spec: Spec{}, is: fs.ErrNotExist, status: -1},
		{name: "no such directory", spec: Spec{Path: "true", Dir: "/nonexistent"}, is: fs.ErrNotExist, status: -1},
		{name: "deadline", spec: Spec{Path: "sleep", Args: []string{"1000"}, Timeout: 50 * time.Millisecond},
			is: context.DeadlineExceeded, status: -1, text: "sleep: context deadline exceeded"},
		{name: "deadline, with words", spec: func() Spec {
			s := sh("echo 'Enter password:' >&2; exec sleep 1000")
			s.Timeout = 3 * time.Second // in which it has said that
			return s
		}(), is: context.DeadlineExceeded, status: -1, text: "sh: context deadline exceeded: Enter password:"},
		{name: "deaf to SIGTERM", spec: func() Spec {
			s := sh("trap '' TERM INT HUP; while :; do sleep 1000; done")
			s.Timeout = 100 * time.Millisecond
			return s
		}(), is: context.DeadlineExceeded, status: -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // some wait for their deadline
			out, err := Command(t.Context(), c.spec)
			if string(out) != c.out {
				t.Errorf("output %.100q, want %.100q", out, c.out)
			}
			if c.is == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var e *Error
			if !errors.As(err, &e) || !errors.Is(err, c.is) {
				t.Fatalf("error %v (%T), want %v", err, err, c.is)
			}
			if e.Status != c.status {
				t.Errorf("status %d, want %d", e.Status, c.status)
			}
			if !strings.HasPrefix(err.Error(), c.text) {
				t.Errorf("error %q, want %q", err, c.text)
			}
			if out != nil {
				t.Error("output with an error")
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	mark := filepath.Join(t.TempDir(), "ran")
	_, err := Command(ctx, Spec{Path: "touch", Args: []string{mark}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(mark); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it was run")
	}
}

// The environment is what Spec.Env allows, and PATH.
func TestEnvironment(t *testing.T) {
	t.Setenv("RUN_TEST_OURS", "handed on")
	t.Setenv("RUN_TEST_SECRET", "not for children")
	t.Setenv("PATH", "/usr/bin:/bin")
	out, err := Command(t.Context(), Spec{Path: os.Args[0], Args: []string{marker, "environ"},
		Env: []string{"RUN_TEST_OURS", "RUN_TEST_UNSET", "KEYGUARD_EVENT=saved=yes"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(out), "PATH=/usr/bin:/bin\nRUN_TEST_OURS=handed on\nKEYGUARD_EVENT=saved=yes"; got != want {
		t.Errorf("environment %q, want %q", got, want)
	}
	if got := environ([]string{"PATH=/x"}); got[len(got)-1] != "PATH=/x" { // the last one wins, exec.Cmd.Env
		t.Errorf("environment %q: PATH cannot be set", got)
	}
}

// What the command left running dies with it, so that nothing holds its output
// open and nothing stays.
func TestGroupDies(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, end string }{
		{"after it ended", ""},
		{"when it is killed", "; exec sleep 1000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// The grandchild has the FIFO open for writing: its death is the end of file.
			r, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			s := sh(`exec 3>"$1"; sleep 1000 & echo started`+c.end, fifo)
			if c.end != "" {
				s.Timeout = 300 * time.Millisecond
			}
			started := time.Now()
			out, err := Command(t.Context(), s)
			if c.end == "" && (err != nil || string(out) != "started\n") {
				t.Errorf("output %q, error %v", out, err)
			}
			if c.end != "" && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v", err)
			}
			if took := time.Since(started); took > time.Minute {
				t.Errorf("took %v", took)
			}
			if err := r.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if n, err := r.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the grandchild lives: %v", err)
			}
		})
	}
}

// An agent in a session of its own keeps the pipes: the output counts, and nobody
// waits for the agent.
func TestAgentKeepsPipes(t *testing.T) {
	started := time.Now()
	out, err := Command(t.Context(), Spec{Path: os.Args[0], Args: []string{marker, "agent"}})
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(out))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if took := time.Since(started); took > time.Minute {
		t.Errorf("took %v", took)
	}
}

// starved reads nothing before the command has ended, as on a machine that is busy.
type starved struct {
	capped
	fed bool
}

func (s *starved) ReadFrom(r io.Reader) (int64, error) {
	if !s.fed {
		s.fed = true
		return 0, os.ErrDeadlineExceeded
	}
	return s.capped.ReadFrom(r)
}

// What a command wrote is read to the last byte, however late, and though an agent of its keeps
// the pipe: half a listing would be a place without copies.
func TestReadLate(t *testing.T) {
	s := &starved{capped: capped{max: 100}}
	o := outlet{into: s}
	if err := o.open(); err != nil {
		t.Fatal(err)
	}
	defer o.w.Close()
	if _, err := o.w.WriteString("the whole of it"); err != nil {
		t.Fatal(err)
	}
	o.drain()
	if string(s.b) != "the whole of it" {
		t.Errorf("%q", s.b)
	}
}

// A command that cannot be killed is left behind in time.
func TestAbandon(t *testing.T) {
	dir := t.TempDir()
	fifo, ready := filepath.Join(dir, "fifo"), filepath.Join(dir, "ready")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type result struct {
		out []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := Command(ctx, Spec{Path: os.Args[0], Args: []string{marker, "unkillable", fifo, ready}, Abandon: true})
		done <- result{out, err}
	}()
	var pid int
	for deadline := time.Now().Add(time.Minute); pid == 0; {
		b, _ := os.ReadFile(ready)
		pid, _ = strconv.Atoi(string(b))
		select {
		case r := <-done:
			t.Fatalf("it ended: %v", r.err)
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not start")
		}
	}
	cancel()
	var r result
	select {
	case r = <-done:
	case <-time.After(time.Minute):
		t.Error("it was waited for")
	}
	if err := unix.Kill(pid, 0); err != nil {
		t.Errorf("it was reaped, so this test shows nothing: %v", err)
	}
	w, err := os.OpenFile(fifo, os.O_WRONLY, 0) // the tracer goes, and with it the zombie
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if !errors.Is(r.err, ErrAbandoned) || !errors.Is(r.err, context.Canceled) || r.out != nil {
		t.Errorf("output %q, error %v", r.out, r.err)
	}
	for deadline := time.Now().Add(time.Minute); unix.Kill(pid, 0) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is never reaped")
		}
	}
}

// Law 8: what went through the pipes does not come out in an error.
func TestNoKeyInErrors(t *testing.T) {
	raw := []byte("\x01\x02\x03KEYGUARD-CANARY-KEY-32-BYTES\n")
	if len(raw) != 32 {
		t.Fatal(len(raw))
	}
	b64 := base64.StdEncoding.EncodeToString(raw)
	for _, c := range []struct {
		name string
		spec Spec
	}{
		{"stdin echoed", func() Spec { s := sh("cat >&2; exit 1"); s.Stdin = []byte(b64 + "\n"); return s }()},
		{"stdin echoed raw", func() Spec { s := sh("cat >&2; exit 1"); s.Stdin = raw; return s }()},
		{"a field of stdin", func() Spec {
			s := sh(`echo "bad value: '$1'" >&2; exit 1`, b64)
			s.Stdin = []byte(`{"fields":[{"value":"` + b64 + `"}]}`)
			return s
		}()},
		{"stdout", sh(`echo "$1"; echo "got $1" >&2; exit 1`, b64)},
		{"stdout, deadline", func() Spec {
			s := sh(`echo "$1"; echo "got $1" >&2; exec sleep 1000`, b64)
			s.Timeout = 200 * time.Millisecond
			return s
		}()},
		{"cut at the end of what is kept", func() Spec {
			s := sh(`i=0; while [ $i -lt 3000 ]; do echo "$1"; echo "$1" >&2; i=$((i+1)); done; exit 1`, b64)
			return s
		}()},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Command(t.Context(), c.spec)
			var e *Error
			if !errors.As(err, &e) || e.Tail == "" {
				t.Fatalf("error %v", err)
			}
			for _, part := range []string{"CANARY", b64, b64[:20], b64[len(b64)-20:]} {
				if strings.Contains(err.Error(), part) {
					t.Errorf("error %q shows the key", err)
				}
			}
			if strings.Count(e.Tail, "[removed]") == 0 {
				t.Errorf("tail %q shows nothing of it", e.Tail)
			}
		})
	}
}

func TestTailIsOneShortLine(t *testing.T) {
	s := sh(`printf 'start\033[31m\r\n\t'; i=0; while [ $i -lt 2000 ]; do echo "línea $i"; i=$((i+1)); done; exit 1`)
	s.Args[1] = "{ " + s.Args[1] + "; } >&2"
	_, err := Command(t.Context(), s)
	var e *Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	if len(e.Tail) > tailSize || strings.ContainsAny(e.Tail, "\n\r\t\033") || !strings.HasSuffix(e.Tail, "línea 1999") || !strings.HasPrefix(e.Tail, "…") {
		t.Errorf("tail of %d bytes: %q", len(e.Tail), e.Tail)
	}
}

// No file of ours but the three pipes gets into the command.
func TestNoOpenFiles(t *testing.T) {
	f, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out, err := Command(t.Context(), sh("for f in /proc/$$/fd/*; do readlink $f; done; true"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "passwd") {
		t.Errorf("open files: %s", out)
	}
}

func TestDeadlineIsKept(t *testing.T) {
	started := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := Command(ctx, Spec{Path: "sleep", Args: []string{"1000"}, Timeout: time.Hour})
	if took := time.Since(started); took > time.Minute || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("took %v, error %v", took, err)
	}
}
