// Package fleet joins what is known of many hosts: an inventory that says which there are,
// what the stores show of their copies, and what the hosts themselves said by
// `keyguard status --json`. It answers which of them could not come back today.
//
// Judge is pure: evidence in, a report out. A cell is good, bad or unknown, and what nobody
// told is unknown (law 6): silence is never good. Looker asks the stores, by their metadata
// alone, at their pace, and goes on where it was interrupted. Nothing in here needs a key,
// root or a host, and nothing listens.
package fleet

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// Is is what a cell, and a host, comes to.
type Is string

// From worst to best.
const (
	Bad     Is = "bad"
	Unknown Is = "unknown"
	Good    Is = "good"
)

// worse is the worse of two.
func worse(a, b Is) Is {
	for _, is := range []Is{Bad, Unknown} {
		if a == is || b == is {
			return is
		}
	}
	return Good
}

// Said is what one host said of itself.
type Said struct {
	File        string // that it stands in
	Host        string // as it calls itself
	At          time.Time
	Health      string // "green", "lagging", "amiss", "doubt", "lost", "busy"
	Verdict     string
	Keyguard    string // its version
	Fingerprint key.Fingerprint
	Escrows     []SaidEscrow
	Drill       time.Time // when the last one ended; zero for never
	Drilled     string    // what it said: "passed", "failed", "inconclusive"
	DrillReason string
	// Err is why the file tells nothing, nil where it does.
	Err error
}

// SaidEscrow is one escrow, as a host sees it.
type SaidEscrow struct {
	Name, Domain string
	Holds        bool // its newest current copy is the host's key
}

// ErrStatus says that a file is no status of a host.
var ErrStatus = errors.New("no status of a host as JSON")

// ParseStatus reads what `keyguard status --json` printed. A newer keyguard may say more.
func ParseStatus(data []byte) (Said, error) {
	var doc struct {
		Version  int        `json:"version"`
		At       *time.Time `json:"at"`
		Host     string     `json:"host"`
		Keyguard string     `json:"keyguard"`
		Health   string     `json:"health"`
		Verdict  string     `json:"verdict"`
		Keyfile  struct {
			Fingerprint string `json:"fingerprint"`
		} `json:"keyfile"`
		Drill struct {
			Last    *time.Time `json:"last"`
			Verdict string     `json:"verdict"`
			Reason  string     `json:"reason"`
		} `json:"drill"`
		Escrows []struct {
			Name   string `json:"escrow"`
			Domain string `json:"failure_domain"`
			Holds  bool   `json:"holds_the_key"`
		} `json:"escrows"`
	}
	if err := json.Unmarshal(data, &doc); err != nil || doc.Host == "" || doc.Health == "" {
		return Said{}, ErrStatus
	}
	if doc.Version != 1 {
		return Said{}, fmt.Errorf("%w: it is of version %d, and this program knows 1", ErrStatus, doc.Version)
	}
	s := Said{Host: doc.Host, Health: doc.Health, Verdict: doc.Verdict, Keyguard: doc.Keyguard,
		Drilled: doc.Drill.Verdict, DrillReason: doc.Drill.Reason}
	if doc.At != nil {
		s.At = *doc.At
	}
	if doc.Drill.Last != nil {
		s.Drill = *doc.Drill.Last
	}
	if f, err := key.ParseFingerprint(doc.Keyfile.Fingerprint); err == nil {
		s.Fingerprint = f
	}
	for _, e := range doc.Escrows {
		s.Escrows = append(s.Escrows, SaidEscrow{e.Name, e.Domain, e.Holds})
	}
	return s, nil
}

// ErrInventory says that a text is no inventory.
var ErrInventory = errors.New("no inventory: neither a host's name on each line nor what ansible-inventory --list prints")

// maxHosts bounds an inventory.
const maxHosts = 1_000_000

// ParseInventory reads the names of hosts: one a line, # begins a comment; or the JSON of
// `ansible-inventory --list`. Each name comes once, in order.
func ParseInventory(data []byte) ([]string, error) {
	var names []string
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // as Windows begins a text
	if text := bytes.TrimSpace(data); len(text) > 0 && text[0] == '{' {
		var err error
		if names, err = ansible(text); err != nil {
			return nil, err
		}
	} else {
		lines := bufio.NewScanner(bytes.NewReader(data))
		for lines.Scan() {
			line, _, _ := strings.Cut(lines.Text(), "#")
			if line = strings.TrimSpace(line); line != "" {
				names = append(names, line)
			}
		}
		if lines.Err() != nil {
			return nil, ErrInventory
		}
	}
	for _, n := range names {
		if !isHost(n) {
			return nil, fmt.Errorf("%w: %q is no host's name", ErrInventory, n)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 || len(names) > maxHosts {
		return nil, fmt.Errorf("%w: it has %d hosts", ErrInventory, len(names))
	}
	return names, nil
}

// isHost tells whether a text can be a host's name, or its address. Neither a group of an
// inventory in Ansible's INI ("[web]") nor one in YAML ("web:") is; nor is what a program
// would take for an option.
func isHost(n string) bool {
	if n == "" || len(n) > 253 || strings.ContainsFunc(n, func(r rune) bool { return !(letter(r) || r == '.' || r == ':') }) {
		return false
	}
	if strings.Contains(n, ":") {
		_, err := netip.ParseAddr(n)
		return err == nil
	}
	return n[0] != '.' && n[0] != '-'
}

// letter tells what may stand in the name of a host and in those of every store.
func letter(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-'
}

// ansible reads a dynamic inventory: groups with their hosts, and _meta with the variables
// of each (https://docs.ansible.com/ansible/latest/dev_guide/developing_inventory.html).
func ansible(text []byte) (names []string, err error) {
	var groups map[string]json.RawMessage
	if json.Unmarshal(text, &groups) != nil {
		return nil, ErrInventory
	}
	for name, raw := range groups {
		var group struct {
			Hosts    []string                   `json:"hosts"`
			HostVars map[string]json.RawMessage `json:"hostvars"`
		}
		if json.Unmarshal(raw, &group) != nil {
			return nil, fmt.Errorf("%w: group %q", ErrInventory, name)
		}
		names = append(names, group.Hosts...)
		for host := range group.HostVars {
			names = append(names, host)
		}
	}
	return names, nil
}

// inNames is a host's name as it stands in the names of a store, as `keyguard init` puts it
// there: what they cannot have becomes "-".
func inNames(host string) string {
	return strings.Map(func(r rune) rune {
		if letter(r) {
			return r
		}
		return '-'
	}, host)
}

// short is a host's name without its domain.
func short(host string) string {
	if _, err := netip.ParseAddr(host); err == nil {
		return host
	}
	name, _, _ := strings.Cut(host, ".")
	return name
}

// Look is what was seen of one host in one store.
type Look struct {
	escrow.Shown
	At    time.Time `json:"at"`
	Times int       `json:"times"`           // how often it was looked at, some time apart
	Why   string    `json:"error,omitempty"` // why it could not be looked at
	// Policies: who may destroy was asked, and Destroyers are those who may. PolicyWhy is
	// what of that is not known, "" for nothing.
	Policies   bool     `json:"policies,omitempty"`
	Destroyers []string `json:"destroyers,omitempty"`
	PolicyWhy  string   `json:"policy_error,omitempty"`
}

// View is one store as far as it was looked at.
type View struct {
	Name     string
	Place    escrow.Place
	Required bool
	Lags     bool
	// Err is why it cannot answer at all, nil where it does.
	Err error
	// Listed tells that it said which hosts it has.
	Listed bool
	// Hosts are those that it has, by the name that stands in its names; a host of the
	// inventory that was looked for and is not there is among them too.
	Hosts map[string]*Look
	// Policies: who may destroy was asked. Destroyers may destroy everything there; PolicyErr
	// is what of that is not known.
	Policies   bool
	Destroyers []string
	PolicyErr  error
}

// places is where to look for the hosts of an inventory: the names that each may have in a
// store, the likeliest first.
type places map[string][]string

func placesOf(inventory []string, said map[string]*Said) places {
	shared := map[string]int{}
	for _, h := range inventory {
		shared[short(h)]++
	}
	all := places{}
	for _, h := range inventory {
		if s := said[h]; s != nil && s.Err == nil && isHost(s.Host) {
			all[h] = append(all[h], inNames(s.Host)) // init took that one
		}
		all[h] = append(all[h], inNames(h))
		if shared[short(h)] == 1 {
			all[h] = append(all[h], inNames(short(h)))
		}
	}
	return all
}

// in is the name under which a host is to be found in a store.
func (p places) in(host string, v View) string {
	for _, name := range p[host] {
		if l, there := v.Hosts[name]; there && (l == nil || !l.Missing) {
			return name
		}
	}
	return p[host][0]
}

// Match finds for each host of the inventory what it said: the file that bears its name, with
// or without the domain. What a file claims finds no host, and takes one away: what stands
// under one host's name and speaks of another is of neither. The rest are of hosts in no
// inventory.
func Match(inventory []string, all []Said) (said map[string]*Said, rest []*Said) {
	said = map[string]*Said{}
	byName := map[string]string{}
	for _, h := range inventory { // a whole name counts more than one without its domain
		if _, taken := byName[short(h)]; taken {
			byName[short(h)] = "" // two hosts have it, and so it names neither
		} else {
			byName[short(h)] = h
		}
	}
	for _, h := range inventory {
		byName[h] = h
	}
	meant := func(name string) string {
		if s := short(name); byName[name] == "" && byName[s] == s { // the inventory has no domains
			return s
		}
		return byName[name]
	}
	for i := range all {
		s := &all[i]
		file := strings.TrimSuffix(s.File, ".json")
		host, own := meant(file), ""
		if s.Err == nil {
			own = meant(s.Host)
		}
		if own != "" && own != host {
			s = &Said{File: s.File, Err: fmt.Errorf("%w: it is that of %s", ErrStatus, own)}
		}
		if host == "" {
			rest = append(rest, s)
			continue
		}
		switch other := said[host]; {
		case other == nil:
		case other.File == host+".json":
			continue
		case file != host:
			s = &Said{File: s.File, Err: fmt.Errorf("%w: it may be that of %s or that of %s", ErrStatus, other.File, s.File)}
		}
		said[host] = s
	}
	return said, rest
}
