package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
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

// The escrow gcp2, in the project of the machine itself and with an account of that one.
const (
	gcp2Secret = "projects/" + secretmanager.MetadataProject + "/secrets/master"
	gcp2Host   = "host@" + secretmanager.MetadataProject + ".iam.gserviceaccount.com"
)

// gcpSecrets are all that a script can have.
var gcpSecrets = []string{gcpSecret, gcpSecret + "-quarantine", gcp2Secret, gcp2Secret + "-quarantine"}

// cmdGCP is a script's Secret Manager, and what happens to it:
//
//	gcp start [only|google]         start it and name it in keyguard.toml, after usb or instead of it;
//	                                google: instead of it, at Google's own address, through a proxy
//	gcp break KIND [METHOD [CODE]]  a secretmanager.Fault
//	gcp heal                        no faults any more
//	gcp put NAME FORM               a version of the current shelf, by hand; NAME - is FORM as text
//	gcp state N STATE               ENABLED, DISABLED, DESTROYED
//	gcp grant [ROLE…]               what this host may do
//	gcp second                      a second escrow there, gcp2, in another project; each account may use its own alone
//	gcp revoke [second]             the account is deleted, and what its credentials are good for
//	gcp skew DURATION               the store's clock against ours
//	gcp remove [second]             both secrets
//	gcp metadata                    the machine is one of Google's, in a project of its own
//	gcp stop                        nothing listens any more
//	gcp calls N                     so many calls were made since the last gcp calls
//	gcp newest NAME [second]        the newest version is this key
//	gcp gcloud                      from here on $GCLOUD is a person's who may do everything there
//	gcp asked FILE                  what $GCLOUD asked since is what FILE says, a line each
func cmdGCP(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	if args[0] == "start" {
		s.startGCP(ts, args[1:])
		return
	}
	if s.gcp == nil {
		ts.Fatalf("gcp start comes first")
	}
	secret, host := gcpSecret, gcpHost
	if args[len(args)-1] == "second" {
		secret, host = gcp2Secret, gcp2Host
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
	case "second":
		s.gcp.Grant(gcpHost)
		s.gcp.GrantIn("keyguard-test", gcpHost, secretmanager.Admin)
		s.gcp.GrantIn(secretmanager.MetadataProject, gcp2Host, secretmanager.Admin)
		s.nameGCP(ts, "gcp2", secretmanager.MetadataProject, gcp2Host)
	case "revoke":
		s.gcp.Forget(host)
	case "skew":
		d, err := time.ParseDuration(args[1])
		ts.Check(err)
		s.gcp.Skew(d)
	case "metadata":
		ts.Setenv("GCE_METADATA_HOST", s.gcp.MetadataHost())
	case "remove":
		s.gcp.Remove(secret)
		s.gcp.Remove(secret + "-quarantine")
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
		all := s.gcp.Versions(secret)
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

func (s *sandbox) startGCP(ts *testscript.TestScript, how []string) {
	var o secretmanager.Options
	google := slices.Contains(how, "google")
	if google {
		o.TLS = s.certify(ts)
	}
	fake, err := secretmanager.Start(o)
	ts.Check(err)
	s.gcp = fake
	s.gcpAt = fmt.Sprintf("endpoint = %q\nplaintext = true", fake.Addr())
	if google {
		s.gcpAt = "" // where it is, is not to be configured
		proxy := httptest.NewServer(tunnel(gcpName+":443", fake.Addr()))
		ts.Defer(proxy.Close)
		ts.Setenv("HTTPS_PROXY", proxy.URL)
	}
	fake.Grant(gcpHost, secretmanager.Admin)
	if len(how) > 0 {
		data, err := os.ReadFile(s.path("keyguard.toml"))
		ts.Check(err)
		config, _, _ := strings.Cut(string(data), "[[escrow]]")
		ts.Check(os.WriteFile(s.path("keyguard.toml"), []byte(config), 0o600))
	}
	s.nameGCP(ts, "gcp", "keyguard-test", gcpHost)
}

// nameGCP adds an escrow to keyguard.toml, with an account's credentials.
func (s *sandbox) nameGCP(ts *testscript.TestScript, name, project, host string) {
	file := s.path(name + ".json")
	credentials, err := s.gcp.Credentials(host, "service_account")
	ts.Check(err)
	ts.Check(os.WriteFile(file, credentials, 0o600))
	config, err := os.OpenFile(s.path("keyguard.toml"), os.O_APPEND|os.O_WRONLY, 0)
	ts.Check(err)
	_, err = fmt.Fprintf(config, `
[[escrow]]
name = %q
kind = "gcp-secret-manager"
project = %q
secret = "master"
credentials_file = %q
%s
`, name, project, file, s.gcpAt)
	ts.Check(errors.Join(err, config.Close()))
}

const gcpName = "secretmanager.googleapis.com"

// certify makes a certificate for Google's address, which this script's programs trust.
func (s *sandbox) certify(ts *testscript.TestScript) *tls.Config {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{gcpName}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	ts.Check(err)
	ts.Check(os.WriteFile(s.path("ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	ts.Setenv("SSL_CERT_FILE", s.path("ca.pem"))
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: k}}}
}

// tunnel is a proxy that connects to one name, which is somewhere else (RFC 9110, 9.3.6).
func tunnel(name, addr string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != name {
			http.Error(w, r.Method+" "+r.Host, http.StatusForbidden)
			return
		}
		there, err := net.Dial("tcp", addr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer there.Close()
		here, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer here.Close()
		fmt.Fprint(here, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			io.Copy(there, buffered)
			there.(*net.TCPConn).CloseWrite()
		}()
		io.Copy(here, there)
	})
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
// sends, and in make test, where it is installed, gcloud itself, which shows that this is
// so: it takes a second a command.
func gclouds() []string {
	programs := []string{"gcloud-stand-in"}
	if path, err := exec.LookPath("gcloud"); err == nil && os.Getenv("KEYGUARD_EVERY_MANAGER") != "" {
		programs = append(programs, path)
	}
	return programs
}
