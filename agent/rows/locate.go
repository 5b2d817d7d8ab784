package rows

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/internal/durable"
)

// ErrLoose says that a file which may hold a password has permission bits for group or
// others. The daemon refuses such a URL file too.
var ErrLoose = errors.New("its mode lets others read it")

// ErrRecord says that the record of where the database is cannot be understood.
var ErrRecord = errors.New("not a record of where the database is")

// Location is where the daemon's database is.
type Location struct {
	URL    string // may hold a password: every way of printing a Location leaves it out
	From   string // where it was learnt, for people
	Absent bool   // there is positively no database yet
	Why    string // where Absent: on what ground, a sentence
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
	// Environ looks up the variables that the daemon has; nil where they are not known.
	Environ func(name string) string
	// PostgresFlag is the value of --postgres in the daemon's command line.
	PostgresFlag string
	// Record is a file of SaveRecord. It is read where neither of the two above says
	// anything, so save first: then it is never older than they are.
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

// Locate finds the database as the daemon does: keyguard's own setting, the daemon's
// flag and variables, what was recorded of them, incus. Only for the last it opens a
// socket, incus' own.
//
// It says Absent only for the URL "none", or where incus answers for all projects and
// pools, has neither the container nor its volume, and DataDir is missing or empty.
// Everything else that is not a place is an error: could not look (law 6).
func Locate(ctx context.Context, o LocateOptions) (Location, error) {
	s, err := o.source()
	if err != nil {
		return Location{}, err
	}
	switch {
	case s.URL == "none" && o.URL == "none":
		return Location{From: s.From, Absent: true, Why: "the configuration says so"}, nil
	case s.URLFile != "":
		text, err := readPrivate(s.URLFile, unix.O_CLOEXEC)
		if err != nil {
			return Location{}, fmt.Errorf("cannot read the database URL from %s: %w", s.From, err)
		}
		s.URL = strings.TrimSpace(string(text))
	case s.inContainer():
		return o.askIncus(ctx, s)
	}
	if _, err := parseURL(s.URL); err != nil {
		return Location{}, fmt.Errorf("cannot use the database URL from %s: %w", s.From, err)
	}
	return Location{URL: s.URL, From: s.From}, nil
}

func (o LocateOptions) source() (source, error) {
	switch {
	case o.URL != "" && o.URLFile != "":
		return source{}, fmt.Errorf("cannot choose between url and url_file of the configuration: %w", ErrURL)
	case o.URL != "":
		return source{URL: o.URL, From: "url in the configuration"}, nil
	case o.URLFile != "":
		return source{URLFile: o.URLFile, From: "url_file " + o.URLFile}, nil
	}
	s := o.daemon()
	if !s.inContainer() || o.Record == "" {
		return s, nil
	}
	b, err := readPrivate(o.Record, unix.O_CLOEXEC|unix.O_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return source{}, fmt.Errorf("cannot read %s: %w", o.Record, err)
	}
	var recorded source
	if json.Unmarshal(b, &recorded) != nil || recorded.From == "" {
		return source{}, fmt.Errorf("cannot use %s: %w", o.Record, ErrRecord)
	}
	return recorded, nil
}

// daemon is what the daemon's own flag and variables say, in its order.
func (o LocateOptions) daemon() source {
	get := o.Environ
	if get == nil {
		get = func(string) string { return "" }
	}
	if o.PostgresFlag != "" {
		return source{URL: o.PostgresFlag, From: "the daemon's flag --postgres"}
	}
	if f := get("CONTAINARIUM_POSTGRES_URL_FILE"); f != "" {
		return source{URLFile: f, From: "CONTAINARIUM_POSTGRES_URL_FILE, " + f}
	}
	if u := get("CONTAINARIUM_POSTGRES_URL"); u != "" {
		return source{URL: u, From: "CONTAINARIUM_POSTGRES_URL"}
	}
	return source{
		PasswordFile: get("CONTAINARIUM_POSTGRES_PASSWORD_FILE"),
		Password:     get("CONTAINARIUM_POSTGRES_PASSWORD"),
		From:         "incus",
	}
}

// SaveRecord writes to path, mode 0600, what the daemon's flag and variables say, for
// those who run without them: the URL or the file that holds it, or that incus knows,
// so that a changed address is still found. It writes only what changed, and nothing
// where the variables are not known; it opens no socket.
func SaveRecord(path string, o LocateOptions) error {
	if o.Environ == nil && o.PostgresFlag == "" {
		return nil
	}
	want, err := json.Marshal(o.daemon())
	if err != nil {
		return err
	}
	want = append(want, '\n')
	if have, err := readPrivate(path, unix.O_CLOEXEC|unix.O_NOFOLLOW); err == nil && bytes.Equal(have, want) {
		return nil
	}
	if err := durable.WriteFile(path, want, durable.Attr{Mode: 0o600, UID: -1, GID: -1}); err != nil {
		return fmt.Errorf("cannot record where the database is: %w", err)
	}
	return nil
}

// readPrivate reads a small file that only its owner can read. It does not hang on a
// FIFO, and asks the open file, so that what is checked is what is read.
func readPrivate(path string, flags int) ([]byte, error) {
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
		return nil, errors.New("not a regular file")
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
		f, err := os.OpenFile(s.PasswordFile, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", fmt.Errorf("cannot read the database password: %w", err)
		}
		defer f.Close()
		b, err := readSmall(f)
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
