package outside

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ends names, in the environment, how a worker of TestKilled, or of TestUnheard, ends.
const ends = "KEYGUARD_TEST_ENDS"

func TestMain(m *testing.M) {
	how := os.Getenv(ends)
	if !IsWorker() || how == "" {
		os.Exit(m.Run())
	}
	o := Worker()
	o.Refuse(Doubt)
	switch how {
	case "crashed":
		os.Exit(2) // as the runtime does
	case "better":
		o.Status(0)
	case "done":
		o.Done(10)
		os.Exit(10)
	case "done, and killed":
		o.Done(10)
	case "unheard":
		o.Status(0)
		o.Budget(time.Millisecond)
		for range 1000 {
			fmt.Fprintln(os.Stderr, "what nobody reads")
		}
		time.Sleep(time.Hour) // until its time is over
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

// TestKilled: a start that was refused since the rows refute the key stays refused, whatever
// ends the worker (law 1 stands above law 9). Anything else that one was killed for decides
// nothing.
func TestKilled(t *testing.T) {
	for how, want := range map[string]int{"killed": Doubt, "crashed": Doubt, "better": 1, "done": 10, "done, and killed": 10} {
		t.Setenv(ends, how)
		if code, err := Run([]string{"worker"}); err != nil || code != want {
			t.Errorf("%s: %d, %v; want %d", how, code, err, want)
		}
	}
}

// TestUnheard: a pipe that is full, and whose reader hangs, holds no start for longer than its time.
func TestUnheard(t *testing.T) {
	own, err := unix.Dup(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Dup3(own, 2, 0)
		unix.Close(own)
	})
	for _, flags := range []int{0, unix.O_NONBLOCK} {
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_NONBLOCK); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = unix.Write(pipe[1], make([]byte, 4096))
		}
		if !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
		if _, err := unix.FcntlInt(uintptr(pipe[1]), unix.F_SETFL, flags); err != nil {
			t.Fatal(err)
		}
		if err := unix.Dup3(pipe[1], 2, 0); err != nil {
			t.Fatal(err)
		}
		t.Setenv(ends, "unheard")
		code, ran := Run([]string{"worker"})
		if err := unix.Dup3(own, 2, 0); err != nil {
			t.Fatal(err)
		}
		unix.Close(pipe[0])
		unix.Close(pipe[1])
		if ran != nil || code != 0 {
			t.Errorf("%d, %v", code, ran)
		}
		err = nil
	}
}

// TestWith: a worker finds what it is told, whatever was there under the same name: a program has the first
// of two.
func TestWith(t *testing.T) {
	got := with([]string{"PATH=/bin", marker + "=", marker + "X=1", "GOMAXPROCS=100000", marker, marker + "=9 9"}, "GOMAXPROCS=1", marker+"=3 1")
	if want := []string{"PATH=/bin", marker + "X=1", "GOMAXPROCS=1", marker + "=3 1"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// TestBegan: the time of a worker began when that of the process outside did, however late
// a busy machine runs it.
func TestBegan(t *testing.T) {
	_, reports, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reports.Close()
	for _, c := range []struct {
		marker string
		ago    time.Duration // at least; -1: this is no worker
	}{
		{fmt.Sprintf("%d %d", reports.Fd(), monotonic()-int64(3*time.Second)), 3 * time.Second},
		{fmt.Sprintf("%d %d", reports.Fd(), monotonic()), 0},
		{fmt.Sprintf("%d %d", reports.Fd(), monotonic()+int64(time.Hour)), 0}, // never later than now
		{fmt.Sprint(reports.Fd()), -1},
		{"x 1", -1},
		{"", -1},
	} {
		t.Setenv(marker, c.marker)
		before := time.Now()
		o := Worker()
		if after := time.Now(); (o == nil) != (c.ago < 0) {
			t.Errorf("%q: %v", c.marker, o)
		} else if o != nil && (o.Began().After(after.Add(-c.ago)) || c.ago == 0 && o.Began().Before(before.Add(-time.Minute))) {
			t.Errorf("%q: it began %s ago", c.marker, after.Sub(o.Began()))
		}
		if _, set := os.LookupEnv(marker); o != nil && set {
			t.Errorf("%q: what it starts takes part, too", c.marker)
		}
	}
	if (*Outside)(nil).Began().IsZero() {
		t.Error("without a process outside it begins now")
	}
}
