package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/hooks"
	"github.com/footprintai/containarium-keyguard/units/catalog"
)

func (a *app) explainCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "explain EVENT|EXIT CODE|FINGERPRINT",
		Short: "say what an event, an exit code or a fingerprint means",
		Long: `explain says what an event of the journal and the hooks means and what to type
about it, what an exit code means, or where the key of a fingerprint is and was:
keyfile, escrows, local quarantine, and what the ledger has of it.

Exit status: 0 done; 2 it is none of these; 12 an escrow could not answer.`,
		Example: `  keyguard explain parked
  keyguard explain 11
  keyguard explain 0123456789abcdef`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("explain takes one event, exit code or fingerprint")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if subject, meaning, ok := catalog.Explain(hooks.MessageID(hooks.EventName(args[0]))); ok {
				return a.explainText(args[0], subject, meaning)
			}
			if code, err := strconv.Atoi(args[0]); err == nil {
				if i := slices.IndexFunc(exitMeanings, func(e exitDoc) bool { return e.Code == code }); i >= 0 {
					meaning := exitMeanings[i].Meaning
					if word := lastWord[code]; word != "" {
						meaning += "\n\n" + word
					}
					return a.explainText(args[0], fmt.Sprintf("exit code %d", code), meaning)
				}
			}
			f, err := key.ParseFingerprint(args[0])
			if err != nil {
				return usageError{notExplained(args[0])}
			}
			return a.operate(func(ctx context.Context, h *agent.Host, cfg *config.Config) error {
				return a.explainKey(ctx, h, cfg, f)
			})(c, nil)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return append(eventWords(), a.known(func(e ledger.Entry) string { return string(e.Fingerprint) })...), cobra.ShellCompDirectiveNoFileComp
		},
	}
	a.identityFlag(c)
	a.jsonFlag(c)
	return c
}

func eventWords() []string {
	var words []string
	for _, name := range hooks.EventNames() {
		words = append(words, string(name))
	}
	return words
}

func notExplained(word string) error {
	err := fmt.Errorf("%q is no event, exit code or fingerprint", word)
	if near := config.Nearest(word, eventWords()); near != "" {
		err = fmt.Errorf("%w; did you mean %q?", err, near)
	}
	return err
}

type explainDoc struct {
	Version int    `json:"version"`
	Word    string `json:"word"`
	Subject string `json:"subject"`
	Meaning string `json:"meaning"`
}

// explainText prints a text of our own: an indented line of it is a command to type.
func (a *app) explainText(word, subject, meaning string) error {
	if a.json {
		return a.printJSON(explainDoc{jsonVersion, word, subject, meaning})
	}
	a.line("%s", subject)
	a.line("")
	for line := range strings.SplitSeq(meaning, "\n") {
		a.line("%s", line)
	}
	return nil
}

type keyDoc struct {
	Version     int             `json:"version"`
	Fingerprint key.Fingerprint `json:"fingerprint"`
	Keyfile     bool            `json:"keyfile"`
	Known       bool            `json:"known"`
	Escrows     []escrowDoc     `json:"escrows"`
	Kept        []string        `json:"local_quarantine"` // the files there that hold it
	Copies      []copyDoc       `json:"copies"`
	History     []happeningDoc  `json:"history"`
}

// explainKey says where a key is and was.
func (a *app) explainKey(ctx context.Context, h *agent.Host, cfg *config.Config, f key.Fingerprint) error {
	a.sayWaiting("asking %s …", printable.Count(int64(len(h.Escrows)), "escrow"))
	copies := agent.Copies(ctx, h)
	record, err := h.Ledger.Read()
	if err != nil {
		return err
	}
	standing, err := h.Ledger.Standing()
	if err != nil {
		return err
	}
	seen, err := h.Keyfile.Look()
	if err != nil {
		return err
	}
	defer seen.Key.Wipe()
	d := keyDoc{Version: jsonVersion, Fingerprint: f, Known: standing.Known == f, Escrows: []escrowDoc{}, Kept: []string{}, Copies: []copyDoc{}, History: []happeningDoc{}}
	d.Keyfile = !seen.Key.IsZero() && seen.Key.Fingerprint() == f
	kept, err := h.Keyfile.Kept()
	if err != nil {
		a.urgent("cannot read the local quarantine: %v", err)
		a.remedy(err)
	}
	for _, k := range kept {
		if !k.Key.IsZero() && k.Key.Fingerprint() == f {
			d.Kept = append(d.Kept, k.Path)
		}
		k.Key.Wipe()
	}
	failed := 0
	for _, e := range copies.Escrows {
		d.Escrows = append(d.Escrows, escrowDoc{e.Name, e.Place.Kind, e.Place.Where, e.Required, errorText(e.Err)})
		if e.Err != nil {
			failed++
			a.urgent("escrow %q cannot answer: %v", e.Name, e.Err)
			a.remedy(e.Err)
		}
		for _, c := range e.Copies {
			if c.Fingerprint == f {
				d.Copies = append(d.Copies, copyDoc{Escrow: e.Name, ID: c.ID, Shelf: c.Shelf, Newest: c.Newest, Fingerprint: f,
					Created: timeDoc(c.Created), Readable: c.Read, Sealed: c.Sealed, Encoding: c.Encoding, Error: unreadable(c)})
			}
		}
	}
	for _, e := range slices.Backward(record.Entries) {
		if e.Fingerprint == f || e.Old == f {
			d.History = append(d.History, happeningOf(e))
		}
	}
	if a.json {
		if err := a.printJSON(d); err != nil {
			return err
		}
	} else {
		a.printKey(d, cfg.Keyfile)
	}
	if failed > 0 {
		return outcome{exitEscrow, fmt.Sprintf("%d of %s cannot answer", failed, printable.Count(int64(len(copies.Escrows)), "escrow")), nil}
	}
	return nil
}

func (a *app) printKey(d keyDoc, keyfile string) {
	is := map[bool]string{true: "is", false: "is not"}
	a.line("key %s %s the one in %s, and %s the known one", d.Fingerprint, is[d.Keyfile], keyfile, is[d.Known])
	if len(d.Copies) == 0 {
		a.line("no escrow that answers has a copy that shows this fingerprint")
	}
	for _, c := range d.Copies {
		shelf := "on the current shelf"
		switch {
		case c.Shelf == escrow.Quarantine:
			shelf = "in quarantine"
		case c.Newest:
			shelf = "the newest current copy"
		}
		a.line("%s: %s, %s, of %s", c.Escrow, c.ID, shelf, created(c))
	}
	for _, path := range d.Kept {
		a.line("the local quarantine: %s", path)
	}
	a.line("")
	if len(d.History) == 0 {
		a.line("the ledger has nothing of it")
		return
	}
	a.printHappenings(d.History)
}
