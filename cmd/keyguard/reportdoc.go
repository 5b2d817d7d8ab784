package main

import (
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/cmd/keyguard/start"
)

// The JSON of a report.
type (
	reportDoc struct {
		Version  int            `json:"version"`
		Host     string         `json:"host"`
		Keyguard string         `json:"keyguard"`
		Since    *time.Time     `json:"since"`
		Until    *time.Time     `json:"until"`
		Now      *time.Time     `json:"made_at"`
		Chain    chainDoc       `json:"chain"`
		Escrows  []reportEscrow `json:"escrows"`
		Gaps     []gapDoc       `json:"gaps"`
		Drills   []pastDrillDoc `json:"drills"`
		Keys     []keySpanDoc   `json:"keys"`
		History  []ledger.Entry `json:"history"`
		Unproven []string       `json:"not_proven"`
	}
	chainDoc struct {
		Whole   bool       `json:"whole"`
		Entries int        `json:"entries"`
		First   *time.Time `json:"first,omitempty"`
		Last    *time.Time `json:"last,omitempty"`
		Sum     string     `json:"last_line_sha256,omitempty"`
		Torn    bool       `json:"torn,omitempty"`
		Breaks  []lineDoc  `json:"breaks"`
		Odd     []lineDoc  `json:"odd_dates,omitempty"`
	}
	lineDoc struct {
		Line int    `json:"line"`
		Why  string `json:"why"`
	}
	gapDoc struct {
		From *time.Time `json:"from"`
		To   *time.Time `json:"to"`
		Days int        `json:"days"`
	}
	reportEscrow struct {
		Escrow string        `json:"escrow"`
		Gone   bool          `json:"not_configured,omitempty"`
		Proven *ledger.Entry `json:"last_proven,omitempty"`
		Gaps   []gapDoc      `json:"gaps"`
		Tries  int           `json:"drills"`
	}
	pastDrillDoc struct {
		Drill   string             `json:"drill"`
		At      *time.Time         `json:"at"`
		Verdict agent.DrillVerdict `json:"verdict"` // "" where it was broken off
		Reason  string             `json:"reason,omitempty"`
		Full    bool               `json:"full,omitempty"`
		Person  string             `json:"person,omitempty"`
		Took    float64            `json:"took_seconds"`
		Total   int64              `json:"rows"`
		Hearsay bool               `json:"before_a_break,omitempty"`
		Copies  []ledger.Entry     `json:"copies"`
	}
	keySpanDoc struct {
		Fingerprint key.Fingerprint `json:"fingerprint,omitempty"`
		By          ledger.Event    `json:"by"`
		From        *time.Time      `json:"from"`
		To          *time.Time      `json:"to"`
		Proofs      int             `json:"proofs"`
	}
)

func reportDocOf(r agent.ReportResult) reportDoc {
	d := reportDoc{Version: jsonVersion, Host: start.Hostname(), Keyguard: version, Since: timeDoc(r.Since), Until: timeDoc(r.Until),
		Now: timeDoc(r.Now), Chain: chainDocOf(r.Chain), Escrows: []reportEscrow{}, Gaps: gapDocs(r.Gaps),
		Drills: []pastDrillDoc{}, Keys: []keySpanDoc{}, History: append([]ledger.Entry{}, r.History...), Unproven: unprovenLines(r)}
	for _, s := range r.Escrows {
		e := reportEscrow{Escrow: s.Name, Gone: s.Unknown, Gaps: gapDocs(s.Gaps), Tries: len(s.Tries)}
		if s.Proven.Event != "" {
			e.Proven = &s.Proven
		}
		d.Escrows = append(d.Escrows, e)
	}
	for _, x := range r.Drills {
		d.Drills = append(d.Drills, pastDrillDoc{x.ID, timeDoc(x.Time), x.Verdict, x.Reason, x.Full, x.Person,
			x.Took.Seconds(), x.Total, x.Hearsay, append([]ledger.Entry{}, x.Copies...)})
	}
	for _, s := range r.Keys {
		d.Keys = append(d.Keys, keySpanDoc{s.Key, s.By, timeDoc(s.From), timeDoc(s.To), s.Proofs})
	}
	return d
}

func chainDocOf(c agent.Chain) chainDoc {
	d := chainDoc{Whole: c.Whole(), Entries: c.Entries, First: timeDoc(c.First), Last: timeDoc(c.Last), Sum: c.Sum, Torn: c.Torn, Breaks: []lineDoc{}}
	for _, b := range c.Breaks {
		d.Breaks = append(d.Breaks, lineDoc{b.Line, b.Why})
	}
	for _, o := range c.Odd {
		d.Odd = append(d.Odd, lineDoc{o.Line, o.Why})
	}
	return d
}

func gapDocs(gaps []agent.Gap) []gapDoc {
	list := []gapDoc{}
	for _, g := range gaps {
		list = append(list, gapDoc{timeDoc(g.From), timeDoc(g.To), g.Days()})
	}
	return list
}
