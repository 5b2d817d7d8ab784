package hooks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// listener hears everything that a Teller tells.
type listener struct {
	*testing.T
	dir     string
	pings   chan string
	printed []string
	entries []map[string]string
	trouble []string
	survey  agent.SurveyResult
	opts    TellerOptions
}

func newListener(t *testing.T) *listener {
	t.Helper()
	l := &listener{T: t, dir: t.TempDir(), pings: make(chan string, 100)}
	place := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { l.pings <- r.URL.Path }))
	t.Cleanup(place.Close)
	for _, dir := range []string{"hooks", "out"} {
		if err := os.Mkdir(filepath.Join(l.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l.opts = TellerOptions{
		Print: func(e Event) { l.printed = append(l.printed, e.Line()) },
		Record: func(message string, p unit.Priority, fields map[string]string) error {
			fields["MESSAGE"], fields["PRIORITY"] = message, fmt.Sprint(p == unit.Urgent)
			l.entries = append(l.entries, fields)
			return nil
		},
		HooksDir: filepath.Join(l.dir, "hooks"), MetricsFile: filepath.Join(l.dir, "keyguard.prom"), PingURL: place.URL + "/id",
		Survey:  func() (agent.SurveyResult, error) { return l.survey, nil },
		Remedy:  func(error) string { return "keyguard status" },
		Trouble: func(t agent.Trouble) { l.trouble = append(l.trouble, t.Error()) },
		Host:    "here", Version: "1",
	}
	return l
}

func (l *listener) hook(name, script string) {
	l.Helper()
	path := filepath.Join(l.dir, "hooks", name)
	// No other test may fork meanwhile: a child that has it open to write makes it "busy".
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+strings.ReplaceAll(script, "OUT", filepath.Join(l.dir, "out"))), 0o755); err != nil {
		l.Fatal(err)
	}
}

func (l *listener) wrote(name string) string {
	data, _ := os.ReadFile(filepath.Join(l.dir, "out", name)) //nolint:errcheck // "" then
	return string(data)
}

// heard is the pings until now.
func (l *listener) heard() (list []string) {
	for len(l.pings) > 0 {
		list = append(list, <-l.pings)
	}
	return list
}

// TestTell is one event on all its ways, with everything that an event can have.
func TestTell(t *testing.T) {
	t.Parallel()
	l := newListener(t)
	l.hook("all", "env | grep ^KEYGUARD_ | sort >OUT/env")
	l.survey.Empty = true
	teller := NewTeller(l.opts)
	e := Event{Name: DrillFailed, Text: "the drill failed", Err: errors.New("copy\x00\n<0>forged\xff"), Fingerprint: "0123456789abcdef",
		Escrow: "gcp", Copy: "7", Verdict: "failed", Checked: 10, Opened: 0, Total: 12, Took: 1500 * time.Millisecond,
		Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	teller.Tell(e)
	want := map[string]string{"MESSAGE": `the drill failed: copy\x00\n<0>forged\xff` + "\nhint: keyguard status", "PRIORITY": "true",
		"MESSAGE_ID": vocabulary[DrillFailed].id, "SYSLOG_IDENTIFIER": "keyguard", "KEYGUARD_EVENT": "drill-failed",
		"KEYGUARD_FINGERPRINT": "0123456789abcdef", "KEYGUARD_ESCROW": "gcp", "KEYGUARD_COPY": "7", "KEYGUARD_VERDICT": "failed",
		"KEYGUARD_CHECKED": "10", "KEYGUARD_OPENED": "0", "KEYGUARD_TOTAL": "12", "KEYGUARD_SECONDS": "1.500",
		"KEYGUARD_ERROR": `copy\x00\n<0>forged\xff`, "KEYGUARD_REMEDY": "keyguard status"}
	if len(l.entries) != 1 || !maps.Equal(l.entries[0], want) {
		t.Errorf("the journal has %q\nwant %q", l.entries, want)
	}
	if !slices.Equal(l.printed, []string{e.Line()}) {
		t.Errorf("printed: %q", l.printed)
	}
	if l.wrote("env") != "" || len(l.pings) > 0 {
		t.Error("Tell itself called somebody")
	}
	teller.Deliver(t.Context())
	const env = `KEYGUARD_CHECKED=10
KEYGUARD_COPY=7
KEYGUARD_ERROR=copy\x00\n<0>forged\xff
KEYGUARD_ESCROW=gcp
KEYGUARD_EVENT=drill-failed
KEYGUARD_FINGERPRINT=0123456789abcdef
KEYGUARD_HOST=here
KEYGUARD_OPENED=0
KEYGUARD_REMEDY=keyguard status
KEYGUARD_SECONDS=1.500
KEYGUARD_TEXT=the drill failed: copy\x00\n<0>forged\xff
KEYGUARD_TIME=2026-03-01T12:00:00Z
KEYGUARD_TOTAL=12
KEYGUARD_URGENT=true
KEYGUARD_VERDICT=failed
`
	if got := l.wrote("env"); got != env {
		t.Errorf("the hook got\n%s\nwant\n%s", got, env)
	}
	if got := l.heard(); !slices.Equal(got, []string{"/id/fail"}) {
		t.Errorf("pings: %q", got)
	}
	if text, err := os.ReadFile(l.opts.MetricsFile); err != nil || !strings.Contains(string(text), "keyguard_parked 1\n") {
		t.Errorf("metrics: %v\n%s", err, text)
	}
	if len(l.trouble) > 0 {
		t.Errorf("trouble: %q", l.trouble)
	}
}

// TestPings is what each event means to the dead-man's switch, and to hooks and readers.
func TestPings(t *testing.T) {
	t.Parallel()
	for name, k := range vocabulary {
		l := newListener(t)
		l.hook("called", "echo >>OUT/called")
		teller := NewTeller(l.opts)
		teller.Tell(Event{Name: name, Text: "it happened"})
		teller.Deliver(t.Context())
		want := map[ping][]string{pingSuccess: {"/id"}, pingFailure: {"/id/fail"}}[k.ping]
		if got := l.heard(); !slices.Equal(got, want) {
			t.Errorf("%s pings %q, want %q", name, got, want)
		}
		if called, printed := l.wrote("called") != "", len(l.printed) > 0; called == k.routine || printed == k.routine {
			t.Errorf("%s: a hook was called: %t, it was printed: %t, it is routine: %t", name, called, printed, k.routine)
		}
	}
	// What the hourly proof of the live key has to say does not take back that the copies
	// did not pass.
	for verdict, want := range map[string][]string{"failed": nil, "inconclusive": nil, "passed": {"/id"}} {
		l := newListener(t)
		l.survey.Drill = ledger.Entry{Event: ledger.DrillEnded, Verdict: verdict}
		teller := NewTeller(l.opts)
		teller.Tell(Event{Name: Proven, Text: "it opens"})
		teller.Deliver(t.Context())
		if got := l.heard(); !slices.Equal(got, want) {
			t.Errorf("after a drill that %s a proof pings %q, want %q", verdict, got, want)
		}
	}
}

// TestDeaf is a Teller whose every way is broken: the event is printed, each trouble is
// told once, and nothing waits longer than it may (law 9).
func TestDeaf(t *testing.T) {
	t.Parallel()
	l := newListener(t)
	hung := make(chan struct{})
	place := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hung }))
	t.Cleanup(place.Close)
	t.Cleanup(func() { close(hung) })
	l.opts.Record = func(string, unit.Priority, map[string]string) error { return errors.New("no socket") }
	l.opts.RecordOnly, l.opts.PingURL = true, "http://127.0.0.1:1/id"
	l.opts.MetricsFile = filepath.Join(l.dir, "none", "keyguard.prom")
	l.hook("fails", "exit 3")
	teller := NewTeller(l.opts)
	for range 2 {
		teller.Tell(Event{Name: DrillFailed, Text: "the drill failed"})
		teller.Deliver(t.Context())
	}
	printed := []string{"the drill failed", "no metrics are written: " + filepath.Join(l.dir, "none") + " is not there (metrics_file)", "the drill failed"}
	if !slices.Equal(l.printed, printed) {
		t.Errorf("printed: %q", l.printed)
	}
	said := strings.Join(l.trouble, "\n")
	for _, want := range []string{"no socket", `hook "fails": fails: failed with status 3`, "ping_url"} {
		if strings.Count(said, want) != 1 {
			t.Errorf("%q is not among the trouble, once:\n%s", want, said)
		}
	}

	l.opts.MetricsIfThere = true
	teller = NewTeller(l.opts)
	teller.Tell(Event{Name: DrillFailed, Text: "the drill failed"})
	teller.Deliver(t.Context())
	if printed = append(printed, "the drill failed"); !slices.Equal(l.printed, printed) {
		t.Errorf("printed where nobody asked for metrics: %q", l.printed)
	}

	l.opts.PingURL = place.URL
	l.hook("fails", "exit 0")
	l.hook("hangs", "echo >OUT/hangs; exec sleep 1000")
	teller = NewTeller(l.opts)
	teller.Tell(Event{Name: DrillFailed, Text: "the drill failed"})
	teller.Tell(Event{Name: DrillFailed, Text: "the drill failed"})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for l.wrote("hangs") == "" {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	teller.Deliver(ctx)
	said = strings.Join(l.trouble, "\n")
	for _, want := range []string{`hook "hangs"`, "1 were told to the journal only"} {
		if strings.Count(said, want) != 1 {
			t.Errorf("%q is not among the trouble, once:\n%s", want, said)
		}
	}
}

// TestQueue is more events than anybody can be told of: the last ones are.
func TestQueue(t *testing.T) {
	t.Parallel()
	l := newListener(t)
	l.opts.PingURL = ""
	l.hook("count", `echo "$KEYGUARD_TEXT" >>OUT/count`)
	teller := NewTeller(l.opts)
	for i := range maxQueue + 3 {
		teller.Tell(Event{Name: Saved, Text: fmt.Sprint(i)})
	}
	teller.Deliver(t.Context())
	told := strings.Fields(l.wrote("count"))
	if len(told) != maxQueue || told[0] != "3" || len(l.entries) != maxQueue+3 {
		t.Errorf("%d were delivered, from %q on, and %d are in the journal", len(told), told[0], len(l.entries))
	}
	if len(l.trouble) != 1 || !strings.Contains(l.trouble[0], "3 were told to the journal only") {
		t.Errorf("trouble: %q", l.trouble)
	}
}

// What is told while the metrics are written waits for them: nobody writes them twice at once.
func TestMetricsInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var teller *Teller
		surveys, writing := 0, false
		teller = NewTeller(TellerOptions{
			MetricsFile: filepath.Join(t.TempDir(), "nowhere", "keyguard.prom"),
			Print: func(e Event) {
				if e.Name == "" { // that there is no place for metrics
					writing = true
					time.Sleep(time.Second)
					writing = false
				}
			},
			Survey: func() (agent.SurveyResult, error) {
				synctest.Wait()
				if surveys++; surveys == 1 {
					teller.Tell(Event{Name: Saved, Text: "later"})
				}
				if writing {
					t.Fatal("a second survey, and the metrics of the first are being written")
				}
				return agent.SurveyResult{}, nil
			},
		})
		teller.Tell(Event{Name: Saved, Text: "first"})
		teller.Deliver(t.Context())
		if surveys != 2 {
			t.Errorf("%d surveys", surveys)
		}
	})
}

// Run ends when it is told to, and what was told just before is not lost.
func TestRunEnds(t *testing.T) {
	t.Parallel()
	l := newListener(t)
	l.hook("called", "echo >OUT/called")
	teller := NewTeller(l.opts)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	teller.Tell(Event{Name: Made, Text: "made"})
	teller.Run(ctx)
	if l.wrote("called") == "" && len(l.trouble) == 0 {
		t.Error("the hook was not called, and nobody says so")
	}
}
