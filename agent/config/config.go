// Package config reads keyguard's configuration, /etc/containarium-keyguard/keyguard.toml.
// The comments on the fields are its manual.
//
// Reading is strict: an unknown key is an error that names its line and the nearest
// known word, and all problems are reported at once, but for a syntax error, which ends the
// reading. What is wrong with one escrow makes that one unusable (Escrow.Wrong), and the
// keyfile and the other escrows are looked after; so are they where the file that holds the
// database's URL is not one to be read (Database.Wrong). No secret stands in the file,
// only the names of files that hold one. An empty file is valid: it guards the
// default keyfile with no escrow, which is no backup.
package config

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/internal/run"
)

const (
	// DefaultPath is where the configuration stands.
	DefaultPath = "/etc/containarium-keyguard/keyguard.toml"
	// DefaultKeyfile is where the daemon looks for its key, hard-coded there.
	DefaultKeyfile = "/etc/containarium/secrets.key"
	// DefaultBudget is a start's where none is configured, or the configuration was not read yet.
	DefaultBudget = 20 * time.Second

	// maxSize in bytes is far beyond any real configuration.
	maxSize = 1 << 20
)

// Config is what is in force: what the file says, and the defaults for the rest.
type Config struct {
	// Keyfile is the file that is guarded: 32 bytes, mode 0400, owned by Owner. The
	// daemon's own path is hard-coded; another one is for tests only.
	Keyfile string `toml:"keyfile"`
	// Owner is the user whom the keyfile belongs to. Another one than root is for
	// tests only: the units have no capability to change an owner.
	Owner string `toml:"owner"`
	// StateDir holds the ledger and the local quarantine, and must survive a reboot.
	StateDir string `toml:"state_dir"`
	// RunDir holds scratch, back-off and where the database is. It must be a tmpfs: a
	// drill writes keys there.
	RunDir string `toml:"run_dir"`

	Daemon   Daemon   `toml:"daemon"`
	Database Database `toml:"database"`
	Prestart Prestart `toml:"prestart"`
	Watch    Watch    `toml:"watch"`
	Drill    Drill    `toml:"drill"`
	Notify   Notify   `toml:"notify"`

	// Escrows are the places off this host that keep copies of the key. The order
	// matters where several could serve: the first is asked for a key first.
	Escrows []Escrow `toml:"escrow"`

	// UID and GID are Owner's. Load fills them in; they are not in the file.
	UID int `toml:"-"`
	GID int `toml:"-"`
	// Digest changes whenever the file does: SHA-256 in hex. It is not in the file.
	Digest string `toml:"-"`
}

// Daemon is the program whose key is guarded.
type Daemon struct {
	// Unit is the daemon's systemd unit, which a rotation stops and starts. On older
	// hosts it is containarium-daemon.service. "" means that there is no unit.
	Unit string `toml:"unit"`
}

// Database is where the encrypted rows are. Left out, it is whatever the daemon
// itself uses.
type Database struct {
	// URL is postgres://user@host:port/database without a password, or "none" where
	// positively no database exists.
	URL string `toml:"url"`
	// URLFile is a file, 0600 or tighter, whose only line is the URL, with its password.
	URLFile string `toml:"url_file"`
	// ConnectTimeout is how long to wait for a connection, at most 60s.
	ConnectTimeout time.Duration `toml:"connect_timeout"`

	// Wrong is what is wrong with the file that URLFile names, nil for nothing. Where something
	// is, nobody can ask the rows, and all else is done without them. It is not in the file.
	Wrong *Problems `toml:"-"`
}

// Prestart is the check before each start of the daemon.
type Prestart struct {
	// Budget is the time it may take in all, 1s to 80s: systemd allows 90.
	Budget time.Duration `toml:"budget"`
}

// Watch is the program that stays while the daemon runs.
type Watch struct {
	// Debounce is how long the key's directory must be quiet before its content
	// counts, at most 10s.
	Debounce time.Duration `toml:"debounce"`
	// Rescan is how often everything is looked at without any event, 1s to 1h.
	Rescan time.Duration `toml:"rescan"`
	// Heal lets a keyfile that holds another key than the right one be corrected after the
	// daemon has read its key, and the daemon be restarted.
	Heal bool `toml:"heal"`
}

// Drill is the weekly restore that proves the copies.
type Drill struct {
	// Copies is how many copies, the newest of each escrow and shelf, are tried; 0 is all.
	Copies int `toml:"copies"`
}

// Notify is how people hear of what happens.
type Notify struct {
	// HooksDir holds executables that are called for each event. "" is none.
	HooksDir string `toml:"hooks_dir"`
	// MetricsFile is written for Prometheus' node exporter (its textfile collector) where
	// its directory exists. "" is none.
	MetricsFile string `toml:"metrics_file"`
	// PingURL is called on every success, and with /fail appended on failure: a
	// dead-man's switch. "" is none.
	PingURL string `toml:"ping_url"`
}

// The kinds of escrow.
const (
	GCPSecretManager = "gcp-secret-manager"
	VaultKV          = "vault-kv"
	Directory        = "directory"
	Command          = "command"
	AWS              = "aws-secrets-manager"
	Split            = "split"
)

// presets are the programs whose commands keyguard knows.
var presets = []string{"1password", "bitwarden", "pass"}

// Escrow is a place off this host that keeps copies of the key. Which fields it may
// have depends on its kind.
type Escrow struct {
	// Name is what people and the ledger call it: letters, digits, and . _ - in it.
	Name string `toml:"name"`
	// Kind is gcp-secret-manager, vault-kv, directory, command, aws-secrets-manager or split.
	Kind string `toml:"kind"`
	// Required escrows must hold the key: a rotation needs them, and status is not
	// green while one lags. It is the default.
	Required bool `toml:"required"`
	// Readable is false where this host may add copies and read none: Secret Manager's
	// secretVersionAdder alone, Vault's create alone. It is then never required, and
	// what was stored there stays unverified; another host has to read it.
	Readable bool `toml:"readable"`
	// SealTo lists age recipients (age1…, or an SSH public key: ssh-ed25519 …, ssh-rsa …).
	// Copies are encrypted to them before they leave the host, so that whoever reads the
	// store reads nothing, this host included.
	SealTo []string `toml:"seal_to"`
	// IdentityFile is a file, 0600 or tighter, with the age identity, or the SSH key
	// without a passphrase, that opens sealed copies. It lets drills on this host open them.
	IdentityFile string `toml:"identity_file"`
	// Part makes it a member of a split: it keeps this part of each key, 1 to 9, and never
	// a whole one. The number is the store's for ever, whatever the store is called: with a
	// second part it would tell as much as two stores.
	Part int `toml:"part" kind:"gcp-secret-manager vault-kv directory command aws-secrets-manager"`

	// Need is how many of the members' parts rebuild a key, at least 2: whoever reads fewer
	// stores learns nothing. Another number takes a new key: `keyguard rotate`.
	Need int `toml:"need" kind:"split"`
	// Members are the names of the escrows that keep a part each.
	Members []string `toml:"members" kind:"split"`

	// Project is the id of the Google Cloud project, which may be another one than the host's.
	Project string `toml:"project" kind:"gcp-secret-manager"`
	// Secret is the secret's name, one for each host. {hostname} in it is replaced
	// once, by `keyguard init`. Quarantined keys go to the secret of this name and -quarantine.
	Secret string `toml:"secret" kind:"gcp-secret-manager aws-secrets-manager"`
	// Location makes it a regional secret: "europe-west1".
	Location string `toml:"location" kind:"gcp-secret-manager"`
	// Replicas are the regions in which a secret that is not regional is kept, where init
	// makes it. None leaves that to Google, which an organisation's policy may forbid.
	Replicas []string `toml:"replicas" kind:"gcp-secret-manager"`
	// CredentialsFile is a file, 0600 or tighter: for Secret Manager JSON, without which
	// Application Default Credentials are used; for AWS a shared credentials file.
	CredentialsFile string `toml:"credentials_file" kind:"gcp-secret-manager aws-secrets-manager"`
	// Endpoint is the host:port of an emulator or of a private endpoint.
	Endpoint string `toml:"endpoint" kind:"gcp-secret-manager aws-secrets-manager"`
	// Plaintext speaks to Endpoint without TLS. It is allowed on loopback only.
	Plaintext bool `toml:"plaintext" kind:"gcp-secret-manager aws-secrets-manager"`

	// Address is the URL of the Vault or OpenBao server: https, or http on loopback.
	Address string `toml:"address" kind:"vault-kv"`
	// Mount is the path of the KV engine, version 1 or 2.
	Mount string `toml:"mount" kind:"vault-kv"`
	// Path is, for vault-kv, the entry that holds the newest current copy, and for
	// directory the directory itself: an absolute path, or LABEL= or UUID= of a file
	// system and a directory on it: "LABEL=KEYGUARD/{hostname}". That is
	// used wherever people have mounted it, below /mnt, /media, /run/media or /srv. A place
	// elsewhere needs ReadWritePaths= in a drop-in of the watcher, as the manual shows. For the preset of
	// a command it is what the names of its entries begin with, a folder for pass, and for
	// 1password the vault before that: "Infrastructure/containarium-{hostname}". Without
	// it containarium- and this host's name.
	Path string `toml:"path" kind:"vault-kv directory command"`
	// Region is that of AWS: "eu-central-1".
	Region string `toml:"region" kind:"aws-secrets-manager"`
	// Credentials says who asks AWS, by exactly one way: file (an access key, in
	// CredentialsFile), environment, web-identity, container, process or instance (the
	// machine's role). The default is file where there is a CredentialsFile, else instance.
	Credentials string `toml:"credentials" kind:"aws-secrets-manager"`
	// Profile is the one in CredentialsFile, without it "default".
	Profile string `toml:"profile" kind:"aws-secrets-manager"`
	// Role is the ARN of the role that a web identity takes on, without it AWS_ROLE_ARN's.
	Role string `toml:"role" kind:"aws-secrets-manager"`
	// Process is the program that prints credentials, and its arguments.
	Process []string `toml:"process" kind:"aws-secrets-manager"`

	// TokenFile is a file, 0600 or tighter, that holds a token; for AWS that of a web
	// identity, without it the one that AWS_WEB_IDENTITY_TOKEN_FILE names.
	TokenFile string `toml:"token_file" kind:"vault-kv aws-secrets-manager"`
	// RoleIDFile and SecretIDFile are files, 0600 or tighter, for AppRole.
	RoleIDFile   string `toml:"role_id_file" kind:"vault-kv"`
	SecretIDFile string `toml:"secret_id_file" kind:"vault-kv"`
	// Namespace is that of Vault Enterprise or OpenBao.
	Namespace string `toml:"namespace" kind:"vault-kv"`
	// CAFile holds PEM certificates that the server's is checked against, instead of the system's.
	CAFile string `toml:"ca_file" kind:"vault-kv"`

	// Recipients is what SealTo is, under the name that age users know.
	Recipients []string `toml:"recipients" kind:"directory"`
	// AllowSameDisk accepts a directory, or pass's store, on the keyfile's own disk, or a directory in memory.
	// For tests and demonstrations: such a copy is not a backup.
	AllowSameDisk bool `toml:"allow_same_disk" kind:"directory command"`

	// Preset names a program whose commands are known: 1password, bitwarden or pass.
	Preset string `toml:"preset" kind:"command"`
	// Save, List and Fetch are the commands, each a program and its arguments, where
	// there is no Preset. No shell runs them, and no secret stands in them.
	Save  []string `toml:"save" kind:"command"`
	List  []string `toml:"list" kind:"command"`
	Fetch []string `toml:"fetch" kind:"command"`
	// EnvironmentFile is a file, 0600 or tighter, of lines NAME=value: what the program
	// needs to know where nobody is logged in, its token among it.
	EnvironmentFile string `toml:"environment_file" kind:"command"`

	// Wrong is why the escrow cannot be used, nil where it can. It is not in the file.
	Wrong *Problems `toml:"-"`
}

// Sealed lists the age recipients of the escrow, whatever key of the file named them.
func (e Escrow) Sealed() []string {
	if len(e.SealTo) > 0 {
		return e.SealTo
	}
	return e.Recipients
}

// SplitOf is the name of the split that has this escrow as a member, "" where none has.
func (c *Config) SplitOf(escrow string) string {
	for _, e := range c.Escrows {
		if e.Kind == Split && slices.Contains(e.Members, escrow) {
			return e.Name
		}
	}
	return ""
}

// Default is what an empty file says. UID and GID are root's.
func Default() *Config {
	return &Config{
		Keyfile:  DefaultKeyfile,
		Owner:    "root",
		StateDir: "/var/lib/containarium-keyguard",
		RunDir:   "/run/containarium-keyguard",
		Daemon:   Daemon{Unit: "containarium.service"},
		Database: Database{ConnectTimeout: 2 * time.Second},
		Prestart: Prestart{Budget: DefaultBudget},
		Watch:    Watch{Debounce: 250 * time.Millisecond, Rescan: time.Minute},
		Drill:    Drill{Copies: 10},
		Notify: Notify{
			HooksDir:    "/etc/containarium-keyguard/hooks.d",
			MetricsFile: "/var/lib/prometheus/node-exporter/keyguard.prom",
		},
	}
}

// defaultEscrow is an [[escrow]] without a key in it.
func defaultEscrow() Escrow { return Escrow{Required: true, Readable: true} }

// Problem is one thing that is wrong with the file.
type Problem struct {
	Line int    // the first is 1; 0 is the file as a whole
	Key  string // with its table: "watch.rescan", "escrow.secret"; "" where the text cannot be read
	What string // for people; never a value that could be a secret
}

func (p Problem) String() string {
	s := p.What
	if p.Key != "" {
		s = p.Key + ": " + s
	}
	if p.Line > 0 {
		s = fmt.Sprintf("line %d: %s", p.Line, s)
	}
	return s
}

// Problems is everything that is wrong with the file, or with one escrow, in its order.
type Problems struct {
	File string
	List []Problem
}

// Error has one line where there is one problem, and else a line for each below a first one.
func (p *Problems) Error() string {
	if len(p.List) == 1 {
		return p.File + ": " + p.List[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d problems", p.File, len(p.List))
	for _, one := range p.List {
		b.WriteString("\n  " + one.String())
	}
	return b.String()
}

// Settings is Brief for somebody who typed settings, and no line of a file.
func (p *Problems) Settings() string {
	var list []string
	for _, one := range p.List {
		list = append(list, strings.TrimPrefix(one.Key, "escrow.")+": "+one.What)
	}
	return strings.Join(list, "; ")
}

// ErrTrust says that somebody else than root and the caller decides what stands in the file.
var ErrTrust = errors.New("not to be obeyed")

// Trust tells whether the file at path may be obeyed: it names files to write and programs
// to run, and so neither may another user own it nor may others write to it.
func Trust(path string) error {
	info, err := stat(path)
	if err != nil {
		return fmt.Errorf("cannot read the configuration: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("the configuration %s is %w: it belongs to uid %d", path, ErrTrust, st.Uid)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("the configuration %s is %w: others may write to it (mode %04o)", path, ErrTrust, mode)
	}
	return nil
}

// stat is os.Stat, where a file system that hangs is crew.ErrHangs.
func stat(path string) (os.FileInfo, error) {
	return crew.Within(filepath.Dir(path), func() (os.FileInfo, error) { return os.Stat(path) }, nil)
}

// Brief is all of it on one line.
func (p *Problems) Brief() string {
	var list []string
	for _, one := range p.List {
		list = append(list, one.String())
	}
	return p.File + ", " + strings.Join(list, "; ")
}

// Load reads the file at path, if it may be obeyed, finds its owner's ids and looks at the mode of the
// files it names. The error is *Problems, of what is wrong with more than one escrow, or why the file cannot be read
// (fs.ErrNotExist, ErrTrust …): crew.ErrHangs where its file system hangs.
func Load(path string) (*Config, error) {
	if err := Trust(path); err != nil {
		return nil, err
	}
	return Check(path)
}

// Check is Load for somebody who only wants to know what is wrong with the file, whoever
// wrote it.
func Check(path string) (*Config, error) {
	data, err := Read(path)
	if err != nil {
		return nil, err
	}
	return parse(data, path, &looks{})
}

// Read reads the file at path, which must be a regular one of at most 1 MiB: no FIFO and no
// endless device holds a start of the daemon, or fills its memory (law 9).
func Read(path string) ([]byte, error) {
	data, err := crew.Within(filepath.Dir(path), func() ([]byte, error) { return read(path) }, nil)
	if wrong := (*Problems)(nil); err != nil && !errors.As(err, &wrong) {
		err = fmt.Errorf("cannot read the configuration: %w", err)
	}
	return data, err
}

func read(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // nothing was written
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxSize {
		return nil, &Problems{path, []Problem{{What: fmt.Sprintf("not a regular file of at most %d bytes", maxSize)}}}
	}
	return io.ReadAll(io.LimitReader(file, maxSize))
}

// Reach makes sure that whoever opens the file at path comes back from it. A process with a
// thread in a file system that hangs cannot even exit: so another one tries, and is left behind
// there. Then the error is crew.ErrHangs; that the file cannot be read, or is none, is not.
func Reach(ctx context.Context, path string) error {
	try := run.Spec{Path: "/bin/sh", Args: []string{"-c", `test ! -f "$1" || head -c 1 "$1" >/dev/null`, "sh", path}, Timeout: crew.Patience, Abandon: true}
	if _, err := run.Command(ctx, try); errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("cannot read the configuration: %s: %w", filepath.Dir(path), crew.ErrHangs)
	}
	return nil
}

// Parse reads a configuration from memory. It touches nothing of this host: owners
// and the modes of files are Load's. name is how errors call the file. The error is *Problems.
func Parse(data []byte, name string) (*Config, error) { return parse(data, name, nil) }

// ErrNotLookedAt says that the files that a configuration names were not to be looked at.
var ErrNotLookedAt = errors.New("what the configuration names is not looked at")

// ParseHere is Parse that looks at this host, too, as Load does: at the owner, and at files, if may allows
// that for all of them at once. nil allows it. Otherwise the error is ErrNotLookedAt.
func ParseHere(data []byte, name string, may func(paths ...string) bool) (*Config, error) {
	return parse(data, name, &looks{may: may})
}

func parse(data []byte, name string, here *looks) (*Config, error) {
	f := &file{text: string(withoutBOM(data))}
	c := Default()
	f.decode(c)
	if !here.look(c) {
		return nil, ErrNotLookedAt
	}
	f.check(c, here)
	whole := &Problems{File: name}
	mine := false
	for _, p := range f.sorted() {
		whole.List = append(whole.List, p.Problem)
		wrong := &c.Database.Wrong
		if p.escrow != urlFile {
			if p.escrow == noEscrow || p.escrow >= len(c.Escrows) {
				mine = true
				continue
			}
			wrong = &c.Escrows[p.escrow].Wrong
		}
		if *wrong == nil {
			*wrong = &Problems{File: name}
		}
		(*wrong).List = append((*wrong).List, p.Problem)
	}
	if mine {
		return nil, whole
	}
	c.nameAll()
	sum := sha256.Sum256(data)
	c.Digest = hex.EncodeToString(sum[:])
	return c, nil
}

// nameAll gives a name to each escrow that is wrong and has none of its own.
func (c *Config) nameAll() {
	taken := map[string]bool{}
	for _, e := range c.Escrows {
		taken[e.Name] = true
	}
	seen := map[string]bool{}
	for i := range c.Escrows {
		e := &c.Escrows[i]
		if e.Wrong != nil && (!escrowName(e.Name) || seen[e.Name]) {
			e.Name = fmt.Sprintf("escrow-%d", i+1)
			for taken[e.Name] {
				e.Name += "-"
			}
			taken[e.Name] = true
		}
		seen[e.Name] = true
	}
}

// Wrong is what is wrong with the escrows and with the database's file, nil where nothing is.
func (c *Config) Wrong() error {
	all := &Problems{}
	add := func(wrong *Problems) {
		if wrong != nil {
			all.File = wrong.File
			all.List = append(all.List, wrong.List...)
		}
	}
	add(c.Database.Wrong)
	for _, e := range c.Escrows {
		add(e.Wrong)
	}
	if len(all.List) == 0 {
		return nil
	}
	return all
}

// withoutBOM drops the mark that some editors put before UTF-8.
func withoutBOM(data []byte) []byte {
	if len(data) >= 3 && string(data[:3]) == "\xef\xbb\xbf" {
		return data[3:]
	}
	return data
}

// KeyfileOf finds which keyfile a configuration names that Parse refuses: the
// daemon's key is guarded even so (law 9). Where it cannot tell, it is the default.
func KeyfileOf(data []byte) string {
	text := string(withoutBOM(data))
	said := map[string]any{}
	if tooDeep(text) == 0 {
		if _, err := toml.Decode(text, &said); err == nil {
			if path, ok := said["keyfile"].(string); ok && usablePath(path) {
				return path
			}
			return DefaultKeyfile
		}
	}
	// What is no TOML may still have the line, even if that is the one which is none.
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(line, "=")
		if !ok || strings.TrimSpace(name) != "keyfile" {
			continue
		}
		value, _, _ = strings.Cut(value, "#")
		if value = strings.Trim(value, " \t\r\n\"'"); usablePath(value) {
			return value
		}
	}
	return DefaultKeyfile
}

// pathMax is PATH_MAX of Linux, in bytes with the 0 at the end.
const pathMax = 4096

// usablePath tells whether a path is one that a file can have.
func usablePath(p string) bool {
	return filepath.IsAbs(p) && filepath.Clean(p) == p && p != "/" && !strings.ContainsAny(p, "\x00\n") && len(p) < pathMax
}

// NamesNobody tells whether a host's name is one that others have as well: what stands
// under it in an escrow would be everybody's.
func NamesNobody(hostname string) bool {
	name, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(hostname)), ".")
	return slices.Contains([]string{"", "localhost", "debian", "ubuntu", "(none)"}, name)
}

// ExpandHostname replaces {hostname} in every text value of a configuration and
// leaves all else as it is, comments and layout too. What a secret's name cannot have
// becomes "-": the dots of a domain.
func ExpandHostname(data []byte, hostname string) []byte {
	hostname = strings.Map(func(r rune) rune {
		if r < 0x80 && isKeyLetter(byte(r)) {
			return r
		}
		return '-'
	}, hostname)
	text := withoutBOM(data)
	out := append([]byte(nil), data[:len(data)-len(text)]...)
	done := 0
	_, values := scan(string(text))
	for _, at := range values {
		out = append(out, text[done:at[0]]...)
		out = append(out, strings.ReplaceAll(string(text[at[0]:at[1]]), "{hostname}", hostname)...)
		done = at[1]
	}
	return append(out, text[done:]...)
}
