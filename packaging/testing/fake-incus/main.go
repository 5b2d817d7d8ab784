// Command fake-incus answers on a unix socket as much of incus' REST API as the daemon
// and keyguard ask, of a state that lies in a file and is read anew for each request:
//
//	{"instances": [{"name": "containarium-core-postgres", "status": "Running", "address": "127.0.0.1",
//	  "config": {"user.containarium.role": "core-postgres"}}], "volumes": ["containarium-core-postgres"]}
//
// A container that is made or started runs the command --run, which in a guest starts
// the guest's own Postgres.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

func main() {
	socket := flag.String("socket", "/var/lib/incus/unix.socket", "where to listen")
	state := flag.String("state", "/var/lib/incus/fake.json", "the state; a missing file is a fresh incus")
	run := flag.String("run", "", "shell command that a started container runs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := serve(ctx, *socket, &incus{path: *state, run: *run})
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fake-incus:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, socket string, i *incus) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: i.handler(), ReadHeaderTimeout: time.Second}
	context.AfterFunc(ctx, func() { srv.Close() }) //nolint:errcheck // the process ends
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// incus is the state file and what it means to start a container.
type incus struct {
	mu   sync.Mutex // guards the file
	path string
	run  string
}

type state struct {
	Instances []*instance `json:"instances"`
	Volumes   []string    `json:"volumes"`
}

type instance struct {
	Name    string            `json:"name"`
	Project string            `json:"project"`
	Status  string            `json:"status"`
	Config  map[string]string `json:"config"`
	Address string            `json:"address"`
}

func (i *incus) load() (state, error) {
	var s state
	b, err := os.ReadFile(i.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	return s, err
}

func (i *incus) save(s state) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	half := filepath.Join(filepath.Dir(i.path), ".fake.json")
	return errors.Join(os.WriteFile(half, b, 0o600), os.Rename(half, i.path))
}

func (i *incus) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(s *state, r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			i.mu.Lock()
			defer i.mu.Unlock()
			s, err := i.load()
			var metadata any
			if err == nil {
				metadata, err = f(&s, r)
			}
			answer := map[string]any{"type": "sync", "status": "Success", "status_code": http.StatusOK, "metadata": metadata}
			if err != nil {
				w.WriteHeader(http.StatusNotFound)
				answer = map[string]any{"type": "error", "error": err.Error(), "error_code": http.StatusNotFound}
			}
			json.NewEncoder(w).Encode(answer) //nolint:errcheck // the client is gone
		})
	}
	handle("GET /1.0", func(*state, *http.Request) (any, error) { return map[string]string{"api_version": "1.0"}, nil })
	handle("GET /1.0/instances", func(s *state, _ *http.Request) (any, error) {
		return append([]*instance{}, s.Instances...), nil
	})
	handle("GET /1.0/storage-pools", func(*state, *http.Request) (any, error) {
		return []map[string]string{{"name": "default"}}, nil
	})
	handle("GET /1.0/storage-pools/default/volumes", func(s *state, _ *http.Request) (any, error) {
		volumes := []map[string]any{}
		for _, v := range s.Volumes {
			volumes = append(volumes, map[string]any{"name": v, "type": "container", "used_by": []string{}})
		}
		return volumes, nil
	})
	handle("GET /1.0/instances/{name}/state", func(s *state, r *http.Request) (any, error) {
		c, err := s.find(r.PathValue("name"))
		if err != nil {
			return nil, err
		}
		addresses := []map[string]string{}
		if c.Status == "Running" {
			addresses = append(addresses, map[string]string{"family": "inet", "address": c.Address, "scope": "global"})
		}
		return map[string]any{"network": map[string]any{"eth0": map[string]any{"addresses": addresses}}}, nil
	})
	handle("POST /1.0/instances", func(s *state, r *http.Request) (any, error) {
		c := &instance{Project: "default", Address: "127.0.0.1"}
		if err := json.NewDecoder(r.Body).Decode(c); err != nil {
			return nil, err
		}
		s.Instances = append(s.Instances, c)
		s.Volumes = append(s.Volumes, c.Name)
		return nil, i.start(s, c)
	})
	handle("PUT /1.0/instances/{name}/state", func(s *state, r *http.Request) (any, error) {
		c, err := s.find(r.PathValue("name"))
		if err != nil {
			return nil, err
		}
		return nil, i.start(s, c)
	})
	return mux
}

func (s *state) find(name string) (*instance, error) {
	for _, c := range s.Instances {
		if c.Name == name {
			return c, nil
		}
	}
	return nil, fmt.Errorf("instance %q not found", name)
}

func (i *incus) start(s *state, c *instance) error {
	if out, err := exec.Command("/bin/sh", "-ec", i.run).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", i.run, err, out)
	}
	c.Status = "Running"
	return i.save(*s)
}
