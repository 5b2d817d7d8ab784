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
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/worlds/laws"
)

// action is something that an operator, an accident or the world does.
type action struct {
	name   string
	weight int
	// mortal actions run a process of keyguard, which may die before any of so many effects.
	mortal  bool
	effects int
	do      func(w *world, h *host, dies int)
}

var actions = []action{
	// Time.
	{"wait", 12, false, 0, func(w *world, _ *host, _ int) { w.pass(time.Duration(1+w.rand.IntN(90)) * time.Second) }},
	{"wait an hour", 1, false, 0, func(w *world, _ *host, _ int) { w.pass(time.Hour) }},
	{"clock jumps", 1, false, 0, func(w *world, h *host, _ int) { h.clock += time.Duration(w.rand.IntN(200)-100) * time.Hour }},

	// The machine.
	{"power cut", 5, false, 0, func(w *world, h *host, _ int) { w.powerCut(h) }},
	{"restart the daemon", 8, true, 40, func(w *world, h *host, dies int) { w.restart(h, dies) }},
	{"start, and start again", 3, true, 40, (*world).startAgain},
	{"the watcher looks", 6, true, 40, func(w *world, h *host, dies int) { w.look(h, dies) }},
	{"stop the watcher", 1, false, 0, func(w *world, h *host, _ int) { w.stopWatcher(h); h.watcher.stopped = true }},
	{"start the watcher", 2, false, 0, func(w *world, h *host, _ int) { h.watcher.stopped = false }},
	{"take a snapshot", 2, false, 0, func(w *world, h *host, _ int) { h.images = append(h.images, h.disk.image()) }},
	{"roll the machine back", 2, false, 0, (*world).rollBack},
	{"the machine is cloned", 1, false, 0, (*world).clone},
	{"another host of that name", 1, false, 0, (*world).namesake},
	{"systemd is silent", 1, false, 0, func(w *world, h *host, _ int) { h.silent = true }},
	{"systemd answers", 2, false, 0, func(w *world, h *host, _ int) { h.silent, h.tardy = false, 0 }},
	{"systemd answers late", 1, false, 0, func(w *world, h *host, _ int) { h.tardy = time.Duration(w.rand.IntN(3000)) * time.Millisecond }},
	{"the package is upgraded", 1, false, 0, (*world).upgrade},

	// The disk.
	{"the disk is full", 1, false, 0, func(w *world, h *host, _ int) { h.disk.full = true }},
	{"no inode is left", 1, false, 0, func(w *world, h *host, _ int) { h.disk.noInodes = true }},
	{"etc is read-only", 2, false, 0, func(w *world, h *host, _ int) { h.disk.readOnly = h.path("etc") }},
	{"state is read-only", 1, false, 0, func(w *world, h *host, _ int) { h.disk.readOnly = h.path("state") }},
	{"chattr +i", 2, true, 90, func(w *world, h *host, dies int) {
		if h.disk.names[h.keyfile()] != nil {
			h.disk.immutable = h.keyfile()
		}
		if w.rand.IntN(2) == 0 {
			w.rotate(h, dies)
		}
	}},
	{"the disk is well", 4, false, 0, func(_ *world, h *host, _ int) {
		h.disk.mend()
		h.removed = time.Now() // what is missing by now can be put back only from now on
	}},
	{"rm secrets.key", 6, false, 0, func(w *world, h *host, _ int) { w.rm(h, "etc/secrets.key") }},
	{"rm -r etc", 2, false, 0, func(w *world, h *host, _ int) { w.rm(h, "etc") }},
	{"rm the ledger", 2, false, 0, func(w *world, h *host, _ int) { w.rm(h, "state/"+ledger.Name) }},
	{"the ledger goes, and none can be made", 2, true, 30, (*world).withoutLedger},
	{"rm the state directory", 2, false, 0, func(w *world, h *host, _ int) { w.rm(h, "state"); h.disk.mkdir(h.path("state")) }},
	{"a foreign key in the keyfile's place", 4, false, 0, func(w *world, h *host, _ int) { w.put(h, w.makeKey().UnsafeBytes()) }},
	{"an old key in the keyfile's place", 4, false, 0, func(w *world, h *host, _ int) { w.put(h, w.anyKey().UnsafeBytes()) }},
	{"a key is put there while nobody watches", 2, true, 40, (*world).unwatched},
	{"31 bytes in the keyfile's place", 2, false, 0, func(w *world, h *host, _ int) { w.put(h, w.anyKey().UnsafeBytes()[:31]) }},
	{"a newline too many", 1, false, 0, func(w *world, h *host, _ int) { w.put(h, append(slices.Clone(w.anyKey().UnsafeBytes()), '\n')) }},
	{"chmod 644", 2, false, 0, func(w *world, h *host, _ int) { h.disk.chmod(h.keyfile(), 0o644) }},

	// The rows.
	{"tenants write", 10, false, 0, (*world).tenants},
	{"rows of another key are merged in", 7, false, 0, func(w *world, h *host, _ int) { w.merge(h, w.anyKey()) }},
	{"rows of a foreign key are merged in", 1, false, 0, func(w *world, h *host, _ int) { w.merge(h, w.makeKey()) }},
	{"tenants delete", 2, false, 0, (*world).tenantsDelete},
	{"pg_dump", 3, false, 0, func(w *world, h *host, _ int) { h.table.dump() }},
	{"load a dump", 3, false, 0, (*world).loadDump},
	{"truncate", 1, false, 0, func(w *world, h *host, _ int) {
		h.table.dump()
		h.table.rows = map[string]key.Fingerprint{}
		h.table.version++
	}},
	{"another dump of that size is loaded", 2, false, 0, (*world).otherDump},
	{"drop the table", 1, false, 0, func(w *world, h *host, _ int) { h.table.noTable = true }},
	{"Postgres goes", 4, false, 0, func(w *world, h *host, _ int) { h.table.down = true }},
	{"Postgres is slow", 1, false, 0, func(w *world, h *host, _ int) { h.table.slow = time.Duration(w.rand.IntN(6)) * time.Second }},
	{"Postgres comes", 6, false, 0, func(w *world, h *host, _ int) { h.table.down, h.table.noTable, h.table.slow = false, false, 0 }},

	// The stores.
	{"a store is away", 5, false, 0, func(w *world, _ *host, _ int) { w.store().down = true }},
	{"a store hangs", 2, false, 0, func(w *world, _ *host, _ int) { w.store().hangs = true }},
	{"a store is slow", 2, false, 0, func(w *world, _ *host, _ int) { w.store().slow = time.Duration(w.rand.IntN(8000)) * time.Millisecond }},
	{"a store refuses", 2, false, 0, func(w *world, _ *host, _ int) { w.store().denied = true }},
	{"a store is full", 2, true, 90, (*world).fill},
	{"a store lists late", 1, false, 0, func(w *world, _ *host, _ int) { w.store().late = time.Duration(w.rand.IntN(60)) * time.Second }},
	{"a stick is pulled", 2, false, 0, func(w *world, _ *host, _ int) { w.store().gone = true }},
	{"the stores are back", 6, false, 0, func(w *world, _ *host, _ int) { w.storesBack() }},
	{"a store is made anew", 1, false, 0, func(w *world, _ *host, _ int) { w.wipe(w.store()) }},
	{"all keys are lost, and the ledger is not", 2, true, 40, (*world).loseAll},
	{"all keys go before the daemon reads one, and rows come", 1, false, 0, (*world).firstKeyGoes},
	{"the host's keys go, and rows or a key come while a start asks the stores", 1, false, 0, (*world).rowsCome},
	{"mangled bytes on top", 2, false, 0, func(w *world, _ *host, _ int) {
		w.store().addByHand(escrow.Current, []byte("\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd not a key at all"))
	}},
	{"a foreign key on top", 2, false, 0, func(w *world, _ *host, _ int) { w.store().addByHand(escrow.Current, w.makeKey().UnsafeBytes()) }},
	{"an old key on top", 2, false, 0, func(w *world, _ *host, _ int) { w.store().addByHand(escrow.Current, w.anyKey().UnsafeBytes()) }},
	{"another host's parts on top", 5, false, 0, (*world).foreignParts},
	{"an older copy is the newest again", 5, false, 0, func(w *world, _ *host, _ int) { w.label() }},
	{"a copy is called another key", 2, false, 0, (*world).misname},
	{"a copy is spoiled under its name, or mended", 3, true, 40, (*world).overwrite},
	{"the newest is disabled", 2, false, 0, func(w *world, _ *host, _ int) { w.mark("disabled") }},
	{"the newest is destroyed", 1, false, 0, func(w *world, _ *host, _ int) { w.mark("destroyed") }},
	{"an odd part on one store", 5, true, 30, (*world).oddPart},
	{"the members change their parts", 2, false, 0, func(w *world, _ *host, _ int) { w.recut(false) }},
	{"the need changes", 1, false, 0, func(w *world, _ *host, _ int) { w.recut(true) }},
	{"the need changes, and somebody backs up", 1, true, 20, func(w *world, h *host, dies int) {
		w.recut(true)
		w.backup(h, dies)
	}},
	{"its disk is lost, and some members", 4, true, 40, (*world).loseMembers},
	{"its disk is lost, and all that is not away", 4, true, 40, (*world).loseTheRest},
	{"all are enabled", 2, false, 0, func(w *world, _ *host, _ int) { w.enable() }},

	// The operator.
	{"rotate", 6, true, 90, (*world).rotate},
	{"rotate, and be killed", 4, true, 90, (*world).rotateKilled},
	{"the savers are woken", 2, true, 30, (*world).bring},
	{"two keys are on their way at once", 2, true, 40, (*world).crossing},
	{"repair", 4, true, 90, func(w *world, h *host, dies int) {
		if w.rand.IntN(3) == 0 { // before the savers have brought anything anywhere
			w.splitTable(h)
		}
		w.repair(h, dies)
	}},
	{"restore", 4, true, 40, (*world).restoreKey},
	{"backup", 3, true, 30, (*world).backup},
	{"accept", 2, true, 20, func(w *world, h *host, dies int) {
		if w.rand.IntN(2) == 0 {
			w.acceptOther(h, dies)
		} else {
			w.accept(h, dies)
		}
	}},
	{"accept --new", 1, true, 30, (*world).acceptNew},
	{"print the key", 1, false, 0, func(w *world, h *host, _ int) { w.print(h) }},
	{"import a sheet", 1, true, 30, (*world).importSheet},
	{"drill", 2, true, 30, (*world).drill},
	{"status", 2, true, 30, func(w *world, h *host, dies int) { w.status(h, dies) }},
}

// play does one step.
func (w *world) play(s Step) {
	for _, a := range actions {
		if a.name != s.Do {
			continue
		}
		h := w.hosts[w.rand.IntN(len(w.hosts))]
		if !h.off.IsZero() {
			w.pass(time.Until(h.off))
		}
		w.tell("%s: %s", h.name, a.name)
		dies := s.Dies
		if dies > 0 && s.Arg%3 == 0 { // in the middle of a line, which the disk may have or not
			dies, w.at = 0, phase{string(durable.SyncFile), ledger.Name}
		}
		a.do(w, h, dies)
		w.at = phase{}
		w.pass(time.Duration(w.rand.IntN(4000)) * time.Millisecond)
		return
	}
	panic("no action is called " + s.Do)
}

func (w *world) store() *store { return w.stores[w.rand.IntN(len(w.stores))] }

// anyKey is one that ever was.
func (w *world) anyKey() key.Key {
	if len(w.known) == 0 {
		return w.makeKey()
	}
	return w.known[w.rand.IntN(len(w.known))]
}

// put is somebody's write to the keyfile.
func (w *world) put(h *host, content []byte) {
	if h.disk.immutable == "" && h.disk.readOnly != h.path("etc") && !h.disk.full && !h.disk.noInodes {
		h.disk.put(h.keyfile(), content, 0o400)
		if f := laws.Name(content); f != "" && !w.durable(f) {
			w.fragile[f] = true // again, where all other copies of it were taken away
		}
		w.touched(h)
	}
}

// wipe is somebody's, who makes a store anew.
func (w *world) wipe(s *store) { w.taken(func() { s.copies = nil }) }

// taken notes of which keys what is left is in a file that nobody has synced, when somebody has
// taken something away.
func (w *world) taken(away func()) {
	safe := map[key.Fingerprint]bool{}
	for f := range w.held() {
		safe[f] = w.durable(f)
	}
	away()
	for f := range w.held() {
		if safe[f] && !w.durable(f) {
			w.fragile[f] = true
		}
	}
}

// rm is somebody's.
func (w *world) rm(h *host, name string) {
	path := h.path(name)
	if h.disk.readOnly != "" && strings.HasPrefix(path+"/", h.disk.readOnly+"/") ||
		h.disk.immutable != "" && strings.HasPrefix(h.disk.immutable+"/", path+"/") {
		return
	}
	w.taken(func() { h.disk.remove(path) })
	if strings.HasPrefix(h.path("state/"+ledger.Name), path) && !h.daemon.up && h.daemon.again.IsZero() {
		// Nobody knows any more that it was keyguard that stopped the daemon: who took the
		// ledger away starts it.
		h.daemon.again = time.Now().Add(time.Minute)
	}
	h.word = nil
	h.removed = time.Now()
	w.touched(h)
}

// rotating tells whether a rotation is open: the ledger says so, or its key stands beside the other.
func (h *host) rotating() bool {
	lines := h.ledger()
	return h.disk.names[h.keyfile()+".next"] != nil || len(lines) > 0 && lines[len(lines)-1].Rotation != nil
}

// touched is what the watcher hears of its directory.
func (w *world) touched(h *host) {
	if soon := time.Now().Add(250 * time.Millisecond); h.watcher.alive && h.watcher.next.After(soon) {
		h.watcher.next = soon
	}
}

func (w *world) storesBack() {
	for _, s := range w.stores {
		s.manners = manners{mute: s.mute}
	}
}

func (w *world) mark(state string) {
	s := w.store()
	for i := len(s.copies) - 1; i >= 0; i-- {
		if s.copies[i].shelf == escrow.Current && s.copies[i].state == "" {
			s.copies[i].state, s.copies[i].hidden = state, s.mute
			return
		}
	}
}

func (w *world) enable() {
	for _, s := range w.stores {
		for i := range s.copies {
			if s.copies[i].state == "disabled" {
				s.copies[i].state = ""
			}
		}
	}
}

func (w *world) restart(h *host, dies int) {
	h.daemon = daemon{start: h.daemon.start}
	w.mortal = dies
	w.start(h) //nolint:errcheck // it tells
	w.mortal = 0
}

// dies says before which effect the next process dies that nobody started by hand.
func (w *world) dies() int {
	n := w.mortal
	w.mortal = 0
	return n
}

// takes is how long the daemon takes to read its key.
func (w *world) takes() time.Duration {
	if w.rand.IntN(5) == 0 {
		return time.Duration(w.rand.IntN(180)) * time.Second
	}
	return time.Duration(2+w.rand.IntN(10)) * time.Second
}

func (w *world) rollBack(h *host, _ int) {
	if len(h.images) == 0 {
		return
	}
	i := h.images[w.rand.IntN(len(h.images))]
	h.word, h.rolled = nil, true
	w.powerCut(h)
	h.disk.restore(i, h.disk.root)
}

// tenants write under the key that the daemon runs on.
func (w *world) tenants(h *host, _ int) {
	if !h.daemon.up || h.daemon.holds == "" || h.table.down || h.table.noTable {
		return
	}
	for range 1 + w.rand.IntN(6) {
		h.table.write(fmt.Sprint("row ", w.rand.IntN(16)), h.daemon.holds)
	}
}

// merge is a second writer, or a dump of another host that was loaded beside.
func (w *world) merge(h *host, k key.Key) {
	for range 1 + w.rand.IntN(12) {
		h.table.write(fmt.Sprint("row ", w.rand.IntN(16)), k.Fingerprint())
	}
}

func (w *world) tenantsDelete(h *host, _ int) {
	for _, name := range slices.Sorted(maps.Keys(h.table.rows)) {
		if w.rand.IntN(2) == 0 {
			delete(h.table.rows, name)
		}
	}
	h.table.version++
}

// clone starts a copy of the machine beside it: its disk, its database, the same stores.
func (w *world) clone(h *host, _ int) {
	if len(w.hosts) > 1 {
		return
	}
	twin := w.host(filepath.Join(filepath.Dir(h.disk.root), "two"), "two")
	twin.disk.restore(h.disk.image(), h.disk.root)
	twin.boots()
	twin.table.rows, twin.table.version, twin.table.rewritten = maps.Clone(h.table.rows), h.table.version, h.table.rewritten
	w.proven[twin.name], w.vouched[twin.name] = maps.Clone(w.proven[h.name]), slices.Clone(w.vouched[h.name])
	w.watch(twin)
	w.start(twin) //nolint:errcheck // it tells
}

// namesake is a new host that by mistake has the same stores.
func (w *world) namesake(h *host, _ int) {
	if len(w.hosts) > 1 {
		return
	}
	other := w.host(filepath.Join(filepath.Dir(h.disk.root), "two"), "two")
	if w.rand.IntN(2) == 0 {
		k := w.makeKey()
		other.disk.put(other.keyfile(), k.UnsafeBytes(), 0o400)
		other.disk.sync()
		w.merge(other, k)
	}
	w.watch(other)
	w.start(other) //nolint:errcheck // it tells
}

func (w *world) loadDump(h *host, _ int) {
	if len(h.table.dumps) > 0 {
		h.table.load(w.rand.IntN(len(h.table.dumps)))
		h.table.noTable = false
	}
}

// command runs what a person asked for.
func (w *world) command(h *host, name string, dies int, do func(context.Context, *agent.Host) (string, error)) {
	w.run(h, h.name+": keyguard "+name, dies, func(ctx context.Context, p *process, a *agent.Host) {
		said, err := do(ctx, a)
		w.tell("    %s: %s %v", p.name, said, err)
	})
}

func (w *world) rotate(h *host, dies int) {
	h.word = nil
	w.command(h, "rotate", dies, func(ctx context.Context, a *agent.Host) (string, error) {
		r, err := agent.Rotate(ctx, a, agent.RotateOptions{Person: "root"})
		if r.Rotated && err == nil {
			w.placed(h, r.New)
		}
		if data, _ := h.live(); !w.running[len(w.running)-1].dead && r.New != "" && h.table.opens(r.New) > 0 && laws.Name(data) != r.New {
			w.broken("rotation", "rotation: rows are under key %s, and the keyfile holds %q: it was not refused before it could half succeed", r.New, laws.Name(data))
		}
		return fmt.Sprintf("%s to %s: rotated %t", r.Old, r.New, r.Rotated), err
	})
}

func (w *world) repair(h *host, dies int) {
	h.word = nil
	w.command(h, "repair", dies, func(ctx context.Context, a *agent.Host) (string, error) {
		before := maps.Clone(h.table.rows)
		r, err := agent.Repair(ctx, a, agent.RepairOptions{Person: "root"})
		w.mended(h, r, before)
		return fmt.Sprintf("to %s: repaired %t, needed %t", r.Target, r.Repaired, r.HasWork), err
	})
}

// mended holds a repair, for which nobody named a key, to the one that opens most rows: of
// all others more has to be brought under it. before are the rows as they were. What a person
// accepted may stand above that.
func (w *world) mended(h *host, r agent.RepairResult, before map[string]key.Fingerprint) {
	opened := map[key.Fingerprint]int{}
	for _, f := range before {
		opened[f]++
	}
	if !r.Repaired || w.vouchedFor(h, r.Target) >= 0 {
		return
	}
	for _, s := range r.Tally {
		if opened[s.Key] > opened[r.Target] {
			w.broken("repair", "repair: all rows came under key %s, which opened %d of %d; key %s opened %d", r.Target, opened[r.Target], len(before), s.Key, opened[s.Key])
		}
	}
}

func (w *world) restoreKey(h *host, dies int) {
	h.word = nil
	w.command(h, "restore", dies, func(ctx context.Context, a *agent.Host) (string, error) {
		r, err := agent.Restore(ctx, a, agent.RestoreOptions{Person: "root"})
		return fmt.Sprintf("%s from %s: installed %t", r.Key, r.Source, r.Installed), err
	})
}

func (w *world) backup(h *host, dies int) {
	w.command(h, "backup", dies, func(ctx context.Context, a *agent.Host) (string, error) {
		r, err := agent.Backup(ctx, a)
		said := string(r.Key)
		for _, s := range r.Escrows {
			said += fmt.Sprintf(", %s of %s (%s, %v)", s.Shelf, s.Escrow, s.Why, s.Err)
		}
		return said, err
	})
}

func (w *world) accept(h *host, dies int) {
	h.word = nil
	w.command(h, "accept", dies, func(ctx context.Context, a *agent.Host) (string, error) {
		r, err := agent.Accept(ctx, a, agent.AcceptOptions{Person: "root", Confirm: func(agent.AcceptResult) (bool, error) { return true, nil }})
		if r.Key != "" {
			w.vouch(h, vouched{r.Key, int(r.Proof.Opened)}, r.Done)
		}
		if r.Done {
			h.word = &word{r.Key, map[rows.Verdict]int{rows.Opens: 2, rows.Partial: 1, rows.Silent: 1, rows.Unknown: 1}[r.Verdict], h.rotating()}
		}
		return fmt.Sprintf("%s, which %s", r.Key, r.Verdict), err
	})
}

// acceptOther is a person who puts a key there that opens few rows, or none, and insists.
func (w *world) acceptOther(h *host, dies int) {
	k := w.makeKey()
	if w.rand.IntN(2) == 0 {
		h.table.write("row 0", k.Fingerprint())
	}
	w.put(h, k.UnsafeBytes())
	w.accept(h, dies)
	for range 2 {
		w.restart(h, 0)
		w.pass(time.Duration(w.rand.IntN(20)) * time.Second)
	}
}

func (w *world) acceptNew(h *host, dies int) {
	h.word = nil
	w.command(h, "accept --new", dies, func(ctx context.Context, a *agent.Host) (string, error) {
		r, err := agent.AcceptNew(ctx, a, agent.AcceptOptions{Person: "root",
			Confirm:     func(agent.AcceptResult) (bool, error) { return true, nil },
			ConfirmRows: func(int64) (bool, error) { return true, nil }})
		if r.Key != "" {
			w.vouch(h, vouched{r.Key, 0}, err == nil)
		}
		return string(r.Key), err
	})
}

func (w *world) print(h *host) {
	if data, good := h.live(); good {
		k, _ := key.New(data)
		w.printed = append(w.printed, k)
		w.know(k)
	}
}

func (w *world) importSheet(h *host, dies int) {
	h.word = nil
	if len(w.printed) == 0 {
		return
	}
	k := w.printed[w.rand.IntN(len(w.printed))]
	w.command(h, "import", dies, func(ctx context.Context, a *agent.Host) (string, error) {
		r, err := agent.Import(ctx, a, k.Clone(), agent.ImportOptions{Person: "root"})
		return fmt.Sprintf("%s: installed %t", r.Key, r.Installed), err
	})
}

// importRight is a person who has the right key elsewhere.
func (w *world) importRight(h *host, dies int) {
	best, known := key.Key{}, slices.Clone(w.known)
	for _, c := range w.state(h).Copies { // and those that keyguard made are in stores
		if k, _, err := key.Decode(c.Bytes); err == nil {
			known = append(known, k)
		}
	}
	for _, k := range known {
		if best.IsZero() || h.table.opens(k.Fingerprint()) > h.table.opens(best.Fingerprint()) {
			best = k
		}
	}
	if best.IsZero() {
		return
	}
	h.word = nil
	w.command(h, "import", dies, func(ctx context.Context, a *agent.Host) (string, error) {
		r, err := agent.Import(ctx, a, best.Clone(), agent.ImportOptions{Person: "root"})
		return fmt.Sprintf("%s: installed %t", r.Key, r.Installed), err
	})
}

func (w *world) drill(h *host, dies int) {
	w.drilled = true
	w.command(h, "drill", dies, func(ctx context.Context, a *agent.Host) (string, error) {
		r, err := agent.Drill(ctx, a, agent.DrillOptions{Scratch: h.path("run/scratch")})
		return fmt.Sprintf("%s: %s", r.Verdict, r.Reason), err
	})
}

func (w *world) status(h *host, dies int) (r agent.StatusResult) {
	began, unheard := time.Now(), map[string]bool{} // nothing is said of what these have, and nobody requires them
	for _, s := range h.stores {
		unheard[s.name] = s.optional && !s.answers()
	}
	w.command(h, "status", dies, func(ctx context.Context, a *agent.Host) (said string, err error) {
		r, err = agent.Status(ctx, a)
		return fmt.Sprintf("%s: %s", r.Health, r.Line), err
	})
	if dies > 0 {
		return r // of what it says before it dies nobody hears
	}
	if r.Health == agent.Green && !h.daemon.up && h.daemon.again.IsZero() && h.off.IsZero() {
		w.broken("green", "green: the daemon is down, and nobody starts it")
	}
	if data, good := h.live(); good && r.Health == agent.Green {
		s := w.stateFor(h, began)
		s.Copies = slices.DeleteFunc(s.Copies, func(c laws.Copy) bool { return unheard[c.Store] })
		if r.Rows.State != decide.RowsAnswer && r.Rows.State != decide.RowsSilent && w.proven[h.name][laws.Name(data)] {
			s.Rows = nil // what became of them since they were last asked nobody can know
		}
		if !slices.ContainsFunc(s.Copies, func(c laws.Copy) bool { return c.Late }) {
			w.hold(laws.Green(s, data))
		}
	}
	return r
}

// startsOn holds a start, whose rows have answered, to laws 1 and 2.
func (w *world) startsOn(h *host, p *process, r agent.GuardResult) {
	data, good := h.live()
	came := p.crossed != nil && p.after <= 0 // what comes in the midst of it a start must have asked for afterwards
	if !good || r.Evidence.Rows.State != decide.RowsAnswer && !came {
		return
	}
	f := laws.Name(data)
	sure := true
	for _, s := range h.stores {
		sure = sure && !s.down && !s.far && !s.hangs && s.slow < time.Second && !s.denied && s.late == 0 && !s.gone && !s.addOnly
		// What a start before was told a moment ago is not asked for again (law 9).
		sure = sure && (p.listed[s.name] || time.Since(h.asked[s.name].at) > 3*time.Minute)
		for _, c := range s.copies {
			sure = sure && c.state == ""
		}
	}
	w.hold(laws.Started(w.stateHere(h), f, sure, w.vouchedFor(h, f)))
}

// beforeStart is what a start finds.
type beforeStart struct {
	at     time.Time
	key    key.Fingerprint // the keyfile's, "" for none that the daemon would load
	proven bool            // by the ledger it is known, and opened all rows within a day
	unused map[key.Fingerprint]bool
}

func (w *world) before(h *host) (b beforeStart) {
	b.at, b.unused = time.Now(), h.unused()
	data, good := h.live()
	if !good {
		return b
	}
	b.key = laws.Name(data)
	for path := range h.disk.names {
		if strings.HasPrefix(path, h.path("etc")+"/") && path != h.keyfile() {
			return b // there is something to clear away
		}
	}
	lines := h.ledger()
	if len(lines) == 0 || lines[len(lines)-1].Rotation != nil || lines[len(lines)-1].Stopped != nil {
		return b
	}
	for _, l := range slices.Backward(lines) {
		switch age := h.now().Sub(l.Time); l.Event {
		case "proven":
			b.proven = l.Fingerprint == b.key && l.Verdict == "opens" && age >= 0 && age < 24*time.Hour
			return b
		case "accepted", "contradicted", "rotation-closed":
			return b
		}
	}
	return b
}

// after holds a start to laws 2, 7 and 9.
func (w *world) after(h *host, p *process, was beforeStart, r agent.GuardResult, may bool) {
	if r.Parked && !h.watcher.alive {
		w.broken("law 2", "law 2: the start is parked, and no watcher lives")
	}
	w.did(h, p, was, r)
	data, good := h.live()
	if staged := h.disk.names[h.keyfile()+".next"]; may && good && staged != nil && !h.rolled {
		f, g := laws.Name(data), laws.Name(staged.data)
		// Who has replaced the rows since all of them came under f, nobody can know who cannot ask them.
		replaced := !p.looked && h.table.rewritten == f
		if h.table.opens(f) == 0 && h.table.opens(g) > 0 && !replaced {
			w.broken("law 1", "law 1: the daemon was started on key %s, which opens no row, and the key %s of an open rotation, which does, stands beside it", f, g)
		}
	}
	if was.proven && (p.calls > 0 || p.rows) {
		w.broken("law 7", "law 7: a start on a key that was proven today called stores %d times, and asked the rows: %t", p.calls, p.rows)
	}
	if n := h.table.opens(was.key); p.looked && was.key != "" && 2*n > int64(len(h.table.rows)) && (!may || r.Parked) {
		w.broken("law 9", "law 9: the start on key %s was refused or parked, which opens %d of %d rows", was.key, n, len(h.table.rows))
	}
}

// did holds what a start or the watcher did to laws 2 and 5, and to what a person said.
func (w *world) did(h *host, p *process, was beforeStart, r agent.GuardResult) {
	if r.Done {
		switch r.Decision.Action {
		case decide.Make:
			w.made(p, r.Decision.Key)
			w.placed(h, r.Decision.Key)
		case decide.Install:
			w.placed(h, r.Decision.Key)
			if was.unused[r.Decision.Key] {
				w.everywhere(h, r.Decision.Key)
			}
		}
	}
	if r.Decision.Action == decide.Lost && p.looked {
		w.hold(laws.Lacking(w.stateFor(h, was.at)))
	}
	data, _ := h.live()
	rowsSay := p.looked && len(h.table.rows) > 0 || h.provenLast(r.Decision.Key) // to a start before, which may have died
	if s := h.word; s != nil && was.key != s.key && rowsSay && r.Decision.Key != s.key &&
		(r.Decision.Action == decide.Pass || r.Decision.Action == decide.Install) {
		h.word = nil // another key was in its place, and by the rows it is that one now, or a third, which may be left to a person
	}
	if s := h.word; s != nil && p.looked && h.worth(s.key) < s.worth && h.contradictedLast(s.key) {
		h.word = nil // what the rows say later gives the word no new life
	}
	if s := h.word; s != nil && was.key == s.key && p.looked && h.worth(s.key) >= s.worth && laws.Name(data) != s.key &&
		(!s.open || h.table.opens(laws.Name(data)) <= h.table.opens(s.key)) {
		w.broken("accept", "accept: key %s stood on a person's word, the rows say no less of it than then, and key %q is in its place", s.key, laws.Name(data))
	}
	if s := h.word; s != nil && p.looked && h.worth(s.key) == 2 && h.provenLast(s.key) {
		h.word = nil // it opened every row, and stands on that from then on
	}
}

// unused are the keys that by the ledger were made for a first start, and have never come to the
// keyfile's place.
func (h *host) unused() map[key.Fingerprint]bool {
	unused := map[key.Fingerprint]bool{}
	for _, l := range h.ledger() {
		switch l.Event {
		case "made":
			unused[l.Fingerprint] = true
		case "installed", "restored", "imported", "proven", "accepted":
			delete(unused, l.Fingerprint)
		}
	}
	return unused
}

// contradictedLast tells whether the ledger's last word on a key is that the rows refuted it.
func (h *host) contradictedLast(f key.Fingerprint) bool {
	for _, l := range slices.Backward(h.ledger()) {
		if l.Fingerprint == f && (l.Event == "contradicted" || l.Event == "proven" || l.Event == "accepted") {
			return l.Event == "contradicted"
		}
	}
	return false
}

// provenLast tells whether the ledger's last word on which key is known is that this one opened
// every row.
func (h *host) provenLast(f key.Fingerprint) bool {
	for _, l := range slices.Backward(h.ledger()) {
		if l.Event == "proven" || l.Event == "accepted" {
			return l.Event == "proven" && l.Fingerprint == f && l.Verdict == "opens"
		}
	}
	return false
}

// worth orders what the rows say of a key: all, some or nothing, and none.
func (h *host) worth(f key.Fingerprint) int {
	switch n := h.table.opens(f); {
	case len(h.table.rows) == 0:
		return 1
	case n == 0:
		return 0
	case n < int64(len(h.table.rows)):
		return 1
	}
	return 2
}

// phase is an effect that a rotation has at one place.
type phase struct{ of, what string }

func (p phase) is(of, what string) bool {
	return p.of != "" && p.of == of && strings.HasSuffix(what, p.what)
}

// phases are those between which it is something else each time that whoever comes next finds.
var phases = []phase{
	{"systemd", "stop"}, {"Postgres", "who is connected"}, {"Postgres", "commit"}, {"Postgres", "commit"}, {"Postgres", "the answer to the commit"},
	{"Postgres", "the answer to the commit"}, {string(durable.ExchangeNames), ".next"}, {string(durable.ExchangeNames), ".next"}, {"systemd", "start"},
}

// rotateKilled is a rotation that is killed somewhere, while the machine goes on, and
// somebody who acts before anything else does.
func (w *world) rotateKilled(h *host, dies int) {
	if dies == 0 {
		dies = 1 + w.rand.IntN(90)
	}
	if w.rand.IntN(3) > 0 {
		dies, w.at = 0, phases[w.rand.IntN(len(phases))]
	}
	w.killed = true
	w.rotate(h, dies)
	w.killed = false
	if w.rand.IntN(2) == 0 {
		h.table.down = true
	}
	if w.rand.IntN(3) == 0 {
		w.rm(h, "state/"+ledger.Name)
	}
	switch s := w.store(); w.rand.IntN(6) {
	case 0: // it was made anew, and somebody brings the key there before the rotation is settled
		w.wipe(s)
		if w.rand.IntN(3) > 0 {
			h.table.down = false
			w.backup(h, 0)
			return
		}
	case 1:
		w.mark("disabled")
	case 2:
		w.mark("destroyed")
	}
	at := []func(*world, *host, int){(*world).backup, (*world).bring, (*world).look, (*world).restoreKey, (*world).repair, (*world).accept, (*world).rotate, (*world).restart, (*world).restart, (*world).restart}
	at[w.rand.IntN(len(at))](w, h, 0)
}

// bring is what the savers do when they are woken before the watcher looks.
func (w *world) bring(h *host, dies int) {
	if !h.watcher.alive {
		return
	}
	w.run(h, h.name+": savers", dies, func(ctx context.Context, p *process, a *agent.Host) {
		for _, s := range a.Escrows {
			w.save(ctx, h, p, a, s.Name())
		}
	})
}

// crossing is a key that is brought to the stores, and another one that somebody puts in the
// keyfile's place meanwhile, and that is brought there by another process between two calls of the
// first one, or after it was shown a listing.
func (w *world) crossing(h *host, dies int) {
	if w.rand.IntN(2) == 0 { // no row speaks for either
		h.table.rows = map[string]key.Fingerprint{}
		h.table.version++
		if w.rand.IntN(2) == 0 { // nor does anything that was
			w.rm(h, "state/"+ledger.Name)
			for _, s := range h.stores {
				w.wipe(s)
			}
		}
	}
	if w.rand.IntN(2) == 0 {
		w.put(h, w.makeKey().UnsafeBytes())
	}
	bring := func(ctx context.Context, p *process, a *agent.Host) {
		agent.KeepKeyfile(a, "") //nolint:errcheck // what it cannot keep is not brought
		for _, s := range a.Escrows {
			saved, err := agent.SaveDue(ctx, a, s.Name())
			for _, s := range saved {
				w.tell("    %s: key %s to %s of %s (%s) %v", p.name, s.Key, s.Shelf, s.Escrow, s.Why, s.Err)
			}
			if err != nil {
				w.tell("    %s: %s: %v", p.name, s.Name(), err)
			}
		}
	}
	other, after := w.anyKey().UnsafeBytes(), 1+w.rand.IntN(12)
	w.run(h, h.name+": savers", dies, func(ctx context.Context, p *process, a *agent.Host) {
		p.crossed, p.after = func() {
			if data, _ := h.live(); laws.Name(data) != "" && !w.kept(h, laws.Name(data)) {
				return // what nobody had the time or the room to keep is not for the first process to answer for
			}
			w.put(h, other)
			w.run(h, h.name+": other savers", 0, bring)
		}, after
		bring(ctx, p, a)
	})
}

// loseMembers takes the host's disk and the rows away, and some of the split's stores: one is
// not there, another was made anew.
func (w *world) loseMembers(h *host, dies int) {
	members := slices.DeleteFunc(slices.Clone(w.stores), func(s *store) bool { return s.part == (escrow.PartOf{}) })
	if len(w.hosts) > 1 || len(members) == 0 {
		return
	}
	w.rand.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	for _, s := range members[1:] {
		if w.rand.IntN(2) == 0 {
			s.down = true
		} else {
			w.wipe(s)
		}
	}
	w.loseDisk(h, dies)
}

// loseTheRest takes the host's disk away, and of each store what it has, or the way to it. Often
// all of the key is where nobody answers: of those that have parts one was made anew, and shows none.
func (w *world) loseTheRest(h *host, dies int) {
	if len(w.hosts) > 1 {
		return
	}
	apart, anew := w.rand.IntN(2) == 0, w.store()
	for _, s := range w.stores {
		if away := w.rand.IntN(2) == 0; away && !apart || apart && s.part != (escrow.PartOf{}) && s != anew {
			s.down = true
		} else {
			w.wipe(s)
		}
	}
	w.loseDisk(h, dies)
}

// loseDisk takes the host's disk away, and the rows perhaps, and starts the daemon.
func (w *world) loseDisk(h *host, dies int) {
	for _, name := range []string{"etc/secrets.key", "etc/secrets.key.next", "state/quarantine", "state/" + ledger.Name} {
		w.rm(h, name)
	}
	h.disk.sync()
	if w.rand.IntN(2) == 0 {
		h.table.dump()
		h.table.rows = map[string]key.Fingerprint{}
		h.table.version++
	}
	w.restart(h, dies)
}

// fill leaves no room in a store, and of a split's in some of the others, while somebody rotates.
func (w *world) fill(h *host, dies int) {
	full := w.store()
	full.full = true
	if full.part == (escrow.PartOf{}) {
		return
	}
	for _, s := range w.stores {
		if s.part != (escrow.PartOf{}) && w.rand.IntN(2) == 0 {
			s.full = true
		}
	}
	w.rotate(h, dies)
}

// foreignParts is another host that has some of the split's stores, or all of them, by mistake,
// under the same numbers, with a key of its own or one of which they have parts.
func (w *world) foreignParts(_ *host, _ int) {
	k := w.makeKey()
	there := map[key.Fingerprint]bool{}
	for _, c := range w.shared() {
		there[c.Of] = there[c.Of] || c.Current && c.Bytes != nil
	}
	// In the order in which they came: fingerprints, by which shared sorts, are no seed's.
	had := slices.DeleteFunc(slices.Clone(w.known), func(k key.Key) bool { return !there[k.Fingerprint()] })
	if n := len(had); n > 0 && w.rand.IntN(3) > 0 {
		k = had[w.rand.IntN(max(n-1, 1))]
	}
	one, need := w.rand.IntN(2) == 0, 2
	if w.rand.IntN(3) == 0 {
		need = 3
	}
	for _, s := range w.stores {
		if s.part == (escrow.PartOf{}) || w.rand.IntN(3) == 0 {
			continue
		}
		part, err := k.Cut(need, w.number(s))
		must(err)
		s.addByHand(escrow.Current, part.UnsafeText())
		part.Wipe()
		if one {
			return
		}
	}
}

// label makes an older copy of a store the newest, as a label or an alias that a person moves
// does: it keeps its id. Or a person writes it there once more.
func (w *world) label() {
	s := w.store()
	var older []int
	for i, c := range s.copies {
		if c.shelf == escrow.Current && c.state != "destroyed" && i < len(s.copies)-1 {
			older = append(older, i)
		}
	}
	if len(older) == 0 {
		return
	}
	i := older[w.rand.IntN(len(older))]
	c := s.copies[i]
	if w.rand.IntN(2) == 0 {
		s.addByHand(escrow.Current, c.bytes)
		return
	}
	c.byHand = true
	s.copies = append(slices.Delete(s.copies, i, i+1), c)
}

// misname has a store call a copy by the name of another key.
func (w *world) misname(_ *host, _ int) {
	s := w.store()
	if n := len(s.copies); n > 0 {
		c := &s.copies[n-1]
		c.label, c.byHand = w.anyKey().Fingerprint(), true
	}
}

// overwrite is a person's write over the newest copy of a store, which keeps its id: over one
// that is a key with something else, or over that with a key. Then somebody needs it.
func (w *world) overwrite(h *host, dies int) {
	s := w.store()
	for i := len(s.copies) - 1; i >= 0; i-- {
		c := &s.copies[i]
		if c.shelf != escrow.Current || c.state != "" {
			continue
		}
		content := []byte("somebody's note, and no key")
		if data, good := h.live(); c.of == "" && good && w.rand.IntN(2) == 0 {
			content = data
		} else if c.of == "" {
			content = w.anyKey().UnsafeBytes()
		}
		c.bytes, c.byHand = slices.Clone(content), true
		c.of, c.part = read(content)
		break
	}
	if w.rand.IntN(3) == 0 {
		w.rm(h, "etc/secrets.key")
		w.restart(h, dies)
	}
}

// upgrade puts a package over the one that is there: the watcher is restarted.
func (w *world) upgrade(h *host, _ int) {
	if h.watcher.alive {
		w.stopWatcher(h)
		w.watch(h)
	}
}

// otherDump loads one that has as many rows as there are, all under another key, of another
// day or another host.
func (w *world) otherDump(h *host, _ int) {
	h.table.dump()
	k := w.anyKey()
	for _, name := range slices.Sorted(maps.Keys(h.table.rows)) {
		h.table.write(name, k.Fingerprint())
	}
}

// withoutLedger takes the ledger away where no other can be made, and has somebody save
// something. A power cut may bring it back.
func (w *world) withoutLedger(h *host, dies int) {
	w.rm(h, "state/"+ledger.Name)
	switch w.rand.IntN(3) {
	case 0:
		h.disk.noInodes = true
	case 1:
		h.disk.full = true
	default:
		h.disk.readOnly = h.path("state")
	}
	if s := w.store(); w.rand.IntN(2) == 0 {
		w.wipe(s)
	}
	if w.rand.IntN(2) == 0 { // what only the store had is in a file then that nobody has synced
		w.put(h, w.anyKey().UnsafeBytes())
	}
	at := []func(*world, *host, int){(*world).backup, (*world).look, (*world).bring}
	at[w.rand.IntN(len(at))](w, h, dies)
	if w.rand.IntN(2) == 0 {
		w.powerCut(h)
		h.disk.mend()
	}
}

// oddPart is a person who writes a part onto one of the split's stores that fits none of the
// others' newest: of the key before a rotation, or of the present one and cut for another need.
// Then somebody looks.
func (w *world) oddPart(h *host, dies int) {
	members := slices.DeleteFunc(slices.Clone(w.stores), func(s *store) bool { return s.part == (escrow.PartOf{}) })
	if len(members) == 0 {
		return
	}
	s := members[w.rand.IntN(len(members))]
	data, good := h.live()
	if w.rand.IntN(2) == 0 {
		w.rotate(h, 0)
		w.pass(5 * time.Second) // the watcher brings the new key
		for _, c := range s.copies {
			if good && c.of == laws.Name(data) && c.part != (escrow.PartOf{}) && c.shelf == escrow.Current {
				s.addByHand(escrow.Current, c.bytes)
				break
			}
		}
	} else if good {
		k, err := key.New(data)
		must(err)
		part, err := k.Cut(5-s.part.Need, w.number(s))
		must(err)
		s.addByHand(escrow.Current, part.UnsafeText())
		part.Wipe()
		k.Wipe()
	}
	w.status(h, dies)
}

// recut is a configuration of the split that is wrong by now: other numbers, or another need.
func (w *world) recut(need bool) {
	for _, s := range w.stores {
		switch {
		case s.part == (escrow.PartOf{}):
		case need:
			s.part.Need = 5 - s.part.Need
		default:
			s.part.Number = s.part.Number%3 + 1
		}
	}
}

// cutAsEver puts the configuration of the split right: the numbers that the stores keep, and the need
// with which the host's present key was cut.
func (w *world) cutAsEver(h *host) {
	data, _ := h.live()
	need := 2
	for _, s := range w.stores {
		for _, c := range s.copies {
			if of, part := c.is(); of == laws.Name(data) && part.Need != 0 {
				need = part.Need
			}
		}
	}
	for _, s := range w.stores {
		if s.part != (escrow.PartOf{}) {
			s.part = escrow.PartOf{Need: need, Number: w.number(s)}
		}
	}
}

// number is that of a member's parts, whatever the configuration says by now: as the first of
// them keeps them, which may have been given its part when they all had others.
func (w *world) number(s *store) int {
	moved := 0
	for _, m := range w.stores {
		for _, c := range m.copies {
			if _, part := c.is(); part.Number != 0 {
				moved = part.Number - 1 - int(m.name[0]-'a')
			}
		}
	}
	return (int(s.name[0]-'a')+moved+3)%3 + 1
}

// unwatched is somebody who takes the watcher down, changes the keyfile and starts the daemon.
func (w *world) unwatched(h *host, dies int) {
	w.stopWatcher(h)
	h.watcher.stopped = w.rand.IntN(2) == 0
	k := w.makeKey()
	if w.rand.IntN(3) == 0 {
		k = w.anyKey()
	}
	w.put(h, k.UnsafeBytes())
	h.daemon = daemon{start: h.daemon.start}
	time.Sleep(6 * time.Second)
	h.disk.sync()
	w.restart(h, dies)
}

// startAgain restarts the daemon again and again, while stores come, go and get copies.
func (w *world) startAgain(h *host, dies int) {
	if w.rand.IntN(2) == 0 {
		w.stopWatcher(h)
	}
	if w.rand.IntN(4) == 0 { // a first start, which a store keeps from being one
		h.recovers()
		w.storesBack()
		w.bare(h)
		w.rm(h, "state/"+ledger.Name)
		switch s := w.store(); w.rand.IntN(3) {
		case 0:
			s.full = true
		case 1:
			w.trouble(s)
		default: // a cold boot; what the others said by then may have changed when it is there
			s.far = true
			w.restart(h, 0)
			w.restart(h, 0) // where the one before has parked, it found another keyfile than this one
			w.keepSomewhere(nil, w.makeKey())
			w.storesBack()
		}
	}
	for range 3 {
		w.restart(h, dies)
		if s := w.store(); w.rand.IntN(3) == 0 {
			w.trouble(s)
		}
		if w.rand.IntN(3) == 0 {
			w.keepSomewhere(nil, w.anyKey())
		}
		if w.rand.IntN(2) == 0 {
			w.storesBack()
		}
		if w.rand.IntN(2) == 0 {
			w.pass(time.Duration(w.rand.IntN(8)) * time.Second)
		}
		if !h.off.IsZero() {
			return
		}
	}
}

// loseAll takes every key away, and the rows with them; the ledger remains, or is damaged. Then
// the daemon is started.
func (w *world) loseAll(h *host, dies int) {
	if len(w.hosts) > 1 {
		return
	}
	w.bare(h)
	if path := h.path("state/" + ledger.Name); h.disk.names[path] != nil && h.disk.well() && w.rand.IntN(3) == 0 {
		h.disk.put(path, []byte("what a disk makes of a line\n"), 0o600)
	}
	w.restart(h, dies)
}

// firstKeyGoes takes every key away between the daemon's start and its reading one, and all that told
// of them; then rows come that another key is of.
func (w *world) firstKeyGoes(h *host, _ int) {
	if len(w.hosts) > 1 || !h.watcher.alive || h.silent || h.tardy > 0 { // systemd takes the second after which is parked
		return
	}
	w.restart(h, 0)
	if left := time.Until(h.daemon.reads); !h.daemon.up || left < time.Second || w.wrong != nil {
		return
	}
	w.bare(h)
	w.rm(h, "state/"+ledger.Name)
	w.pass(time.Until(h.daemon.reads) - 50*time.Millisecond)
	w.merge(h, w.makeKey())
}

// rowsCome takes a host's keys away, those of the stores perhaps, and all that told of them; while the
// daemon's start calls the stores rows come that another key is of, or a person brings one to a store.
func (w *world) rowsCome(h *host, _ int) {
	if len(w.hosts) > 1 {
		return
	}
	if w.rand.IntN(2) == 0 {
		w.bare(h)
	} else {
		w.bareHost(h)
	}
	w.rm(h, "state/"+ledger.Name)
	w.crossed = func() {
		if w.rand.IntN(2) == 0 {
			w.merge(h, w.makeKey())
			return
		}
		time.Sleep(time.Millisecond) // after what the start was shown
		w.store().addByHand(escrow.Current, w.makeKey().UnsafeBytes())
	}
	w.restart(h, 0)
	w.crossed = nil
}

// bare takes every key away from host and stores, and the rows with them.
func (w *world) bare(h *host) {
	if len(w.hosts) > 1 {
		return
	}
	for _, s := range w.stores {
		w.wipe(s)
	}
	w.bareHost(h)
}

// bareHost takes every key away from a host, and the rows with them.
func (w *world) bareHost(h *host) {
	for _, name := range []string{"etc/secrets.key", "etc/secrets.key.next", "state/quarantine"} {
		w.rm(h, name)
	}
	h.disk.sync()
	h.table.dump()
	h.table.rows = map[string]key.Fingerprint{}
	h.table.version++
}
