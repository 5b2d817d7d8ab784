package agent_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable/durabletest"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// toldRows is a table of which it is only known which key opens how many rows.
type toldRows struct {
	state rows.Verdict // Answered, Silent or Unknown
	opens map[key.Fingerprint]int64
	total int64
}

func (t toldRows) Prove(_ context.Context, keys ...key.Key) rows.Answer {
	a := rows.Answer{State: t.state, Why: "because"}
	switch t.state {
	case rows.Unknown:
		a.Err = rows.ErrRefused
		return a
	case rows.Silent:
		return a
	}
	a.Counts.Legacy, a.Mark = t.total, "mark"
	for _, k := range keys {
		p := rows.Proof{Fingerprint: k.Fingerprint(), Verdict: rows.Partial, Checked: t.total, Opened: t.opens[k.Fingerprint()]}
		switch p.Opened {
		case 0:
			p.Verdict = rows.Refuted
		case t.total:
			p.Verdict = rows.Opens
		}
		a.Proofs = append(a.Proofs, p)
	}
	return a
}

func (t toldRows) Rewrite(_ context.Context, o rows.RewriteOptions) (rows.RewriteResult, error) {
	if o.DryRun && t.opens[o.Keys[0].Fingerprint()] == t.total {
		return rows.RewriteResult{}, nil
	}
	return rows.RewriteResult{}, errors.New("some rows open under another key")
}
func (toldRows) MayRewrite(context.Context) error                    { return nil }
func (toldRows) OtherClients(context.Context) ([]rows.Client, error) { return nil, nil }
func (toldRows) Close()                                              {}

// shelves is an escrow in memory with copies that are none among them.
type shelves struct {
	place
	wrong map[string]error // by id: what a Fetch says
	away  bool
}

func (s shelves) List(ctx context.Context) ([]escrow.Copy, error) {
	if s.away {
		return nil, escrow.ErrUnreachable
	}
	return s.place.List(ctx)
}

func (s shelves) Fetch(ctx context.Context, c escrow.Copy) (key.Key, key.Encoding, error) {
	if err := s.wrong[c.ID]; err != nil {
		return key.Key{}, "", err
	}
	return s.place.Fetch(ctx, c)
}

func (s shelves) Save(ctx context.Context, shelf escrow.Shelf, k key.Key) (escrow.Copy, error) {
	if s.away {
		return escrow.Copy{}, escrow.ErrUnreachable
	}
	return s.place.Save(ctx, shelf, k)
}

// observed is a host of which all that is told is drawn: what stands in the keyfile's place and
// beside it, what the ledger, the local quarantine, the rows and the escrows say. The
// same seed draws the same, in a directory that it makes.
func observed(t *testing.T, dir string, seed uint64) *agent.Host {
	r := rand.New(rand.NewPCG(seed, 5))
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	h := hostIn(dir, func() time.Time { return now })
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(errors.Join(os.Mkdir(dir, 0o700), os.Mkdir(filepath.Join(dir, "etc"), 0o700), os.Mkdir(filepath.Join(dir, "state"), 0o700)))
	keys := []key.Key{testKey("a"), testKey("b"), testKey("c")}
	pick := func() key.Key { return keys[r.IntN(len(keys))] }
	table := toldRows{state: []rows.Verdict{rows.Answered, rows.Answered, rows.Silent, rows.Unknown}[r.IntN(4)],
		opens: map[key.Fingerprint]int64{}, total: 10}
	left := table.total
	for _, k := range keys {
		n := []int64{left, r.Int64N(left + 1), 0}[r.IntN(3)]
		table.opens[k.Fingerprint()] = n
		left -= n
	}
	h.OpenRows = func(context.Context, rows.Options) (agent.Rows, error) { return table, nil }
	fresh, well := false, false // two kinds that chance draws seldom
	switch r.IntN(12) {
	case 0: // nothing is anywhere
		fresh, table.state = true, rows.Silent
	case 1: // all is as it should be
		well, table.state, table.opens = true, rows.Answered, map[key.Fingerprint]int64{keys[0].Fingerprint(): table.total}
		must(put(&h, keys[0]))
		must(prove(&h, keys[0]))
	}
	for i := range r.IntN(3) {
		e := shelves{place: place{store: &store{name: fmt.Sprint("escrow", i), blind: r.IntN(2) == 0}, call: plain}, wrong: map[string]error{}}
		h.Escrows = append(h.Escrows, agent.Escrow{Reader: e, Writer: e, Required: r.IntN(2) == 0})
		if well {
			e.save(escrow.Current, keys[0])
		}
	}
	if now = now.Add(decide.ProofLife + time.Hour); fresh || well { // a start asks as the others do (law 7)
		return &h
	}
	switch r.IntN(5) {
	case 0: // missing
	case 1:
		must(os.WriteFile(h.Keyfile.Path, []byte(base64.StdEncoding.EncodeToString(pick().UnsafeBytes())), 0o400))
	default:
		must(put(&h, pick()))
	}
	if r.IntN(8) == 0 {
		must(os.WriteFile(h.Keyfile.Path+".next", pick().UnsafeBytes(), 0o400))
	}
	now = now.Add(-decide.ProofLife - time.Hour)
	entry := func(e ledger.Event, k key.Key) {
		v := []rows.Verdict{rows.Opens, rows.Partial, rows.Silent}[r.IntN(3)]
		l := ledger.Entry{Event: e, Fingerprint: k.Fingerprint(), Verdict: string(v)}
		if e == ledger.Proven {
			l.Verdict, l.Checked, l.Opened = string(rows.Partial), 10, 1+r.Int64N(9)
		}
		must(h.Ledger.Append(l))
	}
	switch r.IntN(4) {
	case 0:
		entry(ledger.Accepted, pick())
	case 1, 2:
		entry(ledger.Proven, pick())
	}
	if r.IntN(8) == 0 {
		must(h.Ledger.Append(ledger.Entry{Event: ledger.RotationOpen, Old: pick().Fingerprint(), Fingerprint: pick().Fingerprint()}))
	}
	now = now.Add(decide.ProofLife + time.Hour)
	if r.IntN(3) == 0 {
		must(h.Keyfile.Keep(pick(), now))
	}
	for i := range h.Escrows {
		e := h.Escrows[i].Reader.(shelves)
		for range r.IntN(4) {
			c := e.save(escrow.Shelves[r.IntN(2)], pick())
			switch r.IntN(6) {
			case 0:
				e.wrong[c.ID] = escrow.ErrNotKey
			case 1:
				e.wrong[c.ID] = &escrow.SealedError{}
			}
		}
		e.away = r.IntN(5) == 0
		h.Escrows[i].Reader, h.Escrows[i].Writer = e, e
	}
	return &h
}

// TestNobodyDisagrees draws hosts and has every command that judges one judge it: what
// the one would do, none of the others contradicts. KEYGUARD_HOSTS is how many they are.
func TestNobodyDisagrees(t *testing.T) {
	hosts := uint64(300)
	if n, err := strconv.ParseUint(os.Getenv("KEYGUARD_HOSTS"), 10, 64); err == nil {
		hosts = n
	}
	memory := durabletest.TmpFS(t, 16<<20)
	ctx := t.Context()
	actions, rotated := map[decide.Action]int{}, 0
	for seed := range hosts {
		h := observed(t, filepath.Join(memory, "a"), seed)
		s, err := agent.Status(ctx, h)
		if err != nil {
			t.Fatal(err)
		}
		d := s.Decision
		actions[d.Action]++
		fail := func(who string, format string, args ...any) {
			t.Helper()
			t.Errorf("host %d: status says %+v; %s: %s", seed, d, who, fmt.Sprintf(format, args...))
		}
		same := func(who string, o decide.Decision) {
			t.Helper()
			if o.Action == decide.Make {
				o.Key = "" // the one that was made
			}
			if o.Action != d.Action || o.Key != d.Key || o.Settle != d.Settle || o.Needed != d.Needed {
				fail(who, "%+v", o)
			}
		}
		v, err := agent.Verify(ctx, h)
		if err != nil {
			t.Fatal(err)
		}
		same("verify", v.Decision)

		open := d.Rule == "R1" || d.Settle != decide.SettleNothing
		places := d.Action == decide.Pass || d.Action == decide.Install
		if r, err := agent.Restore(ctx, h, agent.RestoreOptions{DryRun: true}); !open {
			if places && (err != nil || r.Key != d.Key) {
				fail("restore", "key %s, %v", r.Key, err)
			}
			if !places && err == nil {
				fail("restore", "key %s", r.Key)
			}
		}
		_, err = agent.Rotate(ctx, h, agent.RotateOptions{DryRun: true})
		held := !slices.ContainsFunc(s.Escrows, func(e agent.EscrowStatus) bool { return e.Required && !e.Holds })
		if err == nil {
			rotated++
			if d.Action != decide.Pass || s.Proof.Verdict != rows.Opens || !held {
				fail("rotate --dry-run", "it could begin, while status is %s: %s", s.Health, s.Line)
			}
		} else if s.Health == agent.Green && s.Rows.State == decide.RowsAnswer && !errors.Is(err, agent.ErrRotationOpen) {
			fail("rotate --dry-run", "%v, while status is green", err)
		}

		w := observed(t, filepath.Join(memory, "b"), seed)
		tended, err := agent.Tend(ctx, w, agent.TendOptions{Prove: true})
		if err != nil && !errors.Is(err, agent.ErrNotPlaced) {
			fail("the watcher", "%v", err)
		}
		same("the watcher", tended.Decision)
		g, err := agent.Guard(ctx, h, agent.GuardOptions{})
		if err != nil && !errors.Is(err, agent.ErrNotPlaced) {
			fail("a start", "%v", err)
		}
		same("a start", g.Decision)
		for _, dir := range []string{"a", "b"} {
			if err := os.RemoveAll(filepath.Join(memory, dir)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, a := range []decide.Action{decide.Pass, decide.Install, decide.Make, decide.Doubt, decide.Lost} {
		if actions[a] == 0 {
			t.Errorf("no host came to %q", a)
		}
	}
	if rotated == 0 {
		t.Error("no host could rotate")
	}
	t.Logf("%d hosts: %v, %d could rotate", hosts, actions, rotated)
}
