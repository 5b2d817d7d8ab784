package kinds

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

// scripts are the programs that the configuration names.
type scripts struct {
	runner
	o CommandOptions
}

func (p *scripts) where() (where, domain string) {
	return strings.Join(p.o.List, " "), "what " + p.o.Save[0] + " keeps"
}

func (p *scripts) list(ctx context.Context) ([]stored, error) {
	out, err := p.run(ctx, p.o.List, nil, maxListing)
	if errors.Is(err, escrow.ErrGone) { // 66 of a listing
		err = fmt.Errorf("%w: %w", escrow.ErrNoPlace, err)
	}
	if err != nil {
		return nil, err
	}
	return parseListing(out, ""), nil
}

// parseListing reads a name a line, and a time behind a tab.
func parseListing(out []byte, suffix string) []stored {
	var list []stored
	for line := range strings.Lines(string(out)) {
		name, at, _ := strings.Cut(strings.TrimRight(line, "\r\n"), "\t")
		e := stored{name: strings.TrimSuffix(name, suffix)}
		if t, err := time.Parse(time.RFC3339, at); err == nil {
			e.at = t
		}
		list = append(list, e)
	}
	return list
}

func (p *scripts) fetch(ctx context.Context, e stored) ([]byte, error) {
	return p.run(ctx, named(p.o.Fetch, e.name), nil, maxText)
}

func (p *scripts) save(ctx context.Context, name string, text []byte) error {
	_, err := p.run(ctx, named(p.o.Save, name), text, maxText)
	return err
}

// named puts the name into a command.
func named(argv []string, name string) []string {
	out, there := make([]string, 0, len(argv)+1), false
	for _, a := range argv {
		there = there || strings.Contains(a, "{name}")
		out = append(out, strings.ReplaceAll(a, "{name}", name))
	}
	if !there {
		out = append(out, name)
	}
	return out
}
