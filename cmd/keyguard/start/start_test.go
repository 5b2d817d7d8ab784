package start

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/ledger"
	"github.com/footprintai/containarium-keyguard/agent/rows"
)

// TestPass: a start passes a key that is known and was proven lately, and leaves a note of it; and nothing
// passes of which there is anything to do, or to say.
func TestPass(t *testing.T) {
	const escrows = "[[escrow]]\nname = \"usb\"\nkind = \"directory\"\npath = \"/mnt/usb\"\n"
	for name, c := range map[string]struct {
		escrows string
		change  func(t *testing.T, dir string)
		passes  bool
	}{
		"all is well": {escrows, func(*testing.T, string) {}, true},
		"a key in parts": {escrows + "[[escrow]]\nname = \"parts\"\nkind = \"split\"\nneed = 2\nmembers = [\"a\", \"b\"]\n" +
			"[[escrow]]\nname = \"a\"\nkind = \"directory\"\npath = \"/mnt/a\"\npart = 1\n" +
			"[[escrow]]\nname = \"b\"\nkind = \"directory\"\npath = \"/mnt/b\"\npart = 2\n", func(*testing.T, string) {}, true},
		"no escrow":                              {"", func(*testing.T, string) {}, false},
		"an escrow that cannot be used":          {escrows + "[[escrow]]\nname = \"v\"\nkind = \"vault-kv\"\n", func(*testing.T, string) {}, false},
		"another database in the environment":    {escrows, func(t *testing.T, _ string) { t.Setenv("CONTAINARIUM_POSTGRES_URL", "postgres://other/db") }, false},
		"no keyfile":                             {escrows, func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "secrets.key"))) }, false},
		"no configuration":                       {escrows, func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "keyguard.toml"))) }, false},
		"a configuration that others may change": {escrows, func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, "keyguard.toml"), 0o666)) }, false},
		"a state directory by a link, which may lead anywhere": {escrows, func(t *testing.T, dir string) {
			must(t, os.Rename(filepath.Join(dir, "state"), filepath.Join(dir, "elsewhere")))
			must(t, os.Symlink("elsewhere", filepath.Join(dir, "state")))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "keyguard.toml")
			text := "keyfile = \"DIR/secrets.key\"\nstate_dir = \"DIR/state\"\nrun_dir = \"DIR/run\"\n" + c.escrows
			must(t, os.WriteFile(path, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o600))
			must(t, os.Mkdir(filepath.Join(dir, "run"), 0o700))
			k := key.Generate()
			must(t, os.WriteFile(filepath.Join(dir, "secrets.key"), k.UnsafeBytes(), 0o400))
			cfg, _, err := Local(path)
			must(t, err)
			must(t, rows.SaveRecord(DatabaseRecord(cfg), Inherited()))
			must(t, Host(cfg, "").Ledger.Append(ledger.Entry{Event: ledger.Proven, Fingerprint: k.Fingerprint(), Time: time.Now(), Verdict: "opens", Checked: 1, Opened: 1}))
			c.change(t, dir)
			t.Setenv("INVOCATION_ID", "0123456789abcdef0123456789abcdef")
			if passes := pass(path); passes != c.passes {
				t.Errorf("it passes: %t", passes)
			}
			note, err := os.ReadFile(filepath.Join(dir, "run", startRecord))
			if noted := err == nil && strings.Contains(string(note), string(k.Fingerprint())); noted != c.passes {
				t.Errorf("what it left is noted: %t, %v", noted, err)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
