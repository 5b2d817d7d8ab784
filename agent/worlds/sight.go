package worlds

import (
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

// sight is what a look of the watcher depends on, but for the time: the host, and as much of
// rows and stores as it asked. One that found nothing to do would find nothing again as long
// as that is as it was, so that it need not be played.
type sight struct {
	disk   int
	faults faults
	daemon daemon
	silent bool
	tardy  time.Duration
	clock  time.Duration
	rows   rowsSight
	stores [4]storeSight // as many as there are at most
}

type rowsSight struct {
	asked         bool
	version       int
	down, noTable bool
	slow          time.Duration
}

type storeSight struct {
	asked   bool
	manners manners
	part    escrow.PartOf
	serial  int
	copies  string // how each is
}

// sight is what there is to see now.
func (h *host) sight() sight {
	s := sight{disk: h.disk.shown, faults: h.disk.faults, daemon: h.daemon, silent: h.silent, tardy: h.tardy, clock: h.clock,
		rows: rowsSight{true, h.table.version, h.table.down, h.table.noTable, h.table.slow}}
	for i, each := range h.stores {
		var copies []byte
		for _, c := range each.copies {
			if !each.lists(c, time.Now()) {
				copies = append(copies, "late "...)
			}
			copies = append(append(copies, c.state...), ',')
		}
		s.stores[i] = storeSight{true, each.manners, each.part, each.serial, string(copies)}
	}
	return s
}

// askedBy leaves of a sight what a process has asked.
func (s sight) askedBy(p *process) sight {
	if !p.rows {
		s.rows = rowsSight{}
	}
	for i, each := range p.h.stores {
		if p.of[each.name] == 0 {
			s.stores[i] = storeSight{}
		}
	}
	return s
}

// like leaves of a sight what another one has.
func (s sight) like(other sight) sight {
	if !other.rows.asked {
		s.rows = rowsSight{}
	}
	for i := range s.stores {
		if !other.stores[i].asked {
			s.stores[i] = storeSight{}
		}
	}
	return s
}

// idle tells whether the watcher's last look found nothing to do, and one now would not, but
// for the time.
func (h *host) idle() bool {
	saw := h.watcher.saw
	return saw != nil && h.sight().like(*saw) == *saw
}

// wakes is when the watcher looks next: when it said, or, where it is idle, when the time
// alone may have changed what it finds. What depends on that, as the age of an aside does, is
// seen a little later.
func (h *host) wakes() time.Time {
	t := &h.watcher
	if !h.idle() {
		return t.next
	}
	at := t.looked.Add(20 * time.Second << (6 * min(t.same, 2)))
	for name, asked := range t.visited { // not for an hour, or it failed and is to be tried again
		again := asked.Add(time.Hour)
		if retry := t.retry[name]; retry.After(t.looked) {
			again = retry
		}
		if left := t.leftAt[name].Add(time.Hour); len(t.left[name]) > 0 && left.After(t.looked) && left.Before(again) {
			again = left // what was due there still is tried again
		}
		if again.After(t.looked) && again.Before(at) {
			at = again
		}
	}
	return t.tick(at)
}

// tick is the first moment, not before at, in which the watcher looks by its pace.
func (t *watcher) tick(at time.Time) time.Time {
	if t.pace == 0 || !at.After(t.next) {
		return t.next
	}
	return t.next.Add((at.Sub(t.next) + t.pace - 1) / t.pace * t.pace)
}
