package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	pb "cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/secretmanager"
)

// Where the escrow gcp of the scripts is, and who this host is there.
const (
	gcpSecret = "projects/keyguard-test/secrets/master"
	gcpHost   = "host@keyguard-test.iam.gserviceaccount.com"
)

// cmdGCP is a script's Secret Manager, and what happens to it:
//
//	gcp start [only]                start it and name it in keyguard.toml, after usb or instead of it
//	gcp break KIND [METHOD [CODE]]  a secretmanager.Fault
//	gcp heal                        no faults any more
//	gcp put NAME FORM               a version of the current shelf, by hand; NAME - is FORM as text
//	gcp state N STATE               ENABLED, DISABLED, DESTROYED
//	gcp grant [ROLE…]               what this host may do
//	gcp revoke                      credentials.json is of an account that is gone
//	gcp skew DURATION               the store's clock against ours
//	gcp remove                      both secrets
//	gcp metadata                    the machine is one of Google's, in a project of its own
//	gcp stop                        nothing listens any more
//	gcp calls N                     so many calls were made since the last gcp calls
//	gcp newest NAME                 the newest version is this key
//	gcp gcloud                      from here on $GCLOUD is a person's who may do everything there
//	gcp asked FILE                  what $GCLOUD asked since is what FILE says, a line each
func cmdGCP(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	if args[0] == "start" {
		s.startGCP(ts, len(args) > 1)
		return
	}
	if s.gcp == nil {
		ts.Fatalf("gcp start comes first")
	}
	switch args[0] {
	case "break":
		f := secretmanager.Fault{Kind: secretmanager.Kind(args[1]), Delay: time.Second}
		if len(args) > 2 && args[2] != "-" {
			f.Method = args[2]
		}
		if len(args) > 3 {
			ts.Check(f.Code.UnmarshalJSON([]byte(strconv.Quote(args[3]))))
		}
		s.gcp.Break(f)
	case "heal":
		s.gcp.Heal()
	case "put":
		if args[1] == "-" {
			s.gcp.Put(gcpSecret, []byte(args[2]))
		} else {
			s.gcp.Put(gcpSecret, form(ts, testKey(args[1]), args[2]))
		}
	case "state":
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		ts.Check(s.gcp.Set(gcpSecret, n, pb.SecretVersion_State(pb.SecretVersion_State_value[args[2]])))
	case "grant":
		var roles []secretmanager.Role
		for _, r := range args[1:] {
			roles = append(roles, secretmanager.Role(r))
		}
		s.gcp.Grant(gcpHost, roles...)
	case "revoke":
		credentials, err := s.gcp.Credentials("gone@keyguard-test.iam.gserviceaccount.com", "service_account")
		ts.Check(err)
		ts.Check(os.WriteFile(s.path("credentials.json"), credentials, 0o600))
	case "skew":
		d, err := time.ParseDuration(args[1])
		ts.Check(err)
		s.gcp.Skew(d)
	case "metadata":
		ts.Setenv("GCE_METADATA_HOST", s.gcp.MetadataHost())
	case "remove":
		s.gcp.Remove(gcpSecret)
		s.gcp.Remove(gcpSecret + "-quarantine")
	case "stop":
		s.gcp.Close()
		s.gcp = nil
	case "calls":
		total := 0
		for method, n := range s.gcp.Calls() {
			if method != "token" {
				total += n
			}
		}
		if fmt.Sprint(total) != args[1] {
			ts.Fatalf("%d calls: %v", total, s.gcp.Calls())
		}
		s.gcp.Reset()
	case "newest":
		all := s.gcp.Versions(gcpSecret)
		same := len(all) > 0 && string(all[len(all)-1]) == string(testKey(args[1]).UnsafeBytes())
		if same == neg {
			ts.Fatalf("the newest of %d versions is key %s: %v", len(all), args[1], same)
		}
	case "gcloud":
		s.gcp.Grant("olga@example.com", secretmanager.Admin)
		ts.Check(os.WriteFile(s.path("olga.token"), []byte(s.gcp.Token("olga@example.com")), 0o600))
		for name, value := range map[string]string{
			"CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER":   s.gcp.RESTURL(),
			"CLOUDSDK_AUTH_ACCESS_TOKEN_FILE":                 s.path("olga.token"),
			"CLOUDSDK_CONFIG":                                 s.path("gcloud"),
			"CLOUDSDK_CORE_PROJECT":                           "keyguard-test",
			"CLOUDSDK_CORE_DISABLE_PROMPTS":                   "1",
			"CLOUDSDK_CORE_DISABLE_USAGE_REPORTING":           "1",
			"CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
		} {
			ts.Setenv(name, value)
		}
	case "asked":
		var got strings.Builder
		for _, r := range s.gcp.Asked() {
			fmt.Fprintf(&got, "%s %s?%s %s\n", r.Method, r.Path, r.Query.Encode(), withoutPayload(ts, r.Body))
		}
		if want := ts.ReadFile(args[1]); got.String() != want {
			ts.Fatalf("%s asked\n%s\nand not\n%s", ts.Getenv("GCLOUD"), &got, want)
		}
	default:
		ts.Fatalf("no gcp %s", args[0])
	}
}

func (s *sandbox) startGCP(ts *testscript.TestScript, only bool) {
	fake, err := secretmanager.Start(secretmanager.Options{})
	ts.Check(err)
	s.gcp = fake
	fake.Grant(gcpHost, secretmanager.Admin)
	credentials, err := fake.Credentials(gcpHost, "service_account")
	ts.Check(err)
	ts.Check(os.WriteFile(s.path("credentials.json"), credentials, 0o600))
	data, err := os.ReadFile(s.path("keyguard.toml"))
	ts.Check(err)
	config := string(data)
	if only {
		config, _, _ = strings.Cut(config, "[[escrow]]")
	}
	config += fmt.Sprintf(`
[[escrow]]
name = "gcp"
kind = "gcp-secret-manager"
project = "keyguard-test"
secret = "master"
endpoint = %q
plaintext = true
credentials_file = %q
`, fake.Addr(), s.path("credentials.json"))
	ts.Check(os.WriteFile(s.path("keyguard.toml"), []byte(config), 0o600))
}

// withoutPayload is a request's body in one form for all clients, and without a key.
func withoutPayload(ts *testscript.TestScript, body string) string {
	if body == "" {
		return "-"
	}
	var fields map[string]any
	ts.Check(json.Unmarshal([]byte(body), &fields))
	if p, ok := fields["payload"].(map[string]any); ok {
		p["data"], p["dataCrc32c"] = "…", "…"
	}
	text, err := json.Marshal(fields)
	ts.Check(err)
	return string(text)
}

// gclouds are what the scripts in testdata/gcloud run: a stand-in that sends what gcloud
// sends, and where it is installed gcloud itself, which shows that this is so.
func gclouds() []string {
	programs := []string{"gcloud-stand-in"}
	if path, err := exec.LookPath("gcloud"); err == nil {
		programs = append(programs, path)
	}
	return programs
}
