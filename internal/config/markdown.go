package config

import (
	"fmt"
	"slices"
	"strings"
)

const markdownHead = `<!-- Made from the settings' structs: go test ./internal/config -run TestSettingsDoc -update -->

# Settings

A setting can be a flag, a variable, or a key in a YAML file. A flag goes before a variable, a variable before the file, the file before the default;
a list is replaced as a whole. ` + "`sluice config`" + ` prints what holds and who set it, ` + "`sluice config check FILE`" + ` checks a file.

- **Flags**: ` + "`--flag value` or `--flag=value`, `_` may stand for `-`. A list flag takes values up to the next flag, and can be repeated to add more." + `
  A switch takes no value; ` + "`--flag=false`" + ` turns it off. Of a flag given twice the last value holds. Flags cannot be abbreviated.
- **File**: ` + "`--config FILE` or `SLUICE_CONFIG=FILE`. One document; a section for each table below. Unknown keys, keys given twice and values of another kind are errors." + `
- **Variables**: lists are separated by commas, switches are ` + "`true` or `false`" + `. An unknown variable that begins with ` + "`SLUICE_`" + ` is an error, except those that Kubernetes
  sets for services named ` + "`sluice` or `sluice-…`: `SLUICE_…SERVICE_HOST`, `SLUICE_…SERVICE_PORT…`, `SLUICE_…PORT_<n>_TCP…`, and `SLUICE_…PORT` if its value begins with `tcp://`, `udp://` or `sctp://`." + `
- Times are integers of the unit in the flag's name, seconds where it has none.
- A wrong setting ends the start with exit code 2; every fault is reported at once.

A file, as ` + "`sluice serve --config sluice.yaml`" + ` reads it:

` + "```yaml" + `
server:
  host: 127.0.0.1
  port: 30000
workers:
  worker_urls:
    - http://10.0.0.1:8000
    - http://10.0.0.2:8000
policy:
  name: least_load
routing:
  model_aliases: [chat=Qwen/Qwen3-8B]
log:
  level: warn
` + "```" + `

## General

| flag | variable | meaning |
|---|---|---|
`

// Markdown returns docs/settings.md.
func Markdown() []byte {
	var b strings.Builder
	b.WriteString(markdownHead)
	fmt.Fprintf(&b, "| `--%s` | `%s` | %s |\n", flagConfig, envConfig, helpConfig)
	fmt.Fprintf(&b, "| `--%s` | `%s` | %s |\n", flagIGW, envName(flagIGW), helpIGW)
	d := Default()
	for _, s := range sections() {
		fmt.Fprintf(&b, "\n## %s: `%s`\n\n| flag | key | variable | default | meaning |\n|---|---|---|---|---|\n", s.title, s.name)
		for _, f := range s.fields {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", f.markdownFlags(), code(f.path()), code(f.env()), code(f.text(d)), cell(f.markdownHelp()))
		}
	}
	b.WriteString("\n## Known, not supported yet\n\n" +
		"Flags of SMG 1.13 and 1.9, and some of ours to come. They are refused by name, and their values with them.\n\n" +
		"| flag | type | values |\n|---|---|---|\n")
	var later []*knownFlag
	for _, f := range knownFlags() {
		if !f.built() {
			later = append(later, f)
		}
	}
	slices.SortFunc(later, func(a, b *knownFlag) int { return strings.Compare(a.name, b.name) })
	for _, f := range later {
		names := "`--" + f.name + "`"
		for _, a := range f.aliases {
			names += ", `--" + a + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", names, typeText(f.typ), map[arity]string{none: "none", one: "one", any0: "any number", any1: "one or more"}[f.arity])
	}
	return []byte(b.String())
}

// typeText says of a type what a reader must know: a secret is a text.
func typeText(t string) string {
	switch t {
	case "secret":
		return "text, secret"
	case "string":
		return "text"
	case "bool":
		return "switch"
	case "int":
		return "integer"
	}
	return "number"
}

func (f *field) markdownFlags() string {
	var l []string
	for _, n := range f.flags {
		l = append(l, code("--"+n))
	}
	for _, n := range f.negative {
		l = append(l, code("--"+n)+" (off)")
	}
	return strings.Join(l, ", ")
}

func (f *field) markdownHelp() string {
	s := f.help
	if l := f.allowed(); len(l) > 0 {
		s += ": `" + strings.Join(l, "`, `") + "`"
	}
	if f.kind.secret() {
		s += "; never shown"
	}
	return s
}

// code sets s as code in a table.
func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + cell(s) + "`"
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
