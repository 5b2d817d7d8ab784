package rows_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

const (
	benchRows  = 1_000_000
	benchBytes = 256 // of a value
)

// BenchmarkProve compares, in turns in one run, proving a million rows with what
// anybody would write first: one connection, one scan, one key. "ratio" is how many
// times faster the proof is. "heap-MB" is the most that either of ours held at once
// beyond what was held before.
//
//	go test -run - -bench Prove -benchtime 5x ./agent/rows
func BenchmarkProve(b *testing.B) {
	d, err := cluster.NewDatabase("bench")
	if err != nil {
		b.Fatal(err)
	}
	k := key.Generate()
	if err := d.CreateTable(); err != nil {
		b.Fatal(err)
	}
	if err := d.Fill(k, 0, benchRows, 1000, benchBytes); err != nil {
		b.Fatal(err)
	}
	prove := func(o rows.Options) {
		t, err := rows.Open(rows.Location{URL: d.URL(), From: "bench"}, o)
		if err != nil {
			b.Fatal(err)
		}
		defer t.Close()
		a := t.Prove(context.Background(), k)
		if a.State != rows.Answered || a.Proofs[0].Verdict != rows.Opens || !a.Sampled && a.Proofs[0].Checked != benchRows {
			b.Fatalf("%+v", a)
		}
	}
	plain(b, d, k) // reads what the disk has
	var plainTook, fullTook, sampleTook time.Duration
	var most int64
	for b.Loop() {
		start := time.Now()
		plain(b, d, k)
		plainTook += time.Since(start)

		stop := watchHeap()
		start = time.Now()
		prove(rows.Options{Full: true})
		fullTook += time.Since(start)
		start = time.Now()
		prove(rows.Options{})
		sampleTook += time.Since(start)
		most = max(most, stop())
	}
	perSecond := func(d time.Duration) float64 { return float64(b.N) * benchRows / d.Seconds() }
	b.ReportMetric(perSecond(plainTook), "plain-rows/s")
	b.ReportMetric(perSecond(fullTook), "proof-rows/s")
	b.ReportMetric(plainTook.Seconds()/fullTook.Seconds(), "ratio")
	b.ReportMetric(float64(sampleTook.Milliseconds())/float64(b.N), "sample-ms")
	b.ReportMetric(float64(most)/(1<<20), "heap-MB")
	b.ReportMetric(0, "ns/op")
}

func plain(b *testing.B, d *rowstest.Database, k key.Key) {
	conn, err := pgx.Connect(context.Background(), d.URL())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close(context.Background())
	block, err := aes.NewCipher(k.UnsafeBytes())
	if err != nil {
		b.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		b.Fatal(err)
	}
	r, err := conn.Query(context.Background(), "select username, name, nonce, ciphertext from secrets")
	if err != nil {
		b.Fatal(err)
	}
	opened := 0
	for r.Next() {
		var username, name string
		var nonce, ciphertext []byte
		if err := r.Scan(&username, &name, &nonce, &ciphertext); err != nil {
			b.Fatal(err)
		}
		if _, err := gcm.Open(nil, nonce, ciphertext, []byte(username+"\x00"+name)); err == nil {
			opened++
		}
	}
	if r.Err() != nil || opened != benchRows {
		b.Fatalf("%d rows, %v", opened, r.Err())
	}
}

// watchHeap samples the live heap until the function it returns is called.
func watchHeap() (most func() int64) {
	read := func() int64 {
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(s)
		return int64(s[0].Value.Uint64())
	}
	runtime.GC()
	before := read()
	var peak atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			peak.Store(max(peak.Load(), read()-before))
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	return func() int64 {
		close(stop)
		<-stopped
		return peak.Load()
	}
}

// BenchmarkRewrite compares, in turns in one run, rewriting a table with the least that
// could be done: one UPDATE, in the server, of the same columns of the same rows. "ratio"
// is how many times longer the rewrite takes; "heap-MB" the most that it held beyond what
// was held before. The table is put in order before each, as an UPDATE leaves it twice
// as large. The server is as durable as an operator's.
//
//	go test -run - -bench Rewrite -benchtime 3x ./agent/rows
func BenchmarkRewrite(b *testing.B) {
	cluster := rowstest.New(b)
	for _, setting := range []string{"fsync", "full_page_writes"} {
		if err := cluster.Admin("postgres", "alter system set "+setting+" = on"); err != nil {
			b.Fatal(err)
		}
	}
	if err := cluster.Restart(); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct{ rows, size int }{{3000, 256}, {50_000, 256}, {1_000_000, 256}, {3000, 64 << 10}} {
		b.Run(fmt.Sprintf("rows=%d/size=%d", c.rows, c.size), func(b *testing.B) {
			d, err := cluster.NewDatabase("")
			if err != nil {
				b.Fatal(err)
			}
			k := key.Generate()
			if err := errors.Join(d.CreateTable(), d.Fill(k, 0, c.rows, 1000, c.size)); err != nil {
				b.Fatal(err)
			}
			// A large value that is given back as it was would not be written: so a byte of each
			// is flipped, and flipped back.
			flip := func() {
				if _, err := d.Exec("update secrets set nonce = nonce || '', ciphertext = set_byte(ciphertext, 0, 255 - get_byte(ciphertext, 0))"); err != nil {
					b.Fatal(err)
				}
			}
			inOrder := func() {
				for _, sql := range []string{"vacuum (full, analyze) secrets", "checkpoint"} {
					if err := d.Admin(sql); err != nil {
						b.Fatal(err)
					}
				}
			}
			t, err := rows.Open(rows.Location{URL: d.URL(), From: "bench"}, rows.Options{})
			if err != nil {
				b.Fatal(err)
			}
			var floor, took time.Duration
			var most int64
			for b.Loop() {
				inOrder()
				start := time.Now()
				flip()
				floor += time.Since(start)
				flip()

				inOrder()
				next := key.Generate()
				stop := watchHeap()
				start = time.Now()
				r, err := t.Rewrite(context.Background(), rows.RewriteOptions{Target: next, Keys: []key.Key{k}})
				took += time.Since(start)
				most = max(most, stop())
				if err != nil || r.Rewritten != int64(c.rows) {
					b.Fatal(r, err)
				}
				k = next
			}
			b.ReportMetric(floor.Seconds()/float64(b.N), "floor-s")
			b.ReportMetric(took.Seconds()/float64(b.N), "rewrite-s")
			b.ReportMetric(took.Seconds()/floor.Seconds(), "ratio")
			b.ReportMetric(float64(b.N*c.rows)/took.Seconds(), "rows/s")
			b.ReportMetric(float64(most)/(1<<20), "heap-MB")
			b.ReportMetric(0, "ns/op")
		})
	}
}
