package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A layer is where a value can come from. Higher ones win.
type layer int

const (
	fromDefault layer = iota
	fromFile
	fromEnv
	fromFlag
)

// A setting is a value somebody gave: for a list its elements, else one text.
type setting struct {
	field  *field
	values []string
	origin string // "flag --port"
	where  string // how a message begins: "--port", "sluice.yaml:3: server.port", "SLUICE_PORT"
}

// An argParser reads an argument list. It knows from the table how many values
// each flag takes, so that a flag that is refused does not take its neighbours
// with it.
type argParser struct {
	rest   []string
	faults *Faults
	out    []setting
	lists  map[*field]int // where a list flag that was given stands in out
	file   string         // of --config
	given  bool           // --config was given

	last *knownFlag // the flag before a stray argument; nil at the start
}

// parseArgs reads args into settings, in order.
func parseArgs(args []string, faults *Faults) *argParser {
	p := &argParser{rest: args, faults: faults, lists: make(map[*field]int)}
	for len(p.rest) > 0 {
		a := p.rest[0]
		p.rest = p.rest[1:]
		switch {
		case a == "--":
			for _, a := range p.rest {
				p.stray(a, nil)
			}
			p.rest = nil
		case looksLikeFlag(a):
			p.flag(a)
		default:
			p.stray(a, p.last)
		}
	}
	return p
}

// looksLikeFlag reports whether a begins with a dash and is neither a dash
// alone nor a negative number.
func looksLikeFlag(a string) bool { return len(a) > 1 && a[0] == '-' && !negative(a) }

func negative(a string) bool {
	s, ok := strings.CutPrefix(a, "-")
	s = strings.TrimPrefix(s, ".")
	return ok && s != "" && '0' <= s[0] && s[0] <= '9'
}

// isValue reports whether a can be a value of f when it stands by itself.
func isValue(f *knownFlag, a string) bool {
	return !strings.HasPrefix(a, "-") || a == "-" || f.numeric && negative(a)
}

func (p *argParser) stray(a string, after *knownFlag) {
	switch {
	case after == nil:
		p.faults.addf("stray argument %s; settings are flags, which begin with --", shown(a))
	case after.secret:
		// Most likely a key with a space in it: it must not be shown.
		p.faults.addf("stray argument after --%s; put a value that has spaces in quotes", after.name)
	case after.arity == none:
		p.faults.addf("stray argument %s; --%s takes no value, or =true or =false", shown(a), after.name)
	case after.arity == one:
		p.faults.addf("stray argument %s; --%s takes one value", shown(a), after.name)
	default:
		p.faults.addf("stray argument %s after --%s", shown(a), after.name)
	}
}

// flag takes the flag a and the values that belong to it.
func (p *argParser) flag(a string) {
	name, value, joined := strings.Cut(a, "=")
	dashed, long := strings.CutPrefix(name, "--")
	norm := strings.ReplaceAll(dashed, "_", "-")
	f := flagNamed()[norm]
	if !long || f == nil {
		p.unknown(name, norm, long)
		return
	}
	p.last = f
	spelled := "--" + norm
	vals, ok := p.values(f, spelled, value, joined)
	switch {
	case !f.built():
		p.faults.addf("%s is not supported yet", spelled)
	case !ok:
	case f.name == flagConfig:
		p.file, p.given = vals[0], true
	case f.name == flagIGW:
		if !joined {
			return
		}
		if b, err := parseBool(value); err != nil {
			p.faults.addf("%s: %v", spelled, err)
		} else if !b {
			p.faults.addf("%s=false: serving several models is always on", spelled)
		}
	default:
		p.put(f, norm, vals)
	}
}

// put keeps vals as the setting of f.
func (p *argParser) put(f *knownFlag, norm string, vals []string) {
	s := setting{field: f.field, values: vals, origin: "flag --" + norm, where: "--" + norm}
	if slices.Contains(f.field.negative, norm) {
		if b, err := parseBool(vals[0]); err == nil {
			s.values = []string{fmt.Sprint(!b)}
		}
	}
	if f.field.kind.list() {
		if i, ok := p.lists[f.field]; ok {
			p.out[i].values = append(p.out[i].values, vals...)
			return
		}
		p.lists[f.field] = len(p.out)
	}
	p.out = append(p.out, s)
}

// values takes the values of f from the arguments. It is false if there are
// too few, which it has told then.
func (p *argParser) values(f *knownFlag, spelled, value string, joined bool) ([]string, bool) {
	switch {
	case joined:
		return []string{value}, true
	case f.arity == none:
		return []string{"true"}, true
	}
	n := 0
	for n < len(p.rest) && isValue(f, p.rest[n]) && (f.arity != one || n == 0) {
		n++
	}
	vals := slices.Clone(p.rest[:n])
	p.rest = p.rest[n:]
	if n > 0 || f.arity == any0 {
		return vals, true
	}
	if !f.built() {
		p.swallowSecret(f)
		return nil, false
	}
	switch {
	case p.swallowSecret(f):
		p.faults.addf("%s: want a value; write %s=VALUE for one that begins with -", spelled, spelled)
	case f.arity == one:
		p.faults.addf("%s: want a value: %s", spelled, f.wants())
	default:
		p.faults.addf("%s: want at least one value", spelled)
	}
	return nil, false
}

// swallowSecret drops the next argument if it is a secret that begins with a
// dash, and would else be shown as an unknown flag.
func (p *argParser) swallowSecret(f *knownFlag) bool {
	if !f.secret || len(p.rest) == 0 {
		return false
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(p.rest[0], "--"), "=")
	if flagNamed()[strings.ReplaceAll(name, "_", "-")] != nil {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

// wants says what a value of f looks like.
func (f *knownFlag) wants() string {
	if f.field != nil {
		return f.field.wants()
	}
	return "the name of a file"
}

// unknown tells of a flag there is not, and passes over what could be its
// values: they may be secret, and each would be a fault of its own.
func (p *argParser) unknown(name, norm string, long bool) {
	for len(p.rest) > 0 && !looksLikeFlag(p.rest[0]) {
		p.rest = p.rest[1:]
	}
	hint := ""
	if !long {
		norm = strings.ReplaceAll(strings.TrimPrefix(norm, "-"), "_", "-")
		hint = "; flags begin with --"
	}
	if p.faults.full() {
		return
	}
	if n := Nearest(norm, flagNames()); n != "" {
		hint = "; did you mean --" + n + "?"
	}
	p.faults.addf("unknown flag %s%s", plain(name), hint)
}

// plain returns a name as it is, or quoted and cut if it has characters that a
// terminal would not show as they are, or very many.
func plain(s string) string {
	if q := shown(s); q != `"`+s+`"` || strings.Contains(s, " ") {
		return q
	}
	return s
}

// printable returns s as it is, or quoted if a terminal would not show it so.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) || r == utf8.RuneError }) {
		return strconv.Quote(s)
	}
	return s
}
