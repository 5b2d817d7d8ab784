package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent/key/keytest"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

// malformed is one answer that a store should not give, to whatever it is asked.
type malformed struct {
	name   string
	status int
	header map[string]string // of HTTP
	body   string
	serve  func(http.ResponseWriter, *http.Request) // in place of the rest
	// sound are the kinds to which it is an answer in due form, though nothing in it is true.
	sound string
}

const signIn = "<!DOCTYPE html><html><head><title>Sign in</title></head><body>\x1b[2J<h1>Welcome back!</h1></body></html>\n"

// evil is what somebody calls his entries to be taken for keyguard's own words, in JSON.
const evil = `\u0000\u001b]0;owned\u0007\nkeyguard: all is well\u202e\u2028`

// malformedAnswers are made where they are used: each program that a test starts is this
// binary, too, and the larger ones take seconds under the race detector.
func malformedAnswers() []malformed {
	return []malformed{
		{name: "empty", status: 200},
		{name: "white space", status: 200, body: " \r\n"},
		{name: "HTML", status: 200, header: map[string]string{"Content-Type": "text/html"}, body: signIn},
		{name: "HTML, 404", status: 404, header: map[string]string{"Content-Type": "text/html"}, body: signIn},
		{name: "HTML, 403", status: 403, header: map[string]string{"Content-Type": "text/html"}, body: signIn},
		{name: "HTML, 502", status: 502, header: map[string]string{"Content-Type": "text/html"}, body: signIn},
		{name: "cut", status: 200, body: `{"data": {"keys": ["keyg`},
		{name: "null", status: 200, body: "null"},
		{name: "{}", status: 200, body: "{}"},
		{name: "[]", status: 200, body: "[]"},
		{name: "text", status: 200, body: `"ok"`},
		{name: "a number", status: 200, body: "1e999999999"},
		{name: "null inside", status: 200, body: `{"data": null, "auth": null, "SecretList": null, "SecretVersionIdsToStages": null, "Versions": null, "SecretString": null}`},
		{name: "wrong types", status: 200, body: `{"data": {"keys": {"a": 1}, "data": "x", "metadata": {"version": "seven"}, "versions": [7], "type": 7, "path": []}, "auth": [],
		"SecretList": {}, "SecretVersionIdsToStages": 7, "Versions": [7], "SecretString": {"a": 1}, "VersionId": 9, "CreatedDate": "x"}`},
		{name: "wrong types, deeper", status: 200, body: `{"data": {"type": "kv", "path": "secret/", "options": {"version": "2"}, "keys": ["keyguard", 7, null], "data": {"value": 9},
		"metadata": {"version": 1e400}, "versions": {"x": {}, "1": 7}}, "Versions": [{"VersionId": 9, "VersionStages": "AWSCURRENT", "CreatedDate": -1e300}]}`},
		{name: "evil names", sound: "vault aws", status: 200, body: `{"data": {"type": "kv", "path": "secret/", "options": {"version": "2"}, "keys": ["keyguard", "` + evil + `", "../../../etc/passwd", ""], "data": {"value": "` + evil + `"},
		"metadata": {"version": 3, "created_time": "` + evil + `"}, "versions": {"3": {"created_time": "` + evil + `"}}}, "Versions": [{"VersionId": "` + evil + `", "VersionStages": ["AWSCURRENT", "` + evil + `"], "CreatedDate": 1}],
		"SecretString": "` + evil + `", "VersionId": "` + evil + `", "VersionStages": ["AWSCURRENT"], "Name": "` + evil + `", "ARN": "` + evil + `"}`},
		{name: "evil errors", status: 400, body: `{"errors": ["` + evil + `", "` + strings.Repeat("long ", 4000) + `"], "__type": "` + evil + `", "message": "` + evil + strings.Repeat("long ", 4000) + `"}`},
		{name: "evil errors, 403", status: 403, body: `{"errors": ["` + evil + `"], "__type": "` + evil + `", "message": "` + evil + `"}`},
		{name: "evil errors, 500", status: 500, body: `{"errors": "` + evil + `"}`},
		{name: "deep", status: 200, body: strings.Repeat(`{"data":[`, 100_000)},
		{name: "huge", status: 200, body: `{"data": {"keys": ["` + strings.Repeat("x", 8<<20) + `"]}}`},
		{name: "endless", serve: func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"data": {"keys": ["keyguard"`)
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, strings.Repeat(`, "x"`, 4000)); err != nil {
					return
				}
			}
		}},
		{name: "redirect to another host", status: 307, header: map[string]string{"Location": "http://localhost:1/v1/secret"}},
		{name: "redirect in a circle", serve: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+r.Host+r.URL.String(), http.StatusTemporaryRedirect)
		}},
		{name: "redirect to nowhere", status: 307, header: map[string]string{"Location": "gopher://\x1b[2J"}},
		{name: "redirect without a place", status: 308},
		{name: "429", status: 429, header: map[string]string{"Retry-After": "-1"}, body: `{"errors": []}`},
		{name: "429, for ever", status: 429, header: map[string]string{"Retry-After": "99999999999999999999"}},
		{name: "503", status: 503, header: map[string]string{"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, body: signIn},
		{name: "503, odd", status: 503, header: map[string]string{"Retry-After": "soon \u202e"}, body: "null"},
		{name: "gzip that is none", status: 200, header: map[string]string{"Content-Encoding": "gzip"}, body: "{}"},
		{name: "gzip that grows", status: 200, header: map[string]string{"Content-Encoding": "gzip"}, body: zipped(64 << 20)},
		{name: "shorter than it says", status: 200, header: map[string]string{"Content-Length": "1000"}, body: "{"},
		{name: "an odd status", status: 299, body: "{}"},
		{name: "no content", status: 204},
		{name: "hangs up", serve: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		// To who speaks gRPC.
		{name: "gRPC, nothing", status: 200, header: grpcHeader("Grpc-Status", "0")},
		{name: "gRPC, an empty message", sound: "gcp", status: 200, header: grpcHeader("Trailer:Grpc-Status", "0"), body: "\x00\x00\x00\x00\x00"},
		{name: "gRPC, no message", status: 200, header: grpcHeader("Trailer:Grpc-Status", "0"), body: "\x00\x00\x00\x00\x05\xff\xff\xff\xff\xff"},
		{name: "gRPC, cut", status: 200, header: grpcHeader("Trailer:Grpc-Status", "0"), body: "\x00\x00\x00\x01\x00abc"},
		{name: "gRPC, huge", status: 200, header: grpcHeader("Trailer:Grpc-Status", "0"), body: "\x00\xff\xff\xff\xffabc"},
		{name: "gRPC, compressed", status: 200, header: grpcHeader("Grpc-Encoding", "gzip"), body: "\x01\x00\x00\x00\x03abc"},
		{name: "gRPC, a status of nobody", status: 200, header: grpcHeader("Grpc-Status", "4711", "Grpc-Message", "%1b[2J%0akeyguard: all is well%e2%80%ae")},
		{name: "gRPC, not found", sound: "gcp", status: 200, header: grpcHeader("Grpc-Status", "5", "Grpc-Message", strings.Repeat("%0along", 500))},
		{name: "gRPC, denied", status: 200, header: grpcHeader("Grpc-Status", "7", "Grpc-Message", "%1b[2J", "Grpc-Status-Details-Bin", "####")},
	}
}

func grpcHeader(pairs ...string) map[string]string {
	h := map[string]string{"Content-Type": "application/grpc"}
	for i := 0; i < len(pairs); i += 2 {
		h[pairs[i]] = pairs[i+1]
	}
	return h
}

func zipped(n int) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(make([]byte, n)) //nolint:errcheck // to memory
	z.Close()
	return b.String()
}

// answerTo answers as it is malformed.
func (m malformed) answerTo(w http.ResponseWriter, r *http.Request) {
	if m.serve != nil {
		m.serve(w, r)
		return
	}
	for name, value := range m.header {
		if after, ok := strings.CutPrefix(name, "Trailer:"); ok {
			name = http.TrailerPrefix + after
		}
		w.Header().Set(name, value)
	}
	w.WriteHeader(m.status)
	io.WriteString(w, m.body) //nolint:errcheck // who asked may have gone
}

// hostile is a host whose only escrow is a store that answers as it is told.
type hostile struct {
	*testing.T
	*sandbox
	kind   string
	server *httptest.Server

	mu     sync.Mutex
	answer malformed // mu
	wrote  []string  // mu: requests that hold a key
}

func (h *hostile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	h.mu.Lock()
	answer := h.answer
	if keytest.Find(body, testKey("a")) != "" {
		h.wrote = append(h.wrote, r.Method+" "+r.URL.Path+" "+r.Header.Get("X-Amz-Target"))
	}
	h.mu.Unlock()
	if _, version, ok := strings.Cut(h.kind, ", version "); ok && strings.HasPrefix(r.URL.Path, "/v1/sys/internal/ui/mounts/") {
		fmt.Fprintf(w, `{"data": {"type": "kv", "path": "secret/", "options": {"version": %q}}}`, version)
		return
	}
	answer.answerTo(w, r)
}

// hostileKinds are the kinds, as configuration. The answers of those that speak no HTTP are
// in files. The engine of a Vault whose version stands here says what it is, so that what is
// asked of it next is answered.
var hostileKinds = map[string]string{
	"vault":            hostileVault,
	"vault, version 1": hostileVault,
	"vault, version 2": hostileVault,
	"gcp":              hostileGCP,
	"aws":              hostileAWS,
	"split": "kind = \"split\"\nneed = 2\nmembers = [\"one\", \"two\", \"three\"]\n" +
		"[[escrow]]\nname = \"one\"\npart = 1\n" + hostileVault +
		"[[escrow]]\nname = \"two\"\npart = 2\n" + hostileGCP +
		"[[escrow]]\nname = \"three\"\npart = 3\n" + hostileAWS,

	"command":   "kind = \"command\"\nsave = [\"tee\", \"-a\", \"DIR/saved\"]\nlist = [\"cat\", \"DIR/answer\"]\nfetch = [\"cat\", \"DIR/answer\"]\n",
	"directory": "kind = \"directory\"\npath = \"DIR/usb\"\nallow_same_disk = true\n",
	"1password": "kind = \"command\"\npreset = \"1password\"\npath = \"hosts/master\"\n",
	"bitwarden": "kind = \"command\"\npreset = \"bitwarden\"\npath = \"master\"\n",
	"pass":      "kind = \"command\"\npreset = \"pass\"\npath = \"master\"\n",
}

const (
	hostileVault = "kind = \"vault-kv\"\naddress = \"http://ADDR\"\nmount = \"secret\"\npath = \"hosts/h1/master\"\ntoken_file = \"DIR/token\"\n"
	hostileGCP   = "kind = \"gcp-secret-manager\"\nproject = \"keyguard-test\"\nsecret = \"master\"\nendpoint = \"ADDR\"\nplaintext = true\n"
	hostileAWS   = "kind = \"aws-secrets-manager\"\nregion = \"eu-central-1\"\nsecret = \"master\"\ncredentials_file = \"DIR/credentials\"\nendpoint = \"ADDR\"\nplaintext = true\n"
)

// inFiles tells whether a kind finds its answers in files; listed, whether who lists them is
// this host, and not who answers.
func inFiles(kind string) bool { return !strings.Contains(hostileKinds[kind], "ADDR") }
func listed(kind string) bool  { return kind == "directory" || kind == "pass" }

func newHostile(t *testing.T, kind string) *hostile {
	h := &hostile{T: t, sandbox: &sandbox{dir: t.TempDir()}, kind: kind}
	h.server = httptest.NewUnstartedServer(h)
	h.server.Config.Protocols = &http.Protocols{}
	h.server.Config.Protocols.SetHTTP1(true)
	h.server.Config.Protocols.SetUnencryptedHTTP2(true)
	h.server.Start()
	t.Cleanup(h.server.Close)
	for _, d := range []string{"etc", "state", "run", "bin", "pass"} {
		h.must(os.Mkdir(h.path(d), 0o700))
	}
	escrow := strings.NewReplacer("ADDR", h.server.Listener.Addr().String(), "DIR", h.dir).Replace(hostileKinds[kind])
	config := fmt.Sprintf("keyfile = %q\nstate_dir = %q\nrun_dir = %q\ndatabase.url = \"none\"\ndaemon.unit = \"\"\nprestart.budget = \"20s\"\nnotify = { hooks_dir = \"\", metrics_file = \"\" }\n[[escrow]]\nname = \"store\"\n%s",
		h.path("etc/secrets.key"), h.path("state"), h.path("run"), escrow)
	h.must(os.WriteFile(h.path("keyguard.toml"), []byte(config), 0o600))
	h.must(os.WriteFile(h.path("token"), []byte("hvs.a-token-4711"), 0o600))
	h.must(os.WriteFile(h.path("credentials"), []byte("[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n"), 0o600))
	for _, program := range []string{"op", "bw", "pass"} { // which say one thing, whatever they are asked
		script := "#!/bin/sh\ncase \"$*\" in *create*|*insert*) cat >>\"" + h.path("saved") + "\";; *) cat \"" + h.path("answer") + "\";; esac\n"
		h.must(os.WriteFile(h.path("bin/"+program), []byte(script), 0o700))
	}
	t.Setenv("PATH", h.path("bin")+":"+os.Getenv("PATH"))
	t.Setenv("PASSWORD_STORE_DIR", h.path("pass"))
	many := strings.NewReplacer("hosts/h1/master", "{hostname}", `"master"`, `"{hostname}"`, "hosts/master", "hosts/{hostname}", "/usb", "/{hostname}",
		"/answer", "/answer\", \"{hostname}", "DIR", h.dir, "ADDR", h.server.Listener.Addr().String()).Replace(hostileKinds[kind])
	h.must(os.WriteFile(h.path("fleet.toml"), []byte("[[escrow]]\nname = \"store\"\n"+many), 0o600))
	h.must(os.WriteFile(h.path("hosts"), []byte("usb\nweb1\n"), 0o600))
	h.must(os.WriteFile(h.path("key"), testKey("a").UnsafeBytes(), 0o600))
	l := ledger.Open(h.path("state"), ledger.Options{Host: "host", Version: "99.0", Now: time.Now})
	h.must(l.Append(ledger.Entry{Event: ledger.Accepted, Fingerprint: testKey("a").Fingerprint()}))
	return h
}

func (h *hostile) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// keyguard runs a command in this process.
func (h *hostile) keyguard(args ...string) (code int, stdout, stderr string) {
	var out, said bytes.Buffer
	in, err := os.Open(h.path("key"))
	h.must(err)
	defer in.Close()
	a := &app{in: in, out: &out, err: &said}
	root := a.commands()
	root.SetArgs(append([]string{"--config", h.path("keyguard.toml")}, args...))
	if args[0] == cobra.ShellCompRequestCmd {
		root.SetArgs(slices.Insert(args, 1, "--config", h.path("keyguard.toml")))
		root.SetOut(&out)
	}
	c, err := root.ExecuteContextC(context.Background())
	if err != nil {
		a.command = c.CommandPath()
		code = a.explain(err)
	}
	return code, out.String(), said.String()
}

// untouchable are the names and contents of what may not change, but the ledger's own record.
func (h *hostile) untouchable() map[string]string {
	all := map[string]string{}
	for _, top := range []string{"etc", "state"} {
		filepath.WalkDir(h.path(top), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && !strings.HasPrefix(filepath.Base(path), "ledger") {
				data, _ := os.ReadFile(path)
				if len(data) > 0 {
					all[path] = string(data)
				}
			}
			return nil
		})
	}
	return all
}

// hostileCommands are all that ask an escrow, whether the keyfile stands, and how they end
// where the only escrow cannot answer. Where it answers in due form they may end in another
// way that is documented.
var hostileCommands = []struct {
	line    string
	keyfile bool
	code    int
	sound   []int
}{
	{"status", true, exitEscrow, []int{exitDoubt, exitEscrow}},
	{"verify", true, exitDoubt, []int{exitDoubt}},
	{"copies", true, exitEscrow, []int{exitDone, exitEscrow}},
	{"copies --json", true, exitEscrow, []int{exitDone, exitEscrow}},
	{"backup", true, exitEscrow, []int{exitDone, exitEscrow, exitRefused}},
	{"drill", true, exitDoubt, []int{exitDoubt, exitEscrow}},
	{"doctor", true, exitEscrow, []int{exitDone, exitDoubt, exitEscrow}},
	{"restore", false, exitDoubt, []int{exitNoCopy, exitDoubt}},
	{"restore --from store --copy current/1", false, exitDoubt, []int{exitNoCopy, exitDoubt}},
	{"prestart", true, exitDone, []int{exitDone}},
	{"prestart", false, exitDoubt, []int{exitDoubt}},
	{"init --yes", true, exitEscrow, []int{exitDone, exitEscrow, exitRefused}},
	{"import --escrow-only", true, exitEscrow, []int{exitDone, exitEscrow}},
	{"explain KEY", true, exitEscrow, []int{exitDone, exitEscrow}},
	{"accept --yes", true, exitDone, []int{exitDone}}, // it has the person's word
	{"rotate --here --yes", true, exitRefused, []int{exitRefused}},
	{"repair --here --yes", true, exitDone, []int{exitDone}}, // no database: nothing to repair
	{"fleet --config FLEET --inventory HOSTS --iam --again 0s", true, exitDoubt, []int{exitDoubt, exitEscrow}},
	{"__complete restore --copy c", true, exitDone, []int{exitDone}},
	{"report", true, exitDone, []int{exitDone}}, {"log", true, exitDone, []int{exitDone}},
}

// hostileFirst is how many of them are tried on every answer.
const hostileFirst = 11

const (
	hostileWords  = 16 << 10  // bytes that a command says at most
	hostileMemory = 128 << 20 // bytes that it asks for in all
)

// TestHostile gives every kind every malformed answer, in every command: the exit code is
// the one that is documented, the message printable and short, nothing is written here or
// there, no other key is put in place, and it takes bounded memory (law 10). That it ends is
// the time it takes.
func TestHostile(t *testing.T) {
	for kind := range hostileKinds {
		t.Run(kind, func(t *testing.T) {
			h := newHostile(t, kind)
			for i, answer := range malformedAnswers() {
				if strings.HasPrefix(answer.name, "gRPC") && kind != "gcp" || testing.Short() && i%4 != 0 || brief.Run() && i%16 != 0 {
					continue
				}
				base, _, _ := strings.Cut(kind, ",")
				sound := strings.Contains(answer.sound, base) || kind == "split" && strings.Contains(answer.sound, "vault")
				if inFiles(kind) {
					if answer.serve != nil || answer.status != 200 {
						continue
					}
					h.file(answer.body)
					sound = listed(kind) || answer.name == "[]" && kind != "command" // whatever is in it
				}
				h.mu.Lock()
				h.answer = answer
				h.mu.Unlock()
				for n, c := range hostileCommands {
					switch {
					case kind == "directory" && (i%12 != 0 || !slices.Contains([]string{"copies", "backup", "restore"}, c.line)):
						continue // each starts another process, twice
					case strings.HasPrefix(c.line, "fleet") && strings.HasPrefix(answer.name, "429"):
						continue // it waits for a quota, minutes
					case n >= hostileFirst && (n+i)%4 != 0: // of these each answer has some, and each of them some answers
						continue
					case kind == "split" && n%3 != i%3, strings.Contains(hostileKinds[kind], "preset") && n%4 != i%4:
						continue
					}
					// Any text is a listing of a script's, and mostly of a place that is still to be made.
					h.try(kind+", "+answer.name, c.line, c.keyfile, sound || kind == "command" && n >= hostileFirst, c.code, c.sound)
				}
			}
		})
	}
}

// file puts an answer where programs and directories find it, under a copy's own name and
// under one that nobody should choose.
func (h *hostile) file(body string) {
	h.Helper()
	h.must(os.WriteFile(h.path("answer"), []byte(body), 0o600))
	h.must(os.RemoveAll(h.path("usb")))
	h.must(os.MkdirAll(h.path("usb/current"), 0o700))
	h.must(os.WriteFile(h.path("usb/README.txt"), []byte("keyguard escrow directory\n"), 0o600))
	h.must(os.MkdirAll(h.path("pass/master"), 0o700))
	h.must(os.WriteFile(h.path("pass/master/keyguard.gpg"), nil, 0o600))
	h.must(os.WriteFile(h.path("pass/master/20260101T000000.000Z-"+string(testKey("b").Fingerprint())+".key.gpg"), nil, 0o600))
	for _, name := range []string{"20260101T000000.000Z-" + string(testKey("b").Fingerprint()) + ".key", "\x1b[2J\nkeyguard: all is well\u202e\xff.key"} {
		h.must(os.WriteFile(h.path("usb/current/"+name), []byte(body), 0o600))
	}
}

// try runs a command once.
func (h *hostile) try(what, line string, keyfile, sound bool, code int, codes []int) {
	h.Helper()
	what += ", keyguard " + line
	os.Remove(h.path("etc/secrets.key"))
	h.must(os.RemoveAll(h.path("run"))) // and what an earlier start remembers
	h.must(os.Mkdir(h.path("run"), 0o700))
	if keyfile {
		h.must(os.WriteFile(h.path("etc/secrets.key"), testKey("a").UnsafeBytes(), 0o400))
	}
	before := h.untouchable()
	var then, now runtime.MemStats
	runtime.ReadMemStats(&then)
	args := strings.Fields(strings.NewReplacer("FLEET", h.path("fleet.toml"), "HOSTS", h.path("hosts"), "KEY", string(testKey("a").Fingerprint())).Replace(line))
	got, stdout, stderr := h.keyguard(args...)
	runtime.ReadMemStats(&now)
	if took := now.TotalAlloc - then.TotalAlloc; took > hostileMemory {
		h.Errorf("%s: it asks for %d MB of memory", what, took>>20)
	}
	if got != code && !(sound && slices.Contains(codes, got)) {
		h.Errorf("%s: exit code %d, not %d\n%s%s", what, got, code, stdout, stderr)
	}
	if found := unprintable.FindString(stdout + "\n" + stderr); found != "" {
		h.Errorf("%s: %q is printed as it is", what, found)
	}
	if n := len(stdout) + len(stderr); n > hostileWords {
		h.Errorf("%s: it says %d bytes", what, n)
	}
	for line := range strings.Lines(stderr) {
		if !ownLine.MatchString(line) {
			h.Errorf("%s: a line of nobody: %q", what, line)
		}
	}
	if got != exitDone && !strings.Contains(stderr, "hint: ") {
		h.Errorf("%s: no hint\n%s", what, stderr)
	}
	keytest.NoLeak(h, what, []byte(stdout+stderr), testKey("a"))
	if after := h.untouchable(); !maps.Equal(before, after) {
		h.Errorf("%s: of %d files there are %d, or others", what, len(before), len(after))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.wrote) > 0 && !sound {
		h.Errorf("%s: it hands out the key: %s", what, h.wrote)
	}
	h.wrote = nil
	if _, err := os.Stat(h.path("saved")); err == nil && !sound {
		h.Errorf("%s: it saves", what)
	}
	os.Remove(h.path("saved"))
}

var ownLine = regexp.MustCompile(`^(keyguard: |hint: | {2}|Completion ended with directive: \w+\n$)`)
