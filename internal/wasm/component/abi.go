package component

import "sluice/internal/wasm/core"

// How many core values parameters and results may be before they are passed
// through memory (CanonicalABI.md, "Flattening").
const (
	MaxFlatParams  = 16
	MaxFlatResults = 1
)

// Flat returns the core types that a value of type t becomes.
func (t *Type) Flat() []core.ValType { return t.appendFlat(nil) }

func (t *Type) appendFlat(ts []core.ValType) []core.ValType {
	switch t.Kind {
	case S64, U64:
		return append(ts, core.I64)
	case F32:
		return append(ts, core.F32)
	case F64:
		return append(ts, core.F64)
	case String, List:
		return append(ts, core.I32, core.I32)
	case Record, Tuple:
		for _, f := range t.Fields {
			ts = f.Type.appendFlat(ts)
		}
		return ts
	case Variant, Enum, Option, Result:
		return t.appendVariant(append(ts, core.I32))
	}
	return append(ts, core.I32)
}

// appendVariant appends what the cases become, each value of the type that can
// hold that of any case.
func (t *Type) appendVariant(ts []core.ValType) []core.ValType {
	at := len(ts)
	for _, c := range t.Cases {
		if c.Type == nil {
			continue
		}
		for i, v := range c.Type.Flat() {
			if at+i == len(ts) {
				ts = append(ts, v)
			} else {
				ts[at+i] = join(ts[at+i], v)
			}
		}
	}
	return ts
}

func join(a, b core.ValType) core.ValType {
	switch {
	case a == b:
		return a
	case a == core.I32 && b == core.F32, a == core.F32 && b == core.I32:
		return core.I32
	}
	return core.I64
}

// Core returns the type of the core function that lifts to f, or that f is
// lowered to.
func (f *FuncType) Core(lower bool) *core.FuncType {
	var c core.FuncType
	flat := 0
	for _, p := range f.Params {
		flat += p.Type.flat
	}
	if flat > MaxFlatParams {
		c.Params = []core.ValType{core.I32}
	} else {
		for _, p := range f.Params {
			c.Params = p.Type.appendFlat(c.Params)
		}
	}
	switch {
	case f.Result == nil:
	case f.Result.flat <= MaxFlatResults:
		c.Results = f.Result.Flat()
	case lower:
		c.Params = append(c.Params, core.I32)
	default:
		c.Results = []core.ValType{core.I32}
	}
	return &c
}

// UsesMemory reports whether values of f pass through memory, and whether the
// callee has to be given some.
func (f *FuncType) UsesMemory() (memory, realloc bool) {
	flat := 0
	for _, p := range f.Params {
		flat += p.Type.flat
		if p.Type.hasPointer() {
			memory, realloc = true, true
		}
	}
	if flat > MaxFlatParams {
		memory, realloc = true, true
	}
	if f.Result != nil && (f.Result.flat > MaxFlatResults || f.Result.hasPointer()) {
		memory = true
	}
	return memory, realloc
}

// hasPointer reports whether a value holds addresses.
func (t *Type) hasPointer() bool {
	if t == nil {
		return false
	}
	if t.Kind == String || t.Kind == List {
		return true
	}
	for _, fs := range [][]Field{t.Fields, t.Cases} {
		for _, f := range fs {
			if f.Type.hasPointer() {
				return true
			}
		}
	}
	return false
}

// coreType is the type that a builtin has.
func (b *Builtin) coreType() *core.FuncType {
	i32 := []core.ValType{core.I32}
	switch b.Op {
	case Lower:
		return b.Func.Type.Core(true)
	case ResourceDrop:
		return &core.FuncType{Params: i32}
	}
	return &core.FuncType{Params: i32, Results: i32}
}
