package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew/crewtest"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/awssecrets"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/passwordmanager"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/secretmanager"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/vault"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/key/keytest"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == serveDirectory { // of a command that runs in the test's own process
		syscall.Exit(run(os.Args[1:]))
	}
	// Scripts wait more than they work: for deadlines, and for other processes. A -parallel that
	// somebody types counts more, since Run reads the flags after this.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	testscript.Main(searched{m}, map[string]func(){
		// main's os.Exit waits a second where the race detector is linked in, in every
		// child too, and a start has a budget.
		"keyguard":        func() { syscall.Exit(run(os.Args[1:])) },
		"op":              func() { syscall.Exit(passwordmanager.Op(os.Args[1:])) },
		"bw":              func() { syscall.Exit(passwordmanager.Bw(os.Args[1:])) },
		"gcloud-stand-in": func() { syscall.Exit(secretmanager.Gcloud(os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

// longest is how long any one command may take: the budget of a start, at most 20 s, and
// a busy machine. A command that hangs takes for ever.
const longest = 2 * time.Minute

// TestScripts plays testdata/script, one operator's story a file, on real Postgres,
// directory escrows and a fake Secret Manager. Each script starts with an empty table,
// a keyguard.toml that names the escrow usb, and no key. Its commands are those of
// testscript and:
//
//	key NAME FILE [FORM]     write the test key NAME as a person or a tool might, or a part of it
//	is FILE NAME             FILE holds exactly the key NAME
//	kept NAME                the local quarantine holds the key NAME
//	rows NAME N [TENANT]     N rows under the key NAME
//	exits CODE keyguard …    run it; see cmdExits for what must hold of any run
//	json PATH REGEXP         of the document that was printed: rows.state, escrows.0.error
//	snapshot; unchanged      nothing that keyguard guards or keeps has changed between them
//	db own                   a server for this script alone; needed by the next two
//	db stop|start|pause|resume
//	db SQL                   as the superuser
//	gcp …                    a fake Secret Manager, see cmdGCP
//	vault …                  a fake Vault, see cmdVault
//	aws …                    a fake AWS Secrets Manager, see cmdAWS
//	ledger EVENT NAME [AGE]  an entry, AGE ago or, negative, ahead; rotation-open is from key a
//	disk memory|full|readonly|gone DIR   see cmdDisk
//	lock NAME                hold this lock of the state directory until the script ends
//	traced                   arguments and environment of what exits starts are searched for keys
//
// $a, $b and $c are the fingerprints of the keys a, b and c.
func TestScripts(t *testing.T) {
	shared := &server{}
	t.Cleanup(shared.stop)
	if brief.Run() {
		main := scripts("", shared, nil)
		for _, name := range mainScripts {
			main.Files = append(main.Files, filepath.Join("testdata/script", name+".txtar"))
		}
		testscript.Run(t, main)
		return
	}
	testscript.Run(t, scripts("testdata/script", shared, nil))
	if _, err := exec.LookPath("aws"); err != nil && os.Getenv("KEYGUARD_MUST_RUN") != "" {
		t.Errorf("%v: Debian's awscli, which packaging/deps installs, is missing", err)
	} else if err == nil && os.Getenv("KEYGUARD_EVERY_MANAGER") != "" {
		testscript.Run(t, scripts("testdata/aws", shared, nil))
	}
	for _, program := range gclouds() {
		testscript.Run(t, scripts("testdata/gcloud", shared, map[string]string{"GCLOUD": program}))
	}
}

// mainScripts are what a brief run plays of testdata/script: the commands that everybody types,
// and a start.
var mainScripts = []string{"backup", "drill", "first-start", "repair-target", "restore-at-start", "rotate", "usage"}

// scripts are those of a directory, with these variables set besides.
func scripts(dir string, shared *server, variables map[string]string) testscript.Params {
	return testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			s := &sandbox{dir: env.WorkDir, shared: shared}
			env.Values[sandboxKey{}] = s
			env.Defer(s.close)
			env.Setenv("KEYGUARD_CONFIG", filepath.Join(env.WorkDir, "keyguard.toml"))
			env.Setenv("SUDO_USER", "olga")
			env.Setenv("GCE_METADATA_HOST", "127.0.0.1:1") // nobody answers, at once
			for _, name := range []string{"a", "b", "c"} {
				env.Setenv(name, string(testKey(name).Fingerprint()))
			}
			for name, value := range variables {
				env.Setenv(name, value)
			}
			return s.furnish()
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"key": cmdKey, "is": cmdIs, "kept": cmdKept, "rows": cmdRows, "exits": cmdExits, "json": cmdJSON,
			"snapshot": cmdSnapshot, "unchanged": cmdUnchanged, "db": cmdDB, "gcp": cmdGCP, "vault": cmdVault, "aws": cmdAWS, "ledger": cmdLedger,
			"disk": cmdDisk, "lock": cmdLock, "traced": cmdTraced,
		},
	}
}

// server is a Postgres, started when first needed.
type server struct {
	once    sync.Once
	cluster *rowstest.Cluster
	err     error
}

func (s *server) start() (*rowstest.Cluster, error) {
	s.once.Do(func() { s.cluster, s.err = rowstest.Start("") })
	return s.cluster, s.err
}

func (s *server) stop() {
	if s.cluster != nil {
		s.cluster.Close()
	}
}

// sandbox is the host of one script.
type sandbox struct {
	dir         string
	shared, own *server
	db          *rowstest.Database
	gcp         *secretmanager.Server
	gcpAt       string // where an escrow finds it, in TOML
	vault       *vault.Server
	kv          int // its engine's version
	aws         *awssecrets.Server
	awsWho      awssecrets.Identity
	awsCalls    int // that were counted already
	locks       []*os.File
	mounts      []string
	hung        string // a mount that nobody may look into, the test included
	before      map[string]string
	traced      bool // exits has strace note what is started
	traces      int
}

// sandboxKey finds a script's sandbox.
type sandboxKey struct{}

func of(ts *testscript.TestScript) *sandbox { return ts.Value(sandboxKey{}).(*sandbox) }

func (s *sandbox) path(name string) string { return filepath.Join(s.dir, name) }

// furnish makes what a host has. What must succeed has the product's whole time, on a
// machine however busy; a script whose time is to end sets a shorter one.
func (s *sandbox) furnish() error {
	for _, d := range []string{"etc", "state", "run", "usb"} {
		if err := os.Mkdir(s.path(d), 0o700); err != nil {
			return err
		}
	}
	config := fmt.Sprintf(`keyfile = %q
state_dir = %q
run_dir = %q
database.url_file = %q
database.connect_timeout = "10s"
daemon.unit = ""
prestart.budget = "20s"
notify = { hooks_dir = "", metrics_file = "" }

[[escrow]]
name = "usb"
kind = "directory"
path = %q
allow_same_disk = true
`, s.path("etc/secrets.key"), s.path("state"), s.path("run"), s.path("url"), s.path("usb"))
	if err := os.WriteFile(s.path("keyguard.toml"), []byte(config), 0o600); err != nil {
		return err
	}
	return s.connect(s.shared)
}

// connect makes this the script's server, with a database of its own.
func (s *sandbox) connect(to *server) error {
	cluster, err := to.start()
	if err != nil {
		return err
	}
	if s.db, err = cluster.NewDatabase(""); err != nil {
		return err
	}
	return errors.Join(s.db.CreateTable(), os.WriteFile(s.path("url"), []byte(s.db.URL()), 0o600))
}

func (s *sandbox) close() {
	for _, l := range s.locks {
		l.Close()
	}
	if s.hung != "" {
		unix.Unmount(s.hung, unix.MNT_FORCE|unix.MNT_DETACH)
	}
	leaks.search(filepath.Base(s.dir), s)
	for _, m := range slices.Backward(s.mounts) {
		unix.Unmount(m, unix.MNT_FORCE|unix.MNT_DETACH)
	}
	if s.gcp != nil {
		s.gcp.Close()
	}
	if s.vault != nil {
		s.vault.Close()
	}
	if s.aws != nil {
		s.aws.Close()
	}
	if s.own != nil {
		s.own.stop()
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

// form writes a key: "part:2:1" is its part 1 of which 2 are needed, on a line; behind a
// "/sheet" its words, and behind a "/lying" it names another key's fingerprint.
func form(ts *testscript.TestScript, k key.Key, form string) []byte {
	raw := k.UnsafeBytes()
	if spec, ok := strings.CutPrefix(form, "part:"); ok {
		return partForm(ts, k, spec)
	}
	switch form {
	case "raw":
		return raw
	case "newline":
		return append(bytes.Clone(raw), '\n')
	case "base64":
		return []byte(base64.StdEncoding.EncodeToString(raw) + "\n")
	case "hex":
		return []byte(hex.EncodeToString(raw))
	case "words":
		return []byte(strings.Join(keytest.Words(k), " ") + "\n")
	case "sheet": // six lines, with their check words
		var lines []byte
		for _, words := range k.UnsafeSheet() {
			lines = append(lines, strings.Join(words, " ")+"\n"...)
		}
		return lines
	case "mangled": // as gcloud … | tee does
		return []byte(strings.ToValidUTF8(string(raw), "\uFFFD"))
	}
	n, err := strconv.Atoi(form) // cut or padded to a length
	ts.Check(err)
	return append(bytes.Clone(raw), bytes.Repeat([]byte{'x'}, 100)...)[:n]
}

func partForm(ts *testscript.TestScript, k key.Key, spec string) []byte {
	var need, number int
	var how string
	spec, how, _ = strings.Cut(spec, "/")
	_, err := fmt.Sscanf(spec, "%d:%d", &need, &number)
	ts.Check(err)
	p, err := k.Cut(need, number)
	ts.Check(err)
	switch how {
	case "sheet":
		var lines []string
		for i, words := range p.UnsafeSheet() {
			lines = append(lines, fmt.Sprint(i+1, " ", strings.Join(words, " ")))
		}
		return []byte(strings.Join(lines, "\n") + "\n")
	case "lying":
		p.Of = testKey("a").Fingerprint()
	}
	return append(p.UnsafeText(), '\n')
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

// cmdExits runs a command to its exit code. Of every run must hold: it ends in time; no
// key is in what it prints (law 8); what it prints with --json is one document; and where
// it fails it says so in lines of its own and with a hint.
func cmdExits(ts *testscript.TestScript, _ bool, args []string) {
	command := args[1:]
	if of(ts).traced {
		command = of(ts).started(command)
	}
	begin := time.Now()
	err := ts.Exec(command[0], command[1:]...)
	took := time.Since(begin)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	stdout, stderr := ts.ReadFile("stdout"), ts.ReadFile("stderr")
	for name, text := range map[string]string{"stdout": stdout, "stderr": stderr} {
		if form := keytest.Find([]byte(text), of(ts).keys()...); form != "" {
			ts.Fatalf("%s shows a key (law 8): %s", name, form)
		}
	}
	if found := unprintable.FindString(stdout + "\n" + stderr); found != "" {
		ts.Fatalf("what others chose is printed as it is (law 10): %q", found)
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit code %d, not %s", code, args[0])
	}
	if took > longest {
		ts.Fatalf("it took %v", took)
	}
	if slices.Contains(args, "--json") && code != exitUsage {
		if !json.Valid([]byte(stdout)) { // Valid wants exactly one
			ts.Fatalf("--json prints no JSON document: %s", stdout)
		}
	}
	if slices.Contains(args, "2>debug") || code == 0 {
		return
	}
	if !regexp.MustCompile(`(?m)^(<\d>)?hint: `).MatchString(stderr) {
		ts.Fatalf("exit code %d without a hint", code)
	}
	for line := range strings.Lines(stderr) {
		if !regexp.MustCompile(`^((<\d>)?(keyguard: |hint: )| {2})`).MatchString(line) {
			ts.Fatalf("a line of nobody: %q", line)
		}
	}
}

// unprintable is what moves a cursor, turns the writing around, or is a priority in front
// of a line that keyguard did not begin.
var unprintable = regexp.MustCompile(`[\x00-\x08\x0b-\x1f\x7f-\x{9f}\x{200b}-\x{200f}\x{2028}-\x{202e}\x{2066}-\x{2069}\x{feff}]|(?m:^<\d>[^kh])`)

// cmdJSON looks into the JSON that the last command printed.
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	var at any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &at))
	for step := range strings.SplitSeq(args[0], ".") {
		switch in := at.(type) {
		case map[string]any:
			at = in[step]
		case []any:
			n, err := strconv.Atoi(step)
			ts.Check(err)
			if n >= len(in) {
				ts.Fatalf("%s: only %d elements", args[0], len(in))
			}
			at = in[n]
		default:
			ts.Fatalf("%s: no %s", args[0], step)
		}
	}
	if regexp.MustCompile(args[1]).MatchString(fmt.Sprint(at)) == neg {
		ts.Fatalf("%s is %v", args[0], at)
	}
}

// guarded is everything that keyguard guards or keeps, by name: kind, mode and content.
// Locks are empty files that stay, an empty quarantine keeps nothing, and the runtime
// directory is no record of anything.
func (s *sandbox) guarded() (map[string]string, error) {
	all := map[string]string{}
	for _, top := range []string{"etc", "state", "usb"} {
		err := filepath.WalkDir(s.path(top), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			name, _ := filepath.Rel(s.dir, path)
			if filepath.Dir(name) == "state" && (info.IsDir() || info.Mode().IsRegular() && info.Size() == 0) {
				return nil
			}
			content := ""
			switch {
			case info.Mode().IsRegular():
				data, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				content = fmt.Sprintf("%x, inode %d", sha256.Sum256(data), info.Sys().(*syscall.Stat_t).Ino)
			case info.Mode()&fs.ModeSymlink != 0:
				content, _ = os.Readlink(path)
			}
			all[name] = info.Mode().String() + " " + content
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if s.gcp != nil {
		for _, secret := range gcpSecrets {
			for i, v := range s.gcp.Versions(secret) {
				all[fmt.Sprintf("%s/%d", secret, i+1)] = fmt.Sprintf("%x", sha256.Sum256(v))
			}
		}
	}
	for name, fields := range s.vaultValues() {
		all["vault "+name] = fmt.Sprintf("%x", sha256.Sum256([]byte(fields)))
	}
	for name, value := range s.awsValues() {
		all["aws "+name] = fmt.Sprintf("%x", sha256.Sum256([]byte(value)))
	}
	return all, nil
}

func cmdSnapshot(ts *testscript.TestScript, _ bool, _ []string) {
	var err error
	of(ts).before, err = of(ts).guarded()
	ts.Check(err)
}

func cmdUnchanged(ts *testscript.TestScript, _ bool, _ []string) {
	before := of(ts).before
	if len(before) == 0 {
		ts.Fatalf("no snapshot was taken")
	}
	after, err := of(ts).guarded()
	ts.Check(err)
	for name, was := range before {
		if after[name] != was {
			ts.Fatalf("%s was %s and is %q", name, was, after[name])
		}
		delete(after, name)
	}
	for name := range after {
		ts.Fatalf("%s is new", name)
	}
}

func cmdDB(ts *testscript.TestScript, _ bool, args []string) {
	s := of(ts)
	switch args[0] {
	case "own":
		s.own = &server{}
		ts.Check(s.connect(s.own))
		return
	case "stop", "start", "pause", "resume":
		if s.own == nil {
			ts.Fatalf("db %s needs db own before it", args[0])
		}
	}
	switch args[0] {
	case "copy": // to another database: $NAME is its URL, NAME.url a file with one and its password
		d, err := s.db.Copy()
		ts.Check(err)
		ts.Setenv(args[1], d.Cluster.SocketURL(d.Name))
		ts.Check(os.WriteFile(s.path(args[1]+".url"), []byte(d.URL()), 0o600))
	case "stop":
		ts.Check(s.own.cluster.Stop())
	case "start":
		ts.Check(s.own.cluster.Restart())
	case "pause":
		s.own.cluster.Pause()
	case "resume":
		s.own.cluster.Resume()
	default:
		ts.Check(s.db.Admin(strings.Join(args, " ")))
	}
}

func cmdLedger(ts *testscript.TestScript, _ bool, args []string) {
	age := time.Duration(0)
	if len(args) > 2 {
		var err error
		age, err = time.ParseDuration(args[2])
		ts.Check(err)
	}
	l := ledger.Open(of(ts).path("state"), ledger.Options{Host: "host", Version: "99.0",
		Now: func() time.Time { return time.Now().Add(-age) }})
	e := ledger.Entry{Event: ledger.Event(args[0]), Fingerprint: testKey(args[1]).Fingerprint()}
	if e.Event == ledger.RotationOpen {
		e.Old = testKey("a").Fingerprint()
	}
	ts.Check(l.Append(e))
}

// cmdDisk makes a directory a disk of its own and then takes it away in part:
//
//	disk memory DIR     a tmpfs
//	disk full DIR       a file can be made, and not a byte written to it
//	disk readonly DIR   what is there can be read
//	disk hung DIR       takes requests and answers none, as NFS does whose server is gone
//	disk gone DIR       unmounted: what was below is there again
func cmdDisk(ts *testscript.TestScript, _ bool, args []string) {
	s, dir := of(ts), ts.MkAbs(args[1])
	switch args[0] {
	case "memory":
		ts.Check(unix.Mount("keyguard-test", dir, "tmpfs", 0, "size=1m,mode=0700"))
		s.mounts = append(s.mounts, dir)
	case "full":
		// The content moves along.
		aside := dir + ".aside"
		ts.Check(os.Rename(dir, aside))
		ts.Check(os.Mkdir(dir, 0o700))
		ts.Check(unix.Mount("keyguard-test", dir, "tmpfs", 0, "size=1m,mode=0700"))
		s.mounts = append(s.mounts, dir)
		ts.Check(ts.Exec("cp", "-a", aside+"/.", dir))
		ts.Check(os.RemoveAll(aside))
		fill, err := os.Create(filepath.Join(dir, ".filler"))
		ts.Check(err)
		defer fill.Close()
		for size := 64 << 10; size > 0; size /= 2 {
			for err = nil; err == nil; {
				_, err = fill.Write(make([]byte, size))
			}
		}
		if !errors.Is(err, unix.ENOSPC) {
			ts.Fatalf("%v", err)
		}
	case "readonly":
		ts.Check(unix.Mount(dir, dir, "", unix.MS_BIND, ""))
		s.mounts = append(s.mounts, dir)
		ts.Check(unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	case "hung":
		_, err := crewtest.Hang(dir)
		ts.Check(err)
		s.mounts, s.hung = append(s.mounts, dir), dir
	case "gone":
		// Forced: what waits for an answer fails, and the processes that do die.
		ts.Check(unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH))
		s.mounts, s.hung = slices.DeleteFunc(s.mounts, func(m string) bool { return m == dir }), ""
	default:
		ts.Fatalf("no disk %s", args[0])
	}
}

func cmdTraced(ts *testscript.TestScript, _ bool, _ []string) { of(ts).traced = true }

func cmdLock(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.OpenFile(of(ts).path("state/"+args[0]), os.O_RDWR|os.O_CREATE, 0o600)
	ts.Check(err)
	ts.Check(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	of(ts).locks = append(of(ts).locks, f)
}
