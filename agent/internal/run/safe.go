package run

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// ErrUnsafe says that a program, or the directory it stands in, may be changed by
// others than its owner, so that root must not run it.
var ErrUnsafe = errors.New("others may write to it")

// Safe refuses what belongs to anybody but root and us, or may be written by others.
func Safe(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || (st.Uid != 0 && int(st.Uid) != os.Geteuid()) || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s: %w (mode %04o, owner %d)", path, ErrUnsafe, info.Mode().Perm(), st.Uid)
	}
	return nil
}

// SafeProgram is where a program really stands, and refuses it as Safe does, and the directory there.
func SafeProgram(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	if err := Safe(filepath.Dir(real)); err != nil {
		return "", err
	}
	return real, Safe(real)
}
