package rows_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
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
	if err := cluster.Roomy(); err != nil {
		b.Fatal(err)
	}
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
	plain(b, d, k, benchRows) // reads what the disk has
	var plainTook, fullTook, sampleTook time.Duration
	var most int64
	for b.Loop() {
		start := time.Now()
		plain(b, d, k, benchRows)
		plainTook += time.Since(start)

		stop := rowstest.WatchHeap()
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
	b.ReportMetric(plainTook.Seconds()/sampleTook.Seconds(), "sample-ratio")
	b.ReportMetric(float64(most)/(1<<20), "heap-MB")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkProveLarge proves 8 000 rows of the largest values, all of them, beside a plain
// scan in the same run.
//
//	go test -run - -bench ProveLarge -benchtime 5x ./agent/rows
func BenchmarkProveLarge(b *testing.B) {
	const large = 8000
	d, err := cluster.NewDatabase("large")
	if err != nil {
		b.Fatal(err)
	}
	k := key.Generate()
	if err := d.CreateTable(); err != nil {
		b.Fatal(err)
	}
	if err := d.Fill(k, 0, large, 100, 65_536); err != nil {
		b.Fatal(err)
	}
	plain(b, d, k, large)
	var plainTook, proofTook time.Duration
	for b.Loop() {
		start := time.Now()
		plain(b, d, k, large)
		plainTook += time.Since(start)
		t, err := rows.Open(rows.Location{URL: d.URL(), From: "bench"}, rows.Options{})
		if err != nil {
			b.Fatal(err)
		}
		start = time.Now()
		a := t.Prove(context.Background(), k)
		proofTook += time.Since(start)
		t.Close()
		if a.State != rows.Answered || a.Proofs[0].Verdict != rows.Opens || a.Proofs[0].Checked != large {
			b.Fatalf("%+v", a)
		}
	}
	b.ReportMetric(plainTook.Seconds()/proofTook.Seconds(), "ratio")
	b.ReportMetric(float64(proofTook.Milliseconds())/float64(b.N), "proof-ms")
	b.ReportMetric(0, "ns/op")
}

func plain(b *testing.B, d *rowstest.Database, k key.Key, rows int) {
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
	if r.Err() != nil || opened != rows {
		b.Fatalf("%d rows, %v", opened, r.Err())
	}
}
