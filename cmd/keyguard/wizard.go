package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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

// choices are what a person wants: escrows, and credentials that are at hand for them.
// Nothing of it is written yet.
type choices struct {
	escrows []config.Escrow
	tokens  map[string]string // by the file that is to hold it
}

// offers lists the places for copies, with what this host has for them.
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
	// What the programs of Vault and OpenBao go by.
	for _, name := range []string{"VAULT_ADDR", "VAULT_TOKEN", "VAULT_NAMESPACE"} {
		if os.Getenv(name) != "" {
			vault.found = name + " is set"
			break
		}
	}
	vault.ask = []question{
		{setting: "address", text: "address", preset: os.Getenv("VAULT_ADDR")},
		{setting: "mount", text: "mount of the KV engine", preset: "secret"},
		{setting: "path", text: "path", preset: "containarium/{hostname}/secrets-master"},
		{setting: "token_file", text: "file with a token, 0600", preset: filepath.Join(filepath.Dir(a.configPath()), "vault.token")},
	}
	for _, q := range []question{{setting: "namespace", preset: os.Getenv("VAULT_NAMESPACE")}, {setting: "ca_file", preset: os.Getenv("VAULT_CACERT")}} {
		if q.preset != "" {
			q.text = q.setting
			vault.ask = append(vault.ask, q)
		}
	}
	directory := place{what: "a directory: USB stick, NFS, another disk", kind: config.Directory, name: "usb"}
	path := ""
	if sticks := escrow.Mounts(); len(sticks) > 0 {
		path = sticks[0]
		directory.found = "mounted: " + strings.Join(sticks, ", ")
	}
	directory.ask = []question{
		{setting: "path", text: "path", preset: path},
		{setting: "recipients", text: "age recipients to encrypt to (age1…, spaces between), empty for none", optional: true},
	}
	manager := place{what: "a password manager", kind: config.Command, name: "passwords",
		ask: []question{{setting: "preset", text: "which: 1password, bitwarden or pass"}}}

	return []place{gcp, vault, directory, manager}
}

// askEscrows asks a person for escrows until there are enough of them. None is an answer.
func (a *app) askEscrows(ctx context.Context) (choices, error) {
	a.say("no escrow is configured: the key has no copy off this host.")
	a.working("looking at what this host has …")
	places := a.offers(ctx)
	c := choices{tokens: map[string]string{}}
	for {
		fmt.Fprintln(a.err, "\nWhere shall copies of the key be kept?")
		for i, p := range places {
			fmt.Fprintf(a.err, "  %d  %s\n", i+1, p.what)
			if p.found != "" {
				for _, line := range wrap(p.found, width-5) {
					fmt.Fprintf(a.err, "     %s\n", line)
				}
			}
		}
		nowhere := "nowhere: no backup"
		if len(c.escrows) > 0 {
			nowhere = "nowhere else"
		}
		fmt.Fprintf(a.err, "  %d  %s\n", len(places)+1, nowhere)
		prompt, preset := "Number: ", ""
		if i := slices.IndexFunc(places, func(p place) bool { return p.found != "" }); i >= 0 && len(c.escrows) == 0 {
			preset = strconv.Itoa(i + 1)
			prompt = "Number [" + preset + "]: "
		}
		answer, err := a.ask(ctx, prompt)
		if err != nil {
			return c, err
		}
		answer = cmp.Or(answer, preset)
		n, err := strconv.Atoi(answer)
		switch {
		case answer == "" && len(c.escrows) > 0, err == nil && n == len(places)+1:
			return c, nil
		case err != nil || n < 1 || n > len(places):
			a.say("%q is none of these numbers", answer)
			continue
		}
		e, err := a.askEscrow(ctx, places[n-1], c.escrows)
		if err != nil {
			return c, err
		}
		c.escrows = append(c.escrows, e)
		if e.Kind == config.VaultKV {
			if err := a.offerToken(ctx, e.TokenFile, c.tokens); err != nil {
				return c, err
			}
		}
	}
}

// askEscrow asks for the settings of one escrow, until the configuration is right with it.
func (a *app) askEscrow(ctx context.Context, p place, others []config.Escrow) (config.Escrow, error) {
	for slices.ContainsFunc(others, func(e config.Escrow) bool { return e.Name == p.name }) {
		p.name += "2"
	}
	for {
		settings := []string{"kind=" + p.kind}
		for _, q := range append([]question{{setting: "name", text: "name for it", preset: p.name}}, p.ask...) {
			answer, err := a.askSetting(ctx, q)
			if err != nil {
				return config.Escrow{}, err
			}
			settings = append(settings, q.setting+"="+answer)
		}
		e, err := config.NewEscrow(settings...)
		if err != nil {
			return e, err
		}
		_, err = a.withEscrows(append(slices.Clone(others), e))
		var wrong *config.Problems
		if !errors.As(err, &wrong) {
			return e, err
		}
		for _, one := range wrong.List {
			a.say("%s: %s", strings.TrimPrefix(one.Key, "escrow."), one.What)
		}
		a.say("once more:")
	}
}

// askSetting asks one question until it has an answer.
func (a *app) askSetting(ctx context.Context, q question) (string, error) {
	prompt := "  " + q.text
	if q.preset != "" {
		prompt += " [" + q.preset + "]"
	}
	for {
		answer, err := a.ask(ctx, prompt+": ")
		if err != nil {
			return "", err
		}
		if answer == "" {
			answer = q.preset
		}
		if answer != "" || q.optional {
			return answer, nil
		}
		a.say("this one is needed")
	}
}

// offerToken offers to put the token that this person has for Vault into the file which
// the escrow reads: neither their environment nor their home is the watcher's.
func (a *app) offerToken(ctx context.Context, file string, tokens map[string]string) error {
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	token, from := ownToken()
	if token != "" && tokens[file] == "" {
		a.say("%s is not there; a token is in %s, and may do what you may", file, from)
		ok, err := a.confirm(ctx, "  keep that token for this host?")
		if err != nil {
			return err
		}
		if ok {
			tokens[file] = token
			return nil
		}
	}
	a.say("put a token with the policy of the README into %s, chmod 0600", file)
	return nil
}

// ownToken is the token for Vault that a person has at hand, as `vault login` leaves it.
func ownToken() (token, from string) {
	if token := os.Getenv("VAULT_TOKEN"); token != "" {
		return token, "VAULT_TOKEN"
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", ""
	}
	path := filepath.Join(home, ".vault-token")
	data, err := os.ReadFile(path)
	if err != nil {
		return "", ""
	}
	return strings.TrimSpace(string(data)), path
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

// withEscrows is the configuration with these escrows at its end, if all of it is right
// then.
func (a *app) withEscrows(escrows []config.Escrow) ([]byte, error) {
	path := a.configPath()
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, configError{err}
	}
	for _, e := range escrows {
		data = config.Append(data, "Written by keyguard init. keyguard.toml(5) has every setting.", e)
	}
	cfg, err := config.Parse(data, path)
	if err == nil {
		cfg.Escrows = cfg.Escrows[len(cfg.Escrows)-len(escrows):] // what was wrong before is no reason
		err = cfg.Wrong()
	}
	if err != nil {
		return nil, configError{fmt.Errorf("%w\nnothing was written", err)}
	}
	return data, nil
}

// write puts what was chosen into the configuration and beside it.
func (a *app) write(c choices) error {
	data, err := a.withEscrows(c.escrows)
	if err != nil {
		return err
	}
	for file, token := range c.tokens {
		if err := config.WriteSecret(file, []byte(token+"\n")); err != nil {
			return err
		}
		a.say("wrote the token into %s", file)
	}
	path := a.configPath()
	if err := config.Replace(path, data); err != nil {
		return err
	}
	for _, e := range c.escrows {
		a.say("wrote escrow %q into %s", e.Name, path)
	}
	return nil
}
