package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

const keySize = 32

var errKeySize = errors.New("secrets: master key must be exactly 32 bytes")

// loadOrMint reads the master key as the daemon does: through symlinks, refusing any
// group or other permission bit and any other size, looking neither at the owner nor
// at the content. A missing one is made in place, without O_EXCL, rename or fsync: a
// crash in between leaves 0 to 31 bytes. minted tells.
func loadOrMint(path string) (key []byte, minted bool, err error) {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		key = make([]byte, keySize)
		rand.Read(key) //nolint:errcheck // never fails
		if err := os.WriteFile(path, key, 0o400); err != nil {
			return nil, false, fmt.Errorf("write master key %s: %w", path, err)
		}
		return key, true, nil
	case err != nil:
		return nil, false, fmt.Errorf("stat master key %s: %w", path, err)
	}
	if bits := fi.Mode().Perm(); bits&0o077 != 0 {
		return nil, false, fmt.Errorf("master key %s has insecure permissions %#o (want 0400; group and others must have none)", path, bits)
	}
	key, err = os.ReadFile(path)
	if err != nil {
		return nil, false, fmt.Errorf("read master key %s: %w", path, err)
	}
	if len(key) != keySize {
		return nil, false, fmt.Errorf("%w (file %s has %d bytes)", errKeySize, path, len(key))
	}
	return key, false, nil
}
