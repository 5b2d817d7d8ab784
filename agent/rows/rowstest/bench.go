package rowstest

import (
	"errors"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

// Roomy gives the server the memory that it takes by default, as the daemon's does: what is
// measured on it depends on it.
func (c *Cluster) Roomy() error {
	return errors.Join(c.Admin("postgres", "alter system set shared_buffers = '128MB'"), c.Restart())
}

// Durable makes the server as durable as an operator's, and as roomy: what is measured on
// it costs what it costs there.
func (c *Cluster) Durable() error {
	return errors.Join(c.Admin("postgres", "alter system set fsync = on"),
		c.Admin("postgres", "alter system set full_page_writes = on"), c.Roomy())
}

// Flip changes every row by one UPDATE in the server, of the columns that a rotation
// writes, which is the least that could be done to bring the table under another key. A
// large value that is given back as it was would not be written: so it flips a byte of
// each, and a second time flips it back.
func (d *Database) Flip() error {
	_, err := d.Exec("update secrets set nonce = nonce || '', ciphertext = set_byte(ciphertext, 0, 255 - get_byte(ciphertext, 0))")
	return err
}

// PutInOrder takes the dead rows away that an UPDATE leaves, which are as many again.
func (d *Database) PutInOrder() error {
	return errors.Join(d.Admin("vacuum (full, analyze) secrets"), d.Admin("checkpoint"))
}

// WatchHeap samples the live heap until the function it returns is called.
func WatchHeap() (most func() int64) {
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
