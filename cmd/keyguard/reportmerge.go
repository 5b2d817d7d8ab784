package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

// maxReport is more than the report of any host has.
const maxReport = 64 << 20

// The page's view of many hosts, the worst first.
type (
	hostsPage struct {
		Now, Zone, Keyguard string
		Class, Verdict      string
		Hosts               []hostView
	}
	hostView struct {
		Host, Class, Verdict      string
		Why                       []string
		Since, Until, Proven, Key string
		File                      string
		until                     time.Time
		badness                   int // 0 is well, 3 a record that is damaged, noReport none
	}
)

const (
	noReport = 4
	// silence is how much older than the newest a report may be: hosts drill weekly.
	silence = 8 * aDay
	aDay    = 24 * time.Hour
)

// doubt takes back what is said well of a host that has said nothing for long, or whose report
// is of a day to come or one of several.
func (p *hostsPage) doubt(now time.Time) {
	var newest time.Time
	files := map[string]int{}
	for _, h := range p.Hosts {
		if files[h.Host]++; h.until.After(newest) && !h.until.After(now.Add(aDay)) {
			newest = h.until
		}
	}
	for i := range p.Hosts {
		h := &p.Hosts[i]
		var why []string
		if h.badness == noReport {
			continue
		}
		if newest.Sub(h.until) > silence {
			why = append(why, "It says nothing since "+h.Until+".")
		}
		if h.until.After(now.Add(aDay)) {
			why = append(why, "Its report is of a day to come: its clock, or the file, is wrong.")
		}
		if n := files[h.Host]; n > 1 {
			why = append(why, printable.Count(int64(n), "file")+" are of this host.")
		}
		if h.Why = append(h.Why, why...); len(why) > 0 && h.badness == 0 {
			h.Class, h.badness = "dim", 1
		}
	}
}

// mergeReports sums up the reports of many hosts.
func (a *app) mergeReports(dir, output string) error {
	if err := checkPage(output); err != nil {
		return err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return usageError{fmt.Errorf("--merge: %w", err)}
	}
	now := time.Now()
	unread := 0
	p := hostsPage{Now: when(now), Zone: now.Format("MST (UTC-07:00)"), Keyguard: version}
	for _, f := range files {
		if filepath.Ext(f.Name()) != ".json" {
			continue
		}
		d, err := readReport(filepath.Join(dir, f.Name()))
		if err != nil { // of one host nobody knows anything: the others' say counts (law 10)
			a.urgent("--merge: %v", err)
			unread++
			p.Hosts = append(p.Hosts, hostView{Host: strings.TrimSuffix(f.Name(), ".json"), File: f.Name(), Class: "bad",
				Verdict: "It is no report.", Why: []string{err.Error()}, badness: noReport})
			continue
		}
		p.Hosts = append(p.Hosts, hostViewOf(d, f.Name()))
	}
	p.doubt(now)
	if len(p.Hosts) == 0 {
		return usageError{fmt.Errorf("--merge: there is no report in %s: keyguard report --output makes one, and the .json beside it", dir)}
	}
	slices.SortStableFunc(p.Hosts, func(x, y hostView) int {
		return cmp.Or(cmp.Compare(y.badness, x.badness), strings.Compare(x.Host, y.Host))
	})
	damaged := p.sumUp()
	if output != "" {
		page, err := p.html()
		if err != nil {
			return err
		}
		if err := agent.SaveReport(output, page); err != nil {
			return err
		}
		a.say("wrote %s", output)
	} else {
		a.line("%s", p.Verdict)
		for _, h := range p.Hosts {
			a.line("%s: %s", h.Host, strings.Join(append([]string{h.Verdict}, h.Why...), " "))
		}
	}
	if unread > 0 {
		return outcome{exitDoubt, printable.Count(int64(unread), "file") + " to merge: no report of this program's",
			[]string{"make it anew there (keyguard report --output FILE.html), or take it out of the directory"}}
	}
	if damaged > 0 {
		return outcome{exitDoubt, "the record of " + printable.Count(int64(damaged), "host") + " is damaged",
			[]string{"see there at which line: keyguard report --verify"}}
	}
	return nil
}

func readReport(file string) (d reportDoc, err error) {
	none := fmt.Errorf("%s is no report", file)
	data, err := crew.Read(file, maxReport)
	if err != nil {
		return d, fmt.Errorf("%w: %w", none, err)
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return d, fmt.Errorf("%w: %w", none, err)
	}
	switch {
	case d.Version != jsonVersion:
		return d, fmt.Errorf("%s is a document of version %d, and this program reads version %d", file, d.Version, jsonVersion)
	case d.Host == "", d.Since == nil, d.Until == nil:
		return d, none
	}
	return d, nil
}

func hostViewOf(d reportDoc, file string) hostView {
	v := hostView{Host: d.Host, File: file, Since: day(*d.Since), Until: day(*d.Until), until: *d.Until}
	if first := d.Chain.First; first != nil && first.After(*d.Since) && first.Before(*d.Until) {
		v.Since = day(*first)
	}
	var last time.Time
	escrows, proven, gaps := 0, 0, len(d.Gaps)
	for _, e := range d.Escrows {
		if e.Gone {
			continue
		}
		escrows++
		gaps += len(e.Gaps)
		if e.Proven == nil {
			v.Why = append(v.Why, fmt.Sprintf("No copy in %s was proven.", e.Escrow))
			continue
		}
		proven++
		if e.Proven.Time.After(last) {
			last = e.Proven.Time
		}
	}
	v.Proven = when(last)
	if n := len(d.Keys); n > 0 {
		v.Key = orNone(d.Keys[n-1].Fingerprint)
	}
	if gaps > 0 {
		v.Why = append(v.Why, printable.Count(int64(gaps), "gap")+".")
	}
	switch {
	case !d.Chain.Whole:
		v.Class, v.Verdict, v.badness = "bad", "The record is damaged.", 3
	case proven == 0:
		v.Class, v.Verdict, v.badness = "bad", "No copy was proven.", 2
	case proven < escrows || gaps > 0:
		v.Class, v.Verdict, v.badness = "dim", fmt.Sprintf("%d of %s proven.", proven, printable.Count(int64(escrows), "escrow")), 1
	default:
		v.Class, v.Verdict = "good", printable.Count(int64(escrows), "escrow")+" proven, without a gap."
	}
	return v
}

// sumUp makes the headline, and counts the records that are damaged.
func (p *hostsPage) sumUp() (damaged int) {
	well, worst := 0, 0
	for _, h := range p.Hosts {
		switch h.badness {
		case 0:
			well++
		case 3:
			damaged++
		}
		worst = max(worst, h.badness)
	}
	p.Class = []string{"good", "dim", "bad", "bad", "bad"}[worst]
	p.Verdict = fmt.Sprintf("Every escrow was proven, without a gap, on %d of %s.", well, printable.Count(int64(len(p.Hosts)), "host"))
	if damaged > 0 {
		p.Verdict = "The record of " + printable.Count(int64(damaged), "host") + " is damaged. " + p.Verdict
	}
	return damaged
}
