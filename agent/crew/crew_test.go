package crew_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/crew"
)

func TestPanicBecomesAnError(t *testing.T) {
	bad := func() error { var b []byte; _ = b[len(b)]; return nil }
	var g crew.Group
	g.Go(bad)
	g.Go(func() error { return nil })
	c, ctx := crew.WithContext(context.Background())
	c.Go(bad)
	c.Go(func() error { <-ctx.Done(); return nil })
	for what, err := range map[string]error{"Do": crew.Do(bad), "Go": <-crew.Go(bad), "a group": g.Wait(), "a group with a context": c.Wait(),
		"one that hands it on": crew.Do(func() error { crew.Each(3, func(int) { _ = bad() }); return nil })} {
		var p *crew.Panic
		if !errors.As(err, &p) || !strings.Contains(err.Error(), "index out of range") || !strings.Contains(string(p.Stack), "crew_test.go") {
			t.Errorf("%s: %v", what, err)
		}
	}
	usual := errors.New("usual")
	if err := crew.Do(func() error { return usual }); err != usual {
		t.Error(err)
	}
	seen := make([]bool, 4)
	crew.Each(len(seen), func(i int) { seen[i] = true })
	for i, s := range seen {
		if !s {
			t.Errorf("%d was not called", i)
		}
	}
}
