package hooks_test

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

// BenchmarkWatch measures, on the real program, the time from the close of a new
// keyfile until both escrows, a directory and a Secret Manager on loopback, hold the
// key: proven on the rows, stored, read back, in the ledger. The debounce is the default.
// "rescan" is the same where no event is told: the change is made through another name.
func BenchmarkWatch(b *testing.B) {
	cluster := rowstest.New(b)
	for _, c := range []struct {
		name, rescan string
		silent       bool
	}{{"events", "60s", false}, {"rescan 2s", "2s", true}} {
		b.Run(c.name, func(b *testing.B) {
			p := newProcess(b, cluster.Database(b))
			p.configure(c.rescan, "")
			k := watchKey("bench")
			p.prove(k)
			p.write(k)
			p.start()
			p.awaitSaved(k, "current")
			p.must(os.Chmod(p.path("etc/secrets.key"), 0o600))
			p.must(os.Link(p.path("etc/secrets.key"), p.path("link")))
			var took []time.Duration
			for i := 0; b.Loop(); i++ {
				k := watchKey(fmt.Sprint("bench ", i))
				b.StopTimer()
				p.prove(k)
				b.StartTimer()
				began := time.Now()
				if c.silent {
					p.must(os.WriteFile(p.path("link"), k.UnsafeBytes(), 0o600))
				} else {
					p.write(k)
				}
				p.awaitSaved(k, "current")
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Milliseconds()), "p99-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}
