// Package wasm runs middleware that operators write as WebAssembly components,
// or as http-wasm modules.
//
// An Engine compiles a component once, into a Module. A Module keeps instances
// that stand ready, lends one to each call, and puts it back to where it was
// before the call, so that no call sees what another left. Nothing of the
// gateway is in a guest's reach: it is given a request or an answer and gives
// back an Action.
package wasm

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"sluice/internal/infer"
	"sluice/internal/wasm/httpwasm"
)

// A Request is what a guest sees of one. Its strings and bytes belong to the
// caller. Header values that are not UTF-8 are left out.
type Request struct {
	Method, Path, Query string
	Header              *infer.Header
	Body                []byte
	ID                  string
	NowMillis           uint64 // since 1970

	// What http-wasm modules see beside that.

	Proto  string         // "HTTP/1.1"
	Client netip.AddrPort // the zero one if it has no address
	Answer *infer.Header  // what the answer's has so far
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
	Reject        // answer with Status, nothing else; an http-wasm module with its Answer and Body too
	Modify        // go on with the changes
)

// String is the kind as the contract calls it.
func (k Kind) String() string { return [...]string{"continue", "reject", "modify"}[k] }

// NoStatus is a status of 0, where 0 stands for none.
const NoStatus = -1

// An Action is a guest's answer. Its slices share memory that is the Action's
// own; they are good until it is used for another call.
type Action struct {
	Kind   Kind
	Status int // of Reject; of Modify, 0 for none, and NoStatus for one of 0

	// Of Modify, to be applied in this order.
	Remove  []string
	Set     []Field
	Add     []Field
	Body    []byte
	HasBody bool

	// Of an http-wasm module. The others are empty then.

	Method, URI string // of a request, as they are to be; "" for as they are
	Edits       []Edit // of the header, to be made in order
	Answer      []Edit // likewise, of the answer's header, before there is an answer
	Begin       []byte // what the body of the answer begins with, of a request that goes on

	fields  []Field
	strings []string
	mem     []byte
	changes httpwasm.Changes
}

// A Field is a header line.
type Field struct{ Name, Value string }

// MaxFieldName bounds the Name of a Field that a guest changes.
const MaxFieldName = httpwasm.MaxName

// A ChunkKind is what becomes of a piece of a streamed answer.
type ChunkKind uint8

// What may become of it.
const (
	Pass    ChunkKind = iota // it is sent
	Drop                     // it is not
	Replace                  // Data is sent instead
	Finish                   // Data is sent instead, and the stream ends
)

// String is the kind as the world calls it.
func (k ChunkKind) String() string { return [...]string{"pass", "drop", "replace", "finish"}[k] }

// A ChunkAction is a guest's answer to on-chunk. Data is its own memory, good
// until it is used for another call.
type ChunkAction struct {
	Kind ChunkKind
	Data []byte
	mem  []byte
}

// A Failure is why a request got no good answer.
type Failure struct {
	Status        int
	Code, Message string
}

// A Summary is how a request ended.
type Summary struct {
	Status        int
	Duration      time.Duration
	Input, Output int64 // tokens

	// What http-wasm modules see beside that.

	Header *infer.Header // as it was sent; nil for none
	Failed bool          // there was no answer, or not all of it
}

// A Call is what a guest is called for: one request, in all hooks of one module.
// The zero Call is one of which nothing is known.
type Call struct {
	Model string
	State []byte       // what the guest remembers of the request
	Store *Store       // what the module remembers of all; nil for nothing
	Out   Output       // what the guest wrote in its last call
	Log   *slog.Logger // for what it says, nil for nobody who listens
	Name  string       // of the module, for that log
	ID    string       // of the request, likewise

	MaxBody int64 // bytes of the largest body that the guest may give, or that it may put in an event's place; 0 for 64 MiB

	// Limit is how long the next call may take, and the wait for an instance with
	// it, if that is less than the Module's Settings say; 0 for what they say.
	Limit time.Duration

	hook   Hook    // that was called last
	joined *Module // that stays for it; nil for none

	// Of an http-wasm module whose handle_response is to be called.

	held    *instance
	holder  *Module
	context uint32 // that handle_request returned
}

// listens reports whether anybody listens at a level.
func (c *Call) listens(ctx context.Context, at slog.Level) bool {
	return c.Log != nil && c.Log.Enabled(ctx, at)
}

// say writes what the guest says to the log.
func (c *Call) say(ctx context.Context, at slog.Level, text string) {
	if c.listens(ctx, at) {
		c.Log.Log(ctx, at, "a module says", "module", c.Name, "hook", c.hook.String(), "request", c.ID, "text", text)
	}
}

// reset makes a empty and keeps its memory.
func (a *Action) reset() {
	ch := a.changes
	ch.Reset()
	*a = Action{fields: a.fields[:0], strings: a.strings[:0], mem: a.mem[:0], changes: ch}
}

// Trim empties a, and keeps its memory for another call if it is at most most
// bytes.
func (a *Action) Trim(most int) {
	a.reset()
	if cap(a.mem) > most {
		a.mem = nil
		clear(a.fields[:cap(a.fields)]) // which may point into it
		clear(a.strings[:cap(a.strings)])
	}
}

// Trim is Action.Trim.
func (a *ChunkAction) Trim(most int) {
	*a = ChunkAction{mem: a.mem[:0]}
	if cap(a.mem) > most {
		a.mem = nil
	}
}
