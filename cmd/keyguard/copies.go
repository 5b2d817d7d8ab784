package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

func (a *app) copiesCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "copies",
		Short: "list every copy in every escrow",
		Long: `copies lists what every escrow holds, on both shelves, the newest first. The
fingerprints are computed from the bytes where they can be read.

Exit status: 0 done; 12 an escrow could not answer.`,
		Example: `  keyguard copies
  keyguard copies --json`,
		RunE: a.operate(func(ctx context.Context, h *agent.Host, _ *config.Config) error {
			a.sayWaiting("asking %s …", printable.Count(int64(len(h.Escrows)), "escrow"))
			return a.printCopies(agent.Copies(ctx, h))
		}),
	}
	a.identityFlag(c)
	a.allFlag(c)
	a.jsonFlag(c)
	return c
}

type copyDoc struct {
	Escrow      string          `json:"escrow"`
	ID          string          `json:"id"`
	Shelf       escrow.Shelf    `json:"shelf"`
	Newest      bool            `json:"newest"`
	Fingerprint key.Fingerprint `json:"fingerprint,omitempty"`
	Created     *time.Time      `json:"created,omitempty"`
	Readable    bool            `json:"readable"`
	Sealed      bool            `json:"sealed"`
	Encoding    key.Encoding    `json:"encoding,omitempty"`
	Ends        *time.Time      `json:"ends,omitempty"` // when the store will delete it by itself
	Error       string          `json:"error,omitempty"`
}

type escrowDoc struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Where    string `json:"where"`
	Required bool   `json:"required"`
	Error    string `json:"error,omitempty"`
}

type copiesDoc struct {
	Version int         `json:"version"`
	Escrows []escrowDoc `json:"escrows"`
	Copies  []copyDoc   `json:"copies"`
}

func (a *app) printCopies(r agent.CopiesResult) error {
	d := copiesDoc{Version: jsonVersion, Escrows: []escrowDoc{}, Copies: []copyDoc{}}
	failed := 0
	for _, e := range r.Escrows {
		d.Escrows = append(d.Escrows, escrowDoc{e.Name, e.Place.Kind, e.Place.Where, e.Required, errorText(e.Err)})
		for _, c := range e.Copies {
			d.Copies = append(d.Copies, copyDoc{Escrow: e.Name, ID: c.ID, Shelf: c.Shelf, Newest: c.Newest,
				Fingerprint: c.Fingerprint, Created: timeDoc(c.Created), Readable: c.Read, Sealed: c.Sealed,
				Encoding: c.Encoding, Ends: timeDoc(c.Ends), Error: unreadable(c)})
			if c.Newest && errors.Is(c.Err, key.ErrMangled) {
				a.urgent("escrow %q: the newest copy, which the runbook's commands return, is no key any more", e.Name)
				a.remedy(c.Err)
			}
		}
		if e.Err == nil && !e.AddOnly && len(e.Copies) == 0 {
			a.say("escrow %q holds no copy", e.Name)
		}
		if e.AddOnly {
			a.say("escrow %q is not read from here: this host only adds there (readable = false)", e.Name)
		}
		if e.Err != nil {
			failed++
			a.urgent("escrow %q cannot answer: %v", e.Name, e.Err)
			a.remedy(e.Err)
		}
	}
	if a.json {
		if err := a.printJSON(d); err != nil {
			return err
		}
	} else if len(d.Copies) > 0 {
		a.printCopyTable(d.Copies)
	}
	if len(r.Escrows) == 0 {
		a.urgent("%v", agent.ErrNoEscrow)
		a.remedy(agent.ErrNoEscrow)
	}
	if failed > 0 {
		return outcome{exitEscrow, fmt.Sprintf("%d of %s cannot answer", failed, printable.Count(int64(len(r.Escrows)), "escrow")), nil}
	}
	return nil
}

// printCopyTable lists copies. Of a long list only the newest of each key on each shelf is
// shown, with the number of those below it.
func (a *app) printCopyTable(copies []copyDoc) {
	type group struct {
		escrow string
		shelf  escrow.Shelf
		key    key.Fingerprint
	}
	older := map[group]int{}
	shown := copies
	if len(copies) > foldAfter && !a.all {
		shown = nil
		for _, c := range copies {
			g := group{c.Escrow, c.Shelf, c.Fingerprint}
			if _, there := older[g]; there && c.Fingerprint != "" && c.Error == "" {
				older[g]++
				continue
			}
			older[g] = 0
			shown = append(shown, c)
		}
	}
	a.table("ESCROW\tSHELF\tCOPY\tKEY\tCREATED\tSTATE", func(row func(...string)) {
		for _, c := range shown {
			state := c.state()
			if n := older[group{c.Escrow, c.Shelf, c.Fingerprint}]; n > 0 {
				state = strings.TrimPrefix(state+"; "+fmt.Sprintf("%d older of this key", n), "; ")
			}
			row(c.Escrow, string(c.Shelf), c.ID, orNone(c.Fingerprint), created(c), state)
		}
	})
	if n := len(copies) - len(shown); n > 0 {
		a.line("(%d copies in all: --all)", len(copies))
	}
}

// unreadable says why a copy's bytes could not be had, "" if they could.
func unreadable(l agent.Listed) string {
	if l.Unreadable != "" {
		return l.Unreadable
	}
	return errorText(l.Err)
}

func created(c copyDoc) string {
	if c.Created == nil {
		return "unknown"
	}
	return when(*c.Created)
}

// state says in words what can be read of a copy.
func (c copyDoc) state() string {
	switch {
	case c.Error != "":
		return c.Error
	case c.Encoding != key.Raw:
		return string(c.Encoding) + ", not raw: the runbook's commands would restore it wrongly"
	case c.Newest && c.Ends != nil:
		return "newest; the store deletes it " + when(*c.Ends)
	case c.Newest:
		return "newest"
	case c.Ends != nil:
		return "the store deletes it " + when(*c.Ends)
	}
	return ""
}
