package wasm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sumsFile lists the files with compiled code of a component, and their SHA-256,
// as sha256sum(1) writes it. The engine's own checksum leaves out where functions
// begin, and one that begins elsewhere runs whatever stands there.
const sumsFile = "SHA256SUMS"

// mostSums is how many bytes of a list are read. Of the files in it there are no
// more than the disk has room for: the others are removed first.
const mostSums = 1 << 20

// sums are the SHA-256 of files in hexadecimal, by their paths from the directory.
type sums map[string]string

// A damage is why some files of a directory are not what was written there. They
// are removed.
type damage struct {
	files int
	first string // what is wrong with one of them
}

func (d *damage) Error() string {
	if d.files == 1 {
		return d.first
	}
	return fmt.Sprintf("%s, and %d more such files", d.first, d.files-1)
}

// readSums reads the list in a directory. A line that is none stands for no file.
func readSums(dir string) (sums, error) {
	b, err := readRegular(filepath.Join(dir, sumsFile), mostSums)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s := make(sums)
	for line := range strings.Lines(string(b)) {
		if sum, path, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  "); ok {
			s[path] = sum
		}
	}
	return s, nil
}

// verify returns which files of a directory have the SHA-256 that the list says,
// and removes the others. Its error is a *damage if there were some, and another
// if not even that can be found out.
func verify(dir string) (good sums, err error) {
	listed, err := readSums(dir)
	if err != nil {
		return nil, err
	}
	good = make(sums)
	var bad damage
	err = eachFile(dir, func(path, name string, regular bool) error {
		switch {
		case unfinished(name):
			return os.Remove(path)
		case !regular:
			bad.first = name + " is not a file"
		case listed[name] == "":
			bad.first = name + " has no checksum"
		default:
			sum, err := sumOf(path)
			if err == nil && sum == listed[name] {
				good[name] = sum
				return nil
			}
			bad.first = fmt.Sprintf("%s has SHA-256 %s, want %s", name, sum, listed[name])
			if err != nil {
				bad.first = err.Error()
			}
		}
		bad.files++
		return os.Remove(path)
	})
	switch {
	case err != nil:
		return nil, err
	case bad.files > 0:
		return good, &bad
	}
	return good, nil
}

// seal lists the files of a directory, of which good are known.
func seal(dir string, good sums) error {
	all := make(sums)
	err := eachFile(dir, func(path, name string, regular bool) (err error) {
		if !regular || unfinished(name) {
			return nil
		}
		if all[name] = good[name]; all[name] == "" {
			all[name], err = sumOf(path)
		}
		return err
	})
	if err != nil || maps.Equal(all, good) {
		return err
	}
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "%s  %s\n", all[name], name)
	}
	return writeFile(filepath.Join(dir, sumsFile), b.Bytes())
}

// unfinished reports whether a file is one that a stop in the middle of writing it
// has left: the engine's, or ours. Nobody reads it.
func unfinished(name string) bool {
	return filepath.Ext(name) == ".tmp" || strings.HasPrefix(filepath.Base(name), newFile)
}

// eachFile calls f with all that is under dir and no directory, but for the list
// itself; name is its path from there.
func eachFile(dir string, f func(path, name string, regular bool) error) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || name == sumsFile {
			return err
		}
		return f(path, name, e.Type().IsRegular())
	})
}

// sumOf is the SHA-256 of a file.
func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, onlyReader{f}, make([]byte, 256<<10)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// An onlyReader hides what else a file can do, so that it is read in pieces of the
// size of the buffer.
type onlyReader struct{ io.Reader }
