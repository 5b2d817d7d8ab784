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
)

// victim is a sandbox in which the real program is killed.
type victim struct {
	*testing.T
	*sandbox
	name string
}

func newVictim(t *testing.T, shared *server, name string) victim {
	v := victim{t, &sandbox{dir: t.TempDir(), shared: shared}, name}
	t.Cleanup(v.close)
	v.must(v.furnish())
	// The machine may be busy with other tests.
	config, err := os.ReadFile(v.path("keyguard.toml"))
	v.must(err)
	patient := strings.Replace(string(config), `prestart.budget = "5s"`, "prestart.budget = \"20s\"\ndatabase.connect_timeout = \"20s\"", 1)
	v.must(os.WriteFile(v.path("keyguard.toml"), []byte(patient), 0o600))
	v.must(os.WriteFile(v.path("etc/secrets.key"), testKey("a").UnsafeBytes(), 0o400))
	for i := range 20 {
		v.must(v.db.Upsert(testKey("a"), "tenant", fmt.Sprint("SECRET_", i), []byte("v")))
	}
	v.must(v.db.UpsertEnvelope(testKey("a"), "tenant", "WRAPPED", []byte("v")))
	v.run("init", "--yes")
	return v
}

func (v victim) must(err error) {
	v.Helper()
	if err != nil {
		v.Fatalf("%s: %v", v.name, err)
	}
}

func (v victim) command(args ...string) *exec.Cmd {
	c := exec.Command("keyguard", args...) // TestMain's
	c.Env = append(os.Environ(), "KEYGUARD_CONFIG="+v.path("keyguard.toml"))
	return c
}

func (v victim) run(args ...string) {
	v.Helper()
	if out, err := v.command(args...).CombinedOutput(); err != nil {
		v.Fatalf("%s: keyguard %s: %v\n%s", v.name, strings.Join(args, " "), err, out)
	}
}

// check is the invariant: the keyfile's key opens every row, and is on the escrow.
func (v victim) check() []byte {
	v.Helper()
	content, err := os.ReadFile(v.path("etc/secrets.key"))
	v.must(err)
	k, err := key.New(content)
	v.must(err)
	secrets, err := v.db.Secrets(k)
	v.must(err)
	for name, s := range secrets {
		if s.Key == "" || s.Value != "v" {
			v.Fatalf("%s: key %s, which is in place, makes %q of %q", v.name, k.Fingerprint(), s.Value, name)
		}
	}
	copies, err := filepath.Glob(v.path("usb/*/*" + string(k.Fingerprint()) + "*"))
	v.must(err)
	if len(secrets) != 21 || len(copies) == 0 {
		v.Fatalf("%s: %d rows; key %s has the copies %v", v.name, len(secrets), k.Fingerprint(), copies)
	}
	return content
}

// recovers is what must be possible after the kill.
func (v victim) recovers() {
	v.Helper()
	for deadline := time.Now().Add(longest); ; { // until the server knows that it was killed
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
	v.must(os.WriteFile(v.path("url"), []byte(v.db.URL()), 0o600))
	v.run("prestart")
	before := v.check()
	v.run("backup") // or the watcher's savers
	v.run("rotate", "--yes")
	if bytes.Equal(v.check(), before) {
		v.Fatalf("%s: the second rotation changed nothing", v.name)
	}
}

// TestRotateKilled kills the real program in a rotation at each of its statements, before
// the server has it or when it is answered.
func TestRotateKilled(t *testing.T) {
	every := 27
	if n, err := strconv.Atoi(os.Getenv("KEYGUARD_CRASHES")); err == nil {
		every = n
	}
	shared := &server{}
	t.Cleanup(shared.stop)
	statements, _ := killAtStatement(newVictim(t, shared, "not killed"), 0, false)
	if statements < 20 {
		t.Fatalf("only %d statements", statements)
	}
	for i := 0; i < 2*statements; i += every {
		n, answered := i/2+1, i%2 == 1
		t.Run(fmt.Sprintf("statement %d, answered %v", n, answered), func(t *testing.T) {
			t.Parallel()
			v := newVictim(t, shared, t.Name())
			if _, kills := killAtStatement(v, n, answered); kills == 0 {
				t.Fatal("it was not killed")
			}
			v.recovers()
		})
	}
	t.Logf("killed %d times at %d statements", (2*statements+every-1)/every, statements)
}

// TestRotateOutlivesSignals: a lost terminal never ends a rotation, and SIGTERM does not
// once the daemon is down.
func TestRotateOutlivesSignals(t *testing.T) {
	shared := &server{}
	t.Cleanup(shared.stop)
	v := newVictim(t, shared, t.Name())
	c, out, wire := v.rotation()
	var mu sync.Mutex // a statement is no word to the race detector that the process was started
	sent := false
	wire.Restart(func(_ int, statement string, _ bool) bool {
		mu.Lock()
		defer mu.Unlock()
		if !sent && strings.HasPrefix(statement, "lock table") {
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

// rotation is the program, about to talk to the database over a wire.
func (v victim) rotation() (*exec.Cmd, *bytes.Buffer, *rowstest.Wire) {
	v.Helper()
	wire := v.db.Cluster.Wire(v.T)
	v.must(os.WriteFile(v.path("url"), []byte(wire.URL(v.db.Name)), 0o600))
	c := v.command("rotate", "--yes")
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

// killAtStatement runs a rotation and kills it at its n-th statement.
func killAtStatement(v victim, n int, afterwards bool) (statements, kills int) {
	c, out, wire := v.rotation()
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
