package config

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
)

// Replace writes data over the configuration at path, durably, and keeps the file's
// mode and owner, and a symlink to it.
func Replace(path string, data []byte) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("cannot replace the configuration: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("cannot replace the configuration: %w", err)
	}
	attr := durable.Attr{Mode: info.Mode().Perm(), UID: -1, GID: -1}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		attr.UID, attr.GID = int(st.Uid), int(st.Gid)
	}
	if err := durable.WriteFile(path, data, attr); err != nil {
		return fmt.Errorf("cannot replace the configuration: %w", err)
	}
	return nil
}

// Create makes the configuration at path where there is none, for root alone.
func Create(path string, data []byte) error {
	if err := durable.CreateNew(path, data, durable.Attr{Mode: 0o600, UID: -1, GID: -1}); err != nil {
		return fmt.Errorf("cannot write the configuration: %w", err)
	}
	return nil
}

// WriteSecret makes a file with a credential that a configuration names, closed to
// others. What is there already stays, and the error is fs.ErrExist.
func WriteSecret(path string, data []byte) error {
	if err := durable.CreateNew(path, data, durable.Attr{Mode: 0o600, UID: -1, GID: -1}); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}
