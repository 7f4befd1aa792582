package component

import (
	"slices"

	"sluice/internal/wasm/core"
)

// A linker walks a component and writes a Plan. Instantiating a component that
// is nested in another is to walk it, with what its imports are.
type linker struct {
	plan    *Plan
	modules map[int]int              // in the Plan, by their offset
	exports []map[string]core.Export // of the Plan's modules
	imports map[[2]string]*Func
	wanted  map[*Func]bool // those that are in the Plan's Imports
	work    int            // steps that are left
	walked  int            // bytes of nested components that may still be walked
	code    int            // bytes of core modules that may still be instantiated
	depth   int
}

// A sort is a kind of definition; each has an index space.
type sort byte

const (
	coreFunc sort = iota
	coreTable
	coreMemory
	coreGlobal
	coreType
	coreModule
	coreInstance
	function
	value
	typ
	componentSort
	instance
	sorts
)

var sortNames = [...]string{"core function", "core table", "core memory", "core global", "core type", "core module", "core instance", "function", "value", "type", "component", "instance"}

// What the entries of the index spaces are, by sort:
//
//	coreFunc, coreTable, coreMemory, coreGlobal  *Item
//	coreModule     int, in Plan.Modules
//	coreInstance   *coreInst
//	function       *Func
//	typ            *Type, *FuncType, *Resource, *interfaceType or *nested
//	componentSort  *nested
//	instance       *inst
//	an entry that nothing may be done with is opaque
type opaque struct{ what string }

// A coreInst is a core instance, or some items under names.
type coreInst struct {
	index int // in Plan.Instances, -1 for items
	items map[string]*Item
}

// An inst is a component instance: its exports by name.
type inst struct {
	exports map[string]entry
	order   []string
}

// An entry is something with a sort.
type entry struct {
	sort sort
	v    any
}

// An interfaceType is the type of an instance.
type interfaceType struct {
	exports map[string]entry // what is described: for functions *FuncType, for instances *interfaceType
	order   []string
}

// A nested is a component, in the scope that it stands in. What that scope got
// later is not in its reach, least of all the component itself.
type nested struct {
	binary []byte
	offset int
	outer  *scope
	reach  [sorts]int // entries of outer's index spaces
}

// A scope is the index spaces of a component, or of a type that describes one.
type scope struct {
	l       *linker
	kind    scopeKind
	outer   *scope
	reach   [sorts]int // entries of outer's index spaces that it may name
	spaces  [sorts][]any
	imports *inst // what the imports are; nil for the outermost component, whose imports are the host's
	exports inst
}

type scopeKind byte

const (
	ofComponent scopeKind = iota
	ofType
)

// add puts v into its index space.
func (s *scope) add(r *core.Reader, k sort, v any) {
	if len(s.spaces[k]) >= maxSpace {
		r.Fail("more than %d definitions of sort %s", maxSpace, sortNames[k])
	}
	if s.l.toil(r, 1); r.Err() == nil {
		s.spaces[k] = append(s.spaces[k], v)
	}
}

// toil counts n steps, and fails r when there have been too many.
func (l *linker) toil(r *core.Reader, n int) {
	if l.work -= n; l.work < 0 {
		r.Fail("more definitions than a component of its size may have")
	}
}

// count takes the length of a list whose elements have least bytes or more, and
// counts a step for each.
func (l *linker) count(r *core.Reader, least int) int {
	n := r.Count(least)
	if l.toil(r, n); r.Err() != nil {
		return 0
	}
	return n
}

// sizes is how many entries s's index spaces have.
func (s *scope) sizes() (n [sorts]int) {
	for k := range n {
		n[k] = len(s.spaces[k])
	}
	return n
}

// at returns an entry of an index space; nil, and r fails, if there is none.
func (s *scope) at(r *core.Reader, k sort, i uint32) any {
	if int64(i) >= int64(len(s.spaces[k])) {
		r.Fail("%s %d of %d", sortNames[k], i, len(s.spaces[k]))
		return nil
	}
	return s.spaces[k][i]
}

// get returns an entry of an index space that is a T.
func get[T any](s *scope, r *core.Reader, k sort, i uint32, what string) (v T) {
	e := s.at(r, k, i)
	if r.Err() != nil {
		return v
	}
	v, ok := e.(T)
	if !ok {
		if o, is := e.(opaque); is {
			r.Fail("%s %d is %s", sortNames[k], i, o.what)
		} else {
			r.Fail("%s %d is not %s", sortNames[k], i, what)
		}
	}
	return v
}

// sortOf takes a sort.
func sortOf(r *core.Reader) sort {
	switch c := r.Byte(); c {
	case 0:
		return coreSort(r)
	case 1:
		return function
	case 2:
		return value
	case 3:
		return typ
	case 4:
		return componentSort
	case 5:
		return instance
	default:
		r.Fail("unknown sort %#x", c)
	}
	return value
}

func coreSort(r *core.Reader) sort {
	switch c := r.Byte(); c {
	case 0, 1, 2, 3:
		return sort(c)
	case 0x10:
		return coreType
	case 0x11:
		return coreModule
	case 0x12:
		return coreInstance
	case 4:
		r.Fail("exception tags are not supported")
	default:
		r.Fail("unknown core sort %#x", c)
	}
	return coreFunc
}

// nameOf takes the name of an import or export.
func nameOf(r *core.Reader) string {
	switch c := r.Byte(); c {
	case 0, 1:
		return r.Name()
	default:
		r.Fail("a name of form %#x is not supported", c)
	}
	return ""
}

// put adds an export.
func (x *inst) put(r *core.Reader, name string, e entry) {
	if x.exports == nil {
		x.exports = make(map[string]entry)
	}
	if _, twice := x.exports[name]; twice {
		r.Fail("two exports named %.64q", name)
		return
	}
	x.exports[name] = e
	x.order = append(x.order, name)
}

// component walks the sections of a component.
func (s *scope) component(r *core.Reader) {
	for r.More() {
		id := r.Byte()
		p := r.Part()
		if s.l.toil(r, 1); r.Err() != nil {
			return
		}
		s.section(id, p)
		r.FailWith(p.Err())
	}
}

// section walks one section.
func (s *scope) section(id byte, r *core.Reader) {
	each := func(least int, f func(*core.Reader)) {
		for range s.l.count(r, least) {
			if f(r); r.Err() != nil {
				return
			}
		}
	}
	switch id {
	case 0: // custom
		return
	case 1:
		s.module(r)
		return
	case 2:
		each(2, s.coreInstance)
	case 3:
		r.Fail("core types are not supported")
	case 4:
		b := r.Bytes(r.Left())
		s.add(r, componentSort, &nested{binary: b, offset: r.Offset() - len(b), outer: s, reach: s.sizes()})
		return
	case 5:
		each(2, s.instance)
	case 6:
		each(3, s.alias)
	case 7:
		each(1, s.defineType)
	case 8:
		each(2, s.canon)
	case 9:
		r.Fail("start functions are not supported")
	case 10:
		each(3, s.imported)
	case 11:
		each(4, s.exported)
	case 12:
		r.Fail("values are not supported")
	default:
		r.Fail("unknown section %d", id)
	}
	if r.More() {
		r.Fail("section %d is longer than what is in it", id)
	}
}

// module notes a core module. One that stands in a nested component is the same
// however often that is instantiated.
func (s *scope) module(r *core.Reader) {
	at := r.Offset()
	i, known := s.l.modules[at]
	if !known {
		if len(s.l.plan.Modules) >= maxModules {
			r.Fail("more than %d core modules", maxModules)
			return
		}
		m, err := core.Decode(r.Bytes(r.Left()), at)
		if err != nil {
			r.FailWith(err)
			return
		}
		i = len(s.l.plan.Modules)
		s.l.plan.Modules = append(s.l.plan.Modules, m)
		exports := make(map[string]core.Export, len(m.Exports))
		for _, e := range m.Exports {
			exports[e.Name] = e
		}
		s.l.exports = append(s.l.exports, exports)
		s.l.modules[at] = i
	}
	s.add(r, coreModule, i)
}

// coreInstance takes the definition of a core instance.
func (s *scope) coreInstance(r *core.Reader) {
	switch c := r.Byte(); c {
	case 0:
		module := get[int](s, r, coreModule, r.U32(), "a core module")
		args := make(map[string]*coreInst)
		for range s.l.count(r, 3) {
			name := r.Name()
			if k := r.Byte(); k != 0x12 {
				r.Fail("an argument of core sort %#x; only instances can be", k)
			}
			if args[name] != nil {
				r.Fail("two arguments named %.64q", name)
			}
			args[name] = get[*coreInst](s, r, coreInstance, r.U32(), "a core instance")
			if r.Err() != nil {
				return
			}
		}
		if r.Err() == nil {
			s.instantiateCore(r, module, args)
		}
	case 1:
		x := &coreInst{index: -1, items: make(map[string]*Item)}
		for range s.l.count(r, 3) {
			name := r.Name()
			k := sort(r.Byte())
			if k > coreGlobal {
				r.Fail("an export of core sort %#x is not supported", byte(k))
			}
			if x.items[name] != nil {
				r.Fail("two exports named %.64q", name)
			}
			if r.Err() != nil {
				return
			}
			x.items[name] = get[*Item](s, r, k, r.U32(), "a core item")
		}
		s.add(r, coreInstance, x)
	default:
		r.Fail("unknown core instance form %#x", c)
	}
}

// instantiateCore links a core module to args.
func (s *scope) instantiateCore(r *core.Reader, module int, args map[string]*coreInst) {
	p := s.l.plan
	m := p.Modules[module]
	if len(p.Instances) >= maxInstances {
		r.Fail("more than %d core instances", maxInstances)
		return
	}
	if s.l.code -= len(m.Binary); s.l.code < 0 {
		r.Fail("core modules are instantiated so often that it is more code than a component of its size may have")
		return
	}
	if s.l.toil(r, len(m.Imports)); r.Err() != nil {
		return
	}
	in := Instance{Module: module, Imports: make([]Item, 0, len(m.Imports))}
	for _, im := range m.Imports {
		a := args[im.Module]
		if a == nil {
			r.Fail("core import %.64q of %.64q has no argument", im.Name, im.Module)
			return
		}
		it := s.l.item(a, im.Name)
		switch {
		case it == nil:
			r.Fail("core import %.64q is not in argument %.64q", im.Name, im.Module)
			return
		case it.Kind != im.Kind:
			r.Fail("core import %.64q of %.64q wants a %s and gets a %s", im.Name, im.Module, im.Kind, it.Kind)
			return
		}
		if im.Kind == core.Func && !s.l.fits(it, im.Type) {
			r.Fail("core import %.64q of %.64q has another type than what it gets", im.Name, im.Module)
			return
		}
		in.Imports = append(in.Imports, *it)
	}
	p.Instances = append(p.Instances, in)
	s.add(r, coreInstance, &coreInst{index: len(p.Instances) - 1})
}

// item finds what a core instance exports under name, nil if it does not.
func (l *linker) item(x *coreInst, name string) *Item {
	if x.index < 0 {
		return x.items[name]
	}
	e := l.coreExport(x.index, name)
	if e == nil {
		return nil
	}
	return &Item{Kind: e.Kind, Instance: x.index, Name: name}
}

func (l *linker) coreExport(instance int, name string) *core.Export {
	e, ok := l.exports[l.plan.Instances[instance].Module][name]
	if !ok {
		return nil
	}
	return &e
}

// fits reports whether a function item has type t. A builtin gets its type from
// its first import.
func (l *linker) fits(it *Item, t *core.FuncType) bool {
	if it.Builtin == nil {
		e := l.coreExport(it.Instance, it.Name)
		return e != nil && sameCore(e.Type, t)
	}
	if it.Builtin.Type == nil {
		if want := it.Builtin.coreType(); !sameCore(want, t) {
			return false
		}
		it.Builtin.Type = t
	}
	return sameCore(it.Builtin.Type, t)
}

func sameCore(a, b *core.FuncType) bool {
	return a != nil && b != nil && slices.Equal(a.Params, b.Params) && slices.Equal(a.Results, b.Results)
}
