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
		// The daemon's lines have Go's time stamp in front.
		message = strings.Replace(message, `"`, `"2026/11/27 16:04:28 `, 1)
		return `{"__CURSOR":"s=1;i=2","__REALTIME_TIMESTAMP":"1790000000123456","_SYSTEMD_INVOCATION_ID":"abc","_PID":"7","MESSAGE":` + message + `}`
	}
	for _, c := range []struct {
		name, line string
		want       Line
	}{
		{"minted", entry(`"[secrets] NEW MASTER KEY generated at /etc/containarium/secrets.key — back this up off-host, losing it means every stored secret is unrecoverable ciphertext"`), Line{Minted, "abc", 7, at}},
		{"ready, no envelope", entry(`"Secrets store ready (file-keyed AES-256-GCM, envelope: disabled (CONTAINARIUM_KMS_BACKEND=none))"`), Line{Ready, "abc", 7, at}},
		{"ready, inproc", entry(`"Secrets store ready (file-keyed AES-256-GCM, envelope: inproc (master-key envelope, dev/test))"`), Line{Ready, "abc", 7, at}},
		{"ready, vault", entry(`"Secrets store ready (file-keyed AES-256-GCM, envelope: vault transit (https://v:8200|t|k))"`), Line{Ready, "abc", 7, at}},
		{"parked", entry(`"Warning: Failed to load secrets master key: secrets: master key must be exactly 32 bytes (file /etc/containarium/secrets.key has 0 bytes). Secrets disabled."`), Line{Empty, "abc", 7, at}},
		{"short", entry(`"Warning: Failed to load secrets master key: secrets: master key must be exactly 32 bytes (file /etc/containarium/secrets.key has 31 bytes). Secrets disabled."`), Line{Failed, "abc", 7, at}},
		{"ten bytes are not none", entry(`"Warning: Failed to load secrets master key: secrets: master key must be exactly 32 bytes (file /etc/containarium/secrets.key has 10 bytes). Secrets disabled."`), Line{Failed, "abc", 7, at}},
		{"loose", entry(`"Warning: Failed to load secrets master key: master key /etc/containarium/secrets.key has insecure permissions 0644 (want 0400). Secrets disabled."`), Line{Failed, "abc", 7, at}},
		{"ready, legacy rows rejected", entry(`"Secrets store ready (file-keyed AES-256-GCM, envelope: aws kms (eu|k)) [legacy-rejected]"`), Line{Ready, "abc", 7, at}},
		{"no cipher", entry(`"Failed to construct secrets cipher: x"`), Line{Disabled, "abc", 7, at}},
		{"no store", entry(`"Warning: Failed to init secrets store: timeout. Secrets disabled."`), Line{Disabled, "abc", 7, at}},
		{"no KMS", entry(`"Warning: KMS backend config error: x. Secrets store falling back to legacy mode."`), Line{Loaded, "abc", 7, at}},
		{"no envelope", entry(`"FATAL: CONTAINARIUM_REQUIRE_ENVELOPE=true but no KMS backend is configured. Secrets disabled."`), Line{Disabled, "abc", 7, at}},
		{"no Postgres", entry(`"Warning: Failed to connect to Postgres for secrets store: dial tcp"`), Line{Untouched, "abc", 7, at}},
		{"a tenant's words, in a line of the daemon's", entry(`"login of user Secrets store ready (x refused"`), Line{}},
		{"a tenant's words, as if it failed", entry(`"user: Warning: Failed to load secrets master key: (file x has 0 bytes). Secrets disabled."`), Line{}},
		{"no time stamp", `{"_SYSTEMD_INVOCATION_ID":"abc","_PID":"7","MESSAGE":"Secrets store ready (x)"}`, Line{}},
		{"text before the time stamp", `{"_SYSTEMD_INVOCATION_ID":"abc","_PID":"7","MESSAGE":" 2026/11/27 16:04:28 Secrets store ready (x)"}`, Line{}},
		{"a row", entry(`"secrets: ciphertext authentication failed (tampered or wrong key?)"`), Line{}},
		{"systemd starts it", `{"MESSAGE":"Starting containarium.service...","MESSAGE_ID":"7d4958e842da4a758f6c1cdc7b36dcc5","INVOCATION_ID":"def","_SYSTEMD_INVOCATION_ID":"of systemd","__REALTIME_TIMESTAMP":"1790000000123456"}`, Line{Starting, "def", 0, at}},
		{"systemd has started it", `{"MESSAGE":"Started.","MESSAGE_ID":"39f53479d3a045ac8e11786248231fbf","INVOCATION_ID":"def"}`, Line{Said: Starting, Invocation: "def"}},
		{"systemd stops it", `{"MESSAGE":"Stopping.","MESSAGE_ID":"de5b426a63be47a7b6ac3eaac82e2f6f","INVOCATION_ID":"def"}`, Line{}},
		{"not UTF-8", entry(`[83,101,99,114,101,116,115,32,115,116,111,114,101,32,114,101,97,100,121,255]`), Line{}},
		{"several messages of one name", entry(`["Secrets store ready","x"]`), Line{}},
		{"no message", entry(`null`), Line{}},
		{"of no invocation", `{"MESSAGE":"2026/11/27 16:04:28 Secrets store ready (x)","__REALTIME_TIMESTAMP":"1790000000123456"}`, Line{}},
		{"a time that is none", `{"MESSAGE":"2026/11/27 16:04:28 Secrets store ready (x)","_SYSTEMD_INVOCATION_ID":"abc","__REALTIME_TIMESTAMP":"soon"}`, Line{Said: Ready, Invocation: "abc"}},
		{"no JSON", `-- No entries --`, Line{}},
		{"empty", ``, Line{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, _, ok := parseLine([]byte(c.line))
			if ok != (c.want.Said != "") || ok && (l.Said != c.want.Said || l.PID != c.want.PID || l.Invocation != c.want.Invocation || !l.Time.Equal(c.want.Time)) {
				t.Errorf("%+v, %v", l, ok)
			}
		})
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte(`{"__CURSOR":"s=1","MESSAGE":"2026/11/27 16:04:28 Secrets store ready (x)","_SYSTEMD_INVOCATION_ID":"abc"}`))
	f.Add([]byte(`{"MESSAGE":[1,2,"x"],"__REALTIME_TIMESTAMP":"-9223372036854775808"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if l, _, ok := parseLine(text); ok && (l.Said == "" || l.Invocation == "") {
			t.Errorf("%+v", l)
		}
	})
}

// TestFollow plays a journalctl that has a past and a present, and a daemon whose children
// say what it might say itself.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	script := `#!/bin/sh
echo "$@" >> ` + dir + `/calls
say() { echo '{"__CURSOR":"'$1'","_SYSTEMD_INVOCATION_ID":"'$2'","_PID":"'$3'","MESSAGE":"2026/11/27 16:04:28 '"$4"'"}'; }
start() { echo '{"__CURSOR":"'$1'","MESSAGE_ID":"7d4958e842da4a758f6c1cdc7b36dcc5","INVOCATION_ID":"'$2'"}'; }
empty='Warning: Failed to load secrets master key: (file x has 0 bytes). Secrets disabled.'
case "$*" in
*--follow*)
	say c5 2 22 "$empty"
	say c6 1 10 "$empty"
	say c7 2 20 'Secrets store ready (x)'
	exec sleep 100;;
*)
	start c1 1
	say c2 1 10 "$empty"
	start c3 2
	say c4 2 21 "$empty"
	say c4 2 20 'nothing of note'
	say c4 2 20 'Warning: KMS backend config error: x'
	say c4 2 20 'Warning: KMS backend config error: x';;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "journalctl"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KEYGUARD_BOOT_ID", "0123456789abcdef0123456789abcdef")
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	names := []string{"a.service", "b.service"}
	asked := 0
	main := func(_ context.Context, invocation string, of []string) (int, error) {
		if asked++; !slices.Equal(of, names) {
			t.Errorf("asked about %q", of)
		}
		return map[string]int{"2": 20}[invocation], nil // of an earlier one systemd knows nothing
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var said []Said
	err := follow(ctx, names, main, func(l Line) {
		if said = append(said, l.Said); l.Said == Ready {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if want := []Said{Starting, Loaded, CaughtUp, Ready}; !slices.Equal(said, want) {
		t.Errorf("%q instead of %q", said, want)
	}
	if asked > 3 { // of 2, of 1, and of 2 again
		t.Errorf("systemd was asked %d times", asked)
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	past, present, _ := strings.Cut(string(calls), "\n")
	if !strings.Contains(past, "0123456789abcdef0123456789abcdef") || strings.Contains(past, "--follow") || !strings.Contains(past, "--unit=a.service --unit=b.service") {
		t.Errorf("the past: %s", past)
	}
	if !strings.Contains(present, "--after-cursor=c4") || !strings.Contains(present, "--lines=all") {
		t.Errorf("the present: %s", present)
	}

	// Where systemd does not say which process the daemon is, nobody knows whose words these are.
	silent := errors.New("no answer")
	err = follow(context.Background(), names, func(context.Context, string, []string) (int, error) { return 0, silent }, func(l Line) {
		if l.Said != Starting {
			t.Errorf("%+v", l)
		}
	})
	if !errors.Is(err, silent) {
		t.Error(err)
	}

	if err := os.WriteFile(filepath.Join(dir, "journalctl"), []byte("#!/bin/sh\necho no such boot >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	err = Follow(context.Background(), nil, func(l Line) { t.Errorf("%+v", l) })
	if err == nil || !strings.Contains(err.Error(), "no such boot") {
		t.Error(err)
	}
}

// TestFollowWithoutAHook: of a start that has no ExecStartPre= systemd says only that it was
// made, or journald has dropped even that. What the daemon tells then is of that start, and not
// of the one before.
func TestFollowWithoutAHook(t *testing.T) {
	const ready = `echo '{"_SYSTEMD_INVOCATION_ID":"%","_PID":"%0","MESSAGE":"2026/11/27 16:04:28 Secrets store ready (x)"}'` + "\n"
	const starting = `echo '{"MESSAGE_ID":"7d4958e842da4a758f6c1cdc7b36dcc5","INVOCATION_ID":"%"}'` + "\n"
	const started = `echo '{"MESSAGE_ID":"39f53479d3a045ac8e11786248231fbf","INVOCATION_ID":"%"}'` + "\n"
	of := func(invocation string, lines ...string) string {
		return strings.ReplaceAll(strings.Join(lines, ""), "%", invocation)
	}
	first := of("1", starting, started, ready)
	for name, tt := range map[string]struct {
		past, present string
		want          []string
	}{
		"in the past":                           {first + of("2", started, ready), "", []string{"starting 2", "ready 2", "caught up "}},
		"in the past, told late":                {first + of("2", ready, started), "", []string{"starting 2", "ready 2", "caught up "}},
		"in the past, not told":                 {first + of("2", ready), "", []string{"starting 1", "starting 2", "ready 2", "caught up "}},
		"now":                                   {first, of("2", started, ready), []string{"starting 1", "caught up ", "starting 2", "ready 2"}},
		"now, told late":                        {first, of("2", ready, started), []string{"starting 1", "caught up ", "starting 2", "ready 2"}},
		"now, and the one before says the last": {first, of("2", ready) + of("1", ready) + of("2", ready), []string{"starting 1", "caught up ", "starting 2", "ready 2", "ready 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			script := "#!/bin/sh\ncase \"$*\" in *--follow*)\n" + tt.present + "echo over >&2; exit 1;;\n*)\n" + tt.past + ";;\nesac\n"
			if err := os.WriteFile(filepath.Join(dir, "journalctl"), []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			main := func(_ context.Context, invocation string, _ []string) (int, error) {
				return map[string]int{"2": 20}[invocation], nil
			}
			var said []string
			err := follow(t.Context(), nil, main, func(l Line) { said = append(said, string(l.Said)+" "+l.Invocation) })
			if err == nil || !slices.Equal(said, tt.want) {
				t.Errorf("%q instead of %q, %v", said, tt.want, err)
			}
		})
	}
}
