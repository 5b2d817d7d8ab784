package agent_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	sm "github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/secretmanager"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/vault"
	"github.com/footprintai/containarium-keyguard/agent/internal/wiretest"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

// saving escrows the key of a host where all is well, but that no escrow has it.
type saving struct{ rotation }

func (s saving) furnish(h *agent.Host, _ bool) error {
	return errors.Join(put(h, s.old), prove(h, s.old))
}

func (saving) run(ctx context.Context, h *agent.Host) (bool, error) {
	r, err := agent.Backup(ctx, h)
	for _, s := range r.Escrows {
		err = errors.Join(err, s.Err)
	}
	return err == nil, err
}

func (s saving) check(h *agent.Host, db opener) error {
	if k, err := live(h); err != nil || !k.Equal(s.old) {
		return fmt.Errorf("the keyfile has changed: %v", err)
	}
	_, err := open(db, rotationRows, s.old)
	return err
}

func (s saving) again(h *agent.Host, db opener) error {
	if done, err := s.run(context.Background(), h); err != nil || !done {
		return fmt.Errorf("a second save: %v", err)
	}
	return errors.Join(s.check(h, db), escrowed(h, s.old))
}

// restoring is a start of a host that has lost its keyfile.
type restoring struct{ rotation }

func (r restoring) furnish(h *agent.Host, _ bool) error {
	return errors.Join(prove(h, r.old), save(h, r.old))
}

func (restoring) run(ctx context.Context, h *agent.Host) (bool, error) {
	r, err := agent.Guard(ctx, h, agent.GuardOptions{})
	if err == nil && r.Decision.Action == decide.Make {
		err = errors.New("it made a key over rows (law 2)")
	}
	return r.Decision.Action == decide.Install, err
}

// No other key is there than the one that opens the rows.
func (r restoring) check(h *agent.Host, db opener) error {
	k, err := live(h)
	if !errors.Is(err, os.ErrNotExist) && (err != nil || !k.Equal(r.old)) {
		return fmt.Errorf("the keyfile has another content: %v", err)
	}
	_, err = open(db, rotationRows, r.old)
	return errors.Join(err, escrowed(h, r.old))
}

func (r restoring) again(h *agent.Host, db opener) error {
	if _, err := r.run(context.Background(), h); err != nil {
		return err
	}
	if _, err := live(h); err != nil {
		return fmt.Errorf("a second start: %w", err)
	}
	return r.check(h, db)
}

// spoiled are the operations of TestSpoiled.
var spoiled = []namedOperation{
	{"save", 1, saving{rotation{testKey("old")}}},
	{"restore", 1, restoring{rotation{testKey("old")}}},
	{"rotation", 1, rotation{testKey("old")}},
}

// line is what a relay stands in.
type line string

const (
	toPostgres line = "Postgres"
	toGCP      line = "Secret Manager"
	toVault    line = "Vault"
	toVaultTLS line = "Vault by TLS" // where a flipped bit would be another key without it
)

// spoil is one run of an operation, in which something happens to a connection.
type spoil struct {
	op    namedOperation
	line  line
	fault *wiretest.Fault // nil: nothing
}

func (s spoil) String() string {
	if s.fault == nil {
		return fmt.Sprintf("%s, %s", s.op.name, s.line)
	}
	return fmt.Sprintf("%s, %s, %s", s.op.name, s.line, s.fault)
}

// wired is a host with a real database, and a Secret Manager and a Vault that are fakes
// behind the program's own clients.
type wired struct {
	db   *rowstest.Database
	root *rowstest.Session // of db
	pool *rowstest.Pool    // for who is not spoiled
	tls  *tls.Config       // of the Vault
	ca   string            // a file

	// Of one run.
	dir     string
	vault   *vault.Server
	gcp     *sm.Server
	escrows []string // those that the host has
}

func (w *wired) path(name string) string { return filepath.Join(w.dir, name) }

const (
	wiredMount, wiredPath = "containarium", "secrets-master"
	wiredSecret           = "containarium-host-secrets-master"
)

// silence is how long somebody may be told nothing until the kernel would find out.
const silence = 9 * time.Second

// host is a process. A relay stands in one of its lines, nil in none.
func (w *wired) host(s spoil, relay *wiretest.Relay) (h *agent.Host, hangUp func(), err error) {
	// What must succeed has more time than a busy machine takes. What never answers is
	// waited for as long as the configuration may say at least.
	patience := 20 * time.Second
	if relay != nil && s.fault != nil && s.fault.Kind.Silent() {
		patience = silence / 3
	}
	at := map[line]string{toPostgres: w.pool.Addr(), toGCP: w.gcp.Addr(), toVault: w.vault.URL()}
	if relay != nil {
		switch s.line {
		case toVault:
			at[toVault] = "http://" + relay.Addr
		case toVaultTLS:
			at[toVault] = "https://" + relay.Addr
		default:
			at[s.line] = relay.Addr
		}
	}
	host := hostIn(w.dir, time.Now)
	host.OpenRows = func(_ context.Context, o rows.Options) (agent.Rows, error) {
		o.ConnectTimeout, o.StatementTimeout = patience, patience
		return rows.Open(rows.Location{URL: rowstest.URLAt(at[toPostgres], w.db.Name), From: "the test"}, o)
	}
	v, verr := escrow.NewVault(escrow.VaultOptions{Name: "vault", Address: at[toVault], Mount: wiredMount, Path: wiredPath,
		TokenFile: w.path("token"), CAFile: w.ca, Timeout: patience})
	g, gerr := escrow.NewGCP(escrow.GCPOptions{Name: "gcp", Project: "my-project", Secret: wiredSecret, Endpoint: at[toGCP],
		Plaintext: true, Timeout: patience})
	if err := errors.Join(verr, gerr); err != nil {
		return nil, nil, err
	}
	w.escrows = nil
	for _, e := range []struct {
		agent.Escrow
		lines []line
	}{
		{agent.Escrow{Reader: v, Writer: v, Required: true}, []line{toVault, toVaultTLS}},
		{agent.Escrow{Reader: g, Writer: g, Required: true}, []line{toGCP}},
	} {
		// A restore takes the first that answers: there is no other where its line is spoiled.
		if s.op.name != "restore" || s.line == toPostgres || slices.Contains(e.lines, s.line) {
			host.Escrows = append(host.Escrows, e.Escrow)
			w.escrows = append(w.escrows, e.Name())
		}
	}
	return &host, func() {
		v.Close()
		g.Close()
	}, nil
}

// furnish makes everything anew, as it is before the operation.
func (w *wired) furnish(s spoil) (judge *agent.Host, hangUp func(), err error) {
	if w.dir, err = os.MkdirTemp(shm(), "keyguard"); err != nil {
		return nil, nil, err
	}
	err = errors.Join(os.Mkdir(w.path("etc"), 0o700), os.Mkdir(w.path("state"), 0o700))
	_, derr := w.root.Exec("do $$ begin delete from secrets; insert into secrets select * from seed; end $$")
	o := vault.Options{}
	if s.line == toVaultTLS {
		o.TLS = w.tls
	}
	v, verr := vault.Start(o)
	g, gerr := sm.Start(sm.Options{Anonymous: true, Unlimited: true})
	if err := errors.Join(err, derr, verr, gerr); err != nil {
		return nil, nil, err
	}
	w.vault, w.gcp = v, g
	v.Mount(wiredMount, 2)
	token := v.Token(vault.TokenOptions{Policies: []string{vault.Root}})
	if err := os.WriteFile(w.path("token"), []byte(token), 0o600); err != nil {
		return nil, nil, err
	}
	judge, hangUp, err = w.host(s, nil)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range judge.Escrows {
		err = errors.Join(err, e.Writer.Init(context.Background()))
	}
	return judge, hangUp, errors.Join(err, s.op.furnish(judge, false))
}

// play is one run from beginning to end, in which no law is broken.
func (w *wired) play(s spoil) (relay *wiretest.Relay, done bool, err error) {
	judge, hangUp, err := w.furnish(s)
	defer os.RemoveAll(w.dir)
	if err != nil {
		return nil, false, fmt.Errorf("before it began: %w", err)
	}
	defer w.vault.Close()
	defer w.gcp.Close()
	defer hangUp()
	to := map[line]string{toPostgres: w.db.Cluster.Addr(), toGCP: w.gcp.Addr(), toVault: w.vault.Addr(), toVaultTLS: w.vault.Addr()}
	if relay, err = wiretest.New(to[s.line], s.fault); err != nil {
		return nil, false, err
	}
	defer relay.End()
	victim, ended, err := w.host(s, relay)
	if err != nil {
		return nil, false, err
	}
	done, err = s.op.run(context.Background(), victim)
	ended()
	relay.End()
	switch {
	case s.fault == nil && (err != nil || !done):
		return relay, done, fmt.Errorf("without a fault, done: %v: %w", done, err)
	case s.op.name == "rotation" && err != nil && !excused(err):
		return relay, done, fmt.Errorf("an error of another kind: %w", err)
	case err != nil && len(err.Error()) > 2000:
		return relay, done, fmt.Errorf("an error of %d bytes", len(err.Error()))
	}
	lerr := w.laws()
	if s.op.name == "rotation" && errors.Is(err, agent.ErrNotRotated) {
		lerr = errors.Join(lerr, w.notRotated())
	}
	if lerr != nil {
		return relay, done, fmt.Errorf("right after it, which said done: %v, %v: %w", done, err, lerr)
	}
	if s.op.name == "rotation" { // the next start settles what is open
		r, err := agent.Guard(context.Background(), judge, agent.GuardOptions{})
		if err != nil || r.Decision.Action != decide.Pass && r.Decision.Action != decide.Install {
			return relay, done, fmt.Errorf("the next start: %s, %s: %v", r.Decision.Action, r.Decision.Reason, err)
		}
	}
	if err := errors.Join(s.op.check(judge, w.root), s.op.again(judge, w.root), w.laws()); err != nil {
		return relay, done, fmt.Errorf("afterwards: %w", err)
	}
	return relay, done, w.current(judge)
}

// stored are the keys on the current shelves, as outsiders read them, the newest last. What is
// no key is an error.
func (w *wired) stored() (shelves [][]key.Key, err error) {
	for _, name := range w.escrows {
		values := w.gcp.Versions("projects/my-project/secrets/" + wiredSecret)
		if name == "vault" {
			values = w.inVault(wiredPath)
		}
		var shelf []key.Key
		for _, v := range values {
			k, kerr := key.New(v)
			err = errors.Join(err, kerr)
			shelf = append(shelf, k)
		}
		shelves = append(shelves, shelf)
	}
	return shelves, err
}

func (w *wired) inVault(path string) [][]byte {
	value, ok := w.vault.Get(wiredMount, path)["value"].(string)
	if !ok {
		return nil
	}
	b, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		return [][]byte{[]byte(value)}
	}
	return [][]byte{b}
}

// laws are what must be at any time: the rows are all under one key, which is at hand; and
// on top of no current shelf is a key that opens none of them, but the one of before.
func (w *wired) laws() error {
	shelves, err := w.stored()
	if err != nil {
		return err
	}
	keys := []key.Key{testKey("old")}
	for _, shelf := range shelves {
		keys = append(keys, shelf...)
	}
	for _, glob := range []string{"etc/*", "etc/.keyguard-*", "state/quarantine/*"} {
		files, _ := filepath.Glob(w.path(glob))
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			if k, err := key.New(b); err == nil {
				keys = append(keys, k)
			}
		}
	}
	secrets, err := open(w.root, rotationRows, keys...)
	if err != nil {
		return fmt.Errorf("a key is lost (law 3): %w", err)
	}
	under := map[key.Fingerprint]bool{}
	for _, s := range secrets {
		under[s.Key] = true
	}
	if len(under) != 1 {
		return fmt.Errorf("rows are under %d keys", len(under))
	}
	for _, shelf := range shelves {
		if n := len(shelf); n > 0 && !under[shelf[n-1].Fingerprint()] && !shelf[n-1].Equal(testKey("old")) {
			return fmt.Errorf("key %s is the newest current copy, and opens nothing (law 4)", shelf[n-1].Fingerprint())
		}
	}
	return nil
}

// notRotated fails unless what Rotate says then is so.
func (w *wired) notRotated() error {
	_, err := open(w.root, rotationRows, testKey("old"))
	content, rerr := os.ReadFile(w.path("etc/secrets.key"))
	if !bytes.Equal(content, testKey("old").UnsafeBytes()) {
		err = errors.Join(err, rerr, errors.New("the present key does not stay"))
	}
	return err
}

// current fails unless the keyfile's key is the newest current copy everywhere.
func (w *wired) current(h *agent.Host) error {
	k, err := live(h)
	if err != nil {
		return err
	}
	shelves, err := w.stored()
	for _, shelf := range shelves {
		if n := len(shelf); n == 0 || !shelf[n-1].Equal(k) {
			err = errors.Join(err, fmt.Errorf("at the end the newest current copy is not the keyfile's key: %v", shelf))
		}
	}
	return err
}

// spoiling counts how runs went.
type spoiling struct {
	played, happened, done int
}

// TestSpoiled lets something happen to a connection of a save, a restore and a rotation: to
// Postgres, Secret Manager and Vault, at bytes of either way. After each no key is lost, no
// wrong key is current, the rows are all old or all new, and the next attempt succeeds.
// KEYGUARD_SPOIL=1 takes every byte, for hours, and 10 every tenth; otherwise chance draws
// some, always the same ones for one KEYGUARD_SEED.
func TestSpoiled(t *testing.T) {
	if shm() != "" {
		t.Setenv("TMPDIR", shm())
	}
	every, _ := strconv.Atoi(os.Getenv("KEYGUARD_SPOIL"))
	seed, _ := strconv.ParseUint(os.Getenv("KEYGUARD_SEED"), 10, 64)
	chance := rand.New(rand.NewPCG(seed, 0))

	cluster := server.Cluster(t)
	web := httptest.NewTLSServer(nil) // for its certificate
	web.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	pool := cluster.Pool(t)
	var pemText bytes.Buffer
	err := errors.Join(pem.Encode(&pemText, &pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), os.WriteFile(ca, pemText.Bytes(), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	hosts := make(chan *wired, 8)
	if every > 0 {
		hosts = make(chan *wired, 24) // most of them wait
	}
	for range cap(hosts) {
		db := cluster.Database(t)
		root, err := db.Superuser()
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		if err := spoiled[0].rows(db); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec("create table seed as select * from secrets"); err != nil {
			t.Fatal(err)
		}
		hosts <- &wired{db: db, root: root, pool: pool, tls: web.TLS, ca: ca}
	}

	var mu sync.Mutex // guards what came of it
	told := map[string]*spoiling{}
	var running sync.WaitGroup
	defer running.Wait() // before the sessions are closed
	play := func(s spoil) (relay *wiretest.Relay) {
		w := <-hosts
		defer func() { hosts <- w }()
		relay, done, err := w.play(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
			return relay
		}
		if s.fault == nil {
			return relay
		}
		mu.Lock()
		defer mu.Unlock()
		what := fmt.Sprintf("%s, %s, %s", s.op.name, s.line, s.fault.Kind)
		if told[what] == nil {
			told[what] = &spoiling{}
		}
		told[what].played++
		if relay.Happened() {
			told[what].happened++
		}
		if done {
			told[what].done++
		}
		return relay
	}
	for _, op := range spoiled {
		for _, l := range []line{toPostgres, toGCP, toVault, toVaultTLS} {
			measure := play(spoil{op, l, nil})
			if t.Failed() {
				return
			}
			t.Logf("%s, %s: %d bytes forth, %d back", op.name, l, measure.Carried(wiretest.Forth), measure.Carried(wiretest.Back))
			faults := faultsOf(op, l, measure, every, chance)
			if every == 0 && testing.Short() {
				faults = faults[:1]
			}
			for _, f := range faults {
				running.Go(func() {
					if !t.Failed() {
						play(spoil{op, l, &f})
					}
				})
			}
		}
	}
	running.Wait()
	var names []string
	for what := range told {
		names = append(names, what)
	}
	slices.Sort(names)
	var all spoiling
	for _, what := range names {
		n := told[what]
		all.played, all.happened = all.played+n.played, all.happened+n.happened
		t.Logf("%s: %d played, %d hit, %d done all the same", what, n.played, n.happened, n.done)
	}
	if all.happened*2 < all.played { // one escrow is not asked where another was quicker
		t.Errorf("only %d of %d faults happened", all.happened, all.played)
	}
}

// faultsOf are those of one operation and line. Every n-th byte is hit in each way that
// tells somebody; with 0, bytes that chance draws, most of them where something begins.
func faultsOf(op namedOperation, l line, measure *wiretest.Relay, every int, chance *rand.Rand) (all []wiretest.Fault) {
	add := func(kind wiretest.Kind, way wiretest.Way, at int) {
		all = append(all, wiretest.Fault{Kind: kind, Way: way, At: at, Bit: chance.IntN(8), Until: silence})
	}
	var waits []wiretest.Fault // what costs nothing but time
	for _, way := range wiretest.Ways {
		points := measure.Points(way, 4, chance.IntN)
		for _, kind := range wiretest.Kinds() {
			switch silent := kind.Silent() && kind != wiretest.Flip; {
			case kind == wiretest.Flip && l == toVault, kind != wiretest.Flip && l == toVaultTLS:
			case silent && every > 0:
				for i := 0; i < len(points); i += every {
					add(kind, way, points[i])
				}
			case silent:
				waits = append(waits, wiretest.Fault{Kind: kind, Way: way, At: points[chance.IntN(len(points))], Until: silence})
			case every > 0:
				for at := chance.IntN(every); at < measure.Carried(way); at += every {
					add(kind, way, at)
				}
			default:
				if op.name == "rotation" && l == toPostgres && kind == wiretest.Reset {
					for _, at := range points[max(0, len(points)-4):] { // the commit, and its answer
						add(kind, way, at)
					}
				}
				add(kind, way, points[chance.IntN(len(points))])
			}
		}
	}
	if len(waits) > 0 {
		all = append(all, waits[chance.IntN(len(waits))])
	}
	return all
}
