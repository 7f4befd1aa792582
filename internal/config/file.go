package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds the settings file. A list of ten thousand workers is a third of it.
const maxFile = 2 << 20

// A fileParser reads a settings file: a mapping of sections, each a mapping of keys.
type fileParser struct {
	name   string
	faults *Faults
	out    []setting
	broken []*field // keys whose value could not be read
}

// parseFile reads the settings in b.
func parseFile(name string, b []byte, faults *Faults) *fileParser {
	p := &fileParser{name: name, faults: faults}
	if len(b) > maxFile {
		faults.addf("%s: %d bytes are more than the %d a settings file may have", name, len(b), maxFile)
		return p
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return p // nothing in it, or comments only
	} else if err != nil {
		p.syntax(err)
		return p
	}
	var second yaml.Node
	if err := dec.Decode(&second); err == nil {
		faults.addf("%s:%d: a second document begins; one file holds one", name, second.Line)
	} else if !errors.Is(err, io.EOF) {
		p.syntax(err)
		return p
	}
	root := target(doc.Content[0])
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return p
	}
	if root.Kind != yaml.MappingNode {
		faults.addf("%s:%d: want sections such as server: at the top, got %s", name, root.Line, kindName(root))
		return p
	}
	p.pairs(root, "", func(key string, k, v *yaml.Node) {
		for _, s := range sections() {
			if s.name == key {
				p.section(s, v)
				return
			}
		}
		p.unknown(k.Line, "", key)
	})
	return p
}

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): (.*)$`)

// syntax tells of a file that is no YAML.
func (p *fileParser) syntax(err error) {
	msg := err.Error()
	// The name of an anchor may be a secret that begins with an asterisk.
	if strings.Contains(msg, "unknown anchor") {
		msg = "yaml: an asterisk refers to an anchor that there is not; put a text that begins with one in quotes"
	}
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		p.faults.addf("%s:%s: not YAML: %s", p.name, m[1], m[2])
		return
	}
	p.faults.addf("%s: not YAML: %s", p.name, strings.TrimPrefix(msg, "yaml: "))
}

// target follows an alias to what it stands for.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

// kindName says what n is, without its text, which may be a secret.
func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		switch n.ShortTag() {
		case "!!null":
			return "nothing"
		case "!!bool":
			return "true or false"
		case "!!int":
			return "an integer"
		case "!!float":
			if strings.Trim(n.Value, "+-_0123456789") == "" {
				return "an integer that is too large"
			}
			return "a number"
		case "!!timestamp":
			return "a date"
		}
		return "a text"
	}
	return "something else"
}

// pairs calls f for each key of a mapping, and tells of keys that come twice.
func (p *fileParser) pairs(n *yaml.Node, in string, f func(key string, k, v *yaml.Node)) {
	first := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			p.faults.addf("%s:%d: a key must be a text, got %s", p.name, k.Line, kindName(k))
			continue
		}
		if line, ok := first[k.Value]; ok {
			p.faults.addf("%s:%d: %s is given a second time, first in line %d", p.name, k.Line, plain(in+k.Value), line)
			continue
		}
		first[k.Value] = k.Line
		f(k.Value, k, target(v))
	}
}

func (p *fileParser) section(s section, n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return // a heading with nothing below it
	}
	if n.Kind != yaml.MappingNode {
		p.faults.addf("%s:%d: %s: want keys with values, got %s", p.name, n.Line, s.name, kindName(n))
		return
	}
	p.pairs(n, s.name+".", func(key string, k, v *yaml.Node) {
		for _, f := range s.fields {
			if f.key == key {
				p.field(f, k.Line, v)
				return
			}
		}
		p.unknown(k.Line, s.name, key)
	})
}

// field reads the value v of f.
func (p *fileParser) field(f *field, line int, v *yaml.Node) {
	where := fmt.Sprintf("%s:%d: %s", p.name, line, f.path())
	values, err := scalars(f, v)
	if err != nil {
		p.faults.addf("%s: %v", where, err)
		p.broken = append(p.broken, f)
		return
	}
	p.out = append(p.out, setting{f, values, fmt.Sprintf("file %s:%d", p.name, line), where})
}

// scalars returns the value v of f in the form that flags have. A value that
// YAML takes for another kind is an error: 0x1F for a text is a mistake.
func scalars(f *field, v *yaml.Node) ([]string, error) {
	if !f.kind.list() {
		s, err := scalar(f, v)
		return []string{s}, err
	}
	if v.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("want %s, got %s", f.wants(), kindName(v))
	}
	l := make([]string, 0, len(v.Content))
	for _, item := range v.Content {
		s, err := scalar(f, target(item))
		if err != nil {
			return nil, err
		}
		l = append(l, s)
	}
	return l, nil
}

func scalar(f *field, v *yaml.Node) (string, error) {
	tag := ""
	if v.Kind == yaml.ScalarNode {
		tag = v.ShortTag()
	}
	switch f.kind {
	case integer, span:
		var n int64
		if tag == "!!int" && v.Decode(&n) == nil {
			return strconv.FormatInt(n, 10), nil
		}
	case number, numbers:
		var n float64
		if (tag == "!!int" || tag == "!!float") && v.Decode(&n) == nil {
			return strconv.FormatFloat(n, 'g', -1, 64), nil
		}
	case boolean:
		var b bool
		if tag == "!!bool" && v.Decode(&b) == nil {
			return strconv.FormatBool(b), nil
		}
	default:
		if tag == "!!str" {
			return v.Value, nil
		}
		if tag != "" && tag != "!!null" {
			return "", fmt.Errorf("want %s, got %s; put it in quotes", f.wants(), kindName(v))
		}
	}
	return "", fmt.Errorf("want %s, got %s", f.wants(), kindName(v))
}

// unknown tells of a key there is not: what was meant, or where it belongs.
func (p *fileParser) unknown(line int, section, key string) {
	if p.faults.full() {
		return
	}
	path, dashed := key, strings.ReplaceAll(key, "_", "-")
	if section != "" {
		path = section + "." + key
	}
	hint := ""
	if f := flagNamed()[dashed]; f != nil && !f.built() {
		p.faults.addf("%s:%d: %s is not supported yet", p.name, line, path)
		return
	} else if f != nil && f.field != nil {
		hint = f.field.path()
	}
	if hint == "" {
		hint = nearestKey(section, key)
	}
	if hint != "" {
		hint = "; did you mean " + hint + "?"
	}
	p.faults.addf("%s:%d: unknown key %s%s", p.name, line, plain(path), hint)
}

// nearestKey looks in the section first, then everywhere.
func nearestKey(section, key string) string {
	var here, all []string
	paths := make(map[string]string)
	for _, f := range fields() {
		if f.section == section {
			here = append(here, f.key)
		}
		all = append(all, f.key)
		if paths[f.key] == "" {
			paths[f.key] = f.path()
		}
	}
	if section == "" {
		for _, s := range sections() {
			here = append(here, s.name)
		}
		if n := Nearest(key, here); n != "" {
			return n
		}
	} else if n := Nearest(key, here); n != "" {
		return section + "." + n
	}
	return paths[Nearest(key, all)]
}
