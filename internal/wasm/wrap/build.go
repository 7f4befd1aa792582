package wrap

import (
	"sluice/internal/wasm/component"
	"sluice/internal/wasm/core"
)

// The sections of a component, and the sorts of what it defines (Component
// Model, Binary.md).
const (
	secModule       = 1
	secCoreInstance = 2
	secComponent    = 4
	secInstance     = 5
	secAlias        = 6
	secType         = 7
	secCanon        = 8
	secImport       = 10
	secExport       = 11

	sortFunc     = 1
	sortType     = 3
	sortInstance = 5
)

// A builder writes a component from the front. It counts what stands in each
// index space; each method returns where what it has written stands.
type builder struct {
	out  []byte
	defs *defs // types of the component itself

	modules, components, coreInstances, coreFuncs, coreTables, coreMemories, funcs, instances uint32
}

func newBuilder() *builder {
	b := &builder{out: append([]byte(nil), component.Header...)}
	b.defs = &defs{of: make(map[*component.Type]uint32)}
	b.defs.put = func(def []byte) { b.section(secType, append([]byte{1}, def...)) }
	return b
}

func (b *builder) section(id byte, body []byte) {
	b.out = appendU32(append(b.out, id), uint32(len(body)))
	b.out = append(b.out, body...)
}

func next(n *uint32) uint32 { *n++; return *n - 1 }

func (b *builder) module(binary []byte) uint32 {
	b.section(secModule, binary)
	return next(&b.modules)
}

// importInstance imports an instance of the type that d describes.
func (b *builder) importInstance(name string, d *defs) uint32 {
	t := b.defs.raw(append(appendU32([]byte{0x42}, d.count), d.out...))
	b.section(secImport, appendU32(append(appendName([]byte{1, 0}, name), sortInstance), t))
	return next(&b.instances)
}

func (b *builder) aliasType(inst uint32, name string) uint32 {
	b.section(secAlias, appendName(appendU32([]byte{1, sortType, 0}, inst), name))
	return next(&b.defs.n)
}

func (b *builder) aliasFunc(inst uint32, name string) uint32 {
	b.section(secAlias, appendName(appendU32([]byte{1, sortFunc, 0}, inst), name))
	return next(&b.funcs)
}

func (b *builder) aliasCore(k core.Kind, inst uint32, name string) uint32 {
	b.section(secAlias, appendName(appendU32([]byte{1, 0, byte(k), 1}, inst), name))
	switch k {
	case core.Table:
		return next(&b.coreTables)
	case core.Memory:
		return next(&b.coreMemories)
	}
	return next(&b.coreFuncs)
}

// An item is a core definition under a name, an arg some of them under the name
// of a module.
type item struct {
	name string
	kind core.Kind
	at   uint32
}
type arg struct {
	module string
	items  []item
}

func add(args []arg, module string, it item) []arg {
	for i := range args {
		if args[i].module == module {
			args[i].items = append(args[i].items, it)
			return args
		}
	}
	return append(args, arg{module, []item{it}})
}

// A given is what a core module gets for one of its imports' modules.
type given struct {
	module string
	inst   uint32
}

// bags makes core instances of items.
func (b *builder) bags(args []arg) []given {
	var gs []given
	for _, a := range args {
		body := appendU32([]byte{1, 1}, uint32(len(a.items)))
		for _, it := range a.items {
			body = appendU32(append(appendName(body, it.name), byte(it.kind)), it.at)
		}
		b.section(secCoreInstance, body)
		gs = append(gs, given{a.module, next(&b.coreInstances)})
	}
	return gs
}

func (b *builder) instantiate(module uint32, args []given) uint32 {
	body := appendU32(appendU32([]byte{1, 0}, module), uint32(len(args)))
	for _, g := range args {
		body = appendU32(append(appendName(body, g.module), 0x12), g.inst)
	}
	b.section(secCoreInstance, body)
	return next(&b.coreInstances)
}

func options(memory, realloc uint32, post int64) []byte {
	n := byte(3)
	if post >= 0 {
		n++
	}
	o := appendU32(append(appendU32([]byte{n, 0, 3}, memory), 4), realloc)
	if post >= 0 {
		o = appendU32(append(o, 5), uint32(post))
	}
	return o
}

func (b *builder) lower(f, memory, realloc uint32) uint32 {
	b.section(secCanon, append(appendU32([]byte{1, 1, 0}, f), options(memory, realloc, -1)...))
	return next(&b.coreFuncs)
}

func (b *builder) drop(resource uint32) uint32 {
	b.section(secCanon, appendU32([]byte{1, 3}, resource))
	return next(&b.coreFuncs)
}

// lift makes a component function; post is -1 for none.
func (b *builder) lift(f, typ, memory, realloc uint32, post int64) uint32 {
	b.section(secCanon, appendU32(append(appendU32([]byte{1, 0, 0}, f), options(memory, realloc, post)...), typ))
	return next(&b.funcs)
}

func (b *builder) functionType(t *component.FuncType) uint32 { return b.defs.raw(b.defs.funcType(t)) }

// A componentItem is a definition of a component under a name.
type componentItem struct {
	name string
	sort byte
	at   uint32
}

// component adds a component within the component.
func (b *builder) component(binary []byte) uint32 {
	b.section(secComponent, binary)
	return next(&b.components)
}

func (b *builder) instantiateComponent(at uint32, given []componentItem) uint32 {
	body := appendU32(appendU32([]byte{1, 0}, at), uint32(len(given)))
	for _, it := range given {
		body = appendU32(append(appendName(body, it.name), it.sort), it.at)
	}
	b.section(secInstance, body)
	return next(&b.instances)
}

// importType imports a type that is equal to another, and has a name.
func (b *builder) importType(name string, t uint32) uint32 {
	b.section(secImport, appendU32(append(appendName([]byte{1, 0}, name), sortType, 0), t))
	return next(&b.defs.n)
}

func (b *builder) importFunc(name string, t uint32) uint32 {
	b.section(secImport, appendU32(append(appendName([]byte{1, 0}, name), sortFunc), t))
	return next(&b.funcs)
}

func (b *builder) exportType(name string, t uint32) uint32 {
	b.section(secExport, append(appendU32(append(appendName([]byte{1, 0}, name), sortType), t), 0))
	return next(&b.defs.n)
}

// exportFunc exports a function as one of type t.
func (b *builder) exportFunc(name string, f, t uint32) {
	b.section(secExport, appendU32(append(appendU32(append(appendName([]byte{1, 0}, name), sortFunc), f), 1, sortFunc), t))
	b.funcs++
}

func (b *builder) exportInstance(name string, inst uint32) {
	b.section(secExport, append(appendU32(append(appendName([]byte{1, 0}, name), sortInstance), inst), 0))
	b.instances++ // an export is a definition too
}

// A defs writes definitions of types into one index space.
type defs struct {
	out   []byte // declarations, of the type of an instance
	count uint32 // of them
	n     uint32 // types that there are
	of    map[*component.Type]uint32
	put   func(def []byte)
}

// newDefs returns those of the type of an instance.
func newDefs() *defs {
	d := &defs{of: make(map[*component.Type]uint32)}
	d.put = func(def []byte) { d.declare(append([]byte{1}, def...)) }
	return d
}

func (d *defs) declare(decl []byte) {
	d.out = append(d.out, decl...)
	d.count++
}

// raw writes a definition.
func (d *defs) raw(def []byte) uint32 {
	d.put(def)
	return next(&d.n)
}

// define writes a definition that is a form and the index of a type.
func (d *defs) define(form byte, t uint32) uint32 { return d.raw(appendU32([]byte{form}, t)) }

// exportType gives a type a name, by which it is another type.
func (d *defs) exportType(name string, t uint32) uint32 {
	d.declare(appendU32(append(appendName([]byte{4, 0}, name), sortType, 0), t))
	return next(&d.n)
}

// resource declares a resource.
func (d *defs) resource(name string) uint32 {
	d.declare(append(appendName([]byte{4, 0}, name), sortType, 1))
	return next(&d.n)
}

// outer takes a type of the component over, under a name.
func (d *defs) outer(name string, t uint32) uint32 {
	d.declare(appendU32([]byte{2, sortType, 2, 1}, t))
	return d.exportType(name, next(&d.n))
}

// named defines t and gives it a name.
func (d *defs) named(name string, t *component.Type) {
	d.of[t] = d.exportType(name, d.raw(d.definition(t)))
}

// function declares a function.
func (d *defs) function(name string, t *component.FuncType) { d.declareFunction(name, d.funcType(t)) }

func (d *defs) rawFunction(name string, params []string, types [][]byte, result []byte) {
	def := appendU32([]byte{0x40}, uint32(len(params)))
	for i, p := range params {
		def = append(appendName(def, p), types[i]...)
	}
	d.declareFunction(name, append(append(def, 0), result...))
}

func (d *defs) declareFunction(name string, def []byte) {
	t := d.raw(def)
	d.declare(appendU32(append(appendName([]byte{4, 0}, name), sortFunc), t))
}

func (d *defs) funcType(t *component.FuncType) []byte {
	def := appendU32([]byte{0x40}, uint32(len(t.Params)))
	for _, p := range t.Params {
		def = append(appendName(def, p.Name), d.value(p.Type)...)
	}
	if t.Result == nil {
		return append(def, 1, 0)
	}
	return append(append(def, 0), d.value(t.Result)...)
}

// value writes which type it is, and its definition if it has none yet.
func (d *defs) value(t *component.Type) []byte {
	if c, ok := primitives[t.Kind]; ok {
		return []byte{c}
	}
	at, ok := d.of[t]
	if !ok {
		at = d.raw(d.definition(t))
		d.of[t] = at
	}
	return appendU32(nil, at)
}

var primitives = map[component.Kind]byte{
	component.Bool: 0x7f, component.S8: 0x7e, component.U8: 0x7d, component.S16: 0x7c, component.U16: 0x7b, component.S32: 0x7a, component.U32: 0x79,
	component.S64: 0x78, component.U64: 0x77, component.F32: 0x76, component.F64: 0x75, component.Char: 0x74, component.String: 0x73,
}

// definition writes what t is. The worlds have no other forms of types.
func (d *defs) definition(t *component.Type) (def []byte) {
	switch t.Kind {
	case component.Record:
		def = appendU32([]byte{0x72}, uint32(len(t.Fields)))
		for _, f := range t.Fields {
			def = append(appendName(def, f.Name), d.value(f.Type)...)
		}
	case component.Variant:
		def = appendU32([]byte{0x71}, uint32(len(t.Cases)))
		for _, c := range t.Cases {
			def = appendName(def, c.Name)
			if c.Type == nil {
				def = append(def, 0, 0)
			} else {
				def = append(append(append(def, 1), d.value(c.Type)...), 0)
			}
		}
	case component.Enum:
		def = appendU32([]byte{0x6d}, uint32(len(t.Cases)))
		for _, c := range t.Cases {
			def = appendName(def, c.Name)
		}
	case component.List:
		def = append([]byte{0x70}, d.value(t.Elem)...)
	case component.Option:
		def = append([]byte{0x6b}, d.value(t.Elem)...)
	default:
		panic("BUG: a world has a type of another form")
	}
	return def
}

func appendU32(b []byte, v uint32) []byte {
	for ; v >= 0x80; v >>= 7 {
		b = append(b, byte(v)|0x80)
	}
	return append(b, byte(v))
}

func appendName(b []byte, s string) []byte { return append(appendU32(b, uint32(len(s))), s...) }
