// Package keytest looks for keys where none may be (law 8).
package keytest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// NoLeak fails if out holds a quarter of the key in any form that is likely.
func NoLeak(t testing.TB, what string, out []byte, k key.Key) {
	t.Helper()
	const part = key.Size / 4
	raw := k.UnsafeBytes()
	lower := strings.ToLower(string(out))
	for i := range key.Size - part + 1 {
		piece := raw[i : i+part]
		forms := []string{
			hex.EncodeToString(piece), fmt.Sprintf("% x", piece), // also with upper-case digits
			strings.Trim(fmt.Sprint(piece), "[]"), strings.ReplaceAll(strings.Trim(fmt.Sprint(piece), "[]"), " ", ","),
			strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", piece), "[]byte{"), "}"),
		}
		for _, f := range forms {
			if strings.Contains(lower, f) {
				t.Fatalf("%s: a part of the key is in %q", what, out)
			}
		}
		if bytes.Contains(out, piece) {
			t.Fatalf("%s: a part of the key is in %q", what, out)
		}
	}
	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		// Any of the three ways in which base64 can fall on the bytes.
		for shift := range 3 {
			n := (key.Size - shift) / 3 * 3
			if all := e.EncodeToString(raw[shift : shift+n]); bytes.Contains(out, []byte(all[:12])) || bytes.Contains(out, []byte(all[len(all)-12:])) {
				t.Fatalf("%s: base64 of the key is in %q", what, out)
			}
		}
	}
}
