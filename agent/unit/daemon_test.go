package unit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDaemonTold reads what a process has told of its key: the first word of its main
// process counts, and what comes after it is not waited for.
func TestDaemonTold(t *testing.T) {
	const empty = "Warning: Failed to load secrets master key: (file x has 0 bytes). Secrets disabled."
	const minted = "[secrets] NEW MASTER KEY generated at /etc/containarium/secrets.key"
	for name, tt := range map[string]struct {
		script string
		want   DaemonState
		unread string
	}{
		"ready":          {"say i 7 'Secrets store ready (x)'; exec sleep 100", DaemonState{Told: Ready}, ""},
		"minted":         {"say i 7 '" + minted + "'; say i 7 'Secrets store ready (x)'", DaemonState{Told: Ready, Minted: true}, ""},
		"minted, so far": {"say i 7 '" + minted + "'", DaemonState{Told: Minted, Minted: true}, ""},
		"parked":         {"say i 7 '" + empty + "'; say i 7 'Secrets store ready (x)'", DaemonState{Told: Empty}, ""},
		"no store":       {"say i 7 'Warning: Failed to init secrets store: timeout. Secrets disabled.'", DaemonState{Told: Disabled}, ""},
		"no Postgres":    {"say i 7 'Warning: Failed to connect to Postgres for secrets store: timeout'", DaemonState{Told: Untouched}, ""},
		"a child's word": {"say i 8 'Secrets store ready (x)'", DaemonState{}, ""},
		"another start":  {"say j 7 'Secrets store ready (x)'", DaemonState{}, ""},
		"nothing":        {"", DaemonState{}, ""},
		"no journal":     {"echo no such journal >&2; exit 1", DaemonState{}, "no such journal"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			script := "#!/bin/sh\necho \"$@\" > " + dir + `/call
say() { echo '{"_SYSTEMD_INVOCATION_ID":"'$1'","_PID":"'$2'","__REALTIME_TIMESTAMP":"1790000000123456","MESSAGE":"2026/11/27 16:04:28 '"$3"'"}'; }
` + tt.script + "\n"
			if err := os.WriteFile(filepath.Join(dir, "journalctl"), []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			var d DaemonState
			err := d.read(t.Context(), "i", 7)
			if (err == nil) != (tt.unread == "") || err != nil && !strings.Contains(err.Error(), tt.unread) {
				t.Error(err)
			}
			if d.Told != tt.want.Told || d.Minted != tt.want.Minted || d.ToldAt.IsZero() != (d.Told == "") {
				t.Errorf("%+v", d)
			}
			call, err := os.ReadFile(filepath.Join(dir, "call"))
			if err != nil || !strings.Contains(string(call), "_SYSTEMD_INVOCATION_ID=i _PID=7") {
				t.Errorf("%s, %v", call, err)
			}
		})
	}
	if (&DaemonState{}).read(t.Context(), "i", 0) == nil {
		t.Error("the journal of no process was read")
	}
}
