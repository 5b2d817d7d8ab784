package rowstest

import (
	"sync"
	"testing"
)

// Shared is one cluster for the tests of a package that want nothing of it but databases: to
// copy, start and remove one costs more than most of them do. It starts when it is first
// asked for, and TestMain closes it. A test that stops the server, has it hang or changes its
// settings has one of its own, by New.
type Shared struct {
	once    sync.Once
	cluster *Cluster
	err     error
}

// Start returns the cluster.
func (s *Shared) Start() (*Cluster, error) {
	s.once.Do(func() { s.cluster, s.err = Start("") })
	return s.cluster, s.err
}

// Cluster is Start for a test.
func (s *Shared) Cluster(tb testing.TB) *Cluster {
	tb.Helper()
	c, err := s.Start()
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// Close is Cluster's, where there is one.
func (s *Shared) Close() error {
	if s.cluster == nil {
		return nil
	}
	return s.cluster.Close()
}
