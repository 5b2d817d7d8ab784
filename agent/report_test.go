package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
)

const (
	reportKeyA key.Fingerprint = "aaaaaaaaaaaaaaaa"
	reportKeyB key.Fingerprint = "bbbbbbbbbbbbbbbb"
)

// noon is noon of a day of the reports' tests: of March, and on.
func noon(d int) time.Time { return time.Date(2026, 3, d, 12, 0, 0, 0, time.UTC) }

// drillOn is a drill of one escrow.
func drillOn(d int, escrow string, v DrillVerdict) []ledger.Entry {
	id := fmt.Sprintf("drill-%d", d)
	return []ledger.Entry{
		{Time: noon(d), Event: ledger.Drilled, Drill: id, Escrow: escrow, Copy: "current/1", Judged: true, Fingerprint: reportKeyA,
			Verdict: string(v), Checked: 10, Opened: 10, Total: 10},
		{Time: noon(d), Event: ledger.Drilled, Drill: id, Escrow: escrow, Copy: "current/0", Fingerprint: reportKeyB, Verdict: string(DrillFailed)},
		{Time: noon(d), Event: ledger.DrillEnded, Drill: id, Verdict: string(v), Took: time.Second, Person: "ada"},
	}
}

// reported is what a ledger of these entries reports of March.
func reported(t *testing.T, edit func([]string) []string, entries ...ledger.Entry) ReportResult {
	t.Helper()
	dir := t.TempDir()
	l := ledger.Open(dir, ledger.Options{Host: "web1"})
	if len(entries) > 0 {
		if err := l.Append(entries...); err != nil {
			t.Fatal(err)
		}
	}
	if edit != nil {
		path := filepath.Join(dir, ledger.Name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := edit(strings.SplitAfter(strings.TrimSuffix(string(data), "\n"), "\n"))
		if err := os.WriteFile(path, []byte(strings.Join(lines, "")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Report(&Host{Ledger: l, Now: func() time.Time { return noon(31) }}, ReportOptions{Since: noon(1), Escrows: []string{"usb"}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func joined(lists ...[]ledger.Entry) (all []ledger.Entry) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// gapText is gaps as "3-17 17-31".
func gapText(gaps []Gap) string {
	var s []string
	for _, g := range gaps {
		s = append(s, fmt.Sprintf("%d-%d", g.From.Day(), g.To.Day()))
	}
	return strings.Join(s, " ")
}

func TestReportGaps(t *testing.T) {
	begin := []ledger.Entry{{Time: noon(1).AddDate(0, -1, 0), Event: ledger.Made}}
	for name, c := range map[string]struct {
		entries      []ledger.Entry
		drills       int
		gaps, proven string // without a drill; without a proof
	}{
		"nothing was ever drilled": {begin, 0, "1-31", "1-31"},
		"every week":               {joined(begin, drillOn(6, "usb", DrillPassed), drillOn(13, "usb", DrillPassed), drillOn(20, "usb", DrillPassed), drillOn(27, "usb", DrillPassed)), 4, "", ""},
		"one week failed":          {joined(begin, drillOn(6, "usb", DrillPassed), drillOn(13, "usb", DrillFailed), drillOn(20, "usb", DrillPassed), drillOn(27, "usb", DrillPassed)), 4, "", "6-20"},
		"inconclusive proves not":  {joined(begin, drillOn(8, "usb", DrillPassed), drillOn(16, "usb", DrillInconclusive), drillOn(24, "usb", DrillPassed)), 3, "", "8-24"},
		"eight days are no gap":    {joined(begin, drillOn(8, "usb", DrillPassed), drillOn(16, "usb", DrillPassed), drillOn(24, "usb", DrillPassed)), 3, "", ""},
		"another escrow":           {joined(begin, drillOn(8, "gcp", DrillPassed), drillOn(16, "gcp", DrillPassed), drillOn(24, "gcp", DrillPassed)), 3, "", "1-31"},
		"the ledger begins later":  {joined([]ledger.Entry{{Time: noon(20), Event: ledger.Made}}, drillOn(26, "usb", DrillPassed)), 1, "", ""},
		"no ledger":                {nil, 0, "1-31", "1-31"},
		"from the future":          {joined(begin, drillOn(40, "usb", DrillPassed)), 0, "1-31", "1-31"},
		"one that never ended":     {joined(begin, drillOn(8, "usb", DrillPassed)[:1]), 1, "1-31", "8-31"},
		"before the window":        {joined([]ledger.Entry{{Time: noon(-20), Event: ledger.Made}}, drillOn(-3, "usb", DrillPassed)), 0, "1-31", "1-31"},
	} {
		t.Run(name, func(t *testing.T) {
			r := reported(t, nil, c.entries...)
			if !r.Chain.Whole() {
				t.Fatalf("broken: %v", r.Chain.Breaks)
			}
			if len(r.Drills) != c.drills || gapText(r.Gaps) != c.gaps || gapText(r.Escrows[0].Gaps) != c.proven {
				t.Errorf("%d drills, gaps %q, of the escrow %q; want %d, %q, %q", len(r.Drills), gapText(r.Gaps), gapText(r.Escrows[0].Gaps), c.drills, c.gaps, c.proven)
			}
		})
	}
}

// TestReportOfADrill: who, when, which copy, how many rows, how long.
func TestReportOfADrill(t *testing.T) {
	r := reported(t, nil, drillOn(6, "usb", DrillPassed)...)
	d := r.Drills[0]
	if d.ID != "drill-6" || d.Person != "ada" || d.Took != time.Second || d.Verdict != "passed" || d.Total != 10 || d.Host != "web1" ||
		len(d.Copies) != 2 || d.Line != 3 {
		t.Errorf("%+v", d)
	}
	// The copy that is only reported makes no verdict.
	s := r.Escrows[0]
	if s.Proven.Copy != "current/1" || len(s.Tries) != 1 || s.Tries[0].Verdict != "passed" {
		t.Errorf("%+v", s)
	}
}

// TestReportOfABrokenChain: what stands before a break proves nothing, and the report says
// which line.
func TestReportOfABrokenChain(t *testing.T) {
	entries := joined(drillOn(6, "usb", DrillPassed), drillOn(13, "usb", DrillPassed), drillOn(20, "usb", DrillFailed))
	for name, c := range map[string]struct {
		edit    func([]string) []string
		line    int
		hearsay int
		proven  bool
	}{
		"a verdict changed": {func(l []string) []string { l[3] = strings.Replace(l[3], "passed", "failed", 1); return l }, 5, 2, false},
		"a line taken out":  {func(l []string) []string { return append(l[:4], l[5:]...) }, 5, 2, false},
		"lines swapped":     {func(l []string) []string { l[0], l[1] = l[1], l[0]; return l }, 1, 1, true},
		"the first gone":    {func(l []string) []string { return l[3:] }, 1, 0, true},
		"garbage between":   {func(l []string) []string { l[2] = "what is this\n"; return l }, 3, 1, true},
		"a line added":      {func(l []string) []string { return append(l, "\n"+strings.TrimSuffix(l[1], "\n")) }, 10, 3, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := reported(t, c.edit, entries...)
			if r.Chain.Whole() || r.Chain.Breaks[0].Line != c.line {
				t.Fatalf("breaks %v, want one at line %d", r.Chain.Breaks, c.line)
			}
			hearsay := 0
			for _, d := range r.Drills {
				if d.Hearsay {
					hearsay++
				}
			}
			if hearsay != c.hearsay {
				t.Errorf("%d drills are hearsay, not %d", hearsay, c.hearsay)
			}
			if proven := r.Escrows[0].Proven.Event != ""; proven != c.proven {
				t.Errorf("proven: %v", proven)
			}
		})
	}
}

func TestReportOfOddDates(t *testing.T) {
	made := func(d int) ledger.Entry { return ledger.Entry{Time: noon(d), Event: ledger.Made} }
	for name, c := range map[string]struct {
		days  []int
		lines []int
	}{
		"in order":        {[]int{3, 4, 4, 9}, nil},
		"in the future":   {[]int{3, 50, 4}, []int{2}},
		"back":            {[]int{3, 9, 4, 10}, []int{3}},
		"from long ago":   {[]int{9, -400}, []int{2}},
		"all from beyond": {[]int{60, 61}, []int{1, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			var entries []ledger.Entry
			for _, d := range c.days {
				entries = append(entries, made(d))
			}
			var lines []int
			for _, o := range reported(t, nil, entries...).Chain.Odd {
				lines = append(lines, o.Line)
			}
			if fmt.Sprint(lines) != fmt.Sprint(c.lines) {
				t.Errorf("lines %v, not %v", lines, c.lines)
			}
		})
	}
}

func TestReportOfKeys(t *testing.T) {
	entry := func(d int, e ledger.Event, f key.Fingerprint) ledger.Entry {
		return ledger.Entry{Time: noon(d), Event: e, Fingerprint: f}
	}
	for name, c := range map[string]struct {
		entries []ledger.Entry
		want    string
	}{
		"none":                    {nil, ""},
		"one":                     {[]ledger.Entry{entry(3, ledger.Proven, reportKeyA), entry(4, ledger.Proven, reportKeyA)}, "aaaaaaaaaaaaaaaa 3-31 2"},
		"from before":             {[]ledger.Entry{entry(-3, ledger.Proven, reportKeyA), entry(4, ledger.Proven, reportKeyA)}, "aaaaaaaaaaaaaaaa 25-31 1"},
		"another":                 {[]ledger.Entry{entry(3, ledger.Proven, reportKeyA), entry(9, ledger.Accepted, reportKeyB)}, "aaaaaaaaaaaaaaaa 3-9 1, bbbbbbbbbbbbbbbb 9-31 0"},
		"contradicted":            {[]ledger.Entry{entry(3, ledger.Proven, reportKeyA), entry(9, ledger.Contradicted, reportKeyA)}, "aaaaaaaaaaaaaaaa 3-9 1,  9-31 0"},
		"another is contradicted": {[]ledger.Entry{entry(3, ledger.Proven, reportKeyA), entry(9, ledger.Contradicted, reportKeyB)}, "aaaaaaaaaaaaaaaa 3-31 1"},
		"over before the window":  {[]ledger.Entry{entry(-9, ledger.Proven, reportKeyB), entry(-8, ledger.Proven, reportKeyA)}, "aaaaaaaaaaaaaaaa 20-31 0"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, s := range reported(t, nil, c.entries...).Keys {
				got = append(got, fmt.Sprintf("%s %d-%d %d", s.Key, s.From.Day(), s.To.Day(), s.Proofs))
			}
			if strings.Join(got, ", ") != c.want {
				t.Errorf("%q, not %q", strings.Join(got, ", "), c.want)
			}
		})
	}
}

func TestSaveReport(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "r.html")
	for _, text := range []string{"one", "two"} {
		if err := SaveReport(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(path); string(got) != text {
			t.Errorf("%q", got)
		}
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v", info.Mode())
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{dir, link, "/dev/null", filepath.Join(dir, "none/r.html")} {
		if err := SaveReport(bad, []byte("x")); err == nil {
			t.Errorf("%s was written", bad)
		}
	}
	if got, _ := os.ReadFile(path); string(got) != "two" {
		t.Errorf("%q", got)
	}
}
