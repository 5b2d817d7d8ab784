package examples

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTerraformRoles: an auditor reads no value, and a host destroys nothing.
func TestTerraformRoles(t *testing.T) {
	for module, never := range map[string][]string{
		"auditor": {"secretAccessor", "secretVersionAdder", "secretVersionManager", "secretmanager.admin", "roles/editor", "roles/owner"},
		"host":    {"secretVersionManager", "secretmanager.admin", "roles/editor", "roles/owner"},
	} {
		text, err := os.ReadFile("../terraform/" + module + "/main.tf")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "roles/secretmanager.viewer") {
			t.Errorf("%s grants no look at the metadata", module)
		}
		for _, role := range never {
			if strings.Contains(string(text), role) {
				t.Errorf("%s speaks of %s", module, role)
			}
		}
	}
}

// TestPushStatus: what a host says comes to the place under the host's name, whatever the
// exit status; and where it says nothing, nothing is put there, and that is told.
func TestPushStatus(t *testing.T) {
	for name, tt := range map[string]struct {
		host, keyguard string
		refuses        bool
		put, says      string
	}{
		"not green":          {"web1.example.org", "echo '{\"health\": \"lagging\"}'; exit 12", false, "PUT /hosts/web1.example.org.json {\"health\": \"lagging\"}\n", ""},
		"a name of nobody's": {"a/../b c", "echo '{}'", false, "PUT /hosts/a-..-b-c.json {}\n", ""},
		"it says nothing":    {"web1", "exit 1", false, "", "said nothing"},
		"it is refused":      {"web1", "echo '{}'", true, "PUT /hosts/web1.json {}\n", "403"},
	} {
		t.Run(name, func(t *testing.T) {
			put := make(chan string, 2)
			place := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				put <- r.Method + " " + r.URL.Path + " " + string(body)
				if tt.refuses {
					w.WriteHeader(http.StatusForbidden)
				}
			}))
			defer place.Close()
			dir := t.TempDir()
			source, err := os.ReadFile("hooks.d/push-status")
			if err != nil {
				t.Fatal(err)
			}
			for file, text := range map[string]string{
				"hook":             strings.NewReplacer("/etc/containarium-keyguard", dir, "/run/systemd/system", dir+"/none").Replace(string(source)),
				"keyguard":         "#!/bin/sh\n[ \"$*\" = 'status --json' ] || exit 99\n" + tt.keyguard + "\n",
				"push-status.curl": "url = \"" + place.URL + "/hosts/\"\n",
			} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			c := exec.Command(filepath.Join(dir, "hook"))
			c.Env = []string{"PATH=" + dir + ":/usr/bin:/bin", "KEYGUARD_HOST=" + tt.host, "TMPDIR=" + dir}
			out, err := c.CombinedOutput()
			if (err == nil) != (tt.says == "") || !strings.Contains(string(out), tt.says) {
				t.Errorf("%v, %s", err, out)
			}
			close(put)
			if got := <-put; got != tt.put {
				t.Errorf("%q was put there, want %q", got, tt.put)
			}
			if left, _ := filepath.Glob(dir + "/tmp.*"); len(left) > 0 {
				t.Errorf("%q is left", left)
			}
		})
	}
}
