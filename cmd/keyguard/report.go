package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

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

// checkPage refuses an --output at which no page can be written, before anything is done.
func checkPage(output string) error {
	if output != "" && filepath.Ext(output) != ".html" {
		return usageError{fmt.Errorf("--output: %q does not end in .html", output)}
	}
	return checkPath("--output", output)
}

// checkPath refuses a path of a flag where no file can be written, before anything is done.
func checkPath(flag, path string) error {
	if path == "" {
		return nil
	}
	if err := agent.Replaceable(path); err != nil {
		return usageError{fmt.Errorf("%s: %w", flag, err)}
	}
	return nil
}

func (a *app) report(h *agent.Host, o agent.ReportOptions, output string) error {
	beside := ""
	if err := checkPage(output); err != nil {
		return err
	}
	if output != "" {
		beside = strings.TrimSuffix(output, ".html") + ".json"
	}
	if err := checkPath("--output", beside); err != nil {
		return err
	}
	r, err := agent.Report(h, o)
	if err != nil {
		return noLedger(err)
	}
	doc := reportDocOf(r)
	switch {
	case output != "":
		page, err := pageOf(r).html()
		if err != nil {
			return err
		}
		data, err := json.MarshalIndent(doc, "", " ")
		if err != nil {
			return err
		}
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
		list = append(list, printable.Count(int64(hearsay), "drill")+" from before a break of the ledger's chain: no proof any more")
	}
	if sampled > 0 {
		list = append(list, printable.Count(int64(sampled), "drill")+" of a sample of the rows; --full tries every one")
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
		class, verdict = "dim", fmt.Sprintf("Proven in this time: %d of %s.", proven, printable.Count(int64(names), "escrow"))
	default:
		verdict = fmt.Sprintf("Every escrow was proven at least once in this time: %d of %d.", proven, names)
		if len(why) > 0 {
			class = "dim"
		}
	}
	return class, verdict, why
}
