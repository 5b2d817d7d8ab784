package rowstest_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

// TestVectors: our own sealing, read by our own reading, is the daemon's.
func TestVectors(t *testing.T) {
	d := rowstest.New(t).Database(t)
	a, b, vectors := rowstest.Vectors()
	if len(vectors) != 15 {
		t.Fatalf("%d vectors", len(vectors))
	}
	if err := d.InsertVectors(nil); err != nil {
		t.Fatal(err)
	}
	for _, v := range vectors {
		for name, k := range map[string]key.Key{"A": a, "B": b} {
			got, err := d.Read(k, v.Username, v.Name)
			if want := v.OpensWith == name; (err == nil) != want || want && !bytes.Equal(got, v.Plaintext) {
				t.Errorf("%s, key %s: %d bytes, %v", v.Case, name, len(got), err)
			}
		}
	}
}

func TestUpsert(t *testing.T) {
	c := rowstest.New(t)
	for _, old := range []bool{false, true} {
		d, err := c.NewDatabase("")
		if err != nil {
			t.Fatal(err)
		}
		create := d.CreateTable
		if old {
			create = d.CreateOldTable
		}
		k := key.Generate()
		err = errors.Join(create(), d.Upsert(k, "alice", "A", []byte("1")), d.Upsert(k, "alice", "A", []byte("2")))
		if !old {
			err = errors.Join(err, d.UpsertEnvelope(k, "bob", "B", []byte("3")))
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := d.Read(k, "alice", "A"); err != nil || string(got) != "2" {
			t.Errorf("%q, %v", got, err)
		}
		version, err := d.Exec("select version from secrets where username = $1", "alice")
		if err != nil || version[0][0] != "2" {
			t.Errorf("version %v, %v", version, err)
		}
		if old {
			continue
		}
		if got, err := d.Read(k, "bob", "B"); err != nil || string(got) != "3" {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// TestStart: other packages' tests rely on a start that costs next to nothing. The
// bound is for a machine that is busy; at rest it is a quarter of a second.
func TestStart(t *testing.T) {
	rowstest.New(t) // makes the template
	start := time.Now()
	c := rowstest.New(t)
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("a start took %v", took)
	} else {
		t.Log(took)
	}
	d := c.Database(t)
	if err := d.Fill(key.Generate(), 0, 1000, 10, 32); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(); err != nil {
		t.Fatal(err)
	}
	n, err := d.Exec("select count(*), count(distinct username) from secrets")
	if err != nil || strings.Join(n[0], " ") != "1000 10" {
		t.Errorf("%v, %v", n, err)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
}
