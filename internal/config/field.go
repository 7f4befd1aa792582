package config

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"sluice/internal/kit/secret"
)

// A kind is what a setting's value is.
type kind int

const (
	text kind = iota
	boolean
	integer
	number
	texts
	numbers
	hidden  // a secret.String
	hiddens // several
	span    // a time.Duration, written as an integer of the field's unit
)

func (k kind) list() bool    { return k == texts || k == numbers || k == hiddens }
func (k kind) secret() bool  { return k == hidden || k == hiddens }
func (k kind) numeric() bool { return k == integer || k == number || k == numbers || k == span }

// A field is one setting.
type field struct {
	section, key string
	flags        []string // the primary name first; may be empty: file only
	negative     []string // flags that set it to false
	unit         string   // s, ms, or none
	choices      []string
	help         string
	kind         kind
	typ          reflect.Type
	index        []int // in Config
}

func (f *field) path() string { return f.section + "." + f.key }

// name is what messages call f.
func (f *field) name() string {
	if len(f.flags) > 0 {
		return f.flags[0]
	}
	return f.path()
}

// env is the variable that sets f, or "".
func (f *field) env() string {
	if len(f.flags) == 0 {
		return ""
	}
	return envName(f.flags[0])
}

// wants says what a value of f looks like.
func (f *field) wants() string {
	switch f.kind {
	case boolean:
		return "true or false"
	case integer:
		return "an integer"
	case span:
		if f.unit == "ms" {
			return "an integer of milliseconds"
		}
		return "an integer of seconds"
	case number:
		return "a number"
	case texts, hiddens:
		return "a list of texts"
	case numbers:
		return "a list of numbers"
	}
	if len(f.choices) > 0 {
		return "one of " + strings.Join(f.choices, ", ")
	}
	return "a text"
}

// fields returns every setting, in the order of the structs.
var fields = sync.OnceValue(func() []*field {
	var l []*field
	for _, s := range sections() {
		l = append(l, s.fields...)
	}
	return l
})

// A section is the settings of one part.
type section struct {
	name, title string
	fields      []*field
}

var sections = sync.OnceValue(func() []section {
	var l []section
	t := reflect.TypeFor[Config]()
	for i := range t.NumField() {
		sf := t.Field(i)
		s := section{name: yamlName(sf), title: sf.Tag.Get("help")}
		for j := range sf.Type.NumField() {
			if ff := sf.Type.Field(j); yamlName(ff) != "" {
				s.fields = append(s.fields, newField(s.name, ff, []int{i, j}))
			}
		}
		l = append(l, s)
	}
	return l
})

// yamlName returns the key of a struct field, or "" if it is no setting.
func yamlName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	if name == "-" {
		return ""
	}
	return name
}

func newField(section string, sf reflect.StructField, index []int) *field {
	return &field{
		section: section, key: yamlName(sf), index: index, typ: sf.Type,
		flags: split(sf.Tag.Get("flag")), negative: split(sf.Tag.Get("negative")), choices: split(sf.Tag.Get("choices")),
		unit: sf.Tag.Get("unit"), help: sf.Tag.Get("help"), kind: kindOf(sf),
	}
}

// kindOf panics for a type that settings cannot have: the struct is wrong.
func kindOf(sf reflect.StructField) kind {
	switch sf.Type {
	case reflect.TypeFor[string]():
		return text
	case reflect.TypeFor[bool]():
		return boolean
	case reflect.TypeFor[int](), reflect.TypeFor[int64]():
		return integer
	case reflect.TypeFor[float64]():
		return number
	case reflect.TypeFor[[]string]():
		return texts
	case reflect.TypeFor[[]float64]():
		return numbers
	case reflect.TypeFor[secret.String]():
		return hidden
	case reflect.TypeFor[[]secret.String]():
		return hiddens
	case reflect.TypeFor[time.Duration]():
		if u := sf.Tag.Get("unit"); u == "s" || u == "ms" {
			return span
		}
		panic("BUG: " + sf.Name + " needs a unit tag, s or ms")
	}
	panic("BUG: no setting can be a " + sf.Type.String())
}

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// byPaths finds fields. A path that there is not is a bug.
func byPaths(paths ...string) []*field {
	var l []*field
	for _, p := range paths {
		i := slices.IndexFunc(fields(), func(f *field) bool { return f.path() == p })
		if i < 0 {
			panic("BUG: no setting " + p)
		}
		l = append(l, fields()[i])
	}
	return l
}

var (
	quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	word   = regexp.MustCompile(`[a-z0-9]+(?:-[a-z0-9]+)*`)
)

// mentioned finds the settings of a section whose flags msg names. What stands
// in quotes is the user's, and names nothing.
func mentioned(section, msg string) []*field {
	words := word.FindAllString(quoted.ReplaceAllString(msg, `""`), -1)
	var l []*field
	for _, f := range fields() {
		if f.section == section && slices.ContainsFunc(f.flags, func(n string) bool { return slices.Contains(words, n) }) {
			l = append(l, f)
		}
	}
	return l
}

func (f *field) unitOf() time.Duration {
	if f.unit == "ms" {
		return time.Millisecond
	}
	return time.Second
}

// set gives the setting its value: one text, or for a list any number. The
// error says what is wrong and shows no secret.
func (f *field) set(c *Config, in []string) error {
	v := reflect.ValueOf(c).Elem().FieldByIndex(f.index)
	if !f.kind.list() && len(in) != 1 {
		return fmt.Errorf("want %s, got %d values", f.wants(), len(in))
	}
	switch f.kind {
	case texts:
		v.Set(reflect.ValueOf(append([]string{}, in...)))
	case numbers:
		l := make([]float64, 0, len(in))
		for _, s := range in {
			n, err := parseFloat(s)
			if err != nil {
				return err
			}
			l = append(l, n)
		}
		v.Set(reflect.ValueOf(l))
	case hidden:
		v.Set(reflect.ValueOf(secret.New(in[0])))
	case hiddens:
		l := make([]secret.String, 0, len(in))
		for _, s := range in {
			l = append(l, secret.New(s))
		}
		v.Set(reflect.ValueOf(l))
	case boolean:
		b, err := parseBool(in[0])
		if err != nil {
			return err
		}
		v.SetBool(b)
	case number:
		n, err := parseFloat(in[0])
		if err != nil {
			return err
		}
		v.SetFloat(n)
	case integer, span:
		n, err := f.parseInt(in[0])
		if err != nil {
			return err
		}
		if v.OverflowInt(n) {
			return fmt.Errorf("want %s, got %s, which is too large", f.wants(), shown(in[0]))
		}
		v.SetInt(n)
	case text:
		if len(f.choices) > 0 && !slices.Contains(f.choices, in[0]) && in[0] != f.text(Default()) {
			return fmt.Errorf("want %s, got %s", f.wants(), shown(in[0]))
		}
		v.SetString(in[0])
	}
	return nil
}

func (f *field) parseInt(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("want %s, got %s, which is too large", f.wants(), shown(s))
	}
	if err != nil {
		return 0, fmt.Errorf("want %s, got %s", f.wants(), shown(s))
	}
	if f.kind == span {
		u := int64(f.unitOf())
		if n > math.MaxInt64/u || n < math.MinInt64/u {
			return 0, fmt.Errorf("want %s, got %s, which is too large", f.wants(), shown(s))
		}
		n *= u
	}
	return n, nil
}

func parseFloat(s string) (float64, error) {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		return 0, fmt.Errorf("want a number, got %s", shown(s))
	}
	return n, nil
}

func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("want true or false, got %s", shown(s))
}

// value returns the setting as JSON and YAML write it, secrets masked.
func (f *field) value(c *Config) any {
	v := reflect.ValueOf(c).Elem().FieldByIndex(f.index).Interface()
	switch v := v.(type) {
	case secret.String:
		return v.String()
	case []secret.String:
		l := make([]string, 0, len(v))
		for _, s := range v {
			l = append(l, s.String())
		}
		return l
	case time.Duration:
		return int64(v / f.unitOf())
	case string:
		return redact(v)
	case []string:
		l := make([]string, 0, len(v))
		show := redact
		if m, ok := reflect.ValueOf(c).Elem().FieldByIndex(f.index[:1]).Interface().(masker); ok {
			show = m.Mask
		}
		for _, s := range v {
			l = append(l, show(s))
		}
		return l
	case []float64:
		return append([]float64{}, v...)
	}
	return v
}

// text returns the setting for people: bare where that is plain, quoted where
// it is not, secrets masked.
func (f *field) text(c *Config) string {
	bare := func(s string) string {
		if s != "" && strings.IndexFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == '"' || !strconv.IsPrint(r) }) < 0 {
			return s
		}
		return strconv.Quote(s)
	}
	var l []string
	switch v := f.value(c).(type) {
	case string:
		if v == "" {
			return ""
		}
		return bare(v)
	case []string:
		for _, s := range v {
			l = append(l, bare(s))
		}
	case []float64:
		for _, n := range v {
			l = append(l, strconv.FormatFloat(n, 'g', -1, 64))
		}
	default:
		return fmt.Sprint(v)
	}
	return strings.Join(l, " ")
}

// shown quotes what a user wrote, for a message: not too long, and without the
// password of a URL.
func shown(s string) string {
	const most = 80
	s = redact(s)
	if len(s) > most {
		return strconv.Quote(strings.ToValidUTF8(s[:most], "")) + "…"
	}
	return strconv.Quote(s)
}

// A masker is a section whose lists of texts hold secrets within: Mask returns what
// may be shown of one.
type masker interface{ Mask(text string) string }

// redact masks what stands before the @ of a URL, or of user:password@host.
func redact(s string) string {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return s
	}
	from := 0
	if i := strings.Index(s[:at], "://"); i >= 0 {
		from = i + 3
	} else if strings.Contains(s[:at], "=") || !strings.Contains(s[:at], ":") {
		return s
	}
	return s[:from] + secret.Mask + s[at:]
}
