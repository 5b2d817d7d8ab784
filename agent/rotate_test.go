package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

// TestRotationUnwritten: where the ledger could not take down that the rotation is done, it
// is open there, and the new key stays in quarantine until a start or the watcher has
// settled it by the rows (law 4).
func TestRotationUnwritten(t *testing.T) {
	t.Parallel() // it waits for the ledger
	r := rotation{testKey("old")}
	db := server.Cluster(t).Database(t)
	h := newHost(t, db, 2)
	h.must(r.rows(db))
	h.must(r.furnish(&h.Host, false))
	var held *lock.Lock
	starts := 0
	h.Daemon = agent.Daemon{
		Running: func(context.Context) ([]string, error) { return []string{"containarium.service"}, nil },
		Stop:    func(context.Context) error { return nil },
		Start:   func(context.Context, []string) error { starts++; return nil },
	}
	got, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{Progress: func(p agent.RotateProgress) {
		switch p.Step {
		case "putting the new key in place":
			var err error
			held, err = lock.Try(h.StateDir, lock.Ledger)
			h.must(err)
		case "saving the key as the current one":
			held.Release()
		}
	}})
	if err != nil || !got.Rotated || len(got.Trouble) == 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, s := range got.Saved.Escrows {
		if s.Shelf != escrow.Quarantine || s.Key != got.New || s.Err != nil {
			t.Errorf("%+v", s)
		}
	}
	_, err = agent.Tend(t.Context(), &h.Host, agent.TendOptions{Prove: true, DaemonRead: true})
	h.must(err)
	for i := range h.Escrows {
		h.saveDue(i)
		if newest := h.shelf(i, escrow.Current)[0]; newest != got.New {
			t.Errorf("key %s is the newest current copy, not %s", newest, got.New)
		}
	}
	h.must(r.check(&h.Host, db))
	// The daemon runs, which could not be written down either: it was not left stopped.
	if units, err := agent.Resume(t.Context(), &h.Host); err != nil || units != nil || starts != 1 {
		t.Errorf("resumed %v, %v, after %d starts", units, err, starts)
	}
	standing, err := h.Ledger.Standing()
	h.must(err)
	if standing.Stopped != nil {
		t.Errorf("the ledger says that %v is stopped", standing.Stopped)
	}
}

// TestRotationRefused: what would fail after the rows are under the new key is refused
// before the daemon is stopped, by a dry run too, and nothing is changed.
func TestRotationRefused(t *testing.T) {
	cluster := server.Cluster(t)
	inMemory := func(h *host, name, options string) {
		// All that is there moves to a file system that this test may fill.
		h.must(os.Rename(h.path(name), h.path(name+"-before")))
		h.must(os.Mkdir(h.path(name), 0o700))
		mount(h.t, h.path(name), options)
		h.must(os.CopyFS(h.path(name), os.DirFS(h.path(name+"-before"))))
	}
	for name, hold := range map[string]func(h *host, db *rowstest.Database){
		"immutable":   func(h *host, _ *rowstest.Database) { flag(h, "etc/secrets.key", unix.STATX_ATTR_IMMUTABLE) },
		"append-only": func(h *host, _ *rowstest.Database) { flag(h, "etc/secrets.key", unix.STATX_ATTR_APPEND) },
		"bind mount": func(h *host, _ *rowstest.Database) {
			h.must(unix.Mount(h.Keyfile.Path, h.Keyfile.Path, "", unix.MS_BIND, ""))
			h.t.Cleanup(func() { unix.Unmount(h.Keyfile.Path, unix.MNT_DETACH) })
		},
		"read-only": func(h *host, _ *rowstest.Database) {
			inMemory(h, "etc", "size=64k")
			h.must(unix.Mount("", h.path("etc"), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		},
		"the keyfile's directory is full": func(h *host, _ *rowstest.Database) {
			inMemory(h, "etc", "size=64k")
			fill(h, "etc/fill")
		},
		"the keyfile's directory has an inode left": func(h *host, _ *rowstest.Database) {
			inMemory(h, "etc", "size=64k,nr_inodes=3")
		},
		"the state directory is full": func(h *host, _ *rowstest.Database) {
			inMemory(h, "state", "size=1m")
			fill(h, "state/fill")
		},
		"the ledger is immutable": func(h *host, _ *rowstest.Database) {
			flag(h, "state/ledger.jsonl", unix.STATX_ATTR_IMMUTABLE)
		},
		"the ledger's lock cannot be taken": func(h *host, _ *rowstest.Database) {
			h.must(os.Remove(h.path("state/ledger")))
			h.must(os.Mkdir(h.path("state/ledger"), 0o700))
		},
		"a torn line cannot be cut off the ledger": func(h *host, _ *rowstest.Database) {
			f, err := os.OpenFile(h.path("state/ledger.jsonl"), os.O_WRONLY|os.O_APPEND, 0)
			h.must(err)
			_, err = f.WriteString(`{"event":"pro`)
			h.must(errors.Join(err, f.Close()))
			flag(h, "state/ledger.jsonl", unix.STATX_ATTR_APPEND)
		},
		"an escrow's quarantine is immutable": func(h *host, _ *rowstest.Database) {
			flag(h, "usb0/quarantine", unix.STATX_ATTR_IMMUTABLE)
		},
		"an escrow's current shelf is immutable": func(h *host, _ *rowstest.Database) {
			flag(h, "usb0/current", unix.STATX_ATTR_IMMUTABLE)
		},
		"an escrow's shelf is append-only": func(h *host, _ *rowstest.Database) {
			flag(h, "usb0/quarantine", unix.STATX_ATTR_APPEND)
		},
		"no escrow takes it, and none must": func(h *host, _ *rowstest.Database) {
			h.Escrows[0].Required = false
			flag(h, "usb0/quarantine", unix.STATX_ATTR_IMMUTABLE)
		},
		"read-only by default": func(h *host, db *rowstest.Database) {
			_, err := db.Exec("do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$")
			h.must(err)
		},
		"no right to UPDATE": func(h *host, db *rowstest.Database) {
			_, err := db.Exec("revoke update on secrets from current_user")
			h.must(err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := rotation{testKey("old")}
			db := cluster.Database(t)
			h := newHost(t, db, 1)
			h.must(r.rows(db))
			h.must(r.furnish(&h.Host, false))
			h.Daemon = leftRunning(t)
			hold(h, db)
			entries := func() int {
				record, err := h.Ledger.Read()
				h.must(err)
				return len(record.Entries)
			}
			before := entries()
			for _, dry := range []bool{true, false} {
				got, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{DryRun: dry})
				why := errors.Is(err, agent.ErrCannotEnd) || errors.Is(err, rows.ErrMayNot) || errors.Is(err, agent.ErrNoHome) && errors.Is(err, escrow.ErrHeld)
				if !errors.Is(err, agent.ErrNotRotated) || !why || got.Rotated {
					t.Errorf("dry %t: %+v, %v", dry, got, err)
				}
			}
			if !h.holds(testKey("old")) || entries() != before {
				t.Errorf("the keyfile or the ledger has changed: %d entries, %d before", entries(), before)
			}
			if err := r.check(&h.Host, db); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRotationWithoutALock: where no lock can be taken nothing is begun, and that is refused as
// what cannot be ended, not as a fault of keyguard's.
func TestRotationWithoutALock(t *testing.T) {
	h := newHost(t, nil, 1)
	h.must(os.RemoveAll(h.path("state")))
	h.must(os.WriteFile(h.path("state"), nil, 0o600))
	if _, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{}); !errors.Is(err, agent.ErrCannotEnd) || errors.Is(err, agent.ErrBusy) {
		t.Errorf("rotate: %v", err)
	}
	if _, err := agent.Repair(t.Context(), &h.Host, agent.RepairOptions{}); !errors.Is(err, agent.ErrCannotEnd) || errors.Is(err, agent.ErrBusy) {
		t.Errorf("repair: %v", err)
	}
}

// TestRotationFetches no more than the newest current copy of each escrow: before, to be
// sure that the present key is safe there, and after, as law 4 wants to know.
func TestRotationFetches(t *testing.T) { bothListings(t, testRotationFetches) }

func testRotationFetches(t *testing.T, list listing) {
	r := rotation{testKey("old")}
	db := server.Cluster(t).Database(t)
	h := list(newHost(t, db, 2))
	h.must(r.rows(db))
	h.must(r.furnish(&h.Host, false))
	var asked []*troubled
	for i, e := range h.Escrows {
		for n := range 5 {
			_, err := e.Writer.Save(t.Context(), escrow.Quarantine, testKey(fmt.Sprint("older ", n)))
			h.must(err)
		}
		asked = append(asked, trouble(h, i))
	}
	got, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{})
	if err != nil || len(got.Trouble) > 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, e := range asked {
		if e.lists != 2 || e.fetches != 2 {
			t.Errorf("escrow %d was listed %d times, and %d copies were fetched", i, e.lists, e.fetches)
		}
	}
}

// TestRotationEnded: a host that goes down stops Postgres in the middle of the commit, and
// has the rotation end. It does not wait for rows that will not answer, and says what it is.
func TestRotationEnded(t *testing.T) {
	cluster := rowstest.New(t)
	r := rotation{testKey("old")}
	db := cluster.Database(t)
	h := newHost(t, db, 1)
	h.must(r.rows(db))
	h.must(r.furnish(&h.Host, false))
	ctx, end := context.WithCancel(t.Context())
	got, err := agent.Rotate(ctx, &h.Host, agent.RotateOptions{Progress: func(p agent.RotateProgress) {
		if p.Step == string(rows.Committing) {
			h.must(cluster.Stop())
			end()
		}
	}})
	if got.Rotated || !errors.Is(err, agent.ErrUnsure) || !errors.Is(err, agent.ErrEnded) {
		t.Fatalf("%+v, %v", got, err)
	}
}

// TestRotateClosesAsAStart (R1): of a rotation that stopped halfway another rotate leaves what a
// start leaves, also where nobody can tell which key belongs in the keyfile's place. What it is
// refused for then is the key.
func TestRotateClosesAsAStart(t *testing.T) {
	a, b, c := testKey("a"), testKey("b"), testKey("c")
	for name, opens := range map[string]map[key.Fingerprint]int64{
		"no row under any key":                        {},
		"none under either, a few under a third":      {c.Fingerprint(): 3},
		"more under a third, fewer under the old one": {a.Fingerprint(): 1, c.Fingerprint(): 3},
		"more under a third, fewer under the new one": {a.Fingerprint(): 1, b.Fingerprint(): 2, c.Fingerprint(): 3},
		"as many under either":                        {a.Fingerprint(): 4, b.Fingerprint(): 4, c.Fingerprint(): 1},
	} {
		t.Run(name, func(t *testing.T) {
			left := map[string]string{}
			for who, settle := range map[string]func(*host) error{
				"a start": func(h *host) error { _, err := h.guard(); return err },
				"rotate": func(h *host) error {
					r, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{})
					if !errors.Is(err, agent.ErrNotRotated) || errors.Is(err, agent.ErrRotationOpen) || r.Rotated {
						return fmt.Errorf("%+v, %w", r, err)
					}
					return nil
				},
			} {
				h := newHost(t, nil, 1)
				h.write(a.UnsafeBytes())
				h.must(prove(&h.Host, a))
				h.must(h.Ledger.Append(ledger.Entry{Event: ledger.RotationOpen, Old: a.Fingerprint(), Fingerprint: b.Fingerprint()}))
				h.must(os.WriteFile(h.Keyfile.Path+".next", b.UnsafeBytes(), 0o400))
				h.must(h.Keyfile.Keep(c, h.now))
				trouble(h, 0).list = escrow.ErrUnreachable
				table := toldRows{state: rows.Answered, opens: opens, total: 10}
				h.OpenRows = func(context.Context, rows.Options) (agent.Rows, error) { return table, nil }
				if err := settle(h); err != nil {
					t.Errorf("%s: %v", who, err)
				}
				if _, err := os.Lstat(h.Keyfile.Path + ".next"); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: the staged key: %v", who, err)
				}
				s, err := h.Ledger.Standing()
				h.must(err)
				if s.Rotation != nil {
					t.Errorf("%s leaves it open", who)
				}
				left[who] = fmt.Sprintf("key %q known, %s by %d rows", s.Known, s.By, s.Opened)
			}
			if left["a start"] != left["rotate"] {
				t.Errorf("%v", left)
			}
		})
	}
}

// leftRunning is a daemon that nobody may look for or stop.
func leftRunning(t *testing.T) agent.Daemon {
	return agent.Daemon{
		Running: func(context.Context) ([]string, error) { t.Error("the daemon is looked for"); return nil, nil },
		Stop:    func(context.Context) error { t.Error("the daemon is stopped"); return nil },
		Start:   func(context.Context, []string) error { return nil },
	}
}

// TestRepairRefused: a repair, too, rehearses what it does when the daemon is down.
func TestRepairRefused(t *testing.T) {
	cluster := server.Cluster(t)
	for name, path := range map[string]string{"the keyfile is immutable": "etc/secrets.key", "the ledger is immutable": "state/ledger.jsonl"} {
		t.Run(name, func(t *testing.T) {
			r := repair{target: testKey("most rows"), other: testKey("other"), older: testKey("older")}
			db := cluster.Database(t)
			h := newHost(t, db, 1)
			h.must(r.rows(db))
			h.must(r.furnish(&h.Host, false))
			h.Daemon = leftRunning(t)
			flag(h, path, unix.STATX_ATTR_IMMUTABLE)
			for _, dry := range []bool{true, false} {
				if _, err := agent.Repair(t.Context(), &h.Host, agent.RepairOptions{DryRun: dry}); !errors.Is(err, agent.ErrNotRepaired) || !errors.Is(err, agent.ErrCannotEnd) {
					t.Errorf("dry %t: %v", dry, err)
				}
			}
			h.must(r.check(&h.Host, db))
		})
	}
}

// TestRepairOfWhatWasAgreed: while a person thinks about one target another key is accepted, which
// the rows would come under now. That is asked again.
func TestRepairOfWhatWasAgreed(t *testing.T) {
	h := newHost(t, server.Cluster(t).Database(t), 1)
	a, b := testKey("a"), testKey("b")
	h.rowsUnder(a, a, b)
	h.write(a.UnsafeBytes())
	h.must(errors.Join(h.Keyfile.Keep(a, h.now), h.Keyfile.Keep(b, h.now)))
	asked, err := agent.CheckRepair(t.Context(), &h.Host, agent.RepairOptions{})
	if err != nil || asked.Target != a.Fingerprint() {
		t.Fatalf("%+v, %v", asked, err)
	}
	h.write(b.UnsafeBytes())
	_, err = agent.Accept(t.Context(), &h.Host, agent.AcceptOptions{Confirm: yes})
	h.must(err)
	r, err := agent.Repair(t.Context(), &h.Host, agent.RepairOptions{Agreed: asked.Target})
	if !errors.Is(err, agent.ErrChanged) || !errors.Is(err, agent.ErrNotRepaired) || r.Repaired || r.Target != b.Fingerprint() || len(r.Staged) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := agent.Repair(t.Context(), &h.Host, agent.RepairOptions{Agreed: b.Fingerprint()}); err != nil || !r.Repaired {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestRepairSavesWhatIsListed: a copy that a store lists and does not give is no word that the key
// is safe there; it is saved before rows are taken from it (law 5).
func TestRepairSavesWhatIsListed(t *testing.T) {
	h := newHost(t, rowstest.New(t).Database(t), 1)
	a, other := testKey("a"), testKey("other")
	h.rowsUnder(a, a, other)
	h.write(a.UnsafeBytes())
	h.must(h.Keyfile.Keep(other, h.now))
	h.saveDue(0)
	e := trouble(h, 0)
	e.fetch, e.saves = escrow.ErrUnreachable, 0
	r, err := agent.Repair(t.Context(), &h.Host, agent.RepairOptions{})
	if err != nil || !slices.ContainsFunc(r.Staged, func(s agent.SaveResult) bool { return s.Key == other.Fingerprint() && s.Err == nil }) {
		t.Errorf("%+v, %v", r.Staged, err)
	}
}

// TestRotateWantsASpare: where a new key could be rebuilt from all of its parts alone, only a
// person's word goes on, or another escrow that is safe.
func TestRotateWantsASpare(t *testing.T) {
	h, s := inParts(t, testKey("a"))
	all, err := kinds.NewSplit(kinds.SplitOptions{Name: "split", Need: 2, Members: s.Members()[:2]})
	h.must(err)
	h.must(os.Mkdir(h.path("usb9"), 0o700))
	usb, err := usbIn(h.dir, "usb9")
	h.must(err)
	h.must(usb.Writer.Init(t.Context()))
	for name, test := range map[string]struct {
		escrows []agent.Escrow
		word    bool
		want    error
	}{
		"one may be lost":                     {[]agent.Escrow{{Reader: s, Writer: s, Required: true}}, false, nil},
		"none may be lost":                    {[]agent.Escrow{{Reader: all, Writer: all, Required: true}}, false, agent.ErrNeedAll},
		"none may be lost, by a word":         {[]agent.Escrow{{Reader: all, Writer: all, Required: true}}, true, nil},
		"none may be lost, not required":      {[]agent.Escrow{{Reader: all, Writer: all}}, false, agent.ErrNeedAll},
		"none may be lost, another is safe":   {[]agent.Escrow{{Reader: all, Writer: all}, usb}, false, nil},
		"none may be lost, another, required": {[]agent.Escrow{{Reader: all, Writer: all, Required: true}, usb}, false, agent.ErrNeedAll},
	} {
		t.Run(name, func(t *testing.T) {
			h.Escrows = test.escrows
			h.backup()
			if _, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{DryRun: true, NeedAll: test.word}); !errors.Is(err, test.want) || test.want != nil && !errors.Is(err, agent.ErrNoHome) {
				t.Error(err)
			}
		})
	}
}

// TestRotateToAnotherNeed: a member that came with another need has no part of the old key, and
// never gets one: the rotation that gives it one of the new key goes on as long as the old key may
// lose a part as it was cut.
func TestRotateToAnotherNeed(t *testing.T) {
	for name, tt := range map[string]struct {
		need, of       int // before
		needNow, ofNow int
		lost           string // a member's shelf that lost its part
		silent         string // a member that does not answer
		spare          bool   // and is not required
		want           error
	}{
		"3 of 4 of 2 of 3":                          {need: 2, of: 3, needNow: 3, ofNow: 4},
		"2 of 4 of 3 of 4":                          {need: 3, of: 4, needNow: 2, ofNow: 4},
		"3 of 5 of 2 of 3":                          {need: 2, of: 3, needNow: 3, ofNow: 5},
		"3 of 4 of 2 of 3, of which one is lost":    {need: 2, of: 3, needNow: 3, ofNow: 4, lost: "usb2", want: agent.ErrOldCut},
		"3 of 4 of 2 of 4, of which one is lost":    {need: 2, of: 4, needNow: 3, ofNow: 4, lost: "usb2"},
		"3 of 4 of 2 of 2":                          {need: 2, of: 2, needNow: 3, ofNow: 4, want: agent.ErrOldCut},
		"3 of 4 of 2 of 3, and one does not answer": {need: 2, of: 3, needNow: 3, ofNow: 4, silent: "usb3", want: agent.ErrNoHome},
		"3 of 5 of 2 of 2, and one does not answer": {need: 2, of: 2, needNow: 3, ofNow: 5, silent: "usb4", spare: true, want: agent.ErrNotSafe},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, server.Cluster(t).Database(t), 0)
			splitAs(h, tt.need, tt.of)
			h.upsert(testKey("a"), "ONE")
			h.write(testKey("a").UnsafeBytes())
			h.backup()
			if tt.lost != "" {
				files, err := filepath.Glob(h.path(tt.lost + "/current/*"))
				h.must(err)
				for _, f := range files {
					h.must(os.Remove(f))
				}
			}
			s := splitAs(h, tt.needNow, tt.ofNow)
			if tt.spare {
				for i := range s.Members() {
					s.Members()[i].Required = fmt.Sprint("usb", i) != tt.silent
				}
			}
			if tt.silent != "" {
				h.must(os.Rename(h.path(tt.silent), h.path("away")))
			}
			d, err := agent.Doctor(t.Context(), &h.Host, agent.DoctorOptions{})
			h.must(err)
			var said string // of the old key, and of nobody who has no part of it
			for _, v := range d.Threats {
				said += strings.Join(v.Evidence, "\n")
			}
			if !strings.Contains(said, fmt.Sprintf("in parts of which %d rebuild it: usb0", tt.need)) || tt.silent == "" && strings.Contains(said, fmt.Sprint("usb", tt.of)) {
				t.Errorf("the doctor: %s", said)
			}
			r, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{})
			if !errors.Is(err, tt.want) || r.Rotated != (tt.want == nil) {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			if tt.want != nil {
				return
			}
			if st, err := agent.Status(t.Context(), &h.Host); err != nil || st.Escrows[0].Lacks != nil || st.Escrows[0].Refuses != nil || !st.Escrows[0].Holds {
				t.Errorf("%s, %v", st.Line, err)
			}
			if d, err := agent.Drill(t.Context(), &h.Host, agent.DrillOptions{Scratch: scratch(t)}); err != nil || d.Verdict != agent.DrillPassed {
				t.Errorf("the drill: %s, %v", d.Verdict, err)
			}
			for _, m := range s.Members() { // law 8: one part of each key
				parts := map[key.Fingerprint]int{}
				copies, err := m.List(t.Context())
				h.must(err)
				for _, c := range copies {
					if c.Shelf == escrow.Current {
						parts[c.Fingerprint]++
					}
				}
				for f, n := range parts {
					if n > 1 || f == "" {
						t.Errorf("%s has %d parts of key %s", m.Name(), n, f)
					}
				}
			}
		})
	}
}

// TestRotateOfASplitTable: rows under another key of this host are not left under it, nor told
// as rows that no key opens.
func TestRotateOfASplitTable(t *testing.T) {
	cluster := server.Cluster(t)
	r := rotation{testKey("old")}
	db := cluster.Database(t)
	h := newHost(t, db, 1)
	h.must(r.rows(db))
	h.must(r.furnish(&h.Host, false))
	h.must(db.Upsert(testKey("other"), "probe", "PROBE", []byte("v")))
	for _, leave := range []bool{false, true} {
		_, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{LeaveUnopenable: leave, DryRun: true})
		if !leave && !errors.Is(err, rows.ErrUnopenable) || errors.Is(err, agent.ErrSplitRows) {
			t.Errorf("under a key that is nowhere, leave %t: %v", leave, err)
		}
	}
	isSplit := func(where string) {
		t.Helper()
		for _, leave := range []bool{false, true} {
			got, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{LeaveUnopenable: leave})
			if !errors.Is(err, agent.ErrSplitRows) || got.Rotated {
				t.Errorf("under a key %s, leave %t: %+v, %v", where, leave, got, err)
			}
		}
	}
	h.must(h.Keyfile.Keep(testKey("other"), h.Now()))
	isSplit("of the local quarantine")
	cannotTell := func(what string) {
		t.Helper()
		for _, leave := range []bool{false, true} {
			got, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{LeaveUnopenable: leave, DryRun: true})
			if !errors.Is(err, agent.ErrNotRotated) || errors.Is(err, rows.ErrUnopenable) || got.New != "" {
				t.Errorf("%s, leave %t: %+v, %v", what, leave, got, err)
			}
		}
	}
	open := h.OpenRows
	h.OpenRows = func(ctx context.Context, o rows.Options) (agent.Rows, error) {
		table, err := open(ctx, o)
		return &once{Rows: table}, err
	}
	cannotTell("the rows answer once")
	h.OpenRows = open
	h.must(os.Rename(h.Keyfile.Quarantine, h.path("elsewhere")))
	h.must(os.WriteFile(h.Keyfile.Quarantine, nil, 0o600))
	cannotTell("the local quarantine cannot be listed")
	h.must(os.Remove(h.Keyfile.Quarantine))
	h.save(0, escrow.Quarantine, testKey("other"))
	isSplit("that an escrow keeps")
}

// once is a table that answers once.
type once struct {
	agent.Rows
	asked bool
}

func (o *once) Prove(ctx context.Context, keys ...key.Key) rows.Answer {
	if o.asked {
		return rows.NoAnswer(rows.ErrTimeout, keys...)
	}
	o.asked = true
	return o.Rows.Prove(ctx, keys...)
}

// TestRotateOfWhatWasAgreed: while a person thinks about one key another comes into its place, which
// opens the rows as well. That is asked again.
func TestRotateOfWhatWasAgreed(t *testing.T) {
	h := newHost(t, server.Cluster(t).Database(t), 1)
	a, b := testKey("a"), testKey("b")
	h.rowsUnder(b, b)
	h.write(b.UnsafeBytes())
	h.must(save(&h.Host, b))
	for agreed, want := range map[key.Fingerprint]error{a.Fingerprint(): agent.ErrChanged, b.Fingerprint(): nil} {
		r, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{Agreed: agreed, DryRun: true})
		if !errors.Is(err, want) || want != nil && !errors.Is(err, agent.ErrNotRotated) || r.Rotated {
			t.Errorf("%s: %+v, %v", agreed, r, err)
		}
	}
}

// TestRotateNoRow (law 4): the table is emptied, or another one is loaded, while the new key is saved.
// A key that no row would be under replaces none.
func TestRotateNoRow(t *testing.T) {
	a, b := testKey("a"), testKey("b")
	for name, meanwhile := range map[string]func(h *host){
		"emptied":      func(h *host) { h.rowsUnder() },
		"another dump": func(h *host) { h.rowsUnder(b, b) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, server.Cluster(t).Database(t), 1)
			h.rowsUnder(a, a)
			h.write(a.UnsafeBytes())
			h.must(save(&h.Host, a))
			h.must(prove(&h.Host, a))
			h.Escrows[0].Writer = &overtaken{h.Escrows[0].Writer, func() { meanwhile(h) }}
			r, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{LeaveUnopenable: true})
			if r.Rotated || !errors.Is(err, agent.ErrNotRotated) || !errors.Is(err, agent.ErrNoRows) {
				t.Errorf("%+v, %v", r, err)
			}
			standing, err := h.Ledger.Standing()
			h.must(err)
			if !h.holds(a) || standing.Known != a.Fingerprint() || standing.Rotation != nil {
				t.Errorf("known is %+v", standing)
			}
			h.wants(0, escrow.Current, a)
		})
	}
}
