package rowstest

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Incus stands in for incus on a unix socket, with the few requests that matter here.
// It is stricter than the real one: what that would ignore or repair fails the test.
// Like the real one it tells of one project only unless asked for all.
type Incus struct {
	Socket    string
	Instances []Instance
	Volumes   map[string][]Volume // by pool
	// Intercept, if set, may answer a path instead: true says that it did.
	Intercept func(path string, w http.ResponseWriter, r *http.Request) bool
}

// Instance is a container. Addresses are by interface, IPv4 or IPv6.
type Instance struct {
	Name, Project, Status string // "" stands for project default, and for Running
	Role                  string // of user.containarium.role
	Addresses             map[string][]string
}

// Volume is a storage volume.
type Volume struct {
	Name, Type, Project string
	UsedBy              []string
}

// NewIncus listens until the test ends. Its fields are not changed while it is asked.
func NewIncus(tb testing.TB) *Incus {
	tb.Helper()
	// A socket's path has at most 107 bytes (unix(7)).
	dir, err := os.MkdirTemp("", "incus")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	i := &Incus{Socket: filepath.Join(dir, "unix.socket")}
	l, err := net.Listen("unix", i.Socket)
	if err != nil {
		tb.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if i.Intercept != nil && i.Intercept(r.URL.Path, w, r) {
			return
		}
		if err := i.serve(w, r); err != nil {
			tb.Errorf("incus was asked %s %s: %v", r.Method, r.URL, err)
			answer(w, http.StatusBadRequest, err.Error(), nil)
		}
	})}
	done := make(chan struct{})
	go func() {
		s.Serve(l)
		close(done)
	}()
	tb.Cleanup(func() {
		s.Close()
		<-done
	})
	return i
}

func answer(w http.ResponseWriter, status int, problem string, metadata any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if problem != "" {
		json.NewEncoder(w).Encode(map[string]any{"type": "error", "error": problem, "error_code": status, "metadata": nil})
		return
	}
	json.NewEncoder(w).Encode(map[string]any{"type": "sync", "status": "Success", "status_code": status, "operation": "", "metadata": metadata})
}

// Deny is an Intercept that answers as incus does to somebody without the right.
func Deny(_ string, w http.ResponseWriter, _ *http.Request) bool {
	answer(w, http.StatusForbidden, "not authorized", nil)
	return true
}

func (i *Incus) serve(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		return fmt.Errorf("only looking is allowed")
	}
	query := r.URL.Query()
	for name := range query {
		if name != "recursion" && name != "all-projects" && name != "project" {
			return fmt.Errorf("unknown parameter %s", name)
		}
	}
	sees := func(project string) bool {
		return query.Get("all-projects") == "true" || project == orDefault(query.Get("project"))
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/1.0/"), "/")
	switch {
	case r.URL.Path == "/1.0/instances":
		if query.Get("recursion") != "1" {
			return fmt.Errorf("names alone tell nothing")
		}
		list := []any{}
		for _, c := range i.Instances {
			if sees(orDefault(c.Project)) {
				list = append(list, c.object())
			}
		}
		answer(w, http.StatusOK, "", list)
	case len(parts) == 3 && parts[0] == "instances" && parts[2] == "state":
		if query.Has("all-projects") {
			return fmt.Errorf("a state is that of one project")
		}
		name, err := url.PathUnescape(parts[1])
		if err != nil {
			return err
		}
		for _, c := range i.Instances {
			if c.Name == name && sees(orDefault(c.Project)) {
				answer(w, http.StatusOK, "", c.state())
				return nil
			}
		}
		answer(w, http.StatusNotFound, "Instance not found", nil)
	case r.URL.Path == "/1.0/storage-pools":
		list := []any{}
		for name := range i.Volumes {
			list = append(list, map[string]any{"name": name, "driver": "dir", "status": "Created"})
		}
		answer(w, http.StatusOK, "", list)
	case len(parts) == 3 && parts[0] == "storage-pools" && parts[2] == "volumes":
		pool, err := url.PathUnescape(parts[1])
		if err != nil {
			return err
		}
		volumes, ok := i.Volumes[pool]
		if !ok {
			return fmt.Errorf("there is no such pool")
		}
		list := []any{}
		for _, v := range volumes {
			if sees(orDefault(v.Project)) {
				list = append(list, map[string]any{
					"name": v.Name, "type": v.Type, "project": orDefault(v.Project), "used_by": append([]string{}, v.UsedBy...),
				})
			}
		}
		answer(w, http.StatusOK, "", list)
	default:
		return fmt.Errorf("unknown path")
	}
	return nil
}

func orDefault(project string) string {
	if project == "" {
		return "default"
	}
	return project
}

func (c Instance) object() map[string]any {
	status := c.Status
	if status == "" {
		status = "Running"
	}
	config := map[string]string{"image.os": "Debian", "volatile.uuid": "6d9c1a3e"}
	if c.Role != "" {
		config["user.containarium.role"] = c.Role
	}
	return map[string]any{
		"name": c.Name, "project": orDefault(c.Project), "status": status, "type": "container", "config": config,
	}
}

func (c Instance) state() map[string]any {
	network := map[string]any{"lo": map[string]any{"addresses": []any{
		map[string]any{"family": "inet", "address": "127.0.0.1", "netmask": "8", "scope": "local"},
	}}}
	for name, list := range c.Addresses {
		addresses := []any{map[string]any{"family": "inet6", "address": "fe80::1", "netmask": "64", "scope": "link"}}
		for _, a := range list {
			family := "inet"
			if strings.Contains(a, ":") {
				family = "inet6"
			}
			addresses = append(addresses, map[string]any{"family": family, "address": a, "netmask": "24", "scope": "global"})
		}
		network[name] = map[string]any{"addresses": addresses, "state": "up", "type": "broadcast"}
	}
	return map[string]any{"status": "Running", "status_code": 103, "network": network}
}
