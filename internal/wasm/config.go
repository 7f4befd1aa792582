package wasm

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"sluice/internal/kit/secret"
)

// Config says whether modules are run, and which there are from the start.
type Config struct {
	Enable   bool     `yaml:"enable" flag:"enable-wasm" help:"run WebAssembly modules as middleware; they are managed over /wasm"`
	StateDir string   `yaml:"state_dir" flag:"wasm-state-dir" help:"directory in which modules and their compiled code are kept for the next start; none means that a restart loses them"`
	Modules  []string `yaml:"modules" flag:"wasm-module" help:"module that is there from the start, as name=/path/to/file.wasm; further settings follow it, ;key=value each: order, enabled, fail_closed, paths, models, tenants, attach_points, isolation, max_memory_pages, max_execution_time_ms, max_stack_size, max_body_size, max_instances, config"`
}

// DefaultConfig returns the defaults: no modules are run.
func DefaultConfig() Config { return Config{} }

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	if !c.Enable && len(c.Modules) > 0 {
		errs = append(errs, errors.New("wasm-module needs enable-wasm"))
	}
	if !c.Enable && c.StateDir != "" { // what is kept there may guard the door
		errs = append(errs, errors.New("wasm-state-dir needs enable-wasm"))
	}
	if c.StateDir != "" && !filepath.IsAbs(c.StateDir) {
		errs = append(errs, fmt.Errorf("wasm-state-dir %q is not an absolute path", c.StateDir))
	}
	seen := make(map[string]bool)
	for _, m := range c.Modules {
		s, err := ParseSpec(m)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("wasm-module %s: %w", SpecFile(m), err))
		case seen[s.Name]:
			errs = append(errs, fmt.Errorf("wasm-module: two modules are called %q", s.Name))
		}
		seen[s.Name] = true
	}
	return errors.Join(errs...)
}

// ParseSpec reads a module as --wasm-module has it. A ; within a value is written
// twice.
func ParseSpec(text string) (Spec, error) {
	s := Spec{Settings: DefaultSettings(), FromConfig: true}
	head, rest, more := strings.Cut(text, ";")
	name, path, ok := strings.Cut(head, "=")
	if !ok {
		return s, errors.New("want name=/path/to/file.wasm; in a variable, commas part modules")
	}
	s.Name, s.Path = strings.TrimSpace(name), strings.TrimSpace(path)
	if !filepath.IsAbs(s.Path) { // it may be half of a secret
		return s, errors.New("the path of its file is not absolute; in a variable, commas part modules")
	}
	if err := checkPath(s.Path); err != nil {
		return s, err
	}
	if !more {
		return s, cmp.Or(s.checkName(), s.check())
	}
	seen := make(map[string]bool)
	for n, part := range further(rest) {
		key, value, ok := keyValue(part)
		if !ok {
			return s, fmt.Errorf("setting %d is not key=value; a ; within a value is written ;;", n+1) // it may be half of a secret
		}
		if seen[key] {
			return s, fmt.Errorf("%.64q is there twice", key)
		}
		seen[key] = true
		if err := s.option(key, value); err != nil {
			return s, err
		}
	}
	return s, cmp.Or(s.checkName(), s.check())
}

// further takes further settings apart at each ; that stands alone; ;; is one
// within a value.
func further(text string) (parts []string) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] != ';':
			b.WriteByte(text[i])
		case strings.HasPrefix(text[i:], ";;"):
			b.WriteByte(';')
			i++
		default:
			parts = append(parts, b.String())
			b.Reset()
		}
	}
	return append(parts, b.String())
}

// keyValue reads one further setting. A configuration keeps the blanks that it
// begins and ends with.
func keyValue(part string) (key, value string, ok bool) {
	key, value, ok = strings.Cut(part, "=")
	if key = strings.TrimSpace(key); key != configKey {
		value = strings.TrimSpace(value)
	}
	return key, value, ok
}

// configKey is the setting that may be a secret.
const configKey = "config"

// SpecFile is what may be told of a module as --wasm-module has it, quoted: its
// name and its file. Its configuration may hold secrets, and so may a text that is
// no module: half of one that a comma has cut.
func SpecFile(text string) string {
	head, _, _ := strings.Cut(text, ";")
	_, path, ok := strings.Cut(head, "=")
	if path = strings.TrimSpace(path); !ok || !filepath.IsAbs(path) && !strings.HasSuffix(path, ".wasm") {
		return strconv.Quote(secret.Mask)
	}
	return strconv.Quote(head)
}

// Mask is one of c.Modules with **** in the place of its configuration.
func (c Config) Mask(text string) string {
	head, rest, more := strings.Cut(text, ";")
	if !more {
		return head
	}
	all := []string{head}
	for _, part := range further(rest) {
		switch key, _, ok := keyValue(part); {
		case !ok:
			part = secret.Mask
		case key == configKey:
			part = configKey + "=" + secret.Mask
		}
		all = append(all, strings.ReplaceAll(part, ";", ";;"))
	}
	return strings.Join(all, ";")
}

// option sets one further setting.
func (s *Spec) option(key, value string) (err error) {
	if _, limit := bounds[key]; limit {
		return s.limit(key, value)
	}
	switch key {
	case "order":
		s.Order, err = strconv.Atoi(value)
	case "enabled":
		var is bool
		is, err = strconv.ParseBool(value)
		s.Disabled = !is
	case "fail_closed":
		s.FailClosed, err = strconv.ParseBool(value)
	case "paths":
		s.Paths = strings.Split(value, ",")
	case "models":
		s.Models = strings.Split(value, ",")
	case "tenants":
		s.Tenants = strings.Split(value, ",")
	case "attach_points":
		for _, p := range strings.Split(value, ",") {
			var h Hook
			if err := h.UnmarshalText([]byte(p)); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			s.Attach = append(s.Attach, h)
		}
	case "isolation":
		s.Settings.Isolation = Isolation(value)
	case configKey:
		s.Settings.Config = value
	default:
		return fmt.Errorf("unknown setting %.64q", key)
	}
	switch {
	case err == nil:
		return nil
	case key == "fail_closed" || key == "enabled":
		return fmt.Errorf("%s is %.64q; want true or false", key, value)
	}
	return fmt.Errorf("%s is %.64q; want a whole number", key, value)
}

// limit sets one that is a limit.
func (s *Spec) limit(key, value string) error {
	n, err := strconv.ParseInt(value, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return fmt.Errorf("%s is %.64s; want %d to %d", key, value, bounds[key].least, bounds[key].most)
	}
	if err != nil {
		return fmt.Errorf("%s is %.64q; want a whole number", key, value)
	}
	return s.Limit(key, n)
}

// Limit sets a limit by the name that operators have for it. Its error is
// CheckBound's.
func (s *Spec) Limit(key string, n int64) error {
	if err := CheckBound(key, n); err != nil {
		return err
	}
	switch set := &s.Settings; key {
	case "max_memory_pages":
		set.Limits.MemoryPages = uint32(n)
	case "max_execution_time_ms":
		set.Time = time.Duration(n) * time.Millisecond
	case "max_stack_size":
		set.Limits.Stack = uint32(n)
	case "max_body_size":
		s.MaxBody = n
	case "max_instances":
		set.Instances = int(n)
	}
	return nil
}
