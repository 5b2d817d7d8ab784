package agent

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/keyfile"
	"github.com/footprintai/containarium-keyguard/agent/notify"
	"github.com/footprintai/containarium-keyguard/agent/printable"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

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
	Err   error // what went wrong, for its remedy
	// Ailment is what status finds, for what to type; nil for nothing of the kind.
	Ailment *Ailment
	Fix     Fix // where neither an error nor an ailment says it
	// File is what a check of the sandbox is about: a file, or a directory, which has no Key.
	File ModeWanted
}

// Fix is what puts right what a check found. What to type for each is in
// cmd/keyguard/doctorremedies.go.
type Fix string

// The fixes.
const (
	FixMode     Fix = "mode"     // of the keyfile
	FixVerify   Fix = "verify"   // see which key is right
	FixKeyfile  Fix = "keyfile"  // put the key there that is
	FixLogged   Fix = "logged"   // have Postgres write the table to its log
	FixTLS      Fix = "tls"      // or say that the network is one's own
	FixBackup   Fix = "backup"   // save the key
	FixIdentity Fix = "identity" // prove a sealed copy where its identity is
	FixToken    Fix = "token"    // a new one
	FixExpiry   Fix = "expiry"   // have the store delete nothing by itself
	FixRoles    Fix = "roles"    // of the service account: those that are needed, and no more
	FixPolicy   Fix = "policy"   // of the token in Vault: the same
	FixClock    Fix = "clock"    // have it kept right
	FixModes    Fix = "modes"    // of configuration, state and credentials
	FixScratch  Fix = "scratch"  // in memory
	FixVouch    Fix = "vouch"    // for the key, once it is known who took the ledger away
	FixID       Fix = "id"       // give this machine one
	FixAccept   Fix = "accept"   // the key of a copied machine
	FixChain    Fix = "chain"    // see where the ledger's is broken
	FixAlert    Fix = "alert"    // put the hooks right, and try them
	FixSystemd  Fix = "systemd"  // see why it does not answer
	FixHook     Fix = "hook"     // have the daemon's start ask keyguard
	FixWatcher  Fix = "watcher"  // enable it
	FixInotify  Fix = "inotify"  // raise the limit that the watcher ran into
	FixOrder    Fix = "order"    // of the units
	FixPassword Fix = "password" // move it out of the daemon's unit
	FixDaemon   Fix = "daemon"   // see how its unit is
	FixRestart  Fix = "restart"  // have the daemon read the keyfile again
	FixSecrets  Fix = "secrets"  // see why the daemon keeps none
	FixTimer    Fix = "timer"    // enable it
	FixDrill    Fix = "drill"    // see why it failed
	FixOwners   Fix = "owners"   // an administrator of its own for each store of a split
	FixPlaces   Fix = "places"   // and a place
	FixWhole    Fix = "whole"    // take the copy away that is not in parts
	FixMember   Fix = "member"   // add one, with a part to spare
	FixUnit     Fix = "unit"     // see how the watcher's is
	FixMove     Fix = "move"     // File to where the watcher reaches it
	FixOwner    Fix = "owner"    // of File: root
	FixWriting  Fix = "writing"  // let the watcher write to File
)

// ModeWanted is a file and the mode that it may have at most.
type ModeWanted struct {
	Path string
	Mode fs.FileMode
	// Key is the setting that names it where the watcher reads it, and Table the escrow's
	// name, or "database".
	Table, Key string
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

// checks looks at everything that must be so on this host.
func (f facts) checks(o DoctorOptions) []Check {
	var list []Check
	add := func(name string, state CheckState, text string) *Check {
		list = append(list, Check{Name: name, State: state, Text: text})
		return &list[len(list)-1]
	}
	switch d := f.status.Decision; {
	case f.status.Loose != "":
		add("keyfile", CheckProblem, f.status.Loose).Fix = FixMode
	case f.status.Keyfile.Good && (d.Action == decide.Doubt || d.Action == decide.Lost):
		add("keyfile", CheckProblem, f.status.Keyfile.State()+", and "+d.Reason).Fix = FixVerify
	case f.status.Keyfile.Good && d.Action != decide.Install:
		add("keyfile", CheckOK, "32 bytes, closed to others")
	case d.Action == decide.Make:
		add("keyfile", CheckOK, "none yet: the daemon's first start makes it")
	default:
		text := f.status.Keyfile.State()
		if d.Action == decide.Install {
			text += fmt.Sprintf("; key %s belongs there", d.Key)
		}
		add("keyfile", CheckProblem, text).Fix = FixKeyfile
	}
	switch f.status.Rows.State {
	case decide.RowsUnknown:
		add("postgres", CheckProblem, f.status.Rows.Why).Err = f.status.Rows.Err
	case decide.RowsSilent:
		add("postgres", CheckOK, "no row depends on a key: "+f.status.Rows.Why)
	default:
		add("postgres", CheckOK, "answers; "+map[bool]string{true: "1 row depends", false: printable.Count(f.status.Rows.Dependent, "row") + " depend"}[f.status.Rows.Dependent == 1]+" on a key")
	}
	if f.unlogged {
		add("table", CheckProblem, "it is UNLOGGED: a crash of Postgres empties it, and every secret is gone").Fix = FixLogged
	}
	if f.clearText != "" {
		add("postgres password", CheckProblem, "it goes to "+f.clearText+" in clear text if nobody there offers TLS, or somebody on the way says so").Fix = FixTLS
	}
	for _, s := range f.escrows {
		list = append(list, f.orStatus(s, s.check(f.right())))
		if s.parts != nil {
			list = append(list, f.checkParts(s))
			for _, m := range slices.Concat(s.parts.members, s.parts.others) {
				list = append(list, m.check("")) // of what it holds its split tells
			}
		}
	}
	list = append(list, f.checkClock(o), f.checkModes(o), checkTmpfs(o.RunDir), f.checkLedger())
	if o.HooksDir != "" {
		list = append(list, checkHooks(o.HooksDir, o.HooksEnded))
	}
	if err := f.status.Unkept; err != nil {
		add("local quarantine", CheckProblem, err.Error()).Err = keyfile.ErrNotKept
	}
	for _, err := range f.status.Hanging {
		add("directories", CheckProblem, err.Error()).Err = err
	}
	if f.systemd {
		list = append(list, f.checkUnits()...)
		list = append(list, f.checkSandbox(o)...)
	}
	return list
}

// orStatus is a check of an escrow, with which nothing is well that status finds amiss. Of
// parts checkParts tells.
func (f facts) orStatus(s escrowFacts, c Check) Check {
	for i, a := range f.status.Ailments {
		if c.State == CheckOK && a.Escrow != nil && a.Escrow.Name == s.Name && (s.parts == nil || a.Ails != AilsLacks && a.Ails != AilsRefuses) {
			c.State, c.Ailment = CheckProblem, &f.status.Ailments[i]
			c.Text = strings.TrimLeft(strings.TrimPrefix(a.Line, c.Name), ": ")
		}
	}
	return c
}

func (s escrowFacts) check(right key.Fingerprint) Check {
	c := Check{Name: fmt.Sprintf("escrow %q", s.Name), State: CheckOK, Text: s.Place.Domain}
	readable, sealed := s.holds(right)
	switch {
	case s.AddOnly && (s.Added == right || right == ""):
		c.Text += "; this host only adds there, and what it stored is unverified"
	case s.AddOnly:
		c.State, c.Text, c.Fix = CheckProblem, "it was not given key "+string(right)+" yet", FixBackup
	case s.Alarm != "":
		c.State, c.Text, c.Err = CheckProblem, s.Alarm, decide.ErrForeignCopy
	case s.State == decide.EscrowFailed:
		c.State, c.Text, c.Err = CheckProblem, s.Why, s.Err
		if !s.Required {
			c.State = CheckUnknown
		}
	case len(s.exam.Lacks) > 0:
		c.State, c.Text, c.Err = CheckProblem, "this host lacks "+strings.Join(s.exam.Lacks, ", "), escrow.ErrDenied
	case s.examErr != nil:
		c.State, c.Text, c.Err = CheckUnknown, s.examErr.Error(), s.examErr
	case len(s.exam.Readable)+len(s.exam.Exposed) > 0:
		c.State, c.Text, c.Err = CheckProblem, strings.Join(append(s.exam.Readable, s.exam.Exposed...), "; "), escrow.ErrExposed
	case s.exam.Trouble != nil:
		c.State, c.Text, c.Err = CheckProblem, s.exam.Trouble.Text, s.exam.Trouble
	case s.Ending != "":
		c.State, c.Text, c.Fix = CheckProblem, s.Ending, FixToken
	case readable == "" && sealed != "":
		c.State, c.Text, c.Fix = CheckUnknown, "it holds key "+string(right)+" sealed, which this host cannot prove", FixIdentity
	case readable == "" && right != "":
		c.State, c.Text, c.Fix = CheckProblem, "no copy that can be read is key "+string(right), FixBackup
	case !s.exam.Deletes.IsZero():
		c.State = CheckProblem
		c.Text = "the store deletes copies by itself, the next " + printable.Time(s.exam.Deletes) + "; the watcher stores them again before, while it runs"
		c.Fix = FixExpiry
	case s.exam.Asked:
		c.Text += "; this host may read, list and add"
		if len(s.exam.Destroys) > 0 {
			c.State = CheckProblem
			c.Text += ", and destroy: it does not need " + strings.Join(s.exam.Destroys, ", ")
			c.Fix = FixRoles
			if s.Place.Kind == "vault-kv" {
				c.Fix = FixPolicy
			}
		}
	}
	return c
}

// clockOff is how far a clock may be off before credentials are refused: Google takes
// five minutes. A drift of one already says that nobody keeps it.
const clockOff = time.Minute

func (f facts) checkClock(o DoctorOptions) Check {
	c := Check{Name: "clock", State: CheckOK, Fix: FixClock}
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
	var bad, untold []string
	looked := 0
	for _, w := range o.Files {
		if w.Path == "" {
			continue
		}
		info, err := crew.Stat(w.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			if !slices.Contains(untold, err.Error()) {
				untold = append(untold, err.Error())
			}
			continue
		}
		looked++
		if m := info.Mode().Perm(); m&^w.Mode != 0 {
			bad = append(bad, fmt.Sprintf("%s is %04o, and may be %04o at most", w.Path, m, w.Mode))
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
			bad = append(bad, fmt.Sprintf("%s belongs to uid %d", w.Path, st.Uid))
		}
	}
	c.Text = fmt.Sprintf("configuration, state and credentials are closed to others (%d looked at)", looked)
	switch {
	case len(bad) > 0:
		c.State, c.Text, c.Fix = CheckProblem, strings.Join(append(bad, untold...), "; "), FixModes
	case len(untold) > 0:
		c.State, c.Text = CheckUnknown, strings.Join(untold, "; ")
	}
	return c
}

// checkTmpfs: a drill writes keys to scratch, which must never be a disk (law 8).
func checkTmpfs(dir string) Check {
	c := Check{Name: "scratch", State: CheckOK, Text: dir + " is in memory"}
	st, err := crew.Within(dir, func() (st unix.Statfs_t, err error) { err = unix.Statfs(dir, &st); return st, err }, nil)
	switch {
	case err != nil:
		c.State, c.Text = CheckUnknown, fmt.Sprintf("%s: %v", dir, err)
	case st.Type != unix.TMPFS_MAGIC && st.Type != unix.RAMFS_MAGIC:
		c.State, c.Text, c.Fix = CheckProblem, dir+" is on a disk: no drill is held there", FixScratch
	}
	return c
}

func (f facts) checkLedger() Check {
	if f.status.Damaged != "" {
		return Check{Name: "ledger", State: CheckUnknown, Text: f.status.Damaged}
	}
	c := Check{Name: "ledger", State: CheckOK, Text: "its chain is whole, of " + printable.Count(int64(len(f.record.Entries)), "line")}
	if since := f.status.Unrecorded; !since.IsZero() {
		c.State, c.Fix = CheckProblem, FixVouch
		c.Text = "its beginning is gone: keys were kept here at " + printable.Time(since) + " already, and of that it says nothing"
	}
	switch e := f.status.Other; {
	case e.Event == "":
	case f.status.Nameless:
		c.State, c.Text, c.Fix = CheckUnknown, "this machine has no id to tell it from a clone of "+e.Host+", which wrote it", FixID
	default:
		c.State, c.Text, c.Fix = CheckProblem, "it is another machine's, called "+e.Host+", of which this one is a copy", FixAccept
	}
	switch n, b := len(f.record.Breaks), f.status.Broken; {
	case f.status.Unwritable != nil:
		c.State, c.Text, c.Err = CheckProblem, f.status.Unwritable.Error(), f.status.Unwritable
	case b != nil:
		c.State, c.Text, c.Fix = CheckProblem, fmt.Sprintf("its chain is broken at line %d", b.Line), FixChain
	case n > 0:
		c.Text = fmt.Sprintf("its chain is broken at line %d, and whole since a person has accepted that", f.record.Breaks[n-1].Line)
	}
	return c
}

// checkHooks also looks how they ended when something happened last: whom they should have told
// does not know of it.
func checkHooks(dir, ended string) Check {
	n, errs := notify.Runnable(dir)
	c := Check{Name: "hooks", State: CheckOK, Text: fmt.Sprintf("%d in %s", n, dir)}
	if len(errs) > 0 {
		c.State, c.Text, c.Err = CheckProblem, errs[0].Error(), errs[0]
		for _, err := range errs[1:] {
			c.Text += "; " + err.Error()
		}
		return c
	}
	if ended == "" || n == 0 {
		return c
	}
	switch last, err := notify.Left(ended); {
	case err != nil:
		c.State, c.Text = CheckUnknown, err.Error()
	case len(last.Failed) > 0:
		c.State, c.Text, c.Fix = CheckProblem, fmt.Sprintf("what happened at %s was not told: %s", printable.Time(last.At), strings.Join(last.Failed, "; ")), FixAlert
	}
	return c
}

func (f facts) checkUnits() []Check {
	if f.unitsErr != nil {
		return []Check{{Name: "units", State: CheckUnknown, Text: f.unitsErr.Error(), Fix: FixSystemd}}
	}
	var list []Check
	add := func(name string, ok bool, good, bad string, fix Fix) {
		c := Check{Name: name, State: CheckOK, Text: good}
		if !ok {
			c.State, c.Text, c.Fix = CheckProblem, bad, fix
		}
		list = append(list, c)
	}
	u := f.units
	why := f.hook()
	add("hook", why == "", "prestart runs before "+u.Daemon, why, FixHook)
	add("watcher", u.Watcher.Enabled == "enabled" && u.Watcher.Up(), "enabled and "+u.Watcher.Active,
		fmt.Sprintf("%s, %s", cmp.Or(u.Watcher.Enabled, "not installed"), cmp.Or(u.Watcher.Active, "inactive")), FixWatcher)
	if deaf := u.Watcher.Deaf; deaf != nil {
		list = append(list, Check{Name: "watching", State: CheckProblem, Text: "the watcher notices changes only once a rescan: " + deaf.Error(), Fix: FixInotify})
	}
	if u.Daemon != "" {
		add("order", slices.Contains(u.After, unit.Watcher), u.Daemon+" starts after the watcher",
			u.Daemon+" does not start after the watcher", FixOrder)
		add("password", len(u.Passwords) == 0, "none stands in the daemon's unit",
			strings.Join(u.Passwords, ", ")+" in the daemon's unit: every local user can read it (systemctl show)", FixPassword)
	}
	switch d := f.status.Daemon; d.Is {
	case DaemonNotAsked, DaemonAbsent:
	case DaemonUnknown:
		list = append(list, Check{Name: "daemon", State: CheckUnknown, Text: d.Err.Error(), Fix: FixDaemon})
	case DaemonUntold:
		list = append(list, Check{Name: "daemon", State: CheckUnknown, Text: d.Err.Error(), Fix: FixRestart})
	case DaemonParked, DaemonNoSecrets:
		list = append(list, Check{Name: "daemon", State: CheckProblem, Text: "it runs without secrets", Fix: FixSecrets})
	case DaemonOtherKey:
		list = append(list, Check{Name: "daemon", State: CheckProblem, Text: "it does not run on the key that is in place", Fix: FixRestart})
	default:
		list = append(list, Check{Name: "daemon", State: CheckOK, Text: cmp.Or(d.Active, "inactive")})
	}
	add("timer", u.Timer.Enabled == "enabled" && u.Timer.Active == "active", "the weekly drill is enabled",
		fmt.Sprintf("the weekly drill is %s, %s", cmp.Or(u.Timer.Enabled, "not installed"), cmp.Or(u.Timer.Active, "inactive")), FixTimer)
	if r := u.Timer.Result; r != "" {
		add("drill", r == "success", "the last one succeeded", "the last one ended in: "+r, FixDrill)
	}
	return list
}
