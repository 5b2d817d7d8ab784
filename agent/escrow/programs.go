package escrow

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/internal/run"
)

// runner runs the programs of a command escrow.
type runner struct {
	timeout time.Duration
	file    string   // of more variables
	handOn  []string // our own variables that this program may have, besides common
	set     []string // variables that it always has
}

// common are the variables of ours that every program may have. TOKENS are not among
// them: a preset names its own.
var common = []string{
	"HOME", "USER", "LOGNAME", "XDG_CONFIG_HOME", "XDG_DATA_HOME",
	"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
}

// environ is the program's environment: ours as far as it is listed, then what the file
// says. English, so that messages are those that sentinel knows.
func (r runner) environ() ([]string, error) {
	env := append(append([]string{"LC_ALL=C.UTF-8", "TERM=dumb", "NO_COLOR=1"}, common...), r.handOn...)
	lines, err := r.lines()
	if err != nil {
		return nil, err
	}
	return append(append(env, lines...), r.set...), nil
}

// lines reads the environment file: NAME=value, as systemd.exec(5) has it, without its
// escapes. Its values are secrets.
func (r runner) lines() ([]string, error) {
	if r.file == "" {
		return nil, nil
	}
	data, err := readSmall(r.file)
	if err != nil {
		return nil, fmt.Errorf("%w: environment file %s: %w", ErrUnauthenticated, r.file, err)
	}
	var env []string
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok || name == "" || strings.ContainsAny(name, " \t\"'") || strings.ContainsRune(value, 0) {
			return nil, fmt.Errorf("%w: environment file %s, line %d: not NAME=value", ErrUnauthenticated, r.file, n)
		}
		if q := len(value); q > 1 && (value[0] == '"' || value[0] == '\'') && value[q-1] == value[0] {
			value = value[1 : q-1]
		}
		env = append(env, name+"="+value)
	}
	return env, nil
}

// variable is what the program would find under a name.
func (r runner) variable(name string) (string, error) {
	lines, err := r.lines()
	if err != nil {
		return "", err
	}
	value := os.Getenv(name)
	for _, l := range lines {
		if v, ok := strings.CutPrefix(l, name+"="); ok {
			value = v
		}
	}
	return value, nil
}

// run runs one program. text goes to its standard input, none is an empty one. secrets
// are what no message may show besides.
func (r runner) run(ctx context.Context, argv []string, text []byte, limit int, secrets ...[]byte) ([]byte, error) {
	env, err := r.environ()
	if err != nil {
		return nil, err
	}
	lines, err := r.lines()
	if err != nil {
		return nil, err
	}
	for _, l := range lines {
		if _, v, _ := strings.Cut(l, "="); !filepath.IsAbs(v) { // a path is no secret, and helps
			secrets = append(secrets, []byte(v))
		}
	}
	out, err := run.Command(ctx, run.Spec{
		Path: argv[0], Args: argv[1:], Stdin: text, Env: env, Secrets: secrets,
		Timeout: r.timeout, MaxOutput: limit, Abandon: true,
	})
	if err != nil {
		return nil, sentinel(err)
	}
	return out, nil
}

// statuses are those of sysexits.h(3head) that mean something to us.
var statuses = map[int]error{66: ErrGone, 77: ErrDenied, 75: ErrUnreachable, 78: ErrNoPlace}

// sayings are what password managers say, in small letters, and what that means. The
// first that occurs is taken.
var sayings = []struct {
	text string
	is   error
}{
	// What the host says is the cause of what a program says after it.
	{"no space left", ErrFull}, {"read-only file system", ErrReadOnly},

	{"rate limit", ErrRateLimited}, {"too many requests", ErrRateLimited}, {"(429)", ErrRateLimited},

	{"no such host", ErrNeverLeft}, {"enotfound", ErrNeverLeft}, {"eai_again", ErrNeverLeft}, {"network is unreachable", ErrNeverLeft},
	{"connection refused", ErrUnreachable}, {"econnrefused", ErrUnreachable}, {"econnreset", ErrUnreachable}, {"etimedout", ErrUnreachable},
	{"i/o timeout", ErrUnreachable}, {"certificate", ErrUntrusted},

	{"not currently signed in", ErrUnauthenticated}, {"no accounts configured", ErrUnauthenticated}, {"session expired", ErrUnauthenticated},
	{"unauthorized", ErrUnauthenticated}, {"authentication required", ErrUnauthenticated}, {"service account token", ErrUnauthenticated},
	{"decodesacredentials", ErrUnauthenticated},
	{"not logged in", ErrUnauthenticated}, {"vault is locked", ErrUnauthenticated}, {"session key is invalid", ErrUnauthenticated},
	{"no assurance this key belongs", ErrGnuPG}, {"no public key", ErrGnuPG}, {"unusable public key", ErrGnuPG},
	{"no secret key", ErrUnauthenticated}, {"no pinentry", ErrUnauthenticated}, {"inappropriate ioctl", ErrUnauthenticated},
	{"operation cancelled", ErrUnauthenticated}, {"decryption failed", ErrUnauthenticated},

	{"isn't a vault in this account", ErrNoPlace}, {"you must run: pass init", ErrNoPlace}, {"no such file or directory", ErrNoPlace},
	{"isn't an item", ErrGone}, {"is not in the password store", ErrGone}, {"not found", ErrGone},
	{"more than one", ErrUnreadable},
	{"forbidden", ErrDenied}, {"permission", ErrDenied}, {"not authorized", ErrDenied},
}

// sentinel finds what a failed program means. A program that asks a question, whoever it
// is, has nobody to answer it.
func sentinel(err error) error {
	var e *run.Error
	if !errors.As(err, &e) {
		return err
	}
	said := strings.ToLower(e.Tail)
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, run.ErrOutput):
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	case e.Status < 0 && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)):
		return fmt.Errorf("%w: %w", ErrProgram, err)
	case asks(said):
		return fmt.Errorf("%w: %s asks a question, and there is nobody to answer: %w", ErrUnauthenticated, e.Command, err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	if is, ok := statuses[e.Status]; ok {
		return fmt.Errorf("%w: %w", is, err)
	}
	for _, s := range sayings {
		if strings.Contains(said, s.text) {
			return fmt.Errorf("%w: %w", s.is, err)
		}
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

// asks tells a question from a message by how it ends.
func asks(said string) bool {
	said = strings.TrimSpace(said)
	said = said[max(0, len(said)-100):]
	for _, end := range []string{"?", "[y/n]", "[input is hidden]"} {
		if strings.HasSuffix(said, end) {
			return true
		}
	}
	return strings.HasSuffix(said, ":") &&
		(strings.Contains(said, "password") || strings.Contains(said, "passphrase") || strings.Contains(said, "code"))
}

// unreadable is the error of an answer that is not what the program's manual says. It
// quotes nothing: there are secrets in it.
func unreadable(program string) error {
	return fmt.Errorf("%w: %s printed no JSON that is known", ErrCorrupt, program)
}

// scripts are the programs that the configuration names.
type scripts struct {
	runner
	o CommandOptions
}

func (p *scripts) where() (where, domain string) {
	return strings.Join(p.o.List, " "), "what " + p.o.Save[0] + " keeps"
}

func (p *scripts) list(ctx context.Context) ([]stored, error) {
	out, err := p.run(ctx, p.o.List, nil, maxListing)
	if errors.Is(err, ErrGone) { // 66 of a listing
		err = fmt.Errorf("%w: %w", ErrNoPlace, err)
	}
	if err != nil {
		return nil, err
	}
	return parseListing(out, ""), nil
}

// parseListing reads a name a line, and a time behind a tab.
func parseListing(out []byte, suffix string) []stored {
	var list []stored
	for line := range strings.Lines(string(out)) {
		name, at, _ := strings.Cut(strings.TrimRight(line, "\r\n"), "\t")
		e := stored{name: strings.TrimSuffix(name, suffix)}
		if t, err := time.Parse(time.RFC3339, at); err == nil {
			e.at = t
		}
		list = append(list, e)
	}
	return list
}

func (p *scripts) fetch(ctx context.Context, e stored) ([]byte, error) {
	return p.run(ctx, named(p.o.Fetch, e.name), nil, maxText)
}

func (p *scripts) save(ctx context.Context, name string, text []byte) error {
	_, err := p.run(ctx, named(p.o.Save, name), text, maxText)
	return err
}

// named puts the name into a command.
func named(argv []string, name string) []string {
	out, there := make([]string, 0, len(argv)+1), false
	for _, a := range argv {
		there = there || strings.Contains(a, "{name}")
		out = append(out, strings.ReplaceAll(a, "{name}", name))
	}
	if !there {
		out = append(out, name)
	}
	return out
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
		err = fmt.Errorf("%w: neither PASSWORD_STORE_DIR nor HOME says where the password store is", ErrNoPlace)
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
