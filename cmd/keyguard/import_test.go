package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestInterruptedTyping: Ctrl-C in the middle of a line ends the command, which waits for
// no more lines, and did nothing.
func TestInterruptedTyping(t *testing.T) {
	for command, asks := range map[string]string{"import": "line 1 of 6: ", "init": "Number"} {
		t.Run(command, func(t *testing.T) {
			config := filepath.Join(t.TempDir(), "keyguard.toml")
			text := fmt.Sprintf("state_dir = %q\nrun_dir = %q\ndaemon.unit = \"\"\n", t.TempDir(), t.TempDir())
			if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			c := exec.Command("keyguard", command, "--config", config)
			c.Env = append(os.Environ(), "GCE_METADATA_HOST=127.0.0.1:1")
			control := startOnTerminal(t, c)
			shown := ""
			for b := make([]byte, 1024); !strings.Contains(shown, asks); {
				n, err := control.Read(b)
				if err != nil {
					t.Fatalf("%v after %q", err, shown)
				}
				shown += string(b[:n])
			}
			if _, err := control.WriteString("abandon ab\x03"); err != nil {
				t.Fatal(err)
			}
			rest, _ := io.ReadAll(control) // EIO when nobody has the terminal any more
			var exit *exec.ExitError
			if err := c.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitUsage || !strings.Contains(string(rest), "nothing was done") {
				t.Errorf("%v: %s%s", err, shown, rest)
			}
			if left, err := os.ReadFile(config); err != nil || string(left) != text {
				t.Errorf("the configuration is %q, %v", left, err)
			}
		})
	}
}
