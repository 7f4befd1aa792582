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
