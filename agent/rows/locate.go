package rows

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
)

// ErrLoose says that a file which may hold a password has permission bits for group or
// others. The daemon refuses such a URL file too.
var ErrLoose = errors.New("its mode lets others read it")

// Location is where the daemon's database is.
type Location struct {
	URL    string // may hold a password: every way of printing a Location leaves it out
	From   string // where it was learnt, for people
	Absent bool   // there is positively no database yet
	Why    string // where Absent: on what ground, a sentence
	Never  bool   // where Absent: there will be none, by the configuration
	// Rival names something else that may hold the daemon's rows. A table of a database
	// that has one is never silent.
	Rival string
}

// String describes the place without the password.
func (l Location) String() string {
	if l.Absent {
		return "no database yet: " + l.Why
	}
	c, err := parseURL(l.URL)
	if err != nil {
		return fmt.Sprintf("%v (from %s)", err, l.From)
	}
	return fmt.Sprintf("%s (from %s)", place(c), l.From)
}

// Format prints String whatever the verb.
func (l Location) Format(f fmt.State, _ rune) { io.WriteString(f, l.String()) } //nolint:errcheck

// LogValue makes slog print String.
func (l Location) LogValue() slog.Value { return slog.StringValue(l.String()) }

// MarshalText makes encoding/json print String.
func (l Location) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// LocateOptions is what is known of where the database is.
type LocateOptions struct {
	// URL and URLFile are keyguard's own setting, which goes before everything else. The
	// URL "none" says that there is no database. The file holds one URL, with a password
	// if need be, and is refused if others can read it.
	URL, URLFile string
	// Environ lists the daemon's variables as NAME=value; nil where they are not known.
	Environ []string
	// Inherited says that Environ is what a process was given, ours in the daemon's unit or
	// the daemon's own, and no reading of the unit: it counts more than such a one.
	Inherited bool
	// PostgresFlag is the value of --postgres in the daemon's command line.
	PostgresFlag string
	// Unread is why Environ or PostgresFlag may lack something that the daemon has. nil,
	// with Environ: the daemon's unit was read whole, and names no other place.
	Unread error
	// Record is a file of SaveRecord. It says what neither of the above does.
	Record string
	// IncusSockets are tried in this order. nil: /var/lib/incus/unix.socket and
	// /run/incus/unix.socket.
	IncusSockets []string
	// DataDir is where the daemon's storage pool lives. "": /mnt/incus-data.
	DataDir string
}

// source is where the daemon looks for its database: a URL, a file with one, or, where
// both are empty, the container that incus knows.
type source struct {
	URL          string `json:"url,omitempty"`
	URLFile      string `json:"url_file,omitempty"`
	Password     string `json:"password,omitempty"`      // of the container's Postgres
	PasswordFile string `json:"password_file,omitempty"` // goes before Password
	From         string `json:"from"`
}

func (s source) inContainer() bool { return s.URL == "" && s.URLFile == "" }

// fromFlag and fromIncus are what source says of two of its origins.
const (
	fromFlag  = "the daemon's flag --postgres"
	fromIncus = "incus"
)

// Locate finds the database as the daemon does: keyguard's own setting, the daemon's
// flag and variables, incus; what is not known of the daemon is taken from the record.
// Only for incus it opens a socket, incus' own.
//
// It says Absent only for the URL "none", or where the daemon's unit was read whole, it
// and the record name no Postgres, and incus answers for all projects and pools, has
// neither the container nor its volume, and DataDir is missing or empty. Everything else
// that is not a place is an error: could not look (law 6).
func Locate(ctx context.Context, o LocateOptions) (Location, error) {
	s, known, err := o.source()
	if err != nil {
		return Location{}, err
	}
	own := o.URL != "" || o.URLFile != ""
	switch {
	case own && s.URL == "none":
		return Location{From: s.From, Absent: true, Why: "the configuration says so", Never: true}, nil
	case s.URLFile != "":
		text, err := readPrivate(s.URLFile, unix.O_CLOEXEC)
		if err != nil {
			return Location{}, fmt.Errorf("cannot read the database URL from %s: %w", s.From, err)
		}
		s.URL = strings.TrimSpace(string(text))
	case s.inContainer():
		return o.inContainer(ctx, s, known)
	}
	at, err := withVariables(s.URL, known.PG)
	if err == nil {
		err = checkPassfile(at)
	}
	if err != nil {
		return Location{}, fmt.Errorf("cannot use the database URL from %s: %w", s.From, err)
	}
	l := Location{URL: at, From: s.From}
	if o.unread() != nil && !own && s.From != fromFlag {
		l.Rival = unreadRival
	}
	return l, nil
}

// unreadRival is what may stand before a place that the daemon's variables name.
const unreadRival = "a database that the daemon's unit names, which could not be read"

// inContainer asks incus, and takes its "nothing" and its container's silence for what
// they are only where the daemon positively looks there.
func (o LocateOptions) inContainer(ctx context.Context, s source, known record) (Location, error) {
	l, err := o.askIncus(ctx, s)
	if err != nil {
		return Location{}, err
	}
	elsewhere := known.names()
	switch {
	case l.Absent && o.unread() != nil:
		return Location{}, fmt.Errorf("incus has no database, but %w: %w", ErrUnread, o.unread())
	case l.Absent && elsewhere != "":
		return Location{}, fmt.Errorf("incus has no database, but %w: it was once named by %s", ErrElsewhere, elsewhere)
	case l.Absent:
	case o.unread() != nil:
		l.Rival = unreadRival
	case elsewhere != "" && l.Rival == "":
		l.Rival = "the database that was once named by " + elsewhere
	}
	if !l.Absent {
		l.URL, err = withVariables(l.URL, known.PG)
	}
	return l, err
}

// unread is nil only where the daemon's unit was read whole.
func (o LocateOptions) unread() error {
	if o.Unread == nil && o.Environ == nil {
		return errNoVariables
	}
	return o.Unread
}

var errNoVariables = errors.New("nobody told of its variables")

// source says where the daemon looks, and all that is known of it.
func (o LocateOptions) source() (source, record, error) {
	recorded, err := readRecord(o.Record)
	switch {
	case o.URL != "" && o.URLFile != "":
		return source{}, record{}, fmt.Errorf("cannot choose between url and url_file of the configuration: %w", ErrURL)
	case o.URL != "":
		return source{URL: o.URL, From: "url in the configuration"}, recorded, nil
	case o.URLFile != "":
		return source{URLFile: o.URLFile, From: "url_file " + o.URLFile}, recorded, nil
	}
	known := o.merge(recorded)
	if known.Flag != "" {
		return source{URL: known.Flag, From: fromFlag}, known, nil
	}
	// A record that cannot be read may name another place.
	if known.inContainer() && err != nil {
		return source{}, record{}, fmt.Errorf("cannot read %s: %w", o.Record, err)
	}
	return known.source, known, nil
}

// variables is what the daemon's own variables say, in its order.
func (o LocateOptions) variables() source {
	if f := o.variable("CONTAINARIUM_POSTGRES_URL_FILE"); f != "" {
		return source{URLFile: f, From: "CONTAINARIUM_POSTGRES_URL_FILE, " + f}
	}
	if u := o.variable("CONTAINARIUM_POSTGRES_URL"); u != "" {
		return source{URL: u, From: "CONTAINARIUM_POSTGRES_URL"}
	}
	return source{
		PasswordFile: o.variable("CONTAINARIUM_POSTGRES_PASSWORD_FILE"),
		Password:     o.variable("CONTAINARIUM_POSTGRES_PASSWORD"),
		From:         fromIncus,
	}
}

// variable is the value of the last entry of that name, as for a process.
func (o LocateOptions) variable(name string) (value string) {
	for _, entry := range o.Environ {
		if v, ok := strings.CutPrefix(entry, name+"="); ok {
			value = v
		}
	}
	return value
}

// pg picks the variables that say how to connect.
func (o LocateOptions) pg() map[string]string {
	var pg map[string]string
	for _, entry := range o.Environ {
		if name, value, ok := strings.Cut(entry, "="); ok && pgSettings[name] != "" && value != "" {
			if pg == nil {
				pg = map[string]string{}
			}
			pg[name] = value
		}
	}
	return pg
}

// readPrivate reads a small file that only its owner can read. It does not hang on a
// FIFO, nor on a file system that does (crew.ErrHangs), and asks the open file, so that
// what is checked is what is read.
func readPrivate(path string, flags int) ([]byte, error) {
	return crew.Within(filepath.Dir(path), func() ([]byte, error) { return readOwn(path, flags) }, func(b []byte) { clear(b) })
}

func readOwn(path string, flags int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|flags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, ErrNotFile
	}
	if p := st.Mode().Perm(); p&0o077 != 0 {
		return nil, fmt.Errorf("%w (%04o)", ErrLoose, p)
	}
	return readSmall(f)
}

// readSmall reads at most 64 KiB: what is meant here fits into one line.
func readSmall(r io.Reader) ([]byte, error) {
	const most = 64 << 10
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && len(b) > most {
		err = errors.New("larger than 64 KiB")
	}
	return b, err
}

// containerURL is how the daemon builds it.
func containerURL(address, password string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword("containarium", password),
		Host: net.JoinHostPort(address, "5432"), Path: "/containarium", RawQuery: "sslmode=disable",
	}
	return u.String()
}

// containerPassword is found in the daemon's order: the file, the variable, its word.
func (s source) containerPassword() (string, error) {
	if s.PasswordFile != "" {
		// The daemon takes this file whatever its mode is.
		b, err := crew.Within(filepath.Dir(s.PasswordFile), func() ([]byte, error) {
			f, err := os.OpenFile(s.PasswordFile, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			return readSmall(f)
		}, func(b []byte) { clear(b) })
		if err != nil {
			return "", fmt.Errorf("cannot read the database password from %s: %w", s.PasswordFile, err)
		}
		return strings.TrimSpace(string(b)), nil
	}
	if s.Password != "" {
		return s.Password, nil
	}
	return "containarium", nil
}
