package fleet

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

const (
	keyA = key.Fingerprint("aaaaaaaaaaaaaaaa")
	keyB = key.Fingerprint("bbbbbbbbbbbbbbbb")
)

var now = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

// healthy is a world in which the host web1 is good: two stores, a fresh status, a drill.
func healthy() (Evidence, Questions) {
	look := func() *Look {
		return &Look{Shown: escrow.Shown{Current: &escrow.Copy{ID: "current/3", Created: ago(240 * time.Hour), Fingerprint: keyA}}, At: ago(time.Minute), Times: 1, Policies: true}
	}
	e := Evidence{
		Inventory: []string{"web1"},
		Said: []Said{{File: "web1.json", Host: "web1", At: ago(time.Hour), Health: "green", Verdict: "all is well", Keyguard: "0.2.0",
			Fingerprint: keyA, Drill: ago(24 * time.Hour), Drilled: "passed"}},
		Stores: []View{
			{Name: "gcp", Place: escrow.Place{Domain: "Google Cloud project p"}, Required: true, Lags: true, Listed: true, Policies: true, Hosts: map[string]*Look{"web1": look()}},
			{Name: "vault", Place: escrow.Place{Domain: "the Vault"}, Required: true, Listed: true, Policies: true, Hosts: map[string]*Look{"web1": look()}},
		},
	}
	return e, Questions{Now: now, Fresh: 48 * time.Hour, Period: 8 * 24 * time.Hour, Minimum: "0.1.0", Policies: true, Since: ago(300 * time.Hour)}
}

// cell is the answer to one question on web1.
func cell(t *testing.T, r Report, column string) Cell {
	t.Helper()
	i := slices.Index(r.Columns, column)
	for _, row := range r.Rows {
		if strings.HasPrefix(row.Host, "web1") {
			return row.Cells[i]
		}
	}
	t.Fatal("web1 is not in the report")
	return Cell{}
}

// TestJudge has a row for each question that a fleet answers, and each way not to know.
func TestJudge(t *testing.T) {
	// gcp is the store that lags, vault the one that does not.
	gcp, vault := func(e *Evidence) *Look { return e.Stores[0].Hosts["web1"] }, func(e *Evidence) *Look { return e.Stores[1].Hosts["web1"] }
	twin := func(e *Evidence, host string) {
		e.Said = append(e.Said, Said{File: host + ".json", Host: host, At: ago(time.Hour), Health: "green", Fingerprint: keyA})
	}
	for _, tt := range []struct {
		name   string
		change func(*Evidence, *Questions)
		column string
		is     Is
		why    string // a part of it
	}{
		{"all is well", func(*Evidence, *Questions) {}, "status", Good, "green: all is well"},

		// What hosts say.
		{"silence", func(e *Evidence, _ *Questions) { e.Said = nil }, "status", Unknown, "said nothing"},
		{"silence on the drill", func(e *Evidence, _ *Questions) { e.Said = nil }, "drill", Unknown, "said nothing"},
		{"silence on the version", func(e *Evidence, _ *Questions) { e.Said = nil }, "version", Unknown, "said nothing"},
		{"an old status", func(e *Evidence, _ *Questions) { e.Said[0].At = ago(49 * time.Hour) }, "status", Unknown, "for 2 days"},
		{"a status without a time", func(e *Evidence, _ *Questions) { e.Said[0].At = time.Time{} }, "status", Unknown, "does not say when"},
		{"a status of tomorrow", func(e *Evidence, _ *Questions) { e.Said[0].At = ago(-24 * time.Hour) }, "status", Unknown, "clock is ahead"},
		{"no status in the file", func(e *Evidence, _ *Questions) { e.Said[0] = Said{File: "web1.json", Err: ErrStatus} }, "status", Unknown, "no status"},
		{"lost", func(e *Evidence, _ *Questions) { e.Said[0].Health = "lost" }, "status", Bad, "lost"},
		{"doubt", func(e *Evidence, _ *Questions) { e.Said[0].Health = "doubt" }, "status", Bad, "doubt"},
		{"lagging", func(e *Evidence, _ *Questions) { e.Said[0].Health = "lagging" }, "status", Bad, "lagging"},
		{"amiss", func(e *Evidence, _ *Questions) { e.Said[0].Health = "amiss" }, "status", Bad, "amiss"},
		{"a status under its name that is another host's", func(e *Evidence, _ *Questions) {
			e.Inventory, e.Said[0].Host = append(e.Inventory, "web2"), "web2.example.org"
		}, "status", Unknown, "it is that of web2"},
		{"busy", func(e *Evidence, _ *Questions) { e.Said[0].Health = "busy" }, "status", Unknown, "busy"},
		{"a health of a later keyguard", func(e *Evidence, _ *Questions) { e.Said[0].Health = "sunny" }, "status", Unknown, "sunny"},

		// What stores show.
		{"missing", func(e *Evidence, _ *Questions) { *vault(e) = Look{Shown: escrow.Shown{Missing: true}, Times: 1} }, "vault", Bad, "nothing is there"},
		{"missing where it is not required", func(e *Evidence, _ *Questions) {
			e.Stores[1].Required = false
			*vault(e) = Look{Shown: escrow.Shown{Missing: true}, Times: 1}
		}, "vault", Good, "not required"},
		{"missing, seen once in a store that lags", func(e *Evidence, _ *Questions) { *gcp(e) = Look{Shown: escrow.Shown{Missing: true}, Times: 1} }, "gcp", Unknown, "seen once"},
		{"missing, seen twice", func(e *Evidence, _ *Questions) { *gcp(e) = Look{Shown: escrow.Shown{Missing: true}, Times: 2} }, "gcp", Bad, "nothing is there"},
		{"never looked at", func(e *Evidence, _ *Questions) { delete(e.Stores[1].Hosts, "web1") }, "vault", Unknown, "not looked at"},
		{"could not be looked at", func(e *Evidence, _ *Questions) { vault(e).Why = "permission denied" }, "vault", Unknown, "permission denied"},
		{"the store is down", func(e *Evidence, _ *Questions) { e.Stores[1].Err = escrow.ErrUnreachable }, "vault", Unknown, "cannot answer"},
		{"no current copy", func(e *Evidence, _ *Questions) { vault(e).Current = nil }, "vault", Bad, "no current copy"},
		{"disabled", func(e *Evidence, _ *Questions) { vault(e).Current.Unreadable = "disabled" }, "vault", Bad, "disabled"},
		{"destroyed", func(e *Evidence, _ *Questions) { vault(e).Current.Unreadable = "destroyed" }, "vault", Bad, "destroyed"},
		{"scheduled for destruction", func(e *Evidence, _ *Questions) {
			vault(e).Current.Unreadable, vault(e).Current.Ends = "disabled", ago(-24*time.Hour)
		}, "vault", Bad, "will be destroyed 2026-11-28"},
		{"to be deleted by the store itself", func(e *Evidence, _ *Questions) { vault(e).Current.Ends = ago(-24 * time.Hour) }, "vault", Bad, "will be destroyed"},
		{"to be deleted, and long until then", func(e *Evidence, _ *Questions) { vault(e).Current.Ends = ago(-2400 * time.Hour) }, "vault", Good, "saved"},
		{"nothing saved since", func(_ *Evidence, q *Questions) { q.Since = ago(100 * time.Hour) }, "vault", Bad, "nothing was saved since 2026-11-23"},
		{"nobody knows when it was saved", func(e *Evidence, _ *Questions) { vault(e).Current.Created = time.Time{} }, "vault", Unknown, "does not tell when"},
		{"nobody knows, and nobody asks", func(e *Evidence, q *Questions) { vault(e).Current.Created, q.Since = time.Time{}, time.Time{} }, "vault", Good, "a copy"},
		{"quarantine newer than current", func(e *Evidence, _ *Questions) {
			vault(e).Quarantine = &escrow.Copy{Created: ago(2 * time.Hour)}
		}, "vault", Bad, "came into quarantine 2026-11-27 10:00"},
		{"a rotation under way", func(e *Evidence, _ *Questions) { vault(e).Quarantine = &escrow.Copy{Created: ago(time.Minute)} }, "vault", Unknown, "may be under way"},
		{"an older quarantine", func(e *Evidence, _ *Questions) { vault(e).Quarantine = &escrow.Copy{Created: ago(900 * time.Hour)} }, "vault", Good, "saved"},
		{"another key than the host's", func(e *Evidence, _ *Questions) { vault(e).Current.Fingerprint = keyB }, "vault", Bad, "the host has key " + string(keyA)},
		{"saved tomorrow", func(e *Evidence, _ *Questions) { vault(e).Current.Created = ago(-24 * time.Hour) }, "vault", Unknown, "a clock is wrong"},
		{"the place of another host too", func(e *Evidence, _ *Questions) {
			e.Inventory = append(e.Inventory, "web2")
			e.Said[0].Host = "golden"
			e.Said = append(e.Said, Said{File: "web2.json", Host: "golden", At: ago(time.Hour), Health: "green"})
			e.Stores[0].Hosts["golden"] = gcp(e)
		}, "gcp", Bad, "web2 has the same place there: golden"},
		{"another key, saved since the host spoke", func(e *Evidence, _ *Questions) {
			vault(e).Current.Fingerprint, vault(e).Current.Created = keyB, ago(time.Minute)
		}, "vault", Good, "saved"},

		// Failure domains.
		{"two domains", func(*Evidence, *Questions) {}, "domains", Good, "2 failure domains"},
		{"one domain for two stores", func(e *Evidence, _ *Questions) { e.Stores[1].Place.Domain = e.Stores[0].Place.Domain }, "domains", Bad, "lost with Google Cloud project p"},
		{"one domain, and a second by the host's word", func(e *Evidence, _ *Questions) {
			e.Stores = e.Stores[:1]
			e.Said[0].Escrows = []SaidEscrow{{Name: "usb", Domain: "the stick", Holds: true}}
		}, "domains", Good, "2"},
		{"a second that does not hold the key", func(e *Evidence, _ *Questions) {
			e.Stores = e.Stores[:1]
			e.Said[0].Escrows = []SaidEscrow{{Name: "usb", Domain: "the stick"}}
		}, "domains", Bad, "lost with"},
		{"one domain, and the host is silent", func(e *Evidence, _ *Questions) { e.Stores, e.Said = e.Stores[:1], nil }, "domains", Unknown, "one failure domain is known"},
		{"one domain, and the other store is down", func(e *Evidence, _ *Questions) { e.Stores[1].Err = escrow.ErrTimeout }, "domains", Unknown, "one failure domain is known"},
		{"the host's word of a store that shows otherwise", func(e *Evidence, _ *Questions) {
			*vault(e) = Look{Shown: escrow.Shown{Missing: true}, Times: 1}
			e.Said[0].Escrows = []SaidEscrow{{Name: "vault", Domain: "the Vault", Holds: true}}
		}, "domains", Bad, "lost with"},

		// Drills.
		{"a drill too old", func(e *Evidence, _ *Questions) { e.Said[0].Drill = ago(9 * 24 * time.Hour) }, "drill", Bad, "9 days ago"},
		{"no drill ever", func(e *Evidence, _ *Questions) { e.Said[0].Drill = time.Time{} }, "drill", Bad, "ever"},
		{"a drill tomorrow", func(e *Evidence, _ *Questions) { e.Said[0].Drill = ago(-24 * time.Hour) }, "drill", Unknown, "clock was wrong"},
		{"a drill that failed", func(e *Evidence, _ *Questions) { e.Said[0].Drilled, e.Said[0].DrillReason = "failed", "opens none" }, "drill", Bad, "opens none"},
		{"a drill that proved nothing", func(e *Evidence, _ *Questions) { e.Said[0].Drilled = "inconclusive" }, "drill", Unknown, "inconclusive"},

		// Two hosts with one key.
		{"a key of its own", func(*Evidence, *Questions) {}, "twins", Good, "its own"},
		{"the key of another host, by its status", func(e *Evidence, _ *Questions) { e.Inventory = append(e.Inventory, "web2"); twin(e, "web2") }, "twins", Bad, "is that of web2 too"},
		{"the key of a host in no inventory", func(e *Evidence, _ *Questions) { twin(e, "clone") }, "twins", Bad, "is that of clone too"},
		{"an old status still tells whose key it is", func(e *Evidence, _ *Questions) { twin(e, "clone"); e.Said[1].At = ago(9000 * time.Hour) }, "twins", Bad, "clone"},
		{"the key of another host, by the names in a store", func(e *Evidence, _ *Questions) {
			e.Stores[1].Hosts["web9"] = &Look{Shown: escrow.Shown{Keys: []key.Fingerprint{keyB, keyA}}, Times: 1}
		}, "twins", Bad, "is that of web9 too"},
		{"nobody tells the key", func(e *Evidence, _ *Questions) {
			e.Said = nil
			gcp(e).Current.Fingerprint, vault(e).Current.Fingerprint = "", ""
		}, "twins", Unknown, "nobody"},

		// Versions.
		{"too old", func(_ *Evidence, q *Questions) { q.Minimum = "0.3.0" }, "version", Bad, "older than 0.3.0"},
		{"ten is more than nine", func(e *Evidence, q *Questions) { e.Said[0].Keyguard, q.Minimum = "0.10.0", "0.9.1" }, "version", Good, "0.10.0"},
		{"built after a release", func(e *Evidence, q *Questions) { e.Said[0].Keyguard, q.Minimum = "v0.1.0-12-gabc", "0.1.0" }, "version", Good, "0.1.0"},
		{"built after it, by our own Makefile", func(e *Evidence, _ *Questions) { e.Said[0].Keyguard = "0.1.0+5.g0123456" }, "version", Good, "0.1.0"},
		{"built before the release", func(e *Evidence, _ *Questions) { e.Said[0].Keyguard = "0.1.0-dev.77" }, "version", Bad, "older than 0.1.0"},
		{"no release", func(e *Evidence, _ *Questions) { e.Said[0].Keyguard = "devel" }, "version", Unknown, "no release"},

		// Who may destroy.
		{"nobody may destroy", func(*Evidence, *Questions) {}, "destroyers", Good, "no machine"},
		{"a host may destroy its copies", func(e *Evidence, _ *Questions) {
			gcp(e).Destroyers = []string{"serviceAccount:web1@p by roles/secretmanager.admin"}
		}, "destroyers", Bad, "serviceAccount:web1@p"},
		{"a host may destroy everything", func(e *Evidence, _ *Questions) { e.Stores[0].Destroyers = []string{"serviceAccount:x by roles/owner"} }, "destroyers", Bad, "roles/owner"},
		{"a store that does not tell", func(e *Evidence, _ *Questions) { e.Stores[1].Policies = false }, "destroyers", Unknown, "vault does not tell"},
		{"who may destroy everything, and of this host nobody asked", func(e *Evidence, _ *Questions) {
			gcp(e).Policies, e.Stores[0].Destroyers = false, []string{"serviceAccount:x by roles/owner"}
		}, "destroyers", Bad, "roles/owner"},
		{"who may destroy was not asked of this host", func(e *Evidence, _ *Questions) { gcp(e).Policies = false }, "destroyers", Unknown, "gcp was not asked"},
		{"a part of it is not known", func(e *Evidence, _ *Questions) { gcp(e).PolicyWhy = "roles of one's own" }, "destroyers", Unknown, "gcp: roles of one's own"},
		{"a part is not known, and somebody may", func(e *Evidence, _ *Questions) {
			gcp(e).PolicyWhy, gcp(e).Destroyers = "roles of one's own", []string{"serviceAccount:web1@p"}
		}, "destroyers", Bad, "serviceAccount:web1@p"},
		{"a policy that may not be read", func(e *Evidence, _ *Questions) { e.Stores[0].PolicyErr = escrow.ErrDenied }, "destroyers", Unknown, "permission denied"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, q := healthy()
			tt.change(&e, &q)
			r := Judge(e, q)
			c := cell(t, r, tt.column)
			if c.Is != tt.is || !strings.Contains(c.Why, tt.why) {
				t.Errorf("%s is %s (%s), want %s with %q", tt.column, c.Is, c.Why, tt.is, tt.why)
			}
			worst := Good
			for _, c := range r.Rows[0].Cells {
				worst = worse(worst, c.Is)
			}
			if r.Rows[0].Is != worst || r.Counts[r.Rows[0].Is] == 0 {
				t.Errorf("the host is %s, and its worst cell %s", r.Rows[0].Is, worst)
			}
		})
	}
}

// TestSilenceIsNeverGood takes away one thing after the other that somebody told: what
// depends on it is no longer good.
func TestSilenceIsNeverGood(t *testing.T) {
	e, q := healthy()
	if r := Judge(e, q); r.Rows[0].Is != Good {
		t.Fatalf("the whole evidence is %s: %+v", r.Rows[0].Is, r.Rows[0].Cells)
	}
	for name, take := range map[string]func(*Evidence){
		"the status":            func(e *Evidence) { e.Said = nil },
		"its time":              func(e *Evidence) { e.Said[0].At = time.Time{} },
		"its health":            func(e *Evidence) { e.Said[0].Health = "" },
		"the drill":             func(e *Evidence) { e.Said[0].Drill = time.Time{} },
		"the drill's verdict":   func(e *Evidence) { e.Said[0].Drilled = "" },
		"the version":           func(e *Evidence) { e.Said[0].Keyguard = "" },
		"all stores":            func(e *Evidence) { e.Stores = nil },
		"one store":             func(e *Evidence) { e.Stores = e.Stores[:1] },
		"the look at one":       func(e *Evidence) { e.Stores[0].Hosts = nil },
		"the copy there":        func(e *Evidence) { e.Stores[0].Hosts["web1"].Current = nil },
		"when it was saved":     func(e *Evidence) { e.Stores[0].Hosts["web1"].Current.Created = time.Time{} },
		"where one is":          func(e *Evidence) { e.Stores[0].Place.Domain = "" },
		"who may destroy there": func(e *Evidence) { e.Stores[0].Policies = false },
		"who may destroy it":    func(e *Evidence) { e.Stores[0].Hosts["web1"].Policies = false },
	} {
		e, q := healthy()
		take(&e)
		if r := Judge(e, q); r.Rows[0].Is == Good {
			t.Errorf("without %s the host is still good", name)
		}
	}
}

// TestOrder: the worst first, and a lost host before all.
func TestOrder(t *testing.T) {
	e, q := healthy()
	e.Inventory = []string{"a-good", "b-silent", "c-bad", "d-lost"}
	e.Said = nil
	for i, host := range e.Inventory {
		f := key.Fingerprint(fmt.Sprintf("%016d", i))
		for _, v := range e.Stores {
			v.Hosts[host] = &Look{Shown: escrow.Shown{Current: &escrow.Copy{Created: ago(time.Hour), Fingerprint: f}}, Times: 1, Policies: true}
		}
		s := Said{File: host + ".json", Host: host, At: now, Health: "green", Keyguard: "0.2.0", Drill: now, Drilled: "passed"}
		switch host {
		case "b-silent":
			continue
		case "c-bad":
			s.Health = "lagging"
		case "d-lost":
			s.Health = "lost"
		}
		e.Said = append(e.Said, s)
	}
	r := Judge(e, q)
	var order []string
	for _, row := range r.Rows {
		order = append(order, row.Host+" "+string(row.Is))
	}
	want := []string{"d-lost bad", "c-bad bad", "b-silent unknown", "a-good good"}
	if !slices.Equal(order, want) || r.Lost != 1 || r.Counts[Bad] != 2 || r.Counts[Unknown] != 1 || r.Counts[Good] != 1 {
		t.Errorf("the order is %q, counts %v, %d lost; want %q", order, r.Counts, r.Lost, want)
	}
}

// TestStrangers: who is in a store and in no inventory, unless he is known to be gone.
func TestStrangers(t *testing.T) {
	e, q := healthy()
	e.Stores[0].Hosts["old1"] = nil // listed, and not looked at
	e.Stores[1].Hosts["old1"] = nil
	e.Stores[1].Hosts["gone-example-org"] = nil
	e.Stores[1].Hosts["asked"] = &Look{Shown: escrow.Shown{Missing: true}, Times: 1}
	e.Retired = []string{"gone.example.org"}
	e.Said = append(e.Said, Said{File: "lab.json", Host: "lab", At: now, Health: "green"}, Said{File: "rubbish.json", Err: errors.New("no")})
	var got []string
	for _, s := range Judge(e, q).Strangers {
		got = append(got, s.Host+" in "+strings.Join(s.Where, ","))
	}
	if want := []string{"lab in status", "old1 in gcp,vault", "rubbish.json in status"}; !slices.Equal(got, want) {
		t.Errorf("strangers %q, want %q", got, want)
	}
}

// TestNothingThere: a store that has nothing of any host is rather the wrong place.
func TestNothingThere(t *testing.T) {
	e, q := healthy()
	e.Inventory = append(e.Inventory, "web2")
	e.Stores[1].Required = false
	e.Stores[1].Hosts = map[string]*Look{"web1": {Shown: escrow.Shown{Missing: true}}, "web2": {Shown: escrow.Shown{Missing: true}}}
	if r := Judge(e, q); r.Stores[0].Is != Good || r.Stores[1].Is != Unknown {
		t.Errorf("%+v", r.Stores)
	}
	e.Stores[1].Hosts["web2"] = e.Stores[0].Hosts["web1"]
	if r := Judge(e, q); r.Stores[1].Is != Good {
		t.Errorf("one host is there: %+v", r.Stores)
	}
}

// TestNames: an inventory has whole names, and a store what the host called itself.
func TestNames(t *testing.T) {
	for _, tt := range []struct {
		name, inventory, says, store string
		found                        bool
	}{
		{"the same", "web1", "web1", "web1", true},
		{"a domain in the inventory alone", "web1.example.org", "", "web1", true},
		{"a domain in the store too", "web1.example.org", "", "web1-example-org", true},
		{"called otherwise by the inventory", "web1-10.0.0.7", "web1", "web1", true},
		{"another host's", "web1.example.org", "", "web10", false},
		{"what a program would take for an option", "web1.example.org", "--delete", "--delete", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, q := healthy()
			e.Inventory, e.Said = []string{tt.inventory}, nil
			if tt.says != "" {
				e.Said = []Said{{File: tt.inventory + ".json", Host: tt.says, At: now, Health: "green"}}
			}
			for i := range e.Stores {
				e.Stores[i].Hosts = map[string]*Look{tt.store: e.Stores[i].Hosts["web1"]}
			}
			r := Judge(e, q)
			if found := cell(t, r, "vault").Is == Good; found != tt.found || (len(r.Strangers) == 0) != tt.found {
				t.Errorf("found is %v, strangers %v", found, r.Strangers)
			}
		})
	}
	// Two hosts whose names are one without their domains have no short name.
	e, q := healthy()
	e.Inventory = []string{"web1.a.example", "web1.b.example"}
	e.Said[0].File = "x.json"
	r := Judge(e, q)
	for _, row := range r.Rows {
		if row.Cells[0].Is == Good || row.Cells[1].Is == Good {
			t.Errorf("%s takes what may be the other's: %+v", row.Host, row.Cells)
		}
	}
	if len(r.Strangers) != 1 || r.Strangers[0].Host != "web1" {
		t.Errorf("strangers %v", r.Strangers)
	}
}

// TestMatch: a file speaks of the host whose name it bears, and of none where it claims to be
// another's.
func TestMatch(t *testing.T) {
	domains := []string{"web1.a.example", "web1.b.example"}
	for _, tt := range []struct {
		name      string
		inventory []string
		files     []string // name=claim; "" claims nothing that can be read
		want      []string // host=file, ! behind one that tells nothing
	}{
		{"its own", []string{"web1"}, []string{"web1=web1"}, []string{"web1=web1"}},
		{"a stray file claims the host", []string{"web1"}, []string{"web1=web1", "evil=web1"}, []string{"web1=web1"}},
		{"a stray file alone", []string{"web1"}, []string{"evil=web1"}, nil},
		{"a stray file in place of rubbish", []string{"web1"}, []string{"web1=", "evil=web1"}, []string{"web1=web1!"}},
		{"another name that nobody has", []string{"web1-10.0.0.7"}, []string{"web1-10.0.0.7=web1"}, []string{"web1-10.0.0.7=web1-10.0.0.7"}},
		{"another host's, by the name without its domain", []string{"web1", "web2"}, []string{"web1=web2.example.org"}, []string{"web1=web1!"}},
		{"another host's of another domain", domains, []string{"web1.a.example=web1.b.example"}, []string{"web1.a.example=web1.a.example!"}},
		{"a claim without a domain, which both may make", domains, []string{"web1.a.example=web1"}, []string{"web1.a.example=web1.a.example"}},
		{"a file without a domain, which may be either's", domains, []string{"web1=web1.a.example"}, nil},
		{"a whole name beside one without its domain", []string{"web1", "web1.a.example"}, []string{"web1.a.example=web1"}, []string{"web1.a.example=web1.a.example!"}},
		{"a domain in the inventory alone", []string{"web1.a.example"}, []string{"web1=web1"}, []string{"web1.a.example=web1"}},
		{"a domain in the file alone", []string{"web1"}, []string{"web1.a.example=web1.a.example"}, []string{"web1=web1.a.example"}},
		{"a file of another domain", []string{"web1.a.example"}, []string{"web1.b.example=web1.b.example"}, nil},
		{"the whole name counts more", []string{"web1"}, []string{"web1.a.example=web1", "web1=web1"}, []string{"web1=web1"}},
		{"two domains for one without", []string{"web1"}, []string{"web1.a.example=web1", "web1.b.example=web1"}, []string{"web1=web1.b.example!"}},
		{"an address is no name with a domain", []string{"10.0.0.7"}, []string{"10=10", "10.0.0.8=x"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var all []Said
			for i, f := range tt.files {
				file, claim, _ := strings.Cut(f, "=")
				s := Said{File: file + ".json", Host: claim, At: now.Add(time.Duration(i) * time.Minute), Health: "green"}
				if claim == "" {
					s = Said{File: s.File, Err: ErrStatus}
				}
				all = append(all, s)
			}
			said, rest := Match(tt.inventory, all)
			var got []string
			for host, s := range said {
				g := host + "=" + strings.TrimSuffix(s.File, ".json")
				if s.Err != nil {
					g += "!"
				}
				got = append(got, g)
			}
			slices.Sort(got)
			if !slices.Equal(got, tt.want) {
				t.Errorf("%q, want %q", got, tt.want)
			}
			for _, s := range rest {
				if slices.Contains(tt.inventory, s.Host) {
					t.Errorf("%s is told of as a stranger of the name of %s", s.File, s.Host)
				}
			}
		})
	}
}

func TestParseInventory(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"names", "web2\n web1 # the first\n\n# none\nweb2\n", []string{"web1", "web2"}},
		{"Ansible", `{"_meta":{"hostvars":{"web1":{"x":[1]},"db1.example.org":{}}},"all":{"children":["ungrouped","web"]},"web":{"hosts":["web1","web3"]}}`,
			[]string{"db1.example.org", "web1", "web3"}},
		{"as Windows writes it", "\ufeffweb2\r\n\r\nweb1\r\n", []string{"web1", "web2"}},
		{"addresses", "2001:db8::7\n192.0.2.7\n", []string{"192.0.2.7", "2001:db8::7"}},
		{"Ansible's INI", "[web]\nweb1\nweb2\n", nil},
		{"Ansible's YAML", "all:\n  hosts:\n    web1:\n    web2:\n", nil},
		{"an option", "web1\n--delete\n", nil},
		{"a path", "web1\n../web2\n", nil},
		{"nothing", "# none\n", nil},
		{"an empty inventory", "{}", nil},
		{"a page of somebody's", "<html>\n", nil},
		{"a terminal's", "web1\x1b[2J\n", nil},
		{"half of it", `{"web":{"hosts":["web1"`, nil},
		{"a host that is none", `{"web":{"hosts":["a b"]}}`, nil},
	} {
		got, err := ParseInventory([]byte(tt.text))
		if !slices.Equal(got, tt.want) || (err == nil) != (tt.want != nil) || err != nil && !errors.Is(err, ErrInventory) {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
}

func TestParseStatus(t *testing.T) {
	s, err := ParseStatus([]byte(`{"version":1,"at":"2026-11-27T12:00:00Z","host":"web1","keyguard":"0.1.0","health":"green","verdict":"well",
		"keyfile":{"good":true,"fingerprint":"aaaaaaaaaaaaaaaa"},"drill":{"last":"2026-11-26T12:00:00Z","verdict":"passed"},"new":{},
		"escrows":[{"escrow":"gcp","failure_domain":"d","holds_the_key":true}]}`))
	if err != nil || s.Host != "web1" || !s.At.Equal(now) || s.Fingerprint != keyA || !s.Drill.Equal(ago(24*time.Hour)) ||
		!slices.Equal(s.Escrows, []SaidEscrow{{"gcp", "d", true}}) {
		t.Errorf("%+v, %v", s, err)
	}
	for name, text := range map[string]string{
		"empty": "", "a page": "<html>", "a list": "[]", "no host": `{"version":1,"health":"green"}`, "another document": `{"version":1,"host":"a"}`,
		"a later version": `{"version":2,"host":"a","health":"green"}`,
	} {
		if _, err := ParseStatus([]byte(text)); !errors.Is(err, ErrStatus) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzParse: what hosts and inventories hold is others' (law 10).
func FuzzParse(f *testing.F) {
	f.Add([]byte("web1\nweb2\n"))
	f.Add([]byte(`{"_meta":{"hostvars":{"web1":{}}},"web":{"hosts":["web1"]}}`))
	f.Add([]byte(`{"version":1,"at":"2026-11-27T12:00:00Z","host":"web1","health":"green","escrows":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		names, err := ParseInventory(data)
		if (err == nil) != (len(names) > 0) || !slices.IsSorted(names) {
			t.Errorf("%q, %v", names, err)
		}
		s, err := ParseStatus(data)
		if err == nil {
			s.File = "x.json"
			e, q := healthy()
			e.Said = append(e.Said, s)
			Judge(e, q)
		}
	})
}
