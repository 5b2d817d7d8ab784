package hooks

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSamples runs the hooks that ship as examples, against a mail program and a web
// server of the test's own.
func TestSamples(t *testing.T) {
	t.Parallel()
	l := newListener(t)
	asked := make(chan string, 10)
	place := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		asked <- r.URL.Path + " " + string(body)
	}))
	defer place.Close()
	settings := map[string]string{"webhook.curl": "url = \"" + place.URL + "/hook\"\n", "healthchecks.url": place.URL + "/check\n"}
	for name, text := range settings {
		if err := os.WriteFile(filepath.Join(l.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	samples, err := os.ReadDir("events.d")
	if err != nil {
		t.Fatal(err)
	}
	for _, sample := range samples {
		text := read(t, filepath.Join("events.d", sample.Name()))
		// The places that an operator's host has, here.
		text = strings.NewReplacer("/etc/containarium-keyguard", l.dir, "/usr/sbin/sendmail", l.dir+"/hooks/out.sendmail",
			"/run/systemd/system", l.dir+"/none").Replace(text)
		l.hook(sample.Name(), text)
	}
	l.hook("out.sendmail", "cat >OUT/mail")
	l.opts.Print, l.opts.PingURL = nil, ""
	teller := NewTeller(l.opts)
	teller.Tell(Event{Name: DrillFailed, Text: "the drill of \"gcp\" \\ failed:\n\ttwo lines", Escrow: "gcp"})
	teller.Deliver(t.Context())

	mail := l.wrote("mail")
	for _, want := range []string{"To: root\nSubject: [keyguard] drill-failed on here\n", "\n\nthe drill of \"gcp\" \\ failed:\\n\\ttwo lines\n", "\nKEYGUARD_ESCROW=gcp\n"} {
		if !strings.Contains(mail, want) {
			t.Errorf("the mail lacks %q:\n%s", want, mail)
		}
	}
	heard := map[string]string{}
	for len(asked) > 0 {
		path, body, _ := strings.Cut(<-asked, " ")
		heard[path] = body
	}
	var posted struct{ Text string }
	if err := json.Unmarshal([]byte(heard["/hook"]), &posted); err != nil || posted.Text != `keyguard on here: drill-failed: the drill of "gcp" \ failed:\n\ttwo lines` {
		t.Errorf("posted was %q: %v", heard["/hook"], err)
	}
	if heard["/check/fail"] != `the drill of "gcp" \ failed:\n\ttwo lines` || len(heard) != 2 { // one printable line (law 10)
		t.Errorf("heard was %q", heard)
	}
	// The mail program is no hook, by its name; that is all there is to complain of.
	if len(l.trouble) != 1 || !strings.Contains(l.trouble[0], "out.sendmail") {
		t.Errorf("trouble: %q", l.trouble)
	}
}
