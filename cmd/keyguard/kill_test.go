package main

import (
	"bytes"
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

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

// victim is a sandbox in which the real program is killed while it rotates or repairs.
type victim struct {
	*testing.T
	*sandbox
	name    string
	command string
	rows    int
	others  []key.Key // that rows are under besides a's, to begin with
}

func newVictim(t *testing.T, shared *server, command, name string) victim {
	v := victim{T: t, sandbox: &sandbox{dir: t.TempDir(), shared: shared}, name: name, command: command}
	t.Cleanup(v.close)
	v.must(v.furnish())
	v.must(os.WriteFile(v.path("etc/secrets.key"), testKey("a").UnsafeBytes(), 0o400))
	v.fill("a", 20)
	v.must(v.db.UpsertEnvelope(testKey("a"), "tenant", "WRAPPED", []byte("v")))
	v.rows++
	v.run("init", "--yes")
	if command == "repair" {
		// A copy brought c, and the daemon minted b.
		v.others = []key.Key{testKey("b"), testKey("c")}
		v.fill("c", 1)
		bring := v.keyguard("import", "--escrow-only")
		bring.Stdin = bytes.NewReader(testKey("c").UnsafeBytes())
		if out, err := bring.CombinedOutput(); err != nil {
			v.Fatalf("%s: %v\n%s", v.name, err, out)
		}
		v.fill("b", 3)
		v.must(os.Remove(v.path("etc/secrets.key")))
		v.must(os.WriteFile(v.path("etc/secrets.key"), testKey("b").UnsafeBytes(), 0o400))
	}
	return v
}

// fill adds rows under a key. They all say "v".
func (v *victim) fill(name string, n int) {
	v.Helper()
	v.must(v.db.Fill(testKey(name), v.rows, n, 1, 1))
	v.rows += n
}

func (v victim) must(err error) {
	v.Helper()
	if err != nil {
		v.Fatalf("%s: %v", v.name, err)
	}
}

func (v victim) keyguard(args ...string) *exec.Cmd {
	c := exec.Command("keyguard", args...) // TestMain's
	c.Env = append(os.Environ(), "KEYGUARD_CONFIG="+v.path("keyguard.toml"))
	return c
}

func (v victim) run(args ...string) {
	v.Helper()
	if out, err := v.keyguard(args...).CombinedOutput(); err != nil {
		v.Fatalf("%s: keyguard %s: %v\n%s", v.name, strings.Join(args, " "), err, out)
	}
}

// check is the invariant: the keyfile's key opens every row and is on the escrow; or the
// others open what it does not. Where they open none any more they are on the escrow too.
func (v victim) check(others ...key.Key) []byte {
	v.Helper()
	content, err := os.ReadFile(v.path("etc/secrets.key"))
	v.must(err)
	k, err := key.New(content)
	v.must(err)
	secrets, err := v.db.Secrets(append([]key.Key{k}, others...)...)
	v.must(err)
	if len(secrets) != v.rows {
		v.Fatalf("%s: of %d rows %d are left", v.name, v.rows, len(secrets))
	}
	under := map[key.Fingerprint]int{}
	for name, s := range secrets {
		if under[s.Key]++; s.Key == "" || s.Value != "v" {
			v.Fatalf("%s: key %s, which is in place, makes %q of %q", v.name, k.Fingerprint(), s.Value, name)
		}
	}
	for _, k := range append([]key.Key{k}, v.others...) {
		copies, err := filepath.Glob(v.path("usb/*/*" + string(k.Fingerprint()) + "*"))
		v.must(err)
		if len(copies) == 0 && (bytes.Equal(k.UnsafeBytes(), content) || under[k.Fingerprint()] == 0) {
			v.Fatalf("%s: key %s opens %d rows, and is not on the escrow", v.name, k.Fingerprint(), under[k.Fingerprint()])
		}
	}
	return content
}

// quiet waits until the server knows that who was killed is gone.
func (v victim) quiet() {
	v.Helper()
	for deadline := time.Now().Add(longest); ; {
		there, err := v.db.Activity()
		v.must(err)
		if len(there) == 0 {
			break
		}
		if time.Now().After(deadline) {
			v.Fatalf("%s: sessions do not end: %v", v.name, there)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// recovers is what must be possible after the kill.
func (v victim) recovers() {
	v.Helper()
	v.quiet()
	v.must(os.WriteFile(v.path("url"), []byte(v.db.URL()), 0o600))
	v.run("prestart")
	before := v.check(v.others...)
	v.run("backup") // or the watcher's savers
	v.run(v.command, "--yes")
	if after := v.check(); v.command == "rotate" && bytes.Equal(after, before) {
		v.Fatalf("%s: the second rotation changed nothing", v.name)
	}
}

// TestKilled kills the real program in a rotation or a repair at each of its statements,
// before the server has it or when it is answered.
func TestKilled(t *testing.T) {
	every := 27
	if n, err := strconv.Atoi(os.Getenv("KEYGUARD_CRASHES")); err == nil {
		every = n
	} else if brief.Run() {
		every *= 2
	}
	shared := &server{}
	t.Cleanup(shared.stop)
	for _, command := range []string{"rotate", "repair"} {
		if command == "repair" && every == 1 {
			every = 3 // before one statement and after the next
		}
		statements, _ := killAtStatement(newVictim(t, shared, command, "not killed"), 0, false)
		if statements < 15 {
			t.Fatalf("only %d statements", statements)
		}
		for i := 0; i < 2*statements; i += every {
			n, answered := i/2+1, i%2 == 1
			t.Run(fmt.Sprintf("%s, statement %d, answered %v", command, n, answered), func(t *testing.T) {
				t.Parallel()
				v := newVictim(t, shared, command, t.Name())
				if _, kills := killAtStatement(v, n, answered); kills == 0 {
					t.Fatal("it was not killed")
				}
				v.recovers()
			})
		}
		t.Logf("%s: killed %d times at %d statements", command, (2*statements+every-1)/every, statements)
	}
}

// TestRotateOutlivesSignals: a lost terminal never ends a rotation, and SIGTERM does not
// once the daemon is down.
func TestRotateOutlivesSignals(t *testing.T) {
	shared := &server{}
	t.Cleanup(shared.stop)
	v := newVictim(t, shared, "rotate", t.Name())
	c, out, wire := v.operation()
	var mu sync.Mutex // a statement is no word to the race detector that the process was started
	sent := false
	wire.Restart(func(_ int, statement string, _ bool) bool {
		mu.Lock()
		defer mu.Unlock()
		if !sent && strings.HasPrefix(statement, "select count(*)") {
			sent = true
			for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT} {
				c.Process.Signal(s) //nolint:errcheck // it runs: it has just sent a statement
			}
		}
		return true
	})
	err := runLocked(c, &mu)
	mu.Lock()
	defer mu.Unlock()
	if err != nil || !sent {
		t.Fatalf("%v, signals sent: %v\n%s", err, sent, out)
	}
	v.check()
}

// operation is the program, about to talk to the database over a wire.
func (v victim) operation() (*exec.Cmd, *bytes.Buffer, *rowstest.Wire) {
	v.Helper()
	wire := v.db.Cluster.Wire(v.T)
	v.must(os.WriteFile(v.path("url"), []byte(wire.URL(v.db.Name)), 0o600))
	c := v.keyguard(v.command, "--yes")
	out := &bytes.Buffer{}
	c.Stdout, c.Stderr = out, out
	return c, out, wire
}

// runLocked runs a program, and starts it under the lock of those who signal it.
func runLocked(c *exec.Cmd, mu *sync.Mutex) error {
	mu.Lock()
	err := c.Start()
	mu.Unlock()
	if err != nil {
		return err
	}
	return c.Wait()
}

// killAtStatement runs the operation and kills it at its n-th statement.
func killAtStatement(v victim, n int, afterwards bool) (statements, kills int) {
	c, out, wire := v.operation()
	var mu sync.Mutex
	wire.Restart(func(number int, _ string, answered bool) bool {
		mu.Lock()
		defer mu.Unlock()
		statements = max(statements, number)
		if number != n || answered != afterwards {
			return kills == 0
		}
		kills++
		c.Process.Kill() //nolint:errcheck // it runs: it has just sent a statement
		return false
	})
	err := runLocked(c, &mu)
	mu.Lock()
	defer mu.Unlock()
	if (err == nil) == (kills > 0) {
		v.Fatalf("%s: killed %d times: %v\n%s", v.name, kills, err, out.String())
	}
	return statements, kills
}
