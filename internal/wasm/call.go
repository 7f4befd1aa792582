package wasm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
	"unsafe"

	"github.com/tetratelabs/wazero/api"

	"sluice/internal/infer"
	"sluice/internal/wasm/core"
)

// Bounds of what a guest may ask for.
const (
	maxFields = 1 << 10
	maxAction = 64 << 20 // bytes of an action
)

// An errKind says in a word how a call of a guest failed, for metrics.
type errKind string

// How a call may fail.
const (
	errTrap    errKind = "trap"    // the guest did what it may not do, or ended itself
	errTimeout errKind = "timeout" // it took too long
	errStack   errKind = "stack"   // its calls were nested too deep
	errAnswer  errKind = "answer"  // what it answered makes no sense
	errBusy    errKind = "busy"    // no instance was free in time
)

// A CallError is why a guest gave no Action.
type CallError struct {
	Kind string // trap, timeout, stack, answer or busy
	Err  error
}

func (e *CallError) Error() string { return e.Kind + ": " + e.Err.Error() }
func (e *CallError) Unwrap() error { return e.Err }

func failed(k errKind, format string, args ...any) error {
	return &CallError{Kind: string(k), Err: fmt.Errorf(format, args...)}
}

// onRequest calls the hook of that name.
func (in *instance) onRequest(r *Request, a *Action) error {
	h := &in.exports[OnRequest]
	l := lowering{in: in, h: h}
	// A text is given as two values, its address and its length.
	v := &in.stack
	l.text(v, 0, r.Method)
	l.text(v, 2, r.Path)
	l.text(v, 4, r.Query)
	l.fields(v, 6, r.Header)
	l.text(v, 8, unsafe.String(unsafe.SliceData(r.Body), len(r.Body)))
	l.text(v, 10, r.ID)
	if l.err != nil {
		return l.err
	}
	v[12] = r.NowMillis
	return in.invoke(h, v, a)
}

// onResponse calls the hook of that name.
func (in *instance) onResponse(r *Response, a *Action) error {
	h := &in.exports[OnResponse]
	l := lowering{in: in, h: h}
	v := &in.stack
	v[0] = uint64(uint16(r.Status))
	l.fields(v, 1, r.Header)
	l.text(v, 3, unsafe.String(unsafe.SliceData(r.Body), len(r.Body)))
	if l.err != nil {
		return l.err
	}
	return in.invoke(h, v, a)
}

// onChunk calls the hook of that name.
func (in *instance) onChunk(event []byte, a *ChunkAction) error {
	h := &in.exports[OnChunk]
	l := lowering{in: in, h: h}
	v := &in.stack
	l.text(v, 0, unsafe.String(unsafe.SliceData(event), len(event)))
	if l.err != nil {
		return l.err
	}
	if err := h.call.CallWithStack(in.ctx, v[:]); err != nil {
		return in.fault(err)
	}
	at := uint32(v[0])
	if err := liftChunk(h.memory, at, a); err != nil {
		return err
	}
	return in.done(h, v, at)
}

// onError calls the hook of that name.
func (in *instance) onError(f *Failure) error {
	h := &in.exports[OnError]
	l := lowering{in: in, h: h}
	v := &in.stack
	v[0] = uint64(uint16(f.Status))
	l.text(v, 1, f.Code)
	l.text(v, 3, f.Message)
	if l.err != nil {
		return l.err
	}
	if err := h.call.CallWithStack(in.ctx, v[:]); err != nil {
		return in.fault(err)
	}
	return nil
}

// onEnd calls the hook of that name.
func (in *instance) onEnd(s *Summary) error {
	v := &in.stack
	v[0], v[1], v[2], v[3] = uint64(uint16(s.Status)), uint64(max(s.Duration.Milliseconds(), 0)), uint64(max(s.Input, 0)), uint64(max(s.Output, 0))
	if err := in.exports[OnEnd].call.CallWithStack(in.ctx, v[:]); err != nil {
		return in.fault(err)
	}
	return nil
}

// invoke calls h with the arguments in v and reads the action that it returns.
func (in *instance) invoke(h *hook, v *[16]uint64, a *Action) error {
	if err := h.call.CallWithStack(in.ctx, v[:]); err != nil {
		return in.fault(err)
	}
	at := uint32(v[0])
	if err := lift(h.memory, at, a); err != nil {
		return err
	}
	return in.done(h, v, at)
}

// done tells the guest that what it returned, at an address, has been read.
func (in *instance) done(h *hook, v *[16]uint64, at uint32) error {
	if h.post == nil {
		return nil
	}
	in.closed = true
	v[0] = uint64(at)
	err := h.post.CallWithStack(in.ctx, v[:1])
	in.closed = false
	if err != nil {
		return in.fault(err)
	}
	return nil
}

// fault says why a call of a guest ended early.
func (in *instance) fault(err error) error {
	in.closed = false
	switch in.why() {
	case core.WhyStopped:
		return failed(errTimeout, "it did not end in time")
	case core.WhyStack:
		return failed(errStack, "its calls are nested too deep")
	}
	var t *trapError
	if errors.As(err, &t) {
		return &CallError{Kind: string(errTrap), Err: t}
	}
	msg, _, _ := strings.Cut(err.Error(), "\n") // the rest is its stack
	return failed(errTrap, "%.200s", strings.TrimPrefix(msg, "wasm error: "))
}

// A lowering writes arguments into a guest's memory. The first error stays.
type lowering struct {
	in  *instance
	h   *hook
	err error
}

// alloc asks the guest for n bytes.
func (l *lowering) alloc(align, n uint32) uint32 {
	if l.err != nil {
		return 0
	}
	at, err := l.in.realloc(l.h.realloc, l.h.memory, align, n)
	l.err = err
	return at
}

// realloc calls a guest's allocator. While it runs it may not call out
// (CanonicalABI.md, may_leave).
func (in *instance) realloc(f api.Function, mem api.Memory, align, n uint32) (uint32, error) {
	st := &in.room
	st[0], st[1], st[2], st[3] = 0, 0, uint64(align), uint64(n)
	in.closed = true
	err := f.CallWithStack(in.ctx, st[:])
	if err != nil {
		return 0, in.fault(err)
	}
	in.closed = false
	at := uint32(st[0])
	switch {
	case at%align != 0:
		return 0, failed(errTrap, "its allocator returned %#x, which is not aligned to %d", at, align)
	case uint64(at)+uint64(n) > uint64(mem.Size()):
		return 0, failed(errTrap, "its allocator returned %#x for %d bytes, which is outside of its memory", at, n)
	}
	return at, nil
}

// text gives s as values i and i+1 of v.
func (l *lowering) text(v *[16]uint64, i int, s string) {
	at := l.copy(s)
	v[i], v[i+1] = uint64(at), uint64(uint32(len(s)))
}

// copy puts s into the guest's memory and returns where.
func (l *lowering) copy(s string) uint32 {
	if len(s) > math.MaxInt32 {
		l.err = failed(errAnswer, "a value of %d bytes", len(s))
	}
	at := l.alloc(1, uint32(len(s)))
	if l.err == nil && !l.h.memory.WriteString(at, s) {
		l.err = failed(errTrap, "its memory shrank")
	}
	return at
}

// fields gives a header as values i and i+1 of v.
func (l *lowering) fields(v *[16]uint64, i int, h *infer.Header) {
	const size = 16 // of a record of two strings
	all := h.Fields()
	n := uint32(0)
	at := l.alloc(4, size*uint32(len(all)))
	for k := range all {
		f := &all[k]
		if l.err != nil {
			return
		}
		if !valid(f.Name) || !valid(f.Value) {
			continue
		}
		name := l.copy(unsafe.String(unsafe.SliceData(f.Name), len(f.Name)))
		value := l.copy(unsafe.String(unsafe.SliceData(f.Value), len(f.Value)))
		if l.err != nil {
			return
		}
		b, ok := l.h.memory.Read(at+size*n, size)
		if !ok {
			l.err = failed(errTrap, "its memory shrank")
			return
		}
		binary.LittleEndian.PutUint32(b, name)
		binary.LittleEndian.PutUint32(b[4:], uint32(len(f.Name)))
		binary.LittleEndian.PutUint32(b[8:], value)
		binary.LittleEndian.PutUint32(b[12:], uint32(len(f.Value)))
		n++
	}
	v[i], v[i+1] = uint64(at), uint64(n)
}

// valid is utf8.Valid, quick for the ASCII that headers are.
func valid(b []byte) bool {
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return utf8.Valid(b)
		}
	}
	return true
}

// Where the parts of an action stand in memory.
const (
	actionSize  = 44
	actionAlign = 4
)

// lift reads the action at an address of a guest's memory. Everything in it is
// checked: addresses, lengths, tags, and that texts are UTF-8.
func lift(mem api.Memory, at uint32, a *Action) error {
	a.reset()
	b, ok := mem.Read(at, actionSize)
	if !ok || at%actionAlign != 0 {
		return failed(errAnswer, "its answer is at %#x, which is no place for one", at)
	}
	le := binary.LittleEndian
	l := lifting{mem: mem, a: a}
	switch b[0] {
	case 0:
		a.Kind = Continue
	case 1:
		a.Kind, a.Status = Reject, int(le.Uint16(b[4:]))
	case 2:
		a.Kind = Modify
		switch b[4] {
		case 0:
		case 1:
			a.Status = int(le.Uint16(b[6:]))
		default:
			return failed(errAnswer, "its action has a status of form %d", b[4])
		}
		// The lists share a.fields, which may move while it grows.
		set := l.fields(le.Uint32(b[8:]), le.Uint32(b[12:]))
		add := l.fields(le.Uint32(b[16:]), le.Uint32(b[20:]))
		l.texts(le.Uint32(b[24:]), le.Uint32(b[28:]))
		switch b[32] {
		case 0:
		case 1:
			a.Body, a.HasBody = l.bytes(le.Uint32(b[36:]), le.Uint32(b[40:])), true
		default:
			return failed(errAnswer, "its action has a body of form %d", b[32])
		}
		if l.err != nil {
			return l.err
		}
		a.Set, a.Add, a.Remove = a.fields[:set], a.fields[set:set+add], a.strings
	default:
		return failed(errAnswer, "its action is of form %d", b[0])
	}
	return l.err
}

// liftChunk reads what on-chunk returned.
func liftChunk(mem api.Memory, at uint32, a *ChunkAction) error {
	*a = ChunkAction{mem: a.mem[:0]}
	const size, align = 12, 4
	b, ok := mem.Read(at, size)
	if !ok || at%align != 0 {
		return failed(errAnswer, "its answer is at %#x, which is no place for one", at)
	}
	if b[0] > byte(Finish) {
		return failed(errAnswer, "its action is of form %d", b[0])
	}
	a.Kind = ChunkKind(b[0])
	if a.Kind < Replace {
		return nil
	}
	at, n := binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:])
	data, ok := mem.Read(at, n)
	if !ok || n > maxAction {
		return failed(errAnswer, "%d bytes at %#x are outside of its memory", n, at)
	}
	a.mem = append(a.mem, data...)
	a.Data = a.mem
	return nil
}

// A lifting copies values out of a guest's memory into an Action. The first
// error stays.
type lifting struct {
	mem api.Memory
	a   *Action
	err error
}

func (l *lifting) fail(format string, args ...any) {
	if l.err == nil {
		l.err = failed(errAnswer, format, args...)
	}
}

// bytes copies n bytes. Those that were copied before stay where they are: a
// memory that is full is left to those who point into it.
func (l *lifting) bytes(at, n uint32) []byte {
	b, ok := l.mem.Read(at, n)
	if !ok {
		l.fail("%d bytes at %#x are outside of its memory", n, at)
		return nil
	}
	a := l.a
	if len(a.mem)+len(b) > cap(a.mem) {
		if len(b) > maxAction-len(a.mem) {
			l.fail("its action has more than %d bytes", maxAction)
			return nil
		}
		a.mem = make([]byte, 0, max(512, 2*cap(a.mem), len(b)))
	}
	k := len(a.mem)
	a.mem = append(a.mem, b...)
	return a.mem[k:len(a.mem):len(a.mem)]
}

func (l *lifting) text(at, n uint32) string {
	b := l.bytes(at, n)
	if !valid(b) {
		l.fail("a text that is not UTF-8")
		return ""
	}
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// list returns the memory of n values of size bytes.
func (l *lifting) list(at, n, size uint32) []byte {
	if n > maxFields {
		l.fail("a list of %d; at most %d are allowed", n, maxFields)
		return nil
	}
	b, ok := l.mem.Read(at, n*size)
	if !ok || at%4 != 0 {
		l.fail("a list at %#x, which is no place for one", at)
		return nil
	}
	return b
}

// fields appends a list of headers and returns how many it has.
func (l *lifting) fields(at, n uint32) int {
	b := l.list(at, n, 16)
	le := binary.LittleEndian
	for ; len(b) > 0 && l.err == nil; b = b[16:] {
		l.a.fields = append(l.a.fields, Field{
			Name:  l.text(le.Uint32(b), le.Uint32(b[4:])),
			Value: l.text(le.Uint32(b[8:]), le.Uint32(b[12:])),
		})
	}
	return int(min(n, maxFields))
}

func (l *lifting) texts(at, n uint32) {
	b := l.list(at, n, 8)
	le := binary.LittleEndian
	for ; len(b) > 0 && l.err == nil; b = b[8:] {
		l.a.strings = append(l.a.strings, l.text(le.Uint32(b), le.Uint32(b[4:])))
	}
}
