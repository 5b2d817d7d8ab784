package rowstest

import (
	"fmt"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// Secret is a row as an outsider reads it: what it says, which key it says it under, and
// all of it that has nothing to do with keys.
type Secret struct {
	Key    key.Fingerprint // "" where none of the keys opens it
	Value  string          // what it says, if a key opens it; else its sealed columns
	Others string          // every column but nonce, ciphertext and wrapped_dek, and of the latter whether it is absent or empty
}

// Secrets opens the whole table with the keys, as the daemon would. The rows are named
// by tenant and name, with a zero byte between. It works on an old table too.
func (d *Database) Secrets(keys ...key.Key) (all map[string]Secret, err error) {
	err = d.session(func(s *Session) error {
		all, err = s.Secrets(keys...)
		return err
	})
	return all, err
}

// Secrets is as that of Database.
func (s *Session) Secrets(keys ...key.Key) (map[string]Secret, error) {
	// Through JSON, as an old table lacks columns; hex, as pgconn answers in text here.
	table, err := s.Exec(`select username, name, encode(nonce, 'hex'), encode(ciphertext, 'hex'),
		coalesce(substr(j ->> 'wrapped_dek', 3), ''), coalesce(j ->> 'kek_id', ''), (j - 'nonce' - 'ciphertext' - 'wrapped_dek')::text ||
		case when j ->> 'wrapped_dek' is null then ' absent' when j ->> 'wrapped_dek' = '\x' then ' empty' else ' wrapped' end
		from secrets s cross join lateral to_jsonb(s) j`)
	if err != nil {
		return nil, err
	}
	all := make(map[string]Secret, len(table))
	for _, r := range table {
		s := Secret{Value: fmt.Sprintf("sealed %s %s %s", r[2], r[3], r[4]), Others: r[6]}
		nonce, ciphertext, wrapped := unhex(&r[2]), unhex(&r[3]), unhex(&r[4])
		for _, k := range keys {
			value, err := openRow(k, r[0], r[1], nonce, ciphertext, wrapped, r[5])
			if err == nil {
				s.Key, s.Value = k.Fingerprint(), string(value)
				break
			}
		}
		all[r[0]+"\x00"+r[1]] = s
	}
	return all, nil
}

// openRow opens one row of either kind that depends on the keyfile.
func openRow(k key.Key, username, name string, nonce, ciphertext, wrapped []byte, kekID string) ([]byte, error) {
	if len(wrapped) > 0 {
		if kekID != "inproc:master" {
			return nil, fmt.Errorf("the row is under %s", kekID)
		}
		dek, err := unseal(k, []byte("inproc:master"), wrapped[:12], wrapped[12:])
		if err != nil {
			return nil, err
		}
		if k, err = key.New(dek); err != nil {
			return nil, err
		}
	}
	return unseal(k, []byte(username+"\x00"+name), nonce, ciphertext)
}
