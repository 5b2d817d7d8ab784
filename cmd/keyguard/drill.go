package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/unit"
	"github.com/footprintai/containarium-keyguard/cmd/keyguard/start"
	"github.com/footprintai/containarium-keyguard/hooks"
)

// scratchDir, in the runtime directory, is where drills restore copies.
const scratchDir = "scratch"

// drillDeliver bounds what hooks may make the end of a drill wait.
const drillDeliver = time.Minute

func (a *app) drillCommand() *cobra.Command {
	var opts agent.DrillOptions
	part := ""
	c := &cobra.Command{
		Use:   "drill",
		Short: "restore the newest copies and prove them on the rows (weekly)",
		Long: `drill restores the copies of every escrow into a file in memory, the newest ten
of each shelf or as many as drill.copies says, reads each the way the daemon
reads its key, and tries it on the rows. It changes no escrow and not the
keyfile; the ledger keeps what came out. Each escrow's newest current copy is
judged; older and quarantined ones are reported: they open old dumps.

Of a key in parts the drill passes as long as enough of them open the rows and
none is wrong; it names those that it could not try. The drill's own unit goes
by that alone: status tells of a store that is down.

--full tries every row, however many there are, and names those that no key
opens. --part proves one part of a key that no escrow reads: the file on a stick
in a safe, a sheet that was scanned or typed ("-" is standard input).

Exit status: 0 passed; 11 nothing was proven: sealed, not mounted, Postgres
unreachable, the rows silent; 12 a copy, or rows, failed, or a required escrow
could not answer, or its part of the key was not tried; 15 another drill or a
rotation is under way, or a rotation stopped halfway.`,
		Example: `  keyguard drill --full
  keyguard drill --part /mnt/stick/part-3.txt
  systemctl start containarium-keyguard-drill.service`,
		RunE: func(c *cobra.Command, _ []string) error {
			if part != "" {
				return a.drillPart(c.Context(), part)
			}
			return a.drill(c.Context(), opts)
		},
	}
	c.Flags().StringVar(&part, "part", "", "prove the part of a key in this `file`, and nothing else")
	c.Flags().BoolVar(&opts.Full, "full", false, "try every row, and name those that no key opens")
	a.identityFlag(c)
	a.allFlag(c)
	a.jsonFlag(c)
	return c
}

func (a *app) drill(ctx context.Context, opts agent.DrillOptions) error {
	if unit.StderrIsJournal() {
		a.level = "<6>" // informational; sd-daemon(3)
	}
	h, cfg, err := a.open()
	if err != nil {
		return err
	}
	r, deliver, err := a.runDrill(ctx, h, cfg, opts)
	if err != nil {
		return err
	}
	defer deliver()
	return a.printDrill(r)
}

// partDrillDoc is the verdict on one part.
type partDrillDoc struct {
	Version     int                `json:"version"`
	Fingerprint key.Fingerprint    `json:"fingerprint"`
	Part        int                `json:"part"`
	Need        int                `json:"need"`
	Written     *time.Time         `json:"written,omitempty"` // the file's last change
	Verdict     agent.DrillVerdict `json:"verdict"`
	Reason      string             `json:"reason"`
}

// drillPart proves one part from a file.
func (a *app) drillPart(ctx context.Context, file string) error {
	var data []byte
	var err error
	written := time.Time{}
	if file == "-" {
		data, err = io.ReadAll(io.LimitReader(a.in, maxImport))
	} else if data, err = crew.ReadOnce(file, maxImport); err == nil {
		if info, err := crew.Stat(file); err == nil {
			written = info.ModTime()
		}
	}
	defer clear(data)
	if err != nil {
		return usageError{fmt.Errorf("cannot read the part in %s: %w", file, err)}
	}
	parts, err := key.ReadParts(data)
	switch {
	case err != nil:
		return inputError{fmt.Errorf("%s: %w", file, err)}
	case len(parts) != 1:
		for _, p := range parts {
			p.Wipe()
		}
		return usageError{fmt.Errorf("%s holds %d parts of keys, and one is proven at a time", file, len(parts))}
	}
	p := parts[0]
	defer p.Wipe()
	h, cfg, err := a.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	a.forgetBackoff(cfg)
	a.sayWaiting("looking for key %s …", p.Of)
	r, err := agent.DrillPart(ctx, h, p)
	if err != nil {
		return err
	}
	a.explainTrouble(r.Trouble)
	if a.json {
		if err := a.printJSON(partDrillDoc{jsonVersion, p.Of, p.Number, p.Need, timeDoc(written), r.Verdict, r.Reason}); err != nil {
			return err
		}
	} else {
		a.line("%v", p)
		if !written.IsZero() {
			a.line("written %s, %s ago", when(written), short(time.Since(written)))
		}
		a.line("%s: %s", r.Verdict, r.Reason)
	}
	switch r.Verdict {
	case agent.DrillPassed:
		return nil
	case agent.DrillFailed:
		return outcome{exitEscrow, "the part failed: " + r.Reason, []string{"make it again from today's key: keyguard paper --split K --of N, or keyguard backup"}}
	}
	return outcome{exitDoubt, "nothing was proven: " + r.Reason, []string{"bring up the escrow that has the key: keyguard status; or bring as many parts as are needed: keyguard import"}}
}

// runDrill drills. deliver tells those about it who take their time.
func (a *app) runDrill(ctx context.Context, h *agent.Host, cfg *config.Config, opts agent.DrillOptions) (r agent.DrillResult, deliver func(), err error) {
	opts.Copies, opts.Scratch, opts.Person = cfg.Drill.Copies, filepath.Join(cfg.RunDir, scratchDir), drillPerson()
	show := &progress{app: a, name: "drill", of: "copies"}
	if terminal(os.Stderr) {
		opts.Progress = show.drill
	}
	t := a.teller(h, cfg, wiring{}, nil)
	r, err = hooks.Drill(ctx, h, hooks.DrillOptions{DrillOptions: opts, Tell: t.Tell})
	show.end()
	return r, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drillDeliver)
		defer cancel()
		t.Deliver(ctx)
	}, err
}

// drillPerson names who runs this drill, for the ledger.
func drillPerson() string {
	if unit.StderrIsJournal() {
		return "systemd"
	}
	return person()
}

type drillDoc struct {
	Version  int                `json:"version"`
	ID       string             `json:"id"`
	Host     string             `json:"host"`
	Verdict  agent.DrillVerdict `json:"verdict"`
	Reason   string             `json:"reason"`
	Full     bool               `json:"full"`
	TookMS   int64              `json:"took_ms"`
	Rows     rowsDoc            `json:"rows"`
	Tampered string             `json:"tampered,omitempty"`
	Unopened *unopenedDoc       `json:"unopened,omitempty"` // only with --full
	Copies   []drilledDoc       `json:"copies"`
}

// unopenedDoc are the rows that no key opens.
type unopenedDoc struct {
	Count   int64    `json:"count"`
	Stretch bool     `json:"in_one_stretch"` // no other row was written between them
	Rows    []rowDoc `json:"rows"`           // the first thousand
}

type drilledDoc struct {
	Escrow      string             `json:"escrow"`
	Required    bool               `json:"required"`
	ID          string             `json:"id,omitempty"` // none: of the escrow as a whole
	Shelf       escrow.Shelf       `json:"shelf,omitempty"`
	Fingerprint key.Fingerprint    `json:"fingerprint,omitempty"`
	Created     *time.Time         `json:"created,omitempty"`
	Ends        *time.Time         `json:"ends,omitempty"` // when the store will delete it by itself
	Encoding    key.Encoding       `json:"encoding,omitempty"`
	Judged      bool               `json:"judged"`
	Verdict     agent.DrillVerdict `json:"verdict"`
	Reason      string             `json:"reason"`
	Proof       *proofDoc          `json:"proof,omitempty"`
	Parts       []partDoc          `json:"parts,omitempty"` // of a key in parts
	TookMS      int64              `json:"took_ms"`
}

// partDoc is one store's part of a key.
type partDoc struct {
	Member string `json:"member"`
	Part   int    `json:"part"`
	Error  string `json:"error,omitempty"` // none: it took part in rebuilding the key
}

func drillDocOf(r agent.DrillResult) drillDoc {
	d := drillDoc{Version: jsonVersion, ID: r.ID, Host: start.Hostname(), Verdict: r.Verdict, Reason: r.Reason, Full: r.Full,
		TookMS: r.Took.Milliseconds(), Rows: rowsDocOf(r.Rows), Tampered: r.Tampered(), Copies: []drilledDoc{}}
	if r.Full && r.Rows.State == decide.RowsAnswer {
		d.Unopened = &unopenedDoc{Count: r.Unopened.Count, Stretch: r.Unopened.Stretch, Rows: []rowDoc{}}
		for _, n := range r.Unopened.Rows {
			d.Unopened.Rows = append(d.Unopened.Rows, rowDoc(n))
		}
	}
	for _, c := range r.Copies {
		doc := drilledDoc{Escrow: c.Escrow, Required: c.Required, ID: c.ID, Shelf: c.Shelf, Fingerprint: c.Key,
			Created: timeDoc(c.Created), Ends: timeDoc(c.Ends), Encoding: c.Encoding, Judged: c.Judged, Verdict: c.Verdict, Reason: c.Reason, TookMS: c.Took.Milliseconds()}
		if c.Proof.Checked > 0 {
			doc.Proof = &proofDoc{c.Proof.Verdict, c.Proof.Checked, c.Proof.Opened}
		}
		for _, p := range c.Parts {
			doc.Parts = append(doc.Parts, partDoc{p.Member, p.Number, errorText(p.Err)})
		}
		d.Copies = append(d.Copies, doc)
	}
	return d
}

func (a *app) printDrill(r agent.DrillResult) error {
	a.explainTrouble(r.Trouble)
	if a.json {
		if err := a.printJSON(drillDocOf(r)); err != nil {
			return err
		}
	} else {
		a.printDrillText(r)
	}
	code := exitEscrow
	untried := slices.ContainsFunc(r.Untried(), func(p escrow.PartOutcome) bool { return p.Required })
	switch {
	case r.Verdict == agent.DrillPassed && (!untried || unit.StderrIsJournal()): // a unit that fails wakes people
		return nil
	case r.Verdict == agent.DrillInconclusive && !r.Proven():
		code = exitDoubt
	}
	return outcome{code, fmt.Sprintf("drill %s: %s", r.Verdict, r.Reason), drillHints(r)}
}

// drillHints says what to type about each judged copy that did not pass.
func drillHints(r agent.DrillResult) []string {
	hints, partial := []string{remedyOf(r.Err)}, false
	for _, c := range r.Copies {
		if !c.Judged || c.Verdict == agent.DrillPassed {
			continue
		}
		partial = partial || c.Proof.Verdict == rows.Partial
		hint := remedyOf(c.Err)
		switch {
		case errors.Is(c.Err, escrow.ErrSealed):
			hint = "prove it with its identity: keyguard drill --identity FILE; or name that in the configuration, as identity_file"
		case errors.Is(c.Err, key.ErrMangled): // which its remedy says how not to do again
			hints = append(hints, saveOver)
		case errors.Is(c.Err, escrow.ErrNotKey): // in a store, and nothing that a person feeds to a command
			hint = saveOver
		case c.Err == nil && c.Verdict == agent.DrillFailed && r.Rows.Split():
			hint = oneKey
		case c.Err == nil && c.Verdict == agent.DrillFailed:
			hint = "if the keyfile's key is right, save it again: keyguard backup; see what every key opens: keyguard verify"
		}
		hints = append(hints, hint)
	}
	for _, p := range r.Untried() {
		hints = append(hints, remedyOf(p.Err))
	}
	switch {
	case r.Rows.State == decide.RowsSilent:
		hints = append(hints, "how the key stands all the same: keyguard status")
	case r.Tampered() != "":
		hints = append(hints, "bring these rows back from a dump of the database, or set them anew: containarium secrets set; or, if they have a key of their own: keyguard import --escrow-only")
	case partial && !r.Full && !r.Rows.Split():
		hints = append(hints, "name the rows that no key opens: keyguard drill --full")
	}
	return hints
}

var drillColour = map[agent.DrillVerdict]colour{agent.DrillPassed: green, agent.DrillFailed: red, agent.DrillInconclusive: yellow}

func (a *app) printDrillText(r agent.DrillResult) {
	a.answer(drillColour[r.Verdict], fmt.Sprintf("%s: %s", r.Verdict, r.Reason))
	if a.brief {
		return
	}
	shown := r.Copies
	if len(shown) > foldAfter && !a.all {
		shown = oneOfEachKey(r.Copies)
	}
	others := a.drilledTable(shown)
	if n := len(r.Copies) - len(shown); n > 0 {
		a.line("(and %d more of the same keys: --all)", n)
	}
	for _, c := range r.Copies {
		if c.Judged && !c.Ends.IsZero() {
			a.line("escrow %q: the store deletes copy %s by itself, %s", c.Escrow, c.ID, when(c.Ends))
		}
	}
	for _, c := range r.Copies {
		a.partLines(c)
	}
	if others {
		a.line("(in parentheses: only reported, as it is not its escrow's newest current copy)")
	}
	if t := r.Tampered(); t != "" {
		a.line("")
		a.line("%s:", t)
		for _, n := range r.Unopened.Rows {
			a.line("  %s", n)
		}
		if more := r.Unopened.Count - int64(len(r.Unopened.Rows)); more > 0 {
			a.line("  and %d more", more)
		}
	}
	a.line("")
	a.line("drill %s: %s, in %s", r.ID, r.Verdict, short(r.Took))
	if r.Verdict == agent.DrillPassed && len(shown) > foldAfter { // else it is on the screen, or the error says it
		a.line("%s", r.Reason)
	}
}

// oneOfEachKey leaves of the copies that are only reported one of each key.
func oneOfEachKey(all []agent.DrilledCopy) []agent.DrilledCopy {
	keys := map[key.Fingerprint]bool{}
	for _, c := range all {
		if c.Judged {
			keys[c.Key] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(c agent.DrilledCopy) bool {
		known := keys[c.Key] && c.Key != ""
		keys[c.Key] = true
		return known && !c.Judged
	})
}

// drilledTable lists copies, and tells whether some of them are only reported.
func (a *app) drilledTable(copies []agent.DrilledCopy) (others bool) {
	if len(copies) == 0 {
		return false
	}
	a.table("ESCROW\tCOPY\tKEY\tOPENED\tVERDICT\tWHY", func(row func(...string)) {
		for _, c := range copies {
			opened := "-"
			if c.Proof.Checked > 0 {
				opened = fmt.Sprintf("%d of %d", c.Proof.Opened, c.Proof.Checked)
			}
			verdict := string(c.Verdict)
			if !c.Judged {
				others = true
				verdict = "(" + verdict + ")"
			}
			row(c.Escrow, orDash(c.ID), orNone(c.Key), opened, verdict, c.Reason)
		}
	})
	return others
}

func (a *app) partLines(c agent.DrilledCopy) {
	for _, p := range c.Parts {
		switch {
		case p.Wrong():
			a.line("%s, part %d: %v", p.Member, p.Number, p.Err)
		case p.Err != nil:
			a.line("%s, part %d: not tried: %v", p.Member, p.Number, p.Err)
		default:
			a.line("%s, part %d: right, it rebuilds key %s", p.Member, p.Number, c.Key)
		}
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
