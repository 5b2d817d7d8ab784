package fleet_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	pb "cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/grpc/codes"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/secretmanager"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/fleet"
)

// clock is time that goes by only while somebody waits.
type clock struct {
	mu   sync.Mutex
	now  time.Time
	stop time.Time // somebody interrupts here; zero for nobody
	kill func()    // how
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Until(ctx context.Context, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stop.IsZero() && t.After(c.stop) {
		c.kill()
	}
	if t.After(c.now) && ctx.Err() == nil {
		c.now = t
	}
	return ctx.Err()
}

// project is a fake Secret Manager with the published quotas on virtual time, and the
// secrets of many hosts.
type project struct {
	*secretmanager.Server
	clock *clock
	o     kinds.GCPOptions
	hosts []string
}

func name(host string) string { return "projects/my-project/secrets/containarium-" + host + "-master" }

func startProject(t testing.TB, n int) *project {
	t.Helper()
	c := &clock{now: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)}
	s, err := secretmanager.Start(secretmanager.Options{Now: c.Now, Anonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	p := &project{s, c, kinds.GCPOptions{Name: "gcp", Project: "my-project", Secret: "containarium-{hostname}-master",
		Endpoint: s.Addr(), Plaintext: true, Timeout: time.Minute}, nil}
	for i := range n {
		host := fmt.Sprintf("web%05d", i)
		p.hosts = append(p.hosts, host)
		s.Put(name(host), []byte("value"))
		s.Put(name(host)+"-quarantine", []byte("value"))
		s.Put(name(host), []byte("value"))
		s.Label(name(host), "managed-by", "keyguard")
		s.Label(name(host)+"-quarantine", "managed-by", "keyguard")
	}
	return p
}

func (p *project) looker(t testing.TB) *fleet.Looker {
	t.Helper()
	f, err := kinds.NewGCPFleet(p.o, kinds.FleetOptions{Wait: fleet.NewPace(p.clock, 200).Wait})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &fleet.Looker{Stores: []fleet.Store{{Fleet: f, Required: true}}, Inventory: p.hosts, Clock: p.clock, Again: 5 * time.Minute,
		Questions: fleet.Questions{Now: p.clock.now}}
}

// judge is what comes out of a look.
func judge(p *project, views []fleet.View) fleet.Report {
	return fleet.Judge(fleet.Evidence{Inventory: p.hosts, Stores: views}, fleet.Questions{Now: p.clock.Now(), Fresh: time.Hour, Period: time.Hour})
}

// answer is what one store's cell says of each host.
func answers(r fleet.Report) map[string]fleet.Cell {
	all := map[string]fleet.Cell{}
	for _, row := range r.Rows {
		all[row.Host] = row.Cells[1]
	}
	return all
}

// hosts is how many there are in a project: 10 000 in make soak.
func hosts(t *testing.T) int {
	if n, err := strconv.Atoi(os.Getenv("KEYGUARD_FLEET")); err == nil {
		return n
	}
	return 600
}

// TestManyHosts looks at a whole project by the published quotas: nothing is refused, nothing
// is accessed, the time is that of the quota alone, and it is right of every host. It is
// interrupted on the way, twice, and goes on.
func TestManyHosts(t *testing.T) {
	n := hosts(t)
	p := startProject(t, n)
	p.clock.now = p.clock.now.Add(time.Minute)
	for host, change := range map[int]func(string){
		1: func(h string) { p.Remove(name(h)); p.Remove(name(h) + "-quarantine") },
		2: func(h string) { check(t, p.Set(name(h), 2, pb.SecretVersion_DISABLED)) },
		3: func(h string) { check(t, p.Set(name(h), 2, pb.SecretVersion_DESTROYED)) },
		4: func(h string) { check(t, p.Schedule(name(h), 2, p.clock.now.Add(24*time.Hour))) },
		5: func(h string) { p.Remove(name(h) + "-quarantine") },
		6: func(h string) { p.Put(name(h)+"-quarantine", []byte("newer")) },
	} {
		change(p.hosts[host])
	}
	strange := "zz-nobodys"
	p.Put(name(strange), []byte("x"))
	p.Label(name(strange), "managed-by", "keyguard")
	p.clock.now = p.clock.now.Add(2 * time.Hour) // what is in quarantine is settled
	p.Reset()
	begun := p.clock.now

	state := filepath.Join(t.TempDir(), "state.json")
	var views []fleet.View
	total := 2 * time.Duration(n) * time.Minute / 200 // two calls a host
	for run := range 3 {
		l := p.looker(t)
		l.State = state
		if p.clock.stop = begun.Add(time.Duration(run+1) * total / 3); run == 2 {
			p.clock.stop = time.Time{}
		}
		ctx, cancel := context.WithCancel(t.Context())
		p.clock.kill = cancel
		var err error
		views, err = l.Look(ctx)
		cancel()
		if run < 2 && !errors.Is(err, context.Canceled) || run == 2 && err != nil {
			t.Fatalf("run %d: %v", run, err)
		}
	}
	took := p.clock.now.Sub(begun)

	want := map[string]fleet.Is{p.hosts[1]: fleet.Bad, p.hosts[2]: fleet.Bad, p.hosts[3]: fleet.Bad, p.hosts[4]: fleet.Bad, p.hosts[6]: fleet.Bad}
	r := judge(p, views)
	for host, c := range answers(r) {
		if is, ok := want[host]; ok && c.Is != is || !ok && c.Is != fleet.Good {
			t.Errorf("%s is %s: %s", host, c.Is, c.Why)
		}
	}
	if len(r.Strangers) != 1 || r.Strangers[0].Host != strange {
		t.Errorf("in no inventory: %v", r.Strangers)
	}
	calls := p.Calls()
	pages := (2*n + 999) / 1000
	// A listing for each run, two calls a host, again those of five that look wrong, and those
	// that an interruption cut off before they were seen.
	if got := calls["ListSecretVersions"]; got < 2*n-1 || got > 2*n+2*5+2*2*8 {
		t.Errorf("%d calls for %d hosts", got, n)
	}
	if calls["ListSecrets"] > 3*(pages+1) || calls["AccessSecretVersion"] != 0 || len(calls) != 2 {
		t.Errorf("calls %v", calls)
	}
	if longest := total + 5*time.Minute + 2*time.Minute; took > longest {
		t.Errorf("it took %s, more than %s", took, longest)
	}
	t.Logf("%d hosts: %s of the project's time, calls %v", n, took, calls)

	var with, without runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&with)
	runtime.KeepAlive(views)
	runtime.KeepAlive(r)
	runtime.GC()
	runtime.ReadMemStats(&without)
	size := int64(with.HeapAlloc) - int64(without.HeapAlloc)
	t.Logf("what was seen and judged takes %d KiB", size>>10)
	if size > int64(n)*8<<10 {
		t.Errorf("%d bytes for %d hosts", size, n)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestQuota: other programs use up the quota. It waits, with jitter, and comes to the same.
func TestQuota(t *testing.T) {
	p := startProject(t, 20)
	p.Reset()
	p.Break(secretmanager.Fault{Kind: secretmanager.Fail, Method: "ListSecrets", Code: codes.ResourceExhausted, Times: 2})
	p.Break(secretmanager.Fault{Kind: secretmanager.Fail, Method: "ListSecretVersions", Code: codes.ResourceExhausted, Times: 7}) // all of them one host's, at worst
	views, err := p.looker(t).Look(t.Context())
	check(t, err)
	for host, c := range answers(judge(p, views)) {
		if c.Is != fleet.Good {
			t.Errorf("%s is %s: %s", host, c.Is, c.Why)
		}
	}
}

// TestStoreDown: a store that does not answer is not asked for each of many hosts, and
// nothing of it is good or bad.
func TestStoreDown(t *testing.T) {
	p := startProject(t, 200)
	p.Reset()
	p.Break(secretmanager.Fault{Kind: secretmanager.Fail, Method: "ListSecretVersions", Code: codes.Unavailable})
	views, err := p.looker(t).Look(t.Context())
	check(t, err)
	if n := p.Calls()["ListSecretVersions"]; n > 40 {
		t.Errorf("it was asked %d times", n)
	}
	p.Break(secretmanager.Fault{Kind: secretmanager.Fail, Method: "ListSecrets", Code: codes.PermissionDenied})
	denied, err := p.looker(t).Look(t.Context())
	check(t, err)
	for _, v := range [][]fleet.View{views, denied} {
		r := judge(p, v)
		for host, c := range answers(r) {
			if c.Is != fleet.Unknown {
				t.Fatalf("%s is %s: %s", host, c.Is, c.Why)
			}
		}
		if r.Stores[0].Is != fleet.Unknown {
			t.Errorf("the store is %+v", r.Stores[0])
		}
	}
}

// lagging is a store that shows at first what was so before.
type lagging struct {
	mu    sync.Mutex
	looks map[string]int
	shows func(host string, look int) escrow.Shown
}

func (l *lagging) Name() string        { return "slow" }
func (l *lagging) Place() escrow.Place { return escrow.Place{Where: "{hostname}"} }
func (l *lagging) Lags() bool          { return true }
func (l *lagging) NamesKeys() bool     { return false }
func (l *lagging) Close() error        { return nil }

func (l *lagging) Hosts(context.Context) (map[string]*escrow.Shown, error) {
	return nil, escrow.ErrNotListed
}

func (l *lagging) Look(_ context.Context, host string) (escrow.Shown, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looks[host]++
	return l.shows(host, l.looks[host]), nil
}

// TestTwoLooks: what was written a minute ago is not taken for missing; what is missing
// twice is; and without a second look nobody knows.
func TestTwoLooks(t *testing.T) {
	c := &clock{now: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)}
	there := escrow.Shown{Current: &escrow.Copy{ID: "current/1", Created: c.now}}
	for _, again := range []time.Duration{0, 5 * time.Minute} {
		s := &lagging{looks: map[string]int{}, shows: func(host string, look int) escrow.Shown {
			if host == "gone" || host == "late" && look == 1 {
				return escrow.Shown{Missing: true}
			}
			return there
		}}
		l := fleet.Looker{Stores: []fleet.Store{{Fleet: s, Required: true}}, Inventory: []string{"fine", "gone", "late"}, Clock: c, Again: again,
			Questions: fleet.Questions{Now: c.now}}
		begun := c.Now()
		views, err := l.Look(t.Context())
		check(t, err)
		r := fleet.Judge(fleet.Evidence{Inventory: l.Inventory, Stores: views}, fleet.Questions{Now: c.Now()})
		got := answers(r)
		want := map[string]fleet.Is{"fine": fleet.Good, "gone": fleet.Bad, "late": fleet.Good}
		looks := map[string]int{"fine": 1, "gone": 2, "late": 2}
		if again == 0 {
			want = map[string]fleet.Is{"fine": fleet.Good, "gone": fleet.Unknown, "late": fleet.Unknown}
			looks = map[string]int{"fine": 1, "gone": 1, "late": 1}
		}
		for host, is := range want {
			if got[host].Is != is {
				t.Errorf("again after %s, %s is %s: %s", again, host, got[host].Is, got[host].Why)
			}
		}
		if !maps.Equal(s.looks, looks) || c.Now().Sub(begun) != again {
			t.Errorf("again after %s: looks %v in %s", again, s.looks, c.Now().Sub(begun))
		}
	}
}

// TestState: what is no state is not taken for one, and what ended or is of last week is
// not gone on with.
func TestState(t *testing.T) {
	p := startProject(t, 3)
	state := filepath.Join(t.TempDir(), "state.json")
	l := p.looker(t)
	l.State = state
	if _, err := l.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(state)
	check(t, err)
	var kept map[string]any
	check(t, json.Unmarshal(data, &kept))
	for name, change := range map[string]func(){
		"a run that ended":           func() {},
		"an interrupted one, of now": func() { kept["done"] = false },
		"one of last week":           func() { kept["done"], kept["begun"] = false, p.clock.now.Add(-7*24*time.Hour) },
	} {
		kept["done"], kept["begun"] = true, p.clock.now
		change()
		data, err := json.Marshal(kept)
		check(t, err)
		check(t, os.WriteFile(state, data, 0o600))
		p.Reset()
		_, err = l.Look(t.Context())
		check(t, err)
		want := 6
		if name == "an interrupted one, of now" {
			want = 0
		}
		if n := p.Calls()["ListSecretVersions"]; n != want {
			t.Errorf("%s: %d calls, want %d", name, n, want)
		}
	}
	for _, text := range []string{"", "{}", "[]", "web1\n", `{"version":7}`} {
		check(t, os.WriteFile(state, []byte(text), 0o600))
		if _, err := l.Look(t.Context()); !errors.Is(err, fleet.ErrState) {
			t.Errorf("%q: %v", text, err)
		}
		if data, _ := os.ReadFile(state); !slices.Equal(data, []byte(text)) {
			t.Errorf("%q was written over: %s", text, data)
		}
	}
}

// TestPace: evenly, and from now on where nobody asked for a while.
func TestPace(t *testing.T) {
	c := &clock{now: time.Unix(1e9, 0)}
	p := fleet.NewPace(c, 60)
	for range 10 {
		check(t, p.Wait(t.Context()))
	}
	if got := c.now.Sub(time.Unix(1e9, 0)); got != 9*time.Second {
		t.Errorf("ten calls took %s", got)
	}
	c.now = c.now.Add(time.Hour)
	at := c.now
	check(t, p.Wait(t.Context()))
	check(t, p.Wait(t.Context()))
	if got := c.now.Sub(at); got != time.Second {
		t.Errorf("two more took %s", got)
	}
}

// policied is a store that tells who may destroy, or why it does not.
type policied struct {
	lagging
	who   []string
	err   error
	asked map[string]int
}

func (p *policied) Destroyers(_ context.Context, host string) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked[host]++
	if host == "" {
		return nil, nil
	}
	return p.who, p.err
}

// TestPolicies: what cannot be known of the policies says nothing of the copies, and is not
// asked for of each of many hosts; and a run that goes on with one that did not ask, asks.
func TestPolicies(t *testing.T) {
	c := &clock{now: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)}
	there := func(string, int) escrow.Shown {
		return escrow.Shown{Current: &escrow.Copy{ID: "current/1", Created: c.now}}
	}
	var inventory []string
	for i := range 100 {
		inventory = append(inventory, fmt.Sprintf("web%03d", i))
	}
	run := func(s *policied, hosts []string, state string, asks bool) fleet.Report {
		s.lagging = lagging{looks: map[string]int{}, shows: there}
		s.asked = map[string]int{}
		l := fleet.Looker{Stores: []fleet.Store{{Fleet: s, Required: true}}, Inventory: hosts, Clock: c, State: state, Policies: asks}
		views, err := l.Look(t.Context())
		check(t, err)
		return fleet.Judge(fleet.Evidence{Inventory: hosts, Stores: views}, fleet.Questions{Now: c.Now(), Policies: asks})
	}
	last := func(r fleet.Report) fleet.Cell { return r.Rows[0].Cells[len(r.Rows[0].Cells)-1] }

	denied := &policied{err: escrow.ErrDenied}
	r := run(denied, inventory, "", true)
	for host, cell := range answers(r) {
		if cell.Is != fleet.Good {
			t.Fatalf("of its copies in the store %s says %+v", host, cell)
		}
	}
	if n := len(denied.asked); n < 3 || n > 40 {
		t.Errorf("%d hosts were asked for", n)
	}
	for _, row := range r.Rows {
		if cell := row.Cells[len(row.Cells)-1]; cell.Is != fleet.Unknown {
			t.Errorf("%s: %+v", row.Host, cell)
		}
	}

	// A store that answers is asked of every host, however much its policies leave open.
	open := &policied{who: []string{"somebody"}, err: escrow.ErrLeftOpen}
	for _, row := range run(open, inventory, "", true).Rows {
		if cell := row.Cells[len(row.Cells)-1]; cell.Is != fleet.Bad {
			t.Fatalf("%s: %+v", row.Host, cell)
		}
	}

	// An interrupted run that did not ask is no answer to one that does.
	state := filepath.Join(t.TempDir(), "state.json")
	one := inventory[:1]
	open = &policied{who: []string{"somebody"}}
	run(open, one, state, false)
	data, err := os.ReadFile(state)
	check(t, err)
	var kept map[string]any
	check(t, json.Unmarshal(data, &kept))
	kept["done"] = false
	data, err = json.Marshal(kept)
	check(t, err)
	check(t, os.WriteFile(state, data, 0o600))
	if cell := last(run(open, one, state, true)); cell.Is != fleet.Bad {
		t.Errorf("the policies are %+v", cell)
	}
}

// TestSoonAgain: what a run that was broken off saw a moment ago is no second look.
func TestSoonAgain(t *testing.T) {
	c := &clock{now: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)}
	s := &policied{asked: map[string]int{}, lagging: lagging{looks: map[string]int{},
		shows: func(string, int) escrow.Shown { return escrow.Shown{Missing: true} }}}
	state := filepath.Join(t.TempDir(), "state.json")
	for run, policies := range []bool{false, true} {
		l := fleet.Looker{Stores: []fleet.Store{{Fleet: s, Required: true}}, Inventory: []string{"web1"}, Clock: c, State: state, Policies: policies, Again: 5 * time.Minute}
		ctx, cancel := context.WithCancel(t.Context())
		c.kill, c.stop = cancel, time.Time{}
		if run == 0 {
			c.stop = c.now // before it looks again
		}
		begun := c.now
		_, err := l.Look(ctx)
		cancel()
		if run == 0 != errors.Is(err, context.Canceled) {
			t.Fatalf("run %d: %v", run, err)
		}
		if run == 1 && (c.now.Sub(begun) != l.Again || s.looks["web1"] != 3) {
			t.Errorf("after %s and %d looks", c.now.Sub(begun), s.looks["web1"])
		}
	}
}

// TestOtherNames: a host that is in no listing is looked for under each of its names; two
// hosts of one name are looked at once.
func TestOtherNames(t *testing.T) {
	c := &clock{now: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)}
	s := &lagging{looks: map[string]int{}, shows: func(host string, _ int) escrow.Shown {
		if host != "web1" {
			return escrow.Shown{Missing: true}
		}
		return escrow.Shown{Current: &escrow.Copy{ID: "current/1", Created: c.now}}
	}}
	l := fleet.Looker{Stores: []fleet.Store{{Fleet: s, Required: true}}, Inventory: []string{"a", "b", "web1.example.org"}, Clock: c,
		Said: []fleet.Said{{File: "a.json", Host: "golden", Health: "green"}, {File: "b.json", Host: "golden", Health: "green"}}}
	views, err := l.Look(t.Context())
	check(t, err)
	r := fleet.Judge(fleet.Evidence{Inventory: l.Inventory, Stores: views, Said: l.Said}, fleet.Questions{Now: c.Now()})
	if got := answers(r); got["web1.example.org"].Is != fleet.Good || got["a"].Is != fleet.Unknown || s.looks["golden"] != 1 {
		t.Errorf("%+v, looks %v", got, s.looks)
	}
}
