package hooks

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// backoffFile stands in the runtime directory, 0600, and goes with it at a reboot.
const backoffFile = "backoff.json"

// mostMemory bounds it, in bytes: thousands of copies.
const mostMemory = 16 << 20

// memory is what one start, or round of the watcher, leaves for the next: when each escrow was
// asked, and what it answered. Fingerprints only, never a key.
type memory struct {
	Boot    string                   `json:"boot"`
	About   string                   `json:"about"` // the keyfile and the configuration it was learnt with
	Escrows map[string]*escrowMemory `json:"escrows"`

	path  string
	since time.Duration
	asked bool // by this start
	lock  sync.Mutex
}

type escrowMemory struct {
	Calls    int                   `json:"calls"` // in a row, without a pause of forget
	Last     time.Duration         `json:"last"`  // since boot
	Next     time.Duration         `json:"next"`  // since boot
	Answered bool                  `json:"answered"`
	Latest   bool                  `json:"latest,omitempty"` // it gave its newest copy, and was asked for no list
	Error    string                `json:"error,omitempty"`
	Copies   []escrow.Copy         `json:"copies,omitempty"`
	Fetched  map[string]fetchedKey `json:"fetched,omitempty"` // by the copy's id
}

// calls is how many calls in a row there were; none where nothing is remembered.
func (e *escrowMemory) calls() int {
	if e == nil {
		return 0
	}
	return e.Calls
}

// answers tells whether the store answered: a start that waited for the one that asked has not
// got the copies of that, and asks for them.
func (e *escrowMemory) answers() bool { return e.Answered || e.Latest }

// fetchedKey is when a copy was asked for last, and what that said of it: of one before
// the last List, nothing.
type fetchedKey struct {
	At    time.Duration   `json:"at"` // since boot
	Key   key.Fingerprint `json:"key,omitempty"`
	Class string          `json:"class,omitempty"` // of the error, see classes
	Error string          `json:"error,omitempty"`
}

// classes are the errors that say something of a copy; others say it of the store.
var classes = map[string]error{
	"not a key":  escrow.ErrNotKey,
	"unreadable": escrow.ErrUnreadable,
	"damaged":    escrow.ErrCorrupt,
	"sealed":     escrow.ErrSealed,
}

// recall reads what earlier starts left, unless it is of another boot, another keyfile
// or another configuration, or cannot be read.
func recall(runDir, about string, clock Clock) *memory {
	boot, since := clock()
	path := filepath.Join(runDir, backoffFile)
	m := &memory{}
	data, err := readMemory(path)
	// No boot: the clock could not be read, and no time would ever pass.
	if err != nil || json.Unmarshal(data, m) != nil || boot == "" || m.Boot != boot || m.About != about {
		m = &memory{Boot: boot, About: about}
	}
	if m.Escrows == nil {
		m.Escrows = map[string]*escrowMemory{}
	}
	for name, e := range m.Escrows {
		if e == nil || since-e.Last > forget || since < e.Last {
			delete(m.Escrows, name)
		}
	}
	m.path, m.since = path, since
	return m
}

func readMemory(path string) ([]byte, error) {
	return crew.Read(path, mostMemory)
}

// save is not synced: what a crash of the machine loses, a reboot would have lost.
func (m *memory) save() error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	path := m.path
	return crew.Try(filepath.Dir(path), func() error {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		temp := fmt.Sprintf("%s.%d", path, os.Getpid())
		if err := os.WriteFile(temp, data, 0o600); err != nil {
			return err
		}
		return os.Rename(temp, path)
	})
}

// reload takes in what another process has left of one escrow since.
func (m *memory) reload(name string) {
	data, err := readMemory(m.path)
	left := &memory{}
	m.lock.Lock()
	defer m.lock.Unlock()
	if err == nil && json.Unmarshal(data, left) == nil && left.Boot == m.Boot && left.About == m.About && left.Escrows[name] != nil {
		m.Escrows[name] = left.Escrows[name]
	}
}

// escrow is what is remembered of one, or nil.
func (m *memory) escrow(name string) *escrowMemory {
	m.lock.Lock()
	defer m.lock.Unlock()
	return m.Escrows[name]
}

// remember keeps for the next time what was answered, or forgets all of it where a key
// was put in place: the keyfile is another one now, and what the escrows hold may be too.
// Also where the watcher only decided that (TendResult.Withheld): the next start must not be
// kept from asking. Not where the install failed (ErrNotPlaced), as it may fail again at every
// start (law 9).
func remember(m *memory, r *agent.GuardResult, failed error) {
	var err error
	switch {
	case !errors.Is(failed, agent.ErrNotPlaced) && (r.Decision.Action == decide.Install || r.Decision.Action == decide.Make):
		err = m.forget()
	case m.asked:
		err = m.save()
	}
	if err != nil {
		r.Trouble = append(r.Trouble, agent.Trouble{What: "cannot remember for the next time what the escrows answered", Err: err})
	}
}

// recalled is the earlier listing, with what the fetches found out.
func (e *escrowMemory) recalled() []escrow.Copy {
	copies := append([]escrow.Copy(nil), e.Copies...)
	for i := range copies {
		if f, ok := e.Fetched[copies[i].ID]; ok && f.Key != "" {
			copies[i].Fingerprint = f.Key
		}
	}
	return copies
}

// ForgetBackoff lets the next start ask every escrow at once: what a person did may
// have changed their answers.
func ForgetBackoff(runDir string) error {
	return (&memory{path: filepath.Join(runDir, backoffFile)}).forget()
}

func (m *memory) forget() error {
	err := crew.Try(filepath.Dir(m.path), func() error { return os.Remove(m.path) })
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Clock tells the time since boot, suspension included, and which boot that is.
type Clock func() (boot string, since time.Duration)

// BootClock reads CLOCK_BOOTTIME (clock_gettime(2)): no correction of the time of day
// makes it jump.
func BootClock() (string, time.Duration) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return "", 0
	}
	return unit.BootID(), time.Duration(t.Nano())
}

// remembered is an error of an earlier start.
type remembered struct {
	text  string
	class error
}

func (r remembered) Error() string { return r.text }
func (r remembered) Unwrap() error { return r.class }
