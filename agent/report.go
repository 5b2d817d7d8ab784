package agent

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
)

// clockSlack is how far ahead an entry may be before its date counts as wrong.
const clockSlack = time.Minute

// ReportOptions choose an audit window.
type ReportOptions struct {
	Since time.Time
	Until time.Time // zero is now
	// Escrows are the names in the configuration: one that no drill has tried is
	// reported as such. Others that the ledger knows are reported all the same.
	Escrows []string
}

// ReportResult is what the ledger can show an auditor for a window of time.
type ReportResult struct {
	Since, Until, Now time.Time
	Chain             Chain
	Escrows           []ReportEscrow // those of the configuration first
	Drills            []Drilled      // in the window, oldest first
	Gaps              []Gap          // longer than eight days without any drill
	Keys              []KeySpan      // which key was known, oldest first
	History           []ledger.Entry // what else happened to keys in the window, oldest first
}

// Chain is what the hash chain says of the whole ledger, not only of the window.
type Chain struct {
	Entries     int
	First, Last time.Time
	Sum         string // of the last line: whoever keeps it can tell later that nothing before it was changed or taken away
	Breaks      []ledger.Break
	Accepted    bool // a person was told of the last break, and has accepted the key all the same
	Torn        bool
	Odd         []OddDate
}

// Whole tells whether every entry is where it was written.
func (c Chain) Whole() bool { return len(c.Breaks) == 0 }

// OddDate is an entry whose time cannot be right: in the future, or before the entry
// before it. The clock was wrong, or somebody wrote it.
type OddDate struct {
	Line int
	Time time.Time
	Why  string
}

// ReportEscrow is one escrow in the window.
type ReportEscrow struct {
	Name string
	// Proven is the last judged copy that opened the rows; its Event is empty where none did.
	Proven  ledger.Entry
	Tries   []Try // one for each drill that tried it, oldest first
	Unknown bool  // the configuration does not name it (any more)
	Gaps    []Gap // longer than eight days without a copy that was proven
}

// Try is what one drill made of one escrow.
type Try struct {
	Time    time.Time
	Verdict DrillVerdict
	Reason  string
	Hearsay bool // it stands before a break of the chain
}

// Drilled is one drill.
type Drilled struct {
	ID      string
	Time    time.Time // when it ended, or its last entry's where it never did
	Took    time.Duration
	Verdict DrillVerdict // "" where it never ended: it was killed
	Reason  string
	Full    bool
	Person  string
	Host    string
	Version string
	Config  string
	Total   int64 // rows there were
	Line    int   // of its last entry
	Hearsay bool  // it stands before a break of the chain
	Copies  []ledger.Entry
}

// Gap is a time in which nothing was proven.
type Gap struct{ From, To time.Time }

// Days is the gap's length in whole days.
func (g Gap) Days() int { return int(g.To.Sub(g.From) / (24 * time.Hour)) }

// KeySpan is a time in which one key was known.
type KeySpan struct {
	Key      key.Fingerprint // "" for none
	By       ledger.Event    // Proven or Accepted; Contradicted or RotationClosed for none
	From, To time.Time
	Proofs   int // how often it opened the rows in that time
}

// Report reads the whole ledger and tells what it shows for a window of time. Only what
// stands behind the last break of its chain counts as proven.
func Report(h *Host, o ReportOptions) (ReportResult, error) {
	record, err := h.Ledger.Read()
	if err != nil {
		return ReportResult{}, err
	}
	return reportOf(record, h.Now(), o), nil
}

func reportOf(record ledger.Record, now time.Time, o ReportOptions) ReportResult {
	if o.Until.IsZero() || o.Until.After(now) {
		o.Until = now
	}
	r := ReportResult{Since: o.Since, Until: o.Until, Now: now, Chain: chainOf(record, now)}
	sound := 0 // the first line that counts
	if n := len(record.Breaks); n > 0 {
		sound = record.Breaks[n-1].Line
	}
	within := func(t time.Time) bool { return !t.Before(o.Since) && !t.After(o.Until) }

	// Where the ledger began later than the window, nothing was to be expected before.
	begin := o.Since
	if r.Chain.First.After(begin) {
		begin = r.Chain.First
	}
	drills, history := drillsOf(record.Entries, sound)
	for _, d := range drills {
		if within(d.Time) {
			r.Drills = append(r.Drills, d)
		}
	}
	for _, e := range history {
		if within(e.Time) {
			r.History = append(r.History, e)
		}
	}
	r.Keys = keySpans(record.Entries, o.Since, o.Until)
	r.Escrows = reportEscrows(r.Drills, o.Escrows)

	var held []time.Time
	for _, d := range r.Drills {
		if !d.Hearsay && d.Verdict != "" {
			held = append(held, d.Time)
		}
	}
	r.Gaps = gaps(held, begin, o.Until)
	for i := range r.Escrows {
		s := &r.Escrows[i]
		var proven []time.Time
		for _, t := range s.Tries {
			if t.Verdict == DrillPassed && !t.Hearsay {
				proven = append(proven, t.Time)
			}
		}
		if !s.Unknown {
			s.Gaps = gaps(proven, begin, o.Until)
		}
	}
	return r
}

func chainOf(record ledger.Record, now time.Time) Chain {
	c := Chain{Entries: len(record.Entries), Breaks: record.Breaks, Torn: record.Torn, Sum: record.Sum}
	_, unseen := record.Broken()
	c.Accepted = len(c.Breaks) > 0 && !unseen
	var latest ledger.Entry
	for i, e := range record.Entries {
		if i == 0 {
			c.First, c.Last = e.Time, e.Time
		}
		switch {
		case e.Time.After(now.Add(clockSlack)):
			c.Odd = append(c.Odd, OddDate{e.Line, e.Time, "in the future"})
			continue
		case e.Time.Before(latest.Time.Add(-clockSlack)):
			c.Odd = append(c.Odd, OddDate{e.Line, e.Time, fmt.Sprintf("before line %d, which was written earlier", latest.Line)})
			continue
		}
		if e.Time.Before(c.First) {
			c.First = e.Time
		}
		if !e.Time.Before(latest.Time) {
			latest, c.Last = e, e.Time
		}
	}
	return c
}

// drillsOf puts the entries of each drill together; the others are the history of keys.
// Entries of a drill before sound are hearsay.
func drillsOf(entries []ledger.Entry, sound int) (drills []Drilled, history []ledger.Entry) {
	at := map[string]int{}
	for _, e := range entries {
		switch e.Event {
		case ledger.Drilled, ledger.DrillEnded:
		case ledger.Proven: // hourly; the spans of keys count them
			continue
		default:
			history = append(history, e)
			continue
		}
		i, ok := at[e.Drill]
		if !ok || e.Drill == "" {
			i = len(drills)
			at[e.Drill] = i
			drills = append(drills, Drilled{ID: e.Drill})
		}
		d := &drills[i]
		d.Time, d.Line, d.Full = e.Time, e.Line, d.Full || e.Full
		d.Hearsay = d.Hearsay || e.Line < sound
		d.Host, d.Version, d.Config = e.Host, e.Version, e.Config
		d.Person = cmp.Or(e.Person, d.Person)
		d.Total = max(d.Total, e.Total)
		if e.Event == ledger.DrillEnded {
			d.Verdict, d.Reason, d.Took = DrillVerdict(e.Verdict), e.Reason, e.Took
		} else {
			d.Copies = append(d.Copies, e)
		}
	}
	slices.SortStableFunc(drills, func(a, b Drilled) int { return a.Time.Compare(b.Time) })
	return drills, history
}

// reportEscrows tells of each escrow what every drill made of it.
func reportEscrows(drills []Drilled, configured []string) []ReportEscrow {
	var list []ReportEscrow
	find := func(name string) *ReportEscrow {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
		list = append(list, ReportEscrow{Name: name, Unknown: true})
		return &list[len(list)-1]
	}
	for _, name := range configured {
		find(name).Unknown = false
	}
	for _, d := range drills {
		tried := map[string]int{} // where in Tries, from 1
		for _, c := range d.Copies {
			if c.Escrow == "" || c.Copy != "" && !c.Judged {
				continue
			}
			s := find(c.Escrow)
			if tried[c.Escrow] == 0 {
				s.Tries = append(s.Tries, Try{Time: d.Time, Hearsay: d.Hearsay})
				tried[c.Escrow] = len(s.Tries)
			}
			t := &s.Tries[tried[c.Escrow]-1]
			// The worst is what an auditor wants to see.
			if badness(DrillVerdict(c.Verdict)) > badness(t.Verdict) || t.Verdict == "" {
				t.Verdict, t.Reason = DrillVerdict(c.Verdict), c.Reason
			}
			if c.Judged && DrillVerdict(c.Verdict) == DrillPassed && !d.Hearsay {
				s.Proven = c
			}
		}
	}
	return list
}

// badness orders the verdicts of drills. One that is not known, of a newer keyguard, is
// as good as none.
func badness(verdict DrillVerdict) int {
	switch verdict {
	case DrillPassed:
		return 0
	case DrillFailed:
		return 2
	}
	return 1
}

// gaps are the times longer than longestGap without any of these.
func gaps(times []time.Time, from, to time.Time) []Gap {
	var list []Gap
	for _, t := range append(slices.Clone(times), to) {
		if t.Sub(from) > longestGap {
			list = append(list, Gap{from, t})
		}
		from = t
	}
	return list
}

// keySpans tells which key was known when, within a window. It looks across breaks, which
// the report shows beside it.
func keySpans(entries []ledger.Entry, since, until time.Time) []KeySpan {
	var spans []KeySpan
	turn := func(e ledger.Entry, k key.Fingerprint) {
		if n := len(spans); n > 0 {
			if spans[n-1].Key == k {
				return
			}
			spans[n-1].To = e.Time
		}
		if len(spans) > 0 || k != "" {
			spans = append(spans, KeySpan{Key: k, By: e.Event, From: e.Time})
		}
	}
	for _, e := range entries {
		switch {
		case e.Time.After(until):
			continue
		case e.Event == ledger.Proven, e.Event == ledger.Accepted:
			turn(e, e.Fingerprint)
			if e.Event == ledger.Proven && !e.Time.Before(since) {
				spans[len(spans)-1].Proofs++
			}
		case e.Event == ledger.Contradicted && len(spans) > 0 && spans[len(spans)-1].Key == e.Fingerprint,
			e.Event == ledger.RotationClosed && e.Fingerprint == "":
			turn(e, "")
		}
	}
	if n := len(spans); n > 0 {
		spans[n-1].To = until
	}
	return slices.DeleteFunc(spans, func(s KeySpan) bool { return s.To.Before(since) })
}

// SaveReport puts a page or a document at path, readable for everybody, as it holds
// nothing secret. It replaces a file, and nothing else: ErrNotReplaced.
func SaveReport(path string, data []byte) error {
	err := crew.Try(filepath.Dir(path), func() error {
		return durable.WriteFile(path, data, durable.Attr{Mode: 0o644, UID: -1, GID: -1})
	})
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

// ErrNotReplaced says that a file is to be written where something else than a file stands.
var ErrNotReplaced = durable.ErrNotReplaced

// Replaceable says why nothing could be written at a path that a person named, as far as that
// shows before: what is to stand there may take an hour to find out.
func Replaceable(path string) error {
	return crew.Try(filepath.Dir(path), func() error { return durable.Replaceable(path) })
}
