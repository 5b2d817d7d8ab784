package hooks

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// EventName is what happened, in one word of a fixed vocabulary. Hooks see it as
// KEYGUARD_EVENT.
type EventName string

// The events.
const (
	Installed         EventName = "installed"          // a key was put into the keyfile's place
	Made              EventName = "made"               // the host's first key was made
	Parked            EventName = "parked"             // the daemon was started without a key
	Refused           EventName = "refused"            // the daemon was not started
	Undecided         EventName = "undecided"          // the watcher cannot tell which key is right, or has none
	Exposed           EventName = "exposed"            // the keyfile was open to others
	Refuted           EventName = "refuted"            // the known key opens no row any more
	Split             EventName = "split"              // the key opens a part of the rows
	Minted            EventName = "minted"             // the daemon made a key
	Replaced          EventName = "replaced"           // another key was put into the keyfile's place under a daemon that runs on the right one
	RestartNeeded     EventName = "restart-needed"     // the daemon does not run on the key that is in place
	Proven            EventName = "proven"             // the key was tried on the rows, and nothing is wrong
	Saved             EventName = "saved"              // an escrow took the key
	EscrowFailing     EventName = "escrow-failing"     // an escrow does not take what is due there, or cannot be looked at
	EscrowRecovered   EventName = "escrow-recovered"   // it does, or can, again
	ForeignWriter     EventName = "foreign-writer"     // another host writes to an escrow's place
	DrillPassed       EventName = "drill-passed"       // the newest current copy of every escrow that answers opens the rows
	DrillFailed       EventName = "drill-failed"       // one of these does not, or is not to be had any more, or rows were tampered with
	DrillInconclusive EventName = "drill-inconclusive" // a required escrow could not be drilled, or nothing could be proven
	RotationBegun     EventName = "rotation-begun"     // a new key is staged
	RotationDone      EventName = "rotation-done"      // all rows are under it
	RotationSettled   EventName = "rotation-settled"   // one that stood open was closed by the rows
	RotationFailed    EventName = "rotation-failed"    // one that had begun is called off, or stopped in its commit and the rows do not say which key holds
	Repaired          EventName = "repaired"           // rows under several keys are under one
	UnitFailed        EventName = "unit-failed"        // a unit of ours failed
	Test              EventName = "test"               // a person tries whether alerts arrive: nothing has happened
)

// ping is what an event means to the dead-man's switch.
type ping int

const (
	pingNothing ping = iota
	pingSuccess
	pingFailure
)

// meaning is what is known of an event by its name.
type meaning struct {
	id     string // MESSAGE_ID, by which keyguard.catalog explains it; it never changes
	urgent bool   // a person should see it even in a long journal
	// routine events are for the journal, the metrics and the ping only.
	routine bool
	ping    ping
}

var vocabulary = map[EventName]meaning{
	Installed:         {id: "9f97b628ec5d4c688bebffa3b94560ac", urgent: true},
	Made:              {id: "e6528e4a82c945cc9097f1b57b68e4be", urgent: true},
	Parked:            {id: "3943075fca834805a209eb0c28773864", urgent: true, ping: pingFailure},
	Refused:           {id: "7650e9b5773c4bb6a65aaae361a50bca", urgent: true, ping: pingFailure},
	Undecided:         {id: "08251cec2ce74a748a0096cfb5c5cbf6", urgent: true, ping: pingFailure},
	Exposed:           {id: "1767cd29b3c94bc48249272c399ac8ce", urgent: true},
	Refuted:           {id: "d9f47f1fdc544874ba1ace284b63c1da", urgent: true, ping: pingFailure},
	Split:             {id: "a7e320f9896643d695ffa63b9d1224b9", urgent: true, ping: pingFailure},
	Minted:            {id: "1a3a0e2e700b476ab013e8f4015dacb4", urgent: true},
	Replaced:          {id: "0a38a204821142578df3f91e842408be", urgent: true},
	RestartNeeded:     {id: "a82f9c80419a450285b6c85fcd54b02a", urgent: true},
	Proven:            {id: "a535c49102bd46f5a770a2523e6b31b5", routine: true, ping: pingSuccess},
	Saved:             {id: "18a91d3540264cfc99c0d0788410f83b"},
	EscrowFailing:     {id: "39e896e9968441b7bcd160a31c99b9f1", urgent: true},
	EscrowRecovered:   {id: "11099a854df547fdb1cedeccb7b9d211"},
	ForeignWriter:     {id: "9c7ff8f549114fb99c972f106dccb056", urgent: true},
	DrillPassed:       {id: "9d741b1ea6c9419c8052f44376aa7f3c", ping: pingSuccess},
	DrillFailed:       {id: "708e6d1f81fa464e92ff5870d2130c12", urgent: true, ping: pingFailure},
	DrillInconclusive: {id: "5a5db38d5da2486aa78ce46aa23ef327", urgent: true, ping: pingFailure},
	RotationBegun:     {id: "916aedd5d82b4448b655d847a96d251f"},
	RotationDone:      {id: "d15af55d40fc43ab8578c22bf106558c"},
	RotationSettled:   {id: "ea1d91baef8a4917b68b2afcac14e7b3", urgent: true},
	RotationFailed:    {id: "646f4c934d98494caf8d0be54495eb58", urgent: true},
	Repaired:          {id: "0b11d907bd6742049b217c8ca81e0d67"},
	UnitFailed:        {id: "1a2791da1c9d4a779a4606245e553de2", urgent: true, ping: pingFailure},
	Test:              {id: "b74f0ac79c9049e0af797ab1761e4ddf", urgent: true}, // a ping cannot say that it is one
}

// Event is one thing that happened, for people. Only Text must be set: an event without
// a name is a line for the journal and nothing more. Teller tells it; notify.Programs runs the
// programs in hooks.d with its variables.
type Event struct {
	Name EventName
	Text string // one sentence: what happened, to which key, and what to type next
	Err  error  // what went wrong, for its text and its remedy
	Loud bool   // of an event without a name: it stands out in the journal, as an urgent one does

	Fingerprint            key.Fingerprint
	Escrow, Copy           string
	Verdict                string // a proof's (rows.Verdict), a drill's (agent.DrillVerdict), or for Undecided, Parked and Refused what was decided (decide.Action)
	Checked, Opened, Total int64  // rows
	Took                   time.Duration
	Unit                   string    // that failed
	Time                   time.Time // Tell fills it in
}

// MessageID is that of an event in the journal, "" for a name that is none.
func MessageID(name EventName) string { return vocabulary[name].id }

// EventNames are all of the vocabulary, sorted.
func EventNames() []EventName { return slices.Sorted(maps.Keys(vocabulary)) }

// IsUrgent tells whether a person should see it even in a long journal.
func (e Event) IsUrgent() bool { return e.Loud || vocabulary[e.Name].urgent }

// Line is the text with what went wrong, printable whoever was quoted in it (law 10).
func (e Event) Line() string {
	if e.Err == nil {
		return printable.Line(e.Text)
	}
	return printable.Line(e.Text + ": " + e.Err.Error())
}

// fields are what an event has, by the names that they have in the journal and in the
// environment of a hook, printable. What it has not is left out. remedy is what to type about
// its error, and may be nil.
func (e Event) fields(remedy func(error) string) map[string]string {
	f := map[string]string{
		"EVENT":       string(e.Name),
		"FINGERPRINT": string(e.Fingerprint),
		"ESCROW":      e.Escrow,
		"COPY":        e.Copy,
		"VERDICT":     e.Verdict,
		"UNIT":        e.Unit,
	}
	for name, n := range map[string]int64{"CHECKED": e.Checked, "OPENED": e.Opened, "TOTAL": e.Total} {
		if e.Checked != 0 || e.Total != 0 {
			f[name] = strconv.FormatInt(n, 10)
		}
	}
	if e.Took > 0 {
		f["SECONDS"] = strconv.FormatFloat(e.Took.Seconds(), 'f', 3, 64)
	}
	if e.Err != nil {
		f["ERROR"] = e.Err.Error()
		if remedy != nil {
			f["REMEDY"] = remedy(e.Err)
		}
	}
	named := map[string]string{}
	for name, value := range f {
		if value != "" {
			named["KEYGUARD_"+name] = printable.Line(value)
		}
	}
	return named
}

// journalFields are those of an entry of the journal, systemd.journal-fields(7).
func (e Event) journalFields(remedy func(error) string) map[string]string {
	f := e.fields(remedy)
	f["MESSAGE_ID"] = MessageID(e.Name)
	f["SYSLOG_IDENTIFIER"] = "keyguard"
	return f
}

// variables are the environment of a program in hooks.d, NAME=value, which is all that it is
// given of the event: nothing on its standard input, and no argument.
func (e Event) variables(remedy func(error) string, host string) []string {
	f := e.fields(remedy)
	f["KEYGUARD_TEXT"] = e.Line()
	f["KEYGUARD_HOST"] = cmp.Or(host, "unknown")
	f["KEYGUARD_TIME"] = e.Time.UTC().Format(time.RFC3339)
	f["KEYGUARD_URGENT"] = strconv.FormatBool(e.IsUrgent())
	var list []string
	for name, value := range f {
		list = append(list, name+"="+value)
	}
	return list
}

// Events are what came out of a look at the keyfile that a person should know, in the
// order in which it happened. What became of a daemon that may not start is the caller's.
func Events(r agent.GuardResult) []Event {
	d := r.Decision
	var list []Event
	tell := func(name EventName, f key.Fingerprint, format string, args ...any) {
		e := Event{Name: name, Fingerprint: f, Text: fmt.Sprintf(format, args...)}
		if p, tried := r.Evidence.Rows.Proofs[f]; tried && r.Evidence.Rows.State == decide.RowsAnswer {
			e.Verdict, e.Checked, e.Opened, e.Total = string(p.Verdict), p.Checked, p.Opened, r.Evidence.Rows.Dependent
		}
		list = append(list, e)
	}
	if r.Tightened != "" {
		f := cmp.Or(r.Evidence.Keyfile.Key, d.Key) // it could not be read, or was d.Key
		tell(Exposed, f, "the keyfile was loose (%s) and is 0400 again; whoever could read it may have key %s", r.Tightened, f)
	}
	if d.Contradicted != "" {
		tell(Refuted, d.Contradicted, "key %s, known until now, opens none of the rows any more: another database, or another key was used to write them", d.Contradicted)
	}
	if !r.Done {
		return list
	}
	switch d.Action {
	case decide.Install:
		tell(Installed, d.Key, "the keyfile was %s; key %s is in place now: %s", r.Evidence.Keyfile.State(), d.Key, d.Reason)
	case decide.Make:
		tell(Made, d.Key, "first start: key %s was made, escrowed and installed", d.Key)
	}
	switch d.Settle {
	case decide.SettleNothing:
	case decide.SettleNeither:
		tell(RotationSettled, "", "the rotation that stood open is closed, and neither of its keys opens a row: see keyguard verify")
	default:
		tell(RotationSettled, d.Key, "the rotation that stood open is closed: the rows are under its %s key, %s", d.Settle, d.Key)
	}
	if p := r.Evidence.Rows.Proofs[d.Key]; r.Evidence.Rows.State == decide.RowsAnswer && p.Verdict == rows.Partial {
		tell(Split, d.Key, "the table is split: key %s opens only %v; see keyguard verify", d.Key, p)
	}
	return list
}

// provenEvent tells that the rows were asked, and have nothing against the key that is
// in place; without a name where they were not.
func provenEvent(r agent.GuardResult) Event {
	f, said := r.Decision.Key, r.Evidence.Rows
	switch p := said.Proofs[f]; {
	case said.State == decide.RowsSilent:
		return Event{Name: Proven, Fingerprint: f, Verdict: string(rows.Silent), Text: fmt.Sprintf("no row depends on key %s: %s", f, said.Why)}
	case said.State == decide.RowsAnswer && p.Verdict == rows.Opens:
		return Event{Name: Proven, Fingerprint: f, Verdict: string(p.Verdict), Checked: p.Checked, Opened: p.Opened, Total: said.Dependent,
			Text: fmt.Sprintf("key %s opens every row it was tried on", f)}
	}
	return Event{}
}
