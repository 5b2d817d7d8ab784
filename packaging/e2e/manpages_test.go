//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The manual pages are set without a warning, one for each command, and the shells take
// the completions.
func TestManualPages(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := command("dpkg-deb", "--extract", deb, root); err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(root + "/usr/share/man/man[578]/*.gz")
	if err != nil {
		t.Fatal(err)
	}
	text, err := exec.Command(root+"/usr/bin/keyguard", "describe").Output()
	if err != nil {
		t.Fatal(err)
	}
	var program struct{ Commands []struct{ Name string } }
	if err := json.Unmarshal(text, &program); err != nil {
		t.Fatal(err)
	}
	for _, c := range program.Commands {
		if _, err := os.Stat(root + "/usr/share/man/man8/keyguard-" + c.Name + ".8.gz"); err != nil {
			t.Error(err)
		}
	}
	if commands := len(program.Commands); commands < 10 || len(pages) != commands+3 {
		t.Errorf("%d pages for %d commands, the program, its configuration and its events", len(pages), commands)
	}
	for _, document := range []string{"README.md", "manual.md", "examples/hooks.d/mail", "examples/hooks.d/slack", "examples/hooks.d/push-status", "examples/digest", "examples/cloud-init.yaml"} {
		if _, err := os.Stat(root + "/usr/share/doc/containarium-keyguard/" + document); err != nil {
			t.Error(err)
		}
	}
	for _, page := range pages {
		c := exec.Command("man", "--warnings", "--encoding=UTF-8", "--local-file", page)
		c.Env = append(os.Environ(), "MANWIDTH=80", "LC_ALL=C.UTF-8")
		var warnings bytes.Buffer
		c.Stderr = &warnings
		out, err := c.Output()
		if err != nil || warnings.Len() > 0 {
			t.Errorf("%s: %v %s", filepath.Base(page), err, &warnings)
		}
		for _, section := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLE", "SEE ALSO"} {
			if !strings.Contains(string(out), "\n"+section) {
				t.Errorf("%s has no %s", filepath.Base(page), section)
			}
		}
	}
	out, err := exec.Command("bash", "-c", ". "+root+"/usr/share/bash-completion/completions/keyguard && complete -p keyguard").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "__start_keyguard") {
		t.Errorf("bash: %v, %s", err, out)
	}
	for _, file := range []string{"zsh/vendor-completions/_keyguard", "fish/vendor_completions.d/keyguard.fish"} {
		if data, err := os.ReadFile(filepath.Join(root, "usr/share", file)); err != nil || !bytes.Contains(data, []byte("keyguard")) {
			t.Error(file, err)
		}
	}
}
