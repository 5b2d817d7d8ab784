package lock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const envHold = "LOCK_TEST_HOLD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(envHold); dir != "" {
		if _, err := Try(dir, Watch); err != nil {
			os.Exit(1)
		}
		os.Stdout.WriteString("held\n")
		io.Copy(io.Discard, os.Stdin) // until killed
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestTry(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "when needed")
	l, err := Try(dir, Rotate)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", info.Mode(), err)
	}
	var busy ErrBusy
	if _, err := Try(dir, Rotate); !errors.As(err, &busy) || busy.Name != Rotate {
		t.Errorf("second: %v, want ErrBusy of rotate", err)
	}
	other, err := Try(dir, Ledger)
	if err != nil {
		t.Errorf("another name: %v", err)
	}
	other.Release()
	l.Release()
	l.Release()
	(*Lock)(nil).Release()
	again, err := Try(dir, Rotate)
	if err != nil {
		t.Fatalf("after the release: %v", err)
	}
	again.Release()
	if _, err := os.Stat(filepath.Join(dir, Rotate)); err != nil {
		t.Errorf("the file is gone: %v", err)
	}
}

// TestReleaseWhileForking: a child that has not reached its execve(2) shares the open
// file, as a duplicate does here, and keeps nothing.
func TestReleaseWhileForking(t *testing.T) {
	dir := t.TempDir()
	l, err := Try(dir, Ledger)
	if err != nil {
		t.Fatal(err)
	}
	child, err := unix.Dup(int(l.f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(child)
	l.Release()
	again, err := Try(dir, Ledger)
	if err != nil {
		t.Errorf("after the release: %v", err)
	}
	again.Release()
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("elsewhere", filepath.Join(dir, Watch)); err != nil {
		t.Fatal(err)
	}
	if _, err := Try(dir, Watch); !errors.Is(err, unix.ELOOP) {
		t.Errorf("symlink: %v, want ELOOP", err)
	}
	if _, err := Held(dir, Watch); !errors.Is(err, unix.ELOOP) {
		t.Errorf("symlink: %v, want ELOOP", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Try(file, Watch); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("no directory: %v, want ENOTDIR", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "elsewhere")); err == nil {
		t.Error("the symlink was followed")
	}
}

// TestFullDirectory: where no file can be added, an install and a watcher are not held up by
// a lock that nobody can hold (law 9); what two at once would damage is, and so is everybody by
// one that is held.
func TestFullDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("keyguard-test", dir, "tmpfs", 0, "size=64k,nr_inodes=4"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH) //nolint:errcheck // it was mounted
	if err := os.WriteFile(filepath.Join(dir, Drill), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); errors.Is(err, unix.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]error{Keyfile: nil, Watch: nil, Drill: nil, Rotate: unix.ENOSPC, Ledger: unix.ENOSPC, Start: unix.ENOSPC} {
		l, err := Try(dir, name)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if name == Drill {
			if _, err := Try(dir, name); !errors.As(err, new(ErrBusy)) {
				t.Errorf("%s is held: %v", name, err)
			}
		}
		l.Release()
	}
}

func TestWait(t *testing.T) {
	dir := t.TempDir()
	l, err := Try(dir, Keyfile)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan error)
	go func() {
		_, err := Wait(ctx, dir, Keyfile)
		got <- err
	}()
	cancel()
	var busy ErrBusy
	if err := <-got; !errors.As(err, &busy) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, want ErrBusy and context.Canceled", err)
	}

	taken := make(chan *Lock)
	go func() {
		l, err := Wait(context.Background(), dir, Keyfile)
		if err != nil {
			t.Error(err)
		}
		taken <- l
	}()
	select {
	case <-taken:
		t.Fatal("two hold the lock")
	case <-time.After(3 * poll): // long enough that it has tried and failed
	}
	l.Release()
	(<-taken).Release()

	// ctx has ended, but nobody holds the lock.
	l, err = Wait(ctx, dir, Keyfile)
	if err != nil {
		t.Errorf("free: %v", err)
	}
	l.Release()
}

func TestHeld(t *testing.T) {
	dir := t.TempDir()
	check := func(want bool) {
		t.Helper()
		if held, err := Held(dir, Watch); err != nil || held != want {
			t.Errorf("held %v, %v; want %v", held, err, want)
		}
	}
	check(false)
	if _, err := os.Lstat(filepath.Join(dir, Watch)); err == nil {
		t.Error("Held made a file")
	}
	l, err := Try(dir, Watch)
	if err != nil {
		t.Fatal(err)
	}
	check(true)
	check(true)
	l.Release()
	check(false)
	// Somebody else who looks holds nothing.
	f, err := os.Open(filepath.Join(dir, Watch))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	check(false)
}

// TestHeldDisturbsNobody: who looks whether the lock is held, and is held up while he does, is
// nobody who holds it.
func TestHeldDisturbsNobody(t *testing.T) {
	dir := t.TempDir()
	f, err := os.OpenFile(filepath.Join(dir, Watch), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(30*poll, func() { f.Close() })
	l, err := Try(dir, Watch)
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
}

// TestProcesses checks that the lock ends with its holder, however that dies, and
// that the holder's children do not have it.
func TestProcesses(t *testing.T) {
	dir := t.TempDir()
	holder := exec.Command("/proc/self/exe")
	holder.Env = append(os.Environ(), envHold+"="+dir)
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		t.Fatalf("%q, %v", line, err)
	}
	var busy ErrBusy
	if _, err := Try(dir, Watch); !errors.As(err, &busy) {
		t.Errorf("%v, want ErrBusy", err)
	}
	if held, err := Held(dir, Watch); err != nil || !held {
		t.Errorf("held %v, %v", held, err)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	holder.Wait()
	l, err := Try(dir, Watch)
	if err != nil {
		t.Fatalf("after the holder was killed: %v", err)
	}

	child := exec.Command("cat")
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	l.Release()
	l, err = Try(dir, Watch)
	if err != nil {
		t.Errorf("a child keeps the lock: %v", err)
	}
	l.Release()
	stdin.Close()
	child.Wait()
}
