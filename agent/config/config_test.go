package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// whole has every key that a file can have.
const whole = `
keyfile   = "/etc/containarium/other.key"
owner     = "root"
state_dir = "/srv/state"
run_dir   = "/run/kg"

[daemon]
unit = "containarium-daemon.service"

[database]
url = "postgres://containarium@10.0.0.2:5432/containarium?sslmode=disable"
connect_timeout = "1500ms"

[prestart]
budget = "30s"

[watch]
debounce = "100ms"
rescan   = "2m"
heal     = true

[drill]
copies = 0

[notify]
hooks_dir    = ""
metrics_file = "/tmp/keyguard.prom"
ping_url     = "https://hc.example/ping/1"

[[escrow]]
name     = "gcp"
kind     = "gcp-secret-manager"
project  = "my-project"
secret   = "containarium-{hostname}-secrets-master"
required = false
readable = false
location = "europe-west1"
credentials_file = "/etc/kg/gcp.json"
endpoint = "127.0.0.1:8085"
plaintext = true
seal_to = ["age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq"]
identity_file = "/etc/kg/age.txt"

[[escrow]]
name  = "vault"
kind  = "vault-kv"
address = "https://vault.example:8200"
mount = "containarium"
path  = "hosts/{hostname}/secrets-master"
token_file = "/etc/kg/vault.token"
namespace = "team/a"
ca_file = "/etc/kg/ca.pem"

[[escrow]]
name  = "vault-2"
kind  = "vault-kv"
address = "http://[::1]:8200"
mount = "containarium"
path  = "secrets-master"
role_id_file = "/etc/kg/role"
secret_id_file = "/etc/kg/secret"

[[escrow]]
name = "usb"
kind = "directory"
path = "/mnt/keys"
recipients = [
  "age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq", # ops
  "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg",
]
allow_same_disk = true

[[escrow]]
name   = "1password"
kind   = "command"
preset = "1password"

[[escrow]]
name  = "own"
kind  = "command"
environment_file = "/etc/kg/vaulty.env"
save  = ["/usr/local/bin/vaulty", "put", "{hostname}"]
list  = ["vaulty", "list"]
fetch = ["vaulty", "get"]

[[escrow]]
name = "aws-1"
kind = "aws-secrets-manager"
part = 1
region = "eu-central-1"
secret = "containarium/h1/secrets-master"
credentials_file = "/etc/kg/aws"
profile = "keyguard"

[[escrow]]
name = "aws-4"
kind = "aws-secrets-manager"
part = 4
region = "us-east-1"
secret = "containarium/h1/secrets-master"
credentials = "process"
process = ["/usr/local/bin/aws-keys", "--json"]

[[escrow]]
name = "aws-5"
kind = "aws-secrets-manager"
part = 5
required = false
region = "eu-west-1"
secret = "s"
credentials = "web-identity"
role = "arn:aws:iam::123456789012:role/host"
token_file = "/etc/kg/web.token"

[[escrow]]
name = "split"
kind = "split"
need = 2
members = ["aws-1", "aws-4", "aws-5"]

[[escrow]]
name = "gcp-2"
kind = "gcp-secret-manager"
project = "other-project"
secret = "s"
replicas = ["europe-west1", "europe-west4"]
`

func wholeConfig() *Config {
	return &Config{
		Keyfile: "/etc/containarium/other.key", Owner: "root", StateDir: "/srv/state", RunDir: "/run/kg",
		Daemon: Daemon{Unit: "containarium-daemon.service"},
		Database: Database{URL: "postgres://containarium@10.0.0.2:5432/containarium?sslmode=disable",
			ConnectTimeout: 1500 * time.Millisecond},
		Prestart: Prestart{Budget: 30 * time.Second},
		Watch:    Watch{Debounce: 100 * time.Millisecond, Rescan: 2 * time.Minute, Heal: true},
		Notify:   Notify{MetricsFile: "/tmp/keyguard.prom", PingURL: "https://hc.example/ping/1"},
		Escrows: []Escrow{
			{Name: "gcp", Kind: "gcp-secret-manager", Project: "my-project", Secret: "containarium-{hostname}-secrets-master",
				Location: "europe-west1", CredentialsFile: "/etc/kg/gcp.json", Endpoint: "127.0.0.1:8085", Plaintext: true,
				SealTo: []string{"age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq"}, IdentityFile: "/etc/kg/age.txt"},
			{Name: "vault", Kind: "vault-kv", Required: true, Readable: true, Address: "https://vault.example:8200", Mount: "containarium",
				Path: "hosts/{hostname}/secrets-master", TokenFile: "/etc/kg/vault.token", Namespace: "team/a", CAFile: "/etc/kg/ca.pem"},
			{Name: "vault-2", Kind: "vault-kv", Required: true, Readable: true, Address: "http://[::1]:8200", Mount: "containarium",
				Path: "secrets-master", RoleIDFile: "/etc/kg/role", SecretIDFile: "/etc/kg/secret"},
			{Name: "usb", Kind: "directory", Required: true, Readable: true, Path: "/mnt/keys", AllowSameDisk: true, Recipients: []string{
				"age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq",
				"age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg"}},
			{Name: "1password", Kind: "command", Required: true, Readable: true, Preset: "1password"},
			{Name: "own", Kind: "command", Required: true, Readable: true, EnvironmentFile: "/etc/kg/vaulty.env", Save: []string{"/usr/local/bin/vaulty", "put", "{hostname}"},
				List: []string{"vaulty", "list"}, Fetch: []string{"vaulty", "get"}},
			{Name: "aws-1", Kind: "aws-secrets-manager", Readable: true, Required: true, Part: 1, Region: "eu-central-1", Secret: "containarium/h1/secrets-master",
				Credentials: "file", CredentialsFile: "/etc/kg/aws", Profile: "keyguard"},
			{Name: "aws-4", Kind: "aws-secrets-manager", Readable: true, Required: true, Part: 4, Region: "us-east-1", Secret: "containarium/h1/secrets-master",
				Credentials: "process", Process: []string{"/usr/local/bin/aws-keys", "--json"}},
			{Name: "aws-5", Kind: "aws-secrets-manager", Readable: true, Part: 5, Region: "eu-west-1", Secret: "s", Credentials: "web-identity",
				Role: "arn:aws:iam::123456789012:role/host", TokenFile: "/etc/kg/web.token"},
			{Name: "split", Kind: "split", Readable: true, Required: true, Need: 2, Members: []string{"aws-1", "aws-4", "aws-5"}},
			{Name: "gcp-2", Kind: "gcp-secret-manager", Required: true, Readable: true, Project: "other-project", Secret: "s",
				Replicas: []string{"europe-west1", "europe-west4"}},
		},
	}
}

func parsed(t *testing.T, text string) *Config {
	t.Helper()
	c, err := wholly(Parse([]byte(text), "keyguard.toml"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wholly takes what is wrong with one escrow for an error, too.
func wholly(c *Config, err error) (*Config, error) {
	if err == nil {
		err = c.Wrong()
	}
	return c, err
}

func same(t *testing.T, got, want *Config) {
	t.Helper()
	g, w := *got, *want
	g.Digest, w.Digest = "", ""
	if !reflect.DeepEqual(g, w) {
		t.Errorf("got  %+v\nwant %+v", g, w)
	}
}

func TestEveryField(t *testing.T) {
	same(t, parsed(t, whole), wholeConfig())
	// The test above has every key, so that a new field cannot be forgotten in it.
	for _, v := range []any{Config{}, Daemon{}, Database{}, Prestart{}, Watch{}, Drill{}, Notify{}, Escrow{}} {
		for _, k := range keysOf(reflect.TypeOf(v)) {
			if k != "url_file" && !strings.Contains(whole, k) {
				t.Errorf("key %q is not in the test", k)
			}
		}
	}
}

func TestDefaults(t *testing.T) {
	for _, text := range []string{"", "\n\n", "# nothing\n", "\xef\xbb\xbf", "\xef\xbb\xbf# mark\r\n", "[daemon]\n[watch]\n", "escrow = []"} {
		c := parsed(t, text)
		if len(c.Escrows) != 0 {
			t.Errorf("%q: escrows %v", text, c.Escrows)
		}
		c.Escrows = nil
		same(t, c, Default())
	}
	c := Default()
	if c.Keyfile != "/etc/containarium/secrets.key" || c.Owner != "root" || c.StateDir != "/var/lib/containarium-keyguard" ||
		c.RunDir != "/run/containarium-keyguard" || c.Daemon.Unit != "containarium.service" || c.Database.ConnectTimeout != 2*time.Second ||
		c.Prestart.Budget != 20*time.Second || c.Watch.Debounce != 250*time.Millisecond || c.Watch.Rescan != time.Minute || c.Watch.Heal ||
		c.Drill.Copies != 10 || c.Notify.HooksDir != "/etc/containarium-keyguard/hooks.d" ||
		c.Notify.MetricsFile != "/var/lib/prometheus/node-exporter/keyguard.prom" || c.Notify.PingURL != "" || c.Database.URL != "" {
		t.Errorf("defaults %+v", c)
	}
}

func TestOtherWaysToWriteIt(t *testing.T) {
	for name, text := range map[string]string{
		"dotted":        `watch.rescan = "2m"` + "\n" + `escrow = [{name = "usb", kind = "directory", path = "/mnt/keys"}]`,
		"inline":        `watch = { rescan = "2m" }` + "\n" + `escrow = [{name = "usb", kind = "directory", path = "/mnt/keys"}]`,
		"literal":       "[watch]\nrescan = '2m'\n[[escrow]]\nname = 'usb'\nkind = 'directory'\npath = '''/mnt/keys'''",
		"quoted keys":   "[\"watch\"]\n\"rescan\" = \"2m\"\n[['escrow']]\nname = \"usb\"\nkind = \"dir\\u0065ctory\"\npath = \"/mnt/keys\"",
		"windows":       "[watch]\r\nrescan = \"2m\"\r\n[[escrow]]\r\nname = \"usb\"\r\nkind = \"directory\"\r\npath = \"/mnt/keys\"\r\n",
		"any order":     "[[escrow]]\nname = \"usb\"\nkind = \"directory\"\npath = \"/mnt/keys\"\n[watch]\nrescan = \"2m\"",
		"other unit":    "[watch]\nrescan = \"120s\"\n[[escrow]]\nname = \"usb\"\nkind = \"directory\"\npath = \"/mnt/keys\"",
		"empty strings": "[watch]\nrescan = \"2m\"\n[[escrow]]\nname = \"usb\"\nkind = \"directory\"\npath = \"/mnt/keys\"\nidentity_file = \"\"",
	} {
		t.Run(name, func(t *testing.T) {
			want := Default()
			want.Watch.Rescan = 2 * time.Minute
			want.Escrows = []Escrow{{Name: "usb", Kind: "directory", Required: true, Readable: true, Path: "/mnt/keys"}}
			same(t, parsed(t, text), want)
		})
	}
}

func TestStick(t *testing.T) {
	for _, path := range []string{"LABEL=KEYS", "LABEL=MY KEYS/{hostname}/a", "UUID=12AB-34CD/containarium"} {
		if c := parsed(t, strings.Replace(usb, "/mnt/keys", path, 1)); c.Escrows[0].Path != path {
			t.Errorf("%q, want %q", c.Escrows[0].Path, path)
		}
	}
}

const usb = "[[escrow]]\nname = \"usb\"\nkind = \"directory\"\npath = \"/mnt/keys\"\n"
const gcp = "[[escrow]]\nname = \"gcp\"\nkind = \"gcp-secret-manager\"\nproject = \"p\"\nsecret = \"s\"\n"
const vault = "[[escrow]]\nname = \"v\"\nkind = \"vault-kv\"\naddress = \"https://v\"\nmount = \"m\"\npath = \"p\"\n"
const command = "[[escrow]]\nname = \"c\"\nkind = \"command\"\n"

const aws = "[[escrow]]\nname = \"a\"\nkind = \"aws-secrets-manager\"\nregion = \"eu-central-1\"\nsecret = \"s\"\n"

// splitOf is a split of two directories, each with a line of its own.
func splitOf(split, a, b string) string {
	return "[[escrow]]\nkind = \"split\"\n" + split + "\nmembers = [\"a\", \"b\"]\nname = \"s\"\n" +
		"[[escrow]]\nname = \"a\"\nkind = \"directory\"\n" + a + "\npath = \"/a\"" + "\n" +
		"[[escrow]]\nname = \"b\"\nkind = \"directory\"\npath = \"/b\"\n" + b + "\n"
}

func TestProblems(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string // of the problems, in order: how each begins
	}{
		// Words nobody knows.
		{"unknown key", "keyfle = \"/a\"", []string{`line 1: keyfle: unknown key; did you mean "keyfile"?`}},
		{"swapped letters", "[watch]\nresacn = \"1m\"", []string{`line 2: watch.resacn: unknown key; did you mean "rescan"?`}},
		{"unlike anything", "[watch]\nxyzzyplugh = 1", []string{`line 2: watch.xyzzyplugh: unknown key`}},
		{"capitals", "[Watch]\nrescan = \"1m\"", []string{`line 1: Watch: unknown key; did you mean "watch"?`}},
		{"a table", "\n[notfy]\nping_url = \"https://x\"", []string{`line 2: notfy: unknown key; did you mean "notify"?`}},
		{"dashes", "state-dir = \"/a\"", []string{`line 1: state-dir: unknown key; did you mean "state_dir"?`}},
		{"in an escrow", usb + "requird = true", []string{`line 5: escrow.requird: unknown key; did you mean "required"?`}},
		{"in the wrong table", "[drill]\nping_url = \"https://x\"", []string{`line 2: drill.ping_url: unknown key; it belongs under [notify]`}},
		{"escrow key at the root", "project = \"p\"", []string{`line 1: project: unknown key; it belongs under [[escrow]]`}},
		{"root key in a table", "[watch]\nkeyfile = \"/a\"", []string{`line 2: watch.keyfile: unknown key; it belongs before the first table`}},
		{"deeper", "[watch.more]\na = 1", []string{`line 1: watch.more: unknown key`}},
		{"in braces", "watch = {rescan = \"1m\", hela = true}", []string{`line 1: watch.hela: unknown key; did you mean "heal"?`}},
		// What the library reads for minutes, in gigabytes.
		{"brackets in each other", "keyfile = \"/a\"\na=" + strings.Repeat("{x=", 20_000), []string{"line 2: more than 64 brackets or names in each other"}},
		{"a name of names", strings.Repeat("a.", 100_000) + "a = 1", []string{"line 1: more than 64 brackets or names in each other"}},
		{"a very long key", strings.Repeat("k", 500) + " = 1", []string{"line 1: kkk"}},
		{"kind", "[[escrow]]\nname = \"a\"\nkind = \"gcp-secrets-manager\"",
			[]string{`line 3: escrow.kind: unknown kind "gcp-secrets-manager"; did you mean "gcp-secret-manager"?`}},
		{"split, nothing", "[[escrow]]\nname = \"s\"\nkind = \"split\"", []string{"line 1: escrow.need: missing: how many", "line 1: escrow.members: missing: the names"}},
		{"split, one part is the key", splitOf("need = 1", "part = 1", "part = 2"), []string{"line 3: escrow.need: must be at least 2"}},
		{"split, too few", splitOf("need = 3", "part = 1", "part = 2"), []string{"line 4: escrow.members: 2 are too few: 3 are needed"}},
		{"split, no part", splitOf("need = 2", "part = 1", ""), []string{`line 11: escrow.part: missing: a member of "s" keeps a part, and which one must be said, 1 to 9`}},
		{"split, part of a wrong type", splitOf("need = 2", "part = 1", "part = \"2\""), []string{"line 15: escrow.part: must be a number, not text"}},
		{"split, part 10", splitOf("need = 2", "part = 1", "part = 10"), []string{"line 15: escrow.part: must be 1 to 9"}},
		{"split, part 0", splitOf("need = 2", "part = 0", "part = 2"), []string{"line 9: escrow.part: must be 1 to 9"}},
		{"split, one part twice", splitOf("need = 2", "part = 2", "part = 2"), []string{`line 15: escrow.part: "a" keeps part 2 already`}},
		{"split, not read", splitOf("need = 2", "part = 1\nreadable = false", "part = 2"), []string{"line 10: escrow.readable: only a store tells"}},
		{"split, not read itself", splitOf("need = 2\nreadable = false", "part = 1", "part = 2"), []string{"line 4: escrow.readable: a key in parts is rebuilt of what is read"}},
		{"split, sealed", splitOf("need = 2\nidentity_file = \"/i\"", "part = 1", "part = 2"), []string{"line 4: escrow.identity_file: belongs to the members"}},
		{"split, unknown member", strings.Replace(splitOf("need = 2", "part = 1", "part = 2"), `"b"]`, `"c"]`, 1), []string{
			`line 4: escrow.members: there is no escrow "c"`, `line 15: escrow.part: no split names "b" in its members`}},
		{"split, a member twice", strings.Replace(splitOf("need = 2", "part = 1", "part = 2"), `"b"]`, `"b", "b"]`, 1), []string{`line 4: escrow.members: "b" is named twice`}},
		{"split, of a split", strings.Replace(splitOf("need = 2", "part = 1", "part = 2"), `"b"]`, `"b", "s"]`, 1), []string{`line 4: escrow.members: "s" is a split itself`}},
		{"split, one place twice", strings.Replace(splitOf("need = 2", "part = 1", "part = 2"), "/b", "/a", 1), []string{`line 13: escrow.kind: this is the same place as escrow "a"`}},
		{"two splits, one member", splitOf("need = 2", "part = 1", "part = 2") + "[[escrow]]\nname = \"t\"\nkind = \"split\"\nneed = 2\nmembers = [\"a\", \"b\"]", []string{
			`line 9: escrow.part: "s" and "t" both have it`, `line 15: escrow.part: "s" and "t" both have it`}},
		{"a part of no split", usb + "part = 1", []string{`line 5: escrow.part: no split names "usb" in its members`}},
		{"aws, nothing", "[[escrow]]\nname = \"a\"\nkind = \"aws-secrets-manager\"", []string{"line 1: escrow.region: missing", "line 1: escrow.secret: missing"}},
		{"aws, who", aws + "credentials = \"instanze\"", []string{`line 6: escrow.credentials: unknown "instanze"; did you mean "instance"?`}},
		{"aws, file", aws + "credentials = \"file\"", []string{"line 1: escrow.credentials_file: missing"}},
		{"aws, two ways", aws + "credentials = \"instance\"\nprofile = \"p\"", []string{`line 7: escrow.profile: belongs to credentials = "file" only`}},
		{"aws, process", aws + "credentials = \"process\"\nprocess = [\"keys\"]", []string{`line 7: escrow.process: "keys" is no absolute`}},
		{"kind of paper", "[[escrow]]\nname = \"a\"\nkind = \"paper\"",
			[]string{`line 3: escrow.kind: unknown kind "paper" (gcp-secret-manager, vault-kv, directory, command, aws-secrets-manager or split)`}},
		{"a kind that is a key", "[[escrow]]\nname = \"a\"\nkind = \"metrics_file\"", []string{`line 3: escrow.kind: unknown kind "metrics_file" (`}},
		{"preset", command + "preset = \"bitwarten\"", []string{`line 4: escrow.preset: unknown preset "bitwarten"; did you mean "bitwarden"?`}},

		// Types.
		{"text for a flag", "[watch]\nheal = \"yes\"", []string{"line 2: watch.heal: must be true or false, not text"}},
		{"flag for text", "owner = true", []string{"line 1: owner: must be text in double quotes, not true"}},
		{"text for a number", "[drill]\ncopies = \"10\"", []string{"line 2: drill.copies: must be a number, not text"}},
		{"fraction", "[drill]\ncopies = 1.5", []string{"line 2: drill.copies: must be a number, not a number with a fraction"}},
		{"number for a duration", "[watch]\nrescan = 60", []string{`line 2: watch.rescan: must be a duration in double quotes, such as "1m", not a number`}},
		{"no unit", "[watch]\nrescan = \"60\"", []string{`line 2: watch.rescan: "60" is no duration; write it like "1m"`}},
		{"date", "keyfile = 2026-01-01", []string{"line 1: keyfile: must be text in double quotes, not a date"}},
		{"list for text", "keyfile = [\"/a\"]", []string{"line 1: keyfile: must be text in double quotes, not a list"}},
		{"text for a list", usb + "recipients = \"age1\"", []string{"line 5: escrow.recipients: must be a list of texts"}},
		{"mixed list", usb + "recipients = [\"a\",\n 1]", []string{"line 5: escrow.recipients: must be a list of texts"}},
		{"text for a table", "watch = \"1m\"", []string{"line 1: watch: must be a table, headed [watch], not text"}},
		{"tables for a table", "[[watch]]\nrescan = \"1m\"", []string{"line 1: watch: must be a table, headed [watch], not a list"}},
		{"a table for tables", "[escrow]\nname = \"a\"", []string{"line 1: escrow: must be tables, each headed [[escrow]], not a table"}},
		{"a table for text", "[keyfile]\n", []string{"line 1: keyfile: must be text in double quotes, not a table"}},
		{"too large", "[drill]\ncopies = 99999999999999999999", []string{"line 2: 99999999999999999999 is out of range"}},

		// Twice.
		{"key twice", "owner = \"root\"\n\nowner = \"root\"", []string{"line 3: Key 'owner' has already been defined"}},
		{"table twice", "[watch]\nheal = true\n[drill]\n[watch]\nrescan = \"1m\"", []string{"line 4: Key 'watch' has already been defined"}},
		{"table and key", "watch = {}\n[watch]\n", []string{"line 2: Key 'watch' has already been defined"}},
		{"below a value", "owner = \"root\"\n[owner.x]\n", []string{"line 2: Key 'owner' was already"}},
		{"one table among tables", usb + "[escrow]\n", []string{"line 5: Key 'escrow' has already been defined"}},
		{"two of one name", usb + strings.Replace(usb, "keys", "keys2", 1), []string{`line 6: escrow.name: two escrows are called "usb"`}},
		{"two in one place", usb + strings.Replace(usb, "usb", "usb2", 1), []string{`line 7: escrow.kind: this is the same place as escrow "usb"`}},
		{"two gcp in one place", gcp + strings.Replace(gcp, `"gcp"`, `"gcp2"`, 1), []string{`line 8: escrow.kind: this is the same place as escrow "gcp"`}},

		// Syntax.
		{"no quotes", "keyfile = /etc/x.key", []string{"line 1: "}},
		{"unterminated", "owner = \"root\nkeyfile = \"/a\"", []string{"line 1: "}},
		{"no value", "\nowner =\n", []string{"line 2: "}},
		{"no equals sign", "owner\n", []string{"line 1: "}},
		{"header cut", "[watch\nheal = 1\n[drill]\ncopis = 1", []string{"line 1: "}},
		{"list not closed", usb + "recipients = [\n\"a\",\n", []string{"line 6: "}},
		{"list broken", usb + "recipients = [\n\"a\" \"b\",\n\"c\"\n]\nrequird = true", []string{"line 6: "}},
		{"text of lines not closed", "owner = \"\"\"\nroot\n", []string{"line "}},
		{"two on a line", "owner = \"root\" keyfile = \"/a\"", []string{"line 1: "}},
		{"not UTF-8", "owner = \"\xff\xfe\"", []string{"line 1: "}},
		{"a binary", "\x7fELF\x02\x01\x01\x00\x00\x00", []string{"line 1: "}},

		// Values.
		{"relative keyfile", "keyfile = \"secrets.key\"", []string{`line 1: keyfile: "secrets.key" is no absolute, clean path`}},
		{"a keyfile of a path that is too long", "keyfile = \"" + strings.Repeat("/k", 2048) + "\"", []string{`line 1: keyfile: "` + strings.Repeat("/k", 2048) + `" is no absolute, clean path`}},
		{"no keyfile", "keyfile = \"\"", []string{`line 1: keyfile: "" is no absolute, clean path`}},
		{"no owner", "owner = \"\"", []string{"line 1: owner: must name a user"}},
		{"dots", "state_dir = \"/var/lib/../x\"", []string{"line 1: state_dir: "}},
		{"slash at the end", "run_dir = \"/run/x/\"", []string{"line 1: run_dir: "}},
		{"unit", "[daemon]\nunit = \"containarium\"", []string{`line 2: daemon.unit: "containarium" is no name of a service`}},
		{"unit with a path", "[daemon]\nunit = \"/etc/containarium.service\"", []string{"line 2: daemon.unit: "}},
		{"budget", "[prestart]\nbudget = \"90s\"", []string{`line 2: prestart.budget: "1m30s" is not between "1s" and "1m20s"`}},
		{"no budget", "[prestart]\nbudget = \"0s\"", []string{"line 2: prestart.budget: "}},
		{"negative", "[watch]\ndebounce = \"-1s\"", []string{"line 2: watch.debounce: "}},
		{"rescan", "[watch]\nrescan = \"1ms\"", []string{"line 2: watch.rescan: "}},
		{"no timeout", "[database]\nconnect_timeout = \"0s\"", []string{"line 2: database.connect_timeout: "}},
		{"copies", "[drill]\ncopies = -1", []string{"line 2: drill.copies: must not be negative"}},
		{"hooks", "[notify]\nhooks_dir = \"hooks.d\"", []string{"line 2: notify.hooks_dir: "}},
		{"ping", "[notify]\nping_url = \"hc.example\"", []string{"line 2: notify.ping_url: "}},
		{"database, both", "[database]\nurl = \"none\"\nurl_file = \"/a\"", []string{"line 3: database.url_file: give url or url_file, not both"}},
		{"database, another scheme", "[database]\nurl = \"mysql://x\"", []string{"line 2: database.url: must be a postgres:// URL"}},
		{"database, words", "[database]\nurl = \"host=x user=y\"", []string{"line 2: database.url: must be a postgres:// URL"}},
		{"no name", "[[escrow]]\nkind = \"directory\"\npath = \"/a\"", []string{"line 1: escrow.name: missing"}},
		{"strange name", strings.Replace(usb, `"usb"`, `"my usb"`, 1), []string{`line 2: escrow.name: "my usb": a name has`}},
		{"no kind", "\n[[escrow]]\nname = \"a\"", []string{"line 2: escrow.kind: missing: gcp-secret-manager, vault-kv, directory, command, aws-secrets-manager or split"}},
		{"nothing", "[[escrow]]", []string{"line 1: escrow.name: missing", "line 1: escrow.kind: missing"}},
		{"name of a wrong type", "[[escrow]]\nname = 7\nkind = \"directory\"\npath = \"/a\"", []string{"line 2: escrow.name: must be text in double quotes, not a number"}},
		{"another kind's key", usb + "mount = \"m\"", []string{`line 5: escrow.mount: does not belong to kind "directory", only to vault-kv`}},
		{"another kind's path", gcp + "path = \"/m\"", []string{`line 6: escrow.path: does not belong to kind "gcp-secret-manager", only to vault-kv and directory`}},
		{"gcp, nothing", "[[escrow]]\nname = \"a\"\nkind = \"gcp-secret-manager\"", []string{
			`line 1: escrow.project: missing: kind "gcp-secret-manager" needs it`, "line 1: escrow.secret: missing"}},
		{"gcp, empty", "[[escrow]]\nname = \"a\"\nkind = \"gcp-secret-manager\"\nproject = \"\"\nsecret = \"s\"", []string{"line 4: escrow.project: missing"}},
		{"gcp, secret", strings.Replace(gcp, `"s"`, `"a.b"`, 1), []string{`line 5: escrow.secret: "a.b": a secret's name has`}},
		{"gcp, whole name", strings.Replace(gcp, `"s"`, `"projects/p/secrets/s"`, 1), []string{"line 5: escrow.secret: "}},
		{"gcp, other braces", strings.Replace(gcp, `"s"`, `"a-{host}"`, 1), []string{"line 5: escrow.secret: "}},
		{"gcp, long", strings.Replace(gcp, `"s"`, `"`+strings.Repeat("s", 245)+`"`, 1), []string{"line 5: escrow.secret: "}},
		{"gcp, project", strings.Replace(gcp, `"p"`, `"projects/p"`, 1), []string{"line 4: escrow.project: "}},
		{"read, and not read", usb + "readable = false", []string{"line 5: escrow.readable: only a store tells adding from reading"}},
		{"required, and not read", gcp + "readable = false\nrequired = true", []string{"line 7: escrow.required: "}},
		{"gcp, replicas", gcp + "replicas = [\"europe west\"]", []string{"line 6: escrow.replicas: "}},
		{"gcp, both", gcp + "replicas = [\"europe-west1\"]\nlocation = \"europe-west1\"", []string{"line 6: escrow.replicas: "}},
		{"gcp, location", gcp + "location = \"europe west\"", []string{"line 6: escrow.location: "}},
		{"gcp, plaintext", gcp + "plaintext = true", []string{"line 6: escrow.plaintext: allowed only with an endpoint on loopback"}},
		{"gcp, plaintext abroad", gcp + "endpoint = \"emulator:8085\"\nplaintext = true", []string{"line 7: escrow.plaintext: allowed only"}},
		{"gcp, plaintext to a number", gcp + "endpoint = \"127.0.0.1.example.com:8085\"\nplaintext = true", []string{"line 7: escrow.plaintext: "}},
		{"gcp, endpoint with a scheme", gcp + "endpoint = \"http://localhost:8085\"", []string{"line 6: escrow.endpoint: must be host:port"}},
		{"gcp, relative file", gcp + "credentials_file = \"gcp.json\"", []string{`line 6: escrow.credentials_file: "gcp.json" is no absolute`}},
		{"vault, nothing", "[[escrow]]\nname = \"a\"\nkind = \"vault-kv\"", []string{
			"line 1: escrow.address: missing", "line 1: escrow.mount: missing", "line 1: escrow.path: missing", "line 1: escrow.token_file: missing"}},
		{"vault, http", strings.Replace(vault, "https", "http", 1) + "token_file = \"/t\"", []string{"line 4: escrow.address: http is allowed only on loopback"}},
		{"vault, no scheme", strings.Replace(vault, "https://", "", 1) + "token_file = \"/t\"", []string{"line 4: escrow.address: must be a URL"}},
		{"vault, both", vault + "token_file = \"/t\"\nrole_id_file = \"/r\"\nsecret_id_file = \"/s\"", []string{"line 7: escrow.token_file: give token_file, or"}},
		{"vault, role only", vault + "role_id_file = \"/r\"", []string{"line 1: escrow.secret_id_file: missing: role_id_file needs it"}},
		{"vault, secret only", vault + "secret_id_file = \"/r\"", []string{"line 1: escrow.role_id_file: missing: secret_id_file needs it"}},
		{"vault, path", strings.Replace(vault, `"p"`, `"/p"`, 1) + "token_file = \"/t\"", []string{`line 6: escrow.path: "/p": no slash at its ends`}},
		{"directory, nothing", "[[escrow]]\nname = \"a\"\nkind = \"directory\"", []string{"line 1: escrow.path: missing"}},
		{"directory, relative", strings.Replace(usb, "/mnt/keys", "keys", 1), []string{`line 4: escrow.path: "keys" is no absolute, clean path`}},
		{"directory, no label", strings.Replace(usb, "/mnt/keys", "LABEL=/keys", 1), []string{`line 4: escrow.path: "LABEL=/keys" is no absolute, clean path, and no LABEL=`}},
		{"directory, no equals sign", strings.Replace(usb, "/mnt/keys", "LABEL/keys", 1), []string{`line 4: escrow.path: "LABEL/keys" is no`}},
		{"directory, off the stick", strings.Replace(usb, "/mnt/keys", "UUID=12AB-34CD/a/../../b", 1), []string{`line 4: escrow.path: "UUID=12AB-34CD/a/../../b" is no`}},
		{"directory, slash at the end", strings.Replace(usb, "/mnt/keys", "LABEL=KEYS/", 1), []string{`line 4: escrow.path: "LABEL=KEYS/" is no`}},
		{"directory, two slashes", strings.Replace(usb, "/mnt/keys", "LABEL=KEYS//a", 1), []string{`line 4: escrow.path: "LABEL=KEYS//a" is no`}},
		{"directory, control character", strings.Replace(usb, "/mnt/keys", `LABEL=KE\u001bYS`, 1), []string{`line 4: escrow.path: "LABEL=KE\x1bYS" is no`}},
		{"directory, other name", strings.Replace(usb, "/mnt/keys", "PARTUUID=12ab/a", 1), []string{`line 4: escrow.path: "PARTUUID=12ab/a" is no`}},
		{"directory, recipient", usb + "recipients = [\"age1short\"]", []string{"line 5: escrow.recipients: number 1 is no age recipient"}},
		{"directory, both lists", usb + "recipients = [\"age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq\"]\nseal_to = [\"age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq\"]",
			[]string{"line 5: escrow.recipients: give seal_to or recipients, not both"}},
		{"command, nothing", command, []string{"line 1: escrow.preset: missing: 1password, bitwarden or pass; or give save, list and fetch"}},
		{"command, both", command + "preset = \"pass\"\nsave = [\"a\"]", []string{"line 4: escrow.preset: give a preset, or"}},
		{"command, half", command + "save = [\"a\"]", []string{"line 1: escrow.list: missing", "line 1: escrow.fetch: missing"}},
		{"command, empty", command + "save = []\nlist = [\"\"]\nfetch = [\"./x\"]", []string{
			"line 4: escrow.save: must name a program", "line 5: escrow.list: must name a program", `line 6: escrow.fetch: "./x" is neither`}},
		{"command, a shell line", command + "save = \"a b\"\nlist = [\"a\"]\nfetch = [\"b\"]", []string{"line 4: escrow.save: must be a list of texts"}},

		{"command, path without a preset", command + "save = [\"a\"]\nlist = [\"a\"]\nfetch = [\"a\"]\npath = \"x\"", []string{"line 7: escrow.path: belongs to a preset"}},
		{"command, path", command + "preset = \"pass\"\npath = \"a/../b\"", []string{"line 5: escrow.path: \"a/../b\": names with slashes"}},
		{"command, path that is an option", command + "preset = \"pass\"\npath = \"-x\"", []string{"line 5: escrow.path: \"-x\": names with slashes"}},
		{"command, one place twice", command + "preset = \"pass\"\n" + strings.Replace(command, "\"c\"", "\"d\"", 1) + "preset = \"pass\"", []string{"line 7: escrow.kind: this is the same place as escrow"}},
		{"ssh recipient", usb + "recipients = [\"ssh-ed25519 xyz\"]", []string{"line 5: escrow.recipients: number 1 is no SSH key that age can use"}},
		{"a recipient whose checksum is wrong", usb + "recipients = [\"age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gp\"]", []string{"line 5: escrow.recipients: number 1 is no age recipient"}},
		{"a short RSA key", usb + "recipients = [\"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAQQC7\"]", []string{"line 5: escrow.recipients: number 1 is no SSH key that age can use"}},
		{"many at once", "keyfile = \"x\"\nownr = \"root\"\n[watch]\nheal = 1\nrescan = \"a\"\n[database]\nurl = \"mysql://\"\n[[escrow]]\nname = \"a\"\n", []string{
			"line 1: keyfile: ", "line 2: ownr: ", "line 4: watch.heal: ", "line 5: watch.rescan: ", "line 7: database.url: ", "line 8: escrow.kind: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := wholly(Parse([]byte(c.text), "keyguard.toml"))
			var p *Problems
			if !errors.As(err, &p) {
				t.Fatalf("error %v", err)
			}
			var got []string
			for _, one := range p.List {
				got = append(got, one.String())
			}
			ok := len(got) == len(c.want)
			for i := range min(len(got), len(c.want)) {
				ok = ok && strings.HasPrefix(got[i], c.want[i])
			}
			if !ok {
				t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(c.want, "\n  "))
			}
		})
	}
}

// TestOneEscrowsMistakeIsItsOwn: it is told of that escrow, which keeps a name of its own,
// and the rest of the file is in force.
func TestOneEscrowsMistakeIsItsOwn(t *testing.T) {
	for name, c := range map[string]struct{ text, called string }{
		"kind":        {strings.Replace(gcp, "gcp-secret", "gcp-secrets", 1), "gcp"},
		"unknown key": {gcp + "projct = \"p\"", "gcp"},
		"type":        {gcp + "plaintext = 1", "gcp"},
		"capitals":    {gcp + "Location = \"a\"", "gcp"},
		"recipients":  {gcp + "seal_to = [\"nobody\"]", "gcp"},
		"no name":     {strings.Replace(gcp, "name = \"gcp\"\n", "", 1), "escrow-2"},
		"name taken":  {strings.Replace(gcp, "\"gcp\"", "\"usb\"", 1), "escrow-2"},
		"place taken": {strings.Replace(usb, "\"usb\"", "\"again\"", 1), "again"},
	} {
		t.Run(name, func(t *testing.T) {
			got := parsedWith(t, "owner = \"root\"\n"+usb+c.text+"\n"+command+"preset = \"pass\"\n")
			var names []string
			for _, e := range got.Escrows {
				names = append(names, e.Name)
			}
			if want := []string{"usb", c.called, "c"}; !reflect.DeepEqual(names, want) {
				t.Errorf("escrows %q, want %q", names, want)
			}
			if got.Escrows[0].Wrong != nil || got.Escrows[2].Wrong != nil {
				t.Errorf("others are wrong: %v, %v", got.Escrows[0].Wrong, got.Escrows[2].Wrong)
			}
			wrong := got.Escrows[1].Wrong
			if wrong == nil || got.Wrong() == nil || got.Wrong().Error() != wrong.Error() || wrong.List[0].Line < 6 {
				t.Errorf("told of it: %v", wrong)
			}
		})
	}
	if _, err := Parse([]byte("owner = 1\n"+gcp+"projct = 1"), "k"); err == nil || !strings.Contains(err.Error(), "owner: ") || !strings.Contains(err.Error(), "projct: ") {
		t.Errorf("all at once: %v", err)
	}
}

func parsedWith(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse([]byte(text), "keyguard.toml")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTrust(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyguard.toml")
	if err := os.WriteFile(path, []byte("# ours\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		uid   int
		mode  fs.FileMode
		obeys bool
	}{{0, 0o600, true}, {0, 0o644, true}, {0, 0o640, true}, {0, 0o664, false}, {0, 0o602, false}, {65534, 0o600, false}} {
		if err := errors.Join(os.Chown(path, c.uid, 0), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); (err == nil) != c.obeys || err != nil && !errors.Is(err, ErrTrust) {
			t.Errorf("uid %d, mode %o: %v", c.uid, c.mode, err)
		}
		if _, err := Check(path); err != nil {
			t.Errorf("uid %d, mode %o is not even looked at: %v", c.uid, c.mode, err)
		}
	}
}

func TestErrorText(t *testing.T) {
	_, err := Parse([]byte("ownr = 1"), "/etc/k.toml")
	if got, want := err.Error(), `/etc/k.toml: line 1: ownr: unknown key; did you mean "owner"?`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	_, err = Parse([]byte("ownr = 1\nowner = 1"), "/etc/k.toml")
	if got, want := err.Error(), "/etc/k.toml: 2 problems\n  line 1: ownr: unknown key; did you mean \"owner\"?\n"+
		"  line 2: owner: must be text in double quotes, not 1"; got != strings.Replace(want, "not 1", "not a number", 1) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestQuoteHint(t *testing.T) {
	_, err := Parse([]byte("keyfile = /etc/x.key"), "k")
	if !strings.Contains(err.Error(), "text stands in double quotes") {
		t.Error(err)
	}
}

// Law 8: a secret that somebody put into the file all the same is refused, and not repeated.
func TestNoSecretInProblems(t *testing.T) {
	const canary = "hunter2CANARY"
	for name, text := range map[string]string{
		"url":           "[database]\nurl = \"postgres://u:" + canary + "@h/d\"",
		"url, query":    "[database]\nurl = \"postgres://h/d?user=u&password=" + canary + "\"",
		"url, ssl":      "[database]\nurl = \"postgres://h/d?sslpassword=" + canary + "\"",
		"url, broken":   "[database]\nurl = \"postgres://u:" + canary + "%zz@h/d\"",
		"url, words":    "[database]\nurl = \"host=h password=" + canary + "\"",
		"url, query 2":  "[database]\nurl = \"postgres://h/d?password=" + canary + ";\"",
		"vault":         "[[escrow]]\nname = \"v\"\nkind = \"vault-kv\"\naddress = \"https://u:" + canary + "@v\"\nmount = \"m\"\npath = \"p\"\ntoken_file = \"/t\"",
		"vault, broken": "[[escrow]]\nname = \"v\"\nkind = \"vault-kv\"\naddress = \"ttps://u:" + canary + "@v\"\nmount = \"m\"\npath = \"p\"\ntoken_file = \"/t\"",
		"endpoint":      gcp + "endpoint = \"u:" + canary + "@h:1\"",
		"identity":      usb + "recipients = [\"AGE-SECRET-KEY-1" + canary + "\"]",
		"identity 2":    usb + "seal_to = [\"age-secret-key-1" + canary + "\"]",
		"no quotes":     "[database]\nurl = " + canary,
		"no quotes 2":   "[database]\nurl = 5" + canary,
		"no quotes 3":   "[database]\nurl = -" + canary,
		"no quotes 4":   "[database]\nurl = true" + canary,
		"no equals":     "[database]\n" + canary,
		"bad escape":    "[database]\nurl = \"\\q" + canary + "\"",
		"bad escape 2":  "[database]\nurl = \"\\u" + canary + "\"",
		"one quote":     "[database]\nurl = \"" + canary + "\n",
		"two words":     "[database]\nurl = \"u\"" + canary,
		"ping":          "[notify]\nping_url = \"https://u:" + canary + "@h\"",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := wholly(Parse([]byte(text), "k"))
			if err == nil {
				t.Fatal("accepted")
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("error %q", err)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode fs.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good, tight := write("good", "secret", 0o600), write("tight", "secret", 0o400)
	loose, group, exec := write("loose", "secret", 0o644), write("group", "secret", 0o640), write("exec", "secret", 0o700)
	link := filepath.Join(dir, "link")
	program, odd := write("program", "#!/bin/sh", 0o755), write("odd", "#!/bin/sh", 0o777)
	if err := os.Symlink("loose", link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, text string
		want       []string // nil: none
	}{
		{"tight", vault + "role_id_file = \"" + good + "\"\nsecret_id_file = \"" + tight + "\"", nil},
		{"missing is for whoever reads it", vault + "token_file = \"/nonexistent/token\"", nil},
		{"url_file", "[database]\nurl_file = \"" + loose + "\"", []string{"line 2: database.url_file: " + loose + " has mode 0644"}},
		{"credentials_file", gcp + "credentials_file = \"" + group + "\"", []string{"line 6: escrow.credentials_file: " + group + " has mode 0640"}},
		{"token_file", vault + "token_file = \"" + link + "\"", []string{"line 7: escrow.token_file: " + link + " has mode 0644"}},
		{"AppRole", vault + "role_id_file = \"" + loose + "\"\nsecret_id_file = \"" + exec + "\"", []string{
			"line 7: escrow.role_id_file: ", "line 8: escrow.secret_id_file: "}},
		{"identity_file", usb + "identity_file = \"" + dir + "\"", []string{"line 5: escrow.identity_file: " + dir + " is not a regular file"}},
		{"programs", command + `save = ["` + program + `"]` + "\n" + `list = ["` + odd + `"]` + "\n" + `fetch = ["/nonexistent/fetch"]`, []string{
			"line 5: escrow.list: " + odd + ": others may write to it (mode 0777, owner "}},
		{"owner", "owner = \"no-such-user\"", []string{`line 1: owner: there is no user "no-such-user" on this host`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := write("keyguard.toml", c.text, 0o644)
			got, err := wholly(Load(path))
			if c.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				same(t, got, parsed(t, c.text))
				return
			}
			var p *Problems
			if !errors.As(err, &p) || len(p.List) != len(c.want) || p.File != path {
				t.Fatalf("error %v", err)
			}
			for i, w := range c.want {
				if !strings.HasPrefix(p.List[i].String(), w) {
					t.Errorf("got %q, want %q", p.List[i], w)
				}
			}
			if _, err := wholly(Parse([]byte(c.text), path)); err != nil {
				t.Errorf("Parse looks at the host: %v", err)
			}
		})
	}
	path := write("keyguard.toml", "owner = \"nobody\"", 0o644)
	c, err := Load(path)
	if err != nil || c.UID != 65534 {
		t.Errorf("owner nobody is %+v, %v", c, err)
	}
	if _, err := Load(filepath.Join(dir, "none.toml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	var p *Problems
	if _, err := Load(dir); !errors.As(err, &p) {
		t.Errorf("directory: %v", err)
	}
	if _, err := Load(write("big", strings.Repeat("#\n", maxSize), 0o644)); !errors.As(err, &p) {
		t.Errorf("huge: %v", err)
	}
}

func TestDigest(t *testing.T) {
	a, b := parsed(t, "# a\n"), parsed(t, "# b\n")
	if len(a.Digest) != 64 || a.Digest == b.Digest || a.Digest != parsed(t, "# a\n").Digest {
		t.Errorf("digests %q, %q", a.Digest, b.Digest)
	}
}

func TestInForce(t *testing.T) {
	for _, text := range []string{"", whole, "owner = \"ro\\u00f6t \\\"x\\\\\\n\"", "[daemon]\nunit = \"\"", "[drill]\ncopies = 7"} {
		want := parsed(t, text)
		out := want.InForce()
		got, err := wholly(Parse(out, "in force"))
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		same(t, got, want)
	}
}

func TestKeyfileOf(t *testing.T) {
	for text, want := range map[string]string{
		"":                               DefaultKeyfile,
		"keyfile = \"/a/b\"\n[[[":        "/a/b",
		"ownr=1\nkeyfile='/a/b'":         "/a/b",
		"[watch\nkeyfile = \"/a/b\"":     "/a/b", // the header hides it from the parser
		"keyfile = /a/b # here":          "/a/b",
		"keyfile = \"/a/b\n":             "/a/b",
		"keyfile = /a/b\"\r\n":           "/a/b",
		"keyfile=\"/a/b\"\nkeyfile=1":    "/a/b",
		"owner = \"\"\"\nkeyfile=\"/a\"": "/a",
		"keyfile = \"relative\"":         DefaultKeyfile,
		"keyfile = \"/\"":                DefaultKeyfile,
		"keyfile = 7":                    DefaultKeyfile,
		"keyfile = [\"/a\"]":             DefaultKeyfile,
		"# keyfile = \"/a\"":             DefaultKeyfile,
		"keyfiles = \"/a\"":              DefaultKeyfile,
		"\xef\xbb\xbfkeyfile = \"/a\"":   "/a",
		"\xff\xfe\x00k":                  DefaultKeyfile,
		"keyfile = \"/a\"\n" + strings.Repeat("a.", 100_000) + "a = 1": "/a",
	} {
		if got := KeyfileOf([]byte(text)); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := KeyfileOf([]byte(whole)); got != "/etc/containarium/other.key" {
		t.Error(got)
	}
}

func TestExpandHostname(t *testing.T) {
	for _, c := range []struct{ text, host, want string }{
		{"", "h", ""},
		{"# {hostname}\nsecret   =   \"a-{hostname}-b\" # {hostname}\n", "web1", "# {hostname}\nsecret   =   \"a-web1-b\" # {hostname}\n"},
		{"a = '{hostname}{hostname}'\r\n", "h", "a = 'hh'\r\n"},
		{"a = [\"{hostname}\",\n  '{hostname}' # {hostname}\n]\nb = {c = \"{hostname}\"}", "h", "a = [\"h\",\n  'h' # {hostname}\n]\nb = {c = \"h\"}"},
		{"\"{hostname}\" = 1", "h", "\"{hostname}\" = 1"},
		{"a = \"{hostname}\"", "web1.example.com", "a = \"web1-example-com\""},
		{"a = \"{hostname}\"", "x\"\nowner = \"y\\é", "a = \"x--owner----y--\""},
		{"a = \"\"\"\n{hostname}\n\"\"\"", "h", "a = \"\"\"\nh\n\"\"\""},
		{"a = \"none\"", "h", "a = \"none\""},
		{"\xef\xbb\xbfa = \"{hostname}\"", "h", "\xef\xbb\xbfa = \"h\""},
		{"broken = \nb = \"{hostname}\"\n", "h", "broken = \nb = \"h\"\n"},
	} {
		if got := string(ExpandHostname([]byte(c.text), c.host)); got != c.want {
			t.Errorf("%q: got %q, want %q", c.text, got, c.want)
		}
	}
	c := parsed(t, string(ExpandHostname([]byte(whole), "web1")))
	want := wholeConfig()
	want.Escrows[0].Secret = "containarium-web1-secrets-master"
	want.Escrows[1].Path = "hosts/web1/secrets-master"
	want.Escrows[5].Save[2] = "web1"
	same(t, c, want)
}

func seeds(f *testing.F) {
	for _, s := range []string{"", "owner = \"\"", whole, usb + gcp + vault + command, "keyfile = /a", "[a\n[[b]]\n[b]\nc.d.e = {f=[1,\"x\"]}\n[b.c]\n",
		"a = \"\"\"\n", "a = [\n[\n{b=", "keyfile = \"/x\"\nkeyfile = \"/y\"", "\xef\xbb\xbf\xff", "a.b.c = 1\n[a]\nb.c = 2\n[a.b.c.d]\n[[a.b]]"} {
		f.Add([]byte(s))
	}
}

// Whatever the file holds: no panic, each problem within the file, and what is
// accepted can be written and read back.
func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := wholly(Parse(data, "fuzz"))
		if err != nil {
			var p *Problems
			if !errors.As(err, &p) || len(p.List) == 0 {
				t.Fatalf("error %v", err)
			}
			last := 0
			for _, one := range p.List {
				if one.Line < last || one.Line > 1+bytes.Count(data, []byte("\n")) || one.What == "" {
					t.Fatalf("problem %+v after line %d", one, last)
				}
				last = one.Line
			}
			return
		}
		if got := KeyfileOf(data); got != c.Keyfile {
			t.Fatalf("KeyfileOf %q, Parse %q", got, c.Keyfile)
		}
		again, err := wholly(Parse(c.InForce(), "in force"))
		if err != nil {
			t.Fatalf("%v\n%s", err, c.InForce())
		}
		if string(again.InForce()) != string(c.InForce()) {
			t.Fatalf("%s\n%s", c.InForce(), again.InForce())
		}
		if strings.Contains(string(data), "\\") {
			return // an escape can hide the word from the replacement
		}
		if e, err := Parse(ExpandHostname(data, "web1"), "expanded"); err == nil {
			for _, s := range e.Escrows {
				if strings.Contains(fmt.Sprint(s), "{hostname}") {
					t.Fatalf("not expanded: %+v", s)
				}
			}
		}
	})
}

// A broken file always yields some keyfile to guard (law 9).
func FuzzKeyfileOf(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		if got := KeyfileOf(data); !usablePath(got) {
			t.Fatalf("%q", got)
		}
		ExpandHostname(data, "h")
	})
}

func BenchmarkLoad(b *testing.B) {
	for name, text := range map[string]string{"whole": whole, "empty": ""} {
		b.Run(name, func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "keyguard.toml")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Load(path); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The file that ships says nothing but the defaults, names every key, and stays valid
// when what it comments out is put in force.
func TestShippedFile(t *testing.T) {
	text, err := os.ReadFile("../../etc/keyguard.toml")
	if err != nil {
		t.Fatal(err)
	}
	same(t, parsed(t, string(text)), Default())

	// A setting begins right behind the #, prose with a space.
	var all strings.Builder
	for line := range strings.Lines(string(text)) {
		if len(line) > 1 && line[0] == '#' && line[1] != ' ' && line[1] != '\n' {
			line = line[1:]
		}
		all.WriteString(line)
	}
	// Nobody's key to seal to by mistake: the example must be filled in.
	if _, err := wholly(Parse([]byte(all.String()), "k")); err == nil || !strings.Contains(err.Error(), "escrow.recipients: number 1 is no age recipient") {
		t.Errorf("the example recipient: %v", err)
	}
	c := parsed(t, strings.Replace(all.String(), `recipients = ["age1…"]`, "", 1))
	var got []string
	for _, s := range c.Escrows {
		got = append(got, s.Kind)
	}
	// A split stands there as prose: its members are the others.
	if want := slices.DeleteFunc(kindNames(), func(k string) bool { return k == Split }); !reflect.DeepEqual(got, want) {
		t.Errorf("examples of %v, want %v", got, want)
	}
	c.Escrows = nil
	same(t, c, Default())
	for _, v := range []any{Config{}, Daemon{}, Database{}, Prestart{}, Watch{}, Drill{}, Notify{}, Escrow{}} {
		for _, k := range keysOf(reflect.TypeOf(v)) {
			if !strings.Contains(string(text), k) {
				t.Errorf("it does not name %q", k)
			}
		}
	}
}

func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyguard.toml")
	if err := Replace(path, []byte("# new\n")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if err := os.WriteFile(path, []byte("# old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 0, 65534); err != nil {
		t.Fatal(err)
	}
	if err := Replace(path, []byte("# new\n")); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || string(b) != "# new\n" {
		t.Errorf("%q, %v", b, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o640 || info.Sys().(*syscall.Stat_t).Gid != 65534 {
		t.Errorf("%v, %v", info, err)
	}
	link := filepath.Join(t.TempDir(), "keyguard.toml")
	if err := errors.Join(os.Symlink(path, link), Replace(link, []byte("# newer\n"))); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "# newer\n" {
		t.Errorf("by a symlink: %q", b)
	}
	if to, err := os.Readlink(link); to != path {
		t.Errorf("the symlink is %q, %v", to, err)
	}
}

// TestAppend: what is appended reads back as it was meant, and nothing else changes.
func TestAppend(t *testing.T) {
	want := wholeConfig().Escrows
	data := []byte("# ours\nkeyfile = \"/k\"") // no newline at its end
	for _, e := range want {
		data = Append(data, "one\ntwo", e)
	}
	if !strings.HasPrefix(string(data), "# ours\nkeyfile = \"/k\"\n\n# one\n# two\n[[escrow]]\n") {
		t.Errorf("%s", data)
	}
	got := parsed(t, string(data))
	if !reflect.DeepEqual(got.Escrows, want) {
		t.Errorf("%+v\nwant\n%+v", got.Escrows, want)
	}
}

func TestNewEscrow(t *testing.T) {
	e, err := NewEscrow("name=usb", "kind=directory", "path=/mnt/a=b", "recipients=age1a  age1b", "allow_same_disk=true", "required=false")
	want := Escrow{Name: "usb", Kind: "directory", Path: "/mnt/a=b", Recipients: []string{"age1a", "age1b"}, AllowSameDisk: true, Readable: true}
	if err != nil || !reflect.DeepEqual(e, want) {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err := NewEscrow("name=x"); err != nil || !e.Required {
		t.Errorf("%+v, %v: an escrow is required unless it says otherwise", e, err)
	}
	for _, bad := range []string{"usb", "pth=/x", "required=perhaps"} {
		if _, err := NewEscrow(bad); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

// TestParseHereLooksAtNothing where somebody has to say first that what the file names may be looked at: however
// the names are written, and programs, too.
func TestParseHereLooksAtNothing(t *testing.T) {
	text := `[database]
url_file = '/a/url'
[[escrow]]
name = "v"
kind = "vault-kv"
address = "https://vault.example"
mount = "m"
path = "p"
"token_file" = "/b/token"
[[escrow]]
name = "c"
kind = "command"
save = ["/c/save"]
list = ["/c/list"]
fetch = ["bare"]
identity_file = """/d/identity"""
`
	var asked []string
	cfg, err := ParseHere([]byte(text), "x", func(paths ...string) bool { asked = paths; return false })
	if cfg != nil || !errors.Is(err, ErrNotLookedAt) {
		t.Errorf("%v, %v", cfg, err)
	}
	slices.Sort(asked)
	if want := []string{"/a/url", "/b/token", "/c/list", "/c/save", "/d/identity"}; !slices.Equal(asked, want) {
		t.Errorf("it asked for %q", asked)
	}
}
