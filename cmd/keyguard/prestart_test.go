package main

import (
	"context"
	"testing"
)

// TestEnding: what has ended is not said to hang, though the time is over as well.
func TestEnding(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		done := make(chan error, 1)
		done <- nil
		if err, is := ending(over, done); err != nil || !is {
			t.Fatalf("%v, %v", err, is)
		}
	}
	if _, is := ending(over, make(chan error)); is {
		t.Error("what goes on has ended")
	}
}
