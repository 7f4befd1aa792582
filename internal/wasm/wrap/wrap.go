// Package wrap makes components of core modules, as wasm-tools component new
// does, for the worlds whose modules the gateway runs. So a compiler that can
// write core modules is all that a module's author needs.
//
// Which hooks a core module has is told by the names of its exports
// (interface#function), and their types are the worlds': nothing has to be
// embedded in it.
package wrap

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sluice/internal/wasm"
	"sluice/internal/wasm/component"
	"sluice/internal/wasm/core"
)

//go:embed adapter/adapter.wasm
var adapterBinary []byte

// preview1 is what programs that were compiled for WASI preview 1 import from.
const preview1 = "wasi_snapshot_preview1"

// Names by which a core module's parts are found, as tools for components have
// them.
const (
	memoryName     = "memory"
	reallocName    = "cabi_realloc"
	postPrefix     = "cabi_post_"
	initializeName = "_initialize"
)

// Component makes a component of a core module. What the module does with files,
// arguments and the environment finds nothing there.
func Component(module []byte) ([]byte, error) {
	switch {
	case component.Is(module):
		return nil, errors.New("it is a component already")
	case !core.Is(module):
		return nil, core.ErrNotModule
	}
	m, err := core.Decode(module, 0)
	if err != nil {
		return nil, err
	}
	w := &wrapper{b: newBuilder(), m: m}
	for _, step := range []func() error{w.findHooks, w.findImports, w.checkParts, w.putOffStart} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	w.importTypes()
	w.importHost()
	w.instantiate()
	w.lift()
	if _, err := component.Link(w.b.out); err != nil {
		return nil, fmt.Errorf("BUG: what was made of it cannot be read: %w", err)
	}
	return w.b.out, nil
}

// A wrapper knows the module that a component is made of, and what has been
// written of that.
type wrapper struct {
	b     *builder
	m     *core.Module
	start string // export of m that is called before all others, "" if there is none

	hooks   []wasm.Signature
	host    []core.Import // functions of the gateway's own
	p1      []core.Import // functions of WASI preview 1
	adapter *core.Module  // nil if there are none

	typesAt map[string]uint32 // named types of the world, as they are imported
	hostAt  map[string]uint32 // instances of the host, by interface
	streams uint32            // the type of output streams
	main    uint32            // core instances
	memory  uint32            // core memory
	realloc uint32            // core function
}

func (w *wrapper) export(name string) *core.Export {
	for i := range w.m.Exports {
		if w.m.Exports[i].Name == name {
			return &w.m.Exports[i]
		}
	}
	return nil
}

// findHooks finds the hooks among the module's exports.
func (w *wrapper) findHooks() error {
	var near []string
	for _, e := range w.m.Exports {
		s, ok := wasm.HookOf(e.Name)
		if !ok {
			if strings.Contains(e.Name, "#") && !strings.HasPrefix(e.Name, postPrefix) {
				near = append(near, fmt.Sprintf("%.100q", e.Name))
			}
			continue
		}
		want := s.Type.Core(false)
		if e.Kind != core.Func || !same(e.Type, want) {
			return fmt.Errorf("its export %q is not a function of the type %s", e.Name, s.Type)
		}
		if p := w.export(postPrefix + e.Name); p != nil && (p.Kind != core.Func || !same(p.Type, &core.FuncType{Params: want.Results})) {
			return fmt.Errorf("its export %q is not a function that takes what the hook returns, and returns nothing", p.Name)
		}
		if len(w.hooks) > 0 && w.hooks[0].Package != s.Package {
			return fmt.Errorf("it exports hooks of both %s and %s; want those of one", w.hooks[0].Package, s.Package)
		}
		w.hooks = append(w.hooks, s)
	}
	if len(w.hooks) == 0 {
		if len(near) == 0 {
			near = []string{"none"}
		}
		return fmt.Errorf("it exports no hook; want one such as \"sluice:gateway/on-request@%s#on-request\" (exports of that form: %s)",
			wasm.WorldVersion, strings.Join(near[:min(len(near), 8)], ", "))
	}
	return nil
}

// findImports holds that all that the module imports can be had.
func (w *wrapper) findImports() error {
	for _, im := range w.m.Imports {
		if im.Kind != core.Func {
			return fmt.Errorf("it imports a %s, %.64q of %.64q; want functions only (a module brings its own memory)", im.Kind, im.Name, im.Module)
		}
		switch t := wasm.HostType(im.Module, im.Name); {
		case t != nil && !same(im.Type, t.Core(true)):
			return fmt.Errorf("it imports %s of %s with other types than %s has", im.Name, im.Module, t)
		case t != nil:
			if !has(w.host, im) {
				w.host = append(w.host, im)
			}
		case im.Module == preview1:
			if !has(w.p1, im) {
				w.p1 = append(w.p1, im)
			}
		default:
			return fmt.Errorf("it imports %.64q of %.64q, which this command does not know; want functions of sluice:gateway/host@%s or %s (for others make the component with wasm-tools)",
				im.Name, im.Module, wasm.WorldVersion, preview1)
		}
	}
	if len(w.p1) == 0 {
		return nil
	}
	var err error
	if w.adapter, err = core.Decode(adapterBinary, 0); err != nil {
		return fmt.Errorf("BUG: reading the adapter: %w", err)
	}
	for _, im := range w.p1 {
		i := slices.IndexFunc(w.adapter.Exports, func(e core.Export) bool { return e.Name == im.Name })
		if i < 0 || !same(w.adapter.Exports[i].Type, im.Type) {
			return fmt.Errorf("it imports %.64q of %s, which is not known or has another type", im.Name, preview1)
		}
	}
	return nil
}

func has(list []core.Import, im core.Import) bool {
	return slices.ContainsFunc(list, func(x core.Import) bool { return x.Module == im.Module && x.Name == im.Name })
}

// checkParts holds that the module has what hooks are called with.
func (w *wrapper) checkParts() error {
	if e := w.export(memoryName); e == nil || e.Kind != core.Memory {
		return fmt.Errorf("it exports no memory named %q", memoryName)
	}
	i32 := core.I32
	e := w.export(reallocName)
	if e == nil || e.Kind != core.Func || !same(e.Type, &core.FuncType{Params: []core.ValType{i32, i32, i32, i32}, Results: []core.ValType{i32}}) {
		return fmt.Errorf("it exports no function %q of the type (i32, i32, i32, i32) -> i32, which texts are given to it with", reallocName)
	}
	if e := w.export(initializeName); e != nil && (e.Kind != core.Func || !same(e.Type, &core.FuncType{})) {
		return fmt.Errorf("its export %q is not a function without parameters", initializeName)
	}
	return nil
}

// putOffStart makes the start function of a module that imports something an
// export. It would run when the module's instance is made, which is before what
// the module imports can be called; so it is called when all is there.
func (w *wrapper) putOffStart() error {
	if !w.m.Start || len(w.host)+len(w.p1) == 0 {
		return nil
	}
	w.start = "start"
	for w.export(w.start) != nil {
		w.start += "-"
	}
	m, err := core.Decode(startExported(w.m.Binary, w.start), 0)
	if err != nil {
		return fmt.Errorf("its start function cannot be called: %w", err)
	}
	w.m = m
	if e := w.export(w.start); e == nil || !same(e.Type, &core.FuncType{}) {
		return errors.New("its start function is not one without parameters")
	}
	return nil
}

func same(a, b *core.FuncType) bool {
	return a != nil && slices.Equal(a.Params, b.Params) && slices.Equal(a.Results, b.Results)
}

// importTypes imports the world's types, so that those of the hooks have names.
func (w *wrapper) importTypes() {
	iface, named := wasm.TypesOf(w.hooks[0].Package)
	d := newDefs()
	for _, n := range named {
		d.named(n.Name, n.Type)
	}
	at := w.b.importInstance(iface, d)
	w.typesAt = make(map[string]uint32)
	for _, n := range named {
		w.typesAt[n.Name] = w.b.aliasType(at, n.Name)
		w.b.defs.of[n.Type] = w.typesAt[n.Name]
	}
}

// importHost imports the gateway's functions, and WASI's.
func (w *wrapper) importHost() {
	w.hostAt = make(map[string]uint32)
	for _, im := range w.host {
		if _, done := w.hostAt[im.Module]; done {
			continue
		}
		d := newDefs()
		level := wasm.LevelType()
		for _, f := range w.host {
			if f.Module != im.Module {
				continue
			}
			t := wasm.HostType(f.Module, f.Name)
			for _, p := range t.Params {
				if p.Type == level.Type && d.of[level.Type] == 0 {
					d.named(level.Name, level.Type)
				}
			}
			d.function(f.Name, t)
		}
		w.hostAt[im.Module] = w.b.importInstance(im.Module, d)
	}
	if w.adapter != nil {
		w.streams = w.importWASI()
	}
}

// importWASI imports what the adapter calls, and returns the type of output
// streams.
func (w *wrapper) importWASI() (streams uint32) {
	b := w.b
	u8s := component.NewType(component.Type{Kind: component.List, Elem: component.NewType(component.Type{Kind: component.U8})})
	u64 := component.NewType(component.Type{Kind: component.U64})
	add := func(iface string, d *defs) uint32 {
		at := b.importInstance(iface, d)
		w.hostAt[iface] = at
		return at
	}

	d := newDefs()
	d.resource("error")
	failure := b.aliasType(add("wasi:io/error@0.2.0", d), "error")

	d = newDefs()
	err := d.outer("error", failure)
	out := d.resource("output-stream")
	own := d.define(0x69, err)
	d.raw(append(append([]byte{0x71, 2}, appendName(nil, "last-operation-failed")...), append(append(appendU32([]byte{1}, own), 0), append(appendName(nil, "closed"), 0, 0)...)...))
	streamError := d.exportType("stream-error", d.n-1)
	self := d.define(0x68, out)
	bytes := d.value(u8s)
	result := d.n
	d.raw(appendU32([]byte{0x6a, 0, 1}, streamError))
	d.rawFunction("[method]output-stream.blocking-write-and-flush", []string{"self", "contents"}, [][]byte{appendU32(nil, self), bytes}, appendU32(nil, result))
	streams = b.aliasType(add("wasi:io/streams@0.2.0", d), "output-stream")

	for _, name := range []string{"stdout", "stderr"} {
		d = newDefs()
		s := d.define(0x69, d.outer("output-stream", streams))
		d.rawFunction("get-"+name, nil, nil, appendU32(nil, s))
		add("wasi:cli/"+name+"@0.2.0", d)
	}

	d = newDefs()
	d.function("now", &component.FuncType{Result: u64})
	add("wasi:clocks/monotonic-clock@0.2.0", d)

	d = newDefs()
	datetime := component.NewType(component.Type{Kind: component.Record, Fields: []component.Field{
		{Name: "seconds", Type: u64}, {Name: "nanoseconds", Type: component.NewType(component.Type{Kind: component.U32})},
	}})
	d.named("datetime", datetime)
	d.function("now", &component.FuncType{Result: datetime})
	add("wasi:clocks/wall-clock@0.2.0", d)

	d = newDefs()
	d.function("get-random-u64", &component.FuncType{Result: u64})
	add("wasi:random/random@0.2.0", d)
	return streams
}

// instantiate makes the core instances. A function that works on the module's
// memory can be made only when there is one, and the module wants it before: so
// it is given functions that call through a table, which is filled later.
func (w *wrapper) instantiate() {
	b := w.b
	late := slices.Concat(w.host, w.p1)
	mainAt := b.module(stripped(w.m.Binary))
	shim := uint32(0)
	var args []arg
	if len(late) > 0 {
		shim = b.instantiate(b.module(shimModule(late)), nil)
		for i, im := range late {
			args = add(args, im.Module, item{im.Name, core.Func, b.aliasCore(core.Func, shim, slotName(i))})
		}
	}
	w.main = b.instantiate(mainAt, b.bags(args))
	w.memory = b.aliasCore(core.Memory, w.main, memoryName)
	w.realloc = b.aliasCore(core.Func, w.main, reallocName)
	if len(late) > 0 {
		fix := []item{{tableName, core.Table, b.aliasCore(core.Table, shim, tableName)}}
		for i, im := range w.host {
			fix = append(fix, item{slotName(i), core.Func, w.lower(im)})
		}
		if w.adapter != nil {
			adapter := w.adapterInstance()
			for i, im := range w.p1 {
				fix = append(fix, item{slotName(len(w.host) + i), core.Func, b.aliasCore(core.Func, adapter, im.Name)})
			}
		}
		b.instantiate(b.module(fixModule(late)), b.bags([]arg{{"sluice", fix}}))
	}
	for _, name := range []string{w.start, initializeName} {
		if name != "" && w.export(name) != nil {
			b.instantiate(b.module(startModule()), b.bags([]arg{{"sluice", []item{{initializeName, core.Func, b.aliasCore(core.Func, w.main, name)}}}}))
		}
	}
}

// lower makes a core function of one of the host's.
func (w *wrapper) lower(im core.Import) uint32 {
	return w.b.lower(w.b.aliasFunc(w.hostAt[im.Module], im.Name), w.memory, w.realloc)
}

// adapterInstance makes the instance of what speaks WASI preview 1.
func (w *wrapper) adapterInstance() uint32 {
	b := w.b
	var args []arg
	for _, im := range w.adapter.Imports {
		switch {
		case im.Kind == core.Memory:
			args = add(args, im.Module, item{im.Name, core.Memory, w.memory})
		case strings.HasPrefix(im.Name, "[resource-drop]"):
			args = add(args, im.Module, item{im.Name, core.Func, b.drop(w.streams)})
		default:
			args = add(args, im.Module, item{im.Name, core.Func, w.lower(im)})
		}
	}
	return b.instantiate(b.module(adapterBinary), b.bags(args))
}

// lift makes component functions of the hooks and exports them, each in the
// instance that the world has it in.
func (w *wrapper) lift() {
	b := w.b
	_, named := wasm.TypesOf(w.hooks[0].Package)
	slices.SortFunc(w.hooks, func(a, b wasm.Signature) int { return cmp.Compare(a.Hook, b.Hook) })
	for _, h := range w.hooks {
		full := h.Interface + "#" + h.Name
		post := int64(-1)
		if w.export(postPrefix+full) != nil {
			post = int64(b.aliasCore(core.Func, w.main, postPrefix+full))
		}
		f := b.lift(b.aliasCore(core.Func, w.main, full), b.functionType(h.Type), w.memory, w.realloc, post)
		shell, given := w.shell(h, named, f)
		b.exportInstance(h.Interface, b.instantiateComponent(b.component(shell), given))
	}
}

// shell returns a component that exports a function it imports, and the types
// that this is made of: an interface's types are its own, and not those of the
// interface that they were taken over from. given is what it is instantiated
// with; f is the function.
func (w *wrapper) shell(h wasm.Signature, named []component.Field, f uint32) (binary []byte, given []componentItem) {
	b := newBuilder()
	used := make(map[*component.Type]bool)
	reach(h.Type, used)
	for _, n := range named {
		if used[n.Type] {
			b.defs.of[n.Type] = b.importType("import-type-"+n.Name, b.defs.raw(b.defs.definition(n.Type)))
			given = append(given, componentItem{"import-type-" + n.Name, sortType, w.typesAt[n.Name]})
		}
	}
	b.importFunc("import-func-"+h.Name, b.functionType(h.Type))
	given = append(given, componentItem{"import-func-" + h.Name, sortFunc, f})
	for _, n := range named {
		if h.Type.Result == n.Type || slices.ContainsFunc(h.Type.Params, func(p component.Field) bool { return p.Type == n.Type }) {
			b.defs.of[n.Type] = b.exportType(n.Name, b.defs.of[n.Type])
		}
	}
	b.exportFunc(h.Name, 0, b.functionType(h.Type))
	return b.out, given
}

// reach marks the types that f is made of.
func reach(f *component.FuncType, used map[*component.Type]bool) {
	var mark func(t *component.Type)
	mark = func(t *component.Type) {
		if t == nil || used[t] {
			return
		}
		used[t] = true
		mark(t.Elem)
		for _, fs := range [][]component.Field{t.Fields, t.Cases} {
			for _, f := range fs {
				mark(f.Type)
			}
		}
	}
	for _, p := range f.Params {
		mark(p.Type)
	}
	mark(f.Result)
}
