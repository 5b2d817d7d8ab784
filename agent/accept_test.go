package agent_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
	"github.com/footprintai/containarium-keyguard/agent/internal/lock"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

func yes(agent.AcceptResult) (bool, error) { return true, nil }

// TestAcceptStaysAPersonsWord: a look that finds that an accepted key opens a part of the
// rows makes no proof of the person's word, and no current copy.
func TestAcceptStaysAPersonsWord(t *testing.T) { bothListings(t, testAcceptStaysAPersonsWord) }

func testAcceptStaysAPersonsWord(t *testing.T, list listing) {
	h := list(newHost(t, server.Cluster(t).Database(t), 1))
	a, b := testKey("a"), testKey("b")
	h.rowsUnder(a, b, b)
	h.write(a.UnsafeBytes())
	if _, err := agent.Accept(t.Context(), &h.Host, agent.AcceptOptions{Confirm: yes}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r, err := agent.Tend(t.Context(), &h.Host, agent.TendOptions{Prove: true, DaemonRead: true})
		h.must(err)
		if r.Decision.Action != decide.Pass {
			t.Errorf("%+v", r.Decision)
		}
		h.saveDue(0)
	}
	standing, err := h.Ledger.Standing()
	h.must(err)
	if standing.By != "accepted" || standing.Known != a.Fingerprint() {
		t.Errorf("%+v", standing)
	}
	h.wants(0, escrow.Current)
	h.wants(0, escrow.Quarantine, a)
}

// TestSettledStaysAPersonsWord: nor does a rotation that is settled on such a key, be it one that
// only a staged key beside the keyfile tells of.
func TestSettledStaysAPersonsWord(t *testing.T) {
	h := newHost(t, server.Cluster(t).Database(t), 1)
	a, b := testKey("a"), testKey("b")
	h.rowsUnder(a, b, b)
	h.write(a.UnsafeBytes())
	_, err := agent.Accept(t.Context(), &h.Host, agent.AcceptOptions{Confirm: yes})
	h.must(err)
	h.must(os.WriteFile(h.Keyfile.Path+".next", testKey("staged").UnsafeBytes(), 0o400))
	r, err := h.guard()
	h.must(err)
	if r.Decision.Settle != decide.SettleOld || !h.holds(a) {
		t.Errorf("%+v", r.Decision)
	}
	standing, err := h.Ledger.Standing()
	h.must(err)
	if standing.By != "accepted" || standing.Known != a.Fingerprint() {
		t.Errorf("%+v", standing)
	}
	// A key that opens more is no reason to take the person's away.
	h.must(h.Keyfile.Keep(b, h.now))
	h.now = h.now.Add(26 * time.Hour)
	if r, err = h.guard(); err != nil || r.Decision.Action != decide.Pass || !h.holds(a) {
		t.Errorf("%+v, %v", r.Decision, err)
	}
}

// TestAcceptedIsNotGreen: a person's word lets a key pass and does not make it open the
// rows: status says so, although every escrow holds it as its newest current copy.
func TestAcceptedIsNotGreen(t *testing.T) { bothListings(t, testAcceptedIsNotGreen) }

func testAcceptedIsNotGreen(t *testing.T, list listing) {
	cluster := server.Cluster(t)
	a, b := testKey("a"), testKey("b")
	for _, test := range []struct {
		name string
		rows []key.Key
		want agent.Health
		line string
	}{
		{"opens all", []key.Key{a, a}, agent.Green, "in place and in every escrow"},
		{"opens a part", []key.Key{a, b, b}, agent.Unsure, "opens 1 of 3 rows, and is in place on a person's word"},
		{"opens none", []key.Key{b, b}, agent.Unsure, "opens none of 2 rows, and is in place on a person's word"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := list(newHost(t, cluster.Database(t), 1))
			for i, k := range test.rows {
				h.upsert(k, fmt.Sprint("SECRET_", i))
			}
			h.write(a.UnsafeBytes())
			h.must(save(&h.Host, a))
			_, err := agent.Accept(t.Context(), &h.Host, agent.AcceptOptions{Confirm: yes})
			h.must(err)
			r, err := agent.Status(t.Context(), &h.Host)
			h.must(err)
			if r.Decision.Action != decide.Pass || r.Health != test.want || !strings.Contains(r.Line, test.line) {
				t.Errorf("%s: %s (%+v)", r.Health, r.Line, r.Decision)
			}
		})
	}
}

// TestAcceptNewLocksNothingWhileItAsks: a question that stands overnight holds no start
// up, and what changed meanwhile is seen.
func TestAcceptNewLocksNothingWhileItAsks(t *testing.T) {
	h := newHost(t, server.Cluster(t).Database(t), 1)
	opts := agent.AcceptOptions{Confirm: func(agent.AcceptResult) (bool, error) {
		l, err := lock.Try(h.StateDir, lock.Rotate)
		if err != nil {
			t.Errorf("while the question stands: %v", err)
			return true, nil
		}
		l.Release()
		h.upsert(testKey("a"), "ONE") // the dump is loaded
		return true, nil
	}}
	if r, err := agent.AcceptNew(t.Context(), &h.Host, opts); !errors.Is(err, agent.ErrChanged) || r.Done || len(h.content()) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
	h.wants(0, escrow.Current)
}

// TestAcceptNewAsksTheRowsAgain (law 2): escrows take their time, and rows that come meanwhile are not the
// new key's. It is kept, and not put in place.
func TestAcceptNewAsksTheRowsAgain(t *testing.T) {
	h := newHost(t, server.Cluster(t).Database(t), 1)
	h.Escrows[0].Writer = &storing{Writer: h.Escrows[0].Writer, then: func() { h.upsert(testKey("a"), "ONE") }}
	r, err := agent.AcceptNew(t.Context(), &h.Host, agent.AcceptOptions{Confirm: yes})
	if !errors.Is(err, agent.ErrChanged) || r.Done || len(h.content()) > 0 || !h.Keyfile.Keeps(r.Key) {
		t.Errorf("%+v, %v, a keyfile of %d bytes", r, err, len(h.content()))
	}
	open := h.OpenRows
	h.OpenRows = func(context.Context, rows.Options) (agent.Rows, error) { return nil, rows.ErrUnreachable }
	if g, err := h.guard(); err != nil || g.Decision.Action != decide.Doubt || len(h.content()) > 0 {
		t.Errorf("where the rows cannot be asked: %+v, %v, a keyfile of %d bytes", g.Decision, err, len(h.content()))
	}
	h.OpenRows = open
	if g, err := h.guard(); err != nil || g.Decision.Action != decide.Lost || len(h.content()) > 0 {
		t.Errorf("%+v, %v, a keyfile of %d bytes", g.Decision, err, len(h.content()))
	}
}

// TestAcceptNewSaysWhoIsSilent: what stands newest in an escrow that does not answer may be another key,
// and the person is told before the answer.
func TestAcceptNewSaysWhoIsSilent(t *testing.T) {
	h := newHost(t, nil, 1)
	trouble(h, 0).list = escrow.ErrUnreachable
	var asked agent.AcceptResult
	r, err := agent.AcceptNew(t.Context(), &h.Host, agent.AcceptOptions{Confirm: func(a agent.AcceptResult) (bool, error) { asked = a; return false, nil }})
	if err != nil || r.Done || len(asked.Trouble) != 1 || !errors.Is(asked.Trouble[0], escrow.ErrUnreachable) {
		t.Errorf("%+v, %v", asked, err)
	}
}

// TestAcceptAsksAgain: the word is of the key that the person was asked about. Another one that came
// into its place while the question stood is not accepted, nor the one that has gone.
func TestAcceptAsksAgain(t *testing.T) {
	for name, meanwhile := range map[string]func(h *host){
		"a rotation": func(h *host) {
			r, err := agent.Rotate(t.Context(), &h.Host, agent.RotateOptions{})
			if err != nil || !r.Rotated {
				t.Fatalf("%+v, %v", r, err)
			}
		},
		"another key": func(h *host) { h.write(testKey("b").UnsafeBytes()) },
		"no key":      func(h *host) { h.must(os.Remove(h.Keyfile.Path)) },
		"the key as text": func(h *host) {
			h.write([]byte(base64.StdEncoding.EncodeToString(testKey("a").UnsafeBytes())))
		},
		"rows of another key":  func(h *host) { h.upsert(testKey("b"), "TWO") },
		"the rows, which went": func(h *host) { h.rowsUnder() },
		"another word": func(h *host) {
			h.must(h.Ledger.Append(ledger.Entry{Event: ledger.Accepted, Fingerprint: testKey("c").Fingerprint()}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, server.Cluster(t).Database(t), 1)
			h.upsert(testKey("a"), "ONE")
			h.write(testKey("a").UnsafeBytes())
			h.must(save(&h.Host, testKey("a")))
			h.must(prove(&h.Host, testKey("a")))
			var known ledger.Standing
			opts := agent.AcceptOptions{Confirm: func(agent.AcceptResult) (bool, error) {
				meanwhile(h)
				var err error
				known, err = h.Ledger.Standing()
				h.must(err)
				return true, nil
			}}
			r, err := agent.Accept(t.Context(), &h.Host, opts)
			if after, lerr := h.Ledger.Standing(); !errors.Is(err, agent.ErrChanged) || r.Done || lerr != nil || after.Known != known.Known {
				t.Errorf("%+v, %v; known is %s after %s", r, err, after.Known, known.Known)
			}
		})
	}
}

// TestAcceptNewIsNotLost: what keeps the accepted key from its place, where no escrow has it, does
// not leave a word for a key that nobody has.
func TestAcceptNewIsNotLost(t *testing.T) {
	h := newHost(t, server.Cluster(t).Database(t), 0)
	durable.Disk = func(c durable.Change) error {
		if c.Do == durable.CreateFile && filepath.Dir(c.Path) == h.path("etc") {
			return unix.EIO
		}
		return nil
	}
	r, err := agent.AcceptNew(t.Context(), &h.Host, agent.AcceptOptions{Confirm: yes})
	durable.Disk = nil
	if err == nil || r.Done || r.Key == "" {
		t.Fatalf("%+v, %v", r, err)
	}
	g, err := h.guard()
	if err != nil || g.Decision.Action != decide.Install || g.Decision.Key != r.Key || len(h.content()) != key.Size {
		t.Errorf("%+v, %v", g.Decision, err)
	}
}

// TestLedgerSpeaksBeforeAFirstStart: a key that was proven and saved here is not forgotten
// because every copy of it is gone; a person's word makes a new one all the same.
func TestLedgerSpeaksBeforeAFirstStart(t *testing.T) {
	h := newHost(t, nil, 1)
	h.must(prove(&h.Host, testKey("a")))
	r, err := h.guard()
	if err != nil || r.Decision.Action != decide.Doubt || r.Decision.Needed != testKey("a").Fingerprint() || len(h.content()) > 0 {
		t.Errorf("%+v, %v", r.Decision, err)
	}
	n, err := agent.AcceptNew(context.Background(), &h.Host, agent.AcceptOptions{Confirm: yes})
	if err != nil || !n.Done || len(h.content()) != 32 {
		t.Errorf("%+v, %v", n, err)
	}
}

// TestMostRowsWin: start, status, verify and restore agree on a table that is split, with
// and without the escrow that has the key of most rows.
func TestMostRowsWin(t *testing.T) { bothListings(t, testMostRowsWin) }

func testMostRowsWin(t *testing.T, list listing) {
	h := list(newHost(t, server.Cluster(t).Database(t), 1))
	a, b := testKey("a"), testKey("b")
	h.upsert(a, "ONE")
	for _, name := range []string{"TWO", "THREE"} {
		h.upsert(b, name)
	}
	h.must(save(&h.Host, b))
	h.must(prove(&h.Host, a))
	h.write(a.UnsafeBytes())
	h.now = h.now.Add(decide.ProofLife + 1)
	agree := func(action decide.Action, f string) {
		t.Helper()
		s, err := agent.Status(t.Context(), &h.Host)
		h.must(err)
		v, err := agent.Verify(t.Context(), &h.Host)
		h.must(err)
		g, err := h.guard()
		h.must(err)
		for name, d := range map[string]decide.Decision{"status": s.Decision, "verify": v.Decision, "start": g.Decision} {
			if d.Action != action || string(d.Key) != f {
				t.Errorf("%s: %+v", name, d)
			}
		}
	}
	e := trouble(h, 0)
	e.list = escrow.ErrUnreachable
	agree(decide.Pass, string(a.Fingerprint())) // it is what the daemon ran on
	if r, err := agent.Restore(t.Context(), &h.Host, agent.RestoreOptions{DryRun: true}); err != nil || r.Key != a.Fingerprint() {
		t.Errorf("restore: %+v, %v", r, err)
	}
	e.list = nil
	if r, err := agent.Restore(t.Context(), &h.Host, agent.RestoreOptions{DryRun: true}); err != nil || r.Key != b.Fingerprint() {
		t.Errorf("restore: %+v, %v", r, err)
	}
	agree(decide.Install, string(b.Fingerprint()))
	agree(decide.Pass, string(b.Fingerprint()))
}

// TestAcceptAdoptsBelowRubbish: bytes on top that are no key hide no foreign copy, neither
// from the alarm nor from the person who ends it.
func TestAcceptAdoptsBelowRubbish(t *testing.T) { bothListings(t, testAcceptAdoptsBelowRubbish) }

func testAcceptAdoptsBelowRubbish(t *testing.T, list listing) {
	h := list(newHost(t, server.Cluster(t).Database(t), 1))
	a := testKey("a")
	h.upsert(a, "ONE")
	h.write(a.UnsafeBytes())
	h.saveDue(0)
	h.save(0, escrow.Current, testKey("foreign"))
	h.plant(0, escrow.Current, []byte("no key"))
	alarm := func() string {
		t.Helper()
		r, err := agent.Status(t.Context(), &h.Host)
		h.must(err)
		return r.Escrows[0].Alarm
	}
	if alarm() == "" {
		t.Error("no alarm over a foreign copy below rubbish")
	}
	if r, err := agent.Accept(t.Context(), &h.Host, agent.AcceptOptions{Confirm: yes}); err != nil || len(r.Adopted) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if a := alarm(); a != "" {
		t.Error(a)
	}
}
