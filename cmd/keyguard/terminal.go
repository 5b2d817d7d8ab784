package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// onTerminal tells whether a person can be asked.
func (a *app) onTerminal() bool { return term.IsTerminal(int(a.in.Fd())) }

// confirm asks a question on the terminal. Without a terminal only --yes answers it.
func (a *app) confirm(ctx context.Context, question string) (bool, error) {
	if a.yes {
		return true, nil
	}
	answer, err := a.ask(ctx, question+" [y/N] ")
	return answer == "y" || answer == "Y" || answer == "yes", err
}

// ask reads one line from the terminal. Nothing may have been done before the last
// question is answered.
func (a *app) ask(ctx context.Context, prompt string) (string, error) {
	if !a.onTerminal() {
		return "", usageError{errors.New("this asks a question, and there is no terminal: --yes answers it")}
	}
	tty, err := openTerminal()
	if err != nil {
		return "", err
	}
	defer tty.Close() //nolint:errcheck // a terminal
	fmt.Fprint(a.err, strings.TrimSuffix(fold(a.err, strings.TrimRight(prompt, " ")), "\n")+" ")
	var buffer [maxLine]byte
	n, err := readLine(ctx, tty, buffer[:])
	if err != nil || n == 0 {
		fmt.Fprintln(a.err)
		return "", outcome{exitUsage, "no answer, and nothing was done", notConfirmed.hints}
	}
	return strings.TrimSpace(string(buffer[:n])), nil
}

// maxLine is more than a terminal lets into a line, termios(3).
const maxLine = 4096

// openTerminal opens the terminal that this process belongs to, and not standard input:
// a descriptor of our own takes a deadline, by which an interrupt ends the waiting.
func openTerminal() (*os.File, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, usageError{fmt.Errorf("cannot ask at the terminal: %w", err)}
	}
	return tty, nil
}

// readLine reads what a person types up to the end of the line, or until ctx ends.
func readLine(ctx context.Context, tty *os.File, line []byte) (int, error) {
	defer context.AfterFunc(ctx, func() { tty.SetReadDeadline(time.Unix(1, 0)) })()
	return tty.Read(line)
}
