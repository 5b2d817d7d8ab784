// Command demo plays the story of the README with the real programs: keyguard, the
// stand-in for the containarium daemon, and a real Postgres, all in a sandbox that is
// gone afterwards. `make demo` runs it, as root, from the project's root.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/secretmanager"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/vault"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := play(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// stage is the sandbox: one host, its database and its escrows.
type stage struct {
	dir      string
	memory   string // a directory on a tmpfs
	postgres *rowstest.Cluster
	vault    *vault.Server
	google   *secretmanager.Server // nil before its scene
	daemon   *exec.Cmd
	log      *lines
	colour   bool
	scene    int
}

func play(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "keyguard-demo-")
	if err != nil {
		return err
	}
	s := &stage{dir: dir, colour: term.IsTerminal(int(os.Stdout.Fd()))}
	defer os.RemoveAll(dir)
	// A drill restores copies in the runtime directory, and nowhere but in memory.
	if s.memory, err = os.MkdirTemp("/dev/shm", "keyguard-demo-"); err != nil {
		return err
	}
	defer os.RemoveAll(s.memory)
	defer s.stopDaemon()
	if err := os.Chmod(dir, 0o755); err != nil { // the user postgres has to pass
		return err
	}
	if err := s.build(ctx); err != nil {
		return err
	}
	// What Postgres' set-up caches for the next run goes with the sandbox too.
	if err := os.Setenv("TMPDIR", dir); err != nil {
		return err
	}
	if s.postgres, err = rowstest.Start(filepath.Join(dir, "postgres")); err != nil {
		return err
	}
	defer s.postgres.Stop()
	if s.vault, err = vault.Start(vault.Options{}); err != nil {
		return err
	}
	defer s.vault.Close()
	defer func() {
		if s.google != nil {
			s.google.Close()
		}
	}()
	if err := s.furnish(); err != nil {
		return err
	}
	for _, act := range []func(context.Context) error{
		s.firstStart, s.deleted, s.foreign, s.mangled, s.loose, s.unreachable, s.postgresDown, s.vaulted, s.watched, s.rotated, s.drilled,
		s.split, s.everywhere,
	} {
		if err := act(ctx); err != nil {
			return fmt.Errorf("scene %d: %w", s.scene, err)
		}
	}
	s.title("How it stands, what this host survives, and what an auditor gets")
	for _, command := range []string{"drill", "status"} {
		if code := s.keyguard(ctx, command); code != 0 {
			return fmt.Errorf("keyguard %s: exit %d", command, code)
		}
	}
	if code := s.keyguard(ctx, "doctor"); code != 12 { // a sandbox survives little
		return fmt.Errorf("keyguard doctor: exit %d", code)
	}
	if code := s.keyguard(ctx, "report", "--output", s.path("report.html")); code != 0 {
		return fmt.Errorf("keyguard report: exit %d", code)
	}
	s.say("The sandbox is gone when this ends. The manual is README.md.")
	return nil
}

func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

func (s *stage) build(ctx context.Context) error {
	for name, pkg := range map[string]string{"keyguard": "./cmd/keyguard", "containarium": "./packaging/testing/standin"} {
		c := exec.CommandContext(ctx, "go", "build", "-o", s.path(name), pkg)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		if err := c.Run(); err != nil {
			return fmt.Errorf("cannot build %s: %w", pkg, err)
		}
	}
	return nil
}

// furnish makes the host: an empty table, the configuration, and the escrow's
// directory. A real escrow is off the host; this one is beside the key, which keyguard
// accepts only because it is told to.
func (s *stage) furnish() error {
	db, err := s.postgres.NewDatabase("containarium")
	if err != nil {
		return err
	}
	if err := db.CreateTable(); err != nil {
		return err
	}
	config := fmt.Sprintf(`keyfile   = %q
state_dir = %q
run_dir   = %q

[daemon]
unit = ""

[database]
url_file = %q

[notify]
hooks_dir = ""
metrics_file = ""

[[escrow]]
name = "usb"
kind = "directory"
path = %q
allow_same_disk = true
`, s.path("etc/secrets.key"), s.path("state"), s.memory, s.path("url"), s.path("usb"))
	for _, d := range []string{"etc", "state", "usb"} {
		if err := os.Mkdir(s.path(d), 0o700); err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile(s.path("keyguard.toml"), []byte(config), 0o600),
		os.WriteFile(s.path("url"), []byte(s.postgres.URL("containarium")+"\n"), 0o600))
}

func (s *stage) firstStart(ctx context.Context) error {
	s.title("A new host: the first key has a copy before the daemon sees it")
	s.keyguard(ctx, "init", "--yes")
	if err := s.start(ctx, 0); err != nil {
		return err
	}
	s.keyguard(ctx, "copies")
	for _, secret := range []string{"OPENAI_API_KEY", "DATABASE_URL", "TOKEN"} {
		if err := s.tenant(ctx, "secrets", "set", "alice", secret, "value of "+secret); err != nil {
			return err
		}
	}
	s.say("A tenant has stored three secrets. They are the judge from now on.")
	if code := s.keyguard(ctx, "backup"); code != 0 {
		return fmt.Errorf("keyguard backup: exit %d", code)
	}
	return nil
}

func (s *stage) deleted(ctx context.Context) error {
	s.title("The key is deleted, and the daemon restarts")
	if err := os.Remove(s.path("etc/secrets.key")); err != nil {
		return err
	}
	return s.restartAndRead(ctx)
}

func (s *stage) foreign(ctx context.Context) error {
	s.title("The key is replaced by 32 random bytes")
	foreign := make([]byte, 32)
	rand.Read(foreign)
	if err := s.replaceKey(foreign); err != nil {
		return err
	}
	if err := s.restartAndRead(ctx); err != nil {
		return err
	}
	kept, err := filepath.Glob(s.path("state/quarantine/*.key"))
	if err != nil || len(kept) == 0 {
		return fmt.Errorf("the foreign key is not kept: %v", err)
	}
	s.say("The foreign key is not lost either: quarantine/%s", filepath.Base(kept[len(kept)-1]))
	return nil
}

func (s *stage) mangled(ctx context.Context) error {
	s.title("Someone restores by hand: gcloud secrets versions access latest | tee secrets.key")
	raw, err := os.ReadFile(s.path("etc/secrets.key"))
	if err != nil {
		return err
	}
	// gcloud prints a payload as UTF-8: what is none becomes U+FFFD.
	mangled := []byte(strings.ToValidUTF8(string(raw), "\uFFFD"))
	s.say("32 bytes went in, %d came out.", len(mangled))
	if err := s.replaceKey(mangled); err != nil {
		return err
	}
	return s.restartAndRead(ctx)
}

func (s *stage) loose(ctx context.Context) error {
	s.title("The key is made readable by everyone")
	if err := os.Chmod(s.path("etc/secrets.key"), 0o644); err != nil {
		return err
	}
	return s.restartAndRead(ctx)
}

func (s *stage) unreachable(ctx context.Context) error {
	s.title("The key is gone, what was kept of it on the host, too, and the escrow cannot be reached")
	s.stopDaemon()
	if err := os.Rename(s.path("usb"), s.path("usb-unplugged")); err != nil {
		return err
	}
	if err := errors.Join(os.Remove(s.path("etc/secrets.key")), os.RemoveAll(s.path("state/quarantine"))); err != nil {
		return err
	}
	if err := s.start(ctx, 11); err != nil {
		return err
	}
	s.say("Without keyguard the daemon would have made a new key here, over the three secrets.")
	s.say("The stick is plugged in again; systemd would try again by itself:")
	if err := os.Rename(s.path("usb-unplugged"), s.path("usb")); err != nil {
		return err
	}
	if code := s.keyguard(ctx, "restore"); code != 0 {
		return fmt.Errorf("keyguard restore: exit %d", code)
	}
	return s.restartAndRead(ctx)
}

func (s *stage) postgresDown(ctx context.Context) error {
	s.title("The key is gone, and Postgres is down")
	s.stopDaemon()
	if err := os.Remove(s.path("etc/secrets.key")); err != nil {
		return err
	}
	if err := s.postgres.Stop(); err != nil {
		return err
	}
	if code := s.keyguard(ctx, "prestart"); code != 0 {
		return fmt.Errorf("keyguard prestart: exit %d", code)
	}
	s.say("Nobody could ask the rows, but the ledger knows the fingerprint that opened them last.")
	if err := s.postgres.Restart(); err != nil {
		return err
	}
	return s.restartAndRead(ctx)
}

// vaulted brings the key back from a Vault that has a broken copy already.
func (s *stage) vaulted(ctx context.Context) error {
	s.title("The runbook's other copy: vault kv put … value=@secrets.key")
	raw, err := os.ReadFile(s.path("etc/secrets.key"))
	if err != nil {
		return err
	}
	const mount, path = "secret", "h1/secrets-master"
	s.vault.Mount(mount, 2)
	if err := s.vault.Put(mount, path, map[string]any{"value": string(raw)}); err != nil {
		return err
	}
	s.vault.Policy("keyguard", vault.Keyguard(2, mount, path))
	token := s.vault.Token(vault.TokenOptions{Policies: []string{"keyguard"}, TTL: 720 * time.Hour, Renewable: true})
	if err := os.WriteFile(s.path("vault.token"), []byte(token), 0o600); err != nil {
		return err
	}
	if err := s.configure("\n[[escrow]]\nname = \"vault\"\nkind = \"vault-kv\"\naddress = %q\nmount = %q\npath = %q\ntoken_file = %q\n",
		s.vault.URL(), mount, path, s.path("vault.token")); err != nil {
		return err
	}
	if code := s.keyguard(ctx, "init", "--yes"); code != 0 {
		return fmt.Errorf("keyguard init: exit %d", code)
	}
	s.keyguard(ctx, "copies")
	s.say("The copy made by hand was destroyed when it was made. Now there is a good one above it. The host loses its key:")
	if err := os.Remove(s.path("etc/secrets.key")); err != nil {
		return err
	}
	if code := s.keyguard(ctx, "restore", "--from", "vault"); code != 0 {
		return fmt.Errorf("keyguard restore: exit %d", code)
	}
	return s.restartAndRead(ctx)
}

// watched plays what happens while the daemon runs, under the watcher's eyes.
func (s *stage) watched(ctx context.Context) error {
	s.title("While the daemon runs, keyguard watches")
	ctx, stop := context.WithCancel(ctx)
	heard := make(chan string, 1000)
	out := &lines{each: func(line string) {
		s.print("35", "  watcher: "+line)
		select {
		case heard <- line:
		default:
		}
	}}
	watcher := exec.CommandContext(ctx, s.path("keyguard"), "watch", "--config", s.path("keyguard.toml"))
	watcher.Cancel = func() error { return watcher.Process.Signal(syscall.SIGTERM) }
	watcher.Stdout, watcher.Stderr = out, out
	if err := watcher.Start(); err != nil {
		stop()
		return err
	}
	defer watcher.Wait()
	defer stop()
	await := func(word string) error {
		for {
			select {
			case line := <-heard:
				if strings.Contains(line, word) {
					return nil
				}
			case <-time.After(30 * time.Second):
				return fmt.Errorf("the watcher never said %q", word)
			}
		}
	}
	if err := await("guarding"); err != nil {
		return err
	}
	s.say("The key is deleted under the running daemon:")
	if err := os.Remove(s.path("etc/secrets.key")); err != nil {
		return err
	}
	if err := await("in place now"); err != nil {
		return err
	}
	s.say("Somebody copies another key over it. It is kept, and never becomes the newest copy:")
	foreign := make([]byte, 32)
	rand.Read(foreign)
	if err := s.replaceKey(foreign); err != nil {
		return err
	}
	k, err := key.New(foreign)
	if err != nil {
		return err
	}
	if err := await(string(k.Fingerprint()) + " is saved"); err != nil {
		return err
	}
	s.keyguard(ctx, "copies")
	return s.restartAndRead(ctx)
}

// rotated brings the tenant's secrets under a new key. systemd would stop the daemon and
// start it again; here there is none.
func (s *stage) rotated(ctx context.Context) error {
	s.title("An operator leaves, and the key is rotated")
	s.stopDaemon()
	if code := s.keyguard(ctx, "rotate", "--yes"); code != 0 {
		return fmt.Errorf("keyguard rotate: exit %d", code)
	}
	s.say("The old key opens nothing any more but old dumps, for which the escrow keeps it.")
	return s.restartAndRead(ctx)
}

// drilled plays what the weekly timer does, with a table that somebody has tampered with
// and as it was before.
func (s *stage) drilled(ctx context.Context) error {
	s.title("Once a week every copy is restored in memory, and proven on the rows")
	if code := s.keyguard(ctx, "drill"); code != 0 {
		return fmt.Errorf("keyguard drill: exit %d", code)
	}
	s.say("Somebody changes one byte of one secret in the database:")
	// Twice is not at all.
	const tamper = "update secrets set nonce = set_byte(nonce, 0, 255 - get_byte(nonce, 0)) where name = 'TOKEN'"
	if err := s.postgres.Admin("containarium", tamper); err != nil {
		return err
	}
	if code := s.keyguard(ctx, "drill", "--full"); code != 12 {
		return fmt.Errorf("keyguard drill --full: exit %d", code)
	}
	return s.postgres.Admin("containarium", tamper)
}

// split is a table that is under two keys, as a minted key leaves it, put together again.
func (s *stage) split(ctx context.Context) error {
	s.title("A key was minted, and secrets were written under it")
	s.stopDaemon()
	right, err := os.ReadFile(s.path("etc/secrets.key"))
	if err != nil {
		return err
	}
	minted := make([]byte, 32)
	rand.Read(minted)
	if err := s.replaceKey(minted); err != nil {
		return err
	}
	s.say("The daemon is started without its hook, on a key of its own, and a tenant writes:")
	if err := s.startDaemon(ctx); err != nil {
		return err
	}
	if err := s.tenant(ctx, "secrets", "set", "bob", "TOKEN", "written-under-the-minted-key"); err != nil {
		return err
	}
	s.say("No key opens both tenants now. The one that opens the most is put back, and the rest brought under it:")
	s.stopDaemon()
	if code := s.keyguard(ctx, "repair", "--yes"); code != 0 {
		return fmt.Errorf("keyguard repair: exit %d", code)
	}
	if got, err := os.ReadFile(s.path("etc/secrets.key")); err != nil || !bytes.Equal(got, right) {
		return fmt.Errorf("the key that opened the most rows is not in place: %v", err)
	}
	if err := s.restartAndRead(ctx); err != nil {
		return err
	}
	return s.tenant(ctx, "secrets", "get", "bob")
}

// everywhere has a copy in every kind of place there is, and brings the key back from
// each: a stick, Vault, Secret Manager, a password manager, paper.
func (s *stage) everywhere(ctx context.Context) error {
	s.title("A copy in every kind of place, and the key back from each")
	const account = "h1@demo-project.iam.gserviceaccount.com"
	google, err := secretmanager.Start(secretmanager.Options{})
	if err != nil {
		return err
	}
	s.google = google
	google.Grant(account, secretmanager.Admin)
	credentials, err := google.Credentials(account, "service_account")
	if err != nil {
		return err
	}
	// Debian's pass, with a key of its own that has no passphrase.
	pass := []string{"GNUPGHOME=" + filepath.Join(s.memory, "gnupg"), "PASSWORD_STORE_DIR=" + s.path("pass")}
	if err := errors.Join(
		os.WriteFile(s.path("credentials.json"), credentials, 0o600),
		os.WriteFile(s.path("pass.env"), []byte(strings.Join(pass, "\n")), 0o600),
		os.Mkdir(filepath.Join(s.memory, "gnupg"), 0o700)); err != nil {
		return err
	}
	for _, command := range []string{
		"gpg --batch --quiet --passphrase= --quick-generate-key h1@demo future-default", "pass init h1@demo",
	} {
		if err := s.program(ctx, command, pass...); err != nil {
			return err
		}
	}
	defer s.program(context.WithoutCancel(ctx), "gpgconf --kill all", pass...)
	if err := s.configure(`
[[escrow]]
name = "gcp"
kind = "gcp-secret-manager"
project = "demo-project"
secret = "h1-secrets-master"
endpoint = %q
plaintext = true
credentials_file = %q

[[escrow]]
name = "pass"
kind = "command"
preset = "pass"
path = "hosts/h1"
allow_same_disk = true
environment_file = %q
`, google.Addr(), s.path("credentials.json"), s.path("pass.env")); err != nil {
		return err
	}
	if code := s.keyguard(ctx, "init", "--yes"); code != 0 {
		return fmt.Errorf("keyguard init: exit %d", code)
	}
	sheet := filepath.Join(s.memory, "sheet.png")
	if code := s.keyguard(ctx, "paper", "--output", sheet); code != 0 {
		return fmt.Errorf("keyguard paper: exit %d", code)
	}
	s.keyguard(ctx, "copies")
	right, err := os.ReadFile(s.path("etc/secrets.key"))
	if err != nil {
		return err
	}
	for _, from := range []string{"usb", "vault", "gcp", "pass", "paper"} {
		if err := os.Remove(s.path("etc/secrets.key")); err != nil {
			return err
		}
		if from == "paper" {
			err = s.program(ctx, "zbarimg --nodbus --quiet --raw "+sheet+" | "+s.path("keyguard")+" import --config "+s.path("keyguard.toml"))
		} else if code := s.keyguard(ctx, "restore", "--from", from); code != 0 {
			err = fmt.Errorf("exit %d", code)
		}
		if err != nil {
			return fmt.Errorf("from %s: %w", from, err)
		}
		if got, err := os.ReadFile(s.path("etc/secrets.key")); err != nil || !bytes.Equal(got, right) {
			return fmt.Errorf("another key came back from %s: %v", from, err)
		}
	}
	return s.restartAndRead(ctx)
}

// configure adds to the configuration.
func (s *stage) configure(format string, args ...any) error {
	config, err := os.ReadFile(s.path("keyguard.toml"))
	if err != nil {
		return err
	}
	return os.WriteFile(s.path("keyguard.toml"), fmt.Appendf(config, format, args...), 0o600)
}

// program runs a line of the shell, with these variables besides.
func (s *stage) program(ctx context.Context, line string, variables ...string) error {
	s.print("1", "$ "+line)
	c := exec.CommandContext(ctx, "sh", "-c", line)
	c.Env = append(os.Environ(), variables...)
	return s.run(c)
}

// replaceKey writes the key file as a person would.
func (s *stage) replaceKey(content []byte) error {
	path := s.path("etc/secrets.key")
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o400)
}

// restartAndRead restarts the daemon and reads the tenant's secrets, which only the
// right key can.
func (s *stage) restartAndRead(ctx context.Context) error {
	s.stopDaemon()
	if err := s.start(ctx, 0); err != nil {
		return err
	}
	return s.tenant(ctx, "secrets", "get", "alice")
}

// start does what systemd does: the hook, and, if it passes, the daemon.
func (s *stage) start(ctx context.Context, want int) error {
	code := s.keyguard(ctx, "prestart")
	if code != want {
		return fmt.Errorf("keyguard prestart: exit %d, not %d", code, want)
	}
	if code != 0 {
		s.say("systemd does not start the daemon: exit %d.", code)
		return nil
	}
	return s.startDaemon(ctx)
}

// startDaemon starts it and waits until it has read its key.
func (s *stage) startDaemon(ctx context.Context) error {
	s.log = &lines{each: func(line string) { s.print("36", "  containarium: "+line) }, ready: make(chan struct{})}
	s.daemon = exec.CommandContext(ctx, s.path("containarium"), "daemon")
	s.daemon.Env = s.daemonEnv()
	s.daemon.Stdout, s.daemon.Stderr = s.log, s.log
	if err := s.daemon.Start(); err != nil {
		return err
	}
	select {
	case <-s.log.ready:
		return nil
	case <-time.After(30 * time.Second):
		return errors.New("the daemon does not read its key")
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *stage) stopDaemon() {
	if s.daemon == nil {
		return
	}
	s.daemon.Process.Signal(syscall.SIGTERM)
	s.daemon.Wait()
	s.daemon = nil
}

func (s *stage) daemonEnv() []string {
	return append(os.Environ(),
		"STANDIN_KEYFILE="+s.path("etc/secrets.key"), "STANDIN_INCUS=none", "STANDIN_SOCKET="+s.path("daemon.sock"),
		"CONTAINARIUM_POSTGRES_URL_FILE="+s.path("url"))
}

// tenant asks the running daemon.
func (s *stage) tenant(ctx context.Context, args ...string) error {
	s.print("1", "$ containarium "+strings.Join(args, " "))
	c := exec.CommandContext(ctx, s.path("containarium"), args...)
	c.Env = s.daemonEnv()
	return s.run(c)
}

// keyguard runs the program and returns its exit code.
func (s *stage) keyguard(ctx context.Context, args ...string) int {
	s.print("1", "$ keyguard "+strings.Join(args, " "))
	c := exec.CommandContext(ctx, s.path("keyguard"), append(args, "--config", s.path("keyguard.toml"))...)
	var exit *exec.ExitError
	if err := s.run(c); errors.As(err, &exit) {
		return exit.ExitCode()
	} else if err != nil {
		return -1
	}
	return 0
}

// run shows a command's output, indented.
func (s *stage) run(c *exec.Cmd) error {
	out := &lines{each: func(line string) { s.print("", "  "+line) }}
	c.Stdout, c.Stderr = out, out
	return c.Run()
}

func (s *stage) title(text string) {
	s.scene++
	s.print("", "")
	s.print("1;33", fmt.Sprintf("%d. %s", s.scene, text))
}

func (s *stage) say(format string, args ...any) { s.print("32", fmt.Sprintf(format, args...)) }

// print writes one line, in an SGR colour (ECMA-48) on a terminal.
func (s *stage) print(colour, line string) {
	line = strings.ReplaceAll(strings.ReplaceAll(line, s.dir, ""), s.memory, "/run/keyguard")
	if s.colour && colour != "" {
		line = "\x1b[" + colour + "m" + line + "\x1b[0m"
	}
	io.WriteString(os.Stdout, line+"\n")
}

// lines hands on whole lines. ready is closed by the daemon's word that it has read
// its key, or cannot.
type lines struct {
	each  func(string)
	ready chan struct{}
	said  bool // ready is closed
	rest  []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		l.rest = rest
		l.each(string(line))
		if l.ready != nil && !l.said && (bytes.Contains(line, []byte("Secrets store ready")) || bytes.Contains(line, []byte("Secrets disabled"))) {
			close(l.ready)
			l.said = true
		}
	}
}
