package hooks_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent"
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

// modelOperations is how many operations TestWatchModel plays: the environment says, and
// where it does not as many as take some seconds, and with -short fewer in any case.
func modelOperations(t *testing.T) int {
	t.Helper()
	if testing.Short() {
		return 1500
	}
	text, ok := os.LookupEnv("KEYGUARD_MODEL_OPS")
	if !ok {
		return 6000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n <= 0 {
		t.Fatalf("KEYGUARD_MODEL_OPS=%q is no number of operations", text)
	}
	return n
}

// TestWatchModel plays random operations on the keyfile's directory, the escrows, the
// rows and the daemon under a running watcher, and compares with what the design
// demands. Whenever it lets everything come to rest:
//
//   - a key that opens every row, and stood in the keyfile's place for longer than the
//     debounce, or is in any escrow, is the newest current copy in every escrow;
//   - no key is on a current shelf that never opened most of the rows (law 4), but for a first
//     one, saved while there were no rows;
//   - every key that stood there for longer than the debounce is kept (law 3);
//   - unless the daemon has read another key, the keyfile holds the key that opens the
//     rows, and is nobody else's to read.
//
// Several hosts live at a time: most of it is waiting. With KEYGUARD_SEED, which a failure names,
// only one does, and sees the same operations.
func TestWatchModel(t *testing.T) {
	hosts, want := 8, modelOperations(t)
	each := 2000 // operations on one host: its ledger is read again and again
	first := uint64(1)
	if text, ok := os.LookupEnv("KEYGUARD_SEED"); ok {
		var err error
		if first, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("KEYGUARD_SEED=%q is no seed", text)
		}
		hosts, each = 1, want
	}
	cluster := rowstest.New(t)
	pool := cluster.Pool(t)
	began, rests, counts := time.Now(), 0, map[string]int{}
	var mu sync.Mutex // guards rests, counts and taken
	taken, next := 0, first
	take := func() (seed uint64, n int) {
		mu.Lock()
		defer mu.Unlock()
		seed, n = next, min(each, max(want/hosts, 1), want-taken)
		taken += n
		next++
		return seed, n
	}
	var all sync.WaitGroup
	for range hosts {
		all.Go(func() {
			for seed, n := take(); n > 0 && !t.Failed(); seed, n = take() {
				db := cluster.Database(t)
				m := newModel(t, db, pool, seed, n)
				for range n {
					m.step()
				}
				m.rest()
				m.stop()
				m.close()
				pool.Forget(db.Name)
				mu.Lock()
				rests += m.rests
				for name, n := range m.counts {
					counts[name] += n
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	played := 0
	for _, o := range operations {
		played += counts[o.name]
		if want >= 6000 && counts[o.name] == 0 && (o.name != "mount" || os.Geteuid() == 0) {
			t.Errorf("%q was never played", o.name)
		}
	}
	t.Logf("%d operations, %d rests in %s: %v", played, rests, time.Since(began).Round(time.Millisecond), counts)
	if played < want && !t.Failed() {
		t.Errorf("only %d operations were played", played)
	}
}

// model is a host, and what is known of it by construction.
type model struct {
	t    *testing.T
	seed uint64
	want int // operations
	r    *rand.Rand
	dir  string
	host *agent.Host
	db   *rowstest.Session
	keys []key.Key

	options  hooks.WatchOptions
	silent   bool // no event is to be relied on: only rescans
	noRescan bool // no rescan is to be relied on: only events
	offset   atomic.Int64
	up       atomic.Bool
	stop     func() // nil: the watcher does not run
	status   chan struct{}
	lines    chan unit.Line

	mu       sync.Mutex
	history  []unit.Line // of the daemon's present start
	reports  []string
	restarts int

	rows    map[string]key.Fingerprint
	proven  map[key.Fingerprint]bool // opened most of the rows at some moment
	empty   bool                     // there were no rows at some moment
	stood   map[key.Fingerprint]bool // stood in the keyfile's place for long enough
	away    map[int]bool             // escrows
	mounted bool
	starts  int
	read    bool // the daemon has read a key in its present start
	story   []string
	counts  map[string]int
	rests   int
}

// operation is one kind of thing that happens. quiet ones make no event.
type operation struct {
	name   string
	weight int
	quiet  bool
	do     func(*model)
}

var operations = []operation{
	{"replace", 20, false, func(m *model) { m.replace(m.key().UnsafeBytes()) }},
	{"write in place", 20, false, func(m *model) { m.ignore(os.WriteFile(m.keyfile(), m.key().UnsafeBytes(), 0o600)) }},
	{"write text", 4, false, func(m *model) {
		m.replace([]byte(base64.StdEncoding.EncodeToString(m.key().UnsafeBytes()) + "\n"))
	}},
	{"write garbage", 4, false, func(m *model) { m.replace(bytes.Repeat([]byte{7}, m.r.IntN(100))) }},
	{"truncate", 10, false, func(m *model) { m.ignore(os.Truncate(m.keyfile(), int64(m.r.IntN(40)))) }},
	{"delete", 12, false, func(m *model) { m.ignore(os.Remove(m.keyfile())) }},
	{"chmod", 10, false, func(m *model) {
		m.ignore(os.Chmod(m.keyfile(), []os.FileMode{0o400, 0o600, 0o644, 0o777}[m.r.IntN(4)]))
	}},
	{"symlink", 6, false, (*model).symlink},
	{"directory in its place", 2, false, func(m *model) { m.ignore(errors.Join(os.Remove(m.keyfile()), os.Mkdir(m.keyfile(), 0o700))) }},
	{"remove directory", 3, false, func(m *model) { m.ignore(os.RemoveAll(m.path("etc"))) }},
	{"make directory", 8, false, func(m *model) { m.ignore(os.Mkdir(m.path("etc"), 0o700)) }},
	{"rename directory", 3, false, func(m *model) {
		m.ignore(os.Rename(m.path("etc"), m.path(fmt.Sprint("old", m.r.IntN(3)))))
	}},
	{"rename back", 3, false, func(m *model) {
		m.ignore(os.Rename(m.path(fmt.Sprint("old", m.r.IntN(3))), m.path("etc")))
	}},
	{"other name", 8, false, func(m *model) {
		name := m.path("etc/.containarium-doctor-1")
		m.ignore(errors.Join(os.WriteFile(name, nil, 0o600), os.Remove(name)))
	}},
	{"write elsewhere", 6, true, func(m *model) { // through another name of the keyfile
		m.ignore(os.Remove(m.path("link")))
		if os.Link(m.keyfile(), m.path("link")) == nil {
			m.ignore(os.WriteFile(m.path("link"), m.key().UnsafeBytes(), 0o600))
		}
	}},
	{"mount", 3, true, (*model).mount},
	{"unmount", 3, true, (*model).unmount},
	{"lose the watches", 2, true, (*model).loseWatches},
	{"overflow", 1, false, (*model).overflow},
	{"stop or start", 1, false, func(m *model) {
		if m.stop != nil {
			m.stop()
		} else {
			m.start()
		}
	}},
	{"escrow goes or comes", 4, false, func(m *model) { m.moveEscrow(m.r.IntN(len(m.host.Escrows))) }},
	{"rows go or come", 4, false, func(m *model) { m.up.Store(!m.up.Load()) }},
	{"row written", 4, false, func(m *model) { m.upsert(m.key()) }},
	{"all rows written", 1, false, func(m *model) {
		k := m.key()
		for range 8 {
			m.upsert(k)
		}
	}},
	{"rows deleted", 1, false, func(m *model) { m.exec("delete from secrets"); m.rows = map[string]key.Fingerprint{}; m.judge() }},
	{"time passes", 3, false, func(m *model) { m.offset.Add(int64(m.r.IntN(90)) * int64(time.Hour) / 3) }},
	{"daemon starts", 2, false, func(m *model) {
		m.starts++
		m.mu.Lock()
		m.history = nil
		m.mu.Unlock()
		m.read = false
		m.tell(unit.Starting)
	}},
	{"daemon reads", 2, false, func(m *model) {
		if m.starts == 0 || m.read {
			return
		}
		m.read = m.r.IntN(2) == 0
		if m.read {
			m.tell([]unit.Said{unit.Ready, unit.Minted}[m.r.IntN(2)])
		} else {
			m.tell([]unit.Said{unit.Empty, unit.Failed}[m.r.IntN(2)])
		}
	}},
	{"a moment", 6, false, (*model).moment},
}

func newModel(t *testing.T, db *rowstest.Database, pool *rowstest.Pool, seed uint64, want int) *model {
	t.Helper()
	session, err := db.Session()
	if err != nil {
		t.Fatal(err)
	}
	m := &model{t: t, seed: seed, want: want, r: rand.New(rand.NewPCG(seed, 3)), dir: memoryDir(t), db: session,
		status: make(chan struct{}, 1<<20), lines: make(chan unit.Line),
		rows: map[string]key.Fingerprint{}, proven: map[key.Fingerprint]bool{}, stood: map[key.Fingerprint]bool{},
		away: map[int]bool{}, counts: map[string]int{}, empty: true}
	for i := range 9 {
		m.keys = append(m.keys, watchKey(fmt.Sprint("model ", seed, " ", i)))
	}
	m.up.Store(true)
	now := func() time.Time { return time.Now().Add(time.Duration(m.offset.Load())) }
	m.host = &agent.Host{
		Keyfile: keyfile.File{Path: m.keyfile(), Owner: os.Getuid(), Group: os.Getgid(),
			Quarantine: m.path("state/quarantine"), Locks: m.path("state")},
		Ledger:   ledger.Open(m.path("state"), ledger.Options{Host: "test", Now: now}),
		StateDir: m.path("state"),
		Now:      now,
		OpenRows: func(_ context.Context, o rows.Options) (agent.Rows, error) {
			if !m.up.Load() {
				return nil, rows.ErrNotListening
			}
			return patient(pool.URL(db.Name), o)
		},
	}
	m.must(errors.Join(os.Mkdir(m.path("etc"), 0o700), os.Mkdir(m.path("state"), 0o700), os.Mkdir(m.path("run"), 0o700), os.Mkdir(m.path("over"), 0o700)))
	for i := range 1 + m.r.IntN(2) {
		name := fmt.Sprint("usb", i)
		place, err := kinds.NewDirectory(kinds.DirectoryOptions{Name: name, Path: m.path(name), Keyfile: m.keyfile(), AllowSameDisk: true})
		m.must(err)
		m.must(place.Init(context.Background()))
		m.host.Escrows = append(m.host.Escrows, agent.Escrow{Reader: place, Writer: place, Required: true})
	}
	m.options = hooks.WatchOptions{Debounce: time.Millisecond, Rescan: 10 * time.Millisecond, RunDir: m.path("run"),
		Heal: m.r.IntN(3) == 0, Ready: func() {},
		Clock:   func() (string, time.Duration) { return "boot", time.Since(modelEpoch) + time.Duration(m.offset.Load()) },
		Status:  func(string) { m.status <- struct{}{} },
		Tell:    m.report,
		Follow:  m.follow,
		Restart: func(context.Context, string) error { m.mu.Lock(); m.restarts++; m.mu.Unlock(); return nil },
	}
	switch seed % 3 {
	case 0:
		m.silent, m.options.Debounce = true, time.Hour
	case 1:
		m.noRescan, m.options.Rescan = true, time.Hour
	}
	m.start()
	return m
}

var modelEpoch = time.Now()

// memoryDir is a directory in memory where there is one: a hundred thousand operations
// sync some ten thousand files.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "keyguard-model")
	if err != nil {
		return t.TempDir()
	}
	return dir
}

func (m *model) close() {
	m.unmount()
	m.must(m.db.Close())
	if !m.t.Failed() {
		m.must(os.RemoveAll(m.dir))
	}
}

func (m *model) path(name string) string { return filepath.Join(m.dir, name) }
func (m *model) keyfile() string         { return m.path("etc/secrets.key") }
func (m *model) key() key.Key            { return m.keys[m.r.IntN(len(m.keys))] }

func (m *model) must(err error) {
	m.t.Helper()
	if err != nil {
		m.fail("%v", err)
	}
}

// ignore is for operations that fail where there is nothing to operate on.
func (m *model) ignore(error) {}

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.t.Errorf("KEYGUARD_SEED=%d KEYGUARD_MODEL_OPS=%d, in %s: "+format, append([]any{m.seed, m.want, m.dir}, args...)...)
	m.t.Logf("silent %v, no rescan %v, heal %v, the last operations:\n%s", m.silent, m.noRescan, m.options.Heal, strings.Join(m.story[max(0, len(m.story)-60):], "\n"))
	m.t.Logf("the last reports:\n%s", strings.Join(m.reports[max(0, len(m.reports)-40):], "\n"))
	runtime.Goexit() // and not FailNow, which is for the test's own goroutine
}

func (m *model) report(e hooks.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reports = append(m.reports, e.Line())
}

func (m *model) follow(ctx context.Context, line func(unit.Line)) error {
	m.mu.Lock()
	past := slices.Clone(m.history)
	m.mu.Unlock()
	for _, l := range past {
		line(l)
	}
	line(unit.Line{Said: unit.CaughtUp})
	for {
		select {
		case l := <-m.lines:
			line(l)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tell writes a line to the daemon's journal.
func (m *model) tell(said unit.Said) {
	l := unit.Line{Said: said, Invocation: fmt.Sprint(m.starts), Time: m.host.Now()}
	if m.stop != nil {
		m.lines <- l
	}
	m.mu.Lock()
	m.history = append(m.history, l)
	m.mu.Unlock()
}

func (m *model) start() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- hooks.Watch(ctx, m.host, m.options) }()
	m.stop = func() {
		m.stop = nil
		cancel()
		select {
		case err := <-ended:
			m.must(err)
		case <-time.After(longest):
			m.fail("the watcher does not stop")
		}
	}
}

// step plays one operation.
func (m *model) step() {
	total := 0
	for _, o := range operations {
		if !o.quiet || !m.noRescan { // nobody would notice
			total += o.weight
		}
	}
	n := m.r.IntN(total)
	for _, o := range operations {
		if o.quiet && m.noRescan {
			continue
		}
		if n -= o.weight; n >= 0 {
			continue
		}
		m.story = append(m.story, time.Now().Format("05.000000 ")+o.name)
		m.counts[o.name]++
		o.do(m)
		break
	}
	if m.r.IntN(300) == 0 {
		m.rest()
	}
}

func (m *model) replace(content []byte) {
	temp := m.path("etc/.new")
	m.ignore(errors.Join(os.WriteFile(temp, content, 0o400), os.Rename(temp, m.keyfile())))
}

func (m *model) symlink() {
	target := m.path("target")
	m.ignore(os.WriteFile(target, m.key().UnsafeBytes(), 0o600))
	if m.r.IntN(3) == 0 {
		target = m.path("nowhere")
	}
	m.ignore(errors.Join(os.Symlink(target, m.path("etc/.new")), os.Rename(m.path("etc/.new"), m.keyfile())))
}

// mount puts another directory over the keyfile's: root may.
func (m *model) mount() {
	if m.mounted || os.Geteuid() != 0 {
		return
	}
	m.ignore(os.WriteFile(m.path("over/secrets.key"), m.key().UnsafeBytes(), 0o600))
	m.mounted = unix.Mount(m.path("over"), m.path("etc"), "", unix.MS_BIND, "") == nil
}

func (m *model) unmount() {
	for m.mounted {
		m.mounted = false
		// The mount goes with the directory where that was renamed.
		for _, dir := range []string{"etc", "old0", "old1", "old2"} {
			m.ignore(unix.Unmount(m.path(dir), unix.MNT_DETACH))
		}
	}
}

// loseWatches takes the watches on this host's directories away behind the watcher's
// back, by proc_pid_fdinfo(5).
func (m *model) loseWatches() {
	fds, err := os.ReadDir("/proc/self/fd")
	m.must(err)
	for _, fd := range fds {
		if link, _ := os.Readlink("/proc/self/fd/" + fd.Name()); link != "anon_inode:inotify" {
			continue
		}
		info, err := os.ReadFile("/proc/self/fdinfo/" + fd.Name())
		m.ignore(err)
		n, err := strconv.Atoi(fd.Name())
		m.must(err)
		for line := range strings.Lines(string(info)) {
			var wd uint32
			var ino uint64
			if _, err := fmt.Sscanf(line, "inotify wd:%x ino:%x", &wd, &ino); err != nil {
				continue
			}
			for _, dir := range []string{m.dir, m.path("etc")} {
				var st unix.Stat_t
				if unix.Stat(dir, &st) == nil && st.Ino == ino {
					_, err := unix.InotifyRmWatch(n, wd)
					m.ignore(err)
				}
			}
		}
	}
}

// overflow makes more events than the kernel keeps, and a change among those that are
// dropped.
func (m *model) overflow() {
	if m.stop == nil || m.r.IntN(20) > 0 {
		return
	}
	m.mu.Lock() // the next report waits for it, and so does whoever reports
	defer m.mu.Unlock()
	a, b := m.path("etc/.containarium-doctor-1"), m.path("etc/.containarium-doctor-2")
	m.ignore(errors.Join(os.WriteFile(a, nil, 0o600), os.WriteFile(b, nil, 0o600)))
	for range 9000 { // by turns: two that are equal in a row are one
		m.ignore(errors.Join(unix.Chmod(a, 0o600), unix.Chmod(b, 0o600)))
	}
	m.replace(m.key().UnsafeBytes())
	m.ignore(errors.Join(os.Remove(a), os.Remove(b)))
}

func (m *model) moveEscrow(i int) {
	here, there := m.path(fmt.Sprint("usb", i)), m.path(fmt.Sprint("away", i))
	if m.away[i] {
		here, there = there, here
	}
	m.must(os.Rename(here, there))
	m.away[i] = !m.away[i]
}

func (m *model) exec(sql string, args ...any) {
	_, err := m.db.Exec(sql, args...)
	m.must(err)
}

// upsert writes one of eight rows, as the daemon would under a key.
func (m *model) upsert(k key.Key) {
	name := fmt.Sprint("ROW_", len(m.rows))
	if len(m.rows) == 8 {
		name = fmt.Sprint("ROW_", m.r.IntN(8))
	}
	nonce, ciphertext := rowstest.Seal(k, "tenant", name, []byte("v"))
	m.exec(`insert into secrets (username, name, nonce, ciphertext, kek_id) values ('tenant', $1, $2, $3, '')
		on conflict (username, name) do update set nonce = excluded.nonce, ciphertext = excluded.ciphertext,
		version = secrets.version + 1, updated_at = now()`, name, nonce, ciphertext)
	m.rows[name] = k.Fingerprint()
	m.judge()
}

// judge notes what the rows say now.
func (m *model) judge() {
	under := map[key.Fingerprint]int{}
	for _, f := range m.rows {
		if under[f]++; 2*under[f] > len(m.rows) {
			m.proven[f] = true
		}
	}
	m.empty = m.empty || len(m.rows) == 0
}

// opensAll is the key that opens every row, "" where there is none.
func (m *model) opensAll() key.Fingerprint {
	var one key.Fingerprint
	for _, f := range m.rows {
		if one != "" && f != one {
			return ""
		}
		one = f
	}
	return one
}

// nudge makes a round due: where events are to be relied on, by one that only the watch
// on the keyfile's own directory tells.
func (m *model) nudge() {
	if !m.noRescan {
		m.lines <- unit.Line{Said: unit.CaughtUp}
		return
	}
	m.must(os.MkdirAll(m.path("etc"), 0o700))
	now := unix.NsecToTimespec(time.Now().UnixNano())
	if unix.UtimesNanoAt(unix.AT_FDCWD, m.keyfile(), []unix.Timespec{now, now}, unix.AT_SYMLINK_NOFOLLOW) != nil {
		m.ignore(os.WriteFile(m.keyfile(), nil, 0o400))
	}
}

// round waits until a round was made that began after the call: the second that ends
// does, since rounds follow each other.
func (m *model) round() {
	m.t.Helper()
	for range 2 {
		for len(m.status) > 0 {
			<-m.status
		}
		m.nudge()
		select {
		case <-m.status:
		case <-time.After(longest):
			m.fail("no round is made")
		}
	}
}

// moment lets the watcher see what there is. A key that stands there at its beginning
// and at its end stood there for long enough.
func (m *model) moment() {
	if m.stop == nil {
		return
	}
	before := m.standing()
	m.round()
	if f := m.standing(); f != "" && f == before {
		m.stood[f] = true
	}
}

// standing is the key in the keyfile's place, in any encoding, "" for none. Behind a
// symlink there is none: others may write to the directory that this test runs in.
func (m *model) standing() key.Fingerprint {
	if info, err := os.Lstat(m.keyfile()); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	content, err := os.ReadFile(m.keyfile())
	if err != nil {
		return ""
	}
	k, _, err := key.Decode(content)
	if err != nil {
		return ""
	}
	return k.Fingerprint()
}

// rest brings everything up and waits until the demands hold, which they must before
// long.
func (m *model) rest() {
	m.t.Helper()
	m.rests++
	m.unmount()
	m.ignore(os.Mkdir(m.path("etc"), 0o700))
	for i := range m.host.Escrows {
		if m.away[i] {
			m.moveEscrow(i)
		}
	}
	m.up.Store(true)
	if m.stop == nil {
		m.start()
	}
	var why string
	for range 200 {
		m.offset.Add(int64(3 * time.Hour)) // nobody is still backing off
		m.moment()
		if why = m.demand(); why == "" {
			return
		}
	}
	m.fail("at rest: %s", why)
}

// demand says which demand does not hold, "" when all do.
func (m *model) demand() string {
	kept := map[key.Fingerprint]bool{}
	list, err := m.host.Keyfile.Kept()
	m.must(err)
	for _, k := range list {
		kept[k.Key.Fingerprint()] = true
	}
	var current []escrow.Copy
	newest := make([]key.Fingerprint, len(m.host.Escrows))
	saved := map[key.Fingerprint]bool{}
	for i, s := range m.host.Escrows {
		copies, err := s.List(context.Background())
		m.must(err)
		for _, c := range copies {
			saved[c.Fingerprint] = true
			if c.Shelf != escrow.Current {
				continue
			}
			current = append(current, c)
			if newest[i] == "" {
				newest[i] = c.Fingerprint
			}
		}
	}

	// Law 4. Copies are never taken away, so a poisoned shelf stays one.
	slices.SortStableFunc(current, func(a, b escrow.Copy) int { return a.Created.Compare(b.Created) })
	first := key.Fingerprint("")
	for _, c := range current {
		if m.proven[c.Fingerprint] {
			first = "another"
			continue
		}
		if m.empty && (first == "" || first == c.Fingerprint) {
			first = c.Fingerprint
			continue
		}
		m.fail("law 4: copy %s in %s is of a key that never opened the rows", c.ID, c.Escrow)
	}
	// Law 3.
	for f := range m.stood {
		if !kept[f] && !saved[f] {
			m.fail("law 3: key %s stood in the keyfile's place and is nowhere", f)
		}
	}

	right := m.opensAll()
	if right == "" || !m.stood[right] && !saved[right] && !kept[right] {
		return ""
	}
	for i, f := range newest {
		if f != right {
			return fmt.Sprintf("key %s opens every row, and the newest current copy in escrow %d is %q", right, i, f)
		}
	}
	content, err := os.ReadFile(m.keyfile())
	k, kerr := key.New(content)
	if m.read && !m.options.Heal && err == nil && kerr == nil {
		return ""
	}
	if err != nil || kerr != nil || k.Fingerprint() != right {
		return fmt.Sprintf("key %s opens every row, and the keyfile holds %q (%v)", right, m.standing(), err)
	}
	if info, err := os.Stat(m.keyfile()); err != nil || info.Mode().Perm()&0o077 != 0 {
		return fmt.Sprintf("the keyfile is loose: %v, %v", info.Mode(), err)
	}
	return ""
}
