package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

const nonceSize = 12

var errAuthentication = errors.New("secrets: ciphertext authentication failed (tampered or wrong key?)")

// sealed is the encrypted part of a row.
type sealed struct {
	nonce, ciphertext []byte
	wrapped           []byte // nil: a legacy row
	kekID             string // "" in a legacy row, as today's writer leaves it
}

// keyring seals and opens rows: with the master key, or through the key-encryption
// key of a backend.
type keyring struct {
	master  []byte
	backend string // CONTAINARIUM_KMS_BACKEND: none, inproc, vault, gcp or aws
	strict  bool   // CONTAINARIUM_REQUIRE_ENVELOPE: a legacy row is not read
}

// kekIDs names the key-encryption key of each backend. Those of vault, gcp and aws
// stand for keys outside the host: here they are made from their own names.
var kekIDs = map[string]string{
	"inproc": "inproc:master",
	"vault":  "vault:https://vault.example:8200|transit|containarium",
	"gcp":    "gcp:projects/example/locations/global/keyRings/containarium/cryptoKeys/tenants",
	"aws":    "aws:eu-central-1|00000000-0000-4000-8000-000000000000",
}

// describe is how the daemon names its backend in the line "Secrets store ready".
func (k keyring) describe() string {
	switch k.backend {
	case "inproc":
		return "inproc (master-key envelope, dev/test)"
	case "vault":
		return "vault transit (https://vault.example:8200)"
	case "gcp":
		return "gcp cloud kms (" + strings.TrimPrefix(kekIDs["gcp"], "gcp:") + ")"
	case "aws":
		return "aws kms (eu-central-1)"
	}
	return "disabled (CONTAINARIUM_KMS_BACKEND=none)"
}

// rejects ends the line "Secrets store ready" of a daemon that reads no legacy row.
func (k keyring) rejects() string {
	if k.strict {
		return " [legacy-rejected]"
	}
	return ""
}

// additional binds a ciphertext to its row: username, a zero byte, name.
func additional(username, name string) []byte {
	return bytes.Join([][]byte{[]byte(username), []byte(name)}, []byte{0})
}

func (k keyring) seal(username, name string, value []byte) (sealed, error) {
	if k.backend == "none" {
		nonce, ciphertext, err := lock(k.master, value, additional(username, name))
		return sealed{nonce: nonce, ciphertext: ciphertext}, err
	}
	dek := make([]byte, keySize)
	rand.Read(dek) //nolint:errcheck // never fails
	nonce, ciphertext, err := lock(dek, value, additional(username, name))
	if err != nil {
		return sealed{}, err
	}
	wrapped, err := k.wrap(dek)
	return sealed{nonce, ciphertext, wrapped, kekIDs[k.backend]}, err
}

func (k keyring) open(username, name string, s sealed) ([]byte, error) {
	if len(s.wrapped) == 0 {
		if k.strict {
			return nil, fmt.Errorf("secret %s/%s is legacy-encrypted and CONTAINARIUM_REQUIRE_ENVELOPE is set", username, name)
		}
		return unlock(k.master, s.nonce, s.ciphertext, additional(username, name))
	}
	dek, err := k.unwrap(s.wrapped, s.kekID)
	if err != nil {
		return nil, err
	}
	return unlock(dek, s.nonce, s.ciphertext, additional(username, name))
}

func (k keyring) wrap(dek []byte) ([]byte, error) {
	id := kekIDs[k.backend]
	kek, aad := k.kek(id)
	nonce, ciphertext, err := lock(kek, dek, aad)
	if err != nil {
		return nil, err
	}
	blob := append(nonce, ciphertext...)
	switch k.backend {
	case "inproc":
		return blob, nil
	case "vault":
		return []byte("vault:v1:" + base64.StdEncoding.EncodeToString(blob)), nil
	}
	return []byte(base64.StdEncoding.EncodeToString(blob)), nil
}

func (k keyring) unwrap(wrapped []byte, id string) ([]byte, error) {
	blob := wrapped
	if id != kekIDs["inproc"] {
		var err error
		blob, err = base64.StdEncoding.DecodeString(strings.TrimPrefix(string(wrapped), "vault:v1:"))
		if err != nil {
			return nil, fmt.Errorf("secrets: unwrap under %s: %w", id, err)
		}
	}
	if len(blob) < nonceSize {
		return nil, errAuthentication
	}
	kek, aad := k.kek(id)
	return unlock(kek, blob[:nonceSize], blob[nonceSize:], aad)
}

// kek is the key-encryption key of that name, and what its wrappings are bound to.
func (k keyring) kek(id string) (key, aad []byte) {
	if id == kekIDs["inproc"] {
		return k.master, []byte(id)
	}
	sum := sha256.Sum256([]byte("stand-in for the key of " + id))
	return sum[:], nil
}

func lock(key, value, aad []byte) (nonce, ciphertext []byte, err error) {
	gcm, err := newGCM(key)
	if err != nil {
		return nil, nil, err
	}
	nonce = make([]byte, nonceSize)
	rand.Read(nonce) //nolint:errcheck // never fails
	return nonce, gcm.Seal(nil, nonce, value, aad), nil
}

func unlock(key, nonce, ciphertext, aad []byte) ([]byte, error) {
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	if len(nonce) != nonceSize {
		return nil, errAuthentication
	}
	value, err := gcm.Open(nil, nonce, ciphertext, aad)
	if err != nil {
		return nil, errAuthentication
	}
	return value, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
