package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

// place is one of the places that init offers, with the questions that it asks.
type place struct {
	what  string // for people
	found string // why this host suggests it, "" if it does not
	kind  string
	name  string
	ask   []question
}

// question is one setting of an escrow.
type question struct {
	setting, text, preset string
	optional              bool
}

// offers lists the places for copies, those first that this host suggests.
func (a *app) offers(ctx context.Context) []place {
	gcp := place{what: "Google Cloud Secret Manager", kind: config.GCPSecretManager, name: "gcp"}
	project, err := a.project(ctx)
	if err == nil {
		gcp.found = "this host is in project " + project
	}
	gcp.ask = []question{
		{setting: "project", text: "project (another one than this host's survives its deletion)", preset: project},
		{setting: "secret", text: "secret", preset: "containarium-{hostname}-secrets-master"},
		{setting: "credentials_file", text: "credentials file, empty for this machine's own", optional: true},
	}
	vault := place{what: "Vault or OpenBao", kind: config.VaultKV, name: "vault"}
	address := os.Getenv("VAULT_ADDR")
	if address != "" {
		vault.found = "VAULT_ADDR is set"
	}
	vault.ask = []question{
		{setting: "address", text: "address", preset: address},
		{setting: "mount", text: "mount of the KV engine", preset: "secret"},
		{setting: "path", text: "path", preset: "containarium/{hostname}/secrets-master"},
		{setting: "token_file", text: "file with a token, 0600", preset: "/etc/containarium-keyguard/vault.token"},
	}
	directory := place{what: "a directory: USB stick, NFS, another disk", kind: config.Directory, name: "usb"}
	path := ""
	if sticks := escrow.Mounts(); len(sticks) > 0 {
		path = sticks[0]
		directory.found = path + " is mounted"
	}
	directory.ask = []question{
		{setting: "path", text: "path", preset: path},
		{setting: "recipients", text: "age recipients to encrypt to (age1…, spaces between), empty for none", optional: true},
	}
	manager := place{what: "a password manager", kind: config.Command, name: "passwords",
		ask: []question{{setting: "preset", text: "which: 1password, bitwarden or pass"}}}

	var first, rest []place
	for _, p := range []place{gcp, vault, directory, manager} {
		if p.found != "" {
			first = append(first, p)
		} else {
			rest = append(rest, p)
		}
	}
	return append(first, rest...)
}

// askEscrows asks a person for escrows until there are enough of them. None is an answer.
func (a *app) askEscrows(ctx context.Context) ([]config.Escrow, error) {
	a.say("no escrow is configured: the key has no copy off this host.")
	a.working("looking at what this host has …")
	places := a.offers(ctx)
	var escrows []config.Escrow
	for {
		fmt.Fprintln(a.err, "\nWhere shall copies of the key be kept?")
		for i, p := range places {
			fmt.Fprintf(a.err, "  %d  %s", i+1, p.what)
			if p.found != "" {
				fmt.Fprintf(a.err, "  (%s)", p.found)
			}
			fmt.Fprintln(a.err)
		}
		nowhere := "nowhere: no backup"
		if len(escrows) > 0 {
			nowhere = "nowhere else"
		}
		fmt.Fprintf(a.err, "  %d  %s\n", len(places)+1, nowhere)
		answer, err := a.ask("Number: ")
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(answer)
		switch {
		case answer == "" && len(escrows) > 0, err == nil && n == len(places)+1:
			return escrows, nil
		case answer == "":
			return nil, usageError{errors.New("no answer, and nothing was done")}
		case err != nil || n < 1 || n > len(places):
			a.say("%q is none of these numbers", answer)
			continue
		}
		e, err := a.askEscrow(places[n-1], escrows)
		if err != nil {
			return nil, err
		}
		escrows = append(escrows, e)
	}
}

// askEscrow asks for the settings of one escrow.
func (a *app) askEscrow(p place, others []config.Escrow) (config.Escrow, error) {
	for _, e := range others {
		if e.Name == p.name {
			p.name += "2"
		}
	}
	settings := []string{"kind=" + p.kind}
	for _, q := range append([]question{{setting: "name", text: "name for it", preset: p.name}}, p.ask...) {
		for {
			prompt := "  " + q.text
			if q.preset != "" {
				prompt += " [" + q.preset + "]"
			}
			answer, err := a.ask(prompt + ": ")
			if err != nil {
				return config.Escrow{}, err
			}
			if answer == "" {
				answer = q.preset
			}
			if answer != "" || q.optional {
				settings = append(settings, q.setting+"="+answer)
				break
			}
			a.say("this one is needed")
		}
	}
	return config.NewEscrow(settings...)
}

// escrowFlags makes escrows of what --escrow said: name=value, with commas between.
func escrowFlags(flags []string) ([]config.Escrow, error) {
	var escrows []config.Escrow
	for _, f := range flags {
		e, err := config.NewEscrow(strings.Split(f, ",")...)
		if err != nil {
			return nil, usageError{fmt.Errorf("--escrow %s: %w", f, err)}
		}
		escrows = append(escrows, e)
	}
	return escrows, nil
}

// addEscrows writes escrows into the configuration, if all of it is right then.
func (a *app) addEscrows(escrows []config.Escrow) error {
	path := a.configPath()
	data, err := os.ReadFile(path)
	if err != nil {
		return configError{err}
	}
	for _, e := range escrows {
		data = config.Append(data, "Written by keyguard init. keyguard.toml(5) has every setting.", e)
	}
	if _, err := config.Parse(data, path); err != nil {
		return configError{fmt.Errorf("%w\nnothing was written", err)}
	}
	if err := config.Replace(path, data); err != nil {
		return err
	}
	for _, e := range escrows {
		a.say("wrote escrow %q into %s", e.Name, path)
	}
	return nil
}
