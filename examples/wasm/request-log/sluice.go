// What a module for sluice needs: the values of sluice:gateway@0.1.0, and what
// the gateway does for a module. The files on_*.go have the hooks: the module is
// called at those that are there, and each wants one function of yours. Written
// by `sluice wasm new`; there is no need to change it.
package main

import (
	"strings"
	"unsafe"
)

// A Request is what a client asks. What it holds is good until the hook returns;
// strings.Clone and bytes.Clone make what lasts.
type Request struct {
	Method, Path, Query string
	Headers             Headers
	Body                []byte
	ID                  string
	NowMillis           uint64
}

// A Response is an answer that is whole.
type Response struct {
	Status  uint16
	Headers Headers
	Body    []byte
}

// A Failure is why a request got no good answer.
type Failure struct {
	Status        uint16
	Code, Message string
}

// A Summary is how a request ended.
type Summary struct {
	Status                                    uint16
	DurationMillis, InputTokens, OutputTokens uint64
}

// A Field is a header line.
type Field struct{ Name, Value string }

// Headers are the header lines, in the order in which they came.
type Headers []Field

// Get returns the first value of a field, by its name in any case.
func (h Headers) Get(name string) string {
	for _, f := range h {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// An Action is what becomes of a request or an answer: Continue, Reject or
// Modify.
type Action struct {
	kind    uint32
	status  uint16
	changes Changes
}

// Changes are made in this order: remove, set, add, body. A status is of answers
// only; 0 and a nil body stand for the old ones.
type Changes struct {
	Status   uint16
	Set, Add []Field
	Remove   []string
	Body     []byte
}

// Continue lets it go on.
func Continue() Action { return Action{} }

// Reject answers with a status and no body.
func Reject(status uint16) Action { return Action{kind: 1, status: status} }

// Modify lets it go on with changes.
func Modify(c Changes) Action { return Action{kind: 2, changes: c} }

// A Chunk is what becomes of an event of a streamed answer: Pass, Drop, Replace
// or Finish.
type Chunk struct {
	kind uint32
	data []byte
}

// Pass sends the event as it is, Drop does not send it, Replace sends something
// else, and Finish sends something else and ends the stream.
func Pass() Chunk               { return Chunk{} }
func Drop() Chunk               { return Chunk{kind: 1} }
func Replace(data []byte) Chunk { return Chunk{kind: 2, data: data} }
func Finish(data []byte) Chunk  { return Chunk{kind: 3, data: data} }

// A Level is how much a line of the log matters.
type Level int32

// The levels.
const (
	Debug Level = iota
	Info
	Warn
	Error
)

//go:wasmimport sluice:gateway/host@0.1.0 log
func hostLog(level int32, p unsafe.Pointer, n uint32)

//go:wasmimport sluice:gateway/host@0.1.0 count
func hostCount(p unsafe.Pointer, n uint32, by uint64)

//go:wasmimport sluice:gateway/host@0.1.0 model
func hostModel(result unsafe.Pointer)

//go:wasmimport sluice:gateway/host@0.1.0 state
func hostState(result unsafe.Pointer)

//go:wasmimport sluice:gateway/host@0.1.0 set-state
func hostSetState(p unsafe.Pointer, n uint32) uint32

//go:wasmimport sluice:gateway/host@0.1.0 add
func hostAdd(p unsafe.Pointer, n uint32, by int64, ttl uint64) int64

//go:wasmimport sluice:gateway/host@0.1.0 get
func hostGet(p unsafe.Pointer, n uint32) int64

func start(s string) (unsafe.Pointer, uint32) {
	return unsafe.Pointer(unsafe.StringData(s)), uint32(len(s))
}

// Log writes a line to the gateway's log.
func Log(l Level, message string) {
	p, n := start(message)
	hostLog(int32(l), p, n)
}

// Count adds to the metric sluice_wasm_guest_total{module,name}.
func Count(name string, by uint64) {
	p, n := start(name)
	hostCount(p, n, by)
}

// Model is the model that is asked for, empty if the request names none.
func Model() string {
	var r list
	hostModel(unsafe.Pointer(&r))
	return strings.Clone(r.text())
}

// State is what the module remembers of this request, empty at first.
func State() []byte {
	var r list
	hostState(unsafe.Pointer(&r))
	return append([]byte(nil), r.bytes()...)
}

// SetState remembers value. It returns false, and changes nothing, if that is
// more than 64 KiB.
func SetState(value []byte) bool {
	return hostSetState(unsafe.Pointer(unsafe.SliceData(value)), uint32(len(value))) != 0
}

// Add adds to a number that all requests of the module share, and returns it. It
// lives for ttl milliseconds from now on; 0 stands for as long as there is room.
func Add(key string, by int64, ttl uint64) int64 {
	p, n := start(key)
	return hostAdd(p, n, by, ttl)
}

// Get returns the number, 0 if there is none.
func Get(key string) int64 {
	p, n := start(key)
	return hostGet(p, n)
}

// What follows is how values cross the border (Component Model,
// CanonicalABI.md). What the host gives and what a hook returns stands in an
// arena, which is empty again after each call.

type list struct{ p, n uint32 }

func (l list) bytes() []byte {
	if l.n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(uintptr(l.p))), l.n)
}

func (l list) text() string {
	b := l.bytes()
	return unsafe.String(unsafe.SliceData(b), len(b))
}

func (l list) headers() Headers {
	if l.n == 0 {
		return nil
	}
	hs := make(Headers, l.n)
	for i, f := range unsafe.Slice((*[2]list)(unsafe.Pointer(uintptr(l.p))), l.n) {
		hs[i] = Field{f[0].text(), f[1].text()}
	}
	return hs
}

const chunkSize = 8 << 10

var (
	arena [][]uint64
	used  int // bytes of the last
)

func room(n uint32) unsafe.Pointer {
	if len(arena) == 0 || used+int(n) > 8*len(arena[len(arena)-1]) {
		arena, used = append(arena, make([]uint64, (max(int(n), chunkSize)+7)/8)), 0
	}
	c := arena[len(arena)-1]
	p := unsafe.Add(unsafe.Pointer(unsafe.SliceData(c)), used)
	used += (int(n) + 7) &^ 7
	return p
}

//go:wasmexport cabi_realloc
func realloc(old unsafe.Pointer, had, align, n uint32) unsafe.Pointer {
	if n == 0 {
		return unsafe.Pointer(uintptr(align))
	}
	p := room(n)
	if had > 0 {
		copy(unsafe.Slice((*byte)(p), n), unsafe.Slice((*byte)(old), had))
	}
	return p
}

func done() {
	if len(arena) > 1 {
		clear(arena[1:])
		arena = arena[:1]
	}
	used = 0
}

func put(b []byte) list {
	p := room(uint32(len(b)))
	copy(unsafe.Slice((*byte)(p), len(b)), b)
	return list{uint32(uintptr(p)), uint32(len(b))}
}

func putFields(fs []Field) list {
	p := room(uint32(16 * len(fs)))
	to := unsafe.Slice((*[2]list)(p), len(fs))
	for i, f := range fs {
		to[i] = [2]list{put([]byte(f.Name)), put([]byte(f.Value))}
	}
	return list{uint32(uintptr(p)), uint32(len(fs))}
}

// action is an Action as it stands in memory.
type action struct {
	kind      uint32
	hasStatus uint8 // of Reject, the status begins here
	_         uint8
	status    uint16
	set, add  list
	remove    list
	hasBody   uint32
	body      list
}

func (a Action) lower() unsafe.Pointer {
	to := (*action)(room(44))
	*to = action{kind: a.kind}
	switch a.kind {
	case 1:
		*(*uint16)(unsafe.Pointer(&to.hasStatus)) = a.status
	case 2:
		c := a.changes
		if c.Status != 0 {
			to.hasStatus, to.status = 1, c.Status
		}
		to.set, to.add = putFields(c.Set), putFields(c.Add)
		p := room(uint32(8 * len(c.Remove)))
		for i, n := range c.Remove {
			unsafe.Slice((*list)(p), len(c.Remove))[i] = put([]byte(n))
		}
		to.remove = list{uint32(uintptr(p)), uint32(len(c.Remove))}
		if c.Body != nil {
			to.hasBody, to.body = 1, put(c.Body)
		}
	}
	return unsafe.Pointer(to)
}

func (c Chunk) lower() unsafe.Pointer {
	to := (*struct {
		kind uint32
		data list
	})(room(12))
	to.kind, to.data = c.kind, put(c.data)
	return unsafe.Pointer(to)
}

func main() {}
