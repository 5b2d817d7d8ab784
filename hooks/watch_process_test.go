package hooks_test

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/secretmanager"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

// built is the directory of the program, "" where no test has needed it.
var built string

// keyguard builds the program as the package has it, once.
var keyguard = sync.OnceValues(func() (path string, err error) {
	if built, err = os.MkdirTemp("", "keyguard-bin-"); err != nil {
		return "", err
	}
	path = filepath.Join(built, "keyguard")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-tags", "grpcnotrace", "-o", path, "../cmd/keyguard")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	// The real program waits more than it works: as many go side by side on few processors, too. A
	// -parallel that somebody types counts more, since Run reads the flags after this.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(built)
	os.Exit(code)
}

const (
	processSecret   = "projects/keyguard-test/secrets/master"
	processIdentity = "host@keyguard-test.iam.gserviceaccount.com"
)

// process is a host with the real program on it.
type process struct {
	t   testing.TB
	dir string
	db  *rowstest.Database
	gcp *secretmanager.Server

	wrap []string // what starts the watcher, if it is not the test itself

	cmd     *exec.Cmd
	exited  chan struct{}
	reports chan string // its lines on standard error
	notify  chan string // what it tells systemd
}

func newProcess(t testing.TB, db *rowstest.Database) *process {
	t.Helper()
	p := &process{t: t, dir: t.TempDir(), db: db, reports: make(chan string, 10_000), notify: make(chan string, 10_000)}
	for _, d := range []string{"etc", "state", "run", "usb"} {
		p.must(os.Mkdir(p.path(d), 0o700))
	}
	p.must(os.WriteFile(p.path("url"), []byte(db.URL()), 0o600))
	var err error
	p.gcp, err = secretmanager.Start(secretmanager.Options{Unlimited: true})
	p.must(err)
	t.Cleanup(p.gcp.Close)
	p.gcp.Grant(processIdentity, secretmanager.Admin)
	credentials, err := p.gcp.Credentials(processIdentity, "service_account")
	p.must(err)
	p.must(os.WriteFile(p.path("credentials.json"), credentials, 0o600))
	p.configure("60s", "")

	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: p.path("notify"), Net: "unixgram"})
	p.must(err)
	t.Cleanup(func() { socket.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := socket.Read(buf)
			if err != nil {
				return
			}
			for line := range strings.SplitSeq(string(buf[:n]), "\n") {
				p.notify <- line
			}
		}
	}()
	out, err := p.run("init", "--yes")
	if err != nil && !strings.Contains(string(out), "no key") {
		p.t.Fatalf("init: %v\n%s", err, out)
	}
	return p
}

// configure writes the configuration.
func (p *process) configure(rescan, more string) {
	p.t.Helper()
	p.must(os.WriteFile(p.path("keyguard.toml"), fmt.Appendf(nil, `keyfile = %q
state_dir = %q
run_dir = %q
database.url_file = %q
daemon.unit = ""
watch.rescan = %q
notify = { hooks_dir = "", metrics_file = "" }
%s
[[escrow]]
name = "usb"
kind = "directory"
path = %q
allow_same_disk = true

[[escrow]]
name = "gcp"
kind = "gcp-secret-manager"
project = "keyguard-test"
secret = "master"
endpoint = %q
plaintext = true
credentials_file = %q
`, p.path("etc/secrets.key"), p.path("state"), p.path("run"), p.path("url"), rescan, more, p.path("usb"), p.gcp.Addr(), p.path("credentials.json")), 0o600))
}

func (p *process) path(name string) string { return filepath.Join(p.dir, name) }

func (p *process) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) command(args ...string) *exec.Cmd {
	p.t.Helper()
	bin, err := keyguard()
	p.must(err)
	cmd := exec.Command(bin, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "KEYGUARD_CONFIG=" + p.path("keyguard.toml"), "NOTIFY_SOCKET=" + p.path("notify")}
	return cmd
}

func (p *process) run(args ...string) ([]byte, error) { return p.command(args...).CombinedOutput() }

// start starts the watcher and returns when it is ready.
func (p *process) start() {
	p.t.Helper()
	p.cmd = p.command("watch")
	if len(p.wrap) > 0 {
		bin, err := exec.LookPath(p.wrap[0])
		p.must(err)
		p.cmd.Args = append(append([]string{}, p.wrap...), p.cmd.Path, "watch")
		p.cmd.Path = bin
	}
	stderr, err := p.cmd.StderrPipe()
	p.must(err)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.must(p.cmd.Start())
	cmd, exited := p.cmd, make(chan struct{})
	p.exited = exited
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.reports <- lines.Text()
		}
		cmd.Wait() //nolint:errcheck // the state says it
		close(exited)
	}()
	p.t.Cleanup(func() { cmd.Process.Kill(); <-exited })
	p.await(p.notify, "READY=1")
}

// await reads until a line has all the words.
func (p *process) await(from <-chan string, words ...string) {
	p.t.Helper()
	var heard []string
	deadline := time.After(longest)
	for {
		select {
		case line := <-from:
			heard = append(heard, line)
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				return
			}
		case <-deadline:
			p.t.Fatalf("no line with %q, but\n%s", words, strings.Join(heard, "\n"))
		}
	}
}

// awaitSaved reads reports until both escrows have the key.
func (p *process) awaitSaved(k key.Key, shelf string) {
	p.t.Helper()
	var heard []string
	missing := map[string]bool{`"usb"`: true, `"gcp"`: true}
	deadline := time.After(longest)
	for len(missing) > 0 {
		select {
		case line := <-p.reports:
			heard = append(heard, line)
			for name := range missing {
				if strings.Contains(line, "saved") && strings.Contains(line, string(k.Fingerprint())) && strings.Contains(line, name+" as "+shelf) {
					delete(missing, name)
				}
			}
		case <-deadline:
			p.t.Fatalf("key %s is not saved in %v, but\n%s", k.Fingerprint(), missing, strings.Join(heard, "\n"))
		}
	}
}

// kill kills the watcher, and returns when another can start. A program that it was about to
// start holds its locks until that runs; systemd waits for all processes of a unit.
func (p *process) kill() {
	p.t.Helper()
	p.must(p.cmd.Process.Kill())
	<-p.exited
	held, err := os.Open(p.path("state/watch"))
	p.must(err)
	defer held.Close()
	p.must(syscall.Flock(int(held.Fd()), syscall.LOCK_EX))
}

// terminate sends SIGTERM and returns how long the end took.
func (p *process) terminate() time.Duration {
	p.t.Helper()
	began := time.Now()
	p.must(p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.exited:
	case <-time.After(longest):
		p.t.Fatal("SIGTERM does not end the watcher")
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		p.t.Errorf("it ended with status %d", code)
	}
	return time.Since(began)
}

func (p *process) write(k key.Key) {
	p.t.Helper()
	p.must(os.WriteFile(p.path("etc/.new"), k.UnsafeBytes(), 0o400))
	p.must(os.Rename(p.path("etc/.new"), p.path("etc/secrets.key")))
}

// prove makes the rows open under a key, and under no other.
func (p *process) prove(k key.Key) {
	p.t.Helper()
	_, err := p.db.Exec("delete from secrets")
	p.must(err)
	p.must(p.db.Upsert(k, "tenant", "SECRET", []byte("v")))
}

// proc reads a number of a process from /proc/<pid>/status, in its own unit.
func (p *process) proc(field string) int {
	p.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	p.must(err)
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			p.must(err)
			return n
		}
	}
	p.t.Fatalf("no %s", field)
	return 0
}

// rests waits until a watcher uses no more memory of its own than the limit, and returns
// what it uses, in KiB: the pages of the program's file are the kernel's, which has them
// once for all who run it, and drops them when it likes.
func (p *process) rests(limit int) (own int) {
	p.t.Helper()
	for began := time.Now(); time.Since(began) < longest; time.Sleep(100 * time.Millisecond) {
		if own = p.proc("RssAnon"); own <= limit {
			break
		}
	}
	return own
}

// TestProcess shows the real program as systemd runs it.
func TestProcess(t *testing.T) {
	brief.Skip(t)
	t.Parallel()
	cluster := rowstest.New(t)
	a, b := watchKey("a"), watchKey("b")

	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		p := newProcess(t, cluster.Database(t))
		p.start()
		for i := range 10 {
			k := watchKey(fmt.Sprint("memory ", i))
			p.prove(k)
			p.write(k)
			p.awaitSaved(k, "current")
		}
		const limit = 8_000_000 / 1024 // KiB in 8 MB
		own := p.rests(limit)
		t.Logf("VmRSS %d KiB at rest after ten saves (%d of it anonymous, %d of files), %d at most", p.proc("VmRSS"), own, p.proc("RssFile"), p.proc("VmHWM"))
		if own > limit {
			t.Errorf("more than %d KiB", limit)
		}
	})
	t.Run("SIGTERM", func(t *testing.T) {
		for _, c := range []struct {
			name string
			hang func(*process)
		}{
			{"at rest", func(*process) {}},
			{"an escrow hangs", func(p *process) {
				p.gcp.Break(secretmanager.Fault{Kind: secretmanager.Hang})
				calls := p.calls()
				p.write(b) // Refuted: candidates are fetched, and it is saved in quarantine
				for p.calls() == calls {
					time.Sleep(time.Millisecond)
				}
			}},
			{"Postgres hangs", func(p *process) {
				p.db.Cluster.Pause()
				p.write(b)
				p.awaitSession()
			}},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				own := cluster
				if c.name == "Postgres hangs" {
					own = rowstest.New(t)
				}
				p := newProcess(t, own.Database(t))
				p.prove(a)
				p.write(a)
				p.start()
				p.awaitSaved(a, "current")
				// Who waits for what hangs does so every time; a busy machine is late at times.
				for try := 1; ; try++ {
					c.hang(p)
					took := p.terminate()
					t.Log("it took", took.Round(time.Millisecond))
					p.await(p.notify, "STOPPING=1")
					if took <= time.Second {
						break
					}
					if try == 5 {
						t.Fatalf("SIGTERM took %s, and no less before", took)
					}
					p.gcp.Heal()
					own.Resume()
					p.write(a)
					p.start()
					p.await(p.reports, "guarding")
				}
			})
		}
	})
	t.Run("SIGHUP", func(t *testing.T) {
		t.Parallel()
		p := newProcess(t, cluster.Database(t))
		p.prove(a)
		p.write(a)
		p.start()
		p.awaitSaved(a, "current")
		fds := p.descriptors()

		good, err := os.ReadFile(p.path("keyguard.toml"))
		p.must(err)
		p.must(os.WriteFile(p.path("keyguard.toml"), append([]byte("no such word = 1\n"), good...), 0o600))
		p.must(p.cmd.Process.Signal(syscall.SIGHUP))
		p.await(p.notify, "RELOADING=1")
		p.await(p.reports, "not reloaded")
		p.await(p.notify, "STATUS=", "not in force", "line 1")
		p.await(p.notify, "READY=1")
		p.must(os.Remove(p.path("etc/secrets.key")))
		p.await(p.reports, "in place now") // what was in force stays

		for range 5 {
			p.configure("1h", "watch.heal = true")
			p.must(p.cmd.Process.Signal(syscall.SIGHUP))
			p.await(p.notify, "MONOTONIC_USEC=")
			p.await(p.notify, "READY=1")
			p.await(p.reports, "reloaded")
			p.must(os.Remove(p.path("etc/secrets.key")))
			p.await(p.reports, "in place now")
		}
		if now := p.descriptors(); now > fds+2 {
			t.Errorf("%d descriptors before, %d after five reloads", fds, now)
		}
		p.terminate()
	})
	t.Run("no inotify", func(t *testing.T) {
		t.Parallel()
		p := newProcess(t, cluster.Database(t))
		p.configure("1s", "")
		p.prove(a)
		p.write(a)
		p.wrap = []string{"unshare", "-U", "-r", "sh", "-c", `echo 0 >/proc/sys/user/max_inotify_instances && exec "$@"`, "sh"}
		p.start()
		p.await(p.reports, "only every 1s", "fs.inotify.max_user_instances")
		p.awaitSaved(a, "current")
		p.must(os.Remove(p.path("etc/secrets.key")))
		p.await(p.reports, "in place now")
		p.terminate()
	})
	t.Run("a second watcher", func(t *testing.T) {
		t.Parallel()
		p := newProcess(t, cluster.Database(t))
		p.start()
		out, err := p.run("watch")
		exit := (*exec.ExitError)(nil)
		if !errors.As(err, &exit) || exit.ExitCode() != 15 {
			t.Errorf("a second one: %v\n%s", err, out)
		}
		p.kill()
		p.start() // the lock of the dead is free
	})
	t.Run("killed in a save", func(t *testing.T) {
		// The store has done what was asked when the watcher dies, or has not, or the
		// ledger was written a moment ago.
		for _, method := range []string{"AccessSecretVersion", "AddSecretVersion"} {
			for _, after := range []int{0, 1, 2} {
				t.Run(fmt.Sprint(method, after), func(t *testing.T) {
					t.Parallel()
					p := newProcess(t, cluster.Database(t))
					p.prove(a)
					p.gcp.Reset()
					if after > 0 {
						p.gcp.Break(secretmanager.Fault{Kind: secretmanager.NoCRC, Method: method, Times: after})
					}
					p.gcp.Break(secretmanager.Fault{Kind: secretmanager.Hang, Method: method})
					p.write(a)
					p.start()
					for began := time.Now(); p.gcp.Calls()[method] <= after && len(p.gcp.Versions(processSecret)) == 0; time.Sleep(time.Millisecond) {
						if time.Since(began) > longest {
							t.Fatal("no save is made")
						}
					}
					p.kill()
					p.gcp.Heal()
					p.start()
					p.awaitOne(a)
					p.terminate()
				})
			}
		}
	})
	t.Run("killed at random", func(t *testing.T) {
		t.Parallel()
		p := newProcess(t, cluster.Database(t))
		keys := []key.Key{a, b}
		last := 0
		for i := range 15 {
			k := keys[i%2]
			p.prove(k)
			p.start()
			p.write(k)
			time.Sleep(time.Duration(i) * 40 * time.Millisecond) // anywhere in a save, which takes about 300 ms
			p.kill()
			last = i % 2
		}
		p.start()
		p.awaitNewest(keys[last])
		p.terminate()
		// Each key follows the other on the shelf: none is there twice in a row.
		versions := p.gcp.Versions(processSecret)
		for i := 1; i < len(versions); i++ {
			if bytes.Equal(versions[i], versions[i-1]) {
				t.Errorf("versions %d and %d of %d are of one key", i, i+1, len(versions))
			}
		}
		if len(versions) > 16 {
			t.Errorf("%d versions after 15 changes", len(versions))
		}
	})
	t.Run("a save is pending", func(t *testing.T) {
		t.Parallel()
		p := newProcess(t, cluster.Database(t))
		p.prove(a)
		p.write(a)
		p.gcp.Break(secretmanager.Fault{Kind: secretmanager.CutBefore})
		p.start()
		p.await(p.reports, `"gcp" does not take`)
		p.kill()
		p.gcp.Heal()
		p.start()
		p.awaitOne(a)
	})
}

func (p *process) calls() int {
	n := 0
	for method, calls := range p.gcp.Calls() {
		if method != "token" {
			n += calls
		}
	}
	return n
}

func (p *process) descriptors() int {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	p.must(err)
	return len(list)
}

// awaitSession waits until the watcher has a connection to the server.
func (p *process) awaitSession() {
	p.t.Helper()
	port := fmt.Sprintf(":%04X", p.db.Cluster.Port)
	for began := time.Now(); time.Since(began) < longest; time.Sleep(time.Millisecond) {
		table, err := os.ReadFile("/proc/net/tcp")
		p.must(err)
		for line := range strings.Lines(string(table)) {
			// proc(5): local and remote address, and 01 is ESTABLISHED.
			if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[2], port) && f[3] == "01" {
				return
			}
		}
	}
	p.t.Fatal("nobody connects to Postgres")
}

// awaitNewest waits until the ledger says that both escrows hold a key as current.
func (p *process) awaitNewest(k key.Key) {
	p.t.Helper()
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		record, err := ledger.Open(p.path("state"), ledger.Options{}).Read()
		p.must(err)
		usb, _ := record.LastSaved("usb")
		gcp, _ := record.LastSaved("gcp")
		if usb.Fingerprint == k.Fingerprint() && gcp.Fingerprint == k.Fingerprint() {
			break
		}
		if time.Since(began) > longest {
			p.t.Fatalf("the ledger says %s and %s", usb.Fingerprint, gcp.Fingerprint)
		}
	}
	if v := p.gcp.Versions(processSecret); !bytes.Equal(v[len(v)-1], k.UnsafeBytes()) {
		p.t.Error("the newest version is of another key")
	}
}

// awaitOne is awaitNewest where the key must be the only copy.
func (p *process) awaitOne(k key.Key) {
	p.t.Helper()
	p.awaitNewest(k)
	if v := p.gcp.Versions(processSecret); len(v) != 1 {
		p.t.Errorf("%d versions", len(v))
	}
	if files, _ := filepath.Glob(p.path("usb/current/*")); len(files) != 1 {
		p.t.Errorf("%d files: %v", len(files), files)
	}
}

// TestRest counts, by strace(1), how often a watcher at rest wakes: at each rescan, and
// never besides. The rescan is 2 s here, so that some seconds say what minutes of the
// default would; the watchdog is off, and what comes more seldom does not show: the
// runtime collects garbage every two minutes.
func TestRest(t *testing.T) {
	brief.Skip(t)
	t.Parallel()
	const rescan, rescans = 2 * time.Second, 4 // in a row, between which nothing wakes it
	cluster := rowstest.New(t)
	p := newProcess(t, cluster.Database(t))
	p.configure(rescan.String(), "")
	k := watchKey("a")
	p.prove(k)
	p.write(k)
	p.start()
	p.awaitSaved(k, "current")
	time.Sleep(3 * time.Second) // its last work was some seconds ago

	file := filepath.Join(t.TempDir(), "trace") // not beside the keyfile's directory, which is watched
	trace := exec.Command("strace", "-f", "-ttt", "-o", file, "-p", strconv.Itoa(p.cmd.Process.Pid))
	p.must(trace.Start())
	defer trace.Wait() //nolint:errcheck // it says that it was interrupted
	defer trace.Process.Signal(syscall.SIGINT)
	// wakes are the times, since 1970, of the first call after a pause, up to now.
	wakes := func() (wakes []time.Duration, calls int, text []byte) {
		text, err := os.ReadFile(file)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		last := time.Duration(0)
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) < 3 || !strings.HasSuffix(line, "\n") || strings.Contains(line, "strace: ") {
				continue
			}
			seconds, err := strconv.ParseFloat(f[1], 64)
			p.must(err)
			at := time.Duration(seconds * float64(time.Second))
			// What hung when strace came is told as resumed, and is no waking.
			if strings.Contains(line, "restart_syscall") || strings.Contains(line, "<detached") || last == 0 && strings.Contains(line, "unfinished") {
				continue
			}
			if calls++; at-last > rescan/4 { // strace draws one waking out
				wakes = append(wakes, at)
			}
			last = at
		}
		return wakes, calls, text
	}
	// Who wakes besides does so all the time; a busy machine draws one waking out at times.
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		times, calls, text := wakes()
		for i, rests := 1, 0; i < len(times); i++ {
			if rests++; times[i]-times[i-1] < rescan*3/4 {
				rests = 0
			}
			if rests == rescans {
				t.Logf("woken %d times in %s, %d system calls", len(times), times[len(times)-1]-times[0], calls)
				return
			}
		}
		if time.Since(began) > longest {
			t.Fatalf("woken %d times in %s, and hardly ever %s apart\n%s", len(times), longest, rescan, text)
		}
	}
}
