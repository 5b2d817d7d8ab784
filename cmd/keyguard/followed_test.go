package main

import (
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"

	"github.com/footprintai/containarium-keyguard/agent"
	"github.com/footprintai/containarium-keyguard/agent/worlds"
)

// named are the commands that the hints of status name, in their order: what follows
// `keyguard`, and "start" where the daemon is to be started.
func named(r agent.StatusResult) (commands []string) {
	for _, hint := range statusHints(r) {
		for _, m := range typed.FindAllStringSubmatch(hint, -1) {
			command := m[1]
			if command == "" {
				command = "start"
			}
			commands = append(commands, strings.TrimSpace(command))
		}
	}
	return commands
}

var typed = regexp.MustCompile(`keyguard ([a-z]+(?: --new\b)?)|systemctl (?:re)?start containarium`)

// TestStatusNamesWhatMends: after random accidents, when all faults are over, whoever types
// what status names, and what it names next, ends at green. agent/worlds has the accidents.
func TestStatusNamesWhatMends(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "keyguard-followed-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) }) //nolint:errcheck // it is in memory
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	asked, count := 0, uint64(100)
	if testing.Short() {
		count = 20
	}
	for seed := uint64(1); seed <= count; seed++ {
		p := worlds.Imagine(seed)
		var broken *worlds.Broken
		synctest.Test(t, func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, p.Seed)
			_, broken = worlds.Follow(p, dir, func(r agent.StatusResult) []string {
				asked++
				return named(r)
			})
		})
		if broken != nil {
			t.Fatalf("world %d: %s\n%s\n%#v", seed, broken.What, broken.Story, p)
		}
	}
	if asked == 0 {
		t.Error("nobody was told anything")
	}
}
