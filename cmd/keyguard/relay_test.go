package main

import (
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// newTerminal makes a terminal that is so wide, and returns its two sides.
func newTerminal(t *testing.T, columns uint16) (control, tty *os.File) {
	t.Helper()
	like, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer like.Close()
	control, tty, err = pseudoTerminal(like)
	if err == nil {
		err = unix.IoctlSetWinsize(int(control.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		control.Close()
		tty.Close()
	})
	return control, tty
}

// onScreen makes a terminal what this program's messages go to, and returns its other side.
func onScreen(t *testing.T) (control *os.File) {
	t.Helper()
	control, tty := newTerminal(t, 97)
	screen := os.Stderr
	os.Stderr = tty
	t.Cleanup(func() {
		os.Stderr = screen
		signal.Reset(syscall.SIGTSTP)
	})
	return control
}

// TestRelay: what a unit prints is shown, all of it where its end is waited for, and what it
// prints into a file is not touched.
func TestRelay(t *testing.T) {
	control := onScreen(t)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	work := unit.Transient{Stdout: log, Stderr: os.Stderr}
	end, err := relay(&work)
	if err != nil {
		t.Fatal(err)
	}
	if work.Stdout != log || work.Stderr == os.Stderr || !terminal(work.Stderr) || columns(work.Stderr) != 97 {
		t.Fatalf("the unit prints to %v and %v, of %d columns", work.Stdout.Name(), work.Stderr.Name(), columns(work.Stderr))
	}
	const shown = "stopping the daemon\n\x1b[Kre-encrypting: 5 of 8 rows\r\x1b[K"
	if _, err := io.WriteString(work.Stderr, shown); err != nil {
		t.Fatal(err)
	}
	end(true)
	os.Stderr.Close()
	if got, _ := io.ReadAll(control); string(got) != shown {
		t.Errorf("%q", got)
	}
}

// TestRelayEndsALine: what is said after a unit that ended in the middle of a line of progress,
// as one does that is killed, begins its own.
func TestRelayEndsALine(t *testing.T) {
	control := onScreen(t)
	work := unit.Transient{Stderr: os.Stderr}
	end, err := relay(&work)
	if err != nil {
		t.Fatal(err)
	}
	const shown = "\r\x1b[Kkeyguard: writing …"
	if _, err := io.WriteString(work.Stderr, shown); err != nil {
		t.Fatal(err)
	}
	end(true)
	os.Stderr.Close()
	if got, _ := io.ReadAll(control); string(got) != shown+"\n" {
		t.Errorf("%q", got)
	}
}

// TestRelayIsLeft: once a person has left, nothing more gets into that terminal, and the
// unit, which has lost its own, is told so and not held up.
func TestRelayIsLeft(t *testing.T) {
	control := onScreen(t)
	work := unit.Transient{Stdout: os.Stderr, Stderr: os.Stderr}
	end, err := relay(&work)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := unix.Dup(int(work.Stderr.Fd())) // the unit's own, which it keeps
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(theirs)
	end(false)
	if n, err := unix.Write(theirs, []byte("committing\n")); err != unix.EIO {
		t.Errorf("the unit has written %d bytes, %v", n, err)
	}
	io.WriteString(os.Stderr, "$ ")
	got := make([]byte, 64)
	if n, err := control.Read(got); string(got[:n]) != "$ " {
		t.Errorf("%q, %v", got[:n], err)
	}
}

// TestRelayIsHeld: a terminal that shows nothing for now (stty(1), stop) holds nobody up, and
// what it cannot take is dropped.
func TestRelayIsHeld(t *testing.T) {
	control := onScreen(t)
	work := unit.Transient{Stderr: os.Stderr}
	end, err := relay(&work)
	if err != nil {
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("re-encrypting ", 4096/len("re-encrypting ")))
	for range 2 * relayAhead { // far more than a terminal and a relay keep
		if _, err := work.Stderr.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	control.Close() // its window is closed
	end(true)
}
