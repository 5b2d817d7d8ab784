package agent_test

import (
	"bytes"
	"context"
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

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

// fault is what happens at a point of a rotation.
type fault int

const (
	stopBefore fault = iota // the process is gone before the call
	stopAfter               // and after it
	notDone                 // the call fails, and nothing was done
	unanswered              // it was done, and nobody is told
	faults
)

func (f fault) String() string {
	return [...]string{"stop before", "stop after", "not done", "done but unanswered"}[f]
}

// boot is what the host looks like when it comes up again.
type boot struct {
	name         string
	postgresDown bool // at first
	escrowsDown  bool // at first
	lose         []string
	watcher      bool // only keyguard died: the watcher finds what it left, and the daemon may run
	parks        bool // a watcher lives, so doubt parks
	again        bool // the start that is to settle it dies as well, somewhere
}

var boots = []boot{
	{name: "reboot"},
	{name: "reboot, and dead again", again: true},
	{name: "reboot, Postgres down at first", postgresDown: true},
	{name: "reboot, escrows down at first", escrowsDown: true, parks: true},
	{name: "reboot, all down at first", postgresDown: true, escrowsDown: true, parks: true},
	{name: "ledger lost", lose: []string{"state/ledger.jsonl"}},
	{name: "ledger lost, Postgres down at first", postgresDown: true, parks: true, lose: []string{"state/ledger.jsonl"}},
	{name: "ledger lost, all down at first", postgresDown: true, escrowsDown: true, lose: []string{"state/ledger.jsonl"}},
	{name: "state directory lost, Postgres down at first", postgresDown: true, lose: []string{"state"}},
	{name: "disk wiped", lose: []string{"state", "etc"}},
	{name: "disk wiped, all down at first", postgresDown: true, escrowsDown: true, parks: true, lose: []string{"state", "etc"}},
	{name: "killed, Postgres down at first", watcher: true, postgresDown: true},
}

// schedule is one rotation that something happens to.
type schedule struct {
	point  int // 0: nothing happens
	fault  fault
	boot   boot
	second int // the point of the start that is the last of its life, where boot says again
}

// stopped is what a process panics with that is to do nothing more.
type stopped struct{}

var errStopped = errors.New("the test has stopped this process")

// world is a host with a daemon, a table and two escrows, in which one process rotates
// and others do what they do. Points are counted where that one process touches what is
// outside of it: a statement, a call of an escrow, of systemd, and the clock, which every
// change of ledger or keyfile asks before it is made.
type world struct {
	t      *testing.T
	dir    string
	db     *rowstest.Database
	wire   *rowstest.Wire
	stores []*store
	daemon *daemonStandIn
	old    key.Key
	plays  int

	mu     sync.Mutex
	plan   schedule
	points []string // those that were passed
	dead   bool     // the process that rotates
	keys   []key.Key

	down atomic.Bool // Postgres, for those who do not rotate

	stories *stories
}

// stories counts how schedules went, to show that they are not all the same.
type stories struct {
	mu    sync.Mutex
	count map[string]int
}

func (s *stories) add(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count[what]++
}

// at passes a point, and says whether that is where it happens.
func (w *world) at(name string) (happens bool, dead bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return false, true
	}
	w.points = append(w.points, name)
	return len(w.points) == w.plan.point, false
}

func (w *world) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = true
}

// call passes a point with something that can fail in every way.
func (w *world) call(name string, do func() error, failed, unheard error) error {
	happens, dead := w.at(name)
	switch {
	case dead:
		return errStopped
	case happens && w.plan.fault == stopBefore:
		w.stop()
		return errStopped
	case happens && w.plan.fault == notDone:
		return failed
	}
	err := do()
	switch {
	case happens && w.plan.fault == stopAfter:
		w.stop()
		return errStopped
	case happens && w.plan.fault == unanswered:
		return unheard
	}
	return err
}

// clock is what the rotating process asks for the time.
func (w *world) clock() time.Time {
	happens, dead := w.at("clock")
	if happens { // failing clocks there are none
		w.stop()
	}
	if dead || happens {
		panic(stopped{})
	}
	return time.Now()
}

// statement is the wire's.
func (w *world) statement(happens bool, answered bool) bool {
	if !happens {
		return true
	}
	switch w.plan.fault {
	case stopBefore, notDone:
		if !answered && w.plan.fault == stopBefore {
			w.stop()
		}
		return answered
	default:
		if answered && w.plan.fault == stopAfter {
			w.stop()
		}
		return !answered
	}
}

// store is an escrow in memory.
type store struct {
	name string
	mu   sync.Mutex
	list []stored // oldest first
	down atomic.Bool
}

type stored struct {
	escrow.Copy
	key key.Key
}

func (s *store) copies() []escrow.Copy {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []escrow.Copy
	for _, shelf := range escrow.Shelves {
		for _, c := range slices.Backward(s.list) {
			if c.Shelf == shelf {
				list = append(list, c.Copy)
			}
		}
	}
	return list
}

func (s *store) fetch(id string) (key.Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.list {
		if c.ID == id {
			return c.key.Clone(), nil
		}
	}
	return key.Key{}, escrow.ErrGone
}

func (s *store) save(shelf escrow.Shelf, k key.Key) escrow.Copy {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range slices.Backward(s.list) {
		if c.Shelf != shelf {
			continue
		}
		if c.key.Equal(k) {
			return c.Copy
		}
		if shelf == escrow.Current {
			break
		}
	}
	c := escrow.Copy{Escrow: s.name, ID: fmt.Sprintf("%s/%d", shelf, len(s.list)+1), Shelf: shelf, Fingerprint: k.Fingerprint(), Created: time.Now()}
	s.list = append(s.list, stored{c, k.Clone()})
	return c
}

func (s *store) holds(k key.Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.list, func(c stored) bool { return c.key.Equal(k) })
}

// place is a store as one process sees it.
type place struct {
	*store
	call func(name string, do func() error, failed, unheard error) error
}

func (p place) do(what string, do func() error) error {
	return p.call(p.name+": "+what, func() error {
		if p.down.Load() {
			return escrow.ErrUnreachable
		}
		return do()
	}, escrow.ErrUnreachable, escrow.ErrTimeout)
}

func (p place) Name() string { return p.name }
func (p place) Place() escrow.Place {
	return escrow.Place{Kind: "memory", Where: p.name, Domain: p.name}
}
func (p place) Init(context.Context) error { return nil }

func (p place) List(context.Context) (list []escrow.Copy, err error) {
	err = p.do("list", func() error { list = p.copies(); return nil })
	if err != nil {
		return nil, err
	}
	return list, nil
}

func (p place) Fetch(_ context.Context, c escrow.Copy) (k key.Key, enc key.Encoding, err error) {
	err = p.do("fetch", func() (err error) { k, err = p.fetch(c.ID); return err })
	if err != nil {
		return key.Key{}, "", err
	}
	return k, key.Raw, nil
}

func (p place) Save(_ context.Context, s escrow.Shelf, k key.Key) (c escrow.Copy, err error) {
	err = p.do("save "+string(s), func() error { c = p.save(s, k); return nil })
	if err != nil {
		return escrow.Copy{}, err
	}
	return c, nil
}

// plain is for processes to which nothing happens.
func plain(_ string, do func() error, _, _ error) error { return do() }

// process is a host as one process has it.
func (w *world) process(call func(string, func() error, error, error) error, now func() time.Time, url func() (string, error)) *agent.Host {
	h := hostIn(w.dir, now)
	h.OpenRows = func(_ context.Context, o rows.Options) (*rows.Table, error) {
		at, err := url()
		if err != nil {
			return nil, err
		}
		return patient(at, o)
	}
	h.Daemon = agent.Daemon{
		Running: func(context.Context) (units []string, err error) {
			err = call("systemd: running", func() error { units = w.daemon.running(); return nil }, errBus, errBus)
			return units, err
		},
		Stop: func(context.Context) error {
			return call("systemd: stop", func() error { w.daemon.stop(); return nil }, errBus, errBus)
		},
		Start: func(ctx context.Context, _ []string) error {
			return call("systemd: start", func() error { return w.daemon.start(ctx) }, errBus, errBus)
		},
	}
	for _, s := range w.stores {
		p := place{s, call}
		h.Escrows = append(h.Escrows, agent.Escrow{Reader: p, Writer: p, Required: true})
	}
	return &h
}

// patient opens rows on a machine that may be busy with other tests: what is late is not
// what these are about.
func patient(url string, o rows.Options) (*rows.Table, error) {
	o.ConnectTimeout, o.StatementTimeout = 20*time.Second, 20*time.Second
	return rows.Open(rows.Location{URL: url, From: "the test"}, o)
}

var errBus = errors.New("the bus does not answer")

// victim is the process that things happen to.
func (w *world) victim() *agent.Host {
	return w.process(w.call, w.clock, func() (string, error) { return w.wire.URL(w.db.Name), nil })
}

// other is a process to which nothing happens.
func (w *world) other() *agent.Host {
	return w.process(plain, time.Now, func() (string, error) {
		if w.down.Load() {
			return "", rows.ErrRefused
		}
		return w.db.Cluster.SocketURL(w.db.Name), nil
	})
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.mu.Lock()
	points := slices.Clone(w.points)
	w.mu.Unlock()
	where := "nothing"
	if p := w.plan.point; p > 0 && p <= len(points) {
		where = points[p-1]
	}
	text, _ := os.ReadFile(w.path("state/ledger.jsonl"))
	w.t.Errorf("%s, point %d, %s at %s: %s\nledger:\n%s", w.plan.boot.name, w.plan.point, w.plan.fault, where, fmt.Sprintf(format, args...), text)
	runtime.Goexit() // not FailNow, which is for the test's own goroutine
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.fail("%v", err)
	}
}

// daemonStandIn starts as systemd would have it: prestart first, then the key is read once.
type daemonStandIn struct {
	w   *world
	job sync.Mutex // a start or a stop

	mu      sync.Mutex // guards what follows
	up      bool
	key     key.Key
	session *rowstest.Session
	cancel  context.CancelFunc // of the start that is under way
}

func (d *daemonStandIn) running() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.up || d.cancel != nil {
		return []string{"containarium.service"}
	}
	return nil
}

func (d *daemonStandIn) start(ctx context.Context) error {
	d.job.Lock()
	defer d.job.Unlock()
	d.mu.Lock()
	if d.up {
		d.mu.Unlock()
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	d.cancel = cancel
	d.mu.Unlock()
	r, err := agent.Guard(ctx, d.w.other(), agent.GuardOptions{})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cancel = nil
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	case r.Decision.Action == agent.Doubt, r.Decision.Action == agent.Lost:
		return errors.New(r.Decision.Reason)
	}
	return d.read()
}

// read is what the daemon does with the keyfile. d.mu is held.
func (d *daemonStandIn) read() error {
	content, err := os.ReadFile(d.w.path("etc/secrets.key"))
	if err != nil {
		return fmt.Errorf("it would mint a key: %w", err)
	}
	if d.key, err = key.New(content); err != nil {
		return err
	}
	if d.session, err = d.w.db.Session(); err != nil {
		return err
	}
	d.up = true
	return nil
}

func (d *daemonStandIn) stop() {
	d.mu.Lock()
	if d.cancel != nil {
		d.cancel()
	}
	d.mu.Unlock()
	d.job.Lock()
	defer d.job.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.up {
		d.session.Close() //nolint:errcheck // it goes with its connection
	}
	d.up = false
}

// upsert writes a secret under the key that was read.
func (d *daemonStandIn) upsert(n int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.up {
		return nil
	}
	name, value := fmt.Sprint("WRITTEN_", n%5), []byte(strconv.Itoa(n))
	nonce, ciphertext := rowstest.Seal(d.key, "bystander", name, value)
	_, err := d.session.Exec(`insert into secrets (username, name, nonce, ciphertext, kek_id) values ('bystander', $1, $2, $3, '')
		on conflict (username, name) do update set nonce = excluded.nonce, ciphertext = excluded.ciphertext,
		wrapped_dek = null, kek_id = '', version = secrets.version + 1, updated_at = now()`, name, nonce, ciphertext)
	return err
}

// bystanders work until they are told not to: the daemon writes, somebody starts it, and
// somebody verifies every copy.
func (w *world) bystanders() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	every := func(pause time.Duration, do func(n int)) {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				do(n)
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
		})
	}
	every(10*time.Millisecond, func(n int) {
		if err := w.daemon.upsert(n); err != nil && ctx.Err() == nil {
			w.t.Errorf("the daemon cannot write: %v", err)
		}
	})
	every(5*time.Millisecond, func(int) {
		w.daemon.start(ctx) //nolint:errcheck // it may be refused at any time
	})
	every(100*time.Millisecond, func(int) {
		agent.Verify(ctx, w.other()) //nolint:errcheck // it only looks
	})
	return func() {
		cancel()
		all.Wait()
	}
}

// reset makes the world as it is before a rotation: rows under the old key, which is in
// place, known, and on the current shelves; the daemon runs.
func (w *world) reset(plan schedule) {
	w.mu.Lock()
	w.plan, w.points, w.dead = plan, nil, false
	w.mu.Unlock()
	w.down.Store(false)
	var err error
	if w.dir, err = os.MkdirTemp(shm(), "rotate"); err != nil {
		w.t.Fatal(err)
	}
	w.must(errors.Join(os.Mkdir(w.path("etc"), 0o700), os.Mkdir(w.path("state"), 0o700)))
	w.must(os.WriteFile(w.path("etc/secrets.key"), w.old.UnsafeBytes(), 0o400))
	clear := "delete from" // dear is a truncate, and so is a table of the dead
	if w.plays++; w.plays%50 == 0 {
		clear = "truncate"
	}
	_, err = w.db.Exec("do $$ begin " + clear + " secrets; insert into secrets select * from seed; end $$")
	w.must(err)
	h := w.other()
	w.must(h.Ledger.Append(ledger.Entry{Event: ledger.Proven, Fingerprint: w.old.Fingerprint(), Verdict: string(rows.Opens), Checked: 4, Opened: 4}))
	w.keys = []key.Key{w.old}
	w.stores = []*store{{name: "one"}, {name: "two"}}
	for _, s := range w.stores {
		c := s.save(escrow.Current, w.old)
		w.must(h.Ledger.Append(ledger.Entry{Event: ledger.Saved, Fingerprint: w.old.Fingerprint(), Escrow: s.name, Copy: c.ID, Shelf: string(escrow.Current)}))
	}
	w.daemon = &daemonStandIn{w: w}
	w.must(w.daemon.read())
}

// shm is a file system on which a sync costs nothing, "" for the usual one.
func shm() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// play is one schedule from beginning to end. It returns the points that were passed.
func (w *world) play(plan schedule) []string {
	w.reset(plan)
	defer os.RemoveAll(w.dir)
	w.wire.Restart(w.overWire())
	end := w.bystanders()
	ended := sync.OnceFunc(end)
	defer w.daemon.stop()
	defer ended()

	result, err, crashed := w.rotate(w.victim())
	switch {
	case crashed:
		w.stories.add("died")
	case err == nil:
		w.stories.add("rotated")
	default:
		w.stories.add("gave up")
	}
	switch {
	case crashed:
	case err == nil && !result.Rotated:
		w.fail("it says that it rotated, and did not: %+v", result)
	case err != nil && plan.point == 0:
		w.fail("%v", err)
	case err != nil && !errors.Is(err, agent.ErrNotRotated) && !errors.Is(err, agent.ErrUnsure) && !errors.Is(err, agent.ErrNotStarted):
		w.fail("%v", err)
	}
	w.mu.Lock()
	points := slices.Clone(w.points)
	w.dead = true // what it left running does nothing more
	w.mu.Unlock()

	if plan.boot.watcher {
		w.watch(ended)
	} else {
		ended()
		w.daemon.stop()
		w.reboot()
	}
	w.again()
	return points
}

// overWire is what happens to statements. Both halves of one are the same point.
func (w *world) overWire() func(int, string, bool) bool {
	var mu sync.Mutex
	happening := map[int]bool{}
	return func(number int, statement string, answered bool) bool {
		if answered {
			mu.Lock()
			happens := happening[number]
			mu.Unlock()
			return w.statement(happens, true)
		}
		happens, dead := w.at("sql: " + strings.Join(strings.Fields(statement), " "))
		if dead {
			return false
		}
		mu.Lock()
		happening[number] = happens
		mu.Unlock()
		return w.statement(happens, false)
	}
}

// rotate runs a rotation to its end or to its death.
func (w *world) rotate(h *agent.Host) (r agent.RotateResult, err error, crashed bool) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case stopped{}:
			crashed = true
		default:
			panic(p)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, err = agent.Rotate(ctx, h, agent.RotateOptions{})
	return r, err, w.isDead()
}

func (w *world) isDead() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead
}

// reboot loses what is lost, starts the daemon while things are down, and again when they
// are up. At no time does it run on a key that is not right.
func (w *world) reboot() {
	w.quiet()
	b := w.plan.boot
	for _, name := range b.lose {
		w.must(os.RemoveAll(w.path(name)))
	}
	if b.parks {
		release, err := agent.HoldWatch(w.other())
		w.must(err)
		defer release()
	}
	if b.again {
		w.dieInGuard()
	}
	w.down.Store(b.postgresDown)
	for _, s := range w.stores {
		s.down.Store(b.escrowsDown)
	}
	if b.postgresDown || b.escrowsDown {
		w.guard(false)
	}
	w.up()
	w.guard(true)
}

// dieInGuard is a start that comes to its end too soon.
func (w *world) dieInGuard() {
	w.mu.Lock()
	before, settled := w.plan, w.points
	w.plan.point, w.plan.fault, w.points, w.dead = before.second, stopBefore, nil, false
	w.mu.Unlock()
	defer func() {
		if p := recover(); p != nil && p != (stopped{}) {
			panic(p)
		}
		w.mu.Lock()
		w.plan, w.points, w.dead = before, settled, true
		w.mu.Unlock()
		w.quiet()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	agent.Guard(ctx, w.victim(), agent.GuardOptions{}) //nolint:errcheck // the next start counts
}

func (w *world) up() {
	w.down.Store(false)
	for _, s := range w.stores {
		s.down.Store(false)
	}
}

// quiet waits until the server has noticed that nobody is there any more.
func (w *world) quiet() {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		there, err := w.db.Activity()
		w.must(err)
		if len(there) == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.fail("sessions do not end: %v", there)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// guard is a start's. If it lets the daemon start with a key, every row opens under that.
func (w *world) guard(must bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := agent.Guard(ctx, w.other(), agent.GuardOptions{})
	w.must(err)
	switch r.Decision.Action {
	case agent.Pass, agent.Install:
		w.stories.add(string(r.Decision.Action) + " by " + r.Decision.Rule)
		w.check()
	case agent.Make:
		w.fail("it made a key over rows (law 2)")
	default:
		w.stories.add(string(r.Decision.Action))
		if must {
			w.fail("%s: %s: %s", r.Decision.Rule, r.Decision.Action, r.Decision.Reason)
		}
	}
}

// watch is what the watcher does about a rotation that was killed, while the others go on.
func (w *world) watch(ended func()) {
	w.down.Store(w.plan.boot.postgresDown)
	h := w.other()
	round := func() (agent.TendResult, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		r, err := agent.Tend(ctx, h, agent.TendOptions{DaemonRead: true})
		if err == nil && r.Evidence.Ledger.Stopped {
			_, err = agent.Resume(ctx, h)
		}
		return r, err
	}
	if w.plan.boot.postgresDown {
		round() //nolint:errcheck // it may not be able to do anything
	}
	w.up()
	for deadline := time.Now().Add(30 * time.Second); ; {
		r, err := round()
		standing, lerr := h.Ledger.Standing()
		w.must(lerr)
		if err == nil && r.Held == "" && standing.Rotation == nil && standing.Stopped == nil && len(w.daemon.running()) > 0 {
			break
		}
		if time.Now().After(deadline) {
			w.fail("the watcher does not settle it: %+v %v, standing %+v, the daemon runs: %v", r.Decision, err, standing, w.daemon.running())
		}
		time.Sleep(5 * time.Millisecond)
	}
	ended()
	w.daemon.stop()
	w.check()
}

// check is the invariant, by an opener that shares no code with package rows: the
// keyfile's key opens every row, and is on an escrow.
func (w *world) check() {
	w.t.Helper()
	content, err := os.ReadFile(w.path("etc/secrets.key"))
	w.must(err)
	k, err := key.New(content)
	w.must(err)
	secrets, err := w.db.Secrets(k)
	w.must(err)
	if len(secrets) < 4 {
		w.fail("only %d rows are left", len(secrets))
	}
	for name, s := range secrets {
		if s.Key == "" {
			w.fail("key %s, which is in place, does not open %q", k.Fingerprint(), name)
		}
		if tenant, _, _ := strings.Cut(name, "\x00"); tenant == "tenant" && s.Value != "v" {
			w.fail("%q says %q", name, s.Value)
		}
	}
	if !slices.ContainsFunc(w.stores, func(s *store) bool { return s.holds(k) }) {
		w.fail("key %s, which is in place, is on no escrow", k.Fingerprint())
	}
}

// again rotates once more, after what was due is saved.
func (w *world) again() {
	w.t.Helper()
	h := w.other()
	before, err := os.ReadFile(w.path("etc/secrets.key"))
	w.must(err)
	_, err = agent.Backup(context.Background(), h) // or the watcher's savers
	w.must(err)
	r, err := agent.Rotate(context.Background(), h, agent.RotateOptions{})
	if err != nil || !r.Rotated {
		w.fail("a second rotation: %v", err)
	}
	w.check()
	after, err := os.ReadFile(w.path("etc/secrets.key"))
	w.must(err)
	if bytes.Equal(before, after) {
		w.fail("the second rotation changed nothing")
	}
}

// startPoints is more than a start passes that settles a rotation.
const startPoints = 20

// TestRotateCrashes plays a rotation in which one thing happens, at every point and in
// every way, and comes up again in every way.
func TestRotateCrashes(t *testing.T) {
	// Each of so many schedules is played; 0 is all of them.
	every := 211
	if n, err := strconv.Atoi(os.Getenv("KEYGUARD_CRASHES")); err == nil {
		every = n
	}
	if shm() != "" {
		t.Setenv("TMPDIR", shm()) // Postgres makes and removes files all the time
	}
	cluster := rowstest.New(t)
	old := testKey("old")
	told := &stories{count: map[string]int{}}
	worlds := make(chan *world, 4)
	for range cap(worlds) {
		db := cluster.Database(t)
		w := &world{t: t, db: db, wire: cluster.Wire(t), old: old, stories: told}
		for i := range 3 {
			w.must(db.Upsert(old, "tenant", fmt.Sprint("SECRET_", i), []byte("v")))
		}
		w.must(db.UpsertEnvelope(old, "tenant", "WRAPPED", []byte("v")))
		_, err := db.Exec("create table seed as select * from secrets")
		w.must(err)
		worlds <- w
	}
	var points []string
	var running sync.WaitGroup
	running.Go(func() {
		w := <-worlds
		points = w.play(schedule{boot: boots[0]})
		worlds <- w
	})
	running.Wait()
	var all []schedule
	for n, name := range points {
		for f := range faults {
			if name == "clock" && f != stopBefore {
				continue
			}
			for _, b := range boots {
				all = append(all, schedule{n + 1, f, b, 1 + len(all)/len(boots)%startPoints})
			}
		}
	}
	// More rounds differ in where the start dies that is to settle it, and by chance.
	rounds, _ := strconv.Atoi(os.Getenv("KEYGUARD_ROUNDS"))
	for once := slices.Clone(all); rounds > 1; rounds-- {
		for _, s := range once {
			s.second = 1 + rand.IntN(startPoints)
			all = append(all, s)
		}
	}
	if every > 1 {
		var some []schedule
		for i := 0; i < len(all); i += every {
			some = append(some, all[i])
		}
		all = some
	}
	var played atomic.Int64
	for _, plan := range all {
		w := <-worlds
		if t.Failed() {
			break
		}
		running.Go(func() {
			defer func() { worlds <- w }()
			w.play(plan)
			played.Add(1)
		})
	}
	running.Wait()
	t.Logf("%d schedules of a rotation with %d points, %d ways to come up again: %v", played.Load(), len(points), len(boots), told.count)
	if every == 1 && played.Load() < 2000 && !t.Failed() {
		t.Errorf("only %d schedules", played.Load())
	}
}
