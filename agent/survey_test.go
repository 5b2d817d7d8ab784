package agent_test

import (
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
)

// TestSurvey is what a host with two escrows and two drills says of itself, without
// asking anybody: nothing here has a database or a place to answer.
func TestSurvey(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil, 0)
	for _, name := range []string{"gcp", "usb"} {
		silent := &troubled{hang: true}
		place, err := kinds.NewDirectory(kinds.DirectoryOptions{Name: name, Path: h.path(name), Keyfile: h.Keyfile.Path})
		h.must(err)
		silent.Escrow = agent.Escrow{Reader: place, Writer: place}
		h.Escrows = append(h.Escrows, agent.Escrow{Reader: silent, Writer: silent, Required: name == "gcp"})
	}
	a, b := testKey("a"), testKey("b")
	fa, fb := a.Fingerprint(), b.Fingerprint()
	survey := func() agent.SurveyResult {
		t.Helper()
		r, err := agent.Survey(&h.Host)
		h.must(err)
		if len(r.Trouble) > 0 {
			t.Errorf("trouble: %v", r.Trouble)
		}
		return r
	}
	if r := survey(); r.Keyfile.Good || r.Empty || r.Known != "" || r.Drill.Event != "" || !r.Passed.IsZero() || len(r.Escrows) != 2 {
		t.Errorf("of nothing: %+v", r)
	}

	hour := func(n int) time.Time { return h.now.Add(time.Duration(n) * time.Hour) }
	h.write(a.UnsafeBytes())
	h.must(h.Keyfile.Keep(b, h.now))
	h.must(h.Ledger.Append(
		ledger.Entry{Time: hour(1), Event: ledger.Proven, Fingerprint: fb, Verdict: "opens", Checked: 1, Opened: 1},
		ledger.Entry{Time: hour(2), Event: ledger.Proven, Fingerprint: fa, Verdict: "partial", Checked: 10, Opened: 9, Total: 12},
		ledger.Entry{Time: hour(3), Event: ledger.Saved, Fingerprint: fa, Escrow: "gcp", Copy: "1", Shelf: "current"},
		ledger.Entry{Time: hour(3), Event: ledger.Saved, Fingerprint: fb, Escrow: "gcp", Copy: "2", Shelf: "quarantine"},
		ledger.Entry{Time: hour(4), Event: ledger.Drilled, Escrow: "gcp", Copy: "1", Verdict: "passed", Judged: true},
		ledger.Entry{Time: hour(4), Event: ledger.Drilled, Escrow: "gcp", Copy: "2", Verdict: "failed"},
		ledger.Entry{Time: hour(4), Event: ledger.DrillEnded, Verdict: "passed"},
		ledger.Entry{Time: hour(5), Event: ledger.DrillEnded, Verdict: "inconclusive", Took: time.Second},
	))
	r := survey()
	if !r.Keyfile.Good || r.Known != fa || r.Proof.Opened != 9 || !r.Proof.Time.Equal(hour(2)) || r.Contradicted || r.Rotation || r.Kept != 1 || r.Breaks != 0 {
		t.Errorf("the key: %+v", r)
	}
	if !r.Passed.Equal(hour(4)) || r.Drill.Verdict != "inconclusive" || r.Drill.Took != time.Second {
		t.Errorf("the drills: %v, %+v", r.Passed, r.Drill)
	}
	gcp, usb := r.Escrows[0], r.Escrows[1]
	if gcp.Name != "gcp" || !gcp.Required || gcp.Due != 0 || gcp.Unverified || !gcp.Saved.Equal(hour(3)) || gcp.Drilled.Verdict != "passed" {
		t.Errorf("gcp: %+v", gcp)
	}
	if usb.Name != "usb" || usb.Required || usb.Due != 2 || !usb.Saved.IsZero() || usb.Drilled.Event != "" {
		t.Errorf("usb: %+v", usb)
	}

	// Stored where it may not be read back: that is said, and is no copy that is missing.
	h.must(h.Ledger.Append(
		ledger.Entry{Event: ledger.Saved, Fingerprint: fa, Escrow: "usb", Copy: "1", Shelf: "current", Reason: escrow.ErrUnverified.Error()},
		ledger.Entry{Event: ledger.RotationOpen, Old: fa, Fingerprint: fb},
		ledger.Entry{Time: hour(6), Event: ledger.UnitFailed, Unit: "w.service"},
		ledger.Entry{Event: ledger.Contradicted, Fingerprint: fa},
	))
	r = survey()
	if usb := r.Escrows[1]; !usb.Unverified || usb.Due != 1 {
		t.Errorf("unverified: %+v", usb)
	}
	if !r.Failed["w.service"].Equal(hour(6)) {
		t.Errorf("units: %v", r.Failed)
	}
	if !r.Contradicted || !r.Rotation || r.Known != "" || r.Proof.Event != "" {
		t.Errorf("contradicted: %+v", r)
	}
	h.write(nil)
	if r := survey(); !r.Empty || r.Keyfile.Good {
		t.Errorf("parked: %+v", r)
	}
}
