package worlds

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/worlds/laws"
)

// world is one history as it goes on.
type world struct {
	hosts   []*host
	stores  []*store
	rand    *rand.Rand // of the step that is played
	epoch   time.Time
	running []*process // the innermost last
	mu      sync.Mutex // of effects, which come from several goroutines
	turn    sync.Mutex // of the stores' answers, likewise
	telling sync.Mutex // of the story

	keys    map[key.Fingerprint]key.Key         // all that ever were
	known   []key.Key                           // the same, in the order in which they came
	fragile map[key.Fingerprint]bool            // only ever in files of others that nobody synced
	proven  map[string]map[key.Fingerprint]bool // by host: which opened all rows to a process of ours
	vouched map[string]vouched                  // by host
	printed []key.Key                           // on paper
	mortal  int                                 // the next process that is started by itself dies before this effect

	version int  // of all that anybody can see
	killed  bool // who dies is killed, and the power stays
	calm    bool // nothing happens any more but what keyguard does
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

// Broken is a law that was.
type Broken struct {
	Law   string
	What  string
	Story string
}

func (b *Broken) Error() string { return b.What + "\n" + b.Story }

// Run plays a plan below dir, which must be on a tmpfs and is emptied, and returns what
// happened and the first law that was broken, nil for none. It must be called in a bubble of
// testing/synctest, by one goroutine at a time in the whole process.
func Run(p Plan, dir string) (story []string, broken *Broken) {
	w := &world{epoch: time.Now(), keys: map[key.Fingerprint]key.Key{}, fragile: map[key.Fingerprint]bool{},
		proven: map[string]map[key.Fingerprint]bool{}, vouched: map[string]vouched{}}
	durable.Disk = w.disk
	defer func() {
		durable.Disk = nil
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
	w.rand = rand.New(rand.NewPCG(p.Seed, 1))
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
		w.stores = append(w.stores, &store{name: [...]string{"gcp", "vault", "usb"}[i], mute: w.rand.IntN(2) == 0})
	}
	h := w.host(filepath.Join(dir, "one"), "one")
	switch w.rand.IntN(6) {
	case 0: // a first start
		w.tell("a new host, %d stores", len(w.stores))
	default:
		k := w.makeKey()
		h.disk.put(h.keyfile(), k.UnsafeBytes(), 0o400)
		for i := range 1 + w.rand.IntN(9) {
			h.table.write(fmt.Sprint("row ", i), k.Fingerprint())
		}
		w.tell("a host with key %s, %d rows, %d stores", k.Fingerprint(), len(h.table.rows), len(w.stores))
	}
	h.disk.sync()
	w.watch(h)
	w.start(h) //nolint:errcheck // it tells
	w.pass(20 * time.Second)
}

func (w *world) host(root, name string) *host {
	must(os.RemoveAll(root))
	h := &host{w: w, name: name, disk: newDisk(root), table: &table{rows: map[string]key.Fingerprint{}}, stores: w.stores}
	h.disk.mkdir(h.path("etc"))
	h.disk.mkdir(h.path("state"))
	must(os.MkdirAll(h.path("run"), 0o700))
	h.disk.keep()
	w.hosts = append(w.hosts, h)
	return h
}

// disk is the durable.Disk of the process that runs.
func (w *world) disk(c durable.Change) error {
	if len(w.running) == 0 {
		return nil
	}
	p := w.running[len(w.running)-1]
	if !strings.HasPrefix(c.Path, p.h.disk.root+"/") {
		return nil // the checker's, or of a directory that no crash spares
	}
	if ours(c.Path) {
		return nil
	}
	if err := p.effect(fmt.Sprintf("%s %s", c.Do, strings.TrimPrefix(c.Path, p.h.disk.root))); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.version++
	p.wrote[c.Path], p.wrote[c.To] = true, true
	return p.h.disk.ask(c)
}

func (w *world) tell(format string, args ...any) {
	w.telling.Lock()
	defer w.telling.Unlock()
	line := strings.ReplaceAll(fmt.Sprintf(format, args...), w.hosts[0].disk.root, "")
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

func (w *world) broken(law, format string, args ...any) {
	if w.wrong == nil {
		w.wrong = &Broken{Law: law, What: fmt.Sprintf(format, args...)}
		w.tell("BROKEN: %s", w.wrong.What)
	}
}

func (w *world) hold(err error) {
	if err != nil {
		law, _, _ := strings.Cut(err.Error(), ":")
		w.broken(law, "%v", err)
	}
}

func (w *world) makeKey() key.Key {
	k := key.Generate()
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
	s := laws.State{Files: map[string][]byte{}, Rows: h.table.rows}
	for _, each := range w.hosts {
		for path, f := range each.disk.names {
			s.Files[path] = f.data
		}
	}
	for _, each := range w.stores {
		if each.gone {
			continue
		}
		for _, c := range each.copies {
			s.Copies = append(s.Copies, laws.Copy{Store: each.name, Current: c.shelf == escrow.Current, Bytes: c.bytes, Destroyed: c.state == "destroyed", Shut: c.state != "",
				Late: time.Now().Before(c.at.Add(each.late))})
		}
	}
	return s
}

// held are the keys that can be had in the world.
func (w *world) held() map[key.Fingerprint]string { return w.state(w.hosts[0]).Held() }

// judge holds what a process has done to the laws.
func (w *world) judge(p *process, before map[key.Fingerprint]string) {
	after := w.held()
	w.hold(laws.Lost(before, after, w.fragile))
	if h := p.h; !p.dead && h.disk.well() && h.off.IsZero() {
		relied := map[string][]byte{}
		for path, f := range h.disk.names {
			if p.wrote[path] && (path == h.path("state/"+ledger.Name) || filepath.Dir(path) == h.path("state/quarantine") && !strings.HasPrefix(filepath.Base(path), durable.TempPrefix)) {
				relied[path] = f.data
			}
		}
		w.hold(laws.Durable(relied, h.disk.survivors()))
	}
	for f := range after {
		if w.fragile[f] && w.durable(f) {
			delete(w.fragile, f)
		}
	}
}

// opens notes that a key opened all rows of a host.
func (w *world) opens(h *host, f key.Fingerprint) {
	if w.proven[h.name] == nil {
		w.proven[h.name] = map[key.Fingerprint]bool{}
	}
	w.proven[h.name][f] = true
}

// durable tells whether a power cut would leave the key.
func (w *world) durable(f key.Fingerprint) bool {
	for _, s := range w.stores {
		for _, c := range s.copies {
			if k, err := c.key(); err == nil && k.Fingerprint() == f && c.state != "destroyed" {
				return true
			}
		}
	}
	for _, h := range w.hosts {
		for _, b := range h.disk.survivors() {
			if k, _, err := key.Decode(b); err == nil && k.Fingerprint() == f {
				return true
			}
		}
	}
	return false
}

// saved is a copy that keyguard has just added.
func (w *world) saved(p *process, s *store, c stored) {
	k, err := c.key()
	if err != nil {
		w.broken("law 4", "law 4: what is no key went to %s", s.name)
		return
	}
	f := k.Fingerprint()
	w.version++
	if c.shelf != escrow.Current {
		return
	}
	w.alarm(p.h, s, c)
	// A key that was proven here goes on where the rows cannot be asked, and needs no more
	// while they are silent than that no stranger's copy is in the way.
	ours := w.proven[p.h.name]
	if !p.looked && ours[f] {
		return
	}
	rival := key.Fingerprint("")
	for other := range ours {
		if !ours[f] && other != f {
			rival = other
		}
	}
	for _, other := range p.h.stores {
		if other.gone {
			continue
		}
		for _, o := range other.copies {
			if k, err := o.key(); err == nil && o.id != c.id && o.shelf == escrow.Current && o.state == "" && k.Fingerprint() != f && (!ours[f] || !ours[k.Fingerprint()] && newest(other, o)) {
				rival = k.Fingerprint()
			}
		}
	}
	standing, err := ledger.Open(p.h.path("state"), ledger.Options{}).Standing()
	w.hold(laws.Saved(w.state(p.h), f, rival, err == nil && standing.Rotation != nil))
}

// alarm is law 4 where another host or a person writes: above their copy nothing goes to the
// current shelf. c has just gone there.
func (w *world) alarm(h *host, s *store, c stored) {
	lines := h.ledger()
	if !slices.ContainsFunc(lines, func(l line) bool { return l.saved() && l.Escrow == s.name && l.Shelf == string(escrow.Current) }) {
		return // an empty ledger raises no alarm
	}
	for _, o := range slices.Backward(s.copies) {
		k, err := o.key()
		if o.shelf != escrow.Current || o.id == c.id || o.state == "destroyed" || time.Now().Before(o.at.Add(s.late)) || err != nil && o.state == "" {
			continue
		}
		data, good := h.live()
		ours := slices.ContainsFunc(lines, func(l line) bool { return l.saved() && l.Escrow == s.name && l.Copy == o.id })
		if !ours && !(good && err == nil && bytes.Equal(k.UnsafeBytes(), data)) {
			w.broken("law 4", "law 4: a copy went onto the current shelf of %s above %s, which is not this host's", s.name, o.id)
		}
		return
	}
}

// newest tells whether a copy is the newest of its store's current shelf that is a key.
func newest(s *store, c stored) bool {
	for _, o := range slices.Backward(s.copies) {
		if o.shelf != escrow.Current {
			continue
		}
		if _, err := o.key(); err == nil && o.state != "destroyed" && !time.Now().Before(o.at.Add(s.late)) {
			return o.id == c.id
		}
	}
	return false
}

// placed is law 5 for a key that keyguard says it has put into the keyfile's place.
func (w *world) placed(h *host, f key.Fingerprint) {
	if data, good := h.live(); good && nameOf(data) == f && h.off.IsZero() {
		w.hold(laws.Durable(map[string][]byte{h.keyfile(): data}, h.disk.survivors()))
	}
}

// made is a key that keyguard made of itself: a first start.
func (w *world) made(h *host, f key.Fingerprint) {
	s := w.state(h)
	delete(s.Files, h.keyfile())
	s.Copies = slices.DeleteFunc(s.Copies, func(c laws.Copy) bool { return c.Late })
	w.hold(laws.Minted(s, f))
	for _, l := range h.ledger() {
		if l.Fingerprint != f && (l.saved() || l.Event == "proven" || l.Event == "accepted") {
			w.broken("law 2", "law 2: key %s was made where the ledger names key %s", f, l.Fingerprint)
		}
	}
	for _, store := range h.stores {
		if !slices.ContainsFunc(store.copies, func(c stored) bool { return nameOf(c.bytes) == f }) {
			w.broken("law 5", "law 5: key %s was made, and %s does not hold it", f, store.name)
		}
	}
}

func nameOf(data []byte) key.Fingerprint {
	k, _, err := key.Decode(data)
	if err != nil {
		return ""
	}
	defer k.Wipe()
	return k.Fingerprint()
}

// line is what the checker reads of an entry of the ledger.
type line struct {
	Event, Escrow, Copy, Shelf, Verdict string
	Fingerprint                         key.Fingerprint
	Time                                time.Time
	Rotation                            any
	Stopped                             any `json:"daemon_stopped"`
}

func (l line) saved() bool { return l.Event == "saved" || l.Event == "adopted" }

// ledger is what stands in the ledger's file.
func (h *host) ledger() (lines []line) {
	f := h.disk.names[h.path("state/"+ledger.Name)]
	if f == nil {
		return nil
	}
	for text := range bytes.Lines(f.data) {
		var l line
		if bytes.HasSuffix(text, []byte("}\n")) && json.Unmarshal(text, &l) == nil {
			lines = append(lines, l)
		}
	}
	return lines
}

// minted is a key that the daemon made.
func (w *world) minted(h *host, f key.Fingerprint) {
	// What was taken away within the last second, or with nobody there, nobody can put back.
	if t := time.Now().Add(-time.Second); h.removed.Before(t) && h.watcher.alive && h.watcher.since.Before(t) {
		s := w.state(h)
		delete(s.Files, h.keyfile())
		w.hold(laws.Minted(s, f))
	}
}
