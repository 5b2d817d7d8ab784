package agent

import (
	"bufio"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/durable/durabletest"
)

// sandboxed starts a process with mounts of its own, which a script makes in dir, and
// returns its id. It ends with the test.
func sandboxed(t *testing.T, dir, script string) int {
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "sh", "-ec", script+"\necho ready\nread end || true")
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close() //nolint:errcheck // it reads to the end
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v (these tests need root)", line, err)
	}
	return cmd.Process.Pid
}

// TestSandbox has a row for each way in which the watcher can have a path otherwise than
// root has it.
func TestSandbox(t *testing.T) {
	const (
		well     = "the watcher can use every path of the configuration"
		readOnly = "mount --bind keys keys; mount -o remount,bind,ro keys"
	)
	for name, c := range map[string]struct {
		ours   string // what root does in DIR, where the escrow is keys and the file is token
		theirs string // and the watcher's unit, with mounts that root does not see
		edit   func(dir string, f *facts, o *DoctorOptions)
		text   string // its beginning
		fix    Fix
		file   string // what it is about
	}{
		"well": {text: well},

		"a read-only escrow":                   {theirs: readOnly, text: `the watcher sees DIR/keys, escrow "e", read-only`, fix: FixWriting, file: "DIR/keys"},
		"an escrow that is read-only for root": {ours: readOnly, text: well},
		"an escrow that is immutable for root": {ours: "chattr +i keys/current keys", text: well},
		"an escrow that does not answer": {theirs: readOnly, text: well,
			edit: func(_ string, f *facts, _ *DoctorOptions) { f.escrows[0].State = decide.EscrowFailed }},
		"a stick by its name": {theirs: readOnly, text: well,
			edit: func(_ string, f *facts, _ *DoctorOptions) { f.escrows[0].Place.Where = "LABEL=KEYGUARD" }},
		"an escrow of another kind": {theirs: readOnly, text: well,
			edit: func(_ string, f *facts, _ *DoctorOptions) { f.escrows[0].Place.Kind = "vault-kv" }},
		"an escrow that is not there": {ours: "rm -r keys", text: well},
		"a hidden escrow":             {theirs: "mount -t tmpfs none keys", text: `the watcher does not see DIR/keys, escrow "e"`, fix: FixMove, file: "DIR/keys"},
		"an escrow in what is hidden": {ours: "mkdir home; mv keys home", theirs: "mount -t tmpfs -o mode=0 none home", text: `the watcher does not see DIR/home/keys, escrow "e"`, fix: FixMove, file: "DIR/home/keys",
			edit: func(dir string, f *facts, _ *DoctorOptions) { f.escrows[0].Place.Where = dir + "/home/keys" }},
		"an escrow of another user's": {ours: "chown -R 1000 keys", text: `the watcher, root without a capability, cannot use DIR/keys, escrow "e", which belongs to uid 1000`,
			fix: FixOwner, file: "DIR/keys"},
		"an escrow of another user's for all": {ours: "chown -R 1000 keys; chmod -R 0777 keys", text: well},
		"a link to a read-only escrow": {ours: "ln -s $PWD/keys link", theirs: readOnly, text: `the watcher sees DIR/link, escrow "e", read-only`, fix: FixWriting, file: "DIR/link",
			edit: func(dir string, f *facts, _ *DoctorOptions) { f.escrows[0].Place.Where = dir + "/link" }},
		"a link to a hidden escrow": {ours: "ln -s $PWD/home/keys link; mkdir home; mv keys home", theirs: "mount -t tmpfs none home", text: `the watcher does not see DIR/link, escrow "e"`, fix: FixMove, file: "DIR/link",
			edit: func(dir string, f *facts, _ *DoctorOptions) { f.escrows[0].Place.Where = dir + "/link" }},
		"a name that systemd would take apart": {ours: "mkdir 'my 5% keys'", theirs: "mount --bind 'my 5% keys' 'my 5% keys'; mount -o remount,bind,ro 'my 5% keys'",
			edit: func(dir string, _ *facts, o *DoctorOptions) { o.Writes = []string{dir + "/my 5% keys"} },
			text: "the watcher sees DIR/my 5% keys, where it writes, read-only", fix: FixWriting, file: "DIR/my 5% keys"},

		"a hidden file": {ours: "mkdir home; mv token home", theirs: "mount -t tmpfs none home", text: `the watcher does not see DIR/home/token, token_file of "v"`,
			edit: func(dir string, _ *facts, o *DoctorOptions) { o.Files[0].Path = dir + "/home/token" },
			fix:  FixMove, file: "DIR/home/token"},
		"a file that is not there": {ours: "rm token", text: well},
		"a file of another user's": {ours: "chown 1000 token", text: `the watcher, root without a capability, cannot use DIR/token, token_file of "v", which belongs to uid 1000`,
			fix: FixOwner, file: "DIR/token"},
		"a file of another user's for all":       {ours: "chown 1000 token; chmod 0644 token", text: well},
		"a file of another user's for the group": {ours: "chown 1000 token; chmod 0640 token", text: well}, // which is root's
		"a file in another user's directory": {ours: "mkdir agent; mv token agent; chmod 0700 agent; chown 1000 agent",
			edit: func(dir string, _ *facts, o *DoctorOptions) { o.Files[0].Path = dir + "/agent/token" },
			text: `the watcher, root without a capability, cannot use DIR/agent/token, token_file of "v", which lies in a directory of another user's`,
			fix:  FixMove, file: "DIR/agent/token"},
		"a file that is not the watcher's": {ours: "chown 1000 token", text: well,
			edit: func(_ string, _ *facts, o *DoctorOptions) { o.Files[0].Key = "" }},

		"hidden hooks": {ours: "mkdir home home/hooks", theirs: "mount -t tmpfs none home", text: "the watcher does not see DIR/home/hooks, hooks_dir", fix: FixMove, file: "DIR/home/hooks",
			edit: func(dir string, _ *facts, o *DoctorOptions) { o.HooksDir = dir + "/home/hooks" }},
		"a process that is gone": {text: "what the watcher can use is not known: /proc/4194305/root: no such file or directory", fix: FixUnit,
			edit: func(_ string, f *facts, _ *DoctorOptions) { f.units.Watcher.MainPID = 1<<22 + 1 }}, // beyond the largest, proc_sys_kernel(5)
		"no process": {edit: func(_ string, f *facts, _ *DoctorOptions) { f.units.Watcher.MainPID = 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			dir := durabletest.TmpFS(t, 1<<20)
			const made = "mkdir keys keys/current; touch token; chmod 0600 token\n"
			ours := exec.Command("sh", "-ec", made+c.ours)
			ours.Dir = dir
			if out, err := ours.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			f := facts{escrows: []escrowFacts{{EscrowStatus: EscrowStatus{Name: "e", State: decide.EscrowAnswered, Place: escrow.Place{Kind: "directory", Where: dir + "/keys"}}}}}
			f.units.Watcher.MainPID = sandboxed(t, dir, c.theirs)
			o := DoctorOptions{Files: []ModeWanted{{Path: dir + "/token", Table: "v", Key: "token_file"}}}
			if c.edit != nil {
				c.edit(dir, &f, &o)
			}
			want := []Check{{Name: "sandbox", State: CheckProblem, Text: c.text, Fix: c.fix, File: ModeWanted{Path: c.file}}}
			if strings.HasSuffix(c.file, "token") {
				want[0].File.Table, want[0].File.Key = "v", "token_file"
			}
			switch {
			case c.text == "":
				want = nil
			case c.text == well:
				want[0].State = CheckOK
			case strings.Contains(c.text, "not known"):
				want[0].State = CheckUnknown
			}
			got := f.checkSandbox(o)
			for i := range got {
				got[i].Text = strings.ReplaceAll(got[i].Text, dir, "DIR")
				got[i].File.Path = strings.ReplaceAll(got[i].File.Path, dir, "DIR")
				got[i].Text, _, _ = strings.Cut(got[i].Text, ": PrivateTmp=") // where tests have their files
			}
			if !slices.Equal(got, want) {
				t.Errorf("%+v\nnot %+v", got, want)
			}
		})
	}
}

// TestHider: the directive is named that hides a path on every host.
func TestHider(t *testing.T) {
	for path, want := range map[string]string{
		"/root/gcp.json": "ProtectHome=", "/home/a/b": "ProtectHome=", "/run/user/0/x": "ProtectHome=", "/tmp": "PrivateTmp=", "/var/tmp/x": "PrivateTmp=",
		"/rooted/x": "", "/run/vault/token": "", "/srv/keys": "",
	} {
		if got := hider(path); !strings.Contains(got, want) || (got == "") != (want == "") {
			t.Errorf("%s: %q", path, got)
		}
	}
}
