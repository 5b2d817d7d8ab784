// Package kept has the fakes keep their state over restarts, in one file of a directory, as
// JSON, unencrypted; and brings it back to what it was.
package kept

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// Keeper keeps the state S of one fake.
type Keeper[S any] struct {
	path     string       // "" where nothing outlives the fake
	requests sync.RWMutex // each has it while it lasts

	mu    *sync.Mutex // guards what follows, with more of the fake's own
	state *S
}

// New reads what is kept. Without a directory, and where nothing was kept yet, the state stays
// as it is. mu guards the state.
func New[S any](dir, file string, mu *sync.Mutex, state *S) (*Keeper[S], error) {
	k := &Keeper[S]{mu: mu, state: state}
	if dir == "" {
		return k, nil
	}
	k.path = filepath.Join(dir, file)
	b, err := os.ReadFile(k.path)
	if errors.Is(err, os.ErrNotExist) {
		return k, nil
	}
	if err == nil {
		err = json.Unmarshal(b, state)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the state: %w", err)
	}
	return k, nil
}

// Save writes the state, for whoever holds its lock. A fake that cannot is of no use to anybody.
func (k *Keeper[S]) Save() {
	if k.path == "" {
		return
	}
	b, err := json.MarshalIndent(k.state, "", " ")
	temp := k.path + ".new"
	if err == nil {
		err = os.WriteFile(temp, b, 0o600)
	}
	if err == nil {
		err = os.Rename(temp, k.path)
	}
	if err != nil {
		panic(fmt.Sprintf("cannot keep the state: %v", err))
	}
}

// Begin is called by each request, which calls end when it will change nothing more.
func (k *Keeper[S]) Begin() (end func()) {
	k.requests.RLock()
	return k.requests.RUnlock
}

// Snapshot is all that is kept.
func (k *Keeper[S]) Snapshot() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return json.Marshal(k.state)
}

// Restore has the fake keep what it kept at a Snapshot, and nothing else: also nothing of what
// a request that has begun is about to write, whose end it waits for.
func (k *Keeper[S]) Restore(snapshot []byte) error {
	var old S
	if err := json.Unmarshal(snapshot, &old); err != nil {
		return err
	}
	k.requests.Lock()
	defer k.requests.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	*k.state = old
	k.Save()
	return nil
}
