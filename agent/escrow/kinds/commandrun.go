package kinds

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/footprintai/containarium-keyguard/agent/escrow"
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
// says. English, so that messages are those that commandSentinel knows.
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
		return nil, fmt.Errorf("%w: environment file %s: %w", escrow.ErrUnauthenticated, r.file, err)
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
			return nil, fmt.Errorf("%w: environment file %s, line %d: not NAME=value", escrow.ErrUnauthenticated, r.file, n)
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
		Timeout: r.timeout, MaxOutput: limit, Abandon: true, Safe: true,
	})
	if err != nil {
		return nil, commandSentinel(err)
	}
	return out, nil
}

// ErrUnsafe: the program is run as root and given the key, and others may change it. It is an ErrProgram too.
var ErrUnsafe = run.ErrUnsafe

// statuses are those of sysexits.h(3head) that mean something to us.
var statuses = map[int]error{66: escrow.ErrGone, 77: escrow.ErrDenied, 75: escrow.ErrUnreachable, 78: escrow.ErrNoPlace}

// sayings are what password managers say, in small letters, and what that means. The
// first that occurs is taken.
var sayings = []struct {
	text string
	is   error
}{
	// What the host says is the cause of what a program says after it.
	{"no space left", escrow.ErrFull}, {"read-only file system", escrow.ErrReadOnly},

	{"rate limit", escrow.ErrRateLimited}, {"too many requests", escrow.ErrRateLimited}, {"(429)", escrow.ErrRateLimited},

	{"no such host", escrow.ErrNeverLeft}, {"enotfound", escrow.ErrNeverLeft}, {"eai_again", escrow.ErrNeverLeft}, {"network is unreachable", escrow.ErrNeverLeft},
	{"connection refused", escrow.ErrUnreachable}, {"econnrefused", escrow.ErrUnreachable}, {"econnreset", escrow.ErrUnreachable}, {"etimedout", escrow.ErrUnreachable},
	{"i/o timeout", escrow.ErrUnreachable}, {"certificate", escrow.ErrUntrusted},

	{"not currently signed in", escrow.ErrUnauthenticated}, {"no accounts configured", escrow.ErrUnauthenticated}, {"session expired", escrow.ErrUnauthenticated},
	{"unauthorized", escrow.ErrUnauthenticated}, {"authentication required", escrow.ErrUnauthenticated}, {"service account token", escrow.ErrUnauthenticated},
	{"decodesacredentials", escrow.ErrUnauthenticated},
	{"not logged in", escrow.ErrUnauthenticated}, {"vault is locked", escrow.ErrUnauthenticated}, {"session key is invalid", escrow.ErrUnauthenticated},
	{"no assurance this key belongs", escrow.ErrGnuPG}, {"no public key", escrow.ErrGnuPG}, {"unusable public key", escrow.ErrGnuPG},
	{"no secret key", escrow.ErrUnauthenticated}, {"no pinentry", escrow.ErrUnauthenticated}, {"inappropriate ioctl", escrow.ErrUnauthenticated},
	{"operation cancelled", escrow.ErrUnauthenticated}, {"decryption failed", escrow.ErrUnauthenticated},

	{"isn't a vault in this account", escrow.ErrNoPlace}, {"you must run: pass init", escrow.ErrNoPlace}, {"no such file or directory", escrow.ErrNoPlace},
	{"isn't an item", escrow.ErrGone}, {"is not in the password store", escrow.ErrGone}, {"not found", escrow.ErrGone},
	{"more than one", escrow.ErrUnreadable},
	{"forbidden", escrow.ErrDenied}, {"permission", escrow.ErrDenied}, {"not authorized", escrow.ErrDenied},
}

// commandSentinel finds what a failed program means. A program that asks a question, whoever it
// is, has nobody to answer it.
func commandSentinel(err error) error {
	e, ok := errors.AsType[*run.Error](err)
	if !ok {
		return err
	}
	said := strings.ToLower(e.Tail)
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, run.ErrOutput):
		return fmt.Errorf("%w: %w", escrow.ErrCorrupt, err)
	case e.Status < 0 && isAny(err, fs.ErrNotExist, fs.ErrPermission, ErrUnsafe):
		return fmt.Errorf("%w: %w", escrow.ErrProgram, err)
	case asks(said):
		return fmt.Errorf("%w: %s asks a question, and there is nobody to answer: %w", escrow.ErrUnauthenticated, e.Command, err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", escrow.ErrTimeout, err)
	}
	if is, ok := statuses[e.Status]; ok {
		return fmt.Errorf("%w: %w", is, err)
	}
	for _, s := range sayings {
		if strings.Contains(said, s.text) {
			return fmt.Errorf("%w: %w", s.is, err)
		}
	}
	return fmt.Errorf("%w: %w", escrow.ErrUnreachable, err)
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
