package main

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// relayAhead is how many pieces of what a unit prints may wait for a terminal that is held
// (stty(1), stop) before the next are dropped: the unit is never held up.
const relayAhead = 1024

// relay puts a terminal of its own between a unit and the one that a person looks at, where
// there is one. When this program ends, the unit has none any more: it prints nothing into
// what the person does next, and goes on. The function that is returned shows the rest, if
// whole, and ends the relaying.
func relay(t *unit.Transient) (end func(whole bool), err error) {
	screen := os.Stderr
	if !terminal(screen) {
		screen = os.Stdout
	}
	if !terminal(screen) {
		return func(bool) {}, nil
	}
	control, tty, err := pseudoTerminal(screen)
	if err != nil {
		return nil, err
	}
	for _, f := range []**os.File{&t.Stdout, &t.Stderr} {
		if terminal(*f) {
			*f = tty
		}
	}
	signal.Ignore(syscall.SIGTSTP) // whoever is stopped relays nothing, and a daemon is down
	pieces := make(chan []byte, relayAhead)
	read := crew.Go(func() error {
		defer close(pieces)
		for {
			piece := make([]byte, 4096)
			n, err := control.Read(piece)
			if n > 0 {
				select {
				case pieces <- piece[:n]:
				default:
				}
			}
			if err != nil { // EIO: nobody has the terminal any more
				return nil
			}
		}
	})
	dropped := make(chan struct{})
	unended := false // the line that was shown last, of progress
	shown := crew.Go(func() error {
		for piece := range pieces {
			select {
			case <-dropped:
			default:
				unended = !bytes.HasSuffix(piece, []byte("\n")) && !bytes.HasSuffix(piece, []byte("\x1b[K"))
				_, _ = screen.Write(piece) // a terminal that is gone is no reason to stop reading
			}
		}
		return nil
	})
	return func(whole bool) {
		tty.Close()
		if !whole {
			close(dropped)
			control.Close()
		}
		<-read
		<-shown
		if unended { // what this program says begins a line of its own
			_, _ = screen.Write([]byte("\n"))
		}
		control.Close()
	}, nil
}

// pseudoTerminal makes a pair as pty(7) has it, as large as another terminal. What is
// written to tty comes out of control as it is.
func pseudoTerminal(like *os.File) (control, tty *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open a terminal: %w", err)
	}
	control = os.NewFile(uintptr(fd), "/dev/ptmx") // non-blocking: Close ends a Read
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		control.Close()
		return nil, nil, fmt.Errorf("cannot open a terminal: %w", err)
	}
	if size, err := unix.IoctlGetWinsize(int(like.Fd()), unix.TIOCGWINSZ); err == nil {
		_ = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) // else it is of no size, and 80 columns are taken
	}
	settings, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err == nil {
		settings.Oflag &^= unix.OPOST
		settings.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
		err = unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, settings)
	}
	if err != nil {
		control.Close()
		tty.Close()
		return nil, nil, fmt.Errorf("cannot set up a terminal: %w", err)
	}
	return control, tty, nil
}
