package decide

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// ProofLife is how long a proof lets a known key pass without asking the rows
// (law 7): a day and an hour, so that an hourly proof may fail for a whole day.
const ProofLife = 25 * time.Hour

// Action is what Keyfile says is to be done with the keyfile.
type Action string

// The five answers, and Ask, which is not one: the evidence does not decide yet.
const (
	Pass    Action = "pass"    // the keyfile stays as it is
	Install Action = "install" // Decision.Key goes into the keyfile
	Make    Action = "make"    // first start: no key exists anywhere, make one
	Doubt   Action = "doubt"   // cannot tell: park or refuse
	Lost    Action = "lost"    // no key that can be had opens the rows: park or refuse
	Ask     Action = "ask"     // Decision.Question must be answered first
)

// Question names the evidence that a rule needs next, cheapest first.
type Question string

// The questions in the order of their cost.
const (
	AskHistory Question = "history" // the whole ledger: which keys were contradicted
	AskLocal   Question = "local"   // the local quarantine
	AskRows    Question = "rows"    // try every key at hand on the dependent rows
	AskEscrows Question = "escrows" // list and fetch all copies; call again with every answer
)

// Settlement is how a decision ends an open rotation.
type Settlement string

// Only rows close a rotation (R1).
const (
	SettleNothing Settlement = ""        // none is open, or it stays open
	SettleOld     Settlement = "old"     // the rows are under the old key
	SettleNew     Settlement = "new"     // the rows are under the new key
	SettleNeither Settlement = "neither" // Silent, or neither opens a row
)

// Decision is what Keyfile answers.
type Decision struct {
	Action       Action
	Question     Question        // when Action is Ask
	Rule         string          // R1 to R5
	Key          key.Fingerprint // Pass, Install: the key that the daemon will read
	Needed       key.Fingerprint // Doubt, Lost: the known key, if there is one
	Settle       Settlement
	Contradicted key.Fingerprint // the known key, if the rows refuted it just now
	Reason       string          // one clause for people
	Warning      string          // passes, but a person should know
}

// Keyfile says which key the daemon may start with: design §3, rules R1 to R5, the
// first that applies. It is pure. Where a rule lacks evidence it answers Ask and is
// called again with more; each question is asked at most as often as it can be
// answered, so that the loop ends.
func Keyfile(e Evidence) Decision {
	d := reasoning{Evidence: e, known: e.Ledger.Known, accepted: e.Ledger.Accepted}
	if r := d.OpenRotation(); r != nil {
		if out, done := d.r1(*r); done {
			return d.finish("R1", out)
		}
	}
	if out, done := d.r2(); done {
		return d.finish("R2", out)
	}
	switch e.Rows.State {
	case RowsAnswer:
		return d.finish("R3", d.r3())
	case RowsSilent:
		return d.finish("R4", d.r4())
	case RowsUnknown:
		return d.finish("R5", d.r5())
	}
	return d.finish("R3", ask(AskRows))
}

// reasoning carries what the rules find out on the way to a Decision: the evidence, and the
// known key, which R1, R2 and R3 may take away, R1 may replace, and R4, for people, by one that was in
// use here.
type reasoning struct {
	Evidence
	known        key.Fingerprint
	accepted     bool // known by a person's word, not by a proof
	settle       Settlement
	contradicted key.Fingerprint
}

func (d *reasoning) finish(rule string, out Decision) Decision {
	out.Rule = rule
	if out.Action == Ask {
		return out
	}
	out.Settle, out.Contradicted = d.settle, d.contradicted
	if out.Action == Doubt || out.Action == Lost {
		out.Needed = d.known
	}
	return out
}

func ask(q Question) Decision { return Decision{Action: Ask, Question: q} }

// InDoubt is Doubt, and why.
func InDoubt(format string, a ...any) Decision {
	return Decision{Action: Doubt, Reason: fmt.Sprintf(format, a...)}
}

// r1 settles an open rotation. It reports false when the rotation is closed with
// neither key known: the rules after it go on.
func (d *reasoning) r1(r Rotation) (Decision, bool) {
	switch d.Rows.State {
	case RowsNotAsked:
		return ask(AskRows), true
	case RowsSilent:
		return d.neither()
	case RowsUnknown:
		if d.Keyfile.Good && d.Keyfile.Key == r.New {
			return d.passOrInstall(r.New, "the new key of an open rotation is in place and the rows cannot be asked"), true
		}
		if !r.CommitBegun && r.Old != "" {
			return d.obtain(r.Old, "the rotation had not begun its commit, so the rows are under the old key"), true
		}
		return InDoubt("a rotation stopped in its commit, and only the rows can tell which of its keys holds: %s", d.Rows.Why), true
	}
	old, _ := d.tried(r.Old)
	fresh, _ := d.tried(r.New)
	// A `.next` that was half written holds no key, so that there is none to look for.
	missing := func() bool { return d.untried(r.Old) || d.untried(r.New) }
	if !Majority(old) && !Majority(fresh) && missing() && !d.underAnother(r) {
		if q, more := d.search(missing); more {
			return ask(q), true
		}
		if why := d.unanswered(""); why != "" {
			return InDoubt("a rotation is open and one of its keys cannot be tried: %s", why), true
		}
	}
	switch {
	case old.Opened == 0 && fresh.Opened == 0:
		return d.neither()
	case fresh.Opened > old.Opened, fresh.Opened == old.Opened && d.Keyfile.Key == r.New:
		d.choose(r.New, SettleNew)
	default:
		d.choose(r.Old, SettleOld)
	}
	if won, _ := d.tried(d.known); Majority(won) {
		return d.obtain(d.known, "of the two keys of the open rotation the rows are under this one"), true
	}
	// Neither has most of the rows: the table is split, and another key may have them (law 1). Where
	// nobody can tell, the rows have chosen between these two all the same: what is in doubt is a
	// repair's, which an open rotation would be in the way of. From here on it is decided as by
	// whoever comes when that is closed.
	if out, done := d.r2(); done {
		return out, true
	}
	out := d.r3()
	if (out.Action == Pass || out.Action == Install) && out.Key != d.known {
		d.settle = SettleNeither
	}
	return out, true
}

// choose makes the key known that the rows have chosen. A person's word was for one key alone.
func (d *reasoning) choose(f key.Fingerprint, s Settlement) {
	d.known, d.accepted, d.settle = f, d.accepted && f == d.known, s
}

// underAnother tells whether a key that is not of a rotation opens every row: then neither of
// its two opens any, tried or not.
func (d *reasoning) underAnother(r Rotation) bool {
	for f, p := range d.Rows.Proofs {
		if f != r.Old && f != r.New && p.Verdict == rows.Opens {
			return true
		}
	}
	return false
}

func (d *reasoning) neither() (Decision, bool) {
	d.known, d.settle = "", SettleNeither
	return Decision{}, false
}

// r2 is the healthy path (law 7). It reports false where the keyfile's key is not the known one;
// when the rows refute it: then none is known, and the rows decide; and when it opens less than most
// rows, or an accepted one less than when it was accepted: the rows decide then too, and it stays known.
func (d *reasoning) r2() (Decision, bool) {
	if !d.Keyfile.Good || d.known == "" || d.Keyfile.Key != d.known {
		return Decision{}, false
	}
	pass := Decision{Action: Pass, Key: d.known, Reason: "the key is known"}
	age := d.Now.Sub(d.Ledger.LastLook)
	switch d.Rows.State {
	case RowsNotAsked:
		// A look that lies in the future is no look: the clock was wrong then or is now.
		// And one that found less than most of the rows leaves the question open.
		// One that was accepted when the rows could not be asked was never looked at.
		l := d.Ledger
		split := !d.accepted && l.Verdict == rows.Partial && !l.Majority
		untried := d.accepted && l.Verdict == rows.Unknown
		if !split && !untried && !l.LastLook.IsZero() && age >= 0 && age <= ProofLife {
			if d.accepted {
				pass.Warning = onAWord(l.Verdict)
			}
			return pass, true
		}
		return ask(AskRows), true
	case RowsUnknown:
		tried := "never tried on the rows"
		if !d.Ledger.LastLook.IsZero() {
			tried = "last tried on the rows at " + d.Ledger.LastLook.Local().Format("2006-01-02 15:04:05 MST")
		}
		if age < 0 {
			tried += ", in the future: the clock was wrong then or is now"
		}
		pass.Warning = fmt.Sprintf("the known key passes, and was %s: %s", tried, d.Rows.Why)
		return pass, true
	case RowsSilent:
		return pass, true
	}
	p, tried := d.tried(d.known)
	if !tried {
		return ask(AskRows), true
	}
	if d.contradict(p); d.known == "" {
		return Decision{}, false
	}
	if d.accepted && worth(p.Verdict) < worth(d.Ledger.Verdict) || !d.accepted && !Majority(p) {
		return Decision{}, false
	}
	if pass.Warning = onAPart(p); p.Verdict == rows.Refuted {
		pass.Warning = "the key opens none of the rows, and passes on a person's word"
	}
	return pass, true
}

// onAWord is the warning that comes with a key which a person accepted against the rows.
func onAWord(v rows.Verdict) string {
	opened := ""
	switch v {
	case rows.Refuted:
		opened = "none"
	case rows.Partial:
		opened = "only a part"
	default:
		return ""
	}
	return fmt.Sprintf("the key passes on a person's word: it opened %s of the rows when it was accepted", opened)
}

// contradict takes a known key away that the rows refute. One that a person vouched for stays
// known where the rows refuted it already when the word was given.
func (d *reasoning) contradict(p rows.Proof) {
	if p.Verdict == rows.Refuted && (!d.accepted || d.Ledger.Verdict != rows.Refuted) {
		d.contradicted, d.known = d.known, ""
	}
}

// worth orders what the rows say of a key. What they could not say is no better and no
// worse than that it opens a part.
func worth(v rows.Verdict) int {
	switch v {
	case rows.Opens:
		return 2
	case rows.Refuted:
		return 0
	}
	return 1
}

// onAPart is the warning that comes with a key which does not open every row.
func onAPart(p rows.Proof) string {
	if p.Verdict != rows.Partial {
		return ""
	}
	return fmt.Sprintf("the key opens only %v", p)
}

// r3 lets the rows choose (law 1).
func (d *reasoning) r3() Decision {
	at := d.atHand()
	if d.missingProof(at) {
		return ask(AskRows)
	}
	for _, f := range at {
		if p, _ := d.tried(f); Majority(p) {
			out := d.passOrInstall(f, "it opens every row")
			if out.Warning = onAPart(p); out.Warning != "" {
				out.Reason = fmt.Sprintf("it opens %v, so that no other key opens more", p)
			}
			return out
		}
	}
	if !d.Local.Asked {
		return ask(AskLocal)
	}
	if d.Pending() {
		return ask(AskEscrows)
	}
	// A known key that the rows refute while another file stands in its place.
	if p, tried := d.tried(d.known); tried {
		d.contradict(p)
	}
	best, p := d.best(at)
	why := d.unanswered("")
	switch {
	case why == "" && p.Opened == 0 && d.unheard() != "":
		return InDoubt("no key that can be had opens a row, and %s", d.unheard())
	case why == "" && p.Opened == 0:
		return Decision{Action: Lost, Reason: "no key that can be had opens a row"}
	case why == "":
		out := d.passOrInstall(best, fmt.Sprintf("it opens %v, and no other key opens more", p))
		out.Warning = onAPart(p)
		return out
	case p.Opened > 0 && best == d.known && !d.accepted:
		// Law 9: it is what the daemon ran on. It is decided again when the escrow answers.
		out := d.passOrInstall(best, fmt.Sprintf("it is the known key and opens %v, and no key at hand opens more", p))
		out.Warning = fmt.Sprintf("%s; %s, and may hold a key that opens more", onAPart(p), why)
		return out
	}
	return InDoubt("no key at hand opens most rows, and %s", why)
}

// r4 decides where there is positively no dependent row.
func (d *reasoning) r4() Decision {
	if d.Keyfile.Good {
		return Decision{Action: Pass, Key: d.Keyfile.Key, Reason: "no row depends on a key: " + d.Rows.Why}
	}
	if d.known != "" {
		if d.has(d.known) {
			return d.passOrInstall(d.known, "it is the known key")
		}
		if q, more := d.search(func() bool { return true }); more {
			return ask(q)
		}
	}
	if !d.Local.Asked {
		return ask(AskLocal)
	}
	if d.Pending() {
		return ask(AskEscrows)
	}
	for _, s := range d.Escrows {
		if why := s.mute(); s.Required && why != "" {
			return InDoubt("the keyfile is %s and the required %s", d.Keyfile.Why, why)
		}
	}
	f := d.preferred()
	if f != "" && !d.History.Asked {
		return ask(AskHistory)
	}
	if f != "" && !d.History.Unused[f] {
		out := d.passOrInstall(f, "no row can tell, and it is the first in the order of the copies")
		out.Warning = d.misgivings(f)
		return out
	}
	// Law 2: copies "may exist" wherever somebody did not answer or could not be read.
	if why := cmp.Or(d.unanswered(f), d.unheard()); why != "" {
		return InDoubt("the keyfile is %s, and %s", d.Keyfile.Why, why)
	}
	if why := d.traces(f); why != "" {
		return InDoubt("the keyfile is %s, and %s", d.Keyfile.Why, why)
	}
	// The ledger speaks, whatever the escrows say.
	if !d.History.Asked {
		return ask(AskHistory)
	}
	if why := d.History.Unreadable; why != "" {
		return InDoubt("the keyfile is %s, and a key may have been in use here, which the ledger cannot tell: %s", d.Keyfile.Why, why)
	}
	d.known = d.Ledger.Known
	for _, named := range d.History.Named {
		if d.known == "" && named != f {
			d.known = named
		}
	}
	if d.known != "" {
		return InDoubt("the keyfile is %s and no copy of a key is found, but key %s was in use here, so this is no first start", d.Keyfile.Why, d.known)
	}
	if f != "" {
		return Decision{Action: Make, Key: f, Reason: "it was made for the first start and has not been in place yet, and no row and no other copy exists: " + d.Rows.Why}
	}
	return Decision{Action: Make, Reason: "no row and no copy exists: " + d.Rows.Why}
}

// misgivings is the warning that comes with a key which R4 takes for its place in the order
// alone: what is known to speak for another one, or could not be heard. "" is nothing.
func (d *reasoning) misgivings(f key.Fingerprint) string {
	known, refuted := "", ""
	if d.known != "" {
		known = fmt.Sprintf("key %s, the last that was known to be right here, was not found", d.known)
	}
	if d.History.Contradicted[f] {
		refuted = "it opened none of the rows when it was last tried"
	}
	warning := ""
	for _, why := range []string{known, refuted, cmp.Or(d.unanswered(""), d.unheard())} {
		switch {
		case why == "":
		case warning == "":
			warning = fmt.Sprintf("no row can tell whether key %s is right, and %s", f, why)
		default:
			warning += "; " + why
		}
	}
	return warning
}

// r5 decides while the rows cannot be asked.
func (d *reasoning) r5() Decision {
	if !d.Keyfile.Good {
		if d.known == "" {
			return InDoubt("the keyfile is %s, no key is known here, and the rows cannot be asked: %s", d.Keyfile.Why, d.Rows.Why)
		}
		if d.has(d.known) {
			return d.passOrInstall(d.known, "it is the known key")
		}
		if q, more := d.search(func() bool { return true }); more {
			return ask(q)
		}
		return InDoubt("the keyfile is %s, the known key was not found%s, and the rows cannot be asked: %s",
			d.Keyfile.Why, d.andUnanswered(), d.Rows.Why)
	}
	if d.known != "" {
		return InDoubt("the keyfile holds another key than the known one, and the rows cannot be asked: %s", d.Rows.Why)
	}
	if !d.History.Asked {
		return ask(AskHistory)
	}
	if d.History.Contradicted[d.Keyfile.Key] {
		return InDoubt("the keyfile's key once opened none of the rows, and they cannot be asked now: %s", d.Rows.Why)
	}
	if d.Pending() {
		return ask(AskEscrows)
	}
	for _, s := range d.Escrows {
		if c, ok := s.NewestKey(); ok && c.Key != d.Keyfile.Key {
			return InDoubt("the newest current copy in %q is of another key than the keyfile's, and the rows cannot be asked: %s", s.Name, d.Rows.Why)
		}
	}
	return Decision{Action: Pass, Key: d.Keyfile.Key, Reason: "nothing speaks against the key",
		Warning: "the key could not be tried on the rows: " + d.Rows.Why}
}

// passOrInstall passes when the key is in the keyfile already, and installs it otherwise.
func (d *reasoning) passOrInstall(f key.Fingerprint, reason string) Decision {
	if d.Keyfile.Good && d.Keyfile.Key == f {
		return Decision{Action: Pass, Key: f, Reason: reason}
	}
	return Decision{Action: Install, Key: f, Reason: reason}
}

// obtain places a key that may first have to be looked for.
func (d *reasoning) obtain(f key.Fingerprint, reason string) Decision {
	if d.has(f) {
		return d.passOrInstall(f, reason)
	}
	if q, more := d.search(func() bool { return true }); more {
		return ask(q)
	}
	return InDoubt("key %s is needed and was not found%s", f, d.andUnanswered())
}

// search names the next place to look in for a key, as long as want says that one
// is still missing.
func (d *reasoning) search(want func() bool) (Question, bool) {
	switch {
	case !want():
		return "", false
	case !d.Local.Asked:
		return AskLocal, true
	case d.Rows.State == RowsAnswer && d.missingProof(d.atHand()):
		return AskRows, true
	case d.Pending():
		return AskEscrows, true
	}
	return "", false
}

// atHand lists every key whose bytes are here, in the order in which R3 tries them,
// each once.
func (d *reasoning) atHand() []key.Fingerprint {
	var out []key.Fingerprint
	seen := map[key.Fingerprint]bool{"": true}
	add := func(f key.Fingerprint) {
		if !seen[f] {
			seen[f] = true
			out = append(out, f)
		}
	}
	add(d.Keyfile.Key)
	add(d.Next.Key)
	for _, f := range d.Local.Keys {
		add(f)
	}
	for _, shelf := range []escrow.Shelf{escrow.Current, escrow.Quarantine} {
		for _, s := range d.Escrows {
			for _, c := range s.Copies {
				if c.Shelf == shelf && c.Have {
					add(c.Key)
				}
			}
		}
	}
	for _, s := range d.Escrows {
		for _, c := range s.Copies {
			add(c.Misnamed)
		}
	}
	return out
}

func (d *reasoning) has(f key.Fingerprint) bool {
	return slices.Contains(d.atHand(), f)
}

func (d *reasoning) tried(f key.Fingerprint) (rows.Proof, bool) {
	p, ok := d.Rows.Proofs[f]
	return p, ok && f != ""
}

// untried tells whether a key exists by name but was not tried on the rows.
func (d *reasoning) untried(f key.Fingerprint) bool {
	_, ok := d.tried(f)
	return f != "" && !ok
}

func (d *reasoning) missingProof(at []key.Fingerprint) bool {
	return slices.ContainsFunc(at, d.untried)
}

// best is the key that opens most rows. The known key wins ties, then the keyfile's own,
// then the first by name: not the one that came first.
func (d *reasoning) best(at []key.Fingerprint) (best key.Fingerprint, most rows.Proof) {
	own := key.Fingerprint("")
	if d.Keyfile.Good {
		own = d.Keyfile.Key
	}
	rank := func(f key.Fingerprint) int {
		switch f {
		case d.known:
			return 2
		case own:
			return 1
		}
		return 0
	}
	for _, f := range at {
		p, _ := d.tried(f)
		if c := cmp.Or(cmp.Compare(p.Opened, most.Opened), cmp.Compare(rank(f), rank(best)), cmp.Compare(best, f)); c > 0 && p.Opened > 0 {
			best, most = f, p
		}
	}
	return best, most
}

// unanswered says why the copies are not all known: a local quarantine that cannot be
// read, an escrow without an answer, or a copy that cannot be read (law 6). What was read of
// it before is hearsay. f is a key that was made for a first start and is at hand, "" for none: what
// calls itself a copy of it need not be read. Its save may have broken off, and left a part that no
// key can be read from.
func (d *reasoning) unanswered(f key.Fingerprint) string {
	if why := d.Local.Unreadable; why != "" {
		return "the local quarantine cannot be read: " + why
	}
	for _, s := range d.Escrows {
		if why := s.mute(); why != "" {
			return why
		}
	}
	for _, s := range d.Escrows {
		for _, c := range s.Copies {
			if c.Have || c.Worthless || c.Misnamed != "" || f != "" && c.Key == f {
				continue
			}
			why := c.Unreadable
			if why == "" {
				why = "it was not fetched again yet"
			}
			return fmt.Sprintf("copy %s in escrow %q cannot be read: %s", c.ID, s.Name, why)
		}
	}
	return ""
}

// unheard says which stores of an escrow did not answer, though enough others did.
func (d *reasoning) unheard() string {
	for _, s := range d.Escrows {
		if s.Unheard != "" {
			return fmt.Sprintf("a store of escrow %q that does not answer may have one: %s", s.Name, s.Unheard)
		}
	}
	return ""
}

func (d *reasoning) andUnanswered() string {
	if why := d.unanswered(""); why != "" {
		return " (" + why + ")"
	}
	return ""
}

// traces says where a copy was that is none any more. Somebody destroyed it or wrote
// other bytes; before a new key is made, a person looks (law 2).
func (d *reasoning) traces(f key.Fingerprint) string {
	for _, s := range d.Escrows {
		for _, c := range s.Copies {
			if f == "" || c.Key != f {
				return fmt.Sprintf("escrow %q is not empty: copy %s is there and holds no key any more", s.Name, c.ID)
			}
		}
	}
	return ""
}

// preferred is the first key of R4's order. One that was made for a first start, and that nobody has
// used yet, comes after all others.
func (d *reasoning) preferred() (unused key.Fingerprint) {
	for f := range d.inOrder {
		if !d.History.Unused[f] {
			return f
		}
		unused = cmp.Or(unused, f)
	}
	return unused
}

// inOrder yields the keys at hand in R4's order: the newest current copies in the order
// of the configuration, what a malformed keyfile decodes to, the local quarantine,
// the quarantine shelves, and last the older current copies.
func (d *reasoning) inOrder(yield func(key.Fingerprint) bool) {
	for _, s := range d.Escrows {
		if c, ok := s.NewestKey(); ok && c.Have && !yield(c.Key) {
			return
		}
	}
	for _, f := range append([]key.Fingerprint{d.Keyfile.Key, d.Next.Key}, d.Local.Keys...) {
		if f != "" && !yield(f) {
			return
		}
	}
	for _, shelf := range []escrow.Shelf{escrow.Quarantine, escrow.Current} {
		for _, s := range d.Escrows {
			for _, c := range s.Copies {
				if c.Shelf == shelf && c.Have && !yield(c.Key) {
					return
				}
			}
		}
	}
}
