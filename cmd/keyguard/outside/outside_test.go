package outside

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
)

// ends names, in the environment, how a worker of TestKilled ends.
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
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

// TestKilled: a start that was refused since the rows refute the key stays refused, whatever
// ends the worker (law 1 stands above law 9). Anything else that one was killed for decides
// nothing.
func TestKilled(t *testing.T) {
	for how, want := range map[string]int{"killed": Doubt, "crashed": Doubt, "better": 1, "done": 10} {
		t.Setenv(ends, how)
		if code, err := Run([]string{"worker"}); err != nil || code != want {
			t.Errorf("%s: %d, %v; want %d", how, code, err, want)
		}
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
