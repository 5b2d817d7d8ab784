package agent_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

// BenchmarkRotate compares, in turns in one run, a whole rotation with the least that
// could be done to the same rows: one UPDATE in the server. "ratio" is how many times
// longer the rotation takes, from its locks to the key on the current shelves of two
// directories; the daemon is one that stops and starts at once, so "downtime-s" is
// keyguard's own; "heap-MB" is the most that the process held beyond what it held before.
//
//	go test -run - -bench Rotate -benchtime 3x ./agent
func BenchmarkRotate(b *testing.B) {
	cluster := rowstest.New(b)
	if err := cluster.Durable(); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct{ rows, size int }{{3000, 256}, {50_000, 256}, {1_000_000, 256}, {3000, 64 << 10}} {
		b.Run(fmt.Sprintf("rows=%d/size=%d", c.rows, c.size), func(b *testing.B) {
			db := cluster.Database(b)
			k := testKey("old")
			h := newHost(b, db, 2)
			h.must(db.Fill(k, 0, c.rows, 1000, c.size))
			h.must(rotation{k}.furnish(&h.Host, false))
			var floor, took, down time.Duration
			var most int64
			for b.Loop() {
				h.must(db.PutInOrder())
				start := time.Now()
				h.must(db.Flip())
				floor += time.Since(start)
				h.must(db.Flip())

				h.must(db.PutInOrder())
				held := rowstest.WatchHeap()
				r, err := agent.Rotate(b.Context(), &h.Host, agent.RotateOptions{})
				most = max(most, held())
				if err != nil || !r.Rotated || r.Rewrite.Rewritten != int64(c.rows) || r.SavedErr != nil || len(r.Trouble) > 0 {
					b.Fatal(r, err)
				}
				took, down = took+r.Took, down+r.Downtime
			}
			b.ReportMetric(floor.Seconds()/float64(b.N), "floor-s")
			b.ReportMetric(took.Seconds()/float64(b.N), "rotation-s")
			b.ReportMetric(down.Seconds()/float64(b.N), "downtime-s")
			b.ReportMetric(took.Seconds()/floor.Seconds(), "ratio")
			b.ReportMetric(float64(b.N*c.rows)/took.Seconds(), "rows/s")
			b.ReportMetric(float64(most)/(1<<20), "heap-MB")
			b.ReportMetric(0, "ns/op")
		})
	}
}
