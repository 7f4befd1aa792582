package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Origins knows who set each setting.
type Origins struct{ of map[string]string }

// Of returns who set the setting at path, such as server.port: "default",
// "file sluice.yaml:3", "env SLUICE_PORT" or "flag --port".
func (o *Origins) Of(path string) string {
	if s, ok := o.of[path]; ok {
		return s
	}
	return "default"
}

// A loader puts the layers on each other.
type loader struct {
	cfg     *Config
	origins *Origins
	faults  Faults
	broken  []*field // settings that somebody gave a value that cannot be read
}

// Load makes the configuration of args (without the program's name and the
// command), environ (as os.Environ returns it) and the file that --config or
// SLUICE_CONFIG names, which readFile reads; nil is os.ReadFile. A flag goes
// before a variable, a variable before the file, the file before the default;
// a list is replaced as a whole.
//
// The error is a *Faults with everything that is wrong, and no secret.
func Load(args, environ []string, readFile func(string) ([]byte, error)) (*Config, *Origins, error) {
	l := newLoader()
	var flagFaults, envFaults Faults
	p := parseArgs(args, &flagFaults)
	env, file := parseEnv(environ, &envFaults)
	if where := envConfig; p.given || file != "" {
		if p.given {
			file, where = p.file, "--"+flagConfig
		}
		l.file(file, where, readFile)
	}
	l.faults.List = append(l.faults.List, envFaults.List...)
	l.apply(env)
	l.faults.List = append(l.faults.List, flagFaults.List...)
	l.apply(p.out)
	return l.done()
}

// Check reports everything that is wrong with one settings file by itself:
// without flags, and without variables. readFile nil is os.ReadFile.
func Check(file string, readFile func(string) ([]byte, error)) error {
	l := newLoader()
	l.file(file, "", readFile)
	_, _, err := l.done()
	return err
}

func newLoader() *loader {
	return &loader{cfg: Default(), origins: &Origins{of: make(map[string]string)}}
}

// file reads and applies the settings file that where named.
func (l *loader) file(name, where string, readFile func(string) ([]byte, error)) {
	if where != "" {
		where += ": "
	}
	if name == "" {
		l.faults.addf("%swant the name of a file", where)
		return
	}
	if readFile == nil {
		readFile = os.ReadFile
	}
	b, err := readFile(name)
	name = printable(name)
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		err = pe.Err // the name stands before it already
	}
	if err != nil {
		l.faults.addf("%sreading %s: %v", where, name, err)
		return
	}
	p := parseFile(name, b, &l.faults)
	l.broken = append(l.broken, p.broken...)
	l.apply(p.out)
}

// apply puts settings on what is there.
func (l *loader) apply(ss []setting) {
	for _, s := range ss {
		if err := s.field.set(l.cfg, s.values); err != nil {
			l.faults.addf("%s: %v", s.where, err)
			l.broken = append(l.broken, s.field)
			continue
		}
		l.origins.of[s.field.path()] = s.origin
	}
}

// done validates the whole. A setting whose value could not be read is left
// out: its fault is told, and the default it still has is nobody's mistake.
func (l *loader) done() (*Config, *Origins, error) {
	for _, p := range l.cfg.problems() {
		if !slices.ContainsFunc(p.fields, func(f *field) bool { return slices.Contains(l.broken, f) }) {
			l.faults.addf("%s%s", p.msg, l.blame(p.fields))
		}
	}
	if err := l.faults.err(); err != nil {
		return nil, nil, err
	}
	return l.cfg, l.origins, nil
}

// blame names who set the fields that have part in a problem.
func (l *loader) blame(fs []*field) string {
	var who []string
	for _, f := range fs {
		if o, ok := l.origins.of[f.path()]; ok {
			who = append(who, o)
		}
	}
	if len(who) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s)", strings.Join(who, ", "))
}
