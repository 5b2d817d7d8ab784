package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// needsUnit tells whether a rotation or a repair that is to change something goes on in a unit
// of its own: where there is a daemon to stop, the terminal may be lost meanwhile.
func (a *app) needsUnit(cfg *config.Config) bool {
	return !a.here && cfg.Daemon.Unit != "" && unit.Booted()
}

// inUnit has systemd run this command again, in a unit of its own, and ends as that ends.
func (a *app) inUnit(ctx context.Context, t unit.Transient, command, person string, flags map[string]bool) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this program: %w", err)
	}
	path, err := filepath.Abs(a.configPath())
	if err != nil {
		return err
	}
	t.Command = []string{self, command, "--here", "--yes", "--config", path}
	for flag, set := range flags {
		if set {
			t.Command = append(t.Command, flag)
		}
	}
	if a.json {
		t.Command = append(t.Command, "--json")
	}
	t.Environ = []string{"SUDO_USER=" + person, // for the ledger
		"TERM=" + os.Getenv("TERM"), "NO_COLOR=" + os.Getenv("NO_COLOR")} // the terminal goes along
	t.Stdout, t.Stderr = os.Stdout, os.Stderr
	t.StopTimeout = 15 * time.Minute // it ends by itself, with the daemon up
	relayed, err := relay(&t)
	if err != nil {
		return err
	}
	status, err := t.Run(ctx)
	relayed(ctx.Err() == nil)
	switch {
	case ctx.Err() != nil:
		return outcome{exitBusy, command + " goes on without this terminal", []string{"follow it: journalctl -fu " + t.Name + "; see how it ended: keyguard status"}}
	case err != nil:
		return err
	case status != exitDone:
		return exitStatus(status)
	}
	return nil
}

// exitStatus is the error of a command that has said all there is to say: its exit code.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }
