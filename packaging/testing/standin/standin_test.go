package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

var cluster *rowstest.Cluster

func TestMain(m *testing.M) {
	os.Exit(func() (status int) {
		var err error
		if cluster, err = rowstest.Start(""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		status = m.Run()
		if err := cluster.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return status
	}())
}

// bench is a sandbox with a database, in which daemons start and stop.
type bench struct {
	t   *testing.T
	db  *rowstest.Database
	dir string
	env map[string]string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := cluster.NewDatabase("")
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t, db, dir, map[string]string{
		"STANDIN_KEYFILE":           filepath.Join(dir, "secrets.key"),
		"STANDIN_SOCKET":            filepath.Join(dir, "sock"),
		"STANDIN_INCUS":             "none",
		"CONTAINARIUM_POSTGRES_URL": db.URL(),
	}}
}

func (b *bench) getenv(name string) string { return b.env[name] }
func (b *bench) keyfile() string           { return b.env["STANDIN_KEYFILE"] }

// journal collects what the daemon logs.
type journal struct {
	mu    sync.Mutex
	text  bytes.Buffer
	grown chan struct{}
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	select {
	case j.grown <- struct{}{}:
	default:
	}
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// start runs the daemon until the test ends or stop is called, and returns when it
// logged that line.
func (b *bench) start(line string, args ...string) (logged *journal, stop func()) {
	b.t.Helper()
	logged = &journal{grown: make(chan struct{}, 1)}
	log.SetOutput(logged)
	ctx, cancel := context.WithCancel(b.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, append([]string{"daemon"}, args...), b.getenv, nil, nil) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				b.t.Error(err)
			}
			log.SetOutput(os.Stderr)
		})
	}
	b.t.Cleanup(stop)
	timeout := time.After(time.Minute)
	for !strings.Contains(logged.String(), line) {
		select {
		case <-logged.grown:
		case err := <-ended:
			b.t.Fatalf("the daemon ended: %v\n%s", err, logged)
		case <-timeout:
			b.t.Fatalf("the daemon never logs %q, but\n%s", line, logged)
		}
	}
	return logged, stop
}

// secrets runs a subcommand, and returns what it printed or its error as text.
func (b *bench) secrets(args ...string) string {
	var out bytes.Buffer
	if err := run(b.t.Context(), append([]string{"secrets"}, args...), b.getenv, strings.NewReader("from stdin"), &out); err != nil {
		return "error: " + err.Error()
	}
	return out.String()
}

func (b *bench) want(got, want string) {
	b.t.Helper()
	if got != want {
		b.t.Errorf("got  %q\nwant %q", got, want)
	}
}

const (
	ready  = "Secrets store ready (file-keyed AES-256-GCM, envelope: disabled (CONTAINARIUM_KMS_BACKEND=none))"
	minted = "[secrets] NEW MASTER KEY generated at %s — back this up off-host, losing it means every stored secret is unrecoverable ciphertext"
)

// The daemon mints whatever the table holds, keeps the key in memory, and notices a
// wrong one only when it reads.
func TestMint(t *testing.T) {
	b := newBench(t)
	logged, stop := b.start(ready)
	if want := fmt.Sprintf(minted, b.keyfile()); !strings.Contains(logged.String(), want) {
		t.Errorf("no line %q in\n%s", want, logged)
	}
	fi, err := os.Stat(b.keyfile())
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode() != 0o400 || fi.Size() != keySize {
		t.Errorf("minted %v, %d bytes", fi.Mode(), fi.Size())
	}
	b.want(b.secrets("set", "alice", "A", "one"), "")
	b.want(b.secrets("set", "alice", "A", "two"), "")
	b.want(b.secrets("set", "alice", "B"), "")
	b.want(b.secrets("get", "alice"), "A=two\nB=from stdin\n")
	b.want(b.secrets("set", "alice", "lower", "x"), "error: "+errName.Error())
	b.want(b.secrets("list"), "alice/A\nalice/B\n")
	if err := os.Remove(b.keyfile()); err != nil {
		t.Fatal(err)
	}
	b.want(b.secrets("get", "alice", "A"), "two")
	stop()

	logged, stop = b.start(ready)
	if !strings.Contains(logged.String(), "NEW MASTER KEY") {
		t.Errorf("does not mint over ciphertext:\n%s", logged)
	}
	b.want(b.secrets("set", "alice", "B", "new"), "")
	// One row that does not open blocks the tenant, the other is fine.
	b.want(b.secrets("get", "alice", "B"), "error: decrypt alice/A: secrets: ciphertext authentication failed (tampered or wrong key?)")
	stop()

	versions, err := b.db.Exec("select name, version, kek_id is null, wrapped_dek is null from secrets order by name")
	if err != nil {
		t.Fatal(err)
	}
	b.want(fmt.Sprint(versions), "[[A 2 f t] [B 2 f t]]")
}

// Every file that is refused is refused in the daemon's words, and left alone.
func TestDisabled(t *testing.T) {
	b := newBench(t)
	long := strings.Repeat("k", keySize)
	for _, c := range []struct {
		name, content string
		mode          fs.FileMode
		why           string
	}{
		{"empty", "", 0o400, "secrets: master key must be exactly 32 bytes (file %s has 0 bytes)"},
		{"short", long[1:], 0o400, "secrets: master key must be exactly 32 bytes (file %s has 31 bytes)"},
		{"newline", long + "\n", 0o600, "secrets: master key must be exactly 32 bytes (file %s has 33 bytes)"},
		{"world-readable", long, 0o644, "master key %s has insecure permissions 0644 ("},
		{"group-readable", long, 0o440, "master key %s has insecure permissions 0440 ("},
	} {
		t.Run(c.name, func(t *testing.T) {
			os.Remove(b.keyfile()) //nolint:errcheck // the first has none
			if err := os.WriteFile(b.keyfile(), []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(b.keyfile(), c.mode); err != nil {
				t.Fatal(err)
			}
			logged, stop := b.start("Secrets disabled.")
			if want := "Warning: Failed to load secrets master key: " + fmt.Sprintf(c.why, b.keyfile()); !strings.Contains(logged.String(), want) {
				t.Errorf("no %q in\n%s", want, logged)
			}
			b.want(b.secrets("list"), "error: secrets are disabled")
			stop()
			got, err := os.ReadFile(b.keyfile())
			if err != nil {
				t.Fatal(err)
			}
			b.want(string(got), c.content)
		})
	}
}

// Any 32 bytes load, through a symlink too; a dangling one is minted through.
func TestSymlink(t *testing.T) {
	b := newBench(t)
	target := filepath.Join(b.dir, "elsewhere")
	if err := os.Symlink(target, b.keyfile()); err != nil {
		t.Fatal(err)
	}
	_, stop := b.start(ready)
	b.want(b.secrets("set", "alice", "A", "x"), "")
	stop()
	if fi, err := os.Lstat(target); err != nil || fi.Size() != keySize {
		t.Fatalf("nothing was minted at the end of the link: %v", err)
	}
	logged, _ := b.start(ready)
	if strings.Contains(logged.String(), "NEW MASTER KEY") {
		t.Error("mints a second time")
	}
	b.want(b.secrets("get", "alice", "A"), "x")
}

// Every line that the daemon may log once it has read the key, each with Go's time stamp,
// and what tenants chose is logged as it is.
func TestLines(t *testing.T) {
	b := newBench(t)
	stamp := regexp.MustCompile(`(?m)^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d `)
	for _, c := range []struct {
		name, variable, value, line string
		disabled                    bool
	}{
		{"no cipher", "STANDIN_NO_CIPHER", "1", "Failed to construct secrets cipher", true},
		{"unknown backend", "CONTAINARIUM_KMS_BACKEND", "gpg", "Warning: KMS backend config error: unknown backend \"gpg\". Secrets store falling back to legacy mode.", false},
		{"envelope without a backend", "CONTAINARIUM_REQUIRE_ENVELOPE", "true", "FATAL: CONTAINARIUM_REQUIRE_ENVELOPE=true but no KMS backend is configured. ", true},
		{"no table can be made", "CONTAINARIUM_POSTGRES_URL", b.db.URL() + "&search_path=nowhere", "Warning: Failed to init secrets store: ", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := b.env[c.variable]
			b.env[c.variable] = c.value
			defer func() { b.env[c.variable] = before }()
			logged, stop := b.start(c.line)
			if !c.disabled {
				for !strings.Contains(logged.String(), ready) {
					<-logged.grown
				}
			}
			stop()
			for line := range strings.Lines(logged.String()) {
				if !stamp.MatchString(line) {
					t.Errorf("without a time stamp: %q", line)
				}
			}
			if c.disabled && strings.Contains(logged.String(), "store ready") {
				t.Errorf("it is ready:\n%s", logged)
			}
		})
	}
	b.env["CONTAINARIUM_KMS_BACKEND"], b.env["CONTAINARIUM_REQUIRE_ENVELOPE"] = "inproc", "1"
	_, stop := b.start("Secrets store ready (file-keyed AES-256-GCM, envelope: inproc (master-key envelope, dev/test)) [legacy-rejected]")
	stop()
	b.env["CONTAINARIUM_KMS_BACKEND"], b.env["CONTAINARIUM_REQUIRE_ENVELOPE"] = "", ""

	tenant := fmt.Sprintf(minted, b.keyfile())
	logged, _ := b.start(ready)
	b.want(b.secrets("set", tenant, "A", "x"), "")
	if !strings.Contains(logged.String(), "stored A of tenant "+tenant) {
		t.Errorf("the tenant's name is not logged:\n%s", logged)
	}
}

// It connects as pgxpool does: parameters of the pool stand in the URL, and what is not
// in it comes from the environment.
func TestPool(t *testing.T) {
	b := newBench(t)
	url := strings.Replace(b.db.URL(), ":"+rowstest.Password+"@", "@", 1)
	t.Setenv("PGPASSWORD", rowstest.Password)
	t.Setenv("PGAPPNAME", "from the environment")
	b.env["CONTAINARIUM_POSTGRES_URL"] = url + "&pool_max_conns=3&statement_cache_capacity=8&default_query_exec_mode=exec"
	b.start(ready)
	b.want(b.secrets("set", "alice", "A", "x"), "")
	list, err := b.db.Activity()
	if err != nil || len(list) == 0 || !strings.HasPrefix(list[0], "from the environment ") {
		t.Errorf("sessions: %q, %v", list, err)
	}
	// One that the server ends fails whoever comes next, and is made anew.
	if err := b.db.Admin("select pg_terminate_backend(pid, 60000) from pg_stat_activity where application_name = 'from the environment'"); err != nil {
		t.Fatal(err)
	}
	if got := b.secrets("get", "alice"); !strings.Contains(got, "57P01") {
		t.Errorf("over a session that was ended: %q", got)
	}
	b.want(b.secrets("get", "alice"), "A=x\n")
}

// A Postgres that is down is tried five times, and the key is not touched then.
func TestPostgresIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keyfile := filepath.Join(t.TempDir(), "secrets.key")
		logged := &journal{}
		log.SetOutput(logged)
		defer log.SetOutput(os.Stderr)
		began := time.Now()
		(&daemon{}).start(t.Context(), host{keyfile: keyfile, incus: "none", postgres: "postgres://u@127.0.0.1:1/d?sslmode=disable", getenv: os.Getenv})
		if took := time.Since(began); took != 12*time.Second {
			t.Errorf("it gave up after %v", took)
		}
		if text := logged.String(); !strings.Contains(text, " Warning: Failed to connect to Postgres for secrets store: ") || strings.Count(text, "\n") != 1 {
			t.Errorf("logged %q", text)
		}
		if _, err := os.Stat(keyfile); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the key was touched: %v", err)
		}
	})
}

// Every start tries whether a file can be made beside the key.
func TestSelfCheck(t *testing.T) {
	b := newBench(t)
	old := time.Unix(1_000_000_000, 0)
	if err := os.Chtimes(b.dir, old, old); err != nil {
		t.Fatal(err)
	}
	h := host{keyfile: b.keyfile(), getenv: b.getenv}
	if err := h.selfCheck(); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(b.dir); err != nil || fi.ModTime().Equal(old) {
		t.Errorf("nothing was made, %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(b.dir, "*")); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if err := os.RemoveAll(b.dir); err != nil {
		t.Fatal(err)
	}
	if err := h.selfCheck(); err == nil || !strings.Contains(err.Error(), "/.containarium-doctor-") {
		t.Errorf("without the directory: %v", err)
	}
}

// The database is looked for in the daemon's order, and a file that others may read is
// refused.
func TestPostgresURL(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file, loose, password := write("url", "postgres://file\n", 0o600), write("loose", "postgres://loose", 0o640), write("password", "secret\n", 0o600)
	incus := rowstest.NewIncus(t)
	incus.Instances = []rowstest.Instance{{Name: "db", Role: "core-postgres", Addresses: map[string][]string{"eth0": {"10.0.0.7"}}}}
	for _, c := range []struct {
		flag string
		env  map[string]string
		want string // or a part of the error
	}{
		{"postgres://flag", map[string]string{"CONTAINARIUM_POSTGRES_URL_FILE": file, "CONTAINARIUM_POSTGRES_URL": "postgres://url"}, "postgres://flag"},
		{"", map[string]string{"CONTAINARIUM_POSTGRES_URL_FILE": file, "CONTAINARIUM_POSTGRES_URL": "postgres://url"}, "postgres://file"},
		{"", map[string]string{"CONTAINARIUM_POSTGRES_URL_FILE": loose, "CONTAINARIUM_POSTGRES_URL": "postgres://url"}, "readable by group or others"},
		{"", map[string]string{"CONTAINARIUM_POSTGRES_URL": "postgres://url", "CONTAINARIUM_POSTGRES_PASSWORD": "word"}, "postgres://url"},
		{"", nil, "postgres://containarium:containarium@10.0.0.7:5432/containarium?sslmode=disable"},
		{"", map[string]string{"CONTAINARIUM_POSTGRES_PASSWORD": "word"}, "postgres://containarium:word@10.0.0.7:5432/containarium?sslmode=disable"},
		{"", map[string]string{"CONTAINARIUM_POSTGRES_PASSWORD": "word", "CONTAINARIUM_POSTGRES_PASSWORD_FILE": password}, "postgres://containarium:secret@10.0.0.7:5432/containarium?sslmode=disable"},
	} {
		got, err := host{postgres: c.flag, incus: incus.Socket, getenv: func(name string) string { return c.env[name] }}.postgresURL(t.Context())
		if err != nil && strings.Contains(err.Error(), c.want) {
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("flag %q, %v: %q, %v", c.flag, c.env, got, err)
		}
	}
}

// Without app hosting, or without incus, the daemon never comes to the key.
func TestKeyIsNotRead(t *testing.T) {
	b := newBench(t)
	b.env["STANDIN_INCUS"] = filepath.Join(b.dir, "no.sock")
	_, stop := b.start("Failed to connect to incus")
	stop()
	b.env["STANDIN_INCUS"] = "none"
	b.env["STANDIN_READ_AFTER"] = filepath.Join(b.dir, "never")
	_, stop = b.start("")
	stop()
	b.env["STANDIN_READ_AFTER"] = ""
	_, stop = b.start("", "--app-hosting=false")
	stop()
	if left, err := filepath.Glob(filepath.Join(b.dir, "*")); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// The DDL of a start waits for an open transaction that merely read the table, with the
// key already read, and an old table gets its late columns.
func TestSchemaWaits(t *testing.T) {
	b := newBench(t)
	if err := b.db.CreateOldTable(); err != nil {
		t.Fatal(err)
	}
	reader, err := b.db.Session()
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"begin", "select count(*) from secrets"} {
		if _, err := reader.Exec(sql); err != nil {
			t.Fatal(err)
		}
	}
	logged, _ := b.start("NEW MASTER KEY")
	for {
		waiting, err := b.db.Exec("select 1 from pg_locks where not granted and mode = 'AccessExclusiveLock'")
		if err != nil {
			t.Fatal(err)
		}
		if len(waiting) > 0 {
			break
		}
		if strings.Contains(logged.String(), ready) {
			t.Fatal("the DDL does not wait for the reader")
		}
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(logged.String(), ready) {
		<-logged.grown
	}
	b.want(b.secrets("set", "alice", "A", "x"), "")
}

// The command line mints without a word, and turns legacy rows into envelope rows.
func TestEnvelope(t *testing.T) {
	b := newBench(t)
	b.want(b.secrets("envelope-coverage"), "legacy=0 envelope=0\n")
	if fi, err := os.Stat(b.keyfile()); err != nil || fi.Size() != keySize {
		t.Fatalf("envelope-coverage did not mint: %v", err)
	}
	_, stop := b.start(ready)
	b.want(b.secrets("set", "alice", "A", "x"), "")
	stop()
	b.want(b.secrets("migrate-to-envelope"), "error: "+errNoBackend.Error())
	for backend, line := range map[string]string{
		"inproc": "envelope: inproc (master-key envelope, dev/test))",
		"vault":  "envelope: vault transit (",
		"gcp":    "envelope: gcp cloud kms (",
		"aws":    "envelope: aws kms (",
	} {
		b.env["CONTAINARIUM_KMS_BACKEND"] = backend
		_, stop := b.start(line)
		b.want(b.secrets("set", "bob", strings.ToUpper(backend), backend), "")
		stop()
	}
	b.env["CONTAINARIUM_KMS_BACKEND"] = "inproc"
	b.want(b.secrets("envelope-coverage"), "legacy=1 envelope=4\n")
	b.want(b.secrets("migrate-to-envelope"), "migrated=1\n")
	b.want(b.secrets("envelope-coverage"), "legacy=0 envelope=5\n")
	b.env["CONTAINARIUM_REQUIRE_ENVELOPE"] = "yes"
	_, stop = b.start("Secrets store ready")
	b.want(b.secrets("get", "alice"), "A=x\n")
	b.want(b.secrets("get", "bob"), "AWS=aws\nGCP=gcp\nINPROC=inproc\nVAULT=vault\n")
	stop()
	// A new key opens what hangs on the outside, and what hangs on the file no more.
	if err := os.Remove(b.keyfile()); err != nil {
		t.Fatal(err)
	}
	b.start("NEW MASTER KEY")
	for b.secrets("list") == "error: secrets are disabled" {
		continue
	}
	b.want(b.secrets("get", "alice"), "error: decrypt alice/A: "+errAuthentication.Error())
}

// The rows that the real daemon wrote open under the keys they say, and no other.
func TestVectors(t *testing.T) {
	a, b, vectors := rowstest.Vectors()
	if len(vectors) == 0 {
		t.Fatal("no vectors")
	}
	for _, v := range vectors {
		var id string
		if v.KEKID != nil {
			id = *v.KEKID
		}
		if v.OpensWith != "A" && v.OpensWith != "B" && id != "" && id != kekIDs["inproc"] {
			continue // under a key outside, which no stand-in has
		}
		for name, k := range map[string]key.Key{"A": a, "B": b} {
			got, err := keyring{master: k.UnsafeBytes()}.open(v.Username, v.Name, sealed{v.Nonce, v.Ciphertext, v.WrappedDEK, id})
			if opens := err == nil; opens != (v.OpensWith == name) {
				t.Errorf("%s: under key %s: %v, and it says %s", v.Case, name, err, v.OpensWith)
			}
			if err == nil && !bytes.Equal(got, v.Plaintext) {
				t.Errorf("%s: opens as %q, want %q", v.Case, got, v.Plaintext)
			}
		}
	}
}
