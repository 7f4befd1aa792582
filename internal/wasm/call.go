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
	maxTexts  = 1 << 20  // bytes of its names and values
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
	l.text(0, r.Method)
	l.text(2, r.Path)
	l.text(4, r.Query)
	l.fields(6, r.Header)
	l.bytes(8, r.Body)
	l.text(10, r.ID)
	if err := l.write(); err != nil {
		return err
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
	l.fields(1, r.Header)
	l.bytes(3, r.Body)
	if err := l.write(); err != nil {
		return err
	}
	return in.invoke(h, v, a)
}

// view is b as a string that shares its memory.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// onChunk calls the hook of that name.
func (in *instance) onChunk(event []byte, a *ChunkAction) error {
	h := &in.exports[OnChunk]
	l := lowering{in: in, h: h}
	v := &in.stack
	l.bytes(0, event)
	if err := l.write(); err != nil {
		return err
	}
	if err := h.call.CallWithStack(in.ctx, v[:]); err != nil {
		return in.fault(err)
	}
	at := uint32(v[0])
	if err := in.liftChunk(h.memory, at, a); err != nil {
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
	l.text(1, f.Code)
	l.text(3, f.Message)
	if err := l.write(); err != nil {
		return err
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

// errStopped is why a call failed that was to end while the host worked for it.
var errStopped = failed(errTimeout, "it did not end in time")

// invoke calls h with the arguments in v and reads the action that it returns.
func (in *instance) invoke(h *hook, v *[16]uint64, a *Action) error {
	if err := h.call.CallWithStack(in.ctx, v[:]); err != nil {
		return in.fault(err)
	}
	at := uint32(v[0])
	if err := in.lift(h.memory, at, a); err != nil {
		return err
	}
	return in.done(h, v, at)
}

// done tells the guest that what it returned, at an address, has been read, so
// that it can free that. To a guest of which nothing stays it need not be told:
// while it is told it may not call out, so nobody can see whether it was.
func (in *instance) done(h *hook, v *[16]uint64, at uint32) error {
	if h.post == nil || !in.stays {
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
	if errors.Is(err, errLate) {
		return &CallError{Kind: string(errTimeout), Err: errLate}
	}
	var t *trapError
	if errors.As(err, &t) {
		return &CallError{Kind: string(errTrap), Err: t}
	}
	msg, _, _ := strings.Cut(err.Error(), "\n") // the rest is its stack
	msg = strings.TrimSuffix(strings.TrimPrefix(msg, "wasm error: "), " (recovered by wazero)")
	return failed(errTrap, "%.200s", msg)
}

// A lowering collects the arguments of a call, and writes them into a guest's
// memory.
type lowering struct {
	in     *instance
	h      *hook
	at     [mostTexts]uint8 // which two values are the address and the length of a text
	texts  int
	header *infer.Header // nil for none
	list   int           // which two values are its address and its length
}

// mostTexts is how many texts a call has at most, but for those of its header.
const mostTexts = 5

// text gives s as values i and i+1 of the call. A guest relies on it that a string
// is UTF-8, so what a client has sent that is not comes as U+FFFD.
func (l *lowering) text(i int, s string) {
	l.give(i, asUTF8(s))
}

// bytes gives b as values i and i+1 of the call, whatever is in it.
func (l *lowering) bytes(i int, b []byte) { l.give(i, view(b)) }

func (l *lowering) give(i int, s string) {
	l.at[l.texts] = uint8(i)
	l.texts++
	l.in.texts = append(l.in.texts, s)
}

// asUTF8 is s, with U+FFFD in the place of what is not UTF-8.
func asUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// fields gives a header as values i and i+1.
func (l *lowering) fields(i int, h *infer.Header) { l.header, l.list = h, i }

// fieldSize is the size of a record of two strings.
const fieldSize = 16

// write writes what was collected.
func (l *lowering) write() error {
	in := l.in
	defer in.forget()
	n := 0
	if l.header != nil {
		all := l.header.Fields()
		for k := range all {
			if f := &all[k]; utf8.Valid(f.Name) && utf8.Valid(f.Value) {
				in.texts = append(in.texts, view(f.Name), view(f.Value))
				n++
			}
		}
	}
	for _, s := range in.texts {
		if len(s) > math.MaxInt32 {
			return failed(errAnswer, "a value of %d bytes", len(s))
		}
	}
	var list uint32
	if l.header != nil {
		var err error
		if list, err = in.realloc(l.h.realloc, l.h.memory, 4, uint32(fieldSize*n)); err != nil {
			return err
		}
	}
	if err := in.places(l.h); err != nil {
		return err
	}
	mem, ok := l.h.memory.Read(0, l.h.memory.Size())
	if !ok {
		return failed(errTrap, "its memory cannot be read")
	}
	for i, s := range in.texts {
		if len(s) <= workSlice {
			copy(mem[in.at[i]:], s)
		} else if !in.move(mem[in.at[i]:], unsafe.Slice(unsafe.StringData(s), len(s))) {
			return errStopped
		}
	}
	for i, k := range l.at[:l.texts] {
		in.stack[k], in.stack[k+1] = uint64(in.at[i]), uint64(len(in.texts[i]))
	}
	if l.header == nil {
		return nil
	}
	in.stack[l.list], in.stack[l.list+1] = uint64(list), uint64(n)
	b := mem[list:][:fieldSize*n]
	for i := l.texts; i < len(in.texts); i++ { // two of them are a record
		binary.LittleEndian.PutUint32(b, in.at[i])
		binary.LittleEndian.PutUint32(b[4:], uint32(len(in.texts[i])))
		b = b[8:]
	}
	return nil
}

// forget lets go of what was written: it is the request's.
func (in *instance) forget() {
	clear(in.texts)
	in.texts = in.texts[:0]
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

// Where the parts of an action stand in memory.
const (
	actionSize  = 44
	actionAlign = 4
)

// lift reads the action at an address of a guest's memory. Everything in it is
// checked: addresses, lengths, tags, and that texts are UTF-8.
func (in *instance) lift(mem api.Memory, at uint32, a *Action) error {
	a.reset()
	b, ok := mem.Read(at, actionSize)
	if !ok || at%actionAlign != 0 {
		return failed(errAnswer, "its answer is at %#x, which is no place for one", at)
	}
	le := binary.LittleEndian
	l := lifting{in: in, mem: mem, a: a}
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
			if a.Status = int(le.Uint16(b[6:])); a.Status == 0 {
				a.Status = NoStatus
			}
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
			a.Body, a.HasBody = l.body(le.Uint32(b[36:]), le.Uint32(b[40:])), true
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
func (in *instance) liftChunk(mem api.Memory, at uint32, a *ChunkAction) error {
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
	if !ok {
		return failed(errAnswer, "%d bytes at %#x are outside of its memory", n, at)
	}
	if most := in.mostBody(); len(data) > most {
		return failed(errAnswer, "its action has %d bytes in an event's place; at most %d are allowed", len(data), most)
	}
	if cap(a.mem) < len(data) {
		a.mem = make([]byte, 0, len(data))
	}
	a.mem = a.mem[:len(data)]
	a.Data = a.mem
	if !in.move(a.mem, data) {
		return errStopped
	}
	return nil
}

// mostBody is how large a body the guest may give in its call.
func (in *instance) mostBody() int {
	if c := in.call; c != nil && c.MaxBody > 0 {
		return int(min(c.MaxBody, maxAction))
	}
	return maxAction
}

// A lifting copies values out of a guest's memory into an Action. The first
// error stays.
type lifting struct {
	in    *instance
	mem   api.Memory
	a     *Action
	named int // bytes of names and values
	err   error
}

func (l *lifting) fail(format string, args ...any) {
	if l.err == nil {
		l.err = failed(errAnswer, format, args...)
	}
}

// read returns n bytes of the guest's memory.
func (l *lifting) read(at, n uint32) []byte {
	b, ok := l.mem.Read(at, n)
	if !ok {
		l.fail("%d bytes at %#x are outside of its memory", n, at)
		return nil
	}
	return b
}

// copy copies b. What was copied before stays where it is: a memory that is full
// is left to those who point into it.
func (l *lifting) copy(b []byte) []byte {
	a := l.a
	if len(a.mem)+len(b) > cap(a.mem) {
		a.mem = make([]byte, 0, max(512, min(2*cap(a.mem), maxAction+maxTexts), len(b)))
	}
	k := len(a.mem)
	if len(b) <= workSlice {
		a.mem = append(a.mem, b...)
	} else if a.mem = a.mem[:k+len(b)]; !l.in.move(a.mem[k:], b) && l.err == nil {
		l.err = errStopped
	}
	return a.mem[k:len(a.mem):len(a.mem)]
}

func (l *lifting) body(at, n uint32) []byte {
	b := l.read(at, n)
	if most := l.in.mostBody(); len(b) > most {
		l.fail("its action has a body of %d bytes; at most %d are allowed", len(b), most)
		return nil
	}
	return l.copy(b)
}

func (l *lifting) text(at, n uint32) string {
	b := l.read(at, n)
	if l.named += len(b); l.named > maxTexts {
		l.fail("its action has more than %d bytes of names and values", maxTexts)
		return ""
	}
	if b = l.copy(b); !utf8.Valid(b) {
		l.fail("a text that is not UTF-8")
		return ""
	}
	return view(b)
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
