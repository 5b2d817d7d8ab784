package fleet

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/printable"
)

const (
	// settling is how long a key may stand in quarantine before it is a current copy: a
	// rotation saves it there first.
	settling = time.Hour
	// ahead is how far a host's clock may be in front of ours.
	ahead = 5 * time.Minute
)

// Evidence is all that Judge goes by.
type Evidence struct {
	Inventory []string
	// Retired are hosts that are gone, and whose copies are kept on purpose.
	Retired []string
	Said    []Said
	Stores  []View
}

// Questions are what is asked of the evidence.
type Questions struct {
	Now time.Time
	// Fresh is how old what a host said may be.
	Fresh time.Duration
	// Period is how old the last drill may be.
	Period time.Duration
	// Since asks for a copy that was saved after it; zero does not ask.
	Since time.Time
	// Minimum asks for a version of keyguard that is no older; "" does not ask.
	Minimum string
	// Policies asks who may destroy copies.
	Policies bool
}

// Cell is the answer to one question on one host.
type Cell struct {
	Is  Is
	Why string // for people, in a few words
}

// Row is one host.
type Row struct {
	Host  string
	Is    Is // the worst of its cells
	Lost  bool
	Cells []Cell // one a column
	// Drill is when its last drill ended, as it said; zero for never, or not told.
	Drill time.Time
}

// Stranger is a host in no inventory that a store, or a status, tells of.
type Stranger struct {
	Host  string
	Where []string // the stores' names, and "status"
}

// Report is what Judge makes of it.
type Report struct {
	Columns   []string
	Rows      []Row // the worst first
	Strangers []Stranger
	Counts    map[Is]int
	Lost      int
	// Stores, one for each, is what concerns a store as a whole.
	Stores []Cell
}

// owners are the hosts that show each key.
type owners map[key.Fingerprint][]string

func (o owners) add(f key.Fingerprint, host string) {
	if f != "" && !slices.Contains(o[f], host) {
		o[f] = append(o[f], host)
	}
}

// Judge answers the questions for every host of the inventory.
func Judge(e Evidence, q Questions) Report {
	x := groupByHost(e)
	r := Report{Counts: map[Is]int{}, Columns: columns(e, q)}
	for _, h := range e.Inventory {
		row := x.judged(h, q).row()
		r.Counts[row.Is]++
		if row.Lost {
			r.Lost++
		}
		r.Rows = append(r.Rows, row)
	}
	slices.SortStableFunc(r.Rows, func(a, b Row) int {
		return cmp.Or(b.badness()-a.badness(), strings.Compare(a.Host, b.Host))
	})
	r.Strangers = x.strangers()
	for i, v := range e.Stores {
		c := asWhole(v, q)
		if n := x.absent[i]; c.Is == Good && n > 0 && n == len(e.Inventory) {
			c = unknown("it has nothing of any of these hosts: is it the right place, and are the names as on the hosts?")
		}
		r.Stores = append(r.Stores, c)
	}
	return r
}

func columns(e Evidence, q Questions) []string {
	list := []string{"status"}
	for _, s := range e.Stores {
		list = append(list, s.Name)
	}
	list = append(list, "domains", "drill", "twins")
	if q.Minimum != "" {
		list = append(list, "version")
	}
	if q.Policies {
		list = append(list, "destroyers")
	}
	return list
}

// byHost is the evidence, host by host.
type byHost struct {
	Evidence
	said    map[string]*Said // by the inventory's names
	rest    []*Said          // of hosts in no inventory
	where   places
	claimed []map[string][]string // by store, and its name for a host: those of the inventory
	absent  []int                 // by store: the hosts of which nothing is there
	keys    owners
}

func groupByHost(e Evidence) byHost {
	x := byHost{Evidence: e, claimed: make([]map[string][]string, len(e.Stores)), absent: make([]int, len(e.Stores)), keys: owners{}}
	x.said, x.rest = Match(e.Inventory, e.Said)
	x.where = placesOf(e.Inventory, x.said)
	for i, v := range e.Stores {
		claimed := map[string][]string{}
		for _, h := range e.Inventory {
			name := x.where.in(h, v)
			claimed[name] = append(claimed[name], h)
			if l := v.Hosts[name]; l != nil && l.Missing {
				x.absent[i]++
			}
		}
		for name, l := range v.Hosts {
			if l == nil {
				continue
			}
			hosts := claimed[name]
			if hosts == nil {
				hosts = []string{name}
			}
			for _, f := range l.keysNamed() {
				for _, h := range hosts {
					x.keys.add(f, h)
				}
			}
		}
		x.claimed[i] = claimed
	}
	for _, h := range e.Inventory {
		if s := x.said[h]; s != nil && s.Err == nil {
			x.keys.add(s.Fingerprint, h)
		}
	}
	for _, s := range x.rest {
		if s.Err == nil {
			x.keys.add(s.Fingerprint, s.Host)
		}
	}
	return x
}

// judged is what the evidence holds of one host.
func (x byHost) judged(h string, q Questions) judged {
	j := judged{q: q, host: h, said: x.said[h], keys: x.keys, stores: x.Stores}
	for i, v := range x.Stores {
		name := x.where.in(h, v)
		j.looks = append(j.looks, v.Hosts[name])
		j.names = append(j.names, name)
		j.claims = append(j.claims, x.claimed[i][name])
	}
	return j
}

// row answers every question, in the order of columns.
func (j judged) row() Row {
	row := Row{Host: j.host, Is: Good, Cells: []Cell{j.status()}}
	for i := range j.stores {
		row.Cells = append(row.Cells, j.store(i))
	}
	row.Cells = append(row.Cells, j.domains(row.Cells[1:]), j.drill(), j.twins())
	if j.q.Minimum != "" {
		row.Cells = append(row.Cells, j.version())
	}
	if j.q.Policies {
		row.Cells = append(row.Cells, j.destroyers())
	}
	for _, c := range row.Cells {
		row.Is = worse(row.Is, c.Is)
	}
	if s := j.told(); s != nil {
		row.Lost, row.Drill = s.Health == "lost", s.Drill
	}
	return row
}

// keysNamed are all keys that a store shows of a host.
func (l *Look) keysNamed() []key.Fingerprint {
	list := slices.Clone(l.Keys)
	if l.Current != nil && l.Current.Fingerprint != "" && !slices.Contains(list, l.Current.Fingerprint) {
		list = append(list, l.Current.Fingerprint)
	}
	return list
}

// badness orders rows: a lost host, then by the number of bad cells, then of unknown ones.
func (r Row) badness() int {
	n := 0
	for _, c := range r.Cells {
		switch c.Is {
		case Bad:
			n += 1000
		case Unknown:
			n++
		}
	}
	if r.Lost {
		n += 1_000_000
	}
	return n
}

// strangers are the hosts in no inventory.
func (x byHost) strangers() (list []Stranger) {
	where := map[string][]string{}
	known := func(h string) bool {
		return slices.ContainsFunc(x.Retired, func(r string) bool { return h == inNames(r) || h == r })
	}
	for i, v := range x.Stores {
		for name, l := range v.Hosts {
			if x.claimed[i][name] == nil && (l == nil || !l.Missing) && !known(name) {
				where[name] = append(where[name], v.Name)
			}
		}
	}
	for _, s := range x.rest {
		host := cmp.Or(s.Host, s.File)
		if n := inNames(host); where[n] != nil {
			host = n
		}
		if !known(host) {
			where[host] = append(where[host], "status")
		}
	}
	for host, names := range where {
		list = append(list, Stranger{host, names})
	}
	slices.SortFunc(list, func(a, b Stranger) int { return strings.Compare(a.Host, b.Host) })
	return list
}

// asWhole is what concerns every host of a store.
func asWhole(v View, q Questions) Cell {
	switch {
	case v.Err != nil:
		return Cell{Unknown, "cannot answer: " + v.Err.Error()}
	case len(v.Destroyers) > 0:
		return Cell{Bad, "on all of it, copies may be destroyed by " + strings.Join(v.Destroyers, ", ")}
	case q.Policies && v.PolicyErr != nil:
		return Cell{Unknown, "who may destroy on all of it: " + v.PolicyErr.Error()}
	case !v.Listed:
		return Cell{Good, "answered; it does not tell of hosts in no inventory"}
	}
	return Cell{Good, "answered"}
}

// judged is one host that is looked at.
type judged struct {
	q      Questions
	host   string
	said   *Said
	keys   owners
	stores []View
	looks  []*Look    // of each store, nil for none
	names  []string   // in each store
	claims [][]string // the hosts that have this name in each store, this one among them
}

func good(format string, a ...any) Cell    { return Cell{Good, fmt.Sprintf(format, a...)} }
func bad(format string, a ...any) Cell     { return Cell{Bad, fmt.Sprintf(format, a...)} }
func unknown(format string, a ...any) Cell { return Cell{Unknown, fmt.Sprintf(format, a...)} }

// day puts a time in words: a fleet is of many time zones.
func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// old puts an age in words.
func old(d time.Duration) string {
	if d < 48*time.Hour {
		return printable.Count(int64(d.Hours()), "hour")
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// silent says why what the host said does not count, "" where it does.
func (j judged) silent() string {
	switch s := j.said; {
	case s == nil:
		return "it said nothing"
	case s.Err != nil:
		return s.Err.Error()
	case s.At.IsZero():
		return "it does not say when this was"
	case s.At.Sub(j.q.Now) > ahead:
		return fmt.Sprintf("its clock is ahead: it speaks of %s", day(s.At))
	case j.q.Now.Sub(s.At) > j.q.Fresh:
		return fmt.Sprintf("it said nothing for %s", old(j.q.Now.Sub(s.At)))
	}
	return ""
}

// told is what the host said, nil where that does not count.
func (j judged) told() *Said {
	if j.silent() != "" {
		return nil
	}
	return j.said
}

func (j judged) status() Cell {
	s := j.told()
	if s == nil {
		return unknown("%s", j.silent())
	}
	line := s.Health + ": " + s.Verdict
	switch s.Health {
	case "green":
		return good("%s", line)
	case "lagging", "amiss", "doubt", "lost":
		return bad("%s", line)
	}
	return unknown("%s", line)
}

// store judges a host's place in one store.
func (j judged) store(i int) Cell {
	v, l := j.stores[i], j.looks[i]
	switch {
	case v.Err != nil:
		return unknown("the store cannot answer: %v", v.Err)
	case l == nil:
		return unknown("not looked at")
	case l.Why != "":
		return unknown("%s", l.Why)
	}
	c := trouble(l.Shown, v, j.q)
	if c.Is == Bad && v.Lags && l.Times < 2 {
		return unknown("seen once, and the store may be behind: %s", c.Why)
	}
	if l.Missing {
		return c
	}
	if name := j.names[i]; name != inNames(j.host) && name != inNames(short(j.host)) {
		c.Why += ", as " + name // which the host itself told
	}
	for _, other := range j.claims[i] {
		if other != j.host {
			return bad("%s has the same place there: %s", other, j.names[i])
		}
	}
	if c.Is == Good {
		if s := j.told(); s != nil && s.Fingerprint != "" && l.Current.Fingerprint != "" && l.Current.Fingerprint != s.Fingerprint &&
			l.Current.Created.Before(s.At) {
			return bad("its newest copy is key %s, and the host has key %s", l.Current.Fingerprint, s.Fingerprint)
		}
	}
	return c
}

// trouble says what a store shows of a host, whatever the host says.
func trouble(s escrow.Shown, v View, q Questions) Cell {
	if s.Missing {
		if !v.Required {
			return good("nothing is there, and it is not required")
		}
		return bad("nothing is there")
	}
	c := s.Current
	switch {
	case c == nil:
		return bad("no current copy")
	case c.Unreadable != "" && !c.Ends.IsZero():
		return bad("its newest copy is %s, and will be destroyed %s", c.Unreadable, day(c.Ends))
	case c.Unreadable != "":
		return bad("its newest copy is %s", c.Unreadable)
	case c.Ending(q.Now):
		return bad("its newest copy will be destroyed %s", day(c.Ends))
	case c.Created.Sub(q.Now) > ahead:
		return unknown("its newest copy is of %s, which is to come: a clock is wrong", day(c.Created))
	}
	if kept := s.Quarantine; kept != nil && kept.Unreadable == "" && !kept.Created.IsZero() && kept.Created.After(c.Created) {
		if q.Now.Sub(kept.Created) < settling {
			return unknown("a key came into quarantine %s: a rotation may be under way", day(kept.Created))
		}
		return bad("a key came into quarantine %s, after its newest copy, and never opened the rows", day(kept.Created))
	}
	switch {
	case !q.Since.IsZero() && c.Created.IsZero():
		return unknown("the store does not tell when its newest copy was saved")
	case !q.Since.IsZero() && c.Created.Before(q.Since):
		return bad("nothing was saved since %s: its newest copy is of %s", day(q.Since), day(c.Created))
	case c.Created.IsZero():
		return good("it has a copy")
	}
	return good("saved %s", day(c.Created))
}

// domains asks whether a copy would be left if everything that is lost together were lost.
func (j judged) domains(cells []Cell) Cell {
	var held []string
	add := func(domain string) {
		if domain != "" && !slices.Contains(held, domain) {
			held = append(held, domain)
		}
	}
	silent := j.told() == nil
	for i, v := range j.stores {
		switch {
		case cells[i].Is == Good && j.looks[i].Current != nil:
			add(v.Place.Domain)
		case cells[i].Is == Unknown:
			silent = true
		}
	}
	if s := j.told(); s != nil {
		for _, e := range s.Escrows {
			i := slices.IndexFunc(j.stores, func(v View) bool { return v.Name == e.Name })
			if e.Holds && i < 0 { // of the others the store itself was asked
				add(e.Domain)
			}
		}
	}
	switch {
	case len(held) >= 2:
		return good("%d failure domains", len(held))
	case silent && len(held) == 1:
		return unknown("one failure domain is known: %s", held[0])
	case silent:
		return unknown("no failure domain is known")
	case len(held) == 1:
		return bad("all its copies are lost with %s", held[0])
	}
	return bad("it has no copy")
}

func (j judged) drill() Cell {
	s := j.told()
	switch {
	case s == nil:
		return unknown("%s", j.silent())
	case s.Drill.IsZero():
		return bad("no drill was ever held there")
	case s.Drill.Sub(j.q.Now) > ahead:
		return unknown("its last drill was %s, which is to come: its clock was wrong", day(s.Drill))
	case s.Drilled == "failed":
		return bad("the drill of %s failed: %s", day(s.Drill), s.DrillReason)
	case j.q.Now.Sub(s.Drill) > j.q.Period:
		return bad("the last drill was %s ago", old(j.q.Now.Sub(s.Drill)))
	case s.Drilled != "passed":
		return unknown("the drill of %s was inconclusive: %s", day(s.Drill), s.DrillReason)
	}
	return good("passed %s", day(s.Drill))
}

// twins asks whether another host has a key of this one: each has its own.
func (j judged) twins() Cell {
	var mine []key.Fingerprint
	if j.said != nil && j.said.Err == nil && j.said.Fingerprint != "" {
		mine = append(mine, j.said.Fingerprint)
	}
	for _, l := range j.looks {
		if l != nil {
			mine = append(mine, l.keysNamed()...)
		}
	}
	for _, f := range mine {
		var others []string
		for _, h := range j.keys[f] {
			if h != j.host {
				others = append(others, h)
			}
		}
		if len(others) > 0 {
			more := ""
			if len(others) > 3 {
				others, more = others[:3], fmt.Sprintf(" and %d more", len(others)-3)
			}
			slices.Sort(others)
			return bad("key %s is that of %s%s too", f, strings.Join(others, ", "), more)
		}
	}
	if len(mine) == 0 {
		return unknown("nobody tells its key")
	}
	return good("key %s is its own", mine[0])
}

func (j judged) version() Cell {
	s := j.told()
	if s == nil {
		return unknown("%s", j.silent())
	}
	have, before, ok := parseVersion(s.Keyguard)
	want, wantBefore, _ := parseVersion(j.q.Minimum)
	order := slices.Compare(have, want)
	switch {
	case !ok:
		return unknown("keyguard %s is no release", s.Keyguard)
	case order < 0, order == 0 && before && !wantBefore:
		return bad("keyguard %s is older than %s", s.Keyguard, j.q.Minimum)
	}
	return good("keyguard %s", s.Keyguard)
}

// described is what git describe puts behind the release before.
var described = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^-[0-9]+-g[0-9a-f]+$`) })

// parseVersion reads "1.2.3", with "v" in front. Of what stands behind, "+5.g0123456" and
// "-5-g0123456" were built after it, and "-dev.5" before.
func parseVersion(text string) (numbers []int, before, ok bool) {
	text = strings.TrimPrefix(text, "v")
	if i := strings.IndexAny(text, "-+~"); i >= 0 {
		before = text[i] != '+' && !described().MatchString(text[i:])
		text = text[:i]
	}
	for part := range strings.SplitSeq(text, ".") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 {
			return nil, false, false
		}
		numbers = append(numbers, n)
	}
	return numbers, before, len(numbers) == 3
}

// IsVersion tells whether a text can be a Minimum.
func IsVersion(text string) bool { _, _, ok := parseVersion(text); return ok }

// destroyers asks whether a machine's identity may destroy the copies.
func (j judged) destroyers() Cell {
	var who, blind []string
	for i, v := range j.stores {
		l := j.looks[i]
		switch {
		case !v.Policies:
			blind = append(blind, v.Name+" does not tell")
			continue
		case v.Err != nil:
			blind = append(blind, v.Name+" was not asked")
			continue
		case l == nil || !l.Policies:
			blind = append(blind, v.Name+" was not asked of this host")
		default:
			who = append(who, l.Destroyers...)
			if l.PolicyWhy != "" {
				blind = append(blind, v.Name+": "+l.PolicyWhy)
			}
		}
		who = append(who, v.Destroyers...)
		if v.PolicyErr != nil {
			blind = append(blind, v.Name+": "+v.PolicyErr.Error())
		}
	}
	slices.Sort(who)
	who = slices.Compact(who)
	switch {
	case len(who) > 0:
		return bad("its copies may be destroyed by %s", strings.Join(who, ", "))
	case len(blind) > 0 || len(j.stores) == 0:
		return unknown("%s", cmp.Or(strings.Join(blind, "; "), "no store was asked"))
	}
	return good("no machine may destroy its copies")
}
