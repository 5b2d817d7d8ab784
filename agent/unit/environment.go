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
	p := parser{version: e.version, name: trimmed{end: -1}, value: trimmed{end: -1}}
	for _, c := range data {
		p.take(c)
	}
	switch p.state { // a last line without an end
	case inValue:
		p.push(p.value.cut())
	case beforeValue, escaped, inSingle, inDouble, escapedInDouble:
		p.push(p.value.text)
	}
	return p.entries, p.bad
}

// parser is one run of parse.
type parser struct {
	version     int // of systemd
	state       parsing
	name, value trimmed
	entries     []string
	bad         error
}

// trimmed is a text of which the whitespace at its end may not count.
type trimmed struct {
	text []byte
	end  int // where that whitespace begins; -1: it does not end with any
}

func (t *trimmed) add(c ...byte) { t.text = append(t.text, c...) }

// addBare adds what stands outside quotes, and escaped by nothing.
func (t *trimmed) addBare(c byte) {
	switch {
	case !strings.ContainsRune(whitespace, rune(c)):
		t.end = -1
	case t.end < 0:
		t.end = len(t.text)
	}
	t.add(c)
}

// cut is the text without that whitespace.
func (t *trimmed) cut() []byte {
	if t.end >= 0 {
		return t.text[:t.end]
	}
	return t.text
}

// push ends an entry, of this value.
func (p *parser) push(value []byte) {
	name := p.name.cut()
	if !utf8.Valid(name) || !utf8.Valid(value) {
		p.bad = fmt.Errorf("%w: not UTF-8", ErrEnvironmentFile)
	}
	p.entries = append(p.entries, string(name)+"="+string(value))
	p.state, p.name.text, p.value.text = beforeName, p.name.text[:0], p.value.text[:0]
}

// take reads on by one byte.
func (p *parser) take(c byte) {
	switch lineEnd := strings.ContainsRune(lineEnds, rune(c)); p.state {
	case beforeName, inName:
		p.takeInName(c, lineEnd)
	case beforeValue, inValue, escaped:
		p.takeInValue(c, lineEnd)
	case inSingle, inDouble, escapedInDouble:
		p.takeInQuotes(c)
	case inComment, escapedInComment:
		p.takeInComment(c, lineEnd)
	}
}

func (p *parser) takeInName(c byte, lineEnd bool) {
	switch {
	case p.state == inName && lineEnd:
		p.state, p.name.text = beforeName, p.name.text[:0]
	case p.state == inName && c == '=':
		p.state, p.value.end = beforeValue, -1
	case p.state == inName:
		p.name.addBare(c)
	case c == '#', c == ';':
		p.state = inComment
	case !strings.ContainsRune(whitespace, rune(c)):
		p.state, p.name.end = inName, -1
		p.name.add(c)
	}
}

func (p *parser) takeInValue(c byte, lineEnd bool) {
	switch {
	case p.state == escaped:
		if p.state = inValue; !lineEnd {
			p.value.add(c)
		}
	case lineEnd && p.state == inValue:
		p.push(p.value.cut())
	case lineEnd:
		p.push(p.value.text)
	case c == '\\':
		p.state = escaped
		p.value.end = -1
	case p.state == inValue:
		p.value.addBare(c)
	case c == '\'':
		p.state = inSingle
	case c == '"':
		p.state = inDouble
	case !strings.ContainsRune(whitespace, rune(c)):
		p.state = inValue
		p.value.add(c)
	}
}

func (p *parser) takeInQuotes(c byte) {
	switch {
	case p.state == escapedInDouble:
		p.state = inDouble
		switch {
		case strings.ContainsRune(needEscape, rune(c)):
			p.value.add(c)
		case c != '\n':
			p.value.add('\\', c)
		}
	case p.state == inSingle && c == '\'', p.state == inDouble && c == '"':
		p.state = beforeValue
	case p.state == inDouble && c == '\\':
		p.state = escapedInDouble
	default:
		p.value.add(c)
	}
}

func (p *parser) takeInComment(c byte, lineEnd bool) {
	switch {
	case p.state == escapedInComment:
		if p.state = inComment; lineEnd && p.version >= commentVersion {
			p.state = beforeName
		}
	case c == '\\':
		p.state = escapedInComment
	case lineEnd:
		p.state = beforeName
	}
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
