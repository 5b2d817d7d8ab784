package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

// operation is what the tests interrupt: it changes key and rows, each step durable
// before the next.
type operation interface {
	// rows fills an empty table. What they say is "v", for the tenant "tenant".
	rows(*rowstest.Database) error
	// furnish puts keys where the operation finds them. Where more than this process is to
	// be lost, no key is on this host alone.
	furnish(h *agent.Host, lost bool) error
	// run tells whether it did what it is for.
	run(context.Context, *agent.Host) (done bool, err error)
	// check is what must be wherever the daemon is given a key.
	check(*agent.Host, opener) error
	// again runs it to its end, and checks that it is.
	again(*agent.Host, opener) error
}

// opener is a database or a session of it.
type opener interface {
	Secrets(...key.Key) (map[string]rowstest.Secret, error)
}

type namedOperation struct {
	name  string
	share int // of so many interruptions one is tried; make soak tries all
	operation
}

// Shares have no factor in common with the number of ways to come up again.
var operations = []namedOperation{
	{"rotation", 1, rotation{testKey("old")}},
	{"repair", 7, repair{target: testKey("most rows"), other: testKey("other"), older: testKey("older")}},
	{"repair over a minted key", 7, repair{target: testKey("most rows"), other: testKey("other"), older: testKey("older"), minted: true}},
}

// put puts a key where the daemon reads it.
func put(h *agent.Host, k key.Key) error { return os.WriteFile(h.Keyfile.Path, k.UnsafeBytes(), 0o400) }

// prove makes a key the known one.
func prove(h *agent.Host, k key.Key) error {
	return h.Ledger.Append(ledger.Entry{Event: ledger.Proven, Fingerprint: k.Fingerprint(), Verdict: string(rows.Opens), Checked: 4, Opened: 4})
}

// save puts a key on the current shelf of every escrow.
func save(h *agent.Host, k key.Key) error {
	for _, e := range h.Escrows {
		c, err := e.Writer.Save(context.Background(), escrow.Current, k)
		if err == nil {
			err = h.Ledger.Append(ledger.Entry{Event: ledger.Saved, Fingerprint: k.Fingerprint(), Escrow: e.Name(), Copy: c.ID, Shelf: string(escrow.Current)})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// live is the key that the daemon would read.
func live(h *agent.Host) (key.Key, error) {
	content, err := os.ReadFile(h.Keyfile.Path)
	if err != nil {
		return key.Key{}, err
	}
	return key.New(content)
}

// open opens all rows, by an opener that shares no code with package rows. None is lost
// to all of the keys, and they say what they said. The daemon writes more meanwhile.
func open(db opener, least int, keys ...key.Key) (map[string]rowstest.Secret, error) {
	secrets, err := db.Secrets(keys...)
	if err != nil {
		return nil, err
	}
	said := 0
	for name, s := range secrets {
		if s.Key == "" {
			return nil, fmt.Errorf("%q opens under none of the keys %v", name, keys)
		}
		if strings.HasPrefix(name, "tenant\x00") {
			if said++; s.Value != "v" {
				return nil, fmt.Errorf("%q says %q", name, s.Value)
			}
		}
	}
	if said != least {
		return nil, fmt.Errorf("of %d rows %d are left", least, said)
	}
	return secrets, nil
}

// quiet waits until nobody is left of a pool's clients, and no session that is kept does
// anything, or holds anything: the server takes a moment to notice that somebody has ended.
func quiet(db *rowstest.Session, clients func() int) error {
	for deadline := time.Now().Add(2 * time.Minute); ; {
		there, err := db.Exec(`select application_name || ' ' || state from pg_stat_activity a
			where datname = current_database() and application_name like 'keyguard%'
			and (state <> 'idle' or exists (select from pg_locks l where l.pid = a.pid))`)
		if n := clients(); err != nil || len(there) == 0 && n == 0 {
			return err
		} else if time.Now().After(deadline) {
			return fmt.Errorf("sessions do not end: %v, and %d of the pool's", there, n)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// escrowed fails unless each key is on an escrow.
func escrowed(h *agent.Host, keys ...key.Key) error {
	there := map[key.Fingerprint]bool{}
	for _, e := range h.Escrows {
		copies, err := e.List(context.Background())
		if err != nil {
			return err
		}
		for _, c := range copies {
			there[fingerprint(e, c)] = true
		}
	}
	for _, k := range keys {
		if !there[k.Fingerprint()] {
			return fmt.Errorf("key %s is on no escrow", k.Fingerprint())
		}
	}
	return nil
}

// rotation is of a host where all is well: the key is in place, known, and on the
// current shelves.
type rotation struct{ old key.Key }

const rotationRows = 4

func (r rotation) rows(db *rowstest.Database) error {
	for i := range rotationRows - 1 {
		if err := db.Upsert(r.old, "tenant", fmt.Sprint("SECRET_", i), []byte("v")); err != nil {
			return err
		}
	}
	return db.UpsertEnvelope(r.old, "tenant", "WRAPPED", []byte("v"))
}

func (r rotation) furnish(h *agent.Host, _ bool) error {
	return errors.Join(put(h, r.old), prove(h, r.old), save(h, r.old))
}

func (rotation) run(ctx context.Context, h *agent.Host) (bool, error) {
	r, err := agent.Rotate(ctx, h, agent.RotateOptions{})
	return r.Rotated, err
}

// The keyfile's key opens every row, and is on an escrow.
func (rotation) check(h *agent.Host, db opener) error {
	k, err := live(h)
	if err != nil {
		return err
	}
	if _, err := open(db, rotationRows, k); err != nil {
		return fmt.Errorf("key %s is in place: %w", k.Fingerprint(), err)
	}
	return escrowed(h, k)
}

func (r rotation) again(h *agent.Host, db opener) error {
	before, err := live(h)
	if err != nil {
		return err
	}
	for _, e := range h.Escrows { // as the watcher does
		if _, err := agent.SaveDue(context.Background(), h, e.Name()); err != nil {
			return err
		}
	}
	if done, err := r.run(context.Background(), h); err != nil || !done {
		return fmt.Errorf("a second rotation: %v", err)
	}
	if after, err := live(h); err != nil || after.Equal(before) {
		return fmt.Errorf("the second rotation changed nothing: %v", err)
	}
	return r.check(h, db)
}

// repair is of a host whose table is split between three keys. The target has the most
// rows, is known and on the current shelves; an older one is in the history of the last
// escrow; the other is on this host alone, if nothing of that is to be lost: in the local
// quarantine, or minted, and then it stands in the keyfile's place.
type repair struct {
	target, other, older key.Key
	minted               bool
}

// More rows are under target than under other, whatever the daemon adds.
const (
	targetRows = 10
	otherRows  = 2
	olderRows  = 1
	repairRows = targetRows + otherRows + olderRows
)

// Names begin with what tells the key.
func (r repair) rows(db *rowstest.Database) error {
	for _, under := range []struct {
		name string
		key  key.Key
		rows int
	}{{"TARGET", r.target, targetRows}, {"OTHER", r.other, otherRows}, {"OLDER", r.older, olderRows}} {
		for i := range under.rows {
			upsert := db.Upsert
			if i == 1 {
				upsert = db.UpsertEnvelope
			}
			if err := upsert(under.key, "tenant", fmt.Sprint(under.name, "_", i), []byte("v")); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r repair) furnish(h *agent.Host, lost bool) error {
	last := h.Escrows[len(h.Escrows)-1]
	_, err := last.Writer.Save(context.Background(), escrow.Current, r.older)
	err = errors.Join(err, prove(h, r.target), save(h, r.target), put(h, r.begins()))
	if lost {
		_, lerr := h.Escrows[0].Writer.Save(context.Background(), escrow.Quarantine, r.other)
		return errors.Join(err, lerr)
	}
	if !r.minted {
		err = errors.Join(err, h.Keyfile.Keep(r.other, h.Now()))
	}
	return err
}

// begins is the key in the keyfile's place.
func (r repair) begins() key.Key {
	if r.minted {
		return r.other
	}
	return r.target
}

func (repair) run(ctx context.Context, h *agent.Host) (bool, error) {
	r, err := agent.Repair(ctx, h, agent.RepairOptions{})
	return r.Repaired, err
}

// The rows are all as they were, under the keyfile's key of before or the target; or they
// are all under the target, this is in place, and the other keys are on an escrow.
func (r repair) check(h *agent.Host, db opener) error {
	k, err := live(h)
	if err != nil {
		return err
	}
	secrets, err := open(db, repairRows, r.target, r.other, r.older)
	if err != nil {
		return err
	}
	moved := 0
	for name, s := range secrets {
		was := r.target
		switch tenant, name, _ := strings.Cut(name, "\x00"); {
		case tenant != "tenant":
			continue // under what the daemon had at the time
		case strings.HasPrefix(name, "OTHER"):
			was = r.other
		case strings.HasPrefix(name, "OLDER"):
			was = r.older
		}
		switch s.Key {
		case was.Fingerprint():
		case r.target.Fingerprint():
			moved++
		default:
			return fmt.Errorf("%q was under key %s and is under key %s", name, was.Fingerprint(), s.Key)
		}
	}
	switch {
	case moved == 0 && !k.Equal(r.begins()) && !k.Equal(r.target):
		return fmt.Errorf("key %s is in place, which was not, and does not open the most rows", k.Fingerprint())
	case moved == 0:
		return nil
	case moved != otherRows+olderRows || !k.Equal(r.target):
		return fmt.Errorf("key %s is in place, and %d rows came under key %s", k.Fingerprint(), moved, r.target.Fingerprint())
	}
	if _, err := open(db, repairRows, r.target); err != nil {
		return fmt.Errorf("after the repair: %w", err)
	}
	return escrowed(h, r.target, r.other, r.older)
}

func (r repair) again(h *agent.Host, db opener) error {
	if done, err := r.run(context.Background(), h); err != nil {
		return fmt.Errorf("a second repair, done: %v: %w", done, err)
	}
	if k, err := live(h); err != nil || !k.Equal(r.target) {
		return fmt.Errorf("after a second repair key %s is in place: %v", k.Fingerprint(), err)
	}
	if _, err := open(db, repairRows, r.target); err != nil {
		return fmt.Errorf("after a second repair: %w", err)
	}
	for _, e := range h.Escrows { // law 4
		copies, err := e.List(context.Background())
		if err != nil {
			return err
		}
		if len(copies) == 0 || copies[0].Shelf != escrow.Current || fingerprint(e, copies[0]) != r.target.Fingerprint() {
			return fmt.Errorf("after a second repair the newest current copy in %q is not of key %s: %v", e.Name(), r.target.Fingerprint(), copies)
		}
	}
	return escrowed(h, r.other, r.older)
}
