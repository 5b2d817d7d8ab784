package unit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/footprintai/containarium-keyguard/agent/crew"
)

// commentVersion is the first systemd that ends a comment with its line even where a
// backslash stands before the end.
const commentVersion = 254

// ErrEnvironmentFile says that an EnvironmentFile= is none: systemd reads nothing of it.
var ErrEnvironmentFile = errors.New("not a file that EnvironmentFile= reads")

// environment is a unit's variables, put together as systemd does before it executes
// something: what the manager gives to everybody, Environment=, the files of
// EnvironmentFile= in their order, without those of UnsetEnvironment=.
type environment struct {
	variables map[string]string
	version   int // of systemd, as it parses
}

// set adds NAME=value entries. Those whose name is none systemd does not pass on.
func (e *environment) set(entries []string) {
	for _, entry := range entries {
		if name, value, ok := strings.Cut(entry, "="); ok && validName(name) {
			e.variables[name] = value
		}
	}
}

// unset is UnsetEnvironment=: names, and NAME=value that go only if the value is this one.
func (e *environment) unset(entries []string) {
	for _, entry := range entries {
		name, value, assigned := strings.Cut(entry, "=")
		if have, ok := e.variables[name]; ok && (!assigned || have == value) {
			delete(e.variables, name)
		}
	}
}

// environmentFile are what one EnvironmentFile= names.
type environmentFile struct {
	pattern  string // a path, or a pattern of paths
	optional bool   // a '-' stands before it
}

// addFiles reads them.
func (e *environment) addFiles(files environmentFile) error {
	dir := filepath.Dir(files.pattern)
	paths, err := crew.Within(dir, func() ([]string, error) { return filepath.Glob(files.pattern) }, nil)
	if err != nil {
		return fmt.Errorf("cannot read %q: %w", files.pattern, err)
	}
	if len(paths) == 0 {
		// A directory that cannot be read looks to Glob like an empty one.
		switch _, err := crew.Lstat(dir); {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("cannot read %q: %w", files.pattern, err)
		case !files.optional:
			return fmt.Errorf("cannot read %q: %w", files.pattern, fs.ErrNotExist)
		}
	}
	for _, path := range paths {
		// With a '-', too, one that is there and cannot be read here may be one that the
		// daemon reads.
		data, err := readEnvironmentFile(path)
		if err == nil {
			var entries []string
			entries, err = e.parse(data)
			if err == nil {
				e.set(entries)
			}
		}
		if err != nil {
			return fmt.Errorf("cannot read %q: %w", path, err)
		}
	}
	return nil
}

// readEnvironmentFile hangs neither on a FIFO nor on a file system that does (crew.ErrHangs),
// and reads at most what systemd does.
func readEnvironmentFile(path string) ([]byte, error) {
	return crew.Within(filepath.Dir(path), func() ([]byte, error) { return readRegular(path) }, func(b []byte) { clear(b) })
}

func readRegular(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Unwrap(err) // *fs.PathError, whose path the caller names
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(ErrEnvironmentFile, err)
	}
	const most = 4 << 20 // READ_FULL_BYTES_MAX is 64 MiB; nobody writes that by hand
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("%w: larger than 4 MiB", ErrEnvironmentFile)
	}
	return data, err
}

// The states of parse.
type parsing int

const (
	beforeName parsing = iota
	inName
	beforeValue // or between two quoted parts of one
	inValue
	escaped // after a backslash in a value
	inSingle
	inDouble
	escapedInDouble
	inComment
	escapedInComment
)

const (
	lineEnds   = "\n\r"
	whitespace = " \t\n\r"
	// What a backslash between double quotes takes its meaning from, as in the shell.
	needEscape = "\"\\`$"
)

// parse reads a file as systemd.exec(5) has EnvironmentFile= read: NAME=value, where a
// value is bare, with backslashes that escape; or of parts in single quotes, which nothing
// escapes, and in double quotes, where the shell's escapes do; or of several of these,
// joined, the whitespace between them dropped. A backslash at the end of a line continues
// it. Lines that begin with # or ; are comments. The rules are systemd's own, not the
// shell's: a # in a value is part of it, and "a"b is ab.
func (e *environment) parse(data []byte) ([]string, error) {
	if i := strings.IndexByte(string(data), 0); i >= 0 {
		return nil, fmt.Errorf("%w: a zero byte", ErrEnvironmentFile)
	}
	var (
		entries     []string
		state       parsing
		name, value []byte
		// Where the whitespace begins that ends the name or the value so far; -1: it does
		// not end with any.
		nameEnd, valueEnd = -1, -1
		bad               error
	)
	trail := func(b []byte, c byte, end *int) {
		switch {
		case !strings.ContainsRune(whitespace, rune(c)):
			*end = -1
		case *end < 0:
			*end = len(b)
		}
	}
	chomped := func() []byte { // the value without the whitespace at its end
		if valueEnd >= 0 {
			return value[:valueEnd]
		}
		return value
	}
	push := func(v []byte) {
		if nameEnd >= 0 {
			name = name[:nameEnd]
		}
		if !utf8.Valid(name) || !utf8.Valid(v) {
			bad = fmt.Errorf("%w: not UTF-8", ErrEnvironmentFile)
		}
		entries = append(entries, string(name)+"="+string(v))
		name, value, state = name[:0], value[:0], beforeName
	}
	for _, c := range data {
		lineEnd := strings.ContainsRune(lineEnds, rune(c))
		switch state {
		case beforeName:
			switch {
			case c == '#', c == ';':
				state = inComment
			case !strings.ContainsRune(whitespace, rune(c)):
				state, name, nameEnd = inName, append(name, c), -1
			}
		case inName:
			switch {
			case lineEnd:
				name, state = name[:0], beforeName
			case c == '=':
				state, valueEnd = beforeValue, -1
			default:
				trail(name, c, &nameEnd)
				name = append(name, c)
			}
		case beforeValue:
			switch {
			case lineEnd:
				push(value)
			case c == '\'':
				state = inSingle
			case c == '"':
				state = inDouble
			case c == '\\':
				state = escaped
			case !strings.ContainsRune(whitespace, rune(c)):
				state, value = inValue, append(value, c)
			}
		case inValue:
			switch {
			case lineEnd:
				push(chomped())
			case c == '\\':
				state, valueEnd = escaped, -1
			default:
				trail(value, c, &valueEnd)
				value = append(value, c)
			}
		case escaped:
			if state = inValue; !lineEnd {
				value = append(value, c)
			}
		case inSingle:
			if c == '\'' {
				state = beforeValue
			} else {
				value = append(value, c)
			}
		case inDouble:
			switch c {
			case '"':
				state = beforeValue
			case '\\':
				state = escapedInDouble
			default:
				value = append(value, c)
			}
		case escapedInDouble:
			state = inDouble
			switch {
			case strings.ContainsRune(needEscape, rune(c)):
				value = append(value, c)
			case c != '\n':
				value = append(value, '\\', c)
			}
		case inComment:
			switch {
			case c == '\\':
				state = escapedInComment
			case lineEnd:
				state = beforeName
			}
		case escapedInComment:
			if state = inComment; lineEnd && e.version >= commentVersion {
				state = beforeName
			}
		}
	}
	switch state { // a last line without an end
	case inValue:
		push(chomped())
	case beforeValue, escaped, inSingle, inDouble, escapedInDouble:
		push(value)
	}
	return entries, bad
}

// validName is what systemd takes for the name of a variable.
func validName(name string) bool {
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		return false
	}
	return strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == ""
}

// expand puts variables into one word of a command line, as systemd.service(5) says:
// ${NAME} wherever it stands, $NAME where it is the whole word, $$ for a dollar sign.
func (e *environment) expand(word string) string {
	if name, ok := strings.CutPrefix(word, "$"); ok && validName(name) {
		return e.variables[name]
	}
	var b strings.Builder
	for {
		before, after, found := strings.Cut(word, "$")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		word = after
		switch name, rest, closed := strings.Cut(strings.TrimPrefix(after, "{"), "}"); {
		case strings.HasPrefix(after, "$"):
			word = after[1:]
			b.WriteByte('$')
		case strings.HasPrefix(after, "{") && closed && validName(name):
			word = rest
			b.WriteString(e.variables[name])
		default:
			b.WriteByte('$')
		}
	}
}
