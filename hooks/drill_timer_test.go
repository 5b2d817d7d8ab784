package hooks_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDrillsAreSpread: the generator gives each host six hours of the week by its machine
// id, all 28 of them equally often, the same at each boot, and none where there is no id.
func TestDrillsAreSpread(t *testing.T) {
	t.Parallel()
	run := func(id string) string {
		t.Helper()
		dir := t.TempDir()
		file := filepath.Join(dir, "machine-id")
		if err := os.WriteFile(file, []byte(id), 0o600); err != nil {
			t.Fatal(err)
		}
		c := exec.Command("../units/system-generators/containarium-keyguard-drill", dir, dir+"/early", dir+"/late")
		c.Env = append(os.Environ(), "KEYGUARD_MACHINE_ID="+file)
		if out, err := c.CombinedOutput(); err != nil || len(out) > 0 {
			t.Fatalf("%q: %v\n%s", id, err, out)
		}
		text, _ := os.ReadFile(filepath.Join(dir, "containarium-keyguard-drill.timer.d/10-slot.conf"))
		return string(text)
	}
	slot := regexp.MustCompile(`(?s)^# made by .*\n\[Timer\]\nOnCalendar=\nOnCalendar=(Mon|Tue|Wed|Thu|Fri|Sat|Sun) \*-\*-\* (0|6|12|18):00:00\n$`)
	seen := map[string]bool{}
	for n := range 28 {
		id := fmt.Sprintf("%06x%s\n", 0xabc000+n, strings.Repeat("0", 26))
		text := run(id)
		m := slot.FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("%q gives %q", id, text)
		}
		seen[m[1]+m[2]] = true
	}
	if len(seen) != 28 {
		t.Errorf("of 28 hosts in a row only %d have six hours of their own: %v", len(seen), seen)
	}
	for _, id := range []string{"", "uninitialized\n", strings.Repeat("0", 31) + "\n", strings.Repeat("0", 33), strings.Repeat("$(id)", 7)[:32]} {
		if text := run(id); text != "" {
			t.Errorf("%q gives %q", id, text)
		}
	}
}
