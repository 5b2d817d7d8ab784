package hooks

import (
	"context"
	"fmt"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
)

// drillBudget bounds a drill. A full one of a hundred million rows takes a few minutes;
// the rest is for stores that answer slowly. The unit gives it longer
// (TimeoutStartSec=).
const drillBudget = 30 * time.Minute

// DrillOptions are those of the drill, and how people hear of it.
type DrillOptions struct {
	agent.DrillOptions
	Tell func(Event)
}

// Drill proves the copies, once a week, when a person asks, and after a rotation or a repair, and tells what came of it.
// One that could not begin is told by its error alone: another one is under way, or the
// rows are being re-encrypted. Nothing backs off: nobody repeats a drill by himself.
func Drill(ctx context.Context, h *agent.Host, opts DrillOptions) (agent.DrillResult, error) {
	ctx, cancel := context.WithTimeout(ctx, drillBudget)
	defer cancel()
	r, err := agent.Drill(ctx, h, opts.DrillOptions)
	if err == nil {
		opts.Tell(drillEvent(r))
	}
	return r, err
}

// drillEvent tells of the drill as a whole, with the first copy that its verdict is about.
func drillEvent(r agent.DrillResult) Event {
	e := Event{Verdict: string(r.Verdict), Took: r.Took, Total: r.Rows.Dependent, Err: r.Err}
	switch r.Verdict {
	case agent.DrillPassed:
		e.Name, e.Text = DrillPassed, "drill passed: "+r.Reason
	case agent.DrillFailed:
		e.Name, e.Text = DrillFailed, fmt.Sprintf("drill failed: %s; see keyguard drill", r.Reason)
	default:
		// The reason holds what the error says.
		e.Name, e.Text, e.Err = DrillInconclusive, fmt.Sprintf("drill inconclusive: %s; try again: keyguard drill", r.Reason), nil
	}
	for _, c := range r.Copies {
		if c.Judged && c.Verdict == r.Verdict {
			e.Escrow, e.Copy, e.Fingerprint, e.Checked, e.Opened = c.Escrow, c.ID, c.Key, c.Proof.Checked, c.Proof.Opened
			break
		}
	}
	return e
}
