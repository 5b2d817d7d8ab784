package rows_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

func environ(m map[string]string) []string {
	list := []string{}
	for name, value := range m {
		list = append(list, name+"="+value)
	}
	return list
}

func file(t *testing.T, mode fs.FileMode, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode))
	return path
}

// noIncus is a list of sockets that a test must not come to.
func noIncus(t *testing.T) []string {
	i := rowstest.NewIncus(t)
	i.Intercept = func(path string, _ http.ResponseWriter, _ *http.Request) bool {
		t.Errorf("incus was asked %s", path)
		return false
	}
	return []string{i.Socket}
}

const (
	flagURL   = "postgres://u:hunter2@flag/d"
	fileURL   = "postgres://u:hunter2@file/d"
	varURL    = "postgres://u:hunter2@variable/d"
	ownURL    = "postgres://u@own/d"
	recordURL = "postgres://u:hunter2@record/d"
)

// TestLocateOrder: each source goes before all that follow, and only incus' own socket
// is ever opened.
func TestLocateOrder(t *testing.T) {
	record := filepath.Join(t.TempDir(), "database")
	must(t, rows.SaveRecord(record, rows.LocateOptions{PostgresFlag: recordURL}))
	urlFile, ownFile := file(t, 0o600, fileURL+strings.Repeat("\n", 64<<10-len(fileURL))), file(t, 0o400, " postgres://u:hunter2@ownfile/d\n")
	variables := map[string]string{"CONTAINARIUM_POSTGRES_URL_FILE": urlFile, "CONTAINARIUM_POSTGRES_URL": varURL}
	o := rows.LocateOptions{
		URL: ownURL, PostgresFlag: flagURL, Environ: environ(variables), Record: record, IncusSockets: noIncus(t),
	}
	for _, step := range []struct{ url, from string }{
		{ownURL, "url in the configuration"},
		{"postgres://u:hunter2@ownfile/d", "url_file " + ownFile},
		{flagURL, "the daemon's flag --postgres"},
		{fileURL, "CONTAINARIUM_POSTGRES_URL_FILE, " + urlFile},
		{varURL, "CONTAINARIUM_POSTGRES_URL"},
		{recordURL, "the daemon's flag --postgres"},
	} {
		l, err := rows.Locate(context.Background(), o)
		if err != nil || l.URL != step.url || l.From != step.from || l.Absent {
			t.Errorf("%v (%q), %v; want %s", l, l.URL, err, step.url)
		}
		quiet(t, l, &l)
		switch step.url {
		case ownURL:
			o.URL, o.URLFile = "", ownFile
		case flagURL:
			o.PostgresFlag = ""
		case fileURL:
			delete(variables, "CONTAINARIUM_POSTGRES_URL_FILE")
			o.Environ = environ(variables)
		case varURL:
			delete(variables, "CONTAINARIUM_POSTGRES_URL")
			o.Environ, o.Unread = environ(variables), errAny
		default:
			o.URLFile = ""
		}
	}
}

func TestLocateNone(t *testing.T) {
	l, err := rows.Locate(context.Background(), rows.LocateOptions{URL: "none", IncusSockets: noIncus(t)})
	if err != nil || !l.Absent || l.Why == "" {
		t.Errorf("%v, %v", l, err)
	}
	// Only keyguard's own setting knows that word.
	for _, o := range []rows.LocateOptions{
		{PostgresFlag: "none"}, {URLFile: file(t, 0o600, "none")},
		{Environ: environ(map[string]string{"CONTAINARIUM_POSTGRES_URL": "none"})},
	} {
		if l, err := rows.Locate(context.Background(), o); !errors.Is(err, rows.ErrURL) {
			t.Errorf("%v, %v", l, err)
		}
	}
}

// TestLocateRefuses: what cannot be used is an error, never a fall through to the next
// source, and never gives the password away.
func TestLocateRefuses(t *testing.T) {
	loose := file(t, 0o640, fileURL)
	urlFile := func(path string) rows.LocateOptions {
		return rows.LocateOptions{Environ: environ(map[string]string{"CONTAINARIUM_POSTGRES_URL_FILE": path, "CONTAINARIUM_POSTGRES_URL": varURL})}
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(file(t, 0o600, `{"from":"x","url":"`+varURL+`"}`), link))
	for _, c := range []struct {
		what string
		o    rows.LocateOptions
		err  error
	}{
		{"both of keyguard's own", rows.LocateOptions{URL: ownURL, URLFile: loose}, rows.ErrURL},
		{"loose own file", rows.LocateOptions{URLFile: loose}, rows.ErrLoose},
		{"no own file", rows.LocateOptions{URLFile: loose + "x"}, fs.ErrNotExist},
		{"loose file", urlFile(loose), rows.ErrLoose},
		{"file for others", urlFile(file(t, 0o604, fileURL)), rows.ErrLoose},
		{"no file", urlFile(loose + "x"), fs.ErrNotExist},
		{"empty file", urlFile(file(t, 0o600, "")), rows.ErrURL},
		{"large file", urlFile(file(t, 0o600, fileURL+strings.Repeat(" ", 64<<10-len(fileURL)+1))), nil},
		{"directory", urlFile(t.TempDir()), nil},
		{"FIFO", urlFile(fifo), rows.ErrNotFile},
		{"record that is a FIFO", rows.LocateOptions{Record: fifo}, rows.ErrRecord},
		{"loose record", rows.LocateOptions{Record: loose}, rows.ErrLoose},
		{"record that is none", rows.LocateOptions{Record: file(t, 0o600, "hunter2")}, rows.ErrRecord},
		{"empty record", rows.LocateOptions{Record: file(t, 0o600, "")}, rows.ErrRecord},
		{"record of another form", rows.LocateOptions{Record: file(t, 0o600, "{}")}, rows.ErrRecord},
		{"record that is a symlink", rows.LocateOptions{Record: link}, rows.ErrRecord},
		{"port that is none", rows.LocateOptions{URL: "postgres://u:hunter2@h:port/d"}, rows.ErrURL},
		{"password with a slash", rows.LocateOptions{URL: "postgres://u:hunter2/x@h/d"}, rows.ErrURL},
		{"password with a percent sign", rows.LocateOptions{URL: "postgres://u:hunter2%zz@h/d"}, rows.ErrURL},
		{"password with an ampersand", rows.LocateOptions{URL: "postgres://h/d?password=x&hunter2=1"}, rows.ErrURL},
		{"words that are none", rows.LocateOptions{URL: "host=h password='hunter2"}, rows.ErrURL},
		{"quoted in a file", urlFile(file(t, 0o600, `"postgres://u:hunter2@h/d"`)), rows.ErrURL},
		{"two lines in a file", urlFile(file(t, 0o600, "postgres://u:hunter2@h/d\npostgres://h/d\n")), rows.ErrURL},
		{"a variable in a file", urlFile(file(t, 0o600, "DATABASE_URL=postgres://u:hunter2@h/d")), rows.ErrURL},
		{"another scheme", rows.LocateOptions{URL: "mysql://u:hunter2@h/d"}, rows.ErrURL},
	} {
		c.o.IncusSockets = noIncus(t)
		l, err := rows.Locate(context.Background(), c.o)
		if err == nil || l != (rows.Location{}) || c.err != nil && !errors.Is(err, c.err) {
			t.Errorf("%s: %v, %v", c.what, l, err)
		}
		quiet(t, err, l)
		quiet(t, rows.Location{URL: c.o.URL, From: "a test"})
		if _, err := rows.Open(rows.Location{URL: c.o.URL, From: "a test"}, rows.Options{}); c.o.URLFile == "" && c.err == rows.ErrURL && !errors.Is(err, rows.ErrURL) {
			t.Errorf("%s: open: %v", c.what, err)
		}
	}
}

// TestLocationPrints names the place in every way of printing, and no password.
func TestLocationPrints(t *testing.T) {
	for url, want := range map[string]string{
		"postgres://u:hunter2@h:5433/d":                    `database "d" at h:5433 as "u" (from a test)`,
		"postgres://u:hunter2?x@h/d":                       `database "d" at h:5432 as "u" (from a test)`,
		"postgres://u@h/d?password=hunter2":                `database "d" at h:5432 as "u" (from a test)`,
		"host=h user=u password='hunter2' dbname=d":        `database "d" at h:5432 as "u" (from a test)`,
		"postgres://u:hunter2@/d?host=/run/pg&port=5434":   `database "d" at /run/pg, port 5434 as "u" (from a test)`,
		"postgres://u:hunter2@[fd00::1]/d?sslmode=disable": `database "d" at [fd00::1]:5432 as "u" (from a test)`,
	} {
		l := rows.Location{URL: url, From: "a test"}
		if l.String() != want {
			t.Errorf("%s", l)
		}
		var log strings.Builder
		slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "at", l)
		quiet(t, l, &l, struct{ L rows.Location }{l}, log.String())
		if !strings.Contains(log.String(), "database") {
			t.Error(log.String())
		}
	}
	if s := fmt.Sprint(rows.Location{Absent: true, Why: "so it is"}); s != "no database yet: so it is" {
		t.Error(s)
	}
}

// TestRecord: what prestart knows of the daemon is found by who does not, and writing
// it again costs a look.
func TestRecord(t *testing.T) {
	dir := t.TempDir()
	record := filepath.Join(dir, "database")
	must(t, rows.SaveRecord(record, rows.LocateOptions{}))
	if _, err := os.Lstat(record); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("who knows nothing recorded it: %v", err)
	}
	urlFile := file(t, 0o600, fileURL)
	passwordFile := file(t, 0o644, "from the file\n")
	incus := rowstest.NewIncus(t)
	incus.Instances = []rowstest.Instance{{Name: "db", Role: "core-postgres", Addresses: map[string][]string{"eth0": {"10.0.0.1"}}}}
	inode := func() [3]int64 {
		st, err := os.Lstat(record)
		must(t, err)
		if st.Mode() != 0o600 {
			t.Errorf("mode %v", st.Mode())
		}
		sys := st.Sys().(*syscall.Stat_t)
		return [3]int64{int64(sys.Ino), sys.Ctim.Sec, sys.Ctim.Nsec}
	}
	for _, c := range []struct {
		variables map[string]string
		flag      string
		want      string
	}{
		{variables: map[string]string{"CONTAINARIUM_POSTGRES_URL": varURL}, want: varURL},
		{variables: map[string]string{"CONTAINARIUM_POSTGRES_URL_FILE": urlFile}, want: fileURL},
		{flag: flagURL, want: flagURL},
		{variables: map[string]string{}, want: "postgres://containarium:containarium@10.0.0.1:5432/containarium?sslmode=disable"},
		{variables: map[string]string{"CONTAINARIUM_POSTGRES_PASSWORD": "p@ss/word"}, want: "postgres://containarium:p%40ss%2Fword@10.0.0.1:5432/containarium?sslmode=disable"},
		{variables: map[string]string{"CONTAINARIUM_POSTGRES_PASSWORD": "no", "CONTAINARIUM_POSTGRES_PASSWORD_FILE": passwordFile},
			want: "postgres://containarium:from%20the%20file@10.0.0.1:5432/containarium?sslmode=disable"},
	} {
		knowing := rows.LocateOptions{PostgresFlag: c.flag, Record: record, IncusSockets: []string{incus.Socket}}
		if c.variables != nil {
			knowing.Environ = environ(c.variables)
		}
		// A prestart that saves first is not misled by an older record.
		if rows.Recorded(record, knowing) {
			t.Errorf("%v is recorded before", c.want)
		}
		must(t, rows.SaveRecord(record, knowing))
		if !rows.Recorded(record, knowing) {
			t.Errorf("%v is not recorded", c.want)
		}
		before := inode()
		must(t, rows.SaveRecord(record, knowing))
		if inode() != before {
			t.Errorf("%v was written again", c.want)
		}
		for who, o := range map[string]rows.LocateOptions{
			"prestart": knowing,
			"watcher":  {Record: record, IncusSockets: []string{incus.Socket}},
		} {
			if l, err := rows.Locate(context.Background(), o); err != nil || l.URL != c.want {
				t.Errorf("%s: %q, %v; want %s", who, l.URL, err, c.want)
			}
		}
	}
	// The container's address is asked for each time.
	incus.Instances[0].Addresses["eth0"] = []string{"10.0.0.2"}
	if l, err := rows.Locate(context.Background(), rows.LocateOptions{Record: record, IncusSockets: []string{incus.Socket}}); err != nil || !strings.Contains(l.URL, "10.0.0.2") {
		t.Errorf("%q, %v", l.URL, err)
	}
	// A loose or broken record is written anew.
	must(t, os.Chmod(record, 0o644))
	must(t, rows.SaveRecord(record, rows.LocateOptions{PostgresFlag: flagURL}))
	inode()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	if err := rows.SaveRecord(filepath.Join(dir, "nowhere", "database"), rows.LocateOptions{PostgresFlag: flagURL}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	} else {
		quiet(t, err)
	}
	j, err := json.Marshal(rows.Location{URL: varURL, From: "x"})
	if err != nil || !strings.Contains(string(j), "variable") {
		t.Errorf("%s, %v", j, err)
	}
}

// TestIncus is every way in which incus may know the database, or not.
func TestIncus(t *testing.T) {
	eth0 := map[string][]string{"eth0": {"fd42::1", "10.0.0.7"}}
	db := rowstest.Instance{Name: "db", Role: "core-postgres", Addresses: eth0}
	named := rowstest.Instance{Name: "containarium-core-postgres", Addresses: map[string][]string{"eth0": {"10.0.0.9"}}}
	tenant := rowstest.Instance{Name: "tenant-1", Addresses: map[string][]string{"eth0": {"10.0.0.99"}}}
	status := func(i rowstest.Instance, s string) rowstest.Instance { i.Status = s; return i }
	project := func(i rowstest.Instance, p string) rowstest.Instance { i.Project = p; return i }
	address := func(i rowstest.Instance, a map[string][]string) rowstest.Instance { i.Addresses = a; return i }
	full := t.TempDir()
	must(t, os.Mkdir(filepath.Join(full, "incus"), 0o700))
	formatted := t.TempDir()
	must(t, os.Mkdir(filepath.Join(formatted, "lost+found"), 0o700))
	used := t.TempDir() // by what is listed behind it
	must(t, os.Mkdir(filepath.Join(used, "lost+found"), 0o700), os.Mkdir(filepath.Join(used, "pools"), 0o700))
	rescued := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(rescued, "lost+found", "#12"), 0o700))
	body := func(text string) func(string, http.ResponseWriter, *http.Request) bool {
		return func(_ string, w http.ResponseWriter, _ *http.Request) bool {
			w.Write([]byte(text))
			return true
		}
	}
	only := func(path string, f func(string, http.ResponseWriter, *http.Request) bool) func(string, http.ResponseWriter, *http.Request) bool {
		return func(p string, w http.ResponseWriter, r *http.Request) bool { return p == path && f(p, w, r) }
	}
	hang := func(_ string, _ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return true
	}
	for _, c := range []struct {
		what      string
		instances []rowstest.Instance
		volumes   map[string][]rowstest.Volume
		intercept func(string, http.ResponseWriter, *http.Request) bool
		dir       string
		want      string // the address
		rival     bool
		absent    bool
		err       error
	}{
		{what: "by role", instances: []rowstest.Instance{tenant, db}, want: "10.0.0.7"},
		{what: "by name", instances: []rowstest.Instance{tenant, named}, want: "10.0.0.9"},
		{what: "by name in another case", instances: []rowstest.Instance{{Name: "Containarium-Core-Postgres", Addresses: eth0}}, absent: true},
		{what: "in another project", instances: []rowstest.Instance{tenant, project(db, "core")}, want: "10.0.0.7"},
		{what: "role before name", instances: []rowstest.Instance{named, db}, want: "10.0.0.7", rival: true},
		{what: "a stopped one beside", instances: []rowstest.Instance{status(named, "Stopped"), db}, want: "10.0.0.7", rival: true},
		{what: "the name runs, the role does not", instances: []rowstest.Instance{named, status(db, "Stopped")}, want: "10.0.0.9", rival: true},
		{what: "one of that name in another project", instances: []rowstest.Instance{named, status(project(named, "old"), "Stopped")}, want: "10.0.0.9", rival: true},
		{what: "two run", instances: []rowstest.Instance{db, project(db, "core")}, err: rows.ErrSeveral},
		{what: "stopped", instances: []rowstest.Instance{status(db, "Stopped")}, err: rows.ErrStopped},
		{what: "frozen", instances: []rowstest.Instance{status(db, "Frozen")}, err: rows.ErrStopped},
		{what: "stopped in another project", instances: []rowstest.Instance{project(status(db, "Stopped"), "core")}, err: rows.ErrStopped},
		{what: "IPv6 only", instances: []rowstest.Instance{address(db, map[string][]string{"eth0": {"fd42::1"}})}, err: rows.ErrNoAddress},
		{what: "no interface yet", instances: []rowstest.Instance{address(db, nil)}, err: rows.ErrNoAddress},
		{what: "eth0 before others", instances: []rowstest.Instance{address(db, map[string][]string{"br0": {"172.17.0.1"}, "eth0": {"10.0.0.7"}})}, want: "10.0.0.7"},
		{what: "without eth0", instances: []rowstest.Instance{address(db, map[string][]string{"enp5s0": {"10.0.0.8"}})}, want: "10.0.0.8"},

		{what: "nothing at all", absent: true},
		{what: "tenants only", instances: []rowstest.Instance{tenant}, absent: true,
			volumes: map[string][]rowstest.Volume{"default": {{Name: "tenant-1", Type: "container"}}, "with space": nil}},
		{what: "an empty directory", dir: t.TempDir(), absent: true},
		{what: "a file system just made", dir: formatted, absent: true},
		{what: "a file system with something besides", dir: used, err: rows.ErrRemains},
		{what: "a file system that was repaired", dir: rescued, err: rows.ErrRemains},
		{what: "the data disk of before", dir: full, err: rows.ErrRemains},
		{what: "a directory that is none", dir: file(t, 0o600, ""), err: errAny},
		{what: "its volume is left", err: rows.ErrRemains,
			volumes: map[string][]rowstest.Volume{"a": nil, "default": {{Name: "containarium-core-postgres", Type: "container"}}}},
		{what: "its volume is left in another project", err: rows.ErrRemains,
			volumes: map[string][]rowstest.Volume{"default": {{Name: "containarium-core-postgres", Type: "container", Project: "core"}}}},
		{what: "a volume of data is left", err: rows.ErrRemains,
			volumes: map[string][]rowstest.Volume{"default": {{Name: "core-postgres-data", Type: "custom"}}}},
		{what: "a volume that one used", err: rows.ErrRemains,
			volumes: map[string][]rowstest.Volume{"default": {{Name: "data", Type: "custom", UsedBy: []string{"/1.0/instances/containarium-core-postgres"}}}}},

		{what: "denied", instances: []rowstest.Instance{db}, intercept: rowstest.Deny, err: rows.ErrDenied},
		{what: "pools denied", intercept: only("/1.0/storage-pools", rowstest.Deny), err: rows.ErrDenied},
		{what: "volumes denied", intercept: only("/1.0/storage-pools/default/volumes", rowstest.Deny), err: rows.ErrDenied,
			volumes: map[string][]rowstest.Volume{"default": nil}},
		{what: "state denied", instances: []rowstest.Instance{db}, intercept: only("/1.0/instances/db/state", rowstest.Deny), err: rows.ErrDenied},
		{what: "hangs", intercept: hang, err: rows.ErrTimeout},
		{what: "volumes hang", intercept: only("/1.0/storage-pools/default/volumes", hang), err: rows.ErrTimeout,
			volumes: map[string][]rowstest.Volume{"default": nil}},
		{what: "slow", instances: []rowstest.Instance{db}, want: "10.0.0.7",
			intercept: func(string, http.ResponseWriter, *http.Request) bool { time.Sleep(50 * time.Millisecond); return false }},
		{what: "garbage", intercept: body("<html>"), err: rows.ErrIncus},
		{what: "nothing said", intercept: body(""), err: rows.ErrIncus},
		{what: "an answer of no type", intercept: body(`{"metadata":[]}`), err: rows.ErrIncus},
		{what: "an answer without metadata", intercept: body(`{"type":"sync","status_code":200}`), err: rows.ErrIncus},
		{what: "an operation", intercept: body(`{"type":"async","status_code":100,"metadata":[]}`), err: rows.ErrIncus},
		{what: "a type of its own", intercept: body(`{"type":"async","status_code":200,"metadata":[]}`), err: rows.ErrIncus},
		{what: "a map instead of a list", intercept: body(`{"type":"sync","status_code":200,"metadata":{}}`), err: rows.ErrIncus},
		{what: "names instead of objects", intercept: body(`{"type":"sync","status_code":200,"metadata":["/1.0/instances/db"]}`), err: rows.ErrIncus},
		{what: "an instance of nothing", intercept: only("/1.0/instances", body(`{"type":"sync","status_code":200,"metadata":[{}]}`)), err: rows.ErrIncus},
		{what: "an instance without a name", intercept: only("/1.0/instances", body(`{"type":"sync","status_code":200,"metadata":[{"status":"Running"}]}`)), err: rows.ErrIncus},
		{what: "an instance without a status", intercept: only("/1.0/instances", body(`{"type":"sync","status_code":200,"metadata":[{"name":"db"}]}`)), err: rows.ErrIncus},
		{what: "a pool of nothing", intercept: only("/1.0/storage-pools", body(`{"type":"sync","status_code":200,"metadata":[{}]}`)), err: rows.ErrIncus},
		{what: "a volume of nothing", intercept: only("/1.0/storage-pools/default/volumes", body(`{"type":"sync","status_code":200,"metadata":[{}]}`)), err: rows.ErrIncus,
			volumes: map[string][]rowstest.Volume{"default": nil}},
		{what: "null for an empty list", intercept: only("/1.0/instances", body(`{"type":"sync","status_code":200,"metadata":null}`)), absent: true},
		{what: "cut short", err: rows.ErrIncus, intercept: func(_ string, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Length", "1000")
			w.Write([]byte(`{"type":"sync","status_code":200,"metadata":[]}`))
			panic(http.ErrAbortHandler)
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel() // those that hang wait for the deadline together
			i := rowstest.NewIncus(t)
			i.Instances, i.Volumes, i.Intercept = c.instances, c.volumes, c.intercept
			dir := c.dir
			if dir == "" {
				dir = filepath.Join(t.TempDir(), "missing")
			}
			start := time.Now()
			l, err := rows.Locate(context.Background(), rows.LocateOptions{Environ: []string{}, IncusSockets: []string{i.Socket}, DataDir: dir})
			if took := time.Since(start); took > 20*time.Second { // prestart's budget
				t.Errorf("it took %v", took)
			}
			switch {
			case c.err == errAny:
				if err == nil {
					t.Errorf("%v", l)
				}
			case !errors.Is(err, c.err):
				t.Errorf("%v, %v", l, err)
			case err != nil && l != (rows.Location{}):
				t.Errorf("both a place and an error: %v, %v", l, err)
			case l.Absent != c.absent, (l.Rival != "") != c.rival, c.absent && !strings.Contains(l.Why, dir):
				t.Errorf("%+v, rival %q", l, l.Rival)
			case c.want != "" && l.URL != "postgres://containarium:containarium@"+c.want+":5432/containarium?sslmode=disable":
				t.Errorf("%q", l.URL)
			}
		})
	}
}

var errAny = errors.New("any error")

// TestIncusSockets: no socket, and one that nobody listens on, are not "no database".
func TestIncusSockets(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	must(t, err)
	l.SetUnlinkOnClose(false)
	l.Close()
	good := rowstest.NewIncus(t)
	for _, c := range []struct {
		what    string
		sockets []string
		absent  bool
		why     string
	}{
		{"none named", []string{}, false, "no socket"},
		{"missing", []string{missing}, false, "there is no socket " + missing},
		{"stale", []string{stale, missing}, false, "not running"},
		{"the second answers", []string{missing, good.Socket}, true, ""},
		{"a stale one first", []string{stale, good.Socket}, true, ""},
	} {
		l, err := rows.Locate(context.Background(), rows.LocateOptions{Environ: []string{}, IncusSockets: c.sockets, DataDir: missing})
		if l.Absent != c.absent || (err != nil) == c.absent || err != nil && (!errors.Is(err, rows.ErrIncus) || !strings.Contains(err.Error(), c.why)) {
			t.Errorf("%s: %v, %v", c.what, l, err)
		}
	}
}

// TestContainer goes the daemon's way from the variables to an answer.
func TestContainer(t *testing.T) {
	i := rowstest.NewIncus(t)
	i.Instances = []rowstest.Instance{{Name: "db", Role: "core-postgres", Addresses: map[string][]string{"eth0": {"127.0.0.1"}}}}
	o := rows.LocateOptions{
		Environ:      environ(map[string]string{"CONTAINARIUM_POSTGRES_PASSWORD": rowstest.Password}),
		IncusSockets: []string{i.Socket},
	}
	l, err := rows.Locate(context.Background(), o)
	must(t, err)
	quiet(t, l)
	if want := `database "containarium" at 127.0.0.1:5432 as "containarium" (from incus, container db)`; l.String() != want {
		t.Errorf("%s", l)
	}
	d, err := cluster.NewDatabase("containarium") // a name that the daemon's defaults fix
	must(t, err)
	t.Cleanup(func() {
		if err := cluster.Admin("postgres", "drop database containarium with (force)"); err != nil {
			t.Error(err)
		}
	})
	must(t, d.CreateTable())
	// The cluster has another port.
	l.URL = strings.Replace(l.URL, ":5432/", fmt.Sprintf(":%d/", cluster.Port), 1)
	table, err := rows.Open(l, rows.Options{})
	must(t, err)
	defer table.Close()
	if got := table.Prove(context.Background()); got.State != rows.Silent {
		t.Errorf("%+v", got)
	}
	o.Environ = environ(map[string]string{"CONTAINARIUM_POSTGRES_PASSWORD_FILE": filepath.Join(t.TempDir(), "missing")})
	if l, err := rows.Locate(context.Background(), o); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, %v", l, err)
	}
}

// BenchmarkSaveRecord is part of the healthy path (law 7).
func BenchmarkSaveRecord(b *testing.B) {
	path := filepath.Join(b.TempDir(), "database")
	o := rows.LocateOptions{Environ: environ(map[string]string{"CONTAINARIUM_POSTGRES_URL": varURL})}
	for b.Loop() {
		if err := rows.SaveRecord(path, o); err != nil {
			b.Fatal(err)
		}
	}
}

// TestSilenceIsNotAbsence: a source that did not answer is none that said no (law 6).
func TestSilenceIsNotAbsence(t *testing.T) {
	eth0 := map[string][]string{"eth0": {"10.0.0.7"}}
	empty, full := rowstest.NewIncus(t), rowstest.NewIncus(t)
	full.Instances = []rowstest.Instance{{Name: "db", Role: "core-postgres", Addresses: eth0}}
	const containerURL = "postgres://containarium:containarium@10.0.0.7:5432/containarium?sslmode=disable"
	record := func(text string) string { return file(t, 0o600, text) }
	old := `{"url":"` + recordURL + `","from":"the daemon's flag --postgres"}`
	given := `{"url":"` + recordURL + `","from":"CONTAINARIUM_POSTGRES_URL","inherited":true}`
	parsed := `{"url":"` + recordURL + `","from":"CONTAINARIUM_POSTGRES_URL"}`
	named := environ(map[string]string{"CONTAINARIUM_POSTGRES_URL": varURL})
	nothing := []string{"PATH=/bin"}
	silent := errors.New("systemd does not answer")
	for _, c := range []struct {
		what  string
		o     rows.LocateOptions
		incus *rowstest.Incus
		want  string // the URL; "" with absent or err
		rival bool
		err   error
	}{
		{what: "all answer, and say no", o: rows.LocateOptions{Environ: nothing}, incus: empty},
		{what: "the record says no, too", o: rows.LocateOptions{Environ: nothing, Record: record(`{"from":"incus"}`)}, incus: empty},
		{what: "systemd is silent", o: rows.LocateOptions{Environ: nothing, Inherited: true, Unread: silent}, incus: empty, err: rows.ErrUnread},
		{what: "nobody told of the daemon", incus: empty, err: rows.ErrUnread},
		{what: "nobody told of the daemon but a record", o: rows.LocateOptions{Record: record(`{"from":"incus","inherited":true}`)}, incus: empty, err: rows.ErrUnread},
		{what: "the record cannot be read", o: rows.LocateOptions{Environ: nothing, Record: record(`{`)}, incus: empty, err: rows.ErrRecord},
		{what: "once it was named by the flag", o: rows.LocateOptions{Environ: nothing, Record: record(old)}, incus: empty, err: rows.ErrElsewhere},
		{what: "once it was named by a variable", o: rows.LocateOptions{Environ: nothing, Inherited: true, Record: record(given)}, incus: empty, err: rows.ErrElsewhere},
		{what: "once it was named, long ago", o: rows.LocateOptions{Environ: nothing, Record: record(`{"from":"incus","former":"x"}`)}, incus: empty, err: rows.ErrElsewhere},

		{what: "systemd is silent, the record knows the flag", o: rows.LocateOptions{Environ: nothing, Inherited: true, Unread: silent, Record: record(old)}, want: recordURL},
		{what: "systemd is silent, the record knows the flag before the variables", o: rows.LocateOptions{Environ: named, Inherited: true, Unread: silent, Record: record(old)}, want: recordURL},
		{what: "systemd is silent, the record was given it", o: rows.LocateOptions{Unread: silent, Record: record(given)}, want: recordURL, rival: true},
		{what: "a file cannot be read, the record has it", o: rows.LocateOptions{Environ: nothing, Unread: silent, Record: record(parsed)}, want: recordURL, rival: true},
		{what: "given goes before read", o: rows.LocateOptions{Environ: named, Record: record(given)}, want: recordURL},
		{what: "given now goes before given then", o: rows.LocateOptions{Environ: named, Inherited: true, Record: record(given)}, want: varURL},
		{what: "read now goes before read then", o: rows.LocateOptions{Environ: named, Record: record(parsed)}, want: varURL},
		{what: "the flag goes before all", o: rows.LocateOptions{PostgresFlag: flagURL, Environ: named, Record: record(given)}, want: flagURL},
		{what: "a broken record, and the variables know", o: rows.LocateOptions{Environ: named, Record: record(`{`)}, want: varURL},
		{what: "no record yet, systemd silent, given", o: rows.LocateOptions{Environ: named, Inherited: true, Unread: silent}, want: varURL, rival: true},

		{what: "the container", o: rows.LocateOptions{Environ: nothing}, incus: full, want: containerURL},
		{what: "the container, systemd silent", o: rows.LocateOptions{Environ: nothing, Inherited: true, Unread: silent}, incus: full, want: containerURL, rival: true},
		{what: "the container, another place named once", o: rows.LocateOptions{Environ: nothing, Record: record(old)}, incus: full, want: containerURL, rival: true},
	} {
		c.o.DataDir = filepath.Join(t.TempDir(), "missing")
		if c.incus == nil {
			c.o.IncusSockets = noIncus(t)
		} else {
			c.o.IncusSockets = []string{c.incus.Socket}
		}
		l, err := rows.Locate(context.Background(), c.o)
		if l.URL != c.want || !errors.Is(err, c.err) || (err == nil) != (c.err == nil) ||
			l.Absent != (c.want == "" && c.err == nil) || (l.Rival != "") != c.rival {
			t.Errorf("%s: %q, rival %q, %v", c.what, l.URL, l.Rival, err)
		}
		quiet(t, l, err)
	}
}

// TestRecordNeverForgets: whoever knows less adds to it.
func TestRecordNeverForgets(t *testing.T) {
	silent := errors.New("systemd does not answer")
	named := environ(map[string]string{"CONTAINARIUM_POSTGRES_URL": varURL, "PGPASSWORD": "hunter2"})
	other := environ(map[string]string{"CONTAINARIUM_POSTGRES_URL": "postgres://u@other/d"})
	nothing := []string{}
	for _, c := range []struct {
		what  string
		saved []rows.LocateOptions
		flag  bool // is known
		url   string
		given bool
		err   error // where the last two say nothing
	}{
		{"a start that did not ask systemd", []rows.LocateOptions{{PostgresFlag: flagURL, Environ: nothing}, {Environ: nothing, Inherited: true, Unread: silent}}, true, "", true, nil},
		{"a reading after a start", []rows.LocateOptions{{Environ: named, Inherited: true, Unread: silent}, {Environ: other}}, false, varURL, true, nil},
		{"half a reading after a reading", []rows.LocateOptions{{Environ: named}, {Environ: nothing, Unread: silent}}, false, varURL, false, nil},
		{"a reading after a reading", []rows.LocateOptions{{Environ: named}, {Environ: other}}, false, "postgres://u@other/d", false, nil},
		{"a start after a start", []rows.LocateOptions{{Environ: named, Inherited: true, Unread: silent}, {Environ: other, Inherited: true, Unread: silent}}, false, "postgres://u@other/d", true, nil},
		{"a flag that is gone", []rows.LocateOptions{{PostgresFlag: flagURL, Environ: nothing}, {Environ: nothing}, {Environ: nothing, Inherited: true}}, false, "", true, rows.ErrElsewhere},
	} {
		record := filepath.Join(t.TempDir(), "database.json")
		for _, o := range c.saved {
			must(t, rows.SaveRecord(record, o))
		}
		text, err := os.ReadFile(record)
		must(t, err)
		var got struct {
			Flag, URL string
			Inherited bool
			PG        map[string]string
		}
		must(t, json.Unmarshal(text, &got))
		if (got.Flag != "") != c.flag || got.URL != c.url || got.Inherited != c.given || (got.PG["PGPASSWORD"] != "") != (c.url == varURL) {
			t.Errorf("%s: %s", c.what, text)
		}
		if c.err != nil {
			incus := rowstest.NewIncus(t)
			if l, err := rows.Locate(context.Background(), rows.LocateOptions{Environ: nothing, Record: record, IncusSockets: []string{incus.Socket}, DataDir: filepath.Join(t.TempDir(), "x")}); !errors.Is(err, c.err) {
				t.Errorf("%s: %v, %v", c.what, l, err)
			}
		}
	}
}

// TestVariables: a place says to everybody what the daemon's URL and PG* say to the
// daemon.
func TestVariables(t *testing.T) {
	variables := map[string]string{"PGHOST": "envhost", "PGPORT": "6543", "PGDATABASE": "envdb", "PGUSER": "envuser",
		"PGPASSWORD": `p'a\s s&=%+w`, "PGSSLMODE": "disable", "PGOPTIONS": "-c work_mem=1MB", "PGTZ": "UTC",
		"PGTARGETSESSIONATTRS": "read-write", "PGAPPNAME": "daemon"}
	for _, conn := range []string{
		"postgres://", "postgres:///", "postgres://@/d", "postgres://h", "postgres://h/d", "postgres://u@h/d", "postgres://u:p@h/d", "postgres://:p@h", "postgres://u:@h",
		"postgres://h:1/d", "postgres://:1/d", "postgres://h:/d", "postgres://[::1]/d", "postgres://[::1]:7/d", "postgres://a,b/d", "postgres://a:1,b:2/d",
		"postgresql://u@/d?host=/run/pg", "postgres://h/d?", "postgres://h?sslmode=require", "postgres://h/d?ssl=true", "postgres://u@h/d?password=q&user=z",
		"postgres://h/d?dbname=e&port=9", "postgres://u@h/d?p%61ssword=q", "postgres://h/d?user=", "postgres://u%40x:a%2Fb@h/d?timezone=CET",
		"host=h", "host=h password=q", "dbname=d user='u v'", "host=h sslmode=require port=1",
	} {
		for name, value := range variables {
			t.Run(conn+" "+name, func(t *testing.T) {
				l, err := rows.Locate(t.Context(), rows.LocateOptions{PostgresFlag: conn, Environ: []string{name + "=" + value}})
				must(t, err)
				got, err := pgconn.ParseConfig(l.URL)
				must(t, err)
				t.Setenv(name, value)
				want, err := pgconn.ParseConfig(conn)
				must(t, err)
				told := func(c *pgconn.Config) string {
					return fmt.Sprint(c.Host, c.Port, c.Database, c.User, c.Password, c.TLSConfig == nil, len(c.Fallbacks), c.RuntimeParams, c.ValidateConnect == nil)
				}
				if told(got) != told(want) {
					t.Errorf("%s with %s=%s: %s; want %s", conn, name, value, told(got), told(want))
				}
			})
		}
	}
}

// TestPassfile: a password file that others can read is refused, as the daemon refuses its
// own, and only where the password comes from it.
func TestPassfile(t *testing.T) {
	const line = "*:*:*:*:hunter2\n"
	loose, tight, others := file(t, 0o640, line), file(t, 0o600, line), file(t, 0o640, "elsewhere:*:*:*:hunter2\n")
	t.Setenv("HOME", t.TempDir())
	t.Setenv("PGPASSFILE", loose) // where nothing names another
	for _, c := range []struct {
		conn, variable string
		err            error
	}{
		{"postgres://u@h/d?sslmode=disable", "", rows.ErrLoose},
		{"postgres://u@h/d?sslmode=disable", others, nil},
		{"postgres://u@h/d?sslmode=disable", loose, rows.ErrLoose},
		{"postgres://u@h/d?sslmode=disable", tight, nil},
		{"postgres://u:p@h/d?sslmode=disable", loose, nil},
		{"postgres://u@h/d?password=p", loose, nil},
		{"postgres://u@h/d?passfile=" + loose, tight, rows.ErrLoose},
		{"host=h user=u", loose, rows.ErrLoose},
		{"host=h user=u password=p", loose, nil},
		{"host=h user=u passfile='" + loose + "'", tight, rows.ErrLoose},
	} {
		env := map[string]string{}
		if c.variable != "" {
			env["PGPASSFILE"] = c.variable
		}
		l, err := rows.Locate(t.Context(), rows.LocateOptions{PostgresFlag: c.conn, Environ: environ(env)})
		if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
			t.Errorf("%s with %s: %v, %v", c.conn, c.variable, l, err)
		}
		quiet(t, l, err)
	}
}

// TestClearText: where the password may cross a network readable by all.
func TestClearText(t *testing.T) {
	for url, want := range map[string]string{
		"postgres://u:p@db.example/d": "db.example", "postgres://u:p@10.0.0.1/d?sslmode=prefer": "10.0.0.1", "postgres://u:p@db.example/d?sslmode=require": "",
		"postgres://u:p@db.example/d?sslmode=disable": "", "postgres://u@db.example/d": "", "postgres://u:p@127.0.0.1/d": "", "postgres://u:p@[::1]/d": "",
		"postgres://u:p@localhost/d": "", "postgres://u:p@/d?host=/run/pg": "", "postgres://u:p@localhost,db.example/d": "db.example",
	} {
		if got := (rows.Location{URL: url}).ClearText(); got != want {
			t.Errorf("%s: %q, want %q", url, got, want)
		}
	}
}

// TestPasswordInTheUnit: a password that stands in the daemon's unit as PGPASSWORD opens the
// session for whoever reads the unit, and for whoever has only the record of a start.
func TestPasswordInTheUnit(t *testing.T) {
	d := cluster.Database(t)
	record := filepath.Join(t.TempDir(), "database.json")
	unit := rows.LocateOptions{Record: record, Environ: environ(map[string]string{
		"CONTAINARIUM_POSTGRES_URL": strings.Replace(d.URL(), ":"+rowstest.Password+"@", "@", 1), "PGPASSWORD": rowstest.Password})}
	started := unit
	started.Inherited = true
	for who, o := range map[string]rows.LocateOptions{"watcher": unit, "start": started} {
		l, err := rows.Locate(t.Context(), o)
		must(t, err)
		quiet(t, l)
		if got := ask(t, l.URL, rows.Options{}); got.State != rows.Silent {
			t.Errorf("%s: %+v", who, got)
		}
	}
	must(t, rows.SaveRecord(record, started))
	l, err := rows.Locate(t.Context(), rows.LocateOptions{Record: record, Unread: errAny})
	must(t, err)
	if got := ask(t, l.URL, rows.Options{}); got.State != rows.Silent {
		t.Errorf("by the record: %+v", got)
	}
	if got := ask(t, strings.Replace(d.URL(), ":"+rowstest.Password+"@", "@", 1), rows.Options{}); !errors.Is(got.Err, rows.ErrPassword) {
		t.Errorf("without: %+v", got)
	}
}

// TestSettingsThatHang: a file that a setting names may never answer, and nobody hangs there:
// where the database is, is not known then.
func TestSettingsThatHang(t *testing.T) {
	t.Parallel() // it waits
	fifo := filepath.Join(t.TempDir(), "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	locate := func() error {
		_, err := rows.Locate(context.Background(), rows.LocateOptions{Environ: environ(map[string]string{
			"CONTAINARIUM_POSTGRES_URL": "postgres://u@127.0.0.1:1/d?sslmode=verify-ca", "PGSSLROOTCERT": fifo})})
		return err
	}
	for range 2 { // the second time nobody waits
		if err := locate(); !errors.Is(err, crew.ErrHangs) {
			t.Errorf("%v", err)
		}
	}
	// Somebody writes there, and it is a file as any other.
	must(t, os.Rename(fifo, fifo+".old"))
	f, err := os.OpenFile(fifo+".old", os.O_WRONLY, 0)
	must(t, err, f.Close())
	for errors.Is(locate(), crew.ErrHangs) {
		runtime.Gosched()
	}
}

// TestSettingsWithoutEnd: what a setting names is not read whatever it is.
func TestSettingsWithoutEnd(t *testing.T) {
	large := filepath.Join(t.TempDir(), "it's large")
	must(t, os.WriteFile(large, nil, 0o600), os.Truncate(large, 1<<20+1))
	for name, tt := range map[string]struct{ conn, variable, file string }{
		"a device in a variable": {"postgres://u@127.0.0.1:1/d?sslmode=verify-ca", "PGSSLROOTCERT", "/dev/zero"},
		"a device in the URL":    {"postgres://u@127.0.0.1:1/d?sslmode=verify-ca&sslrootcert=%2Fdev%2Fzero", "", "/dev/zero"},
		"a device in words":      {"host=127.0.0.1 port=1 user=u sslmode=verify-ca sslrootcert = '/dev/zero'", "", "/dev/zero"},
		"a large file":           {"postgres://u@127.0.0.1:1/d?sslmode=verify-ca", "PGSSLROOTCERT", large},
		"a large file in words":  {`host=127.0.0.1 port=1 user=u passfile='` + strings.ReplaceAll(large, "'", `\'`) + `'`, "", large},
	} {
		t.Run(name, func(t *testing.T) {
			env := map[string]string{"CONTAINARIUM_POSTGRES_URL": tt.conn}
			if tt.variable != "" {
				env[tt.variable] = tt.file
			}
			if _, err := rows.Locate(t.Context(), rows.LocateOptions{Environ: environ(env)}); !errors.Is(err, rows.ErrNotFile) || !strings.Contains(err.Error(), tt.file) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestVariableToBlame: where the URL is right and a variable that the driver reads is not, it
// is named, and what it says is not.
func TestVariableToBlame(t *testing.T) {
	const url = "postgres://u@h/d"
	for name, value := range map[string]string{"PGCONNECT_TIMEOUT": "-5hunter2", "PGTARGETSESSIONATTRS": "hunter2", "PGSERVICE": "hunter2"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			_, err := rows.Open(rows.Location{URL: url, From: "a test"}, rows.Options{})
			if !errors.Is(err, rows.ErrURL) || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v", err)
			}
		})
	}
}
