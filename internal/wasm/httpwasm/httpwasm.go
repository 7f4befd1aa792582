// Package httpwasm is the host's side of http-wasm modules (http-wasm.io, HTTP
// handler ABI): core WebAssembly modules that look at a request, and change it,
// through functions that they call.
//
// A guest exports handle_request, which says whether the request goes on, and
// handle_response, which is called with the answer. Both are about one request,
// so one instance serves both, and an Exchange is what they see of it. What a
// guest changes is noted, and not done: whoever runs it does it once it has
// ended well. Nothing is run here.
//
// Where the ABI leaves a choice, or a gateway has none:
//   - Bodies of requests are bytes, so reading one takes nothing from who comes
//     next, whether or not a guest asks for buffer_request. After handle_request
//     there is nothing left of it to read.
//   - An answer is kept for a guest that has asked for buffer_response, also if
//     it streams: the guest wants it whole. Any other guest is called when the
//     answer has been sent, and cannot change it any more.
//   - What a guest sets of the answer's header before the request goes on is in
//     the answer, beside what the worker sets, and what it writes comes before
//     the worker's body. The status is the worker's.
//   - There are no trailers: enable_features says so, there are none to read,
//     and setting one ends the call.
//   - Fields that say where a message ends, or are for one connection, are not a
//     guest's to change. They follow from the body.
//   - A name, a value, a method, a URI or a status that HTTP does not have ends
//     the call.
//   - WASI preview 1 may be imported, as guests' tools do. There are no files, no
//     arguments and no environment in it; clocks and chance are real.
package httpwasm

import (
	"fmt"
	"slices"

	"github.com/tetratelabs/wazero/api"

	"sluice/internal/wasm/core"
)

// World is the name of the ABI, where those of components have the package of
// their world.
const World = "http-wasm"

// What a guest exports.
const (
	HandleRequest  = "handle_request"
	HandleResponse = "handle_response"
	Memory         = "memory"
)

// Starts are the functions of which a guest exports one, or none, to be called
// before any other: a reactor's and a command's.
var Starts = []string{"_initialize", "_start"}

// A Features is what a guest may ask for, as bits.
type Features uint32

// The features.
const (
	BufferRequest  Features = 1 << iota // read the request's body, and leave it there
	BufferResponse                      // have the answer before it is sent
	Trailers

	offered = BufferRequest | BufferResponse
)

var (
	requestType  = &core.FuncType{Results: []core.ValType{core.I64}}
	responseType = &core.FuncType{Params: []core.ValType{core.I32, core.I32}}
	startType    = new(core.FuncType)
)

// Is reports whether m means to be a guest: it has one of the functions, or
// imports one of the host's.
func Is(m *core.Module) bool {
	return slices.ContainsFunc(m.Exports, func(e core.Export) bool { return e.Name == HandleRequest || e.Name == HandleResponse }) ||
		slices.ContainsFunc(m.Imports, func(i core.Import) bool { return i.Module == hostModule })
}

// Check holds what m exports to what a guest has to. What it imports is for
// Import to judge.
func Check(m *core.Module) error {
	for _, want := range []struct {
		name string
		typ  *core.FuncType
		must bool
	}{
		{HandleRequest, requestType, true}, {HandleResponse, responseType, true},
		{Starts[0], startType, false}, {Starts[1], startType, false},
	} {
		i := slices.IndexFunc(m.Exports, func(e core.Export) bool { return e.Name == want.name })
		switch {
		case i < 0 && want.must:
			return fmt.Errorf("it exports no %s, which an http-wasm module has", want.name)
		case i >= 0 && (m.Exports[i].Kind != core.Func || !same(m.Exports[i].Type, want.typ)):
			return fmt.Errorf("it exports %s as %s; want %s", want.name, describe(&m.Exports[i]), sigOf(want.typ))
		}
	}
	if !slices.ContainsFunc(m.Exports, func(e core.Export) bool { return e.Name == Memory && e.Kind == core.Memory }) {
		return fmt.Errorf("it exports no memory called %s, which an http-wasm module has", Memory)
	}
	return nil
}

func describe(e *core.Export) string {
	if e.Kind != core.Func {
		return "a " + e.Kind.String()
	}
	return sigOf(e.Type)
}

func same(a, b *core.FuncType) bool {
	return slices.Equal(a.Params, b.Params) && slices.Equal(a.Results, b.Results)
}

// sigOf writes a type as func has it, for people.
func sigOf(t *core.FuncType) string { return fmt.Sprintf("%s -> %s", list(t.Params), list(t.Results)) }

func list(ts []core.ValType) string {
	names := make([]string, len(ts))
	for i, t := range ts {
		names[i] = map[core.ValType]string{core.I32: "i32", core.I64: "i64", core.F32: "f32", core.F64: "f64"}[t]
		if names[i] == "" {
			names[i] = fmt.Sprintf("%#x", byte(t))
		}
	}
	return fmt.Sprint(names)
}

// A Func is a function of the host. Its arguments are in st, and its result goes
// there. An error ends the guest's call.
type Func func(x *Exchange, mem api.Memory, st []uint64) error

// A function is a Func with the type that it is imported as: i for i32, I for
// i64, parameters before > and results behind it.
type function struct {
	sig string
	f   Func
}

// typeOf reads a function's sig.
func typeOf(sig string) *core.FuncType {
	t := new(core.FuncType)
	to := &t.Params
	for _, c := range sig {
		switch c {
		case '>':
			to = &t.Results
		case 'i':
			*to = append(*to, core.I32)
		case 'I':
			*to = append(*to, core.I64)
		}
	}
	return t
}

// Import returns the function that an import is.
func Import(im *core.Import) (Func, error) {
	table := map[string]map[string]function{hostModule: abi, wasiModule: wasi}[im.Module]
	switch fn, ok := table[im.Name]; {
	case table == nil:
		return nil, fmt.Errorf("it imports %.64q of %.64q, which http-wasm modules do not have; want %s or %s", im.Name, im.Module, hostModule, wasiModule)
	case !ok:
		return nil, fmt.Errorf("it imports %.64q of %s, which the gateway does not have", im.Name, im.Module)
	case im.Kind != core.Func:
		return nil, fmt.Errorf("it imports %s of %s as a %s; want a function", im.Name, im.Module, im.Kind)
	case !same(im.Type, typeOf(fn.sig)):
		return nil, fmt.Errorf("it imports %s of %s as %s; want %s", im.Name, im.Module, sigOf(im.Type), sigOf(typeOf(fn.sig)))
	default:
		return fn.f, nil
	}
}

// Does says in a word what an import is about: request, log, output, time or
// chance; nothing for a function that finds nothing.
func Does(im *core.Import) string {
	switch im.Name {
	case "log", "log_enabled":
		return "log"
	case "fd_write":
		return "output"
	case "clock_time_get", "clock_res_get":
		return "time"
	case "random_get":
		return "chance"
	}
	if im.Module == hostModule {
		return "request"
	}
	return "nothing"
}
