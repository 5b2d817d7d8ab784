package laws_test

import (
	"testing"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/worlds/laws"
)

// TestLaws breaks each law once, and keeps it once by as little as can be.
func TestLaws(t *testing.T) {
	a, b := key.Generate(), key.Generate()
	fa, fb := a.Fingerprint(), b.Fingerprint()
	rows := func(as, bs int) map[string]key.Fingerprint {
		m := map[string]key.Fingerprint{}
		for i := range as + bs {
			m[string(rune('0'+i))] = fa
			if i >= as {
				m[string(rune('0'+i))] = fb
			}
		}
		return m
	}
	here := laws.State{Files: map[string][]byte{"/keyfile": a.UnsafeBytes()}, Rows: rows(2, 0)}
	stored := laws.State{Copies: []laws.Copy{{Store: "gcp", Current: true, Bytes: a.UnsafeBytes()}}, Rows: rows(2, 0)}
	destroyed := laws.State{Copies: []laws.Copy{{Store: "gcp", Bytes: a.UnsafeBytes(), Destroyed: true}}, Rows: rows(2, 0)}
	split := func(as, bs int) laws.State {
		return laws.State{Files: map[string][]byte{"/b": b.UnsafeBytes()}, Rows: rows(as, bs)}
	}
	fragile := map[key.Fingerprint]bool{fa: true}
	ofA, ofB := laws.Copy{Store: "gcp", Current: true, Bytes: a.UnsafeBytes()}, laws.Copy{Store: "gcp", Current: true, Bytes: b.UnsafeBytes()}
	shut := ofA
	shut.Shut = true
	two := func(first, second laws.Copy) laws.State {
		return laws.State{Copies: []laws.Copy{first, second}, Rows: rows(2, 0)}
	}
	disk := [][]byte{a.UnsafeBytes()}
	for name, c := range map[string]struct {
		err    error
		broken bool
	}{
		"a key moved to a store":               {laws.Lost(here.Held(), stored.Held(), nil), false},
		"a key is gone":                        {laws.Lost(here.Held(), laws.State{}.Held(), nil), true},
		"its only copy is destroyed":           {laws.Lost(stored.Held(), destroyed.Held(), nil), true},
		"a file that nobody synced is gone":    {laws.Lost(here.Held(), laws.State{}.Held(), fragile), false},
		"minted over nothing":                  {laws.Minted(laws.State{}, fa), false},
		"minted over rows":                     {laws.Minted(here, fb), true},
		"minted over a copy":                   {laws.Minted(laws.State{Copies: stored.Copies}, fb), true},
		"saved, and it opens most":             {laws.Saved(split(3, 2), fa, "", false), false},
		"saved, and it opens half":             {laws.Saved(split(2, 2), fa, "", false), true},
		"saved, no row speaks":                 {laws.Saved(laws.State{}, fa, "", false), false},
		"saved, no row speaks, and a rival":    {laws.Saved(laws.State{}, fa, fb, false), true},
		"saved while a rotation is open":       {laws.Saved(here, fa, "", true), true},
		"started on the key of all rows":       {laws.Started(here, fa, true, -1), false},
		"started on a refuted key":             {laws.Started(here, fb, true, -1), true},
		"started on one that is vouched for":   {laws.Started(here, fb, true, 0), false},
		"started on the lesser key":            {laws.Started(split(1, 2), fa, true, -1), true},
		"started on it, and a store is away":   {laws.Started(split(1, 2), fa, false, -1), false},
		"green, and right":                     {laws.Green(two(ofB, ofA), a.UnsafeBytes()), false},
		"green on a key of no row":             {laws.Green(two(ofA, ofB), b.UnsafeBytes()), true},
		"green below another key":              {laws.Green(two(ofA, ofB), a.UnsafeBytes()), true},
		"green below what nobody gets":         {laws.Green(two(ofA, shut), a.UnsafeBytes()), true},
		"taken away, and kept":                 {laws.Destroyed("/aside", a.UnsafeBytes(), here.Files), false},
		"taken away":                           {laws.Destroyed("/keyfile", a.UnsafeBytes(), here.Files), true},
		"lost, and a store has it":             {laws.Lacking(stored), true},
		"lost, and it was destroyed":           {laws.Lacking(destroyed), false},
		"durable":                              {laws.Durable(here.Files, here.Files), false},
		"durable, but another":                 {laws.Durable(here.Files, map[string][]byte{"/keyfile": b.UnsafeBytes()}), true},
		"not durable":                          {laws.Durable(here.Files, nil), true},
		"rewritten, both are safe":             {laws.Rewritten(two(ofA, ofB), disk, fa, []key.Fingerprint{fb}), false},
		"rewritten, the new one is nowhere":    {laws.Rewritten(two(ofB, ofB), disk, fa, []key.Fingerprint{fb}), true},
		"rewritten, the old one is nowhere":    {laws.Rewritten(two(ofA, ofA), disk, fa, []key.Fingerprint{fb}), true},
		"rewritten, the disk has forgotten":    {laws.Rewritten(two(ofA, ofB), nil, fa, []key.Fingerprint{fb}), true},
		"asked once":                           {laws.Asked("gcp", 1, 0), false},
		"asked again after five seconds":       {laws.Asked("gcp", 2, 5*time.Second), false},
		"asked again at once":                  {laws.Asked("gcp", 2, 4*time.Second), true},
		"asked for the third time too soon":    {laws.Asked("gcp", 3, 9*time.Second), true},
		"asked as often as may be":             {laws.Asked("gcp", 40, 2*time.Minute), false},
		"asked for ever too soon":              {laws.Asked("gcp", 40, 119*time.Second), true},
		"called for each copy":                 {laws.Called("gcp", 8, 3, 1), false},
		"called by a start that was overtaken": {laws.Called("gcp", 16, 3, 2), false},
		"called a third time after that":       {laws.Called("gcp", 17, 3, 2), true},
		"called twice for a copy":              {laws.Called("gcp", 9, 3, 1), true},
		"called for what is on top":            {laws.Rested("gcp", 6, 0, 1), false},
		"called every few minutes":             {laws.Rested("gcp", 7, 0, 1), true},
		"given what it has":                    {laws.Rested("gcp", 3, 1, 1), true},
	} {
		if (c.err != nil) != c.broken {
			t.Errorf("%s: %v", name, c.err)
		}
	}
	if here.Unheld() != "" || destroyed.Unheld() != fa {
		t.Error("which rows are under a key that is nowhere")
	}
}
