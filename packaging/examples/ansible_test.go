package examples

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

// sshHere is an ssh(1) that goes nowhere: a host is a directory of programs that come first.
// One that is down answers as ssh does.
const sshHere = `#!/bin/sh
while :; do
	case $1 in
	-o) shift 2 ;;
	-*) shift ;;
	*) break ;;
	esac
done
[ ! -e 'DIR/hosts/'"$1"/down ] || exit 255
export PATH="DIR/hosts/$1:$PATH"
shift
exec sh -c "$*"
`

// keyguardHere plays a host: what is called, and how it stands before and after a rotation.
const keyguardHere = `#!/bin/sh
cd "${0%/*}" || exit
echo "$*" >>calls
case $1 in
status)
	echo '{"version": 1}'
	[ ! -e red ] || exit 12
	[ ! -e fails ] || [ ! -e rotated ] || exit 12
	;;
rotate)
	touch rotated
	[ ! -e silent ] || touch down
	;;
esac
`

// TestAnsibleRotates: one host, then two, then five; the first that is not green, before or
// after, or does not answer, ends it, and no further one is begun.
func TestAnsibleRotates(t *testing.T) {
	brief.Skip(t)
	t.Parallel()
	if _, err := exec.LookPath("ansible-playbook"); err != nil {
		if os.Getenv("KEYGUARD_MUST_RUN") != "" {
			t.Fatal("there is no Ansible, and every test must run")
		}
		t.Skip("there is no Ansible")
	}
	const whole = "status --json\nrotate --yes\nstatus --json\n"
	for name, tt := range map[string]struct {
		marks map[string]string // a host's
		calls map[string]string
	}{
		"not green after":  {map[string]string{"c": "fails"}, map[string]string{"a": whole, "b": whole, "c": whole + "status --json\n"}},
		"not green before": {map[string]string{"c": "red"}, map[string]string{"a": whole, "b": "status --json\n", "c": "status --json\n"}},
		"silent after":     {map[string]string{"a": "silent"}, map[string]string{"a": "status --json\nrotate --yes\n"}},
		"only looked at":   {map[string]string{"b": "red"}, map[string]string{"a": "status --json\n", "b": "status --json\n", "c": "status --json\n"}},
		"does not answer":  {map[string]string{"b": "down"}, map[string]string{"a": whole, "c": "status --json\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write := func(path, text string) {
				t.Helper()
				path = filepath.Join(dir, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			write("ssh", strings.ReplaceAll(sshHere, "DIR", dir))
			hosts := strings.Split("abcdef", "")
			inventory := "[containarium]\n"
			for _, host := range hosts {
				inventory += host + "\n"
				write("hosts/"+host+"/keyguard", keyguardHere)
				if mark := tt.marks[host]; mark != "" {
					write("hosts/"+host+"/"+mark, "")
				}
			}
			write("inventory", inventory)
			c := exec.Command("ansible-playbook", "-i", filepath.Join(dir, "inventory"), "-e", "ansible_become=false ansible_python_interpreter=/usr/bin/python3 keyguard_rotate_retries=1 keyguard_rotate_delay=0", "../ansible/rotate.yml")
			if name == "only looked at" {
				c.Args = append(c.Args, "--check")
			}
			c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C.UTF-8", "ANSIBLE_HOME=" + dir, "ANSIBLE_LOCAL_TEMP=" + dir, "ANSIBLE_REMOTE_TEMP=" + dir,
				"ANSIBLE_SSH_EXECUTABLE=" + dir + "/ssh", "ANSIBLE_SSH_ARGS=", "ANSIBLE_PIPELINING=1"}
			out, err := c.CombinedOutput()
			if err == nil {
				t.Errorf("it ends well:\n%s", out)
			}
			for _, host := range hosts {
				if calls, _ := os.ReadFile(filepath.Join(dir, "hosts", host, "calls")); string(calls) != tt.calls[host] {
					t.Errorf("%s was asked for %q, want %q", host, calls, tt.calls[host])
				}
			}
			if t.Failed() {
				t.Logf("%s", out)
			}
		})
	}
}
