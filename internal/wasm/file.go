package wasm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// MaxBinary is the largest component that is read, in bytes.
const MaxBinary = 64 << 20

// forbidden are directories out of which no module is read, as the contract has
// them.
var forbidden = []string{"/etc", "/proc", "/sys", "/dev", "/boot", "/root", "/var/log", "/var/run", "/run"}

// ReadFile reads a component from a file that an operator named. The path must
// be absolute, say what it means without detours, and end in .wasm; the file
// must be a regular one, and not where secrets are.
func ReadFile(path string) ([]byte, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("reading module: %w", err)
	}
	if err := checkPlace(real); err != nil {
		return nil, err
	}
	b, err := readRegular(real, MaxBinary)
	if err != nil {
		return nil, fmt.Errorf("reading module: %w", err)
	}
	return b, nil
}

// readRegular reads a regular file of 1 to most bytes.
func readRegular(path string, most int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe that nobody writes to would be waited for
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	case info.Size() == 0:
		return nil, fmt.Errorf("%s is empty", path)
	case info.Size() > int64(most):
		return nil, fmt.Errorf("%s has %d bytes; at most %d are allowed", path, info.Size(), most)
	}
	var b bytes.Buffer
	b.Grow(int(info.Size()) + bytes.MinRead)
	if _, err := b.ReadFrom(&limited{f, most + 1}); err != nil { // one more, so that the end is seen
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return b.Bytes(), nil
}

// limited is a file of which no more than left bytes are read.
type limited struct {
	f    *os.File
	left int
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errors.New("it grows while it is read")
	}
	n, err := l.f.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

func checkPath(path string) error {
	switch {
	case path == "":
		return errors.New("a module needs a file_path")
	case !filepath.IsAbs(path):
		return fmt.Errorf("file_path %.200q is not absolute", path)
	case strings.ContainsRune(path, 0):
		return errors.New("file_path holds a NUL byte")
	case filepath.Clean(path) != path:
		return fmt.Errorf("file_path %.200q has parts such as .., . or //", path)
	case filepath.Ext(path) != ".wasm":
		return fmt.Errorf("file_path %.200q does not end in .wasm", path)
	}
	return checkPlace(path)
}

func checkPlace(path string) error {
	for _, d := range forbidden {
		if path == d || strings.HasPrefix(path, d+"/") {
			return fmt.Errorf("file_path %.200q is under %s, out of which no module is read", path, d)
		}
	}
	return nil
}
