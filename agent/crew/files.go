package crew

import (
	"io/fs"
	"os"
	"path/filepath"
)

// What looks at a file of others does so through these: os.Stat and the like, where a file
// system that hangs, or a FIFO, is ErrHangs.

// Stat is os.Stat. It may be this path alone that hangs: where a file system is mounted.
func Stat(path string) (fs.FileInfo, error) {
	return Within(path, func() (fs.FileInfo, error) { return os.Stat(path) }, nil)
}

// Lstat is os.Lstat.
func Lstat(path string) (fs.FileInfo, error) {
	return Within(filepath.Dir(path), func() (fs.FileInfo, error) { return os.Lstat(path) }, nil)
}

// ReadFile is os.ReadFile.
func ReadFile(path string) ([]byte, error) {
	return Within(filepath.Dir(path), func() ([]byte, error) { return os.ReadFile(path) }, func(b []byte) { clear(b) })
}

// ReadDir is os.ReadDir.
func ReadDir(dir string) ([]fs.DirEntry, error) {
	return Within(dir, func() ([]fs.DirEntry, error) { return os.ReadDir(dir) }, nil)
}
