package agent_test

import (
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
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

// fault is what happens at a point of an operation.
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
	{name: "state directory lost", lose: []string{"state"}},
	{name: "disk wiped", lose: []string{"state", "etc"}},
	{name: "disk wiped, Postgres down at first", postgresDown: true, lose: []string{"state", "etc"}},
	{name: "disk wiped, all down at first", postgresDown: true, escrowsDown: true, parks: true, lose: []string{"state", "etc"}},
	{name: "killed, Postgres down at first", watcher: true, postgresDown: true},
	{name: "killed, escrows down at first", watcher: true, escrowsDown: true},
}

// schedule is one run of an operation, to which something happens.
type schedule struct {
	point  int    // as they were counted when nothing happened; 0: nothing happens
	name   string // of the point; "" where the number alone tells
	nth    int    // of that name, as there may be more of others this time
	fault  fault
	boot   boot
	second int // the point of the start that is the last of its life, where boot says again
}

// stopped is what a process panics with that is to do nothing more.
type stopped struct{}

var errStopped = errors.New("the test has stopped this process")

// crashHost is a host with a daemon, a table and two escrows, in which one process rotates or
// repairs and others do what they do. Points are counted where that one process touches
// what is outside of it: a statement, a call of an escrow, of systemd, and the clock, which
// every change of ledger or keyfile asks before it is made.
type crashHost struct {
	t      *testing.T
	op     operation
	dir    string
	db     *rowstest.Database
	root   *rowstest.Session // of db
	writes *rowstest.Session // the daemon's
	wire   *rowstest.Wire    // to whom things happen
	pool   *rowstest.Pool    // all others
	stores []*store
	daemon *daemonStandIn
	plays  int

	mu     sync.Mutex
	moved  *sync.Cond // of mu: steps has grown, or the power is off
	steps  int        // points that were passed, and rounds of the watcher: what others pace themselves by
	plan   schedule
	points []string // those that were passed
	passed map[string]int
	dead   bool   // the process that things happen to
	power  func() // switches off all others that work

	// For all other processes.
	postgresDown, escrowsDown atomic.Bool

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
func (w *crashHost) at(name string) (happens bool, dead bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return false, true
	}
	w.points = append(w.points, name)
	w.step()
	if w.passed[name]++; w.plan.name != "" {
		return name == w.plan.name && w.passed[name] == w.plan.nth, false
	}
	return len(w.points) == w.plan.point, false
}

// step lets the others go on. w.mu is held.
func (w *crashHost) step() {
	w.steps++
	w.moved.Broadcast()
}

// stop ends the process, and with it the host, unless the watcher finds what it left.
func (w *crashHost) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead = true; !w.plan.boot.watcher && w.power != nil {
		w.power()
	}
}

// call passes a point with something that can fail in every way.
func (w *crashHost) call(name string, do func() error, failed, unheard error) error {
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

// clock is what the process that things happen to asks for the time.
func (w *crashHost) clock() time.Time {
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
func (w *crashHost) statement(happens bool, answered bool) bool {
	if !happens {
		return true
	}
	w.mu.Lock()
	fault := w.plan.fault
	w.mu.Unlock()
	switch fault {
	case stopBefore, notDone:
		if !answered && fault == stopBefore {
			w.stop()
		}
		return answered
	default:
		if answered && fault == stopAfter {
			w.stop()
		}
		return !answered
	}
}

// store is an escrow in memory.
type store struct {
	name  string
	blind bool // it lists no fingerprints
	mu    sync.Mutex
	list  []stored // oldest first
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
			if c.Shelf != shelf {
				continue
			}
			if list = append(list, c.Copy); s.blind {
				list[len(list)-1].Fingerprint = ""
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

// place is a store as one process sees it.
type place struct {
	*store
	call func(name string, do func() error, failed, unheard error) error
	down *atomic.Bool // nil: never
}

func (p place) do(what string, do func() error) error {
	return p.call(p.name+": "+what, func() error {
		if p.down != nil && p.down.Load() {
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
func (w *crashHost) process(call func(string, func() error, error, error) error, now func() time.Time, url func() (string, error), down *atomic.Bool) *agent.Host {
	h := hostIn(w.dir, now)
	h.OpenRows = func(_ context.Context, o rows.Options) (agent.Rows, error) {
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
		p := place{s, call, down}
		h.Escrows = append(h.Escrows, agent.Escrow{Reader: p, Writer: p, Required: true})
	}
	return &h
}

// patient opens rows on a machine that may be busy with other tests: what is late is not
// what these are about.
func patient(url string, o rows.Options) (agent.Rows, error) {
	o.ConnectTimeout, o.StatementTimeout = 20*time.Second, 20*time.Second
	return rows.Open(rows.Location{URL: url, From: "the test"}, o)
}

var errBus = errors.New("the bus does not answer")

// victim is the process that things happen to.
func (w *crashHost) victim() *agent.Host {
	return w.process(w.call, w.clock, func() (string, error) {
		if w.isDead() {
			panic(stopped{}) // and does not ask again and again
		}
		return w.wire.URL(w.db.Name), nil
	}, nil)
}

// other is a process to which nothing happens.
func (w *crashHost) other() *agent.Host {
	return w.process(plain, time.Now, func() (string, error) {
		if w.postgresDown.Load() {
			return "", rows.ErrNotListening
		}
		return w.pool.URL(w.db.Name), nil
	}, &w.escrowsDown)
}

// judge is one for which nothing is down.
func (w *crashHost) judge() *agent.Host {
	return w.process(plain, time.Now, func() (string, error) { return w.pool.URL(w.db.Name), nil }, nil)
}

func (w *crashHost) path(name string) string { return filepath.Join(w.dir, name) }

func (w *crashHost) fail(format string, args ...any) {
	w.t.Helper()
	text, _ := os.ReadFile(w.path("state/ledger.jsonl"))
	w.t.Errorf("%s, point %d, %s at %s: %s\nledger:\n%s", w.plan.boot.name, w.plan.point, w.plan.fault, w.plan.name, fmt.Sprintf(format, args...), text)
	runtime.Goexit() // not FailNow, which is for the test's own goroutine
}

func (w *crashHost) must(err error) {
	w.t.Helper()
	if err != nil {
		w.fail("%v", err)
	}
}

// daemonStandIn starts as systemd would have it: prestart first, then the key is read once.
type daemonStandIn struct {
	w   *crashHost
	job sync.Mutex // a start or a stop

	mu     sync.Mutex // guards what follows
	up     bool
	key    key.Key
	cancel context.CancelFunc // of the start that is under way
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
	case r.Decision.Action == decide.Doubt, r.Decision.Action == decide.Lost:
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
	if d.up { // it seems to be gone, as behind a pooler
		if _, err := d.w.writes.Exec("DISCARD ALL"); err != nil {
			d.w.t.Error(err)
		}
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
	_, err := d.w.writes.Exec(`insert into secrets (username, name, nonce, ciphertext, kek_id) values ('bystander', $1, $2, $3, '')
		on conflict (username, name) do update set nonce = excluded.nonce, ciphertext = excluded.ciphertext,
		wrapped_dek = null, kek_id = '', version = secrets.version + 1, updated_at = now()`, name, nonce, ciphertext)
	return err
}

// bystanders work until they are told not to: the daemon writes, somebody starts it, and
// somebody verifies every copy. How much they do goes by what the others do, and not by
// the clock: a slow machine has no more of it.
func (w *crashHost) bystanders() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	off := func() { // w.mu is held
		cancel()
		w.moved.Broadcast()
	}
	w.mu.Lock()
	w.power = off
	w.mu.Unlock()
	var all sync.WaitGroup
	every := func(steps int, do func(n int)) {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				do(n)
				w.mu.Lock()
				for due := w.steps + steps; w.steps < due && ctx.Err() == nil; {
					w.moved.Wait()
				}
				w.mu.Unlock()
			}
		})
	}
	every(5, func(n int) {
		if err := w.daemon.upsert(n); err != nil && ctx.Err() == nil {
			w.t.Errorf("the daemon cannot write: %v", err)
		}
	})
	every(2, func(int) {
		w.daemon.start(ctx) //nolint:errcheck // it may be refused at any time
	})
	every(100, func(int) {
		agent.Verify(ctx, w.other()) //nolint:errcheck // it only looks
	})
	return func() {
		w.mu.Lock()
		off()
		w.mu.Unlock()
		all.Wait()
	}
}

// reset makes the host as it is before the operation. The daemon runs.
func (w *crashHost) reset(plan schedule) {
	w.mu.Lock()
	w.plan, w.points, w.passed, w.dead = plan, nil, map[string]int{}, false
	w.mu.Unlock()
	w.up()
	var err error
	if w.dir, err = os.MkdirTemp(shm(), "keyguard"); err != nil {
		w.t.Fatal(err)
	}
	w.must(errors.Join(os.Mkdir(w.path("etc"), 0o700), os.Mkdir(w.path("state"), 0o700)))
	if w.plays++; w.plays%50 == 0 { // the dead of the catalog's tables make everybody slow
		_, err = w.root.Exec("vacuum")
		w.must(err)
	}
	_, err = w.root.Exec("do $$ begin delete from secrets; insert into secrets select * from seed; end $$")
	w.must(err)
	w.stores = []*store{{name: "one"}, {name: "two", blind: true}}
	w.must(w.op.furnish(w.judge(), len(plan.boot.lose) > 0))
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
func (w *crashHost) play(plan schedule) []string {
	w.reset(plan)
	defer os.RemoveAll(w.dir)
	w.wire.Restart(w.overWire())
	end := w.bystanders()
	ended := sync.OnceFunc(end)
	defer w.daemon.stop()
	defer ended()

	done, err, crashed := w.run(w.victim())
	switch {
	case crashed:
		w.stories.add("died")
		// The kernel gives back what the dead held. Here they do, on their way out.
		held, err := lock.Held(w.path("state"), lock.Start)
		w.must(err)
		if held {
			w.fail("it is dead, and nobody else can start the daemon")
		}
	case err == nil && !done:
		w.fail("it says that all went well, and did not do it")
	case err == nil:
		w.stories.add("done")
	case plan.point == 0 || !excused(err):
		w.fail("%v", err)
	default:
		w.stories.add("gave up")
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
	w.must(w.op.again(w.judge(), w.root))
	return points
}

// excused tells whether an operation may end like that when something happened to it.
func excused(err error) bool {
	return slices.ContainsFunc([]error{agent.ErrNotRotated, agent.ErrNotRepaired, agent.ErrUnsure, agent.ErrNotStarted},
		func(excuse error) bool { return errors.Is(err, excuse) })
}

// overWire is what happens to statements. Both halves of one are the same point.
func (w *crashHost) overWire() func(int, string, bool) bool {
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

// isStopped tells whether a panic is the end of the process, in whichever goroutine.
func isStopped(p any) bool {
	if other, is := p.(*crew.Panic); is {
		p = other.Value
	}
	return p == stopped{}
}

// run runs the operation to its end or to its death.
func (w *crashHost) run(h *agent.Host) (done bool, err error, crashed bool) {
	defer func() {
		switch p := recover(); {
		case p == nil:
		case isStopped(p):
			crashed = true
		default:
			panic(p)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	done, err = w.op.run(ctx, h)
	return done, err, w.isDead()
}

func (w *crashHost) isDead() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead
}

// reboot loses what is lost, starts the daemon while things are down, and again when they
// are up. At no time does it run on a key that is not right.
func (w *crashHost) reboot() {
	w.quiet()
	b := w.plan.boot
	for _, name := range b.lose {
		w.must(os.RemoveAll(w.path(name)))
	}
	if b.parks {
		hold, err := agent.HoldWatch(w.other())
		w.must(err)
		defer hold.Release()
	}
	if b.again {
		w.dieInGuard()
	}
	if w.down() {
		w.guard(false)
	}
	w.up()
	w.guard(true)
}

// dieInGuard is a start that comes to its end too soon.
func (w *crashHost) dieInGuard() {
	w.mu.Lock()
	before, settled := w.plan, w.points
	w.plan.point, w.plan.name, w.plan.fault, w.points, w.dead = before.second, "", stopBefore, nil, false
	w.mu.Unlock()
	defer func() {
		if p := recover(); p != nil && !isStopped(p) {
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

// down takes away what is down at first, and tells whether anything is.
func (w *crashHost) down() bool {
	b := w.plan.boot
	w.postgresDown.Store(b.postgresDown)
	w.escrowsDown.Store(b.escrowsDown)
	return b.postgresDown || b.escrowsDown
}

func (w *crashHost) up() {
	w.postgresDown.Store(false)
	w.escrowsDown.Store(false)
}

// quiet waits until the server has noticed that nobody is there any more.
func (w *crashHost) quiet() {
	w.t.Helper()
	w.must(quiet(w.root, func() int { return 0 }))
}

// guard is a start's. If it lets the daemon start with a key, that is the right one.
func (w *crashHost) guard(must bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := agent.Guard(ctx, w.other(), agent.GuardOptions{})
	w.must(err)
	switch r.Decision.Action {
	case decide.Pass, decide.Install:
		w.stories.add(string(r.Decision.Action) + " by " + r.Decision.Rule)
		w.must(w.op.check(w.judge(), w.root))
	case decide.Make:
		w.fail("it made a key over rows (law 2)")
	default:
		w.stories.add(string(r.Decision.Action))
		if must {
			w.fail("%s: %s: %s", r.Decision.Rule, r.Decision.Action, r.Decision.Reason)
		}
	}
}

// watch is what the watcher does about what was killed, while the others go on.
func (w *crashHost) watch(ended func()) {
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
	if w.down() {
		round() //nolint:errcheck // it may not be able to do anything
	}
	w.up()
	for deadline := time.Now().Add(2 * time.Minute); ; {
		r, err := round()
		w.mu.Lock()
		w.step()
		w.mu.Unlock()
		standing, lerr := h.Ledger.Standing()
		w.must(lerr)
		if err == nil && !r.Waiting && standing.Rotation == nil && standing.Stopped == nil && len(w.daemon.running()) > 0 {
			break
		}
		if time.Now().After(deadline) {
			w.fail("the watcher does not settle it: %+v %v, standing %+v, the daemon runs: %v", r.Decision, err, standing, w.daemon.running())
		}
		time.Sleep(5 * time.Millisecond)
	}
	ended()
	w.daemon.stop()
	w.must(w.op.check(w.judge(), w.root))
}

// startPoints is more than a start passes that settles what was left.
const startPoints = 20

// TestCrashes plays each operation with one thing happening to it, at every point and in
// every way, and comes up again in every way.
func TestCrashes(t *testing.T) {
	if shm() != "" {
		t.Setenv("TMPDIR", shm()) // Postgres makes and removes files all the time
	}
	// Of so many schedules one is played.
	every := 211
	if n, err := strconv.Atoi(os.Getenv("KEYGUARD_CRASHES")); err == nil {
		every = n
	} else if brief.Run() {
		every *= 5
	}
	cluster := server.Cluster(t)
	played := 0
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) { played += playAll(t, cluster, op, every) })
	}
	t.Logf("%d schedules in all", played)
}

func playAll(t *testing.T, cluster *rowstest.Cluster, op namedOperation, every int) int {
	told := &stories{count: map[string]int{}}
	hosts := make(chan *crashHost, 4)
	for range cap(hosts) {
		db := cluster.Database(t)
		root, err := db.Superuser()
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		pool := cluster.Pool(t)
		writes, err := db.Session()
		if err != nil {
			t.Fatal(err)
		}
		defer writes.Close() //nolint:errcheck // it goes with its connection
		w := &crashHost{t: t, op: op.operation, db: db, root: root, writes: writes, wire: pool.Wire(t), pool: pool, stories: told}
		w.moved = sync.NewCond(&w.mu)
		w.must(op.rows(db))
		_, err = db.Exec("create table seed as select * from secrets")
		w.must(err)
		hosts <- w
	}
	var points []string
	var running sync.WaitGroup
	running.Go(func() {
		w := <-hosts
		defer func() { hosts <- w }()
		points = w.play(schedule{boot: boots[0]})
	})
	running.Wait()
	rounds, _ := strconv.Atoi(os.Getenv("KEYGUARD_ROUNDS"))
	var all []schedule
	tried, names := 0, map[string]int{}
	for n, name := range points {
		names[name]++
		for f := range faults {
			if name == "clock" && f != stopBefore {
				continue
			}
			for _, b := range boots {
				// Whatever its share, each change of ledger, keyfile and rows is interrupted in every way.
				if tried++; name == "clock" || name == "sql: commit" || rounds > 1 || tried%op.share == 0 {
					all = append(all, schedule{n + 1, name, names[name], f, b, 1 + tried/len(boots)%startPoints})
				}
			}
		}
	}
	// More rounds differ in where the start dies that is to settle it, and by chance.
	for once := slices.Clone(all); rounds > 1; rounds-- {
		for _, s := range once {
			s.second = 1 + rand.IntN(startPoints)
			all = append(all, s)
		}
	}
	var played atomic.Int64
	for i := 0; i < len(all); i += every {
		plan := all[i]
		w := <-hosts
		if t.Failed() {
			break
		}
		running.Go(func() {
			defer func() { hosts <- w }()
			w.play(plan)
			played.Add(1)
		})
	}
	running.Wait()
	t.Logf("%d schedules with %d points, %d ways to come up again: %v", played.Load(), len(points), len(boots), told.count)
	if every == 1 && op.share == 1 && played.Load() < 2000 && !t.Failed() {
		t.Errorf("only %d schedules", played.Load())
	}
	return int(played.Load())
}
