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
		a.Err = rows.ErrNotListening
		return a
	case rows.Silent:
		return a
	}
	a.Counts.Legacy = t.total
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
		return rows.RewriteResult{Rewritten: t.total}, nil
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
			k := pick()
			c := e.save(escrow.Shelves[r.IntN(2)], k)
			switch r.IntN(6) {
			case 0:
				e.wrong[c.ID] = escrow.ErrNotKey
			case 1, 2:
				seal(e, c.ID, k.Fingerprint(), r.IntN(3))
			}
			if r.IntN(4) > 0 {
				continue
			}
			// What the ledger tells of it: that this host saved it, and what a drill made of it.
			told := ledger.Entry{Event: ledger.Saved, Fingerprint: k.Fingerprint(), Escrow: e.name, Copy: c.ID, Shelf: string(c.Shelf)}
			if r.IntN(2) == 0 {
				must(h.Ledger.Append(told))
			}
			told.Event, told.Verdict, told.Checked, told.Judged = ledger.Drilled, string(agent.DrillPassed), table.total, true
			if told.Opened = table.total; r.IntN(3) == 0 {
				told.Verdict, told.Opened = string(agent.DrillFailed), 0
			}
			must(h.Ledger.Append(told))
		}
		e.away = r.IntN(5) == 0
		h.Escrows[i].Reader, h.Escrows[i].Writer = e, e
	}
	return &h
}

// seal makes a copy one that nobody here opens: what it says of itself, and whether that is
// in the listing, is the store's manner.
func seal(e shelves, id string, f key.Fingerprint, manner int) {
	i := slices.IndexFunc(e.list, func(c stored) bool { return c.ID == id })
	switch c := &e.list[i]; manner {
	case 0:
		c.Sealed, c.Unreadable, c.Fingerprint = true, "sealed", f
	case 1:
		e.wrong[id] = &escrow.SealedError{Fingerprint: f}
	default:
		e.wrong[id] = &escrow.SealedError{}
	}
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

		survives := doctored(ctx, h, s, fail)

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

		// The saver does what status has said of the keyfile's key, and a drill afterwards
		// finds what status says then.
		b := observed(t, filepath.Join(memory, "c"), seed)
		saver(ctx, b, s, fail)
		b = observed(t, filepath.Join(memory, "d"), seed)
		drilled(ctx, b, filepath.Join(memory, "scratch"), fail)
		if s.Keyfile.Good && d.Action == decide.Pass && !open {
			b = observed(t, filepath.Join(memory, "e"), seed)
			if err := os.Remove(b.Keyfile.Path); err != nil {
				t.Fatal(err)
			}
			g, err := agent.Guard(ctx, b, agent.GuardOptions{})
			if found := g.Decision.Action == decide.Install && g.Decision.Key == d.Key; err != nil || found != survives {
				fail("a start without the keyfile", "%+v, %v, and the doctor says that it is survived: %t", g.Decision, err, survives)
			}
		}
		for _, dir := range []string{"a", "b", "c", "d", "e"} {
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

// doctored: the doctor finds nothing wrong where status does, and the other way round.
func doctored(ctx context.Context, h *agent.Host, s agent.StatusResult, fail func(who, format string, args ...any)) (survives bool) {
	r, err := agent.Doctor(ctx, h, agent.DoctorOptions{ClockSynced: func() (bool, error) { return true, nil }})
	if err != nil || r.Status.Health != s.Health || r.Status.Line != s.Line {
		fail("doctor", "%s: %s, %v", r.Status.Health, r.Status.Line, err)
	}
	ailing := map[string]bool{}
	for _, a := range s.Ailments {
		if a.Escrow != nil {
			ailing[fmt.Sprintf("escrow %q", a.Escrow.Name)] = true
		}
	}
	d := s.Decision
	right := d.Action == decide.Make || d.Action == decide.Pass && s.Loose == ""
	for _, c := range r.Checks {
		well := c.State == agent.CheckOK
		switch {
		case c.Name == "keyfile" && well != right:
			fail("doctor", "keyfile: %s, %s", c.State, c.Text)
		case ailing[c.Name] && well:
			fail("doctor", "%s: %s, %s", c.Name, c.State, c.Text)
		}
	}
	for _, v := range r.Threats {
		if v.Verdict == agent.Survives && d.Action == decide.Lost {
			fail("doctor", "%s: %s", v.Threat, v.Verdict)
		}
		survives = survives || v.Threat == agent.KeyfileDeleted && v.Verdict == agent.Survives
	}
	return survives
}

// saver: what is due goes to the shelf that status has named for it.
func saver(ctx context.Context, h *agent.Host, s agent.StatusResult, fail func(who, format string, args ...any)) {
	for _, e := range s.Escrows {
		saved, err := agent.SaveDue(ctx, h, e.Name)
		if err != nil && e.State == decide.EscrowAnswered {
			fail("the saver", "escrow %s: %v", e.Name, err)
		}
		for _, r := range saved {
			if r.Key == s.Keyfile.Key && (r.Shelf == escrow.Current) != (e.Barred.Why == "") {
				fail("the saver", "escrow %s: key %s went to %s (%s), and status says %q", e.Name, r.Key, r.Shelf, r.Why, e.Barred.Why)
			}
		}
	}
}

// drilled: what a drill finds is what status says.
func drilled(ctx context.Context, h *agent.Host, scratch string, fail func(who, format string, args ...any)) {
	s, err := agent.Status(ctx, h)
	if err != nil {
		fail("status", "%v", err)
	}
	r, err := agent.Drill(ctx, h, agent.DrillOptions{Scratch: scratch})
	switch {
	case errors.Is(err, agent.ErrNoEscrow) && len(h.Escrows) == 0, errors.Is(err, agent.ErrNotDrilled) && s.Halfway != nil:
		return
	case err != nil:
		fail("a drill", "%v", err)
	}
	if r.Verdict == agent.DrillFailed && s.Health == agent.Green {
		fail("a drill", "%s", r.Reason)
	}
	for _, c := range r.Copies {
		e := s.Escrows[slices.IndexFunc(s.Escrows, func(e agent.EscrowStatus) bool { return e.Name == c.Escrow })]
		own := s.Proof.Verdict == rows.Opens && c.Key == s.Keyfile.Key
		right := c.Key == s.Decision.Key || s.Accepted
		switch {
		case !c.Judged:
		case c.ID != e.Newest.ID:
			fail("a drill", "it judged copy %q of %s, and the newest is %q", c.ID, c.Escrow, e.Newest.ID)
		case c.Verdict == agent.DrillPassed && !right:
			fail("a drill", "copy %s of %s, key %s: %s", c.ID, c.Escrow, c.Key, c.Reason)
		case c.Verdict == agent.DrillPassed && own && !e.Holds && e.Alarm == "":
			fail("a drill", "copy %s of %s passed, and status says that it does not hold the key", c.ID, c.Escrow)
		case c.Verdict == agent.DrillFailed && own && e.Holds:
			fail("a drill", "copy %s of %s: %s", c.ID, c.Escrow, c.Reason)
		}
	}
}

// TestTheSaverLooksAsFarAsStatus: where the rows prove nothing, older copies and other escrows
// have a say in where a key goes (law 4), and the saver hears them as status does.
func TestTheSaverLooksAsFarAsStatus(t *testing.T) {
	a, b := testKey("a"), testKey("b")
	for name, c := range map[string]struct {
		rows rows.Verdict
		on   func(one, two shelves)
		want escrow.Shelf
	}{
		"silent rows, and what is below the top is no key": {rows.Silent, func(one, _ shelves) {
			one.wrong[one.save(escrow.Current, b).ID] = escrow.ErrNotKey
			seal(one, one.save(escrow.Current, a).ID, a.Fingerprint(), 1)
		}, escrow.Current},
		"silent rows, and what is below the top is another key": {rows.Silent, func(one, _ shelves) {
			one.save(escrow.Current, b)
			seal(one, one.save(escrow.Current, a).ID, a.Fingerprint(), 1)
		}, escrow.Quarantine},
		"silent rows, and another escrow has no key below its top": {rows.Silent, func(_, two shelves) {
			two.wrong[two.save(escrow.Current, b).ID] = escrow.ErrNotKey
			two.save(escrow.Current, a)
		}, escrow.Current},
		"rows that cannot be asked, and another escrow has a key on top that was never proven": {rows.Unknown, func(_, two shelves) {
			two.save(escrow.Current, b)
		}, escrow.Quarantine},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, nil, 0)
			h.write(a.UnsafeBytes())
			h.must(prove(&h.Host, a))
			if c.rows == rows.Silent { // nothing was proven here
				h.must(os.Remove(filepath.Join(h.StateDir, ledger.Name)))
			}
			h.OpenRows = func(context.Context, rows.Options) (agent.Rows, error) { return toldRows{state: c.rows}, nil }
			at := func(name string) shelves {
				return shelves{place: place{store: &store{name: name, blind: true}, call: plain}, wrong: map[string]error{}}
			}
			one, two := at("one"), at("two")
			c.on(one, two)
			h.Escrows = []agent.Escrow{{Reader: one, Writer: one, Required: true}, {Reader: two, Writer: two}}
			s, err := agent.Status(t.Context(), &h.Host)
			h.must(err)
			saved, err := agent.SaveDue(t.Context(), &h.Host, "one")
			h.must(err)
			if len(saved) != 1 || saved[0].Shelf != c.want || (s.Escrows[0].Barred.Why == "") != (c.want == escrow.Current) {
				t.Errorf("saved %+v, and status says %q", saved, s.Escrows[0].Barred.Why)
			}
		})
	}
}
