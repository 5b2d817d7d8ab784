package run

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/crew"
)

// maxFollowed is the longest line in bytes that Follow hands on; a longer one ends it.
const maxFollowed = 1 << 20

// Follow runs s and hands on each line of its standard output as it comes, without the
// newline; the slice is only good until line returns. It returns when the command ends
// or ctx does, and then the command's process group is gone. Timeout, MaxOutput, Stdin
// and Abandon do not apply. Every error is an *Error; the command ending by itself is
// one too, even with status 0: who follows does not expect an end.
func Follow(ctx context.Context, s Spec, line func([]byte)) error {
	path, err := lookPath(s.Path)
	if err != nil {
		return s.fail(err)
	}
	if s.Dir == "" {
		s.Dir = "/"
	}
	cmd := exec.CommandContext(ctx, path, s.Args...)
	cmd.Dir, cmd.Env = s.Dir, environ(s.Env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { killGroup(cmd.Process.Pid); return nil }
	cmd.WaitDelay = lingering
	stderr := &tail{max: keptStderr}
	cmd.Stderr = stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return s.fail(err)
	}
	if err := cmd.Start(); err != nil {
		return s.fail(err)
	}
	read := make(chan struct{})
	closed := crew.Go(func() error {
		awaitExit(cmd.Process.Pid)
		killGroup(cmd.Process.Pid) // as in Command
		select {
		case <-read:
		case <-time.After(lingering):
			out.Close() //nolint:errcheck // what left the group has the other end, and may keep it
		}
		return nil
	})
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, maxFollowed)
	for lines.Scan() {
		line(lines.Bytes())
	}
	killGroup(cmd.Process.Pid)
	close(read)
	<-closed
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return s.fail(ctx.Err())
	case lines.Err() != nil && !errors.Is(lines.Err(), os.ErrClosed):
		return s.fail(lines.Err())
	case err == nil:
		return s.fail(io.EOF)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return &Error{Command: filepath.Base(s.Path), Status: exit.ExitCode(), Tail: stderr.line(), Err: ErrExit}
	}
	return s.fail(err)
}
