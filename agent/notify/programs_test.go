package notify

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/internal/run"
)

// programs is a directory of programs that write to out.
type programs struct {
	*testing.T
	dir, out string
}

func newPrograms(t *testing.T) programs {
	t.Helper()
	p := programs{t, t.TempDir(), t.TempDir()}
	p.chmod("", 0o755)
	return p
}

func (p programs) add(name, script string) {
	p.Helper()
	p.write(name, "#!/bin/sh\n"+strings.ReplaceAll(script, "OUT", p.out))
}

func (p programs) write(name, content string) {
	p.Helper()
	// No other test may fork meanwhile: a child that has it open to write makes it "busy".
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(content), 0o755); err != nil {
		p.Fatal(err)
	}
	p.chmod(name, 0o755) // whatever the umask is
}

func (p programs) chmod(name string, mode fs.FileMode) {
	p.Helper()
	if err := os.Chmod(filepath.Join(p.dir, name), mode); err != nil {
		p.Fatal(err)
	}
}

func (p programs) wrote(name string) string {
	p.Helper()
	data, err := os.ReadFile(filepath.Join(p.out, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.Fatal(err)
	}
	return string(data)
}

// TestPrograms is every kind of file that can lie among the hooks: whatever one does,
// the good one beside it is called, and the trouble names the bad one.
func TestPrograms(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		add func(programs)
		err error
	}{
		"alone":   {add: func(programs) {}},
		"exits 1": {func(p programs) { p.add("bad", "echo broken >&2; exit 1") }, run.ErrExit},
		"floods":  {func(p programs) { p.add("bad", "exec yes") }, run.ErrOutput},
		"no program": {func(p programs) {
			p.write("bad", "\x00\x01")
		}, syscall.ENOEXEC},
		"not executable": {func(p programs) {
			p.add("bad", "echo called >OUT/bad")
			p.chmod("bad", 0o644)
		}, ErrNotRun},
		"a name with a dot": {func(p programs) { p.add("bad.sh", "echo called >OUT/bad") }, ErrNotRun},
		"written by the group": {func(p programs) {
			p.add("bad", "echo called >OUT/bad")
			p.chmod("bad", 0o775)
		}, run.ErrUnsafe},
		"written by all": {func(p programs) {
			p.add("bad", "echo called >OUT/bad")
			p.chmod("bad", 0o757)
		}, run.ErrUnsafe},
		"of somebody else": {func(p programs) {
			p.add("bad", "echo called >OUT/bad")
			if err := os.Chown(filepath.Join(p.dir, "bad"), 65534, -1); err != nil {
				p.Fatal(err)
			}
		}, run.ErrUnsafe},
		"a link to where others write": {func(p programs) {
			other := newPrograms(p.T)
			other.add("target", "echo called >"+p.out+"/bad")
			other.chmod("", 0o777)
			if err := os.Symlink(filepath.Join(other.dir, "target"), filepath.Join(p.dir, "bad")); err != nil {
				p.Fatal(err)
			}
		}, run.ErrUnsafe},
		"a link to nothing": {func(p programs) {
			if err := os.Symlink("/nonexistent", filepath.Join(p.dir, "bad")); err != nil {
				p.Fatal(err)
			}
		}, fs.ErrNotExist},
		"files that nobody runs": {add: func(p programs) {
			p.add("README.md", "")
			p.chmod("README.md", 0o644)
			p.add("mail.dpkg-dist", "")
			p.chmod("mail.dpkg-dist", 0o644)
			if err := os.Mkdir(filepath.Join(p.dir, "old"), 0o755); err != nil {
				p.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPrograms(t)
			p.add("good", `echo "$KEYGUARD_EVENT" >OUT/good`)
			c.add(p)
			errs := Programs(t.Context(), p.dir, []string{"KEYGUARD_EVENT=made"})
			switch {
			case c.err == nil && len(errs) > 0:
				t.Errorf("trouble: %v", errs)
			case c.err != nil && (len(errs) != 1 || !errors.Is(errs[0], c.err) || !strings.Contains(errs[0].Error(), `"bad`)):
				t.Errorf("trouble: %v; want %v", errs, c.err)
			}
			if got := p.wrote("good"); got != "made\n" {
				t.Errorf("the good hook wrote %q", got)
			}
			if p.wrote("bad") != "" {
				t.Error("it was run")
			}
		})
	}
}

// One that hangs is killed when the time is over, with what it has started, and the
// others do not wait for it.
func TestProgramHangs(t *testing.T) {
	t.Parallel()
	p := newPrograms(t)
	p.add("hangs", `sleep 1000 & echo $! >OUT/child; echo $$ >OUT/self; wait`)
	p.add("good", "echo called >OUT/good")
	p.add("leaves", "sleep 1000 & echo $! >OUT/left")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan []error)
	go func() { done <- Programs(ctx, p.dir, nil) }()
	for p.wrote("self") == "" || p.wrote("good") == "" || p.wrote("left") == "" {
		time.Sleep(time.Millisecond)
	}
	cancel()
	errs := <-done
	if len(errs) == 0 || !errors.Is(errors.Join(errs...), context.Canceled) {
		t.Errorf("trouble: %v", errs)
	}
	for _, pid := range []string{p.wrote("child"), p.wrote("self"), p.wrote("left")} {
		for alive(strings.TrimSpace(pid)) {
			time.Sleep(time.Millisecond) // the kernel takes a moment to bury it
		}
	}
}

// alive tells whether a process runs; a zombie does not.
func alive(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

// A hook sees the event and what a mail or web client needs, and nothing of what the
// daemon's own start has in its environment (law 8).
func TestProgramEnvironment(t *testing.T) {
	t.Setenv("CONTAINARIUM_POSTGRES_URL", "postgres://u:password@h/d")
	t.Setenv("HOME", "/root")
	p := newPrograms(t)
	p.add("env", "env >OUT/env")
	if errs := Programs(t.Context(), p.dir, []string{"KEYGUARD_EVENT=made", "KEYGUARD_TEXT=a\nb"}); len(errs) > 0 {
		t.Fatal(errs)
	}
	got := p.wrote("env")
	for _, want := range []string{"KEYGUARD_EVENT=made\n", "KEYGUARD_TEXT=a\nb\n", "PATH=", "HOME=/root\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the environment lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "CONTAINARIUM") {
		t.Errorf("the environment has too much:\n%s", got)
	}
}

// A directory that others may write to has no hooks for root to run.
func TestProgramsOfOthers(t *testing.T) {
	t.Parallel()
	p := newPrograms(t)
	p.add("good", "echo called >OUT/good")
	p.chmod("", 0o777)
	if errs := Programs(t.Context(), p.dir, nil); len(errs) != 1 || !errors.Is(errs[0], run.ErrUnsafe) || p.wrote("good") != "" {
		t.Errorf("trouble: %v", errs)
	}
	if errs := Programs(t.Context(), filepath.Join(p.dir, "none"), nil); len(errs) != 0 {
		t.Errorf("a directory that is not there: %v", errs)
	}
}
