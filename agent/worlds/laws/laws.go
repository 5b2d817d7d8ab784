// Package laws says what must never be, and what must be in the end: the laws of design §2
// as a checker that knows disks, shelves, rows and what the daemon did, and nothing of how
// keyguard keeps them. It imports of agent what a key is, and no more.
package laws

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// State is all that counts of a world at one moment.
type State struct {
	Files  map[string][]byte // of all hosts, by path
	Copies []Copy            // of all stores, oldest first within one
	Rows   map[string]key.Fingerprint
}

// Copy is what one store has.
type Copy struct {
	Store     string
	Current   bool // else it is in quarantine
	Bytes     []byte
	Destroyed bool // nothing brings it back
	Shut      bool // nobody is given its bytes
	Late      bool // no listing shows it yet
	// Of is the key of which it is parts, enough of them where Bytes has that key.
	Of key.Fingerprint
}

// names are those of the texts that were seen, which come again and again.
var (
	namesLock sync.Mutex
	names     = map[string]key.Fingerprint{}
)

// longest is how many bytes a key has at most, as a sheet of words.
const longest = 4 << 10

// Name is the fingerprint of the key that a text is in whatever encoding, "" where it is none.
func Name(b []byte) key.Fingerprint {
	// A line of the ledger is no key, and it has many; nor is what is left of one that was torn.
	if len(b) > longest || bytes.HasPrefix(b, []byte(`{"seq":`)) {
		return ""
	}
	namesLock.Lock()
	defer namesLock.Unlock()
	f, seen := names[string(b)]
	if seen {
		return f
	}
	if k, _, err := key.Decode(b); err == nil {
		f = k.Fingerprint()
		k.Wipe()
	}
	names[string(b)] = f
	return f
}

// Forget forgets the texts that were seen, after a world.
func Forget() {
	namesLock.Lock()
	defer namesLock.Unlock()
	clear(names)
}

// Held are the keys that can still be had, and the store or the file that has each.
func (s State) Held() map[key.Fingerprint]string {
	held := map[key.Fingerprint]string{}
	for _, c := range s.Copies {
		if f := Name(c.Bytes); f != "" && !c.Destroyed {
			held[f] = c.Store
		}
	}
	for path, b := range s.Files {
		if f := Name(b); f != "" {
			held[f] = path
		}
	}
	return held
}

// Lost is law 3: what keyguard did left every key somewhere. A key that only a file had which nobody
// had synced, since others wrote it or who wrote it has died, may go with a power cut.
func Lost(was, held map[key.Fingerprint]string, fragile map[key.Fingerprint]bool) error {
	for _, f := range slices.Sorted(maps.Keys(was)) {
		if held[f] == "" && !fragile[f] {
			return fmt.Errorf("law 3: key %s, which %s had, is nowhere any more", f, was[f])
		}
	}
	return nil
}

// opens counts the rows under a key.
func (s State) opens(f key.Fingerprint) (n int) {
	for _, under := range s.Rows {
		if under == f {
			n++
		}
	}
	return n
}

// Unheld is a key that rows are under and that can be had nowhere, "" for none.
func (s State) Unheld() key.Fingerprint {
	held := s.Held()
	for _, row := range slices.Sorted(maps.Keys(s.Rows)) {
		if f := s.Rows[row]; held[f] == "" {
			return f
		}
	}
	return ""
}

// Saved is law 4 for a copy that keyguard has just put on a current shelf. rival is a key
// that was proven on this host before, or stands on a current shelf, and is another one.
func Saved(s State, f, rival key.Fingerprint, rotating bool) error {
	opened, all := s.opens(f), len(s.Rows)
	switch {
	case rotating:
		return fmt.Errorf("law 4: key %s went to a current shelf while a rotation is open", f)
	case all > 0 && 2*opened <= all:
		return fmt.Errorf("law 4: key %s, which opens %d of %d rows, went to a current shelf", f, opened, all)
	case all == 0 && rival != "":
		return fmt.Errorf("law 4: key %s went to a current shelf while no row speaks for it, and key %s was proven here or stands on one", f, rival)
	}
	return nil
}

// Minted is law 2, for a key that the daemon or keyguard made of itself.
func Minted(s State, f key.Fingerprint) error {
	for _, row := range slices.Sorted(maps.Keys(s.Rows)) {
		if s.Rows[row] != f {
			return fmt.Errorf("law 2: key %s was minted over row %s, which is under key %s", f, row, s.Rows[row])
		}
	}
	for _, c := range s.Copies {
		if other := cmp.Or(Name(c.Bytes), c.Of); other != "" && other != f {
			return fmt.Errorf("law 2: key %s was minted while %s holds a copy of key %s", f, c.Store, other)
		}
	}
	return nil
}

// Started is laws 1 and 2 above law 9: the daemon was let start on the key f though the
// rows answered this very start. sure says that every escrow has answered too. vouched is
// what a person accepted, with what it opened then, -1 for nothing.
func Started(s State, f key.Fingerprint, sure bool, vouched int) error {
	opened, all := s.opens(f), len(s.Rows)
	if all == 0 || vouched >= 0 && opened >= vouched {
		return nil
	}
	if opened == 0 {
		return fmt.Errorf("law 1: the daemon was started on key %s, which had just opened none of %d rows", f, all)
	}
	if !sure {
		return nil
	}
	for _, other := range slices.Sorted(maps.Keys(s.Held())) {
		if n := s.opens(other); n > opened {
			return fmt.Errorf("law 1: the daemon was started on key %s, which opens %d of %d rows; key %s, which was at hand, opens %d", f, opened, all, other, n)
		}
	}
	return nil
}

// Green holds status to its best word: on a host whose keyfile is so, all is well. The newest
// current copy of every store is the keyfile's key as its bytes, and opens most of the rows.
func Green(s State, keyfile []byte) error {
	f := Name(keyfile)
	if all := len(s.Rows); all > 0 && 2*s.opens(f) <= all {
		return fmt.Errorf("green: the keyfile's key %q opens %d of %d rows", f, s.opens(f), all)
	}
	newest := map[string]Copy{}
	for _, c := range s.Copies {
		if c.Current {
			newest[c.Store] = c
		}
	}
	for _, store := range slices.Sorted(maps.Keys(newest)) {
		if c := newest[store]; c.Shut || len(c.Bytes) != key.Size || Name(c.Bytes) != f {
			return fmt.Errorf("green: the newest current copy in %s is key %q and not %s, or cannot be had", store, Name(c.Bytes), f)
		}
	}
	return nil
}

// Rewritten is law 5 at the moment in which rows are brought under the key f, from others:
// all of these can be had from a store whatever becomes of the host, and f from the host's
// disk whatever becomes of the stores, the power cut just now. disk is what survives that.
func Rewritten(s State, disk [][]byte, f key.Fingerprint, from []key.Fingerprint) error {
	stored := State{Copies: s.Copies}.Held()
	for _, each := range append([]key.Fingerprint{f}, from...) {
		if stored[each] == "" {
			return fmt.Errorf("law 5: rows come under key %s, and no store holds key %s", f, each)
		}
	}
	if !slices.ContainsFunc(disk, func(b []byte) bool { return Name(b) == f }) {
		return fmt.Errorf("law 5: rows come under key %s, and a power cut now would take it from the host", f)
	}
	return nil
}

// Durable is law 5 when a process of keyguard has said that it is done: what it relies on
// next is what a power cut leaves.
func Durable(live, survives map[string][]byte) error {
	for _, path := range slices.Sorted(maps.Keys(live)) {
		if b, there := survives[path]; !there || !bytes.Equal(b, live[path]) {
			return fmt.Errorf("law 5: a power cut now would take %s as it is", path)
		}
	}
	return nil
}

// Destroyed is law 3 for a file that keyguard takes away: the key in it stays on the host,
// whatever becomes of the stores. rest is what a power cut leaves without that file.
func Destroyed(path string, content []byte, rest map[string][]byte) error {
	f := Name(content)
	if f == "" {
		return nil
	}
	for other, b := range rest {
		if other != path && Name(b) == f {
			return nil
		}
	}
	return fmt.Errorf("law 3: key %s is destroyed with %s", f, path)
}

// Asked is law 9 towards a store which the starts of one host asked for its list, in one boot
// and with nothing changed: the pause before the nth call in a row is long enough. The first
// is free, and after ten minutes without one the next is a first one again.
func Asked(store string, n int, pause time.Duration) error {
	least := 5 * time.Second << min(max(n-2, 0), 10)
	if least = min(least, 2*time.Minute); n > 1 && pause < least {
		return fmt.Errorf("law 9: %s was asked by %d starts in a row, the last time after %s and not %s", store, n, pause, least)
	}
	return nil
}

// Called is law 9 towards a store that one start calls: once for its list and once for its
// newest copy, once for each copy, and, where it is given a first key, to compare, to save, and to
// see that no other key came meanwhile. Where what it had seen changed under it, it looks at all once more.
func Called(store string, calls, copies, looks int) error {
	if calls > looks*(5+copies) {
		return fmt.Errorf("law 9: %s was called %d times by one start, which had to look %d times, and has %d copies", store, calls, looks, copies)
	}
	return nil
}

// Rested is law 9 towards a store in an hour in which all was well: it was asked whether it is
// there, and for what it has on top, and nothing else. No key was brought to it.
func Rested(store string, calls, saves, copies int) error {
	if saves > 0 {
		return fmt.Errorf("law 9: %s was given a key %d times in an hour in which all was well", store, saves)
	}
	if calls > 2*(2+copies) {
		return fmt.Errorf("law 9: %s was called %d times in an hour in which all was well, and has %d copies", store, calls, copies)
	}
	return nil
}

// Lacking is law 6 for whoever says that all is lost: no store has a copy, that can be had
// now or later, of a key that opens a row.
func Lacking(s State) error {
	for _, c := range s.Copies {
		if f := cmp.Or(Name(c.Bytes), c.Of); f != "" && !c.Late && !c.Destroyed && s.opens(f) > 0 {
			return fmt.Errorf("law 6: all is said to be lost, and %s has key %s, which opens %d of %d rows", c.Store, f, s.opens(f), len(s.Rows))
		}
	}
	return nil
}
