// Package keytest looks for keys where none may be (law 8): it is the one search of all
// tests, and shares no code with package key. It also writes them as words, as others do.
package keytest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tyler-smith/go-bip39"

	"github.com/footprintai/containarium-keyguard/agent/key"
)

// Part of a key will do, as loggers cut what they print: so many bytes in a row, or words.
const (
	window      = key.Size / 4
	base64Bytes = 9 // twelve letters, wherever in the key they begin
	wordsInARow = 4 // a line of a sheet
)

// needle is a part of a key in one form.
type needle struct {
	form string
	text []byte
}

// haystack is a text as it is, and without what may stand between the bytes of a key.
type haystack struct{ as, lower, digits, numbers, words []byte }

// needles are the parts of a key by where to look for them.
type needles struct{ as, lower, digits, numbers, words []needle }

// made are the needles of the keys that were looked for already.
var made sync.Map // [key.Size]byte to *needles

// Find says in which form a part of one of the keys is in out: as it is or quoted, in hex,
// in base64 of both alphabets at any place, as numbers, as what a debugger prints of
// memory, or as words; forwards or backwards. It returns "" for none.
func Find(out []byte, keys ...key.Key) (form string) {
	if len(out) < window {
		return ""
	}
	h := haystack{as: out, lower: bytes.ToLower(out)}
	h.digits = h.lower
	for _, gap := range []string{"0x", `\x`, "%", ":", ",", " ", "\n", "\t"} {
		h.digits = bytes.ReplaceAll(h.digits, []byte(gap), nil)
	}
	h.numbers = bytes.Join(bytes.Fields(bytes.ReplaceAll(out, []byte(","), []byte(" "))), []byte(" "))
	h.words = bytes.Join(bytes.Fields(h.lower), []byte(" "))
	for _, k := range keys {
		n := needlesOf(k)
		for _, side := range []struct {
			in []byte
			of []needle
		}{{h.as, n.as}, {h.lower, n.lower}, {h.digits, n.digits}, {h.numbers, n.numbers}, {h.words, n.words}} {
			for _, part := range side.of {
				if bytes.Contains(side.in, part.text) {
					return part.form
				}
			}
		}
	}
	return ""
}

func needlesOf(k key.Key) *needles {
	raw := k.UnsafeBytes()
	if n, ok := made.Load([key.Size]byte(raw)); ok {
		return n.(*needles)
	}
	n := &needles{}
	n.add(raw, "")
	backwards := slices.Clone(raw)
	slices.Reverse(backwards)
	n.add(backwards, ", backwards")
	if words := Words(k); words != nil {
		for at := range len(words) - wordsInARow + 1 {
			n.words = append(n.words, needle{"words", []byte(strings.Join(words[at:at+wordsInARow], " "))})
		}
	}
	made.Store([key.Size]byte(raw), n)
	return n
}

// Words are the key as BIP-39 writes it, nil for the zero Key.
func Words(k key.Key) []string {
	text, err := bip39.NewMnemonic(k.UnsafeBytes())
	if err != nil {
		return nil
	}
	return strings.Fields(text)
}

func (n *needles) add(raw []byte, how string) {
	for at := range len(raw) - window + 1 {
		part := raw[at : at+window]
		quoted := fmt.Sprintf("%q", part)
		n.as = append(n.as, needle{"raw" + how, slices.Clone(part)}, needle{"quoted" + how, []byte(quoted[1 : len(quoted)-1])})
		digits := hex.EncodeToString(part)
		n.lower = append(n.lower, needle{"hex" + how, []byte(digits)})
		n.lower = append(n.lower, needle{"a Go slice" + how, []byte(strings.Trim(fmt.Sprintf("%#v", part), "[]byte{}"))})
		n.digits = append(n.digits, needle{"hex" + how, []byte(digits)})
		if number := strings.TrimLeft(digits, "0"); len(number) < len(digits) && len(number) > 12 {
			n.lower = append(n.lower, needle{"a number in hex" + how, []byte("0x" + number)}) // as the runtime prints words of memory
		}
		n.numbers = append(n.numbers, needle{"numbers" + how, []byte(strings.Trim(fmt.Sprint(part), "[]"))})
	}
	for at := range len(raw) - base64Bytes + 1 {
		part := raw[at : at+base64Bytes]
		n.as = append(n.as, needle{"base64" + how, []byte(base64.StdEncoding.EncodeToString(part))},
			needle{"base64 for URLs" + how, []byte(base64.URLEncoding.EncodeToString(part))})
	}
}

// NoLeak fails if out holds a part of a key.
func NoLeak(t testing.TB, what string, out []byte, keys ...key.Key) {
	t.Helper()
	if form := Find(out, keys...); form != "" {
		t.Fatalf("%s: a part of the key (%s) is in %q", what, form, out)
	}
}
