package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startOnTerminal starts a command on a terminal of its own, a pty(7) of 80 columns: what
// is written to control is typed, what is read from it shown, and EIO is its end.
func startOnTerminal(t *testing.T, c *exec.Cmd) (control *os.File) {
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
	if err == nil {
		err = unix.IoctlSetWinsize(int(control.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: width})
	}
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close() // so that reading ends with the child
	// Where Ctrl-C is typed the kernel sends the signal, and then throws away what was not
	// read yet: on a busy machine, what the program has said about it by then.
	settings, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err == nil {
		settings.Lflag |= unix.NOFLSH
		err = unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, settings)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.Stdin, c.Stdout, c.Stderr = tty, tty, tty
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	tooLong := time.AfterFunc(longest, func() { c.Process.Kill() })
	t.Cleanup(func() { tooLong.Stop() })
	return control
}

// TestColourWhen: --color counts more than what is printed to, and NO_COLOR less.
func TestColourWhen(t *testing.T) {
	for when, want := range map[colourWhen]string{"": "green", "auto": "green", "never": "green", "always": "\x1b[32mgreen\x1b[0m"} {
		for _, no := range []string{"", "1"} {
			t.Setenv("NO_COLOR", no)
			a := &app{out: &bytes.Buffer{}, when: when}
			if got := a.paint(green, "green"); got != want {
				t.Errorf("--color=%s, NO_COLOR=%s: %q", when, no, got)
			}
		}
	}
}
