package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

var (
	errName  = errors.New("secrets: name must match ^[A-Z_][A-Z0-9_]*$ and be at most 128 chars")
	errValue = errors.New("secrets: value exceeds 64 KiB limit")
	nameForm = regexp.MustCompile(`^[A-Z_][A-Z0-9_]{0,127}$`)
)

const maxValue = 64 << 10

// schema is what every start runs. The ALTERs take ACCESS EXCLUSIVE even where they
// find nothing to do, and nothing limits how long they wait for it.
const schema = `
CREATE TABLE IF NOT EXISTS secrets (
	id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	username text NOT NULL,
	name text NOT NULL,
	nonce bytea NOT NULL,
	ciphertext bytea NOT NULL,
	version int NOT NULL DEFAULT 1,
	created_at timestamptz NOT NULL DEFAULT now(),
	updated_at timestamptz NOT NULL DEFAULT now(),
	UNIQUE (username, name)
);
ALTER TABLE secrets ADD COLUMN IF NOT EXISTS wrapped_dek bytea;
ALTER TABLE secrets ADD COLUMN IF NOT EXISTS kek_id text;
ALTER TABLE secrets ADD COLUMN IF NOT EXISTS delivery text NOT NULL DEFAULT 'env';
CREATE INDEX IF NOT EXISTS idx_secrets_username ON secrets (username);`

const upsert = `
INSERT INTO secrets (username, name, nonce, ciphertext, wrapped_dek, kek_id, delivery)
VALUES ($1, $2, $3, $4, $5, $6, 'env')
ON CONFLICT (username, name) DO UPDATE SET
	nonce = excluded.nonce, ciphertext = excluded.ciphertext,
	wrapped_dek = excluded.wrapped_dek, kek_id = excluded.kek_id, delivery = excluded.delivery,
	version = secrets.version + 1, updated_at = now()`

// store is the table with the keys that were in force when it was opened.
type store struct {
	keys keyring
	db   *pgxpool.Pool
}

func openStore(ctx context.Context, db *pgxpool.Pool, keys keyring) (*store, error) {
	if _, err := db.Exec(ctx, schema); err != nil {
		return nil, fmt.Errorf("init schema: %w", err)
	}
	return &store{keys: keys, db: db}, nil
}

func (s *store) set(ctx context.Context, username, name, value string) error {
	if !nameForm.MatchString(name) {
		return errName
	}
	if len(value) > maxValue {
		return errValue
	}
	x, err := s.keys.seal(username, name, []byte(value))
	if err != nil {
		return err
	}
	if _, err := s.db.Exec(ctx, upsert, username, name, x.nonce, x.ciphertext, x.wrapped, x.kekID); err != nil {
		return fmt.Errorf("upsert secret: %w", err)
	}
	return nil
}

// tenant opens every secret of one tenant: all or nothing.
func (s *store) tenant(ctx context.Context, username string) (map[string]string, error) {
	rows, err := s.read(ctx, `WHERE username = $1`, username)
	if err != nil {
		return nil, err
	}
	values := make(map[string]string, len(rows))
	for _, r := range rows {
		v, err := s.keys.open(r.username, r.name, r.sealed)
		if err != nil {
			return nil, fmt.Errorf("decrypt %s/%s: %w", r.username, r.name, err)
		}
		values[r.name] = string(v)
	}
	return values, nil
}

type row struct {
	username, name string
	sealed
}

func (s *store) read(ctx context.Context, where string, args ...any) ([]row, error) {
	found, err := s.db.Query(ctx, `SELECT username, name, nonce, ciphertext, wrapped_dek, coalesce(kek_id, '')
		FROM secrets `+where+` ORDER BY username, name`, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(found, func(r pgx.CollectableRow) (row, error) {
		var x row
		err := r.Scan(&x.username, &x.name, &x.nonce, &x.ciphertext, &x.wrapped, &x.kekID)
		return x, err
	})
}
