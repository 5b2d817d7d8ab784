package unit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestParseLine reads what journalctl --output=json prints of the daemon's own lines.
func TestParseLine(t *testing.T) {
	at := time.UnixMicro(1790000000123456)
	entry := func(message string) string {
		return `{"__CURSOR":"s=1;i=2","__REALTIME_TIMESTAMP":"1790000000123456","_SYSTEMD_INVOCATION_ID":"abc","MESSAGE":` + message + `}`
	}
	for _, c := range []struct {
		name, line string
		want       Line
	}{
		{"minted", entry(`"[secrets] NEW MASTER KEY generated at /etc/containarium/secrets.key — back this up off-host, losing it means every stored secret is unrecoverable ciphertext"`), Line{Minted, "abc", at}},
		{"with the time before it", entry(`"2026/03/01 12:00:00 [secrets] NEW MASTER KEY generated at /etc/containarium/secrets.key — back this up off-host"`), Line{Minted, "abc", at}},
		{"ready, no envelope", entry(`"Secrets store ready (file-keyed AES-256-GCM, envelope: disabled (CONTAINARIUM_KMS_BACKEND=none))"`), Line{Ready, "abc", at}},
		{"ready, inproc", entry(`"Secrets store ready (file-keyed AES-256-GCM, envelope: inproc (master-key envelope, dev/test))"`), Line{Ready, "abc", at}},
		{"ready, vault", entry(`"Secrets store ready (file-keyed AES-256-GCM, envelope: vault transit (https://v:8200|t|k))"`), Line{Ready, "abc", at}},
		{"parked", entry(`"Warning: Failed to load secrets master key: secrets: master key must be exactly 32 bytes (file /etc/containarium/secrets.key has 0 bytes). Secrets disabled."`), Line{Empty, "abc", at}},
		{"short", entry(`"Warning: Failed to load secrets master key: secrets: master key must be exactly 32 bytes (file /etc/containarium/secrets.key has 31 bytes). Secrets disabled."`), Line{Failed, "abc", at}},
		{"ten bytes are not none", entry(`"Warning: Failed to load secrets master key: secrets: master key must be exactly 32 bytes (file /etc/containarium/secrets.key has 10 bytes). Secrets disabled."`), Line{Failed, "abc", at}},
		{"loose", entry(`"Warning: Failed to load secrets master key: master key /etc/containarium/secrets.key has insecure permissions 0644 (want 0400). Secrets disabled."`), Line{Failed, "abc", at}},
		{"no Postgres", entry(`"Warning: Failed to connect to Postgres for secrets store: dial tcp"`), Line{}},
		{"a row", entry(`"secrets: ciphertext authentication failed (tampered or wrong key?)"`), Line{}},
		{"systemd starts it", `{"MESSAGE":"Starting containarium.service...","MESSAGE_ID":"7d4958e842da4a758f6c1cdc7b36dcc5","INVOCATION_ID":"def","_SYSTEMD_INVOCATION_ID":"of systemd","__REALTIME_TIMESTAMP":"1790000000123456"}`, Line{Starting, "def", at}},
		{"systemd of another unit", `{"MESSAGE":"Started.","MESSAGE_ID":"39f53479d3a045ac8e11786248231fbf","INVOCATION_ID":"def"}`, Line{}},
		{"not UTF-8", entry(`[83,101,99,114,101,116,115,32,115,116,111,114,101,32,114,101,97,100,121,255]`), Line{}},
		{"several messages of one name", entry(`["Secrets store ready","x"]`), Line{}},
		{"no message", entry(`null`), Line{}},
		{"of no invocation", `{"MESSAGE":"Secrets store ready","__REALTIME_TIMESTAMP":"1790000000123456"}`, Line{}},
		{"a time that is none", `{"MESSAGE":"Secrets store ready","_SYSTEMD_INVOCATION_ID":"abc","__REALTIME_TIMESTAMP":"soon"}`, Line{Said: Ready, Invocation: "abc"}},
		{"no JSON", `-- No entries --`, Line{}},
		{"empty", ``, Line{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, _, ok := parseLine([]byte(c.line))
			if ok != (c.want.Said != "") || ok && (l.Said != c.want.Said || l.Invocation != c.want.Invocation || !l.Time.Equal(c.want.Time)) {
				t.Errorf("%+v, %v", l, ok)
			}
		})
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte(`{"__CURSOR":"s=1","MESSAGE":"Secrets store ready","_SYSTEMD_INVOCATION_ID":"abc"}`))
	f.Add([]byte(`{"MESSAGE":[1,2,"x"],"__REALTIME_TIMESTAMP":"-9223372036854775808"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if l, _, ok := parseLine(text); ok && (l.Said == "" || l.Invocation == "") {
			t.Errorf("%+v", l)
		}
	})
}

// TestFollow plays a journalctl that has a past and a present.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	script := `#!/bin/sh
echo "$@" >> ` + dir + `/calls
case "$*" in
*--follow*)
	echo '{"__CURSOR":"c3","MESSAGE":"Secrets store ready","_SYSTEMD_INVOCATION_ID":"2"}'
	exec sleep 100;;
*)
	echo '{"__CURSOR":"c1","MESSAGE_ID":"7d4958e842da4a758f6c1cdc7b36dcc5","INVOCATION_ID":"2"}'
	echo '{"__CURSOR":"c2","MESSAGE":"nothing of note","_SYSTEMD_INVOCATION_ID":"2"}';;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "journalctl"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KEYGUARD_BOOT_ID", "0123456789abcdef0123456789abcdef")
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var said []Said
	err := Follow(ctx, []string{"a.service", "b.service"}, func(l Line) {
		if said = append(said, l.Said); l.Said == Ready {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if want := []Said{Starting, CaughtUp, Ready}; !slices.Equal(said, want) {
		t.Errorf("%q instead of %q", said, want)
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	past, present, _ := strings.Cut(string(calls), "\n")
	if !strings.Contains(past, "0123456789abcdef0123456789abcdef") || strings.Contains(past, "--follow") || !strings.Contains(past, "--unit=a.service --unit=b.service") {
		t.Errorf("the past: %s", past)
	}
	if !strings.Contains(present, "--after-cursor=c2") || !strings.Contains(present, "--lines=all") {
		t.Errorf("the present: %s", present)
	}

	if err := os.WriteFile(filepath.Join(dir, "journalctl"), []byte("#!/bin/sh\necho no such boot >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	err = Follow(context.Background(), nil, func(l Line) { t.Errorf("%+v", l) })
	if err == nil || !strings.Contains(err.Error(), "no such boot") {
		t.Error(err)
	}
}
