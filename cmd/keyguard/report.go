package main

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

//go:embed report.html
var reportHTML string

// reportWindow is how far a report looks back where nobody says.
const reportWindow = 365 * 24 * time.Hour

func (a *app) reportCommand() *cobra.Command {
	var output, since, until, merge string
	var verify bool
	c := &cobra.Command{
		Use:   "report",
		Short: "what the drills have proven, for an auditor",
		Long: `report tells from this host's ledger which copies were restored and tried on the
rows, when, by whom and with what outcome, where there were gaps, and what was
not proven. With --output it makes one self-contained HTML page, and the same as
JSON beside it; without, it prints a summary. It opens no socket.

--verify checks the ledger's hash chain, and says at which line it breaks.
--merge makes one page or one summary of the JSON that many hosts' reports have
left in a directory, and asks this host for nothing.

Exit status: 0 done, every chain is whole; 11 one is broken, or there is no
ledger, or a file to merge is no report.`,
		Example: `  keyguard report --output audit.html --since 2026-01-01
  keyguard report --verify
  keyguard report --merge reports --output hosts.html`,
	}
	own := a.operate(func(_ context.Context, h *agent.Host, cfg *config.Config) error {
		if verify && output != "" {
			return usageError{errors.New("--verify writes no page: leave --output out")}
		}
		if verify {
			return a.verifyLedger(h)
		}
		o, err := reportOptions(since, until, h.Now())
		if err != nil {
			return usageError{err}
		}
		for _, e := range cfg.Escrows {
			o.Escrows = append(o.Escrows, e.Name)
		}
		return a.report(h, o, output)
	})
	c.RunE = func(c *cobra.Command, args []string) error {
		if merge == "" {
			return own(c, args)
		}
		if verify || since != "" || until != "" || a.json {
			return usageError{errors.New("--merge takes the reports as they are: it goes with --output alone")}
		}
		return a.mergeReports(merge, output)
	}
	c.Flags().StringVar(&output, "output", "", "write an HTML page to this `file`, ending in .html, and a .json beside it")
	c.Flags().StringVar(&since, "since", "", "the first `day`, 2026-01-31 or RFC 3339 (default a year ago)")
	c.Flags().StringVar(&until, "until", "", "the last `day` (default now)")
	c.Flags().StringVar(&merge, "merge", "", "sum up the reports in this `directory`, the .json of as many hosts")
	c.Flags().BoolVar(&verify, "verify", false, "check the ledger's hash chain, and nothing else")
	a.jsonFlag(c)
	return c
}

// reportOptions reads the window. A day is one of this host's time zone; the last one
// counts whole.
func reportOptions(since, until string, now time.Time) (agent.ReportOptions, error) {
	o := agent.ReportOptions{Since: now.Add(-reportWindow)}
	var err error
	if since != "" {
		if o.Since, _, err = parseDay(since); err != nil {
			return o, fmt.Errorf("--since: %w", err)
		}
	}
	if until != "" {
		var whole bool
		if o.Until, whole, err = parseDay(until); err != nil {
			return o, fmt.Errorf("--until: %w", err)
		}
		if whole {
			o.Until = o.Until.AddDate(0, 0, 1).Add(-time.Millisecond)
		}
	}
	switch {
	case o.Since.After(now):
		return o, fmt.Errorf("--since: %s is in the future", since)
	case !o.Until.IsZero() && o.Until.Before(o.Since):
		return o, errors.New("--until is before --since")
	}
	return o, nil
}

func parseDay(text string) (t time.Time, whole bool, err error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, false, nil
	}
	t, err = time.ParseInLocation(time.DateOnly, text, time.Local)
	if err != nil || t.Year() < 1970 {
		return t, false, fmt.Errorf("%q is no day, as 2026-01-31 is", text)
	}
	return t, true, nil
}

// verifyLedger checks the hash chain.
func (a *app) verifyLedger(h *agent.Host) error {
	r, err := agent.Report(h, agent.ReportOptions{})
	if err != nil {
		return noLedger(err)
	}
	if a.json {
		if err := a.printJSON(struct {
			Version int      `json:"version"`
			Chain   chainDoc `json:"chain"`
		}{jsonVersion, chainDocOf(r.Chain)}); err != nil {
			return err
		}
	} else {
		a.line("%s", chainText(r.Chain))
		for _, b := range r.Chain.Breaks {
			a.line("%s", breakText(b))
		}
		for _, o := range r.Chain.Odd {
			a.line("%s", oddText(o))
		}
		if r.Chain.Sum != "" {
			a.line("the last line's SHA-256: %s", r.Chain.Sum)
		}
	}
	return chainOutcome(r.Chain)
}

// noLedger is a ledger that cannot be looked at: nobody can tell what it proves.
func noLedger(err error) error {
	return outcome{exitDoubt, err.Error(), []string{remedyOf(err), "see what stands in the ledger's place: ls -l; what every key opens now: keyguard verify"}}
}

func chainOutcome(c agent.Chain) error {
	switch {
	case !c.Whole():
		return outcome{exitDoubt, fmt.Sprintf("the ledger's chain is broken at line %d", c.Breaks[0].Line),
			[]string{afterBreak(c)}}
	case c.Entries == 0:
		return outcome{exitDoubt, "the ledger has no entry: nothing was ever recorded here",
			[]string{"is this the right configuration? keyguard config"}}
	}
	return nil
}

// afterBreak is what to do about a chain that is broken.
func afterBreak(c agent.Chain) string {
	compare := "what stands before it proves nothing; compare it with the journal (journalctl -u containarium-keyguard)"
	if c.Accepted {
		return compare + "; a person has accepted the key since: keyguard log"
	}
	return compare + "; then, to vouch for the key that is there: keyguard accept"
}

func chainText(c agent.Chain) string {
	var b strings.Builder
	switch {
	case c.Entries == 0 && c.Whole():
		b.WriteString("The ledger has no entry.")
	case c.Whole():
		fmt.Fprintf(&b, "The chain is whole: %d entries, from %s to %s.", c.Entries, when(c.First), when(c.Last))
	default:
		fmt.Fprintf(&b, "The chain is broken %s: of its %d entries, those before line %d prove nothing.",
			times(len(c.Breaks)), c.Entries, c.Breaks[len(c.Breaks)-1].Line)
	}
	if c.Torn {
		b.WriteString(" Its last line was torn by a crash, and dropped.")
	}
	return b.String()
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func breakText(b ledger.Break) string { return fmt.Sprintf("line %d: %s", b.Line, b.Why) }

func oddText(o agent.OddDate) string {
	return fmt.Sprintf("line %d is dated %s, %s", o.Line, when(o.Time), o.Why)
}

func (a *app) report(h *agent.Host, o agent.ReportOptions, output string) error {
	r, err := agent.Report(h, o)
	if err != nil {
		return noLedger(err)
	}
	doc := reportDocOf(r)
	switch {
	case output != "":
		if filepath.Ext(output) != ".html" {
			return usageError{fmt.Errorf("--output: %q does not end in .html", output)}
		}
		page, err := reportPage(r)
		if err != nil {
			return err
		}
		data, err := json.MarshalIndent(doc, "", " ")
		if err != nil {
			return err
		}
		beside := strings.TrimSuffix(output, ".html") + ".json"
		if err := agent.SaveReport(beside, append(printable.JSON(data), '\n')); err != nil {
			return err
		}
		if err := agent.SaveReport(output, page); err != nil {
			return err
		}
		a.say("wrote %s and %s", output, beside)
		if a.json {
			if err := a.printJSON(doc); err != nil {
				return err
			}
		}
	case a.json:
		if err := a.printJSON(doc); err != nil {
			return err
		}
	default:
		a.printReport(r)
	}
	return chainOutcome(r.Chain)
}

// printReport is the page in few words.
func (a *app) printReport(r agent.ReportResult) {
	a.line("%s to %s: %s", when(covered(r)), when(r.Until), printable.Count(int64(len(r.Drills)), "drill"))
	if asked := askedSince(r); asked != "" {
		a.line("%s", asked)
	}
	section := func(title string, lines []string) {
		if len(lines) > 0 {
			a.line("")
			a.line("%s", title)
			for _, l := range lines {
				a.line("  %s", l)
			}
		}
	}
	section("proven", provenLines(r))
	section("not proven", unprovenLines(r))
	section("gaps", gapLines(r))
	a.line("")
	a.line("%s", chainText(r.Chain))
}

func provenLines(r agent.ReportResult) (list []string) {
	for _, s := range r.Escrows {
		e := s.Proven
		if e.Event == "" {
			continue
		}
		rows := fmt.Sprintf("all %s rows", count(e.Checked))
		switch {
		case e.Opened < e.Checked:
			rows = fmt.Sprintf("%s of %s rows, and no key at hand the others", count(e.Opened), count(e.Checked))
		case e.Checked < e.Total:
			rows = fmt.Sprintf("all of %s rows tried, of %s", count(e.Checked), count(e.Total))
		}
		list = append(list, fmt.Sprintf("%s: copy %s, key %s, was restored and opened %s, last at %s",
			s.Name, e.Copy, e.Fingerprint, rows, when(e.Time)))
	}
	return list
}

func unprovenLines(r agent.ReportResult) (list []string) {
	for _, s := range r.Escrows {
		switch {
		case s.Unknown:
			list = append(list, fmt.Sprintf("%s: the configuration no longer names it", s.Name))
		case s.Proven.Event == "" && len(s.Tries) == 0:
			list = append(list, fmt.Sprintf("%s: no drill tried it in this time", s.Name))
		case len(s.Tries) > 0:
			if t := s.Tries[len(s.Tries)-1]; t.Verdict != agent.DrillPassed {
				list = append(list, fmt.Sprintf("%s: %s at %s: %s", s.Name, t.Verdict, when(t.Time), t.Reason))
			}
		}
	}
	sampled, hearsay := 0, 0
	for _, d := range r.Drills {
		if d.Hearsay {
			hearsay++
		}
		if slices.ContainsFunc(d.Copies, func(e ledger.Entry) bool { return e.Checked > 0 && e.Checked < e.Total }) {
			sampled++
		}
	}
	if hearsay > 0 {
		list = append(list, fmt.Sprintf("%d drills stand before a break of the ledger's chain, and count for nothing", hearsay))
	}
	if sampled > 0 {
		list = append(list, fmt.Sprintf("%d drills tried a sample of the rows; --full tries every one", sampled))
	}
	return append(list,
		"that the database itself can be restored: keyguard keeps keys, not rows",
		"what happened after the last entry, or on another host")
}

func gapLines(r agent.ReportResult) (list []string) {
	say := func(what string, g agent.Gap) {
		list = append(list, fmt.Sprintf("%s for %d days, %s to %s", what, g.Days(), day(g.From), day(g.To)))
	}
	for _, g := range r.Gaps {
		say("no drill", g)
	}
	for _, s := range r.Escrows {
		for _, g := range s.Gaps {
			if !slices.Contains(r.Gaps, g) { // else it is said
				say(s.Name+": no copy proven", g)
			}
		}
	}
	return list
}

func day(t time.Time) string { return t.Local().Format(time.DateOnly) }

// count prints a number with thin spaces between thousands.
func count(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// took prints a duration for people.
func took(d time.Duration) string {
	switch {
	case d <= 0:
		return ""
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

// The page's view of a report: everything is text by now, and positions are percent of
// the window's width.
type (
	page struct {
		Host, Keyguard, Since, Until, Now, Zone string
		Asked                                   string // where the ledger begins later than was asked for
		Class, Verdict                          string
		Why, Proven, Unproven, Gaps             []string
		Rows                                    []timeline
		Keys                                    []bar
		Ticks                                   []bar
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
		X, W        float64
		Name, Title string
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

// reportTemplate parses the pages, for a command that makes one: every other is spared it.
func reportTemplate() *template.Template {
	return template.Must(template.New("report").Funcs(template.FuncMap{"breaks": breaks}).Parse(reportHTML))
}

// breaks lets a long name break behind a stroke, and nowhere within a word.
func breaks(name string) template.HTML {
	return template.HTML(strings.NewReplacer("/", "/<wbr>", "-", "-<wbr>").Replace(template.HTMLEscapeString(name))) //nolint:gosec // it is escaped
}

func reportPage(r agent.ReportResult) ([]byte, error) {
	var b bytes.Buffer
	// It escapes whatever the ledger says for the place where it stands.
	page := reportTemplate()
	if err := page.Execute(&b, pageOf(r)); err != nil {
		return nil, fmt.Errorf("cannot make the page: %w", err)
	}
	return []byte(printable.Page(b.String())), nil
}

func pageOf(r agent.ReportResult) page {
	zone := r.Now.Local().Format("MST (UTC-07:00)")
	p := page{
		Host: hostname(), Keyguard: version, Since: day(covered(r)), Until: day(r.Until), Now: when(r.Now), Zone: zone, Asked: askedSince(r),
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
	stretch := func(from, to time.Time, name, title string) bar {
		x := at(from)
		w := float64(int(100*(at(to)-x)+0.5)) / 100
		return bar{x, max(w, 0.3), name, title}
	}
	for _, s := range r.Escrows {
		row := timeline{Name: s.Name, Label: fmt.Sprintf("drills of %s: %d", s.Name, len(s.Tries))}
		for _, g := range s.Gaps {
			row.Gaps = append(row.Gaps, stretch(g.From, g.To, "", fmt.Sprintf("%d days without proof", g.Days())))
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
		p.Keys = append(p.Keys, stretch(from, s.To, string(s.Key), title))
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

// covered is when the time begins that the ledger really tells of.
func covered(r agent.ReportResult) time.Time {
	if r.Chain.First.After(r.Since) && r.Chain.First.Before(r.Until) {
		return r.Chain.First
	}
	return r.Since
}

func askedSince(r agent.ReportResult) string {
	if day(covered(r)) == day(r.Since) {
		return ""
	}
	return "The ledger begins on " + day(covered(r)) + "; asked for was the time since " + day(r.Since) + "."
}

func reportVerdict(r agent.ReportResult) (class, verdict string, why []string) {
	proven, names := 0, 0
	for _, s := range r.Escrows {
		if s.Unknown {
			continue
		}
		names++
		if s.Proven.Event != "" {
			proven++
		}
		if n := len(s.Tries); n > 0 && s.Tries[n-1].Verdict != agent.DrillPassed {
			why = append(why, fmt.Sprintf("The last drill of %s %s.", s.Name, map[bool]string{true: "failed", false: "was inconclusive"}[s.Tries[n-1].Verdict == agent.DrillFailed]))
		}
	}
	if n := len(gapLines(r)); n > 0 {
		why = append(why, fmt.Sprintf("There are gaps: %d, listed below.", n))
	}
	class = "good"
	switch {
	case !r.Chain.Whole():
		return "bad", "The record is damaged: its hash chain is broken.", append([]string{chainText(r.Chain)}, why...)
	case proven == 0:
		return "bad", "No copy in any escrow was proven in this time.", why
	case proven < names:
		class, verdict = "dim", fmt.Sprintf("%d of %d escrows were proven in this time.", proven, names)
	default:
		verdict = fmt.Sprintf("Every escrow was proven at least once in this time: %d of %d.", proven, names)
		if len(why) > 0 {
			class = "dim"
		}
	}
	return class, verdict, why
}

func (r drillRun) alike(v drillView) bool {
	return r.Drills[0].Class == v.Class && r.Drills[0].Line == v.Line
}

// First is the newest; Count and Span are for a run of several.
func (r drillRun) First() drillView { return r.Drills[0] }
func (r drillRun) Count() int       { return len(r.Drills) }
func (r drillRun) Span() string {
	return r.Drills[len(r.Drills)-1].Day() + " to " + r.Drills[0].Day()
}

// Day is the day alone.
func (v drillView) Day() string { return v.When[:len(time.DateOnly)] }

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
func ticks(since, until time.Time, at func(time.Time) float64) []bar {
	var list []bar
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
			list = append(list, bar{X: x, Name: t.Format(form)})
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
var ruleCode = regexp.MustCompile(`^R[1-5]: `)

func historyViewOf(e ledger.Entry) historyView {
	e.Reason = ruleCode.ReplaceAllString(e.Reason, "")
	v := historyView{When: when(e.Time), What: cmp.Or(inWords[e.Event], string(e.Event)), Key: string(e.Fingerprint), Where: e.Escrow, Why: e.Reason}
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
	d := reportDoc{Version: jsonVersion, Host: hostname(), Keyguard: version, Since: timeDoc(r.Since), Until: timeDoc(r.Until),
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
