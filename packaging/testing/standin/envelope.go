package main

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// errNoBackend says that there is no key-encryption key to migrate to.
var errNoBackend = errors.New("CONTAINARIUM_KMS_BACKEND names no backend to migrate to")

// offline opens the table with the key file, as the daemon's own command line does:
// where the file is missing it mints one, and does not say so.
func (h host) offline(ctx context.Context) (*store, error) {
	url, err := h.postgresURL(ctx)
	if err != nil {
		return nil, err
	}
	key, _, err := loadOrMint(h.keyfile)
	if err != nil {
		return nil, err
	}
	keys, refused := h.keyring(key)
	if refused != "" {
		return nil, errors.New(refused)
	}
	h.postgres = url
	db, err := h.connect(ctx)
	if err != nil {
		return nil, err
	}
	return openStore(ctx, db, keys)
}

// coverage counts legacy and envelope rows.
func (h host) coverage(ctx context.Context, out io.Writer) error {
	s, err := h.offline(ctx)
	if err != nil {
		return err
	}
	defer s.db.Close()
	rows, err := s.read(ctx, "")
	if err != nil {
		return err
	}
	var legacy, envelope int
	for _, r := range rows {
		if len(r.wrapped) == 0 {
			legacy++
		} else {
			envelope++
		}
	}
	_, err = fmt.Fprintf(out, "legacy=%d envelope=%d\n", legacy, envelope)
	return err
}

// migrate seals every legacy row anew under the backend, row by row.
func (h host) migrate(ctx context.Context, out io.Writer) error {
	s, err := h.offline(ctx)
	if err != nil {
		return err
	}
	defer s.db.Close()
	if s.keys.backend == "none" {
		return errNoBackend
	}
	rows, err := s.read(ctx, "WHERE wrapped_dek IS NULL OR wrapped_dek = ''")
	if err != nil {
		return err
	}
	s.keys.strict = false
	for _, r := range rows {
		v, err := s.keys.open(r.username, r.name, r.sealed)
		if err != nil {
			return fmt.Errorf("decrypt %s/%s: %w", r.username, r.name, err)
		}
		x, err := s.keys.seal(r.username, r.name, v)
		if err != nil {
			return err
		}
		if _, err := s.db.Exec(ctx, `UPDATE secrets SET nonce = $3, ciphertext = $4, wrapped_dek = $5, kek_id = $6
			WHERE username = $1 AND name = $2`, r.username, r.name, x.nonce, x.ciphertext, x.wrapped, x.kekID); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(out, "migrated=%d\n", len(rows))
	return err
}
