package hooks

import (
	"testing"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// The event of a drill carries the first judged copy that its verdict is about.
func TestDrillEvent(t *testing.T) {
	copies := []agent.DrilledCopy{
		{Copy: escrow.Copy{Escrow: "a", ID: "1"}, Verdict: agent.DrillFailed},
		{Copy: escrow.Copy{Escrow: "a", ID: "2"}, Judged: true, Verdict: agent.DrillPassed, Key: "k", Proof: rows.Proof{Checked: 3, Opened: 3}},
		{Copy: escrow.Copy{Escrow: "b", ID: "3"}, Judged: true, Verdict: agent.DrillFailed, Proof: rows.Proof{Checked: 3, Opened: 1}},
		{Copy: escrow.Copy{Escrow: "c"}, Judged: true, Verdict: agent.DrillInconclusive},
	}
	for verdict, want := range map[agent.DrillVerdict]struct {
		name         EventName
		escrow, copy string
		opened       int64
		urgent       bool
	}{
		agent.DrillPassed:       {DrillPassed, "a", "2", 3, false},
		agent.DrillFailed:       {DrillFailed, "b", "3", 1, true},
		agent.DrillInconclusive: {DrillInconclusive, "c", "", 0, true},
	} {
		e := drillEvent(agent.DrillResult{Verdict: verdict, Reason: "why", Copies: copies})
		if e.Name != want.name || e.Escrow != want.escrow || e.Copy != want.copy || e.Opened != want.opened || e.IsUrgent() != want.urgent || e.Verdict != string(verdict) {
			t.Errorf("%+v", e)
		}
	}
}
