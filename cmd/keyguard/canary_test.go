package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/key/keytest"
)

// leaks collects what scripts and other tests leave where no key may be (law 8).
var leaks canary

// searched are all tests of this package: they fail where one of them left a key.
type searched struct{ *testing.M }

func (s searched) Run() int {
	code := s.M.Run()
	for _, leak := range leaks.found {
		fmt.Fprintln(os.Stderr, leak)
		code = max(code, 1)
	}
	return code
}

type canary struct {
	mu    sync.Mutex
	found []string // mu
}

// keys are the test keys, and every one that keyguard made in this sandbox.
func (s *sandbox) keys() []key.Key {
	all := []key.Key{testKey("a"), testKey("b"), testKey("c")}
	add := func(b []byte) {
		if k, err := key.New(b); err == nil {
			all = append(all, k)
		}
	}
	for _, glob := range []string{"etc/*", "etc/.keyguard-*", "state/quarantine/*", "usb/*/*"} {
		if s.hung != "" && strings.HasPrefix(s.path(glob), s.hung) {
			continue
		}
		files, _ := filepath.Glob(s.path(glob))
		for _, f := range files {
			if info, err := os.Stat(f); err != nil || !info.Mode().IsRegular() || info.Size() != key.Size {
				continue
			}
			if data, err := os.ReadFile(f); err == nil {
				add(data)
			}
		}
	}
	if s.gcp != nil {
		for _, secret := range gcpSecrets {
			for _, v := range s.gcp.Versions(secret) {
				add(v)
			}
		}
	}
	if s.vault != nil {
		for _, name := range s.vault.Names(vaultMount) {
			value, _ := s.vault.Get(vaultMount, name)["value"].(string)
			if k, err := base64.StdEncoding.DecodeString(value); err == nil {
				add(k)
			}
		}
	}
	return all
}

// left are the places, beside those that keys are kept in, of what a script leaves: what
// keyguard keeps, its scratch, what hooks, metrics and the ping were told, core dumps, and
// which programs were started how. Files at the top may be the script's own keys.
var left = []string{"state", "run", ".tmp", "metrics", "told*", "core*", "started*"}

// search looks through everything that a script leaves, but for the quarantine.
func (c *canary) search(name string, s *sandbox) {
	keys := s.keys()
	var places []string
	for _, glob := range left {
		found, _ := filepath.Glob(s.path(glob))
		places = append(places, found...)
	}
	for _, place := range places {
		if s.hung != "" && strings.HasPrefix(s.hung, place) {
			continue
		}
		filepath.WalkDir(place, func(path string, d fs.DirEntry, err error) error {
			if err != nil || path == s.path("state/quarantine") {
				return fs.SkipDir
			}
			if !d.Type().IsRegular() {
				return nil
			}
			data, err := os.ReadFile(path)
			if strings.HasPrefix(filepath.Base(path), "started") {
				data = unescape(data)
			}
			form := keytest.Find(data, keys...)
			c.mu.Lock()
			defer c.mu.Unlock()
			if err != nil {
				c.found = append(c.found, fmt.Sprintf("%s: %v", name, err))
			}
			if form != "" {
				c.found = append(c.found, fmt.Sprintf("%s: a key in %s: %s", name, path, form))
			}
			return nil
		})
	}
}

// started has strace(1) write down with which arguments and environment a command, and
// whatever it starts, begins. Strings are in hex, so that nothing in them is cut or quoted.
func (s *sandbox) started(command []string) []string {
	s.traces++
	return append([]string{"strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=execve", "-e", "signal=none", "-v", "-xx", "-s", "1000000",
		"-o", s.path(fmt.Sprintf("started%d", s.traces))}, command...)
}

var escaped = regexp.MustCompile(`(?:\\x[0-9a-f]{2})+`)

// unescape makes bytes of the strings that strace -xx writes.
func unescape(trace []byte) []byte {
	return escaped.ReplaceAllFunc(trace, func(text []byte) []byte {
		b, err := hex.DecodeString(strings.ReplaceAll(string(text), `\x`, ""))
		if err != nil {
			return text
		}
		return b
	})
}
