// Package secret holds strings that print as ****.
//
// A secret.String cannot reach a log, a metric, an error or a JSON document by
// accident: every way of formatting it shows the mask. Reveal is the one way
// to the text.
package secret

import "crypto/subtle"

// Mask is what stands for a secret wherever one is printed.
const Mask = "****"

// A String is text that nobody may read by printing it.
type String struct{ s string }

// New returns s as a String.
func New(s string) String { return String{s} }

// Reveal returns the text itself.
func (s String) Reveal() string { return s.s }

// Empty reports whether there is no secret.
func (s String) Empty() bool { return s.s == "" }

// Equal compares with b in time that depends on lengths only.
func (s String) Equal(b []byte) bool {
	if len(s.s) != len(b) {
		return false
	}
	// As subtle.ConstantTimeCompare, which would want a copy of s.
	var differ byte
	for i := range b {
		differ |= s.s[i] ^ b[i]
	}
	return subtle.ConstantTimeByteEq(differ, 0) == 1
}

// String implements fmt.Stringer.
func (s String) String() string {
	if s.s == "" {
		return ""
	}
	return Mask
}

// GoString keeps %#v from showing the text.
func (s String) GoString() string { return s.String() }

// MarshalText masks the text in JSON and YAML.
func (s String) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes the text.
func (s *String) UnmarshalText(b []byte) error {
	s.s = string(b)
	return nil
}
