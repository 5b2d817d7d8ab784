package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/packaging/testing/brief"
)

// screen is what a terminal of 80 columns was sent by a command, which answers were typed to.
func screen(t *testing.T, dir string, environ, answers []string, args ...string) string {
	t.Helper()
	c := exec.Command("keyguard", args...)
	c.Env = append(append(os.Environ(), "KEYGUARD_CONFIG="+filepath.Join(dir, "keyguard.toml"), "GCE_METADATA_HOST=127.0.0.1:1", "SUDO_USER=olga"), environ...)
	control := startOnTerminal(t, c)
	shown := ""
	for b := make([]byte, 4096); ; {
		n, err := control.Read(b) // EIO when nobody has the terminal any more
		if err != nil {
			break
		}
		shown += string(b[:n])
		if len(answers) > 0 && asking.MatchString(shown) {
			if _, err := control.WriteString(answers[0] + "\n"); err != nil {
				t.Fatal(err)
			}
			answers = answers[1:]
		}
	}
	c.Wait() // what it ends with is the scripts' business
	if c.ProcessState.ExitCode() < 0 || len(answers) > 0 {
		t.Errorf("%s: %v, not asked for %q after\n%s", args, c.ProcessState, answers, shown)
	}
	return strings.ReplaceAll(shown, "\r\n", "\n")
}

// asking is the end of what waits for an answer.
var asking = regexp.MustCompile(`(\[y/N\]|[^d]:) $`)

var escapes = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")

// TestScreens: nothing that a person sees is wider than a terminal of 80 columns, but for a
// path or a name, which is longer as a whole. Colour and lines that change are for
// terminals that can, and for people who did not ask for none.
func TestScreens(t *testing.T) {
	shared := &server{}
	t.Cleanup(shared.stop)
	for name, tt := range map[string]struct {
		environ               []string
		colours, changes, all bool
	}{
		"colour":   {[]string{"TERM=xterm", "NO_COLOR="}, true, true, true},
		"NO_COLOR": {[]string{"TERM=xterm", "NO_COLOR=1"}, false, true, false},
		"dumb":     {[]string{"TERM=dumb", "NO_COLOR="}, false, false, false},
		"no TERM":  {[]string{"TERM=", "NO_COLOR="}, false, false, false},
	} {
		if brief.Run() && !tt.all {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &sandbox{dir: t.TempDir(), shared: shared}
			if err := s.furnish(); err != nil {
				t.Fatal(err)
			}
			defer s.close()
			a, b := testKey("a"), testKey("b")
			if err := os.WriteFile(s.path("etc/secrets.key"), a.UnsafeBytes(), 0o400); err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				if err := s.db.Upsert(a, "tenant", fmt.Sprintf("SECRET_%d", i), []byte("value")); err != nil {
					t.Fatal(err)
				}
			}
			if err := unix.Mount("keyguard-test", s.path("run"), "tmpfs", 0, "size=1m,mode=0700"); err != nil {
				t.Fatal(err)
			}
			s.mounts = append(s.mounts, s.path("run"))
			whole, err := os.ReadFile(s.path("keyguard.toml"))
			if err != nil {
				t.Fatal(err)
			}
			none, _, _ := strings.Cut(string(whole), "[[escrow]]")
			configure := func(text string) {
				if err := os.WriteFile(s.path("keyguard.toml"), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			painted, changed := false, false
			look := func(wanted string, answers []string, args ...string) {
				t.Helper()
				shown := screen(t, s.dir, tt.environ, answers, args...)
				painted = painted || strings.Contains(shown, "\x1b[3")
				changed = changed || strings.Contains(shown, "\r")
				if !tt.changes && strings.ContainsAny(shown, "\r\x1b") {
					t.Errorf("%s: %q", args, shown)
				}
				if !strings.Contains(strings.Join(strings.Fields(escapes.ReplaceAllString(shown, "")), " "), wanted) {
					t.Errorf("%s does not show %q:\n%s", args, wanted, shown)
				}
				for _, line := range strings.FieldsFunc(shown, func(r rune) bool { return r == '\r' || r == '\n' }) {
					line = escapes.ReplaceAllString(line, "")
					words := strings.Fields(line)
					if n := utf8.RuneCountInString(line); n > width && len(words) > 2 {
						t.Errorf("%s: %d columns: %s", args, n, line)
					}
				}
			}
			defer func() {
				if painted != tt.colours {
					t.Errorf("coloured: %v", painted)
				}
				if changed != tt.changes {
					t.Errorf("lines that change: %v", changed)
				}
			}()
			configure(none)
			look("1 Google Cloud Secret Manager", []string{"3", "usb", s.path("usb"), "", "n", "6", "n"}, "init")
			configure(string(whole))
			look("survives keyfile deleted", []string{"", "y"}, "init")
			look("green: key", nil, "status")
			look("cloud project deleted", nil, "doctor")
			look("drill", nil, "drill")
			look("downtime", []string{"y"}, "rotate")
			if !tt.all {
				return
			}
			look("current", nil, "copies")
			look("opens all 3 rows", nil, "verify")
			look("stays", nil, "restore", "--dry-run")
			look("saved as", nil, "backup")
			look("dry run: nothing was changed", nil, "rotate", "--dry-run")
			look("not confirmed", []string{"n"}, "rotate")
			look("passed", nil, "drill", "--full")
			look("Vouch for key", []string{"n"}, "accept")
			look("drills", nil, "report")

			// A key that opens nothing, and one more that opens a row.
			os.Remove(s.path("etc/secrets.key"))
			if err := os.WriteFile(s.path("etc/secrets.key"), b.UnsafeBytes(), 0o400); err != nil {
				t.Fatal(err)
			}
			look("doubt", nil, "status")
			look("doctor:", nil, "doctor")
			look("quarantine", nil, "backup")
			look("went to quarantine", nil, "backup")
			look("keyguard restore", nil, "verify")
			look("drill", nil, "drill")
			look("is in place", nil, "restore")
			if err := s.db.Upsert(b, "tenant", "SECRET_0", []byte("value")); err != nil {
				t.Fatal(err)
			}
			look("split", nil, "status")
			look("Stop the daemon", []string{"n"}, "repair")
			look("repaired", []string{"y"}, "repair")
			configure(string(whole) + "[[escrow]]\nname = \"second\"\nkind = \"directory\"\npath = \"/nonexistent\"\n")
			look("cannot answer", nil, "copies")
			look("lagging", nil, "status")
			look("inconclusive", nil, "drill")
			configure(string(whole) + "[[escrw]]\nname = \"second\"\n")
			look("did you mean", nil, "status")
			look("did you mean", nil, "statsu")
		})
	}
}

// TestStatusWatched: status --watch shows how the key stands until a person has seen enough,
// and ends as status would.
func TestStatusWatched(t *testing.T) {
	t.Parallel()
	shared := &server{}
	t.Cleanup(shared.stop)
	s := &sandbox{dir: t.TempDir(), shared: shared}
	if err := s.furnish(); err != nil {
		t.Fatal(err)
	}
	defer s.close()
	c := exec.Command("keyguard", "status", "--watch")
	c.Env = append(os.Environ(), "KEYGUARD_CONFIG="+s.path("keyguard.toml"), "TERM=xterm", "NO_COLOR=1")
	control := startOnTerminal(t, c)
	shown := ""
	for b := make([]byte, 4096); ; {
		n, err := control.Read(b)
		if err != nil {
			break
		}
		before := strings.Count(shown, "Ctrl-C ends this")
		// Once: the terminal shows what is typed, and a second one ends it as a signal does.
		if shown += string(b[:n]); before < 2 && strings.Count(shown, "Ctrl-C ends this") >= 2 {
			control.WriteString("\x03")
		}
	}
	c.Wait()
	// No key, and an escrow that was never made.
	if code := c.ProcessState.ExitCode(); code != exitDoubt || strings.Count(shown, "\x1b[H\x1b[2J") < 2 || strings.Count(shown, "doubt: ") < 2 {
		t.Errorf("%v after %q", c.ProcessState, shown)
	}
}

// TestHelpFits: the help of every command is as wide as a terminal.
func TestHelpFits(t *testing.T) {
	for _, name := range append([]string{""}, names(published((&app{}).commands()))...) {
		var out bytes.Buffer
		root := (&app{out: &out}).commands()
		root.SetArgs(strings.Fields(name + " --help"))
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > width {
				t.Errorf("keyguard %s --help: %d columns: %s", name, n, line)
			}
		}
		if out.Len() < 300 {
			t.Errorf("keyguard %s --help: %s", name, &out)
		}
	}
}

func names(commands []*cobra.Command) (list []string) {
	for _, c := range commands {
		list = append(list, c.Name())
	}
	return list
}
