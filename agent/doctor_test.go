package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// patient is a host whose key A opens all of its ten rows and that has these escrows.
func patient(escrows ...escrowFacts) facts {
	proof := rows.Proof{Fingerprint: reportKeyA, Verdict: rows.Opens, Checked: 10, Opened: 10}
	return facts{
		status: StatusResult{
			Health: Green, Decision: decide.Decision{Action: decide.Pass, Key: reportKeyA}, Keyfile: decide.KeyfileEvidence{Good: true, Key: reportKeyA},
			Rows:  decide.RowsEvidence{State: decide.RowsAnswer, Dependent: 10, Proofs: map[key.Fingerprint]rows.Proof{reportKeyA: proof}},
			Proof: proof,
		},
		now: noon(31), escrows: escrows, projectErr: errors.New("nobody there"),
		missing: decide.Decision{Action: decide.Install, Key: reportKeyA},
	}
}

// place is an escrow that holds the key A.
func place(kind string, exam escrow.Examination) escrowFacts {
	return escrowFacts{EscrowStatus: EscrowStatus{Name: "e", State: decide.EscrowAnswered, Required: true, Place: escrow.Place{Kind: kind, Domain: "the domain"}},
		evidence: decide.EscrowEvidence{Copies: []decide.CopyEvidence{{ID: "current/1", Shelf: escrow.Current, Key: reportKeyA, Have: true}}},
		exam:     exam, examined: true}
}

func edited(s escrowFacts, edit func(*escrowFacts)) escrowFacts {
	edit(&s)
	return s
}

// TestThreats has a row for what each kind of place is worth under each threat. A verdict
// is its first letter: survives, does not, unknown.
func TestThreats(t *testing.T) {
	stick := escrow.Examination{Disks: []string{"sdb"}}
	harmless := escrow.Examination{Project: "other", Asked: true}
	failed := func(s *escrowFacts) {
		s.State, s.Why, s.evidence.Copies = decide.EscrowFailed, "no answer", nil
	}
	other := func(s *escrowFacts) { s.evidence.Copies[0].Key = reportKeyB }
	google := func(project string) func(*facts) {
		return func(f *facts) { f.google, f.project, f.projectErr = true, project, nil }
	}
	hook := func(u unit.Examination, err error) func(*facts) {
		return func(f *facts) { f.systemd, f.units, f.unitsErr = true, u, err }
	}
	good := unit.Examination{Daemon: "containarium.service", Before: unit.Before{Hooks: []unit.Hook{{Argv: []string{"/usr/lib/containarium-keyguard/prestart"}, Privileged: true}}}}
	with := func(edit func(*unit.Examination)) unit.Examination {
		u := good
		u.Hooks = append([]unit.Hook(nil), good.Hooks...)
		edit(&u)
		return u
	}
	for name, c := range map[string]struct {
		host facts
		edit func(*facts)
		want string // keyfile, disk, VM, project, operator, Postgres, tampered
	}{
		"no escrow":                    {patient(), nil, "ddd sdds"},
		"same disk":                    {patient(place("directory", escrow.Examination{Disks: []string{"sda"}, SameDisk: true})), nil, "sdd sdus"},
		"in memory":                    {patient(place("directory", escrow.Examination{Memory: true})), nil, "sdd sdus"},
		"a stick":                      {patient(place("directory", stick)), nil, "ssu sdus"},
		"a stick that nobody examined": {patient(edited(place("directory", stick), func(s *escrowFacts) { s.examined, s.exam = false, escrow.Examination{} })), nil, "suu sdus"},
		"another machine's disk":       {patient(place("directory", escrow.Examination{Disks: []string{"nas:/keys"}, Remote: true})), nil, "sss sdus"},
		"a store":                      {patient(place("gcp-secret-manager", harmless)), nil, "sss ssus"},
		"a store on this host":         {patient(place("gcp-secret-manager", escrow.Examination{Local: true, Asked: true})), nil, "sud ssus"},
		"a store that can be emptied":  {patient(place("gcp-secret-manager", escrow.Examination{Asked: true, Destroys: []string{"x"}})), nil, "sss sdus"},
		"a store not asked":            {patient(place("gcp-secret-manager", escrow.Examination{})), nil, "sss suus"},
		"vault":                        {patient(place("vault-kv", escrow.Examination{})), nil, "sss suus"},
		"a password manager":           {patient(place("command", escrow.Examination{})), nil, "sss suus"},
		"a password store":             {patient(place("command", escrow.Examination{Unplaced: true})), nil, "suu suus"},
		"a store beside a project":     {patient(place("command", escrow.Examination{Unplaced: true})), google("mine"), "suu uuus"},
		"the same project":             {patient(place("gcp-secret-manager", harmless)), google("other"), "sss dsus"},
		"another project":              {patient(place("gcp-secret-manager", harmless)), google("mine"), "sss ssus"},
		"a project by number":          {patient(place("gcp-secret-manager", escrow.Examination{Project: "123", Asked: true})), google("mine"), "sss usus"},
		"google, and no answer":        {patient(place("gcp-secret-manager", harmless)), func(f *facts) { f.google = true }, "sss usus"},
		"a disk in the project":        {patient(place("directory", stick)), google("mine"), "ssu ddus"},
		"vault beside a project":       {patient(place("vault-kv", escrow.Examination{})), google("mine"), "sss uuus"},
		"1password beside a project":   {patient(place("command", escrow.Examination{})), google("mine"), "sss suus"},
		"another's key":                {patient(edited(place("gcp-secret-manager", harmless), other)), nil, "ddd sdds"},
		"no answer":                    {patient(edited(place("gcp-secret-manager", harmless), failed)), nil, "uuu suus"},
		"no answer from the same disk": {patient(edited(place("directory", escrow.Examination{SameDisk: true}), failed)), nil, "udd sdus"},
		"sealed": {patient(edited(place("gcp-secret-manager", harmless), func(s *escrowFacts) {
			s.evidence.Copies[0].Have, s.evidence.Copies[0].Unreadable = false, "sealed"
		})), nil, "uuu suus"},
		"one of two":              {patient(edited(place("gcp-secret-manager", harmless), failed), place("directory", stick)), nil, "ssu suus"},
		"the local quarantine":    {patient(), func(f *facts) { f.local = []key.Fingerprint{reportKeyB, reportKeyA} }, "sdd sdds"},
		"a start takes another":   {patient(place("command", harmless)), func(f *facts) { f.missing.Key = reportKeyB }, "dss ssus"},
		"a start cannot choose":   {patient(place("command", harmless)), func(f *facts) { f.missing.Action = decide.Doubt }, "uss ssus"},
		"hook":                    {patient(place("command", harmless)), hook(good, nil), "sss ssus"},
		"no hook":                 {patient(place("command", harmless)), hook(with(func(u *unit.Examination) { u.Hooks = nil }), nil), "dss ssus"},
		"another hook":            {patient(place("command", harmless)), hook(with(func(u *unit.Examination) { u.Hooks[0].Argv = []string{"/bin/true", "prestart"} }), nil), "dss ssus"},
		"a hook that is ignored":  {patient(place("command", harmless)), hook(with(func(u *unit.Examination) { u.Hooks[0].IgnoreFailure = true }), nil), "dss ssus"},
		"a hook in the sandbox":   {patient(place("command", harmless)), hook(with(func(u *unit.Examination) { u.Hooks[0].Privileged = false }), nil), "dss ssus"},
		"refusals are success":    {patient(place("command", harmless)), hook(with(func(u *unit.Examination) { u.SuccessStatus = []int{10} }), nil), "dss ssus"},
		"other exits are":         {patient(place("command", harmless)), hook(with(func(u *unit.Examination) { u.SuccessStatus = []int{143} }), nil), "sss ssus"},
		"no unit":                 {patient(place("command", harmless)), hook(unit.Examination{}, nil), "dss ssus"},
		"systemd does not answer": {patient(place("command", harmless)), hook(unit.Examination{}, errors.New("no bus")), "uss ssus"},
		"lost":                    {patient(place("command", harmless)), func(f *facts) { f.status.Decision = decide.Decision{Action: decide.Lost, Reason: "none opens"} }, "ddd ddus"},
		"doubt":                   {patient(place("command", harmless)), func(f *facts) { f.status.Decision = decide.Decision{Action: decide.Doubt} }, "uuu uuus"},
		"a first start":           {patient(place("command", harmless)), func(f *facts) { f.status.Decision = decide.Decision{Action: decide.Make} }, "sss ssus"},
		"install":                 {patient(place("command", harmless)), func(f *facts) { f.status.Decision.Action = decide.Install }, "sss ssus"},
		"a foreign key": {patient(place("command", harmless)), func(f *facts) {
			f.status.Decision, f.status.Keyfile.Key = decide.Decision{Action: decide.Install, Key: reportKeyA}, reportKeyB
			f.status.Proof = rows.Proof{Fingerprint: reportKeyB, Verdict: rows.Refuted, Checked: 10}
		}, "sss ssus"},
		"no key to try": {patient(place("command", harmless)), func(f *facts) {
			f.status.Decision.Action, f.status.Keyfile, f.status.Proof = decide.Doubt, decide.KeyfileEvidence{Why: "missing"}, rows.Proof{}
		}, "uuu uuuu"},
		"silent":        {patient(place("command", harmless)), func(f *facts) { f.status.Rows = decide.RowsEvidence{State: decide.RowsSilent} }, "sss ssss"},
		"Postgres down": {patient(place("command", harmless)), func(f *facts) { f.status.Rows = decide.RowsEvidence{State: decide.RowsUnknown} }, "sss ssuu"},
		"split":         {patient(place("command", harmless)), func(f *facts) { f.status.Proof.Verdict, f.status.Proof.Opened = rows.Partial, 9 }, "sss ssud"},
		"a sample":      {patient(place("command", harmless)), func(f *facts) { f.status.Rows.Dependent = 1e6 }, "sss ssuu"},
		"a sample and a full drill": {patient(place("command", harmless)), func(f *facts) {
			f.status.Rows.Dependent = 1e6
			f.record.Entries = []ledger.Entry{{Event: ledger.DrillEnded, Full: true, Verdict: "passed", Time: noon(20)}}
		}, "sss ssus"},
		"a full drill long ago": {patient(place("command", harmless)), func(f *facts) {
			f.status.Rows.Dependent = 1e6
			f.record.Entries = []ledger.Entry{{Event: ledger.DrillEnded, Full: true, Verdict: "passed", Time: noon(-20)}}
		}, "sss ssuu"},
		"an old key nowhere": {patient(place("command", harmless)), func(f *facts) {
			f.record.Entries = []ledger.Entry{{Event: ledger.Proven, Fingerprint: reportKeyB}}
		}, "sss ssds"},
	} {
		t.Run(name, func(t *testing.T) {
			f := c.host
			f.status.Decision.Reason = "a reason"
			if c.edit != nil {
				c.edit(&f)
			}
			got := ""
			for i, v := range f.threats() {
				if i == 3 {
					got += " "
				}
				got += string(v.Verdict[0])
				if len(v.Evidence) == 0 {
					t.Errorf("%s: no evidence", v.Threat)
				}
				if (v.Verdict == Survives) != (v.Lacks == LacksNothing) {
					t.Errorf("%s: %s, and lacks %q", v.Threat, v.Verdict, v.Lacks)
				}
			}
			if got != c.want {
				t.Errorf("%q, not %q", got, c.want)
				for _, v := range f.threats() {
					t.Logf("%-22s %-9s %q %q", v.Threat, v.Verdict, v.Lacks, v.Evidence)
				}
			}
		})
	}
}

// TestThreatsOfAStickInADrawer: an escrow that does not answer may hold the key, so the
// advice is not to save it there.
func TestThreatsOfAStickInADrawer(t *testing.T) {
	f := patient(edited(place("directory", escrow.Examination{}), func(s *escrowFacts) {
		s.State, s.Why, s.evidence.Copies, s.examined = decide.EscrowFailed, "not mounted", nil, false
	}))
	for _, v := range f.threats() {
		switch v.Threat {
		case DiskLost:
			if v.Lacks != LacksAnswer || v.Evidence[0] != `"e" cannot answer: not mounted` {
				t.Errorf("%s: %q %q", v.Threat, v.Lacks, v.Evidence)
			}
		case OperatorCompromise:
			if v.Lacks != LacksProtection || v.Evidence[0] != `"e" cannot answer, and whoever is root here can remove it` {
				t.Errorf("%s: %q %q", v.Threat, v.Lacks, v.Evidence)
			}
		}
	}
}

// TestThreatsInDoubt: why nobody knows the key is said once.
func TestThreatsInDoubt(t *testing.T) {
	f := patient()
	f.status.Decision = decide.Decision{Action: decide.Doubt, Reason: "the rows cannot be asked"}
	said := 0
	for _, v := range f.threats() {
		said += strings.Count(strings.Join(v.Evidence, "\n"), "the rows cannot be asked")
	}
	if said != 1 {
		t.Errorf("it is said %d times", said)
	}
}

// TestChecks: each thing that can be wrong is found, alone.
func TestChecks(t *testing.T) {
	ahead := 7 * time.Minute
	dir := t.TempDir()
	loose := filepath.Join(dir, "token")
	if err := os.WriteFile(loose, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(loose, 0o640); err != nil {
		t.Fatal(err)
	}
	hooks := filepath.Join(dir, "hooks")
	if err := os.Mkdir(hooks, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(hooks, "mail"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	units := unit.Examination{Daemon: "containarium.service", After: []string{unit.Watcher},
		Before:  unit.Before{Hooks: []unit.Hook{{Argv: []string{"/usr/bin/keyguard", "prestart"}, Privileged: true}}},
		Watcher: unit.WatcherState{State: unit.State{Loaded: true, Enabled: "enabled", Active: "active"}},
		Timer:   unit.DrillState{State: unit.State{Loaded: true, Enabled: "enabled", Active: "active"}, Result: "success"}}
	for name, c := range map[string]struct {
		edit func(*facts, *DoctorOptions)
		want string // the checks that are not ok
	}{
		"well":          {nil, ""},
		"loose keyfile": {func(f *facts, _ *DoctorOptions) { f.status.Loose = "mode 0644" }, "keyfile problem"},
		"no keyfile":    {func(f *facts, _ *DoctorOptions) { f.status.Keyfile = decide.KeyfileEvidence{Why: "missing"} }, "keyfile problem"},
		"a foreign key": {func(f *facts, _ *DoctorOptions) {
			f.status.Decision, f.status.Keyfile.Key = decide.Decision{Action: decide.Install, Key: reportKeyA}, reportKeyB
		}, "keyfile problem"},
		"a key that nobody can judge": {func(f *facts, _ *DoctorOptions) { f.status.Decision = decide.Decision{Action: decide.Doubt} }, `keyfile problem`},
		"a first start": {func(f *facts, _ *DoctorOptions) {
			f.status.Decision, f.status.Keyfile = decide.Decision{Action: decide.Make}, decide.KeyfileEvidence{Why: "missing"}
		}, ""},
		"Postgres": {func(f *facts, _ *DoctorOptions) {
			f.status.Rows = decide.RowsEvidence{State: decide.RowsUnknown, Why: "refused", Err: rows.ErrNotListening}
		}, "postgres problem"},
		"a table that a crash empties": {func(f *facts, _ *DoctorOptions) { f.unlogged = true }, "table problem"},
		"a password in clear text":     {func(f *facts, _ *DoctorOptions) { f.clearText = "db.example" }, "postgres password problem"},
		"escrow down":                  {func(f *facts, _ *DoctorOptions) { f.escrows[0].State, f.escrows[0].Why = decide.EscrowFailed, "down" }, `escrow "e" problem`},
		"not required": {func(f *facts, _ *DoctorOptions) {
			f.escrows[0].State, f.escrows[0].Why, f.escrows[0].Required = decide.EscrowFailed, "down", false
		}, `escrow "e" unknown`},
		"nothing can be kept": {func(f *facts, _ *DoctorOptions) { f.status.Unkept = keyfile.ErrNotKept }, `local quarantine problem`},
		"rights are lacking":  {func(f *facts, _ *DoctorOptions) { f.escrows[0].exam.Lacks = []string{"versions.access"} }, `escrow "e" problem`},
		"too many rights":     {func(f *facts, _ *DoctorOptions) { f.escrows[0].exam.Destroys = []string{"versions.destroy"} }, `escrow "e" problem`},
		"not examined":        {func(f *facts, _ *DoctorOptions) { f.escrows[0].examErr = errors.New("x") }, `escrow "e" unknown`},
		"another host":        {func(f *facts, _ *DoctorOptions) { f.escrows[0].Alarm = "another host writes" }, `escrow "e" problem`},
		"another key":         {func(f *facts, _ *DoctorOptions) { f.escrows[0].evidence.Copies[0].Key = reportKeyB }, `escrow "e" problem`},
		"sealed":              {func(f *facts, _ *DoctorOptions) { f.escrows[0].evidence.Copies[0].Have = false }, `escrow "e" unknown`},
		"the store's clock":   {func(f *facts, _ *DoctorOptions) { f.escrows[0].exam.Clock = &ahead }, "clock problem"},
		"refused for the clock": {func(f *facts, _ *DoctorOptions) {
			f.escrows[0].State, f.escrows[0].Why, f.escrows[0].Err = decide.EscrowFailed, "down", fmt.Errorf("x: %w", escrow.ErrClock)
		}, `escrow "e" problem, clock problem`},
		"nobody keeps the clock": {func(_ *facts, o *DoctorOptions) { o.ClockSynced = func() (bool, error) { return false, nil } }, "clock problem"},
		"the kernel is silent": {func(_ *facts, o *DoctorOptions) {
			o.ClockSynced = func() (bool, error) { return false, os.ErrPermission }
		}, "clock unknown"},
		"a loose file": {func(_ *facts, o *DoctorOptions) { o.Files = []ModeWanted{{Path: loose, Mode: 0o600}} }, "modes problem"},
		"a file that is not there": {func(_ *facts, o *DoctorOptions) {
			o.Files = []ModeWanted{{Path: dir + "/none", Mode: 0o600}, {Path: "", Mode: 0o600}}
		}, ""},
		"scratch on a disk": {func(_ *facts, o *DoctorOptions) { o.RunDir = "/usr" }, "scratch problem"},
		"no scratch":        {func(_ *facts, o *DoctorOptions) { o.RunDir = dir + "/none" }, "scratch unknown"},
		"a broken chain": {func(f *facts, _ *DoctorOptions) {
			f.record.Breaks, f.status.Broken = []ledger.Break{{Line: 7}}, &ledger.Break{Line: 7}
		}, "ledger problem"},
		"a deleted ledger":                         {func(f *facts, _ *DoctorOptions) { f.status.Unrecorded = noon(29) }, "ledger problem"},
		"a broken chain, and a key accepted since": {func(f *facts, _ *DoctorOptions) { f.record.Breaks = []ledger.Break{{Line: 7}} }, ""},
		"a hook that is not run":                   {func(_ *facts, o *DoctorOptions) { o.HooksDir = hooks }, "hooks problem"},
		"no hooks":                                 {func(_ *facts, o *DoctorOptions) { o.HooksDir = dir + "/none" }, ""},
		"no systemd":                               {func(f *facts, _ *DoctorOptions) { f.systemd = false }, ""},
		"no bus":                                   {func(f *facts, _ *DoctorOptions) { f.unitsErr = errors.New("no bus") }, "units unknown"},
		"the hook is gone":                         {func(f *facts, _ *DoctorOptions) { f.units.Hooks = nil }, "hook problem"},
		"the daemon runs":                          {func(f *facts, _ *DoctorOptions) { f.status.Daemon.Is = DaemonUp }, ""},
		"the daemon is parked":                     {func(f *facts, _ *DoctorOptions) { f.status.Daemon.Is = DaemonParked }, "daemon problem"},
		"the daemon's other key":                   {func(f *facts, _ *DoctorOptions) { f.status.Daemon.Is = DaemonOtherKey }, "daemon problem"},
		"the daemon's journal": {func(f *facts, _ *DoctorOptions) {
			f.status.Daemon.Is, f.status.Daemon.Err = DaemonUnknown, errors.New("no journal")
		}, "daemon unknown"},
		"the watcher is down":    {func(f *facts, _ *DoctorOptions) { f.units.Watcher.Active = "failed" }, "watcher problem"},
		"no inotify instance":    {func(f *facts, _ *DoctorOptions) { f.units.Watcher.Deaf = unit.ErrInotifyInstances }, "watching problem"},
		"the watcher reads anew": {func(f *facts, _ *DoctorOptions) { f.units.Watcher.Active = "reloading" }, ""},
		"the watcher is off":     {func(f *facts, _ *DoctorOptions) { f.units.Watcher.Enabled = "disabled" }, "watcher problem"},
		"out of order":           {func(f *facts, _ *DoctorOptions) { f.units.After = nil }, "order problem"},
		"a public password":      {func(f *facts, _ *DoctorOptions) { f.units.Passwords = []string{"CONTAINARIUM_POSTGRES_URL"} }, "password problem"},
		"no timer":               {func(f *facts, _ *DoctorOptions) { f.units.Timer = unit.DrillState{} }, "timer problem"},
		"a drill failed":         {func(f *facts, _ *DoctorOptions) { f.units.Timer.Result = "exit-code" }, "drill problem"},
	} {
		t.Run(name, func(t *testing.T) {
			f := patient(place("gcp-secret-manager", escrow.Examination{Project: "other", Asked: true}))
			f.systemd, f.units = true, units
			o := DoctorOptions{RunDir: "/dev/shm", ClockSynced: func() (bool, error) { return true, nil }}
			if c.edit != nil {
				c.edit(&f, &o)
			}
			var wrong []string
			for _, c := range f.checks(o) {
				if c.Text == "" {
					t.Errorf("%s says nothing", c.Name)
				}
				if c.State != CheckOK {
					wrong = append(wrong, c.Name+" "+string(c.State))
				}
			}
			if got := strings.Join(wrong, ", "); got != c.want {
				t.Errorf("%q, not %q", got, c.want)
			}
		})
	}
}

// TestPartsInOneDomain: stores of one disk or account are one, whatever their paths are.
func TestPartsInOneDomain(t *testing.T) {
	disk := func(names ...string) escrow.Examination { return escrow.Examination{Disks: names} }
	for name, tt := range map[string]struct {
		need  int
		exams []escrow.Examination
		state CheckState
		text  string
		read  Survival // of a store by somebody else
	}{
		"each on a disk of its own":   {2, []escrow.Examination{disk("sda"), disk("sdb"), disk("sdc")}, CheckOK, "1 of 3 may be lost", Survives},
		"three paths on one disk":     {2, []escrow.Examination{disk("sda"), disk("sda"), disk("sda")}, CheckProblem, "m1 and m2 are all in the disk sda", SurvivesNot},
		"two on a mirror's disk":      {2, []escrow.Examination{disk("sda", "sdb"), disk("sdb"), disk("sdc")}, CheckProblem, "m1 and m2 are all in the disk sdb", SurvivesNot},
		"two shares of one server":    {2, []escrow.Examination{disk("the server nas"), disk("the server nas"), disk("sda")}, CheckProblem, "m1 and m2 are all in the server nas", SurvivesNot},
		"too few without one disk":    {3, []escrow.Examination{disk("sda"), disk("sda"), disk("sdb"), disk("sdc")}, CheckProblem, "m1 and m2 are all lost with the disk sda, and fewer than 3 are left", Survives},
		"not mounted, and not known":  {2, []escrow.Examination{disk("sda"), {}, {}}, CheckOK, "1 of 3 may be lost", Survives},
		"all needed, two on one disk": {3, []escrow.Examination{disk("sda"), disk("sda"), disk("sdb")}, CheckUnknown, "all 3 are needed", Survives},
	} {
		t.Run(name, func(t *testing.T) {
			s := place("split", escrow.Examination{})
			s.parts = &partsFacts{need: tt.need}
			for i, x := range tt.exams {
				at := fmt.Sprintf("m%d", i+1)
				s.parts.members = append(s.parts.members, escrowFacts{EscrowStatus: EscrowStatus{Name: at,
					Place: escrow.Place{Kind: "directory", Domain: "the file system at /" + at}}, exam: x, examined: true})
			}
			f := patient(s)
			if c := f.checkParts(s); c.State != tt.state || !strings.Contains(c.Text, tt.text) {
				t.Errorf("%s: %s; want %s: %s", c.State, c.Text, tt.state, tt.text)
			}
			if v := f.storeRead(); v.Verdict != tt.read {
				t.Errorf("a store is read: %s, %q; want %s", v.Verdict, v.Evidence, tt.read)
			}
		})
	}
}

// TestPartsAndWhoAdministersThem has a row for what decides whether one who administers a
// store has the key, or takes it away.
func TestPartsAndWhoAdministersThem(t *testing.T) {
	member := func(kind, domain string, x escrow.Examination) escrowFacts {
		return escrowFacts{EscrowStatus: EscrowStatus{Name: kind, Place: escrow.Place{Kind: kind, Domain: domain}}, exam: x, examined: true}
	}
	unknown := escrow.Examination{}
	vault, aws, gcp := member("vault-kv", "Vault", unknown), member("aws-secrets-manager", "an account", unknown), member("gcp-secret-manager", "a project", unknown)
	other := member("command", "a manager", unknown)
	stick := member("directory", "a stick", escrow.Examination{Disks: []string{"sdb"}})
	here := member("directory", "a disk", escrow.Examination{Disks: []string{"sda"}, SameDisk: true})
	harmless := escrow.Examination{Asked: true}
	bare := func(m escrowFacts) escrowFacts {
		m.bare = true
		return m
	}
	whole := func(f *facts) {
		c := &f.escrows[0].evidence.Copies
		*c = append(*c, decide.CopyEvidence{ID: "current/vault-kv/3", Shelf: escrow.Current, Key: reportKeyA, Have: true, Beside: true})
	}
	for name, tt := range map[string]struct {
		members              []escrowFacts
		edit                 func(*facts)
		operator, read, disk Survival
		check                CheckState
		text                 string
	}{
		"each its own": {[]escrowFacts{vault, aws, gcp}, nil, Survives, Survives, Survives, CheckOK, "1 of 3 may be lost"},
		"two have one": {[]escrowFacts{vault, member("command", "Vault", unknown), gcp}, nil, SurvivesNot, SurvivesNot, Survives, CheckProblem, "vault-kv and command are all in Vault"},
		"two have one, and this host cannot destroy what is there": {[]escrowFacts{member("vault-kv", "Vault", harmless), member("command", "Vault", harmless), member("gcp-secret-manager", "a project", harmless)},
			nil, SurvivesNot, SurvivesNot, Survives, CheckProblem, "are all in Vault"},
		"a whole copy beside":    {[]escrowFacts{vault, aws, gcp}, whole, SurvivalUnsure, SurvivesNot, Survives, CheckProblem, "the parts hide nothing"},
		"root takes a third":     {[]escrowFacts{vault, aws, stick}, nil, SurvivalUnsure, Survives, Survives, CheckOK, "1 of 3"},
		"root takes one of four": {[]escrowFacts{vault, aws, gcp, stick}, nil, Survives, Survives, Survives, CheckOK, "2 of 4"},
		"one can be emptied":     {[]escrowFacts{vault, aws, member("gcp-secret-manager", "a project", escrow.Examination{Asked: true, Destroys: []string{"x"}})}, nil, SurvivalUnsure, Survives, Survives, CheckOK, "1 of 3"},
		"all are needed":         {[]escrowFacts{vault, aws}, nil, SurvivalUnsure, Survives, Survives, CheckUnknown, "all 2 are needed"},
		"two are on this disk":   {[]escrowFacts{here, member("directory", "another", here.exam), other}, nil, SurvivesNot, SurvivesNot, SurvivesNot, CheckProblem, "are all in"},
		"one of two is on it":    {[]escrowFacts{here, vault}, nil, SurvivesNot, Survives, SurvivesNot, CheckUnknown, "all 2"},
		"one has no part":        {[]escrowFacts{stick, vault, bare(gcp)}, nil, SurvivesNot, Survives, Survives, CheckOK, "1 of 3"},
		"and one is here":        {[]escrowFacts{here, vault, bare(gcp)}, nil, SurvivesNot, Survives, SurvivesNot, CheckOK, "1 of 3"},
		"another escrow is silent": {[]escrowFacts{vault, aws, gcp}, func(f *facts) {
			f.escrows = append(f.escrows, edited(place("command", unknown), func(s *escrowFacts) {
				s.State, s.Why, s.Err, s.evidence.Copies = decide.EscrowFailed, "no answer", escrow.ErrTimeout, nil
			}))
		}, Survives, SurvivalUnsure, Survives, CheckOK, "1 of 3"},
	} {
		t.Run(name, func(t *testing.T) {
			s := place("split", unknown)
			s.parts = &partsFacts{need: 2, members: tt.members}
			f := patient(s)
			if tt.edit != nil {
				tt.edit(&f)
			}
			got := map[Threat]ThreatVerdict{}
			for _, v := range f.threats() {
				got[v.Threat] = v
			}
			for threat, want := range map[Threat]Survival{OperatorCompromise: tt.operator, StoreRead: tt.read, DiskLost: tt.disk} {
				if v := got[threat]; v.Verdict != want {
					t.Errorf("%s: %s, %q; want %s", threat, v.Verdict, v.Evidence, want)
				}
			}
			if c := f.checkParts(f.escrows[0]); c.State != tt.check || !strings.Contains(c.Text, tt.text) {
				t.Errorf("%s: %s; want %s: %s", c.State, c.Text, tt.check, tt.text)
			}
		})
	}
}

// TestUnrecorded: a quarantine that is older than the ledger tells that this has lost its
// beginning, until somebody vouches for the key.
func TestUnrecorded(t *testing.T) {
	kept := func(at ...time.Time) (list []keyfile.Kept) {
		for _, at := range at {
			list = append(list, keyfile.Kept{Time: at})
		}
		return list
	}
	began := func(with ledger.Event) ledger.Record {
		return ledger.Record{Entries: []ledger.Entry{{Time: noon(30), Event: with}}}
	}
	for name, tt := range map[string]struct {
		record ledger.Record
		kept   []keyfile.Kept
		want   time.Time
	}{
		"it is empty":               {ledger.Record{}, kept(noon(30), noon(29)), noon(29)},
		"it began since":            {began(ledger.Proven), kept(noon(29)), noon(29)},
		"a person vouches":          {began(ledger.Accepted), kept(noon(29)), time.Time{}},
		"they began together":       {began(ledger.Proven), kept(noon(30).Add(-time.Minute)), time.Time{}},
		"it is empty, and the host": {ledger.Record{}, nil, time.Time{}},
		"the clock was behind for a while": {ledger.Record{Entries: []ledger.Entry{{Time: noon(30)}, {Time: time.Unix(1e6, 0)}, {Time: noon(30)}}},
			kept(time.Unix(1e6, 0)), time.Time{}},
	} {
		if got := unrecorded(tt.record, tt.kept, noon(31)); !got.Equal(tt.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
