package config

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"sluice/internal/policy"
)

const (
	helpConfig = "YAML file with settings; flags and variables go before what it says"
	helpIGW    = "accepted and without effect: serving several models is always on"
)

// Usage writes the flags that work, by section, for a terminal of that width
// in columns; widths below 60 are taken for 60.
func Usage(w io.Writer, width int) {
	u := usage{width: max(width, 60)}
	u.section("General")
	u.flag("--config FILE", helpConfig)
	u.flag("--enable-igw", helpIGW)
	d := Default()
	for _, s := range sections() {
		u.section(s.title)
		for _, f := range s.fields {
			if len(f.flags) == 0 {
				continue
			}
			left := "--" + f.flags[0]
			if v := f.valueName(); v != "" {
				left += " " + v
			}
			u.flag(left, f.explain(d))
		}
	}
	u.section("Every flag can be a variable or a key")
	u.wrap(0, "--retry-max-retries 3 is SLUICE_RETRY_MAX_RETRIES=3, or retry.max_retries: 3 in the file. "+
		"A flag goes before a variable, a variable before the file. A list flag takes values up to the next flag. "+
		"docs/settings.md has every key, and the flags that are known and not supported yet.")
	_, _ = io.WriteString(w, u.b.String()) // help that cannot be written has no better place to go
}

type usage struct {
	b     strings.Builder
	width int
}

func (u *usage) section(title string) {
	if u.b.Len() > 0 {
		u.b.WriteString("\n")
	}
	fmt.Fprintf(&u.b, "%s:\n", title)
}

// flag writes a flag at the left and its help in a column at the right.
func (u *usage) flag(left, help string) {
	const column = 38
	if u.width < 2*column {
		fmt.Fprintf(&u.b, "  %s\n", left)
		u.wrap(6, help)
		return
	}
	if len(left) > column-4 {
		left += "\n" + strings.Repeat(" ", column-2)
	}
	fmt.Fprintf(&u.b, "  %-*s", column-2, left)
	u.lines(column, help)
}

// wrap writes text in lines that begin in column from (at least 2).
func (u *usage) wrap(from int, text string) {
	from = max(from, 2)
	u.b.WriteString(strings.Repeat(" ", from))
	u.lines(from, text)
}

// lines writes text, the first word where the line stands.
func (u *usage) lines(from int, text string) {
	at := from
	for i, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case at+1+n > u.width:
			u.b.WriteString("\n" + strings.Repeat(" ", from))
			at = from
		default:
			u.b.WriteString(" ")
			at++
		}
		u.b.WriteString(word)
		at += n
	}
	u.b.WriteString("\n")
}

// explain is the help of f with what else a reader needs: choices, default,
// and other names.
func (f *field) explain(d *Config) string {
	s := f.help
	if l := f.allowed(); len(l) > 0 {
		s += ": " + strings.Join(l, ", ")
	}
	if t := f.text(d); t != "" && f.kind != boolean {
		s += " (default " + t + ")"
	}
	if len(f.flags) > 1 {
		s += "; also " + dashes(f.flags[1:])
	}
	if len(f.negative) > 0 {
		s += "; the opposite: " + dashes(f.negative)
	}
	return s
}

// allowed returns the values of f, if they are few and fixed.
func (f *field) allowed() []string {
	if f.path() == "policy.name" {
		return policy.Names()
	}
	return f.choices
}

func dashes(names []string) string { return "--" + strings.Join(names, ", --") }

// valueName stands for the value of f in --help.
func (f *field) valueName() string {
	name, more := "TEXT", ""
	switch f.kind {
	case boolean:
		return ""
	case integer:
		name = "N"
	case number, numbers:
		name = "X"
	case span:
		name = "SECS"
		if f.unit == "ms" {
			name = "MS"
		}
	case hidden, hiddens:
		name = "KEY"
	}
	for _, s := range []struct{ suffix, name string }{
		{"port", "PORT"}, {"host", "ADDR"}, {"urls", "URL"}, {"-dir", "DIR"}, {"headers", "NAME"}, {"origins", "ORIGIN"},
		{"traces-endpoint", "HOST:PORT"}, {"check-endpoint", "PATH"}, {"alias", "ALIAS=MODEL"}, {"policy", "NAME"}, {"backend", "NAME"}, {"level", "LEVEL"},
		{"tenant-api-key", "TENANT:KEY"}, {"header-name", "NAME"},
	} {
		if strings.HasSuffix(f.flags[0], s.suffix) {
			name = s.name
		}
	}
	if f.kind.list() && !flagNamed()[f.flags[0]].append {
		more = " ..."
	}
	return name + more
}
