package main

import (
	"fmt"
	"os"
	"time"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/unit"
)

// progress shows on a terminal how far something is, in one line that changes, and
// elsewhere each step once.
type progress struct {
	app    *app
	name   string
	of     string // what is counted: "rows"
	record bool   // each step goes to the journal, too: the terminal may be gone
	step   string
	began  time.Time // of the step
	shown  time.Time
	line   bool // one is on the terminal
}

const progressEvery = 200 * time.Millisecond

func (p *progress) rotation(r agent.RotateProgress) { p.show(r.Step, r.Done, r.Total) }

func (p *progress) show(step string, done, total int64) {
	if p.record && step != p.step {
		if err := unit.Record(p.name+": "+step, unit.Informational, nil); err != nil {
			p.record = false // where there is no journal, nobody looks for it
		}
	}
	if p.app.brief {
		p.step = step
		return
	}
	now := time.Now()
	if step == p.step && now.Sub(p.shown) < progressEvery && done < total {
		return
	}
	if step != p.step {
		p.end()
		p.step, p.began = step, now
		if plain(os.Stderr) {
			p.app.say("%s: %s", p.name, step)
		}
	}
	if plain(os.Stderr) {
		return
	}
	p.shown, p.line = now, true
	text := "keyguard: " + step + " …"
	if took := now.Sub(p.began); done > 0 && total > 0 {
		text = fmt.Sprintf("keyguard: %s: %d of %d %s", step, done, total, p.of)
		if took > time.Second {
			rate := float64(done) / took.Seconds()
			text += fmt.Sprintf(", %.0f a second, %s left", rate, time.Duration(float64(total-done)/rate*float64(time.Second)).Round(time.Second))
		}
	}
	// What is longer than the line would stay behind: only one line is taken back.
	if r := []rune(text); len(r) >= columns(os.Stderr) {
		text = string(r[:columns(os.Stderr)-2]) + "…"
	}
	fmt.Fprintf(os.Stderr, "\r\x1b[K%s", text)
}

// end leaves the line that was shown last.
func (p *progress) end() {
	if p.line {
		fmt.Fprintln(os.Stderr)
	}
	p.line = false
}

func (p *progress) drill(r agent.DrillProgress) {
	if r.Proving {
		p.show("trying the keys on the rows", 0, 0)
	} else {
		p.show("restoring", int64(r.Done), int64(r.Found))
	}
}
