package agent_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

// BenchmarkRotate compares, in turns in one run, a whole rotation with the least that
// could be done to the same rows: one UPDATE in the server. "ratio" is how many times
// longer the rotation takes, from its locks to the key on the current shelves of two
// directories; the daemon is one that stops and starts at once, so "downtime-s" is
// keyguard's own, and "downtime-ratio" is that against the UPDATE; "heap-MB" is the most that the process held beyond what it held before.
// "by-hand-ratio", where the table is small, is how many times longer than the UPDATE a
// loop takes that reads, opens, seals and writes one row after the other in a transaction.
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
			var floor, took, down, hand time.Duration
			var most int64
			for b.Loop() {
				h.must(db.PutInOrder())
				start := time.Now()
				h.must(db.Flip())
				floor += time.Since(start)
				h.must(db.Flip())

				if c.rows*c.size < 1<<20 {
					h.must(db.PutInOrder())
					now, err := live(&h.Host)
					h.must(err)
					hand += byHand(b, db, now)
				}
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
			b.ReportMetric(down.Seconds()/floor.Seconds(), "downtime-ratio")
			if hand > 0 {
				b.ReportMetric(hand.Seconds()/floor.Seconds(), "by-hand-ratio")
			}
			b.ReportMetric(float64(b.N*c.rows)/took.Seconds(), "rows/s")
			b.ReportMetric(float64(most)/(1<<20), "heap-MB")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// byHand seals every row anew as a script would that somebody writes for the occasion.
func byHand(b *testing.B, db *rowstest.Database, k key.Key) time.Duration {
	ctx := b.Context()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	conn, err := pgx.Connect(ctx, db.URL())
	must(err)
	defer conn.Close(ctx)
	block, err := aes.NewCipher(k.UnsafeBytes())
	must(err)
	gcm, err := cipher.NewGCM(block)
	must(err)
	start := time.Now()
	tx, err := conn.Begin(ctx)
	must(err)
	type row struct {
		ID                [16]byte
		Username, Name    string
		Nonce, Ciphertext []byte
	}
	found, err := tx.Query(ctx, "select id, username, name, nonce, ciphertext from secrets")
	must(err)
	all, err := pgx.CollectRows(found, pgx.RowToStructByPos[row])
	must(err)
	for _, r := range all {
		additional := []byte(r.Username + "\x00" + r.Name)
		value, err := gcm.Open(nil, r.Nonce, r.Ciphertext, additional)
		must(err)
		nonce := make([]byte, gcm.NonceSize())
		_, err = rand.Read(nonce)
		must(err)
		_, err = tx.Exec(ctx, "update secrets set nonce = $1, ciphertext = $2 where id = $3", nonce, gcm.Seal(nil, nonce, value, additional), r.ID)
		must(err)
	}
	must(tx.Commit(ctx))
	return time.Since(start)
}

// BenchmarkScale is what more rows, more copies and more escrows cost: every key at hand is
// tried on the rows, "ms" a time. One of the three grows, the others stay.
func BenchmarkScale(b *testing.B) {
	cluster := rowstest.New(b)
	k := testKey("scale")
	for _, s := range []struct {
		name                  string
		rows, copies, escrows int
	}{
		{"rows", 100, 1, 1}, {"rows", 1000, 1, 1}, {"rows", 10_000, 1, 1}, {"rows", 100_000, 1, 1},
		{"copies", 100, 1, 1}, {"copies", 100, 10, 1}, {"copies", 100, 100, 1},
		{"escrows", 100, 1, 1}, {"escrows", 100, 1, 4}, {"escrows", 100, 1, 16},
	} {
		grown := map[string]int{"rows": s.rows, "copies": s.copies, "escrows": s.escrows}[s.name]
		b.Run(fmt.Sprintf("%s=%d", s.name, grown), func(b *testing.B) {
			db := cluster.Database(b)
			h := newHost(b, db, s.escrows)
			h.must(db.Fill(k, 0, s.rows, 100, 256))
			h.write(k.UnsafeBytes())
			for _, e := range h.Escrows {
				for range s.copies - 1 {
					_, err := e.Writer.Save(b.Context(), escrow.Quarantine, key.Generate())
					h.must(err)
				}
				_, err := e.Writer.Save(b.Context(), escrow.Current, k)
				h.must(err)
			}
			var took []time.Duration
			for b.Loop() {
				start := time.Now()
				r, err := agent.Verify(b.Context(), &h.Host)
				if err != nil || r.Rows.VerdictOf(k.Fingerprint()) != rows.Opens {
					b.Fatal(r, err)
				}
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}
