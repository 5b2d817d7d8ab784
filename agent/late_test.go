package agent_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// This file has somebody look, and a whole rotation go by before he acts on what he saw.

// answered is a table where something is done after its first answer.
type answered struct {
	agent.Rows
	then func()
}

func (a *answered) Prove(ctx context.Context, keys ...key.Key) rows.Answer {
	answer := a.Rows.Prove(ctx, keys...)
	if do := a.then; do != nil {
		a.then = nil
		do()
	}
	return answer
}

// answersLate has the next table that is opened do something after its first answer.
func (h *host) answersLate(do func()) {
	open := h.OpenRows
	h.OpenRows = func(ctx context.Context, o rows.Options) (agent.Rows, error) {
		h.OpenRows = open
		t, err := open(ctx, o)
		return &answered{t, do}, err
	}
}

// rotates brings all rows under a new key, which it returns.
func (h *host) rotates() key.Fingerprint {
	h.t.Helper()
	r, err := agent.Rotate(h.t.Context(), &h.Host, agent.RotateOptions{})
	if err != nil || !r.Rotated {
		h.t.Fatalf("%+v, %v", r, err)
	}
	for _, s := range r.Saved.Escrows {
		if s.Err != nil || s.Shelf != escrow.Current {
			h.t.Errorf("the new key: %+v", s)
		}
	}
	return r.New
}

// TestLateWord (laws 1 and 2): the answer of the rows is a rotation late. It is no word on the key that
// they were under, which would be the known one from then on; who looked looks again.
func TestLateWord(t *testing.T) {
	a := testKey("a")
	for name, look := range map[string]func(h *host) (any, error){
		"start":  func(h *host) (any, error) { return h.guard() },
		"backup": func(h *host) (any, error) { return agent.Backup(t.Context(), &h.Host) },
		"init":   func(h *host) (any, error) { return agent.Init(t.Context(), &h.Host) },
		"watcher": func(h *host) (any, error) {
			return agent.Tend(t.Context(), &h.Host, agent.TendOptions{Prove: true, DaemonRead: true})
		},
		"paper": func(h *host) (any, error) {
			r, err := agent.Paper(t.Context(), &h.Host, agent.PaperOptions{})
			if f := r.Key.Fingerprint(); err == nil && f == a.Fingerprint() {
				err = errors.New("the key of before is printed")
			}
			return r, err
		},
		"import for the escrows": func(h *host) (any, error) { return agent.Keep(t.Context(), &h.Host, a, agent.ImportOptions{}) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, server.Cluster(t).Database(t), 1)
			h.settle(a)
			h.now = h.now.Add(26 * time.Hour)
			var fresh key.Fingerprint
			h.answersLate(func() { fresh = h.rotates() })
			if r, err := look(h); err != nil {
				t.Errorf("%+v, %v", r, err)
			}
			standing, err := h.Ledger.Standing()
			h.must(err)
			if fresh == "" || standing.Known != fresh || standing.By != ledger.Proven {
				t.Errorf("known is %+v, and the rows are under key %s", standing, fresh)
			}
			if newest := h.shelf(0, escrow.Current)[0]; newest != fresh {
				t.Errorf("key %s is the newest current copy, and the rows are under key %s", newest, fresh)
			}
			if n := h.told(ledger.Imported) + h.told(ledger.Printed); n > 1 {
				t.Errorf("the ledger is told %d times of one wish", n)
			}
		})
	}
}

// TestLatePaper (law 4): the key opened a part of the rows, and a repair is done before it is printed.
func TestLatePaper(t *testing.T) {
	a, b := testKey("a"), testKey("b")
	h := newHost(t, server.Cluster(t).Database(t), 0)
	h.rowsUnder(a, b)
	h.write(a.UnsafeBytes())
	h.answersLate(func() {
		h.rowsUnder(b, b)
		h.write(b.UnsafeBytes())
		h.must(prove(&h.Host, b))
	})
	r, err := agent.Paper(t.Context(), &h.Host, agent.PaperOptions{})
	if h.must(err); r.Key.Fingerprint() != b.Fingerprint() {
		t.Errorf("key %s is printed, and the rows are under key %s: %s", r.Key.Fingerprint(), b.Fingerprint(), r.Proof)
	}
}

// TestRefutedOnce (law 1): the rows have refuted the keyfile's key, and another process is the first to write
// that down. While all is looked at anew, which may hang, the daemon is not to start on that key.
func TestRefutedOnce(t *testing.T) {
	a, b := testKey("a"), testKey("b")
	h := newHost(t, server.Cluster(t).Database(t), 1)
	h.rowsUnder(b)
	h.write(a.UnsafeBytes())
	h.save(0, escrow.Current, b)
	h.must(prove(&h.Host, a))
	h.now = h.now.Add(26 * time.Hour)
	var told agent.Start
	open, looks := h.OpenRows, 0
	h.OpenRows = func(ctx context.Context, o rows.Options) (agent.Rows, error) {
		switch looks++; looks {
		case 1:
			h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Contradicted, Fingerprint: a.Fingerprint(), Verdict: string(rows.Refuted)}))
		case 2:
			if told != agent.StartRefuted {
				t.Errorf("the start is %s by now", told)
			}
		}
		return open(ctx, o)
	}
	r, err := agent.Guard(t.Context(), &h.Host, agent.GuardOptions{Report: func(s agent.Start) { told = s }})
	if err != nil || !h.holds(b) || looks != 2 || told != agent.StartRight {
		t.Errorf("%+v, %v after %d looks, and the start is %s", r.Decision, err, looks, told)
	}
}

// TestLateAccept: while the rows are asked once more, after the question, another key becomes the known one.
func TestLateAccept(t *testing.T) {
	a, b := testKey("a"), testKey("b")
	h := newHost(t, server.Cluster(t).Database(t), 1)
	h.rowsUnder(a, a, b)
	h.write(a.UnsafeBytes())
	agreed := func(agent.AcceptResult) (bool, error) {
		h.answersLate(func() { h.must(prove(&h.Host, b)) })
		return true, nil
	}
	if r, err := agent.Accept(t.Context(), &h.Host, agent.AcceptOptions{Confirm: agreed}); !errors.Is(err, agent.ErrChanged) || r.Done {
		t.Errorf("%+v, %v", r, err)
	}
	if standing, err := h.Ledger.Standing(); err != nil || standing.Known != b.Fingerprint() {
		t.Errorf("known is %+v, %v", standing, err)
	}
}

// TestLateRotate: a rotation does not begin by rows that were asked before another key became the known one.
func TestLateRotate(t *testing.T) {
	a, b := testKey("a"), testKey("b")
	h := newHost(t, server.Cluster(t).Database(t), 1)
	h.rowsUnder(a, a)
	h.write(a.UnsafeBytes())
	h.must(save(&h.Host, a))
	h.answersLate(func() { h.must(prove(&h.Host, b)) })
	if r, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{}); !errors.Is(err, agent.ErrNotRotated) || r.Rotated || !h.holds(a) {
		t.Errorf("%+v, %v", r, err)
	}
	h.rotates()
}

// TestLateContradiction: what refuted the known key is older than a proof of it.
func TestLateContradiction(t *testing.T) {
	a, b := testKey("a"), testKey("b")
	h := newHost(t, server.Cluster(t).Database(t), 1)
	h.rowsUnder(b)
	h.write(a.UnsafeBytes())
	h.must(prove(&h.Host, a))
	h.answersLate(func() { // the dump of another host was loaded, and the right one is
		h.rowsUnder(a, a)
		h.must(prove(&h.Host, a))
	})
	r, err := agent.Tend(t.Context(), &h.Host, agent.TendOptions{Prove: true, DaemonRead: true})
	if err != nil || r.Decision.Key != a.Fingerprint() {
		t.Errorf("%+v, %v", r.Decision, err)
	}
	if standing, err := h.Ledger.Standing(); err != nil || standing.Known != a.Fingerprint() {
		t.Errorf("known is %+v, %v", standing, err)
	}
}

// TestLateWithheld: while the watcher finds that another key belongs there, a person gives his word for the
// one that stands there.
func TestLateWithheld(t *testing.T) {
	a, b := testKey("a"), testKey("b")
	h := newHost(t, server.Cluster(t).Database(t), 1)
	h.rowsUnder(b)
	h.write(a.UnsafeBytes())
	h.save(0, escrow.Current, b)
	h.answersLate(func() {
		h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Accepted, Fingerprint: a.Fingerprint(), Verdict: string(rows.Refuted)}))
	})
	r, err := agent.Tend(t.Context(), &h.Host, agent.TendOptions{Prove: true, DaemonRead: true})
	if err != nil || r.Decision.Key != a.Fingerprint() || r.Withheld != "" {
		t.Errorf("%+v, %q, %v", r.Decision, r.Withheld, err)
	}
}

// TestLateClosing: a rotation is not closed with neither of its keys by rows that have changed since, and by
// which another process has proven one of them.
func TestLateClosing(t *testing.T) {
	a, b := testKey("a"), testKey("b")
	h := newHost(t, server.Cluster(t).Database(t), 0)
	h.rowsUnder(testKey("another"))
	h.write(a.UnsafeBytes())
	h.must(prove(&h.Host, a))
	h.must(h.Ledger.Append(ledger.Entry{Event: ledger.RotationOpen, Old: a.Fingerprint(), Fingerprint: b.Fingerprint()}))
	h.answersLate(func() {
		h.rowsUnder(a, a)
		h.must(prove(&h.Host, a))
	})
	r, err := agent.Tend(t.Context(), &h.Host, agent.TendOptions{Prove: true, DaemonRead: true})
	if err != nil || r.Decision.Key != a.Fingerprint() {
		t.Errorf("%+v, %v", r.Decision, err)
	}
	if standing, err := h.Ledger.Standing(); err != nil || standing.Known != a.Fingerprint() || standing.Rotation != nil {
		t.Errorf("known is %+v, %v", standing, err)
	}
}

// TestLateSave (law 4): a store takes longer than a rotation, for its listing, for a copy that is read,
// or for the save itself. The key of before does not end on top of the new one, which is nobody else's.
func TestLateSave(t *testing.T) {
	a := testKey("a")
	for slow, delay := range map[string]func(h *host, do func()){
		"to list":   func(h *host, do func()) { h.Escrows[1].Reader = &listening{h.Escrows[1].Reader, do} },
		"to answer": func(h *host, do func()) { h.Escrows[1].Reader = &outdated{h.Escrows[1].Reader, do} },
		"to save":   func(h *host, do func()) { h.Escrows[1].Writer = &overtaken{h.Escrows[1].Writer, do} },
	} {
		for name, bring := range map[string]func(h *host) ([]agent.SaveResult, error){
			"backup": func(h *host) ([]agent.SaveResult, error) {
				r, err := agent.Backup(t.Context(), &h.Host)
				return r.Escrows, err
			},
			"what is due": func(h *host) ([]agent.SaveResult, error) {
				return agent.SaveDue(t.Context(), &h.Host, h.Escrows[1].Name())
			},
		} {
			t.Run(name+", slow "+slow, func(t *testing.T) {
				h := newHost(t, server.Cluster(t).Database(t), 2)
				h.Escrows[1].Required = false
				h.rowsUnder(a, a)
				h.write(a.UnsafeBytes())
				h.must(save(&agent.Host{Ledger: h.Ledger, Escrows: h.Escrows[:1]}, a))
				h.must(prove(&h.Host, a))
				var fresh key.Fingerprint
				delay(h, func() { fresh = h.rotates() })
				saves, err := bring(h)
				h.must(err)
				for _, s := range saves {
					if s.Alarm || s.Err != nil {
						t.Errorf("%+v", s)
					}
				}
				for i := range h.Escrows {
					if newest := h.shelf(i, escrow.Current)[0]; newest != fresh {
						t.Errorf("key %s is the newest current copy, and the rows are under key %s", newest, fresh)
					}
				}
				if slow == "to save" && name == "what is due" && (len(saves) != 2 || saves[0].Key != a.Fingerprint() || saves[1].Key != fresh) {
					t.Errorf("both stand there, and told of is %+v", saves)
				}
				if list := h.shelf(1, escrow.Current); slow != "to save" && len(list) != 1 {
					t.Errorf("the key of before was put on top, too: %v", list)
				}
			})
		}
	}
}

// TestLateListing (law 4): what another process of this host saves while a store lists is no other host's.
func TestLateListing(t *testing.T) {
	a, before := testKey("a"), testKey("before")
	listed := func(t *testing.T) *host {
		h := newHost(t, server.Cluster(t).Database(t), 1)
		h.rowsUnder(a, a)
		h.write(a.UnsafeBytes())
		h.must(save(&h.Host, before))
		h.must(prove(&h.Host, a))
		h.Escrows[0].Reader = &listening{h.Escrows[0].Reader, func() { h.saveDue(0) }}
		return h
	}
	t.Run("backup", func(t *testing.T) {
		h := listed(t)
		r, err := agent.Backup(t.Context(), &h.Host)
		if h.must(err); r.Escrows[0].Alarm || r.Escrows[0].Shelf != escrow.Current {
			t.Errorf("%+v", r.Escrows[0])
		}
		h.wants(0, escrow.Current, a, before)
	})
	t.Run("rotate", func(t *testing.T) { listed(t).rotates() })
}

// awaiting is an escrow that gives no copy until something has happened.
type awaiting struct {
	escrow.Reader
	happened chan struct{}
}

func (a *awaiting) Fetch(ctx context.Context, c escrow.Copy) (key.Key, key.Encoding, error) {
	<-a.happened
	return a.Reader.Fetch(ctx, c)
}

// TestLateDue: what another process saves while the rows are asked is not saved once more.
func TestLateDue(t *testing.T) {
	a := testKey("a")
	h := newHost(t, server.Cluster(t).Database(t), 1)
	h.rowsUnder(a, a)
	h.write(a.UnsafeBytes())
	store := trouble(h, 0)
	h.answersLate(func() { h.saveDue(0) })
	if saved := h.saveDue(0); len(saved) != 0 || store.saves != 1 {
		t.Errorf("%+v, %d saves", saved, store.saves)
	}
	h.wants(0, escrow.Current, a)
}

// TestLedgerAnew: while one escrow is asked, the save to another reads the ledger anew, since somebody
// else's copy is on top there. This is for the race detector.
func TestLedgerAnew(t *testing.T) {
	a := testKey("a")
	h := newHost(t, server.Cluster(t).Database(t), 2)
	h.settle(a)
	h.save(0, escrow.Current, testKey("another host's"))
	saving := make(chan struct{})
	h.Escrows[0].Writer = &overtaken{h.Escrows[0].Writer, func() { close(saving) }}
	h.Escrows[1].Reader = &awaiting{h.Escrows[1].Reader, saving}
	r, err := agent.Backup(t.Context(), &h.Host)
	if h.must(err); !r.Escrows[0].Alarm || r.Escrows[1].Alarm || r.Escrows[1].Err != nil {
		t.Errorf("%+v", r.Escrows)
	}
}

// TestRowsAnew: where no row speaks each save asks the rows anew, while the save to another escrow takes in
// what they said. This is for the race detector.
func TestRowsAnew(t *testing.T) {
	h := newHost(t, nil, 2)
	h.write(testKey("a").UnsafeBytes())
	saving, asks := make(chan struct{}, 2), make(chan int, 3)
	for i := range h.Escrows {
		h.Escrows[i].Writer = &overtaken{h.Escrows[i].Writer, func() { saving <- struct{}{} }}
	}
	for n := range cap(asks) {
		asks <- n
	}
	open := h.OpenRows
	h.OpenRows = func(ctx context.Context, o rows.Options) (agent.Rows, error) {
		switch <-asks { // after the backup itself
		case 1: // one save goes on when the other is about to ask
			for h.told(ledger.Saving) < 2 {
				time.Sleep(time.Millisecond)
			}
		case 2: // which has its answer when the one is done with that
			<-saving
		}
		return open(ctx, o)
	}
	r, err := agent.Backup(t.Context(), &h.Host)
	h.must(err)
	for _, s := range r.Escrows {
		if s.Err != nil || s.Shelf != escrow.Current {
			t.Errorf("%+v", s)
		}
	}
}

// TestLateDrill: a drill fetches the copies of before a rotation, and tries them on the rows of after it.
// It tries them again, and tells of no failure.
func TestLateDrill(t *testing.T) {
	a := testKey("a")
	h := newHost(t, server.Cluster(t).Database(t), 1)
	h.settle(a)
	h.Escrows[0].Reader = &outdated{h.Escrows[0].Reader, func() { h.rotates() }}
	r, err := agent.Drill(t.Context(), &h.Host, agent.DrillOptions{Scratch: scratch(t)})
	if err != nil || r.Verdict != agent.DrillPassed {
		t.Errorf("%+v, %v", r, err)
	}
	record, err := h.Ledger.Read()
	h.must(err)
	for _, e := range record.Entries {
		if e.Verdict == string(agent.DrillFailed) {
			t.Errorf("%+v", e)
		}
	}
}

// TestRestoreAfterSilence (law 1): a dump is loaded while the copies are listed, and another copy than
// the newest opens its rows.
func TestRestoreAfterSilence(t *testing.T) {
	a, b := testKey("a"), testKey("b")
	h := newHost(t, server.Cluster(t).Database(t), 1)
	h.save(0, escrow.Current, b)
	h.save(0, escrow.Quarantine, a)
	h.Escrows[0].Reader = &outdated{h.Escrows[0].Reader, func() { h.rowsUnder(a, a) }}
	if r, err := agent.Restore(t.Context(), &h.Host, agent.RestoreOptions{}); err != nil || !h.holds(a) {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestRestoreOfAnAcceptedKey: while copies are tried a person gives his word for what stands in the
// keyfile's place.
func TestRestoreOfAnAcceptedKey(t *testing.T) {
	a, b := testKey("a"), testKey("b")
	h := newHost(t, server.Cluster(t).Database(t), 1)
	h.rowsUnder(a, a, b)
	h.write(b.UnsafeBytes())
	h.save(0, escrow.Current, a)
	h.Escrows[0].Reader = &outdated{h.Escrows[0].Reader, func() {
		if _, err := agent.Accept(t.Context(), &h.Host, agent.AcceptOptions{Confirm: yes}); err != nil {
			t.Error(err)
		}
	}}
	if r, err := agent.Restore(t.Context(), &h.Host, agent.RestoreOptions{}); err != nil || !h.holds(b) {
		t.Errorf("%+v, %v", r, err)
	}
}

// opensInTurn has every second table that is opened be this one, and the others none at all.
func (h *host) opensInTurn(second func() (agent.Rows, error)) {
	opened := 0
	h.OpenRows = func(_ context.Context, o rows.Options) (agent.Rows, error) {
		if opened++; opened%2 == 0 {
			return second()
		}
		return rows.Open(rows.Location{Absent: true, Why: "no database yet"}, o)
	}
}

// TestAlwaysOvertaken: where every look is overtaken, the person is told by what, and not that somebody
// writes the keyfile.
func TestAlwaysOvertaken(t *testing.T) {
	a := testKey("a")
	for name, test := range map[string]struct {
		look func(h *host) error
		want string
	}{
		"which key is known": {func(h *host) error {
			h.rowsUnder(a)
			h.write(a.UnsafeBytes())
			open := h.OpenRows
			h.OpenRows = func(ctx context.Context, o rows.Options) (agent.Rows, error) {
				t, err := open(ctx, o)
				return &answered{t, func() {
					h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Accepted, Fingerprint: a.Fingerprint(), Verdict: string(rows.Silent)}))
				}}, err
			}
			_, err := agent.Backup(t.Context(), &h.Host)
			return err
		}, ledger.ErrMovedOn.Error()},
		"that there is no row": {func(h *host) error {
			h.rowsUnder(a)
			h.save(0, escrow.Current, a)
			h.opensInTurn(func() (agent.Rows, error) { return patient(h.db.URL(), rows.Options{}) })
			_, err := h.guard()
			return err
		}, "there are rows by now"},
		"that the rows can be asked": {func(h *host) error {
			h.save(0, escrow.Current, a)
			h.opensInTurn(func() (agent.Rows, error) { return nil, rows.ErrNotListening })
			_, err := h.guard()
			return err
		}, "the rows cannot be asked any more: " + rows.ErrNotListening.Error()},
		"what an escrow lists": {func(h *host) error {
			h.db = nil
			stored := false
			e := &h.Escrows[0]
			e.Writer = &storing{Writer: e.Writer, then: func() { stored = true }}
			e.Reader = relisted{e.Reader, func(copies []escrow.Copy) {
				if stored {
					stored, copies[0].ID = false, "current/brought"
				}
			}}
			_, err := h.guard()
			return err
		}, `escrow "usb0" lists copy current/brought by now`},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, server.Cluster(t).Database(t), 1)
			err := test.look(h)
			if !errors.Is(err, agent.ErrOvertaken) || errors.Is(err, keyfile.ErrChanged) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want one that says: %s", err, test.want)
			}
		})
	}
}
