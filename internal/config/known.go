package config

import (
	_ "embed"
	"slices"
	"strings"
	"sync"
)

// flagsTSV lists the contract's flags, and those of ours that no struct has:
// names, the type and number of values (0, 1, * or +), whether the flag sets
// one value, makes a list, or appends, and the contract's default. Origin is
// the version of the contract that was observed, or ours.
//
//go:embed flags.tsv
var flagsTSV string

// An arity is how many values follow a flag.
type arity byte

const (
	none arity = '0'
	one  arity = '1'
	any0 arity = '*'
	any1 arity = '+'
)

// A knownFlag is one that can be written, whether or not it works yet.
type knownFlag struct {
	name    string
	aliases []string
	arity   arity
	append  bool // each occurrence adds its value
	numeric bool // a value may begin with - and a digit
	secret  bool
	typ     string
	field   *field // nil if the flag belongs to no setting
}

// Flags that work and belong to no setting.
const (
	flagConfig = "config"
	flagIGW    = "enable-igw"
)

// built reports whether the flag does what the contract says.
func (f *knownFlag) built() bool { return f.field != nil || f.name == flagConfig || f.name == flagIGW }

// A row is a line of flags.tsv.
type row struct{ name, aliases, typ, values, action, def, choices, origin string }

func rows() []row {
	var l []row
	for line := range strings.Lines(flagsTSV) {
		c := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(c) != 8 {
			panic("BUG: flags.tsv: 8 columns wanted: " + line)
		}
		l = append(l, row{c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]})
	}
	return l[1:]
}

// knownFlags returns the flags that work, as the structs have them, then the
// others by name.
var knownFlags = sync.OnceValue(func() []*knownFlag {
	var l []*knownFlag
	table := make(map[string]row)
	for _, r := range rows() {
		table[r.name] = r
	}
	for _, f := range fields() {
		if len(f.flags) == 0 {
			continue
		}
		k := &knownFlag{
			name: f.flags[0], aliases: slices.Concat(f.flags[1:], f.negative), field: f,
			arity: one, numeric: f.kind.numeric(), secret: f.kind.secret(), typ: typeName(f.kind),
		}
		switch r, ok := table[k.name]; {
		case ok:
			k.arity, k.append = arity(r.values[0]), r.action == "append"
		case f.kind == boolean:
			k.arity = none
		case f.kind.list():
			k.arity = any0
		}
		delete(table, k.name)
		for _, n := range k.aliases { // the contract may have a row for the opposite of a flag
			delete(table, n)
		}
		l = append(l, k)
	}
	for _, r := range rows() {
		if _, ok := table[r.name]; ok {
			l = append(l, &knownFlag{
				name: r.name, aliases: split(r.aliases), arity: arity(r.values[0]), append: r.action == "append",
				numeric: r.typ == "int" || r.typ == "float", secret: r.typ == "secret", typ: r.typ,
			})
		}
	}
	return l
})

func typeName(k kind) string {
	switch k {
	case boolean:
		return "bool"
	case integer, span:
		return "int"
	case number, numbers:
		return "float"
	case hidden, hiddens:
		return "secret"
	}
	return "string"
}

// flagNamed finds a flag by any of its names, without the dashes.
var flagNamed = sync.OnceValue(func() map[string]*knownFlag {
	m := make(map[string]*knownFlag)
	for _, f := range knownFlags() {
		for _, n := range append([]string{f.name}, f.aliases...) {
			if was, ok := m[n]; ok {
				panic("BUG: flag " + n + " belongs to " + was.name + " and " + f.name)
			}
			m[n] = f
		}
	}
	return m
})

// flagNames returns every name of every flag, those that work first.
var flagNames = sync.OnceValue(func() []string {
	var l []string
	for _, f := range knownFlags() {
		l = append(append(l, f.name), f.aliases...)
	}
	return l
})
