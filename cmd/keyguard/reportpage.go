package main

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/cmd/keyguard/start"
)

// The page's view of a report: everything is text by now, and positions are percent of
// the window's width.
type (
	page struct {
		Host, Keyguard, Since, Until, Now, Zone string
		Asked                                   string // where the ledger begins later than was asked for
		Class, Verdict                          string
		Why, Proven, Unproven, Gaps             []string
		Rows                                    []timeline
		Keys                                    []keyBar
		Ticks                                   []tick
		Drills                                  []drillRun
		Spans                                   []spanView
		History                                 []historyView
		Chain, Sum                              string
		Breaks, Odd                             []string
	}
	timeline struct {
		Name, Label string
		Gaps        []bar
		Marks       []mark
	}
	bar struct {
		X, W  float64
		Title string
	}
	keyBar struct {
		bar
		Name string // "" where no key was known
	}
	tick struct {
		X    float64
		Name string
	}
	mark struct {
		X            float64
		Shape, Title string
		Hearsay      bool
	}
	drillView struct {
		When, Class, Verdict, Line, Note string
		Copies                           []copyView
	}
	// drillRun is a drill, or several that passed alike one after the other, the newest first.
	drillRun    struct{ Drills []drillView }
	copyView    struct{ Escrow, Copy, Key, Verdict, Rows, Took string }
	spanView    struct{ Key, From, To, By string }
	historyView struct{ When, What, Key, Where, Why string }
)

func pageOf(r agent.ReportResult) page {
	zone := r.Now.Local().Format("MST (UTC-07:00)")
	p := page{
		Host: start.Hostname(), Keyguard: version, Since: day(covered(r)), Until: day(r.Until), Now: when(r.Now), Zone: zone, Asked: askedSince(r),
		Proven: provenLines(r), Unproven: unprovenLines(r), Gaps: gapLines(r),
		Chain: chainText(r.Chain), Sum: r.Chain.Sum,
	}
	p.Class, p.Verdict, p.Why = reportVerdict(r)
	for _, b := range r.Chain.Breaks {
		p.Breaks = append(p.Breaks, breakText(b))
	}
	for _, o := range r.Chain.Odd {
		p.Odd = append(p.Odd, oddText(o))
	}
	span := r.Until.Sub(r.Since)
	at := func(t time.Time) float64 {
		x := 100 * float64(t.Sub(r.Since)) / float64(max(span, 1))
		return float64(int(100*min(max(x, 0), 100))) / 100
	}
	stretch := func(from, to time.Time, title string) bar {
		x := at(from)
		w := float64(int(100*(at(to)-x)+0.5)) / 100
		return bar{x, max(w, 0.3), title}
	}
	for _, s := range r.Escrows {
		row := timeline{Name: s.Name, Label: fmt.Sprintf("drills of %s: %d", s.Name, len(s.Tries))}
		for _, g := range s.Gaps {
			row.Gaps = append(row.Gaps, stretch(g.From, g.To, fmt.Sprintf("%d days without proof", g.Days())))
		}
		for _, t := range s.Tries {
			row.Marks = append(row.Marks, mark{at(t.Time), shape(t.Verdict), strings.TrimSuffix(when(t.Time)+" "+string(t.Verdict)+": "+t.Reason, ": "), t.Hearsay})
		}
		p.Rows = append(p.Rows, row)
	}
	for _, s := range r.Keys {
		from := s.From
		if from.Before(r.Since) {
			from = r.Since
		}
		title := "no key was known"
		if s.Key != "" {
			title = fmt.Sprintf("key %s, %s to %s", s.Key, day(s.From), day(s.To))
		}
		p.Keys = append(p.Keys, keyBar{stretch(from, s.To, title), string(s.Key)})
		p.Spans = append(p.Spans, spanView{orNone(s.Key), when(s.From), when(s.To), spanBy(s)})
	}
	p.Ticks = ticks(r.Since, r.Until, at)
	for _, d := range slices.Backward(r.Drills) {
		v := drillViewOf(d)
		// Drills that passed alike, week after week, are one line that opens.
		if n := len(p.Drills); n > 0 && d.Verdict == agent.DrillPassed && !d.Hearsay && p.Drills[n-1].alike(v) {
			p.Drills[n-1].Drills = append(p.Drills[n-1].Drills, v)
			continue
		}
		p.Drills = append(p.Drills, drillRun{Drills: []drillView{v}})
	}
	for _, e := range r.History {
		p.History = append(p.History, historyViewOf(e))
	}
	return p
}

func (r drillRun) alike(v drillView) bool {
	return r.Drills[0].Class == v.Class && r.Drills[0].Line == v.Line
}

// days are those of the first drill and of the last.
func (r drillRun) days() string {
	return r.Drills[len(r.Drills)-1].day() + " to " + r.Drills[0].day()
}

// day is the day alone.
func (v drillView) day() string { return v.When[:len(time.DateOnly)] }

func shape(verdict agent.DrillVerdict) string {
	switch verdict {
	case agent.DrillPassed:
		return "p"
	case agent.DrillFailed:
		return "f"
	}
	return "i"
}

func spanBy(s agent.KeySpan) string {
	switch {
	case s.Key == "":
		return "the last known key opens no row any more, or a rotation ended without one"
	case s.By == ledger.Accepted && s.Proofs == 0:
		return "a person's word"
	case s.Proofs == 1:
		return "opened the rows once in this time"
	}
	return fmt.Sprintf("opened the rows %s times in this time", count(int64(s.Proofs)))
}

// ticks are the months in the window; the days in one that is short.
func ticks(since, until time.Time, at func(time.Time) float64) []tick {
	var list []tick
	s := since.Local()
	next, form := func(t time.Time) time.Time { return t.AddDate(0, 1, 0) }, "Jan"
	t := time.Date(s.Year(), s.Month(), 1, 0, 0, 0, 0, time.Local)
	switch days := until.Sub(since).Hours() / 24; {
	case days > 3*366:
		next, form = func(t time.Time) time.Time { return t.AddDate(1, 0, 0) }, "2006"
		t = time.Date(s.Year(), 1, 1, 0, 0, 0, 0, time.Local)
	case days > 400:
		next, form = func(t time.Time) time.Time { return t.AddDate(0, 6, 0) }, "Jan 06"
	case days <= 21:
		next, form = func(t time.Time) time.Time { return t.AddDate(0, 0, 3) }, "2 Jan"
		t = time.Date(s.Year(), s.Month(), s.Day(), 0, 0, 0, 0, time.Local)
	case days <= 70:
		next, form = func(t time.Time) time.Time { return t.AddDate(0, 0, 14) }, "2 Jan"
	}
	for ; !t.After(until); t = next(t) {
		if x := at(t); !t.Before(since) && x < 96 {
			list = append(list, tick{x, t.Format(form)})
		}
	}
	return list
}

// drillMeaning says in words what a drill has shown: of the newest copy in each escrow, which
// are judged, and of the older ones, which open old dumps or nothing.
func drillMeaning(d agent.Drilled) (parts []string) {
	names := map[string]bool{}
	var opened, checked, total, older int64
	for _, c := range d.Copies {
		switch {
		case c.Escrow == "":
		case c.Copy != "" && !c.Judged:
			older++
		default:
			names[c.Escrow] = names[c.Escrow] || agent.DrillVerdict(c.Verdict) == agent.DrillPassed
			if agent.DrillVerdict(c.Verdict) == agent.DrillPassed {
				opened, checked, total = c.Opened, c.Checked, max(total, c.Total)
			}
		}
	}
	proven := 0
	for _, p := range names {
		if p {
			proven++
		}
	}
	rows := "all " + count(checked) + " rows"
	switch {
	case checked == 1 && opened == 1 && total <= 1:
		rows = "the only row"
	case opened < checked:
		rows = fmt.Sprintf("%s of %s rows", count(opened), count(checked))
	case checked < total:
		rows = fmt.Sprintf("all %s rows tried, of %s", count(checked), count(total))
	}
	switch {
	case proven == 0:
		parts = append(parts, "no copy was proven")
	case proven == 1 && len(names) == 1:
		parts = append(parts, "the newest copy opened "+rows)
	case proven == len(names):
		parts = append(parts, fmt.Sprintf("the newest copy of each of %d escrows opened %s", proven, rows))
	default:
		parts = append(parts, fmt.Sprintf("the newest copy of %d of %d escrows opened %s", proven, len(names), rows))
	}
	if older > 0 {
		parts = append(parts, printable.Count(older, "older copy")+" tried")
		if older != 1 {
			parts[len(parts)-1] = count(older) + " older copies tried"
		}
	}
	if d.Verdict != agent.DrillPassed && d.Reason != "" {
		parts = append([]string{d.Reason}, parts...)
	}
	return parts
}

func drillViewOf(d agent.Drilled) drillView {
	v := drillView{When: d.Time.Local().Format("2006-01-02 15:04"), Verdict: string(d.Verdict)}
	switch {
	case d.Verdict == "":
		v.Verdict, v.Class = "not finished", "dim"
	case d.Verdict == agent.DrillPassed:
		v.Class = "good"
	case d.Verdict == agent.DrillFailed:
		v.Class = "bad"
	default:
		v.Class = "dim"
	}
	parts := drillMeaning(d)
	if d.Person != "" {
		parts = append(parts, "by "+d.Person)
	}
	v.Line = strings.Join(parts, "; ")
	about := []string{fmt.Sprintf("Drill %s on %s, keyguard %s", d.ID, d.Host, d.Version)}
	if d.Config != "" {
		about = append(about, "configuration "+d.Config[:min(12, len(d.Config))])
	}
	if d.Full {
		about = append(about, "every row tried")
	}
	if d.Took > 0 {
		about = append(about, "took "+took(d.Took))
	}
	about = append(about, fmt.Sprintf("%s rows depended on the key; the ledger's line %d", count(d.Total), d.Line))
	v.Note = strings.Join(about, ", ") + "."
	if d.Hearsay {
		v.Note += " It stands before a break of the chain, and counts for nothing."
	}
	for _, e := range d.Copies {
		c := copyView{Escrow: e.Escrow, Copy: e.Copy, Key: string(e.Fingerprint), Verdict: e.Verdict, Took: took(e.Took)}
		if e.Judged {
			c.Verdict += ", judged"
		}
		if agent.DrillVerdict(e.Verdict) != agent.DrillPassed && e.Reason != "" {
			c.Verdict += ": " + e.Reason
		}
		if e.Checked > 0 {
			c.Rows = count(e.Opened) + " of " + count(e.Checked)
		}
		v.Copies = append(v.Copies, c)
	}
	return v
}

// inWords is what an auditor reads for an event of the ledger.
var inWords = map[ledger.Event]string{
	ledger.Accepted: "accepted by a person", ledger.Contradicted: "found to open no row", ledger.RotationOpen: "rotation begun",
	ledger.CommitBegun: "rotation: commit begun", ledger.Rotated: "rotated", ledger.RotationClosed: "rotation settled",
	ledger.Stopped: "daemon stopped", ledger.Started: "daemon started", ledger.Made: "first key made", ledger.Saved: "saved",
	ledger.Adopted: "copy taken over by a person", ledger.Installed: "put into place", ledger.Parked: "daemon parked without a key",
	ledger.Minted: "made by the daemon itself", ledger.StartedOn: "read by the daemon", ledger.Exposed: "exposed to other users",
	ledger.Restored: "restored by a person", ledger.Imported: "imported by a person", ledger.Printed: "printed on paper",
	ledger.Repaired: "rows brought under one key", ledger.UnitFailed: "a unit of keyguard's failed",
}

// ruleCode is the name of a rule of decide in front of a reason: it says nothing to auditors.
var ruleCode = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^R[1-5]: `) })

func historyViewOf(e ledger.Entry) historyView {
	e.Reason = ruleCode().ReplaceAllString(e.Reason, "")
	v := historyView{When: when(e.Time), What: cmp.Or(inWords[e.Event], string(e.Event)), Key: string(e.Fingerprint), Where: cmp.Or(e.Escrow, e.Unit), Why: e.Reason}
	if e.Copy != "" {
		v.Where += " " + e.Copy
	}
	if e.Old != "" {
		v.Key += " in place of " + string(e.Old)
	}
	if e.Person != "" {
		v.Why = strings.TrimSuffix(e.Person+": "+v.Why, ": ")
	}
	return v
}
