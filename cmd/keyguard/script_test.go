package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"keyguard": main})
}

// TestScripts plays testdata/script, one operator's story a file, on real Postgres and
// directory escrows. Each script starts with an empty table, a keyguard.toml that
// names the escrow usb, and no key. Its commands are those of testscript and:
//
//	key NAME FILE [FORM]   write the test key NAME as a person or a tool might
//	is FILE NAME           FILE holds exactly the key NAME
//	kept NAME              the local quarantine holds the key NAME
//	rows NAME N [TENANT]   N rows under the key NAME
//	exits CODE keyguard …  run it, and look for keys in what it prints (law 8)
//	db stop|start|pause|resume|SQL
//	lock NAME              hold this lock of the state directory until the script ends
//
// $a, $b and $c are the fingerprints of the keys a, b and c.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			s := &sandbox{dir: env.WorkDir}
			env.Values[sandboxKey{}] = s
			env.Defer(s.close)
			env.Setenv("KEYGUARD_CONFIG", filepath.Join(env.WorkDir, "keyguard.toml"))
			env.Setenv("SUDO_USER", "olga")
			for _, name := range []string{"a", "b", "c"} {
				env.Setenv(name, string(testKey(name).Fingerprint()))
			}
			return s.furnish()
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"key": cmdKey, "is": cmdIs, "kept": cmdKept, "rows": cmdRows, "exits": cmdExits, "db": cmdDB, "lock": cmdLock,
		},
	})
}

// sandbox is the host of one script.
type sandbox struct {
	dir      string
	postgres *rowstest.Cluster
	db       *rowstest.Database
	locks    []*os.File
}

// sandboxKey finds a script's sandbox.
type sandboxKey struct{}

func of(ts *testscript.TestScript) *sandbox { return ts.Value(sandboxKey{}).(*sandbox) }

func (s *sandbox) path(name string) string { return filepath.Join(s.dir, name) }

func (s *sandbox) furnish() error {
	dir, err := os.MkdirTemp("", "keyguard-script-")
	if err != nil {
		return err
	}
	if s.postgres, err = rowstest.Start(dir); err != nil {
		return err
	}
	if s.db, err = s.postgres.NewDatabase(""); err != nil {
		return err
	}
	if err := s.db.CreateTable(); err != nil {
		return err
	}
	for _, d := range []string{"etc", "state", "run", "usb"} {
		if err := os.Mkdir(s.path(d), 0o700); err != nil {
			return err
		}
	}
	config := fmt.Sprintf(`keyfile = %q
state_dir = %q
run_dir = %q
database.url_file = %q
daemon.unit = ""
prestart.budget = "5s"
notify = { hooks_dir = "", metrics_file = "" }

[[escrow]]
name = "usb"
kind = "directory"
path = %q
allow_same_disk = true
`, s.path("etc/secrets.key"), s.path("state"), s.path("run"), s.path("url"), s.path("usb"))
	return errors.Join(
		os.WriteFile(s.path("keyguard.toml"), []byte(config), 0o600),
		os.WriteFile(s.path("url"), []byte(s.db.URL()), 0o600))
}

func (s *sandbox) close() {
	for _, l := range s.locks {
		l.Close()
	}
	if s.postgres != nil {
		s.postgres.Stop()
		os.RemoveAll(s.postgres.Dir)
	}
}

// testKey is a key of the scripts. It is a key like any other: nothing may print it.
func testKey(name string) key.Key {
	sum := sha256.Sum256([]byte("test key " + name))
	k, err := key.New(sum[:])
	if err != nil {
		panic(err)
	}
	return k
}

func form(ts *testscript.TestScript, k key.Key, form string) []byte {
	raw := k.UnsafeBytes()
	switch form {
	case "raw":
		return raw
	case "newline":
		return append(bytes.Clone(raw), '\n')
	case "base64":
		return []byte(base64.StdEncoding.EncodeToString(raw) + "\n")
	case "hex":
		return []byte(hex.EncodeToString(raw))
	case "mangled": // as gcloud … | tee does
		return []byte(strings.ToValidUTF8(string(raw), "\uFFFD"))
	}
	n, err := strconv.Atoi(form) // cut or padded to a length
	ts.Check(err)
	return append(bytes.Clone(raw), bytes.Repeat([]byte{'x'}, 100)...)[:n]
}

func cmdKey(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) == 2 {
		args = append(args, "raw")
	}
	path := ts.MkAbs(args[1])
	os.Remove(path)
	ts.Check(os.WriteFile(path, form(ts, testKey(args[0]), args[2]), 0o400))
}

func cmdIs(ts *testscript.TestScript, neg bool, args []string) {
	data, err := os.ReadFile(ts.MkAbs(args[0]))
	same := err == nil && bytes.Equal(data, testKey(args[1]).UnsafeBytes())
	if same == neg {
		ts.Fatalf("%s is key %s: %v (%v, %d bytes)", args[0], args[1], same, err, len(data))
	}
}

func cmdKept(ts *testscript.TestScript, neg bool, args []string) {
	files, _ := filepath.Glob(of(ts).path("state/quarantine/*" + string(testKey(args[0]).Fingerprint()) + ".key"))
	if (len(files) > 0) == neg {
		ts.Fatalf("key %s is in the local quarantine: %v", args[0], files)
	}
}

func cmdRows(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	tenant := "tenant"
	if len(args) > 2 {
		tenant = args[2]
	}
	for i := range n {
		ts.Check(of(ts).db.Upsert(testKey(args[0]), tenant, fmt.Sprintf("SECRET_%d", i), []byte("value")))
	}
}

func cmdExits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	for _, stream := range []string{"stdout", "stderr"} {
		for _, name := range []string{"a", "b", "c"} {
			raw := testKey(name).UnsafeBytes()
			for _, leak := range []string{string(raw), hex.EncodeToString(raw), base64.StdEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw)} {
				if strings.Contains(strings.ToLower(ts.ReadFile(stream)), strings.ToLower(leak)) {
					ts.Fatalf("%s shows key %s (law 8)", stream, name)
				}
			}
		}
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit code %d, not %s", code, args[0])
	}
}

func cmdDB(ts *testscript.TestScript, _ bool, args []string) {
	s := of(ts)
	switch args[0] {
	case "stop":
		ts.Check(s.postgres.Stop())
	case "start":
		ts.Check(s.postgres.Restart())
	case "pause":
		s.postgres.Pause()
	case "resume":
		s.postgres.Resume()
	default:
		ts.Check(s.db.Admin(strings.Join(args, " ")))
	}
}

func cmdLock(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.OpenFile(of(ts).path("state/"+args[0]), os.O_RDWR|os.O_CREATE, 0o600)
	ts.Check(err)
	ts.Check(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	of(ts).locks = append(of(ts).locks, f)
}
