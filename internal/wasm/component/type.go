package component

import (
	"fmt"
	"strings"
)

// A Kind is a form of value type.
type Kind byte

// The forms of value types (Component Model, Explainer, "Type definitions").
const (
	Bool Kind = iota + 1
	S8
	U8
	S16
	U16
	S32
	U32
	S64
	U64
	F32
	F64
	Char
	String
	List
	Record
	Tuple
	Variant
	Enum
	Option
	Result
	Flags
	Own
	Borrow
)

var kindNames = [...]string{
	Bool: "bool", S8: "s8", U8: "u8", S16: "s16", U16: "u16", S32: "s32", U32: "u32", S64: "s64", U64: "u64", F32: "f32", F64: "f64",
	Char: "char", String: "string", List: "list", Record: "record", Tuple: "tuple", Variant: "variant", Enum: "enum", Option: "option",
	Result: "result", Flags: "flags", Own: "own", Borrow: "borrow",
}

// A Type is a value type. It is not written to once it is made.
//
// Elem is the element of a list, and what an option holds. Fields are those of a
// record, and of a tuple without names. Cases are those of a variant, of an enum
// without types, of a result "ok" and "error", of an option "none" and "some";
// and the labels of flags.
type Type struct {
	Kind     Kind
	Elem     *Type
	Fields   []Field
	Cases    []Field
	Resource *Resource // of own and borrow

	size, align uint32
	flat        int // core values it becomes, at most maxFlat + 1
	depth       int
	nodes       int // types that it consists of, those that are shared once for each time
}

// A Field is a named type: of a record, a parameter, or a case. Type is nil for
// a case that carries nothing.
type Field struct {
	Name string
	Type *Type
}

// A Resource is a type of handles. Two are the same if their pointers are.
type Resource struct {
	Name string // of an imported one "interface#name", "" if the component defines it
	Dtor *Item  // core function to be called when the last handle is dropped, nil for none

	owner *scope // that defines it, nil for an imported one
}

// A FuncType is the type of a function. Result is nil if it returns nothing.
type FuncType struct {
	Params []Field
	Result *Type
}

// Bounds of types. What guests have is far below; a type is a graph whose parts
// may be shared, so that a small binary could write down a huge one.
const (
	maxFlat  = 1 << 10
	maxDepth = 64
	maxNodes = 1 << 12
	maxSize  = 1 << 20 // bytes of a value in memory, lists' elements not counted
)

// Size is how many bytes a value has in memory.
func (t *Type) Size() uint32 { return t.size }

// Align is what the address of a value in memory is a multiple of.
func (t *Type) Align() uint32 { return t.align }

// primitives are the types without parts.
var primitives = func() (ts [String + 1]*Type) {
	sizes := [...]uint32{Bool: 1, S8: 1, U8: 1, S16: 2, U16: 2, S32: 4, U32: 4, S64: 8, U64: 8, F32: 4, F64: 8, Char: 4, String: 8}
	for k := Bool; k <= String; k++ {
		t := &Type{Kind: k, size: sizes[k], align: sizes[k], flat: 1, nodes: 1}
		if k == String {
			t.align, t.flat = 4, 2
		}
		ts[k] = t
	}
	return ts
}()

// seal works out what t's parts say of t, or reports that there is too much of
// it.
func (t *Type) seal() error {
	t.nodes = 1
	switch t.Kind {
	case List:
		t.size, t.align, t.flat = 8, 4, 2
		t.depth, t.nodes = t.Elem.depth+1, t.Elem.nodes+1
	case Record, Tuple:
		t.sealRecord()
	case Variant, Enum, Option, Result:
		t.sealVariant()
	case Flags:
		switch n := len(t.Cases); {
		case n == 0 || n > 32:
			return fmt.Errorf("%d flags; want 1 to 32", n)
		case n <= 8:
			t.size = 1
		case n <= 16:
			t.size = 2
		default:
			t.size = 4
		}
		t.align, t.flat = t.size, 1
	case Own, Borrow:
		t.size, t.align, t.flat = 4, 4, 1
	}
	switch {
	case t.nodes > maxNodes:
		return fmt.Errorf("a type of more than %d parts", maxNodes)
	case t.depth > maxDepth:
		return fmt.Errorf("a type of more than %d levels", maxDepth)
	case t.size > maxSize:
		return fmt.Errorf("a type of more than %d bytes", maxSize)
	case t.flat > maxFlat:
		return fmt.Errorf("a type of more than %d values", maxFlat)
	}
	return nil
}

func (t *Type) sealRecord() {
	t.align = 1
	for _, f := range t.Fields {
		t.align = max(t.align, f.Type.align)
		t.size = min(alignTo(t.size, f.Type.align)+f.Type.size, maxSize+1)
		t.flat = min(t.flat+f.Type.flat, maxFlat+1)
		t.depth = max(t.depth, f.Type.depth+1)
		t.nodes = min(t.nodes+f.Type.nodes, maxNodes+1)
	}
	t.size = alignTo(t.size, t.align)
}

func (t *Type) sealVariant() {
	t.align = tagSize(len(t.Cases))
	var size uint32
	for _, c := range t.Cases {
		if c.Type == nil {
			continue
		}
		t.align = max(t.align, c.Type.align)
		size = max(size, c.Type.size)
		t.flat = max(t.flat, c.Type.flat)
		t.depth = max(t.depth, c.Type.depth+1)
		t.nodes = min(t.nodes+c.Type.nodes, maxNodes+1)
	}
	t.flat++
	t.size = min(alignTo(t.Payload()+size, t.align), maxSize+1)
}

// Payload is where the value of a variant's case stands, after its tag.
func (t *Type) Payload() uint32 {
	at := tagSize(len(t.Cases))
	var align uint32 = 1
	for _, c := range t.Cases {
		if c.Type != nil {
			align = max(align, c.Type.align)
		}
	}
	return alignTo(at, align)
}

// TagSize is how many bytes the tag of a variant has.
func (t *Type) TagSize() uint32 { return tagSize(len(t.Cases)) }

func tagSize(cases int) uint32 {
	switch {
	case cases <= 1<<8:
		return 1
	case cases <= 1<<16:
		return 2
	}
	return 4
}

func alignTo(n, align uint32) uint32 { return (n + align - 1) / align * align }

// Equal reports whether a and b are the same type: of the same form, with the
// same names. Handles are the same if their resources have the same name.
func Equal(a, b *Type) bool {
	if a == b {
		return true
	}
	if a == nil || b == nil || a.Kind != b.Kind || a.size != b.size || a.flat != b.flat || a.depth != b.depth {
		return false
	}
	if a.Resource != b.Resource && (a.Resource == nil || b.Resource == nil || a.Resource.Name != b.Resource.Name || a.Resource.Name == "") {
		return false
	}
	return Equal(a.Elem, b.Elem) && equalFields(a.Fields, b.Fields) && equalFields(a.Cases, b.Cases)
}

func equalFields(a, b []Field) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Name != b[i].Name || !Equal(a[i].Type, b[i].Type) {
			return false
		}
	}
	return true
}

// Equal reports whether a and b take and return the same, by the same names.
func (a *FuncType) Equal(b *FuncType) bool {
	return equalFields(a.Params, b.Params) && Equal(a.Result, b.Result)
}

// String is the type as WIT has it, cut short if it is long.
func (t *Type) String() string {
	var s strings.Builder
	t.write(&s, 0)
	return s.String()
}

const longestType = 200

func (t *Type) write(s *strings.Builder, depth int) {
	if t == nil {
		s.WriteString("_")
		return
	}
	if s.Len() > longestType || depth > maxDepth {
		s.WriteString("…")
		return
	}
	s.WriteString(kindNames[t.Kind])
	fields := func(fs []Field) {
		s.WriteString(" { ")
		for i, f := range fs {
			if s.Len() > longestType {
				s.WriteString("…")
				break
			}
			if i > 0 {
				s.WriteString(", ")
			}
			s.WriteString(f.Name)
			if f.Type != nil {
				if f.Name != "" {
					s.WriteString(": ")
				}
				f.Type.write(s, depth+1)
			}
		}
		s.WriteString(" }")
	}
	switch t.Kind {
	case List, Option:
		s.WriteString("<")
		t.Elem.write(s, depth+1)
		s.WriteString(">")
	case Record, Tuple:
		fields(t.Fields)
	case Variant, Enum, Flags, Result:
		fields(t.Cases)
	case Own, Borrow:
		s.WriteString("<" + t.Resource.Name + ">")
	}
}

// String is the type as WIT has it.
func (f *FuncType) String() string {
	var s strings.Builder
	s.WriteString("func(")
	for i, p := range f.Params {
		if i > 0 {
			s.WriteString(", ")
		}
		s.WriteString(p.Name + ": " + p.Type.String())
	}
	s.WriteString(")")
	if f.Result != nil {
		s.WriteString(" -> " + f.Result.String())
	}
	return s.String()
}

// NewType completes a type that is written down in Go: its Kind and its parts.
// It panics if that is no type.
func NewType(t Type) *Type {
	if t.Kind <= String {
		return primitives[t.Kind]
	}
	if t.Kind == Option {
		t.Cases = []Field{{Name: "none"}, {Name: "some", Type: t.Elem}}
	}
	if err := t.seal(); err != nil {
		panic("BUG: " + err.Error())
	}
	return &t
}
