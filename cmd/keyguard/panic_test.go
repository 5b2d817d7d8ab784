package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/footprintai/containarium-keyguard/agent/crew"
)

// TestPanic: a command that panics, here or in a goroutine that it waits for, ends as one
// that failed: with 1, on one printable line that says where.
func TestPanic(t *testing.T) {
	const value = "somebody's \x1b[2J\nkeyguard: all is well"
	for what, f := range map[string]func(*cobra.Command, []string){
		"here":           func(*cobra.Command, []string) { panic(value) },
		"in a goroutine": func(*cobra.Command, []string) { crew.Each(2, func(int) { panic(value) }) },
		"in a place that may hang": func(*cobra.Command, []string) {
			_ = crew.Try("/a place", func() error { panic(value) })
		},
	} {
		var said bytes.Buffer
		a := &app{err: &said}
		c, err := execute(context.Background(), &cobra.Command{Use: "keyguard", Run: f})
		if err == nil {
			t.Fatalf("%s: no error", what)
		}
		a.command = c.CommandPath()
		if code := a.explain(err); code != exitInternal {
			t.Errorf("%s: exit code %d", what, code)
		}
		line, hint, _ := strings.Cut(said.String(), "\n")
		if !strings.Contains(line, "panic: somebody's") || !strings.Contains(said.String(), "panic_test.go:") || !strings.Contains(hint, "hint: ") {
			t.Errorf("%s: it says\n%s", what, said.String())
		}
		if unprintable.MatchString(said.String()) || strings.Contains(said.String(), "\nkeyguard: all") {
			t.Errorf("%s: %q is printed as it is", what, said.String())
		}
	}
}
