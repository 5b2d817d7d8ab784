// Package examples tries the samples that the packages ship.
package examples

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/config"
)

// sample runs one with programs of ours in the place of those that it calls, each of which
// prints what it is told here, or keeps what it reads in a file of its name.
func sample(t *testing.T, script string, variables []string, programs map[string]string) (kept func(string) string) {
	t.Helper()
	dir := t.TempDir()
	source, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	for name, says := range programs {
		text := "#!/bin/sh\ncat >'" + dir + "/" + name + ".in'\necho \"$@\" >'" + dir + "/" + name + ".args'\n"
		if says != "" {
			text = "#!/bin/sh\ncat <<'END'\n" + says + "\nEND\nexit 12\n"
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	here := strings.ReplaceAll(string(source), "/usr/sbin/sendmail", filepath.Join(dir, "sendmail"))
	if err := os.WriteFile(filepath.Join(dir, "script"), []byte(here), 0o755); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(filepath.Join(dir, "script"))
	c.Env = append(variables, "PATH="+dir+":/usr/bin:/bin", "LC_ALL=C.UTF-8")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		}
		return string(data)
	}
}

func TestSlack(t *testing.T) {
	for urgent, color := range map[string]string{"true": "danger", "false": "good"} {
		kept := sample(t, "hooks.d/slack", []string{"KEYGUARD_EVENT=parked", "KEYGUARD_HOST=h1", "KEYGUARD_URGENT=" + urgent,
			"KEYGUARD_TEXT=a \"quoted\" \\ <!channel> & more\x1b[31m\nline", "KEYGUARD_REMEDY=keyguard verify"}, map[string]string{"curl": ""})
		var posted struct {
			Attachments []struct{ Color, Text string }
		}
		if err := json.Unmarshal([]byte(kept("curl.in")), &posted); err != nil || len(posted.Attachments) != 1 {
			t.Fatalf("%v: %s", err, kept("curl.in"))
		}
		a := posted.Attachments[0]
		if want := "*parked* on h1: a \"quoted\" \\ &lt;!channel&gt; &amp; more[31m line\n`keyguard verify`"; a.Text != want || a.Color != color {
			t.Errorf("Slack is told %q in %s,\nwant %q in %s", a.Text, a.Color, want, color)
		}
		if args := kept("curl.args"); strings.Contains(args, "parked") || !strings.Contains(args, "--config /etc/containarium-keyguard/slack.curl") {
			t.Errorf("curl gets the arguments %s", args)
		}
	}
}

func TestDigest(t *testing.T) {
	kept := sample(t, "digest", nil, map[string]string{"keyguard": "lagging: escrow gcp has not the key", "hostname": "h1", "journalctl": "parked at noon", "sendmail": ""})
	for _, want := range []string{"To: root\nSubject: [keyguard] h1: lagging: escrow gcp has not the key\n", "\n\nlagging:", "Since yesterday:\nparked at noon\n"} {
		if mail := kept("sendmail.in"); !strings.Contains(mail, want) {
			t.Errorf("the mail has no %q:\n%s", want, mail)
		}
	}
}

// What cloud-init writes as the configuration is one.
func TestCloudInit(t *testing.T) {
	data, err := os.ReadFile("cloud-init.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "    content: |\n")
	text, _, _ := strings.Cut(rest, "packages:\n")
	c, err := config.Parse([]byte(strings.ReplaceAll(text, "\n      ", "\n")), "cloud-init.yaml")
	if err != nil || len(c.Escrows) != 1 {
		t.Errorf("%v, %v in\n%s", c, err, text)
	}
}
