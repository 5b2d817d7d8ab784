package key_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/key"
	"github.com/footprintai/containarium-keyguard/agent/key/keytest"
)

// TestNothingLetsAKeyOut prints and marshals keys in every way and place (law 8).
func TestNothingLetsAKeyOut(t *testing.T) {
	k := key.Generate()
	type hidden struct{ k key.Key }
	type holder struct {
		K    key.Key
		P    *key.Key
		Any  any
		List []key.Key
		Map  map[string]key.Key
		h    hidden
		hp   *hidden
	}
	h := holder{k, &k, k, []key.Key{k}, map[string]key.Key{"k": k}, hidden{k}, &hidden{k}}
	things := map[string]any{"key": k, "pointer": &k, "slice": []key.Key{k}, "holder": h, "pointer to holder": &h, "hidden": h.h, "hidden pointer": h.hp, "error": fmt.Errorf("with %v %s %x: %w", k, k, k, key.ErrSize)}
	for name, thing := range things {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%#x", "%d", "%b", "%o", "%c", "%U", "%t", "%e", "%T", "%p", "%32v", "%-64x", "%.99v", "%!", "%z"} {
			text := fmt.Sprintf(verb, thing)
			keytest.NoLeak(t, name+" "+verb, []byte(text), k)
		}
		for kind, marshal := range map[string]func(any) ([]byte, error){"json": json.Marshal, "xml": xml.Marshal, "gob": gobOf} {
			out, err := marshal(thing)
			keytest.NoLeak(t, name+" "+kind, out, k)
			if err != nil {
				keytest.NoLeak(t, name+" "+kind+" error", []byte(err.Error()), k)
			}
			if (name == "key" || name == "slice" || name == "holder") && err == nil {
				t.Errorf("%s: %s marshals it: %s", name, kind, out)
			}
		}
		var log bytes.Buffer
		for _, l := range []*slog.Logger{slog.New(slog.NewTextHandler(&log, nil)), slog.New(slog.NewJSONHandler(&log, nil))} {
			l.Info("a key", "it", thing, slog.Group("group", "it", thing))
		}
		keytest.NoLeak(t, name+" slog", log.Bytes(), k)
		if name == "key" && bytes.Count(log.Bytes(), []byte(k.Fingerprint())) != 4 {
			t.Errorf("slog does not show the fingerprint: %s", &log)
		}
	}
	if got, want := fmt.Sprint(k, key.Key{}), "key "+string(k.Fingerprint())+" no key"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestNothingLetsAPartOut does the same for a part, by what it is of: with need 2 and the
// value known, the key is known.
func TestNothingLetsAPartOut(t *testing.T) {
	p, err := key.Generate().Cut(2, 1)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(p.UnsafeText(), []byte("value="))
	raw, err := base64.StdEncoding.DecodeString(string(rest[:44]))
	if err != nil {
		t.Fatal(err)
	}
	value, err := key.New(raw[:key.Size])
	if err != nil {
		t.Fatal(err)
	}
	type hidden struct{ p key.Part }
	refusal := &key.PartError{Part: p}
	for name, thing := range map[string]any{"part": p, "pointer": &p, "slice": []key.Part{p}, "hidden": hidden{p}, "hidden pointer": &hidden{p},
		"error": refusal, "wrapped error": fmt.Errorf("with %w", refusal), "mixed": &key.MixedError{A: p, B: p}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%c", "%U", "%T", "%p", "%z"} {
			keytest.NoLeak(t, name+" "+verb, fmt.Appendf(nil, verb, thing), value)
		}
		for kind, marshal := range map[string]func(any) ([]byte, error){"json": json.Marshal, "xml": xml.Marshal, "gob": gobOf} {
			out, err := marshal(thing)
			keytest.NoLeak(t, name+" "+kind, out, value)
			if (name == "part" || name == "slice") && err == nil {
				t.Errorf("%s: %s marshals it: %s", name, kind, out)
			}
		}
		var log bytes.Buffer
		slog.New(slog.NewJSONHandler(&log, nil)).Info("a part", "it", thing)
		keytest.NoLeak(t, name+" slog", log.Bytes(), value)
	}
}

func gobOf(v any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

// TestFindSees checks the checker: what finds nothing shows nothing. Of keys that are always
// the same: a word of memory that begins with many zeros is none to it.
func TestFindSees(t *testing.T) {
	k, another := fixed("k"), fixed("another")
	b := k.UnsafeBytes()
	back := slices.Clone(b)
	slices.Reverse(back)
	words := strings.Join(k.UnsafeWords(), " ")
	type bare struct{ B []byte }
	for form, out := range map[string]string{
		"raw":              string(b),
		"first half":       string(b[:16]),
		"second half":      string(b[16:]),
		"a quarter":        string(b[11:19]),
		"backwards":        string(back),
		"hex":              fmt.Sprintf("%x", b),
		"upper hex":        fmt.Sprintf("%X", b[20:]),
		"hex backwards":    fmt.Sprintf("%x", back),
		"hex and gaps":     fmt.Sprintf("% X", b),
		"hex and colons":   strings.ReplaceAll(fmt.Sprintf("% x", b), " ", ":"),
		"hex on two lines": fmt.Sprintf("%x\n%x", b[:4], b[4:]),
		"for URLs":         "%" + strings.ReplaceAll(fmt.Sprintf("% X", b), " ", "%"),
		"a word of memory": fmt.Sprintf("0x%x", binary.LittleEndian.Uint64(b[8:])),
		"%v":               fmt.Sprint(bare{b}),
		"%#v":              fmt.Sprintf("%#v", bare{b}),
		"an array":         fmt.Sprintf("%#v", [key.Size]byte(b)),
		"%q":               fmt.Sprintf("%q", b),
		"http2debug":       fmt.Sprintf("http2: Framer 0x1: wrote DATA len=37 data=%q (5 bytes omitted)", "\x0a\x20"+string(b[:20])),
		"base64":           base64.StdEncoding.EncodeToString(b),
		"base64, 1 before": base64.StdEncoding.EncodeToString(append([]byte("x"), b...)),
		"base64, 2 before": base64.StdEncoding.EncodeToString(append([]byte("xx"), b...)),
		"base64 for URLs":  base64.RawURLEncoding.EncodeToString(b),
		"base64 backwards": base64.StdEncoding.EncodeToString(back),
		"a part of base64": base64.StdEncoding.EncodeToString(b)[7:27],
		"words":            words,
		"upper words":      strings.ToUpper(words),
		"a line of words":  strings.Join(k.UnsafeWords()[8:12], "\n"),
	} {
		text := []byte("before " + out + " after")
		if keytest.Find(text, another, k) == "" {
			t.Errorf("%s: not seen: %q", form, out)
		}
		if found := keytest.Find(text, another); found != "" {
			t.Errorf("%s: another key is seen: %s", form, found)
		}
	}
	if found := keytest.Find(fmt.Append(nil, k, k.Fingerprint(), another.UnsafeBytes()), k); found != "" {
		t.Errorf("seen as %s where it is not", found)
	}
}

func fixed(name string) key.Key {
	sum := sha256.Sum256([]byte(name))
	k, err := key.New(sum[:])
	if err != nil {
		panic(err)
	}
	return k
}

// TestErrorsLetNothingOut: Decode's errors tell nothing of what they refuse.
func TestErrorsLetNothingOut(t *testing.T) {
	k := key.Generate()
	b := k.UnsafeBytes()
	for _, in := range []string{
		string(b) + "x", string(b[:31]), fmt.Sprintf("%x0", b), fmt.Sprintf("0x%x", b), fmt.Sprintf("%q", b),
		`"` + base64.StdEncoding.EncodeToString(b) + `"`, base64.StdEncoding.EncodeToString(b[:31]),
		fmt.Sprintf("ab\uFFFD%x", b), "\uFFFD" + base64.StdEncoding.EncodeToString(b),
	} {
		_, _, err := key.Decode([]byte(in))
		if err == nil {
			t.Errorf("%q is read", in)
			continue
		}
		for _, verb := range []string{"%v", "%+v", "%#v"} {
			keytest.NoLeak(t, in, fmt.Appendf(nil, verb, err), k)
		}
	}
}
