package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os/user"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/internal/recipient"
	"github.com/footprintai/containarium-keyguard/agent/internal/run"
)

// checker looks at what the values mean. It never repeats a value that could hold a
// secret (law 8): addresses, URLs, recipients.
type checker struct {
	*file
	here   *looks         // nil where this host is not looked at
	escrow int            // that is looked at, from 0; noEscrow
	table  map[string]any // what the file says of it
}

func (k checker) report(key, format string, a ...any) { k.file.report(k.escrow, key, format, a...) }

// check reports what is wrong with the values of c. Fields whose type was wrong hold
// their default, so nothing is reported twice.
func (f *file) check(c *Config, here *looks) {
	k := checker{f, here, noEscrow, nil}
	for _, p := range []struct{ key, value string }{{"keyfile", c.Keyfile}, {"state_dir", c.StateDir}, {"run_dir", c.RunDir}} {
		if !usablePath(p.value) {
			k.report(p.key, "%q is no absolute, clean path", p.value)
		}
	}
	k.owner(c)
	if u := c.Daemon.Unit; u != "" && !unitName(u) {
		k.report("daemon.unit", "%q is no name of a service, such as \"containarium.service\"", u)
	}
	k.database(&c.Database)
	k.within(c.Prestart.Budget, "prestart.budget", time.Second, 80*time.Second)
	k.within(c.Watch.Debounce, "watch.debounce", 0, 10*time.Second)
	k.within(c.Watch.Rescan, "watch.rescan", time.Second, time.Hour)
	if c.Drill.Copies < 0 {
		k.report("drill.copies", "must not be negative; 0 is all")
	}
	k.optionalPath(c.Notify.HooksDir, "notify.hooks_dir")
	k.optionalPath(c.Notify.MetricsFile, "notify.metrics_file")
	if p := c.Notify.PingURL; p != "" {
		if u, err := url.Parse(p); err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil {
			k.report("notify.ping_url", "must be an http or https URL without a user or password")
		}
	}
	names, places := map[string]bool{}, map[string]string{}
	tables, _ := tablesOf(f.said["escrow"])
	for i := range c.Escrows {
		k.escrow, k.table = i, tables[i]
		k.checkEscrow(&c.Escrows[i], names, places)
	}
	for i := range c.Escrows {
		k.escrow, k.table = i, tables[i]
		k.checkMember(c, &c.Escrows[i])
	}
}

// The forms of names. They are not regular expressions, because compiling those
// costs every start of the daemon more than reading the file (law 7).

// consistsOf tells whether s has letters, digits and what extra lists, and nothing else.
func consistsOf(s, extra string) bool {
	for _, c := range []byte(s) {
		if c == '_' || c == '-' || !isKeyLetter(c) {
			if !strings.Contains(extra, string(rune(c))) {
				return false
			}
		}
	}
	return s != ""
}

// unitName is systemd.unit(5)'s.
func unitName(s string) bool {
	name, ok := strings.CutSuffix(s, ".service")
	return ok && consistsOf(name, `:_.@-\`)
}

func escrowName(s string) bool {
	return len(s) <= 64 && consistsOf(s, "._-") && consistsOf(s[:1], "")
}

// project is a project's id or number; the colon is that of old, domain-scoped ids.
func project(s string) bool { return strings.ToLower(s) == s && consistsOf(s, ":.-") }

func location(s string) bool { return strings.ToLower(s) == s && consistsOf(s, "-") }

// secret is a secret's name: at most 255 letters, digits, - and _
// (https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets/create),
// with "-quarantine" behind it.
func secret(s string) bool { return len(s) <= 255-len("-quarantine") && consistsOf(s, "_-") }

func vaultPath(s string) bool {
	return !strings.HasPrefix(s, "/") && !strings.HasSuffix(s, "/") && !strings.Contains(s, "//") &&
		!strings.ContainsAny(s, "?#% \t\r\n")
}

// stick is a file system by its name, as mount(8) takes it, and a directory on it.
func stick(s string) bool {
	name, sub, below := strings.Cut(s, "/")
	kind, value, _ := strings.Cut(name, "=")
	return (kind == "LABEL" || kind == "UUID") && value != "" && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl) &&
		(!below || filepath.IsLocal(sub) && filepath.Clean(sub) == sub)
}

func (k checker) owner(c *Config) {
	if c.Owner == "" {
		k.report("owner", "must name a user")
		return
	}
	if k.here == nil || c.Owner == "root" { // uid 0 by definition, and no look-up on the healthy path
		return
	}
	u, err := user.Lookup(c.Owner)
	if err == nil {
		if c.UID, err = strconv.Atoi(u.Uid); err == nil {
			c.GID, err = strconv.Atoi(u.Gid)
		}
	}
	if err != nil {
		k.report("owner", "there is no user %q on this host", c.Owner)
	}
}

func (k checker) database(d *Database) {
	if d.URL != "" && d.URLFile != "" {
		k.report("database.url_file", "give url or url_file, not both")
	}
	if what := BadDatabaseURL(d.URL); what != "" {
		k.report("database.url", "%s", what)
	}
	k.optionalPath(d.URLFile, "database.url_file")
	if unfit, is := errors.AsType[unfitError](k.here.wrong(d.URLFile, secretFile)); is { // of one that hangs, whoever reads it says so
		k.file.report(urlFile, "database.url_file", "%s", unfit)
	}
	k.within(d.ConnectTimeout, "database.connect_timeout", time.Millisecond, time.Minute)
}

// BadDatabaseURL says what is wrong with database.url; "" is nothing. It quotes none of it.
func BadDatabaseURL(s string) string {
	if s == "" || s == "none" {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return `must be a postgres:// URL without a password, or "none"; a URL with one goes into a file, and its name into url_file`
	}
	// The parameters are those of libpq, 34.1.2 of the PostgreSQL 15 manual.
	query, err := url.ParseQuery(u.RawQuery)
	_, inUser := u.User.Password()
	if err != nil || inUser || query.Has("password") || query.Has("sslpassword") {
		return "must not hold a password: put the whole URL into a file, 0600, and its name into url_file"
	}
	return ""
}

// within reports a duration outside its bounds.
func (k checker) within(d time.Duration, key string, low, high time.Duration) {
	if d < low || d > high {
		k.report(key, "%q is not between %q and %q", duration(d), duration(low), duration(high))
	}
}

func (k checker) optionalPath(path, key string) {
	if path != "" && !usablePath(path) {
		k.report(key, "%q is no absolute, clean path", path)
	}
}

// secretFile checks the name of a file that holds an escrow's secret, and the file. That it is missing is
// no problem of the configuration: whoever reads it says so.
func (k checker) secretFile(path, key string) {
	k.optionalPath(path, key)
	err := k.here.wrong(path, secretFile)
	if _, unfit := errors.AsType[unfitError](err); unfit || errors.Is(err, crew.ErrHangs) { // nobody is to wait for that escrow
		k.report(key, "%v", err)
	}
}

// program refuses one that is run as root and given the key, and that others may change.
func (k checker) program(path, key string) {
	switch err := k.here.wrong(path, programFile); {
	case errors.Is(err, crew.ErrHangs):
		k.report(key, "%v", err)
	case errors.Is(err, run.ErrUnsafe): // that it is missing, whoever runs it says
		k.report(key, "%v; it is given the key: chown root and chmod go-w what is named", err)
	}
}

func (k checker) checkEscrow(s *Escrow, names map[string]bool, places map[string]string) {
	report := func(key, format string, a ...any) { k.report("escrow."+key, format, a...) }
	switch {
	case s.Name == "":
		if k.sound("name") {
			report("name", "missing")
		}
	case !escrowName(s.Name):
		report("name", "%q: a name has at most 64 letters, digits, and . _ - in it", s.Name)
	case names[s.Name]:
		report("name", "two escrows are called %q", s.Name)
	default:
		names[s.Name] = true
	}
	if s.Kind == "" {
		if k.sound("kind") {
			report("kind", "missing: %s", oneOf(kindNames()))
		}
		return
	}
	i := slices.IndexFunc(kinds, func(one kind) bool { return one.name == s.Kind })
	if i < 0 {
		report("kind", "unknown kind %q%s (%s)", s.Kind, nearest(s.Kind, kindNames()), oneOf(kindNames()))
		return
	}
	for field := range reflect.TypeFor[Escrow]().Fields() {
		key, of := keyOf(field), field.Tag.Get("kind")
		if key != "" && of != "" && !slices.Contains(strings.Fields(of), s.Kind) && k.set(key) {
			report(key, "does not belong to kind %q, only to %s", s.Kind, strings.ReplaceAll(of, " ", " and "))
		}
	}
	if len(s.SealTo) > 0 && len(s.Recipients) > 0 {
		report("recipients", "give seal_to or recipients, not both: they mean the same")
	}
	switch {
	case s.Readable:
	case s.Kind == Directory || s.Kind == Command:
		report("readable", "only a store tells adding from reading: a directory and a program are read")
	case s.Kind == Split || k.set("part"):
		report("readable", "a key in parts is rebuilt of what is read")
	case s.Required:
		report("required", "what this host does not read (readable = false) can be required of nobody")
	}
	k.recipients(s.SealTo, "seal_to")
	k.recipients(s.Recipients, "recipients")
	k.secretFile(s.IdentityFile, "escrow.identity_file")

	place := kinds[i].check(k, s)
	if place == "" {
		return
	}
	// Two that write to one place would take each other for another host (law 4).
	place = s.Kind + " " + place
	if other, taken := places[place]; taken {
		report("kind", "this is the same place as escrow %q", other)
	} else {
		places[place] = s.Name
	}
}

// set tells whether the file has a key of the escrow that is looked at.
func (k checker) set(key string) bool { _, ok := k.table[key]; return ok }

// sound tells whether nothing was reported of a key yet: what has a wrong type is not
// missing as well.
func (k checker) sound(key string) bool {
	return !slices.ContainsFunc(k.problems, func(p problem) bool { return p.escrow == k.escrow && p.Key == "escrow."+key })
}

func (k checker) missing(s *Escrow, value, key string) {
	if value == "" && k.sound(key) {
		k.report("escrow."+key, "missing: kind %q needs it", s.Kind)
	}
}

func (k checker) matches(value, key string, form func(string) bool, rule string) {
	if value != "" && !form(strings.ReplaceAll(value, "{hostname}", "h")) {
		k.report("escrow."+key, "%q: %s", value, rule)
	}
}

func (k checker) recipients(list []string, key string) {
	for i, r := range list {
		switch {
		case strings.HasPrefix(strings.ToUpper(r), "AGE-SECRET-KEY-"):
			k.report("escrow."+key, "number %d is an identity, which is a secret: put it into a file, and the file's name into identity_file", i+1)
		default:
			if _, err := recipient.Parse(r); err != nil {
				k.report("escrow."+key, "number %d %v", i+1, err)
			}
		}
	}
}

// kind is one kind of escrow: what check finds wrong with the keys that only it has, and
// the place that they mean, "" where that cannot be told.
type kind struct {
	name  string
	check func(checker, *Escrow) (place string)
}

// kinds are all there are, in the order in which people read of them. A new one has a row
// here, its keys in Escrow, and its way into the program in openEscrow of cmd/keyguard.
var kinds = []kind{
	{GCPSecretManager, checker.gcp},
	{VaultKV, checker.vault},
	{Directory, checker.directory},
	{Command, checker.command},
	{AWS, checker.aws},
	{Split, checker.split},
}

func kindNames() []string {
	var names []string
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return names
}

func (k checker) directory(s *Escrow) (place string) {
	k.missing(s, s.Path, "path")
	if s.Path != "" && !usablePath(s.Path) && !stick(s.Path) {
		k.report("escrow.path", "%q is no absolute, clean path, and no LABEL= or UUID= of a file system with a clean path behind it", s.Path)
	}
	return s.Path
}

func (k checker) gcp(s *Escrow) (place string) {
	k.missing(s, s.Project, "project")
	k.missing(s, s.Secret, "secret")
	k.matches(s.Project, "project", project, "a project's id has lower-case letters, digits and dashes")
	k.matches(s.Secret, "secret", secret, "a secret's name has at most 244 letters, digits, - and _, and {hostname}")
	k.matches(s.Location, "location", location, `a location is like "europe-west1"`)
	for _, r := range s.Replicas {
		k.matches(r, "replicas", location, `a location is like "europe-west1"`)
	}
	if s.Location != "" && len(s.Replicas) > 0 {
		k.report("escrow.replicas", "a regional secret, of location, has none")
	}
	k.secretFile(s.CredentialsFile, "escrow.credentials_file")
	k.endpoint(s)
	if s.Project == "" || s.Secret == "" {
		return ""
	}
	return fmt.Sprintf("%s/%s/%s at %s", s.Project, s.Location, s.Secret, s.Endpoint)
}

func (k checker) endpoint(s *Escrow) {
	switch {
	case s.Endpoint == "" && s.Plaintext:
		k.report("escrow.plaintext", "allowed only with an endpoint on loopback")
	case s.Endpoint == "":
	case !hostPort(s.Endpoint):
		k.report("escrow.endpoint", `must be host:port, such as "127.0.0.1:8085"`)
	case s.Plaintext && !loopback(s.Endpoint):
		k.report("escrow.plaintext", "allowed only with an endpoint on loopback: the key would travel in the clear")
	}
}

// sameSecret tells whether two escrows are one secret of a cloud, by whichever endpoint it is reached.
func (s Escrow) sameSecret(o Escrow) bool {
	return s.Kind == o.Kind && (s.Kind == GCPSecretManager || s.Kind == AWS) &&
		s.Project == o.Project && s.Location == o.Location && s.Region == o.Region && s.Secret == o.Secret
}

// awsCredentials are the ways to say who asks AWS.
var awsCredentials = []string{"file", "environment", "web-identity", "container", "process", "instance"}

func (k checker) aws(s *Escrow) (place string) {
	k.missing(s, s.Region, "region")
	k.missing(s, s.Secret, "secret")
	if s.Region != "" && !location(s.Region) {
		k.report("escrow.region", `%q: a region is like "eu-central-1"`, s.Region)
	}
	k.matches(s.Secret, "secret", awsSecret, "a secret's name has at most 501 letters, digits and / _ + = . @ -, and {hostname}")
	k.secretFile(s.CredentialsFile, "escrow.credentials_file")
	k.secretFile(s.TokenFile, "escrow.token_file")
	k.endpoint(s)
	if s.Credentials == "" {
		s.Credentials = "instance"
		if s.CredentialsFile != "" {
			s.Credentials = "file"
		}
	}
	if !slices.Contains(awsCredentials, s.Credentials) {
		k.report("escrow.credentials", "unknown %q%s (%s)", s.Credentials, nearest(s.Credentials, awsCredentials), oneOf(awsCredentials))
	}
	for _, only := range []struct{ key, of string }{{"credentials_file", "file"}, {"profile", "file"}, {"role", "web-identity"}, {"token_file", "web-identity"}, {"process", "process"}} {
		if k.set(only.key) && s.Credentials != only.of {
			k.report("escrow."+only.key, "belongs to credentials = %q only", only.of)
		}
	}
	switch {
	case s.Credentials == "file" && s.CredentialsFile == "" && k.sound("credentials_file"):
		k.report("escrow.credentials_file", "missing: credentials = \"file\" needs it")
	case s.Credentials == "process" && len(s.Process) == 0 && k.sound("process"):
		k.report("escrow.process", "missing: credentials = \"process\" needs it")
	case len(s.Process) > 0 && !usablePath(s.Process[0]):
		k.report("escrow.process", "%q is no absolute, clean path", s.Process[0])
	}
	if s.Region == "" || s.Secret == "" {
		return ""
	}
	return fmt.Sprintf("%s/%s at %s", s.Region, s.Secret, s.Endpoint)
}

// awsSecret is a secret's name: at most 512 letters
// (https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_CreateSecret.html), with
// "-quarantine" behind it.
func awsSecret(s string) bool {
	return len(s) <= 512-len("-quarantine") && consistsOf(s, "/_+=.@-")
}

// The bounds of a split, agent/key's.
const (
	minNeed  = 2
	maxParts = 9
)

func (k checker) split(s *Escrow) (place string) {
	for _, key := range []string{"seal_to", "identity_file"} {
		if k.set(key) {
			k.report("escrow."+key, "belongs to the members: each seals its own part")
		}
	}
	switch {
	case !k.set("need"):
		k.report("escrow.need", "missing: how many of the members' parts rebuild a key")
	case k.sound("need") && s.Need < minNeed:
		k.report("escrow.need", "must be at least %d: of one part, each would be the key", minNeed)
	}
	switch {
	case !k.set("members"):
		k.report("escrow.members", "missing: the names of the escrows that keep a part each")
	case !k.sound("members"):
	case len(s.Members) > maxParts:
		k.report("escrow.members", "%d are too many: at most %d", len(s.Members), maxParts)
	case len(s.Members) < s.Need:
		k.report("escrow.members", "%d are too few: %d are needed to rebuild a key", len(s.Members), s.Need)
	}
	return ""
}

// checkMember looks at what holds between a split and its members. What is wrong with a
// member is the member's: it cannot answer, and never keeps a whole key by mistake.
func (k checker) checkMember(c *Config, s *Escrow) {
	if s.Kind == Split {
		for i, name := range s.Members {
			at := slices.IndexFunc(c.Escrows, func(e Escrow) bool { return e.Name == name })
			switch {
			case slices.Contains(s.Members[:i], name):
				k.report("escrow.members", "%q is named twice", name)
			case at < 0:
				k.report("escrow.members", "there is no escrow %q", name)
			case c.Escrows[at].Kind == Split:
				k.report("escrow.members", "%q is a split itself", name)
			}
			for _, other := range s.Members[:i] {
				if before := slices.IndexFunc(c.Escrows, func(e Escrow) bool { return e.Name == other }); at >= 0 && before >= 0 && other != name && c.Escrows[at].sameSecret(c.Escrows[before]) {
					k.report("escrow.members", "%q and %q are one place, by whichever endpoint: whoever reads it has two parts", other, name)
				}
			}
		}
		return
	}
	var of *Escrow
	for i := range c.Escrows {
		other := &c.Escrows[i]
		if other.Kind != Split || !slices.Contains(other.Members, s.Name) {
			continue
		}
		if of != nil {
			k.report("escrow.part", "%q and %q both have it as a member: one part, one key", of.Name, other.Name)
			return
		}
		of = other
	}
	switch {
	case of == nil && k.set("part"):
		k.report("escrow.part", "no split names %q in its members", s.Name)
	case of == nil || !k.sound("part"):
	case !k.set("part"):
		k.report("escrow.part", "missing: a member of %q keeps a part, and which one must be said, 1 to %d", of.Name, maxParts)
	case s.Part < 1 || s.Part > maxParts:
		k.report("escrow.part", "must be 1 to %d", maxParts)
	default:
		for i := range c.Escrows[:k.escrow] {
			if other := &c.Escrows[i]; other.Part == s.Part && slices.Contains(of.Members, other.Name) {
				k.report("escrow.part", "%q keeps part %d already", other.Name, s.Part)
			}
		}
	}
}

func (k checker) vault(s *Escrow) (place string) {
	k.missing(s, s.Address, "address")
	k.missing(s, s.Mount, "mount")
	k.missing(s, s.Path, "path")
	k.matches(s.Mount, "mount", vaultPath, "no slash at its ends, no white space, no ? # %")
	k.matches(s.Path, "path", vaultPath, "no slash at its ends, no white space, no ? # %")
	if s.Address != "" {
		u, err := url.Parse(s.Address)
		switch {
		case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.RawQuery != "" || u.Fragment != "":
			k.report("escrow.address", `must be a URL such as "https://vault.example:8200"`)
		case u.User != nil:
			k.report("escrow.address", "must not hold a user or password")
		case u.Scheme == "http" && !loopback(u.Host):
			k.report("escrow.address", "http is allowed only on loopback: the key would travel in the clear")
		}
	}
	k.optionalPath(s.CAFile, "escrow.ca_file")
	k.secretFile(s.TokenFile, "escrow.token_file")
	k.secretFile(s.RoleIDFile, "escrow.role_id_file")
	k.secretFile(s.SecretIDFile, "escrow.secret_id_file")
	role, id := s.RoleIDFile != "", s.SecretIDFile != ""
	switch {
	case s.TokenFile != "" && (role || id):
		k.report("escrow.token_file", "give token_file, or role_id_file and secret_id_file, not both")
	case s.TokenFile == "" && !role && !id && k.sound("token_file"):
		k.report("escrow.token_file", "missing: kind %q needs it, or role_id_file and secret_id_file", s.Kind)
	case role && !id && k.sound("secret_id_file"):
		k.report("escrow.secret_id_file", "missing: role_id_file needs it")
	case id && !role && k.sound("role_id_file"):
		k.report("escrow.role_id_file", "missing: secret_id_file needs it")
	}
	if s.Address == "" || s.Mount == "" || s.Path == "" {
		return ""
	}
	return fmt.Sprintf("%s/%s/%s in %s", strings.TrimSuffix(s.Address, "/"), s.Mount, s.Path, s.Namespace)
}

// commandPath has no element that a program could take for an option or a hidden file.
func commandPath(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || part[0] == '-' || part[0] == '.' || !consistsOf(part, "_.- @+") {
			return false
		}
	}
	return true
}

func (k checker) command(s *Escrow) (place string) {
	k.secretFile(s.EnvironmentFile, "escrow.environment_file")
	k.matches(s.Path, "path", commandPath, "names with slashes between them: letters, digits and _ . - @ + in each, and {hostname}")
	commands := []struct {
		key   string
		words []string
	}{{"save", s.Save}, {"list", s.List}, {"fetch", s.Fetch}}
	given := false
	for _, c := range commands {
		given = given || k.set(c.key) || !k.sound(c.key)
	}
	switch {
	case s.Preset != "" && given:
		k.report("escrow.preset", "give a preset, or save, list and fetch, not both")
		return ""
	case s.Preset != "":
		if !slices.Contains(presets, s.Preset) {
			k.report("escrow.preset", "unknown preset %q%s (%s)", s.Preset, nearest(s.Preset, presets), oneOf(presets))
		}
		return s.Preset + " " + s.Path
	case !given && k.sound("preset"):
		k.report("escrow.preset", "missing: %s; or give save, list and fetch", oneOf(presets))
		return ""
	case s.Path != "":
		k.report("escrow.path", "belongs to a preset; save, list and fetch name their places themselves")
	}
	for _, c := range commands {
		switch {
		case !k.sound(c.key): // of a wrong type
		case !k.set(c.key):
			k.report("escrow."+c.key, "missing: save, list and fetch go together")
		case len(c.words) == 0 || c.words[0] == "":
			k.report("escrow."+c.key, "must name a program")
		case strings.Contains(c.words[0], "/") && !filepath.IsAbs(c.words[0]):
			k.report("escrow."+c.key, "%q is neither an absolute path nor a bare name", c.words[0])
		default:
			k.program(c.words[0], "escrow."+c.key)
		}
	}
	return strings.Join(s.List, " ")
}

func oneOf(words []string) string {
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// hostPort tells whether s is a host and a port.
func hostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	u, wrong := url.Parse("x://" + s)
	return err == nil && wrong == nil && host != "" && port != "" && u.Host == s
}

// loopback tells whether a host, with or without a port, is this machine and cannot
// be another: "localhost" by RFC 6761, 6.3.
func loopback(hostPort string) bool {
	u, err := url.Parse("x://" + hostPort)
	if err != nil {
		return false
	}
	host := u.Hostname()
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && ip.IsLoopback())
}
