package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
)

// This file has the configuration that init begins with, what is chosen for it, by --escrow or
// in the wizard (initwizard.go), and how that is written.

// sample is the commented configuration that the package brings.
const sample = "/usr/share/containarium-keyguard/keyguard.toml"

// draft is the configuration that init begins with. Where there is none, it is the sample:
// init makes the file.
func (a *app) draft() (*config.Config, error) {
	cfg, err := a.load()
	if !errors.Is(err, fs.ErrNotExist) {
		return cfg, err
	}
	data, err := a.draftText()
	if err == nil {
		cfg, err = config.ParseHere(data, sample, nil)
	}
	if err != nil {
		return nil, configError{err}
	}
	return cfg, nil
}

// draftText is the text of it.
func (a *app) draftText() ([]byte, error) {
	data, err := config.Read(a.configPath())
	if !errors.Is(err, fs.ErrNotExist) {
		return data, err
	}
	if data, err = os.ReadFile(sample); errors.Is(err, fs.ErrNotExist) {
		return []byte("# keyguard.toml(5) has every setting.\n"), nil
	}
	return data, err
}

// choices are what a person wants: escrows that were tried, and credentials that are at
// hand for them. Nothing of it is written yet.
type choices struct {
	escrows []config.Escrow
	found   []found           // in them, in the same order
	untold  int               // the first so many were no person's answer
	tokens  map[string]string // by the file that is to hold it
}

func (c *choices) add(e config.Escrow, f found) {
	c.escrows, c.found = append(c.escrows, e), append(c.found, f)
}

// found is what a try came upon.
type found struct {
	where string
	agent.TryPlaceResult
}

// copies says in words what stands there already.
func (f found) copies() string {
	switch n := len(f.Copies); {
	case n == 0:
		return "nothing there yet"
	case f.Unknown > 0:
		return fmt.Sprintf("holds copies already, %d, of which %d are unknown to this host: another's, or its own from before", n, f.Unknown)
	default:
		return fmt.Sprintf("holds copies of this host already, %d", n)
	}
}

// escrowFlags makes escrows of what --escrow said: name=value, with commas between. What
// is wrong is told of the flag: the person has typed no line of a file.
func (a *app) escrowFlags(flags []string) ([]config.Escrow, error) {
	var escrows []config.Escrow
	for _, f := range flags {
		e, err := config.NewEscrow(strings.Split(f, ",")...)
		if err != nil {
			return nil, usageError{fmt.Errorf("--escrow %s: %w", f, err)}
		}
		escrows = append(escrows, e)
	}
	wrong, err := a.wrongAdded(escrows)
	if err != nil {
		return nil, err
	}
	for i, w := range wrong {
		if w != nil {
			return nil, usageError{fmt.Errorf("--escrow %s: %s; nothing was written", flags[i], w.Settings())}
		}
	}
	return escrows, nil
}

// withEscrows is the configuration with these escrows at its end.
func (a *app) withEscrows(escrows []config.Escrow) ([]byte, error) {
	data, err := a.draftText()
	if err != nil {
		return nil, configError{err}
	}
	for _, e := range escrows {
		data = config.Append(data, "Written by keyguard init. keyguard.toml(5) has every setting.", e)
	}
	return data, nil
}

// wrongAdded says what would be wrong with each of these escrows at the end of the
// configuration, nil for nothing; what was wrong before is no reason.
func (a *app) wrongAdded(escrows []config.Escrow) ([]*config.Problems, error) {
	data, err := a.withEscrows(escrows)
	if err != nil {
		return nil, err
	}
	cfg, err := config.Parse(data, a.configPath())
	if err != nil {
		return nil, configError{err}
	}
	var wrong []*config.Problems
	for _, e := range cfg.Escrows[len(cfg.Escrows)-len(escrows):] {
		wrong = append(wrong, e.Wrong)
	}
	return wrong, nil
}

// write puts what was chosen into the configuration and beside it. A configuration that
// is not there is made.
func (a *app) write(c choices) error {
	path := a.configPath()
	_, err := os.Stat(path)
	missing := errors.Is(err, fs.ErrNotExist)
	if len(c.escrows) == 0 && !missing {
		return nil
	}
	data, err := a.withEscrows(c.escrows)
	if err != nil {
		return err
	}
	for _, e := range c.escrows {
		token := c.tokens[e.TokenFile]
		if token == "" {
			continue
		}
		if err := config.WriteSecret(e.TokenFile, []byte(token+"\n")); err != nil {
			return err
		}
		a.say("wrote the token into %s", e.TokenFile)
	}
	if missing {
		err = config.Create(path, data)
	} else {
		err = config.Replace(path, data)
	}
	if err != nil {
		return err
	}
	for _, e := range c.escrows {
		a.say("wrote escrow %q into %s", e.Name, path)
	}
	return nil
}

// expandHostname writes this host's name into the configuration, once: an escrow must
// not move because somebody renames the host.
func (a *app) expandHostname() error {
	path := a.configPath()
	data, err := config.Read(path)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("cannot find this host's name: %w", err)
	}
	expanded := config.ExpandHostname(data, host)
	if string(expanded) == string(data) {
		return nil
	}
	if err := config.Replace(path, expanded); err != nil {
		return err
	}
	a.say("wrote this host's name, %s, into %s", host, path)
	return nil
}
