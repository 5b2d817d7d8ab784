package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/notify"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// Threat is one line of the runbook's threat table.
type Threat string

// The threats, in the table's order.
const (
	KeyfileDeleted     Threat = "keyfile deleted"
	DiskLost           Threat = "disk lost"
	VMDeleted          Threat = "VM deleted"
	ProjectDeleted     Threat = "cloud project deleted"
	OperatorCompromise Threat = "operator compromised"
	PostgresLost       Threat = "Postgres lost"
	CiphertextTampered Threat = "ciphertext tampered"
	StoreRead          Threat = "a store is read" // only where a key is kept in parts
)

// Survival is this host's verdict on a threat.
type Survival string

// Unknown is not "no" (law 6).
const (
	Survives       Survival = "survives"
	SurvivesNot    Survival = "does not"
	SurvivalUnsure Survival = "unknown"
)

// Lack is what would make a verdict better: cmd/keyguard says by which command.
type Lack string

// What can be lacking.
const (
	LacksNothing    Lack = ""
	LacksHook       Lack = "hook"          // the daemon starts without asking keyguard
	LacksKey        Lack = "key"           // nobody knows which key is right
	LacksCopy       Lack = "copy"          // no escrow holds the key
	LacksAnswer     Lack = "answer"        // an escrow cannot answer
	LacksOtherDisk  Lack = "other disk"    // all copies are on the keyfile's disk
	LacksOffHost    Lack = "off host"      // all copies go with the host
	LacksProject    Lack = "other project" // all copies go with the host's cloud project
	LacksProtection Lack = "protection"    // whoever has this host can destroy all copies
	LacksParts      Lack = "parts"         // whoever reads one store has the key
	LacksDump       Lack = "dump"          // the rows are not keyguard's to keep
	LacksOldKeys    Lack = "old keys"      // a key that opens older dumps is in no escrow
	LacksRows       Lack = "rows"          // the rows cannot be asked
	LacksFull       Lack = "full drill"    // only a sample was tried
	LacksRepair     Lack = "repair"        // rows that the key does not open
)

// ThreatVerdict is one line of the table, filled in.
type ThreatVerdict struct {
	Threat   Threat
	Verdict  Survival
	Evidence []string // a clause each
	Lacks    Lack
}

// CheckState is the outcome of a check.
type CheckState string

// The states.
const (
	CheckOK      CheckState = "ok"
	CheckProblem CheckState = "problem"
	CheckUnknown CheckState = "unknown"
)

// Check is one thing about this host that must be so.
type Check struct {
	Name  string
	State CheckState
	Text  string
	Err   error  // what went wrong, for its remedy
	Fix   string // what to type, where no error says so
}

// DoctorOptions are the things of this host that the doctor looks at besides the Host.
type DoctorOptions struct {
	// Files must belong to root or us, and be writable by nobody else; those whose mode
	// is 0700 or 0600 must also be closed to others.
	Files    []ModeWanted
	Writes   []string // directories that the watcher writes to, besides those of escrows
	RunDir   string   // must be a tmpfs
	HooksDir string   // "" is none
	// ClearText names the host to which the database's password may go readable by all, ""
	// for none; nil: not asked.
	ClearText func(context.Context) string
	// Systemd examines the units; nil where there is none.
	Systemd func(context.Context) (unit.Examination, error)
	// Project asks for the Google Cloud project of this host; OnGoogle tells, without
	// asking anybody, whether this host is a machine of Google's.
	Project  func(context.Context) (string, error)
	OnGoogle func() bool
	// ClockSynced asks whether anybody keeps the clock right; nil is ClockSynced.
	ClockSynced func() (bool, error)
}

// ClockSynced asks the kernel what timedatectl(1) reports as "System clock synchronized",
// and in the same way: adjtimex(2), whose estimated error stays below 16 s while
// somebody corrects the clock.
func ClockSynced() (bool, error) {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return false, fmt.Errorf("adjtimex: %w", err)
	}
	return t.Maxerror < 16e6, nil
}

// ModeWanted is a file and the mode that it may have at most.
type ModeWanted struct {
	Path string
	Mode fs.FileMode
	// Key is the setting that names it where the watcher reads it, and Table the escrow's
	// name, or "database".
	Table, Key string
}

// DoctorResult is what the doctor found.
type DoctorResult struct {
	Status  StatusResult
	Threats []ThreatVerdict
	Checks  []Check
}

// Sound tells whether there is nothing that a person must do.
func (r DoctorResult) Sound() bool {
	return !slices.ContainsFunc(r.Threats, func(t ThreatVerdict) bool { return t.Verdict == SurvivesNot }) &&
		!slices.ContainsFunc(r.Checks, func(c Check) bool { return c.State == CheckProblem })
}

// examineTimeout bounds what one escrow, or the metadata server, is asked besides its copies.
const examineTimeout = 10 * time.Second

// Doctor tells what this host survives, and what is wrong with it. It changes nothing.
func Doctor(ctx context.Context, h *Host, o DoctorOptions) (DoctorResult, error) {
	s, seen, err := status(ctx, h)
	if err != nil {
		return DoctorResult{}, err
	}
	f := facts{status: s, now: h.Now(), record: seen.record, local: seen.local, escrows: make([]standing, len(h.Escrows))}
	eachEscrow(h, func(i int, e Escrow) {
		f.escrows[i] = standing{EscrowStatus: s.Escrows[i], evidence: seen.escrows[i]}
		f.escrows[i].examine(ctx, e.Reader)
		if s, ok := e.Reader.(escrow.Shared); ok {
			f.escrows[i].parts = examineMembers(ctx, s, h.Now())
		}
	})
	if o.Project != nil {
		f.project, f.projectErr = o.Project(ctx)
		f.google = f.projectErr == nil || o.OnGoogle != nil && o.OnGoogle()
	}
	if o.ClearText != nil {
		f.clearText = o.ClearText(ctx)
	}
	if o.Systemd != nil {
		f.systemd = true
		f.units, f.unitsErr = o.Systemd(ctx)
	}
	return DoctorResult{Status: s, Threats: f.threats(), Checks: f.checks(o)}, nil
}

// facts are what the doctor judges by.
type facts struct {
	clearText  string // the host of DoctorOptions.ClearText
	status     StatusResult
	now        time.Time
	record     ledger.Record
	local      []key.Fingerprint // in the local quarantine
	escrows    []standing
	google     bool   // this host is a machine of Google's
	project    string // its project
	projectErr error
	systemd    bool
	units      unit.Examination
	unitsErr   error
}

// standing is one escrow.
type standing struct {
	EscrowStatus
	evidence decide.EscrowEvidence
	examined bool
	exam     escrow.Examination
	examErr  error
	parts    *shared // of an escrow that keeps keys in parts
}

// examine asks a store what it is lost together with, if it can tell.
func (s *standing) examine(ctx context.Context, e escrow.Reader) {
	x, ok := e.(escrow.Examiner)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	s.exam, s.examErr = x.Examine(ctx)
	s.examined = s.examErr == nil
}

// right is the key that belongs in the keyfile's place, "" where nobody knows.
func (f facts) right() key.Fingerprint {
	if a := f.status.Decision.Action; a == decide.Pass || a == decide.Install {
		return f.status.Decision.Key
	}
	return ""
}

// holds finds a copy of the key that this host can read, and one that it cannot.
func (s standing) holds(k key.Fingerprint) (readable, sealed string) {
	for _, c := range s.evidence.Copies {
		switch {
		case c.Key != k || k == "" || c.Worthless:
		case c.Have && readable == "":
			readable = c.ID
		case !c.Have && sealed == "":
			sealed = c.ID
		}
	}
	return readable, sealed
}

// threats fills in the table.
func (f facts) threats() []ThreatVerdict {
	list := []ThreatVerdict{
		f.deleted(),
		f.copies(DiskLost, LacksOtherDisk, standing.afterDisk),
		f.copies(VMDeleted, LacksOffHost, standing.afterVM),
		f.projectDeleted(),
		f.copies(OperatorCompromise, LacksProtection, standing.afterOperator),
		f.postgresLost(),
		f.tampered(),
	}
	for _, s := range f.escrows {
		if s.parts != nil { // who cuts keys wants to hear of it
			return append(list, f.storeRead())
		}
	}
	return list
}

// fate is what becomes of an escrow under a threat, and why.
type fate struct {
	verdict Survival
	why     string
}

// copies judges a threat that takes the keyfile and the local quarantine: is there an
// escrow that holds the key and stands?
func (f facts) copies(t Threat, lack Lack, after func(standing) fate) ThreatVerdict {
	v := ThreatVerdict{Threat: t, Verdict: SurvivesNot, Lacks: lack}
	k := f.right()
	if k == "" {
		v.Evidence, v.Lacks = []string{"nobody can tell which key is right"}, LacksKey
		if t == KeyfileDeleted { // the same for all of them
			v.Evidence[0] += ": " + f.status.Decision.Reason
		}
		if f.status.Decision.Action != decide.Lost {
			v.Verdict = SurvivalUnsure
		}
		if f.status.Decision.Action == decide.Make {
			v.Verdict, v.Lacks, v.Evidence = Survives, LacksNothing, []string{"there is no key yet, and nothing to lose"}
		}
		return v
	}
	var stand, perhaps, gone []string
	unanswered, some := false, false
	for _, s := range f.escrows {
		end := s.after(after)
		if t == OperatorCompromise && s.parts != nil {
			end = f.apart(s, end)
		}
		readable, sealed := s.holds(k)
		switch {
		case s.State == decide.EscrowFailed && end.verdict != SurvivesNot:
			perhaps, unanswered = append(perhaps, fmt.Sprintf("%q cannot answer: %s", s.Name, s.Why)), true
		case s.State == decide.EscrowFailed:
			some = true // for all that is known
			gone = append(gone, fmt.Sprintf("%q cannot answer, %s", s.Name, end.why))
		case readable != "":
			some = true
			line := fmt.Sprintf("%q holds it (%s)", s.Name, readable)
			if end.why != "" {
				line += ", " + end.why
			}
			switch end.verdict {
			case Survives:
				stand = append(stand, line)
			case SurvivalUnsure:
				perhaps = append(perhaps, line)
			default:
				gone = append(gone, line)
			}
		case sealed != "" && end.verdict != SurvivesNot:
			perhaps = append(perhaps, fmt.Sprintf("%q holds it sealed (%s), which this host cannot prove", s.Name, sealed))
		case sealed != "":
			gone = append(gone, fmt.Sprintf("%q holds it sealed (%s), %s", s.Name, sealed, end.why))
		default:
			gone = append(gone, fmt.Sprintf("%q does not hold key %s", s.Name, k))
		}
	}
	switch {
	case len(stand) > 0:
		v.Verdict, v.Lacks, v.Evidence = Survives, LacksNothing, stand
	case len(perhaps) > 0:
		v.Verdict, v.Evidence = SurvivalUnsure, append(perhaps, gone...)
		if unanswered {
			v.Lacks = LacksAnswer
		}
	case len(f.escrows) == 0:
		v.Evidence = []string{"no escrow is configured"}
	default:
		v.Evidence = gone
		if !some {
			v.Lacks = LacksCopy
		}
	}
	return v
}

// deleted judges the loss of the keyfile alone: the local quarantine stands too, and
// prestart must be asked before the daemon makes a key.
func (f facts) deleted() ThreatVerdict {
	v := f.copies(KeyfileDeleted, LacksCopy, func(standing) fate { return fate{Survives, ""} })
	if k := f.right(); v.Verdict != Survives && k != "" && slices.Contains(f.local, k) {
		v.Verdict, v.Lacks, v.Evidence = Survives, LacksNothing, []string{"the local quarantine holds it"}
	}
	if f.systemd && v.Verdict == Survives {
		switch err := f.hook(); {
		case f.unitsErr != nil:
			v.Verdict, v.Lacks = SurvivalUnsure, LacksHook
			v.Evidence = append(v.Evidence, "whether the daemon's start asks keyguard is not known: "+f.unitsErr.Error())
		case err != "":
			v.Verdict, v.Lacks = SurvivesNot, LacksHook
			v.Evidence = append([]string{"the daemon would make a new key: " + err}, v.Evidence...)
		}
	}
	return v
}

func (s standing) afterDisk() fate {
	switch {
	case s.exam.SameDisk:
		return fate{SurvivesNot, "on the keyfile's own disk (" + strings.Join(s.exam.Disks, ", ") + ")"}
	case s.exam.Memory:
		return fate{SurvivesNot, "in memory, which is gone at the next boot"}
	case s.exam.Local:
		return fate{SurvivalUnsure, "in a store on this host, whose disk is not known"}
	case s.exam.Unplaced:
		return fate{SurvivalUnsure, s.Place.Domain + ", which may be on this host alone"}
	case s.Place.Kind == "directory" && !s.examined:
		return fate{SurvivalUnsure, "on a disk that is not known"}
	case len(s.exam.Disks) > 0:
		return fate{Survives, "on " + strings.Join(s.exam.Disks, ", ")}
	}
	return fate{Survives, s.Place.Domain}
}

func (s standing) afterVM() fate {
	switch d := s.afterDisk(); {
	case s.exam.Local:
		return fate{SurvivesNot, "in a store on this host"}
	case d.verdict != Survives:
		return d
	case s.Place.Kind == "directory" && !s.exam.Remote:
		return fate{SurvivalUnsure, "on a disk of this host (" + strings.Join(s.exam.Disks, ", ") + "), which stays if it is not deleted with it"}
	default:
		return d
	}
}

func (f facts) projectDeleted() ThreatVerdict {
	v := f.copies(ProjectDeleted, LacksProject, func(s standing) fate {
		vm := s.afterVM()
		switch {
		case s.exam.Project != "" && s.exam.Project == f.project:
			return fate{SurvivesNot, "in this host's own project " + f.project}
		case vm.verdict == SurvivesNot:
			return vm
		case s.exam.Project != "" && f.projectErr != nil:
			return fate{SurvivalUnsure, "in project " + s.exam.Project + "; which one this host is in is not known"}
		case s.exam.Project != "" && strings.Trim(s.exam.Project, "0123456789") == "":
			return fate{SurvivalUnsure, "in project number " + s.exam.Project + ", which may be this host's"}
		case s.exam.Project != "":
			return fate{Survives, "in another project, " + s.exam.Project}
		case s.Place.Kind == "directory":
			return fate{SurvivesNot, "on a disk in this host's project " + f.project}
		case s.Place.Kind == "command":
			return vm
		}
		return fate{SurvivalUnsure, s.Place.Domain + ", which may be in the same project"}
	})
	if !f.google && f.right() != "" {
		v.Verdict, v.Lacks = Survives, LacksNothing
		v.Evidence = []string{"this host is in no Google Cloud project: the keyfile stays"}
	}
	return v
}

func (s standing) afterOperator() fate {
	switch {
	case len(s.exam.Destroys) > 0:
		return fate{SurvivesNot, "and this host's credentials can destroy it (" + strings.Join(s.exam.Destroys, ", ") + ")"}
	case s.exam.Asked:
		return fate{Survives, "and this host's credentials can add copies, not destroy them"}
	case s.Place.Kind == "directory":
		return fate{SurvivesNot, "and whoever is root here can remove it"}
	case s.Place.Kind == "gcp-secret-manager":
		return fate{SurvivalUnsure, "and what this host's credentials may do there is not known"}
	case s.Place.Kind == "aws-secrets-manager":
		return fate{SurvivalUnsure, "and what this host's credentials may destroy there AWS tells only a person: aws iam simulate-principal-policy"}
	}
	return fate{SurvivalUnsure, "and keyguard does not know what this host's credentials may destroy there"}
}

// postgresLost cannot be survived by keeping keys. What can be told is whether the keys of
// older dumps are kept.
func (f facts) postgresLost() ThreatVerdict {
	v := ThreatVerdict{Threat: PostgresLost, Verdict: SurvivalUnsure, Lacks: LacksDump,
		Evidence: []string{"keyguard keeps keys, not rows: whether they are dumped it does not know"}}
	if f.status.Rows.State == decide.RowsSilent {
		v.Verdict, v.Lacks, v.Evidence = Survives, LacksNothing, []string{"no row depends on a key: " + f.status.Rows.Why}
		return v
	}
	used, unanswered := f.record.EverProven(), ""
	if k := f.right(); k != "" && !slices.Contains(used, k) {
		used = append(used, k)
	}
	for _, k := range used {
		held := false
		for _, s := range f.escrows {
			readable, sealed := s.holds(k)
			held = held || readable != "" || sealed != ""
			if s.State == decide.EscrowFailed {
				unanswered = s.Name
			}
		}
		switch {
		case !held && unanswered == "":
			v.Verdict, v.Lacks = SurvivesNot, LacksOldKeys
			v.Evidence = append(v.Evidence, fmt.Sprintf("key %s opened rows here and is in no escrow: dumps of that time need it", k))
		case !held:
			v.Evidence = append(v.Evidence, fmt.Sprintf("key %s opened rows here and is in no escrow that answers", k))
		}
	}
	if len(v.Evidence) == 1 && len(used) > 0 {
		v.Evidence = append(v.Evidence, fmt.Sprintf("all keys that ever opened rows here are escrowed (%d), for dumps of any age", len(used)))
	}
	return v
}

// tampered judges whether a changed row would show.
func (f facts) tampered() ThreatVerdict {
	v := ThreatVerdict{Threat: CiphertextTampered}
	p, all := f.status.Proof, f.status.Rows.Dependent
	switch {
	case f.status.Rows.State == decide.RowsSilent:
		v.Verdict, v.Evidence = Survives, []string{"no row depends on a key: " + f.status.Rows.Why}
	case f.status.Rows.State != decide.RowsAnswer:
		v.Verdict, v.Lacks, v.Evidence = SurvivalUnsure, LacksRows, []string{"the rows cannot be asked: " + f.status.Rows.Why}
	case p.Verdict == rows.Opens && p.Checked >= all:
		v.Verdict, v.Evidence = Survives, []string{fmt.Sprintf("it shows: %s opened just now, and %s tried every hour while the daemon runs", printable.All(all, "row"), map[bool]string{true: "is", false: "are"}[all == 1])}
	case p.Verdict == rows.Opens:
		v.Verdict, v.Lacks, v.Evidence = SurvivalUnsure, LacksFull, []string{fmt.Sprintf("a sample of %d of %d rows opened just now", p.Checked, all)}
		if e, ok := f.lastFull(); ok {
			v.Evidence = append(v.Evidence, fmt.Sprintf("the last drill of every row %s at %s", e.Verdict, e.Time.Local().Format(time.DateTime)))
			if e.Verdict == string(DrillPassed) && f.now.Sub(e.Time) < 31*24*time.Hour {
				v.Verdict, v.Lacks = Survives, LacksNothing
			}
		}
	default:
		v.Verdict, v.Lacks = SurvivesNot, LacksRepair
		v.Evidence = []string{fmt.Sprintf("%d of %s tried do not open under the keyfile's key", p.Checked-p.Opened, printable.Count(p.Checked, "row"))}
		if p.Checked == 0 {
			v.Evidence = []string{"the keyfile has no key to try on the rows"}
		}
	}
	return v
}

func (f facts) lastFull() (ledger.Entry, bool) {
	for _, e := range slices.Backward(f.record.Entries) {
		if e.Event == ledger.DrillEnded && e.Full {
			return e, true
		}
	}
	return ledger.Entry{}, false
}

// hook says why the daemon's start does not ask keyguard, "" where it does.
func (f facts) hook() string {
	if f.units.Daemon == "" {
		return "systemd has no unit of the daemon"
	}
	for _, h := range f.units.Hooks {
		if !isPrestart(h.Argv) {
			continue
		}
		switch {
		case h.IgnoreFailure:
			return "its unit ignores a refusal (ExecStartPre=-)"
		case !h.Privileged:
			return "its unit runs prestart inside the daemon's sandbox (ExecStartPre= without +)"
		}
		for _, s := range f.units.SuccessStatus {
			if s >= 10 && s <= 15 {
				return fmt.Sprintf("SuccessExitStatus=%d turns a refusal into a start", s)
			}
		}
		return ""
	}
	return "prestart is not in the ExecStartPre= of " + f.units.Daemon
}

// isPrestart recognises our hook, or the program called directly.
func isPrestart(argv []string) bool {
	return len(argv) > 0 && (strings.HasSuffix(argv[0], "/containarium-keyguard/prestart") ||
		strings.HasSuffix(argv[0], "/keyguard") && slices.Contains(argv, "prestart"))
}

// checks looks at everything that must be so on this host.
func (f facts) checks(o DoctorOptions) []Check {
	var list []Check
	add := func(name string, state CheckState, text string) *Check {
		list = append(list, Check{Name: name, State: state, Text: text})
		return &list[len(list)-1]
	}
	switch {
	case f.status.Loose != "":
		add("keyfile", CheckProblem, f.status.Loose).Fix = "the next start tightens it; now: keyguard restore --dry-run, then chmod 0400"
	case f.status.Keyfile.Good:
		add("keyfile", CheckOK, "32 bytes, closed to others")
	default:
		add("keyfile", CheckProblem, f.status.Keyfile.State()).Fix = "keyguard restore"
	}
	switch f.status.Rows.State {
	case decide.RowsUnknown:
		add("postgres", CheckProblem, f.status.Rows.Why).Err = f.status.Rows.Err
	case decide.RowsSilent:
		add("postgres", CheckOK, "no row depends on a key: "+f.status.Rows.Why)
	default:
		add("postgres", CheckOK, "answers; "+map[bool]string{true: "1 row depends", false: printable.Count(f.status.Rows.Dependent, "row") + " depend"}[f.status.Rows.Dependent == 1]+" on a key")
	}
	if f.clearText != "" {
		add("postgres password", CheckProblem, "it goes to "+f.clearText+" in clear text if nobody there offers TLS, or somebody on the way says so").Fix =
			"add sslmode=verify-full, or require, to the database URL of the daemon; for a network that is your own, sslmode=disable says so"
	}
	for _, s := range f.escrows {
		list = append(list, s.check(f.right()))
		if s.parts != nil {
			list = append(list, f.checkParts(s))
			for _, m := range s.parts.members {
				list = append(list, m.check("")) // of what it holds its split tells
			}
		}
	}
	list = append(list, f.checkClock(o), f.checkModes(o), checkTmpfs(o.RunDir), f.checkLedger())
	if o.HooksDir != "" {
		list = append(list, checkHooks(o.HooksDir))
	}
	if f.systemd {
		list = append(list, f.checkUnits()...)
		list = append(list, f.checkSandbox(o)...)
	}
	return list
}

func (s standing) check(right key.Fingerprint) Check {
	c := Check{Name: fmt.Sprintf("escrow %q", s.Name), State: CheckOK, Text: s.Place.Domain}
	readable, sealed := s.holds(right)
	switch {
	case s.AddOnly && (s.Added == right || right == ""):
		c.Text += "; this host only adds there, and what it stored is unverified"
	case s.AddOnly:
		c.State, c.Text, c.Fix = CheckProblem, "it was not given key "+string(right)+" yet", "keyguard backup"
	case s.Alarm != "":
		c.State, c.Text, c.Fix = CheckProblem, s.Alarm, "keyguard copies"
	case s.State == decide.EscrowFailed:
		c.State, c.Text, c.Err = CheckProblem, s.Why, s.Err
		if !s.Required {
			c.State = CheckUnknown
		}
	case len(s.exam.Lacks) > 0:
		c.State, c.Text, c.Err = CheckProblem, "this host lacks "+strings.Join(s.exam.Lacks, ", "), escrow.ErrDenied
	case s.examErr != nil:
		c.State, c.Text, c.Err = CheckUnknown, s.examErr.Error(), s.examErr
	case len(s.exam.Exposed) > 0:
		c.State, c.Text, c.Err = CheckProblem, strings.Join(s.exam.Exposed, "; "), escrow.ErrExposed
	case s.exam.Trouble != "":
		c.State, c.Text, c.Fix = CheckProblem, s.exam.Trouble, s.exam.Remedy
	case s.Ending != "":
		c.State, c.Text, c.Fix = CheckProblem, s.Ending, "put a new token into that file, which is read again by itself; then: keyguard doctor"
	case readable == "" && sealed != "":
		c.State, c.Text, c.Fix = CheckUnknown, "it holds key "+string(right)+" sealed, which this host cannot prove", "keyguard drill --identity FILE"
	case readable == "" && right != "":
		c.State, c.Text, c.Fix = CheckProblem, "no copy that can be read is key "+string(right), "keyguard backup"
	case !s.exam.Deletes.IsZero():
		c.State = CheckProblem
		c.Text = "the store deletes copies by itself, the next " + s.exam.Deletes.UTC().Format("2006-01-02 15:04 UTC") + "; the watcher stores them again before, while it runs"
		c.Fix = "have that taken off (Vault: delete_version_after of the engine and of the entries), then: keyguard backup"
	case s.exam.Asked:
		c.Text += "; this host may read, list and add"
		if len(s.exam.Destroys) > 0 {
			c.State = CheckProblem
			c.Text += ", and destroy: it does not need " + strings.Join(s.exam.Destroys, ", ")
			c.Fix = "take these rights from this host's service account; the roles secretAccessor, secretVersionAdder and viewer are enough; then: keyguard doctor"
			if s.Place.Kind == "vault-kv" {
				c.Fix = "give this host's token the policy of the README, and no other; then: keyguard doctor"
			}
		}
	}
	return c
}

// clockOff is how far a clock may be off before credentials are refused: Google takes
// five minutes. A drift of one already says that nobody keeps it.
const clockOff = time.Minute

func (f facts) checkClock(o DoctorOptions) Check {
	c := Check{Name: "clock", State: CheckOK, Fix: "timedatectl set-ntp true"}
	for _, s := range f.escrows {
		if errors.Is(s.Err, escrow.ErrClock) {
			c.State, c.Text = CheckProblem, fmt.Sprintf("escrow %q refuses credentials because of it", s.Name)
			return c
		}
		if d := s.exam.Clock; d != nil && d.Abs() > clockOff {
			c.State, c.Text = CheckProblem, fmt.Sprintf("the clock of escrow %q is %v ahead of this host's", s.Name, *d)
			return c
		}
	}
	ask := o.ClockSynced
	if ask == nil {
		ask = ClockSynced
	}
	synced, err := ask()
	switch {
	case err != nil:
		c.State, c.Text = CheckUnknown, "the kernel does not tell whether it is kept right: "+err.Error()
	case !synced:
		c.State, c.Text = CheckProblem, "nobody keeps it right: it is not synchronised"
	default:
		c.Text = "synchronised"
	}
	return c
}

func (f facts) checkModes(o DoctorOptions) Check {
	c := Check{Name: "modes", State: CheckOK}
	var bad []string
	looked := 0
	for _, w := range o.Files {
		info, err := os.Stat(w.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			bad = append(bad, err.Error())
			continue
		}
		looked++
		if m := info.Mode().Perm(); m&^w.Mode != 0 {
			bad = append(bad, fmt.Sprintf("%s is %04o, and may be %04o at most", w.Path, m, w.Mode))
		}
		var st unix.Stat_t
		if unix.Stat(w.Path, &st) == nil && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
			bad = append(bad, fmt.Sprintf("%s belongs to uid %d", w.Path, st.Uid))
		}
	}
	c.Text = fmt.Sprintf("configuration, state and credentials are closed to others (%d looked at)", looked)
	if len(bad) > 0 {
		c.State, c.Text, c.Fix = CheckProblem, strings.Join(bad, "; "), "chmod go-rwx and chown root them, then: keyguard doctor"
	}
	return c
}

// checkTmpfs: a drill writes keys to scratch, which must never be a disk (law 8).
func checkTmpfs(dir string) Check {
	c := Check{Name: "scratch", State: CheckOK, Text: dir + " is in memory"}
	var st unix.Statfs_t
	switch err := unix.Statfs(dir, &st); {
	case err != nil:
		c.State, c.Text = CheckUnknown, fmt.Sprintf("%s: %v", dir, err)
	case st.Type != unix.TMPFS_MAGIC && st.Type != unix.RAMFS_MAGIC:
		c.State, c.Text, c.Fix = CheckProblem, dir+" is on a disk: no drill is held there", "name a tmpfs as run_dir in the configuration, then: keyguard doctor"
	}
	return c
}

func (f facts) checkLedger() Check {
	c := Check{Name: "ledger", State: CheckOK, Text: fmt.Sprintf("its chain is whole, of %d lines", len(f.record.Entries))}
	if e := f.status.Other; e.Event != "" {
		c.State, c.Text, c.Fix = CheckProblem, "it is another machine's, called "+e.Host+", of which this one is a copy", "keyguard accept"
	}
	if n := len(f.record.Breaks); n > 0 {
		c.State, c.Text, c.Fix = CheckProblem, fmt.Sprintf("its chain is broken at line %d", f.record.Breaks[n-1].Line), "keyguard report --verify"
	}
	return c
}

func checkHooks(dir string) Check {
	n, errs := notify.Fit(dir)
	c := Check{Name: "hooks", State: CheckOK, Text: fmt.Sprintf("%d in %s", n, dir)}
	if len(errs) > 0 {
		c.State, c.Text, c.Err = CheckProblem, errs[0].Error(), errs[0]
		for _, err := range errs[1:] {
			c.Text += "; " + err.Error()
		}
	}
	return c
}

func (f facts) checkUnits() []Check {
	if f.unitsErr != nil {
		return []Check{{Name: "units", State: CheckUnknown, Text: f.unitsErr.Error(), Fix: "systemctl status"}}
	}
	var list []Check
	add := func(name string, ok bool, good, bad, fix string) {
		c := Check{Name: name, State: CheckOK, Text: good}
		if !ok {
			c.State, c.Text, c.Fix = CheckProblem, bad, fix
		}
		list = append(list, c)
	}
	u := f.units
	why := f.hook()
	add("hook", why == "", "prestart runs before "+u.Daemon, why, "systemctl cat "+cmp.Or(u.Daemon, unit.Names[0])+", take out what overrides zz-keyguard.conf, then: systemctl daemon-reload")
	add("watcher", u.Watcher.Enabled == "enabled" && (u.Watcher.Active == "active" || u.Watcher.Active == "reloading"), "enabled and "+u.Watcher.Active,
		fmt.Sprintf("%s, %s", cmp.Or(u.Watcher.Enabled, "not installed"), cmp.Or(u.Watcher.Active, "inactive")), "systemctl enable --now "+unit.Watcher)
	if deaf := u.Watcher.Deaf; deaf != nil {
		limit := "fs.inotify.max_user_instances=1024"
		if errors.Is(deaf, unit.ErrInotifyWatches) {
			limit = "fs.inotify.max_user_watches=524288"
		}
		list = append(list, Check{Name: "watching", State: CheckProblem,
			Text: "the watcher notices changes only once a rescan: " + deaf.Error(),
			Fix:  "sysctl -w " + limit + ", and the same in a file of /etc/sysctl.d"})
	}
	if u.Daemon != "" {
		add("order", slices.Contains(u.After, unit.Watcher), u.Daemon+" starts after the watcher",
			u.Daemon+" does not start after the watcher", "reinstall the package, then: systemctl daemon-reload")
		add("password", len(u.Passwords) == 0, "none stands in the daemon's unit",
			strings.Join(u.Passwords, ", ")+" in the daemon's unit: every local user can read it (systemctl show)",
			"move it to a file of mode 0600 and name that: CONTAINARIUM_POSTGRES_PASSWORD_FILE or CONTAINARIUM_POSTGRES_URL_FILE; then: systemctl daemon-reload")
	}
	switch d := f.status.Daemon; d.Is {
	case DaemonNotAsked, DaemonAbsent:
	case DaemonUnknown:
		list = append(list, Check{Name: "daemon", State: CheckUnknown, Text: d.Err.Error(), Fix: "systemctl status " + unit.Names[0]})
	case DaemonParked, DaemonNoSecrets:
		add("daemon", false, "", "it runs without secrets", "keyguard status")
	case DaemonOtherKey:
		add("daemon", false, "", "it does not run on the key that is in place", "systemctl restart "+d.Name)
	default:
		add("daemon", true, cmp.Or(d.Active, "inactive"), "", "")
	}
	add("timer", u.Timer.Enabled == "enabled" && u.Timer.Active == "active", "the weekly drill is enabled",
		fmt.Sprintf("the weekly drill is %s, %s", cmp.Or(u.Timer.Enabled, "not installed"), cmp.Or(u.Timer.Active, "inactive")), "systemctl enable --now "+unit.DrillTimer)
	if r := u.Timer.Result; r != "" {
		add("drill", r == "success", "the last one succeeded", "the last one ended in: "+r, "journalctl -u "+unit.Drill)
	}
	return list
}
