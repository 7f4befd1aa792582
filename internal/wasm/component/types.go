package component

import "sluice/internal/wasm/core"

// defineType takes the definition of a type.
func (s *scope) defineType(r *core.Reader) {
	switch c := r.Peek(); c {
	case 0x40:
		r.Byte()
		s.add(r, typ, s.funcType(r))
	case 0x41:
		r.Byte()
		s.skipComponentType(r)
		s.add(r, typ, opaque{"the type of a component"})
	case 0x42:
		r.Byte()
		s.add(r, typ, s.instanceType(r))
	case 0x3f:
		r.Byte()
		s.resource(r)
	case 0x43:
		r.Fail("asynchronous functions are not supported")
	default:
		s.add(r, typ, s.definedType(r))
	}
}

// resource takes the definition of a resource.
func (s *scope) resource(r *core.Reader) {
	if rep := r.Byte(); rep != byte(core.I32) {
		r.Fail("a resource represented by %#x; only i32 is supported", rep)
	}
	if s.kind != ofComponent {
		r.Fail("a resource is defined within a type")
		return
	}
	res := &Resource{owner: s}
	switch r.Byte() {
	case 0:
	case 1:
		res.Dtor = s.exportedBy(r, "destructor")
		if r.Err() == nil && !s.l.fits(res.Dtor, &core.FuncType{Params: []core.ValType{core.I32}}) {
			r.Fail("a destructor has another type than (i32)")
		}
	default:
		r.Fail("a destructor of unknown form")
	}
	s.l.plan.Resources = append(s.l.plan.Resources, res)
	s.add(r, typ, res)
}

// valueType takes a value type: a primitive one, or the index of another.
func (s *scope) valueType(r *core.Reader) *Type {
	if t := primitive(r.Peek()); t != nil {
		r.Byte()
		return t
	}
	i := r.U32()
	t := get[*Type](s, r, typ, i, "a type of values")
	if t == nil {
		return primitives[Bool] // r has failed; who goes on finds no nil
	}
	return t
}

// primitive returns the primitive type that c stands for, nil for none.
func primitive(c byte) *Type {
	kinds := [...]Kind{0x73: String, 0x74: Char, 0x75: F64, 0x76: F32, 0x77: U64, 0x78: S64, 0x79: U32, 0x7a: S32, 0x7b: U16, 0x7c: S16, 0x7d: U8, 0x7e: S8, 0x7f: Bool}
	if int(c) >= len(kinds) || kinds[c] == 0 {
		return nil
	}
	return primitives[kinds[c]]
}

// definedType takes the definition of a value type.
func (s *scope) definedType(r *core.Reader) *Type {
	if t := primitive(r.Peek()); t != nil {
		r.Byte()
		return t
	}
	t := new(Type)
	switch c := r.Byte(); c {
	case 0x72:
		t.Kind = Record
		for range s.parts(r, 2) {
			t.Fields = append(t.Fields, Field{Name: r.Name(), Type: s.valueType(r)})
		}
	case 0x71:
		t.Kind = Variant
		for range s.parts(r, 3) {
			t.Cases = append(t.Cases, Field{Name: r.Name(), Type: s.optional(r)})
			if r.Byte() != 0 {
				r.Fail("a case that refines another is not supported")
			}
		}
	case 0x70:
		t.Kind, t.Elem = List, s.valueType(r)
	case 0x6f:
		t.Kind = Tuple
		for range s.parts(r, 1) {
			t.Fields = append(t.Fields, Field{Type: s.valueType(r)})
		}
	case 0x6e, 0x6d:
		t.Kind = Flags
		if c == 0x6d {
			t.Kind = Enum
		}
		for range s.parts(r, 1) {
			t.Cases = append(t.Cases, Field{Name: r.Name()})
		}
	case 0x6b:
		t.Kind, t.Elem = Option, s.valueType(r)
		t.Cases = []Field{{Name: "none"}, {Name: "some", Type: t.Elem}}
	case 0x6a:
		t.Kind = Result
		t.Cases = []Field{{Name: "ok", Type: s.optional(r)}, {Name: "error", Type: s.optional(r)}}
	case 0x69, 0x68:
		t.Kind = Own
		if c == 0x68 {
			t.Kind = Borrow
		}
		t.Resource = get[*Resource](s, r, typ, r.U32(), "a resource")
	case 0x67:
		r.Fail("lists of fixed length are not supported")
	case 0x66, 0x65:
		r.Fail("streams and futures are not supported")
	case 0x64:
		r.Fail("error contexts are not supported")
	default:
		r.Fail("unknown type %#x", c)
	}
	if r.Err() != nil {
		return primitives[Bool]
	}
	switch {
	case (t.Kind == Record || t.Kind == Tuple) && len(t.Fields) == 0, (t.Kind == Variant || t.Kind == Enum) && len(t.Cases) == 0:
		r.Fail("a %s of nothing", kindNames[t.Kind])
	default:
		if err := t.seal(); err != nil {
			r.Fail("%v", err)
		}
	}
	return t
}

// parts takes how many parts a type has.
func (s *scope) parts(r *core.Reader, least int) int {
	n := s.l.count(r, least)
	if n > maxNodes {
		r.Fail("a type of more than %d parts", maxNodes)
		return 0
	}
	return n
}

// optional takes a value type that may be left out.
func (s *scope) optional(r *core.Reader) *Type {
	switch r.Byte() {
	case 0:
	case 1:
		return s.valueType(r)
	default:
		r.Fail("an optional type of unknown form")
	}
	return nil
}

// funcType takes the type of a function.
func (s *scope) funcType(r *core.Reader) *FuncType {
	f := new(FuncType)
	flat := 0
	for range s.l.count(r, 2) {
		p := Field{Name: r.Name(), Type: s.valueType(r)}
		f.Params = append(f.Params, p)
		if flat += p.Type.flat; flat > maxFlat {
			r.Fail("parameters of more than %d values", maxFlat)
			return f
		}
	}
	switch r.Byte() {
	case 0:
		f.Result = s.valueType(r)
	case 1:
		if r.Byte() != 0 {
			r.Fail("several results are not supported")
		}
	default:
		r.Fail("results of unknown form")
	}
	return f
}

// instanceType takes the type of an instance.
func (s *scope) instanceType(r *core.Reader) *interfaceType {
	in := &scope{l: s.l, kind: ofType, outer: s, reach: s.sizes()}
	t := &interfaceType{exports: make(map[string]entry)}
	s.l.depth++
	defer func() { s.l.depth-- }()
	if s.l.depth > maxNesting {
		r.Fail("types nested more than %d deep", maxNesting)
		return t
	}
	for range s.l.count(r, 2) {
		if in.declaration(r, t); r.Err() != nil {
			return t
		}
	}
	return t
}

// declaration takes one line of an instance's type.
func (s *scope) declaration(r *core.Reader, t *interfaceType) {
	switch c := r.Byte(); c {
	case 0:
		r.Fail("core types are not supported")
	case 1:
		s.defineType(r)
	case 2:
		s.alias(r)
	case 4:
		name := nameOf(r)
		e := s.description(r, name)
		if r.Err() != nil {
			return
		}
		if _, twice := t.exports[name]; twice {
			r.Fail("two exports named %.64q", name)
			return
		}
		t.exports[name] = e
		t.order = append(t.order, name)
		s.add(r, e.sort, described(e))
	default:
		r.Fail("unknown declaration %#x", c)
	}
}

// described is what stands in an index space for something that is only
// described. Within a type nothing but types can be used.
func described(e entry) any {
	if e.sort == typ {
		return e.v
	}
	return opaque{"only described"}
}

// skipComponentType passes over the type of a component. What can be done with
// one is not supported, but it may be written down.
func (s *scope) skipComponentType(r *core.Reader) {
	in := &scope{l: s.l, kind: ofType, outer: s, reach: s.sizes()}
	s.l.depth++
	defer func() { s.l.depth-- }()
	if s.l.depth > maxNesting {
		r.Fail("types nested more than %d deep", maxNesting)
		return
	}
	exports := &interfaceType{exports: make(map[string]entry)}
	for range s.l.count(r, 2) {
		if r.Peek() == 3 {
			r.Byte()
			e := in.description(r, nameOf(r))
			if r.Err() == nil {
				in.add(r, e.sort, described(e))
			}
		} else {
			in.declaration(r, exports)
		}
		if r.Err() != nil {
			return
		}
	}
}

// description takes what an import or export is said to be: for a function its
// *FuncType, for an instance its *interfaceType, for a type the type itself.
// name is the resource's, if it is one.
func (s *scope) description(r *core.Reader, name string) entry {
	switch c := r.Byte(); c {
	case 0:
		r.Byte()
		r.U32()
		r.Fail("core modules as imports or exports are not supported")
	case 1:
		return entry{function, get[*FuncType](s, r, typ, r.U32(), "the type of a function")}
	case 2:
		r.Fail("values are not supported")
	case 3:
		switch r.Byte() {
		case 0:
			return entry{typ, s.at(r, typ, r.U32())}
		case 1:
			return entry{typ, &Resource{Name: name}}
		default:
			r.Fail("a type of unknown bounds")
		}
	case 4:
		r.U32()
		return entry{componentSort, opaque{"a component that is imported"}}
	case 5:
		return entry{instance, get[*interfaceType](s, r, typ, r.U32(), "the type of an instance")}
	default:
		r.Fail("unknown description %#x", c)
	}
	return entry{}
}
