package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// errNoPostgres says that incus runs no Postgres container.
var errNoPostgres = errors.New("no running core-postgres container")

const (
	postgresName = "containarium-core-postgres"
	postgresRole = "core-postgres"
)

type container struct {
	Name   string            `json:"name"`
	Status string            `json:"status"`
	Config map[string]string `json:"config"`
}

// coreContainers asks the local incus whether it is there, without which the daemon has
// no app hosting and never comes to the key, and brings up the container of Postgres
// unless the database is elsewhere: nobody else makes or starts it.
func (h host) coreContainers(ctx context.Context) error {
	if h.incus == "none" {
		return nil
	}
	if err := h.incusDo(ctx, http.MethodGet, "/1.0", nil, nil); err != nil {
		return err
	}
	if h.postgres != "" || h.getenv("CONTAINARIUM_POSTGRES_URL_FILE") != "" || h.getenv("CONTAINARIUM_POSTGRES_URL") != "" {
		return nil
	}
	c, err := h.findPostgres(ctx)
	switch {
	case err != nil:
		return err
	case c == nil:
		return h.incusDo(ctx, http.MethodPost, "/1.0/instances",
			container{Name: postgresName, Config: map[string]string{"user.containarium.role": postgresRole}}, nil)
	case c.Status != "Running":
		return h.incusDo(ctx, http.MethodPut, "/1.0/instances/"+c.Name+"/state", map[string]string{"action": "start"}, nil)
	}
	return nil
}

// findPostgres is the container with the role core-postgres, or of that name, or nil.
func (h host) findPostgres(ctx context.Context) (*container, error) {
	var all []container
	if err := h.incusDo(ctx, http.MethodGet, "/1.0/instances?recursion=1", nil, &all); err != nil {
		return nil, err
	}
	for _, c := range all {
		if c.Name == postgresName || c.Config["user.containarium.role"] == postgresRole {
			return &c, nil
		}
	}
	return nil, nil
}

// postgresContainer returns its IPv4 address, which is DHCP's and may change.
func (h host) postgresContainer(ctx context.Context) (string, error) {
	if h.incus == "none" {
		return "", errNoPostgres
	}
	c, err := h.findPostgres(ctx)
	if err != nil {
		return "", err
	}
	if c == nil || c.Status != "Running" {
		return "", errNoPostgres
	}
	var state struct {
		Network map[string]struct {
			Addresses []struct {
				Family  string `json:"family"`
				Address string `json:"address"`
				Scope   string `json:"scope"`
			} `json:"addresses"`
		} `json:"network"`
	}
	if err := h.incusDo(ctx, http.MethodGet, "/1.0/instances/"+c.Name+"/state", nil, &state); err != nil {
		return "", err
	}
	for _, n := range state.Network {
		for _, a := range n.Addresses {
			if a.Family == "inet" && a.Scope == "global" {
				return a.Address, nil
			}
		}
	}
	return "", errNoPostgres
}

// incusDo sends one request with that body, if any, and reads the metadata of the
// answer, if wanted.
func (h host) incusDo(ctx context.Context, method, path string, body, metadata any) error {
	var send io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		send = strings.NewReader(string(b))
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://incus"+path, send)
	if err != nil {
		return err
	}
	resp, err := overUnix(h.incus).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("incus answers %s to %s", resp.Status, path)
	}
	answer := struct {
		Metadata any `json:"metadata"`
	}{metadata}
	return json.NewDecoder(resp.Body).Decode(&answer)
}
