package worlds

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Step is one thing that happens in a world.
type Step struct {
	Do  string // the name of an action
	Arg uint64 // out of which the action draws all that is left open
	// Dies is the effect before which the process that the action runs dies; 0: it lives.
	Dies int
}

// Plan is a history: the same plan is the same world.
type Plan struct {
	Seed  uint64 // of how the world was before the first step
	Steps []Step
}

// Imagine draws a plan.
func Imagine(seed uint64) Plan {
	r := rand.New(rand.NewPCG(seed, 0x6b65796775617264))
	p := Plan{Seed: seed}
	total := 0
	for _, a := range actions {
		total += a.weight
	}
	for range 4 + r.IntN(14) {
		n := r.IntN(total)
		for _, a := range actions {
			if n -= a.weight; n >= 0 {
				continue
			}
			s := Step{Do: a.name, Arg: r.Uint64()}
			if a.mortal && r.IntN(4) == 0 {
				s.Dies = 1 + r.IntN(a.effects)
			}
			p.Steps = append(p.Steps, s)
			break
		}
	}
	return p
}

// GoString is the plan as a test has it.
func (p Plan) GoString() string {
	var b strings.Builder
	fmt.Fprintf(&b, "worlds.Plan{Seed: %d, Steps: []worlds.Step{\n", p.Seed)
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "\t{Do: %q, Arg: %#x, Dies: %d},\n", s.Do, s.Arg, s.Dies)
	}
	b.WriteString("}}")
	return b.String()
}

// Shorten leaves out of a plan what is not needed for it to break the same law, as long as
// something can be left out.
func Shorten(p Plan, broken func(Plan) bool) Plan {
	for again := true; again; {
		again = false
		for i := len(p.Steps) - 1; i >= 0; i-- {
			try := Plan{Seed: p.Seed, Steps: append(append([]Step(nil), p.Steps[:i]...), p.Steps[i+1:]...)}
			if broken(try) {
				p, again = try, true
			}
		}
		for i, s := range p.Steps {
			if s.Dies == 0 {
				continue
			}
			try := Plan{Seed: p.Seed, Steps: append([]Step(nil), p.Steps...)}
			try.Steps[i].Dies = 0
			if broken(try) {
				p, again = try, true
			}
		}
	}
	return p
}
