package hooks

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/decide"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/textfile"
)

// exporter is a node exporter that shows what a host's keyguard has left for it, nil for a
// host without one.
func exporter(t *testing.T, s *agent.SurveyResult) (address string) {
	t.Helper()
	text := []byte("node_load1 0\n")
	if s != nil {
		path := filepath.Join(t.TempDir(), "keyguard.prom")
		if err := textfile.Write(path, metrics(*s, "1.2.3", time.Now())); err != nil {
			t.Fatal(err)
		}
		text = append(text, read(t, path)...)
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		w.Write(text)
	}))
	t.Cleanup(web.Close)
	return strings.TrimPrefix(web.URL, "http://")
}

// prometheus is a real one that scrapes these and judges by our rules. ask returns the
// values of an expression, by the given label.
func prometheus(t *testing.T, exporters []string) (ask func(expr, label string) map[string]string) {
	t.Helper()
	dir := t.TempDir()
	path, err := filepath.Abs(rules)
	if err != nil {
		t.Fatal(err)
	}
	targets, err := json.Marshal(exporters)
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs:\n- job_name: node\n  static_configs: [{targets: %s}]\n", path, targets)
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0")
	log, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	said := bufio.NewScanner(log)
	at := regexp.MustCompile(`msg="Listening on".* address=(127\.0\.0\.1:\d+)`)
	api := ""
	var lines []string
	for api == "" && said.Scan() {
		lines = append(lines, said.Text())
		if m := at.FindStringSubmatch(said.Text()); m != nil {
			api = "http://" + m[1]
		}
	}
	if api == "" {
		t.Fatalf("prometheus listens nowhere:\n%s", strings.Join(lines, "\n"))
	}
	done := make(chan struct{})
	go func() { // nobody is to wait for its log
		for said.Scan() {
		}
		close(done)
	}()
	t.Cleanup(func() { <-done })
	for ready := false; !ready; time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get(api + "/-/ready")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		ready = resp.StatusCode == http.StatusOK
	}
	return func(expr, label string) map[string]string {
		t.Helper()
		resp, err := http.Get(api + "/api/v1/query?query=" + url.QueryEscape(strings.ReplaceAll(expr, "$instance", ".*")))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var answer struct {
			Status, Error string
			Data          struct {
				Result []struct {
					Metric map[string]string
					Value  [2]any
				}
			}
		}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Status != "success" {
			t.Fatalf("%s: %v, %s", expr, err, answer.Error)
		}
		all := map[string]string{}
		for _, r := range answer.Data.Result {
			all[r.Metric[label]] = fmt.Sprint(r.Value[1])
		}
		return all
	}
}

// TestAllHostsDashboard has a real Prometheus scrape three hosts, and asks it what each
// panel asks: one host is good, one has everything wrong, a clone's key among it, and one
// has no keyguard.
func TestAllHostsDashboard(t *testing.T) {
	t.Parallel()
	good := surveyed()
	good.Proof.Verdict, good.Escrows[0].Due, good.Escrows[0].Drilled.Verdict, good.Drill.Verdict = "opens", 0, "passed", "passed"
	good.Daemon.Is, good.Passed, good.Failed = agent.DaemonUp, time.Now(), nil
	bad := surveyed()
	bad.Known, bad.Passed = "", time.Now()
	bad.Escrows = []agent.EscrowSurvey{{Name: "gcp", Required: true, Due: 2, Proven: time.Now(), Drilled: ledger.Entry{Time: time.Now(), Verdict: "failed"}}}
	bad.Keyfile = decide.KeyfileEvidence{Good: true, Key: good.Keyfile.Key}
	web1, web2, web3 := exporter(t, &good), exporter(t, &bad), exporter(t, nil)
	ask := prometheus(t, []string{web1, web2, web3})
	for len(ask(`ALERTS{alertname=~"KeyguardSplit|KeyguardDrillFailed",alertstate="firing"}`, "alertname")) < 2 || len(ask("up == 1", "instance")) < 3 {
		time.Sleep(100 * time.Millisecond) // it scrapes when it scrapes
	}
	want := map[string]string{"Hosts": "2", "Without keyguard": "1", "Silent": "0", "Without the right key": "1", "Not in an escrow": "1", "Twins": "1"}
	for _, p := range panels(t, allHosts) {
		for _, target := range p.Targets {
			label := "instance"
			if p.Type == "stat" {
				label = ""
			}
			got := ask(target.Expr, label)
			if len(got) == 0 {
				t.Errorf("%s, %s: nothing is shown by %s", p.Title, target.RefID, target.Expr)
			}
			if n, ok := want[p.Title]; ok && got[""] != n {
				t.Errorf("%s is %v, want %s", p.Title, got, n)
			}
		}
		switch p.Title {
		case "Hosts, the worst first":
			alarms := ask(p.Targets[0].Expr, "instance")
			if alarms[web1] != "0" || alarms[web2] != "200" { // split, and a failed drill
				t.Errorf("alarms %v, of the good host %s and the bad one %s", alarms, web1, web2)
			}
		case "Hosts with the key of another":
			if got := ask(p.Targets[0].Expr, "instance"); len(got) != 2 || got[web1] == "" || got[web2] == "" {
				t.Errorf("twins %v", got)
			}
		case "Daemons":
			states := ask(p.Targets[0].Expr, "state")
			if states["running"] != "1" || states["on another key"] != "1" || states["parked"] != "0" {
				t.Errorf("daemons %v", states)
			}
		}
	}
}
