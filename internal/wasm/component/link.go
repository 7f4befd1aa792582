package component

import (
	"strings"

	"sluice/internal/wasm/core"
)

// alias takes a name for something that stands elsewhere.
func (s *scope) alias(r *core.Reader) {
	k := sortOf(r)
	switch c := r.Byte(); c {
	case 0:
		x := get[*inst](s, r, instance, r.U32(), "an instance")
		name := r.Name()
		if r.Err() != nil {
			return
		}
		e, ok := x.exports[name]
		switch {
		case !ok:
			r.Fail("the instance exports no %.64q", name)
		case e.sort != k:
			r.Fail("%.64q is a %s, not a %s", name, sortNames[e.sort], sortNames[k])
		default:
			s.add(r, k, e.v)
		}
	case 1:
		x := get[*coreInst](s, r, coreInstance, r.U32(), "a core instance")
		name := r.Name()
		if r.Err() != nil {
			return
		}
		it := s.l.item(x, name)
		switch {
		case it == nil:
			r.Fail("the core instance exports no %.64q", name)
		case sort(it.Kind) != k:
			r.Fail("%.64q is a %s, not a %s", name, it.Kind, sortNames[k])
		default:
			s.add(r, k, it)
		}
	case 2:
		count, i := r.U32(), r.U32()
		from, reach := s, s.sizes()
		for ; count > 0 && from != nil; count-- {
			from, reach = from.outer, from.reach
		}
		if from == nil {
			r.Fail("an alias of what stands outside of everything")
			return
		}
		if k != typ && k != coreModule && k != componentSort {
			r.Fail("an outer alias of sort %s", sortNames[k])
			return
		}
		if int64(i) >= int64(reach[k]) {
			r.Fail("an outer alias of %s %d of %d", sortNames[k], i, reach[k])
			return
		}
		s.add(r, k, from.at(r, k, i))
	default:
		r.Fail("unknown alias form %#x", c)
	}
}

// instance takes the definition of an instance.
func (s *scope) instance(r *core.Reader) {
	switch c := r.Byte(); c {
	case 0:
		n := get[*nested](s, r, componentSort, r.U32(), "a component")
		args := s.items(r, (*core.Reader).Name)
		if r.Err() == nil {
			s.add(r, instance, s.instantiate(r, n, args))
		}
	case 1:
		s.add(r, instance, s.items(r, nameOf))
	default:
		r.Fail("unknown instance form %#x", c)
	}
}

// items takes a list of definitions under names.
func (s *scope) items(r *core.Reader, name func(*core.Reader) string) *inst {
	x := new(inst)
	for range s.l.count(r, 3) {
		n := name(r)
		k := sortOf(r)
		v := s.at(r, k, r.U32())
		if r.Err() != nil {
			break
		}
		x.put(r, n, entry{k, v})
	}
	return x
}

// instantiate walks a nested component whose imports are args.
func (s *scope) instantiate(r *core.Reader, n *nested, args *inst) *inst {
	l := s.l
	l.depth++
	defer func() { l.depth-- }()
	if l.depth > maxNesting {
		r.Fail("components nested more than %d deep", maxNesting)
		return nil
	}
	if !Is(n.binary) {
		r.Fail("the nested component at offset %#x does not begin as one", n.offset)
		return nil
	}
	if l.walked -= len(n.binary); l.walked < 0 {
		r.Fail("nested components are instantiated so often that it is more than a component of its size may have")
		return nil
	}
	in := &scope{l: l, kind: ofComponent, outer: n.outer, reach: n.reach, imports: args}
	body := core.NewReader(n.binary[len(Header):], n.offset+len(Header))
	in.component(body)
	r.FailWith(body.Err())
	return &in.exports
}

// imported takes an import.
func (s *scope) imported(r *core.Reader) {
	name := nameOf(r)
	e := s.description(r, name)
	if r.Err() != nil {
		return
	}
	if s.imports != nil {
		s.given(r, name, e)
		return
	}
	switch e.sort {
	case function:
		s.add(r, function, s.l.imported("", name, e.v.(*FuncType)))
	case instance:
		s.add(r, instance, s.l.hostInstance(r, name, e.v.(*interfaceType)))
	default:
		s.add(r, e.sort, e.v)
	}
}

// given binds the import of a nested component to its argument.
func (s *scope) given(r *core.Reader, name string, want entry) {
	got, ok := s.imports.exports[name]
	switch {
	case !ok && want.sort == typ:
		s.add(r, typ, want.v) // who instantiates it may leave types out that are equal to others
	case !ok:
		r.Fail("the import %.64q of a nested component is not given", name)
	case got.sort != want.sort:
		r.Fail("the import %.64q is given a %s, not a %s", name, sortNames[got.sort], sortNames[want.sort])
	default:
		if f, isFunc := got.v.(*Func); isFunc && !similar(f.Type, want.v.(*FuncType)) {
			r.Fail("the import %.64q is given a function of another type", name)
			return
		}
		s.add(r, got.sort, got.v)
	}
}

// similar reports whether a function of type a can be called as one of type b.
// Handles are not compared: within a component's type a resource is another.
func similar(a, b *FuncType) bool {
	x, y := a.Core(false), b.Core(false)
	return len(a.Params) == len(b.Params) && (a.Result == nil) == (b.Result == nil) && sameCore(x, y)
}

// hostInstance makes the functions of an instance that the host gives.
func (l *linker) hostInstance(r *core.Reader, name string, t *interfaceType) *inst {
	x := &inst{exports: make(map[string]entry), order: t.order}
	for _, n := range t.order {
		if l.toil(r, 1); r.Err() != nil {
			return x
		}
		e := t.exports[n]
		switch v := e.v.(type) {
		case *FuncType:
			e.v = l.imported(name, n, v)
		case *interfaceType:
			e.v = l.hostInstance(r, n, v)
		case *Resource:
			if !strings.Contains(v.Name, "#") {
				v.Name = name + "#" + n
			}
		}
		x.exports[n] = e
	}
	return x
}

// imported returns a function that is wanted of the host. It is in the Plan once
// it is lowered: what is imported and not used is nobody's concern.
func (l *linker) imported(iface, name string, t *FuncType) *Func {
	key := [2]string{iface, name}
	if f := l.imports[key]; f != nil {
		return f
	}
	f := &Func{Interface: iface, Name: name, Type: t}
	l.imports[key] = f
	return f
}

// exported takes an export, which is a new entry of its index space too.
func (s *scope) exported(r *core.Reader) {
	name := nameOf(r)
	k := sortOf(r)
	v := s.at(r, k, r.U32())
	switch r.Byte() {
	case 0:
	case 1:
		if d := s.description(r, name); r.Err() == nil && d.sort != k {
			r.Fail("export %.64q is a %s and is said to be a %s", name, sortNames[k], sortNames[d.sort])
		}
	default:
		r.Fail("an export of unknown form")
	}
	if r.Err() != nil {
		return
	}
	s.exports.put(r, name, entry{k, v})
	s.add(r, k, v)
}

// canon takes the definition of a function that crosses the border between core
// modules and components.
func (s *scope) canon(r *core.Reader) {
	switch c := r.Byte(); c {
	case 0:
		s.lift(r)
	case 1:
		s.lower(r)
	case 2, 3, 4:
		res := get[*Resource](s, r, typ, r.U32(), "a resource")
		op := map[byte]Op{2: ResourceNew, 3: ResourceDrop, 4: ResourceRep}[c]
		if r.Err() == nil && op != ResourceDrop && res.owner != s {
			r.Fail("a handle of a resource that the component does not define")
		}
		s.add(r, coreFunc, &Item{Kind: core.Func, Builtin: &Builtin{Op: op, Resource: res}})
	default:
		r.Fail("canonical function %#x is not supported", c)
	}
}

func (s *scope) lift(r *core.Reader) {
	if r.Byte() != 0 {
		r.Fail("unknown form of lift")
	}
	f := s.exportedBy(r, "lifted")
	o := s.options(r)
	t := get[*FuncType](s, r, typ, r.U32(), "the type of a function")
	if r.Err() != nil {
		return
	}
	if !s.l.fits(f, t.Core(false)) {
		r.Fail("the core function has another type than %s needs", t)
		return
	}
	memory, realloc := t.UsesMemory()
	checkOptions(r, o, memory, realloc)
	if o.PostReturn != nil && !s.l.fits(o.PostReturn, &core.FuncType{Params: t.Core(false).Results}) {
		r.Fail("post-return does not take what the core function returns")
	}
	s.add(r, function, &Func{Type: t, Core: f, Options: o})
}

func (s *scope) lower(r *core.Reader) {
	if r.Byte() != 0 {
		r.Fail("unknown form of lower")
	}
	f := get[*Func](s, r, function, r.U32(), "a function")
	o := s.options(r)
	if r.Err() != nil {
		return
	}
	memory, _ := f.Type.UsesMemory()
	checkOptions(r, o, memory, f.Type.Result.hasPointer())
	if o.PostReturn != nil {
		r.Fail("a function that is lowered has no post-return")
	}
	if f.Core == nil && !s.l.wanted[f] {
		s.l.wanted[f] = true
		s.l.plan.Imports = append(s.l.plan.Imports, f)
	}
	s.add(r, coreFunc, &Item{Kind: core.Func, Builtin: &Builtin{Op: Lower, Func: f, Options: o}})
}

// checkOptions holds that what a function needs is there.
func checkOptions(r *core.Reader, o Options, memory, realloc bool) {
	switch {
	case memory && o.Memory == nil:
		r.Fail("a function whose values pass through memory has none")
	case realloc && o.Realloc == nil:
		r.Fail("a function that is given strings or lists has no realloc")
	}
}

// options takes where a function's values are.
func (s *scope) options(r *core.Reader) (o Options) {
	seen := make(map[byte]bool)
	for range r.Count(1) {
		c := r.Byte()
		if seen[c] {
			r.Fail("canonical option %#x stands twice", c)
			return o
		}
		seen[c] = true
		switch c {
		case 0:
		case 1, 2:
			r.Fail("strings in another encoding than UTF-8 are not supported")
		case 3:
			o.Memory = get[*Item](s, r, coreMemory, r.U32(), "a memory")
		case 4:
			o.Realloc = s.realloc(r)
		case 5:
			o.PostReturn = s.exportedBy(r, "post-return")
		case 6, 7:
			r.Fail("asynchronous functions are not supported")
		default:
			r.Fail("canonical option %#x is not supported", c)
		}
	}
	return o
}

// exportedBy takes the index of a core function that a core module exports. The
// others are the host's own, which it does not call for what as says.
func (s *scope) exportedBy(r *core.Reader, as string) *Item {
	it := get[*Item](s, r, coreFunc, r.U32(), "a core function")
	if r.Err() == nil && it.Builtin != nil {
		r.Fail("a function of the host as %s is not supported", as)
	}
	return it
}

// realloc takes the index of an allocator.
func (s *scope) realloc(r *core.Reader) *Item {
	it := s.exportedBy(r, "realloc")
	want := &core.FuncType{Params: []core.ValType{core.I32, core.I32, core.I32, core.I32}, Results: []core.ValType{core.I32}}
	if r.Err() == nil && !s.l.fits(it, want) {
		r.Fail("realloc has another type than (i32, i32, i32, i32) -> i32")
	}
	return it
}

// export writes the functions of x into the Plan, those of instances within it
// under their names.
func (l *linker) export(r *core.Reader, x inst, iface string) {
	for _, name := range x.order {
		if l.toil(r, 1); r.Err() != nil {
			return
		}
		switch v := x.exports[name].v.(type) {
		case *Func:
			l.plan.Exports = append(l.plan.Exports, Export{Interface: iface, Name: name, Func: v})
		case *inst:
			if iface == "" {
				l.export(r, *v, name)
			}
		}
	}
}
