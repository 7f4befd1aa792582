package wasm

import (
	"fmt"
	"log/slog"
	"strings"
	"unicode/utf8"
	"unsafe"

	"sluice/internal/wasm/component"
)

// levels are the log's, as the world has them.
var levels = [...]slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}

// MaxState is how much a guest may remember of a request, in bytes.
const MaxState = 64 << 10

// An ownFunc is a function of our own world's host, with its type.
type ownFunc struct {
	typ *component.FuncType
	f   func(g *guest, st []uint64)
}

var (
	tLevel = component.NewType(component.Type{Kind: component.Enum, Cases: []component.Field{{Name: "debug"}, {Name: "info"}, {Name: "warn"}, {Name: "error"}}})
	tS64   = component.NewType(component.Type{Kind: component.S64})
	tBool  = component.NewType(component.Type{Kind: component.Bool})
)

// own is `interface host`.
var own = map[string]ownFunc{
	"log": {&component.FuncType{Params: []component.Field{{Name: "level", Type: tLevel}, {Name: "message", Type: tString}}}, func(g *guest, st []uint64) {
		level, msg := uint32(st[0]), g.bytes(st[1], st[2]) // of an i32 the upper half may be anything
		if level >= uint32(len(levels)) {
			trap("a line of level %d", level)
		}
		c := g.in.call
		if c == nil || !c.listens(g.in.ctx, levels[level]) {
			return // what nobody reads is not looked at
		}
		if g.in.lines++; g.in.lines > maxLines {
			g.in.out.Lost += min(len(msg), mostOutput)
			return
		}
		g.in.spend(mostOutput)
		c.say(g.in.ctx, levels[level], string(asText(head(msg, mostOutput))))
	}},
	"count": {&component.FuncType{Params: []component.Field{{Name: "name", Type: tString}, {Name: "by", Type: tU64}}}, func(g *guest, st []uint64) {
		if s := g.store(); s != nil {
			s.Count(view(asText(head(g.bytes(st[0], st[1]), maxCounter))), st[2])
		}
	}},
	"model": {&component.FuncType{Result: tString}, func(g *guest, st []uint64) {
		model := ""
		if c := g.in.call; c != nil {
			model = asUTF8(c.Model)
		}
		g.giveBytes(st[0], unsafe.Slice(unsafe.StringData(model), len(model)))
	}},
	"state": {&component.FuncType{Result: tBytes}, func(g *guest, st []uint64) {
		var state []byte
		if c := g.in.call; c != nil {
			state = c.State
		}
		g.giveBytes(st[0], state)
	}},
	"set-state": {&component.FuncType{Params: params("value", tBytes), Result: tBool}, func(g *guest, st []uint64) {
		c := g.in.call
		if c == nil || uint32(st[1]) > MaxState {
			st[0] = 0
			return
		}
		b := g.bytes(st[0], st[1])
		g.in.spend(len(b))
		c.State = append(c.State[:0], b...)
		st[0] = 1
	}},
	"add": {&component.FuncType{Params: []component.Field{{Name: "key", Type: tString}, {Name: "by", Type: tS64}, {Name: "ttl-ms", Type: tU64}}, Result: tS64}, func(g *guest, st []uint64) {
		var n int64
		if s := g.store(); s != nil {
			n = s.Add(g.key(st[0], st[1]), int64(st[2]), st[3])
		}
		st[0] = uint64(n)
	}},
	"get": {&component.FuncType{Params: params("key", tString), Result: tS64}, func(g *guest, st []uint64) {
		var n int64
		if s := g.store(); s != nil {
			n = s.Get(g.key(st[0], st[1]))
		}
		st[0] = uint64(n)
	}},
}

// ownImport returns the function of our own world that f is.
func ownImport(f *component.Func) (func(g *guest, st []uint64), error) {
	iface, version, _ := strings.Cut(strings.TrimPrefix(f.Interface, ownPackage+"/"), "@")
	switch {
	case iface != "host":
		return nil, fmt.Errorf("it imports %.100q, which the gateway does not have", f.Interface)
	case !ownVersion(version):
		return nil, fmt.Errorf("it imports %.100q, and this gateway has 0.1 of it", f.Interface)
	}
	o, ok := own[f.Name]
	switch {
	case !ok:
		return nil, fmt.Errorf("it imports %.64q of %s, which the gateway does not have", f.Name, f.Interface)
	case !o.typ.Equal(f.Type):
		return nil, fmt.Errorf("it imports %s of %s as %s; want %s", f.Name, f.Interface, f.Type, o.typ)
	}
	return o.f, nil
}

// store returns what the calling module remembers of all requests; nil while it
// starts.
func (g *guest) store() *Store {
	if g.in.call == nil {
		return nil
	}
	return g.in.call.Store
}

// key returns the key of a number, in the guest's own memory. Two keys that are too
// long could be told apart by what would be cut off.
func (g *guest) key(at, n uint64) string {
	b := g.bytes(at, n)
	if len(b) > maxKey {
		trap("a key of %d bytes; at most %d are allowed", len(b), maxKey)
	}
	return view(asText(b))
}

// asText returns b, which has to be UTF-8.
func asText(b []byte) []byte {
	if !utf8.Valid(b) {
		trap("a text that is not UTF-8")
	}
	return b
}

// head returns what b begins with, at most most bytes and no part of a letter.
func head(b []byte, most int) []byte {
	if len(b) <= most {
		return b
	}
	end := most
	for end > most-utf8.UTFMax && !utf8.RuneStart(b[end]) {
		end--
	}
	return b[:end]
}

// giveBytes gives the guest a copy of b, and writes at an address where that is.
func (g *guest) giveBytes(at uint64, b []byte) {
	g.in.spend(len(b))
	to := g.alloc(1, uint32(len(b)))
	copy(g.bytes(uint64(to), uint64(len(b))), b)
	g.u32(at, to)
	g.u32(at+4, uint32(len(b)))
}
