package lock

import (
	"sync"

	"golang.org/x/sys/unix"
)

// Find finds the file of a lock on a simulated disk, and makes it where it is missing. It is
// nil in the program, whose locks are the kernel's.
var Find func(path string) *Simulated

// Simulated is a file that can be locked, whatever has become of its name. The zero one is
// free.
type Simulated struct {
	mu        sync.Mutex // guards what follows
	shared    int        // how many hold it so
	exclusive bool
}

// take is flock(2) with LOCK_NB.
func (s *Simulated) take(how int) (free bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exclusive || how == unix.LOCK_EX && s.shared > 0 {
		return false
	}
	if how == unix.LOCK_EX {
		s.exclusive = true
	} else {
		s.shared++
	}
	return true
}

// giveBack is flock(2) with LOCK_UN.
func (s *Simulated) giveBack(how int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch how {
	case unix.LOCK_EX:
		s.exclusive = false
	case unix.LOCK_SH:
		s.shared--
	}
}
