package main

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/footprintai/containarium-keyguard/agent/escrow/escrowtest/vault"
)

// Where the escrow vault of the scripts is.
const (
	vaultMount = "secret"
	vaultPath  = "hosts/h1/master"
)

// cmdVault is a script's Vault, and what happens to it:
//
//	vault start KV [only] [tls] [terse]   start it and name it in keyguard.toml, after usb or instead of it; $VAULT_URL is its address
//	vault approle USES              this host logs in by AppRole, so many times
//	vault put NAME FORM             what `vault kv put … value=@FILE` does; NAME - is FORM as text
//	vault break KIND [METHOD [PATH [STATUS [TEXT]]]]   a vault.Fault; - is every method
//	vault heal                      no faults any more
//	vault set STATE [N]             deleted, destroyed, undeleted: the newest version, or version N
//	vault can CAPABILITY…           of those in the README's policy; none takes all away
//	vault seal|unseal
//	vault revoke                    all tokens; vault token [TTL] makes a new one, which with a TTL cannot be renewed
//	vault age TIME                  so much of the life of all tokens passes
//	vault standby                   what is named in keyguard.toml sends us to the active one
//	vault remove [PATH]             an entry, or all
//	vault unmount
//	vault stop                      nothing listens any more
//	vault deletes DURATION          the engine deletes by itself what is written from now on
//	vault calls [N]                 so many calls were made since the last vault calls
//	vault newest NAME               `<path>` holds this key
//	vault entries N                 so many entries
func cmdVault(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	if args[0] == "start" {
		s.startVault(ts, args[1:])
		return
	}
	if s.vault == nil {
		ts.Fatalf("vault start comes first")
	}
	arg := func(i int) string {
		if i >= len(args) || args[i] == "-" {
			return ""
		}
		return args[i]
	}
	switch args[0] {
	case "approle":
		uses, err := strconv.Atoi(args[1])
		ts.Check(err)
		role, secret := s.vault.AppRole(uses, vault.TokenOptions{Policies: []string{"keyguard"}, TTL: time.Hour, Renewable: true})
		ts.Check(os.WriteFile(s.path("role"), []byte(role+"\n"), 0o600))
		ts.Check(os.WriteFile(s.path("secret"), []byte(secret+"\n"), 0o600))
		data, err := os.ReadFile(s.path("keyguard.toml"))
		ts.Check(err)
		text := strings.Replace(string(data), fmt.Sprintf("token_file = %q", s.path("token")),
			fmt.Sprintf("role_id_file = %q\nsecret_id_file = %q", s.path("role"), s.path("secret")), 1)
		ts.Check(os.WriteFile(s.path("keyguard.toml"), []byte(text), 0o600))
	case "put":
		value := args[2]
		if args[1] != "-" {
			value = string(form(ts, testKey(args[1]), args[2]))
		}
		ts.Check(s.vault.Put(vaultMount, vaultPath, map[string]any{"value": value}))
	case "break":
		f := vault.Fault{Kind: vault.Kind(args[1]), Method: arg(2), Path: arg(3), Text: arg(5), Delay: time.Second}
		if arg(4) != "" {
			var err error
			f.Status, err = strconv.Atoi(arg(4))
			ts.Check(err)
		}
		s.vault.Break(f)
	case "heal":
		s.vault.Heal()
	case "set":
		n := 0
		if arg(2) != "" {
			var err error
			n, err = strconv.Atoi(arg(2))
			ts.Check(err)
		}
		ts.Check(s.vault.Set(vaultMount, vaultPath, n, args[1]))
	case "can":
		p := vault.Keyguard(s.kv, vaultMount, vaultPath)
		for path, can := range p {
			p[path] = slices.DeleteFunc(can, func(c string) bool { return !slices.Contains(args[1:], c) })
		}
		s.vault.Policy("keyguard", p)
	case "seal", "unseal":
		s.vault.Seal(args[0] == "seal")
	case "revoke":
		s.vault.Revoke()
	case "token":
		s.vaultToken(ts, args[1:]...)
	case "age":
		by, err := time.ParseDuration(args[1])
		ts.Check(err)
		s.vault.Age(by)
	case "deletes":
		after, err := time.ParseDuration(args[1])
		ts.Check(err)
		s.vault.DeleteAfter(vaultMount, after)
	case "standby":
		standby, err := vault.Start(vault.Options{})
		ts.Check(err)
		ts.Defer(standby.Close)
		standby.Break(vault.Fault{Kind: vault.Redirect, To: s.vault.URL()})
		data, err := os.ReadFile(s.path("keyguard.toml"))
		ts.Check(err)
		ts.Check(os.WriteFile(s.path("keyguard.toml"), []byte(strings.ReplaceAll(string(data), s.vault.URL(), standby.URL())), 0o600))
	case "remove":
		path := arg(1)
		if path == "" {
			path = "*"
		}
		s.vault.Remove(vaultMount, path)
	case "unmount":
		s.vault.Unmount(vaultMount)
	case "stop":
		s.vault.Close()
		s.vault = nil
	case "calls":
		total := 0
		for _, n := range s.vault.Calls() {
			total += n
		}
		if len(args) > 1 && fmt.Sprint(total) != args[1] {
			ts.Fatalf("%d calls: %v", total, s.vault.Calls())
		}
		s.vault.Reset()
	case "newest":
		value, _ := s.vault.Get(vaultMount, vaultPath)["value"].(string)
		same := value == base64.StdEncoding.EncodeToString(testKey(args[1]).UnsafeBytes())
		if same == neg {
			ts.Fatalf("the newest copy is key %s: %v", args[1], same)
		}
	case "entries":
		if names := s.vault.Names(vaultMount); fmt.Sprint(len(names)) != args[1] {
			ts.Fatalf("%d entries: %q", len(names), names)
		}
	default:
		ts.Fatalf("no vault %s", args[0])
	}
}

func (s *sandbox) startVault(ts *testscript.TestScript, args []string) {
	o := vault.Options{Terse: slices.Contains(args, "terse")}
	extra := ""
	if slices.Contains(args, "tls") {
		borrowed := httptest.NewTLSServer(nil) // for its certificate, of an authority that nobody knows
		borrowed.Close()
		o.TLS = &tls.Config{Certificates: borrowed.TLS.Certificates}
		ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: borrowed.Certificate().Raw})
		ts.Check(os.WriteFile(s.path("ca.pem"), ca, 0o644))
		extra = fmt.Sprintf("ca_file = %q\n", s.path("ca.pem"))
	}
	fake, err := vault.Start(o)
	ts.Check(err)
	s.vault = fake
	s.kv, err = strconv.Atoi(args[0])
	ts.Check(err)
	fake.Mount(vaultMount, s.kv)
	fake.Policy("keyguard", vault.Keyguard(s.kv, vaultMount, vaultPath))
	s.vaultToken(ts)
	ts.Setenv("VAULT_URL", fake.URL())
	data, err := os.ReadFile(s.path("keyguard.toml"))
	ts.Check(err)
	config := string(data)
	if slices.Contains(args, "only") {
		config, _, _ = strings.Cut(config, "[[escrow]]")
	}
	config += fmt.Sprintf(`
[[escrow]]
name = "vault"
kind = "vault-kv"
address = %q
mount = %q
path = %q
token_file = %q
%s`, fake.URL(), vaultMount, vaultPath, s.path("token"), extra)
	ts.Check(os.WriteFile(s.path("keyguard.toml"), []byte(config), 0o600))
}

func (s *sandbox) vaultToken(ts *testscript.TestScript, ttl ...string) {
	o := vault.TokenOptions{Policies: []string{"keyguard"}, TTL: time.Hour, Renewable: true}
	if len(ttl) > 0 {
		var err error
		o.TTL, err = time.ParseDuration(ttl[0])
		ts.Check(err)
		o.Renewable = false
	}
	token := s.vault.Token(o)
	ts.Check(os.WriteFile(s.path("token"), []byte(token+"\n"), 0o600))
}

// vaultValues are the values of all entries, by name.
func (s *sandbox) vaultValues() map[string]string {
	all := map[string]string{}
	if s.vault != nil {
		for _, name := range s.vault.Names(vaultMount) {
			all[name] = fmt.Sprint(s.vault.Get(vaultMount, name))
		}
	}
	return all
}
