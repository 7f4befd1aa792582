// Package wasm runs middleware that operators write as WebAssembly components.
//
// An Engine compiles a component once, into a Module. A Module keeps instances
// that stand ready, lends one to each call, and puts it back to where it was
// before the call, so that no call sees what another left. Nothing of the
// gateway is in a guest's reach: it is given a request or an answer and gives
// back an Action.
package wasm

import (
	"sluice/internal/infer"
)

// A Request is what a guest sees of one. Its strings and bytes belong to the
// caller. Header values that are not UTF-8 are left out.
type Request struct {
	Method, Path, Query string
	Header              *infer.Header
	Body                []byte
	ID                  string
	NowMillis           uint64 // since 1970
}

// A Response is what a guest sees of an answer.
type Response struct {
	Status int
	Header *infer.Header
	Body   []byte
}

// A Kind is what a guest wants.
type Kind uint8

// What a guest may want.
const (
	Continue Kind = iota
	Reject        // answer with Status, nothing else
	Modify        // go on with the changes
)

// String is the kind as the contract calls it.
func (k Kind) String() string { return [...]string{"continue", "reject", "modify"}[k] }

// An Action is a guest's answer. Its slices share memory that is the Action's
// own; they are good until it is used for another call.
type Action struct {
	Kind   Kind
	Status int // of Reject; of Modify, 0 for none

	// Of Modify, to be applied in this order.
	Remove  []string
	Set     []Field
	Add     []Field
	Body    []byte
	HasBody bool

	fields  []Field
	strings []string
	mem     []byte
}

// A Field is a header line.
type Field struct{ Name, Value string }

// reset makes a empty and keeps its memory.
func (a *Action) reset() {
	*a = Action{fields: a.fields[:0], strings: a.strings[:0], mem: a.mem[:0]}
}
