package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/secretmanager"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/vault"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

// build builds the real programs, as the package does.
func build(tb testing.TB, dir string) (keyguard, linked string) {
	tb.Helper()
	keyguard, linked = filepath.Join(dir, "keyguard"), filepath.Join(dir, "linked")
	for out, pkg := range map[string]string{keyguard: ".", linked: "./testdata/linked"} {
		c := exec.Command("go", "build", "-tags", "grpcnotrace", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := c.CombinedOutput(); err != nil {
			tb.Fatalf("%v: %s", err, text)
		}
	}
	return keyguard, linked
}

// healthy is a host whose key is known and freshly proven, after a year of hourly proofs.
func healthy(tb testing.TB) (config string) {
	tb.Helper()
	dir := tb.TempDir()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	config = filepath.Join(dir, "keyguard.toml")
	must(os.Mkdir(filepath.Join(dir, "run"), 0o700))
	must(os.WriteFile(filepath.Join(dir, "secrets.key"), testKey("a").UnsafeBytes(), 0o400))
	must(os.WriteFile(config, []byte(strings.ReplaceAll(`keyfile = "DIR/secrets.key"
state_dir = "DIR/state"
run_dir = "DIR/run"
[[escrow]]
name = "gcp"
kind = "gcp-secret-manager"
project = "my-project"
secret = "containarium-host-secrets-master"
[[escrow]]
name = "usb"
kind = "directory"
path = "DIR/usb"
`, "DIR", dir)), 0o600))
	var year []ledger.Entry
	for t := time.Now().Add(-365 * 24 * time.Hour); t.Before(time.Now()); t = t.Add(time.Hour) {
		year = append(year, ledger.Entry{Event: ledger.Proven, Fingerprint: testKey("a").Fingerprint(), Time: t,
			Verdict: "opens", Checked: 1000, Opened: 1000})
	}
	must(ledger.Open(filepath.Join(dir, "state"), ledger.Options{Host: "bench"}).Append(year...))
	return config
}

// costs are what the runs of a program cost.
type costs struct{ processor, clock []time.Duration }

// run runs a program once more, with the children that it waits for.
func (c *costs) run(b *testing.B, name string, args ...string) {
	b.Helper()
	start := time.Now()
	p := exec.Command(name, args...)
	if text, err := p.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, text)
	}
	c.clock = append(c.clock, time.Since(start))
	c.processor = append(c.processor, p.ProcessState.UserTime()+p.ProcessState.SystemTime())
}

// median is that of several durations, in milliseconds.
func median(list []time.Duration) float64 {
	list = slices.Sorted(slices.Values(list))
	return float64(list[len(list)/2].Microseconds()) / 1000
}

// BenchmarkPrestart is a whole healthy start, as systemd runs it, in turns with a program
// that links the same packages and exits. "x-linked" is of their processor time, which a
// busy machine changes least.
func BenchmarkPrestart(b *testing.B) {
	keyguard, linked := build(b, b.TempDir())
	config := healthy(b)
	var base, took costs
	for b.Loop() {
		base.run(b, linked)
		took.run(b, keyguard, "prestart", "--config", config)
	}
	b.ReportMetric(median(took.processor)/median(base.processor), "x-linked")
	b.ReportMetric(median(took.clock), "ms")
	b.ReportMetric(0, "ns/op")
}

// TestHealthyPrestartOpensNoSocket watches the system calls of a whole healthy start (law 7).
func TestHealthyPrestartOpensNoSocket(t *testing.T) {
	config := healthy(t)
	trace := filepath.Join(t.TempDir(), "trace")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The test binary plays keyguard when it is called by that name (testscript.Main).
	program := filepath.Join(t.TempDir(), "keyguard")
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	straced := func(args ...string) string {
		t.Helper()
		c := exec.Command("strace", append([]string{"-f", "-o", trace, "-e", "trace=%network,execve", program}, args...)...)
		if text, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		calls, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		return string(calls)
	}
	straced("prestart", "--config", config) // the first of this boot records where the database is
	calls := straced("prestart", "--config", config)
	if !strings.Contains(calls, "execve") {
		t.Fatalf("strace saw nothing: %s", calls)
	}
	if strings.Contains(calls, "socket(") || strings.Contains(calls, "connect(") || strings.Count(calls, "execve(") != 1 {
		t.Errorf("a healthy start is not local (law 7):\n%s", calls)
	}
}

// TestHealthyStartInitialisesNoStore: a healthy start ends while the program is being initialised,
// before the clients of the stores are (package start). Any other command has them.
func TestHealthyStartInitialisesNoStore(t *testing.T) {
	config := healthy(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "keyguard") // as testscript.Main has it
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	initialised := func(args ...string) string {
		t.Helper()
		c := exec.Command(program, args...)
		c.Env = append(os.Environ(), "GODEBUG=inittrace=1") // package runtime: a line of each package that has something to do
		text, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return string(text)
	}
	initialised("prestart", "--config", config) // the first of this boot records where the database is
	start, other := initialised("prestart", "--config", config), initialised("version")
	for _, client := range []string{"github.com/hashicorp/vault/api", "google.golang.org/grpc", "cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"} {
		line := "init " + client + " @"
		if strings.Contains(start, line) || !strings.Contains(other, line) {
			t.Errorf("%s: a healthy start initialises it %t, and any other command %t", client, strings.Contains(start, line), strings.Contains(other, line))
		}
	}
}

// BenchmarkRestore is a whole start that finds no keyfile, asks the rows and the escrow,
// and puts the key back, in turns with a program that links the same packages and exits.
// pass is the real one, whose gpg takes most of its time. A split of three asks them at
// once: at most 1.3 times the slowest of them alone. "gcloud" is what an operator waits
// for before the runbook's command has asked anybody: gcloud that says its version.
func BenchmarkRestore(b *testing.B) {
	keyguard, linked := build(b, b.TempDir())
	if gcloud, err := exec.LookPath("gcloud"); err == nil {
		b.Run("gcloud", func(b *testing.B) {
			var base, took costs
			for b.Loop() {
				base.run(b, linked)
				took.run(b, gcloud, "version")
			}
			b.ReportMetric(median(took.processor)/median(base.processor), "x-linked")
			b.ReportMetric(median(took.clock), "ms")
			b.ReportMetric(0, "ns/op")
		})
	}
	db := rowstest.New(b).Database(b)
	for i := range 1000 {
		if err := db.Upsert(testKey("a"), fmt.Sprint("tenant", i%10), fmt.Sprint("SECRET_", i), make([]byte, 256)); err != nil {
			b.Fatal(err)
		}
	}
	gcp, err := secretmanager.Start(secretmanager.Options{Anonymous: true, Unlimited: true})
	if err != nil {
		b.Fatal(err)
	}
	defer gcp.Close()
	safe, err := vault.Start(vault.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer safe.Close()
	token := filepath.Join(b.TempDir(), "token")
	if err := os.WriteFile(token, []byte(safe.Token(vault.TokenOptions{Policies: []string{vault.Root}})), 0o600); err != nil {
		b.Fatal(err)
	}
	safe.Mount("secret", 2)
	pass := passwordStore(b)
	table := map[string]string{
		"vault":     fmt.Sprintf("kind = \"vault-kv\"\naddress = %q\nmount = \"secret\"\npath = \"bench\"\ntoken_file = %q\n", safe.URL(), token),
		"gcp":       fmt.Sprintf("kind = \"gcp-secret-manager\"\nproject = \"my-project\"\nsecret = \"bench\"\nendpoint = %q\nplaintext = true\n", gcp.Addr()),
		"pass":      fmt.Sprintf("kind = \"command\"\npreset = \"pass\"\npath = \"hosts/bench\"\nenvironment_file = %q\n", pass),
		"directory": "kind = \"directory\"\npath = \"DIR/usb\"\nallow_same_disk = true\n",
		"split":     "kind = \"split\"\nneed = 2\nmembers = [\"vault\", \"gcp\", \"directory\"]\n",
	}
	members := []string{"vault", "gcp", "directory"}
	for i, m := range members {
		own := strings.NewReplacer(`"bench"`, `"bench-part"`, "DIR/usb", "DIR/part").Replace(table[m])
		table["split"] += fmt.Sprintf("[[escrow]]\nname = %q\npart = %d\n%s", m, i+1, own)
	}
	slowest := 0.0 // of the members, in milliseconds
	for _, kind := range append(members, "pass", "split") {
		b.Run(kind, func(b *testing.B) {
			escrow := table[kind]
			dir := b.TempDir()
			config, keyfile := filepath.Join(dir, "keyguard.toml"), filepath.Join(dir, "secrets.key")
			must := func(err error) {
				b.Helper()
				if err != nil {
					b.Fatal(err)
				}
			}
			call := func(args ...string) {
				b.Helper()
				if text, err := exec.Command(keyguard, append(args, "--config", config)...).CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, text)
				}
			}
			text := "keyfile = \"DIR/secrets.key\"\nstate_dir = \"DIR/state\"\nrun_dir = \"DIR/run\"\ndaemon.unit = \"\"\n" +
				"database.url_file = \"DIR/url\"\n[[escrow]]\nname = \"bench\"\n" + escrow
			must(os.WriteFile(config, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o600))
			must(os.WriteFile(filepath.Join(dir, "url"), []byte(db.URL()), 0o600))
			must(os.WriteFile(keyfile, testKey("a").UnsafeBytes(), 0o400))
			call("init", "--yes")
			var base, took costs
			for b.Loop() {
				must(os.Remove(keyfile))
				base.run(b, linked)
				took.run(b, keyguard, "prestart", "--config", config)
			}
			b.ReportMetric(median(took.processor)/median(base.processor), "x-linked")
			b.ReportMetric(median(took.clock), "ms")
			b.ReportMetric(0, "ns/op")
			if _, err := os.Stat(keyfile); err != nil {
				b.Fatal(err)
			}
			switch {
			case slices.Contains(members, kind):
				slowest = max(slowest, median(took.clock))
			case kind == "split" && slowest > 0:
				b.ReportMetric(median(took.clock)/slowest, "x-slowest")
			}
		})
	}
}

// passwordStore makes a store of pass with a GnuPG key of its own, and returns the
// environment file that names them.
func passwordStore(b *testing.B) string {
	dir, err := os.MkdirTemp("", "pass") // a socket's path must be short
	if err != nil {
		b.Fatal(err)
	}
	environ := []string{"GNUPGHOME=" + filepath.Join(dir, "gnupg"), "PASSWORD_STORE_DIR=" + filepath.Join(dir, "store")}
	run := func(name string, args ...string) {
		c := exec.Command(name, args...)
		c.Env = append(os.Environ(), environ...)
		if text, err := c.CombinedOutput(); err != nil {
			b.Errorf("%s: %v: %s", name, err, text)
		}
	}
	b.Cleanup(func() {
		run("gpgconf", "--kill", "all")
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	if err := os.Mkdir(filepath.Join(dir, "gnupg"), 0o700); err != nil {
		b.Fatal(err)
	}
	run("gpg", "--batch", "--quiet", "--passphrase=", "--quick-generate-key", "bench@example.com")
	run("pass", "init", "bench@example.com")
	file := filepath.Join(dir, "pass.env")
	if err := os.WriteFile(file, []byte(strings.Join(environ, "\n")+"\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	return file
}
