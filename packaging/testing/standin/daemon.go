package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	connectTries = 5
	connectPause = 3 * time.Second
)

// serve is the life of the daemon. Whatever goes wrong with the key or with Postgres,
// it stays up with secrets disabled.
func (h host) serve(ctx context.Context, hosting bool) error {
	if err := h.selfCheck(); err != nil {
		log.Printf("Warning: self-check: %v", err)
	}
	d := &daemon{}
	stopped, err := d.listen(ctx, h.socket)
	if err != nil {
		return err
	}
	if hosting {
		d.start(ctx, h)
	}
	<-ctx.Done()
	return <-stopped
}

// selfCheck tries, as the daemon does at every start, whether the directory of the
// key can be written.
func (h host) selfCheck() error {
	f, err := os.CreateTemp(filepath.Dir(h.keyfile), ".containarium-doctor-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// daemon answers for a store, once there is one.
type daemon struct {
	mu    sync.Mutex
	store *store
}

// start brings up the secrets store, in the daemon's order: incus, the core
// containers, Postgres, the key, the schema.
func (d *daemon) start(ctx context.Context, h host) {
	if err := h.coreContainers(ctx); err != nil {
		log.Printf("Warning: Failed to connect to incus: %v. App hosting disabled.", err)
		return
	}
	for h.readAfter != "" { // bringing up the core containers
		if _, err := os.Stat(h.readAfter); err == nil {
			break
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
	db, err := h.connect(ctx)
	if err != nil {
		log.Printf("Warning: Failed to connect to Postgres for secrets store: %v", err)
		return
	}
	key, minted, err := loadOrMint(h.keyfile)
	if err != nil {
		log.Printf("Warning: Failed to load secrets master key: %v. Secrets disabled.", err)
		return
	}
	if minted {
		log.Printf("[secrets] NEW MASTER KEY generated at %s — back this up off-host, losing it means every stored secret is unrecoverable ciphertext", h.keyfile)
	}
	keys, refused := h.keyring(key)
	if refused != "" {
		log.Print(refused)
		return
	}
	s, err := openStore(ctx, db, keys)
	if err != nil {
		log.Printf("Warning: Failed to init secrets store: %v. Secrets disabled.", err)
		return
	}
	d.mu.Lock()
	d.store = s
	d.mu.Unlock()
	context.AfterFunc(ctx, s.db.Close)
	log.Printf("Secrets store ready (file-keyed AES-256-GCM, envelope: %s)%s", keys.describe(), keys.rejects())
}

// keyring is what the daemon seals with. The key was read, so whatever becomes of it here
// the key file is the one it has seen. refused is the line that it logs of none.
func (h host) keyring(key []byte) (_ keyring, refused string) {
	if h.getenv("STANDIN_NO_CIPHER") != "" {
		return keyring{}, "Failed to construct secrets cipher: crypto/aes: invalid key size. Secrets disabled."
	}
	backend := cmp.Or(h.getenv("CONTAINARIUM_KMS_BACKEND"), "none")
	strict := slices.Contains([]string{"1", "true", "yes", "on"}, strings.ToLower(h.getenv("CONTAINARIUM_REQUIRE_ENVELOPE")))
	if backend != "none" && kekIDs[backend] == "" {
		log.Printf("Warning: KMS backend config error: unknown backend %q. Secrets store falling back to legacy mode.", backend)
		backend = "none"
	}
	if strict && backend == "none" {
		return keyring{}, "FATAL: CONTAINARIUM_REQUIRE_ENVELOPE=true but no KMS backend is configured. Refusing legacy rows. Secrets disabled."
	}
	return keyring{master: key, backend: backend, strict: strict}, ""
}

// connect tries five times, three seconds each.
//
// pgxpool takes parameters that pgx.Connect refuses (pool_max_conns), and both take what
// the environment says (PGPASSWORD).
func (h host) connect(ctx context.Context) (*pgxpool.Pool, error) {
	var last error
	for try := range connectTries {
		if try > 0 {
			select {
			case <-time.After(connectPause):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		var url string
		if url, last = h.postgresURL(ctx); last != nil {
			continue
		}
		var db *pgxpool.Pool
		if db, last = pgxpool.New(ctx, url); last != nil {
			continue
		}
		attempt, cancel := context.WithTimeout(ctx, connectPause)
		last = db.Ping(attempt)
		cancel()
		if last == nil {
			return db, nil
		}
		db.Close()
	}
	return nil, last
}

// postgresURL finds the database in the daemon's order.
func (h host) postgresURL(ctx context.Context) (string, error) {
	if h.postgres != "" {
		return h.postgres, nil
	}
	if name := h.getenv("CONTAINARIUM_POSTGRES_URL_FILE"); name != "" {
		fi, err := os.Stat(name)
		if err != nil {
			return "", err
		}
		if fi.Mode().Perm()&0o077 != 0 {
			return "", fmt.Errorf("%s is readable by group or others", name)
		}
		b, err := os.ReadFile(name)
		return strings.TrimSpace(string(b)), err
	}
	if url := h.getenv("CONTAINARIUM_POSTGRES_URL"); url != "" {
		return url, nil
	}
	address, err := h.postgresContainer(ctx)
	if err != nil {
		return "", err
	}
	password := "containarium"
	if p := h.getenv("CONTAINARIUM_POSTGRES_PASSWORD"); p != "" {
		password = p
	}
	if name := h.getenv("CONTAINARIUM_POSTGRES_PASSWORD_FILE"); name != "" {
		b, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		password = strings.TrimSpace(string(b))
	}
	return fmt.Sprintf("postgres://containarium:%s@%s/containarium?sslmode=disable", password, net.JoinHostPort(address, "5432")), nil
}

// request is what the command line asks the running daemon.
type request struct {
	Do       string `json:"do"` // set, get or list
	Username string `json:"username,omitempty"`
	Name     string `json:"name,omitempty"`
	Value    string `json:"value,omitempty"`
}

// listen answers requests until ctx ends; the channel then yields how that went.
func (d *daemon) listen(ctx context.Context, socket string) (<-chan error, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	srv := &http.Server{Handler: http.HandlerFunc(d.answer), ReadHeaderTimeout: time.Second}
	stopped := make(chan error, 1)
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			stopped <- err
			return
		}
		stopped <- nil
	}()
	context.AfterFunc(ctx, func() { srv.Close() }) //nolint:errcheck // the process ends
	return stopped, nil
}

func (d *daemon) answer(w http.ResponseWriter, r *http.Request) {
	var q request
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	d.mu.Lock()
	s := d.store
	d.mu.Unlock()
	if s == nil {
		http.Error(w, "secrets are disabled", http.StatusServiceUnavailable)
		return
	}
	var out strings.Builder
	var err error
	switch q.Do {
	case "set":
		if err = s.set(r.Context(), q.Username, q.Name, q.Value); err == nil {
			log.Printf("[secrets] stored %s of tenant %s", q.Name, q.Username) // whatever the tenant is called
		}
	case "get":
		err = s.print(r.Context(), &out, q)
	case "list":
		var rows []row
		rows, err = s.read(r.Context(), "")
		for _, x := range rows {
			fmt.Fprintf(&out, "%s/%s\n", x.username, x.name)
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	io.WriteString(w, out.String()) //nolint:errcheck // the client is gone
}

func (s *store) print(ctx context.Context, out io.Writer, q request) error {
	values, err := s.tenant(ctx, q.Username)
	if err != nil {
		return err
	}
	if q.Name != "" {
		v, ok := values[q.Name]
		if !ok {
			return fmt.Errorf("secrets: not found: %s/%s", q.Username, q.Name)
		}
		_, err := io.WriteString(out, v)
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(out, "%s=%s\n", name, values[name])
	}
	return nil
}

// ask hands q to the running daemon.
func (h host) ask(ctx context.Context, q request, out io.Writer) error {
	body, err := json.Marshal(q)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://daemon/", strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	resp, err := overUnix(h.socket).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(answer)))
	}
	_, err = out.Write(answer)
	return err
}

func overUnix(socket string) *http.Client {
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
}
