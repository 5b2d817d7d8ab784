package kinds_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/plugin"
	"golang.org/x/crypto/ssh"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

// sshKey makes a pair as ssh-keygen does, and returns the public half's line and the
// private half's file.
func sshKey(t testing.TB, kind, passphrase string) (public, file string) {
	t.Helper()
	var private any
	var err error
	if kind == "rsa" {
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		_, private, err = ed25519.GenerateKey(rand.Reader)
	}
	try(t, err)
	signer, err := ssh.NewSignerFromKey(private)
	try(t, err)
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(private, "olga@host")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "olga@host", []byte(passphrase))
	}
	try(t, err)
	file = filepath.Join(t.TempDir(), "id_"+kind)
	try(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), file
}

// TestSealedOpensWithAge: what keyguard sealed is an ordinary age file, whomever it is
// sealed to, and what age sealed is a copy like any other.
func TestSealedOpensWithAge(t *testing.T) {
	t.Parallel()
	x25519, x25519File := identityFile(t)
	ed, edFile := sshKey(t, "ed25519", "")
	rsa, rsaFile := sshKey(t, "rsa", "")
	for _, tt := range []struct {
		name, to, identity string
	}{
		{"age", x25519, x25519File}, {"ssh-ed25519", ed, edFile}, {"ssh-ed25519 with a comment", ed + " olga@host", edFile}, {"ssh-rsa", rsa, rsaFile},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			o := kinds.DirectoryOptions{Path: dir, Recipients: []string{tt.to}}
			d := openDirectory(t, o)
			try(t, d.Init(t.Context()))
			k := key.Generate()
			c := mustSave(t, d, escrow.Current, k)
			if again := mustSave(t, openDirectory(t, o), escrow.Current, k); again.ID != c.ID {
				t.Errorf("stored again as %s", again.ID)
			}
			got, err := exec.Command("age", "--decrypt", "-i", tt.identity, filepath.Join(dir, c.ID)).Output()
			if err != nil || !bytes.Equal(got, k.UnsafeBytes()) {
				t.Errorf("age --decrypt: %d bytes, %v", len(got), err)
			}
			if _, _, err := d.Fetch(t.Context(), c); !errors.Is(err, escrow.ErrSealed) {
				t.Errorf("Fetch without the identity: %v", err)
			}

			byHand := key.Generate()
			seal := exec.Command("age", "--encrypt", "--armor", "-r", tt.to, "-o", filepath.Join(dir, "current/by-hand.age"))
			seal.Stdin = bytes.NewReader(byHand.UnsafeBytes())
			if out, err := seal.CombinedOutput(); err != nil {
				t.Fatalf("age --encrypt: %v: %s", err, out)
			}
			// An identity that cannot be used is no reason not to use the other.
			o.IdentityFiles = []string{filepath.Join(dir, "missing"), tt.identity}
			d = openDirectory(t, o)
			for id, want := range map[string]key.Key{c.ID: k, "current/by-hand.age": byHand} {
				if got, _, err := d.Fetch(t.Context(), escrow.Copy{ID: id}); err != nil || !got.Equal(want) {
					t.Errorf("Fetch of %s: %v, %v", id, got, err)
				}
			}
		})
	}
}

func TestCheckIdentities(t *testing.T) {
	_, good := identityFile(t)
	_, locked := sshKey(t, "ed25519", "correct horse")
	text, err := os.ReadFile(good)
	try(t, err)
	const token = "AGE-PLUGIN-YUBIKEY-1QQQSYQCYQ5RQWZQFPG9SCRGWPUGPZYSNK08YXA\n"
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		try(t, os.WriteFile(file, []byte(text), 0o600))
		return file
	}
	for _, tt := range []struct{ name, file, want string }{
		{"good", good, ""},
		{"a token's beside it", write("beside", token+"# a comment\n"+string(text)+token), ""},
		{"a token's alone", write("alone", "# a comment\n"+token), "but those of plugins"},
		{"missing", filepath.Join(dir, "nothing"), "no such file"},
		{"a directory", dir, "a directory"},
		{"a passphrase", locked, "has a passphrase"},
		{"encrypted by age", write("sealed", "-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n"), "encrypted itself"},
		{"another PEM file", write("pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "no SSH key"},
		{"text", write("text", "AGE-SECRET-KEY-1NOTONE"), "does not hold age identities"},
		{"empty", write("empty", ""), "does not hold age identities"},
	} {
		err := kinds.CheckIdentities(tt.file)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: the error quotes the file: %v", tt.name, err)
		}
	}
}

// agePlugin is an age plugin whose recipients have those of age in them.
func agePlugin() int {
	p, err := plugin.New("kgtest")
	must(err)
	p.RegisterFlags(flag.CommandLine)
	p.HandleRecipient(func(data []byte) (age.Recipient, error) { return age.ParseX25519Recipient(string(data)) })
	flag.Parse()
	return p.Main()
}

// TestSealToTokens: the recipients of tokens are taken, and the program that one needs is named.
func TestSealToTokens(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, name := range []string{"yubikey", "se"} {
		to := plugin.EncodeRecipient(name, make([]byte, 33))
		if !strings.HasPrefix(to, "age1"+name+"1") {
			t.Fatal(to)
		}
		d := openDirectory(t, kinds.DirectoryOptions{Path: t.TempDir(), Recipients: []string{to}})
		try(t, d.Init(t.Context()))
		if _, err := d.Save(t.Context(), escrow.Current, key.Generate()); !errors.Is(err, escrow.ErrProgram) || !strings.Contains(err.Error(), "age-plugin-"+name+" is not in PATH") {
			t.Errorf("%s: %v", to, err)
		}
	}
}

// TestSealPlugin: a recipient of a plugin is sealed to where the plugin is, and named where
// it is not. Making the escrow starts nothing.
func TestSealPlugin(t *testing.T) {
	inner, identity := identityFile(t)
	path := t.TempDir()
	to := plugin.EncodeRecipient("kgtest", []byte(inner))
	d := openDirectory(t, kinds.DirectoryOptions{Path: path, Recipients: []string{to}, IdentityFiles: []string{identity}})
	try(t, d.Init(t.Context()))
	k := key.Generate()
	if _, err := d.Save(t.Context(), escrow.Current, k); !errors.Is(err, escrow.ErrProgram) || !strings.Contains(err.Error(), "age-plugin-kgtest is not in PATH") {
		t.Errorf("without the plugin: %v, want ErrProgram", err)
	}
	bin := t.TempDir()
	self, err := os.Executable()
	try(t, err)
	try(t, os.Symlink(self, filepath.Join(bin, "age-plugin-kgtest")))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	c := mustSave(t, d, escrow.Current, k)
	if got, _, err := d.Fetch(t.Context(), c); err != nil || !got.Equal(k) {
		t.Errorf("%v, %v", got, err)
	}
	if again := mustSave(t, d, escrow.Current, k); again.ID != c.ID {
		t.Errorf("stored twice, as %s and %s", c.ID, again.ID)
	}
}
