package hooks

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/textfile"
	"github.com/footprintai/containarium-keyguard/agent/unit"
	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

const (
	rules     = "../packaging/prometheus/keyguard.rules.yml"
	dashboard = "../packaging/grafana/keyguard.json"
	allHosts  = "../packaging/grafana/keyguard-fleet.json"
)

// surveyed has a value for every metric.
func surveyed() agent.SurveyResult {
	at := time.Unix(1_700_000_000, 0)
	return agent.SurveyResult{
		Keyfile: decide.KeyfileEvidence{Good: true, Key: "0123456789abcdef"}, Known: "0123456789abcdef",
		Proof:   ledger.Entry{Event: ledger.Proven, Time: at, Verdict: "partial", Checked: 10, Opened: 9, Total: 12},
		Escrows: []agent.EscrowSurvey{{Name: "gcp", Required: true, Saved: at, Due: 2, Proven: at, Untried: at, Drilled: ledger.Entry{Time: at, Verdict: "failed"}}},
		Drill:   ledger.Entry{Time: at, Verdict: "failed", Took: 1500 * time.Millisecond},
		Daemon:  agent.DaemonStanding{Is: agent.DaemonOtherKey, DaemonState: unit.DaemonState{Minted: true}},
		Kept:    3, Installed: at, Begun: at,
		Failed: map[string]time.Time{"containarium-keyguard.service": at},
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keyguard.prom")
	if err := textfile.Write(path, metrics(surveyed(), "1.2.3", time.Unix(1_700_000_060, 0))); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`keyguard_build_info{version="1.2.3"} 1`,
		`keyguard_written_timestamp_seconds 1.70000006e+09`,
		`keyguard_keyfile_good 1`,
		`keyguard_parked 0`,
		`keyguard_daemon_restart_needed 1`,
		`keyguard_daemon_without_secrets 0`,
		`keyguard_daemon_minted 1`,
		`keyguard_daemon_state{state="on another key"} 1`,
		`keyguard_daemon_state{state="running"} 0`,
		`keyguard_key_info{fingerprint="0123456789abcdef"} 1`,
		`keyguard_key_installed_timestamp_seconds 1.7e+09`,
		`keyguard_ledger_begun_timestamp_seconds 1.7e+09`,
		`keyguard_escrow_proven_timestamp_seconds{escrow="gcp"} 1.7e+09`,
		`keyguard_escrow_untried_timestamp_seconds{escrow="gcp"} 1.7e+09`,
		`keyguard_key_known 1`,
		`keyguard_key_verdict{verdict="opens"} 0`,
		`keyguard_key_verdict{verdict="partial"} 1`,
		`keyguard_last_proof_timestamp_seconds 1.7e+09`,
		`keyguard_rows_checked 10`,
		`keyguard_rows_opened 9`,
		`keyguard_rows_dependent 12`,
		`keyguard_quarantine_files 3`,
		`keyguard_escrow_due_keys{escrow="gcp"} 2`,
		`keyguard_escrow_verdict{escrow="gcp",verdict="passed"} 0`,
		`keyguard_escrow_verdict{escrow="gcp",verdict="failed"} 1`,
		`keyguard_drill_passed_timestamp_seconds 0`,
		`keyguard_drill_seconds 1.5`,
		`keyguard_drill_verdict{verdict="failed"} 1`,
		`keyguard_unit_failed_timestamp_seconds{unit="containarium-keyguard.service"} 1.7e+09`,
	} {
		if !strings.Contains(string(text), want+"\n") {
			t.Errorf("%s is not among\n%s", want, text)
		}
	}
	if n := strings.Count(string(text), "0123456789abcdef"); n != 1 {
		t.Errorf("a fingerprint stands in %d labels or names", n)
	}
	check := exec.Command("promtool", "check", "metrics")
	check.Stdin = bytes.NewReader(text)
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// TestRules has Prometheus itself try the alert rules that are shipped.
func TestRules(t *testing.T) {
	brief.Skip(t)
	t.Parallel()
	for _, args := range [][]string{{"check", "rules", "keyguard.rules.yml"}, {"test", "rules", "keyguard.rules_test.yml"}} {
		c := exec.Command("promtool", args...)
		c.Dir = filepath.Dir(rules)
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", args, err, out)
		}
	}
	text, tests := read(t, rules), read(t, strings.TrimSuffix(rules, ".yml")+"_test.yml")
	for _, alert := range regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(text, -1) {
		if !strings.Contains(tests, alert[1]) {
			t.Errorf("nothing tests the alert %s", alert[1])
		}
	}
}

// TestMetricNames holds rules and dashboard to the metrics that there are.
func TestMetricNames(t *testing.T) {
	t.Parallel()
	there := map[string]bool{}
	for _, m := range metrics(surveyed(), "1", time.Now()) {
		there[m.Name] = true
	}
	for _, file := range []string{rules, dashboard, allHosts} {
		found := regexp.MustCompile(`\bkeyguard_\w+`).FindAllString(read(t, file), -1)
		if len(found) < 15 {
			t.Fatalf("%s names only %d metrics", file, len(found))
		}
		for _, name := range found {
			if !there[name] {
				t.Errorf("%s names %s, which is no metric of ours", file, name)
			}
		}
	}
	var exprs strings.Builder
	exprs.WriteString("groups:\n- name: dashboard\n  rules:\n")
	for _, file := range []string{dashboard, allHosts} {
		for _, p := range panels(t, file) {
			for _, target := range p.Targets {
				expr, err := json.Marshal(target.Expr)
				if err != nil {
					t.Fatal(err)
				}
				exprs.WriteString("  - record: x\n    expr: " + string(expr) + "\n    labels: {p: \"" + p.Title + target.RefID + file[len(file)-9:] + "\"}\n")
			}
		}
	}
	// promtool parses them, as the expressions of rules.
	path := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(path, []byte(exprs.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("promtool", "check", "rules", "--lint=none", path).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// panel is one of a dashboard.
type panel struct {
	Title, Type string
	Targets     []struct{ Expr, RefID string }
}

// panels reads a dashboard, of which each panel shows something.
func panels(t *testing.T, file string) []panel {
	t.Helper()
	var d struct {
		Title, UID string
		Panels     []panel
	}
	if err := json.Unmarshal([]byte(read(t, file)), &d); err != nil || d.Title == "" || d.UID == "" || len(d.Panels) < 10 {
		t.Fatalf("%s: %v, %+v", file, err, d)
	}
	for _, p := range d.Panels {
		if len(p.Targets) == 0 || p.Title == "" || p.Type == "" {
			t.Errorf("%s: a panel shows nothing: %+v", file, p)
		}
	}
	return d.Panels
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestSandboxesLetTheDaemonBeAsked: who writes metrics says how the daemon stands, which
// systemd's bus and the journal of this boot tell: journalctl needs the boot's id.
func TestSandboxesLetTheDaemonBeAsked(t *testing.T) {
	for _, name := range []string{"containarium-keyguard.service", "containarium-keyguard-drill.service"} {
		text, err := os.ReadFile("../units/" + name)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		if !slices.Contains(lines, "Environment=KEYGUARD_BOOT_ID=%b") || slices.Contains(lines, "ProcSubset=pid") {
			t.Errorf("%s: its /proc hides the id of the boot", name)
		}
		if !slices.ContainsFunc(lines, func(l string) bool {
			return strings.HasPrefix(l, "RestrictAddressFamilies=") && strings.Contains(l, "AF_UNIX")
		}) {
			t.Errorf("%s: it does not reach systemd's bus", name)
		}
	}
}
