package main

import (
	"fmt"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/config"
)

// TestConfigRefusesWhatKindsRefuse: a start that has nothing to do makes no escrow, and knows what is wrong with one
// from its configuration alone. Of whatever stands there, what makes no escrow is wrong there, too.
func TestConfigRefusesWhatKindsRefuse(t *testing.T) {
	odd := []string{"", "x", "x:", "x:y", "x:1", ":1", "127.0.0.1", "127.0.0.1:1", "[::1]:1", "::1", "{hostname}", "a b", "/x", "/x/../y", "-",
		"http://x", "https://", "LABEL=", "LABEL=x/..", "UUID=x/y", "é", "file", "process", "web-identity", "pass", "1password"}
	tables := map[string]map[string]string{
		config.GCPSecretManager: {"project": "p", "secret": "s", "location": "", "endpoint": "", "credentials_file": ""},
		config.AWS:              {"region": "eu-central-1", "secret": "s", "endpoint": "", "credentials": "", "credentials_file": "", "profile": "", "role": "", "token_file": ""},
		config.VaultKV:          {"address": "https://x", "mount": "m", "path": "p", "namespace": "", "ca_file": "", "token_file": "/t", "role_id_file": "", "secret_id_file": ""},
		config.Directory:        {"path": "/x"},
		config.Command:          {"preset": "pass", "path": "p", "environment_file": ""},
	}
	made := 0
	try := func(text string) {
		cfg, err := config.Parse([]byte(text), "x.toml")
		if err != nil || cfg.Wrong() != nil {
			return
		}
		a := &app{}
		if _, err := a.host(cfg, wiring{prestart: true}); err != nil {
			t.Fatal(err)
		}
		if made++; len(a.wrong) > 0 {
			t.Errorf("the configuration is right, and %v:\n%s", a.wrong, text)
		}
	}
	for kind, table := range tables {
		for key := range table {
			for _, value := range odd {
				for _, plaintext := range []string{"", "plaintext = true\n"} {
					text := fmt.Sprintf("[[escrow]]\nname = \"e\"\nkind = %q\n%s", kind, plaintext)
					for other, usual := range table {
						if other == key {
							usual = value
						}
						if usual != "" {
							text += fmt.Sprintf("%s = %q\n", other, usual)
						}
					}
					try(text)
				}
			}
		}
	}
	member := func(n int, kind, rest string) string {
		return fmt.Sprintf("[[escrow]]\nname = \"m%d\"\nkind = %q\npart = %d\n%s\n", n, kind, n, rest)
	}
	split := "[[escrow]]\nname = \"s\"\nkind = \"split\"\nneed = 2\nmembers = [\"m1\", \"m2\"]\n"
	pairs := []struct{ kind, one, other string }{
		{config.GCPSecretManager, "project = \"p\"\nsecret = \"s\"\n", "project = \"p\"\nsecret = \"s\"\nendpoint = \"127.0.0.1:1\"\n"},
		{config.GCPSecretManager, "project = \"p\"\nsecret = \"s\"\n", "project = \"p\"\nsecret = \"s\"\nlocation = \"europe-west1\"\n"},
		{config.AWS, "region = \"r\"\nsecret = \"s\"\n", "region = \"r\"\nsecret = \"s\"\nendpoint = \"x:1\"\n"},
		{config.VaultKV, "address = \"https://x\"\nmount = \"m\"\npath = \"p\"\ntoken_file = \"/t\"\n", "address = \"https://x/\"\nmount = \"m\"\npath = \"p\"\ntoken_file = \"/t\"\n"},
		{config.VaultKV, "address = \"https://x\"\nmount = \"m\"\npath = \"p\"\ntoken_file = \"/t\"\n", "address = \"https://X:443\"\nmount = \"m\"\npath = \"p\"\ntoken_file = \"/t\"\n"},
		{config.VaultKV, "address = \"https://x\"\nmount = \"m\"\npath = \"p\"\ntoken_file = \"/t\"\n", "address = \"https://x\"\nmount = \"m\"\npath = \"p\"\nnamespace = \"n\"\ntoken_file = \"/t\"\n"},
		{config.Directory, "path = \"/x\"\n", "path = \"/y\"\n"},
		{config.Command, "preset = \"pass\"\npath = \"p\"\n", "preset = \"pass\"\npath = \"q\"\n"},
		{config.Command, "preset = \"pass\"\n", "preset = \"pass\"\nenvironment_file = \"/e\"\n"},
		{config.Command, "save = [\"a\"]\nlist = [\"b\"]\nfetch = [\"c\"]\n", "save = [\"x\"]\nlist = [\"y\"]\nfetch = [\"z\"]\n"},
		{config.Command, "save = [\"a\"]\nlist = [\"b\", \"1\"]\nfetch = [\"c\"]\n", "save = [\"a\"]\nlist = [\"b\", \"2\"]\nfetch = [\"c\"]\n"},
	}
	for _, p := range pairs {
		try(split + member(1, p.kind, p.one) + member(2, p.kind, p.other))
	}
	if made < 100 {
		t.Errorf("only %d of them are right: this tries too little", made)
	}
}
