package agent_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	sm "github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/secretmanager"
	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/vault"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
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

	scenes map[string]*scene // by operation and line
	after  *sequels

	// Of one run.
	*scene
	dir     string
	escrows []string // those that the host has
}

// wire makes hosts of one server.
func wire(t *testing.T, n int) (all []*wired) {
	cluster := server.Cluster(t)
	pool := cluster.Pool(t)
	web := httptest.NewTLSServer(nil) // for its certificate
	web.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	after := &sequels{spares: os.Getenv("KEYGUARD_SPOIL") != "", states: map[string]*sequel{}}
	for range n {
		w := &wired{db: cluster.Database(t), pool: pool, tls: web.TLS, ca: ca, scenes: map[string]*scene{}, after: after}
		err := spoiled[0].rows(w.db)
		if err == nil {
			_, err = w.db.Exec("create table seed as select * from secrets")
		}
		if err == nil {
			w.root, err = w.db.Superuser()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			w.root.Close() //nolint:errcheck // nothing is open in it
			for _, s := range w.scenes {
				s.vault.Close()
				s.gcp.Close()
			}
		})
		all = append(all, w)
	}
	return all
}

// scene is what an operation begins with. To make it costs more than the operation, so it is
// made once, and then put back.
type scene struct {
	vault *vault.Server
	gcp   *sm.Server
	begin *image
}

// image is all that operations change, but for the rows.
type image struct {
	files      map[string]content // of the host, by path
	vault, gcp []byte             // what they keep
}

type content struct {
	mode fs.FileMode
	text []byte // of a file
}

func (w *wired) image() (*image, error) {
	i := &image{files: map[string]content{}}
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == w.dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		c := content{mode: info.Mode()}
		if c.mode.IsRegular() {
			c.text, err = os.ReadFile(path)
		}
		i.files[strings.TrimPrefix(path, w.dir+"/")] = c
		return err
	})
	var verr, gerr error
	i.vault, verr = w.vault.Snapshot()
	i.gcp, gerr = w.gcp.Snapshot()
	return i, errors.Join(err, verr, gerr)
}

func (w *wired) putBack(i *image) error {
	err := errors.Join(w.vault.Restore(i.vault), w.gcp.Restore(i.gcp))
	for _, path := range slices.Sorted(maps.Keys(i.files)) { // a directory before what is in it
		if c := i.files[path]; c.mode.IsDir() {
			err = errors.Join(err, os.Mkdir(w.path(path), c.mode.Perm()))
		} else {
			err = errors.Join(err, os.WriteFile(w.path(path), c.text, c.mode.Perm()))
		}
	}
	return err
}

// sequels count how often what comes after a state was played.
type sequels struct {
	spares bool // what was played often enough

	mu     sync.Mutex // guards what follows
	states map[string]*sequel
}

// sequel is of one state.
type sequel struct{ runs, played, spared int }

// enough is how often that is done, where bytes are hit by the thousand: after equal states comes
// the same, but for chance.
const enough = 5

// wanted tells whether it is to be done after one more run.
func (q *sequels) wanted(state string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.states[state]
	if s == nil {
		s = &sequel{}
		q.states[state] = s
	}
	if s.runs++; q.spares && s.runs > enough {
		s.spared++
		return false
	}
	return true
}

func (q *sequels) played(state string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.states[state].played++
}

// sum fails unless it was done after each run, or often enough.
func (q *sequels) sum() (all sequel, err error) {
	for state, s := range q.states {
		least := s.runs
		if q.spares {
			least = min(enough, s.runs)
		}
		if s.played != least || s.played+s.spared != s.runs {
			err = fmt.Errorf("after %d runs that left one state what comes next was played %d times, and spared %d times:\n%s", s.runs, s.played, s.spared, state)
		}
		all.runs, all.played, all.spared = all.runs+s.runs, all.played+s.played, all.spared+s.spared
	}
	return all, err
}

// unlike is what differs between equal states: times, ports, tokens, what something took, and
// what a row is called in its table.
var unlike = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)|\d{8}T\d{6}(\.\d+)?Z|` +
	`127\.0\.0\.1:\d+|hvs\.\w+|"took_ns":\d+|"id": "[0-9a-f-]{36}"`)

// random is a fingerprint or a hash, or a key in a store.
var random = regexp.MustCompile(`[0-9a-f]{16,}|[\w+/]{43}=`)

// left is what a run has left, in words that are equal where the same comes next: without what
// is unlike, and with what is random called #1, #2 and so on, as it appears.
func (w *wired) left(secrets map[string]rowstest.Secret) (string, error) {
	i, err := w.image()
	if err != nil {
		return "", err
	}
	numbers := map[string]int{}
	words := func(text string) string {
		return random.ReplaceAllStringFunc(unlike.ReplaceAllString(text, "*"), func(n string) string {
			if b, err := base64.StdEncoding.DecodeString(n); err == nil {
				n = named(b)
			}
			if numbers[n] == 0 {
				numbers[n] = len(numbers) + 1
			}
			return fmt.Sprint("#", numbers[n])
		})
	}
	var b strings.Builder
	// First the files, of which ledger and local quarantine are in the order of their making: they say
	// which key is which.
	for _, path := range slices.Sorted(maps.Keys(i.files)) {
		c := i.files[path]
		b.WriteString(words(fmt.Sprintf("%s %s\n%s\n", path, c.mode, named(c.text))))
	}
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		b.WriteString(words(fmt.Sprintf("%q %s\n", name, secrets[name])))
	}
	for _, kept := range [][]byte{i.vault, i.gcp} {
		var names any // which are in another order now
		err := json.Unmarshal([]byte(words(string(kept))), &names)
		sorted, merr := json.Marshal(names)
		if err := errors.Join(err, merr); err != nil {
			return "", err
		}
		b.Write(append(sorted, '\n'))
	}
	return b.String(), nil
}

// named is a text as it is, and a key as its fingerprint.
func named(text []byte) string {
	if k, err := key.New(text); err == nil {
		return string(k.Fingerprint())
	}
	return string(text)
}

func (w *wired) path(name string) string { return filepath.Join(w.dir, name) }

const (
	wiredMount, wiredPath = "containarium", "secrets-master"
	wiredSecret           = "containarium-host-secrets-master"
)

// How long who waits for what.
const (
	// patience is what a client has for an answer that comes: more than a busy machine takes.
	patience = 2 * time.Minute
	// silence is how long a spoiled line says nothing, until the kernel would find out.
	silence = 9 * time.Second
	// impatience is what a client has there, so that it gives up first.
	impatience = silence / 3
)

// host is a process. A relay stands in one of its lines, nil in none.
func (w *wired) host(s spoil, relay *wiretest.Relay) (h *agent.Host, hangUp func(), err error) {
	wait := patience
	if relay != nil && s.fault != nil && s.fault.Kind.Silent() {
		wait = impatience
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
		o.ConnectTimeout, o.StatementTimeout = wait, wait
		return rows.Open(rows.Location{URL: rowstest.URLAt(at[toPostgres], w.db.Name), From: "the test"}, o)
	}
	v, verr := kinds.NewVault(kinds.VaultOptions{Name: "vault", Address: at[toVault], Mount: wiredMount, Path: wiredPath,
		TokenFile: w.path("token"), CAFile: w.ca, Timeout: wait})
	g, gerr := kinds.NewGCP(kinds.GCPOptions{Name: "gcp", Project: "my-project", Secret: wiredSecret, Endpoint: at[toGCP],
		Plaintext: true, Timeout: wait})
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

// furnish makes everything as it is before the operation.
func (w *wired) furnish(s spoil) (err error) {
	if w.dir, err = os.MkdirTemp(shm(), "keyguard"); err != nil {
		return err
	}
	_, err = w.root.Exec("do $$ begin delete from secrets; insert into secrets select * from seed; end $$")
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%s, %s", s.op.name, s.line)
	if w.scene = w.scenes[what]; w.scene != nil {
		return w.putBack(w.begin)
	}
	o := vault.Options{}
	if s.line == toVaultTLS {
		o.TLS = w.tls
	}
	v, verr := vault.Start(o)
	g, gerr := sm.Start(sm.Options{Anonymous: true, Unlimited: true})
	if err := errors.Join(verr, gerr); err != nil {
		return err
	}
	w.scene = &scene{vault: v, gcp: g}
	w.scenes[what] = w.scene
	v.Mount(wiredMount, 2)
	token := v.Token(vault.TokenOptions{Policies: []string{vault.Root}})
	err = errors.Join(os.Mkdir(w.path("etc"), 0o700), os.Mkdir(w.path("state"), 0o700), os.WriteFile(w.path("token"), []byte(token), 0o600))
	if err != nil {
		return err
	}
	before, hangUp, err := w.host(s, nil)
	if err != nil {
		return err
	}
	defer hangUp()
	for _, e := range before.Escrows {
		err = errors.Join(err, e.Writer.Init(context.Background()))
	}
	if err := errors.Join(err, s.op.furnish(before, false)); err != nil {
		return err
	}
	w.begin, err = w.image()
	return err
}

// play is one run from beginning to end, in which no law is broken.
func (w *wired) play(s spoil) (relay *wiretest.Relay, done bool, err error) {
	err = w.furnish(s)
	defer os.RemoveAll(w.dir)
	if err != nil {
		return nil, false, fmt.Errorf("before it began: %w", err)
	}
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
	secrets, lerr := w.laws()
	if s.op.name == "rotation" && errors.Is(err, agent.ErrNotRotated) {
		lerr = errors.Join(lerr, w.notRotated())
	}
	if lerr != nil {
		return relay, done, fmt.Errorf("right after it, which said done: %v, %v: %w", done, err, lerr)
	}
	state, err := w.left(secrets)
	if err != nil {
		return relay, done, err
	}
	state = fmt.Sprintf("%s, %s\n%s", s.op.name, w.escrows, state)
	if !w.after.wanted(state) {
		return relay, done, nil
	}
	judge, hangUp, err := w.host(s, nil)
	if err != nil {
		return relay, done, err
	}
	defer hangUp()
	if s.op.name == "rotation" { // the next start settles what is open
		r, err := agent.Guard(context.Background(), judge, agent.GuardOptions{})
		if err != nil || r.Decision.Action != decide.Pass && r.Decision.Action != decide.Install {
			return relay, done, fmt.Errorf("the next start: %s, %s: %v", r.Decision.Action, r.Decision.Reason, err)
		}
	}
	err = errors.Join(s.op.check(judge, w.root), s.op.again(judge, w.root))
	if _, lerr := w.laws(); err != nil || lerr != nil {
		return relay, done, fmt.Errorf("afterwards: %w", errors.Join(err, lerr))
	}
	w.after.played(state)
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
// on top of no current shelf is a key that opens none of them, but the one of before. No lock
// is held by who has ended, and no session with the database.
func (w *wired) laws() (secrets map[string]rowstest.Secret, err error) {
	if err := quiet(w.root, func() int { return w.pool.Clients(w.db.Name) }); err != nil {
		return nil, err
	}
	for _, name := range []string{lock.Rotate, lock.Start, lock.Keyfile, lock.Ledger} {
		if held, err := lock.Held(w.path("state"), name); err != nil || held {
			return nil, fmt.Errorf("the lock %q is held: %v, %v", name, held, err)
		}
	}
	shelves, err := w.stored()
	if err != nil {
		return nil, err
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
				return nil, err
			}
			if k, err := key.New(b); err == nil {
				keys = append(keys, k)
			}
		}
	}
	secrets, err = open(w.root, rotationRows, keys...)
	if err != nil {
		return nil, fmt.Errorf("a key is lost (law 3): %w", err)
	}
	under := map[key.Fingerprint]bool{}
	for _, s := range secrets {
		under[s.Key] = true
	}
	if len(under) != 1 {
		return nil, fmt.Errorf("rows are under %d keys", len(under))
	}
	for _, shelf := range shelves {
		if n := len(shelf); n > 0 && !under[shelf[n-1].Fingerprint()] && !shelf[n-1].Equal(testKey("old")) {
			return nil, fmt.Errorf("key %s is the newest current copy, and opens nothing (law 4)", shelf[n-1].Fingerprint())
		}
	}
	return secrets, nil
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

// TestLeft: equal hosts are called equal, whichever of their keys' names comes first, and each thing
// that matters to what comes next makes a difference.
func TestLeft(t *testing.T) {
	old, other := testKey("old"), testKey("other")
	left := func(w *wired) string {
		secrets, err := w.root.Secrets(old, other)
		if err != nil {
			t.Fatal(err)
		}
		text, err := w.left(secrets)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	hosts := wire(t, 2)
	furnish := func() {
		for _, w := range hosts {
			os.RemoveAll(w.dir)
			if err := w.furnish(spoil{spoiled[2], toPostgres, nil}); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer func() {
		for _, w := range hosts {
			os.RemoveAll(w.dir)
		}
	}()
	furnish()
	w, first := hosts[0], left(hosts[0])
	same := func(what string, want bool) {
		t.Helper()
		if one, other := left(hosts[0]), left(hosts[1]); (one == other) != want {
			t.Errorf("%s:\n%s\n%s", what, one, other)
		}
	}
	same("two hosts that are the same", true)
	// Which of the two is the older and the newer is the other way round on the second host.
	older, newer := testKey("x"), testKey("y")
	for i, w := range hosts {
		h := hostIn(w.dir, time.Now)
		for n, k := range []key.Key{older, newer} {
			err := errors.Join(h.Keyfile.Keep(k, time.Now().Add(time.Duration(n)*time.Minute)), prove(&h, k),
				w.vault.Put(wiredMount, wiredPath+"-keys/"+string(k.Fingerprint()), map[string]any{"value": fmt.Sprint(n)}))
			if err != nil {
				t.Fatal(i, err)
			}
		}
		older, newer = newer, older
	}
	same("two hosts whose keys have each other's names", true)
	for _, w := range hosts {
		if err := prove(&agent.Host{Ledger: hostIn(w.dir, time.Now).Ledger}, older); err != nil {
			t.Fatal(err)
		}
	}
	same("two hosts of which one proves the older key again, and the other the newer", false)
	furnish()
	seen := map[string]string{first: "nothing"}
	for _, change := range []struct {
		what string
		do   func() error
	}{
		{"a mode", func() error { return os.Chmod(w.path("etc/secrets.key"), 0o440) }},
		{"a file", func() error { return os.WriteFile(w.path("etc/secrets.key.next"), other.UnsafeBytes(), 0o400) }},
		{"which key it has", func() error { return os.WriteFile(w.path("etc/secrets.key.next"), old.UnsafeBytes(), 0o400) }},
		{"an entry", func() error { return prove(&agent.Host{Ledger: hostIn(w.dir, time.Now).Ledger}, old) }},
		{"a copy in Vault", func() error {
			return w.vault.Put(wiredMount, wiredPath, map[string]any{"value": base64.StdEncoding.EncodeToString(other.UnsafeBytes())})
		}},
		{"a copy in Secret Manager", func() error {
			w.gcp.Put("projects/my-project/secrets/"+wiredSecret, other.UnsafeBytes())
			return nil
		}},
		{"the key of a row", func() error { return w.db.Upsert(other, "tenant", "SECRET_0", []byte("v")) }},
		{"what it says", func() error { return w.db.Upsert(other, "tenant", "SECRET_0", []byte("w")) }},
	} {
		if err := change.do(); err != nil {
			t.Fatal(err)
		}
		now := left(w)
		if seen[now] != "" {
			t.Errorf("%s makes no difference to %s", change.what, seen[now])
		}
		seen[now] = change.what
	}
	if furnish(); left(w) != first {
		t.Error("what was put back is not what it was")
	}
}

// spoiling counts how runs went.
type spoiling struct {
	played, happened, done int
}

// TestSpoiled lets something happen to a connection of a save, a restore and a rotation: to
// Postgres, Secret Manager and Vault, at bytes of either way. After each no key is lost, no
// wrong key is current, the rows are all old or all new, and the next attempt succeeds.
// KEYGUARD_SPOIL=1 takes every byte, for hours, and 10 every tenth; otherwise chance draws
// some, always the same ones for one KEYGUARD_SEED. Of them KEYGUARD_SPOIL_ONLY, a regular
// expression, plays those that a failure would call so: "rotation, Postgres, reset" or
// "^save, .* at byte 17 forth".
func TestSpoiled(t *testing.T) {
	if shm() != "" {
		t.Setenv("TMPDIR", shm())
	}
	every, _ := strconv.Atoi(os.Getenv("KEYGUARD_SPOIL"))
	seed, _ := strconv.ParseUint(os.Getenv("KEYGUARD_SEED"), 10, 64)
	only, err := regexp.Compile(os.Getenv("KEYGUARD_SPOIL_ONLY"))
	if err != nil {
		t.Fatal(err)
	}
	chance := rand.New(rand.NewPCG(seed, 0))

	n := 8
	if every > 0 {
		n = 24 // most of them wait
	}
	hosts := make(chan *wired, n)
	for _, w := range wire(t, n) {
		hosts <- w
	}

	var mu sync.Mutex // guards what came of it
	told := map[string]*spoiling{}
	var running sync.WaitGroup
	defer running.Wait()
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
	measured := 0
	for _, op := range spoiled {
		for _, l := range []line{toPostgres, toGCP, toVault, toVaultTLS} {
			measured++
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
				if s := (spoil{op, l, &f}); only.MatchString(s.String()) {
					running.Go(func() {
						if !t.Failed() {
							play(s)
						}
					})
				}
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
	after := (<-hosts).after
	next, err := after.sum()
	t.Logf("they left %d states, and %d times what comes after was not played again", len(after.states), next.spared)
	if runs := measured + all.played; !t.Failed() && (err != nil || next.runs != runs) {
		t.Errorf("of %d runs %d went on: %v", runs, next.runs, err)
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
