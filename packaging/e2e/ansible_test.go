//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestAnsible: the role installs, configures, makes the escrow and fetches what the host says,
// on a host where the daemon runs; again it changes nothing; and the rotation rotates. What it
// fetched is what `keyguard fleet` reads.
func TestAnsible(t *testing.T) {
	t.Parallel()
	m := newGuest(t, "bookworm")
	m.check(m.g.Boot(m.ctx))
	m.addDaemon(unit)
	m.startDaemon()
	m.run("containarium secrets set alice TOKEN tea")
	m.addEscrow()
	m.check(m.g.Copy(m.ctx, deb, "/root/containarium-keyguard.deb", 0o644))

	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		m.check(os.WriteFile(path, []byte(text), 0o755))
		return path
	}
	m.check(os.CopyFS(filepath.Join(dir, "ansible"), os.DirFS("../ansible")))
	// What Ansible calls is not ssh(1): the guest has no network.
	enter, err := m.g.Command("/bin/sh", "-c")
	m.check(err)
	ssh := write("ssh", "#!/bin/sh\nwhile :; do\n\tcase $1 in -o) shift 2 ;; -*) shift ;; *) break ;; esac\ndone\nshift\nexec '"+strings.Join(enter, "' '")+"' \"$*\"\n")
	inventory := write("inventory", "[containarium]\nkeyguard-guest\n")
	vars, err := json.Marshal(map[string]any{"ansible_become": false, "ansible_python_interpreter": "/usr/bin/python3", "keyguard_rotate_delay": 1,
		"keyguard_package": "/root/containarium-keyguard.deb", "keyguard_configuration": escrowConfig})
	m.check(err)
	play := func(book string, more ...string) string {
		t.Helper()
		c := exec.CommandContext(m.ctx, "ansible-playbook", append([]string{"-i", inventory, "-e", "@" + write("vars.json", string(vars)), filepath.Join(dir, "ansible", book)}, more...)...)
		c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C.UTF-8", "ANSIBLE_HOME=" + dir, "ANSIBLE_LOCAL_TEMP=" + dir, "ANSIBLE_SSH_EXECUTABLE=" + ssh,
			"ANSIBLE_SSH_ARGS=", "ANSIBLE_SSH_TRANSFER_METHOD=piped", "ANSIBLE_PIPELINING=1", "ANSIBLE_NOCOLOR=1"}
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", book, err, out)
		}
		return string(out)
	}
	// good are the answers of keyguard fleet that are good, from what was fetched.
	good := func() (columns []string) {
		t.Helper()
		said, err := os.ReadFile(filepath.Join(dir, "ansible/status/keyguard-guest.json"))
		m.check(err)
		list, err := exec.CommandContext(m.ctx, "ansible-inventory", "-i", inventory, "--list").Output()
		m.check(err)
		m.check(m.g.Write(m.ctx, "/root/status/keyguard-guest.json", string(said), 0o600))
		m.check(m.g.Write(m.ctx, "/root/inventory.json", string(list), 0o600))
		m.check(m.g.Write(m.ctx, "/root/fleet.toml", escrowConfig, 0o600))
		var report struct {
			Hosts []struct{ Cells []struct{ Column, Is string } }
		}
		m.check(json.Unmarshal([]byte(m.run("cd /root; keyguard fleet --config fleet.toml --inventory inventory.json --status status --again 0 --json || true")), &report))
		for _, host := range report.Hosts {
			for _, c := range host.Cells {
				if c.Is == "good" {
					columns = append(columns, c.Column)
				}
			}
		}
		return columns
	}

	m.untouched("the role", func() { play("site.yml") })
	m.run("keyguard status")
	if got := good(); !slices.Equal(got, []string{"status", "gcp", "drill", "twins"}) { // one store is one failure domain
		t.Errorf("of keyguard fleet's answers %q are good", got)
	}
	before := m.run("sha256sum " + configFile)
	m.untouched("the role again", func() {
		if out := play("site.yml"); !strings.Contains(out, "changed=0") {
			t.Errorf("the second time changes something:\n%s", out)
		}
	})
	m.want("sha256sum "+configFile, before)

	key := m.key()
	play("rotate.yml")
	if m.key() == key {
		t.Error("after the rotation it is the same key")
	}
	m.want("containarium secrets get alice TOKEN", "tea")
	m.run("keyguard status")
}
