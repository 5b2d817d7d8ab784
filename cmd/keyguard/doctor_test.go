package main

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/config"
)

// TestDoctorFiles: every file that an escrow or the database can name is looked at.
func TestDoctorFiles(t *testing.T) {
	c := config.Default()
	c.Escrows = []config.Escrow{{Name: "e"}}
	tables := map[string]reflect.Value{"e": reflect.ValueOf(&c.Escrows[0]).Elem(), "database": reflect.ValueOf(&c.Database).Elem()}
	named := map[string]string{}
	for table, v := range tables {
		for i := range v.NumField() {
			if key := v.Type().Field(i).Tag.Get("toml"); strings.HasSuffix(key, "_file") {
				v.Field(i).SetString("/" + table + "/" + key)
				named[key] = table
			}
		}
	}
	if len(named) < 8 {
		t.Errorf("only %v", named)
	}
	files := (&app{}).doctorOptions(c).Files
	for key, table := range named {
		if !slices.ContainsFunc(files, func(w agent.ModeWanted) bool {
			return w.Path == "/"+table+"/"+key && w.Table == table && w.Key == key && w.Mode&^0o644 == 0
		}) {
			t.Errorf("%s of %s is not looked at", key, table)
		}
	}
}

// TestDoctorOfTheSandbox: what is typed for a path that the watcher cannot use is about that path.
func TestDoctorOfTheSandbox(t *testing.T) {
	const move = "move it, or mount it, below /mnt, /media or /srv, name that in the configuration, then: systemctl restart containarium-keyguard.service"
	writable := func(path string) string {
		return "systemctl edit containarium-keyguard.service, there two lines, [Service] and ReadWritePaths=" + path + ", then: systemctl restart containarium-keyguard.service"
	}
	for _, tt := range []struct {
		fix       agent.Fix
		path, key string
		want      string
	}{
		{agent.FixMove, "/home/keys", "", move},
		{agent.FixMove, "/home/token", "token_file", "install -m 0600 /home/token /etc/containarium-keyguard/v.token, name that as token_file, then: systemctl reload containarium-keyguard.service"},
		{agent.FixOwner, "/keys", "", "chown -R root:root /keys (FAT, which knows no owners, is mounted with uid=0), then: keyguard doctor"},
		{agent.FixOwner, "/token", "token_file", "chown root:root /token, and have what renews it, if anything does, run as root, then: keyguard doctor"},
		{agent.FixWriting, "/keys", "", writable("-/keys")},
		{agent.FixWriting, "/my 5% keys", "", writable(`"-/my 5%% keys"`)}, // systemd would take it apart
	} {
		c := agent.Check{State: agent.CheckProblem, Fix: tt.fix, File: agent.ModeWanted{Path: tt.path, Table: "v", Key: tt.key}}
		if got := checkRemedy(agent.DoctorResult{}, c); got != tt.want {
			t.Errorf("%s of %s: %q", tt.fix, tt.path, got)
		}
	}
}
