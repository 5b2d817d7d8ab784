package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tyler-smith/go-bip39"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// leaks collects what all scripts leave where no key may be (law 8).
var leaks canary

type canary struct {
	mu    sync.Mutex
	found []string // mu
	looks int      // mu
}

// window is how many bytes of a key in a row count as the key.
const window = 9

// in says in which form one of the keys is in a text, "" for none. A part of it will do:
// loggers cut what they print.
func (c *canary) in(text []byte, keys [][]byte) string {
	c.mu.Lock()
	c.looks++
	c.mu.Unlock()
	if len(text) < window {
		return ""
	}
	lower := bytes.ToLower(text)
	// What stands between the digits of bytes printed one by one goes.
	digits := bytes.ToLower(text)
	for _, gap := range []string{"0x", `\x`, ":", ", ", " ", ","} {
		digits = bytes.ReplaceAll(digits, []byte(gap), nil)
	}
	numbers := bytes.ReplaceAll(text, []byte(","), []byte(" "))
	numbers = bytes.Join(bytes.Fields(numbers), []byte(" "))
	for _, k := range keys {
		for at := 0; at+window <= len(k); at++ {
			part := k[at : at+window]
			quoted := fmt.Sprintf("%q", part)
			for form, there := range map[string]bool{
				"raw":             bytes.Contains(text, part),
				"hex":             bytes.Contains(lower, []byte(hex.EncodeToString(part))) || bytes.Contains(digits, []byte(hex.EncodeToString(part))),
				"base64":          bytes.Contains(text, []byte(base64.StdEncoding.EncodeToString(part))),
				"base64 for URLs": bytes.Contains(text, []byte(base64.URLEncoding.EncodeToString(part))),
				"decimal numbers": bytes.Contains(numbers, []byte(strings.Trim(fmt.Sprint(part), "[]"))),
				"a quoted string": bytes.Contains(text, []byte(quoted[1:len(quoted)-1])),
			} {
				if there {
					return form
				}
			}
		}
		if words, err := bip39.NewMnemonic(k); err == nil && bytes.Contains(lower, []byte(words)) {
			return "words"
		}
	}
	return ""
}

// keys are the test keys, and every one that keyguard made in this sandbox.
func (s *sandbox) keys() [][]byte {
	var all [][]byte
	for _, name := range []string{"a", "b", "c"} {
		all = append(all, testKey(name).UnsafeBytes())
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
				all = append(all, data)
			}
		}
	}
	if s.gcp != nil {
		for _, secret := range gcpSecrets {
			for _, v := range s.gcp.Versions(secret) {
				if len(v) == key.Size {
					all = append(all, v)
				}
			}
		}
	}
	if s.vault != nil {
		for _, name := range s.vault.Names(vaultMount) {
			value, _ := s.vault.Get(vaultMount, name)["value"].(string)
			if k, err := base64.StdEncoding.DecodeString(value); err == nil && len(k) == key.Size {
				all = append(all, k)
			}
		}
	}
	return all
}

// search looks through everything that a script leaves, but for the places of keys: the
// keyfile's directory, the quarantine, the escrow, and the files that the script made
// itself, which lie at the top and are not ours.
func (c *canary) search(name string, s *sandbox) {
	keys := s.keys()
	for _, top := range []string{"state", "run"} {
		filepath.WalkDir(s.path(top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || path == s.path("state/quarantine") {
				return fs.SkipDir
			}
			if !d.Type().IsRegular() {
				return nil
			}
			data, err := os.ReadFile(path)
			form := c.in(data, keys)
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

// TestCanary: a canary that sings for nothing finds nothing.
func TestCanary(t *testing.T) {
	k := testKey("a").UnsafeBytes()
	keys := [][]byte{testKey("b").UnsafeBytes(), k}
	words, err := bip39.NewMnemonic(k)
	if err != nil {
		t.Fatal(err)
	}
	type bare struct{ B []byte }
	for form, text := range map[string]string{
		"raw":               "x" + string(k),
		"a part":            string(k[11:24]),
		"hex":               hex.EncodeToString(k),
		"upper hex":         strings.ToUpper(hex.EncodeToString(k)),
		"hex with colons":   fmt.Sprintf("% x", k),
		"base64":            base64.StdEncoding.EncodeToString(k),
		"base64 for URLs":   base64.RawURLEncoding.EncodeToString(k),
		"base64 in more":    base64.StdEncoding.EncodeToString(append([]byte("xx"), k...)),
		"%v":                fmt.Sprint(bare{k}),
		"%#v":               fmt.Sprintf("%#v", bare{k}),
		"%q":                fmt.Sprintf("%q", k),
		"http2debug":        fmt.Sprintf("http2: Framer 0x1: wrote DATA len=37 data=%q", "\x0a\x20"+string(k)),
		"words":             words,
		"a cut http2 frame": fmt.Sprintf("data=%q (5 bytes omitted)", "\x0a\x20"+string(k[:20])),
	} {
		if leaks.in([]byte(text), keys) == "" {
			t.Errorf("%s: not found", form)
		}
	}
	other := testKey("c")
	if form := leaks.in(fmt.Append(nil, other.UnsafeBytes(), other, testKey("a")), keys); form != "" {
		t.Errorf("found as %s where it is not", form)
	}
}
