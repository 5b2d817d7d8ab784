package rows

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/footprintai/containarium-keyguard/agent/crew"
)

// pgSettings are the variables that the daemon's driver reads, and what they are called in
// a connection string (pgconn.ParseConfig).
var pgSettings = map[string]string{
	"PGHOST": "host", "PGPORT": "port", "PGDATABASE": "database", "PGUSER": "user",
	"PGPASSWORD": "password", "PGPASSFILE": "passfile", "PGAPPNAME": "application_name",
	"PGCONNECT_TIMEOUT": "connect_timeout", "PGSSLMODE": "sslmode", "PGSSLKEY": "sslkey",
	"PGSSLCERT": "sslcert", "PGSSLCERTMODE": "sslcertmode", "PGSSLSNI": "sslsni",
	"PGSSLROOTCERT": "sslrootcert", "PGSSLPASSWORD": "sslpassword",
	"PGSSLNEGOTIATION": "sslnegotiation", "PGTARGETSESSIONATTRS": "target_session_attrs",
	"PGSERVICE": "service", "PGSERVICEFILE": "servicefile", "PGTZ": "timezone",
	"PGOPTIONS": "options", "PGMINPROTOCOLVERSION": "min_protocol_version",
	"PGMAXPROTOCOLVERSION": "max_protocol_version", "PGCHANNELBINDING": "channel_binding",
	"PGREQUIREAUTH": "require_auth",
}

// withVariables is a connection string that says what conn says to a process that has the
// variables pg, which stand behind what conn itself says.
func withVariables(conn string, pg map[string]string) (string, error) {
	if _, err := parseURL(conn); err != nil {
		return "", err
	}
	if len(pg) == 0 {
		return conn, nil
	}
	names := slices.Sorted(maps.Keys(pg))
	if !isURL(conn) {
		// Of several of one name the last counts.
		var b strings.Builder
		for _, name := range names {
			b.WriteString(pgSettings[name] + "='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(pg[name]) + "' ")
		}
		conn = b.String() + conn
	} else {
		conn = strings.TrimSuffix(conn, "?")
		said := settingsOf(conn)
		for _, name := range names {
			if setting := pgSettings[name]; !said[setting] {
				separator := "?"
				if said[anyQuery] {
					separator = "&"
				}
				said[anyQuery] = true
				conn += separator + setting + "=" + strings.ReplaceAll(url.QueryEscape(pg[name]), "+", "%20")
			}
		}
	}
	_, err := parseURL(conn)
	return conn, orVariables(err, names)
}

// orVariables names, beside a URL that cannot be used, the variables that may be to blame.
func orVariables(err error, names []string) error {
	if !errors.Is(err, ErrURL) || len(names) == 0 {
		return err
	}
	return fmt.Errorf("%w, or a variable is not what it should be (%s)", err, strings.Join(names, ", "))
}

// checkPassfile refuses a password file that others can read, as the daemon's own are
// refused, where it is what the password comes from. libpq passes over such a one.
func checkPassfile(conn string) error {
	c, err := parseURL(conn)
	if err != nil || c.Password == "" || os.Getenv("PGPASSWORD") != "" {
		return err
	}
	file := ""
	if isURL(conn) {
		_, query, _ := strings.Cut(conn, "?")
		if settingsOf(conn)["password"] {
			return nil
		}
		values, _ := url.ParseQuery(query)
		file = values.Get("passfile")
	} else {
		if wordsPassword().MatchString(conn) {
			return nil
		}
		for _, m := range wordsPassfile().FindAllStringSubmatch(conn, -1) { // the last counts
			file = strings.Trim(m[1], "'")
		}
	}
	if home, err := os.UserHomeDir(); file == "" && err == nil {
		file = cmp.Or(os.Getenv("PGPASSFILE"), filepath.Join(home, ".pgpass"))
	}
	st, err := crew.Within(namedFiles, func() (os.FileInfo, error) { return os.Stat(file) }, nil)
	if errors.Is(err, crew.ErrHangs) {
		return err
	}
	if err != nil {
		return nil // it is a service file's password, or the file is gone since
	}
	if p := st.Mode().Perm(); p&0o077 != 0 {
		return fmt.Errorf("cannot use the password in %s: %w (%04o)", file, ErrLoose, p)
	}
	return nil
}

var (
	wordsPassword = form(`(?:^|\s)password\s*=`)
	wordsPassfile = form(`(?:^|\s)passfile\s*=\s*('[^']*'|\S+)`)
)

// ClearText names where the password would cross a network readable by all, if the server
// there offers no TLS, or somebody on the way says that it does not: with no sslmode in
// the URL that is taken for an answer. "": nowhere.
func (l Location) ClearText() string {
	if l.Absent {
		return ""
	}
	c, err := parseURL(l.URL)
	if err != nil || c.Password == "" || c.TLSConfig == nil {
		return "" // without a password; or sslmode=disable, which is somebody's word
	}
	for _, f := range c.Fallbacks {
		ip := net.ParseIP(f.Host)
		near := strings.HasPrefix(f.Host, "/") || f.Host == "localhost" || ip != nil && ip.IsLoopback()
		if f.TLSConfig == nil && !near {
			return f.Host
		}
	}
	return ""
}

func isURL(conn string) bool {
	return strings.HasPrefix(conn, "postgres://") || strings.HasPrefix(conn, "postgresql://")
}

// namedFiles are the files that a connection string and PG* variables name.
const namedFiles = "one of the files that the database's settings name (passfile, sslrootcert, sslcert, sslkey, servicefile, or their PG* variables)"

// maxNamedFile bounds a file that a setting names, in bytes: the certificates of every
// authority that a system trusts are a quarter of it.
const maxNamedFile = 1 << 20

// checkFiles refuses what the driver would read without end: a device but /dev/null, and a
// large file.
func checkFiles(conn string) error {
	query := url.Values{}
	if isURL(conn) {
		_, text, _ := strings.Cut(conn, "?")
		query, _ = url.ParseQuery(text)
	}
	for variable, setting := range pgSettings {
		switch setting {
		case "passfile", "servicefile", "sslrootcert", "sslcert", "sslkey":
		default:
			continue
		}
		files := append([]string{os.Getenv(variable)}, query[setting]...)
		if !isURL(conn) {
			for _, m := range form(`(?:^|\s)`+setting+`\s*=\s*('(?:[^'\\]|\\.)*'|\S+)`)().FindAllStringSubmatch(conn, -1) {
				files = append(files, strings.NewReplacer(`\\`, `\`, `\'`, `'`).Replace(strings.Trim(m[1], "'")))
			}
		}
		for _, file := range files {
			st, err := os.Stat(file)
			if err != nil { // the driver says what that means
				continue
			}
			if file != os.DevNull && (st.Mode()&fs.ModeDevice != 0 || st.Size() > maxNamedFile) {
				return fmt.Errorf("cannot use %s as %s: %w of at most %d bytes", file, setting, ErrNotFile, maxNamedFile)
			}
		}
	}
	return nil
}

// anyQuery, among the settings of a URL, says that it has a query.
const anyQuery = "?"

// settingsOf tells which settings a URL makes, by the driver's grammar of one, which is
// libpq's: credentials end at the first @ before a slash, and hosts are several.
func settingsOf(conn string) map[string]bool {
	said := map[string]bool{}
	_, rest, _ := strings.Cut(conn, "://")
	if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
		user, password, _ := strings.Cut(rest[:i], ":")
		said["user"], said["password"] = user != "", password != ""
		rest = rest[i+1:]
	}
	hosts, query := rest, ""
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		hosts, rest = rest[:i], rest[i:]
		path, after, has := strings.Cut(rest, "?")
		said["database"], query, said[anyQuery] = len(path) > 1, after, has
	}
	several := strings.Contains(hosts, ",")
	ports := hosts[strings.LastIndexByte(hosts, ']')+1:] // an address in brackets has colons
	said["host"] = several || hosts != "" && hosts[0] != ':'
	said["port"] = several || strings.Contains(ports, ":") && !strings.HasSuffix(ports, ":")
	for pair := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(pair, "=")
		if decoded, err := url.PathUnescape(name); err == nil {
			name = decoded
		}
		switch name {
		case "dbname":
			name = "database"
		case "ssl":
			name = "sslmode"
		}
		said[name] = true
	}
	return said
}

// parseURL reads what the daemon gives to pgxpool.New: a URL, or words as libpq has them,
// with the driver's own settings, which are not the server's. Its error names no part of
// it: what does not parse may hold the password anywhere. Parsing reads the files that it
// and the environment name (passfile, sslrootcert, sslcert, sslkey, servicefile), any of
// which may be a FIFO or on a file system that hangs: crew.ErrHangs.
//
// The driver reads all of such a file: one without end, as a device is, is ErrNotFile.
func parseURL(conn string) (*pgconn.Config, error) {
	pool, err := crew.Within(namedFiles, func() (*pgxpool.Config, error) {
		if err := checkFiles(conn); err != nil {
			return nil, err
		}
		return pgxpool.ParseConfig(conn)
	}, nil)
	if errors.Is(err, crew.ErrHangs) || errors.Is(err, ErrNotFile) {
		return nil, err
	}
	if conn == "" || isURL(conn) && strings.ContainsAny(conn, "\r\n") {
		return nil, ErrURL
	}
	if err != nil {
		// The driver takes from this process's environment what the URL does not say.
		return nil, orVariables(ErrURL, slices.DeleteFunc(slices.Sorted(maps.Keys(pgSettings)), func(name string) bool { return os.Getenv(name) == "" }))
	}
	c := &pool.ConnConfig.Config
	for name, value := range c.RuntimeParams {
		// A password with a ? or an & in it, not escaped, ends up here, and a line NAME=URL.
		if isURL(value) || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.") != "" {
			return nil, ErrURL
		}
	}
	return c, nil
}
