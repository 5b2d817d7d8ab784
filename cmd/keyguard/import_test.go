package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newTerminal is a pty(7): what is written to control is typed, what is read from it shown.
func newTerminal(t *testing.T) (control, tty *os.File) {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { control.Close() })
	n, err := unix.IoctlGetInt(int(control.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(control.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return control, tty
}

// TestInterruptedTyping: Ctrl-C in the middle of a line ends the command, which waits for
// no more lines.
func TestInterruptedTyping(t *testing.T) {
	config := filepath.Join(t.TempDir(), "keyguard.toml")
	text := fmt.Sprintf("state_dir = %q\nrun_dir = %q\ndaemon.unit = \"\"\n", t.TempDir(), t.TempDir())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	control, tty := newTerminal(t)
	c := exec.Command("keyguard", "import", "--config", config)
	var stderr bytes.Buffer
	c.Stdin, c.Stderr = tty, &stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close() // so that reading ends with the child
	tooLong := time.AfterFunc(longest, func() { c.Process.Kill() })
	defer tooLong.Stop()
	shown := ""
	for b := make([]byte, 1024); !strings.HasSuffix(shown, "line 1 of 6: "); {
		n, err := control.Read(b)
		if err != nil {
			t.Fatalf("%v after %q; %s", err, shown, &stderr)
		}
		shown += string(b[:n])
	}
	if _, err := control.WriteString("abandon ab\x03"); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := c.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitUsage || !strings.Contains(stderr.String(), "nothing was done") {
		t.Errorf("%v: %s", err, &stderr)
	}
}
