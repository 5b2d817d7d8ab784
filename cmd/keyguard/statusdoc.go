package main

import (
	"cmp"
	"os"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

type statusDoc struct {
	Version  int               `json:"version"`
	At       *time.Time        `json:"at"` // when this was so
	Host     string            `json:"host"`
	Keyguard string            `json:"keyguard"`
	Health   agent.Health      `json:"health"`
	Verdict  string            `json:"verdict"`
	Working  *workingDoc       `json:"under_way,omitempty"` // a rotation or a repair
	Daemon   *daemonDoc        `json:"daemon,omitempty"`    // missing where no unit is configured
	Watcher  string            `json:"watcher,omitempty"`   // "active", "inactive", "unknown"; "" where there is none to ask
	Decision decisionDoc       `json:"decision"`
	Keyfile  keyfileDoc        `json:"keyfile"`
	Known    *knownDoc         `json:"known,omitempty"`
	Rows     rowsDoc           `json:"rows"`
	Kept     int               `json:"local_quarantine"`
	Drill    drillStandingDoc  `json:"drill"`
	Deaf     string            `json:"watcher_deaf,omitempty"` // why it hears of changes only once a rescan
	Escrows  []escrowStatusDoc `json:"escrows"`
}

type workingDoc struct {
	What   string     `json:"what"` // "rotation", "repair"
	Since  *time.Time `json:"since,omitempty"`
	Person string     `json:"person,omitempty"`
}

type daemonDoc struct {
	Unit        string          `json:"unit,omitempty"`
	State       agent.DaemonIs  `json:"state"`
	Since       *time.Time      `json:"since,omitempty"`
	Fingerprint key.Fingerprint `json:"fingerprint,omitempty"` // of the key that it runs on, as far as is known
	Restart     bool            `json:"restart_needed"`
	Minted      bool            `json:"minted"`            // it made a key at this start
	Unasked     string          `json:"unasked,omitempty"` // why its start does not ask keyguard
	Why         string          `json:"why,omitempty"`
}

type drillStandingDoc struct {
	Last    *time.Time `json:"last,omitempty"`
	Verdict string     `json:"verdict,omitempty"`
	Reason  string     `json:"reason,omitempty"`
	Next    *time.Time `json:"next,omitempty"`
	Timer   string     `json:"timer,omitempty"` // "active", "inactive"; "" where there is none
}

type decisionDoc struct {
	Rule        string          `json:"rule"`
	Action      decide.Action   `json:"action"`
	Fingerprint key.Fingerprint `json:"fingerprint,omitempty"`
	Reason      string          `json:"reason"`
}

type knownDoc struct {
	Fingerprint key.Fingerprint `json:"fingerprint"`
	By          string          `json:"by"` // "proof", "person"
	At          *time.Time      `json:"at"`
}

type escrowStatusDoc struct {
	escrowDoc
	Domain     string          `json:"failure_domain"`
	AddOnly    bool            `json:"add_only,omitempty"` // not read from here
	Added      key.Fingerprint `json:"added,omitempty"`    // the key last stored there, unverified
	Current    int             `json:"current"`
	Quarantine int             `json:"quarantine"`
	Newest     key.Fingerprint `json:"newest,omitempty"`
	NewestID   string          `json:"newest_copy,omitempty"`
	Holds      bool            `json:"holds_the_key"`
	Alarm      string          `json:"alarm,omitempty"`
	Readable   string          `json:"readable_by_others,omitempty"`
	Ending     string          `json:"credential_ends,omitempty"` // in the last third of its life, and not renewed by itself
	SavedAt    *time.Time      `json:"saved_at,omitempty"`
	ProvenAt   *time.Time      `json:"proven_at,omitempty"`  // by a drill
	Drilled    string          `json:"last_drill,omitempty"` // what it said: passed, failed, inconclusive
}

func statusDocOf(r agent.StatusResult) statusDoc {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	d := statusDoc{
		Version: jsonVersion, At: timeDoc(time.Now()), Host: host, Keyguard: version, Health: r.Health, Verdict: r.Line,
		Decision: decisionDoc{r.Decision.Rule, r.Decision.Action, r.Decision.Key, r.Decision.Reason},
		Keyfile: keyfileDoc{Good: r.Keyfile.Good, Fingerprint: r.Keyfile.Key, Why: r.Keyfile.Why, Loose: r.Loose,
			Proof: proofOf(r.Rows, r.Keyfile.Key)},
		Rows: rowsDocOf(r.Rows), Kept: r.Kept, Escrows: []escrowStatusDoc{},
		Drill: drillStandingDoc{timeDoc(r.Drill.Last.Time), r.Drill.Last.Verdict, r.Drill.Last.Reason, timeDoc(r.Drill.Next.Next), r.Drill.Next.Active},
	}
	if w := r.Working; w != nil {
		d.Working = &workingDoc{w.What, timeDoc(w.Since), w.Person}
	}
	if s := r.Daemon; s.Is != agent.DaemonNotAsked {
		d.Daemon = &daemonDoc{s.Name, s.Is, timeDoc(s.Since), s.Key, s.RestartNeeded(), s.Minted, s.Unasked, errorText(s.Err)}
	}
	if r.Units {
		d.Watcher = cmp.Or(r.Watcher.Active, "unknown")
	}
	if deaf := r.Watcher.Deaf; deaf != nil {
		d.Deaf = deaf.Error()
	}
	if r.Known != "" {
		d.Known = &knownDoc{r.Known, knownBy(r), timeDoc(r.LastLook)}
	}
	for _, s := range r.Escrows {
		d.Escrows = append(d.Escrows, escrowStatusDoc{
			escrowDoc: escrowDoc{s.Name, s.Place.Kind, s.Place.Where, s.Required, s.Why}, Domain: s.Place.Domain,
			Current: s.Current, Quarantine: s.Quarantine, Newest: s.Newest.Key, NewestID: s.Newest.ID,
			Holds: s.Holds, Alarm: s.Alarm, Readable: s.Readable, Ending: s.Ending, AddOnly: s.AddOnly, Added: addedOf(s), SavedAt: timeDoc(s.SavedAt), ProvenAt: timeDoc(s.Proven.Time), Drilled: s.Drilled.Verdict,
		})
	}
	return d
}

func addedOf(s agent.EscrowStatus) key.Fingerprint {
	if s.AddOnly {
		return s.Added
	}
	return ""
}

func knownBy(r agent.StatusResult) string {
	if r.Accepted {
		return "person"
	}
	return "proof"
}
