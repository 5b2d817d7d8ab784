package outside

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// TestBegan: the time of a worker began when that of the process outside did, however late
// a busy machine runs it.
func TestBegan(t *testing.T) {
	_, tells, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer tells.Close()
	for _, c := range []struct {
		marker string
		ago    time.Duration // at least; -1: this is no worker
	}{
		{fmt.Sprintf("%d %d", tells.Fd(), monotonic()-int64(3*time.Second)), 3 * time.Second},
		{fmt.Sprintf("%d %d", tells.Fd(), monotonic()), 0},
		{fmt.Sprintf("%d %d", tells.Fd(), monotonic()+int64(time.Hour)), 0}, // never later than now
		{fmt.Sprint(tells.Fd()), -1},
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
