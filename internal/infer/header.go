package infer

import "strings"

// A Field is one header line. Name and Value are not written to after they
// were added.
type Field struct {
	Name  []byte
	Value []byte
}

// A Header is an ordered list of fields. Names are compared without case and
// sent as they were added.
//
// A front end that parses its own buffer adds fields that point into it, so a
// Header is good only until its Reply has ended. Whoever keeps a value longer
// copies it.
type Header struct {
	fields []Field
	arena  []byte // backs what Set and AddString were given
}

// Add appends a field that points into the caller's memory.
func (h *Header) Add(name, value []byte) {
	h.fields = append(h.fields, Field{Name: name, Value: value})
}

// AddString appends a copy of the field.
func (h *Header) AddString(name, value string) {
	h.fields = append(h.fields, Field{Name: keep(h, name), Value: keep(h, value)})
}

// AddCopy appends a copy of the field.
func (h *Header) AddCopy(name, value []byte) {
	h.fields = append(h.fields, Field{Name: keep(h, name), Value: keep(h, value)})
}

// Set replaces every field called name by one.
func (h *Header) Set(name, value string) {
	for i := range h.fields {
		if equalFold(h.fields[i].Name, name) {
			h.fields[i].Value = keep(h, value)
			h.drop(i+1, name)
			return
		}
	}
	h.AddString(name, value)
}

// Del removes every field called name.
func (h *Header) Del(name string) { h.drop(0, name) }

// Get returns the value of the first field called name, or nil. An empty value
// is not nil.
func (h *Header) Get(name string) []byte {
	for i := range h.fields {
		if equalFold(h.fields[i].Name, name) {
			return h.fields[i].Value
		}
	}
	return nil
}

// Has reports whether there is a field called name.
func (h *Header) Has(name string) bool { return h.Get(name) != nil }

// Values calls yield with the value of each field called name, in order.
func (h *Header) Values(name string) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for i := range h.fields {
			if equalFold(h.fields[i].Name, name) && !yield(h.fields[i].Value) {
				return
			}
		}
	}
}

// Fields returns all fields in order. The slice is h's own: read it, do not
// keep it.
func (h *Header) Fields() []Field { return h.fields }

// Len returns how many fields there are.
func (h *Header) Len() int { return len(h.fields) }

// Cut drops the fields behind the first n, as if they had not been added.
func (h *Header) Cut(n int) { h.fields = h.fields[:n] }

// Reset empties h and keeps its memory.
func (h *Header) Reset() { h.fields, h.arena = h.fields[:0], h.arena[:0] }

// HasToken reports whether a comma-separated list in the fields called name
// holds token, without case (RFC 9110 §5.6.1).
func (h *Header) HasToken(name, token string) bool {
	for v := range h.Values(name) {
		for part := range strings.SplitSeq(string(v), ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// keep copies s into h's own memory. Earlier copies stay valid: a full arena is
// left to those who point into it, and the next is larger, so that a Header
// that is used again soon needs no more. It never returns nil.
func keep[T []byte | string](h *Header, s T) []byte {
	if cap(h.arena)-len(h.arena) < len(s) || h.arena == nil {
		h.arena = make([]byte, 0, max(256, min(2*cap(h.arena), 8<<10), len(s)))
	}
	n := len(h.arena)
	h.arena = append(h.arena, s...)
	return h.arena[n:len(h.arena):len(h.arena)]
}

// drop removes the fields called name from index from on.
func (h *Header) drop(from int, name string) {
	kept := h.fields[:from]
	for _, f := range h.fields[from:] {
		if !equalFold(f.Name, name) {
			kept = append(kept, f)
		}
	}
	h.fields = kept
}

// equalFold compares ASCII without case; header names have no other letters.
func equalFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		if c != s[i] && lower(c) != lower(s[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
