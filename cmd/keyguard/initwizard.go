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
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
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
	if sticks := kinds.Mounts(); len(sticks) > 0 {
		path = sticks[0]
		directory.found = "mounted: " + strings.Join(sticks, ", ")
	}
	directory.ask = []question{
		{setting: "path", text: "path", preset: path},
		{setting: "recipients", text: "age recipients to encrypt to (age1…, spaces between), empty for none", optional: true},
	}
	manager := place{what: "a password manager", kind: config.Command, name: "passwords", ask: []question{
		{setting: "preset", text: "which: 1password, bitwarden or pass"},
		{setting: "path", text: "what its entries are called (for 1password, the vault before that)", preset: "containarium-{hostname}"},
		{setting: "environment_file", text: "file, 0600, of NAME=value that its program needs where nobody is logged in, empty for none", optional: true},
	}}

	aws := place{what: "AWS Secrets Manager", kind: config.AWS, name: "aws"}
	who := "file"
	if kinds.OnAmazon() {
		aws.found, who = "this host is a machine of Amazon's", "instance"
	}
	aws.ask = []question{
		{setting: "region", text: "region (another one than this host's outlives its loss)", preset: cmp.Or(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))},
		{setting: "secret", text: "secret", preset: "containarium/{hostname}/secrets-master"},
		{setting: "credentials", text: "who asks: instance (the machine's role), file, environment, web-identity, container or process", preset: who},
		{setting: "credentials_file", text: "for file: a shared credentials file, 0600, empty for another way", optional: true},
	}
	return []place{gcp, vault, directory, manager, aws}
}

// askEscrows asks a person for escrows until there are enough of them. None is an answer.
func (a *app) askEscrows(ctx context.Context, cfg *config.Config, c *choices) error {
	if len(cfg.Escrows) == 0 {
		a.say("no escrow is configured: the key has no copy off this host.")
	}
	a.sayWaiting("looking at what this host has …")
	places := a.offers(ctx)
	for {
		some := len(cfg.Escrows)+len(c.escrows) > 0
		question, nowhere := "Where shall copies of the key be kept?", "nowhere: no backup"
		if some {
			question, nowhere = "Where else shall copies of the key be kept?", "nowhere else"
		}
		fmt.Fprintln(a.err)
		fmt.Fprint(a.err, fold(a.err, question))
		for i, p := range places {
			fmt.Fprintf(a.err, "  %d  %s\n", i+1, p.what)
			if p.found != "" {
				fmt.Fprint(a.err, hang(a.err, "     ", 5, p.found))
			}
		}
		fmt.Fprintf(a.err, "  %d  %s\n", len(places)+1, nowhere)
		prompt, preset := "Number: ", ""
		if i := slices.IndexFunc(places, func(p place) bool { return p.found != "" }); some {
			preset = strconv.Itoa(len(places) + 1)
		} else if i >= 0 {
			preset = strconv.Itoa(i + 1)
		}
		if preset != "" {
			prompt = "Number [" + preset + "]: "
		}
		answer, err := a.ask(ctx, prompt)
		if err != nil {
			return err
		}
		answer = cmp.Or(answer, preset)
		n, err := strconv.Atoi(answer)
		switch {
		case err == nil && n == len(places)+1:
			return nil
		case err != nil || n < 1 || n > len(places):
			a.say("%q is none of these numbers", answer)
			continue
		}
		if err := a.askEscrow(ctx, cfg, places[n-1], c); err != nil {
			return err
		}
	}
}

// askEscrow asks for the settings of one escrow, until the configuration is right with it
// and it can be used, or the person gives it up. Answers that were right are kept.
func (a *app) askEscrow(ctx context.Context, cfg *config.Config, p place, c *choices) error {
	taken := func(e config.Escrow) bool { return e.Name == p.name }
	for slices.ContainsFunc(cfg.Escrows, taken) || slices.ContainsFunc(c.escrows, taken) {
		p.name += "2"
	}
	questions := append([]question{{setting: "name", text: "name for it", preset: p.name}}, p.ask...)
	answers := map[string]string{}
	for {
		settings, err := a.askSettings(ctx, questions, answers)
		if err != nil {
			return err
		}
		e, err := config.NewEscrow(append([]string{"kind=" + p.kind}, settings...)...)
		if err != nil {
			return err
		}
		all := append(slices.Clone(c.escrows), e)
		wrong, err := a.wrongAdded(all)
		if err != nil {
			return err
		}
		if w := wrong[len(all)-1]; w != nil {
			for _, one := range w.List {
				setting := strings.TrimPrefix(one.Key, "escrow.")
				a.say("%s: %s", setting, one.What)
				delete(answers, setting)
			}
			for i, q := range questions {
				if _, right := answers[q.setting]; !right {
					questions[i].preset = p.preset(q.setting)
				}
			}
			a.say("once more:")
			continue
		}
		if err := a.checkHostname([]config.Escrow{e}); err != nil {
			return err
		}
		if e.Kind == config.VaultKV {
			if err := a.offerToken(ctx, e.TokenFile, c.tokens); err != nil {
				return err
			}
		}
		seen, err := a.try(ctx, all, e.Name, c.tokens[e.TokenFile])
		if err == nil {
			a.say("escrow %q: %s", e.Name, seen.copies())
			if seen.Unknown == 0 {
				c.add(e, seen)
				return nil
			}
			ok, err := a.confirm(ctx, "  Are these this host's own, or shall it keep its copies beside them?")
			if ok {
				c.add(e, seen)
			}
			return err
		}
		a.urgent("escrow %q cannot be used, and is not written: %v", e.Name, err)
		a.remedy(err)
		again, err := a.confirm(ctx, "  Try it again, with other answers or these?")
		if err != nil || !again {
			return err
		}
		clear(answers) // what was typed is offered again
	}
}

// askSettings asks what was not answered rightly yet, and returns all answers as settings.
func (a *app) askSettings(ctx context.Context, questions []question, answers map[string]string) (settings []string, err error) {
	for i, q := range questions {
		if _, right := answers[q.setting]; !right {
			answer, err := a.askSetting(ctx, q)
			if err != nil {
				return nil, err
			}
			answers[q.setting] = answer
			questions[i].preset = answer
		}
		settings = append(settings, q.setting+"="+answers[q.setting])
	}
	return settings, nil
}

// preset is what a question of the place offers by itself.
func (p place) preset(setting string) string {
	if i := slices.IndexFunc(p.ask, func(q question) bool { return q.setting == setting }); i >= 0 {
		return p.ask[i].preset
	}
	return p.name
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
	data, err := crew.Read(path, 1<<20)
	if err != nil {
		return "", ""
	}
	return strings.TrimSpace(string(data)), path
}
