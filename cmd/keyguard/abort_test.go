package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/key/keytest"
	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

// TestAborted ends every command by SIGABRT while it has keys in memory, with all that the
// runtime prints at a crash or a panic (GOTRACEBACK=crash: the stacks of all goroutines, and
// registers) and without a limit on core dumps. No key is in either, and the next attempt
// goes well and leaves none behind (law 8).
func TestAborted(t *testing.T) {
	shared := &server{}
	t.Cleanup(shared.stop)
	if !dumped(limitless(t.TempDir(), nil, "sh", "-c", "kill -ABRT $$").Run()) {
		t.Log("nobody leaves a core dump here (core(5)), so that none is left shows little")
	}
	seen := map[string]bool{ // what reads no key, and prints nothing of a host
		"alert": true, "explain": true, "version": true, "help": true, "completion": true,
		"describe": true, // of the commands, for their manual
	}
	for i, tt := range []struct {
		command string
		at      string // what the statement begins with, or answering
	}{
		{"prestart", ""},
		{"watch", ""},
		{"backup", ""},
		{"verify", ""},
		{"restore", ""},
		{"import", ""},
		{"accept --yes", ""},
		{"drill", ""},
		{"drill --full", ""},
		{"init --yes", ""},
		{"status", ""},
		{"doctor", ""},
		{"rotate --dry-run", ""},
		{"repair --dry-run", ""},
		{"rotate --yes", "update"},
		{"rotate --yes", "commit"},
		{"repair --yes", "commit"},
		{"paper", ""},
		{"paper", answering},
		{"paper --split 2 --of 3", answering},
		{"copies", answering},
		{"config", answering},
		{"report", answering},
		{"log", answering},
		{"fleet --inventory -", answering},
		{serveDirectory, answering},
	} {
		name, _, _ := strings.Cut(tt.command, " ")
		seen[name] = true
		if brief.Run() && i%8 != 2 {
			continue
		}
		t.Run(strings.TrimSpace(tt.command+" "+tt.at), func(t *testing.T) {
			t.Parallel()
			v := newVictim(t, shared, name, t.Name())
			if name == "prestart" || name == "restore" { // so that they have to look further
				v.must(os.Remove(v.path("etc/secrets.key")))
			}
			if name == "drill" { // whose scratch is in memory
				v.must(unix.Mount("keyguard-test", v.path("run"), "tmpfs", 0, "size=1m,mode=0700"))
				v.mounts = append(v.mounts, v.path("run"))
			}
			command := func() (*exec.Cmd, *bytes.Buffer) {
				c := limitless(v.dir, []string{"GOTRACEBACK=crash", "KEYGUARD_CONFIG=" + v.path("keyguard.toml")}, "keyguard", strings.Fields(tt.command)...)
				out := &bytes.Buffer{}
				c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(testKey("a").UnsafeBytes()), out, out
				switch name {
				case serveDirectory:
					save := fmt.Sprintf(`{"Op": "save", "Shelf": "current", "Options": {"Path": %q, "Keyfile": %q, "AllowSameDisk": true}}`, v.path("usb"), v.path("etc/secrets.key"))
					c.Stdin = strings.NewReader(save + "\n" + string(testKey("a").UnsafeBytes()))
				case "fleet":
					c.Stdin = strings.NewReader("web1\n")
				case "paper": // which prints the key
					c.Stdout = nil
				}
				return c, out
			}
			c, out := command()
			var err error
			if tt.at == answering {
				err = abortAnswering(v, c)
			} else {
				err = abortAsking(v, c, tt.at)
			}
			if !bytes.Contains(out.Bytes(), []byte("SIGABRT: abort")) {
				t.Fatalf("it was not aborted: %v\n%s", err, out)
			}
			if dumped(err) {
				t.Error("it leaves a core dump")
			}
			if cores, _ := filepath.Glob(v.path("core*")); len(cores) > 0 {
				t.Errorf("it leaves %v", cores)
			}
			keytest.NoLeak(t, "what it prints", out.Bytes(), v.keys()...)

			v.quiet()
			v.must(os.WriteFile(v.path("url"), []byte(v.db.URL()), 0o600))
			if name == "prestart" { // the machine boots, and every escrow is asked at once
				leaks.search(v.name, v.sandbox)
				v.must(os.RemoveAll(v.path("run")))
				v.must(os.Mkdir(v.path("run"), 0o700))
			}
			if name == "watch" { // which does not end by itself
				return
			}
			if name == "rotate" || name == "repair" {
				v.run("prestart")
				v.run("backup")
			}
			next, said := command()
			if err := next.Run(); err != nil && name != "doctor" && name != "fleet" { // which find fault with the sandbox
				t.Errorf("the next attempt: %v\n%s", err, said)
			}
			keytest.NoLeak(t, "what the next attempt prints", said.Bytes(), v.keys()...)
		})
	}
	for _, c := range new(app).commands().Commands() {
		if !seen[c.Name()] {
			t.Errorf("nobody aborts keyguard %s", c.Name())
		}
	}
}

// answering is where a command has made its answer, and nobody takes it.
const answering = "answering"

// abortAsking aborts a command at its first statement that begins with at, and is not the one
// that says hello.
func abortAsking(v victim, c *exec.Cmd, at string) error {
	wire := v.db.Cluster.Wire(v.T)
	v.must(os.WriteFile(v.path("url"), []byte(wire.URL(v.db.Name)), 0o600))
	// A crash that tells of every thread stops none of them at once: whoever goes on is
	// told nothing.
	var started, aborted, ended sync.Mutex
	started.Lock()
	ended.Lock()
	wire.Restart(func(number int, statement string, answered bool) bool {
		if answered || number == 1 || !strings.HasPrefix(statement, at) || !aborted.TryLock() {
			return true
		}
		started.Lock()
		defer started.Unlock()
		abort(c.Process.Pid)
		ended.Lock()
		defer ended.Unlock()
		return false
	})
	err := c.Start()
	started.Unlock()
	v.must(err)
	err = c.Wait()
	ended.Unlock()
	if aborted.TryLock() {
		v.Fatalf("it says nothing at which to abort it: %v\n%s", err, c.Stderr)
	}
	return err
}

// abortAnswering aborts a command while it waits for whoever reads its standard output, a
// pipe that is full.
func abortAnswering(v victim, c *exec.Cmd) error {
	unread, answer, err := os.Pipe()
	v.must(err)
	defer unread.Close()
	defer answer.Close()
	size, err := unix.FcntlInt(answer.Fd(), unix.F_SETPIPE_SZ, 4096)
	v.must(err)
	_, err = answer.Write(make([]byte, size))
	v.must(err)
	c.Stdout = answer
	v.must(c.Start())
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	for {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", c.Process.Pid))
		for _, thread := range threads {
			// The number of the system call, and its first argument (proc(5)).
			if in, _ := os.ReadFile(thread); bytes.HasPrefix(in, fmt.Appendf(nil, "%d 0x1 ", unix.SYS_WRITE)) {
				abort(c.Process.Pid)
				return <-ended
			}
		}
		select {
		case err := <-ended:
			v.Fatalf("it does not wait for its reader: %v\n%s", err, c.Stderr)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// limitless is a command that may leave core dumps of any size in its directory.
func limitless(dir string, env []string, name string, args ...string) *exec.Cmd {
	c := exec.Command("sh", append([]string{"-c", `ulimit -c unlimited; exec "$@"`, "sh", name}, args...)...)
	c.Dir, c.Env = dir, append(os.Environ(), env...)
	return c
}

// dumped tells whether a process that has ended left a core dump.
func dumped(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).CoreDump()
}

// abort sends SIGABRT to a process and to all below it: a start has a worker.
func abort(pid int) {
	children, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(pid) + "/children")
	for child := range strings.FieldsSeq(string(children)) {
		if n, err := strconv.Atoi(child); err == nil {
			abort(n)
		}
	}
	syscall.Kill(pid, syscall.SIGABRT) //nolint:errcheck // it runs: it has just sent a statement
}
