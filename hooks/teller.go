package hooks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/notify"
	"github.com/footprintai/containarium-keyguard/agent/textfile"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// TellerOptions are the ways in which people hear of events. The zero value tells nobody.
type TellerOptions struct {
	// Print shows an event to whoever reads what this program prints.
	Print func(Event)
	// Record writes an event to the journal with its fields. nil: there is none.
	Record func(message string, p unit.Priority, fields map[string]string) error
	// RecordOnly does not print what the journal has taken: it reads what is printed, too.
	RecordOnly bool
	// HooksDir holds the programs that are called for each event, MetricsFile is written for
	// Prometheus, PingURL is called as a dead-man's switch. "" is none.
	HooksDir, MetricsFile, PingURL string
	// HooksEnded is the file in the runtime directory that says how the hooks ended last.
	HooksEnded string
	// MetricsIfThere: that MetricsFile has no directory is nothing to speak of, since
	// nobody asked for metrics.
	MetricsIfThere bool
	// Survey says how things stand, for the metrics and the ping.
	Survey func() (agent.SurveyResult, error)
	// Remedy is what to type about an error, "" for nothing.
	Remedy func(error) string
	// Trouble is called for what could not be told, once for as long as it stays the same.
	Trouble       func(agent.Trouble)
	Host, Version string // of keyguard
}

// Teller tells people of events: which there are, and in which form they are told, is in
// events.go. Tell is quick; the ways that may hang are for Deliver, or for Run in the background.
type Teller struct {
	o     TellerOptions
	woken chan struct{}

	speaking sync.Mutex // for Print and Trouble, which need not be called by two at once
	noPlace  bool       // that there is no directory for metrics was told; of the one who writes them

	lock    sync.Mutex // guards what follows
	queue   []Event
	dropped int
	trouble map[string]string // what was told of each way
}

// NewTeller makes a Teller. It touches nothing outside the process.
func NewTeller(opts TellerOptions) *Teller {
	return &Teller{o: opts, woken: make(chan struct{}, 1), trouble: map[string]string{}}
}

const (
	// maxQueue is how many events may wait for delivery; the oldest make room.
	maxQueue = 64
	// measureEvery is how often Run measures without any event: metrics that are not
	// written any more are an alarm of their own.
	measureEvery = 15 * time.Minute
)

// LastWords is how long the delivery may go on after its time is over: Run was ended, or a start
// waits for no more.
const LastWords = 300 * time.Millisecond

// Tell prints or records an event at once and queues it for Deliver. It never waits.
func (t *Teller) Tell(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	k, named := vocabulary[e.Name]
	recorded := false
	if named && t.o.Record != nil {
		message, fields := e.Line(), e.journalFields(t.o.Remedy)
		if remedy := fields["KEYGUARD_REMEDY"]; remedy != "" {
			message += "\nhint: " + remedy
		}
		priority := unit.Informational
		if e.IsUrgent() {
			priority = unit.Urgent
		}
		err := t.o.Record(message, priority, fields)
		recorded = err == nil
		t.complain("an event is not in the journal with its fields", err)
	}
	if t.o.Print != nil && !k.routine && (!recorded || !t.o.RecordOnly) {
		t.print(e)
	}
	if !named {
		return
	}
	t.lock.Lock()
	if len(t.queue) == maxQueue {
		t.queue = t.queue[1:]
		t.dropped++
	}
	t.queue = append(t.queue, e)
	t.lock.Unlock()
	select {
	case t.woken <- struct{}{}:
	default:
	}
}

// Deliver hands on what was told, until all of it is or ctx ends. Whoever told the
// events calls it before it ends, with what time it has left (law 9).
func (t *Teller) Deliver(ctx context.Context) {
	for ctx.Err() == nil {
		t.lock.Lock()
		queue, dropped := t.queue, t.dropped
		t.queue, t.dropped = nil, 0
		t.lock.Unlock()
		if dropped > 0 {
			t.complain("events came faster than they could be delivered", fmt.Errorf("%d were told to the journal only", dropped))
		}
		if len(queue) == 0 {
			return
		}
		t.deliverAll(ctx, queue)
	}
}

// deliverAll hands on some events, while the metrics are written: a directory that hangs does
// not hold the hooks.
func (t *Teller) deliverAll(ctx context.Context, queue []Event) {
	survey, written := t.startMeasuring()
	defer func() { <-written }()
	for i, e := range queue {
		if ctx.Err() != nil {
			t.complain("there was no time to deliver all events", fmt.Errorf("%d were told to the journal only", len(queue)-i))
			return
		}
		t.deliver(ctx, e, survey)
	}
}

// Run delivers events as they come, and measures once in a while, until ctx ends.
func (t *Teller) Run(ctx context.Context) {
	t.measure()
	measure := time.NewTicker(measureEvery)
	defer measure.Stop()
	for {
		select {
		case <-t.woken:
			t.Deliver(ctx)
		case <-measure.C:
			t.measure()
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), LastWords)
			defer cancel()
			t.Deliver(last)
			return
		}
	}
}

// deliver runs the hooks and pings, at once.
func (t *Teller) deliver(ctx context.Context, e Event, s agent.SurveyResult) {
	var both crew.Group
	defer func() {
		if err := both.Wait(); err != nil {
			t.complain("an event was not delivered", err)
		}
	}()
	if t.o.HooksDir != "" && !vocabulary[e.Name].routine {
		both.Go(func() error {
			errs := notify.Programs(ctx, t.o.HooksDir, e.variables(t.o.Remedy, t.o.Host))
			t.complain("a hook was not run as it should", errs...)
			if t.o.HooksEnded != "" {
				t.complain("how the hooks ended is left for nobody", notify.Leave(t.o.HooksEnded, time.Now(), errs))
			}
			return nil
		})
	}
	means := vocabulary[e.Name].ping
	if e.Name == Proven && s.Drill.Event != "" && s.Drill.Verdict != string(agent.DrillPassed) {
		means = pingNothing // an hourly proof must not take back what a drill has told
	}
	if t.o.PingURL != "" && means != pingNothing {
		call := notify.PingFailure
		if means == pingSuccess {
			call = notify.Ping
		}
		both.Go(func() error {
			t.complain("the dead-man's switch does not hear from us", call(ctx, t.o.PingURL))
			return nil
		})
	}
}

// measure writes the metrics anew.
func (t *Teller) measure() {
	_, written := t.startMeasuring()
	<-written
}

// startMeasuring finds out how things stand, and begins to write the metrics anew, from what is on
// this host: whoever does it, watcher, drill or a start, writes the same.
func (t *Teller) startMeasuring() (s agent.SurveyResult, written <-chan error) {
	if t.o.Survey == nil {
		return s, crew.Go(func() error { return nil })
	}
	s, err := t.o.Survey()
	return s, crew.Go(func() error { t.write(s, err); return nil })
}

// write writes the metrics of a survey, or tells why there is none.
func (t *Teller) write(s agent.SurveyResult, err error) {
	if err != nil {
		t.complain("cannot tell how things stand, so the metrics stay as they were", err)
		return
	}
	if t.o.MetricsFile == "" {
		return
	}
	err = textfile.Write(t.o.MetricsFile, metrics(s, t.o.Version, time.Now()))
	if errors.Is(err, fs.ErrNotExist) {
		if !t.noPlace && !t.o.MetricsIfThere && t.o.Print != nil {
			t.print(Event{Text: "no metrics are written: " + filepath.Dir(t.o.MetricsFile) + " is not there (metrics_file)"})
		}
		t.noPlace, err = true, nil
	}
	t.complain("the metrics are not written", err)
}

func (t *Teller) print(e Event) {
	t.speaking.Lock()
	defer t.speaking.Unlock()
	t.o.Print(e)
}

// Failed tells whether a way of telling people fails, as it was tried last.
func (t *Teller) Failed() bool {
	t.lock.Lock()
	defer t.lock.Unlock()
	for _, text := range t.trouble {
		if text != fmt.Sprint([]error{}) {
			return true
		}
	}
	return false
}

// complain tells of trouble with a way, once for as long as it stays the same. No error
// is no trouble.
func (t *Teller) complain(what string, errs ...error) {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	text := fmt.Sprint(errs)
	t.lock.Lock()
	same := t.trouble[what] == text
	t.trouble[what] = text
	t.lock.Unlock()
	if same || t.o.Trouble == nil {
		return
	}
	t.speaking.Lock()
	defer t.speaking.Unlock()
	for _, err := range errs {
		t.o.Trouble(agent.Trouble{What: what, Err: err})
	}
}
