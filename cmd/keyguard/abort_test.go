package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/key/keytest"
)

// TestAborted ends operations by SIGABRT while they have keys in memory, with all that the
// runtime prints at a crash or a panic (GOTRACEBACK=crash: the stacks of all goroutines, and
// registers) and without a limit on core dumps. No key is in either, and the next attempt
// goes well and leaves none behind (law 8).
func TestAborted(t *testing.T) {
	shared := &server{}
	t.Cleanup(shared.stop)
	if !dumped(limitless(t.TempDir(), nil, "sh", "-c", "kill -ABRT $$").Run()) {
		t.Log("nobody leaves a core dump here (core(5)), so that none is left shows little")
	}
	for _, tt := range []struct {
		command string
		at      string // what the statement begins with
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
	} {
		t.Run(strings.TrimSpace(tt.command+" "+tt.at), func(t *testing.T) {
			t.Parallel()
			name, _, _ := strings.Cut(tt.command, " ")
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
				return c, out
			}
			wire := v.db.Cluster.Wire(t)
			v.must(os.WriteFile(v.path("url"), []byte(wire.URL(v.db.Name)), 0o600))
			c, out := command()
			// A crash that tells of every thread stops none of them at once: whoever goes on is
			// told nothing.
			var started, aborted, ended sync.Mutex
			started.Lock()
			ended.Lock()
			wire.Restart(func(number int, statement string, answered bool) bool {
				if answered || number == 1 || !strings.HasPrefix(statement, tt.at) || !aborted.TryLock() {
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
			if aborted.TryLock() || !bytes.Contains(out.Bytes(), []byte("SIGABRT: abort")) {
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
			if err := next.Run(); err != nil && name != "doctor" { // which finds fault with the sandbox
				t.Errorf("the next attempt: %v\n%s", err, said)
			}
			keytest.NoLeak(t, "what the next attempt prints", said.Bytes(), v.keys()...)
		})
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
