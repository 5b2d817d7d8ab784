package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/vault"
	"github.com/footprintai/containarium-keyguard/agent/key/keytest"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
	"github.com/footprintai/containarium-keyguard/agent/unit/unittest"
	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

// neighbour is a host on which all is well, but for one of those that commands listen to
// besides the stores.
type neighbour struct {
	*hostile
	well map[string]string // its files, by name, as they are where all is well
}

// newNeighbour makes one of a sound store, an Accepted key in it and in its place, and these
// lines of configuration.
func newNeighbour(t *testing.T, config string) *neighbour {
	dir, err := os.MkdirTemp("/dev/shm", "keyguard") // scratch wants a tmpfs
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &neighbour{hostile: &hostile{T: t, sandbox: &sandbox{dir: dir}}, well: map[string]string{}}
	store, err := vault.Start(vault.Options{})
	n.must(err)
	t.Cleanup(store.Close)
	store.Mount(vaultMount, 2)
	store.Policy("keyguard", vault.Keyguard(2, vaultMount, vaultPath))
	for _, d := range []string{"etc", "state", "run", "hooks", "bin"} {
		n.must(os.Mkdir(n.path(d), 0o700))
	}
	n.must(os.WriteFile(n.path("token"), []byte(store.Token(vault.TokenOptions{Policies: []string{"keyguard"}})), 0o600))
	n.must(os.WriteFile(n.path("key"), testKey("a").UnsafeBytes(), 0o600))
	n.must(os.WriteFile(n.path("etc/secrets.key"), testKey("a").UnsafeBytes(), 0o400))
	n.must(os.WriteFile(n.path("hosts"), []byte("web1\n"), 0o600))
	n.must(os.WriteFile(n.path("url"), []byte("postgres://keyguard:word@127.0.0.1:1/d?sslmode=disable"), 0o600))
	n.must(os.WriteFile(n.path("bin/journalctl"), []byte("#!/bin/sh\n"), 0o700))
	n.must(os.WriteFile(n.path("fleet.toml"), nil, 0o600))
	write := func(config string) {
		text := fmt.Sprintf("keyfile = %q\nstate_dir = %q\nrun_dir = %q\n%s\n[[escrow]]\nname = \"store\"\nkind = \"vault-kv\"\naddress = %q\nmount = %q\npath = %q\ntoken_file = %q\n",
			n.path("etc/secrets.key"), n.path("state"), n.path("run"), config, store.URL(), vaultMount, vaultPath, n.path("token"))
		n.must(os.WriteFile(n.path("keyguard.toml"), []byte(text), 0o600))
	}
	write(allIsWell)
	for _, line := range []string{"init --yes", "accept --yes", "drill", "prestart", "status"} {
		if code, out, said := n.keyguard(strings.Fields(line)...); code != exitDone && line != "drill" && line != "init --yes" {
			t.Fatalf("keyguard %s: %d\n%s%s", line, code, out, said)
		}
	}
	write(strings.ReplaceAll(config, "DIR", dir))
	for name, text := range map[string]string{"run/backoff.json": "{}\n", "run/hooks.json": "{}\n",
		"run/started.json": fmt.Sprintf("{\"invocation\": %q, \"fingerprint\": %q}\n", daemonInvocation, testKey("a").Fingerprint())} {
		n.must(os.WriteFile(n.path(name), []byte(text), 0o600))
	}
	n.well = n.files()
	return n
}

// allIsWell is a configuration in which nobody says anything that matters.
const allIsWell = "database.url = \"none\"\ndaemon.unit = \"\"\nnotify = { hooks_dir = \"\", metrics_file = \"\" }\n"

// files are the host's files with what stands in them.
func (n *neighbour) files() map[string]string {
	all := map[string]string{}
	filepath.WalkDir(n.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			data, _ := os.ReadFile(path)
			all[path] = string(data)
		}
		return nil
	})
	return all
}

// again makes everything as it is where all is well.
func (n *neighbour) again() {
	n.Helper()
	for _, d := range []string{"etc", "state", "run", "hooks"} {
		n.must(os.RemoveAll(n.path(d)))
	}
	for path, text := range n.well {
		n.must(os.RemoveAll(path))
		n.must(os.MkdirAll(filepath.Dir(path), 0o700))
		mode := fs.FileMode(0o600)
		switch path {
		case n.path("etc/secrets.key"):
			mode = 0o400
		case n.path("bin/journalctl"):
			mode = 0o700
		}
		n.must(os.WriteFile(path, []byte(text), mode))
	}
	n.must(os.MkdirAll(n.path("hooks"), 0o700))
}

// neighbourCommands are all commands. One that begins with a - finds no keyfile.
var neighbourCommands = []string{
	"status", "status --json", "verify", "copies", "backup", "drill", "doctor", "restore --dry-run", "- restore", "prestart", "- prestart",
	"init --yes", "import --escrow-only", "explain KEY", "accept --yes", "rotate --dry-run", "repair --dry-run", "report", "log", "config",
	"paper", "fleet --config FLEET --inventory HOSTS", "__complete restore --copy c", "alert test",
}

// oddity is one way in which a neighbour is odd.
type oddity struct {
	name  string
	spoil func(*neighbour) // of a host on which all is well
	hangs bool             // it never answers: all commands wait at once
}

// odd are the contents that no file should have, and what else may stand in its place.
func oddContents(name string) []oddity {
	text := func(what, text string) oddity {
		return oddity{name: what, spoil: func(n *neighbour) { n.must(os.WriteFile(n.path(name), []byte(text), 0o600)) }}
	}
	var list []oddity
	if name != "keyguard.toml" { // which may be empty, and is about this machine then
		list = append(list, text("empty", ""), text("white space", " \r\n\t\n"))
	}
	list = append(list,
		text("null", "null\n"), text("[]", "[]\n"), text("{}", "{}\n"), text("HTML", signIn),
		text("NULs", strings.Repeat("\x00", 4096)), text("rubbish", strings.Repeat("\xff\x1b[2J\xc2\x9b\u202e\nkeyguard: all is well\n<0>", 100)),
		text("wrong types", `{"boot": 7, "about": {}, "escrows": [], "url": [], "pg": "x", "at": {}, "fingerprint": 9, "invocation": [1], "event": {}, "errors": 7, "prev": 1, "time": 1e400}`+"\n"),
		text("evil names", strings.ReplaceAll(`{"boot": "E", "about": "E", "escrows": {"E": {"error": "E", "copies": [{"id": "E"}], "fetched": {"E": {"key": "E", "error": "E"}}}}, "url": "E", "from": "E",
		"pg": {"E": "E"}, "at": "E", "fingerprint": "E", "key": "E", "invocation": "E", "machine": "E", "event": "E", "errors": ["E"], "unheard": ["E"], "time": "E", "reason": "E", "host": "E", "prev": "E"}`, "E", evil)+"\n"),
		text("deep", strings.Repeat(`{"a":[`, 100_000)), text("a long line", `{"event": "`+strings.Repeat("x", 8<<20)+`"}`),
		oddity{name: "half of it", spoil: func(n *neighbour) {
			was := n.well[n.path(name)]
			n.must(os.WriteFile(n.path(name), []byte(was[:len(was)/2]), 0o600))
		}},
		oddity{name: "for everybody", spoil: func(n *neighbour) { n.must(os.Chmod(n.path(name), 0o666)) }},
		oddity{name: "of another", spoil: func(n *neighbour) { n.must(os.Chown(n.path(name), 4711, 4711)) }})
	for kind, odd := range oddFiles {
		if kind != "nothing" && kind != "fed" {
			list = append(list, oddity{name: kind, spoil: func(n *neighbour) {
				os.Remove(n.path(name))
				n.must(odd(n.path(name)))
			}})
		}
	}
	return list
}

// try has a command meet an oddity, and says how it ended.
func (n *neighbour) try(command string, odd oddity) (code int) {
	n.Helper()
	n.again()
	args := strings.Fields(strings.NewReplacer("FLEET", n.path("fleet.toml"), "HOSTS", n.path("hosts"), "KEY", string(testKey("a").Fingerprint())).Replace(command))
	if args[0] == "-" {
		args = args[1:]
		n.must(os.Remove(n.path("etc/secrets.key")))
	}
	odd.spoil(n)
	before := n.kept()
	code, stdout, stderr := n.keyguard(args...)
	what := odd.name + ", keyguard " + command
	said := stdout + stderr
	if args[0] != "paper" {
		keytest.NoLeak(n, what, []byte(said), testKey("a"))
	}
	if found := unprintable.FindString(stdout + "\n" + stderr); found != "" {
		n.Errorf("%s: %q is printed as it is", what, found)
	}
	if len(said) > hostileWords {
		n.Errorf("%s: it says %d bytes", what, len(said))
	}
	for line := range strings.Lines(stderr) {
		if !ownLine.MatchString(line) {
			n.Errorf("%s: a line of nobody: %q", what, line)
		}
	}
	if code != exitDone && !strings.Contains(stderr, "hint: ") {
		n.Errorf("%s: no hint\n%s", what, stderr)
	}
	after := n.kept()
	delete(after, string(testKey("a").UnsafeBytes())) // which belongs there
	delete(before, string(testKey("a").UnsafeBytes()))
	if !maps.Equal(before, after) {
		n.Errorf("%s: something else stands there now, or something less", what)
	}
	return code
}

// kept are the contents of the files that keyguard guards and keeps, but the ledger.
func (n *neighbour) kept() map[string]bool {
	all := map[string]bool{}
	for _, top := range []string{"etc", "state"} {
		filepath.WalkDir(n.path(top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), "ledger") {
				return nil
			}
			if info, err := d.Info(); err == nil && 0 < info.Size() && info.Size() < 16<<20 {
				data, _ := os.ReadFile(path)
				all[string(data)] = true
			}
			return nil
		})
	}
	return all
}

// together has all commands meet an oddity at once, each on a host of its own: so they wait
// together.
func (n *neighbour) together(odd oddity) map[string]int {
	codes := map[string]int{}
	var lock sync.Mutex
	var all sync.WaitGroup
	for _, command := range neighbourCommands {
		one := n.another()
		all.Go(func() {
			code := one.try(command, odd)
			lock.Lock()
			defer lock.Unlock()
			codes[command] = code
		})
	}
	all.Wait()
	return codes
}

// another is a host like n, with the same store.
func (n *neighbour) another() *neighbour {
	n.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "keyguard")
	n.must(err)
	n.Cleanup(func() { os.RemoveAll(dir) })
	other := &neighbour{hostile: &hostile{T: n.T, sandbox: &sandbox{dir: dir}}, well: map[string]string{}}
	for path, text := range n.well {
		if strings.HasSuffix(path, ".toml") {
			text = strings.ReplaceAll(text, n.dir, dir)
		}
		other.well[strings.ReplaceAll(path, n.dir, dir)] = text
	}
	return other
}

// postgres is a server that answers each statement that asks for something with a row of so
// many columns, which it makes of these bytes, and does all else as it should.
type postgres struct {
	columns int
	row     []byte
}

func (p postgres) serve(conn net.Conn) {
	message := func(kind byte, body []byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))), body...)
	}
	head := make([]byte, 4)
	if _, err := io.ReadFull(conn, head); err != nil {
		return
	}
	if _, err := io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(head))-4); err != nil {
		return
	}
	out := slices.Concat(message('R', make([]byte, 4)), message('Z', []byte("I")))
	asks := false
	for {
		if _, err := conn.Write(out); err != nil {
			return
		}
		out = nil
		kind := make([]byte, 5)
		if _, err := io.ReadFull(conn, kind); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(kind[1:])-4)
		if _, err := io.ReadFull(conn, body); err != nil {
			return
		}
		switch kind[0] {
		case 'P': // Parse
			text := strings.ToLower(string(body))
			asks = strings.Contains(text, "select") || strings.Contains(text, "show")
			out = message('1', nil)
		case 'B': // Bind
			out = message('2', nil)
		case 'D': // Describe
			if out = message('n', nil); asks {
				column := append([]byte("c\x00"), make([]byte, 18)...)
				out = message('T', append([]byte{0, byte(p.columns)}, bytes.Repeat(column, p.columns)...))
			}
		case 'E': // Execute
			if asks {
				out = slices.Clone(p.row)
			}
			out = append(out, message('C', []byte("SELECT 1\x00"))...)
		case 'S', 'Q': // Sync, Query
			if kind[0] == 'Q' {
				out = message('I', nil)
			}
			out = append(out, message('Z', []byte("I"))...)
		}
	}
}

// oddPostgres are servers that answer, each in another way that makes no sense.
func oddPostgres() []oddity {
	row := func(values ...string) []byte {
		b := binary.BigEndian.AppendUint16(nil, uint16(len(values)))
		for _, v := range values {
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
		}
		return append(binary.BigEndian.AppendUint32([]byte{'D'}, uint32(4+len(b))), b...)
	}
	says := func(text string) func(net.Conn) {
		return func(conn net.Conn) { io.WriteString(conn, text) } //nolint:errcheck // who asked may have gone
	}
	failure := "SFATAL\x00C" + "\x1b[2J\n\u202e" + "\x00Mkeyguard: all is well\x1b[2J\n<0>" + strings.Repeat("long \u202e", 100) + "\x00\x00"
	var list []oddity
	for name, serve := range map[string]func(net.Conn){
		"nothing": func(net.Conn) {}, "no message": says("HTTP/1.1 400 Bad Request\r\n\r\n"), "rubbish": says("\x00\xff\x1b[2J\xff\xff"),
		"a GiB, at once": says("R\x3f\xff\xff\xff\x00"), "evil failure": says("E" + string(binary.BigEndian.AppendUint32(nil, uint32(4+len(failure)))) + failure),
		"a secret that is wanted": says("R\x00\x00\x00\x08\x00\x00\x00\x07"), "another protocol": says("v\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x01evil"),
		"no column": postgres{0, row()}.serve, "one column": postgres{1, row("")}.serve, "too many columns": postgres{200, row(make([]string, 200)...)}.serve,
		"none": postgres{1, nil}.serve, "NULL": postgres{1, []byte("D\x00\x00\x00\x0a\x00\x01\xff\xff\xff\xff")}.serve, "evil names": postgres{3, row("\x1b[2J\n\u202e", "<0>", "x")}.serve,
		"a GiB": postgres{1, []byte("D\x3f\xff\xff\xff\x00\x01")}.serve, "a row of 250 MB": postgres{1, []byte("D\x0e\xe6\xb2\x80\x00\x01")}.serve,
		"less than it says": postgres{1, []byte("D\x00\x00\x00\x0a\x7f\xff\x00\x00\x00\x00")}.serve, "a length that is none": postgres{1, []byte("D\x00\x00\x00\x01")}.serve,
		"rows without end": postgres{1, bytes.Repeat(row(strings.Repeat("x", 1<<10)), 4<<10)}.serve,
	} {
		list = append(list, oddity{name: name, spoil: atDatabase(serve)})
	}
	return append(list, oddity{name: "never", hangs: true, spoil: atDatabase(unittest.Silent)})
}

// atDatabase has a server stand where the host's database should be.
func atDatabase(serve func(net.Conn)) func(*neighbour) {
	return func(n *neighbour) {
		n.must(os.WriteFile(n.path("url"), []byte("postgres://keyguard:word@"+rowstest.Listen(n, serve)+"/d?sslmode=disable"), 0o600))
	}
}

// The daemon, as systemd has it where all is well.
const (
	daemonPID        = 4_194_304 // which no process has
	daemonInvocation = "11111111111111111111111111111111"
)

var daemonIs = map[string]any{
	"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "UnitFileState": "enabled", "FragmentPath": "/etc/systemd/system/containarium.service",
	"DropInPaths": []string{}, "ActiveEnterTimestamp": uint64(1_790_000_000_000_000), "InvocationID": bytes.Repeat([]byte{0x11}, 16),
	"MainPID": uint32(daemonPID), "ExecMainPID": uint32(daemonPID), "Environment": []string{}, "EnvironmentFiles": [][]any{}, "UnsetEnvironment": []string{},
	"PassEnvironment": []string{}, "Version": "257", "NextElapseUSecRealtime": uint64(0),
	"ExecStart": []any{}, "ExecStartPre": []any{}, "SuccessExitStatus": []any{[]int32{}, []int32{}},
}

// systemd answers with these properties.
func systemd(is map[string]any) func(*dbus.Message) unittest.Answer {
	return func(call *dbus.Message) unittest.Answer {
		switch call.Headers[dbus.FieldMember].Value() {
		case "Get":
			if v, ok := is[call.Body[1].(string)]; ok {
				return unittest.Answer{Values: []any{dbus.MakeVariant(v)}}
			}
		case "GetAll":
			all := map[string]dbus.Variant{}
			for name, v := range is {
				all[name] = dbus.MakeVariant(v)
			}
			return unittest.Answer{Values: []any{all}}
		}
		return unittest.Answer{Error: "org.freedesktop.DBus.Error.UnknownProperty", Values: []any{"unknown"}}
	}
}

// bus is how systemd answers, each new connection anew.
type bus = atomic.Pointer[func(net.Conn)]

// oddSystemd are others.
func oddSystemd(t *testing.T, is *bus) []oddity {
	answers := func(answer func(*dbus.Message) unittest.Answer) func(net.Conn) {
		return func(conn net.Conn) { unittest.Serve(t, conn, answer) }
	}
	all := func(value any) func(net.Conn) {
		properties := map[string]any{}
		for name := range daemonIs {
			properties[name] = value
		}
		return answers(systemd(properties))
	}
	always := func(a unittest.Answer) func(net.Conn) {
		return answers(func(*dbus.Message) unittest.Answer { return a })
	}
	dirty := "\x1b[2J\nkeyguard: all is well\u202e\n<0>" + strings.Repeat("long ", 100)
	but := func(more map[string]any) func(net.Conn) {
		properties := maps.Clone(daemonIs)
		maps.Copy(properties, more)
		return answers(systemd(properties))
	}
	var list []oddity
	for name, serve := range map[string]func(net.Conn){
		"nothing":              func(net.Conn) {},
		"no bus":               func(conn net.Conn) { io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n\x1b[2J") }, //nolint:errcheck // who asked may have gone
		"an evil error":        always(unittest.Answer{Error: "org.freedesktop.systemd1.NoSuchUnit", Values: []any{dirty}}),
		"no values":            always(unittest.Answer{}),
		"another value":        always(unittest.Answer{Values: []any{uint32(7)}}),
		"rubbish":              always(unittest.Answer{Bytes: []byte("l\x02\x01\x01\xff\xff\xff\xff\x1b[2J\xff\xff\xff\xff")}),
		"no answer":            always(unittest.Answer{Bytes: []byte{}}),
		"numbers":              all(int64(-1)),
		"dirty names":          all(dirty),
		"empty lists":          all([]string{}),
		"lists of lists":       all([][]any{{}}),
		"no properties":        answers(systemd(nil)),
		"not loaded":           but(map[string]any{"LoadState": dirty}),
		"a state nobody knows": but(map[string]any{"ActiveState": dirty}),
		"evil environment":     but(map[string]any{"Environment": []string{"CONTAINARIUM_POSTGRES_URL=" + dirty, dirty, "PGHOST=" + dirty, "=", ""}}),
		"odd files":            but(map[string]any{"EnvironmentFiles": [][]any{{"/dev/zero", false}, {dirty, true}, {"[", false}, {7, 8}}}),
		"no invocation":        but(map[string]any{"InvocationID": []byte{}, "MainPID": uint32(0)}),
		"another time":         but(map[string]any{"ActiveEnterTimestamp": ^uint64(0)}),
	} {
		list = append(list, oddity{name: name, spoil: func(*neighbour) { is.Store(&serve) }})
	}
	never := answers(func(*dbus.Message) unittest.Answer { select {} })
	return append(list, oddity{name: "never", hangs: true, spoil: func(*neighbour) { is.Store(&never) }})
}

// oddJournals are what journalctl may print.
func oddJournals() []oddity {
	line := func(pid int, message string) string {
		return fmt.Sprintf(`{"MESSAGE": %q, "_PID": "%d", "_SYSTEMD_INVOCATION_ID": %q, "__REALTIME_TIMESTAMP": "1790000001000000", "__CURSOR": "c"}`+"\n", message, pid, daemonInvocation)
	}
	var list []oddity
	for name, script := range map[string]string{
		"nothing, with 1": "exit 1\n", "dies": "kill -9 $$\n", "rubbish": "printf '\\377\\033[2J\\n<0>\\n{\\n'\n", "empty lines": "printf '\\n\\n\\n'\n",
		"wrong types": `echo '{"MESSAGE": 7, "_PID": [], "__REALTIME_TIMESTAMP": {}, "KEYGUARD_EVENT": ["x"]}'` + "\n",
		"evil events": `cat <<'END'` + "\n" + `{"MESSAGE": "` + evil + `", "KEYGUARD_EVENT": "` + evil + `", "KEYGUARD_FINGERPRINT": "` + evil + `", "KEYGUARD_ESCROW": "` + evil + `", "KEYGUARD_COPY": "` + evil + `", "__REALTIME_TIMESTAMP": "9223372036854775807"}` + "\nEND\n",
		"of another":  "cat <<'END'\n" + line(1, "2026/01/01 00:00:00 [secrets] NEW MASTER KEY generated at /x") + line(1, "2026/01/01 00:00:00 Secrets store ready (x)") + "END\n",
		"in between":  "cat <<'END'\n" + line(daemonPID, "tenant x says 2026/01/01 00:00:00 Warning: Failed to load secrets master key: x") + "END\n",
		"a long line": "head -c 8000000 /dev/zero | tr '\\0' x\n", "evil words": "printf '\\033[2J\\nkeyguard: all is well\\n' >&2; exit 3\n",
	} {
		list = append(list, oddity{name: name, spoil: func(n *neighbour) {
			n.must(os.WriteFile(n.path("bin/journalctl"), []byte("#!/bin/sh\n"+script), 0o700))
		}})
	}
	return append(list, oddity{name: "never", hangs: true, spoil: func(n *neighbour) {
		n.must(os.WriteFile(n.path("bin/journalctl"), []byte("#!/bin/sh\nexec sleep 1000\n"), 0o700))
	}})
}

// oddHooks are what may stand among the hooks.
func oddHooks() []oddity {
	hook := func(name, as string, mode os.FileMode, text string) oddity {
		return oddity{name: name, hangs: name == "never", spoil: func(n *neighbour) {
			n.must(os.WriteFile(n.path("hooks/"+as), []byte(text), mode))
			n.must(os.Chmod(n.path("hooks/"+as), mode))
		}}
	}
	return []oddity{
		hook("never", "hook", 0o755, "#!/bin/sh\nexec sleep 1000\n"),
		hook("evil words", "hook", 0o755, "#!/bin/sh\nprintf '\\033[2J\\n<0>keyguard: all is well\\342\\200\\256'\nprintf '\\033[2J\\n<0>' >&2\nexit 1\n"),
		hook("dies", "hook", 0o755, "#!/bin/sh\nkill -9 $$\n"), hook("for everybody", "hook", 0o777, "#!/bin/sh\ntouch \"$0.ran\"\n"),
		hook("without end", "hook", 0o755, "#!/bin/sh\nexec cat /dev/zero\n"), hook("no program", "hook", 0o755, "\x00\xff\x1b[2J"), hook("no interpreter", "hook", 0o755, "#!/nowhere/\x1b[2J\n"),
		hook("an evil name", "\x1b[2J\nkeyguard: all is well\u202e", 0o755, "#!/bin/sh\n"), hook("not executable", "hook", 0o644, "#!/bin/sh\n"),
		{name: "a FIFO", spoil: func(n *neighbour) { n.must(unix.Mkfifo(n.path("hooks/hook"), 0o755)) }},
		{name: "a loop", spoil: func(n *neighbour) { n.must(os.Symlink("hook", n.path("hooks/hook"))) }},
		{name: "a directory for everybody", spoil: func(n *neighbour) {
			n.must(os.WriteFile(n.path("hooks/hook"), []byte("#!/bin/sh\ntouch \"$0.ran\"\n"), 0o755))
			n.must(os.Chmod(n.path("hooks"), 0o777))
		}},
		{name: "too many", spoil: func(n *neighbour) {
			for i := range 40 {
				n.must(os.WriteFile(n.path(fmt.Sprint("hooks/hook", i)), []byte("#!/bin/sh\n"), 0o755))
			}
		}},
		{name: "no directory", spoil: func(n *neighbour) {
			n.must(os.Remove(n.path("hooks")))
			n.must(unix.Mkfifo(n.path("hooks"), 0o755))
		}},
	}
}

// meeting is how a command ends that meets an oddity.
type meeting struct {
	odd      string // their names; after a "-" all but these; "" is all, and where all is well, too
	commands string // "" is all that read the configuration, but prestart
	code     int
}

func (e meeting) of(odd, command string) bool {
	names, but := strings.CutPrefix(e.odd, "-")
	switch {
	case e.odd != "" && (odd == "well" || slices.Contains(strings.Split(names, ", "), odd) == but):
		return false
	case e.commands == "":
		return command != "prestart" && !strings.HasPrefix(command, "fleet") && !strings.HasPrefix(command, "__") && !strings.HasPrefix(command, "alert")
	}
	return slices.Contains(strings.Split(e.commands, ", "), command)
}

// wellEnds are the endings on a host where all is well, whose rows are silent and whose store
// may be on its own disk.
var wellEnds = []meeting{{"", "verify, drill", exitDoubt}, {"", "doctor", exitEscrow}, {"", "rotate --dry-run", exitRefused},
	{"", "fleet --config FLEET --inventory HOSTS", exitDoubt}}

const (
	// special files, and what else may not hold a secret.
	special = "for everybody, fifo, device, zeros, socket, directory"
	// tight is a file that is right by its modes, whoever's it is.
	tight = "-for everybody, of another"
)

// neighbours are those that commands listen to besides the stores: the configuration of a
// host with one, how it may be odd, and which commands end otherwise then, the first that fits.
func neighbours(t *testing.T, is *bus) map[string]struct {
	config string
	odd    []oddity
	ends   []meeting
} {
	const (
		hook  = "notify = { hooks_dir = \"DIR/hooks\", metrics_file = \"\" }\n"
		quiet = "notify = { hooks_dir = \"\", metrics_file = \"\" }\n"
		none  = "database.url = \"none\"\n"
		where = "database.url_file = \"DIR/url\"\ndatabase.connect_timeout = \"300ms\"\n"
		alone = "daemon.unit = \"\"\n"
		its   = "daemon.unit = \"containarium.service\"\n"
	)
	// Nobody can tell what rows there are.
	unknown := meeting{"", "repair --dry-run", exitRefused}
	// Nobody can tell on which key the daemon runs, or keyguard is not asked before it starts; or
	// nobody could ask the rows, neither when a person accepted the key.
	amiss := meeting{"", "status, status --json", exitEscrow}
	return map[string]struct {
		config string
		odd    []oddity
		ends   []meeting
	}{
		"the ledger": {none + alone + quiet, oddContents("state/ledger.jsonl"), []meeting{
			{"-empty, half of it, for everybody, of another", "status, status --json", exitEscrow},
			{"-half of it, for everybody, of another", "report", exitDoubt},
			{"-empty, half of it, for everybody, of another", "log", exitDoubt},
			{"zeros, loop, device, socket, huge, fifo, directory", "accept --yes, explain KEY", exitDoubt},
		}},
		"the configuration": {none + alone + quiet, oddContents("keyguard.toml"), []meeting{
			{"half of it", "prestart", exitDone}, // its first line names the keyfile
			{"-half of it", "prestart", exitUsage},
			{"-", "", exitUsage},
		}},
		"the keyfile": {none + alone + quiet, oddContents("etc/secrets.key"), []meeting{
			{tight, "accept --yes, backup, paper", exitRefused}, {tight, "doctor, status, status --json", exitDoubt},
			{"for everybody, of another", "status, status --json", exitEscrow},
		}},
		"the store's token": {none + alone + quiet, oddContents("token"), []meeting{
			{special, "config", exitUsage},
			{"-of another", "status, status --json, copies, backup, init --yes, import --escrow-only, explain KEY", exitEscrow},
			{"-of another", "- restore, - prestart", exitDoubt},
		}},
		"the database's URL":     {where + alone + quiet, oddContents("url"), []meeting{{special, "config", exitUsage}, unknown, amiss}},
		"what starts remember":   {none + alone + quiet, oddContents("run/backoff.json"), nil},
		"where the database is":  {alone + quiet, oddContents("run/database.json"), []meeting{unknown, amiss}},
		"how hooks ended":        {none + alone + hook, oddContents("run/hooks.json"), nil},
		"which key a start left": {none + its + quiet, oddContents("run/started.json"), []meeting{amiss}},
		"the database":           {where + alone + quiet, oddPostgres(), []meeting{unknown, amiss}},
		"systemd":                {its + quiet, oddSystemd(t, is), []meeting{unknown, amiss}},
		"the journal":            {none + its + quiet, oddJournals(), []meeting{amiss}},
		"a hook":                 {none + alone + hook, oddHooks(), nil},
	}
}

// TestHostileNeighbours: whatever is odd of what a command listens to besides the stores, the
// command ends with the code that is documented, says little and that printably, and leaves
// what it guards and keeps as it is, or with the right key in its place (law 10). That it ends
// shows the test's end. Each oddity meets some commands, and each command some oddities;
// KEYGUARD_EVERY_ANSWER has all meet all, and those who never answer, for whom commands wait.
func TestHostileNeighbours(t *testing.T) {
	every, of := os.Getenv("KEYGUARD_EVERY_ANSWER") != "", 8
	if brief.Run() {
		of *= 8
	}
	var is bus
	well := func(conn net.Conn) { unittest.Serve(t, conn, systemd(daemonIs)) }
	is.Store(&well)
	unittest.Listen(t, func(conn net.Conn) { (*is.Load())(conn) })
	for name, c := range neighbours(t, &is) {
		t.Run(name, func(t *testing.T) {
			n := newNeighbour(t, c.config)
			t.Setenv("PATH", n.path("bin")+":"+os.Getenv("PATH"))
			slices.SortFunc(c.odd, func(x, y oddity) int { return strings.Compare(x.name, y.name) })
			for i, odd := range append([]oddity{{name: "well", spoil: func(*neighbour) {}}}, c.odd...) {
				if odd.hangs && !every {
					continue
				}
				is.Store(&well)
				codes := map[string]int{}
				if odd.hangs {
					codes = n.together(odd)
				}
				for k, command := range neighbourCommands {
					if !odd.hangs && !(name == "the keyfile" && command[0] == '-') && (every || (k+i)%of == 0) {
						codes[command] = n.try(command, odd)
					}
				}
				for command, code := range codes {
					want := exitDone
					for _, e := range slices.Backward(slices.Concat(c.ends, wellEnds)) {
						if e.of(odd.name, command) {
							want = e.code
						}
					}
					if strings.HasPrefix(command, "alert") && code == exitInternal {
						continue // somebody did not hear of it: there is no journal, a hook fails
					}
					if code != want {
						t.Errorf("%s, keyguard %s: exit code %d, not %d", odd.name, command, code, want)
					}
				}
			}
		})
	}
}

// TestNeighboursMeetAll: every command that there is meets them, but those that are watched
// elsewhere.
func TestNeighboursMeetAll(t *testing.T) {
	elsewhere := []string{
		"watch",                                                        // TestWatch, TestWatchModel
		"version", "help", "completion", "serve-directory", "describe", // ask nobody, or are asked by us
	}
	for _, c := range (&app{}).commands().Commands() {
		if !slices.Contains(elsewhere, c.Name()) && !slices.ContainsFunc(neighbourCommands, func(line string) bool { return strings.HasPrefix(strings.TrimPrefix(line, "- "), c.Name()) }) {
			t.Errorf("keyguard %s meets no neighbour", c.Name())
		}
	}
}
