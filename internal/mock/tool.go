package mock

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
)

// A tool is a function that a request offers.
type tool struct {
	name   string
	schema json.RawMessage // of its parameters
}

const (
	maxDepth      = 6  // of arguments within arguments
	maxProperties = 64 // of one object
)

// schema is the part of JSON Schema that values are made from.
type schema struct {
	Type       json.RawMessage            `json:"type"`
	Enum       []json.RawMessage          `json:"enum"`
	Const      json.RawMessage            `json:"const"`
	Default    json.RawMessage            `json:"default"`
	Properties map[string]json.RawMessage `json:"properties"`
	Items      json.RawMessage            `json:"items"`
	AnyOf      []json.RawMessage          `json:"anyOf"`
	Minimum    *float64                   `json:"minimum"`
}

// kind is the schema's type, the first that is not null if it has several.
func (s *schema) kind() string {
	var one string
	if json.Unmarshal(s.Type, &one) == nil {
		return one
	}
	var many []string
	if json.Unmarshal(s.Type, &many) == nil {
		for _, t := range many {
			if t != "null" {
				return t
			}
		}
	}
	if s.Properties != nil {
		return "object"
	}
	return "string"
}

// arguments makes a JSON object, in ASCII, that fits the tool's schema.
func (t *tool) arguments(d *dice) string {
	var s schema
	if len(t.schema) == 0 || json.Unmarshal(t.schema, &s) != nil || s.kind() != "object" {
		return "{}"
	}
	return string(s.object(nil, d, maxDepth))
}

func (s *schema) object(b []byte, d *dice, depth int) []byte {
	names := make([]string, 0, len(s.Properties))
	for n := range s.Properties {
		names = append(names, n)
	}
	slices.Sort(names)
	names = names[:min(len(names), maxProperties)]
	b = append(b, '{')
	for i, n := range names {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendASCII(b, n)
		b = append(b, ':')
		b = value(b, s.Properties[n], d, depth-1)
	}
	return append(b, '}')
}

// value appends JSON that fits the schema in raw. What it cannot read it
// treats as any value.
func value(b []byte, raw json.RawMessage, d *dice, depth int) []byte {
	var s schema
	if json.Unmarshal(raw, &s) != nil || depth <= 0 {
		return append(b, "null"...)
	}
	switch {
	case s.Const != nil:
		return appendRaw(b, s.Const)
	case len(s.Enum) > 0:
		return appendRaw(b, s.Enum[d.below(len(s.Enum))])
	case s.Default != nil:
		return appendRaw(b, s.Default)
	case len(s.AnyOf) > 0:
		return value(b, s.AnyOf[0], d, depth-1)
	}
	switch s.kind() {
	case "object":
		return s.object(b, d, depth)
	case "array":
		b = append(b, '[')
		if s.Items != nil {
			b = value(b, s.Items, d, depth-1)
		}
		return append(b, ']')
	case "integer", "number":
		n := int64(d.below(100))
		if s.Minimum != nil && float64(n) < *s.Minimum {
			n = int64(*s.Minimum) + 1
		}
		return strconv.AppendInt(b, n, 10)
	case "boolean":
		return strconv.AppendBool(b, d.below(2) == 1)
	case "null":
		return append(b, "null"...)
	}
	return appendString(b, vocabulary[d.below(len(vocabulary))])
}

// appendRaw appends JSON in ASCII.
func appendRaw(b []byte, raw json.RawMessage) []byte {
	for _, r := range string(raw) {
		b = appendRune(b, r)
	}
	return b
}

// appendASCII appends s as a JSON string in ASCII.
func appendASCII(b []byte, s string) []byte {
	return appendRaw(b, appendString(nil, s))
}

// appendRune appends r, escaped unless it is ASCII. Such runes stand in JSON
// strings only.
func appendRune(b []byte, r rune) []byte {
	switch {
	case r < 0x80:
		return append(b, byte(r))
	case r < 0x10000:
		return fmt.Appendf(b, `\u%04x`, r)
	}
	r -= 0x10000
	return fmt.Appendf(b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
}

// appendString appends s as a JSON string.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			q, err := json.Marshal(s)
			if err != nil {
				panic("BUG: a string that is not JSON: " + err.Error())
			}
			return append(b, q...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// pickTool decides which tool is called, nil for none. choice is "required",
// "auto", "none" or "", or names a function; asked says that the conversation
// wants a call.
func pickTool(tools []tool, choice, name string, asked bool) (*tool, *refusal) {
	switch {
	case name != "":
		for i := range tools {
			if tools[i].name == name {
				return &tools[i], nil
			}
		}
		return nil, refuse("tool_choice", "tool_choice names the tool %q, which tools does not have.", name)
	case choice == "required" && len(tools) == 0:
		return nil, refuse("tool_choice", "tool_choice is required, and there are no tools.")
	case len(tools) == 0 || choice == "none":
		return nil, nil
	case choice == "required" || asked:
		return &tools[0], nil
	}
	return nil, nil
}
