package config

import (
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// checker looks at what the values mean. It never repeats a value that could hold a
// secret (law 8): addresses, URLs, recipients.
type checker struct {
	decoder
	host bool // look at this host too: owners and modes
}

// check reports what is wrong with the values of c. Fields whose type was wrong hold
// their default, so nothing is reported twice.
func check(c *Config, d decoder, host bool) {
	k := checker{d, host}
	for _, p := range []struct {
		key   string
		field *string
	}{{"keyfile", &c.Keyfile}, {"state_dir", &c.StateDir}, {"run_dir", &c.RunDir}} {
		if !usablePath(*p.field) {
			k.report(k.at(c, p.field), p.key, "%q is no absolute, clean path", *p.field)
		}
	}
	k.owner(c)
	if u := c.Daemon.Unit; u != "" && !unitName(u) {
		k.report(k.at(&c.Daemon, &c.Daemon.Unit), "daemon.unit", "%q is no name of a service, such as \"containarium.service\"", u)
	}
	k.database(&c.Database)
	k.within(&c.Prestart, &c.Prestart.Budget, "prestart.budget", time.Second, 80*time.Second)
	k.within(&c.Watch, &c.Watch.Debounce, "watch.debounce", 0, 10*time.Second)
	k.within(&c.Watch, &c.Watch.Rescan, "watch.rescan", time.Second, time.Hour)
	if c.Drill.Copies < 0 {
		k.report(k.at(&c.Drill, &c.Drill.Copies), "drill.copies", "must not be negative; 0 is all")
	}
	k.optionalPath(&c.Notify, &c.Notify.HooksDir, "notify.hooks_dir")
	k.optionalPath(&c.Notify, &c.Notify.MetricsFile, "notify.metrics_file")
	if p := c.Notify.PingURL; p != "" {
		if u, err := url.Parse(p); err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil {
			k.report(k.at(&c.Notify, &c.Notify.PingURL), "notify.ping_url", "must be an http or https URL without a user or password")
		}
	}
	names, places := map[string]int{}, map[string]string{}
	for i := range c.Escrows {
		k.escrow(&c.Escrows[i], names, places)
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

// recipient is bech32 (https://age-encryption.org/v1), whose checksum is looked at when
// the escrow is made, or the public half of an SSH key as its file has it, sshd(8).
func recipient(s string) bool {
	if f := strings.Fields(s); len(f) > 1 && (f[0] == "ssh-ed25519" || f[0] == "ssh-rsa") {
		return strings.HasPrefix(f[1], "AAAA")
	}
	data, ok := strings.CutPrefix(s, "age1")
	return ok && len(data) >= 58 && strings.ToLower(s) == s && consistsOf(data, "")
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
		k.report(k.at(c, &c.Owner), "owner", "must name a user")
		return
	}
	if !k.host || c.Owner == "root" { // uid 0 by definition, and no look-up on the healthy path
		return
	}
	u, err := user.Lookup(c.Owner)
	if err == nil {
		if c.UID, err = strconv.Atoi(u.Uid); err == nil {
			c.GID, err = strconv.Atoi(u.Gid)
		}
	}
	if err != nil {
		k.report(k.at(c, &c.Owner), "owner", "there is no user %q on this host", c.Owner)
	}
}

func (k checker) database(d *Database) {
	if d.URL != "" && d.URLFile != "" {
		k.report(k.at(d, &d.URLFile), "database.url_file", "give url or url_file, not both")
	}
	if what := BadDatabaseURL(d.URL); what != "" {
		k.report(k.at(d, &d.URL), "database.url", "%s", what)
	}
	k.secretFile(d, &d.URLFile, "database.url_file")
	k.within(d, &d.ConnectTimeout, "database.connect_timeout", time.Millisecond, time.Minute)
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
func (k checker) within(table any, field *time.Duration, key string, low, high time.Duration) {
	if *field < low || *field > high {
		k.report(k.at(table, field), key, "%q is not between %q and %q", duration(*field), duration(low), duration(high))
	}
}

func (k checker) optionalPath(table any, field *string, key string) {
	if *field != "" && !usablePath(*field) {
		k.report(k.at(table, field), key, "%q is no absolute, clean path", *field)
	}
}

// secretFile checks the name of a file that holds a secret, and the mode of the
// file. That it is missing is no problem of the configuration: whoever reads it says so.
func (k checker) secretFile(table any, field *string, key string) {
	if *field == "" {
		return
	}
	if !usablePath(*field) {
		k.report(k.at(table, field), key, "%q is no absolute, clean path", *field)
		return
	}
	if !k.host {
		return
	}
	info, err := os.Stat(*field)
	if err != nil {
		return
	}
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		k.report(k.at(table, field), key, "%s is not a regular file", *field)
	case mode.Perm()&^fs.FileMode(0o600) != 0:
		k.report(k.at(table, field), key, "%s has mode %04o; a file with a secret must have 0600 or tighter", *field, mode.Perm())
	}
}

func (k checker) escrow(s *Escrow, names map[string]int, places map[string]string) {
	v := reflect.ValueOf(s).Elem()
	report := func(field any, key, format string, a ...any) {
		k.report(k.at(s, field), "escrow."+key, format, a...)
	}
	switch {
	case s.Name == "":
		if k.sound(&s.Name, "name") {
			report(&s.Name, "name", "missing")
		}
	case !escrowName(s.Name):
		report(&s.Name, "name", "%q: a name has at most 64 letters, digits, and . _ - in it", s.Name)
	case names[s.Name] != 0:
		report(&s.Name, "name", "two escrows are called %q", s.Name)
	default:
		names[s.Name] = 1
	}
	if s.Kind == "" {
		if k.sound(&s.Kind, "kind") {
			report(&s.Kind, "kind", "missing: %s", oneOf(kinds))
		}
		return
	}
	if !slices.Contains(kinds, s.Kind) {
		report(&s.Kind, "kind", "unknown kind %q%s (%s)", s.Kind, nearest(s.Kind, kinds), oneOf(kinds))
		return
	}
	form := k.form(v.Type())
	for key, i := range form.index {
		of := form.kinds[i]
		if of == "" || of == s.Kind || slices.Contains(strings.Fields(of), s.Kind) {
			continue
		}
		if field := v.Field(i).Addr().Interface(); k.set(field) {
			report(field, key, "does not belong to kind %q, only to %s", s.Kind, strings.ReplaceAll(of, " ", " and "))
		}
	}
	if len(s.SealTo) > 0 && len(s.Recipients) > 0 {
		report(&s.Recipients, "recipients", "give seal_to or recipients, not both: they mean the same")
	}
	k.recipients(s, &s.SealTo, "seal_to")
	k.recipients(s, &s.Recipients, "recipients")
	k.secretFile(s, &s.IdentityFile, "escrow.identity_file")

	place := ""
	switch s.Kind {
	case GCPSecretManager:
		place = k.gcp(s)
	case VaultKV:
		place = k.vault(s)
	case Directory:
		k.missing(s, &s.Path, "path")
		if s.Path != "" && !usablePath(s.Path) && !stick(s.Path) {
			report(&s.Path, "path", "%q is no absolute, clean path, and no LABEL= or UUID= of a file system with a clean path behind it", s.Path)
		}
		place = s.Path
	case Command:
		place = k.command(s)
	}
	if place == "" {
		return
	}
	// Two that write to one place would take each other for another host (law 4).
	place = s.Kind + " " + place
	if other, taken := places[place]; taken {
		report(&s.Kind, "kind", "this is the same place as escrow %q", other)
	} else {
		places[place] = s.Name
	}
}

// sound tells whether nothing was reported of a field yet: what has a wrong type, or
// stands in a line that cannot be read, is not missing as well.
func (k checker) sound(field any, key string) bool {
	at, ok := k.where[field]
	return !k.broken[key] && (!ok || !slices.ContainsFunc(k.problems, func(p problem) bool { return p.at == at }))
}

func (k checker) missing(s *Escrow, field *string, key string) {
	if *field == "" && k.sound(field, key) {
		k.report(k.at(s, field), "escrow."+key, "missing: kind %q needs it", s.Kind)
	}
}

func (k checker) matches(s *Escrow, field *string, key string, form func(string) bool, rule string) {
	if *field != "" && !form(strings.ReplaceAll(*field, "{hostname}", "h")) {
		k.report(k.at(s, field), "escrow."+key, "%q: %s", *field, rule)
	}
}

func (k checker) recipients(s *Escrow, field *[]string, key string) {
	for i, r := range *field {
		switch {
		case strings.HasPrefix(strings.ToUpper(r), "AGE-SECRET-KEY-"):
			k.report(k.at(s, field), "escrow."+key, "number %d is an identity, which is a secret: put it into a file, and the file's name into identity_file", i+1)
		case !recipient(r):
			k.report(k.at(s, field), "escrow."+key, "number %d is no age recipient, such as age1… or ssh-ed25519 AAAA…", i+1)
		}
	}
}

func (k checker) gcp(s *Escrow) (place string) {
	k.missing(s, &s.Project, "project")
	k.missing(s, &s.Secret, "secret")
	k.matches(s, &s.Project, "project", project, "a project's id has lower-case letters, digits and dashes")
	k.matches(s, &s.Secret, "secret", secret, "a secret's name has at most 244 letters, digits, - and _, and {hostname}")
	k.matches(s, &s.Location, "location", location, `a location is like "europe-west1"`)
	k.secretFile(s, &s.CredentialsFile, "escrow.credentials_file")
	switch {
	case s.Endpoint == "" && s.Plaintext:
		k.report(k.at(s, &s.Plaintext), "escrow.plaintext", "allowed only with an endpoint on loopback")
	case s.Endpoint == "":
	case !hostPort(s.Endpoint):
		k.report(k.at(s, &s.Endpoint), "escrow.endpoint", `must be host:port, such as "127.0.0.1:8085"`)
	case s.Plaintext && !loopback(s.Endpoint):
		k.report(k.at(s, &s.Plaintext), "escrow.plaintext", "allowed only with an endpoint on loopback: the key would travel in the clear")
	}
	if s.Project == "" || s.Secret == "" {
		return ""
	}
	return fmt.Sprintf("%s/%s/%s at %s", s.Project, s.Location, s.Secret, s.Endpoint)
}

func (k checker) vault(s *Escrow) (place string) {
	k.missing(s, &s.Address, "address")
	k.missing(s, &s.Mount, "mount")
	k.missing(s, &s.Path, "path")
	k.matches(s, &s.Mount, "mount", vaultPath, "no slash at its ends, no white space, no ? # %")
	k.matches(s, &s.Path, "path", vaultPath, "no slash at its ends, no white space, no ? # %")
	if s.Address != "" {
		u, err := url.Parse(s.Address)
		switch {
		case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.RawQuery != "" || u.Fragment != "":
			k.report(k.at(s, &s.Address), "escrow.address", `must be a URL such as "https://vault.example:8200"`)
		case u.User != nil:
			k.report(k.at(s, &s.Address), "escrow.address", "must not hold a user or password")
		case u.Scheme == "http" && !loopback(u.Host):
			k.report(k.at(s, &s.Address), "escrow.address", "http is allowed only on loopback: the key would travel in the clear")
		}
	}
	k.optionalPath(s, &s.CAFile, "escrow.ca_file")
	k.secretFile(s, &s.TokenFile, "escrow.token_file")
	k.secretFile(s, &s.RoleIDFile, "escrow.role_id_file")
	k.secretFile(s, &s.SecretIDFile, "escrow.secret_id_file")
	role, id := s.RoleIDFile != "", s.SecretIDFile != ""
	switch {
	case s.TokenFile != "" && (role || id):
		k.report(k.at(s, &s.TokenFile), "escrow.token_file", "give token_file, or role_id_file and secret_id_file, not both")
	case s.TokenFile == "" && !role && !id && k.sound(&s.TokenFile, "token_file"):
		k.report(k.at(s, &s.TokenFile), "escrow.token_file", "missing: kind %q needs it, or role_id_file and secret_id_file", s.Kind)
	case role && !id && k.sound(&s.SecretIDFile, "secret_id_file"):
		k.report(k.at(s, &s.SecretIDFile), "escrow.secret_id_file", "missing: role_id_file needs it")
	case id && !role && k.sound(&s.RoleIDFile, "role_id_file"):
		k.report(k.at(s, &s.RoleIDFile), "escrow.role_id_file", "missing: secret_id_file needs it")
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
	k.secretFile(s, &s.EnvironmentFile, "escrow.environment_file")
	k.matches(s, &s.Path, "path", commandPath, "names with slashes between them: letters, digits and _ . - @ + in each, and {hostname}")
	commands := []struct {
		key   string
		field *[]string
	}{{"save", &s.Save}, {"list", &s.List}, {"fetch", &s.Fetch}}
	given := false
	for _, c := range commands {
		given = given || k.set(c.field)
	}
	switch {
	case s.Preset != "" && given:
		k.report(k.at(s, &s.Preset), "escrow.preset", "give a preset, or save, list and fetch, not both")
		return ""
	case s.Preset != "":
		if !slices.Contains(presets, s.Preset) {
			k.report(k.at(s, &s.Preset), "escrow.preset", "unknown preset %q%s (%s)", s.Preset, nearest(s.Preset, presets), oneOf(presets))
		}
		return s.Preset + " " + s.Path
	case !given && k.sound(&s.Preset, "preset"):
		k.report(k.at(s, &s.Preset), "escrow.preset", "missing: %s; or give save, list and fetch", oneOf(presets))
		return ""
	case s.Path != "":
		k.report(k.at(s, &s.Path), "escrow.path", "belongs to a preset; save, list and fetch name their places themselves")
	}
	for _, c := range commands {
		switch {
		case !k.set(c.field) && !k.sound(c.field, c.key): // in a broken line
		case !k.set(c.field):
			k.report(k.at(s, c.field), "escrow."+c.key, "missing: save, list and fetch go together")
		case *c.field == nil: // of a wrong type, reported
		case len(*c.field) == 0 || (*c.field)[0] == "":
			k.report(k.at(s, c.field), "escrow."+c.key, "must name a program")
		case strings.Contains((*c.field)[0], "/") && !filepath.IsAbs((*c.field)[0]):
			k.report(k.at(s, c.field), "escrow."+c.key, "%q is neither an absolute path nor a bare name", (*c.field)[0])
		}
	}
	return strings.Join(s.List, " ")
}

func oneOf(words []string) string {
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// hostPort tells whether s is a host, with or without a port.
func hostPort(s string) bool {
	u, err := url.Parse("x://" + s)
	return err == nil && u.Host == s && u.Hostname() != ""
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
