package main

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/config"
)

// TestInitMakesTheConfiguration: where there is none, it is root's alone.
func TestInitMakesTheConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyguard.toml")
	a := &app{configFile: path, err: io.Discard}
	e, err := config.NewEscrow("name=usb", "kind=directory", "path=/mnt/keys")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.write(choices{escrows: []config.Escrow{e}}); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil || len(cfg.Escrows) != 1 || cfg.Escrows[0].Path != "/mnt/keys" {
		t.Errorf("%+v, %v", cfg, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestNoHintSendsBack to the command that prints it.
func TestNoHintSendsBack(t *testing.T) {
	for _, c := range []struct{ hint, running, want string }{
		{"bring the network up, then: keyguard status", "keyguard status", "bring the network up"},
		{"bring the network up, then: keyguard status", "keyguard copies", "bring the network up, then: keyguard status"},
		{"if it was never made: keyguard init; a stick must be mounted first", "keyguard init", "a stick must be mounted first"},
		{"see what every key opens: keyguard verify", "keyguard verify", ""},
		{"compare the words with the sheet, and type them again: keyguard import", "keyguard import", "compare the words with the sheet, and type them again"},
		{"correct it, and check it: keyguard config", "keyguard config", "correct it"},
		{"name the rows that no key opens: keyguard drill --full", "keyguard drill", "name the rows that no key opens: keyguard drill --full"},
		{"free it, then: keyguard rotate, or keyguard repair", "keyguard rotate", "free it"},
		{"free it, then: keyguard rotate, or keyguard repair", "keyguard repair", "free it"},
		{"free it, then: keyguard rotate, or keyguard repair", "keyguard status", "free it, then: keyguard rotate, or keyguard repair"},
		{"look, then: keyguard drill --full", "keyguard drill", "look, then: keyguard drill --full"},
		{"keyguard status", "", "keyguard status"},
	} {
		if got := notAgain(c.hint, c.running); got != c.want {
			t.Errorf("%q in %s is %q, want %q", c.hint, c.running, got, c.want)
		}
	}
}
