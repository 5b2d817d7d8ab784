//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestEnvironmentFiles: what the table of agent/unit says that systemd makes of a file is
// what the guest's systemd makes of it.
func TestEnvironmentFiles(t *testing.T) {
	var cases []struct {
		What, Text string
		Want       []string
	}
	data, err := os.ReadFile("../../agent/unit/testdata/environment.json")
	if err == nil {
		err = json.Unmarshal(data, &cases)
	}
	if err != nil || len(cases) == 0 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	own := regexp.MustCompile(`^_?[A-Z]=`) // the files' variables; systemd's own are longer
	inGuests(t, func(m machine) {
		version, err := strconv.Atoi(m.run("systemctl --version | sed -n '1s/systemd \\([0-9]*\\).*/\\1/p'"))
		m.check(err)
		for i, c := range cases {
			if version >= 254 && strings.HasPrefix(c.What, "a comment with a backslash") {
				c.Want = append([]string{"A=b"}, c.Want...) // since then a comment ends with its line
			}
			file := fmt.Sprintf("/root/environment%d", i)
			m.check(m.g.Write(m.ctx, file, c.Text, 0o600))
			out := m.run("systemd-run -q --wait --pipe -p EnvironmentFile=" + file + " env -0")
			got := map[string]string{}
			for entry := range strings.SplitSeq(out, "\x00") {
				if own.MatchString(entry) {
					got[entry[:strings.IndexByte(entry, '=')]] = entry
				}
			}
			if list := slices.Sorted(maps.Values(got)); !slices.Equal(list, c.Want) {
				m.Errorf("%s: systemd %d makes %q of %q; the table says %q", c.What, version, list, c.Text, c.Want)
			}
		}
	})
}
