package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
)

// year is the ledger of a year: a drill a week over five escrows of ten copies, hourly
// proofs of two keys and a rotation between them, and what goes wrong in a year.
func year(t testing.TB) *agent.Host {
	t.Helper()
	now := time.Date(2026, 11, 25, 4, 0, 0, 0, time.UTC)
	clock := now.AddDate(-1, 0, 0)
	l := ledger.Open(t.TempDir(), ledger.Options{Host: "web1", Version: "1.0", Config: strings.Repeat("c0ffee", 10), Now: func() time.Time { return clock }})
	a, b := testKey("a").Fingerprint(), testKey("b").Fingerprint()
	live, others := a, b
	entries := []ledger.Entry{{Event: ledger.Made, Fingerprint: a, Person: "olga", Reason: "no copy of any key exists anywhere"}}
	escrows := []string{"gcp", "gcp-other-project", "vault", "usb", "1password"}
	flush := func() {
		if err := l.Append(entries...); err != nil {
			t.Fatal(err)
		}
		entries = nil
	}
	for week := range 52 {
		clock = now.AddDate(-1, 0, 7*week).Add(time.Duration(week%5) * time.Hour)
		if week == 30 {
			entries = append(entries, ledger.Entry{Event: ledger.RotationOpen, Old: a, Fingerprint: b, Person: "olga"},
				ledger.Entry{Event: ledger.Rotated, Old: a, Fingerprint: b, Person: "olga", Checked: 1204, Took: 800 * time.Millisecond})
			live, others = b, a
		}
		if week == 20 {
			entries = append(entries, ledger.Entry{Event: ledger.UnitFailed, Unit: "containarium-keyguard-drill.service"})
		}
		for range 24 * 7 {
			entries = append(entries, ledger.Entry{Event: ledger.Proven, Fingerprint: live, Verdict: "opens", Checked: 1204, Opened: 1204, Total: 1204})
		}
		flush()
		if week == 12 || week == 13 { // the timer was off
			continue
		}
		id, verdict := fmt.Sprintf("%04d-drill", week), agent.DrillPassed
		for _, name := range escrows {
			for n := range 10 {
				e := ledger.Entry{Event: ledger.Drilled, Drill: id, Escrow: name, Copy: fmt.Sprintf("current/%d", 20-n), Shelf: "current",
					Fingerprint: live, Verdict: string(agent.DrillPassed), Reason: "it opens all 1204 rows", Judged: n == 0,
					Checked: 1204, Opened: 1204, Total: 1204, Took: 40 * time.Millisecond}
				if n > 6 {
					e.Shelf, e.Copy, e.Fingerprint = "quarantine", fmt.Sprintf("quarantine/%d", n), others
					e.Opened, e.Verdict, e.Reason = 0, string(agent.DrillFailed), "key "+string(others)+" opens none of 1204 rows"
				}
				if name == "usb" { // as a directory names its copies
					e.Copy = fmt.Sprintf("current/202611%02dT040000.000Z-%s.key", 27-n, live)
				}
				if n == 0 && name == "usb" && week%6 > 2 {
					e.Copy, e.Fingerprint, e.Verdict, e.Checked, e.Opened = "", "", string(agent.DrillInconclusive), 0, 0
					e.Reason = "cannot list /mnt/keys: no such place: it is not mounted"
				}
				if n == 0 && name == "vault" && week == 40 {
					e.Verdict, e.Opened, e.Reason, verdict = string(agent.DrillFailed), 0, "the copy is not a key: destroyed by value=@file", agent.DrillFailed
				}
				entries = append(entries, e)
			}
		}
		reason := "the newest current copy of every escrow that answers opens the rows"
		if verdict == agent.DrillFailed {
			reason = "vault: the copy is not a key: destroyed by value=@file"
		}
		entries = append(entries, ledger.Entry{Event: ledger.DrillEnded, Drill: id, Verdict: string(verdict), Reason: reason, Checked: 1204, Total: 1204, Took: 900 * time.Millisecond, Person: "root"})
		flush()
	}
	return &agent.Host{Ledger: l, Now: func() time.Time { return now }}
}

func reportOf(t testing.TB, h *agent.Host) agent.ReportResult {
	t.Helper()
	r, err := agent.Report(h, agent.ReportOptions{Since: h.Now().Add(-reportWindow), Escrows: []string{"gcp", "gcp-other-project", "vault", "usb", "1password"}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestReportOfAYear: one file under a megabyte that asks nobody for anything.
func TestReportOfAYear(t *testing.T) {
	r := reportOf(t, year(t))
	page, err := pageOf(r).html()
	if err != nil {
		t.Fatal(err)
	}
	if len(page) > 1e6 {
		t.Errorf("the page of a year has %d bytes", len(page))
	}
	t.Logf("%d bytes, %d drills", len(page), len(r.Drills))
	for _, outside := range []string{"http:", "https:", "<script", "<link", "<img", "@import", "url(/", "src="} {
		if bytes.Contains(page, []byte(outside)) {
			t.Errorf("the page has %q: it is to need nothing else, and to run nothing", outside)
		}
	}
	if m := regexp.MustCompile(`url\([^#][^)]*\)`).Find(page); m != nil {
		t.Errorf("the page has %s", m)
	}
	for _, want := range []string{"no drill for", "destroyed by value=@file", string(testKey("a").Fingerprint()), "every escrow was proven at least once", "by root", "took 900ms", "#f", "#i",
		"the newest copy of each of 5 escrows opened all 1\u202f204 rows; 45 older copies tried", "3 passed", "rotation begun", "containarium-keyguard-drill.service"} {
		if !strings.Contains(strings.ToLower(strings.ReplaceAll(string(page), "<wbr>", "")), strings.ToLower(want)) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

// TestReportEscapes: whoever can name a copy in a store, or edits the ledger, writes text
// and no more.
func TestReportEscapes(t *testing.T) {
	now := time.Now()
	l := ledger.Open(t.TempDir(), ledger.Options{Host: `"><svg onload=alert(1)>`, Version: "1"})
	evil := `</title></svg><script>alert("&amp;'`
	for _, e := range []ledger.Entry{
		{Event: ledger.Drilled, Drill: evil, Escrow: evil, Copy: evil, Verdict: evil, Reason: evil, Judged: true},
		{Event: ledger.DrillEnded, Drill: evil, Verdict: evil, Reason: evil, Person: evil},
		{Event: ledger.Event(evil), Escrow: evil, Copy: evil, Person: evil, Reason: evil + "\x00\u202e"},
	} {
		if err := l.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	r, err := agent.Report(&agent.Host{Ledger: l, Now: time.Now}, agent.ReportOptions{Since: now.Add(-time.Hour), Escrows: []string{evil}})
	if err != nil {
		t.Fatal(err)
	}
	p := pageOf(r)
	p.Host = "web\n1"
	page, err := p.html()
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range []string{"<script", "<svg onload"} {
		if bytes.Contains(page, []byte(raw)) {
			t.Errorf("%q stands in the page", raw)
		}
	}
	if _, after, _ := strings.Cut(string(page), "<title>"); !strings.HasPrefix(after, "keyguard: web") || strings.Contains(strings.SplitN(after, "</title>", 2)[0], "\n") {
		t.Errorf("the title is no line: %.200q", after)
	}
	if !strings.Contains(html.UnescapeString(string(page)), evil) {
		t.Error("what the ledger says is not told")
	}
	if _, err := json.Marshal(reportDocOf(r)); err != nil {
		t.Error(err)
	}
}

func TestReportOptions(t *testing.T) {
	now := time.Date(2026, 11, 25, 4, 0, 0, 0, time.Local)
	for _, c := range []struct{ since, until, wrong string }{
		{since: "", until: ""},
		{since: "2026-01-31"},
		{since: "2026-01-31T10:00:00Z", until: "2026-02-01"},
		{since: "2026-02-30", wrong: "no day"},
		{since: "last week", wrong: "no day"},
		{since: "31.1.2026", wrong: "no day"},
		{since: "0001-01-01", wrong: "no day"},
		{since: "2027-01-01", wrong: "future"},
		{since: "2026-02-01", until: "2026-01-31", wrong: "before"},
		{until: "soon", wrong: "--until"},
	} {
		o, err := reportOptions(c.since, c.until, now)
		switch {
		case c.wrong == "" && err != nil:
			t.Errorf("%q %q: %v", c.since, c.until, err)
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%q %q: %v, not %q", c.since, c.until, err, c.wrong)
		case c.wrong == "" && (o.Since.IsZero() || o.Since.After(now)):
			t.Errorf("%q: since %v", c.since, o.Since)
		}
	}
	o, err := reportOptions("2026-02-01", "2026-02-01", now)
	if err != nil || o.Until.Sub(o.Since) < 23*time.Hour {
		t.Errorf("the last day does not count whole: %v, %v", o, err)
	}
}

func BenchmarkReportOfAYear(b *testing.B) {
	h := year(b)
	for b.Loop() {
		page, err := pageOf(reportOf(b, h)).html()
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(page)), "bytes")
	}
}

// TestReportsOfManyHosts: one page, the worst first, of what each host says of itself.
func TestReportsOfManyHosts(t *testing.T) {
	dir := t.TempDir()
	report := reportOf(t, year(t))
	write := func(name string, change func(*reportDoc)) {
		t.Helper()
		d := reportDocOf(report)
		d.Host = name
		change(&d)
		data, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".json"), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("quiet", func(d *reportDoc) {
		d.Gaps = nil
		for i := range d.Escrows {
			d.Escrows[i].Gaps = nil
		}
	})
	write("gaps", func(*reportDoc) {})
	write("lost", func(d *reportDoc) {
		for i := range d.Escrows {
			d.Escrows[i].Proven = nil
		}
	})
	write("damaged", func(d *reportDoc) { d.Chain.Whole = false })
	if err := os.WriteFile(filepath.Join(dir, "damaged.html"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	a := &app{out: &out, err: &errs}
	if err := a.mergeReports(dir, ""); exitCode(err) != exitDoubt {
		t.Errorf("%v", err)
	}
	if got := strings.Split(out.String(), "\n"); len(got) != 6 || got[0] != "The record of 1 host is damaged. Every escrow was proven, without a gap, on 1 of 4 hosts." ||
		!strings.HasPrefix(got[1], "damaged: The record is damaged.") || !strings.HasPrefix(got[2], "lost: No copy was proven.") ||
		!strings.HasPrefix(got[3], "gaps: 5 of 5 escrows proven. ") || got[4] != "quiet: 5 escrows proven, without a gap." {
		t.Errorf("%q", got)
	}
	page := filepath.Join(t.TempDir(), "hosts.html")
	if err := a.mergeReports(dir, page); exitCode(err) != exitDoubt {
		t.Errorf("%v", err)
	}
	if data, err := os.ReadFile(page); err != nil || bytes.Count(data, []byte("<tr>")) != 5 {
		t.Errorf("%v: %s", err, data)
	}
	for name, text := range map[string]string{"syntax": "{", "another": `{"version": 1, "host": "h"}`, "newer": `{"version": 2}`} {
		if err := os.WriteFile(filepath.Join(dir, "z.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		out.Reset()
		errs.Reset()
		if err := a.mergeReports(dir, ""); exitCode(err) != exitDoubt || !strings.Contains(errs.String(), "z.json") {
			t.Errorf("%s: %v", name, err)
		}
		if got := strings.Split(out.String(), "\n"); len(got) != 7 || !strings.HasSuffix(got[0], "on 1 of 5 hosts.") || !strings.HasPrefix(got[1], "z: It is no report.") || !strings.HasPrefix(got[5], "quiet: 5 escrows") {
			t.Errorf("%s: %q", name, got)
		}
	}
	// None of these is well: nobody has heard of the first for long.
	os.Remove(filepath.Join(dir, "z.json"))
	well := func(d *reportDoc) {
		d.Gaps = nil
		for i := range d.Escrows {
			d.Escrows[i].Gaps = nil
		}
	}
	early, late := new(time.Time), new(time.Time)
	write("gone", func(d *reportDoc) { well(d); *early = d.Until.AddDate(-5, 0, 0); d.Until = early })
	write("ahead", func(d *reportDoc) { well(d); *late = time.Now().AddDate(1, 0, 0); d.Until = late })
	write("twice", well)
	write("copy", func(d *reportDoc) { well(d); d.Host = "twice" })
	out.Reset()
	if err := a.mergeReports(dir, ""); exitCode(err) != exitDoubt {
		t.Errorf("%v", err)
	}
	for _, want := range []string{"on 1 of 8 hosts.", "\ngone: 5 escrows proven, without a gap. It says nothing since ", "\nahead: 5 escrows proven, without a gap. Its report is of a day to come", "\ntwice: 5 escrows proven, without a gap. 2 files are of this host."} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing:\n%s", want, &out)
		}
	}
	if err := a.mergeReports(t.TempDir(), ""); exitCode(err) != exitUsage {
		t.Errorf("an empty directory: %v", err)
	}
}
