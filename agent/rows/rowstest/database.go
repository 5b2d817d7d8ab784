package rowstest

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows/testdata"
)

// Database is one database of a cluster. Its methods may be used concurrently.
type Database struct {
	Cluster *Cluster
	Name    string
}

// URL is what the daemon would connect with.
func (d *Database) URL() string { return d.Cluster.URL(d.Name) }

// Exec executes one statement with the rights of the daemon's role. An argument is a
// string, []byte or nil; the answer has the values of the rows as text. What belongs to a
// session, as a lock, is over when it returns: that is for Session.
func (d *Database) Exec(sql string, args ...any) (answer [][]string, err error) {
	err = d.session(func(s *Session) error {
		answer, err = s.Exec(sql, args...)
		return err
	})
	return answer, err
}

// session lends a session with the rights of the daemon's role.
func (d *Database) session(do func(*Session) error) error {
	return d.Cluster.as(Role, d.Name, func(conn *pgconn.PgConn) error { return do(&Session{conn}) })
}

// Copy makes another database of the same content, as loading a dump would. Nobody else
// may be connected to this one.
func (d *Database) Copy() (*Database, error) {
	d.Cluster.forget(d.Name)
	c := &Database{Cluster: d.Cluster, Name: "copy" + strconv.FormatInt(d.Cluster.databases.Add(1), 10)}
	return c, d.Cluster.copy(d.Name, c.Name)
}

// Admin executes statements, separated by semicolons, as the superuser.
func (d *Database) Admin(sql string) error { return d.Cluster.Admin(d.Name, sql) }

func execute(conn *pgconn.PgConn, sql string, args ...any) ([][]string, error) {
	params, formats := make([][]byte, len(args)), make([]int16, len(args))
	for i, a := range args {
		switch a := a.(type) {
		case nil:
		case string:
			params[i] = []byte(a)
		case []byte:
			params[i], formats[i] = a, 1 // in binary a bytea is its bytes
			if a == nil {
				params[i] = nil
			}
		default:
			return nil, fmt.Errorf("an argument of type %T", a)
		}
	}
	r := conn.ExecParams(context.Background(), sql, params, nil, formats, nil).Read()
	var rows [][]string
	for _, row := range r.Rows {
		var text []string
		for _, v := range row {
			text = append(text, string(v))
		}
		rows = append(rows, text)
	}
	return rows, r.Err
}

// Session is an open connection of another client.
type Session struct{ conn *pgconn.PgConn }

// Session connects as the daemon's role: for a test that needs somebody to hold a lock
// or a transaction.
func (d *Database) Session() (*Session, error) {
	conn, err := pgconn.Connect(context.Background(), d.Cluster.SocketURL(d.Name))
	if err != nil {
		return nil, err
	}
	return &Session{conn}, nil
}

// Superuser connects as one, whom nobody takes for a client of the daemon's: for a test
// that looks at the database often, as to connect is dear.
func (d *Database) Superuser() (*Session, error) {
	conn, err := d.Cluster.connect(d.Name)
	if err != nil {
		return nil, err
	}
	return &Session{conn}, nil
}

// Exec is as that of Database.
func (s *Session) Exec(sql string, args ...any) ([][]string, error) {
	return execute(s.conn, sql, args...)
}

// Close rolls back what is open.
func (s *Session) Close() error { return s.conn.Close(context.Background()) }

// The daemon's table as it is made today, and before three columns were added.
const (
	oldColumns = `id uuid primary key default gen_random_uuid(), username text not null, name text not null,
  nonce bytea not null, ciphertext bytea not null, version int not null default 1,
  created_at timestamptz not null default now(), updated_at timestamptz not null default now()`
	newColumns = `, wrapped_dek bytea, kek_id text, delivery text not null default 'env'`
	indexes    = `, unique (username, name)); create index on secrets (username)`
)

// CreateTable makes the table with the statements of today's daemon.
func (d *Database) CreateTable() error {
	return d.ddl("create table secrets (" + oldColumns + newColumns + indexes)
}

// CreateOldTable makes the table as old daemons did.
func (d *Database) CreateOldTable() error {
	return d.ddl("create table secrets (" + oldColumns + indexes)
}

func (d *Database) ddl(sql string) error {
	return d.session(func(s *Session) error {
		_, err := s.conn.Exec(context.Background(), sql).ReadAll()
		return err
	})
}

// Vector is one row that the daemon's own code wrote. Bytes are nil where SQL is NULL.
type Vector struct {
	Case, Username, Name string
	Nonce, Ciphertext    []byte
	WrappedDEK           []byte
	KEKID                *string
	OpensWith            string // "A", "B" or "none: …"
	Plaintext            []byte // nil where none opens it
}

// Vectors returns the rows of testdata and the two test keys.
func Vectors() (a, b key.Key, v []Vector) {
	read.Do(func() {
		if err := json.Unmarshal(testdata.Rows, &file); err != nil {
			panic(err) // it is compiled in
		}
	})
	for _, r := range file.Rows {
		v = append(v, Vector{
			Case: r.Case, Username: r.Username, Name: r.Name,
			Nonce: unhex(&r.Nonce), Ciphertext: unhex(&r.Ciphertext), WrappedDEK: unhex(r.WrappedDEK),
			KEKID: r.KEKID, OpensWith: r.OpensWith, Plaintext: unhex(r.Plaintext),
		})
	}
	return testKey(file.KeyA), testKey(file.KeyB), v
}

var (
	read sync.Once
	file struct {
		KeyA string `json:"key_a_hex"`
		KeyB string `json:"key_b_hex"`
		Rows []struct {
			Case       string  `json:"case"`
			Username   string  `json:"username"`
			Name       string  `json:"name"`
			Nonce      string  `json:"nonce_hex"`
			Ciphertext string  `json:"ciphertext_hex"`
			WrappedDEK *string `json:"wrapped_dek_hex"`
			KEKID      *string `json:"kek_id"`
			OpensWith  string  `json:"opens_with"`
			Plaintext  *string `json:"plaintext_hex"`
		}
	}
)

func unhex(s *string) []byte {
	if s == nil {
		return nil
	}
	b, err := hex.DecodeString(*s)
	if err != nil {
		panic(err)
	}
	return b
}

func testKey(s string) key.Key {
	k, err := key.New(unhex(&s))
	if err != nil {
		panic(err)
	}
	return k
}

// InsertVectors puts the vectors that keep says into the table; nil keeps all.
func (d *Database) InsertVectors(keep func(Vector) bool) error {
	_, _, all := Vectors()
	for _, v := range all {
		if keep != nil && !keep(v) {
			continue
		}
		if err := d.Insert(v); err != nil {
			return fmt.Errorf("%s: %w", v.Case, err)
		}
	}
	return nil
}

// Insert adds a row as it is.
func (d *Database) Insert(v Vector) error {
	_, err := d.Exec(`insert into secrets (username, name, nonce, ciphertext, wrapped_dek, kek_id) values ($1, $2, $3, $4, $5, $6)`,
		v.Username, v.Name, v.Nonce, v.Ciphertext, nullable(v.WrappedDEK), text(v.KEKID))
	return err
}

func nullable(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}

func text(s *string) any {
	if s == nil {
		return nil
	}
	return *s
}

// Upsert writes a secret as the daemon does without a KMS: a legacy row. It works on an
// old table too.
func (d *Database) Upsert(k key.Key, username, name string, value []byte) error {
	nonce, ciphertext := Seal(k, username, name, value)
	columns, err := d.Exec(`select 1 from pg_attribute where attrelid = 'secrets'::regclass and attname = 'wrapped_dek' and not attisdropped`)
	if err != nil {
		return err
	}
	if len(columns) == 0 {
		_, err = d.Exec(`insert into secrets (username, name, nonce, ciphertext) values ($1, $2, $3, $4)
			on conflict (username, name) do update set nonce = excluded.nonce, ciphertext = excluded.ciphertext,
			version = secrets.version + 1, updated_at = now()`, username, name, nonce, ciphertext)
		return err
	}
	return d.upsert(username, name, nonce, ciphertext, nil, "")
}

// UpsertEnvelope writes a secret as the daemon does with its in-process KMS.
func (d *Database) UpsertEnvelope(k key.Key, username, name string, value []byte) error {
	dek := key.Generate()
	nonce, ciphertext := Seal(dek, username, name, value)
	wrapNonce, wrapped := seal(k, []byte("inproc:master"), dek.UnsafeBytes())
	return d.upsert(username, name, nonce, ciphertext, append(wrapNonce, wrapped...), "inproc:master")
}

func (d *Database) upsert(username, name string, nonce, ciphertext, wrapped []byte, kekID string) error {
	_, err := d.Exec(`insert into secrets (username, name, nonce, ciphertext, wrapped_dek, kek_id, delivery)
		values ($1, $2, $3, $4, $5, $6, 'env') on conflict (username, name) do update set
		nonce = excluded.nonce, ciphertext = excluded.ciphertext, wrapped_dek = excluded.wrapped_dek,
		kek_id = excluded.kek_id, delivery = excluded.delivery, version = secrets.version + 1, updated_at = now()`,
		username, name, nonce, ciphertext, nullable(wrapped), kekID)
	return err
}

// Seal encrypts a value as a legacy row is.
func Seal(k key.Key, username, name string, value []byte) (nonce, ciphertext []byte) {
	return seal(k, bytes.Join([][]byte{[]byte(username), []byte(name)}, []byte{0}), value)
}

func seal(k key.Key, additional, value []byte) (nonce, ciphertext []byte) {
	block, err := aes.NewCipher(k.UnsafeBytes())
	if err != nil {
		panic(err) // the zero Key
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	nonce = make([]byte, gcm.NonceSize())
	rand.Read(nonce) //nolint:errcheck // never fails
	return nonce, gcm.Seal(nil, nonce, value, additional)
}

// Fill adds rows quickly: n legacy rows under k with values of size bytes, spread over
// tenants tenant0, tenant1 …, the first of them the oldest and a microsecond apart.
// Names go on from start.
func (d *Database) Fill(k key.Key, start, n, tenants, size int) error {
	return d.session(func(s *Session) error { return s.fill(k, start, n, tenants, size) })
}

func (s *Session) fill(k key.Key, start, n, tenants, size int) error {
	value := bytes.Repeat([]byte("v"), size)
	var buf []byte
	for done := 0; done < n; {
		// Binary, since a text is in hex, which is dear under the race detector. A header
		// without flags, and an end: COPY, "Binary Format".
		buf = append(buf[:0], "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"...)
		for ; done < n && len(buf) < 8<<20; done++ {
			i := start + done
			username, name := fmt.Sprintf("tenant%d", i%tenants), fmt.Sprintf("K%d", i)
			nonce, ciphertext := Seal(k, username, name, value)
			updated := binary.BigEndian.AppendUint64(nil, uint64(oldest+int64(i)%60_000_000))
			fields := [][]byte{[]byte(username), []byte(name), nonce, ciphertext, nil, updated}
			buf = binary.BigEndian.AppendUint16(buf, uint16(len(fields)))
			for _, field := range fields {
				buf = append(binary.BigEndian.AppendUint32(buf, uint32(len(field))), field...)
			}
		}
		buf = append(buf, 0xff, 0xff)
		_, err := s.conn.CopyFrom(context.Background(), bytes.NewReader(buf),
			"copy secrets (username, name, nonce, ciphertext, kek_id, updated_at) from stdin (format binary)")
		if err != nil {
			return err
		}
	}
	_, err := s.Exec("analyze secrets")
	return err
}

// oldest is the beginning of 2026 as the server counts, in microseconds since that of 2000.
var oldest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Microseconds()

// Dump is the database as pg_dump prints it, with further arguments.
func (d *Database) Dump(args ...string) (string, error) {
	c := d.Cluster.command("pg_dump", append(args, "--host", d.Cluster.Dir, "--port", strconv.Itoa(d.Cluster.Port), "--username", "postgres", d.Name)...)
	out, err := c.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("pg_dump: %w\n%s", err, exit.Stderr)
	}
	// A random word against scripts in the data, different each time.
	return restrict.ReplaceAllString(string(out), ""), err
}

var restrict = regexp.MustCompile(`(?m)^\\(un)?restrict .*$`)

// Activity lists sessions other than our own in the database, as "application state",
// which is empty when nobody is connected.
func (d *Database) Activity() ([]string, error) {
	var list []string
	err := d.Cluster.as(superuser, "postgres", func(conn *pgconn.PgConn) error {
		rows, err := execute(conn, `select application_name || ' ' || state from pg_stat_activity
			where datname = $1 and application_name <> $2 order by 1`, d.Name, asker)
		for _, r := range rows {
			list = append(list, r...)
		}
		return err
	})
	return list, err
}

// ErrNoRow says that a secret is not in the table.
var ErrNoRow = errors.New("no such secret")

// Read opens a legacy or in-process row as the daemon does.
func (d *Database) Read(k key.Key, username, name string) ([]byte, error) {
	// Through JSON, as an old table has no such columns.
	rows, err := d.Exec(`select encode(nonce, 'hex'), encode(ciphertext, 'hex'),
		coalesce(substr(to_jsonb(s) ->> 'wrapped_dek', 3), ''), coalesce(to_jsonb(s) ->> 'kek_id', '')
		from secrets s where username = $1 and name = $2`, username, name)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, ErrNoRow
	}
	return openRow(k, username, name, unhex(&rows[0][0]), unhex(&rows[0][1]), unhex(&rows[0][2]), rows[0][3])
}

func unseal(k key.Key, additional, nonce, ciphertext []byte) ([]byte, error) {
	block, err := aes.NewCipher(k.UnsafeBytes())
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	if len(nonce) != gcm.NonceSize() {
		return nil, fmt.Errorf("a nonce of %d bytes", len(nonce)) // Open would panic
	}
	return gcm.Open(nil, nonce, ciphertext, additional)
}
