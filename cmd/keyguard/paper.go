package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/paper"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

func (a *app) paperCommand() *cobra.Command {
	var output string
	var need, parts int
	c := &cobra.Command{
		Use:   "paper",
		Short: "print the key on a sheet for a safe",
		Long: `paper prints the present key on one page, of A4 or Letter: a QR code, the key in
base64, 24 words of BIP-39 with a check word for each line, and how to bring the
key back, without keyguard too. A key that opens no row is not printed.

Whoever sees the page has the key. Text goes to standard output, for a terminal
or a pipe; --output makes a file of mode 0400, and never replaces one. A file on
a disk stays there until it is shredded, and so may the spool of a printer.

--split 2 --of 3 prints three sheets for three safes, any two of which are the
key, and one of which tells nothing of it. The files are named after the part:
key-1.html, key-2.html, key-3.html. keyguard import takes enough of them in any
order, and keyguard drill --part FILE proves one.

Exit status: 0 done; 2 the file cannot be made like that; 14 there is no key, or
it opens no row.`,
		Example: `  keyguard paper                             # to read it off the screen
  keyguard paper | lp                        # to print it as text
  keyguard paper --output /dev/shm/key.html  # for a browser; .png and .txt too
  keyguard paper --split 2 --of 3 --output /dev/shm/key.html
  shred -u /dev/shm/key.html                 # once it is printed`,
	}
	c.Flags().StringVar(&output, "output", "", "write a new `file`: .txt, .html or .png")
	c.Flags().IntVar(&need, "split", 0, "print parts, of which this `number` rebuild the key")
	c.Flags().IntVar(&parts, "of", 0, "print this `number` of parts")
	c.RunE = a.operate(func(ctx context.Context, h *agent.Host, cfg *config.Config) error {
		if need != 0 || parts != 0 {
			if need < key.MinNeed || parts < need || parts > key.MaxParts {
				return usageError{fmt.Errorf("--split %d --of %d: %w", need, parts, key.ErrParts)}
			}
		}
		return a.paper(ctx, h, cfg, output, agent.PaperOptions{Person: person(), Parts: parts, Need: need})
	})
	return c
}

// renderings are the forms of a sheet, by the ending of the file's name; "" is
// standard output.
var renderings = map[string]func(paper.Sheet) ([]byte, error){
	"": paper.Sheet.UnsafeText, ".txt": paper.Sheet.UnsafeText,
	".html": paper.Sheet.UnsafeHTML, ".png": paper.Sheet.UnsafePNG,
}

func (a *app) paper(ctx context.Context, h *agent.Host, cfg *config.Config, output string, opts agent.PaperOptions) error {
	render, ok := renderings[filepath.Ext(output)]
	if !ok || output != "" && filepath.Ext(output) == "" {
		return usageError{fmt.Errorf("%s is no name for a sheet: it ends in .txt, .html or .png", output)}
	}
	for _, name := range sheetNames(output, opts.Parts) {
		if _, err := crew.Lstat(name); name != "" && err == nil {
			return thereAlready(name)
		}
		if err := checkPath("--output", name); err != nil {
			return err
		}
	}
	if mode, file := a.outFile(); output == "" && file && mode&0o077 != 0 {
		return usageError{fmt.Errorf("standard output is a file that others may open (mode %#o): use --output, which makes one of mode 0400", mode)}
	}
	r, err := agent.Paper(ctx, h, opts)
	if err != nil {
		return err
	}
	defer r.Key.Wipe()
	a.explainTrouble(r.Trouble)
	if r.Verdict != rows.Opens {
		a.urgent("key %s: %s; the sheet says so", r.Key.Fingerprint(), r.Proof)
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("cannot find this host's name: %w", err)
	}
	sheet := paper.Sheet{Key: r.Key, Host: host, Keyfile: cfg.Keyfile, Unit: cfg.Daemon.Unit,
		Proof: r.Proof, Printed: time.Now(), Version: version, Screen: output == "" && terminal(a.out)}
	if opts.Parts == 0 {
		return a.printSheet(sheet, render, output, fmt.Sprintf("key %s", r.Key.Fingerprint()))
	}
	sheet.Key, sheet.Of = key.Key{}, opts.Parts
	for i, name := range sheetNames(output, opts.Parts) {
		if sheet.Part, err = r.Key.Cut(opts.Need, i+1); err != nil {
			return err
		}
		if i > 0 && output == "" {
			fmt.Fprint(a.out, "\f") // a printer begins a page
		}
		err = a.printSheet(sheet, render, name, sheet.Part.String())
		sheet.Part.Wipe()
		if err != nil {
			return err
		}
	}
	return nil
}

// sheetNames are the files of as many sheets: "key-1.html" of "key.html".
func sheetNames(output string, parts int) []string {
	if parts == 0 {
		return []string{output}
	}
	names := make([]string, parts)
	for i := range names {
		if ext := filepath.Ext(output); output != "" {
			names[i] = fmt.Sprintf("%s-%d%s", strings.TrimSuffix(output, ext), i+1, ext)
		}
	}
	return names
}

// printSheet writes one page to where it belongs.
func (a *app) printSheet(sheet paper.Sheet, render func(paper.Sheet) ([]byte, error), output, what string) error {
	page, err := render(sheet)
	defer clear(page)
	if err != nil {
		return fmt.Errorf("cannot make the sheet: %w", err)
	}
	if output == "" {
		if _, err := a.out.Write(page); err != nil {
			return fmt.Errorf("cannot write the sheet: %w", err)
		}
		if _, file := a.outFile(); file {
			a.say("the file holds %s in clear; once it is printed, remove it with: shred -u", what)
		}
		return nil
	}
	saved, err := paper.Save(output, page)
	switch {
	case errors.Is(err, fs.ErrExist):
		return thereAlready(output)
	case errors.Is(err, fs.ErrNotExist):
		return usageError{fmt.Errorf("cannot write %s: %w", output, err)}
	case err != nil:
		return fmt.Errorf("cannot write %s: %w", output, err)
	case saved.InMemory:
		a.say("%s holds %s in clear, in memory; once it is printed: shred -u %s", output, what, output)
	default:
		a.say("%s holds %s in clear, and not in memory but on a disk; once it is printed: shred -u %s", output, what, output)
		a.say("a file in /dev/shm is in memory, and gone with the next reboot")
	}
	return nil
}

func thereAlready(path string) error {
	return usageError{fmt.Errorf("%s is there already, and is not replaced", path)}
}

// outFile is the mode of the file that standard output was directed to, if it is one.
func (a *app) outFile() (fs.FileMode, bool) {
	f, ok := a.out.(interface{ Stat() (fs.FileInfo, error) })
	if !ok {
		return 0, false
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0, false
	}
	return info.Mode().Perm(), true
}
