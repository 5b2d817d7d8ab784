package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// maxImport bounds what is read from standard input, in bytes. Words are the longest
// form of a key, a few hundred, and a whole sheet as text has a few thousand.
const maxImport = 64 << 10

func (a *app) importCommand() *cobra.Command {
	var escrowOnly bool
	c := &cobra.Command{
		Use:   "import",
		Short: "read a key from standard input and install it",
		Long: `import reads a key from standard input, never from an argument: 32 raw bytes,
base64, hex, the text of a QR code, 24 words, the 30 of a sheet with its check
words, or as many parts of a key as rebuild it, in any order. On a terminal it
asks for the lines of the sheet one by one and names the one that is wrong.

It installs the key as restore would: only if the present key does not open more
rows; and saves it in the escrows where it opens all of them. With --escrow-only
it is saved there by the same rules as backup, and the keyfile is left alone.

Exit status: 0 done; 2 that is no key; 11 nothing can tell; 12 an escrow failed;
13 it opens no row; 14 refused, to protect the last good copy.`,
		Example: `  keyguard import                         # type the lines of a printed sheet
  keyguard import < key.bin
  age --decrypt key.age | keyguard import
  zbarimg --quiet --raw sheet.png | keyguard import
  keyguard import --escrow-only < old.key
  cat part-1.txt part-3.txt | keyguard import`,
		RunE: func(c *cobra.Command, _ []string) error {
			h, cfg, err := a.open()
			if err != nil {
				return err
			}
			// Typing takes as long as it takes.
			k, encoding, err := a.readKey(c.Context())
			if err != nil {
				return err
			}
			defer k.Wipe()
			ctx, cancel := context.WithTimeout(c.Context(), patience)
			defer cancel()
			opts := agent.ImportOptions{Person: person()}
			a.forgetBackoff(cfg)
			a.sayWaiting("trying key %s on the rows …", k.Fingerprint())
			if escrowOnly {
				r, err := agent.Keep(ctx, h, k, opts)
				if err != nil {
					return err
				}
				return a.printKept(r)
			}
			return a.importKey(ctx, h, k.Clone(), encoding, opts)
		},
	}
	c.Flags().BoolVar(&escrowOnly, "escrow-only", false, "save it in the escrows and leave the keyfile alone")
	a.jsonFlag(c)
	return c
}

func (a *app) importKey(ctx context.Context, h *agent.Host, k key.Key, encoding key.Encoding, opts agent.ImportOptions) error {
	r, err := agent.Import(ctx, h, k, opts)
	var saved agent.BackupResult
	var unsaved error
	if r.Installed && r.Rows.VerdictOf(r.Key) == rows.Opens && len(h.Escrows) > 0 {
		// It may be in no store, and the watcher does not look into them at once.
		saved, unsaved = agent.Backup(ctx, h)
		r.Trouble = append(r.Trouble, saved.Trouble...)
	}
	a.printRestore(agent.RestoreOptions{}, r, saved.Escrows, err)
	if unsaved == nil {
		unsaved = a.judgeSaves(r.Key, saved.Rows, saved.Escrows)
	}
	if unsaved != nil {
		a.explain(unsaved) // and no more: it is in place, which was asked for
	}
	if r.Installed && encoding == key.Words && len(r.Tried) > 0 && r.Tried[0].Proof.Opened == 0 {
		a.urgent("24 words of a list let one mistake in 256 pass, and no row says that key %s is the one that was meant", r.Key)
		a.hint("compare that with the fingerprint on the sheet; if it is another one: keyguard import, with the check words")
	}
	return err
}

// readKey reads and decodes standard input, or asks a person.
func (a *app) readKey(ctx context.Context) (key.Key, key.Encoding, error) {
	if a.onTerminal() {
		return a.typedKey(ctx)
	}
	data, err := io.ReadAll(io.LimitReader(a.in, maxImport+1))
	defer clear(data)
	switch {
	case err != nil:
		return key.Key{}, "", fmt.Errorf("cannot read standard input: %w", err)
	case len(data) > maxImport:
		return key.Key{}, "", usageError{errors.New("standard input is longer than any key")}
	case len(data) == 0:
		return key.Key{}, "", usageError{errors.New("standard input is empty: feed the key to it")}
	}
	k, encoding, err := key.Decode(data)
	if parts, perr := key.ReadParts(data); err != nil && (parts != nil || perr != nil) {
		if err = perr; err == nil {
			k, err = a.rebuild(parts)
		}
		if err == nil {
			return k, key.Raw, nil
		}
	}
	if err != nil {
		return key.Key{}, "", inputError{fmt.Errorf("standard input: %w", err)}
	}
	if encoding != key.Raw {
		a.say("read key %s from %s", k.Fingerprint(), encoding)
	}
	return k, encoding, nil
}

// rebuild makes a key of parts that a person brought, wipes them, and names those that are
// not what they say.
func (a *app) rebuild(parts []key.Part) (key.Key, error) {
	defer func() {
		for _, p := range parts {
			p.Wipe()
		}
	}()
	k, wrong, err := key.Rebuild(parts)
	if err != nil {
		return key.Key{}, err
	}
	for _, i := range wrong {
		a.say("%v is wrong: it says so, and is not; the others rebuild the key without it", parts[i])
	}
	a.say("rebuilt key %s from %d parts", k.Fingerprint(), len(parts)-len(wrong))
	return k, nil
}

// typedKey asks for the lines of a sheet at the terminal, each until it is right; or
// takes a key that is whole in the first line.
func (a *app) typedKey(ctx context.Context) (key.Key, key.Encoding, error) {
	tty, err := openTerminal()
	if err != nil {
		return key.Key{}, "", fmt.Errorf("%w; feed the key to standard input", err)
	}
	defer tty.Close() //nolint:errcheck // a terminal

	fmt.Fprintf(tty, "Type the %d lines of the sheet, each with its check word.\n"+
		"24 words without check words, base64 or hex go into one line.\n", key.SheetLines)
	// The lines are shown as they are typed: the sheet lies open anyhow, and nobody
	// types thirty words blind.
	var buffer [maxLine]byte
	var sheet []byte
	defer func() { clear(buffer[:]); clear(sheet) }()
	for n := 1; ; {
		fmt.Fprintf(tty, "line %d of %d: ", n, key.SheetLines)
		size, err := readLine(ctx, tty, buffer[:])
		if err != nil || size == 0 {
			fmt.Fprintln(tty)
			return key.Key{}, "", usageError{errors.New("the typing ended before the key was whole; nothing was done")}
		}
		line := buffer[:size]
		switch words := len(bytes.Fields(line)); {
		case words == 0:
			continue
		case n == 1 && (words == 1 || words > 2*key.SheetLines):
			k, encoding, err := key.Decode(line)
			switch {
			case err != nil:
				fmt.Fprintf(tty, "That is %v. Again:\n", err)
			case encoding == key.Newline: // 32 letters are raw to Decode, and a mistake here
				k.Wipe()
				fmt.Fprintf(tty, "That is not a key: %d letters are neither words nor base64 nor hex. Again:\n", key.Size)
			default:
				return a.typed(tty, k, encoding), encoding, nil
			}
			continue
		}
		if parts, perr := key.ReadParts(line); n == 1 && (parts != nil || perr != nil || isPartLine(line)) {
			clear(sheet)
			k, err := a.typedParts(ctx, tty, buffer[:], size)
			return k, key.Raw, err
		}
		if err := key.CheckLine(n, line); err != nil {
			fmt.Fprintf(tty, "%s Again:\n", wrongLine(n, err))
			continue
		}
		sheet = append(sheet, line...)
		if n++; n <= key.SheetLines {
			continue
		}
		k, encoding, err := key.Decode(sheet)
		if err == nil {
			return a.typed(tty, k, encoding), encoding, nil
		}
		// Several wrong words of a line can make up for each other.
		fmt.Fprintf(tty, "Each line fits its check word, and yet that is %v. All again:\n", err)
		clear(sheet)
		n, sheet = 1, nil
	}
}

// isPartLine tells whether a line is the first of a part's sheet.
func isPartLine(line []byte) bool {
	_, err := key.CheckPartLine(1, 0, line)
	return err == nil
}

// typedParts asks for sheets of parts until they rebuild a key: the lines of each, or its
// text in one line. The first line of the first stands in the buffer.
func (a *app) typedParts(ctx context.Context, tty *os.File, buffer []byte, size int) (key.Key, error) {
	var parts []key.Part
	var sheet []byte
	defer func() {
		clear(sheet)
		for _, p := range parts {
			p.Wipe()
		}
	}()
	for n, number := 1, 0; ; {
		line := buffer[:size]
		read, err := key.ReadParts(line)
		if read == nil && err == nil && len(bytes.Fields(line)) > 0 {
			if number, err = key.CheckPartLine(n, number, line); err == nil {
				sheet = append(append(sheet, line...), '\n')
				if n++; n > key.PartLines {
					if read, err = key.ReadParts(sheet); err == nil && read == nil {
						err = key.ErrPartDamaged
					}
				}
			} else {
				fmt.Fprintf(tty, "%s Again:\n", wrongLine(n, err))
				err = nil
			}
		}
		if err != nil {
			fmt.Fprintf(tty, "That is %v. This sheet again:\n", err)
		}
		if read != nil || err != nil {
			clear(sheet)
			n, number, sheet = 1, 0, nil
		}
		if read != nil {
			parts = append(parts, read...)
			k, _, err := key.Rebuild(parts)
			var few *key.FewPartsError
			switch {
			case err == nil:
				k.Wipe()
				fmt.Fprintln(tty, "The parts still stand on this screen: clear it, and what it scrolled away.")
				k, err := a.rebuild(parts)
				parts = nil
				return k, err
			case errors.As(err, &few):
				fmt.Fprintf(tty, "%v. Now another sheet:\n", err)
			case errors.Is(err, key.ErrWrongParts):
				fmt.Fprintf(tty, "%v. Bring one more sheet:\n", err)
			default: // it does not belong to the others
				fmt.Fprintf(tty, "That sheet is not one of these: %v. Another one:\n", err)
				for _, p := range read {
					p.Wipe()
				}
				parts = parts[:len(parts)-len(read)]
			}
		}
		fmt.Fprintf(tty, "sheet %d, line %d of %d: ", len(parts)+1, n, key.PartLines)
		if size, err = readLine(ctx, tty, buffer); err != nil || size == 0 {
			fmt.Fprintln(tty)
			return key.Key{}, usageError{errors.New("the typing ended before there were enough parts; nothing was done")}
		}
	}
}

// typed says which key was typed.
func (a *app) typed(tty io.Writer, k key.Key, encoding key.Encoding) key.Key {
	fmt.Fprintln(tty, "The key still stands on this screen: clear it, and what it scrolled away.")
	a.say("read key %s from %s", k.Fingerprint(), encoding)
	return k
}

// wrongLine says what is wrong with a typed line.
func wrongLine(n int, err error) string {
	var word *key.WordError
	switch {
	case !errors.As(err, &word):
		return fmt.Sprintf("Line %d does not fit its check word: a word is another one, or two are swapped.", n)
	case word.Position == 0:
		return fmt.Sprintf("Line %d has 5 words, the last one to check it; these are %d.", n, word.Count)
	}
	return fmt.Sprintf("Word %d of line %d is not in the list of words.", word.Position, n)
}

// printKept is printBackup for a key that was only to be kept: quarantine is where it
// belongs if it opens no row.
func (a *app) printKept(r agent.BackupResult) error {
	err := a.printBackup(r)
	if done, ok := errors.AsType[outcome](err); ok && done.code == exitRefused {
		for _, s := range r.Escrows {
			if s.Err != nil {
				return outcome{exitEscrow, fmt.Sprintf("key %s is not kept in every escrow", r.Key), nil}
			}
		}
		return nil
	}
	return err
}
