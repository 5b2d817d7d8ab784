package agent

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/rows"
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
	LacksWord       Lack = "word"          // nothing says of the key that it is the one of this host
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

// threats fills in the table.
func (f facts) threats() []ThreatVerdict {
	list := []ThreatVerdict{
		f.deleted(),
		f.copies(DiskLost, LacksOtherDisk, escrowFacts.afterDisk),
		f.copies(VMDeleted, LacksOffHost, escrowFacts.afterVM),
		f.projectDeleted(),
		f.copies(OperatorCompromise, LacksProtection, escrowFacts.afterOperator),
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
func (f facts) copies(t Threat, lack Lack, after func(escrowFacts) fate) ThreatVerdict {
	k := f.right()
	if k == "" {
		return f.withoutKey(t)
	}
	v := ThreatVerdict{Threat: t, Verdict: SurvivesNot, Lacks: lack}
	var stand, perhaps, gone []string
	unanswered, some := false, false
	for _, s := range f.escrows {
		end := s.after(after)
		if t == OperatorCompromise && s.parts != nil {
			end = f.afterAdministrator(s, end)
		}
		readable, sealed := s.holds(k)
		failed := s.State == decide.EscrowFailed
		unanswered = unanswered || failed && end.verdict != SurvivesNot
		some = some || failed && end.verdict == SurvivesNot || !failed && readable != "" // for all that is known
		switch end = s.keeps(k, readable, sealed, end); end.verdict {
		case Survives:
			stand = append(stand, end.why)
		case SurvivalUnsure:
			perhaps = append(perhaps, end.why)
		default:
			gone = append(gone, end.why)
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

// withoutKey judges a threat where nobody can tell which key is right.
func (f facts) withoutKey(t Threat) ThreatVerdict {
	v := ThreatVerdict{Threat: t, Verdict: SurvivesNot, Lacks: LacksKey, Evidence: []string{"nobody can tell which key is right"}}
	if t == KeyfileDeleted { // the same for all of them
		v.Evidence[0] += ": " + f.status.Decision.Reason
	}
	switch f.status.Decision.Action {
	case decide.Lost:
	case decide.Make:
		v.Verdict, v.Lacks, v.Evidence = Survives, LacksNothing, []string{"there is no key yet, and nothing to lose"}
	default:
		v.Verdict = SurvivalUnsure
	}
	return v
}

// keeps tells whether an escrow, of which that becomes, keeps a key: in the copy that can be read,
// or in one that is sealed.
func (s escrowFacts) keeps(k key.Fingerprint, readable, sealed string, end fate) fate {
	switch {
	case s.State == decide.EscrowFailed && end.verdict != SurvivesNot:
		return fate{SurvivalUnsure, fmt.Sprintf("%q cannot answer: %s", s.Name, s.Why)}
	case s.State == decide.EscrowFailed:
		return fate{SurvivesNot, fmt.Sprintf("%q cannot answer, %s", s.Name, end.why)}
	case readable != "":
		line := fmt.Sprintf("%q holds it (%s)", s.Name, readable)
		if end.why != "" {
			line += ", " + end.why
		}
		return fate{end.verdict, line}
	case sealed != "" && end.verdict != SurvivesNot:
		return fate{SurvivalUnsure, fmt.Sprintf("%q holds it sealed (%s), which this host cannot prove", s.Name, sealed)}
	case sealed != "":
		return fate{SurvivesNot, fmt.Sprintf("%q holds it sealed (%s), %s", s.Name, sealed, end.why)}
	}
	return fate{SurvivesNot, fmt.Sprintf("%q does not hold key %s", s.Name, k)}
}

// deleted judges the loss of the keyfile alone: the local quarantine stands too, a start has
// to choose that key, and prestart must be asked before the daemon makes one.
func (f facts) deleted() ThreatVerdict {
	v := f.copies(KeyfileDeleted, LacksCopy, func(escrowFacts) fate { return fate{Survives, ""} })
	k := f.right()
	if v.Verdict != Survives && k != "" && slices.Contains(f.local, k) {
		v.Verdict, v.Lacks, v.Evidence = Survives, LacksNothing, []string{"the local quarantine holds it"}
	}
	switch d := f.missing; {
	case k == "", v.Verdict != Survives, d.Action == decide.Install && d.Key == k:
	case d.Action == decide.Install:
		v.Verdict, v.Lacks = SurvivesNot, LacksWord
		v.Evidence = append([]string{fmt.Sprintf("a start would put key %s in its place: %s", d.Key, d.Reason)}, v.Evidence...)
	default:
		v.Verdict, v.Lacks = SurvivalUnsure, LacksWord
		if f.status.Rows.State == decide.RowsUnknown {
			v.Lacks = LacksRows
		}
		v.Evidence = append([]string{"a start could not choose it: " + d.Reason}, v.Evidence...)
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

func (s escrowFacts) afterDisk() fate {
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

func (s escrowFacts) afterVM() fate {
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
	v := f.copies(ProjectDeleted, LacksProject, func(s escrowFacts) fate {
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

func (s escrowFacts) afterOperator() fate {
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
	k, p, all := f.status.Keyfile.Key, f.status.Proof, f.status.Rows.Dependent
	if f.status.Decision.Action == decide.Install {
		k = f.status.Decision.Key // what another key does not open says nothing of the rows
		p = f.status.Rows.Proofs[k]
	}
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
			v.Evidence = append(v.Evidence, fmt.Sprintf("the last drill of every row %s at %s", e.Verdict, printable.Time(e.Time)))
			if e.Verdict == string(DrillPassed) && f.now.Sub(e.Time) < 31*24*time.Hour {
				v.Verdict, v.Lacks = Survives, LacksNothing
			}
		}
	case p.Checked == 0:
		v.Verdict, v.Lacks, v.Evidence = SurvivalUnsure, LacksKey, []string{"there is no key at hand to try on the rows"}
	default:
		v.Verdict, v.Lacks = SurvivesNot, LacksRepair
		v.Evidence = []string{fmt.Sprintf("key %s opens %s", k, p)}
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
	return f.units.Unasked()
}
