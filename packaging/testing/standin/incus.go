package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// errNoPostgres says that incus runs no Postgres container.
var errNoPostgres = errors.New("no running core-postgres container")

// incusAnswers asks the local incus whether it is there: without it the daemon has no
// app hosting and never comes to the key.
func (h host) incusAnswers(ctx context.Context) error {
	if h.incus == "none" {
		return nil
	}
	return h.incusGet(ctx, "/1.0", &struct{}{})
}

// postgresContainer returns the IPv4 address of the running container with the role
// core-postgres, or of that name.
func (h host) postgresContainer(ctx context.Context) (string, error) {
	if h.incus == "none" {
		return "", errNoPostgres
	}
	var containers []struct {
		Name   string            `json:"name"`
		Status string            `json:"status"`
		Config map[string]string `json:"config"`
		State  struct {
			Network map[string]struct {
				Addresses []struct {
					Family  string `json:"family"`
					Address string `json:"address"`
					Scope   string `json:"scope"`
				} `json:"addresses"`
			} `json:"network"`
		} `json:"state"`
	}
	if err := h.incusGet(ctx, "/1.0/instances?recursion=2", &containers); err != nil {
		return "", err
	}
	for _, c := range containers {
		if c.Status != "Running" || c.Name != "containarium-core-postgres" && c.Config["user.containarium.role"] != "core-postgres" {
			continue
		}
		for _, n := range c.State.Network {
			for _, a := range n.Addresses {
				if a.Family == "inet" && a.Scope == "global" {
					return a.Address, nil
				}
			}
		}
	}
	return "", errNoPostgres
}

func (h host) incusGet(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://incus"+path, nil)
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
	}{into}
	return json.NewDecoder(resp.Body).Decode(&answer)
}
