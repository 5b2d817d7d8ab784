package config

import (
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/footprintai/containarium-keyguard/agent/crew"
	"github.com/footprintai/containarium-keyguard/agent/internal/run"
)

// looks are what was seen of the files that a configuration names: of those that hold secrets, and of the
// programs that are given the key. All are looked at at once, as each may stand on a file
// system of its own that hangs (law 9). nil has looked at nothing.
type looks struct {
	may  func(paths ...string) bool // nil: whatever they are
	seen map[named]error
}

// named is a file that a configuration names.
type named struct {
	path string
	use  use
}

// use is what a file is for.
type use string

const (
	secretFile  use = "holds a secret"
	programFile use = "is given the key"
)

// unfitError says why a file may hold no secret.
type unfitError string

func (e unfitError) Error() string { return string(e) }

// look looks at all files that c names, and tells whether it might.
func (l *looks) look(c *Config) bool {
	if l == nil {
		return true
	}
	var list []named
	var paths []string
	note := func(path string, u use) {
		if usablePath(path) {
			list, paths = append(list, named{path, u}), append(paths, path)
		}
	}
	note(c.Database.URLFile, secretFile)
	for _, e := range c.Escrows {
		for _, path := range []string{e.IdentityFile, e.CredentialsFile, e.TokenFile, e.RoleIDFile, e.SecretIDFile, e.EnvironmentFile} {
			note(path, secretFile)
		}
		for _, words := range [][]string{e.Save, e.List, e.Fetch} {
			if len(words) > 0 {
				note(words[0], programFile)
			}
		}
	}
	if l.may != nil && !l.may(paths...) {
		return false
	}
	errs := make([]error, len(list))
	crew.Each(len(list), func(i int) { errs[i] = list[i].look() })
	l.seen = map[named]error{}
	for i, n := range list {
		l.seen[n] = errs[i]
	}
	return true
}

func (n named) look() error {
	if n.use == programFile {
		_, err := crew.Within(filepath.Dir(n.path), func() (string, error) { return run.SafeProgram(n.path) }, nil)
		return err
	}
	info, err := stat(n.path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return unfitError(n.path + " is not a regular file")
	case info.Mode().Perm()&^fs.FileMode(0o600) != 0:
		return unfitError(fmt.Sprintf("%s has mode %04o; a file with a secret must have 0600 or tighter: chmod 0600 %s", n.path, info.Mode().Perm(), n.path))
	}
	return nil
}

// wrong is what was seen to be wrong with a file, nil for nothing, and of one that was not looked at.
func (l *looks) wrong(path string, u use) error {
	if l == nil {
		return nil
	}
	return l.seen[named{path, u}]
}
