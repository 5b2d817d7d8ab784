// Package rowstest runs a throw-away Postgres for tests and demonstrations, with the
// containarium daemon's table and rows sealed as the daemon seals them, by code that
// shares nothing with package rows.
//
// A cluster starts in a fraction of a second: initdb runs once on a machine, and its
// outcome is copied. Nothing is synced to disk.
package rowstest

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

// Role and Password are what the daemon connects with. The role owns its databases and
// is no superuser.
const (
	Role     = "containarium"
	Password = "kept-out-of-every-message"
)

// startTimeout bounds a start, recovery included, on a machine however busy.
const startTimeout = 2 * time.Minute

// Cluster is one Postgres server, with its data, on a port of 127.0.0.1 and a unix
// socket. Methods are not for concurrent use, but for NewDatabase and URLs.
type Cluster struct {
	Dir  string // of the data, the socket and the log
	Port int
	Bin  string // where the server's programs are

	credential *syscall.Credential // nil: run as we are
	process    *exec.Cmd           // nil: stopped
	exited     chan struct{}       // closed when process is gone
	databases  atomic.Int64
	room       *room // nil: somebody named the directory

	mu   sync.Mutex // guards idle
	idle []kept     // the longest unused first
}

// Start makes a cluster in dir, which is made if missing, and given to the user postgres
// when we are root: the server refuses to run as root. All directories above must be
// open to that user. Where dir is "" it finds a place itself, in memory if it can, which
// goes with Close.
func Start(dir string) (_ *Cluster, err error) {
	var own *room
	if dir == "" {
		if own, err = newRoom(); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, own.close())
			}
		}()
		dir = own.dir
	}
	c, err := newCluster(dir)
	if err != nil {
		return nil, err
	}
	c.room = own
	template, err := c.template()
	if err != nil {
		return nil, fmt.Errorf("cannot make a template cluster: %w", err)
	}
	// A fresh write-ahead log is 16 MB of nothing.
	if err := c.run("cp", "-a", "--reflink=auto", "--sparse=always", template, c.data()); err != nil {
		return nil, err
	}
	return c, c.Restart()
}

// Close stops the server, and takes its directory away if nobody named it.
func (c *Cluster) Close() error {
	err := c.Stop()
	if c.room != nil {
		err = errors.Join(err, c.room.close())
	}
	return err
}

// New starts a cluster for one test and stops it afterwards.
func New(tb testing.TB) *Cluster {
	tb.Helper()
	c, err := Start("")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

func newCluster(dir string) (*Cluster, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	c := &Cluster{Dir: dir, Bin: bin}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			return nil, err
		}
		uid, _ := strconv.Atoi(u.Uid) // numbers on every Unix
		gid, _ := strconv.Atoi(u.Gid)
		c.credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// binaries finds the newest server that is installed: Debian and Red Hat keep them out
// of PATH or in it.
func binaries() (string, error) {
	for v := 30; v >= 10; v-- {
		for _, dir := range []string{fmt.Sprintf("/usr/lib/postgresql/%d/bin", v), fmt.Sprintf("/usr/pgsql-%d/bin", v)} {
			if _, err := os.Stat(dir + "/initdb"); err == nil {
				return dir, nil
			}
		}
	}
	p, err := exec.LookPath("initdb")
	return filepath.Dir(p), err
}

func (c *Cluster) data() string { return filepath.Join(c.Dir, "data") }

func (c *Cluster) command(name string, args ...string) *exec.Cmd {
	if !strings.Contains(name, "/") {
		if p := filepath.Join(c.Bin, name); fileExists(p) {
			name = p
		}
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = c.Dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "PGPASSWORD=" + Password}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.credential}
	return cmd
}

func (c *Cluster) run(name string, args ...string) error {
	if out, err := c.command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// settings make a server that forgets and is fast. Few buffers are quickly looked
// through, which making a database does again and again.
const settings = `
fsync = off
full_page_writes = off
autovacuum = off
max_connections = 200
max_wal_size = 4GB
shared_buffers = 2MB
log_min_messages = warning
`

// firstWords are what a new cluster is told, one statement a line.
var firstWords = fmt.Sprintf("create role %s login password '%s'\n", Role, scram(Password))

// scram is a password as the server keeps it (RFC 5803), after one round. Its own 4096 are
// to be dear for who guesses, and are so for a test that connects a thousand times.
func scram(password string) string {
	salt := []byte("rowstest")
	salted, err := pbkdf2.Key(sha256.New, password, salt, 1, sha256.Size)
	if err != nil {
		panic(err) // a shorter key than FIPS 140 takes
	}
	sign := func(what string) []byte {
		mac := hmac.New(sha256.New, salted)
		mac.Write([]byte(what))
		return mac.Sum(nil)
	}
	stored := sha256.Sum256(sign("Client Key"))
	text := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$1:%s$%s:%s", text(salt), text(stored[:]), text(sign("Server Key")))
}

// template runs initdb once for each version, user and text of settings and firstWords,
// and returns the directory. It never changes: other checkouts have other texts.
func (c *Cluster) template() (string, error) {
	of := sha256.Sum256([]byte(c.Bin + settings + firstWords))
	parent := filepath.Join(os.TempDir(), fmt.Sprintf("keyguard-rowstest-%d-%x", os.Geteuid(), of[:8]))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	lock, err := os.Open(parent)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	data, made := filepath.Join(parent, "data"), filepath.Join(parent, "made")
	if fileExists(made) {
		return data, nil
	}
	if c.credential != nil {
		if err := os.Chown(parent, int(c.credential.Uid), int(c.credential.Gid)); err != nil {
			return "", err
		}
	}
	if err := os.RemoveAll(data); err != nil { // of one that was cut short
		return "", err
	}
	err = c.run("initdb", "-D", data, "-U", superuser, "--no-sync", "--locale=C", "--encoding=UTF8",
		"--auth-local=trust", "--auth-host=scram-sha-256")
	if err != nil {
		return "", err
	}
	conf, err := os.OpenFile(filepath.Join(data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return "", err
	}
	_, err = io.WriteString(conf, settings)
	if err = errors.Join(err, conf.Close()); err != nil {
		return "", err
	}
	tell := c.command("postgres", "--single", "-D", data, "postgres")
	tell.Stdin = strings.NewReader(firstWords)
	if out, err := tell.CombinedOutput(); err != nil {
		return "", fmt.Errorf("postgres --single: %w\n%s", err, out)
	}
	return data, os.WriteFile(made, nil, 0o644)
}

// Restart starts the server on the data that is there, on the port it had, and stops
// it first if it runs.
func (c *Cluster) Restart() error {
	if err := c.Stop(); err != nil {
		return err
	}
	if c.Port != 0 {
		return c.launch()
	}
	// Somebody may take the port between finding it free and using it.
	for try := 0; ; try++ {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		c.Port = l.Addr().(*net.TCPAddr).Port
		l.Close()
		if err = c.launch(); err == nil || try == 2 {
			return err
		}
	}
}

func (c *Cluster) launch() error {
	log, err := os.OpenFile(filepath.Join(c.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := c.command("postgres", "-D", c.data(), "-p", strconv.Itoa(c.Port), "-k", c.Dir,
		"-c", "listen_addresses=127.0.0.1")
	cmd.Stdout, cmd.Stderr = log, log
	// A test that is killed takes its server along.
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		cmd.Wait()
		close(exited)
	}()
	c.process, c.exited = cmd, exited

	for deadline := time.Now().Add(startTimeout); ; {
		if c.ready() {
			return nil
		}
		var err error
		select {
		case <-exited:
			c.process = nil
		case <-time.After(5 * time.Millisecond):
			if time.Now().Before(deadline) {
				continue
			}
			err = c.Stop()
		}
		text, _ := os.ReadFile(log.Name())
		return errors.Join(fmt.Errorf("postgres does not start:\n%s", text), err)
	}
}

// ready asks nobody, as each connection that is made too early costs a process: the
// server writes into its lock file who it is and how it is (pg_ctl reads it as well).
func (c *Cluster) ready() bool {
	text, _ := os.ReadFile(filepath.Join(c.data(), "postmaster.pid"))
	lines := strings.Split(string(text), "\n")
	return len(lines) >= 8 && lines[0] == strconv.Itoa(c.process.Process.Pid) && strings.TrimSpace(lines[7]) == "ready"
}

// Stop ends the server at once, as a crash would: nothing is kept for it that fsync
// would have kept. It may be called again.
func (c *Cluster) Stop() error {
	if c.process == nil {
		return nil
	}
	c.forget("")
	c.Resume()
	if err := c.process.Process.Signal(syscall.SIGQUIT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-c.exited:
	case <-time.After(startTimeout):
		return errors.New("postgres does not stop")
	}
	c.process = nil
	return nil
}

// Pause makes the server hang: it takes connections and answers nothing, and neither
// does any session.
func (c *Cluster) Pause() { c.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (c *Cluster) Resume() { c.signal(syscall.SIGCONT) }

// signal reaches the postmaster first, so that it makes no session meanwhile.
func (c *Cluster) signal(s syscall.Signal) {
	postmaster := c.process.Process.Pid
	syscall.Kill(postmaster, s)
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", postmaster, postmaster))
	for pid := range strings.FieldsSeq(string(children)) {
		if n, err := strconv.Atoi(pid); err == nil {
			syscall.Kill(n, s)
		}
	}
}

// Standby makes a hot standby of c in dir, and starts it.
func (c *Cluster) Standby(dir string) (*Cluster, error) {
	s, err := newCluster(dir)
	if err != nil {
		return nil, err
	}
	// -R writes standby.signal and primary_conninfo.
	err = s.run("pg_basebackup", "-D", s.data(), "-h", c.Dir, "-p", strconv.Itoa(c.Port), "-U", "postgres",
		"-R", "-X", "stream", "-c", "fast", "--no-sync")
	if err != nil {
		return nil, err
	}
	return s, s.Restart()
}

// URL is what the daemon would connect to the database with.
func (c *Cluster) URL(database string) string { return URLAt(c.Addr(), database) }

// Addr is where the server listens, host and port.
func (c *Cluster) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Port)) }

// URLAt is URL over what stands at another address.
func URLAt(addr, database string) string {
	return fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", Role, Password, addr, database)
}

// SocketURL is the same over the unix socket, where no password is asked for.
func (c *Cluster) SocketURL(database string) string {
	return fmt.Sprintf("postgres://%s@/%s?host=%s&port=%d", Role, database, c.Dir, c.Port)
}

// connect is the superuser's way in.
func (c *Cluster) connect(database string) (*pgconn.PgConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return pgconn.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s dbname=%s application_name=%s",
		c.Dir, c.Port, superuser, database, asker))
}

// Admin executes statements, separated by semicolons, as the superuser.
func (c *Cluster) Admin(database, sql string) error {
	return c.as(superuser, database, func(conn *pgconn.PgConn) error {
		_, err := conn.Exec(context.Background(), sql).ReadAll()
		return err
	})
}

// NewDatabase makes an empty database that belongs to Role. The name "" is replaced by
// one that is free.
func (c *Cluster) NewDatabase(name string) (*Database, error) {
	if name == "" {
		name = "db" + strconv.FormatInt(c.databases.Add(1), 10)
	}
	if err := c.copy("template0", name); err != nil {
		return nil, err
	}
	return &Database{Cluster: c, Name: name}, nil
}

// copy makes a database of a template's files. Since Postgres 15 the server would else write
// every page into its log too, at twice the cost.
func (c *Cluster) copy(template, name string) error {
	sql := fmt.Sprintf(`create database "%s" owner %s template "%s"`, name, Role, template)
	version, err := os.ReadFile(filepath.Join(c.data(), "PG_VERSION"))
	if err != nil {
		return err
	}
	if major, _ := strconv.Atoi(strings.TrimSpace(string(version))); major >= 15 {
		sql += " strategy file_copy"
	}
	return c.Admin("postgres", sql)
}

// Database makes a database for one test, with the daemon's table in it.
func (c *Cluster) Database(tb testing.TB) *Database {
	tb.Helper()
	d, err := c.NewDatabase("")
	if err == nil {
		err = d.CreateTable()
	}
	if err != nil {
		tb.Fatal(err)
	}
	return d
}
