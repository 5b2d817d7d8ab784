// Package kept has the fakes keep their state over restarts: in one file of a directory,
// as JSON, unencrypted.
package kept

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Load reads a state. Without a directory, and where nothing was kept yet, it leaves it as
// it is.
func Load(dir, file string, state any) error {
	if dir == "" {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(dir, file))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, state)
	}
	if err != nil {
		return fmt.Errorf("cannot read the state: %w", err)
	}
	return nil
}

// Save writes a state, if there is a directory. A fake that cannot is of no use to anybody.
func Save(dir, file string, state any) {
	if dir == "" {
		return
	}
	b, err := json.MarshalIndent(state, "", " ")
	temp := filepath.Join(dir, file+".new")
	if err == nil {
		err = os.WriteFile(temp, b, 0o600)
	}
	if err == nil {
		err = os.Rename(temp, filepath.Join(dir, file))
	}
	if err != nil {
		panic(fmt.Sprintf("cannot keep the state: %v", err))
	}
}
