package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/unit"
	"github.com/footprintai/containarium-keyguard/hooks"
)

const (
	// logWindow is how far back log looks by itself.
	logWindow = 30 * 24 * time.Hour
	// logEvery is how often log -f looks for new entries of the ledger.
	logEvery = time.Second
)

func (a *app) logCommand() *cobra.Command {
	var since string
	var follow bool
	c := &cobra.Command{
		Use:   "log",
		Short: "what happened to the key, the newest first",
		Long: `log prints what happened to the key, a line each, the newest first, from the
ledger and from what keyguard told the journal. Where systemd is not used, the
ledger is all there is.

-f goes on, the newest last, until it is interrupted.

Exit status: 0 done; 2 --since is no day.`,
		Example: `  keyguard log --since 2026-01-31
  keyguard log -f`,
		RunE: func(c *cobra.Command, _ []string) error {
			from := time.Now().Add(-logWindow)
			if since != "" {
				var err error
				if from, _, err = parseDay(since); err != nil {
					return usageError{fmt.Errorf("--since: %w", err)}
				}
			}
			h, cfg, err := a.open()
			if err != nil {
				return err
			}
			if follow {
				return a.followLog(c.Context(), h, cfg, from)
			}
			return a.log(c.Context(), h, cfg, from)
		},
	}
	c.Flags().StringVar(&since, "since", "", "begin at this `day`, 2026-01-31, or time, RFC 3339 (default 30 days ago)")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on as things happen")
	a.jsonFlag(c)
	return c
}

// happeningDoc is one line of the log, in JSON.
type happeningDoc struct {
	At          time.Time `json:"at"`
	Event       string    `json:"event"`
	Fingerprint string    `json:"fingerprint,omitempty"`
	Escrow      string    `json:"escrow,omitempty"`
	Copy        string    `json:"copy,omitempty"`
	Text        string    `json:"text,omitempty"`
	Source      string    `json:"source"` // "ledger", "journal"
}

type logDoc struct {
	Version int            `json:"version"`
	Entries []happeningDoc `json:"entries"`
}

func happeningOf(e ledger.Entry) happeningDoc {
	var about []string
	if e.Checked > 0 && e.Event != ledger.DrillEnded && e.Event != ledger.Drilled { // the one is no proof of one key, the other says it
		about = append(about, fmt.Sprintf("opened %d of %d rows", e.Opened, e.Checked))
	}
	if e.Old != "" && e.Old != e.Fingerprint {
		about = append(about, "in place of key "+string(e.Old))
	}
	if why := ruleCode().ReplaceAllString(e.Reason, ""); why != "" {
		about = append(about, why)
	}
	if e.Person != "" {
		about = append(about, "by "+e.Person)
	}
	text := strings.Join(about, "; ")
	return happeningDoc{e.Time.UTC(), string(e.Event), string(e.Fingerprint), e.Escrow, e.Copy, text, "ledger"}
}

// inLedger are the events that the ledger has as well, under this name or another.
var inLedger = []hooks.EventName{hooks.Installed, hooks.Made, hooks.Parked, hooks.Exposed, hooks.Minted, hooks.Refuted, hooks.Proven, hooks.Saved,
	hooks.DrillPassed, hooks.DrillFailed, hooks.DrillInconclusive, hooks.RotationBegun, hooks.RotationDone, hooks.RotationSettled,
	hooks.Repaired, hooks.UnitFailed}

func told(t unit.Told) (happeningDoc, bool) {
	if slices.Contains(inLedger, hooks.EventName(t.Event)) {
		return happeningDoc{}, false
	}
	return happeningDoc{t.Time.UTC(), t.Event, t.Fingerprint, t.Escrow, t.Copy, t.Text, "journal"}, true
}

// journalPatience is how long the journal of years is read at most.
const journalPatience = 15 * time.Second

// happenings are all since a time, the oldest first, and how many entries the ledger has;
// unsure says that there may be more, and nobody has seen to that.
func (a *app) happenings(ctx context.Context, h *agent.Host, cfg *config.Config, from time.Time) (list []happeningDoc, entries int, unsure, err error) {
	record, err := h.Ledger.Read()
	if err != nil {
		return nil, 0, nil, err
	}
	if b, broken := record.Broken(); broken {
		a.urgent("the ledger's chain is broken at line %d: %s", b.Line, b.Why)
		unsure = outcome{exitDoubt, "this may not be all that happened", []string{seenToLedger}}
	}
	list = []happeningDoc{}
	for _, e := range record.Entries {
		if !e.Time.Before(from) {
			list = append(list, happeningOf(e))
		}
	}
	if cfg.Daemon.Unit != "" {
		reading, cancel := context.WithTimeout(ctx, journalPatience)
		defer cancel()
		err := unit.History(reading, from, func(t unit.Told) {
			if one, ok := told(t); ok {
				list = append(list, one)
			}
		})
		if err != nil {
			a.urgent("the journal cannot be read, and this is the ledger alone: %v", err)
		}
	}
	slices.SortStableFunc(list, func(x, y happeningDoc) int { return x.At.Compare(y.At) })
	return list, len(record.Entries), unsure, nil
}

// log prints what has happened since a time, the newest first.
func (a *app) log(ctx context.Context, h *agent.Host, cfg *config.Config, from time.Time) error {
	list, _, unsure, err := a.happenings(ctx, h, cfg, from)
	if err != nil {
		return err
	}
	slices.Reverse(list)
	if a.json {
		return cmp.Or(a.printJSON(logDoc{jsonVersion, list}), unsure)
	}
	a.printHappenings(list)
	return unsure
}

// followLog prints what has happened since a time, the oldest first, and goes on.
func (a *app) followLog(ctx context.Context, h *agent.Host, cfg *config.Config, from time.Time) error {
	list, seen, _, err := a.happenings(ctx, h, cfg, from)
	if err != nil {
		return err
	}
	a.printHappenings(list)
	journal := make(chan happeningDoc)
	if cfg.Daemon.Unit != "" {
		ctx, stop := context.WithCancel(ctx)
		ended := crew.Go(func() error {
			return unit.FollowHistory(ctx, time.Now(), func(t unit.Told) {
				if one, ok := told(t); ok {
					select {
					case journal <- one:
					case <-ctx.Done():
					}
				}
			})
		})
		defer func() { stop(); <-ended }()
	}
	look := time.NewTicker(logEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case one := <-journal:
			a.printHappenings([]happeningDoc{one})
		case <-look.C:
			record, err := h.Ledger.Read()
			if err != nil {
				return err
			}
			for ; seen < len(record.Entries); seen++ {
				a.printHappenings([]happeningDoc{happeningOf(record.Entries[seen])})
			}
		}
	}
}

// printHappenings prints a line for each.
func (a *app) printHappenings(list []happeningDoc) {
	for _, d := range list {
		about := ""
		if d.Fingerprint != "" {
			about += " key " + d.Fingerprint
		}
		if d.Escrow != "" {
			about += " in " + d.Escrow
		}
		if d.Copy != "" {
			about += " as " + d.Copy
		}
		text, _, _ := strings.Cut(d.Text, "\n") // what is to be typed was said when it happened
		if about != "" && text != "" {
			about += ":"
		}
		about = strings.TrimSpace(about + " " + text)
		at := when(d.At)
		line := strings.TrimRight(fmt.Sprintf("%s  %-18s %s", at, d.Event, printable.Line(about)), " ")
		if terminal(a.out) && utf8.RuneCountInString(line) > columns(a.out) {
			a.line("%s  %s", at, d.Event)
			a.beside("", 4, about)
			continue
		}
		a.line("%s", line)
	}
}
