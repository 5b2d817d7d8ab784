package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// maxImport bounds what is read from standard input, in bytes. Words are the longest
// form of a key, a few hundred.
const maxImport = 64 << 10

func (a *app) importCommand() *cobra.Command {
	var escrowOnly bool
	c := &cobra.Command{
		Use:   "import",
		Short: "read a key from standard input and install it",
		Long: `import reads a key from standard input, never from an argument: 32 raw bytes,
base64, hex, or 24 words. It installs the key as restore would: only if the
present key does not open more rows. With --escrow-only the key is saved in the
escrows, by the same rules as backup, and the keyfile is left alone.

Exit status: 0 done; 2 that is no key; 11 nothing can tell; 12 an escrow failed;
13 it opens no row; 14 refused, to protect the last good copy.`,
		Example: `  keyguard import < key.bin
  age --decrypt key.age | keyguard import
  keyguard import --escrow-only < old.key`,
		RunE: a.operate(func(ctx context.Context, h *agent.Host, cfg *config.Config) error {
			k, err := a.readKey()
			if err != nil {
				return err
			}
			defer k.Wipe()
			opts := agent.ImportOptions{Person: person()}
			a.forgetBackoff(cfg)
			a.working("trying key %s on the rows …", k.Fingerprint())
			if escrowOnly {
				r, err := agent.Keep(ctx, h, k.Clone(), opts)
				if err != nil {
					return err
				}
				return a.printKept(r)
			}
			r, err := agent.Import(ctx, h, k.Clone(), opts)
			a.printRestore(r, false)
			return err
		}),
	}
	c.Flags().BoolVar(&escrowOnly, "escrow-only", false, "save it in the escrows and leave the keyfile alone")
	a.jsonFlag(c)
	return c
}

// readKey reads and decodes standard input.
func (a *app) readKey() (key.Key, error) {
	if term.IsTerminal(int(a.in.Fd())) {
		a.say("type or paste the key (base64, hex or words), then Ctrl-D:")
	}
	data, err := io.ReadAll(io.LimitReader(a.in, maxImport+1))
	defer clear(data)
	switch {
	case err != nil:
		return key.Key{}, fmt.Errorf("cannot read standard input: %w", err)
	case len(data) > maxImport:
		return key.Key{}, usageError{errors.New("standard input is longer than any key")}
	case len(data) == 0:
		return key.Key{}, usageError{errors.New("standard input is empty: feed the key to it")}
	}
	k, encoding, err := key.Decode(data)
	if err != nil {
		return key.Key{}, inputError{fmt.Errorf("standard input: %w", err)}
	}
	if encoding != key.Raw {
		a.say("read key %s from %s", k.Fingerprint(), encoding)
	}
	return k, nil
}

// printKept is printBackup for a key that was only to be kept: quarantine is where it
// belongs if it opens no row.
func (a *app) printKept(r agent.BackupResult) error {
	err := a.printBackup(r)
	var done outcome
	if errors.As(err, &done) && done.code == exitRefused {
		for _, s := range r.Escrows {
			if s.Err != nil {
				return outcome{exitEscrow, fmt.Sprintf("key %s is not kept in every escrow", r.Key), nil}
			}
		}
		return nil
	}
	return err
}
