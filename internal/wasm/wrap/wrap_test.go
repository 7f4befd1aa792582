package wrap

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/internal/infer"
	"sluice/internal/wasm"
	"sluice/internal/wasm/component"
	"sluice/internal/wasm/core"
)

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPreview1Works: what programs for WASI preview 1 call is there, and is what
// they expect; testdata/preview1.c says what that is.
func TestPreview1Works(t *testing.T) {
	b, err := Component(read(t, "testdata/preview1.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	e, err := wasm.NewEngine("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var runs sync.WaitGroup
	runs.Go(func() { _ = e.Run(ctx) })
	defer func() { cancel(); runs.Wait() }()
	m, err := e.Load(ctx, b, wasm.DefaultSettings())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var a wasm.Action
	var c wasm.Call
	for range 3 {
		r := wasm.Request{Method: "POST", Path: "/", Header: new(infer.Header), NowMillis: uint64(time.Now().UnixMilli())}
		if err := m.OnRequest(ctx, &c, &r, &a); err != nil {
			t.Fatal(err)
		}
		if a.Kind != wasm.Reject || a.Status != 200 {
			t.Errorf("check %d of preview1.c fails", a.Status-400)
		}
		if got := string(c.Out.Text); got != "hello there" {
			t.Errorf("it prints %q, want hello there", got)
		}
	}
}

// starting returns a core module whose hook refuses requests with the status that
// its start function has left: 418, and one more by _initialize. The start function
// calls random_get.
func starting(t testing.TB, start byte, exports ...string) []byte {
	t.Helper()
	const hook = "sluice:gateway/on-request@0.1.0#on-request"
	s, ok := wasm.HookOf(hook)
	if !ok {
		t.Fatal("there is no such hook")
	}
	i32 := core.I32
	m := newCoreModule()
	m.section(coreType, 4, types([]core.Import{
		{Type: &core.FuncType{Params: []core.ValType{i32, i32, i32, i32}, Results: []core.ValType{i32}}},
		{Type: s.Type.Core(false)},
		{Type: &core.FuncType{}},
		{Type: &core.FuncType{Params: []core.ValType{i32, i32}, Results: []core.ValType{i32}}},
	}))
	m.section(coreImport, 1, append(appendName(appendName(nil, preview1), "random_get"), byte(core.Func), 3))
	m.section(coreFunction, 4, []byte{0, 1, 2, 2})
	m.section(5, 1, []byte{0, 1})
	list := append(appendName(nil, memoryName), byte(core.Memory), 0)
	list = append(appendName(list, reallocName), byte(core.Func), 1)
	list = append(appendName(list, hook), byte(core.Func), 2)
	list = append(appendName(list, initializeName), byte(core.Func), 4)
	for _, name := range exports {
		list = append(appendName(list, name), byte(core.Func), 1)
	}
	m.section(coreExport, 4+len(exports), list)
	m = append(m, coreStart, 1, start)
	var code []byte
	for _, body := range [][]byte{
		{0, 0x41, 0x80, 0x08, 0x0b}, // cabi_realloc: 1024
		{0, 0x41, 0, 0x0b},          // the hook: what stands at 0
		{0, 0x41, 0, 0x41, 1, 0x3a, 0, 0, 0x41, 4, 0x41, 0xa2, 3, 0x41, 16, 0x41, 8, 0x10, 0, 0x6a, 0x36, 2, 0, 0x0b}, // reject, 418 + random_get(16, 8)
		{0, 0x41, 4, 0x41, 4, 0x28, 2, 0, 0x41, 1, 0x6a, 0x36, 2, 0, 0x0b},                                            // one more
	} {
		code = append(append(code, byte(len(body))), body...)
	}
	m.section(coreCode, 4, code)
	return m
}

// TestStartMayCallTheGateway: a module's start function may call what it imports,
// and is called once, before _initialize.
func TestStartMayCallTheGateway(t *testing.T) {
	e, err := wasm.NewEngine("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var runs sync.WaitGroup
	runs.Go(func() { _ = e.Run(ctx) })
	defer func() { cancel(); runs.Wait() }()
	for _, exports := range [][]string{nil, {"start", "start-"}} {
		b, err := Component(starting(t, 3, exports...))
		if err != nil {
			t.Fatal(err)
		}
		m, err := e.Load(ctx, b, wasm.DefaultSettings())
		if err != nil {
			t.Fatalf("with the exports %q: %v", exports, err)
		}
		var a wasm.Action
		var c wasm.Call
		for range 2 {
			r := wasm.Request{Method: "POST", Path: "/", Header: new(infer.Header)}
			if err := m.OnRequest(ctx, &c, &r, &a); err != nil || a.Kind != wasm.Reject || a.Status != 419 {
				t.Errorf("with the exports %q: %v, %v with %d; want a refusal with 419", exports, err, a.Kind, a.Status)
			}
		}
		m.Close()
	}
	for start, want := range map[byte]string{1: "is not one without parameters", 9: "function 9 of 5"} {
		if _, err := Component(starting(t, start)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a start function %d: %v, want %q", start, err, want)
		}
	}
}

// TestAdapterHasNoMemory: the adapter works in the program's memory, so it must
// have none of its own, and no data that would be written over the program's.
func TestAdapterHasNoMemory(t *testing.T) {
	r := core.NewReader(adapterBinary[len(core.Header):], len(core.Header))
	for r.More() {
		switch id := r.Byte(); id {
		case 5, 9, 11:
			t.Errorf("it has a section %d: a memory, elements or data", id)
		}
		r.Part()
	}
}

func TestWhatCannotBeWrapped(t *testing.T) {
	// A module that has what there must be, but for what a case takes away.
	build := func(imports, exports []byte, nImports, nExports int) []byte {
		m := newCoreModule()
		m.section(coreType, 3, []byte{0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 1, 0x7f, 0x60, 4, 0x7f, 0x7e, 0x7e, 0x7e, 0, 0x60, 0, 0})
		if nImports > 0 {
			m.section(coreImport, nImports, imports)
		}
		m.section(coreFunction, 3, []byte{0, 1, 2})
		m.section(5, 1, []byte{0, 1})
		m.section(coreExport, nExports, exports)
		return m
	}
	export := func(name string, kind core.Kind, at byte) []byte {
		return append(appendName(nil, name), byte(kind), at)
	}
	join := func(parts ...[]byte) (all []byte) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	const end = "sluice:gateway/on-end@0.1.0#on-end"
	memory, realloc, hook := export("memory", core.Memory, 0), export("cabi_realloc", core.Func, 0), export(end, core.Func, 1)
	imported := func(module, name string, typ byte) []byte {
		return append(appendName(appendName(nil, module), name), byte(core.Func), typ)
	}
	late := func(e []byte) []byte { e[len(e)-1]++; return e } // an index behind an imported function
	one := [][]byte{memory, late(export("cabi_realloc", core.Func, 0)), late(export(end, core.Func, 1))}
	tests := []struct {
		name string
		bin  []byte
		want string
	}{
		{"nothing", nil, "not a core WebAssembly module"},
		{"a component", component.Header, "a component already"},
		{"no hook", build(nil, join(memory, realloc), 0, 2), "it exports no hook"},
		{"a hook of another version", build(nil, join(memory, realloc, export("sluice:gateway/on-end@0.9.0#on-end", core.Func, 1)), 0, 3), "it exports no hook"},
		{"a hook of another type", build(nil, join(memory, realloc, export(end, core.Func, 2)), 0, 3), "is not a function of the type"},
		{"something else after a hook", build(nil, join(memory, realloc, hook, export("cabi_post_"+end, core.Func, 1)), 0, 4), "takes what the hook returns"},
		{"a memory after a hook", build(nil, join(memory, realloc, hook, export("cabi_post_"+end, core.Memory, 0)), 0, 4), "takes what the hook returns"},
		{"no memory", build(nil, join(realloc, hook), 0, 2), `no memory named "memory"`},
		{"no allocator", build(nil, join(memory, hook), 0, 2), `no function "cabi_realloc"`},
		{"an import that nobody has", build(imported("env", "f", 2), join(one...), 1, 3), `imports "f" of "env"`},
		{"a host function of another type", build(imported("sluice:gateway/host@0.1.0", "log", 2), join(one...), 1, 3), "with other types"},
		{"an unknown function of preview 1", build(imported("wasi_snapshot_preview1", "fd_dance", 2), join(one...), 1, 3), "not known"},
	}
	for _, tt := range tests {
		if _, err := Component(tt.bin); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if _, err := Component(build(nil, join(memory, realloc, hook), 0, 3)); err != nil {
		t.Errorf("the module that has it all: %v", err)
	}
	if _, err := Component(build(nil, join(memory, realloc, hook, export("cabi_post_"+end, core.Func, 2)), 0, 4)); err != nil {
		t.Errorf("one that cleans up after a hook: %v", err)
	}
}

// FuzzComponent holds that a core module is refused, or becomes a component that
// can be read.
func FuzzComponent(f *testing.F) {
	f.Add(read(f, "testdata/preview1.wasm"))
	f.Add(starting(f, 3))
	for _, name := range []string{"header-routing", "rate-limit"} {
		p, err := component.Link(read(f, "../../../examples/wasm/"+name+"/"+name+".wasm"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p.Modules[0].Binary)
	}
	f.Fuzz(func(t *testing.T, module []byte) {
		out, err := Component(module)
		if err != nil {
			if strings.Contains(err.Error(), "BUG") {
				t.Error(err)
			}
			return
		}
		if _, err := component.Link(out); err != nil {
			t.Error(err)
		}
	})
}
