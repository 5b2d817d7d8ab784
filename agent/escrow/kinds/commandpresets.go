package kinds

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
)

// unreadable is the error of an answer that is not what the program's manual says. It
// quotes nothing: there are secrets in it.
func unreadable(program string) error {
	return fmt.Errorf("%w: %s printed no JSON that is known", escrow.ErrCorrupt, program)
}

// pass is the standard unix password manager: a file of its own for each entry,
// encrypted by GnuPG, in a directory.
type pass struct {
	runner
	path string
}

func newPass(r runner, path string) *pass {
	r.handOn = []string{"PASSWORD_STORE_DIR", "GNUPGHOME"}
	// GnuPG fails where it would ask for a passphrase, and looks for keys nowhere else.
	r.set = []string{"PASSWORD_STORE_GPG_OPTS=--pinentry-mode=error --no-tty --no-auto-key-locate", "TZ=UTC"}
	return &pass{r, path}
}

func (p *pass) where() (where, domain string) {
	return "pass " + p.path, "the password store and its GnuPG key"
}

// dir is where the password store is.
func (p *pass) dir() (string, error) {
	dir, err := p.variable("PASSWORD_STORE_DIR")
	if err == nil && dir == "" {
		dir, err = p.variable("HOME")
		dir = filepath.Join(dir, ".password-store")
	}
	if err == nil && !filepath.IsAbs(dir) {
		err = fmt.Errorf("%w: neither PASSWORD_STORE_DIR nor HOME says where the password store is", escrow.ErrNoPlace)
	}
	return dir, err
}

// list has find(1) look, since pass itself draws a tree, without times.
func (p *pass) list(ctx context.Context) ([]stored, error) {
	dir, err := p.dir()
	if err != nil {
		return nil, err
	}
	out, err := p.run(ctx, []string{"find", "-L", filepath.Join(dir, p.path), "-type", "f", "-name", "*.gpg",
		"-printf", "%P\t%TY-%Tm-%TdT%TH:%TM:%TSZ\n"}, nil, maxListing)
	if err != nil {
		return nil, err
	}
	return parseListing(out, ".gpg"), nil
}

func (p *pass) fetch(ctx context.Context, e stored) ([]byte, error) {
	return p.run(ctx, []string{"pass", "show", p.path + "/" + e.name}, nil, maxText)
}

func (p *pass) save(ctx context.Context, name string, text []byte) error {
	_, err := p.run(ctx, []string{"pass", "insert", "--multiline", p.path + "/" + name}, text, maxText)
	return err
}

// onePassword is op, version 2 (https://developer.1password.com/docs/cli/reference). A
// copy is a document, whose bytes go in and out by pipes; by hand it may be an item of
// any category too. Without its cache, which another program may have filled before.
type onePassword struct {
	runner
	path  string
	title string   // what titles begin with
	vault []string // the option that names the vault
}

func newOnePassword(r runner, path string) *onePassword {
	r.handOn = []string{"OP_SERVICE_ACCOUNT_TOKEN", "OP_CONNECT_HOST", "OP_CONNECT_TOKEN", "OP_ACCOUNT", "OP_CONFIG_DIR"}
	r.set = []string{"OP_CACHE=false", "OP_BIOMETRIC_UNLOCK_ENABLED=false"}
	p := &onePassword{runner: r, path: path, title: path}
	if vault, title, ok := strings.Cut(path, "/"); ok {
		p.title, p.vault = title, []string{"--vault", vault}
	}
	return p
}

func (p *onePassword) where() (where, domain string) {
	return "1Password " + p.path, "the 1Password account"
}

func (p *onePassword) op(ctx context.Context, text []byte, limit int, args ...string) ([]byte, error) {
	return p.run(ctx, append(append([]string{"op"}, args...), p.vault...), text, limit)
}

func (p *onePassword) list(ctx context.Context) ([]stored, error) {
	out, err := p.op(ctx, nil, maxListing, "item", "list", "--format", "json")
	if err != nil {
		return nil, err
	}
	var items []struct {
		ID, Title, Category string
		Updated             time.Time `json:"updated_at"`
	}
	if json.Unmarshal(out, &items) != nil || items == nil { // null is no list without items
		return nil, unreadable("op")
	}
	var list []stored
	for _, i := range items {
		if name, ok := strings.CutPrefix(i.Title, p.title+"/"); ok && plainID(i.ID) {
			list = append(list, stored{name, i.ID, i.Category, i.Updated})
		}
	}
	return list, nil
}

func (p *onePassword) fetch(ctx context.Context, e stored) ([]byte, error) {
	if e.kind == "DOCUMENT" {
		return p.op(ctx, nil, maxText, "document", "get", e.id)
	}
	out, err := p.op(ctx, nil, maxText, "item", "get", e.id, "--format", "json")
	if err != nil {
		return nil, err
	}
	defer clear(out)
	var item struct {
		Fields []struct{ ID, Value string }
	}
	if json.Unmarshal(out, &item) != nil {
		return nil, unreadable("op")
	}
	var values []string
	for _, f := range item.Fields {
		values = append(values, f.Value)
	}
	return likeliest(values), nil
}

func (p *onePassword) save(ctx context.Context, name string, text []byte) error {
	_, err := p.op(ctx, text, maxText, "document", "create", "-", "--title", p.title+"/"+name, "--file-name", "key.base64", "--format", "json")
	return err
}

// likeliest is, of the fields of an entry that a person made, the one that holds a key or
// a sealed copy, else the first.
func likeliest(values []string) []byte {
	var first []byte
	for _, v := range values {
		if v == "" {
			continue
		}
		p := payload([]byte(v))
		if isKey(p) || sealed(p) {
			return []byte(v)
		}
		if first == nil {
			first = []byte(v)
		}
	}
	return first
}

// plainID tells whether an id can stand as an argument.
func plainID(id string) bool {
	return id != "" && len(id) <= 64 && id[0] != '-' && !strings.ContainsFunc(id, func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// bitwarden is bw (https://bitwarden.com/help/cli). A copy is a secure note. bw works on a
// file of its own that only sync brings up to date, so nothing is listed without it, and
// what was saved is read back from the server.
type bitwarden struct {
	runner
	path string
}

func newBitwarden(r runner, path string) *bitwarden {
	r.handOn = []string{"BW_SESSION", "BITWARDENCLI_APPDATA_DIR", "NODE_EXTRA_CA_CERTS"}
	r.set = []string{"BW_NOINTERACTION=true"}
	return &bitwarden{r, path}
}

func (p *bitwarden) where() (where, domain string) {
	return "Bitwarden " + p.path, "the Bitwarden account"
}

// item is as much of bw's entries as we read.
type item struct {
	ID      string     `json:"id"`
	Name    string     `json:"name"`
	Notes   string     `json:"notes"`
	Revised time.Time  `json:"revisionDate"`
	Deleted *time.Time `json:"deletedDate"`
	Login   struct {
		Password string `json:"password"`
	} `json:"login"`
}

func (p *bitwarden) list(ctx context.Context) ([]stored, error) {
	if _, err := p.run(ctx, []string{"bw", "sync", "--nointeraction"}, nil, maxText); err != nil {
		return nil, err
	}
	out, err := p.run(ctx, []string{"bw", "list", "items", "--search", p.path, "--nointeraction"}, nil, maxListing)
	if err != nil {
		return nil, err
	}
	defer clear(out)
	var items []item
	if json.Unmarshal(out, &items) != nil || items == nil { // null is no list without items
		return nil, unreadable("bw")
	}
	var list []stored
	for _, i := range items {
		if name, ok := strings.CutPrefix(i.Name, p.path+"/"); ok && i.Deleted == nil && plainID(i.ID) {
			list = append(list, stored{name: name, id: i.ID, at: i.Revised})
		}
	}
	return list, nil
}

func (p *bitwarden) fetch(ctx context.Context, e stored) ([]byte, error) {
	out, err := p.run(ctx, []string{"bw", "get", "item", e.id, "--nointeraction"}, nil, maxText)
	if err != nil {
		return nil, err
	}
	defer clear(out)
	var i item
	if json.Unmarshal(out, &i) != nil {
		return nil, unreadable("bw")
	}
	return likeliest([]string{i.Notes, i.Login.Password}), nil
}

// save sends the entry as bw wants it: JSON, in base64, on standard input.
func (p *bitwarden) save(ctx context.Context, name string, text []byte) error {
	text = bytes.TrimSpace(text)
	const secureNote = 2
	doc, err := json.Marshal(map[string]any{
		"type": secureNote, "secureNote": map[string]int{"type": 0}, "name": p.path + "/" + name, "notes": string(text),
		"organizationId": nil, "folderId": nil, "favorite": false, "fields": []any{}, "reprompt": 0,
	})
	if err != nil {
		return err
	}
	in := base64.StdEncoding.AppendEncode(nil, doc)
	clear(doc)
	defer clear(in)
	_, err = p.run(ctx, []string{"bw", "create", "item", "--nointeraction"}, in, maxText, text)
	return err
}
