package kinds

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"filippo.io/age/plugin"
	"golang.org/x/crypto/ssh"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/escrow"
	"github.com/footprintai/containarium-keyguard/agent/internal/recipient"
	"github.com/footprintai/containarium-keyguard/agent/key"
)

const (
	// maxPayload bounds what is read as one copy, in bytes: Secret Manager's own limit
	// (64 KiB), and far more than a key in any encoding, sealed to a hundred recipients.
	maxPayload = 64 << 10

	ageIntro      = "age-encryption.org/v1\n" // C2SP age specification, "Header"
	claimType     = "keyguard"
	maxIdentities = 1 << 20 // bytes of an identity file
)

// sealer turns keys into the bytes that are stored, and back. The zero sealer stores
// the raw 32 bytes.
//
// A sealed copy is an ordinary age file. Besides the stanzas of its recipients its
// header holds one that names the key and the recipients ("-> keyguard <fingerprint>
// <digest>"), which every age program ignores as a kind it does not know: a host that
// cannot open a copy can tell by it which key that is, and that it need not be stored
// again. It is a claim, as a file name is.
type sealer struct {
	to            []string
	recipients    []age.Recipient
	digest        string // of the recipients, and of which part: a changed list seals anew
	identityFiles []string
	part          escrow.PartOf // what is stored of a key; the zero PartOf is all of it
}

// newSealer parses the recipients: age1…, or the public key of an SSH key. The identity
// files are read when a sealed copy is: an escrow is made without touching a file.
func newSealer(part escrow.PartOf, to []string, identityFiles ...string) (*sealer, error) {
	if !part.Whole() {
		k := key.Generate()
		defer k.Wipe()
		if _, err := k.Cut(part.Need, part.Number); err != nil {
			return nil, err
		}
	}
	s := &sealer{part: part, to: to, identityFiles: slices.DeleteFunc(slices.Clone(identityFiles), func(f string) bool { return f == "" })}
	var sorted []string
	for _, r := range to {
		one, err := recipient.Parse(r)
		if err != nil {
			return nil, fmt.Errorf("recipient %q %w", clip(r), err)
		}
		s.recipients = append(s.recipients, one)
		if f := strings.Fields(r); strings.HasPrefix(r, "ssh-") {
			r = strings.Join(f[:2], " ") // without the comment, which anybody may change
		}
		sorted = append(sorted, r)
	}
	slices.Sort(sorted)
	if !part.Whole() {
		sorted = append(sorted, suffix(part))
	}
	sum := sha256.Sum256([]byte(strings.Join(sorted, "\n")))
	s.digest = hex.EncodeToString(sum[:8])
	return s, nil
}

// sealError is an error of sealing to these recipients.
func sealError(to []string, err error) error {
	if missing, ok := errors.AsType[*plugin.NotFoundError](err); ok {
		return fmt.Errorf("cannot seal to %s: %w: age-plugin-%s is not in PATH", shown(to), escrow.ErrProgram, missing.Name)
	}
	return fmt.Errorf("cannot seal to %s: %s", shown(to), clip(err.Error()))
}

// shown names recipients for people: of an SSH key, whose line is long, the end and the
// comment.
func shown(to []string) string {
	var names []string
	for _, r := range to {
		if f := strings.Fields(r); len(f) > 1 && len(f[1]) > 8 {
			r = strings.TrimSpace(f[0] + " …" + f[1][len(f[1])-8:] + " " + strings.Join(f[2:], " "))
		}
		names = append(names, r)
	}
	return strings.Join(names, ", ")
}

// shut marks a copy that the listing shows to be sealed, where this host has no identity.
func (s *sealer) shut(c *escrow.Copy) {
	if len(s.identityFiles) > 0 {
		return
	}
	c.Sealed, c.Unreadable = true, "sealed"
	if len(s.to) > 0 {
		c.Unreadable = "sealed to " + shown(s.to)
	}
}

// name is what a copy of k is called where copies have names.
func (s *sealer) name(at time.Time, k key.Key) string {
	name := at.Format(stampLayout) + "-" + string(k.Fingerprint())
	if s.part.Whole() {
		name += keySuffix
	} else {
		name += suffix(s.part)
	}
	if len(s.recipients) > 0 {
		name += ageSuffix
	}
	return name
}

// bytes returns what is stored for k. The caller wipes it.
func (s *sealer) bytes(k key.Key) ([]byte, error) {
	if k.IsZero() {
		return nil, key.ErrSize
	}
	plain, err := s.plain(k)
	if err != nil || len(s.recipients) == 0 {
		return plain, err
	}
	defer clear(plain)
	c := &claim{args: []string{string(k.Fingerprint()), s.digest}}
	// age refuses to mix recipients of different labels (post-quantum with others), so
	// the claim takes those of the recipients.
	if r, ok := s.recipients[0].(age.RecipientWithLabels); ok {
		fileKey := make([]byte, 16)
		rand.Read(fileKey) //nolint:errcheck // it never fails
		_, labels, err := r.WrapWithLabels(fileKey)
		if err != nil {
			return nil, sealError(s.to[:1], err)
		}
		c.labels = labels
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, append(slices.Clone(s.recipients), c)...)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, sealError(s.to, err)
	}
	return out.Bytes(), nil
}

// plain is what is stored of k where nothing is sealed: its bytes, or the line of a part.
func (s *sealer) plain(k key.Key) ([]byte, error) {
	if s.part.Whole() {
		return bytes.Clone(k.UnsafeBytes()), nil
	}
	p, err := k.Cut(s.part.Need, s.part.Number)
	if err != nil {
		return nil, err
	}
	defer p.Wipe()
	return append(p.UnsafeText(), '\n'), nil
}

// key reads stored bytes: a key in any encoding, or a sealed one. The errors are
// SealedError, ErrCorrupt and ErrNotKey: a part is a key.PartError. It wipes stored.
func (s *sealer) key(stored []byte) (key.Key, key.Encoding, error) {
	defer clear(stored)
	if len(stored) > maxPayload {
		return key.Key{}, "", fmt.Errorf("%w: more than %d bytes", escrow.ErrNotKey, maxPayload)
	}
	plain := stored
	if sealed(stored) {
		var err error
		if plain, err = s.open(stored); err != nil {
			return key.Key{}, "", err
		}
		defer clear(plain)
	}
	return key.Decode(plain)
}

// same tells whether stored is what a Save of k would store: the raw bytes, or k sealed
// to the recipients in force. Of a copy that this host cannot open the claim is believed:
// without an identity there is nothing better.
func (s *sealer) same(stored []byte, k key.Key) bool {
	if len(s.recipients) == 0 && !s.part.Whole() {
		p, err := key.ParsePart(stored)
		return err == nil && s.isPartOf(k, p)
	}
	if len(s.recipients) == 0 {
		o, err := key.New(stored)
		if err != nil {
			return false
		}
		defer o.Wipe()
		return o.Equal(k)
	}
	fp, digest := claimed(stored)
	if fp != k.Fingerprint() || digest != s.digest {
		return false
	}
	o, _, err := s.key(bytes.Clone(stored))
	if part, ok := errors.AsType[*key.PartError](err); ok {
		return s.isPartOf(k, part.Part)
	}
	if err != nil {
		return errors.Is(err, escrow.ErrSealed)
	}
	defer o.Wipe()
	return o.Equal(k)
}

// fromText is what the text of a value stands for where it is base64 as we write
// it, else nil.
func fromText(stored string) []byte {
	b, err := base64.StdEncoding.Strict().DecodeString(stored)
	if err != nil || strings.ContainsAny(stored, "\r\n") { // which DecodeString would skip
		return nil
	}
	return b
}

// text reads what stands in a store of texts: base64 of a key, of a part or of an age file;
// or, as people leave it, text that is a key in itself: raw where it survived, hex, words,
// base64 with white space, a part's line, an armoured age file.
func (s *sealer) text(stored string) (key.Key, key.Encoding, error) {
	if b := fromText(stored); b != nil {
		k, enc, err := s.key(b)
		if !errors.Is(err, escrow.ErrNotKey) || isAny(err, key.ErrMangled, key.ErrPart, key.ErrPartDamaged) {
			return k, enc, err
		}
	}
	return s.key([]byte(stored))
}

// sameText tells whether a text is what a Save of k would store.
func (s *sealer) sameText(stored string, k key.Key) bool {
	b := fromText(stored)
	defer clear(b)
	return b != nil && s.same(b, k)
}

// isPartOf tells whether p is the part of k that belongs in this store. It wipes p.
func (s *sealer) isPartOf(k key.Key, p key.Part) bool {
	defer p.Wipe()
	own, err := k.Cut(s.part.Need, s.part.Number)
	defer own.Wipe()
	return err == nil && own.Equal(p)
}

func (s *sealer) open(stored []byte) ([]byte, error) {
	fp, _ := claimed(stored)
	shut := &escrow.SealedError{Fingerprint: fp, To: s.to}
	var ids []age.Identity
	var unusable error // one file that cannot be used does not keep another from opening
	for _, file := range s.identityFiles {
		some, err := readIdentities(file)
		if err != nil {
			err = fmt.Errorf("cannot use identity file %s: %w", file, err)
			if unusable != nil {
				err = fmt.Errorf("%w; %w", unusable, err)
			}
			unusable = err
		}
		ids = append(ids, some...)
	}
	shut.Unusable = unusable
	if len(ids) == 0 {
		return nil, shut
	}
	var in io.Reader = bytes.NewReader(stored)
	if armored(stored) {
		in = armor.NewReader(bytes.NewReader(bytes.TrimSpace(stored)))
	}
	r, err := age.Decrypt(in, ids...)
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return nil, shut
	}
	if err != nil {
		return nil, fmt.Errorf("%w: not a whole age file", escrow.ErrCorrupt)
	}
	plain := make([]byte, 0, maxPayload+1) // never grown, so nothing unwiped is left behind
	for len(plain) < cap(plain) {
		n, err := r.Read(plain[len(plain):cap(plain)])
		plain = plain[:len(plain)+n]
		if err == io.EOF {
			break
		}
		if err != nil {
			clear(plain)
			return nil, fmt.Errorf("%w: not a whole age file", escrow.ErrCorrupt)
		}
	}
	return plain, nil
}

// CheckIdentities says why a file does not hold identities that can be used, nil where
// it does.
func CheckIdentities(path string) error {
	if _, err := readIdentities(path); err != nil {
		return fmt.Errorf("cannot use identity file %s: %w", path, err)
	}
	return nil
}

// readIdentities reads a file of age identities, or the private half of an SSH key. No
// message quotes the file: what is in it is a secret (law 8). It is read for each sealed copy,
// and by the children that read directories: no pipe will do.
func readIdentities(path string) ([]age.Identity, error) {
	data, err := crew.Read(path, maxIdentities)
	defer clear(data)
	switch {
	case err != nil:
		return nil, err
	case sealed(data):
		return nil, errors.New("it is encrypted itself, with age; decrypt it first")
	case bytes.HasPrefix(data, []byte("-----BEGIN")):
		id, err := agessh.ParseIdentity(data)
		if _, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
			return nil, errors.New("it has a passphrase, and nobody is asked for one; ssh-keygen -p takes it off a copy")
		}
		if err != nil {
			return nil, errors.New("it is no SSH key that age can use: ed25519 or RSA")
		}
		return []age.Identity{id}, nil
	}
	// Of a token's identity (AGE-PLUGIN-…) a program of its own makes use, and somebody who
	// touches the token: the others in its file open what they open.
	own := make([]byte, 0, len(data))
	defer func() { clear(own) }()
	for line := range bytes.Lines(data) {
		if !bytes.HasPrefix(bytes.TrimSpace(line), []byte("AGE-PLUGIN-")) {
			own = append(own, line...)
		}
	}
	ids, err := age.ParseIdentities(bytes.NewReader(own))
	switch {
	case err != nil && len(own) < len(data):
		return nil, errors.New("it does not hold age identities but those of plugins, which nobody can be asked to touch here")
	case err != nil:
		return nil, errors.New("it does not hold age identities")
	}
	return ids, nil
}

// sealed tells an age file, binary or armoured, from everything else.
func sealed(stored []byte) bool {
	// 32 bytes are a key, whatever they look like; no age file is as short.
	return len(stored) != key.Size && (bytes.HasPrefix(stored, []byte(ageIntro)) || armored(stored))
}

func armored(stored []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(stored, " \t\r\n"), []byte(armor.Header))
}

// claimed reads the claim from an age header: "" where there is none.
func claimed(stored []byte) (key.Fingerprint, string) {
	head, _, whole := bytes.Cut(stored, []byte("\n---"))
	if !whole || !bytes.HasPrefix(stored, []byte(ageIntro)) {
		return "", ""
	}
	for line := range strings.Lines(string(head)) {
		args := strings.Fields(line)
		if len(args) != 4 || args[0] != "->" || args[1] != claimType {
			continue
		}
		fp, err := key.ParseFingerprint(args[2])
		if err != nil {
			return "", ""
		}
		return fp, args[3]
	}
	return "", ""
}

// claim is the recipient that nobody owns: it adds the stanza and learns no file key.
type claim struct {
	args   []string
	labels []string
}

func (c *claim) Wrap([]byte) ([]*age.Stanza, error) {
	return []*age.Stanza{{Type: claimType, Args: c.args}}, nil
}

func (c *claim) WrapWithLabels(fileKey []byte) ([]*age.Stanza, []string, error) {
	st, err := c.Wrap(fileKey)
	return st, c.labels, err
}
