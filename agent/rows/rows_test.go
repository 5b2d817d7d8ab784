package rows_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/rows"
	"github.com/footprintai/containarium-keyguard/agent/rows/rowstest"
)

// cluster is shared by the tests that leave it as it was.
var cluster *rowstest.Cluster

func TestMain(m *testing.M) {
	code, err := withCluster(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withCluster(run func() int) (code int, err error) {
	dir, err := os.MkdirTemp("", "rows")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if cluster, err = rowstest.Start(dir); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	return run(), nil
}

func TestVerdicts(t *testing.T) {
	a, b, _ := rowstest.Vectors()
	d := cluster.Database(t)
	if err := d.InsertVectors(nil); err != nil {
		t.Fatal(err)
	}
	table, err := rows.Open(rows.Location{URL: d.URL(), From: "test"}, rows.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	answer := table.Prove(context.Background(), a, b)
	t.Logf("%+v", answer)
}
