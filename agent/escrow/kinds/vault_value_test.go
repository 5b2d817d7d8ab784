package kinds

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// ascii is a key whose bytes are text: raw, it survives every conversion to UTF-8.
const ascii = "0123456789abcdefghijklmnopqrstuv"

// TestVaultValue: what people leave in the field `value`.
func TestVaultValue(t *testing.T) {
	raw := []byte("\x80\xff\x00" + strings.Repeat("\xfe\x41", 14) + "\n")
	b64 := base64.StdEncoding.EncodeToString(raw)
	for _, tt := range []struct {
		name, value string
		want        []byte // nil where it is no key
		enc         key.Encoding
		err         error
	}{
		{"ours", b64, raw, key.Raw, nil},
		{"base64 FILE", b64 + "\n", raw, key.Base64, nil},
		{"base64 -w 20", b64[:20] + "\n" + b64[20:], raw, key.Base64, nil},
		{"base64 for URLs", base64.RawURLEncoding.EncodeToString(raw), raw, key.Base64, nil},
		{"base64 of base64", base64.StdEncoding.EncodeToString([]byte(b64)), raw, key.Base64, nil},
		{"hex", hex.EncodeToString(raw), raw, key.Hex, nil},
		{"raw, and it survived", ascii, []byte(ascii), key.Raw, nil},
		{"raw with a newline", ascii + "\n", []byte(ascii), key.Newline, nil},
		{"base64 of what gcloud mangled", base64.StdEncoding.EncodeToString([]byte(strings.ToValidUTF8(string(raw), "\uFFFD"))), nil, "", key.ErrMangled},
		{"value=@FILE", strings.ToValidUTF8(string(raw), "\uFFFD"), nil, "", key.ErrMangled},
		{"nothing", "", nil, "", escrow.ErrNotKey},
		{"base64 of nothing much", "AAAA", nil, "", escrow.ErrNotKey},
		{"an age file that is none", base64.StdEncoding.EncodeToString([]byte("age-encryption.org/v1\n-> keyguard 0123456789abcdef 0123456789abcdef\n--- x\n" + strings.Repeat("x", 40))), nil, "", escrow.ErrSealed},
		{"bits that no encoder sets", b64[:42] + "L=", nil, "", escrow.ErrNotKey},
	} {
		v := &Vault{seal: &sealer{}}
		k, enc, err := v.key(tt.value)
		if tt.want == nil {
			if !errors.Is(err, tt.err) || !k.IsZero() {
				t.Errorf("%s: %v, %v; want %v", tt.name, k, err, tt.err)
			}
			continue
		}
		want, _ := key.New(tt.want)
		if err != nil || !k.Equal(want) || enc != tt.enc {
			t.Errorf("%s: %v as %q, %v; want %v as %q", tt.name, k, enc, err, want, tt.enc)
		}
	}
}

// FuzzVaultValue: any value gets a name that can be an entry's; what counts as ours is
// the key that its name says, raw; and no error shows a part of it.
func FuzzVaultValue(f *testing.F) {
	b64 := base64.StdEncoding.EncodeToString([]byte(ascii))
	for _, s := range []string{"", ascii, b64, b64 + "\n", hex.EncodeToString([]byte(ascii)), "\uFFFD\uFFFD", "AAAA",
		base64.StdEncoding.EncodeToString([]byte("age-encryption.org/v1\n-> keyguard 0123456789abcdef 0123456789abcdef\n--- x\ny"))} {
		f.Add(s)
	}
	v := &Vault{seal: &sealer{}}
	f.Fuzz(func(t *testing.T, value string) {
		name := entryName(value)
		if !vaultName(name) {
			t.Errorf("the name %q can be no entry's", name)
		}
		k, enc, err := v.key(value)
		defer k.Wipe()
		if err != nil {
			if !k.IsZero() {
				t.Errorf("a key beside %v", err)
			}
			if len(value) > 12 && strings.Contains(err.Error(), value) {
				t.Errorf("the error holds the value: %v", err)
			}
			return
		}
		if v.same(value, k) != (name == string(k.Fingerprint())) {
			t.Errorf("named %s, and ours: %v", name, v.same(value, k))
		}
		if v.same(value, k) && enc != key.Raw {
			t.Errorf("ours as %q", enc)
		}
	})
}
