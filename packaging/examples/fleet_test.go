package examples

import (
	"os"
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
