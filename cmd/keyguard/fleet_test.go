package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/fleet"
)

// TestFleetNamesSoMany: how many more hosts there are stands below those that are shown, and
// not below the next table.
func TestFleetNamesSoMany(t *testing.T) {
	r := fleet.Report{Counts: map[fleet.Is]int{fleet.Bad: shownHosts + 7}, Strangers: []fleet.Stranger{{Host: "stranger"}}}
	for n := range shownHosts + 7 {
		r.Rows = append(r.Rows, fleet.Row{Host: fmt.Sprintf("host%03d", n), Is: fleet.Bad})
	}
	var out bytes.Buffer
	(&app{out: &out}).printFleetText(r, fleet.Evidence{})
	last, more, next := strings.Index(out.String(), "host099"), strings.Index(out.String(), "… and 7 more: "), strings.Index(out.String(), "IN NO INVENTORY")
	if last < 0 || more < last || next < more || strings.Contains(out.String(), "host100") {
		t.Errorf("%s", &out)
	}
}
