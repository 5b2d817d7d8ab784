package hooks_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
	"github.com/footprintai/containarium-keyguard/agent/unit"
	"github.com/footprintai/containarium-keyguard/hooks"
)

// watched is a host with a running watcher. What the watcher reports is how a test
// knows that something is done.
type watched struct {
	t       testing.TB
	dir     string
	db      *rowstest.Database
	up      atomic.Bool // the rows can be asked
	held    atomic.Pointer[look]
	host    *agent.Host
	options hooks.WatchOptions
	reports chan string
	journal chan unit.Line
	restart chan struct{}
	stop    func()
}

func newWatched(t testing.TB, db *rowstest.Database) *watched {
	t.Helper()
	w := &watched{t: t, dir: t.TempDir(), db: db, reports: make(chan string, 10_000),
		journal: make(chan unit.Line), restart: make(chan struct{}, 10)}
	w.up.Store(true)
	w.host = &agent.Host{
		Keyfile: keyfile.File{Path: w.path("etc/secrets.key"), Owner: os.Getuid(), Group: os.Getgid(),
			Quarantine: w.path("state/quarantine"), Locks: w.path("state")},
		Ledger:   ledger.Open(w.path("state"), ledger.Options{Host: "test"}),
		StateDir: w.path("state"),
		Now:      time.Now,
		OpenRows: func(ctx context.Context, o rows.Options) (agent.Rows, error) {
			if !w.up.Load() {
				return nil, rows.ErrNotListening
			}
			if l := w.held.Swap(nil); l != nil {
				l.began <- ctx
				<-l.goOn
			}
			return patient(w.db.URL(), o)
		},
	}
	for _, d := range []string{"etc", "state", "run", "usb"} {
		w.must(os.Mkdir(w.path(d), 0o700))
	}
	place, err := kinds.NewDirectory(kinds.DirectoryOptions{Name: "usb", Path: w.path("usb"), Keyfile: w.host.Keyfile.Path, AllowSameDisk: true})
	w.must(err)
	w.must(place.Init(context.Background()))
	w.host.Escrows = []agent.Escrow{{Reader: place, Writer: place, Required: true}}
	w.options = hooks.WatchOptions{
		Debounce: 20 * time.Millisecond, Rescan: time.Hour, RunDir: w.path("run"),
		Ready: func() {}, Status: func(string) {}, Beat: func() {},
		Tell: func(e hooks.Event) {
			w.reports <- e.Line()
		},
		Follow: func(ctx context.Context, line func(unit.Line)) error {
			line(unit.Line{Said: unit.CaughtUp})
			for {
				select {
				case l := <-w.journal:
					line(l)
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		},
		Restart: func(context.Context, string) error { w.restart <- struct{}{}; return nil },
	}
	return w
}

// longest is how long a test waits for what must come, on a machine however busy.
const longest = 2 * time.Minute

// patient opens rows on a machine that may be busy with other tests: what is late is not
// what these are about.
func patient(url string, o rows.Options) (agent.Rows, error) {
	o.ConnectTimeout, o.StatementTimeout = 20*time.Second, 20*time.Second
	return rows.Open(rows.Location{URL: url, From: "the test"}, o)
}

func (w *watched) start() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- hooks.Watch(ctx, w.host, w.options) }()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				w.t.Error(err)
			}
		case <-time.After(longest):
			w.t.Error("the watcher does not stop")
		}
	}
	w.t.Cleanup(w.stop)
}

// look is a time that the rows are asked, which ends when it may.
type look struct {
	began chan context.Context
	goOn  chan struct{}
}

// notRestarted fails with why where the daemon was restarted.
func (w *watched) notRestarted(why string) {
	w.t.Helper()
	select {
	case <-w.restart:
		w.t.Error(why)
	default:
	}
}

// hold holds up the next look.
func (w *watched) hold() *look {
	l := &look{make(chan context.Context), make(chan struct{})}
	w.held.Store(l)
	return l
}

func (w *watched) path(name string) string { return filepath.Join(w.dir, name) }

func (w *watched) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// await reads reports until one has the words.
func (w *watched) await(words ...string) {
	w.t.Helper()
	w.awaitAll(words)
}

// awaitAll reads reports until, in whichever order, each list has its words in one of
// them. What is read is gone: reports whose order nothing says are awaited together.
func (w *watched) awaitAll(lists ...[]string) {
	w.t.Helper()
	var heard []string
	deadline := time.After(longest)
	for len(lists) > 0 {
		select {
		case r := <-w.reports:
			heard = append(heard, r)
			has := func(words []string) bool {
				return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(r, word) })
			}
			if i := slices.IndexFunc(lists, has); i >= 0 {
				lists = slices.Delete(lists, i, i+1)
			}
		case <-deadline:
			w.t.Fatalf("no reports with %q, but\n%s", lists, strings.Join(heard, "\n"))
		}
	}
}

func (w *watched) write(k key.Key) {
	w.t.Helper()
	temp := w.path("etc/.new")
	w.must(os.WriteFile(temp, k.UnsafeBytes(), 0o400))
	w.must(os.Rename(temp, w.host.Keyfile.Path))
}

// writeAfter is write so that the kernel's time of it, which may lie a tick back, is after another.
func (w *watched) writeAfter(at time.Time, k key.Key) {
	w.t.Helper()
	for {
		w.write(k)
		info, err := os.Stat(w.host.Keyfile.Path)
		w.must(err)
		if st := info.Sys().(*syscall.Stat_t); time.Unix(st.Ctim.Unix()).After(at) {
			return
		}
	}
}

func (w *watched) holds(k key.Key) bool {
	content, err := os.ReadFile(w.host.Keyfile.Path)
	return err == nil && bytes.Equal(content, k.UnsafeBytes())
}

func (w *watched) shelf(s escrow.Shelf) []key.Fingerprint {
	w.t.Helper()
	copies, err := w.host.Escrows[0].List(context.Background())
	w.must(err)
	var list []key.Fingerprint
	for _, c := range copies {
		if c.Shelf == s {
			list = append(list, c.Fingerprint)
		}
	}
	return list
}

func (w *watched) upsert(k key.Key) {
	w.t.Helper()
	w.must(w.db.Upsert(k, "tenant", "SECRET_"+string(k.Fingerprint()), []byte("v")))
}

func watchKey(name string) key.Key {
	sum := sha256.Sum256([]byte("watch test key " + name))
	k, err := key.New(sum[:])
	if err != nil {
		panic(err)
	}
	return k
}

// TestWatch plays what happens to a keyfile while the daemon runs (design §4).
func TestWatch(t *testing.T) {
	cluster := rowstest.New(t)
	a, b := watchKey("a"), watchKey("b")
	fa := string(a.Fingerprint())

	// guarded is a watcher over a proven, escrowed key.
	guarded := func(t *testing.T, change func(*watched)) *watched {
		t.Helper()
		w := newWatched(t, cluster.Database(t))
		w.upsert(a)
		w.write(a)
		if change != nil {
			change(w)
		}
		w.start()
		w.await("saved", fa)
		if got := w.shelf(escrow.Current); len(got) != 1 || string(got[0]) != fa {
			t.Fatalf("current: %v", got)
		}
		return w
	}

	t.Run("a new key is proven and escrowed", func(t *testing.T) {
		w := newWatched(t, cluster.Database(t))
		w.upsert(a)
		w.start()
		w.await("lost")
		remembered := w.path("run/backoff.json")
		w.must(errors.Join(os.MkdirAll(w.path("run"), 0o700), os.WriteFile(remembered, []byte("{}"), 0o600)))
		w.write(a)
		w.await("saved", fa, "current")
		if _, err := os.Lstat(remembered); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what an escrow answered before the save is remembered: %v", err)
		}
	})
	t.Run("deleted, it comes back", func(t *testing.T) {
		w := guarded(t, nil)
		w.must(os.Remove(w.host.Keyfile.Path))
		w.await("missing", fa, "in place")
		if !w.holds(a) {
			t.Error("another key is in place")
		}
	})
	t.Run("truncated in place, it comes back", func(t *testing.T) {
		w := guarded(t, nil)
		w.must(os.Truncate(w.host.Keyfile.Path, 7))
		w.await("7 bytes", fa, "in place")
	})
	t.Run("loose, it is tightened", func(t *testing.T) {
		w := guarded(t, nil)
		w.must(os.Chmod(w.host.Keyfile.Path, 0o644))
		w.await("loose (mode 0644)")
		info, err := os.Stat(w.host.Keyfile.Path)
		w.must(err)
		if info.Mode().Perm() != 0o400 {
			t.Error(info.Mode())
		}
	})
	t.Run("foreign, before the daemon has read its key", func(t *testing.T) {
		w := guarded(t, nil)
		w.write(b)
		w.awaitAll([]string{fa, "in place"}, []string{"saved", string(b.Fingerprint()), "quarantine"})
		if got := w.shelf(escrow.Current); len(got) != 1 {
			t.Errorf("current: %v (law 4)", got)
		}
	})
	t.Run("foreign, after the daemon has read its key", func(t *testing.T) {
		w := guarded(t, nil)
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1"}
		w.journal <- unit.Line{Said: unit.Ready, Invocation: "1"}
		w.journal <- unit.Line{Said: unit.Ready, Invocation: "1"} // the one before has arrived
		w.journal <- unit.Line{Said: unit.Ready, Invocation: "1"} // and so has that
		w.write(b)
		w.await("heal is off", "the daemon runs on key "+fa)
		if !w.holds(b) {
			t.Error("the keyfile was corrected under a running daemon")
		}
		if got := w.shelf(escrow.Current); len(got) != 1 {
			t.Errorf("current: %v (law 4)", got)
		}
	})
	t.Run("replaced under a daemon that runs, before the watcher started", func(t *testing.T) {
		w := guarded(t, nil)
		w.stop()
		w.must(w.host.Ledger.Append(ledger.Entry{Event: ledger.Proven, Fingerprint: a.Fingerprint(), Verdict: string(rows.Opens)}))
		w.must(agent.NoteKeyRead(w.host, ledger.StartedOn, "1", a.Fingerprint())) // by the watcher before
		read := time.Now()
		w.writeAfter(read, b)
		w.options.Follow = func(ctx context.Context, line func(unit.Line)) error {
			line(unit.Line{Said: unit.Starting, Invocation: "1", Time: read})
			line(unit.Line{Said: unit.Ready, Invocation: "1", Time: read})
			line(unit.Line{Said: unit.CaughtUp})
			<-ctx.Done()
			return ctx.Err()
		}
		w.start()
		w.await("the daemon runs on key "+fa, "only the file differs")
	})
	t.Run("foreign since the daemon has read its key, of which the journal tells late", func(t *testing.T) {
		w := guarded(t, func(w *watched) { w.host.Left = w.path("run/left") })
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1"}
		w.must(agent.NoteLeft(w.host, "1", a.Fingerprint()))
		read := time.Now()
		w.writeAfter(read, b)
		w.await(fa, "in place")
		w.journal <- unit.Line{Said: unit.Ready, Invocation: "1", Time: read}
		told := false
		for began := time.Now(); !told && time.Since(began) < longest; {
			r, err := w.host.Ledger.Read()
			w.must(err)
			for _, e := range r.Entries {
				if told = e.Event == ledger.StartedOn; told && e.Fingerprint != a.Fingerprint() {
					t.Errorf("it is told to run on the key that came after: %+v", e)
				}
			}
		}
		if !told {
			t.Error("nothing is told of its start")
		}
	})
	t.Run("lost, while nobody is asked again yet", func(t *testing.T) {
		w := newWatched(t, cluster.Database(t))
		var since atomic.Int64
		w.options.Clock = func() (string, time.Duration) { return "boot", time.Duration(since.Load()) }
		asked, open := make(chan struct{}, 10_000), w.host.OpenRows
		w.host.OpenRows = func(ctx context.Context, o rows.Options) (agent.Rows, error) {
			asked <- struct{}{}
			return open(ctx, o)
		}
		w.upsert(watchKey("gone"))
		w.write(a)
		w.start()
		w.awaitAll([]string{"lost: "}, []string{"saved", fa, "quarantine"})
		for len(asked) > 0 {
			<-asked
		}
		for i := range 4 {
			if i == 3 {
				since.Store(int64(time.Hour)) // all are asked again
			}
			w.journal <- unit.Line{Said: unit.Starting, Invocation: fmt.Sprint(i), Time: time.Now()}
			<-asked
		}
		w.write(watchKey("gone"))
		for r := ""; !strings.Contains(r, "guarding"); {
			if r = <-w.reports; strings.Contains(r, "lost: ") || strings.Contains(r, "doubt: ") {
				t.Errorf("said of the same: %s", r)
			}
		}
	})
	t.Run("foreign, with heal", func(t *testing.T) {
		w := guarded(t, func(w *watched) { w.options.Heal = true })
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1"}
		w.journal <- unit.Line{Said: unit.Ready, Invocation: "1"}
		w.write(b)
		w.await(fa, "in place")
		<-w.restart
	})
	t.Run("the directory goes and comes back", func(t *testing.T) {
		w := guarded(t, nil)
		w.must(os.RemoveAll(w.path("etc")))
		w.await("is gone")
		if _, err := os.Stat(w.path("etc")); !errors.Is(err, os.ErrNotExist) {
			t.Error("the directory of an uninstalled daemon was made again")
		}
		w.must(os.Mkdir(w.path("etc"), 0o700))
		w.await(fa, "in place")
		w.must(os.Remove(w.host.Keyfile.Path))
		w.await(fa, "in place")
	})
	t.Run("the directory goes under a daemon that runs", func(t *testing.T) {
		w := guarded(t, func(w *watched) {
			w.host.Daemon.Running = func(context.Context) ([]string, error) { return []string{"containarium.service"}, nil }
		})
		w.must(os.RemoveAll(w.path("etc")))
		w.await("missing, with its directory", fa, "in place")
		if info, err := os.Stat(w.path("etc")); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%v, %v", info, err)
		}
	})
	t.Run("the file system of the directory goes under a daemon that runs", func(t *testing.T) {
		// It comes back, and what had been written below would be covered.
		w := guarded(t, func(w *watched) {
			w.must(os.Mkdir(w.path("etc/mounted"), 0o700))
			w.must(os.Mkdir(w.path("etc/mounted/on"), 0o700))
			w.must(os.Rename(w.host.Keyfile.Path, w.path("etc/mounted/on/secrets.key")))
			w.host.Keyfile.Path = w.path("etc/mounted/on/secrets.key")
			w.host.Daemon.Running = func(context.Context) ([]string, error) { return []string{"containarium.service"}, nil }
		})
		w.must(os.Rename(w.path("etc/mounted/on"), w.path("old")))
		w.await("is gone")
		if left, err := os.ReadDir(w.path("etc/mounted")); err != nil || len(left) > 0 {
			t.Errorf("%v, %v", left, err)
		}
	})
	t.Run("the directory goes while the daemon starts", func(t *testing.T) {
		// Somebody cleans up behind a prestart: the daemon would make the directory, and a key.
		w := guarded(t, nil)
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1", Time: time.Now()}
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1", Time: time.Now()} // the one before has arrived
		w.must(os.RemoveAll(w.path("etc")))
		w.await(fa, "in place")
	})
	t.Run("the directory is renamed and replaced", func(t *testing.T) {
		w := guarded(t, nil)
		w.must(os.Rename(w.path("etc"), w.path("old")))
		w.must(os.Mkdir(w.path("etc"), 0o700))
		w.await(fa, "in place")
		w.must(os.Remove(w.host.Keyfile.Path))
		w.await(fa, "in place")
	})
	t.Run("no events at all", func(t *testing.T) {
		w := guarded(t, func(w *watched) { w.options.Debounce, w.options.Rescan = time.Hour, 50*time.Millisecond })
		w.must(os.Remove(w.host.Keyfile.Path))
		w.await("missing", fa, "in place")
	})
	t.Run("parked, and the rows come up", func(t *testing.T) {
		w := guarded(t, nil)
		w.stop()
		w.must(os.RemoveAll(w.path("state/ledger.jsonl")))
		w.must(os.Remove(w.host.Keyfile.Path))
		w.must(os.WriteFile(w.host.Keyfile.Path, nil, 0o400))
		w.up.Store(false)
		w.start()
		w.await("doubt")
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1"}
		w.journal <- unit.Line{Said: unit.Empty, Invocation: "1"}
		w.up.Store(true)
		w.await(fa, "in place")
		w.await("restarting the daemon")
		<-w.restart
	})
	t.Run("it beats before anything else", func(t *testing.T) {
		// The loop before this one, which a reload ended, may have beaten long ago.
		var order []string
		w := newWatched(t, cluster.Database(t))
		w.options.BeatEvery = time.Hour
		w.options.Beat = func() { order = append(order, "beat") }
		status := make(chan string, 100)
		w.options.Status = func(text string) { status <- text }
		w.start()
		<-status
		w.stop()
		if !slices.Equal(order, []string{"beat"}) {
			t.Errorf("%q", order)
		}
	})
	t.Run("gone before the daemon has read its key, and nothing can be decided", func(t *testing.T) {
		w := guarded(t, nil)
		w.stop()
		w.must(os.RemoveAll(w.path("state/ledger.jsonl")))
		w.must(os.RemoveAll(w.path("state/quarantine")))
		w.must(os.Rename(w.path("usb"), w.path("away")))
		w.must(os.Remove(w.host.Keyfile.Path))
		w.start()
		w.await("doubt") // no daemon was started, so there is nobody to park for
		if _, err := os.Lstat(w.host.Keyfile.Path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it is parked for no daemon: %v", err)
		}
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "0"}
		w.await("parked", "makes no key")
		if info, err := os.Stat(w.host.Keyfile.Path); err != nil || info.Size() != 0 || info.Mode().Perm() != 0o400 {
			t.Errorf("%v, %v", info, err)
		}
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1"}
		w.must(os.Remove(w.host.Keyfile.Path)) // and once more
		w.await("parked", "makes no key")
		w.must(os.Rename(w.path("away"), w.path("usb")))
		w.await(fa, "in place")
	})
	t.Run("gone after the daemon has read its key, and nothing can be decided", func(t *testing.T) {
		w := guarded(t, nil)
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1"}
		w.journal <- unit.Line{Said: unit.Loaded, Invocation: "1"}
		w.journal <- unit.Line{Said: unit.Loaded, Invocation: "1"} // the one before has arrived
		l := holdLock(t, w.path("state/rotate"))                   // it puts nothing back until all is gone
		w.must(os.Remove(w.host.Keyfile.Path))
		w.await("under way")                             // and a round that had seen the key has ended
		w.must(os.RemoveAll(w.path("state/quarantine"))) // where that one may have copied it
		w.must(os.RemoveAll(w.path("state/ledger.jsonl")))
		w.must(os.Rename(w.path("usb"), w.path("away")))
		l.Close() //nolint:errcheck // nothing was written
		w.await("doubt")
		if _, err := os.Lstat(w.host.Keyfile.Path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it is parked under a daemon that runs: %v", err)
		}
	})
	t.Run("read-only while the daemon starts", func(t *testing.T) {
		w := guarded(t, nil)
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1"}
		w.stop()
		w.must(unix.Mount("keyguard-test", w.path("etc"), "tmpfs", 0, ""))
		t.Cleanup(func() { unix.Unmount(w.path("etc"), unix.MNT_DETACH) })
		w.must(unix.Mount("", w.path("etc"), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		w.start()
		w.await("could not be looked after")
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "2"}
		w.must(unix.Mount("", w.path("etc"), "", unix.MS_REMOUNT, "")) // of which no event tells
		w.await(fa, "in place")
	})
	t.Run("a foreign key, proven long ago, while the daemon starts", func(t *testing.T) {
		// A machine that was rolled back: the keyfile and the ledger agree, the rows do not.
		w := guarded(t, nil)
		w.stop()
		w.must(w.host.Keyfile.Keep(b, time.Now()))
		w.up.Store(false)
		w.start()
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1"}
		w.await("guarding key")
		_, err := w.db.Exec("delete from secrets")
		w.must(err)
		w.upsert(b)
		w.up.Store(true) // of which nothing tells
		w.await(string(b.Fingerprint()), "in place")
	})
	t.Run("the rows are another key's at a start, which passes on a fresh proof", func(t *testing.T) {
		// The start asks nobody (law 7). Its first line in the journal is what has the rows
		// asked, long before the daemon reads its key: no event, no rescan, no hour is waited for.
		w := guarded(t, nil)
		w.stop()
		w.must(w.host.Keyfile.Keep(b, time.Now()))
		_, err := w.db.Exec("delete from secrets")
		w.must(err)
		w.upsert(b)
		w.must(w.host.Ledger.Append(ledger.Entry{Event: ledger.Proven, Fingerprint: a.Fingerprint(), Verdict: string(rows.Opens), Checked: 1, Opened: 1}))
		g, err := agent.Guard(context.Background(), w.host, agent.GuardOptions{})
		if err != nil || g.Decision.Action != decide.Pass || g.Evidence.Rows.State != decide.RowsNotAsked {
			t.Fatalf("%+v, %v", g.Decision, err)
		}
		w.up.Store(false)
		w.start()
		w.await("guarding key")
		w.up.Store(true) // of which nothing tells
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1"}
		w.await(string(b.Fingerprint()), "in place")
		if !w.holds(b) {
			t.Error("the daemon would read the key that opens nothing")
		}
	})
	t.Run("the rows are another key's at a start, and nobody has that", func(t *testing.T) {
		w := guarded(t, nil)
		_, err := w.host.Escrows[0].Writer.Save(context.Background(), escrow.Quarantine, b)
		w.must(err)
		w.must(os.Rename(w.path("usb"), w.path("away")))
		_, err = w.db.Exec("delete from secrets")
		w.must(err)
		w.upsert(b)
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1"}
		w.await("parked", "opens no row")
		if content, err := os.ReadFile(w.host.Keyfile.Path); err != nil || len(content) > 0 {
			t.Errorf("the daemon would read a key that the rows have just refuted: %d bytes, %v", len(content), err)
		}
		w.must(os.Rename(w.path("away"), w.path("usb")))
		w.await(string(b.Fingerprint()), "in place")
		if _, err := os.Stat(w.path("state/quarantine")); err != nil {
			t.Error(err)
		}
	})
	t.Run("the local quarantine is taken away, and then the keyfile, while no escrow is there", func(t *testing.T) {
		w := guarded(t, func(w *watched) { w.options.Rescan = 20 * time.Millisecond })
		w.must(os.Rename(w.path("usb"), w.path("away")))
		w.must(os.Rename(w.path("state/quarantine"), w.path("taken"))) // at once: a rescan may be making it anew
		deadline := time.After(longest)
		for !w.host.Keyfile.Keeps(a.Fingerprint()) {
			select {
			case <-time.After(time.Millisecond): // nothing tells of it
			case <-deadline:
				t.Fatal("the keyfile's key is not copied again")
			}
		}
		w.must(os.Remove(w.host.Keyfile.Path))
		w.await(fa, "in place")
	})
	t.Run("a daemon that could not load its key after it was ready", func(t *testing.T) {
		w := guarded(t, func(w *watched) { w.options.Heal = true })
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1"}
		w.journal <- unit.Line{Said: unit.Ready, Invocation: "1"}
		w.journal <- unit.Line{Said: unit.Empty, Invocation: "1"}
		w.journal <- unit.Line{Said: unit.Failed, Invocation: "1"}
		w.must(os.Remove(w.host.Keyfile.Path))
		w.await(fa, "in place")
		w.notRestarted("a line that is not the daemon's word restarted it")
	})
	t.Run("a tenant's line says that the keyfile was empty, or not loaded", func(t *testing.T) {
		w := guarded(t, func(w *watched) { w.options.Heal = true })
		later := time.Now().Add(time.Hour) // the keyfile has stood there since long
		for _, said := range []unit.Said{unit.Starting, unit.Empty, unit.Failed} {
			w.journal <- unit.Line{Said: said, Invocation: "1", Time: later}
		}
		w.await("restart needed", "could not read the keyfile")
		w.notRestarted("a line that cannot be the daemon's word restarted it")
	})
	t.Run("the daemon could not use its database", func(t *testing.T) {
		w := guarded(t, nil)
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1"}
		w.journal <- unit.Line{Said: unit.Untouched, Invocation: "1"}
		w.await("restart needed", "could not use its database", fa)
	})
	t.Run("the state directory is made anew", func(t *testing.T) {
		w := newWatched(t, cluster.Database(t))
		w.options.Rescan = 10 * time.Millisecond
		hold, err := agent.HoldWatch(w.host)
		w.must(err)
		defer hold.Release()
		ready := make(chan struct{})
		w.options.Stands, w.options.Ready = hold.Stands, func() { close(ready) }
		ended := make(chan error, 1)
		go func() { ended <- hooks.Watch(t.Context(), w.host, w.options) }()
		<-ready
		w.must(os.Rename(w.path("state"), w.path("gone")))
		w.must(os.MkdirAll(w.path("state"), 0o700))
		if err := <-ended; !errors.Is(err, hooks.ErrStateDir) {
			t.Errorf("a watcher that may not be able to write there goes on: %v", err)
		}
	})
	t.Run("parked, and in time", func(t *testing.T) {
		w := guarded(t, nil)
		w.stop()
		w.must(os.Remove(w.host.Keyfile.Path))
		w.must(os.WriteFile(w.host.Keyfile.Path, nil, 0o400))
		w.start()
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1"}
		w.await(fa, "in place")
		w.journal <- unit.Line{Said: unit.Ready, Invocation: "1"}
		w.notRestarted("a daemon that read the right key was restarted")
	})
	t.Run("a tenant's line says that the daemon made a key", func(t *testing.T) {
		w := guarded(t, nil)
		for _, said := range []unit.Said{unit.Starting, unit.Ready, unit.Minted, unit.CaughtUp} {
			w.journal <- unit.Line{Said: said, Invocation: "1", Time: time.Now()}
		}
		w.write(b)
		w.awaitAll([]string{"heal is off", fa})
		record, err := w.host.Ledger.Read()
		w.must(err)
		if slices.ContainsFunc(record.Entries, func(e ledger.Entry) bool { return e.Event == ledger.Minted }) {
			t.Error("the ledger says that the daemon made a key")
		}
	})
	t.Run("the daemon mints under our eyes", func(t *testing.T) {
		// Its line is there before the round that sees the key, as the daemon writes it at once.
		w := guarded(t, nil)
		look := w.hold()
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1"}
		round := <-look.began
		w.write(b)
		w.journal <- unit.Line{Said: unit.Minted, Invocation: "1"}
		w.journal <- unit.Line{Said: unit.CaughtUp} // the one before has arrived
		<-round.Done()                              // it was called off, and another one is due
		close(look.goOn)
		w.awaitAll([]string{"heal is off", fa}, []string{"saved", string(b.Fingerprint()), "quarantine"})
		record, err := w.host.Ledger.Read()
		w.must(err)
		if !slices.ContainsFunc(record.Entries, func(e ledger.Entry) bool { return e.Event == ledger.Minted && e.Fingerprint == b.Fingerprint() }) {
			t.Error("the ledger does not say that the daemon made a key")
		}
	})
	t.Run("what it minted is loose, and closed before its line is heard", func(t *testing.T) {
		w := newWatched(t, cluster.Database(t))
		w.start()
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1", Time: time.Now()}
		w.await("the next look makes the first key")
		look := w.hold()
		w.write(b)
		w.must(os.Chmod(w.host.Keyfile.Path, 0o644))
		<-look.began
		read := time.Now()
		close(look.goOn)
		w.await("0400")
		w.journal <- unit.Line{Said: unit.Minted, Invocation: "1", Time: read}
		w.await("found no key and made one, " + string(b.Fingerprint()))
	})
	t.Run("the escrow comes and goes", func(t *testing.T) {
		w := newWatched(t, cluster.Database(t))
		var since atomic.Int64
		w.options.Clock = func() (string, time.Duration) { return "boot", time.Duration(since.Load()) }
		w.upsert(a)
		w.write(a)
		w.must(os.Rename(w.path("usb"), w.path("away")))
		w.options.Rescan = 20 * time.Millisecond
		w.start()
		w.await("does not take what is due")
		w.must(os.Rename(w.path("away"), w.path("usb")))
		since.Add(int64(10 * time.Minute))
		w.must(os.Chmod(w.host.Keyfile.Path, 0o600)) // something happens
		w.await("saved", fa)
	})
	t.Run("a rotation holds the lock", func(t *testing.T) {
		w := guarded(t, nil)
		l := holdLock(t, w.path("state/rotate"))
		w.must(os.Remove(w.host.Keyfile.Path))
		w.await("a rotation, a repair or a first start is under way")
		if w.holds(a) {
			t.Error("the watcher acted while a rotation held its lock")
		}
		l.Close()
		w.must(os.WriteFile(w.path("etc/secrets.key.next"), nil, 0o400))
		w.must(os.Remove(w.path("etc/secrets.key.next")))
		w.await(fa, "in place")
	})
	t.Run("a rotation died and left the daemon stopped", func(t *testing.T) {
		w := newWatched(t, cluster.Database(t))
		w.upsert(b)
		w.write(a)
		w.must(os.WriteFile(w.path("etc/secrets.key.next"), b.UnsafeBytes(), 0o400))
		w.must(w.host.Ledger.Append(ledger.Entry{Event: ledger.Proven, Fingerprint: a.Fingerprint()},
			ledger.Entry{Event: ledger.RotationOpen, Old: a.Fingerprint(), Fingerprint: b.Fingerprint()},
			ledger.Entry{Event: ledger.Stopped, Stopped: []string{"containarium.service"}}, ledger.Entry{Event: ledger.CommitBegun}))
		started := make(chan []string, 1)
		w.host.Daemon.Start = func(_ context.Context, units []string) error {
			started <- units
			return nil
		}
		w.start()
		// The daemon had read the old key before it was stopped; that is no reason to wait.
		w.journal <- unit.Line{Said: unit.Ready, Invocation: "1"}
		w.awaitAll([]string{"the rows are under its new key", string(b.Fingerprint())}, []string{"is started now: containarium.service"},
			[]string{"saved", string(b.Fingerprint()), "current"})
		if units := <-started; !slices.Equal(units, []string{"containarium.service"}) || !w.holds(b) {
			t.Errorf("started %v, the new key is in place: %v", units, w.holds(b))
		}
	})
	t.Run("somebody writes on under the key before", func(t *testing.T) {
		w := newWatched(t, cluster.Database(t))
		var since atomic.Int64
		w.host.Now = func() time.Time { return time.Now().Add(time.Duration(since.Load())) }
		w.options.Rescan = 20 * time.Millisecond
		w.upsert(a)
		w.write(a)
		w.start()
		w.await("guarding", fa)
		w.upsert(b)
		since.Add(int64(5 * time.Minute))
		w.await("opens only 1 of 2 rows")
	})
	t.Run("a look that began before the second one is due", func(t *testing.T) {
		w := newWatched(t, cluster.Database(t))
		var since atomic.Int64
		var gated atomic.Bool
		looking, goOn := make(chan struct{}), make(chan struct{})
		open := w.host.OpenRows
		w.host.OpenRows = func(ctx context.Context, o rows.Options) (agent.Rows, error) {
			if gated.Load() {
				select {
				case looking <- struct{}{}:
					<-goOn
				case <-ctx.Done():
				}
			}
			return open(ctx, o)
		}
		w.host.Now = func() time.Time { return time.Now().Add(time.Duration(since.Load())) }
		w.options.Rescan = 20 * time.Millisecond
		w.upsert(a)
		w.write(a)
		w.start()
		w.awaitAll([]string{"guarding", fa}, []string{"saved", fa})
		gated.Store(true)
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1"} // each start of the daemon is one to look
		<-looking
		since.Add(int64(5 * time.Minute))
		goOn <- struct{}{}
		select {
		case <-looking: // the second one
		case <-time.After(longest):
			t.Fatal("it counted as the second look")
		}
		w.upsert(b)
		gated.Store(false)
		goOn <- struct{}{}
		w.await("opens only 1 of 2 rows")
	})
	t.Run("saves survive a restart", func(t *testing.T) {
		w := newWatched(t, cluster.Database(t))
		w.upsert(a)
		w.write(a)
		w.must(os.Rename(w.path("usb"), w.path("away")))
		w.start()
		w.await("does not take what is due")
		w.stop()
		w.must(os.Rename(w.path("away"), w.path("usb")))
		w.start()
		w.await("saved", fa)
	})
}

// hung is an escrow whose calls do not end before their context.
type hung struct {
	agent.Escrow
	waited *atomic.Bool // for a call to the end of its time, and it was not called off
}

func (h hung) wait(ctx context.Context) {
	<-ctx.Done()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		h.waited.Store(true)
	}
}

func (h hung) List(ctx context.Context) ([]escrow.Copy, error) {
	h.wait(ctx)
	return nil, escrow.ErrTimeout
}

func (h hung) Save(ctx context.Context, _ escrow.Shelf, _ key.Key) (escrow.Copy, error) {
	h.wait(ctx)
	return escrow.Copy{}, escrow.ErrTimeout
}

func (h hung) Init(context.Context) error { return nil }

func (h hung) Name() string { return "hung" }

// storing tells when it is written to.
type storing struct {
	escrow.Writer
	tell func()
}

func (s storing) Save(ctx context.Context, shelf escrow.Shelf, k key.Key) (escrow.Copy, error) {
	s.tell()
	return s.Writer.Save(ctx, shelf, k)
}

// asking tells that it is asked.
type asking struct {
	escrow.Reader
	tell func()
}

func (a asking) List(ctx context.Context) ([]escrow.Copy, error) {
	a.tell()
	return a.Reader.List(ctx)
}

// TestWatchEscrows shows what escrows do to each other, which is nothing.
func TestWatchEscrows(t *testing.T) {
	cluster := rowstest.New(t)
	a, b := watchKey("a"), watchKey("b")
	start := func(t *testing.T) (w *watched, quick func()) {
		w = newWatched(t, cluster.Database(t))
		h := hung{w.host.Escrows[0], &atomic.Bool{}}
		w.host.Escrows = append(w.host.Escrows, agent.Escrow{Reader: h, Writer: h, Required: true})
		return w, func() {
			t.Helper()
			if h.waited.Load() {
				t.Error("it waited for the escrow that hangs")
			}
		}
	}
	t.Run("one hangs, and a proven key is saved", func(t *testing.T) {
		w, quick := start(t)
		w.upsert(a)
		asked := make(chan struct{})
		w.host.Escrows[1].Reader = asking{w.host.Escrows[1].Reader, sync.OnceFunc(func() { close(asked) })}
		w.start()
		<-asked // for the key that is missing
		w.write(a)
		w.await("saved", string(a.Fingerprint()), "current")
		quick()
	})
	t.Run("one hangs in a round, and a key is saved that opens nothing", func(t *testing.T) {
		w, quick := start(t)
		w.upsert(watchKey("gone"))
		w.start()
		w.write(a)
		w.await("saved", string(a.Fingerprint()), "quarantine")
		w.stop()
		quick()
	})
	t.Run("in quarantine, until the rows are there", func(t *testing.T) {
		w := newWatched(t, cluster.Database(t))
		w.up.Store(false)
		w.write(a)
		w.start()
		w.await("saved", string(a.Fingerprint()), "quarantine", "could not be tried")
		w.upsert(a)
		w.up.Store(true)
		w.journal <- unit.Line{Said: unit.Starting, Invocation: "1"}
		w.await("saved", string(a.Fingerprint()), "current") // at once, and not in an hour
	})
	t.Run("another key comes while one is saved", func(t *testing.T) {
		w := newWatched(t, cluster.Database(t))
		w.upsert(a)
		w.write(a)
		w.host.Escrows[0].Writer = storing{w.host.Escrows[0].Writer, sync.OnceFunc(func() { w.write(b) })}
		w.start()
		w.awaitAll([]string{"saved", string(a.Fingerprint()), "current"}, []string{"saved", string(b.Fingerprint()), "quarantine"})
	})
	t.Run("another host writes there", func(t *testing.T) {
		w := newWatched(t, cluster.Database(t))
		var since atomic.Int64
		w.options.Clock = func() (string, time.Duration) { return "boot", time.Duration(since.Load()) }
		w.upsert(a)
		w.write(a)
		w.start()
		w.await("saved", string(a.Fingerprint()), "current")
		_, err := w.host.Escrows[0].Writer.Save(context.Background(), escrow.Current, watchKey("foreign"))
		w.must(err)
		_, err = w.db.Exec("delete from secrets")
		w.must(err)
		w.upsert(b)
		w.write(b)
		w.await("saved", string(b.Fingerprint()), "quarantine", "another host")
		for range 5 { // it is looked at again every hour, and nothing is said or written
			since.Add(int64(2 * time.Hour))
			w.journal <- unit.Line{Said: unit.Starting, Invocation: fmt.Sprint(since.Load())}
			time.Sleep(50 * time.Millisecond)
		}
		w.stop()
		for len(w.reports) > 0 {
			if r := <-w.reports; strings.Contains(r, "another host") {
				t.Errorf("said again: %s", r)
			}
		}
		if got := w.shelf(escrow.Quarantine); len(got) != 1 {
			t.Errorf("quarantine: %v", got)
		}
		if got := w.shelf(escrow.Current); len(got) != 2 {
			t.Errorf("current: %v", got)
		}
	})
}

// TestWatchGrows shows that ten thousand changes leave no goroutine and no descriptor.
func TestWatchGrows(t *testing.T) {
	w := newWatched(t, rowstest.New(t).Database(t))
	a := watchKey("a")
	rounds := make(chan struct{}, 1<<20)
	w.options.Debounce, w.options.Rescan = time.Millisecond, 50*time.Millisecond
	w.options.Status = func(string) { rounds <- struct{}{} }
	w.options.Tell = func(hooks.Event) {}
	w.upsert(a)
	w.write(a)
	count := func() (goroutines, descriptors int) {
		list, err := os.ReadDir("/proc/self/fd")
		w.must(err)
		return runtime.NumGoroutine(), len(list)
	}
	w.start()
	<-rounds
	time.Sleep(200 * time.Millisecond) // what the round started ends, or counts
	goroutines, descriptors := count()
	changes := 10_000
	if _, whole := os.LookupEnv("KEYGUARD_MODEL_OPS"); !whole || testing.Short() {
		changes = 1500 // the inner loop; make test plays all
	}
	for i := range changes {
		switch i % 5 {
		case 0:
			os.RemoveAll(w.path("etc")) // the watcher may be installing at this moment
			os.Mkdir(w.path("etc"), 0o700)
		case 1:
			os.Remove(w.host.Keyfile.Path)
		case 2:
			os.Chmod(w.host.Keyfile.Path, 0o644)
		case 3, 4:
			w.write(watchKey(fmt.Sprint("grows ", i%7)))
		}
		if i%100 == 99 {
			select { // let it keep up now and then
			case <-rounds:
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	w.write(a)
	nowGoroutines, nowDescriptors := count()
	// What the last rounds started is given the time to end.
	for began := time.Now(); (nowGoroutines > goroutines+2 || nowDescriptors > descriptors+2) && time.Since(began) < longest; {
		time.Sleep(10 * time.Millisecond)
		nowGoroutines, nowDescriptors = count()
	}
	t.Logf("%d goroutines and %d descriptors before, %d and %d after", goroutines, descriptors, nowGoroutines, nowDescriptors)
	if nowGoroutines > goroutines+2 || nowDescriptors > descriptors+2 {
		t.Error("they grow")
	}
}

// holdLock holds a lock of the state directory as another process would.
func holdLock(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil { // who only looks at it lets go at once
		t.Fatal(err)
	}
	return f
}
