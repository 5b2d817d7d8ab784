package worlds

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/worlds/laws"
)

// pass lets time pass: daemons read their keys, watchers look, systemd tries again,
// machines come up, and the kernel writes files back.
func (w *world) pass(d time.Duration) {
	end := time.Now().Add(d)
	for w.wrong == nil {
		at, do := w.next()
		if do == nil || at.After(end) {
			w.sleep(time.Until(end))
			w.idled(end.Add(1))
			return
		}
		w.sleep(time.Until(at))
		w.idled(at)
		do()
	}
}

// idled leaves out the looks before at: those in which watchers would have found nothing.
func (w *world) idled(at time.Time) {
	for _, h := range w.hosts {
		h.watcher.next = h.watcher.tick(at)
	}
}

func (w *world) sleep(d time.Duration) {
	if d <= 0 {
		return
	}
	time.Sleep(d)
	if d >= 5*time.Second {
		for _, h := range w.hosts {
			h.disk.sync()
		}
	}
}

// next is what happens next by itself.
func (w *world) next() (at time.Time, do func()) {
	due := func(t time.Time, f func()) {
		if !t.IsZero() && (do == nil || t.Before(at)) {
			at, do = t, f
		}
	}
	for _, h := range w.hosts {
		if !h.off.IsZero() {
			due(h.off, func() { w.comesUp(h) })
			continue
		}
		due(h.daemon.reads, func() { w.read(h) })
		due(h.daemon.again, func() { h.daemon.again = time.Time{}; w.start(h) }) //nolint:errcheck // it tells
		switch {
		case h.watcher.alive:
			due(h.wakes(), func() { w.look(h, w.dies()) })
		case !h.watcher.stopped:
			due(time.Now().Add(time.Second), func() { w.watch(h) })
		}
	}
	return at, do
}

// end lets every fault end, and an hour pass. Then all is well without a person; or status
// says what is not, and what a person is told to type makes it so.
func (w *world) end() {
	w.tell("all faults end")
	w.storesBack()
	w.enable()
	w.cutAsEver(w.hosts[0])
	for _, h := range w.hosts {
		h.recovers()
		h.watcher.stopped, h.clock = false, 0
	}
	w.pass(2 * time.Minute)
	for _, h := range w.hosts {
		if len(h.table.rows) == 0 && w.wrong == nil { // a row that speaks
			if !h.daemon.up || h.daemon.holds == "" {
				w.restart(h, 0)
				w.pass(5 * time.Minute)
			}
			w.tenants(h, 0)
		}
	}
	w.calm = true
	w.pass(90 * time.Minute) // what is done hourly was done, and has taken effect, and what that has put off
	hours := []hour{w.hour()}
	if len(hours[0].saves) > 0 { // what a copy is that was on top, and is called another key, the next look does not see
		hours = append(hours, w.hour())
	}
	for _, h := range w.hosts {
		if well := w.rest(h); !well || len(w.hosts) > 1 || w.recutKept(h) {
			continue
		}
		for _, s := range w.stores {
			for i, each := range hours {
				saves := each.saves[h.name+s.name]
				if i < len(hours)-1 {
					saves-- // that one
				}
				w.hold(laws.Rested(s.name, each.calls[h.name+s.name], saves, len(s.copies)))
			}
		}
	}
	for _, h := range w.hosts {
		if err := h.disk.check(); err != nil && w.wrong == nil {
			w.broken("the simulator", "the simulator: %v", err)
		}
	}
}

// hour is what was asked of stores in one, by host and store.
type hour struct{ calls, saves map[string]int }

// hour lets one pass.
func (w *world) hour() hour {
	calls, saves := maps.Clone(w.calls), maps.Clone(w.saves)
	w.pass(time.Hour)
	since := func(now, then map[string]int) map[string]int {
		now = maps.Clone(now)
		for name := range now {
			now[name] -= then[name]
		}
		maps.DeleteFunc(now, func(_ string, n int) bool { return n == 0 })
		return now
	}
	return hour{since(w.calls, calls), since(w.saves, saves)}
}

// recutKept tells whether the host has a key of which parts were cut for another need than the
// split has: to save it there is tried in vain, until a person sees to it.
func (w *world) recutKept(h *host) bool {
	kept := laws.State{Files: w.state(h).Files}.Held()
	for _, s := range w.stores {
		for _, c := range s.copies {
			if of, part := c.is(); part.Need != s.part.Need && part.Need != 0 && kept[of] != "" {
				return true
			}
		}
	}
	return false
}

// tangled tells whether the split's stores have parts that no configuration fits: some were
// given theirs when the members had other numbers, or the need was another.
func (w *world) tangled() bool {
	moved, needs := map[int]bool{}, map[key.Fingerprint]int{}
	for _, s := range w.stores {
		for _, c := range s.copies {
			of, part := c.is()
			if part == (escrow.PartOf{}) {
				continue
			}
			moved[(part.Number-1-int(s.name[0]-'a')+3)%3] = true
			if was, there := needs[of]; there && was != part.Need {
				return true
			}
			needs[of] = part.Need
		}
	}
	return len(moved) > 1
}

// rest holds a host at rest to liveness, and tells whether all is well without a person.
func (w *world) rest(h *host) bool {
	if w.wrong != nil {
		return false
	}
	r := w.status(h, 0)
	if !h.daemon.up && h.daemon.again.IsZero() {
		w.broken("liveness", "liveness: all faults are over, and nobody starts the daemon")
	}
	s := w.state(h)
	maps.DeleteFunc(s.Files, func(path string, _ []byte) bool { // half-written, and swept: what it is a copy of went only with a write that nobody had synced
		return strings.HasPrefix(filepath.Base(path), durable.TempPrefix)
	})
	if f := s.Unheld(); f != "" {
		if r.Health == agent.Green {
			w.broken("green", "green: rows are under key %s, which is nowhere", f)
		}
		return false // nothing that anybody types brings a key back that is nowhere
	}
	if r.Health == agent.Green {
		return true
	}
	if w.tangled() {
		return false
	}
	if why := w.person(h); why == "" {
		w.broken("liveness", "liveness: all faults are over, no person is needed, and status is %s: %s", r.Health, r.Line)
		return false
	}
	w.carry(h)
	if w.named != nil {
		w.follow(h, r)
		return false
	}
	for _, each := range []string{"restore", "repair", "backup", "drill", "accept", "backup", "accept --new", "accept", "backup", "drill", "rotate"} {
		if r = w.typed(h, r, each); r.Health == agent.Green {
			return false
		}
	}
	if !w.recutKept(h) { // only a hand in the store brings that about
		w.broken("liveness", "liveness: all faults are over, and no command makes status green: %s, %s", r.Health, r.Line)
	}
	return false
}

// carry is a person who brings to a host's stores the keys that rows of it are under and only
// another host has: by themselves they come from nowhere.
func (w *world) carry(h *host) {
	here := w.stateHere(h).Held()
	all := w.state(h).Held()
	for _, f := range slices.Sorted(maps.Values(h.table.rows)) {
		if here[f] != "" || all[f] == "" {
			continue
		}
		k, _, err := key.Decode(w.state(h).Files[all[f]])
		must(err)
		here[f] = all[f]
		w.command(h, "import --escrow-only", 0, func(ctx context.Context, a *agent.Host) (string, error) {
			_, err := agent.Keep(ctx, a, k, agent.ImportOptions{Person: "root"})
			return fmt.Sprintf("%s, which only %s had", f, all[f]), err
		})
	}
}

// typed has a person type a command because of r, and says what status is a while later.
func (w *world) typed(h *host, r agent.StatusResult, command string) agent.StatusResult {
	if w.wrong != nil {
		return r
	}
	w.cutAsEver(h)
	w.tell("%s is tried, since status is %s: %s", command, r.Health, r.Line)
	commands[command](w, h, 0)
	w.pass(10 * time.Minute)
	if len(h.table.rows) == 0 { // a new key is current when a row has spoken for it
		w.tenants(h, 0)
		w.pass(75 * time.Minute)
	}
	return w.status(h, 0)
}

// commands are those that change something.
var commands = map[string]func(*world, *host, int){
	"restore": (*world).restoreKey, "repair": (*world).repair, "backup": (*world).backup, "drill": (*world).drill,
	"accept": (*world).accept, "accept --new": (*world).acceptNew, "rotate": (*world).rotate, "import": (*world).importRight,
	"start": (*world).restart,
}

// follow has a person type what status names, and then what it names next, until all is green.
func (w *world) follow(h *host, r agent.StatusResult) {
	tried := map[string]bool{} // by what status said
	for w.wrong == nil && r.Health != agent.Green {
		i := slices.IndexFunc(w.named(r), func(command string) bool { return commands[command] != nil && !tried[r.Line+command] })
		if i < 0 {
			w.broken("liveness", "liveness: all faults are over, status is %s: %s, and what it names does not make it green: %q", r.Health, r.Line, w.named(r))
			return
		}
		command := w.named(r)[i]
		tried[r.Line+command] = true
		r = w.typed(h, r, command)
	}
}

// person says what only a person can decide about a host, "" where there is nothing.
func (w *world) person(h *host) string {
	if len(w.hosts) > 1 {
		return "another host has the same stores"
	}
	if w.drilled {
		return "the last drill found something wrong, and there is none for a week"
	}
	data, good := h.live()
	first := key.Fingerprint("")
	for _, f := range h.table.rows {
		if first != "" && f != first {
			return "the table is split"
		}
		first = f
	}
	if h.damaged() {
		return "the ledger was damaged"
	}
	if h.beheaded() {
		return "the ledger was emptied or taken away"
	}
	if w.recutKept(h) {
		return "a key was cut for another need"
	}
	if !good || laws.Name(data) != first {
		return "the daemon has read another key" // and heal is off
	}
	lines := h.ledger()
	for _, s := range w.stores {
		for _, c := range s.copies {
			switch {
			case newest(s, c) && !told(lines, s, c) && len(lines) > 0 && c.at.Before(lines[0].Time):
				return "the ledger that named what " + s.name + " showed only later was lost, and another begun"
			case c.byHand:
				return "somebody else wrote to " + s.name
			case h.rolled && c.shelf == escrow.Current && !told(lines, s, c):
				return "the machine was rolled back, and does not know what it has saved in " + s.name
			case s.part != (escrow.PartOf{}) && c.shelf == escrow.Current && !told(lines, s, c) && slices.ContainsFunc(s.copies, func(c stored) bool { return c.state == "destroyed" }):
				return "the ledger was lost, and then the newest part in " + s.name
			case s.part != (escrow.PartOf{}) && c.shelf == escrow.Current && !told(lines, s, c) && len(lines) > 0 && c.at.Before(lines[0].Time):
				return "the ledger that named what stands in " + s.name + " was lost, and another begun"
			case s.part != (escrow.PartOf{}) && !slices.ContainsFunc(lines, func(l line) bool { return l.Fingerprint == c.of }):
				return "the ledger that named what stands in " + s.name + " was lost"
			}
		}
	}
	return ""
}

// beheaded tells whether the host has kept a key since long before its ledger begins, and nobody
// has accepted one since.
func (h *host) beheaded() bool {
	lines, begins := h.ledger(), h.now()
	if len(lines) > 0 {
		begins = lines[0].Time
	}
	if slices.ContainsFunc(lines, func(l line) bool { return l.Event == "accepted" }) {
		return false
	}
	const stamp = "20060102T150405.000000Z"
	for path := range h.disk.names {
		name, kept := strings.CutPrefix(path, h.path("state/quarantine/"))
		if !kept || len(name) < len(stamp) {
			continue
		}
		if at, err := time.Parse(stamp, name[:len(stamp)]); err == nil && at.Add(time.Hour).Before(begins) {
			return true
		}
	}
	return false
}

// told tells whether a ledger names a copy on a current shelf as its host's own.
func told(lines []line, s *store, c stored) bool {
	top := fmt.Sprintf("%d %s", c.part.Number, c.id)
	return slices.ContainsFunc(lines, func(l line) bool {
		return l.saved() && (l.Escrow == s.name && l.Copy == c.id || s.part != (escrow.PartOf{}) && slices.Contains(l.Tops, top))
	})
}
