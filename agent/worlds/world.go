package worlds

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/worlds/laws"
)

// world is one history as it goes on.
type world struct {
	real    bool // its disks have real files
	hosts   []*host
	stores  []*store
	rand    *rand.Rand // of the step that is played
	keyRand *rand.Rand // of keys that are not keyguard's own
	epoch   time.Time
	running []*process // the innermost last
	mu      sync.Mutex // of effects, which come from several goroutines
	turn    sync.Mutex // of the stores' answers, likewise
	telling sync.Mutex // of the story

	lines   map[string]line                     // of ledgers, as they were read before
	keys    map[key.Fingerprint]key.Key         // all that ever were
	known   []key.Key                           // the same, in the order in which they came
	fragile map[key.Fingerprint]bool            // only ever in files that nobody synced
	proven  map[string]map[key.Fingerprint]bool // by host: which opened all rows, or most, to a process of ours
	vouched map[string][]vouched                // by host: the last one, and what came to no end after it
	printed []key.Key                           // on paper
	mortal  int                                 // the next process that is started by itself dies before this effect
	at      phase                               // and the next process of all before this one
	crossed func()                              // happens in the midst of what that one does with stores

	rebuilt map[string][]byte // keys of their parts

	calls map[string]int // by host and store
	saves map[string]int // and those to save something

	drilled bool // by a person
	killed  bool // who dies is killed, and the power stays
	calm    bool // nothing happens any more but what keyguard does
	named   func(agent.StatusResult) []string
	story   []string
	last    string // line of it, without its time
	same    int    // how often it was told again
	wrong   *Broken
}

// vouched is a person's word.
type vouched struct {
	key    key.Fingerprint
	opened int
}

// vouch notes a person's word, of a command that was done or not: one that died may have been
// heard, or not.
func (w *world) vouch(h *host, v vouched, done bool) {
	if done {
		w.vouched[h.name] = nil
	}
	w.vouched[h.name] = append(w.vouched[h.name], v)
}

// vouchedFor is how many rows a key opened when a person vouched for it, -1 where nobody did.
func (w *world) vouchedFor(h *host, f key.Fingerprint) int {
	for _, v := range slices.Backward(w.vouched[h.name]) {
		if v.key == f {
			return v.opened
		}
	}
	return -1
}

// Broken is a law that was.
type Broken struct {
	Law   string
	What  string
	Story string
}

func (b *Broken) Error() string { return b.What + "\n" + b.Story }

// Run plays a plan and returns what happened and the first law that was broken, nil for none.
// It must be called in a bubble of testing/synctest, by one goroutine at a time in the whole
// process. dir must be on a tmpfs and is emptied: there is what the hosts have in memory alone,
// /run.
func Run(p Plan, dir string) (story []string, broken *Broken) { return Follow(p, dir, nil) }

// Follow is Run with a person who, in the end, types what named says that status names, and
// nothing else: each command is one word or two, as "accept --new". Where it is nil, the person
// tries what there is.
func Follow(p Plan, dir string, named func(agent.StatusResult) []string) (story []string, broken *Broken) {
	return (&world{named: named}).live(p, dir)
}

// live is Follow in a world of which no more is said than who is named, and whether its disks are
// real files below dir.
func (w *world) live(p Plan, dir string) (story []string, broken *Broken) {
	w.epoch = time.Now()
	w.lines, w.calls, w.saves, w.rebuilt = map[string]line{}, map[string]int{}, map[string]int{}, map[string][]byte{}
	w.keys, w.fragile = map[key.Fingerprint]key.Key{}, map[key.Fingerprint]bool{}
	w.proven, w.vouched = map[string]map[key.Fingerprint]bool{}, map[string][]vouched{}
	durable.Simulated, lock.Find = w, w.lock
	defer func() {
		durable.Simulated, lock.Find = nil, nil
		laws.Forget()
		for _, h := range w.hosts {
			w.stopWatcher(h)
		}
		for _, k := range w.keys {
			k.Wipe()
		}
		if story = w.story; w.wrong != nil {
			w.wrong.Story = strings.Join(w.story, "\n")
			broken = w.wrong
		}
	}()
	w.rand, w.keyRand = rand.New(rand.NewPCG(p.Seed, 1)), rand.New(rand.NewPCG(p.Seed, 4))
	w.begin(dir)
	for _, s := range p.Steps {
		w.rand = rand.New(rand.NewPCG(s.Arg, 2))
		w.play(s)
		if w.wrong != nil {
			return nil, nil
		}
	}
	w.rand = rand.New(rand.NewPCG(p.Seed, 3))
	w.end()
	return nil, nil
}

// begin makes a world in which all is well: a host or two, one to three stores, rows.
func (w *world) begin(dir string) {
	for i := range 1 + w.rand.IntN(3) {
		w.stores = append(w.stores, &store{name: [...]string{"gcp", "vault", "usb"}[i], manners: manners{mute: w.rand.IntN(2) == 0}})
	}
	if w.rand.IntN(4) == 0 { // a key in parts: alone, or beside the first store
		w.stores = w.stores[:w.rand.IntN(2)]
		for i := range 3 {
			w.stores = append(w.stores, &store{name: string(rune('a' + i)), manners: manners{mute: w.rand.IntN(2) == 0}, part: escrow.PartOf{Need: 2, Number: i + 1}})
		}
	}
	h := w.host(filepath.Join(dir, "one"), "one")
	switch w.rand.IntN(8) {
	case 0:
		w.tell("a new host, %d stores", len(w.stores))
	case 1: // its disk was lost; the copies are there, and the rows perhaps
		k := w.makeKey()
		if w.rand.IntN(4) > 0 { // else it is nowhere, yet
			w.keepSomewhere(nil, k)
		}
		for _, s := range w.stores {
			for i := range s.copies {
				s.copies[i].state = [...]string{"", "", "disabled", "destroyed"}[w.rand.IntN(4)]
			}
			if w.rand.IntN(3) == 0 {
				w.trouble(s)
			}
		}
		if w.rand.IntN(2) == 0 {
			w.merge(h, k)
		}
		w.tell("a new host, %d stores, one with key %s, %d rows", len(w.stores), k.Fingerprint(), len(h.table.rows))
	default:
		k := w.makeKey()
		h.disk.put(h.keyfile(), k.UnsafeBytes(), 0o400)
		for i := range 1 + w.rand.IntN(9) {
			h.table.write(fmt.Sprint("row ", i), k.Fingerprint())
		}
		w.tell("a host with key %s, %d rows, %d stores", k.Fingerprint(), len(h.table.rows), len(w.stores))
		if w.rand.IntN(4) == 0 {
			w.splitTable(h)
		}
	}
	for _, s := range w.stores {
		for i := range s.copies {
			s.copies[i].at = s.copies[i].at.Add(-time.Hour)
		}
	}
	if w.rand.IntN(4) == 0 {
		w.trouble(w.store())
	}
	for _, s := range w.stores[min(1, len(w.stores)):] {
		s.optional = s.part == (escrow.PartOf{}) && w.rand.IntN(4) == 0
	}
	h.disk.sync()
	w.watch(h)
	w.start(h) //nolint:errcheck // it tells
	w.pass(20 * time.Second)
}

// splitTable brings some rows under other keys, half of them often, which are somewhere.
func (w *world) splitTable(h *host) {
	for range 1 + w.rand.IntN(2) {
		other := w.makeKey()
		if w.rand.IntN(2) == 0 {
			for i := range len(h.table.rows) {
				h.table.write(fmt.Sprint("other ", i), other.Fingerprint())
			}
		} else {
			w.merge(h, other)
		}
		w.keepSomewhere(h, other)
		w.tell("and %d of its %d rows are under key %s", h.table.opens(other.Fingerprint()), len(h.table.rows), other.Fingerprint())
	}
}

// keepSomewhere puts a key where it can be had, and nobody has said that it is right: in a
// store, or in the quarantine of a host.
func (w *world) keepSomewhere(h *host, k key.Key) {
	if h != nil && w.rand.IntN(2) == 0 {
		path := h.path("state/quarantine/20000101T000000.000000Z-" + string(k.Fingerprint()) + ".key")
		h.disk.put(path, k.UnsafeBytes(), 0o400)
		for _, c := range []durable.Change{{Do: durable.SyncFile, Path: path}, {Do: durable.SyncNames, Path: filepath.Dir(path)}, {Do: durable.SyncNames, Path: h.path("state")}} {
			h.disk.make(c) //nolint:errcheck // it has lain there for long, unless the disk is broken
		}
		return
	}
	shelf := escrow.Shelves[w.rand.IntN(len(escrow.Shelves))]
	if s := w.store(); s.part == (escrow.PartOf{}) {
		s.addByHand(shelf, k.UnsafeBytes())
		return
	}
	for _, s := range w.stores {
		if s.part != (escrow.PartOf{}) {
			part, err := k.Cut(2, int(s.name[0]-'a')+1)
			must(err)
			s.addByHand(shelf, part.UnsafeText())
			part.Wipe()
		}
	}
}

// trouble is what ails a store.
func (w *world) trouble(s *store) {
	switch w.rand.IntN(7) {
	case 0:
		s.hangs = true
	case 4:
		s.fails = 1 + w.rand.IntN(3)
	case 3:
		s.addOnly = true
	case 1:
		s.denied = true
	case 2:
		s.late = time.Duration(w.rand.IntN(60)) * time.Second
	default:
		s.down = true
	}
}

func (w *world) host(root, name string) *host {
	h := &host{w: w, name: name, disk: newDisk(root, w.real), table: &table{rows: map[string]key.Fingerprint{}}, stores: w.stores, asked: map[string]asked{}}
	h.disk.mkdir(h.path("etc"))
	h.disk.mkdir(h.path("state"))
	h.boots()
	h.disk.keep()
	w.hosts = append(w.hosts, h)
	return h
}

// Make has the process that runs make a change, unless it dies.
func (w *world) Make(c durable.Change) (known bool, err error) {
	d := w.files(c.Path)
	if d == nil || d.volatile(c.Path) {
		return false, nil // of what no crash spares
	}
	if c.Path == d.root {
		return !d.real, nil
	}
	p := w.running[len(w.running)-1]
	if err := p.effect(string(c.Do), c.Path); err != nil {
		return true, err
	}
	return !d.real, w.makes(p, c)
}

// makes makes a change that a process makes, and holds it to law 3.
func (w *world) makes(p *process, c durable.Change) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	p.wrote[c.Path], p.wrote[c.To] = true, true
	if bytes.Contains(c.Data, []byte(`"event":"saving"`)) {
		p.seen = nil
	}
	gone := c.Path
	if c.Do == durable.RenameFile {
		gone = c.To
	}
	if f := p.h.disk.names[gone]; f != nil && !p.made[f] && (c.Do == durable.RemoveFile || c.Do == durable.RenameFile) && p.h.disk.refuses(c) == nil &&
		!strings.HasPrefix(filepath.Base(gone), durable.TempPrefix) {
		w.hold(laws.Destroyed(gone, f.data, p.h.disk.survivors()))
	}
	d, f := p.h.disk, p.h.disk.names[c.Path]
	version := d.version
	err := d.make(c)
	if c.Do == durable.CreateFile && err == nil {
		f = d.names[c.Path]
		p.made[f] = true
	}
	switch {
	case d.version == version:
	case c.To == "" && p.made[f] && c.Do != durable.RemoveFile:
		p.passing[f] = true
	case c.Do == durable.RemoveFile && p.passing[f]:
		delete(p.passing, f)
	default:
		delete(p.passing, f)
		d.shown = d.version
	}
	return err
}

func (w *world) tell(format string, args ...any) {
	w.telling.Lock()
	defer w.telling.Unlock()
	line := w.plain(fmt.Sprintf(format, args...))
	if line == w.last {
		w.same++
		return
	}
	if w.same > 0 {
		w.story = append(w.story, fmt.Sprintf("             and %d times more", w.same))
	}
	w.last, w.same = line, 0
	w.story = append(w.story, fmt.Sprintf("%8.1f s  %s", time.Since(w.epoch).Seconds(), line))
}

// plain leaves out of a line what is another whenever the same world is played: where it is
// played, and the names of temporary files.
func (w *world) plain(line string) string {
	line = strings.ReplaceAll(line, w.hosts[0].disk.root, "")
	line = strings.ReplaceAll(line, filepath.Dir(w.hosts[0].disk.root), "")
	if !strings.Contains(line, durable.TempPrefix) {
		return line
	}
	parts := strings.Split(line, durable.TempPrefix)
	for i, part := range parts[1:] {
		parts[i+1] = strings.TrimLeft(part, "0123456789abcdefghijklmnopqrstuvwxyz")
	}
	return strings.Join(parts, durable.TempPrefix)
}

func (w *world) broken(law, format string, args ...any) {
	if w.wrong == nil {
		w.wrong = &Broken{Law: law, What: w.plain(fmt.Sprintf(format, args...))}
		w.tell("BROKEN: %s", w.wrong.What)
	}
}

func (w *world) hold(err error) {
	if err != nil {
		law, _, _ := strings.Cut(err.Error(), ":")
		w.broken(law, "%v", err)
	}
}

// makeKey makes one that is the same whenever the same world is played: among keys that open
// as many rows the first by name wins.
func (w *world) makeKey() key.Key {
	var b [key.Size]byte
	for i := range b {
		b[i] = byte(w.keyRand.Uint32())
	}
	k, err := key.New(b[:])
	must(err)
	w.know(k)
	return k
}

func (w *world) know(k key.Key) {
	if _, there := w.keys[k.Fingerprint()]; !there {
		w.known = append(w.known, k)
	}
	w.keys[k.Fingerprint()] = k
	w.fragile[k.Fingerprint()] = true
}

// state is what laws look at, of the world as one host has it. It is good until the world
// changes.
func (w *world) state(h *host) laws.State {
	return w.stateFor(h, time.Now())
}

// stateFor is state for who asked the stores at a time: what was late then they have not shown.
func (w *world) stateFor(h *host, asked time.Time) laws.State {
	s := laws.State{Files: map[string][]byte{}, Rows: h.table.rows, Copies: w.copies(asked)}
	for _, each := range w.hosts {
		for path, f := range each.disk.names {
			s.Files[path] = f.data
		}
	}
	return s
}

// stateHere is state where the files of other hosts are not at hand.
func (w *world) stateHere(h *host) laws.State {
	s := w.state(h)
	maps.DeleteFunc(s.Files, func(path string, _ []byte) bool { return !within(h.disk.root, path) })
	return s
}

// copies are what the stores have.
func (w *world) copies(asked time.Time) (copies []laws.Copy) {
	for _, each := range w.stores {
		if each.gone {
			continue
		}
		for _, c := range each.copies {
			if _, part := c.is(); part != (escrow.PartOf{}) {
				continue
			}
			// Among parts a whole key is below them all.
			current := c.shelf == escrow.Current && each.part == (escrow.PartOf{})
			copies = append(copies, laws.Copy{Store: each.name, Current: current, Bytes: c.bytes, Destroyed: c.state == "destroyed", Shut: c.state != "",
				Late: !each.lists(c, asked)})
		}
	}
	return append(copies, w.shared()...)
}

// shared are the keys that are there in parts, the one last whose parts are on top.
func (w *world) shared() (copies []laws.Copy) {
	type share struct {
		shelf escrow.Shelf
		of    key.Fingerprint
		need  int
	}
	if !slices.ContainsFunc(w.stores, func(s *store) bool { return s.part != (escrow.PartOf{}) }) {
		return nil
	}
	parts, visible, top := map[share]map[int][]byte{}, map[share]map[int]bool{}, map[share]int{}
	for _, s := range w.stores {
		if s.gone || s.part == (escrow.PartOf{}) {
			continue
		}
		first := true
		for _, c := range slices.Backward(s.copies) {
			of, part := c.is()
			if part == (escrow.PartOf{}) || c.state != "" {
				continue
			}
			at := share{c.shelf, of, part.Need}
			if parts[at] == nil {
				parts[at], visible[at] = map[int][]byte{}, map[int]bool{}
			}
			parts[at][part.Number] = c.bytes
			visible[at][part.Number] = visible[at][part.Number] || s.lists(c, time.Now())
			if c.shelf == escrow.Current && first {
				top[at]++
				first = false
			}
		}
	}
	order := slices.SortedFunc(maps.Keys(parts), func(a, b share) int {
		return cmp.Or(cmp.Compare(top[a], top[b]), cmp.Compare(a.of, b.of), cmp.Compare(a.shelf, b.shelf), cmp.Compare(a.need, b.need))
	})
	for _, at := range order {
		c := laws.Copy{Store: "split", Current: at.shelf == escrow.Current, Of: at.of, Late: len(visible[at]) < at.need || top[at] < at.need}
		if len(parts[at]) >= at.need {
			c.Bytes = w.rebuild(slices.Collect(maps.Values(parts[at])))
		}
		copies = append(copies, c)
	}
	return copies
}

// rebuild makes a key of its parts, nil where they are none. What it made once it knows.
func (w *world) rebuild(texts [][]byte) []byte {
	slices.SortFunc(texts, bytes.Compare)
	name := string(bytes.Join(texts, []byte("\n")))
	if b, done := w.rebuilt[name]; done {
		return b
	}
	var parts []key.Part
	for _, text := range texts {
		var part *key.PartError
		if _, _, err := key.Decode(text); errors.As(err, &part) {
			parts = append(parts, part.Part)
		}
	}
	k, _, err := key.Rebuild(parts)
	if err == nil {
		w.rebuilt[name] = slices.Clone(k.UnsafeBytes())
	}
	k.Wipe()
	return w.rebuilt[name]
}

// onTop tells whether a key is the newest of the split already: in parts, or whole where
// somebody put it on a member.
func (w *world) onTop(f key.Fingerprint) bool {
	on := map[key.Fingerprint]bool{}
	for _, c := range w.shared() {
		if c.Current && laws.Name(c.Bytes) != "" {
			on = map[key.Fingerprint]bool{c.Of: true}
		}
	}
	for _, s := range w.stores {
		for _, c := range s.copies {
			if of, part := c.is(); s.part != (escrow.PartOf{}) && part == (escrow.PartOf{}) && c.shelf == escrow.Current {
				on[of] = true
			}
		}
	}
	return on[f]
}

// newestShared is of what a split lists while all its members are well and have parts on top.
func (w *world) newestShared(h *host, copies []escrow.Copy) {
	on := map[key.Fingerprint]int{}
	for _, s := range h.stores {
		if s.part == (escrow.PartOf{}) {
			continue
		}
		top := len(s.copies) - 1
		for ; top >= 0 && s.copies[top].shelf != escrow.Current; top-- {
		}
		if top < 0 || !s.answers() || s.slow > 0 || s.late > 0 || s.copies[top].state != "" {
			return
		}
		of, part := s.copies[top].is()
		if said := s.copies[top].label; part.Need != 2 || said != "" && said != of {
			return // of another one's name a listing knows no better
		}
		on[of]++
	}
	for of, n := range on {
		if i := slices.IndexFunc(copies, func(c escrow.Copy) bool { return c.Shelf == escrow.Current && !c.Beside }); n >= 2 && (i < 0 || copies[i].Fingerprint != of) {
			w.broken("newest", "newest: %d members have key %s on top, and the split lists another as its newest", n, of)
		}
	}
}

// sharedSaved is a key that a split says it has saved; added tells whether it was not there.
func (w *world) sharedSaved(p *process, shelf escrow.Shelf, f key.Fingerprint, added bool) {
	s := w.state(p.h)
	if !slices.ContainsFunc(s.Copies, func(c laws.Copy) bool { return c.Of == f && laws.Name(c.Bytes) == f }) {
		w.broken("law 5", "law 5: key %s is said to be saved in parts, and cannot be had from them", f)
	}
	if added && shelf == escrow.Current {
		w.copied(p.h, p.h.ledger(), "split")
		w.deserved(p, f, "")
	}
}

// apart: no store alone has parts enough for a key, nor parts that were cut otherwise, unless no
// listing showed one to who saved the other, after the members' parts or the need had changed.
func (w *world) apart() {
	for _, s := range w.stores {
		var ours []stored
		for _, c := range s.copies {
			of, part := c.is()
			if c.hidden || c.byHand || part == (escrow.PartOf{}) || c.state == "destroyed" {
				continue // nobody could tell whose part it is, or have it, or it is none of ours
			}
			for _, o := range ours {
				was := o.part
				if o.of == of && was != part && !slices.Contains(c.unseen, o.id) {
					w.broken("law 8", "law 8: %s has part %d of %d and part %d of %d of key %s", s.name, was.Number, was.Need, part.Number, part.Need, of)
				}
			}
			ours = append(ours, c)
		}
	}
}

// held are the keys that can be had in the world, and where each can.
func (w *world) held() map[key.Fingerprint]string {
	held := laws.State{Copies: w.copies(time.Now())}.Held()
	for _, h := range w.hosts {
		for path, f := range h.disk.names {
			if name := laws.Name(f.data); name != "" {
				held[name] = path
			}
		}
	}
	return held
}

// judge holds what a process has done to the laws.
func (w *world) judge(p *process, before map[key.Fingerprint]string) {
	after := w.held()
	w.hold(laws.Lost(before, after, w.fragile))
	for f := range after { // a first key, of which a process has died before it was kept
		if before[f] == "" && p.dead && !w.durable(f) {
			w.fragile[f] = true
		}
	}
	if h := p.h; !p.dead && h.disk.well() && h.off.IsZero() {
		relied := map[string][]byte{}
		for path, f := range h.disk.names {
			if p.wrote[path] && (path == h.path("state/"+ledger.Name) || filepath.Dir(path) == h.path("state/quarantine") && !strings.HasPrefix(filepath.Base(path), durable.TempPrefix)) {
				relied[path] = f.data
			}
		}
		w.hold(laws.Durable(relied, h.disk.survivors()))
	}
	w.settle(after)
}

// settle notes which keys a power cut would not take any more.
func (w *world) settle(held map[key.Fingerprint]string) {
	for f := range held {
		if w.fragile[f] && w.durable(f) {
			delete(w.fragile, f)
		}
	}
}

// opens notes that a key opened all rows of a host, or most of them.
func (w *world) opens(h *host, f key.Fingerprint) {
	if w.proven[h.name] == nil {
		w.proven[h.name] = map[key.Fingerprint]bool{}
	}
	w.proven[h.name][f] = true
}

// durable tells whether a power cut would leave the key.
func (w *world) durable(f key.Fingerprint) bool {
	if (laws.State{Copies: w.copies(time.Now())}).Held()[f] != "" {
		return true
	}
	for _, h := range w.hosts {
		for _, b := range h.disk.survivors() {
			if laws.Name(b) == f {
				return true
			}
		}
	}
	return false
}

// kept tells whether a store has a key, or a file besides the keyfile that a power cut leaves.
func (w *world) kept(h *host, f key.Fingerprint) bool {
	if (laws.State{Copies: w.copies(time.Now())}).Held()[f] != "" {
		return true
	}
	for path, b := range h.disk.survivors() {
		if path != h.keyfile() && laws.Name(b) == f {
			return true
		}
	}
	return false
}

// saved is a copy that keyguard has just added.
func (w *world) saved(p *process, s *store, c stored) {
	f := c.whole()
	if f == "" {
		w.broken("law 4", "law 4: what is no key went to %s", s.name)
		return
	}
	if c.shelf != escrow.Current {
		return
	}
	w.alarm(p, s, c)
	if s.showed(p.shown[s.name]) == f {
		return // it stands there already, by all that anybody was told
	}
	w.deserved(p, f, s.name+" "+c.id)
}

// deserved is law 4 for a key that a process has put on a current shelf, as the copy of that name.
// By its proof a key goes on where the rows cannot be asked, and needs no more while they are silent
// than that no stranger's copy is in the way.
func (w *world) deserved(p *process, f key.Fingerprint, as string) {
	if !p.looked && p.h.knows(f) {
		return
	}
	standing, err := ledger.Open(p.h.path("state"), ledger.Options{}).Standing()
	s := w.state(p.h)
	if p.crossed != nil && p.seen != nil {
		s.Rows = p.seen // what came after its last look nobody has told it
	}
	w.hold(laws.Saved(s, f, w.rival(p, f, as), err == nil && standing.Rotation != nil))
}

// rival is another key that was proven on a process's host, or that stands on a current shelf by what
// the process could be told, whole or in parts; of one that the ledger knows by proof only a
// stranger's is that is the newest of its escrow.
func (w *world) rival(p *process, f key.Fingerprint, as string) (rival key.Fingerprint) {
	ours, known := w.proven[p.h.name], p.h.knows(f)
	for _, l := range p.h.ledger() { // what nobody remembers is no rival
		if other := l.Fingerprint; l.Event == "proven" && ours[other] && !known && other != f {
			rival = other
		}
	}
	parts := map[key.Fingerprint]map[int]bool{}
	for _, other := range p.h.stores {
		if known && !other.answers() {
			continue // what nobody is told of does not keep it back
		}
		top := true
		for _, o := range slices.Backward(other.copies) {
			g, part := o.is()
			if o.shelf != escrow.Current || o.state != "" || !p.told(other, o) || g == "" || other.name+" "+o.id == as {
				continue
			}
			switch {
			case g == f:
			case part == (escrow.PartOf{}):
				if !known || !ours[g] && newest(other, o) {
					rival = g
				}
			case !known || !ours[g] && top:
				if parts[g] == nil {
					parts[g] = map[int]bool{}
				}
				if parts[g][part.Number] = true; len(parts[g]) >= part.Need {
					rival = g
				}
			}
			top = false
		}
	}
	return rival
}

// told tells whether a store's listings show a copy now, and showed it to a process when it asked
// last: what was there then and is listed late it was not told of, nor what a person has put there in
// the midst of what it does.
func (p *process) told(s *store, c stored) bool {
	shown, asked := p.shown[s.name]
	late := asked && !c.at.After(shown) && !s.lists(c, shown)
	midst := p.crossed != nil && c.byHand && c.at.After(p.began)
	return !late && !midst && s.lists(c, time.Now())
}

// showed is the key that a listing showed at a time as the newest current one, "" for none.
func (s *store) showed(at time.Time) key.Fingerprint {
	for _, o := range slices.Backward(s.copies) {
		if o.shelf == escrow.Current && o.state != "destroyed" && s.lists(o, at) {
			return o.whole()
		}
	}
	return ""
}

// alarm is law 4 where another host or a person writes: above their copy nothing goes to the
// current shelf. c has just gone there.
func (w *world) alarm(p *process, s *store, c stored) {
	h, lines := p.h, p.h.ledger()
	w.copied(h, lines, s.name)
	if !slices.ContainsFunc(lines, func(l line) bool { return l.saved() && l.Escrow == s.name && l.Shelf == string(escrow.Current) }) {
		return // an empty ledger raises no alarm
	}
	if s.addOnly {
		return // nobody is shown what stands there
	}
	begun := map[key.Fingerprint]bool{} // saves of them may have ended without an answer
	for _, l := range lines {
		switch current := l.Escrow == s.name && l.Shelf == string(escrow.Current); {
		case current && l.Event == "saving":
			begun[l.Fingerprint] = true
		case current && l.saved():
			clear(begun)
		}
	}
	for _, o := range slices.Backward(s.copies) {
		f := o.whole()
		ours := slices.ContainsFunc(lines, func(l line) bool { return l.saved() && l.Escrow == s.name && l.Copy == o.id })
		if o.shelf == escrow.Current && o.id != c.id && ours && (o.state == "destroyed" || f == "") {
			return // nobody has written there since, but over what was saved there
		}
		if o.shelf != escrow.Current || o.id == c.id || o.state == "destroyed" || !p.told(s, o) || f == "" && o.state == "" {
			continue
		}
		data, good := h.live()
		if !ours && !begun[f] && !(good && f != "" && laws.Name(data) == f) {
			w.broken("law 4", "law 4: a copy went onto the current shelf of %s above %s, which is not this host's", s.name, o.id)
		}
		return
	}
}

// covered is alarm for one store of a split, on which c has just gone: what stood there on top
// was this host's, or adopted, or may have been of a save of its own that is not over.
func (w *world) covered(p *process, s *store, c stored) {
	h := p.h
	lines := slices.DeleteFunc(slices.Clone(h.ledger()), func(l line) bool {
		return l.Escrow != "split" || l.Shelf != string(escrow.Current) && l.Event != "adopted"
	})
	if !slices.ContainsFunc(lines, func(l line) bool { return l.saved() && l.Shelf == string(escrow.Current) }) {
		return // an empty ledger raises no alarm
	}
	for _, o := range slices.Backward(s.copies) {
		of, _ := o.is()
		if o.shelf == escrow.Current && o.id != c.id && o.by == h.name {
			return
		}
		if o.shelf != escrow.Current || o.id == c.id || o.state == "destroyed" || of == "" && o.state == "" {
			continue // it is none
		}
		open := false
		for _, l := range lines {
			switch {
			case l.Event == "saving", l.saved() && l.Shelf == string(escrow.Current) && l.Reason != "":
				// Not every member has said what became of it, and one may have kept it badly.
				open = open || l.Fingerprint == of || l.Fingerprint == o.label
			case l.saved() && l.Shelf == string(escrow.Current):
				open = false
			}
		}
		adopted := slices.ContainsFunc(lines, func(l line) bool {
			word := l.Event == "adopted" && l.Fingerprint == of // of the copy, whatever its numbers
			here := false                                       // a part on this store is named
			return slices.ContainsFunc(l.Tops, func(top string) bool {
				number, id, _ := strings.Cut(top, " ")
				ours := number == fmt.Sprint(s.part.Number)
				here = here || ours
				return id == o.id && (ours || word)
			}) || word && len(l.Tops) > 0 && !here // the store did not answer to that person
		})
		if !p.told(s, o) {
			continue
		}
		if !open && !adopted {
			w.broken("law 4", "law 4: a part went onto the current shelf of %s above %s, of key %s, which is not this host's", s.name, o.id, of)
		}
		return
	}
}

// copied is law 4 for a machine whose ledger another one wrote last: both would write to the
// same place, and until a person accepts this one, only quarantine is written.
func (w *world) copied(h *host, lines []line, store string) {
	for _, l := range slices.Backward(lines) {
		switch {
		case l.Event == "accepted" && l.Machine == h.name:
			return
		case l.Machine != "" && l.Machine != h.name:
			w.broken("law 4", "law 4: a copy went onto the current shelf of %s from %s, which is a copy of %s", store, h.name, l.Machine)
			return
		}
	}
}

// newest tells whether a copy is the newest of its store's current shelf that is a key.
func newest(s *store, c stored) bool {
	for _, o := range slices.Backward(s.copies) {
		if o.shelf != escrow.Current {
			continue
		}
		if o.whole() != "" && s.part == (escrow.PartOf{}) && o.state != "destroyed" && s.lists(o, time.Now()) {
			return o.id == c.id
		}
	}
	return false
}

// placed is law 5 for a key that keyguard says it has put into the keyfile's place.
func (w *world) placed(h *host, f key.Fingerprint) {
	if data, good := h.live(); good && laws.Name(data) == f && h.off.IsZero() {
		w.hold(laws.Durable(map[string][]byte{h.keyfile(): data}, h.disk.survivors()))
	}
}

// made is a key that a process of keyguard made of itself: a first start. What a store showed only
// after it had answered nobody was told of.
func (w *world) made(p *process, f key.Fingerprint) {
	h, asked := p.h, time.Now()
	for _, shown := range p.shown {
		if shown.Before(asked) {
			asked = shown
		}
	}
	s := w.stateFor(h, asked)
	delete(s.Files, h.keyfile())
	s.Copies = slices.DeleteFunc(s.Copies, func(c laws.Copy) bool { return c.Late })
	w.hold(laws.Minted(s, f))
	if h.damaged() {
		w.broken("law 2", "law 2: key %s was made where the ledger is damaged, and may have named another", f)
	}
	for _, l := range h.ledger() {
		if l.Fingerprint != f && (l.saved() || l.Event == "proven" || l.Event == "accepted") {
			w.broken("law 2", "law 2: key %s was made where the ledger names key %s", f, l.Fingerprint)
		}
	}
	w.everywhere(h, f)
}

// everywhere is law 5 for a first key that came to the keyfile's place.
func (w *world) everywhere(h *host, f key.Fingerprint) {
	for _, store := range h.stores {
		if store.part == (escrow.PartOf{}) && !slices.ContainsFunc(store.copies, func(c stored) bool { return laws.Name(c.bytes) == f }) && !store.optional {
			w.broken("law 5", "law 5: key %s was made, and %s does not hold it", f, store.name)
		}
	}
}

// line is what the checker reads of an entry of the ledger.
type line struct {
	Event, Escrow, Copy, Shelf, Verdict string
	Reason                              string
	Tops                                []string
	Machine                             string
	Fingerprint                         key.Fingerprint
	Checked, Opened                     int64
	Time                                time.Time
	Rotation                            any
	Stopped                             any `json:"daemon_stopped"`
}

func (l line) saved() bool { return l.Event == "saved" || l.Event == "adopted" }

// ledger is what stands in the ledger's file. It is not to be changed.
func (h *host) ledger() (lines []line) {
	f := h.disk.names[h.path("state/"+ledger.Name)]
	if f == nil {
		return nil
	}
	if h.read.number == f.number && h.read.written == f.written {
		return h.read.lines
	}
	rest := f.data
	if more, longer := bytes.CutPrefix(f.data, h.read.data); longer && bytes.HasSuffix(h.read.data, []byte("\n")) {
		rest, lines = more, h.read.lines
	}
	defer func() {
		h.read.number, h.read.written, h.read.data, h.read.lines = f.number, f.written, f.data[:len(f.data):len(f.data)], lines
	}()
	for text := range bytes.Lines(rest) {
		l, read := h.w.lines[string(text)]
		if !read && (!bytes.HasSuffix(text, []byte("}\n")) || json.Unmarshal(text, &l) != nil) {
			continue
		}
		if !read {
			h.w.lines[string(text)] = l
		}
		lines = append(lines, l)
	}
	return lines
}

// knows tells whether the rows here proved a key, by a ledger that is whole, and nothing has spoken
// since for another one or against it.
func (h *host) knows(f key.Fingerprint) bool {
	if h.damaged() {
		return false
	}
	for _, l := range slices.Backward(h.ledger()) {
		switch {
		case l.Event == "proven":
			return l.Fingerprint == f && 2*l.Opened > l.Checked
		case l.Event == "accepted", l.Event == "contradicted" && l.Fingerprint == f, l.Event == "rotation-closed" && l.Fingerprint == "":
			return false
		}
	}
	return false
}

// damaged tells whether what the ledger's file began with cannot be read.
func (h *host) damaged() bool {
	f := h.disk.names[h.path("state/"+ledger.Name)]
	return f != nil && !bytes.HasPrefix(f.data, []byte("{"))
}

// minted is a key that the daemon made when it was due to read one. It may be later by now:
// what another host waited for took its time, and nobody else had a turn.
func (w *world) minted(h *host, f key.Fingerprint, due time.Time) {
	// What was taken away within the second before, or with nobody there, nobody can put back.
	if t := due.Add(-time.Second); h.removed.Before(t) && h.watcher.alive && h.watcher.since.Before(t) {
		s := w.state(h)
		delete(s.Files, h.keyfile())
		s.Copies = slices.DeleteFunc(s.Copies, func(c laws.Copy) bool { return c.Late }) // nobody is told of them
		w.hold(laws.Minted(s, f))
	}
}
